//! `[[service.request]]`: the requests of the load.

use super::{
    digest::sha256,
    document::{Field, Section},
    error::ConfigError,
    names::{is_header_value, is_token},
    source::read_bytes,
};
use crate::model::{request::{Checks, Request}, workload::Service};

/// Keys of `[[service.request]]`.
pub(super) const REQUEST_KEYS: [&str; 5] = ["method", "path", "weight", "headers", "body_file"];
/// Headers that the load sets itself.
const OWN_HEADERS: [&str; 4] = ["content-length", "transfer-encoding", "connection", "host"];
const LARGEST_BODY_BYTES: u64 = 16 << 20;
const HEAVIEST: u64 = 1_000_000;

/// Reads one request. The body's file, relative to the workload, and its digest are put into `bodies`.
pub(super) fn read(
    section: &Section<'_, '_>,
    bodies: &mut Vec<(String, String)>,
) -> Result<Request, ConfigError> {
    let method = section.optional("method", method)?.unwrap_or_else(|| "GET".to_owned());
    let path = path(&section.required("path", "path = \"/\"")?)?;
    let weight = section.optional("weight", |field| field.integer(1, HEAVIEST))?.unwrap_or(1) as u32;
    let headers = section.optional("headers", headers)?.unwrap_or_default();
    let body = match section.field("body_file") {
        None => Vec::new(),
        Some(field) => {
            let name = field.text()?;
            let body =
                read_bytes(&field.document().folder().join(name), LARGEST_BODY_BYTES).map_err(|error| {
                    field.error(error.message()).help("it is looked for relative to the folder of this file")
                })?;
            bodies.push((name.to_owned(), sha256(&body)));
            body
        }
    };
    Ok(Request { method, path, headers, body, weight, checks: Checks::default() })
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
    let (key, path) = (field.key(), field.text()?);
    if path.starts_with("http://") || path.starts_with("https://") {
        return Err(field
            .error(format!("`{key}` must be a path, not an address"))
            .help("leave out the host: each target gets its own, and begin with `/`"));
    }
    if !path.starts_with('/') {
        return Err(field.error(format!("`{key}` must begin with `/`")).help(format!("write \"/{path}\"")));
    }
    if let Some(c) = path.chars().find(|c| !c.is_ascii_graphic() || "#<>\"\\^`{|}".contains(*c)) {
        return Err(field
            .error(format!("`{key}` must not contain `{c}`"))
            .help("encode it, for example a space as %20"));
    }
    Ok(path.to_owned())
}

fn headers(field: &Field<'_, '_>) -> Result<Vec<(String, String)>, ConfigError> {
    field
        .entries()?
        .iter()
        .map(|header| {
            let name = header.key();
            if !is_token(name) {
                return Err(header
                    .key_error("this is not a header name")
                    .help("it may have letters, digits and `-`, for example \"accept\""));
            }
            let name = name.to_ascii_lowercase();
            if OWN_HEADERS.contains(&name.as_str()) {
                return Err(header.key_error(format!("the load sets `{name}` itself")).help("leave it out"));
            }
            let value = header.any_text()?;
            if !is_header_value(value) {
                return Err(header
                    .key_error(format!(
                        "the value of header `{name}` has characters that headers cannot have"
                    ))
                    .help("it may have ASCII characters without line breaks"));
            }
            Ok((name, value.to_owned()))
        })
        .collect()
}

/// SHA-256 over all requests of a workload: two sessions with the same one sent the same.
pub(super) fn digest(services: &[Service]) -> String {
    let all: Vec<_> = services
        .iter()
        .filter_map(|service| Some((&service.name, service.http.as_ref()?)))
        .flat_map(|(name, http)| http.requests.iter().map(move |request| (name, request)))
        .map(|(name, request)| {
            serde_json::json!([
                name,
                request.method,
                request.path,
                request.headers,
                sha256(&request.body),
                request.weight
            ])
        })
        .collect();
    sha256(serde_json::Value::from(all).to_string().as_bytes())
}
