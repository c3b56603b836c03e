//! Markdown (GitHub's flavour, for its tables).

use std::io;

use super::{ParityRow, explain, rows};
use crate::model::{record::Record, verdict::Comparison};

/// Writes a comparison.
///
/// # Errors
/// When the stream cannot be written to.
pub fn comparison(comparison: &Comparison, out: &mut dyn io::Write) -> io::Result<()> {
    heading(&rows::comparison_heading(comparison), out)?;
    if !comparison.metrics.is_empty() {
        header(&rows::comparison_header(comparison), out)?;
        for metric in &comparison.metrics {
            line(&rows::metric(metric), out)?;
        }
        writeln!(out)?;
    }
    writeln!(out, "**{}**", rows::overall(comparison))?;
    let remarks = rows::remarks(comparison);
    if !remarks.is_empty() {
        writeln!(out)?;
    }
    remarks.iter().try_for_each(|remark| writeln!(out, "- {}", escaped(remark)))?;
    writeln!(out, "\n## In words")?;
    let paragraphs = explain::paragraphs(comparison);
    paragraphs.iter().try_for_each(|paragraph| writeln!(out, "\n{}", escaped(paragraph)))
}

/// Writes how scenarios went on each target.
///
/// # Errors
/// When the stream cannot be written to.
pub fn parity(rows: &[ParityRow], out: &mut dyn io::Write) -> io::Result<()> {
    for identity in rows::identities(rows) {
        writeln!(out, "- {}", escaped(&identity))?;
    }
    writeln!(out)?;
    header(&rows::PARITY_HEADER.map(str::to_owned), out)?;
    for row in rows {
        let cells: Vec<Vec<String>> = rows::parity(row);
        let cells: Vec<String> = cells
            .iter()
            .map(|lines| lines.iter().map(|l| escaped(l)).collect::<Vec<_>>().join("<br>"))
            .collect();
        writeln!(out, "| {} |", cells.join(" | "))?;
    }
    Ok(())
}

/// Writes a record's own figures, arm by arm.
///
/// # Errors
/// When the stream cannot be written to.
pub fn record(record: &Record, out: &mut dyn io::Write) -> io::Result<()> {
    heading(&rows::record_heading(record), out)?;
    let (names, lines) = rows::record(record);
    header(&names, out)?;
    lines.iter().try_for_each(|cells| line(cells, out))
}

pub(super) fn heading(lines: &[(&str, String)], out: &mut dyn io::Write) -> io::Result<()> {
    for (name, text) in lines {
        writeln!(out, "- {name}: {}", escaped(text))?;
    }
    writeln!(out)
}

pub(super) fn header(names: &[String], out: &mut dyn io::Write) -> io::Result<()> {
    line(names, out)?;
    writeln!(out, "|{}", "---|".repeat(names.len()))
}

pub(super) fn line(cells: &[String], out: &mut dyn io::Write) -> io::Result<()> {
    let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
    writeln!(out, "| {} |", cells.join(" | "))
}

/// Text that ends no cell and begins no tag.
pub(super) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}
