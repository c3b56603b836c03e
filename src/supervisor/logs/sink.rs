//! A log file that is written: opening it, knowing where it ends, and turning it over (rotation, reopening).
//!
//! Positions are explicit, since splice refuses `O_APPEND`; the file's length is asked for before each write, so
//! that it may be truncated from outside (logrotate's `copytruncate`) at any time.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::{
    fs::{FileType, Mode, OFlags, fstat, ftruncate, open},
    io::{Errno, pread, write},
};

use super::{
    PIPE_BYTES, Rotate, UNFINISHED_LINE,
    descriptor::high,
    journal::{Extent, key_of, write_all},
    rotation::{Calendar, rename_away},
};

/// How long after a failure writing is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why nothing is written at the moment.
#[derive(Debug)]
pub(super) struct Pause {
    pub(super) reason: String,
    pub(super) next_try: Instant,
}

/// What has to be done before more is written, at the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Rotate,
    Reopen,
}

/// Where a file ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) length: u64,
    /// Seconds since 1970.
    modified: i64,
}

#[derive(Debug)]
struct Opened {
    file: OwnedFd,
    device: u64,
    inode: u64,
    /// Devices and FIFOs have no length: nothing can be rotated or undone.
    regular: bool,
}

#[derive(Debug)]
pub(super) struct Sink {
    /// As configured.
    pub(super) shown: PathBuf,
    /// Without symbolic links.
    path: PathBuf,
    pub(super) key: u64,
    pub(super) rotate: Rotate,
    /// How many streams write here.
    pub(super) users: usize,
    /// How many of them have ended and wait only for the file.
    pub(super) ended_users: usize,
    pub(super) pause: Option<Pause>,
    opened: Option<Opened>,
    /// Known to end with a whole line, or to be empty.
    whole: bool,
    /// Since when the file is to be opened again.
    reopen: Option<Instant>,
    rotate_not_before: Option<Instant>,
}

impl Sink {
    pub(super) fn new(shown: PathBuf, rotate: Rotate) -> Self {
        let mut sink = Self {
            key: 0,
            path: shown.clone(),
            shown,
            rotate,
            users: 0,
            ended_users: 0,
            pause: None,
            opened: None,
            whole: false,
            reopen: None,
            rotate_not_before: None,
        };
        // Failing here is no matter: the first write tries again and tells.
        let _ = sink.end();
        sink.path = fs::canonicalize(&sink.shown).unwrap_or_else(|_| sink.shown.clone());
        sink.key = key_of(&sink.path);
        sink
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where to write, after opening the file if it is not open or was deleted.
    pub(super) fn end(&mut self) -> io::Result<End> {
        if let Some(opened) = &self.opened {
            let stat = fstat(&opened.file)?;
            if stat.st_nlink > 0 {
                return Ok(Self::end_of(opened.regular, &stat));
            }
        }
        self.open()
    }

    fn end_of(regular: bool, stat: &rustix::fs::Stat) -> End {
        if !regular {
            return End { length: 0, modified: i64::MAX };
        }
        End { length: stat.st_size as u64, modified: stat.st_mtime }
    }

    fn open(&mut self) -> io::Result<End> {
        self.close();
        #[cfg(test)]
        super::tests::may_die();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match open(&self.path, flags, mode) {
            Err(Errno::NOENT) => {
                if let Some(folder) = self.path.parent() {
                    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                }
                open(&self.path, flags, mode)?
            }
            other => other?,
        };
        let file = high(file);
        let stat = fstat(&file)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        self.opened = Some(Opened { file, device: stat.st_dev, inode: stat.st_ino, regular });
        Ok(Self::end_of(regular, &stat))
    }

    pub(super) fn close(&mut self) {
        self.opened = None;
        self.whole = false;
        self.reopen = None;
    }

    /// Whether the file ends in the middle of a line.
    pub(super) fn ends_open(&mut self, end: End) -> io::Result<bool> {
        if self.whole || end.length == 0 {
            return Ok(false);
        }
        let mut last = [b'\n'];
        if let Some(opened) = &self.opened {
            pread(&opened.file, &mut last, end.length - 1)?;
        }
        self.whole = last == *b"\n";
        Ok(!self.whole)
    }

    /// What is to be done before `bytes` more are written.
    pub(super) fn due(&self, end: End, bytes: usize, calendar: &mut Calendar, now: Timestamp) -> Due {
        if self.reopen.is_some() {
            return Due::Reopen;
        }
        if end.length == 0 || self.rotate_not_before.is_some_and(|then| Instant::now() < then) {
            return Due::Nothing;
        }
        let large = end.length + bytes as u64 > self.most_bytes() as u64;
        let old = self.rotate.every.is_some_and(|every| end.modified < calendar.began(every, now));
        if large || old { Due::Rotate } else { Due::Nothing }
    }

    /// How long the file may become.
    pub(super) fn most_bytes(&self) -> usize {
        if self.rotate.max_bytes == 0 { usize::MAX } else { self.rotate.max_bytes as usize }
    }

    /// How much fits before the file is to be rotated.
    pub(super) fn room(&self, end: End) -> usize {
        match self.rotate.max_bytes.saturating_sub(end.length) {
            // No limit, or the file could not be renamed.
            0 => usize::MAX >> 1,
            room => room as usize,
        }
    }

    /// Asks for the file to be opened again at the end of the line.
    pub(super) fn reopen_later(&mut self) {
        self.reopen = self.opened.is_some().then(Instant::now);
    }

    /// Whether what is due must not wait any longer for the end of the line.
    pub(super) fn overdue(&self, end: End) -> bool {
        let large = self.rotate.max_bytes > 0 && end.length > self.rotate.max_bytes + PIPE_BYTES as u64;
        large || self.reopen.is_some_and(|since| since.elapsed() > UNFINISHED_LINE)
    }

    /// Rotates or reopens. Tells whether a rotated file now waits for compression and retention.
    ///
    /// # Errors
    /// When the new file cannot be had. Failing to rename is none: writing goes on, and the renaming is tried later.
    pub(super) fn turn_over(&mut self, due: Due, calendar: &Calendar, now: Timestamp) -> io::Result<bool> {
        let mut rotated = false;
        let ours = |opened: &Opened| {
            self.path
                .metadata()
                .is_ok_and(|found| found.dev() == opened.device && found.ino() == opened.inode)
        };
        match due {
            Due::Nothing => return Ok(false),
            Due::Reopen => {}
            // What was renamed from outside is not ours to rename; a new file is begun all the same.
            Due::Rotate if !self.opened.as_ref().is_some_and(ours) => {}
            Due::Rotate => match rename_away(&self.path, &calendar.file_stamp(now)) {
                Ok(()) => rotated = true,
                Err(_) => {
                    self.rotate_not_before = Some(Instant::now() + RETRY);
                    return Ok(false);
                }
            },
        }
        self.open()?;
        Ok(rotated)
    }

    /// Writes at the end. For a device, just writes.
    pub(super) fn append(&mut self, end: End, mut bytes: &[u8]) -> io::Result<()> {
        let Some(opened) = &self.opened else { return Err(Errno::BADF.into()) };
        if opened.regular {
            self.whole = false;
            write_all(&opened.file, bytes, end.length)?;
            self.whole = bytes.last().is_none_or(|last| *last == b'\n');
            return Ok(());
        }
        while !bytes.is_empty() {
            match write(&opened.file, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The open file, for splicing into it; its last line is then no longer known to be whole.
    pub(super) fn splice_target(&mut self) -> Option<impl AsFd + '_> {
        self.whole = false;
        self.opened.as_ref().map(|opened| opened.file.as_fd())
    }

    pub(super) fn is_regular(&self) -> bool {
        self.opened.as_ref().is_some_and(|opened| opened.regular)
    }

    /// For the journal: what to cut back to.
    pub(super) fn extent(&self, end: End) -> Option<Extent<'_>> {
        let opened = self.opened.as_ref().filter(|opened| opened.regular)?;
        Some(Extent { path: &self.path, device: opened.device, inode: opened.inode, length: end.length })
    }

    /// Cuts the file back after a failed write.
    pub(super) fn cut(&mut self, end: End) {
        self.whole = false;
        if let Some(opened) = self.opened.as_ref().filter(|opened| opened.regular)
            && fstat(&opened.file).is_ok_and(|stat| stat.st_size as u64 > end.length)
        {
            // What cannot be cut stays as a torn line; the lines come again whole.
            let _ = ftruncate(&opened.file, end.length);
        }
    }

    /// Empties the file.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        self.end()?;
        if let Some(opened) = self.opened.as_ref().filter(|opened| opened.regular) {
            ftruncate(&opened.file, 0)?;
        }
        self.whole = true;
        Ok(())
    }

    /// Notes that writing failed; tells whether that is news.
    pub(super) fn fail(&mut self, error: &io::Error) -> bool {
        let news = self.pause.is_none();
        self.pause = Some(Pause { reason: reason(error), next_try: Instant::now() + RETRY });
        // Whatever was wrong with the open file (a folder that is gone, a disk that was remounted) may be over.
        if !matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT)) {
            let reopen = self.reopen;
            self.close();
            self.reopen = reopen;
        }
        news
    }

    /// Whether it is too early to try again.
    pub(super) fn must_wait(&self) -> bool {
        self.pause.as_ref().is_some_and(|pause| Instant::now() < pause.next_try)
    }
}

/// The error as a lowercase fragment without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
