//! Who waits for which answer: where it goes, what it echoes, and under which id the question is under way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use super::topics;

/// Commands and requests that may wait for their answers at once; ten thousand plugs switched by one scene fit.
pub(super) const MOST_WAITING: usize = 16_384;
/// An answer that has not come by then will not come; far longer than any command may take.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Names for commands and requests, unique while the daemon runs, so that a link which follows another after a
/// reload cannot take its answers for its own.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Where an answer goes beside the topic for everybody.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    /// The sender's own mark.
    pub(super) transaction: Option<Value>,
    /// A topic of the sender's own.
    pub(super) topic: Option<String>,
    /// What goes with an answer there.
    pub(super) correlation: Option<Bytes>,
}

impl Reply {
    /// Where the sender of a message wants its answer. A response topic that would cost the connection is not used.
    pub(super) fn to(topic: Option<&str>, correlation: Option<&Bytes>, transaction: Option<Value>) -> Self {
        let topic = topic.filter(|topic| match topics::check_topic(topic) {
            Ok(()) => true,
            Err(why) => {
                tracing::debug!("a response topic that {why} is not used");
                false
            }
        });
        Self { transaction, topic: topic.map(str::to_owned), correlation: correlation.cloned() }
    }
}

/// Answers that are awaited, by the id that was given out for each.
#[derive(Debug)]
pub(super) struct Waiting<T>(BTreeMap<u64, (Instant, T)>);

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Waiting<T> {
    /// Gives out an id; `None` if too many answers are awaited already.
    pub(super) fn add(&mut self, reply: T, now: Instant) -> Option<u64> {
        // Ids rise, so that the first is the oldest.
        while let Some(oldest) = self.0.first_entry()
            && now.saturating_duration_since(oldest.get().0) > LONGEST_WAIT
        {
            oldest.remove();
        }
        if self.0.len() >= MOST_WAITING {
            return None;
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        self.0.insert(id, (now, reply));
        Some(id)
    }

    /// The question is answered.
    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        self.0.remove(&id).map(|(_, reply)| reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_without_an_answer_do_not_pile_up() {
        let mut waiting = Waiting::default();
        let start = Instant::now();
        for _ in 0..MOST_WAITING {
            assert!(waiting.add((), start).is_some());
        }
        assert_eq!(waiting.add((), start + LONGEST_WAIT), None);
        let later = start + LONGEST_WAIT + Duration::from_secs(1);
        assert!(waiting.add((), later).is_some());
        assert_eq!(waiting.0.len(), 1);
    }

    #[test]
    fn an_id_is_never_given_twice_and_answers_once() {
        let (mut one, mut other) = (Waiting::default(), Waiting::default());
        let now = Instant::now();
        let ids: Vec<u64> =
            (0..6).filter_map(|n| if n % 2 == 0 { one.add(n, now) } else { other.add(n, now) }).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
        assert_eq!((one.remove(ids[0]), one.remove(ids[0]), one.remove(ids[1])), (Some(0), None, None));
    }
}
