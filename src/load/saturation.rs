//! The search for the highest rate that a service sustains.
//!
//! From a start rate the rate is doubled until a window lacks something (or halved until one lacks nothing), then
//! the gap between the two is bisected to within a tolerance, then the rate found is held against more windows. A
//! rate is only ever reported when all of its windows held. When one of them does not, the search steps down by the
//! tolerance and starts to confirm again.
//!
//! A window in which the client itself was in the way says nothing about the service: it is run again, and when
//! that happens too often the search ends with the client as the limit.
//!
//! Pure: the caller runs the windows. Deliberately absent: clocks, requests, and patience without bounds.

use std::time::Duration;

use crate::model::load_report::{LoadMeasured, RateWindow, SearchOutcome, SustainLimits};

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchSettings {
    /// What a window must hold.
    pub limits: SustainLimits,
    /// The first rate tried, in requests per second.
    pub start: f64,
    /// The lowest rate that may be tried.
    pub floor: f64,
    /// The highest rate that may be tried.
    pub ceiling: f64,
    /// How close the rate found may be to one that fails, as a share of it.
    pub tolerance: f64,
    /// Windows that must hold after the one in which the rate was found.
    pub confirmations: u32,
    /// How often a window that the client disturbed is run again.
    pub repeats: u32,
    /// Windows in all, disturbed ones included.
    pub windows: u32,
}

impl SearchSettings {
    /// To within 5%, confirmed twice, disturbed windows repeated three times, 64 windows at most.
    pub fn new(limits: SustainLimits, start: f64) -> Self {
        Self {
            limits,
            start,
            floor: 1.0_f64.min(start),
            ceiling: 1_000_000.0_f64.max(start),
            tolerance: 0.05,
            confirmations: 2,
            repeats: 3,
            windows: 64,
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Run a window.
    Run {
        /// Requests per second.
        rate: f64,
    },
    /// The search is over.
    Done(SearchOutcome),
}

/// A search under way.
///
/// ```
/// # use std::time::Duration;
/// # use qbench::{load::saturation::{Search, SearchSettings, Step}, model::load_report::{RateWindow, SearchOutcome, SustainLimits}};
/// let limits = SustainLimits { p99: Duration::from_millis(20), failed_share: 0.0, achieved_share: 0.99 };
/// let mut search = Search::new(SearchSettings::new(limits, 100.0));
/// while let Step::Run { rate } = search.next() {
///     // A service that is fast up to 1000 requests per second.
///     let p99 = Some(Duration::from_millis(if rate <= 1000.0 { 5 } else { 50 }));
///     search.observe(RateWindow {
///         rate, p99, achieved_share: Some(1.0), failed_share: Some(0.0), disturbed: false,
///     });
/// }
/// let Step::Done(SearchOutcome::Found { rate, .. }) = search.next() else { unreachable!() };
/// assert!(rate > 950.0 && rate <= 1000.0);
/// ```
#[derive(Clone, Debug)]
pub struct Search {
    settings: SearchSettings,
    /// The highest rate that held, below every one that did not.
    held: Option<f64>,
    /// The lowest rate that did not hold.
    failed: Option<f64>,
    confirming: Option<Confirming>,
    /// Disturbed windows since the last undisturbed one.
    disturbed: u32,
    windows: u32,
}

#[derive(Clone, Copy, Debug)]
struct Confirming {
    rate: f64,
    /// Windows that must still hold.
    left: u32,
}

impl Search {
    /// Before its first window. Settings that make no sense are put right: the start lies between floor and
    /// ceiling, and the tolerance is at least a thousandth.
    pub fn new(settings: SearchSettings) -> Self {
        let floor = settings.floor.max(f64::MIN_POSITIVE);
        let ceiling = settings.ceiling.max(floor);
        let settings = SearchSettings {
            floor,
            ceiling,
            start: settings.start.max(floor).min(ceiling),
            tolerance: settings.tolerance.clamp(0.001, 0.5),
            ..settings
        };
        Self { settings, held: None, failed: None, confirming: None, disturbed: 0, windows: 0 }
    }

    /// The next window, or the outcome. Asked again, it says the same.
    pub fn next(&self) -> Step {
        let settings = &self.settings;
        match self.aim() {
            Aim::Found(rate) => Step::Done(SearchOutcome::Found { rate, fails_at: self.failed }),
            Aim::Nothing => Step::Done(SearchOutcome::NothingHolds { lowest: settings.floor }),
            Aim::Try(rate) if self.disturbed > settings.repeats => {
                Step::Done(SearchOutcome::ClientLimit { at: rate, held: self.held })
            }
            Aim::Try(_) if self.windows >= settings.windows => {
                Step::Done(SearchOutcome::Unfinished { held: self.held })
            }
            Aim::Try(rate) => Step::Run { rate },
        }
    }

    /// Takes a window's figures. One at another rate than [`next`](Self::next) asked for is left out.
    pub fn observe(&mut self, window: RateWindow) {
        let Step::Run { rate } = self.next() else { return };
        if window.rate.total_cmp(&rate).is_ne() {
            return;
        }
        self.windows += 1;
        if window.disturbed {
            self.disturbed += 1;
            return;
        }
        self.disturbed = 0;
        if self.settings.limits.shortfall(&window).is_none() {
            self.note_held(rate);
        } else {
            self.note_failed(rate);
        }
    }

    /// How the search would end now.
    pub fn outcome_if_ended(&self) -> SearchOutcome {
        match self.next() {
            Step::Done(outcome) => outcome,
            Step::Run { .. } => SearchOutcome::Unfinished { held: self.held },
        }
    }

    fn note_held(&mut self, rate: f64) {
        self.held = Some(rate);
        if let Some(confirming) = &mut self.confirming {
            confirming.left = confirming.left.saturating_sub(1);
        } else if self.is_close(rate) {
            self.confirming = Some(Confirming { rate, left: self.settings.confirmations });
        }
    }

    fn note_failed(&mut self, rate: f64) {
        self.failed = Some(rate);
        if self.confirming.is_some() {
            // What held below it may have been luck too: one tolerance down, which has to hold from the beginning.
            self.held = None;
            let lower = (rate * (1.0 - self.settings.tolerance)).max(self.settings.floor);
            self.confirming = Some(Confirming { rate: lower, left: self.settings.confirmations + 1 });
        } else if let Some(held) = self.held.filter(|held| self.is_close(*held)) {
            self.confirming = Some(Confirming { rate: held, left: self.settings.confirmations });
        }
    }

    /// Whether there is nothing more to find above a rate that held.
    fn is_close(&self, held: f64) -> bool {
        match self.failed {
            Some(failed) => failed - held <= self.settings.tolerance * held,
            None => held >= self.settings.ceiling,
        }
    }

    fn aim(&self) -> Aim {
        let SearchSettings { start, floor, ceiling, .. } = self.settings;
        if self.failed.is_some_and(|failed| failed <= floor) {
            return Aim::Nothing;
        }
        match (self.confirming, self.held, self.failed) {
            (Some(Confirming { rate, left: 0 }), ..) => Aim::Found(rate),
            (Some(Confirming { rate, .. }), ..) => Aim::Try(rate),
            (None, None, None) => Aim::Try(start),
            (None, Some(held), None) => Aim::Try((held * 2.0).min(ceiling)),
            (None, None, Some(failed)) => Aim::Try((failed / 2.0).max(floor)),
            (None, Some(held), Some(failed)) => Aim::Try(f64::midpoint(held, failed)),
        }
    }
}

/// What a window at a rate came to; its load must have kept its series. Requests sent last may have their answer as
/// long after the end as the limit allows.
pub fn window(rate: f64, measured: &LoadMeasured, grace: Duration) -> RateWindow {
    let lane = &measured.lane;
    let in_time: u64 = lane
        .series
        .iter()
        .filter(|tick| tick.start < measured.scheduled.saturating_add(grace))
        .map(|tick| tick.succeeded + tick.failed.values().sum::<u64>())
        .sum();
    let offered = lane.counts.offered;
    RateWindow {
        rate,
        p99: lane.latency.quantile(0.99),
        achieved_share: (offered > 0).then(|| in_time as f64 / offered as f64),
        failed_share: measured.failed_share(),
        disturbed: measured.is_disturbed(),
    }
}

/// What the search would do with windows and an undisturbed client without end.
enum Aim {
    Try(f64),
    Found(f64),
    Nothing,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{any, prop_assert, proptest};

    use super::{window as window_of, *};
    use crate::model::load::Tick;

    const P99: Duration = Duration::from_millis(20);

    fn settings(start: f64) -> SearchSettings {
        let limits = SustainLimits { p99: P99, failed_share: 0.0, achieved_share: 0.99 };
        SearchSettings::new(limits, start)
    }

    fn window(rate: f64, holds: bool) -> RateWindow {
        let p99 = Some(if holds { P99 / 2 } else { P99 * 2 });
        RateWindow { rate, p99, achieved_share: Some(1.0), failed_share: Some(0.0), disturbed: false }
    }

    fn disturbed(rate: f64) -> RateWindow {
        RateWindow { disturbed: true, ..window(rate, true) }
    }

    /// Runs a search against a service; returns its outcome and its windows.
    fn search(
        settings: SearchSettings,
        mut service: impl FnMut(f64) -> RateWindow,
    ) -> (SearchOutcome, Vec<RateWindow>) {
        let mut search = Search::new(settings);
        let mut windows = Vec::new();
        loop {
            match search.next() {
                Step::Run { rate } => {
                    assert!(windows.len() < settings.windows as usize, "bounded");
                    let window = service(rate);
                    windows.push(window);
                    search.observe(window);
                }
                Step::Done(outcome) => return (outcome, windows),
            }
        }
    }

    fn rates(windows: &[RateWindow]) -> Vec<f64> {
        windows.iter().map(|window| window.rate).collect()
    }

    #[test]
    fn answers_long_after_the_end_do_not_count_as_achieved() {
        let tick = |start_ms, succeeded| Tick {
            start: Duration::from_millis(start_ms),
            length: Duration::from_millis(100),
            succeeded,
            ..Tick::default()
        };
        let mut measured = LoadMeasured { scheduled: Duration::from_millis(200), ..LoadMeasured::default() };
        measured.lane.counts.offered = 100;
        measured.lane.series = vec![tick(0, 40), tick(100, 40), tick(200, 10), tick(300, 10)];
        let share = |grace| window_of(500.0, &measured, Duration::from_millis(grace)).achieved_share.unwrap();
        assert!((share(20) - 0.9).abs() < 1e-9);
        assert!((share(120) - 1.0).abs() < 1e-9);
        measured.lane.counts.offered = 0;
        assert_eq!(window_of(500.0, &measured, Duration::ZERO).achieved_share, None);
    }

    #[test]
    fn it_doubles_bisects_and_confirms() {
        let (outcome, windows) = search(settings(100.0), |rate| window(rate, rate <= 1000.0));
        let expected = [
            100.0, 200.0, 400.0, 800.0, 1600.0, // doubled until it fails
            1200.0, 1000.0, 1100.0, 1050.0, // bisected: 1000 held, 1050 did not
            1000.0, 1000.0, // confirmed
        ];
        assert_eq!(rates(&windows), expected);
        assert_eq!(outcome, SearchOutcome::Found { rate: 1000.0, fails_at: Some(1050.0) });
    }

    #[test]
    fn it_goes_down_when_the_start_is_too_much() {
        let (outcome, windows) = search(settings(1000.0), |rate| window(rate, rate <= 300.0));
        assert_eq!(rates(&windows)[..3], [1000.0, 500.0, 250.0]);
        let SearchOutcome::Found { rate, .. } = outcome else { panic!("{outcome:?}") };
        assert!(rate <= 300.0 && rate > 300.0 / 1.05, "{rate}");
    }

    #[test]
    fn a_service_beyond_the_ceiling_or_below_the_floor() {
        let (outcome, windows) = search(settings(1000.0), |rate| window(rate, true));
        assert_eq!(outcome, SearchOutcome::Found { rate: 1_000_000.0, fails_at: None });
        assert_eq!(rates(&windows[windows.len() - 3..]), [1_000_000.0; 3], "confirmed too");
        let (outcome, windows) = search(settings(100.0), |rate| window(rate, false));
        assert_eq!(outcome, SearchOutcome::NothingHolds { lowest: 1.0 });
        assert_eq!(windows.len(), 8);
    }

    #[test]
    fn a_failed_confirmation_steps_down_and_confirms_from_the_beginning() {
        let mut confirming = 0;
        let (outcome, windows) = search(settings(800.0), |rate| {
            // 1000 holds once, by luck.
            confirming += u32::from(rate.total_cmp(&1000.0).is_eq());
            window(rate, rate < 1000.0 || (rate <= 1000.0 && confirming <= 1))
        });
        assert_eq!(outcome, SearchOutcome::Found { rate: 950.0, fails_at: Some(1000.0) });
        let expected = [800.0, 1600.0, 1200.0, 1000.0, 1100.0, 1050.0, 1000.0, 950.0, 950.0, 950.0];
        assert_eq!(rates(&windows), expected);
    }

    #[test]
    fn a_disturbed_window_is_run_again_and_then_ends_the_search() {
        let mut left = 3;
        let (outcome, windows) = search(settings(800.0), |rate| {
            if rate > 1000.0 && left > 0 {
                left -= 1;
                return disturbed(rate);
            }
            window(rate, rate <= 1000.0)
        });
        assert_eq!(rates(&windows)[..5], [800.0, 1600.0, 1600.0, 1600.0, 1600.0]);
        assert_eq!(outcome, SearchOutcome::Found { rate: 1000.0, fails_at: Some(1050.0) });

        let (outcome, windows) =
            search(settings(800.0), |rate| if rate > 1000.0 { disturbed(rate) } else { window(rate, true) });
        assert_eq!(outcome, SearchOutcome::ClientLimit { at: 1600.0, held: Some(800.0) });
        assert_eq!(windows.len(), 5, "one and three repeats");
    }

    #[test]
    fn the_windows_are_bounded() {
        // Fails every confirmation but never the first window of a rate.
        let mut seen = Vec::new();
        let (outcome, windows) = search(settings(1_000_000.0), |rate| {
            let is_new = !seen.contains(&rate.to_bits());
            seen.push(rate.to_bits());
            window(rate, is_new)
        });
        assert!(matches!(outcome, SearchOutcome::Unfinished { .. }), "{outcome:?}");
        assert_eq!(windows.len(), 64);
    }

    #[test]
    fn a_window_of_another_rate_counts_for_nothing() {
        let mut search = Search::new(settings(100.0));
        search.observe(window(50.0, false));
        assert_eq!(search.next(), Step::Run { rate: 100.0 });
        assert_eq!(search.outcome_if_ended(), SearchOutcome::Unfinished { held: None });
        search.observe(window(100.0, true));
        assert_eq!(search.outcome_if_ended(), SearchOutcome::Unfinished { held: Some(100.0) });
    }

    proptest! {
        #[test]
        fn a_steady_service_is_found_to_within_the_tolerance(
            capacity in 2.0..500_000.0_f64,
            start in 1.0..500_000.0_f64,
            tolerance in 0.01..0.3_f64,
        ) {
            let settings = SearchSettings { tolerance, ..settings(start) };
            let (outcome, _) = search(settings, |rate| window(rate, rate <= capacity));
            let SearchOutcome::Found { rate, .. } = outcome else { panic!("{outcome:?}") };
            prop_assert!(rate <= capacity && rate >= capacity / (1.0 + tolerance), "{rate} of {capacity}");
        }

        #[test]
        fn a_rate_is_reported_only_after_its_confirmations(
            start in 1.0..10_000.0_f64,
            luck in proptest::collection::vec(any::<(bool, bool)>(), 64),
        ) {
            let mut luck = luck.into_iter();
            let (outcome, windows) = search(settings(start), |rate| match luck.next().unwrap() {
                (true, true) => disturbed(rate),
                (holds, _) => window(rate, holds),
            });
            if let SearchOutcome::Found { rate, fails_at } = outcome {
                let limits = settings(start).limits;
                let of_rate: Vec<&RateWindow> = windows
                    .iter()
                    .filter(|window| window.rate.total_cmp(&rate).is_eq() && !window.disturbed)
                    .collect();
                prop_assert!(of_rate.len() >= 3, "one found it and two confirmed it: {of_rate:?}");
                prop_assert!(of_rate.iter().all(|window| limits.shortfall(window).is_none()));
                prop_assert!(fails_at.is_none_or(|failed| failed > rate));
            }
        }

        #[test]
        fn a_service_with_noise_near_its_capacity_is_not_overstated(
            capacity in 50.0..50_000.0_f64,
            noise in proptest::collection::vec(0.9..1.1_f64, 64),
        ) {
            let mut noise = noise.into_iter();
            let (outcome, windows) =
                search(settings(100.0), |rate| window(rate, rate <= capacity * noise.next().unwrap()));
            if let SearchOutcome::Found { rate, .. } = outcome {
                prop_assert!(rate <= capacity * 1.1);
                prop_assert!(windows.iter().rev().take(2).all(|window| window.rate.total_cmp(&rate).is_eq()));
            }
        }
    }
}
