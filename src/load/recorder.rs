//! What becomes of a lane's requests, as histograms, counts and, where asked for, samples and a course over time.
//!
//! Bounded memory whatever the length of the load, and neither a lock nor an allocation for a request: a recorder
//! belongs to one thread, what threads share is atomic, and a class's histogram is made at its first failure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    Slot,
    gaps::{Gaps, OwnTime},
    series::TickRecorder,
};
use crate::model::{
    measurement::{LaneMeasurement, Phase},
    sample::{ErrorClass, LatencyHistogram, RequestCounts, Sample},
};

/// Samples kept at most, over all lanes: about 300 MB.
pub(super) const MOST_SAMPLES: usize = 5_000_000;

const CLASSES: usize = ErrorClass::ALL.len();
const SECOND_NS: u64 = 1_000_000_000;

/// How a request ended. Times are nanoseconds since the start of the load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    /// Which of the lane's addresses it was sent to.
    pub(super) address: usize,
    pub(super) intended: u64,
    pub(super) sent: u64,
    /// When the first try ended, and when the last: the same unless it was retried.
    pub(super) first_done: u64,
    pub(super) done: u64,
    /// Of the first try.
    pub(super) outcome: Result<(), ErrorClass>,
    /// Whether a retry succeeded; `None` when there was none.
    pub(super) retry: Option<bool>,
    /// The time-out ended it, at the first try or at the retry.
    pub(super) timed_out: bool,
}

/// What all threads and lanes of a load share while they record.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) slots: Arc<[Slot]>,
    pub(super) marks: Marks,
    /// Samples that may still be kept.
    pub(super) sample_budget: AtomicUsize,
}

/// The moments at which a phase ended and the next began.
#[derive(Debug, Default)]
pub(super) struct Marks {
    reached: AtomicUsize,
    at_ns: [AtomicU64; Marks::MOST],
}

impl Marks {
    pub(super) const MOST: usize = 7;

    /// Begins the next phase; the last of them takes everything that follows.
    pub(super) fn set(&self, now_ns: u64) {
        let index = self.reached.load(Ordering::Acquire);
        if let Some(mark) = self.at_ns.get(index) {
            mark.store(now_ns, Ordering::Release);
            self.reached.store(index + 1, Ordering::Release);
        }
    }

    fn phase_of(&self, intended_ns: u64) -> usize {
        let reached = self.reached.load(Ordering::Acquire);
        self.at_ns[..reached].iter().take_while(|mark| mark.load(Ordering::Acquire) <= intended_ns).count()
    }
}

/// The recorder of one lane on one thread.
#[derive(Debug)]
pub(super) struct LaneRecorder {
    shared: Arc<Shared>,
    gaps: Arc<Gaps>,
    own_time: OwnTime,
    phases: Vec<PhaseRecorder>,
    service_time: LatencyHistogram,
    lag: LatencyHistogram,
    by_class: [Option<Box<LatencyHistogram>>; CLASSES],
    ticks: Option<TickRecorder>,
    samples: Vec<Sample>,
}

#[derive(Debug, Default)]
struct PhaseRecorder {
    latency: LatencyHistogram,
    offered: u64,
    sent: u64,
    succeeded: u64,
    failed: [u64; CLASSES],
    mended_by_retry: u64,
    over_one_second: u64,
}

impl LaneRecorder {
    pub(super) fn new(
        lane: usize,
        gaps: Arc<Gaps>,
        shared: Arc<Shared>,
        ticks: Option<TickRecorder>,
    ) -> Self {
        let own_time = OwnTime::new(lane, Arc::clone(&shared.slots));
        Self {
            shared,
            gaps,
            own_time,
            phases: vec![PhaseRecorder::default()],
            service_time: LatencyHistogram::new(),
            lag: LatencyHistogram::new(),
            by_class: Default::default(),
            ticks,
            samples: Vec::new(),
        }
    }

    fn phase(&mut self, intended: u64) -> &mut PhaseRecorder {
        let index = self.shared.marks.phase_of(intended);
        if index >= self.phases.len() {
            // At a mark, not for a request.
            self.phases.resize_with(index + 1, PhaseRecorder::default);
        }
        &mut self.phases[index]
    }

    /// The schedule wanted a request.
    pub(super) fn offered(&mut self, intended: u64) {
        self.phase(intended).offered += 1;
    }

    /// A request went out.
    pub(super) fn sent(&mut self, intended: u64, sent: u64) {
        self.phase(intended).sent += 1;
        self.lag.record_ns(sent.saturating_sub(intended));
        if let Some(ticks) = &mut self.ticks {
            ticks.sent();
        }
    }

    /// A request was given up before it was sent. It waited that long for nothing, which stays in the latencies:
    /// left out, a service that cannot keep up would look better the worse it is.
    pub(super) fn unsent(&mut self, intended: u64, now: u64) {
        let waited = now.saturating_sub(intended);
        self.lag.record_ns(waited);
        self.phase(intended).latency.record_ns(waited);
        if let Some(ticks) = &mut self.ticks {
            ticks.latency(waited);
        }
    }

    /// A request that was sent has ended.
    pub(super) fn completed(&mut self, completion: &Completion) {
        let latency = completion.done.saturating_sub(completion.intended);
        let phase = self.phase(completion.intended);
        match completion.outcome {
            Ok(()) => {
                phase.succeeded += 1;
                phase.latency.record_ns(latency);
                phase.over_one_second += u64::from(latency > SECOND_NS);
                self.service_time.record_ns(completion.done.saturating_sub(completion.sent));
                let own = self.own_time.at(Duration::from_nanos(completion.done));
                self.gaps.success(completion.address, own);
                if let Some(ticks) = &mut self.ticks {
                    ticks.succeeded(latency);
                }
            }
            Err(class) => self.failed(class, completion, latency),
        }
        self.keep(completion);
    }

    fn failed(&mut self, class: ErrorClass, completion: &Completion, latency: u64) {
        let mended = completion.retry == Some(true);
        // With the time that its user waited: an answer that a retry brought, or none until the time-out.
        let waited = mended || completion.timed_out;
        let answered = mended || matches!(class, ErrorClass::Status | ErrorClass::Check);
        let index = class as usize;
        let phase = self.phase(completion.intended);
        phase.failed[index] += 1;
        phase.mended_by_retry += u64::from(mended);
        phase.over_one_second += u64::from(answered && latency > SECOND_NS);
        if waited {
            phase.latency.record_ns(latency);
            self.service_time.record_ns(completion.done.saturating_sub(completion.sent));
        }
        let to_failure = completion.first_done.saturating_sub(completion.intended);
        self.by_class[index].get_or_insert_default().record_ns(to_failure);
        if let Some(ticks) = &mut self.ticks {
            ticks.failed(class, waited.then_some(latency));
        }
    }

    fn keep(&mut self, completion: &Completion) {
        let budget = &self.shared.sample_budget;
        if budget.load(Ordering::Relaxed) > 0
            && budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        {
            self.samples.push(Sample {
                intended: Duration::from_nanos(completion.intended),
                done: Duration::from_nanos(completion.first_done),
                outcome: completion.outcome,
                retry: completion.retry,
            });
        }
    }

    /// When the course over time wants to be looked after; `None` when it is not kept.
    pub(super) fn next_tick_ns(&self) -> Option<u64> {
        self.ticks.as_ref().map(TickRecorder::end_ns)
    }

    /// Ends the slice of the course that is over by now.
    pub(super) fn tick(&mut self, now: u64) {
        if let Some(ticks) = &mut self.ticks {
            ticks.advance(now);
        }
    }

    /// The schedule has ended, perhaps before its time.
    pub(super) fn close(&mut self, end: u64) {
        self.own_time.close(Duration::from_nanos(end));
    }

    /// Everything measured. The longest gap is for all threads together and not in it.
    pub(super) fn finish(mut self, now: u64) -> LaneMeasurement {
        if let Some(ticks) = &mut self.ticks {
            ticks.finish(now);
        }
        let mut measurement = LaneMeasurement {
            service_time: self.service_time,
            lag: self.lag,
            phases: self.phases.into_iter().map(PhaseRecorder::into_phase).collect(),
            ..LaneMeasurement::default()
        };
        for phase in &measurement.phases {
            measurement.latency.merge(&phase.latency);
            measurement.counts.merge(&phase.counts);
        }
        for (class, histogram) in ErrorClass::ALL.iter().zip(self.by_class) {
            if let Some(histogram) = histogram {
                measurement.by_class.insert(*class, *histogram);
            }
        }
        // A failure is only recorded when its retry is known, which may be after a later request's success.
        self.samples.sort_by_key(|sample| sample.done);
        measurement.samples = self.samples;
        measurement
    }
}

impl PhaseRecorder {
    fn into_phase(self) -> Phase {
        let failed = ErrorClass::ALL.iter().zip(self.failed).filter(|(_, count)| *count > 0);
        let counts = RequestCounts {
            offered: self.offered,
            sent: self.sent,
            succeeded: self.succeeded,
            failed: failed.map(|(class, count)| (*class, count)).collect(),
            mended_by_retry: self.mended_by_retry,
            over_one_second: self.over_one_second,
        };
        Phase { latency: self.latency, counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn recorder(samples: usize) -> LaneRecorder {
        let slots = [Slot { lane: 0, length: Duration::from_secs(10) }];
        let shared =
            Shared { slots: slots.into(), marks: Marks::default(), sample_budget: AtomicUsize::new(samples) };
        LaneRecorder::new(0, Gaps::new(1), Arc::new(shared), None)
    }

    fn ended(intended: u64, done: u64, outcome: Result<(), ErrorClass>) -> Completion {
        let (intended, done) = (MS * intended, MS * done);
        let timed_out = outcome == Err(ErrorClass::Timeout);
        let first_done = done;
        Completion { address: 0, intended, sent: intended, first_done, done, outcome, retry: None, timed_out }
    }

    #[test]
    fn only_answers_and_time_outs_are_latencies() {
        let mut recorder = recorder(0);
        recorder.completed(&ended(0, 10, Ok(())));
        recorder.completed(&ended(0, 1, Err(ErrorClass::Refused)));
        recorder.completed(&ended(0, 1500, Err(ErrorClass::Status)));
        recorder.completed(&ended(0, 1500, Err(ErrorClass::Check)));
        recorder.completed(&ended(0, 5000, Err(ErrorClass::Timeout)));
        recorder.unsent(0, MS * 7000);
        let lane = recorder.finish(MS * 10_000);
        assert_eq!(lane.latency.count(), 3);
        assert!(lane.latency.max().unwrap() >= Duration::from_millis(6990));
        assert_eq!(lane.service_time.count(), 2);
        assert_eq!(lane.counts.over_one_second, 2, "a time-out is no answer");
        assert_eq!(lane.counts.failures(), 4);
        assert_eq!(lane.counts.succeeded, 1);
        let times = |class| lane.by_class.get(&class).map(LatencyHistogram::count);
        assert_eq!((times(ErrorClass::Refused), times(ErrorClass::Tls)), (Some(1), None));
    }

    #[test]
    fn a_retry_counts_with_all_the_time_it_took() {
        let mut recorder = recorder(0);
        let stale = ended(0, 1, Err(ErrorClass::StaleKeepAlive));
        recorder.completed(&Completion { done: 3000 * MS, retry: Some(true), ..stale });
        recorder.completed(&Completion { done: 5000 * MS, retry: Some(false), timed_out: true, ..stale });
        recorder.completed(&Completion { done: 2 * MS, retry: Some(false), ..stale });
        let lane = recorder.finish(MS * 10_000);
        assert_eq!((lane.counts.failures(), lane.counts.mended_by_retry), (3, 1));
        assert_eq!((lane.latency.count(), lane.counts.over_one_second), (2, 1));
        assert!(lane.latency.max().unwrap() >= Duration::from_millis(4990));
        let to_failure = &lane.by_class[&ErrorClass::StaleKeepAlive];
        assert_eq!(to_failure.count(), 3);
        assert!(to_failure.max().unwrap() < Duration::from_millis(2));
    }

    #[test]
    fn a_request_belongs_to_the_phase_it_was_intended_in() {
        let mut recorder = recorder(0);
        recorder.offered(MS);
        recorder.completed(&ended(1, 2, Ok(())));
        recorder.shared.marks.set(10 * MS);
        recorder.shared.marks.set(20 * MS);
        for (intended, done) in [(9, 30), (10, 11), (19, 40), (20, 21), (500, 501)] {
            recorder.offered(MS * intended);
            recorder.completed(&ended(intended, done, Ok(())));
        }
        let lane = recorder.finish(MS * 1000);
        let offered: Vec<u64> = lane.phases.iter().map(|phase| phase.counts.offered).collect();
        let latencies: Vec<u64> = lane.phases.iter().map(|phase| phase.latency.count()).collect();
        assert_eq!((offered, latencies), (vec![2, 2, 2], vec![2, 2, 2]));
        assert_eq!((lane.counts.offered, lane.latency.count()), (6, 6));
        let max = lane.phases[0].latency.max().unwrap();
        assert!((Duration::from_millis(20)..Duration::from_millis(22)).contains(&max), "{max:?}");
    }

    #[test]
    fn the_last_phase_takes_what_follows() {
        let marks = Marks::default();
        for millis in 1..=100 {
            marks.set(millis * MS);
        }
        assert_eq!(marks.phase_of(0), 0);
        assert_eq!(marks.phase_of(u64::MAX), Marks::MOST);
    }

    #[test]
    fn samples_are_bounded_and_in_order() {
        let mut recorder = recorder(3);
        for done in [5, 9, 7, 20, 30] {
            recorder.completed(&ended(1, done, Err(ErrorClass::Reset)));
        }
        let lane = recorder.finish(MS * 1000);
        let done: Vec<u128> = lane.samples.iter().map(|sample| sample.done.as_millis()).collect();
        assert_eq!(done, [5, 7, 9]);
        assert_eq!(lane.counts.failures(), 5);
    }
}
