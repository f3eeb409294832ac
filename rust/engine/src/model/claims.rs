//! Resolves ownership of what several Services claim: an address and port, a node port, a health check node port.
//!
//! With two rules for one destination the first in the chain would win, so the result would depend on the order of
//! writing. Here the owner is a pure function of the objects: a cluster IP beats a load-balancer IP, which beats an
//! external IP (so that a Service cannot take over another's cluster IP by listing it as external). Among claims of
//! one kind the Service that was created first wins, so that a new Service cannot take over what a live one uses, then
//! the first service port by name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hashbrown::HashMap;

use crate::input::created::Created;
use crate::model::names::{PortName, Protocol};

/// An address and port, or a port on every local address, that rules match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Claim {
    Address(IpAddr, Protocol, u16),
    NodePort(Protocol, u16),
}

/// What only one service port can own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Resource {
    Frontend(Claim),
    /// Claimed by the first port of a Service on behalf of all.
    HealthCheckPort(u16),
}

impl From<Claim> for Resource {
    fn from(claim: Claim) -> Self {
        Self::Frontend(claim)
    }
}

/// The kind of a claim; earlier variants win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClaimPriority {
    ClusterIp,
    LoadBalancer,
    External,
    NodePort,
    HealthCheckPort,
}

/// The precedence of a claim among claims to the same resource; the least wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) priority: ClaimPriority,
    pub(crate) created: Created,
}

/// A service port that claims a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claimant {
    pub(crate) rank: Rank,
    pub(crate) port: PortName,
}

/// The claimants of one resource. Nearly every claim has one claimant, so a list is allocated only on a conflict.
#[derive(Clone, Debug)]
enum Claimants {
    One(Claimant),
    /// Sorted; the first claimant is the owner.
    Several(Vec<Claimant>),
}

/// All claims of one family.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_resource: HashMap<Resource, Claimants>,
    /// Resources with more than one claimant.
    contested: BTreeSet<Resource>,
    /// Resources that were or are contested and whose claimants changed since the last report.
    contest_changes: BTreeSet<Resource>,
}

impl Claims {
    /// Adds a claim. Returns the displaced owner, if any.
    pub(crate) fn add(&mut self, resource: Resource, rank: Rank, port: &PortName) -> Option<PortName> {
        let new = Claimant { rank, port: port.clone() };
        match self.by_resource.get_mut(&resource) {
            None => {
                self.by_resource.insert(resource, Claimants::One(new));
                None
            }
            Some(Claimants::One(old)) if *old == new => None,
            Some(slot @ Claimants::One(_)) => {
                let Claimants::One(old) = slot.clone() else { return None };
                let displaced = (new < old && new.port != old.port).then(|| old.port.clone());
                let mut both = vec![old, new];
                both.sort_unstable();
                self.contested.insert(resource);
                self.contest_changes.insert(resource);
                *slot = Claimants::Several(both);
                displaced
            }
            Some(Claimants::Several(list)) => {
                let at = list.binary_search(&new).err()?;
                let owner = list[0].port.clone();
                list.insert(at, new);
                self.contest_changes.insert(resource);
                (list[0].port != owner).then_some(owner)
            }
        }
    }

    /// Removes a claim. Returns the port that becomes the owner, if any.
    pub(crate) fn remove(&mut self, resource: Resource, rank: Rank, port: &PortName) -> Option<PortName> {
        let old = Claimant { rank, port: port.clone() };
        match self.by_resource.get_mut(&resource)? {
            Claimants::One(only) => {
                if *only == old {
                    self.by_resource.remove(&resource);
                }
                None
            }
            slot @ Claimants::Several(_) => {
                let Claimants::Several(list) = slot else { return None };
                let at = list.binary_search(&old).ok()?;
                list.remove(at);
                self.contest_changes.insert(resource);
                let successor = list[0].port.clone();
                if list.len() == 1 {
                    *slot = Claimants::One(list.remove(0));
                    self.contested.remove(&resource);
                }
                (at == 0 && successor != *port).then_some(successor)
            }
        }
    }

    /// Iterates over the resources with more than one claimant.
    pub(crate) fn contested(&self) -> impl Iterator<Item = Resource> {
        self.contested.iter().copied()
    }

    /// Takes the resources whose conflicts may have changed since the last call.
    pub(crate) fn take_contest_changes(&mut self) -> BTreeSet<Resource> {
        std::mem::take(&mut self.contest_changes)
    }

    /// Returns a resource's claimants, the owner first. A port that claims it twice comes twice.
    pub(crate) fn claimants(&self, resource: Resource) -> &[Claimant] {
        match self.by_resource.get(&resource) {
            None => &[],
            Some(Claimants::One(only)) => std::slice::from_ref(only),
            Some(Claimants::Several(list)) => list,
        }
    }

    /// Returns the owner of a resource, if any.
    pub(crate) fn owner(&self, resource: Resource) -> Option<&PortName> {
        self.claimants(resource).first().map(|owner| &owner.port)
    }

    /// Returns whether `port` owns the address or node port and may have rules for it.
    pub(crate) fn owns(&self, claim: Claim, port: &PortName) -> bool {
        self.owner(claim.into()) == Some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str) -> PortName {
        PortName::new(name, "", Protocol::Tcp)
    }

    /// A rank whose Service was created in this year; 0: at an unknown time.
    fn rank(priority: ClaimPriority, year: u32) -> Rank {
        let raw = serde_json::value::to_raw_value(&format!("{year}-01-01T00:00:00Z")).unwrap();
        let created = if year == 0 { Created::UNKNOWN } else { Created::read(Some(&raw)) };
        Rank { priority, created }
    }

    const CLAIM: Claim = Claim::NodePort(Protocol::Tcp, 80);
    const RESOURCE: Resource = Resource::Frontend(CLAIM);

    #[test]
    fn the_owner_does_not_depend_on_the_order_of_arrival() {
        let claimants = [
            (rank(ClaimPriority::External, 2020), "a/a"),
            (rank(ClaimPriority::ClusterIp, 0), "b/b"),
            (rank(ClaimPriority::ClusterIp, 2025), "c/c"),
            (rank(ClaimPriority::ClusterIp, 2025), "d/d"),
            (rank(ClaimPriority::ClusterIp, 2024), "z/z"),
            (rank(ClaimPriority::LoadBalancer, 2021), "e/e"),
        ];
        for start in 0..claimants.len() {
            let mut claims = Claims::default();
            for i in 0..claimants.len() {
                let (rank, name) = claimants[(start + i) % claimants.len()];
                claims.add(RESOURCE, rank, &port(name));
            }
            let mut order = Vec::new();
            while let Some(owner) = claims.owner(RESOURCE).cloned() {
                let rank = claimants.iter().find(|c| port(c.1) == owner).unwrap().0;
                order.push(owner.as_str().to_owned());
                let successor = claims.remove(RESOURCE, rank, &owner);
                assert_eq!(successor.as_ref(), claims.owner(RESOURCE));
            }
            assert_eq!(order, ["z/z", "c/c", "d/d", "b/b", "e/e", "a/a"]);
        }
    }

    #[test]
    fn displacement_is_reported_and_repetition_is_not() {
        let (mut claims, rank) = (Claims::default(), |year| rank(ClaimPriority::NodePort, year));
        assert_eq!(claims.add(RESOURCE, rank(0), &port("b/b")), None);
        assert_eq!(claims.add(RESOURCE, rank(0), &port("b/b")), None);
        assert_eq!(claims.add(RESOURCE, rank(0), &port("c/c")), None);
        assert_eq!(claims.add(RESOURCE, rank(0), &port("a/a")), Some(port("b/b")));
        assert_eq!(claims.add(RESOURCE, rank(2025), &port("z/z")), Some(port("a/a")));
        assert_eq!(claims.remove(RESOURCE, rank(2025), &port("z/z")), Some(port("a/a")));
        assert_eq!(claims.remove(RESOURCE, rank(0), &port("a/a")), Some(port("b/b")));
        assert_eq!(claims.remove(RESOURCE, rank(0), &port("a/a")), None);
    }

    #[test]
    fn one_port_may_claim_the_same_thing_twice() {
        let (mut claims, rank) = (Claims::default(), |priority| rank(priority, 2025));
        claims.add(RESOURCE, rank(ClaimPriority::External), &port("a/a"));
        assert_eq!(claims.add(RESOURCE, rank(ClaimPriority::LoadBalancer), &port("a/a")), None);
        assert_eq!(claims.remove(RESOURCE, rank(ClaimPriority::LoadBalancer), &port("a/a")), None);
        assert!(claims.owns(CLAIM, &port("a/a")));
        assert_eq!(claims.contested().count(), 0);
    }

    #[test]
    fn a_port_that_claims_twice_with_different_priorities_displaces_no_other() {
        let mut claims = Claims::default();
        claims.add(RESOURCE, rank(ClaimPriority::External, 2025), &port("b/b"));
        assert_eq!(
            claims.add(RESOURCE, rank(ClaimPriority::LoadBalancer, 2025), &port("b/b")),
            None,
            "it owned the claim before"
        );
        assert_eq!(claims.add(RESOURCE, rank(ClaimPriority::LoadBalancer, 2025), &port("a/a")), Some(port("b/b")));
    }

    #[test]
    fn the_second_claimant_displaces_the_first_only_by_priority() {
        for (first, second, displaced) in [
            (ClaimPriority::External, ClaimPriority::LoadBalancer, Some(port("b/b"))),
            (ClaimPriority::LoadBalancer, ClaimPriority::External, None),
        ] {
            let mut claims = Claims::default();
            claims.add(RESOURCE, rank(first, 2025), &port("b/b"));
            assert_eq!(claims.add(RESOURCE, rank(second, 2025), &port("c/c")), displaced);
        }
    }

    #[test]
    fn contested_claims_are_counted_until_one_claimant_is_left() {
        let mut claims = Claims::default();
        claims.add(RESOURCE, rank(ClaimPriority::NodePort, 2025), &port("a/a"));
        claims.add(RESOURCE, rank(ClaimPriority::NodePort, 2025), &port("a/a"));
        assert!(claims.contested().next().is_none(), "a repetition is not a second claimant");
        claims.add(RESOURCE, rank(ClaimPriority::NodePort, 2025), &port("b/b"));
        claims.add(RESOURCE, rank(ClaimPriority::NodePort, 2025), &port("c/c"));
        assert!(claims.contested().eq([RESOURCE]));
        claims.remove(RESOURCE, rank(ClaimPriority::NodePort, 2025), &port("c/c"));
        assert!(claims.contested().eq([RESOURCE]));
        claims.remove(RESOURCE, rank(ClaimPriority::NodePort, 2025), &port("b/b"));
        assert!(claims.contested().next().is_none());
    }

    #[test]
    fn only_the_owner_owns() {
        let mut claims = Claims::default();
        assert!(!claims.owns(CLAIM, &port("a/a")), "nothing was claimed");
        claims.add(RESOURCE, rank(ClaimPriority::NodePort, 2025), &port("a/a"));
        claims.add(RESOURCE, rank(ClaimPriority::NodePort, 2025), &port("b/b"));
        assert!(claims.owns(CLAIM, &port("a/a")));
        assert!(!claims.owns(CLAIM, &port("b/b")));
        claims.remove(RESOURCE, rank(ClaimPriority::NodePort, 2025), &port("c/c"));
        assert!(claims.owns(CLAIM, &port("a/a")), "a claim that was never made is not removed");
    }
}
