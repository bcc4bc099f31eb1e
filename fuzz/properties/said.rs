//! What is said about a stranger's words: on one line, of a bounded length, without anything that could forge a
//! second line or move a terminal's cursor.

/// The text may stand on a line of a log, on a topic or on a terminal.
#[track_caller]
pub fn fits_a_line(text: &str, most: usize) {
    assert!(!text.is_empty(), "says nothing");
    assert!(!text.chars().any(char::is_control), "holds a control character: {text:?}");
    assert!(text.len() <= most, "has {} bytes, more than {most}: {text:?}", text.len());
}
