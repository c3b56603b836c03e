//! The load engine: open loop, timed from the intended send.
//!
//! A [`Plan`] says when; [`Lane`]s say where and what. The schedule never waits for an answer, so a stall of the
//! service lengthens latencies instead of thinning the load (no coordinated omission).
//!
//! Deliberately absent: any knowledge of runtimes, epochs or verdicts.

use std::{net::SocketAddr, time::Duration};

use crate::model::{settings::ConnectionUse, workload::Request};

/// When to send, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Requests per second over all lanes; only one lane is loaded at a time.
    pub rate_per_second: f64,
    /// The slots, one after the other. A request belongs to the slot it was scheduled in.
    pub slots: Vec<Slot>,
    /// Connections per route at most. Requests beyond them wait, and their wait counts.
    pub connections: u32,
    /// Whether connections are used again.
    pub connection_use: ConnectionUse,
    /// From a request's actual send to its last byte.
    pub timeout: Duration,
    /// Keep every request as a sample, not only the histograms.
    pub keep_samples: bool,
}

/// A slice of time in which one lane is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Index into the lanes.
    pub lane: usize,
    /// How long.
    pub length: Duration,
}

/// One receiver of load.
#[derive(Clone, Debug)]
pub struct Lane {
    /// For messages.
    pub name: String,
    /// Where requests go and what they are.
    pub routes: Vec<Route>,
}

/// One service of a lane: its requests are spread over its addresses in turn.
#[derive(Clone, Debug)]
pub struct Route {
    /// The addresses of its instances.
    pub addresses: Vec<SocketAddr>,
    /// What is sent, by weight.
    pub requests: Vec<Request>,
}
