//! What a failure is called, and what a retry mends.

use std::{
    future::poll_fn,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use h2::{Reason, server::SendResponse};
use hyper::{Response, body::Bytes};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{
    failed, kinds, lane, measure, plan, request,
    server::{Kind, Server, server_config},
    ten,
};
use crate::{
    load::{Plan, Protocol},
    model::sample::ErrorClass,
};

/// What a server of HTTP/2 does with a request.
enum Deed {
    Answer,
    Reset(Reason),
    /// Begins an answer and resets it.
    ResetMidAnswer(Reason),
    /// Answers whole, although it did not read the request, and says so.
    AnswerAndReset,
    /// Says which requests it will still answer, and does.
    GoAway,
    /// Says that it works on none of the streams that are open, and ends.
    GoAwayAtOnce,
    /// Ends the connection without a word, before or inside the answer.
    Close,
    CloseMidAnswer,
}

/// A server that does by the number of the connection and of the request on it.
fn doing(deed: impl Fn(usize, usize) -> Deed + Send + Sync + 'static) -> (Server, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let (counted, deed) = (Arc::clone(&requests), Arc::new(deed));
    let server = Server::raw(move |stream, connection| {
        let (counted, deed) = (Arc::clone(&counted), Arc::clone(&deed));
        async move { serve(stream, &counted, &|number| deed(connection, number)).await }
    });
    (server, requests)
}

async fn serve(stream: TcpStream, requests: &AtomicUsize, deed: &(dyn Fn(usize) -> Deed + Sync)) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut number = 0;
    // Held so that they are not reset by being dropped.
    let mut begun = Vec::new();
    while let Some(Ok((_, mut answer))) = connection.accept().await {
        requests.fetch_add(1, Ordering::SeqCst);
        match deed(number) {
            Deed::Answer => whole(&mut answer),
            Deed::Reset(reason) => answer.send_reset(reason),
            Deed::ResetMidAnswer(reason) => {
                let mut body = answer.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"some"), false).unwrap();
                // Queued frames of a stream are dropped with its reset.
                tokio::time::timeout(Duration::from_millis(20), connection.accept()).await.unwrap_err();
                body.send_reset(reason);
            }
            Deed::AnswerAndReset => {
                whole(&mut answer);
                // What comes meanwhile waits: to accept it here would be to lose it.
                let written = poll_fn(|cx| connection.poll_closed(cx));
                tokio::time::timeout(Duration::from_millis(5), written).await.ok();
                answer.send_reset(Reason::NO_ERROR);
            }
            Deed::GoAway => {
                whole(&mut answer);
                connection.graceful_shutdown();
            }
            Deed::GoAwayAtOnce => {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            Deed::Close => return,
            Deed::CloseMidAnswer => {
                let mut body = answer.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"some"), false).unwrap();
                begun.push(body);
                tokio::time::timeout(Duration::from_millis(20), connection.accept()).await.unwrap_err();
                return;
            }
        }
        number += 1;
    }
}

fn whole(answer: &mut SendResponse<Bytes>) {
    let mut body = answer.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"ok"), true).unwrap();
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for kind in kinds() {
        let lane = ten(&kind, "GET", address, |plan| plan).await;
        assert_eq!(failed(&lane), [(ErrorClass::Refused, 10)]);
        assert_eq!((lane.counts.sent, lane.latency.count()), (10, 0));
        assert!(lane.samples.iter().all(|sample| sample.retry == Some(false)));
    }
}

#[tokio::test]
async fn a_connection_that_is_never_secure_or_never_there_is_a_connect_time_out() {
    // Connections stand as soon as they are in the listener's queue.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let kind = Kind::secure(Protocol::Http2);
    let hasty = |plan| Plan { timeout: Duration::from_millis(200), ..plan };
    let lane = ten(&kind, "POST", listener.local_addr().unwrap(), hasty).await;
    assert_eq!(failed(&lane), [(ErrorClass::ConnectTimeout, 10)]);
    assert!(lane.latency.quantile(0.0).unwrap() >= Duration::from_millis(199));
}

#[tokio::test]
async fn a_server_of_http_1_is_a_protocol_error() {
    let server = Server::raw(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
    });
    let lane = ten(&Kind::plain_http2(), "POST", server.address, |plan| plan).await;
    assert_eq!(failed(&lane), [(ErrorClass::Protocol, 10)]);
}

#[tokio::test]
async fn a_stream_that_is_reset_before_its_answer_is_a_reset() {
    let (server, requests) = doing(|_, _| Deed::Reset(Reason::INTERNAL_ERROR));
    let lane = ten(&Kind::plain_http2(), "POST", server.address, |plan| plan).await;
    assert_eq!(failed(&lane), [(ErrorClass::Reset, 10)]);
    assert_eq!((requests.load(Ordering::SeqCst), server.connections()), (10, 1));
}

#[tokio::test]
async fn a_stream_that_is_reset_inside_its_answer_is_a_reset_mid_answer() {
    let (server, _) = doing(|_, _| Deed::ResetMidAnswer(Reason::INTERNAL_ERROR));
    let slow = |plan| Plan { timeout: Duration::from_secs(5), ..plan };
    let plan = slow(Plan { connections: 1, ..plan(&Kind::plain_http2(), 10.0, 300) });
    let measured = measure(plan, vec![lane(server.address, request("POST"))]).await;
    assert_eq!(failed(&measured.lanes[0]), [(ErrorClass::ResetMidAnswer, 3)]);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_early_answer_is_an_answer() {
    let (server, _) = doing(|_, _| Deed::AnswerAndReset);
    let lane = ten(&Kind::plain_http2(), "POST", server.address, |plan| plan).await;
    assert_eq!((failed(&lane), lane.counts.succeeded, server.connections()), (Vec::new(), 10, 1));
}

#[tokio::test]
async fn a_stream_for_which_there_is_no_room_may_be_sent_again() {
    let every_other = |_, number: usize| {
        if number.is_multiple_of(2) { Deed::Answer } else { Deed::Reset(Reason::REFUSED_STREAM) }
    };
    let (server, requests) = doing(every_other);
    let lane = ten(&Kind::plain_http2(), "GET", server.address, |plan| plan).await;
    assert_eq!(failed(&lane), [(ErrorClass::StaleKeepAlive, 9)]);
    assert_eq!((lane.counts.mended_by_retry, lane.counts.failures_after_retry()), (9, 0));
    assert_eq!((requests.load(Ordering::SeqCst), server.connections()), (19, 1));
    let (server, requests) = doing(every_other);
    let lane = ten(&Kind::plain_http2(), "POST", server.address, |plan| plan).await;
    assert_eq!(failed(&lane), [(ErrorClass::StaleKeepAlive, 5)]);
    assert_eq!(requests.load(Ordering::SeqCst), 10, "only what is idempotent is sent again");
}

#[tokio::test]
async fn a_connection_that_the_server_announced_to_end_is_replaced_without_an_error() {
    let (server, _) = doing(|_, number| if number == 2 { Deed::GoAway } else { Deed::Answer });
    let plan = Plan { connections: 1, ..plan(&Kind::plain_http2(), 50.0, 180) };
    let measured = measure(plan, vec![lane(server.address, request("POST"))]).await;
    let lane = &measured.lanes[0];
    assert_eq!((lane.counts.succeeded, lane.counts.failures()), (9, 0));
    assert_eq!(server.connections(), 3);
    assert_eq!(measured.connections.closed_idle, 3);
}

#[tokio::test]
async fn a_request_that_crosses_the_end_of_its_connection_is_stale_and_mended() {
    for deed in [|| Deed::GoAwayAtOnce, || Deed::Close] {
        let (server, _) = doing(
            move |connection, number| {
                if connection == 0 && number == 4 { deed() } else { Deed::Answer }
            },
        );
        let lane = ten(&Kind::plain_http2(), "GET", server.address, |plan| plan).await;
        assert_eq!(failed(&lane), [(ErrorClass::StaleKeepAlive, 1)]);
        assert_eq!((lane.counts.succeeded, lane.counts.mended_by_retry), (9, 1));
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn a_connection_that_ends_inside_an_answer_is_a_reset_mid_answer() {
    let (server, _) = doing(|_, _| Deed::CloseMidAnswer);
    let plan = Plan { connections: 1, ..plan(&Kind::plain_http2(), 10.0, 300) };
    let measured = measure(plan, vec![lane(server.address, request("POST"))]).await;
    assert_eq!(failed(&measured.lanes[0]), [(ErrorClass::ResetMidAnswer, 3)]);
}

#[tokio::test]
async fn a_dead_connection_is_not_used_for_ever() {
    // The first connection never answers; the next one does.
    let server = Server::raw(|stream, number| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok((_, mut answer))) = connection.accept().await {
            if number > 0 {
                whole(&mut answer);
            }
            held.push(answer);
        }
    });
    let plan =
        Plan { connections: 1, timeout: Duration::from_millis(200), ..plan(&Kind::plain_http2(), 50.0, 600) };
    let measured = measure(plan, vec![lane(server.address, request("POST"))]).await;
    let lane = &measured.lanes[0];
    assert_eq!(server.connections(), 2);
    assert!((9..=20).contains(&lane.counts.failed[&ErrorClass::Timeout]), "{:?}", lane.counts);
    assert_eq!(lane.counts.completed(), 30);
}

/// A server of HTTP/1.1 that does the same thing to every request: sends bytes, and ends the connection or not.
fn telling(bytes: &'static [u8], closes: impl Fn(usize) -> bool + Send + Sync + Clone + 'static) -> Server {
    Server::raw(move |stream, _| {
        let closes = closes.clone();
        async move {
            let acceptor = TlsAcceptor::from(server_config(&[b"http/1.1"]));
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            for number in 0.. {
                let mut buffer = [0; 4096];
                let Ok(1..) = stream.read(&mut buffer).await else { return };
                if closes(number) && bytes.is_empty() {
                    break;
                }
                let _ = stream.write_all(bytes).await;
                let _ = stream.flush().await;
                if closes(number) {
                    break;
                }
            }
            let _ = stream.shutdown().await;
        }
    })
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn http_1_has_the_same_classes_as_without_tls() {
    let cases: [(&'static [u8], ErrorClass); 4] = [
        (b"", ErrorClass::Reset),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this", ErrorClass::ResetMidAnswer),
        (b"220 smtp.example ESMTP\r\n", ErrorClass::Protocol),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more", ErrorClass::Protocol),
    ];
    for (bytes, class) in cases {
        let server = telling(bytes, |_| true);
        let plan = Plan { connections: 4, ..plan(&Kind::secure(Protocol::Http1), 100.0, 40) };
        let measured = measure(plan, vec![lane(server.address, request("POST"))]).await;
        assert_eq!(failed(&measured.lanes[0]), [(class, 4)], "{}", bytes.escape_ascii());
    }
}

#[tokio::test]
async fn a_connection_of_http_1_that_ends_without_a_byte_is_stale_if_it_was_used() {
    let server = Server::raw(|stream, _| async move {
        let acceptor = TlsAcceptor::from(server_config(&[b"http/1.1"]));
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(OK).await;
        let _ = stream.read(&mut buffer).await;
    });
    let lane = ten(&Kind::secure(Protocol::Http1), "GET", server.address, |plan| plan).await;
    // The retry uses up the new connection's one answer, so all but the first are stale.
    assert_eq!(failed(&lane), [(ErrorClass::StaleKeepAlive, 9)]);
    assert_eq!((lane.counts.mended_by_retry, server.connections()), (9, 10));
}

#[tokio::test]
async fn a_connection_of_http_1_known_to_be_closed_is_replaced_without_an_error() {
    let server = telling(OK, |number| number == 1);
    let plan = Plan { connections: 1, ..plan(&Kind::secure(Protocol::Http1), 50.0, 200) };
    let measured = measure(plan, vec![lane(server.address, request("POST"))]).await;
    let lane = &measured.lanes[0];
    assert_eq!((lane.counts.succeeded, lane.counts.failures()), (10, 0));
    assert_eq!(server.connections(), 5);
    // The last one may be closed a moment after the load has ended.
    assert!((4..=5).contains(&measured.connections.closed_idle), "{:?}", measured.connections);
}
