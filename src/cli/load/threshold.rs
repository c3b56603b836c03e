//! The grammar of `--threshold` and `--find-max`.
//!
//! ```text
//! threshold = ("p50" | "p90" | "p95" | "p99" | "p99.9" | "max" | "mean" | "gap") ("<" | "<=") time
//!           | "errors" ("<" | "<=") (number "%" | number)
//!           | "throughput" (">" | ">=") number "/s"
//! find-max  = "p99<" time ["," "errors" ("<" | "<=") number "%"]
//! ```

use std::{str::FromStr, time::Duration};

use crate::model::{
    load_report::{Bound, LatencyFigure, LoadFigure, LoadThreshold, SustainLimits},
    units::parse_duration,
};

/// Of the requests of a window, those that must have an outcome in time.
const ACHIEVED_SHARE: f64 = 0.99;

/// Reads one threshold.
pub(super) fn parse(text: &str) -> Result<LoadThreshold, String> {
    let (name, bound, limit) = parts(text)?;
    let is_upper = matches!(bound, Bound::Below | Bound::AtMost);
    let (figure, limit) = match name {
        "errors" => errors(limit)?,
        "throughput" => (LoadFigure::Throughput, throughput(limit)?),
        "gap" => (LoadFigure::LongestGap, seconds(limit)?),
        _ => (LoadFigure::Latency(latency(name)?), seconds(limit)?),
    };
    match (figure, is_upper) {
        (LoadFigure::Throughput, true) => {
            Err("throughput has a lower limit, as in 'throughput>=950/s'".to_owned())
        }
        (_, true) if bound == Bound::Below && limit <= 0.0 => Err(format!("{name} is never below 0: use <=")),
        (LoadFigure::Throughput, false) | (_, true) => Ok(LoadThreshold { figure, bound, limit }),
        (_, false) => Err(format!("{name} has an upper limit: use < or <=")),
    }
}

/// What `--find-max` searches for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MaxSearch {
    /// What a window must hold.
    pub(super) limits: SustainLimits,
}

impl FromStr for MaxSearch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut limits =
            SustainLimits { p99: Duration::ZERO, failed_share: 0.0, achieved_share: ACHIEVED_SHARE };
        for part in text.split(',') {
            let threshold = parse(part)?;
            match (threshold.figure, threshold.bound) {
                (LoadFigure::Latency(LatencyFigure::P99), Bound::Below) => {
                    limits.p99 = Duration::from_secs_f64(threshold.limit);
                }
                (LoadFigure::FailedShare, _) => limits.failed_share = threshold.limit,
                _ => return Err("what is searched for is 'p99<20ms' or 'p99<20ms,errors<0.1%'".to_owned()),
            }
        }
        if limits.p99.is_zero() {
            return Err("it needs a limit of p99, as in 'p99<20ms'".to_owned());
        }
        Ok(Self { limits })
    }
}

fn parts(text: &str) -> Result<(&str, Bound, &str), String> {
    let at = text.find(['<', '>']).ok_or("a threshold is a figure, < or > and a limit, as in 'p99<20ms'")?;
    let (name, rest) = text.split_at(at);
    let signs = [("<=", Bound::AtMost), (">=", Bound::AtLeast), ("<", Bound::Below), (">", Bound::Above)];
    let found = signs.into_iter().find_map(|(sign, bound)| Some((bound, rest.strip_prefix(sign)?)));
    // The first character is one of the signs.
    let (bound, limit) = found.unwrap_or((Bound::Below, rest));
    Ok((name.trim(), bound, limit.trim()))
}

fn latency(name: &str) -> Result<LatencyFigure, String> {
    LatencyFigure::ALL.into_iter().find(|figure| figure.name() == name).ok_or_else(|| {
        let names = LatencyFigure::ALL.map(LatencyFigure::name).join(", ");
        format!("thresholds are on {names}, gap, errors and throughput")
    })
}

fn seconds(text: &str) -> Result<f64, String> {
    let time = parse_duration(text).map(|time| time.as_secs_f64());
    time.ok_or_else(|| "its limit is a time with a unit, such as 20ms or 1s".to_owned())
}

fn errors(text: &str) -> Result<(LoadFigure, f64), String> {
    let usage = "errors have a limit as a share, 0.1%, or as a number of requests, 0";
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent = number(percent).filter(|percent| *percent <= 100.0).ok_or(usage)?;
            Ok((LoadFigure::FailedShare, percent / 100.0))
        }
        None => {
            let number = text.parse::<u32>().map_err(|_| usage)?;
            Ok((LoadFigure::Failed, f64::from(number)))
        }
    }
}

fn throughput(text: &str) -> Result<f64, String> {
    let rate = text.strip_suffix("/s").and_then(number);
    rate.ok_or_else(|| "throughput has a limit per second, as in 950/s".to_owned())
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_threshold_is_read() {
        use LatencyFigure as Of;
        let table = [
            ("p50<5ms", LoadFigure::Latency(Of::P50), Bound::Below, 0.005),
            ("p90<=5ms", LoadFigure::Latency(Of::P90), Bound::AtMost, 0.005),
            ("p95<5ms", LoadFigure::Latency(Of::P95), Bound::Below, 0.005),
            ("p99 < 20ms", LoadFigure::Latency(Of::P99), Bound::Below, 0.020),
            ("p99.9<1s", LoadFigure::Latency(Of::P999), Bound::Below, 1.0),
            ("max<=2s", LoadFigure::Latency(Of::Max), Bound::AtMost, 2.0),
            ("mean<500us", LoadFigure::Latency(Of::Mean), Bound::Below, 0.0005),
            ("errors<0.1%", LoadFigure::FailedShare, Bound::Below, 0.001),
            ("errors<=0", LoadFigure::Failed, Bound::AtMost, 0.0),
            ("throughput>=950/s", LoadFigure::Throughput, Bound::AtLeast, 950.0),
            ("throughput>0.5/s", LoadFigure::Throughput, Bound::Above, 0.5),
            ("gap<1s", LoadFigure::LongestGap, Bound::Below, 1.0),
        ];
        for (text, figure, bound, limit) in table {
            let threshold = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((threshold.figure, threshold.bound), (figure, bound), "{text}");
            assert!((threshold.limit - limit).abs() < 1e-12, "{text}");
        }
    }

    #[test]
    fn what_is_no_threshold_is_refused() {
        let bad = [
            "",
            "p99",
            "p99<",
            "p99<20",
            "p99=20ms",
            "p99>20ms",
            "p98<20ms",
            "P99<20ms",
            "errors>1%",
            "errors<101%",
            "errors<-1",
            "errors<0.5",
            "errors<x%",
            "throughput<950/s",
            "throughput>=950",
            "throughput>=NaN/s",
            "gap>1s",
            "gap<1",
            "<20ms",
            "p99<<20ms",
            "errors<0",
            "errors<0%",
            "p99<0s",
        ];
        for text in bad {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_search_has_its_limits() {
        let limits = |text: &str| text.parse::<MaxSearch>().map(|search| search.limits);
        let plain = limits("p99<20ms").unwrap();
        assert_eq!((plain.p99, plain.failed_share), (Duration::from_millis(20), 0.0));
        let some_may_fail = limits("p99<20ms,errors<0.1%").unwrap();
        assert!((some_may_fail.failed_share - 0.001).abs() < 1e-12);
        for bad in ["", "p95<20ms", "p99<=20ms", "errors<1%", "p99<0ms", "p99<20ms,errors<=0", "p99<20ms,"] {
            assert!(limits(bad).is_err(), "{bad}");
        }
    }
}
