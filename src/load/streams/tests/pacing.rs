//! When requests go out, and when it ends.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{RwLock, watch};

use super::{
    failed, kinds, lane, measure, plan, request,
    server::{Kind, Server, ok},
    ten, willing,
};
use crate::{
    load::{Plan, Protocol, Tuning, run, spawn},
    model::{
        load::{Pacing, Precision, ReceiveClock},
        sample::ErrorClass,
    },
};

#[tokio::test]
async fn every_request_of_the_schedule_is_sent_and_counted() {
    for kind in kinds() {
        let server = willing(&kind);
        let measured = measure(plan(&kind, 500.0, 600), vec![lane(server.address, request("GET"))]).await;
        assert_eq!(measured.scheduled, Duration::from_millis(600));
        let lane = &measured.lanes[0];
        assert_eq!((lane.counts.offered, lane.counts.sent, lane.counts.succeeded), (300, 300, 300));
        for histogram in [&lane.latency, &lane.service_time, &lane.lag, &measured.client.own_lag] {
            assert_eq!(histogram.count(), 300);
        }
        assert_eq!((server.requests(), server.connections()), (300, 4));
        assert_eq!((measured.connections.opened, measured.connections.closed_idle), (4, 0));
        assert_eq!(measured.client.receive_clock, ReceiveClock::User);
        let mut intended: Vec<Duration> = lane.samples.iter().map(|sample| sample.intended).collect();
        intended.sort();
        let ideal: Vec<Duration> = (0..300).map(|k| Duration::from_millis(2 * k)).collect();
        assert_eq!(intended, ideal);
        assert!(lane.samples.iter().all(|sample| sample.done > sample.intended));
    }
}

#[tokio::test]
async fn every_precision_and_number_of_threads_sends_the_same() {
    for (precision, threads) in [(Precision::Eco, 1), (Precision::Exact, 1), (Precision::Balanced, 3)] {
        let kind = Kind::plain_http2();
        let server = willing(&kind);
        let tuning = Tuning { precision, threads, ..Tuning::default() };
        let plan = Plan { tuning, ..plan(&kind, 2000.0, 250) };
        let measured = measure(plan, vec![lane(server.address, request("GET"))]).await;
        assert_eq!(measured.lanes[0].counts.succeeded, 500, "{precision}");
        assert_eq!((server.requests(), server.connections()), (500, 4), "{precision}");
        assert_eq!(measured.client.threads, threads);
        assert_eq!(measured.client.spun > Duration::ZERO, precision != Precision::Eco, "{precision}");
    }
}

/// A tenth of the requests fall into the stall and wait between 0 and 1 s, evenly spread, so that p95 is 0.5 s and
/// p99 0.9 s, and a little more by the time the service needs to catch up. That time is in the server's own notes.
#[tokio::test]
async fn a_stalled_second_is_not_left_out() {
    for kind in [Kind::plain_http2(), Kind::secure(Protocol::Http1)] {
        let begun = Instant::now();
        let gate = Arc::new(RwLock::new(()));
        let answered = Arc::new(Mutex::new(Vec::new()));
        let (passing, notes) = (Arc::clone(&gate), Arc::clone(&answered));
        let server = Server::start(kind.clone(), move |_| {
            let (passing, notes) = (Arc::clone(&passing), Arc::clone(&notes));
            async move {
                drop(passing.read().await);
                notes.lock().unwrap().push(Instant::now());
                ok()
            }
        });
        let stall = thread::spawn(move || {
            thread::sleep(Duration::from_secs(2).saturating_sub(begun.elapsed()));
            let _closed = gate.blocking_write();
            thread::sleep(Duration::from_secs(1));
        });
        let measured = measure(plan(&kind, 200.0, 10_000), vec![lane(server.address, request("GET"))]).await;
        stall.join().unwrap();
        let lane = &measured.lanes[0];
        assert_eq!((lane.counts.offered, lane.counts.succeeded), (2_000, 2_000));
        let reported = |q| lane.latency.quantile(q).unwrap().as_secs_f64();
        let (p95, p99) = (reported(0.95), reported(0.99));
        assert!((0.85..0.95).contains(&p99), "p99 {p99}");
        assert!(p95 > 0.45, "p95 {p95}");
        assert!(lane.longest_gap >= Duration::from_millis(950), "{:?}", lane.longest_gap);

        // The k-th answer to the k-th request, by the server's clock and the schedule's arithmetic alone.
        let mut truth = answered.lock().unwrap().clone();
        truth.sort();
        let mut truth: Vec<Duration> = (0..)
            .zip(&truth)
            .map(|(k, at)| at.saturating_duration_since(measured.started + Duration::from_millis(5 * k)))
            .collect();
        truth.sort();
        assert!((p95 - truth[1900].as_secs_f64()).abs() < 0.02, "p95 {p95}, truth {:?}", truth[1900]);
        assert!((p99 - truth[1980].as_secs_f64()).abs() < 0.02, "p99 {p99}, truth {:?}", truth[1980]);
    }
}

#[tokio::test]
async fn a_stop_ends_the_schedule_and_keeps_what_was_measured() {
    for kind in kinds() {
        let server = willing(&kind);
        let (stop, stopped) = watch::channel(false);
        let lanes = vec![lane(server.address, request("GET"))];
        let load = spawn(plan(&kind, 200.0, 3_600_000), lanes, stopped, None).unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        stop.send(true).unwrap();
        let measured = load.finish().await.unwrap();
        assert!(measured.scheduled < Duration::from_secs(600));
        let counts = &measured.lanes[0].counts;
        let expected = (measured.scheduled.as_secs_f64() * 200.0).floor() as u64 + 1;
        assert_eq!((counts.offered, counts.sent, counts.succeeded), (expected, expected, expected));
        assert!(expected >= 20);
    }
}

#[tokio::test]
async fn a_dropped_load_ends() {
    for pacing in [Pacing::constant(100.0), Pacing::Closed { think: Duration::from_millis(1) }] {
        let kind = Kind::plain_http2();
        let server = willing(&kind);
        let (stop, stopped) = watch::channel(false);
        let plan = Plan { pacing, series: true, ..plan(&kind, 1.0, 3_600_000) };
        let load = spawn(plan, vec![lane(server.address, request("GET"))], stopped, None).unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        drop(load);
        // The engine holds the only receiver; the channel closes when its thread has ended.
        tokio::time::timeout(Duration::from_secs(60), stop.closed()).await.unwrap();
    }
}

#[tokio::test]
async fn what_never_got_room_is_not_sent_and_not_forgotten() {
    for kind in kinds() {
        let server = Server::start(kind.clone(), |_| std::future::pending());
        let most = if kind.protocol == Protocol::Http2 { 100 } else { 1 };
        let plan = Plan { connections: 1, timeout: Duration::from_millis(300), ..plan(&kind, 1000.0, 250) };
        let measured = measure(plan, vec![lane(server.address, request("GET"))]).await;
        let lane = &measured.lanes[0];
        assert_eq!(lane.counts.offered, 250);
        assert!((most..=most * 3).contains(&lane.counts.sent), "{}", lane.counts.sent);
        assert_eq!(lane.counts.completed(), lane.counts.sent);
        assert_eq!(failed(lane), [(ErrorClass::Timeout, lane.counts.sent)]);
        assert_eq!(lane.latency.count(), 250, "each has at least the time it waited");
        assert!(lane.latency.quantile(0.0).unwrap() >= Duration::from_millis(299));
    }
}

#[tokio::test]
async fn a_client_of_a_closed_loop_waits_for_its_answer_and_thinks() {
    for kind in kinds() {
        let server = Server::start(kind.clone(), |_| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            ok()
        });
        let think = Duration::from_millis(15);
        let plan = Plan { pacing: Pacing::Closed { think }, connections: 3, ..plan(&kind, 1.0, 500) };
        let measured = measure(plan, vec![lane(server.address, request("GET"))]).await;
        let counts = &measured.lanes[0].counts;
        assert_eq!((counts.failures(), counts.unanswered()), (0, 0));
        assert_eq!((server.peak(), server.connections()), (3, 3), "a connection a client");
        // 500 ms are 20 times 25 ms; timers are late, never early.
        assert!((20..=60).contains(&counts.succeeded), "{}", counts.succeeded);
        assert_eq!(server.requests() as u64, counts.succeeded);
    }
}

#[tokio::test]
async fn a_closed_loop_without_pause_is_as_fast_as_its_service() {
    for kind in kinds() {
        let server = willing(&kind);
        let pacing = Pacing::Closed { think: Duration::ZERO };
        let plan = Plan { pacing, connections: 2, keep_samples: false, ..plan(&kind, 1.0, 300) };
        let measured = measure(plan, vec![lane(server.address, request("GET"))]).await;
        let counts = &measured.lanes[0].counts;
        assert_eq!((counts.failures(), counts.unanswered()), (0, 0));
        assert!(counts.succeeded > 100, "{}", counts.succeeded);
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn a_refused_client_does_not_spin() {
    let kind = Kind::plain_http2();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pacing = Pacing::Closed { think: Duration::ZERO };
    let plan = Plan { pacing, connections: 1, ..plan(&kind, 1.0, 200) };
    let measured = measure(plan, vec![lane(address, request("POST"))]).await;
    let failed = failed(&measured.lanes[0]);
    assert!(matches!(failed[..], [(ErrorClass::Refused, 1..=200)]), "{failed:?}");
}

#[tokio::test]
async fn a_time_out_counts_with_the_time_it_was_given() {
    for kind in kinds() {
        let server = Server::start(kind.clone(), |_| std::future::pending());
        let hasty = |plan| Plan { timeout: Duration::from_millis(200), connections: 16, ..plan };
        let lane = ten(&kind, "GET", server.address, hasty).await;
        assert_eq!(failed(&lane), [(ErrorClass::Timeout, 10)]);
        assert_eq!(lane.latency.count(), 10);
        assert!(lane.latency.quantile(0.0).unwrap() >= Duration::from_millis(199));
        assert!(lane.samples.iter().all(|sample| sample.retry.is_none()), "no time was left for one");
    }
}

#[tokio::test]
async fn a_stop_before_the_start_is_an_empty_load() {
    let kind = Kind::plain_http2();
    let server = willing(&kind);
    let (_stop, stopped) = watch::channel(true);
    let lanes = vec![lane(server.address, request("GET"))];
    let measured = run(plan(&kind, 200.0, 60_000), lanes, stopped).await.unwrap();
    let due = (measured.scheduled.as_secs_f64() * 200.0).floor() as u64 + 1;
    assert_eq!(measured.lanes[0].counts.offered, due, "what was due when it was stopped, and no more");
    assert!(measured.scheduled < Duration::from_secs(30));
}
