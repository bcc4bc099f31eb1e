//! Texts about untrusted input: one line of bounded length, without control characters that could forge a second line
//! or move a terminal's cursor.

/// The text is fit for a line of a log, for a topic and for a terminal.
#[track_caller]
pub fn fits_a_line(text: &str, most: usize) {
    assert!(!text.is_empty(), "says nothing");
    assert!(!text.chars().any(char::is_control), "holds a control character: {text:?}");
    assert!(text.len() <= most, "has {} bytes, more than {most}: {text:?}", text.len());
}
