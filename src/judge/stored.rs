//! Method B: stored sessions, each target against the control of its own session.
//!
//! The control takes the machine's speed and its drift out of every epoch. What it does not take out is that a
//! runtime may be a little better or worse off against the control in one session than in another: a runtime × session
//! effect, the same for all epochs of a session. It is in the interval in one of two ways. With three sessions of each
//! side or more, the sessions' own centres are compared by Student's t, with a variance for each side (B. L. Welch,
//! *Biometrika* 34 (1947)), which carries any such effect with the confidence promised. With fewer, the exact rank-sum
//! interval of the epochs is widened by a spread of each side that is fixed in advance: the upper bound of a
//! calibration of that runtime on this machine, or what is assumed of any; and by no less than the sessions differ.

use super::{
    ALPHA_FAIL, CONFIDENCE, Sides, change,
    change::{Design, Finding},
    changing_metrics,
    epochs::Kept,
    reading::{at_limit, normalised},
};
use crate::{
    model::{
        calibration::Calibration,
        verdict::{Basis, Evidence, Metric, MetricVerdict, SpreadSource, Verdict},
    },
    stats::{Interval, normal, rank_sum, signed_rank, student},
};

/// Assumed of a time's change against the control from session to session, as a standard deviation of its logarithm,
/// where nothing better is known: the largest that the promise is checked for.
const ASSUMED_SPREAD: f64 = 0.04;
/// Likewise of memory, which no session's speed touches.
const ASSUMED_MEMORY_SPREAD: f64 = 0.02;
/// The largest probability of a PASS at the limit that is asked for here: less than [`super::ALPHA_PASS`], so that where
/// sessions vary by the assumed spread a candidate 2% beyond its limit passes at most once in a hundred times as well.
const ALPHA_PASS_STORED: f64 = 0.0185;
/// Fewer sessions of a side, and Student's t says nothing that anyone could use.
const LEAST_SESSIONS: usize = 3;
/// Epochs a side that the exact rank-sum null is computed for; the sessions' means carry what is beyond.
const MOST_RANKED: usize = 100;

/// The two sides of one metric.
struct Samples {
    baseline: Sample,
    candidate: Sample,
}

/// The sessions of one side that have a usable epoch.
struct Sample {
    /// Per session, the usable changes of its epochs.
    sessions: Vec<Vec<f64>>,
    /// Per session, the centre of them.
    centres: Vec<f64>,
    /// The variance of the centres, of two or more.
    variance: Option<f64>,
    /// The deviation from session to session that is fixed in advance.
    fixed: f64,
    fixed_by: SpreadSource,
}

pub(super) fn judge(sides: &Sides) -> Vec<MetricVerdict> {
    let metrics = changing_metrics(sides);
    let samples: Vec<Samples> = metrics.iter().map(|metric| Samples::of(sides, *metric)).collect();
    let limits: Vec<f64> = metrics.iter().map(|metric| limit(sides, *metric)).collect();
    let is_critical =
        |metric: &Metric| sides.thresholds.of(*metric).is_some_and(|allowance| allowance.critical);
    // Holm's rule, as in a paired session.
    let mut failed = vec![false; metrics.len()];
    loop {
        let open = (0..metrics.len()).filter(|at| is_critical(&metrics[*at]) && !failed[*at]).count();
        let next = (0..metrics.len()).find(|at| {
            let share = if is_critical(&metrics[*at]) { open.max(1) } else { 1 };
            !failed[*at]
                && samples[*at]
                    .interval(ALPHA_FAIL / share as f64)
                    .is_ok_and(|interval| interval.low > at_limit(limits[*at], metrics[*at]))
        });
        let Some(next) = next else { break };
        failed[next] = true;
    }
    let found = metrics.iter().zip(samples).zip(limits.iter().zip(failed));
    found
        .map(|((metric, samples), (limit, failed))| {
            change::metric_verdict(sides, *metric, samples.finding(sides, *metric, *limit, failed))
        })
        .collect()
}

fn limit(sides: &Sides, metric: Metric) -> f64 {
    let typical = change::typical(&sides.baseline, metric);
    sides.thresholds.of(metric).map_or(f64::NAN, |allowance| change::limit(metric, allowance, typical))
}

impl Sample {
    fn of(side: &[Kept], metric: Metric, calibration: Option<&Calibration>) -> Self {
        let usable = |kept: &Kept| -> Vec<f64> {
            let epochs = kept.epochs.iter().flatten();
            let changes = epochs.filter_map(|epoch| normalised(epoch, metric, kept.has_control_again()));
            changes.filter(|change| change.is_finite()).collect()
        };
        let sessions: Vec<Vec<f64>> =
            side.iter().map(usable).filter(|changes: &Vec<f64>| !changes.is_empty()).collect();
        let centres: Vec<f64> = sessions.iter().filter_map(|changes| signed_rank::centre(changes)).collect();
        let bound = calibration
            .and_then(|calibration| calibration.metrics.get(&metric))
            .map(|noise| noise.session_sd_bound)
            .filter(|bound| bound.is_finite() && *bound > 0.0);
        let assumed = if metric == Metric::Memory { ASSUMED_MEMORY_SPREAD } else { ASSUMED_SPREAD };
        Self {
            variance: variance(&centres),
            sessions,
            centres,
            fixed: bound.unwrap_or(assumed),
            fixed_by: bound.map_or(SpreadSource::Assumed, |_| SpreadSource::Calibration),
        }
    }

    fn count(&self) -> f64 {
        self.sessions.len() as f64
    }

    fn epochs(&self) -> usize {
        self.sessions.iter().map(Vec::len).sum()
    }

    /// Fixed in advance, and no less than what is seen; with where it comes from.
    fn spread(&self) -> (f64, SpreadSource) {
        match self.variance.map(f64::sqrt).filter(|seen| *seen > self.fixed) {
            Some(seen) => (seen, SpreadSource::Sessions),
            None => (self.fixed, self.fixed_by),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> Option<f64> {
    let centre = mean(values);
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    (values.len() >= 2).then(|| squares / (values.len() as f64 - 1.0))
}

impl Samples {
    fn of(sides: &Sides, metric: Metric) -> Self {
        let [from, to] = sides.calibrations;
        Self {
            baseline: Sample::of(&sides.baseline, metric, from),
            candidate: Sample::of(&sides.candidate, metric, to),
        }
    }

    /// Student's t of the sessions, where there are enough of them on both sides.
    fn of_sessions(&self) -> Option<Welch> {
        let (from, to) = (&self.baseline, &self.candidate);
        let enough = |sample: &Sample| sample.centres.len() >= LEAST_SESSIONS;
        if !enough(from) || !enough(to) {
            return None;
        }
        let (a, b) = (from.variance? / from.count(), to.variance? / to.count());
        let degrees = (a + b).powi(2) / (a * a / (from.count() - 1.0) + b * b / (to.count() - 1.0));
        let least = from.count().min(to.count()) - 1.0;
        Some(Welch {
            shift: mean(&to.centres) - mean(&from.centres),
            error: (a + b).sqrt(),
            // Sessions that are all alike have no variance to weigh.
            degrees: if degrees.is_finite() { degrees.max(least) } else { least },
        })
    }

    /// The spread told beside the interval, the larger of the two sides' where these are fixed in advance.
    fn spread(&self) -> (f64, SpreadSource) {
        let (from, to) = (&self.baseline, &self.candidate);
        if self.of_sessions().is_some() {
            let seen = |sample: &Sample| sample.variance.unwrap_or(0.0);
            return (f64::midpoint(seen(from), seen(to)).sqrt(), SpreadSource::Sessions);
        }
        let (from, to) = (from.spread(), to.spread());
        if from.0 > to.0 { from } else { to }
    }

    /// The shift from baseline to candidate, with `alpha` left out at each end.
    fn interval(&self, alpha: f64) -> Result<Interval, String> {
        let (from, to) = (self.baseline.sessions.concat(), self.candidate.sessions.concat());
        let ranked = if from.len().max(to.len()) <= MOST_RANKED {
            Some(rank_sum::shift(&from, &to, 1.0 - 2.0 * alpha).map_err(|refusal| refusal.to_string())?)
        } else {
            None
        };
        if let Some(welch) = self.of_sessions() {
            let t = student::quantile(1.0 - alpha, welch.degrees).ok_or("the level is no probability")?;
            let reach = t * welch.error;
            let of_sessions = Interval {
                estimate: welch.shift,
                low: welch.shift - reach,
                high: welch.shift + reach,
                confidence: 1.0 - 2.0 * alpha,
            };
            // Sessions that agree by chance must not promise more than their epochs can.
            return Ok(ranked.map_or(of_sessions, |ranked| hull(of_sessions, ranked)));
        }
        let ranked = ranked.ok_or_else(|| {
            format!(
                "more than {MOST_RANKED} epochs in too few sessions; {LEAST_SESSIONS} of each side are needed"
            )
        })?;
        let z = normal::quantile(1.0 - alpha).ok_or("the level is no probability")?;
        let of_side = |sample: &Sample| sample.spread().0.powi(2) / sample.count();
        let reach = z * (of_side(&self.baseline) + of_side(&self.candidate)).sqrt();
        Ok(Interval {
            low: ranked.estimate - (ranked.estimate - ranked.low).hypot(reach),
            high: ranked.estimate + (ranked.high - ranked.estimate).hypot(reach),
            ..ranked
        })
    }

    fn finding(&self, sides: &Sides, metric: Metric, limit: f64, failed: bool) -> Finding {
        let interval = self.interval(ALPHA_PASS_STORED);
        let certified = interval.as_ref().ok().map(|interval| interval.high);
        let verdict = if failed {
            Verdict::Fail
        } else if certified.is_some_and(|high| high < at_limit(limit, metric)) {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        };
        let n = (self.baseline.epochs(), self.candidate.epochs());
        let (spread, spread_from) = self.spread();
        let design = Design {
            n,
            limit,
            confidence: CONFIDENCE,
            certified,
            basis: Basis::Stored {
                sessions: (self.baseline.sessions.len() as u32, self.candidate.sessions.len() as u32),
                spread,
                spread_from,
            },
        };
        let evidence = change::evidence(metric, interval, design);
        let verdict = match evidence {
            Evidence::Change { .. } => verdict,
            _ => Verdict::Inconclusive,
        };
        let epochs: usize = sides.all().map(|kept| kept.epochs.len()).sum();
        Finding { evidence, verdict, unusable: epochs - n.0 - n.1 }
    }
}

struct Welch {
    shift: f64,
    /// Of the shift.
    error: f64,
    degrees: f64,
}

/// From the lower of two lower ends to the higher of two higher ends.
fn hull(a: Interval, b: Interval) -> Interval {
    Interval { low: a.low.min(b.low), high: a.high.max(b.high), ..a }
}
