//! Who waits for which answer: where it goes, what it echoes, and under which id the question is under way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Names for commands and requests, unique while the daemon runs, so that a link which follows another after a
/// reload cannot take its answers for its own.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

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

/// Answers that are awaited, by the id that was given out for each.
#[derive(Debug)]
pub(super) struct Pending<T> {
    answers: BTreeMap<u64, PendingEntry<T>>,
    weight: usize,
}

#[derive(Debug)]
struct PendingEntry<T> {
    since: Instant,
    weight: usize,
    by: T,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { answers: BTreeMap::new(), weight: 0 }
    }
}

impl<T> Pending<T> {
    /// Gives out an id; `None` if too many answers are awaited already, or too much is kept for them.
    pub(super) fn add(&mut self, by: T, weight: usize, now: Instant) -> Option<u64> {
        // Ids rise, so that the first is the oldest.
        while let Some((&oldest, awaited)) = self.answers.first_key_value()
            && now.saturating_duration_since(awaited.since) > LONGEST_WAIT
        {
            self.remove(oldest);
        }
        if self.answers.len() >= MAX_PENDING || self.weight + weight > MAX_PENDING_BYTES {
            return None;
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        self.weight += weight;
        self.answers.insert(id, PendingEntry { since: now, weight, by });
        Some(id)
    }

    /// The question is answered.
    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        let awaited = self.answers.remove(&id)?;
        self.weight -= awaited.weight;
        Some(awaited.by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_without_an_answer_do_not_pile_up() {
        let mut waiting = Pending::default();
        let start = Instant::now();
        for _ in 0..MAX_PENDING {
            assert!(waiting.add((), 0, start).is_some());
        }
        assert_eq!(waiting.add((), 0, start + LONGEST_WAIT), None);
        let later = start + LONGEST_WAIT + Duration::from_secs(1);
        assert!(waiting.add((), 0, later).is_some());
        assert_eq!(waiting.answers.len(), 1);
    }

    #[test]
    fn marks_and_topics_of_any_size_do_not_pile_up() {
        let mut waiting = Pending::default();
        let (start, mark) = (Instant::now(), Bytes::from(vec![0; 100_000]));
        let reply = ReplyTo::to(Some("me/answers"), Some(&mark), Some(Value::from("t".repeat(60_000))));
        assert_eq!(reply.size(), 160_010);
        let mut ids = Vec::new();
        while let Some(id) = waiting.add(reply.clone(), reply.size(), start) {
            ids.push(id);
        }
        assert_eq!(ids.len(), MAX_PENDING_BYTES / reply.size());
        waiting.remove(ids[0]);
        assert!(
            waiting.add(reply.clone(), reply.size(), start).is_some(),
            "what was answered weighs nothing"
        );
    }

    #[test]
    fn an_id_is_never_given_twice_and_answers_once() {
        let (mut one, mut other) = (Pending::default(), Pending::default());
        let now = Instant::now();
        let ids: Vec<u64> = (0..6)
            .filter_map(|n| if n % 2 == 0 { one.add(n, 0, now) } else { other.add(n, 0, now) })
            .collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
        assert_eq!((one.remove(ids[0]), one.remove(ids[0]), one.remove(ids[1])), (Some(0), None, None));
    }
}
