//! `[thresholds]`: what the candidate may cost.
//!
//! A metric takes its limit alone, `p95 = "25%"`, or a table with what else there is to say of it,
//! `p95 = { limit = "25%", slack = "2ms", critical = true }`.

use std::time::Duration;

use super::{
    document::{Field, Section},
    error::ConfigError,
};
use crate::model::{
    settings::{Allowance, Thresholds},
    verdict::Metric,
};

/// Keys of `[thresholds]`.
pub(super) const THRESHOLD_KEYS: [&str; 15] = [
    "response_time",
    "response_time_slack",
    "p50",
    "mean",
    "p95",
    "p99",
    "max_latency",
    "errors",
    "memory",
    "cpu",
    "start",
    "reload",
    "restart",
    "throughput",
    "memory_growth",
];
/// Keys of a metric's own table.
pub(super) const ALLOWANCE_KEYS: [&str; 3] = ["limit", "slack", "critical"];

/// The keys that name metrics, in the order they are read: the more particular one stands over the other.
const METRICS: [(&str, &[Metric]); 14] = [
    ("response_time", &[Metric::P50, Metric::Mean]),
    ("p50", &[Metric::P50]),
    ("mean", &[Metric::Mean]),
    ("p95", &[Metric::P95]),
    ("p99", &[Metric::P99]),
    ("max_latency", &[Metric::MaxLatency]),
    ("errors", &[Metric::Errors]),
    ("memory", &[Metric::Memory]),
    ("cpu", &[Metric::CpuPerRequest]),
    ("start", &[Metric::StartTime]),
    ("reload", &[Metric::ReloadTime]),
    ("restart", &[Metric::RestartTime]),
    ("throughput", &[Metric::Throughput]),
    ("memory_growth", &[Metric::MemoryGrowth]),
];

/// Reads `[thresholds]` over the defaults.
pub(super) fn thresholds(section: Option<&Section<'_, '_>>) -> Result<Thresholds, ConfigError> {
    let mut thresholds = Thresholds::default();
    let Some(section) = section else { return Ok(thresholds) };
    if let Some(slack) = section.optional("response_time_slack", |field| field.duration(Duration::ZERO))? {
        for metric in [Metric::P50, Metric::Mean] {
            if let Some(allowance) = thresholds.0.get_mut(&metric) {
                allowance.slack = slack.as_secs_f64();
            }
        }
    }
    for (key, metrics) in METRICS {
        let Some(field) = section.field(key) else { continue };
        for metric in metrics {
            if let Some(allowance) = thresholds.0.get_mut(metric) {
                *allowance = read(&field, *metric, *allowance)?;
            }
        }
    }
    Ok(thresholds)
}

fn read(field: &Field<'_, '_>, metric: Metric, mut allowance: Allowance) -> Result<Allowance, ConfigError> {
    if field.value().as_table().is_none() {
        allowance.limit = limit(field, metric)?;
        return Ok(allowance);
    }
    let table = field.section(&ALLOWANCE_KEYS)?;
    if let Some(limit) = table.optional("limit", |field| limit(field, metric))? {
        allowance.limit = limit;
    }
    if let Some(slack) = table.optional("slack", |field| slack(field, metric))? {
        allowance.slack = slack;
    }
    if let Some(critical) = table.optional("critical", Field::boolean)? {
        allowance.critical = critical;
    }
    Ok(allowance)
}

fn limit(field: &Field<'_, '_>, metric: Metric) -> Result<f64, ConfigError> {
    match metric {
        Metric::MaxLatency => Ok(field.duration(Duration::from_nanos(1))?.as_secs_f64()),
        Metric::Errors => Ok(field.integer(0, 1_000_000_000)? as f64),
        Metric::Throughput => {
            let share = field.share()?;
            if share < 1.0 {
                return Ok(share);
            }
            Err(field
                .error(format!("`{}` must be below 100%", field.key()))
                .help("it is how much less the candidate may carry"))
        }
        _ => field.share(),
    }
}

/// In the metric's own unit.
fn slack(field: &Field<'_, '_>, metric: Metric) -> Result<f64, ConfigError> {
    match metric {
        Metric::Memory => size(field),
        Metric::CpuPerRequest | Metric::Throughput => {
            let number = field.number()?;
            if number >= 0.0 {
                return Ok(number);
            }
            Err(field.error(format!("`{}` must not be negative", field.key())))
        }
        Metric::MaxLatency | Metric::Errors | Metric::MemoryGrowth => Err(field
            .key_error("`slack` has no meaning here")
            .help("this metric has a limit of its own, not one relative to the baseline's value")),
        _ => Ok(field.duration(Duration::ZERO)?.as_secs_f64()),
    }
}

/// A size with its unit, in bytes.
fn size(field: &Field<'_, '_>) -> Result<f64, ConfigError> {
    let wrong = || {
        field
            .error(format!("`{}` is not a size", field.key()))
            .help("write a number and a unit of KiB, MiB or GiB in quotes, for example \"8MiB\"")
    };
    let text = field.value().as_str().ok_or_else(wrong)?.trim();
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let (number, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
        .ok_or_else(wrong)?;
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let bytes = number * f64::from(1_u32 << shift);
    if bytes.is_finite() && bytes >= 0.0 { Ok(bytes) } else { Err(wrong()) }
}
