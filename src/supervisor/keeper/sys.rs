//! The only `unsafe` of the keeper: descriptors known by number, the signal mask, and exec.

use std::{
    ffi::{CStr, CString},
    io,
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    ptr,
};

/// What the keeper reads from a descriptor instead of being interrupted by.
const HELD: [i32; 4] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Takes the descriptor of this number into possession: one that was inherited through exec and that its maker told us
/// of. `None` when it is not open, one of the three standard ones, or not what `is_it` expects; it is then left alone.
/// The caller asks once for each number.
pub(super) fn adopt(number: RawFd, is_it: impl FnOnce(BorrowedFd<'_>) -> bool) -> Option<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: borrowed for the checks only. When the number is not open they fail with EBADF and touch nothing.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(borrowed).is_err() || !is_it(borrowed) {
        return None;
    }
    // SAFETY: it is open, as the checks have shown, and nothing else here owns it: it was opened before this program
    // was executed, and the numbers come from a list in which each occurs once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Holds back the signals that the keeper reads from [`signals`]; they stay pending, through exec too.
pub(super) fn hold_signals() -> io::Result<()> {
    mask(libc::SIG_BLOCK)
}

/// The opposite of [`hold_signals`].
pub(super) fn release_signals() -> io::Result<()> {
    mask(libc::SIG_UNBLOCK)
}

/// Has what `command` starts begin with the signals released. To do it around the start instead would leave a moment in
/// which a signal ends the keeper.
pub(super) fn release_signals_in(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only what is async-signal-safe may be called. This fills a set on the stack and
    // makes one system call; its error is a number that is turned into an io::Error without an allocation.
    unsafe { command.pre_exec(release_signals) }
}

/// A descriptor from which the signals that are held back are read.
pub(super) fn signals() -> io::Result<OwnedFd> {
    let set = held();
    // SAFETY: the set is initialised and lives through the call; −1 asks for a new descriptor.
    let number = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened by the kernel for us, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets the ends of children be waited for, even when the starter of this process had SIGCHLD ignored: that is
/// inherited, and the kernel would then throw every exit status away.
pub(super) fn keep_exit_statuses() {
    // SAFETY: sets a disposition to its default; no handler of ours is involved.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Replaces this program by another, with the signal mask as it is; returns only when that failed.
pub(super) fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<_> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both lists end with a null pointer, and they and the strings they point to live through the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

fn mask(how: i32) -> io::Result<()> {
    let set = held();
    // SAFETY: the set is initialised and lives through the call; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn held() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before anything reads it, and the signals are valid ones.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in HELD {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}
