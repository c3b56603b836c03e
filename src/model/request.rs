//! What the load sends: requests, the variables in them, and what their answers must hold.

use std::ops::{Range, RangeInclusive};

use serde_json::Value;

/// One kind of request of the load. With [`Variables`], `{{name}}` in its path, header values and body stands for
/// a variable's value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The method, upper case.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Header names and values. Values never reach a record.
    pub headers: Vec<(String, String)>,
    /// The body, read from the body file.
    pub body: Vec<u8>,
    /// Its share of the load relative to the others, at least 1.
    pub weight: u32,
    /// What its answer must hold.
    pub checks: Checks,
}

impl Request {
    /// A GET of a path, without headers or checks of its own.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET".to_owned(), path: path.into(), weight: 1, ..Self::default() }
    }
}

/// What an answer must hold to be a success.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checks {
    /// Statuses that are successes; when empty, 200 to 299.
    pub status: Vec<RangeInclusive<u16>>,
    /// Every one of them must hold.
    pub headers: Vec<HeaderCheck>,
    /// Every one of them must hold.
    pub body: Vec<BodyCheck>,
}

/// A condition on a header of an answer; where it occurs several times, one occurrence must satisfy it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderCheck {
    /// The header's name, any case.
    pub name: String,
    /// What its value must be; `None` when being there is enough.
    pub value: Option<TextCheck>,
}

/// A condition on a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextCheck {
    /// The same text.
    Equals(String),
    /// A regular expression that matches somewhere in it.
    Matches(String),
}

/// A condition on the body of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum BodyCheck {
    /// A regular expression that matches somewhere in it.
    Matches(String),
    /// The body is JSON and has a value at this pointer (RFC 6901).
    Json {
        /// For example `/items/0/id`; empty for the whole document.
        pointer: String,
        /// The value that must be there; `None` when any will do.
        equals: Option<Value>,
    },
}

/// Variables that requests refer to. The n-th request of a load always gets the same values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    /// Where their values come from.
    pub sources: Vec<VariableSource>,
}

/// Where the values of one variable, or of a row of them, come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VariableSource {
    /// Rows of a CSV file: the columns of a request come from one row.
    Rows {
        /// The columns' names.
        names: Vec<String>,
        /// At least one row, each as long as `names`.
        rows: Vec<Vec<String>>,
        /// In which order rows are taken.
        order: RowOrder,
    },
    /// `from`, `from + step`, … up to `to`, and again from the beginning.
    Sequence {
        /// The variable's name.
        name: String,
        /// The first value.
        from: i64,
        /// No value is beyond this.
        to: i64,
        /// Not 0; towards `to`.
        step: i64,
    },
    /// Whole numbers from `from` to `to`, both included, each as likely.
    Random {
        /// The variable's name.
        name: String,
        /// The least.
        from: i64,
        /// The greatest.
        to: i64,
        /// The same seed gives the same values.
        seed: u64,
    },
}

/// In which order rows are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// One after the other, and again from the first.
    InTurn,
    /// Each as likely, by a seed.
    Random {
        /// The same seed gives the same rows.
        seed: u64,
    },
}

/// Whether a variable may be called so: a letter or `_`, then letters, digits, `_` and `-`, 256 at most.
pub fn is_variable_name(name: &str) -> bool {
    name.len() <= 256
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// Each `{{name}}` of a text; spaces around the name do not matter, and what is no name is only text.
pub fn placeholders(text: &[u8]) -> impl Iterator<Item = (Range<usize>, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let start = from + text.get(from..)?.windows(2).position(|window| window == b"{{")?;
            let inside = &text[start + 2..];
            // The next brace of either kind: a name has none.
            let length = inside.iter().position(|byte| matches!(byte, b'{' | b'}'))?;
            let name = std::str::from_utf8(&inside[..length]).map(str::trim);
            if let (Ok(name), true) = (name, inside[length..].starts_with(b"}}"))
                && is_variable_name(name)
            {
                from = start + 2 + length + 2;
                return Some((start..from, name));
            }
            from = start + 1;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_double_braces_stands_for_a_variable() {
        for (text, expected) in [
            ("", &[][..]),
            ("{{a}}{{ b-1 }}", &["a", "b-1"]),
            ("{{{a}}} {{{{b}}}}", &["a", "b"]),
            ("{\"a\":{\"b\":{{c}}}}", &["c"]),
            ("{{}} {{1}} {{a b}} {{a} {{a}{{", &[]),
            ("é{{é}}{{a}}é", &["a"]),
        ] {
            let found: Vec<&str> = placeholders(text.as_bytes()).map(|(_, name)| name).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_variable_has_a_plain_name() {
        for (name, is_one) in [("_a-1", true), ("", false), ("-a", false), ("é", false), ("a b", false)] {
            assert_eq!(is_variable_name(name), is_one, "{name}");
        }
    }
}
