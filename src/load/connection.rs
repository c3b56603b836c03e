//! A place for one connection and the request on it.
//!
//! It belongs to one address and is used for one request at a time: never pipelined, since an answer that waits
//! for another would be timed wrongly.

use std::os::fd::OwnedFd;

use super::{cookies::CookieJar, http1::ResponseParser};
use crate::model::sample::ErrorClass;

/// What a connection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none; the next request opens one.
    Closed,
    /// The request goes out as soon as the connection stands.
    Connecting,
    /// Part of the request could not be written yet.
    Sending {
        /// Bytes of it that are out.
        written: usize,
    },
    /// The answer is awaited.
    Receiving,
    /// Open, without a request.
    Idle,
}

/// What of a connection the kernel tells us. Each change is told once (edge-triggered), which spares it a look at the
/// socket after every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watch {
    /// It is not watched yet.
    Nothing,
    /// That something has come in, or that the server has closed its side.
    Answers,
    /// Also that there is room to write again.
    AnswersAndRoom,
}

/// A request on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Job {
    /// Nanoseconds since the start of the load.
    pub(super) intended: u64,
    /// The number of the request in the load, which determines its variables.
    pub(super) index: u64,
    /// Which of the lane's choices it is.
    pub(super) choice: u32,
}

/// What is known of an attempt that failed and is being retried.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstFailure {
    pub(super) class: ErrorClass,
    /// Nanoseconds since the start of the load.
    pub(super) done: u64,
}

pub(super) struct Connection {
    pub(super) pool: u32,
    /// Tells events of this connection from those of an earlier one in the same place.
    pub(super) generation: u32,
    pub(super) phase: Phase,
    pub(super) socket: Option<OwnedFd>,
    pub(super) watch: Watch,
    /// When a Unix socket whose queue was full is tried again.
    pub(super) reopens_at: u64,
    /// It has carried a request already.
    pub(super) reused: bool,
    pub(super) parser: ResponseParser,
    pub(super) job: Job,
    /// When the request under way was sent first, and when it is given up. Nanoseconds since the start.
    pub(super) sent: u64,
    pub(super) deadline: u64,
    pub(super) first_failure: Option<FirstFailure>,
    /// What is left to write of a request that is different each time.
    pub(super) unwritten: Vec<u8>,
    /// What checks and cookies need; absent for a load without them.
    pub(super) gathered: Option<Box<Gathered>>,
}

/// What is kept of an answer while it arrives, and of the client between answers.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) cookies: CookieJar,
    pub(super) headers_hold: bool,
    pub(super) body: Vec<u8>,
}

impl Connection {
    pub(super) fn new(pool: u32) -> Self {
        Self {
            pool,
            generation: 0,
            phase: Phase::Closed,
            socket: None,
            watch: Watch::Nothing,
            reopens_at: 0,
            reused: false,
            parser: ResponseParser::new(),
            job: Job::default(),
            sent: 0,
            deadline: 0,
            first_failure: None,
            unwritten: Vec::new(),
            gathered: None,
        }
    }

    pub(super) fn close(&mut self) {
        self.socket = None;
        self.phase = Phase::Closed;
        self.watch = Watch::Nothing;
        self.unwritten = Vec::new();
    }

    /// A request is on it.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Sending { .. } | Phase::Receiving)
    }
}
