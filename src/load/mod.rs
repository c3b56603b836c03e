//! The load engine: open loop, timed from the intended send.
//!
//! A [`Plan`] says when; [`Lane`]s say where and what. The schedule never waits for an answer, so a stall of the
//! service lengthens latencies instead of thinning the load (no coordinated omission). Requests that find every
//! connection busy wait in a backlog, and their wait is part of their latency.
//!
//! One thread of its own carries a load: [`spawn`] starts it, [`LoadHandle::finish`] brings back what was measured.
//!
//! Deliberately absent: any knowledge of runtimes, epochs or verdicts.

mod connection;
mod engine;
mod error;
mod prepare;
mod recorder;
mod rotation;
mod schedule;
#[cfg(test)]
mod tests;
mod timer;
mod worker;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::model::{measurement::LaneMeasurement, settings::ConnectionUse, workload::Request};
pub use error::LoadError;
pub use schedule::{Arrival, Schedule};

/// When to send, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Requests per second over all lanes; only one lane is loaded at a time.
    pub rate_per_second: f64,
    /// The slots, one after the other. A request belongs to the slot it was scheduled in.
    pub slots: Vec<Slot>,
    /// Connections per address at most. Requests beyond them wait, and their wait counts.
    pub connections: u32,
    /// Whether connections are used again.
    pub connection_use: ConnectionUse,
    /// From a request's actual send to its last byte, one retry included.
    pub timeout: Duration,
    /// Keep every request as a sample, not only the histograms; at most 5 million over all lanes.
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
    /// What is sent, by weight. A `Host` header is added unless a request brings its own.
    pub requests: Vec<Request>,
}

/// What a load brought back.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The moment the schedule counts from; the times of samples are since it.
    pub started: Instant,
    /// How long the schedule ran: the sum of the slots, or less when it was stopped.
    pub scheduled: Duration,
    /// From the start to the last outcome; longer than `scheduled` when requests were still under way at its end.
    pub elapsed: Duration,
    /// One measurement a lane, in the order of the lanes.
    pub lanes: Vec<LaneMeasurement>,
}

/// A load under way. Dropping it ends the load at once, and what it measured is lost.
#[derive(Debug)]
pub struct LoadHandle {
    started: Instant,
    outcome: oneshot::Receiver<Result<Measured, LoadError>>,
    /// The engine ends when the other half of this channel is gone.
    _wanted: oneshot::Sender<()>,
}

impl LoadHandle {
    /// The moment the schedule counts from.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits for the end of the schedule, or for `stop`, and then for the requests under way.
    ///
    /// # Errors
    /// When the timer failed or the load's thread died.
    pub async fn finish(self) -> Result<Measured, LoadError> {
        self.outcome.await.unwrap_or(Err(LoadError::Died))
    }
}

/// Starts a load and returns as soon as its schedule has begun.
///
/// When `stop` turns true the schedule ends there. At its end, requests that still wait for a connection may be
/// sent for another `plan.timeout`, and those under way have their own time-out, so [`LoadHandle::finish`] returns
/// within twice the time-out. A `stop` whose sender is gone never stops the load.
///
/// # Errors
/// When the plan makes no sense, a request cannot be built, or the thread, its runtime or its timer cannot be made.
pub fn spawn(plan: Plan, lanes: Vec<Lane>, stop: watch::Receiver<bool>) -> Result<LoadHandle, LoadError> {
    let load = prepare::prepare(plan, lanes)?;
    let (wanted, abandoned) = oneshot::channel();
    let (outcome_sender, outcome) = oneshot::channel();
    let (begun_sender, begun) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("qbench-load".to_owned())
        .spawn(move || {
            let signals = engine::Signals { stop, abandoned };
            // Nobody takes the outcome of an abandoned load.
            let _ = match engine::Engine::new(load) {
                Ok(engine) => {
                    let _ = begun_sender.send(Ok(engine.started()));
                    outcome_sender.send(engine.run(signals)).map_err(drop)
                }
                Err(error) => begun_sender.send(Err(error)).map_err(drop),
            };
        })
        .map_err(LoadError::Thread)?;
    // The thread answers as soon as its connections are open, which on loopback is milliseconds; at most a second.
    let started = begun.recv().map_err(|_| LoadError::Died)??;
    Ok(LoadHandle { started, outcome, _wanted: wanted })
}

/// Runs a load to its end.
///
/// ```
/// # use std::time::Duration;
/// # use qbench::{load::{self, Lane, Plan, Route, Slot}, model::{settings::ConnectionUse, workload::Request}};
/// # async fn example(address: std::net::SocketAddr) -> Result<(), load::LoadError> {
/// let plan = Plan {
///     rate_per_second: 1000.0,
///     slots: vec![Slot { lane: 0, length: Duration::from_secs(10) }],
///     connections: 64,
///     connection_use: ConnectionUse::KeepAlive,
///     timeout: Duration::from_secs(5),
///     keep_samples: false,
/// };
/// let request =
///     Request { method: "GET".into(), path: "/".into(), headers: vec![], body: vec![], weight: 1 };
/// let route = Route { addresses: vec![address], requests: vec![request] };
/// let lane = Lane { name: "service".into(), routes: vec![route] };
/// let (_stop, stopped) = tokio::sync::watch::channel(false);
/// let measured = load::run(plan, vec![lane], stopped).await?;
/// assert_eq!(measured.lanes[0].counts.offered, 10_000);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// See [`spawn`] and [`LoadHandle::finish`].
pub async fn run(plan: Plan, lanes: Vec<Lane>, stop: watch::Receiver<bool>) -> Result<Measured, LoadError> {
    spawn(plan, lanes, stop)?.finish().await
}
