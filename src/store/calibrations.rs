//! How much a machine varies with a workload: `BASELINES/TARGET/WORKLOAD.calibration.json`.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{Kind, StoreError, read, write_atomically};
use crate::model::calibration::Calibration;

/// Where the calibration of a target with a workload lies.
pub fn calibration_path(folder: &Path, target: &str, workload: &str) -> PathBuf {
    folder.join(target).join(format!("{workload}.calibration.json"))
}

/// Stores a calibration, in the place of an earlier one.
///
/// # Errors
/// As [`write_atomically`].
pub fn save_calibration(path: &Path, calibration: &Calibration) -> Result<(), StoreError> {
    let mut text = serde_json::to_string_pretty(calibration).expect("a calibration is plain data");
    text.push('\n');
    write_atomically(path, text.as_bytes())
}

/// Reads a calibration; `None` where nobody made one.
///
/// # Errors
/// When the file is there and cannot be read, is damaged, or has another format version.
pub fn load_calibration(path: &Path) -> Result<Option<Calibration>, StoreError> {
    match read(path, Kind::Calibration) {
        Ok(calibration) => Ok(Some(calibration)),
        Err(StoreError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
