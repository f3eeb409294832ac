//! The endpoints of one service port: every `ip:port` once, from all slices of its Service.

use std::cmp::Ordering;
use std::net::SocketAddr;

use crate::model::address::Family;
use crate::model::endpoints::{Endpoint, Slice};
use crate::model::names::Protocol;
use crate::model::text::socket;

/// An endpoint of one service port: the slice's endpoint and the port number it listens on there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) port: u16,
}

impl Candidate<'_> {
    pub(crate) const fn address(&self) -> SocketAddr {
        SocketAddr::new(self.endpoint.ip, self.port)
    }

    /// `ip:port`, IPv6 in brackets: part of the chain's name, and the sort key.
    pub(crate) fn text(&self) -> String {
        let mut text = Vec::with_capacity(24);
        socket(&mut text, &self.address());
        // Always text.
        String::from_utf8(text).unwrap_or_default()
    }

    /// Orders entries of one address by preference. Equal entries are the same, so nothing depends on their order in the
    /// slices. Between hints, the entry with fewer wins: an endpoint without hints keeps hints from narrowing the set.
    fn prefer(&self, other: &Self) -> Ordering {
        let (a, b) = (self.endpoint, other.endpoint);
        let state = a.state.preference().cmp(&b.state.preference());
        state.then_with(|| a.node_hint.cmp(&b.node_hint)).then_with(|| a.zones.cmp(&b.zones))
    }
}

/// Returns all endpoints of the port `name`, ready or not, each `ip:port` once, ordered by address.
///
/// The same `ip:port` in several entries is one endpoint: a Pod moved between slices, or an address was reused while its
/// last owner still terminates. The most usable entry wins: ready, then serving and terminating, then the rest. Among
/// equally usable ones a local entry wins.
pub(crate) fn of_port<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    family: Family,
    name: &str,
    protocol: Protocol,
) -> Vec<Candidate<'a>> {
    let mut all: Vec<Candidate<'a>> = Vec::new();
    for slice in slices.filter(|s| s.family == family) {
        for port in slice.ports.iter().filter(|p| &*p.name == name && p.protocol == protocol) {
            all.extend(slice.endpoints.iter().map(|endpoint| Candidate { endpoint, port: port.port }));
        }
    }
    all.sort_unstable_by(|a, b| a.address().cmp(&b.address()).then_with(|| a.prefer(b)));
    all.dedup_by_key(|c| c.address());
    all
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::endpoints::{NodeHint, SlicePort, State};

    fn slices(entries: &[Endpoint], cut: usize) -> Vec<Slice> {
        let slice = |endpoints: &[Endpoint]| Slice {
            service: Arc::from("n/a"),
            family: Family::V4,
            ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }].into(),
            endpoints: endpoints.into(),
        };
        let (first, second) = entries.split_at(cut.min(entries.len()));
        vec![slice(first), slice(second)]
    }

    /// Returns what `of_port` keeps of these entries, split into two slices.
    fn kept(entries: &[Endpoint], cut: usize) -> Vec<Endpoint> {
        let slices = slices(entries, cut);
        of_port(slices.iter(), Family::V4, "", Protocol::Tcp).into_iter().map(|c| c.endpoint.clone()).collect()
    }

    fn entry(ip: u8, [ready, serving, terminating, local]: [bool; 4]) -> Endpoint {
        let state = State { ready, serving, terminating, local };
        Endpoint { ip: [10, 0, 0, ip].into(), state, zones: [].into(), node_hint: NodeHint::None }
    }

    #[test]
    fn the_most_usable_entry_of_an_address_wins() {
        let of = |ready, serving, terminating| move |local| entry(1, [ready, serving, terminating, local]);
        let (ready, ready_leaving) = (of(true, true, false), of(true, true, true));
        let (draining, gone, starting) = (of(false, true, true), of(false, false, true), of(false, false, false));
        for (better, worse) in [
            (&ready as &dyn Fn(bool) -> Endpoint, &draining as &dyn Fn(bool) -> Endpoint),
            (&ready, &gone),
            (&ready, &starting),
            (&ready_leaving, &draining),
            (&ready_leaving, &starting),
            (&draining, &gone),
            (&draining, &starting),
        ] {
            // The worse entry is on this node, which does not matter.
            let (better, worse) = (better(false), worse(true));
            for cut in 0..=2 {
                assert_eq!(kept(&[better.clone(), worse.clone()], cut), std::slice::from_ref(&better), "cut {cut}");
                assert_eq!(kept(&[worse.clone(), better.clone()], cut), std::slice::from_ref(&better), "cut {cut}");
            }
        }
        for like in [&ready as &dyn Fn(bool) -> Endpoint, &draining, &gone, &starting] {
            assert_eq!(kept(&[like(false), like(true)], 1), [like(true)]);
            assert_eq!(kept(&[like(true), like(false)], 2), [like(true)]);
        }
    }

    fn entries() -> impl Strategy<Value = Vec<Endpoint>> {
        let hint = prop_oneof![Just(NodeHint::None), Just(NodeHint::Ours), Just(NodeHint::Other)];
        let zones = prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..2);
        let one = (0u8..3, any::<[bool; 4]>(), hint, zones).prop_map(|(ip, state, node_hint, zones)| {
            let zones = zones.into_iter().map(Box::from).collect();
            Endpoint { zones, node_hint, ..entry(ip, state) }
        });
        prop::collection::vec(one, 0..9)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_order_of_entries_means_nothing(
            (entries, shuffled) in entries().prop_flat_map(|e| (Just(e.clone()), Just(e).prop_shuffle())), cuts in any::<[usize; 2]>()
        ) {
            let [one, other] = cuts.map(|cut| cut % (entries.len() + 1));
            let result = kept(&entries, one);
            prop_assert_eq!(&result, &kept(&shuffled, other));
            for ip in 0..3u8 {
                let ip = IpAddr::from([10, 0, 0, ip]);
                let of_address: Vec<State> = entries.iter().filter(|e| e.ip == ip).map(|e| e.state).collect();
                let kept: Vec<State> = result.iter().filter(|e| e.ip == ip).map(|e| e.state).collect();
                prop_assert_eq!(kept.len(), usize::from(!of_address.is_empty()));
                let Some(kept) = kept.first() else { continue };
                let usability = |s: &State| if s.ready { 2 } else { u8::from(s.serving && s.terminating) };
                let most = of_address.iter().map(usability).max();
                prop_assert_eq!(Some(usability(kept)), most);
                prop_assert_eq!(kept.local, of_address.iter().any(|s| Some(usability(s)) == most && s.local));
            }
        }
    }
}
