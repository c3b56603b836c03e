//! The values of an app's keys, with PM2's types and units.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::Value;

use super::{app::variable_text, ecosystem::Block, error::ConfigError, names::is_variable};
use crate::model::{units::Bytes, workload::ExecMode};

/// No pause or limit of a supervisor is longer than a day.
const MOST_MILLISECONDS: f64 = 86_400_000.0;

/// Reads an app's keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    /// The app.
    pub block: &'a Block,
    /// Its file, for messages.
    pub shown_as: &'a Path,
}

impl<'a> Values<'a> {
    /// An error that names the app, the key and the file, and never the value.
    pub(super) fn wrong(&self, key: &str, wanted: &str) -> ConfigError {
        ConfigError::new(format!("`{key}` of app `{}` must be {wanted}", self.block.name))
            .in_file(self.shown_as)
    }

    /// An error about the app.
    pub(super) fn error(&self, message: String) -> ConfigError {
        ConfigError::new(message).in_file(self.shown_as)
    }

    /// The value of a key. What is false in JavaScript counts as none, as in PM2: there even 0 leaves the default.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.block.keys.get(key).filter(|value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Number(number) => number.as_f64() != Some(0.0),
            _ => true,
        })
    }

    /// A text; an empty one counts as none, as in PM2.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) if !text.contains('\0') => {
                Ok(Some(text.as_str()).filter(|text| !text.is_empty()))
            }
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.block.keys.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A list of arguments: an array, or a text split as a shell would.
    pub(super) fn arguments(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let wrong = || self.wrong(key, "a string with closed quotes, or a list of strings");
        let words = match self.value(key) {
            None => Some(Vec::new()),
            Some(Value::String(text)) => split(text),
            Some(Value::Array(list)) => list
                .iter()
                .map(|item| (item.is_string() || item.is_number()).then(|| variable_text(item)))
                .collect(),
            Some(_) => None,
        };
        words.filter(|words| words.iter().all(|word| !word.contains('\0'))).ok_or_else(wrong)
    }

    /// Milliseconds as a number.
    pub(super) fn milliseconds(
        &self,
        key: &str,
        default: Option<u64>,
    ) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = self.value(key).filter(|value| value.as_str() != Some("")) else {
            return Ok(default.map(Duration::from_millis));
        };
        let number = number_in(value).filter(|number| (0.0..=MOST_MILLISECONDS).contains(number));
        let number = number.ok_or_else(|| self.wrong(key, "a number of milliseconds, from 0 to 86400000"))?;
        // A zero as text leaves the default, too.
        let time = Some(Duration::from_secs_f64(number / 1e3)).filter(|time| !time.is_zero());
        Ok(time.or(default.map(Duration::from_millis)))
    }

    /// Milliseconds as a number, or a text with `s`, `m` or `h`.
    pub(super) fn uptime(&self, key: &str, default: u64) -> Result<Duration, ConfigError> {
        let Some(Value::String(text)) = self.value(key).filter(|value| value.as_str() != Some("")) else {
            return Ok(self.milliseconds(key, Some(default))?.unwrap_or_default());
        };
        let (digits, factor) = match text.chars().last() {
            Some('h') => (&text[..text.len() - 1], 3_600_000),
            Some('m') => (&text[..text.len() - 1], 60_000),
            Some('s') => (&text[..text.len() - 1], 1000),
            _ => (text.as_str(), 1),
        };
        let milliseconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        milliseconds
            .filter(|number| *number as f64 <= MOST_MILLISECONDS)
            .map(Duration::from_millis)
            .ok_or_else(|| {
                self.wrong(key, "a number of milliseconds, or for example \"10s\", \"2m\" or \"1h\"")
            })
    }

    /// A number of times.
    pub(super) fn count(&self, key: &str, default: u32) -> Result<u32, ConfigError> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::String(text)) if text.is_empty() => Ok(default),
            Some(value) => number_in(value)
                .filter(|number| number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number))
                .map(|number| number as u32)
                .ok_or_else(|| self.wrong(key, "a whole number that is not negative")),
        }
    }

    /// A number of bytes, or a text with `K`, `M` or `G`.
    pub(super) fn bytes(&self, key: &str) -> Result<Option<Bytes>, ConfigError> {
        let Some(value) = self.value(key).filter(|value| value.as_str() != Some("")) else { return Ok(None) };
        bytes_in(value)
            .map(Some)
            .ok_or_else(|| self.wrong(key, "a number of bytes, or for example \"512K\", \"300M\" or \"1G\""))
    }

    /// Exit codes: one, or a list of them.
    pub(super) fn exit_codes(&self, key: &str) -> Result<Vec<i32>, ConfigError> {
        let code = |value: &Value| {
            number_in(value)
                .filter(|number| number.fract() == 0.0 && (0.0..=255.0).contains(number))
                .map(|number| number as i32)
                .ok_or_else(|| self.wrong(key, "an exit code from 0 to 255, or a list of them"))
        };
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(code).collect(),
            Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
            Some(value) => Ok(vec![code(value)?]),
        }
    }

    /// A list of texts, or one.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let wrong = || self.wrong(key, "a string, or a list of strings");
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(list)) => {
                list.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    /// `instances` as declared: 0 for "max".
    pub(super) fn instances(&self) -> Result<Option<i64>, ConfigError> {
        let count = match self.value("instances") {
            // A zero of its own means all CPUs, as "max" does.
            None => return Ok(self.block.keys.get("instances").and_then(Value::as_i64)),
            Some(Value::String(text)) if text == "max" => Some(0),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(value) => value.as_i64(),
        };
        count.map(Some).ok_or_else(|| self.wrong("instances", "a whole number or \"max\""))
    }

    /// `exec_mode`, as far as it is declared.
    pub(super) fn declared_mode(&self) -> Result<Option<ExecMode>, ConfigError> {
        match self.text("exec_mode")? {
            _ if self.flag("execute_command", false)? => Ok(Some(ExecMode::Fork)),
            Some("fork" | "fork_mode") => Ok(Some(ExecMode::Fork)),
            Some("cluster" | "cluster_mode") => Ok(Some(ExecMode::Cluster)),
            Some(_) => Err(self.wrong("exec_mode", "\"fork\" or \"cluster\"")),
            None => Ok(None),
        }
    }

    /// A block of environment variables.
    pub(super) fn variables(&self, key: &str) -> Result<BTreeMap<String, String>, ConfigError> {
        self.variables_in(self.value(key), key)
    }

    /// A block of environment variables that stands elsewhere; `key` is its name for messages.
    pub(super) fn variables_in(
        &self,
        value: Option<&Value>,
        key: &str,
    ) -> Result<BTreeMap<String, String>, ConfigError> {
        let wrong = || self.wrong(key, "an object of variables and their values");
        let Some(value) = value else { return Ok(BTreeMap::new()) };
        let block = value.as_object().ok_or_else(wrong)?;
        block
            .iter()
            .map(|(name, value)| {
                let text = variable_text(value);
                let is_usable = is_variable(name) && !text.contains('\0');
                is_usable.then(|| (name.clone(), text)).ok_or_else(wrong)
            })
            .collect()
    }
}

/// Splits a text into words as a shell would, without any expansion. `None` when a quotation is left open.
fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().push(chars.next()?),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// A number of bytes, or a text of digits and `K`, `M` or `G`, which are powers of 1024.
pub(super) fn bytes_in(value: &Value) -> Option<Bytes> {
    let whole = |number: f64| (0.0..9e15).contains(&number).then_some(Bytes(number as u64));
    if let Some(number) = number_in(value) {
        return whole(number);
    }
    let text = value.as_str()?;
    let is_pm2 = text.strip_suffix(['K', 'M', 'G'])?.bytes().all(|byte| byte.is_ascii_digit());
    Bytes::parse(text).filter(|_| is_pm2)
}

/// A number, or a text that is one: PM2 takes both.
pub(super) fn number_in(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_in_a_shell() {
        assert_eq!(split(r#" a  "b c" d'e f'g \"h "" "#).unwrap(), ["a", "b c", "de fg", "\"h", ""]);
        assert_eq!(split("").unwrap(), Vec::<String>::new());
        assert_eq!(split("it's"), None);
        assert_eq!(split("end\\"), None);
    }
}
