//! Non-blocking stream sockets, and when the kernel received what is read from them.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::OnceLock,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
        sockopt,
    },
};

use super::sys;

/// For the kernel to begin with stamps.
const STAMPS_BEGIN: Duration = Duration::from_millis(200);

/// Where a route's requests are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl Peer {
    /// What a request to it calls its host, unless it says so itself.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

/// Begins a connection. It may be complete, under way or refused: the first send tells.
///
/// `stamped`: have the kernel note when data arrives.
pub(super) fn open(peer: &Peer, stamped: bool) -> Result<OwnedFd, Errno> {
    let family = match peer {
        Peer::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
        Peer::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
        Peer::Unix(_) => AddressFamily::UNIX,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    let connected = match peer {
        Peer::Tcp(address) => {
            sockopt::set_tcp_nodelay(&socket, true)?;
            if stamped {
                sys::stamp_arrivals(&socket);
            }
            connect(&socket, address)
        }
        Peer::Unix(path) => connect(&socket, &SocketAddrUnix::new(path)?),
    };
    match connected {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Has the kernel stamp what arrives on this machine, as long as this process lives, and says whether it does.
///
/// It begins to some milliseconds after the first socket asked for it: packets before that have no stamp.
pub(super) fn arrivals_are_stamped() -> bool {
    static STAMPED: OnceLock<Option<OwnedFd>> = OnceLock::new();
    STAMPED.get_or_init(|| stamped_socket().ok().flatten()).is_some()
}

/// A socket whose arrivals are stamped by now; `None` when they are not within a fifth of a second.
fn stamped_socket() -> io::Result<Option<OwnedFd>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let peer = Peer::Tcp(listener.local_addr()?);
    let receiver = open(&peer, true)?;
    let (mut sender, _) = listener.accept()?;
    let deadline = Instant::now() + STAMPS_BEGIN;
    let mut buffer = [0; 16];
    while Instant::now() < deadline {
        sender.write_all(b"?")?;
        let mut readable = [PollFd::new(&receiver, PollFlags::IN)];
        poll(&mut readable, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }))?;
        if sys::read_stamped(&receiver, &mut buffer)?.stamp_ns.is_some() {
            return Ok(Some(receiver));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(None)
}

/// How much went out.
pub(super) fn write(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    send(socket, bytes, SendFlags::NOSIGNAL)
}

/// How many bytes came in (0 at the end of the stream) and, of the last of them, the kernel's time of arrival on
/// `CLOCK_REALTIME` in nanoseconds, where it tells.
pub(super) struct Received {
    pub(super) length: usize,
    pub(super) stamp_ns: Option<i64>,
}

/// Reads without a time stamp.
pub(super) fn read(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Received, Errno> {
    let (length, _) = rustix::net::recv(socket, buffer, rustix::net::RecvFlags::empty())?;
    Ok(Received { length, stamp_ns: None })
}

/// What became of a connection that was under way, or is broken.
pub(super) fn error_of(socket: &OwnedFd) -> Option<Errno> {
    match sockopt::socket_error(socket) {
        Ok(Ok(())) => None,
        Ok(Err(error)) | Err(error) => Some(error),
    }
}

/// Raises the limit of open files to what is wanted, as far as this process may.
pub(super) fn allow_open_files(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        // Where it is not granted, opening fails with a class of its own.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{clock, sys::read_stamped};

    #[test]
    fn the_kernel_tells_when_it_was_there_not_when_it_was_read() {
        assert!(arrivals_are_stamped());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Peer::from(listener.local_addr().unwrap());
        let socket = open(&peer, true).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let before = clock::now_ns();
        server.write_all(b"answer").unwrap();
        let written = clock::now_ns();
        let pause = Duration::from_millis(20);
        std::thread::sleep(pause);
        let mut buffer = [0; 64];
        let deadline = Instant::now() + Duration::from_secs(10);
        let received = loop {
            match read_stamped(&socket, &mut buffer) {
                Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        assert_eq!(&buffer[..received.length], b"answer");
        let arrived = clock::Stamps::read().on_our_clock(received.stamp_ns.unwrap()).unwrap();
        // The two clocks may be slewed against each other by some microseconds meanwhile.
        let slack = 1_000_000;
        assert!(arrived + slack >= before && arrived <= written + slack, "{before} {arrived} {written}");
    }

    #[test]
    fn a_refused_connection_is_known_at_the_first_send() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = match open(&Peer::from(address), true) {
            Ok(socket) => write(&socket, b"x").unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(refused, Errno::CONNREFUSED);
    }
}
