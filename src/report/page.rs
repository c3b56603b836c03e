//! Lines, tables and remarks under one another, in all three formats.

use std::io;

use serde_json::Value;

use super::{json, markdown, table};

/// Something to print, made for every format at once.
pub struct Page {
    /// Names and texts before the tables.
    pub(super) heading: Vec<(&'static str, String)>,
    pub(super) grids: Vec<Grid>,
    /// Sentences after them.
    pub(super) remarks: Vec<String>,
    /// The same for programs, its `format` in it.
    pub(super) value: Value,
}

/// A table.
pub(super) struct Grid {
    pub(super) header: Vec<String>,
    pub(super) lines: Vec<Vec<String>>,
}

impl Page {
    /// Writes it for a terminal.
    ///
    /// # Errors
    /// When the stream cannot be written to.
    pub fn table(&self, out: &mut dyn io::Write) -> io::Result<()> {
        table::heading(&self.heading, out)?;
        for grid in self.grids.iter().filter(|grid| !grid.lines.is_empty()) {
            let mut table = table::table(grid.header.clone(), false);
            table.add_rows(grid.lines.clone());
            writeln!(out, "{table}")?;
        }
        self.remarks.iter().try_for_each(|remark| writeln!(out, "  - {remark}"))
    }

    /// Writes it for a document.
    ///
    /// # Errors
    /// When the stream cannot be written to.
    pub fn markdown(&self, out: &mut dyn io::Write) -> io::Result<()> {
        if !self.heading.is_empty() {
            markdown::heading(&self.heading, out)?;
        }
        for grid in self.grids.iter().filter(|grid| !grid.lines.is_empty()) {
            markdown::header(&grid.header, out)?;
            grid.lines.iter().try_for_each(|cells| markdown::line(cells, out))?;
            writeln!(out)?;
        }
        self.remarks.iter().try_for_each(|remark| writeln!(out, "- {}", markdown::escaped(remark)))
    }

    /// Writes it for a program.
    ///
    /// # Errors
    /// When the stream cannot be written to.
    pub fn json(&self, out: &mut dyn io::Write) -> io::Result<()> {
        json::write(&self.value, out)
    }
}
