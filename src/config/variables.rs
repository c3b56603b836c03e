//! `[[service.variable]]`: where the values of `{{name}}` in requests come from.

use std::{collections::BTreeMap, path::Path};

use csv::{ErrorKind, Position, Reader, ReaderBuilder, StringRecord, Trim};
use serde_json::{Value, json};

use super::{
    digest::sha256,
    document::{Field, Section},
    error::{ConfigError, listed},
    source::read_bytes,
    spelling::nearest,
};
use crate::model::request::{RowOrder, VariableSource, Variables, is_variable_name, placeholders};

/// Keys of `[[service.variable]]`.
pub(super) const VARIABLE_KEYS: [&str; 6] = ["name", "csv", "order", "seed", "sequence", "random"];
const SEQUENCE_KEYS: [&str; 3] = ["from", "to", "step"];
const RANDOM_KEYS: [&str; 3] = ["from", "to", "seed"];
const LARGEST_CSV_BYTES: u64 = 64 << 20;
/// Short values take more memory than they have bytes, so that these are bounded, too.
const MOST_CSV_VALUES: usize = 5_000_000;
/// TOML has no larger number.
const HIGHEST_SEED: u64 = i64::MAX as u64;
const EXAMPLES: &str =
    "`csv = \"users.csv\"`, `sequence = { from = 1, to = 1000 }` or `random = { from = 1, to = 6 }`";
const NAME_HINT: &str = "it begins with a letter or `_` and has letters, digits, `_` and `-`";

/// The variables that requests may refer to.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// For the model.
    pub(super) variables: Variables,
    /// Each name, and where the first of its values is that a header cannot have.
    names: BTreeMap<String, Option<String>>,
    block: &'static str,
}

/// Reads the blocks of variables, which begin with `block`, if there are any. CSV files and their digests are put
/// into `files`.
pub(super) fn read(
    field: Option<&Field<'_, '_>>,
    block: &'static str,
    files: &mut Vec<(String, String)>,
) -> Result<Declared, ConfigError> {
    let mut declared = Declared { block, ..Declared::default() };
    let Some(field) = field else { return Ok(declared) };
    for section in field.sections(&VARIABLE_KEYS)? {
        let sources = ["csv", "sequence", "random"].map(|key| section.field(key));
        if let [Some(_), Some(second), _] | [_, Some(_), Some(second)] | [Some(_), None, Some(second)] =
            &sources
        {
            return Err(second
                .key_error("a variable has one source of values")
                .help(format!("give the other one a `{block}` of its own")));
        }
        match &sources {
            [Some(csv), ..] => rows(&section, csv, &mut declared, files)?,
            [_, Some(field), _] => declared.add_number(&section, field, sequence)?,
            [.., Some(field)] => declared.add_number(&section, field, random)?,
            _ => {
                return Err(section
                    .error("the variable does not say where its values come from")
                    .help(format!("add {EXAMPLES}")));
            }
        }
    }
    Ok(declared)
}

impl Declared {
    /// What the block of another one begins with.
    pub(super) fn block(&self) -> &'static str {
        self.block
    }

    /// Whether there are none, so that braces are nothing but braces.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Checks that what this text refers to is declared; `part` is what the text is. The error is a message and a
    /// hint, for the text itself may be hidden.
    pub(super) fn check(&self, part: &str, text: &[u8]) -> Result<(), (String, String)> {
        let names = || self.names.keys().map(String::as_str);
        let mut found = placeholders(text).filter(|_| !self.is_empty());
        let Some((_, name)) = found.find(|(_, name)| !self.names.contains_key(*name)) else {
            return Ok(());
        };
        let hint = match nearest(name, names()) {
            Some(meant) => format!("did you mean {{{{{meant}}}}}?"),
            None => format!("declared here: {}", listed(names())),
        };
        Err((format!("{part} refers to a variable `{name}`, which is not declared"), hint))
    }

    /// Checks that a header can have every value that this text may come to.
    pub(super) fn check_header(&self, text: &str) -> Result<(), (String, String)> {
        for (_, name) in placeholders(text.as_bytes()) {
            if let Some(Some(place)) = self.names.get(name) {
                return Err((
                    format!("variable `{name}` has a value that headers cannot have, in {place}"),
                    "a header's value has no line breaks or control characters".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// A text without its variables.
    pub(super) fn around(&self, text: &str) -> String {
        let mut around = String::new();
        let mut rest = 0;
        for (place, _) in placeholders(text.as_bytes()).filter(|_| !self.is_empty()) {
            around.push_str(&text[rest..place.start]);
            rest = place.end;
        }
        around + &text[rest..]
    }

    fn add_number(
        &mut self,
        section: &Section<'_, '_>,
        field: &Field<'_, '_>,
        read: impl FnOnce(&Field<'_, '_>, String) -> Result<VariableSource, ConfigError>,
    ) -> Result<(), ConfigError> {
        for key in ["order", "seed"] {
            if let Some(field) = section.field(key) {
                let hint = match key {
                    "seed" => "write it inside the braces of `random`",
                    _ => "only the rows of a CSV file have an order",
                };
                return Err(field.key_error(format!("`{key}` has no meaning without `csv`")).help(hint));
            }
        }
        let name_field = section.required("name", "name = \"id\"")?;
        let name = name_field.text()?;
        if !is_variable_name(name) {
            return Err(name_field.error("this is not a name that a variable can have").help(NAME_HINT));
        }
        self.add_name(&name_field, name, None)?;
        self.variables.sources.push(read(field, name.to_owned())?);
        Ok(())
    }

    fn add_name(
        &mut self,
        field: &Field<'_, '_>,
        name: &str,
        unfit: Option<String>,
    ) -> Result<(), ConfigError> {
        if self.names.insert(name.to_owned(), unfit).is_some() {
            return Err(field.error(format!("two variables are named `{name}`")).help("rename one of them"));
        }
        Ok(())
    }
}

fn sequence(field: &Field<'_, '_>, name: String) -> Result<VariableSource, ConfigError> {
    let section = field.section(&SEQUENCE_KEYS)?;
    let from = section.required("from", "from = 1")?.signed()?;
    let to = section.required("to", "to = 1000")?.signed()?;
    let usual = if to < from { -1 } else { 1 };
    let step = section.optional("step", |field| {
        let step = field.signed()?;
        if step == 0 {
            return Err(field.error("`step` must not be 0").help("leave it out to take every number"));
        }
        if from != to && (step < 0) != (to < from) {
            return Err(field.error("`step` leads away from `to`").help("change its sign"));
        }
        Ok(step)
    })?;
    Ok(VariableSource::Sequence { name, from, to, step: step.unwrap_or(usual) })
}

fn random(field: &Field<'_, '_>, name: String) -> Result<VariableSource, ConfigError> {
    let section = field.section(&RANDOM_KEYS)?;
    let from = section.required("from", "from = 1")?.signed()?;
    let to_field = section.required("to", "to = 6")?;
    let to = to_field.signed()?;
    if from > to {
        return Err(to_field.error("`to` must not be below `from`").help("swap the two"));
    }
    let seed = section.optional("seed", seed)?.unwrap_or_default();
    Ok(VariableSource::Random { name, from, to, seed })
}

fn seed(field: &Field<'_, '_>) -> Result<u64, ConfigError> {
    field.integer(0, HIGHEST_SEED)
}

/// The columns of a CSV file.
fn rows(
    section: &Section<'_, '_>,
    field: &Field<'_, '_>,
    declared: &mut Declared,
    files: &mut Vec<(String, String)>,
) -> Result<(), ConfigError> {
    if let Some(name) = section.field("name") {
        return Err(name
            .key_error("variables of a CSV file are named in the file")
            .help("leave `name` out: the file's first line names its columns"));
    }
    let is_random = section
        .optional("order", |field| field.choice(&[("in-turn", false), ("random", true)]))?
        .unwrap_or(false);
    let seed_field = section.field("seed");
    let order = match seed_field.as_ref().map(|field| Ok((field, seed(field)?))).transpose()? {
        None if is_random => RowOrder::Random { seed: 0 },
        Some((_, seed)) if is_random => RowOrder::Random { seed },
        None => RowOrder::InTurn,
        Some((field, _)) => {
            return Err(field
                .key_error("`seed` has no meaning when rows are taken in turn")
                .help("add `order = \"random\"`, or leave `seed` out"));
        }
    };
    let name = field.text()?;
    let path = field.document().folder().join(name);
    let bytes = read_bytes(&path, LARGEST_CSV_BYTES).map_err(|error| {
        field.error(error.message()).help("it is looked for relative to the folder of this file")
    })?;
    files.push((name.to_owned(), sha256(&bytes)));
    let table = table(&bytes, &path).map_err(|(message, hint)| field.error(message).help(hint))?;
    for (name, unfit) in table.names.iter().zip(table.first_unfit_line) {
        let place = unfit.map(|line| format!("{} line {line}", path.display()));
        declared.add_name(field, name, place)?;
    }
    let source = VariableSource::Rows { names: table.names, rows: table.rows, order };
    declared.variables.sources.push(source);
    Ok(())
}

/// What is in a CSV file.
struct Table {
    names: Vec<String>,
    rows: Vec<Vec<String>>,
    /// For each name, the first line with a value that a header cannot have.
    first_unfit_line: Vec<Option<u64>>,
}

/// An error is a message, which repeats no value, and a hint.
fn table(bytes: &[u8], path: &Path) -> Result<Table, (String, &'static str)> {
    let shown = path.display();
    let mut reader = ReaderBuilder::new().trim(Trim::Headers).from_reader(bytes);
    let names = names(&mut reader, path)?;
    let mut table = Table { first_unfit_line: vec![None; names.len()], names, rows: Vec::new() };
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| csv_error(&error, bytes, path))? {
        let line = line(record.position(), bytes);
        if (table.rows.len() + 1) * table.names.len() > MOST_CSV_VALUES {
            return Err((
                format!("{shown} has more than {MOST_CSV_VALUES} values"),
                "leave out the columns that no request refers to, or use fewer rows",
            ));
        }
        for (value, unfit) in record.iter().zip(&mut table.first_unfit_line) {
            if unfit.is_none() && value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
                *unfit = Some(line);
            }
        }
        table.rows.push(record.iter().map(str::to_owned).collect());
    }
    if table.rows.is_empty() {
        return Err((
            format!("{shown} has no rows"),
            "its first line names the columns, every other one is a row of values",
        ));
    }
    Ok(table)
}

fn names(reader: &mut Reader<&[u8]>, path: &Path) -> Result<Vec<String>, (String, &'static str)> {
    let bytes = *reader.get_ref();
    let header = reader.headers().map_err(|error| csv_error(&error, bytes, path))?;
    if header.is_empty() {
        return Err((format!("{} is empty", path.display()), "its first line names the columns"));
    }
    if let Some(at) = header.iter().position(|name| !is_variable_name(name)) {
        // Not repeated: without a line of names, it is a value.
        return Err((
            format!(
                "column {} of {} has no name that a variable can have, in line 1",
                at + 1,
                path.display()
            ),
            "the first line names the columns, separated by commas: letters, digits, `_` and `-`, no digit first",
        ));
    }
    Ok(header.iter().map(str::to_owned).collect())
}

fn csv_error(error: &csv::Error, bytes: &[u8], path: &Path) -> (String, &'static str) {
    let at = format!("{} line {}", path.display(), line(error.position(), bytes));
    match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => (
            format!("{at} has not as many values as the first line has names: {len}, not {expected_len}"),
            "put a value with commas or line breaks in double quotes, and double those within it",
        ),
        ErrorKind::Utf8 { .. } => (format!("{at} is not UTF-8 text"), "save it as UTF-8"),
        _ => (format!("{at} is not CSV"), "values are separated by commas, rows by line breaks"),
    }
}

/// The line on which a record begins, from 1; the reader takes the empty ones before it for part of it.
fn line(position: Option<&Position>, bytes: &[u8]) -> u64 {
    position.map_or(1, |position| {
        let before =
            bytes.iter().skip(position.byte() as usize).take_while(|byte| matches!(byte, b'\r' | b'\n'));
        position.line() + before.filter(|byte| **byte == b'\n').count() as u64
    })
}

/// What goes into the digest of the requests; `None` without variables, so that digests stored before there were any
/// hold.
pub(super) fn digested(variables: &Variables) -> Option<Value> {
    let source = |source: &VariableSource| match source {
        VariableSource::Rows { names, rows, order } => {
            let order = match order {
                RowOrder::InTurn => Value::Null,
                RowOrder::Random { seed } => json!(seed),
            };
            json!(["rows", names, rows_digest(rows), order])
        }
        VariableSource::Sequence { name, from, to, step } => json!(["sequence", name, from, to, step]),
        VariableSource::Random { name, from, to, seed } => json!(["random", name, from, to, seed]),
    };
    let sources: Vec<Value> = variables.sources.iter().map(source).collect();
    (!sources.is_empty()).then(|| Value::from(sources))
}

/// Where one value ends and the next begins matters, so that each has its length before it.
fn rows_digest(rows: &[Vec<String>]) -> String {
    let mut all = Vec::new();
    for value in rows.iter().flatten() {
        all.extend_from_slice(&(value.len() as u64).to_le_bytes());
        all.extend_from_slice(value.as_bytes());
    }
    sha256(&all)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{config::requests_file, model::request::Request};

    /// Reads a file of variables whose one request has a header that refers to `id`.
    fn read(text: &str, csv: &[u8]) -> Result<(Vec<Request>, Variables), ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.toml");
        fs::write(folder.path().join("users.csv"), csv).unwrap();
        fs::write(
            &path,
            format!("{text}\n[[request]]\npath = \"/\"\nheaders = {{ x-id = \"{{{{id}}}}\" }}\n"),
        )
        .unwrap();
        requests_file(&path)
    }

    fn sources(text: &str, csv: &[u8]) -> Vec<VariableSource> {
        read(text, csv).unwrap().1.sources
    }

    fn message(text: &str, csv: &[u8]) -> String {
        let error = read(text, csv).unwrap_err();
        let (file, shown) = (error.file().unwrap(), error.to_string());
        assert!(error.position().is_some(), "{error}");
        assert!(!shown.contains("hunter2"), "{error}");
        error.message().replace(&format!("{}/", file.parent().unwrap().display()), "")
    }

    const CSV: &str = "[[variable]]\ncsv = \"users.csv\"\n";

    #[test]
    fn columns_are_variables() {
        let table = "\u{feff}id, name\r\n1,\"a, \"\"b\"\"\nc\"\n\n 2 ,\n";
        let owned = |texts: [&str; 2]| texts.map(str::to_owned).to_vec();
        let expected = |order| VariableSource::Rows {
            names: owned(["id", "name"]),
            rows: vec![owned(["1", "a, \"b\"\nc"]), owned([" 2 ", ""])],
            order,
        };
        assert_eq!(sources(CSV, table.as_bytes()), [expected(RowOrder::InTurn)]);
        let random = format!("{CSV}order = \"random\"\n");
        assert_eq!(sources(&random, table.as_bytes()), [expected(RowOrder::Random { seed: 0 })]);
        let seeded = format!("{random}seed = 7\n");
        assert_eq!(sources(&seeded, table.as_bytes()), [expected(RowOrder::Random { seed: 7 })]);
    }

    #[test]
    fn numbers_are_variables() {
        let text = "[[variable]]\nname = \"id\"\nsequence = { from = 5, to = -5 }\n\
                    [[variable]]\nname = \"n\"\nsequence = { from = 0, to = 9, step = 3 }\n\
                    [[variable]]\nname = \"dice\"\nrandom = { from = 1, to = 6, seed = 3 }\n";
        let name = str::to_owned;
        assert_eq!(
            sources(text, b""),
            [
                VariableSource::Sequence { name: name("id"), from: 5, to: -5, step: -1 },
                VariableSource::Sequence { name: name("n"), from: 0, to: 9, step: 3 },
                VariableSource::Random { name: name("dice"), from: 1, to: 6, seed: 3 },
            ]
        );
    }

    #[test]
    fn mistakes_in_csv_files_are_named_by_line_and_without_values() {
        for (csv, expected) in [
            (&b""[..], "users.csv is empty"),
            (b"id,name\n", "users.csv has no rows"),
            (
                b"id,name\n1,a\n2,hunter2,c\n",
                "users.csv line 3 has not as many values as the first line has names: 3, not 2",
            ),
            (
                b"id,name\n1,\"a\nb\"\nhunter2\n",
                "users.csv line 4 has not as many values as the first line has names: 1, not 2",
            ),
            (b"id\nhunter2\xff\n", "users.csv line 2 is not UTF-8 text"),
            (b"id\xff\n1\n", "users.csv line 1 is not UTF-8 text"),
            (b"id,hunter2!\n1,2\n", "column 2 of users.csv has no name that a variable can have, in line 1"),
            (b"id;name\n1;2\n", "column 1 of users.csv has no name that a variable can have, in line 1"),
            (b"id,id\n1,2\n", "two variables are named `id`"),
            (b"name\nhunter2\n", "header `x-id` refers to a variable `id`, which is not declared"),
            (
                b"name,id\nx,1\n\"\n\",2\n\nx,\"hunter2\n\"\n",
                "variable `id` has a value that headers cannot have, in users.csv line 6",
            ),
        ] {
            assert_eq!(message(CSV, csv), expected);
        }
        let huge = b"1,2\n".repeat(MOST_CSV_VALUES / 2 + 1);
        let csv = [&b"id,name\n"[..], &huge].concat();
        assert_eq!(message(CSV, &csv), "users.csv has more than 5000000 values");
    }

    #[test]
    fn each_mistake_has_its_message() {
        let id = "[[variable]]\nname = \"id\"\n";
        for (text, expected) in [
            ("[[variable]]\n", "the variable does not say where its values come from"),
            ("[[variable]]\ncsv = \"none.csv\"\n", "none.csv does not exist"),
            (&format!("{CSV}sequence = {{ from = 1, to = 2 }}\n"), "a variable has one source of values"),
            (&format!("{CSV}random = {{ from = 1, to = 2 }}\n"), "a variable has one source of values"),
            (&format!("{CSV}name = \"x\"\n"), "variables of a CSV file are named in the file"),
            (&format!("{CSV}seed = 1\n"), "`seed` has no meaning when rows are taken in turn"),
            (&format!("{CSV}order = \"randm\"\n"), "`order` cannot be `randm`"),
            (
                &format!("{CSV}order = \"random\"\nseed = -1\n"),
                "`seed` must be from 0 to 9223372036854775807",
            ),
            ("[[variable]]\nsequence = { from = 1, to = 2 }\n", "`name` is missing"),
            (&id.replace("id", "1d"), "the variable does not say where its values come from"),
            (
                &format!("{}random = {{}}\n", id.replace("id", "1d")),
                "this is not a name that a variable can have",
            ),
            (&format!("{id}sequence = {{ from = 1 }}\n"), "`to` is missing"),
            (&format!("{id}sequence = {{ from = 1, to = 2, by = 1 }}\n"), "unknown key `by`"),
            (
                &format!("{id}sequence = {{ from = 1.5, to = 2 }}\n"),
                "`from` must be a whole number, not a float",
            ),
            (&format!("{id}sequence = {{ from = 1, to = 2, step = 0 }}\n"), "`step` must not be 0"),
            (&format!("{id}sequence = {{ from = 1, to = 2, step = -1 }}\n"), "`step` leads away from `to`"),
            (&format!("{id}random = {{ from = 2, to = 1 }}\n"), "`to` must not be below `from`"),
            (
                &format!("{id}random = {{ from = 2, to = 3 }}\nseed = 1\n"),
                "`seed` has no meaning without `csv`",
            ),
            (&format!("{id}random = {{ from = 2, to = 3 }}\n").repeat(2), "two variables are named `id`"),
        ] {
            assert_eq!(message(text, b"id\n1\n"), expected, "{text}");
        }
    }
}
