//! The supervisor's end of one app's filter.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, SealFlags};

use super::bind::Desk;
use super::sockets::ListenSockets;
use super::sys::{self, Page};

/// Answers the `bind` and `listen` calls of one instance: everything it started is under the same filter.
///
/// Both descriptors must be stored before the first [`Notifier::readable`]; a successor makes a new value from them. Dropping
/// the last copy of the listener while the app runs makes its later calls fail with `ENOSYS`.
pub(crate) struct Notifier {
    listener: OwnedFd,
    page: Page,
    page_file: OwnedFd,
    generation: u64,
}

/// What has happened.
#[derive(Debug)]
#[expect(dead_code, reason = "which of its processes and sockets it was is for those who look closer")]
pub(crate) enum TransparentEvent {
    /// The app has our socket.
    Bound { process: u32, address: SocketAddr, generation: u64 },
    /// The app accepts connections: it is ready, if it has no more addresses than this. `generation` is that of the
    /// socket, which can be newer than the app's.
    Listening { process: u32, address: SocketAddr, generation: u64 },
    /// The app was told that it cannot have the address.
    Refused { process: u32, address: SocketAddr, error: io::Error },
    /// The app uses a socket of its own, which a reload will close.
    Unmanaged { process: u32, reason: Unmanaged },
    /// No process is left under the filter: drop the notifier.
    Ended,
}

/// Why a TCP socket stayed the app's own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unmanaged {
    #[error("it asked for any free port")]
    PortZero,
    #[error("it is in another network namespace")]
    OtherNetwork,
    #[error("its socket is bound to a device")]
    BoundToDevice,
    #[error("the system does not allow a look into the process")]
    NotTraceable,
    #[error("the socket could not be stored: {0}")]
    NotKept(io::Error),
}

/// The most calls that are answered at once, so that an app in a loop cannot keep us.
const MAX_CALLS: usize = 64;

impl Notifier {
    /// Makes the file for the pending call. Store it before it is used.
    pub(crate) fn page() -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = sys::duplicate_above(rustix::fs::memfd_create("pending-call", flags)?, sys::FLOOR)?;
        rustix::fs::ftruncate(&file, Page::BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(file)
    }

    /// Begins, or takes over where a predecessor has died: then call [`Notifier::readable`] at once.
    pub(crate) fn new(listener: OwnedFd, page: OwnedFd, generation: u64) -> io::Result<Self> {
        if rustix::fs::fstat(&page)?.st_size.unsigned_abs() < Page::BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the page of the notifier is too small"));
        }
        let mut mapped = Page::map(page.as_fd())?;
        if mapped.load().is_none() {
            // The predecessor may have died in the middle of clearing it.
            mapped.clear();
        }
        Ok(Self { listener, page: mapped, page_file: page, generation })
    }

    /// The file of the pending call, for the store.
    #[cfg_attr(not(test), expect(dead_code, reason = "whoever makes a notifier has its page"))]
    pub(crate) fn page_file(&self) -> BorrowedFd<'_> {
        self.page_file.as_fd()
    }

    /// Whether there is more to do: for edge-triggered waiting, call [`Notifier::readable`] until there is not.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for edge-triggered waiting, which the actor does not do")
    )]
    pub(crate) fn is_pending(&self) -> io::Result<bool> {
        Ok(self.page.load().is_some() || self.poll()?.contains(PollFlags::IN))
    }

    /// Answers the calls that wait, at most 64 of them. Never waits itself.
    pub(crate) fn readable(&mut self, sockets: &mut dyn ListenSockets) -> io::Result<Vec<TransparentEvent>> {
        let mut events = Vec::new();
        for _ in 0..MAX_CALLS {
            // What is in the page already was received by a predecessor, and never answered.
            if self.page.load().is_none() && !self.receive(&mut events)? {
                break;
            }
            let event = self.decide(sockets)?;
            self.page.clear();
            events.extend(event);
        }
        Ok(events)
    }

    /// Receives the next call into the page; false when there is none.
    fn receive(&mut self, events: &mut Vec<TransparentEvent>) -> io::Result<bool> {
        let ready = self.poll()?;
        if !ready.contains(PollFlags::IN) {
            if ready.contains(PollFlags::HUP) {
                events.push(TransparentEvent::Ended);
            }
            return Ok(false);
        }
        match self.page.receive(self.listener.as_fd()) {
            // Its caller has died since; the next round looks again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            received => received.map(|()| true),
        }
    }

    /// Decides and answers the call in the page.
    fn decide(&mut self, sockets: &mut dyn ListenSockets) -> io::Result<Option<TransparentEvent>> {
        let Some(call) = self.page.load() else { return Ok(None) };
        let listener = self.listener.as_fd();
        if !sys::is_waiting(listener, call.id) {
            return Ok(None);
        }
        let verdict = Desk { listener, generation: self.generation, call: &call }.decide(sockets);
        match sys::answer(listener, call.id, verdict.answer) {
            // Its caller has died; what we made is held for the next.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            answered => answered.map(|()| verdict.event),
        }
    }

    fn poll(&self) -> io::Result<PollFlags> {
        let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(fds[0].revents())
    }
}

/// Becomes readable when a call waits.
impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl AsRawFd for Notifier {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}
