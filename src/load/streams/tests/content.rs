//! What requests hold, and what their answers must hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::Full;
use hyper::{Response, StatusCode, body::Bytes};

use super::{
    failed, kinds, lane, measure, plan, request,
    server::{Kind, Seen, Server, ok},
    ten,
};
use crate::{
    load::{Lane, Peer, Plan, Protocol, Route},
    model::{
        request::{BodyCheck, Checks, HeaderCheck, Request, TextCheck, VariableSource, Variables},
        sample::ErrorClass,
    },
};

/// A server that notes what it sees.
fn noting(kind: &Kind) -> (Server, Arc<Mutex<Vec<Seen>>>) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let held = Arc::clone(&notes);
    let server = Server::start(kind.clone(), move |seen| {
        held.lock().unwrap().push(seen);
        async { ok() }
    });
    (server, notes)
}

#[tokio::test]
async fn a_request_arrives_as_it_was_written() {
    for kind in kinds() {
        let (server, notes) = noting(&kind);
        let source = VariableSource::Sequence { name: "n".into(), from: 0, to: 1_000_000, step: 1 };
        let request = Request {
            method: "POST".into(),
            headers: vec![("X-Number".into(), "<{{n}}>".into()), ("TE".into(), "trailers".into())],
            body: b"number {{n}}".to_vec(),
            ..Request::get("/items/{{n}}?of=all")
        };
        let route = Route {
            peers: vec![server.address.into()],
            requests: vec![request],
            variables: Variables { sources: vec![source] },
        };
        let lanes = vec![Lane { name: "lane".into(), routes: vec![route] }];
        let measured = measure(plan(&kind, 200.0, 100), lanes).await;
        assert_eq!(measured.lanes[0].counts.succeeded, 20);
        let notes = notes.lock().unwrap();
        let mut numbers = BTreeSet::new();
        for seen in &*notes {
            let number = seen.uri.path().strip_prefix("/items/").unwrap();
            numbers.insert(number.parse::<u32>().unwrap());
            assert_eq!((seen.method.as_str(), seen.uri.query()), ("POST", Some("of=all")));
            assert_eq!(seen.headers["x-number"], format!("<{number}>"));
            assert_eq!(seen.body, format!("number {number}"));
            assert_eq!(seen.headers["content-length"], seen.body.len().to_string());
            let host = server.address.to_string();
            match kind.protocol {
                Protocol::Http1 => assert_eq!(seen.headers["host"], host),
                Protocol::Http2 => {
                    assert_eq!(seen.uri.authority().unwrap().as_str(), host);
                    let scheme = if kind.tls.is_some() { "https" } else { "http" };
                    assert_eq!(seen.uri.scheme_str(), Some(scheme));
                }
            }
        }
        assert_eq!(numbers, (0..20).collect());
    }
}

#[tokio::test]
async fn a_large_body_goes_out_and_comes_back() {
    for kind in kinds() {
        let server = Server::start(kind.clone(), |seen| async { Response::new(Full::new(seen.body)) });
        let body = vec![b'x'; 3 << 20];
        let checks = Checks { body: vec![BodyCheck::Matches("^x+$".into())], ..Checks::default() };
        let request = Request { method: "PUT".into(), body, checks, ..Request::get("/") };
        let plan = Plan { connections: 2, ..plan(&kind, 50.0, 100) };
        let measured = measure(plan, vec![lane(server.address, request)]).await;
        assert_eq!(measured.lanes[0].counts.succeeded, 5, "{:?}", measured.lanes[0].counts);
    }
}

#[tokio::test]
async fn an_answer_must_hold_what_is_asked_of_it() {
    let answer = |seen: &Seen| {
        let body = if seen.number.is_multiple_of(2) { "{\"even\":true}" } else { "{\"even\":false}" };
        let mut answer = Response::new(Full::from(body));
        answer.headers_mut().insert("x-kind", "json".parse().unwrap());
        answer
    };
    let body = |pointer: &str, equals: bool| BodyCheck::Json {
        pointer: pointer.into(),
        equals: Some(equals.into()),
    };
    let header =
        |value: &str| HeaderCheck { name: "X-Kind".into(), value: Some(TextCheck::Equals(value.into())) };
    let cases = [
        (Checks { body: vec![body("/even", true)], ..Checks::default() }, 5),
        (Checks { headers: vec![header("json")], ..Checks::default() }, 10),
        (Checks { headers: vec![header("xml")], ..Checks::default() }, 0),
        (Checks { headers: vec![header("json")], body: vec![body("/odd", true)], ..Checks::default() }, 0),
    ];
    for kind in kinds() {
        for (checks, good) in &cases {
            let server = Server::start(kind.clone(), move |seen| {
                let answer = answer(&seen);
                async { answer }
            });
            let request = Request { checks: checks.clone(), ..request("POST") };
            let plan = Plan { connections: 1, ..plan(&kind, 100.0, 100) };
            let measured = measure(plan, vec![lane(server.address, request)]).await;
            let lane = &measured.lanes[0];
            assert_eq!(lane.counts.succeeded, *good);
            let expected = if *good < 10 { vec![(ErrorClass::Check, 10 - good)] } else { Vec::new() };
            assert_eq!(failed(lane), expected);
            assert_eq!(server.connections(), 1, "the connection is as good as it was");
        }
    }
}

#[tokio::test]
async fn an_error_status_is_a_failure_on_a_connection_that_stays() {
    for kind in kinds() {
        let server = Server::start(kind.clone(), |_| async {
            let mut answer = ok();
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            answer
        });
        let lane = ten(&kind, "POST", server.address, |plan| plan).await;
        assert_eq!(failed(&lane), [(ErrorClass::Status, 10)]);
        assert_eq!((lane.latency.count(), server.connections()), (0, 1));
    }
}

#[tokio::test]
async fn an_error_status_may_be_mended_by_a_retry() {
    for kind in kinds() {
        let requests = std::sync::atomic::AtomicUsize::new(0);
        let server = Server::start(kind.clone(), move |_| {
            let number = requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut answer = ok();
            if number.is_multiple_of(2) {
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            async { answer }
        });
        let lane = ten(&kind, "GET", server.address, |plan| plan).await;
        assert_eq!(failed(&lane), [(ErrorClass::Status, 10)]);
        assert_eq!((lane.counts.mended_by_retry, server.requests()), (10, 20));
    }
}

#[tokio::test]
async fn the_answer_to_head_has_no_body() {
    for kind in kinds() {
        let server = Server::start(kind.clone(), |_| async {
            let mut answer = Response::new(Full::default());
            answer.headers_mut().insert("content-length", "1000".parse().unwrap());
            answer
        });
        let lane = ten(&kind, "HEAD", server.address, |plan| plan).await;
        assert_eq!((lane.counts.succeeded, server.connections()), (10, 1));
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    for kind in kinds() {
        let server = Server::start(kind.clone(), |_| async {
            Response::new(Full::new(Bytes::from(vec![b'x'; 65 << 20])))
        });
        let plan = Plan { connections: 1, ..plan(&kind, 20.0, 50) };
        let measured = measure(plan, vec![lane(server.address, request("POST"))]).await;
        assert_eq!(failed(&measured.lanes[0]), [(ErrorClass::Protocol, 1)]);
    }
}

#[tokio::test]
async fn each_connection_is_a_client_with_cookies_of_its_own() {
    for kind in kinds() {
        let notes = Arc::new(Mutex::new(BTreeMap::<usize, Vec<Option<String>>>::new()));
        let held = Arc::clone(&notes);
        let server = Server::start(kind.clone(), move |seen| {
            let cookie = seen.headers.get("cookie").map(|value| value.to_str().unwrap().to_owned());
            held.lock().unwrap().entry(seen.connection).or_default().push(cookie);
            let mut answer = ok();
            if seen.number == 0 {
                let given = format!("client={}; Path=/", seen.connection);
                answer.headers_mut().append("set-cookie", given.parse().unwrap());
                answer.headers_mut().append("set-cookie", "b=2".parse().unwrap());
            }
            async { answer }
        });
        let plan = Plan { cookies: true, connections: 2, ..plan(&kind, 50.0, 200) };
        let measured = measure(plan, vec![lane(server.address, request("GET"))]).await;
        assert_eq!(measured.lanes[0].counts.succeeded, 10);
        let notes = notes.lock().unwrap();
        assert_eq!(notes.len(), 2);
        for (connection, cookies) in &*notes {
            assert_eq!(cookies[0], None);
            let expected = Some(format!("client={connection}; b=2"));
            assert!(cookies[1..].iter().all(|cookie| *cookie == expected), "{cookies:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unix_sockets_are_spoken_to_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut authorities = BTreeSet::new();
        while let Some(Ok((request, mut answer))) = connection.accept().await {
            authorities.insert(request.uri().authority().unwrap().to_string());
            answer.send_response(Response::new(()), true).unwrap();
        }
        authorities
    });
    let kind = Kind::plain_http2();
    let route = Route {
        peers: vec![Peer::Unix(path)],
        requests: vec![request("GET")],
        variables: Variables::default(),
    };
    let plan = Plan { connections: 1, ..plan(&kind, 100.0, 100) };
    let measured = measure(plan, vec![Lane { name: "lane".into(), routes: vec![route] }]).await;
    assert_eq!(measured.lanes[0].counts.succeeded, 10);
    let authorities = tokio::time::timeout(Duration::from_secs(20), server).await.unwrap().unwrap();
    assert_eq!(authorities, BTreeSet::from(["localhost".to_owned()]));
}
