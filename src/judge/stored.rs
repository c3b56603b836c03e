//! Method B: stored sessions, each target against the control of its own session.
//!
//! The control takes the machine's speed and its drift out of every epoch. What it does not take out is that a
//! runtime may be a little better or worse off against the control in one session than in another: a runtime × session
//! effect, the same for all epochs of a session. It is in the interval in one of two ways. With at least two sessions
//! more than there are sides, the sessions' own means are compared by Student's t, which carries any such effect with
//! the confidence promised. With fewer, the exact rank-sum interval of the epochs is widened by a spread fixed in
//! advance: the upper bound of a calibration of this machine, or what is assumed for any.

use super::{
    ALPHA_FAIL, CONFIDENCE, Sides, change,
    change::{Design, Finding},
    changing_metrics,
    epochs::Kept,
    reading::{at_limit, normalised},
};
use crate::{
    model::verdict::{Basis, Metric, MetricVerdict, SpreadSource, Verdict},
    stats::{Interval, normal, rank_sum, signed_rank, student},
};

/// Assumed of a time's change against the control from session to session, as a standard deviation of its logarithm,
/// where nothing better is known: the largest that the promise is checked for.
pub(super) const ASSUMED_SPREAD: f64 = 0.04;
/// Likewise of memory, which no session's speed touches.
pub(super) const ASSUMED_MEMORY_SPREAD: f64 = 0.02;
/// The largest probability of a PASS at the limit that is asked for here: less than [`super::ALPHA_PASS`], so that where sessions
/// vary by the assumed spread a candidate 2% beyond its limit passes at most once in a hundred times as well.
const ALPHA_PASS_STORED: f64 = 0.0185;
/// Fewer degrees of freedom, and Student's t says nothing that anyone could use.
const LEAST_DEGREES: usize = 2;
/// Epochs a side that the exact rank-sum null is computed for; the sessions' means carry what is beyond.
const MOST_RANKED: usize = 60;

/// The two sides of one metric.
struct Samples {
    /// Per session, the usable changes of its epochs.
    baseline: Vec<Vec<f64>>,
    candidate: Vec<Vec<f64>>,
    spread: f64,
    spread_from: SpreadSource,
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
    sides.thresholds.of(metric).map_or(f64::NAN, |allowance| change::limit(allowance, typical))
}

impl Samples {
    fn of(sides: &Sides, metric: Metric) -> Self {
        let side = |side: &[Kept]| -> Vec<Vec<f64>> {
            let usable = |kept: &Kept| {
                let epochs = kept.epochs.iter().flatten();
                epochs
                    .filter_map(|epoch| normalised(epoch, metric).filter(|change| change.is_finite()))
                    .collect()
            };
            side.iter().map(usable).collect()
        };
        let (baseline, candidate) = (side(&sides.baseline), side(&sides.candidate));
        let calibrated = sides.calibration.and_then(|calibration| calibration.metrics.get(&metric));
        let assumed = if metric == Metric::Memory { ASSUMED_MEMORY_SPREAD } else { ASSUMED_SPREAD };
        let mut samples = match calibrated {
            Some(noise) if noise.session_sd_bound.is_finite() => Self {
                baseline,
                candidate,
                spread: noise.session_sd_bound,
                spread_from: SpreadSource::Calibration,
            },
            _ => Self { baseline, candidate, spread: assumed, spread_from: SpreadSource::Assumed },
        };
        if let Some(means) = samples.means() {
            samples.spread = means.deviation;
            samples.spread_from = SpreadSource::Sessions;
        }
        samples
    }

    /// The sessions' means with their pooled deviation, where there are enough of them.
    fn means(&self) -> Option<Means> {
        let centres = |side: &[Vec<f64>]| -> Option<Vec<f64>> {
            side.iter().map(|changes| signed_rank::centre(changes)).collect()
        };
        let (from, to) = (centres(&self.baseline)?, centres(&self.candidate)?);
        let degrees = (from.len() + to.len()).checked_sub(2).filter(|degrees| *degrees >= LEAST_DEGREES)?;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let squares = |values: &[f64]| {
            let centre = mean(values);
            values.iter().map(|value| (value - centre).powi(2)).sum::<f64>()
        };
        let deviation = ((squares(&from) + squares(&to)) / degrees as f64).sqrt();
        Some(Means { shift: mean(&to) - mean(&from), deviation, degrees })
    }

    /// One session each side weighs as much as its number says.
    fn by_sessions(&self) -> f64 {
        (1.0 / self.baseline.len() as f64 + 1.0 / self.candidate.len() as f64).sqrt()
    }

    /// The shift from baseline to candidate, with `alpha` left out at each end.
    fn interval(&self, alpha: f64) -> Result<Interval, String> {
        let (from, to) = (self.baseline.concat(), self.candidate.concat());
        let ranked = if from.len().max(to.len()) <= MOST_RANKED {
            Some(rank_sum::shift(&from, &to, 1.0 - 2.0 * alpha).map_err(|refusal| refusal.to_string())?)
        } else {
            None
        };
        if let Some(means) = self.means() {
            let t =
                student::quantile(1.0 - alpha, means.degrees as f64).ok_or("the level is no probability")?;
            let reach = t * means.deviation * self.by_sessions();
            let of_means = Interval {
                estimate: means.shift,
                low: means.shift - reach,
                high: means.shift + reach,
                confidence: 1.0 - 2.0 * alpha,
            };
            // Sessions that agree by chance must not promise more than their epochs can.
            return Ok(ranked.map_or(of_means, |ranked| hull(of_means, ranked)));
        }
        let ranked = ranked.ok_or("too many epochs in too few sessions")?;
        let z = normal::quantile(1.0 - alpha).ok_or("the level is no probability")?;
        let reach = z * self.spread * self.by_sessions();
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
        let count = |side: &[Vec<f64>]| side.iter().map(Vec::len).sum::<usize>();
        let n = (count(&self.baseline), count(&self.candidate));
        let design = Design {
            n,
            limit,
            confidence: CONFIDENCE,
            certified,
            basis: Basis::Stored {
                sessions: (self.baseline.len() as u32, self.candidate.len() as u32),
                spread: self.spread,
                spread_from: self.spread_from,
            },
        };
        let evidence = change::evidence(metric, interval, design);
        let verdict = match evidence {
            crate::model::verdict::Evidence::Change { .. } => verdict,
            _ => Verdict::Inconclusive,
        };
        let epochs: usize = sides.all().map(|kept| kept.epochs.len()).sum();
        Finding { evidence, verdict, unusable: epochs - n.0 - n.1 }
    }
}

struct Means {
    shift: f64,
    deviation: f64,
    degrees: usize,
}

/// From the lower of two lower ends to the higher of two higher ends.
fn hull(a: Interval, b: Interval) -> Interval {
    Interval { low: a.low.min(b.low), high: a.high.max(b.high), ..a }
}
