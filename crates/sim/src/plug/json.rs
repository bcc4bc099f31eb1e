//! JSON as a firmware parses and writes it: order of keys, arguments, errors.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};

/// The reply of one method: its fields, or an `err_code`.
pub(super) type Answer = Result<Map<String, Value>, i64>;

pub(super) const MODULE_NOT_SUPPORT: i64 = -1;
pub(super) const MEMBER_NOT_SUPPORT: i64 = -2;
pub(super) const INVALID_ARGUMENT: i64 = -3;
pub(super) const UNKNOWN_ERROR: i64 = -7;
pub(super) const TABLE_IS_FULL: i64 = -10;
pub(super) const TIME_NOT_SYNC: i64 = -11;
pub(super) const ENTRY_NOT_EXIST: i64 = -14;
pub(super) const MISSING_ARGUMENT: i64 = -10002;

/// Success without further fields.
pub(super) fn done() -> Answer {
    Ok(Map::new())
}

/// The reply of one method as JSON.
pub(super) fn reply(answer: Answer) -> Value {
    match answer {
        Ok(mut fields) => {
            fields.insert("err_code".into(), 0.into());
            fields.into()
        }
        Err(code) => error(code),
    }
}

/// An error as plugs write it.
pub(super) fn error(code: i64) -> Value {
    let message = match code {
        MODULE_NOT_SUPPORT => "module not support",
        MEMBER_NOT_SUPPORT => "member not support",
        INVALID_ARGUMENT => "invalid argument",
        -5 => "not enough memory",
        TABLE_IS_FULL => "table is full",
        TIME_NOT_SYNC => "time not sync",
        ENTRY_NOT_EXIST => "entry not exist",
        MISSING_ARGUMENT => "Missing neccesary argument",
        _ => "unknown error",
    };
    json!({"err_code": code, "err_msg": message})
}

/// An argument that must be the integer 0 or 1; firmwares refuse `true` and `"1"`.
pub(super) fn flag(argument: &Value, name: &str) -> Result<bool, i64> {
    match number(argument, name)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(INVALID_ARGUMENT),
    }
}

/// An argument that must be an integer of at least 0.
pub(super) fn number(argument: &Value, name: &str) -> Result<u64, i64> {
    argument[name].as_u64().ok_or(INVALID_ARGUMENT)
}

/// An argument that must be a string.
pub(super) fn text<'a>(argument: &'a Value, name: &str) -> Result<&'a str, i64> {
    argument[name].as_str().ok_or(INVALID_ARGUMENT)
}

/// The fields of a JSON object.
pub(super) fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A JSON object in its written order. Of two equal keys the last value counts, in the position of the first.
pub(super) struct Written<V>(pub(super) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Written<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

struct InOrder<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for InOrder<V> {
    type Value = Written<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut written: Vec<(String, V)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, V>()? {
            match written.iter_mut().find(|(known, _)| *known == key) {
                Some(entry) => entry.1 = value,
                None => written.push((key, value)),
            }
        }
        Ok(Written(written))
    }
}
