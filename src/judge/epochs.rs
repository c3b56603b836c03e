//! The epochs of a record that count.

use std::collections::{BTreeMap, BTreeSet};

use super::reading::reading;
use crate::model::{
    record::{ArmEpoch, ArmRole, Epoch, Record},
    verdict::Metric,
};

/// A record's epochs without those that were disturbed, in order. An epoch written twice counts once.
pub(super) struct Kept<'a> {
    pub(super) record: &'a Record,
    /// One an undisturbed epoch of the session; `None` where this record lacks it.
    pub(super) epochs: Vec<Option<&'a Epoch>>,
    /// Epochs by number that were dropped, with the reason.
    pub(super) dropped: Vec<(u32, String)>,
    /// Epochs measured in the session, as far as either of its records knows.
    pub(super) measured: usize,
    /// Epochs that this record has.
    own: usize,
}

impl<'a> Kept<'a> {
    /// Of a record that stands alone.
    pub(super) fn of(record: &'a Record) -> Self {
        let own = by_index(record);
        let all = own.keys().copied().collect();
        Self::without_disturbed(record, &own, &all, &[&own])
    }

    /// Of the two records of a session: an epoch disturbed for one is dropped from both, so that nothing depends on
    /// which arm it would have spoken for.
    pub(super) fn of_pair(baseline: &'a Record, candidate: &'a Record) -> (Self, Self) {
        let (from, to) = (by_index(baseline), by_index(candidate));
        let all = from.keys().chain(to.keys()).copied().collect();
        (
            Self::without_disturbed(baseline, &from, &all, &[&from, &to]),
            Self::without_disturbed(candidate, &to, &all, &[&from, &to]),
        )
    }

    fn without_disturbed(
        record: &'a Record,
        own: &BTreeMap<u32, &'a Epoch>,
        all: &BTreeSet<u32>,
        of_session: &[&BTreeMap<u32, &'a Epoch>],
    ) -> Self {
        let mut kept =
            Self { record, epochs: Vec::new(), dropped: Vec::new(), measured: all.len(), own: own.len() };
        for index in all {
            let disturbance = of_session
                .iter()
                .find_map(|epochs| epochs.get(index)?.conditions.disturbances().into_iter().next());
            match disturbance {
                Some(reason) => kept.dropped.push((*index, reason)),
                None => kept.epochs.push(own.get(index).copied()),
            }
        }
        kept
    }

    /// A metric of an arm in each epoch that has a usable one, in its own unit.
    pub(super) fn values(&self, metric: Metric, role: ArmRole) -> Vec<f64> {
        let arms = self.epochs.iter().flatten().filter_map(|epoch| epoch.arms.get(&role));
        arms.filter_map(|arm| reading(arm, metric)).collect()
    }

    /// Whether any arm has the metric.
    pub(super) fn has(&self, metric: Metric) -> bool {
        let mut arms = self.epochs.iter().flatten().flat_map(|epoch| epoch.arms.values());
        arms.any(|arm| reading(arm, metric).is_some())
    }

    /// The target's arms of every epoch, disturbed ones as well: what failed in them failed all the same. `None`
    /// for an epoch that has no arm of the target.
    pub(super) fn all_target_arms(&self) -> impl Iterator<Item = Option<&'a ArmEpoch>> {
        let lost = std::iter::repeat_n(None, self.measured.saturating_sub(self.own));
        by_index(self.record).into_values().flat_map(target_arms).chain(lost)
    }

    /// Whether the session ran the target twice; an epoch without the second arm then lacks something.
    pub(super) fn has_target_again(&self) -> bool {
        self.record.arms.contains_key(&ArmRole::TargetAgain)
    }

    /// Likewise the control.
    pub(super) fn has_control_again(&self) -> bool {
        self.record.arms.contains_key(&ArmRole::ControlAgain)
    }

    /// The target's arms of every undisturbed epoch.
    pub(super) fn target_arms(&self) -> impl Iterator<Item = &'a ArmEpoch> {
        self.epochs.iter().flatten().flat_map(|epoch| target_arms(epoch)).flatten()
    }

    /// The session came to the end it was designed for, and every epoch it measured is there.
    pub(super) fn is_whole(&self) -> bool {
        let session = &self.record.session;
        session.is_complete() && self.own >= self.measured.max(session.measured_epochs as usize)
    }
}

/// The first arm, or that there is none, and the second where it was run.
fn target_arms(epoch: &Epoch) -> impl Iterator<Item = Option<&ArmEpoch>> {
    let again = epoch.arms.get(&ArmRole::TargetAgain).map(Some);
    std::iter::once(epoch.arms.get(&ArmRole::Target)).chain(again)
}

fn by_index(record: &Record) -> BTreeMap<u32, &Epoch> {
    record.epochs.iter().map(|epoch| (epoch.index, epoch)).collect()
}
