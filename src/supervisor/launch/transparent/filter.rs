//! The seccomp filter, and whether this kernel can do it.

use std::io;
use std::os::fd::OwnedFd;

use super::sys::{self, Instruction, instruction};

/// Why the transparent mode cannot work here, known before anything is started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransparentError {
    #[error("the transparent mode exists on x86-64 and aarch64 only")]
    Architecture,
    #[error("the transparent mode needs Linux 5.9; this is {release}")]
    Kernel { release: String },
    #[error("seccomp notifications are not available here: {0}")]
    Seccomp(io::Error),
}

/// Looks whether an app can be started in transparent mode.
pub(crate) fn supported() -> Result<(), TransparentError> {
    if CALLS.is_none() {
        return Err(TransparentError::Architecture);
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if !release_suffices(&release) {
        return Err(TransparentError::Kernel { release });
    }
    sys::notification_available().map_err(TransparentError::Seccomp)
}

/// Filters this thread and all it will ever start, and returns the descriptor that its calls are received from.
pub(crate) fn install() -> io::Result<OwnedFd> {
    let calls = CALLS.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSYS))?;
    // Without it only root may install a filter, and a filter could then fool a set-user-id program.
    rustix::thread::set_no_new_privs(true)?;
    let mut program = program(calls);
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // From 5.19 on: once we have received a call, only a deadly signal takes it back. Before, a call that is interrupted by
    // a signal comes again, which every step can bear.
    let steady = listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    match sys::install_filter(steady, &mut program) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            sys::install_filter(listener, &mut program)
        }
        installed => installed,
    }
}

/// Numbers that differ between architectures.
#[derive(Clone, Copy)]
pub(super) struct Calls {
    architecture: u32,
    pub(super) bind: u32,
    pub(super) listen: u32,
}

#[cfg(target_arch = "x86_64")]
pub(super) const CALLS: Option<Calls> = Some(Calls { architecture: 0xC000_003E, bind: 49, listen: 50 });
#[cfg(target_arch = "aarch64")]
pub(super) const CALLS: Option<Calls> = Some(Calls { architecture: 0xC000_00B7, bind: 200, listen: 201 });
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) const CALLS: Option<Calls> = None;

/// Foreign architectures pass: their numbers mean other calls. (x32 has the same architecture but other numbers.)
fn program(calls: Calls) -> [Instruction; 7] {
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        instruction(load, ARCHITECTURE, 0, 0),
        instruction(equal, calls.architecture, 0, 3),
        instruction(load, NUMBER, 0, 0),
        instruction(equal, calls.bind, 2, 0),
        instruction(equal, calls.listen, 1, 0),
        instruction(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0, 0),
        instruction(libc::BPF_RET, libc::SECCOMP_RET_USER_NOTIF, 0, 0),
    ]
}

/// The youngest thing we need, replacing a descriptor of the caller, came with 5.9.
fn release_suffices(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 9),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::release_suffices;

    #[test]
    fn releases() {
        for good in ["5.9.0", "5.10", "6.18.44-fc-v769", "10.0-rc1"] {
            assert!(release_suffices(good), "{good}");
        }
        for bad in ["5.8.18-generic", "4.19", "", "five"] {
            assert!(!release_suffices(bad), "{bad}");
        }
    }
}
