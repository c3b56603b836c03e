//! What the tests share: starting a process, its output, and a supervisor in miniature.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::super::{
    HeldSocket, Launch, LaunchError, ListenSockets, Notifier, Orders, Outcome, Report, TransparentEvent,
    Wrap, close_all_on_exec, spawn, sys,
};
use super::roles::MARK;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn this_binary() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// The arguments that make this binary play a role.
pub(super) fn role(arguments: &[&str]) -> Vec<String> {
    std::iter::once(MARK).chain(arguments.iter().copied()).map(str::to_owned).collect()
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A port nobody has at the moment.
pub(super) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits for a condition.
pub(super) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What to start; the rest is as in every test.
pub(super) struct Play<'a> {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: PathBuf,
    pub(super) pass: Vec<(BorrowedFd<'a>, i32)>,
}

impl Play<'_> {
    pub(super) fn role(arguments: &[&str]) -> Self {
        Self::program(this_binary(), role(arguments))
    }

    pub(super) fn program(program: impl AsRef<Path>, args: Vec<String>) -> Self {
        let program = program.as_ref().to_path_buf();
        Self { program, args, env: Vec::new(), cwd: PathBuf::from("/"), pass: Vec::new() }
    }

    pub(super) fn shell(script: &str) -> Self {
        Self::program("/bin/sh", vec!["-c".into(), script.into()])
    }

    pub(super) fn start(&self, wrap: Option<Wrap<'_>>) -> Result<Running, LaunchError> {
        close_all_on_exec().unwrap();
        let (out, child_out) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let launch = Launch {
            program: &self.program,
            args: &self.args,
            env: &self.env,
            cwd: &self.cwd,
            stdout: child_out.as_fd(),
            stderr: child_out.as_fd(),
            pass: &self.pass,
            wrap,
        };
        let pid = Pid::from_raw(spawn(&launch)?.cast_signed()).unwrap();
        Ok(Running { pid, out: File::from(out), ended: false })
    }

    /// Starts through the wrapper, and waits for nothing.
    pub(super) fn start_wrapped(&self, orders: Orders) -> (Running, Report) {
        self.start_wrapped_by("wrapper", orders)
    }

    pub(super) fn start_wrapped_by(&self, wrapper: &str, orders: Orders) -> (Running, Report) {
        let (report, theirs) = Report::pair().unwrap();
        let wrap = Wrap { program: &this_binary(), args: &role(&[wrapper]), report: theirs.as_fd(), orders };
        (self.start(Some(wrap)).unwrap(), report)
    }
}

/// A child that does not outlive its test.
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) out: File,
    ended: bool,
}

impl Running {
    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Its output up to the next line end.
    pub(super) fn line(&mut self) -> String {
        let mut line = Vec::new();
        loop {
            assert!(wait_readable(self.out.as_fd()), "no output");
            let mut byte = [0];
            if self.out.read(&mut byte).unwrap() == 0 || byte[0] == b'\n' {
                return String::from_utf8(line).unwrap();
            }
            line.push(byte[0]);
        }
    }

    /// All of its output, and its exit code.
    pub(super) fn finish(mut self) -> (String, Option<i32>) {
        let mut text = String::new();
        loop {
            assert!(wait_readable(self.out.as_fd()), "no end of output");
            let mut buffer = [0; 4096];
            match self.out.read(&mut buffer).unwrap() {
                0 => break,
                length => text.push_str(std::str::from_utf8(&buffer[..length]).unwrap()),
            }
        }
        let status = self.wait();
        (text.trim_end().to_owned(), status.exit_status())
    }

    pub(super) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid, signal).unwrap();
    }

    /// Waits until it is stopped by a signal.
    pub(super) fn until_stopped(&self) {
        until("a process to stop", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
            stat.contains(") T ").then_some(())
        });
    }

    pub(super) fn wait(&mut self) -> WaitStatus {
        let status = until("the end of a child", || self.has_ended());
        self.ended = true;
        status
    }

    pub(super) fn has_ended(&mut self) -> Option<WaitStatus> {
        let ended = rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG).unwrap();
        self.ended |= ended.is_some();
        ended.map(|(_, status)| status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // The child leads a group of its own; it is not reaped yet, so the number is still its.
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}

pub(super) fn wait_readable(fd: BorrowedFd<'_>) -> bool {
    let timeout = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let poll = || rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout));
    // Other tests of this process have handlers of signals.
    rustix::io::retry_on_intr(poll).unwrap() > 0
}

/// Reads a report to its end; returns the listener, if one came.
pub(super) fn read_report(report: &Report) -> Result<Option<OwnedFd>, super::super::Failure> {
    let mut listener = None;
    loop {
        assert!(wait_readable(report.as_fd()), "no report");
        match report.peek().unwrap().unwrap() {
            Outcome::Listener(fd) => {
                report.consume().unwrap();
                listener = Some(fd);
            }
            Outcome::Started => return Ok(listener),
            Outcome::Failed(failure) => return Err(failure),
        }
    }
}

/// The sockets of an app, in memory only.
#[derive(Default)]
pub(super) struct Shelf(pub(super) Vec<(SocketAddr, u64, OwnedFd)>);

impl ListenSockets for Shelf {
    fn held(&self, address: SocketAddr) -> Vec<HeldSocket<'_>> {
        let here = self.0.iter().filter(|held| held.0 == address);
        here.map(|held| HeldSocket { generation: held.1, socket: held.2.as_fd() }).collect()
    }

    fn keep(&mut self, address: SocketAddr, generation: u64, socket: OwnedFd) -> std::io::Result<()> {
        self.0.push((address, generation, socket));
        Ok(())
    }
}

impl Shelf {
    pub(super) fn socket(&self, generation: u64) -> BorrowedFd<'_> {
        self.0.iter().find(|held| held.1 == generation).unwrap().2.as_fd()
    }

    pub(super) fn take(&mut self, generation: u64) -> OwnedFd {
        let index = self.0.iter().position(|held| held.1 == generation).unwrap();
        self.0.remove(index).2
    }
}

/// A transparent app and its notifier.
pub(super) struct Watched {
    pub(super) app: Running,
    pub(super) notifier: Notifier,
}

impl Watched {
    pub(super) fn start(play: &Play<'_>, generation: u64) -> Self {
        let orders = Orders { transparent: true, ..Orders::default() };
        let (app, report) = play.start_wrapped(orders);
        let listener = read_report(&report).unwrap().unwrap();
        let notifier = Notifier::new(listener, Notifier::page().unwrap(), generation).unwrap();
        Self { app, notifier }
    }

    /// Answers calls until an event fits; returns all of them.
    pub(super) fn answer_until(
        &mut self,
        sockets: &mut Shelf,
        fits: impl Fn(&TransparentEvent) -> bool,
    ) -> Vec<TransparentEvent> {
        let mut events = Vec::new();
        while !events.iter().any(&fits) {
            assert!(wait_readable(self.notifier.as_fd()), "no call; so far {events:?}");
            events.extend(self.notifier.readable(sockets).unwrap());
        }
        events
    }

    pub(super) fn until_listening(&mut self, sockets: &mut Shelf) {
        self.answer_until(sockets, |event| matches!(event, TransparentEvent::Listening { .. }));
    }

    /// Answers until no process is left under the filter.
    pub(super) fn until_ended(&mut self, sockets: &mut Shelf) -> Vec<TransparentEvent> {
        self.answer_until(sockets, |event| matches!(event, TransparentEvent::Ended))
    }
}

/// One request over a connection of its own.
pub(super) fn request(address: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) if !body.is_empty() => Ok(body.to_owned()),
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A descriptor's duplicate, as the keeper would hold it.
pub(super) fn duplicate(fd: impl AsFd) -> OwnedFd {
    sys::duplicate_above(fd, sys::FLOOR).unwrap()
}
