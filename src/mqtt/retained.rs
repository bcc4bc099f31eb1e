//! The last-value table: everything that the broker should keep, as it is known now.
//!
//! Connecting means publishing all of it; a value that changes twice before it could be sent is sent once.
//! Nothing in here is a queue of values, only of topics whose value has yet to go out. Of a plug's `info` and documents,
//! which are long and can be printed again whenever they are sent, only a digest is kept.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use rumqttc::QoS;

use crate::model::PlugName;

/// What the broker keeps, and which of it has yet to be sent.
#[derive(Debug, Default)]
pub(super) struct RetainedTable {
    values: HashMap<Arc<str>, Entry>,
    unsent: [VecDeque<Arc<str>>; Priority::COUNT],
}

/// Queues that were longer are given back when they are empty.
const SOME: usize = 64;

/// The order in which values go out. Home Assistant makes an entity from its document, shows it once it hears
/// that it is available, and so finds its state there; `bridge/state` comes after all that it vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// What Home Assistant makes entities from.
    Document,
    /// The same of outlets, whose devices are reached by way of their strip's: that one has to be known before.
    OutletDocument,
    /// Whether a plug can be reached.
    Availability,
    /// What a plug's relay is doing.
    State,
    /// Everything that nobody waits for.
    Info,
    /// Whether the daemon is there.
    Bridge,
    /// Documents that have to vanish from the broker: before the topics that the entities in them read, or Home
    /// Assistant reads each emptied topic by a template that expects JSON.
    ClearedDocument,
    /// What else has to vanish from the broker.
    Cleared,
}

/// One value to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// Where it stands.
    pub topic: Arc<str>,
    /// What it says; nothing has the broker forget what it keeps there.
    pub payload: Bytes,
    /// How sure the broker must be to have it.
    pub qos: QoS,
}

/// What stands at a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Payload {
    /// This.
    Here(Box<[u8]>),
    /// One of few words.
    Word(&'static str),
    /// What can be printed again of this plug, with its digest.
    Rendered(PlugName, u64),
}

/// One value to send, which may have to be printed first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unsent {
    pub(super) topic: Arc<str>,
    pub(super) content: Payload,
    pub(super) rank: Priority,
    pub(super) qos: QoS,
}

impl Unsent {
    /// With its text, which `print` gives for what is not kept as text; none for what is no more.
    pub(super) fn rendered(
        self,
        print: impl FnOnce(&PlugName, &str, Priority) -> Option<Bytes>,
    ) -> Option<Retained> {
        let payload = match self.content {
            Payload::Here(payload) => payload.into(),
            Payload::Word(word) => Bytes::from_static(word.as_bytes()),
            Payload::Rendered(plug, _) => print(&plug, &self.topic, self.rank)?,
        };
        Some(Retained { topic: self.topic, payload, qos: self.qos })
    }
}

#[derive(Debug)]
struct Entry {
    content: Payload,
    qos: QoS,
    rank: Priority,
    unsent: bool,
    /// Until when it is not sent, unless it changes.
    left_out: Option<Until>,
}

/// How long a value that the broker does not take is left out, unless it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Until the next connection.
    NextConnection,
    /// Until [`RetainedTable::send_blamed`], since it may have cost the last connection.
    Told,
}

impl Priority {
    const COUNT: usize = 8;
    const ALL: [Self; Self::COUNT] = [
        Self::Document,
        Self::OutletDocument,
        Self::Availability,
        Self::State,
        Self::Info,
        Self::Bridge,
        Self::ClearedDocument,
        Self::Cleared,
    ];

    const fn is_cleared(self) -> bool {
        matches!(self, Self::ClearedDocument | Self::Cleared)
    }
}

impl RetainedTable {
    /// Takes a value; sends it only if it is another one than before.
    pub(super) fn put(&mut self, topic: &str, payload: Vec<u8>, rank: Priority, qos: QoS) {
        self.put_content(topic, Payload::here(payload), rank, qos);
    }

    /// Takes a value and sends it even if it is the same as before.
    pub(super) fn put_again(&mut self, topic: &str, payload: Vec<u8>, rank: Priority, qos: QoS) {
        let content = Payload::here(payload);
        let is_refused = |value: &Entry| value.left_out.is_some() && value.content == content;
        if !self.values.get(topic).is_some_and(is_refused) {
            self.enter(topic, Entry::new(content, qos, rank));
        }
    }

    /// Takes a word; sends it only if it is another one than before.
    pub(super) fn put_word(&mut self, topic: &str, word: &'static str, rank: Priority) {
        self.put_content(topic, Payload::Word(word), rank, QoS::AtLeastOnce);
    }

    /// Takes who and where a plug is; sends it only if it is something else than before.
    pub(super) fn put_info(&mut self, topic: &str, plug: &PlugName, payload: &[u8]) {
        self.put_content(topic, Payload::printed(plug, payload), Priority::Info, QoS::AtMostOnce);
    }

    /// Takes a document of a plug; sends it only if it is another one than before. Gives the topic as it is kept here.
    pub(super) fn put_document(
        &mut self,
        topic: &str,
        plug: &PlugName,
        payload: &[u8],
        rank: Priority,
    ) -> Arc<str> {
        self.put_content(topic, Payload::printed(plug, payload), rank, QoS::AtLeastOnce)
    }

    fn put_content(&mut self, topic: &str, content: Payload, rank: Priority, qos: QoS) -> Arc<str> {
        match self.values.get_key_value(topic) {
            Some((topic, value)) if value.rank == rank && value.content == content => Arc::clone(topic),
            _ => self.enter(topic, Entry::new(content, qos, rank)),
        }
    }

    fn enter(&mut self, topic: &str, value: Entry) -> Arc<str> {
        let rank = value.rank;
        let topic = match self.values.get_key_value(topic) {
            Some((known, _)) => Arc::clone(known),
            None => topic.into(),
        };
        let before = self.values.insert(Arc::clone(&topic), value);
        if !before.is_some_and(|before| before.unsent && before.rank == rank) {
            self.unsent[rank as usize].push_back(Arc::clone(&topic));
        }
        topic
    }

    /// Has the broker forget what it keeps there. Said again at each connection, since the broker that hears it
    /// may not be the one that remembers.
    pub(super) fn clear(&mut self, topic: &str) {
        self.put(topic, Vec::new(), Priority::Cleared, QoS::AtLeastOnce);
    }

    /// The same for a document.
    pub(super) fn clear_document(&mut self, topic: &str) {
        self.put(topic, Vec::new(), Priority::ClearedDocument, QoS::AtLeastOnce);
    }

    /// Whether a value, rather than its absence, stands at this topic.
    pub(super) fn holds(&self, topic: &str) -> bool {
        self.values.get(topic).is_some_and(|value| !value.rank.is_cleared())
    }

    /// Whether this word stands at this topic.
    pub(super) fn is_word(&self, topic: &str, word: &'static str) -> bool {
        self.values.get(topic).is_some_and(|value| value.content == Payload::Word(word))
    }

    /// The next value to send, in the order of [`Priority`]. Documents may be held back.
    pub(super) fn take(&mut self, hold_documents: bool) -> Option<Unsent> {
        let first = if hold_documents { Priority::Availability } else { Priority::Document };
        for rank in Priority::ALL.into_iter().filter(|rank| *rank >= first) {
            while let Some(topic) = self.unsent[rank as usize].pop_front() {
                // A topic that went to another rank meanwhile waits there.
                let Some(value) = self.values.get_mut(&topic).filter(|v| v.unsent && v.rank == rank) else {
                    continue;
                };
                value.unsent = false;
                return Some(Unsent { topic, content: value.content.clone(), rank, qos: value.qos });
            }
            // What a start filled is not needed again at this size.
            self.unsent[rank as usize].shrink_to(SOME);
        }
        None
    }

    /// The value of one topic out of its turn, if it has yet to be sent.
    pub(super) fn take_topic(&mut self, topic: &str) -> Option<Unsent> {
        let (topic, _) = self.values.get_key_value(topic)?;
        let topic = Arc::clone(topic);
        let value = self.values.get_mut(&topic).filter(|value| value.unsent)?;
        value.unsent = false;
        Some(Unsent { topic, content: value.content.clone(), rank: value.rank, qos: value.qos })
    }

    /// Takes back a value that could not be handed over, to be the first of its rank again.
    pub(super) fn requeue(&mut self, kept: &Retained) {
        let Some(value) = self.values.get_mut(&kept.topic).filter(|value| !value.unsent) else { return };
        value.unsent = true;
        self.unsent[value.rank as usize].push_front(Arc::clone(&kept.topic));
    }

    /// Has the value of one topic sent once more.
    pub(super) fn send_once_more(&mut self, topic: &str) {
        let Some((topic, _)) = self.values.get_key_value(topic) else { return };
        let topic = Arc::clone(topic);
        let waits = |value: &&mut Entry| !value.unsent && value.left_out.is_none();
        if let Some(value) = self.values.get_mut(&topic).filter(waits) {
            value.unsent = true;
            self.unsent[value.rank as usize].push_back(topic);
        }
    }

    /// Has everything sent on a new connection.
    pub(super) fn send_all(&mut self) {
        for value in self.values.values_mut() {
            value.left_out.take_if(|until| *until == Until::NextConnection);
        }
        self.send_again();
    }

    /// Has everything that the broker takes sent once more, for Home Assistant after its own start.
    pub(super) fn send_again(&mut self) {
        for (topic, value) in &mut self.values {
            if !value.unsent && value.left_out.is_none() {
                value.unsent = true;
                self.unsent[value.rank as usize].push_back(Arc::clone(topic));
            }
        }
        for queue in &mut self.unsent {
            queue.make_contiguous().sort_unstable();
        }
    }

    /// Leaves out what was sent there, unless it has changed since.
    pub(super) fn leave_out(&mut self, topic: &str, until: Until) {
        if let Some(value) = self.values.get_mut(topic).filter(|value| !value.unsent) {
            value.left_out = Some(until);
        }
    }

    /// Lets the next connection try again what may have cost an earlier one.
    pub(super) fn send_blamed(&mut self) {
        for value in self.values.values_mut() {
            value.left_out = None;
        }
    }
}

impl Entry {
    fn new(content: Payload, qos: QoS, rank: Priority) -> Self {
        Self { content, qos, rank, unsent: true, left_out: None }
    }
}

impl Payload {
    fn here(payload: Vec<u8>) -> Self {
        // Without the room that was left in it: it may stay for good.
        Self::Here(payload.into_boxed_slice())
    }

    fn printed(plug: &PlugName, payload: &[u8]) -> Self {
        Self::Rendered(plug.clone(), digest(payload))
    }
}

/// Tells one text from another, in this process.
fn digest(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(payload);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(table: &mut RetainedTable, topic: &str, payload: &str, rank: Priority) {
        table.put(topic, payload.as_bytes().to_vec(), rank, QoS::AtLeastOnce);
    }

    fn kept(taken: Unsent) -> Retained {
        taken.rendered(|plug, _, rank| Some(format!("{rank:?} of {plug}").into())).unwrap()
    }

    fn shown(kept: &Retained) -> String {
        format!("{} {}", kept.topic, String::from_utf8_lossy(&kept.payload))
    }

    fn drain(table: &mut RetainedTable) -> Vec<String> {
        std::iter::from_fn(|| table.take(false)).map(|taken| shown(&kept(taken))).collect()
    }

    #[test]
    fn values_go_out_by_rank_and_only_the_last_one_of_a_topic() {
        let mut table = RetainedTable::default();
        put(&mut table, "bridge", "online", Priority::Bridge);
        put(&mut table, "state", "off", Priority::State);
        put(&mut table, "document", "{}", Priority::Document);
        put(&mut table, "state", "on", Priority::State);
        put(&mut table, "availability", "online", Priority::Availability);
        assert_eq!(drain(&mut table), ["document {}", "availability online", "state on", "bridge online"]);
        assert_eq!(drain(&mut table), [""; 0]);
    }

    #[test]
    fn an_equal_value_is_sent_only_when_asked_for() {
        let mut table = RetainedTable::default();
        put(&mut table, "info", "a", Priority::Info);
        drain(&mut table);
        put(&mut table, "info", "a", Priority::Info);
        assert_eq!(table.take(false), None);
        table.put_again("info", b"a".to_vec(), Priority::Info, QoS::AtMostOnce);
        assert_eq!(drain(&mut table), ["info a"]);
    }

    #[test]
    fn a_connect_sends_everything_once_each() {
        let mut table = RetainedTable::default();
        put(&mut table, "a", "1", Priority::State);
        drain(&mut table);
        put(&mut table, "b", "2", Priority::State);
        table.send_all();
        table.send_all();
        assert_eq!(drain(&mut table), ["a 1", "b 2"]);
    }

    #[test]
    fn all_is_sent_in_the_order_of_the_topics_so_that_each_run_sends_the_same() {
        let mut table = RetainedTable::default();
        let topics = (0..50).map(|plug| format!("plug-{plug:02}"));
        topics.for_each(|topic| put(&mut table, &topic, "1", Priority::State));
        drain(&mut table);
        put(&mut table, "plug-49", "2", Priority::State);
        table.send_all();
        let sent = drain(&mut table);
        assert!(sent.len() == 50 && sent.is_sorted(), "{sent:?}");
    }

    #[test]
    fn a_value_that_found_no_room_is_the_next_one_again_unless_a_newer_one_came() {
        let mut table = RetainedTable::default();
        put(&mut table, "a", "1", Priority::State);
        put(&mut table, "b", "2", Priority::State);
        let a = kept(table.take(false).unwrap());
        table.requeue(&a);
        assert_eq!(drain(&mut table), ["a 1", "b 2"]);
        put(&mut table, "a", "3", Priority::State);
        let a = kept(table.take(false).unwrap());
        put(&mut table, "a", "4", Priority::State);
        table.requeue(&a);
        assert_eq!(drain(&mut table), ["a 4"]);
    }

    #[test]
    fn what_is_cleared_goes_out_last_and_stays_cleared() {
        let mut table = RetainedTable::default();
        put(&mut table, "document", "{}", Priority::Document);
        table.clear("document");
        put(&mut table, "bridge", "online", Priority::Bridge);
        assert!(!table.holds("document"));
        assert_eq!(drain(&mut table), ["bridge online", "document "]);
        table.send_all();
        assert_eq!(drain(&mut table), ["bridge online", "document "]);
        put(&mut table, "document", "{}", Priority::Document);
        assert!(table.holds("document"));
        assert_eq!(drain(&mut table), ["document {}"]);
    }

    #[test]
    fn documents_vanish_before_the_topics_that_they_read_at_each_connection() {
        let mut table = RetainedTable::default();
        for plug in 0..20 {
            table.clear(&format!("topic {plug}"));
            table.clear_document(&format!("document {plug}"));
        }
        for _ in 0..2 {
            let sent = drain(&mut table);
            let (documents, topics) = sent.split_at(20);
            assert!(documents.iter().all(|line| line.starts_with("document")), "{sent:?}");
            assert!(topics.iter().all(|line| line.starts_with("topic")), "{sent:?}");
            table.send_all();
        }
        assert!(!table.holds("document 1") && !table.holds("topic 1"));
    }

    #[test]
    fn one_topic_can_be_taken_out_of_its_turn_and_is_not_sent_twice() {
        let mut table = RetainedTable::default();
        put(&mut table, "a", "1", Priority::State);
        put(&mut table, "b", "2", Priority::State);
        assert_eq!(&*table.take_topic("b").unwrap().topic, "b");
        assert_eq!(table.take_topic("b"), None);
        assert_eq!(table.take_topic("c"), None);
        assert_eq!(drain(&mut table), ["a 1"]);
        put(&mut table, "b", "3", Priority::State);
        assert_eq!(drain(&mut table), ["b 3"]);
    }

    #[test]
    fn what_the_broker_refuses_is_left_out_until_it_changes_or_the_next_connection() {
        let mut table = RetainedTable::default();
        put(&mut table, "a", "1", Priority::State);
        put(&mut table, "b", "2", Priority::State);
        drain(&mut table);
        table.leave_out("a", Until::NextConnection);
        table.send_again();
        table.put_again("a", b"1".to_vec(), Priority::State, QoS::AtLeastOnce);
        assert_eq!(drain(&mut table), ["b 2"]);
        put(&mut table, "a", "3", Priority::State);
        // An answer that comes late is about the value before.
        table.leave_out("a", Until::NextConnection);
        assert_eq!(drain(&mut table), ["a 3"]);
        table.leave_out("a", Until::NextConnection);
        table.send_all();
        assert_eq!(drain(&mut table), ["a 3", "b 2"]);
    }

    #[test]
    fn what_may_have_cost_the_connection_is_not_sent_on_the_next_one() {
        let mut table = RetainedTable::default();
        put(&mut table, "a", "1", Priority::State);
        drain(&mut table);
        table.leave_out("a", Until::Told);
        table.send_all();
        assert_eq!(drain(&mut table), [""; 0]);
        table.send_blamed();
        table.send_all();
        assert_eq!(drain(&mut table), ["a 1"]);
    }

    #[test]
    fn documents_can_be_held_back() {
        let mut table = RetainedTable::default();
        put(&mut table, "document", "{}", Priority::Document);
        put(&mut table, "state", "on", Priority::State);
        assert_eq!(&*table.take(true).unwrap().topic, "state");
        assert_eq!(table.take(true), None);
        assert_eq!(drain(&mut table), ["document {}"]);
    }

    #[test]
    fn a_document_is_printed_when_it_is_sent_and_sent_when_it_has_changed() {
        let mut table = RetainedTable::default();
        let lamp = PlugName::new("lamp").unwrap();
        let put = |table: &mut RetainedTable, text: &str| {
            table.put_document("document", &lamp, text.as_bytes(), Priority::Document);
        };
        put(&mut table, "one");
        put(&mut table, "two");
        assert_eq!(drain(&mut table), ["document Document of lamp"]);
        put(&mut table, "two");
        assert_eq!(drain(&mut table), [""; 0]);
        put(&mut table, "three");
        assert_eq!(drain(&mut table), ["document Document of lamp"]);
        table.send_all();
        assert_eq!(drain(&mut table), ["document Document of lamp"]);
        table.clear("document");
        assert_eq!(drain(&mut table), ["document "]);
        put(&mut table, "three");
        assert_eq!(drain(&mut table), ["document Document of lamp"]);
    }
}
