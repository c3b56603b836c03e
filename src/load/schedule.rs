//! When requests are due: a pure iterator, counted from the start so that no error adds up.
//!
//! The k-th arrival comes when the integral Λ(t) of the rate reaches the k-th count: k itself when arrivals are
//! even, a sum of k + 1 exponential gaps when they are a Poisson process (Çınlar's inversion method).

use std::{f64::consts::TAU, iter::Peekable, sync::Arc, time::Duration};

use super::{Slot, prepare::Load};
use crate::model::{
    load::{Arrivals, Pacing, Shape, Stage},
    random::SplitMix,
};

/// A request wanted at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The number of arrivals before it.
    pub index: u64,
    /// Nanoseconds since the start of the load.
    pub offset_ns: u64,
    /// The lane of the slot it falls in.
    pub lane: usize,
}

/// The arrivals of a plan in order of time, for as long as there are slots.
#[derive(Clone, Debug)]
pub struct Schedule {
    rate: Inverse,
    counts: Counts,
    slots: Arc<[Slot]>,
    slot: usize,
    slot_end_ns: u64,
    index: u64,
}

impl Schedule {
    /// A schedule over the slots. A rate that is not a positive number yields no arrivals.
    pub fn new(shape: &Shape, arrivals: Arrivals, slots: impl Into<Arc<[Slot]>>) -> Self {
        let slots = slots.into();
        let slot_end_ns = slots.first().map_or(0, |slot| nanos(slot.length));
        Self {
            rate: Inverse::new(shape),
            counts: Counts::new(arrivals),
            slots,
            slot: 0,
            slot_end_ns,
            index: 0,
        }
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let seconds = self.rate.time_of(self.counts.next(self.index))?;
        // Beyond some 500 years of nanoseconds there is no arrival, and the cast says the greatest number.
        let offset_ns = (seconds * 1e9).round() as u64;
        while offset_ns >= self.slot_end_ns {
            self.slot += 1;
            let length = self.slots.get(self.slot)?.length;
            self.slot_end_ns = self.slot_end_ns.saturating_add(nanos(length));
        }
        let lane = self.slots.get(self.slot)?.lane;
        let index = self.index;
        self.index += 1;
        Some(Arrival { index, offset_ns, lane })
    }
}

/// A thread's share of the arrivals of a load: every so-manieth.
pub(super) type ArrivalShare = Peekable<Box<dyn Iterator<Item = Arrival> + Send>>;

/// The arrivals that are the `thread`-th of so many threads'; none in a closed loop.
pub(super) fn arrivals(load: &Load, thread: u64, threads: u64) -> ArrivalShare {
    let share: Box<dyn Iterator<Item = Arrival> + Send> = match &load.pacing {
        Pacing::Closed { .. } => Box::new(std::iter::empty()),
        Pacing::Open { shape, arrivals } => {
            let all = Schedule::new(shape, *arrivals, Arc::clone(&load.slots));
            if threads == 1 {
                Box::new(all)
            } else {
                Box::new(all.filter(move |arrival| arrival.index % threads == thread))
            }
        }
    };
    share.peekable()
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// The counts at which arrivals come, in units of expected arrivals.
#[derive(Clone, Debug)]
enum Counts {
    Even,
    Poisson { random: SplitMix, sum: f64 },
}

impl Counts {
    fn new(arrivals: Arrivals) -> Self {
        match arrivals {
            Arrivals::Even => Self::Even,
            Arrivals::Poisson { seed } => Self::Poisson { random: SplitMix::new(seed), sum: 0.0 },
        }
    }

    fn next(&mut self, index: u64) -> f64 {
        match self {
            Self::Even => index as f64,
            Self::Poisson { random, sum } => {
                // 1 − U is in (0, 1], so that the logarithm is finite.
                *sum -= (1.0 - random.next_unit()).ln();
                *sum
            }
        }
    }
}

/// The inverse of Λ: at what time so many arrivals are expected.
#[derive(Clone, Debug)]
enum Inverse {
    Stages { stages: Vec<Reached>, at: usize },
    Sine { mean: f64, amplitude: f64, period_s: f64, last_s: f64 },
    Never,
}

/// A stage, and the time and count at its beginning.
#[derive(Clone, Copy, Debug)]
struct Reached {
    start_s: f64,
    start_count: f64,
    from: f64,
    /// How the rate changes, per second and second.
    slope: f64,
    end_count: f64,
}

impl Inverse {
    fn new(shape: &Shape) -> Self {
        match shape {
            Shape::Stages(stages) => Self::stages(stages),
            Shape::Sine { mean, amplitude, period } => {
                let (mean, amplitude, period_s) = (*mean, *amplitude, period.as_secs_f64());
                let is_rate = mean > 0.0 && mean.is_finite() && (0.0..=mean).contains(&amplitude);
                if is_rate && period_s > 0.0 {
                    Self::Sine { mean, amplitude, period_s, last_s: 0.0 }
                } else {
                    Self::Never
                }
            }
        }
    }

    fn stages(stages: &[Stage]) -> Self {
        let is_rate = |rate: f64| rate >= 0.0 && rate.is_finite();
        let Some(last) = stages.last() else { return Self::Never };
        if !stages.iter().all(|stage| is_rate(stage.from) && is_rate(stage.to)) {
            return Self::Never;
        }
        let (mut start_s, mut start_count) = (0.0, 0.0);
        let mut reached = Vec::new();
        for stage in stages.iter().filter(|stage| !stage.length.is_zero()) {
            let length = stage.length.as_secs_f64();
            let end_count = start_count + f64::midpoint(stage.from, stage.to) * length;
            let slope = (stage.to - stage.from) / length;
            reached.push(Reached { start_s, start_count, from: stage.from, slope, end_count });
            start_s += length;
            start_count = end_count;
        }
        reached.push(Reached {
            start_s,
            start_count,
            from: last.to,
            slope: 0.0,
            end_count: if last.to > 0.0 { f64::INFINITY } else { start_count },
        });
        Self::Stages { stages: reached, at: 0 }
    }

    /// The time in seconds at which `count` is reached; `None` when it never is. Counts must not go back.
    fn time_of(&mut self, count: f64) -> Option<f64> {
        match self {
            Self::Never => None,
            Self::Stages { stages, at } => {
                while count >= stages.get(*at)?.end_count {
                    *at += 1;
                }
                Some(stages[*at].time_of(count))
            }
            Self::Sine { mean, amplitude, period_s, last_s } => {
                let seconds = sine_time(*mean, *amplitude, *period_s, *last_s, count);
                *last_s = seconds;
                Some(seconds)
            }
        }
    }
}

impl Reached {
    fn time_of(self, count: f64) -> f64 {
        let missing = count - self.start_count;
        if self.slope == 0.0 {
            return self.start_s + missing / self.from;
        }
        // The root of from·t + slope·t²/2 = missing in the form that cancels nothing, also where the slope is small.
        let root = (self.from * self.from + 2.0 * self.slope * missing).max(0.0).sqrt();
        let within = if missing == 0.0 { 0.0 } else { 2.0 * missing / (self.from + root) };
        self.start_s + within
    }
}

/// Solves Λ(t) = mean·t + amplitude·period/2π·(1 − cos(2πt/period)) = count for t ≥ `from_s`: Newton's steps, held
/// inside a bracket that each of them narrows, since the rate may touch zero.
fn sine_time(mean: f64, amplitude: f64, period_s: f64, from_s: f64, count: f64) -> f64 {
    let angular = TAU / period_s;
    let reached = |t: f64| mean * t + amplitude / angular * (1.0 - (angular * t).cos());
    let rate = |t: f64| mean + amplitude * (angular * t).sin();
    let (mut low, mut width) = (from_s, 1.0 / mean);
    while reached(low + width) < count {
        low += width;
        width *= 2.0;
    }
    let mut high = low + width;
    let mut t = low;
    for _ in 0..100 {
        let error = reached(t) - count;
        if error < 0.0 {
            low = t;
        } else {
            high = t;
        }
        let step = t - error / rate(t);
        let next = if step > low && step < high { step } else { f64::midpoint(low, high) };
        // A tenth of a nanosecond.
        if (next - t).abs() < 1e-10 {
            return next;
        }
        t = next;
    }
    t
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn slot(lane: usize, millis: u64) -> Slot {
        Slot { lane, length: Duration::from_millis(millis) }
    }

    fn seconds(count: u64) -> Vec<Slot> {
        vec![Slot { lane: 0, length: Duration::from_secs(count) }]
    }

    fn even(rate: f64, slots: Vec<Slot>) -> Schedule {
        Schedule::new(&Shape::constant(rate), Arrivals::Even, slots)
    }

    fn stage(from: f64, to: f64, seconds: u64) -> Stage {
        Stage { from, to, length: Duration::from_secs(seconds) }
    }

    fn within(shape: &Shape, arrivals: Arrivals, total: u64, part: std::ops::Range<f64>) -> usize {
        let arrivals = Schedule::new(shape, arrivals, seconds(total));
        arrivals.filter(|arrival| part.contains(&(arrival.offset_ns as f64 / 1e9))).count()
    }

    #[test]
    fn a_whole_number_of_seconds_gets_exactly_rate_times_time() {
        for (rate, length) in [(1000.0, 10), (200.0, 20), (3.0, 7), (7.5, 4), (997.0, 13)] {
            let expected = (rate * length as f64) as usize;
            assert_eq!(even(rate, seconds(length)).count(), expected, "{rate} for {length}s");
        }
    }

    #[test]
    fn a_request_belongs_to_the_slot_it_falls_in() {
        let slots = vec![slot(0, 200), slot(1, 0), slot(2, 100), slot(0, 150)];
        let lanes: Vec<usize> = even(10.0, slots).map(|arrival| arrival.lane).collect();
        // Due at 0, 100, 200, 300 and 400 ms: a slot begins at its first instant and ends before its last.
        assert_eq!(lanes, [0, 0, 2, 0, 0]);
    }

    #[test]
    fn hours_later_it_is_still_on_time() {
        let rate = 997.0;
        let mut schedule = even(rate, seconds(24 * 3600));
        schedule.index = 997 * 3600 * 23;
        let hours = 23 * 3600 * 1_000_000_000;
        assert_eq!(schedule.next().unwrap().offset_ns, hours);
        assert_eq!(schedule.next().unwrap().offset_ns, hours + (1e9_f64 / rate).round() as u64);
    }

    #[test]
    fn nonsense_yields_nothing_and_ends() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE / 4.0] {
            assert!(even(rate, vec![slot(0, 1000)]).count() <= 1, "{rate}");
        }
        assert_eq!(even(10.0, Vec::new()).count(), 0);
        for (mean, amplitude, period) in [(0.0, 0.0, 1), (1.0, 2.0, 1), (1.0, -1.0, 1), (1.0, 0.5, 0)] {
            let shape = Shape::Sine { mean, amplitude, period: Duration::from_secs(period) };
            assert_eq!(Schedule::new(&shape, Arrivals::Even, seconds(10)).count(), 0);
        }
    }

    #[test]
    fn a_ramp_sends_its_area_and_goes_on_at_its_end() {
        let ramp = Shape::Stages(vec![stage(0.0, 100.0, 10)]);
        assert_eq!(within(&ramp, Arrivals::Even, 20, 0.0..10.0), 500);
        assert_eq!(within(&ramp, Arrivals::Even, 20, 10.0..20.0), 1000);
        // A quarter of the area lies in the first half.
        assert_eq!(within(&ramp, Arrivals::Even, 20, 0.0..5.0), 125);
        let down = Shape::Stages(vec![stage(100.0, 0.0, 10)]);
        assert_eq!(within(&down, Arrivals::Even, 20, 0.0..5.0), 375);
        assert_eq!(Schedule::new(&down, Arrivals::Even, seconds(20)).count(), 500, "and then nothing more");
    }

    #[test]
    fn steps_and_spikes_keep_their_rates() {
        let spike = Shape::Stages(vec![stage(10.0, 10.0, 5), stage(200.0, 200.0, 2), stage(10.0, 10.0, 0)]);
        assert_eq!(within(&spike, Arrivals::Even, 10, 0.0..5.0), 50);
        assert_eq!(within(&spike, Arrivals::Even, 10, 5.0..7.0), 400);
        assert_eq!(within(&spike, Arrivals::Even, 10, 7.0..10.0), 30);
        let pause = Shape::Stages(vec![stage(10.0, 10.0, 1), stage(0.0, 0.0, 5), stage(10.0, 10.0, 1)]);
        assert_eq!(within(&pause, Arrivals::Even, 7, 1.0..6.0), 0);
        assert_eq!(within(&pause, Arrivals::Even, 7, 6.0..7.0), 10);
    }

    #[test]
    fn a_sine_swings_around_its_mean() {
        let sine = Shape::Sine { mean: 100.0, amplitude: 100.0, period: Duration::from_secs(10) };
        let arrivals: Vec<Arrival> = Schedule::new(&sine, Arrivals::Even, seconds(30)).collect();
        assert!(arrivals.len().abs_diff(3000) <= 1, "{}", arrivals.len());
        // The integral of 1 + sin over half a period is 1/2 + 1/π of the period.
        let expected = 1000.0 * (0.5 + 1.0 / std::f64::consts::PI);
        let first_half = within(&sine, Arrivals::Even, 30, 0.0..5.0) as f64;
        assert!((first_half - expected).abs() <= 1.0, "{first_half}");
        for arrival in &arrivals {
            let t = arrival.offset_ns as f64 / 1e9;
            let angular = TAU / 10.0;
            let reached = 100.0 * t + 100.0 / angular * (1.0 - (angular * t).cos());
            assert!((reached - arrival.index as f64).abs() < 1e-5, "{arrival:?} {reached}");
        }
    }

    #[test]
    fn poisson_gaps_are_exponential_and_repeatable() {
        let shape = Shape::constant(1000.0);
        let arrivals =
            |seed| Schedule::new(&shape, Arrivals::Poisson { seed }, seconds(100)).collect::<Vec<_>>();
        let one = arrivals(1);
        assert_eq!(one, arrivals(1));
        assert_ne!(one, arrivals(2));
        // 100,000 expected, with a standard deviation of 316.
        assert!((98_500..101_500).contains(&one.len()), "{}", one.len());
        let gaps: Vec<f64> =
            one.windows(2).map(|pair| (pair[1].offset_ns - pair[0].offset_ns) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "an exponential's deviation is its mean");
        let longer = gaps.iter().filter(|gap| **gap > mean).count() as f64 / gaps.len() as f64;
        assert!((longer - (-1.0_f64).exp()).abs() < 0.01, "{longer}");
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
            let arrivals: Vec<Arrival> = even(rate, slots.clone()).collect();
            let expected = rate * total.as_secs_f64();
            prop_assert!((arrivals.len() as f64 - expected).abs() <= 1.0 + 1e-6);
            for (k, arrival) in arrivals.iter().enumerate() {
                let ideal = k as f64 / rate;
                prop_assert!((arrival.offset_ns as f64 / 1e9 - ideal).abs() < 1e-8);
                prop_assert_eq!(arrival.index, k as u64);
                let offset = Duration::from_nanos(arrival.offset_ns);
                let mut end = Duration::ZERO;
                let own = slots.iter().find(|slot| { end += slot.length; offset < end });
                prop_assert_eq!(own.map(|slot| slot.lane), Some(arrival.lane));
            }
            prop_assert!(arrivals.windows(2).all(|pair| pair[0].offset_ns <= pair[1].offset_ns));
        }

        #[test]
        fn any_stages_keep_order_and_area(
            stages in prop::collection::vec((0.0_f64..2000.0, 0.0_f64..2000.0, 0_u64..3), 1..6),
        ) {
            let stages: Vec<Stage> = stages.into_iter().map(|(from, to, length)| stage(from, to, length)).collect();
            let total: u64 = stages.iter().map(|stage| stage.length.as_secs()).sum();
            let area: f64 =
                stages.iter().map(|stage| f64::midpoint(stage.from, stage.to) * stage.length.as_secs_f64()).sum();
            let schedule = Schedule::new(&Shape::Stages(stages), Arrivals::Even, seconds(total));
            let offsets: Vec<u64> = schedule.map(|arrival| arrival.offset_ns).collect();
            prop_assert!((offsets.len() as f64 - area).abs() <= 1.0 + 1e-6);
            prop_assert!(offsets.is_sorted());
        }

        #[test]
        fn any_rate_ends_without_a_panic(rate in any::<f64>(), other in any::<f64>(), millis in 0_u64..1000) {
            prop_assert!(even(rate, vec![slot(0, millis)]).take(100).count() <= 100);
            let length = Duration::from_millis(millis);
            for shape in [
                Shape::Stages(vec![Stage { from: rate, to: other, length }]),
                Shape::Sine { mean: rate, amplitude: other, period: length },
            ] {
                let arrivals = Schedule::new(&shape, Arrivals::Poisson { seed: 1 }, vec![slot(0, millis)]);
                prop_assert!(arrivals.take(100).count() <= 100);
            }
        }
    }
}
