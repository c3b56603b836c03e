//! What lets a batch of lines move as a whole or not at all, although we may be killed between any two system calls.
//!
//! Theory of operation. A batch goes: (1) [`Journal::begin`] notes the lengths of the files, (2) the lines, read
//! without being consumed, are written to the files, (3) [`Journal::commit`] splices exactly those bytes from the
//! pipe into the *staging* pipe, one call that the kernel does whole, (4) marks the batch as done, (5) empties the
//! staging pipe. Only one thread does this, so one batch at most is open. A successor finds the memory and the
//! staging pipe as we left them: bytes in staging, or the mark, mean the lines were consumed and are in the files; else the
//! files are cut back to the lengths noted, and the lines are still in their pipe.
//!
//! Beside the open batch the journal holds, per log file, the stream that owns its unfinished last line and how
//! much had to be dropped. The counts change with a batch, so they are as exact as the lines.
//!
//! Deliberately absent: the machine's own death. Pipes do not survive it, so nothing here is synced.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create, open},
    io::{Errno, ioctl_fionread, pread, pwrite},
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};

use super::descriptor::{grow, high, high_pair, pipe_bytes};

/// Tells a journal from an empty memory file; to be changed with the layout.
const MAGIC: u64 = 0x7162_6c6f_6773_0001;
/// Where the mark of the open batch is.
const MARK_AT: u64 = 8;
/// Where the checksum is, over the words after the mark.
const SUM_AT: usize = 48;
/// The first entry of the table; the open batch with its paths (two of at most 4 KiB) lies before.
const TABLE_AT: u64 = 16 * 1024;
const ENTRY_BYTES: usize = 32;
const NO_SLOT: u64 = u64::MAX;
const HEADER_WORDS: usize = 7;
const FILE_WORDS: usize = 4;

const MARK_NONE: u64 = 0;
const MARK_OPEN: u64 = 1;
const MARK_DONE: u64 = 2;

/// The descriptors that must outlive this process: put them into the keeper before [`super::LogMover::start`], and
/// start the successor with the same.
#[derive(Debug)]
pub(crate) struct JournalFds {
    pub(crate) memory: OwnedFd,
    /// The read end and the write end of the staging pipe.
    pub(crate) staging: (OwnedFd, OwnedFd),
}

impl JournalFds {
    pub(crate) fn create() -> io::Result<Self> {
        let memory = high(memfd_create("qbench-logs", MemfdFlags::CLOEXEC)?);
        let staging = high_pair(pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?);
        grow(&staging.0);
        Ok(Self { memory, staging })
    }
}

/// What is known about a log file across our death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The stream that may have left the last line of the file unfinished.
    pub(super) owner: Option<u64>,
    pub(super) dropped: Dropped,
}

/// What could not be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

/// A file of a batch, and its length before.
pub(super) struct Extent<'a> {
    pub(super) path: &'a Path,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) length: u64,
}

/// What a file's counts will be once the batch is committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct After {
    pub(super) key: u64,
    pub(super) dropped: Dropped,
}

pub(super) struct Journal {
    fds: JournalFds,
    null: OwnedFd,
    /// By the file's key: where its entry is, and a copy of it.
    table: HashMap<u64, (u64, Entry)>,
    slots: u64,
    open: Option<(Option<After>, u64)>,
    buffer: Vec<u8>,
}

impl Journal {
    /// Takes over what a predecessor left, finishing or undoing its open batch.
    pub(super) fn open(fds: JournalFds) -> io::Result<Self> {
        let null = high(open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?);
        let mut journal = Self { fds, null, table: HashMap::new(), slots: 0, open: None, buffer: Vec::new() };
        journal.recover()?;
        journal.load()?;
        Ok(journal)
    }

    pub(super) fn entry(&self, key: u64) -> Entry {
        self.table.get(&key).map(|(_, entry)| *entry).unwrap_or_default()
    }

    pub(super) fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    /// How many bytes a batch may take at most from a pipe, counted in whole pages of it.
    pub(super) fn staging_bytes(&self) -> usize {
        pipe_bytes(&self.fds.staging.0)
    }

    pub(super) fn set_owner(&mut self, key: u64, owner: Option<u64>) -> io::Result<()> {
        let entry = self.entry(key);
        if entry.owner == owner { Ok(()) } else { self.set(key, Entry { owner, ..entry }) }
    }

    /// Opens a batch. Until [`Journal::commit`] a successor would undo it.
    pub(super) fn begin(&mut self, extents: &[Extent<'_>], after: Option<After>) -> io::Result<()> {
        let slot = match after {
            Some(after) => self.slot(after.key)?,
            None => NO_SLOT,
        };
        let dropped = after.map(|after| after.dropped).unwrap_or_default();
        self.buffer.clear();
        for word in [MAGIC, MARK_OPEN, slot, dropped.lines, dropped.bytes, extents.len() as u64, 0] {
            self.buffer.extend_from_slice(&word.to_le_bytes());
        }
        for extent in extents {
            let path_bytes = extent.path.as_os_str().len() as u64;
            for word in [extent.device, extent.inode, extent.length, path_bytes] {
                self.buffer.extend_from_slice(&word.to_le_bytes());
            }
        }
        for extent in extents {
            self.buffer.extend_from_slice(extent.path.as_os_str().as_bytes());
        }
        if self.buffer.len() as u64 > TABLE_AT {
            return Err(Errno::NAMETOOLONG.into());
        }
        self.drain()?;
        // A header that we died within is not whole, and of no matter: nothing was written to the files yet.
        let sum = checksum(&self.buffer).to_le_bytes();
        self.buffer[SUM_AT..SUM_AT + 8].copy_from_slice(&sum);
        write_all(&self.fds.memory, &self.buffer, 0)?;
        self.open = Some((after, slot));
        Ok(())
    }

    /// Consumes `bytes` of `pipe`, whose lines are in the files by now; from here on they stay there.
    ///
    /// # Errors
    /// Only when nothing was consumed, so that the caller can cut the files back.
    pub(super) fn commit(&mut self, pipe: impl AsFd, bytes: usize) -> io::Result<()> {
        let mut moved = 0;
        if bytes > 0 {
            moved = move_bytes(&pipe, &self.fds.staging.1, bytes)?;
            if moved == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let marked = self.mark(MARK_DONE);
        if bytes == 0 {
            marked?;
        } else if marked.is_err() {
            // The bytes in staging say the same as the mark; `begin` tries again to remove them.
            return Ok(());
        }
        if let Some((Some(after), slot)) = self.open.take() {
            let entry = Entry { dropped: after.dropped, ..self.entry(after.key) };
            self.table.insert(after.key, (slot, entry));
            // A successor would do the same by the mark.
            let _ = self.write_entry(slot, after.key, entry);
        }
        let _ = self.drain();
        // Never needed, as staging is made to hold what was peeked at; but lines must not come twice even so.
        while moved < bytes {
            match move_bytes(&pipe, &self.null, bytes - moved) {
                Ok(more) if more > 0 => moved += more,
                _ => break,
            }
        }
        Ok(())
    }

    /// Gives the open batch up; the caller has cut the files back.
    pub(super) fn abandon(&mut self) -> io::Result<()> {
        self.open = None;
        self.mark(MARK_NONE)
    }

    fn mark(&self, mark: u64) -> io::Result<()> {
        write_all(&self.fds.memory, &mark.to_le_bytes(), MARK_AT)
    }

    fn drain(&self) -> io::Result<()> {
        while ioctl_fionread(&self.fds.staging.0)? > 0 {
            move_bytes(&self.fds.staging.0, &self.null, usize::MAX >> 1)?;
        }
        Ok(())
    }

    fn recover(&mut self) -> io::Result<()> {
        let mut page = vec![0; TABLE_AT as usize];
        let length = read_all(&self.fds.memory, &mut page, 0)?;
        let words: Vec<u64> = page[..length].chunks_exact(8).map(word).collect();
        let consumed = ioctl_fionread(&self.fds.staging.0)? > 0;
        if let [MAGIC, mark, slot, lines, bytes, files, sum, rest @ ..] = &words[..]
            && *sum == checksum(batch_of(&page[..length], rest, *files))
        {
            match *mark {
                MARK_DONE | MARK_OPEN if consumed || *mark == MARK_DONE => {
                    self.mark(MARK_DONE)?;
                    if *slot != NO_SLOT {
                        let at = TABLE_AT + slot * ENTRY_BYTES as u64 + 16;
                        write_all(
                            &self.fds.memory,
                            &[lines.to_le_bytes(), bytes.to_le_bytes()].concat(),
                            at,
                        )?;
                    }
                }
                MARK_OPEN => undo(rest, (*files).min(2) as usize, &page[..length]),
                _ => {}
            }
            // What was applied is not to be applied again, after the entry has changed by other ways.
            self.mark(MARK_NONE)?;
        }
        self.drain()
    }

    fn load(&mut self) -> io::Result<()> {
        let mut bytes = [0; ENTRY_BYTES];
        while read_all(&self.fds.memory, &mut bytes, TABLE_AT + self.slots * ENTRY_BYTES as u64)?
            == ENTRY_BYTES
        {
            let words: Vec<u64> = bytes.chunks_exact(8).map(word).collect();
            if let [key, owner, lines, bytes] = words[..] {
                let owner = (owner != 0).then(|| owner - 1);
                self.table.insert(key, (self.slots, Entry { owner, dropped: Dropped { lines, bytes } }));
            }
            self.slots += 1;
        }
        Ok(())
    }

    fn set(&mut self, key: u64, entry: Entry) -> io::Result<()> {
        let slot = self.slot(key)?;
        self.table.insert(key, (slot, entry));
        self.write_entry(slot, key, entry)
    }

    /// Where the entry of this file is; one that tells nothing is given to another file.
    fn slot(&mut self, key: u64) -> io::Result<u64> {
        if let Some((slot, _)) = self.table.get(&key) {
            return Ok(*slot);
        }
        let free = self.table.iter().find(|(_, (_, entry))| *entry == Entry::default());
        let slot = match free.map(|(key, (slot, _))| (*key, *slot)) {
            Some((old, slot)) => {
                self.table.remove(&old);
                // The last batch may still name this slot, with counts of the file it belonged to.
                self.mark(MARK_NONE)?;
                slot
            }
            None => self.slots,
        };
        self.write_entry(slot, key, Entry::default())?;
        self.slots = self.slots.max(slot + 1);
        self.table.insert(key, (slot, Entry::default()));
        Ok(slot)
    }

    fn write_entry(&self, slot: u64, key: u64, entry: Entry) -> io::Result<()> {
        let owner = entry.owner.map_or(0, |owner| owner.wrapping_add(1));
        let words = [key, owner, entry.dropped.lines, entry.dropped.bytes].map(u64::to_le_bytes);
        // 32 bytes at a multiple of 32 lie in one page, so this is whole or not at all.
        write_all(&self.fds.memory, &words.concat(), TABLE_AT + slot * ENTRY_BYTES as u64)
    }
}

/// The bytes of the open batch.
fn batch_of<'a>(page: &'a [u8], words: &[u64], files: u64) -> &'a [u8] {
    let files = files.min(2) as usize;
    let paths = words.chunks_exact(FILE_WORDS).take(files).map(|file| file[FILE_WORDS - 1] as usize);
    let length = paths.fold((HEADER_WORDS + files * FILE_WORDS) * 8, usize::saturating_add);
    page.get(..length).unwrap_or_default()
}

fn checksum(batch: &[u8]) -> u64 {
    let before = batch.get(MARK_AT as usize + 8..SUM_AT).unwrap_or_default();
    let after = batch.get(SUM_AT + 8..).unwrap_or_default();
    hash(before.iter().chain(after))
}

/// FNV-1a: stable over versions of this program, as a successor may be newer.
fn hash<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Names a file in the table.
pub(super) fn key_of(path: &Path) -> u64 {
    hash(path.as_os_str().as_bytes().iter())
}

/// Cuts the files of a batch that was not committed back to their lengths.
fn undo(words: &[u64], files: usize, page: &[u8]) {
    let mut path_at = (HEADER_WORDS + files * FILE_WORDS) * 8;
    for file in words.chunks_exact(FILE_WORDS).take(files) {
        let &[device, inode, length, path_bytes] = file else { return };
        let Some(path) = page.get(path_at..path_at.saturating_add(path_bytes as usize)) else { return };
        path_at += path_bytes as usize;
        let path = Path::new(OsStr::from_bytes(path));
        let same = |path: &Path| {
            path.metadata()
                .is_ok_and(|found| found.dev() == device && found.ino() == inode && found.is_file())
        };
        // Someone may have renamed the file while we had it open; then it is most often still in its folder.
        let found = if same(path) { Some(path.to_owned()) } else { sibling(path, same) };
        let Some(found) = found else { continue };
        // A file that cannot be opened now cannot be mended; its lines come once more, which is better than not.
        if let Ok(file) = open(&found, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            && found.metadata().is_ok_and(|now| now.len() > length)
        {
            let _ = ftruncate(&file, length);
        }
    }
}

fn sibling(path: &Path, same: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries = path.parent()?.read_dir().ok()?;
    entries.filter_map(Result::ok).map(|entry| entry.path()).find(|path| same(path))
}

/// Splices from a pipe; 0 when nothing can be moved now.
pub(super) fn move_bytes(from: impl AsFd, to: impl AsFd, bytes: usize) -> io::Result<usize> {
    #[cfg(test)]
    super::tests::may_die();
    let moved = rustix::io::retry_on_intr(|| {
        splice(&from, None, &to, None, bytes, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
    });
    #[cfg(test)]
    super::tests::may_die();
    match moved {
        Err(Errno::AGAIN) => Ok(0),
        other => other.map_err(Into::into),
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

pub(super) fn write_all(file: impl AsFd, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let part = bytes;
        #[cfg(test)]
        let part = super::tests::may_die_within(part);
        match pwrite(&file, part, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                at += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_all(file: impl AsFd, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match pread(&file, &mut bytes[length..], at + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(length)
}
