//! Received commands and requests, and their results: each goes to the usual topic and to the sender's response topic.
//!
//! Pure. Results and events wait in the outbox until the connection has room. They are dropped while there is no
//! connection: later they would be out of date.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::Value;

use super::channel::Inbound;
use super::command::{self, Parsed};
use super::message::{Effect, Message, Transient};
use super::payload;
use super::pending::{MAX_PENDING, Pending, ReplyTo};
use super::settings::MqttSettings;
use super::topics::{self, CommandTopic, StateTopic, Topics};
use crate::bridge::event::{CommandId, CommandResult, Event, IdAllocator, Origin, RequestId};
use crate::model::PlugName;

/// The most messages in the outbox: two for each pending command.
const MAX_OUTBOX: usize = 2 * MAX_PENDING;

/// Pending commands and requests, and the messages that answer them.
#[derive(Debug)]
pub(super) struct Responses {
    topics: Topics,
    discovery_prefix: String,
    status_topic: String,
    ids: IdAllocator,
    commands: Pending<CommandId, ReplyTo>,
    requests: Pending<RequestId, (String, ReplyTo)>,
    outbox: VecDeque<Transient>,
    is_connected: bool,
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
        }
    }

    /// Handles a command; one that cannot be carried out is answered at once.
    pub(super) fn handle_command(
        &mut self,
        plug: &str,
        part: CommandTopic<'_>,
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
        if !self.commands.add(id, reply.clone(), reply.size(), now) {
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
        let pending = (name.to_owned(), reply.clone());
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
        let reply = self.commands.remove(result.id).unwrap_or_default();
        let payload = payload::result(result, reply.transaction.as_ref());
        let plug = result.plug.as_str();
        let state = self.topics.plug(plug, StateTopic::State);
        self.answer(self.topics.plug(plug, StateTopic::Result), payload, &reply, Some(state));
    }

    /// Publishes the response to a request.
    pub(super) fn request_done(&mut self, id: RequestId, result: Result<(), &str>) {
        // A request of another link has no response here.
        let Some((name, reply)) = self.requests.remove(id) else { return };
        self.respond(&name, result, &reply);
    }

    /// Adds a message to the outbox, unless there is no connection or no room.
    pub(super) fn enqueue(&mut self, transient: Transient) {
        if self.is_connected && self.outbox.len() < MAX_OUTBOX {
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
    }

    pub(super) fn disconnected(&mut self) {
        self.is_connected = false;
        if !self.outbox.is_empty() {
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
