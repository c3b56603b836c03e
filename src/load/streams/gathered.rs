//! What is kept of an answer while it arrives: what its checks and the client's cookies need, and no more.

use std::cell::RefCell;

use crate::load::{check::CompiledChecks, cookies::CookieJar, http1::Sink};

/// Of one answer.
pub(super) struct Gathered<'a> {
    checks: &'a CompiledChecks,
    /// The client's, in a load with cookies.
    cookies: Option<&'a RefCell<CookieJar>>,
    headers_hold: bool,
    body: Vec<u8>,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(checks: &'a CompiledChecks, cookies: Option<&'a RefCell<CookieJar>>) -> Self {
        Self { checks, cookies, headers_hold: true, body: Vec::new() }
    }

    /// Takes the headers of the final answer. Names may be in any case.
    pub(super) fn headers<'h, I>(&mut self, headers: impl Fn() -> I)
    where
        I: Iterator<Item = (&'h str, &'h [u8])>,
    {
        if self.checks.needs_headers() {
            self.headers_hold = self.checks.headers_ok(headers());
        }
        if let Some(cookies) = self.cookies {
            for (_, value) in headers().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
                cookies.borrow_mut().take(value);
            }
        }
    }

    /// Takes the next bytes of the body.
    pub(super) fn more(&mut self, bytes: &[u8]) {
        if self.checks.needs_body() {
            self.body.extend_from_slice(bytes);
        }
    }

    /// Whether the whole answer, its status aside, is what it must be.
    pub(super) fn holds(&self) -> bool {
        self.headers_hold && (!self.checks.needs_body() || self.checks.body_ok(&self.body))
    }
}

impl Sink for Gathered<'_> {
    fn head(&mut self, _status: u16, headers: &[httparse::Header<'_>]) {
        self.headers(|| headers.iter().map(|header| (header.name, header.value)));
    }

    fn body(&mut self, bytes: &[u8]) {
        self.more(bytes);
    }
}
