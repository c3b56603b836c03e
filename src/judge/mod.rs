//! Records in, one comparison out.
//!
//! [`compare`] first asks whether the two sides may be set against each other at all, then takes each metric's
//! changes epoch by epoch, and answers per metric and overall. Two records of one session are judged as the
//! group-sequential test they were measured for ([`steer`] is the same test, asked while the session runs); stored
//! records are judged through the control of each session, with what varies from session to session in the interval.
//!
//! The promise, per critical metric: a candidate that is exactly at its limit passes at most once in forty times
//! ([`ALPHA_PASS`]), and one that is exactly at its limit fails at most once in a hundred ([`ALPHA_FAIL`], shared
//! among the critical metrics by Holm's rule). What is missing never passes.
//!
//! Deliberately absent: files, clocks, and any margin that grows with the noise. Formatting is `report`'s, except
//! for the sentences that say why.

mod admission;
pub mod calibrate;
mod change;
mod count;
mod decision;
mod epochs;
#[cfg(test)]
mod fixture;
mod growth;
mod guards;
mod levels;
mod noise;
mod paired;
mod reading;
pub mod rehearsal;
mod steering;
mod stored;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_design;

pub use levels::looks;
pub use steering::{Steering, steer};

use crate::model::{
    calibration::Calibration,
    record::Record,
    settings::Thresholds,
    target::RuntimeKind,
    verdict::{Comparison, EpochCount, Evidence, Grade, Metric, MetricVerdict, Quantity, Verdict},
};

/// The largest probability of a PASS for a metric that is exactly at its limit.
pub const ALPHA_PASS: f64 = 0.025;
/// The largest probability of a FAIL for candidates that are exactly at their limits, all critical metrics together.
pub const ALPHA_FAIL: f64 = 0.01;
/// The confidence of every interval and bound: what [`ALPHA_PASS`] leaves at both ends.
pub const CONFIDENCE: f64 = 1.0 - 2.0 * ALPHA_PASS;
/// Fewer usable epochs than this carry no interval: a signed-rank interval at 95% needs six.
pub const LEAST_EPOCHS: usize = 6;

/// What is to be judged.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The baseline's sessions; one, or several of a stored baseline. Never none.
    pub baseline: &'a [Record],
    /// The candidate's, likewise.
    pub candidate: &'a [Record],
    /// What the candidate may cost.
    pub thresholds: &'a Thresholds,
    /// Give an advisory answer when the machines differ.
    pub across_hosts: bool,
    /// How much sessions of the baseline's and of the candidate's runtime vary on this machine, where that was measured.
    pub calibrations: [Option<&'a Calibration>; 2],
}

impl<'a> Question<'a> {
    /// Two records, on one machine, without a calibration.
    pub fn of(baseline: &'a Record, candidate: &'a Record, thresholds: &'a Thresholds) -> Self {
        Self {
            baseline: std::slice::from_ref(baseline),
            candidate: std::slice::from_ref(candidate),
            thresholds,
            across_hosts: false,
            calibrations: [None, None],
        }
    }
}

/// Sets a candidate against a baseline.
///
/// The verdict is INVALID when a session's two identical arms differ by more than the limit, or when more than a
/// tenth of its epochs were disturbed; else FAIL when a critical metric was shown to be beyond its limit; else
/// INCONCLUSIVE unless every critical metric was shown to be within; else PASS.
///
/// ```no_run
/// # use qbench::{judge::{Question, compare}, model::{record::Record, settings::Thresholds}};
/// # fn example(docker: &Record, pm2: &Record) {
/// let comparison = compare(&Question::of(docker, pm2, &Thresholds::default()));
/// for reason in &comparison.reasons {
///     eprintln!("{}: {reason}", comparison.verdict);
/// }
/// # }
/// ```
///
/// # Panics
/// When a side has no record: there is nothing that could be said, not even of what.
pub fn compare(question: &Question) -> Comparison {
    let (baseline, candidate) =
        (reading::estimated(question.baseline), reading::estimated(question.candidate));
    let question = &Question { baseline: &baseline, candidate: &candidate, ..*question };
    let admission = admission::admit(question);
    let ids = |records: &[Record]| records.iter().map(|record| record.session.id.clone()).collect();
    let (baseline, candidate) = (&question.baseline[0], &question.candidate[0]);
    let mut comparison = Comparison {
        baseline: baseline.target.clone(),
        candidate: candidate.target.clone(),
        sessions: (ids(question.baseline), ids(question.candidate)),
        workload: baseline.workload.name.clone(),
        grade: admission.grade,
        epochs: EpochCount::default(),
        metrics: Vec::new(),
        verdict: Verdict::Incomparable,
        reasons: admission.reasons,
    };
    let Some(grade) = admission.grade else { return comparison };
    let sides = Sides::new(question, grade == Grade::Paired);
    conclude(&sides, &mut comparison);
    comparison
}

/// A side's typical value of a metric: the target's median over the undisturbed epochs of all its sessions.
pub fn typical(records: &[Record], metric: Metric) -> Option<Quantity> {
    let kept: Vec<epochs::Kept> = records.iter().map(epochs::Kept::of).collect();
    reading::quantity(metric, change::typical(&kept, metric)?)
}

/// What every part of a comparison looks at.
struct Sides<'a> {
    baseline: Vec<epochs::Kept<'a>>,
    candidate: Vec<epochs::Kept<'a>>,
    thresholds: &'a Thresholds,
    /// Of the baseline's runtime and of the candidate's.
    calibrations: [Option<&'a Calibration>; 2],
    /// Both records come from one session.
    paired: bool,
}

impl<'a> Sides<'a> {
    fn new(question: &Question<'a>, paired: bool) -> Self {
        let (baseline, candidate) = if paired {
            let (from, to) = epochs::Kept::of_pair(&question.baseline[0], &question.candidate[0]);
            (vec![from], vec![to])
        } else {
            let kept = |records: &'a [Record]| records.iter().map(epochs::Kept::of).collect();
            (kept(question.baseline), kept(question.candidate))
        };
        Self {
            baseline,
            candidate,
            thresholds: question.thresholds,
            calibrations: question.calibrations,
            paired,
        }
    }

    fn all(&self) -> impl Iterator<Item = &epochs::Kept<'a>> {
        self.baseline.iter().chain(&self.candidate)
    }

    /// One a session: its two records hold the same epochs.
    fn sessions(&self) -> impl Iterator<Item = &epochs::Kept<'a>> {
        self.baseline.iter().chain(self.candidate.iter().filter(|_| !self.paired))
    }
}

fn conclude(sides: &Sides, comparison: &mut Comparison) {
    comparison.epochs = guards::count(sides);
    comparison.metrics = metrics(sides);
    if !sides.all().all(epochs::Kept::is_whole) {
        comparison.metrics.iter_mut().for_each(pass_nothing);
    }
    let distrust = [noise::distrust(sides), guards::too_many_dropped(sides)].concat();
    let load = guards::load(sides);
    let guarded = noise::is_guarded(sides);
    let verdicts = comparison.metrics.iter().map(|metric| (metric.critical, metric.verdict));
    comparison.verdict = match overall(verdicts) {
        _ if !distrust.is_empty() => Verdict::Invalid,
        _ if load.overloaded => Verdict::Fail,
        Verdict::Pass if load.short || !guarded => Verdict::Inconclusive,
        verdict => verdict,
    };
    let reasons = &mut comparison.reasons;
    reasons.extend(distrust);
    reasons.extend(load.reasons);
    reasons.extend(guards::dropped(sides));
    if !guarded {
        let reason = if sides.paired {
            "fewer than six undisturbed epochs have both arms of both sides, so the machine's own noise is not known \
             and this cannot pass"
        } else {
            "a record has fewer than six undisturbed epochs with both controls, so the machine's own noise is not \
             known and this cannot pass"
        };
        reasons.push(reason.to_owned());
    }
    let more = undecided(&comparison.metrics, sides.paired);
    comparison.reasons.extend(more);
    comparison.reasons.extend(remedy(comparison));
}

/// Whoever counts what is left of a broken session proves nothing.
fn pass_nothing(metric: &mut MetricVerdict) {
    if metric.verdict == Verdict::Pass {
        metric.verdict = Verdict::Inconclusive;
        let note = "the session was cut short, or epochs of it are lost, so this cannot pass";
        let before = metric.note.take().map(|own| format!("; {own}")).unwrap_or_default();
        metric.note = Some(format!("{note}{before}"));
    }
}

fn metrics(sides: &Sides) -> Vec<MetricVerdict> {
    let changes = if sides.paired { paired::judge(sides) } else { stored::judge(sides) };
    let mut found: Vec<MetricVerdict> = changes;
    found.extend(count::max_latency(sides));
    found.extend(count::errors(sides));
    found.extend(growth::judge(sides));
    found.sort_by_key(|metric| metric.metric);
    found
}

/// The metrics judged by their change that have an allowance and were measured at all.
fn changing_metrics(sides: &Sides) -> Vec<Metric> {
    let by_change = |metric: &Metric| {
        !matches!(metric, Metric::MaxLatency | Metric::Errors | Metric::MemoryGrowth)
            && sides.thresholds.of(*metric).is_some()
    };
    // What is only measured on request is missing where it was asked for, not where nobody asked.
    let asked_for = |metric: &Metric| match metric {
        Metric::ReloadTime | Metric::RestartTime => {
            sides.all().any(|kept| kept.record.load.times || kept.has(*metric))
        }
        Metric::Throughput => {
            sides.all().any(|kept| kept.record.load.throughput_p99_s.is_some() || kept.has(*metric))
        }
        _ => true,
    };
    Metric::ALL.into_iter().filter(by_change).filter(asked_for).collect()
}

/// Of metrics that are critical or not, with the verdict of each.
fn overall(metrics: impl Iterator<Item = (bool, Verdict)>) -> Verdict {
    let critical = metrics.filter_map(|(critical, verdict)| critical.then_some(verdict));
    let mut whole = None;
    for verdict in critical {
        match verdict {
            Verdict::Fail => return Verdict::Fail,
            Verdict::Pass => whole = whole.or(Some(Verdict::Pass)),
            Verdict::Inconclusive | Verdict::Invalid | Verdict::Incomparable => {
                whole = Some(Verdict::Inconclusive);
            }
        }
    }
    whole.unwrap_or(Verdict::Inconclusive)
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
fn undecided(metrics: &[MetricVerdict], paired: bool) -> Vec<String> {
    let open = metrics.iter().filter(|metric| metric.critical && metric.verdict == Verdict::Inconclusive);
    open.filter_map(|metric| match &metric.evidence {
        Evidence::Change { epochs_needed: Some(needed), .. } if paired => Some(format!(
            "{} is undecided: if the change is what it seems to be, about {needed} epochs would decide it",
            metric.metric.title()
        )),
        Evidence::Change { .. } if !paired && metric.metric != Metric::MemoryGrowth => Some(format!(
            "{} is undecided: more sessions of each side (`qbench collect … --append`), or one session of both \
             (`qbench validate`), would decide it",
            metric.metric.title()
        )),
        Evidence::Missing { reason } => Some(format!("{}: {reason}", metric.metric.title())),
        Evidence::Change { .. } | Evidence::Rate { .. } | Evidence::Largest { .. } => None,
    })
    .collect()
}
