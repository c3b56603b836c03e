//! Records on disk: `BASELINES/TARGET/WORKLOAD-SESSION.json`, versioned, written atomically.
//!
//! Sessions that were added to one another form a [`Group`], the baseline of a target and workload; which of them is
//! in force can be pinned by `BASELINES/TARGET/WORKLOAD.accepted.json` ([`Accepted`]).
//!
//! Deliberately absent: the clock, and whether two sessions may be set against each other, which is `judge`'s.

mod accepted;
mod calibrations;
mod groups;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

pub use accepted::Accepted;
pub use calibrations::{calibration_path, load_calibration, save_calibration};
pub use groups::{Baselines, Group, Stored, Unreadable, targets};

use crate::model::{
    calibration,
    record::{FORMAT_MAJOR, FORMAT_NAME, Record},
};

/// Far above any real record (a few MB); a guard against reading something else whole.
const LARGEST_RECORD: u64 = 256 << 20;

/// What can go wrong with records on disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not whole.
    #[error("{} is not a whole {}: {message} at line {line}, column {column}", path.display(), kind.noun())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should be.
        kind: Kind,
        /// What is wrong.
        message: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// The file is of another format version, or something else.
    #[error("{} is {found}, not a {} {}.x", path.display(), kind.format().0, kind.format().1)]
    Format {
        /// The file.
        path: PathBuf,
        /// What it should be.
        kind: Kind,
        /// What it says it is.
        found: String,
    },
    /// The record is not the one that its file's name and folder say.
    #[error("{} is misplaced: its {what} is {found}, by its place it should be {expected}", path.display())]
    Misplaced {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
        /// What the record says.
        found: String,
        /// What the place says.
        expected: String,
    },
    /// There is no baseline of that session.
    #[error("no session {session} among the baselines of target {target}{} under {}", of_workload(workload.as_deref()), folder.display())]
    NoGroup {
        /// The target.
        target: String,
        /// The workload asked for, if any.
        workload: Option<String>,
        /// The session asked for.
        session: String,
        /// Where it was looked for.
        folder: PathBuf,
        /// The file that names the session, where it was not the user.
        named_by: Option<PathBuf>,
    },
    /// There is no record to compare.
    #[error("no record of target {target}{} under {}", of_workload(workload.as_deref()), folder.display())]
    None {
        /// The target.
        target: String,
        /// The workload asked for, if any.
        workload: Option<String>,
        /// Where it was looked for.
        folder: PathBuf,
    },
}

/// What a file should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A record.
    Record,
    /// The choice of the baseline in force.
    Accepted,
    /// How much a machine varies.
    Calibration,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Accepted => "choice of a baseline",
            Self::Calibration => "calibration",
        }
    }

    /// The format's name and major version.
    fn format(self) -> (&'static str, u32) {
        match self {
            Self::Record => (FORMAT_NAME, FORMAT_MAJOR),
            Self::Accepted => (accepted::FORMAT_NAME, accepted::FORMAT_MAJOR),
            Self::Calibration => (calibration::FORMAT_NAME, calibration::FORMAT_MAJOR),
        }
    }

    /// The command that makes such a file.
    fn again(self) -> &'static str {
        match self {
            Self::Record => "collect again",
            Self::Accepted => "choose again with `qbench baseline accept`",
            Self::Calibration => "measure it again with `qbench calibrate`",
        }
    }
}

fn of_workload(workload: Option<&str>) -> String {
    workload.map(|name| format!(" for workload {name}")).unwrap_or_default()
}

impl StoreError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space there, or name another folder with --baselines or --reports".to_owned())
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("check the folder's owner, or name another with --baselines or --reports".to_owned())
            }
            Self::Damaged { path, kind, .. } => Some(format!(
                "restore it from version control, or remove {} and {}",
                path.display(),
                kind.again()
            )),
            Self::Format { kind, .. } => Some(format!("{} with this version of qbench", kind.again())),
            Self::Misplaced { .. } => Some(
                "give it back its name, WORKLOAD-SESSION.json in its target's folder, or remove it"
                    .to_owned(),
            ),
            Self::NoGroup { named_by: Some(path), .. } => Some(format!(
                "{} names it: restore its records, or choose another with `qbench baseline accept`",
                path.display()
            )),
            Self::NoGroup { named_by: None, .. } => {
                Some("`qbench baseline list` shows what there is".to_owned())
            }
            Self::None { target, .. } => Some(format!("make one with `qbench collect {target}`")),
            Self::File { .. } => None,
        }
    }
}

/// Where a record of a session goes.
pub fn path_of(folder: &Path, target: &str, workload: &str, session: &str) -> PathBuf {
    folder.join(target).join(format!("{workload}-{session}.json"))
}

/// Writes a record; a reader sees the old file or the new one, never a part.
///
/// # Errors
/// When the folder cannot be made or the file not be written whole; the old file is then still there.
pub fn save(path: &Path, record: &Record) -> Result<(), StoreError> {
    let mut text = serde_json::to_string_pretty(record).expect("a record is plain data");
    text.push('\n');
    write_atomically(path, text.as_bytes())
}

/// Writes any file so that a reader sees all of it or nothing.
///
/// # Errors
/// As [`save`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let moved = written.and_then(|()| fs::rename(&part, path));
    if moved.is_err() {
        // The error that matters is the first one; a part left behind would only take space.
        let _ = fs::remove_file(&part);
    }
    moved.map_err(failed("write", path))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

/// Reads a record.
///
/// # Errors
/// When the file cannot be read, is cut off or damaged, or has another format version.
pub fn load(path: &Path) -> Result<Record, StoreError> {
    read(path, Kind::Record)
}

/// Reads a file of ours, strictly.
fn read<T: DeserializeOwned>(path: &Path, kind: Kind) -> Result<T, StoreError> {
    let size = fs::metadata(path).map_err(failed("read", path))?.len();
    if size > LARGEST_RECORD {
        let source = io::Error::other(format!("it has {size} bytes, more than any record"));
        return Err(StoreError::File { action: "read", path: path.to_owned(), source });
    }
    let text = fs::read(path).map_err(failed("read", path))?;
    let damaged = |e: &serde_json::Error| StoreError::Damaged {
        path: path.to_owned(),
        kind,
        message: without_position(e),
        line: e.line(),
        column: e.column(),
    };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| damaged(&e))?;
    check_format(path, kind, &value)?;
    // From the text again, for the line and column of what does not fit.
    serde_json::from_slice(&text).map_err(|e| damaged(&e))
}

/// `WORKLOAD-SESSION.json` → (workload, session). A session's name has a fixed form: `20261123T231433Z-1a2b`.
fn split_name(file: &str) -> Option<(&str, &str)> {
    let stem = file.strip_suffix(".json")?;
    let at = stem.len().checked_sub(SESSION_FORM.len())?;
    let (workload, session) = (stem.get(..at)?.strip_suffix('-')?, stem.get(at..)?);
    let fits = |(c, form): (u8, u8)| match form {
        b'0' => c.is_ascii_digit(),
        b'f' => c.is_ascii_hexdigit(),
        form => c == form,
    };
    (!workload.is_empty() && session.bytes().zip(SESSION_FORM.bytes()).all(fits))
        .then_some((workload, session))
}

/// `0` stands for a digit, `f` for a hexadecimal one.
const SESSION_FORM: &str = "00000000T000000Z-ffff";

fn check_format(path: &Path, kind: Kind, value: &serde_json::Value) -> Result<(), StoreError> {
    let name = value.pointer("/format/name").and_then(serde_json::Value::as_str);
    let major = value.pointer("/format/major").and_then(serde_json::Value::as_u64);
    let (wanted_name, wanted_major) = kind.format();
    if name == Some(wanted_name) && major == Some(u64::from(wanted_major)) {
        return Ok(());
    }
    let found = match (name, major) {
        (Some(name), Some(major)) => format!("a {name} {major}.x"),
        _ => "something else".to_owned(),
    };
    Err(StoreError::Format { path: path.to_owned(), kind, found })
}

fn without_position(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { action, path, source }
}
