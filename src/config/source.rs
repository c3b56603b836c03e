//! A text file read for configuration, and which of its text may be shown in an error.

use std::{
    fs,
    io::{self, Read as _},
    ops::Range,
    path::{Path, PathBuf},
};

use super::error::ConfigError;

/// No configuration is larger; what is, is another kind of file.
const LIMIT_BYTES: u64 = 1 << 20;

/// A file's text, with the name the user knows it by.
#[derive(Debug)]
pub(super) struct Source {
    /// For messages: as the user wrote it.
    pub shown_as: PathBuf,
    /// All of it.
    pub text: String,
}

impl Source {
    /// Reads a file; the error names the file.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = read_bytes(path, LIMIT_BYTES)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()].split(|b| *b == b'\n').count();
            ConfigError::new(format!("{} is not UTF-8 text (line {line})", path.display()))
                .help("save it as UTF-8")
        })?;
        // Editors on Windows may leave a byte order mark, which none of the formats knows.
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        Ok(Self { shown_as: path.to_owned(), text })
    }

    /// An error at these bytes of a text that could not be parsed. Since what is a value and what is its key is
    /// then a guess, every word is hidden that is neither a key nor one of the `known` words.
    pub(super) fn syntax_error(
        &self,
        message: impl Into<String>,
        bytes: Range<usize>,
        known: &[&str],
    ) -> ConfigError {
        let start = bytes.start.min(self.text.len());
        let line_start =
            self.text.as_bytes()[..start].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let line_end = self.text.as_bytes()[start..]
            .iter()
            .position(|b| *b == b'\n')
            .map_or(self.text.len(), |at| start + at);
        let hidden = values(&self.text[line_start..line_end], known)
            .into_iter()
            .map(|range| range.start + line_start..range.end + line_start)
            .collect::<Vec<_>>();
        ConfigError::new(message).at(self, bytes, &hidden)
    }

    /// The bytes of the line and column, both from 0, the column in characters.
    pub(super) fn offset(&self, line: usize, column: usize) -> usize {
        let mut start = 0;
        for (number, text) in self.text.split_inclusive('\n').enumerate() {
            if number == line {
                let within = text.char_indices().nth(column).map_or(text.len(), |(at, _)| at);
                return start + within;
            }
            start += text.len();
        }
        self.text.len()
    }
}

/// Reads a regular file of at most `limit` bytes; the error names the file.
pub(super) fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>, ConfigError> {
    let refused = |message: String| ConfigError::new(message);
    let failed = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => refused(format!("{} does not exist", path.display())),
        _ => refused(format!("cannot read {}: {error}", path.display())),
    };
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    let metadata = fs::metadata(path).map_err(|error| failed(&error))?;
    if metadata.is_dir() {
        return Err(refused(format!("{} is a folder, not a file", path.display())));
    }
    if !metadata.is_file() {
        return Err(refused(format!("{} is not a regular file", path.display())));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| failed(&error))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > limit {
        return Err(refused(format!("{} is larger than {} MiB", path.display(), limit >> 20)));
    }
    Ok(bytes)
}

/// The parts of a line that may be values: words that are no key (nothing like `:` or `=` follows), unless the
/// key before them is known, and so not a name of a variable.
fn values(line: &str, known: &[&str]) -> Vec<Range<usize>> {
    let is_known = |word: &str| known.contains(&word);
    let mut hidden = Vec::new();
    let mut key_is_known = line.trim_start().starts_with('[') && line.trim_end().ends_with(']');
    let mut rest = 0;
    let mut may_be_key = true;
    while let Some(word) = next_word(line, rest) {
        let text = &line[word.clone()];
        let bare = text.trim_matches(['"', '\'']);
        // A `:` inside a value, as in an address, makes no key of what is before it.
        may_be_key |= line[rest..word.start].contains([',', '{']);
        let is_mark = !text.contains(char::is_alphanumeric);
        if may_be_key && line[word.end..].trim_start().starts_with([':', '=']) {
            key_is_known = is_known(bare);
        } else if !key_is_known && !is_known(bare) && !is_mark {
            hidden.push(inside_quotes(text, word.clone()));
        }
        may_be_key &= is_mark;
        rest = word.end;
    }
    hidden
}

/// The next quoted string, or the next run of what is neither white space nor punctuation.
fn next_word(line: &str, from: usize) -> Option<Range<usize>> {
    let is_break = |c: char| c.is_whitespace() || "{}[](),:=".contains(c);
    let start = from + line[from..].find(|c: char| !is_break(c))?;
    let quote = line[start..].chars().next().filter(|c| matches!(c, '"' | '\''));
    let mut escaped = false;
    let end = line[start..].char_indices().skip(1).find(|(_, c)| match quote {
        Some(_) if escaped => {
            escaped = false;
            false
        }
        Some(_) if *c == '\\' => {
            escaped = true;
            false
        }
        Some(quote) => *c == quote,
        None => is_break(*c),
    });
    // An open quotation is hidden to the end of the line.
    let end = end.map_or(line.len(), |(at, c)| start + at + if quote.is_some() { c.len_utf8() } else { 0 });
    Some(start..end)
}

/// The quotes themselves stay, so that a missing one is seen.
fn inside_quotes(text: &str, word: Range<usize>) -> Range<usize> {
    if !text.starts_with(['"', '\'']) {
        return word;
    }
    let closed = text.len() > 1 && text.ends_with(['"', '\'']);
    word.start + 1..word.end - usize::from(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> String {
        let mut text: Vec<char> = line.chars().collect();
        for range in values(line, &["name", "script", "apps"]) {
            // The lines of these tests are ASCII, so that a byte is a character.
            text[range].fill('*');
        }
        text.into_iter().collect()
    }

    #[test]
    fn values_are_hidden_unless_their_key_is_known() {
        assert_eq!(
            shown(r#""name": "web", "TOKEN": "se\"cr:et" "x""#),
            r#""name": "web", "TOKEN": "*********" "*""#
        );
        assert_eq!(shown("TOKEN: hunter2 and more"), "TOKEN: ******* *** ****");
        assert_eq!(shown("- TOKEN=hunter2"), "- TOKEN=*******");
        assert_eq!(shown("URL: pg://user:pass=x@h"), "URL: **:******:****=***");
        assert_eq!(shown("TOKEN = \"hunter2"), "TOKEN = \"*******");
        assert_eq!(shown("continued-secret"), "****************");
        assert_eq!(shown(r#""apps" ["#), r#""apps" ["#);
        assert_eq!(shown("[[tresholds]]"), "[[tresholds]]");
        assert_eq!(shown("[\"secret\", x"), "[\"******\", *");
    }

    #[test]
    fn what_is_no_text_file_is_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("latin1"), b"a = 1\nb = \"\xe9\"").unwrap();
        fs::write(at("huge"), vec![b'#'; (1 << 20) + 1]).unwrap();
        fs::write(at("bom"), "\u{feff}a = 1").unwrap();
        let message = |path: &Path| Source::read(path).unwrap_err().message().to_owned();
        assert!(message(&at("latin1")).ends_with("latin1 is not UTF-8 text (line 2)"));
        assert!(message(&at("huge")).ends_with("huge is larger than 1 MiB"));
        assert!(message(&at("none")).ends_with("none does not exist"));
        assert!(message(folder.path()).ends_with("is a folder, not a file"));
        assert!(message(Path::new("/dev/null")).ends_with("is not a regular file"));
        assert_eq!(Source::read(&at("bom")).unwrap().text, "a = 1");
    }

    #[test]
    fn offsets_are_found() {
        let source = Source { shown_as: "x".into(), text: "aé\nbcd\n".to_owned() };
        assert_eq!(source.offset(1, 2), 6);
        assert_eq!(source.offset(0, 2), 3);
        assert_eq!(source.offset(9, 9), 8);
    }
}
