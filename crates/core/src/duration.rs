//! Durations as text with a unit: `700ms`, `5s`, `1m 30s`.
//!
//! A number without a unit is refused, because `poll_interval = 5` is ambiguous.

use std::time::Duration;

/// The most of an invalid text that a message quotes, in characters.
const SHOWN: usize = 32;

/// The units. Weeks, months and years have no use here, and would hide a typo.
const UNITS: [&str; 6] = ["ms", "s", "m", "min", "h", "d"];

/// Parses a duration.
///
/// # Errors
/// What to write instead, in a few words.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(match text.len() {
            ..=SHOWN => format!("has no unit: write \"{text}s\" for seconds"),
            _ => "has no unit: write it like \"5s\"".to_owned(),
        });
    }
    let mut words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    if let Some(unknown) = words.find(|word| !UNITS.contains(word)) {
        return Err(format!("has the unit {:?}: use ms, s, m, h or d", quoted(unknown)));
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("is {:?}: write it like \"5s\" or \"1m 30s\"", quoted(text)))
}

/// The part of a text that a message quotes.
fn quoted(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Formats a duration in the largest unit that divides it: the inverse of [`parse`].
pub fn show(duration: Duration) -> String {
    const LARGEST_FIRST: [(u128, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let ms = duration.as_millis();
    match LARGEST_FIRST.iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms == 0 => "0s".to_owned(),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_text_with_a_unit() {
        for (text, ms) in [
            ("700ms", 700),
            ("5s", 5_000),
            (" 5 s ", 5_000),
            ("2m", 120_000),
            ("2min", 120_000),
            ("1m 30s", 90_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn any_other_text_is_refused_with_the_remedy() {
        for (text, remedy) in [
            ("5", "write \"5s\""),
            ("", "write it like"),
            ("s", "write it like"),
            ("-5s", "write it like"),
            ("five s", "\"five\": use ms, s, m, h or d"),
            ("2weeks", "\"weeks\": use ms, s, m, h or d"),
            ("99999999999999999999d", "write it like"),
            ("5s\n6", "write it like"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(remedy) && !error.contains('\n'), "{text:?}: {error}");
        }
    }

    /// Found by the fuzzer: a command of four thousand characters had a result of four thousand.
    #[test]
    fn an_invalid_text_is_quoted_in_part_only() {
        for text in ["9".repeat(4000), "y".repeat(4000), format!("5s {}", "-".repeat(4000))] {
            let error = parse(&text).expect_err("no duration");
            assert!(error.len() < 128, "{error}");
        }
    }

    #[test]
    fn a_duration_is_shown_as_a_person_writes_it() {
        for text in ["0s", "700ms", "5s", "90s", "2m", "1h", "1d", "36h"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }
}
