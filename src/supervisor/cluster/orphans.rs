//! Connections that wait at sockets whose own worker is gone, and sockets that are to go.
//!
//! Deliberately absent: clocks; the caller says what time it is.
//!
//! A connection is accepted here only when a worker can have it at once; until then it waits in the kernel, where it is
//! safe. It is closed here only when a worker has taken it, so that one that is refused goes to another.
//!
//! The kernel resets the connections that wait at a socket which closes. A socket that is to go is therefore first left
//! out by the program that steers new connections, then emptied, and closed a while later, when the handshakes that had
//! begun at it are over too. Where the kernel cannot be told to steer, the socket is kept as long as the application.

use std::{
    mem::take,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    Outcome, Vault,
    bind::accept,
    channel::duplicate,
    listener::Listener,
    message,
    primary::{Cluster, slots_served},
    worker::{Letter, Purpose, Worker},
};

/// How long a socket stays open that new connections are steered away from: a handshake whose last packet was lost
/// once or twice is over by then.
const LINGER: Duration = Duration::from_secs(5);
/// How long a listener is held that the application no longer opens, while its workers serve others.
const UNUSED: Duration = Duration::from_secs(30);
/// How long a connection is offered round that every worker refuses.
const HOMELESS: Duration = Duration::from_secs(10);

/// A connection that was accepted here and that no worker has.
#[derive(Debug)]
pub(super) struct Homeless {
    key: String,
    connection: OwnedFd,
    refused_by: Vec<u64>,
    since: Instant,
}

/// A connection that was sent to a worker and neither taken nor refused yet.
#[derive(Debug)]
pub(super) struct Offer {
    sequence: u64,
    homeless: Homeless,
}

/// A socket at which no worker accepts, although one could be handed its connections.
#[derive(Debug)]
pub(crate) struct Orphan<'cluster> {
    /// The listener's number; together with the slot it names the socket.
    pub(crate) listener: u32,
    /// None: a socket that all shared.
    pub(crate) slot: Option<u32>,
    /// To be waited for until it is readable.
    pub(crate) socket: BorrowedFd<'cluster>,
}

impl Cluster {
    /// The sockets to wait for, as long as they are in this list.
    pub(crate) fn orphaned_listeners(&self) -> Vec<Orphan<'_>> {
        let mut orphans = Vec::new();
        for listener in self.listeners.iter().filter(|listener| listener.has_connections()) {
            if !self.workers.values().any(|worker| worker.serves(&listener.key)) {
                continue;
            }
            let served = slots_served(&self.workers, listener);
            for held in &listener.sockets {
                if held.slot.map_or(served.is_empty(), |slot| !served.contains(&slot)) {
                    let socket = held.socket.as_fd();
                    orphans.push(Orphan { listener: listener.number, slot: held.slot, socket });
                }
            }
        }
        orphans
    }

    /// Hands the connections that wait at orphaned sockets to workers, at most one at a time to each. To be called when
    /// such a socket is readable, when a worker was removed, and after each [`Cluster::readable`] while there are any.
    /// True: there may be more, but every worker is busy with one; no need to wait for the sockets until one answers.
    pub(crate) fn accept_orphans(&mut self) -> bool {
        for homeless in take(&mut self.homeless) {
            self.house(homeless);
        }
        let mut busy = !self.homeless.is_empty();
        let orphans: Vec<_> =
            self.orphaned_listeners().iter().map(|orphan| (orphan.listener, orphan.slot)).collect();
        for (number, slot) in orphans {
            while let Some((key, socket)) = self.orphan(number, slot) {
                if self.homeless.iter().any(|homeless| homeless.key == key) {
                    break;
                }
                let Some(worker) = self.next_taker(key, &[]) else {
                    busy = true;
                    break;
                };
                let key = key.to_owned();
                let Some(connection) = accept(socket) else { break };
                self.offer(
                    worker,
                    Homeless { key, connection, refused_by: Vec::new(), since: Instant::now() },
                );
            }
        }
        busy
    }

    /// Takes a slot out of use, when the application is scaled down. New connections go to the others at once; what
    /// waits is handed over by [`Cluster::accept_orphans`], and [`Cluster::tidy`] closes the sockets. The slot's worker
    /// may be drained before or after. A worker that comes to the slot takes it into use again.
    pub(crate) fn retire_slot(&mut self, slot: u32, now: Instant, vault: &mut dyn Vault) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for listener in &mut self.listeners {
            for held in listener.sockets.iter_mut().filter(|held| held.slot == Some(slot)) {
                held.retired = Some(now);
            }
        }
        self.persist(vault, &mut outcomes);
        self.steer();
        outcomes
    }

    /// Closes what has been out of use for long enough. To be called every second or so.
    pub(crate) fn tidy(&mut self, now: Instant, vault: &mut dyn Vault) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        self.homeless.retain(|homeless| now.saturating_duration_since(homeless.since) < HOMELESS);
        for homeless in &mut self.homeless {
            homeless.refused_by.clear();
        }
        let retired = self.retired(now);
        for &(number, slot) in &retired {
            self.close_slot(number, slot, vault);
        }
        let unused = self.unused(now);
        for &number in &unused {
            self.drop_listener(number, vault);
        }
        if !retired.is_empty() || !unused.is_empty() {
            self.persist(vault, &mut outcomes);
        }
        self.steer();
        outcomes
    }

    /// A worker's answer to an offer.
    pub(super) fn settle_offer(&mut self, id: u64, number: u64, accepted: bool) {
        let offered =
            self.workers.get_mut(&id).and_then(|worker| worker.offer.take_if(|it| it.sequence == number));
        if let Some(Offer { mut homeless, .. }) = offered.filter(|_| !accepted) {
            homeless.refused_by.push(id);
            self.house(homeless);
        }
    }

    /// The channel of a worker is of no use any more.
    pub(super) fn lose(&mut self, id: u64) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.gone = true;
        worker.open.clear();
        // Not answered, so not read from either: a worker answers before it reads.
        if let Some(Offer { homeless, .. }) = worker.offer.take() {
            self.house(homeless);
        }
    }

    /// A worker has closed a server. Where that was the last one and it is not about to end, it means it.
    pub(super) fn closed(&mut self, id: u64, key: &str, ends: bool) {
        if let Some(listener) =
            self.listeners.iter_mut().find(|listener| !listener.superseded && listener.key == key)
        {
            listener.abandoned_by = (!ends).then_some(id);
        }
    }

    /// Closes a listener with all its sockets.
    pub(super) fn drop_listener(&mut self, number: u32, vault: &mut dyn Vault) {
        let Some(place) = self.listeners.iter().position(|listener| listener.number == number) else {
            return;
        };
        // Should this process die before the note is renewed, the note names sockets that are not there: no harm.
        for name in self.listeners.remove(place).close() {
            vault.discard(&self.stored(&name));
        }
    }

    fn close_slot(&mut self, number: u32, slot: Option<u32>, vault: &mut dyn Vault) {
        let Some(listener) = self.listeners.iter_mut().find(|listener| listener.number == number) else {
            return;
        };
        if let Some(place) = listener.sockets.iter().position(|held| held.slot == slot) {
            let name = listener.close_socket(place);
            vault.discard(&self.stored(&name));
        }
    }

    fn orphan(&self, number: u32, slot: Option<u32>) -> Option<(&str, BorrowedFd<'_>)> {
        let listener = self.listeners.iter().find(|listener| listener.number == number)?;
        let held = listener.sockets.iter().find(|held| held.slot == slot)?;
        Some((&listener.key, held.socket.as_fd()))
    }

    /// The sockets whose slot was retired long enough ago.
    fn retired(&mut self, now: Instant) -> Vec<(u32, Option<u32>)> {
        let mut retired = Vec::new();
        for listener in &mut self.listeners {
            let served = slots_served(&self.workers, listener);
            listener.steer(|slot| served.contains(&slot));
            for held in &listener.sockets {
                let due = held.retired.is_some_and(|since| now.saturating_duration_since(since) >= LINGER);
                let used = self
                    .workers
                    .values()
                    .any(|worker| Some(worker.slot) == held.slot && uses(worker, listener));
                if due && listener.is_steered() && !used && !somebody_waits(held.socket.as_fd()) {
                    retired.push((listener.number, held.slot));
                }
            }
        }
        retired
    }

    /// The listeners that the application does not open any more.
    fn unused(&mut self, now: Instant) -> Vec<u32> {
        let mut unused = Vec::new();
        let serving =
            |worker: &Worker| worker.takes_connections() && worker.open.values().any(|open| open.listening);
        let somebody_serves = self.workers.values().any(serving);
        for listener in &mut self.listeners {
            if self.workers.values().any(|worker| uses(worker, listener)) {
                listener.unused_since = None;
                continue;
            }
            let since = *listener.unused_since.get_or_insert(now);
            let abandoned = listener
                .abandoned_by
                .and_then(|id| self.workers.get(&id))
                .is_some_and(Worker::takes_connections);
            let limit = if listener.superseded { LINGER } else { UNUSED };
            let due = now.saturating_duration_since(since) >= limit;
            if due && (listener.superseded || somebody_serves || abandoned) {
                unused.push(listener.number);
            }
        }
        unused
    }

    /// Offers a connection to a worker that has not refused it, if one is free.
    fn house(&mut self, homeless: Homeless) {
        let Some(worker) = self.next_taker(&homeless.key, &homeless.refused_by) else {
            self.homeless.push_back(homeless);
            return;
        };
        self.offer(worker, homeless);
    }

    /// The next worker in turn that takes connections for this key and is free.
    fn next_taker(&self, key: &str, but: &[u64]) -> Option<u64> {
        let takes =
            |&(id, worker): &(&u64, &Worker)| worker.serves(key) && worker.is_idle() && !but.contains(id);
        let after = self.workers.range(self.turn.saturating_add(1)..).find(takes);
        after.or_else(|| self.workers.iter().find(takes)).map(|(&id, _)| id)
    }

    fn offer(&mut self, id: u64, homeless: Homeless) {
        let sequence = self.number();
        self.turn = id;
        let Ok(copy) = duplicate(homeless.connection.as_fd()) else {
            self.homeless.push_back(homeless);
            return;
        };
        let text = message::connection(&homeless.key, sequence);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.offer = Some(Offer { sequence, homeless });
        }
        self.post(id, Letter { descriptor: Some(copy), purpose: Purpose::Offer, ..Letter::plain(text) });
    }
}

/// Whether a worker has a server at this listener.
fn uses(worker: &Worker, listener: &Listener) -> bool {
    worker.open.values().any(|open| open.listener == listener.number)
}

/// Whether a connection waits at a socket.
fn somebody_waits(socket: BorrowedFd<'_>) -> bool {
    let mut sockets = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    loop {
        match poll(&mut sockets, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Err(Errno::INTR) => {}
            result => return result.is_ok_and(|ready| ready > 0),
        }
    }
}
