//! The load engine: open loop, timed from the intended send.
//!
//! A [`Plan`] says when; [`Lane`]s say where and what. The schedule never waits for an answer, so a stall of the
//! service lengthens latencies instead of thinning the load (no coordinated omission). Requests that find every
//! connection busy wait in a backlog, and their wait is part of their latency.
//!
//! # Theory of operation
//!
//! [`spawn`] starts a thread that coordinates (`engine`) and one or more that carry the load. HTTP/1.1 over TCP and
//! Unix sockets is ours (`shard`): one epoll loop a thread, requests built beforehand, no task, lock or allocation
//! for a request. HTTP/2 and TLS (`streams`) are tasks on a tokio runtime of the thread's own. Both are paced by
//! the same `schedule` and write to the same `recorder`; what each thread measured is merged exactly.
//!
//! Deliberately absent: any knowledge of runtimes, epochs or verdicts.

#[doc(hidden)]
pub mod bench;
mod check;
mod clock;
mod connection;
mod cookies;
mod cost;
mod engine;
mod error;
mod exchange;
mod gaps;
mod http1;
mod pace;
mod prepare;
mod recorder;
mod rotation;
pub mod saturation;
mod schedule;
mod series;
mod shard;
mod socket;
mod streams;
mod sys;
mod template;
#[cfg(test)]
mod tests;
mod variables;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::model::{
    load::{ClientCost, ConnectionCounts, Pacing, Precision, ReceiveClock},
    load_report::LoadMeasured,
    measurement::LaneMeasurement,
    request::{Request, Variables},
    settings::ConnectionUse,
};
pub use error::LoadError;
pub use schedule::{Arrival, Schedule};
pub use series::Interval;
pub use socket::Peer;

/// When to send, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// When requests are sent; only one lane is loaded at a time.
    pub pacing: Pacing,
    /// The slots, one after the other. A request belongs to the slot it was scheduled in.
    pub slots: Vec<Slot>,
    /// Connections per address at most. Requests beyond them wait, and their wait counts. In a closed loop, the
    /// clients of each address.
    pub connections: u32,
    /// Whether connections are used again.
    pub connection_use: ConnectionUse,
    /// From a request's actual send to its last byte, one retry included.
    pub timeout: Duration,
    /// How exact, and at what cost.
    pub tuning: Tuning,
    /// What is spoken on the connections.
    pub transport: Transport,
    /// Each connection is a client that keeps the cookies it is given, also when it has to connect anew.
    pub cookies: bool,
    /// Keep every request as a sample, not only the histograms; at most 5 million over all lanes.
    pub keep_samples: bool,
    /// Keep the course of the load in slices of 100 ms.
    pub series: bool,
}

impl Plan {
    /// With the defaults: 64 connections that are kept alive, a time-out of 5 s, HTTP/1.1.
    pub fn new(pacing: Pacing, slots: Vec<Slot>) -> Self {
        Self {
            pacing,
            slots,
            connections: 64,
            connection_use: ConnectionUse::KeepAlive,
            timeout: Duration::from_secs(5),
            tuning: Tuning::default(),
            transport: Transport::default(),
            cookies: false,
            keep_samples: false,
            series: false,
        }
    }
}

/// How exact a load is, and at what cost to the machine it shares.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How hard it tries to be on time.
    pub precision: Precision,
    /// Which clock says that an answer is there; the kernel's only where it stamps arrivals.
    pub receive_clock: ReceiveClock,
    /// Threads that carry the load; connections are shared out among them.
    pub threads: u32,
    /// The CPUs to pin the threads to, in turn; none are pinned when empty.
    pub cores: Vec<usize>,
    /// Ask for real-time scheduling (`SCHED_FIFO`), which needs a privilege and is dangerous on a single core.
    pub realtime: bool,
    /// The 99th percentile of the engine's own lag beyond which a load is disturbed; by default what its precision
    /// promises on a machine that is not overloaded.
    pub lag_limit: Option<Duration>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            precision: Precision::default(),
            receive_clock: ReceiveClock::default(),
            threads: 1,
            cores: Vec::new(),
            realtime: false,
            lag_limit: None,
        }
    }
}

/// What is spoken on the connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// The version of HTTP.
    pub protocol: Protocol,
    /// Encrypted, and whom to trust.
    pub tls: Option<Tls>,
}

/// The version of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1: one request at a time on a connection.
    #[default]
    Http1,
    /// HTTP/2: many at a time on a connection; without TLS the server must know beforehand.
    Http2,
}

/// How a server proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The name its certificate must be for.
    pub server_name: String,
    /// Who may have signed it.
    pub trust: Trust,
}

/// Whose certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The system's.
    System,
    /// Those signed by the certificates in a PEM file.
    File(PathBuf),
    /// All, without a check.
    Anything,
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
    pub peers: Vec<Peer>,
    /// What is sent, by weight. A `Host` header is added unless a request brings its own.
    pub requests: Vec<Request>,
    /// The variables in the requests.
    pub variables: Variables,
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
    /// What the load itself took, and whether it was in the way of what it measured.
    pub client: ClientCost,
    /// What happened on the connections, other than requests.
    pub connections: ConnectionCounts,
}

impl Measured {
    /// The figures of a load on one lane; of more lanes, of the last.
    pub fn into_last_lane(mut self) -> LoadMeasured {
        LoadMeasured {
            scheduled: self.scheduled,
            elapsed: self.elapsed,
            lane: self.lanes.pop().unwrap_or_default(),
            client: self.client,
            connections: self.connections,
        }
    }
}

/// Is told of a load's course while it runs, ten times a second and lane. Called on a thread of the engine's own.
pub type Observer = Box<dyn FnMut(Interval) + Send>;

/// A load under way. Dropping it ends the load at once, and what it measured is lost.
pub struct LoadHandle {
    started: Instant,
    outcome: oneshot::Receiver<Result<Measured, LoadError>>,
    control: Arc<engine::Control>,
}

impl LoadHandle {
    /// The moment the schedule counts from.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Begins another phase now: see [`LaneMeasurement::phases`]. The eighth phase is the last.
    pub fn begin_phase(&self) {
        self.control.begin_phase();
    }

    /// Waits for the end of the schedule, or for `stop`, and then for the requests under way.
    ///
    /// # Errors
    /// When the timer failed or a thread of the load died.
    pub async fn finish(mut self) -> Result<Measured, LoadError> {
        (&mut self.outcome).await.unwrap_or(Err(LoadError::Died))
    }
}

impl Drop for LoadHandle {
    fn drop(&mut self) {
        self.control.abandon();
    }
}

/// Starts a load and returns as soon as its schedule has begun.
///
/// When `stop` turns true the schedule ends there. At its end, requests that still wait for a connection may be
/// sent for another `plan.timeout`, and those under way have their own time-out, so [`LoadHandle::finish`] returns
/// within twice the time-out. A `stop` whose sender is gone never stops the load.
///
/// # Errors
/// When the plan makes no sense, a request cannot be built, or a thread, its event loop or its timer cannot be made.
pub fn spawn(
    plan: Plan,
    lanes: Vec<Lane>,
    stop: watch::Receiver<bool>,
    observer: Option<Observer>,
) -> Result<LoadHandle, LoadError> {
    let course = if plan.series || observer.is_some() {
        engine::Course::Kept { series: plan.series, observer }
    } else {
        engine::Course::None
    };
    let (started, outcome, control) = engine::start(prepare::prepare(plan, lanes)?, stop, course)?;
    Ok(LoadHandle { started, outcome, control })
}

/// Runs a load to its end.
///
/// ```
/// # use std::time::Duration;
/// # use qbench::{load::{self, Lane, Plan, Route, Slot}, model::{load::Pacing, request::Request}};
/// # async fn example(address: std::net::SocketAddr) -> Result<(), load::LoadError> {
/// let slot = Slot { lane: 0, length: Duration::from_secs(10) };
/// let plan = Plan::new(Pacing::constant(1000.0), vec![slot]);
/// let route =
///     Route { peers: vec![address.into()], requests: vec![Request::get("/")], variables: Default::default() };
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
    spawn(plan, lanes, stop, None)?.finish().await
}
