//! Reports about service ports: conflicts between claims, and the view of UDP frontends.

use std::collections::BTreeSet;
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

    /// Every conflict, as of the last plan.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = Problem> {
        self.claims.contested().flat_map(|claim| self.conflicts_on(claim))
    }

    /// The claims whose conflicts may have changed since the last call.
    pub(crate) fn take_contest_changes(&mut self) -> BTreeSet<Claim> {
        self.claims.take_contest_changes()
    }

    /// Ports that another port keeps from an address, as of the last plan.
    pub(crate) fn conflicts_on(&self, claim: Claim) -> impl Iterator<Item = Problem> {
        let mut claimants = self.claims.claimants(claim);
        let owner = claimants.next().map(|(_, owner)| owner);
        let losers = claimants.filter(move |(_, name)| owner != Some(name));
        losers.filter_map(move |(priority, name)| {
            let value = match claim {
                Claim::Address(ip, protocol, port) => format!("{} {}", SocketAddr::new(ip, port), protocol.name()),
                Claim::NodePort(protocol, port) => format!("{port} {}", protocol.name()),
            };
            let field = match priority {
                ClaimPriority::ClusterIp => "spec.clusterIPs",
                ClaimPriority::LoadBalancer => "status.loadBalancer.ingress",
                ClaimPriority::External => "spec.externalIPs",
                ClaimPriority::NodePort => "spec.ports[].nodePort",
            };
            Some(Problem {
                object: format!("Service {}", self.states.get(name)?.key),
                field: field.into(),
                value,
                reason: format!("already belongs to {}: {} has no rule for it", owner?.as_str(), name.as_str()).into(),
                kind: ProblemKind::Conflict,
            })
        })
    }
}
