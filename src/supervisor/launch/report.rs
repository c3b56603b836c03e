//! How the wrapper tells the supervisor what became of a start.
//!
//! A pair of sequenced-packet sockets. The wrapper sends its seccomp listener (one packet with the descriptor) and, if a step
//! fails, one packet that names it; its end closes on exec, so the end of the stream means that the app runs (or that the
//! wrapper was killed, which its exit tells).
//!
//! [`Report::peek`] takes nothing away: a supervisor that dies between reading a descriptor and storing it leaves the packet
//! to its successor, which holds the same socket. Deliberately absent: deadlines; a wrapper takes milliseconds.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::sys;

/// The supervisor's end of the report of one start.
#[derive(Debug)]
pub(crate) struct Report {
    socket: OwnedFd,
}

/// What a report says next.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The listener of a transparent app: store it, then [`Report::consume`], then read on.
    Listener(OwnedFd),
    /// The app's program runs; nothing follows.
    Started,
    /// The app was not started; nothing follows but the wrapper's exit.
    Failed(Failure),
}

/// A start that failed: where, and with which error of the system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {}{}", io::Error::from_raw_os_error(*errno), in_parentheses(detail))]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: i32,
    /// What the step was about, such as the name of the user; may be empty.
    pub(crate) detail: String,
}

/// The steps of the wrapper, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Orders,
    Cgroup,
    Limit,
    Identity,
    Directory,
    Filter,
    Program,
}

impl Report {
    /// Makes the two ends. Store this one before the start; give the other to [`Wrap`](super::Wrap) and drop it afterwards.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let ours = sys::duplicate_above(ours, sys::FLOOR)?;
        Ok((Self { socket: ours }, sys::duplicate_above(theirs, sys::FLOOR)?))
    }

    /// Takes over a stored report.
    pub(crate) fn adopt(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Looks at the next packet without taking it; `None` when there is none yet.
    pub(crate) fn peek(&self) -> io::Result<Option<Outcome>> {
        let mut bytes = [0; MAX_PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = match rustix::net::recvmsg(&self.socket, &mut parts, &mut control, flags) {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(error) => return Err(error.into()),
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match (bytes.get(..received), descriptor) {
            (Some([]), _) => Ok(Some(Outcome::Started)),
            (Some([b'L']), Some(listener)) => {
                Ok(Some(Outcome::Listener(sys::duplicate_above(listener, sys::FLOOR)?)))
            }
            (Some(packet), _) => {
                Failure::decode(packet).map(|failure| Some(Outcome::Failed(failure))).ok_or_else(damaged)
            }
            (None, _) => Err(damaged()),
        }
    }

    /// Takes away the packet that [`Report::peek`] showed.
    pub(crate) fn consume(&self) -> io::Result<()> {
        match rustix::net::recv(&self.socket, &mut [0_u8; 1], RecvFlags::DONTWAIT) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Report {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Sends the listener; the wrapper's side.
pub(crate) fn send_listener(socket: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [listener];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"L")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Sends why the start failed; the wrapper's side.
pub(crate) fn send_failure(socket: BorrowedFd<'_>, failure: &Failure) -> io::Result<()> {
    rustix::net::send(socket, &failure.encode(), SendFlags::NOSIGNAL)?;
    Ok(())
}

const MAX_PACKET: usize = 512;

impl Failure {
    /// Why it failed when the number alone does not say it, and what to do.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match (self.step, self.errno) {
            (Step::Filter, libc::EINVAL | libc::ENOSYS) => {
                Some("the transparent mode needs Linux 5.9 with seccomp on x86-64 or aarch64")
            }
            (Step::Filter, libc::EBUSY) => Some(
                "this process is already watched by another seccomp listener, of which there can be only one",
            ),
            (Step::Filter, libc::EACCES | libc::EPERM) => Some(
                "something around the supervisor (a container's profile, perhaps) forbids seccomp filters",
            ),
            (Step::Identity, libc::EPERM) => Some("only root can run an app as another user"),
            (Step::Identity, libc::ENOENT) => {
                Some("no such user or group; a number without an account needs a group")
            }
            (Step::Limit, libc::EPERM) => Some("only root can raise a hard limit"),
            (Step::Program, libc::EAGAIN) => {
                Some("the user of the app already has as many processes as its limit allows")
            }
            (Step::Program, libc::ENOEXEC) => Some("a script needs a first line such as #!/bin/sh"),
            _ => None,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![b'F', self.step as u8];
        bytes.extend(self.errno.to_le_bytes());
        bytes.extend(self.detail.bytes().take(MAX_PACKET - bytes.len()));
        bytes
    }

    fn decode(packet: &[u8]) -> Option<Self> {
        let [b'F', step, rest @ ..] = packet else { return None };
        let (errno, detail) = rest.split_first_chunk()?;
        Some(Self {
            step: Step::ALL.into_iter().find(|known| *known as u8 == *step)?,
            errno: i32::from_le_bytes(*errno),
            detail: String::from_utf8_lossy(detail).into_owned(),
        })
    }
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Orders,
        Self::Cgroup,
        Self::Limit,
        Self::Identity,
        Self::Directory,
        Self::Filter,
        Self::Program,
    ];
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Orders => "reading the wrapper's orders",
            Self::Cgroup => "entering the cgroup",
            Self::Limit => "setting a resource limit",
            Self::Identity => "changing the user",
            Self::Directory => "entering the working directory",
            Self::Filter => "installing the transparent mode",
            Self::Program => "executing the program",
        })
    }
}

fn in_parentheses(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the wrapper's report is damaged")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::{Failure, Outcome, Report, Step};

    #[test]
    fn a_peeked_listener_stays_for_a_successor() {
        let (report, theirs) = Report::pair().unwrap();
        assert!(report.peek().unwrap().is_none());
        let (end, _other) = Report::pair().unwrap();
        super::send_listener(theirs.as_fd(), end.as_fd()).unwrap();
        for _ in 0..3 {
            assert!(matches!(report.peek().unwrap(), Some(Outcome::Listener(_))));
        }
        let report = Report::adopt(super::sys::duplicate_above(&report, 64).unwrap());
        report.consume().unwrap();
        assert!(report.peek().unwrap().is_none());
        drop(theirs);
        assert!(matches!(report.peek().unwrap(), Some(Outcome::Started)));
    }

    #[test]
    fn a_failure_says_step_and_reason() {
        let (report, theirs) = Report::pair().unwrap();
        let failure = Failure { step: Step::Identity, errno: libc::EPERM, detail: "nobody".into() };
        super::send_failure(theirs.as_fd(), &failure).unwrap();
        let Some(Outcome::Failed(told)) = report.peek().unwrap() else { panic!("no failure") };
        assert_eq!(told, failure);
        assert_eq!(told.to_string(), "changing the user: Operation not permitted (os error 1) (nobody)");
        assert!(told.hint().unwrap().contains("root"));
        let long = Failure { detail: "x".repeat(5000), ..failure };
        super::send_failure(theirs.as_fd(), &long).unwrap();
        report.consume().unwrap();
        assert!(matches!(report.peek().unwrap(), Some(Outcome::Failed(_))));
    }
}
