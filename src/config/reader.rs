//! A typed reader over TOML that remembers lines: it says what is wrong, where, and what to do, and goes on.
//!
//! It knows types, units and ranges, but no key of ours; [`super::file`] knows those. A key counts as known
//! when somebody asked for it, so there is no second list of keys to keep in step. Values are quoted in
//! complaints except those of secrets; a line of the file never is, for it may hold one. What to write instead of a key
//! that is not known is said by a [`Suggest`] of the caller's, where that has something better than the nearest key.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::duration;
use crate::model::shown;
use crate::secret::Secret;

/// A value together with where it was written.
#[derive(Debug, Clone)]
pub(super) struct Spanned<T> {
    /// The whole key, such as `mqtt.url`.
    pub(super) key: String,
    /// The line, from 1.
    pub(super) line: usize,
    /// What was written there.
    pub(super) value: T,
}

impl<T> Spanned<T> {
    /// A complaint about this value.
    pub(super) fn fault(&self, what: impl Into<String>) -> Diagnostic {
        Diagnostic { line: Some(self.line), column: None, key: self.key.clone(), what: what.into() }
    }
}

/// Something wrong (or unwise) in the config: one line, with the remedy in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Diagnostic {
    pub(super) line: Option<usize>,
    pub(super) column: Option<usize>,
    pub(super) key: String,
    pub(super) what: String,
}

impl Diagnostic {
    /// A complaint about something that is not in the file.
    pub(super) fn of(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { line: None, column: None, key: key.into(), what: what.into() }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(column) = self.column {
            write!(f, "{column}:")?;
        }
        if self.line.is_some() {
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// Reads a whole document. `read` takes out what it knows; what is left over is a fault, as is all that did
/// not fit.
pub(super) fn document<T>(
    text: &str,
    suggest: Suggest,
    read: impl FnOnce(&mut TableReader<'_, '_>) -> T,
) -> Result<(T, KnownKeys), Vec<Diagnostic>> {
    let lines = LineIndex::of(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    let known = KnownKeys::default();
    let mut notes = ReadState { lines, faults: Vec::new(), known, strangers: Vec::new(), suggest };
    // One slip makes the parser stumble over what follows as well; the first place is the one to look at.
    if let Some(error) = errors.iter().min_by_key(|error| error.span().map(|span| span.start)) {
        // Read from nothing, so that the keys are known.
        TableReader { notes: &mut notes, name: "", line: 0, entries: DeTable::new() }.read(read);
        let ReadState { lines, known, .. } = notes;
        return Err(vec![
            lines.given_twice(text, error, &known).unwrap_or_else(|| lines.not_toml(text, error)),
        ]);
    }
    let value = TableReader { notes: &mut notes, name: "", line: 1, entries: root.into_inner() }.read(read);
    let ReadState { mut faults, known, strangers, .. } = notes;
    faults.extend(strangers.iter().map(|stranger| known.introduce(stranger)));
    faults.sort();
    if faults.is_empty() { Ok((value, known)) } else { Err(faults) }
}

/// One table of the document, from which values are taken by key.
pub(super) struct TableReader<'n, 't> {
    notes: &'n mut ReadState,
    name: &'static str,
    line: usize,
    entries: DeTable<'t>,
}

impl<'t> TableReader<'_, 't> {
    /// The line that this table begins at.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Text that is not empty.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Spanned<String>> {
        self.parsed(key, |text| Ok(text.to_owned()))
    }

    /// Text that `parse` makes a value of, or says what is wrong with it.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        self.text_of(key, |text| parse(&text))
    }

    fn text_of<T>(
        &mut self,
        key: &'static str,
        take: impl FnOnce(Cow<'t, str>) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        self.value(key, |value| match value {
            DeValue::String(text) if text.is_empty() => {
                Err("is empty: fill it in, or remove the line".to_owned())
            }
            DeValue::String(text) => take(text),
            other => Err(format!("must be text in quotes (is {})", kind(&other))),
        })
    }

    /// Text that is not quoted in any complaint.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Spanned<Secret>> {
        self.text_of(key, |text| Ok(Secret::new(text.into_owned())))
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<Spanned<bool>> {
        self.value(key, |value| match value {
            DeValue::Boolean(flag) => Ok(flag),
            other => Err(format!("must be true or false, without quotes (is {})", kind(&other))),
        })
    }

    /// A TCP or UDP port.
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

    /// One word of a few.
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

    /// A list of at most `most` texts, each of which `parse` makes a value of.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        most: usize,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Spanned<Vec<T>>> {
        self.value(key, |value| {
            let DeValue::Array(items) = value else {
                return Err(format!("must be a list in square brackets (is {})", kind(&value)));
            };
            if items.len() > most {
                return Err(format!("must hold at most {most} values (holds {})", items.len()));
            }
            let item = |item: toml::Spanned<DeValue<'_>>| match item.into_inner() {
                DeValue::String(text) => parse(&text),
                other => Err(format!("must hold texts in quotes (holds {})", kind(&other))),
            };
            items.into_iter().map(item).collect()
        })
    }

    /// A table by this name. `None` if the file has none, but its keys are known all the same.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut TableReader<'_, '_>) -> T,
    ) -> Option<T> {
        let suggest = self.notes.suggest;
        let found = self.value(key, |value| match value {
            DeValue::Table(entries) => Ok(entries),
            other => {
                let unknown = Unknown { table: "", key, value: &other, beside: &DeTable::new() };
                let below = suggest(&unknown).unwrap_or_else(|| "its keys below it".to_owned());
                Err(format!("must be a table: write [{key}] and {below} (is {})", kind(&other)))
            }
        });
        let (line, entries, written) = match found {
            Some(at) => (at.line, at.value, true),
            None => (0, DeTable::new(), false),
        };
        let value = TableReader { notes: &mut *self.notes, name: key, line, entries }.read(read);
        written.then_some(value)
    }

    /// Any number of tables under this key; `name` is what the file calls them, with the tables that they are in.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        name: &'static str,
        read: impl Fn(&mut TableReader<'_, '_>) -> T,
    ) -> Vec<T> {
        self.notes.known.lists.insert(name);
        // Read once from nothing, so that the keys are known even where the file has no such table.
        TableReader { notes: &mut *self.notes, name, line: 0, entries: DeTable::new() }.read(&read);
        let found = self.value(key, |value| match value {
            DeValue::Array(items) => Ok(items),
            other => Err(format!("must be written [[{name}]], in double brackets (is {})", kind(&other))),
        });
        let mut values = Vec::new();
        for item in found.map(|at| at.value).into_iter().flatten() {
            let line = self.notes.lines.line(item.span().start);
            match item.into_inner() {
                DeValue::Table(entries) => {
                    values.push(TableReader { notes: &mut *self.notes, name, line, entries }.read(&read));
                }
                other => self.complain(key, line, format!("must hold tables only (holds {})", kind(&other))),
            }
        }
        values
    }

    /// Lets `read` take what it knows and notes what it left over.
    fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let value = read(&mut self);
        for (key, value) in &self.entries {
            let (table, beside) = (self.name, &self.entries);
            let line = self.notes.lines.line(key.span().start);
            let unknown = Unknown { table, key: key.get_ref(), value: value.get_ref(), beside };
            let advice = (self.notes.suggest)(&unknown);
            self.notes.strangers.push(UnknownKey {
                table,
                key: key.get_ref().clone().into_owned(),
                line,
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
        self.notes.known.keys.insert((self.name, key));
        let (written_key, value) = self.entries.remove_entry(key)?;
        let line = self.notes.lines.line(written_key.span().start);
        match read(value.into_inner()) {
            Ok(value) => Some(Spanned { key: whole_key(self.name, key), line, value }),
            Err(what) => {
                self.complain(key, line, what);
                None
            }
        }
    }

    fn complain(&mut self, key: &str, line: usize, what: String) {
        self.notes.faults.push(Diagnostic {
            line: Some(line),
            column: None,
            key: whole_key(self.name, key),
            what,
        });
    }
}

/// What is gathered while a document is read.
struct ReadState {
    lines: LineIndex,
    faults: Vec<Diagnostic>,
    known: KnownKeys,
    strangers: Vec<UnknownKey>,
    suggest: Suggest,
}

/// Says what to write instead of a key that is not known, or below a table that was written as a value.
pub(super) type Suggest = fn(&Unknown<'_>) -> Option<String>;

/// A key that nobody asked for, with its value and what else in its table nobody asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unknown<'a> {
    /// The table, empty for the file's own keys.
    pub(super) table: &'static str,
    /// The key as it is written.
    pub(super) key: &'a str,
    value: &'a DeValue<'a>,
    beside: &'a DeTable<'a>,
}

impl Unknown<'_> {
    /// Its value in one word, if it is one.
    pub(super) fn value(&self) -> Option<Cow<'_, str>> {
        word(self.value)
    }

    /// The value of the first of these keys that stands beside it and is not known either, or that it is itself.
    pub(super) fn beside(&self, keys: &[&str]) -> Option<Cow<'_, str>> {
        keys.iter().find_map(|key| word(self.beside.get(*key)?.get_ref()))
    }
}

/// A value that is text, a number or a flag.
fn word<'a>(value: &'a DeValue<'_>) -> Option<Cow<'a, str>> {
    match value {
        DeValue::String(text) => Some(Cow::Borrowed(text)),
        DeValue::Integer(number) => Some(number.to_string().replace('_', "").into()),
        DeValue::Boolean(flag) => Some(if *flag { "true" } else { "false" }.into()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// A key that nobody asked for.
struct UnknownKey {
    table: &'static str,
    key: String,
    line: usize,
    advice: Option<String>,
}

/// Every key that was asked for, with its table; the tables themselves are in the table without a name.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownKeys {
    keys: BTreeSet<(&'static str, &'static str)>,
    /// The tables of which there may be many.
    lists: BTreeSet<&'static str>,
}

impl KnownKeys {
    /// The keys as one writes them with a dot, tables left out.
    pub(super) fn keys(&self) -> impl Iterator<Item = String> {
        let keys = self.keys.iter().filter(|(table, _)| !table.is_empty());
        keys.map(|(table, key)| whole_key(table, key)).filter(move |name| !self.is_table(name))
    }

    fn is_table(&self, name: &str) -> bool {
        self.keys.iter().any(|(table, _)| *table == name)
    }

    /// A table as its line is written.
    fn header(&self, table: &str) -> String {
        if self.lists.contains(table) { format!("[[{table}]]") } else { format!("[{table}]") }
    }

    /// A key as it is written in its table, which may be a table itself.
    fn written(&self, table: &str, key: &str) -> String {
        let name = whole_key(table, key);
        if self.is_table(&name) { self.header(&name) } else { format!("`{key}`") }
    }

    /// Says of a key that nobody knows which known one may have been meant.
    fn introduce(&self, stranger: &UnknownKey) -> Diagnostic {
        let UnknownKey { table, key, line, advice } = stranger;
        let what = match advice {
            Some(advice) => format!("is not known: {advice}"),
            None => self.advise(table, key),
        };
        Diagnostic { line: Some(*line), column: None, key: whole_key(table, key), what }
    }

    fn advise(&self, table: &str, key: &str) -> String {
        let neighbours: Vec<&str> =
            self.keys.iter().filter(|(t, _)| *t == table).map(|(_, key)| *key).collect();
        let nearest = neighbours.iter().min_by_key(|known| distance(key, known));
        if let Some(near) = nearest.filter(|near| distance(key, near) <= key.chars().count().max(4) / 2) {
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

/// Where each line begins, so that ten thousand plugs do not mean counting from the top for each.
struct LineIndex(Vec<usize>);

impl LineIndex {
    fn of(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// The line of a byte, from 1.
    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }

    /// What the TOML parser says, without the line that it would quote.
    fn not_toml(&self, text: &str, error: &toml::de::Error) -> Diagnostic {
        let offset = error.span().map_or(0, |span| span.start).min(text.len());
        let line = self.line(offset);
        let column = text.get(self.0[line - 1]..offset).map_or(1, |before| before.chars().count() + 1);
        let what = format!("is not TOML: {}: correct it from there", error.message());
        Diagnostic { line: Some(line), column: Some(column), key: String::new(), what }
    }

    /// A key or a table that is there already, if that is what the parser complains of.
    fn given_twice(&self, text: &str, error: &toml::de::Error, known: &KnownKeys) -> Option<Diagnostic> {
        let span = error.span().filter(|_| error.message() == "duplicate key")?;
        let line = self.line(span.start);
        let key = text.get(span)?;
        let before: Vec<&str> = text
            .lines()
            .take(line - 1)
            .map(|line| line.trim_start_matches('\u{feff}').trim_start())
            .collect();
        let place = |at: usize| format!("is there already, in line {}", at + 1);
        let fault = |key: String, what: String| Diagnostic { line: Some(line), column: None, key, what };
        let here = text.lines().nth(line - 1)?.trim();
        if here.starts_with('[') {
            let name = here.trim_start_matches('[').split(']').next()?.trim();
            let at = before.iter().position(|earlier| header(earlier) == Some(name))?;
            let remedy = if known.lists.contains(name) {
                format!("write each as [[{name}]], in double brackets")
            } else {
                "put all its keys below one of the two".to_owned()
            };
            return Some(fault(whole_key("", name), format!("{}: {remedy}", place(at))));
        }
        let section = before.iter().rposition(|line| line.starts_with('['));
        let table = section.and_then(|at| header(before[at])).unwrap_or_default();
        let is_key =
            |line: &str| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
        let begin = section.map_or(0, |at| at + 1);
        let at = begin + before[begin..].iter().position(|line| is_key(line))?;
        Some(fault(whole_key(table, key), format!("{}: keep one of the two", place(at))))
    }
}

/// The table whose line this is.
fn header(line: &str) -> Option<&str> {
    let name = line.strip_prefix('[')?;
    name.strip_prefix('[').unwrap_or(name).split(']').next().map(str::trim)
}

/// The longest value that is quoted whole in a complaint.
const QUOTED: usize = 60;

/// As many digits as any number of use has.
const DIGITS: usize = 20;

/// A value of the user's for a one-line message.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A number as it was written, of which TOML bounds the digits no more than we do its sense.
fn digits(number: &toml::de::DeInteger<'_>) -> String {
    shown(&number.to_string(), DIGITS)
}

fn whole_key(table: &str, key: &str) -> String {
    // A key may be anything in quotes; a complaint stays on its line.
    let is_plain = key.len() <= QUOTED && !key.chars().any(char::is_control);
    let key = if is_plain { key.to_owned() } else { quoted(key) };
    if table.is_empty() { key } else { format!("{table}.{key}") }
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

fn one_of(words: impl IntoIterator<Item = String>) -> String {
    let mut words: Vec<String> = words.into_iter().collect();
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { last } else { format!("{} or {last}", words.join(", ")) }
}

/// How many letters must be added, dropped or changed to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for j in 0..b.len() {
            let changed = diagonal + usize::from(letter != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
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
        match document(text, |_| None, read) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn the_distance_of_two_words_counts_letters() {
        for (a, b, d) in
            [("", "", 0), ("url", "url", 0), ("uri", "url", 1), ("", "abc", 3), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }

    #[test]
    fn every_fault_is_told_with_its_line_and_its_key() {
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
    fn a_key_in_the_wrong_table_is_told_where_it_belongs() {
        assert_eq!(
            faults("[mqtt]\npoll_interval = \"5s\"\n"),
            ["2: mqtt.poll_interval: is not known here, only in [[plug]]: move it there, or write `clean`, \
                 `password`, `port` or `url`"]
        );
    }

    #[test]
    fn what_is_not_toml_is_told_by_line_and_column_and_not_quoted() {
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
    fn a_table_written_as_something_else_is_told_how_to_write_it() {
        assert_eq!(
            faults("mqtt = 3\n[plug]\n"),
            [
                "1: mqtt: must be a table: write [mqtt] and its keys below it (is a number)",
                "2: plug: must be written [[plug]], in double brackets (is a table)",
            ]
        );
    }
}
