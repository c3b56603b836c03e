//! Tables for a terminal. Everything can be read without colour.

use std::io;

use comfy_table::{Cell, Color, Table, presets::UTF8_FULL_CONDENSED};

use super::{
    ParityRow, explain,
    rows::{self, Mood},
};
use crate::model::{record::Record, verdict::Comparison};

/// Columns of a line of prose.
const MOST_COLUMNS: usize = 100;

/// Writes a comparison.
///
/// # Errors
/// When the stream cannot be written to.
pub fn comparison(comparison: &Comparison, out: &mut dyn io::Write, colour: bool) -> io::Result<()> {
    heading(&rows::comparison_heading(comparison), out)?;
    if !comparison.metrics.is_empty() {
        let mut table = table(rows::comparison_header(comparison), colour);
        for metric in &comparison.metrics {
            table.add_row(with_verdict(rows::metric(metric)));
        }
        writeln!(out, "{table}")?;
    }
    writeln!(out, "{}", painted(&rows::overall(comparison), comparison.verdict.word(), colour))?;
    for remark in rows::remarks(comparison) {
        writeln!(out, "  - {remark}")?;
    }
    writeln!(out, "In words")?;
    explain::paragraphs(comparison).iter().try_for_each(|paragraph| hanging(paragraph, out))
}

/// Writes how scenarios went on each target.
///
/// # Errors
/// When the stream cannot be written to.
pub fn parity(rows: &[ParityRow], out: &mut dyn io::Write, colour: bool) -> io::Result<()> {
    for identity in rows::identities(rows) {
        writeln!(out, "{identity}")?;
    }
    let mut table = table(rows::PARITY_HEADER.map(str::to_owned).into(), colour);
    for row in rows {
        table.add_row(with_verdict(rows::parity(row).into_iter().map(|lines| lines.join("\n")).collect()));
    }
    writeln!(out, "{table}")
}

/// Writes a record's own figures, arm by arm.
///
/// # Errors
/// When the stream cannot be written to.
pub fn record(record: &Record, out: &mut dyn io::Write) -> io::Result<()> {
    heading(&rows::record_heading(record), out)?;
    let (header, lines) = rows::record(record);
    let mut table = table(header, false);
    table.add_rows(lines);
    writeln!(out, "{table}")
}

pub(super) fn heading(lines: &[(&str, String)], out: &mut dyn io::Write) -> io::Result<()> {
    lines.iter().try_for_each(|(name, text)| writeln!(out, "{name:<10} {text}"))
}

/// A paragraph broken into lines, all but the first of them further in.
fn hanging(paragraph: &str, out: &mut dyn io::Write) -> io::Result<()> {
    let mut line = " ".to_owned();
    let mut columns = 1;
    for word in paragraph.split(' ') {
        let width = word.chars().count();
        // A word longer than a line has one of its own.
        if columns + 1 + width > MOST_COLUMNS && !line.trim().is_empty() {
            writeln!(out, "{line}")?;
            line.replace_range(.., "   ");
            columns = line.len();
        }
        line.push(' ');
        line.push_str(word);
        columns += 1 + width;
    }
    writeln!(out, "{line}")
}

pub(super) fn table(header: Vec<String>, colour: bool) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header).force_no_tty();
    if colour {
        table.enforce_styling();
    }
    table
}

/// The last cell is a verdict.
fn with_verdict(mut cells: Vec<String>) -> Vec<Cell> {
    let verdict = cells.pop().unwrap_or_default();
    let colour = match rows::mood(&verdict) {
        Mood::Good => Color::Green,
        Mood::Bad => Color::Red,
        Mood::Open => Color::Yellow,
    };
    let mut cells: Vec<Cell> = cells.into_iter().map(Cell::new_owned).collect();
    cells.push(Cell::new_owned(verdict).fg(colour));
    cells
}

/// A line in the colour of its verdict (ECMA-48, SGR 32, 31 and 33).
fn painted(line: &str, verdict: &str, colour: bool) -> String {
    if !colour {
        return line.to_owned();
    }
    let code = match rows::mood(verdict) {
        Mood::Good => 32,
        Mood::Bad => 31,
        Mood::Open => 33,
    };
    format!("\u{1b}[{code}m{line}\u{1b}[0m")
}
