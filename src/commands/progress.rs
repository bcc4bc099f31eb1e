//! The progress of a command that takes a while: a line on standard error, only on a terminal.

use std::io::{self, IsTerminal as _, Stderr, Write};

use crate::config::paths::Environment;

/// Moves to the beginning of the line and clears it.
const CLEAR: &str = "\r\x1b[K";
/// Between these a line that is too long is cut off instead of wrapped: only the last of two lines could be cleared.
const KEEP_TO_ONE_LINE: &str = "\x1b[?7l";
const WRAP_AGAIN: &str = "\x1b[?7h";

/// One line that is replaced again and again, and cleared when this is dropped. Without a terminal nothing is shown.
pub(super) struct Progress<W: Write = Stderr> {
    terminal: Option<W>,
    is_shown: bool,
}

impl Progress {
    /// On standard error, if it is a terminal that can clear a line.
    pub(super) fn on_stderr(environment: &Environment) -> Self {
        let is_dumb = environment.get("TERM").is_none_or(|term| term == "dumb");
        let stderr = io::stderr();
        Self::on(Some(stderr).filter(|stderr| stderr.is_terminal() && !is_dumb))
    }
}

impl<W: Write> Progress<W> {
    fn on(terminal: Option<W>) -> Self {
        Self { terminal, is_shown: false }
    }

    /// Replaces the line.
    pub(super) fn show(&mut self, text: &str) {
        self.write(&format!("{KEEP_TO_ONE_LINE}{text}{WRAP_AGAIN}"));
        self.is_shown = self.terminal.is_some();
    }

    /// Prints a line that stays.
    pub(super) fn leave(&mut self, text: &str) {
        self.write(&format!("{text}\n"));
        self.is_shown = false;
    }

    fn write(&mut self, text: &str) {
        let Some(terminal) = &mut self.terminal else { return };
        let clear = if self.is_shown { CLEAR } else { "" };
        // If the terminal is gone, nobody reads it.
        let _ = write!(terminal, "{clear}{text}").and_then(|()| terminal.flush());
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        if self.is_shown {
            self.write("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_replaced_and_cleared_on_a_terminal_and_nothing_is_written_elsewhere() {
        let mut shown = Vec::new();
        let mut progress = Progress::on(Some(&mut shown));
        progress.show("5 s left");
        progress.show("4 s left");
        progress.leave("asked two networks");
        progress.show("3 s left");
        drop(progress);
        let line = |text| format!("{KEEP_TO_ONE_LINE}{text}{WRAP_AGAIN}");
        let [five, four, three] = ["5 s left", "4 s left", "3 s left"].map(line);
        let expected = format!("{five}{CLEAR}{four}{CLEAR}asked two networks\n{three}{CLEAR}");
        assert_eq!(String::from_utf8(shown).unwrap(), expected);
        let mut nowhere = Progress::<Vec<u8>>::on(None);
        nowhere.show("5 s left");
        nowhere.leave("asked two networks");
        assert!(!nowhere.is_shown);
    }
}
