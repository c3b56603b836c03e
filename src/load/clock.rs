//! The engine's clock: nanoseconds of `CLOCK_MONOTONIC`, and what the kernel's time stamps are on it.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// How often two clocks are read side by side; the closest pair is kept.
const READINGS: u32 = 8;
/// Two readings of a clock that nothing came between are not further apart.
const UNDISTURBED_NS: i64 = 1_000;

/// Now.
pub(super) fn now_ns() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic)) as u64
}

/// CPU time used by this thread.
pub(super) fn thread_cpu() -> Duration {
    Duration::from_nanos(nanos(clock_gettime(ClockId::ThreadCPUTime)) as u64)
}

/// What the kernel's time stamps are on the engine's clock. The kernel stamps packets with `CLOCK_REALTIME`, which may
/// be set at any time, so the difference is read anew for each batch of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamps {
    real_less_monotonic_ns: i64,
    read_ns: u64,
    /// Somebody has set the clock since the reading before: stamps may be from before or after.
    is_set: bool,
}

/// Between two readings the difference may move by so much, and by so much more for each second: `adjtimex` slews
/// by 500 ppm at most.
const STEADY_NS: i64 = 100_000;
const SLEW_PER_SECOND_NS: u64 = 1_000_000;

impl Stamps {
    /// Reads both clocks, again while something came between the readings.
    pub(super) fn read() -> Self {
        let reading = || {
            let before = nanos(clock_gettime(ClockId::Monotonic));
            let real = nanos(clock_gettime(ClockId::Realtime));
            let apart = nanos(clock_gettime(ClockId::Monotonic)) - before;
            (apart, real, before + apart / 2)
        };
        let mut best = reading();
        for _ in 1..READINGS {
            if best.0 <= UNDISTURBED_NS {
                break;
            }
            best = best.min(reading());
        }
        let (_, real, monotonic) = best;
        Self { real_less_monotonic_ns: real - monotonic, read_ns: monotonic as u64, is_set: false }
    }

    /// The next reading.
    #[must_use]
    pub(super) fn next(self) -> Self {
        self.followed_by(Self::read())
    }

    fn followed_by(self, next: Self) -> Self {
        let moved = (next.real_less_monotonic_ns - self.real_less_monotonic_ns).abs();
        let seconds = next.read_ns.saturating_sub(self.read_ns) as f64 / 1e9;
        let slewed = (seconds * SLEW_PER_SECOND_NS as f64) as i64;
        Self { is_set: moved > STEADY_NS + slewed, ..next }
    }

    /// A stamp on the engine's clock; `None` when that is not certain.
    pub(super) fn on_our_clock(self, stamp_ns: i64) -> Option<u64> {
        if self.is_set { None } else { u64::try_from(stamp_ns - self.real_less_monotonic_ns).ok() }
    }
}

/// The same moment as [`Instant`], which does not show its inside.
pub(super) fn as_instant(moment_ns: u64) -> Instant {
    let reading = || {
        let before = Instant::now();
        let kernel = now_ns();
        (before.elapsed(), before, kernel)
    };
    // We may be interrupted between the two readings; the shortest pair was not.
    let (_, instant, kernel) =
        (0..READINGS).map(|_| reading()).min_by_key(|(apart, ..)| *apart).unwrap_or_else(reading);
    let earlier = Duration::from_nanos(kernel.saturating_sub(moment_ns));
    let later = Duration::from_nanos(moment_ns.saturating_sub(kernel));
    // An instant before the machine's start is none, and no load began then.
    instant.checked_sub(earlier).unwrap_or(instant) + later
}

/// For timers: a moment, or a length of time.
pub(super) fn timespec(moment_ns: u64) -> Timespec {
    Timespec {
        tv_sec: (moment_ns / 1_000_000_000).cast_signed(),
        tv_nsec: (moment_ns % 1_000_000_000).cast_signed(),
    }
}

pub(super) fn nanos(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_noticed_and_one_that_is_slewed_is_not() {
        let at = |seconds: u64, real_less_monotonic_ns| Stamps {
            real_less_monotonic_ns,
            read_ns: seconds * 1_000_000_000,
            is_set: false,
        };
        let steady = at(10, 5_000_000);
        assert_eq!(steady.followed_by(at(10, 5_050_000)).on_our_clock(7_000_000), Some(1_950_000));
        assert_eq!(steady.followed_by(at(20, 10_000_000)).on_our_clock(12_000_000), Some(2_000_000));
        for set in [at(10, 6_000_000), at(10, 4_000_000), at(11, 7_000_000)] {
            assert_eq!(steady.followed_by(set).on_our_clock(9_000_000), None);
        }
        let after = steady.followed_by(at(10, 6_000_000)).followed_by(at(10, 6_000_001));
        assert_eq!(after.on_our_clock(7_000_001), Some(1_000_000), "only the batch in which it happened");
    }

    #[test]
    fn a_moment_is_the_same_as_an_instant() {
        let before = Instant::now();
        let moment = now_ns();
        let after = Instant::now();
        let instant = as_instant(moment);
        let slack = Duration::from_millis(50);
        assert!(instant + slack >= before && instant <= after + slack);
        assert_eq!(nanos(timespec(moment)) as u64, moment);
    }
}
