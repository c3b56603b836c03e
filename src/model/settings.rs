//! How hard, how long and how strictly: the settings of a session.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::load::Precision;

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
    /// Restarted, interleaved rounds.
    pub epochs: u32,
    /// How long a service may take to be ready.
    pub ready_timeout: Duration,
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
            epochs: 10,
            ready_timeout: Duration::from_secs(30),
        }
    }
}

/// What the candidate may cost. Shares are relative to the baseline: 0.05 is 5%.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Thresholds {
    /// p50 and mean latency.
    pub response_time_share: f64,
    /// Response-time differences below this never fail, whatever their share.
    pub response_time_slack_s: f64,
    /// p95 latency; advisory.
    pub p95_share: f64,
    /// p99 latency; advisory.
    pub p99_share: f64,
    /// Memory of the service's own processes.
    pub memory_share: f64,
    /// CPU per request; advisory.
    pub cpu_share: f64,
    /// Failed requests allowed.
    pub errors: u64,
    /// No request may take longer, in seconds.
    pub max_latency_s: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            response_time_share: 0.05,
            response_time_slack_s: 0.0,
            p95_share: 0.25,
            p99_share: 0.50,
            memory_share: 0.10,
            cpu_share: 0.10,
            errors: 0,
            max_latency_s: 5.0,
        }
    }
}
