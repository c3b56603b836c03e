//! What the criterion benches in `benches/load.rs` reach of the engine's inside: one request's work without its
//! system calls. Not for use elsewhere.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use super::{
    Slot,
    gaps::Gaps,
    http1::{Progress, ResponseParser},
    recorder::{Completion, LaneRecorder, Marks, Shared},
    template::Template,
    variables::CompiledVariables,
};
use crate::model::request::{Request, Variables};

/// Reads answers.
#[derive(Debug)]
pub struct Parse(ResponseParser);

impl Default for Parse {
    fn default() -> Self {
        Self(ResponseParser::new())
    }
}

impl Parse {
    /// The status of a whole answer to a GET; `None` when it is not one.
    pub fn answer(&mut self, bytes: &[u8]) -> Option<u16> {
        self.0.begin(false);
        match self.0.feed(bytes, &mut ()) {
            Ok(Progress::Done { answer, .. }) => Some(answer.status),
            _ => None,
        }
    }
}

/// Writes requests into a buffer.
#[derive(Debug)]
pub struct Write {
    template: Template,
    buffer: Vec<u8>,
}

impl Write {
    /// `None` when the request cannot be sent.
    pub fn new(request: &Request, variables: &Variables) -> Option<Self> {
        let variables = Arc::new(CompiledVariables::new(variables).ok()?);
        let template = Template::new(request, "127.0.0.1:8080", false, &variables).ok()?;
        Some(Self { template, buffer: Vec::new() })
    }

    /// The length of the `index`-th request as it goes over the wire.
    pub fn request(&mut self, index: u64) -> usize {
        match self.template.fixed() {
            Some(fixed) => fixed.len(),
            None => {
                self.template.render(index, None, &mut self.buffer);
                self.buffer.len()
            }
        }
    }
}

/// Records what becomes of requests.
#[derive(Debug)]
pub struct Record(LaneRecorder);

impl Default for Record {
    fn default() -> Self {
        let slots = [Slot { lane: 0, length: Duration::from_secs(3600) }];
        let shared =
            Shared { slots: slots.into(), marks: Marks::default(), sample_budget: AtomicUsize::new(0) };
        Self(LaneRecorder::new(0, Gaps::new(1), Arc::new(shared), None))
    }
}

impl Record {
    /// A request from its offer to its answer.
    pub fn request(&mut self, intended_ns: u64, latency_ns: u64) {
        self.0.offered(intended_ns);
        self.0.sent(intended_ns, intended_ns + 1000);
        self.0.completed(&Completion {
            address: 0,
            intended: intended_ns,
            sent: intended_ns + 1000,
            first_done: intended_ns + latency_ns,
            done: intended_ns + latency_ns,
            outcome: Ok(()),
            retry: None,
            timed_out: false,
        });
    }
}
