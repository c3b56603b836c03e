//! The connections to one address, and the requests that wait for room on one of them.
//!
//! Places are used in turn. Instances that share a port share the load by connections, so using a few over and over
//! would load a few instances.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Duration};

use tokio::task::spawn_local;

use super::{
    attempt::perform,
    context::{Context, Thinker},
    http2::Message,
    place::Place,
};
use crate::{
    load::{Peer, connection::Job, rotation::Rotation},
    model::{load::Pacing, sample::ErrorClass},
};

/// Requests that wait for a connection to an address at most. At the bound the one that waited longest is given up.
const LONGEST_BACKLOG: usize = 1_000_000;

/// A client that was refused asks again after this, if it does not think for longer.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// The requests of a route, for clients that have their address already.
pub(super) struct Requests {
    /// Of the lane's choices.
    pub(super) choices: Vec<u32>,
    pub(super) rotation: RefCell<Rotation>,
}

pub(super) struct Pool {
    pub(super) context: Rc<Context>,
    pub(super) peer: Peer,
    /// Among those of the thread.
    pub(super) number: usize,
    pub(super) lane: usize,
    /// Which of the lane's addresses it is, and which of the route's.
    pub(super) lane_address: usize,
    pub(super) route_address: usize,
    pub(super) requests: Rc<Requests>,
    /// For each of the lane's choices: what is sent over HTTP/2 where it is the same each time.
    pub(super) messages: Vec<Option<Message>>,
    pub(super) places: Vec<Rc<Place>>,
    /// Requests on a connection at most.
    pub(super) streams_each: usize,
    /// Places with room, the one that was given a request longest ago first.
    pub(super) free: RefCell<VecDeque<Rc<Place>>>,
    pub(super) backlog: RefCell<VecDeque<Job>>,
}

impl Pool {
    /// Takes a request that is due. Never waits.
    pub(super) fn offer(self: &Rc<Self>, job: Job) {
        if let Some(place) = self.room() {
            return self.start(place, job, true);
        }
        let now = self.context.now();
        self.context.own_lag.borrow_mut().record_ns(now.saturating_sub(job.intended));
        self.context.waiting.update(|waiting| waiting + 1);
        let mut backlog = self.backlog.borrow_mut();
        backlog.push_back(job);
        if backlog.len() > LONGEST_BACKLOG
            && let Some(oldest) = backlog.pop_front()
        {
            self.context.given_up.update(|given_up| given_up + 1);
            self.give_up(oldest);
        }
    }

    /// Gives up what still waits.
    pub(super) fn abandon_backlog(&self) {
        for job in self.backlog.take() {
            self.give_up(job);
        }
    }

    fn give_up(&self, job: Job) {
        self.context.waiting.update(|waiting| waiting - 1);
        let now = self.context.now();
        self.context.record(self.lane, |recorder| recorder.unsent(job.intended, now));
    }

    /// A place for one more request, which is counted from now on.
    fn room(&self) -> Option<Rc<Place>> {
        let mut free = self.free.borrow_mut();
        loop {
            let place = free.pop_front()?;
            let streams = place.streams.get();
            let capacity = place.capacity(self.streams_each);
            let has_more = streams + 1 < capacity;
            place.is_listed.set(has_more);
            if has_more {
                free.push_back(Rc::clone(&place));
            }
            // A server may allow less than before.
            if streams < capacity {
                place.streams.set(streams + 1);
                return Some(place);
            }
        }
    }

    /// Takes back the room of a request that has ended, and gives it to those that wait.
    fn release(self: &Rc<Self>, place: &Rc<Place>) {
        let streams = place.streams.get() - 1;
        place.streams.set(streams);
        if !place.is_listed.get() && streams < place.capacity(self.streams_each) {
            place.is_listed.set(true);
            self.free.borrow_mut().push_back(Rc::clone(place));
        }
        while self.context.waiting.get() > 0 && !self.context.is_over(self.context.now()) {
            if self.backlog.borrow().is_empty() {
                return;
            }
            let Some(place) = self.room() else { return };
            let Some(job) = self.backlog.borrow_mut().pop_front() else { return };
            self.context.waiting.update(|waiting| waiting - 1);
            self.start(place, job, false);
        }
    }

    /// Starts the clients of a closed loop.
    pub(super) fn begin_clients(self: &Rc<Self>) {
        while let Some(place) = self.room() {
            self.start_client(place, self.context.now(), false);
        }
    }

    /// Sends the next request of a closed loop's client, wanted at `intended`.
    pub(super) fn start_client(self: &Rc<Self>, place: Rc<Place>, intended: u64, is_prompt: bool) {
        let choice = self.requests.choices[self.requests.rotation.borrow_mut().next()];
        self.context.record(self.lane, |recorder| recorder.offered(intended));
        let job = Job { intended, index: self.context.next_index(), choice };
        self.start(place, job, is_prompt);
    }

    /// Has a task send a request. `is_prompt`: it did not wait for room, so that what it is late is our own affair.
    fn start(self: &Rc<Self>, place: Rc<Place>, job: Job, is_prompt: bool) {
        let under_way = UnderWay::new(&self.context);
        let pool = Rc::clone(self);
        spawn_local(async move {
            pool.work(place, job, is_prompt).await;
            drop(under_way);
        });
    }

    async fn work(self: Rc<Self>, place: Rc<Place>, job: Job, is_prompt: bool) {
        let context = &self.context;
        if is_prompt {
            let late = context.now().saturating_sub(job.intended);
            context.own_lag.borrow_mut().record_ns(late);
        }
        let outcome = perform(&self, &place, job).await;
        let Pacing::Closed { think } = context.load.pacing else {
            return self.release(&place);
        };
        // Nobody is there, or we have no more sockets: asking without a pause would only keep us busy.
        if matches!(outcome, Err(ErrorClass::Refused | ErrorClass::Other)) && think < REFUSED_PAUSE {
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
        let now = context.now();
        if context.closing.get().is_some() {
            self.release(&place);
        } else if think.is_zero() {
            self.start_client(place, now, false);
        } else {
            let due = now + think.as_nanos() as u64;
            context.think(Thinker { due, pool: self.number, place });
        }
    }
}

/// Counts a request that a task is about, also when the task panics.
struct UnderWay(Rc<Context>);

impl UnderWay {
    fn new(context: &Rc<Context>) -> Self {
        context.under_way.update(|under_way| under_way + 1);
        Self(Rc::clone(context))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let left = self.0.under_way.get() - 1;
        self.0.under_way.set(left);
        if std::thread::panicking() {
            self.0.has_died.set(true);
        }
        if self.0.has_died.get() || (left == 0 && self.0.closing.get().is_some()) {
            self.0.changed.notify_one();
        }
    }
}
