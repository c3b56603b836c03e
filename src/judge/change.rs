//! Metrics that are judged by their relative change.

use super::{
    CONFIDENCE, LEAST_EPOCHS, Sides,
    series::{Extracted, Series, extract, values},
};
use crate::{
    model::{
        record::ArmRole,
        settings::Thresholds,
        verdict::{Evidence, Metric, MetricVerdict, Quantity, Verdict},
    },
    stats::{NoInterval, quantile::median, rank_sum, signed_rank},
};

/// More epochs than this is not advice anyone can follow.
const MOST_EPOCHS_ADVISED: f64 = 1000.0;

pub(super) fn judge(sides: &Sides, metric: Metric, critical: bool) -> MetricVerdict {
    let baseline = median(&values(sides.baseline, metric, ArmRole::Target));
    let candidate = median(&values(sides.candidate, metric, ArmRole::Target));
    let limit = limit(metric, sides.thresholds, baseline);
    let Extracted { series, unusable } = extract(sides, metric);
    let evidence = evidence(&series, limit);
    let mut verdict = verdict(&evidence);
    let mut note = None;
    if unusable > 0 && verdict == Verdict::Pass {
        // An arm that left no value may have been at its worst then; a PASS would be the survivors' own.
        verdict = Verdict::Inconclusive;
        note = Some(format!("{unusable} epochs gave no usable value, so this cannot pass"));
    } else if unusable > 0 {
        note = Some(format!("{unusable} epochs gave no usable value"));
    }
    MetricVerdict {
        metric,
        critical,
        baseline: baseline.and_then(|value| quantity(metric, value)),
        candidate: candidate.and_then(|value| quantity(metric, value)),
        evidence,
        verdict,
        note,
    }
}

/// The largest relative change allowed. Response times may always change by the absolute slack.
pub(super) fn limit(metric: Metric, thresholds: &Thresholds, baseline: Option<f64>) -> f64 {
    match metric {
        Metric::P95 => thresholds.p95_share,
        Metric::P99 => thresholds.p99_share,
        Metric::Memory => thresholds.memory_share,
        Metric::CpuPerRequest => thresholds.cpu_share,
        Metric::P50 | Metric::Mean | Metric::MaxLatency | Metric::Errors => {
            let slack = baseline.map_or(0.0, |baseline| thresholds.response_time_slack_s / baseline);
            if slack > thresholds.response_time_share { slack } else { thresholds.response_time_share }
        }
    }
}

fn evidence(series: &Series, limit: f64) -> Evidence {
    let (n, interval) = match series {
        Series::Paired(changes) => {
            ((changes.len(), changes.len()), signed_rank::interval(changes, CONFIDENCE))
        }
        Series::Separate { baseline, candidate } => {
            ((baseline.len(), candidate.len()), rank_sum::shift(baseline, candidate, CONFIDENCE))
        }
    };
    let fewest = n.0.min(n.1);
    if fewest < LEAST_EPOCHS || matches!(interval, Err(NoInterval::TooFew { .. })) {
        let reason = format!("{fewest} usable epochs, {LEAST_EPOCHS} are needed");
        return Evidence::Missing { reason };
    }
    match interval {
        Ok(interval) => Evidence::Change {
            estimate: interval.estimate.exp_m1(),
            low: interval.low.exp_m1(),
            high: interval.high.exp_m1(),
            confidence: interval.confidence,
            n: (n.0 as u32, n.1 as u32),
            limit,
        },
        Err(refusal) => Evidence::Missing { reason: refusal.to_string() },
    }
}

/// PASS and FAIL are shown; everything else, a limit that is no number included, is undecided.
fn verdict(evidence: &Evidence) -> Verdict {
    match evidence {
        Evidence::Change { high, limit, .. } if high < limit => Verdict::Pass,
        Evidence::Change { low, limit, .. } if low > limit => Verdict::Fail,
        _ => Verdict::Inconclusive,
    }
}

fn quantity(metric: Metric, value: f64) -> Option<Quantity> {
    Some(match metric {
        Metric::P50 | Metric::Mean | Metric::P95 | Metric::P99 | Metric::MaxLatency => {
            Quantity::Seconds(value)
        }
        Metric::Memory => Quantity::Bytes(value),
        Metric::CpuPerRequest => Quantity::CpuMs(value),
        Metric::Errors => return None,
    })
}

/// About how many epochs would move the interval off the limit: its width shrinks with their square root.
pub(super) fn epochs_needed(evidence: &Evidence) -> Option<u32> {
    let Evidence::Change { estimate, low, high, n, limit, .. } = evidence else { return None };
    let (distance, reach) = if estimate < limit {
        (limit - estimate, high - estimate)
    } else {
        (estimate - limit, estimate - low)
    };
    let now = f64::from(n.0.min(n.1));
    let needed = (now * (reach / distance).powi(2)).ceil();
    (needed > now && needed <= MOST_EPOCHS_ADVISED).then_some(needed as u32)
}
