//! What a session will do, decided before it starts and printable: which arms, in which order, in which slots.
//!
//! Pure. The random orders come from a seed that the record keeps, so that a session can be laid out again.

use std::{fmt::Write as _, time::Duration};

use super::throughput;
use crate::{
    load::Slot,
    model::{
        random::SplitMix,
        record::{ArmRole, Design},
        settings::{COLLECT_EPOCHS, LoadSettings, SoakSettings},
        target::Target,
        units::format_duration,
    },
};

/// The whole session.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The session's identifier: its start in UTC and four random hex digits, `20261123T231433Z-1a2b`.
    pub id: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// The seed of every order below.
    pub seed: u64,
    /// The names of the targets measured: one record each.
    pub records: Vec<String>,
    /// When it may end.
    pub design: Design,
    /// The first session of the baseline that its record is to be added to.
    pub appended_to: Option<String>,
    /// The arms.
    pub arms: Vec<PlannedArm>,
    /// The epochs; of a sequential design some more than its cap, since disturbed ones do not count.
    pub epochs: Vec<PlannedEpoch>,
    /// The soak after the last epoch, where there is to be one.
    pub soak: Option<PlannedSoak>,
}

/// One arm and what its figures are for.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedArm {
    /// Unique in the session.
    pub name: String,
    /// What it runs on.
    pub target: Target,
    /// Which record its figures go into: an index into [`Plan::records`].
    pub record: usize,
    /// As what.
    pub role: ArmRole,
}

/// One epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedEpoch {
    /// From 0.
    pub index: u32,
    /// The order in which the arms are started: indices into [`Plan::arms`].
    pub start_order: Vec<usize>,
    /// The slots of the warm-up.
    pub warmup: Vec<Slot>,
    /// The slots of the window.
    pub window: Vec<Slot>,
}

/// The soak.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedSoak {
    /// How long.
    pub settings: SoakSettings,
    /// The order in which the arms are started.
    pub start_order: Vec<usize>,
    /// The slots of its load: for longer than its windows, whose end ends it.
    pub slots: Vec<Slot>,
}

/// Whatever holds up a reading of memory, there is load until the last window has ended.
const SOAK_MARGIN: Duration = Duration::from_secs(300);

impl Plan {
    /// The plan of `collect`: the target between two controls.
    pub fn collect(
        id: String,
        started_at: String,
        seed: u64,
        target: &Target,
        control: &Target,
        load: &LoadSettings,
    ) -> Self {
        let records = vec![target.name.clone()];
        let arm = |name: &str, target: &Target, role| PlannedArm {
            name: name.to_owned(),
            target: target.clone(),
            record: 0,
            role,
        };
        let arms = vec![
            arm("control-1", control, ArmRole::Control),
            // With a prefix, since a target may have any name, a control's too.
            arm(&format!("target-{}", target.name), target, ArmRole::Target),
            arm("control-2", control, ArmRole::ControlAgain),
        ];
        let design = Design::Fixed { epochs: load.epochs.unwrap_or(COLLECT_EPOCHS) };
        Self::lay_out(id, started_at, seed, records, arms, load, design)
    }

    /// The plan of `validate`: the baseline twice and the candidate twice.
    ///
    /// The second baseline shows the noise of the machine (A/A). The second candidate makes both sides alike: if
    /// they do not differ, their difference is as likely to have either sign, also where what disturbs an arm only
    /// ever slows it down, which is what a signed-rank test asks for. It pays for itself: the variance of an epoch's
    /// change falls by a third, its length grows by less.
    pub fn validate(
        id: String,
        started_at: String,
        seed: u64,
        (baseline, candidate): (&Target, &Target),
        load: &LoadSettings,
        design: Design,
    ) -> Self {
        let records = vec![baseline.name.clone(), candidate.name.clone()];
        let arm = |suffix: &str, target: &Target, record, role| PlannedArm {
            name: format!("{}{suffix}", target.name),
            target: target.clone(),
            record,
            role,
        };
        // Named by their part as well: baseline and candidate may be the same target.
        let arms = vec![
            arm("-a1", baseline, 0, ArmRole::Target),
            arm("-b1", candidate, 1, ArmRole::Target),
            arm("-a2", baseline, 0, ArmRole::TargetAgain),
            arm("-b2", candidate, 1, ArmRole::TargetAgain),
        ];
        Self::lay_out(id, started_at, seed, records, arms, load, design)
    }

    fn lay_out(
        id: String,
        started_at: String,
        seed: u64,
        records: Vec<String>,
        arms: Vec<PlannedArm>,
        load: &LoadSettings,
        design: Design,
    ) -> Self {
        let mut random = SplitMix::new(seed);
        let epochs = (0..epochs_of(design))
            .map(|index| PlannedEpoch {
                index,
                start_order: random.permutation(arms.len()),
                warmup: slots(&mut random, arms.len(), load.warmup, load.slot),
                window: slots(&mut random, arms.len(), load.window, load.slot),
            })
            .collect();
        // After the epochs, so that theirs are the same with it and without.
        let soak = load.soak.map(|settings| PlannedSoak {
            settings,
            start_order: random.permutation(arms.len()),
            slots: slots(&mut random, arms.len(), settings.length + SOAK_MARGIN, load.slot),
        });
        Self { id, started_at, seed, records, design, appended_to: None, arms, epochs, soak }
    }

    /// For `--dry-run`.
    pub fn describe(&self, load: &LoadSettings) -> String {
        let mut text = format!("session {} (seed {})\n", self.id, self.seed);
        let _ = writeln!(
            text,
            "{}; in each, {} arms start anew and share a window of {} at {} requests/s in slots of {}",
            describe_design(self.design),
            self.arms.len(),
            format_duration(load.window),
            load.rate_per_second,
            format_duration(load.slot),
        );
        for arm in &self.arms {
            let _ = writeln!(
                text,
                "arm {}: {} on {}, for the record of {}",
                arm.name,
                role_name(arm.role),
                arm.target.runtime,
                self.records[arm.record]
            );
        }
        text += &describe_afterwards(load);
        for epoch in &self.epochs {
            let _ = writeln!(
                text,
                "epoch {}: start {}; {} slots",
                epoch.index + 1,
                self.names(&epoch.start_order),
                epoch.window.len()
            );
        }
        if let Some(soak) = &self.soak {
            let _ = writeln!(
                text,
                "soak of {}: start {}; the same load, and the least memory in each of {} windows of {}",
                format_duration(soak.settings.length),
                self.names(&soak.start_order),
                soak.settings.windows(),
                format_duration(soak.settings.window)
            );
        }
        text
    }

    fn names(&self, order: &[usize]) -> String {
        order.iter().map(|arm| self.arms[*arm].name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// What each arm goes through after the window of an epoch.
fn describe_afterwards(load: &LoadSettings) -> String {
    let mut text = String::new();
    if let Some(p99) = load.throughput_p99 {
        let _ = writeln!(
            text,
            "after each window, arm by arm in the order of their start: the highest rate with p99 below {} and no \
             failed request, in at most {} windows of {}",
            format_duration(p99),
            throughput::MOST_WINDOWS,
            format_duration(throughput::WINDOW)
        );
    }
    if load.times {
        text += "after each window, arm by arm in the order of their start: the time of a reload and of a restart of \
                 every loaded service\n";
    }
    text
}

/// Epochs laid out. More than a tenth disturbed, and a session is not trusted: no more than that are spare.
fn epochs_of(design: Design) -> u32 {
    match design {
        Design::Fixed { epochs } => epochs,
        Design::Sequential { cap, .. } => cap + cap.div_ceil(10),
    }
}

fn describe_design(design: Design) -> String {
    match design {
        Design::Fixed { epochs } => format!("{epochs} epochs"),
        Design::Sequential { cap, budget_s } => {
            let budget = budget_s
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .map(|budget| format!(", for {} at most", format_duration(budget)));
            format!("up to {cap} undisturbed epochs, fewer when they decide{}", budget.unwrap_or_default())
        }
    }
}

fn role_name(role: ArmRole) -> &'static str {
    match role {
        ArmRole::Target => "target",
        ArmRole::TargetAgain => "target again (A/A)",
        ArmRole::Control => "control",
        ArmRole::ControlAgain => "control again",
    }
}

/// Rounds of one slot per arm, each round in an order of its own: every arm gets the same number of slots, and
/// none always follows the same other.
fn slots(random: &mut SplitMix, arms: usize, total: Duration, slot: Duration) -> Vec<Slot> {
    if total.is_zero() {
        return Vec::new();
    }
    let per_round = slot.as_secs_f64() * arms as f64;
    let rounds = (total.as_secs_f64() / per_round).round().max(1.0) as usize;
    (0..rounds).flat_map(|_| random.permutation(arms)).map(|lane| Slot { lane, length: slot }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::target::RuntimeKind;

    fn plan(seed: u64) -> Plan {
        let load = LoadSettings { window: Duration::from_secs(6), ..LoadSettings::default() };
        Plan::validate(
            "id".into(),
            "now".into(),
            seed,
            (&Target::of(RuntimeKind::Docker), &Target::of(RuntimeKind::Pm2)),
            &load,
            Design::Sequential { cap: 8, budget_s: None },
        )
    }

    #[test]
    fn every_arm_gets_the_same_number_of_slots_in_every_epoch() {
        for epoch in plan(7).epochs {
            assert_eq!(epoch.window.len(), 24);
            for arm in 0..4 {
                assert_eq!(epoch.window.iter().filter(|slot| slot.lane == arm).count(), 6);
            }
            for round in epoch.window.chunks(4) {
                let mut lanes: Vec<usize> = round.iter().map(|slot| slot.lane).collect();
                lanes.sort_unstable();
                assert_eq!(lanes, [0, 1, 2, 3]);
            }
        }
    }

    #[test]
    fn the_seed_decides_the_orders() {
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7).epochs, plan(8).epochs);
        let first: std::collections::BTreeSet<usize> =
            plan(7).epochs.iter().map(|epoch| epoch.start_order[0]).collect();
        assert!(first.len() > 1, "no arm always starts first");
    }

    #[test]
    fn both_sides_run_twice_even_against_themselves() {
        let bare = Target::of(RuntimeKind::Bare);
        let design = Design::Sequential { cap: 8, budget_s: None };
        let load = LoadSettings::default();
        let plan = Plan::validate("id".into(), "now".into(), 1, (&bare, &bare), &load, design);
        let names: Vec<&str> = plan.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["bare-a1", "bare-b1", "bare-a2", "bare-b2"]);
        assert_eq!(plan.records.len(), 2);
    }
    #[test]
    fn a_soak_outlasts_its_windows_and_leaves_the_epochs_as_they_were() {
        let settings = SoakSettings { length: Duration::from_secs(60), window: Duration::from_secs(10) };
        let load = LoadSettings { soak: Some(settings), ..LoadSettings::default() };
        let bare = Target::of(RuntimeKind::Bare);
        let design = Design::Sequential { cap: 8, budget_s: None };
        let plan_of = |load| Plan::validate("id".into(), "now".into(), 1, (&bare, &bare), load, design);
        let (with, without) = (plan_of(&load), plan_of(&LoadSettings::default()));
        assert_eq!(with.epochs, without.epochs);
        assert_eq!(without.soak, None);
        let soak = with.soak.unwrap();
        assert!(soak.slots.iter().map(|slot| slot.length).sum::<Duration>() > settings.length);
        assert_eq!(soak.start_order.len(), 4);
    }

    #[test]
    fn a_dry_run_tells_what_follows_a_window_and_the_epochs() {
        let bare = Target::of(RuntimeKind::Bare);
        let design = Design::Sequential { cap: 8, budget_s: None };
        let describe = |load: LoadSettings| {
            Plan::validate("id".into(), "now".into(), 1, (&bare, &bare), &load, design).describe(&load)
        };
        let plain = describe(LoadSettings::default());
        assert!(!plain.contains("after each window") && !plain.contains("soak"), "{plain}");
        let length = Duration::from_secs(1800);
        let all = describe(LoadSettings {
            times: true,
            throughput_p99: Some(Duration::from_millis(50)),
            soak: Some(SoakSettings { length, window: Duration::from_secs(150) }),
            ..LoadSettings::default()
        });
        for text in
            ["the highest rate with p99 below 50", "a reload and of a restart", "in each of 12 windows"]
        {
            assert!(all.contains(text), "no {text:?} in {all}");
        }
    }
}
