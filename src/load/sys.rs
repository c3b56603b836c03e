//! System calls that no safe wrapper has: receive time stamps and real-time scheduling; and what tokio wants a promise
//! for. The room's only `unsafe`.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::io::Errno;
use tokio::io::{Interest, unix::AsyncFd};

use super::socket::Received;

/// Room for one control message with a `timespec`, aligned as control messages must be.
#[repr(align(8))]
struct Control([MaybeUninit<u8>; 64]);

/// Reads with the kernel's time stamp.
pub(super) fn read_stamped(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Received, Errno> {
    let mut control = Control([MaybeUninit::uninit(); 64]);
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zero bytes are a valid `msghdr`: null pointers and lengths of zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the message points to a buffer and a control area that live until after the call, with their lengths.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let Ok(length) = usize::try_from(length) else {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    };
    // SAFETY: the kernel has filled the control area up to `msg_controllen`; these macros stay inside of it.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    let mut stamp_ns = None;
    if !header.is_null() {
        // SAFETY: not null, so a whole header of the control area.
        let found = unsafe { *header };
        if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_TIMESTAMPNS {
            // SAFETY: a message of this type holds a `timespec`, which need not be aligned.
            let time = unsafe { libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned() };
            stamp_ns = Some(time.tv_sec * 1_000_000_000 + time.tv_nsec);
        }
    }
    Ok(Received { length, stamp_ns })
}

/// Has the kernel stamp what arrives. Where this is not possible, reads bring no stamp and the engine uses its own clock.
pub(super) fn stamp_arrivals(socket: &OwnedFd) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, whose address and size are given.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Has the tokio runtime that this is called in say when a descriptor can be read.
pub(super) fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and stays the same descriptor until it is dropped, which is by the `AsyncFd`: nobody
    // asks that for a mutable reference.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? })
}

/// Gives this thread a fixed real-time priority, the least there is: it then runs before every ordinary process.
pub(super) fn schedule_in_real_time() -> io::Result<()> {
    // SAFETY: all zero bytes are a valid `sched_param`: it holds numbers only.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = 1;
    // SAFETY: 0 names the calling thread; the parameter lives until after the call.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
