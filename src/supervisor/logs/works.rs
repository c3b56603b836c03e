//! The log files that are open, and whatever there is one of: the journal, the buffers, the background thread.

use std::{io, path::PathBuf};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    JournalFds, LogNews, Rotate,
    batch::Place,
    clock::local_zone,
    journal::{After, Dropped, Extent, Journal},
    rotation::Calendar,
    sink::{Due, End, Sink},
    tidier::Tidier,
    turn::Source,
    window::Window,
};

/// The text buffer is freed beyond this.
const TEXT_KEPT_BYTES: usize = 320 * 1024;

/// Everything but the streams: the files, the journal and the buffers, each once.
pub(super) struct Works {
    pub(super) sinks: Vec<Option<Sink>>,
    pub(super) journal: Journal,
    pub(super) window: Window,
    pub(super) calendar: Calendar,
    tidier: Tidier,
    news: UnboundedSender<LogNews>,
    /// A newline, and then what is to be written: so either can be written in one call.
    pub(super) text: Vec<u8>,
    /// Bytes taken from pipes since it was set to 0.
    pub(super) moved: usize,
}

impl Works {
    pub(super) fn new(journal: JournalFds, news: UnboundedSender<LogNews>) -> io::Result<Self> {
        let journal = Journal::open(journal)?;
        let window = Window::new(journal.staging_bytes())?;
        let calendar = Calendar::new(local_zone());
        let tidier = Tidier::default();
        Ok(Self { sinks: Vec::new(), journal, window, calendar, tidier, news, text: Vec::new(), moved: 0 })
    }

    /// The file for one more stream.
    pub(super) fn obtain(&mut self, path: PathBuf, rotate: &Rotate) -> usize {
        let sink = Sink::new(path, rotate.clone());
        let known =
            self.sinks.iter().position(|known| known.as_ref().is_some_and(|known| known.key == sink.key));
        let index = known.or_else(|| self.sinks.iter().position(Option::is_none)).unwrap_or_else(|| {
            self.sinks.push(None);
            self.sinks.len() - 1
        });
        if known.is_none() {
            self.tidier.add(sink.path().to_owned(), rotate.clone());
            self.sinks[index] = Some(sink);
        }
        if let Some(sink) = &mut self.sinks[index] {
            sink.users += 1;
            sink.rotate = rotate.clone();
        }
        index
    }

    /// Gives up one use of each.
    pub(super) fn release(&mut self, outs: &[usize]) {
        for index in outs {
            if let Some(slot) = self.sinks.get_mut(*index)
                && let Some(sink) = slot
            {
                sink.users = sink.users.saturating_sub(1);
                if sink.users == 0 {
                    *slot = None;
                }
            }
        }
    }

    /// Forgets a stream that has ended.
    pub(super) fn forget(&mut self, source: &Source) {
        for index in &source.outs {
            if let Some(sink) = self.sinks.get(*index).and_then(Option::as_ref)
                && self.journal.entry(sink.key).owner == Some(source.id)
            {
                // Otherwise others would wait for the line to be finished: for a second, no worse.
                let _ = self.journal.set_owner(sink.key, None);
            }
        }
        if source.counted
            && let Some(sink) = source.outs.first().and_then(|first| self.sink(*first))
        {
            sink.ended_users = sink.ended_users.saturating_sub(1);
        }
        self.release(&source.outs);
    }

    pub(super) fn reopen(&mut self) {
        for sink in self.sinks.iter_mut().flatten() {
            match sink.end().and_then(|end| sink.ends_open(end)) {
                Ok(true) => sink.reopen_later(),
                _ => sink.close(),
            }
        }
    }

    /// Empties files; how many succeeded.
    pub(super) fn empty(&mut self, outs: &[usize]) -> usize {
        outs.iter()
            .filter(|index| {
                self.sinks.get_mut(**index).and_then(Option::as_mut).is_some_and(|sink| sink.empty().is_ok())
            })
            .count()
    }

    pub(super) fn rotates_by_clock(&self) -> bool {
        self.sinks.iter().flatten().any(|sink| sink.rotate.every.is_some())
    }

    /// Rotates files of the last hour or day into which nothing was written since.
    pub(super) fn rotate_idle(&mut self) {
        for index in 0..self.sinks.len() {
            let Some(sink) = self.sinks.get_mut(index).and_then(Option::as_mut) else { continue };
            if sink.rotate.every.is_some()
                && sink.pause.is_none()
                && let Ok(end) = sink.end()
                && let Ok(false) = sink.ends_open(end)
                && let Err(error) = self.turn_over_if_due(index, end, 0)
            {
                self.fail(index, &error);
            }
        }
    }

    pub(super) fn close(&mut self) {
        self.tidier.stop();
    }

    pub(super) fn shrink(&mut self) {
        self.window.shrink();
        if self.text.capacity() > TEXT_KEPT_BYTES {
            self.text = Vec::new();
        }
    }

    pub(super) fn sink(&mut self, index: usize) -> Option<&mut Sink> {
        self.sinks.get_mut(index).and_then(Option::as_mut)
    }

    /// Rotates or opens again if it is time, `bytes` before they are written at `end`; tells whether that was so.
    pub(super) fn turn_over_if_due(&mut self, index: usize, end: End, bytes: usize) -> io::Result<bool> {
        let now = Timestamp::now();
        let Some(sink) = self.sinks.get_mut(index).and_then(Option::as_mut) else { return Ok(false) };
        let due = sink.due(end, bytes, &mut self.calendar, now);
        if sink.turn_over(due, &self.calendar, now)? {
            let _ = self.news.send(LogNews::Rotated { path: sink.shown.clone() });
            self.tidier.add(sink.path().to_owned(), sink.rotate.clone());
        }
        Ok(due != Due::Nothing)
    }

    /// Notes that a file could not be written, and tells if that is new.
    pub(super) fn fail(&mut self, index: usize, error: &io::Error) {
        if let Some(sink) = self.sinks.get_mut(index).and_then(Option::as_mut)
            && sink.fail(error)
            && let Some(pause) = &sink.pause
        {
            let news = LogNews::Paused { path: sink.shown.clone(), reason: pause.reason.clone() };
            let _ = self.news.send(news);
        }
    }

    /// Notes that a file was written, after so much of what it should have got was dropped.
    pub(super) fn resume(&mut self, index: usize, dropped: Dropped) {
        if let Some(sink) = self.sinks.get_mut(index).and_then(Option::as_mut)
            && (sink.pause.take().is_some() || dropped != Dropped::default())
        {
            let Dropped { lines, bytes } = dropped;
            let path = sink.shown.clone();
            let news = LogNews::Resumed { path, dropped_lines: lines, dropped_bytes: bytes };
            let _ = self.news.send(news);
        }
    }

    /// Opens a batch in the journal; the caller then writes at these ends.
    pub(super) fn begin(&mut self, ends: &[Place], after: Option<After>) -> io::Result<()> {
        let extent = |place: &Place| self.sinks.get(place.out)?.as_ref()?.extent(place.end);
        let extents: Vec<Extent<'_>> = ends.iter().filter_map(extent).collect();
        self.journal.begin(&extents, after)
    }
}
