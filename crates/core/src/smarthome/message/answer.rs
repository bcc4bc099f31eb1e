//! Finds the reply of the one requested method. Firmwares report errors at three levels: the whole reply, the module,
//! the method.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::{Failure, shown};
use crate::smarthome::lenient::IfReadable;
use crate::smarthome::message::number::Num;

/// The longest part of a plug's own error message that is shown, in characters; firmwares use three words.
const REASON_SHOWN: usize = 80;

/// Why a text is not a reply to the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAnswer {
    /// Not JSON, cut off, or of another structure. The text names the fault and never quotes the reply.
    #[error("{0}")]
    Malformed(Box<str>),
    /// Valid JSON without the requested method.
    #[error("the answer has no {module}.{method}")]
    Missing {
        /// The requested module.
        module: &'static str,
        /// The requested method.
        method: &'static str,
    },
    /// The plug reports an error.
    #[error("{code} ({message})")]
    Device {
        /// `err_code`
        code: i64,
        /// `err_msg`, or the known meaning of the code.
        message: Box<str>,
    },
}

impl From<NotAnAnswer> for Failure {
    fn from(fault: NotAnAnswer) -> Self {
        match fault {
            NotAnAnswer::Device { code, message } => Self::Device { code, message },
            NotAnAnswer::Malformed(why) => Self::Garbage(why),
            NotAnAnswer::Missing { .. } => Self::Garbage(fault.to_string().into()),
        }
    }
}

/// Parses the reply of this method of this module.
pub(super) fn find_method<'a, T: Deserialize<'a>>(
    text: &'a str,
    method: (&'static str, &'static str),
) -> Result<T, NotAnAnswer> {
    let body = find_body(text, method)?;
    let status: Status<'_> = serde_json::from_str(body.get()).map_err(|error| malformed(&error))?;
    status.check()?;
    serde_json::from_str(body.get()).map_err(|error| malformed(&error))
}

/// The reply of this method of this module, unparsed.
pub(super) fn find_body<'a>(
    text: &'a str,
    (module, method): (&'static str, &'static str),
) -> Result<&'a RawValue, NotAnAnswer> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = LevelReader { key: module, inner: LevelReader { key: method, inner: Body } }
        .deserialize(&mut json)
        .map_err(|error| malformed(&error))?;
    let found = found.part_or_error()?.map(Level::part_or_error).transpose()?.flatten();
    found.ok_or(NotAnAnswer::Missing { module, method })
}

/// The same in one pass over the text, for the most frequent reply; `T` must check the method's own error. `None` if
/// anything is wrong; [`find_body`] then names the fault.
pub(super) fn find_method_at_once<'a, T: Deserialize<'a>>(
    text: &'a str,
    (module, method): (&'static str, &'static str),
) -> Option<T> {
    let mut json = serde_json::Deserializer::from_str(text);
    let body = PhantomData::<T>;
    let found =
        LevelReader { key: module, inner: LevelReader { key: method, inner: body } }.deserialize(&mut json);
    found.ok()?.part?.part
}

/// An error of serde without its quotes from the reply.
pub(super) fn malformed(error: &serde_json::Error) -> NotAnAnswer {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "JSON cut off",
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Data => "JSON of another shape",
        serde_json::error::Category::Io => "unreadable",
    };
    NotAnAnswer::Malformed(format!("{what} at byte {}", error.column()).into())
}

/// `err_code` and `err_msg`, at any level.
#[derive(Deserialize)]
pub(super) struct Status<'a> {
    #[serde(default)]
    err_code: Num,
    #[serde(borrow, default)]
    err_msg: Option<Cow<'a, str>>,
}

impl<'a> Status<'a> {
    pub(super) fn new(err_code: Num, err_msg: Cow<'a, str>) -> Self {
        Self { err_code, err_msg: Some(err_msg) }
    }

    pub(super) fn check(&self) -> Result<(), NotAnAnswer> {
        match self.err_code.0 {
            0 => Ok(()),
            code => {
                let message = shown(self.message(code), REASON_SHOWN).into();
                Err(NotAnAnswer::Device { code, message })
            }
        }
    }

    fn message(&self, code: i64) -> &str {
        match (&self.err_msg, code) {
            (Some(message), _) if !message.is_empty() => message,
            (_, -1) => "module not supported",
            (_, -2) => "member not supported",
            (_, -3) => "invalid argument",
            (_, -10) => "table is full",
            (_, -11) => "its clock is not set",
            (_, -14) => "no such entry",
            _ => "no reason given",
        }
    }
}

/// The result at one level: the part that was searched for, and the error beside it.
struct Level<T> {
    part: Option<T>,
    error: Option<NotAnAnswer>,
}

impl<T> Level<T> {
    /// An error beside the requested part belongs to something else.
    fn part_or_error(self) -> Result<Option<T>, NotAnAnswer> {
        match (self.part, self.error) {
            (Some(part), _) => Ok(Some(part)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }
}

/// Searches an object for one key, and reads only its value and the level's own error.
struct LevelReader<S> {
    key: &'static str,
    inner: S,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for LevelReader<S> {
    type Value = Level<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for LevelReader<S> {
    type Value = Level<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {}", self.key)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut inner = Some(self.inner);
        let mut part = None;
        let mut status = Status { err_code: Num(0), err_msg: None };
        while let Some(key) = map.next_key_seed(KeyIn { wanted: self.key })? {
            match (key, inner.take()) {
                (LevelKey::Wanted, Some(seed)) => part = Some(map.next_value_seed(seed)?),
                (key, unused) => {
                    inner = unused;
                    match key {
                        LevelKey::ErrCode => {
                            status.err_code = map.next_value::<IfReadable<_>>()?.0.unwrap_or_default();
                        }
                        LevelKey::ErrMsg => status.err_msg = map.next_value::<IfReadable<_>>()?.0,
                        LevelKey::Wanted | LevelKey::Other => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
            }
        }
        Ok(Level { part, error: status.check().err() })
    }
}

/// The keys that matter at one level.
enum LevelKey {
    Wanted,
    ErrCode,
    ErrMsg,
    Other,
}

/// Compares a key without storing it.
struct KeyIn {
    wanted: &'static str,
}

impl<'de> DeserializeSeed<'de> for KeyIn {
    type Value = LevelKey;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<LevelKey, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIn {
    type Value = LevelKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<LevelKey, E> {
        Ok(match key {
            key if key == self.wanted => LevelKey::Wanted,
            "err_code" => LevelKey::ErrCode,
            "err_msg" => LevelKey::ErrMsg,
            _ => LevelKey::Other,
        })
    }
}

/// The method's own reply, as text.
struct Body;

impl<'de> DeserializeSeed<'de> for Body {
    type Value = &'de RawValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Deserialize::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METER: (&str, &str) = ("emeter", "get_realtime");

    fn find(json: &str) -> Result<(), NotAnAnswer> {
        find_method(json, METER).map(|IgnoredAny| ())
    }

    fn device(code: i64, message: &str) -> Result<(), NotAnAnswer> {
        Err(NotAnAnswer::Device { code, message: message.into() })
    }

    #[test]
    fn an_error_is_found_at_each_of_its_three_levels() {
        let words = "module not support";
        let table = [
            (r#"{"err_code":-1,"err_msg":"module not support"}"#, device(-1, words)),
            (r#"{"emeter":{"err_code":-1,"err_msg":"module not support"}}"#, device(-1, words)),
            (
                r#"{"emeter":{"get_realtime":{"err_code":-1,"err_msg":"module not support"}}}"#,
                device(-1, words),
            ),
            (r#"{"emeter":{"get_realtime":{"err_code":"-2"}}}"#, device(-2, "member not supported")),
            (r#"{"emeter":{"err_code":-3,"err_msg":""}}"#, device(-3, "invalid argument")),
            (r#"{"emeter":{"get_realtime":{"err_code":-14}}}"#, device(-14, "no such entry")),
            (r#"{"emeter":{"get_realtime":{"err_code":-10002}}}"#, device(-10002, "no reason given")),
            (r#"{"emeter":{"get_realtime":{"err_code":0}}}"#, Ok(())),
            (r#"{"emeter":{"get_realtime":{}}}"#, Ok(())),
        ];
        for (json, expected) in table {
            assert_eq!(find(json), expected, "{json}");
        }
    }

    /// Found by the fuzzer: it was written to the log and to `result` unchanged.
    #[test]
    fn a_plugs_own_reason_is_one_short_line() {
        let json = format!(r#"{{"err_code":-9,"err_msg":"no\r\nforged: {}"}}"#, "x".repeat(60_000));
        let Err(NotAnAnswer::Device { code: -9, message }) = find(&json) else { panic!("no error") };
        assert!(message.starts_with("no\\r\\nforged: xxx") && message.chars().count() == 81, "{message}");
    }

    #[test]
    fn an_error_of_something_else_spoils_nothing() {
        for json in [
            r#"{"system":{"err_code":-1},"emeter":{"get_realtime":{"err_code":0}}}"#,
            r#"{"emeter":{"get_daystat":{"err_code":-3},"get_realtime":{}},"err_code":-1}"#,
            r#"{"emeter":{"err_code":-1,"get_realtime":{"power":1}}}"#,
            r#"{"err_code":{},"err_msg":7,"emeter":{"err_code":null,"err_msg":[],"get_realtime":{}}}"#,
        ] {
            assert_eq!(find(json), Ok(()), "{json}");
        }
    }

    #[test]
    fn what_was_not_answered_is_missing() {
        for json in
            ["{}", r#"{"emeter":{}}"#, r#"{"emeter":{"err_code":0}}"#, r#"{"system":{"get_realtime":{}}}"#]
        {
            assert_eq!(
                find(json),
                Err(NotAnAnswer::Missing { module: "emeter", method: "get_realtime" }),
                "{json}"
            );
        }
    }

    #[test]
    fn what_is_no_answer_is_said_without_quoting_it() {
        let table = [
            ("", "JSON cut off"),
            (r#"{"emeter":{"get_realtime":{"pow"#, "JSON cut off"),
            ("<html>secret</html>", "not JSON"),
            (r#"{"emeter":"secret"}"#, "JSON of another shape"),
            (r#"{"emeter":{"get_realtime":"secret"}}"#, "JSON of another shape"),
            (r#"{"emeter":{"get_realtime":{"err_code":"secret"}}}"#, "JSON of another shape"),
            (r#"["secret"]"#, "JSON of another shape"),
        ];
        for (json, expected) in table {
            let Err(NotAnAnswer::Malformed(why)) = find(json) else { panic!("{json}") };
            assert!(why.starts_with(expected) && !why.contains("secret"), "{json}: {why}");
        }
    }
}
