//! The keys that exist, and which of them an unknown key is meant to be.

use std::collections::BTreeSet;

use strsim::levenshtein;

use super::diagnostic::{Diagnostic, Place, one_of, whole_key};

/// A key in the file that does not exist.
#[derive(Debug)]
pub(super) struct UnknownKey {
    pub(super) table: &'static str,
    pub(super) key: String,
    pub(super) place: Place,
    /// What to write instead, if its meaning can be guessed.
    pub(super) advice: Option<String>,
}

/// Every key that exists, with its table. A table is itself a key of the table without a name.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownKeys {
    pub(super) keys: BTreeSet<(&'static str, &'static str)>,
    /// The tables that may be repeated.
    pub(super) lists: BTreeSet<&'static str>,
}

impl KnownKeys {
    /// The keys as `table.key`, without the tables themselves.
    pub(super) fn keys(&self) -> impl Iterator<Item = String> {
        let keys = self.keys.iter().filter(|(table, _)| !table.is_empty());
        keys.map(|(table, key)| whole_key(table, key)).filter(move |name| !self.is_table(name))
    }

    fn is_table(&self, name: &str) -> bool {
        self.keys.iter().any(|(table, _)| *table == name)
    }

    /// The header of a table, such as `[[plug]]`.
    fn header(&self, table: &str) -> String {
        if self.lists.contains(table) { format!("[[{table}]]") } else { format!("[{table}]") }
    }

    /// A key as it is written in its table; it may be a table itself.
    fn written(&self, table: &str, key: &str) -> String {
        let name = whole_key(table, key);
        if self.is_table(&name) { self.header(&name) } else { format!("`{key}`") }
    }

    /// The fault of an unknown key: what to write instead.
    pub(super) fn unknown(&self, unknown: &UnknownKey) -> Diagnostic {
        let UnknownKey { table, key, place, advice } = unknown;
        let what = match advice {
            Some(advice) => format!("is not known: {advice}"),
            None => self.nearest(table, key),
        };
        Diagnostic { place: Some(*place), column: None, key: whole_key(table, key), what }
    }

    fn nearest(&self, table: &str, key: &str) -> String {
        let neighbours: Vec<&str> =
            self.keys.iter().filter(|(t, _)| *t == table).map(|(_, key)| *key).collect();
        let nearest = neighbours.iter().min_by_key(|known| levenshtein(key, known));
        if let Some(near) = nearest.filter(|near| levenshtein(key, near) <= key.chars().count().max(4) / 2) {
            return format!("is not known: did you mean {}?", self.written(table, near));
        }
        let here = one_of(neighbours.iter().map(|known| self.written(table, known)));
        let homes = self.keys.iter().filter(|(t, k)| *k == key && !t.is_empty());
        let homes = one_of(homes.map(|(home, _)| self.header(home)));
        if homes.is_empty() {
            format!("is not known: remove it, or write {here}")
        } else {
            format!("is not known here, only in {homes}: move it there, or write {here}")
        }
    }
}
