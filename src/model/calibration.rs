//! How much a machine's figures vary on their own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    record::{Fingerprint, Format, LoadIdentity, WorkloadIdentity},
    target::RuntimeIdentity,
    verdict::Metric,
};

/// The format's name, in every calibration.
pub const FORMAT_NAME: &str = "qbench-calibration";
/// Raised when old readers could misread a calibration.
pub const FORMAT_MAJOR: u32 = 1;

/// What the sessions of `qbench calibrate` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Which format this is.
    pub format: Format,
    /// RFC 3339, UTC.
    pub made_at: String,
    /// What was measured against the control.
    pub target: RuntimeIdentity,
    /// The workload.
    pub workload: WorkloadIdentity,
    /// The machine.
    pub host: Fingerprint,
    /// The load.
    pub load: LoadIdentity,
    /// The sessions it rests on.
    pub sessions: Vec<String>,
    /// About how long an epoch of `validate` takes here, in seconds.
    pub epoch_s: f64,
    /// Per metric.
    pub metrics: BTreeMap<Metric, Noise>,
}

/// The noise of one metric, as standard deviations of logarithms of changes: 0.02 is about 2%.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// Of one epoch's change between a target and the mean of two controls, within a session.
    pub epoch_sd: f64,
    /// Of one epoch's change between the two identical controls.
    pub again_sd: f64,
    /// Of a session's true change from session to session: the estimate, 0 when the sessions differ by no more than
    /// their own epochs explain.
    pub session_sd: f64,
    /// The upper bound of that at 95%.
    pub session_sd_bound: f64,
}
