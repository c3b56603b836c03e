//! A TOML file as a tree whose every key and value knows where it stands, read strictly.
//!
//! Deliberately absent: serde. A derived type reports an unknown key or a wrong unit with less than we know.

use std::{cell::OnceCell, ops::Range, path::Path, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{error::ConfigError, source::Source, spelling::nearest};
use crate::model::units::parse_duration;

/// Nothing qbench waits for takes longer.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Keys whose values may be secrets, and with a table all that is in it.
const SECRET_KEYS: [&str; 4] = ["env", "headers", "body", "json"];

/// A parsed file.
#[derive(Debug)]
pub(super) struct Document<'i> {
    source: &'i Source,
    root: Spanned<DeTable<'i>>,
    secrets: OnceCell<Vec<Range<usize>>>,
}

impl<'i> Document<'i> {
    /// Parses; `known` words may be shown in a syntax error.
    pub(super) fn parse(source: &'i Source, known: &[&str]) -> Result<Self, ConfigError> {
        let root = DeTable::parse(&source.text).map_err(|error| {
            let bytes = error.span().unwrap_or(0..0);
            let message = sentence(error.message());
            // Inside a text of several lines, which may be a body, nothing can be told to be a key.
            let before = source.text.get(..bytes.start).unwrap_or(&source.text);
            let is_in_text = (before.matches("\"\"\"").count() + before.matches("'''").count()) % 2 == 1;
            let shown = if is_in_text {
                ConfigError::new(message).at(source, bytes, std::slice::from_ref(&(0..source.text.len())))
            } else {
                source.syntax_error(message, bytes, known)
            };
            if error.message().contains("duplicate key") {
                return shown.help(
                    "a key and a [table] may be there once; what may be there often has two brackets, as [[service]]",
                );
            }
            shown
        })?;
        Ok(Self { source, root, secrets: OnceCell::new() })
    }

    /// The whole file as a section.
    pub(super) fn root(&self, keys: &'static [&'static str]) -> Result<Section<'_, 'i>, ConfigError> {
        Section::new(self, self.root.get_ref(), 0..0, keys)
    }

    /// An error at these bytes.
    pub(super) fn error(&self, bytes: Range<usize>, message: impl Into<String>) -> ConfigError {
        let secrets = self.secrets.get_or_init(|| {
            let mut found = Vec::new();
            collect_secrets(self.root.get_ref(), false, &mut found);
            found
        });
        ConfigError::new(message).at(self.source, bytes, secrets)
    }

    /// The file's folder, as the user wrote it.
    pub(super) fn folder(&self) -> &Path {
        self.source.shown_as.parent().unwrap_or(Path::new(""))
    }
}

/// A table of which all keys are known.
#[derive(Debug)]
pub(super) struct Section<'d, 'i> {
    document: &'d Document<'i>,
    table: &'d DeTable<'i>,
    bytes: Range<usize>,
}

impl<'d, 'i> Section<'d, 'i> {
    fn new(
        document: &'d Document<'i>,
        table: &'d DeTable<'i>,
        bytes: Range<usize>,
        keys: &[&str],
    ) -> Result<Self, ConfigError> {
        let unknown = table
            .keys()
            .filter(|key| !keys.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        let Some(key) = unknown else {
            return Ok(Self { document, table, bytes });
        };
        let hint = match nearest(key.get_ref(), keys.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known here: {}", super::error::listed(keys.iter().copied())),
        };
        Err(document.error(key.span(), format!("unknown key `{}`", printed(key.get_ref()))).help(hint))
    }

    /// The field of that key, if it is there.
    pub(super) fn field(&self, key: &str) -> Option<Field<'d, 'i>> {
        let (key, value) = self.table.get_key_value(key)?;
        Some(Field { document: self.document, key, value })
    }

    /// The field of that key, or an error that says what belongs there.
    pub(super) fn required(&self, key: &str, example: &str) -> Result<Field<'d, 'i>, ConfigError> {
        self.field(key)
            .ok_or_else(|| self.error(format!("`{key}` is missing")).help(format!("for example `{example}`")))
    }

    /// Reads an optional field.
    pub(super) fn optional<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Field<'d, 'i>) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        self.field(key).map(|field| read(&field)).transpose()
    }

    /// An error about the section as a whole.
    pub(super) fn error(&self, message: impl Into<String>) -> ConfigError {
        self.document.error(self.bytes.clone(), message)
    }
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Field<'d, 'i> {
    document: &'d Document<'i>,
    key: &'d Spanned<std::borrow::Cow<'i, str>>,
    value: &'d Spanned<DeValue<'i>>,
}

impl<'d, 'i> Field<'d, 'i> {
    /// The key.
    pub(super) fn key(&self) -> &'d str {
        self.key.get_ref()
    }

    /// The file it is in.
    pub(super) fn document(&self) -> &'d Document<'i> {
        self.document
    }

    /// An error about the value.
    pub(super) fn error(&self, message: impl Into<String>) -> ConfigError {
        self.document.error(self.value.span(), message)
    }

    /// An error about the key.
    pub(super) fn key_error(&self, message: impl Into<String>) -> ConfigError {
        self.document.error(self.key.span(), message)
    }

    /// The value, for what may be of several types.
    pub(super) fn value(&self) -> &'d DeValue<'i> {
        self.value.get_ref()
    }

    /// The items of a list, which must not be empty; itself when it is none.
    pub(super) fn one_or_more(&self) -> Result<Vec<Self>, ConfigError> {
        let item = |value| Self { document: self.document, key: self.key, value };
        match self.value.get_ref() {
            DeValue::Array(items) if items.is_empty() => {
                Err(self.error(format!("`{}` must not be empty", printed(self.key()))))
            }
            DeValue::Array(items) => Ok(items.iter().map(item).collect()),
            _ => Ok(vec![item(self.value)]),
        }
    }

    fn wrong_type(&self, wanted: &str) -> ConfigError {
        let (key, found) = (printed(self.key()), self.value.get_ref().type_str());
        self.error(format!("`{key}` must be {wanted}, not {}", with_article(found)))
    }

    /// A text that is not empty and has no control characters.
    pub(super) fn text(&self) -> Result<&'d str, ConfigError> {
        let text = self.any_text()?;
        if text.trim().is_empty() {
            return Err(self.error(format!("`{}` must not be empty", printed(self.key()))));
        }
        if text.contains(char::is_control) {
            let key = printed(self.key());
            return Err(self.error(format!("`{key}` must not contain line breaks or control characters")));
        }
        Ok(text)
    }

    /// Any text.
    pub(super) fn any_text(&self) -> Result<&'d str, ConfigError> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type("a string").help("put it in quotes"))
    }

    /// A whole number within bounds, both inclusive.
    pub(super) fn integer(&self, least: u64, most: u64) -> Result<u64, ConfigError> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return Err(self.wrong_type("a whole number"));
        };
        i128::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| self.error(format!("`{}` must be from {least} to {most}", self.key())))
    }

    /// Any whole number that TOML has.
    pub(super) fn signed(&self) -> Result<i64, ConfigError> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return Err(self.wrong_type("a whole number"));
        };
        i64::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_| self.error(format!("`{}` must be from {} to {}", self.key(), i64::MIN, i64::MAX)))
    }

    /// A finite number, whole or not.
    pub(super) fn number(&self) -> Result<f64, ConfigError> {
        let number = match self.value.get_ref() {
            DeValue::Integer(integer) => {
                i128::from_str_radix(integer.as_str(), integer.radix()).ok().map(|number| number as f64)
            }
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            _ => return Err(self.wrong_type("a number")),
        };
        number
            .filter(|number| number.is_finite())
            .ok_or_else(|| self.error(format!("`{}` must be a finite number", self.key())))
    }

    /// A duration with its unit, of at least `least` and at most a day.
    pub(super) fn duration(&self, least: Duration) -> Result<Duration, ConfigError> {
        let key = self.key();
        let written = match self.value.get_ref() {
            DeValue::Integer(integer) => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            DeValue::String(text) => text.as_ref(),
            _ => return Err(self.wrong_type("a duration").help("for example \"250ms\", \"5s\" or \"2m\"")),
        };
        if self.value.get_ref().is_str()
            && let Some(duration) = parse_duration(written)
        {
            return match duration {
                short if short < least && least <= Duration::from_micros(1) => {
                    Err(self.error(format!("`{key}` must be more than zero")))
                }
                short if short < least => Err(self.error(format!("`{key}` must be at least {least:?}"))),
                long if long > LONGEST => Err(self.error(format!("`{key}` must be at most 24h"))),
                duration => Ok(duration),
            };
        }
        if written.trim().starts_with('-') {
            return Err(self.error(format!("`{key}` must not be negative")));
        }
        if written.parse::<f64>().is_ok_and(f64::is_finite) {
            let written = written.trim();
            return Err(self
                .error(format!("`{key}` needs a unit"))
                .help(format!("write \"{written}s\" for seconds, or \"{written}ms\" for milliseconds")));
        }
        Err(self
            .error(format!("`{key}` is not a duration"))
            .help("write a number and a unit of us, ms, s, m or h, for example \"250ms\""))
    }

    /// A share written as a percentage, from 0 to 1000%: `"5%"` is 0.05.
    pub(super) fn share(&self) -> Result<f64, ConfigError> {
        let key = self.key();
        let (written, is_text) = match self.value.get_ref() {
            DeValue::Integer(integer) => (integer.as_str(), false),
            DeValue::Float(float) => (float.as_str(), false),
            DeValue::String(text) => (text.trim(), true),
            _ => return Err(self.wrong_type("a percentage").help("for example \"5%\"")),
        };
        let percent =
            written.strip_suffix('%').filter(|_| is_text).map(|number| number.trim().parse::<f64>());
        match percent {
            Some(Ok(percent)) if (0.0..=1000.0).contains(&percent) => Ok(percent / 100.0),
            Some(Ok(_)) => Err(self.error(format!("`{key}` must be from 0% to 1000%"))),
            _ => {
                let example = match written.parse::<f64>() {
                    // 0.05 is most likely meant as a share already.
                    Ok(share) if share > 0.0 && share < 1.0 => format!("{}%", (share * 1e6).round() / 1e4),
                    Ok(percent) if percent.is_finite() && percent >= 0.0 => format!("{percent}%"),
                    _ => "5%".to_owned(),
                };
                Err(self.error(format!("`{key}` must be a percentage")).help(format!("write \"{example}\"")))
            }
        }
    }

    /// True or false.
    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Result<T, ConfigError> {
        let written = self.text()?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == written) {
            return Ok(*choice);
        }
        let hint = match nearest(written, choices.iter().map(|(name, _)| *name)) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => format!("one of {}", super::error::listed(choices.iter().map(|(name, _)| *name))),
        };
        Err(self.error(format!("`{}` cannot be `{written}`", self.key())).help(hint))
    }

    /// A list of texts, not empty.
    pub(super) fn texts(&self) -> Result<Vec<String>, ConfigError> {
        let wrong = || self.wrong_type("a list of strings").help("for example [\"sh\", \"image.sh\"]");
        let array = self.value.get_ref().as_array().ok_or_else(wrong)?;
        if array.is_empty() {
            return Err(self.error(format!("`{}` must not be empty", self.key())));
        }
        array
            .iter()
            .map(|item| {
                let text = item.get_ref().as_str().ok_or_else(wrong)?;
                if text.contains('\0') {
                    return Err(self.error(format!("`{}` must not contain a NUL character", self.key())));
                }
                Ok(text.to_owned())
            })
            .collect()
    }

    /// A table of which all keys are known.
    pub(super) fn section(&self, keys: &[&str]) -> Result<Section<'d, 'i>, ConfigError> {
        let key = self.key();
        let table = self
            .value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.wrong_type("a table").help(format!("begin it with `[{key}]`")))?;
        Section::new(self.document, table, self.value.span(), keys)
    }

    /// A table of any keys, in the order of the file.
    pub(super) fn entries(&self) -> Result<Vec<Self>, ConfigError> {
        let table = self.value.get_ref().as_table().ok_or_else(|| self.wrong_type("a table"))?;
        Ok(fields_of(self.document, table))
    }

    /// An array of tables of which all keys are known.
    pub(super) fn sections(&self, keys: &[&str]) -> Result<Vec<Section<'d, 'i>>, ConfigError> {
        let key = self.key();
        let wrong = || {
            self.wrong_type("an array of tables").help(format!("begin each with two brackets: `[[{key}]]`"))
        };
        let array = self.value.get_ref().as_array().ok_or_else(wrong)?;
        array
            .iter()
            .map(|item| {
                let table = item.get_ref().as_table().ok_or_else(wrong)?;
                Section::new(self.document, table, item.span(), keys)
            })
            .collect()
    }
}

fn fields_of<'d, 'i>(document: &'d Document<'i>, table: &'d DeTable<'i>) -> Vec<Field<'d, 'i>> {
    let mut fields: Vec<_> = table.iter().map(|(key, value)| Field { document, key, value }).collect();
    fields.sort_by_key(|field| field.key.span().start);
    fields
}

fn collect_secrets(table: &DeTable<'_>, is_secret: bool, found: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        let is_secret = is_secret || SECRET_KEYS.contains(&key.get_ref().as_ref());
        collect_secret_values(value, is_secret, found);
    }
}

fn collect_secret_values(value: &Spanned<DeValue<'_>>, is_secret: bool, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => collect_secrets(table, is_secret, found),
        DeValue::Array(array) => array.iter().for_each(|item| collect_secret_values(item, is_secret, found)),
        _ if is_secret => found.push(value.span()),
        _ => {}
    }
}

/// A name of the user's for a message: a key may hold anything.
fn printed(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// The parser's message as a lowercase fragment on one line.
fn sentence(message: &str) -> String {
    let message = message.trim().replace('\n', ", ");
    let mut chars = message.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
