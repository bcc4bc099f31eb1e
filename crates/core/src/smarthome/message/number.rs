//! Numbers as firmwares write them: as an integer, a float, a string, or `true`.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// A number that may have a fraction. Always finite.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Amount(pub(super) f64);

/// A number of which only the integer part counts. A value beyond an `i64` becomes its nearest limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Num(pub(super) i64);

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Amount::deserialize(deserializer).map(|amount| Self(amount.0 as i64))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNumber)
    }
}

struct AnyNumber;

impl Visitor<'_> for AnyNumber {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E>(self, value: i64) -> Result<Amount, E> {
        Ok(Amount(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Amount, E> {
        Ok(Amount(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Amount, E> {
        Ok(Amount(value))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Amount, E> {
        Ok(Amount(f64::from(u8::from(value))))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Amount, E> {
        let amount = value.trim().parse().ok().filter(|amount: &f64| amount.is_finite());
        amount.map(Amount).ok_or_else(|| E::custom("not a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_however_it_is_written() {
        let amount = |json| serde_json::from_str::<Amount>(json).map(|amount| amount.0).ok();
        let table = [
            ("-43", Some(-43.0)),
            ("0.928511", Some(0.928_511)),
            (r#""61753""#, Some(61753.0)),
            (r#"" 12.5 ""#, Some(12.5)),
            ("true", Some(1.0)),
            ("false", Some(0.0)),
            (r#""NaN""#, None),
            (r#""inf""#, None),
            (r#""many""#, None),
            ("{}", None),
            ("null", None),
        ];
        for (json, expected) in table {
            assert_eq!(amount(json), expected, "{json}");
        }
    }

    #[test]
    fn a_whole_number_leaves_the_fraction_out_and_never_overflows() {
        let whole = |json| serde_json::from_str::<Num>(json).unwrap().0;
        assert_eq!((whole("1.9"), whole("-1.9"), whole("\"7\"")), (1, -1, 7));
        assert_eq!((whole("1e300"), whole("-1e300")), (i64::MAX, i64::MIN));
        assert_eq!(whole("18446744073709551615"), i64::MAX);
    }
}
