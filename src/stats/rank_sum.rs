//! Two samples: the Hodges–Lehmann shift and the exact interval of the rank-sum test.
//!
//! Sources: H. B. Mann and D. R. Whitney, *Annals of Mathematical Statistics* 18 (1947), for the recurrence;
//! J. L. Hodges and E. L. Lehmann, *Annals of Mathematical Statistics* 34 (1963); E. L. Lehmann, *Nonparametrics:
//! Statistical Methods Based on Ranks* (1975), chapters 1 and 2.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use super::{Interval, NoInterval, between_ordered, is_confidence};

/// The most values taken per sample: the null distribution costs their fourth power.
pub const MOST_VALUES: usize = 200;

/// By how much `b` lies above `a`: the median of all differences, with the exact interval of the rank-sum test at
/// no less than the confidence asked for. Both ends belong to the interval, which keeps the confidence with ties.
///
/// ```
/// # use qbench::stats::rank_sum::shift;
/// let found = shift(&[1.0, 2.0, 3.0, 4.0], &[11.5, 12.5, 13.5, 14.5], 0.95)?;
/// assert_eq!(found.estimate, 10.5);
/// # Ok::<(), qbench::stats::NoInterval>(())
/// ```
///
/// # Errors
/// When the samples are too small for the confidence (95% needs 4 and 4), larger than [`MOST_VALUES`], or hold
/// values that are not finite; when the confidence is not between 0 and 1.
pub fn shift(a: &[f64], b: &[f64], confidence: f64) -> Result<Interval, NoInterval> {
    if !is_confidence(confidence) {
        return Err(NoInterval::Confidence);
    }
    let (smaller, larger) = (a.len().min(b.len()), a.len().max(b.len()));
    if larger > MOST_VALUES {
        return Err(NoInterval::TooMany { n: larger, most: MOST_VALUES });
    }
    let differences: Vec<f64> = b.iter().flat_map(|to| a.iter().map(move |from| to - from)).collect();
    let all_finite = a.iter().chain(b).chain(&differences).all(|value| value.is_finite());
    if !all_finite {
        return Err(NoInterval::NotFinite);
    }
    between_ordered(differences, &known_null(smaller, larger), confidence)
        .ok_or(NoInterval::TooFew { n: smaller, confidence })
}

/// [`null`], computed once a thread for each pair of sizes.
fn known_null(m: usize, n: usize) -> Rc<[f64]> {
    type Nulls = BTreeMap<(usize, usize), Rc<[f64]>>;
    thread_local! {
        static KNOWN: RefCell<Nulls> = const { RefCell::new(BTreeMap::new()) };
    }
    KNOWN.with_borrow_mut(|known| Rc::clone(known.entry((m, n)).or_insert_with(|| null(m, n).into())))
}

/// The probability of each number of pairs in which `b` is above `a`, when both come from one distribution.
///
/// Either the largest value of all is one of the first sample, or it is one of the second:
/// f(m, n, u) = m/(m+n) · f(m−1, n, u−n) + n/(m+n) · f(m, n−1, u).
fn null(m: usize, n: usize) -> Vec<f64> {
    // `row[j]` is the distribution for `i` values of the first sample and `j` of the second.
    let mut row: Vec<Vec<f64>> = vec![vec![1.0]; n + 1];
    for i in 1..=m {
        let mut next: Vec<Vec<f64>> = Vec::with_capacity(n + 1);
        next.push(vec![1.0]);
        for j in 1..=n {
            let share = i as f64 / (i + j) as f64;
            let mut distribution = vec![0.0; i * j + 1];
            for (pairs, probability) in row[j].iter().enumerate() {
                distribution[pairs + j] += share * probability;
            }
            for (pairs, probability) in next[j - 1].iter().enumerate() {
                distribution[pairs] += (1.0 - share) * probability;
            }
            next.push(distribution);
        }
        row = next;
    }
    row.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::ProptestConfig, prop_assert, proptest};

    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
    }

    /// From `SciPy` 1.17 and the enumeration of all arrangements: the samples, the confidence, and estimate, low,
    /// high, confidence.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn shifts_agree_with_enumeration() {
        type Vector = (&'static [f64], &'static [f64], f64, [f64; 4]);
        let vectors: [Vector; 4] = [
            (
                &[0.689, -0.327, -0.369, -0.25],
                &[2.781, 0.244, 0.405, 1.258],
                0.95,
                [0.753, -0.445, 3.15, 0.9714285714285714],
            ),
            (
                &[-0.121, -0.197, -1.114, -0.012, -0.444, 1.166, 0.653, -0.024],
                &[1.669, 0.358, 2.168, 0.793, 1.558, -0.878, 1.251, -1.395],
                0.95,
                [0.9095, -0.681, 1.79, 0.9501165501165502],
            ),
            (
                &[-2.035, -0.304, -0.9, 0.164, 2.245, -0.832],
                &[-0.011, 1.067, 1.441, 0.571, 0.532, 1.713, 1.476, -0.544, 0.697],
                0.95,
                [1.3675, -0.24, 2.341, 0.9504495504495505],
            ),
            (
                &[0.035, -1.054, 0.26, -0.858, 0.972, 0.193, 0.089, -0.591],
                &[0.646, -1.797, -0.671, 1.272, -1.967, 1.901, -1.47],
                0.99,
                [-0.514, -2.056, 1.863, 0.9906759906759907],
            ),
        ];
        for (a, b, confidence, expected) in vectors {
            let found = shift(a, b, confidence).unwrap();
            let found = [found.estimate, found.low, found.high, found.confidence];
            assert!(found.iter().zip(expected).all(|(a, b)| close(*a, b)), "{found:?} for {expected:?}");
        }
    }

    #[test]
    fn the_null_counts_arrangements() {
        // Two and two: 6 arrangements with 0, 1, 2, 2, 3, 4 pairs.
        let expected = [1.0, 1.0, 2.0, 1.0, 1.0].map(|count| count / 6.0);
        assert!(null(2, 2).iter().zip(expected).all(|(found, expected)| close(*found, expected)));
        assert!(close(null(60, 45).iter().sum(), 1.0));
    }

    #[test]
    fn too_few_too_many_and_nonsense_are_refused() {
        assert_eq!(shift(&[], &[], 0.95), Err(NoInterval::TooFew { n: 0, confidence: 0.95 }));
        assert_eq!(shift(&[], &[1.0; 9], 0.95), Err(NoInterval::TooFew { n: 0, confidence: 0.95 }));
        assert_eq!(shift(&[1.0; 3], &[1.0; 3], 0.95), Err(NoInterval::TooFew { n: 3, confidence: 0.95 }));
        assert!(shift(&[1.0; 4], &[1.0; 4], 0.95).is_ok());
        assert_eq!(shift(&[f64::NAN; 9], &[1.0; 9], 0.95), Err(NoInterval::NotFinite));
        assert_eq!(shift(&[-f64::MAX; 9], &[f64::MAX; 9], 0.95), Err(NoInterval::NotFinite));
        assert!(matches!(shift(&[1.0; 201], &[1.0; 9], 0.95), Err(NoInterval::TooMany { .. })));
        assert_eq!(shift(&[1.0; 9], &[1.0; 9], f64::NAN), Err(NoInterval::Confidence));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn an_interval_holds_its_estimate_and_moves_with_the_data(
            a in vec(-1e3..1e3_f64, 4..20), b in vec(-1e3..1e3_f64, 4..20), by in -1e3..1e3_f64,
        ) {
            let here = shift(&a, &b, 0.95).unwrap();
            prop_assert!(here.low <= here.estimate && here.estimate <= here.high);
            prop_assert!(here.confidence >= 0.95);
            let moved: Vec<f64> = b.iter().map(|value| value + by).collect();
            let there = shift(&a, &moved, 0.95).unwrap();
            prop_assert!((there.estimate - here.estimate - by).abs() < 1e-6);
            prop_assert!((there.low - here.low - by).abs() < 1e-6);
            prop_assert!((there.high - here.high - by).abs() < 1e-6);
        }

        #[test]
        fn exchanged_samples_mirror_the_interval(
            a in vec(-9..9_i32, 4..20), b in vec(-9..9_i32, 4..20),
        ) {
            let float = |values: Vec<i32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
            let (a, b) = (float(a), float(b));
            let (here, there) = (shift(&a, &b, 0.95).unwrap(), shift(&b, &a, 0.95).unwrap());
            prop_assert!(close(here.low, -there.high) && close(here.high, -there.low));
            prop_assert!(close(here.estimate, -there.estimate));
        }
    }
}
