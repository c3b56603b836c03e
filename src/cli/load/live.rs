//! What is done with a load's figures while it runs: a line on a terminal, an interval log in a file.
//!
//! A thread of its own does it, so that neither a slow terminal nor a slow disk is in the way of the load.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    load::{Interval, Observer},
    model::sample::LatencyHistogram,
    report::{
        hdr::IntervalLog,
        live::{LiveFigures, LiveLine},
    },
};

/// How often the line is drawn.
const REFRESH: Duration = Duration::from_millis(250);
/// The length of an interval of the log, and of what the line calls now.
const SECOND: Duration = Duration::from_secs(1);
/// What the engine makes.
const INTERVALS_A_SECOND: usize = 10;
/// Intervals that may wait for the disk, a minute of them.
const WAITING_INTERVALS: usize = 60 * INTERVALS_A_SECOND;

/// An interval of the load, or its end.
type Message = Option<Interval>;

/// The engine's half and ours, before the load has begun.
pub(super) struct Channel {
    sender: SyncSender<Message>,
    receiver: Receiver<Message>,
    /// Intervals there was no room for.
    lost: Arc<AtomicU64>,
}

/// The thread that looks after a running load.
pub(super) struct Watch {
    sender: SyncSender<Message>,
    thread: JoinHandle<io::Result<()>>,
}

impl Channel {
    pub(super) fn new() -> Self {
        let (sender, receiver) = sync_channel(WAITING_INTERVALS);
        Self { sender, receiver, lost: Arc::default() }
    }

    /// What the engine calls. It never waits: with the queue full, a disk is so slow that the log has to suffer and
    /// not the load.
    pub(super) fn observer(&self) -> Observer {
        let (sender, lost) = (self.sender.clone(), Arc::clone(&self.lost));
        Box::new(move |interval| {
            if sender.try_send(Some(interval)).is_err() {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Starts the thread for a load that has begun.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn watch(self, started: Instant, line: LiveLine, log: Option<File>) -> io::Result<Watch> {
        let Self { sender, receiver, lost } = self;
        let thread = std::thread::Builder::new().name("qbench-live".to_owned()).spawn(move || {
            let log = look_after(&receiver, started, &line, log)?;
            whole(log, lost.load(Ordering::Relaxed))
        })?;
        Ok(Watch { sender, thread })
    }
}

impl Watch {
    /// Ends the thread: the line is gone and the log whole.
    ///
    /// # Errors
    /// When the log could not be written.
    pub(super) fn end(self) -> io::Result<()> {
        // When the thread is gone already, joining it says why.
        let _ = self.sender.send(None);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that wrote it died")))
    }
}

fn look_after(
    messages: &Receiver<Message>,
    started: Instant,
    line: &LiveLine,
    log: Option<File>,
) -> io::Result<Option<IntervalLog<File>>> {
    let wall_start = SystemTime::now().checked_sub(started.elapsed()).unwrap_or_else(SystemTime::now);
    let mut log = log.map(|file| IntervalLog::begin(file, wall_start)).transpose();
    let mut write = |second: &Second| {
        if let Ok(Some(open)) = &mut log
            && let Err(error) = open.write(second.start, second.length, &second.latency)
        {
            log = Err(error);
        }
    };
    let mut course = Course::default();
    let mut drawn = Instant::now();
    loop {
        match messages.recv_timeout(REFRESH) {
            Ok(Some(interval)) => course.add(&interval).iter().for_each(&mut write),
            Ok(None) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if drawn.elapsed() >= REFRESH {
            drawn = Instant::now();
            line.show(&course.figures(started.elapsed()));
        }
    }
    course.current.iter().for_each(write);
    line.finish();
    log
}

/// A log that lacks something says so, and so does the command.
fn whole(log: Option<IntervalLog<File>>, lost: u64) -> io::Result<()> {
    let Some(mut log) = log.filter(|_| lost > 0) else { return Ok(()) };
    let text = format!("{lost} intervals are missing: the disk did not keep up");
    log.remark(&text)?;
    Err(io::Error::other(text))
}

/// About a second of a load.
#[derive(Clone, Debug, Default)]
struct Second {
    start: Duration,
    length: Duration,
    latency: LatencyHistogram,
}

/// A load's figures so far.
#[derive(Debug, Default)]
struct Course {
    /// The second that is not over.
    current: Option<Second>,
    /// Figures of the last whole one.
    p50: Option<Duration>,
    p99: Option<Duration>,
    /// Lengths of the last second's intervals, and requests sent in them.
    lately: VecDeque<(Duration, u64)>,
    sent: u64,
    done: u64,
    failed: u64,
}

impl Course {
    /// Takes an interval; returns the second that is over with it.
    fn add(&mut self, interval: &Interval) -> Option<Second> {
        let tick = &interval.tick;
        let failed: u64 = tick.failed.values().sum();
        self.sent += tick.sent;
        self.failed += failed;
        self.done += tick.succeeded + failed;
        self.lately.push_back((tick.length, tick.sent));
        if self.lately.len() > INTERVALS_A_SECOND {
            self.lately.pop_front();
        }
        let current = self.current.get_or_insert_with(|| Second { start: tick.start, ..Second::default() });
        current.length = (tick.start + tick.length).saturating_sub(current.start);
        current.latency.merge(&interval.latency);
        let over = self.current.take_if(|second| second.length >= SECOND)?;
        (self.p50, self.p99) = (over.latency.quantile(0.50), over.latency.quantile(0.99));
        Some(over)
    }

    fn figures(&self, elapsed: Duration) -> LiveFigures {
        let (length, sent) = self
            .lately
            .iter()
            .fold((Duration::ZERO, 0), |(length, sent), (more, of_it)| (length + *more, sent + of_it));
        let seconds = length.as_secs_f64();
        LiveFigures {
            elapsed,
            sent_per_second: if seconds > 0.0 { sent as f64 / seconds } else { 0.0 },
            p50: self.p50,
            p99: self.p99,
            failed: self.failed,
            under_way: self.sent.saturating_sub(self.done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::load::Tick;

    fn interval(tenth: u32, sent: u64, succeeded: u64) -> Interval {
        let length = Duration::from_millis(100);
        let mut latency = LatencyHistogram::new();
        (0..succeeded).for_each(|_| latency.record(Duration::from_millis(u64::from(tenth) + 1)));
        Interval {
            lane: 0,
            tick: Tick { start: length * tenth, length, sent, succeeded, ..Tick::default() },
            latency,
        }
    }

    #[test]
    fn intervals_become_seconds() {
        let mut course = Course::default();
        let seconds: Vec<Second> =
            (0..25).filter_map(|tenth| course.add(&interval(tenth, 100, 99))).collect();
        assert_eq!(seconds.len(), 2);
        assert_eq!((seconds[1].start, seconds[1].length), (SECOND, SECOND));
        assert_eq!(seconds[1].latency.count(), 990);
        let rest = course.current.as_ref().unwrap();
        assert_eq!((rest.start, rest.length), (2 * SECOND, SECOND / 2));
        let figures = course.figures(Duration::from_millis(2500));
        assert!((figures.sent_per_second - 1000.0).abs() < 1.0, "{figures:?}");
        assert_eq!(figures.under_way, 25);
        assert!(figures.p50.unwrap() > Duration::from_millis(14), "of the last whole second: {figures:?}");
    }

    #[test]
    fn a_log_that_lacks_intervals_says_so() {
        let channel = Channel::new();
        let mut observer = channel.observer();
        // Nobody takes them yet.
        (0..WAITING_INTERVALS + 2).for_each(|_| observer(interval(0, 0, 0)));
        let file = tempfile::tempfile().unwrap();
        let line = LiveLine::new(false, SECOND);
        let error = channel.watch(Instant::now(), line, Some(file)).unwrap().end().unwrap_err();
        assert!(error.to_string().starts_with("2 intervals are missing"), "{error}");
    }

    #[test]
    fn the_log_is_whole_at_the_end() {
        let mut file = tempfile::tempfile().unwrap();
        let channel = Channel::new();
        let mut observer = channel.observer();
        let line = LiveLine::new(false, SECOND);
        let watch = channel.watch(Instant::now(), line, Some(file.try_clone().unwrap())).unwrap();
        (0..15).for_each(|tenth| observer(interval(tenth, 10, 10)));
        watch.end().unwrap();
        let mut text = String::new();
        io::Seek::rewind(&mut file).unwrap();
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("HISTF")).collect();
        assert!(lines.len() == 2 && lines[0].starts_with("0.000,1.000,"), "{text}");
        assert!(lines[1].starts_with("1.000,0.500,"), "the last half second is there too: {text}");
    }
}
