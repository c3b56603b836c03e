//! What becomes of a lane's requests, as histograms, counts and, where asked for, samples.
//!
//! Bounded memory whatever the length of the load: two digits of kilobytes a histogram, and a budget of samples.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use super::Slot;
use crate::model::{
    measurement::LaneMeasurement,
    sample::{ErrorClass, Sample},
};

/// Samples kept at most, over all lanes: about 300 MB.
pub(super) const MOST_SAMPLES: usize = 5_000_000;

/// How a request ended. Times are since the start of the load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    /// Which of the lane's addresses it was sent to.
    pub(super) address: usize,
    pub(super) intended: Duration,
    pub(super) sent: Duration,
    pub(super) done: Duration,
    pub(super) outcome: Result<(), ErrorClass>,
    pub(super) retry: Option<bool>,
}

/// The recorder of one lane.
#[derive(Debug)]
pub(super) struct LaneRecorder {
    measurement: LaneMeasurement,
    own_time: OwnTime,
    /// Of each address, in the lane's own time. Kept apart: the answers of one instance would hide that another is away.
    last_success: Vec<Duration>,
    /// What is left for all lanes together.
    sample_budget: Rc<Cell<usize>>,
}

impl LaneRecorder {
    pub(super) fn new(
        lane: usize,
        addresses: usize,
        slots: Arc<[Slot]>,
        sample_budget: Rc<Cell<usize>>,
    ) -> Self {
        Self {
            measurement: LaneMeasurement::default(),
            own_time: OwnTime::new(lane, slots),
            last_success: vec![Duration::ZERO; addresses],
            sample_budget,
        }
    }

    /// The schedule wanted a request.
    pub(super) fn offered(&mut self) {
        self.measurement.counts.offered += 1;
    }

    /// A request went out, so much later than intended.
    pub(super) fn sent(&mut self, lag: Duration) {
        self.measurement.counts.sent += 1;
        self.measurement.lag.record(lag);
    }

    /// A request was given up before it was sent. It waited that long for nothing, which stays in the latencies:
    /// left out, a service that cannot keep up would look better the worse it is.
    pub(super) fn unsent(&mut self, waited: Duration) {
        self.measurement.latency.record(waited);
    }

    /// A request that was sent has ended.
    pub(super) fn completed(&mut self, completion: &Completion) {
        let latency = completion.done.saturating_sub(completion.intended);
        let timed_out = matches!(completion.outcome, Err(ErrorClass::Timeout | ErrorClass::ConnectTimeout));
        let answered = matches!(completion.outcome, Ok(()) | Err(ErrorClass::Status));
        let measurement = &mut self.measurement;
        if completion.outcome.is_ok() || timed_out {
            measurement.latency.record(latency);
            measurement.service_time.record(completion.done.saturating_sub(completion.sent));
        }
        if answered && latency > Duration::from_secs(1) {
            measurement.counts.over_one_second += 1;
        }
        match completion.outcome {
            Ok(()) => {
                measurement.counts.succeeded += 1;
                let now = self.own_time.at(completion.done);
                let last = &mut self.last_success[completion.address];
                measurement.longest_gap = measurement.longest_gap.max(now.saturating_sub(*last));
                *last = now;
            }
            Err(class) => {
                *measurement.counts.failed.entry(class).or_default() += 1;
                measurement.counts.mended_by_retry += u64::from(completion.retry == Some(true));
            }
        }
        self.keep(completion);
    }

    fn keep(&mut self, completion: &Completion) {
        let left = self.sample_budget.get();
        if left > 0 {
            self.sample_budget.set(left - 1);
            self.measurement.samples.push(Sample {
                intended: completion.intended,
                done: completion.done,
                outcome: completion.outcome,
                retry: completion.retry,
            });
        }
    }

    /// The schedule has ended, perhaps before its time.
    pub(super) fn close(&mut self, end: Duration) {
        self.own_time.close(end);
    }

    /// Takes everything measured out, `end` being the end of the schedule.
    pub(super) fn take(&mut self, end: Duration) -> LaneMeasurement {
        let end = self.own_time.at(end);
        for last in &self.last_success {
            let gap = end.saturating_sub(*last);
            self.measurement.longest_gap = self.measurement.longest_gap.max(gap);
        }
        // A failure is only recorded when its retry is known, which may be after a later request's success.
        self.measurement.samples.sort_by_key(|sample| sample.done);
        std::mem::take(&mut self.measurement)
    }
}

/// The clock of a lane: it runs only in the lane's own slots, so that the load of another is no gap.
#[derive(Debug)]
struct OwnTime {
    lane: usize,
    slots: Arc<[Slot]>,
    /// The slot that does not end: requests of the last one may end after it.
    last: usize,
    slot: usize,
    slot_start: Duration,
    own_before_slot: Duration,
    latest: Duration,
}

impl OwnTime {
    fn new(lane: usize, slots: Arc<[Slot]>) -> Self {
        let last = slots.len().saturating_sub(1);
        Self {
            lane,
            slots,
            last,
            slot: 0,
            slot_start: Duration::ZERO,
            own_before_slot: Duration::ZERO,
            latest: Duration::ZERO,
        }
    }

    /// How much of the time up to `moment` was the lane's own. Does not run backwards.
    fn at(&mut self, moment: Duration) -> Duration {
        while self.slot < self.last {
            let length = self.slots[self.slot].length;
            let Some(end) = self.slot_start.checked_add(length).filter(|end| *end <= moment) else {
                break;
            };
            if self.is_own() {
                self.own_before_slot += length;
            }
            self.slot_start = end;
            self.slot += 1;
        }
        let inside = if self.is_own() { moment.saturating_sub(self.slot_start) } else { Duration::ZERO };
        self.latest = self.latest.max(self.own_before_slot + inside);
        self.latest
    }

    fn close(&mut self, end: Duration) {
        self.at(end);
        // At the exact end of a slot the next has not been loaded.
        if self.slot < self.last {
            self.last = self.slot;
        }
    }

    fn is_own(&self) -> bool {
        self.slots.get(self.slot).is_some_and(|slot| slot.lane == self.lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn recorder(lane: usize, slots: &[(usize, u32)], samples: usize) -> LaneRecorder {
        let slots: Vec<Slot> =
            slots.iter().map(|(lane, millis)| Slot { lane: *lane, length: MS * *millis }).collect();
        LaneRecorder::new(lane, 1, slots.into(), Rc::new(Cell::new(samples)))
    }

    fn ended(intended: u32, done: u32, outcome: Result<(), ErrorClass>) -> Completion {
        let (intended, done) = (MS * intended, MS * done);
        Completion { address: 0, intended, sent: intended, done, outcome, retry: None }
    }

    fn gap(mut recorder: LaneRecorder, successes: &[u32], end: u32) -> Duration {
        for done in successes {
            recorder.completed(&ended(0, *done, Ok(())));
        }
        recorder.close(MS * end);
        recorder.take(MS * end).longest_gap
    }

    #[test]
    fn the_longest_gap_includes_both_ends() {
        let one = &[(0, 1000)];
        assert_eq!(gap(recorder(0, one, 0), &[100, 200, 900], 1000), MS * 700);
        assert_eq!(gap(recorder(0, one, 0), &[400, 700, 900], 1000), MS * 400, "from the start");
        assert_eq!(gap(recorder(0, one, 0), &[100, 200], 1000), MS * 800, "to the end");
        assert_eq!(gap(recorder(0, one, 0), &[], 1000), MS * 1000, "no success at all");
        assert_eq!(gap(recorder(0, one, 0), &[100], 300), MS * 200, "to where it was stopped");
        assert_eq!(gap(recorder(0, one, 0), &[100, 900, 1900], 1000), MS * 1000, "an outage past the end");
    }

    #[test]
    fn an_instance_that_is_away_is_not_hidden_by_another() {
        let slots = vec![Slot { lane: 0, length: MS * 1000 }];
        let mut recorder = LaneRecorder::new(0, 2, slots.into(), Rc::new(Cell::new(0)));
        for done in (50..=1000).step_by(50) {
            recorder.completed(&ended(0, done, Ok(())));
            if done == 100 {
                recorder.completed(&Completion { address: 1, ..ended(0, done, Ok(())) });
            }
        }
        recorder.close(MS * 1000);
        assert_eq!(recorder.take(MS * 1000).longest_gap, MS * 900);
    }

    #[test]
    fn time_in_which_another_lane_is_loaded_is_no_gap() {
        let slots = &[(0, 100), (1, 500), (0, 100), (1, 500)];
        // Own times: 90, then (after the other's 500) 110, then 180, and the end at 200.
        assert_eq!(gap(recorder(0, slots, 0), &[90, 610, 680], 1200), MS * 90);
        assert_eq!(gap(recorder(0, slots, 0), &[10, 50, 650], 1200), MS * 100);
        // A late answer inside the other's slot counts at the end of our own.
        assert_eq!(gap(recorder(0, slots, 0), &[10, 90, 300, 610, 690], 1200), MS * 80);
    }

    #[test]
    fn a_stop_inside_anothers_slot_starts_no_slot_of_ours() {
        let slots = &[(0, 100), (1, 500), (0, 100)];
        assert_eq!(gap(recorder(0, slots, 0), &[50, 95], 300), MS * 50);
        let mut late = recorder(0, slots, 0);
        late.completed(&ended(0, 50, Ok(())));
        late.close(MS * 300);
        late.completed(&ended(0, 650, Ok(())));
        assert_eq!(late.take(MS * 300).longest_gap, MS * 50);
    }

    #[test]
    fn only_answers_and_time_outs_are_latencies() {
        let mut recorder = recorder(0, &[(0, 10_000)], 0);
        recorder.completed(&ended(0, 10, Ok(())));
        recorder.completed(&ended(0, 1, Err(ErrorClass::Refused)));
        recorder.completed(&ended(0, 1500, Err(ErrorClass::Status)));
        recorder.completed(&ended(0, 5000, Err(ErrorClass::Timeout)));
        recorder.unsent(MS * 7000);
        let lane = recorder.take(MS * 10_000);
        assert_eq!(lane.latency.count(), 3);
        assert!(lane.latency.max().unwrap() >= MS * 6990);
        assert_eq!(lane.service_time.count(), 2);
        assert_eq!(lane.counts.over_one_second, 1, "a time-out is no answer");
        assert_eq!(lane.counts.failures(), 3);
        assert_eq!(lane.counts.succeeded, 1);
    }

    #[test]
    fn samples_are_bounded_and_in_order() {
        let mut recorder = recorder(0, &[(0, 1000)], 3);
        for done in [5, 9, 7, 20, 30] {
            recorder.completed(&ended(1, done, Err(ErrorClass::Reset)));
        }
        let lane = recorder.take(MS * 1000);
        let done: Vec<Duration> = lane.samples.iter().map(|sample| sample.done).collect();
        assert_eq!(done, [MS * 5, MS * 7, MS * 9]);
        assert_eq!(lane.counts.failures(), 5);
    }
}
