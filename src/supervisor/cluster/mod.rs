//! The primary of a Node cluster, without Node: unmodified applications that call `listen` run as its workers, share
//! their listening sockets, and are replaced without losing a request.
//!
//! Theory of operation. One [`Cluster`] belongs to one application. It owns the listening sockets (`listener`), one
//! [`Channel`] to each worker and what that worker was told (`worker`). It acts when its caller says that a channel is
//! readable or writable (`dialogue`), that a worker came or ended (`primary`), or that somebody waits at a socket whose
//! own worker is gone (`orphans`); it never waits and starts no process.
//!
//! By default each slot – the place of a worker, which its successor takes over – has a `SO_REUSEPORT` socket of its
//! own, which this process holds while workers come and go; the old and the new worker of a slot share it. Sockets on
//! port 0, Unix sockets, UDP sockets and inherited ones are shared by all workers.
//!
//! This process may be killed at any moment. What matters is in a [`Vault`] before anybody relies on it: each listening
//! socket before a worker has it, and a note about each worker before its message is taken from the channel. So a
//! message may be dealt with twice, which does no harm: the answer to a query is given again (Node ignores the second
//! one), and a second `disconnect` is swallowed by [`DRAIN_SHIM`]. Our numbers of messages begin anew, far above the old
//! ones, with each process. Two things cannot be made safe. A descriptor that a worker *sends*: a second acknowledgement
//! would be fatal to it, so the message is taken first, and a kill between these two system calls leaves that worker's
//! channel silent until it is replaced. And a connection that is being handed over: a kill between `accept` and
//! `sendmsg` resets it, as does one before the next worker is asked when the first has refused it.
//!
//! A drain: [`Cluster::disconnect`]; the worker closes its servers and, with the last connection, its channel. At the
//! latest then – [`Outcome::Closed`] – the caller sends SIGINT, and SIGKILL once the time-out has passed. A worker whose
//! channel ends without a drain exits by itself.
//!
//! Deliberately absent: processes, clocks that tick by themselves, round robin (a connection is handed over only when
//! nobody else would take it), the `advanced` serialization, and any use for descriptors that workers send.

mod bind;
mod channel;
mod dialogue;
mod listener;
mod message;
mod note;
mod orphans;
mod primary;
mod query;
mod sys;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use serde_json::Value;

pub(super) use channel::Channel;
pub(super) use primary::{Admission, Cluster};

/// The file to load with `node --require`: inert until the drain, then it has idle connections closed with care. It
/// does nothing unless [`DRAIN_GRACE`] is set.
pub(super) const DRAIN_SHIM: &str = include_str!("drain.js");

/// The environment variable that tells [`DRAIN_SHIM`] how long, in milliseconds, an idle connection is kept after the
/// drain has begun; longer than clients think between two requests, and some 300 ms less than the kill time-out.
pub(super) const DRAIN_GRACE: &str = "QBENCH_DRAIN_GRACE_MS";

/// Keeps things so that they outlive this process.
pub(super) trait Vault {
    /// Keeps a duplicate of a descriptor. A second one of the same name takes the place of the first.
    fn keep(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()>;
    /// Closes the descriptor that was kept under the name.
    fn discard(&mut self, name: &str);
    /// Keeps a note in place of the one of the same key.
    fn note(&mut self, key: &str, value: &[u8]) -> io::Result<()>;
    /// Throws the note away.
    fn forget(&mut self, key: &str);
}

/// Who gets which socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Policy {
    /// Each slot has a socket of its own.
    #[default]
    ReusePort,
    /// All workers share one.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is what the other is measured against"))]
    Shared,
}

/// How a cluster is run.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) policy: Policy,
    /// What `listen({fd})` may ask for, by number. Nothing else of this process's is ever given away.
    pub(super) inherited: BTreeMap<i32, OwnedFd>,
}

/// What a worker did.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Online,
    /// A server of its listens; without a port: on a Unix socket or a descriptor.
    Listening {
        address: Option<String>,
        port: Option<u16>,
    },
    /// The application said `"ready"`.
    Ready,
    /// Any other message of the application's.
    Message(Value),
    /// A message of the application's that was too long or not representable.
    Dropped,
    /// It wants to end and has been let go: its channel will close.
    Leaving,
    /// It could not have the socket it asked for, for this errno.
    Refused {
        key: String,
        errno: i32,
    },
    /// The vault failed: what it should have kept dies with this process. [`Cluster::replay`] mends it.
    Unkept(String),
    /// The channel has ended.
    Closed,
    /// What came was not the cluster's protocol; the channel is given up.
    Broken(String),
}

/// What [`Cluster::readable`] found.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) outcomes: Vec<Outcome>,
    /// There may be more: to be called again without waiting, after the others had their turn.
    #[cfg_attr(not(test), expect(dead_code, reason = "whoever is told again of what is left need not ask"))]
    pub(super) more: bool,
}

/// What makes a Node process a worker whose channel is the descriptor of this number in it.
pub(super) fn environment(worker: u64, descriptor: i32) -> [(&'static str, String); 2] {
    // Node makes a signed number of 32 bits of it, which nothing depends on.
    let number = worker & u64::from(i32::MAX.unsigned_abs());
    [("NODE_CHANNEL_FD", descriptor.to_string()), ("NODE_UNIQUE_ID", number.to_string())]
}
