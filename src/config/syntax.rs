//! Where a byte of the file is, and what is wrong with text that is not TOML.

use super::diagnostic::{Diagnostic, Place, whole_key};
use super::overlay::OptionName;
use super::unknown_keys::KnownKeys;

/// The offset of each line, so that ten thousand plugs do not mean ten thousand counts from the top.
pub(super) struct LineIndex {
    starts: Vec<usize>,
    /// The length of the text.
    end: usize,
    /// What is laid over the file, in the order of the offsets behind its end.
    options: Vec<OptionName>,
}

impl LineIndex {
    pub(super) fn of(text: &str, options: Vec<OptionName>) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { starts, end: text.len(), options }
    }

    pub(super) fn place(&self, offset: usize) -> Place {
        let option = offset.checked_sub(self.end + 1).and_then(|number| self.options.get(number));
        option.map_or_else(|| Place::Line(self.line(offset)), |name| Place::Option(*name))
    }

    /// The line of a byte, from 1.
    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// The TOML parser's message, without the line that it quotes: that may hold a secret.
    pub(super) fn not_toml(&self, text: &str, error: &toml::de::Error) -> Diagnostic {
        let offset = error.span().map_or(0, |span| span.start).min(text.len());
        let line = self.line(offset);
        let column = text.get(self.starts[line - 1]..offset).map_or(1, |before| before.chars().count() + 1);
        let what = format!("is not TOML: {}: correct it from there", error.message());
        Diagnostic { place: Some(Place::Line(line)), column: Some(column), key: String::new(), what }
    }

    /// The fault of a duplicate key or table, if the parser reports one.
    pub(super) fn duplicate(
        &self,
        text: &str,
        error: &toml::de::Error,
        known: &KnownKeys,
    ) -> Option<Diagnostic> {
        let span = error.span().filter(|_| error.message() == "duplicate key")?;
        let line = self.line(span.start);
        let key = text.get(span)?;
        let before: Vec<&str> = text
            .lines()
            .take(line - 1)
            .map(|line| line.trim_start_matches('\u{feff}').trim_start())
            .collect();
        let place = |at: usize| format!("is there already, in line {}", at + 1);
        let fault = |key: String, what: String| Diagnostic {
            place: Some(Place::Line(line)),
            column: None,
            key,
            what,
        };
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

/// The table of a header line.
fn header(line: &str) -> Option<&str> {
    let name = line.strip_prefix('[')?;
    name.strip_prefix('[').unwrap_or(name).split(']').next().map(str::trim)
}
