//! A load's figures: [`table`] for people, [`json`] for programs.
//!
//! What is printed first is what was asked and, when the load's own machine was in the way, that and how.

use std::{io, time::Duration};

use super::{
    load_json, load_words as say,
    words::{NOTHING, count},
};
use crate::model::{
    load_report::{LatencyFigure, LoadFigure, LoadMeasured, LoadReport, LoadThreshold, SearchReport},
    sample::LatencyHistogram,
    units::format_duration,
    verdict::Verdict,
};

/// Writes a load for programs.
///
/// # Errors
/// When the stream cannot be written to.
pub fn json(report: &LoadReport, out: &mut dyn io::Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &load_json::value(report))?;
    writeln!(out)
}

/// Writes a load for people.
///
/// # Errors
/// When the stream cannot be written to.
pub fn table(report: &LoadReport, out: &mut dyn io::Write, colour: bool) -> io::Result<()> {
    heading(report, out)?;
    if let Some(search) = &report.search {
        windows(search, report.asked.duration, out, colour)?;
    }
    disturbances(&report.measured, out, colour)?;
    writeln!(out)?;
    requests(&report.measured, out)?;
    distributions(&report.measured, out)?;
    writeln!(out)?;
    let measured = &report.measured;
    let cost = say::client(&report.asked, &measured.client, measured.elapsed, measured.cpu_per_request());
    named("client", &cost, out)?;
    named("clock", &[say::clock(&report.asked, &measured.client)], out)?;
    if !report.thresholds.is_empty() {
        thresholds(report, out, colour)?;
    }
    Ok(())
}

fn heading(report: &LoadReport, out: &mut dyn io::Write) -> io::Result<()> {
    let asked = &report.asked;
    writeln!(out, "{}", say::target(asked))?;
    if report.search.is_none() {
        writeln!(out, "{}", say::pacing(asked))?;
    }
    writeln!(out, "{}", say::transport(asked))?;
    if report.interrupted && report.search.is_some() {
        writeln!(out, "stopped early: the search was not over")?;
    } else if report.interrupted {
        let ran = format_duration(report.measured.scheduled);
        let asked = format_duration(asked.duration);
        writeln!(out, "stopped early: {asked} were asked for, the schedule ran for {ran}")?;
    }
    Ok(())
}

fn windows(search: &SearchReport, length: Duration, out: &mut dyn io::Write, colour: bool) -> io::Result<()> {
    let (limits, length) = (say::limits(&search.limits), format_duration(length));
    writeln!(out, "search for the highest rate with {limits}; windows of {length}\n")?;
    writeln!(out, "{:>12}{:>10}{:>12}{:>10}", "requests/s", "p99", "in time", "failed")?;
    let share = |share: Option<f64>| share.map_or_else(|| NOTHING.to_owned(), say::percent);
    for window in &search.windows {
        writeln!(
            out,
            "{:>12}{:>10}{:>12}{:>10}  {}",
            say::rate(window.rate),
            time(window.p99),
            share(window.achieved_share),
            share(window.failed_share),
            say::window(window, &search.limits)
        )?;
    }
    let verdict = search.outcome.verdict();
    writeln!(out, "\n{}", painted(&say::outcome(&search.outcome), verdict, colour))?;
    writeln!(out, "figures below: of the last window at {} requests/s", say::rate(search.figures_of_rate))
}

fn disturbances(measured: &LoadMeasured, out: &mut dyn io::Write, colour: bool) -> io::Result<()> {
    let reasons = &measured.client.disturbances;
    if reasons.is_empty() {
        return Ok(());
    }
    let line = if measured.is_disturbed() {
        "DISTURBED: the load's own machine was in the way, so the figures are not the service's alone"
    } else {
        "OVERLOADED: answers did not keep up"
    };
    writeln!(out, "\n{}", painted(line, Verdict::Invalid, colour))?;
    reasons.iter().try_for_each(|reason| writeln!(out, "  - {reason}"))
}

fn requests(measured: &LoadMeasured, out: &mut dyn io::Write) -> io::Result<()> {
    let counts = &measured.lane.counts;
    let mut lines = vec![format!("{} offered, {} sent", count(counts.offered), count(counts.sent))];
    let unsent = counts.offered.saturating_sub(counts.sent);
    if unsent > 0 {
        lines.push(format!("{} given up waiting for a connection", count(unsent)));
    }
    let bound = counts.bound_of_none_failed();
    let bound = bound.map(|bound| format!(" (< {} at 95%)", super::words::bound(bound))).unwrap_or_default();
    lines.push(format!("{} succeeded, {} failed{bound}", count(counts.succeeded), count(counts.failures())));
    for (class, number) in &counts.failed {
        let after = measured.lane.by_class.get(class);
        let after = |figure: LatencyFigure| time(after.and_then(|histogram| figure.of(histogram)));
        lines.push(format!(
            "{:>8} {class:<16} after {} (p50), {} (max)",
            count(*number),
            after(LatencyFigure::P50),
            after(LatencyFigure::Max)
        ));
    }
    if counts.failures() > 0 {
        lines.push(format!("{} failed after one idempotent retry", count(counts.failures_after_retry())));
    }
    lines.push(format!("{} answered after more than 1 s", count(counts.over_one_second)));
    named("requests", &lines, out)?;
    let throughput = measured.throughput_per_second();
    let throughput = throughput.map_or_else(|| NOTHING.to_owned(), |rate| format!("{rate:.1}"));
    named("throughput", &[format!("{throughput} succeeded/s")], out)?;
    named("longest gap", &[format!("{} between successes", time(measured.longest_gap()))], out)?;
    let connections = measured.connections;
    let line = format!(
        "{} opened, {} closed by the server while idle",
        count(connections.opened),
        count(connections.closed_idle)
    );
    named("connections", &[line], out)
}

fn distributions(measured: &LoadMeasured, out: &mut dyn io::Write) -> io::Result<()> {
    write!(out, "\n{:<15}", "")?;
    for figure in LatencyFigure::ALL {
        write!(out, "{:>10}", figure.name())?;
    }
    writeln!(out)?;
    row("latency", &measured.lane.latency, out)?;
    row("service time", &measured.lane.service_time, out)?;
    row("send lag", &measured.lane.lag, out)?;
    row("own lag", &measured.client.own_lag, out)?;
    writeln!(
        out,
        "\nlatency: from the intended send, n = {}; service time: from the actual send, n = {}",
        count(measured.lane.latency.count()),
        count(measured.lane.service_time.count())
    )?;
    writeln!(out, "send lag: actual less intended send; own lag: the part of it that is the client's own")
}

fn row(name: &str, histogram: &LatencyHistogram, out: &mut dyn io::Write) -> io::Result<()> {
    write!(out, "{name:<15}")?;
    for figure in LatencyFigure::ALL {
        write!(out, "{:>10}", time(figure.of(histogram)))?;
    }
    writeln!(out)
}

fn thresholds(report: &LoadReport, out: &mut dyn io::Write, colour: bool) -> io::Result<()> {
    writeln!(out, "\n{:<24}{:>12}", "threshold", "measured")?;
    for threshold in &report.thresholds {
        let (holds, verdict) = match threshold.holds(&report.measured) {
            Some(true) => ("holds", Verdict::Pass),
            Some(false) => ("DOES NOT HOLD", Verdict::Fail),
            None => ("NOT MEASURED", Verdict::Inconclusive),
        };
        let line = format!(
            "{:<24}{:>12}  {holds}{}",
            say::threshold(threshold),
            measured_of(threshold, &report.measured),
            bound_of(threshold, &report.measured)
        );
        writeln!(out, "{}", painted(&line, verdict, colour))?;
    }
    if let Some(verdict) = report.verdict() {
        writeln!(out, "{}", painted(verdict.word(), verdict, colour))?;
    }
    report.doubts().into_iter().try_for_each(|doubt| writeln!(out, "  - {}", say::doubt(doubt)))
}

fn measured_of(threshold: &LoadThreshold, measured: &LoadMeasured) -> String {
    let measured = threshold.measured(measured);
    measured.map_or_else(|| NOTHING.to_owned(), |measured| say::value(threshold.figure, measured))
}

/// Where none failed, how many may yet have been going to.
fn bound_of(threshold: &LoadThreshold, measured: &LoadMeasured) -> String {
    let counts = &measured.lane.counts;
    match (threshold.figure, counts.bound_of_none_failed()) {
        (LoadFigure::Failed | LoadFigure::FailedShare, Some(bound)) => {
            format!(" (none of {}, < {} at 95%)", count(counts.completed()), super::words::bound(bound))
        }
        _ => String::new(),
    }
}

/// Lines under one name.
fn named(name: &str, lines: &[String], out: &mut dyn io::Write) -> io::Result<()> {
    for (at, line) in lines.iter().enumerate() {
        writeln!(out, "{:<15}{line}", if at == 0 { name } else { "" })?;
    }
    Ok(())
}

fn time(figure: Option<Duration>) -> String {
    figure.map_or_else(|| NOTHING.to_owned(), format_duration)
}

/// A line in the colour of its verdict (ECMA-48, SGR 32, 31 and 33).
fn painted(line: &str, verdict: Verdict, colour: bool) -> String {
    if !colour {
        return line.to_owned();
    }
    let code = match verdict {
        Verdict::Pass => 32,
        Verdict::Fail => 31,
        Verdict::Inconclusive | Verdict::Invalid | Verdict::Incomparable => 33,
    };
    format!("\u{1b}[{code}m{line}\u{1b}[0m")
}
