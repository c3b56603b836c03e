//! Being there on time: sleep to just before a moment, then spin.
//!
//! A sleep ends some ten microseconds late, and at times a hundred; how much is measured on this machine before the
//! first load. The margin kept before each request is that lateness, within a budget of CPU time.

use std::{
    io,
    num::NonZeroU64,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::clock::{now_ns, timespec};
use crate::model::load::Precision;

/// Sleeps measured for the calibration, and the length of each: some 20 ms in all.
const CALIBRATION_SLEEPS: usize = 100;
const CALIBRATION_SLEEP_NS: u64 = 150_000;

/// No margin is longer: on a machine that wakes later than this, being late is the truth to be told.
const LONGEST_MARGIN_NS: u64 = 400_000;

/// The least margins: a machine that was busy while it was measured wakes later when it is idle. On a shared virtual
/// machine one sleep in a hundred ends later than the first, next to none later than the second.
const BALANCED_MARGIN_NS: u64 = 120_000;
const EXACT_MARGIN_NS: u64 = 200_000;

/// A sleep of less than this is not worth its system calls.
const SHORTEST_SLEEP_NS: u64 = 10_000;

/// In eco, requests are sent in batches that are this far apart.
const ECO_PERIOD_NS: u64 = 1_000_000;

/// How long before a moment to wake up, and what that may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    precision: Precision,
    margin_ns: u64,
    /// Of the time between two requests, so many tenths may be spun.
    budget_tenths: u64,
}

impl Pace {
    /// Calibrated to this machine, once in the life of the process.
    pub(super) fn calibrated(precision: Precision, realtime: bool) -> Self {
        let margin_ns = match precision {
            Precision::Eco => 0,
            Precision::Balanced => lateness().at(0.99).max(BALANCED_MARGIN_NS),
            Precision::Exact => lateness().at(1.0).max(EXACT_MARGIN_NS),
        };
        let budget_tenths = if is_single_core() {
            // What is spun there is taken from the service.
            5
        } else if realtime {
            // A real-time thread that never sleeps is stopped by the kernel for 50 ms in each second.
            9
        } else {
            10
        };
        Self { precision, margin_ns: margin_ns.min(LONGEST_MARGIN_NS), budget_tenths }
    }

    /// When to wake up for a request that is due at `due`, `gap` after the one before, when the last batch was meant
    /// for `last`.
    pub(super) fn wake_ns(self, due: u64, gap: u64, last: u64) -> u64 {
        match self.precision {
            Precision::Eco => due.max(last + ECO_PERIOD_NS),
            Precision::Balanced | Precision::Exact => {
                let budget = gap / 10 * self.budget_tenths;
                due.saturating_sub((self.margin_ns + SHORTEST_SLEEP_NS).min(budget))
            }
        }
    }

    /// Whether to spin at all.
    pub(super) fn spins(self) -> bool {
        self.precision != Precision::Eco
    }
}

/// Of the machine, not of what this thread is pinned to: the service may be on the others.
fn is_single_core() -> bool {
    std::fs::read_to_string("/sys/devices/system/cpu/online").is_ok_and(|cores| cores.trim() == "0")
}

/// By how much sleeps ended late, sorted.
struct Lateness(Vec<u64>);

impl Lateness {
    fn at(&self, quantile: f64) -> u64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * quantile).round() as usize).copied().unwrap_or(0)
    }
}

fn lateness() -> &'static Lateness {
    static MEASURED: OnceLock<Lateness> = OnceLock::new();
    MEASURED.get_or_init(|| {
        let sleep = || {
            let due = now_ns() + CALIBRATION_SLEEP_NS;
            sleep_until(due);
            now_ns().saturating_sub(due)
        };
        let mut late: Vec<u64> = (0..CALIBRATION_SLEEPS).map(|_| sleep()).collect();
        late.sort_unstable();
        Lateness(late)
    })
}

/// Asks for sleeps that end when they should: by default the kernel adds up to 50 µs to save wake-ups. Where this is
/// not allowed, the recorded lag shows it.
pub(super) fn refuse_timer_slack() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Sleeps, and does nothing else.
pub(super) fn sleep_until(due_ns: u64) {
    // An interrupted sleep only means that the caller looks around early.
    let _ = rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &timespec(due_ns));
}

/// Returns at a moment, neither before nor noticeably after it.
pub(super) fn arrive_at(moment_ns: u64) {
    sleep_until(moment_ns.saturating_sub(LONGEST_MARGIN_NS));
    while now_ns() < moment_ns {
        std::hint::spin_loop();
    }
}

/// A timer that an epoll instance waits for along with sockets.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
    armed_ns: u64,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self { timer: timerfd_create(TimerfdClockId::Monotonic, flags)?, armed_ns: 0 })
    }

    /// Makes the timer readable at a moment on the engine's clock, or before: a wake-up too early costs less than
    /// setting the timer for every wait.
    pub(super) fn set(&mut self, due_ns: u64, now_ns: u64) -> io::Result<()> {
        if self.armed_ns <= now_ns || self.armed_ns > due_ns {
            let once = Itimerspec {
                it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                it_value: timespec(due_ns.max(1)),
            };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
            self.armed_ns = due_ns;
        }
        Ok(())
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { precision: Precision::Balanced, margin_ns: 90_000, budget_tenths: 5 };

    #[test]
    fn spinning_keeps_to_its_budget() {
        assert_eq!(PACE.wake_ns(1_000_000, 1_000_000, 0), 900_000, "the margin, when there is time for it");
        assert_eq!(PACE.wake_ns(1_000_000, 50_000, 0), 975_000, "half of the gap at most");
        let whole = Pace { budget_tenths: 10, ..PACE };
        assert_eq!(whole.wake_ns(1_000_000, 50_000, 0), 950_000, "all of it");
        assert_eq!(PACE.wake_ns(10, 1_000_000, 0), 0);
    }

    #[test]
    fn eco_is_on_time_when_requests_are_rare_and_sends_batches_otherwise() {
        let eco = Pace { precision: Precision::Eco, margin_ns: 0, budget_tenths: 10 };
        assert_eq!(eco.wake_ns(9_000_000, 5_000_000, 4_000_000), 9_000_000);
        assert_eq!(eco.wake_ns(9_000_000, 50_000, 8_950_000), 9_950_000);
    }

    #[test]
    fn a_quantile_of_lateness_is_one_that_was_measured() {
        let late = Lateness((1..=100).collect());
        assert_eq!((late.at(0.0), late.at(0.99), late.at(1.0)), (1, 99, 100));
        assert_eq!(Lateness(Vec::new()).at(0.5), 0);
    }

    #[test]
    fn a_sleep_is_never_short() {
        let due = now_ns() + 2_000_000;
        sleep_until(due);
        assert!(now_ns() >= due);
    }
}
