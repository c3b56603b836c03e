//! The median, and any other quantile.

use super::beta;

/// The median: the middle value, or the mean of the two middle ones.
///
/// `None` when there are no values or one is NaN or infinite.
///
/// ```
/// # use qbench::stats::quantile::median;
/// assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
/// assert_eq!(median(&[]), None);
/// ```
pub fn median(values: &[f64]) -> Option<f64> {
    middle(&mut finite(values)?)
}

/// The Harrell–Davis estimate of the `q` quantile from a histogram: values in ascending order, each with how often it
/// was counted.
///
/// It is the mean of all order statistics, weighted by the beta distribution of the one that belongs to `q`: of n
/// values the i-th weighs `I_{i/n}(a, b) − I_{(i−1)/n}(a, b)` with a = (n+1)q and b = (n+1)(1−q) (F. E. Harrell and
/// C. E. Davis, *Biometrika* 69 (1982)). With `q` 0 or 1 it is the smallest or the largest value.
///
/// `None` when nothing was counted or more than a `u64` holds, values fall or are not finite, or `q` is not from 0 to
/// 1. Where nothing was counted the value does not matter.
///
/// ```
/// # use qbench::stats::quantile::harrell_davis;
/// let latencies_ms = [(1.0, 2), (2.0, 5), (4.0, 1)];
/// assert!(harrell_davis(&latencies_ms, 0.5).is_some_and(|median| (1.0..2.0).contains(&median)));
/// assert_eq!(harrell_davis(&latencies_ms, 1.0), Some(4.0));
/// assert_eq!(harrell_davis(&[], 0.5), None);
/// ```
pub fn harrell_davis(sorted_values_with_counts: &[(f64, u64)], q: f64) -> Option<f64> {
    let bins: Vec<(f64, u64)> =
        sorted_values_with_counts.iter().copied().filter(|(_, count)| *count > 0).collect();
    let is_ascending = bins.is_sorted_by(|(value, _), (next, _)| value <= next);
    if !is_ascending || bins.iter().any(|(value, _)| !value.is_finite()) {
        return None;
    }
    let total = bins.iter().try_fold(0_u64, |sum, (_, count)| sum.checked_add(*count))?;
    let (smallest, largest) = (bins.first()?.0, bins.last()?.0);
    let mean = match q {
        0.0 => smallest,
        1.0 => largest,
        _ if (0.0..1.0).contains(&q) => weighted_by_order(&bins, total as f64, q),
        _ => return None,
    };
    // Rounding may leave the range of the values by a digit.
    Some(mean.clamp(smallest, largest))
}

fn weighted_by_order(bins: &[(f64, u64)], n: f64, q: f64) -> f64 {
    let (a, b) = ((n + 1.0) * q, (n + 1.0) * (1.0 - q));
    // A beta distribution's tails are below those of a normal one with variance 1/(4(a+b+1)) (O. Marchal and
    // J. Arbel, *Electronic Communications in Probability* 22 (2017)): exp(−2(a+b+1)d²) beyond a distance d. Where
    // that is less than 1e-17, which is exp(−39.2), nothing is computed.
    let reach = (19.6 / (a + b + 1.0)).sqrt();
    let (mut counted, mut weight_before, mut mean) = (0_u64, 0.0, 0.0);
    for (value, count) in bins {
        counted += count;
        let share = counted as f64 / n;
        let weight = if share <= q - reach {
            0.0
        } else if share >= (q + reach).min(1.0) {
            1.0
        } else {
            beta::regularised(share, 1.0 - share, a, b)
        };
        mean += (weight - weight_before) * value;
        weight_before = weight;
        if weight >= 1.0 {
            break;
        }
    }
    mean
}

/// The median of values in any order, which are put into another.
pub(super) fn middle(values: &mut [f64]) -> Option<f64> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let (below, upper, _) = values.select_nth_unstable_by(n / 2, f64::total_cmp);
    if n % 2 == 1 {
        return Some(*upper);
    }
    let lower = below.iter().copied().max_by(f64::total_cmp)?;
    Some(f64::midpoint(lower, *upper))
}

/// A copy, if every value is finite.
pub(super) fn finite(values: &[f64]) -> Option<Vec<f64>> {
    values.iter().all(|value| value.is_finite()).then(|| values.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::ProptestConfig, prop_assert, proptest};

    use super::*;

    #[test]
    fn the_middle_of_odd_and_even() {
        assert_eq!(median(&[5.0]), Some(5.0));
        assert_eq!(median(&[9.0, -1.0, 4.0]), Some(4.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
        assert_eq!(median(&[f64::MAX, f64::MAX]), Some(f64::MAX));
    }

    #[test]
    fn no_median_of_nothing_or_of_nonsense() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, f64::NAN]), None);
        assert_eq!(median(&[1.0, f64::INFINITY]), None);
    }

    /// From `scipy.stats.mstats.hdquantiles`: q, and the estimate.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn harrell_davis_agrees_with_scipy() {
        type Vector = (&'static [(f64, u64)], [(f64, f64); 4]);
        let vectors: [Vector; 2] = [
            (
                &[(1.0, 1), (2.0, 1), (4.0, 1), (8.0, 1), (16.0, 1)],
                [
                    (0.05, 1.0842045750610243),
                    (0.5, 5.0403199999999995),
                    (0.9, 14.590375336216637),
                    (0.99, 15.917070595636721),
                ],
            ),
            (
                &[(3.0, 3), (5.0, 2), (9.0, 4), (40.0, 1)],
                [
                    (0.05, 3.0170987076290743),
                    (0.5, 6.840233281117609),
                    (0.9, 27.824757842196114),
                    (0.99, 39.29222948624489),
                ],
            ),
        ];
        for (bins, estimates) in vectors {
            for (q, expected) in estimates {
                let found = harrell_davis(bins, q).unwrap();
                assert!((found - expected).abs() <= 1e-12 * expected, "{found} at {q}, not {expected}");
            }
        }
    }

    /// Weights by `scipy.special.betainc`: ten million values in seven bins, q, and the estimate.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn harrell_davis_agrees_with_scipy_on_ten_million_values() {
        type Vector = ([u64; 7], [(f64, f64); 6]);
        let vectors: [Vector; 2] = [
            (
                [5_000_000, 3_000_000, 1_500_000, 480_000, 19_000, 990, 10],
                [
                    (0.5, 1.2499999999999993),
                    (0.8, 1.750031539155462),
                    (0.95, 2.500173653885325),
                    (0.998, 4.001874985793177),
                    (0.9999, 7.016818452852492),
                    (0.999999, 20.383474638221987),
                ],
            ),
            (
                [4_999_000, 2_000, 3_000_000, 1_998_000, 990, 9, 1],
                [
                    (0.5, 1.5),
                    (0.8, 2.2146149422833448),
                    (0.95, 3.0),
                    (0.998, 3.0),
                    (0.9999, 4.008409226426246),
                    (0.999999, 7.168283223391846),
                ],
            ),
        ];
        for (counts, estimates) in vectors {
            let values = [1.0, 1.5, 2.0, 3.0, 5.0, 9.0, 30.0];
            let bins: Vec<(f64, u64)> = values.into_iter().zip(counts).collect();
            for (q, expected) in estimates {
                let found = harrell_davis(&bins, q).unwrap();
                assert!((found - expected).abs() <= 1e-11 * expected, "{found} at {q}, not {expected}");
            }
        }
    }

    #[test]
    fn harrell_davis_of_little_and_of_nonsense() {
        assert_eq!(harrell_davis(&[(7.0, 1)], 0.9), Some(7.0));
        assert_eq!(harrell_davis(&[(7.0, 9_999)], 0.999), Some(7.0));
        let even = harrell_davis(&[(1.0, 2), (2.0, 2)], 0.5);
        assert!(even.is_some_and(|median| (median - 1.5).abs() < 1e-13));
        assert_eq!(harrell_davis(&[(f64::NAN, 0), (1.0, 1), (0.0, 0), (2.0, 1)], 0.0), Some(1.0));
        assert_eq!(harrell_davis(&[(1.0, 1), (2.0, 1), (3.0, 0)], 1.0), Some(2.0));
        assert_eq!(harrell_davis(&[(1.0, 0)], 0.5), None);
        assert_eq!(harrell_davis(&[(2.0, 1), (1.0, 1)], 0.5), None);
        assert_eq!(harrell_davis(&[(1.0, 1), (f64::INFINITY, 1)], 0.5), None);
        assert_eq!(harrell_davis(&[(1.0, u64::MAX), (2.0, 1)], 0.5), None);
        for q in [-0.1, 1.1, f64::NAN] {
            assert_eq!(harrell_davis(&[(1.0, 1)], q), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn harrell_davis_rises_with_q_and_moves_with_the_data(
            bins in vec((0.0..1e3_f64, 1..400_u64), 1..30), q in 0.01..0.98_f64, by in -1e3..1e3_f64,
        ) {
            let mut bins = bins;
            bins.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            let here = harrell_davis(&bins, q).unwrap();
            prop_assert!(bins[0].0 <= here && here <= bins[bins.len() - 1].0);
            prop_assert!(harrell_davis(&bins, q + 0.01).unwrap() >= here - 1e-9);
            let moved: Vec<(f64, u64)> = bins.iter().map(|(value, count)| (value + by, *count)).collect();
            prop_assert!((harrell_davis(&moved, q).unwrap() - here - by).abs() < 1e-9);
        }

        #[test]
        fn how_a_count_is_split_does_not_matter(bins in vec((0.0..1e3_f64, 2..40_u64), 1..20), q in 0.0..=1.0_f64) {
            let mut bins = bins;
            bins.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            let split: Vec<(f64, u64)> =
                bins.iter().flat_map(|(value, count)| [(*value, 1), (*value, count - 1)]).collect();
            let (here, there) = (harrell_davis(&bins, q).unwrap(), harrell_davis(&split, q).unwrap());
            prop_assert!((here - there).abs() < 1e-9);
        }
    }
}
