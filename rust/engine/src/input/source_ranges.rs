//! Decodes `loadBalancerSourceRanges`: the sources that a Service's load-balancer addresses admit.

use crate::input::distinct;
use crate::input::problem::Problems;
use crate::input::wire::{ServiceSpec, Text};
use crate::model::address::{Family, Net};

/// The source ranges of a Service, both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceRanges {
    nets: Box<[Net]>,
    /// By family: whether a range that may have been meant for it is unreadable.
    unreadable: [bool; 2],
}

impl SourceRanges {
    pub(crate) fn build(spec: &ServiceSpec<'_>, problems: &mut Problems<'_>) -> Self {
        let texts = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
        let mut nets: Vec<Net> = Vec::with_capacity(texts.len());
        let mut unreadable = [false; 2];
        for (i, text) in texts.iter().map(Text::as_str).enumerate() {
            match Net::parse(text) {
                Ok(net) => nets.push(net),
                Err(e) => {
                    for family in meant_for(text) {
                        unreadable[family.index()] = true;
                    }
                    problems.ignore(format!("spec.loadBalancerSourceRanges[{i}]"), &text, e.to_string());
                }
            }
        }
        Self { nets: distinct(nets), unreadable }
    }

    /// Returns the ranges that restrict this family: `None` admits every source, an empty list none.
    ///
    /// A family that only has unreadable ranges stays closed: a firewall that opens because of a typo is worse than one
    /// that does not. Where no range at all is readable, both do, since what an entry was meant for is a guess.
    pub(crate) fn of(&self, family: Family) -> Option<Vec<Net>> {
        let mine: Vec<Net> = self.nets.iter().copied().filter(|n| n.family() == family).collect();
        let shut = if self.nets.is_empty() { self.unreadable != [false; 2] } else { self.unreadable[family.index()] };
        let open = if mine.is_empty() { !shut } else { mine.iter().any(Net::is_everything) };
        (!open).then_some(mine)
    }
}

/// Returns the families that an unreadable range may have been meant for. A colon makes it one of IPv6; the forms of an
/// IPv4-mapped range can mean either.
fn meant_for(text: &str) -> impl Iterator<Item = Family> {
    let v6 = text.contains(':');
    let digits = text.trim_start().trim_start_matches(['0', ':']);
    let mapped = text.contains('.') || digits.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("ffff:"));
    Family::ALL.into_iter().filter(move |&family| if family == Family::V6 { v6 } else { !v6 || mapped })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn ranges(texts: &[&str]) -> SourceRanges {
        let json = serde_json::json!({"loadBalancerSourceRanges": texts}).to_string();
        let spec: ServiceSpec<'_> = serde_json::from_str(&json).unwrap();
        let object = || "Service a/b".to_owned();
        let mut problems = Problems::new(&object);
        let ranges = SourceRanges::build(&spec, &mut problems);
        let unreadable: Vec<&str> = texts.iter().copied().filter(|t| Net::parse(t).is_err()).collect();
        assert_eq!(problems.into_vec().iter().map(|p| &*p.value).collect::<Vec<_>>(), unreadable);
        ranges
    }

    fn admits(ranges: &SourceRanges, source: IpAddr) -> bool {
        ranges.of(Family::of(source)).is_none_or(|nets| nets.iter().any(|net| net.contains(source)))
    }

    /// Returns the restriction of a family as text: `open`, `shut` or the ranges.
    fn shown(texts: &[&str], family: Family) -> String {
        match ranges(texts).of(family) {
            None => "open".to_owned(),
            Some(nets) if nets.is_empty() => "shut".to_owned(),
            Some(nets) => nets.iter().map(Net::to_string).collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn a_family_with_only_unreadable_ranges_stays_shut() {
        for (texts, v4, v6) in [
            (&[][..], "open", "open"),
            (&["fd00::/8"], "open", "fd00::/8"),
            (&["10.0.0.0/8", "0.0.0.0/0"], "open", "open"),
            (&[" 10.0.0.0/8 ", "typo"], "10.0.0.0/8", "open"),
            (&["198.51.100.0/24x", "fd77::/64"], "shut", "fd77::/64"),
            (&["198.51.100.0", "fd77::/64"], "shut", "fd77::/64"),
            (&["", "fd77::/64"], "shut", "fd77::/64"),
            (&["198.51.100.0/24", "fd77::/64x"], "198.51.100.0/24", "shut"),
            (&["::ffff:198.51.100.0/120", "fd77::/64"], "198.51.100.0/24", "fd77::/64"),
            (&["::ffff:198.51.100.0/129", "fd77::/64"], "shut", "fd77::/64"),
            (&["::FFFF:c633:6400/12x", "fd77::/64"], "shut", "fd77::/64"),
            (&["::ffff:0:0/96", "fd77::/64"], "open", "fd77::/64"),
            (&["198.51.100.0/24x"], "shut", "shut"),
            (&["fd77::/64x"], "shut", "shut"),
        ] {
            assert_eq!((&*shown(texts, Family::V4), &*shown(texts, Family::V6)), (v4, v6), "{texts:?}");
        }
    }

    fn source() -> impl Strategy<Value = IpAddr> {
        let v4 = prop_oneof![Just([198, 51, 100, 7]), Just([10, 0, 0, 1]), any::<[u8; 4]>()];
        let v6 = prop_oneof![Just([0xfd77, 0, 0, 0, 0, 0, 0, 5]), any::<[u16; 8]>()];
        prop_oneof![v4.prop_map(IpAddr::from), v6.prop_map(IpAddr::from)]
    }

    /// Draws a readable range, and the same with one character changed, added or removed.
    fn edited() -> impl Strategy<Value = (String, String)> {
        let range = prop::sample::select(vec![
            "198.51.100.0/24",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "fd77::/64",
            "::/0",
            "2001:db8::/32",
            "::ffff:198.51.100.0/120",
            "::ffff:10.0.0.0/104",
        ]);
        let character = prop::sample::select(vec!['x', ':', '.', '/', ' ', '-', '9', '%']);
        (range, any::<prop::sample::Index>(), character, 0..3).prop_map(|(range, at, character, how)| {
            let mut text: Vec<char> = range.chars().collect();
            let at = at.index(text.len());
            match how {
                0 => text[at] = character,
                1 => text.insert(at, character),
                _ => drop(text.remove(at)),
            }
            (range.to_owned(), text.into_iter().collect())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_unreadable_range_never_admits_more_sources(
            entries in prop::collection::vec((edited(), any::<bool>()), 0..4), sources in prop::collection::vec(source(), 8)
        ) {
            let broken = |(range, edited): &(String, String), edit: bool| -> Option<String> {
                (edit && Net::parse(edited).is_err()).then(|| edited.clone()).filter(|e| e != range)
            };
            let meant: Vec<&str> = entries.iter().map(|((range, _), _)| &**range).collect();
            let texts: Vec<String> = entries.iter().map(|(e, edit)| broken(e, *edit).unwrap_or_else(|| e.0.clone())).collect();
            let texts: Vec<&str> = texts.iter().map(|t| &**t).collect();
            let readable: Vec<&str> = texts.iter().copied().filter(|t| Net::parse(t).is_ok()).collect();
            for source in sources {
                if admits(&ranges(&texts), source) {
                    prop_assert!(admits(&ranges(&meant), source), "{} by {:?}, which was {:?}", source, texts, meant);
                    prop_assert!(admits(&ranges(&readable), source), "{} by {:?}, not {:?}", source, texts, readable);
                }
            }
        }
    }
}
