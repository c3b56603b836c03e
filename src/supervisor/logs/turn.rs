//! One turn of one stream: bounded in bytes, so that a flood from one cannot starve the others, nor grow memory.

use std::{io, os::fd::OwnedFd, time::Instant};

use jiff::Timestamp;
use rustix::{
    io::Errno,
    pipe::{SpliceFlags, splice},
};

use super::{
    UNFINISHED_LINE,
    batch::Batch,
    format::{Formatter, first_line_end, last_line_end},
    journal::Dropped,
    sink::Due,
    window::{Reach, Seen},
    works::Works,
};

/// What one turn moves at most, give or take a batch.
const TURN_BYTES: usize = 256 * 1024;
/// How many streams of processes that are gone wait for a file that cannot be written; those beyond are dropped.
/// A process that fails in a loop while the disk is full would else leave pipes without end.
const ENDED_WAITING: usize = 16;
/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Flowing,
    /// Its process is gone; descendants may write until then.
    Finishing {
        until: Instant,
    },
    /// So many bytes that were in the pipe are still to be moved.
    Last {
        left: u64,
    },
}

pub(super) struct Source {
    pub(super) id: u64,
    pub(super) pipe: OwnedFd,
    pub(super) capacity: usize,
    pub(super) app: String,
    /// The files it goes to; none, one, or the one and the combined.
    pub(super) outs: Vec<usize>,
    pub(super) formatter: Formatter,
    pub(super) shared: bool,
    pub(super) phase: Phase,
    /// Nobody holds the write end any more.
    pub(super) ended: bool,
    /// Counted among those that wait for their file after their end.
    pub(super) counted: bool,
    /// Since when it waits for another to finish its line.
    pub(super) held: Option<Instant>,
    /// When to look at it without an event.
    pub(super) look: Option<Instant>,
    pub(super) queued: bool,
}

impl Source {
    fn is_last(&self) -> bool {
        self.ended || matches!(self.phase, Phase::Last { .. })
    }

    /// Whether it should still wait for another stream to finish a line.
    pub(super) fn must_hold(&mut self) -> bool {
        self.held.get_or_insert_with(Instant::now).elapsed() < UNFINISHED_LINE
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There may be more at once.
    More,
    /// The next write will be reported.
    Idle {
        unfinished: bool,
    },
    /// Something else than the pipe is waited for.
    Wait,
    Ended,
}

/// What became of one splice.
enum Step {
    Moved(usize),
    /// Something was done before it; try again.
    Again,
    Stop(Outcome),
}

/// How much of the pipe's front can be moved.
enum Piece {
    Bytes(usize),
    Unfinished,
    Nothing,
    End,
}

impl Works {
    pub(super) fn turn(&mut self, source: &mut Source) -> Outcome {
        let before = self.moved;
        let mut outcome = self.outcome(source);
        if let Phase::Last { left } = &mut source.phase {
            *left = left.saturating_sub((self.moved - before) as u64);
            if matches!(outcome, Outcome::Idle { .. }) || (*left == 0 && outcome == Outcome::More) {
                outcome = Outcome::Ended;
            }
        }
        outcome
    }

    fn outcome(&mut self, source: &mut Source) -> Outcome {
        let Some(first) = source.outs.first().copied() else { return self.discard(source) };
        if source.outs.iter().any(|out| self.sink(*out).is_some_and(|sink| sink.must_wait())) {
            return self.spill(source, first);
        }
        let dropped = self.sink(first).map(|sink| sink.key).map(|key| self.journal.entry(key).dropped);
        if let Some(dropped) = dropped.filter(|dropped| *dropped != Dropped::default()) {
            match self.write_note(source, first, dropped) {
                Batch::Written => {}
                Batch::Held => return Outcome::Wait,
                Batch::Failed(out, error) => {
                    self.fail(out, &error);
                    return self.spill(source, first);
                }
            }
        }
        let plain = self.is_plain(source, first);
        let outcome = if plain { self.plain(source, first) } else { self.framed(source) };
        outcome.unwrap_or_else(|(out, error)| {
            self.fail(out, &error);
            self.spill(source, first)
        })
    }

    fn is_plain(&mut self, source: &Source, first: usize) -> bool {
        let alone = source.outs.len() == 1 && !source.shared && source.formatter.is_raw();
        alone
            && self.sink(first).is_some_and(|sink| {
                // A file that could not be opened is tried as plain; what it is shows then.
                sink.users == 1 && sink.end().map_or(true, |_| sink.is_regular())
            })
    }

    fn discard(&mut self, source: &Source) -> Outcome {
        let null = self.journal.null();
        match rustix::io::retry_on_intr(|| {
            splice(&source.pipe, None, null, None, TURN_BYTES, SpliceFlags::NONBLOCK)
        }) {
            Ok(0) => Outcome::Ended,
            Ok(bytes) => {
                self.moved += bytes;
                Outcome::More
            }
            Err(Errno::AGAIN) => Outcome::Idle { unfinished: false },
            Err(_) => Outcome::Ended,
        }
    }

    /// Has the kernel move bytes into a file that is this stream's alone.
    fn plain(&mut self, source: &mut Source, out: usize) -> Result<Outcome, (usize, io::Error)> {
        let mut left = TURN_BYTES;
        while left > 0 {
            let step = self.plain_step(source, out, left).map_err(|error| (out, error))?;
            match step {
                Step::Moved(bytes) => {
                    left -= bytes.min(left);
                    self.moved += bytes;
                    self.resume(out, Dropped::default());
                }
                Step::Again => {}
                Step::Stop(outcome) => return Ok(outcome),
            }
        }
        Ok(Outcome::More)
    }

    fn plain_step(&mut self, source: &mut Source, out: usize, most: usize) -> io::Result<Step> {
        let Some(sink) = self.sink(out) else { return Ok(Step::Stop(Outcome::Ended)) };
        let (end, key) = (sink.end()?, sink.key);
        let owner = self.journal.entry(key).owner;
        if owner != Some(source.id) {
            let Some(sink) = self.sink(out) else { return Ok(Step::Stop(Outcome::Ended)) };
            if sink.ends_open(end)? {
                if owner.is_some() && source.must_hold() {
                    return Ok(Step::Stop(Outcome::Wait));
                }
                sink.append(end, b"\n")?;
            }
            // Before the first byte, so that a successor knows whose line it is.
            self.journal.set_owner(key, Some(source.id))?;
            source.held = None;
            return Ok(Step::Again);
        }
        let now = Timestamp::now();
        let Self { window, calendar, .. } = self;
        let Some(sink) = self.sinks.get_mut(out).and_then(Option::as_mut) else { return Ok(Step::Again) };
        let mut most = most.min(sink.room(end));
        let due = sink.due(end, 1, calendar, now);
        if due != Due::Nothing {
            if !sink.ends_open(end)? || sink.overdue(end) {
                self.turn_over_if_due(out, end, 1)?;
                return Ok(Step::Again);
            }
            // Only the rest of the line, and then the next step turns over.
            let waits = if due == Due::Reopen { Outcome::Wait } else { Outcome::Idle { unfinished: false } };
            match window.peek(&source.pipe, source.capacity, Reach::Batch)? {
                Seen::End => return Ok(Step::Stop(Outcome::Ended)),
                Seen::Nothing => return Ok(Step::Stop(waits)),
                Seen::Bytes { .. } => {
                    most = first_line_end(window.bytes()).unwrap_or(window.bytes().len());
                }
            }
        }
        let Some(file) = sink.splice_target() else { return Ok(Step::Again) };
        let mut at = end.length;
        #[cfg(test)]
        super::tests::may_die();
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match splice(&source.pipe, None, file, Some(&mut at), most, flags) {
            Ok(0) => Ok(Step::Stop(Outcome::Ended)),
            Ok(bytes) => Ok(Step::Moved(bytes)),
            Err(Errno::AGAIN) => Ok(Step::Stop(Outcome::Idle { unfinished: false })),
            Err(Errno::INTR) => Ok(Step::Again),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves whole lines through us.
    fn framed(&mut self, source: &mut Source) -> Result<Outcome, (usize, io::Error)> {
        let before = self.moved;
        while self.moved - before < TURN_BYTES {
            let first = source.outs.first().copied().unwrap_or_default();
            match self.piece(source).map_err(|error| (first, error))? {
                Piece::Bytes(bytes) => match self.write_lines(source, bytes) {
                    Batch::Written => {}
                    Batch::Held => return Ok(Outcome::Wait),
                    Batch::Failed(out, error) => return Err((out, error)),
                },
                Piece::Unfinished => return Ok(Outcome::Idle { unfinished: true }),
                Piece::Nothing => return Ok(Outcome::Idle { unfinished: false }),
                Piece::End => return Ok(Outcome::Ended),
            }
        }
        Ok(Outcome::More)
    }

    /// Finds whole lines at the front of the pipe, or a part of one that must do.
    fn piece(&mut self, source: &Source) -> io::Result<Piece> {
        for reach in [Reach::Batch, Reach::Whole] {
            match self.window.peek(&source.pipe, source.capacity, reach) {
                Ok(Seen::End) => return Ok(Piece::End),
                Ok(Seen::Nothing) => return Ok(Piece::Nothing),
                Ok(Seen::Bytes { full }) => {
                    let bytes = self.window.bytes();
                    if let Some(end) = last_line_end(bytes) {
                        return Ok(Piece::Bytes(end));
                    }
                    // Waiting for the end of the line would block its writer for ever.
                    if full || (reach == Reach::Whole && source.is_last()) {
                        return Ok(Piece::Bytes(bytes.len()));
                    }
                }
                // What is no pipe yields no lines.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(Piece::End),
                Err(error) => return Err(error),
            }
        }
        Ok(Piece::Unfinished)
    }

    /// While its file cannot be written: lets the pipe buffer, but drops its oldest lines rather than block its
    /// writer.
    fn spill(&mut self, source: &mut Source, out: usize) -> Outcome {
        if source.is_last() && !source.counted {
            source.counted = true;
            if let Some(sink) = self.sink(out) {
                sink.ended_users += 1;
            }
        }
        let too_many = self.sink(out).is_some_and(|sink| sink.ended_users > ENDED_WAITING);
        let drop_all = source.counted && too_many;
        let before = self.moved;
        while self.moved - before < TURN_BYTES {
            match self.window.peek(&source.pipe, source.capacity, Reach::Half) {
                Ok(Seen::End) => return Outcome::Ended,
                Ok(Seen::Bytes { full }) if full || drop_all => {
                    let bytes = self.window.bytes();
                    let bytes = last_line_end(bytes).unwrap_or(bytes.len());
                    if self.drop_lines(source, out, bytes).is_err() {
                        return Outcome::Wait;
                    }
                }
                Ok(_) if drop_all => return Outcome::Ended,
                _ => return Outcome::Wait,
            }
        }
        Outcome::More
    }
}
