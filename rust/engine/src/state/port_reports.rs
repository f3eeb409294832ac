//! Reports about service ports: conflicts between claims, and the view of UDP frontends.

use std::net::SocketAddr;

use hashbrown::HashMap;

use crate::input::problem::{Problem, ProblemKind};
use crate::model::claims::{Claim, ClaimPriority};
use crate::netlink::conntrack::{NodeAddresses, View};
use crate::state::ports::{Ports, claims_of};

impl Ports {
    /// Returns every address and port that UDP service ports own, with the endpoints that may answer there, as of the
    /// last plan.
    pub(crate) fn udp_view(&mut self, node: NodeAddresses) -> View {
        self.udp_changed = false;
        let (mut addresses, mut node_ports) = (HashMap::new(), HashMap::new());
        for name in &self.udp {
            let Some(state) = self.states.get(name) else { continue };
            let Some(serving) = &state.serving else { continue };
            for (claim, _) in claims_of(self.family, &state.service, state.port()) {
                match claim {
                    _ if !self.claims.owns(claim, name) => {}
                    Claim::Address(ip, _, port) => _ = addresses.insert(SocketAddr::new(ip, port), serving.clone()),
                    Claim::NodePort(_, port) => _ = node_ports.insert(port, serving.clone()),
                }
            }
        }
        View::new(self.family, addresses, node_ports, node)
    }

    /// Returns the ports that lost an address to another port, as of the last plan.
    pub(crate) fn conflicts(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        if self.claims.all_uncontested() {
            return found;
        }
        for (name, state) in &self.states {
            for (claim, priority) in claims_of(self.family, &state.service, state.port()) {
                let Some(owner) = self.claims.owner(claim).filter(|owner| *owner != name) else { continue };
                let value = match claim {
                    Claim::Address(ip, protocol, port) => {
                        format!("{} {}", SocketAddr::new(ip, port), protocol.name())
                    }
                    Claim::NodePort(protocol, port) => format!("{port} {}", protocol.name()),
                };
                let field = match priority {
                    ClaimPriority::ClusterIp => "spec.clusterIPs",
                    ClaimPriority::LoadBalancer => "status.loadBalancer.ingress",
                    ClaimPriority::External => "spec.externalIPs",
                    ClaimPriority::NodePort => "spec.ports[].nodePort",
                };
                found.push(Problem {
                    object: format!("Service {}", state.key),
                    field: field.into(),
                    value,
                    reason: format!("already belongs to {}: {} has no rule for it", owner.as_str(), name.as_str())
                        .into(),
                    kind: ProblemKind::Conflict,
                });
            }
        }
        found
    }
}
