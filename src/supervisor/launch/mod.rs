//! Starting processes: plain ones at once, special ones through a wrapper; and the sockets that outlive them.
//!
//! # Theory of operation
//! [`spawn()`] calls `posix_spawn`, which shares our memory with the child until the exec instead of copying page tables: it
//! costs the same with a heap of 1 GB, and it reports a failed exec as its own result. What `posix_spawn` cannot do (another
//! user, limits, `LISTEN_PID`, a cgroup, a seccomp filter) is done by our own binary, started in the app's place with sealed
//! [`Orders`]: [`run_wrapper`] carries them out and becomes the app, under the same process id. How that went is told by a
//! [`Report`], whose descriptor becomes readable.
//!
//! Sockets reach an app in one of two ways. Where the app takes descriptors, [`ListenAddress`], [`open_listener`] and
//! [`pass_environment`] serve it. Where it does not, `transparent` watches its `bind` and `listen` and swaps our socket in.
//!
//! A supervisor calls [`close_all_on_exec`] once when it begins: what its own starter left open would reach every app.
//!
//! Deliberately absent: waiting for the child, its output, its restarts. No parent-death signal: apps survive us.

mod address;
mod cgroup;
mod orders;
mod pass;
mod report;
mod spawn;
mod sys;
#[cfg(test)]
mod tests;
mod transparent;
mod user;
mod wrapper;

pub(super) use address::ListenAddress;
pub(super) use cgroup::{Cgroup, ProcessCap, cap_processes};
pub(super) use orders::{Identity, Limit, LimitKind, Orders};
pub(super) use pass::{FIRST_PASSED, open_listener, pass_environment};
pub(super) use report::{Outcome, Report};
pub(super) use spawn::{Launch, Wrap, spawn};
pub(super) use sys::close_all_on_exec;
pub(super) use transparent::{
    Drain, HeldSocket, ListenSockets, Notifier, Remaining, TransparentEvent, remaining, retire, steer,
    supported,
};
pub(super) use wrapper::run_wrapper;
#[cfg(test)]
use {
    report::{Failure, Step},
    spawn::LaunchError,
    transparent::Unmanaged,
};
