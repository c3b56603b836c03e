//! One metric of one arm in one epoch, as a number.

use std::borrow::Cow;

use crate::{
    model::{
        measurement::Usage,
        record::{ArmEpoch, ArmRole, Epoch, LatencySummary, Record},
        sample::LatencyHistogram,
        verdict::{Metric, Quantity},
    },
    stats::quantile::harrell_davis,
};

/// Records whose quantiles are the Harrell–Davis estimates from their histograms, which vary less from epoch to epoch
/// than the one value at a rank does. Without a histogram that decodes a quantile is what the record says; without a
/// quantile there is none.
pub(super) fn estimated(records: &[Record]) -> Cow<'_, [Record]> {
    let arms = |record: &Record| record.epochs.iter().any(|epoch| epoch.arms.values().any(has_histogram));
    if !records.iter().any(arms) {
        return Cow::Borrowed(records);
    }
    let mut own = records.to_vec();
    let arms = own.iter_mut().flat_map(|record| &mut record.epochs).flat_map(|epoch| epoch.arms.values_mut());
    for arm in arms {
        estimate(&mut arm.latency);
    }
    Cow::Owned(own)
}

fn has_histogram(arm: &ArmEpoch) -> bool {
    !arm.latency.hdr_v2.is_empty()
}

fn estimate(latency: &mut LatencySummary) {
    let text = std::mem::take(&mut latency.hdr_v2);
    let Ok(histogram) = LatencyHistogram::decode(&text) else { return };
    let counts = histogram.counts();
    let quantiles = [(0.50, &mut latency.p50_s), (0.95, &mut latency.p95_s), (0.99, &mut latency.p99_s)];
    for (q, stored) in quantiles {
        if let Some(estimate) = stored.filter(|s| s.is_finite()).and(harrell_davis(&counts, q)) {
            *stored = Some(estimate);
        }
    }
}

/// A usable value is a positive number; nothing else has a logarithm.
pub(super) fn reading(arm: &ArmEpoch, metric: Metric) -> Option<f64> {
    let value = match metric {
        Metric::P50 => arm.latency.p50_s?,
        Metric::Mean => arm.latency.mean_s?,
        Metric::P95 => arm.latency.p95_s?,
        Metric::P99 => arm.latency.p99_s?,
        Metric::MaxLatency => arm.latency.max_s?,
        Metric::Memory => arm.service.memory?.anonymous.0 as f64,
        Metric::CpuPerRequest => {
            let parts = [Some(arm.service), runtime(arm.overhead_fixed), runtime(arm.overhead_per_instance)];
            let seconds =
                parts.into_iter().flatten().map(|part| Some(part.cpu?.as_secs_f64())).sum::<Option<f64>>()?;
            // Milliseconds per 1,000 requests: seconds per request times a million.
            seconds * 1e6 / arm.requests.completed() as f64
        }
        Metric::StartTime => arm.start_to_ready_s,
        Metric::ReloadTime => arm.reload_s?,
        Metric::RestartTime => arm.restart_s?,
        Metric::Throughput => arm.throughput?,
        Metric::Errors | Metric::MemoryGrowth => return None,
    };
    (value.is_finite() && value > 0.0).then_some(value)
}

/// A part of the runtime; `None` where the runtime has no such part.
fn runtime(usage: Usage) -> Option<Usage> {
    (usage.processes > 0).then_some(usage)
}

/// The logarithm of a metric, so turned that more is worse.
pub(super) fn log(epoch: &Epoch, metric: Metric, role: ArmRole) -> Option<f64> {
    let log = reading(epoch.arms.get(&role)?, metric)?.ln();
    Some(if metric.more_is_better() { -log } else { log })
}

/// The mean of two arms' logarithms; the first alone where the session has no second.
pub(super) fn log_of_two(
    epoch: &Epoch,
    metric: Metric,
    (first, again): (ArmRole, ArmRole),
    is_doubled: bool,
) -> Option<f64> {
    let one = log(epoch, metric, first)?;
    if is_doubled { Some(f64::midpoint(one, log(epoch, metric, again)?)) } else { Some(one) }
}

/// The target's two arms.
pub(super) const TARGETS: (ArmRole, ArmRole) = (ArmRole::Target, ArmRole::TargetAgain);
/// The control's.
pub(super) const CONTROLS: (ArmRole, ArmRole) = (ArmRole::Control, ArmRole::ControlAgain);

/// Memory is what it is on any day; time is worth as much as the machine was at that moment, which the control saw.
pub(super) fn normalised(epoch: &Epoch, metric: Metric, is_doubled: bool) -> Option<f64> {
    let target = log(epoch, metric, ArmRole::Target)?;
    if metric == Metric::Memory {
        return Some(target);
    }
    Some(target - log_of_two(epoch, metric, CONTROLS, is_doubled)?)
}

/// A change of the logarithm as a share: how much worse, or for what is better when it is more, how much less.
pub(super) fn as_share(log: f64, metric: Metric) -> f64 {
    if metric.more_is_better() { -(-log).exp_m1() } else { log.exp_m1() }
}

/// The logarithm at which a metric is at its limit.
pub(super) fn at_limit(limit: f64, metric: Metric) -> f64 {
    if metric.more_is_better() { -(-limit).ln_1p() } else { limit.ln_1p() }
}

pub(super) fn quantity(metric: Metric, value: f64) -> Option<Quantity> {
    Some(match metric {
        Metric::P50
        | Metric::Mean
        | Metric::P95
        | Metric::P99
        | Metric::MaxLatency
        | Metric::StartTime
        | Metric::ReloadTime
        | Metric::RestartTime => Quantity::Seconds(value),
        Metric::Memory => Quantity::Bytes(value),
        Metric::CpuPerRequest => Quantity::CpuMs(value),
        Metric::Throughput => Quantity::PerSecond(value),
        Metric::MemoryGrowth => Quantity::PerHour(value),
        Metric::Errors => return None,
    })
}
