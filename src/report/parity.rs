//! How scenarios went on each target, summed up over their repetitions.

use std::{collections::BTreeMap, fmt};

use super::words;
use crate::model::{
    scenario::{Expectation, Figure, ScenarioOutcome},
    target::RuntimeIdentity,
};

/// One scenario on one target.
#[derive(Clone, Debug, PartialEq)]
pub struct ParityRow {
    /// The scenario's name.
    pub scenario: String,
    /// What really ran.
    pub target: RuntimeIdentity,
    /// How it went.
    pub outcome: ScenarioOutcome,
    /// What was expected.
    pub expectations: Vec<Expectation>,
    /// Upper bound at 95% on the rate of failed requests, all repetitions together; `None` where none were sent.
    pub error_rate_bound: Option<f64>,
    /// Upper bound at 95% on the rate of repetitions with a failed request; `None` where none counted them. Failures
    /// cluster around what a scenario does, so this says more about the next reload than the bound on requests.
    pub run_error_rate_bound: Option<f64>,
}

/// A row's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every expectation held in every repetition.
    Pass,
    /// One did not.
    Fail,
    /// The runtime cannot do this.
    Unsupported,
    /// It could not be carried through, or there was nothing to hold it to.
    Broken,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Unsupported => "UNSUPPORTED",
            Self::Broken => "BROKEN",
        })
    }
}

/// Worth reading next to what was expected.
const KEY_FIGURES: [Figure; 12] = [
    Figure::ReadySeconds,
    Figure::Requests,
    Figure::Errors,
    Figure::ErrorsAfterRetry,
    Figure::LongestGapSeconds,
    Figure::MaxLatencySeconds,
    Figure::P99BeforeSeconds,
    Figure::P99DuringSeconds,
    Figure::P99AfterSeconds,
    Figure::ReloadSeconds,
    Figure::RespawnSeconds,
    Figure::ServeSeconds,
];

/// One figure of a row.
pub(super) struct Summary {
    pub(super) figure: Figure,
    pub(super) median: Option<f64>,
    pub(super) worst: Option<f64>,
    /// What was expected of it, and whether every repetition met it.
    pub(super) expected: Option<(Expectation, bool)>,
}

impl ParityRow {
    /// The answer. A value that is missing in any repetition meets nothing.
    pub fn verdict(&self) -> Outcome {
        match &self.outcome {
            ScenarioOutcome::Unsupported { .. } => Outcome::Unsupported,
            ScenarioOutcome::Broken { .. } => Outcome::Broken,
            ScenarioOutcome::Ran { runs } if runs.is_empty() || self.expectations.is_empty() => {
                Outcome::Broken
            }
            ScenarioOutcome::Ran { runs } if self.expectations.iter().all(|e| met_in_all(e, runs)) => {
                Outcome::Pass
            }
            ScenarioOutcome::Ran { .. } => Outcome::Fail,
        }
    }

    /// Whether it ran and every expectation held.
    pub fn meets_expectations(&self) -> bool {
        self.verdict() == Outcome::Pass
    }

    /// Why there are no figures, where there are none.
    pub(super) fn reason(&self) -> Option<&str> {
        match &self.outcome {
            ScenarioOutcome::Unsupported { reason } | ScenarioOutcome::Broken { reason } => Some(reason),
            ScenarioOutcome::Ran { runs } if runs.is_empty() => Some("it was not repeated even once"),
            ScenarioOutcome::Ran { .. } if self.expectations.is_empty() => Some("nothing was expected of it"),
            ScenarioOutcome::Ran { .. } => None,
        }
    }

    /// How often it ran.
    pub(super) fn runs(&self) -> &[BTreeMap<Figure, f64>] {
        match &self.outcome {
            ScenarioOutcome::Ran { runs } => runs,
            ScenarioOutcome::Unsupported { .. } | ScenarioOutcome::Broken { .. } => &[],
        }
    }

    /// The figures that were expected of it, then the key figures it has besides.
    pub(super) fn figures(&self) -> Vec<Summary> {
        let runs = self.runs();
        if runs.is_empty() {
            return Vec::new();
        }
        let expected = self.expectations.iter().map(|expectation| Summary {
            expected: Some((*expectation, met_in_all(expectation, runs))),
            ..summary(expectation.figure, runs, Some(expectation))
        });
        let besides = KEY_FIGURES
            .into_iter()
            .filter(|figure| self.expectations.iter().all(|expectation| expectation.figure != *figure))
            .map(|figure| summary(figure, runs, None))
            .filter(|summary| summary.median.is_some());
        expected.chain(besides).collect()
    }
}

fn met_in_all(expectation: &Expectation, runs: &[BTreeMap<Figure, f64>]) -> bool {
    runs.iter().all(|run| expectation.met_by(run.get(&expectation.figure).copied()))
}

fn summary(figure: Figure, runs: &[BTreeMap<Figure, f64>], expectation: Option<&Expectation>) -> Summary {
    let values = || runs.iter().filter_map(|run| run.get(&figure).copied()).filter(|value| value.is_finite());
    let unmet = |value: &f64| expectation.is_some_and(|expectation| !expectation.met_by(Some(*value)));
    let worst = if more_is_better(figure) { values().reduce(f64::min) } else { values().reduce(f64::max) };
    // With bounds on both sides the worst is one that breaks them, whichever way.
    let worst = worst.filter(unmet).or_else(|| values().find(unmet)).or(worst);
    Summary { figure, median: words::median(values()), worst, expected: None }
}

fn more_is_better(figure: Figure) -> bool {
    matches!(figure, Figure::OnlineShare | Figure::NewReleaseShare | Figure::ReplacedShare)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::parity_rows, *};

    fn row(runs: &[&[(Figure, f64)]], expectations: &[Expectation]) -> ParityRow {
        let runs = runs.iter().map(|run| run.iter().copied().collect()).collect();
        let target = parity_rows()[0].target.clone();
        ParityRow {
            scenario: "reload".to_owned(),
            target,
            outcome: ScenarioOutcome::Ran { runs },
            expectations: expectations.to_vec(),
            error_rate_bound: None,
            run_error_rate_bound: None,
        }
    }

    const NO_ERRORS: Expectation = Expectation { figure: Figure::Errors, at_most: Some(0.0), at_least: None };

    #[test]
    fn every_repetition_must_hold() {
        let good: &[(Figure, f64)] = &[(Figure::Errors, 0.0)];
        let bad: &[(Figure, f64)] = &[(Figure::Errors, 2.0)];
        assert_eq!(row(&[good, good], &[NO_ERRORS]).verdict(), Outcome::Pass);
        assert_eq!(row(&[good, good, bad], &[NO_ERRORS]).verdict(), Outcome::Fail);
        let figures = row(&[good, good, bad], &[NO_ERRORS]).figures();
        assert_eq!((figures[0].median, figures[0].worst), (Some(0.0), Some(2.0)));
    }

    #[test]
    fn what_is_missing_never_passes() {
        let good: &[(Figure, f64)] = &[(Figure::Errors, 0.0)];
        assert_eq!(row(&[good, &[]], &[NO_ERRORS]).verdict(), Outcome::Fail);
        assert_eq!(row(&[&[(Figure::Errors, f64::NAN)]], &[NO_ERRORS]).verdict(), Outcome::Fail);
        assert_eq!(row(&[], &[NO_ERRORS]).verdict(), Outcome::Broken);
        assert_eq!(row(&[good], &[]).verdict(), Outcome::Broken);
    }

    #[test]
    fn the_worst_share_is_the_smallest_and_a_broken_bound_is_worst_of_all() {
        let online = |value| [(Figure::OnlineShare, value)];
        let figures = row(&[&online(1.0), &online(0.5)], &[]).figures();
        assert!(figures.is_empty(), "not a key figure");
        let all = Expectation { figure: Figure::OnlineShare, at_most: Some(1.0), at_least: Some(1.0) };
        assert_eq!(row(&[&online(1.0), &online(0.5)], &[all]).figures()[0].worst, Some(0.5));
        let gap = |value| [(Figure::LongestGapSeconds, value)];
        let both = Expectation { figure: Figure::LongestGapSeconds, at_most: Some(9.0), at_least: Some(1.0) };
        assert_eq!(row(&[&gap(0.5), &gap(3.0)], &[both]).figures()[0].worst, Some(0.5));
    }
}
