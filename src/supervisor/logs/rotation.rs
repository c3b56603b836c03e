//! Rotated files: their names, compression, and how many are kept.
//!
//! A rotated file is `<name>__<YYYY-MM-DD_HH-mm-ss>.log`, later with `.gz`, as pm2-logrotate names them; `-1`, `-2`
//! and so on follow the time when the name is taken. [`tidy`] brings the files of one log to the state they should
//! have, from any state: a compressed file gets its name only when it is complete, and its source goes after that.
//! So whatever was half done when we were killed is found by the next [`tidy`] and done again.

use std::{
    fs::{self, File, FileTimes, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use flate2::{Compression, write::GzEncoder};
use jiff::{Timestamp, ToSpan, Unit, ZonedRound, tz::TimeZone};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Interval, Rotate, clock::Stamp};

const GZ: &str = ".gz";
const UNFINISHED: &str = ".gz.tmp";
const CHUNK_BYTES: usize = 64 * 1024;
/// Rotations of one file within one second.
const NAMES: u32 = 100_000;
/// `YYYY-MM-DD_HH-mm-ss`, with `0` for any digit.
const PATTERN: &[u8] = b"0000-00-00_00-00-00";

/// When hours and days begin here.
pub(super) struct Calendar {
    pub(super) zone: TimeZone,
    name: Stamp,
    /// From when to when the hour and the day that were last asked for are.
    hour: (i64, i64),
    day: (i64, i64),
}

impl Calendar {
    pub(super) fn new(zone: TimeZone) -> Self {
        Self { zone, name: Stamp::compile("YYYY-MM-DD_HH-mm-ss"), hour: (0, 0), day: (0, 0) }
    }

    /// When the current hour or day began, in seconds since 1970.
    pub(super) fn began(&mut self, every: Interval, now: Timestamp) -> i64 {
        let known = match every {
            Interval::Hourly => &mut self.hour,
            Interval::Daily => &mut self.day,
        };
        if !(known.0..known.1).contains(&now.as_second()) {
            let local = now.to_zoned(self.zone.clone());
            let (start, span) = match every {
                Interval::Hourly => (
                    local.round(ZonedRound::new().smallest(Unit::Hour).mode(jiff::RoundMode::Trunc)),
                    1.hour(),
                ),
                Interval::Daily => (local.start_of_day(), 1.day()),
            };
            let start = start.unwrap_or(local);
            let end = start.checked_add(span).map_or(i64::MAX, |end| end.timestamp().as_second());
            *known = (start.timestamp().as_second(), end);
        }
        known.0
    }

    pub(super) fn file_stamp(&self, now: Timestamp) -> String {
        self.name.text(&now.to_zoned(self.zone.clone()))
    }
}

/// Gives a log file the name of a rotated one.
pub(super) fn rename_away(path: &Path, stamp: &str) -> io::Result<()> {
    for number in 0..NAMES {
        let number = if number == 0 { String::new() } else { format!("-{number}") };
        let rotated = sibling(path, &format!("__{stamp}{number}.log"))?;
        // In this order: a compression that ends in between makes the second name before it removes the first.
        // With the names the other way round, the new file could be taken for one that is compressed already.
        if exists(&rotated) || exists(&appended(&rotated, GZ)) {
            continue;
        }
        #[cfg(test)]
        super::tests::may_die();
        match renameat_with(CWD, path, CWD, &rotated, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => {}
            // Some file systems cannot do it. Nobody but us gives these names.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => return fs::rename(path, &rotated),
            other => return other.map_err(Into::into),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// One rotated file, in whatever state.
#[derive(Debug)]
struct Rotated {
    /// Without `.gz`.
    path: PathBuf,
    stamp: String,
    number: u32,
    written: SystemTime,
    plain: bool,
    compressed: bool,
}

/// Finishes what is half done, compresses, and removes the oldest beyond those to be kept. Ends early, with
/// everything in order, once `stop` is set.
///
/// # Errors
/// When the folder cannot be read or a file not compressed; the others are seen to all the same.
pub(super) fn tidy(path: &Path, rotate: &Rotate, stop: &AtomicBool) -> io::Result<()> {
    let mut files = rotated(path)?;
    files.sort_by(|a, b| (b.written, &b.stamp, b.number).cmp(&(a.written, &a.stamp, a.number)));
    let mut outcome = Ok(());
    for file in files.iter().skip(rotate.keep as usize) {
        for name in [file.path.clone(), appended(&file.path, GZ)] {
            match fs::remove_file(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => outcome = Err(error),
                _ => {}
            }
        }
    }
    for file in files.iter().take(rotate.keep as usize).filter(|file| file.plain) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let done = if file.compressed {
            // It has its name, so it is complete.
            fs::remove_file(&file.path)
        } else if rotate.gzip {
            compress(&file.path, stop)
        } else {
            continue;
        };
        outcome = outcome.and(done);
    }
    outcome
}

/// The rotated files of a log. What a killed compression left unfinished is removed on the way.
fn rotated(path: &Path) -> io::Result<Vec<Rotated>> {
    let prefix = sibling(path, "__")?;
    let prefix = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut files: Vec<Rotated> = Vec::new();
    for entry in folder(path).read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else { continue };
        let (rest, state) = [UNFINISHED, GZ, ""]
            .iter()
            .find_map(|end| rest.strip_suffix(end).map(|rest| (rest, *end)))
            .unwrap_or((rest, ""));
        let Some((stamp, number)) = rest.strip_suffix(".log").and_then(parse) else { continue };
        if state == UNFINISHED {
            fs::remove_file(entry.path())?;
            continue;
        }
        let written = entry.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let path = sibling(path, &format!("__{rest}"))?;
        let known = files.iter_mut().find(|file| file.path == path);
        let (plain, compressed) = (state.is_empty(), state == GZ);
        match known {
            Some(file) => {
                file.plain |= plain;
                file.compressed |= compressed;
            }
            None => {
                files.push(Rotated { path, stamp: stamp.to_owned(), number, written, plain, compressed });
            }
        }
    }
    Ok(files)
}

/// Splits `2024-02-03_16-05-09-2` into the time and the number; `None` for anything else.
fn parse(text: &str) -> Option<(&str, u32)> {
    let (stamp, rest) = text.split_at_checked(PATTERN.len())?;
    let fits = |(byte, expected): (u8, &u8)| {
        if *expected == b'0' { byte.is_ascii_digit() } else { byte == *expected }
    };
    if !stamp.bytes().zip(PATTERN).all(fits) {
        return None;
    }
    if rest.is_empty() {
        return Some((stamp, 0));
    }
    let digits = rest.strip_prefix('-').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((stamp, digits.parse().ok()?))
}

fn compress(path: &Path, stop: &AtomicBool) -> io::Result<()> {
    let unfinished = appended(path, UNFINISHED);
    let finished = write_compressed(path, &unfinished, stop);
    if !matches!(finished, Ok(true)) {
        // The next run would remove it too.
        let _ = fs::remove_file(&unfinished);
        return finished.map(|_| ());
    }
    fs::rename(&unfinished, appended(path, GZ))?;
    fs::remove_file(path)
}

/// Tells whether it came to the end.
fn write_compressed(path: &Path, target: &Path, stop: &AtomicBool) -> io::Result<bool> {
    let mut source = File::open(path)?;
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(target)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(bytes) => io::Write::write_all(&mut encoder, &chunk[..bytes])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let file = encoder.finish()?;
    let found = source.metadata()?;
    file.set_permissions(found.permissions())?;
    // Which file is the oldest is told by when its last line was written.
    file.set_times(FileTimes::new().set_modified(found.modified()?))?;
    // The source is removed next: the copy must not be lost with the machine.
    file.sync_all()?;
    Ok(true)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// `folder/<name without .log><suffix>`.
fn sibling(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let stem = if path.extension().is_some_and(|extension| extension == "log") {
        path.file_stem().unwrap_or(name)
    } else {
        name
    };
    let mut name = stem.to_owned();
    name.push(suffix);
    Ok(path.with_file_name(name))
}

fn appended(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
