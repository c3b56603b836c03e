//! Metrics that are judged by the candidate alone: failed requests and the slowest answer.

use super::{CONFIDENCE, Sides, epochs::Kept};
use crate::{
    model::{
        sample::{ErrorClass, RequestCounts},
        verdict::{Evidence, Metric, MetricVerdict, Quantity, Verdict},
    },
    stats::binomial::upper_bound,
};

/// The slowest answer of any epoch. Requests that timed out are in it, with the time they were given.
pub(super) fn max_latency(sides: &Sides) -> Option<MetricVerdict> {
    let allowance = sides.thresholds.of(Metric::MaxLatency)?;
    let limit_s = allowance.limit;
    let (baseline, _) = largest(&sides.baseline);
    let (candidate, unusable) = largest(&sides.candidate);
    let evidence = match candidate {
        Some((value_s, n)) => Evidence::Largest { value_s, n, limit_s },
        None => Evidence::Missing { reason: "no epoch has a slowest answer".to_owned() },
    };
    let verdict = match candidate {
        Some((value_s, _)) if value_s > limit_s => Verdict::Fail,
        // A request cut off by a time-out below the limit might have taken any time.
        Some(_) if cut_off(&sides.candidate, limit_s) => Verdict::Inconclusive,
        Some((value_s, n)) if value_s <= limit_s && n > 0 && unusable == 0 => Verdict::Pass,
        _ => Verdict::Inconclusive,
    };
    Some(MetricVerdict {
        metric: Metric::MaxLatency,
        critical: allowance.critical,
        baseline: baseline.map(|(value_s, _)| Quantity::Seconds(value_s)),
        candidate: candidate.map(|(value_s, _)| Quantity::Seconds(value_s)),
        evidence,
        verdict,
        note: (unusable > 0 && candidate.is_some())
            .then(|| format!("{unusable} epochs gave no usable value, so this cannot pass")),
    })
}

fn cut_off(side: &[Kept], limit_s: f64) -> bool {
    let (total, _) = requests(side);
    let timed_out = [ErrorClass::Timeout, ErrorClass::ConnectTimeout];
    let shorter = side.iter().any(|kept| kept.record.load.timeout_s < limit_s);
    shorter && timed_out.iter().any(|class| total.failed.contains_key(class))
}

/// The largest maximum with the number of answers it was found among, and the epochs without a usable one.
fn largest(side: &[Kept]) -> (Option<(f64, u64)>, usize) {
    let (mut found, mut unusable) = (None, 0);
    for arm in side.iter().flat_map(Kept::all_target_arms) {
        let usable = arm.and_then(|arm| {
            let max_s = arm.latency.max_s.filter(|max_s| max_s.is_finite() && *max_s > 0.0)?;
            Some((max_s, arm.latency.count))
        });
        match (usable, found) {
            (None, _) => unusable += 1,
            (Some(first), None) => found = Some(first),
            (Some((max_s, count)), Some((so_far, n))) => {
                found = Some((max_s.max(so_far), count.saturating_add(n)));
            }
        }
    }
    (found, unusable)
}

/// Requests that failed at the first try, raw.
pub(super) fn errors(sides: &Sides) -> Option<MetricVerdict> {
    let allowance = sides.thresholds.of(Metric::Errors)?;
    let (baseline, _) = requests(&sides.baseline);
    let (candidate, unusable) = requests(&sides.candidate);
    let (events, trials) = (candidate.failures(), candidate.completed());
    let limit = allowance.limit as u64;
    let unresolved = candidate.unanswered();
    let evidence = match upper_bound(events, trials, CONFIDENCE) {
        Some(upper_bound) => Evidence::Rate { events, trials, upper_bound, confidence: CONFIDENCE, limit },
        None => Evidence::Missing { reason: "no request of the candidate has an outcome".to_owned() },
    };
    let verdict = match evidence {
        Evidence::Rate { .. } if events > limit => Verdict::Fail,
        Evidence::Rate { .. } if unusable == 0 && unresolved == 0 => Verdict::Pass,
        _ => Verdict::Inconclusive,
    };
    let total =
        |counts: &RequestCounts| (counts.completed() > 0).then(|| Quantity::Count(counts.failures() as f64));
    Some(MetricVerdict {
        metric: Metric::Errors,
        critical: allowance.critical,
        baseline: total(&baseline),
        candidate: total(&candidate),
        evidence,
        verdict,
        note: note(&baseline, &candidate, unusable, unresolved),
    })
}

fn note(
    baseline: &RequestCounts,
    candidate: &RequestCounts,
    unusable: usize,
    unresolved: u64,
) -> Option<String> {
    let mut parts = Vec::new();
    if unusable > 0 {
        parts.push(format!("{unusable} epochs have no outcomes"));
    }
    if unresolved > 0 {
        parts.push(format!("{unresolved} requests were due and have no outcome"));
    }
    if candidate.failures() > 0 {
        let classes: Vec<String> =
            candidate.failed.iter().map(|(class, count)| format!("{count} {class}")).collect();
        parts.push(format!(
            "{}; {} left after one idempotent retry",
            classes.join(", "),
            candidate.failures_after_retry()
        ));
    }
    if baseline.completed() > 0 {
        let bound = upper_bound(baseline.failures(), baseline.completed(), CONFIDENCE);
        let bound = bound.map(|bound| format!(" (< {:.3}% at 95%)", bound * 100.0)).unwrap_or_default();
        parts.push(format!("baseline {} of {} requests{bound}", baseline.failures(), baseline.completed()));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The target's requests of all epochs together, and the epochs in which none has an outcome.
fn requests(side: &[Kept]) -> (RequestCounts, usize) {
    let (mut total, mut unusable) = (RequestCounts::default(), 0);
    for arm in side.iter().flat_map(Kept::all_target_arms) {
        match arm {
            Some(arm) if arm.requests.completed() > 0 => total.merge(&arm.requests),
            _ => unusable += 1,
        }
    }
    (total, unusable)
}
