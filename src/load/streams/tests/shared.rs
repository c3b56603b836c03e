//! Many requests on one connection of HTTP/2, and connections that are for one.

use std::time::Duration;

use super::{
    kinds, lane, measure, plan, request,
    server::{Kind, Server, ok},
    ten, willing,
};
use crate::{load::Plan, model::settings::ConnectionUse};

fn slow(kind: &Kind) -> Server {
    Server::start(kind.clone(), |_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ok()
    })
}

#[tokio::test]
async fn one_connection_carries_many_streams_at_once() {
    let kind = Kind::plain_http2();
    let server = slow(&kind);
    let plan = Plan { connections: 1, ..plan(&kind, 200.0, 500) };
    let measured = measure(plan, vec![lane(server.address, request("GET"))]).await;
    let lane = &measured.lanes[0];
    assert_eq!((lane.counts.succeeded, server.connections()), (100, 1));
    // 100 ms of 200 a second.
    assert!((10..=60).contains(&server.peak()), "{}", server.peak());
    assert!(lane.lag.quantile(0.5).unwrap() < Duration::from_millis(50), "none waited for another");
    assert!(lane.latency.quantile(0.5).unwrap() < Duration::from_millis(200));
}

#[tokio::test]
async fn streams_are_spread_over_the_connections() {
    let kind = Kind::plain_http2();
    let most = std::sync::Arc::new(std::sync::Mutex::new([0; 4]));
    let seen_by = std::sync::Arc::clone(&most);
    let server = Server::start(kind.clone(), move |seen| {
        seen_by.lock().unwrap()[seen.connection] += 1;
        async { ok() }
    });
    let measured = measure(plan(&kind, 400.0, 500), vec![lane(server.address, request("GET"))]).await;
    assert_eq!(measured.lanes[0].counts.succeeded, 200);
    assert_eq!(*most.lock().unwrap(), [50; 4]);
}

#[tokio::test]
async fn no_more_streams_than_the_server_allows() {
    let kind = Kind { most_streams: 5, ..Kind::plain_http2() };
    let server = slow(&kind);
    let plan = Plan { connections: 2, ..plan(&kind, 200.0, 500) };
    let measured = measure(plan, vec![lane(server.address, request("GET"))]).await;
    let lane = &measured.lanes[0];
    // Ten at a time, each 100 ms: half of them still wait at the end of the schedule.
    assert_eq!((lane.counts.succeeded, lane.counts.failures()), (100, 0));
    assert_eq!((server.connections(), server.peak()), (2, 10));
    assert!(lane.latency.quantile(1.0).unwrap() > Duration::from_millis(400), "the wait is in the latencies");
    assert!(lane.lag.quantile(1.0).unwrap() > Duration::from_millis(300), "and known as one for room");
    assert!(lane.service_time.quantile(0.5).unwrap() < Duration::from_millis(200), "not as the service's");
}

#[tokio::test]
async fn a_connection_a_request_when_asked_for() {
    for kind in kinds() {
        let server = willing(&kind);
        let per_request = |plan| Plan { connection_use: ConnectionUse::PerRequest, ..plan };
        let lane = ten(&kind, "GET", server.address, per_request).await;
        assert_eq!(lane.counts.succeeded, 10);
        assert_eq!(server.connections(), 10);
    }
}

#[tokio::test]
async fn requests_that_find_no_connection_open_one_together() {
    let kind = Kind::plain_http2();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody speaks on the connection that is opened beforehand, so that opening gives up on it.
    let silent = std::thread::spawn(move || {
        let (first, _) = listener.accept().unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        drop(first);
        let mut accepted = 0;
        listener.set_nonblocking(true).unwrap();
        let end = std::time::Instant::now() + Duration::from_millis(500);
        let mut held = Vec::new();
        while std::time::Instant::now() < end {
            if let Ok((stream, _)) = listener.accept() {
                held.push(stream);
                accepted += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        accepted
    });
    let plan = Plan { connections: 1, timeout: Duration::from_millis(700), ..plan(&kind, 100.0, 200) };
    let measured = measure(plan, vec![lane(address, request("POST"))]).await;
    assert_eq!(measured.lanes[0].counts.failures(), 20);
    assert_eq!(silent.join().unwrap(), 1, "one connection for all of them");
}
