//! The retained messages.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use super::filters::Filter;
use super::message::BrokerMessage;

/// The most of them. Ten thousand plugs have four topics and one discovery payload each.
pub(super) const MAX_RETAINED: usize = 100_000;
/// The largest payload, in bytes; discovery payloads have a few thousand.
const MAX_PAYLOAD: usize = 256 * 1024;
/// What all of them may take in memory, in bytes.
const MAX_SIZE: usize = 256 * 1024 * 1024;

/// One message for each topic.
#[derive(Debug, Default)]
pub(super) struct RetainedMessages {
    by_topic: BTreeMap<Arc<str>, Arc<BrokerMessage>>,
    size: usize,
}

impl RetainedMessages {
    /// Keeps a message in place of the one before it; one without a payload only removes that. False if there is no room.
    pub(super) fn set(&mut self, message: &Arc<BrokerMessage>) -> bool {
        if message.payload.is_empty() {
            self.remove(&message.topic);
            return true;
        }
        let before = self.by_topic.get(&message.topic);
        let size = self.size - before.map_or(0, |it| it.size()) + message.size();
        let number = self.by_topic.len() + usize::from(before.is_none());
        if message.payload.len() > MAX_PAYLOAD || size > MAX_SIZE || number > MAX_RETAINED {
            return false;
        }
        self.size = size;
        self.by_topic.insert(Arc::clone(&message.topic), Arc::clone(message));
        true
    }

    fn remove(&mut self, topic: &str) {
        if let Some(message) = self.by_topic.remove(topic) {
            self.size -= message.size();
        }
    }

    pub(super) fn get(&self, topic: &str) -> Option<&Arc<BrokerMessage>> {
        self.by_topic.get(topic)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<BrokerMessage>> {
        self.by_topic.values()
    }

    /// Those that match a filter and have not expired.
    pub(super) fn matching<'a>(
        &'a self,
        filter: Filter<'a>,
        now: Instant,
    ) -> impl Iterator<Item = &'a Arc<BrokerMessage>> {
        // `a/#` matches `a` as well, which stands before `a/`.
        let prefix = filter.literal();
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        self.by_topic
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(topic, _)| topic.starts_with(prefix))
            .filter(move |(topic, message)| filter.matches(topic) && !message.is_expired(now))
            .map(|(_, message)| message)
    }

    /// Removes what has expired, and returns those topics.
    pub(super) fn remove_expired(&mut self, now: Instant) -> Vec<Arc<str>> {
        let expired = self.by_topic.values().filter(|message| message.is_expired(now));
        let topics: Vec<_> = expired.map(|message| Arc::clone(&message.topic)).collect();
        for topic in &topics {
            self.remove(topic);
        }
        topics
    }
}
