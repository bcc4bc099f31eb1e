//! The table of retained values: what the broker should retain, by what is known now.
//!
//! On connect all of it is published. The queues hold topics, not values: a value that changes twice before it could be sent
//! is sent once. Of a plug's `info` and documents, which are long and are rendered when they are sent, only a digest is
//! stored.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use rumqttc::QoS;

use crate::model::PlugName;

/// The last value of each retained topic, and the topics whose value is not sent yet.
#[derive(Debug, Default)]
pub(super) struct RetainedTable {
    values: HashMap<Arc<str>, Entry>,
    unsent: [VecDeque<Arc<str>>; Priority::COUNT],
}

/// The capacity that an empty queue keeps.
const QUEUE_CAPACITY: usize = 64;

/// The order in which values are sent. Home Assistant creates an entity from its document and reads its state when it becomes
/// available. `bridge/state` comes after everything that depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// Discovery documents.
    Document,
    /// Discovery documents of outlets: their `via_device` must exist before.
    OutletDocument,
    /// Whether a plug can be reached.
    Availability,
    /// A plug's state.
    State,
    /// What no client waits for.
    Info,
    /// `bridge/state`.
    Bridge,
    /// Documents to clear. They come before the topics that their entities read, or Home Assistant would apply a template that
    /// expects JSON to an empty message.
    ClearedDocument,
    /// Other topics to clear.
    Cleared,
}

impl Priority {
    /// Whether Home Assistant makes its entities from it.
    pub(super) fn is_of_document(self) -> bool {
        matches!(self, Self::Document | Self::OutletDocument | Self::ClearedDocument)
    }
}

/// A retained message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// Shared with the table.
    pub topic: Arc<str>,
    /// Its payload; empty to clear the topic.
    pub payload: Bytes,
    pub(crate) qos: QoS,
}

/// The value of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Payload {
    Bytes(Box<[u8]>),
    Word(&'static str),
    /// Rendered for this plug when it is sent; with the digest of the last rendering.
    Rendered(PlugName, u64),
}

/// A value to send, which may have to be rendered first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unsent {
    pub(super) topic: Arc<str>,
    pub(super) payload: Payload,
    pub(super) priority: Priority,
    pub(super) qos: QoS,
}

impl Unsent {
    /// With its payload, which `render` creates if it is not stored; `None` if there is none any more.
    pub(super) fn rendered(
        self,
        render: impl FnOnce(&PlugName, &str, Priority) -> Option<Bytes>,
    ) -> Option<Retained> {
        let payload = match self.payload {
            Payload::Bytes(payload) => payload.into(),
            Payload::Word(word) => Bytes::from_static(word.as_bytes()),
            Payload::Rendered(plug, _) => render(&plug, &self.topic, self.priority)?,
        };
        Some(Retained { topic: self.topic, payload, qos: self.qos })
    }
}

#[derive(Debug)]
struct Entry {
    payload: Payload,
    qos: QoS,
    priority: Priority,
    unsent: bool,
    /// It is not sent until then, unless it changes.
    left_out: Option<Until>,
}

/// How long a value is not sent, unless it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// The broker refused it.
    NextConnection,
    /// It may have ended a connection: until [`RetainedTable::trust_again`].
    TrustedAgain,
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
    /// Sets a value; it is sent if it has changed.
    pub(super) fn put(&mut self, topic: &str, payload: Vec<u8>, priority: Priority, qos: QoS) {
        self.put_payload(topic, Payload::bytes(payload), priority, qos);
    }

    /// Sets a value; it is sent even if it is unchanged.
    pub(super) fn put_again(&mut self, topic: &str, payload: Vec<u8>, priority: Priority, qos: QoS) {
        let payload = Payload::bytes(payload);
        let is_refused = |value: &Entry| value.left_out.is_some() && value.payload == payload;
        if !self.values.get(topic).is_some_and(is_refused) {
            self.enter(topic, Entry::new(payload, qos, priority));
        }
    }

    /// Sets a word; it is sent if it has changed.
    pub(super) fn put_word(&mut self, topic: &str, word: &'static str, priority: Priority) {
        self.put_payload(topic, Payload::Word(word), priority, QoS::AtLeastOnce);
    }

    /// Sets the `info` of a plug; it is sent if it has changed.
    pub(super) fn put_info(&mut self, topic: &str, plug: &PlugName, payload: &[u8]) {
        self.put_payload(topic, Payload::rendered(plug, payload), Priority::Info, QoS::AtMostOnce);
    }

    /// Sets a document of a plug; it is sent if it has changed. Returns the topic as stored in the table.
    pub(super) fn put_document(
        &mut self,
        topic: &str,
        plug: &PlugName,
        payload: &[u8],
        priority: Priority,
    ) -> Arc<str> {
        self.put_payload(topic, Payload::rendered(plug, payload), priority, QoS::AtLeastOnce)
    }

    fn put_payload(&mut self, topic: &str, payload: Payload, priority: Priority, qos: QoS) -> Arc<str> {
        match self.values.get_key_value(topic) {
            Some((topic, value)) if value.priority == priority && value.payload == payload => {
                Arc::clone(topic)
            }
            _ => self.enter(topic, Entry::new(payload, qos, priority)),
        }
    }

    fn enter(&mut self, topic: &str, value: Entry) -> Arc<str> {
        let priority = value.priority;
        let topic = match self.values.get_key_value(topic) {
            Some((known, _)) => Arc::clone(known),
            None => topic.into(),
        };
        let before = self.values.insert(Arc::clone(&topic), value);
        if !before.is_some_and(|before| before.unsent && before.priority == priority) {
            self.unsent[priority as usize].push_back(Arc::clone(&topic));
        }
        topic
    }

    /// Clears a topic. It is cleared again on each connection, since that may be another broker.
    pub(super) fn clear(&mut self, topic: &str) {
        self.put(topic, Vec::new(), Priority::Cleared, QoS::AtLeastOnce);
    }

    pub(super) fn clear_document(&mut self, topic: &str) {
        self.put(topic, Vec::new(), Priority::ClearedDocument, QoS::AtLeastOnce);
    }

    /// Whether a topic has a value and is not cleared.
    pub(super) fn holds(&self, topic: &str) -> bool {
        self.values.get(topic).is_some_and(|value| !value.priority.is_cleared())
    }

    /// Whether a topic has this word as its value.
    pub(super) fn is_word(&self, topic: &str, word: &'static str) -> bool {
        self.values.get(topic).is_some_and(|value| value.payload == Payload::Word(word))
    }

    /// The next value to send, in the order of [`Priority`]; without documents if they are held back.
    pub(super) fn take(&mut self, hold_documents: bool) -> Option<Unsent> {
        let first = if hold_documents { Priority::Availability } else { Priority::Document };
        for priority in Priority::ALL.into_iter().filter(|priority| *priority >= first) {
            while let Some(topic) = self.unsent[priority as usize].pop_front() {
                // A topic whose priority has changed is in another queue.
                let Some(value) = self.values.get_mut(&topic).filter(|v| v.unsent && v.priority == priority)
                else {
                    continue;
                };
                value.unsent = false;
                return Some(Unsent { topic, payload: value.payload.clone(), priority, qos: value.qos });
            }
            // At start the queues are longer than at any later time.
            self.unsent[priority as usize].shrink_to(QUEUE_CAPACITY);
        }
        None
    }

    /// The value of one topic, out of order, if it is not sent yet.
    pub(super) fn take_topic(&mut self, topic: &str) -> Option<Unsent> {
        let (topic, _) = self.values.get_key_value(topic)?;
        let topic = Arc::clone(topic);
        let value = self.values.get_mut(&topic).filter(|value| value.unsent)?;
        value.unsent = false;
        Some(Unsent { topic, payload: value.payload.clone(), priority: value.priority, qos: value.qos })
    }

    /// Puts back a value that could not be sent, as the first of its priority.
    pub(super) fn requeue(&mut self, retained: &Retained) {
        let Some(value) = self.values.get_mut(&retained.topic).filter(|value| !value.unsent) else { return };
        value.unsent = true;
        self.unsent[value.priority as usize].push_front(Arc::clone(&retained.topic));
    }

    /// Sends the value of one topic again.
    pub(super) fn send_once_more(&mut self, topic: &str) {
        let Some((topic, _)) = self.values.get_key_value(topic) else { return };
        let topic = Arc::clone(topic);
        let waits = |value: &&mut Entry| !value.unsent && value.left_out.is_none();
        if let Some(value) = self.values.get_mut(&topic).filter(waits) {
            value.unsent = true;
            self.unsent[value.priority as usize].push_back(topic);
        }
    }

    /// Sends everything on a new connection.
    pub(super) fn send_all(&mut self) {
        for value in self.values.values_mut() {
            value.left_out.take_if(|until| *until == Until::NextConnection);
        }
        self.send_again(|_| true);
    }

    /// Sends those that the broker accepts again, for a Home Assistant that has started.
    pub(super) fn send_again(&mut self, is_wanted: impl Fn(Priority) -> bool) {
        for (topic, value) in &mut self.values {
            if !value.unsent && value.left_out.is_none() && is_wanted(value.priority) {
                value.unsent = true;
                self.unsent[value.priority as usize].push_back(Arc::clone(topic));
            }
        }
        for queue in &mut self.unsent {
            queue.make_contiguous().sort_unstable();
        }
    }

    /// Stops sending the value of a topic, unless it has changed since it was sent.
    pub(super) fn leave_out(&mut self, topic: &str, until: Until) {
        if let Some(value) = self.values.get_mut(topic).filter(|value| !value.unsent) {
            value.left_out = Some(until);
        }
    }

    /// Lets the next connection send everything.
    pub(super) fn trust_again(&mut self) {
        for value in self.values.values_mut() {
            value.left_out = None;
        }
    }
}

impl Entry {
    fn new(payload: Payload, qos: QoS, priority: Priority) -> Self {
        Self { payload, qos, priority, unsent: true, left_out: None }
    }
}

impl Payload {
    fn bytes(payload: Vec<u8>) -> Self {
        // Without spare capacity: it may be stored for a long time.
        Self::Bytes(payload.into_boxed_slice())
    }

    fn rendered(plug: &PlugName, payload: &[u8]) -> Self {
        Self::Rendered(plug.clone(), digest(payload))
    }
}

/// Distinguishes payloads, within this process.
fn digest(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(payload);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(table: &mut RetainedTable, topic: &str, payload: &str, priority: Priority) {
        table.put(topic, payload.as_bytes().to_vec(), priority, QoS::AtLeastOnce);
    }

    fn rendered(unsent: Unsent) -> Retained {
        unsent.rendered(|plug, _, priority| Some(format!("{priority:?} of {plug}").into())).unwrap()
    }

    fn shown(retained: &Retained) -> String {
        format!("{} {}", retained.topic, String::from_utf8_lossy(&retained.payload))
    }

    fn drain(table: &mut RetainedTable) -> Vec<String> {
        std::iter::from_fn(|| table.take(false)).map(|unsent| shown(&rendered(unsent))).collect()
    }

    #[test]
    fn values_are_sent_by_priority_and_only_the_last_one_of_a_topic() {
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
    fn a_value_that_could_not_be_sent_is_the_next_one_unless_a_newer_one_came() {
        let mut table = RetainedTable::default();
        put(&mut table, "a", "1", Priority::State);
        put(&mut table, "b", "2", Priority::State);
        let a = rendered(table.take(false).unwrap());
        table.requeue(&a);
        assert_eq!(drain(&mut table), ["a 1", "b 2"]);
        put(&mut table, "a", "3", Priority::State);
        let a = rendered(table.take(false).unwrap());
        put(&mut table, "a", "4", Priority::State);
        table.requeue(&a);
        assert_eq!(drain(&mut table), ["a 4"]);
    }

    #[test]
    fn cleared_topics_are_sent_last_and_stay_cleared() {
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
    fn documents_are_cleared_before_the_topics_that_they_read_at_each_connection() {
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
    fn one_topic_can_be_taken_out_of_order_and_is_not_sent_twice() {
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
    fn a_refused_value_is_not_sent_until_it_changes_or_the_next_connection() {
        let mut table = RetainedTable::default();
        put(&mut table, "a", "1", Priority::State);
        put(&mut table, "b", "2", Priority::State);
        drain(&mut table);
        table.leave_out("a", Until::NextConnection);
        table.send_again(|_| true);
        table.put_again("a", b"1".to_vec(), Priority::State, QoS::AtLeastOnce);
        assert_eq!(drain(&mut table), ["b 2"]);
        put(&mut table, "a", "3", Priority::State);
        // A late refusal is about the value before.
        table.leave_out("a", Until::NextConnection);
        assert_eq!(drain(&mut table), ["a 3"]);
        table.leave_out("a", Until::NextConnection);
        table.send_all();
        assert_eq!(drain(&mut table), ["a 3", "b 2"]);
    }

    #[test]
    fn a_value_that_may_have_ended_the_connection_is_not_sent_on_the_next_one() {
        let mut table = RetainedTable::default();
        put(&mut table, "a", "1", Priority::State);
        drain(&mut table);
        table.leave_out("a", Until::TrustedAgain);
        table.send_all();
        assert_eq!(drain(&mut table), [""; 0]);
        table.trust_again();
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
    fn a_document_is_rendered_when_it_is_sent_and_sent_when_it_has_changed() {
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
