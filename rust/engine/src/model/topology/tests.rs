use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::model::endpoints::{Endpoint, State};

/// An endpoint by letters: `r`eady, `s`erving, `t`erminating, `l`ocal; `o`ur node's hint, `x` another node's; digits are
/// zones.
fn endpoint(index: usize, letters: &str) -> Endpoint {
    let has = |letter: char| letters.contains(letter);
    let zones = letters.chars().filter(char::is_ascii_digit).map(|zone| zone.to_string().into_boxed_str());
    Endpoint {
        ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(index).unwrap())),
        state: State { ready: has('r'), serving: has('s'), terminating: has('t'), local: has('l') },
        zones: zones.collect(),
        node_hint: match (has('o'), has('x')) {
            (true, _) => NodeHint::Ours,
            (_, true) => NodeHint::Other,
            _ => NodeHint::None,
        },
    }
}

const CLUSTER: Policies = Policies { internal_local: false, external_local: false, externally_accessible: false };
const LOCAL: Policies = Policies { internal_local: true, external_local: false, externally_accessible: false };
const BOTH: Policies = Policies { internal_local: false, external_local: true, externally_accessible: true };

/// The sets as a word for each endpoint, `c`luster and `l`ocal, and what is reached: `a`ny, `c`luster, `l`ocal.
fn chosen(endpoints: &str, policies: Policies, zone: Option<&str>) -> (String, String) {
    let all: Vec<Endpoint> = endpoints.split(' ').enumerate().map(|(i, letters)| endpoint(i, letters)).collect();
    let candidates: Vec<Candidate<'_>> = all.iter().map(|endpoint| Candidate { endpoint, port: 80 }).collect();
    let (reach, picks) = choose(&candidates, policies, zone);
    let word = |e: &Endpoint| -> String {
        let pick = picks.iter().find(|p| p.candidate.endpoint.ip == e.ip);
        let sets = pick.map(|p| [p.in_cluster.then_some('c'), p.in_local.then_some('l')]);
        sets.map_or_else(|| "-".into(), |sets| sets.into_iter().flatten().collect())
    };
    let reached = [reach.any.then_some('a'), reach.cluster.then_some('c'), reach.local.then_some('l')];
    (all.iter().map(word).collect::<Vec<_>>().join(" "), reached.into_iter().flatten().collect())
}

#[test]
fn policies_say_which_sets_are_needed() {
    for bits in 0..8_u8 {
        let [internal_local, external_local, externally_accessible] = [1, 2, 4].map(|bit| bits & bit != 0);
        let policies = Policies { internal_local, external_local, externally_accessible };
        // internal Local; external Local; accessible from outside.
        let (cluster, local) = match bits {
            0b000 | 0b010 | 0b100 => (true, false),
            0b001 | 0b011 => (false, true),
            _ => (true, true),
        };
        assert_eq!((policies.use_cluster(), policies.use_local()), (cluster, local), "{policies:?}");
    }
}

#[test]
fn ready_endpoints_are_used_and_draining_ones_only_without_them() {
    let cases = [
        // endpoints, policies, sets, reach
        ("rs rsl s", CLUSTER, "c c -", "ac"),
        ("rs st", CLUSTER, "c -", "ac"),
        ("st stl s t", CLUSTER, "c c - -", "ac"),
        ("s t", CLUSTER, "- -", ""),
        ("rs rsl stl", LOCAL, "- l -", "al"),
        ("rs stl st", LOCAL, "- l -", "al"),
        ("rs sl tl", LOCAL, "- - -", "a"),
        ("rs rsl stl", BOTH, "c cl -", "acl"),
        ("rs stl", BOTH, "c l", "acl"),
        ("st stl", BOTH, "c cl", "acl"),
        ("rs st", BOTH, "c -", "ac"),
    ];
    for (endpoints, policies, sets, reach) in cases {
        assert_eq!(chosen(endpoints, policies, None), (sets.into(), reach.into()), "{endpoints} {policies:?}");
    }
}

#[test]
fn hints_restrict_the_cluster_set_only_when_complete_and_about_us() {
    let cases = [
        // endpoints, zone, sets
        ("rs1 rs2", Some("1"), "c -"),
        ("rs12 rs2", Some("1"), "c -"),
        ("rs1 rs", Some("1"), "c c"),
        ("rs1 rs2", Some("3"), "c c"),
        ("rs1 rs2", Some(""), "c c"),
        ("rs1 rs2", None, "c c"),
        // Only ready endpoints need a hint, and only theirs counts.
        ("rs1 s rs2", Some("1"), "c - -"),
        ("rs2 st1", Some("1"), "c -"),
        // Hints for nodes come first; where they are incomplete or not about us, those for zones count.
        ("rso rsx", None, "c -"),
        ("rso1 rsx1", Some("1"), "c -"),
        ("rsx rsx", None, "c c"),
        ("rso rs", None, "c c"),
        ("rso1 rs2", Some("2"), "- c"),
        ("rsx1 rsx2", Some("2"), "- c"),
    ];
    for (endpoints, zone, sets) in cases {
        assert_eq!(chosen(endpoints, CLUSTER, zone), (sets.into(), "ac".into()), "{endpoints} {zone:?}");
    }
}

#[test]
fn hints_leave_the_local_set_alone() {
    assert_eq!(chosen("rs1 rsl2", BOTH, Some("1")), ("c l".into(), "acl".into()));
}
