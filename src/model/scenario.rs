//! A declared sequence of load, actions and faults, with expectations.

use std::{collections::BTreeMap, fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::ConnectionUse;

/// A scenario as its file declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name: the file's name without `.toml`.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Why it matters, for the report.
    pub purpose: String,
    /// The load that runs while the action happens, if any.
    pub load: Option<ScenarioLoad>,
    /// What is done.
    pub action: Action,
    /// How often, one after the other.
    pub repeat: u32,
    /// What must hold.
    pub expect: Vec<Expectation>,
}

/// The load of a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScenarioLoad {
    /// Requests per second, open loop.
    pub rate_per_second: f64,
    /// Connections used again, or one a request.
    pub connection_use: ConnectionUse,
    /// Load before the action.
    pub before: Duration,
    /// Load after the action is over.
    pub after: Duration,
}

/// What a scenario does to the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start everything, wait until all is ready, look at every process.
    StartAll,
    /// Deploy a new release and reload every service that takes load.
    Reload,
    /// `kill -9` one instance of each service that takes load.
    KillInstance,
}

impl Action {
    /// The name used in scenario files.
    pub fn name(self) -> &'static str {
        match self {
            Self::StartAll => "start-all",
            Self::Reload => "reload",
            Self::KillInstance => "kill-instance",
        }
    }
}

/// The figures a scenario may have expectations on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Share of instances that are online, 0 to 1.
    OnlineShare,
    /// Seconds from the start command to every service ready.
    ReadySeconds,
    /// Requests with an outcome.
    Requests,
    /// Failed requests, first tries.
    Errors,
    /// Failed requests, also after one idempotent retry.
    ErrorsAfterRetry,
    /// Failed requests over all requests, first tries.
    ErrorRate,
    /// The longest time between two successes at any one address, seconds.
    LongestGapSeconds,
    /// The slowest answer, seconds.
    MaxLatencySeconds,
    /// Answers over one second.
    OverOneSecond,
    /// 99th percentile of the latencies of requests that were due before the action, seconds.
    P99BeforeSeconds,
    /// The same of those due while it went on, until all answer again.
    P99DuringSeconds,
    /// The same of those due after it.
    P99AfterSeconds,
    /// Share of endpoints that serve the new release after the reload, 0 to 1.
    NewReleaseShare,
    /// Share of instances that are other processes than before, 0 to 1.
    ReplacedShare,
    /// Seconds the reload command took.
    ReloadSeconds,
    /// Seconds from the kill to a new process.
    RespawnSeconds,
    /// Seconds from the kill to every endpoint answering 200 again.
    ServeSeconds,
}

impl Figure {
    /// Every figure.
    pub const ALL: [Self; 17] = [
        Self::OnlineShare,
        Self::ReadySeconds,
        Self::Requests,
        Self::Errors,
        Self::ErrorsAfterRetry,
        Self::ErrorRate,
        Self::LongestGapSeconds,
        Self::MaxLatencySeconds,
        Self::OverOneSecond,
        Self::P99BeforeSeconds,
        Self::P99DuringSeconds,
        Self::P99AfterSeconds,
        Self::NewReleaseShare,
        Self::ReplacedShare,
        Self::ReloadSeconds,
        Self::RespawnSeconds,
        Self::ServeSeconds,
    ];

    /// The name used in scenario files and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnlineShare => "online_share",
            Self::ReadySeconds => "ready_seconds",
            Self::Requests => "requests",
            Self::Errors => "errors",
            Self::ErrorsAfterRetry => "errors_after_retry",
            Self::ErrorRate => "error_rate",
            Self::LongestGapSeconds => "longest_gap_seconds",
            Self::MaxLatencySeconds => "max_latency_seconds",
            Self::OverOneSecond => "over_one_second",
            Self::P99BeforeSeconds => "p99_before_seconds",
            Self::P99DuringSeconds => "p99_during_seconds",
            Self::P99AfterSeconds => "p99_after_seconds",
            Self::NewReleaseShare => "new_release_share",
            Self::ReplacedShare => "replaced_share",
            Self::ReloadSeconds => "reload_seconds",
            Self::RespawnSeconds => "respawn_seconds",
            Self::ServeSeconds => "serve_seconds",
        }
    }

    /// The figure of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|figure| figure.name() == name)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Bounds on a figure, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Expectation {
    /// Of what.
    pub figure: Figure,
    /// It must not be more.
    pub at_most: Option<f64>,
    /// It must not be less.
    pub at_least: Option<f64>,
}

impl Expectation {
    /// Whether a measured value meets it. A value that is missing never does, nor does NaN.
    pub fn met_by(&self, value: Option<f64>) -> bool {
        value.is_some_and(|value| {
            self.at_most.is_none_or(|limit| value <= limit)
                && self.at_least.is_none_or(|limit| value >= limit)
        })
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.at_least, self.at_most) {
            (Some(low), Some(high)) if low.total_cmp(&high).is_eq() => write!(f, "{} = {low}", self.figure),
            (Some(low), Some(high)) => write!(f, "{low} ≤ {} ≤ {high}", self.figure),
            (Some(low), None) => write!(f, "{} ≥ {low}", self.figure),
            (None, Some(high)) => write!(f, "{} ≤ {high}", self.figure),
            (None, None) => write!(f, "{}", self.figure),
        }
    }
}

/// How a scenario went on one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum ScenarioOutcome {
    /// It ran; the figures say how.
    Ran {
        /// Each repetition's figures.
        runs: Vec<BTreeMap<Figure, f64>>,
    },
    /// The runtime cannot do this; never a pass.
    Unsupported {
        /// What it cannot do.
        reason: String,
    },
    /// It could not be carried through.
    Broken {
        /// Why.
        reason: String,
    },
}

impl ScenarioOutcome {
    /// Repetitions with a failed request, and the repetitions that counted their failed requests; `None` where none
    /// did. Requests that fail together are one event of one repetition.
    pub fn runs_with_errors(&self) -> Option<(u64, u64)> {
        let Self::Ran { runs } = self else { return None };
        let counted =
            runs.iter().filter_map(|run| run.get(&Figure::Errors)).filter(|errors| errors.is_finite());
        let (with_errors, all) =
            counted.fold((0, 0), |(some, all), errors| (some + u64::from(*errors > 0.0), all + 1));
        (all > 0).then_some((with_errors, all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_data_never_meets_an_expectation() {
        let zero_errors = Expectation { figure: Figure::Errors, at_most: Some(0.0), at_least: None };
        assert!(zero_errors.met_by(Some(0.0)));
        assert!(!zero_errors.met_by(Some(1.0)));
        assert!(!zero_errors.met_by(None));
        assert!(!zero_errors.met_by(Some(f64::NAN)));
    }

    #[test]
    fn a_run_with_many_errors_is_one_run_with_errors() {
        let run = |figure, value| BTreeMap::from([(figure, value)]);
        let ran = |runs| ScenarioOutcome::Ran { runs }.runs_with_errors();
        let three = vec![
            run(Figure::Errors, 0.0),
            run(Figure::Errors, 41.0),
            run(Figure::Errors, f64::NAN),
            run(Figure::ReadySeconds, 1.0),
        ];
        assert_eq!(ran(three), Some((1, 2)), "a run that counted nothing is neither");
        assert_eq!(ran(vec![run(Figure::ReadySeconds, 1.0)]), None);
        assert_eq!(ran(Vec::new()), None);
        assert_eq!(ScenarioOutcome::Broken { reason: String::new() }.runs_with_errors(), None);
    }

    #[test]
    fn figures_keep_their_names() {
        for figure in Figure::ALL {
            assert_eq!(Figure::from_name(figure.name()), Some(figure));
            assert_eq!(serde_json::to_value(figure).unwrap(), figure.name());
        }
    }
}
