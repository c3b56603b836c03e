//! What a load was asked and what was wanted of it, in words.

use std::time::Duration;

use super::words::{NOTHING, count, plain};
use crate::model::{
    load::{Arrivals, ClientCost, Pacing, ReceiveClock, Shape, Stage},
    load_report::{
        AskedTrust, Doubt, LoadAsked, LoadFigure, LoadThreshold, RateWindow, RequestKind, SearchOutcome,
        Shortfall, SustainLimits,
    },
    settings::ConnectionUse,
    units::format_duration,
};

/// As many kinds of requests are named; of more, the number is.
const KINDS_NAMED: usize = 3;
/// As many stages of a rate are written out.
const STAGES_NAMED: usize = 4;

/// What is sent, and where to.
pub(super) fn target(asked: &LoadAsked) -> String {
    let url = plain(&asked.url);
    let sent = match asked.requests.as_slice() {
        [only] => format!("{} {url}", plain(&only.method)),
        kinds => format!("{url}, {} kinds of requests: {}", kinds.len(), named(kinds)),
    };
    format!("{sent} at {}", plain(&asked.peers.join(", ")))
}

fn named(kinds: &[RequestKind]) -> String {
    let one = |kind: &RequestKind| {
        let weight = if kind.weight == 1 { String::new() } else { format!(" (weight {})", kind.weight) };
        plain(&format!("{} {}{weight}", kind.method, kind.path))
    };
    let mut names: Vec<String> = kinds.iter().take(KINDS_NAMED).map(one).collect();
    if kinds.len() > KINDS_NAMED {
        names.push("…".to_owned());
    }
    names.join(", ")
}

/// When requests are sent, for how long.
pub(super) fn pacing(asked: &LoadAsked) -> String {
    let length = format_duration(asked.duration);
    match &asked.pacing {
        Pacing::Open { shape, arrivals } => {
            let arrivals = match arrivals {
                Arrivals::Even => "evenly spaced".to_owned(),
                Arrivals::Poisson { seed } => format!("Poisson arrivals, seed {seed}"),
            };
            format!("open loop for {length}: {}, {arrivals}", rates(shape))
        }
        Pacing::Closed { think } => {
            let think = if think.is_zero() {
                "without a pause".to_owned()
            } else {
                format!("thinking for {} in between", format_duration(*think))
            };
            format!(
                "closed loop: a stall thins the load; {} clients for {length}, {think}",
                count(asked.connections.into())
            )
        }
    }
}

fn rates(shape: &Shape) -> String {
    match shape {
        Shape::Stages(stages) => {
            let is_only = stages.len() == 1;
            let mut parts: Vec<String> =
                stages.iter().take(STAGES_NAMED).map(|stage| rate_of(stage, is_only)).collect();
            if stages.len() > STAGES_NAMED {
                parts.push(format!("… ({} stages)", stages.len()));
            }
            parts.join(", then ")
        }
        Shape::Sine { mean, amplitude, period } => format!(
            "{} requests/s, {} up and down every {}",
            rate(*mean),
            rate(*amplitude),
            format_duration(*period)
        ),
    }
}

fn rate_of(stage: &Stage, is_only: bool) -> String {
    let length = format_duration(stage.length);
    if stage.from.total_cmp(&stage.to).is_ne() {
        format!("{} to {} requests/s over {length}", rate(stage.from), rate(stage.to))
    } else if is_only {
        format!("{} requests/s", rate(stage.from))
    } else {
        format!("{} requests/s for {length}", rate(stage.from))
    }
}

/// A rate with no more digits than it has, and whole from 100 on.
pub(super) fn rate(per_second: f64) -> String {
    let is_whole = per_second.fract().abs() < 1e-9;
    if (is_whole && per_second >= 0.0) || per_second >= 100.0 {
        count(per_second.round() as u64)
    } else {
        format!("{per_second:.1}")
    }
}

/// How requests are sent.
pub(super) fn transport(asked: &LoadAsked) -> String {
    let is_closed = matches!(asked.pacing, Pacing::Closed { .. });
    let mut parts = Vec::new();
    if !is_closed {
        parts.push(format!("{} connections at most", count(asked.connections.into())));
    }
    parts.push(match asked.connection_use {
        ConnectionUse::KeepAlive => "kept alive".to_owned(),
        ConnectionUse::PerRequest => "one a request".to_owned(),
    });
    parts.push(asked.protocol.to_owned());
    match &asked.trust {
        None => {}
        Some(AskedTrust::System) => parts.push("TLS, the system's roots".to_owned()),
        Some(AskedTrust::File(path)) => {
            parts.push(format!("TLS, roots of {}", plain(&path.to_string_lossy())));
        }
        Some(AskedTrust::Anything) => parts.push("TLS, certificate NOT checked (--insecure)".to_owned()),
    }
    if asked.cookies {
        parts.push("cookies kept".to_owned());
    }
    if let Some(expected) = &asked.expected_status {
        parts.push(format!("success is status {}", plain(expected)));
    }
    parts.push(format!("time-out {}", format_duration(asked.timeout)));
    parts.join(", ")
}

/// Which clock the figures are from.
pub(super) fn clock(asked: &LoadAsked, client: &ClientCost) -> String {
    match (client.receive_clock, asked.receive_clock) {
        (ReceiveClock::Kernel, _) => {
            "the kernel's, at an answer's last packet: the client's own wake-up is not counted".to_owned()
        }
        (ReceiveClock::User, ReceiveClock::User) => {
            "the client's own, after it had read an answer: its own wake-up is counted".to_owned()
        }
        (ReceiveClock::User, ReceiveClock::Kernel) => {
            "the client's own, as the kernel's was not to be had for all answers: its own wake-up is counted"
                .to_owned()
        }
    }
}

/// What the load took of the machine.
pub(super) fn client(
    asked: &LoadAsked,
    client: &ClientCost,
    elapsed: Duration,
    per_request: Option<Duration>,
) -> Vec<String> {
    let (cpu, spun) = (client.cpu.as_secs_f64(), client.spun.as_secs_f64());
    let share = |part: f64, whole: f64| {
        if whole > 0.0 { format!("{:.0}%", part / whole * 100.0) } else { NOTHING.to_owned() }
    };
    let per_request = per_request.map_or_else(|| NOTHING.to_owned(), format_duration);
    let waited = client.waited_for_cpu.map_or_else(|| "unknown".to_owned(), format_duration);
    let threads = if client.threads == 1 { "thread" } else { "threads" };
    let mut pinned = String::new();
    if !asked.cores.is_empty() {
        let cores: Vec<String> = asked.cores.iter().map(usize::to_string).collect();
        pinned = format!(", kept to core {}", cores.join(", "));
    }
    if asked.realtime {
        pinned.push_str(", real-time priority");
    }
    vec![
        format!(
            "{} CPU, {} of a core, {} of it spinning towards moments of requests; {per_request} a request",
            format_duration(client.cpu),
            share(cpu, elapsed.as_secs_f64()),
            share(spun, cpu),
        ),
        format!(
            "waited for a core: {waited}; precision {}, {} {threads}{pinned}",
            asked.precision, client.threads
        ),
    ]
}

/// A figure's name, as a threshold writes it.
pub(super) fn figure(figure: LoadFigure) -> &'static str {
    match figure {
        LoadFigure::Latency(latency) => latency.name(),
        LoadFigure::FailedShare | LoadFigure::Failed => "errors",
        LoadFigure::Throughput => "throughput",
        LoadFigure::LongestGap => "gap",
    }
}

/// The unit of a figure's numbers.
pub(super) fn unit(figure: LoadFigure) -> &'static str {
    match figure {
        LoadFigure::Latency(_) | LoadFigure::LongestGap => "s",
        LoadFigure::FailedShare => "share",
        LoadFigure::Failed => "requests",
        LoadFigure::Throughput => "per second",
    }
}

/// A number of a figure, for people.
pub(super) fn value(figure: LoadFigure, value: f64) -> String {
    match figure {
        LoadFigure::Latency(_) | LoadFigure::LongestGap => super::words::seconds(value),
        LoadFigure::FailedShare => percent(value),
        LoadFigure::Failed => count(value as u64),
        LoadFigure::Throughput if value.fract() == 0.0 => format!("{}/s", rate(value)),
        LoadFigure::Throughput => format!("{value:.1}/s"),
    }
}

/// A share in percent with as many digits as it needs to be seen. One that is not all is not rounded up to all.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent >= 0.1 { 100.0 } else { 10_000.0 };
    let rounded = (percent * digits).round() / digits;
    let rounded = if share < 1.0 { rounded.min(99.99) } else { rounded };
    format!("{rounded}%")
}

/// A threshold, as written.
pub(super) fn threshold(threshold: &LoadThreshold) -> String {
    format!(
        "{} {} {}",
        figure(threshold.figure),
        threshold.bound.sign(),
        value(threshold.figure, threshold.limit)
    )
}

/// Why a verdict is not PASS, with what can be done.
pub(super) fn doubt(doubt: Doubt) -> String {
    match doubt {
        Doubt::Disturbed => "the load's own machine was in the way, see above".to_owned(),
        Doubt::NotMeasured => "something was not measured, and what was not measured never passes".to_owned(),
        Doubt::Interrupted => "it was ended early".to_owned(),
        Doubt::Unanswered(number) => {
            format!("{} requests were due and have no outcome", count(number))
        }
        Doubt::FailuresWithoutLimit(number) => format!(
            "{} failed, and latencies are only of those that did not; say how many may fail, for example --threshold 'errors<0.1%'",
            count(number)
        ),
    }
}

/// What a window of a search must hold.
pub(super) fn limits(limits: &SustainLimits) -> String {
    let failed = if limits.failed_share > 0.0 {
        format!("at most {} failed", percent(limits.failed_share))
    } else {
        "none failed".to_owned()
    };
    format!(
        "p99 < {}, {failed}, at least {} answered in time",
        format_duration(limits.p99),
        percent(limits.achieved_share)
    )
}

/// How a window of a search went.
pub(super) fn window(window: &RateWindow, limits: &SustainLimits) -> &'static str {
    if window.disturbed {
        return "disturbed by the client, does not count";
    }
    match limits.shortfall(window) {
        None => "held",
        Some(Shortfall::Latency) => "too slow",
        Some(Shortfall::Failed) => "too many failed",
        Some(Shortfall::Achieved) => "too few answered in time",
    }
}

/// What came of a search.
pub(super) fn outcome(outcome: &SearchOutcome) -> String {
    let held = |held: Option<f64>| match held {
        Some(held) => format!("; {} requests/s held in one window, which was not confirmed", rate(held)),
        None => "; no rate held".to_owned(),
    };
    match *outcome {
        SearchOutcome::Found { rate: found, fails_at: Some(fails_at) } => {
            format!("{} requests/s are sustained, {} are not", rate(found), rate(fails_at))
        }
        SearchOutcome::Found { rate: found, fails_at: None } => {
            format!("{} requests/s are sustained, and more was not tried", rate(found))
        }
        SearchOutcome::NothingHolds { lowest } => {
            format!("not even {} requests/s are sustained", rate(lowest))
        }
        SearchOutcome::ClientLimit { at, held: last } => format!(
            "the client is the limit, not the service: it could not send {} requests/s undisturbed{}",
            rate(at),
            held(last)
        ),
        SearchOutcome::Unfinished { held: last } => {
            format!("the search ended before a rate was confirmed{}", held(last))
        }
    }
}
