//! What all metrics judged by their relative change have in common.

use super::{
    LEAST_EPOCHS, Sides,
    epochs::Kept,
    reading::{as_share, quantity, reading},
};
use crate::{
    model::{
        settings::Allowance,
        verdict::{Basis, Evidence, Metric, MetricVerdict, Verdict},
    },
    stats::{Interval, quantile::median},
};

/// More epochs than this is not advice anyone can follow.
const MOST_EPOCHS_ADVISED: f64 = 1000.0;

/// The largest relative change allowed: a small baseline may always change by the absolute slack. Of what is better
/// when it is more, not all may be lost.
pub(super) fn limit(metric: Metric, allowance: &Allowance, baseline: Option<f64>) -> f64 {
    const MOST_LOST: f64 = 0.99;
    let slack = baseline.map_or(0.0, |baseline| allowance.slack / baseline);
    let limit = if slack > allowance.limit { slack } else { allowance.limit };
    if metric.more_is_better() && limit > MOST_LOST { MOST_LOST } else { limit }
}

/// The target's median over all epochs of all sessions of a side.
pub(super) fn typical(side: &[Kept], metric: Metric) -> Option<f64> {
    let arms = side.iter().flat_map(Kept::target_arms);
    let values: Vec<f64> = arms.filter_map(|arm| reading(arm, metric)).collect();
    median(&values)
}

/// What was found out about a metric.
pub(super) struct Finding {
    pub(super) evidence: Evidence,
    pub(super) verdict: Verdict,
    /// Epochs in which an arm left no usable value.
    pub(super) unusable: usize,
}

pub(super) fn metric_verdict(sides: &Sides, metric: Metric, finding: Finding) -> MetricVerdict {
    let Finding { evidence, mut verdict, unusable } = finding;
    let mut note = None;
    if unusable > 0 && verdict == Verdict::Pass {
        // An arm that left no value may have been at its worst then; a PASS would be the survivors' own.
        verdict = Verdict::Inconclusive;
    }
    if unusable > 0 {
        let cannot = if verdict == Verdict::Fail { "" } else { ", so this cannot pass" };
        let epochs = if unusable == 1 { "1 epoch" } else { &format!("{unusable} epochs") };
        note = Some(format!("{epochs} gave no usable value{cannot}"));
    }
    let value = |side| typical(side, metric).and_then(|value| quantity(metric, value));
    MetricVerdict {
        metric,
        critical: sides.thresholds.of(metric).is_some_and(|allowance| allowance.critical),
        baseline: value(&sides.baseline),
        candidate: value(&sides.candidate),
        evidence,
        verdict,
        note,
    }
}

/// How an interval was come by, for [`evidence`].
pub(super) struct Design {
    pub(super) n: (usize, usize),
    pub(super) limit: f64,
    pub(super) confidence: f64,
    /// The smallest change that was shown not to be reached.
    pub(super) certified: Option<f64>,
    pub(super) basis: Basis,
}

/// An interval of logarithms as evidence; missing where there is none.
pub(super) fn evidence(metric: Metric, interval: Result<Interval, String>, design: Design) -> Evidence {
    let fewest = design.n.0.min(design.n.1);
    if fewest < LEAST_EPOCHS {
        return Evidence::Missing { reason: format!("{fewest} usable epochs, {LEAST_EPOCHS} are needed") };
    }
    match interval {
        Ok(interval) => {
            let share = |log| as_share(log, metric);
            let (estimate, low, high) = (share(interval.estimate), share(interval.low), share(interval.high));
            Evidence::Change {
                estimate,
                low,
                high,
                confidence: design.confidence,
                n: (design.n.0 as u32, design.n.1 as u32),
                limit: design.limit,
                certified: design.certified.map(share).filter(|bound| bound.is_finite()),
                epochs_needed: epochs_needed(fewest, estimate, low, high, design.limit),
                basis: design.basis,
            }
        }
        Err(reason) => Evidence::Missing { reason },
    }
}

/// About how many epochs would move the interval off the limit: its width shrinks with their square root.
fn epochs_needed(now: usize, estimate: f64, low: f64, high: f64, limit: f64) -> Option<u32> {
    let (distance, reach) = if estimate < limit {
        (limit - estimate, high - estimate)
    } else {
        (estimate - limit, estimate - low)
    };
    let needed = (now as f64 * (reach / distance).powi(2)).ceil();
    (needed > now as f64 && needed <= MOST_EPOCHS_ADVISED).then_some(needed as u32)
}
