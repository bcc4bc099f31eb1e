//! What the link decides: updates in, values and letters out; messages in, commands out.
//!
//! A value without a socket. It keeps the last-value table, knows who waits for which answer, and finds what an
//! earlier run left behind on the broker. When something is sent, and over what, is for `link`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rumqttc::QoS;

use crate::bridge::event::{
    BridgeInfo, CommandId, CommandResult, Event, IdAllocator, Origin, PlugInfo, PlugState, RequestId, Update,
};
use crate::model::{Availability, PlugName};

use super::command::{self, Parsed};
use super::homeassistant::migration::{MIGRATE_DISCOVERY, Migration};
use super::homeassistant::stale::{StaleTopics, instance_of};
use super::homeassistant::{Abilities, DiscoveryRenderer, Document, RetainedDocument};
use super::payload::{self, Clock};
use super::pending::{MAX_PENDING, Pending, ReplyTo};
use super::retained::{Priority, Retained, RetainedTable, Until};
use super::topics::{self, CommandTopic, ParsedTopic, StateTopic, Topics};
use super::{Inbound, MqttSettings};

/// Letters that may wait for room in the connection; twice as many as there may be answers outstanding.
const MAX_OUTBOX: usize = 2 * MAX_PENDING;

/// What the broker should show, who waits for an answer, and what is still to be said.
#[derive(Debug)]
pub struct MqttState {
    topics: Topics,
    renderer: DiscoveryRenderer,
    status_topic: String,
    instance: String,
    started: Instant,
    /// The clocks of the last update: dates that were told before may be wrong by now.
    clock: Clock,
    retained: RetainedTable,
    outbox: VecDeque<Transient>,
    is_connected: bool,
    plugs: HashMap<PlugName, PlugTopics>,
    bridge: BridgeInfo,
    ids: IdAllocator,
    commands: Pending<CommandId, ReplyTo>,
    requests: Pending<RequestId, (String, ReplyTo)>,
    stale: StaleTopics,
    migration: Migration,
}

/// Something to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// The broker keeps it.
    Retained(Retained),
    /// It is for those who listen at this moment.
    Transient(Transient),
}

/// A message that nobody keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transient {
    /// Where to.
    pub topic: String,
    /// What it says.
    pub payload: Vec<u8>,
    /// What the question brought along, which goes back with the answer.
    pub correlation: Option<Bytes>,
    /// What has to be known before: whoever reads that a command is done finds the state that it led to.
    after: Option<String>,
}

/// A message that came in.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Where it was sent to.
    pub topic: &'a str,
    /// What it says.
    pub payload: &'a [u8],
    /// The broker had kept it: with retain-as-published off no live message says so.
    pub retained: bool,
    /// Where the sender wants its answer.
    pub response_topic: Option<&'a str>,
    /// What is to go with that answer.
    pub correlation: Option<&'a Bytes>,
}

/// What follows from a message.
#[derive(Debug)]
pub enum Effect {
    /// Nothing outside this room.
    None,
    /// Somebody else has to act.
    Inbound(Inbound),
    /// Home Assistant has started and will want to hear everything again.
    Birth,
}

/// What is known of a plug on this side.
#[derive(Debug, Default)]
struct PlugTopics {
    info: Option<Arc<PlugInfo>>,
    /// Once seen, an ability stays: a plug that is read over another route is still the same plug.
    has: Abilities,
    /// The topics of its documents that the broker keeps.
    documents: Vec<Arc<str>>,
    /// The components that its document in device form had before this run.
    components: BTreeMap<String, String>,
}

impl MqttState {
    /// An empty mqtt; the documents of the bridge itself wait to be sent.
    pub fn new(options: &MqttSettings, ids: IdAllocator, clock: Clock) -> Self {
        let topics = Topics::new(&options.base_topic);
        let press = DiscoveryRenderer::new(&options.homeassistant, topics.clone(), &options.instance);
        let mut mqtt = Self {
            topics,
            renderer: press,
            status_topic: options.homeassistant.status_topic.clone(),
            instance: options.instance.clone(),
            started: clock.instant,
            clock,
            retained: RetainedTable::default(),
            outbox: VecDeque::new(),
            is_connected: false,
            plugs: HashMap::new(),
            bridge: BridgeInfo::default(),
            ids,
            commands: Pending::default(),
            requests: Pending::default(),
            stale: StaleTopics::default(),
            migration: Migration::default(),
        };
        for Document { topic, payload } in mqtt.renderer.bridge() {
            mqtt.retained.put(&topic, payload, Priority::Document, QoS::AtLeastOnce);
        }
        mqtt
    }

    /// Takes what the bridge wants to be shown or said.
    pub fn handle_update(&mut self, update: Update, clock: Clock) {
        self.clock = clock;
        match update {
            Update::Expected(plug) => drop(self.known(&plug)),
            Update::State(plug, state) => self.show_state(plug, &state, clock),
            Update::Info(plug, info) => self.show_info(plug, info),
            Update::Availability(plug, availability) => self.show_availability(plug, availability),
            Update::Energy(plug, energy) => {
                let topic = self.topics.plug(plug.as_str(), StateTopic::Energy);
                self.retained.put(&topic, payload::energy(&energy), Priority::Info, QoS::AtMostOnce);
            }
            Update::Result(result) => self.answer_command(&result),
            Update::Notice(happening) => {
                self.enqueue(self.topics.bridge_event(), payload::notice(&happening, clock));
            }
            Update::Bridge(info) => self.show_bridge(info),
            Update::Response { id, result } => {
                self.answer_request(id, result.as_ref().copied().map_err(String::as_str))
            }
            Update::Ready => {
                self.end_first_round();
                self.show_online();
            }
            Update::Gone(plug) => self.forget(&plug),
            Update::Dropped(..) => {}
        }
    }

    /// Takes a message; says what follows from it.
    pub fn handle_message(&mut self, message: Message<'_>, now: Instant) -> Effect {
        if message.topic == self.status_topic {
            let has_started = message.payload == b"online" && !message.retained;
            return if has_started { Effect::Birth } else { Effect::None };
        }
        if message.retained {
            self.inspect_retained(message);
            return Effect::None;
        }
        match self.topics.parse(message.topic) {
            Some(ParsedTopic::Command { plug, part }) => self.take_command(plug, part, message, now),
            Some(ParsedTopic::Request(name)) => self.take_request(name, message, now),
            None => Effect::None,
        }
    }

    /// The filters to subscribe to for as long as the connection lives.
    pub fn filters(&self) -> Vec<String> {
        let mut filters = self.topics.command_filters().to_vec();
        filters.push(self.status_topic.clone());
        filters
    }

    /// The filters to listen to for a moment, until [`MqttState::end_search`]; none once that was called.
    pub fn search_filters(&self) -> Vec<String> {
        if self.stale.is_searched {
            return Vec::new();
        }
        let mut filters = self.renderer.filters();
        filters.push(self.topics.leftover_filter());
        filters.push(self.topics.kept_state_filter());
        filters.push(self.topics.bridge_info());
        filters
    }

    /// All that should be kept has had the time to come by. Documents go out from here on: those that change
    /// their form have to be unloaded first.
    pub fn end_search(&mut self) {
        self.stale.is_searched = true;
        let found = self.stale.take_device(self.renderer.bridge_device());
        for (topic, _) in found {
            if !self.retained.holds(&topic) {
                self.retire(&topic);
            }
        }
        for name in self.take_over() {
            self.render(&name);
        }
        self.clear_leftovers();
    }

    /// Whether Home Assistant has been asked to let go of entities, and the new documents are on their way.
    pub fn is_migrating(&self) -> bool {
        self.stale.is_searched && self.migration.is_said()
    }

    /// Home Assistant has had the time to let go: the old documents can go. One at whose topic another stands now goes
    /// out once more, since Home Assistant may have been at letting go when it came.
    pub fn end_migration(&mut self) {
        for topic in self.migration.finish() {
            if self.retained.holds(&topic) {
                self.retained.send_once_more(&topic);
            } else {
                self.retained.clear_document(&topic);
            }
        }
    }

    /// Has `bridge/state` say `online`.
    pub fn show_online(&mut self) {
        self.put_bridge_info();
        self.put_bridge_state(Availability::Online);
    }

    /// A connection stands: everything goes out again.
    pub fn connected(&mut self) {
        self.is_connected = true;
        self.migration.say_again();
        self.retained.send_all();
    }

    /// The connection is gone, and with it whatever was for those who listened.
    pub fn disconnected(&mut self) {
        self.is_connected = false;
        if !self.outbox.is_empty() {
            tracing::debug!(
                "{} results and events are dropped: not connected to the broker",
                self.outbox.len()
            );
            self.outbox.clear();
        }
    }

    /// Has everything said once more, for a Home Assistant that has just started.
    pub fn announce_again(&mut self) {
        self.retained.send_again();
    }

    /// The broker does not take what was sent there: it is left out until it changes, or a new connection stands.
    pub fn refused(&mut self, topic: &str) {
        self.retained.leave_out(topic, Until::NextConnection);
    }

    /// What was sent there has cost the connection: it is left out until it changes, or [`MqttState::trust_again`].
    pub fn blame(&mut self, topic: &str) {
        self.retained.leave_out(topic, Until::Told);
    }

    /// A connection stood for long: the next one tries everything again.
    pub fn trust_again(&mut self) {
        self.retained.send_blamed();
    }

    /// Shows that plugs and bridge are away, before the daemon goes.
    pub fn mark_offline(&mut self) {
        let mut names: Vec<_> = self.plugs.keys().cloned().collect();
        names.sort_unstable();
        for plug in names {
            self.show_availability(plug, Availability::Offline);
        }
        self.put_bridge_state(Availability::Offline);
    }

    /// The next thing to send: letters first, since somebody waits for them.
    pub fn take(&mut self) -> Option<Outgoing> {
        if let Some(before) = self.outbox.front().and_then(|transient| transient.after.as_deref())
            && let Some(taken) = self.retained.take_topic(before)
            && let Some(kept) = taken.rendered(|plug, topic, rank| self.rendered(plug, topic, rank))
        {
            return Some(Outgoing::Retained(kept));
        }
        if let Some(transient) = self.outbox.pop_front() {
            return Some(Outgoing::Transient(transient));
        }
        let are_documents_held = !self.stale.is_searched;
        if !are_documents_held && let Some(topic) = self.migration.next() {
            let payload = MIGRATE_DISCOVERY.to_vec();
            return Some(Outgoing::Transient(Transient { topic, payload, correlation: None, after: None }));
        }
        while let Some(taken) = self.retained.take(are_documents_held) {
            if let Some(kept) = taken.rendered(|plug, topic, rank| self.rendered(plug, topic, rank)) {
                return Some(Outgoing::Retained(kept));
            }
        }
        None
    }

    /// Takes back what [`MqttState::take`] gave, because there was no room for it.
    pub fn requeue(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Retained(kept) => self.retained.requeue(&kept),
            Outgoing::Transient(transient) => self.outbox.push_front(transient),
        }
    }

    fn show_state(&mut self, plug: PlugName, state: &PlugState, clock: Clock) {
        let topic = self.topics.plug(plug.as_str(), StateTopic::State);
        self.stale.take_state(&plug);
        // Said even when nothing changed: after a command that failed it puts a toggle back in its place.
        self.retained.put_again(&topic, payload::state(state, clock), Priority::State, QoS::AtLeastOnce);
        let known = self.known(&plug);
        let is_new = state.led.is_some() && !known.has.led;
        known.has.led |= state.led.is_some();
        if is_new {
            self.render(&plug);
        }
    }

    fn show_info(&mut self, plug: PlugName, info: Arc<PlugInfo>) {
        let topic = self.topics.plug(plug.as_str(), StateTopic::Info);
        self.retained.put_info(&topic, &plug, &payload::info(&info));
        let known = self.known(&plug);
        let is_same = |before: &Arc<PlugInfo>| {
            before.device == info.device && before.outlets == info.outlets && before.outlet == info.outlet
        };
        let is_new =
            !known.info.as_ref().is_some_and(is_same) || (info.cloud_connected.is_some() && !known.has.cloud);
        known.has.cloud |= info.cloud_connected.is_some();
        known.info = Some(info);
        if is_new {
            self.render(&plug);
        }
    }

    fn show_availability(&mut self, plug: PlugName, availability: Availability) {
        let topic = self.topics.plug(plug.as_str(), StateTopic::Availability);
        self.retained.put_word(&topic, availability.word(), Priority::Availability);
        self.known(&plug);
        if availability == Availability::Offline {
            self.show_unserved(&plug);
        }
    }

    /// What the broker has kept of a plug that has not answered in this run, though no route serves it now.
    fn show_unserved(&mut self, plug: &PlugName) {
        let Some(kept) = self.stale.take_state(plug) else { return };
        let Ok(mut state) = serde_json::from_slice::<serde_json::Map<_, _>>(&kept) else { return };
        state.insert("route".to_owned(), "none".into());
        let topic = self.topics.plug(plug.as_str(), StateTopic::State);
        self.retained.put(&topic, payload::json(&state), Priority::State, QoS::AtLeastOnce);
    }

    fn show_bridge(&mut self, info: BridgeInfo) {
        self.bridge = info;
        self.put_bridge_info();
    }

    fn put_bridge_info(&mut self) {
        let info = payload::bridge_info(&self.bridge, &self.instance, self.started, self.clock);
        self.retained.put(&self.topics.bridge_info(), info, Priority::Info, QoS::AtLeastOnce);
    }

    fn put_bridge_state(&mut self, availability: Availability) {
        self.retained.put_word(&self.topics.bridge_state(), availability.word(), Priority::Bridge);
    }

    fn end_first_round(&mut self) {
        self.stale.is_round_done = true;
        self.clear_leftovers();
    }

    fn forget(&mut self, name: &PlugName) {
        let plug = self.plugs.remove(name).unwrap_or_default();
        self.stale.take_state(name);
        for topic in plug.documents {
            self.retained.clear_document(&topic);
        }
        for topic in self.stale.take_plug(name) {
            self.retained.clear_document(&topic);
        }
        for leaf in StateTopic::KEPT {
            self.retained.clear(&self.topics.plug(name.as_str(), leaf));
        }
    }

    fn known(&mut self, name: &PlugName) -> &mut PlugTopics {
        self.plugs.entry(name.clone()).or_default()
    }

    /// Writes the plug's documents, and takes back those that its device had under other topics.
    fn render(&mut self, name: &PlugName) {
        let Some(info) = self.plugs.get(name).and_then(|plug| plug.info.clone()) else { return };
        // What its strip had before tells which of the outlet's entities have to move.
        let strip = info.outlet.as_ref().map(|outlet| &outlet.strip).zip(self.renderer.strip(&info));
        if let Some((strip, _)) = strip.filter(|(_, device)| self.stale.has_device(device)) {
            self.render(strip);
        }
        let Some(plug) = self.plugs.get_mut(name) else { return };
        let device = self.renderer.device(&info);
        for (topic, found) in device.map(|device| self.stale.take_device(&device)).unwrap_or_default() {
            let is_outgrown = self.renderer.is_outgrown(&topic, &found);
            let is_own = !is_outgrown || self.renderer.is_device_topic(&topic);
            if is_own {
                plug.inherit(topic.clone(), found, &self.renderer);
            }
            if is_outgrown && self.renderer.is_off() {
                self.retained.clear_document(&topic);
            } else if is_outgrown && !(is_own && self.renderer.is_other_form(&topic)) {
                self.migration.add(topic);
            }
        }
        let Some(info) = plug.info.as_ref().filter(|_| !plug.is_awaited(&self.renderer)) else { return };
        let documents = self.renderer.plug(name, info, plug.has, &plug.components);
        let rank = if info.outlet.is_some() { Priority::OutletDocument } else { Priority::Document };
        let mut retired = std::mem::take(&mut plug.documents);
        for Document { topic, payload } in documents {
            retired.retain(|old| **old != *topic);
            plug.documents.push(self.retained.put_document(&topic, name, &payload, rank));
        }
        for topic in retired {
            self.retire(&topic);
        }
        if self.stale.is_settled() {
            self.clear_of_others(name);
        }
    }

    /// What is printed of the plug at this topic, as it is now.
    fn rendered(&self, name: &PlugName, topic: &str, rank: Priority) -> Option<Bytes> {
        let plug = self.plugs.get(name)?;
        let info = plug.info.as_ref()?;
        if rank == Priority::Info {
            return Some(payload::info(info).into());
        }
        let document = self.renderer.plug_at(topic, name, info, plug.has, &plug.components)?;
        Some(document.payload.into())
    }

    /// Takes a document back. If its entities go on in the other form, they move first.
    fn retire(&mut self, topic: &str) {
        if self.renderer.is_other_form(topic) {
            self.migration.add(topic.to_owned());
        } else {
            self.retained.clear_document(topic);
        }
    }

    fn take_command(
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
            self.refuse(plug, "too many commands are under way: send it again later", &reply);
            return Effect::None;
        }
        Effect::Inbound(Inbound::Event(Event::Command { id, plug: name, order }))
    }

    fn take_request(&mut self, name: &str, message: Message<'_>, now: Instant) -> Effect {
        let Parsed { result, transaction } = command::request(name, message.payload);
        let reply = self.reply_to(&message, || self.topics.response(name), transaction);
        let request = match result {
            Ok(request) => request,
            Err(why) => {
                self.respond(name, Err(&why), &reply);
                return Effect::None;
            }
        };
        let waiting = (name.to_owned(), reply.clone());
        let id = self.ids.request(Origin::Mqtt);
        if !self.requests.add(id, waiting, reply.size(), now) {
            self.respond(name, Err("too many requests are under way: send it again later"), &reply);
            return Effect::None;
        }
        Effect::Inbound(match request {
            command::BridgeRequest::Ask(ask) => Inbound::Event(Event::Request { id, ask }),
            command::BridgeRequest::Reload => Inbound::Reload(id),
        })
    }

    /// Where the answer goes beside its `usual` topic. Not to another one of ours: there it would be a command to
    /// somebody else, or be taken for what a plug says, on behalf of a client who may do neither.
    fn reply_to(
        &self,
        message: &Message<'_>,
        usual: impl Fn() -> String,
        transaction: Option<serde_json::Value>,
    ) -> ReplyTo {
        let is_ours = |topic: &str| {
            self.topics.is_below_base(topic)
                || self.renderer.is_below_prefix(topic)
                || topic == self.status_topic
        };
        let topic = message.response_topic.filter(|topic| !is_ours(topic) || *topic == usual());
        if topic != message.response_topic {
            tracing::debug!("a response topic that is one of our own is not used");
        }
        ReplyTo::to(topic, message.correlation, transaction)
    }

    fn answer_command(&mut self, result: &CommandResult) {
        let reply = self.commands.remove(result.id).unwrap_or_default();
        let answer = payload::result(result, reply.transaction.as_ref());
        let state = self.topics.plug(result.plug.as_str(), StateTopic::State);
        self.answer(self.topics.plug(result.plug.as_str(), StateTopic::Result), answer, &reply, Some(state));
    }

    fn answer_request(&mut self, id: RequestId, result: Result<(), &str>) {
        // An answer to a request that another link took has nowhere to go.
        let Some((name, reply)) = self.requests.remove(id) else { return };
        self.respond(&name, result, &reply);
    }

    fn refuse(&mut self, plug: &str, why: &str, reply: &ReplyTo) {
        let topic = self.topics.plug(plug, StateTopic::Result);
        if topics::check_topic(&topic).is_err() {
            tracing::debug!("a command to a plug that cannot exist is dropped");
            return;
        }
        tracing::debug!(plug, "refused a command: {why}");
        self.answer(topic, payload::refusal(why, reply.transaction.as_ref()), reply, None);
    }

    fn respond(&mut self, name: &str, result: Result<(), &str>, reply: &ReplyTo) {
        let answer = payload::response(result, reply.transaction.as_ref());
        self.answer(self.topics.response(name), answer, reply, None);
    }

    fn answer(&mut self, topic: String, payload: Vec<u8>, reply: &ReplyTo, after: Option<String>) {
        let own = reply.topic.as_ref().filter(|own| **own != topic).cloned();
        let correlation = reply.correlation.clone();
        let Some(own) = own else {
            return self.write(Transient { topic, payload, correlation, after });
        };
        self.write(Transient { topic, payload: payload.clone(), correlation: None, after: after.clone() });
        self.write(Transient { topic: own, payload, correlation, after });
    }

    fn enqueue(&mut self, topic: String, payload: Vec<u8>) {
        self.write(Transient { topic, payload, correlation: None, after: None });
    }

    /// Letters are for those who listen; without a connection there is nobody, and later it would be stale.
    fn write(&mut self, transient: Transient) {
        if self.is_connected && self.outbox.len() < MAX_OUTBOX {
            self.outbox.push_back(transient);
        } else {
            tracing::debug!(
                topic = transient.topic,
                "not said: no connection to the broker, or no room in it"
            );
        }
    }

    fn inspect_retained(&mut self, message: Message<'_>) {
        let leftovers = &mut self.stale;
        if leftovers.is_searched || message.payload.is_empty() {
            if self.topics.parse(message.topic).is_some() {
                tracing::debug!(topic = message.topic, "a command that the broker kept is not executed");
            }
        } else if message.topic == self.topics.bridge_info() {
            leftovers.is_base_ours = instance_of(message.payload).is_some_and(|found| found == self.instance);
        } else if let Some(plug) = self.topics.parse_availability(message.topic) {
            leftovers.add_plug(plug);
        } else if let Some(plug) = self.topics.parse_told(message.topic, StateTopic::State) {
            if !self.retained.holds(message.topic) {
                leftovers.add_state(plug.clone(), message.payload);
            }
            let availability = self.topics.plug(plug.as_str(), StateTopic::Availability);
            if self.retained.is_word(&availability, Availability::Offline.word()) {
                self.show_unserved(&plug);
            }
        } else if self.renderer.is_document_topic(message.topic)
            && let Some(found) = self.renderer.read_retained(message.payload)
        {
            leftovers.add_document(message.topic, found);
        }
    }

    /// The plugs that an earlier run left documents of, in the order of their names: the same on each run.
    fn take_over(&self) -> Vec<PlugName> {
        let is_left = |plug: &PlugTopics| {
            let device = plug.info.as_ref().and_then(|info| self.renderer.device(info));
            device.is_some_and(|device| self.stale.has_device(&device))
        };
        let left = self.plugs.iter().filter(|(_, plug)| is_left(plug)).map(|(name, _)| name.clone());
        let mut names: Vec<_> = left.collect();
        names.sort_unstable();
        names
    }

    /// Once the search and the first round of reads are both done, whatever still belongs to no plug is cleared.
    /// A plug that has not answered yet keeps what is told under its name.
    fn clear_leftovers(&mut self) {
        if !self.stale.is_settled() {
            return;
        }
        self.stale.documents.retain(|topic, found| {
            let plug = found.plug.as_ref().and_then(|plug| self.plugs.get(plug));
            let is_wanted = plug.is_some_and(|plug| plug.is_awaited(&self.renderer))
                || self.retained.holds(topic)
                || (found.is_outlet && !self.stale.is_base_ours);
            if !is_wanted {
                tracing::info!("{topic}: clearing a discovery document that an earlier run left behind");
                self.retained.clear_document(topic);
            }
            is_wanted
        });
        for plug in std::mem::take(&mut self.stale.plugs) {
            if self.stale.is_base_ours && !self.plugs.contains_key(&plug) {
                tracing::info!(%plug, "{plug}: clearing what an earlier run left behind of it");
                self.forget(&plug);
            }
        }
    }

    /// The plug has answered, and is not the one that had its name in an earlier run.
    fn clear_of_others(&mut self, name: &PlugName) {
        for topic in self.stale.take_plug(name) {
            if !self.retained.holds(&topic) {
                self.retained.clear_document(&topic);
            }
        }
    }
}

impl PlugTopics {
    /// Whether it has yet to say what its documents need; until then those of an earlier run stand.
    fn is_awaited(&self, press: &DiscoveryRenderer) -> bool {
        self.info.as_ref().is_none_or(|info| press.device(info).is_none())
    }

    /// Goes on with a document of an earlier run, which shows what the plug was able to do then.
    fn inherit(&mut self, topic: String, found: RetainedDocument, press: &DiscoveryRenderer) {
        let has = press.abilities(&topic, &found);
        self.has.led |= has.led;
        self.has.cloud |= has.cloud;
        if press.is_device_topic(&topic) {
            self.components.extend(found.components);
        }
        if !self.documents.iter().any(|known| **known == *topic) {
            self.documents.push(topic.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::bridge::event::{BridgeCommand, Ended, OutletInfo};
    use crate::model::{DeviceId, PlugCommand, RelayState};
    use crate::mqtt::homeassistant::{self, DocumentForm};
    use crate::smarthome::message::{DeviceInfo, OutletDescription};

    fn desk_with(discovery: DocumentForm) -> MqttState {
        let options = MqttSettings {
            host: "127.0.0.1".to_owned(),
            port: 1883,
            tls: None,
            username: None,
            password: None,
            client_id: "hs100d-test".to_owned(),
            base_topic: "hs100d".to_owned(),
            instance: "test".to_owned(),
            homeassistant: homeassistant::HomeAssistantOptions {
                discovery,
                discovery_prefix: "homeassistant".to_owned(),
                status_topic: "homeassistant/status".to_owned(),
            },
        };
        MqttState::new(
            &options,
            IdAllocator::default(),
            Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH },
        )
    }

    fn mqtt() -> MqttState {
        desk_with(DocumentForm::Device)
    }

    fn connected() -> MqttState {
        let mut mqtt = mqtt();
        mqtt.connected();
        mqtt.end_search();
        sent(&mut mqtt);
        mqtt
    }

    fn message<'a>(topic: &'a str, payload: &'a str, kept: bool) -> Message<'a> {
        Message {
            topic,
            payload: payload.as_bytes(),
            retained: kept,
            response_topic: None,
            correlation: None,
        }
    }

    fn name(text: &str) -> PlugName {
        PlugName::new(text).unwrap()
    }

    fn info(digit: char) -> PlugInfo {
        PlugInfo {
            device: Arc::new(DeviceInfo {
                device_id: DeviceId::new(&digit.to_string().repeat(40)),
                mac: None,
                alias: "Kettle".into(),
                model: "HS100(EU)".into(),
                hw_version: "1.0".into(),
                sw_version: "1.2".into(),
                kind: "IOT.SMARTPLUGSWITCH".into(),
                feature: "TIM".into(),
                dev_name: "Plug".into(),
                dims: false,
                outlets: Box::default(),
            }),
            address: None,
            protocol: None,
            rssi: None,
            cloud_connected: None,
            outlet: None,
            outlets: Arc::default(),
            schedule: None,
        }
    }

    fn document(digit: char) -> String {
        format!("homeassistant/device/hs100d_{}/config", digit.to_string().repeat(40))
    }

    fn state(led: Option<RelayState>) -> PlugState {
        PlugState { relay: RelayState::On, route: None, led, on_since: None, brightness: None, until: None }
    }

    fn update(mqtt: &mut MqttState, update: Update) {
        mqtt.handle_update(update, Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH });
    }

    fn result(id: CommandId, plug: &str) -> Update {
        Update::Result(CommandResult {
            id,
            plug: name(plug),
            ended: Ended::Ok,
            state: None,
            route: None,
            took: Duration::ZERO,
        })
    }

    /// All that goes out, topic and payload.
    fn sent(mqtt: &mut MqttState) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        std::iter::from_fn(|| mqtt.take())
            .map(|outgoing| match outgoing {
                Outgoing::Retained(kept) => (kept.topic.to_string(), text(&kept.payload)),
                Outgoing::Transient(transient) => (transient.topic, text(&transient.payload)),
            })
            .collect()
    }

    fn topics(sent: &[(String, String)]) -> Vec<&str> {
        sent.iter().map(|(topic, _)| topic.as_str()).collect()
    }

    fn command_id(effect: Effect) -> CommandId {
        match effect {
            Effect::Inbound(Inbound::Event(Event::Command { id, .. })) => id,
            other => panic!("not a command: {other:?}"),
        }
    }

    #[test]
    fn the_result_of_a_command_from_another_frontend_is_published_and_answers_no_command_of_ours() {
        let mut mqtt = connected();
        let set = message("hs100d/lamp/set", r#"{"state":"ON","transaction":"ours"}"#, false);
        let ours = command_id(mqtt.handle_message(set, Instant::now()));
        // Should it ever have the same number.
        let elsewhere = CommandId::new(Origin::Http, 1);
        assert_eq!(ours, CommandId::new(Origin::Mqtt, 1));
        for (id, is_ours) in [(elsewhere, false), (ours, true)] {
            update(&mut mqtt, result(id, "lamp"));
            let sent = sent(&mut mqtt);
            assert_eq!(topics(&sent), ["hs100d/lamp/result"]);
            assert_eq!(sent[0].1.contains("ours"), is_ours, "{sent:?}");
        }
    }

    #[test]
    fn everything_goes_out_in_the_order_that_serves_home_assistant() {
        let mut mqtt = mqtt();
        update(&mut mqtt, Update::Ready);
        update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
        update(&mut mqtt, Update::State(name("kettle"), state(None)));
        update(&mut mqtt, Update::Availability(name("kettle"), Availability::Online));
        mqtt.connected();
        mqtt.end_search();
        let sent = sent(&mut mqtt);
        let at = |topic: &str| sent.iter().position(|(t, _)| t == topic).unwrap();
        let order = [
            at(&document('A')),
            at("hs100d/kettle/availability"),
            at("hs100d/kettle/state"),
            at("hs100d/kettle/info"),
            at("hs100d/bridge/state"),
        ];
        assert!(order.is_sorted(), "{sent:#?}");
    }

    #[test]
    fn the_bridge_is_online_only_after_the_first_round() {
        let mut mqtt = connected();
        update(&mut mqtt, Update::Availability(name("kettle"), Availability::Online));
        assert_eq!(topics(&sent(&mut mqtt)), ["hs100d/kettle/availability"]);
        update(&mut mqtt, Update::Ready);
        let sent = sent(&mut mqtt);
        assert_eq!(sent.last().unwrap(), &("hs100d/bridge/state".to_owned(), "online".to_owned()));
    }

    #[test]
    fn a_state_is_known_before_the_result_that_tells_of_it() {
        let mut mqtt = connected();
        for plug in ["kettle", "lamp"] {
            update(&mut mqtt, Update::State(name(plug), state(None)));
        }
        update(&mut mqtt, result(CommandId::new(Origin::Mqtt, u64::MAX), "lamp"));
        assert_eq!(
            topics(&sent(&mut mqtt)),
            ["hs100d/lamp/state", "hs100d/lamp/result", "hs100d/kettle/state"]
        );
    }

    #[test]
    fn letters_are_not_kept_for_a_later_connection_and_values_are() {
        let mut mqtt = mqtt();
        mqtt.end_search();
        update(&mut mqtt, result(CommandId::new(Origin::Mqtt, u64::MAX), "kettle"));
        update(&mut mqtt, Update::State(name("kettle"), state(None)));
        mqtt.connected();
        assert!(!topics(&sent(&mut mqtt)).contains(&"hs100d/kettle/result"));
        update(&mut mqtt, result(CommandId::new(Origin::Mqtt, u64::MAX), "kettle"));
        mqtt.disconnected();
        mqtt.connected();
        let sent = sent(&mut mqtt);
        assert!(
            topics(&sent).contains(&"hs100d/kettle/state")
                && !topics(&sent).contains(&"hs100d/kettle/result")
        );
    }

    #[test]
    fn a_value_without_room_is_sent_later_and_only_in_its_last_form() {
        let mut mqtt = connected();
        update(&mut mqtt, Update::State(name("kettle"), state(None)));
        let first = mqtt.take().unwrap();
        mqtt.requeue(first);
        let lit = state(Some(RelayState::On));
        update(&mut mqtt, Update::State(name("kettle"), lit));
        let sent = sent(&mut mqtt);
        assert_eq!(topics(&sent), ["hs100d/kettle/state"]);
        assert!(sent[0].1.contains("led"));
    }

    #[test]
    fn a_kept_command_is_not_executed_at_any_time() {
        let mut mqtt = mqtt();
        for _ in 0..2 {
            let kept = message("hs100d/kettle/set", "ON", true);
            assert!(matches!(mqtt.handle_message(kept, Instant::now()), Effect::None));
            mqtt.connected();
            mqtt.end_search();
        }
        assert!(topics(&sent(&mut mqtt)).iter().all(|topic| !topic.contains("kettle")));
    }

    #[test]
    fn too_many_commands_are_refused_with_a_result() {
        let mut mqtt = connected();
        let now = Instant::now();
        let get = message("hs100d/kettle/get", "", false);
        for _ in 0..MAX_PENDING {
            command_id(mqtt.handle_message(get, now));
        }
        assert!(matches!(mqtt.handle_message(get, now), Effect::None));
        let refused = sent(&mut mqtt);
        assert!(refused[0].1.contains("too many commands"), "{refused:?}");
    }

    #[test]
    fn a_result_goes_to_its_sender_once_and_for_an_unknown_plug_all_the_same() {
        let mut mqtt = connected();
        let get = Message {
            response_topic: Some("me/answers"),
            correlation: Some(&Bytes::from_static(b"c")),
            ..message("hs100d/kettle/get", r#"{"transaction":1}"#, false)
        };
        let id = command_id(mqtt.handle_message(get, Instant::now()));
        update(&mut mqtt, result(id, "kettle"));
        assert_eq!(topics(&sent(&mut mqtt)), ["hs100d/kettle/result", "me/answers"]);
        update(&mut mqtt, result(id, "kettle"));
        let again = sent(&mut mqtt);
        assert_eq!(topics(&again), ["hs100d/kettle/result"]);
        assert!(!again[0].1.contains("transaction"));
    }

    #[test]
    fn a_response_topic_that_would_cost_the_connection_or_is_one_of_ours_is_not_used() {
        for bad in ["", "a/#", "+", "$SYS/x", "a\u{0}b"] {
            let mut mqtt = connected();
            let set = Message { response_topic: Some(bad), ..message("hs100d/kettle/set", "up", false) };
            mqtt.handle_message(set, Instant::now());
            assert_eq!(topics(&sent(&mut mqtt)), ["hs100d/kettle/result"], "{bad:?}");
        }
        // Nor one that would make a command, a request or a lie of it.
        for ours in [
            "hs100d/heater/set",
            "hs100d/kettle/set",
            "hs100d/heater/state",
            "hs100d/heater/result",
            "hs100d/bridge/request/forget",
            "homeassistant/device/hs100d_8006/config",
            "homeassistant/status",
        ] {
            let mut mqtt = connected();
            for topic in ["hs100d/kettle/set", "hs100d/bridge/request/nothing"] {
                let asked = Message { response_topic: Some(ours), ..message(topic, "up", false) };
                mqtt.handle_message(asked, Instant::now());
            }
            let expected = ["hs100d/kettle/result", "hs100d/bridge/response/nothing"];
            assert_eq!(topics(&sent(&mut mqtt)), expected, "{ours:?}");
        }
        let mut mqtt = connected();
        let same = "hs100d/kettle/result";
        let set = Message { response_topic: Some(same), ..message("hs100d/kettle/set", "up", false) };
        mqtt.handle_message(set, Instant::now());
        assert_eq!(topics(&sent(&mut mqtt)), [same]);
    }

    #[test]
    fn messages_that_nobody_meant_for_us_have_no_effect() {
        let mut mqtt = connected();
        for topic in ["", "hs100d", "other/kettle/set", "hs100d/kettle/state", "homeassistant/status/x"] {
            assert!(matches!(mqtt.handle_message(message(topic, "ON", false), Instant::now()), Effect::None));
        }
        let offline = message("homeassistant/status", "offline", false);
        assert!(matches!(mqtt.handle_message(offline, Instant::now()), Effect::None));
        let birth = message("homeassistant/status", "online", false);
        assert!(matches!(mqtt.handle_message(birth, Instant::now()), Effect::Birth));
        assert_eq!(sent(&mut mqtt), []);
    }

    #[test]
    fn requests_become_events_and_reloads() {
        let mut mqtt = connected();
        let discover = message("hs100d/bridge/request/discover", "", false);
        let effect = mqtt.handle_message(discover, Instant::now());
        assert!(matches!(
            effect,
            Effect::Inbound(Inbound::Event(Event::Request { ask: BridgeCommand::Discover, .. }))
        ));
        let reload = message("hs100d/bridge/request/reload", "", false);
        assert!(matches!(mqtt.handle_message(reload, Instant::now()), Effect::Inbound(Inbound::Reload(_))));
    }

    #[test]
    fn each_order_keeps_its_plug() {
        let mut mqtt = connected();
        let effect = mqtt.handle_message(message("hs100d/lamp/set/reboot", "PRESS", false), Instant::now());
        let Effect::Inbound(Inbound::Event(Event::Command { plug, order, .. })) = effect else { panic!() };
        assert_eq!((plug.as_str(), order), ("lamp", PlugCommand::Reboot));
    }

    #[test]
    fn a_light_that_was_seen_once_stays_in_the_document() {
        let mut mqtt = connected();
        update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
        update(&mut mqtt, Update::State(name("kettle"), state(Some(RelayState::On))));
        let shown = sent(&mut mqtt);
        assert!(
            shown.iter().any(|(topic, text)| *topic == document('A') && text.contains("set/led")),
            "{shown:?}"
        );
        update(&mut mqtt, Update::State(name("kettle"), state(None)));
        assert_eq!(topics(&sent(&mut mqtt)), ["hs100d/kettle/state"]);
    }

    #[test]
    fn an_unchanged_plate_is_not_written_again() {
        let mut mqtt = connected();
        update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
        sent(&mut mqtt);
        let moved = PlugInfo { rssi: Some(-60), ..info('A') };
        update(&mut mqtt, Update::Info(name("kettle"), moved.clone().into()));
        assert_eq!(topics(&sent(&mut mqtt)), ["hs100d/kettle/info"]);
        update(&mut mqtt, Update::Info(name("kettle"), moved.into()));
        assert_eq!(sent(&mut mqtt), []);
    }

    #[test]
    fn another_plug_under_the_same_name_takes_the_place_of_the_first() {
        let mut mqtt = connected();
        update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
        sent(&mut mqtt);
        update(&mut mqtt, Update::Info(name("kettle"), info('B').into()));
        let sent = sent(&mut mqtt);
        assert_eq!(topics(&sent), [&document('B'), "hs100d/kettle/info", &document('A')]);
        assert_eq!(sent[2].1, "");
    }

    #[test]
    fn a_plug_that_is_gone_is_cleared_at_every_connection() {
        let mut mqtt = connected();
        update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
        sent(&mut mqtt);
        mqtt.disconnected();
        update(&mut mqtt, Update::Gone(name("kettle")));
        for _ in 0..2 {
            mqtt.connected();
            let cleared: Vec<_> = sent(&mut mqtt)
                .into_iter()
                .filter(|(_, text)| text.is_empty())
                .map(|(topic, _)| topic)
                .collect();
            // The document first: its templates could not read the emptied topics.
            assert_eq!(cleared[0], document('A'));
            assert!(cleared.contains(&"hs100d/kettle/info".to_owned()));
            assert_eq!(cleared.len(), 5);
        }
    }

    /// What an earlier run of this installation left on the broker, as the search hears it.
    fn left_behind(mqtt: &mut MqttState, form: DocumentForm, plug: &str, digit: char) {
        let mut earlier = desk_with(form);
        earlier.connected();
        earlier.end_search();
        let lit = state(Some(RelayState::On));
        update(&mut earlier, Update::State(name(plug), lit));
        update(&mut earlier, Update::Info(name(plug), info(digit).into()));
        update(&mut earlier, Update::Availability(name(plug), Availability::Online));
        update(&mut earlier, Update::Ready);
        for (topic, payload) in sent(&mut earlier) {
            mqtt.handle_message(message(&topic, &payload, true), Instant::now());
        }
    }

    fn cleared(mqtt: &mut MqttState) -> Vec<String> {
        sent(mqtt).into_iter().filter(|(_, text)| text.is_empty()).map(|(topic, _)| topic).collect()
    }

    #[test]
    fn leftovers_are_cleared_after_the_search_and_the_first_round_and_not_before() {
        let mut mqtt = mqtt();
        mqtt.connected();
        left_behind(&mut mqtt, DocumentForm::Device, "heater", 'C');
        update(&mut mqtt, Update::Ready);
        assert_eq!(cleared(&mut mqtt), [""; 0]);
        mqtt.end_search();
        let cleared = cleared(&mut mqtt);
        assert!(cleared.contains(&document('C')) && cleared.contains(&"hs100d/heater/state".to_owned()));
        assert!(mqtt.search_filters().is_empty());

        let mut mqtt = self::mqtt();
        mqtt.connected();
        left_behind(&mut mqtt, DocumentForm::Device, "heater", 'C');
        mqtt.end_search();
        assert_eq!(self::cleared(&mut mqtt), [""; 0]);
        update(&mut mqtt, Update::Ready);
        assert!(self::cleared(&mut mqtt).contains(&document('C')));
    }

    #[test]
    fn a_plug_that_is_known_but_silent_keeps_its_entities() {
        let mut mqtt = mqtt();
        mqtt.connected();
        left_behind(&mut mqtt, DocumentForm::Device, "kettle", 'A');
        update(&mut mqtt, Update::Expected(name("kettle")));
        mqtt.end_search();
        update(&mut mqtt, Update::Ready);
        assert_eq!(cleared(&mut mqtt), [""; 0]);
        // Forgotten later, it takes with it what was found of it.
        update(&mut mqtt, Update::Gone(name("kettle")));
        assert!(cleared(&mut mqtt).contains(&document('A')));
    }

    #[test]
    fn a_plug_that_does_not_answer_after_a_restart_is_told_to_have_no_route() {
        let kept = r#"{"state":"ON","route":"local","led":"ON","on_since":null}"#;
        for is_told_first in [false, true] {
            let mut mqtt = mqtt();
            mqtt.connected();
            let offline = || Update::Availability(name("kettle"), Availability::Offline);
            if is_told_first {
                update(&mut mqtt, offline());
            }
            mqtt.handle_message(message("hs100d/kettle/state", kept, true), Instant::now());
            mqtt.handle_message(message("hs100d/lamp/state", kept, true), Instant::now());
            mqtt.handle_message(message("hs100d/bridge/state", "offline", true), Instant::now());
            mqtt.end_search();
            update(&mut mqtt, Update::State(name("lamp"), state(None)));
            update(&mut mqtt, offline());
            update(&mut mqtt, Update::Availability(name("lamp"), Availability::Offline));
            let sent = sent(&mut mqtt);
            let shown: serde_json::Value = serde_json::from_str(shown(&sent, "hs100d/kettle/state")).unwrap();
            let expected = serde_json::json!({"state": "ON", "route": "none", "led": "ON", "on_since": null});
            assert_eq!(shown, expected);
            assert_eq!(topics(&sent).iter().filter(|topic| **topic == "hs100d/lamp/state").count(), 1);
        }
    }

    #[test]
    fn what_was_kept_of_a_plug_that_was_forgotten_is_not_told_of_the_next_one_of_its_name() {
        let mut mqtt = mqtt();
        mqtt.connected();
        let kept = r#"{"state":"ON","route":"local","led":"ON","on_since":null}"#;
        mqtt.handle_message(message("hs100d/kettle/state", kept, true), Instant::now());
        mqtt.end_search();
        update(&mut mqtt, Update::Gone(name("kettle")));
        update(&mut mqtt, Update::Availability(name("kettle"), Availability::Offline));
        let sent = sent(&mut mqtt);
        assert_eq!(shown(&sent, "hs100d/kettle/availability"), "offline");
        assert_eq!(shown(&sent, "hs100d/kettle/state"), "");
    }

    #[test]
    fn a_plug_that_was_renamed_keeps_its_entities_and_loses_its_old_topics() {
        let mut mqtt = mqtt();
        mqtt.connected();
        left_behind(&mut mqtt, DocumentForm::Device, "kettle", 'A');
        update(&mut mqtt, Update::Info(name("teapot"), info('A').into()));
        mqtt.end_search();
        update(&mut mqtt, Update::Ready);
        let cleared = cleared(&mut mqtt);
        assert!(cleared.contains(&"hs100d/kettle/info".to_owned()), "{cleared:?}");
        assert!(!cleared.contains(&document('A')), "{cleared:?}");
    }

    /// What the last document at this topic says.
    fn shown<'a>(sent: &'a [(String, String)], topic: &str) -> &'a str {
        sent.iter().rfind(|(t, _)| *t == topic).map_or("", |(_, text)| text.as_str())
    }

    #[test]
    fn an_entity_that_the_plug_once_had_stays_while_it_has_not_been_seen_again() {
        for form in [DocumentForm::Device, DocumentForm::Component] {
            let mut mqtt = desk_with(form);
            mqtt.connected();
            left_behind(&mut mqtt, form, "kettle", 'A');
            update(&mut mqtt, Update::State(name("kettle"), state(None)));
            update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
            mqtt.end_search();
            update(&mut mqtt, Update::Ready);
            let sent = sent(&mut mqtt);
            assert!(sent.iter().any(|(_, text)| text.contains("/set/led")), "{form:?}: {sent:#?}");
            assert!(sent.iter().all(|(_, text)| !text.is_empty()), "{form:?}: {sent:#?}");
        }
    }

    #[test]
    fn a_component_that_there_is_no_more_is_taken_back_once() {
        let earlier =
            r#"{"origin":{"name":"hs100d"},"device":{"identifiers":["hs100d_ID"],"via_device":"hs100d_test"},
            "components":{"old":{"platform":"sensor","unique_id":"x"},"older":{"platform":"sensor"}}}"#
                .replace("ID", &"A".repeat(40));
        let mut mqtt = mqtt();
        mqtt.connected();
        mqtt.handle_message(message(&document('A'), &earlier, true), Instant::now());
        update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
        mqtt.end_search();
        let sent = sent(&mut mqtt);
        let shown = shown(&sent, &document('A'));
        assert!(shown.contains(r#""old":{"p":"sensor"}"#), "{shown}");
        assert!(!shown.contains("older"), "{shown}");
    }

    /// Where each of these messages stands among those that were sent.
    fn places<const N: usize>(sent: &[(String, String)], wanted: [(&str, &str); N]) -> [usize; N] {
        wanted.map(|(topic, part)| {
            let is_it = |(t, text): &(String, String)| {
                t == topic && if part.is_empty() { text.is_empty() } else { text.contains(part) }
            };
            sent.iter().position(is_it).unwrap_or_else(|| panic!("no {topic} with {part:?}: {sent:#?}"))
        })
    }

    #[test]
    fn another_form_is_announced_before_it_comes_and_cleared_after() {
        let relay = format!("homeassistant/switch/hs100d_{}/hs100d_relay/config", "A".repeat(40));
        let bridge = "homeassistant/device/hs100d_test/config";
        let part = "homeassistant/binary_sensor/hs100d_test/hs100d_connection/config";
        for (before, after, old, new, old_bridge, new_bridge) in [
            (DocumentForm::Component, DocumentForm::Device, &relay, &document('A'), part, bridge),
            (DocumentForm::Device, DocumentForm::Component, &document('A'), &relay, bridge, part),
        ] {
            let mut mqtt = desk_with(after);
            mqtt.connected();
            left_behind(&mut mqtt, before, "kettle", 'A');
            update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
            mqtt.end_search();
            update(&mut mqtt, Update::Ready);
            let sent = sent(&mut mqtt);
            let steps = [(old.as_str(), "migrate_discovery"), (new.as_str(), "uniq_id")];
            assert!(places(&sent, steps).is_sorted(), "{sent:#?}");
            let steps = [(old_bridge, "migrate_discovery"), (new_bridge, "uniq_id")];
            assert!(places(&sent, steps).is_sorted(), "{sent:#?}");
            // Home Assistant is given time before the old documents go.
            assert!(sent.iter().all(|(_, text)| !text.is_empty()), "{sent:#?}");
            assert!(mqtt.is_migrating());
            mqtt.end_migration();
            assert!(!mqtt.is_migrating());
            let cleared = cleared(&mut mqtt);
            assert!(cleared.contains(old) && cleared.contains(&old_bridge.to_owned()), "{cleared:?}");
            assert!(!cleared.contains(new), "{cleared:?}");
        }
    }

    #[test]
    fn a_move_begins_anew_on_a_new_connection() {
        let relay = format!("homeassistant/switch/hs100d_{}/hs100d_relay/config", "A".repeat(40));
        let mut mqtt = mqtt();
        mqtt.connected();
        left_behind(&mut mqtt, DocumentForm::Component, "kettle", 'A');
        update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
        // Nothing is taken back while the search holds back what takes its place.
        assert_eq!(topics(&sent(&mut mqtt)), ["hs100d/kettle/info"]);
        mqtt.end_search();
        for _ in 0..2 {
            let sent = sent(&mut mqtt);
            let steps = [(relay.as_str(), "migrate_discovery"), (&document('A'), "uniq_id")];
            assert!(places(&sent, steps).is_sorted(), "{sent:#?}");
            mqtt.disconnected();
            assert!(mqtt.is_migrating());
            mqtt.connected();
            assert!(!mqtt.is_migrating());
        }
    }

    #[test]
    fn documents_that_are_switched_off_are_cleared_without_a_move() {
        for before in [DocumentForm::Device, DocumentForm::Component] {
            let mut mqtt = desk_with(DocumentForm::Off);
            mqtt.connected();
            left_behind(&mut mqtt, before, "kettle", 'A');
            update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
            mqtt.end_search();
            update(&mut mqtt, Update::Ready);
            let sent = sent(&mut mqtt);
            let documents = || sent.iter().filter(|(topic, _)| topic.starts_with("homeassistant/"));
            assert!(documents().count() >= 2 && documents().all(|(_, text)| text.is_empty()), "{sent:#?}");
        }
    }

    #[test]
    fn two_plugs_that_have_swapped_their_names_both_keep_their_entities() {
        for swapped in [["kettle", "lamp"], ["lamp", "kettle"]] {
            let mut mqtt = mqtt();
            mqtt.connected();
            left_behind(&mut mqtt, DocumentForm::Device, "lamp", 'A');
            left_behind(&mut mqtt, DocumentForm::Device, "kettle", 'B');
            for plug in swapped {
                update(
                    &mut mqtt,
                    Update::Info(name(plug), info(if plug == "kettle" { 'A' } else { 'B' }).into()),
                );
            }
            mqtt.end_search();
            update(&mut mqtt, Update::Ready);
            assert_eq!(cleared(&mut mqtt), [""; 0]);
        }
    }

    #[test]
    fn a_plug_that_answers_late_and_is_another_one_clears_what_its_name_had() {
        let mut mqtt = mqtt();
        mqtt.connected();
        left_behind(&mut mqtt, DocumentForm::Device, "kettle", 'A');
        update(&mut mqtt, Update::Availability(name("kettle"), Availability::Offline));
        mqtt.end_search();
        update(&mut mqtt, Update::Ready);
        assert_eq!(cleared(&mut mqtt), [""; 0]);
        update(&mut mqtt, Update::Info(name("kettle"), info('B').into()));
        assert_eq!(cleared(&mut mqtt), [document('A')]);
    }

    /// A strip's own info, and that of its outlets.
    fn strip() -> [(PlugName, PlugInfo); 3] {
        let outlet = |id: &str, alias: &str| OutletDescription { id: id.into(), alias: alias.into() };
        let mut strip = info('D');
        let plate = Arc::make_mut(&mut strip.device);
        plate.outlets = [outlet("00", "Lamp"), outlet("01", "Fan")].into();
        plate.feature = "TIM:ENE".into();
        strip.outlets = [name("lamp"), name("fan")].into();
        let part = |number| PlugInfo {
            outlet: Some(OutletInfo { number, strip: name("mqtt") }),
            outlets: Arc::default(),
            ..strip.clone()
        };
        [(name("mqtt"), strip.clone()), (name("lamp"), part(0)), (name("fan"), part(1))]
    }

    fn show_strip(mqtt: &mut MqttState) {
        for (name, info) in strip() {
            update(mqtt, Update::Info(name.clone(), info.into()));
            update(mqtt, Update::State(name.clone(), state(None)));
            update(mqtt, Update::Availability(name, Availability::Online));
        }
    }

    fn outlet_document(number: u8) -> String {
        format!("homeassistant/device/hs100d_{}0{number}/config", "D".repeat(40))
    }

    #[test]
    fn a_strip_and_each_of_its_outlets_have_a_document_and_the_strip_comes_first() {
        let mut mqtt = connected();
        show_strip(&mut mqtt);
        let documents = |sent: Vec<(String, String)>| -> Vec<(String, String)> {
            let is_document = |(topic, _): &(String, String)| topic.contains(&"D".repeat(40));
            sent.into_iter().filter(is_document).collect()
        };
        for _ in 0..3 {
            let shown = documents(sent(&mut mqtt));
            assert_eq!(shown.len(), 3, "{shown:#?}");
            assert!(
                shown[0].0 == document('D') && shown[0].1.contains("hs100d/mqtt/set/reboot"),
                "{shown:#?}"
            );
            let of = |number| shown.iter().find(|(topic, _)| *topic == outlet_document(number)).unwrap();
            assert!(of(0).1.contains("hs100d/lamp/") && of(1).1.contains("hs100d/fan/energy"), "{shown:#?}");
            mqtt.disconnected();
            mqtt.connected();
        }
        sent(&mut mqtt);

        // One outlet changes its name: only its document is written anew.
        let mut renamed = strip();
        for (_, info) in &mut renamed {
            Arc::make_mut(&mut info.device).outlets[1].alias = "Heater".into();
        }
        for (name, info) in renamed {
            update(&mut mqtt, Update::Info(name, info.into()));
        }
        let shown = documents(sent(&mut mqtt));
        assert!(shown.len() == 1 && shown[0].0 == outlet_document(1), "{shown:#?}");
        assert!(shown[0].1.contains("Heater"), "{shown:#?}");
    }

    #[test]
    fn a_strip_keeps_its_entities_until_its_outlets_have_their_names_again() {
        let mut earlier = connected();
        show_strip(&mut earlier);
        update(&mut earlier, Update::Ready);
        let mut mqtt = mqtt();
        mqtt.connected();
        for (topic, payload) in sent(&mut earlier) {
            mqtt.handle_message(message(&topic, &payload, true), Instant::now());
        }
        let [(desk_name, info), ..] = strip();
        let unnamed = PlugInfo { outlets: Arc::default(), ..info };
        update(&mut mqtt, Update::Info(desk_name, unnamed.into()));
        for outlet in ["lamp", "fan"] {
            update(&mut mqtt, Update::Availability(name(outlet), Availability::Offline));
        }
        mqtt.end_search();
        update(&mut mqtt, Update::Ready);
        let first = sent(&mut mqtt);
        let of_strip = |topic: &&str| topic.contains(&"D".repeat(40));
        assert!(!topics(&first).iter().any(of_strip), "{first:#?}");
        show_strip(&mut mqtt);
        let sent = sent(&mut mqtt);
        let shown = shown(&sent, &outlet_document(1));
        assert!(shown.contains("01_relay") && !shown.contains(r#"{"p":"switch"}"#), "{shown}");
        assert!(sent.iter().all(|(_, text)| !text.is_empty()), "{sent:#?}");
    }

    #[test]
    fn the_documents_of_a_strip_that_is_gone_go_with_it_and_those_of_another_instance_stay() {
        for (instance, is_cleared) in [("test", true), ("other", false)] {
            let mut earlier = connected();
            show_strip(&mut earlier);
            let mut mqtt = mqtt();
            mqtt.connected();
            for (topic, payload) in sent(&mut earlier) {
                let payload = payload.replace("hs100d_test", &format!("hs100d_{instance}"));
                mqtt.handle_message(message(&topic, &payload, true), Instant::now());
            }
            let info = format!(r#"{{"instance":"{instance}"}}"#);
            mqtt.handle_message(message("hs100d/bridge/info", &info, true), Instant::now());
            mqtt.end_search();
            update(&mut mqtt, Update::Ready);
            let cleared = cleared(&mut mqtt);
            for topic in [document('D'), outlet_document(0), outlet_document(1)] {
                assert_eq!(cleared.contains(&topic), is_cleared, "{topic}: {cleared:#?}");
            }
        }
    }

    #[test]
    fn what_others_left_behind_is_left_alone() {
        let mut mqtt = mqtt();
        mqtt.connected();
        let foreign =
            r#"{"origin":{"name":"hs100d"},"device":{"identifiers":[],"via_device":"hs100d_other"}}"#;
        mqtt.handle_message(message("homeassistant/device/x/config", foreign, true), Instant::now());
        // Another instance under our base, by mistake: its plugs are its own.
        mqtt.handle_message(message("hs100d/bridge/info", r#"{"instance":"other"}"#, true), Instant::now());
        mqtt.handle_message(message("hs100d/boiler/availability", "online", true), Instant::now());
        mqtt.end_search();
        update(&mut mqtt, Update::Ready);
        assert_eq!(cleared(&mut mqtt), [""; 0]);
    }

    #[test]
    fn going_away_shows_every_plug_and_the_bridge_as_offline() {
        let mut mqtt = connected();
        for plug in ["kettle", "lamp"] {
            update(&mut mqtt, Update::Availability(name(plug), Availability::Online));
        }
        update(&mut mqtt, Update::Ready);
        sent(&mut mqtt);
        mqtt.mark_offline();
        let mut sent = sent(&mut mqtt);
        assert_eq!(sent.pop().unwrap(), ("hs100d/bridge/state".to_owned(), "offline".to_owned()));
        assert_eq!(sent.len(), 2);
        assert!(sent.iter().all(|(topic, text)| topic.ends_with("/availability") && text == "offline"));
    }
}
