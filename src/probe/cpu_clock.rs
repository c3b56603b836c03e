//! The CPU clock of another process, to the nanosecond; `/proc/PID/stat` has ticks of 10 ms only.

use std::time::Duration;

/// CPU time used by all threads of a process so far; `None` when it is gone.
pub(super) fn read(pid: u32) -> Option<Duration> {
    let pid = libc::pid_t::try_from(pid).ok()?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a local of the right type, written before it is read.
    let found = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if found != 0 {
        return None;
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    let told = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if told != 0 {
        return None;
    }
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}
