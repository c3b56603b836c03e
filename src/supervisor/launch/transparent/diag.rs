//! The connections of a local port, from the kernel's socket diagnostics.
//!
//! Chosen over `/proc/net/tcp`, which formats every connection of the host including the thousands that only wait out their
//! time: here the kernel itself leaves out other ports and states.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) handshake: bool,
    /// 0 while no process has accepted it, and after the last one has closed it.
    pub(super) inode: u64,
}

/// The connections of `port` that are neither listening nor closed.
pub(super) fn connections(family: AddressFamily, port: u16) -> io::Result<Vec<Connection>> {
    let protocol = Some(netlink::SOCK_DIAG);
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    rustix::net::send(&socket, &request(family, port), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (length, whole) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::TRUNC)?;
        let packet = buffer.get(..length.min(whole)).unwrap_or_default();
        if packet.len() < whole || packet.is_empty() {
            return Err(damaged());
        }
        if !read_packet(packet, &mut found)? {
            return Ok(found);
        }
    }
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const NEW_SYN_RECV: u8 = 12;
/// `inet_diag_msg`: two bytes of interest at its start, the inode at its end.
const MESSAGE_BYTES: usize = 72;

fn request(family: AddressFamily, port: u16) -> Vec<u8> {
    const DUMP: u16 = 0x301;
    // FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and CLOSING are 4, 5, 8, 9 and 11.
    let states = [ESTABLISHED, SYN_RECV, NEW_SYN_RECV, 4, 5, 8, 9, 11];
    let states = states.iter().fold(0_u32, |bits, state| bits | (1 << state));
    let mut body = vec![family.as_raw() as u8, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(states.to_ne_bytes());
    // The rest is an `inet_diag_sockid`, of which only the local port is a condition.
    body.extend(port.to_be_bytes());
    body.resize(56, 0);
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(DUMP.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Reads one packet of messages; false when the last one has come.
fn read_packet(mut packet: &[u8], found: &mut Vec<Connection>) -> io::Result<bool> {
    while let Some((header, _)) = packet.split_first_chunk::<16>() {
        let length = word(header, 0).ok_or_else(damaged)? as usize;
        let body = packet.get(16..length).ok_or_else(damaged)?;
        match u16::from_ne_bytes([header[4], header[5]]) {
            SOCK_DIAG_BY_FAMILY => found.push(read_message(body).ok_or_else(damaged)?),
            kind if i32::from(kind) == libc::NLMSG_DONE => return Ok(false),
            kind if i32::from(kind) == libc::NLMSG_ERROR => {
                let errno = word(body, 0).ok_or_else(damaged)?.cast_signed();
                return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
            }
            _ => {}
        }
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn read_message(body: &[u8]) -> Option<Connection> {
    let state = *body.get(1)?;
    let inode = u64::from(word(body, MESSAGE_BYTES - 4)?);
    Some(Connection { handshake: state == SYN_RECV || state == NEW_SYN_RECV, inode })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's socket diagnostics are damaged")
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use proptest::prelude::{any, proptest};
    use rustix::net::AddressFamily;

    use super::connections;

    #[test]
    fn an_accepted_connection_has_an_inode() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(connections(AddressFamily::INET, port).unwrap(), []);
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let waiting = connections(AddressFamily::INET, port).unwrap();
        assert_eq!(waiting.iter().map(|one| (one.handshake, one.inode)).collect::<Vec<_>>(), [(false, 0)]);
        let (accepted, _) = listener.accept().unwrap();
        let inode = rustix::fs::fstat(accepted.as_fd()).unwrap().st_ino;
        let found = connections(AddressFamily::INET, port).unwrap();
        assert_eq!(found.iter().map(|one| one.inode).collect::<Vec<_>>(), [inode]);
        drop(accepted);
        let left = connections(AddressFamily::INET, port).unwrap();
        assert!(left.iter().all(|one| one.inode == 0));
    }

    proptest! {
        #[test]
        fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = super::read_packet(&packet, &mut Vec::new());
        }
    }
}
