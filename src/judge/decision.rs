//! The group-sequential signed-rank test, for one metric and for several with Holm's rule.

use super::levels::{OF_FAIL, OF_GUARD, OF_PASS, nominal};
use crate::stats::signed_rank;

/// The changes of one metric, one an undisturbed epoch, with the change at its limit.
pub(super) struct Series {
    /// Logarithms of changes; `None` where an arm left no usable value.
    pub(super) changes: Vec<Option<f64>>,
    /// The change at the limit.
    pub(super) limit: f64,
}

/// The probabilities of a signed-rank test at one look.
#[derive(Clone, Copy)]
pub(super) struct Look {
    /// Undisturbed epochs.
    pub(super) epochs: u32,
    /// Of changes this small or smaller, were the true one at the limit.
    pub(super) p_pass: f64,
    /// Of changes this large or larger.
    pub(super) p_fail: f64,
    /// How many standard deviations the sum of ranks lies below what it would be at the limit: positive when the
    /// changes are smaller.
    pub(super) z: f64,
    /// Whether every epoch up to here has a usable value.
    pub(super) is_whole: bool,
}

impl Series {
    /// The usable changes of the first epochs.
    pub(super) fn until(&self, epochs: u32) -> Vec<f64> {
        self.changes.iter().take(epochs as usize).copied().flatten().collect()
    }

    pub(super) fn is_whole_until(&self, epochs: u32) -> bool {
        self.changes.iter().take(epochs as usize).all(Option::is_some)
    }

    /// The test at each look.
    pub(super) fn looks(&self, looks: &[u32]) -> Vec<Look> {
        looks
            .iter()
            .map(|epochs| {
                let test = signed_rank::test(&self.until(*epochs), self.limit);
                Look {
                    epochs: *epochs,
                    // A test that cannot be made shows nothing.
                    p_pass: test.map_or(1.0, |test| test.p_less),
                    p_fail: test.map_or(1.0, |test| test.p_greater),
                    z: test.map_or(0.0, |test| test.standardised()),
                    is_whole: self.is_whole_until(*epochs),
                }
            })
            .collect()
    }
}

/// The look at which a metric was first shown to be within its limit.
pub(super) fn passed_at(looks: &[Look], cap: u32, alpha: f64) -> Option<u32> {
    let schedule: Vec<u32> = looks.iter().map(|look| look.epochs).collect();
    let levels = nominal(&schedule, cap, alpha, OF_PASS);
    let crossed =
        looks.iter().zip(levels.each.iter()).find(|(look, level)| look.is_whole && look.p_pass <= **level);
    crossed.map(|(look, _)| look.epochs)
}

/// The look at which the guard first saw a series beyond its limit. It spends its error early: what is invalid should
/// not pass at the first look.
pub(super) fn alarmed_at(looks: &[Look], cap: u32, alpha: f64) -> Option<u32> {
    let schedule: Vec<u32> = looks.iter().map(|look| look.epochs).collect();
    let levels = nominal(&schedule, cap, alpha, OF_GUARD);
    let crossed = looks.iter().zip(levels.each.iter()).find(|(look, level)| look.p_fail <= **level);
    crossed.map(|(look, _)| look.epochs)
}

/// For each of several metrics the look at which it was shown to be beyond its limit, with `alpha` shared among them
/// by Holm's rule: each begins with its equal part, and a metric that has failed leaves its part to the others.
///
/// Source: S. Holm, *Scandinavian Journal of Statistics* 6 (1979); for group-sequential tests W. Maurer and
/// F. Bretz, *Statistics in Biopharmaceutical Research* 5 (2013).
pub(super) fn failed_at(metrics: &[Vec<Look>], cap: u32, alpha: f64) -> Vec<Option<u32>> {
    let mut failed = vec![None; metrics.len()];
    let schedule: Vec<u32> = metrics.first().into_iter().flatten().map(|look| look.epochs).collect();
    for (at, epochs) in schedule.iter().enumerate() {
        loop {
            let open = failed.iter().filter(|failed| failed.is_none()).count();
            if open == 0 {
                return failed;
            }
            let level =
                nominal(&schedule, cap, alpha / open as f64, OF_FAIL).each.get(at).copied().unwrap_or(0.0);
            let beyond = |index: &usize| {
                let look = metrics[*index].get(at);
                failed[*index].is_none() && look.is_some_and(|look| look.p_fail <= level)
            };
            let Some(next) = (0..metrics.len()).find(beyond) else { break };
            failed[next] = Some(*epochs);
        }
    }
    failed
}
