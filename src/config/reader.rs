//! A typed reader over TOML that keeps line numbers. It reports all faults, each with its place and what to do.
//!
//! It knows types, units and ranges. The keys are in [`super::file`]: a key exists if it is read, so there is no second list.
//! Messages quote values, but not those of secrets, and never a line of the file, which may hold one. For an unknown key the
//! caller's [`Suggest`] may have a better answer than the nearest key.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Place, Spanned, one_of, quoted, whole_key};
use super::overlay::Overlay;
use super::placeholders::{self, Placeholders};
use super::syntax::LineIndex;
use super::unknown_keys::{KnownKeys, UnknownKey};
use crate::duration;
use crate::model::shown;
use crate::secret::Secret;

/// Reads a document with these values laid over it. `read` takes the values of the keys that exist; every key that is left is
/// a fault.
pub(super) fn document<T>(
    text: &str,
    overlay: &Overlay,
    placeholders: &Rc<Placeholders>,
    suggest: Suggest,
    read: impl FnOnce(&mut TableReader<'_, '_>) -> T,
) -> Result<(T, KnownKeys), Vec<Diagnostic>> {
    let lines = LineIndex::of(text, overlay.names());
    let (root, errors) = DeTable::parse_recoverable(text);
    let known = KnownKeys::default();
    let placeholders = Rc::clone(placeholders);
    let mut state =
        ReadState { lines, placeholders, faults: Vec::new(), known, unknown: Vec::new(), suggest };
    // One mistake can cause several errors; the first is the one to correct.
    if let Some(error) = errors.iter().min_by_key(|error| error.span().map(|span| span.start)) {
        // An empty read, to know the keys.
        TableReader { state: &mut state, name: "", place: NOWHERE, entries: DeTable::new() }.read(read);
        let ReadState { lines, known, .. } = state;
        return Err(vec![
            lines.duplicate(text, error, &known).unwrap_or_else(|| lines.not_toml(text, error)),
        ]);
    }
    let mut entries = root.into_inner();
    overlay.apply(&mut entries, text.len());
    let value = TableReader { state: &mut state, name: "", place: NOWHERE, entries }.read(read);
    let ReadState { mut faults, known, unknown, .. } = state;
    faults.extend(unknown.iter().map(|key| known.unknown(key)));
    faults.sort();
    if faults.is_empty() { Ok((value, known)) } else { Err(faults) }
}

/// The place of a table that is not written.
const NOWHERE: Place = Place::Line(0);

/// One table of the document. Values are taken out by key.
pub(super) struct TableReader<'n, 't> {
    state: &'n mut ReadState,
    name: &'static str,
    place: Place,
    entries: DeTable<'t>,
}

impl<'t> TableReader<'_, 't> {
    /// The place of this table's header.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// A string that is not empty.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Spanned<String>> {
        self.parsed(key, |text| Ok(text.to_owned()))
    }

    /// A string that `parse` accepts, with its placeholders replaced.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        let placeholders = Rc::clone(&self.state.placeholders);
        self.text_of(key, |text, place| replaced(&placeholders, text, place, parse))
    }

    /// A string that no message quotes, with its placeholders replaced.
    pub(super) fn unquoted(&mut self, key: &'static str) -> Option<Spanned<Secret>> {
        self.parsed(key, |text| Ok(Secret::new(text.to_owned())))
    }

    /// A string that no message quotes. It has no placeholders: a variable is not a place for a secret.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Spanned<Secret>> {
        self.text_of(key, |text, place| {
            if matches!(place, Place::Line(_)) && placeholders::is_in(&text) {
                return Err(format!(
                    "has ${{…}}, which is not replaced in a secret: put the secret into a file of its own and name that \
                     with {key}_file, or give it as a credential"
                ));
            }
            Ok(Secret::new(text.into_owned()))
        })
    }

    fn text_of<T>(
        &mut self,
        key: &'static str,
        take: impl FnOnce(Cow<'t, str>, Place) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        self.placed_value(key, |value, place| match value {
            DeValue::String(text) if text.is_empty() => {
                Err("is empty: fill it in, or remove the line".to_owned())
            }
            DeValue::String(text) => take(text, place),
            other => Err(format!("must be text in quotes (is {})", kind(&other))),
        })
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<Spanned<bool>> {
        self.value(key, |value| match value {
            DeValue::Boolean(flag) => Ok(flag),
            other => Err(format!("must be true or false, without quotes (is {})", kind(&other))),
        })
    }

    /// A TCP or UDP port, not 0.
    pub(super) fn port(&mut self, key: &'static str) -> Option<Spanned<u16>> {
        self.value(key, |value| match value {
            DeValue::Integer(number) => match number.to_string().replace('_', "").parse() {
                Ok(port) if port != 0 => Ok(port),
                _ => Err(format!("must be between 1 and 65535 (is {})", digits(&number))),
            },
            other => Err(format!("must be a number without quotes (is {})", kind(&other))),
        })
    }

    /// A duration within `range`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Spanned<Duration>> {
        self.value(key, |value| {
            let duration = match value {
                DeValue::String(text) => duration::parse(&text)?,
                DeValue::Integer(n) => {
                    return Err(format!("has no unit: write \"{}s\" for seconds, in quotes", digits(&n)));
                }
                other => return Err(format!("must be a duration like \"5s\" (is {})", kind(&other))),
            };
            if range.contains(&duration) {
                return Ok(duration);
            }
            let [least, most, is] = [*range.start(), *range.end(), duration].map(duration::show);
            Err(format!("must be between {least} and {most} (is {is})"))
        })
    }

    /// One of these words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<Spanned<T>> {
        let all = || one_of(words.iter().map(|(word, _)| format!("`{word}`")));
        self.value(key, |value| match value {
            DeValue::String(text) => match words.iter().find(|(word, _)| *word == text) {
                Some((_, meaning)) => Ok(*meaning),
                None => Err(format!("must be {} (is {})", all(), quoted(&text))),
            },
            other => Err(format!("must be {}, in quotes (is {})", all(), kind(&other))),
        })
    }

    /// A list of at most `most` strings that `parse` accepts, with their placeholders replaced.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        most: usize,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Spanned<Vec<T>>> {
        let placeholders = Rc::clone(&self.state.placeholders);
        self.placed_value(key, |value, place| {
            let DeValue::Array(items) = value else {
                return Err(format!("must be a list in square brackets (is {})", kind(&value)));
            };
            if items.len() > most {
                return Err(format!("must hold at most {most} values (holds {})", items.len()));
            }
            let item = |item: toml::Spanned<DeValue<'_>>| match item.into_inner() {
                DeValue::String(text) => replaced(&placeholders, text, place, &parse),
                other => Err(format!("must hold texts in quotes (holds {})", kind(&other))),
            };
            items.into_iter().map(item).collect()
        })
    }

    /// A string, or a list of at most `most` strings, but at least one, that `parse` accepts, with their placeholders replaced. A
    /// fault names the value in the list.
    pub(super) fn one_or_more<T>(
        &mut self,
        key: &'static str,
        most: usize,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        let Spanned { key: whole, place, value } = self.value(key, |value| match value {
            DeValue::String(_) => Ok(value),
            DeValue::Array(items) if items.is_empty() => {
                Err("is an empty list: write at least one, or remove the line".to_owned())
            }
            DeValue::Array(items) if items.len() > most => {
                Err(format!("must hold at most {most} values (holds {})", items.len()))
            }
            DeValue::Array(_) => Ok(value),
            other => Err(format!("must be text in quotes, or a list of such texts (is {})", kind(&other))),
        })?;
        let written = match value {
            DeValue::Array(items) => {
                let number = |(n, item): (usize, toml::Spanned<DeValue<'t>>)| {
                    let place = self.state.lines.place(item.span().start);
                    (format!("{key}[{n}]"), place, item.into_inner())
                };
                items.into_iter().enumerate().map(number).collect()
            }
            value => vec![(key.to_owned(), place, value)],
        };
        let placeholders = Rc::clone(&self.state.placeholders);
        let count = written.len();
        let mut values = Vec::new();
        for (key, place, value) in written {
            let read = match value {
                DeValue::String(text) if text.is_empty() => {
                    Err("is empty: fill it in, or remove it".to_owned())
                }
                DeValue::String(text) => replaced(&placeholders, text, place, &parse),
                other => Err(format!("must be text in quotes (is {})", kind(&other))),
            };
            match read {
                Ok(value) => values.push(Spanned { key: whole_key(self.name, &key), place, value }),
                Err(what) => self.complain(&key, place, what),
            }
        }
        (values.len() == count).then_some(Spanned { key: whole, place, value: values })
    }

    /// A table; `None` if the file has none.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut TableReader<'_, '_>) -> T,
    ) -> Option<T> {
        self.table_within(key, key, read)
    }

    /// A table in this one; `name` is the full one in the file, such as `cloud.v2`.
    pub(super) fn table_within<T>(
        &mut self,
        key: &'static str,
        name: &'static str,
        read: impl FnOnce(&mut TableReader<'_, '_>) -> T,
    ) -> Option<T> {
        let suggest = self.state.suggest;
        let found = self.value(key, |value| match value {
            DeValue::Table(entries) => Ok(entries),
            other => {
                let unknown = Unknown { table: "", key, value: &other, beside: &DeTable::new() };
                let below = suggest(&unknown).unwrap_or_else(|| "its keys below it".to_owned());
                Err(format!("must be a table: write [{name}] and {below} (is {})", kind(&other)))
            }
        });
        let (place, entries, written) = match found {
            Some(at) => (at.place, at.value, true),
            None => (NOWHERE, DeTable::new(), false),
        };
        let value = TableReader { state: &mut *self.state, name, place, entries }.read(read);
        written.then_some(value)
    }

    /// Repeated tables; `name` is the full one in the file, such as `broker.user`.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        name: &'static str,
        read: impl Fn(&mut TableReader<'_, '_>) -> T,
    ) -> Vec<T> {
        self.state.known.lists.insert(name);
        // An empty read first, so that the keys are known if the file has no such table.
        TableReader { state: &mut *self.state, name, place: NOWHERE, entries: DeTable::new() }.read(&read);
        let found = self.value(key, |value| match value {
            DeValue::Array(items) => Ok(items),
            other => Err(format!("must be written [[{name}]], in double brackets (is {})", kind(&other))),
        });
        let mut values = Vec::new();
        for item in found.map(|at| at.value).into_iter().flatten() {
            let place = self.state.lines.place(item.span().start);
            match item.into_inner() {
                DeValue::Table(entries) => {
                    values.push(TableReader { state: &mut *self.state, name, place, entries }.read(&read));
                }
                other => self.complain(key, place, format!("must hold tables only (holds {})", kind(&other))),
            }
        }
        values
    }

    /// Runs `read`, then records the keys that it left.
    fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let value = read(&mut self);
        for (key, value) in &self.entries {
            let (table, beside) = (self.name, &self.entries);
            let place = self.state.lines.place(key.span().start);
            let unknown = Unknown { table, key: key.get_ref(), value: value.get_ref(), beside };
            let advice = (self.state.suggest)(&unknown);
            self.state.unknown.push(UnknownKey {
                table,
                key: key.get_ref().clone().into_owned(),
                place,
                advice,
            });
        }
        value
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(DeValue<'t>) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        self.placed_value(key, |value, _| read(value))
    }

    fn placed_value<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(DeValue<'t>, Place) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        self.state.known.keys.insert((self.name, key));
        let (written_key, value) = self.entries.remove_entry(key)?;
        let place = self.state.lines.place(written_key.span().start);
        match read(value.into_inner(), place) {
            Ok(value) => Some(Spanned { key: whole_key(self.name, key), place, value }),
            Err(what) => {
                self.complain(key, place, what);
                None
            }
        }
    }

    fn complain(&mut self, key: &str, place: Place, what: String) {
        self.state.faults.push(Diagnostic {
            place: Some(place),
            column: None,
            key: whole_key(self.name, key),
            what,
        });
    }
}

/// What reading has found so far.
struct ReadState {
    lines: LineIndex,
    placeholders: Rc<Placeholders>,
    faults: Vec<Diagnostic>,
    known: KnownKeys,
    unknown: Vec<UnknownKey>,
    suggest: Suggest,
}

/// Returns what to write instead of an unknown key, or below a table that is written as a value.
pub(super) type Suggest = fn(&Unknown<'_>) -> Option<String>;

/// An unknown key with its value, and the other unknown keys of its table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unknown<'a> {
    /// Empty at the top level of the file.
    pub(super) table: &'static str,
    /// As written.
    pub(super) key: &'a str,
    value: &'a DeValue<'a>,
    beside: &'a DeTable<'a>,
}

impl Unknown<'_> {
    /// Its value as text, unless it is a list or a table.
    pub(super) fn value(&self) -> Option<Cow<'_, str>> {
        word(self.value)
    }

    /// The value of the first of these keys in its table that is unknown as well; may be its own.
    pub(super) fn beside(&self, keys: &[&str]) -> Option<Cow<'_, str>> {
        keys.iter().find_map(|key| word(self.beside.get(*key)?.get_ref()))
    }
}

/// Parses a text with its placeholders replaced. An option, which is laid over the file, is taken as it is.
fn replaced<T>(
    placeholders: &Placeholders,
    text: Cow<'_, str>,
    place: Place,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, String> {
    if matches!(place, Place::Option(_)) {
        return parse(&text);
    }
    let replaced = placeholders.replace(text)?;
    parse(&replaced.text).map_err(|what| replaced.fault(what))
}

/// The text of a string, number or flag.
fn word<'a>(value: &'a DeValue<'_>) -> Option<Cow<'a, str>> {
    match value {
        DeValue::String(text) => Some(Cow::Borrowed(text)),
        DeValue::Integer(number) => Some(number.to_string().replace('_', "").into()),
        DeValue::Boolean(flag) => Some(if *flag { "true" } else { "false" }.into()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text in quotes",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The most digits of a number in a message.
const DIGITS: usize = 20;

/// A number as written; TOML allows any number of digits.
fn digits(number: &toml::de::DeInteger<'_>) -> String {
    shown(&number.to_string(), DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let read = |t: &mut TableReader<'_, '_>| {
            t.table("mqtt", |t| (t.text("url"), t.secret("password"), t.port("port"), t.flag("clean")));
            t.tables("plug", "plug", |t| {
                t.duration("poll_interval", Duration::from_secs(1)..=Duration::from_secs(3600))
            });
        };
        match document(text, &Overlay::default(), &Rc::default(), |_| None, read) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn every_fault_has_its_line_and_its_key() {
        let text = "[mqtt]\nurl = 5\npasword = \"x\"\nport = 70000\nclean = \"yes\"\n\n[[plug]]\npoll_interval = 5\n\
                    [[plug]]\npoll_interval = \"0s\"\n[mqqt]\n";
        assert_eq!(
            faults(text),
            [
                "2: mqtt.url: must be text in quotes (is a number)",
                "3: mqtt.pasword: is not known: did you mean `password`?",
                "4: mqtt.port: must be between 1 and 65535 (is 70000)",
                "5: mqtt.clean: must be true or false, without quotes (is text in quotes)",
                "8: plug.poll_interval: has no unit: write \"5s\" for seconds, in quotes",
                "10: plug.poll_interval: must be between 1s and 1h (is 0s)",
                "11: mqqt: is not known: did you mean [mqtt]?",
            ]
        );
    }

    /// Found by the fuzzer: the line was as long as the number or the key.
    #[test]
    fn a_fault_is_a_line_of_bounded_length_whatever_is_wrong() {
        let (digits, key) = ("9".repeat(5000), "k".repeat(5000));
        for text in [
            format!("[mqtt]\nport = {digits}"),
            format!("[[plug]]\npoll_interval = {digits}"),
            format!("[[plug]]\npoll_interval = \"{digits}\""),
            format!("[[plug]]\npoll_interval = \"5{key}\""),
            format!("[mqtt]\n{key} = 1"),
            format!("[{key}]"),
        ] {
            let [fault] = &faults(&text)[..] else { panic!("one fault: {text}") };
            assert!(fault.len() < 300, "{fault}");
        }
    }

    #[test]
    fn a_key_in_the_wrong_table_is_told_the_right_one() {
        assert_eq!(
            faults("[mqtt]\npoll_interval = \"5s\"\n"),
            ["2: mqtt.poll_interval: is not known here, only in [[plug]]: move it there, or write `clean`, \
                 `password`, `port` or `url`"]
        );
    }

    #[test]
    fn text_that_is_not_toml_is_reported_by_line_and_column_and_not_quoted() {
        for (text, place) in [
            ("[mqtt]\npassword = hunter2\n", "2:12: is not TOML: "),
            ("[mqtt]\npassword = \"hunter2\n", "2:"),
            ("[mqtt]\npassword = \"hunter2\"hunter2\"\n", "2:"),
            (
                "[mqtt]\npassword = \"hunter2\"\npassword = \"hunter2\"\n",
                "3: mqtt.password: is there already, in line 2: keep one of the two",
            ),
            ("[mqtt\nhunter2", "1:"),
            ("password = \"\\hunter2\"", "1:"),
        ] {
            let [fault] = &faults(text)[..] else { panic!("one fault: {text}") };
            assert!(fault.starts_with(place), "{text}: {fault}");
            assert!(!fault.contains("hunter2") && !fault.contains('\n'), "{fault}");
        }
    }

    #[test]
    fn a_secret_of_the_wrong_type_is_not_quoted() {
        assert_eq!(
            faults("mqtt.password = 12345"),
            ["1: mqtt.password: must be text in quotes (is a number)"]
        );
    }

    #[test]
    fn a_table_written_as_a_value_is_told_how_to_write_it() {
        assert_eq!(
            faults("mqtt = 3\n[plug]\n"),
            [
                "1: mqtt: must be a table: write [mqtt] and its keys below it (is a number)",
                "2: plug: must be written [[plug]], in double brackets (is a table)",
            ]
        );
    }
}
