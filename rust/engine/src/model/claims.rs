//! Who owns an address and port when two Services want the same.
//!
//! Two rules for one destination would make the first in the chain win, and with it the order of writing. Here the
//! owner is a pure function of the objects: a cluster IP beats a load-balancer IP beats an external IP (so that nobody
//! takes over another's cluster IP by listing it as external), then the first service port by name.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::model::names::{PortName, Protocol};

/// Something only one service port can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Claim {
    Address(IpAddr, Protocol, u16),
    NodePort(Protocol, u16),
}

/// How strong a claim to an address is; the first variant wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Title {
    ClusterIp,
    LoadBalancer,
    External,
    NodePort,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    title: Title,
    port: PortName,
}

/// Nearly every claim has one claimant, so the list costs an allocation only where there is a conflict.
#[derive(Clone, Debug)]
enum Claimants {
    One(Claimant),
    /// Sorted; the first owns.
    Several(Vec<Claimant>),
}

/// All claims of one family.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_claim: HashMap<Claim, Claimants>,
    /// Claims with more than one claimant.
    contested: usize,
}

impl Claims {
    /// Enter a claim; gives the port that lost the thing by it, if one did.
    pub(crate) fn enter(&mut self, claim: Claim, title: Title, port: &PortName) -> Option<PortName> {
        let new = Claimant { title, port: port.clone() };
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
                self.contested += 1;
                *slot = Claimants::Several(both);
                displaced
            }
            Some(Claimants::Several(list)) => {
                let at = list.binary_search(&new).err()?;
                let owner = list[0].port.clone();
                list.insert(at, new);
                (list[0].port != owner).then_some(owner)
            }
        }
    }

    /// Withdraw a claim; gives the port that inherits the thing, if one does.
    pub(crate) fn withdraw(&mut self, claim: Claim, title: Title, port: &PortName) -> Option<PortName> {
        let old = Claimant { title, port: port.clone() };
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
                let heir = list[0].port.clone();
                if list.len() == 1 {
                    *slot = Claimants::One(list.remove(0));
                    self.contested -= 1;
                }
                (at == 0 && heir != *port).then_some(heir)
            }
        }
    }

    /// Nothing has more than one claimant, so there is no loser to look for.
    pub(crate) const fn all_uncontested(&self) -> bool {
        self.contested == 0
    }

    /// Who owns it, if anyone claims it.
    pub(crate) fn owner(&self, claim: Claim) -> Option<&PortName> {
        match self.by_claim.get(&claim)? {
            Claimants::One(only) => Some(&only.port),
            Claimants::Several(list) => list.first().map(|c| &c.port),
        }
    }

    /// Whether `port` may have rules for it.
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
            (Title::External, "a/a"),
            (Title::ClusterIp, "z/z"),
            (Title::ClusterIp, "y/y"),
            (Title::LoadBalancer, "b/b"),
        ];
        for start in 0..claimants.len() {
            let mut claims = Claims::default();
            for i in 0..claimants.len() {
                let (title, name) = claimants[(start + i) % claimants.len()];
                claims.enter(CLAIM, title, &port(name));
            }
            let mut order = Vec::new();
            while let Some(owner) = claims.owner(CLAIM).cloned() {
                let title = claimants.iter().find(|c| port(c.1) == owner).unwrap().0;
                order.push(owner.as_str().to_owned());
                let heir = claims.withdraw(CLAIM, title, &owner);
                assert_eq!(heir.as_ref(), claims.owner(CLAIM));
            }
            assert_eq!(order, ["y/y", "z/z", "b/b", "a/a"]);
        }
    }

    #[test]
    fn displacement_is_reported_and_repetition_is_not() {
        let mut claims = Claims::default();
        assert_eq!(claims.enter(CLAIM, Title::NodePort, &port("b/b")), None);
        assert_eq!(claims.enter(CLAIM, Title::NodePort, &port("b/b")), None);
        assert_eq!(claims.enter(CLAIM, Title::NodePort, &port("c/c")), None);
        assert_eq!(claims.enter(CLAIM, Title::NodePort, &port("a/a")), Some(port("b/b")));
        assert_eq!(claims.withdraw(CLAIM, Title::NodePort, &port("a/a")), Some(port("b/b")));
        assert_eq!(claims.withdraw(CLAIM, Title::NodePort, &port("a/a")), None);
    }

    #[test]
    fn one_port_may_claim_the_same_thing_twice() {
        let mut claims = Claims::default();
        claims.enter(CLAIM, Title::External, &port("a/a"));
        assert_eq!(claims.enter(CLAIM, Title::LoadBalancer, &port("a/a")), None);
        assert_eq!(claims.withdraw(CLAIM, Title::LoadBalancer, &port("a/a")), None);
        assert!(claims.owns(CLAIM, &port("a/a")));
        assert!(claims.all_uncontested());
    }
}
