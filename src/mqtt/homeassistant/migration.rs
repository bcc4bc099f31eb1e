//! The migration of entities to a document of the other form, which keeps the user's changes to them.
//!
//! A message at the old document's topic tells Home Assistant to release the entities; then the new document is sent, and
//! after it the old one is cleared. That message is not retained: a daemon that stops in between finds the old document
//! again and repeats the migration.

use std::collections::VecDeque;

/// The message to an old document's topic.
pub(super) const MIGRATE_DISCOVERY: &[u8] = br#"{"migrate_discovery": true}"#;

/// The topics of documents whose entities migrate.
#[derive(Debug, Default)]
pub(super) struct Migration {
    unsent: VecDeque<String>,
    sent: Vec<String>,
}

impl Migration {
    pub(super) fn add(&mut self, topic: String) {
        self.unsent.push_back(topic);
    }

    /// The next topic to send the message to; before any document is sent.
    pub(super) fn next(&mut self) -> Option<String> {
        let topic = self.unsent.pop_front()?;
        self.sent.push(topic.clone());
        Some(topic)
    }

    /// On a new connection: the messages of the last one may be lost.
    pub(super) fn send_again(&mut self) {
        self.unsent.extend(self.sent.drain(..));
    }

    /// Whether all messages are sent and the old documents are not cleared yet.
    pub(super) fn is_sent(&self) -> bool {
        self.unsent.is_empty() && !self.sent.is_empty()
    }

    /// Returns the old documents, to be cleared.
    pub(super) fn finish(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent)
    }
}
