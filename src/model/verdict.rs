//! The answer, per metric and overall, with its evidence.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::target::RuntimeIdentity;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Shown to be within the threshold.
    Pass,
    /// Shown to be beyond it.
    Fail,
    /// Neither was shown.
    Inconclusive,
    /// The measurement cannot be trusted.
    Invalid,
    /// The two records must not be set against each other.
    Incomparable,
}

impl Verdict {
    /// The word printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Invalid => "INVALID",
            Self::Incomparable => "INCOMPARABLE",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// How good the evidence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// One interleaved session.
    Paired,
    /// Stored records, each normalised by the control of its own session, on the same kind of machine.
    Controlled,
    /// Another machine: advisory only.
    AcrossHosts,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Paired => "paired",
            Self::Controlled => "controlled",
            Self::AcrossHosts => "across hosts (advisory)",
        })
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Median latency.
    P50,
    /// Mean latency.
    Mean,
    /// 95% latency.
    P95,
    /// 99% latency.
    P99,
    /// The slowest answer.
    MaxLatency,
    /// Failed requests.
    Errors,
    /// Anonymous memory of the service's processes.
    Memory,
    /// CPU time per request of the service's processes and of what runs them.
    CpuPerRequest,
    /// From the start command to every service ready.
    StartTime,
    /// Of a reload of every loaded service, to every endpoint healthy.
    ReloadTime,
    /// Of a restart of every loaded service, to every endpoint healthy.
    RestartTime,
    /// The highest rate that keeps p99 under a limit.
    Throughput,
    /// Growth of anonymous memory under steady load, per hour.
    MemoryGrowth,
}

impl Metric {
    /// Every metric, in the order of tables.
    pub const ALL: [Self; 13] = [
        Self::P50,
        Self::Mean,
        Self::P95,
        Self::P99,
        Self::MaxLatency,
        Self::Errors,
        Self::Memory,
        Self::CpuPerRequest,
        Self::StartTime,
        Self::ReloadTime,
        Self::RestartTime,
        Self::Throughput,
        Self::MemoryGrowth,
    ];

    /// Whether more of it is better. A change of such a metric is judged by how much less the candidate has.
    pub fn more_is_better(self) -> bool {
        self == Self::Throughput
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::P50 => "p50 latency",
            Self::Mean => "mean latency",
            Self::P95 => "p95 latency",
            Self::P99 => "p99 latency",
            Self::MaxLatency => "max latency",
            Self::Errors => "errors",
            Self::Memory => "memory (anonymous)",
            Self::CpuPerRequest => "CPU per 1,000 requests",
            Self::StartTime => "start to ready",
            Self::ReloadTime => "reload time",
            Self::RestartTime => "restart time",
            Self::Throughput => "throughput at saturation",
            Self::MemoryGrowth => "memory growth",
        }
    }
}

/// A value of one side, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "unit", content = "value")]
pub enum Quantity {
    /// Seconds.
    Seconds(f64),
    /// Bytes.
    Bytes(f64),
    /// A count.
    Count(f64),
    /// CPU milliseconds per 1,000 requests.
    CpuMs(f64),
    /// Requests per second.
    PerSecond(f64),
    /// Growth as a share of the memory, per hour.
    PerHour(f64),
}

/// The outcome for one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricVerdict {
    /// Which.
    pub metric: Metric,
    /// Advisory metrics do not decide the overall verdict.
    pub critical: bool,
    /// The baseline's typical value (median over epochs, or a total).
    pub baseline: Option<Quantity>,
    /// The candidate's, likewise.
    pub candidate: Option<Quantity>,
    /// The evidence.
    pub evidence: Evidence,
    /// The verdict.
    pub verdict: Verdict,
    /// One sentence for people, where the figures need one.
    pub note: Option<String>,
}

/// What a metric's verdict rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Evidence {
    /// A relative change, candidate over baseline less 1, with its interval.
    Change {
        /// Hodges–Lehmann estimate.
        estimate: f64,
        /// Lower end of the interval.
        low: f64,
        /// Upper end of the interval.
        high: f64,
        /// The interval's confidence, at least this.
        confidence: f64,
        /// Epochs of the baseline and the candidate.
        n: (u32, u32),
        /// The largest change allowed, with the slack in it.
        limit: f64,
        /// The certified bound: the smallest limit that the data would pass. `None` when no limit would.
        certified: Option<f64>,
        /// About how many epochs in all would decide, if the change is what it seems to be; for what is undecided.
        epochs_needed: Option<u32>,
        /// How the interval and the decision came about.
        basis: Basis,
    },
    /// Events counted in a number of trials, with the upper bound on their rate.
    Rate {
        /// Events of the candidate.
        events: u64,
        /// Trials of the candidate.
        trials: u64,
        /// Clopper–Pearson upper bound on the candidate's rate.
        upper_bound: f64,
        /// The bound's confidence.
        confidence: f64,
        /// Events allowed.
        limit: u64,
    },
    /// The largest of a number of values against a limit, in seconds.
    Largest {
        /// The largest of the candidate.
        value_s: f64,
        /// How many values.
        n: u64,
        /// The largest allowed.
        limit_s: f64,
    },
    /// There is no usable data, and why.
    Missing {
        /// Why.
        reason: String,
    },
}

/// The design behind a change's interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "design")]
pub enum Basis {
    /// One session, looked at several times: the interval holds at all looks together.
    Sequential {
        /// The epochs at which a decision was possible, up to now.
        looks: Vec<u32>,
        /// The look at which the verdict was reached.
        decided_at: Option<u32>,
    },
    /// Stored sessions: what varies from session to session is in the interval.
    Stored {
        /// Sessions of the baseline and the candidate.
        sessions: (u32, u32),
        /// The standard deviation of a target's change from session to session, as a share.
        spread: f64,
        /// Where it comes from.
        spread_from: SpreadSource,
    },
    /// A slope over time within one soak.
    Soak {
        /// Windows whose minima carry the slope.
        windows: u32,
        /// The length of the soak in seconds.
        seconds: f64,
    },
}

/// Where the spread between sessions comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SpreadSource {
    /// Estimated from the sessions compared.
    Sessions,
    /// An upper bound measured beforehand by `qbench calibrate`.
    Calibration,
    /// Assumed, since there are too few sessions and no calibration.
    Assumed,
}

/// A comparison of two targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The baseline and what really ran.
    pub baseline: RuntimeIdentity,
    /// The candidate and what really ran.
    pub candidate: RuntimeIdentity,
    /// The sessions of the baseline and of the candidate.
    pub sessions: (Vec<String>, Vec<String>),
    /// The workload.
    pub workload: String,
    /// How good the evidence is; `None` when the two are incomparable.
    pub grade: Option<Grade>,
    /// Epochs measured, and those of them dropped because the machine was disturbed.
    pub epochs: EpochCount,
    /// Per metric, in a fixed order.
    pub metrics: Vec<MetricVerdict>,
    /// Overall.
    pub verdict: Verdict,
    /// Why, in words: what made it incomparable or invalid, what to do next.
    pub reasons: Vec<String>,
}

/// How many epochs there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EpochCount {
    /// Measured.
    pub measured: u32,
    /// Of them, dropped without looking at any arm, because the machine was disturbed.
    pub dropped: u32,
}
