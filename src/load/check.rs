//! Whether an answer is a success: its status, its headers, its body.
//!
//! Deliberately absent: saying what was wrong instead. Answers are counted by the million, and may hold secrets.

use std::{cmp::Ordering, ops::RangeInclusive};

use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Number, Value};

use crate::model::request::{BodyCheck, Checks, TextCheck};

/// What a compiled expression may take, and again what its matching may cache.
const LARGEST_REGEX_BYTES: usize = 1 << 20;
/// A bit for each is what a pass over an answer's headers needs.
const MOST_HEADER_CHECKS: usize = u64::BITS as usize;

/// Checks, ready to be made many times.
#[derive(Debug, Default)]
pub(super) struct CompiledChecks {
    /// When empty, 200 to 299.
    status: Vec<RangeInclusive<u16>>,
    headers: Vec<Header>,
    matches: Vec<Regex>,
    json: Vec<Json>,
}

#[derive(Debug)]
struct Header {
    name: String,
    value: Option<Text>,
}

#[derive(Debug)]
enum Text {
    Equals(Vec<u8>),
    Matches(Regex),
}

#[derive(Debug)]
struct Json {
    pointer: String,
    equals: Option<Value>,
}

impl CompiledChecks {
    /// Errors say which check is none, and repeat neither a value nor an expression.
    pub(super) fn new(checks: &Checks) -> Result<Self, String> {
        let mut compiled = Self { status: checks.status.clone(), ..Self::default() };
        if checks.status.iter().any(|range| range.is_empty() || *range.start() < 100 || *range.end() > 599) {
            return Err("expected status is not within 100 to 599".to_owned());
        }
        if checks.headers.len() > MOST_HEADER_CHECKS {
            return Err(format!("more than {MOST_HEADER_CHECKS} headers are expected"));
        }
        for check in &checks.headers {
            let name = check.name.clone();
            let value = match &check.value {
                None => None,
                Some(TextCheck::Equals(text)) => Some(Text::Equals(text.clone().into_bytes())),
                Some(TextCheck::Matches(pattern)) => {
                    let compiled = regex(pattern)
                        .map_err(|problem| format!("expression for the expected header {name} {problem}"))?;
                    Some(Text::Matches(compiled))
                }
            };
            compiled.headers.push(Header { name, value });
        }
        for check in &checks.body {
            match check {
                BodyCheck::Matches(pattern) => {
                    let regex = regex(pattern)
                        .map_err(|problem| format!("expression for the expected body {problem}"))?;
                    compiled.matches.push(regex);
                }
                BodyCheck::Json { pointer, .. } if !is_pointer(pointer) => {
                    return Err(
                        "pointer into the expected JSON is not empty and does not begin with `/`, or has \
                                a `~` that neither 0 nor 1 follows"
                            .to_owned(),
                    );
                }
                BodyCheck::Json { pointer, equals } => {
                    compiled.json.push(Json { pointer: pointer.clone(), equals: equals.clone() });
                }
            }
        }
        Ok(compiled)
    }

    /// Whether the answer's headers matter.
    pub(super) fn needs_headers(&self) -> bool {
        !self.headers.is_empty()
    }

    /// Whether the answer's body matters, and so must be kept until it is whole.
    pub(super) fn needs_body(&self) -> bool {
        !self.matches.is_empty() || !self.json.is_empty()
    }

    /// Whether this status is a success.
    pub(super) fn status_ok(&self, status: u16) -> bool {
        if self.status.is_empty() {
            return matches!(status, 200..=299);
        }
        self.status.iter().any(|range| range.contains(&status))
    }

    /// Whether the answer's headers, names in any case, hold what they must.
    pub(super) fn headers_ok<'h>(&self, headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> bool {
        let mut missing = self.headers.iter().enumerate().fold(0_u64, |bits, (at, _)| bits | 1 << at);
        if missing == 0 {
            return true;
        }
        for (name, value) in headers {
            for (at, check) in self.headers.iter().enumerate() {
                if check.name.eq_ignore_ascii_case(name) && check.holds(value) {
                    missing &= !(1 << at);
                }
            }
        }
        missing == 0
    }

    /// Whether the whole body, without transfer coding, holds what it must.
    pub(super) fn body_ok(&self, body: &[u8]) -> bool {
        if !self.matches.iter().all(|regex| regex.is_match(body)) {
            return false;
        }
        if self.json.is_empty() {
            return true;
        }
        // What is nested too deeply for the parser is no JSON either, so that no answer can exhaust the stack.
        let Ok(document) = serde_json::from_slice::<Value>(body) else { return false };
        self.json.iter().all(|check| match (document.pointer(&check.pointer), &check.equals) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(found), Some(wanted)) => is_same(found, wanted),
        })
    }
}

impl Header {
    fn holds(&self, value: &[u8]) -> bool {
        match &self.value {
            None => true,
            Some(Text::Equals(text)) => value.trim_ascii() == text,
            Some(Text::Matches(regex)) => regex.is_match(value),
        }
    }
}

/// The problem is a predicate: "is not …".
fn regex(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(LARGEST_REGEX_BYTES)
        .dfa_size_limit(LARGEST_REGEX_BYTES)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                format!("takes more than {} MiB when compiled", LARGEST_REGEX_BYTES >> 20)
            }
            _ => "is not a regular expression".to_owned(),
        })
}

/// RFC 6901, section 3.
fn is_pointer(text: &str) -> bool {
    let escapes_are_whole = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    (text.is_empty() || text.starts_with('/')) && escapes_are_whole
}

/// Equal as JSON values: 1 and 1.0 are the same number, and members of objects have no order.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => is_same_number(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let is_in_b = |(key, a): (&String, &Value)| b.get(key).is_some_and(|b| is_same(a, b));
            a.len() == b.len() && a.iter().all(is_in_b)
        }
        _ => a == b,
    }
}

/// Whole numbers are compared as such: as floats, those beyond 2⁵³ would be equal to their neighbours.
fn is_same_number(a: &Number, b: &Number) -> bool {
    let is_float = a.is_f64() || b.is_f64();
    a == b
        || (is_float
            && a.as_f64()
                .zip(b.as_f64())
                .is_some_and(|(a, b)| a.partial_cmp(&b).is_some_and(Ordering::is_eq)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::request::HeaderCheck;

    fn compiled(checks: &Checks) -> CompiledChecks {
        CompiledChecks::new(checks).unwrap()
    }

    fn body(checks: Vec<BodyCheck>) -> CompiledChecks {
        compiled(&Checks { body: checks, ..Checks::default() })
    }

    fn matches(pattern: &str) -> BodyCheck {
        BodyCheck::Matches(pattern.to_owned())
    }

    fn pointer(pointer: &str, equals: Option<Value>) -> BodyCheck {
        BodyCheck::Json { pointer: pointer.to_owned(), equals }
    }

    #[test]
    fn without_checks_any_answer_of_the_two_hundreds_will_do() {
        let checks = compiled(&Checks::default());
        assert!(!checks.needs_headers() && !checks.needs_body());
        assert!(checks.headers_ok([]) && checks.body_ok(b""));
        let good: Vec<u16> = (0..1000).filter(|status| checks.status_ok(*status)).collect();
        assert_eq!(good, (200..300).collect::<Vec<_>>());
    }

    #[test]
    fn expected_statuses_replace_the_usual_ones() {
        let checks = compiled(&Checks { status: vec![404..=404, 301..=303], ..Checks::default() });
        let good: Vec<u16> = (0..1000).filter(|status| checks.status_ok(*status)).collect();
        assert_eq!(good, [301, 302, 303, 404]);
    }

    #[test]
    fn each_header_check_must_be_satisfied_by_some_occurrence() {
        let check = |name: &str, value| HeaderCheck { name: name.to_owned(), value };
        let checks = compiled(&Checks {
            headers: vec![
                check("ETag", None),
                check("vary", Some(TextCheck::Equals("accept".to_owned()))),
                check("content-type", Some(TextCheck::Matches("^application/(.*\\+)?json".to_owned()))),
            ],
            ..Checks::default()
        });
        assert!(checks.needs_headers());
        let good: &[(&str, &[u8])] = &[
            ("Vary", b"cookie"),
            ("Content-Type", b"application/problem+json; charset=utf-8"),
            ("etag", b""),
            ("VARY", b" accept "),
        ];
        assert!(checks.headers_ok(good.iter().copied()));
        for without in [1, 2, 3] {
            let some = good.iter().enumerate().filter(|(at, _)| *at != without).map(|(_, header)| *header);
            assert!(!checks.headers_ok(some), "{without}");
        }
        let parsed = good.iter().map(|(name, value)| httparse::Header { name, value });
        let parsed: Vec<_> = parsed.collect();
        assert!(checks.headers_ok(parsed.iter().map(|header| (header.name, header.value))));
    }

    #[test]
    fn as_many_header_checks_as_there_are_bits() {
        let checks = |count| {
            let headers = vec![HeaderCheck { name: "a".to_owned(), value: None }; count];
            CompiledChecks::new(&Checks { headers, ..Checks::default() })
        };
        let most = checks(64).unwrap();
        assert!(most.headers_ok([("a", &b""[..])]) && !most.headers_ok([]));
        assert_eq!(checks(65).unwrap_err(), "more than 64 headers are expected");
    }

    #[test]
    fn bodies_match_in_bytes() {
        let checks = body(vec![matches("\"ok\":\\s*true"), matches("(?-u)\\xff")]);
        assert!(checks.needs_body());
        assert!(checks.body_ok(b"\xff {\"ok\": true}"));
        assert!(!checks.body_ok(b"{\"ok\": true}") && !checks.body_ok(b"\xff") && !checks.body_ok(b""));
    }

    #[test]
    fn json_is_looked_into() {
        let text =
            br#"{"items": [{"id": 1.0, "tags": {"a/b": [1, 2], "c~": null}}], "big": 9007199254740993}"#;
        for (pointer_text, equals, expected) in [
            ("", None, true),
            ("/items/0/id", None, true),
            ("/items/0/id", Some(json!(1)), true),
            ("/items/0/id", Some(json!(1.0)), true),
            ("/items/0/id", Some(json!("1")), false),
            ("/items/0/id", Some(json!(2)), false),
            ("/items/1/id", None, false),
            ("/items/0/tags/a~1b", Some(json!([1.0, 2])), true),
            ("/items/0/tags/a~1b", Some(json!([1])), false),
            ("/items/0/tags/c~0", None, true),
            ("/items/0/tags/c~0", Some(Value::Null), true),
            ("/items/0/tags", Some(json!({"c~": null, "a/b": [1, 2]})), true),
            ("/items/0/tags", Some(json!({"a/b": [1, 2]})), false),
            ("/big", Some(json!(9_007_199_254_740_993_u64)), true),
            ("/big", Some(json!(9_007_199_254_740_992_u64)), false),
        ] {
            let checks = body(vec![pointer(pointer_text, equals.clone())]);
            assert_eq!(checks.body_ok(text), expected, "{pointer_text} {equals:?}");
        }
        let any = body(vec![pointer("", None)]);
        let deep = "[".repeat(100_000);
        assert!(!any.body_ok(b"") && !any.body_ok(b"{} x") && !any.body_ok(deep.as_bytes()));
        let both = body(vec![matches("x"), pointer("/a", None)]);
        assert!(both.body_ok(b"{\"a\": \"x\"}") && !both.body_ok(b"{\"a\": 1}") && !both.body_ok(b"x"));
    }

    #[test]
    fn what_is_no_check_is_refused_and_not_repeated() {
        let error = |checks: Checks| CompiledChecks::new(&checks).unwrap_err();
        for status in [0..=200, 99..=99, 200..=600, std::ops::RangeInclusive::new(204, 200)] {
            let checks = Checks { status: vec![status], ..Checks::default() };
            assert_eq!(error(checks), "expected status is not within 100 to 599");
        }
        let checks = |check| Checks { body: vec![check], ..Checks::default() };
        assert_eq!(
            error(checks(matches("secret("))),
            "expression for the expected body is not a regular expression"
        );
        assert_eq!(
            error(checks(matches("\\w{1000}{100}"))),
            "expression for the expected body takes more than 1 MiB when compiled"
        );
        for bad in ["a", "a/b", "/~", "/~2", "/a~"] {
            assert!(error(checks(pointer(bad, None))).starts_with("pointer into"), "{bad}");
        }
        let value = Some(TextCheck::Matches("secret[".to_owned()));
        let headers = vec![HeaderCheck { name: "x-a".to_owned(), value }];
        assert_eq!(
            error(Checks { headers, ..Checks::default() }),
            "expression for the expected header x-a is not a regular expression"
        );
    }
}
