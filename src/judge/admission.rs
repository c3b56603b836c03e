//! Whether two records may be set against each other.

use std::{collections::BTreeSet, fmt::Display};

use super::Question;
use crate::model::{
    record::{ArmRole, Fingerprint, LoadIdentity, Record, WorkloadIdentity},
    settings::ConnectionUse,
    verdict::Grade,
};

/// The grade of evidence two records can give, and what there is to say about it.
pub(super) struct Admission {
    /// `None` when they must not be set against each other.
    pub(super) grade: Option<Grade>,
    pub(super) reasons: Vec<String>,
}

/// Asks whether the two sides may be set against each other.
pub(super) fn admit(question: &Question) -> Admission {
    let (baseline, candidate) = (&question.baseline[0], &question.candidate[0]);
    let mut obstacles = Vec::new();
    let paired = question.baseline.len() == 1
        && question.candidate.len() == 1
        && baseline.session.id == candidate.session.id;
    // Every session of either side must be of the same kind as the first of the baseline.
    let others = question.baseline[1..].iter().chain(question.candidate);
    for other in others {
        for obstacle in between(baseline, other, paired) {
            if !obstacles.contains(&obstacle) {
                obstacles.push(obstacle);
            }
        }
    }
    obstacles.extend(repeated(question));
    obstacles.extend(mixed(question));
    let mut hosts: Vec<String> = Vec::new();
    for other in question.baseline[1..].iter().chain(question.candidate) {
        let found = host(&baseline.host, &other.host);
        hosts.extend(found.into_iter().filter(|difference| !hosts.contains(difference)).collect::<Vec<_>>());
    }
    if !question.across_hosts && !hosts.is_empty() {
        obstacles.extend(hosts.iter().cloned());
        obstacles
            .push("another machine: collect again here, or ask for an advisory answer across hosts".into());
    }
    if !obstacles.is_empty() {
        return Admission { grade: None, reasons: obstacles };
    }
    let mut reasons = remarks(question, paired);
    let grade = if !hosts.is_empty() {
        reasons.extend(hosts);
        reasons.push("the machines differ: this answer is advisory".to_owned());
        Grade::AcrossHosts
    } else if paired {
        Grade::Paired
    } else {
        Grade::Controlled
    };
    Admission { grade: Some(grade), reasons }
}

fn between(baseline: &Record, other: &Record, paired: bool) -> Vec<String> {
    let mut found = Vec::new();
    if baseline.format.name != other.format.name || baseline.format.major != other.format.major {
        let describe = |record: &Record| format!("{} {}.x", record.format.name, record.format.major);
        found.push(differs("the record format", describe(baseline), describe(other)));
    }
    found.extend(workload(&baseline.workload, &other.workload));
    found.extend(load(&baseline.load, &other.load));
    if !paired {
        found.extend(control(baseline, other));
    }
    found
}

/// The sessions of one side are of one target, which is what its options make it.
fn mixed(question: &Question) -> Vec<String> {
    let sides = [("baseline", question.baseline), ("candidate", question.candidate)];
    let is_mixed =
        |records: &[Record]| records.iter().any(|record| record.target.options != records[0].target.options);
    let mixed = sides.into_iter().filter(|(_, records)| is_mixed(records));
    mixed.map(|(side, _)| format!("the {side}'s sessions ran with different options of the target")).collect()
}

/// A session that is there twice would count twice.
fn repeated(question: &Question) -> Option<String> {
    let records = || question.baseline.iter().chain(question.candidate);
    let same = |a: &Record, b: &Record| a == b || (a.session.id == b.session.id && a.target == b.target);
    let twice =
        records().enumerate().any(|(at, record)| records().skip(at + 1).any(|other| same(record, other)));
    // Baseline and candidate of one session may be the same target, measured by different arms.
    let only_pair = question.baseline.len() == 1 && question.candidate.len() == 1;
    let is_one_record = question.baseline[0] == question.candidate[0];
    match (twice, only_pair) {
        (true, true) if is_one_record => {
            Some("the baseline and the candidate are one and the same record".to_owned())
        }
        (true, false) => Some("a session is there more than once".to_owned()),
        _ => None,
    }
}

/// What does not stand in the way and should be known all the same.
fn remarks(question: &Question, paired: bool) -> Vec<String> {
    let mut remarks = Vec::new();
    for (side, records) in [("baseline", question.baseline), ("candidate", question.candidate)] {
        for record in records.iter().filter(|record| !record.session.is_complete()) {
            let done = record.epochs.len();
            remarks.push(format!("the {side}'s session was cut short after {done} epochs"));
        }
    }
    let (baseline, candidate) = (&question.baseline[0], &question.candidate[0]);
    if !paired {
        let (from, to) = (baseline.load.warmup_s, candidate.load.warmup_s);
        if from.total_cmp(&to).is_ne() {
            remarks.push(differs("the warm-up (seconds)", from, to));
        }
    }
    for (side, records) in [("baseline", question.baseline), ("candidate", question.candidate)] {
        let runs = |record: &Record| format!("{} {}", record.target.runtime, record.target.version);
        let changed = records.iter().find(|record| runs(record) != runs(&records[0]));
        if let Some(other) = changed {
            remarks.push(format!(
                "the {side}'s sessions ran on different versions: {} and {}",
                runs(&records[0]),
                runs(other)
            ));
        }
    }
    remarks
}

fn workload(baseline: &WorkloadIdentity, candidate: &WorkloadIdentity) -> Vec<String> {
    let mut found = Vec::new();
    if baseline.name != candidate.name {
        found.push(differs("the workload", &baseline.name, &candidate.name));
    }
    if baseline.services != candidate.services {
        found.push(differs(
            "the list of services",
            baseline.services.join(", "),
            candidate.services.join(", "),
        ));
    }
    let names: BTreeSet<&String> = baseline.files.keys().chain(candidate.files.keys()).collect();
    for name in names {
        match (baseline.files.get(name), candidate.files.get(name)) {
            (Some(_), None) => found.push(format!("the workload's file {name} is the baseline's only")),
            (None, Some(_)) => found.push(format!("the workload's file {name} is the candidate's only")),
            (from, to) if from != to => {
                found.push(format!("the workload's file {name} changed between the records"));
            }
            _ => {}
        }
    }
    found
}

fn load(baseline: &LoadIdentity, candidate: &LoadIdentity) -> Vec<String> {
    let mut found = Vec::new();
    let numbers = [
        ("the rate (requests per second)", baseline.rate_per_second, candidate.rate_per_second),
        ("the window (seconds)", baseline.window_s, candidate.window_s),
        ("the slot (seconds)", baseline.slot_s, candidate.slot_s),
        ("the time-out (seconds)", baseline.timeout_s, candidate.timeout_s),
    ];
    for (what, from, to) in numbers {
        if from.is_nan() || from.total_cmp(&to).is_ne() {
            found.push(differs(what, from, to));
        }
    }
    if baseline.connections != candidate.connections {
        found.push(differs("the number of connections", baseline.connections, candidate.connections));
    }
    if baseline.connection_use != candidate.connection_use {
        let name = |load: &LoadIdentity| match load.connection_use {
            ConnectionUse::KeepAlive => "keep-alive",
            ConnectionUse::PerRequest => "one a request",
        };
        found.push(differs("the use of connections", name(baseline), name(candidate)));
    }
    if baseline.precision != candidate.precision {
        found.push(differs("the precision of the load", baseline.precision, candidate.precision));
    }
    if let (Some(from), Some(to)) = (baseline.throughput_p99_s, candidate.throughput_p99_s)
        && from.total_cmp(&to).is_ne()
    {
        found.push(differs("the limit on p99 at saturation (seconds)", from, to));
    }
    if baseline.requests_digest != candidate.requests_digest {
        found.push("the requests of the load changed between the records".to_owned());
    }
    found
}

/// Records of different sessions meet only through the control.
fn control(baseline: &Record, candidate: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for (side, record) in [("baseline", baseline), ("candidate", candidate)] {
        let has_control = record.epochs.iter().any(|epoch| epoch.arms.contains_key(&ArmRole::Control));
        if !record.epochs.is_empty() && !has_control {
            found.push(format!(
                "the {side}'s record has no control arm, so it says nothing outside its own session: collect {} \
                 again, or measure both in one session",
                record.target.target
            ));
        }
    }
    let runs = |record: &Record| record.arms.get(&ArmRole::Control).map(|identity| identity.runtime);
    if let (Some(from), Some(to)) = (runs(baseline), runs(candidate))
        && from != to
    {
        found.push(differs("the control", from, to));
    }
    found
}

fn host(baseline: &Fingerprint, candidate: &Fingerprint) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |what: &str, from: String, to: String| {
        if from != to {
            found.push(differs(what, from, to));
        }
    };
    note("the processor", baseline.cpu_model.clone(), candidate.cpu_model.clone());
    note("the number of processors", baseline.cpu_count.to_string(), candidate.cpu_count.to_string());
    note("the memory (GiB)", baseline.memory_gib.to_string(), candidate.memory_gib.to_string());
    note("the kernel", baseline.kernel.clone(), candidate.kernel.clone());
    note("the governor", or_none(baseline.governor.as_ref()), or_none(candidate.governor.as_ref()));
    note(
        "being a virtual machine",
        baseline.virtual_machine.to_string(),
        candidate.virtual_machine.to_string(),
    );
    note(
        "the CPU quota (thousandths)",
        or_none(baseline.cgroup_cpu_milli.as_ref()),
        or_none(candidate.cgroup_cpu_milli.as_ref()),
    );
    note("Node", or_none(baseline.node_version.as_ref()), or_none(candidate.node_version.as_ref()));
    found
}

fn or_none<T: Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "none".to_owned(), T::to_string)
}

fn differs<T: Display>(what: &str, baseline: T, candidate: T) -> String {
    format!("{what} differs: {baseline} for the baseline, {candidate} for the candidate")
}
