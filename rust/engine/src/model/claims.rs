//! Resolves ownership of an address and port that several Services claim.
//!
//! With two rules for one destination the first in the chain would win, so the result would depend on the order of
//! writing. Here the owner is a pure function of the objects: a cluster IP beats a load-balancer IP, which beats an
//! external IP (so that a Service cannot take over another's cluster IP by listing it as external), then the first
//! service port by name wins.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hashbrown::HashMap;

use crate::model::names::{PortName, Protocol};

/// A resource that only one service port can own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Claim {
    Address(IpAddr, Protocol, u16),
    NodePort(Protocol, u16),
}

/// The priority of a claim to an address; earlier variants win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClaimPriority {
    ClusterIp,
    LoadBalancer,
    External,
    NodePort,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    priority: ClaimPriority,
    port: PortName,
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
    by_claim: HashMap<Claim, Claimants>,
    /// Claims with more than one claimant.
    contested: BTreeSet<Claim>,
    /// Claims that were or are contested and whose claimants changed since the last report.
    contest_changes: BTreeSet<Claim>,
}

impl Claims {
    /// Adds a claim. Returns the displaced owner, if any.
    pub(crate) fn add(&mut self, claim: Claim, priority: ClaimPriority, port: &PortName) -> Option<PortName> {
        let new = Claimant { priority, port: port.clone() };
        match self.by_claim.get_mut(&claim) {
            None => {
                self.by_claim.insert(claim, Claimants::One(new));
                None
            }
            Some(Claimants::One(old)) if *old == new => None,
            Some(slot @ Claimants::One(_)) => {
                let Claimants::One(old) = slot.clone() else { return None };
                let displaced = (new < old && new.port != old.port).then(|| old.port.clone());
                let mut both = vec![old, new];
                both.sort_unstable();
                self.contested.insert(claim);
                self.contest_changes.insert(claim);
                *slot = Claimants::Several(both);
                displaced
            }
            Some(Claimants::Several(list)) => {
                let at = list.binary_search(&new).err()?;
                let owner = list[0].port.clone();
                list.insert(at, new);
                self.contest_changes.insert(claim);
                (list[0].port != owner).then_some(owner)
            }
        }
    }

    /// Removes a claim. Returns the port that becomes the owner, if any.
    pub(crate) fn remove(&mut self, claim: Claim, priority: ClaimPriority, port: &PortName) -> Option<PortName> {
        let old = Claimant { priority, port: port.clone() };
        match self.by_claim.get_mut(&claim)? {
            Claimants::One(only) => {
                if *only == old {
                    self.by_claim.remove(&claim);
                }
                None
            }
            slot @ Claimants::Several(_) => {
                let Claimants::Several(list) = slot else { return None };
                let at = list.binary_search(&old).ok()?;
                list.remove(at);
                self.contest_changes.insert(claim);
                let successor = list[0].port.clone();
                if list.len() == 1 {
                    *slot = Claimants::One(list.remove(0));
                    self.contested.remove(&claim);
                }
                (at == 0 && successor != *port).then_some(successor)
            }
        }
    }

    /// Iterates over the claims with more than one claimant.
    pub(crate) fn contested(&self) -> impl Iterator<Item = Claim> {
        self.contested.iter().copied()
    }

    /// Takes the claims whose conflicts may have changed since the last call.
    pub(crate) fn take_contest_changes(&mut self) -> BTreeSet<Claim> {
        std::mem::take(&mut self.contest_changes)
    }

    /// Iterates over a claim's claimants, the owner first. A port that claims it twice comes twice.
    pub(crate) fn claimants(&self, claim: Claim) -> impl Iterator<Item = (ClaimPriority, &PortName)> {
        let all = match self.by_claim.get(&claim) {
            None => &[],
            Some(Claimants::One(only)) => std::slice::from_ref(only),
            Some(Claimants::Several(list)) => list.as_slice(),
        };
        all.iter().map(|c| (c.priority, &c.port))
    }

    /// Returns the owner of a claimed resource, if any.
    pub(crate) fn owner(&self, claim: Claim) -> Option<&PortName> {
        match self.by_claim.get(&claim)? {
            Claimants::One(only) => Some(&only.port),
            Claimants::Several(list) => list.first().map(|c| &c.port),
        }
    }

    /// Returns whether `port` owns the resource and may have rules for it.
    pub(crate) fn owns(&self, claim: Claim, port: &PortName) -> bool {
        self.owner(claim) == Some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str) -> PortName {
        PortName::new(name, "", Protocol::Tcp)
    }

    const CLAIM: Claim = Claim::NodePort(Protocol::Tcp, 80);

    #[test]
    fn the_owner_does_not_depend_on_the_order_of_arrival() {
        let claimants = [
            (ClaimPriority::External, "a/a"),
            (ClaimPriority::ClusterIp, "z/z"),
            (ClaimPriority::ClusterIp, "y/y"),
            (ClaimPriority::LoadBalancer, "b/b"),
        ];
        for start in 0..claimants.len() {
            let mut claims = Claims::default();
            for i in 0..claimants.len() {
                let (priority, name) = claimants[(start + i) % claimants.len()];
                claims.add(CLAIM, priority, &port(name));
            }
            let mut order = Vec::new();
            while let Some(owner) = claims.owner(CLAIM).cloned() {
                let priority = claimants.iter().find(|c| port(c.1) == owner).unwrap().0;
                order.push(owner.as_str().to_owned());
                let successor = claims.remove(CLAIM, priority, &owner);
                assert_eq!(successor.as_ref(), claims.owner(CLAIM));
            }
            assert_eq!(order, ["y/y", "z/z", "b/b", "a/a"]);
        }
    }

    #[test]
    fn displacement_is_reported_and_repetition_is_not() {
        let mut claims = Claims::default();
        assert_eq!(claims.add(CLAIM, ClaimPriority::NodePort, &port("b/b")), None);
        assert_eq!(claims.add(CLAIM, ClaimPriority::NodePort, &port("b/b")), None);
        assert_eq!(claims.add(CLAIM, ClaimPriority::NodePort, &port("c/c")), None);
        assert_eq!(claims.add(CLAIM, ClaimPriority::NodePort, &port("a/a")), Some(port("b/b")));
        assert_eq!(claims.remove(CLAIM, ClaimPriority::NodePort, &port("a/a")), Some(port("b/b")));
        assert_eq!(claims.remove(CLAIM, ClaimPriority::NodePort, &port("a/a")), None);
    }

    #[test]
    fn one_port_may_claim_the_same_thing_twice() {
        let mut claims = Claims::default();
        claims.add(CLAIM, ClaimPriority::External, &port("a/a"));
        assert_eq!(claims.add(CLAIM, ClaimPriority::LoadBalancer, &port("a/a")), None);
        assert_eq!(claims.remove(CLAIM, ClaimPriority::LoadBalancer, &port("a/a")), None);
        assert!(claims.owns(CLAIM, &port("a/a")));
        assert_eq!(claims.contested().count(), 0);
    }

    #[test]
    fn a_port_that_claims_twice_with_different_priorities_displaces_no_other() {
        let mut claims = Claims::default();
        claims.add(CLAIM, ClaimPriority::External, &port("b/b"));
        assert_eq!(claims.add(CLAIM, ClaimPriority::LoadBalancer, &port("b/b")), None, "it owned the claim before");
        assert_eq!(claims.add(CLAIM, ClaimPriority::LoadBalancer, &port("a/a")), Some(port("b/b")));
    }

    #[test]
    fn the_second_claimant_displaces_the_first_only_by_priority() {
        for (first, second, displaced) in [
            (ClaimPriority::External, ClaimPriority::LoadBalancer, Some(port("b/b"))),
            (ClaimPriority::LoadBalancer, ClaimPriority::External, None),
        ] {
            let mut claims = Claims::default();
            claims.add(CLAIM, first, &port("b/b"));
            assert_eq!(claims.add(CLAIM, second, &port("c/c")), displaced);
        }
    }

    #[test]
    fn contested_claims_are_counted_until_one_claimant_is_left() {
        let mut claims = Claims::default();
        claims.add(CLAIM, ClaimPriority::NodePort, &port("a/a"));
        claims.add(CLAIM, ClaimPriority::NodePort, &port("a/a"));
        assert_eq!(claims.contested().count(), 0, "a repetition is not a second claimant");
        claims.add(CLAIM, ClaimPriority::NodePort, &port("b/b"));
        claims.add(CLAIM, ClaimPriority::NodePort, &port("c/c"));
        assert_eq!(claims.contested().collect::<Vec<_>>(), [CLAIM]);
        claims.remove(CLAIM, ClaimPriority::NodePort, &port("c/c"));
        assert_eq!(claims.contested().collect::<Vec<_>>(), [CLAIM]);
        claims.remove(CLAIM, ClaimPriority::NodePort, &port("b/b"));
        assert_eq!(claims.contested().count(), 0);
    }

    #[test]
    fn only_the_owner_owns() {
        let mut claims = Claims::default();
        assert!(!claims.owns(CLAIM, &port("a/a")), "nothing was claimed");
        claims.add(CLAIM, ClaimPriority::NodePort, &port("a/a"));
        claims.add(CLAIM, ClaimPriority::NodePort, &port("b/b"));
        assert!(claims.owns(CLAIM, &port("a/a")));
        assert!(!claims.owns(CLAIM, &port("b/b")));
        claims.remove(CLAIM, ClaimPriority::NodePort, &port("c/c"));
        assert!(claims.owns(CLAIM, &port("a/a")), "a claim that was never made is not removed");
    }
}
