//! Appends numbers and addresses to text without the formatting machinery, for values that occur once per rule.

use std::net::{Ipv4Addr, SocketAddr};

/// Appends a decimal number.
pub(crate) fn number(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Appends an IPv4 address.
pub(crate) fn dotted(out: &mut Vec<u8>, ip: Ipv4Addr) {
    let [first, rest @ ..] = ip.octets();
    number(out, u32::from(first));
    for octet in rest {
        out.push(b'.');
        number(out, u32::from(octet));
    }
}

/// Appends `address:port`. Every endpoint has one, so IPv4 avoids the formatting machinery.
pub(crate) fn socket(out: &mut Vec<u8>, to: &SocketAddr) {
    match to {
        SocketAddr::V4(to) => {
            dotted(out, *to.ip());
            out.push(b':');
            number(out, u32::from(to.port()));
        }
        SocketAddr::V6(to) => out.extend_from_slice(to.to_string().as_bytes()),
    }
}
