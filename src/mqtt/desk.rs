//! What the link decides: updates in, values and letters out; messages in, commands out.
//!
//! A value without a socket. It keeps the last-value table, knows who waits for which answer, and finds what an
//! earlier run left behind on the broker. When something is sent, and over what, is for [`super::link`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use rumqttc::QoS;

use crate::bridge::event::{
    BridgeInfo, CommandId, CommandResult, Event, PlugInfo, PlugState, RequestId, Update,
};
use crate::model::{Availability, PlugName};

use super::homeassistant::{Abilities, Document, Press};
use super::leftovers::{Leftovers, instance_of};
use super::payload::{self, Clock, Wanted};
use super::replies::{MOST_WAITING, Reply, Waiting};
use super::table::{Kept, Rank, Table};
use super::topics::{self, Heard, Leaf, Part, Topics};
use super::{Inbound, Options};

/// Letters that may wait for room in the connection; twice as many as there may be answers outstanding.
const MOST_LETTERS: usize = 2 * MOST_WAITING;

/// What the broker should show, who waits for an answer, and what is still to be said.
#[derive(Debug)]
pub(super) struct Desk {
    topics: Topics,
    press: Press,
    status_topic: String,
    instance: String,
    started: SystemTime,
    table: Table,
    letters: VecDeque<Letter>,
    is_connected: bool,
    plugs: HashMap<PlugName, Plug>,
    bridge: BridgeInfo,
    commands: Waiting<Reply>,
    requests: Waiting<(String, Reply)>,
    leftovers: Leftovers,
}

/// Something to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// The broker keeps it.
    Kept(Kept),
    /// It is for those who listen at this moment.
    Letter(Letter),
}

/// A message that nobody keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) correlation: Option<Bytes>,
    /// What has to be known before: whoever reads that a command is done finds the state that it led to.
    after: Option<String>,
}

/// A message that came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    /// The broker had kept it: with retain-as-published off no live message says so.
    pub(super) kept: bool,
    pub(super) response_topic: Option<&'a str>,
    pub(super) correlation: Option<&'a Bytes>,
}

/// What follows from a message.
#[derive(Debug)]
pub(super) enum Effect {
    /// Nothing outside this room.
    None,
    /// Somebody else has to act.
    Inbound(Inbound),
    /// Home Assistant has started and will want to hear everything again.
    Birth,
}

/// What is known of a plug on this side.
#[derive(Debug, Default)]
struct Plug {
    info: Option<PlugInfo>,
    /// Once seen, an ability stays: a plug that is read over another route is still the same plug.
    has: Abilities,
    /// The topics of its documents that the broker keeps.
    documents: Vec<String>,
}

impl Desk {
    pub(super) fn new(options: &Options, started: SystemTime) -> Self {
        let topics = Topics::new(&options.base_topic);
        let press = Press::new(&options.homeassistant, topics.clone(), &options.instance);
        let mut desk = Self {
            topics,
            press,
            status_topic: options.homeassistant.status_topic.clone(),
            instance: options.instance.clone(),
            started,
            table: Table::default(),
            letters: VecDeque::new(),
            is_connected: false,
            plugs: HashMap::new(),
            bridge: BridgeInfo::default(),
            commands: Waiting::default(),
            requests: Waiting::default(),
            leftovers: Leftovers::default(),
        };
        for Document { topic, payload } in desk.press.bridge() {
            desk.table.put(topic, payload, Rank::Document, QoS::AtLeastOnce);
        }
        desk
    }

    /// Takes what the bridge wants to be shown or said.
    pub(super) fn handle_update(&mut self, update: Update, clock: Clock) {
        match update {
            Update::Expected(plug) => drop(self.known(&plug)),
            Update::State(plug, state) => self.show_state(plug, &state, clock),
            Update::Info(plug, info) => self.show_info(plug, info),
            Update::Availability(plug, availability) => self.show_availability(plug, availability),
            Update::Result(result) => self.answer_command(&result),
            Update::Happened(happening) => {
                self.say(self.topics.bridge_event(), payload::happening(&happening, clock));
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
        }
    }

    /// Takes a message; says what follows from it.
    pub(super) fn handle_message(&mut self, message: Message<'_>, now: Instant) -> Effect {
        if message.topic == self.status_topic {
            let has_started = message.payload == b"online" && !message.kept;
            return if has_started { Effect::Birth } else { Effect::None };
        }
        if message.kept {
            self.look_at_kept(message);
            return Effect::None;
        }
        match self.topics.parse(message.topic) {
            Some(Heard::Command { plug, part }) => self.take_command(plug, part, message, now),
            Some(Heard::Request(name)) => self.take_request(name, message, now),
            None => Effect::None,
        }
    }

    /// The filters to subscribe to for as long as the connection lives.
    pub(super) fn filters(&self) -> Vec<String> {
        let mut filters = self.topics.command_filters().to_vec();
        filters.push(self.status_topic.clone());
        filters
    }

    /// The filters to listen to for a moment, until [`Desk::end_search`]; none once that was called.
    pub(super) fn search_filters(&self) -> Vec<String> {
        if self.leftovers.is_searched {
            return Vec::new();
        }
        let mut filters = self.press.filters();
        filters.push(self.topics.leftover_filter());
        filters.push(self.topics.bridge_info());
        filters
    }

    /// All that should be kept has had the time to come by. Documents go out from here on: those that change
    /// their form have to be unloaded first.
    pub(super) fn end_search(&mut self) {
        self.leftovers.is_searched = true;
        let found: Vec<_> = self.leftovers.documents.keys().cloned().collect();
        for topic in found {
            self.claim(&topic);
        }
        self.clear_leftovers();
    }

    /// Has `bridge/state` say `online`.
    pub(super) fn show_online(&mut self) {
        self.put_bridge_info();
        self.put_bridge_state(Availability::Online);
    }

    /// A connection stands: everything goes out again.
    pub(super) fn connected(&mut self) {
        self.is_connected = true;
        self.table.send_all();
    }

    /// The connection is gone, and with it whatever was for those who listened.
    pub(super) fn disconnected(&mut self) {
        self.is_connected = false;
        if !self.letters.is_empty() {
            tracing::debug!(
                "{} results and events are dropped: not connected to the broker",
                self.letters.len()
            );
            self.letters.clear();
        }
    }

    /// Has everything said once more, for a Home Assistant that has just started.
    pub(super) fn announce_again(&mut self) {
        self.table.send_all();
    }

    /// Shows that plugs and bridge are away, before the daemon goes.
    pub(super) fn show_away(&mut self) {
        let names: Vec<_> = self.plugs.keys().cloned().collect();
        for plug in names {
            self.show_availability(plug, Availability::Offline);
        }
        self.put_bridge_state(Availability::Offline);
    }

    /// The next thing to send: letters first, since somebody waits for them.
    pub(super) fn take(&mut self) -> Option<Outgoing> {
        if let Some(before) = self.letters.front().and_then(|letter| letter.after.as_deref())
            && let Some(kept) = self.table.take_topic(before)
        {
            return Some(Outgoing::Kept(kept));
        }
        let letter = self.letters.pop_front().map(Outgoing::Letter);
        letter.or_else(|| self.table.take(!self.leftovers.is_searched).map(Outgoing::Kept))
    }

    /// Takes back what [`Desk::take`] gave, because there was no room for it.
    pub(super) fn put_back(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Kept(kept) => self.table.put_back(&kept),
            Outgoing::Letter(letter) => self.letters.push_front(letter),
        }
    }

    fn show_state(&mut self, plug: PlugName, state: &PlugState, clock: Clock) {
        let topic = self.topics.plug(plug.as_str(), Leaf::State);
        // Said even when nothing changed: after a command that failed it puts a toggle back in its place.
        self.table.put_again(topic, payload::state(state, clock), Rank::State, QoS::AtLeastOnce);
        let known = self.known(&plug);
        let is_new = state.led.is_some() && !known.has.led;
        known.has.led |= state.led.is_some();
        if is_new {
            self.print(&plug);
        }
    }

    fn show_info(&mut self, plug: PlugName, info: PlugInfo) {
        let topic = self.topics.plug(plug.as_str(), Leaf::Info);
        self.table.put(topic, payload::info(&info), Rank::Info, QoS::AtMostOnce);
        let known = self.known(&plug);
        let is_new = known.info.as_ref().is_none_or(|before| before.plate != info.plate)
            || (info.cloud_connected.is_some() && !known.has.cloud);
        known.has.cloud |= info.cloud_connected.is_some();
        known.info = Some(info);
        if is_new {
            self.print(&plug);
        }
    }

    fn show_availability(&mut self, plug: PlugName, availability: Availability) {
        let topic = self.topics.plug(plug.as_str(), Leaf::Availability);
        self.table.put(topic, availability.to_string().into_bytes(), Rank::Availability, QoS::AtLeastOnce);
        self.known(&plug);
    }

    fn show_bridge(&mut self, info: BridgeInfo) {
        self.bridge = info;
        self.put_bridge_info();
    }

    fn put_bridge_info(&mut self) {
        let info = payload::bridge_info(&self.bridge, &self.instance, self.started);
        self.table.put(self.topics.bridge_info(), info, Rank::Info, QoS::AtLeastOnce);
    }

    fn put_bridge_state(&mut self, availability: Availability) {
        let state = availability.to_string().into_bytes();
        self.table.put(self.topics.bridge_state(), state, Rank::Bridge, QoS::AtLeastOnce);
    }

    fn end_first_round(&mut self) {
        self.leftovers.is_round_done = true;
        self.clear_leftovers();
    }

    fn forget(&mut self, name: &PlugName) {
        let plug = self.plugs.remove(name).unwrap_or_default();
        for leaf in Leaf::KEPT {
            self.table.clear(self.topics.plug(name.as_str(), leaf));
        }
        for topic in plug.documents {
            self.table.clear(topic);
        }
    }

    /// The plug, with what an earlier run left of it if this is the first that is heard of it.
    fn known(&mut self, name: &PlugName) -> &mut Plug {
        self.plugs
            .entry(name.clone())
            .or_insert_with(|| Plug { documents: self.leftovers.documents_of(name), ..Plug::default() })
    }

    /// Writes the plug's documents, and takes back those that it had under other topics.
    fn print(&mut self, name: &PlugName) {
        let Some(plug) = self.plugs.get_mut(name) else { return };
        let Some(info) = &plug.info else { return };
        let nothing = BTreeMap::new();
        let before = self.press.device_topic(info).and_then(|topic| self.leftovers.documents.get(&topic));
        let before = before.map_or(&nothing, |found| &found.components);
        let documents = self.press.plug(name, info, plug.has, before);
        let topics: Vec<String> = documents.iter().map(|document| document.topic.clone()).collect();
        let retired: Vec<String> = plug.documents.drain(..).filter(|old| !topics.contains(old)).collect();
        let form = topics.first().map(|topic| self.press.is_device_topic(topic));
        plug.documents = topics;
        for Document { topic, payload } in documents {
            self.table.put(topic, payload, Rank::Document, QoS::AtLeastOnce);
        }
        for topic in retired {
            let is_moved = form.is_some_and(|form| form != self.press.is_device_topic(&topic));
            self.retire(topic, is_moved);
        }
    }

    /// Takes a document back. If its entities go on in another document, Home Assistant is asked first to let go
    /// of them without forgetting what the user made of them.
    fn retire(&mut self, topic: String, is_moved: bool) {
        if is_moved {
            self.say(topic.clone(), MIGRATE.to_vec());
        }
        self.table.clear(topic);
    }

    fn take_command(&mut self, plug: &str, part: Part<'_>, message: Message<'_>, now: Instant) -> Effect {
        let Wanted { result, transaction } = payload::command(part, message.payload);
        let reply = Reply::to(message.response_topic, message.correlation, transaction);
        let name = PlugName::new(plug).map_err(|why| format!("no such plug: its name {why}"));
        let (name, order) = match (name, result) {
            (Ok(name), Ok(order)) => (name, order),
            (Err(why), _) | (_, Err(why)) => {
                self.refuse(plug, &why, &reply);
                return Effect::None;
            }
        };
        let Some(id) = self.commands.add(reply.clone(), now) else {
            self.refuse(plug, "too many commands are under way: send it again later", &reply);
            return Effect::None;
        };
        Effect::Inbound(Inbound::Event(Event::Command { id: CommandId(id), plug: name, order }))
    }

    fn take_request(&mut self, name: &str, message: Message<'_>, now: Instant) -> Effect {
        let Wanted { result, transaction } = payload::request(name, message.payload);
        let reply = Reply::to(message.response_topic, message.correlation, transaction);
        let request = match result {
            Ok(request) => request,
            Err(why) => {
                self.respond(name, Err(&why), &reply);
                return Effect::None;
            }
        };
        let Some(id) = self.requests.add((name.to_owned(), reply.clone()), now).map(RequestId) else {
            self.respond(name, Err("too many requests are under way: send it again later"), &reply);
            return Effect::None;
        };
        Effect::Inbound(match request {
            payload::Request::Ask(ask) => Inbound::Event(Event::Request { id, ask }),
            payload::Request::Reload => Inbound::Reload(id),
        })
    }

    fn answer_command(&mut self, result: &CommandResult) {
        let reply = self.commands.remove(result.id.0).unwrap_or_default();
        let answer = payload::result(result, reply.transaction.as_ref());
        let state = self.topics.plug(result.plug.as_str(), Leaf::State);
        self.answer(self.topics.plug(result.plug.as_str(), Leaf::Result), answer, &reply, Some(state));
    }

    fn answer_request(&mut self, id: RequestId, result: Result<(), &str>) {
        // An answer to a request that another link took has nowhere to go.
        let Some((name, reply)) = self.requests.remove(id.0) else { return };
        self.respond(&name, result, &reply);
    }

    fn refuse(&mut self, plug: &str, why: &str, reply: &Reply) {
        let topic = self.topics.plug(plug, Leaf::Result);
        if topics::check_topic(&topic).is_err() {
            tracing::debug!("a command to a plug that cannot exist is dropped");
            return;
        }
        tracing::debug!(plug, "refused a command: {why}");
        self.answer(topic, payload::refusal(why, reply.transaction.as_ref()), reply, None);
    }

    fn respond(&mut self, name: &str, result: Result<(), &str>, reply: &Reply) {
        let answer = payload::response(result, reply.transaction.as_ref());
        self.answer(self.topics.response(name), answer, reply, None);
    }

    fn answer(&mut self, topic: String, payload: Vec<u8>, reply: &Reply, after: Option<String>) {
        let own = reply.topic.as_ref().filter(|own| **own != topic).cloned();
        let correlation = reply.correlation.clone();
        let Some(own) = own else {
            return self.write(Letter { topic, payload, correlation, after });
        };
        self.write(Letter { topic, payload: payload.clone(), correlation: None, after: after.clone() });
        self.write(Letter { topic: own, payload, correlation, after });
    }

    fn say(&mut self, topic: String, payload: Vec<u8>) {
        self.write(Letter { topic, payload, correlation: None, after: None });
    }

    /// Letters are for those who listen; without a connection there is nobody, and later it would be stale.
    fn write(&mut self, letter: Letter) {
        if self.is_connected && self.letters.len() < MOST_LETTERS {
            self.letters.push_back(letter);
        } else {
            tracing::debug!(topic = letter.topic, "not said: no connection to the broker, or no room in it");
        }
    }

    fn look_at_kept(&mut self, message: Message<'_>) {
        let leftovers = &mut self.leftovers;
        if leftovers.is_searched || message.payload.is_empty() {
            if self.topics.parse(message.topic).is_some() {
                tracing::debug!(topic = message.topic, "a command that the broker kept is not executed");
            }
        } else if message.topic == self.topics.bridge_info() {
            leftovers.is_base_ours = instance_of(message.payload).is_some_and(|found| found == self.instance);
        } else if let Some(plug) = self.topics.parse_availability(message.topic) {
            leftovers.add_plug(plug);
        } else if self.press.is_document_topic(message.topic)
            && let Some(found) = self.press.recognise(message.payload)
        {
            leftovers.add_document(message.topic, found);
        }
    }

    /// Hands a document that was found to the plug that it is about, if that plug is known.
    fn claim(&mut self, topic: &str) {
        let found = self.leftovers.documents.get(topic);
        let Some(name) = found.and_then(|found| found.plug.clone()) else { return };
        let Some(plug) = self.plugs.get_mut(&name) else { return };
        if !plug.documents.iter().any(|known| known == topic) {
            plug.documents.push(topic.to_owned());
        }
        self.print(&name);
    }

    /// Once the search and the first round of reads are both done, whatever still belongs to no plug is cleared.
    fn clear_leftovers(&mut self) {
        if !(self.leftovers.is_searched && self.leftovers.is_round_done) {
            return;
        }
        self.leftovers.documents.retain(|topic, found| {
            let is_served = found.plug.as_ref().is_some_and(|plug| self.plugs.contains_key(plug));
            let is_wanted = is_served || self.table.holds(topic);
            if !is_wanted {
                tracing::info!(topic, "clearing a discovery document that an earlier run left behind");
                self.table.clear(topic.clone());
            }
            is_wanted
        });
        for plug in std::mem::take(&mut self.leftovers.plugs) {
            if self.leftovers.is_base_ours && !self.plugs.contains_key(&plug) {
                tracing::info!(%plug, "clearing what an earlier run left behind of a plug");
                self.forget(&plug);
            }
        }
    }
}

/// Asks Home Assistant to unload the entities of a document while keeping what the user made of them.
const MIGRATE: &[u8] = br#"{"migrate_discovery": true}"#;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::bridge::event::{Ask, Ended};
    use crate::model::{DeviceId, Order, RelayState};
    use crate::mqtt::homeassistant::{self, Discovery};
    use crate::smarthome::message::Nameplate;

    fn desk_with(discovery: Discovery) -> Desk {
        let options = Options {
            host: "127.0.0.1".to_owned(),
            port: 1883,
            tls: None,
            username: None,
            password: None,
            client_id: "hs100d-test".to_owned(),
            base_topic: "hs100d".to_owned(),
            instance: "test".to_owned(),
            homeassistant: homeassistant::Options {
                discovery,
                discovery_prefix: "homeassistant".to_owned(),
                status_topic: "homeassistant/status".to_owned(),
            },
        };
        Desk::new(&options, SystemTime::UNIX_EPOCH)
    }

    fn desk() -> Desk {
        desk_with(Discovery::Device)
    }

    fn connected() -> Desk {
        let mut desk = desk();
        desk.connected();
        desk.end_search();
        sent(&mut desk);
        desk
    }

    fn message<'a>(topic: &'a str, payload: &'a str, kept: bool) -> Message<'a> {
        Message { topic, payload: payload.as_bytes(), kept, response_topic: None, correlation: None }
    }

    fn name(text: &str) -> PlugName {
        PlugName::new(text).unwrap()
    }

    fn info(digit: char) -> PlugInfo {
        PlugInfo {
            plate: Arc::new(Nameplate {
                device_id: DeviceId::new(&digit.to_string().repeat(40)),
                mac: None,
                alias: "Kettle".into(),
                model: "HS100(EU)".into(),
                hw_version: "1.0".into(),
                sw_version: "1.2".into(),
                kind: "IOT.SMARTPLUGSWITCH".into(),
                feature: "TIM".into(),
                dev_name: "Plug".into(),
            }),
            address: None,
            rssi: None,
            cloud_connected: None,
        }
    }

    fn document(digit: char) -> String {
        format!("homeassistant/device/hs100d_{}/config", digit.to_string().repeat(40))
    }

    fn state(led: Option<RelayState>) -> PlugState {
        PlugState { relay: RelayState::On, route: None, led, on_since: None }
    }

    fn update(desk: &mut Desk, update: Update) {
        desk.handle_update(update, Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH });
    }

    fn result(id: u64, plug: &str) -> Update {
        Update::Result(CommandResult {
            id: CommandId(id),
            plug: name(plug),
            ended: Ended::Ok,
            state: None,
            route: None,
            took: Duration::ZERO,
        })
    }

    /// All that goes out, topic and payload.
    fn sent(desk: &mut Desk) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        std::iter::from_fn(|| desk.take())
            .map(|outgoing| match outgoing {
                Outgoing::Kept(kept) => (kept.topic.to_string(), text(&kept.payload)),
                Outgoing::Letter(letter) => (letter.topic, text(&letter.payload)),
            })
            .collect()
    }

    fn topics(sent: &[(String, String)]) -> Vec<&str> {
        sent.iter().map(|(topic, _)| topic.as_str()).collect()
    }

    fn command_id(effect: Effect) -> u64 {
        match effect {
            Effect::Inbound(Inbound::Event(Event::Command { id, .. })) => id.0,
            other => panic!("not a command: {other:?}"),
        }
    }

    #[test]
    fn everything_goes_out_in_the_order_that_serves_home_assistant() {
        let mut desk = desk();
        update(&mut desk, Update::Ready);
        update(&mut desk, Update::Info(name("kettle"), info('A')));
        update(&mut desk, Update::State(name("kettle"), state(None)));
        update(&mut desk, Update::Availability(name("kettle"), Availability::Online));
        desk.connected();
        desk.end_search();
        let sent = sent(&mut desk);
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
        let mut desk = connected();
        update(&mut desk, Update::Availability(name("kettle"), Availability::Online));
        assert_eq!(topics(&sent(&mut desk)), ["hs100d/kettle/availability"]);
        update(&mut desk, Update::Ready);
        let sent = sent(&mut desk);
        assert_eq!(sent.last().unwrap(), &("hs100d/bridge/state".to_owned(), "online".to_owned()));
    }

    #[test]
    fn a_state_is_known_before_the_result_that_tells_of_it() {
        let mut desk = connected();
        for plug in ["kettle", "lamp"] {
            update(&mut desk, Update::State(name(plug), state(None)));
        }
        update(&mut desk, result(u64::MAX, "lamp"));
        assert_eq!(
            topics(&sent(&mut desk)),
            ["hs100d/lamp/state", "hs100d/lamp/result", "hs100d/kettle/state"]
        );
    }

    #[test]
    fn letters_are_not_kept_for_a_later_connection_and_values_are() {
        let mut desk = desk();
        desk.end_search();
        update(&mut desk, result(u64::MAX, "kettle"));
        update(&mut desk, Update::State(name("kettle"), state(None)));
        desk.connected();
        assert!(!topics(&sent(&mut desk)).contains(&"hs100d/kettle/result"));
        update(&mut desk, result(u64::MAX, "kettle"));
        desk.disconnected();
        desk.connected();
        let sent = sent(&mut desk);
        assert!(
            topics(&sent).contains(&"hs100d/kettle/state")
                && !topics(&sent).contains(&"hs100d/kettle/result")
        );
    }

    #[test]
    fn a_value_without_room_is_sent_later_and_only_in_its_last_form() {
        let mut desk = connected();
        update(&mut desk, Update::State(name("kettle"), state(None)));
        let first = desk.take().unwrap();
        desk.put_back(first);
        let lit = state(Some(RelayState::On));
        update(&mut desk, Update::State(name("kettle"), lit));
        let sent = sent(&mut desk);
        assert_eq!(topics(&sent), ["hs100d/kettle/state"]);
        assert!(sent[0].1.contains("led"));
    }

    #[test]
    fn a_kept_command_is_not_executed_at_any_time() {
        let mut desk = desk();
        for _ in 0..2 {
            let kept = message("hs100d/kettle/set", "ON", true);
            assert!(matches!(desk.handle_message(kept, Instant::now()), Effect::None));
            desk.connected();
            desk.end_search();
        }
        assert!(topics(&sent(&mut desk)).iter().all(|topic| !topic.contains("kettle")));
    }

    #[test]
    fn too_many_commands_are_refused_with_a_result() {
        let mut desk = connected();
        let now = Instant::now();
        let get = message("hs100d/kettle/get", "", false);
        for _ in 0..MOST_WAITING {
            command_id(desk.handle_message(get, now));
        }
        assert!(matches!(desk.handle_message(get, now), Effect::None));
        let refused = sent(&mut desk);
        assert!(refused[0].1.contains("too many commands"), "{refused:?}");
    }

    #[test]
    fn a_result_goes_to_its_sender_once_and_for_an_unknown_plug_all_the_same() {
        let mut desk = connected();
        let get = Message {
            response_topic: Some("me/answers"),
            correlation: Some(&Bytes::from_static(b"c")),
            ..message("hs100d/kettle/get", r#"{"transaction":1}"#, false)
        };
        let id = command_id(desk.handle_message(get, Instant::now()));
        update(&mut desk, result(id, "kettle"));
        assert_eq!(topics(&sent(&mut desk)), ["hs100d/kettle/result", "me/answers"]);
        update(&mut desk, result(id, "kettle"));
        let again = sent(&mut desk);
        assert_eq!(topics(&again), ["hs100d/kettle/result"]);
        assert!(!again[0].1.contains("transaction"));
    }

    #[test]
    fn a_response_topic_that_would_cost_the_connection_is_not_used() {
        for bad in ["", "a/#", "+", "$SYS/x", "a\u{0}b"] {
            let mut desk = connected();
            let set = Message { response_topic: Some(bad), ..message("hs100d/kettle/set", "up", false) };
            desk.handle_message(set, Instant::now());
            assert_eq!(topics(&sent(&mut desk)), ["hs100d/kettle/result"], "{bad:?}");
        }
        let mut desk = connected();
        let same = "hs100d/kettle/result";
        let set = Message { response_topic: Some(same), ..message("hs100d/kettle/set", "up", false) };
        desk.handle_message(set, Instant::now());
        assert_eq!(topics(&sent(&mut desk)), [same]);
    }

    #[test]
    fn messages_that_nobody_meant_for_us_have_no_effect() {
        let mut desk = connected();
        for topic in ["", "hs100d", "other/kettle/set", "hs100d/kettle/state", "homeassistant/status/x"] {
            assert!(matches!(desk.handle_message(message(topic, "ON", false), Instant::now()), Effect::None));
        }
        let offline = message("homeassistant/status", "offline", false);
        assert!(matches!(desk.handle_message(offline, Instant::now()), Effect::None));
        let birth = message("homeassistant/status", "online", false);
        assert!(matches!(desk.handle_message(birth, Instant::now()), Effect::Birth));
        assert_eq!(sent(&mut desk), []);
    }

    #[test]
    fn requests_become_events_and_reloads() {
        let mut desk = connected();
        let discover = message("hs100d/bridge/request/discover", "", false);
        let effect = desk.handle_message(discover, Instant::now());
        assert!(matches!(effect, Effect::Inbound(Inbound::Event(Event::Request { ask: Ask::Discover, .. }))));
        let reload = message("hs100d/bridge/request/reload", "", false);
        assert!(matches!(desk.handle_message(reload, Instant::now()), Effect::Inbound(Inbound::Reload(_))));
    }

    #[test]
    fn each_order_keeps_its_plug() {
        let mut desk = connected();
        let effect = desk.handle_message(message("hs100d/lamp/set/reboot", "PRESS", false), Instant::now());
        let Effect::Inbound(Inbound::Event(Event::Command { plug, order, .. })) = effect else { panic!() };
        assert_eq!((plug.as_str(), order), ("lamp", Order::Reboot));
    }

    #[test]
    fn a_light_that_was_seen_once_stays_in_the_document() {
        let mut desk = connected();
        update(&mut desk, Update::Info(name("kettle"), info('A')));
        update(&mut desk, Update::State(name("kettle"), state(Some(RelayState::On))));
        let shown = sent(&mut desk);
        assert!(
            shown.iter().any(|(topic, text)| *topic == document('A') && text.contains("set/led")),
            "{shown:?}"
        );
        update(&mut desk, Update::State(name("kettle"), state(None)));
        assert_eq!(topics(&sent(&mut desk)), ["hs100d/kettle/state"]);
    }

    #[test]
    fn an_unchanged_plate_is_not_written_again() {
        let mut desk = connected();
        update(&mut desk, Update::Info(name("kettle"), info('A')));
        sent(&mut desk);
        let moved = PlugInfo { rssi: Some(-60), ..info('A') };
        update(&mut desk, Update::Info(name("kettle"), moved.clone()));
        assert_eq!(topics(&sent(&mut desk)), ["hs100d/kettle/info"]);
        update(&mut desk, Update::Info(name("kettle"), moved));
        assert_eq!(sent(&mut desk), []);
    }

    #[test]
    fn another_plug_under_the_same_name_takes_the_place_of_the_first() {
        let mut desk = connected();
        update(&mut desk, Update::Info(name("kettle"), info('A')));
        sent(&mut desk);
        update(&mut desk, Update::Info(name("kettle"), info('B')));
        let sent = sent(&mut desk);
        assert_eq!(topics(&sent), [&document('B'), "hs100d/kettle/info", &document('A')]);
        assert_eq!(sent[2].1, "");
    }

    #[test]
    fn a_plug_that_is_gone_is_cleared_at_every_connection() {
        let mut desk = connected();
        update(&mut desk, Update::Info(name("kettle"), info('A')));
        sent(&mut desk);
        desk.disconnected();
        update(&mut desk, Update::Gone(name("kettle")));
        for _ in 0..2 {
            desk.connected();
            let cleared: Vec<_> = sent(&mut desk)
                .into_iter()
                .filter(|(_, text)| text.is_empty())
                .map(|(topic, _)| topic)
                .collect();
            assert!(cleared.contains(&document('A')) && cleared.contains(&"hs100d/kettle/info".to_owned()));
            assert_eq!(cleared.len(), 5);
        }
    }

    /// What an earlier run of this installation left on the broker, as the search hears it.
    fn left_behind(desk: &mut Desk, form: Discovery, plug: &str, digit: char) {
        let mut earlier = desk_with(form);
        earlier.connected();
        earlier.end_search();
        let lit = state(Some(RelayState::On));
        update(&mut earlier, Update::State(name(plug), lit));
        update(&mut earlier, Update::Info(name(plug), info(digit)));
        update(&mut earlier, Update::Availability(name(plug), Availability::Online));
        update(&mut earlier, Update::Ready);
        for (topic, payload) in sent(&mut earlier) {
            desk.handle_message(message(&topic, &payload, true), Instant::now());
        }
    }

    fn cleared(desk: &mut Desk) -> Vec<String> {
        sent(desk).into_iter().filter(|(_, text)| text.is_empty()).map(|(topic, _)| topic).collect()
    }

    #[test]
    fn leftovers_are_cleared_after_the_search_and_the_first_round_and_not_before() {
        let mut desk = desk();
        desk.connected();
        left_behind(&mut desk, Discovery::Device, "heater", 'C');
        update(&mut desk, Update::Ready);
        assert_eq!(cleared(&mut desk), [""; 0]);
        desk.end_search();
        let cleared = cleared(&mut desk);
        assert!(cleared.contains(&document('C')) && cleared.contains(&"hs100d/heater/state".to_owned()));
        assert!(desk.search_filters().is_empty());

        let mut desk = self::desk();
        desk.connected();
        left_behind(&mut desk, Discovery::Device, "heater", 'C');
        desk.end_search();
        assert_eq!(self::cleared(&mut desk), [""; 0]);
        update(&mut desk, Update::Ready);
        assert!(self::cleared(&mut desk).contains(&document('C')));
    }

    #[test]
    fn a_plug_that_is_known_but_silent_keeps_its_entities() {
        let mut desk = desk();
        desk.connected();
        left_behind(&mut desk, Discovery::Device, "kettle", 'A');
        update(&mut desk, Update::Expected(name("kettle")));
        desk.end_search();
        update(&mut desk, Update::Ready);
        assert_eq!(cleared(&mut desk), [""; 0]);
        // Forgotten later, it takes with it what was found of it.
        update(&mut desk, Update::Gone(name("kettle")));
        assert!(cleared(&mut desk).contains(&document('A')));
    }

    #[test]
    fn a_plug_that_was_renamed_keeps_its_entities_and_loses_its_old_topics() {
        let mut desk = desk();
        desk.connected();
        left_behind(&mut desk, Discovery::Device, "kettle", 'A');
        update(&mut desk, Update::Info(name("teapot"), info('A')));
        desk.end_search();
        update(&mut desk, Update::Ready);
        let cleared = cleared(&mut desk);
        assert!(cleared.contains(&"hs100d/kettle/info".to_owned()), "{cleared:?}");
        assert!(!cleared.contains(&document('A')), "{cleared:?}");
    }

    #[test]
    fn a_component_that_the_earlier_document_had_is_taken_back() {
        let mut desk = desk();
        desk.connected();
        left_behind(&mut desk, Discovery::Device, "kettle", 'A');
        desk.end_search();
        update(&mut desk, Update::Ready);
        update(&mut desk, Update::State(name("kettle"), state(None)));
        update(&mut desk, Update::Info(name("kettle"), info('A')));
        let sent = sent(&mut desk);
        let shown = sent.iter().rfind(|(topic, _)| *topic == document('A')).map(|(_, text)| text.as_str());
        // The earlier run's plug was forgotten at the first round's end, so that nothing is left to take back.
        assert!(!shown.unwrap().contains(r#""led":{"platform":"switch"}"#), "{shown:?}");

        let mut desk = self::desk();
        desk.connected();
        left_behind(&mut desk, Discovery::Device, "kettle", 'A');
        update(&mut desk, Update::State(name("kettle"), state(None)));
        update(&mut desk, Update::Info(name("kettle"), info('A')));
        desk.end_search();
        let sent = self::sent(&mut desk);
        let shown = sent.iter().rfind(|(topic, _)| *topic == document('A')).map(|(_, text)| text.as_str());
        assert!(shown.unwrap().contains(r#""led":{"platform":"switch"}"#), "{shown:?}");
    }

    #[test]
    fn another_form_is_announced_before_it_comes_and_cleared_after() {
        let mut desk = desk_with(Discovery::Device);
        desk.connected();
        left_behind(&mut desk, Discovery::Component, "kettle", 'A');
        update(&mut desk, Update::Info(name("kettle"), info('A')));
        // Nothing is taken back while the search holds back what takes its place.
        assert_eq!(topics(&sent(&mut desk)), ["hs100d/kettle/info"]);
        desk.end_search();
        update(&mut desk, Update::Ready);
        let sent = sent(&mut desk);
        let relay = format!("homeassistant/switch/hs100d_{}/hs100d_relay/config", "A".repeat(40));
        let at = |wanted: &str, part: &str| {
            sent.iter().position(|(t, p)| t == wanted && p.contains(part)).unwrap()
        };
        let migrate = at(&relay, "migrate_discovery");
        let shown = at(&document('A'), "components");
        let cleared = sent.iter().position(|(t, p)| *t == relay && p.is_empty()).unwrap();
        assert!(migrate < shown && shown < cleared, "{sent:#?}");
    }

    #[test]
    fn what_others_left_behind_is_left_alone() {
        let mut desk = desk();
        desk.connected();
        let foreign =
            r#"{"origin":{"name":"hs100d"},"device":{"identifiers":[],"via_device":"hs100d_other"}}"#;
        desk.handle_message(message("homeassistant/device/x/config", foreign, true), Instant::now());
        // Another instance under our base, by mistake: its plugs are its own.
        desk.handle_message(message("hs100d/bridge/info", r#"{"instance":"other"}"#, true), Instant::now());
        desk.handle_message(message("hs100d/boiler/availability", "online", true), Instant::now());
        desk.end_search();
        update(&mut desk, Update::Ready);
        assert_eq!(cleared(&mut desk), [""; 0]);
    }

    #[test]
    fn going_away_shows_every_plug_and_the_bridge_as_offline() {
        let mut desk = connected();
        for plug in ["kettle", "lamp"] {
            update(&mut desk, Update::Availability(name(plug), Availability::Online));
        }
        update(&mut desk, Update::Ready);
        sent(&mut desk);
        desk.show_away();
        let mut sent = sent(&mut desk);
        assert_eq!(sent.pop().unwrap(), ("hs100d/bridge/state".to_owned(), "offline".to_owned()));
        assert_eq!(sent.len(), 2);
        assert!(sent.iter().all(|(topic, text)| topic.ends_with("/availability") && text == "offline"));
    }
}
