//! Comparisons, records and parity runs for people and for programs.
//!
//! Three formats with the same content: [`table`] for a terminal, [`markdown`] for a document, [`json`] for a
//! program. Each function writes through `impl Write`; what is printed first is always what really ran. A verdict
//! never appears without the grade of its evidence, and failed requests never without the number they were
//! counted among. After the figures, `explain` says them in sentences. [`progress`] is the exception that writes to stderr while a session runs.
//!
//! Deliberately absent: measuring, judging, files, and the choice of streams.

pub mod baseline;
pub mod calibration;
mod explain;
pub mod hdr;
pub mod json;
pub mod live;
pub mod load;
mod load_json;
#[cfg(test)]
mod load_tests;
mod load_words;
pub mod markdown;
mod page;
mod parity;
pub mod processes;
pub mod progress;
mod rows;
pub mod table;
#[cfg(test)]
mod tests;
mod words;

use std::ffi::OsStr;

pub use page::Page;
pub use parity::{Outcome, ParityRow};

/// Whether to colour a stream: only a terminal, and not when `NO_COLOR` holds anything (<https://no-color.org>).
///
/// ```
/// # use qbench::report::wants_colour;
/// assert!(wants_colour(true, None));
/// assert!(!wants_colour(true, Some("1".as_ref())));
/// assert!(!wants_colour(false, None));
/// ```
pub fn wants_colour(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}
