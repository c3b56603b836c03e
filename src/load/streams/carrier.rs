//! The root task of a thread: it keeps time, offers what is due, and sees to the end.

use std::{
    future::{Future as _, poll_fn},
    os::fd::{AsFd as _, OwnedFd},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    io::unix::AsyncFd,
    runtime::{Builder, Runtime},
    sync::watch,
    task::{JoinSet, LocalSet, yield_now},
    time::timeout_at,
};

use super::{
    context::{Closing, Context},
    lanes::Lanes,
    pool::Pool,
    tls::Security,
};
use crate::{
    load::{
        LoadError,
        cost::{ThreadCost, Used},
        engine::{Carried, Control, Share},
        pace::{Alarm, Pace, arrive_at, refuse_timer_slack},
        schedule::{ArrivalShare, arrivals},
        series::TICK_PATIENCE_NS,
        shard::pin,
        socket::allow_open_files,
        sys,
    },
    model::settings::ConnectionUse,
};

/// Overdue requests offered before answers are looked at again.
const BATCH: usize = 64;

/// How long a sleeping thread may take to see that it shall stop.
const LOOK_NS: u64 = 10_000_000;

/// With less time than this to the next request, other tasks get no turn: an answer takes tens of microseconds.
const ROOM_FOR_ANSWERS_NS: u64 = 30_000;

/// Connections opened at once before the load begins: a listener's queue is finite.
const OPENING: usize = 64;

/// For opening all connections beforehand: so long, and so much longer for each. A handshake with a large RSA key takes
/// a server milliseconds.
const OPENING_NS: u64 = 1_000_000_000;
const OPENING_EACH_NS: u64 = 5_000_000;

/// A thread's share of a load.
pub(in crate::load) struct Carrier {
    runtime: Runtime,
    tasks: LocalSet,
    root: Root,
    arrivals: ArrivalShare,
}

struct Root {
    context: Rc<Context>,
    control: Arc<Control>,
    stop: watch::Receiver<bool>,
    pace: Pace,
    alarm: Alarm,
    /// The alarm's timer, as tokio watches it.
    expiry: AsyncFd<OwnedFd>,
    lanes: Lanes,
    spun_ns: u64,
    /// Requests were offered since other tasks had a turn.
    has_offered: bool,
    last_batch: u64,
    last_due: u64,
}

impl Carrier {
    /// Makes everything that can fail, and opens the connections that will be kept alive.
    pub(in crate::load) fn new(share: Share) -> Result<Self, LoadError> {
        pin(&share);
        refuse_timer_slack();
        if share.load.tuning.realtime {
            sys::schedule_in_real_time().map_err(LoadError::RealTime)?;
        }
        let places = share.connections();
        let Share { load, thread, threads, recorders, stop, control } = share;
        let (thread, threads) = (thread as u64, threads as u64);
        let transport = &load.transport;
        let security =
            transport.tls.as_ref().map(|tls| Security::new(tls, transport.protocol)).transpose()?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            // All tasks are inside the one that is blocked on: look for events after each of its polls.
            .event_interval(1)
            .build()
            .map_err(LoadError::EventLoop)?;
        let alarm = Alarm::new().map_err(LoadError::Timer)?;
        let expiry = {
            let _entered = runtime.enter();
            let timer = alarm.as_fd().try_clone_to_owned();
            timer.and_then(sys::watched).map_err(LoadError::Timer)?
        };
        let pace = Pace::calibrated(load.tuning.precision, load.tuning.realtime);
        let arrivals = arrivals(&load, thread, threads);
        let opens_beforehand = load.connection_use == ConnectionUse::KeepAlive;
        let addresses: usize = load.lanes.iter().map(|lane| lane.routes.iter().flatten().count()).sum();
        allow_open_files(places as u64 * addresses as u64 * threads + 128);
        let context = Context::new(load, security, recorders, thread, threads);
        let lanes = Lanes::new(&context, places)?;
        let root = Root {
            context,
            control,
            stop,
            pace,
            alarm,
            expiry,
            lanes,
            spun_ns: 0,
            has_offered: false,
            last_batch: 0,
            last_due: 0,
        };
        let tasks = LocalSet::new();
        if opens_beforehand {
            tasks.block_on(&runtime, root.open_beforehand(places));
        }
        Ok(Self { runtime, tasks, root, arrivals })
    }

    /// Carries the load from `started_ns` to its end.
    pub(in crate::load) fn carry(self, started_ns: u64) -> Result<Carried, LoadError> {
        let Self { runtime, tasks, mut root, mut arrivals } = self;
        root.context.start_at(started_ns);
        let used_before = Used::now();
        arrive_at(started_ns);
        let ended = tasks.block_on(&runtime, root.carry(&mut arrivals))?;
        Ok(root.finish(used_before, ended))
    }
}

impl Root {
    /// Opens the connections that will be kept alive, so that the first requests of a window do not pay for them. What
    /// cannot be opened now is the affair of the request that wants it.
    async fn open_beforehand(&self, places: usize) {
        let pools = &self.lanes.pools;
        let limit = OPENING_NS + OPENING_EACH_NS * (pools.len() * places) as u64;
        let deadline = self.context.instant(self.context.now() + limit);
        let mut given_up = vec![false; pools.len()];
        // Round by round over the addresses, so that none is served last.
        let mut left =
            (0..places).flat_map(|place| (0..pools.len()).map(move |pool| (pool, place))).peekable();
        while left.peek().is_some() && tokio::time::Instant::now() < deadline {
            let mut opening = JoinSet::new();
            for (pool, place) in left.by_ref().filter(|(pool, _)| !given_up[*pool]).take(OPENING) {
                let place = Rc::clone(&pools[pool].places[place]);
                let opened = place.open_beforehand(pools[pool].peer.clone(), Rc::clone(&self.context));
                opening.spawn_local(async move {
                    let stands = timeout_at(deadline, opened).await.unwrap_or(false);
                    (pool, stands)
                });
            }
            while let Some(opened) = opening.join_next().await {
                if let Ok((pool, false)) = opened {
                    given_up[pool] = true;
                }
            }
        }
    }

    /// Gives the moment of the end, in nanoseconds since the start.
    async fn carry(&mut self, arrivals: &mut ArrivalShare) -> Result<u64, LoadError> {
        if self.context.is_closed_loop() {
            self.lanes.pools.iter().for_each(Pool::begin_clients);
        }
        loop {
            if self.control.is_abandoned() || self.context.has_died.get() {
                return Err(LoadError::Died);
            }
            let now = self.context.now();
            self.end_schedule_when_due(arrivals, now);
            self.send_due(arrivals, now);
            self.look_after_time(now);
            if self.context.is_drained(now) {
                self.look_at_idle_connections().await;
                return Ok(now);
            }
            self.wait(arrivals).await?;
        }
    }

    /// Over HTTP/1.1, a connection that the server has closed is noticed by whoever wants it next.
    async fn look_at_idle_connections(&self) {
        for place in self.lanes.pools.iter().flat_map(|pool| &pool.places) {
            drop(place.take_http1(&self.context).await);
        }
    }

    fn end_schedule_when_due(&mut self, arrivals: &mut ArrivalShare, now: u64) {
        let length_ns = self.context.load.length_ns;
        if self.context.closing.get().is_some() {
            return;
        }
        let end = if *self.stop.borrow() {
            now.min(length_ns)
        } else if now >= length_ns {
            length_ns
        } else {
            return;
        };
        // A stop may have come between the moment of a request and our turn.
        while let Some(arrival) = arrivals.next_if(|arrival| arrival.offset_ns <= end) {
            self.lanes.offer(arrival);
        }
        let until = now.saturating_add(self.context.load.timeout_ns);
        self.context.used_at_end.set(Some(Used::now()));
        self.context.closing.set(Some(Closing { end, until }));
        self.context.each_recorder(|recorder| recorder.close(end));
    }

    fn send_due(&mut self, arrivals: &mut ArrivalShare, mut now: u64) {
        if self.context.closing.get().is_some() {
            return;
        }
        for _ in 0..BATCH {
            let Some(arrival) = arrivals.next_if(|arrival| arrival.offset_ns <= now) else { break };
            self.last_due = arrival.offset_ns;
            self.last_batch = now;
            self.has_offered = true;
            self.lanes.offer(arrival);
            now = self.context.now();
        }
    }

    /// Clients that have thought, and the course of the load.
    fn look_after_time(&self, now: u64) {
        while let Some(thinker) = self.context.thought_by(now) {
            if self.context.closing.get().is_none() {
                self.lanes.pools[thinker.pool].start_client(thinker.place, thinker.due, true);
            }
        }
        self.tick(now, TICK_PATIENCE_NS);
    }

    /// Lets other tasks run until the next request, or anything else that has its time.
    async fn wait(&mut self, arrivals: &mut ArrivalShare) -> Result<(), LoadError> {
        // What was offered goes out before anything else, and however little time there is to the next request, others
        // get their turn between two.
        if std::mem::take(&mut self.has_offered) {
            yield_now().await;
            return Ok(());
        }
        let now = self.context.now();
        let is_open = self.context.closing.get().is_none();
        let due = if is_open { arrivals.peek().map(|next| next.offset_ns) } else { None };
        let mut until = self.next_duty(now);
        if let Some(due) = due {
            let wake = self.pace.wake_ns(due, due.saturating_sub(self.last_due), self.last_batch);
            if wake <= now {
                if due > now && self.pace.spins() {
                    self.spin(due).await;
                } else {
                    yield_now().await;
                }
                return Ok(());
            }
            until = until.min(wake);
        }
        if until <= now {
            yield_now().await;
            return Ok(());
        }
        // Between requests there is time for this.
        self.tick(now, 0);
        let started = self.context.started_ns();
        self.alarm.set(started + until, started + now).map_err(LoadError::Timer)?;
        self.sleep(until).await.map_err(LoadError::Timer)
    }

    /// When there is something to do, requests and answers aside.
    fn next_duty(&self, now: u64) -> u64 {
        let mut until = now + LOOK_NS;
        match self.context.closing.get() {
            None => until = until.min(self.context.load.length_ns),
            Some(closing) if self.context.waiting.get() > 0 && now < closing.until => {
                until = until.min(closing.until);
            }
            Some(_) => {}
        }
        until = self.context.next_thought().map_or(until, |due| until.min(due));
        self.context.each_recorder(|recorder| {
            until = recorder.next_tick_ns().map_or(until, |end| until.min(end));
        });
        until
    }

    /// Ends slices of the course that are over for so long.
    fn tick(&self, now: u64, patience_ns: u64) {
        self.context.each_recorder(|recorder| {
            if recorder.next_tick_ns().is_some_and(|end| now >= end + patience_ns) {
                recorder.tick(now);
            }
        });
    }

    /// Returns when the alarm has gone off, when its time has come, or when a task says that there is something to do.
    async fn sleep(&self, until: u64) -> std::io::Result<()> {
        let mut changed = pin!(self.context.changed.notified());
        poll_fn(|cx| {
            // This task is also polled along with others, which may be sooner than the alarm is noticed.
            if changed.as_mut().poll(cx).is_ready() || self.context.now() >= until {
                return Poll::Ready(Ok(()));
            }
            self.expiry.poll_read_ready(cx).map_ok(|mut expired| expired.clear_ready())
        })
        .await
    }

    /// Spins to the moment of a request, and lets other tasks run while there is room for that.
    async fn spin(&mut self, due: u64) {
        let mut begun = self.context.now();
        loop {
            let now = self.context.now();
            if now >= due {
                self.spun_ns += now.saturating_sub(begun);
                return;
            }
            if due - now > ROOM_FOR_ANSWERS_NS && self.context.under_way.get() > 0 {
                let turns = self.context.turns.get();
                yield_now().await;
                if self.context.turns.get() != turns {
                    self.spun_ns += now.saturating_sub(begun);
                    begun = self.context.now();
                }
            }
            std::hint::spin_loop();
        }
    }

    fn finish(self, used_before: Used, now: u64) -> Carried {
        let context = &self.context;
        self.lanes.pools.iter().for_each(|pool| pool.abandon_backlog());
        let scheduled_ns = context.closing.get().map_or(now, |closing| closing.end);
        let cost = ThreadCost {
            used: Used::now().since(used_before),
            used_by_schedule: context.used_at_end.get().unwrap_or_else(Used::now).since(used_before),
            spun: Duration::from_nanos(self.spun_ns),
            own_lag: context.own_lag.take(),
            scheduled: Duration::from_nanos(scheduled_ns),
            given_up: context.given_up.get(),
            used_own_clock: true,
        };
        let lanes = context.take_recorders().into_iter().map(|recorder| recorder.finish(now)).collect();
        let elapsed_ns = now.max(scheduled_ns);
        Carried { lanes, cost, connections: context.counts(), scheduled_ns, elapsed_ns }
    }
}
