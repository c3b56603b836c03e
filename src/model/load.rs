//! How a load is paced, what it cost the machine it ran on, and its course over time.

use std::{collections::BTreeMap, fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sample::{ErrorClass, LatencyHistogram};

/// When requests are sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Pacing {
    /// Open loop: at moments that do not depend on answers.
    Open {
        /// The rate over time.
        shape: Shape,
        /// How arrivals lie around it.
        arrivals: Arrivals,
    },
    /// Closed loop: each client sends its next request when it has the answer to the last. A stall then thins the
    /// load, so latencies are not those of users who come when they like.
    Closed {
        /// Between an answer and the client's next request.
        think: Duration,
    },
}

impl Pacing {
    /// Open loop, evenly spaced, at one rate.
    pub fn constant(rate_per_second: f64) -> Self {
        Self::Open { shape: Shape::constant(rate_per_second), arrivals: Arrivals::Even }
    }
}

/// A rate over time, in requests per second.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Straight lines, one after the other; the last one's end rate goes on for ever.
    Stages(Vec<Stage>),
    /// `mean + amplitude · sin(2πt / period)`.
    Sine {
        /// The rate in the middle.
        mean: f64,
        /// At most `mean`.
        amplitude: f64,
        /// From one rise through the mean to the next.
        period: Duration,
    },
}

impl Shape {
    /// One rate for ever.
    pub fn constant(rate_per_second: f64) -> Self {
        Self::Stages(vec![Stage { from: rate_per_second, to: rate_per_second, length: Duration::ZERO }])
    }
}

/// A stretch of time in which the rate goes evenly from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// Requests per second at its beginning.
    pub from: f64,
    /// Requests per second at its end.
    pub to: f64,
    /// How long it takes; zero for a jump.
    pub length: Duration,
}

/// How arrivals lie around the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// The k-th comes when the integral of the rate reaches k.
    Even,
    /// A Poisson process, as independent users make: the gaps are exponential.
    Poisson {
        /// The same seed gives the same arrivals.
        seed: u64,
    },
}

/// How exactly requests are sent on time, and how much of a core that may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Sleeps only; sends in batches, up to a millisecond late.
    Eco,
    /// Wakes as early as nearly all sleeps end late, and spins to the moment. Where requests are closer than that it
    /// takes a whole core, on a machine with a single one half of it.
    #[default]
    Balanced,
    /// Wakes as early as the latest sleeps end, 200 µs at least: a whole core from 5,000 requests per second on.
    Exact,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Eco => "eco",
            Self::Balanced => "balanced",
            Self::Exact => "exact",
        })
    }
}

/// Which clock said when an answer was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReceiveClock {
    /// The kernel's, at the arrival of the answer's last packet: the client's own wake-up is not counted.
    #[default]
    Kernel,
    /// The client's own, after it had read the answer.
    User,
}

impl fmt::Display for ReceiveClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel",
            Self::User => "user",
        })
    }
}

/// What the load took of the machine, and whether it was itself in the way of what it measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientCost {
    /// Which clock the latencies are from; the worse of the two where both had to be used.
    pub receive_clock: ReceiveClock,
    /// CPU time of the load's threads, spinning included.
    pub cpu: Duration,
    /// Of it, spent spinning towards the moment of a request.
    pub spun: Duration,
    /// The time in which the load's threads wanted to run and were not let; `None` where the kernel does not tell.
    pub waited_for_cpu: Option<Duration>,
    /// Threads that carried the load.
    pub threads: u32,
    /// From the intended moment to when the engine turned to the request: only the client's own delay, unlike the
    /// send lag, in which waiting for a connection is included.
    pub own_lag: LatencyHistogram,
    /// Why the measurement cannot be trusted as the service's alone; empty when it can.
    pub disturbances: Vec<Disturbance>,
}

/// A way in which the load's own machine was in the way.
#[derive(Clone, Debug, PartialEq)]
pub enum Disturbance {
    /// The engine came too late to too many requests.
    Lag {
        /// The 99th percentile of the own lag.
        p99: Duration,
        /// What it may be.
        limit: Duration,
    },
    /// A thread of the load had next to no idle time left.
    Saturated {
        /// CPU time less spinning, over time: 1 is a whole core.
        busy_share: f64,
    },
    /// The load's threads did not get a core when they wanted one.
    Starved {
        /// Waiting time over running time of the load.
        waiting_share: f64,
    },
    /// Requests were given up because more were waiting than are kept.
    BacklogFull {
        /// How many.
        given_up: u64,
    },
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use super::units::format_duration;
        match self {
            Self::Lag { p99, limit } => write!(
                f,
                "the client itself was late: p99 of its own lag {}, limit {}",
                format_duration(*p99),
                format_duration(*limit)
            ),
            Self::Saturated { busy_share } => {
                write!(f, "the client was at its limit: {:.0}% of a core busy", busy_share * 100.0)
            }
            Self::Starved { waiting_share } => {
                write!(f, "the client waited for a core {:.1}% of the time", waiting_share * 100.0)
            }
            Self::BacklogFull { given_up } => write!(f, "{given_up} requests did not fit into the backlog"),
        }
    }
}

/// What happened on the connections, other than requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionCounts {
    /// Connections opened.
    pub opened: u64,
    /// Idle connections that the server closed: not an error, the next request opens another.
    pub closed_idle: u64,
}

/// A slice of a load's course, 100 ms unless the load is so long that slices were put together. What ended in it
/// is in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tick {
    /// Since the start of the load.
    pub start: Duration,
    /// Its length.
    pub length: Duration,
    /// Requests sent in it.
    pub sent: u64,
    /// Requests answered well in it.
    pub succeeded: u64,
    /// Requests failed in it, by class.
    pub failed: BTreeMap<ErrorClass, u64>,
    /// Median latency from the intended send; `None` when nothing was recorded in it.
    pub p50: Option<Duration>,
    /// 99th percentile of it.
    pub p99: Option<Duration>,
    /// The largest of it.
    pub max: Option<Duration>,
}
