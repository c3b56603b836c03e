//! One metric in a paragraph.

use super::{Sides, change, change::Change, sentence};
use crate::{
    model::verdict::{Evidence, Metric, MetricVerdict, Quantity, Verdict},
    report::words,
};

/// What was found, the verdict, and what there is to know about it.
pub(super) fn paragraph(metric: &MetricVerdict, sides: &Sides) -> String {
    let (finding, remarks) = match &metric.evidence {
        Evidence::Change { estimate, low, high, confidence, n, limit, certified, epochs_needed, basis } => {
            let change = Change {
                metric: metric.metric,
                estimate: *estimate,
                low: *low,
                high: *high,
                confidence: *confidence,
                n: *n,
                limit: *limit,
                certified: *certified,
                epochs_needed: *epochs_needed,
                basis,
                verdict: metric.verdict,
                note: metric.note.as_deref(),
            };
            (change.finding(sides), change.remarks(sides))
        }
        Evidence::Rate { events, trials, upper_bound, confidence, limit } => {
            let rate = rate(*events, *trials, *upper_bound, *confidence, sides);
            (
                format!("{rate}{}", allowed(*limit, metric.verdict)),
                open(metric, "some requests have no outcome"),
            )
        }
        Evidence::Largest { value_s, n, limit_s } => (
            largest(metric, *value_s, *n, *limit_s, sides),
            open(metric, "some requests were given up before the limit"),
        ),
        Evidence::Missing { reason } => {
            let what = if is_counted(metric.metric) { "figure" } else { "interval" };
            (
                format!(
                    "About {} nothing can be said, since the data carry no {what} ({reason})",
                    change::noun(metric.metric)
                ),
                Vec::new(),
            )
        }
    };
    let advisory = if metric.critical { "" } else { " (advisory, it does not decide)" };
    let mut told = vec![sentence(format!("{finding}: {}{advisory}.", metric.verdict))];
    told.extend(remarks);
    told.join(" ")
}

/// Judged by the candidate alone, without an interval.
fn is_counted(metric: Metric) -> bool {
    matches!(metric, Metric::Errors | Metric::MaxLatency)
}

fn rate(events: u64, trials: u64, upper_bound: f64, confidence: f64, sides: &Sides) -> String {
    let counted = format!(
        "{} of {} requests to {} failed",
        words::count(events),
        words::count(trials),
        sides.candidate.name
    );
    if upper_bound > 0.0 && upper_bound < 1.0 {
        format!(
            "{counted}, so the rate is below {} ({})",
            words::bound(upper_bound),
            change::sure(confidence)
        )
    } else {
        format!("{counted}, which bounds the rate nowhere below 100%")
    }
}

fn allowed(limit: u64, verdict: Verdict) -> String {
    match (verdict, limit) {
        (Verdict::Fail, 0) => ", but none may fail".to_owned(),
        (Verdict::Fail, limit) => format!(", more than the {} allowed", words::count(limit)),
        (_, 0) => "; none may fail".to_owned(),
        (_, limit) => format!("; {} may fail", words::count(limit)),
    }
}

fn largest(metric: &MetricVerdict, value_s: f64, n: u64, limit_s: f64, sides: &Sides) -> String {
    let (baseline, candidate) = (&sides.baseline, &sides.candidate);
    let of_baseline = match metric.baseline {
        Some(Quantity::Seconds(value_s)) => {
            format!(" ({} slowest: {})", baseline.possessive(), words::seconds(value_s))
        }
        _ => String::new(),
    };
    let limit = words::seconds(limit_s);
    let against = match metric.verdict {
        Verdict::Fail => format!(", beyond the limit of {limit}"),
        _ => format!("; the limit is {limit}"),
    };
    format!(
        "the slowest of {} answers of {} took {}{of_baseline}{against}",
        words::count(n),
        candidate.name,
        words::seconds(value_s)
    )
}

/// Why a count that is within its limit does not pass.
fn open(metric: &MetricVerdict, otherwise: &str) -> Vec<String> {
    let is_open = metric.verdict == Verdict::Inconclusive;
    is_open.then(|| format!("Note: {}.", metric.note.as_deref().unwrap_or(otherwise))).into_iter().collect()
}
