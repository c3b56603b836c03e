//! Looking at what is in a pipe without consuming it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, tee},
};

use super::{
    PIPE_BYTES,
    descriptor::{high_pair, pipe_bytes},
};

/// How much is looked at by default.
const PEEK_BYTES: usize = 64 * 1024;

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// A batch of lines.
    Batch,
    /// Half of what the pipe can hold.
    Half,
    /// Everything the pipe can hold: for a line that is longer than a batch.
    Whole,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Nothing,
    /// Nothing, and nobody holds the write end any more.
    End,
    Bytes {
        /// The reach was too short for all there is, or (`Whole`) the pipe can hold no more. Not told for `Batch`.
        full: bool,
    },
}

/// A pipe of our own, into which others are copied with tee, and the bytes that were last seen.
pub(super) struct Window {
    scratch: (OwnedFd, OwnedFd),
    scratch_bytes: usize,
    /// Never more than the staging pipe can take in one piece.
    limit: usize,
    bytes: Vec<u8>,
}

impl Window {
    pub(super) fn new(limit: usize) -> io::Result<Self> {
        let scratch = scratch(limit)?;
        let scratch_bytes = pipe_bytes(&scratch.0);
        Ok(Self { scratch, scratch_bytes, limit, bytes: Vec::new() })
    }

    /// The bytes of the last [`Window::peek`].
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Frees the memory that a long line took.
    pub(super) fn shrink(&mut self) {
        if self.bytes.capacity() > PEEK_BYTES {
            self.bytes = Vec::new();
        }
    }

    /// Looks at the front of `pipe`, which holds at most `capacity` bytes, in pages that need not be full.
    ///
    /// A pipe is full when its pages are used up, however few bytes are in them; nothing tells that of its read
    /// end. So the scratch pipe gets as many pages, and whether *it* is full then can be asked.
    pub(super) fn peek(&mut self, pipe: impl AsFd, capacity: usize, reach: Reach) -> io::Result<Seen> {
        self.bytes.clear();
        match reach {
            // After a look into a small pipe.
            Reach::Batch if self.scratch_bytes < PEEK_BYTES => self.resize(4 * PEEK_BYTES),
            Reach::Batch => {}
            Reach::Half => self.resize(capacity / 2),
            Reach::Whole => self.resize(capacity),
        }
        let most = if reach == Reach::Batch { PEEK_BYTES } else { PIPE_BYTES };
        let copied = rustix::io::retry_on_intr(|| tee(&pipe, &self.scratch.1, most, SpliceFlags::NONBLOCK));
        let copied = match copied {
            Ok(0) => return Ok(Seen::End),
            Err(Errno::AGAIN) => return Ok(Seen::Nothing),
            other => other?,
        };
        let full = reach != Reach::Batch && (copied == most || self.is_full()?);
        let taken = self.take(copied);
        if taken.is_err() {
            // Half-read scratch would show old bytes at the next look.
            self.scratch = scratch(self.limit)?;
            self.scratch_bytes = pipe_bytes(&self.scratch.0);
        }
        taken.map(|()| Seen::Bytes { full })
    }

    fn resize(&mut self, bytes: usize) {
        let bytes = bytes.min(self.limit).max(4096);
        if bytes != self.scratch_bytes {
            // Growing may be forbidden by the user's limit; then the reach is shorter, and lines are cut earlier.
            let _ = fcntl_setpipe_size(&self.scratch.0, bytes);
            self.scratch_bytes = pipe_bytes(&self.scratch.0);
        }
    }

    fn is_full(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.scratch.1, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))?;
        Ok(!fds[0].revents().contains(PollFlags::OUT))
    }

    fn take(&mut self, copied: usize) -> io::Result<()> {
        self.bytes.resize(copied, 0);
        let mut read_bytes = 0;
        while read_bytes < copied {
            match read(&self.scratch.0, &mut self.bytes[read_bytes..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => read_bytes += more,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn scratch(limit: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let scratch = high_pair(pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?);
    // Smaller is always possible; larger is a wish.
    match fcntl_setpipe_size(&scratch.0, limit) {
        Err(error) if pipe_bytes(&scratch.0) > limit => Err(error.into()),
        _ => Ok(scratch),
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};

    use super::{Reach, Seen, Window};

    #[test]
    fn a_pipe_full_of_half_used_pages_is_seen_to_be_full() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let capacity = fcntl_getpipe_size(&reader).unwrap();
        let mut window = Window::new(1 << 20).unwrap();
        assert_eq!(window.peek(&reader, capacity, Reach::Half).unwrap(), Seen::Nothing);
        let mut written = 0;
        let mut was_half = None;
        while let Ok(bytes) = rustix::io::write(&writer, &[b'x'; 2049]) {
            written += bytes;
            if window.peek(&reader, capacity, Reach::Half).unwrap() == (Seen::Bytes { full: true }) {
                was_half.get_or_insert(written);
            }
        }
        assert!(written < capacity);
        let half = was_half.unwrap();
        assert!(half > written / 3 && half < written * 2 / 3);
        assert_eq!(window.peek(&reader, capacity, Reach::Whole).unwrap(), Seen::Bytes { full: true });
        assert_eq!(window.bytes().len(), written);
        rustix::io::read(&reader, &mut [0; 3000]).unwrap();
        assert_eq!(window.peek(&reader, capacity, Reach::Whole).unwrap(), Seen::Bytes { full: false });
        drop(writer);
        assert_eq!(window.peek(&reader, capacity, Reach::Batch).unwrap(), Seen::Bytes { full: false });
    }
}
