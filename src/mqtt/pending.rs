//! Commands and requests that wait for their result, by id: where the result goes and what it repeats.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use super::topics;

/// The most commands, and the most requests, that may be pending: a scene may switch ten thousand plugs.
pub(super) const MAX_PENDING: usize = 16_384;
/// The most bytes of transactions, response topics and correlation data that are stored for them.
const MAX_PENDING_BYTES: usize = 16 << 20;
/// After this time there will be no result; far longer than any command may take.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// Where a result goes in addition to the usual topic, and what it repeats.
#[derive(Debug, Clone, Default)]
pub(super) struct ReplyTo {
    /// The `transaction` of the sender.
    pub(super) transaction: Option<Value>,
    /// The response topic.
    pub(super) topic: Option<String>,
    /// The correlation data.
    pub(super) correlation: Option<Bytes>,
}

impl ReplyTo {
    /// An invalid response topic is not used: publishing to it would end the connection.
    pub(super) fn to(topic: Option<&str>, correlation: Option<&Bytes>, transaction: Option<Value>) -> Self {
        let topic = topic.filter(|topic| match topics::check_topic(topic) {
            Ok(()) => true,
            Err(why) => {
                tracing::debug!("a response topic that {why} is not used");
                false
            }
        });
        Self {
            transaction,
            topic: topic.map(str::to_owned),
            // A copy: the original keeps the whole message in memory.
            correlation: correlation.map(|data| Bytes::copy_from_slice(data)),
        }
    }

    /// The number of bytes that it needs.
    pub(super) fn size(&self) -> usize {
        let transaction = self.transaction.as_ref().and_then(Value::as_str).map_or(0, str::len);
        transaction
            + self.topic.as_ref().map_or(0, String::len)
            + self.correlation.as_ref().map_or(0, Bytes::len)
    }
}

/// What is stored for each pending command or request, by its id.
#[derive(Debug)]
pub(super) struct Pending<K, T> {
    entries: BTreeMap<K, PendingEntry<T>>,
    size: usize,
}

#[derive(Debug)]
struct PendingEntry<T> {
    since: Instant,
    size: usize,
    value: T,
}

impl<K, T> Default for Pending<K, T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), size: 0 }
    }
}

impl<K: Ord + Copy, T> Pending<K, T> {
    /// Stores a value of this size; false if there are too many, or their sizes are too large.
    pub(super) fn add(&mut self, id: K, value: T, size: usize, now: Instant) -> bool {
        // Ids rise, so the first one is the oldest.
        while let Some((&oldest, entry)) = self.entries.first_key_value()
            && now.saturating_duration_since(entry.since) > MAX_WAIT
        {
            self.remove(oldest);
        }
        if self.entries.len() >= MAX_PENDING || self.size + size > MAX_PENDING_BYTES {
            return false;
        }
        self.size += size;
        self.entries.insert(id, PendingEntry { since: now, size, value });
        true
    }

    /// Adds what another connection had. It may be more than [`MAX_PENDING`] once.
    pub(super) fn append(&mut self, mut earlier: Self) {
        self.size += earlier.size;
        self.entries.append(&mut earlier.entries);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes and returns what is stored under an id.
    pub(super) fn remove(&mut self, id: K) -> Option<T> {
        let entry = self.entries.remove(&id)?;
        self.size -= entry.size;
        Some(entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::event::{CommandId, IdAllocator, Origin};

    #[test]
    fn commands_without_a_result_do_not_pile_up() {
        let (mut pending, mut ids) = (Pending::default(), 0..);
        let mut add = |now| pending.add(ids.next(), (), 0, now);
        let start = Instant::now();
        for _ in 0..MAX_PENDING {
            assert!(add(start));
        }
        assert!(!add(start + MAX_WAIT));
        assert!(add(start + MAX_WAIT + Duration::from_secs(1)));
        assert_eq!(pending.entries.len(), 1);
    }

    #[test]
    fn the_stored_bytes_are_bounded() {
        let mut pending = Pending::default();
        let (start, data) = (Instant::now(), Bytes::from(vec![0; 100_000]));
        let reply = ReplyTo::to(Some("me/answers"), Some(&data), Some(Value::from("t".repeat(60_000))));
        assert_eq!(reply.size(), 160_010);
        let stored = (0..).take_while(|id| pending.add(*id, reply.clone(), reply.size(), start)).count();
        assert_eq!(stored, MAX_PENDING_BYTES / reply.size());
        pending.remove(0);
        assert!(pending.add(stored, reply.clone(), reply.size(), start), "a removed entry needs no bytes");
    }

    #[test]
    fn an_id_is_removed_once_and_only_where_it_came_from() {
        let (ids, mut pending) = (IdAllocator::default(), Pending::default());
        let id = ids.command(Origin::Mqtt);
        assert!(pending.add(id, "mine", 0, Instant::now()));
        assert_eq!(pending.remove(ids.command(Origin::Mqtt)), None);
        // In case two frontends ever have ids with the same number.
        assert_eq!(pending.remove(CommandId::new(Origin::Http, 1)), None);
        assert_eq!((pending.remove(id), pending.remove(id)), (Some("mine"), None));
    }
}
