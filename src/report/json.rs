//! JSON for programs: versioned, with the figures as numbers.

use std::io;

use serde_json::{Value, json};

use super::{ParityRow, explain};
use crate::model::{record::Record, verdict::Comparison};

/// Raised when a reader of the old shape could misread the new one.
const MAJOR: u32 = 2;
/// Raised when something was added.
const MINOR: u32 = 0;

/// Writes a comparison: its `format`, then the fields of [`Comparison`] under `comparison`, and the same
/// in sentences under `explanation`, the first for the whole and one for each metric.
///
/// # Errors
/// When the stream cannot be written to.
pub fn comparison(comparison: &Comparison, out: &mut dyn io::Write) -> io::Result<()> {
    let explanation = explain::paragraphs(comparison);
    let comparison = serde_json::to_value(comparison)?;
    let format = format("qbench-comparison");
    write(&json!({ "format": format, "comparison": comparison, "explanation": explanation }), out)
}

/// Writes how scenarios went on each target: its `format`, then one element of `rows` per scenario and target.
///
/// # Errors
/// When the stream cannot be written to.
pub fn parity(rows: &[ParityRow], out: &mut dyn io::Write) -> io::Result<()> {
    let rows = rows.iter().map(row).collect::<Result<Vec<Value>, _>>()?;
    write(&json!({ "format": format("qbench-parity"), "rows": rows }), out)
}

/// Writes a record as it is stored.
///
/// # Errors
/// When the stream cannot be written to.
pub fn record(record: &Record, out: &mut dyn io::Write) -> io::Result<()> {
    write(&serde_json::to_value(record)?, out)
}

fn row(row: &ParityRow) -> serde_json::Result<Value> {
    let mut figures = Vec::new();
    for summary in row.figures() {
        figures.push(json!({
            "figure": summary.figure,
            "median": summary.median,
            "worst": summary.worst,
            "at_least": summary.expected.and_then(|(expectation, _)| expectation.at_least),
            "at_most": summary.expected.and_then(|(expectation, _)| expectation.at_most),
            "met": summary.expected.map(|(_, met)| met),
        }));
    }
    Ok(json!({
        "scenario": row.scenario,
        "target": serde_json::to_value(&row.target)?,
        "verdict": row.verdict().to_string(),
        "reason": row.reason(),
        "error_rate_bound_95": row.error_rate_bound,
        "runs_with_errors": row.outcome.runs_with_errors().map(|(events, _)| events),
        "run_error_rate_bound_95": row.run_error_rate_bound,
        "figures": figures,
        "runs": serde_json::to_value(row.runs())?,
    }))
}

pub(super) fn format(name: &str) -> Value {
    json!({ "name": name, "major": MAJOR, "minor": MINOR })
}

pub(super) fn write(value: &Value, out: &mut dyn io::Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}
