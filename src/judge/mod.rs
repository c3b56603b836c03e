//! Two records in, one comparison out.
//!
//! [`compare`] first asks whether the two may be set against each other at all, then takes each metric's changes
//! epoch by epoch, and answers per metric and overall. What is missing never passes: an epoch without a usable
//! value can contribute to a FAIL, but not to a PASS.
//!
//! Deliberately absent: files, clocks, and any margin that grows with the noise. Formatting is `report`'s, except
//! for the sentences that say why.

mod admission;
mod change;
mod count;
#[cfg(test)]
mod fixture;
mod noise;
mod series;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::model::{
    record::Record,
    settings::Thresholds,
    target::RuntimeKind,
    verdict::{Comparison, Evidence, Grade, Metric, MetricVerdict, Verdict},
};

/// The confidence of every interval and bound.
pub const CONFIDENCE: f64 = 0.95;
/// Fewer usable epochs than this carry no interval: a signed-rank interval at 95% needs six.
pub const LEAST_EPOCHS: usize = 6;

/// Sets a candidate against a baseline.
///
/// Records of one session are compared epoch by epoch (paired). Records of different sessions are compared through
/// the control of each (controlled), on one kind of machine only unless `across_hosts` asks for an advisory answer.
///
/// The verdict is INVALID when a session's two identical arms differ by more than the threshold; else FAIL when a
/// critical metric was shown to be beyond its limit; else INCONCLUSIVE unless every critical metric was shown to
/// be within; else PASS.
///
/// ```no_run
/// # use qbench::{judge::compare, model::{record::Record, settings::Thresholds}};
/// # fn example(docker: &Record, pm2: &Record) {
/// let comparison = compare(docker, pm2, &Thresholds::default(), false);
/// for reason in &comparison.reasons {
///     eprintln!("{}: {reason}", comparison.verdict);
/// }
/// # }
/// ```
pub fn compare(
    baseline: &Record,
    candidate: &Record,
    thresholds: &Thresholds,
    across_hosts: bool,
) -> Comparison {
    let admission = admission::admit(baseline, candidate, across_hosts);
    let mut comparison = Comparison {
        baseline: baseline.target.clone(),
        candidate: candidate.target.clone(),
        sessions: (baseline.session.id.clone(), candidate.session.id.clone()),
        workload: baseline.workload.name.clone(),
        grade: admission.grade,
        metrics: Vec::new(),
        verdict: Verdict::Incomparable,
        reasons: admission.reasons,
    };
    let Some(grade) = admission.grade else { return comparison };

    let sides = Sides { baseline, candidate, thresholds, paired: grade == Grade::Paired };
    comparison.metrics = metrics(&sides);
    let distrust = noise::distrust(&sides);
    let short = series::short_of_load(&sides);
    comparison.verdict = match overall(&comparison.metrics) {
        _ if !distrust.is_empty() => Verdict::Invalid,
        // Whoever stops a session when it looks good, or counts what was left of a broken one, proves nothing.
        Verdict::Pass if short.too_many || !is_whole(baseline) || !is_whole(candidate) => {
            Verdict::Inconclusive
        }
        Verdict::Pass if !noise::is_guarded(&sides) => Verdict::Inconclusive,
        verdict => verdict,
    };
    comparison.reasons.extend(distrust);
    comparison.reasons.extend(short.reasons);
    if !noise::is_guarded(&sides) {
        let reason =
            "no arm was measured twice, so the machine's own noise is not known and this cannot pass";
        comparison.reasons.push(reason.to_owned());
    }
    comparison.reasons.extend(undecided(&comparison.metrics));
    comparison.reasons.extend(remedy(&comparison));
    comparison
}

/// What every part of a comparison looks at.
struct Sides<'a> {
    baseline: &'a Record,
    candidate: &'a Record,
    thresholds: &'a Thresholds,
    /// Both records come from one session.
    paired: bool,
}

fn metrics(sides: &Sides) -> Vec<MetricVerdict> {
    vec![
        change::judge(sides, Metric::P50, true),
        change::judge(sides, Metric::Mean, true),
        change::judge(sides, Metric::P95, false),
        change::judge(sides, Metric::P99, false),
        count::max_latency(sides),
        count::errors(sides),
        change::judge(sides, Metric::Memory, true),
        change::judge(sides, Metric::CpuPerRequest, false),
    ]
}

fn overall(metrics: &[MetricVerdict]) -> Verdict {
    let critical = || metrics.iter().filter(|metric| metric.critical);
    if critical().any(|metric| metric.verdict == Verdict::Fail) {
        Verdict::Fail
    } else if critical().all(|metric| metric.verdict == Verdict::Pass) && critical().next().is_some() {
        Verdict::Pass
    } else {
        Verdict::Inconclusive
    }
}

/// Every planned epoch is there.
fn is_whole(record: &Record) -> bool {
    let indices: BTreeSet<u32> = record.epochs.iter().map(|epoch| epoch.index).collect();
    record.session.complete && indices.len() >= record.session.planned_epochs as usize
}

/// A cause of a failure that is known beforehand, with its remedy.
fn remedy(comparison: &Comparison) -> Option<String> {
    let too_much =
        |metric: &MetricVerdict| metric.metric == Metric::Memory && metric.verdict == Verdict::Fail;
    let is_pm2 = comparison.candidate.runtime == RuntimeKind::Pm2;
    (is_pm2 && comparison.metrics.iter().any(too_much)).then(|| {
        "PM2 loads an agent of its own into every Node process, some MiB each; `pmx: false` in the ecosystem file \
         leaves it out"
            .to_owned()
    })
}

/// What would decide the critical metrics that nothing was shown about.
fn undecided(metrics: &[MetricVerdict]) -> Vec<String> {
    let open = metrics.iter().filter(|metric| metric.critical && metric.verdict == Verdict::Inconclusive);
    open.filter_map(|metric| match &metric.evidence {
        Evidence::Change { .. } => {
            let needed = change::epochs_needed(&metric.evidence)?;
            Some(format!("{} is undecided: it would take about {needed} epochs", metric.metric.title()))
        }
        Evidence::Missing { reason } => Some(format!("{}: {reason}", metric.metric.title())),
        Evidence::Rate { .. } | Evidence::Largest { .. } => None,
    })
    .collect()
}
