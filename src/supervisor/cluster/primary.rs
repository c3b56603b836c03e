//! The cluster of one application: its listeners and its workers, and how they come and go.
//!
//! Deliberately absent: what a worker says (`dialogue`), and connections that nobody accepts (`orphans`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use serde_json::Value;

use super::{
    Options, Outcome, Vault,
    channel::Channel,
    listener::{Listener, stored},
    message,
    note::{self, ClusterNote, WorkerNote},
    orphans::Homeless,
    worker::{Letter, Worker},
};

/// Our numbers of messages in one epoch; JavaScript counts exactly to 2⁵³.
const NUMBERS_PER_EPOCH: u64 = 1 << 32;
/// Epochs are counted round before the numbers grow too large; a number that old is remembered by nobody.
const EPOCHS: u64 = 1 << 20;

/// The cluster of one application.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(super) app: String,
    pub(super) options: Options,
    pub(super) listeners: Vec<Listener>,
    pub(super) workers: BTreeMap<u64, Worker>,
    /// Connections that were accepted here and that no worker has yet.
    pub(super) homeless: VecDeque<Homeless>,
    /// The worker that was offered a connection last.
    pub(super) turn: u64,
    pub(super) next_listener: u32,
    epoch: u64,
    numbers: u64,
}

/// A worker that comes.
#[derive(Debug)]
pub(crate) struct Admission<'note> {
    /// Never used for another worker of this cluster.
    pub(crate) worker: u64,
    /// Whose place it takes; several workers may share a slot.
    pub(crate) slot: u32,
    /// A spare: gets no socket until [`Cluster::release`].
    pub(crate) held: bool,
    /// The worker's note in the vault, when another process of ours had it; the slot is then that of the note.
    pub(crate) note: Option<&'note [u8]>,
}

/// What is known of a worker, also after a restart of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) slot: u32,
    pub(crate) online: bool,
    /// At least one server listens.
    pub(crate) listening: bool,
    /// The application said `"ready"`.
    pub(crate) ready: bool,
    /// It drains, or wants to end by itself.
    pub(crate) ends: bool,
    pub(crate) held: bool,
    /// The channel is open.
    pub(crate) connected: bool,
}

impl Cluster {
    /// A cluster without sockets and workers. Its sockets are kept as `l/<app>/<number>/<slot or "shared">`, its note
    /// as `c/<app>`, and that of each worker as `c/<app>/<worker>`.
    pub(crate) fn new(app: &str, options: Options) -> Self {
        Self {
            app: app.to_owned(),
            options,
            listeners: Vec::new(),
            workers: BTreeMap::new(),
            homeless: VecDeque::new(),
            turn: 0,
            next_listener: 0,
            epoch: 0,
            numbers: 0,
        }
    }

    /// The cluster that another process of ours had, from its note and the descriptors whose names begin with
    /// `l/<app>/`. Its workers follow by [`Cluster::admit`].
    pub(crate) fn restore(
        app: &str,
        options: Options,
        note: &[u8],
        mut listeners: BTreeMap<String, OwnedFd>,
        vault: &mut dyn Vault,
    ) -> (Self, Vec<Outcome>) {
        let mut cluster = Self::new(app, options);
        let ClusterNote { epoch, next, listeners: noted } = note::read(note).unwrap_or_default();
        cluster.epoch = (epoch + 1) % EPOCHS;
        cluster.next_listener = next;
        for note in noted {
            let take = |name: &str| {
                let descriptor = listeners.remove(&cluster.stored(name))?;
                // It may have any number; ours are out of the way of a child's.
                super::channel::lift(descriptor).ok()
            };
            let listener = Listener::restore(note, take);
            cluster.listeners.extend(listener);
        }
        // Bound, but not noted any more or not yet: nobody uses it.
        for name in listeners.into_keys() {
            vault.discard(&name);
        }
        let mut outcomes = Vec::new();
        cluster.persist(vault, &mut outcomes);
        (cluster, outcomes)
    }

    /// Lets a worker in. What its former primary owed it, it gets.
    pub(crate) fn admit(
        &mut self,
        admission: &Admission<'_>,
        channel: Channel,
        vault: &mut dyn Vault,
    ) -> Vec<Outcome> {
        let &Admission { worker: id, slot, held, note } = admission;
        let fresh = WorkerNote { slot, held, ..WorkerNote::default() };
        let note = note.and_then(note::read).unwrap_or(fresh);
        let draining = note.draining;
        self.workers.insert(id, Worker::new(channel, note));
        let mut outcomes = Vec::new();
        self.persist_worker(id, vault, &mut outcomes);
        self.answer_owed(id, vault, &mut outcomes);
        if draining {
            // It may not have been told; the shim swallows what is told twice.
            self.post_disconnect(id);
        }
        self.steer();
        outcomes
    }

    /// Begins the drain, unless the worker ends already: it closes its servers and, once its connections have ended, its channel.
    pub(crate) fn disconnect(&mut self, id: u64, vault: &mut dyn Vault) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.ends()) else {
            return outcomes;
        };
        worker.draining = true;
        worker.owed.clear();
        worker.dirty = true;
        self.persist_worker(id, vault, &mut outcomes);
        self.post_disconnect(id);
        self.steer();
        outcomes
    }

    /// Sends a message to the application. False: there is no such worker, it does not read, or the message is longer
    /// than 32 KiB.
    pub(crate) fn send(&mut self, id: u64, message: &Value) -> bool {
        self.post(id, Letter::plain(message::line(message)))
    }

    /// Makes a spare a worker of this slot: it gets the sockets it has asked for.
    pub(crate) fn release(&mut self, id: u64, slot: u32, vault: &mut dyn Vault) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.held = false;
            worker.slot = slot;
            worker.dirty = true;
            self.persist_worker(id, vault, &mut outcomes);
            self.answer_owed(id, vault, &mut outcomes);
        }
        outcomes
    }

    /// Forgets a worker that has ended. Its sockets stay for its successor.
    pub(crate) fn remove(&mut self, id: u64, vault: &mut dyn Vault) {
        self.lose(id);
        if self.workers.remove(&id).is_some() {
            vault.forget(&self.worker_key(id));
        }
        self.steer();
    }

    /// Ends the cluster: closes its sockets and forgets all about it. Its workers should have ended.
    pub(crate) fn end(mut self, vault: &mut dyn Vault) {
        // The note first: a socket without a note is thrown away by the next process, a note without one is not.
        vault.forget(&self.cluster_key());
        for listener in std::mem::take(&mut self.listeners) {
            for name in listener.close() {
                vault.discard(&self.stored(&name));
            }
        }
        for &id in self.workers.keys() {
            vault.forget(&self.worker_key(id));
        }
    }

    /// Puts everything into a vault that has lost its memory. The caller does so for the channels.
    #[cfg_attr(not(test), expect(dead_code, reason = "the store of the keeper has a mirror of its own"))]
    pub(crate) fn replay(&mut self, vault: &mut dyn Vault) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for listener in &self.listeners {
            for held in &listener.sockets {
                let name = self.stored(&stored(listener.number, held.slot));
                keep(vault, &name, held.socket.as_fd(), &mut outcomes);
            }
        }
        self.persist(vault, &mut outcomes);
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.dirty = true;
            }
            self.persist_worker(id, vault, &mut outcomes);
        }
        outcomes
    }

    /// Sends what did not fit before.
    pub(crate) fn writable(&mut self, id: u64) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.pump();
        }
    }

    /// Whether something waits until the channel is writable.
    pub(crate) fn wants_write(&self, id: u64) -> bool {
        self.workers.get(&id).is_some_and(Worker::wants_write)
    }

    /// The worker's channel, to be waited for.
    #[cfg_attr(not(test), expect(dead_code, reason = "whoever admits a worker has its channel"))]
    pub(crate) fn channel(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.workers.get(&id).map(|worker| worker.channel.as_fd())
    }

    /// What is known of a worker.
    pub(crate) fn standing(&self, id: u64) -> Option<Standing> {
        let worker = self.workers.get(&id)?;
        Some(Standing {
            slot: worker.slot,
            online: worker.online,
            listening: worker.open.values().any(|open| open.listening),
            ready: worker.ready,
            ends: worker.ends(),
            held: worker.held,
            connected: !worker.gone,
        })
    }

    /// Has new connections come only where somebody accepts.
    pub(super) fn steer(&mut self) {
        for listener in &mut self.listeners {
            let slots = slots_served(&self.workers, listener);
            listener.steer(|slot| slots.contains(&slot));
        }
    }

    /// Puts a message to a worker behind the others and sends what may be sent.
    pub(super) fn post(&mut self, id: u64, letter: Letter) -> bool {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.gone) else { return false };
        let posted = worker.post(letter);
        worker.pump();
        posted
    }

    /// The next number of a message of ours.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers = (self.numbers + 1) % NUMBERS_PER_EPOCH;
        self.epoch * NUMBERS_PER_EPOCH + self.numbers
    }

    /// Notes the listeners.
    pub(super) fn persist(&self, vault: &mut dyn Vault, outcomes: &mut Vec<Outcome>) {
        let listeners = self.listeners.iter().map(Listener::note).collect();
        let note = ClusterNote { epoch: self.epoch, next: self.next_listener, listeners };
        write(vault, &self.cluster_key(), &note::write(&note), outcomes);
    }

    /// Notes what has changed about a worker.
    pub(super) fn persist_worker(&mut self, id: u64, vault: &mut dyn Vault, outcomes: &mut Vec<Outcome>) {
        let key = self.worker_key(id);
        if let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.dirty) {
            worker.dirty = false;
            write(vault, &key, &note::write(&worker.note()), outcomes);
        }
    }

    /// The name in the vault of something of this application's.
    pub(super) fn stored(&self, name: &str) -> String {
        format!("l/{}/{name}", self.app)
    }

    fn cluster_key(&self) -> String {
        format!("c/{}", self.app)
    }

    fn worker_key(&self, id: u64) -> String {
        format!("c/{}/{id}", self.app)
    }

    fn post_disconnect(&mut self, id: u64) {
        let number = self.number();
        self.post(id, Letter::plain(message::disconnect(number)));
    }
}

/// The slots of a listener at which somebody accepts.
pub(super) fn slots_served(workers: &BTreeMap<u64, Worker>, listener: &Listener) -> BTreeSet<u32> {
    let serving = workers.values().filter(|worker| {
        worker.serves(&listener.key)
            && worker.open.get(&listener.key).is_some_and(|open| open.listener == listener.number)
    });
    serving.map(|worker| worker.slot).collect()
}

/// Keeps a descriptor, and tells when that failed.
pub(super) fn keep(
    vault: &mut dyn Vault,
    name: &str,
    descriptor: BorrowedFd<'_>,
    outcomes: &mut Vec<Outcome>,
) {
    if let Err(error) = vault.keep(name, descriptor) {
        outcomes.push(Outcome::Unkept(format!("{name}: {error}")));
    }
}

fn write(vault: &mut dyn Vault, key: &str, note: &[u8], outcomes: &mut Vec<Outcome>) {
    if let Err(error) = vault.note(key, note) {
        outcomes.push(Outcome::Unkept(format!("{key}: {error}")));
    }
}
