//! Moving an address from one generation of an app to the next.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use rustix::net::Shutdown;

use super::sockets::{Group, ListenSockets};
#[cfg(test)]
use super::sys::TcpState;
use super::sys::{self, instruction};

/// Sends all new connections of `address` to the socket of `generation`, which must listen. What the others already have in
/// their queues stays theirs.
pub(crate) fn steer(sockets: &dyn ListenSockets, address: SocketAddr, generation: u64) -> io::Result<()> {
    let group = Group::of(sockets, address)?;
    let listening: Vec<_> = group.listening().collect();
    let chosen = listening.iter().position(|member| member.generation == generation);
    match (chosen, listening.last()) {
        (Some(index), Some(member)) => select(member.socket, index as u32),
        _ => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("generation {generation} does not listen on {address}"),
        )),
    }
}

/// Whether an app has called `listen` on a held socket: for a supervisor that took over and may have missed the event.
#[cfg(test)]
pub(crate) fn is_listening(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(sys::listen_info(socket)?.state == TcpState::Listening)
}

/// Ends the socket of an old generation for everyone who still has it open; then drop all copies of it. Its processes must have ended and its queue
/// must be empty: what is left in it is reset.
pub(crate) fn retire(socket: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::net::shutdown(socket, Shutdown::Read) {
        // It never listened.
        Err(rustix::io::Errno::NOTCONN) => Ok(()),
        done => Ok(done?),
    }
}

/// Makes the group of `socket` use its member number `index` alone. A number without a member means any of them, to the
/// kernel: when the old socket has left, the new one is still the only choice.
pub(super) fn select(socket: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    sys::attach_selector(socket, &mut [instruction(libc::BPF_RET | libc::BPF_K, index, 0, 0)])
}
