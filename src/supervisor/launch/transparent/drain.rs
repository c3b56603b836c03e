//! When an old generation has answered everything that was its own.
//!
//! Three places can still hold a request after [`steer`](super::steer): a handshake that began before (it ends in the old
//! queue), the old socket's queue, and a connection that an old process has accepted.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::caller::socket_inodes;
use super::{diag, sys};

/// What an old generation has left to do on one address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Remaining {
    /// In the old socket's queue, accepted by nobody.
    pub(crate) queued: u32,
    /// Handshakes under way on the port. They may be of either generation.
    pub(crate) handshakes: u32,
    /// Connections that one of the old processes has open.
    pub(crate) open: u32,
}

/// Counts what is left on the old socket. `processes` are all of the old generation, children included. Costs a few
/// system calls, and a look at each of their descriptors.
pub(crate) fn remaining(old: BorrowedFd<'_>, processes: &[u32]) -> io::Result<Remaining> {
    let local = SocketAddr::try_from(rustix::net::getsockname(old)?)?;
    let queued = sys::listen_info(old)?.queued;
    let mut left = Remaining { queued, ..Remaining::default() };
    let connections = diag::connections(sockopt::socket_domain(old)?, local.port())?;
    if connections.is_empty() {
        return Ok(left);
    }
    let inodes: BTreeSet<u64> = processes.iter().flat_map(|pid| socket_inodes(*pid)).collect();
    for connection in connections {
        left.handshakes += u32::from(connection.handshake);
        left.open += u32::from(connection.inode != 0 && inodes.contains(&connection.inode));
    }
    Ok(left)
}

/// Decides from repeated counts when an old generation can be stopped.
#[derive(Debug)]
pub(crate) struct Drain {
    steered_at: Instant,
    calm: u32,
}

impl Drain {
    /// Begins when the new connections have been steered away.
    pub(crate) fn begin(now: Instant) -> Self {
        Self { steered_at: now, calm: 0 }
    }

    /// Takes the next count, all addresses summed up; true when nothing is left. Ask every 10 to 50 ms, up to a deadline of
    /// the caller's.
    pub(crate) fn is_over(&mut self, now: Instant, left: &Remaining) -> bool {
        let handshakes_over =
            left.handshakes == 0 || now.saturating_duration_since(self.steered_at) > HANDSHAKE;
        let calm = left.queued == 0 && left.open == 0 && handshakes_over;
        self.calm = if calm { self.calm.saturating_add(1) } else { 0 };
        // Between the queue and the process's table a connection is for an instant in neither.
        self.calm >= CALM_COUNTS
    }
}

const CALM_COUNTS: u32 = 2;

/// The longest round trip that we wait for. A later one is reset when the old socket goes, unless the host has
/// `net.ipv4.tcp_migrate_req` set, which moves it to the new one.
const HANDSHAKE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::{Drain, Remaining, remaining};

    #[test]
    fn over_after_two_calm_counts() {
        let start = Instant::now();
        let calm = Remaining::default();
        let cases: [(&[Remaining], bool); 6] = [
            (&[calm], false),
            (&[calm, calm], true),
            (&[calm, Remaining { queued: 1, ..calm }, calm], false),
            (&[calm, Remaining { open: 1, ..calm }, calm, calm], true),
            (&[Remaining { handshakes: 1, ..calm }; 2], false),
            (&[Remaining { open: 3, ..calm }; 2], false),
        ];
        for (counts, expected) in cases {
            let mut drain = Drain::begin(start);
            let over = counts.iter().map(|left| drain.is_over(start, left)).fold(false, |_, last| last);
            assert_eq!(over, expected, "{counts:?}");
        }
        let mut drain = Drain::begin(start);
        let later = start + Duration::from_secs(2);
        let handshake = Remaining { handshakes: 9, ..calm };
        assert!(!drain.is_over(later, &handshake) && drain.is_over(later, &handshake));
    }

    #[test]
    fn the_queue_then_the_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let me = [std::process::id()];
        assert_eq!(remaining(listener.as_fd(), &me).unwrap(), Remaining::default());
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(remaining(listener.as_fd(), &me).unwrap(), Remaining { queued: 1, ..Default::default() });
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(remaining(listener.as_fd(), &me).unwrap(), Remaining { open: 1, ..Default::default() });
        assert_eq!(remaining(listener.as_fd(), &[]).unwrap(), Remaining::default());
        drop((client, accepted));
        assert_eq!(remaining(listener.as_fd(), &me).unwrap(), Remaining::default());
    }
}
