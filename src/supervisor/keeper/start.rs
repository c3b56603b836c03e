//! Starting a brain.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

use super::{FD_VARIABLE, VARIABLES, outbound::Outbound, sys};

const OWN: &str = "/proc/self/exe";

/// A brain that has been started and not been waited for.
#[derive(Debug)]
pub(super) struct Brain {
    pub(super) pid: u32,
    pub(super) socket: OwnedFd,
    pub(super) since: Instant,
    pub(super) outbound: Outbound,
    /// It has got its replay.
    pub(super) ready: bool,
    /// It closed its end, or is dead: there is nothing to hear.
    pub(super) closed: bool,
}

impl Brain {
    /// Starts one in a process group of its own: a signal from a terminal then reaches only the keeper, which passes it
    /// on once.
    pub(super) fn spawn(program: Option<&Path>, arguments: &[OsString]) -> io::Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // No other thread can start a process meanwhile, which would inherit it too.
        fcntl_setfd(&theirs, FdFlags::empty())?;
        let mut command = Command::new(program.map_or_else(own_program, Path::to_path_buf));
        command.args(arguments).process_group(0);
        for ours in VARIABLES {
            command.env_remove(ours);
        }
        command.env(FD_VARIABLE, theirs.as_raw_fd().to_string());
        let child = sys::release_signals_in(&mut command).spawn()?;
        Ok(Self {
            pid: child.id(),
            socket,
            since: Instant::now(),
            outbound: Outbound::Mute,
            ready: false,
            closed: false,
        })
    }
}

/// The program that this process runs: by its own path where that still is the same file, so that lists of processes
/// show its name, else by the link that outlives the file.
pub(crate) fn own_program() -> PathBuf {
    let same = |path: &PathBuf| -> io::Result<bool> {
        let (there, own) = (fs::metadata(path)?, fs::metadata(OWN)?);
        Ok((there.dev(), there.ino()) == (own.dev(), own.ino()))
    };
    env::current_exe().ok().filter(|path| same(path).unwrap_or(false)).unwrap_or_else(|| PathBuf::from(OWN))
}
