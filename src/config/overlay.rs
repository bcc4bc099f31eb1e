//! Values that are laid over those of the file before it is read: the options of the Home Assistant app.
//!
//! The reader and the validation see one document, so that an option is checked as the key in the file would be. What is wrong
//! with an option is reported under the option's own name.

use std::fmt;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::secret::Secret;

/// The repeated table of the plugs.
const PLUG: &str = "plug";

/// Values to be laid over a file. The empty one changes nothing.
#[derive(Debug, Default)]
pub struct Overlay {
    edits: Vec<Edit>,
    plugs: Vec<Vec<Edit>>,
    /// Without `mqtt.url` there is no embedded broker: the broker is named later.
    pub(super) is_broker_awaited: bool,
}

/// What an option is called where the user writes it, such as `plugs[2].name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OptionName {
    /// Empty at the top level.
    pub group: &'static str,
    /// Its place in a list, from 0.
    pub index: Option<usize>,
    /// The option itself.
    pub key: &'static str,
}

/// A change of one key.
#[derive(Debug)]
struct Edit {
    /// Empty in a plug.
    table: &'static str,
    key: &'static str,
    /// `None`: the key goes. Any of them may be a secret.
    value: Option<Secret>,
    name: OptionName,
    /// Only if the file has no such key.
    is_default: bool,
}

impl Overlay {
    /// For a daemon whose broker is named later, unless the file or a value names one.
    pub fn awaiting_broker() -> Self {
        Self { is_broker_awaited: true, ..Self::default() }
    }

    /// Sets a key, whatever the file says.
    pub fn set(&mut self, table: &'static str, key: &'static str, value: Secret, name: OptionName) {
        self.edits.push(Edit { table, key, value: Some(value), name, is_default: false });
    }

    /// Sets a key that the file does not set.
    pub fn set_default(&mut self, table: &'static str, key: &'static str, value: &str) {
        let (value, name) =
            (Some(Secret::new(value.to_owned())), OptionName { group: table, index: None, key });
        self.edits.push(Edit { table, key, value, name, is_default: true });
    }

    /// Removes keys from the file.
    pub fn remove(&mut self, table: &'static str, keys: &[&'static str]) {
        let name = |key| OptionName { group: table, index: None, key };
        let edit = |&key| Edit { table, key, value: None, name: name(key), is_default: false };
        self.edits.extend(keys.iter().map(edit));
    }

    /// Adds a plug. The keys go into the entry of the file that has the same name, if there is one. A key without a value is
    /// removed from it.
    pub fn plug(&mut self, keys: impl IntoIterator<Item = (&'static str, Option<Secret>, OptionName)>) {
        let edit = |(key, value, name)| Edit { table: "", key, value, name, is_default: false };
        self.plugs.push(keys.into_iter().map(edit).collect());
    }

    /// The names of the values, in the order of their places after the end of the file.
    pub(super) fn names(&self) -> Vec<OptionName> {
        self.edits.iter().chain(self.plugs.iter().flatten()).map(|edit| edit.name).collect()
    }

    /// Lays the values over the document, whose text ends at this offset. The value with the number n gets the offset
    /// `end + 1 + n`.
    pub(super) fn apply<'t>(&'t self, root: &mut DeTable<'t>, end: usize) {
        let mut offset = end;
        for edit in &self.edits {
            offset += 1;
            if edit.value.is_some() && !root.contains_key(edit.table) {
                root.insert(at(offset, edit.table.into()), at(offset, DeValue::Table(DeTable::new())));
            }
            // A table that is written as a value is reported by the reader.
            if let Some(DeValue::Table(entries)) = root.get_mut(edit.table).map(Spanned::get_mut) {
                edit.apply(entries, offset);
            }
        }
        if !self.plugs.is_empty() && !root.contains_key(PLUG) {
            root.insert(at(offset, PLUG.into()), at(offset, DeValue::Array(DeArray::new())));
        }
        let Some(DeValue::Array(list)) = root.get_mut(PLUG).map(Spanned::get_mut) else { return };
        let of_file = list.len();
        for plug in &self.plugs {
            let first = offset + 1;
            let name = plug.iter().find(|edit| edit.key == "name").and_then(|edit| edit.value.as_ref());
            let same = list.iter_mut().take(of_file).find_map(|entry| match entry.get_mut() {
                DeValue::Table(entries) if is_named(entries, name) => Some(entries),
                _ => None,
            });
            let mut added = DeTable::new();
            let is_added = same.is_none();
            let entries = same.unwrap_or(&mut added);
            for edit in plug {
                offset += 1;
                edit.apply(entries, offset);
            }
            if is_added {
                list.push(at(first, DeValue::Table(added)));
            }
        }
    }
}

impl Edit {
    fn apply<'t>(&'t self, entries: &mut DeTable<'t>, offset: usize) {
        if self.is_default && entries.contains_key(self.key) {
            return;
        }
        // Removed first: an insertion keeps the old key with its place.
        entries.remove(self.key);
        if let Some(value) = &self.value {
            entries.insert(at(offset, self.key.into()), at(offset, DeValue::String(value.expose().into())));
        }
    }
}

impl fmt::Display for OptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.group)?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        let dot = if self.group.is_empty() || self.key.is_empty() { "" } else { "." };
        write!(f, "{dot}{}", self.key)
    }
}

fn at<T>(offset: usize, value: T) -> Spanned<T> {
    Spanned::new(offset..offset, value)
}

fn is_named(entries: &DeTable<'_>, name: Option<&Secret>) -> bool {
    let written = entries.get("name").and_then(|value| value.get_ref().as_str());
    written.is_some() && written == name.map(Secret::expose)
}
