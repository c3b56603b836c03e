//! Records made by hand, for tests.

use std::collections::BTreeMap;

use super::rehearsal;
use crate::model::{
    calibration::{self, Calibration, Noise},
    record::{ArmEpoch, ArmRole, Design, Ended, Epoch, Format, Record},
    settings::Thresholds,
    target::RuntimeKind,
    units::Bytes,
    verdict::Metric,
};

/// A little noise, the same in every run, that differs from arm to arm.
fn noise(epoch: u32, arm: u32) -> f64 {
    let mixed = (epoch * 7 + arm * 13 + epoch * epoch * 3) % 11;
    (f64::from(mixed) - 5.0) * 0.002
}

/// An arm whose times are `factor` times 10 ms and whose memory is `factor` times 50 MiB.
fn arm(factor: f64) -> ArmEpoch {
    rehearsal::arm(factor, 52_428_800.0 * factor, 0.4 * factor)
}

/// A record of `epochs` epochs; each arm has its role and the factor on its figures.
pub(super) fn record(target: RuntimeKind, session: &str, epochs: u32, arms: &[(ArmRole, f64)]) -> Record {
    let roles: Vec<ArmRole> = arms.iter().map(|(role, _)| *role).collect();
    let mut record =
        rehearsal::empty(target, session, &roles, Design::Fixed { epochs }, &Thresholds::default());
    record.workload.name = "demo".to_owned();
    record.workload.files = BTreeMap::from([("ecosystem.json".to_owned(), "aa".to_owned())]);
    record.workload.services = vec!["api".to_owned()];
    record.host.cpu_count = 2;
    record.host.kernel = "6.1".to_owned();
    let epoch = |index: u32| Epoch {
        index,
        order: Vec::new(),
        conditions: crate::model::record::Conditions::default(),
        arms: arms
            .iter()
            .map(|(role, factor)| (*role, arm(factor * noise(index, *role as u32 + target as u32).exp())))
            .collect(),
    };
    record.epochs = (0..epochs).map(epoch).collect();
    record.session.measured_epochs = epochs;
    record.session.ended = Some(Ended::AllMeasured);
    record
}

/// The two records of one session: Docker and PM2 with its figures times `factor`, each twice.
pub(super) fn paired(epochs: u32, factor: f64) -> (Record, Record) {
    let twice = |factor| [(ArmRole::Target, factor), (ArmRole::TargetAgain, factor)];
    let baseline = record(RuntimeKind::Docker, "s1", epochs, &twice(1.0));
    (baseline, record(RuntimeKind::Pm2, "s1", epochs, &twice(factor)))
}

/// The record of a session of its own, on a machine that is `speed` times slower that day.
pub(super) fn collected(target: RuntimeKind, session: &str, epochs: u32, factor: f64, speed: f64) -> Record {
    let arms =
        [(ArmRole::Target, 1.5 * factor * speed), (ArmRole::Control, speed), (ArmRole::ControlAgain, speed)];
    let mut record = record(target, session, epochs, &arms);
    // A slower machine makes times longer, and memory no larger.
    for arm in record.epochs.iter_mut().flat_map(|epoch| epoch.arms.values_mut()) {
        if let Some(memory) = &mut arm.service.memory {
            memory.anonymous = Bytes((memory.anonymous.0 as f64 / speed) as u64);
        }
    }
    record
}

/// Records of two sessions, the second on a machine that is `speed` times slower that day.
pub(super) fn stored(epochs: u32, factor: f64, speed: f64) -> (Record, Record) {
    (
        collected(RuntimeKind::Docker, "s1", epochs, 1.0, 1.0),
        collected(RuntimeKind::Pm2, "s2", epochs, factor, speed),
    )
}

/// A machine whose sessions hardly differ.
pub(super) fn calm() -> Calibration {
    let record = record(RuntimeKind::Docker, "calibration", 0, &[]);
    let noise = Noise { epoch_sd: 0.01, again_sd: 0.01, session_sd: 0.001, session_sd_bound: 0.002 };
    Calibration {
        format: Format { name: calibration::FORMAT_NAME.to_owned(), major: 1, minor: 0 },
        made_at: String::new(),
        target: record.target,
        workload: record.workload,
        host: record.host,
        load: record.load,
        sessions: Vec::new(),
        epoch_s: 30.0,
        metrics: Metric::ALL.into_iter().map(|metric| (metric, noise)).collect(),
    }
}

/// Changes the target's arms of every epoch.
pub(super) fn each_target(record: &mut Record, change: impl Fn(u32, &mut ArmEpoch)) {
    for epoch in &mut record.epochs {
        for role in [ArmRole::Target, ArmRole::TargetAgain] {
            if let Some(arm) = epoch.arms.get_mut(&role) {
                change(epoch.index, arm);
            }
        }
    }
}
