//! The sockets that the supervisor holds for an app.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::sockopt;

use super::sys::{self, TcpState};

/// A socket and the generation of the app it was made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeldSocket<'a> {
    pub(crate) generation: u64,
    pub(crate) socket: BorrowedFd<'a>,
}

/// The supervisor's store of the sockets of one app; all its instances use the same.
pub(crate) trait ListenSockets {
    /// Those held for exactly this address, in any order.
    fn held(&self, address: SocketAddr) -> Vec<HeldSocket<'_>>;

    /// Takes a new socket. It must be safe from the supervisor's death when this returns: the app gets it next.
    fn keep(&mut self, address: SocketAddr, generation: u64, socket: OwnedFd) -> io::Result<()>;
}

/// The sockets of one address, the oldest generation first.
pub(super) struct Group<'a>(Vec<Member<'a>>);

#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) generation: u64,
    pub(super) socket: BorrowedFd<'a>,
    pub(super) cookie: u64,
    pub(super) listening: bool,
}

impl<'a> Group<'a> {
    pub(super) fn of(sockets: &'a dyn ListenSockets, address: SocketAddr) -> io::Result<Self> {
        let mut members = Vec::new();
        for HeldSocket { generation, socket } in sockets.held(address) {
            let state = sys::listen_info(socket)?.state;
            // Somebody has connected it instead of listening: it is no use to others.
            if state != TcpState::Connected {
                let cookie = sockopt::socket_cookie(socket)?;
                members.push(Member { generation, socket, cookie, listening: state == TcpState::Listening });
            }
        }
        members.sort_by_key(|member| member.generation);
        Ok(Self(members))
    }

    /// Only the sockets for both families, or only those for one.
    pub(super) fn with_v6only(self, v6only: Option<bool>) -> Self {
        let same = |member: &Member<'_>| {
            v6only
                .is_none_or(|wanted| sockopt::ipv6_v6only(member.socket).is_ok_and(|v6only| v6only == wanted))
        };
        Self(self.0.into_iter().filter(same).collect())
    }

    pub(super) fn newest(&self) -> Option<Member<'a>> {
        self.0.last().copied()
    }

    pub(super) fn by_cookie(&self, cookie: u64) -> Option<Member<'a>> {
        self.0.iter().find(|member| member.cookie == cookie).copied()
    }

    /// In the kernel's order.
    pub(super) fn listening(&self) -> impl Iterator<Item = Member<'a>> {
        self.0.iter().copied().filter(|member| member.listening)
    }
}
