//! The same thing measured twice must come out the same: the A/A guard.

use super::{
    ALPHA_FAIL, CONFIDENCE, LEAST_EPOCHS, Sides, change, changing_metrics,
    decision::{self, Series},
    epochs::Kept,
    levels::looks_until,
    paired,
    reading::{CONTROLS, TARGETS, as_share, at_limit, log},
};
use crate::{
    model::{record::ArmRole, verdict::Metric},
    stats::{quantile::median, signed_rank},
};

/// Why a session cannot be trusted: two arms of the same kind that differ by more than the limit, shown by the same
/// kind of test as a FAIL, in whichever direction.
pub(super) fn distrust(sides: &Sides) -> Vec<String> {
    let mut found = Vec::new();
    for (kept, who) in doubled(sides) {
        found.extend(apart(sides, kept, who));
    }
    found
}

/// The records with an arm that runs twice. In a session that is usually the baseline's; the two may have been
/// given the other way round.
fn doubled<'a, 'r>(sides: &'a Sides<'r>) -> impl Iterator<Item = (&'a Kept<'r>, &'static str)> {
    let names = if sides.paired {
        ("the baseline", "the candidate")
    } else {
        ("the baseline's control", "the candidate's control")
    };
    let baseline = sides.baseline.iter().map(move |kept| (kept, names.0));
    baseline.chain(sides.candidate.iter().map(move |kept| (kept, names.1)))
}

fn roles(sides: &Sides) -> (ArmRole, ArmRole) {
    if sides.paired { TARGETS } else { CONTROLS }
}

/// Whether the guard had enough to look at: both targets doubled in a session, which also makes the two sides alike; a
/// doubled control in each stored record.
pub(super) fn is_guarded(sides: &Sides) -> bool {
    let has = |kept: &Kept| {
        let differences = differences(kept, Metric::P50, roles(sides));
        differences.iter().flatten().count() >= LEAST_EPOCHS
    };
    sides.all().all(has)
}

/// Per epoch, the second of two identical arms less the first.
fn differences(kept: &Kept, metric: Metric, (first, again): (ArmRole, ArmRole)) -> Vec<Option<f64>> {
    let epochs = kept.epochs.iter();
    epochs.map(|epoch| Some(log((*epoch)?, metric, again)? - log((*epoch)?, metric, first)?)).collect()
}

fn apart(sides: &Sides, kept: &Kept, who: &str) -> Vec<String> {
    let roles = roles(sides);
    // Whatever decides is guarded; of a control, whose memory decides nothing, what it is the yardstick for.
    let metrics = changing_metrics(sides).into_iter().filter(|metric| {
        let critical = sides.thresholds.of(*metric).is_some_and(|allowance| allowance.critical);
        critical && (sides.paired || *metric != Metric::Memory)
    });
    let cap = if sides.paired { paired::cap(kept.record) } else { kept.epochs.len() as u32 };
    let looks = looks_until(kept.epochs.len() as u32, cap);
    let mut found = Vec::new();
    for metric in metrics {
        let Some(allowance) = sides.thresholds.of(metric) else { continue };
        let changes = differences(kept, metric, roles);
        if changes.iter().flatten().count() < LEAST_EPOCHS {
            continue;
        }
        let limit = change::limit(metric, allowance, median(&kept.values(metric, roles.0)));
        // Which of the two arms came first is chance, so the limit is the same factor both ways. Nothing is shared
        // among the tests: arms that are alike are far from their limit, and a guard must be able to speak.
        let beyond = [1.0, -1.0].iter().any(|sign| {
            let turned = changes.iter().map(|change| change.map(|change| sign * change)).collect();
            let series = Series { changes: turned, limit: at_limit(limit, metric) };
            decision::alarmed_at(&series.looks(&looks), cap, ALPHA_FAIL).is_some()
        });
        if beyond {
            found.extend(told(kept, metric, limit, roles, who));
        }
    }
    found
}

fn told(kept: &Kept, metric: Metric, limit: f64, roles: (ArmRole, ArmRole), who: &str) -> Option<String> {
    let values: Vec<f64> = differences(kept, metric, roles).into_iter().flatten().collect();
    let interval = signed_rank::interval(&values, CONFIDENCE).ok()?;
    let percent = |log: f64| as_share(log, metric) * 100.0;
    Some(format!(
        "{who} differs from itself: {} of its second arm {:+.1}% [{:+.1}%, {:+.1}%] over {} epochs, limit \
         {:.1}%; find what disturbs the machine and measure again",
        metric.title(),
        percent(interval.estimate),
        percent(interval.low),
        percent(interval.high),
        values.len(),
        limit * 100.0
    ))
}
