//! Figures in words that people read.

use std::time::Duration;

use crate::model::{
    scenario::Figure,
    units::{Bytes, format_duration},
    verdict::{Metric, Quantity},
};

/// Stands where there is nothing to print.
pub(super) const NOTHING: &str = "–";

pub(super) fn quantity(quantity: Option<&Quantity>) -> String {
    match quantity {
        Some(Quantity::Seconds(value)) => seconds(*value),
        Some(Quantity::Bytes(value)) => Bytes(*value as u64).to_string(),
        Some(Quantity::Count(value)) => format!("{} failed", count(*value as u64)),
        Some(Quantity::CpuMs(value)) => format!("{value:.1} ms"),
        Some(Quantity::PerSecond(value)) => format!("{}/s", count(value.round() as u64)),
        Some(Quantity::PerHour(value)) => format!("{} an hour", change(*value)),
        None => NOTHING.to_owned(),
    }
}

pub(super) fn seconds(value: f64) -> String {
    Duration::try_from_secs_f64(value).map_or_else(|_| NOTHING.to_owned(), format_duration)
}

/// A relative change with its sign; what rounds to nothing has none.
pub(super) fn change(share: f64) -> String {
    let percent = share * 100.0;
    if percent.abs() < 0.05 { "0.0%".to_owned() } else { format!("{percent:+.1}%") }
}

/// An estimate with its interval, as the metric itself changes: what is judged by how much less it has is turned.
pub(super) fn changes(metric: Metric, [estimate, low, high]: [f64; 3]) -> [String; 3] {
    let turned = if metric.more_is_better() { [-estimate, -high, -low] } else { [estimate, low, high] };
    turned.map(change)
}

/// The largest change allowed.
pub(super) fn limit(metric: Metric, limit: f64) -> String {
    change(if metric.more_is_better() { -limit } else { limit })
}

/// A whole number with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Failed requests with the number they were counted among and the bound on their rate.
pub(super) fn rate(events: u64, trials: u64, upper_bound: f64, confidence: f64) -> String {
    let bound = if upper_bound < 1.0 {
        format!("< {}", bound(upper_bound))
    } else {
        "no bound below 100%".to_owned()
    };
    format!("{} of {} ({bound} at {}%)", count(events), count(trials), confidence * 100.0)
}

/// An upper bound as a percentage of two digits, rounded up so that it stays a bound.
pub(super) fn bound(share: f64) -> String {
    let percent = share * 100.0;
    if percent.is_nan() || percent <= 0.0 {
        return NOTHING.to_owned();
    }
    let decimals = (1.0 - percent.log10().floor()).clamp(0.0, 12.0);
    let scale = 10_f64.powf(decimals);
    format!("{:.*}%", decimals as usize, (percent * scale).ceil() / scale)
}

/// A scenario's figure in its own unit.
pub(super) fn figure(figure: Figure, value: f64) -> String {
    match figure {
        Figure::OnlineShare | Figure::NewReleaseShare | Figure::ReplacedShare => {
            format!("{}%", (value * 1000.0).floor() / 10.0)
        }
        // A rate of zero is not a measurement of zero: how many requests there were is another figure.
        Figure::ErrorRate if value == 0.0 => "none seen".to_owned(),
        Figure::ErrorRate => bound(value),
        Figure::Requests | Figure::Errors | Figure::ErrorsAfterRetry | Figure::OverOneSecond => {
            if value.fract() == 0.0 && value >= 0.0 { count(value as u64) } else { format!("{value:.1}") }
        }
        Figure::ReadySeconds
        | Figure::LongestGapSeconds
        | Figure::MaxLatencySeconds
        | Figure::P99BeforeSeconds
        | Figure::P99DuringSeconds
        | Figure::P99AfterSeconds
        | Figure::ReloadSeconds
        | Figure::RespawnSeconds
        | Figure::ServeSeconds => seconds(value),
    }
}

/// Text from a record on one line, without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The middle of the usable values.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(f64::midpoint(*sorted.get((sorted.len() - 1) / 2)?, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_requests_come_with_their_bound() {
        assert_eq!(rate(0, 4_000, 0.000_748_658, 0.95), "0 of 4,000 (< 0.075% at 95%)");
        assert_eq!(rate(0, 2_995, 0.000_999_743, 0.95), "0 of 2,995 (< 0.100% at 95%)");
        assert_eq!(rate(3, 20, 0.3436, 0.95), "3 of 20 (< 35% at 95%)");
        assert_eq!(rate(5, 5, 1.0, 0.95), "5 of 5 (no bound below 100% at 95%)");
        assert_eq!(figure(Figure::ErrorRate, 0.0), "none seen");
        assert_eq!(figure(Figure::ErrorRate, 0.0123), "1.3%");
    }

    #[test]
    fn a_share_is_never_rounded_up_to_all() {
        assert_eq!(figure(Figure::OnlineShare, 1.0), "100%");
        assert_eq!(figure(Figure::OnlineShare, 0.9999), "99.9%");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(
            (change(0.051), change(-0.2), change(-0.0001)),
            ("+5.1%".into(), "-20.0%".into(), "0.0%".into())
        );
        assert_eq!(seconds(f64::NAN), NOTHING);
        assert_eq!(seconds(-1.0), NOTHING);
        assert_eq!(quantity(Some(&Quantity::Bytes(52_428_800.0))), "50.0 MiB");
        assert_eq!(quantity(Some(&Quantity::CpuMs(401.26))), "401.3 ms");
    }

    #[test]
    fn a_terminal_obeys_no_record() {
        assert_eq!(plain("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
    }

    #[test]
    fn the_middle_of_usable_values() {
        assert_eq!(median([3.0, 1.0, f64::NAN, 2.0]), Some(2.0));
        assert_eq!(median([]), None);
    }
}
