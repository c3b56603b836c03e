//! The keeper's own main loop.
//!
//! It waits for a signal, the brain's socket or a time, and does what is due; nothing in it blocks but `poll`. The end of
//! a brain is known from `waitpid` alone, never from its socket: a child caught between fork and exec may hold a copy of
//! that for a moment. All threads of the brain are gone by then, so whatever `sendmsg` of it returned is in the queue,
//! which is read to its end before the next brain starts.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, WaitOptions, kill_process, wait},
};

use super::{
    channel::{self, Parcel, Received},
    limits,
    manifest::{self, Head, Living},
    outbound::{Outbound, Paused},
    shelf::{Shelf, Value},
    start::Brain,
    succession::{Pace, Succession},
    sys,
    wire::{Exit, Message, Summary},
};

/// Room for one message. It is more than that on purpose: from this size on an allocation is fresh pages that cost
/// nothing until a message has filled them.
const BUFFER_BYTES: usize = 192 * 1024;
/// How many messages are read before the other sources are looked at.
const MESSAGES_PER_TURN: usize = 256;
/// How long to wait when nothing will tell that sending is possible again.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// How many brains in a row may fail to end in order before the keeper gives up.
const ENDINGS_MAX: u32 = 10;

/// What a keeper starts from.
#[derive(Debug)]
pub(crate) struct Start {
    /// The program of brain and keeper; `None` is the one this process runs, even if its file has been replaced.
    pub(crate) program: Option<PathBuf>,
    /// The arguments that make that program a keeper, without the program's name.
    pub(crate) keeper_arguments: Vec<OsString>,
    /// The arguments that make it a brain.
    pub(crate) brain_arguments: Vec<OsString>,
    /// What the previous keeper held, when this process took over from it; see `inherited_manifest`.
    pub(crate) manifest: Option<OwnedFd>,
    pub(crate) pace: Pace,
}

/// Keeps a brain running until one ends after it said that all shall end. An error means that there is nothing to keep:
/// the first brain could not be started, none ends in order though asked to, or the manifest is not understood.
pub(crate) fn run(start: Start) -> io::Result<()> {
    let mut keeper = Keeper::open(start)?;
    while !keeper.over {
        keeper.turn()?;
    }
    Ok(())
}

#[derive(Debug)]
struct Keeper {
    arguments: Arguments,
    pace: Pace,
    succession: Succession,
    signals: OwnedFd,
    shelf: Shelf,
    next_serial: u64,
    summary: Summary,
    brain: State,
    /// How many brains in a row died quickly.
    quick_deaths: u32,
    ending: Ending,
    over: bool,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Arguments {
    keeper: Vec<OsString>,
    brain: Vec<OsString>,
}

#[derive(Debug)]
enum State {
    Alive(Brain),
    /// The next one starts then.
    Due(Instant),
}

/// Whether the brain shall end everything.
#[derive(Debug, Clone, Copy)]
enum Ending {
    No,
    /// A signal asked for it; so many brains have died since without having said END.
    Asked {
        failures: u32,
    },
    /// A brain said END: when it exits there will be no other.
    Said,
}

impl Keeper {
    fn open(start: Start) -> io::Result<Self> {
        sys::hold_signals()?;
        sys::keep_exit_statuses();
        let signals = sys::signals()?;
        let origin = limits::raise()?;
        let fresh = start.manifest.is_none();
        let (shelf, head) = match start.manifest {
            Some(manifest) => manifest::read(manifest)?,
            None => {
                let summary = Summary { origin, ..Summary::default() };
                (Shelf::default(), Head { summary, next_serial: 1, brain: None })
            }
        };
        let mut keeper = Self {
            arguments: Arguments { keeper: start.keeper_arguments, brain: start.brain_arguments },
            pace: start.pace,
            succession: Succession::Settled(start.program),
            signals,
            shelf,
            next_serial: head.next_serial,
            summary: head.summary,
            brain: State::Due(Instant::now()),
            quick_deaths: 0,
            ending: Ending::No,
            over: false,
            buffer: vec![0; BUFFER_BYTES],
        };
        if let Some(living) = head.brain {
            keeper.brain = State::Alive(surviving(living)?);
        } else if fresh {
            let first = Brain::spawn(keeper.succession.program(), &keeper.arguments.brain)?;
            keeper.brain = State::Alive(first);
        }
        Ok(keeper)
    }

    /// Does what is due, in an order that has an exit on the shelf before the brain is told.
    fn turn(&mut self) -> io::Result<()> {
        self.start_if_due();
        self.take_signals();
        self.reap()?;
        self.hear(MESSAGES_PER_TURN);
        let paused = self.tell();
        if !self.over {
            self.sleep(paused)?;
        }
        Ok(())
    }

    fn start_if_due(&mut self) {
        if !matches!(self.brain, State::Due(at) if at <= Instant::now()) {
            return;
        }
        match Brain::spawn(self.succession.program(), &self.arguments.brain) {
            Ok(brain) => self.brain = State::Alive(brain),
            Err(error) => {
                complain(&format!("cannot start a brain: {error}"));
                self.succession.failed();
                self.pause(Duration::ZERO);
            }
        }
    }

    /// Sets when the next brain starts, after one that lived so long.
    fn pause(&mut self, lived: Duration) {
        self.quick_deaths = if lived < self.pace.quick { self.quick_deaths.saturating_add(1) } else { 0 };
        self.brain = State::Due(Instant::now() + self.pace.pause(self.quick_deaths));
    }

    /// Each of the signals but the end of a child, which [`Self::reap`] looks for anyway, asks for the end of all.
    fn take_signals(&mut self) {
        const RECORD_BYTES: usize = size_of::<libc::signalfd_siginfo>();
        let mut record = [0_u8; RECORD_BYTES];
        while let Ok(RECORD_BYTES) = rustix::io::read(&self.signals, &mut record) {
            let number = record.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            if number == Some(libc::SIGCHLD as u32) {
                continue;
            }
            let insisting = matches!(self.ending, Ending::Asked { .. });
            if let Ending::No = self.ending {
                self.ending = Ending::Asked { failures: 0 };
            }
            // A brain that is not ready may have no handler yet and would just die. It is told once it is ready,
            // unless the asker asks twice.
            match &self.brain {
                State::Alive(brain) if brain.ready || insisting => terminate(brain.pid),
                _ => {}
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let (pid, status) = (pid.as_raw_nonzero().get().cast_unsigned(), status.as_raw());
                    match &self.brain {
                        State::Alive(brain) if brain.pid == pid => self.bury(status)?,
                        _ => self.record(pid, status),
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }

    fn record(&mut self, pid: u32, status: i32) {
        let exit = Exit { serial: self.next_serial, pid, status };
        self.next_serial += 1;
        let dropped = u32::from(self.shelf.record(exit));
        self.summary.dropped_exits = self.summary.dropped_exits.saturating_add(dropped);
    }

    /// The brain is dead: reads what it still said, and decides what comes next.
    fn bury(&mut self, status: i32) -> io::Result<()> {
        self.hear(usize::MAX);
        let State::Alive(brain) = &self.brain else { return Ok(()) };
        let lived = brain.since.elapsed();
        self.summary.restarts = self.summary.restarts.saturating_add(1);
        self.summary.last_status = Some(status);
        match &mut self.ending {
            Ending::Said => self.over = true,
            Ending::Asked { failures } if *failures + 1 >= ENDINGS_MAX => {
                return Err(io::Error::other("no brain ended in order though asked to"));
            }
            Ending::Asked { failures } => *failures += 1,
            Ending::No => {}
        }
        self.succession.ended();
        self.pause(lived);
        Ok(())
    }

    fn hear(&mut self, messages_max: usize) {
        let mut buffer = mem::take(&mut self.buffer);
        for _ in 0..messages_max {
            let State::Alive(brain) = &mut self.brain else { break };
            if brain.closed {
                break;
            }
            match channel::receive(brain.socket.as_fd(), &mut buffer) {
                Ok(Received::Message(parcel)) => {
                    let bytes = buffer.get(..parcel.length).unwrap_or_default();
                    self.obey(bytes, parcel);
                }
                Ok(Received::Closed) => brain.closed = true,
                Ok(Received::Nothing) | Err(_) => break,
            }
        }
        self.buffer = buffer;
    }

    /// Does what a message says, or counts it as refused; the descriptors of a refused one are closed.
    fn obey(&mut self, bytes: &[u8], parcel: Parcel) {
        let Parcel { descriptors, whole, .. } = parcel;
        let message = Message::decode(bytes).ok();
        let message = message.filter(|message| whole && message.descriptors() == descriptors.len());
        let done = message.is_some_and(|message| match message {
            Message::Put(names) => {
                let names = names.into_iter().map(Box::from);
                self.shelf.held.extend(names.zip(descriptors));
                true
            }
            Message::Delete(names) => {
                self.shelf.delete(names);
                true
            }
            Message::Note { key, value } => self.shelf.note(key, Value::Inline(value.into())),
            Message::Sealed { key } => {
                let memory = descriptors.into_iter().next();
                memory.is_some_and(|memory| self.shelf.note(key, Value::Sealed(memory)))
            }
            Message::Forget(keys) => {
                self.shelf.forget(keys);
                true
            }
            Message::Acknowledge(serials) => {
                self.shelf.acknowledge(serials);
                true
            }
            Message::Replay => self.replay(),
            Message::Program(path) => {
                let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
                let usable = path.is_absolute();
                if usable {
                    self.succession.offer(path);
                }
                usable
            }
            Message::End => {
                self.ending = Ending::Said;
                true
            }
            Message::Exit(_) | Message::ReplayEnd(_) => false,
        });
        self.summary.refused = self.summary.refused.saturating_add(u32::from(!done));
    }

    fn replay(&mut self) -> bool {
        if let State::Alive(brain) = &mut self.brain {
            brain.outbound = Outbound::Held(None);
        }
        true
    }

    fn tell(&mut self) -> Paused {
        let State::Alive(brain) = &mut self.brain else { return Paused::Done };
        if brain.closed {
            return Paused::Gone;
        }
        let paused = brain.outbound.tell(brain.socket.as_fd(), &self.shelf, &self.summary);
        if matches!(brain.outbound, Outbound::Live(_)) && !brain.ready {
            brain.ready = true;
            if let Ending::Asked { .. } = self.ending {
                terminate(brain.pid);
            }
            self.change_program();
        }
        paused
    }

    /// Becomes the new program too, now that a brain of it has shown that it works: if it fails as a keeper, that brain
    /// lives and takes over.
    fn change_program(&mut self) {
        let change = self.succession.proven();
        let (Some(program), State::Alive(brain)) = (change, &self.brain) else { return };
        let Outbound::Live(untold) = brain.outbound else { return };
        // A signal that asks for the end is not carried over; the change can do without, too.
        if !matches!(self.ending, Ending::No) {
            return;
        }
        let living = Living { pid: brain.pid, socket: brain.socket.as_raw_fd(), untold };
        let head = Head { summary: self.summary, next_serial: self.next_serial, brain: Some(living) };
        let all = (&self.shelf, &head, Some(brain.socket.as_fd()));
        let error = manifest::replace(&program, &self.arguments.keeper, all);
        complain(&format!("cannot change to {}: {error}", program.display()));
    }

    /// Until there is something to do.
    fn sleep(&self, paused: Paused) -> io::Result<()> {
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut wait = None;
        match &self.brain {
            State::Due(at) => wait = Some(at.saturating_duration_since(Instant::now())),
            State::Alive(brain) if !brain.closed => {
                let more = if paused == Paused::Full { PollFlags::OUT } else { PollFlags::empty() };
                polled.push(PollFd::new(&brain.socket, PollFlags::IN | more));
                wait = (paused == Paused::Busy).then_some(BUSY_PAUSE);
            }
            State::Alive(_) => {}
        }
        let wait = wait.map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        match poll(&mut polled, wait.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The brain that the keeper had before it changed its program.
fn surviving(living: Living) -> io::Result<Brain> {
    let socket = manifest::inherited(living.socket)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the brain's socket did not survive"))?;
    Ok(Brain {
        pid: living.pid,
        socket,
        since: Instant::now(),
        outbound: Outbound::Live(living.untold),
        ready: true,
        closed: false,
    })
}

/// The pid is that of a child not yet waited for, so it cannot be another's.
fn terminate(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// For whoever watches the keeper; that nobody can be told must not stop it.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "keeper: {message}");
}
