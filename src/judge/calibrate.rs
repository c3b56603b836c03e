//! How much a machine's figures vary on their own, and what that means for the next session.

use std::collections::BTreeMap;

use super::{
    ALPHA_PASS,
    decision::{self, Series},
    epochs::Kept,
    levels::looks,
    reading::{at_limit, log, normalised},
};
use crate::{
    model::{
        calibration::Noise,
        random::SplitMix,
        record::{ArmRole, Record},
        verdict::Metric,
    },
    stats::chi_square,
};

/// The confidence of the upper bound on the spread between sessions.
const BOUND_CONFIDENCE: f64 = 0.95;
/// Sessions that the spread between sessions is estimated from at least.
pub const LEAST_SESSIONS: usize = 3;

/// The noise of every metric that all sessions have, from records of `collect`: a target between two controls.
///
/// Empty when there are fewer than [`LEAST_SESSIONS`].
pub fn noise(sessions: &[Record]) -> BTreeMap<Metric, Noise> {
    if sessions.len() < LEAST_SESSIONS {
        return BTreeMap::new();
    }
    let kept: Vec<Kept> = sessions.iter().map(Kept::of).collect();
    let of = |metric: Metric| Some((metric, of_metric(&kept, metric)?));
    let by_change =
        |metric: &Metric| !matches!(metric, Metric::MaxLatency | Metric::Errors | Metric::MemoryGrowth);
    Metric::ALL.into_iter().filter(by_change).filter_map(of).collect()
}

fn of_metric(sessions: &[Kept], metric: Metric) -> Option<Noise> {
    let series = |change: &dyn Fn(&crate::model::record::Epoch) -> Option<f64>| -> Vec<Vec<f64>> {
        let of_session =
            |kept: &Kept| kept.epochs.iter().flatten().filter_map(|epoch| change(epoch)).collect();
        sessions.iter().map(of_session).collect()
    };
    let changes = series(&|epoch| normalised(epoch, metric, true));
    let again = series(&|epoch| {
        Some(log(epoch, metric, ArmRole::ControlAgain)? - log(epoch, metric, ArmRole::Control)?)
    });
    let means: Vec<f64> = changes.iter().map(|session| mean(session)).collect::<Option<_>>()?;
    let within = pooled_variance(&changes)?;
    let epochs = changes.iter().map(Vec::len).sum::<usize>() as f64 / changes.len() as f64;
    let degrees = means.len() as f64 - 1.0;
    let between = pooled_variance(std::slice::from_ref(&means))?;
    let smallest = chi_square::quantile(1.0 - BOUND_CONFIDENCE, degrees)?;
    Some(Noise {
        epoch_sd: within.sqrt(),
        again_sd: pooled_variance(&again)?.sqrt(),
        session_sd: (between - within / epochs).max(0.0).sqrt(),
        // Of the means as they are, the epochs' own noise with them: rather too wide than too narrow.
        // And no less than the epochs alone would make them differ, should the sessions agree by chance.
        session_sd_bound: (between.max(within / epochs) * degrees / smallest).sqrt(),
    })
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The variance about each group's own mean.
fn pooled_variance(groups: &[Vec<f64>]) -> Option<f64> {
    let (mut squares, mut degrees) = (0.0, 0.0);
    for group in groups {
        let centre = mean(group)?;
        squares += group.iter().map(|value| (value - centre).powi(2)).sum::<f64>();
        degrees += group.len() as f64 - 1.0;
    }
    (degrees > 0.0).then(|| squares / degrees).filter(|variance| variance.is_finite())
}

/// How long a paired session of equal targets takes to pass at a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    /// Epochs after which half of the sessions have decided; `None` when fewer than half do by the cap.
    pub median: Option<u32>,
    /// Epochs after which nine of ten have, likewise.
    pub nine_of_ten: Option<u32>,
}

/// Rehearses sessions with that noise through the test itself.
///
/// `epoch_sd` is that of `collect`, one arm less two; in `validate` it is two less two.
pub fn waiting(metric: Metric, epoch_sd: f64, limit: f64, cap: u32) -> Waiting {
    const SESSIONS: usize = 1000;
    let sd = epoch_sd / 1.5_f64.sqrt();
    let (looks, mut random) = (looks(cap), SplitMix::new(1));
    let decided = (0..SESSIONS).map(|_| {
        let changes = (0..cap).map(|_| Some(sd * random.normal())).collect();
        let series = Series { changes, limit: at_limit(limit, metric) };
        decision::passed_at(&series.looks(&looks), cap, ALPHA_PASS)
    });
    let mut decided: Vec<u32> = decided.map(|look| look.unwrap_or(u32::MAX)).collect();
    decided.sort_unstable();
    let at = |share: f64| {
        let epochs = decided.get((share * SESSIONS as f64) as usize - 1).copied()?;
        (epochs < u32::MAX).then_some(epochs)
    };
    Waiting { median: at(0.5), nine_of_ten: at(0.9) }
}
