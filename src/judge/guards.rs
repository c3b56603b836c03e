//! Whether the epochs measured what they were meant to: the machine left alone, the load sent as offered.

use std::collections::BTreeMap;

use super::{Sides, epochs::Kept};
use crate::model::{record::ArmEpoch, verdict::EpochCount};

/// More dropped epochs than this share, and the machine was no place to measure.
const MOST_DROPPED: f64 = 0.10;
/// Less of the offered load than this and an arm was not given what it was meant to get.
const LEAST_ACHIEVED: f64 = 0.99;
/// More short epochs than this share and the records cannot show a PASS.
const MOST_SHORT: f64 = 0.10;
/// A target that cannot take its load in this share of the epochs, where the other can, is slower than any quantile
/// of the requests it took would tell.
const OVERLOADED: f64 = 0.50;

pub(super) fn count(sides: &Sides) -> EpochCount {
    EpochCount {
        measured: sides.sessions().map(|kept| kept.measured as u32).sum(),
        dropped: sides.sessions().map(|kept| kept.dropped.len() as u32).sum(),
    }
}

/// Why a session has too few undisturbed epochs to be trusted.
pub(super) fn too_many_dropped(sides: &Sides) -> Vec<String> {
    let too_many = sides.sessions().filter(|kept| is_too_many(kept.dropped.len(), kept.measured));
    too_many
        .map(|kept| {
            format!(
                "session {}: {} of {} epochs were disturbed, more than a tenth: find out by what and measure again",
                kept.record.session.id,
                kept.dropped.len(),
                kept.measured
            )
        })
        .collect()
}

/// One in ten, and of a short session one.
fn is_too_many(dropped: usize, measured: usize) -> bool {
    dropped as f64 > (MOST_DROPPED * measured as f64).max(1.0)
}

/// What was dropped, by kind of reason.
pub(super) fn dropped(sides: &Sides) -> Vec<String> {
    // Reasons that differ in their figures alone are of one kind, and one of them stands for all.
    let kind = |reason: &str| reason.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let mut kinds: BTreeMap<String, (u32, &str)> = BTreeMap::new();
    for (_, reason) in sides.sessions().flat_map(|kept| &kept.dropped) {
        kinds.entry(kind(reason)).or_insert((0, reason)).0 += 1;
    }
    let said = |(times, example): (u32, &str)| match times {
        1 => format!("1 epoch was dropped from all arms: {example}"),
        times => format!("{times} epochs were dropped from all arms, one for this: {example}"),
    };
    kinds.into_values().map(said).collect()
}

/// How the load fared on undisturbed epochs.
pub(super) struct Load {
    pub(super) reasons: Vec<String>,
    /// So often short that what was measured is not the load that was asked for.
    pub(super) short: bool,
    /// The candidate could not take the load that the baseline took.
    pub(super) overloaded: bool,
}

pub(super) fn load(sides: &Sides) -> Load {
    let baseline = shortfall(&sides.baseline);
    let candidate = shortfall(&sides.candidate);
    let mut found = Load { reasons: Vec::new(), short: false, overloaded: false };
    for (side, short) in [("baseline", &baseline), ("candidate", &candidate)] {
        if short.epochs > 0 {
            found.reasons.push(format!(
                "the {side} was overloaded: {} of {} times in undisturbed epochs it took less than 99% of the load \
                 offered (least {:.1}%)",
                short.epochs,
                short.of,
                short.least * 100.0
            ));
        }
        found.short |= short.epochs as f64 > MOST_SHORT * short.of as f64;
    }
    found.overloaded =
        baseline.of > 0 && baseline.epochs == 0 && candidate.epochs as f64 > OVERLOADED * candidate.of as f64;
    found
}

struct Shortfall {
    epochs: usize,
    of: usize,
    least: f64,
}

fn shortfall(side: &[Kept]) -> Shortfall {
    let shares: Vec<f64> = side.iter().flat_map(Kept::target_arms).map(achieved).collect();
    Shortfall {
        epochs: shares.iter().filter(|share| **share < LEAST_ACHIEVED).count(),
        of: shares.len(),
        least: shares.iter().copied().fold(f64::INFINITY, f64::min),
    }
}

fn achieved(arm: &ArmEpoch) -> f64 {
    match arm.requests.offered {
        0 => 0.0,
        offered => arm.requests.sent as f64 / offered as f64,
    }
}
