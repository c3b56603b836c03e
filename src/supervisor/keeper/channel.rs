//! One message with its descriptors, to and from a socket; never waiting.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionread},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

/// What the kernel puts into one message at most.
const RIGHTS_MAX: usize = 253;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// In the other side's queue: it will be read even if the sender dies now.
    Whole,
    /// The queue is full; the socket tells when there is room.
    Full,
    /// Too many descriptors are under way, or memory is short. Nothing tells when that is over.
    Busy,
    /// The other side is gone.
    Gone,
}

#[derive(Debug)]
pub(super) enum Received {
    Message(Parcel),
    /// Nothing there now.
    Nothing,
    /// The other side is gone, and all that it sent has been read.
    Closed,
}

#[derive(Debug)]
pub(super) struct Parcel {
    /// How many bytes of the buffer it fills.
    pub(super) length: usize,
    pub(super) descriptors: Vec<OwnedFd>,
    /// False when bytes or descriptors of it were lost.
    pub(super) whole: bool,
}

pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<Sent, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RIGHTS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    loop {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        return match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => Ok(Sent::Whole),
            // A reset is told once, when the other side died with messages unread; asking again tells the truth.
            Err(Errno::INTR | Errno::CONNRESET) => continue,
            Err(Errno::AGAIN) => Ok(Sent::Full),
            Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => Ok(Sent::Busy),
            Err(Errno::PIPE | Errno::NOTCONN) => Ok(Sent::Gone),
            Err(error) => Err(error),
        };
    }
}

pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RIGHTS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(message) => break message,
            // A reset hides what the dead had sent before, which is still there to be read.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(error) => return Err(error),
        }
    };
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if message.bytes == 0 && descriptors.is_empty() && at_end(socket)? {
        return Ok(Received::Closed);
    }
    let whole = !message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received::Message(Parcel { length: message.bytes.min(buffer.len()), descriptors, whole }))
}

/// Tells the end from a message without bytes, which reads the same. Empty messages at the very end are not missed.
fn at_end(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(polled[0].revents().contains(PollFlags::HUP) && ioctl_fionread(socket)? == 0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, OwnedFd};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::{Received, Sent, receive, send};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// Lengths of what comes, and whether that was all because the other side is gone.
    fn drain(socket: &OwnedFd) -> (Vec<usize>, bool) {
        let (mut lengths, mut buffer) = (Vec::new(), [0; 64]);
        loop {
            match receive(socket.as_fd(), &mut buffer).unwrap() {
                Received::Message(parcel) => lengths.push(parcel.length),
                Received::Nothing => return (lengths, false),
                Received::Closed => return (lengths, true),
            }
        }
    }

    #[test]
    fn what_a_dead_sender_sent_is_read_even_when_it_left_messages_unread() {
        let (ours, theirs) = pair();
        assert_eq!(send(ours.as_fd(), b"never read", &[]), Ok(Sent::Whole));
        for message in [&b"one"[..], b"", b"three"] {
            assert_eq!(send(theirs.as_fd(), message, &[]), Ok(Sent::Whole));
        }
        drop(theirs);
        assert_eq!(drain(&ours), (vec![3, 0, 5], true));
        assert_eq!(send(ours.as_fd(), b"x", &[]), Ok(Sent::Gone));
    }

    #[test]
    fn sending_after_a_reset_tells_that_the_other_is_gone() {
        let (ours, theirs) = pair();
        assert_eq!(send(ours.as_fd(), b"never read", &[]), Ok(Sent::Whole));
        drop(theirs);
        assert_eq!(send(ours.as_fd(), b"x", &[]), Ok(Sent::Gone));
    }

    #[test]
    fn a_full_queue_is_told_and_empties() {
        let (ours, theirs) = pair();
        let sent = (0..100_000).take_while(|_| send(ours.as_fd(), &[7; 40], &[]) == Ok(Sent::Whole)).count();
        assert_eq!(send(ours.as_fd(), &[7; 40], &[]), Ok(Sent::Full));
        assert_eq!(drain(&theirs), (vec![40; sent], false));
        assert_eq!(send(ours.as_fd(), b"x", &[]), Ok(Sent::Whole));
    }

    #[test]
    fn a_message_that_does_not_fit_is_not_whole() {
        let (ours, theirs) = pair();
        send(ours.as_fd(), &[7; 100], &[theirs.as_fd()]).unwrap();
        let Received::Message(parcel) = receive(theirs.as_fd(), &mut [0; 64]).unwrap() else { panic!() };
        assert!(!parcel.whole && parcel.length == 64 && parcel.descriptors.len() == 1);
    }
}
