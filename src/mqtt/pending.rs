//! Commands and requests that wait for their answer: where it goes, and what it echoes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use super::topics;

/// Commands and requests that may wait for their answers at once; ten thousand plugs switched by one scene fit.
pub(super) const MAX_PENDING: usize = 16_384;
/// What those who wait want to see again (their marks and topics) may come to this many bytes in all.
const MAX_PENDING_BYTES: usize = 16 << 20;
/// An answer that has not come by then will not come; far longer than any command may take.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Where an answer goes beside the topic for everybody.
#[derive(Debug, Clone, Default)]
pub(super) struct ReplyTo {
    /// The sender's own mark.
    pub(super) transaction: Option<Value>,
    /// A topic of the sender's own.
    pub(super) topic: Option<String>,
    /// What goes with an answer there.
    pub(super) correlation: Option<Bytes>,
}

impl ReplyTo {
    /// Where the sender of a message wants its answer. A response topic that would cost the connection is not used.
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
            // A copy, because the original holds on to the whole message.
            correlation: correlation.map(|mark| Bytes::copy_from_slice(mark)),
        }
    }

    /// How many bytes are kept for it.
    pub(super) fn size(&self) -> usize {
        let transaction = self.transaction.as_ref().and_then(Value::as_str).map_or(0, str::len);
        transaction
            + self.topic.as_ref().map_or(0, String::len)
            + self.correlation.as_ref().map_or(0, Bytes::len)
    }
}

/// Answers that are awaited, by the id of the command or request.
#[derive(Debug)]
pub(super) struct Pending<K, T> {
    answers: BTreeMap<K, PendingEntry<T>>,
    weight: usize,
}

#[derive(Debug)]
struct PendingEntry<T> {
    since: Instant,
    weight: usize,
    by: T,
}

impl<K, T> Default for Pending<K, T> {
    fn default() -> Self {
        Self { answers: BTreeMap::new(), weight: 0 }
    }
}

impl<K: Ord + Copy, T> Pending<K, T> {
    /// Awaits the answer to this id; false if too many answers are awaited already, or too much is kept for them.
    pub(super) fn add(&mut self, id: K, by: T, weight: usize, now: Instant) -> bool {
        // Ids rise, so that the first is the oldest.
        while let Some((&oldest, awaited)) = self.answers.first_key_value()
            && now.saturating_duration_since(awaited.since) > LONGEST_WAIT
        {
            self.remove(oldest);
        }
        if self.answers.len() >= MAX_PENDING || self.weight + weight > MAX_PENDING_BYTES {
            return false;
        }
        self.weight += weight;
        self.answers.insert(id, PendingEntry { since: now, weight, by });
        true
    }

    /// The answer to this id is there.
    pub(super) fn remove(&mut self, id: K) -> Option<T> {
        let awaited = self.answers.remove(&id)?;
        self.weight -= awaited.weight;
        Some(awaited.by)
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
        assert!(!add(start + LONGEST_WAIT));
        assert!(add(start + LONGEST_WAIT + Duration::from_secs(1)));
        assert_eq!(pending.answers.len(), 1);
    }

    #[test]
    fn correlation_data_and_topics_of_any_size_do_not_pile_up() {
        let mut pending = Pending::default();
        let (start, mark) = (Instant::now(), Bytes::from(vec![0; 100_000]));
        let reply = ReplyTo::to(Some("me/answers"), Some(&mark), Some(Value::from("t".repeat(60_000))));
        assert_eq!(reply.size(), 160_010);
        let taken = (0..).take_while(|id| pending.add(*id, reply.clone(), reply.size(), start)).count();
        assert_eq!(taken, MAX_PENDING_BYTES / reply.size());
        pending.remove(0);
        assert!(pending.add(taken, reply.clone(), reply.size(), start), "what was answered weighs nothing");
    }

    #[test]
    fn an_id_answers_once_and_only_where_it_came_from() {
        let (ids, mut pending) = (IdAllocator::default(), Pending::default());
        let id = ids.command(Origin::Mqtt);
        assert!(pending.add(id, "mine", 0, Instant::now()));
        assert_eq!(pending.remove(ids.command(Origin::Mqtt)), None);
        // Should two frontends ever have ids of the same number.
        assert_eq!(pending.remove(CommandId::new(Origin::Http, 1)), None);
        assert_eq!((pending.remove(id), pending.remove(id)), (Some("mine"), None));
    }
}
