//! The same thing measured twice must come out the same: the A/A guard.

use super::{CONFIDENCE, LEAST_EPOCHS, Sides, change, series};
use crate::{
    model::{
        record::{ArmRole, Record},
        verdict::Metric,
    },
    stats::{quantile::median, signed_rank},
};

/// Why a session cannot be trusted: two arms of the same kind that differ by more than the threshold, shown by an
/// interval that lies wholly beyond it, in whichever direction.
pub(super) fn distrust(sides: &Sides) -> Vec<String> {
    let mut found = Vec::new();
    if sides.paired {
        for metric in [Metric::P50, Metric::Mean, Metric::Memory] {
            let arms = (ArmRole::Target, ArmRole::TargetAgain);
            found.extend(apart(sides, sides.baseline, metric, arms, "the baseline"));
        }
    } else {
        for (record, who) in
            [(sides.baseline, "the baseline's control"), (sides.candidate, "the candidate's control")]
        {
            for metric in [Metric::P50, Metric::Mean] {
                let arms = (ArmRole::Control, ArmRole::ControlAgain);
                found.extend(apart(sides, record, metric, arms, who));
            }
        }
    }
    found
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
