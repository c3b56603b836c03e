//! Laws over generated answers: how the network cuts them up does not matter, and hyper sees what we see.
//!
//! The generator is seeded, so that every run is the same and a failure says which case it was. `QBENCH_FUZZ_CASES`
//! says how many cases a law is tried on: `QBENCH_FUZZ_CASES=10000000 cargo test --release http1` takes minutes.

use std::{
    env,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite as _;

use super::{
    Broken, Malformed, ResponseParser,
    response::MOST_HEAD_BYTES,
    tests::{GOOD, Outcome, Seen, Whole, outcome},
};

/// Cases a law is tried on unless `QBENCH_FUZZ_CASES` says otherwise: a second or two, unoptimised.
const CASES: u64 = 2000;

#[test]
fn a_generated_answer_is_read_as_it_was_meant() {
    for_each_case(1, |random| {
        let made = made(random);
        let whole = outcome(random.cut(&made.bytes), made.is_head).unwrap();
        assert_eq!(
            (whole.status, whole.reusable, whole.framed, whole.surplus, whole.seen.body),
            (made.status, made.reusable, made.framed, made.surplus, made.body),
            "{}",
            made.bytes.escape_ascii()
        );
    });
}

#[test]
fn cuts_do_not_change_what_becomes_of_a_spoiled_answer() {
    for_each_case(2, |random| {
        let (bytes, is_head) = spoiled(random);
        let expected = outcome([&bytes[..]], is_head);
        assert_eq!(outcome(random.cut(&bytes), is_head), expected, "{}", bytes.escape_ascii());
    });
}

#[test]
fn cuts_do_not_change_what_becomes_of_noise() {
    for_each_case(3, |random| {
        let bytes = noise(random);
        let is_head = random.one_in(8);
        let expected = outcome([&bytes[..]], is_head);
        assert_eq!(outcome(random.cut(&bytes), is_head), expected, "{}", bytes.escape_ascii());
    });
}

#[test]
fn hyper_sees_what_we_see() {
    for_each_case(4, |random| {
        let (bytes, is_head) = if random.one_in(8) { (noise(random), false) } else { spoiled(random) };
        compare_with_hyper(&random.cut(&bytes), is_head);
    });
}

#[test]
fn hyper_sees_what_we_see_of_a_large_body() {
    let body = "0123456789".repeat(30_000);
    for head in ["", "Content-Length: 300000\r\n", "Content-Length: 300001\r\n"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}");
        compare_with_hyper(&answer.as_bytes().chunks(1460).collect::<Vec<_>>(), false);
    }
    let chunk = format!("{:x}\r\n{body}\r\n", body.len());
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    compare_with_hyper(&answer.as_bytes().chunks(1460).collect::<Vec<_>>(), false);
}

/// Runs a law on its cases; a failure names the case.
fn for_each_case(law: u64, check: impl Fn(&mut Random)) {
    let cases = env::var("QBENCH_FUZZ_CASES").ok().map_or(CASES, |cases| cases.parse().unwrap());
    for case in 0..cases {
        let seed = law << 56 | case;
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&mut Random(seed))));
        assert!(failed.is_ok(), "case {case} of law {law} failed, see above");
    }
}

/// `SplitMix64`: small, fast, and good enough to spoil answers with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or 0.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..=self.below(most)).map(|_| self.next() as u8).collect()
    }

    /// Cuts bytes into pieces, some of them empty.
    fn cut<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let most = self.pick(&[1, 2, 8, 40, 400]);
        let mut pieces = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) =
                rest.split_at(self.below(most + 1).max(usize::from(most == 1)).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}

/// A good answer, and what it means.
struct Made {
    bytes: Vec<u8>,
    is_head: bool,
    status: u16,
    reusable: bool,
    framed: bool,
    surplus: usize,
    body: Vec<u8>,
}

/// Headers that say where a body ends.
const LENGTH: [&str; 2] = ["Content-Length: ", "content-length:"];
const CHUNKED: [&str; 2] = ["Transfer-Encoding: chunked", "transfer-encoding:x, CHUNKED "];
const CLOSE: [&str; 2] = ["Trailer: Sum", "Transfer-Encoding: chunked, gzip"];

/// Makes a good answer.
fn made(random: &mut Random) -> Made {
    let (is_head, is_old) = (random.one_in(8), random.one_in(8));
    let status = random.pick(&[200, 200, 200, 200, 201, 204, 304, 404, 503, 999]);
    let has_body = !is_head && status != 204 && status != 304;
    let body = if has_body && !random.one_in(4) { random.bytes(60) } else { Vec::new() };
    let framing = match random.below(if is_old { 1 } else { 5 }) {
        0 | 1 => format!("{}{}", random.pick(&LENGTH), body.len()),
        2 | 3 => random.pick(&CHUNKED).to_owned(),
        _ => random.pick(&CLOSE).to_owned(),
    };
    let is_chunked = CHUNKED.contains(&framing.as_str());
    let framed = !has_body || !CLOSE.contains(&framing.as_str());
    let option = random.pick(&["", "", "Connection: close", "Connection: x,Close", "Connection: keep-alive"]);

    let mut bytes = before_head(random);
    let line_end = random.pick(&["\r\n", "\r\n", "\r\n", "\n"]);
    let reason = random.pick(&["", " ", " OK", " Not  \u{e9}"]);
    let mut lines = vec![framing, option.to_owned()];
    for _ in 0..random.below(5) {
        let other =
            random.pick(&["Date: now", "X-Connection: close", "content-lengths: 1", "A:", "B:\t\u{e9}"]);
        lines.insert(random.below(lines.len() + 1), other.to_owned());
    }
    lines.retain(|line| !line.is_empty());
    lines.insert(0, format!("HTTP/1.{} {status}{reason}", u8::from(!is_old)));
    lines.push(String::new());
    bytes.extend(lines.iter().flat_map(|line| [line.as_str(), line_end]).flat_map(str::bytes));
    if has_body && is_chunked {
        bytes.extend(chunks(random, &body));
    } else {
        bytes.extend_from_slice(&body);
    }
    let surplus = if framed && random.one_in(8) { random.bytes(20) } else { Vec::new() };
    bytes.extend_from_slice(&surplus);

    let lasts = if is_old { option.ends_with("alive") } else { !option.ends_with("lose") };
    let reusable = lasts && framed && surplus.is_empty();
    Made { bytes, is_head, status, reusable, framed, surplus: surplus.len(), body }
}

/// What may come before the head of an answer: blank lines and informational answers, mostly nothing.
fn before_head(random: &mut Random) -> Vec<u8> {
    let most = if random.one_in(4) { 4 } else { 1 };
    let choices =
        ["\r\n", "\n", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.0 103\r\nContent-Length: 7\r\nA: b\n\n"];
    (0..random.below(most)).flat_map(|_| random.pick(&choices).bytes()).collect()
}

fn chunks(random: &mut Random, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(1 + random.below(30)) {
        let size = chunk.len();
        let size = match random.below(4) {
            0 => format!("{size:X} \t"),
            1 => format!("00{size:x};a=\"\u{e9}\""),
            _ => format!("{size:x}"),
        };
        bytes.extend([size.as_bytes(), b"\r\n", chunk, b"\r\n"].concat());
    }
    bytes.extend_from_slice(random.pick(&["0", "000", "0;last"]).as_bytes());
    bytes.extend_from_slice(random.pick(&["", "", "\r\nSum: 1", "\r\nA:\r\nB: \u{e9}"]).as_bytes());
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes
}

/// What is put into answers to spoil them, and what noise is made of.
const PIECES: [&[u8]; 32] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"1",
    b"9",
    b"f",
    b"G",
    b"-",
    b"\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200\n",
    b"HTTP/1.1 100\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: 99999999\r\n",
    b"fffffff;",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"connection:keep-alive\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
];

/// Bytes that may or may not be the beginning of something, now and then more than a head may have.
fn noise(random: &mut Random) -> Vec<u8> {
    let chunked = "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut bytes = random.pick(&["", "", "HTTP/1.1 200\r\n", chunked, chunked]).as_bytes().to_vec();
    for _ in 0..random.below(24) {
        match random.below(1000) {
            0 => bytes.extend(random.pick(&PIECES).repeat(random.below(MOST_HEAD_BYTES))),
            1..200 => bytes.extend(random.bytes(6)),
            _ => bytes.extend_from_slice(random.pick(&PIECES)),
        }
    }
    bytes.truncate(MOST_HEAD_BYTES + 9);
    bytes
}

/// A good answer that was changed in some places.
fn spoiled(random: &mut Random) -> (Vec<u8>, bool) {
    let (mut bytes, is_head) = match random.below(4) {
        0 => (random.pick(&GOOD).as_bytes().to_vec(), random.one_in(8)),
        _ => {
            let made = made(random);
            (made.bytes, made.is_head)
        }
    };
    for _ in 0..=random.below(4) {
        // Most bytes belong to heads, and a spoiled head hides what comes after it.
        let most = if random.one_in(2) { bytes.len() } else { bytes.len() / 3 };
        let at = bytes.len() - random.below(most + 1);
        let end = (at + random.below(6)).min(bytes.len());
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..end, random.pick(&PIECES).iter().copied())),
            4 => bytes.extend_from_within(at..end),
            _ => drop(bytes.splice(at..at, random.pick(&PIECES).iter().copied())),
        }
    }
    if random.one_in(8) {
        bytes.truncate(random.below(bytes.len() + 1));
    }
    (bytes, is_head)
}

/// What hyper's client makes of bytes that are followed by the end of the connection.
type HyperOutcome = Result<HyperWhole, hyper::Error>;

#[derive(Debug, PartialEq, Eq)]
struct HyperWhole {
    status: u16,
    reusable: bool,
    /// Whether the answer ended before the connection did.
    framed: bool,
    body: Bytes,
}

/// Feeds an answer to both.
pub(super) fn compare_with_hyper(pieces: &[&[u8]], is_head: bool) {
    let ours = outcome(pieces.iter().copied(), is_head);
    let theirs = hyper_outcome(pieces, is_head);
    let agree = match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => is_same_answer(ours, theirs) && ours.reusable == theirs.reusable,
        (ours, theirs) => ours.is_err() && theirs.is_err(),
    };
    assert!(
        agree || is_known_difference(&pieces.concat(), &ours, &theirs),
        "ours {ours:?}, hyper's {theirs:?} for {}",
        pieces.concat().escape_ascii()
    );
}

fn is_same_answer(ours: &Whole, theirs: &HyperWhole) -> bool {
    (ours.status, ours.framed, &ours.seen.body[..]) == (theirs.status, theirs.framed, &theirs.body[..])
}

/// Where we mean to differ from hyper.
fn is_known_difference(bytes: &[u8], ours: &Outcome, theirs: &HyperOutcome) -> bool {
    match (ours, theirs) {
        // Our bounds of heads, informational answers and bodies are lower, or hyper has none. And we never ask for
        // another protocol, so 101 is no answer to our request; hyper hands the connection over.
        (Err(Broken::Malformed(Malformed::TooLong(_) | Malformed::Upgrade)), Ok(_)) => true,
        // Bounds of hyper's that are lower: 100 headers, and trailers must stay below 16 KiB.
        (Ok(_), Err(_)) => bytes.split(|byte| *byte == b'\n').count() > 100 || bytes.len() > 16 << 10,
        // hyper looks for CRLF in trailers, and then reads them as it reads a head, where a bare LF ends a line too. So
        // there a bare LF is right or wrong depending on what else there is; here it is wrong.
        (Err(Broken::Malformed(Malformed::Chunk)), Ok(theirs)) => {
            let (refused, body) = refused(bytes);
            refused == b'\n' && body == theirs.body
        }
        // hyper overlooks a `Connection` header that is not all ASCII. To heed a `close` in it is the safe side.
        (Ok(ours), Ok(theirs)) => {
            let overlooked = |line: &[u8]| {
                line.len() > 11 && line[..11].eq_ignore_ascii_case(b"connection:") && !line.is_ascii()
            };
            is_same_answer(ours, theirs) && bytes.split(|byte| *byte == b'\n').any(overlooked)
        }
        _ => false,
    }
}

/// The first byte with which these are no answer, and the body up to there.
fn refused(bytes: &[u8]) -> (u8, Vec<u8>) {
    let mut parser = ResponseParser::new();
    let mut seen = Seen::default();
    parser.begin(false);
    let refused = bytes.iter().find(|byte| parser.feed(&[**byte], &mut seen).is_err());
    (*refused.unwrap(), seen.body)
}

/// Counts how often polling is asked for.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lets hyper send a request over a pipe and read these pieces as its answer. Without a runtime: everything is in
/// memory, so both ends are polled until none of them asks for more.
fn hyper_outcome(pieces: &[&[u8]], is_head: bool) -> HyperOutcome {
    let asked = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&asked));
    let context = &mut Context::from_waker(&waker);
    let room = 1024 + pieces.iter().map(|piece| piece.len()).sum::<usize>();
    let (mut server, client) = tokio::io::duplex(room);

    let Poll::Ready(shaken) = pin!(http1::handshake(TokioIo::new(client))).poll(context) else {
        unreachable!("there is nothing to shake hands about in HTTP/1")
    };
    let (mut sender, connection) = shaken?;
    let method = if is_head { Method::HEAD } else { Method::GET };
    let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request);
    let mut exchange = pin!(async {
        let answer = answer.await?;
        let status = answer.status().as_u16();
        Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
    });
    let mut connection = pin!(connection);
    let (mut is_open, mut outcome) = (true, None);
    let mut settle = |context: &mut Context<'_>| loop {
        let before = asked.0.load(Ordering::Relaxed);
        // An error of the connection after an answer is about what came after it.
        is_open = is_open && connection.as_mut().poll(context).is_pending();
        if outcome.is_none() {
            match exchange.as_mut().poll(context) {
                Poll::Ready(ended) => outcome = Some(ended),
                Poll::Pending => {}
            }
        }
        if asked.0.load(Ordering::Relaxed) == before {
            return outcome.is_some();
        }
    };

    settle(context);
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        let written = Pin::new(&mut server).poll_write(context, piece);
        assert!(matches!(written, Poll::Ready(Ok(length)) if length == piece.len()));
        settle(context);
    }
    let framed = settle(context);
    let reusable = framed && sender.is_ready();
    assert!(Pin::new(&mut server).poll_shutdown(context).is_ready());
    assert!(settle(context), "hyper waits for something after the end of the connection");
    let (status, body) = outcome.unwrap_or_else(|| unreachable!("it has settled"))?;
    Ok(HyperWhole { status, reusable, framed, body })
}
