//! Records made by hand, for tests.

use std::{collections::BTreeMap, time::Duration};

use crate::model::{
    load::Precision,
    measurement::{Memory, Usage},
    record::{
        ArmEpoch, ArmRole, Conditions, Epoch, Fingerprint, Format, LatencySummary, LoadIdentity, Record,
        Session, WorkloadIdentity,
    },
    sample::RequestCounts,
    settings::{ConnectionUse, Thresholds},
    target::{RuntimeIdentity, RuntimeKind},
    units::Bytes,
};

/// A little noise, the same in every run, that differs from arm to arm.
pub(super) fn noise(epoch: u32, arm: u32) -> f64 {
    let mixed = (epoch * 7 + arm * 13 + epoch * epoch * 3) % 11;
    (f64::from(mixed) - 5.0) * 0.002
}

/// An arm whose times are `factor` times 10 ms and whose memory is `factor` times 50 MiB.
pub(super) fn arm(factor: f64) -> ArmEpoch {
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
            memory: Some(Memory { anonymous: Bytes((52_428_800.0 * factor) as u64), ..Memory::default() }),
            cpu: Some(Duration::from_secs_f64(0.4 * factor)),
            processes: 2,
        },
        overhead_fixed: Usage::default(),
        overhead_per_instance: Usage::default(),
    }
}

/// A record of `epochs` epochs; each arm has its role and the factor on its figures.
pub(super) fn record(target: RuntimeKind, session: &str, epochs: u32, arms: &[(ArmRole, f64)]) -> Record {
    let identity = |runtime: RuntimeKind| RuntimeIdentity {
        target: runtime.name().to_owned(),
        runtime,
        version: "1.0".to_owned(),
        path: format!("/usr/bin/{runtime}"),
        stands_in_for: None,
        options: BTreeMap::new(),
    };
    let epoch = |index: u32| Epoch {
        index,
        order: Vec::new(),
        conditions: Conditions::default(),
        arms: arms
            .iter()
            .map(|(role, factor)| (*role, arm(factor * noise(index, *role as u32 + target as u32).exp())))
            .collect(),
    };
    Record {
        format: Format::current(),
        qbench_version: "0.1.0".to_owned(),
        session: Session {
            id: session.to_owned(),
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            seed: 1,
            planned_epochs: epochs,
            complete: true,
        },
        target: identity(target),
        arms: arms
            .iter()
            .map(|(role, _)| match role {
                ArmRole::Target | ArmRole::TargetAgain => (*role, identity(target)),
                ArmRole::Control | ArmRole::ControlAgain => (*role, identity(RuntimeKind::Bare)),
            })
            .collect(),
        workload: WorkloadIdentity {
            name: "demo".to_owned(),
            files: BTreeMap::from([("ecosystem.json".to_owned(), "aa".to_owned())]),
            services: vec!["api".to_owned()],
        },
        host: Fingerprint {
            cpu_model: "A CPU".to_owned(),
            cpu_count: 2,
            memory_gib: 8,
            kernel: "6.1".to_owned(),
            governor: None,
            virtual_machine: true,
            cgroup_cpu_milli: None,
            node_version: Some("v20".to_owned()),
        },
        load: LoadIdentity {
            rate_per_second: 200.0,
            window_s: 20.0,
            slot_s: 0.25,
            warmup_s: 2.0,
            connections: 32,
            connection_use: ConnectionUse::KeepAlive,
            timeout_s: 5.0,
            precision: Some(Precision::Balanced),
            requests_digest: "bb".to_owned(),
        },
        thresholds: Thresholds::default(),
        epochs: (0..epochs).map(epoch).collect(),
    }
}

/// The two records of one session: Docker twice, and PM2 with its figures times `factor`.
pub(super) fn paired(epochs: u32, factor: f64) -> (Record, Record) {
    let baseline =
        record(RuntimeKind::Docker, "s1", epochs, &[(ArmRole::Target, 1.0), (ArmRole::TargetAgain, 1.0)]);
    (baseline, record(RuntimeKind::Pm2, "s1", epochs, &[(ArmRole::Target, factor)]))
}

/// Records of two sessions, the second on a machine that is `speed` times slower that day.
pub(super) fn stored(epochs: u32, factor: f64, speed: f64) -> (Record, Record) {
    let arms = |target: f64, control: f64| {
        [(ArmRole::Target, target), (ArmRole::Control, control), (ArmRole::ControlAgain, control)]
    };
    let baseline = record(RuntimeKind::Docker, "s1", epochs, &arms(1.5, 1.0));
    let mut candidate = record(RuntimeKind::Pm2, "s2", epochs, &arms(1.5 * factor * speed, speed));
    // A slower machine makes times longer, and memory no larger.
    for arm in candidate.epochs.iter_mut().flat_map(|epoch| epoch.arms.values_mut()) {
        if let Some(memory) = &mut arm.service.memory {
            memory.anonymous = Bytes((memory.anonymous.0 as f64 / speed) as u64);
        }
    }
    (baseline, candidate)
}

/// Changes the target's arm of every epoch.
pub(super) fn each_target(record: &mut Record, change: impl Fn(u32, &mut ArmEpoch)) {
    for epoch in &mut record.epochs {
        if let Some(arm) = epoch.arms.get_mut(&ArmRole::Target) {
            change(epoch.index, arm);
        }
    }
}
