//! The thread that carries a load: its event loop, its pace, and its end.

use std::{
    cell::{Cell, RefCell},
    io,
    iter::Peekable,
    num::NonZeroU64,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::{oneshot, watch},
    task::{JoinSet, LocalSet},
};

use super::{
    LoadError, Measured, Schedule,
    connection::Connection,
    prepare::{Load, PreparedLane, Template},
    recorder::{LaneRecorder, MOST_SAMPLES},
    rotation::Rotation,
    timer::Timer,
    worker::{Job, LONGEST_BACKLOG, Pool, Terms},
};
use crate::model::{measurement::LaneMeasurement, settings::ConnectionUse};

/// From the engine being ready to the first request, so that the first is no later than the others.
const LEAD: Duration = Duration::from_millis(1);

/// Overdue requests handed out before answers are looked at again.
const BATCH: usize = 64;

/// For opening all connections beforehand; one takes some hundred microseconds.
const OPENING: Duration = Duration::from_secs(1);

/// What may end a load early.
pub(super) struct Signals {
    /// Turns true when the schedule shall end.
    pub(super) stop: watch::Receiver<bool>,
    /// Resolves when nobody wants the outcome any more.
    pub(super) abandoned: oneshot::Receiver<()>,
}

/// A load about to begin, on the thread that carries it.
pub(super) struct Engine {
    runtime: Runtime,
    timer: Timer,
    started: Instant,
    load: Load,
    /// For each lane, for each of its addresses.
    opened: Vec<Vec<Vec<Connection>>>,
}

impl Engine {
    /// Makes everything that can fail. The schedule counts from now on.
    pub(super) fn new(load: Load) -> Result<Self, LoadError> {
        // Where this is not allowed, sleeps are 50 µs later, which the recorded lag shows.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let runtime = Builder::new_current_thread()
            .enable_all()
            // All tasks are inside the one that is blocked on: look for events after each of its polls.
            .event_interval(1)
            .build()
            .map_err(LoadError::EventLoop)?;
        let timer = {
            let _entered = runtime.enter();
            Timer::new().map_err(LoadError::Timer)?
        };
        let opened = runtime.block_on(open_connections(&load));
        Ok(Self { runtime, timer, started: Instant::now() + LEAD, load, opened })
    }

    /// The moment the schedule counts from.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Carries the load to its end.
    pub(super) fn run(self, signals: Signals) -> Result<Measured, LoadError> {
        let Self { runtime, timer, started, load, opened } = self;
        LocalSet::new().block_on(&runtime, carry(load, opened, started, timer, signals))
    }
}

/// Opens the connections that will be kept alive, so that the first requests of a window do not pay for them: they
/// would pay more where a service has more addresses. What cannot be opened now is the affair of the request that
/// wants it.
async fn open_connections(load: &Load) -> Vec<Vec<Vec<Connection>>> {
    let deadline = Instant::now() + OPENING;
    let count = match load.connection_use {
        ConnectionUse::KeepAlive => load.connections,
        ConnectionUse::PerRequest => 0,
    };
    let mut opened = Vec::new();
    for lane in &load.lanes {
        let mut of_lane = Vec::new();
        for address in lane.routes.iter().flatten() {
            let mut of_address = Vec::new();
            for _ in 0..count {
                match Connection::open(*address, deadline).await {
                    Ok(connection) => of_address.push(connection),
                    Err(_) => break,
                }
            }
            of_lane.push(of_address);
        }
        opened.push(of_lane);
    }
    opened
}

async fn carry(
    load: Load,
    opened: Vec<Vec<Vec<Connection>>>,
    started: Instant,
    timer: Timer,
    signals: Signals,
) -> Result<Measured, LoadError> {
    let Signals { stop, mut abandoned } = signals;
    let terms = Rc::new(Terms {
        started,
        connections: load.connections as usize,
        connection_use: load.connection_use,
        timeout: load.timeout,
        backlog: LONGEST_BACKLOG,
        closing: Cell::new(None),
    });
    let samples = Rc::new(Cell::new(if load.keep_samples { MOST_SAMPLES } else { 0 }));
    let mut schedule = Schedule::new(load.rate_per_second, load.slots.clone()).peekable();
    let mut dispatcher = Dispatcher {
        lanes: (0..)
            .zip(load.lanes)
            .zip(opened)
            .map(|((index, lane), opened)| {
                let addresses = lane.routes.iter().map(Vec::len).sum();
                let recorder = LaneRecorder::new(index, addresses, load.slots.clone(), Rc::clone(&samples));
                LaneTarget::new(lane, opened, &terms, recorder)
            })
            .collect(),
        workers: JoinSet::new(),
    };
    let end = started + load.length;
    let scheduled = tokio::select! {
        biased;
        _ = &mut abandoned => return Err(LoadError::Died),
        () = stopped(stop) => started.elapsed().min(load.length),
        paced = dispatcher.pace(&mut schedule, started, end, &timer) => {
            paced.map_err(LoadError::Timer)?;
            load.length
        }
    };
    // A stop may have come between the moment of a request and our turn.
    dispatcher.offer_due(&mut schedule, scheduled, usize::MAX);
    dispatcher.close(scheduled);
    terms.closing.set(Some(Instant::now() + load.timeout));
    tokio::select! {
        biased;
        _ = &mut abandoned => return Err(LoadError::Died),
        drained = dispatcher.drain() => drained?,
    }
    let elapsed = started.elapsed().max(scheduled);
    let lanes = dispatcher.lanes.iter().map(|lane| lane.finish(scheduled)).collect();
    Ok(Measured { started, scheduled, elapsed, lanes })
}

/// Resolves when the signal turns true, and never when its sender goes away before.
async fn stopped(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

struct Dispatcher {
    lanes: Vec<LaneTarget>,
    workers: JoinSet<()>,
}

/// Where a lane's requests go, in which order.
struct LaneTarget {
    rotation: Rotation,
    choices: Vec<Choice>,
    routes: Vec<RouteTarget>,
    recorder: Rc<RefCell<LaneRecorder>>,
}

struct Choice {
    route: usize,
    templates: Vec<Rc<Template>>,
}

struct RouteTarget {
    pools: Vec<Rc<Pool>>,
    next: usize,
}

impl Dispatcher {
    /// Offers every request at its moment, and returns at the end of the schedule.
    async fn pace(
        &mut self,
        schedule: &mut Peekable<Schedule>,
        started: Instant,
        end: Instant,
        timer: &Timer,
    ) -> io::Result<()> {
        while let Some(next) = schedule.peek() {
            timer.wait_until(started + next.offset).await?;
            let offered = self.offer_due(schedule, started.elapsed(), BATCH);
            if offered == BATCH {
                tokio::task::yield_now().await;
            }
        }
        timer.wait_until(end).await
    }

    /// Offers what is due, and says how many requests that were.
    fn offer_due(&mut self, schedule: &mut Peekable<Schedule>, until: Duration, at_most: usize) -> usize {
        let mut offered = 0;
        while offered < at_most
            && let Some(arrival) = schedule.next_if(|arrival| arrival.offset <= until)
        {
            self.lanes[arrival.lane].offer(arrival.offset, &mut self.workers);
            offered += 1;
        }
        offered
    }

    fn close(&self, end: Duration) {
        for lane in &self.lanes {
            lane.recorder.borrow_mut().close(end);
            lane.pools().for_each(|pool| pool.close());
        }
    }

    /// Waits for the requests under way, and for those that still wait until the closing time.
    async fn drain(&mut self) -> Result<(), LoadError> {
        while let Some(ended) = self.workers.join_next().await {
            ended.map_err(|_| LoadError::Died)?;
        }
        self.lanes.iter().flat_map(LaneTarget::pools).for_each(|pool| pool.abandon_backlog());
        Ok(())
    }
}

impl LaneTarget {
    fn new(
        lane: PreparedLane,
        opened: Vec<Vec<Connection>>,
        terms: &Rc<Terms>,
        recorder: LaneRecorder,
    ) -> Self {
        let recorder = Rc::new(RefCell::new(recorder));
        let mut index = 0;
        let mut opened = opened.into_iter();
        let mut pool = |address| {
            let opened = opened.next().unwrap_or_default();
            let pool = Pool::new(address, index, opened, Rc::clone(terms), Rc::clone(&recorder));
            index += 1;
            pool
        };
        let routes = lane
            .routes
            .into_iter()
            .map(|addresses| RouteTarget { pools: addresses.into_iter().map(&mut pool).collect(), next: 0 });
        let routes = routes.collect();
        Self {
            rotation: Rotation::new(lane.choices.iter().map(|choice| choice.weight)),
            choices: lane
                .choices
                .into_iter()
                .map(|choice| Choice {
                    route: choice.route,
                    templates: choice.templates.into_iter().map(Rc::new).collect(),
                })
                .collect(),
            routes,
            recorder,
        }
    }

    fn offer(&mut self, intended: Duration, workers: &mut JoinSet<()>) {
        let choice = &self.choices[self.rotation.next()];
        let route = &mut self.routes[choice.route];
        let index = route.next;
        route.next = (index + 1) % route.pools.len();
        let job = Job { intended, template: Rc::clone(&choice.templates[index]) };
        route.pools[index].offer(job, workers);
    }

    fn pools(&self) -> impl Iterator<Item = &Rc<Pool>> {
        self.routes.iter().flat_map(|route| &route.pools)
    }

    fn finish(&self, end: Duration) -> LaneMeasurement {
        self.recorder.borrow_mut().take(end)
    }
}
