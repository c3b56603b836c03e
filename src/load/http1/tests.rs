//! The rules as tables, and the bounds. Every row of a table goes through hyper, too.

use std::mem::size_of;

use super::{
    Broken, Excess, Malformed, Progress, ResponseParser, Sink,
    response::{MOST_BODY_BYTES, MOST_HEAD_BYTES},
    tests_differential::compare_with_hyper,
};

/// What a parser made of some bytes that are followed by the end of the connection.
pub(super) type Outcome = Result<Whole, Broken>;

/// A whole answer, and everything that was seen of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) status: u16,
    pub(super) reusable: bool,
    /// Whether it ended before the connection did.
    pub(super) framed: bool,
    pub(super) surplus: usize,
    pub(super) seen: Seen,
}

/// A sink that keeps everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    head: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Sink for Seen {
    fn head(&mut self, status: u16, headers: &[httparse::Header<'_>]) {
        assert!(self.head.is_empty() && self.body.is_empty(), "the head comes once, and first");
        self.head.extend_from_slice(&status.to_le_bytes());
        for header in headers {
            for part in [header.name.as_bytes(), b": ", header.value, b"\n"] {
                self.head.extend_from_slice(part);
            }
        }
    }

    fn body(&mut self, bytes: &[u8]) {
        assert!(!self.head.is_empty() && !bytes.is_empty());
        self.body.extend_from_slice(bytes);
    }
}

/// Feeds pieces, then closes. Checks on the way what must always hold.
pub(super) fn outcome<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, is_head: bool) -> Outcome {
    let mut parser = ResponseParser::new();
    let mut seen = Seen::default();
    let mut pieces = pieces.into_iter();
    parser.begin(is_head);
    let mut fed = 0;
    for piece in &mut pieces {
        fed += piece.len();
        let progress = parser.feed(piece, &mut seen);
        assert!(parser.held() <= MOST_HEAD_BYTES, "{} bytes held", parser.held());
        assert_eq!(parser.has_begun(), fed > 0);
        match progress {
            Ok(Progress::More) => {}
            Ok(Progress::Done { answer, surplus }) => {
                assert_eq!((parser.held(), answer.body_len), (0, seen.body.len() as u64));
                assert!(surplus < piece.len() && (surplus == 0 || !answer.reusable));
                let surplus = surplus + pieces.map(<[u8]>::len).sum::<usize>();
                let reusable = answer.reusable && surplus == 0;
                return Ok(Whole { status: answer.status, reusable, framed: true, surplus, seen });
            }
            Err(malformed) => {
                assert_eq!(parser.held(), 0);
                assert_eq!(parser.feed(b"HTTP/1.1 204\r\n\r\n", &mut seen), Err(malformed));
                assert_eq!(parser.close(), Err(Broken::Malformed(malformed)));
                return Err(malformed.into());
            }
        }
    }
    let closed = parser.close();
    assert_eq!(parser.held(), 0);
    let answer = closed?;
    assert_eq!(answer.body_len, seen.body.len() as u64);
    Ok(Whole { status: answer.status, reusable: answer.reusable, framed: false, surplus: 0, seen })
}

fn whole(bytes: &[u8], is_head: bool) -> Outcome {
    outcome([bytes], is_head)
}

/// An outcome in a few words, for tables.
fn words(outcome: &Outcome) -> String {
    match outcome {
        Err(broken) => format!("{broken:?}"),
        Ok(whole) => {
            let fate = if whole.reusable { "kept" } else { "shut" };
            let close = if whole.framed { "" } else { " at close" };
            let surplus = if whole.surplus > 0 { format!(" +{}", whole.surplus) } else { String::new() };
            let body = whole.seen.body.escape_ascii();
            format!("{} {fate}{close}{surplus} {body}", whole.status).trim_end().to_owned()
        }
    }
}

/// Every row in one piece, in single bytes and in every two pieces.
fn check(is_head: bool, rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        let bytes = text.as_bytes();
        assert_eq!(words(&whole(bytes, is_head)), *expected, "{text:?}");
        compare_with_hyper(&[bytes], is_head);
        assert_eq!(words(&outcome(bytes.chunks(1), is_head)), *expected, "{text:?} in single bytes");
        for at in 0..=bytes.len() {
            let pieces = [&bytes[..at], &bytes[at..]];
            assert_eq!(words(&outcome(pieces, is_head)), *expected, "{text:?} cut at {at}");
        }
    }
}

/// Good answers of each kind, to be cut up and spoiled.
pub(super) const GOOD: [&str; 10] = [
    "HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
    "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 304\r\nContent-Length: 7\r\n\r\n",
    "HTTP/1.1 404 Not Found\nContent-Length: 0\n\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
     HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=\"y\"\r\n, worldly!\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n1 \r\na\r\n00\r\nSum: 1\r\nEmpty:\r\n\r\n",
    "\r\n\nHTTP/1.1 500 \r\n\r\nuntil the end",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\nuntil the end",
];

#[test]
fn the_head_says_where_the_body_ends() {
    check(
        false,
        &[
            (GOOD[0], "200 kept hello"),
            (GOOD[2], "204 shut"),
            (GOOD[3], "304 kept"),
            (GOOD[4], "404 kept"),
            (GOOD[6], "200 kept hello, worldly!"),
            (GOOD[7], "200 kept a"),
            (GOOD[8], "500 shut at close until the end"),
            (GOOD[9], "200 shut at close until the end"),
            ("HTTP/1.1 200 OK\r\n\r\n", "200 shut at close"),
            ("HTTP/1.1 204\r\nTransfer-Encoding: chunked\r\n\r\n", "204 kept"),
            ("HTTP/1.1 204\r\nContent-Length: 2\r\n\r\nok", "204 shut +2"),
            ("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200\r\n", "200 shut +14 ok"),
            ("HTTP/1.1 200\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "200 kept"),
            (
                "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0",
                "200 shut at close 0",
            ),
            (
                "HTTP/1.1 200\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "200 kept",
            ),
            ("HTTP/1.1 200\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0", "200 shut at close 0"),
            ("HTTP/1.1 200\r\nTransfer-Encoding: \u{e9}, chunked\r\n\r\n0", "200 shut at close 0"),
            ("HTTP/1.1 200\r\nTransfer-Encoding: chunked,\r\n\r\n0", "200 shut at close 0"),
            ("HTTP/1.1 200\r\nTransfer-Encoding: xchunked\r\n\r\n0", "200 shut at close 0"),
            ("HTTP/1.0 200\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "Malformed(Coding)"),
        ],
    );
    check(
        true,
        &[
            ("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", "200 kept"),
            ("HTTP/1.1 200\r\nContent-Length: five\r\n\r\n", "200 kept"),
            ("HTTP/1.1 200\r\nContent-Length: 99999999999\r\n\r\n", "200 kept"),
            ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", "200 kept"),
            ("HTTP/1.1 200\r\n\r\nbody", "200 shut +4"),
        ],
    );
}

#[test]
fn a_content_length_is_one_number() {
    let answer = |header: &str| format!("HTTP/1.1 200\r\n{header}\r\n\r\nhello");
    for (header, expected) in [
        ("Content-Length: 5", "200 kept hello"),
        ("CONTENT-LENGTH:5 \t", "200 kept hello"),
        ("Content-Length: 0005", "200 kept hello"),
        ("Content-Length: 5, 5", "200 kept hello"),
        ("Content-Length: 5\r\nX: y\r\ncontent-length: 5,5", "200 kept hello"),
        ("Content-Length: 4", "200 shut +1 hell"),
        ("Content-Length: 0", "200 shut +5"),
        ("Content-Length: 6", "InsideAnswer"),
        ("Content-Length: 67108864", "InsideAnswer"),
        ("Content-Length: 67108865", "Malformed(TooLong(Body))"),
        ("Content-Length: 18446744073709551615", "Malformed(TooLong(Body))"),
        ("Content-Length: 18446744073709551616", "Malformed(Length)"),
        ("Content-Length: 99999999999999999999", "Malformed(Length)"),
        ("Content-Length: 5, 6", "Malformed(Length)"),
        ("Content-Length: 5\r\nContent-Length: 6", "Malformed(Length)"),
        ("Content-Length: 5\r\nContent-Length: x", "Malformed(Length)"),
        ("Content-Length: x\r\nContent-Length: 5", "Malformed(Length)"),
        ("Content-Length: 5,", "Malformed(Length)"),
        ("Content-Length:", "Malformed(Length)"),
        ("Content-Length: +5", "Malformed(Length)"),
        ("Content-Length: -5", "Malformed(Length)"),
        ("Content-Length: 5 5", "Malformed(Length)"),
        ("Content-Length: 0x5", "Malformed(Length)"),
        ("Content-Length: ５", "Malformed(Length)"),
    ] {
        check(false, &[(&answer(header), expected)]);
    }
}

#[test]
fn the_connection_is_kept_when_both_versions_and_options_allow_it() {
    for (version, options, expected) in [
        ("1.1", "", "200 kept"),
        ("1.1", "Connection: keep-alive\r\n", "200 kept"),
        ("1.1", "Connection: close\r\n", "200 shut"),
        ("1.1", "Connection: CLOSE\r\n", "200 shut"),
        ("1.1", "connection: upgrade ,\tClose ,x\r\n", "200 shut"),
        ("1.1", "Connection: closed, not-close, keep-alive\r\n", "200 kept"),
        ("1.1", "Connection: close\r\nConnection: keep-alive\r\n", "200 shut"),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", "200 shut"),
        ("1.0", "", "200 shut"),
        ("1.0", "Connection: Keep-Alive\r\n", "200 kept"),
        ("1.0", "Connection: x, keep-alive\r\n", "200 kept"),
        ("1.0", "Connection: keep-alive, x\r\n", "200 kept"),
        ("1.0", "Connection: keep-alive, close\r\n", "200 shut"),
        ("1.0", "Keep-Alive: timeout=5\r\n", "200 shut"),
    ] {
        let answer = format!("HTTP/{version} 200 OK\r\n{options}Content-Length: 0\r\n\r\n");
        check(false, &[(&answer, expected)]);
    }
}

#[test]
fn informational_answers_are_skipped() {
    check(
        false,
        &[
            (GOOD[5], "200 kept x"),
            ("HTTP/1.1 102\r\nContent-Length: x\r\n\r\n\r\nHTTP/1.1 204\r\n\r\n", "204 kept"),
            ("HTTP/1.1 199\r\nConnection: close\r\n\r\nHTTP/1.1 204\r\n\r\n", "204 kept"),
            ("HTTP/1.1 100 Continue\r\n\r\n", "InsideAnswer"),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "Malformed(Upgrade)"),
            ("HTTP/1.1 100\r\n\r\nHTTP/1.1 101\r\n\r\n", "Malformed(Upgrade)"),
        ],
    );
    check(true, &[(&GOOD[5][..GOOD[5].len() - 1], "200 kept")]);
}

#[test]
fn a_head_is_of_http_1() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(200));
    check(
        false,
        &[
            ("", "BeforeFirstByte"),
            ("\r", "InsideAnswer"),
            ("\r\n\r\n", "InsideAnswer"),
            ("\n\r\n\nHTTP/1.1 204\n\r\n", "204 kept"),
            ("\rH", "Malformed(Head)"),
            ("HTTP/1.1 200 OK\r\nA: b", "InsideAnswer"),
            ("HTTP/1.1 999 \u{e9}t\u{e9}\r\nContent-Length: 0\r\n\r\n", "999 kept"),
            ("HTTP/1.1 099\r\n\r\n", "Malformed(Head)"),
            ("HTTP/1.1 20\r\n\r\n", "Malformed(Head)"),
            ("HTTP/1.1 2000\r\n\r\n", "Malformed(Head)"),
            ("HTTP/1.1  200 OK\r\n\r\n", "Malformed(Head)"),
            ("HTTP/2 200\r\n\r\n", "Malformed(Head)"),
            ("HTTP/1.2 200\r\n\r\n", "Malformed(Head)"),
            ("http/1.1 200\r\n\r\n", "Malformed(Head)"),
            ("<html>", "Malformed(Head)"),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "Malformed(Head)"),
            ("HTTP/1.1 200 OK\r\n b\r\n\r\n", "Malformed(Head)"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "Malformed(Head)"),
            ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", "Malformed(Head)"),
            ("HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", "Malformed(Head)"),
            ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "Malformed(Head)"),
            ("HTTP/1.1 200 OK\r\nA: \0", "Malformed(Head)"),
            (&long, "200 shut at close"),
        ],
    );
}

#[test]
fn chunks_are_checked_for_form() {
    for (body, expected) in [
        ("0\r\n\r\n", "200 kept"),
        ("000\r\n\r\n", "200 kept"),
        ("1\r\na\r\n0\r\n\r\n", "200 kept a"),
        ("00000000000000000001\r\na\r\n0\r\n\r\n", "200 kept a"),
        ("a\r\n0123456789\r\n0\r\n\r\nrest", "200 shut +4 0123456789"),
        ("1;\r\na\r\n0;last=\x07\"\r\n\r\n", "200 kept a"),
        ("1 \t;x\r\na\r\n0\t\r\n\r\n", "200 kept a"),
        ("0\r\nA: b\r\nC:\r\n!#$%&'*+-.^_`|~9: \t\u{e9}\r\n\r\n", "200 kept"),
        ("1\r\na\r\n", "InsideAnswer"),
        ("2\r\na", "InsideAnswer"),
        ("0\r\n", "InsideAnswer"),
        ("0\r\nA: b\r\n", "InsideAnswer"),
        ("\r\n", "Malformed(Chunk)"),
        (" 1\r\na\r\n0\r\n\r\n", "Malformed(Chunk)"),
        (";x\r\n\r\n", "Malformed(Chunk)"),
        ("g\r\n\r\n", "Malformed(Chunk)"),
        ("-1\r\n\r\n", "Malformed(Chunk)"),
        ("1 1\r\na\r\n", "Malformed(Chunk)"),
        ("1\na\r\n0\r\n\r\n", "Malformed(Chunk)"),
        ("1\r\ra", "Malformed(Chunk)"),
        ("1;x\na\r\n0\r\n\r\n", "Malformed(Chunk)"),
        ("1;x\ny\r\na\r\n0\r\n\r\n", "Malformed(Chunk)"),
        ("1;x\ry\r\na\r\n0\r\n\r\n", "Malformed(Chunk)"),
        ("1\r\nab\r\n0\r\n\r\n", "Malformed(Chunk)"),
        ("1\r\na\n0\r\n\r\n", "Malformed(Chunk)"),
        ("1\r\na\r\r0\r\n\r\n", "Malformed(Chunk)"),
        ("0\r\n\n", "Malformed(Chunk)"),
        ("0\r\n\r\r", "Malformed(Chunk)"),
        ("0\r\nA: b\n\r\n", "Malformed(Chunk)"),
        ("0\r\nA b: c\r\n\r\n", "Malformed(Chunk)"),
        ("0\r\n: c\r\n\r\n", "Malformed(Chunk)"),
        ("0\r\n c: d\r\n\r\n", "Malformed(Chunk)"),
        ("0\r\nA: \0\r\n\r\n", "Malformed(Chunk)"),
        ("0\r\nA: \x7f\r\n\r\n", "Malformed(Chunk)"),
        ("0\r\nA\r\n\r\n", "Malformed(Chunk)"),
        ("4000000\r\n", "InsideAnswer"),
        ("4000001\r\n", "Malformed(TooLong(Body))"),
        ("1\r\na\r\n4000000\r\n", "Malformed(TooLong(Body))"),
        ("ffffffffffffffffffff\r\n", "Malformed(TooLong(Body))"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        check(false, &[(&answer, expected)]);
    }
}

#[test]
fn an_answer_cut_short_breaks_where_it_was_cut() {
    for text in GOOD {
        let head = text.find("HTTP/1.1 500 \r\n\r\n").map(|at| at + 17);
        let until_close =
            head.or_else(|| text.contains("gzip\r\n").then(|| text.find("\r\n\r\n").unwrap() + 4));
        for length in 0..text.len() {
            let cut = &text.as_bytes()[..length];
            let broken = match length {
                0 => Broken::BeforeFirstByte,
                _ => Broken::InsideAnswer,
            };
            for cut in [whole(cut, false), outcome(cut.chunks(1), false)] {
                match until_close {
                    Some(head) if length >= head => {
                        assert_eq!(cut.unwrap().seen.body, &text.as_bytes()[head..length]);
                    }
                    _ => assert_eq!(cut, Err(broken), "{:?}", &text[..length]),
                }
            }
        }
    }
}

#[test]
fn no_two_cuts_change_an_answer() {
    for text in GOOD {
        let bytes = text.as_bytes();
        let expected = whole(bytes, false);
        assert!(expected.is_ok(), "{text:?}");
        for second in 0..=bytes.len() {
            for first in 0..=second {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(outcome(pieces, false), expected, "{text:?} cut at {first} and {second}");
            }
        }
    }
}

#[test]
fn a_connection_carries_one_answer_after_the_other() {
    let mut parser = ResponseParser::new();
    assert_eq!(parser.close(), Err(Broken::BeforeFirstByte));
    for text in GOOD {
        parser.begin(false);
        assert!(!parser.has_begun());
        assert_eq!(parser.feed(b"", &mut ()), Ok(Progress::More));
        assert!(!parser.has_begun());
        let (start, end) = text.as_bytes().split_at(5);
        assert_eq!(parser.feed(start, &mut ()), Ok(Progress::More));
        assert!(parser.has_begun() && parser.held() > 0);
        match parser.feed(end, &mut ()) {
            Ok(Progress::Done { surplus: 0, .. }) => {
                assert_eq!(parser.feed(b"", &mut ()), Ok(Progress::More));
                assert_eq!(parser.feed(b"x", &mut ()), Err(Malformed::Unasked));
            }
            other => {
                assert_eq!(other, Ok(Progress::More));
                assert!(parser.close().is_ok());
            }
        }
        assert_eq!(parser.held(), 0);
    }
    assert!(size_of::<ResponseParser>() <= 64, "{}", size_of::<ResponseParser>());
}

/// At a bound all is well, beyond it is not, however it comes.
fn check_bound(excess: Excess, answer: impl Fn(usize) -> String, most: usize) {
    for (size, good) in [(most - 1, true), (most, true), (most + 1, false)] {
        let answer = answer(size);
        compare_with_hyper(&[answer.as_bytes()], false);
        for piece in [answer.len(), 1, 7, 1460] {
            let outcome = outcome(answer.as_bytes().chunks(piece), false);
            match outcome {
                Ok(_) => assert!(good, "{excess:?}, {size} in pieces of {piece}"),
                Err(broken) => {
                    assert_eq!(broken, Broken::Malformed(Malformed::TooLong(excess)), "{size}");
                    assert!(!good, "{excess:?}, {size} in pieces of {piece}");
                }
            }
        }
    }
}

#[test]
fn everything_is_bounded() {
    let filled = |size: usize, before: &str, after: &str| {
        format!("{before}{}{after}", "x".repeat(size - before.len() - after.len()))
    };
    let end = "\r\nContent-Length: 1\r\n\r\n";
    check_bound(Excess::Head, |size| filled(size, "HTTP/1.1 200 OK\r\nA: ", end) + "y", MOST_HEAD_BYTES);
    let blank = |size| "\n".repeat(size - 16) + "HTTP/1.1 204\r\n\r\n";
    check_bound(Excess::Head, blank, MOST_HEAD_BYTES);
    let second = |size| "\n".repeat(MOST_HEAD_BYTES / 2) + "HTTP/1.1 100\r\n\r\n" + &blank(size);
    check_bound(Excess::Head, second, MOST_HEAD_BYTES);
    let headers = |size| format!("HTTP/1.1 204\r\n{}\r\n", "A: b\r\n".repeat(size));
    check_bound(Excess::Headers, headers, 128);
    let informational = |size| "HTTP/1.1 103\r\nA: b\r\n\r\n".repeat(size) + "HTTP/1.1 204\r\n\r\n";
    check_bound(Excess::Informational, informational, 32);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let line =
        |size| format!("{chunked}{}y\r\n{}\r\n", filled(size, "1;", "\r\n"), filled(size, "0;", "\r\n"));
    check_bound(Excess::ChunkLine, line, 4 << 10);
    let trailers = |size| format!("{chunked}1\r\ny\r\n0\r\n{}", filled(size, "a:b\r\nc:", "\r\n\r\n"));
    check_bound(Excess::Trailers, trailers, 16 << 10);
}

#[test]
fn a_body_is_bounded_whatever_its_framing() {
    let most = MOST_BODY_BYTES as usize;
    let piece = vec![b'0'; 1 << 20];
    let fill = |head: &str| {
        let mut parser = ResponseParser::new();
        parser.begin(false);
        assert_eq!(parser.feed(head.as_bytes(), &mut ()), Ok(Progress::More));
        for _ in 0..63 {
            assert_eq!(parser.feed(&piece, &mut ()), Ok(Progress::More));
        }
        parser
    };
    let too_long = Malformed::TooLong(Excess::Body);

    let mut parser = fill("HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(parser.feed(&piece, &mut ()), Ok(Progress::More));
    assert_eq!(parser.close().unwrap().body_len, MOST_BODY_BYTES);
    let mut parser = fill("HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(parser.feed(&[&piece[..], b"x"].concat(), &mut ()), Err(too_long));

    let mut parser = fill(&format!("HTTP/1.1 200 OK\r\nContent-Length: {most}\r\n\r\n"));
    assert!(matches!(parser.feed(&piece, &mut ()), Ok(Progress::Done { surplus: 0, .. })));

    let chunks = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{most:x}\r\n");
    let mut parser = fill(&chunks);
    assert_eq!(parser.feed(&piece, &mut ()), Ok(Progress::More));
    assert!(matches!(parser.feed(b"\r\n0\r\n\r\n", &mut ()), Ok(Progress::Done { surplus: 0, .. })));
    let mut parser = fill(&chunks);
    assert_eq!(parser.feed(&piece, &mut ()), Ok(Progress::More));
    assert_eq!(parser.feed(b"\r\n1\r\n\r\n", &mut ()), Err(too_long));
}
