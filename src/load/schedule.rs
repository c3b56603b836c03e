//! When requests are due: a constant rate, counted from the start so that no error adds up. Pure.

use std::{sync::Arc, time::Duration};

use super::Slot;

/// A request wanted at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Since the start of the load.
    pub offset: Duration,
    /// The lane of the slot it falls in.
    pub lane: usize,
}

/// The arrivals of a plan in order of time: the k-th at k / rate, for as long as there are slots.
#[derive(Clone, Debug)]
pub struct Schedule {
    rate_per_second: f64,
    slots: Arc<[Slot]>,
    slot: usize,
    slot_end: Duration,
    arrivals: u64,
}

impl Schedule {
    /// A schedule of `rate_per_second` over the slots, the first arrival at once. A rate that is not a positive
    /// number yields no arrivals.
    pub fn new(rate_per_second: f64, slots: impl Into<Arc<[Slot]>>) -> Self {
        let slots = slots.into();
        let slot_end = slots.first().map_or(Duration::ZERO, |slot| slot.length);
        Self { rate_per_second, slots, slot: 0, slot_end, arrivals: 0 }
    }

    /// Dividing anew for each arrival keeps the error under half a nanosecond for ever; adding up a rounded
    /// period would drift by up to a millisecond an hour at 1,000 per second.
    fn offset(&self) -> Option<Duration> {
        let seconds = self.arrivals as f64 / self.rate_per_second;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let offset = self.offset()?;
        while offset >= self.slot_end {
            self.slot += 1;
            let length = self.slots.get(self.slot)?.length;
            self.slot_end = self.slot_end.saturating_add(length);
        }
        let lane = self.slots.get(self.slot)?.lane;
        self.arrivals += 1;
        Some(Arrival { offset, lane })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn slot(lane: usize, millis: u64) -> Slot {
        Slot { lane, length: Duration::from_millis(millis) }
    }

    #[test]
    fn a_whole_number_of_seconds_gets_exactly_rate_times_time() {
        for (rate, seconds) in [(1000.0, 10), (200.0, 20), (3.0, 7), (7.5, 4), (997.0, 13)] {
            let slots = vec![Slot { lane: 0, length: Duration::from_secs(seconds) }];
            let expected = (rate * seconds as f64) as usize;
            assert_eq!(Schedule::new(rate, slots).count(), expected, "{rate} for {seconds}s");
        }
    }

    #[test]
    fn a_request_belongs_to_the_slot_it_falls_in() {
        let lanes: Vec<usize> =
            Schedule::new(10.0, vec![slot(0, 200), slot(1, 0), slot(2, 100), slot(0, 150)])
                .map(|arrival| arrival.lane)
                .collect();
        // Due at 0, 100, 200, 300 and 400 ms: a slot begins at its first instant and ends before its last.
        assert_eq!(lanes, [0, 0, 2, 0, 0]);
    }

    #[test]
    fn hours_later_it_is_still_on_time() {
        let rate = 997.0;
        let hours = vec![Slot { lane: 0, length: Duration::from_secs(24 * 3600) }];
        let mut schedule = Schedule::new(rate, hours);
        schedule.arrivals = 997 * 3600 * 23;
        schedule.slot_end = Duration::from_secs(24 * 3600);
        assert_eq!(schedule.next().unwrap().offset, Duration::from_secs(23 * 3600));
        let period = Duration::from_nanos((1e9_f64 / rate).round() as u64);
        assert_eq!(schedule.next().unwrap().offset, Duration::from_secs(23 * 3600) + period);
    }

    #[test]
    fn nonsense_yields_nothing_and_ends() {
        for rate in [0.0, -1.0, f64::NAN, f64::MIN_POSITIVE / 4.0] {
            assert!(Schedule::new(rate, vec![slot(0, 1000)]).count() <= 1, "{rate}");
        }
        assert_eq!(Schedule::new(10.0, Vec::new()).count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn arrivals_keep_order_rate_and_slots(
            rate in 0.5_f64..5000.0,
            slots in prop::collection::vec((0_usize..3, 0_u64..400), 1..12),
        ) {
            let slots: Vec<Slot> = slots.into_iter().map(|(lane, millis)| slot(lane, millis)).collect();
            let total: Duration = slots.iter().map(|slot| slot.length).sum();
            let arrivals: Vec<Arrival> = Schedule::new(rate, slots.clone()).collect();
            let expected = rate * total.as_secs_f64();
            prop_assert!((arrivals.len() as f64 - expected).abs() <= 1.0 + 1e-6);
            for (k, arrival) in arrivals.iter().enumerate() {
                let ideal = k as f64 / rate;
                prop_assert!((arrival.offset.as_secs_f64() - ideal).abs() < 1e-8);
                let mut end = Duration::ZERO;
                let own = slots.iter().find(|slot| { end += slot.length; arrival.offset < end });
                prop_assert_eq!(own.map(|slot| slot.lane), Some(arrival.lane));
            }
            prop_assert!(arrivals.windows(2).all(|pair| pair[0].offset <= pair[1].offset));
        }

        #[test]
        fn any_rate_ends_without_a_panic(rate in any::<f64>(), millis in 0_u64..1000) {
            prop_assert!(Schedule::new(rate, vec![slot(0, millis)]).take(100).count() <= 100);
        }
    }
}
