//! Student's t distribution.
//!
//! Source: Student, *Biometrika* 6 (1908); its tail as an incomplete beta function, M. Abramowitz and I. A. Stegun,
//! *Handbook of Mathematical Functions* (1964), 26.7.1.

use super::{beta, inverse::symmetric_quantile};

/// A quantile this far out is not computed: its square would leave the range of a float.
const MOST: f64 = 1e150;

/// The probability of a value up to `t`. The degrees of freedom are positive and need not be whole.
///
/// `None` when they are not positive and finite, or `t` is NaN.
///
/// ```
/// # use qbench::stats::student::cdf;
/// assert!(cdf(1.0, 1.0).is_some_and(|p| (p - 0.75).abs() < 1e-14));
/// ```
pub fn cdf(t: f64, degrees_of_freedom: f64) -> Option<f64> {
    if t.is_nan() || !are_degrees(degrees_of_freedom) {
        return None;
    }
    let tail = above(t.abs(), degrees_of_freedom);
    Some(if t < 0.0 { tail } else { 1.0 - tail })
}

/// The `t` that a value exceeds with probability 1 − `p`.
///
/// `None` when `p` is not between 0 and 1, both exclusive, when the degrees of freedom are not positive and finite, or
/// when they are so few that the quantile is beyond 10^150.
///
/// ```
/// # use qbench::stats::student::quantile;
/// assert!(quantile(0.975, 9.0).is_some_and(|t| (t - 2.2621571627982053).abs() < 1e-13));
/// assert_eq!(quantile(0.975, 0.0), None);
/// ```
pub fn quantile(p: f64, degrees_of_freedom: f64) -> Option<f64> {
    if !are_degrees(degrees_of_freedom) {
        return None;
    }
    let above = |t| above(t, degrees_of_freedom);
    let from_centre = |t| {
        let (centre, outside) = shares(t, degrees_of_freedom);
        0.5 * beta::regularised(centre, outside, 0.5, 0.5 * degrees_of_freedom)
    };
    symmetric_quantile(p, MOST, above, from_centre)
}

/// The probability of a value above `t`, which is not negative.
fn above(t: f64, degrees_of_freedom: f64) -> f64 {
    let (centre, outside) = shares(t, degrees_of_freedom);
    0.5 * beta::regularised(outside, centre, 0.5 * degrees_of_freedom, 0.5)
}

/// t²/(ν+t²) and ν/(ν+t²), each to all its digits.
fn shares(t: f64, degrees_of_freedom: f64) -> (f64, f64) {
    let ratio = t / degrees_of_freedom.sqrt();
    let square = ratio * ratio;
    (1.0 / (1.0 + 1.0 / square), 1.0 / (1.0 + square))
}

fn are_degrees(degrees_of_freedom: f64) -> bool {
    degrees_of_freedom > 0.0 && degrees_of_freedom.is_finite()
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::ProptestConfig, prop_assert, proptest};

    use super::*;

    fn close(found: Option<f64>, expected: f64) -> bool {
        found.is_some_and(|found| (found - expected).abs() <= 1e-11 * expected.abs())
    }

    /// From `scipy.stats.t.ppf`: p, degrees of freedom, t.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn quantiles_agree_with_scipy() {
        let vectors = [
            (0.001, 1.0, -318.30883898555044),
            (0.7, 1.0, 0.7265425280053608),
            (0.01, 0.5, -1028.4910104716218),
            (0.6, 0.5, 0.3979754267847907),
            (1e-06, 2.5, -220.17342917823686),
            (0.4, 2.5, -0.2814595127485477),
            (0.975, 5.0, 2.5705818356363146),
            (0.025, 9.0, -2.2621571627982053),
            (0.995, 9.0, 3.249835541592126),
            (0.975, 11.37, 2.1922780571264986),
            (0.55, 11.37, 0.12849760000376653),
            (0.9, 30.0, 1.3104150253913955),
            (0.975, 1000.5, 1.962337892459348),
            (0.0001, 1000.5, -3.732844667509542),
            (0.975, 1000000.0, 1.959966356814107),
        ];
        for (p, df, t) in vectors {
            assert!(close(quantile(p, df), t), "{:?} for {p} with {df}, not {t}", quantile(p, df));
        }
        assert_eq!(quantile(0.5, 3.0), Some(0.0));
    }

    /// From `scipy.stats.t.cdf`: t, degrees of freedom, p.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn probabilities_agree_with_scipy() {
        let vectors = [
            (0.0, 3.0, 0.5),
            (-2.0, 4.5, 0.054128953590562495),
            (1.5, 9.0, 0.9160746719714625),
            (-30.0, 20.0, 2.0976126619998272e-18),
            (0.01, 0.7, 0.5029462437018132),
            (12.0, 1.0, 0.9735353239404101),
        ];
        for (t, df, p) in vectors {
            assert!(close(cdf(t, df), p), "{:?} up to {t} with {df}, not {p}", cdf(t, df));
        }
    }

    #[test]
    fn the_ends_and_nonsense() {
        assert_eq!((cdf(f64::NEG_INFINITY, 2.0), cdf(f64::INFINITY, 2.0)), (Some(0.0), Some(1.0)));
        assert_eq!(cdf(f64::NAN, 2.0), None);
        for degrees in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            assert_eq!((cdf(1.0, degrees), quantile(0.9, degrees)), (None, None));
        }
        for p in [0.0, 1.0, f64::NAN] {
            assert_eq!(quantile(p, 5.0), None);
        }
        assert_eq!(quantile(0.001, 0.01), None, "beyond 10^150");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_quantile_is_turned_round_and_mirrors(p in 1e-6..0.5_f64, df in 0.3..1e5_f64) {
            let t = quantile(p, df).unwrap();
            prop_assert!(close(cdf(t, df), p));
            prop_assert!((quantile(1.0 - p, df).unwrap() + t).abs() <= 1e-8 * (1.0 + t.abs()));
        }
    }
}
