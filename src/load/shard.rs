//! One thread's share of a load over HTTP/1.1: its schedule, its event loop, its end.
//!
//! A turn of the loop looks at the sockets, gives connections that have become free their next request, sends what is
//! due, and then waits for whatever comes first. What happens on one connection is in `exchange`.

use std::{collections::VecDeque, sync::Arc};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

use super::{
    LoadError,
    clock::{Stamps, now_ns},
    connection::{Connection, Gathered, Job, Phase},
    cost::{ThreadCost, Used},
    engine::{Carried, Control, Share},
    pace::{Alarm, Pace, arrive_at, refuse_timer_slack, sleep_until},
    prepare::Load,
    recorder::LaneRecorder,
    rotation::Rotation,
    schedule::{Arrival, ArrivalShare, arrivals},
    series::TICK_PATIENCE_NS,
    socket::{Peer, allow_open_files, arrivals_are_stamped},
    sys::schedule_in_real_time,
};
use crate::model::{
    load::{ConnectionCounts, Pacing, Precision, ReceiveClock},
    sample::LatencyHistogram,
    settings::ConnectionUse,
};

/// Requests that wait for a connection to an address at most. At the bound the one that waited longest is given up.
const LONGEST_BACKLOG: usize = 1_000_000;

/// Overdue requests sent before sockets are looked at again.
const BATCH: usize = 64;

/// Events taken at once.
const EVENTS: usize = 256;

/// What is read at once, whatever the number of connections.
const BUFFER_BYTES: usize = 64 << 10;

/// How long a sleeping thread may take to see that it shall stop.
const LOOK_NS: u64 = 10_000_000;

/// With less time than this to the next request, sockets are left alone: an answer takes some microseconds to read.
const ROOM_FOR_ANSWERS_NS: u64 = 15_000;

/// Sleeps that may leave answers in their sockets, where the kernel stamps their arrival, are no longer than this.
const LAZY_NS: u64 = 1_000_000;

/// Between two looks for requests that have timed out.
const SWEEP_NS: u64 = 1_000_000;

/// Which event is the timer's.
const ALARM: u64 = u64::MAX;

/// A thread's share of a load.
pub(super) struct Shard {
    pub(super) load: Arc<Load>,
    control: Arc<Control>,
    stop: tokio::sync::watch::Receiver<bool>,
    stopped: bool,
    thread: u64,
    threads: u64,
    pace: Pace,
    alarm: Alarm,
    pub(super) epoll: std::os::fd::OwnedFd,
    pub(super) lanes: Vec<Lane>,
    pub(super) pools: Vec<Pool>,
    pub(super) connections: Vec<Connection>,
    /// Connections whose request has ended and that may have another now.
    pub(super) vacant: VecDeque<u32>,
    /// Clients of a closed loop that are thinking, in order of the time at which they are done.
    pub(super) thinking: VecDeque<(u64, u32)>,
    /// Connections that could not be opened for a moment only, likewise.
    pub(super) reopening: VecDeque<(u64, u32)>,
    /// Connections from which there is more to read, and whether the server has closed its side.
    pub(super) unread: Vec<(u32, bool)>,
    pub(super) stamped: bool,
    pub(super) buffer: Box<[u8]>,
    pub(super) rendered: Vec<u8>,
    /// As of the moment when events were last taken.
    pub(super) stamps: Stamps,
    pub(super) started_ns: u64,
    pub(super) in_flight: usize,
    pub(super) waiting: usize,
    /// An answer was too large to be left in its socket.
    pub(super) has_large_answers: bool,
    pub(super) counts: ConnectionCounts,
    pub(super) used_own_clock: bool,
    given_up: u64,
    own_lag: LatencyHistogram,
    spun_ns: u64,
    /// The number of the closed loop's next request.
    next_index: u64,
    next_sweep: u64,
    /// For when the next wake-up for requests is meant, and for when the last was that sent any.
    planned: u64,
    batch: u64,
    last_due: u64,
    /// The end of the schedule, once it is over, and when requests that still wait are given up.
    closing: Option<Closing>,
    used_at_end: Option<Used>,
}

#[derive(Clone, Copy)]
struct Closing {
    end: u64,
    until: u64,
}

/// Where a lane's requests go, in which order.
pub(super) struct Lane {
    rotation: Rotation,
    routes: Vec<Route>,
    pub(super) recorder: LaneRecorder,
}

struct Route {
    /// The choices of the route, for clients that have their address already.
    rotation: Rotation,
    choices: Vec<u32>,
    first_pool: usize,
    pools: usize,
    next: usize,
}

/// The connections to one address.
pub(super) struct Pool {
    pub(super) peer: Peer,
    pub(super) lane: usize,
    pub(super) route: usize,
    /// Which of the lane's addresses it is, and which of the route's.
    pub(super) lane_address: usize,
    pub(super) route_address: usize,
    /// Those without a request, the one that is so longest first: instances that share a port share the load by
    /// connections, so using a few over and over would load a few instances.
    pub(super) free: VecDeque<u32>,
    pub(super) backlog: VecDeque<Job>,
}

impl Shard {
    /// Makes everything that can fail, and opens the connections that will be kept alive.
    pub(super) fn new(share: Share) -> Result<Self, LoadError> {
        pin(&share);
        refuse_timer_slack();
        if share.load.tuning.realtime {
            schedule_in_real_time().map_err(LoadError::RealTime)?;
        }
        let per_pool = share.connections();
        let Share { load, thread, threads, recorders, stop, control, .. } = share;
        let stopped = *stop.borrow();
        let (lanes, pools) = lanes_and_pools(&load, recorders);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| LoadError::EventLoop(e.into()))?;
        let alarm = Alarm::new().map_err(LoadError::Timer)?;
        let wanted = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &alarm, epoll::EventData::new_u64(ALARM), wanted)
            .map_err(|e| LoadError::EventLoop(e.into()))?;
        let has_tcp = pools.iter().any(|pool| matches!(pool.peer, Peer::Tcp(_)));
        let stamped = load.tuning.receive_clock == ReceiveClock::Kernel && has_tcp && arrivals_are_stamped();
        let mut made = Self {
            pace: Pace::calibrated(load.tuning.precision, load.tuning.realtime),
            thread: thread as u64,
            threads: threads as u64,
            connections: Vec::with_capacity(per_pool * pools.len()),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            used_own_clock: !stamped,
            stamps: Stamps::read(),
            started_ns: now_ns(),
            next_index: thread as u64,
            vacant: VecDeque::new(),
            thinking: VecDeque::new(),
            reopening: VecDeque::new(),
            rendered: Vec::new(),
            unread: Vec::new(),
            in_flight: 0,
            waiting: 0,
            has_large_answers: false,
            counts: ConnectionCounts::default(),
            given_up: 0,
            own_lag: LatencyHistogram::new(),
            spun_ns: 0,
            next_sweep: 0,
            planned: 0,
            batch: 0,
            last_due: 0,
            closing: None,
            used_at_end: None,
            load,
            control,
            stopped,
            stop,
            alarm,
            epoll,
            lanes,
            pools,
            stamped,
        };
        made.make_connections(per_pool);
        Ok(made)
    }

    fn make_connections(&mut self, per_pool: usize) {
        allow_open_files((per_pool * self.pools.len() * self.threads as usize) as u64 + 128);
        let gathers = self.load.cookies
            || self
                .load
                .lanes
                .iter()
                .flat_map(|lane| &lane.choices)
                .any(|choice| choice.checks.needs_headers() || choice.checks.needs_body());
        // Round by round, so that `free` has all addresses' connections in the same order.
        for _ in 0..per_pool {
            for pool in 0..self.pools.len() {
                let index = self.connections.len() as u32;
                let mut connection = Connection::new(pool as u32);
                connection.gathered = gathers.then(|| Box::new(Gathered::default()));
                self.connections.push(connection);
                self.pools[pool].free.push_back(index);
            }
        }
        if self.load.connection_use == ConnectionUse::KeepAlive {
            self.open_beforehand();
        }
    }

    /// Nanoseconds since the start of the load.
    pub(super) fn now(&self) -> u64 {
        now_ns().saturating_sub(self.started_ns)
    }

    /// Carries the load from `started_ns` to its end.
    pub(super) fn carry(mut self, started_ns: u64) -> Result<Carried, LoadError> {
        self.started_ns = started_ns;
        let used_before = Used::now();
        arrive_at(started_ns);
        let mut arrivals = arrivals(&self.load, self.thread, self.threads);
        if self.is_closed_loop() {
            self.begin_clients();
        }
        loop {
            if self.control.is_abandoned() {
                return Err(LoadError::Died);
            }
            if !self.unread.is_empty() {
                self.read_on();
            }
            self.fill_vacant();
            let now = self.now();
            self.end_schedule_when_due(&mut arrivals, now);
            self.send_due(&mut arrivals, now);
            self.look_after_time(now);
            if self.is_drained(now) {
                break;
            }
            self.wait(&mut arrivals)?;
        }
        self.abandon_backlogs();
        let now = self.now();
        let scheduled_ns = self.closing.map_or(now, |closing| closing.end);
        let used = Used::now().since(used_before);
        let cost = ThreadCost {
            used,
            used_by_schedule: self.used_at_end.map_or(used, |end| end.since(used_before)),
            spun: std::time::Duration::from_nanos(self.spun_ns),
            own_lag: self.own_lag,
            scheduled: std::time::Duration::from_nanos(scheduled_ns),
            given_up: self.given_up,
            used_own_clock: self.used_own_clock,
        };
        let lanes = self.lanes.into_iter().map(|lane| lane.recorder.finish(now)).collect();
        let elapsed_ns = now.max(scheduled_ns);
        Ok(Carried { lanes, cost, connections: self.counts, scheduled_ns, elapsed_ns })
    }

    pub(super) fn is_closed_loop(&self) -> bool {
        matches!(self.load.pacing, Pacing::Closed { .. })
    }

    /// The schedule is over.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    fn end_schedule_when_due(&mut self, arrivals: &mut ArrivalShare, now: u64) {
        if self.closing.is_some() {
            return;
        }
        // Looks at the value, which is behind a lock, only when it has changed.
        if self.stop.has_changed().unwrap_or(false) {
            self.stopped = *self.stop.borrow_and_update();
        }
        let end = if self.stopped {
            now.min(self.load.length_ns)
        } else if now >= self.load.length_ns {
            self.load.length_ns
        } else {
            return;
        };
        // A stop may have come between the moment of a request and our turn.
        while let Some(arrival) = arrivals.next_if(|arrival| arrival.offset_ns <= end) {
            self.offer(arrival, self.now());
        }
        self.used_at_end = Some(Used::now());
        self.closing = Some(Closing { end, until: now.saturating_add(self.load.timeout_ns) });
        for lane in &mut self.lanes {
            lane.recorder.close(end);
        }
    }

    fn send_due(&mut self, arrivals: &mut ArrivalShare, mut now: u64) {
        if self.closing.is_some() {
            return;
        }
        for _ in 0..BATCH {
            let Some(arrival) = arrivals.next_if(|arrival| arrival.offset_ns <= now) else { break };
            self.offer(arrival, now);
            self.last_due = arrival.offset_ns;
            self.batch = self.planned.min(now);
            now = self.now();
        }
    }

    /// Takes a request that is due. Never waits.
    fn offer(&mut self, arrival: Arrival, now: u64) {
        let intended = arrival.offset_ns;
        self.own_lag.record_ns(now.saturating_sub(intended));
        let lane = &mut self.lanes[arrival.lane];
        lane.recorder.offered(intended);
        let choice = lane.rotation.next();
        let route = &mut lane.routes[self.load.lanes[arrival.lane].choices[choice].route];
        let pool = route.first_pool + route.next;
        route.next = (route.next + 1) % route.pools;
        let job = Job { intended, index: arrival.index, choice: choice as u32 };
        if let Some(connection) = self.pools[pool].free.pop_front() {
            self.start(connection as usize, job, now);
        } else {
            self.pools[pool].backlog.push_back(job);
            self.waiting += 1;
            if self.pools[pool].backlog.len() > LONGEST_BACKLOG {
                self.given_up += 1;
                self.give_up_oldest(pool);
            }
        }
    }

    fn give_up_oldest(&mut self, pool: usize) {
        if let Some(job) = self.pools[pool].backlog.pop_front() {
            self.waiting -= 1;
            let now = self.now();
            self.lanes[self.pools[pool].lane].recorder.unsent(job.intended, now);
        }
    }

    fn abandon_backlogs(&mut self) {
        for pool in 0..self.pools.len() {
            while !self.pools[pool].backlog.is_empty() {
                self.give_up_oldest(pool);
            }
        }
    }

    /// Gives each connection that has become free its next request. A request may fail at once and free it again:
    /// that is for the next turn, so that a service that is away does not keep us here.
    fn fill_vacant(&mut self) {
        let is_client = self.is_closed_loop() && self.closing.is_none();
        let is_over = self.closing.is_some_and(|closing| self.now() >= closing.until);
        for _ in 0..self.vacant.len() {
            let Some(index) = self.vacant.pop_front() else { return };
            let pool = &mut self.pools[self.connections[index as usize].pool as usize];
            if is_over {
                pool.free.push_back(index);
            } else if let Some(job) = pool.backlog.pop_front() {
                self.waiting -= 1;
                let now = self.now();
                self.start(index as usize, job, now);
            } else if is_client {
                let now = self.now();
                self.start_client(index, now, now);
            } else {
                pool.free.push_back(index);
            }
        }
    }

    fn begin_clients(&mut self) {
        for pool in &mut self.pools {
            self.vacant.extend(pool.free.drain(..));
        }
    }

    /// The next request of a closed loop's client, wanted at `intended`.
    fn start_client(&mut self, index: u32, intended: u64, now: u64) {
        let pool = &self.pools[self.connections[index as usize].pool as usize];
        let lane = &mut self.lanes[pool.lane];
        let route = &mut lane.routes[pool.route];
        let choice = route.choices[route.rotation.next()];
        lane.recorder.offered(intended);
        let job = Job { intended, index: self.next_index, choice };
        self.next_index += self.threads;
        self.start(index as usize, job, now);
    }

    /// Time-outs, clients that have thought, connections to open anew, the course of the load.
    fn look_after_time(&mut self, now: u64) {
        if now >= self.next_sweep {
            self.sweep(now);
        }
        while let Some((due, index)) = self.thinking.front().copied().filter(|(due, _)| *due <= now) {
            self.thinking.pop_front();
            if self.closing.is_some() {
                let pool = self.connections[index as usize].pool as usize;
                self.pools[pool].free.push_back(index);
            } else {
                let now = self.now();
                self.own_lag.record_ns(now - due);
                self.start_client(index, due, now);
            }
        }
        while let Some((due, index)) = self.reopening.front().copied().filter(|(due, _)| *due <= now) {
            self.reopening.pop_front();
            self.reopen(index as usize, due);
        }
        for lane in &mut self.lanes {
            if lane.recorder.next_tick_ns().is_some_and(|end| now >= end + TICK_PATIENCE_NS) {
                lane.recorder.tick(now);
            }
        }
    }

    /// Ends what has timed out. All requests have the same time-out, so none that is sent after this look can expire
    /// before the first of those under way now.
    fn sweep(&mut self, now: u64) {
        let mut next = now.saturating_add(self.load.timeout_ns);
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.is_busy() {
                if connection.deadline <= now {
                    self.time_out(index, now);
                } else {
                    next = next.min(connection.deadline);
                }
            }
        }
        self.next_sweep = next.max(now + SWEEP_NS);
    }

    fn is_drained(&self, now: u64) -> bool {
        let Some(closing) = self.closing else { return false };
        let nothing_waits = self.waiting == 0 || now >= closing.until;
        self.in_flight == 0 && nothing_waits
    }

    /// Waits for an answer, the next request, or anything else that has its time.
    fn wait(&mut self, arrivals: &mut ArrivalShare) -> Result<(), LoadError> {
        let has_more = !self.unread.is_empty();
        if has_more || (!self.vacant.is_empty() && (self.waiting > 0 || self.is_closed_loop())) {
            return self.take_events(false);
        }
        let now = self.now();
        let due = if self.closing.is_some() { None } else { arrivals.peek().map(|next| next.offset_ns) };
        let mut until = self.next_duty(now);
        if let Some(due) = due {
            let wake = self.pace.wake_ns(due, due.saturating_sub(self.last_due), self.batch);
            self.planned = wake;
            if wake <= now {
                return if due > now && self.pace.spins() { self.spin(due) } else { self.take_events(false) };
            }
            until = until.min(wake);
        }
        // Between requests there is time for this.
        for lane in &mut self.lanes {
            if lane.recorder.next_tick_ns().is_some_and(|end| now >= end) {
                lane.recorder.tick(now);
            }
        }
        if self.may_leave_answers(until.saturating_sub(now)) {
            sleep_until(self.started_ns + until);
            return self.take_events(false);
        }
        self.alarm.set(self.started_ns + until, self.started_ns + now).map_err(LoadError::Timer)?;
        self.take_events(true)
    }

    /// When there is something to do, requests and answers aside.
    fn next_duty(&self, now: u64) -> u64 {
        let mut until = self.next_sweep.min(now + LOOK_NS);
        match self.closing {
            None => until = until.min(self.load.length_ns),
            Some(closing) if self.waiting > 0 && now < closing.until => until = until.min(closing.until),
            Some(_) => {}
        }
        for queue in [&self.thinking, &self.reopening] {
            until = queue.front().map_or(until, |(due, _)| until.min(*due));
        }
        for lane in &self.lanes {
            until = lane.recorder.next_tick_ns().map_or(until, |end| until.min(end));
        }
        until
    }

    /// In eco, answers may stay in their sockets while we sleep: the kernel knows when they came. Not when a request
    /// waits for a connection, and not when an answer may be larger than what a socket holds.
    fn may_leave_answers(&self, sleep_ns: u64) -> bool {
        self.load.tuning.precision == Precision::Eco
            && self.stamped
            && sleep_ns <= LAZY_NS
            && self.waiting == 0
            && !self.is_closed_loop()
            && self.closing.is_none()
            && !self.has_large_answers
    }

    /// Spins to the moment of a request, and reads answers while there is room for that.
    fn spin(&mut self, due: u64) -> Result<(), LoadError> {
        // Once in any case: where requests are closer than there is room for, answers would never be read.
        if self.in_flight > 0 {
            self.take_events(false)?;
        }
        let mut begun = self.now();
        loop {
            let now = self.now();
            if now >= due {
                self.spun_ns += now.saturating_sub(begun);
                return Ok(());
            }
            if due - now > ROOM_FOR_ANSWERS_NS && self.in_flight > 0 {
                let before = self.now();
                if self.take(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0 {
                    self.spun_ns += before.saturating_sub(begun);
                    begun = self.now();
                    if self.waiting > 0 && !self.vacant.is_empty() {
                        return Ok(());
                    }
                }
            }
            std::hint::spin_loop();
        }
    }

    fn take_events(&mut self, wait: bool) -> Result<(), LoadError> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.take(if wait { None } else { Some(&now) }).map(drop)
    }

    /// Takes what has happened on the sockets, and says how much that was.
    fn take(&mut self, timeout: Option<&Timespec>) -> Result<usize, LoadError> {
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let (events, _) = match epoll::wait(&self.epoll, &mut events[..], timeout) {
            Ok(taken) => taken,
            Err(Errno::INTR) => return Ok(0),
            Err(error) => return Err(LoadError::EventLoop(error.into())),
        };
        if self.stamped && !events.is_empty() {
            self.stamps = self.stamps.next();
        }
        for event in &*events {
            let data = event.data.u64();
            if data != ALARM {
                let (index, generation) = (data as u32 as usize, (data >> 32) as u32);
                // An earlier connection in the same place is closed: what it had to say is of no interest.
                if self.connections[index].generation == generation {
                    self.happened(index, event.flags);
                }
            }
        }
        Ok(events.len())
    }

    /// Marks a connection as free for the next request.
    pub(super) fn vacate(&mut self, index: usize) {
        self.in_flight -= 1;
        self.vacant.push_back(index as u32);
        debug_assert!(!self.connections[index].is_busy(), "{:?}", self.connections[index].phase);
        debug_assert!(matches!(self.connections[index].phase, Phase::Idle | Phase::Closed));
    }
}

/// Keeps this thread to the CPU that the load gave it.
pub(super) fn pin(share: &Share) {
    let cores = &share.load.tuning.cores;
    if !cores.is_empty() {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cores[share.thread % cores.len()]);
        // On a CPU that is not there the thread runs where it may.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

fn lanes_and_pools(load: &Load, recorders: Vec<LaneRecorder>) -> (Vec<Lane>, Vec<Pool>) {
    let (mut lanes, mut pools) = (Vec::new(), Vec::new());
    for (lane_index, (lane, recorder)) in load.lanes.iter().zip(recorders).enumerate() {
        let mut routes = Vec::new();
        let mut lane_address = 0;
        for (route, peers) in lane.routes.iter().enumerate() {
            let of_route = lane.choices.iter().enumerate().filter(|(_, choice)| choice.route == route);
            let (choices, weights): (Vec<u32>, Vec<u32>) =
                of_route.map(|(index, choice)| (index as u32, choice.weight)).unzip();
            let rotation = Rotation::new(weights);
            routes.push(Route { rotation, choices, first_pool: pools.len(), pools: peers.len(), next: 0 });
            for (route_address, peer) in peers.iter().enumerate() {
                pools.push(Pool {
                    peer: peer.clone(),
                    lane: lane_index,
                    route,
                    lane_address,
                    route_address,
                    free: VecDeque::new(),
                    backlog: VecDeque::new(),
                });
                lane_address += 1;
            }
        }
        let rotation = Rotation::new(lane.choices.iter().map(|choice| choice.weight));
        lanes.push(Lane { rotation, routes, recorder });
    }
    (lanes, pools)
}
