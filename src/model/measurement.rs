//! What probes and the load bring back for one arm and one window.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    load::Tick,
    sample::{ErrorClass, LatencyHistogram, RequestCounts, Sample},
    units::Bytes,
};

/// What the load saw of one lane.
#[derive(Clone, Debug, Default)]
pub struct LaneMeasurement {
    /// Latency from the intended send time: the one that counts. Failed requests are not in it, except those
    /// that timed out, which count with the time they were given.
    pub latency: LatencyHistogram,
    /// From the actual send.
    pub service_time: LatencyHistogram,
    /// Actual send less intended: the client's own delay, or a full set of connections.
    pub lag: LatencyHistogram,
    /// Requests by outcome.
    pub counts: RequestCounts,
    /// The longest time between two successes at any one address, within the lane's own slots: per address, since
    /// the answers of one instance would hide that another is away.
    pub longest_gap: Duration,
    /// For each class of failure, from the intended send to the failure.
    pub by_class: BTreeMap<ErrorClass, LatencyHistogram>,
    /// The same requests by the phase they were intended in; one phase unless the load was told of others.
    pub phases: Vec<Phase>,
    /// The load's course in slices of 100 ms, when the plan asked for it.
    pub series: Vec<Tick>,
    /// Each request, when the plan asked to keep them; in order of completion.
    pub samples: Vec<Sample>,
}

impl LaneMeasurement {
    /// Adds what another thread saw of the same lane, exactly. The longest gap and the series are not for one
    /// thread to know and stay as they are.
    pub fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.service_time.merge(&other.service_time);
        self.lag.merge(&other.lag);
        self.counts.merge(&other.counts);
        for (class, histogram) in other.by_class {
            self.by_class.entry(class).or_default().merge(&histogram);
        }
        self.phases.resize_with(self.phases.len().max(other.phases.len()), Phase::default);
        for (own, other) in self.phases.iter_mut().zip(&other.phases) {
            own.latency.merge(&other.latency);
            own.counts.merge(&other.counts);
        }
        self.samples.extend(other.samples);
        self.samples.sort_by_key(|sample| sample.done);
    }
}

/// A part of a load: before, during and after an action, for example.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    /// Latency from the intended send time.
    pub latency: LatencyHistogram,
    /// Requests intended in it, by outcome.
    pub counts: RequestCounts,
}

/// Memory of a set of processes at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// `Pss_Anon + Pss_Shmem + SwapPss` of `smaps_rollup`: the gated figure, which moves little with the neighbours.
    pub anonymous: Bytes,
    /// Proportional set size; moves with what else maps the same files.
    pub pss: Bytes,
    /// Resident set size; counts shared pages for everyone.
    pub rss: Bytes,
}

impl Memory {
    /// The sum, field by field.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            anonymous: self.anonymous.saturating_add(other.anonymous),
            pss: self.pss.saturating_add(other.pss),
            rss: self.rss.saturating_add(other.rss),
        }
    }
}

/// One reading of an arm's processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Memory at the reading; `None` where the system does not let us read it (another user's processes).
    pub memory: Option<Memory>,
    /// CPU time used, children that have ended included; in a reading since each process began, in a record over
    /// the window. `None` where it could not be read.
    pub cpu: Option<Duration>,
    /// Processes counted.
    pub processes: u32,
}

impl Usage {
    /// This reading with its CPU time counted from an earlier one, as a window's usage.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let cpu = self.cpu.zip(earlier.cpu).map(|(now, then)| now.saturating_sub(then));
        Self { cpu, ..self }
    }
}

/// One reading of an arm, by who pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArmUsage {
    /// The service's own trees.
    pub service: Usage,
    /// The runtime's fixed part.
    pub overhead_fixed: Usage,
    /// The runtime's part per instance, all instances together.
    pub overhead_per_instance: Usage,
}

impl ArmUsage {
    /// See [`Usage::since`].
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            service: self.service.since(earlier.service),
            overhead_fixed: self.overhead_fixed.since(earlier.overhead_fixed),
            overhead_per_instance: self.overhead_per_instance.since(earlier.overhead_per_instance),
        }
    }
}
