//! What the compiler cannot check of the supervisor itself; its inner rooms have a file like this of their own.

use std::{
    io,
    ops::Range,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::Command,
    sync::Arc,
};

use rustix::{
    mm::{Advice, madvise},
    process::setsid,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Makes what `command` starts the leader of a new session, so that signals from a terminal do not reach it.
pub fn in_own_session(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only what is async-signal-safe may be called. setsid is one system call; it
    // takes no lock, and its error is a number that is turned into an io::Error without an allocation.
    unsafe { command.pre_exec(|| setsid().map(drop).map_err(io::Error::from)) }
}

/// Has the runtime wait for a descriptor.
pub(super) fn readable(descriptor: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an OwnedFd is open and names the same description for as long as it lives, and always reports the same
    // number; the Arc keeps it in place, and nothing takes it out of the AsyncFd.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// Lets go of pages of code, which are read from their file again when they are needed.
///
/// `code` must be a mapping of a file that is executable, private and never written to.
pub(super) fn let_go(code: Range<usize>) {
    // SAFETY: by the above each page is what the file has: position-independent code has no relocations in it. Nothing
    // unmaps it while we run.
    let _ = unsafe { madvise(code.start as *mut _, code.end - code.start, Advice::LinuxDontNeed) };
}
