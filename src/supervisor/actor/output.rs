//! Where the output of processes goes.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use serde::{Deserialize, Serialize};

use super::{
    super::{
        logs::{Format, Interval, Rotate, Stream, Target},
        spec,
    },
    Actor,
    app::{Key, Role, RunId},
    remember,
};

/// What is known of a stream: it may outlive its process, its instance and its app.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct StreamNote {
    key: Key,
    /// Of the instance.
    id: u32,
}

fn stream_note(run: RunId) -> String {
    format!("s/{run}")
}

/// A stream's number: its process's, and which of the two it is.
fn number(run: RunId, is_err: bool) -> u64 {
    run << 1 | u64::from(is_err)
}

impl Actor {
    /// Has a stream of a process moved to its files until it ends.
    pub(super) fn attach_log(&mut self, key: Key, run: RunId, is_err: bool, pipe: OwnedFd) {
        let id = self.instance(key).map(|instance| instance.id).unwrap_or_default();
        if !is_err {
            self.vault.note(&stream_note(run), &StreamNote { key, id });
        }
        *self.streams.entry(run).or_default() += 1;
        let target = self.target(StreamNote { key, id }, is_err);
        self.logs.attach(Stream { id: number(run, is_err), pipe, target });
    }

    fn target(&self, note: StreamNote, is_err: bool) -> Target {
        let Some(app) = self.apps.get(&note.key.0) else { return Target::default() };
        let logs = &app.spec.logs;
        let file = if is_err { &logs.err } else { &logs.out };
        Target {
            app: app.spec.name.clone(),
            instance: note.id,
            out: !is_err,
            file: file.as_ref().map(|file| logs.file_of(file, note.id)),
            combined: logs.combined.as_ref().map(|file| logs.file_of(file, note.id)),
            format: Format { timestamp: logs.date_format.clone(), json: logs.json },
            shared: logs.merge && app.spec.instances > 1,
            rotate: Rotate {
                max_bytes: logs.rotate_bytes,
                keep: logs.rotate_keep,
                gzip: logs.rotate_gzip,
                every: logs.rotate_every.map(|every| match every {
                    spec::Interval::Hourly => Interval::Hourly,
                    spec::Interval::Daily => Interval::Daily,
                }),
            },
        }
    }

    /// Takes over every stream, also of processes that have ended since.
    pub(super) fn adopt_streams(
        &mut self,
        notes: &BTreeMap<String, Vec<u8>>,
        fds: &mut BTreeMap<String, OwnedFd>,
    ) {
        let mut streams: BTreeMap<RunId, StreamNote> = remember::numbered(notes, "s/").into_iter().collect();
        // The supervisor of before may have died after it started a process and before it noted its streams.
        let running = self.runs.iter().filter(|(_, run)| run.role != Role::Spare);
        for (run, key) in running.map(|(id, run)| (*id, run.key)).collect::<Vec<_>>() {
            if !streams.contains_key(&run) && fds.contains_key(&remember::fd_name(run, "out")) {
                let id = self.instance(key).map(|instance| instance.id).unwrap_or_default();
                let note = StreamNote { key, id };
                self.vault.note(&stream_note(run), &note);
                streams.insert(run, note);
            }
        }
        for (run, note) in streams {
            let mut any = false;
            for (which, is_err) in [("out", false), ("err", true)] {
                let Some(pipe) = fds.remove(&remember::fd_name(run, which)) else { continue };
                any = true;
                *self.streams.entry(run).or_default() += 1;
                let target = self.target(note, is_err);
                self.logs.attach(Stream { id: number(run, is_err), pipe, target });
                if !self.runs.contains_key(&run) {
                    self.logs.finish(number(run, is_err));
                }
            }
            if !any {
                self.vault.forget(&[stream_note(run)]);
            }
        }
    }

    /// The process is gone: its output ends with what is there.
    pub(super) fn finish_streams(&self, run: RunId) {
        self.logs.finish(number(run, false));
        self.logs.finish(number(run, true));
    }

    /// A stream is in its files to its end.
    pub(super) fn forget_stream(&mut self, stream: u64) {
        let (run, which) = (stream >> 1, if stream & 1 == 0 { "out" } else { "err" });
        self.vault.discard(&[remember::fd_name(run, which)]);
        let left = self.streams.get_mut(&run).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == 0 {
            self.streams.remove(&run);
            self.vault.forget(&[stream_note(run)]);
        }
    }
}
