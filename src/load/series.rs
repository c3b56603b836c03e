//! The course of a load: slices of 100 ms, filled by the threads that carry it and put together by one that does not.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::mpsc::{Receiver, Sender},
    time::Duration,
};

use super::Observer;
use crate::model::{
    load::Tick,
    sample::{ErrorClass, LatencyHistogram},
};

/// The length of a slice.
const TICK_NS: u64 = 100_000_000;

/// A thread that is busy ends its slice this much late at most; a quiet one does it between requests.
pub(super) const TICK_PATIENCE_NS: u64 = 20_000_000;

/// Slices kept: an hour of them, some 5 MB. When there are more, pairs are put together.
const MOST_TICKS: usize = 36_000;

/// A slice of the load, all threads together, as it goes by.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Which lane.
    pub lane: usize,
    /// Its figures.
    pub tick: Tick,
    /// Its latencies from the intended send.
    pub latency: LatencyHistogram,
}

/// What one thread saw of one lane in one slice.
#[derive(Debug)]
pub(super) struct Slice {
    lane: usize,
    thread: usize,
    /// The last slice of this thread has none: nothing more is to come.
    part: Option<Part>,
}

#[derive(Debug)]
struct Part {
    number: u64,
    sent: u64,
    succeeded: u64,
    failed: [u64; ErrorClass::ALL.len()],
    latency: LatencyHistogram,
}

impl Part {
    fn new(number: u64, latency: LatencyHistogram) -> Self {
        Self { number, sent: 0, succeeded: 0, failed: [0; ErrorClass::ALL.len()], latency }
    }
}

/// Fills slices on one thread for one lane.
#[derive(Debug)]
pub(super) struct TickRecorder {
    lane: usize,
    thread: usize,
    current: Part,
    slices: Sender<Slice>,
    /// Histograms that were read and cleared: making one touches 200 kB, which takes longer than a request.
    spare: Receiver<LatencyHistogram>,
}

impl TickRecorder {
    pub(super) fn new(
        lane: usize,
        thread: usize,
        slices: Sender<Slice>,
        spare: Receiver<LatencyHistogram>,
    ) -> Self {
        Self { lane, thread, current: Part::new(0, LatencyHistogram::new()), slices, spare }
    }

    pub(super) fn end_ns(&self) -> u64 {
        (self.current.number + 1) * TICK_NS
    }

    pub(super) fn sent(&mut self) {
        self.current.sent += 1;
    }

    pub(super) fn succeeded(&mut self, latency_ns: u64) {
        self.current.succeeded += 1;
        self.current.latency.record_ns(latency_ns);
    }

    pub(super) fn failed(&mut self, class: ErrorClass, latency_ns: Option<u64>) {
        self.current.failed[class as usize] += 1;
        if let Some(latency) = latency_ns {
            self.current.latency.record_ns(latency);
        }
    }

    pub(super) fn latency(&mut self, latency_ns: u64) {
        self.current.latency.record_ns(latency_ns);
    }

    pub(super) fn advance(&mut self, now: u64) {
        let number = now / TICK_NS;
        if number > self.current.number {
            let histogram = self.spare.try_recv().unwrap_or_default();
            self.send(Part::new(number, histogram));
        }
    }

    pub(super) fn finish(&mut self, now: u64) {
        self.advance(now + TICK_NS);
        let _ = self.slices.send(Slice { lane: self.lane, thread: self.thread, part: None });
    }

    fn send(&mut self, next: Part) {
        let part = std::mem::replace(&mut self.current, next);
        // When nobody listens the load is being abandoned.
        let _ = self.slices.send(Slice { lane: self.lane, thread: self.thread, part: Some(part) });
    }
}

/// Puts the slices of all threads together.
pub(super) struct Collector {
    lanes: Vec<LaneCollector>,
    /// For each thread, for each lane: where cleared histograms go back to.
    spares: Vec<Vec<Sender<LatencyHistogram>>>,
}

struct LaneCollector {
    /// The slice that each thread has filled last; `None` once it has ended.
    reached: Vec<Option<u64>>,
    pending: VecDeque<Part>,
    series: Series,
}

impl Collector {
    pub(super) fn new(lanes: usize, spares: Vec<Vec<Sender<LatencyHistogram>>>) -> Self {
        let lane = || LaneCollector {
            reached: vec![Some(0); spares.len()],
            pending: VecDeque::new(),
            series: Series::default(),
        };
        Self { lanes: (0..lanes).map(|_| lane()).collect(), spares }
    }

    /// Takes a slice, and hands on those that no thread will add to any more.
    pub(super) fn take(&mut self, slice: Slice, observer: &mut Option<Observer>) {
        let Slice { lane: index, thread, part } = slice;
        let lane = &mut self.lanes[index];
        match part {
            None => lane.reached[thread] = None,
            Some(part) => {
                lane.reached[thread] = Some(part.number + 1);
                if let Some(mut histogram) = lane.add(part) {
                    histogram.clear();
                    let _ = self.spares[thread][index].send(histogram);
                }
            }
        }
        while let Some(mut part) = lane.next_whole() {
            let tick = part.tick();
            lane.series.push(tick.clone(), &part.latency);
            if let Some(observer) = observer {
                observer(Interval { lane: index, tick, latency: part.latency.clone() });
            }
            part.latency.clear();
            let _ = self.spares[thread][index].send(part.latency);
        }
    }

    /// The course of each lane.
    pub(super) fn finish(self) -> Vec<Vec<Tick>> {
        self.lanes.into_iter().map(|lane| lane.series.ticks()).collect()
    }
}

impl LaneCollector {
    /// Adds a thread's part; gives back its histogram when it was merged into another's.
    fn add(&mut self, part: Part) -> Option<LatencyHistogram> {
        let place = self.pending.partition_point(|pending| pending.number < part.number);
        match self.pending.get_mut(place) {
            Some(same) if same.number == part.number => {
                same.sent += part.sent;
                same.succeeded += part.succeeded;
                for (sum, count) in same.failed.iter_mut().zip(part.failed) {
                    *sum += count;
                }
                same.latency.merge(&part.latency);
                Some(part.latency)
            }
            _ => {
                self.pending.insert(place, part);
                None
            }
        }
    }

    fn next_whole(&mut self) -> Option<Part> {
        let number = self.pending.front()?.number;
        let all_beyond = self.reached.iter().flatten().all(|reached| *reached > number);
        if all_beyond { self.pending.pop_front() } else { None }
    }
}

impl Part {
    fn tick(&self) -> Tick {
        let failed = ErrorClass::ALL.iter().zip(self.failed).filter(|(_, count)| *count > 0);
        Tick {
            start: Duration::from_nanos(self.number * TICK_NS),
            length: Duration::from_nanos(TICK_NS),
            sent: self.sent,
            succeeded: self.succeeded,
            failed: failed.map(|(class, count)| (*class, count)).collect::<BTreeMap<_, _>>(),
            p50: self.latency.quantile(0.5),
            p99: self.latency.quantile(0.99),
            max: self.latency.max(),
        }
    }
}

/// Slices in a bounded number: when there are too many, neighbours become one and slices are longer from then on.
#[derive(Default)]
struct Series {
    ticks: Vec<Tick>,
    /// Slices that become one.
    together: u32,
    open: Option<(Tick, LatencyHistogram, u32)>,
}

impl Series {
    fn push(&mut self, tick: Tick, latency: &LatencyHistogram) {
        if self.together <= 1 {
            self.ticks.push(tick);
        } else {
            let (mut sum, mut histogram, count) = self.open.take().unwrap_or_else(|| {
                (Tick { start: tick.start, ..Tick::default() }, LatencyHistogram::new(), 0)
            });
            add(&mut sum, &tick);
            histogram.merge(latency);
            if count + 1 < self.together {
                self.open = Some((sum, histogram, count + 1));
            } else {
                self.close(sum, &histogram);
            }
        }
        if self.ticks.len() >= MOST_TICKS {
            self.together = self.together.max(1) * 2;
            self.ticks = self.ticks.chunks(2).map(pair).collect();
        }
    }

    fn close(&mut self, mut tick: Tick, latency: &LatencyHistogram) {
        (tick.p50, tick.p99, tick.max) = (latency.quantile(0.5), latency.quantile(0.99), latency.max());
        self.ticks.push(tick);
    }

    fn ticks(mut self) -> Vec<Tick> {
        if let Some((tick, latency, _)) = self.open.take() {
            self.close(tick, &latency);
        }
        self.ticks
    }
}

fn add(sum: &mut Tick, tick: &Tick) {
    sum.length += tick.length;
    sum.sent += tick.sent;
    sum.succeeded += tick.succeeded;
    for (class, count) in &tick.failed {
        *sum.failed.entry(*class).or_default() += count;
    }
}

/// Two slices that are over: their histograms are gone, so the quantiles are those of the worse.
fn pair(ticks: &[Tick]) -> Tick {
    let mut sum = Tick { start: ticks[0].start, ..Tick::default() };
    for tick in ticks {
        add(&mut sum, tick);
        sum.p50 = sum.p50.max(tick.p50);
        sum.p99 = sum.p99.max(tick.p99);
        sum.max = sum.max.max(tick.max);
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const MS: u64 = 1_000_000;

    fn observed(collector: &mut Collector, slices: &Receiver<Slice>) -> Vec<(u128, u64, u64)> {
        let (sender, seen) = mpsc::channel();
        let mut observer: Option<Observer> = Some(Box::new(move |interval| {
            let Interval { tick, latency, .. } = interval;
            sender.send((tick.start.as_millis(), tick.succeeded, latency.count())).unwrap();
        }));
        for slice in slices.try_iter() {
            collector.take(slice, &mut observer);
        }
        seen.try_iter().collect()
    }

    #[test]
    fn a_slice_is_whole_when_every_thread_is_past_it() {
        let (sender, slices) = mpsc::channel();
        let spares = [mpsc::channel(), mpsc::channel()];
        let [(to_first, first_spare), (to_second, second_spare)] = spares;
        let mut collector = Collector::new(1, vec![vec![to_first], vec![to_second]]);
        let mut first = TickRecorder::new(0, 0, sender.clone(), first_spare);
        let mut second = TickRecorder::new(0, 1, sender, second_spare);
        first.succeeded(5 * MS);
        first.advance(120 * MS);
        assert_eq!(observed(&mut collector, &slices), [], "the second thread may still add to it");
        second.succeeded(7 * MS);
        second.failed(ErrorClass::Timeout, Some(9 * MS));
        second.advance(250 * MS);
        assert_eq!(observed(&mut collector, &slices), [(0, 2, 3)]);
        first.succeeded(MS);
        first.finish(280 * MS);
        second.finish(280 * MS);
        let rest = observed(&mut collector, &slices);
        assert_eq!(rest, [(100, 1, 1), (200, 0, 0)]);
        let series = collector.finish().remove(0);
        assert_eq!(series.len(), 3);
        assert_eq!(series[0].failed[&ErrorClass::Timeout], 1);
        assert_eq!(series[1].p50, series[1].max);
    }

    #[test]
    fn a_long_course_has_longer_slices_and_loses_no_count() {
        let mut series = Series::default();
        let total = MOST_TICKS as u64 * 3;
        let latency = LatencyHistogram::new();
        for number in 0..total {
            let part = Part { succeeded: number % 7, ..Part::new(number, LatencyHistogram::default()) };
            series.push(part.tick(), &latency);
        }
        let ticks = series.ticks();
        assert!(ticks.len() < MOST_TICKS);
        assert_eq!(
            ticks.iter().map(|tick| tick.succeeded).sum::<u64>(),
            (0..total).map(|n| n % 7).sum::<u64>()
        );
        let mut end = Duration::ZERO;
        for tick in &ticks {
            assert_eq!(tick.start, end);
            end += tick.length;
        }
        assert_eq!(end, Duration::from_millis(100 * total));
    }
}
