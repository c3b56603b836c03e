//! What `HdrHistogram`'s own text formats say of a histogram.

use super::sample::LatencyHistogram;

/// A step of a percentile distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PercentileStep {
    /// The largest value that counts the same as the one at the quantile.
    pub value_ns: u64,
    /// In 0..=1; the distance to 1 is halved again and again.
    pub quantile: f64,
    /// Values up to this one.
    pub count: u64,
}

impl LatencyHistogram {
    /// The distribution in `ticks` steps for each halving of the distance to 100%, as Java's `PercentileIterator` has
    /// it; no steps when nothing was counted. The crate's own iterator adds up its steps in another way, and so puts
    /// a value at another step where a step falls on a value.
    pub fn percentile_steps(&self, ticks: u32) -> Vec<PercentileStep> {
        let total = self.count();
        let mut steps = Vec::new();
        let (mut count, mut percent) = (0, 0.0);
        for value in self.0.iter_recorded() {
            count += value.count_since_last_iteration();
            let value_ns = value.value_iterated_to();
            while 100.0 * count as f64 / total as f64 >= percent {
                steps.push(PercentileStep { value_ns, quantile: percent / 100.0, count });
                percent = next_percent(percent, ticks);
                if count >= total {
                    steps.push(PercentileStep { value_ns, quantile: 1.0, count });
                    return steps;
                }
            }
        }
        steps
    }

    /// The mean in nanoseconds, not rounded; 0 when nothing was counted, as `HdrHistogram` has it.
    pub fn mean_ns(&self) -> f64 {
        self.0.mean()
    }

    /// The standard deviation in nanoseconds; 0 when nothing was counted, as `HdrHistogram` has it.
    pub fn standard_deviation_ns(&self) -> f64 {
        self.0.stdev()
    }

    /// Buckets, and the values told apart within one.
    pub fn buckets(&self) -> (u32, u32) {
        let distinct = 2 * 10_u32.pow(u32::from(self.0.sigfig()));
        (u32::from(self.0.buckets()), distinct.next_power_of_two())
    }
}

/// One step on from a percentage: a step is halved whenever half of the distance to 100% is behind it.
fn next_percent(percent: f64, ticks: u32) -> f64 {
    let halvings = (100.0 / (100.0 - percent)).log2().floor();
    percent + 100.0 / (f64::from(ticks.max(1)) * 2.0_f64.powf(halvings + 1.0))
}
