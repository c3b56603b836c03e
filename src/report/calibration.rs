//! The noise of a machine, in all three formats.

use std::{io, time::Duration};

use serde_json::json;

use super::{
    table,
    words::{self, NOTHING, plain},
};
use crate::model::{
    calibration::{Calibration, Noise},
    units::format_duration,
    verdict::Metric,
};

/// What the noise of one metric means for a session of `validate`.
#[derive(Clone, Copy, Debug)]
pub struct CalibrationRow {
    /// Which.
    pub metric: Metric,
    /// How much it varies.
    pub noise: Noise,
    /// The limit it is judged by, as a share.
    pub limit: f64,
    /// Epochs within which half of the sessions of equal targets pass; `None` when fewer do at all.
    pub median_epochs: Option<u32>,
    /// Epochs within which nine of ten do.
    pub most_epochs: Option<u32>,
}

/// Writes a table for a terminal.
///
/// # Errors
/// When the stream cannot be written to.
pub fn table(calibration: &Calibration, rows: &[CalibrationRow], out: &mut dyn io::Write) -> io::Result<()> {
    for (name, text) in heading(calibration) {
        writeln!(out, "{name:<10} {text}")?;
    }
    let mut table = table::table(HEADER.map(str::to_owned).into(), false);
    table.add_rows(rows.iter().map(|row| cells(calibration, row)));
    writeln!(out, "{table}")
}

/// Writes a document.
///
/// # Errors
/// When the stream cannot be written to.
pub fn markdown(
    calibration: &Calibration,
    rows: &[CalibrationRow],
    out: &mut dyn io::Write,
) -> io::Result<()> {
    for (name, text) in heading(calibration) {
        writeln!(out, "- {name}: {text}")?;
    }
    writeln!(out, "\n| {} |\n|{}", HEADER.join(" | "), "---|".repeat(HEADER.len()))?;
    rows.iter().try_for_each(|row| writeln!(out, "| {} |", cells(calibration, row).join(" | ")))
}

/// Writes the calibration as it is stored, with what follows from it under `rows`.
///
/// # Errors
/// When the stream cannot be written to.
pub fn json(calibration: &Calibration, rows: &[CalibrationRow], out: &mut dyn io::Write) -> io::Result<()> {
    let rows: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            json!({
                "metric": row.metric,
                "limit": row.limit,
                "median_epochs": row.median_epochs,
                "nine_of_ten_epochs": row.most_epochs,
            })
        })
        .collect();
    writeln!(out, "{:#}", json!({ "calibration": calibration, "rows": rows }))
}

const HEADER: [&str; 7] = [
    "metric",
    "epoch to epoch",
    "identical arms",
    "session to session",
    "limit",
    "half of equal sessions pass within",
    "nine of ten",
];

fn heading(calibration: &Calibration) -> [(&'static str, String); 4] {
    let host = &calibration.host;
    [
        ("target", plain(&calibration.target.describe())),
        ("workload", plain(&calibration.workload.name)),
        ("machine", plain(&format!("{} × {}, Linux {}", host.cpu_count, host.cpu_model, host.kernel))),
        ("sessions", plain(&calibration.sessions.join(", "))),
    ]
}

fn cells(calibration: &Calibration, row: &CalibrationRow) -> Vec<String> {
    let sd = |sd: f64| format!("{:.2}%", sd.exp_m1() * 100.0);
    let wait = |epochs: Option<u32>| match epochs {
        Some(epochs) => {
            let time = Duration::try_from_secs_f64(calibration.epoch_s * f64::from(epochs));
            format!("{epochs} epochs, {}", time.map_or_else(|_| NOTHING.to_owned(), format_duration))
        }
        None => "not within the epochs of a session".to_owned(),
    };
    vec![
        row.metric.title().to_owned(),
        sd(row.noise.epoch_sd),
        sd(row.noise.again_sd),
        format!("{} (< {} at 95%)", sd(row.noise.session_sd), sd(row.noise.session_sd_bound)),
        words::limit(row.metric, row.limit),
        wait(row.median_epochs),
        wait(row.most_epochs),
    ]
}
