//! A process held by its pidfd: whatever its pid is used for later, this is still the same one.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid,
    },
};

/// A process, by its pidfd.
#[derive(Debug)]
pub(super) struct PidFd(OwnedFd);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It was not our child, and nobody who knows told us.
    Unknown,
}

/// What waiting for a process came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaped {
    /// It has ended.
    Ended(End),
    /// It runs still.
    Running,
    /// It is not our child.
    NotOurs,
}

impl PidFd {
    /// Takes hold of whatever has that pid now.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Sends a signal by a descriptor that is one of a process. That it has ended already is no error.
    pub(super) fn signal_by(pidfd: &impl AsFd, signal: Signal) {
        let _ = pidfd_send_signal(pidfd, signal);
    }
}

impl From<OwnedFd> for PidFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(process: PidFd) -> Self {
        process.0
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether the process of a pidfd ends within so long.
pub(super) fn has_ended(pidfd: BorrowedFd<'_>, within: Duration) -> bool {
    let within = Timespec { tv_sec: within.as_secs().cast_signed(), tv_nsec: within.subsec_nanos().into() };
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&within)) {
            Err(Errno::INTR) => {}
            ended => return ended.is_ok_and(|ready| ready > 0),
        }
    }
}

/// Asks how the process of a pidfd ended. With `keep` it stays a zombie, so that nothing else can get its pid.
pub(super) fn wait(pidfd: BorrowedFd<'_>, keep: bool) -> Reaped {
    let keep = if keep { WaitIdOptions::NOWAIT } else { WaitIdOptions::empty() };
    match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | keep) {
        Ok(Some(status)) => Reaped::Ended(End::of(&status)),
        Ok(None) => Reaped::Running,
        Err(_) => Reaped::NotOurs,
    }
}

impl End {
    fn of(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Exited(code),
            (_, Some(signal)) => Self::Signalled(signal),
            _ => Self::Unknown,
        }
    }

    /// From the number that `wait` gives.
    pub(super) fn of_raw(status: i32) -> Self {
        match (status & 0x7f, (status >> 8) & 0xff) {
            (0, code) => Self::Exited(code),
            (0x7f, _) => Self::Unknown,
            (signal, _) => Self::Signalled(signal),
        }
    }

    /// The exit code, if it has one.
    pub(super) fn code(self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(code),
            Self::Signalled(_) | Self::Unknown => None,
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with status {code}"),
            Self::Signalled(signal) => write!(f, "was ended by signal {signal}"),
            Self::Unknown => f.write_str("ended, nobody knows how"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn an_end_is_told_as_it_was() {
        let ended = |script: &str| {
            #[expect(clippy::zombie_processes, reason = "to be waited for by its pidfd is what is tested")]
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let process = PidFd::open(child.id()).unwrap();
            assert!(has_ended(process.as_fd(), LIMIT));
            assert!(matches!(wait(process.as_fd(), true), Reaped::Ended(_)));
            let reaped = wait(process.as_fd(), false);
            assert_eq!(wait(process.as_fd(), false), Reaped::NotOurs);
            reaped
        };
        assert_eq!(ended("exit 3"), Reaped::Ended(End::Exited(3)));
        assert_eq!(ended("kill -9 $$"), Reaped::Ended(End::Signalled(9)));
    }

    #[test]
    fn raw_statuses_are_read() {
        assert_eq!(End::of_raw(3 << 8), End::Exited(3));
        assert_eq!(End::of_raw(9), End::Signalled(9));
        assert_eq!(End::of_raw(0x8b), End::Signalled(11));
    }
}
