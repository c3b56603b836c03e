//! A request built beforehand: what is left to do when it is due is to copy bytes.
//!
//! Whatever a variable or a cookie holds, the request stays one request: in the path a value is percent-encoded, in a
//! header one with a line break is refused when the template is built, and the content's length is counted anew.
//!
//! Deliberately absent: connections, and any choice between requests.

use std::{borrow::Cow, io::Write as _, sync::Arc};

use super::variables::{CompiledVariables, Text, is_header_text};
use crate::model::request::{Request, placeholders};

/// Methods whose requests say their content's length even without content (RFC 9110, section 8.6).
const METHODS_WITH_CONTENT: [&str; 3] = ["POST", "PUT", "PATCH"];
/// RFC 9110, section 9.2.2.
const IDEMPOTENT_METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"];
/// Headers about a connection, which HTTP/2 does not have (RFC 9113, section 8.2.2), and the host, which is apart.
const NOT_IN_HTTP_2: [&str; 6] =
    ["host", "connection", "keep-alive", "proxy-connection", "upgrade", "http2-settings"];
/// Ends the head.
const BLANK_LINE: &[u8] = b"\r\n\r\n";

/// A request of HTTP/1.1, to be sent many times.
#[derive(Debug)]
pub(super) struct Template {
    variables: Arc<CompiledVariables>,
    method: String,
    path: Text,
    host: Text,
    /// All but the host, in the order they are sent.
    headers: Vec<(String, Text)>,
    /// Among `headers`, the request's own Cookie.
    cookie: Option<usize>,
    has_length: bool,
    /// Empty when the request is fixed: it is then part of it.
    body: Text,
    fixed: Option<Fixed>,
}

/// The whole of a request in which no variable occurs.
#[derive(Debug)]
struct Fixed {
    wire: Vec<u8>,
    head_length: usize,
}

/// A request in parts, for a carrier that puts them together itself.
#[derive(Debug, PartialEq)]
pub(super) struct Parts<'t> {
    /// Upper case.
    pub(super) method: &'t str,
    /// What HTTP/2 calls the authority.
    pub(super) host: Cow<'t, [u8]>,
    /// With the query; ASCII.
    pub(super) path: Cow<'t, [u8]>,
    /// Lower-case names and values: none about the host or the connection, the content's length among them.
    pub(super) headers: Vec<(&'t str, Cow<'t, [u8]>)>,
    /// The content.
    pub(super) body: Cow<'t, [u8]>,
}

impl Template {
    /// Checks a request and builds it. `host` goes into the Host header unless the request has one; `close` adds
    /// `Connection: close` unless the request has a Connection header.
    ///
    /// An error names the part of the request and what is wrong with it, never a value.
    pub(super) fn new(
        request: &Request,
        host: &str,
        close: bool,
        variables: &Arc<CompiledVariables>,
    ) -> Result<Self, String> {
        if !is_token(&request.method) || request.method.eq_ignore_ascii_case("CONNECT") {
            return Err("method is not one that a load can have".to_owned());
        }
        let mut headers = headers(request, variables)?;
        let host = match position(&headers, "host") {
            Some(at) => headers.remove(at).1,
            None => Text::literal(host.as_bytes().to_vec()),
        };
        if !host.literals().all(is_host) || host.is_empty() {
            return Err("host is not a host's name or address".to_owned());
        }
        if close && position(&headers, "connection").is_none() {
            headers.push(("connection".to_owned(), Text::literal(b"close".to_vec())));
        }
        let body = Text::of(&request.body, "the body", variables)?;
        let mut template = Self {
            variables: Arc::clone(variables),
            method: request.method.clone(),
            path: path(&request.path, variables)?,
            host,
            cookie: position(&headers, "cookie"),
            headers,
            has_length: !body.is_empty() || METHODS_WITH_CONTENT.contains(&request.method.as_str()),
            body,
            fixed: None,
        };
        template.fix();
        Ok(template)
    }

    /// Writes it down once and for all if no variable occurs in it.
    fn fix(&mut self) {
        let mut values = self.headers.iter().map(|(_, value)| value);
        if ![&self.path, &self.host, &self.body].into_iter().all(Text::is_literal)
            || !values.all(Text::is_literal)
        {
            return;
        }
        let mut wire = Vec::new();
        self.render(0, None, &mut wire);
        self.fixed = Some(Fixed { head_length: head_length(&wire), wire });
        self.body = Text::default();
    }

    /// The whole request when no variable occurs in it; to be sent as it is unless there are cookies to add.
    pub(super) fn fixed(&self) -> Option<&[u8]> {
        self.fixed.as_ref().map(|fixed| fixed.wire.as_slice())
    }

    /// Writes the load's `arrival`-th request into `out`, which is cleared first. `cookies`, the value of a Cookie
    /// header, is added, or appended to the request's own.
    pub(super) fn render(&self, arrival: u64, cookies: Option<&str>, out: &mut Vec<u8>) {
        out.clear();
        if let (Some(fixed), None) = (&self.fixed, cookies) {
            out.extend_from_slice(&fixed.wire);
            return;
        }
        let write = |text: &Text, out: &mut Vec<u8>| text.write(&self.variables, arrival, out);
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        write(&self.path, out);
        out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        write(&self.host, out);
        for (at, (name, value)) in self.headers.iter().enumerate() {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            write(value, out);
            if let (true, Some(cookies)) = (self.cookie == Some(at), cookies) {
                append_cookies(cookies, out);
            }
        }
        if let (None, Some(cookies)) = (self.cookie, cookies) {
            out.extend_from_slice(b"\r\ncookie: ");
            out.extend_from_slice(cookies.as_bytes());
        }
        if self.has_length {
            // Writing into memory cannot fail.
            let _ = write!(out, "\r\ncontent-length: {}", self.body_length(arrival));
        }
        out.extend_from_slice(BLANK_LINE);
        match self.fixed_body() {
            Some(body) => out.extend_from_slice(body),
            None => write(&self.body, out),
        }
    }

    /// The same request in parts, for HTTP/2.
    pub(super) fn parts(&self, arrival: u64, cookies: Option<&str>) -> Parts<'_> {
        let mut headers: Vec<(&str, Cow<'_, [u8]>)> = Vec::with_capacity(self.headers.len() + 2);
        for (at, (name, value)) in self.headers.iter().enumerate() {
            let mut value = value.value(&self.variables, arrival);
            if let (true, Some(cookies)) = (self.cookie == Some(at), cookies) {
                append_cookies(cookies, value.to_mut());
            }
            let is_trailers = value.trim_ascii().eq_ignore_ascii_case(b"trailers");
            let is_forbidden = NOT_IN_HTTP_2.contains(&name.as_str()) || (name == "te" && !is_trailers);
            if !is_forbidden {
                headers.push((name, value));
            }
        }
        if let (None, Some(cookies)) = (self.cookie, cookies) {
            headers.push(("cookie", cookies.as_bytes().to_vec().into()));
        }
        if self.has_length {
            headers.push(("content-length", self.body_length(arrival).to_string().into_bytes().into()));
        }
        Parts {
            method: &self.method,
            host: self.host.value(&self.variables, arrival),
            path: self.path.value(&self.variables, arrival),
            headers,
            body: match self.fixed_body() {
                Some(body) => Cow::Borrowed(body),
                None => self.body.value(&self.variables, arrival),
            },
        }
    }

    /// Whether its answer has no body, whatever its headers say.
    pub(super) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Whether it may be sent again after a failure.
    pub(super) fn is_idempotent(&self) -> bool {
        IDEMPOTENT_METHODS.contains(&self.method.as_str())
    }

    fn fixed_body(&self) -> Option<&[u8]> {
        self.fixed.as_ref().map(|fixed| &fixed.wire[fixed.head_length..])
    }

    fn body_length(&self, arrival: u64) -> usize {
        self.fixed_body().map_or_else(|| self.body.length(&self.variables, arrival), <[u8]>::len)
    }
}

/// Where the head ends and the body begins in a request as it goes over the wire.
fn head_length(wire: &[u8]) -> usize {
    // Nothing within a head can look like its end.
    let end = wire.windows(BLANK_LINE.len()).position(|window| window == BLANK_LINE);
    end.map_or(wire.len(), |at| at + BLANK_LINE.len())
}

fn path(path: &str, variables: &CompiledVariables) -> Result<Text, String> {
    let mut text = Text::of(path.as_bytes(), "the path", variables)?;
    // What servers and HTTP/2 libraries refuse, or cut off.
    let is_kept = |byte: &u8| byte.is_ascii_graphic() && !b"#\"<>`".contains(byte);
    if !path.starts_with('/') || !text.literals().flatten().all(is_kept) {
        return Err("path does not begin with `/` or has characters to be percent-encoded".to_owned());
    }
    text.encode_as_path();
    Ok(text)
}

/// Names in lower case, as HTTP/2 demands and HTTP/1.1 does not mind.
fn headers(request: &Request, variables: &CompiledVariables) -> Result<Vec<(String, Text)>, String> {
    let mut headers: Vec<(String, Text)> = Vec::with_capacity(request.headers.len() + 1);
    for (name, value) in &request.headers {
        if !is_token(name) {
            // Not repeated: whatever it is, it may be a value in the wrong place.
            return Err(format!("header number {} has a name that headers cannot have", headers.len() + 1));
        }
        let name = name.to_ascii_lowercase();
        let part = format!("header {name}");
        if matches!(name.as_str(), "content-length" | "transfer-encoding") {
            return Err(format!("{part} is set by the load itself"));
        }
        if name == "host" && position(&headers, "host").is_some() {
            // Servers refuse it, for nobody knows which of them counts.
            return Err(format!("{part} is there twice"));
        }
        if !is_header_text(value.as_bytes()) {
            return Err(format!("{part} has a line break or control character"));
        }
        for (_, name) in placeholders(value.as_bytes()) {
            let variable = variables.index_of(name);
            if let Some(row) = variable.and_then(|index| variables.first_row_unfit_for_a_header(index)) {
                return Err(format!(
                    "{part} cannot hold variable {{{{{name}}}}}: row {row} has a line break or control character"
                ));
            }
        }
        let text = Text::of(value.as_bytes(), &part, variables)?;
        headers.push((name, text));
    }
    Ok(headers)
}

fn position(headers: &[(String, Text)], name: &str) -> Option<usize> {
    headers.iter().position(|(other, _)| other == name)
}

fn append_cookies(cookies: &str, out: &mut Vec<u8>) {
    if !out.is_empty() && !out.ends_with(b"\r\ncookie: ") {
        out.extend_from_slice(b"; ");
    }
    out.extend_from_slice(cookies.as_bytes());
}

/// A token of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Part of a host and port, without what would make it another part of an address.
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\".contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq};

    use super::*;
    use crate::model::request::{RowOrder, VariableSource, Variables};

    fn variables(values: &[(&str, &str)]) -> Arc<CompiledVariables> {
        let names: Vec<String> = values.iter().map(|(name, _)| (*name).to_owned()).collect();
        let rows = vec![values.iter().map(|(_, value)| (*value).to_owned()).collect()];
        let source = VariableSource::Rows { names, rows, order: RowOrder::InTurn };
        let sources = if values.is_empty() { vec![] } else { vec![source] };
        Arc::new(CompiledVariables::new(&Variables { sources }).unwrap())
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request {
        Request {
            method: method.to_owned(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: body.as_bytes().to_vec(),
            ..Request::get(path)
        }
    }

    fn built(request: &Request, values: &[(&str, &str)]) -> Result<Template, String> {
        Template::new(request, "127.0.0.1:80", false, &variables(values))
    }

    fn wire(template: &Template, cookies: Option<&str>) -> String {
        let mut out = b"left over".to_vec();
        template.render(0, cookies, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_without_variables_is_written_once() {
        let template = built(&request("GET", "/a?b=c", &[("Accept", "*/*")], ""), &[]).unwrap();
        let expected = "GET /a?b=c HTTP/1.1\r\nhost: 127.0.0.1:80\r\naccept: */*\r\n\r\n";
        assert_eq!((wire(&template, None).as_str(), template.fixed()), (expected, Some(expected.as_bytes())));
        let post = request("POST", "/{{x}}", &[("Host", "x.example"), ("x", "{{x}}")], "{{x}}");
        let template = Template::new(&post, "h", true, &variables(&[])).unwrap();
        assert_eq!(
            wire(&template, None),
            "POST /{{x}} HTTP/1.1\r\nhost: x.example\r\nx: {{x}}\r\nconnection: close\r\ncontent-length: 5\r\n\r\n{{x}}"
        );
        let own = request("PUT", "/", &[("Connection", "keep-alive")], "");
        let template = Template::new(&own, "h", true, &variables(&[("x", "1")])).unwrap();
        let expected = "PUT / HTTP/1.1\r\nhost: h\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(template.fixed(), Some(expected.as_bytes()));
    }

    #[test]
    fn variables_are_put_where_their_names_stand() {
        let request = request(
            "PATCH",
            "/u/{{ id }}?q={{q}}&r=1&{{id}}",
            &[("x-id", "<{{id}}>"), ("host", "{{id}}.example")],
            "{\"a\": {\"id\": {{id}}}, \"q\": {{{q}}}, {{1}} {{ }} {{",
        );
        let template = built(&request, &[("id", "a/b&c+d e%"), ("q", "a/b&c+d e%")]).unwrap();
        assert_eq!(template.fixed(), None);
        let text = wire(&template, None);
        let (head, body) = text.split_at(head_length(text.as_bytes()));
        assert_eq!(
            head,
            "PATCH /u/a/b&c+d%20e%25?q=a/b%26c%2Bd%20e%25&r=1&a/b&c+d%20e%25 HTTP/1.1\r\n\
             host: a/b&c+d e%.example\r\nx-id: <a/b&c+d e%>\r\ncontent-length: 59\r\n\r\n"
        );
        assert_eq!(body, "{\"a\": {\"id\": a/b&c+d e%}, \"q\": {a/b&c+d e%}, {{1}} {{ }} {{");
    }

    #[test]
    fn arrivals_differ_as_their_variables_do() {
        let sources = vec![VariableSource::Sequence { name: "n".to_owned(), from: 8, to: 11, step: 1 }];
        let variables = Arc::new(CompiledVariables::new(&Variables { sources }).unwrap());
        let template =
            Template::new(&request("POST", "/{{n}}", &[], "{{n}}"), "h", false, &variables).unwrap();
        let mut out = Vec::new();
        for (arrival, n, length) in [(1, "9", 1), (2, "10", 2), (4, "8", 1)] {
            template.render(arrival, None, &mut out);
            let expected = format!("POST /{n} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n{n}");
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn cookies_are_added_or_appended() {
        for values in [&[][..], &[("x", "1")]] {
            let added = built(&request("POST", "/", &[("a", "b")], "{{x}}!"), values).unwrap();
            let text = wire(&added, Some("c=d; e=f"));
            assert!(text.contains("\r\na: b\r\ncookie: c=d; e=f\r\ncontent-length: "), "{text}");
            assert!(text.ends_with('!'), "{text}");
            let appended =
                built(&request("GET", "/{{x}}", &[("Cookie", "a=b"), ("z", "y")], ""), values).unwrap();
            let text = wire(&appended, Some("c=d"));
            assert!(text.contains("\r\ncookie: a=b; c=d\r\nz: y\r\n\r\n"), "{text}");
            assert!(wire(&appended, None).contains("\r\ncookie: a=b\r\n"));
            let cookie = ("cookie", Cow::Borrowed(&b"a=b; c=d"[..]));
            assert!(appended.parts(0, Some("c=d")).headers.contains(&cookie));
        }
        let empty = built(&request("GET", "/", &[("cookie", "")], ""), &[]).unwrap();
        assert!(wire(&empty, Some("c=d")).contains("\r\ncookie: c=d\r\n"));
    }

    #[test]
    fn parts_are_what_http_2_may_have() {
        let headers = [
            ("Host", "h"),
            ("Connection", "x"),
            ("TE", "gzip"),
            ("Upgrade", "y"),
            ("X-A", "{{x}}"),
            ("z", "0"),
        ];
        let template = built(&request("POST", "/{{x}}", &headers, "{{x}}"), &[("x", "é")]).unwrap();
        let parts = template.parts(0, Some("c=d"));
        assert_eq!((parts.method, &*parts.host, &*parts.path), ("POST", &b"h"[..], &b"/%C3%A9"[..]));
        let headers: Vec<(&str, &[u8])> =
            parts.headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let expected: [(&str, &[u8]); 4] =
            [("x-a", "é".as_bytes()), ("z", b"0"), ("cookie", b"c=d"), ("content-length", b"2")];
        assert_eq!((headers, &*parts.body), (expected.to_vec(), "é".as_bytes()));
        let fixed = built(&request("POST", "/", &[("te", "trailers")], "body"), &[]).unwrap();
        let parts = fixed.parts(0, None);
        assert_eq!((&*parts.body, parts.headers[0].0, parts.headers.len()), (&b"body"[..], "te", 2));
    }

    #[test]
    fn what_a_carrier_must_know() {
        let about = |method: &str| {
            let template = built(&request(method, "/", &[], "x"), &[]).unwrap();
            (template.is_head(), template.is_idempotent())
        };
        assert_eq!(about("HEAD"), (true, true));
        assert_eq!(about("POST"), (false, false));
        assert_eq!(about("DELETE"), (false, true));
        assert_eq!(about("PATCH"), (false, false));
    }

    #[test]
    fn what_cannot_be_sent_is_named_without_its_secrets() {
        let secret = "hunter2\r\nx: y";
        let get = |path: &str, headers: &[(&str, &str)]| request("GET", path, headers, "");
        for (request, expected) in [
            (request("GE T", "/", &[], ""), "method "),
            (request("connect", "/", &[], ""), "method "),
            (get("", &[]), "path "),
            (get("{{x}}", &[]), "path "),
            (get("/hunter2 ", &[]), "path "),
            (get("/hunter2#", &[]), "path "),
            (get("/hunter2\r\n", &[]), "path "),
            (get("/é", &[]), "path "),
            (get("/{{idd}}", &[]), "variable {{idd}} in the path is not declared; declared: bad, x"),
            (get("/", &[("x-a", "hunter2 {{y}}")]), "variable {{y}} in header x-a is not declared"),
            (request("POST", "/", &[], "hunter2 {{y}}"), "variable {{y}} in the body is not declared"),
            (get("/", &[("X-A", secret)]), "header x-a has a line break"),
            (get("/", &[("x-a", "hunter2\0")]), "header x-a has a line break"),
            (get("/", &[("ok", ""), ("hunter2 ", "x")]), "header number 2 "),
            (get("/", &[("hunter2:", "x")]), "header number 1 "),
            (get("/", &[("Content-Length", "1")]), "header content-length is set"),
            (get("/", &[("transfer-encoding", "chunked")]), "header transfer-encoding is set"),
            (get("/", &[("host", "a"), ("Host", "b")]), "header host is there twice"),
            (get("/", &[("host", "hunter2/")]), "host "),
            (get("/", &[("host", "")]), "host "),
            (get("/", &[("x-a", "{{bad}}")]), "header x-a cannot hold variable {{bad}}: row 1 has"),
        ] {
            let error = built(&request, &[("x", "1"), ("bad", secret)]).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("hunter2"), "{error}, not {expected}");
        }
        assert!(Template::new(&Request::get("/"), "a b", false, &variables(&[])).is_err());
        assert!(built(&get("/{{bad}}", &[]), &[("bad", secret)]).is_ok(), "a path encodes it");
    }

    proptest::proptest! {
        #[test]
        fn any_values_make_one_request(
            in_path in any::<String>(),
            in_header in "[^\\x00-\\x08\\x0a-\\x1f\\x7f]*",
            in_body in any::<String>(),
        ) {
            let request = request("POST", "/a/{{p}}?q={{p}}", &[("x-h", "{{h}}"), ("y", "")], "<{{b}}>");
            let values = [("p", in_path.as_str()), ("h", &in_header), ("b", &in_body)];
            let template = built(&request, &values).unwrap();
            let mut out = Vec::new();
            template.render(0, Some("c=d"), &mut out);
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut parsed = httparse::Request::new(&mut headers);
            let head = parsed.parse(&out).unwrap().unwrap();
            prop_assert_eq!((head, parsed.method, parsed.version), (head_length(&out), Some("POST"), Some(1)));
            let path = parsed.path.unwrap();
            prop_assert!(path.starts_with("/a/") && path.bytes().all(|byte| byte.is_ascii_graphic()));
            let names: Vec<&str> = parsed.headers.iter().map(|header| header.name).collect();
            prop_assert_eq!(names, ["host", "x-h", "y", "cookie", "content-length"]);
            let sent = in_header.trim_matches([' ', '\t']);
            prop_assert_eq!(parsed.headers[1].value, sent.as_bytes());
            let length: usize = std::str::from_utf8(parsed.headers[4].value).unwrap().parse().unwrap();
            prop_assert_eq!(length, out.len() - head);
            let body = format!("<{in_body}>");
            prop_assert_eq!(&out[head..], body.as_bytes());
            let parts = template.parts(0, Some("c=d"));
            prop_assert_eq!((&*parts.path, &*parts.body), (path.as_bytes(), &out[head..]));
        }

        #[test]
        fn what_is_fixed_is_what_is_rendered(path in "/[a-z?&=/{}]{0,12}", value in "[ -~]{0,12}", body in any::<String>(), arrival in any::<u64>()) {
            let template = built(&request("POST", &path, &[("a", &value)], &body), &[]).unwrap();
            let mut out = Vec::new();
            template.render(arrival, None, &mut out);
            prop_assert_eq!(template.fixed(), Some(out.as_slice()));
        }
    }
}
