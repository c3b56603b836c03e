//! Writing a batch: the lines of one stream into its files, and out of its pipe, as one.

use std::io;

use jiff::Timestamp;

use super::{
    format::{TEXT_BYTES, count_lines},
    journal::{After, Dropped},
    sink::{End, Sink},
    turn::Source,
    works::Works,
};

/// Whether a batch was written.
pub(super) enum Batch {
    Written,
    /// Another stream is to finish its line first.
    Held,
    /// This file could not be written; nothing was consumed.
    Failed(usize, io::Error),
}

/// Where in a file a batch goes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) out: usize,
    pub(super) end: End,
    /// A newline comes first, because the file ends within a line that nobody will finish.
    newline: bool,
}

impl Works {
    /// Writes the first `bytes` of what was seen in the stream's pipe, or less where the text becomes long.
    pub(super) fn write_lines(&mut self, source: &mut Source, bytes: usize) -> Batch {
        self.text.clear();
        self.text.push(b'\n');
        let lines = self.window.bytes().get(..bytes).unwrap_or_default();
        // A batch larger than a file may be would make the file so.
        let sinks = source.outs.iter().filter_map(|out| self.sinks.get(*out)?.as_ref());
        let limit = sinks.map(Sink::most_bytes).min().unwrap_or(TEXT_BYTES).min(TEXT_BYTES);
        let at = (Timestamp::now(), &self.calendar.zone);
        let taken = source.formatter.append(lines, at, limit, &mut self.text);
        self.write(source, taken, None)
    }

    /// Writes how much was dropped, and forgets it.
    pub(super) fn write_note(&mut self, source: &mut Source, out: usize, dropped: Dropped) -> Batch {
        let Some(sink) = self.sink(out) else { return Batch::Written };
        let key = sink.key;
        let reason =
            sink.pause.as_ref().map_or("the log could not be written", |pause| pause.reason.as_str());
        let Dropped { lines, bytes } = dropped;
        let what = if lines == 1 { "1 line".to_owned() } else { format!("{lines} lines") };
        let verb = if lines == 1 { "was" } else { "were" };
        let note = format!("[qbench] {what} ({bytes} bytes) {verb} dropped: {reason}\n");
        self.text.clear();
        self.text.push(b'\n');
        let at = (Timestamp::now(), &self.calendar.zone);
        source.formatter.append(note.as_bytes(), at, TEXT_BYTES, &mut self.text);
        let written = self.write(source, 0, Some(After { key, dropped: Dropped::default() }));
        if matches!(written, Batch::Written) {
            self.resume(out, dropped);
        }
        written
    }

    /// Drops lines from the front of what was seen, and counts them.
    pub(super) fn drop_lines(&mut self, source: &Source, out: usize, bytes: usize) -> io::Result<()> {
        let Some(key) = self.sink(out).map(|sink| sink.key) else { return Ok(()) };
        let dropped = self.journal.entry(key).dropped;
        let lines = count_lines(self.window.bytes().get(..bytes).unwrap_or_default());
        let dropped = Dropped { lines: dropped.lines + lines, bytes: dropped.bytes + bytes as u64 };
        self.journal.begin(&[], Some(After { key, dropped }))?;
        self.journal.commit(&source.pipe, bytes)?;
        self.moved += bytes;
        Ok(())
    }

    fn write(&mut self, source: &mut Source, bytes: usize, after: Option<After>) -> Batch {
        let is_note = after.is_some();
        let mut places = Vec::with_capacity(source.outs.len());
        for index in 0..source.outs.len() {
            let out = source.outs[index];
            match self.place(source, out, is_note) {
                Ok(Some(place)) => places.push(place),
                Ok(None) => return Batch::Held,
                Err(error) => return Batch::Failed(out, error),
            }
        }
        source.held = None;
        let first = source.outs.first().copied().unwrap_or_default();
        if let Err(error) = self.begin(&places, after) {
            return Batch::Failed(first, error);
        }
        let outcome = self.fill(&places);
        let outcome =
            outcome.and_then(|()| self.journal.commit(&source.pipe, bytes).map_err(|error| (first, error)));
        if let Err((out, error)) = outcome {
            for place in &places {
                if let Some(sink) = self.sink(place.out) {
                    sink.cut(place.end);
                }
            }
            // A successor would cut once more, which changes nothing.
            let _ = self.journal.abandon();
            return Batch::Failed(out, error);
        }
        self.moved += bytes;
        if !is_note {
            for place in &places {
                self.resume(place.out, Dropped::default());
            }
        }
        Batch::Written
    }

    fn fill(&mut self, places: &[Place]) -> Result<(), (usize, io::Error)> {
        for place in places {
            let text = self.text.get(usize::from(!place.newline)..).unwrap_or_default();
            let Some(sink) = self.sinks.get_mut(place.out).and_then(Option::as_mut) else { continue };
            sink.append(place.end, text).map_err(|error| (place.out, error))?;
        }
        Ok(())
    }

    /// Where this batch may be written; `None` if not yet.
    fn place(&mut self, source: &mut Source, out: usize, is_note: bool) -> io::Result<Option<Place>> {
        loop {
            let bytes = self.text.len();
            let Some(sink) = self.sink(out) else { return Err(io::ErrorKind::NotFound.into()) };
            let end = sink.end()?;
            let (key, open) = (sink.key, sink.ends_open(end)?);
            if open {
                let owner = self.journal.entry(key).owner;
                if owner == Some(source.id) && !is_note && source.formatter.is_raw() {
                    return Ok(Some(Place { out, end, newline: false }));
                }
                if owner.is_some_and(|owner| owner != source.id) && source.must_hold() {
                    return Ok(None);
                }
            }
            if !self.turn_over_if_due(out, end, bytes)? {
                return Ok(Some(Place { out, end, newline: open }));
            }
            // A new file, or the same if it could not be renamed; then it is not due again for a while.
        }
    }
}
