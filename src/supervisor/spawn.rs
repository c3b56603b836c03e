//! Starting a process in a session of its own, its output in files, its end seen through a pidfd.
//!
//! Deliberately absent: a death signal from the parent. It would contradict that processes outlive the supervisor,
//! and it fires on the end of the thread that forked, not of the process.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    },
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, setsid, waitid,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    spec::{AppSpec, error_log, output_log},
    tree::Process,
};

/// A process of ours, not yet reaped: until then nothing else can have its pid, nor a session of that number.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) pid: u32,
    /// Field 22 of `/proc/PID/stat`.
    pub(super) start_ticks: Option<u64>,
    fd: PidFd,
}

/// A process held by its pidfd: whatever its pid is used for later, this is still the same one.
#[derive(Debug)]
pub(super) struct PidFd(AsyncFd<OwnedFd>);

/// Makes what `command` starts the leader of a new session, so that signals from a terminal do not reach it.
pub fn in_own_session(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only what is async-signal-safe may be called. setsid is one system call; it
    // takes no lock, and its error is a number that is turned into an io::Error without an allocation.
    unsafe { command.pre_exec(|| setsid().map(drop).map_err(io::Error::from)) }
}

/// Starts one instance of an app.
pub(super) fn spawn(app: &AppSpec, instance: u32) -> io::Result<Leader> {
    let output = append(&output_log(&app.log_dir, &app.name, instance))?;
    let errors = append(&error_log(&app.log_dir, &app.name, instance))?;
    let mut command = Command::new(&app.program);
    command.args(&app.args).current_dir(&app.cwd).envs(&app.env);
    command.env(&app.instance_variable, instance.to_string());
    if let (Some(variable), Some(port)) =
        (app.port.as_ref().map(|port| &port.variable), app.port_of(instance))
    {
        command.env(variable, port.to_string());
    }
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let mut child = in_own_session(&mut command).spawn()?;
    Leader::of(child.id()).inspect_err(|_| {
        // Without its pidfd the process could be neither watched nor stopped, so it must not be left running.
        let _ = child.kill();
        let _ = child.wait();
    })
}

impl Leader {
    /// Takes over a child of this process that nobody else will reap.
    fn of(pid: u32) -> io::Result<Self> {
        let fd = PidFd::open(pid)?;
        Ok(Self { pid, start_ticks: Process::read(pid).map(|process| process.start_ticks), fd })
    }

    /// Completes once it has ended; it is then still there to be reaped.
    pub(super) async fn ended(&self) {
        self.fd.ended().await;
    }

    /// Sends a signal. That it has ended already is no error.
    pub(super) fn signal(&self, signal: Signal) {
        self.fd.signal(signal);
    }

    /// Reaps it after it has ended, and says how it did.
    pub(super) fn reap(self) -> String {
        use std::os::fd::AsFd as _;
        match waitid(
            WaitId::PidFd(self.fd.0.get_ref().as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        ) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exited with status {code}"),
                (_, Some(signal)) => format!("was ended by signal {signal}"),
                _ => "ended".to_owned(),
            },
            _ => "ended, nobody knows how".to_owned(),
        }
    }
}

impl PidFd {
    /// Takes hold of whatever has that pid now.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let fd = pidfd_open(pid, PidfdFlags::empty())?;
        // SAFETY: an OwnedFd is open and names the same description for as long as it lives, and always reports the
        // same number; it is moved into the AsyncFd, which nothing here takes it out of.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        registered.map(Self).map_err(|e| e.into_parts().1)
    }

    /// Completes once the process has ended. An error of the poller, which would leave no way to see the end, counts
    /// as the end.
    pub(super) async fn ended(&self) {
        let _ = self.0.readable().await;
    }

    /// Sends a signal. That the process has ended already is no error.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(self.0.get_ref(), signal);
    }
}

fn append(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    opened.map_err(|source| io::Error::new(source.kind(), format!("log {}: {source}", path.display())))
}
