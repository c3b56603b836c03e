//! Runs the windows of a search for the highest rate.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use tokio::sync::watch;

use super::{LoadArgs, LoadCliError, Target, one_load, shape::RateShape, threshold::MaxSearch};
use crate::{
    cli::tell,
    load::saturation::{Search, SearchSettings, Step},
    model::{
        load::{Arrivals, Pacing, Shape},
        load_report::{LoadMeasured, RateWindow, SearchReport},
    },
    report,
};

/// Searches; returns the figures of the last window, too.
///
/// # Errors
/// When the rate to begin with is none, or a window cannot be run.
pub(super) async fn run(
    args: &LoadArgs,
    asked: MaxSearch,
    target: &Target,
    stop: &watch::Receiver<bool>,
) -> Result<(LoadMeasured, SearchReport), LoadCliError> {
    let RateShape::Constant(start) = args.rate() else {
        return Err(LoadCliError::option(
            "a search begins at one rate, and --rate is a shape",
            "give --rate as a number",
        ));
    };
    let mut search = Search::new(SearchSettings::new(asked.limits, start));
    let mut windows = Vec::new();
    let mut last = (start, LoadMeasured::default());
    while let Step::Run { rate } = search.next() {
        let arrivals = args.poisson_seed().map_or(Arrivals::Even, |seed| Arrivals::Poisson { seed });
        let shape = Shape::constant(rate);
        let (measured, _) = one_load(args, Pacing::Open { shape, arrivals }, target, stop, None).await?;
        let window = window(rate, &measured, asked.limits.p99);
        if *stop.borrow() {
            // A window cut short is no window, but better than no figures at all.
            if windows.is_empty() {
                last = (rate, measured);
            }
            break;
        }
        last = (rate, measured);
        if io::stderr().is_terminal() {
            tell(&report::live::searched(&window, &asked.limits));
        }
        search.observe(window);
        windows.push(window);
    }
    let (figures_of_rate, measured) = last;
    let outcome = search.outcome_if_ended();
    Ok((measured, SearchReport { limits: asked.limits, windows, outcome, figures_of_rate }))
}

/// What a window came to. Requests sent last may have their answer as long after the end as the limit allows.
fn window(rate: f64, measured: &LoadMeasured, grace: Duration) -> RateWindow {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::load::Tick;

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
        let share = |grace| window(500.0, &measured, Duration::from_millis(grace)).achieved_share.unwrap();
        assert!((share(20) - 0.9).abs() < 1e-9);
        assert!((share(120) - 1.0).abs() < 1e-9);
        measured.lane.counts.offered = 0;
        assert_eq!(window(500.0, &measured, Duration::ZERO).achieved_share, None);
    }
}
