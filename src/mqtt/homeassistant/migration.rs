//! Entities that go on in a document of the other form, without losing what the user made of them.
//!
//! Home Assistant wants to be asked, at the old document's topic, to let go of its entities; then the new document
//! may come, and after it the old one is cleared. Nothing is kept at the broker of a move that is under way, so
//! that a daemon which goes in the middle of one finds the old document again, and moves once more.

use std::collections::VecDeque;

/// What is said at an old document's topic.
pub(in crate::mqtt) const MIGRATE_DISCOVERY: &[u8] = br#"{"migrate_discovery": true}"#;

/// Topics of documents whose entities are moving.
#[derive(Debug, Default)]
pub(in crate::mqtt) struct Migration {
    unsaid: VecDeque<String>,
    said: Vec<String>,
}

impl Migration {
    pub(in crate::mqtt) fn add(&mut self, topic: String) {
        self.unsaid.push_back(topic);
    }

    /// The next topic at which Home Assistant is to be asked; before any of the documents.
    pub(in crate::mqtt) fn next(&mut self) -> Option<String> {
        let topic = self.unsaid.pop_front()?;
        self.said.push(topic.clone());
        Some(topic)
    }

    /// A connection is new: what was said on the one before may not have arrived.
    pub(in crate::mqtt) fn say_again(&mut self) {
        self.unsaid.extend(self.said.drain(..));
    }

    /// Whether all is said and the old documents have yet to be cleared.
    pub(in crate::mqtt) fn is_said(&self) -> bool {
        self.unsaid.is_empty() && !self.said.is_empty()
    }

    /// The old documents, to be cleared.
    pub(in crate::mqtt) fn finish(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }
}
