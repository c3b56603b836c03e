//! A load as JSON: versioned, times in seconds, what is unknown `null`.
//!
//! Every key there can be; `*` stands for an element of a list, or for the name of an error class. A test holds
//! this list against what is written.
//!
//! - `/format/name`, `/format/major`, `/format/minor`: `qbench-load`; the major is raised when a reader of the old
//!   shape could misread the new one
//!
//! What was asked:
//! - `/url`, `/peers/*`: where to, and what its host was found to be
//! - `/method`: of all requests, if it is one; `/request_kinds/*/method`, `/request_kinds/*/path`,
//!   `/request_kinds/*/weight`
//! - `/protocol`, `/tls/trust`, `/tls/file`, `/cookies`, `/expected_status`
//! - `/pacing/kind`: `open` or `closed`
//! - `/pacing/shape/kind`: `constant` with `/pacing/shape/rate_per_second`; or `stages` with
//!   `/pacing/shape/stages/*/from_per_second`, `/pacing/shape/stages/*/to_per_second` and
//!   `/pacing/shape/stages/*/length_s`; or `sine` with `/pacing/shape/mean_per_second`,
//!   `/pacing/shape/amplitude_per_second` and `/pacing/shape/period_s`
//! - `/pacing/arrivals/kind`: `even`, or `poisson` with `/pacing/arrivals/seed`
//! - `/pacing/clients`, `/pacing/think_s`: of a closed loop
//! - `/connection_use`, `/timeout_s`, `/planned_s`
//!
//! What was measured:
//! - `/scheduled_s`: how long the schedule ran; `/elapsed_s`: until the last outcome; `/interrupted`
//! - `/requests/offered`, `/requests/sent`, `/requests/succeeded`, `/requests/failed/*`,
//!   `/requests/mended_by_retry`, `/requests/over_one_second`
//! - `/failures`, `/failures_after_retry`, `/failed_share_bound_95`: when none failed, the bound of their share
//! - `/errors_by_class/*/count`, `/errors_by_class/*/time_to_failure_p50_s`,
//!   `/errors_by_class/*/time_to_failure_max_s`
//! - `/throughput_per_second`, `/longest_gap_s`
//! - `/latency_from_intended_send/count`, `/latency_from_intended_send/p50_s`, `/latency_from_intended_send/p90_s`,
//!   `/latency_from_intended_send/p95_s`, `/latency_from_intended_send/p99_s`,
//!   `/latency_from_intended_send/p99_9_s`, `/latency_from_intended_send/max_s`,
//!   `/latency_from_intended_send/mean_s`, `/latency_from_intended_send/hdr_v2_ns`; `/service_time`, `/send_lag` and
//!   `/client/own_lag` have the same keys
//! - `/connections/limit`: as asked; `/connections/opened`, `/connections/closed_idle`
//! - `/client/cpu_s`, `/client/spun_s`, `/client/cpu_us_per_request`, `/client/waited_for_cpu_s`
//! - `/client/receive_clock`, `/client/receive_clock_asked`, `/client/precision`, `/client/threads`,
//!   `/client/cores/*`, `/client/realtime`
//! - `/client/disturbed/*/kind`, `/client/disturbed/*/text`: why the figures are not the service's alone: `lag` with
//!   `/client/disturbed/*/p99_s` and `/client/disturbed/*/limit_s`, `saturated` with
//!   `/client/disturbed/*/busy_share`, `starved` with `/client/disturbed/*/waiting_share`, `backlog-full` with
//!   `/client/disturbed/*/given_up`
//! - `/series/*/start_s`, `/series/*/length_s`, `/series/*/sent`, `/series/*/succeeded`, `/series/*/failed/*`,
//!   `/series/*/p50_s`, `/series/*/p99_s`, `/series/*/max_s`
//!
//! What it is worth:
//! - `/search/limits/p99_s`, `/search/limits/failed_share`, `/search/limits/achieved_share`
//! - `/search/windows/*/rate_per_second`, `/search/windows/*/p99_s`, `/search/windows/*/achieved_share`,
//!   `/search/windows/*/failed_share`, `/search/windows/*/disturbed`, `/search/windows/*/holds`
//! - `/search/outcome/kind`: `found` with `/search/outcome/rate_per_second` and
//!   `/search/outcome/fails_at_per_second`, `nothing-holds` with `/search/outcome/lowest_per_second`,
//!   `client-limit` with `/search/outcome/at_per_second`, `unfinished`; the last two with
//!   `/search/outcome/held_once_per_second`
//! - `/search/figures_of_rate`: what was measured, above, is of the last window at this rate
//! - `/thresholds/*/name`, `/thresholds/*/bound`, `/thresholds/*/limit`, `/thresholds/*/unit`,
//!   `/thresholds/*/measured`, `/thresholds/*/holds`: `null` when it was not measured
//! - `/verdict`: `PASS`, `FAIL`, `INCONCLUSIVE`, `INVALID`; `null` when nothing was wanted; `/verdict_reasons/*`

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::load_words as say;
use crate::model::{
    load::{Arrivals, Disturbance, Pacing, Shape, Stage, Tick},
    load_report::{
        AskedTrust, LatencyFigure, LoadAsked, LoadMeasured, LoadReport, LoadThreshold, SearchOutcome,
        SearchReport,
    },
    sample::LatencyHistogram,
};

/// Raised when a reader of the old shape could misread the new one.
const MAJOR: u32 = 2;
/// Raised when something was added.
const MINOR: u32 = 0;

/// The whole document.
pub(super) fn value(report: &LoadReport) -> Value {
    let (asked, measured) = (&report.asked, &report.measured);
    let counts = &measured.lane.counts;
    json!({
        "format": { "name": "qbench-load", "major": MAJOR, "minor": MINOR },
        "url": asked.url,
        "peers": asked.peers,
        "method": the_method(asked),
        "request_kinds": kinds(asked),
        "protocol": asked.protocol,
        "tls": asked.trust.as_ref().map(trust),
        "cookies": asked.cookies,
        "expected_status": asked.expected_status,
        "pacing": pacing(asked),
        "connection_use": asked.connection_use,
        "timeout_s": asked.timeout.as_secs_f64(),
        "planned_s": asked.duration.as_secs_f64(),
        "scheduled_s": measured.scheduled.as_secs_f64(),
        "elapsed_s": measured.elapsed.as_secs_f64(),
        "interrupted": report.interrupted,
        "requests": counts,
        "failures": counts.failures(),
        "failures_after_retry": counts.failures_after_retry(),
        "failed_share_bound_95": counts.bound_of_none_failed(),
        "errors_by_class": errors_by_class(measured),
        "throughput_per_second": measured.throughput_per_second(),
        "longest_gap_s": seconds(measured.longest_gap()),
        "latency_from_intended_send": distribution(&measured.lane.latency),
        "service_time": distribution(&measured.lane.service_time),
        "send_lag": distribution(&measured.lane.lag),
        "connections": {
            "limit": asked.connections,
            "opened": measured.connections.opened,
            "closed_idle": measured.connections.closed_idle,
        },
        "client": client(asked, measured),
        "series": measured.lane.series.iter().map(tick).collect::<Vec<Value>>(),
        "search": report.search.as_ref().map(search),
        "thresholds": report.thresholds.iter().map(|t| threshold(t, measured)).collect::<Vec<Value>>(),
        "verdict": report.verdict(),
        "verdict_reasons": report.doubts().into_iter().map(say::doubt).collect::<Vec<String>>(),
    })
}

/// The one method of all requests, if it is one.
fn the_method(asked: &LoadAsked) -> Option<&str> {
    let first = asked.requests.first()?.method.as_str();
    asked.requests.iter().all(|kind| kind.method == first).then_some(first)
}

fn kinds(asked: &LoadAsked) -> Vec<Value> {
    asked
        .requests
        .iter()
        .map(|kind| json!({ "method": kind.method, "path": kind.path, "weight": kind.weight }))
        .collect()
}

fn trust(trust: &AskedTrust) -> Value {
    match trust {
        AskedTrust::System => json!({ "trust": "system" }),
        AskedTrust::File(path) => json!({ "trust": "file", "file": path.to_string_lossy() }),
        AskedTrust::Anything => json!({ "trust": "anything" }),
    }
}

fn pacing(asked: &LoadAsked) -> Value {
    match &asked.pacing {
        Pacing::Open { shape, arrivals } => {
            let arrivals = match arrivals {
                Arrivals::Even => json!({ "kind": "even" }),
                Arrivals::Poisson { seed } => json!({ "kind": "poisson", "seed": seed }),
            };
            json!({ "kind": "open", "shape": rates(shape), "arrivals": arrivals })
        }
        Pacing::Closed { think } => {
            json!({ "kind": "closed", "clients": asked.connections, "think_s": think.as_secs_f64() })
        }
    }
}

fn rates(shape: &Shape) -> Value {
    match shape {
        Shape::Stages(stages) => match stages.as_slice() {
            [only] if only.from.total_cmp(&only.to).is_eq() => {
                json!({ "kind": "constant", "rate_per_second": only.from })
            }
            stages => json!({ "kind": "stages", "stages": stages.iter().map(stage).collect::<Vec<Value>>() }),
        },
        Shape::Sine { mean, amplitude, period } => json!({
            "kind": "sine",
            "mean_per_second": mean,
            "amplitude_per_second": amplitude,
            "period_s": period.as_secs_f64(),
        }),
    }
}

fn stage(stage: &Stage) -> Value {
    json!({
        "from_per_second": stage.from,
        "to_per_second": stage.to,
        "length_s": stage.length.as_secs_f64(),
    })
}

fn errors_by_class(measured: &LoadMeasured) -> Value {
    let mut classes = Map::new();
    for (class, count) in &measured.lane.counts.failed {
        let after = measured.lane.by_class.get(class);
        let after = |figure: LatencyFigure| seconds(after.and_then(|histogram| figure.of(histogram)));
        classes.insert(
            class.name().to_owned(),
            json!({
                "count": count,
                "time_to_failure_p50_s": after(LatencyFigure::P50),
                "time_to_failure_max_s": after(LatencyFigure::Max),
            }),
        );
    }
    Value::Object(classes)
}

fn client(asked: &LoadAsked, measured: &LoadMeasured) -> Value {
    let client = &measured.client;
    json!({
        "cpu_s": client.cpu.as_secs_f64(),
        "spun_s": client.spun.as_secs_f64(),
        "cpu_us_per_request": measured.cpu_per_request().map(|time| time.as_secs_f64() * 1e6),
        "waited_for_cpu_s": seconds(client.waited_for_cpu),
        "own_lag": distribution(&client.own_lag),
        "receive_clock": client.receive_clock,
        "receive_clock_asked": asked.receive_clock,
        "precision": asked.precision,
        "threads": client.threads,
        "cores": asked.cores,
        "realtime": asked.realtime,
        "disturbed": client.disturbances.iter().map(disturbance).collect::<Vec<Value>>(),
    })
}

fn disturbance(disturbance: &Disturbance) -> Value {
    let text = disturbance.to_string();
    match disturbance {
        Disturbance::Lag { p99, limit } => json!({
            "kind": "lag", "p99_s": p99.as_secs_f64(), "limit_s": limit.as_secs_f64(), "text": text,
        }),
        Disturbance::Saturated { busy_share } => {
            json!({ "kind": "saturated", "busy_share": busy_share, "text": text })
        }
        Disturbance::Starved { waiting_share } => {
            json!({ "kind": "starved", "waiting_share": waiting_share, "text": text })
        }
        Disturbance::BacklogFull { given_up } => {
            json!({ "kind": "backlog-full", "given_up": given_up, "text": text })
        }
    }
}

fn tick(tick: &Tick) -> Value {
    let failed: Map<String, Value> =
        tick.failed.iter().map(|(class, count)| (class.name().to_owned(), json!(count))).collect();
    json!({
        "start_s": tick.start.as_secs_f64(),
        "length_s": tick.length.as_secs_f64(),
        "sent": tick.sent,
        "succeeded": tick.succeeded,
        "failed": failed,
        "p50_s": seconds(tick.p50),
        "p99_s": seconds(tick.p99),
        "max_s": seconds(tick.max),
    })
}

fn search(search: &SearchReport) -> Value {
    let windows: Vec<Value> = search
        .windows
        .iter()
        .map(|window| {
            json!({
                "rate_per_second": window.rate,
                "p99_s": seconds(window.p99),
                "achieved_share": window.achieved_share,
                "failed_share": window.failed_share,
                "disturbed": window.disturbed,
                "holds": (!window.disturbed).then(|| search.limits.shortfall(window).is_none()),
            })
        })
        .collect();
    json!({
        "limits": {
            "p99_s": search.limits.p99.as_secs_f64(),
            "failed_share": search.limits.failed_share,
            "achieved_share": search.limits.achieved_share,
        },
        "windows": windows,
        "outcome": outcome(&search.outcome),
        "figures_of_rate": search.figures_of_rate,
    })
}

fn outcome(outcome: &SearchOutcome) -> Value {
    match outcome {
        SearchOutcome::Found { rate, fails_at } => {
            json!({ "kind": "found", "rate_per_second": rate, "fails_at_per_second": fails_at })
        }
        SearchOutcome::NothingHolds { lowest } => {
            json!({ "kind": "nothing-holds", "lowest_per_second": lowest })
        }
        SearchOutcome::ClientLimit { at, held } => {
            json!({ "kind": "client-limit", "at_per_second": at, "held_once_per_second": held })
        }
        SearchOutcome::Unfinished { held } => {
            json!({ "kind": "unfinished", "held_once_per_second": held })
        }
    }
}

fn threshold(threshold: &LoadThreshold, measured: &LoadMeasured) -> Value {
    json!({
        "name": say::figure(threshold.figure),
        "bound": threshold.bound.sign(),
        "limit": threshold.limit,
        "unit": say::unit(threshold.figure),
        "measured": threshold.measured(measured),
        "holds": threshold.holds(measured),
    })
}

fn distribution(histogram: &LatencyHistogram) -> Value {
    let mut object = Map::new();
    object.insert("count".to_owned(), json!(histogram.count()));
    for figure in LatencyFigure::ALL {
        // A dot in a key is a nuisance to every query language: p99_9_s.
        object.insert(format!("{}_s", figure.name().replace('.', "_")), json!(seconds(figure.of(histogram))));
    }
    object.insert("hdr_v2_ns".to_owned(), json!(histogram.encode()));
    Value::Object(object)
}

fn seconds(figure: Option<Duration>) -> Option<f64> {
    figure.map(|figure| figure.as_secs_f64())
}
