//! Received commands and requests, and their results: each goes to the usual topic and to the sender's response topic.
//!
//! Pure. Results and events wait in the outbox until the connection has room. They are dropped while there is no
//! connection: later they would be out of date. The exception is a reload that replaces the connection: what the old one
//! leaves [`Unanswered`] waits a while for the new one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::channel::Inbound;
use super::message::{Effect, Message, Transient};
use super::pending::{MAX_PENDING, Pending, ReplyTo};
use super::settings::MqttSettings;
use super::topics::{self, StateTopic, Topics};
use crate::bridge::event::{CommandId, CommandResult, Event, IdAllocator, Origin, RequestId, Update};
use crate::duration;
use crate::model::PlugName;
use crate::payload::command::{self, CommandPart, Parsed};
use crate::payload::{self, Clock};

/// The most messages in the outbox: two for each pending command.
const MAX_OUTBOX: usize = 2 * MAX_PENDING;
/// How long answers wait for the first connection after a reload. By then a client that waits for one has given up.
const ANSWERS_WAIT: Duration = Duration::from_secs(30);

/// Pending commands and requests, and the messages that answer them.
#[derive(Debug)]
pub(super) struct Responses {
    topics: Topics,
    discovery_prefix: String,
    status_topic: String,
    ids: IdAllocator,
    /// With the topics of the sender: a reload may change the base topic before the result comes.
    commands: Pending<CommandId, (Topics, ReplyTo)>,
    /// With the usual response topic.
    requests: Pending<RequestId, (String, ReplyTo)>,
    outbox: VecDeque<Transient>,
    is_connected: bool,
    /// Until then the outbox waits for the first connection; `None` if there was one, or nothing to wait for.
    wait_until: Option<Instant>,
}

/// What a connection that was stopped leaves to the one that replaces it.
#[derive(Debug, Default)]
pub struct Unanswered {
    commands: Pending<CommandId, (Topics, ReplyTo)>,
    requests: Pending<RequestId, (String, ReplyTo)>,
    /// Not sent any more.
    outbox: VecDeque<Transient>,
    /// Results and responses that came too late for the old connection.
    late: Vec<(Update, Clock)>,
    /// When the next connection must stand.
    until: Option<Instant>,
}

impl Responses {
    pub(super) fn new(settings: &MqttSettings, ids: IdAllocator, topics: Topics) -> Self {
        Self {
            topics,
            discovery_prefix: settings.homeassistant.discovery_prefix.clone(),
            status_topic: settings.homeassistant.status_topic.clone(),
            ids,
            commands: Pending::default(),
            requests: Pending::default(),
            outbox: VecDeque::new(),
            is_connected: false,
            wait_until: None,
        }
    }

    /// Handles a command; one that cannot be carried out is answered at once.
    pub(super) fn handle_command(
        &mut self,
        plug: &str,
        part: CommandPart<'_>,
        message: Message<'_>,
        now: Instant,
    ) -> Effect {
        let Parsed { result, transaction } = command::command(part, message.payload);
        let reply = self.reply_to(&message, || self.topics.plug(plug, StateTopic::Result), transaction);
        let name = PlugName::new(plug).map_err(|why| format!("no such plug: its name {why}"));
        let (name, order) = match (name, result) {
            (Ok(name), Ok(order)) => (name, order),
            (Err(why), _) | (_, Err(why)) => {
                self.refuse(plug, &why, &reply);
                return Effect::None;
            }
        };
        let id = self.ids.command(Origin::Mqtt);
        if !self.commands.add(id, (self.topics.clone(), reply.clone()), reply.size(), now) {
            self.refuse(plug, "too many commands are pending: send it again later", &reply);
            return Effect::None;
        }
        Effect::Inbound(Inbound::Event(Event::Command { id, plug: name, order }))
    }

    /// Handles a request to the daemon; one that cannot be carried out is answered at once.
    pub(super) fn handle_request(&mut self, name: &str, message: Message<'_>, now: Instant) -> Effect {
        let Parsed { result, transaction } = command::request(name, message.payload);
        let reply = self.reply_to(&message, || self.topics.response(name), transaction);
        let request = match result {
            Ok(request) => request,
            Err(why) => {
                self.respond(name, Err(&why), &reply);
                return Effect::None;
            }
        };
        let pending = (self.topics.response(name), reply.clone());
        let id = self.ids.request(Origin::Mqtt);
        if !self.requests.add(id, pending, reply.size(), now) {
            self.respond(name, Err("too many requests are pending: send it again later"), &reply);
            return Effect::None;
        }
        Effect::Inbound(match request {
            command::BridgeRequest::Ask(ask) => Inbound::Event(Event::Request { id, ask }),
            command::BridgeRequest::Reload => Inbound::Reload(id),
        })
    }

    /// Publishes the result of a command.
    pub(super) fn command_done(&mut self, result: &CommandResult) {
        let pending = self.commands.remove(result.id);
        let (topics, reply) = pending.unwrap_or_else(|| (self.topics.clone(), ReplyTo::default()));
        let payload = payload::result(result, reply.transaction.as_ref());
        let plug = result.plug.as_str();
        let state = self.topics.plug(plug, StateTopic::State);
        self.answer(topics.plug(plug, StateTopic::Result), payload, &reply, Some(state));
    }

    /// Publishes the response to a request.
    pub(super) fn request_done(&mut self, id: RequestId, result: Result<(), &str>) {
        // Without its request, nobody waits for it.
        let Some((topic, reply)) = self.requests.remove(id) else { return };
        let payload = payload::response(result, reply.transaction.as_ref());
        self.answer(topic, payload, &reply, None);
    }

    /// Whether a command has no result yet.
    pub(super) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Whether a command or a request is to be answered, or a message waits to be sent.
    pub(super) fn has_unanswered(&self) -> bool {
        !self.commands.is_empty() || !self.requests.is_empty() || !self.outbox.is_empty()
    }

    /// What the connection that replaces this one must answer.
    pub(super) fn take_unanswered(&mut self, now: Instant) -> Unanswered {
        Unanswered {
            commands: std::mem::take(&mut self.commands),
            requests: std::mem::take(&mut self.requests),
            outbox: std::mem::take(&mut self.outbox),
            late: Vec::new(),
            until: Some(self.wait_until.unwrap_or(now + ANSWERS_WAIT)),
        }
    }

    /// Takes over what another connection left. Returns the updates that the caller must handle as well.
    pub(super) fn adopt(&mut self, unanswered: Unanswered, now: Instant) -> Vec<(Update, Clock)> {
        let Unanswered { commands, requests, outbox, late, until } = unanswered;
        self.commands.append(commands);
        self.requests.append(requests);
        self.outbox.extend(outbox);
        if !self.is_connected {
            self.wait_until.get_or_insert(until.unwrap_or(now + ANSWERS_WAIT));
        }
        late
    }

    /// Drops what has waited too long for the first connection.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.wait_until.take_if(|until| *until <= now).is_some() && !self.outbox.is_empty() {
            tracing::warn!(
                "{} results, responses and events from before the reload are dropped: there was no connection to the \
                 broker within {}",
                self.outbox.len(),
                duration::show(ANSWERS_WAIT)
            );
            self.outbox.clear();
        }
    }

    /// Adds a message to the outbox, unless there is no connection or no room.
    pub(super) fn enqueue(&mut self, transient: Transient) {
        let may_wait = self.is_connected || self.wait_until.is_some();
        if may_wait && self.outbox.len() < MAX_OUTBOX {
            self.outbox.push_back(transient);
        } else {
            tracing::debug!(
                topic = transient.topic,
                "not published: no connection to the broker, or the outbox is full"
            );
        }
    }

    /// Puts back a message that [`Responses::next`] gave.
    pub(super) fn requeue(&mut self, transient: Transient) {
        self.outbox.push_front(transient);
    }

    /// The topic whose retained value must be published before the next message.
    pub(super) fn next_after(&self) -> Option<&str> {
        self.outbox.front().and_then(|transient| transient.after.as_deref())
    }

    pub(super) fn next(&mut self) -> Option<Transient> {
        self.outbox.pop_front()
    }

    pub(super) fn connected(&mut self) {
        self.is_connected = true;
        self.wait_until = None;
    }

    /// The connection was left for another one, which follows at once: what is to be answered meanwhile waits for it.
    pub(super) fn left(&mut self, now: Instant) {
        self.is_connected = false;
        self.wait_until = Some(now + ANSWERS_WAIT);
    }

    pub(super) fn disconnected(&mut self) {
        self.is_connected = false;
        if self.wait_until.is_none() && !self.outbox.is_empty() {
            tracing::debug!(
                "{} results and events are dropped: not connected to the broker",
                self.outbox.len()
            );
            self.outbox.clear();
        }
    }

    /// Where the sender wants its result, in addition to the `usual` topic. Response topics below our own are not used:
    /// a result there could be a command to another plug, or look like a state, on behalf of a client that may publish
    /// neither.
    fn reply_to(
        &self,
        message: &Message<'_>,
        usual: impl Fn() -> String,
        transaction: Option<Value>,
    ) -> ReplyTo {
        let is_ours = |topic: &str| {
            self.topics.is_below_base(topic)
                || topics::is_below(&self.discovery_prefix, topic)
                || topic == self.status_topic
        };
        let topic = message.response_topic.filter(|topic| !is_ours(topic) || *topic == usual());
        if topic != message.response_topic {
            tracing::debug!("a response topic of our own is not used");
        }
        ReplyTo::to(topic, message.correlation, transaction)
    }

    fn refuse(&mut self, plug: &str, why: &str, reply: &ReplyTo) {
        let topic = self.topics.plug(plug, StateTopic::Result);
        if topics::check_topic(&topic).is_err() {
            tracing::debug!("a command whose result topic would be invalid is dropped");
            return;
        }
        tracing::debug!(plug, "refused a command: {why}");
        self.answer(topic, payload::refusal(why, reply.transaction.as_ref()), reply, None);
    }

    fn respond(&mut self, name: &str, result: Result<(), &str>, reply: &ReplyTo) {
        let payload = payload::response(result, reply.transaction.as_ref());
        self.answer(self.topics.response(name), payload, reply, None);
    }

    fn answer(&mut self, topic: String, payload: Vec<u8>, reply: &ReplyTo, after: Option<String>) {
        let response_topic = reply.topic.as_ref().filter(|own| **own != topic).cloned();
        let correlation = reply.correlation.clone();
        let Some(response_topic) = response_topic else {
            return self.enqueue(Transient { topic, payload, correlation, after });
        };
        self.enqueue(Transient { after: after.clone(), ..Transient::new(topic, payload.clone()) });
        self.enqueue(Transient { topic: response_topic, payload, correlation, after });
    }
}

impl Unanswered {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { commands, requests, outbox, late, until: _ } = self;
        commands.is_empty() && requests.is_empty() && outbox.is_empty() && late.is_empty()
    }

    /// Adds an update, if it is a result or a response and there is room.
    pub(crate) fn add(&mut self, update: Update, clock: Clock) {
        let is_answer = matches!(update, Update::Result(_) | Update::Response { .. });
        if is_answer && self.late.len() < MAX_PENDING {
            self.late.push((update, clock));
        }
    }

    /// Adds what another connection left. The earlier end of the wait counts.
    pub(crate) fn append(&mut self, other: Self) {
        self.commands.append(other.commands);
        self.requests.append(other.requests);
        self.outbox.extend(other.outbox);
        self.late.extend(other.late);
        self.until = [self.until, other.until].into_iter().flatten().min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::homeassistant::DocumentForm;
    use crate::mqtt::message::Outgoing;
    use crate::mqtt::state::MqttState;
    use crate::mqtt::test_support::{connected, message, result, sent, settings, shown, update};

    fn named(topic: &'static str, transaction: &'static str) -> Message<'static> {
        Message { response_topic: Some("me/answers"), ..message(topic, transaction, false) }
    }

    fn next_connection(base: &str) -> MqttState {
        let settings = MqttSettings { base_topic: base.to_owned(), ..settings(DocumentForm::Device) };
        MqttState::new(&settings, IdAllocator::default(), Clock::now())
    }

    /// A connection that was stopped with a command and a request to reload unanswered.
    fn left(now: Instant) -> (Unanswered, [Update; 2]) {
        let mut mqtt = connected();
        let command = named("hs100d/lamp/set", r#"{"state":"ON","transaction":"c"}"#);
        let Effect::Inbound(Inbound::Event(Event::Command { id: command, .. })) =
            mqtt.handle_message(command, now)
        else {
            panic!("not a command")
        };
        let request = named("hs100d/bridge/request/reload", r#"{"transaction":"r"}"#);
        let Effect::Inbound(Inbound::Reload(id)) = mqtt.handle_message(request, now) else {
            panic!("not a request")
        };
        (mqtt.take_unanswered(now), [result(command, "lamp"), Update::Response { id, result: Ok(()) }])
    }

    #[test]
    fn what_one_connection_leaves_unanswered_the_next_one_answers_where_the_sender_listens() {
        let now = Instant::now();
        let (mut unanswered, [result, response]) = left(now);
        unanswered.add(result, Clock::now());
        let mut next = next_connection("home");
        next.adopt(unanswered, now);
        update(&mut next, response);
        // An attempt that fails drops nothing.
        next.disconnected();
        next.expire_adopted(now + ANSWERS_WAIT / 2);
        next.connected();
        let sent = sent(&mut next);
        for (topic, transaction) in [("hs100d/lamp/result", "c"), ("hs100d/bridge/response/reload", "r")] {
            let of_it: Vec<_> = sent.iter().filter(|(_, payload)| payload.contains(transaction)).collect();
            assert!(of_it.len() >= 2, "{sent:#?}");
            assert!(shown(&sent, topic).contains(&format!(r#""transaction":"{transaction}""#)), "{sent:#?}");
        }
        assert_eq!(sent.iter().filter(|(topic, _)| topic == "me/answers").count(), 2, "{sent:#?}");
    }

    #[test]
    fn an_answer_that_was_not_sent_any_more_is_sent_by_the_next_connection_and_only_once() {
        let now = Instant::now();
        let mut mqtt = connected();
        mqtt.handle_message(named("hs100d/lamp/set", "UP"), now);
        let mut next = next_connection("hs100d");
        next.adopt(mqtt.take_unanswered(now), now);
        next.connected();
        let is_answer = |(topic, _): &&(String, String)| topic == "me/answers";
        assert_eq!(sent(&mut next).iter().filter(is_answer).count(), 1);
        next.disconnected();
        next.connected();
        assert_eq!(sent(&mut next).iter().filter(is_answer).count(), 0);
    }

    #[test]
    fn answers_wait_for_the_next_connection_in_bounded_time_and_number() {
        let now = Instant::now();
        let (unanswered, [_, response]) = left(now);
        let mut next = next_connection("hs100d");
        next.adopt(unanswered, now);
        update(&mut next, response);
        // A second reload does not prolong the wait.
        let mut last = next_connection("hs100d");
        last.adopt(next.take_unanswered(now + ANSWERS_WAIT / 2), now + ANSWERS_WAIT / 2);
        last.expire_adopted(now + ANSWERS_WAIT);
        last.connected();
        assert!(!sent(&mut last).iter().any(|(topic, _)| topic == "me/answers"));

        let (mut unanswered, [result, _]) = left(now);
        for _ in 0..=MAX_PENDING {
            unanswered.add(result.clone(), Clock::now());
        }
        unanswered.add(Update::Ready, Clock::now());
        assert_eq!(unanswered.late.len(), MAX_PENDING);
        let mut next = next_connection("hs100d");
        next.adopt(unanswered, now);
        for _ in 0..=MAX_OUTBOX {
            update(&mut next, result.clone());
        }
        next.connected();
        let waited = std::iter::from_fn(|| next.take()).filter(|sent| matches!(sent, Outgoing::Transient(_)));
        assert_eq!(waited.count(), MAX_OUTBOX);
    }
}
