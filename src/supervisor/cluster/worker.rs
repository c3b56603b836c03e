//! One worker as the primary knows it: what it has open, what it is owed, and what is on its way to it.
//!
//! Deliberately absent: listening sockets, and what to do when a worker speaks.
//!
//! While a descriptor is on its way, until the worker says that it has arrived, everything behind it waits: the worker
//! matches descriptors to messages by their order.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::net::{Shutdown, shutdown};
use serde_json::{Map, Value};

use super::{
    channel::{Channel, LONGEST_SENT, Sent},
    message,
    note::{OpenNote, WorkerNote},
    orphans::Offer,
};

/// Messages that may wait for a worker that does not read.
const WAITING: usize = 256;
/// Queries that may wait for their answer; no application has as many servers.
const OWED: usize = 1024;
/// How often a descriptor is sent again that did not arrive, as in Node.
const REPEATS: u32 = 3;

/// One worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) slot: u32,
    pub(super) channel: Channel,
    pub(super) held: bool,
    pub(super) draining: bool,
    pub(super) leaving: bool,
    /// The channel has ended or is given up.
    pub(super) gone: bool,
    pub(super) online: bool,
    pub(super) ready: bool,
    /// Its servers, by key.
    pub(super) open: BTreeMap<String, OpenNote>,
    /// Queries whose answer has not arrived yet.
    pub(super) owed: Vec<Map<String, Value>>,
    /// In the middle of a line that is too long; whether it carries a descriptor.
    pub(super) skipping: Option<bool>,
    /// A connection on offer.
    pub(super) offer: Option<Offer>,
    /// Its note in the vault is older than this.
    pub(super) dirty: bool,
    /// Why the channel was given up by sending.
    pub(super) failure: Option<String>,
    outbox: VecDeque<Letter>,
    travelling: Option<Letter>,
    blocked: bool,
}

/// A message to the worker.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) text: Vec<u8>,
    pub(super) descriptor: Option<OwnedFd>,
    pub(super) purpose: Purpose,
    pub(super) repeats: u32,
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Plain,
    /// Says that the worker's descriptor has arrived; waits for nothing.
    Receipt,
    /// The answer to this query.
    Answer(u64),
    /// A connection on offer.
    Offer,
}

impl Letter {
    pub(super) fn plain(text: Vec<u8>) -> Self {
        Self { text, descriptor: None, purpose: Purpose::Plain, repeats: 0 }
    }
}

impl Worker {
    /// A worker, and all that is known of it from before the death of another process.
    pub(super) fn new(channel: Channel, note: WorkerNote) -> Self {
        let WorkerNote { slot, held, draining, leaving, online, ready, open, owed, skipping } = note;
        Self {
            slot,
            channel,
            held,
            draining,
            leaving,
            gone: false,
            online,
            ready,
            open,
            owed,
            skipping,
            offer: None,
            dirty: true,
            failure: None,
            outbox: VecDeque::new(),
            travelling: None,
            blocked: false,
        }
    }

    pub(super) fn note(&self) -> WorkerNote {
        WorkerNote {
            slot: self.slot,
            held: self.held,
            draining: self.draining,
            leaving: self.leaving,
            online: self.online,
            ready: self.ready,
            open: self.open.clone(),
            owed: self.owed.clone(),
            skipping: self.skipping,
        }
    }

    /// Whether it takes new connections at the server of this key.
    pub(super) fn serves(&self, key: &str) -> bool {
        self.open.get(key).is_some_and(|open| open.listening) && self.takes_connections()
    }

    /// Whether nothing speaks against new connections for it.
    pub(super) fn takes_connections(&self) -> bool {
        !self.gone && !self.ends() && !self.held
    }

    /// Whether it closes its servers, or is about to.
    pub(super) fn ends(&self) -> bool {
        self.draining || self.leaving
    }

    /// Whether nothing is on its way, so that a connection would arrive at once.
    pub(super) fn is_idle(&self) -> bool {
        self.outbox.is_empty() && self.travelling.is_none() && self.offer.is_none()
    }

    pub(super) fn wants_write(&self) -> bool {
        self.blocked && !self.gone
    }

    /// Remembers a query until its answer has arrived. False: there are too many.
    pub(super) fn owe(&mut self, sequence: u64, query: Map<String, Value>) -> bool {
        if self.owed.iter().any(|owed| sequence_of(owed) == Some(sequence)) {
            return true;
        }
        self.owed.push(query);
        self.dirty = true;
        self.owed.len() <= OWED
    }

    /// Puts a message behind the others. False: too many wait, or it is too long. There are never more answers than
    /// queries, of which there is a limit.
    pub(super) fn post(&mut self, letter: Letter) -> bool {
        let full = self.outbox.len() >= WAITING && !matches!(letter.purpose, Purpose::Answer(_));
        if full || letter.text.len() > LONGEST_SENT {
            return false;
        }
        self.outbox.push_back(letter);
        true
    }

    /// Says that a descriptor from the worker has arrived; this alone may overtake.
    pub(super) fn acknowledge(&mut self) {
        let receipt = Letter { purpose: Purpose::Receipt, ..Letter::plain(message::handle_arrived()) };
        self.outbox.push_front(receipt);
    }

    /// Sends what may be sent now. A failure ends the channel, which is told by reading it.
    pub(super) fn pump(&mut self) {
        if let Err(error) = self.try_pump() {
            self.outbox.clear();
            self.failure = Some(error.to_string());
            let _ = shutdown(&self.channel, Shutdown::Both);
        }
    }

    fn try_pump(&mut self) -> io::Result<()> {
        self.blocked = false;
        while let Some(letter) = self.outbox.front() {
            if self.travelling.is_some() && letter.purpose != Purpose::Receipt {
                return Ok(());
            }
            let descriptor = letter.descriptor.as_ref().map(OwnedFd::as_fd);
            match self.channel.send(&letter.text, descriptor)? {
                Sent::Whole => self.posted(),
                Sent::Blocked => {
                    self.blocked = true;
                    return Ok(());
                }
                // The end of the channel is told by reading it, after all that the worker had said.
                Sent::Gone => {
                    self.outbox.clear();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn posted(&mut self) {
        let Some(letter) = self.outbox.pop_front() else { return };
        if letter.descriptor.is_some() {
            self.travelling = Some(letter);
        } else if let Purpose::Answer(sequence) = letter.purpose {
            self.settle(sequence);
        }
    }

    /// The descriptor on its way has arrived.
    pub(super) fn arrived(&mut self) {
        if let Some(Letter { purpose: Purpose::Answer(sequence), .. }) = self.travelling.take() {
            self.settle(sequence);
        }
    }

    /// The descriptor on its way was lost, which the worker's limit of descriptors may do.
    pub(super) fn missing(&mut self) {
        if let Some(mut letter) = self.travelling.take()
            && letter.repeats < REPEATS
        {
            letter.repeats += 1;
            self.outbox.push_front(letter);
        }
    }

    /// A message that cannot be acknowledged twice was taken.
    fn settle(&mut self, sequence: u64) {
        let before = self.owed.len();
        self.owed.retain(|owed| sequence_of(owed) != Some(sequence));
        self.dirty |= self.owed.len() != before;
    }
}

/// The number by which a query is answered.
pub(super) fn sequence_of(query: &Map<String, Value>) -> Option<u64> {
    query.get("seq").and_then(Value::as_u64)
}
