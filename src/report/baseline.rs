//! Stored baselines: all of them, one of them, and what two differ in.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::{
    Page,
    json::format,
    page::Grid,
    words::{self, NOTHING, plain},
};
use crate::model::{
    calibration::Noise,
    difference::Difference,
    record::{ArmRole, Fingerprint, Record},
    target::RuntimeIdentity,
    verdict::{Metric, Quantity},
};

/// A stored baseline, as far as a list shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The target.
    pub target: String,
    /// The workload.
    pub workload: String,
    /// The first session, which names it.
    pub group: String,
    /// When the first session started: RFC 3339, UTC.
    pub started_at: String,
    /// Seconds since then.
    pub age_s: Option<f64>,
    /// Whether somebody chose it.
    pub accepted: bool,
    /// Sessions that came to their end.
    pub complete_sessions: usize,
    /// Sessions that did not.
    pub incomplete_sessions: usize,
    /// Epochs of the sessions that count.
    pub epochs: usize,
    /// What its first session ran on.
    pub runtime: RuntimeIdentity,
    /// The machine.
    pub host: Fingerprint,
    /// Whether that is this machine.
    pub is_this_host: bool,
    /// The workload's files that are not as they were then; `None` without a configuration to compare with.
    pub changed_files: Option<Vec<String>>,
    /// What the target would run on now; `None` when nobody asked.
    pub runtime_today: Option<RuntimeToday>,
}

/// What a target would run on now.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RuntimeToday {
    /// The same runtime in the same version.
    Same,
    /// Another.
    Other {
        /// Its name and version.
        runs: String,
    },
    /// It is not to be had.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// One session of a baseline.
#[derive(Clone, Debug, Serialize)]
pub struct SessionFigures {
    /// Its identifier.
    pub id: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Whether it came to its end.
    pub complete: bool,
    /// Whether it counts.
    pub counts: bool,
    /// Epochs in its record.
    pub epochs: usize,
    /// Of them, those that the machine disturbed: no median holds them.
    pub disturbed_epochs: usize,
    /// Failed requests of the target, and how many were completed.
    pub failed: (u64, u64),
    /// The target's medians over the undisturbed epochs.
    pub medians: BTreeMap<Metric, Quantity>,
}

/// All baselines.
pub fn list(listed: &[Listed]) -> Page {
    let header =
        ["target", "workload", "baseline", "sessions", "epochs", "ran on", "age", "host", "workload's files"];
    let mut header: Vec<String> = header.map(str::to_owned).into();
    let with_runtimes = listed.iter().any(|one| one.runtime_today.is_some());
    if with_runtimes {
        header.push("runtime now".to_owned());
    }
    let line = |one: &Listed| {
        let mut cells = vec![
            plain(&one.target),
            plain(&one.workload),
            group_name(one),
            session_count(one),
            one.epochs.to_string(),
            ran_on(&one.runtime),
            age(one.age_s),
            short_host(one),
            files_today(one.changed_files.as_deref()),
        ];
        if with_runtimes {
            cells.push(one.runtime_today.as_ref().map_or_else(|| NOTHING.to_owned(), runtime_today));
        }
        cells
    };
    let remarks = if listed.is_empty() { vec!["there is no baseline".to_owned()] } else { Vec::new() };
    Page {
        heading: Vec::new(),
        grids: vec![Grid { header, lines: listed.iter().map(line).collect() }],
        remarks,
        value: json!({ "format": format("qbench-baselines"), "baselines": listed }),
    }
}

/// One baseline: what it is, where it comes from, what was measured in each session. `noise` is empty where there are
/// too few sessions to say how much they vary.
pub fn show(
    listed: &Listed,
    first: &Record,
    sessions: &[SessionFigures],
    noise: &BTreeMap<Metric, Noise>,
) -> Page {
    let mut header = vec!["median over epochs".to_owned()];
    header.extend(sessions.iter().map(session_title));
    header.push("spread between sessions".to_owned());
    let mut lines: Vec<Vec<String>> = Vec::new();
    for metric in Metric::ALL {
        if sessions.iter().any(|session| session.medians.contains_key(&metric)) {
            let mut cells = vec![metric.title().to_owned()];
            cells.extend(sessions.iter().map(|session| words::quantity(session.medians.get(&metric))));
            cells.push(spread(noise.get(&metric)));
            lines.push(cells);
        }
    }
    let mut failed = vec!["failed requests".to_owned()];
    failed.extend(
        sessions.iter().map(|session| {
            format!("{} of {}", words::count(session.failed.0), words::count(session.failed.1))
        }),
    );
    failed.push(NOTHING.to_owned());
    lines.push(failed);
    let digests = first.workload.files.iter().map(|(name, digest)| vec![plain(name), plain(short(digest))]);
    Page {
        heading: provenance(listed, first),
        grids: vec![
            Grid { header, lines },
            Grid {
                header: vec!["workload's file".to_owned(), "SHA-256".to_owned()],
                lines: digests.collect(),
            },
        ],
        remarks: show_remarks(sessions, noise),
        value: json!({
            "format": format("qbench-baseline"),
            "baseline": listed,
            "qbench_version": first.qbench_version,
            "control": first.arms.get(&ArmRole::Control),
            "load": first.load,
            "thresholds": first.thresholds,
            "files": first.workload.files,
            "sessions": sessions,
            "noise": noise,
        }),
    }
}

/// What two baselines of a target differ in. The medians are set side by side, not judged.
pub fn diff(
    [from, to]: [&Listed; 2],
    differences: &[Difference],
    medians: &[(Metric, [Option<Quantity>; 2])],
) -> Page {
    let cell = |value: &Option<String>| value.as_deref().map_or_else(|| NOTHING.to_owned(), cut);
    let identity =
        differences.iter().map(|one| vec![plain(&one.what), cell(&one.from), cell(&one.to)]).collect();
    let figures = medians.iter().map(|(metric, [a, b])| {
        let title = metric.title().to_owned();
        let share = relative(*a, *b).map_or_else(|| NOTHING.to_owned(), words::change);
        vec![title, words::quantity(a.as_ref()), words::quantity(b.as_ref()), share]
    });
    let columns = |first: &str| vec![first.to_owned(), plain(&from.group), plain(&to.group)];
    let mut with_change = columns("median over epochs");
    with_change.push("change".to_owned());
    let mut remarks = Vec::new();
    if differences.is_empty() {
        remarks.push("both were measured under the same conditions".to_owned());
    }
    remarks.push("the change has no interval and is no verdict".to_owned());
    let as_value = |(metric, [a, b]): &(Metric, [Option<Quantity>; 2])| json!({ "metric": metric, "from": a, "to": b, "change": relative(*a, *b) });
    Page {
        heading: vec![
            ("target", plain(&from.target)),
            ("from", format!("{}, {}", group_name(from), session_count(from))),
            ("to", format!("{}, {}", group_name(to), session_count(to))),
        ],
        grids: vec![
            Grid { header: columns("differs"), lines: identity },
            Grid { header: with_change, lines: figures.collect() },
        ],
        remarks,
        value: json!({
            "format": format("qbench-baseline-diff"),
            "from": from,
            "to": to,
            "differences": differences,
            "medians": medians.iter().map(as_value).collect::<Vec<_>>(),
        }),
    }
}

/// For people: the largest unit that leaves at least two.
pub fn age(seconds: Option<f64>) -> String {
    const UNITS: [(f64, &str); 3] = [(86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")];
    let Some(seconds) = seconds.filter(|seconds| *seconds >= 0.0) else { return NOTHING.to_owned() };
    let fitting = UNITS.iter().find(|(unit, _)| seconds >= 2.0 * unit);
    fitting.map_or_else(
        || "just now".to_owned(),
        |(unit, name)| format!("{:.0} {name}", (seconds / unit).floor()),
    )
}

fn provenance(listed: &Listed, first: &Record) -> Vec<(&'static str, String)> {
    let load = &first.load;
    let mut lines = vec![
        ("target", plain(&first.target.describe())),
        (
            "workload",
            format!("{}: {}", plain(&listed.workload), files_today(listed.changed_files.as_deref())),
        ),
        ("baseline", group_name(listed)),
        ("measured", format!("{} ({})", plain(&listed.started_at), age(listed.age_s))),
        ("sessions", session_count(listed)),
        ("qbench", plain(&first.qbench_version)),
    ];
    if let Some(control) = first.arms.get(&ArmRole::Control) {
        lines.insert(1, ("control", plain(&control.describe())));
    }
    lines.push(("host", plain(&machine(listed))));
    lines.push((
        "load",
        plain(&format!(
            "{}/s for {} in slots of {} after {}, {} connections, requests {}",
            load.rate_per_second,
            words::seconds(load.window_s),
            words::seconds(load.slot_s),
            words::seconds(load.warmup_s),
            load.connections,
            short(&load.requests_digest),
        )),
    ));
    let limits = first.thresholds.0.iter().map(|(metric, allowance)| {
        let advisory = if allowance.critical { "" } else { " (advisory)" };
        let limit = match metric {
            Metric::MaxLatency => words::seconds(allowance.limit),
            Metric::Errors => allowance.limit.to_string(),
            metric => words::limit(*metric, allowance.limit),
        };
        format!("{} {limit}{advisory}", metric.title())
    });
    lines.push(("thresholds", limits.collect::<Vec<_>>().join(", ")));
    lines
}

fn machine(listed: &Listed) -> String {
    let host = &listed.host;
    let parts = [
        Some(short_host(listed)),
        Some(format!("{} GiB", host.memory_gib)),
        Some(format!("Linux {}", host.kernel)),
        host.governor.as_ref().map(|governor| format!("governor {governor}")),
        host.node_version.as_ref().map(|version| format!("Node {version}")),
        host.virtual_machine.then(|| "virtual".to_owned()),
        host.cgroup_cpu_milli.map(|milli| format!("at most {:.1} processors", milli as f64 / 1e3)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn show_remarks(sessions: &[SessionFigures], noise: &BTreeMap<Metric, Noise>) -> Vec<String> {
    let mut remarks = Vec::new();
    for session in sessions.iter().filter(|session| !session.complete) {
        let counts = if session.counts { "it is all there is, and cannot pass" } else { "it does not count" };
        remarks.push(plain(&format!("session {} was cut short: {counts}", session.id)));
    }
    for session in sessions.iter().filter(|session| session.counts && session.disturbed_epochs > 0) {
        let (disturbed, epochs) = (session.disturbed_epochs, session.epochs);
        let id = &session.id;
        remarks.push(plain(&format!(
            "session {id}: {disturbed} of {epochs} epochs were disturbed; the medians are without them"
        )));
    }
    let counting = sessions.iter().filter(|session| session.counts).count();
    remarks.push(match counting {
        _ if !noise.is_empty() => {
            "the spread is the standard deviation from session to session of the target's change against the control \
             (of memory as it is), with its upper bound at 95%"
        }
        0..3 => "how much sessions vary takes at least three of them: `qbench collect … --append`",
        _ => "too few undisturbed epochs to say how much the sessions vary",
    }.to_owned());
    remarks
}

fn session_title(session: &SessionFigures) -> String {
    let state = match (session.complete, session.counts) {
        (true, _) => "",
        (false, true) => ", cut short",
        (false, false) => ", cut short, left out",
    };
    plain(&format!("{} ({} epochs{state})", session.id, session.epochs))
}

fn spread(noise: Option<&Noise>) -> String {
    noise.map_or_else(
        || NOTHING.to_owned(),
        |noise| format!("{:.1}% (< {})", noise.session_sd * 100.0, words::bound(noise.session_sd_bound)),
    )
}

fn group_name(listed: &Listed) -> String {
    plain(&format!("{}{}", listed.group, if listed.accepted { " (accepted)" } else { "" }))
}

fn session_count(listed: &Listed) -> String {
    match (listed.complete_sessions, listed.incomplete_sessions) {
        (complete, 0) => format!("{complete} complete"),
        (complete, cut) => format!("{complete} complete, {cut} cut short"),
    }
}

fn ran_on(identity: &RuntimeIdentity) -> String {
    let stand_in = identity.stands_in_for.as_ref();
    let stand_in = stand_in.map(|of| format!(", STANDING IN FOR {}", of.runtime)).unwrap_or_default();
    plain(&format!("{} {}{stand_in}", identity.runtime, identity.version))
}

fn short_host(listed: &Listed) -> String {
    let other = if listed.is_this_host { "" } else { " (not as it is now)" };
    plain(&format!("{} × {}{other}", listed.host.cpu_count, listed.host.cpu_model))
}

fn files_today(changed: Option<&[String]>) -> String {
    match changed {
        None => NOTHING.to_owned(),
        Some([]) => "unchanged".to_owned(),
        Some(names) => plain(&format!("changed: {}", names.join(", "))),
    }
}

fn runtime_today(today: &RuntimeToday) -> String {
    match today {
        RuntimeToday::Same => "the same".to_owned(),
        RuntimeToday::Other { runs } => plain(&format!("now {runs}")),
        RuntimeToday::Unavailable { reason } => plain(&format!("not usable: {reason}")),
    }
}

/// Enough of a digest to tell two apart.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// A digest is cut; everything else is printed whole.
fn cut(value: &str) -> String {
    let is_digest = value.len() == 64 && value.bytes().all(|c| c.is_ascii_hexdigit());
    plain(if is_digest { short(value) } else { value })
}

fn relative(from: Option<Quantity>, to: Option<Quantity>) -> Option<f64> {
    let (from, to) = (number(from?), number(to?));
    (from > 0.0).then(|| to / from - 1.0)
}

fn number(quantity: Quantity) -> f64 {
    match quantity {
        Quantity::Seconds(value)
        | Quantity::Bytes(value)
        | Quantity::Count(value)
        | Quantity::CpuMs(value)
        | Quantity::PerSecond(value)
        | Quantity::PerHour(value) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_in_the_largest_unit_that_leaves_two() {
        let told = [30.0, 3000.0, 86_400.0, 172_800.0, 1e6].map(|seconds| age(Some(seconds)));
        assert_eq!(told, ["just now", "50 minutes", "24 hours", "2 days", "11 days"]);
        assert_eq!(age(None), NOTHING);
        assert_eq!(age(Some(-5.0)), NOTHING, "a clock that was set back tells no age");
    }

    #[test]
    fn only_digests_are_cut() {
        assert_eq!(cut(&"ab".repeat(32)), "abababababab");
        assert_eq!(
            cut("Linux 6.8.0-a-rather-long-name-of-a-kernel-that-is-no-digest-at-all"),
            cut("Linux 6.8.0-a-rather-long-name-of-a-kernel-that-is-no-digest-at-all")
        );
        assert_eq!(cut("6.8"), "6.8");
    }

    #[test]
    fn a_change_needs_two_sides_and_something_to_change() {
        let seconds = |value| Some(Quantity::Seconds(value));
        assert_eq!(relative(seconds(2.0), seconds(3.0)), Some(0.5));
        assert_eq!(relative(seconds(0.0), seconds(3.0)), None);
        assert_eq!(relative(None, seconds(3.0)), None);
    }
}
