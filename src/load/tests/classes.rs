//! Each way in which a request can fail ends in its own class.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
    time::Duration,
};

use super::{
    OK, failed, lane, measure, plan, request,
    server::{Deed, Server},
    ten,
};
use crate::{load::Plan, model::sample::ErrorClass};

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

/// Every prefix of an answer, and then the end of the connection: nothing is a reset, something is one in the middle
/// of the answer, all of it is a success.
#[tokio::test]
async fn an_answer_closed_at_every_point_ends_in_the_right_class() {
    for length in 0..=OK.len() {
        let prefix = &OK[..length];
        let server = Server::start(move |_, _| Deed::AnswerAndClose(prefix));
        let one = |plan| Plan {
            slots: vec![crate::load::Slot { lane: 0, length: Duration::from_millis(10) }],
            ..plan
        };
        let lane = ten("POST", server.address, one).await;
        let expected = match length {
            0 => vec![(ErrorClass::Reset, 1)],
            length if length == OK.len() => vec![],
            _ => vec![(ErrorClass::ResetMidAnswer, 1)],
        };
        assert_eq!(failed(&lane), expected, "{length} bytes");
    }
}

#[tokio::test]
async fn an_answer_one_byte_at_a_time_is_an_answer() {
    let server = Server::start(|_, _| Deed::AnswerBytewise(OK));
    let lane = ten("POST", server.address, |plan| plan).await;
    assert_eq!((lane.counts.succeeded, lane.counts.failures()), (10, 0));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn more_than_was_announced_is_a_protocol_error() {
    let surplus: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokand more";
    let server = Server::start(move |_, _| Deed::Answer(surplus));
    let lane = ten("POST", server.address, |plan| plan).await;
    assert_eq!(failed(&lane), [(ErrorClass::Protocol, 10)]);
    assert_eq!(server.connections(), 10, "such a connection is not used again");
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closes_is_no_error() {
    // Closed as soon as it has answered, and the next request comes 50 ms later.
    let server = Server::start(|_, _| Deed::AnswerAndClose(OK));
    let lane = Plan { connections: 1, ..plan(20.0, 250) };
    let measured = measure(lane, vec![super::lane(server.address, request("GET"))]).await;
    let counts = &measured.lanes[0].counts;
    // Where the server itself took longer than that to close, the request met a stale connection, and was retried.
    let stale = counts.failed.get(&ErrorClass::StaleKeepAlive).copied().unwrap_or(0);
    assert_eq!((counts.succeeded + stale, counts.failures(), counts.mended_by_retry), (5, stale, stale));
    assert!(measured.connections.closed_idle > 0, "{:?}", measured.connections);
    assert!(measured.connections.closed_idle + stale >= 4, "{:?} {stale}", measured.connections);
}

#[tokio::test]
async fn a_class_has_its_time_to_failure() {
    let server = Server::start(|_, _| Deed::Close);
    let lane = ten("POST", server.address, |plan| plan).await;
    assert_eq!(lane.by_class[&ErrorClass::Reset].count(), 10);
}

/// The end of a connection is noticed as the next request goes out: the retry, on a connection of its own, must not be
/// mistaken for what broke.
#[tokio::test]
async fn a_retry_outlives_the_connection_that_broke() {
    for unix in [false, true] {
        let once = |_, request| if request == 0 { Deed::AnswerAndClose(OK) } else { Deed::Close };
        let server = if unix { Server::start_unix(once) } else { Server::start(once) };
        let mut target = lane(server.address, request("GET"));
        if unix {
            target.routes[0].peers = vec![crate::load::Peer::Unix(server.path())];
        }
        let measured = measure(Plan { connections: 1, ..plan(2000.0, 300) }, vec![target]).await;
        let counts = &measured.lanes[0].counts;
        assert_eq!(counts.completed(), 600);
        assert_eq!(counts.failures_after_retry(), 0, "{counts:?}");
        assert!(counts.failed.keys().all(|class| *class == ErrorClass::StaleKeepAlive), "{counts:?}");
    }
}
