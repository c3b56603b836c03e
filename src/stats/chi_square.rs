//! The chi-square distribution.
//!
//! Source: M. Abramowitz and I. A. Stegun, *Handbook of Mathematical Functions* (1964), 26.4.19: an incomplete gamma
//! function of half the value and half the degrees of freedom.

use super::{gamma, inverse::first_reaching, is_confidence};

/// The probability of a value up to `x`; 0 for a negative one. The degrees of freedom are positive and need not be
/// whole.
///
/// `None` when they are not positive and finite, or `x` is NaN.
///
/// ```
/// # use qbench::stats::chi_square::cdf;
/// assert!(cdf(2.0, 2.0).is_some_and(|p| (p - (1.0 - (-1.0_f64).exp())).abs() < 1e-14));
/// ```
pub fn cdf(x: f64, degrees_of_freedom: f64) -> Option<f64> {
    if x.is_nan() || !are_degrees(degrees_of_freedom) {
        return None;
    }
    Some(gamma::lower(0.5 * degrees_of_freedom, 0.5 * x.max(0.0)))
}

/// The value that is exceeded with probability 1 − `p`. One too small for a float is returned as 0 or next to it.
///
/// `None` when `p` is not between 0 and 1, both exclusive, or the degrees of freedom are not positive and finite.
///
/// ```
/// # use qbench::stats::chi_square::quantile;
/// assert!(quantile(0.95, 1.0).is_some_and(|x| (x - 3.841458820694124).abs() < 1e-13));
/// assert_eq!(quantile(1.0, 1.0), None);
/// ```
pub fn quantile(p: f64, degrees_of_freedom: f64) -> Option<f64> {
    if !is_confidence(p) || !are_degrees(degrees_of_freedom) {
        return None;
    }
    let a = 0.5 * degrees_of_freedom;
    // The smaller of the two probabilities carries the digits.
    Some(if p < 0.5 {
        first_reaching(f64::MAX, |x| gamma::lower(a, 0.5 * x) < p)
    } else {
        first_reaching(f64::MAX, |x| gamma::upper(a, 0.5 * x) > 1.0 - p)
    })
}

fn are_degrees(degrees_of_freedom: f64) -> bool {
    degrees_of_freedom > 0.0 && degrees_of_freedom.is_finite()
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::ProptestConfig, prop_assert, proptest};

    use super::*;

    fn close(found: Option<f64>, expected: f64) -> bool {
        found.is_some_and(|found| (found - expected).abs() <= 1e-12 * expected.abs())
    }

    /// From `scipy.stats.chi2.ppf`: p, degrees of freedom, x.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn quantiles_agree_with_scipy() {
        let vectors = [
            (0.001, 1.0, 1.5707971492624921e-06),
            (0.95, 1.0, 3.841458820694124),
            (0.5, 0.5, 0.0873476047057468),
            (1e-06, 2.5, 3.502823491430508e-05),
            (0.4, 2.5, 1.4389401876015007),
            (0.975, 5.0, 12.832501994030027),
            (0.025, 19.0, 8.906516481987971),
            (0.995, 19.0, 38.58225655493424),
            (0.975, 100.3, 129.90282333634272),
            (0.1, 100.3, 82.63089018213542),
            (0.95, 100000.0, 100736.736177319),
        ];
        for (p, df, x) in vectors {
            assert!(close(quantile(p, df), x), "{:?} for {p} with {df}, not {x}", quantile(p, df));
        }
    }

    /// From `scipy.stats.chi2.cdf`: x, degrees of freedom, p.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn probabilities_agree_with_scipy() {
        let vectors = [
            (1.0, 1.0, 0.6826894921370859),
            (3.84, 1.0, 0.9499564787512949),
            (0.02, 4.5, 1.231915217501113e-05),
            (150.0, 100.0, 0.9990960679576459),
            (20.0, 7.0, 0.9944303169270544),
        ];
        for (x, df, p) in vectors {
            assert!(close(cdf(x, df), p), "{:?} up to {x} with {df}, not {p}", cdf(x, df));
        }
    }

    #[test]
    fn the_ends_and_nonsense() {
        assert_eq!(
            (cdf(-1.0, 2.0), cdf(0.0, 2.0), cdf(f64::INFINITY, 2.0)),
            (Some(0.0), Some(0.0), Some(1.0))
        );
        assert_eq!(cdf(f64::NAN, 2.0), None);
        for degrees in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            assert_eq!((cdf(1.0, degrees), quantile(0.9, degrees)), (None, None));
        }
        for p in [0.0, 1.0, f64::NAN] {
            assert_eq!(quantile(p, 5.0), None);
        }
        assert!(quantile(0.01, 1e-3).is_some_and(|x| x < 1e-300));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_quantile_is_turned_round(p in 1e-6..0.999_f64, df in 0.3..1e5_f64) {
            prop_assert!(close(cdf(quantile(p, df).unwrap(), df), p));
        }
    }
}
