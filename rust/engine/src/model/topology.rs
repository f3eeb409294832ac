//! Which of a service port's endpoints traffic may use, seen from this node.

use crate::model::endpoints::{Candidate, NodeHint};

/// What a Service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policies {
    /// internalTrafficPolicy Local.
    pub(crate) internal_local: bool,
    /// externalTrafficPolicy Local.
    pub(crate) external_local: bool,
    /// There is an address or port that outsiders can use.
    pub(crate) externally_accessible: bool,
}

impl Policies {
    /// External policy Local still needs the cluster set: this node's own Pods use it to reach external addresses.
    pub(crate) const fn use_cluster(self) -> bool {
        !self.internal_local || self.externally_accessible
    }

    pub(crate) const fn use_local(self) -> bool {
        self.internal_local || (self.external_local && self.externally_accessible)
    }
}

/// What can be reached, and so which dispatch rules exist. Enough to write them without looking at endpoints again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Some endpoint, anywhere, can take traffic.
    pub(crate) any: bool,
    /// The cluster set has members.
    pub(crate) cluster: bool,
    /// The local set has members.
    pub(crate) local: bool,
}

/// An endpoint in use, and by which sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick<'a> {
    pub(crate) candidate: Candidate<'a>,
    pub(crate) in_cluster: bool,
    pub(crate) in_local: bool,
}

/// Sort `candidates` into the sets that `policies` need; what is in neither is left out.
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
            in_cluster: policies.use_cluster() && if any_best { best(c) } else { is_draining(c) },
            in_local: policies.use_local()
                && if any_best_local { best_local(c) } else { is_draining(c) && c.endpoint.state.local },
        })
        .filter(|p| p.in_cluster || p.in_local)
        .collect();
    let reach = Reach {
        any: candidates.iter().any(|c| c.endpoint.state.ready || is_draining(c)),
        cluster: picks.iter().any(|p| p.in_cluster),
        local: picks.iter().any(|p| p.in_local),
    };
    (reach, picks)
}

/// Terminating but still serving: better than nothing, so used only when nothing is ready.
const fn is_draining(c: &Candidate<'_>) -> bool {
    c.endpoint.state.serving && c.endpoint.state.terminating
}

/// How topology hints narrow the cluster set. Hints count only when every ready endpoint has one and one of them names
/// us: a half-hinted set is a controller at work, and obeying it would overload the hinted half.
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
