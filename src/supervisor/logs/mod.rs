//! Moves the output of supervised processes from pipes to log files; no line is lost, doubled or torn, also when
//! this process is killed at any instant and a successor carries on with the same pipes.
//!
//! Theory of operation. One thread (`mover`) waits for all pipes by epoll, edge-triggered, and gives each pipe that
//! has something a turn of bounded size (`turn`). A *plain* stream, which alone writes its file and changes nothing, is
//! spliced into it: what the kernel consumes from the pipe and what it adds to the file are the same bytes, however it
//! is interrupted. All others are *framed*: whole lines are looked at (`window`), formatted (`format`) and written
//! as batches that a successor finishes or undoes (`journal`). A stream turns from plain to framed, and back, when others
//! join its file, as during a reload. `sink` is a file being written, `rotation` what becomes of it after, `tidier`
//! the background thread for that; `tail` and `follow` read logs.
//!
//! What a reader may find: a line longer than the pipe (1 MiB, where the user's limit allows it) in a framed stream
//! becomes several lines; a plain stream that stops within a line for a second while another process writes the same
//! file has its line cut there; a device or FIFO as log file gets each line at least once instead of exactly once; where
//! the disk is full, whole lines are dropped and a line says how many; a process that ends within a line, framed,
//! gets a newline, plain, only if another line follows.
//!
//! Deliberately absent: the machine's own crash (nothing is synced, and pipes end with the machine), file names
//! (the caller chooses them), and watching for files renamed from outside ([`LogMover::reopen`] says when).

mod batch;
mod clock;
mod descriptor;
mod follow;
mod format;
mod journal;
mod mover;
mod rotation;
mod sink;
mod tail;
mod tidier;
mod turn;
mod window;
mod works;

#[cfg(test)]
mod tests;

use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{
    mpsc::{UnboundedReceiver, unbounded_channel},
    oneshot,
};

use descriptor::high;
pub use follow::{Follow, FollowedLine};
pub(super) use journal::JournalFds;
pub use tail::tail;

/// The size wanted for pipes; also the longest line that is kept whole.
const PIPE_BYTES: usize = 1024 * 1024;
/// How long others wait for a stream to finish its line in a file they share. Longer in tests, where a writer may be
/// kept from running within a line.
const UNFINISHED_LINE: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 1 });

/// A stream of output.
#[derive(Debug)]
pub(super) struct Stream {
    /// Stays the same when a successor attaches the stream again; never used twice otherwise.
    pub(super) id: u64,
    /// The read end.
    pub(super) pipe: OwnedFd,
    pub(super) target: Target,
}

/// Where a stream goes, and how.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    pub(super) app: String,
    /// The number PM2 calls `pm_id`; JSON lines carry it.
    pub(super) instance: u32,
    /// Standard output rather than standard error.
    pub(super) out: bool,
    /// `None` discards.
    pub(super) file: Option<PathBuf>,
    /// PM2's `log_file`: a second file, which gets the same.
    pub(super) combined: Option<PathBuf>,
    pub(super) format: Format,
    /// Other streams write the same file (PM2's `merge_logs`). Streams that happen to meet are dealt with as well; to
    /// say it beforehand only spares the change.
    pub(super) shared: bool,
    pub(super) rotate: Rotate,
}

/// What is done to each line.
#[derive(Clone, Debug, Default)]
pub(super) struct Format {
    /// A `log_date_format` in the tokens of moment, put in front of the line. `Some("")` is a colon and a space.
    pub(super) timestamp: Option<String>,
    /// JSON objects as with PM2's `log_type: json`; the timestamp is ISO 8601 unless a format is given.
    pub(super) json: bool,
}

/// When a file is rotated and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rotate {
    /// 0: of any size.
    pub(super) max_bytes: u64,
    /// How many rotated files are kept.
    pub(super) keep: u32,
    pub(super) gzip: bool,
    /// By the clock as well.
    pub(super) every: Option<Interval>,
}

impl Default for Rotate {
    fn default() -> Self {
        Self { max_bytes: 50 * 1024 * 1024, keep: 7, gzip: true, every: None }
    }
}

/// Rotation by the clock, local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interval {
    Hourly,
    Daily,
}

/// What the mover tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogNews {
    /// Everything of this stream is in its files, and the pipe is closed here; forget it in the keeper too.
    Ended(u64),
    /// Nothing can be written to this file for now; it is tried again each second.
    Paused { path: PathBuf, reason: String },
    /// Writing works again; so much was dropped meanwhile.
    Resumed { path: PathBuf, dropped_lines: u64, dropped_bytes: u64 },
    /// The file was renamed and a new one begun.
    Rotated { path: PathBuf },
}

/// What the thread is asked to do. Not bounded: each comes from one step of the actor, and a slow disk must not
/// hold up the actor.
enum Command {
    Attach(Stream),
    Finish(u64),
    Reopen,
    Truncate { app: Option<String>, done: oneshot::Sender<usize> },
    Stop,
}

/// The handle of the mover's thread.
#[derive(Debug)]
pub(super) struct LogMover {
    commands: Option<mpsc::Sender<Command>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl LogMover {
    /// Finishes or undoes the batch a predecessor was in, then starts the thread. Attach every stream that the
    /// predecessor had.
    ///
    /// # Errors
    /// When the journal cannot be read, or descriptors or a thread cannot be had.
    pub(super) fn start(journal: JournalFds) -> io::Result<(Self, UnboundedReceiver<LogNews>)> {
        let wake = Arc::new(high(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
        let (commands, received) = mpsc::channel();
        let (news, told) = unbounded_channel();
        let mover = mover::Mover::new(journal, Arc::clone(&wake), received, news)?;
        let thread = std::thread::Builder::new().name("logs".to_owned()).spawn(move || mover.run())?;
        Ok((Self { commands: Some(commands), wake, thread: Some(thread) }, told))
    }

    /// Takes a stream over until its end.
    pub(super) fn attach(&self, stream: Stream) {
        self.send(Command::Attach(stream));
    }

    /// Says that the process is gone. What is in the pipe is moved, and what its descendants write within half a
    /// second; then the pipe is closed, even if some of them still hold it.
    pub(super) fn finish(&self, id: u64) {
        self.send(Command::Finish(id));
    }

    /// Opens all files again by their names, each at the end of a line.
    pub(super) fn reopen(&self) {
        self.send(Command::Reopen);
    }

    /// Empties the files that the streams of this app (or of all) go to; answers how many.
    pub(super) fn truncate(&self, app: Option<&str>) -> oneshot::Receiver<usize> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Truncate { app: app.map(str::to_owned), done });
        answer
    }

    /// Moves the whole lines that are there, then ends. The streams are not ended: a successor may go on with them.
    pub(super) fn stop(mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// A thread that is gone has closed the news, which is how its end is told.
    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for LogMover {
    /// Ends the thread without moving more, as if we were killed.
    fn drop(&mut self) {
        self.commands = None;
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
