//! The same thing measured twice must come out the same: the A/A guard.

use super::{CONFIDENCE, LEAST_EPOCHS, Sides, change, series};
use crate::{
    model::{
        record::{ArmRole, Record},
        verdict::Metric,
    },
    stats::{quantile::median, signed_rank},
};

const TARGETS: (ArmRole, ArmRole) = (ArmRole::Target, ArmRole::TargetAgain);
const CONTROLS: (ArmRole, ArmRole) = (ArmRole::Control, ArmRole::ControlAgain);

/// Why a session cannot be trusted: two arms of the same kind that differ by more than the threshold, shown by an
/// interval that lies wholly beyond it, in whichever direction.
pub(super) fn distrust(sides: &Sides) -> Vec<String> {
    let mut found = Vec::new();
    if sides.paired {
        // Usually the baseline's; the two may have been given the other way round.
        for (record, who) in [(sides.baseline, "the baseline"), (sides.candidate, "the candidate")] {
            for metric in [Metric::P50, Metric::Mean, Metric::Memory] {
                found.extend(apart(sides, record, metric, TARGETS, who));
            }
        }
    } else {
        for (record, who) in
            [(sides.baseline, "the baseline's control"), (sides.candidate, "the candidate's control")]
        {
            for metric in [Metric::P50, Metric::Mean] {
                found.extend(apart(sides, record, metric, CONTROLS, who));
            }
        }
    }
    found
}

/// Whether the guard had enough to look at: one doubled target in a session, a doubled control in each stored record.
pub(super) fn is_guarded(sides: &Sides) -> bool {
    let has =
        |record, (first, again)| series::differences(record, Metric::P50, first, again).len() >= LEAST_EPOCHS;
    if sides.paired {
        has(sides.baseline, TARGETS) || has(sides.candidate, TARGETS)
    } else {
        has(sides.baseline, CONTROLS) && has(sides.candidate, CONTROLS)
    }
}

fn apart(
    sides: &Sides,
    record: &Record,
    metric: Metric,
    (first, again): (ArmRole, ArmRole),
    who: &str,
) -> Option<String> {
    let differences = series::differences(record, metric, first, again);
    if differences.len() < LEAST_EPOCHS {
        return None;
    }
    let interval = signed_rank::interval(&differences, CONFIDENCE).ok()?;
    let limit = change::limit(metric, sides.thresholds, median(&series::values(record, metric, first)));
    // Which of the two arms came first is chance, so the threshold is the same factor both ways.
    let beyond = interval.low.exp_m1() > limit || (-interval.high).exp_m1() > limit;
    beyond.then(|| {
        format!(
            "{who} differs from itself: {} of its second arm {:+.1}% [{:+.1}%, {:+.1}%] over {} epochs, limit \
             {:.1}%; find what disturbs the machine and measure again",
            metric.title(),
            interval.estimate.exp_m1() * 100.0,
            interval.low.exp_m1() * 100.0,
            interval.high.exp_m1() * 100.0,
            differences.len(),
            limit * 100.0
        )
    })
}
