//! Method A: both sides in one session, epoch by epoch, as a group-sequential test.

use super::{
    ALPHA_FAIL, ALPHA_PASS, CONFIDENCE, Sides, change,
    change::{Design, Finding},
    changing_metrics, decision,
    decision::{Look, Series},
    epochs::Kept,
    levels::{OF_PASS, looks_until, nominal},
    reading::{TARGETS, at_limit, log_of_two},
};
use crate::{
    model::{
        record::{self, Record},
        verdict::{Basis, Metric, MetricVerdict, Verdict},
    },
    stats::{NoInterval, signed_rank},
};

/// The test of every metric at every look of a session up to now.
pub(super) struct Tests {
    pub(super) cap: u32,
    pub(super) looks: Vec<u32>,
    pub(super) metrics: Vec<Test>,
}

pub(super) struct Test {
    pub(super) metric: Metric,
    pub(super) critical: bool,
    /// As a share.
    pub(super) limit: f64,
    pub(super) series: Series,
    pub(super) looks: Vec<Look>,
    pub(super) passed_at: Option<u32>,
    pub(super) failed_at: Option<u32>,
}

/// Undisturbed epochs after which a session ends undecided.
pub(super) fn cap(record: &Record) -> u32 {
    match record.session.design {
        record::Design::Sequential { cap, .. } => cap,
        record::Design::Fixed { epochs } => epochs,
    }
}

impl Tests {
    pub(super) fn of(sides: &Sides) -> Self {
        let (baseline, candidate) = (&sides.baseline[0], &sides.candidate[0]);
        let cap = cap(baseline.record);
        let looks = looks_until(baseline.epochs.len() as u32, cap);
        let mut metrics: Vec<Test> = changing_metrics(sides)
            .into_iter()
            .filter_map(|metric| Test::of(sides, metric, baseline, candidate, cap, &looks))
            .collect();
        // Critical metrics share what a FAIL may cost; an advisory one decides nothing and shares nothing.
        let tested: Vec<Vec<Look>> =
            metrics.iter().filter(|test| test.critical).map(|test| test.looks.clone()).collect();
        let mut failed = decision::failed_at(&tested, cap, ALPHA_FAIL).into_iter();
        for test in &mut metrics {
            test.failed_at = if test.critical {
                failed.next().flatten()
            } else {
                decision::failed_at(std::slice::from_ref(&test.looks), cap, ALPHA_FAIL)[0]
            };
        }
        Self { cap, looks, metrics }
    }
}

impl Test {
    fn of(
        sides: &Sides,
        metric: Metric,
        baseline: &Kept,
        candidate: &Kept,
        cap: u32,
        looks: &[u32],
    ) -> Option<Self> {
        let allowance = sides.thresholds.of(metric)?;
        let changes = baseline.epochs.iter().zip(&candidate.epochs).map(|(from, to)| {
            let from = log_of_two((*from)?, metric, TARGETS, baseline.has_target_again())?;
            let to = log_of_two((*to)?, metric, TARGETS, candidate.has_target_again())?;
            Some(to - from).filter(|change| change.is_finite())
        });
        let limit = change::limit(metric, allowance, change::typical(&sides.baseline, metric));
        let series = Series { changes: changes.collect(), limit: at_limit(limit, metric) };
        let tested = series.looks(looks);
        let passed_at = decision::passed_at(&tested, cap, ALPHA_PASS);
        let critical = allowance.critical;
        Some(Self { metric, critical, limit, series, looks: tested, passed_at, failed_at: None })
    }

    pub(super) fn verdict(&self) -> Verdict {
        match (self.failed_at, self.passed_at) {
            (Some(_), _) => Verdict::Fail,
            (None, Some(_)) if self.series.changes.iter().all(Option::is_some) => Verdict::Pass,
            (None, _) => Verdict::Inconclusive,
        }
    }
}

pub(super) fn judge(sides: &Sides) -> Vec<MetricVerdict> {
    let tests = Tests::of(sides);
    let found = tests
        .metrics
        .iter()
        .map(|test| change::metric_verdict(sides, test.metric, finding(test, &tests.looks, tests.cap)));
    found.collect()
}

fn finding(test: &Test, looks: &[u32], cap: u32) -> Finding {
    let levels = nominal(looks, cap, ALPHA_PASS, OF_PASS);
    let intervals = looks.iter().zip(levels.each.iter()).map(|(look, level)| {
        let values = test.series.until(*look);
        (*look, signed_rank::interval(&values, 1.0 - 2.0 * level))
    });
    let intervals: Vec<(u32, Result<_, NoInterval>)> = intervals.collect();
    // The interval holds at all looks together, so that the narrowest upper end of any of them is certified.
    let certified = intervals
        .iter()
        .filter(|(look, _)| test.series.is_whole_until(*look))
        .filter_map(|(_, interval)| interval.as_ref().ok())
        .map(|interval| interval.high)
        .reduce(f64::min);
    let values = test.series.changes.iter().flatten().count();
    let verdict = test.verdict();
    let design = Design {
        n: (values, values),
        limit: test.limit,
        confidence: CONFIDENCE,
        certified,
        basis: Basis::Sequential { looks: looks.to_vec(), decided_at: test.failed_at.or(test.passed_at) },
    };
    let last = intervals.into_iter().next_back().map_or_else(
        || Err("no epoch was measured".to_owned()),
        |(_, interval)| interval.map_err(|refusal| refusal.to_string()),
    );
    Finding {
        evidence: change::evidence(test.metric, last, design),
        verdict,
        unusable: test.series.changes.len() - values,
    }
}
