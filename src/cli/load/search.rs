//! Runs the windows of a search for the highest rate.

use std::io::{self, IsTerminal as _};

use tokio::sync::watch;

use super::{LoadArgs, LoadCliError, Target, one_load, shape::RateShape, threshold::MaxSearch};
use crate::{
    cli::tell,
    load::saturation::{self, Search, SearchSettings, Step},
    model::{
        load::{Arrivals, Pacing, Shape},
        load_report::{LoadMeasured, SearchReport},
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
        let window = saturation::window(rate, &measured, asked.limits.p99);
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
