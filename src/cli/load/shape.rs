//! The grammar of `--rate`.
//!
//! ```text
//! rate   = number | "ramp:" number ".." number ["/" time] | "steps:" step *("," step)
//!        | "spike:" number "," number "@" time "+" time | "sine:" number "," number "," time
//! step   = number "@" time
//! ```
//!
//! Numbers are requests per second, times have a unit.

use std::{str::FromStr, time::Duration};

use crate::model::{
    load::{Shape, Stage},
    units::{format_duration, parse_duration},
};

/// More steps are a mistake rather than a plan.
const MOST_STEPS: usize = 1000;

/// A rate over time, as asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RateShape {
    /// One rate.
    Constant(f64),
    /// From one rate to another.
    Ramp {
        /// At its beginning.
        from: f64,
        /// At its end.
        to: f64,
        /// `None` for the whole load.
        length: Option<Duration>,
    },
    /// One rate after another.
    Steps(Vec<(f64, Duration)>),
    /// A higher rate for a while.
    Spike {
        /// Before and after.
        base: f64,
        /// In between.
        peak: f64,
        /// When it begins.
        begin: Duration,
        /// How long it is.
        length: Duration,
    },
    /// Up and down around a mean.
    Sine {
        /// The rate in the middle.
        mean: f64,
        /// At most `mean`.
        amplitude: f64,
        /// From one rise through the mean to the next.
        period: Duration,
    },
}

impl RateShape {
    /// Its own length, when it has one. A spike is followed by as much time as there was before it.
    pub(super) fn length(&self) -> Option<Duration> {
        match self {
            Self::Constant(_) => None,
            Self::Ramp { length, .. } => *length,
            Self::Steps(steps) => {
                Some(steps.iter().fold(Duration::ZERO, |sum, (_, length)| sum.saturating_add(*length)))
            }
            Self::Spike { begin, length, .. } => Some(begin.saturating_mul(2).saturating_add(*length)),
            Self::Sine { period, .. } => Some(*period),
        }
    }

    /// The shape of a load of that length.
    ///
    /// # Errors
    /// When the load would end before the shape does: what was asked for would not happen.
    pub(super) fn over(&self, duration: Duration) -> Result<Shape, String> {
        let flat = |rate, length| Stage { from: rate, to: rate, length };
        let (needed, shape) = match self {
            Self::Constant(rate) => (Duration::ZERO, Shape::constant(*rate)),
            Self::Ramp { from, to, length } => {
                let length = length.unwrap_or(duration);
                (length, Shape::Stages(vec![Stage { from: *from, to: *to, length }]))
            }
            Self::Steps(steps) => (
                self.length().unwrap_or_default(),
                Shape::Stages(steps.iter().map(|(rate, length)| flat(*rate, *length)).collect()),
            ),
            Self::Spike { base, peak, begin, length } => (
                begin.saturating_add(*length),
                Shape::Stages(vec![
                    flat(*base, *begin),
                    flat(*peak, *length),
                    flat(*base, duration.saturating_sub(begin.saturating_add(*length))),
                ]),
            ),
            Self::Sine { mean, amplitude, period } => {
                (Duration::ZERO, Shape::Sine { mean: *mean, amplitude: *amplitude, period: *period })
            }
        };
        if needed > duration {
            return Err(format!(
                "the rate's shape takes {}, and the load only {}",
                format_duration(needed),
                format_duration(duration)
            ));
        }
        Ok(shape)
    }
}

impl FromStr for RateShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((kind, rest)) = text.split_once(':') else { return rate(text).map(Self::Constant) };
        match kind {
            "ramp" => ramp(rest),
            "steps" => steps(rest),
            "spike" => spike(rest),
            "sine" => sine(rest),
            _ => Err("a rate is a number, or begins with ramp:, steps:, spike: or sine:".to_owned()),
        }
    }
}

fn ramp(text: &str) -> Result<RateShape, String> {
    let usage = "a ramp is ramp:100..1000 or ramp:100..1000/30s";
    let (rates, length) = match text.split_once('/') {
        Some((rates, length)) => (rates, Some(time(length)?)),
        None => (text, None),
    };
    let (from, to) = rates.split_once("..").ok_or(usage)?;
    let (from, to) = (rate_or_zero(from)?, rate_or_zero(to)?);
    if from <= 0.0 && to <= 0.0 {
        return Err(format!("{usage}: one of its rates is above 0"));
    }
    Ok(RateShape::Ramp { from, to, length })
}

fn steps(text: &str) -> Result<RateShape, String> {
    let step = |text: &str| {
        let (rate, length) = text.split_once('@').ok_or("a step is a rate and a time, as in 100@10s")?;
        Ok((rate_or_zero(rate)?, time(length)?))
    };
    let steps = text.split(',').map(step).collect::<Result<Vec<_>, String>>()?;
    if steps.len() > MOST_STEPS {
        return Err(format!("there are at most {MOST_STEPS} steps"));
    }
    if steps.iter().all(|(rate, _)| *rate <= 0.0) {
        return Err("one of the steps is above 0".to_owned());
    }
    Ok(RateShape::Steps(steps))
}

fn spike(text: &str) -> Result<RateShape, String> {
    let usage = "a spike is spike:100,1000@20s+5s: the rate, the peak, when it begins and how long it is";
    let (base, rest) = text.split_once(',').ok_or(usage)?;
    let (peak, rest) = rest.split_once('@').ok_or(usage)?;
    let (begin, length) = rest.split_once('+').ok_or(usage)?;
    Ok(RateShape::Spike {
        base: rate_or_zero(base)?,
        peak: rate(peak)?,
        begin: time(begin)?,
        length: time(length)?,
    })
}

fn sine(text: &str) -> Result<RateShape, String> {
    let parts: Vec<&str> = text.split(',').collect();
    let [mean, amplitude, period] = parts.as_slice() else {
        return Err(
            "a sine is sine:500,200,60s: the mean, the most above and below it, the period".to_owned()
        );
    };
    let (mean, amplitude) = (rate(mean)?, rate_or_zero(amplitude)?);
    if amplitude > mean {
        return Err("a sine's amplitude is at most its mean: there is no rate below 0".to_owned());
    }
    Ok(RateShape::Sine { mean, amplitude, period: time(period)? })
}

fn rate(text: &str) -> Result<f64, String> {
    match rate_or_zero(text) {
        Ok(rate) if rate > 0.0 => Ok(rate),
        _ => Err("a rate is a number of requests per second above 0".to_owned()),
    }
}

fn rate_or_zero(text: &str) -> Result<f64, String> {
    let rate = text.trim().parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "a rate is a number of requests per second".to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| "a time has a unit and is above 0, such as 250ms, 5s or 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn shape(text: &str, duration: Duration) -> Shape {
        text.parse::<RateShape>().unwrap().over(duration).unwrap()
    }

    fn stages(stages: &[(f64, f64, u32)]) -> Shape {
        Shape::Stages(
            stages.iter().map(|(from, to, s)| Stage { from: *from, to: *to, length: S * *s }).collect(),
        )
    }

    #[test]
    fn every_shape_is_read() {
        assert_eq!(shape("1000", S), Shape::constant(1000.0));
        assert_eq!(shape("0.5", S), Shape::constant(0.5));
        assert_eq!(shape("ramp:100..1000", 20 * S), stages(&[(100.0, 1000.0, 20)]));
        assert_eq!(shape("ramp:1000..0/5s", 20 * S), stages(&[(1000.0, 0.0, 5)]));
        assert_eq!(shape("steps:100@10s,200@5s", 15 * S), stages(&[(100.0, 100.0, 10), (200.0, 200.0, 5)]));
        assert_eq!(
            shape("spike:100,1000@20s+5s", 60 * S),
            stages(&[(100.0, 100.0, 20), (1000.0, 1000.0, 5), (100.0, 100.0, 35)])
        );
        assert_eq!(
            shape("sine:500,200,60s", S),
            Shape::Sine { mean: 500.0, amplitude: 200.0, period: 60 * S }
        );
    }

    #[test]
    fn a_shape_has_its_own_length() {
        let length = |text: &str| text.parse::<RateShape>().unwrap().length();
        assert_eq!(length("1000"), None);
        assert_eq!(length("ramp:1..2"), None);
        assert_eq!(length("ramp:1..2/3s"), Some(3 * S));
        assert_eq!(length("steps:1@2s,2@3s"), Some(5 * S));
        assert_eq!(length("spike:1,2@10s+5s"), Some(25 * S));
        assert_eq!(length("sine:2,1,60s"), Some(60 * S));
    }

    #[test]
    fn a_shape_that_would_not_happen_is_refused() {
        for text in ["ramp:1..2/30s", "steps:1@20s,2@10s", "spike:1,2@8s+5s"] {
            assert!(text.parse::<RateShape>().unwrap().over(10 * S).is_err(), "{text}");
        }
        assert!("spike:1,2@8s+2s".parse::<RateShape>().unwrap().over(10 * S).is_ok());
    }

    #[test]
    fn what_is_no_shape_is_refused() {
        let bad = [
            "",
            "0",
            "-1",
            "NaN",
            "inf",
            "x",
            "1000/s",
            "ramp:",
            "ramp:1",
            "ramp:0..0",
            "ramp:1..2/0s",
            "ramp:1..2/5",
            "steps:",
            "steps:1",
            "steps:1@",
            "steps:0@1s",
            "steps:1@1s,",
            "spike:1,2",
            "spike:1,2@1s",
            "spike:1,0@1s+1s",
            "spike:1,2@1s+x",
            "sine:1,2,1s",
            "sine:1,1",
            "sine:0,0,1s",
            "sine:1,1,1s,1s",
            "square:1,2",
        ];
        for text in bad {
            assert!(text.parse::<RateShape>().is_err(), "{text}");
        }
    }
}
