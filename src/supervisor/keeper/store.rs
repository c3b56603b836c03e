//! The brain's end: what it gives to the keeper, what it gets back, and the mirror of it.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, SocketType,
        sockopt::{socket_domain, socket_type},
    },
};

use super::{
    FD_VARIABLE,
    channel::{self, Parcel, Received, Sent},
    manifest::{self, Head},
    shelf::{NOTE_MAX_BYTES, NOTES_MAX, Shelf, Value, high},
    sys,
    wire::{DESCRIPTORS_MAX, Exit, MESSAGE_MAX_BYTES, Message, Summary, valid},
};

/// How long the keeper may take to make room, or to go on with a replay, before that is an error.
const PATIENCE: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// Room for any message that may come outside a replay.
const NEWS_BYTES: usize = 128;
/// Room for any message; above what the allocator takes from its own heap, so that it is given back afterwards.
const REPLAY_BYTES: usize = 192 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The mirror has what was asked for, and [`Store::become_keeper`] takes it along.
    #[error("the keeper is gone")]
    Gone,
    /// The mirror has what was asked for; asking again gives it to the keeper.
    #[error("the keeper did not answer for {} s", PATIENCE.as_secs())]
    Stalled,
    #[error("not started by a keeper")]
    NoKeeper,
    #[error("a name of {bytes} bytes, must be 1 to 255")]
    Name { bytes: usize },
    #[error("a value of {bytes} bytes, must be at most {NOTE_MAX_BYTES}")]
    Value { bytes: usize },
    #[error("more than {NOTES_MAX} notes")]
    Notes,
    #[error("the path of a program must be absolute and at most 4096 bytes")]
    Program,
    /// Too few descriptors are allowed here to take over what the keeper holds.
    #[error("descriptors were lost in the replay: the limit of open files is too low")]
    Lost,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The brain's connection to its keeper, with a copy of all that it gave.
#[derive(Debug)]
pub(crate) struct Store {
    socket: OwnedFd,
    mirror: Shelf,
    last_serial: u64,
    summary: Summary,
}

/// What the keeper holds: by default nothing, as at the first start.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Numbered from 64 and closed on exec.
    pub(crate) fds: BTreeMap<String, OwnedFd>,
    pub(crate) notes: BTreeMap<String, Vec<u8>>,
    /// Not acknowledged yet, in the order they happened.
    pub(crate) exits: Vec<Exit>,
    pub(crate) summary: Summary,
}

/// What the keeper tells unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Exit(Exit),
    /// The keeper is dead; it is time for [`Store::become_keeper`].
    Gone,
}

impl Store {
    /// Takes the socket that the keeper left for this process; once only. Whoever starts children keeps the variables
    /// in `VARIABLES` from them.
    pub(crate) fn from_env() -> Result<Self, Error> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let number = env::var(FD_VARIABLE).ok().and_then(|number| number.parse().ok());
        let number = number.filter(|_| !TAKEN.swap(true, Ordering::Relaxed)).ok_or(Error::NoKeeper)?;
        // A variable left over from elsewhere may name anything.
        let inherited = sys::adopt(number, |descriptor| {
            socket_type(descriptor) == Ok(SocketType::SEQPACKET)
                && socket_domain(descriptor) == Ok(AddressFamily::UNIX)
        })
        .ok_or(Error::NoKeeper)?;
        let socket = high(&inherited)?;
        Ok(Self { socket, mirror: Shelf::default(), last_serial: 0, summary: Summary::default() })
    }

    /// Asks for everything the keeper holds, and waits for it. After it the keeper tells exits, and passes on a SIGTERM:
    /// the handler of that must be in place before.
    pub(crate) fn replay(&mut self) -> Result<Replay, Error> {
        self.send(&Message::Replay, &[])?;
        let mut buffer = vec![0; REPLAY_BYTES];
        let mut replay = BTreeMap::new();
        loop {
            let parcel = match channel::receive(self.socket.as_fd(), &mut buffer).map_err(io::Error::from)? {
                Received::Message(parcel) => parcel,
                Received::Closed => return Err(Error::Gone),
                Received::Nothing => {
                    self.wait(PollFlags::IN, Instant::now() + PATIENCE)?;
                    continue;
                }
            };
            let bytes = buffer.get(..parcel.length).unwrap_or_default();
            if self.take_in(bytes, &parcel, &mut replay)? {
                break;
            }
        }
        let notes = self.mirror.notes.iter().map(|(key, value)| Ok((key.to_string(), value.read()?)));
        Ok(Replay {
            fds: replay,
            notes: notes.collect::<io::Result<_>>()?,
            exits: self.mirror.exits.values().copied().collect(),
            summary: self.summary,
        })
    }

    /// Has the keeper hold these descriptors too, under these names and instead of what had them. On return they are
    /// safe from the death of this process. All or none for up to 200 names.
    pub(crate) fn put(&mut self, descriptors: &[(String, BorrowedFd<'_>)]) -> Result<(), Error> {
        check(descriptors.iter().map(|(name, _)| name))?;
        let copies = descriptors
            .iter()
            .map(|(name, descriptor)| Ok((Box::from(name.as_str()), high(descriptor)?)))
            .collect::<io::Result<Vec<_>>>()?;
        self.mirror.held.extend(copies);
        // As many names of the greatest length fit in a message.
        const { assert!(DESCRIPTORS_MAX * 256 < MESSAGE_MAX_BYTES) };
        for batch in descriptors.chunks(DESCRIPTORS_MAX) {
            let names = batch.iter().map(|(name, _)| name.as_str()).collect();
            let beside: Vec<_> = batch.iter().map(|(_, descriptor)| *descriptor).collect();
            self.send(&Message::Put(names), &beside)?;
        }
        Ok(())
    }

    /// Has the keeper close what it holds under these names; one it does not know is no error.
    pub(crate) fn delete(&mut self, names: &[String]) -> Result<(), Error> {
        check(names)?;
        self.mirror.delete(names.iter().map(String::as_str));
        self.send_lists(names, Message::Delete)
    }

    /// Writes a note of up to 16 MiB, instead of the one of that key.
    pub(crate) fn note(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        check([key])?;
        if value.len() > NOTE_MAX_BYTES {
            return Err(Error::Value { bytes: value.len() });
        }
        if !self.mirror.note(key, Value::of(value)?) {
            return Err(Error::Notes);
        }
        match self.mirror.notes.get(key) {
            Some(Value::Sealed(memory)) => self.send(&Message::Sealed { key }, &[memory.as_fd()]),
            _ => self.send(&Message::Note { key, value }, &[]),
        }
    }

    /// Removes notes; one that is not there is no error.
    pub(crate) fn forget(&mut self, keys: &[String]) -> Result<(), Error> {
        check(keys)?;
        self.mirror.forget(keys.iter().map(String::as_str));
        self.send_lists(keys, Message::Forget)
    }

    /// Says that these exits have been acted upon, and whatever that led to noted. Until then each brain is told them.
    pub(crate) fn acknowledge(&mut self, exits: &[Exit]) -> Result<(), Error> {
        self.mirror.acknowledge(exits.iter().map(|exit| exit.serial));
        exits.chunks(MESSAGE_MAX_BYTES / 16).try_for_each(|batch| {
            self.send(&Message::Acknowledge(batch.iter().map(|exit| exit.serial).collect()), &[])
        })
    }

    /// Names the program of the next brain; if that one gets its replay, the keeper changes to the program as well, and
    /// if it fails three times the keeper goes back to the old one.
    pub(crate) fn program(&mut self, path: &Path) -> Result<(), Error> {
        let bytes = path.as_os_str().as_bytes();
        if !path.is_absolute() || bytes.len() > 4096 || bytes.contains(&0) {
            return Err(Error::Program);
        }
        self.send(&Message::Program(bytes), &[])
    }

    /// Has the keeper end once this process has exited, instead of starting another brain.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        self.send(&Message::End, &[])
    }

    /// The next piece of news, if there is one; it does not wait.
    pub(crate) fn receive(&mut self) -> io::Result<Option<News>> {
        let mut buffer = [0; NEWS_BYTES];
        loop {
            let parcel = match channel::receive(self.socket.as_fd(), &mut buffer)? {
                Received::Nothing => return Ok(None),
                Received::Closed => return Ok(Some(News::Gone)),
                Received::Message(parcel) => parcel,
            };
            // Anything else is what a replay that was given up left behind.
            if let Ok(Message::Exit(exit)) = Message::decode(buffer.get(..parcel.length).unwrap_or_default())
            {
                self.remember(exit);
                return Ok(Some(News::Exit(exit)));
            }
        }
    }

    /// Turns this process into a keeper of all that is in the mirror, by executing `program` with `arguments`; its
    /// children stay its children. Returns only when that failed, and may be tried again.
    pub(crate) fn become_keeper(&mut self, program: &Path, arguments: &[OsString]) -> io::Error {
        // The exits that the dead keeper had told and nobody has read.
        while let Ok(Some(News::Exit(_))) = self.receive() {}
        // The orphans that come before the new keeper is there are its own from now on.
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            return error.into();
        }
        if let Err(error) = sys::hold_signals() {
            return error;
        }
        let head = Head { summary: self.summary, next_serial: self.last_serial + 1, brain: None };
        let error = manifest::replace(program, arguments, (&self.mirror, &head, None));
        let _ = sys::release_signals();
        error
    }

    fn send_lists<'a>(
        &self,
        names: &'a [String],
        message: fn(Vec<&'a str>) -> Message<'a>,
    ) -> Result<(), Error> {
        names
            .chunks(DESCRIPTORS_MAX)
            .try_for_each(|batch| self.send(&message(batch.iter().map(String::as_str).collect()), &[]))
    }

    fn send(&self, message: &Message<'_>, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let bytes = message.encode();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match channel::send(self.socket.as_fd(), &bytes, descriptors).map_err(io::Error::from)? {
                Sent::Whole => return Ok(()),
                Sent::Gone => return Err(Error::Gone),
                Sent::Full => self.wait(PollFlags::OUT, deadline)?,
                Sent::Busy if Instant::now() > deadline => return Err(Error::Stalled),
                Sent::Busy => std::thread::sleep(BUSY_PAUSE),
            }
        }
    }

    fn wait(&self, event: PollFlags, deadline: Instant) -> Result<(), Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&self.socket, event)], Some(&left)) {
            Ok(0) => Err(Error::Stalled),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Takes one message of a replay into the mirror; true at its end.
    fn take_in(
        &mut self,
        bytes: &[u8],
        parcel: &Parcel,
        fds: &mut BTreeMap<String, OwnedFd>,
    ) -> Result<bool, Error> {
        if !parcel.whole {
            return Err(Error::Lost);
        }
        match Message::decode(bytes) {
            Ok(Message::Put(names)) => {
                for (name, descriptor) in names.into_iter().zip(&parcel.descriptors) {
                    self.mirror.held.insert(name.into(), high(descriptor)?);
                    fds.insert(name.into(), high(descriptor)?);
                }
            }
            Ok(Message::Note { key, value }) => drop(self.mirror.note(key, Value::Inline(value.into()))),
            Ok(Message::Sealed { key }) => {
                let memory = parcel.descriptors.first().ok_or(Error::Lost)?;
                self.mirror.note(key, Value::Sealed(high(memory)?));
            }
            Ok(Message::Exit(exit)) => self.remember(exit),
            Ok(Message::ReplayEnd(summary)) => {
                self.summary = summary;
                return Ok(true);
            }
            // Not of a replay, or of a keeper that knows more: nothing that was put is in it.
            _ => {}
        }
        Ok(false)
    }

    fn remember(&mut self, exit: Exit) {
        self.last_serial = self.last_serial.max(exit.serial);
        self.mirror.record(exit);
    }
}

impl AsFd for Store {
    /// Readable when [`Store::receive`] has something to tell.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Store {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn check<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Result<(), Error> {
    match names.into_iter().find(|name| !valid(name.as_ref())) {
        Some(name) => Err(Error::Name { bytes: name.as_ref().len() }),
        None => Ok(()),
    }
}
