//! The address that an app hands to `bind`, from the bytes in its memory.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// What the bytes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoded {
    Inet(SocketAddr),
    /// Another family, or too short for its own: the kernel's business.
    Other,
}

/// The most the kernel takes (`sockaddr_storage`).
pub(super) const MAX_BYTES: usize = 128;

pub(super) fn decode(bytes: &[u8]) -> Decoded {
    let Some((family, rest)) = bytes.split_first_chunk() else { return Decoded::Other };
    let address = match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET if bytes.len() >= 16 => inet(rest),
        // 24 is the size without the scope, which the kernel still takes.
        libc::AF_INET6 if bytes.len() >= 24 => inet6(rest),
        _ => None,
    };
    address.map_or(Decoded::Other, Decoded::Inet)
}

fn inet(bytes: &[u8]) -> Option<SocketAddr> {
    let (port, rest) = bytes.split_first_chunk()?;
    let address: [u8; 4] = *rest.first_chunk()?;
    Some(SocketAddrV4::new(address.into(), u16::from_be_bytes(*port)).into())
}

fn inet6(bytes: &[u8]) -> Option<SocketAddr> {
    let (port, rest) = bytes.split_first_chunk()?;
    let (flow, rest) = rest.split_first_chunk::<4>()?;
    let (address, rest) = rest.split_first_chunk::<16>()?;
    let scope = rest.first_chunk().map_or(0, |scope| u32::from_ne_bytes(*scope));
    let flow = u32::from_be_bytes(*flow);
    Some(SocketAddrV6::new(Ipv6Addr::from(*address), u16::from_be_bytes(*port), flow, scope).into())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::{any, proptest};
    use rustix::net::addr::SocketAddrArg;

    use super::{Decoded, decode};

    fn encode(address: SocketAddr) -> Vec<u8> {
        let any = address.as_any();
        let length = any.addr_len() as usize;
        // Round the way through the kernel-facing encoder, which is not ours.
        let mut bytes = vec![0; length];
        match address {
            SocketAddr::V4(v4) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                bytes[2..4].copy_from_slice(&v4.port().to_be_bytes());
                bytes[4..8].copy_from_slice(&v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                bytes[2..4].copy_from_slice(&v6.port().to_be_bytes());
                bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn every_address_is_read_back(address in any::<SocketAddr>()) {
            assert_eq!(decode(&encode(address)), Decoded::Inet(address));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..150)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_cut_address_is_never_guessed(address in any::<SocketAddr>(), length in 0_usize..28) {
            let bytes = encode(address);
            let cut = &bytes[..length.min(bytes.len())];
            let enough = if address.is_ipv4() { 16 } else { 24 };
            assert_eq!(matches!(decode(cut), Decoded::Inet(_)), cut.len() >= enough);
        }
    }

    #[test]
    fn other_families_are_not_ours() {
        assert_eq!(decode(b""), Decoded::Other);
        let mut unix = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        unix.extend(b"/run/a.sock\0");
        assert_eq!(decode(&unix), Decoded::Other);
    }
}
