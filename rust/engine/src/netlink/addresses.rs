//! Reads the host's own addresses over rtnetlink: encodes a dump request and decodes its responses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::netlink::framing::{
    Header, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, address, attributes, errno, message, request,
};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// `struct ifaddrmsg`.
const IFADDRMSG: usize = 8;
/// The peer's address on a point-to-point link; there, [`IFA_LOCAL`] is the host's own.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// A dump of addresses: send [`AddressDump::request`], pass every received datagram to `feed`.
#[derive(Clone, Debug, Default)]
pub struct AddressDump {
    found: BTreeSet<IpAddr>,
}

impl AddressDump {
    /// Returns the request for every address of every interface, both families.
    #[must_use]
    pub fn request() -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        request(RTM_GETADDR, NLM_F_DUMP, 1, 0, &mut out, |out| out.extend([0; 4])); // the rest of ifaddrmsg
        out
    }

    /// Reads one datagram. Returns whether it was the last one. Takes any bytes.
    ///
    /// # Errors
    /// The errno of a refusal.
    pub fn feed(&mut self, mut datagram: &[u8]) -> Result<bool, i32> {
        while let Some((Header { kind, .. }, body)) = message(&mut datagram) {
            match kind {
                NLMSG_DONE | NLMSG_ERROR => return errno(body).map_or(Ok(true), Err),
                RTM_NEWADDR => self.found.extend(body.get(IFADDRMSG..).and_then(own_address)),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Returns the addresses read so far: IPv4 first, in ascending order. IPv6 link-local addresses have no zone.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.found.iter().copied()
    }
}

fn own_address(entry: &[u8]) -> Option<IpAddr> {
    let (mut local, mut any) = (None, None);
    for (kind, value) in attributes(entry).flatten() {
        match kind {
            IFA_LOCAL => local = address(value),
            IFA_ADDRESS => any = address(value),
            _ => {}
        }
    }
    local.or(any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::framing::put;
    use proptest::prelude::*;

    fn entry(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        request(RTM_NEWADDR, 0, 1, 2, &mut out, |out| {
            out.extend([0; 4]);
            for (kind, value) in attributes {
                put(*kind, value, out);
            }
        });
        out
    }

    fn end(kind: u16, code: i32) -> Vec<u8> {
        let mut out = Vec::new();
        request(kind, 0, 1, 0, &mut out, |_| {});
        out[16..20].copy_from_slice(&code.to_ne_bytes());
        out
    }

    #[test]
    fn a_request_asks_for_both_families() {
        let expected = [24, 0, 0, 0, 22, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(AddressDump::request(), expected);
    }

    #[test]
    fn addresses_are_sorted_and_a_peers_address_does_not_count() {
        let v6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let datagrams = [
            [entry(&[(IFA_ADDRESS, &v6)]), entry(&[(IFA_ADDRESS, &[192, 0, 2, 9]), (IFA_LOCAL, &[192, 0, 2, 1])])]
                .concat(),
            entry(&[(3, b"lo\0"), (IFA_ADDRESS, &[127, 0, 0, 1])]),
            [entry(&[(IFA_ADDRESS, &[127, 0, 0, 1])]), entry(&[(IFA_ADDRESS, &[1, 2])]), entry(&[])].concat(),
            end(NLMSG_DONE, 0),
        ];
        let mut dump = AddressDump::default();
        let done: Vec<_> = datagrams.iter().map(|datagram| dump.feed(datagram).unwrap()).collect();
        assert_eq!(done, [false, false, false, true]);
        let found: Vec<_> = dump.addresses().map(|ip| ip.to_string()).collect();
        assert_eq!(found, ["127.0.0.1", "192.0.2.1", "fd00::1"]);
        assert_eq!(dump.feed(&end(NLMSG_ERROR, -1)), Err(1));
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut dump = AddressDump::default();
            let _ = dump.feed(&bytes);
            prop_assert!(dump.addresses().count() <= bytes.len() / 16);
        }
    }
}
