//! Choosing by weight, evenly spread: smooth weighted round robin, as nginx does it.

/// An endless, deterministic sequence of indices in which each occurs by its weight.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    entries: Vec<Entry>,
    total: i64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    weight: i64,
    credit: i64,
}

impl Rotation {
    /// A weight of 0 counts as 1.
    pub(super) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let entries: Vec<Entry> =
            weights.into_iter().map(|weight| Entry { weight: i64::from(weight.max(1)), credit: 0 }).collect();
        let total = entries.iter().map(|entry| entry.weight).sum();
        Self { entries, total }
    }

    /// The next index; 0 when there are no weights.
    pub(super) fn next(&mut self) -> usize {
        let mut best = 0;
        for index in 0..self.entries.len() {
            self.entries[index].credit += self.entries[index].weight;
            if self.entries[index].credit > self.entries[best].credit {
                best = index;
            }
        }
        if let Some(chosen) = self.entries.get_mut(best) {
            chosen.credit -= self.total;
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heavy_one_is_spread_out() {
        let mut rotation = Rotation::new([5, 1, 1]);
        let chosen: Vec<usize> = (0..7).map(|_| rotation.next()).collect();
        assert_eq!(chosen, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn shares_are_exact_over_a_round() {
        let weights = [3, 0, 7, 2];
        let mut rotation = Rotation::new(weights);
        let mut counts = [0_u32; 4];
        for _ in 0..13 * 100 {
            counts[rotation.next()] += 1;
        }
        assert_eq!(counts, [300, 100, 700, 200]);
    }

    #[test]
    fn none_is_no_panic() {
        assert_eq!(Rotation::new([]).next(), 0);
    }
}
