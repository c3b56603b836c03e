//! The highest rate at which an arm keeps its p99 below a limit, searched with short windows.

use std::time::{Duration, Instant};

use super::{
    Arms, Context, SessionError, epoch,
    ready::{self, Health},
};
use crate::{
    load::{
        self, Lane, Slot, Tuning,
        saturation::{self, Search, SearchSettings, Step},
    },
    model::{
        event::Event,
        load::{Pacing, Precision},
        load_report::{RateWindow, SearchOutcome, SustainLimits},
        settings::LoadSettings,
    },
};

/// One window of a search.
pub(super) const WINDOW: Duration = Duration::from_millis(500);
/// Windows of a search at most: five to double from the first rate, five to bisect to within the tolerance, and some
/// to be confirmed or run again.
pub(super) const MOST_WINDOWS: u32 = 16;
/// What a search usually needs, for estimates.
pub(super) const USUAL_WINDOWS: u32 = 12;
/// Fewer requests in a window have no p99 worth the name.
const LOWEST_RATE: f64 = 20.0;
/// The first rate of the first search is so many times the session's own, which every arm is expected to keep.
const FIRST_RATE: f64 = 4.0;
/// Of the requests of a window, those that must have an outcome in time.
const ACHIEVED_SHARE: f64 = 0.99;
/// A request of a search is given up after so many times the limit, or this, whichever is more: a rate far beyond
/// the arm's then ends soon.
const TIMEOUT_LIMITS: u32 = 4;
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);

/// The rate that the first search of an arm begins with.
pub(super) fn first_rate(load: &LoadSettings) -> f64 {
    load.rate_per_second * FIRST_RATE
}

/// Searches one arm's highest rate, from `start` on. `None` when no rate held in all of its windows, or the client
/// came to its own limit first.
///
/// # Errors
/// When the load cannot be sent.
pub(super) async fn search(
    context: &Context,
    arms: &mut Arms,
    index: usize,
    p99: Duration,
    start: f64,
) -> Result<Option<f64>, SessionError> {
    let lane = epoch::lane(context, arms, index);
    let health = Health::new()?;
    let limits = SustainLimits { p99, failed_share: 0.0, achieved_share: ACHIEVED_SHARE };
    let mut search = Search::new(settings(limits, start));
    let mut held = true;
    loop {
        let rate = match search.next() {
            Step::Run { rate } => rate,
            Step::Done(outcome) => {
                if let Some(reason) = why_none(&outcome) {
                    context.tell(Event::Warning(format!("{}: no throughput: {reason}", lane.name)));
                }
                return Ok(found(&outcome));
            }
        };
        // What a rate beyond the arm's left undone would be held against the next one.
        if !held && !answers_again(context, arms, index, &health).await {
            let text = format!("{}: no throughput: it does not answer after {rate:.0}/s", lane.name);
            context.tell(Event::Warning(text));
            return Ok(None);
        }
        context.tell(Event::ArmSearching { arm: lane.name.clone(), rate });
        let window = run_window(context, &lane, rate, &limits).await?;
        held = limits.shortfall(&window).is_none();
        search.observe(window);
    }
}

fn settings(limits: SustainLimits, start: f64) -> SearchSettings {
    SearchSettings {
        floor: LOWEST_RATE.min(start),
        confirmations: 1,
        windows: MOST_WINDOWS,
        ..SearchSettings::new(limits, start)
    }
}

/// A rate that held once may be luck, so only a confirmed one counts.
fn found(outcome: &SearchOutcome) -> Option<f64> {
    match outcome {
        SearchOutcome::Found { rate, .. } => Some(*rate),
        SearchOutcome::NothingHolds { .. }
        | SearchOutcome::ClientLimit { .. }
        | SearchOutcome::Unfinished { .. } => None,
    }
}

fn why_none(outcome: &SearchOutcome) -> Option<String> {
    match outcome {
        SearchOutcome::Found { .. } => None,
        SearchOutcome::NothingHolds { lowest } => Some(format!("not even {lowest:.0}/s held")),
        SearchOutcome::ClientLimit { at, .. } => {
            Some(format!("the client came to its own limit at {at:.0}/s"))
        }
        SearchOutcome::Unfinished { .. } => Some(format!("none was confirmed in {MOST_WINDOWS} windows")),
    }
}

async fn answers_again(context: &Context, arms: &mut Arms, index: usize, health: &Health) -> bool {
    let deadline = Instant::now() + context.load.ready_timeout;
    let (_, runtime) = arms.arm_and_runtime(index);
    ready::all_answer(runtime, &context.workload, health, deadline).await.is_some()
}

async fn run_window(
    context: &Context,
    lane: &Lane,
    rate: f64,
    limits: &SustainLimits,
) -> Result<RateWindow, SessionError> {
    let load = &context.load;
    let plan = load::Plan {
        connections: load.connections,
        connection_use: load.connection_use,
        timeout: load.timeout.min((limits.p99 * TIMEOUT_LIMITS).max(LEAST_TIMEOUT)),
        // Anything more exact takes a core of its own at such rates, which the arm would lack.
        tuning: Tuning { precision: Precision::Eco, ..Tuning::default() },
        series: true,
        ..load::Plan::new(Pacing::constant(rate), vec![Slot { lane: 0, length: WINDOW }])
    };
    let measured = load::run(plan, vec![lane.clone()], context.stop.clone()).await?;
    let measured = measured.into_last_lane();
    let own_lag = measured.client.own_lag.quantile(0.99);
    Ok(blamed(saturation::window(rate, &measured, limits.p99), limits, own_lag))
}

/// The window, disturbed only where the client may be why it does not hold. Its own lag is part of every latency: a
/// rate that held in spite of it held, and one whose p99 is beyond the limit by more than that lag fails by itself.
/// Without this a service that fills all cores, the client's too, would have no highest rate.
fn blamed(window: RateWindow, limits: &SustainLimits, own_lag_p99: Option<Duration>) -> RateWindow {
    let is_its_own = own_lag_p99.zip(window.p99).is_some_and(|(lag, p99)| p99 >= limits.p99 + lag);
    let holds = limits.shortfall(&window).is_none();
    RateWindow { disturbed: window.disturbed && !holds && !is_its_own, ..window }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P99: Duration = Duration::from_millis(50);

    /// Searches a service that keeps the limit up to a capacity; gives what was found and the windows run.
    fn search_of(capacity: f64, start: f64) -> (Option<f64>, u32) {
        let limits = SustainLimits { p99: P99, failed_share: 0.0, achieved_share: ACHIEVED_SHARE };
        let mut search = Search::new(settings(limits, start));
        let mut windows = 0;
        loop {
            match search.next() {
                Step::Done(outcome) => return (found(&outcome), windows),
                Step::Run { rate } => {
                    windows += 1;
                    let p99 = Some(if rate <= capacity { P99 / 2 } else { P99 * 2 });
                    let (achieved_share, failed_share) = (Some(1.0), Some(0.0));
                    search.observe(RateWindow { rate, p99, achieved_share, failed_share, disturbed: false });
                }
            }
        }
    }

    #[test]
    fn the_windows_suffice_from_four_times_the_rate_to_a_hundred_times_it() {
        for capacity in [100.0, 900.0, 5_000.0, 20_000.0] {
            let (found, windows) = search_of(capacity, 800.0);
            let found = found.unwrap();
            assert!(found <= capacity && found > capacity / 1.06, "{found} of {capacity}");
            assert!(windows <= MOST_WINDOWS, "{windows}");
        }
    }

    #[test]
    fn from_the_rate_of_the_epoch_before_it_is_shorter() {
        let (_, anew) = search_of(5_000.0, 800.0);
        for drift in [0.9, 1.0, 1.1] {
            let (found, windows) = search_of(5_000.0 * drift, 5_000.0);
            assert!(found.is_some() && windows < anew, "{windows} and {anew}");
        }
    }

    #[test]
    fn the_client_is_blamed_only_for_what_it_may_have_done() {
        let limits = SustainLimits { p99: P99, failed_share: 0.0, achieved_share: ACHIEVED_SHARE };
        let window = |ms| RateWindow {
            rate: 900.0,
            p99: Some(Duration::from_millis(ms)),
            achieved_share: Some(1.0),
            failed_share: Some(0.0),
            disturbed: true,
        };
        let lag = Some(Duration::from_millis(10));
        let is_disturbed = |window, lag| blamed(window, &limits, lag).disturbed;
        assert!(!is_disturbed(window(49), lag), "it held all the same");
        assert!(is_disturbed(window(59), lag), "50 ms and the client's 10 may be 59");
        assert!(!is_disturbed(window(60), lag));
        assert!(is_disturbed(window(60), None), "a lag that is not known may be any");
        assert!(is_disturbed(RateWindow { failed_share: Some(0.1), ..window(49) }, lag));
        assert!(!is_disturbed(RateWindow { disturbed: false, ..window(59) }, lag));
    }

    #[test]
    fn what_is_not_confirmed_is_no_figure() {
        let rate = Some(900.0);
        for outcome in [
            SearchOutcome::ClientLimit { at: 1000.0, held: rate },
            SearchOutcome::Unfinished { held: rate },
            SearchOutcome::NothingHolds { lowest: 20.0 },
        ] {
            assert!(found(&outcome).is_none() && why_none(&outcome).is_some(), "{outcome:?}");
        }
        let outcome = SearchOutcome::Found { rate: 900.0, fails_at: None };
        assert!(found(&outcome).is_some() && why_none(&outcome).is_none());
    }
}
