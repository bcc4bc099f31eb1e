//! Reads JSON that is not quite valid, or whose fields have unexpected types: each field separately, so that one bad
//! value does not hide the others. Slower than serde's derived readers, and used only when those fail.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Many editors put it at the start of a text; JSON does not allow it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A JSON object: its keys in their order, each with the text of its value. A key may occur twice.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// Keys with a value that cannot be read.
    unread: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The string of this key, or an empty one. A number counts as the text in which it is written.
    pub fn text(&mut self, key: &'static str) -> Cow<'a, str> {
        self.read(key, as_text).unwrap_or_default()
    }

    /// The value of this key, if it has this type. Firmwares write `null` for values that they do not have.
    pub fn value<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        self.read(key, |json| serde_json::from_str::<Option<T>>(json).ok()).flatten()
    }

    /// The items of the list of this key, or none.
    pub(crate) fn list(&mut self, key: &'static str) -> Vec<&'a RawValue> {
        self.read(key, |json| serde_json::from_str(json).ok()).unwrap_or_default()
    }

    /// The object of this key.
    pub fn object(&mut self, key: &'static str) -> Option<Self> {
        self.read(key, |json| serde_json::from_str(json).ok())
    }

    /// Records that a part of the value of this key cannot be read.
    pub(crate) fn note_unread(&mut self, key: &'static str) {
        if !self.unread.contains(&key) {
            self.unread.push(key);
        }
    }

    /// The keys that were requested and whose values could not be read.
    pub(crate) fn unread(self) -> Vec<&'static str> {
        self.unread
    }

    /// The last readable value of this key.
    fn read<T>(&mut self, key: &'static str, mut read: impl FnMut(&'a str) -> Option<T>) -> Option<T> {
        let mut values = self.entries.iter().rev().filter(|(found, _)| found == key).peekable();
        values.peek()?;
        let found = values.find_map(|(_, json)| read(json.get()));
        if found.is_none() {
            self.note_unread(key);
        }
        found
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AnyObject)
    }
}

struct AnyObject;

impl<'de> Visitor<'de> for AnyObject {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some((LenientText(key), value)) = map.next_entry()? {
            entries.push((key, value));
        }
        Ok(Fields { entries, unread: Vec::new() })
    }
}

/// A string, borrowed if it has no escapes.
#[derive(Deserialize)]
struct LenientText<'a>(#[serde(borrow)] Cow<'a, str>);

fn as_text(json: &str) -> Option<Cow<'_, str>> {
    match json.bytes().next()? {
        b'"' => match serde_json::from_str(json) {
            Ok(LenientText(text)) => Some(text),
            Err(_) => serde_json::from_str(&repaired(json)?).ok().map(|text: String| text.into()),
        },
        b'-' | b'0'..=b'9' => Some(json.into()),
        _ => None,
    }
}

/// For a field of a derived reader: a value that cannot be read counts as absent.
pub(crate) fn if_readable<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let json: &RawValue = Deserialize::deserialize(deserializer)?;
    Ok(serde_json::from_str(json.get()).ok())
}

/// A value that may be unreadable without an effect on the others: an item of a list, or a value that is not needed.
#[derive(Debug)]
pub(crate) struct IfReadable<T>(pub(crate) Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for IfReadable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if_readable(deserializer).map(Self)
    }
}

/// The text without harmless violations of JSON: a byte order mark at its start, unescaped control characters, and
/// unpaired surrogates. `None` if there are none.
pub fn repaired(text: &str) -> Option<String> {
    let json = text.trim_start_matches(BYTE_ORDER_MARK);
    let mut repaired = String::with_capacity(json.len());
    let mut is_in_string = false;
    let mut rest = json;
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        match c {
            '\\' if is_in_string => {
                let (escape, taken) = escape(rest);
                repaired.push_str(escape);
                length = taken;
            }
            '\0'..='\x1f' if is_in_string => repaired.push_str(&format!("\\u{:04x}", u32::from(c))),
            '\0'..='\x1f' => repaired.push(' '),
            _ => {
                is_in_string ^= c == '"';
                repaired.push(c);
            }
        }
        rest = &rest[length..];
    }
    (repaired != text).then_some(repaired)
}

/// The escape at the start of the text, or its replacement, and its length.
fn escape(text: &str) -> (&str, usize) {
    const UNIT: usize = r"\u0000".len();
    let unit = |text: &str| -> Option<u16> {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
    };
    match unit(text) {
        Some(0xd800..=0xdbff) => match text.get(UNIT..).and_then(unit) {
            Some(0xdc00..=0xdfff) => (&text[..2 * UNIT], 2 * UNIT),
            _ => (r"\ufffd", UNIT),
        },
        Some(0xdc00..=0xdfff) => (r"\ufffd", UNIT),
        Some(_) => (&text[..UNIT], UNIT),
        None => {
            // The backslash and the character that it escapes, which may be a quotation mark.
            let escaped = text.chars().nth(1).filter(|&c| !c.is_control());
            let length = 1 + escaped.map_or(0, char::len_utf8);
            (&text[..length], length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields<'_> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn each_field_is_read_by_itself_and_the_unreadable_ones_are_named() {
        let mut fields = fields(
            r#"{"a":"x","b":null,"c":1.0,"d":{},"e":"-61dBm","f":null,"g":7,"h":[1,{}],"i":"","j":"\ud83d?"}"#,
        );
        let texts = ["a", "b", "c", "d", "absent", "j"].map(|key| fields.text(key).into_owned());
        assert_eq!(texts, ["x", "", "1.0", "", "", "\u{fffd}?"]);
        assert_eq!(["e", "f", "g"].map(|key| fields.value::<i64>(key)), [None, None, Some(7)]);
        assert_eq!((fields.list("h").len(), fields.list("i").len()), (2, 0));
        assert_eq!(fields.unread(), ["b", "d", "e", "i"], "null is no number, and nothing odd");
    }

    #[test]
    fn of_a_key_that_comes_twice_the_last_readable_value_counts() {
        let mut fields = fields(r#"{"a":"first","a":"second","a":null,"b":1,"b":2}"#);
        assert_eq!((&*fields.text("a"), fields.value("b")), ("second", Some(2)));
        assert!(fields.unread().is_empty());
    }

    #[test]
    fn what_is_harmless_is_repaired_and_what_is_json_is_left_as_it_is() {
        let table = [
            ("\u{feff}{}", Some("{}")),
            ("{\"a\":\"x\ny\u{1}\"}", Some("{\"a\":\"x\\u000ay\\u0001\"}")),
            ("{\0}\u{7}", Some("{ } ")),
            (r#"{"a":"\ud83d","b":"\udd0c"}"#, Some(r#"{"a":"\ufffd","b":"\ufffd"}"#)),
            (r#"{"a":"\ud83dx\ud83d\ud83d\udd0c"}"#, Some(r#"{"a":"\ufffdx\ufffd\ud83d\udd0c"}"#)),
            (r#"{"a":"\ud83d\udd0c \"\\ {"}"#, None),
            (r#"{"a":"\"#, None),
            (r#"{"a":"\u12"}"#, None),
            ("{\"a\":\"\\\n\"}", Some("{\"a\":\"\\\\u000a\"}")),
        ];
        for (text, expected) in table {
            assert_eq!(repaired(text).as_deref(), expected, "{text:?}");
        }
    }
}
