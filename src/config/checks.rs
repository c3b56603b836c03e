//! `expect`: what the answer to a request must hold to be a success.

use std::ops::RangeInclusive;

use regex::bytes::RegexBuilder;
use serde_json::{Value, json};
use toml::de::DeValue;

use super::{
    document::{Field, Section},
    error::ConfigError,
    names::is_token,
};
use crate::model::request::{BodyCheck, Checks, HeaderCheck, TextCheck};

/// Keys of `expect`.
pub(super) const EXPECT_KEYS: [&str; 5] = ["status", "headers", "json", "json_present", "matches"];
const HEADER_KEYS: [&str; 1] = ["matches"];
const LOWEST_STATUS: u64 = 100;
const HIGHEST_STATUS: u64 = 599;
/// The load keeps them in the bits of one word.
const MOST_HEADERS: usize = 64;
/// What the load lets a compiled expression take.
const LARGEST_REGEX_BYTES: usize = 1 << 20;

/// Reads what the answer to a request of this method must hold.
pub(super) fn read(field: &Field<'_, '_>, method: &str) -> Result<Checks, ConfigError> {
    let section = field.section(&EXPECT_KEYS)?;
    let status = section.optional("status", statuses)?.unwrap_or_default();
    let headers = section.optional("headers", headers)?.unwrap_or_default();
    let body = body(&section)?;
    if method == "HEAD" && !body.is_empty() {
        return Err(field
            .key_error("the answer to a HEAD request has no body to expect something of")
            .help("expect a status or headers, or use GET"));
    }
    Ok(Checks { status, headers, body })
}

fn statuses(field: &Field<'_, '_>) -> Result<Vec<RangeInclusive<u16>>, ConfigError> {
    let items = field.one_or_more()?;
    items
        .iter()
        .map(|item| match item.value() {
            DeValue::String(text) => range(text).ok_or_else(|| {
                let message = format!("`{}` must be a status from 100 to 599, or a range", item.key());
                item.error(message).help("for example 200, \"200-204\" or [200, \"301-303\"]")
            }),
            _ => item.integer(LOWEST_STATUS, HIGHEST_STATUS).map(|status| status as u16..=status as u16),
        })
        .collect()
}

/// `201-204`, or a single status.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| {
        let status = text.trim().parse::<u16>().ok()?;
        (LOWEST_STATUS..=HIGHEST_STATUS).contains(&u64::from(status)).then_some(status)
    };
    Some(status(first)?..=status(last)?).filter(|range| !range.is_empty())
}

fn headers(field: &Field<'_, '_>) -> Result<Vec<HeaderCheck>, ConfigError> {
    let entries = field.entries()?;
    if entries.len() > MOST_HEADERS {
        return Err(field.key_error(format!("more than {MOST_HEADERS} headers are expected")));
    }
    entries.iter().map(header).collect()
}

fn header(field: &Field<'_, '_>) -> Result<HeaderCheck, ConfigError> {
    let name = field.key();
    if !is_token(name) {
        return Err(field
            .key_error("this is not a header name")
            .help("it may have letters, digits and `-`, for example \"etag\""));
    }
    let value = match field.value() {
        DeValue::Boolean(true) => None,
        DeValue::String(text) => Some(TextCheck::Equals(text.trim().to_owned())),
        DeValue::Table(_) => {
            let section = field.section(&HEADER_KEYS)?;
            Some(TextCheck::Matches(expression(&section.required("matches", "{ matches = \"^text/\" }")?)?))
        }
        _ => {
            return Err(field.key_error(format!("header `{name}` cannot be expected to be that")).help(
                "write true when it must be there, its exact value in quotes, or { matches = \"…\" }",
            ));
        }
    };
    Ok(HeaderCheck { name: name.to_ascii_lowercase(), value })
}

/// Expressions come first: they are made before the body is parsed as JSON.
fn body(section: &Section<'_, '_>) -> Result<Vec<BodyCheck>, ConfigError> {
    let mut checks = Vec::new();
    if let Some(field) = section.field("matches") {
        for item in field.one_or_more()? {
            checks.push(BodyCheck::Matches(expression(&item)?));
        }
    }
    if let Some(field) = section.field("json") {
        for entry in field.entries()? {
            let pointer = pointer(entry.key())
                .map_err(|hint| entry.key_error("this is not a JSON pointer").help(hint))?;
            checks.push(BodyCheck::Json { pointer, equals: Some(json_value(&entry, entry.value())?) });
        }
    }
    if let Some(field) = section.field("json_present") {
        for item in field.one_or_more()? {
            let pointer = pointer(item.any_text()?).map_err(|hint| {
                item.error(format!("`{}` has what is not a JSON pointer", item.key())).help(hint)
            })?;
            checks.push(BodyCheck::Json { pointer, equals: None });
        }
    }
    Ok(checks)
}

/// RFC 6901, section 3; the error says what to write instead.
fn pointer(text: &str) -> Result<String, String> {
    if !text.is_empty() && !text.starts_with('/') {
        let written: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
        return Err(format!("write \"/{}\"", written.replace('.', "/")));
    }
    if !text.split('~').skip(1).all(|after| after.starts_with(['0', '1'])) {
        return Err("in a pointer, `~` is written ~0, and a `/` within a name ~1".to_owned());
    }
    Ok(text.to_owned())
}

fn expression(field: &Field<'_, '_>) -> Result<String, ConfigError> {
    let pattern = field.any_text()?;
    if pattern.is_empty() {
        return Err(field.error(format!("`{}` must not be empty: it would match anything", field.key())));
    }
    let built = RegexBuilder::new(pattern)
        .size_limit(LARGEST_REGEX_BYTES)
        .dfa_size_limit(LARGEST_REGEX_BYTES)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => field
            .error(format!(
                "`{}` takes more than {} MiB when compiled",
                field.key(),
                LARGEST_REGEX_BYTES >> 20
            ))
            .help("repeat less in it"),
        _ => {
            // Its last line says why; the others repeat the expression.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            field
                .error(format!("`{}` is not a regular expression: {reason}", field.key()))
                .help("put it in single quotes, in which a backslash is a backslash")
        }
    })?;
    Ok(pattern.to_owned())
}

/// A value of TOML as JSON; what is wrong is shown at the field.
fn json_value(field: &Field<'_, '_>, value: &DeValue<'_>) -> Result<Value, ConfigError> {
    let wrong = |what| {
        field
            .key_error(format!("JSON has no {what} like that"))
            .help("put it in quotes if the answer has it as a string")
    };
    Ok(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(boolean) => Value::from(*boolean),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map(Value::from)
            .map_err(|_| wrong("number"))?,
        DeValue::Float(float) => {
            let number = float.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            number.map(Value::Number).ok_or_else(|| wrong("number"))?
        }
        DeValue::Datetime(_) => return Err(wrong("date")),
        DeValue::Array(items) => items
            .iter()
            .map(|item| json_value(field, item.get_ref()))
            .collect::<Result<Vec<_>, _>>()
            .map(Value::Array)?,
        DeValue::Table(table) => table
            .iter()
            .map(|(key, value)| Ok((key.get_ref().to_string(), json_value(field, value.get_ref())?)))
            .collect::<Result<serde_json::Map<_, _>, ConfigError>>()
            .map(Value::Object)?,
    })
}

/// What goes into the digest of a request; `None` without checks, so that digests stored before there were any hold.
pub(super) fn digested(checks: &Checks) -> Option<Value> {
    if *checks == Checks::default() {
        return None;
    }
    let status: Vec<_> = checks.status.iter().map(|range| json!([range.start(), range.end()])).collect();
    let text = |check: &TextCheck| match check {
        TextCheck::Equals(text) => json!({ "equals": text }),
        TextCheck::Matches(pattern) => json!({ "matches": pattern }),
    };
    let headers: Vec<_> =
        checks.headers.iter().map(|check| json!([check.name, check.value.as_ref().map(text)])).collect();
    let body: Vec<_> = checks
        .body
        .iter()
        .map(|check| match check {
            BodyCheck::Matches(pattern) => json!({ "matches": pattern }),
            BodyCheck::Json { pointer, equals: None } => json!({ "present": pointer }),
            BodyCheck::Json { pointer, equals: Some(value) } => json!({ "at": pointer, "equals": value }),
        })
        .collect();
    Some(json!({ "status": status, "headers": headers, "body": body }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::requests_file;

    fn read(expect: &str) -> Result<Checks, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.toml");
        fs::write(&path, format!("[[request]]\npath = \"/\"\n{expect}\n")).unwrap();
        requests_file(&path).map(|(mut requests, _)| requests.remove(0).checks)
    }

    #[test]
    fn all_that_can_be_expected() {
        let checks = read(
            r#"expect.status = [200, "201-204", "302"]
            expect.headers = { ETag = true, server = " x ", content-type = { matches = '^text/\w+' } }
            expect.matches = '"ok"'
            expect.json = { "" = {}, "/a/0" = [1, 1.5, "x", true, { y = -1 }] }
            expect.json_present = ["/id", "/a~1b"]"#,
        )
        .unwrap();
        let header = |name: &str, value| HeaderCheck { name: name.to_owned(), value };
        let at = |pointer: &str, equals| BodyCheck::Json { pointer: pointer.to_owned(), equals };
        assert_eq!(
            checks,
            Checks {
                status: vec![200..=200, 201..=204, 302..=302],
                headers: vec![
                    header("etag", None),
                    header("server", Some(TextCheck::Equals("x".to_owned()))),
                    header("content-type", Some(TextCheck::Matches("^text/\\w+".to_owned()))),
                ],
                body: vec![
                    BodyCheck::Matches("\"ok\"".to_owned()),
                    at("", Some(json!({}))),
                    at("/a/0", Some(json!([1, 1.5, "x", true, { "y": -1 }]))),
                    at("/id", None),
                    at("/a~1b", None),
                ],
            }
        );
        assert_eq!(read("expect = { status = 404 }").unwrap().status, [404..=404]);
        assert_eq!(read("expect = {}").unwrap(), Checks::default());
        assert_eq!(read("expect = { matches = ['a', 'b'] }").unwrap().body.len(), 2);
    }

    #[test]
    fn each_mistake_has_its_message() {
        for (expect, expected) in [
            ("expect = 200", "`expect` must be a table, not an integer"),
            ("expect = { statuss = 200 }", "unknown key `statuss`"),
            ("expect = { status = 99 }", "`status` must be from 100 to 599"),
            ("expect = { status = [] }", "`status` must not be empty"),
            ("expect = { status = true }", "`status` must be a whole number, not a boolean"),
            ("expect = { status = [200, '2xx'] }", "`status` must be a status from 100 to 599, or a range"),
            ("expect = { status = '204-200' }", "`status` must be a status from 100 to 599, or a range"),
            ("expect = { headers = { 'a b' = true } }", "this is not a header name"),
            ("expect = { headers = { etag = false } }", "header `etag` cannot be expected to be that"),
            ("expect = { headers = { etag = { matchs = 'x' } } }", "unknown key `matchs`"),
            (
                "expect = { headers = { etag = { matches = 'hunter2(' } } }",
                "`matches` is not a regular expression: unclosed group",
            ),
            ("expect = { matches = '' }", "`matches` must not be empty: it would match anything"),
            ("expect = { matches = ['a', 1] }", "`matches` must be a string, not an integer"),
            ("expect = { matches = '\\w{1000}{100}' }", "`matches` takes more than 1 MiB when compiled"),
            ("expect = { json = { a = 'hunter2' } }", "this is not a JSON pointer"),
            ("expect = { json = { '/~' = 'hunter2' } }", "this is not a JSON pointer"),
            ("expect = { json = { '/a' = nan, b = 'hunter2' } }", "JSON has no number like that"),
            ("expect = { json = { '/a' = [2026-01-01], b = 'hunter2' } }", "JSON has no date like that"),
            ("expect = { json_present = 'a.b' }", "`json_present` has what is not a JSON pointer"),
            (
                "method = 'HEAD'\nexpect = { matches = 'x' }",
                "the answer to a HEAD request has no body to expect something of",
            ),
        ] {
            let error = read(expect).unwrap_err();
            assert_eq!(error.message(), expected, "{expect}");
            assert!(error.position().is_some() && !error.to_string().contains("hunter2"), "{error}");
        }
        let many: Vec<String> = (0..65).map(|n| format!("h{n} = true")).collect();
        let error = read(&format!("expect.headers = {{ {} }}", many.join(", "))).unwrap_err();
        assert_eq!(error.message(), "more than 64 headers are expected");
        assert_eq!(read("expect.json_present = 'a.b'").unwrap_err().hint(), Some("write \"/a/b\""));
    }
}
