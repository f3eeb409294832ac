//! Selects the endpoints of a service port that traffic on this node may use.

use crate::model::candidates::Candidate;
use crate::model::endpoints::NodeHint;

/// The traffic policies of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policies {
    /// internalTrafficPolicy Local.
    pub(crate) internal_local: bool,
    /// externalTrafficPolicy Local.
    pub(crate) external_local: bool,
    /// Whether the port has an address or node port reachable from outside the cluster.
    pub(crate) externally_accessible: bool,
}

impl Policies {
    /// Returns whether the cluster endpoints are needed. External policy Local needs them as well: this node's own Pods
    /// use them to reach external addresses.
    pub(crate) const fn use_cluster(self) -> bool {
        !self.internal_local || self.externally_accessible
    }

    pub(crate) const fn use_local(self) -> bool {
        self.internal_local || (self.external_local && self.externally_accessible)
    }
}

/// Which endpoint sets are non-empty, which determines the dispatch rules. Sufficient to write them without reading the
/// endpoints again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Whether any endpoint, on any node, can serve traffic.
    pub(crate) any: bool,
    /// Whether the cluster set is non-empty.
    pub(crate) cluster: bool,
    /// Whether the local set is non-empty.
    pub(crate) local: bool,
}

/// An endpoint in use, with the sets it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick<'a> {
    pub(crate) candidate: Candidate<'a>,
    pub(crate) in_cluster: bool,
    pub(crate) in_local: bool,
}

/// Selects from `candidates` the endpoints of the sets that `policies` need; endpoints in neither set are omitted.
pub(crate) fn choose<'a>(
    candidates: &[Candidate<'a>],
    policies: Policies,
    zone: Option<&str>,
) -> (Reach, Vec<Pick<'a>>) {
    let hints = Hints::of(candidates, zone);
    let best = |c: &Candidate<'a>| c.endpoint.state.ready && hints.admit(c);
    let best_local = |c: &Candidate<'a>| c.endpoint.state.ready && c.endpoint.state.local;
    let any_best = candidates.iter().any(best);
    let any_best_local = candidates.iter().any(best_local);

    let picks: Vec<Pick<'a>> = candidates
        .iter()
        .map(|c| Pick {
            candidate: *c,
            in_cluster: policies.use_cluster() && if any_best { best(c) } else { c.endpoint.state.is_draining() },
            in_local: policies.use_local()
                && if any_best_local {
                    best_local(c)
                } else {
                    c.endpoint.state.is_draining() && c.endpoint.state.local
                },
        })
        .filter(|p| p.in_cluster || p.in_local)
        .collect();
    let reach = Reach {
        any: candidates.iter().any(|c| c.endpoint.state.ready || c.endpoint.state.is_draining()),
        cluster: picks.iter().any(|p| p.in_cluster),
        local: picks.iter().any(|p| p.in_local),
    };
    (reach, picks)
}

/// How topology hints restrict the cluster set. Hints apply only if every ready endpoint has one and one of them names
/// this node or zone: with a partly hinted set the controller is still at work, and obeying it would overload the
/// hinted part.
enum Hints<'z> {
    Ignored,
    Node,
    Zone(&'z str),
}

impl<'z> Hints<'z> {
    fn of(candidates: &[Candidate<'_>], zone: Option<&'z str>) -> Self {
        let ready = || candidates.iter().map(|c| c.endpoint).filter(|e| e.state.ready);
        if ready().all(|e| e.node_hint != NodeHint::None) && ready().any(|e| e.node_hint == NodeHint::Ours) {
            return Self::Node;
        }
        let Some(zone) = zone.filter(|z| !z.is_empty()) else { return Self::Ignored };
        let names_us = |zones: &[Box<str>]| zones.iter().any(|z| &**z == zone);
        if ready().all(|e| !e.zones.is_empty()) && ready().any(|e| names_us(&e.zones)) {
            return Self::Zone(zone);
        }
        Self::Ignored
    }

    fn admit(&self, c: &Candidate<'_>) -> bool {
        match self {
            Self::Ignored => true,
            Self::Node => c.endpoint.node_hint == NodeHint::Ours,
            Self::Zone(zone) => c.endpoint.zones.iter().any(|z| &**z == *zone),
        }
    }
}

#[cfg(test)]
mod tests;
