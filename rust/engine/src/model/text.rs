//! Numbers and addresses appended to text, without the formatting machinery where rules have one each.

use std::net::{Ipv4Addr, SocketAddr};

pub(crate) fn number(out: &mut Vec<u8>, n: u32) {
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    let mut rest = n;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

pub(crate) fn dotted(out: &mut Vec<u8>, ip: Ipv4Addr) {
    let [first, rest @ ..] = ip.octets();
    number(out, u32::from(first));
    for octet in rest {
        out.push(b'.');
        number(out, u32::from(octet));
    }
}

/// Address and port. Each endpoint has one, so IPv4 goes without the formatting machinery.
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
