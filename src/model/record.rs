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
pub const FORMAT_MAJOR: u32 = 2;
/// Raised when something was added.
pub const FORMAT_MINOR: u32 = 0;

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
    /// The soak after the epochs, where there was one.
    pub soak: Option<Soak>,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Unique; two records with the same one are paired.
    pub id: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// The seed of every random order.
    pub seed: u64,
    /// How long it was to last, fixed before it began.
    pub design: Design,
    /// Epochs measured when the record was written: fewer in the record, and some were lost since.
    pub measured_epochs: u32,
    /// Why it ended; absent while it runs, and after an interrupt or a crash.
    pub ended: Option<Ended>,
    /// The first session of the baseline this one was added to.
    pub appended_to: Option<String>,
}

impl Session {
    /// Whether it came to the end it was designed for.
    pub fn is_complete(&self) -> bool {
        self.ended.is_some()
    }
}

/// When a session may end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Design {
    /// After a number of epochs.
    Fixed {
        /// How many.
        epochs: u32,
    },
    /// As soon as the data decide at one of the looks that follow from the cap.
    Sequential {
        /// Undisturbed epochs after which it ends undecided.
        cap: u32,
        /// Wall-clock time after which no epoch is begun, in seconds.
        budget_s: Option<f64>,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// All epochs were measured.
    AllMeasured,
    /// The data had decided.
    Decided,
    /// What was left of the epochs would hardly have decided.
    Futile,
    /// The budget of time was used up.
    Budget,
    /// The session could not be trusted.
    Untrusted,
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
    /// How hard the load tried to be on time.
    pub precision: Precision,
    /// Whether reload and restart were timed after every window.
    #[serde(default)]
    pub times: bool,
    /// The limit on p99 under which the highest rate was searched after every window, in seconds.
    pub throughput_p99_s: Option<f64>,
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
    /// Share of CPU time not idle in the window, all processors, by the kernel's ticks.
    pub busy_share: Option<f64>,
    /// Share of the window in which some task waited for a processor (`/proc/pressure/cpu`); the services' own
    /// queueing is in it.
    pub cpu_pressure: Option<f64>,
    /// Share of the window in which every task waited for memory (`/proc/pressure/memory`, `full`).
    pub memory_pressure: Option<f64>,
    /// Share of the window in which every task waited for a disk (`/proc/pressure/io`, `full`).
    pub io_pressure: Option<f64>,
    /// Share of CPU time, all processors, that neither the arms nor the load used: what else ran.
    pub foreign_share: Option<f64>,
    /// By how much the clock of the day moved against the monotonic one, in seconds.
    pub clock_step_s: Option<f64>,
    /// Times that a processor was throttled for its temperature.
    pub throttled: Option<u64>,
    /// Whether the highest frequency that a processor may use changed.
    pub frequency_limit_changed: Option<bool>,
    /// What the load itself took.
    pub client: Option<ClientConditions>,
}

impl Conditions {
    /// Why the window's figures are not the services' alone; empty when they are.
    ///
    /// The limits are fixed in advance and look at no arm: an epoch that is dropped for them is dropped whatever it
    /// would have said. They are wide, since what disturbs all arms alike costs precision and not truth.
    pub fn disturbances(&self) -> Vec<String> {
        let mut found = Vec::new();
        let shares = [
            ("of the CPU time was stolen by the hypervisor", self.steal_share, MOST_STOLEN),
            (
                "of the CPU time went to what is neither the services nor the load",
                self.foreign_share,
                MOST_FOREIGN,
            ),
            ("of the time everything waited for memory", self.memory_pressure, MOST_WAITING),
            ("of the time everything waited for a disk", self.io_pressure, MOST_WAITING),
        ];
        for (what, share, most) in shares {
            if let Some(share) = share.filter(|share| *share > most) {
                found.push(format!("{:.0}% {what}, more than {:.0}%", share * 100.0, most * 100.0));
            }
        }
        if let Some(step) = self.clock_step_s.filter(|step| step.abs() > LARGEST_CLOCK_STEP_S) {
            found.push(format!("the clock was set by {:.0} ms", step * 1e3));
        }
        if let Some(times) = self.throttled.filter(|times| *times > 0) {
            found.push(format!("a processor was throttled for its temperature, {times} times"));
        }
        if self.frequency_limit_changed == Some(true) {
            found.push("the highest frequency of a processor changed".to_owned());
        }
        if let Some(client) = &self.client {
            found.extend(client.disturbed.iter().cloned());
        }
        found
    }
}

/// Stolen time is the hypervisor's other guests: nothing that the arms could have done.
const MOST_STOLEN: f64 = 0.05;
/// Another program on a quarter of the machine is no longer background.
const MOST_FOREIGN: f64 = 0.25;
/// A machine that swaps or waits for its disk measures that.
const MOST_WAITING: f64 = 0.10;
/// Slewing moves a clock by at most 500 parts per million, 10 ms in 20 s; more is a step.
const LARGEST_CLOCK_STEP_S: f64 = 0.05;

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
    /// How long a reload of every loaded service took, until every endpoint was healthy; where it was measured.
    pub reload_s: Option<f64>,
    /// How long a restart took, likewise.
    pub restart_s: Option<f64>,
    /// The highest rate that kept p99 under the limit of the search, in requests per second; where it was searched.
    pub throughput: Option<f64>,
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

/// A long run under steady load, to see whether memory grows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Soak {
    /// How long it was to last, in seconds.
    pub planned_s: f64,
    /// The length of a window, in seconds.
    pub window_s: f64,
    /// Windows without a process that changed, in order.
    pub windows: Vec<SoakWindow>,
    /// Requests of the whole soak by outcome.
    pub requests: RequestCounts,
}

/// The least memory in a window of a soak: a minimum stands below what a garbage collector has not fetched yet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SoakWindow {
    /// The middle of the window, in seconds since the soak began.
    pub at_s: f64,
    /// Anonymous memory of the service's processes, in bytes; absent where a process changed.
    pub least_anonymous: Option<u64>,
}
