//! System calls that no safe wrapper has: which socket of a `SO_REUSEPORT` group takes a new connection. The module's
//! only `unsafe`.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Has the kernel choose among the sockets of the group of `socket` by a classic BPF program, which returns the place
/// of the chosen one in the group; a place that does not exist falls back to the kernel's own choice.
pub(super) fn attach_choice(socket: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the option's value is a `sock_fprog`, whose address and size are given; it points to a program of the
    // length it states, which the kernel only reads and copies.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the choice back to the kernel.
pub(super) fn detach_choice(socket: BorrowedFd<'_>) -> io::Result<()> {
    let unused: libc::c_int = 0;
    // SAFETY: the option's value is an int, whose address and size are given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_REUSEPORT_BPF,
            (&raw const unused).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
