//! Waking at an exact moment: a timerfd on the monotonic clock. tokio's own timer has a step of a millisecond.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// How often the two clocks are read side by side; the closest pair is kept.
const READINGS: u32 = 8;

/// A timer for one task of a tokio runtime.
#[derive(Debug)]
pub(super) struct Timer {
    descriptor: AsyncFd<OwnedFd>,
    anchor: Anchor,
}

/// The same moment as [`Instant`] and as the kernel says it: an `Instant` does not show its inside.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    instant: Instant,
    kernel: Timespec,
}

impl Timer {
    /// Must be called within a tokio runtime that does I/O.
    pub(super) fn new() -> io::Result<Self> {
        let descriptor =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: an `OwnedFd` is open and stays the same descriptor until it is dropped, which is by the `AsyncFd`:
        // only shared references to it are given out.
        let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? };
        Ok(Self { descriptor, anchor: Anchor::read() })
    }

    /// Returns at `due`, or at once when it has passed.
    pub(super) async fn wait_until(&self, due: Instant) -> io::Result<()> {
        while Instant::now() < due {
            let once = Itimerspec {
                it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                it_value: self.anchor.kernel_time(due),
            };
            timerfd_settime(self.descriptor.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
            // Setting the timer anew takes back an expiration that was not read, which saves the read.
            self.descriptor.readable().await?.clear_ready();
        }
        Ok(())
    }
}

impl Anchor {
    fn read() -> Self {
        let reading = || {
            let before = Instant::now();
            let kernel = clock_gettime(ClockId::Monotonic);
            (before.elapsed(), Self { instant: before, kernel })
        };
        // We may be interrupted between the two readings; the shortest pair was not.
        let (_, closest) =
            (0..READINGS).map(|_| reading()).min_by_key(|(apart, _)| *apart).unwrap_or_else(reading);
        closest
    }

    fn kernel_time(&self, moment: Instant) -> Timespec {
        let later = moment.saturating_duration_since(self.instant);
        let since_boot = Duration::from_nanos(self.kernel.tv_nsec as u64) + later;
        Timespec {
            tv_sec: self.kernel.tv_sec.saturating_add_unsigned(since_boot.as_secs()),
            tv_nsec: i64::from(since_boot.subsec_nanos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_never_early_and_works_again_and_again() {
        let timer = Timer::new().unwrap();
        let start = Instant::now();
        for millis in 1..=20 {
            let due = start + Duration::from_millis(millis);
            timer.wait_until(due).await.unwrap();
            assert!(Instant::now() >= due);
        }
        timer.wait_until(start).await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_given_up_does_not_disturb_the_next() {
        let timer = Timer::new().unwrap();
        let start = Instant::now();
        let far = start + Duration::from_secs(3600);
        let near = start + Duration::from_millis(5);
        tokio::select! {
            biased;
            _ = timer.wait_until(far) => unreachable!("an hour has not passed"),
            () = std::future::ready(()) => {}
        }
        timer.wait_until(near).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(600), "the hour's alarm was replaced");
    }
}
