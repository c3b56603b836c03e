//! What people and programs are told of a load.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use serde_json::Value;

use super::load;
use crate::model::{
    load::{
        Arrivals, ClientCost, ConnectionCounts, Disturbance, Pacing, Precision, ReceiveClock, Shape, Stage,
        Tick,
    },
    load_report::{
        AskedTrust, Bound, LatencyFigure, LoadAsked, LoadFigure, LoadMeasured, LoadReport, LoadThreshold,
        RateWindow, RequestKind, SearchOutcome, SearchReport, SustainLimits,
    },
    sample::{ErrorClass, LatencyHistogram},
    settings::ConnectionUse,
};

const MS: Duration = Duration::from_millis(1);

fn histogram(millis: impl IntoIterator<Item = u32>) -> LatencyHistogram {
    let mut histogram = LatencyHistogram::new();
    millis.into_iter().for_each(|ms| histogram.record(MS * ms));
    histogram
}

fn asked() -> LoadAsked {
    LoadAsked {
        url: "http://localhost:8080/x".to_owned(),
        peers: vec!["127.0.0.1:8080".to_owned()],
        protocol: "HTTP/1.1",
        trust: None,
        requests: vec![RequestKind { method: "GET".to_owned(), path: "/x".to_owned(), weight: 1 }],
        expected_status: None,
        pacing: Pacing::constant(1000.0),
        duration: Duration::from_secs(10),
        connections: 64,
        connection_use: ConnectionUse::KeepAlive,
        timeout: Duration::from_secs(5),
        cookies: false,
        precision: Precision::Balanced,
        receive_clock: ReceiveClock::Kernel,
        realtime: false,
        cores: vec![],
    }
}

fn measured() -> LoadMeasured {
    let mut measured = LoadMeasured {
        scheduled: Duration::from_secs(10),
        elapsed: Duration::from_secs(10),
        client: ClientCost {
            cpu: Duration::from_millis(500),
            spun: Duration::from_millis(100),
            waited_for_cpu: Some(3 * MS),
            threads: 1,
            own_lag: histogram([1]),
            ..ClientCost::default()
        },
        connections: ConnectionCounts { opened: 64, closed_idle: 1 },
        ..LoadMeasured::default()
    };
    let lane = &mut measured.lane;
    (lane.latency, lane.service_time, lane.lag) = (histogram(1..=99), histogram(1..=98), histogram([1]));
    (lane.counts.offered, lane.counts.sent, lane.counts.succeeded) = (10_000, 10_000, 10_000);
    lane.longest_gap = 12 * MS;
    measured
}

fn report() -> LoadReport {
    LoadReport { asked: asked(), measured: measured(), thresholds: vec![], search: None, interrupted: false }
}

fn failing() -> LoadReport {
    let mut report = report();
    let lane = &mut report.measured.lane;
    lane.counts.succeeded = 9_990;
    lane.counts.failed.insert(ErrorClass::Timeout, 10);
    lane.by_class.insert(ErrorClass::Timeout, histogram([5000]));
    lane.series = vec![Tick { failed: lane.counts.failed.clone(), ..Tick::default() }];
    report
}

fn threshold(figure: LoadFigure, bound: Bound, limit: f64) -> LoadThreshold {
    LoadThreshold { figure, bound, limit }
}

fn searched(outcome: SearchOutcome) -> LoadReport {
    let window = RateWindow {
        rate: 1000.0,
        p99: Some(5 * MS),
        achieved_share: Some(1.0),
        failed_share: Some(0.0),
        disturbed: false,
    };
    let limits = SustainLimits { p99: 20 * MS, failed_share: 0.0, achieved_share: 0.99 };
    let windows = vec![
        window,
        RateWindow { rate: 2000.0, p99: Some(30 * MS), ..window },
        RateWindow { rate: 1500.0, disturbed: true, ..window },
        RateWindow { rate: 1500.0, achieved_share: Some(0.5), ..window },
        RateWindow { rate: 1250.0, failed_share: None, p99: None, ..window },
    ];
    LoadReport {
        search: Some(SearchReport { limits, windows, outcome, figures_of_rate: 1000.0 }),
        ..report()
    }
}

fn disturbed() -> LoadReport {
    let mut report = failing();
    report.measured.client.disturbances = vec![
        Disturbance::Lag { p99: 3 * MS, limit: MS },
        Disturbance::Saturated { busy_share: 0.97 },
        Disturbance::Starved { waiting_share: 0.1 },
        Disturbance::BacklogFull { given_up: 7 },
    ];
    report.measured.client.receive_clock = ReceiveClock::User;
    report
}

fn table(report: &LoadReport) -> String {
    let mut out = Vec::new();
    load::table(report, &mut out, false).unwrap();
    String::from_utf8(out).unwrap()
}

fn json(report: &LoadReport) -> Value {
    let mut out = Vec::new();
    load::json(report, &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn a_load_in_a_table() {
    insta::assert_snapshot!(table(&report()), @r#"
    GET http://localhost:8080/x at 127.0.0.1:8080
    open loop for 10.00s: 1,000 requests/s, evenly spaced
    64 connections at most, kept alive, HTTP/1.1, time-out 5.00s

    requests       10,000 offered, 10,000 sent
                   10,000 succeeded, 0 failed (< 0.030% at 95%)
                   0 answered after more than 1 s
    throughput     1000.0 succeeded/s
    longest gap    12.00ms between successes
    connections    64 opened, 1 closed by the server while idle

                          p50       p90       p95       p99     p99.9       max      mean
    latency           50.00ms   90.05ms   95.03ms   99.02ms   99.02ms   99.02ms   50.00ms
    service time      49.02ms   89.06ms   94.04ms   98.04ms   98.04ms   98.04ms   49.50ms
    send lag           1.00ms    1.00ms    1.00ms    1.00ms    1.00ms    1.00ms    1.00ms
    own lag            1.00ms    1.00ms    1.00ms    1.00ms    1.00ms    1.00ms    1.00ms

    latency: from the intended send, n = 99; service time: from the actual send, n = 98
    send lag: actual less intended send; own lag: the part of it that is the client's own

    client         500.00ms CPU, 5% of a core, 20% of it spinning towards moments of requests; 50µs a request
                   waited for a core: 3.00ms; precision balanced, 1 thread
    clock          the kernel's, at an answer's last packet: the client's own wake-up is not counted
    "#);
}

#[test]
fn failures_and_thresholds_in_a_table() {
    let mut report = failing();
    report.thresholds = vec![
        threshold(LoadFigure::Latency(LatencyFigure::P99), Bound::Below, 0.2),
        threshold(LoadFigure::FailedShare, Bound::Below, 0.0005),
        threshold(LoadFigure::Failed, Bound::AtMost, 10.0),
        threshold(LoadFigure::Throughput, Bound::AtLeast, 950.0),
        threshold(LoadFigure::LongestGap, Bound::Below, 1.0),
    ];
    insta::assert_snapshot!(table(&report), @r#"
    GET http://localhost:8080/x at 127.0.0.1:8080
    open loop for 10.00s: 1,000 requests/s, evenly spaced
    64 connections at most, kept alive, HTTP/1.1, time-out 5.00s

    requests       10,000 offered, 10,000 sent
                   9,990 succeeded, 10 failed
                         10 timeout          after 5.00s (p50), 5.00s (max)
                   10 failed after one idempotent retry
                   0 answered after more than 1 s
    throughput     999.0 succeeded/s
    longest gap    12.00ms between successes
    connections    64 opened, 1 closed by the server while idle

                          p50       p90       p95       p99     p99.9       max      mean
    latency           50.00ms   90.05ms   95.03ms   99.02ms   99.02ms   99.02ms   50.00ms
    service time      49.02ms   89.06ms   94.04ms   98.04ms   98.04ms   98.04ms   49.50ms
    send lag           1.00ms    1.00ms    1.00ms    1.00ms    1.00ms    1.00ms    1.00ms
    own lag            1.00ms    1.00ms    1.00ms    1.00ms    1.00ms    1.00ms    1.00ms

    latency: from the intended send, n = 99; service time: from the actual send, n = 98
    send lag: actual less intended send; own lag: the part of it that is the client's own

    client         500.00ms CPU, 5% of a core, 20% of it spinning towards moments of requests; 50µs a request
                   waited for a core: 3.00ms; precision balanced, 1 thread
    clock          the kernel's, at an answer's last packet: the client's own wake-up is not counted

    threshold                   measured
    p99 < 200.00ms               99.02ms  holds
    errors < 0.05%                  0.1%  DOES NOT HOLD
    errors <= 10                      10  holds
    throughput >= 950/s            999/s  holds
    gap < 1.00s                  12.00ms  holds
    FAIL
    "#);
}

#[test]
fn a_search_in_a_table() {
    let found = searched(SearchOutcome::Found { rate: 1000.0, fails_at: Some(1040.0) });
    let text = table(&found);
    let head: Vec<&str> = text.lines().take_while(|line| !line.starts_with("requests  ")).collect();
    insta::assert_snapshot!(head.join("\n"), @r#"
    GET http://localhost:8080/x at 127.0.0.1:8080
    64 connections at most, kept alive, HTTP/1.1, time-out 5.00s
    search for the highest rate with p99 < 20.00ms, none failed, at least 99% answered in time; windows of 10.00s

      requests/s       p99     in time    failed
           1,000    5.00ms        100%        0%  held
           2,000   30.00ms        100%        0%  too slow
           1,500    5.00ms        100%        0%  disturbed by the client, does not count
           1,500    5.00ms         50%        0%  too few answered in time
           1,250         –        100%         –  too many failed

    1,000 requests/s are sustained, 1,040 are not
    figures below: of the last window at 1,000 requests/s
    "#);
    for (outcome, words) in [
        (SearchOutcome::NothingHolds { lowest: 1.0 }, "not even 1 requests/s are sustained"),
        (SearchOutcome::ClientLimit { at: 2000.0, held: Some(1000.0) }, "the client is the limit"),
        (SearchOutcome::Unfinished { held: None }, "no rate held"),
    ] {
        assert!(table(&searched(outcome)).contains(words), "{outcome:?}");
    }
}

#[test]
fn a_disturbed_load_says_so_before_its_figures() {
    let text = table(&disturbed());
    let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words}: {text}"));
    assert!(at("DISTURBED") < at("requests       "));
    for reason in ["p99 of its own lag", "97% of a core", "waited for a core 10.0%", "7 requests did not fit"]
    {
        assert!(at(reason) < at("requests       "), "{reason}");
    }
    assert!(text.contains("the client's own, as the kernel's was not to be had"), "{text}");
    let mut full = report();
    full.measured.client.disturbances = vec![Disturbance::BacklogFull { given_up: 7 }];
    assert!(table(&full).contains("OVERLOADED") && !table(&full).contains("DISTURBED"));
}

#[test]
fn what_was_asked_is_named_plainly() {
    let mut closed = report();
    closed.asked.pacing = Pacing::Closed { think: 100 * MS };
    let text = table(&closed);
    assert!(text.contains("closed loop: a stall thins the load; 64 clients for 10.00s"), "{text}");
    assert!(!text.contains("connections at most"), "{text}");

    let mut stages = report();
    let stage = |from, to| Stage { from, to, length: Duration::from_secs(2) };
    let shape = Shape::Stages(vec![stage(0.0, 100.0), stage(50.0, 50.0)]);
    stages.asked.pacing = Pacing::Open { shape, arrivals: Arrivals::Even };
    let text = table(&stages);
    assert!(
        text.contains(": 0 to 100 requests/s over 2.00s, then 50 requests/s for 2.00s, evenly"),
        "{text}"
    );

    let mut other = report();
    let shape = Shape::Sine { mean: 500.0, amplitude: 200.0, period: Duration::from_secs(60) };
    other.asked.pacing = Pacing::Open { shape, arrivals: Arrivals::Poisson { seed: 7 } };
    other.asked.trust = Some(AskedTrust::Anything);
    other.asked.requests.push(RequestKind { method: "POST".to_owned(), path: "/y".to_owned(), weight: 3 });
    let text = table(&other);
    assert!(text.contains("500 requests/s, 200 up and down every 60.00s"), "{text}");
    assert!(text.contains("Poisson arrivals, seed 7"), "{text}");
    assert!(text.contains("certificate NOT checked"), "{text}");
    assert!(text.contains("2 kinds of requests: GET /x, POST /y (weight 3)"), "{text}");
}

#[test]
fn a_terminal_obeys_no_url_and_colours_only_when_asked() {
    let mut report = failing();
    report.asked.url = "http://x/\u{1b}[31m".to_owned();
    report.thresholds = vec![threshold(LoadFigure::Failed, Bound::AtMost, 0.0)];
    assert!(!table(&report).contains('\u{1b}'));
    let mut coloured = Vec::new();
    load::table(&report, &mut coloured, true).unwrap();
    assert!(String::from_utf8(coloured).unwrap().contains("\u{1b}[31mFAIL\u{1b}[0m"));
}

#[test]
fn unknown_is_null_and_the_histogram_is_whole() {
    let mut report = report();
    report.measured.client.waited_for_cpu = None;
    report.measured.lane.latency = LatencyHistogram::new();
    let json = json(&report);
    assert!(json["client"]["waited_for_cpu_s"].is_null());
    assert!(json["latency_from_intended_send"]["p50_s"].is_null());
    assert!(json["verdict"].is_null() && json["search"].is_null());
    assert_eq!(json["format"], serde_json::json!({ "name": "qbench-load", "major": 2, "minor": 0 }));
    let decoded = LatencyHistogram::decode(json["service_time"]["hdr_v2_ns"].as_str().unwrap()).unwrap();
    assert_eq!(decoded, report.measured.lane.service_time);
}

/// Documents that together have every key.
fn every_kind() -> Vec<Value> {
    let mut thresholds = disturbed();
    thresholds.thresholds = vec![threshold(LoadFigure::Failed, Bound::AtMost, 0.0)];
    thresholds.asked.trust = Some(AskedTrust::File(PathBuf::from("ca.pem")));
    thresholds.asked.cores = vec![0];
    let with_shape = |shape, arrivals| {
        let mut report = report();
        report.asked.pacing = Pacing::Open { shape, arrivals };
        report
    };
    let stage = Stage { from: 1.0, to: 2.0, length: MS };
    let mut closed = report();
    closed.asked.pacing = Pacing::Closed { think: MS };
    let reports = [
        report(),
        thresholds,
        closed,
        with_shape(Shape::Stages(vec![stage]), Arrivals::Poisson { seed: 1 }),
        with_shape(Shape::Sine { mean: 1.0, amplitude: 1.0, period: MS }, Arrivals::Even),
        searched(SearchOutcome::Found { rate: 1.0, fails_at: None }),
        searched(SearchOutcome::NothingHolds { lowest: 1.0 }),
        searched(SearchOutcome::ClientLimit { at: 1.0, held: None }),
        searched(SearchOutcome::Unfinished { held: None }),
    ];
    reports.iter().map(json).collect()
}

fn collect_keys(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let of_class =
                    path == "/requests/failed" || path == "/errors_by_class" || path.ends_with("*/failed");
                let name = if of_class { "*" } else { name };
                collect_keys(value, &format!("{path}/{name}"), keys);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                collect_keys(element, &format!("{path}/*"), keys);
            }
        }
        _ => {
            keys.insert(path.to_owned());
        }
    }
}

#[test]
fn every_key_is_documented_and_every_documented_key_is_there() {
    let text = include_str!("load_json.rs");
    let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
    let header = header.join("\n");
    let documented: BTreeSet<String> = header
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned)
        .collect();
    let mut written = BTreeSet::new();
    for document in every_kind() {
        let mut keys = BTreeSet::new();
        collect_keys(&document, "", &mut keys);
        for key in keys {
            // These have the keys of another, and are documented by its name.
            let same_as = ["/service_time", "/send_lag", "/client/own_lag"].into_iter().find_map(|name| {
                key.strip_prefix(name)
                    .map(|rest| (name.to_owned(), format!("/latency_from_intended_send{rest}")))
            });
            match same_as {
                Some((name, key)) => written.extend([name, key]),
                None => drop(written.insert(key)),
            }
        }
    }
    // An object that is null in some documents and whole in others.
    for absent in ["/tls", "/search"] {
        written.remove(absent);
    }
    assert_eq!(documented, written);
}
