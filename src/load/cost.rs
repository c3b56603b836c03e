//! What the load takes of the machine, and whether that is in the way of what it measures.

use std::{fs, time::Duration};

use super::{Tuning, clock::thread_cpu};
use crate::model::{
    load::{ClientCost, Disturbance, Precision},
    sample::LatencyHistogram,
};

/// A thread that is busy for more of its time than this has no room left for what comes at once.
const BUSY_SHARE: f64 = 0.9;
/// A thread that waits for a core for more of its time than this is not alone on it.
const WAITING_SHARE: f64 = 0.05;

/// What a thread used up to a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    cpu: Duration,
    waited: Option<Duration>,
}

impl Used {
    /// Of the thread that asks.
    pub(super) fn now() -> Self {
        Self { cpu: thread_cpu(), waited: waited_for_cpu() }
    }

    /// Since an earlier moment.
    pub(super) fn since(self, earlier: Self) -> Self {
        let waited = self.waited.zip(earlier.waited).map(|(now, then)| now.saturating_sub(then));
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), waited }
    }
}

/// The second number of `schedstat`: nanoseconds spent runnable and not running (the kernel's sched-stats.rst).
fn waited_for_cpu() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// What one thread of a load took.
#[derive(Clone, Debug)]
pub(super) struct ThreadCost {
    pub(super) used: Used,
    pub(super) spun: Duration,
    pub(super) own_lag: LatencyHistogram,
    /// Of what was used, the part until the end of the schedule, and when that was: what follows is waiting.
    pub(super) used_by_schedule: Used,
    pub(super) scheduled: Duration,
    pub(super) given_up: u64,
    /// An answer's time of arrival came from the client's own clock.
    pub(super) used_own_clock: bool,
}

/// What all threads of a load took together. `closed`: in a closed loop being busy is the purpose.
pub(super) fn sum(threads: &[ThreadCost], tuning: &Tuning, closed: bool) -> ClientCost {
    use crate::model::load::ReceiveClock;
    let mut cost = ClientCost { threads: threads.len() as u32, ..ClientCost::default() };
    let mut waited = Some(Duration::ZERO);
    let (mut busiest, mut longest_wait, mut given_up) = (0.0_f64, 0.0_f64, 0);
    for thread in threads {
        cost.cpu += thread.used.cpu;
        cost.spun += thread.spun;
        cost.own_lag.merge(&thread.own_lag);
        waited = waited.zip(thread.used.waited).map(|(sum, own)| sum + own);
        if thread.used_own_clock {
            cost.receive_clock = ReceiveClock::User;
        }
        given_up += thread.given_up;
        let scheduled = thread.scheduled.as_secs_f64().max(f64::MIN_POSITIVE);
        let Used { cpu, waited } = thread.used_by_schedule;
        busiest = busiest.max(cpu.saturating_sub(thread.spun).as_secs_f64() / scheduled);
        longest_wait = longest_wait.max(waited.unwrap_or_default().as_secs_f64() / scheduled);
    }
    cost.waited_for_cpu = waited;
    let limit = tuning.lag_limit.unwrap_or(promised_lag(tuning.precision));
    if let Some(p99) = cost.own_lag.quantile(0.99).filter(|p99| *p99 > limit) {
        cost.disturbances.push(Disturbance::Lag { p99, limit });
    }
    if busiest > BUSY_SHARE && !closed {
        cost.disturbances.push(Disturbance::Saturated { busy_share: busiest });
    }
    if longest_wait > WAITING_SHARE {
        cost.disturbances.push(Disturbance::Starved { waiting_share: longest_wait });
    }
    if given_up > 0 {
        cost.disturbances.push(Disturbance::BacklogFull { given_up });
    }
    cost
}

/// What the 99th percentile of a load's own lag stays below on a machine that is not overloaded, even a shared one.
fn promised_lag(precision: Precision) -> Duration {
    match precision {
        Precision::Eco => Duration::from_millis(5),
        Precision::Balanced => Duration::from_millis(1),
        Precision::Exact => Duration::from_micros(200),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(cpu: u64, waited: u64, lag_us: u64) -> ThreadCost {
        let mut own_lag = LatencyHistogram::new();
        own_lag.record(Duration::from_micros(lag_us));
        let used = Used { cpu: Duration::from_millis(cpu), waited: Some(Duration::from_millis(waited)) };
        ThreadCost {
            used,
            used_by_schedule: used,
            spun: Duration::ZERO,
            own_lag,
            scheduled: Duration::from_secs(1),
            given_up: 0,
            used_own_clock: false,
        }
    }

    fn disturbed(thread: ThreadCost, closed: bool) -> Vec<Disturbance> {
        sum(&[thread], &Tuning::default(), closed).disturbances
    }

    #[test]
    fn a_load_that_is_in_the_way_says_so() {
        assert_eq!(disturbed(thread(100, 10, 50), false), []);
        assert!(matches!(disturbed(thread(100, 10, 5000), false)[..], [Disturbance::Lag { .. }]));
        assert!(matches!(disturbed(thread(950, 10, 50), false)[..], [Disturbance::Saturated { .. }]));
        assert_eq!(disturbed(thread(950, 10, 50), true), [], "a closed loop keeps busy");
        assert!(matches!(disturbed(thread(100, 60, 50), false)[..], [Disturbance::Starved { .. }]));
        let full = ThreadCost { given_up: 3, ..thread(100, 10, 50) };
        assert_eq!(disturbed(full, false), [Disturbance::BacklogFull { given_up: 3 }]);
    }

    #[test]
    fn spinning_is_not_being_busy_and_threads_add_up() {
        let spinning = ThreadCost { spun: Duration::from_millis(900), ..thread(950, 0, 1) };
        let cost = sum(&[spinning.clone(), spinning], &Tuning::default(), false);
        assert_eq!(cost.disturbances, []);
        assert_eq!((cost.cpu, cost.spun), (Duration::from_millis(1900), Duration::from_millis(1800)));
        assert_eq!((cost.own_lag.count(), cost.threads), (2, 2));
    }

    #[test]
    fn the_limit_may_be_given() {
        let tuning = Tuning { lag_limit: Some(Duration::from_micros(10)), ..Tuning::default() };
        let cost = sum(&[thread(1, 0, 11)], &tuning, false);
        assert!(matches!(cost.disturbances[..], [Disturbance::Lag { .. }]));
    }
}
