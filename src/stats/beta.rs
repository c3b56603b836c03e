//! The regularised incomplete beta function and its inverse.
//!
//! Sources: A. R. `DiDonato` and A. H. Morris, *ACM Transactions on Mathematical Software* 18 (1992), equation 9, for
//! the continued fraction, which is the even part of the common one (*NIST Digital Library of Mathematical Functions*
//! 8.17.22) and unlike that keeps its digits when x is next to 1; C. Loader, *Fast and Accurate Computation of Binomial
//! Probabilities* (2000), for the factor in front of it. With millions of trials the plain formulas would lose the
//! digits that the answer is made of.

use std::f64::consts::TAU;

use super::{
    gamma::{deviance, most_rounds, stirling_error},
    inverse::first_reaching,
};

/// The `x` at which the beta distribution function reaches `p`.
pub(super) fn quantile(p: f64, a: f64, b: f64) -> f64 {
    first_reaching(1.0, |x| regularised(x, 1.0 - x, a, b) < p)
}

/// `I_x(a, b)`, for x from 0 to 1 and positive `a` and `b`. `complement` is 1 − x, which may hold digits that `x`
/// lost.
pub(super) fn regularised(x: f64, complement: f64, a: f64, b: f64) -> f64 {
    let front = front(x, complement, a, b);
    // How far the mean is beyond x, in units of 1/(a+b), from the smaller of x and its complement.
    let to_mean = if a > b { (a + b) * complement - b } else { a - (a + b) * x };
    // The fraction converges fast on the near side of the mean; the far side is the mirror image.
    if to_mean >= 0.0 {
        front * fraction(x, complement, a, b, to_mean)
    } else {
        1.0 - front * fraction(complement, x, b, a, -to_mean)
    }
}

/// x^a (1−x)^b / B(a, b).
fn front(x: f64, complement: f64, a: f64, b: f64) -> f64 {
    let n = a + b;
    let errors = stirling_error(n) - stirling_error(a) - stirling_error(b);
    let exponent = errors - deviance(a, n * x) - deviance(b, n * complement);
    exponent.exp() * (a / n * b / TAU).sqrt()
}

/// The continued fraction, evaluated from the front (W. J. Thompson and I. J. Lentz). It takes about the square root
/// of the larger parameter.
fn fraction(x: f64, complement: f64, a: f64, b: f64, to_mean: f64) -> f64 {
    let mut below = (a + 1.0) / (a * (to_mean + 1.0));
    let mut above = f64::INFINITY;
    let mut fraction = below;
    for round in 1..=most_rounds(a.max(b)) {
        let n = f64::from(round);
        let odd = a + 2.0 * n - 1.0;
        let numerator = (a + n - 1.0) / odd * ((a + b + n - 1.0) / odd) * n * (b - n) * x * x;
        let partial =
            n + n * (b - n) * x / odd + (a + n) / (odd + 2.0) * (to_mean + 1.0 + n * (1.0 + complement));
        below = 1.0 / (partial + numerator * below);
        above = partial + numerator / above;
        let factor = above * below;
        fraction *= factor;
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::ProptestConfig, prop_assert, proptest};

    use super::*;

    /// From `mpmath` with 32 digits: x, a, b and the function.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `mpmath` prints them")]
    fn it_agrees_with_many_digits() {
        let vectors: [(f64, f64, f64, f64); 16] = [
            (0.08036463636949644, 962.0852560023576, 8595.990247319396, 9.999999999999665e-13),
            (0.06810402897514364, 205.96230852583528, 2646.3288899024024, 0.19999999999999998),
            (0.9999895681578544, 392431.4575001165, 7.263610043579246, 0.899999999998484),
            (0.9596149996712167, 24557.770536684657, 1033.8229007194577, 0.4999999999999911),
            (0.9999608671984292, 642777.3398673906, 42.493246902561474, 0.9989999999999982),
            (0.0017897885892317902, 8.08079532351887, 4322.714890043504, 0.5000000000000009),
            (0.008617934715407437, 2.638327842337801, 266.47873848087687, 0.5000000000000004),
            (0.45224503461207793, 70280.97591840578, 85351.25841109782, 0.7000000000000051),
            (0.45078772353103175, 11.345680712323528, 4.058236722842396, 0.010000000000000014),
            (0.9999933548469359, 5910.855107838278, 1.9312076161591345, 0.9989999999999953),
            (0.16845116880541186, 574.2971373483359, 3251.9114181715668, 0.999),
            (0.004338981997495793, 4.617562473563591, 27.207551563411556, 1.0000000000000002e-06),
            (0.999999999999978, 106575.39476295198, 0.1187580297970081, 0.8999794998158424),
            (0.9999999999995925, 36708.73843875419, 0.13125679181827352, 0.8999985496904291),
            (0.9994940337031641, 130034.80876299774, 70.45901222530665, 0.7000000000002401),
            (4.729078872110837e-08, 2.0, 82251114.0, 0.9000000000001378),
        ];
        for (x, a, b, expected) in vectors {
            let found = regularised(x, 1.0 - x, a, b);
            assert!(
                (found - expected).abs() <= 1e-12 * expected,
                "I_{x}({a}, {b}) is {found}, not {expected}"
            );
        }
    }

    #[test]
    fn the_ends() {
        for (a, b) in [(0.5, 0.5), (1.0, 1.0), (3.0, 1e6), (1e6, 0.1)] {
            assert_eq!((regularised(0.0, 1.0, a, b), regularised(1.0, 0.0, a, b)), (0.0, 1.0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_mirror_image_is_the_rest(x in 0.0..=1.0_f64, a in 0.1..1e4_f64, b in 0.1..1e4_f64) {
            let sum = regularised(x, 1.0 - x, a, b) + regularised(1.0 - x, x, b, a);
            prop_assert!((sum - 1.0).abs() <= 1e-12, "{sum}");
        }

        #[test]
        fn a_quantile_is_turned_round(p in 0.001..0.999_f64, a in 0.5..1e4_f64, b in 0.5..1e4_f64) {
            let x = quantile(p, a, b);
            prop_assert!((regularised(x, 1.0 - x, a, b) - p).abs() <= 1e-10);
        }
    }
}
