//! A load as it runs, in one line on stderr; nothing when that is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    load_words,
    words::{NOTHING, count},
};
use crate::model::{
    load_report::{RateWindow, SustainLimits},
    units::format_duration,
};

/// What the line shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct LiveFigures {
    /// Since the start.
    pub elapsed: Duration,
    /// Requests sent a second, lately.
    pub sent_per_second: f64,
    /// Median latency of the last whole second.
    pub p50: Option<Duration>,
    /// 99th percentile of it.
    pub p99: Option<Duration>,
    /// Failures so far.
    pub failed: u64,
    /// Sent and without an outcome.
    pub under_way: u64,
}

/// The line.
#[derive(Debug)]
pub struct LiveLine {
    bar: ProgressBar,
    total: Duration,
}

impl LiveLine {
    /// A line for a load of that length.
    pub fn new(is_terminal: bool, total: Duration) -> Self {
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(millis(total)), target);
        let style = ProgressStyle::with_template("[{bar:20}] {msg}");
        bar.set_style(style.expect("the template is a constant").progress_chars("=> "));
        Self { bar, total }
    }

    /// Shows the figures of now.
    pub fn show(&self, figures: &LiveFigures) {
        self.bar.set_position(millis(figures.elapsed.min(self.total)));
        self.bar.set_message(text(figures, self.total));
    }

    /// Leaves no trace.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A line about a window of a search that is over.
pub fn searched(window: &RateWindow, limits: &SustainLimits) -> String {
    let p99 = window.p99.map_or_else(|| NOTHING.to_owned(), format_duration);
    format!("{} requests/s: p99 {p99}, {}", load_words::rate(window.rate), load_words::window(window, limits))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn text(figures: &LiveFigures, total: Duration) -> String {
    let time = |figure: Option<Duration>| figure.map_or_else(|| NOTHING.to_owned(), format_duration);
    let decimals = usize::from(total < Duration::from_secs(10));
    format!(
        "{:.decimals$}/{:.decimals$} s · {} sent/s · p50 {} p99 {} · {} failed · {} under way",
        figures.elapsed.as_secs_f64(),
        total.as_secs_f64(),
        count(figures.sent_per_second.round() as u64),
        time(figures.p50),
        time(figures.p99),
        count(figures.failed),
        count(figures.under_way),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_unknown() {
        let figures = LiveFigures {
            elapsed: Duration::from_millis(2600),
            sent_per_second: 1999.6,
            failed: 1200,
            under_way: 3,
            ..LiveFigures::default()
        };
        assert_eq!(
            text(&figures, Duration::from_secs(10)),
            "3/10 s · 2,000 sent/s · p50 – p99 – · 1,200 failed · 3 under way"
        );
        assert!(text(&figures, Duration::from_secs(4)).starts_with("2.6/4.0 s"));
    }

    #[test]
    fn a_window_says_how_it_went() {
        let limits =
            SustainLimits { p99: Duration::from_millis(20), failed_share: 0.0, achieved_share: 0.99 };
        let window = RateWindow {
            rate: 1600.0,
            p99: Some(Duration::from_millis(25)),
            achieved_share: Some(1.0),
            failed_share: Some(0.0),
            disturbed: false,
        };
        assert_eq!(searched(&window, &limits), "1,600 requests/s: p99 25.00ms, too slow");
    }

    #[test]
    fn without_a_terminal_there_is_no_line() {
        let line = LiveLine::new(false, Duration::from_secs(1));
        line.show(&LiveFigures::default());
        assert!(line.bar.is_hidden());
        line.finish();
    }
}
