//! Settings as clients see them: names, what they may be, what they are.
//!
//! # Invariants
//! - I1: a setting never holds a value that its [`Rule`] does not allow.
//!
//! # Why this way
//! What follows from images that were compressed ahead of time (their size, depth, compression) accepts only what they
//! have: a client that asks for other images than it gets should hear so.

use serde_json::{Map, Value, json};

/// Which values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rule {
    /// Whole numbers in a closed range.
    Uint(u64, u64),
    /// Numbers in a closed range.
    Float(f64, f64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// Any text.
    Text,
    /// Any value.
    Any,
    /// A list, which cannot be set.
    List,
    /// A value for each pixel, which cannot be set, and is not kept here.
    Table,
}

impl Rule {
    fn allows(self, value: &Value) -> bool {
        match self {
            Self::Uint(min, max) => value.as_u64().is_some_and(|number| (min..=max).contains(&number)),
            Self::Float(min, max) => value.as_f64().is_some_and(|number| (min..=max).contains(&number)),
            Self::Choice(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Bool => value.is_boolean(),
            Self::Text => value.is_string(),
            Self::Any => true,
            Self::List | Self::Table => false,
        }
    }

    fn value_type(self) -> &'static str {
        match self {
            Self::Uint(..) => "uint",
            Self::Float(..) => "float",
            Self::Choice(_) | Self::Text => "string",
            Self::Bool => "bool",
            Self::Any => "any",
            Self::List => "list",
            Self::Table => "darray",
        }
    }

    fn expected(self) -> String {
        match self {
            Self::Uint(min, max) => format!("a whole number from {min} to {max}"),
            Self::Float(min, max) => format!("a number from {min} to {max}"),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Bool => "true or false".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Any | Self::List | Self::Table => "nothing".to_owned(),
        }
    }
}

/// Who may change a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// A client.
    Write,
    /// Nobody.
    Read,
    /// A client, but only to what it is: a property of the prepared images.
    Prepared,
}

/// One setting or status: its name and rules.
#[derive(Debug, Clone)]
struct Entry {
    name: &'static str,
    access: Access,
    rule: Rule,
    unit: &'static str,
    value: Value,
    default: Value,
}

/// Why a setting cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SettingError {
    #[error("there is no `{name}`")]
    Unknown { name: String },
    #[error("`{name}` can only be read")]
    ReadOnly { name: &'static str },
    #[error("`{name}` is {got}, expected {want}")]
    Value { name: &'static str, got: String, want: String },
    #[error("`{name}` is {got}, but images were prepared with {want}: start the simulator with other options")]
    Prepared { name: &'static str, got: String, want: String },
}

/// The settings of one part of a detector.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings(Vec<Entry>);

impl Settings {
    /// Adds a setting; the unit is empty where there is none.
    pub(super) fn with(
        mut self,
        name: &'static str,
        access: Access,
        (rule, unit): (Rule, &'static str),
        value: impl Into<Value>,
    ) -> Self {
        let value = value.into();
        self.0.push(Entry { name, access, rule, unit, default: value.clone(), value });
        self
    }

    /// Names, in order.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = self.0.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        names
    }

    /// Back to what they were at first.
    pub(super) fn reset(&mut self) {
        self.0.iter_mut().for_each(|entry| entry.value.clone_from(&entry.default));
    }

    /// What a setting is; `null` when there is none of that name.
    pub(super) fn get(&self, name: &str) -> &Value {
        self.find(name).map_or(&Value::Null, |entry| &entry.value)
    }

    /// A setting that is a number.
    pub(super) fn float(&self, name: &str) -> f64 {
        self.get(name).as_f64().unwrap_or(0.0)
    }

    /// A setting that is a whole number.
    pub(super) fn uint(&self, name: &str) -> u64 {
        self.get(name).as_u64().unwrap_or(0)
    }

    /// A setting that is text.
    pub(super) fn text(&self, name: &str) -> &str {
        self.get(name).as_str().unwrap_or_default()
    }

    /// A setting as a client gets it; `None` when there is none of that name.
    pub(super) fn describe(&self, name: &str) -> Option<Value> {
        let entry = self.find(name)?;
        let access = if entry.access == Access::Read { "r" } else { "rw" };
        let mut described =
            json!({ "value": entry.value, "value_type": entry.rule.value_type(), "access_mode": access });
        match entry.rule {
            _ if entry.access == Access::Prepared => described["allowed_values"] = json!([entry.value]),
            Rule::Uint(min, max) => (described["min"], described["max"]) = (min.into(), max.into()),
            Rule::Float(min, max) => (described["min"], described["max"]) = (min.into(), max.into()),
            Rule::Choice(words) => described["allowed_values"] = words.into(),
            Rule::Bool => described["allowed_values"] = json!([true, false]),
            Rule::Text | Rule::Any | Rule::List | Rule::Table => {}
        }
        if !entry.unit.is_empty() {
            described["unit"] = entry.unit.into();
        }
        Some(described)
    }

    /// Changes a setting as a client may.
    pub(super) fn change(&mut self, name: &str, value: Value) -> Result<(), SettingError> {
        let entry = self.0.iter_mut().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| SettingError::Unknown { name: name.to_owned() })?;
        let got = || value.to_string().chars().take(100).collect();
        match entry.access {
            Access::Read => return Err(SettingError::ReadOnly { name: entry.name }),
            Access::Prepared if value != entry.value => {
                return Err(SettingError::Prepared { name: entry.name, got: got(), want: entry.value.to_string() });
            }
            _ if !entry.rule.allows(&value) => {
                return Err(SettingError::Value { name: entry.name, got: got(), want: entry.rule.expected() });
            }
            Access::Prepared | Access::Write => entry.value = value,
        }
        Ok(())
    }

    /// Changes a setting that follows from others, whoever may change it.
    pub(super) fn follow(&mut self, name: &str, value: impl Into<Value>) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.name == name) {
            entry.value = value.into();
        }
    }

    /// All settings whose names have no parts, less tables, by name: what STREAM sends of them.
    pub(super) fn flat(&self) -> Map<String, Value> {
        let plain = self.0.iter().filter(|entry| !entry.name.contains('/') && entry.rule != Rule::Table);
        plain.map(|entry| (entry.name.to_owned(), entry.value.clone())).collect()
    }

    fn find(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.name == name)
    }
}
