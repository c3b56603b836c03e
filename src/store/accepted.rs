//! Which baseline is in force, where somebody chose one: `BASELINES/TARGET/WORKLOAD.accepted.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Kind, StoreError, read, write_atomically};
use crate::model::record::Format;

/// The format's name, in every such file.
pub(super) const FORMAT_NAME: &str = "qbench-accepted";
/// Raised when old readers could misread one.
pub(super) const FORMAT_MAJOR: u32 = 1;
/// Raised when something was added.
const FORMAT_MINOR: u32 = 0;

/// The choice of a baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Which format this is.
    pub format: Format,
    /// The first session of the baseline chosen.
    pub group: String,
    /// When it was chosen: RFC 3339, UTC.
    pub accepted_at: String,
}

impl Accepted {
    /// A choice in this build's format.
    pub fn new(group: String, accepted_at: String) -> Self {
        let format = Format { name: FORMAT_NAME.to_owned(), major: FORMAT_MAJOR, minor: FORMAT_MINOR };
        Self { format, group, accepted_at }
    }

    /// Where the choice for a target and workload lies.
    pub fn path(folder: &Path, target: &str, workload: &str) -> PathBuf {
        folder.join(target).join(format!("{workload}.accepted.json"))
    }

    /// Stores the choice, in the place of an earlier one.
    ///
    /// # Errors
    /// As [`write_atomically`].
    pub fn save(&self, path: &Path) -> Result<(), StoreError> {
        let mut text = serde_json::to_string_pretty(self).expect("a choice is plain data");
        text.push('\n');
        write_atomically(path, text.as_bytes())
    }

    /// Reads the choice; `None` where nobody made one.
    ///
    /// # Errors
    /// When the file is there and cannot be read, is damaged, or has another format version.
    pub fn load(path: &Path) -> Result<Option<Self>, StoreError> {
        match read(path, Kind::Accepted) {
            Ok(accepted) => Ok(Some(accepted)),
            Err(StoreError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
