//! hs100d.toml(5), made from the annotated example. The example consists of tables, keys below the comment that explains
//! them, and comments followed by an empty line, which are about the whole file.

use std::io;

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::{see_also, title};
use crate::config::paths;

const EXAMPLE: &str = include_str!("../../../examples/hs100d.toml");
/// The line in which the example explains how it marks defaults. The page says it in words at each key.
const OF_THE_FILE_ONLY: &str = "Lines with a # before a key ";

pub(super) fn render(page: &mut Vec<u8>) -> io::Result<()> {
    let example = Example::read(EXAMPLE);
    title(page, "hs100d.toml", "5", "File Formats")?;
    let mut roff = Roff::default();
    roff.control("SH", ["NAME"]).text([roman("hs100d.toml - the config of hs100d")]);
    roff.control("SH", ["DESCRIPTION"]);
    for text in example.about.iter().filter(|text| !text.starts_with(OF_THE_FILE_ONLY)) {
        roff.control("PP", []).text(inlines(text));
    }
    roff.control("SH", ["KEYS"]);
    for table in &example.tables {
        roff.control("SS", [table.name]);
        for text in &table.about {
            roff.control("PP", []).text(inlines(text));
        }
        for group in &table.groups {
            group.render(&mut roff);
        }
    }
    roff.control("SH", ["FILES"]);
    for (file, meaning) in paths::FILES {
        roff.control("TP", []).text([bold(*file)]).text([roman(*meaning)]);
    }
    roff.to_writer(page)?;
    see_also(&[("hs100d", "1")]).to_writer(page)
}

/// The parsed example.
#[derive(Debug, Default, PartialEq)]
struct Example<'a> {
    about: Vec<String>,
    tables: Vec<ManTable<'a>>,
}

/// A table; its name has one pair of brackets or two, as written.
#[derive(Debug, Default, PartialEq)]
struct ManTable<'a> {
    name: &'a str,
    about: Vec<String>,
    groups: Vec<Group<'a>>,
}

/// Keys with one comment in common.
#[derive(Debug, Default, PartialEq)]
struct Group<'a> {
    about: Vec<String>,
    keys: Vec<ManKey<'a>>,
}

#[derive(Debug, PartialEq)]
struct ManKey<'a> {
    name: &'a str,
    value: &'a str,
    is_default: bool,
}

/// One line of the example.
enum ExampleLine<'a> {
    Empty,
    Table(&'a str),
    Key(ManKey<'a>),
    /// A line of a comment; an empty one separates two paragraphs.
    Text(&'a str),
}

impl<'a> Example<'a> {
    fn read(text: &'a str) -> Self {
        let mut example = Self::default();
        let mut about = vec![String::new()];
        // An empty line at the end closes the last comment.
        for line in text.lines().chain([""]) {
            match ExampleLine::read(line) {
                ExampleLine::Text("") => about.push(String::new()),
                ExampleLine::Text(words) => {
                    if let Some(paragraph) = about.last_mut() {
                        paragraph.push_str(if paragraph.is_empty() { "" } else { " " });
                        paragraph.push_str(words);
                    }
                }
                ExampleLine::Empty => example.about.extend(taken(&mut about)),
                ExampleLine::Table(name) => {
                    let table = ManTable { name, about: taken(&mut about), groups: Vec::new() };
                    example.tables.push(table);
                }
                ExampleLine::Key(key) => {
                    let about = taken(&mut about);
                    let Some(table) = example.tables.last_mut() else { continue };
                    match table.groups.last_mut() {
                        Some(group) if about.is_empty() => group.keys.push(key),
                        _ => table.groups.push(Group { about, keys: vec![key] }),
                    }
                }
            }
        }
        example
    }
}

impl<'a> ExampleLine<'a> {
    fn read(line: &'a str) -> Self {
        let comment = line.strip_prefix('#');
        let content = comment.unwrap_or(line).trim();
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        match content.split_once(" = ") {
            _ if line.is_empty() => Self::Empty,
            _ if content.starts_with('[') && content.ends_with(']') => Self::Table(content),
            Some((name, value)) if is_name(name) => {
                Self::Key(ManKey { name, value, is_default: comment.is_none() })
            }
            _ => Self::Text(content),
        }
    }
}

impl Group<'_> {
    fn render(&self, roff: &mut Roff) {
        for (n, key) in self.keys.iter().enumerate() {
            let kind = if key.is_default { "  (default)" } else { "  (example)" };
            let tag = [bold(key.name), roman(" = "), italic(key.value), roman(kind)];
            roff.control(if n == 0 { "TP" } else { "TQ" }, []).text(tag);
        }
        for (n, text) in self.about.iter().enumerate() {
            if n > 0 {
                roff.control("IP", []);
            }
            roff.text(inlines(text));
        }
    }
}

/// Takes the paragraphs so far, and begins the next.
fn taken(about: &mut Vec<String>) -> Vec<String> {
    let mut paragraphs = std::mem::replace(about, vec![String::new()]);
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs
}

/// Text, in which `code` is bold.
fn inlines(text: &str) -> Vec<Inline> {
    text.split('`').enumerate().map(|(n, part)| if n % 2 == 1 { bold(part) } else { roman(part) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_belong_to_what_stands_below_them() {
        let example = Example::read(
            "# The file,\n# all of it.\n#\n# And more.\n\n# A table.\n#\n# [[a]]\n# Two keys.\n# one = 1\n# two = \"= 2\"\n\
             # A third.\nthree = [3]\n\n[b]\n# A comment = of words.\nfour = 4\n",
        );
        let key = |name, value, is_default| ManKey { name, value, is_default };
        assert_eq!(example.about, ["The file, all of it.", "And more."]);
        assert_eq!(
            example.tables,
            [
                ManTable {
                    name: "[[a]]",
                    about: vec!["A table.".to_owned()],
                    groups: vec![
                        Group {
                            about: vec!["Two keys.".to_owned()],
                            keys: vec![key("one", "1", false), key("two", "\"= 2\"", false)],
                        },
                        Group { about: vec!["A third.".to_owned()], keys: vec![key("three", "[3]", true)] },
                    ],
                },
                ManTable {
                    name: "[b]",
                    about: vec![],
                    groups: vec![Group {
                        about: vec!["A comment = of words.".to_owned()],
                        keys: vec![key("four", "4", true)],
                    }],
                },
            ]
        );
    }

    #[test]
    fn nothing_of_the_example_is_left_without_a_word() {
        let example = Example::read(EXAMPLE);
        assert!(example.about.iter().any(|text| text.starts_with(OF_THE_FILE_ONLY)), "{:?}", example.about);
        for table in &example.tables {
            assert!(!table.groups.is_empty(), "{}", table.name);
            for group in &table.groups {
                assert!(!group.about.is_empty(), "{}: {:?}", table.name, group.keys);
            }
        }
    }
}
