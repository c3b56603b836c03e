//! What is wrong with a file, shown where it is wrong.

use std::{
    fmt::{self, Write as _},
    ops::Range,
    path::{Path, PathBuf},
};

use super::source::Source;

/// Lines longer than this are cut around the caret: a minified file is one line.
const SHOWN_COLUMNS: usize = 120;
/// What is kept left of the caret when a line is cut.
const COLUMNS_BEFORE_CARET: usize = 40;

/// Something in a file, or about it, that keeps qbench from going on.
///
/// It prints with its place, the line, a caret and what to do about it; the parts can be had one by one, too.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(Box<Diagnostic>);

#[derive(Debug, Default)]
struct Diagnostic {
    message: String,
    hint: Option<String>,
    file: Option<PathBuf>,
    line: Option<ShownLine>,
}

/// The line an error is on, ready to print.
#[derive(Debug)]
struct ShownLine {
    number: usize,
    column: usize,
    text: String,
    caret_at: usize,
    caret_width: usize,
}

impl ConfigError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Diagnostic { message: message.into(), ..Diagnostic::default() }))
    }

    /// Says what the user can do.
    pub(super) fn help(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says which file, when no line of it is to blame.
    pub(super) fn in_file(mut self, file: &Path) -> Self {
        self.0.file = Some(file.to_owned());
        self
    }

    /// Says where: the bytes of the source to underline. `hidden` are the bytes that must not be shown.
    pub(super) fn at(mut self, source: &Source, bytes: Range<usize>, hidden: &[Range<usize>]) -> Self {
        self.0.file = Some(source.shown_as.clone());
        self.0.line = Some(ShownLine::of(&source.text, bytes, hidden));
        self
    }

    /// What is wrong, a lowercase fragment.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The file.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// Line and column, both from 1; the column counts characters.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.0.line.as_ref().map(|line| (line.number, line.column))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let gutter = self.line.as_ref().map_or(1, |line| line.number.to_string().len());
        if let Some(file) = &self.file {
            write!(f, "\n{:gutter$}--> {}", "", file.display())?;
        }
        if let Some(line) = &self.line {
            write!(f, ":{}:{}", line.number, line.column)?;
            write!(f, "\n{:gutter$} |", "")?;
            write!(f, "\n{} | {}", line.number, line.text)?;
            let (at, width) = (line.caret_at, line.caret_width);
            write!(f, "\n{:gutter$} | {:at$}{:^<width$}", "", "", "")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n{:gutter$} = help: {hint}", "")?;
        }
        Ok(())
    }
}

impl ShownLine {
    fn of(text: &str, bytes: Range<usize>, hidden: &[Range<usize>]) -> Self {
        let start = floor_boundary(text, bytes.start);
        let end = floor_boundary(text, bytes.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let column = text[line_start..start].chars().count();
        // At least one caret, also at the end of a line, and never beyond it.
        let width = text[start..end.min(line_end)].trim_end().chars().count().max(1);
        // Cut first: a line may be a megabyte, and have as many hidden parts.
        let line: Vec<(usize, char)> =
            text[line_start..line_end].trim_end_matches('\r').char_indices().collect();
        let (cut, caret_at) = window(line.len(), column);
        let mut shown = String::new();
        shown.push_str(if cut.start > 0 { "…" } else { "" });
        shown.extend(line[cut.clone()].iter().map(|(at, c)| {
            let is_hidden = hidden.iter().any(|range| range.contains(&(line_start + at)));
            printable(*c, is_hidden)
        }));
        shown.push_str(if cut.end < line.len() { "…" } else { "" });
        let room = shown.chars().count().saturating_sub(caret_at).max(1);
        Self {
            number: text[..line_start].matches('\n').count() + 1,
            column: column + 1,
            text: shown,
            caret_at,
            caret_width: width.min(room),
        }
    }
}

/// A terminal is not to be driven by what a file contains, and a tab would move the caret.
fn printable(c: char, is_hidden: bool) -> char {
    if is_hidden && !c.is_whitespace() {
        '•'
    } else if c.is_control() {
        ' '
    } else {
        c
    }
}

/// Which characters of a line are shown, and after how many of those shown the one at `column` stands.
fn window(length: usize, column: usize) -> (Range<usize>, usize) {
    if length <= SHOWN_COLUMNS {
        return (0..length, column);
    }
    let from = column.saturating_sub(COLUMNS_BEFORE_CARET).min(length);
    let ellipsis = usize::from(from > 0);
    (from..(from + SHOWN_COLUMNS).min(length), column - from + ellipsis)
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Lists names for a message: "`a`, `b` and `c`", at most ten of them.
pub(super) fn listed<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    const SHOWN: usize = 10;
    let names: Vec<&str> = names.into_iter().collect();
    let mut text = String::new();
    for (at, name) in names.iter().take(SHOWN).enumerate() {
        let is_last = at + 1 == names.len();
        let before = match at {
            0 => "",
            _ if is_last => " and ",
            _ => ", ",
        };
        let _ = write!(text, "{before}`{name}`");
    }
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { shown_as: PathBuf::from("qbench.toml"), text: text.to_owned() }
    }

    #[test]
    fn it_prints_like_a_compiler() {
        let source = source("a = 1\n\nb = \"é\" x\n");
        let error = ConfigError::new("stray `x`")
            .at(&source, 16..17, std::slice::from_ref(&(12..14)))
            .help("remove it");
        insta::assert_snapshot!(error, @r#"
        stray `x`
         --> qbench.toml:3:9
          |
        3 | b = "•" x
          |         ^
          = help: remove it
        "#);
        assert_eq!(error.position(), Some((3, 9)));
    }

    #[test]
    fn an_end_of_file_and_a_split_character_have_a_place_too() {
        let source = source("a = é");
        for bytes in [6..6, 5..6, 99..200, 0..99] {
            let error = ConfigError::new("x").at(&source, bytes, &[]);
            assert_eq!(error.position().map(|(line, _)| line), Some(1));
            assert!(error.to_string().contains('^'));
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret_and_escapes_are_not_printed() {
        let line = format!("{}\u{1b}[31mHERE{}", "x".repeat(500), "y".repeat(500));
        let text = ConfigError::new("x").at(&source(&line), 505..509, &[]).to_string();
        let rows: Vec<Vec<char>> = text.lines().map(|row| row.chars().collect()).collect();
        let caret = rows[4].iter().position(|c| *c == '^').unwrap();
        assert_eq!(rows[3][caret..caret + 4].iter().collect::<String>(), "HERE");
        assert!(rows[3].len() < 140, "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn names_are_listed() {
        assert_eq!(listed(["a"]), "`a`");
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` and `c`");
        assert!(listed(std::iter::repeat_n("a", 14)).ends_with(" and 4 more"));
    }
}
