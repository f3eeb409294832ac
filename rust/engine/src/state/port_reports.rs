//! Reports about service ports: conflicts between claims, and the view of UDP frontends.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use hashbrown::HashMap;

use crate::input::problem::{Problem, ProblemKind};
use crate::model::claims::{Claim, ClaimPriority, Claimant, Resource};
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
        self.claims.contested().flat_map(|resource| self.conflicts_on(resource))
    }

    /// The resources whose conflicts may have changed since the last call.
    pub(crate) fn take_contest_changes(&mut self) -> BTreeSet<Resource> {
        self.claims.take_contest_changes()
    }

    /// Ports that another port keeps from a resource, as of the last plan.
    pub(crate) fn conflicts_on(&self, resource: Resource) -> impl Iterator<Item = Problem> {
        let mut claimants = self.claims.claimants(resource).iter();
        let owner = claimants.next();
        let losers = claimants.filter(move |loser| owner.is_some_and(|owner| owner.port != loser.port));
        losers.filter_map(move |loser| self.conflict(resource, owner?, loser))
    }

    fn conflict(&self, resource: Resource, owner: &Claimant, loser: &Claimant) -> Option<Problem> {
        let value = match resource {
            Resource::Frontend(Claim::Address(ip, protocol, port)) => {
                format!("{} {}", SocketAddr::new(ip, port), protocol.name())
            }
            Resource::Frontend(Claim::NodePort(protocol, port)) => format!("{port} {}", protocol.name()),
            Resource::HealthCheckPort(port) => port.to_string(),
        };
        let field = match loser.rank.priority {
            ClaimPriority::ClusterIp => "spec.clusterIPs",
            ClaimPriority::LoadBalancer => "status.loadBalancer.ingress",
            ClaimPriority::External => "spec.externalIPs",
            ClaimPriority::NodePort => "spec.ports[].nodePort",
            ClaimPriority::HealthCheckPort => "spec.healthCheckNodePort",
        };
        let key = &self.states.get(&loser.port)?.key;
        let (owner_name, loser_name, lacks) = match resource {
            Resource::Frontend(_) => (owner.port.as_str(), loser.port.as_str(), "rule for"),
            Resource::HealthCheckPort(_) => (&*self.states.get(&owner.port)?.key, &**key, "listener on"),
        };
        let since = owner.rank.created;
        Some(Problem {
            object: format!("Service {key}"),
            field: field.into(),
            value,
            reason: format!("already belongs to {owner_name} ({since}): {loser_name} has no {lacks} it").into(),
            kind: ProblemKind::Conflict,
        })
    }

    /// Returns whether another Service owns a health check node port that `service` claims, as of the last plan.
    pub(crate) fn loses_health_check(&self, service: &str, port: u16) -> bool {
        let owner = self.claims.owner(Resource::HealthCheckPort(port)).and_then(|owner| self.states.get(owner));
        owner.is_some_and(|owner| *owner.key != *service)
    }
}
