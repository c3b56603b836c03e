//! How hard, how long and how strictly: the settings of a session.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{load::Precision, verdict::Metric};

/// Whether a connection is used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionUse {
    /// One connection, many requests.
    #[default]
    KeepAlive,
    /// A new connection for each request.
    PerRequest,
}

/// The load of a session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadSettings {
    /// Requests per second, open loop.
    pub rate_per_second: f64,
    /// The measured window of an epoch, shared by its arms in slots.
    pub window: Duration,
    /// Load before the window, not measured.
    pub warmup: Duration,
    /// The length of a slot.
    pub slot: Duration,
    /// Connections per endpoint at most.
    pub connections: u32,
    /// Whether connections are used again.
    pub connection_use: ConnectionUse,
    /// From a request's send to its last byte.
    pub timeout: Duration,
    /// How hard the load tries to be on time.
    pub precision: Precision,
    /// Restarted, interleaved rounds: how many `collect` measures, and after how many `validate` gives up.
    /// `None`: [`COLLECT_EPOCHS`] and [`MOST_EPOCHS`].
    pub epochs: Option<u32>,
    /// How long a service may take to be ready.
    pub ready_timeout: Duration,
    /// Whether a reload and a restart of every arm are timed after each window.
    pub times: bool,
    /// The p99 below which the highest rate of every arm is searched after each window; not searched without.
    pub throughput_p99: Option<Duration>,
    /// The soak after the epochs, where there is to be one.
    pub soak: Option<SoakSettings>,
}

/// How long memory is watched under steady load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoakSettings {
    /// In all.
    pub length: Duration,
    /// One window, of which the least memory is kept.
    pub window: Duration,
}

impl SoakSettings {
    /// Whole windows; what is left over is not run.
    pub fn windows(&self) -> u32 {
        let windows = self.length.as_nanos() / self.window.as_nanos().max(1);
        u32::try_from(windows).unwrap_or(u32::MAX)
    }
}

impl Default for LoadSettings {
    fn default() -> Self {
        Self {
            rate_per_second: 200.0,
            window: Duration::from_secs(20),
            warmup: Duration::from_secs(2),
            slot: Duration::from_millis(250),
            connections: 32,
            connection_use: ConnectionUse::KeepAlive,
            timeout: Duration::from_secs(5),
            precision: Precision::default(),
            epochs: None,
            ready_timeout: Duration::from_secs(30),
            times: false,
            throughput_p99: None,
            soak: None,
        }
    }
}

/// What the candidate may cost, metric by metric. A metric without an entry is not judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Thresholds(pub BTreeMap<Metric, Allowance>);

/// How far one metric of the candidate may go.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// For a metric judged by its change, the share of the baseline it may get worse by: 0.05 is 5%. For
    /// [`Metric::MaxLatency`] seconds, for [`Metric::Errors`] requests, for [`Metric::MemoryGrowth`] the share of the
    /// memory it may grow by in an hour beyond the baseline's own growth.
    pub limit: f64,
    /// A change below this never fails, whatever its share: seconds, bytes, CPU milliseconds per 1,000 requests or
    /// requests per second, as the metric is counted. Fixed in advance, never taken from the noise.
    pub slack: f64,
    /// Whether it decides; an advisory metric is only told.
    pub critical: bool,
}

impl Thresholds {
    /// The allowance of a metric, where it is judged.
    pub fn of(&self, metric: Metric) -> Option<&Allowance> {
        self.0.get(&metric)
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        let critical = |metric, limit| (metric, Allowance { limit, slack: 0.0, critical: true });
        let advisory = |metric, limit, slack| (metric, Allowance { limit, slack, critical: false });
        Self(BTreeMap::from([
            critical(Metric::P50, 0.05),
            critical(Metric::Mean, 0.05),
            advisory(Metric::P95, 0.25, 0.0),
            advisory(Metric::P99, 0.50, 0.0),
            critical(Metric::MaxLatency, 5.0),
            critical(Metric::Errors, 0.0),
            critical(Metric::Memory, 0.10),
            critical(Metric::CpuPerRequest, 0.10),
            // Whoever waits for a start does not see half a second.
            advisory(Metric::StartTime, 0.50, 0.5),
            advisory(Metric::ReloadTime, 0.50, 0.5),
            advisory(Metric::RestartTime, 0.50, 0.5),
            critical(Metric::Throughput, 0.05),
            critical(Metric::MemoryGrowth, 0.05),
        ]))
    }
}

/// Epochs that `collect` measures unless told otherwise: an interval of 95% needs six.
pub const COLLECT_EPOCHS: u32 = 10;
/// Epochs after which `validate` gives up deciding, unless told otherwise.
pub const MOST_EPOCHS: u32 = 40;
/// Windows that a soak needs: the exact null of fewer gives a slope no interval of 95%.
pub const LEAST_SOAK_WINDOWS: u32 = 6;
/// The most windows that an exact slope is computed for.
pub const MOST_SOAK_WINDOWS: u32 = 500;
/// The length of a soak's windows, unless told otherwise: some collections of a garbage collector lie in each.
pub const SOAK_WINDOW: Duration = Duration::from_secs(150);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_windows_are_run() {
        let windows = |length, window| {
            SoakSettings { length: Duration::from_secs(length), window: Duration::from_secs(window) }
                .windows()
        };
        assert_eq!(windows(1800, 150), 12);
        assert_eq!(windows(1799, 150), 11);
        assert_eq!(windows(1, 2), 0);
        assert_eq!(windows(1, 0), 1_000_000_000, "no window divides by nothing");
    }
}
