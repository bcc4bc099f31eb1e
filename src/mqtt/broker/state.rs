//! All that the broker knows: sessions, subscriptions and retained messages. A value without a socket; `now` is an argument.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::v5::{DisconnectReasonCode, Packet, RetainForwardRule, SubscribeFilter};
use rumqttc::mqttbytes::{QoS, qos};
use tokio::sync::Notify;

use super::filters::{Filter, SubscriptionTree, Terms};
use super::message::BrokerMessage;
use super::retained::{MAX_RETAINED, RetainedMessages};
use super::session::{Attached, ClientSession, PendingWill, WaitingMessage};
use crate::logging::Repeated;
use crate::model::shown;

/// Enough for a home. Together with the connections to plugs they fit into the 1024 files that a process may usually open.
pub(super) const MAX_CLIENTS: usize = 128;
/// The most sessions of clients that are not connected.
const MAX_SESSIONS: usize = 1000;
/// The longest time that a session outlives its connection.
const MAX_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// The most subscriptions of a client; Home Assistant has one for each entity.
const MAX_SUBSCRIPTIONS: usize = 100_000;
/// The most subscriptions with a wildcard, of all clients together: each may be compared with each message.
const MAX_WILDCARDS: usize = 4096;
/// The length of all filters of a client, in bytes.
const MAX_SUBSCRIPTIONS_SIZE: usize = 16 * 1024 * 1024;
/// The most characters of a client's id that the log shows.
pub(super) const MAX_SHOWN: usize = 60;

/// A client that wants to connect.
#[derive(Debug)]
pub(super) struct ConnectRequest {
    pub(super) client: Arc<str>,
    pub(super) starts_clean: bool,
    /// How long the session outlives the connection; cut to the longest that there is.
    pub(super) expiry: Duration,
    pub(super) will: Option<PendingWill>,
    pub(super) max_packet_size: usize,
    pub(super) receive_max: usize,
}

/// A connection, for its task.
#[derive(Debug)]
pub(super) struct AcceptedConnection {
    pub(super) id: ConnectionId,
    /// Rings when there is something to send, or the connection has to end.
    pub(super) wake: Arc<Notify>,
    /// The client's session was there already.
    pub(super) is_resumed: bool,
    /// How long the session outlives the connection.
    pub(super) expiry: Duration,
}

/// Names a session, and one connection of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionId {
    session: u64,
    connection: u64,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routed {
    /// Somebody subscribes to its topic.
    Delivered,
    /// Nobody does.
    NoSubscriber,
    /// It should have been retained, and there is no room. Subscribers have it.
    NotRetained,
}

/// What has changed since it was written. Bounded: beyond the bound everything is written anew.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    pub(super) topics: BTreeSet<Arc<str>>,
    pub(super) clients: BTreeSet<Arc<str>>,
    pub(super) everything: bool,
}

/// All that the broker knows.
#[derive(Debug, Default)]
pub(super) struct BrokerState {
    by_client: HashMap<Arc<str>, u64>,
    sessions: HashMap<u64, ClientSession>,
    subscriptions: SubscriptionTree,
    retained: RetainedMessages,
    unsaved: Unsaved,
    /// Clients of whose sessions the store has a record, or will have one.
    saved_clients: HashSet<Arc<str>>,
    connected: usize,
    wildcards: usize,
    last_number: u64,
    /// What the messages for all clients take in memory, in bytes.
    size_of_all: Arc<AtomicUsize>,
    /// Messages for which a client had no room, and those that could not be retained.
    dropped: Repeated,
    not_retained: Repeated,
    /// Rings when something changed that the store has not written.
    pub(super) changed: Arc<Notify>,
    /// Rings when something is due earlier than before.
    pub(super) due: Arc<Notify>,
}

/// Locks it. After a panic in another task, where that does not end the process, it is used as it is.
pub(super) fn lock(state: &Mutex<BrokerState>) -> MutexGuard<'_, BrokerState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BrokerState {
    /// How many clients are connected.
    pub(super) fn connected(&self) -> usize {
        self.connected
    }

    /// A client connects. An earlier connection of it ends (MQTT 5.0, section 3.1.4). `None`: there are too many clients.
    pub(super) fn connect(&mut self, request: ConnectRequest, now: Instant) -> Option<AcceptedConnection> {
        let known = self.by_client.get(&request.client).copied();
        let is_connected =
            known.and_then(|it| self.sessions.get(&it)).is_some_and(|it| it.attached.is_some());
        if self.connected >= MAX_CLIENTS && !is_connected {
            return None;
        }
        if let Some(number) = known {
            self.replace_connection(number, request.starts_clean, now);
        }
        let kept = self.by_client.get(&request.client).copied();
        let number = kept.unwrap_or_else(|| self.create(&request.client));
        let connection = self.next_number();
        let session = self.sessions.get_mut(&number)?;
        let wake = Arc::new(Notify::new());
        session.expiry = request.expiry.min(MAX_EXPIRY);
        session.will = request.will;
        session.attach(Attached {
            number: connection,
            wake: Arc::clone(&wake),
            ends: None,
            max_packet_size: request.max_packet_size,
            receive_max: request.receive_max,
        });
        // What is queued waits for no ring.
        wake.notify_one();
        let expiry = session.expiry;
        self.connected += 1;
        self.client_changed(&request.client);
        let id = ConnectionId { session: number, connection };
        Some(AcceptedConnection { id, wake, is_resumed: kept.is_some(), expiry })
    }

    /// A connection has ended. `expiry` is a new one from the client's DISCONNECT.
    pub(super) fn disconnect(
        &mut self,
        id: ConnectionId,
        keeps_will: bool,
        expiry: Option<Duration>,
        now: Instant,
    ) {
        let Some(session) = self.attached(id) else { return };
        if let Some(expiry) = expiry {
            session.expiry = expiry.min(MAX_EXPIRY);
        }
        if !keeps_will {
            session.will = None;
        }
        self.detach(id.session, now);
    }

    /// The next packets for a connection, as [`ClientSession::take`]; `Err` if it has to end.
    pub(super) fn take(
        &mut self,
        id: ConnectionId,
        most: usize,
        most_size: usize,
        now: Instant,
    ) -> Result<Vec<Packet>, DisconnectReasonCode> {
        let session = self.attached(id).ok_or(DisconnectReasonCode::SessionTakenOver)?;
        match session.attached.as_ref().and_then(|it| it.ends) {
            Some(reason) => Err(reason),
            None => Ok(session.take(most, most_size, now)),
        }
    }

    /// The session of a connection that has not ended.
    pub(super) fn attached(&mut self, id: ConnectionId) -> Option<&mut ClientSession> {
        let session = self.sessions.get_mut(&id.session)?;
        let is_current = session.attached.as_ref().is_some_and(|it| it.number == id.connection);
        is_current.then_some(session)
    }

    /// Delivers a message to its subscribers, and keeps it if it is to be retained.
    pub(super) fn publish(&mut self, from: Option<ConnectionId>, message: BrokerMessage) -> Routed {
        let from = from.map(|it| it.session);
        let message = Arc::new(message);
        let is_kept = !message.retain || self.retained.set(&message);
        if message.retain && is_kept {
            self.topic_changed(&message.topic);
        } else if !is_kept && let Some(times) = self.not_retained.failed("", Instant::now()) {
            tracing::warn!(
                "the embedded broker cannot retain the message at {}, {times} such so far: it is too large, or too many are \
                 retained: clear those that nobody needs, or set mqtt.url to another broker",
                shown(&message.topic, MAX_SHOWN)
            );
        }
        // One message for a client, however many of its filters match (section 3.3.4).
        let mut receivers: HashMap<u64, (u8, bool, Vec<usize>)> = HashMap::new();
        let sessions = &self.sessions;
        let is_connected = |client| sessions.get(&client).is_some_and(|session| session.attached.is_some());
        self.subscriptions.each_match(&message.topic, &is_connected, |client, terms| {
            if terms.no_local && from == Some(client) {
                return;
            }
            let (qos, keeps_retain, identifiers) = receivers.entry(client).or_default();
            *qos = terms.qos.max(*qos);
            *keeps_retain |= terms.keeps_retain;
            identifiers.extend(terms.identifier);
        });
        let is_delivered = !receivers.is_empty();
        for (client, (most, keeps_retain, identifiers)) in receivers {
            let retain = message.retain && keeps_retain;
            self.deliver(client, &message, most, retain, identifiers);
        }
        match (is_kept, is_delivered) {
            (false, _) => Routed::NotRetained,
            (true, true) => Routed::Delivered,
            (true, false) => Routed::NoSubscriber,
        }
    }

    /// Adds a subscription, and delivers the retained messages that it asks for. `None` if the filter is not valid, and
    /// `Some(false)` if the client has too many.
    pub(super) fn subscribe(
        &mut self,
        id: ConnectionId,
        wanted: &SubscribeFilter,
        identifier: Option<usize>,
        now: Instant,
    ) -> Option<bool> {
        let filter = Filter::parse(&wanted.path)?;
        // A shared subscription receives what a client publishes itself (section 3.8.3.1).
        if filter.share.is_some() && wanted.nolocal {
            return None;
        }
        let terms = Terms {
            qos: wanted.qos as u8,
            no_local: wanted.nolocal,
            keeps_retain: wanted.preserve_retain,
            identifier,
        };
        let wildcards = self.wildcards;
        let session = self.attached(id)?;
        let is_new = !session.subscriptions.contains_key(&*wanted.path);
        let size = session.subscriptions_size + wanted.path.len();
        let is_full = session.subscriptions.len() >= MAX_SUBSCRIPTIONS || size > MAX_SUBSCRIPTIONS_SIZE;
        if is_new && (is_full || (filter.has_wildcard() && wildcards >= MAX_WILDCARDS)) {
            return Some(false);
        }
        if is_new {
            session.subscriptions_size = size;
        }
        session.subscriptions.insert(Box::from(&*wanted.path), terms);
        let client = Arc::clone(&session.client);
        self.subscriptions.insert(id.session, filter, terms);
        self.wildcards += usize::from(is_new && filter.has_wildcard());
        self.client_changed(&client);
        let wants_retained = match wanted.retain_forward_rule {
            RetainForwardRule::OnEverySubscribe => true,
            RetainForwardRule::OnNewSubscribe => is_new,
            RetainForwardRule::Never => false,
        };
        // A shared subscription receives none (section 4.8.2).
        if wants_retained && filter.share.is_none() {
            let kept: Vec<_> = self.retained.matching(filter, now).map(Arc::clone).collect();
            for message in kept {
                let identifiers = identifier.into_iter().collect();
                if !self.deliver(id.session, &message, terms.qos, true, identifiers) {
                    break;
                }
            }
        }
        Some(true)
    }

    /// Removes a subscription. `None` if the filter is not valid, and `Some(false)` if there was none.
    pub(super) fn unsubscribe(&mut self, id: ConnectionId, path: &str) -> Option<bool> {
        let filter = Filter::parse(path)?;
        let session = self.attached(id)?;
        if session.subscriptions.remove(path).is_none() {
            return Some(false);
        }
        session.subscriptions_size -= path.len();
        let client = Arc::clone(&session.client);
        self.subscriptions.remove(id.session, filter);
        self.wildcards -= usize::from(filter.has_wildcard());
        self.client_changed(&client);
        Some(true)
    }

    /// When [`BrokerState::expire`] has something to do next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.sessions.values().flat_map(|session| [session.ends_at, session.will_at]).flatten().min()
    }

    /// Publishes last wills whose delay is over, and ends the sessions that nobody came back to.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let numbers = |wanted: &dyn Fn(&ClientSession) -> bool, sessions: &HashMap<u64, ClientSession>| {
            let found = sessions.iter().filter(|(_, session)| wanted(session));
            found.map(|(number, _)| *number).collect::<Vec<_>>()
        };
        for number in numbers(&|it| is_due(it.will_at), &self.sessions) {
            self.publish_will(number, now);
        }
        for number in numbers(&|it| is_due(it.ends_at), &self.sessions) {
            self.end(number, now);
        }
    }

    /// Removes retained messages that have expired.
    pub(super) fn expire_retained(&mut self, now: Instant) {
        for topic in self.retained.remove_expired(now) {
            self.topic_changed(&topic);
        }
    }

    /// What has changed, for the store; from now on counted anew.
    pub(super) fn take_unsaved(&mut self) -> Unsaved {
        std::mem::take(&mut self.unsaved)
    }

    /// What could not be written.
    pub(super) fn put_back(&mut self, unsaved: Unsaved) {
        self.unsaved.topics.extend(unsaved.topics);
        self.unsaved.clients.extend(unsaved.clients);
        self.unsaved.everything |= unsaved.everything;
        self.bound_unsaved();
    }

    /// The retained message of a topic.
    pub(super) fn retained(&self, topic: &str) -> Option<&Arc<BrokerMessage>> {
        self.retained.get(topic)
    }

    /// All retained messages.
    pub(super) fn all_retained(&self) -> impl Iterator<Item = &Arc<BrokerMessage>> {
        self.retained.all()
    }

    /// A client's session, if it outlives the connection.
    pub(super) fn lasting_session(&self, client: &str) -> Option<&ClientSession> {
        let session = self.sessions.get(self.by_client.get(client)?)?;
        (!session.expiry.is_zero()).then_some(session)
    }

    /// All sessions that outlive their connection.
    pub(super) fn lasting_sessions(&self) -> impl Iterator<Item = &ClientSession> {
        self.sessions.values().filter(|session| !session.expiry.is_zero())
    }

    /// From the store: a retained message.
    pub(super) fn restore_retained(&mut self, message: BrokerMessage) {
        // The store holds no more than there was room for.
        self.retained.set(&Arc::new(message));
    }

    /// From a store that could not be read before: what it holds and has not changed since.
    pub(super) fn merge(&mut self, older: Self, unsaved: &Unsaved) {
        for message in older.all_retained() {
            if self.retained(&message.topic).is_none() && !unsaved.topics.contains(&message.topic) {
                self.retained.set(message);
            }
        }
        let now = Instant::now();
        for session in older.lasting_sessions() {
            if !self.by_client.contains_key(&session.client) && !unsaved.clients.contains(&session.client) {
                let subscriptions =
                    session.subscriptions.iter().map(|(path, terms)| (path.to_string(), *terms)).collect();
                self.restore_session(Arc::clone(&session.client), session.expiry, subscriptions, now);
            }
        }
    }

    /// From the store: a session that is not connected, in place of an earlier record of it.
    pub(super) fn restore_session(
        &mut self,
        client: Arc<str>,
        expiry: Duration,
        subscriptions: Vec<(String, Terms)>,
        now: Instant,
    ) {
        self.restore_end(&client);
        self.saved_clients.insert(Arc::clone(&client));
        let number = self.create(&client);
        let Some(session) = self.sessions.get_mut(&number) else { return };
        for (path, terms) in subscriptions {
            // The store holds no more than there was room for, and no filter twice.
            let Some(filter) = Filter::parse(&path) else { continue };
            self.wildcards += usize::from(filter.has_wildcard());
            self.subscriptions.insert(number, filter, terms);
            session.subscriptions_size += path.len();
            session.subscriptions.insert(path.into_boxed_str(), terms);
        }
        session.expiry = expiry.min(MAX_EXPIRY);
        session.ends_at = Some(now + session.expiry);
    }

    /// From the store: a session has ended.
    pub(super) fn restore_end(&mut self, client: &str) {
        self.saved_clients.remove(client);
        if let Some(number) = self.by_client.get(client).copied() {
            self.forget(number);
        }
    }

    /// From the store: a message that waits for a client.
    pub(super) fn restore_waiting(&mut self, client: &str, waiting: WaitingMessage) {
        let number = self.by_client.get(client);
        if let Some(session) = number.and_then(|number| self.sessions.get_mut(number)) {
            session.enqueue(waiting);
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn create(&mut self, client: &Arc<str>) -> u64 {
        let number = self.next_number();
        self.by_client.insert(Arc::clone(client), number);
        self.sessions.insert(number, ClientSession::new(Arc::clone(client), Arc::clone(&self.size_of_all)));
        number
    }

    /// A client connects that has a session: its earlier connection ends, and the session too if it wants none.
    fn replace_connection(&mut self, number: u64, starts_clean: bool, now: Instant) {
        if let Some(session) = self.sessions.get_mut(&number)
            && session.attached.is_some()
        {
            session.close(DisconnectReasonCode::SessionTakenOver);
            self.detach(number, now);
        }
        let is_over = self.sessions.get(&number).is_some_and(|it| it.ends_at.is_some_and(|at| at <= now));
        if starts_clean || is_over {
            self.end(number, now);
        }
    }

    fn detach(&mut self, number: u64, now: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        session.detach(now);
        self.connected -= 1;
        let client = Arc::clone(&session.client);
        let delay = session.will.as_ref().map(|will| will.delay.min(session.expiry));
        session.will_at = delay.map(|delay| now + delay);
        let ends_now = session.expiry.is_zero();
        if delay.is_some_and(|delay| delay.is_zero()) {
            self.publish_will(number, now);
        }
        if ends_now {
            self.end(number, now);
        } else {
            self.client_changed(&client);
            self.bound_sessions(now);
        }
        self.due.notify_one();
    }

    fn publish_will(&mut self, number: u64, now: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        session.will_at = None;
        let Some(PendingWill { mut message, expiry, .. }) = session.will.take() else { return };
        message.expires = expiry.map(|expiry| now + expiry);
        self.publish(None, message);
    }

    /// A session is over, and with it the delay of its last will.
    fn end(&mut self, number: u64, now: Instant) {
        let Some(session) = self.sessions.get(&number) else { return };
        let client = Arc::clone(&session.client);
        if session.will_at.is_some() {
            self.publish_will(number, now);
        }
        self.forget(number);
        self.client_changed(&client);
    }

    fn forget(&mut self, number: u64) {
        let Some(session) = self.sessions.remove(&number) else { return };
        self.by_client.remove(&session.client);
        for path in session.subscriptions.keys() {
            if let Some(filter) = Filter::parse(path) {
                self.subscriptions.remove(number, filter);
                self.wildcards -= usize::from(filter.has_wildcard());
            }
        }
    }

    /// Queues a message for a client. False if there is no room.
    fn deliver(
        &mut self,
        client: u64,
        message: &Arc<BrokerMessage>,
        most: u8,
        retain: bool,
        identifiers: Vec<usize>,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else { return false };
        // Both are 0, 1 or 2.
        let qos = qos(most.min(message.qos as u8)).unwrap_or(QoS::AtMostOnce);
        let waiting = WaitingMessage { message: Arc::clone(message), qos, retain, identifiers };
        let is_queued = session.enqueue(waiting);
        // Offline sessions are cut without a word: that is what their bound is for.
        if !is_queued
            && session.attached.is_some()
            && let Some(times) = self.dropped.failed("", Instant::now())
        {
            tracing::warn!(
                "the embedded broker drops messages for the client {}, {times} dropped so far: it does not read as fast \
                 as they come; restart that client, or let it subscribe to fewer topics",
                shown(&session.client, MAX_SHOWN)
            );
        }
        is_queued
    }

    /// Ends the session that would end first, where too many wait for their client.
    fn bound_sessions(&mut self, now: Instant) {
        if self.sessions.len() - self.connected <= MAX_SESSIONS {
            return;
        }
        let first =
            self.sessions.iter().filter(|(_, it)| it.attached.is_none()).min_by_key(|(_, it)| it.ends_at);
        if let Some(number) = first.map(|(number, _)| *number) {
            self.end(number, now);
        }
    }

    fn topic_changed(&mut self, topic: &Arc<str>) {
        self.unsaved.topics.insert(Arc::clone(topic));
        self.bound_unsaved();
        self.changed.notify_one();
    }

    /// A session that ends with its connection concerns the store only if it once was another.
    fn client_changed(&mut self, client: &Arc<str>) {
        if self.lasting_session(client).is_some() {
            self.saved_clients.insert(Arc::clone(client));
        } else if !self.saved_clients.remove(client) {
            return;
        }
        self.unsaved.clients.insert(Arc::clone(client));
        self.bound_unsaved();
        self.changed.notify_one();
    }

    /// Clients must not fill the memory while nothing can be written.
    fn bound_unsaved(&mut self) {
        if self.unsaved.everything || self.unsaved.topics.len() + self.unsaved.clients.len() > MAX_RETAINED {
            self.unsaved = Unsaved { everything: true, ..Unsaved::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use rumqttc::mqttbytes::v5::Publish;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// A broker and its clock.
    struct BrokerAtTime {
        state: BrokerState,
        now: Instant,
    }

    impl BrokerAtTime {
        fn new() -> Self {
            Self { state: BrokerState::default(), now: Instant::now() }
        }

        fn request(client: &str, expiry: Duration) -> ConnectRequest {
            ConnectRequest {
                client: Arc::from(client),
                starts_clean: false,
                expiry,
                will: None,
                max_packet_size: usize::MAX,
                receive_max: usize::from(u16::MAX),
            }
        }

        fn connects(&mut self, request: ConnectRequest) -> AcceptedConnection {
            self.state.connect(request, self.now).unwrap()
        }

        fn joins(&mut self, client: &str, filters: &[&str]) -> ConnectionId {
            let id = self.connects(Self::request(client, Duration::ZERO)).id;
            for filter in filters {
                self.subscribes(id, SubscribeFilter::new(*filter, QoS::AtLeastOnce));
            }
            id
        }

        fn subscribes(&mut self, id: ConnectionId, filter: SubscribeFilter) {
            assert_eq!(self.state.subscribe(id, &filter, None, self.now), Some(true));
        }

        fn publishes(&mut self, publish: Publish) -> Routed {
            self.state.publish(None, BrokerMessage::published(&publish, self.now).unwrap())
        }

        fn loses(&mut self, id: ConnectionId) {
            self.state.disconnect(id, true, None, self.now);
        }

        fn leaves(&mut self, id: ConnectionId) {
            self.state.disconnect(id, false, None, self.now);
        }

        fn passes(&mut self, time: Duration) {
            self.now += time;
            self.state.expire(self.now);
        }

        /// What a client is sent, as `topic=payload`, with a `*` if it is retained and `!` if it is sent again.
        fn receives(&mut self, id: ConnectionId) -> Vec<String> {
            let packets = self.state.take(id, usize::MAX, usize::MAX, self.now).unwrap();
            let shown = packets.into_iter().map(|packet| match packet {
                Packet::Publish(publish) => {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    let marks = [(publish.retain, "*"), (publish.dup, "!")];
                    let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
                    format!("{}={}{marks}", text(&publish.topic), text(&publish.payload))
                }
                other => format!("{other:?}"),
            });
            shown.collect()
        }
    }

    fn message(topic: &str, payload: &str) -> Publish {
        Publish::new(topic, QoS::AtLeastOnce, payload.to_owned(), None)
    }

    fn retained(topic: &str, payload: &str) -> Publish {
        Publish { retain: true, ..message(topic, payload) }
    }

    fn will(topic: &str, delay: Duration) -> Option<PendingWill> {
        let message = BrokerMessage::published(&message(topic, "gone"), Instant::now()).unwrap();
        Some(PendingWill { message, delay, expiry: None })
    }

    #[test]
    fn a_message_reaches_each_subscriber_once_and_the_others_not() {
        let mut broker = BrokerAtTime::new();
        let both = broker.joins("both", &["a/+", "a/#"]);
        let one = broker.joins("one", &["a/b"]);
        let none = broker.joins("none", &["b"]);
        assert_eq!(broker.publishes(message("a/b", "1")), Routed::Delivered);
        assert_eq!(broker.publishes(message("c", "1")), Routed::NoSubscriber);
        assert_eq!(broker.receives(both), ["a/b=1"]);
        assert_eq!(broker.receives(one), ["a/b=1"]);
        assert_eq!(broker.receives(none), [""; 0]);
        assert_eq!(broker.state.unsubscribe(one, "a/b"), Some(true));
        assert_eq!(broker.state.unsubscribe(one, "a/b"), Some(false));
        assert_eq!(broker.state.unsubscribe(one, "a#"), None);
        broker.publishes(message("a/b", "2"));
        assert_eq!(broker.receives(one), [""; 0]);
    }

    #[test]
    fn retained_messages_come_with_a_subscription_as_it_asks() {
        let mut broker = BrokerAtTime::new();
        for topic in ["a", "a/b", "a/b/c", "ab", "b", "$x/a"] {
            broker.publishes(retained(topic, "1"));
        }
        broker.publishes(retained("b", ""));
        let all = broker.joins("all", &["#"]);
        assert_eq!(broker.receives(all), ["a=1*", "a/b=1*", "a/b/c=1*", "ab=1*"]);
        let below = broker.joins("below", &["a/#"]);
        assert_eq!(broker.receives(below), ["a=1*", "a/b=1*", "a/b/c=1*"]);
        let shared = broker.joins("shared", &["$share/us/a/#"]);
        assert_eq!(broker.receives(shared), [""; 0]);
        let rule = |rule| SubscribeFilter {
            retain_forward_rule: rule,
            ..SubscribeFilter::new("a/b", QoS::AtMostOnce)
        };
        let client = broker.joins("client", &[]);
        broker.subscribes(client, rule(RetainForwardRule::Never));
        assert_eq!(broker.receives(client), [""; 0]);
        broker.subscribes(client, rule(RetainForwardRule::OnNewSubscribe));
        assert_eq!(broker.receives(client), [""; 0]);
        broker.subscribes(client, rule(RetainForwardRule::OnEverySubscribe));
        assert_eq!(broker.receives(client), ["a/b=1*"]);
        // A live one has the flag only for a client that asks for it.
        broker
            .subscribes(client, SubscribeFilter { preserve_retain: true, ..rule(RetainForwardRule::Never) });
        broker.publishes(retained("a/b", "2"));
        assert_eq!(broker.receives(client), ["a/b=2*"]);
        assert_eq!(broker.receives(below), ["a/b=2"]);
    }

    #[test]
    fn what_is_too_large_or_too_much_is_delivered_and_not_retained() {
        let mut broker = BrokerAtTime::new();
        let client = broker.joins("client", &["a"]);
        assert_eq!(broker.publishes(retained("a", &"x".repeat(300_000))), Routed::NotRetained);
        assert_eq!(broker.receives(client).len(), 1);
        for number in 0..MAX_RETAINED {
            broker.publishes(retained(&format!("n/{number}"), "1"));
        }
        assert_eq!(broker.publishes(retained("one/more", "1")), Routed::NotRetained);
        assert_eq!(
            broker.publishes(retained("n/0", "2")),
            Routed::NoSubscriber,
            "one that is there may change"
        );
        broker.publishes(retained("n/0", ""));
        assert_eq!(broker.publishes(retained("one/more", "1")), Routed::NoSubscriber);
    }

    #[test]
    fn a_session_outlives_its_connection_for_its_time_and_keeps_what_was_not_acknowledged() {
        let mut broker = BrokerAtTime::new();
        let first = broker.connects(BrokerAtTime::request("client", LONG));
        assert!(!first.is_resumed);
        broker.subscribes(first.id, SubscribeFilter::new("a", QoS::ExactlyOnce));
        broker.publishes(message("a", "1"));
        broker.publishes(message("a", "2"));
        assert_eq!(broker.receives(first.id), ["a=1", "a=2"]);
        assert!(broker.state.attached(first.id).unwrap().acknowledged(1));
        broker.loses(first.id);
        broker.publishes(message("a", "3"));
        broker.publishes(Publish::new("a", QoS::AtMostOnce, "not for later", None));
        broker.passes(LONG - Duration::from_secs(1));
        let second = broker.connects(BrokerAtTime::request("client", LONG));
        assert!(second.is_resumed);
        assert_eq!(broker.receives(second.id), ["a=2!", "a=3"]);
        broker.loses(second.id);
        assert_eq!(broker.state.next_due(), Some(broker.now + LONG));
        broker.passes(LONG);
        assert_eq!(broker.publishes(message("a", "4")), Routed::NoSubscriber);
        assert!(!broker.connects(BrokerAtTime::request("client", LONG)).is_resumed);
    }

    #[test]
    fn a_clean_start_ends_the_session_and_a_session_without_expiry_ends_with_its_connection() {
        let mut broker = BrokerAtTime::new();
        let first = broker.connects(BrokerAtTime::request("client", LONG)).id;
        broker.subscribes(first, SubscribeFilter::new("a", QoS::AtLeastOnce));
        broker.loses(first);
        let clean = ConnectRequest { starts_clean: true, ..BrokerAtTime::request("client", Duration::ZERO) };
        let second = broker.connects(clean);
        assert!(!second.is_resumed);
        assert_eq!(broker.publishes(message("a", "1")), Routed::NoSubscriber);
        broker.subscribes(second.id, SubscribeFilter::new("a", QoS::AtLeastOnce));
        broker.loses(second.id);
        assert_eq!(broker.publishes(message("a", "1")), Routed::NoSubscriber);
        assert!(broker.state.sessions.is_empty() && broker.state.by_client.is_empty());
    }

    #[test]
    fn a_second_connection_of_a_client_takes_the_place_of_the_first() {
        let mut broker = BrokerAtTime::new();
        let watcher = broker.joins("watcher", &["gone/#"]);
        let request = |will| ConnectRequest { will, ..BrokerAtTime::request("client", LONG) };
        let first = broker.connects(request(will("gone/first", Duration::ZERO))).id;
        let second = broker.connects(request(will("gone/second", LONG))).id;
        let over = broker.state.take(first, 1, 1, broker.now).unwrap_err();
        assert_eq!(over, DisconnectReasonCode::SessionTakenOver);
        // The end of the first one's task says nothing about the second.
        broker.loses(first);
        assert_eq!(broker.state.connected(), 2);
        assert_eq!(broker.receives(second), [""; 0]);
        assert_eq!(broker.receives(watcher), ["gone/first=gone"], "its last will had no delay");
        broker.connects(request(None));
        broker.passes(LONG * 2);
        assert_eq!(broker.receives(watcher), [""; 0], "it came back within the delay");
    }

    #[test]
    fn a_last_will_is_published_after_its_delay_or_with_the_end_of_the_session() {
        let mut broker = BrokerAtTime::new();
        let watcher = broker.joins("watcher", &["gone/#"]);
        let delay = Duration::from_secs(10);
        let with = |topic, expiry| ConnectRequest {
            will: will(topic, delay),
            ..BrokerAtTime::request(topic, expiry)
        };
        let (delayed, short) =
            (broker.connects(with("gone/delayed", LONG)), broker.connects(with("gone/short", delay / 2)));
        let (clean, left) =
            (broker.connects(with("gone/clean", LONG)), broker.connects(with("gone/left", LONG)));
        broker.leaves(left.id);
        for lost in [delayed, short, clean] {
            broker.loses(lost.id);
        }
        assert_eq!(broker.receives(watcher), [""; 0]);
        broker.connects(ConnectRequest { starts_clean: true, ..BrokerAtTime::request("gone/clean", LONG) });
        assert_eq!(broker.receives(watcher), ["gone/clean=gone"]);
        broker.passes(delay / 2);
        assert_eq!(broker.receives(watcher), ["gone/short=gone"]);
        broker.passes(delay / 2);
        assert_eq!(broker.receives(watcher), ["gone/delayed=gone"]);
        broker.passes(LONG);
        assert_eq!(broker.receives(watcher), [""; 0]);
    }

    #[test]
    fn a_client_may_ask_not_to_hear_itself() {
        let mut broker = BrokerAtTime::new();
        let id = broker.joins("client", &[]);
        broker
            .subscribes(id, SubscribeFilter { nolocal: true, ..SubscribeFilter::new("a", QoS::AtMostOnce) });
        let own = BrokerMessage::published(&message("a", "own"), broker.now).unwrap();
        assert_eq!(broker.state.publish(Some(id), own), Routed::NoSubscriber);
        broker.publishes(message("a", "other"));
        assert_eq!(broker.receives(id), ["a=other"]);
    }

    #[test]
    fn an_expired_message_is_not_delivered() {
        let mut broker = BrokerAtTime::new();
        let expiring = |topic: &str| {
            let properties = rumqttc::mqttbytes::v5::PublishProperties {
                message_expiry_interval: Some(10),
                ..Default::default()
            };
            Publish { properties: Some(properties), ..retained(topic, "1") }
        };
        let early = broker.joins("early", &["#"]);
        broker.publishes(expiring("a"));
        broker.passes(Duration::from_secs(4));
        let late = broker.joins("late", &["#"]);
        let packets = broker.state.take(late, 9, usize::MAX, broker.now).unwrap();
        let Packet::Publish(publish) = &packets[0] else { panic!("{packets:?}") };
        assert_eq!(publish.properties.as_ref().unwrap().message_expiry_interval, Some(6));
        broker.passes(Duration::from_secs(6));
        assert_eq!(broker.receives(early), [""; 0]);
        let later = broker.joins("later", &["#"]);
        assert_eq!(broker.receives(later), [""; 0]);
        broker.state.take_unsaved();
        broker.state.expire_retained(broker.now);
        assert!(broker.state.retained("a").is_none());
        assert!(broker.state.take_unsaved().topics.contains("a"), "the store has to forget it");
    }

    #[test]
    fn a_client_gets_no_more_than_it_allows() {
        let mut broker = BrokerAtTime::new();
        let request = ConnectRequest {
            receive_max: 2,
            max_packet_size: 50,
            ..BrokerAtTime::request("client", Duration::ZERO)
        };
        let id = broker.connects(request).id;
        broker.subscribes(id, SubscribeFilter::new("a", QoS::AtLeastOnce));
        broker.publishes(message("a", &"too large".repeat(10)));
        for payload in ["1", "2", "3"] {
            broker.publishes(message("a", payload));
        }
        assert_eq!(broker.receives(id), ["a=1", "a=2"]);
        assert!(!broker.state.attached(id).unwrap().acknowledged(7), "never sent");
        assert_eq!(broker.receives(id), [""; 0]);
        assert!(broker.state.attached(id).unwrap().acknowledged(2));
        assert_eq!(broker.receives(id), ["a=3"]);
    }

    #[test]
    fn a_message_of_qos_2_is_sent_again_until_it_is_received_and_then_released() {
        let mut broker = BrokerAtTime::new();
        let first = broker.connects(BrokerAtTime::request("client", LONG)).id;
        broker.subscribes(first, SubscribeFilter::new("a", QoS::ExactlyOnce));
        broker.publishes(Publish { qos: QoS::ExactlyOnce, ..message("a", "1") });
        assert_eq!(broker.receives(first), ["a=1"]);
        broker.loses(first);
        let second = broker.connects(BrokerAtTime::request("client", LONG)).id;
        assert_eq!(broker.receives(second), ["a=1!"]);
        assert!(broker.state.attached(second).unwrap().received_by_client(1));
        broker.loses(second);
        let third = broker.connects(BrokerAtTime::request("client", LONG)).id;
        let again = broker.receives(third);
        assert!(again.len() == 1 && again[0].starts_with("PubRel"), "{again:?}");
        assert!(broker.state.attached(third).unwrap().acknowledged(1));
        let session = broker.state.attached(third).unwrap();
        assert!(session.received_from_client(5) && !session.received_from_client(5));
        assert!(session.released_by_client(5) && !session.released_by_client(5));
    }

    #[test]
    fn clients_and_sessions_are_bounded() {
        let mut broker = BrokerAtTime::new();
        for number in 0..MAX_CLIENTS {
            broker.joins(&format!("client {number}"), &[]);
        }
        assert!(broker.state.connect(BrokerAtTime::request("one more", LONG), broker.now).is_none());
        let known = broker.joins("client 0", &[]);
        broker.leaves(known);
        for number in 0..=MAX_SESSIONS {
            let id = broker.connects(BrokerAtTime::request(&format!("session {number}"), LONG)).id;
            broker.loses(id);
            broker.passes(Duration::from_millis(1));
        }
        assert_eq!(broker.state.sessions.len(), MAX_CLIENTS - 1 + MAX_SESSIONS);
        assert!(!broker.state.by_client.contains_key("session 0"), "it would have ended first");
        assert!(broker.state.by_client.contains_key("session 1"));
    }

    #[test]
    fn what_waits_for_clients_that_do_not_read_is_bounded_for_each_and_for_all() {
        let mut broker = BrokerAtTime::new();
        let large = "x".repeat(1024 * 1024);
        let publish = || Publish { qos: QoS::AtMostOnce, ..message("a", &large) };
        let first = broker.joins("first", &["a"]);
        for _ in 0..70 {
            broker.publishes(publish());
        }
        assert_eq!(broker.receives(first).len(), 63);
        broker.publishes(message("a", "1"));
        assert_eq!(broker.receives(first), ["a=1"], "once it reads, it gets the next ones");
        let others: Vec<_> = (0..9).map(|number| broker.joins(&format!("{number}"), &["a"])).collect();
        for _ in 0..63 {
            broker.publishes(publish());
        }
        let waiting: usize = others.iter().map(|other| broker.receives(*other).len()).sum();
        assert_eq!(waiting + broker.receives(first).len(), 255);
        // What was sent and is not acknowledged counts as well, until the session ends.
        broker.publishes(message("a", &large));
        broker.receives(first);
        assert!(broker.state.size_of_all.load(Ordering::Relaxed) > 10 * large.len());
        for id in others.into_iter().chain([first]) {
            broker.leaves(id);
        }
        assert_eq!(broker.state.size_of_all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_delivered_or_not_for_later_counts_no_more() {
        let mut broker = BrokerAtTime::new();
        let counted = |broker: &BrokerAtTime| broker.state.size_of_all.load(Ordering::Relaxed);
        let id = broker.connects(BrokerAtTime::request("client", LONG)).id;
        broker.subscribes(id, SubscribeFilter::new("a", QoS::AtLeastOnce));
        broker.publishes(message("a", "1"));
        assert_eq!(broker.receives(id), ["a=1"]);
        assert!(counted(&broker) > 0, "it is in flight");
        assert!(broker.state.attached(id).unwrap().acknowledged(1));
        assert_eq!(counted(&broker), 0);
        broker.publishes(Publish { qos: QoS::AtMostOnce, ..message("a", "2") });
        assert!(counted(&broker) > 0);
        broker.loses(id);
        assert_eq!(counted(&broker), 0);
    }

    #[test]
    fn all_that_a_message_carries_counts() {
        let mut broker = BrokerAtTime::new();
        let client = broker.joins("client", &["a"]);
        let large = "x".repeat(60_000);
        let properties = rumqttc::mqttbytes::v5::PublishProperties {
            response_topic: Some(large.clone()),
            correlation_data: Some(large.clone().into()),
            content_type: Some(large.clone()),
            user_properties: vec![(large.clone(), large)],
            ..Default::default()
        };
        for _ in 0..1000 {
            broker.publishes(Publish { properties: Some(properties.clone()), ..message("a", "1") });
        }
        let taken = broker.receives(client).len();
        assert!((200..224).contains(&taken), "{taken} of 300 kB each, with 64 MB for a client");
    }

    #[test]
    fn subscriptions_with_a_wildcard_are_bounded() {
        let mut broker = BrokerAtTime::new();
        let client = broker.joins("client", &[]);
        let subscribe = |broker: &mut BrokerAtTime, path: &str| {
            broker.state.subscribe(client, &SubscribeFilter::new(path, QoS::AtMostOnce), None, broker.now)
        };
        for number in 0..MAX_WILDCARDS {
            assert_eq!(subscribe(&mut broker, &format!("{number}/+")), Some(true));
        }
        assert_eq!(subscribe(&mut broker, "one/more/+"), Some(false));
        assert_eq!(subscribe(&mut broker, "0/+"), Some(true), "it is known");
        assert_eq!(subscribe(&mut broker, "without"), Some(true));
        assert_eq!(broker.state.unsubscribe(client, "0/+"), Some(true));
        assert_eq!(subscribe(&mut broker, "one/more/+"), Some(true));
        broker.leaves(client);
        assert_eq!(broker.state.wildcards, 0);
    }

    #[test]
    fn a_client_that_comes_back_gets_no_more_than_it_allows_then() {
        let mut broker = BrokerAtTime::new();
        let first = broker.connects(BrokerAtTime::request("client", LONG)).id;
        broker.subscribes(first, SubscribeFilter::new("a", QoS::AtLeastOnce));
        for payload in ["1", "2", "3"] {
            broker.publishes(message("a", payload));
        }
        assert_eq!(broker.receives(first).len(), 3);
        broker.loses(first);
        let second =
            broker.connects(ConnectRequest { receive_max: 1, ..BrokerAtTime::request("client", LONG) }).id;
        for (pkid, again) in [(1, "a=1!"), (2, "a=2!"), (3, "a=3!")] {
            assert_eq!(broker.receives(second), [again]);
            assert!(broker.state.attached(second).unwrap().acknowledged(pkid));
        }
    }

    #[test]
    fn only_sessions_that_last_concern_the_store() {
        let mut broker = BrokerAtTime::new();
        let clients = |broker: &mut BrokerAtTime| broker.state.take_unsaved().clients.len();
        let short = broker.joins("short", &["a"]);
        broker.leaves(short);
        assert_eq!(clients(&mut broker), 0);
        let lasting = broker.connects(BrokerAtTime::request("lasting", LONG)).id;
        assert_eq!(clients(&mut broker), 1);
        broker.state.disconnect(lasting, false, Some(Duration::ZERO), broker.now);
        assert_eq!(clients(&mut broker), 1, "its record has to go");
        for number in 0..=MAX_RETAINED {
            broker.publishes(retained(&format!("{number}"), ""));
        }
        let unsaved = broker.state.take_unsaved();
        assert!(unsaved.everything && unsaved.topics.len() < 2, "memory stays bounded");
    }
}
