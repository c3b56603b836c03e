//! What a worker says, and what it is answered.
//!
//! Deliberately absent: connections on offer (`orphans`).
//!
//! The order is what makes a death of this process harmless: look at the lines, deal with them, note what has changed,
//! send, and only then take them. After a death the same lines are dealt with again.

use std::{
    net::{Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
};

use rustix::io::Errno;
use serde_json::{Map, Value};

use super::{
    Outcome, Reading, Vault,
    bind::overlap,
    channel::{LONGEST_SENT, Peek, duplicate},
    listener::{Listener, stored},
    message::{self, Incoming},
    note::{Kind, OpenNote},
    primary::{Cluster, keep},
    query::{Place, Query},
    worker::{Letter, Purpose, Worker},
};

/// Looks in one turn; a worker that never stops talking must let the others have theirs.
const LOOKS: usize = 16;

/// What a look led to.
enum Look {
    More,
    Dry,
}

impl Cluster {
    /// Reads what a worker has sent.
    pub(crate) fn readable(&mut self, id: u64, vault: &mut dyn Vault) -> Reading {
        let mut outcomes = Vec::new();
        for _ in 0..LOOKS {
            if let Look::Dry = self.look(id, vault, &mut outcomes) {
                return Reading { outcomes, more: false };
            }
        }
        Reading { outcomes, more: true }
    }

    /// Answers what a worker has asked and not got.
    pub(super) fn answer_owed(&mut self, id: u64, vault: &mut dyn Vault, outcomes: &mut Vec<Outcome>) {
        let owed = match self.workers.get(&id) {
            Some(worker) if !worker.held && !worker.ends() => worker.owed.clone(),
            _ => return,
        };
        for query in owed.iter().filter_map(Query::read) {
            self.answer(id, &query, vault, outcomes);
        }
        self.persist_worker(id, vault, outcomes);
        self.writable(id);
    }

    fn look(&mut self, id: u64, vault: &mut dyn Vault, outcomes: &mut Vec<Outcome>) -> Look {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.gone) else { return Look::Dry };
        let (bytes, cut) = match worker.channel.peek() {
            _ if worker.failure.is_some() => {
                let failure = worker.failure.take().unwrap_or_default();
                return self.give_up(id, failure, outcomes);
            }
            Ok(Peek::Bytes { bytes, cut }) => (bytes, cut),
            Ok(Peek::Empty) => return Look::Dry,
            Ok(Peek::End) => {
                self.lose(id);
                self.steer();
                outcomes.push(Outcome::Closed);
                return Look::Dry;
            }
            Err(error) => return self.give_up(id, error.to_string(), outcomes),
        };
        let end = bytes.iter().rposition(|&byte| byte == b'\n').map(|last| last + 1);
        match (worker.skipping, end) {
            (Some(carrier), _) => self.skip(id, carrier, &bytes, vault, outcomes),
            (None, Some(end)) => self.deal_with(id, &bytes[..end], vault, outcomes),
            // The line is too long to be looked at: it is thrown away, which must be noted before it loses its head.
            (None, None) if cut => {
                worker.skipping = Some(message::carries_handle(&bytes));
                worker.dirty = true;
                self.persist_worker(id, vault, outcomes);
                Look::More
            }
            (None, None) => Look::Dry,
        }
    }

    /// Deals with whole lines and takes them.
    fn deal_with(
        &mut self,
        id: u64,
        lines: &[u8],
        vault: &mut dyn Vault,
        outcomes: &mut Vec<Outcome>,
    ) -> Look {
        let mut receipts = 0;
        for line in lines.split(|&byte| byte == b'\n') {
            let incoming = match message::understand(line) {
                Ok(Incoming::Handle(incoming)) => {
                    receipts += 1;
                    *incoming
                }
                Ok(incoming) => incoming,
                Err(error) => return self.give_up(id, error, outcomes),
            };
            if let Err(error) = self.hear(id, incoming, vault, outcomes) {
                return self.give_up(id, error.to_owned(), outcomes);
            }
        }
        self.persist_worker(id, vault, outcomes);
        let Some(worker) = self.workers.get_mut(&id) else { return Look::Dry };
        worker.pump();
        if let Err(error) = worker.channel.consume(lines.len()) {
            return self.give_up(id, error.to_string(), outcomes);
        }
        for _ in 0..receipts {
            worker.acknowledge();
        }
        worker.pump();
        Look::More
    }

    /// Takes what is there of a line that is thrown away, up to its end.
    fn skip(
        &mut self,
        id: u64,
        carrier: bool,
        bytes: &[u8],
        vault: &mut dyn Vault,
        outcomes: &mut Vec<Outcome>,
    ) -> Look {
        let Some(worker) = self.workers.get_mut(&id) else { return Look::Dry };
        let end = bytes.iter().position(|&byte| byte == b'\n');
        // The end of the line stays: should this process die now, it is an empty line to the next one.
        if let Err(error) = worker.channel.consume(end.unwrap_or(bytes.len())) {
            return self.give_up(id, error.to_string(), outcomes);
        }
        if end.is_some() {
            worker.skipping = None;
            worker.dirty = true;
            self.persist_worker(id, vault, outcomes);
            outcomes.push(Outcome::Dropped);
            if let Some(worker) = self.workers.get_mut(&id).filter(|_| carrier) {
                worker.acknowledge();
                worker.pump();
            }
        }
        Look::More
    }

    fn give_up(&mut self, id: u64, why: String, outcomes: &mut Vec<Outcome>) -> Look {
        self.lose(id);
        self.steer();
        outcomes.push(Outcome::Broken(why));
        Look::Dry
    }

    /// Deals with one message; again, when this process has died since.
    fn hear(
        &mut self,
        id: u64,
        incoming: Incoming,
        vault: &mut dyn Vault,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), &'static str> {
        let Some(worker) = self.workers.get_mut(&id) else { return Ok(()) };
        match incoming {
            Incoming::Online => {
                worker.dirty |= !worker.online;
                worker.online = true;
                outcomes.push(Outcome::Online);
            }
            Incoming::Ready => {
                worker.dirty |= !worker.ready;
                worker.ready = true;
                outcomes.push(Outcome::Ready);
            }
            Incoming::Query(query) => self.ask(id, query, vault, outcomes)?,
            Incoming::Listening(query) => self.listens(id, query, outcomes),
            Incoming::Close(key) => {
                worker.dirty |= worker.open.remove(&key).is_some();
                let ends = worker.ends();
                self.closed(id, &key, ends);
                self.steer();
            }
            Incoming::Leaving(ack) => {
                worker.leaving = true;
                worker.dirty = true;
                let number = self.number();
                self.post(id, Letter::plain(message::acknowledgement(ack, number)));
                self.steer();
                outcomes.push(Outcome::Leaving);
            }
            Incoming::HandleArrived => worker.arrived(),
            Incoming::HandleMissing => worker.missing(),
            Incoming::Accepted { ack, accepted } => self.settle_offer(id, ack, accepted),
            Incoming::Application(message) => outcomes.push(Outcome::Message(message)),
            Incoming::Unreadable => outcomes.push(Outcome::Dropped),
            Incoming::Ignored | Incoming::Handle(_) => {}
        }
        Ok(())
    }

    fn ask(
        &mut self,
        id: u64,
        message: Map<String, Value>,
        vault: &mut dyn Vault,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), &'static str> {
        let Some(query) = Query::read(&message) else { return Ok(()) };
        // One that ends is about to close every server; Node answers nothing either.
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.ends()) else { return Ok(()) };
        if !worker.owe(query.sequence, message) {
            return Err("too many servers");
        }
        if !worker.held {
            self.answer(id, &query, vault, outcomes);
        }
        Ok(())
    }

    fn answer(&mut self, id: u64, query: &Query, vault: &mut dyn Vault, outcomes: &mut Vec<Outcome>) {
        let number = self.number();
        let letter = self.socket_for(id, query, vault, outcomes).and_then(|place| {
            let slot = self.workers.get(&id).map_or(0, |worker| worker.slot);
            let listener = self.listeners.get_mut(place).ok_or(Errno::BADF)?;
            let (socket, _) = listener.socket(slot, query.backlog)?;
            let descriptor = Some(duplicate(socket)?);
            let datagram = listener.kind == Kind::Udp;
            let text = message::socket_answer(query, &listener.data, datagram, number);
            if text.len() > LONGEST_SENT {
                return Err(Errno::MSGSIZE);
            }
            let open = OpenNote {
                listener: listener.number,
                sequence: query.sequence,
                any_port: query.port == Some(0),
                kin: query.kin.clone(),
                listening: false,
            };
            Ok((Letter { descriptor, ..Letter::plain(text) }, Some(open)))
        });
        let (letter, open) = letter.unwrap_or_else(|errno| {
            let errno = errno.raw_os_error();
            outcomes.push(Outcome::Refused { key: query.key.clone(), errno });
            (Letter::plain(message::refusal(&query.key, query.sequence, errno, number)), None)
        });
        if let Some(worker) = self.workers.get_mut(&id) {
            if let Some(open) = open {
                // After a death the same query comes again, perhaps when its server listens already.
                let known = worker.open.get(&query.key).is_some_and(|known| known.sequence == open.sequence);
                if !known {
                    worker.open.insert(query.key.clone(), open);
                    worker.dirty = true;
                }
            }
            worker.post(Letter { purpose: Purpose::Answer(query.sequence), ..letter });
        }
    }

    /// The place of the listener for a query, bound and kept if need be.
    fn socket_for(
        &mut self,
        id: u64,
        query: &Query,
        vault: &mut dyn Vault,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<usize, Errno> {
        let worker = self.workers.get(&id).ok_or(Errno::SRCH)?;
        let slot = worker.slot;
        if worker.open.get(&query.key).is_some_and(|open| open.sequence != query.sequence) {
            // A second server of the same worker, which must not share with the first.
            return Err(Errno::ADDRINUSE);
        }
        let mut found =
            self.listeners.iter().position(|listener| !listener.superseded && listener.key == query.key);
        if let Some(listener) = found.and_then(|place| self.listeners.get_mut(place))
            && !listener.is_reachable()
        {
            listener.superseded = true;
            found = None;
        }
        let place = match found {
            Some(place) => place,
            None => {
                let listener = self.bind(id, query, slot, vault)?;
                self.next_listener += 1;
                self.listeners.push(listener);
                self.listeners.len() - 1
            }
        };
        let listener = self.listeners.get_mut(place).ok_or(Errno::BADF)?;
        let number = listener.number;
        listener.unused_since = None;
        listener.abandoned_by = None;
        let more_data = listener.data.is_null() && !query.data.is_null();
        if more_data {
            listener.data = query.data.clone();
        }
        let back_in_use = listener.take_into_use(slot);
        let (socket, new) = listener.socket(slot, query.backlog)?;
        if new || found.is_none() {
            let socket = duplicate(socket)?;
            let slot = listener.sockets.last().and_then(|held| held.slot);
            let name = self.stored(&stored(number, slot));
            keep(vault, &name, socket.as_fd(), outcomes);
        }
        if new || more_data || back_in_use || found.is_none() {
            self.persist(vault, outcomes);
            // A socket at which nobody accepts yet must not get connections while others do accept.
            self.steer();
        }
        Ok(place)
    }

    /// Binds a new listener. Sockets of our own that nobody uses any more do not stand in the way; those of other
    /// workers neither, for they may be about to be replaced by one that listens elsewhere.
    fn bind(&mut self, id: u64, query: &Query, slot: u32, vault: &mut dyn Vault) -> Result<Listener, Errno> {
        let number = self.next_listener;
        let attempt = |joining| Listener::bind(number, query, slot, &self.options, joining);
        let first = attempt(false);
        let (Err(Errno::ADDRINUSE), Ok(Place::Tcp { host, port, .. })) = (&first, &query.place) else {
            return first;
        };
        let ip = host.as_ref().map_or(Ipv6Addr::UNSPECIFIED.into(), |host| host.ip);
        let wanted = SocketAddr::new(ip, *port);
        let in_the_way =
            |listener: &Listener| listener.address().is_some_and(|address| overlap(address, wanted));
        let uses = |worker: &Worker, listener: &Listener| {
            worker.open.values().any(|open| open.listener == listener.number)
        };
        let ours: Vec<&Listener> = self.listeners.iter().filter(|listener| in_the_way(listener)).collect();
        let own_server =
            self.workers.get(&id).is_some_and(|worker| ours.iter().any(|listener| uses(worker, listener)));
        if ours.is_empty() || own_server {
            return Err(Errno::ADDRINUSE);
        }
        let (busy, unused): (Vec<&Listener>, Vec<&Listener>) =
            ours.into_iter().partition(|listener| self.workers.values().any(|worker| uses(worker, listener)));
        let joining = !busy.is_empty();
        let unused: Vec<u32> = unused.into_iter().map(|listener| listener.number).collect();
        for number in unused {
            self.drop_listener(number, vault);
        }
        Listener::bind(number, query, slot, &self.options, joining)
    }

    fn listens(&mut self, id: u64, query: Query, outcomes: &mut Vec<Outcome>) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // The port is the one it was given, also where it had asked for any.
        let key = match worker.open.get(&query.key) {
            Some(_) => Some(query.key),
            None => {
                let same = |open: &OpenNote| open.any_port && open.kin == query.kin;
                worker.open.iter().find(|(_, open)| same(open)).map(|(key, _)| key.clone())
            }
        };
        if let Some(open) = key.and_then(|key| worker.open.get_mut(&key)) {
            worker.dirty |= !open.listening;
            open.listening = true;
        }
        outcomes
            .push(Outcome::Listening { address: query.address, port: query.port.filter(|&port| port != 0) });
        self.steer();
    }
}
