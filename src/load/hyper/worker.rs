//! The connections to one address: workers, each with a connection, and the requests that wait for one.
//!
//! A connection is opened by the first request that needs it, until the plan's number of them is open; then the
//! one that was idle longest is used next. Instances that share a port share the load by connections, so using a
//! few connections over and over would load a few instances.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, task::JoinSet};

use super::{
    connection::Connection,
    prepare::Template,
    recorder::{Completion, LaneRecorder},
};
use crate::model::{sample::ErrorClass, settings::ConnectionUse};

/// Requests that wait for a connection to an address at most. At the bound the one that waited longest is given up.
pub(super) const LONGEST_BACKLOG: usize = 1_000_000;

/// What all workers of a load hold to.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) started: Instant,
    pub(super) connections: usize,
    pub(super) connection_use: ConnectionUse,
    pub(super) timeout: Duration,
    pub(super) backlog: usize,
    /// Set when the schedule has ended: until when requests may still be sent.
    pub(super) closing: Cell<Option<Instant>>,
}

/// A request that is due.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Since the start of the load.
    pub(super) intended: Duration,
    pub(super) template: Rc<Template>,
}

/// The workers of one address.
pub(super) struct Pool {
    address: SocketAddr,
    /// Which of the lane's addresses it is.
    index: usize,
    terms: Rc<Terms>,
    recorder: Rc<RefCell<LaneRecorder>>,
    queues: RefCell<Queues>,
    /// Opened before the schedule began, for the workers' first requests.
    opened: RefCell<Vec<Connection>>,
}

#[derive(Default)]
struct Queues {
    backlog: VecDeque<Job>,
    /// The one that is idle longest first.
    idle: VecDeque<Rc<Desk>>,
    workers: usize,
}

/// Where an idle worker is handed its next request; woken without one, it goes home.
#[derive(Default)]
struct Desk {
    job: Cell<Option<Job>>,
    handed: Notify,
}

impl Pool {
    pub(super) fn new(
        address: SocketAddr,
        index: usize,
        opened: Vec<Connection>,
        terms: Rc<Terms>,
        recorder: Rc<RefCell<LaneRecorder>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            address,
            index,
            terms,
            recorder,
            queues: RefCell::default(),
            opened: RefCell::new(opened),
        })
    }

    /// Takes a request that is due. Never waits.
    pub(super) fn offer(self: &Rc<Self>, job: Job, workers: &mut JoinSet<()>) {
        self.recorder.borrow_mut().offered();
        let mut queues = self.queues.borrow_mut();
        if queues.workers < self.terms.connections {
            queues.workers += 1;
            workers.spawn_local(work(Rc::clone(self), job));
        } else if let Some(desk) = queues.idle.pop_front() {
            desk.job.set(Some(job));
            desk.handed.notify_one();
        } else {
            queues.backlog.push_back(job);
            if queues.backlog.len() > self.terms.backlog
                && let Some(oldest) = queues.backlog.pop_front()
            {
                self.give_up(&oldest);
            }
        }
    }

    /// Sends idle workers home; the others follow when nothing waits, or when the terms' closing time has come.
    pub(super) fn close(&self) {
        for desk in self.queues.borrow_mut().idle.drain(..) {
            desk.handed.notify_one();
        }
    }

    /// Gives up what still waits.
    pub(super) fn abandon_backlog(&self) {
        let left = std::mem::take(&mut self.queues.borrow_mut().backlog);
        for job in &left {
            self.give_up(job);
        }
    }

    fn give_up(&self, job: &Job) {
        let waited = self.terms.started.elapsed().saturating_sub(job.intended);
        self.recorder.borrow_mut().unsent(waited);
    }

    async fn next(&self, connection: &mut Option<Connection>) -> Option<Job> {
        let closing = self.terms.closing.get();
        if closing.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        let desk = {
            let mut queues = self.queues.borrow_mut();
            if let Some(job) = queues.backlog.pop_front() {
                return Some(job);
            }
            if closing.is_some() {
                return None;
            }
            let desk = Rc::new(Desk::default());
            queues.idle.push_back(Rc::clone(&desk));
            desk
        };
        loop {
            tokio::select! {
                biased;
                () = desk.handed.notified() => return desk.job.take(),
                () = ended(connection) => *connection = None,
            }
        }
    }

    /// Sends a request, by the connection at hand where it is still good, and records what came of it.
    async fn perform(&self, connection: &mut Option<Connection>, job: &Job) {
        let started = self.terms.started;
        let sent = Instant::now();
        let deadline = sent + self.terms.timeout;
        let lag = sent.saturating_duration_since(started + job.intended);
        self.recorder.borrow_mut().sent(lag);
        let outcome = self.attempt(connection, &job.template, deadline).await;
        let done = Instant::now();
        let mut retry = None;
        // The retry has what the first try left of the time-out, so nothing takes longer than it.
        if outcome.is_err() && job.template.idempotent && done < deadline {
            *connection = None;
            retry = Some(self.attempt(connection, &job.template, deadline).await.is_ok());
        }
        self.recorder.borrow_mut().completed(&Completion {
            address: self.index,
            intended: job.intended,
            sent: sent.saturating_duration_since(started),
            done: done.saturating_duration_since(started),
            outcome,
            retry,
        });
    }

    async fn attempt(
        &self,
        kept: &mut Option<Connection>,
        template: &Template,
        deadline: Instant,
    ) -> Result<(), ErrorClass> {
        let mut connection = match reusable(kept, deadline).await? {
            Some(connection) => connection,
            None => Connection::open(self.address, deadline).await?,
        };
        let answer = connection.exchange(template.request.clone(), deadline).await?;
        if self.terms.connection_use == ConnectionUse::KeepAlive {
            *kept = Some(connection);
        }
        if answer.status.is_success() { Ok(()) } else { Err(ErrorClass::Status) }
    }
}

/// The connection kept from the last request, unless the server has closed it in the meantime.
async fn reusable(
    kept: &mut Option<Connection>,
    deadline: Instant,
) -> Result<Option<Connection>, ErrorClass> {
    let Some(mut connection) = kept.take() else {
        return Ok(None);
    };
    match tokio::time::timeout_at(deadline.into(), connection.is_usable()).await {
        Ok(usable) => Ok(usable.then_some(connection)),
        Err(_) => Err(ErrorClass::Timeout),
    }
}

async fn ended(connection: &mut Option<Connection>) {
    match connection {
        Some(open) => open.ended().await,
        None => std::future::pending().await,
    }
}

async fn work(pool: Rc<Pool>, first: Job) {
    let mut connection = pool.opened.borrow_mut().pop();
    let mut next = Some(first);
    while let Some(job) = next {
        pool.perform(&mut connection, &job).await;
        next = pool.next(&mut connection).await;
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use tokio::task::LocalSet;

    use super::*;
    use crate::load::Slot;

    /// No worker gets a turn here, so that nothing is sent.
    #[tokio::test]
    async fn a_full_backlog_gives_up_the_oldest_and_keeps_its_wait() {
        let started = Instant::now();
        let terms = Terms {
            started,
            connections: 1,
            connection_use: ConnectionUse::KeepAlive,
            timeout: Duration::from_secs(1),
            backlog: 2,
            closing: Cell::new(None),
        };
        let slots = [Slot { lane: 0, length: Duration::from_secs(1) }];
        let recorder = LaneRecorder::new(0, 1, slots.into(), Rc::new(Cell::new(0)));
        let recorder = Rc::new(RefCell::new(recorder));
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let pool = Pool::new(address, 0, Vec::new(), Rc::new(terms), Rc::clone(&recorder));
        let request = hyper::Request::new(Full::default());
        let template = Rc::new(Template { request, idempotent: true });
        let mut workers = JoinSet::new();
        let local = LocalSet::new();
        let entered = local.enter();
        for nanos in 1..=5 {
            let intended = Duration::from_nanos(nanos);
            pool.offer(Job { intended, template: Rc::clone(&template) }, &mut workers);
        }
        drop(entered);
        let waiting: Vec<u128> =
            pool.queues.borrow().backlog.iter().map(|job| job.intended.as_nanos()).collect();
        assert_eq!(waiting, [4, 5]);
        let lane = recorder.borrow_mut().take(Duration::ZERO);
        assert_eq!((lane.counts.offered, lane.counts.sent, lane.latency.count()), (5, 0, 2));
    }
}
