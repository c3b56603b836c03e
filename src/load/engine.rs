//! The thread that coordinates a load: it starts those that carry it, gives them a common beginning, and puts together
//! what they measured.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use super::{
    LoadError, Measured, Observer, Transport,
    clock::{as_instant, now_ns},
    cost::{self, ThreadCost},
    gaps::{Gaps, OwnTime},
    prepare::Load,
    recorder::{LaneRecorder, MOST_SAMPLES, Marks, Shared},
    series::{Collector, Slice, TickRecorder},
    shard::Shard,
    streams,
};
use crate::model::{
    load::{ConnectionCounts, Pacing},
    measurement::LaneMeasurement,
};

/// From all threads being ready to the first request, so that the first is no later than the others.
const LEAD_NS: u64 = 1_000_000;

/// A phase begins so long after it was asked for.
const MARK_AHEAD_NS: u64 = 1_000_000;

/// What the holder of a load tells its threads.
#[derive(Debug)]
pub(super) struct Control {
    abandoned: AtomicBool,
    shared: Arc<Shared>,
    started_ns: OnceLock<u64>,
}

impl Control {
    /// Ends the load at once.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    pub(super) fn begin_phase(&self) {
        if let Some(started) = self.started_ns.get() {
            // A little later than now, so that every thread knows of it before it has to.
            self.shared.marks.set(now_ns().saturating_sub(*started) + MARK_AHEAD_NS);
        }
    }
}

/// Whether the course of the load is kept, and who is told of it.
pub(super) enum Course {
    None,
    Kept { series: bool, observer: Option<Observer> },
}

/// What one thread needs to carry its share.
pub(super) struct Share {
    pub(super) load: Arc<Load>,
    /// Which thread it is, and of how many.
    pub(super) thread: usize,
    pub(super) threads: usize,
    pub(super) recorders: Vec<LaneRecorder>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) control: Arc<Control>,
}

impl Share {
    /// How many of an address's connections are this thread's.
    pub(super) fn connections(&self) -> usize {
        let all = self.load.connections as usize;
        all / self.threads + usize::from(self.thread < all % self.threads)
    }
}

/// What one thread brings back. Times are nanoseconds since the start of the load.
pub(super) struct Carried {
    pub(super) lanes: Vec<LaneMeasurement>,
    pub(super) cost: ThreadCost,
    pub(super) connections: ConnectionCounts,
    pub(super) scheduled_ns: u64,
    pub(super) elapsed_ns: u64,
}

type Outcome = Result<Measured, LoadError>;

/// Starts a load, and returns when it has begun.
pub(super) fn start(
    load: Load,
    stop: watch::Receiver<bool>,
    course: Course,
) -> Result<(Instant, oneshot::Receiver<Outcome>, Arc<Control>), LoadError> {
    let samples = if load.keep_samples { MOST_SAMPLES } else { 0 };
    let shared = Arc::new(Shared {
        slots: Arc::clone(&load.slots),
        marks: Marks::default(),
        sample_budget: AtomicUsize::new(samples),
    });
    let control = Arc::new(Control {
        abandoned: AtomicBool::new(false),
        shared: Arc::clone(&shared),
        started_ns: OnceLock::new(),
    });
    let (outcome_sender, outcome) = oneshot::channel();
    let (begun_sender, begun) = mpsc::sync_channel(1);
    let held = Arc::clone(&control);
    thread::Builder::new()
        .name("qbench-load".to_owned())
        .spawn(move || {
            let carriers = Carriers::start(load, &stop, course, &shared, &held);
            // Nobody takes the outcome of an abandoned load.
            let _ = match carriers {
                Ok((carriers, started)) => {
                    let _ = begun_sender.send(Ok(started));
                    outcome_sender.send(carriers.finish(started)).map_err(drop)
                }
                Err(error) => begun_sender.send(Err(error)).map_err(drop),
            };
        })
        .map_err(LoadError::Thread)?;
    // The threads are ready as soon as their connections are open: milliseconds on loopback, and never more than a
    // second and half a millisecond for each of them.
    let started = begun.recv().map_err(|_| LoadError::Died)??;
    Ok((started, outcome, control))
}

/// The threads that carry a load.
struct Carriers {
    load: Arc<Load>,
    threads: Vec<thread::JoinHandle<Result<Carried, LoadError>>>,
    gaps: Vec<Arc<Gaps>>,
    slices: Receiver<Slice>,
    collector: Collector,
    observer: Option<Observer>,
    keeps_series: bool,
}

impl Carriers {
    fn start(
        load: Load,
        stop: &watch::Receiver<bool>,
        course: Course,
        shared: &Arc<Shared>,
        control: &Arc<Control>,
    ) -> Result<(Self, Instant), LoadError> {
        let count = load.tuning.threads.min(load.connections) as usize;
        let load = Arc::new(load);
        let gaps: Vec<Arc<Gaps>> = load.lanes.iter().map(|lane| Gaps::new(lane.addresses())).collect();
        let (slices_sender, slices) = mpsc::channel();
        let has_course = matches!(course, Course::Kept { .. });
        let (ready_sender, ready) = mpsc::channel();
        let (mut threads, mut spares, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for thread in 0..count {
            let mut thread_spares = Vec::new();
            let recorders = gaps.iter().enumerate().map(|(lane, gaps)| {
                let (spare_sender, spare) = mpsc::channel();
                thread_spares.push(spare_sender);
                let ticks = has_course.then(|| TickRecorder::new(lane, thread, slices_sender.clone(), spare));
                LaneRecorder::new(lane, Arc::clone(gaps), Arc::clone(shared), ticks)
            });
            let share = Share {
                load: Arc::clone(&load),
                thread,
                threads: count,
                recorders: recorders.collect(),
                stop: stop.clone(),
                control: Arc::clone(control),
            };
            let (start_sender, start) = mpsc::channel();
            threads.push(carrier(share, ready_sender.clone(), start)?);
            spares.push(thread_spares);
            starts.push(start_sender);
        }
        drop((slices_sender, ready_sender));
        for _ in 0..count {
            ready.recv().map_err(|_| LoadError::Died)??;
        }
        let started_ns = now_ns() + LEAD_NS;
        let _ = control.started_ns.set(started_ns);
        for start in starts {
            // A thread that has died in the meantime is found when it is joined.
            let _ = start.send(started_ns);
        }
        let (keeps_series, observer) = match course {
            Course::None => (false, None),
            Course::Kept { series, observer } => (series, observer),
        };
        let collector = Collector::new(load.lanes.len(), spares);
        Ok((Self { load, threads, gaps, slices, collector, observer, keeps_series }, as_instant(started_ns)))
    }

    fn finish(mut self, started: Instant) -> Outcome {
        // Ends when the last thread has dropped its recorders.
        for slice in self.slices {
            self.collector.take(slice, &mut self.observer);
        }
        let mut carried = Vec::new();
        for thread in self.threads {
            carried.push(thread.join().map_err(|_| LoadError::Died)??);
        }
        let series = if self.keeps_series { self.collector.finish() } else { Vec::new() };
        let mut measured = merge(&self.load, carried, started);
        let scheduled = measured.scheduled;
        for (index, lane) in measured.lanes.iter_mut().enumerate() {
            let mut own_time = OwnTime::new(index, Arc::clone(&self.load.slots));
            own_time.close(scheduled);
            lane.longest_gap = self.gaps[index].longest(own_time.at(scheduled));
        }
        for (lane, series) in measured.lanes.iter_mut().zip(series) {
            lane.series = series;
        }
        Ok(measured)
    }
}

fn carrier(
    share: Share,
    ready: Sender<Result<(), LoadError>>,
    start: Receiver<u64>,
) -> Result<thread::JoinHandle<Result<Carried, LoadError>>, LoadError> {
    thread::Builder::new()
        .name(format!("qbench-load-{}", share.thread))
        .spawn(move || match ready_to_carry(share) {
            Err(error) => {
                let _ = ready.send(Err(error));
                Err(LoadError::Died)
            }
            Ok(carry) => {
                let _ = ready.send(Ok(()));
                drop(ready);
                // The coordinator gave up: another thread could not begin.
                let started_ns = start.recv().map_err(|_| LoadError::Died)?;
                carry(started_ns)
            }
        })
        .map_err(LoadError::Thread)
}

/// Carries a share, from the start of the load to its end.
type Carry = Box<dyn FnOnce(u64) -> Result<Carried, LoadError>>;

fn ready_to_carry(share: Share) -> Result<Carry, LoadError> {
    if share.load.transport == Transport::default() {
        let own = Shard::new(share)?;
        Ok(Box::new(|started_ns| own.carry(started_ns)))
    } else {
        let tasks = streams::Carrier::new(share)?;
        Ok(Box::new(|started_ns| tasks.carry(started_ns)))
    }
}

fn merge(load: &Load, carried: Vec<Carried>, started: Instant) -> Measured {
    let closed = matches!(load.pacing, Pacing::Closed { .. });
    let costs: Vec<ThreadCost> = carried.iter().map(|thread| thread.cost.clone()).collect();
    let mut measured = Measured {
        started,
        scheduled: Duration::ZERO,
        elapsed: Duration::ZERO,
        lanes: Vec::new(),
        client: cost::sum(&costs, &load.tuning, closed),
        connections: ConnectionCounts::default(),
    };
    for thread in carried {
        measured.scheduled = measured.scheduled.max(Duration::from_nanos(thread.scheduled_ns));
        measured.elapsed = measured.elapsed.max(Duration::from_nanos(thread.elapsed_ns));
        measured.connections.opened += thread.connections.opened;
        measured.connections.closed_idle += thread.connections.closed_idle;
        if measured.lanes.is_empty() {
            measured.lanes = thread.lanes;
        } else {
            for (lane, other) in measured.lanes.iter_mut().zip(thread.lanes) {
                lane.merge(other);
            }
        }
    }
    measured
}
