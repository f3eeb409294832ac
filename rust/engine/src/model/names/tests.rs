use super::*;

#[test]
fn hashes_are_kube_proxys() {
    // From a recorded case: app/web:http over TCP, endpoint 10.128.1.10:8080.
    let port = PortName::new("app/web", "http", Protocol::Tcp);
    assert_eq!(ChainId::Hashed(Prefix::Svc, port.hash()).name(), "KUBE-SVC-GSODGFK7F4BKZ7VG");
    let sep = ChainId::Hashed(Prefix::Sep, port.endpoint_hash("10.128.1.10:8080"));
    assert_eq!(sep.to_string(), "nat KUBE-SEP-UK5NFWU76AC32MPY");
}

#[test]
fn names_parse_back_to_the_chain_they_came_from() {
    let hash = PortName::new("a/b", "", Protocol::Udp).hash();
    for prefix in Prefix::ALL {
        let id = ChainId::Hashed(prefix, hash);
        assert!(id.name().len() <= NAME_LIMIT, "the kernel's limit");
        assert_eq!(ChainId::parse(Table::Nat, id.name().as_bytes()), Some(id));
        assert_eq!(ChainId::parse(Table::Filter, id.name().as_bytes()), None);
    }
    for table in [Table::Nat, Table::Filter] {
        let id = ChainId::Dispatch(table, hash.short());
        assert!(id.name().len() <= 28, "the kernel's limit");
        assert_eq!(ChainId::parse(table, id.name().as_bytes()), Some(id));
        assert_eq!(ChainId::parse(Table::Mangle, id.name().as_bytes()), None);
    }
    for prefix in [&[0][..], &[15, 3], &[1, 2, 3]] {
        let id = ChainId::balance(ChainId::Hashed(Prefix::Svc, hash), prefix);
        assert_eq!(id.name().len(), 28, "the kernel's limit");
        assert_eq!(ChainId::parse(Table::Nat, id.name().as_bytes()), Some(id));
        assert_eq!(ChainId::parse(Table::Filter, id.name().as_bytes()), None);
        let ChainId::Balance(hash) = id else { panic!("{id}") };
        assert_eq!(usize::from(ChainId::balance_level(hash)), prefix.len());
    }
    for &fixed in FixedChain::ALL {
        let id = ChainId::Fixed(fixed);
        assert_eq!(ChainId::parse(fixed.table(), id.name().as_bytes()), Some(id));
    }
}

#[test]
fn keys_sort_as_names_do() {
    let hash = |n: u8| PortName::new(&format!("a/{n}"), "", Protocol::Udp).hash();
    let hashed = (0..40).flat_map(|n| Prefix::ALL.map(|prefix| ChainId::Hashed(prefix, hash(n))));
    let fixed = FixedChain::ALL.iter().map(|&chain| ChainId::Fixed(chain));
    let mut all: Vec<ChainId> =
        hashed.chain(fixed).chain((0..9).map(|n| ChainId::Dispatch(Table::Nat, hash(n)))).collect();
    assert!(all.iter().all(|id| id.name_len() == id.name().len()));
    all.sort_by_key(|id| id.name());
    assert!(all.is_sorted_by_key(|id| id.name_key()));
}

#[test]
fn others_chains_are_not_ours() {
    for name in [
        "KUBE-FIREWALL",
        "KUBE-IPTABLES-HINT",
        "KUBE-KUBELET-CANARY",
        "KUBE-SVC-",
        "KUBE-SVC-abcdefghijklmnop",
        "KUBE-SVC-GSODGFK7F4BKZ7V1",
        "KUBE-SVC-GSODGFK7F4BKZ7VGA",
        "KUBE-SVC-DSP-GSODGFK7F4BKZ7V1",
        "KUBE-SVC-DSP-GSODGFK7F4BKZ71",
        "KUBE-SVC-DSP-GSODGFK7F4BKZ7",
        "KUBE-SVC-BAL-GSODGFK7F4BKZ7V1",
        "KUBE-SVC-BAL-GSODGFK7F4BKZ7",
        "KUBE-SVL-BAL-GSODGFK7F4BKZ7V",
        "DOCKER",
    ] {
        for table in Table::ALL {
            assert_eq!(ChainId::parse(table, name.as_bytes()), None, "{name}");
        }
    }
}

#[test]
fn an_unnamed_port_has_no_colon() {
    assert_eq!(PortName::new("ns/name", "", Protocol::Tcp).as_str(), "ns/name");
    assert_eq!(PortName::new("ns/name", "p", Protocol::Tcp).as_str(), "ns/name:p");
}
