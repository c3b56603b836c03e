//! Inverses of distribution functions, by bisection.

use super::is_confidence;

/// The smallest number from 0 to `high` of which `falls_short` does not hold; it has to hold up to there and not
/// beyond. `high` itself, not negative, is never tried.
///
/// The bits of such numbers, read as integers, are in the order of the numbers. Halving the range of bits therefore
/// ends after 63 rounds at the neighbouring numbers, whatever their magnitude.
pub(super) fn first_reaching(high: f64, falls_short: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0_u64, high.to_bits());
    while low < high {
        let middle = low + (high - low) / 2;
        if falls_short(f64::from_bits(middle)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    f64::from_bits(high)
}

/// The quantile of a distribution that is symmetric around 0, from the probability above a positive distance and
/// from the one between 0 and it: the smaller of the two carries the digits. `None` when `p` is not between 0 and 1,
/// or the distance not below `most`.
pub(super) fn symmetric_quantile(
    p: f64,
    most: f64,
    above: impl Fn(f64) -> f64,
    from_centre: impl Fn(f64) -> f64,
) -> Option<f64> {
    if !is_confidence(p) {
        return None;
    }
    let tail = p.min(1.0 - p);
    let distance = if tail < 0.25 {
        first_reaching(most, |distance| above(distance) > tail)
    } else {
        first_reaching(most, |distance| from_centre(distance) < 0.5 - tail)
    };
    let quantile = if p < 0.5 { -distance } else { distance };
    (distance < most).then_some(quantile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_at_the_very_number() {
        for wanted in [0.0, 5e-324, 1e-300, 0.1, 1.0, 1e300] {
            assert_eq!(first_reaching(f64::MAX, |value| value < wanted).to_bits(), f64::to_bits(wanted));
        }
        assert_eq!(first_reaching(2.0, |_| true).to_bits(), 2.0_f64.to_bits(), "nothing reaches it");
    }

    #[test]
    fn a_distance_beyond_the_most_is_unknown() {
        let uniform = |p| symmetric_quantile(p, 0.4, |x| 0.5 - x, |x| x);
        assert!(uniform(0.2).is_some_and(|found| (found + 0.3).abs() < 1e-15));
        assert!(uniform(0.6).is_some_and(|found| (found - 0.1).abs() < 1e-15));
        assert_eq!(uniform(0.5), Some(0.0));
        assert_eq!(uniform(0.95), None);
        assert_eq!(uniform(1.0), None);
    }
}
