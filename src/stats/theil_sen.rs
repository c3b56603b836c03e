//! The slope of a line through points: the Theil–Sen estimate and the exact interval of Kendall's test.
//!
//! Sources: H. Theil, *Proceedings of the Royal Netherlands Academy of Sciences* 53 (1950); P. K. Sen, *JASA* 63
//! (1968); for the null distribution M. G. Kendall, *Biometrika* 30 (1938).

use super::{Interval, NoInterval, between_ordered, is_confidence};

/// The most points taken: their slopes still fit a cache, and the null costs milliseconds.
pub const MOST_POINTS: usize = 500;

/// By how much y rises when x rises by one: the median of the slopes between all pairs of `(x, y)`, with the exact
/// interval of Kendall's test at no less than the confidence asked for. The points may come in any order. Both ends
/// belong to the interval, which keeps the confidence when values of y are tied.
///
/// ```
/// # use qbench::stats::theil_sen::slope;
/// let rss_mb = [(0.0, 50.0), (1.0, 52.1), (2.0, 53.9), (3.0, 56.0), (4.0, 57.9), (5.0, 60.0)];
/// let found = slope(&rss_mb, 0.95)?;
/// assert!(found.low <= 2.0 && 2.0 <= found.high);
/// assert!(slope(&rss_mb[..4], 0.95).is_err(), "four points cannot carry 95%");
/// # Ok::<(), qbench::stats::NoInterval>(())
/// ```
///
/// # Errors
/// When the points are too few for the confidence (95% needs 5, 99% needs 6), more than [`MOST_POINTS`], or not all
/// finite, or a slope is not; when two have the same x, since the null distribution is known only for whole sets of
/// pairs; when the confidence is not between 0 and 1.
pub fn slope(points: &[(f64, f64)], confidence: f64) -> Result<Interval, NoInterval> {
    if !is_confidence(confidence) {
        return Err(NoInterval::Confidence);
    }
    let n = points.len();
    if n > MOST_POINTS {
        return Err(NoInterval::TooMany { n, most: MOST_POINTS });
    }
    if points.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
        return Err(NoInterval::NotFinite);
    }
    let slopes = slopes(points)?;
    between_ordered(slopes, &null(n), confidence).ok_or(NoInterval::TooFew { n, confidence })
}

/// The slopes between all pairs of finite points, in no order: n(n−1)/2 of them.
fn slopes(points: &[(f64, f64)]) -> Result<Vec<f64>, NoInterval> {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (at, (x, y)) in points.iter().enumerate() {
        for (other_x, other_y) in &points[..at] {
            let run = x - other_x;
            if run == 0.0 {
                return Err(NoInterval::EqualX);
            }
            let slope = (y - other_y) / run;
            if !slope.is_finite() {
                return Err(NoInterval::NotFinite);
            }
            slopes.push(slope);
        }
    }
    Ok(slopes)
}

/// The probability of each number of pairs that rise, when y has nothing to do with x.
///
/// The i-th point rises above any number of the points before it, 0 to i−1, with the same probability, whatever the
/// order of those. So each point spreads the distribution over i neighbours evenly. It stays symmetric; only its
/// rising half is summed, where taking away the smallest number of a sum costs no digits.
fn null(n: usize) -> Vec<f64> {
    let mut probabilities = vec![1.0];
    for i in 2..=n {
        let most = i * (i - 1) / 2;
        let mut next = vec![0.0; most + 1];
        let mut sum = 0.0;
        for pairs in 0..=most / 2 {
            sum += probabilities.get(pairs).copied().unwrap_or_default();
            if let Some(gone) = pairs.checked_sub(i) {
                sum -= probabilities[gone];
            }
            next[pairs] = sum / i as f64;
            next[most - pairs] = next[pairs];
        }
        probabilities = next;
    }
    probabilities
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::ProptestConfig, prop_assert, proptest};

    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
    }

    /// From `scipy.stats.theilslopes`, `scipy.stats.kendalltau` (exact) and the counts of permutations: the points, the
    /// confidence, and estimate, low, high, confidence.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn slopes_agree_with_scipy() {
        type Vector = (&'static [(f64, f64)], f64, [f64; 4]);
        let vectors: [Vector; 4] = [
            (
                &[(4.94, 5.79), (2.2, 0.87), (0.21, -0.11), (0.7, -1.67), (4.5, 1.38)],
                0.95,
                [1.0249944364081451, -3.1836734693877546, 10.022727272727264, 0.9833333333333333],
            ),
            (
                &[
                    (6.73, 3.91),
                    (4.14, 1.56),
                    (7.5, 3.51),
                    (5.14, 2.39),
                    (7.4, 3.43),
                    (2.0, 1.55),
                    (7.12, 5.5),
                    (1.39, 2.24),
                ],
                0.95,
                [0.40827031375703937, -0.24727272727272734, 0.8300000000000001, 0.9688492063492063],
            ),
            (
                &[
                    (0.31, 0.0),
                    (1.18, 2.0),
                    (14.04, 7.0),
                    (7.43, 3.0),
                    (4.97, 4.0),
                    (8.68, 5.0),
                    (9.54, 5.0),
                    (5.97, 3.0),
                    (2.74, 2.0),
                    (11.9, 5.0),
                    (1.41, 1.0),
                    (11.41, 5.0),
                ],
                0.9,
                [0.41067415730337076, 0.30959752321981426, 0.5050505050505051, 0.9136828854016354],
            ),
            (
                &[
                    (7.26, 1.9),
                    (6.84, 2.17),
                    (16.27, 7.89),
                    (17.5, 7.96),
                    (6.42, 3.79),
                    (7.7, 3.85),
                    (18.57, 9.42),
                    (3.48, 0.94),
                    (4.86, 0.97),
                    (8.37, 5.4),
                    (8.66, 5.09),
                    (3.66, 3.2),
                    (16.45, 9.04),
                    (18.71, 9.24),
                    (5.76, 2.28),
                    (11.2, 5.82),
                    (6.19, 3.32),
                    (5.93, 2.64),
                    (12.33, 5.85),
                    (14.13, 7.36),
                ],
                0.99,
                [0.5350848799816932, 0.41025641025641035, 0.6648983200707338, 0.990943617587035],
            ),
        ];
        for (points, confidence, expected) in vectors {
            let found = slope(points, confidence).unwrap();
            let found = [found.estimate, found.low, found.high, found.confidence];
            assert!(found.iter().zip(expected).all(|(a, b)| close(*a, b)), "{found:?} for {expected:?}");
        }
    }

    #[test]
    fn the_null_counts_permutations() {
        // Of the 24 orders of four values 1, 3, 5, 6, 5, 3, 1 have 0 to 6 pairs that rise.
        let expected = [1.0, 3.0, 5.0, 6.0, 5.0, 3.0, 1.0].map(|count| count / 24.0);
        assert_eq!(null(4).len(), expected.len());
        assert!(null(4).iter().zip(expected).all(|(found, expected)| close(*found, expected)));
        let null = null(MOST_POINTS);
        assert!(close(null.iter().sum(), 1.0));
        assert!(null.iter().all(|probability| *probability >= 0.0));
    }

    #[test]
    fn too_few_too_many_and_nonsense_are_refused() {
        let line = |n: u16| (0..n).map(|x| (f64::from(x), 2.0 * f64::from(x))).collect::<Vec<_>>();
        assert_eq!(slope(&[], 0.95), Err(NoInterval::TooFew { n: 0, confidence: 0.95 }));
        assert_eq!(slope(&line(1), 0.95), Err(NoInterval::TooFew { n: 1, confidence: 0.95 }));
        assert_eq!(slope(&line(4), 0.95), Err(NoInterval::TooFew { n: 4, confidence: 0.95 }));
        assert!(slope(&line(5), 0.95).is_ok());
        assert!(slope(&line(5), 0.99).is_err());
        assert!(slope(&line(6), 0.99).is_ok());
        assert!(matches!(slope(&line(501), 0.95), Err(NoInterval::TooMany { .. })));
        assert_eq!(slope(&[(0.0, 1.0), (-0.0, 2.0)], 0.95), Err(NoInterval::EqualX));
        assert_eq!(slope(&[(0.0, f64::NAN); 9], 0.95), Err(NoInterval::NotFinite));
        assert_eq!(slope(&[(0.0, 0.0), (1e-300, 1e300)], 0.95), Err(NoInterval::NotFinite));
        assert_eq!(slope(&line(9), 1.0), Err(NoInterval::Confidence));
    }

    #[test]
    fn a_straight_line_is_its_own_interval() {
        let points: Vec<(f64, f64)> = (0..9).map(|x| (f64::from(x), 3.0 - 0.5 * f64::from(x))).collect();
        let found = slope(&points, 0.95).unwrap();
        assert!([found.estimate, found.low, found.high].iter().all(|end| close(*end, -0.5)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn an_interval_holds_its_estimate_and_tilts_with_the_data(
            steps in vec((0.1..9.0_f64, -1e3..1e3_f64), 5..30), tilt in -1e3..1e3_f64,
        ) {
            let mut x = 0.0;
            let points: Vec<(f64, f64)> = steps.into_iter().map(|(step, y)| { x += step; (x, y) }).collect();
            let here = slope(&points, 0.95).unwrap();
            prop_assert!(here.low <= here.estimate && here.estimate <= here.high);
            prop_assert!(here.confidence >= 0.95);
            let tilted: Vec<(f64, f64)> = points.iter().rev().map(|(x, y)| (*x, y + tilt * x)).collect();
            let there = slope(&tilted, 0.95).unwrap();
            prop_assert!((there.estimate - here.estimate - tilt).abs() < 1e-6);
            prop_assert!((there.low - here.low - tilt).abs() < 1e-6);
            prop_assert!((there.high - here.high - tilt).abs() < 1e-6);
        }

        #[test]
        fn a_falling_y_mirrors_the_interval(y in vec(-9..9_i32, 5..30)) {
            let points: Vec<(f64, f64)> = (0_i32..).zip(y).map(|(x, y)| (f64::from(x), f64::from(y))).collect();
            let fallen: Vec<(f64, f64)> = points.iter().map(|(x, y)| (*x, -y)).collect();
            let (here, there) = (slope(&points, 0.9).unwrap(), slope(&fallen, 0.9).unwrap());
            prop_assert!(close(here.low, -there.high) && close(here.high, -there.low));
            prop_assert!(close(here.estimate, -there.estimate));
        }
    }
}
