//! A one-sided test that is looked at while data come in: how small its p value has to be at each look, and what is
//! still to be expected of it.
//!
//! Sources: K. K. G. Lan and D. L. `DeMets`, *Biometrika* 70 (1983), for spending an error rate over looks that need
//! not be planned; P. Armitage, C. K. `McPherson` and B. C. Rowe, *JRSS A* 132 (1969), for the recursive integration;
//! C. Jennison and B. W. Turnbull, *Group Sequential Methods* (1999), chapters 7 and 19; K. K. G. Lan and J. Wittes,
//! *Biometrics* 44 (1988), for the conditional power.
//!
//! The statistic at information fraction t is z = B(t)/√t, where B, the B-value, is a Brownian motion without drift
//! under the null hypothesis: what it gains from one look to the next is normal, with the gain of t as its variance,
//! and independent of what was before.

use std::f64::consts::{E, TAU};

use super::{is_confidence, normal};

/// The most looks taken.
pub const MOST_LOOKS: usize = 100;
/// The largest cap taken: looks closer together than a ten-thousandth of it would need finer steps.
pub const MOST_CAP: u32 = 10_000;

/// The one-sided p value at or below which each look ends the test, so that all looks together end it under the null
/// hypothesis with probability `alpha`, if the last look is at `cap`, and with the part of it spent by then, if not.
///
/// By a look at information fraction t = look/cap, what [`Spending`] says of `alpha` is spent. What a look may spend depends on the looks before it alone, so
/// further looks may be decided on later. Probabilities are integrated to about ten digits.
///
/// `looks` rise, from 1 to `cap` at most. `None` when they do not or there are none, there are more than
/// [`MOST_LOOKS`], `cap` is above [`MOST_CAP`], or `alpha` is not above 0 and at most a half.
///
/// ```
/// # use qbench::stats::sequential::{Spending, nominal_levels};
/// let levels = nominal_levels(&[10, 20, 30, 40], 40, 0.025, Spending::Pocock).unwrap_or_default();
/// assert!(levels.iter().all(|level| (0.008..0.011).contains(level)));
/// assert_eq!(nominal_levels(&[40], 40, 0.025, Spending::Pocock), Some(vec![0.025]), "one look is a common test");
/// assert_eq!(nominal_levels(&[20, 10], 40, 0.025, Spending::Pocock), None);
/// ```
pub fn nominal_levels(looks: &[u32], cap: u32, alpha: f64, spending: Spending) -> Option<Vec<f64>> {
    let are_rising = looks.is_sorted_by(|look, next| look < next);
    let are_within = *looks.first()? >= 1 && *looks.last()? <= cap;
    let is_alpha = alpha > 0.0 && alpha <= 0.5;
    if !are_rising || !are_within || looks.len() > MOST_LOOKS || cap > MOST_CAP || !is_alpha {
        return None;
    }
    let fractions: Vec<f64> = looks.iter().map(|look| f64::from(*look) / f64::from(cap)).collect();
    let first = spending.spent(fractions[0], alpha);
    let mut levels = vec![first];
    let mut boundary = -normal::quantile(first)? * fractions[0].sqrt();
    let mut paths = Paths::at_the_start();
    for pair in fractions.windows(2) {
        paths = paths.below(boundary, pair[0], pair[1] - pair[0]);
        let guess = boundary * (pair[1] / pair[0]).sqrt();
        let due = spending.spent(pair[1], alpha) - spending.spent(pair[0], alpha);
        boundary = paths.boundary_that_ends(due, pair[1], guess)?;
        levels.push(normal::upper_tail(boundary / pair[1].sqrt()));
    }
    Some(levels)
}

/// The probability that the statistic ends above `critical`, when it is `z` at information fraction `fraction` and
/// goes on as it did so far.
///
/// The B-value is then z·√t, and its drift so far z/√t for each unit of information. At t = 1, where it is the
/// statistic, it is therefore normal around z·√t + (1−t)·z/√t = z/√t, with variance 1−t: the probability is
/// Φ((z/√t − critical)/√(1−t)).
///
/// `None` when the fraction is not between 0 and 1, both exclusive, or a number is not finite.
///
/// ```
/// # use qbench::stats::sequential::conditional_power;
/// assert_eq!(conditional_power(0.98, 0.25, 1.96), Some(0.5), "exactly on the way");
/// assert!(conditional_power(0.0, 0.5, 1.96).is_some_and(|power| power < 0.003));
/// ```
pub fn conditional_power(z: f64, fraction: f64, critical: f64) -> Option<f64> {
    let is_known = z.is_finite() && critical.is_finite();
    (is_known && is_confidence(fraction))
        .then(|| normal::cdf((z / fraction.sqrt() - critical) / (1.0 - fraction).sqrt()))
}

/// How an error rate is spent over the information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spending {
    /// alpha·ln(1 + (e−1)·t): the function of Lan and `DeMets` that makes levels nearly equal, as Pocock's are. A
    /// test that may well end early.
    Pocock,
    /// alpha·t² (K. Kim and D. L. `DeMets`, *Biometrika* 74 (1987), with ρ = 2): most is kept for the later looks. A
    /// test that must decide in the end.
    Quadratic,
}

impl Spending {
    /// How much of `alpha` is spent by an information fraction.
    fn spent(self, fraction: f64, alpha: f64) -> f64 {
        match self {
            _ if fraction >= 1.0 => alpha,
            Self::Pocock => alpha * ((E - 1.0) * fraction).ln_1p(),
            Self::Quadratic => alpha * fraction * fraction,
        }
    }
}

/// Where the paths are that no look has ended, as points of mass that stand for a density: ascending B-values, each
/// with its probability.
struct Paths {
    points: Vec<(f64, f64)>,
    /// The information fraction they are at.
    fraction: f64,
}

/// Beyond this many standard deviations a normal distribution holds less than 1e-15 of anything.
const FARTHEST: f64 = 8.0;

/// Abscissae and weights of the Gauss–Legendre rule of ten points, the positive half (Abramowitz and Stegun, table
/// 25.4).
const GAUSS_LEGENDRE: [(f64, f64); 5] = [
    (0.148_874_338_981_631_22, 0.295_524_224_714_752_8),
    (0.433_395_394_129_247_2, 0.269_266_719_309_996_5),
    (0.679_409_568_299_024_4, 0.219_086_362_515_982),
    (0.865_063_366_688_984_5, 0.149_451_349_150_580_4),
    (0.973_906_528_517_171_7, 0.066_671_344_308_688_14),
];

impl Paths {
    fn at_the_start() -> Self {
        Self { points: vec![(0.0, 1.0)], fraction: 0.0 }
    }

    /// Those that are below `boundary` at the later `fraction`. `next_step` is how far it is to the look after that:
    /// the density is needed in steps that are fine for both.
    fn below(&self, boundary: f64, fraction: f64, next_step: f64) -> Self {
        let step = fraction - self.fraction;
        let lowest = -FARTHEST * fraction.sqrt();
        let widest = 2.0 * step.min(next_step).sqrt();
        // At least one panel, also when the boundary is where no path is.
        let panels = ((boundary - lowest) / widest).ceil().max(1.0);
        let half = 0.5 * (boundary - lowest) / panels;
        let mut points = Vec::with_capacity(panels as usize * 2 * GAUSS_LEGENDRE.len());
        for panel in 0..panels as usize {
            let middle = lowest + half * (2 * panel + 1) as f64;
            let left = GAUSS_LEGENDRE.iter().rev().map(|(at, weight)| (-at, weight));
            let right = GAUSS_LEGENDRE.iter().map(|(at, weight)| (*at, weight));
            for (at, weight) in left.chain(right) {
                let value = middle + half * at;
                points.push((value, half * weight * self.density(value, step)));
            }
        }
        Self { points, fraction }
    }

    /// The density of the B-value after a step of information.
    fn density(&self, value: f64, step: f64) -> f64 {
        let deviation = step.sqrt();
        let from = self.points.partition_point(|(point, _)| *point < value - FARTHEST * deviation);
        let mut sum = 0.0;
        for (point, probability) in &self.points[from..] {
            let z = (value - point) / deviation;
            if z < -FARTHEST {
                break;
            }
            sum += probability * (-0.5 * z * z).exp();
        }
        sum / (deviation * TAU.sqrt())
    }

    /// The probability of being above a boundary after a step of information.
    fn above(&self, boundary: f64, step: f64) -> f64 {
        let deviation = step.sqrt();
        let from = self.points.partition_point(|(point, _)| *point < boundary - FARTHEST * deviation);
        let tail = |(point, probability): &(f64, f64)| {
            probability * normal::upper_tail((boundary - point) / deviation)
        };
        self.points[from..].iter().map(tail).sum()
    }

    /// The boundary at the later `fraction` that just the probability `spend` is above; `None` if none is found.
    ///
    /// The logarithm of what is above is concave, since truncated normal densities and their sums with normal steps
    /// are log-concave: Newton's method on it comes down to the boundary from wherever it begins.
    fn boundary_that_ends(&self, spend: f64, fraction: f64, guess: f64) -> Option<f64> {
        let step = fraction - self.fraction;
        let mut boundary = guess;
        for _ in 0..100 {
            let above = self.above(boundary, step);
            let change = above * (above / spend).ln() / self.density(boundary, step);
            boundary += change;
            if !boundary.is_finite() {
                return None;
            }
            if change.abs() < 1e-12 {
                return Some(boundary);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_set, prelude::ProptestConfig, prop_assert, proptest};

    use super::*;

    fn agree(found: &[f64], expected: &[f64], tolerance: f64) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance)
    }

    /// By `scipy.optimize.brentq` on a Gauss–Legendre quadrature of 400 points from end to end, which
    /// `scipy.stats.multivariate_normal` confirms to the digits that it has: looks, cap, alpha, and the levels.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn levels_agree_with_scipy() {
        type Vector = (&'static [u32], u32, f64, &'static [f64]);
        const LOOKS: [u32; 5] = [10, 15, 20, 30, 40];
        let vectors: [Vector; 6] = [
            (
                &LOOKS,
                40,
                0.01,
                &[
                    0.0035737401950878852,
                    0.0023533556091649274,
                    0.002328399118677995,
                    0.003221508309946941,
                    0.0032937897402993866,
                ],
            ),
            (
                &LOOKS,
                40,
                0.025,
                &[
                    0.008934350487719712,
                    0.006357757731924484,
                    0.006429824820433058,
                    0.008837215149263522,
                    0.009236517665203631,
                ],
            ),
            (
                &LOOKS,
                40,
                0.01 / 3.0,
                &[
                    0.0011912467316959618,
                    0.0007263928212532213,
                    0.0007048156181564433,
                    0.000985928641859906,
                    0.000987208992758231,
                ],
            ),
            (
                &LOOKS,
                40,
                0.0025,
                &[
                    0.0008934350487719713,
                    0.0005352040298403799,
                    0.0005171359734395798,
                    0.0007256919611611133,
                    0.0007231739779912391,
                ],
            ),
            (&[7, 8, 31], 40, 0.05, &[0.013145102913844157, 0.007583277269749515, 0.031076724329755695]),
            (&[3999, 4000], 4000, 0.01, &[0.009998419573722146, 0.009078132150969018]),
        ];
        for (looks, cap, alpha, expected) in vectors {
            let found = nominal_levels(looks, cap, alpha, Spending::Pocock).unwrap();
            assert!(agree(&found, expected, 1e-10), "{found:?} for {expected:?}");
        }
    }

    /// Five equal looks at 2.5% on one side, to the two digits of published tables of this spending function.
    #[test]
    fn boundaries_agree_with_published_ones() {
        let levels = nominal_levels(&[1, 2, 3, 4, 5], 5, 0.025, Spending::Pocock).unwrap();
        let boundaries: Vec<f64> = levels.iter().map(|level| -normal::quantile(*level).unwrap()).collect();
        assert!(agree(&boundaries, &[2.44, 2.43, 2.41, 2.40, 2.39], 0.005), "{boundaries:?}");
    }

    #[test]
    fn a_single_look_is_a_common_test() {
        for alpha in [0.05, 0.025, 0.01, 0.01 / 3.0, 0.0025] {
            assert_eq!(nominal_levels(&[40], 40, alpha, Spending::Pocock), Some(vec![alpha]));
            let spent = alpha * ((E - 1.0) * 0.25).ln_1p();
            assert_eq!(
                nominal_levels(&[10], 40, alpha, Spending::Pocock),
                Some(vec![spent]),
                "the rest stays unspent"
            );
        }
    }

    #[test]
    fn what_cannot_be_planned_is_refused() {
        let refused = |looks: &[u32], cap, alpha| {
            assert_eq!(nominal_levels(looks, cap, alpha, Spending::Pocock), None, "{looks:?}");
        };
        refused(&[], 40, 0.01);
        refused(&[0, 10], 40, 0.01);
        refused(&[10, 10], 40, 0.01);
        refused(&[20, 10], 40, 0.01);
        refused(&[10, 41], 40, 0.01);
        refused(&[10], MOST_CAP + 1, 0.01);
        refused(&(1..=101).collect::<Vec<_>>(), 101, 0.01);
        for alpha in [0.0, -0.1, 0.6, f64::NAN] {
            refused(&[10], 40, alpha);
        }
    }

    #[test]
    fn many_looks_and_looks_next_to_each_other_have_levels() {
        let levels = nominal_levels(&(1..=100).collect::<Vec<_>>(), 100, 0.025, Spending::Pocock).unwrap();
        assert!(levels.iter().all(|level| *level > 0.0 && *level < 0.025));
        assert!(nominal_levels(&[1, 2, 9_999, 10_000], 10_000, 1e-6, Spending::Pocock).is_some());
    }

    /// By the drift: what is still to come is normal around it.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `SciPy` prints them")]
    fn conditional_power_agrees_with_scipy() {
        let vectors = [
            (1.0, 0.5, 1.96, 0.22009909517031645),
            (2.5, 0.25, 2.3, 0.9990886324168043),
            (-0.7, 0.8, 1.5, 1.6618451888501253e-07),
            (2.36, 0.9, 2.356, 0.6614195693783287),
            (0.1, 0.05, 2.0, 0.05556604948173406),
        ];
        for (z, fraction, critical, expected) in vectors {
            let found = conditional_power(z, fraction, critical).unwrap();
            assert!((found - expected).abs() <= 1e-12, "{found}, not {expected}");
        }
        for fraction in [0.0, 1.0, -0.5, f64::NAN] {
            assert_eq!(conditional_power(1.0, fraction, 2.0), None);
        }
        assert_eq!(conditional_power(f64::INFINITY, 0.5, 2.0), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_later_look_leaves_the_levels_before_as_they_were(
            looks in btree_set(1..=40_u32, 2..7), alpha in 0.001..0.1_f64,
        ) {
            let looks: Vec<u32> = looks.into_iter().collect();
            let all = nominal_levels(&looks, 40, alpha, Spending::Pocock).unwrap();
            let before = nominal_levels(&looks[..looks.len() - 1], 40, alpha, Spending::Pocock).unwrap();
            prop_assert!(agree(&before, &all[..before.len()], 1e-10));
            // A level is at least what the look may spend, and no more than everything that is spent by then.
            let mut spent_before = 0.0;
            for (look, level) in looks.iter().zip(&all) {
                let now = Spending::Pocock.spent(f64::from(*look) / 40.0, alpha);
                prop_assert!(now - spent_before <= level + 1e-12 && *level <= now + 1e-12);
                spent_before = now;
            }
        }

        #[test]
        fn only_fractions_matter(looks in btree_set(1..=20_u32, 1..5), times in 2..50_u32) {
            let looks: Vec<u32> = looks.into_iter().collect();
            let scaled: Vec<u32> = looks.iter().map(|look| look * times).collect();
            let (here, there) = (nominal_levels(&looks, 20, 0.025, Spending::Pocock), nominal_levels(&scaled, 20 * times, 0.025, Spending::Pocock));
            prop_assert!(agree(&here.unwrap(), &there.unwrap(), 1e-12));
        }
    }
}
