//! The standard normal distribution.
//!
//! The probability beyond z on both sides is the incomplete gamma function Q(½, z²/2) (*NIST Digital Library of
//! Mathematical Functions* 7.11.2), whose continued fraction keeps its digits however far out z is.

use super::{gamma, inverse::symmetric_quantile};

/// The probability of a value up to `z`, to about 13 digits, in the lower tail as well. NaN of NaN.
///
/// ```
/// # use qbench::stats::normal::cdf;
/// assert_eq!(cdf(0.0), 0.5);
/// assert!((cdf(1.96) - 0.9750021048517795).abs() < 1e-15);
/// ```
pub fn cdf(z: f64) -> f64 {
    upper_tail(-z)
}

/// The probability of a value above `z`, to about 13 digits down to the smallest number there is (z near 38).
///
/// ```
/// # use qbench::stats::normal::upper_tail;
/// assert!((upper_tail(20.0) / 2.7536241186062337e-89 - 1.0).abs() < 1e-12);
/// ```
pub fn upper_tail(z: f64) -> f64 {
    let half_square = 0.5 * z * z;
    if z < 0.0 { 0.5 + 0.5 * gamma::lower(0.5, half_square) } else { 0.5 * gamma::upper(0.5, half_square) }
}

/// The `z` that a value exceeds with probability 1 − `p`. `None` when `p` is not between 0 and 1, both exclusive.
///
/// ```
/// # use qbench::stats::normal::quantile;
/// assert!(quantile(0.975).is_some_and(|z| (z - 1.959963984540054).abs() < 1e-14));
/// assert_eq!(quantile(0.0), None);
/// ```
pub fn quantile(p: f64) -> Option<f64> {
    symmetric_quantile(p, f64::MAX, upper_tail, |z| 0.5 * gamma::lower(0.5, 0.5 * z * z))
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::ProptestConfig, prop_assert, proptest};

    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= 1e-12 * expected.abs()
    }

    /// From `mpmath` with 40 digits: z, and the probability below and above.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `mpmath` prints them")]
    fn tails_agree_with_many_digits() {
        let vectors = [
            (-37.5, 4.605353009581955e-308, 1.0),
            (-20.0, 2.7536241186062337e-89, 1.0),
            (-8.5, 9.479534822203318e-18, 1.0),
            (-3.0, 0.0013498980316300946, 0.9986501019683699),
            (-1.3, 0.09680048458561033, 0.9031995154143897),
            (-0.001, 0.49960105778608893, 0.500398942213911),
            (0.5, 0.6914624612740131, 0.3085375387259869),
            (1.7320508, 0.9583677409944732, 0.04163225900552681),
            (2.2, 0.9860965524865014, 0.013903447513498604),
            (5.0, 0.9999997133484281, 2.866515718791939e-07),
        ];
        for (z, below, above) in vectors {
            assert!(close(cdf(z), below), "{} up to {z}, not {below}", cdf(z));
            assert!(close(upper_tail(z), above), "{} above {z}, not {above}", upper_tail(z));
        }
    }

    /// Likewise: p, z.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `mpmath` prints them")]
    fn quantiles_agree_with_many_digits() {
        let vectors = [
            (1e-300, -37.0470962993612),
            (1e-20, -9.262340089798407),
            (1e-6, -4.753424308822899),
            (0.01, -2.326347874040841),
            (0.2, -0.8416212335729142),
            (0.3, -0.5244005127080408),
            (0.4999, -0.00025066283008800747),
            (0.6, 0.2533471031357997),
            (0.975, 1.9599639845400538),
            (0.999999, 4.753424308817087),
        ];
        for (p, z) in vectors {
            assert!(quantile(p).is_some_and(|found| close(found, z)), "{:?} for {p}, not {z}", quantile(p));
        }
        assert_eq!(quantile(0.5), Some(0.0));
    }

    #[test]
    fn the_ends_and_nonsense() {
        assert_eq!((cdf(f64::NEG_INFINITY), cdf(f64::INFINITY)), (0.0, 1.0));
        assert_eq!((upper_tail(f64::NEG_INFINITY), upper_tail(f64::INFINITY)), (1.0, 0.0));
        assert_eq!((cdf(-1e200), cdf(1e200), cdf(1e-200)), (0.0, 1.0, 0.5));
        assert!(cdf(f64::NAN).is_nan());
        for p in [0.0, 1.0, -0.1, f64::NAN] {
            assert_eq!(quantile(p), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_quantile_is_turned_round_and_mirrors(p in 1e-9..0.5_f64) {
            let z = quantile(p).unwrap();
            prop_assert!(close(cdf(z), p));
            prop_assert!((quantile(1.0 - p).unwrap() + z).abs() <= 1e-6);
        }

        #[test]
        fn both_sides_are_everything(z in -40.0..40.0_f64) {
            prop_assert!((cdf(z) + upper_tail(z) - 1.0).abs() <= 1e-15);
            prop_assert!(cdf(z) <= cdf(z + 0.01));
        }
    }
}
