//! What is sent, and what answers must hold.

use std::sync::{Arc, Mutex};

use super::{
    OK, failed, lane, measure, plan, request,
    server::{Deed, Server},
    ten,
};
use crate::{
    load::Plan,
    model::{
        request::{BodyCheck, Checks, HeaderCheck, Request, RowOrder, TextCheck, VariableSource, Variables},
        sample::ErrorClass,
    },
};

const JSON: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{\"items\":[{\"id\":7}";
const WHOLE_JSON: &[u8] =
    b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{\"items\":[{\"id\":7}]}";

/// Which classes ten requests with these checks end in.
async fn checked(answer: &'static [u8], checks: Checks) -> Vec<(ErrorClass, u64)> {
    let server = Server::start(move |_, _| Deed::Answer(answer));
    let request = Request { checks, ..request("POST") };
    let plan = Plan { connections: 1, ..plan(100.0, 100) };
    failed(&measure(plan, vec![lane(server.address, request)]).await.lanes[0])
}

#[tokio::test]
async fn a_status_is_expected_or_not() {
    let status = |status| Checks { status, ..Checks::default() };
    assert_eq!(checked(WHOLE_JSON, status(vec![])).await, []);
    assert_eq!(checked(WHOLE_JSON, status(vec![201..=201])).await, []);
    assert_eq!(checked(WHOLE_JSON, status(vec![200..=200, 400..=499])).await, [(ErrorClass::Status, 10)]);
}

#[tokio::test]
async fn headers_and_bodies_are_checked() {
    let header = |value| HeaderCheck { name: "Content-Type".to_owned(), value };
    let headers = |value| Checks { headers: vec![header(value)], ..Checks::default() };
    assert_eq!(checked(WHOLE_JSON, headers(None)).await, []);
    let html = TextCheck::Equals("text/html".to_owned());
    assert_eq!(checked(WHOLE_JSON, headers(Some(html))).await, [(ErrorClass::Check, 10)]);
    let json = |pointer: &str, equals| Checks {
        body: vec![BodyCheck::Json { pointer: pointer.to_owned(), equals }],
        ..Checks::default()
    };
    assert_eq!(checked(WHOLE_JSON, json("/items/0/id", Some(7.into()))).await, []);
    assert_eq!(checked(WHOLE_JSON, json("/items/0/id", Some(8.into()))).await, [(ErrorClass::Check, 10)]);
    assert_eq!(checked(WHOLE_JSON, json("/items/1", None)).await, [(ErrorClass::Check, 10)]);
    assert_eq!(checked(&JSON[..JSON.len()], json("/items", None)).await, [(ErrorClass::Check, 10)]);
    let matches = Checks { body: vec![BodyCheck::Matches("^ok$".to_owned())], ..Checks::default() };
    assert_eq!(checked(OK, matches).await, []);
}

#[tokio::test]
async fn each_request_gets_its_own_row() {
    let server = Server::start(|_, _| Deed::Answer(OK));
    let seen = server.keep_requests();
    let rows = VariableSource::Rows {
        names: vec!["user".to_owned(), "pet".to_owned()],
        rows: vec![vec!["ann".into(), "a cat".into()], vec!["bob".into(), "dog".into()]],
        order: RowOrder::InTurn,
    };
    let count = VariableSource::Sequence { name: "n".to_owned(), from: 5, to: 7, step: 1 };
    let mut lane = lane(
        server.address,
        Request { path: "/of/{{user}}?pet={{pet}}".to_owned(), body: b"n={{n}}".to_vec(), ..request("PUT") },
    );
    lane.routes[0].variables = Variables { sources: vec![rows, count] };
    let one = Plan { connections: 1, ..plan(100.0, 40) };
    let measured = measure(one, vec![lane]).await;
    assert_eq!(measured.lanes[0].counts.succeeded, 4);
    let seen = seen.lock().unwrap();
    let first_lines: Vec<&str> = seen.iter().map(|request| request.lines().next().unwrap()).collect();
    let (ann, bob) = ("PUT /of/ann?pet=a%20cat HTTP/1.1", "PUT /of/bob?pet=dog HTTP/1.1");
    assert_eq!(first_lines, [ann, bob, ann, bob]);
    let bodies: Vec<&str> = seen.iter().map(|request| request.rsplit("\r\n").next().unwrap()).collect();
    assert_eq!(bodies, ["n=5", "n=6", "n=7", "n=5"]);
}

#[tokio::test]
async fn a_client_keeps_its_cookies_over_connections() {
    let given: &[u8] =
        b"HTTP/1.1 200 OK\r\nconnection: close\r\nset-cookie: id=7; Path=/\r\ncontent-length: 2\r\n\r\nok";
    let server = Server::start(move |_, _| Deed::AnswerAndClose(given));
    let seen = server.keep_requests();
    let lane = ten("POST", server.address, |plan| Plan { cookies: true, ..plan }).await;
    assert_eq!((lane.counts.succeeded, lane.counts.failures()), (10, 0));
    let seen = seen.lock().unwrap();
    let cookies: Vec<bool> = seen.iter().map(|request| request.contains("cookie: id=7\r\n")).collect();
    assert_eq!(cookies, [vec![false], vec![true; 9]].concat());
}

#[tokio::test]
async fn a_large_body_goes_out_whole() {
    let body = vec![b'x'; 8 << 20];
    let received = Arc::new(Mutex::new(0));
    let server = Server::start(|_, _| Deed::Answer(OK));
    let seen = server.keep_requests();
    let request = Request { body: body.clone(), ..request("PUT") };
    let one = Plan { connections: 1, ..plan(100.0, 30) };
    let measured = measure(one, vec![lane(server.address, request)]).await;
    assert_eq!(measured.lanes[0].counts.succeeded, 3);
    for request in seen.lock().unwrap().iter() {
        *received.lock().unwrap() += request.len() - request.find("\r\n\r\n").unwrap() - 4;
    }
    assert_eq!(*received.lock().unwrap(), 3 * body.len());
}

/// The answer comes before the request is out, with a cookie that the rest of the request must not be changed by.
#[tokio::test]
async fn cookies_do_not_change_a_request_under_way() {
    let early: &[u8] = b"HTTP/1.1 200 OK\r\nset-cookie: id=7\r\ncontent-length: 1000\r\n\r\nsome";
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = vec![b'x'; 8 << 20];
    let expected = body.len();
    let server = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(early).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut held = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while held.len() < expected {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => held.extend_from_slice(&buffer[..read]),
            }
        }
        stream.write_all(&[b'y'; 996]).unwrap();
        held
    });
    let request = Request { body, ..request("POST") };
    let one = Plan { connections: 1, cookies: true, ..plan(100.0, 10) };
    let measured = measure(one, vec![lane(address, request)]).await;
    assert_eq!(measured.lanes[0].counts.completed(), 1, "{:?}", measured.lanes[0].counts);
    let held = server.join().unwrap();
    let end_of_head = held.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(held[end_of_head..].iter().all(|byte| *byte == b'x'), "nothing but the body follows the head");
}
