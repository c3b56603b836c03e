//! Sessions with a known truth, to see how often the verdict is right.
//!
//! Two sources: epochs made up with a noise of a known kind, and epochs of real records drawn again with replacement.
//! Either way a session is played through [`steer`] and [`compare`] as if it were being
//! measured, so that what is counted are the verdicts of the program itself.

use std::{collections::BTreeMap, time::Duration};

use super::{Question, Steering, compare, looks, reading::estimated, steer};
use crate::model::{
    load::Precision,
    measurement::{Memory, Usage},
    random::SplitMix,
    record::{
        ArmEpoch, ArmRole, Conditions, Design, Ended, Epoch, Fingerprint, Format, LatencySummary,
        LoadIdentity, Record, Session, WorkloadIdentity,
    },
    sample::RequestCounts,
    settings::{ConnectionUse, Thresholds},
    target::{RuntimeIdentity, RuntimeKind},
    units::Bytes,
    verdict::Comparison,
};

/// What made-up epochs suffer from, beside a noise of their own in every arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing else.
    None,
    /// The machine gets slower and faster, for all arms alike.
    Drift,
    /// Now and then an epoch is slower for all arms, for each by its own amount.
    SharedSpikes,
    /// Student's t with three degrees of freedom instead of a normal noise.
    HeavyTails,
    /// Now and then one arm alone is slower: never faster.
    OneSidedSpikes,
}

/// What is wrong with the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The candidate lacks some epochs.
    Ragged,
    /// The records were cut off after the session ended.
    Truncated,
    /// There are no epochs.
    Empty,
    /// Some figures are no numbers.
    NotANumber,
}

/// A truth to rehearse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    /// By how much the candidate's times are longer: 0.05 is 5%.
    pub effect: f64,
    /// Standard deviation of an epoch's change, as a share.
    pub epoch_sd: f64,
    /// What else happens.
    pub disturbance: Disturbance,
    /// Standard deviation, from session to session, of the baseline's and of the candidate's change against the
    /// control. Memory, which no session's speed touches, varies by half of it.
    pub session_sd: (f64, f64),
    /// What is wrong with the data, if anything.
    pub damage: Option<Damage>,
}

/// Plays one paired session with made-up epochs until it stops.
pub fn paired(truth: &Truth, cap: u32, thresholds: &Thresholds, random: &mut SplitMix) -> Comparison {
    let roles = [ArmRole::Target, ArmRole::TargetAgain];
    let design = Design::Sequential { cap, budget_s: None };
    let mut baseline = empty(RuntimeKind::Docker, "rehearsed", &roles, design, thresholds);
    let mut candidate = empty(RuntimeKind::Pm2, "rehearsed", &roles, design, thresholds);
    let mut made = Maker::new(truth, ARM_OF_FOUR, random);
    play(&mut baseline, &mut candidate, cap, thresholds, |index| {
        let [from, again, to, to_again] = made.epoch(index, [false, false, true, true]);
        let of_baseline = [(ArmRole::Target, from), (ArmRole::TargetAgain, again)];
        let of_candidate = [(ArmRole::Target, to), (ArmRole::TargetAgain, to_again)];
        (epoch(index, of_baseline.into()), epoch(index, of_candidate.into()))
    });
    if let Some(damage) = truth.damage {
        spoil(&mut baseline, &mut candidate, damage, random);
    }
    compare(&Question::of(&baseline, &candidate, thresholds))
}

/// Plays a comparison of stored sessions with made-up epochs: as many sessions a side as `sessions` says, each of
/// `epochs` epochs.
pub fn stored(
    truth: &Truth,
    sessions: (u32, u32),
    epochs: u32,
    thresholds: &Thresholds,
    random: &mut SplitMix,
) -> Comparison {
    let mut side = |runtime, effect: f64, session_sd: f64, count: u32| -> Vec<Record> {
        let of_side = Side { runtime, effect, session_sd };
        (0..count).map(|number| stored_session(truth, of_side, number, epochs, thresholds, random)).collect()
    };
    let mut baseline = side(RuntimeKind::Docker, 0.0, truth.session_sd.0, sessions.0);
    let mut candidate = side(RuntimeKind::Pm2, truth.effect, truth.session_sd.1, sessions.1);
    if let (Some(damage), Some(from), Some(to)) = (truth.damage, baseline.first_mut(), candidate.first_mut())
    {
        spoil(from, to, damage, random);
    }
    compare(&Question {
        baseline: &baseline,
        candidate: &candidate,
        thresholds,
        across_hosts: false,
        calibrations: [None, None],
    })
}

/// What is true of one side of stored sessions.
#[derive(Clone, Copy)]
struct Side {
    runtime: RuntimeKind,
    effect: f64,
    session_sd: f64,
}

fn stored_session(
    truth: &Truth,
    side: Side,
    number: u32,
    epochs: u32,
    thresholds: &Thresholds,
    random: &mut SplitMix,
) -> Record {
    let roles = [ArmRole::Target, ArmRole::Control, ArmRole::ControlAgain];
    let id = format!("{}-{number}", side.runtime);
    let mut record = empty(side.runtime, &id, &roles, Design::Fixed { epochs }, thresholds);
    let [time, cpu, memory] = [1.0, 1.0, 0.5].map(|part| part * side.session_sd * random.normal());
    let own = Truth { effect: (side.effect.ln_1p() + time).exp_m1(), ..*truth };
    let mut made = Maker::new(&own, ARM_OF_THREE, random);
    for index in 0..epochs {
        let [from, mut to, again] = made.epoch(index, [false, true, false]);
        to.service.cpu = to.service.cpu.map(|used| used.mul_f64(cpu.exp()));
        if let Some(own) = &mut to.service.memory {
            own.anonymous = Bytes((own.anonymous.0 as f64 * memory.exp()) as u64);
        }
        let arms = [(ArmRole::Control, from), (ArmRole::Target, to), (ArmRole::ControlAgain, again)];
        record.epochs.push(epoch(index, arms.into()));
    }
    record.session.measured_epochs = epochs;
    record.session.ended = Some(Ended::AllMeasured);
    record
}

/// Plays a session again with the epochs of a measured one, drawn with replacement, and the candidate's times made
/// longer by `shift`.
pub fn resampled(
    baseline: &Record,
    candidate: &Record,
    shift: f64,
    cap: u32,
    thresholds: &Thresholds,
    random: &mut SplitMix,
) -> Comparison {
    // Once for all the sessions that are drawn.
    let (from, to) = (estimated(std::slice::from_ref(baseline)), estimated(std::slice::from_ref(candidate)));
    let (baseline, candidate) = (&from[0], &to[0]);
    let both: Vec<(&Epoch, &Epoch)> = baseline
        .epochs
        .iter()
        .filter_map(|from| Some((from, candidate.epochs.iter().find(|to| to.index == from.index)?)))
        .filter(|(from, to)| {
            from.conditions.disturbances().is_empty() && to.conditions.disturbances().is_empty()
        })
        .collect();
    let again = |record: &Record| {
        let session = Session {
            design: Design::Sequential { cap, budget_s: None },
            measured_epochs: 0,
            ended: None,
            ..record.session.clone()
        };
        Record { session, epochs: Vec::new(), ..record.clone() }
    };
    let (mut from, mut to) = (again(baseline), again(candidate));
    if !both.is_empty() {
        play(&mut from, &mut to, cap, thresholds, |index| {
            let (from, to) = both[random.below(both.len())];
            let mut to = Epoch { index, ..to.clone() };
            to.arms.values_mut().for_each(|arm| scale(arm, 1.0 + shift));
            (Epoch { index, ..from.clone() }, to)
        });
    }
    compare(&Question::of(&from, &to, thresholds))
}

/// Adds epochs until the session would have stopped.
fn play(
    baseline: &mut Record,
    candidate: &mut Record,
    cap: u32,
    thresholds: &Thresholds,
    mut next: impl FnMut(u32) -> (Epoch, Epoch),
) {
    let looks = looks(cap);
    for index in 0..cap {
        let (from, to) = next(index);
        baseline.epochs.push(from);
        candidate.epochs.push(to);
        baseline.session.measured_epochs += 1;
        candidate.session.measured_epochs += 1;
        // Between two looks nothing is decided, and nothing is asked.
        if looks.contains(&(index + 1))
            && let Steering::Stop(ended) = steer(baseline, candidate, thresholds)
        {
            baseline.session.ended = Some(ended);
            candidate.session.ended = Some(ended);
            return;
        }
    }
    baseline.session.ended = Some(Ended::AllMeasured);
    candidate.session.ended = Some(Ended::AllMeasured);
}

/// What an arm's deviation is to that of a change: two arms less two others.
const ARM_OF_FOUR: f64 = 1.0;
/// One arm less two others: the variance of the change is one and a half times an arm's.
const ARM_OF_THREE: f64 = 0.816_496_580_927_726;

/// Makes epochs.
struct Maker<'a> {
    truth: &'a Truth,
    arm_sd: f64,
    drift: f64,
    random: &'a mut SplitMix,
}

/// How often a spike comes.
const SPIKE_CHANCE: f64 = 0.10;
/// How large it is at most, as a logarithm.
const LARGEST_SPIKE: f64 = 0.40;

impl<'a> Maker<'a> {
    fn new(truth: &'a Truth, arm: f64, random: &'a mut SplitMix) -> Self {
        Self { truth, arm_sd: truth.epoch_sd * arm, drift: 0.0, random }
    }

    /// One epoch of some arms, each with the effect or without.
    fn epoch<const ARMS: usize>(&mut self, index: u32, with_effect: [bool; ARMS]) -> [ArmEpoch; ARMS] {
        let effect = self.truth.effect.ln_1p();
        let mut logs = with_effect.map(|with| if with { effect } else { 0.0 });
        for log in &mut logs {
            *log += self.arm_sd * self.noise();
        }
        match self.truth.disturbance {
            Disturbance::None | Disturbance::HeavyTails => {}
            Disturbance::Drift => {
                self.drift += 0.02 * self.random.normal();
                let shared = self.drift + 0.01 * f64::from(index);
                for log in &mut logs {
                    *log += shared;
                }
            }
            Disturbance::SharedSpikes => {
                if self.random.next_unit() < SPIKE_CHANCE {
                    let spike = LARGEST_SPIKE * self.random.next_unit();
                    for log in &mut logs {
                        *log += spike * (0.8 + 0.4 * self.random.next_unit());
                    }
                }
            }
            Disturbance::OneSidedSpikes => {
                for log in &mut logs {
                    if self.random.next_unit() < SPIKE_CHANCE {
                        *log += LARGEST_SPIKE * self.random.next_unit();
                    }
                }
            }
        }
        logs.map(|log| self.arm(log.exp()))
    }

    fn noise(&mut self) -> f64 {
        let normal = self.random.normal();
        if self.truth.disturbance != Disturbance::HeavyTails {
            return normal;
        }
        let chi_square: f64 = (0..3).map(|_| self.random.normal().powi(2)).sum();
        // Student's t with three degrees of freedom has the variance 3; scaled to that of the normal noise.
        normal / (chi_square / 3.0).sqrt() / 3.0_f64.sqrt()
    }

    fn arm(&mut self, factor: f64) -> ArmEpoch {
        let memory = 5e7 * (0.005 * self.random.normal()).exp();
        let cpu = 0.4 * (0.01 * self.random.normal()).exp();
        let start = 0.5 * (0.02 * self.random.normal()).exp();
        ArmEpoch { start_to_ready_s: start, ..arm(factor, memory, cpu) }
    }
}

/// An arm whose times are `factor` times 10 ms.
pub(super) fn arm(factor: f64, memory: f64, cpu_s: f64) -> ArmEpoch {
    let seconds = |times: f64| Some(0.010 * times * factor);
    ArmEpoch {
        start_to_ready_s: 0.5,
        latency: LatencySummary {
            count: 1000,
            mean_s: seconds(1.2),
            p50_s: seconds(1.0),
            p90_s: seconds(2.0),
            p95_s: seconds(2.5),
            p99_s: seconds(4.0),
            p999_s: seconds(8.0),
            max_s: seconds(10.0),
            hdr_v2: String::new(),
        },
        requests: RequestCounts { offered: 1000, sent: 1000, succeeded: 1000, ..RequestCounts::default() },
        longest_gap_s: 0.02,
        send_lag_p99_s: Some(0.0001),
        service: Usage {
            memory: Some(Memory { anonymous: Bytes(memory as u64), ..Memory::default() }),
            cpu: Duration::try_from_secs_f64(cpu_s).ok(),
            processes: 2,
        },
        overhead_fixed: Usage::default(),
        overhead_per_instance: Usage::default(),
        reload_s: None,
        restart_s: None,
        throughput: None,
    }
}

/// Makes an arm's times longer.
fn scale(arm: &mut ArmEpoch, factor: f64) {
    let latency = &mut arm.latency;
    let times = [
        &mut latency.mean_s,
        &mut latency.p50_s,
        &mut latency.p90_s,
        &mut latency.p95_s,
        &mut latency.p99_s,
        &mut latency.p999_s,
        &mut latency.max_s,
    ];
    for time in times {
        *time = time.map(|seconds| seconds * factor);
    }
}

fn epoch(index: u32, arms: BTreeMap<ArmRole, ArmEpoch>) -> Epoch {
    Epoch { index, order: Vec::new(), conditions: Conditions::default(), arms }
}

fn spoil(baseline: &mut Record, candidate: &mut Record, damage: Damage, random: &mut SplitMix) {
    let epochs = candidate.epochs.len();
    if epochs == 0 {
        return;
    }
    let at = random.below(epochs);
    match damage {
        Damage::Ragged => drop(candidate.epochs.remove(at)),
        Damage::Truncated => {
            baseline.epochs.truncate(at);
            candidate.epochs.truncate(at);
        }
        Damage::Empty => {
            baseline.epochs.clear();
            candidate.epochs.clear();
        }
        Damage::NotANumber => {
            if let Some(arm) = candidate.epochs[at].arms.get_mut(&ArmRole::Target) {
                arm.latency.p50_s = [None, Some(f64::NAN), Some(f64::INFINITY), Some(0.0)][random.below(4)];
            }
        }
    }
}

/// A record before its first epoch.
pub(super) fn empty(
    runtime: RuntimeKind,
    session: &str,
    roles: &[ArmRole],
    design: Design,
    thresholds: &Thresholds,
) -> Record {
    let identity = |runtime: RuntimeKind| RuntimeIdentity {
        target: runtime.name().to_owned(),
        runtime,
        version: "rehearsed".to_owned(),
        path: "made up".to_owned(),
        stands_in_for: None,
        options: BTreeMap::new(),
    };
    let of_role = |role: &ArmRole| match role {
        ArmRole::Target | ArmRole::TargetAgain => identity(runtime),
        ArmRole::Control | ArmRole::ControlAgain => identity(RuntimeKind::Bare),
    };
    Record {
        format: Format::current(),
        qbench_version: env!("CARGO_PKG_VERSION").to_owned(),
        session: Session {
            id: session.to_owned(),
            started_at: String::new(),
            seed: 0,
            design,
            measured_epochs: 0,
            ended: None,
            appended_to: None,
        },
        target: identity(runtime),
        arms: roles.iter().map(|role| (*role, of_role(role))).collect(),
        workload: WorkloadIdentity {
            name: "made up".to_owned(),
            files: BTreeMap::new(),
            services: Vec::new(),
        },
        host: Fingerprint {
            cpu_model: String::new(),
            cpu_count: 0,
            memory_gib: 0,
            kernel: String::new(),
            governor: None,
            virtual_machine: false,
            cgroup_cpu_milli: None,
            node_version: None,
        },
        load: LoadIdentity {
            rate_per_second: 200.0,
            window_s: 20.0,
            slot_s: 0.25,
            warmup_s: 2.0,
            connections: 32,
            connection_use: ConnectionUse::KeepAlive,
            timeout_s: 5.0,
            precision: Precision::Balanced,
            times: false,
            throughput_p99_s: None,
            requests_digest: String::new(),
        },
        thresholds: thresholds.clone(),
        epochs: Vec::new(),
        soak: None,
    }
}
