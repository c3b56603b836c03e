//! One sample: Wilcoxon's signed-rank test and the Hodges–Lehmann estimate that belongs to it.
//!
//! Sources: F. Wilcoxon, *Biometrics Bulletin* 1 (1945); J. L. Hodges and E. L. Lehmann, *Annals of Mathematical
//! Statistics* 34 (1963); E. L. Lehmann, *Nonparametrics: Statistical Methods Based on Ranks* (1975), chapters 3
//! and 4.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use super::{Interval, NoInterval, between_ordered, is_confidence, quantile};

/// The most values taken: their Walsh averages still fit a cache, and the null costs milliseconds.
pub const MOST_VALUES: usize = 500;

/// The Hodges–Lehmann estimate of the centre: the median of the averages of all pairs, each value with itself
/// included.
///
/// `None` when there are no values, one is not finite, or there are more than [`MOST_VALUES`].
///
/// ```
/// # use qbench::stats::signed_rank::centre;
/// assert_eq!(centre(&[1.0, 2.0, 6.0]), Some(2.75));
/// ```
pub fn centre(values: &[f64]) -> Option<f64> {
    if values.len() > MOST_VALUES {
        return None;
    }
    quantile::middle(&mut walsh_averages(values)?)
}

/// The averages of all pairs: n(n+1)/2 of them, in no order. `None` when a value is not finite.
fn walsh_averages(values: &[f64]) -> Option<Vec<f64>> {
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut averages = Vec::with_capacity(values.len() * (values.len() + 1) / 2);
    for (at, first) in values.iter().enumerate() {
        averages.extend(values[at..].iter().map(|second| f64::midpoint(*first, *second)));
    }
    Some(averages)
}

/// The Hodges–Lehmann estimate of the centre, with the exact interval of the signed-rank test at no less than the
/// confidence asked for. Both ends belong to the interval, which keeps the confidence when values are tied
/// (G. E. Noether, *JASA* 62 (1967)).
///
/// ```
/// # use qbench::stats::signed_rank::interval;
/// let shifts = [0.011, 0.024, -0.006, 0.017, 0.003, 0.020];
/// let found = interval(&shifts, 0.95)?;
/// assert!(found.low <= found.estimate && found.estimate <= found.high);
/// assert!(found.confidence >= 0.95);
/// assert!(interval(&shifts[..5], 0.95).is_err(), "five values cannot carry 95%");
/// # Ok::<(), qbench::stats::NoInterval>(())
/// ```
///
/// # Errors
/// When the values are too few for the confidence (95% needs 6, 99% needs 8), more than [`MOST_VALUES`], or not
/// all finite; when the confidence is not between 0 and 1.
pub fn interval(values: &[f64], confidence: f64) -> Result<Interval, NoInterval> {
    if !is_confidence(confidence) {
        return Err(NoInterval::Confidence);
    }
    let n = values.len();
    if n > MOST_VALUES {
        return Err(NoInterval::TooMany { n, most: MOST_VALUES });
    }
    let averages = walsh_averages(values).ok_or(NoInterval::NotFinite)?;
    between_ordered(averages, &untied(n).each, confidence).ok_or(NoInterval::TooFew { n, confidence })
}

/// The outcome of a signed-rank test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SignedRank {
    /// The sum of the ranks of the values above the hypothesised centre.
    pub positive_ranks: f64,
    /// Values that differ from the hypothesised centre; the others say nothing and are left out.
    pub n: usize,
    /// The probability of a sum this large or larger when the centre is the hypothesised one.
    pub p_greater: f64,
    /// The probability of a sum this small or smaller.
    pub p_less: f64,
}

impl SignedRank {
    /// How many standard deviations the sum of ranks lies below its mean, were the centre the hypothesised one: the
    /// normal approximation, for a trend rather than a decision. 0 when no value says anything.
    pub fn standardised(&self) -> f64 {
        let n = self.n as f64;
        let deviation = (n * (n + 1.0) * (2.0 * n + 1.0) / 24.0).sqrt();
        if self.n == 0 { 0.0 } else { (n * (n + 1.0) / 4.0 - self.positive_ranks) / deviation }
    }
}

/// The signed-rank test of the centre being `centre`, exact also with ties, which get the mean of their ranks.
///
/// `None` when a value or the centre is not finite, or there are more than [`MOST_VALUES`]. With no value that
/// differs from the centre both probabilities are 1.
pub fn test(values: &[f64], centre: f64) -> Option<SignedRank> {
    if values.len() > MOST_VALUES {
        return None;
    }
    let shifted: Vec<f64> = values.iter().map(|value| value - centre).filter(|d| *d != 0.0).collect();
    let shifted = quantile::finite(&shifted)?;
    let doubled = doubled_midranks(&shifted);
    let positive: usize =
        shifted.iter().zip(&doubled).filter(|(value, _)| **value > 0.0).map(|(_, rank)| rank).sum();
    // Ties alone make an odd doubled rank, or one that is there twice.
    let mut sorted = doubled.clone();
    sorted.sort_unstable();
    let is_untied = sorted.iter().enumerate().all(|(at, rank)| *rank == 2 * (at + 1));
    let (p_greater, p_less) = if is_untied {
        let null = untied(shifted.len());
        (null.at_least(positive / 2), null.at_most(positive / 2))
    } else {
        let null = null(&doubled);
        let sum = |part: &[f64]| part.iter().sum::<f64>().min(1.0);
        (sum(null.get(positive..).unwrap_or_default()), sum(null.get(..=positive).unwrap_or_default()))
    };
    Some(SignedRank { positive_ranks: positive as f64 / 2.0, n: shifted.len(), p_greater, p_less })
}

/// The null distribution of the ranks 1 to n.
struct Untied {
    /// The probability of each sum.
    each: Vec<f64>,
    /// The probability of each sum or a smaller one.
    up_to: Vec<f64>,
}

impl Untied {
    fn at_most(&self, sum: usize) -> f64 {
        self.up_to.get(sum).copied().unwrap_or(1.0).min(1.0)
    }

    /// The distribution is symmetric.
    fn at_least(&self, sum: usize) -> f64 {
        (self.each.len() - 1).checked_sub(sum).map_or(0.0, |mirrored| self.at_most(mirrored))
    }
}

/// The same for every sample of a size, and asked for at every look of every metric: each is computed once a thread.
fn untied(n: usize) -> Rc<Untied> {
    thread_local! {
        static KNOWN: RefCell<BTreeMap<usize, Rc<Untied>>> = const { RefCell::new(BTreeMap::new()) };
    }
    KNOWN.with_borrow_mut(|known| {
        Rc::clone(known.entry(n).or_insert_with(|| {
            let ranks: Vec<usize> = (1..=n).collect();
            let each = null(&ranks);
            let mut sum = 0.0;
            let up_to = each.iter().map(|probability| {
                sum += probability;
                sum
            });
            let up_to = up_to.collect();
            Rc::new(Untied { each, up_to })
        }))
    })
}

/// Twice the midrank of each magnitude, in the order of the values. Doubled, a midrank is a whole number, and the
/// null distribution stays a sum over whole numbers.
fn doubled_midranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].abs().total_cmp(&values[*b].abs()));
    let mut ranks = vec![0; values.len()];
    let mut done = 0;
    for tied in order.chunk_by(|a, b| values[*a].abs().total_cmp(&values[*b].abs()).is_eq()) {
        // First rank plus last rank of the group, counted from 1: twice their mean.
        let doubled = (done + 1) + (done + tied.len());
        for at in tied {
            ranks[*at] = doubled;
        }
        done += tied.len();
    }
    ranks
}

/// The probability of each sum of ranks when every rank is counted or not with even odds.
fn null(ranks: &[usize]) -> Vec<f64> {
    let mut probabilities = vec![0.0; ranks.iter().sum::<usize>() + 1];
    probabilities[0] = 1.0;
    let mut reached = 0;
    for rank in ranks {
        reached += rank;
        for sum in (0..=reached).rev() {
            let with = sum.checked_sub(*rank).map_or(0.0, |rest| probabilities[rest]);
            probabilities[sum] = 0.5 * (probabilities[sum] + with);
        }
    }
    probabilities
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
    }

    /// From `SciPy` 1.17 and the enumeration of all signs: values, confidence, and estimate, low, high, confidence.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn intervals_agree_with_enumeration() {
        let vectors: [(&[f64], f64, [f64; 4]); 5] = [
            (&[0.0201, 0.0349, 0.0063, -0.0245, -0.0027, -0.0296], 0.95, [0.0018, -0.0296, 0.0349, 0.96875]),
            (
                &[0.023, 0.087, -0.0046, -0.011, 0.0445, 0.0378, 0.0253, -0.0265, 0.0185, 0.0548],
                0.95,
                [0.02415, -0.0006, 0.04965, 0.951171875],
            ),
            (
                &[
                    -0.0472, -0.0029, -0.0751, -0.0445, -0.0721, 0.0082, -0.0434, 0.0336, 0.0278, 0.0107,
                    -0.1058, -0.0069,
                ],
                0.95,
                [-0.024375, -0.0583, 0.0082, 0.95751953125],
            ),
            (
                &[
                    0.0176, 0.0257, -0.0565, -0.0039, -0.0289, -0.0204, 0.073, -0.0204, 0.0184, 0.0642,
                    -0.0092, 0.0144,
                ],
                0.99,
                [0.004025, -0.02465, 0.0437, 0.99072265625],
            ),
            (
                &[
                    0.0255, 0.0232, -0.0413, 0.0238, 0.0879, -0.0574, 0.063, 0.026, -0.0121, 0.12, 0.0581,
                    -0.04, 0.0237, 0.0488, 0.0106,
                ],
                0.9,
                [0.02415, 0.00035, 0.0434, 0.9053955078125],
            ),
        ];
        for (values, confidence, expected) in vectors {
            let found = interval(values, confidence).unwrap();
            let found = [found.estimate, found.low, found.high, found.confidence];
            assert!(found.iter().zip(expected).all(|(a, b)| close(*a, b)), "{found:?} for {expected:?}");
        }
    }

    /// From `scipy.stats.wilcoxon` (exact), the tied ones from the enumeration of all signs: values, centre,
    /// positive ranks, and the probabilities of more and of less.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn probabilities_agree_with_scipy() {
        let vectors: [(&[f64], f64, f64, f64, f64); 4] = [
            (
                &[0.0541, 0.0167, 0.0534, 0.0919, -0.0138, 0.0302, -0.0032, 0.0264],
                0.0,
                33.0,
                0.01953125,
                0.98828125,
            ),
            (
                &[
                    -0.0394, -0.009, 0.0102, 0.0649, 0.0773, -0.0462, -0.0197, 0.0523, -0.0796, -0.0032,
                    0.0151, 0.0829,
                ],
                0.0,
                46.0,
                0.31103515625,
                0.71533203125,
            ),
            (&[1.0, 1.0, 2.0, -2.0, 3.0, 3.0, -1.0, 4.0], 0.0, 29.5, 0.0703125, 0.9609375),
            (&[1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -2.0, 2.0, 2.0], 0.0, 33.5, 0.123046875, 0.912109375),
        ];
        for (values, centre, positive_ranks, p_greater, p_less) in vectors {
            let found = test(values, centre).unwrap();
            assert!(close(found.positive_ranks, positive_ranks), "{found:?}");
            assert!(close(found.p_greater, p_greater) && close(found.p_less, p_less), "{found:?}");
        }
        let about_three_percent = test(vectors[0].0, 0.03).unwrap();
        assert!(close(about_three_percent.p_greater, 0.52734375));
    }

    #[test]
    fn too_few_too_many_and_nonsense_are_refused() {
        assert_eq!(interval(&[], 0.95), Err(NoInterval::TooFew { n: 0, confidence: 0.95 }));
        assert_eq!(interval(&[1.0; 5], 0.95), Err(NoInterval::TooFew { n: 5, confidence: 0.95 }));
        assert!(close(interval(&[1.0; 6], 0.95).unwrap().confidence, 0.96875));
        assert!(interval(&[1.0; 7], 0.99).is_err());
        assert!(interval(&[1.0; 8], 0.99).is_ok());
        assert_eq!(interval(&[f64::NAN; 9], 0.95), Err(NoInterval::NotFinite));
        assert_eq!(interval(&[f64::INFINITY; 9], 0.95), Err(NoInterval::NotFinite));
        assert!(matches!(interval(&vec![1.0; 501], 0.95), Err(NoInterval::TooMany { .. })));
        for confidence in [0.0, 1.0, -1.0, f64::NAN] {
            assert_eq!(interval(&[1.0; 9], confidence), Err(NoInterval::Confidence));
        }
        assert_eq!(test(&[1.0, f64::NAN], 0.0), None);
        assert_eq!(test(&[1.0], f64::INFINITY), None);
    }

    #[test]
    fn values_at_the_centre_say_nothing() {
        let found = test(&[2.0, 2.0], 2.0).unwrap();
        assert_eq!((found.n, found.positive_ranks), (0, 0.0));
        assert!(close(found.p_greater, 1.0) && close(found.p_less, 1.0));
    }

    #[test]
    fn the_null_of_many_values_is_a_distribution() {
        let ranks: Vec<usize> = (1..=MOST_VALUES).collect();
        assert!(close(null(&ranks).iter().sum(), 1.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn an_interval_holds_its_estimate_and_moves_with_the_data(
            values in vec(-1e3..1e3_f64, 6..40), shift in -1e3..1e3_f64,
        ) {
            let here = interval(&values, 0.95).unwrap();
            prop_assert!(here.low <= here.estimate && here.estimate <= here.high);
            prop_assert!(here.confidence >= 0.95);
            let moved: Vec<f64> = values.iter().map(|value| value + shift).collect();
            let there = interval(&moved, 0.95).unwrap();
            prop_assert!((there.estimate - here.estimate - shift).abs() < 1e-6);
            prop_assert!((there.low - here.low - shift).abs() < 1e-6);
            prop_assert!((there.high - here.high - shift).abs() < 1e-6);
        }

        #[test]
        fn negation_mirrors_interval_and_test(values in vec(-9..9_i32, 6..30)) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let negated: Vec<f64> = values.iter().map(|value| -value).collect();
            let (here, there) = (interval(&values, 0.9).unwrap(), interval(&negated, 0.9).unwrap());
            prop_assert!(close(here.low, -there.high) && close(here.high, -there.low));
            prop_assert!(close(here.estimate, -there.estimate));
            let (here, there) = (test(&values, 0.0).unwrap(), test(&negated, 0.0).unwrap());
            prop_assert!((here.p_greater - there.p_less).abs() < 1e-9);
            prop_assert_eq!(here.n, there.n);
        }

        #[test]
        fn the_interval_is_the_test_turned_round(values in vec(-1e3..1e3_f64, 6..25)) {
            let found = interval(&values, 0.95).unwrap();
            let beyond = test(&values, found.high + 1e-6).unwrap();
            let within = test(&values, found.high - 1e-6).unwrap();
            prop_assert!(beyond.p_less <= 0.025);
            prop_assert!(found.low >= found.high - 2e-6 || within.p_less > beyond.p_less);
        }
    }
}
