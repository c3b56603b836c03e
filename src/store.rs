//! Records on disk: `BASELINES/TARGET/WORKLOAD-SESSION.json`, versioned, written atomically.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::model::record::{FORMAT_MAJOR, FORMAT_NAME, Record};

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
    /// The file is not a whole record.
    #[error("{} is not a whole record: {message} at line {line}, column {column}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// The file is a record of another format version, or no record.
    #[error("{} is {found}, not a {FORMAT_NAME} {FORMAT_MAJOR}.x", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        found: String,
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
            Self::Damaged { path, .. } => Some(format!(
                "restore it from version control, or remove {} and collect again",
                path.display()
            )),
            Self::Format { .. } => Some("collect again with this version of qbench".to_owned()),
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
    let size = fs::metadata(path).map_err(failed("read", path))?.len();
    if size > LARGEST_RECORD {
        let source = io::Error::other(format!("it has {size} bytes, more than any record"));
        return Err(StoreError::File { action: "read", path: path.to_owned(), source });
    }
    let text = fs::read(path).map_err(failed("read", path))?;
    let damaged = |e: &serde_json::Error| StoreError::Damaged {
        path: path.to_owned(),
        message: without_position(e),
        line: e.line(),
        column: e.column(),
    };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| damaged(&e))?;
    check_format(path, &value)?;
    // From the text again, for the line and column of what does not fit.
    serde_json::from_slice(&text).map_err(|e| damaged(&e))
}

/// The newest record of a target, by the time its session started.
///
/// # Errors
/// When there is none, or the newest cannot be read.
pub fn latest(folder: &Path, target: &str, workload: Option<&str>) -> Result<(PathBuf, Record), StoreError> {
    let none = || StoreError::None {
        target: target.to_owned(),
        workload: workload.map(str::to_owned),
        folder: folder.join(target),
    };
    let entries = match fs::read_dir(folder.join(target)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(none()),
        Err(e) => return Err(failed("read", &folder.join(target))(e)),
    };
    let mut newest: Option<(String, PathBuf)> = None;
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some((of, session)) = path.file_name().and_then(|name| split_name(name.to_str()?)) else {
            continue;
        };
        let wanted = workload.is_none_or(|workload| workload == of);
        if wanted && newest.as_ref().is_none_or(|(newest, _)| newest.as_str() < session) {
            newest = Some((session.to_owned(), path.clone()));
        }
    }
    let (_, path) = newest.ok_or_else(none)?;
    let record = load(&path)?;
    Ok((path, record))
}

/// `WORKLOAD-SESSION.json` → (workload, session). A session's name has a fixed length: `20261123T231433Z-1a2b`.
fn split_name(file: &str) -> Option<(&str, &str)> {
    const SESSION_LENGTH: usize = "20261123T231433Z-1a2b".len();
    let stem = file.strip_suffix(".json")?;
    let at = stem.len().checked_sub(SESSION_LENGTH)?;
    let (workload, session) = (stem.get(..at)?.strip_suffix('-')?, stem.get(at..)?);
    Some((workload, session))
}

fn check_format(path: &Path, value: &serde_json::Value) -> Result<(), StoreError> {
    let name = value.pointer("/format/name").and_then(serde_json::Value::as_str);
    let major = value.pointer("/format/major").and_then(serde_json::Value::as_u64);
    if name == Some(FORMAT_NAME) && major == Some(u64::from(FORMAT_MAJOR)) {
        return Ok(());
    }
    let found = match (name, major) {
        (Some(name), Some(major)) => format!("a {name} {major}.x"),
        _ => "something else".to_owned(),
    };
    Err(StoreError::Format { path: path.to_owned(), found })
}

fn without_position(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { action, path, source }
}
