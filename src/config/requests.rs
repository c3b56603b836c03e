//! `[[service.request]]`: the requests of the load.

use super::{
    checks,
    digest::sha256,
    document::{Field, Section},
    error::ConfigError,
    names::{is_header_value, is_token},
    source::read_bytes,
    variables::{self, Declared},
};
use crate::model::{
    request::{Request, Variables},
    workload::Service,
};

/// Keys of a file of requests.
pub(super) const FILE_KEYS: [&str; 2] = ["request", "variable"];
/// Keys of `[[service.request]]`.
pub(super) const REQUEST_KEYS: [&str; 7] =
    ["method", "path", "weight", "headers", "body", "body_file", "expect"];
/// Headers that the load sets itself.
const OWN_HEADERS: [&str; 4] = ["content-length", "transfer-encoding", "connection", "host"];
const LARGEST_BODY_BYTES: u64 = 16 << 20;
const HEAVIEST: u64 = 1_000_000;

/// Reads the requests of a service, or of a file, and the variables in them, whose blocks begin with `block`. The
/// files they name, relative to the folder of this one, and their digests are put into `files`.
pub(super) fn read(
    section: &Section<'_, '_>,
    block: &'static str,
    files: &mut Vec<(String, String)>,
) -> Result<(Vec<Request>, Variables), ConfigError> {
    let declared = variables::read(section.field("variable").as_ref(), block, files)?;
    let requests = match section.field("request") {
        None => Vec::new(),
        Some(field) => field
            .sections(&REQUEST_KEYS)?
            .iter()
            .map(|section| request(section, &declared, files))
            .collect::<Result<_, _>>()?,
    };
    Ok((requests, declared.variables))
}

fn request(
    section: &Section<'_, '_>,
    declared: &Declared,
    files: &mut Vec<(String, String)>,
) -> Result<Request, ConfigError> {
    let method = section.optional("method", method)?.unwrap_or_else(|| "GET".to_owned());
    let path = path_with_variables(&section.required("path", "path = \"/\"")?, declared)?;
    let weight = section.optional("weight", |field| field.integer(1, HEAVIEST))?.unwrap_or(1) as u32;
    let headers = section.optional("headers", |field| headers(field, declared))?.unwrap_or_default();
    let body = body(section, declared, files)?;
    let waits =
        |(name, value): &(String, String)| name == "expect" && value.eq_ignore_ascii_case("100-continue");
    if body.is_empty() && headers.iter().any(waits) {
        return Err(section
            .error("header `expect` needs a body that waits for the server to continue")
            .help("add `body` or `body_file`, or leave the header out"));
    }
    let checks = section.optional("expect", |field| checks::read(field, &method))?.unwrap_or_default();
    Ok(Request { method, path, headers, body, weight, checks })
}

fn method(field: &Field<'_, '_>) -> Result<String, ConfigError> {
    let method = field.text()?;
    if !is_token(method) {
        return Err(field.error("`method` is not an HTTP method").help("for example \"GET\" or \"POST\""));
    }
    if method.eq_ignore_ascii_case("CONNECT") {
        return Err(field
            .error("`method` cannot be CONNECT")
            .help("the load sends requests, it opens no tunnels"));
    }
    Ok(method.to_ascii_uppercase())
}

/// A path and query as they go over the wire.
pub(super) fn path(field: &Field<'_, '_>) -> Result<String, ConfigError> {
    let path = field.text()?;
    check_path(field, path)?;
    Ok(path.to_owned())
}

/// A path and query as they go over the wire, but for their variables.
fn path_with_variables(field: &Field<'_, '_>, declared: &Declared) -> Result<String, ConfigError> {
    let path = field.text()?;
    declared.check("`path`", path.as_bytes()).map_err(|(message, hint)| field.error(message).help(hint))?;
    let around = declared.around(path);
    // An address and a brace have better advice than what comes first.
    if path.starts_with('/') && around.contains(['{', '}']) {
        let variable = if declared.is_empty() {
            format!("a variable, as in {{{{id}}}}, needs a `{}`", declared.block())
        } else {
            "a variable is written {{name}}".to_owned()
        };
        let hint = format!("{variable}; a brace itself is written %7B or %7D");
        return Err(field
            .error(format!("`{}` must not contain a brace that belongs to no variable", field.key()))
            .help(hint));
    }
    check_path(field, &around)?;
    Ok(path.to_owned())
}

fn check_path(field: &Field<'_, '_>, path: &str) -> Result<(), ConfigError> {
    let key = field.key();
    if path.starts_with("http://") || path.starts_with("https://") {
        return Err(field
            .error(format!("`{key}` must be a path, not an address"))
            .help("leave out the host: each target gets its own, and begin with `/`"));
    }
    if !path.starts_with('/') {
        let written = field.text()?;
        return Err(field
            .error(format!("`{key}` must begin with `/`"))
            .help(format!("write \"/{written}\"")));
    }
    if let Some(c) = path.chars().find(|c| !c.is_ascii_graphic() || "#<>\"\\^`{|}".contains(*c)) {
        return Err(field
            .error(format!("`{key}` must not contain `{c}`"))
            .help("encode it, for example a space as %20"));
    }
    Ok(())
}

fn headers(field: &Field<'_, '_>, declared: &Declared) -> Result<Vec<(String, String)>, ConfigError> {
    field.entries()?.iter().map(|field| header(field, declared)).collect()
}

fn header(field: &Field<'_, '_>, declared: &Declared) -> Result<(String, String), ConfigError> {
    let name = field.key();
    if !is_token(name) {
        return Err(field
            .key_error("this is not a header name")
            .help("it may have letters, digits and `-`, for example \"accept\""));
    }
    let name = name.to_ascii_lowercase();
    if OWN_HEADERS.contains(&name.as_str()) {
        return Err(field.key_error(format!("the load sets `{name}` itself")).help("leave it out"));
    }
    let value = field.any_text()?;
    if !is_header_value(value) {
        return Err(field
            .key_error(format!("the value of header `{name}` has characters that headers cannot have"))
            .help("it may have ASCII characters without line breaks"));
    }
    let in_header = |(message, hint): (String, String)| field.key_error(message).help(hint);
    declared.check(&format!("header `{name}`"), value.as_bytes()).map_err(in_header)?;
    declared.check_header(value).map_err(in_header)?;
    Ok((name, value.to_owned()))
}

fn body(
    section: &Section<'_, '_>,
    declared: &Declared,
    files: &mut Vec<(String, String)>,
) -> Result<Vec<u8>, ConfigError> {
    let inline = section.field("body");
    let Some(field) = section.field("body_file") else {
        let Some(field) = inline else { return Ok(Vec::new()) };
        let body = field.any_text()?.as_bytes().to_vec();
        declared.check("`body`", &body).map_err(|(message, hint)| field.key_error(message).help(hint))?;
        return Ok(body);
    };
    if inline.is_some() {
        return Err(field
            .key_error("a request has `body` or `body_file`, not both")
            .help("leave one of them out"));
    }
    let name = field.text()?;
    let body = read_bytes(&field.document().folder().join(name), LARGEST_BODY_BYTES).map_err(|error| {
        field.error(error.message()).help("it is looked for relative to the folder of this file")
    })?;
    declared.check(name, &body).map_err(|(message, hint)| field.error(message).help(hint))?;
    files.push((name.to_owned(), sha256(&body)));
    Ok(body)
}

/// SHA-256 over all requests of a workload: two sessions with the same one sent the same. What checks and variables
/// add to it is added only where there are any, for stored baselines hold digests from before them.
pub(super) fn digest(services: &[Service]) -> String {
    let mut all = Vec::new();
    for (name, http) in services.iter().filter_map(|service| Some((&service.name, service.http.as_ref()?))) {
        for request in &http.requests {
            let body = sha256(&request.body);
            let mut entry = vec![
                serde_json::json!(name),
                serde_json::json!(request.method),
                serde_json::json!(request.path),
                serde_json::json!(request.headers),
                serde_json::json!(body),
                serde_json::json!(request.weight),
            ];
            entry.extend(checks::digested(&request.checks));
            all.push(serde_json::Value::from(entry));
        }
        if let Some(variables) = variables::digested(&http.variables) {
            all.push(serde_json::json!({ "variables": variables, "service": name }));
        }
    }
    sha256(serde_json::Value::from(all).to_string().as_bytes())
}
