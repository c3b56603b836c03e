//! The primary's end of one worker's IPC socket: lines are looked at, and taken only after they were dealt with.
//!
//! Deliberately absent: what the lines mean, and any buffer; what has not been dealt with stays in the kernel, where
//! the death of this process cannot reach it.
//!
//! Theory of operation. A message of at most [`LONGEST_SENT`] bytes is one buffer of the kernel's, so it is sent
//! wholly or not at all, and no half of one is lost with this process. Descriptors that a worker sends are never
//! received: both the look and the taking read without room for them, so the kernel closes its copies.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, fcntl_dupfd_cloexec, ioctl_fionread},
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
        SocketType, recv, sendmsg, socketpair,
    },
};

/// The most of what a worker sent that is looked at together; a longer line is not understood.
pub(super) const LONGEST_LINE: usize = 64 * 1024;
/// The longest message that is sent.
pub(super) const LONGEST_SENT: usize = 32 * 1024;
/// Our descriptors are numbered from here on, out of the way of those that children are given.
const FIRST_DESCRIPTOR: i32 = 64;

/// The primary's end of one worker's IPC socket.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What is to be read.
#[derive(Debug)]
pub(super) enum Peek {
    /// These bytes; when `cut`, more is there already that cannot be looked at before these are taken.
    Bytes {
        bytes: Vec<u8>,
        cut: bool,
    },
    Empty,
    End,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    Blocked,
    /// The other end is closed.
    Gone,
}

impl Channel {
    /// A new channel and the end for the worker, which is closed on exec and whose number means nothing: whoever
    /// spawns the worker gives it the number that [`super::environment`] tells.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Self::adopt(ours)?, theirs))
    }

    /// The primary's end that another process of ours held.
    pub(crate) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let socket = lift(socket)?;
        fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
        Ok(Self(socket))
    }

    /// Looks at what is there.
    pub(super) fn peek(&self) -> io::Result<Peek> {
        loop {
            let queued = usize::try_from(ioctl_fionread(&self.0)?).unwrap_or(usize::MAX);
            let mut bytes = vec![0; queued.clamp(1, LONGEST_LINE)];
            match recv(&self.0, bytes.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(Peek::End),
                // Something came between the two calls: the whole of it is better than its first byte.
                Ok(_) if queued == 0 => {}
                Ok((length, _)) => {
                    bytes.truncate(length);
                    return Ok(Peek::Bytes { bytes, cut: length < queued });
                }
                Err(Errno::AGAIN) => return Ok(Peek::Empty),
                // The other end closed before it read everything. This is told once; what it sent can still be read.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the first `length` bytes, which a look has shown.
    pub(super) fn consume(&self, mut length: usize) -> io::Result<()> {
        let mut scratch = [0; 4096];
        while length > 0 {
            let room = length.min(scratch.len());
            match recv(&self.0, &mut scratch[..room], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((taken, _)) => length -= taken,
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends one message, with a descriptor if it is about one.
    pub(super) fn send(&self, text: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<Sent> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &descriptors
            && !control.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        loop {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.0, &[IoSlice::new(text)], &mut control, flags) {
                Ok(sent) if sent == text.len() => return Ok(Sent::Whole),
                Ok(_) => return Err(io::Error::other("half of a message was sent")),
                // TOOMANYREFS: too many descriptors are on their way; they arrive, and then there is room.
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => return Ok(Sent::Blocked),
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(Sent::Gone),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The same descriptor with a number of ours, closed on exec.
pub(super) fn lift(descriptor: OwnedFd) -> rustix::io::Result<OwnedFd> {
    if descriptor.as_raw_fd() >= FIRST_DESCRIPTOR {
        return Ok(descriptor);
    }
    fcntl_dupfd_cloexec(&descriptor, FIRST_DESCRIPTOR)
}

/// Another descriptor of the same thing, with a number of ours.
pub(super) fn duplicate(descriptor: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    fcntl_dupfd_cloexec(descriptor, FIRST_DESCRIPTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_before_it_takes() {
        let (channel, worker) = Channel::pair().unwrap();
        assert!(channel.0.as_raw_fd() >= FIRST_DESCRIPTOR);
        assert!(matches!(channel.peek().unwrap(), Peek::Empty));
        rustix::io::write(&worker, b"one\ntwo\n").unwrap();
        for _ in 0..2 {
            let Peek::Bytes { bytes, cut } = channel.peek().unwrap() else { panic!("nothing there") };
            assert_eq!((bytes.as_slice(), cut), (&b"one\ntwo\n"[..], false));
        }
        channel.consume(4).unwrap();
        let Peek::Bytes { bytes, .. } = channel.peek().unwrap() else { panic!("nothing there") };
        assert_eq!(bytes, b"two\n");
        drop(worker);
        channel.consume(4).unwrap();
        assert!(matches!(channel.peek().unwrap(), Peek::End));
    }

    #[test]
    fn a_full_socket_takes_whole_messages_only() {
        let (channel, worker) = Channel::pair().unwrap();
        let text = vec![b'x'; LONGEST_SENT];
        let mut whole = 0;
        while channel.send(&text, None).unwrap() == Sent::Whole {
            whole += 1;
        }
        let (ours, _) = Channel::pair().unwrap();
        assert_eq!(channel.send(&text, Some(ours.as_fd())).unwrap(), Sent::Blocked);
        assert_eq!(ioctl_fionread(&worker).unwrap(), whole * LONGEST_SENT as u64);
        drop(worker);
        assert_eq!(channel.send(&text, None).unwrap(), Sent::Gone);
    }

    #[test]
    fn a_descriptor_on_its_way_cuts_the_look() {
        let (channel, worker) = Channel::pair().unwrap();
        let worker = Channel(worker);
        worker.send(b"first half, ", Some(channel.as_fd())).unwrap();
        worker.send(b"second half\n", None).unwrap();
        let Peek::Bytes { bytes, cut } = channel.peek().unwrap() else { panic!("nothing there") };
        assert_eq!((bytes.as_slice(), cut), (&b"first half, "[..], true));
    }
}
