//! Reads a TOML tree key by key and remembers every problem with its place, so that all are reported at once.
//!
//! # Limits
//! The first [`PROBLEMS_MAX`] problems: a file that is something else altogether has one on every line, and finding
//! the line of each would take minutes.
//!
//! # Why this way
//! Deriving `Deserialize` stops at the first unknown key or wrong type and cannot name what is allowed; walking the
//! spanned tree costs a few lines and tells the user everything in one go.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use toml::de::{DeTable, DeValue};

use crate::problem::{Problem, Problems, quoted};

/// Most problems that are reported; one more says that there are more.
pub(crate) const PROBLEMS_MAX: usize = 100;

/// A configuration text and what has been found out about it.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    file: &'a str,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
    /// Byte offset of every key seen: where a later cross-check points to.
    places: RefCell<BTreeMap<String, Range<usize>>>,
}

impl<'a> Document<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, problems: RefCell::default(), places: RefCell::default() }
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        before.filter(|&&byte| byte == b'\n').count() + 1
    }

    pub(crate) fn report(&self, offset: usize, key: &str, value: Option<String>, message: impl Into<String>) {
        if self.is_full() {
            return;
        }
        let (file, line) = (self.file.to_owned(), self.line(offset));
        let problem = Problem { file, line, key: key.into(), value, message: message.into() };
        let problem = match self.problems.borrow().len() {
            PROBLEMS_MAX => Problem { key: String::new(), value: None, message: "more problems".into(), ..problem },
            _ => problem,
        };
        self.problems.borrow_mut().push(problem);
    }

    /// Whether further problems would not be reported.
    pub(crate) fn is_full(&self) -> bool {
        self.problems.borrow().len() > PROBLEMS_MAX
    }

    fn note(&self, key: &str, place: Range<usize>) {
        self.places.borrow_mut().insert(key.to_owned(), place);
    }

    /// Reports what a check of the whole plan found, unless the key (or what it lies in) is known to be wrong already.
    pub(crate) fn report_checked(&self, key: &str, message: String) {
        if self.is_full() {
            return;
        }
        let is_known = self.problems.borrow().iter().any(|p| key == p.key || p.key.starts_with(&format!("{key}[")));
        if is_known {
            return;
        }
        let place = self.places.borrow().get(key).cloned();
        match place {
            Some(place) => {
                let value = self.text.get(place.clone()).map(quoted).filter(|text| !text.starts_with('['));
                let value = value.or_else(|| self.array_text(&place));
                self.report(place.start, key, value, message);
            }
            None => self.report(self.parent_offset(key), key, None, message),
        }
    }

    /// Text of an array value; `None` for the header of a table.
    fn array_text(&self, place: &Range<usize>) -> Option<String> {
        let before = self.text.get(..place.start)?.trim_end();
        before.ends_with('=').then(|| self.text.get(place.clone()).map(quoted)).flatten()
    }

    fn parent_offset(&self, key: &str) -> usize {
        let places = self.places.borrow();
        let parent = key.rsplit_once('.').map_or(key, |(parent, _)| parent);
        places.get(parent).map_or(0, |place| place.start)
    }

    /// All problems in the order of the file, or none.
    pub(crate) fn finish(self) -> Result<(), Problems> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
    }
}

/// One table of the tree, whose keys are known.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    doc: &'a Document<'a>,
    path: String,
    table: &'a DeTable<'a>,
    offset: usize,
}

impl<'a> Section<'a> {
    /// Opens a table and reports every key that is not `allowed`.
    pub(crate) fn open(
        doc: &'a Document<'a>,
        path: &str,
        table: &'a DeTable<'a>,
        place: Range<usize>,
        allowed: &[&str],
    ) -> Self {
        let section = Self { doc, path: path.to_owned(), table, offset: place.start };
        doc.note(path, place);
        let unknown = table.keys().filter(|key| !allowed.contains(&key.get_ref().as_ref()));
        for key in unknown.take_while(|_| !doc.is_full()) {
            let whole = section.key(&quoted(key.get_ref()));
            doc.report(key.span().start, &whole, None, unknown_key(key.get_ref(), path, allowed));
        }
        section
    }

    /// All values but those of some keys, for readers that know their own keys.
    pub(crate) fn json(&self, without: &[&str]) -> serde_json::Map<String, serde_json::Value> {
        let wanted = self.table.iter().filter(|(key, _)| !without.contains(&key.get_ref().as_ref()));
        wanted.map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref()))).collect()
    }

    pub(crate) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Reports a problem of the table as a whole.
    pub(crate) fn fail(&self, key: &str, message: impl Into<String>) {
        self.doc.report(self.offset, &self.key(key), None, message);
    }

    pub(crate) fn get(&self, key: &str) -> Option<Value<'a>> {
        let value = self.table.get(key)?;
        let key = self.key(key);
        self.doc.note(&key, value.span());
        Some(Value { doc: self.doc, key, value: value.get_ref(), place: value.span() })
    }

    /// The value of a key that must be there.
    pub(crate) fn need(&self, key: &str, expected: &str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            self.fail(key, format!("missing; expected {expected}"));
        }
        value
    }

    /// A sub-table.
    pub(crate) fn section(&self, key: &str, allowed: &[&str]) -> Option<Section<'a>> {
        self.get(key)?.section(allowed)
    }

    /// The tables of an array of tables; none when the key is absent.
    pub(crate) fn sections(&self, key: &str) -> Vec<Value<'a>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.value else {
            value.fail(format!("expected tables, each under [[{key}]] with two brackets"));
            return Vec::new();
        };
        let name = |i: usize| format!("{}[{i}]", value.key);
        let item = |(i, item): (usize, &'a toml::Spanned<DeValue<'a>>)| {
            self.doc.note(&name(i), item.span());
            Value { doc: self.doc, key: name(i), value: item.get_ref(), place: item.span() }
        };
        items.iter().enumerate().map(item).collect()
    }

    pub(crate) fn boolean_or(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(|value| value.boolean()).unwrap_or(default)
    }

    pub(crate) fn int_or(&self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.get(key).and_then(|value| value.int(range)).unwrap_or(default)
    }
}

fn unknown_key(key: &str, path: &str, allowed: &[&str]) -> String {
    let near = allowed.iter().find(|&&other| is_near(key, other));
    let hint = near.map(|other| format!("did you mean `{other}`? ")).unwrap_or_default();
    let place = if path.is_empty() { "at the top".to_owned() } else { format!("in `{path}`") };
    format!("unknown key; {hint}allowed {place}: {}", allowed.join(", "))
}

/// Whether two keys differ by at most two edits, or one begins with the other.
fn is_near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(40).collect(), b.chars().collect());
    if a.len() >= 3 && (b.starts_with(&a) || a.starts_with(&b)) {
        return true;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()] <= 2 && row[b.len()] * 2 <= a.len().max(b.len())
}

/// One value with its key and its place; conversions report what is wrong and return `None`.
#[derive(Debug)]
pub(crate) struct Value<'a> {
    doc: &'a Document<'a>,
    pub(crate) key: String,
    value: &'a DeValue<'a>,
    place: Range<usize>,
}

impl<'a> Value<'a> {
    /// Reports that this value is wrong.
    pub(crate) fn fail(&self, expected: impl Into<String>) {
        let text = self.doc.text.get(self.place.clone()).map(quoted);
        self.doc.report(self.place.start, &self.key, text, expected);
    }

    fn failed<T>(&self, expected: impl Into<String>) -> Option<T> {
        self.fail(expected);
        None
    }

    /// The value, or a report of why it is none.
    pub(crate) fn checked<T>(&self, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.fail(message)).ok()
    }

    pub(crate) fn section(&self, allowed: &[&str]) -> Option<Section<'a>> {
        match self.value {
            DeValue::Table(table) => Some(Section::open(self.doc, &self.key, table, self.place.clone(), allowed)),
            _ => self.failed(format!("expected a table with the keys {}", allowed.join(", "))),
        }
    }

    /// A table whose keys are not known here.
    pub(crate) fn open(&self) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value else { return self.failed("expected a table") };
        Some(Section { doc: self.doc, path: self.key.clone(), table, offset: self.place.start })
    }

    /// The table's own `kind`, read before its other keys are known.
    pub(crate) fn peek(&self, key: &str) -> Option<&'a str> {
        match self.value {
            DeValue::Table(table) => table.get(key)?.get_ref().as_str(),
            _ => None,
        }
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.failed("expected true or false"))
    }

    pub(crate) fn text(&self, expected: &str) -> Option<&'a str> {
        self.value.as_str().or_else(|| self.failed(format!("expected {expected}, in quotes")))
    }

    pub(crate) fn int(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let value = integer(self.value).and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n));
        value.or_else(|| self.failed(format!("expected a whole number from {} to {}", range.start(), range.end())))
    }

    pub(crate) fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    pub(crate) fn is_integer(&self) -> bool {
        self.value.as_integer().is_some()
    }

    pub(crate) fn signed(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let value = integer(self.value).filter(|n| range.contains(n));
        value.or_else(|| self.failed(format!("expected a whole number from {} to {}", range.start(), range.end())))
    }

    pub(crate) fn real(&self, expected: &str) -> Option<f64> {
        real(self.value).or_else(|| self.failed(format!("expected {expected}")))
    }

    /// An array of exactly `N` whole numbers.
    pub(crate) fn ints<const N: usize>(&self, names: &str, range: RangeInclusive<u32>) -> Option<[u32; N]> {
        let item = |item: &DeValue<'_>| integer(item).and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n));
        array(self.value, item).or_else(|| {
            self.failed(format!("expected {names}: {N} whole numbers from {} to {}", range.start(), range.end()))
        })
    }

    /// An array of exactly two numbers.
    pub(crate) fn point(&self, names: &str) -> Option<[f64; 2]> {
        array(self.value, real).or_else(|| self.failed(format!("expected {names}: two numbers")))
    }

    /// An array of points.
    pub(crate) fn points(&self, expected: &str) -> Option<Vec<[f64; 2]>> {
        let items = self.value.as_array().map(|items| items.iter().map(|item| array(item.get_ref(), real)).collect());
        items.flatten().or_else(|| self.failed(format!("expected {expected}")))
    }

    /// An array of texts, none of them empty.
    pub(crate) fn texts(&self, expected: &str) -> Option<Vec<&'a str>> {
        let text = |item: &'a DeValue<'a>| item.as_str().filter(|text| !text.is_empty());
        let items = self.value.as_array().map(|items| items.iter().map(|item| text(item.get_ref())).collect());
        items.flatten().or_else(|| self.failed(format!("expected {expected}")))
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let found = self.value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        let allowed = || words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        found.map(|&(_, choice)| choice).or_else(|| self.failed(format!("expected one of {}", allowed())))
    }
}

/// The value as JSON has it; what JSON does not have (dates, infinities) as text.
fn json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::Boolean(value) => (*value).into(),
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => integer(value).map_or_else(|| number.as_str().into(), Into::into),
        DeValue::Float(number) => real(value).map_or_else(|| number.as_str().into(), Into::into),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref())));
            serde_json::Value::Object(pairs.collect())
        }
        DeValue::Datetime(date) => date.to_string().into(),
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn real(value: &DeValue<'_>) -> Option<f64> {
    let float = value.as_float().and_then(|float| float.as_str().parse::<f64>().ok());
    float.or_else(|| integer(value).map(|n| n as f64)).filter(|number| number.is_finite())
}

fn array<T: Copy, const N: usize>(value: &DeValue<'_>, item: impl Fn(&DeValue<'_>) -> Option<T>) -> Option<[T; N]> {
    let items: Option<Vec<T>> = value.as_array()?.iter().map(|i| item(i.get_ref())).collect();
    items?.try_into().ok()
}
