//! Distribution-free estimates with exact error rates, for small numbers of epochs.
//!
//! One-sample and two-sample Hodges–Lehmann estimates and the Theil–Sen slope, with the intervals that come from
//! inverting the signed-rank test, the rank-sum test and Kendall's; Clopper–Pearson bounds for counts; the median, and
//! Harrell–Davis quantiles of a histogram; the levels of a test that is looked at while data come in. The null
//! distributions are computed, not approximated, so that a promised confidence holds at six epochs as it does at
//! sixty. Besides these, the three distributions that formulas of other fields ask for: normal, Student's, chi-square.
//!
//! Deliberately absent: anything that knows what is measured, and any answer where the data do not carry one.
//! Values that are not finite, and samples too small for the confidence asked for, are typed refusals
//! ([`NoInterval`]) or `None`.

mod beta;
pub mod binomial;
pub mod chi_square;
mod gamma;
mod inverse;
pub mod normal;
pub mod quantile;
pub mod rank_sum;
pub mod sequential;
pub mod signed_rank;
pub mod student;
pub mod theil_sen;

/// An estimate with its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The median of the pairs' averages, differences or slopes; never outside the interval.
    pub estimate: f64,
    /// Lower end, inclusive.
    pub low: f64,
    /// Upper end, inclusive.
    pub high: f64,
    /// The confidence really reached: at least the one asked for, since ranks come in steps.
    pub confidence: f64,
}

/// Why there is no interval.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum NoInterval {
    /// Even the widest interval does not reach the confidence.
    #[error("{n} values are too few for an interval at {}% confidence", confidence * 100.0)]
    TooFew {
        /// Values in the (smaller) sample.
        n: usize,
        /// The confidence asked for.
        confidence: f64,
    },
    /// The exact null distribution would cost too much.
    #[error("{n} values are more than the {most} an exact interval is computed for")]
    TooMany {
        /// Values in the (larger) sample.
        n: usize,
        /// The most taken.
        most: usize,
    },
    /// A value is NaN or infinite, or differences of values are.
    #[error("a value is not a finite number")]
    NotFinite,
    /// Two points have the same x, so there is no slope between them.
    #[error("two points have the same x")]
    EqualX,
    /// A confidence is a number between 0 and 1, both exclusive.
    #[error("a confidence lies between 0 and 1")]
    Confidence,
}

/// Counts how many of the smallest (and of the largest) ordered values an interval may leave out.
///
/// `null[w]` is the probability of the statistic `w` under the null hypothesis, which is symmetric. Returns the
/// count, which is 0 when not even the smallest value may be left out, and the probability outside both ends.
fn values_left_out(null: &[f64], confidence: f64) -> (usize, f64) {
    // A few units of rounding, so that a tail of exactly the allowed size is not refused.
    let allowed = (1.0 - confidence) * (1.0 + 1e-12);
    let (mut count, mut tail) = (0, 0.0);
    for probability in null {
        if 2.0 * (tail + probability) > allowed {
            break;
        }
        tail += probability;
        count += 1;
    }
    (count, 2.0 * tail)
}

/// The interval that cuts `left_out − 1` values off both ends of the values in their order; see Lehmann,
/// *Nonparametrics* (1975), sections 2.6 and 4.4, and for slopes P. K. Sen, *JASA* 63 (1968).
fn between_ordered(mut values: Vec<f64>, null: &[f64], confidence: f64) -> Option<Interval> {
    let (left_out, outside) = values_left_out(null, confidence);
    let below = left_out.checked_sub(1)?;
    let above = values.len().checked_sub(left_out)?;
    let estimate = quantile::middle(&mut values)?;
    // Three of many values are asked for: to find them costs less than to sort all.
    let mut at = |place: usize| {
        (place < values.len()).then(|| *values.select_nth_unstable_by(place, f64::total_cmp).1)
    };
    Some(Interval { estimate, low: at(below)?, high: at(above)?, confidence: 1.0 - outside })
}

/// Between 0 and 1, both exclusive. So is the `p` of a quantile.
fn is_confidence(confidence: f64) -> bool {
    confidence > 0.0 && confidence < 1.0
}
