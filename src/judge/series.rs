//! From epochs to series of numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::Sides;
use crate::model::{
    record::{ArmEpoch, ArmRole, Epoch, Record},
    verdict::Metric,
};

/// Less of the offered load than this and an epoch did not measure what it was meant to.
const LEAST_ACHIEVED: f64 = 0.99;
/// More short epochs than this share and the records cannot show a PASS.
const MOST_SHORT: f64 = 0.10;

/// The logarithms of the changes of one metric.
pub(super) enum Series {
    /// Per epoch, candidate less baseline.
    Paired(Vec<f64>),
    /// Per epoch, each side less its own yardstick.
    Separate { baseline: Vec<f64>, candidate: Vec<f64> },
}

/// A series and how many epochs could not give to it.
pub(super) struct Extracted {
    pub(super) series: Series,
    pub(super) unusable: usize,
}

/// The changes of a metric that is a positive number per arm and epoch.
pub(super) fn extract(sides: &Sides, metric: Metric) -> Extracted {
    let (baseline, candidate) = (by_index(sides.baseline), by_index(sides.candidate));
    if sides.paired {
        let indices: BTreeSet<u32> = baseline.keys().chain(candidate.keys()).copied().collect();
        let changes: Vec<f64> = indices
            .iter()
            .filter_map(|index| {
                let from = log_of_two(baseline.get(index)?, metric, ArmRole::Target, ArmRole::TargetAgain)?;
                Some(log(candidate.get(index)?, metric, ArmRole::Target)? - from)
            })
            .collect();
        return Extracted { unusable: indices.len() - changes.len(), series: Series::Paired(changes) };
    }
    let side = |epochs: &BTreeMap<u32, &Epoch>| -> Vec<f64> {
        epochs.values().filter_map(|epoch| normalised(epoch, metric)).collect()
    };
    let (from, to) = (side(&baseline), side(&candidate));
    Extracted {
        unusable: baseline.len() + candidate.len() - from.len() - to.len(),
        series: Series::Separate { baseline: from, candidate: to },
    }
}

/// Per epoch, an arm less another of the same record.
pub(super) fn differences(record: &Record, metric: Metric, first: ArmRole, again: ArmRole) -> Vec<f64> {
    by_index(record)
        .values()
        .filter_map(|epoch| Some(log(epoch, metric, again)? - log(epoch, metric, first)?))
        .collect()
}

/// A metric of an arm in each epoch that has a usable one, in its own unit.
pub(super) fn values(record: &Record, metric: Metric, role: ArmRole) -> Vec<f64> {
    let epochs = by_index(record);
    epochs.values().filter_map(|epoch| reading(epoch.arms.get(&role)?, metric)).collect()
}

/// The target's arm of each epoch; `None` where there is none.
pub(super) fn target_arms(record: &Record) -> impl Iterator<Item = Option<&ArmEpoch>> {
    by_index(record).into_values().map(|epoch| epoch.arms.get(&ArmRole::Target))
}

/// Epochs by their number, so that one written twice does not count twice.
fn by_index(record: &Record) -> BTreeMap<u32, &Epoch> {
    record.epochs.iter().map(|epoch| (epoch.index, epoch)).collect()
}

/// Memory is what it is on any day; time is worth as much as the machine was at that moment, which the control saw.
fn normalised(epoch: &Epoch, metric: Metric) -> Option<f64> {
    let target = log(epoch, metric, ArmRole::Target)?;
    if metric == Metric::Memory {
        return Some(target);
    }
    Some(target - log_of_two(epoch, metric, ArmRole::Control, ArmRole::ControlAgain)?)
}

/// The mean of two arms' logarithms; the first alone where the epoch has no second.
fn log_of_two(epoch: &Epoch, metric: Metric, first: ArmRole, again: ArmRole) -> Option<f64> {
    let one = log(epoch, metric, first)?;
    if epoch.arms.contains_key(&again) {
        return Some(f64::midpoint(one, log(epoch, metric, again)?));
    }
    Some(one)
}

fn log(epoch: &Epoch, metric: Metric, role: ArmRole) -> Option<f64> {
    reading(epoch.arms.get(&role)?, metric).map(f64::ln)
}

/// A usable value is a positive number; nothing else has a logarithm.
fn reading(arm: &ArmEpoch, metric: Metric) -> Option<f64> {
    let value = match metric {
        Metric::P50 => arm.latency.p50_s?,
        Metric::Mean => arm.latency.mean_s?,
        Metric::P95 => arm.latency.p95_s?,
        Metric::P99 => arm.latency.p99_s?,
        Metric::MaxLatency => arm.latency.max_s?,
        Metric::Memory => arm.service.memory?.anonymous.0 as f64,
        Metric::CpuPerRequest => {
            // Milliseconds per 1,000 requests: seconds per request times a million.
            arm.service.cpu?.as_secs_f64() * 1e6 / arm.requests.completed() as f64
        }
        Metric::Errors => return None,
    };
    (value.is_finite() && value > 0.0).then_some(value)
}

/// Epochs in which the load fell short of its schedule.
pub(super) struct ShortOfLoad {
    pub(super) reasons: Vec<String>,
    /// So many that what was measured is not the load that was asked for.
    pub(super) too_many: bool,
}

pub(super) fn short_of_load(sides: &Sides) -> ShortOfLoad {
    let mut found = ShortOfLoad { reasons: Vec::new(), too_many: false };
    for (side, record) in [("baseline", sides.baseline), ("candidate", sides.candidate)] {
        let achieved: Vec<f64> = by_index(record)
            .values()
            .map(|epoch| epoch.arms.values().map(achieved).fold(f64::INFINITY, f64::min))
            .collect();
        let short = achieved.iter().filter(|share| **share < LEAST_ACHIEVED).count();
        if short == 0 {
            continue;
        }
        let lowest = achieved.iter().copied().fold(f64::INFINITY, f64::min);
        found.reasons.push(format!(
            "the {side}: in {short} of {} epochs less than 99% of the load was sent (lowest {:.1}%)",
            achieved.len(),
            lowest * 100.0
        ));
        found.too_many |= short as f64 > MOST_SHORT * achieved.len() as f64;
    }
    found
}

fn achieved(arm: &ArmEpoch) -> f64 {
    match arm.requests.offered {
        0 => 0.0,
        offered => arm.requests.sent as f64 / offered as f64,
    }
}
