//! When requests are sent, where to, and how a load ends.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    OK, lane, measure, plan, request, route,
    server::{Deed, Server},
    ten,
};
use crate::{
    load::{Lane, LoadError, Peer, Plan, Slot, Tuning, run, spawn},
    model::{
        load::{Disturbance, Pacing, Precision, ReceiveClock},
        request::Request,
        settings::ConnectionUse,
    },
};

#[tokio::test]
async fn every_request_of_the_schedule_is_sent_and_counted() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let measured = measure(plan(500.0, 600), vec![lane(server.address, request("GET"))]).await;
    assert_eq!(measured.scheduled, Duration::from_millis(600));
    let lane = &measured.lanes[0];
    assert_eq!((lane.counts.offered, lane.counts.sent, lane.counts.succeeded), (300, 300, 300));
    assert_eq!(lane.counts.failures(), 0);
    for histogram in [&lane.latency, &lane.service_time, &lane.lag] {
        assert_eq!(histogram.count(), 300);
    }
    assert_eq!(server.requests(), 300);
    assert_eq!(server.connections(), 8);
    assert_eq!(lane.samples.len(), 300);
    let mut intended: Vec<Duration> = lane.samples.iter().map(|sample| sample.intended).collect();
    intended.sort();
    let ideal: Vec<Duration> = (0..300).map(|k| Duration::from_millis(2 * k)).collect();
    assert_eq!(intended, ideal);
    assert!(lane.samples.iter().all(|sample| sample.done > sample.intended));
}

#[tokio::test]
async fn a_connection_a_request_when_asked_for() {
    let server = Server::start(|_, _| Deed::AnswerAndClose(OK));
    let per_request = |plan| Plan { connection_use: ConnectionUse::PerRequest, ..plan };
    let lane = ten("GET", server.address, per_request).await;
    assert_eq!(lane.counts.succeeded, 10);
    assert_eq!(server.connections(), 10);
}

#[tokio::test]
async fn requests_are_charged_to_the_lane_of_their_slot() {
    let (first, second) = (Server::start(|_, _| Deed::Answer(OK)), Server::start(|_, _| Deed::Answer(OK)));
    let slot = |lane, millis| Slot { lane, length: Duration::from_millis(millis) };
    let plan = Plan { slots: vec![slot(0, 100), slot(1, 60), slot(0, 50), slot(1, 90)], ..plan(200.0, 0) };
    let lanes = vec![lane(first.address, request("GET")), lane(second.address, request("GET"))];
    let measured = measure(plan, lanes).await;
    let offered: Vec<u64> = measured.lanes.iter().map(|lane| lane.counts.offered).collect();
    assert_eq!(offered, [30, 30]);
    assert_eq!((first.requests(), second.requests()), (30, 30));
    let inside = |sample: &crate::model::sample::Sample| {
        let millis = sample.intended.as_millis();
        millis < 100 || (160..210).contains(&millis)
    };
    assert!(measured.lanes[0].samples.iter().all(inside));
    assert!(!measured.lanes[1].samples.iter().any(inside));
}

#[tokio::test]
async fn weights_and_addresses_share_the_requests() {
    let servers: Vec<Server> = (0..3).map(|_| Server::start(|_, _| Deed::Answer(OK))).collect();
    let heavy = Request { weight: 3, ..request("GET") };
    let routes = vec![
        route(vec![servers[0].address, servers[1].address], heavy),
        route(vec![servers[2].address], request("GET")),
    ];
    let measured = measure(plan(400.0, 200), vec![Lane { name: "lane".into(), routes }]).await;
    assert_eq!(measured.lanes[0].counts.succeeded, 80);
    let shares: Vec<usize> = servers.iter().map(Server::requests).collect();
    assert_eq!(shares, [30, 30, 20]);
}

#[tokio::test]
async fn a_stop_ends_the_schedule_and_keeps_what_was_measured() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let (stop, stopped) = watch::channel(false);
    let load =
        spawn(plan(200.0, 3_600_000), vec![lane(server.address, request("GET"))], stopped, None).unwrap();
    let started = load.started();
    tokio::time::sleep(Duration::from_millis(150)).await;
    stop.send(true).unwrap();
    let measured = load.finish().await.unwrap();
    assert_eq!(measured.started, started);
    assert!(measured.scheduled < Duration::from_secs(600));
    let counts = &measured.lanes[0].counts;
    let expected = (measured.scheduled.as_secs_f64() * 200.0).floor() as u64 + 1;
    assert_eq!((counts.offered, counts.sent, counts.succeeded), (expected, expected, expected));
    assert!(expected >= 20);
}

#[tokio::test]
async fn a_stop_before_the_start_is_an_empty_load() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let (_stop, stopped) = watch::channel(true);
    let measured =
        run(plan(200.0, 60_000), vec![lane(server.address, request("GET"))], stopped).await.unwrap();
    let due = (measured.scheduled.as_secs_f64() * 200.0).floor() as u64 + 1;
    assert_eq!(measured.lanes[0].counts.offered, due, "what was due when it was stopped, and no more");
    assert!(measured.scheduled < Duration::from_secs(30));
}

#[tokio::test]
async fn what_never_got_a_connection_is_not_sent_and_not_forgotten() {
    let server = Server::start(|_, _| Deed::Ignore);
    let plan = Plan { connections: 1, timeout: Duration::from_millis(300), ..plan(1000.0, 100) };
    let measured = measure(plan, vec![lane(server.address, request("GET"))]).await;
    let lane = &measured.lanes[0];
    assert_eq!(lane.counts.offered, 100);
    assert!(lane.counts.sent < 5, "{}", lane.counts.sent);
    assert_eq!(lane.counts.completed(), lane.counts.sent);
    assert_eq!(lane.latency.count(), 100, "each has at least the time it waited");
    assert!(lane.latency.quantile(0.0).unwrap() >= Duration::from_millis(299));
}

#[tokio::test]
async fn a_dropped_load_ends() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let (stop, stopped) = watch::channel(false);
    let load =
        spawn(plan(100.0, 3_600_000), vec![lane(server.address, request("GET"))], stopped, None).unwrap();
    drop(load);
    // The engine holds the only receiver; the channel closes when its thread has ended.
    tokio::time::timeout(Duration::from_secs(60), stop.closed()).await.unwrap();
}

#[tokio::test]
async fn a_stop_signal_whose_sender_is_gone_stops_nothing() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let (stop, stopped) = watch::channel(false);
    drop(stop);
    let measured = run(plan(100.0, 100), vec![lane(server.address, request("GET"))], stopped).await.unwrap();
    assert_eq!(measured.lanes[0].counts.succeeded, 10);
}

#[tokio::test]
async fn a_plan_without_sense_is_refused() {
    let (_stop, stopped) = watch::channel(false);
    let outcome =
        spawn(plan(f64::NAN, 100), vec![lane("127.0.0.1:9".parse().unwrap(), request("GET"))], stopped, None);
    assert!(matches!(outcome, Err(LoadError::Rate(_))));
}

#[tokio::test]
async fn a_closed_loop_sends_the_next_request_after_the_answer() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let closed = Plan { pacing: Pacing::Closed { think: Duration::ZERO }, connections: 3, ..plan(1.0, 200) };
    let measured = measure(closed, vec![lane(server.address, request("GET"))]).await;
    let counts = &measured.lanes[0].counts;
    assert!(counts.succeeded > 10, "{counts:?}");
    assert_eq!((counts.failures(), counts.unanswered()), (0, 0));
    assert_eq!(server.requests() as u64, counts.sent);
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn clients_think_between_requests() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let think = Duration::from_millis(40);
    let closed = Plan { pacing: Pacing::Closed { think }, connections: 2, ..plan(1.0, 400) };
    let measured = measure(closed, vec![lane(server.address, request("GET"))]).await;
    let counts = &measured.lanes[0].counts;
    // Never more often than the pauses allow, however fast the answers; at least a few on any machine.
    assert!((4..=22).contains(&counts.succeeded), "{counts:?}");
}

#[tokio::test]
async fn a_closed_loop_against_nobody_ends_and_counts() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = Plan { pacing: Pacing::Closed { think: Duration::ZERO }, connections: 2, ..plan(1.0, 100) };
    let lane = measure(closed, vec![lane(address, request("GET"))]).await.lanes.remove(0);
    assert_eq!(lane.counts.succeeded, 0);
    // A pause of a millisecond after each refusal.
    assert!((2..=204).contains(&lane.counts.failures()), "{:?}", lane.counts);
}

#[tokio::test]
async fn threads_share_the_schedule_and_the_connections() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let tuning = Tuning { threads: 3, ..Tuning::default() };
    let measured =
        measure(Plan { tuning, ..plan(500.0, 600) }, vec![lane(server.address, request("GET"))]).await;
    let lane = &measured.lanes[0];
    assert_eq!((lane.counts.offered, lane.counts.succeeded), (300, 300));
    assert_eq!((server.connections(), measured.client.threads), (8, 3));
    let mut intended: Vec<Duration> = lane.samples.iter().map(|sample| sample.intended).collect();
    assert!(lane.samples.is_sorted_by_key(|sample| sample.done));
    intended.sort();
    let ideal: Vec<Duration> = (0..300).map(|k| Duration::from_millis(2 * k)).collect();
    assert_eq!(intended, ideal);
}

#[tokio::test]
async fn more_threads_than_connections_are_not_started() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let tuning = Tuning { threads: 8, ..Tuning::default() };
    let few = Plan { tuning, connections: 2, ..plan(100.0, 100) };
    let measured = measure(few, vec![lane(server.address, request("GET"))]).await;
    assert_eq!((measured.client.threads, measured.lanes[0].counts.succeeded), (2, 10));
}

#[tokio::test]
async fn every_precision_and_clock_sends_the_same_requests() {
    for precision in [Precision::Eco, Precision::Balanced, Precision::Exact] {
        for receive_clock in [ReceiveClock::Kernel, ReceiveClock::User] {
            let server = Server::start(|_, _| Deed::Answer(OK));
            let tuning = Tuning { precision, receive_clock, ..Tuning::default() };
            let measured =
                measure(Plan { tuning, ..plan(1000.0, 200) }, vec![lane(server.address, request("GET"))])
                    .await;
            let lane = &measured.lanes[0];
            assert_eq!((lane.counts.offered, lane.counts.succeeded), (200, 200), "{precision}");
            assert_eq!(measured.client.receive_clock, receive_clock);
            assert_eq!(measured.client.own_lag.count(), 200);
            assert!(measured.client.cpu > Duration::ZERO);
            let least_lag = lane.lag.quantile(0.0).unwrap();
            assert!(lane.latency.quantile(0.0).unwrap() >= least_lag, "a latency holds the lag");
            assert_eq!(measured.client.spun.is_zero(), precision == Precision::Eco);
        }
    }
}

#[tokio::test]
async fn a_load_beyond_its_limit_of_lag_says_so() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let tuning = Tuning { lag_limit: Some(Duration::from_nanos(1)), ..Tuning::default() };
    let measured =
        measure(Plan { tuning, ..plan(100.0, 100) }, vec![lane(server.address, request("GET"))]).await;
    let lag = |disturbance: &Disturbance| matches!(disturbance, Disturbance::Lag { .. });
    assert!(measured.client.disturbances.iter().any(lag), "{:?}", measured.client.disturbances);
}

#[tokio::test]
async fn the_course_is_kept_and_told_while_it_runs() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = Arc::clone(&told);
    let (_stop, stopped) = watch::channel(false);
    let observer = Box::new(move |interval: crate::load::Interval| {
        teller.lock().unwrap().push((interval.tick, interval.latency.count()));
    });
    let plan = Plan { series: true, ..plan(200.0, 550) };
    let load = spawn(plan, vec![lane(server.address, request("GET"))], stopped, Some(observer)).unwrap();
    let measured = load.finish().await.unwrap();
    let lane = &measured.lanes[0];
    let told = told.lock().unwrap();
    assert!(told.len() >= 5, "{}", told.len());
    assert_eq!(lane.series, told.iter().map(|(tick, _)| tick.clone()).collect::<Vec<_>>());
    assert_eq!(told.iter().map(|(tick, _)| tick.succeeded).sum::<u64>(), lane.counts.succeeded);
    assert_eq!(told.iter().map(|(tick, _)| tick.sent).sum::<u64>(), lane.counts.sent);
    assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), lane.latency.count());
    assert!(told.iter().all(|(tick, count)| tick.p50.is_some() == (*count > 0)));
}

#[tokio::test]
async fn phases_are_begun_from_outside() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let (stop, stopped) = watch::channel(false);
    let load = spawn(plan(200.0, 60_000), vec![lane(server.address, request("GET"))], stopped, None).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    load.begin_phase();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.send(true).unwrap();
    let lane = load.finish().await.unwrap().lanes.remove(0);
    assert_eq!(lane.phases.len(), 2);
    let offered: Vec<u64> = lane.phases.iter().map(|phase| phase.counts.offered).collect();
    assert!(offered.iter().all(|count| *count > 0), "{offered:?}");
    assert_eq!(offered.iter().sum::<u64>(), lane.counts.offered);
}

#[tokio::test]
async fn a_unix_socket_takes_the_same_load() {
    let server = Server::start_unix(|_, _| Deed::Answer(OK));
    let mut lane = lane("127.0.0.1:9".parse().unwrap(), request("GET"));
    lane.routes[0].peers = vec![Peer::Unix(server.path())];
    let measured = measure(plan(500.0, 200), vec![lane]).await;
    assert_eq!((measured.lanes[0].counts.succeeded, measured.lanes[0].counts.failures()), (100, 0));
    assert_eq!(measured.client.receive_clock, ReceiveClock::User, "the kernel stamps no such socket");
    assert_eq!(server.connections(), 8);
}

#[tokio::test]
async fn nobody_at_a_unix_socket_is_refused() {
    let mut lane = lane("127.0.0.1:9".parse().unwrap(), request("GET"));
    lane.routes[0].peers = vec![Peer::Unix("/nonexistent/socket".into())];
    let lane = measure(plan(100.0, 50), vec![lane]).await.lanes.remove(0);
    assert_eq!(super::failed(&lane), [(crate::model::sample::ErrorClass::Refused, 5)]);
}

/// However close requests are, answers are read: connections that wait to be read would be the client's own backlog,
/// and look like the service's.
#[tokio::test]
async fn answers_are_read_at_any_rate() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let tuning = Tuning { precision: Precision::Exact, ..Tuning::default() };
    let measured = measure(
        Plan { tuning, keep_samples: false, timeout: Duration::from_secs(60), ..plan(200_000.0, 200) },
        vec![lane(server.address, request("GET"))],
    )
    .await;
    let lane = &measured.lanes[0];
    assert_eq!((lane.counts.offered, lane.counts.succeeded), (40_000, 40_000));
    // Were none read until the end, only the eight that have a connection would be answered in the first half.
    let early = lane.lag.quantile(0.01).unwrap();
    assert!(early < Duration::from_millis(100), "{early:?}");
}
