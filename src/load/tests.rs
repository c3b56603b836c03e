//! The engine on real sockets, against small servers that misbehave in one way each.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{Lane, LoadError, Measured, Plan, Route, Slot, run, spawn};
use crate::model::{
    measurement::LaneMeasurement, sample::ErrorClass, settings::ConnectionUse, workload::Request,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server with a thread a connection; ends when it is dropped.
struct Server {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

/// What a server does with a request.
enum Deed {
    Answer(&'static [u8]),
    AnswerAndClose(&'static [u8]),
    Close,
    /// Ends the connection with a reset.
    Reset,
    Ignore,
}

impl Server {
    /// `deed` is given the number of the connection and of the request on it, both from 0.
    fn start(deed: impl Fn(usize, usize) -> Deed + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            ended: Arc::default(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (ended, connections, requests) =
            (Arc::clone(&server.ended), Arc::clone(&server.connections), Arc::clone(&server.requests));
        let deed = Arc::new(deed);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let number = connections.fetch_add(1, Ordering::SeqCst);
                let (deed, requests) = (Arc::clone(&deed), Arc::clone(&requests));
                thread::spawn(move || serve(stream.unwrap(), number, &*deed, &requests));
            }
        });
        server
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; a failure means that it is gone already.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut stream: TcpStream,
    connection: usize,
    deed: &dyn Fn(usize, usize) -> Deed,
    requests: &AtomicUsize,
) {
    stream.set_nodelay(true).unwrap();
    let mut held = Vec::new();
    for number in 0.. {
        let mut buffer = [0; 4096];
        while !held.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(read) => held.extend_from_slice(&buffer[..read]),
            }
        }
        held.clear();
        requests.fetch_add(1, Ordering::SeqCst);
        match deed(connection, number) {
            Deed::Answer(bytes) => {
                if stream.write_all(bytes).is_err() {
                    return;
                }
            }
            Deed::AnswerAndClose(bytes) => {
                let _ = stream.write_all(bytes);
                return;
            }
            Deed::Close => return,
            Deed::Reset => {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
                return;
            }
            Deed::Ignore => {}
        }
    }
}

fn request(method: &str) -> Request {
    Request { method: method.into(), path: "/".into(), headers: vec![], body: vec![], weight: 1 }
}

fn lane(address: SocketAddr, request: Request) -> Lane {
    Lane { name: "lane".into(), routes: vec![Route { addresses: vec![address], requests: vec![request] }] }
}

fn plan(rate_per_second: f64, millis: u64) -> Plan {
    Plan {
        rate_per_second,
        slots: vec![Slot { lane: 0, length: Duration::from_millis(millis) }],
        connections: 8,
        connection_use: ConnectionUse::KeepAlive,
        timeout: Duration::from_secs(20),
        keep_samples: true,
    }
}

async fn measure(plan: Plan, lanes: Vec<Lane>) -> Measured {
    let (_stop, stopped) = watch::channel(false);
    run(plan, lanes, stopped).await.unwrap()
}

/// Ten requests of a method.
async fn ten(method: &str, address: SocketAddr, adapt: impl FnOnce(Plan) -> Plan) -> LaneMeasurement {
    let plan = adapt(Plan { connections: 1, ..plan(100.0, 100) });
    measure(plan, vec![lane(address, request(method))]).await.lanes.remove(0)
}

fn failed(lane: &LaneMeasurement) -> Vec<(ErrorClass, u64)> {
    lane.counts.failed.iter().map(|(class, count)| (*class, *count)).collect()
}

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

/// A tenth of the requests fall into the stall and wait between 0 and 1 s, evenly spread, so that p95 is 0.5 s and
/// p99 0.9 s, and a little more by the time the service needs to catch up. That time is in the server's own notes.
#[tokio::test]
async fn a_stalled_second_is_not_left_out() {
    let begun = Instant::now();
    let gate = Arc::new(RwLock::new(()));
    let answered = Arc::new(Mutex::new(Vec::new()));
    let (passing, notes) = (Arc::clone(&gate), Arc::clone(&answered));
    let server = Server::start(move |_, _| {
        drop(passing.read().unwrap());
        notes.lock().unwrap().push(Instant::now());
        Deed::Answer(OK)
    });
    let stall = thread::spawn(move || {
        thread::sleep(Duration::from_secs(4).saturating_sub(begun.elapsed()));
        let _closed = gate.write().unwrap();
        thread::sleep(Duration::from_secs(1));
    });
    let measured = measure(plan(1000.0, 10_000), vec![lane(server.address, request("GET"))]).await;
    stall.join().unwrap();
    let lane = &measured.lanes[0];
    assert_eq!((lane.counts.offered, lane.counts.succeeded), (10_000, 10_000));
    let reported = |q| lane.latency.quantile(q).unwrap().as_secs_f64();
    let (p95, p99) = (reported(0.95), reported(0.99));
    // In theory 0.9 s and 0.5 s; the server's own clock, below, says what it was in this run.
    assert!((0.85..0.95).contains(&p99), "p99 {p99}");
    assert!(p95 > 0.45, "p95 {p95}");
    // Catching up takes an unoptimised client and server 0.2 s, which is then part of the truth.
    assert!(p95 < 0.55 || cfg!(debug_assertions), "p95 {p95}");
    assert!(lane.longest_gap >= Duration::from_millis(950), "{:?}", lane.longest_gap);

    // The k-th answer to the k-th request, by the server's clock and the schedule's arithmetic alone.
    let mut truth = answered.lock().unwrap().clone();
    truth.sort();
    let mut truth: Vec<Duration> = (0..)
        .zip(&truth)
        .map(|(k, at)| at.saturating_duration_since(measured.started + Duration::from_millis(k)))
        .collect();
    truth.sort();
    assert!((p95 - truth[9500].as_secs_f64()).abs() < 0.02, "p95 {p95}, truth {:?}", truth[9500]);
    assert!((p99 - truth[9900].as_secs_f64()).abs() < 0.02, "p99 {p99}, truth {:?}", truth[9900]);
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let lane = ten("GET", address, |plan| plan).await;
    assert_eq!(failed(&lane), [(ErrorClass::Refused, 10)]);
    assert_eq!(lane.counts.sent, 10);
    assert_eq!(lane.latency.count(), 0);
    assert!(lane.samples.iter().all(|sample| sample.retry == Some(false)));
    assert!(lane.longest_gap >= Duration::from_millis(100), "no success at all: {:?}", lane.longest_gap);
}

#[tokio::test]
async fn a_fresh_connection_that_ends_without_a_byte_is_a_reset() {
    let server = Server::start(|_, _| Deed::Close);
    assert_eq!(failed(&ten("POST", server.address, |plan| plan).await), [(ErrorClass::Reset, 10)]);
    let server = Server::start(|_, _| Deed::Reset);
    assert_eq!(failed(&ten("POST", server.address, |plan| plan).await), [(ErrorClass::Reset, 10)]);
}

#[tokio::test]
async fn a_stale_connection_is_told_apart_and_mended_by_a_retry() {
    // Each connection answers once; the next request on it finds it closing.
    let once = |_, request| if request == 0 { Deed::Answer(OK) } else { Deed::Close };
    let server = Server::start(once);
    let lane = ten("GET", server.address, |plan| plan).await;
    // The retry uses up the new connection's one answer, so all but the first are stale.
    assert_eq!(failed(&lane), [(ErrorClass::StaleKeepAlive, 9)]);
    assert_eq!((lane.counts.succeeded, lane.counts.mended_by_retry), (1, 9));
    assert_eq!(lane.counts.failures_after_retry(), 0);
    assert_eq!(lane.samples.iter().filter(|sample| sample.retry == Some(true)).count(), 9);
    assert_eq!(server.requests(), 19);
}

#[tokio::test]
async fn a_request_that_is_not_idempotent_is_not_sent_twice() {
    let server = Server::start(|_, request| if request == 0 { Deed::Answer(OK) } else { Deed::Close });
    let lane = ten("POST", server.address, |plan| plan).await;
    assert_eq!(failed(&lane), [(ErrorClass::StaleKeepAlive, 5)]);
    assert_eq!(lane.counts.mended_by_retry, 0);
    assert!(lane.samples.iter().all(|sample| sample.retry.is_none()));
    assert_eq!(server.requests(), 10);
}

#[tokio::test]
async fn a_connection_known_to_be_closed_is_replaced_without_an_error() {
    let closing: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let server = Server::start(move |_, _| Deed::AnswerAndClose(closing));
    let lane = ten("POST", server.address, |plan| plan).await;
    assert_eq!((lane.counts.succeeded, lane.counts.failures()), (10, 0));
    assert_eq!(server.connections(), 10);
}

#[tokio::test]
async fn an_answer_broken_off_is_a_reset_mid_answer() {
    let broken: [&'static [u8]; 3] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    ];
    for answer in broken {
        let server = Server::start(move |_, _| Deed::AnswerAndClose(answer));
        let lane = ten("POST", server.address, |plan| plan).await;
        assert_eq!(failed(&lane), [(ErrorClass::ResetMidAnswer, 10)], "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_a_protocol_error() {
    let garbage: [&'static [u8]; 3] = [
        b"220 smtp.example ESMTP\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n",
    ];
    for answer in garbage {
        let server = Server::start(move |_, _| Deed::AnswerAndClose(answer));
        let lane = ten("POST", server.address, |plan| plan).await;
        assert_eq!(failed(&lane), [(ErrorClass::Protocol, 10)], "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    static CHUNK: [u8; 1 << 20] = [b'x'; 1 << 20];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let mut sent = 0;
        let mut result = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while result.is_ok() && sent < 1024 {
            result = stream.write_all(&CHUNK);
            sent += 1;
        }
        sent
    });
    // The server takes one connection only.
    let plan = Plan { connections: 1, ..plan(10.0, 100) };
    let lane = measure(plan, vec![lane(address, request("POST"))]).await.lanes.remove(0);
    assert_eq!(failed(&lane), [(ErrorClass::Protocol, 1)]);
    let sent = server.join().unwrap();
    assert!((64..256).contains(&sent), "cut off soon after 64 MiB: {sent}");
}

#[tokio::test]
async fn a_time_out_counts_with_the_time_it_was_given() {
    let server = Server::start(|_, _| Deed::Ignore);
    let hasty = |plan| Plan { timeout: Duration::from_millis(200), connections: 16, ..plan };
    let lane = ten("GET", server.address, hasty).await;
    assert_eq!(failed(&lane), [(ErrorClass::Timeout, 10)]);
    assert_eq!(lane.latency.count(), 10);
    assert!(lane.latency.quantile(0.0).unwrap() >= Duration::from_millis(199));
    assert!(lane.samples.iter().all(|sample| sample.retry.is_none()), "no time was left for one");
}

#[tokio::test]
async fn an_error_status_is_a_failure_on_a_connection_that_stays() {
    let down: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
    let server = Server::start(move |_, _| Deed::Answer(down));
    let lane = ten("POST", server.address, |plan| plan).await;
    assert_eq!(failed(&lane), [(ErrorClass::Status, 10)]);
    assert_eq!(lane.latency.count(), 0);
    assert_eq!(server.connections(), 1);
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
        Route { addresses: vec![servers[0].address, servers[1].address], requests: vec![heavy] },
        Route { addresses: vec![servers[2].address], requests: vec![request("GET")] },
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
    let load = spawn(plan(200.0, 3_600_000), vec![lane(server.address, request("GET"))], stopped).unwrap();
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
    let load = spawn(plan(100.0, 3_600_000), vec![lane(server.address, request("GET"))], stopped).unwrap();
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
        spawn(plan(f64::NAN, 100), vec![lane("127.0.0.1:9".parse().unwrap(), request("GET"))], stopped);
    assert!(matches!(outcome, Err(LoadError::Rate(_))));
}
