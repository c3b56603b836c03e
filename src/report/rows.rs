//! The cells of every table, the same in all formats that people read.

use super::{
    ParityRow,
    words::{self, NOTHING, plain},
};
use crate::model::{
    measurement::Usage,
    record::{ArmEpoch, ArmRole, Record},
    sample::RequestCounts,
    scenario::{Expectation, Figure},
    target::RuntimeIdentity,
    units::Bytes,
    verdict::{Basis, Comparison, EpochCount, Evidence, MetricVerdict, Quantity, Verdict},
};

/// Lines before a comparison's table: what really ran, on what, when.
pub(super) fn comparison_heading(comparison: &Comparison) -> Vec<(&'static str, String)> {
    let (baseline, candidate) = &comparison.sessions;
    let sessions = if baseline == candidate {
        format!("{} (both)", baseline.join(", "))
    } else {
        format!("{} (baseline), {} (candidate)", baseline.join(", "), candidate.join(", "))
    };
    let EpochCount { measured, dropped } = comparison.epochs;
    let epochs = match (measured, dropped) {
        (0, _) => NOTHING.to_owned(),
        (measured, 0) => measured.to_string(),
        (measured, dropped) => format!("{measured}, of which {dropped} dropped as disturbed"),
    };
    vec![
        ("baseline", plain(&comparison.baseline.describe())),
        ("candidate", plain(&comparison.candidate.describe())),
        ("workload", plain(&comparison.workload)),
        ("sessions", plain(&sessions)),
        ("epochs", epochs),
    ]
}

/// The header of a comparison's table; it carries the grade, since the rows' verdicts do not.
pub(super) fn comparison_header(comparison: &Comparison) -> Vec<String> {
    let verdict = format!("verdict ({})", grade(comparison));
    ["metric", "baseline", "candidate", "change [95% interval]", "limit", "n", &verdict]
        .map(str::to_owned)
        .into()
}

/// The cells of one metric; the last is its verdict.
pub(super) fn metric(metric: &MetricVerdict) -> Vec<String> {
    let mut title = metric.metric.title().to_owned();
    if !metric.critical {
        title.push_str(" (advisory)");
    }
    let baseline = words::quantity(metric.baseline.as_ref());
    let mut candidate = words::quantity(metric.candidate.as_ref());
    let (change, limit, n) = match &metric.evidence {
        Evidence::Change { estimate, low, high, n, limit, basis, .. } => {
            let [estimate, low, high] = words::changes(metric.metric, [*estimate, *low, *high]);
            let sign = if metric.metric.more_is_better() { ">" } else { "<" };
            (
                format!("{estimate} [{low}, {high}]"),
                format!("{sign} {}", words::limit(metric.metric, *limit)),
                count_of(*n, basis),
            )
        }
        Evidence::Rate { events, trials, upper_bound, confidence, limit } => {
            candidate = words::rate(*events, *trials, *upper_bound, *confidence);
            (NOTHING.to_owned(), format!("≤ {}", words::count(*limit)), words::count(*trials))
        }
        Evidence::Largest { n, limit_s, .. } => {
            (NOTHING.to_owned(), format!("≤ {}", words::seconds(*limit_s)), words::count(*n))
        }
        Evidence::Missing { .. } => ("missing".to_owned(), NOTHING.to_owned(), NOTHING.to_owned()),
    };
    vec![title, baseline, candidate, change, limit, n, metric.verdict.word().to_owned()]
}

/// Epochs, windows or, of stored records, the epochs and sessions of each side.
fn count_of(n: (u32, u32), basis: &Basis) -> String {
    match basis {
        Basis::Sequential { .. } => n.0.to_string(),
        Basis::Soak { windows, .. } => format!("{windows} windows"),
        Basis::Stored { sessions, .. } => {
            format!("{} and {} in {} and {} sessions", n.0, n.1, sessions.0, sessions.1)
        }
    }
}

/// The verdict with the grade of its evidence.
pub(super) fn overall(comparison: &Comparison) -> String {
    format!("{} ({})", comparison.verdict, grade(comparison))
}

fn grade(comparison: &Comparison) -> String {
    comparison.grade.map_or_else(|| "no grade".to_owned(), |grade| grade.to_string())
}

/// What there is to say after a comparison's table: its reasons, then the metrics' notes.
pub(super) fn remarks(comparison: &Comparison) -> Vec<String> {
    let notes = comparison.metrics.iter().flat_map(|metric| {
        // The reasons tell of critical metrics without data already.
        let missing = match &metric.evidence {
            Evidence::Missing { reason } if !metric.critical => Some(reason),
            _ => None,
        };
        let said = metric.note.iter().chain(missing);
        said.map(|note| plain(&format!("{}: {note}", metric.metric.title()))).collect::<Vec<_>>()
    });
    comparison.reasons.iter().map(|reason| plain(reason)).chain(notes).collect()
}

/// The header of the parity table.
pub(super) const PARITY_HEADER: [&str; 8] =
    ["scenario", "target", "figure", "median", "worst", "expected", "runs", "verdict"];

/// The cells of one scenario on one target, each a list of lines; the last is the verdict.
pub(super) fn parity(row: &ParityRow) -> Vec<Vec<String>> {
    let one = |text: String| vec![text];
    let figures = row.figures();
    let value = |figure, value: Option<f64>| {
        value.map_or_else(|| "missing".to_owned(), |value| words::figure(figure, value))
    };
    let expected = |expected: &Option<(_, bool)>| match expected {
        Some((expectation, met)) => bounds(expectation) + if *met { " met" } else { " NOT MET" },
        None => NOTHING.to_owned(),
    };
    // Values are printed with their unit, so a name need not end in it.
    let name = |figure: Figure| figure.name().trim_end_matches("_seconds").replace('_', " ");
    let mut names: Vec<String> = figures.iter().map(|s| name(s.figure)).collect();
    if figures.is_empty() {
        names.push(plain(row.reason().unwrap_or(NOTHING)));
    }
    let mut worst: Vec<String> = figures.iter().map(|s| value(s.figure, s.worst)).collect();
    if let Some(bound) = row.error_rate_bound {
        names.push("error rate, all runs".to_owned());
        worst.push(format!("< {} at 95%", words::bound(bound)));
    }
    if let (Some((events, runs)), Some(bound)) = (row.outcome.runs_with_errors(), row.run_error_rate_bound) {
        names.push("runs with errors".to_owned());
        worst.push(words::rate(events, runs, bound, 0.95));
    }
    vec![
        one(plain(&row.scenario)),
        one(plain(&target(&row.target))),
        names,
        figures.iter().map(|s| value(s.figure, s.median)).collect(),
        worst,
        figures.iter().map(|s| expected(&s.expected)).collect(),
        one(row.runs().len().to_string()),
        one(row.verdict().to_string()),
    ]
}

/// The target's name; where another runtime stood in, that one's as well.
fn target(identity: &RuntimeIdentity) -> String {
    match &identity.stands_in_for {
        Some(_) => format!("{} ({} standing in)", identity.target, identity.runtime),
        None => identity.target.clone(),
    }
}

fn bounds(expectation: &Expectation) -> String {
    let value = |value| words::figure(expectation.figure, value);
    match (expectation.at_least, expectation.at_most) {
        (Some(low), Some(high)) if low.total_cmp(&high).is_eq() => format!("= {}", value(low)),
        (Some(low), Some(high)) => format!("{} to {}", value(low), value(high)),
        (Some(low), None) => format!("≥ {}", value(low)),
        (None, Some(high)) => format!("≤ {}", value(high)),
        (None, None) => "anything".to_owned(),
    }
}

/// Each target that ran, once, in the order of the rows.
pub(super) fn identities(rows: &[ParityRow]) -> Vec<String> {
    let mut seen: Vec<&RuntimeIdentity> = Vec::new();
    for row in rows {
        if !seen.contains(&&row.target) {
            seen.push(&row.target);
        }
    }
    seen.into_iter().map(|identity| plain(&identity.describe())).collect()
}

/// Lines before a record's table.
pub(super) fn record_heading(record: &Record) -> Vec<(&'static str, String)> {
    let session = &record.session;
    let cut = if session.is_complete() { "" } else { ", cut short" };
    let mut lines = vec![("target", plain(&record.target.describe()))];
    if let Some(control) = record.arms.get(&ArmRole::Control) {
        lines.push(("control", plain(&control.describe())));
    }
    lines.push(("workload", plain(&record.workload.name)));
    lines.push(("session", plain(&format!("{}, {} epochs{cut}", session.id, record.epochs.len()))));
    lines
}

/// A record's table: a column per arm, a line per figure; medians over the epochs, requests in total.
pub(super) fn record(record: &Record) -> (Vec<String>, Vec<Vec<String>>) {
    let roles: Vec<ArmRole> = record.arms.keys().copied().collect();
    let mut header = vec!["median over epochs".to_owned()];
    header.extend(roles.iter().map(|role| title(*role).to_owned()));
    let line = |name: &str, cell: &dyn Fn(&[&ArmEpoch]) -> String| {
        let mut cells = vec![name.to_owned()];
        for role in &roles {
            let arms: Vec<&ArmEpoch> =
                record.epochs.iter().filter_map(|epoch| epoch.arms.get(role)).collect();
            cells.push(cell(&arms));
        }
        cells
    };
    let seconds = |of: fn(&ArmEpoch) -> Option<f64>| {
        move |arms: &[&ArmEpoch]| {
            words::median(arms.iter().filter_map(|arm| of(arm)))
                .map_or_else(|| NOTHING.to_owned(), words::seconds)
        }
    };
    let bytes = |of: fn(&ArmEpoch) -> Option<Bytes>| {
        move |arms: &[&ArmEpoch]| {
            let values = arms.iter().filter_map(|arm| Some(of(arm)?.0 as f64));
            words::quantity(words::median(values).map(Quantity::Bytes).as_ref())
        }
    };
    let cpu = |of: fn(&ArmEpoch) -> Usage| {
        move |arms: &[&ArmEpoch]| {
            let per_thousand = |arm: &&ArmEpoch| {
                let completed = arm.requests.completed() as f64;
                Some(of(arm).cpu?.as_secs_f64() * 1e6 / completed).filter(|_| completed > 0.0)
            };
            let median = words::median(arms.iter().filter_map(per_thousand));
            words::quantity(median.map(Quantity::CpuMs).as_ref())
        }
    };
    let failed = |arms: &[&ArmEpoch]| {
        let total = |of: fn(&ArmEpoch) -> u64| arms.iter().map(|arm| of(arm)).fold(0, u64::saturating_add);
        let (failures, completed) =
            (total(|arm| arm.requests.failures()), total(|arm| arm.requests.completed()));
        let bound =
            RequestCounts { succeeded: completed - failures.min(completed), ..RequestCounts::default() };
        let bound = if failures == 0 { bound.bound_of_none_failed() } else { None };
        let bound = bound.map(|bound| format!(" (< {} at 95%)", words::bound(bound))).unwrap_or_default();
        format!("{} of {}{bound}", words::count(failures), words::count(completed))
    };
    let lines = vec![
        line("start to ready", &seconds(|arm| Some(arm.start_to_ready_s))),
        line("p50 latency", &seconds(|arm| arm.latency.p50_s)),
        line("mean latency", &seconds(|arm| arm.latency.mean_s)),
        line("p95 latency", &seconds(|arm| arm.latency.p95_s)),
        line("p99 latency", &seconds(|arm| arm.latency.p99_s)),
        line("max latency", &seconds(|arm| arm.latency.max_s)),
        line("memory (anonymous)", &bytes(|arm| arm.service.memory.map(|memory| memory.anonymous))),
        line("memory (PSS)", &bytes(|arm| arm.service.memory.map(|memory| memory.pss))),
        line("memory (RSS)", &bytes(|arm| arm.service.memory.map(|memory| memory.rss))),
        line("CPU per 1,000 requests", &cpu(|arm| arm.service)),
        line("runtime, fixed: memory (anonymous)", &bytes(|arm| anonymous(arm.overhead_fixed))),
        line("runtime, fixed: CPU per 1,000", &cpu(|arm| arm.overhead_fixed)),
        line("runtime, instances: memory (anonymous)", &bytes(|arm| anonymous(arm.overhead_per_instance))),
        line("runtime, instances: CPU per 1,000", &cpu(|arm| arm.overhead_per_instance)),
        line("failed requests, in total", &failed),
    ];
    (header, lines)
}

/// Of a part of the runtime; nothing where the runtime has no such part.
fn anonymous(usage: Usage) -> Option<Bytes> {
    usage.memory.filter(|_| usage.processes > 0).map(|memory| memory.anonymous)
}

fn title(role: ArmRole) -> &'static str {
    match role {
        ArmRole::Target => "target",
        ArmRole::TargetAgain => "target again",
        ArmRole::Control => "control",
        ArmRole::ControlAgain => "control again",
    }
}

/// Whether a verdict is good, bad or neither, for its colour.
pub(super) fn mood(word: &str) -> Mood {
    if word == Verdict::Pass.word() {
        Mood::Good
    } else if word == Verdict::Fail.word() || word == "BROKEN" || word == Verdict::Invalid.word() {
        Mood::Bad
    } else {
        Mood::Open
    }
}

/// See [`mood`].
#[derive(Clone, Copy)]
pub(super) enum Mood {
    Good,
    Bad,
    Open,
}
