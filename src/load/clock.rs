//! The engine's clock: nanoseconds of `CLOCK_MONOTONIC`, and what the kernel's time stamps are on it.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// How often two clocks are read side by side; the closest pair is kept.
const READINGS: u32 = 8;

/// Now.
pub(super) fn now_ns() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic)) as u64
}

/// CPU time used by this thread.
pub(super) fn thread_cpu() -> Duration {
    Duration::from_nanos(nanos(clock_gettime(ClockId::ThreadCPUTime)) as u64)
}

/// `CLOCK_REALTIME` less `CLOCK_MONOTONIC` now. The kernel stamps packets with the former, which may be set at any
/// time: read it anew whenever stamps are converted.
pub(super) fn real_less_monotonic_ns() -> i64 {
    let real = nanos(clock_gettime(ClockId::Realtime));
    real - nanos(clock_gettime(ClockId::Monotonic))
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
    if moment_ns >= kernel {
        instant + Duration::from_nanos(moment_ns - kernel)
    } else {
        instant - Duration::from_nanos(kernel - moment_ns)
    }
}

/// For absolute timers.
pub(super) fn timespec(moment_ns: u64) -> Timespec {
    Timespec { tv_sec: (moment_ns / 1_000_000_000) as i64, tv_nsec: (moment_ns % 1_000_000_000) as i64 }
}

pub(super) fn nanos(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

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
