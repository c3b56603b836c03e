//! The session's question after every epoch: go on, or stop?

use super::{
    ALPHA_FAIL, ALPHA_PASS, Sides, count, guards,
    levels::{OF_FAIL, OF_PASS, looks, nominal},
    noise, overall,
    paired::{self, Test, Tests},
    reading::estimated,
};
use crate::{
    model::{
        record::{Ended, Record},
        settings::Thresholds,
        verdict::Verdict,
    },
    stats::sequential,
};

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Measure another epoch.
    GoOn,
    /// End the session.
    Stop(Ended),
}

/// A verdict that has less than this chance of being reached is not waited for. The rule is not binding: going on
/// all the same costs time and breaks no promise.
const SLIM_CHANCE: f64 = 0.05;
/// The trend so far is itself uncertain: it is taken to be better by so many of its standard errors.
const BENEFIT_OF_DOUBT: f64 = 1.0;
/// Before this share of the epochs hardly anything is hopeless.
const FUTILITY_FROM: f64 = 0.25;

/// Whether a session may stop, asked after every epoch with the records so far. Only at the looks that were fixed
/// before the session began is there an answer other than going on: whoever stops when it looks good proves nothing.
pub fn steer(baseline: &Record, candidate: &Record, thresholds: &Thresholds) -> Steering {
    let (from, to) = (estimated(std::slice::from_ref(baseline)), estimated(std::slice::from_ref(candidate)));
    let (baseline, candidate) = (&from[0], &to[0]);
    let question = super::Question::of(baseline, candidate, thresholds);
    let sides = Sides::new(&question, true);
    let kept = &sides.baseline[0];
    let (epochs, cap) = (kept.epochs.len() as u32, paired::cap(baseline));
    // A dropped epoch leaves everything as it was at the epoch before.
    let last = baseline.epochs.last().map(|epoch| epoch.index);
    if kept.dropped.last().map(|(index, _)| *index) == last || !looks(cap).contains(&epochs) {
        return Steering::GoOn;
    }
    if !noise::distrust(&sides).is_empty() {
        return Steering::Stop(Ended::Untrusted);
    }
    let (tests, load) = (Tests::of(&sides), guards::load(&sides));
    let verdict = if load.overloaded { Verdict::Fail } else { standing(&sides, &tests) };
    // What could not stand as a PASS is not one to stop for.
    let stands = noise::is_guarded(&sides) && !load.short && guards::too_many_dropped(&sides).is_empty();
    match verdict {
        Verdict::Fail => Steering::Stop(Ended::Decided),
        Verdict::Pass if stands => Steering::Stop(Ended::Decided),
        _ if epochs == cap => Steering::Stop(Ended::AllMeasured),
        Verdict::Pass => Steering::GoOn,
        _ if is_futile(&tests, epochs, cap) => Steering::Stop(Ended::Futile),
        _ => Steering::GoOn,
    }
}

/// The verdict now, without the intervals that nobody reads yet.
fn standing(sides: &Sides, tests: &Tests) -> Verdict {
    let counted = count::max_latency(sides).into_iter().chain(count::errors(sides));
    let counted = counted.map(|metric| (metric.critical, metric.verdict));
    overall(tests.metrics.iter().map(|test| (test.critical, test.verdict())).chain(counted))
}

/// Neither a PASS nor a FAIL has a chance worth waiting for, if the changes are what they seem to be.
fn is_futile(tests: &Tests, epochs: u32, cap: u32) -> bool {
    if f64::from(epochs) < FUTILITY_FROM * f64::from(cap) {
        return false;
    }
    let critical: Vec<&Test> = tests.metrics.iter().filter(|test| test.critical).collect();
    let looks = looks(cap);
    let (Some(to_pass), Some(to_fail)) = (
        nominal(&looks, cap, ALPHA_PASS, OF_PASS).last_critical,
        nominal(&looks, cap, ALPHA_FAIL / critical.len().max(1) as f64, OF_FAIL).last_critical,
    ) else {
        return false;
    };
    let fraction = f64::from(epochs) / f64::from(cap);
    let chance =
        |z: f64, critical: f64| sequential::conditional_power(z + BENEFIT_OF_DOUBT, fraction, critical);
    let open = critical.iter().filter(|test| test.verdict() == Verdict::Inconclusive);
    let chances = open.filter_map(|test| {
        let look = test.looks.last()?;
        Some((chance(look.z, to_pass)?, chance(-look.z, to_fail)?))
    });
    let chances: Vec<(f64, f64)> = chances.collect();
    let hopeless_to_pass = chances.iter().any(|(pass, _)| *pass < SLIM_CHANCE);
    let hopeless_to_fail = chances.iter().all(|(_, fail)| *fail < SLIM_CHANCE);
    hopeless_to_pass && hopeless_to_fail
}
