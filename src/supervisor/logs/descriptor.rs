//! Numbers of descriptors, and sizes of pipes.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    io::fcntl_dupfd_cloexec,
    pipe::{fcntl_getpipe_size, fcntl_setpipe_size},
};

use super::PIPE_BYTES;

/// Below are the numbers that children get.
const FIRST: i32 = 64;

/// The same descriptor under a number that is in no child's way; as it is, where there are too many.
pub(super) fn high(fd: OwnedFd) -> OwnedFd {
    fcntl_dupfd_cloexec(&fd, FIRST).unwrap_or(fd)
}

pub(super) fn high_pair((one, other): (OwnedFd, OwnedFd)) -> (OwnedFd, OwnedFd) {
    (high(one), high(other))
}

/// How much a pipe can hold if all its pages are full.
pub(super) fn pipe_bytes(pipe: impl AsFd) -> usize {
    fcntl_getpipe_size(pipe).unwrap_or(4096)
}

/// Enlarges a pipe if we may; how large it is afterwards.
pub(super) fn grow(pipe: impl AsFd) -> usize {
    let now = pipe_bytes(&pipe);
    if now >= PIPE_BYTES {
        return now;
    }
    fcntl_setpipe_size(&pipe, PIPE_BYTES).unwrap_or(now).max(now)
}
