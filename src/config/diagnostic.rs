//! What is wrong with the config, and where: one line each, with the remedy in it.

use std::fmt;

use super::overlay::OptionName;

/// A value and where it is written.
#[derive(Debug, Clone)]
pub(super) struct Spanned<T> {
    /// The whole key, such as `mqtt.url`.
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: T,
}

impl<T> Spanned<T> {
    /// A fault of this value.
    pub(super) fn fault(&self, what: impl Into<String>) -> Diagnostic {
        Diagnostic { place: Some(self.place), column: None, key: self.key.clone(), what: what.into() }
    }
}

/// Where a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In this line of the file, from 1.
    Line(usize),
    /// In an option, which was laid over the file.
    Option(OptionName),
}

/// A fault or a warning about a config. Sorts by its place in the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    pub(super) place: Option<Place>,
    pub(super) column: Option<usize>,
    pub(super) key: String,
    pub(super) what: String,
}

impl Diagnostic {
    /// About a key that is not in the file.
    pub(super) fn of(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: None, column: None, key: key.into(), what: what.into() }
    }

    /// The key, with its table; the name of an option that was laid over the file; `None` if it is about the file.
    pub fn key(&self) -> Option<String> {
        let key = match self.place {
            Some(Place::Option(name)) => name.to_string(),
            Some(Place::Line(_)) | None => self.key.clone(),
        };
        Some(key).filter(|key| !key.is_empty())
    }

    /// The line of the file, from 1.
    pub fn line(&self) -> Option<usize> {
        match self.place {
            Some(Place::Line(line)) => Some(line),
            Some(Place::Option(_)) | None => None,
        }
    }

    /// What is wrong and what to do, without the place and the key.
    pub fn text(&self) -> &str {
        &self.what
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(Place::Option(name)) => return write!(f, "options: {name}: {}", self.what),
            Some(Place::Line(line)) => write!(f, "{line}:")?,
            None => {}
        }
        if let Some(column) = self.column {
            write!(f, "{column}:")?;
        }
        if self.place.is_some() {
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// As part of a sentence.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Option(name) => name.fmt(f),
        }
    }
}

/// The faults and warnings found so far.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    pub(super) faults: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
}

impl Diagnostics {
    /// The config cannot be used.
    pub(super) fn fault(&mut self, fault: Diagnostic) {
        self.faults.push(fault);
    }

    /// The config can be used, and is probably a mistake.
    pub(super) fn warn(&mut self, warning: Diagnostic) {
        self.warnings.push(warning);
    }
}

/// The longest value that a message quotes whole, in characters.
const QUOTED: usize = 60;

/// A value of the user's for a one-line message.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A key with its table.
pub(super) fn whole_key(table: &str, key: &str) -> String {
    // A quoted key may hold anything; a message is one line.
    let is_plain = key.len() <= QUOTED && !key.chars().any(char::is_control);
    let key = if is_plain { key.to_owned() } else { quoted(key) };
    if table.is_empty() { key } else { format!("{table}.{key}") }
}

/// `a, b or c`.
pub(super) fn one_of(words: impl IntoIterator<Item = String>) -> String {
    let mut words: Vec<String> = words.into_iter().collect();
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { last } else { format!("{} or {last}", words.join(", ")) }
}

/// The value in the file, else the default.
pub(super) fn or<T: Copy>(written: Option<&Spanned<T>>, default: T) -> T {
    written.map_or(default, |at| at.value)
}
