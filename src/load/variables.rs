//! Variables and the texts they stand in. A value is a pure function of the request's number, so that every run and
//! every retry sends the same.
//!
//! Deliberately absent: state. Any thread may ask for any request's values, in any order.

use std::{borrow::Cow, collections::BTreeMap, io::Write as _};

use crate::model::{
    random::SplitMix,
    request::{RowOrder, VariableSource, Variables, is_variable_name, placeholders},
};

/// Variables, checked and laid out so that a value is found without a search.
#[derive(Debug, Default)]
pub(super) struct CompiledVariables {
    by_name: BTreeMap<String, usize>,
    variables: Vec<Variable>,
    tables: Vec<Table>,
}

/// Where a variable's values come from.
#[derive(Debug)]
enum Variable {
    Column { table: usize, column: usize, first_unfit_row: Option<usize> },
    Sequence { from: i64, step: i64, count: Count },
    Random { from: i64, count: Count, stream: u64 },
}

/// Rows of values, one after the other in one text: a row is one piece of memory.
#[derive(Debug)]
struct Table {
    text: Vec<u8>,
    /// Where each value ends in `text`, row by row.
    ends: Vec<usize>,
    width: usize,
    count: Count,
    /// The random stream that rows are drawn from; `None` when they are taken in turn.
    stream: Option<u64>,
}

/// How many there are to choose from: at least 1, and 2⁶⁴ is `None`.
#[derive(Clone, Copy, Debug)]
struct Count(Option<u64>);

impl CompiledVariables {
    /// Checks the variables and lays them out. Errors name variables and rows, never a value.
    pub(super) fn new(variables: &Variables) -> Result<Self, String> {
        let mut compiled = Self::default();
        for source in &variables.sources {
            match source {
                VariableSource::Rows { names, rows, order } => compiled.add_rows(names, rows, *order)?,
                VariableSource::Sequence { name, from, to, step } => {
                    let is_towards = (to >= from && *step > 0) || (to <= from && *step < 0);
                    if !is_towards {
                        return Err(format!(
                            "the step of variable {} is 0 or leads away from its end",
                            shown(name)
                        ));
                    }
                    // Of the same sign, so that their quotient is the number of steps; i128 holds every difference.
                    let steps = (i128::from(*to) - i128::from(*from)) / i128::from(*step);
                    compiled.add(
                        name,
                        Variable::Sequence { from: *from, step: *step, count: Count::after(steps) },
                    )?;
                }
                VariableSource::Random { name, from, to, seed } => {
                    if from > to {
                        return Err(format!(
                            "the least value of variable {} is above its greatest",
                            shown(name)
                        ));
                    }
                    let count = Count::after(i128::from(*to) - i128::from(*from));
                    let stream = stream(*seed, [name.as_str()]);
                    compiled.add(name, Variable::Random { from: *from, count, stream })?;
                }
            }
        }
        Ok(compiled)
    }

    fn add_rows(&mut self, names: &[String], rows: &[Vec<String>], order: RowOrder) -> Result<(), String> {
        let of = || names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ");
        if names.is_empty() {
            return Err("rows of variables have no columns".to_owned());
        }
        if rows.is_empty() {
            return Err(format!("variables {} have no rows", of()));
        }
        if let Some(at) = rows.iter().position(|row| row.len() != names.len()) {
            return Err(format!("row {} of variables {} has not one value for each", at + 1, of()));
        }
        for (column, name) in names.iter().enumerate() {
            let first_unfit_row = rows.iter().position(|row| !is_header_text(row[column].as_bytes()));
            self.add(name, Variable::Column { table: self.tables.len(), column, first_unfit_row })?;
        }
        let mut table = Table {
            text: Vec::new(),
            ends: Vec::with_capacity(rows.len() * names.len()),
            width: names.len(),
            count: Count(Some(rows.len() as u64)),
            stream: match order {
                RowOrder::InTurn => None,
                RowOrder::Random { seed } => Some(stream(seed, names.iter().map(String::as_str))),
            },
        };
        for value in rows.iter().flatten() {
            table.text.extend_from_slice(value.as_bytes());
            table.ends.push(table.text.len());
        }
        self.tables.push(table);
        Ok(())
    }

    fn add(&mut self, name: &str, variable: Variable) -> Result<(), String> {
        if !is_variable_name(name) {
            return Err(format!(
                "{} is not a variable's name: a letter or `_`, then letters, digits, `_` and `-`",
                shown(name)
            ));
        }
        if self.by_name.insert(name.to_owned(), self.variables.len()).is_some() {
            return Err(format!("variable {} is declared twice", shown(name)));
        }
        self.variables.push(variable);
        Ok(())
    }

    /// Whether none are declared, so that `{{name}}` is nothing but text.
    pub(super) fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// The number by which the other functions know this variable.
    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The names declared, in alphabetical order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The first row, from 1, whose value a header cannot have.
    pub(super) fn first_row_unfit_for_a_header(&self, variable: usize) -> Option<usize> {
        match self.variables[variable] {
            Variable::Column { first_unfit_row, .. } => first_unfit_row.map(|row| row + 1),
            Variable::Sequence { .. } | Variable::Random { .. } => None,
        }
    }

    /// Appends the variable's value in the load's `arrival`-th request. `variable` is from [`Self::index_of`].
    pub(super) fn write(&self, variable: usize, arrival: u64, out: &mut Vec<u8>) {
        match self.value(variable, arrival) {
            Value::Text(text) => out.extend_from_slice(text),
            Value::Number(number) => {
                // Writing into memory cannot fail.
                let _ = write!(out, "{number}");
            }
        }
    }

    /// How many bytes [`Self::write`] appends.
    pub(super) fn length(&self, variable: usize, arrival: u64) -> usize {
        match self.value(variable, arrival) {
            Value::Text(text) => text.len(),
            Value::Number(number) => {
                let digits = number.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 1;
                digits + usize::from(number < 0)
            }
        }
    }

    fn value(&self, variable: usize, arrival: u64) -> Value<'_> {
        match self.variables[variable] {
            Variable::Column { table, column, .. } => Value::Text(self.tables[table].value(column, arrival)),
            Variable::Sequence { from, step, count } => {
                let index = count.in_turn(arrival);
                // The value itself fits, so that what is lost on the way there is lost twice.
                Value::Number(from.wrapping_add(index.cast_signed().wrapping_mul(step)))
            }
            Variable::Random { from, count, stream } => {
                Value::Number(from.wrapping_add(count.drawn(stream, arrival).cast_signed()))
            }
        }
    }
}

#[derive(Debug, PartialEq)]
enum Value<'v> {
    Text(&'v [u8]),
    Number(i64),
}

impl Table {
    fn value(&self, column: usize, arrival: u64) -> &[u8] {
        let row = match self.stream {
            None => self.count.in_turn(arrival),
            Some(stream) => self.count.drawn(stream, arrival),
        };
        let at = row as usize * self.width + column;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[at]]
    }
}

impl Count {
    /// One more than the steps, which are from 0 to 2⁶⁴ − 1.
    fn after(steps: i128) -> Self {
        Self(u64::try_from(steps + 1).ok())
    }

    fn in_turn(self, arrival: u64) -> u64 {
        self.0.map_or(arrival, |count| arrival % count)
    }

    /// Each index as likely: what would favour some of them is drawn again (Lemire, "Fast random integer generation
    /// in an interval", 2019).
    fn drawn(self, stream: u64, arrival: u64) -> u64 {
        // A generator for each arrival: a second draw is then not the first one of the next arrival.
        let mut random = SplitMix::new(SplitMix::new(stream.wrapping_add(arrival)).next_u64());
        let Some(count) = self.0 else { return random.next_u64() };
        loop {
            let product = u128::from(random.next_u64()) * u128::from(count);
            // Below `count` the exact bound must be known, which takes a division: most often it need not.
            let low = product as u64;
            if low >= count || low >= count.wrapping_neg() % count {
                return (product >> 64) as u64;
            }
        }
    }
}

/// The start of a random stream. The names are part of it: two variables of one seed are independent of each other.
fn stream<'n>(seed: u64, names: impl IntoIterator<Item = &'n str>) -> u64 {
    // A byte that no name has ends each.
    let bytes = names.into_iter().flat_map(|name| name.bytes().chain([0]));
    bytes
        .fold(SplitMix::new(seed).next_u64(), |state, byte| SplitMix::new(state ^ u64::from(byte)).next_u64())
}

/// What a header's value may hold (RFC 9110, section 5.5): no control characters but tabs.
pub(super) fn is_header_text(text: &[u8]) -> bool {
    text.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control())
}

/// A name for a message: one that is wrong may hold anything.
fn shown(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Text with variables in it.
#[derive(Debug, Default)]
pub(super) struct Text(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Literal(Vec<u8>),
    Variable { index: usize, encoding: Encoding },
}

/// How a value is put into the text around it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Encoding {
    /// As it is.
    Raw,
    /// It may be several segments, and bring a query of its own.
    Path,
    /// It stays one value of a query, also with `&` or `+` in it.
    QueryValue,
}

impl Text {
    /// Text without variables.
    pub(super) fn literal(literal: Vec<u8>) -> Self {
        Self(if literal.is_empty() { Vec::new() } else { vec![Piece::Literal(literal)] })
    }

    /// Finds the variables in a text; `part` is its name for the error.
    pub(super) fn of(text: &[u8], part: &str, variables: &CompiledVariables) -> Result<Self, String> {
        if variables.is_empty() {
            return Ok(Self::literal(text.to_vec()));
        }
        let mut pieces = Self::default();
        let mut rest = 0;
        for (place, name) in placeholders(text) {
            let index = variables.index_of(name).ok_or_else(|| {
                let declared: Vec<&str> = variables.names().collect();
                format!(
                    "variable {{{{{name}}}}} in {part} is not declared; declared: {}",
                    declared.join(", ")
                )
            })?;
            pieces.0.extend(Self::literal(text[rest..place.start].to_vec()).0);
            pieces.0.push(Piece::Variable { index, encoding: Encoding::Raw });
            rest = place.end;
        }
        pieces.0.extend(Self::literal(text[rest..].to_vec()).0);
        Ok(pieces)
    }

    /// Makes it a path in which no value can end the request line: a query's value keeps `&` to itself, any other may
    /// bring segments and a query of its own.
    pub(super) fn encode_as_path(&mut self) {
        let (mut in_query, mut last) = (false, b'/');
        for piece in &mut self.0 {
            match piece {
                Piece::Literal(literal) => {
                    in_query |= literal.contains(&b'?');
                    last = literal.iter().rfind(|byte| b"?&=".contains(byte)).copied().unwrap_or(last);
                }
                Piece::Variable { encoding, .. } => {
                    let is_value = in_query && last == b'=';
                    *encoding = if is_value { Encoding::QueryValue } else { Encoding::Path };
                }
            }
        }
    }

    /// Whether it is empty whatever the variables' values are.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether no variable occurs in it.
    pub(super) fn is_literal(&self) -> bool {
        self.as_literal().is_some()
    }

    /// What is in it other than variables.
    pub(super) fn literals(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(literal) => Some(literal.as_slice()),
            Piece::Variable { .. } => None,
        })
    }

    /// The whole of it if no variable occurs in it.
    pub(super) fn as_literal(&self) -> Option<&[u8]> {
        match self.0.as_slice() {
            [] => Some(b""),
            [Piece::Literal(literal)] => Some(literal),
            _ => None,
        }
    }

    /// Appends it as it is in the `arrival`-th request.
    pub(super) fn write(&self, variables: &CompiledVariables, arrival: u64, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => out.extend_from_slice(literal),
                Piece::Variable { index, encoding } => {
                    let start = out.len();
                    variables.write(*index, arrival, out);
                    encoding.apply(out, start);
                }
            }
        }
    }

    /// It as it is in the `arrival`-th request.
    pub(super) fn value(&self, variables: &CompiledVariables, arrival: u64) -> Cow<'_, [u8]> {
        self.as_literal().map_or_else(
            || {
                let mut out = Vec::new();
                self.write(variables, arrival, &mut out);
                Cow::Owned(out)
            },
            Cow::Borrowed,
        )
    }

    /// The bytes that [`Self::write`] appends, of a text in which every value is raw.
    pub(super) fn length(&self, variables: &CompiledVariables, arrival: u64) -> usize {
        let length = |piece: &Piece| match piece {
            Piece::Literal(literal) => literal.len(),
            Piece::Variable { index, .. } => variables.length(*index, arrival),
        };
        self.0.iter().map(length).sum()
    }
}

impl Encoding {
    /// Whether a byte stands for itself: RFC 3986, without what has a meaning that a value must not have.
    fn keeps(self, byte: u8) -> bool {
        match self {
            Self::Raw => true,
            Self::Path => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&byte),
            Self::QueryValue => byte.is_ascii_alphanumeric() || b"-._~!$'()*,:@/?".contains(&byte),
        }
    }

    /// Encodes what was written from `start` on.
    fn apply(self, out: &mut Vec<u8>, start: usize) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        if out[start..].iter().all(|byte| self.keeps(*byte)) {
            return;
        }
        for byte in out.split_off(start) {
            if self.keeps(byte) {
                out.push(byte);
            } else {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                out.extend_from_slice(&[b'%', DIGITS[high], DIGITS[low]]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_assume};

    use super::*;

    fn compiled(sources: Vec<VariableSource>) -> Result<CompiledVariables, String> {
        CompiledVariables::new(&Variables { sources })
    }

    fn rows(names: &[&str], rows: &[&[&str]], order: RowOrder) -> VariableSource {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        VariableSource::Rows { names: owned(names), rows: rows.iter().map(|row| owned(row)).collect(), order }
    }

    fn sequence(from: i64, to: i64, step: i64) -> VariableSource {
        VariableSource::Sequence { name: "x".to_owned(), from, to, step }
    }

    fn random(name: &str, from: i64, to: i64, seed: u64) -> VariableSource {
        VariableSource::Random { name: name.to_owned(), from, to, seed }
    }

    fn values(variables: &CompiledVariables, name: &str, count: u64) -> Vec<String> {
        let index = variables.index_of(name).unwrap();
        (0..count)
            .map(|arrival| {
                let mut out = Vec::new();
                variables.write(index, arrival, &mut out);
                String::from_utf8(out).unwrap()
            })
            .collect()
    }

    #[test]
    fn the_columns_of_a_request_are_from_one_row() {
        let table: &[&[&str]] = &[&["a", ""], &["b", "2"], &["", "3"]];
        let in_turn = compiled(vec![rows(&["user", "id"], table, RowOrder::InTurn)]).unwrap();
        assert_eq!(values(&in_turn, "user", 4), ["a", "b", "", "a"]);
        assert_eq!(values(&in_turn, "id", 4), ["", "2", "3", ""]);
        let drawn = compiled(vec![rows(&["user", "id"], table, RowOrder::Random { seed: 7 })]).unwrap();
        let pairs = values(&drawn, "user", 300).into_iter().zip(values(&drawn, "id", 300));
        assert!(pairs.clone().all(|(user, id)| table.contains(&&[user.as_str(), id.as_str()][..])));
        for row in table {
            let count = pairs.clone().filter(|(user, _)| user == row[0]).count();
            assert!((70..130).contains(&count), "each is as likely: {count}");
        }
    }

    #[test]
    fn sequences_begin_again() {
        let first = |source, count| values(&compiled(vec![source]).unwrap(), "x", count);
        assert_eq!(first(sequence(1, 3, 1), 5), ["1", "2", "3", "1", "2"]);
        assert_eq!(first(sequence(1, 6, 2), 4), ["1", "3", "5", "1"]);
        assert_eq!(first(sequence(1, -4, -3), 3), ["1", "-2", "1"]);
        assert_eq!(first(sequence(5, 5, -1), 2), ["5", "5"]);
        let (least, most) = (i64::MIN.to_string(), i64::MAX.to_string());
        assert_eq!(
            first(sequence(i64::MIN, i64::MAX, i64::MAX), 4),
            [&least, "-1", "9223372036854775806", &least]
        );
        assert_eq!(first(sequence(i64::MAX, i64::MIN, i64::MIN), 2), [&most, "-1"]);
    }

    #[test]
    fn seeds_and_names_determine_what_is_random() {
        let dice = |name: &str, seed| values(&compiled(vec![random(name, 1, 6, seed)]).unwrap(), name, 600);
        // Held for ever: a stored baseline sent these.
        assert_eq!(dice("n", 1)[..8], ["6", "1", "6", "1", "3", "4", "6", "1"]);
        assert_eq!(dice("n", 1), dice("n", 1));
        for other in [dice("n", 0), dice("n", 2), dice("m", 1)] {
            let same = other.iter().zip(dice("n", 1)).filter(|(a, b)| *a == b).count();
            assert!((60..140).contains(&same), "about a sixth agree by chance: {same}");
        }
        for face in 1..=6 {
            let count = dice("n", 1).iter().filter(|value| **value == face.to_string()).count();
            assert!((70..130).contains(&count), "{face}: {count}");
        }
    }

    #[test]
    fn mistakes_are_named_without_values() {
        let order = RowOrder::InTurn;
        for (sources, expected) in [
            (vec![rows(&[], &[&[]], order)], "rows of variables have no columns"),
            (vec![rows(&["a", "b"], &[], order)], "variables a, b have no rows"),
            (
                vec![rows(&["a", "b"], &[&["secret", "1"], &["secret"]], order)],
                "row 2 of variables a, b has not one value for each",
            ),
            (vec![rows(&["a", "a"], &[&["1", "2"]], order)], "variable a is declared twice"),
            (vec![sequence(1, 2, 1), random("x", 1, 2, 0)], "variable x is declared twice"),
            (vec![sequence(1, 2, 0)], "the step of variable x is 0 or leads away from its end"),
            (vec![sequence(1, 2, -1)], "the step of variable x is 0 or leads away from its end"),
            (vec![sequence(2, 1, 1)], "the step of variable x is 0 or leads away from its end"),
            (vec![random("x", 2, 1, 0)], "the least value of variable x is above its greatest"),
            (
                vec![random("1\nx", 1, 2, 0)],
                "1 x is not a variable's name: a letter or `_`, then letters, digits, `_` and `-`",
            ),
        ] {
            assert_eq!(compiled(sources).unwrap_err(), expected);
        }
        assert!(compiled(vec![]).unwrap().is_empty());
    }

    #[test]
    fn values_that_no_header_can_have_are_found_once() {
        let table: &[&[&str]] = &[&["a\tb", "1"], &["a\r\nb", "é"], &["\0", "2"]];
        let variables = compiled(vec![rows(&["bad", "good"], table, RowOrder::InTurn), sequence(1, 2, 1)]);
        let variables = variables.unwrap();
        let unfit = |name| variables.first_row_unfit_for_a_header(variables.index_of(name).unwrap());
        assert_eq!((unfit("bad"), unfit("good"), unfit("x")), (Some(2), None, None));
        assert_eq!(variables.names().collect::<Vec<_>>(), ["bad", "good", "x"]);
        assert_eq!(variables.index_of("none"), None);
    }

    proptest::proptest! {
        #[test]
        fn a_sequence_is_what_arithmetic_says(from in any::<i64>(), to in any::<i64>(), step in any::<i64>(), arrival in any::<u64>()) {
            prop_assume!(step != 0);
            let step = if (to >= from) == (step > 0) { step } else { step.checked_neg().unwrap_or(i64::MAX) };
            let variables = compiled(vec![sequence(from, to, step)]).unwrap();
            let count = (i128::from(to) - i128::from(from)) / i128::from(step) + 1;
            let expected = i128::from(from) + i128::from(arrival) % count * i128::from(step);
            let mut out = Vec::new();
            variables.write(0, arrival, &mut out);
            prop_assert_eq!(variables.length(0, arrival), out.len());
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected.to_string());
        }

        #[test]
        fn a_random_number_is_within_its_bounds(a in any::<i64>(), b in any::<i64>(), seed in any::<u64>(), arrival in any::<u64>()) {
            let (from, to) = (a.min(b), a.max(b));
            let variables = compiled(vec![random("x", from, to, seed)]).unwrap();
            let Value::Number(number) = variables.value(0, arrival) else { unreachable!() };
            prop_assert!((from..=to).contains(&number));
            let all = compiled(vec![random("x", i64::MIN, i64::MAX, seed)]).unwrap();
            prop_assert_eq!(all.value(0, arrival), all.value(0, arrival));
        }
    }
}
