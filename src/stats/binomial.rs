//! Bounds on a rate from counted events.
//!
//! Source: C. J. Clopper and E. S. Pearson, *Biometrika* 26 (1934). The bounds are quantiles of the beta
//! distribution; its distribution function is computed by the continued fraction of W. J. Thompson and
//! I. J. Lentz (DLMF 8.17.22) and inverted by bisection.

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
    Some(beta_quantile(confidence, events as f64 + 1.0, (trials - events) as f64))
}

/// The lower bound on a rate, likewise.
pub fn lower_bound(events: u64, trials: u64, confidence: f64) -> Option<f64> {
    if trials == 0 || events > trials || !super::is_confidence(confidence) {
        return None;
    }
    if events == 0 {
        return Some(0.0);
    }
    Some(beta_quantile(1.0 - confidence, events as f64, (trials - events) as f64 + 1.0))
}

/// The two-sided interval of a rate: half of what the confidence leaves is spent at each end.
pub fn interval(events: u64, trials: u64, confidence: f64) -> Option<(f64, f64)> {
    let each = f64::midpoint(confidence, 1.0);
    Some((lower_bound(events, trials, each)?, upper_bound(events, trials, each)?))
}

/// The `x` at which the beta distribution function reaches `p`.
fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    // Each round halves the bracket; it ends when no number lies between.
    while low < high {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if regularised_beta(middle, a, b) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The regularised incomplete beta function, for 0 < x < 1 and positive a and b.
fn regularised_beta(x: f64, a: f64, b: f64) -> f64 {
    let front = (a * x.ln() + b * (-x).ln_1p() - ln_beta(a, b)).exp();
    // The fraction converges fast on the near side of the mean; the far side is the mirror image.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut above = 1.0;
    let mut below = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = below;
    // It takes about the square root of the larger parameter; the bound keeps nonsense finite.
    let rounds = 1000 + 10 * a.max(b).sqrt().min(1e4) as u64;
    for round in 1..=rounds {
        let m = round as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        below = 1.0 / away_from_zero(1.0 + even * below);
        above = away_from_zero(1.0 + even / above);
        fraction *= below * above;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        below = 1.0 / away_from_zero(1.0 + odd * below);
        above = away_from_zero(1.0 + odd / above);
        let factor = below * above;
        fraction *= factor;
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

/// ln B(a, b). The larger parameter's two gamma functions nearly cancel, so their difference is expanded instead of
/// taken: with millions of trials the plain formula would lose the digits the bound is made of.
fn ln_beta(a: f64, b: f64) -> f64 {
    let (small, large) = (a.min(b), a.max(b));
    if large < STIRLING_FROM {
        return ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b);
    }
    let sum = small + large;
    let growth = (large - 0.5) * (small / large).ln_1p() + small * sum.ln() - small;
    ln_gamma(small) - growth - (stirling_series(sum) - stirling_series(large))
}

/// Above this the Stirling series is exact to rounding.
const STIRLING_FROM: f64 = 15.0;

/// ln Γ(x) for positive x: the Stirling series (DLMF 5.11.1), reached by Γ(x+1) = x·Γ(x).
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0);
    while x < STIRLING_FROM {
        product *= x;
        x += 1.0;
    }
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + stirling_series(x) - f64::ln(product)
}

fn stirling_series(x: f64) -> f64 {
    let square = 1.0 / (x * x);
    let tail = 1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0);
    (1.0 / 12.0 - square * (1.0 / 360.0 - square * tail)) / x
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
