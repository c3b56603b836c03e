//! The gamma function and the regularised incomplete gamma functions.
//!
//! Sources: the *NIST Digital Library of Mathematical Functions* (DLMF), chapters 5 and 8. The factor in front of the
//! series and of the fraction is a Poisson probability, written as in C. Loader, *Fast and Accurate Computation of
//! Binomial Probabilities* (2000): powers and factorials are not multiplied out, only how far they are from their
//! largest value, which keeps the digits at parameters of many millions.

use std::f64::consts::TAU;

/// P(a, x), the lower of the two, for positive `a` and `x` not negative.
pub(super) fn lower(a: f64, x: f64) -> f64 {
    if x < a + 1.0 { series(a, x) } else { 1.0 - fraction(a, x) }
}

/// Q(a, x) = 1 − P(a, x), which keeps its digits where it is small.
pub(super) fn upper(a: f64, x: f64) -> f64 {
    if x < a + 1.0 { 1.0 - series(a, x) } else { fraction(a, x) }
}

/// P(a, x) = x^a e^(−x) / Γ(a+1) · (1 + x/(a+1) + x²/((a+1)(a+2)) + …) (DLMF 8.11.4).
fn series(a: f64, x: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for round in 1..=most_rounds(a) {
        term *= x / (a + f64::from(round));
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    front(a, x) * sum
}

/// Q(a, x) by the continued fraction DLMF 8.9.2, contracted to its even part and evaluated from the front
/// (W. J. Thompson and I. J. Lentz).
fn fraction(a: f64, x: f64) -> f64 {
    if x == f64::INFINITY {
        return 0.0;
    }
    let mut partial = x + 1.0 - a;
    let (mut above, mut below) = (f64::INFINITY, 1.0 / partial);
    let mut fraction = below;
    for round in 1..=most_rounds(a) {
        let m = f64::from(round);
        partial += 2.0;
        let numerator = m * (a - m);
        below = 1.0 / (partial + numerator * below);
        above = partial + numerator / above;
        let factor = above * below;
        fraction *= factor;
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front(a, x) * a * fraction
}

/// x^a e^(−x) / Γ(a+1).
fn front(a: f64, x: f64) -> f64 {
    (-deviance(a, x) - stirling_error(a)).exp() / (TAU * a).sqrt()
}

/// Both expansions take about ten times the square root of the parameter; the bound keeps nonsense finite.
pub(super) fn most_rounds(parameter: f64) -> u32 {
    1000 + 10 * parameter.sqrt().min(1e4) as u32
}

/// k·ln(k/m) + m − k for positive `k`: how much less likely `k` is than its most likely value under the mean `m`.
///
/// Near the mean the three parts cancel. With v = (k−m)/(k+m), ln(k/m) is 2(v + v³/3 + v⁵/5 + …), and the first term
/// of it leaves (k−m)²/(k+m) of them.
pub(super) fn deviance(k: f64, m: f64) -> f64 {
    let v = (k - m) / (k + m);
    if v.abs() > 0.1 {
        return k * (k / m).ln() + m - k;
    }
    let square = v * v;
    let (mut power, mut sum) = (v, 0.0);
    // The tenth power of the square is below rounding.
    for odd in [3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0] {
        power *= square;
        sum += power / odd;
    }
    (k - m) * v + 2.0 * k * sum
}

/// Above this the Stirling series is exact to rounding.
const STIRLING_FROM: f64 = 15.0;

/// What Stirling's formula leaves of ln Γ(x): ln Γ(x) − (x−½)·ln x + x − ½·ln 2π, for positive x.
///
/// The series is DLMF 5.11.1; smaller arguments reach it by Γ(x+1) = x·Γ(x).
pub(super) fn stirling_error(x: f64) -> f64 {
    if x >= STIRLING_FROM {
        return stirling_series(x);
    }
    let (mut shifted, mut product) = (x, 1.0);
    while shifted < STIRLING_FROM {
        product *= shifted;
        shifted += 1.0;
    }
    let main = |x: f64| (x - 0.5) * x.ln() - x;
    main(shifted) + stirling_series(shifted) - f64::ln(product) - main(x)
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
        (found - expected).abs() <= 1e-12 * expected.abs()
    }

    /// From `mpmath` with 32 digits: a, x, and the lower and the upper function.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as `mpmath` prints them")]
    fn both_functions_agree_with_many_digits() {
        let vectors: [(f64, f64, f64, f64); 12] = [
            (24897.66851205812, 24980.171354875514, 0.700000000000003, 0.29999999999999705),
            (87.22720910114779, 91.8729082598501, 0.7, 0.3000000000000001),
            (24.396651600965235, 76.64866958877354, 0.999999999999, 9.999778782799379e-13),
            (0.0024166209075131553, 6.541661395049679e-20, 0.9000000000000005, 0.09999999999999958),
            (99.90474287147394, 133.66029185954778, 0.999, 0.0009999999999999983),
            (1734.780877641198, 1734.4475556967634, 0.5000000000000007, 0.49999999999999933),
            (425.4204327764308, 425.08714591486944, 0.49999999999999994, 0.5),
            (0.1385348031461513, 0.40558244913916214, 0.8999999999999998, 0.10000000000000016),
            (0.07059552085101992, 0.15333993664479653, 0.9, 0.09999999999999996),
            (2281.4217756208136, 2061.5324379395324, 1.0000000000000135e-06, 0.999999),
            (304.7792300309891, 289.99750806345, 0.19999999999999987, 0.8000000000000002),
            (0.8574299548279809, 0.1562021831796636, 0.2, 0.8),
        ];
        for (a, x, below, above) in vectors {
            assert!(close(lower(a, x), below), "P({a}, {x}) is {}, not {below}", lower(a, x));
            assert!(close(upper(a, x), above), "Q({a}, {x}) is {}, not {above}", upper(a, x));
        }
    }

    #[test]
    fn the_ends() {
        assert_eq!((lower(0.5, 0.0), upper(0.5, 0.0)), (0.0, 1.0));
        assert_eq!((lower(3.0, f64::INFINITY), upper(3.0, f64::INFINITY)), (1.0, 0.0));
        assert!(upper(1e5, f64::MAX) <= 0.0);
        assert!(lower(1.0, f64::NAN).is_nan());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_step_of_the_parameter_is_one_term(a in 0.1..1e4_f64, part in 0.01..4.0_f64) {
            // P(a, x) − P(a+1, x) = x^a e^(−x) / Γ(a+1), DLMF 8.8.5.
            let x = a * part;
            let term = front(a, x);
            prop_assert!((lower(a, x) - lower(a + 1.0, x) - term).abs() <= 1e-13);
            prop_assert!((lower(a, x) + upper(a, x) - 1.0).abs() <= 1e-15);
        }
    }
}
