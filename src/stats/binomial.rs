//! Bounds on a rate from counted events.
//!
//! Source: C. J. Clopper and E. S. Pearson, *Biometrika* 26 (1934). The bounds are quantiles of the beta
//! distribution.

use super::beta;

/// The upper bound on a rate after `events` in `trials`: with the confidence asked for, or more, the rate is not
/// above it. `None` when there were no trials, more events than trials, or a confidence outside 0 to 1.
///
/// ```
/// # use qbench::stats::binomial::upper_bound;
/// assert!(upper_bound(0, 2_995, 0.95).is_some_and(|bound| bound < 0.001));
/// assert_eq!(upper_bound(0, 0, 0.95), None, "nothing was tried, so nothing is known");
/// ```
pub fn upper_bound(events: u64, trials: u64, confidence: f64) -> Option<f64> {
    if trials == 0 || events > trials || !super::is_confidence(confidence) {
        return None;
    }
    if events == trials {
        return Some(1.0);
    }
    if events == 0 {
        // The closed form 1 − α^(1/n), which keeps its digits at any size.
        return Some(-((1.0 - confidence).ln() / trials as f64).exp_m1());
    }
    Some(beta::quantile(confidence, events as f64 + 1.0, (trials - events) as f64))
}

/// The lower bound on a rate, likewise.
pub fn lower_bound(events: u64, trials: u64, confidence: f64) -> Option<f64> {
    if trials == 0 || events > trials || !super::is_confidence(confidence) {
        return None;
    }
    if events == 0 {
        return Some(0.0);
    }
    Some(beta::quantile(1.0 - confidence, events as f64, (trials - events) as f64 + 1.0))
}

/// The two-sided interval of a rate: half of what the confidence leaves is spent at each end.
pub fn interval(events: u64, trials: u64, confidence: f64) -> Option<(f64, f64)> {
    let each = f64::midpoint(confidence, 1.0);
    Some((lower_bound(events, trials, each)?, upper_bound(events, trials, each)?))
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::ProptestConfig, prop_assert, proptest};

    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= 1e-8 * expected.abs() + 1e-300
    }

    /// From `scipy.stats.beta.ppf`: events, trials, the one-sided upper bound and the two-sided interval, all at
    /// 95%. Not from `binomtest`, whose root search stops short of four digits at a rate of one in ten million.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn bounds_agree_with_scipy() {
        let vectors: [(u64, u64, f64, f64, f64); 8] = [
            (0, 10, 0.2588655508930522, 0.0, 0.3084971078187607),
            (1, 10, 0.39416330243650466, 0.0025285785444617848, 0.4450161170281954),
            (5, 10, 0.7775588989918706, 0.18708602844739855, 0.8129139715526015),
            (3, 4_000, 0.001937262583140124, 0.0001546947446580444, 0.0021902386628751907),
            (17, 20_000, 0.0012746905846741875, 0.0004952318205424416, 0.0013605846587597895),
            (999, 1_000, 0.999948708021091, 0.9944410757201734, 0.9999746825125088),
            (120, 1_000_000, 0.00013964245053248677, 9.949289611005122e-05, 0.0001434888999944986),
            (5, 100_000_000, 1.0513034626458963e-07, 1.6234864094096085e-08, 1.1668331693505008e-07),
        ];
        for (events, trials, upper, low, high) in vectors {
            let found = (upper_bound(events, trials, 0.95).unwrap(), interval(events, trials, 0.95).unwrap());
            assert!(close(found.0, upper), "{events} of {trials}: {found:?}, not {upper}");
            assert!(
                (found.1.0 - low).abs() < 1e-12 + 1e-8 * low,
                "{events} of {trials}: {found:?}, not {low}"
            );
            assert!(close(found.1.1, high), "{events} of {trials}: {found:?}, not {high}");
        }
    }

    #[test]
    fn the_published_sizes_of_a_clean_run() {
        // Zero errors in n requests show a rate below the bound at 95% and 99%.
        for (bound, at_95, at_99) in [(0.01, 299, 459), (0.001, 2_995, 4_603), (0.0001, 29_956, 46_050)] {
            for (confidence, n) in [(0.95, at_95), (0.99, at_99)] {
                assert!(upper_bound(0, n, confidence).unwrap() < bound, "{n} requests");
                assert!(upper_bound(0, n - 2, confidence).unwrap() > bound, "{n} requests");
            }
        }
    }

    #[test]
    fn nothing_is_known_from_nothing() {
        assert_eq!(upper_bound(0, 0, 0.95), None);
        assert_eq!(upper_bound(2, 1, 0.95), None);
        assert_eq!(upper_bound(0, 9, 1.0), None);
        assert_eq!(upper_bound(0, 9, f64::NAN), None);
        assert_eq!(lower_bound(2, 1, 0.95), None);
        assert_eq!(interval(0, 0, 0.95), None);
        assert_eq!(upper_bound(u64::MAX, u64::MAX, 0.95), Some(1.0));
        assert!(upper_bound(0, u64::MAX, 0.95).unwrap() < 1e-18);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn bounds_hold_the_rate_and_mirror(trials in 1..50_000_u64, part in 0.0..=1.0_f64) {
            let events = (trials as f64 * part) as u64;
            let rate = events as f64 / trials as f64;
            let (low, high) = interval(events, trials, 0.95).unwrap();
            prop_assert!(0.0 <= low && low <= rate && rate <= high && high <= 1.0);
            let (mirrored_low, mirrored_high) = interval(trials - events, trials, 0.95).unwrap();
            prop_assert!((low - (1.0 - mirrored_high)).abs() < 1e-9);
            prop_assert!((high - (1.0 - mirrored_low)).abs() < 1e-9);
        }

        #[test]
        fn more_trials_tighten_and_more_confidence_widens(events in 0..50_u64, trials in 50..10_000_u64) {
            let bound = upper_bound(events, trials, 0.95).unwrap();
            prop_assert!(upper_bound(events, trials * 2, 0.95).unwrap() < bound || events == trials);
            prop_assert!(upper_bound(events, trials, 0.99).unwrap() >= bound);
        }
    }
}
