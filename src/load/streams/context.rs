//! What the tasks of a thread share: the load, its clock and its end, and what is counted. All of one thread, so that
//! cells do where threads would need locks.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use tokio::sync::Notify;

use super::{place::Place, tls::Security};
use crate::{
    load::{
        clock::{as_instant, now_ns},
        cost::Used,
        prepare::Load,
        recorder::LaneRecorder,
    },
    model::{
        load::{ConnectionCounts, Pacing},
        sample::LatencyHistogram,
    },
};

/// What is read at once, whatever the number of connections.
const BUFFER_BYTES: usize = 64 << 10;

/// The end of the schedule, and when requests that still wait are given up. Nanoseconds since the start of the load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    pub(super) end: u64,
    pub(super) until: u64,
}

/// A client of a closed loop that thinks.
pub(super) struct Thinker {
    /// When it has thought.
    pub(super) due: u64,
    /// The number of its pool on this thread.
    pub(super) pool: usize,
    pub(super) place: Rc<Place>,
}

pub(super) struct Context {
    pub(super) load: Arc<Load>,
    pub(super) security: Option<Security>,
    /// One a lane.
    recorders: RefCell<Vec<LaneRecorder>>,
    start: Cell<(u64, Instant)>,
    pub(super) closing: Cell<Option<Closing>>,
    /// Of the thread, when the schedule ended.
    pub(super) used_at_end: Cell<Option<Used>>,
    /// Requests that a task is about, and requests that wait for one.
    pub(super) under_way: Cell<usize>,
    pub(super) waiting: Cell<usize>,
    pub(super) given_up: Cell<u64>,
    counts: Cell<ConnectionCounts>,
    pub(super) own_lag: RefCell<LatencyHistogram>,
    /// In order of the time at which they are done, since all think for as long.
    thinking: RefCell<VecDeque<Thinker>>,
    /// The number of the closed loop's next request, and how far it is to the one after it.
    next_index: Cell<u64>,
    index_step: u64,
    /// Wakes the root task: it has something to do before the time at which it wanted to be woken.
    pub(super) changed: Notify,
    /// A task has panicked.
    pub(super) has_died: Cell<bool>,
    /// How often a request was sent or ended, so that the root task can tell whether others had anything to do.
    pub(super) turns: Cell<u64>,
    pub(super) buffer: RefCell<Box<[u8]>>,
}

impl Context {
    pub(super) fn new(
        load: Arc<Load>,
        security: Option<Security>,
        recorders: Vec<LaneRecorder>,
        thread: u64,
        threads: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            load,
            security,
            recorders: RefCell::new(recorders),
            start: Cell::new((now_ns(), Instant::now())),
            closing: Cell::new(None),
            used_at_end: Cell::new(None),
            under_way: Cell::new(0),
            waiting: Cell::new(0),
            given_up: Cell::new(0),
            counts: Cell::default(),
            own_lag: RefCell::new(LatencyHistogram::new()),
            thinking: RefCell::default(),
            next_index: Cell::new(thread),
            index_step: threads,
            changed: Notify::new(),
            has_died: Cell::new(false),
            turns: Cell::new(0),
            buffer: RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice()),
        })
    }

    /// All moments count from here on.
    pub(super) fn start_at(&self, started_ns: u64) {
        self.start.set((started_ns, as_instant(started_ns)));
    }

    pub(super) fn started_ns(&self) -> u64 {
        self.start.get().0
    }

    /// Nanoseconds since the start of the load.
    pub(super) fn now(&self) -> u64 {
        now_ns().saturating_sub(self.started_ns())
    }

    /// A moment as tokio's timers want it.
    pub(super) fn instant(&self, moment: u64) -> tokio::time::Instant {
        (self.start.get().1 + std::time::Duration::from_nanos(moment)).into()
    }

    pub(super) fn is_closed_loop(&self) -> bool {
        matches!(self.load.pacing, Pacing::Closed { .. })
    }

    /// Whether requests that wait are not to be sent any more.
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.closing.get().is_some_and(|closing| now >= closing.until)
    }

    /// The schedule has ended and no request is left.
    pub(super) fn is_drained(&self, now: u64) -> bool {
        let nothing_waits = self.waiting.get() == 0 || self.is_over(now);
        self.closing.get().is_some() && self.under_way.get() == 0 && nothing_waits
    }

    pub(super) fn next_index(&self) -> u64 {
        let index = self.next_index.get();
        self.next_index.set(index + self.index_step);
        index
    }

    pub(super) fn think(&self, thinker: Thinker) {
        let mut thinking = self.thinking.borrow_mut();
        if thinking.is_empty() {
            self.changed.notify_one();
        }
        thinking.push_back(thinker);
    }

    /// When the next client has thought.
    pub(super) fn next_thought(&self) -> Option<u64> {
        self.thinking.borrow().front().map(|thinker| thinker.due)
    }

    /// A client that has thought.
    pub(super) fn thought_by(&self, now: u64) -> Option<Thinker> {
        let mut thinking = self.thinking.borrow_mut();
        if thinking.front().is_some_and(|thinker| thinker.due <= now) { thinking.pop_front() } else { None }
    }

    /// Records something of a lane.
    pub(super) fn record(&self, lane: usize, what: impl FnOnce(&mut LaneRecorder)) {
        what(&mut self.recorders.borrow_mut()[lane]);
    }

    pub(super) fn each_recorder(&self, what: impl FnMut(&mut LaneRecorder)) {
        self.recorders.borrow_mut().iter_mut().for_each(what);
    }

    /// All that was recorded. Nothing may be recorded after this.
    pub(super) fn take_recorders(&self) -> Vec<LaneRecorder> {
        self.recorders.take()
    }

    pub(super) fn count_opened(&self) {
        let counts = self.counts.get();
        self.counts.set(ConnectionCounts { opened: counts.opened + 1, ..counts });
    }

    pub(super) fn count_closed_idle(&self) {
        let counts = self.counts.get();
        self.counts.set(ConnectionCounts { closed_idle: counts.closed_idle + 1, ..counts });
    }

    pub(super) fn counts(&self) -> ConnectionCounts {
        self.counts.get()
    }
}
