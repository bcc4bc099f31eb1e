//! Failures in the log: each is logged as a warning once, and again at growing intervals while it goes on.

use std::collections::HashMap;
use std::time::Instant;

use crate::logging::Repeated;

/// More than there are different messages; a broker could cause any number of them.
const MAX_MESSAGES: usize = 64;

/// The messages of one link that were logged since it last was stable.
#[derive(Debug, Default)]
pub(crate) struct FailureLog {
    messages: HashMap<String, Repeated>,
}

impl FailureLog {
    pub(crate) fn warn(&mut self, text: &str, now: Instant) {
        self.warn_of(text, text, now);
    }

    /// Warns of `subject`, whose text may change without being news. Returns whether it was logged as a warning; otherwise it
    /// was logged at debug level.
    pub(crate) fn warn_of(&mut self, subject: &str, text: &str, now: Instant) -> bool {
        let is_due = self.is_due(subject, now);
        if is_due {
            tracing::warn!("{text}");
        } else {
            tracing::debug!("{text}");
        }
        is_due
    }

    /// Logs a success, which an unstable connection would repeat as well.
    pub(crate) fn inform(&mut self, text: &str, now: Instant) {
        if self.is_due(text, now) {
            tracing::info!("{text}");
        } else {
            tracing::debug!("{text}");
        }
    }

    /// The connection is stable: the next failure is logged at once.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
    }

    fn is_due(&mut self, subject: &str, now: Instant) -> bool {
        if !self.messages.contains_key(subject) {
            if self.messages.len() == MAX_MESSAGES {
                self.messages.clear();
            }
            self.messages.insert(subject.to_owned(), Repeated::default());
        }
        self.messages.get_mut(subject).is_some_and(|repeated| repeated.failed("", now).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_warning_is_repeated_at_growing_intervals() {
        let start = Instant::now();
        let mut log = FailureLog::default();
        let due: Vec<u64> =
            (0..600).filter(|minute| log.is_due("x", start + Duration::from_secs(minute * 60))).collect();
        assert_eq!(due[..6], [0, 1, 3, 7, 15, 31]);
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] <= 60));
        assert!(log.is_due("y", start));
        log.clear();
        assert!(log.is_due("x", start));
        for n in 0..1000 {
            log.is_due(&n.to_string(), start);
        }
        assert!(log.messages.len() <= MAX_MESSAGES);
    }
}
