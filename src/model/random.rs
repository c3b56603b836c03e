//! Random numbers that a seed determines for ever: the same on every machine, in every version.

use std::f64::consts::TAU;

/// `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct SplitMix(u64);

impl SplitMix {
    /// The same seed, the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, all 64 bits of it.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly spread over 0..1, with all 53 bits that an `f64` has there.
    pub fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 up to a bound, which must not be 0. The bias of the remainder is below 2⁻⁵⁰ for bounds of thousands.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    /// Of the standard normal distribution (G. E. P. Box and M. E. Muller, *Annals of Mathematical Statistics* 29
    /// (1958)).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.next_unit()).ln()).sqrt() * (TAU * self.next_unit()).cos()
    }

    /// 0 to `length` − 1 in a random order (Fisher–Yates).
    pub fn permutation(&mut self, length: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..length).collect();
        for at in (1..length).rev() {
            order.swap(at, self.below(at + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_of_a_seed_are_the_published_ones() {
        let mut random = SplitMix::new(1_234_567);
        let first = [random.next_u64(), random.next_u64(), random.next_u64()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn what_is_drawn_is_of_its_kind() {
        let mut random = SplitMix::new(7);
        let mut order = random.permutation(9);
        order.sort_unstable();
        assert_eq!(order, (0..9).collect::<Vec<_>>());
        assert!((0..100).all(|_| random.below(3) < 3));
        let values: Vec<f64> = (0..10_000).map(|_| random.normal()).collect();
        let mean = values.iter().sum::<f64>() / 1e4;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 1e4;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
