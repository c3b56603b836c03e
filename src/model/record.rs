//! The versioned record of a session for one target.
//!
//! Never in a record: environment values, header values, request or answer bodies. Their digests and names may be.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    load::{Precision, ReceiveClock},
    measurement::Usage,
    sample::RequestCounts,
    settings::{ConnectionUse, Thresholds},
    target::RuntimeIdentity,
};

/// The format's name, in every record.
pub const FORMAT_NAME: &str = "qbench-record";
/// Raised when old readers could misread a record.
pub const FORMAT_MAJOR: u32 = 1;
/// Raised when something was added.
pub const FORMAT_MINOR: u32 = 1;

/// The record of a session for one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which format this is.
    pub format: Format,
    /// The version of qbench that wrote it.
    pub qbench_version: String,
    /// The session it belongs to.
    pub session: Session,
    /// The target and what really ran.
    pub target: RuntimeIdentity,
    /// What the control or the other arms ran on, one entry an arm role.
    pub arms: BTreeMap<ArmRole, RuntimeIdentity>,
    /// The workload, by name and digests.
    pub workload: WorkloadIdentity,
    /// The machine.
    pub host: Fingerprint,
    /// The load.
    pub load: LoadIdentity,
    /// The thresholds in force when it was measured.
    pub thresholds: Thresholds,
    /// Whole epochs only, in order.
    pub epochs: Vec<Epoch>,
}

/// The format of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Format {
    /// Always [`FORMAT_NAME`].
    pub name: String,
    /// See [`FORMAT_MAJOR`].
    pub major: u32,
    /// See [`FORMAT_MINOR`].
    pub minor: u32,
}

impl Format {
    /// The one this build writes.
    pub fn current() -> Self {
        Self { name: FORMAT_NAME.to_owned(), major: FORMAT_MAJOR, minor: FORMAT_MINOR }
    }
}

/// One invocation that measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Unique; two records with the same one are paired.
    pub id: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// The seed of every random order.
    pub seed: u64,
    /// Epochs planned.
    pub planned_epochs: u32,
    /// False while the session runs, and after an interrupt.
    pub complete: bool,
}

/// The part an arm plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ArmRole {
    /// The target itself.
    Target,
    /// The target once more, to see the noise (A/A).
    TargetAgain,
    /// The control, `bare`.
    Control,
    /// The control once more.
    ControlAgain,
}

/// Which workload was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadIdentity {
    /// Its name.
    pub name: String,
    /// SHA-256 (hex) of each file that defines it.
    pub files: BTreeMap<String, String>,
    /// Its services' names.
    pub services: Vec<String>,
}

/// Which load was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadIdentity {
    /// Requests per second, open loop.
    pub rate_per_second: f64,
    /// The window of an epoch, shared by its arms.
    pub window_s: f64,
    /// The length of a slot.
    pub slot_s: f64,
    /// Load before the window.
    pub warmup_s: f64,
    /// Connections per endpoint at most.
    pub connections: u32,
    /// Connections used again, or one a request.
    pub connection_use: ConnectionUse,
    /// The time-out of a request.
    pub timeout_s: f64,
    /// How hard the load tried to be on time; absent in records of format 1.0.
    pub precision: Option<Precision>,
    /// SHA-256 (hex) of the requests: methods, paths, headers, bodies, weights.
    pub requests_digest: String,
}

/// The machine a session ran on, as far as it changes figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// As `/proc/cpuinfo` names it.
    pub cpu_model: String,
    /// Online processors.
    pub cpu_count: u32,
    /// Rounded to whole GiB, so that a kernel update does not change it.
    pub memory_gib: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Scaling governor of the first processor, where there is one.
    pub governor: Option<String>,
    /// Whether the processor says it is a guest.
    pub virtual_machine: bool,
    /// CPUs this process may use by its cgroup's quota, in thousandths, where limited.
    pub cgroup_cpu_milli: Option<u64>,
    /// The `node` on PATH, where there is one.
    pub node_version: Option<String>,
}

/// One restart of all arms and one measured window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// From 0; the same number in two records of a session is the same window.
    pub index: u32,
    /// The order in which all the session's arms were started, by name.
    pub order: Vec<String>,
    /// What the machine was like meanwhile.
    pub conditions: Conditions,
    /// The arms that belong to this record.
    pub arms: BTreeMap<ArmRole, ArmEpoch>,
}

/// The machine during a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// One-minute load average at the window's end.
    pub load_average: Option<f64>,
    /// Share of CPU time stolen by the hypervisor in the window.
    pub steal_share: Option<f64>,
    /// Share of CPU time not idle in the window, all processors.
    pub busy_share: Option<f64>,
    /// `some avg10` of `/proc/pressure/cpu` at the window's end.
    pub cpu_pressure: Option<f64>,
    /// What the load itself took; absent in records of format 1.0.
    pub client: Option<ClientConditions>,
}

/// What the load took of the machine in a window, and whether it was in the way of what it measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientConditions {
    /// Which clock said when answers were there.
    pub receive_clock: ReceiveClock,
    /// CPU time of the load's threads over the window; 1 is a whole core.
    pub cpu_share: f64,
    /// Of it, spent spinning towards the moments of requests.
    pub spun_share: f64,
    /// Time in which the load's threads wanted a core and had none, over the window.
    pub waiting_share: Option<f64>,
    /// Median of the load's own lag: from the intended moment to when it turned to the request.
    pub own_lag_p50_s: Option<f64>,
    /// 99th percentile of it.
    pub own_lag_p99_s: Option<f64>,
    /// Why the window's figures are not the service's alone; empty when they are.
    pub disturbed: Vec<String>,
}

/// What one arm came to in one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArmEpoch {
    /// From the start command to every service ready.
    pub start_to_ready_s: f64,
    /// Latency from the intended send time.
    pub latency: LatencySummary,
    /// Requests by outcome.
    pub requests: RequestCounts,
    /// Longest time between two successes at any one address, within the arm's slots.
    pub longest_gap_s: f64,
    /// p99 of actual less intended send.
    pub send_lag_p99_s: Option<f64>,
    /// The service's own processes: memory at the window's end, CPU over the window.
    pub service: Usage,
    /// The runtime's fixed part, likewise.
    pub overhead_fixed: Usage,
    /// The runtime's part per instance, likewise.
    pub overhead_per_instance: Usage,
}

/// A histogram and its usual quantiles, in seconds. A quantile nobody measured is absent, not 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencySummary {
    /// Answers counted.
    pub count: u64,
    /// Mean.
    pub mean_s: Option<f64>,
    /// Median.
    pub p50_s: Option<f64>,
    /// 90%.
    pub p90_s: Option<f64>,
    /// 95%.
    pub p95_s: Option<f64>,
    /// 99%.
    pub p99_s: Option<f64>,
    /// 99.9%.
    pub p999_s: Option<f64>,
    /// The slowest.
    pub max_s: Option<f64>,
    /// The histogram: HDR V2, deflated, base64, in nanoseconds.
    pub hdr_v2: String,
}

impl LatencySummary {
    /// Summarises a histogram.
    pub fn of(histogram: &super::sample::LatencyHistogram) -> Self {
        let at = |q| histogram.quantile(q).map(|d| d.as_secs_f64());
        Self {
            count: histogram.count(),
            mean_s: histogram.mean().map(|d| d.as_secs_f64()),
            p50_s: at(0.50),
            p90_s: at(0.90),
            p95_s: at(0.95),
            p99_s: at(0.99),
            p999_s: at(0.999),
            max_s: histogram.max().map(|d| d.as_secs_f64()),
            hdr_v2: histogram.encode(),
        }
    }
}
