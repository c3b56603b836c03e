//! Growth of memory over a soak: a straight line through the least of each window, candidate less baseline.

use super::{ALPHA_FAIL, CONFIDENCE, Sides, change, change::Design};
use crate::{
    model::{
        record::Soak,
        settings::LEAST_SOAK_WINDOWS,
        verdict::{Basis, Evidence, Metric, MetricVerdict, Quantity, Verdict},
    },
    stats::theil_sen,
};

const LEAST_WINDOWS: usize = LEAST_SOAK_WINDOWS as usize;
/// The soak comes after the epochs have decided, so that its FAIL has an error of its own beside theirs: a fifth of it.
const ALPHA_FAIL_GROWTH: f64 = ALPHA_FAIL / 5.0;
const SECONDS_AN_HOUR: f64 = 3600.0;

/// `None` when neither side was soaked, or growth has no allowance.
pub(super) fn judge(sides: &Sides) -> Option<MetricVerdict> {
    let allowance = sides.thresholds.of(Metric::MemoryGrowth)?;
    let soak = |side: &[super::epochs::Kept]| side.first().and_then(|kept| kept.record.soak.clone());
    let (from, to) = (soak(&sides.baseline), soak(&sides.candidate));
    if from.is_none() && to.is_none() {
        return None;
    }
    let own = |soak: &Option<Soak>| {
        let points = points(soak.as_ref()?);
        Some(Quantity::PerHour(theil_sen::slope(&points, CONFIDENCE).ok()?.estimate.exp_m1()))
    };
    let (evidence, verdict) = match (&from, &to) {
        (Some(from), Some(to)) => decide(from, to, allowance.limit),
        _ => {
            let reason = "only one side was soaked".to_owned();
            (Evidence::Missing { reason }, Verdict::Inconclusive)
        }
    };
    Some(MetricVerdict {
        metric: Metric::MemoryGrowth,
        critical: allowance.critical,
        baseline: own(&from),
        candidate: own(&to),
        evidence,
        verdict,
        note: None,
    })
}

/// Time in hours and the logarithm of the least memory of each window.
fn points(soak: &Soak) -> Vec<(f64, f64)> {
    let windows = soak.windows.iter();
    let point = |window: &crate::model::record::SoakWindow| {
        let bytes = window.least_anonymous.filter(|bytes| *bytes > 0)? as f64;
        Some((window.at_s / SECONDS_AN_HOUR, bytes.ln()))
    };
    windows.filter_map(point).collect()
}

fn decide(from: &Soak, to: &Soak, limit: f64) -> (Evidence, Verdict) {
    let missing = |reason: String| (Evidence::Missing { reason }, Verdict::Inconclusive);
    // Window by window, so that what the machine did to both cancels.
    let mut differences = Vec::new();
    for (a, b) in from.windows.iter().zip(&to.windows) {
        let (Some(base), Some(cand)) = (a.least_anonymous, b.least_anonymous) else {
            return missing("a process changed within the soak, so its growth is not known".to_owned());
        };
        if base > 0 && cand > 0 {
            differences.push((b.at_s / SECONDS_AN_HOUR, (cand as f64).ln() - (base as f64).ln()));
        }
    }
    let windows = differences.len();
    let planned = (to.planned_s.min(from.planned_s) / to.window_s).floor() as usize;
    if windows < LEAST_WINDOWS {
        return missing(format!("{windows} whole windows of the soak, {LEAST_WINDOWS} are needed"));
    }
    let seconds = windows as f64 * to.window_s;
    let passing = theil_sen::slope(&differences, CONFIDENCE);
    let failing = theil_sen::slope(&differences, 1.0 - 2.0 * ALPHA_FAIL_GROWTH);
    let (Ok(passing), Ok(failing)) = (passing, failing) else {
        return missing(format!("{windows} windows carry no slope at the confidence asked for"));
    };
    let at_limit = limit.ln_1p();
    let verdict = if failing.low > at_limit {
        Verdict::Fail
    } else if passing.high < at_limit && windows >= planned {
        Verdict::Pass
    } else {
        Verdict::Inconclusive
    };
    let design = Design {
        n: (windows, windows),
        limit,
        confidence: CONFIDENCE,
        certified: Some(passing.high),
        basis: Basis::Soak { windows: windows as u32, seconds },
    };
    (change::evidence(Metric::MemoryGrowth, Ok(passing), design), verdict)
}
