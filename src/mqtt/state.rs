//! What should be at the broker: the last value of every retained topic, and the messages that wait to be sent.
//!
//! A value without a socket or a clock: updates of the bridge and received messages go in, messages to publish come out. The
//! life cycle of discovery documents is in `homeassistant::lifecycle`, results of commands are in `responses`; `connection`
//! decides when something is sent.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rumqttc::QoS;

use super::homeassistant::lifecycle::DocumentLifecycle;
use super::message::{Effect, Message, Outgoing, Transient};
use super::responses::{Responses, Unanswered};
use super::retained::{Priority, RetainedTable, Until};
use super::settings::MqttSettings;
use super::topics::{ParsedTopic, StateTopic, Topics};
use crate::bridge::event::{BridgeInfo, IdAllocator, PlugInfo, PlugState, Update};
use crate::model::{Availability, PlugName};
use crate::payload::{self, Clock};

/// What should be at the broker.
#[derive(Debug)]
pub struct MqttState {
    topics: Topics,
    status_topic: String,
    instance: String,
    started: Instant,
    /// The clocks of the last update, for dates in `bridge/info`.
    clock: Clock,
    retained: RetainedTable,
    documents: DocumentLifecycle,
    responses: Responses,
    bridge: BridgeInfo,
    /// Where the broker is that has the connection, or had the last one.
    broker: Option<String>,
}

impl MqttState {
    /// Without plugs. The discovery documents of the bridge are to be sent.
    pub fn new(settings: &MqttSettings, ids: IdAllocator, clock: Clock) -> Self {
        let topics = Topics::new(&settings.base_topic);
        let mut retained = RetainedTable::default();
        Self {
            status_topic: settings.homeassistant.status_topic.clone(),
            instance: settings.instance.clone(),
            started: clock.instant,
            clock,
            documents: DocumentLifecycle::new(settings, topics.clone(), &mut retained),
            responses: Responses::new(settings, ids, topics.clone()),
            topics,
            retained,
            bridge: BridgeInfo::default(),
            broker: None,
        }
    }

    /// Handles an update of the bridge.
    pub fn handle_update(&mut self, update: Update, clock: Clock) {
        self.clock = clock;
        match update {
            Update::Expected(plug) => self.documents.expect(&plug),
            Update::State(plug, state) => self.show_state(&plug, &state, clock),
            Update::Info(plug, info) => self.show_info(plug, info),
            Update::Availability(plug, availability) => self.show_availability(&plug, availability),
            Update::Energy(plug, energy) => {
                let topic = self.topics.plug(plug.as_str(), StateTopic::Energy);
                self.retained.put(&topic, payload::energy(&energy), Priority::Info, QoS::AtMostOnce);
            }
            Update::Result(result) => self.responses.command_done(&result),
            Update::Notice(notice) => {
                let payload = payload::notice(&notice, clock);
                self.responses.enqueue(Transient::new(self.topics.bridge_event(), payload));
            }
            Update::Bridge(info) => self.show_bridge(info),
            Update::Response { id, result } => {
                self.responses.request_done(id, result.as_ref().copied().map_err(String::as_str));
            }
            Update::Ready => {
                self.documents.end_first_round();
                self.clear_stale();
                self.show_online();
            }
            Update::Gone(plug) => self.forget(&plug),
            Update::Dropped(..) => {}
        }
    }

    /// Handles a received message.
    pub fn handle_message(&mut self, message: Message<'_>, now: Instant) -> Effect {
        if message.topic == self.status_topic {
            let has_started = message.payload == b"online" && !message.retained;
            return if has_started { Effect::Birth } else { Effect::None };
        }
        if message.retained {
            self.handle_retained(message);
            return Effect::None;
        }
        if self.topics.is_bridge_state(message.topic) {
            self.handle_bridge_state(message.payload);
            return Effect::Echo;
        }
        match self.topics.parse(message.topic) {
            Some(ParsedTopic::Command { plug, part }) => {
                self.responses.handle_command(plug, part, message, now)
            }
            Some(ParsedTopic::Request(name)) => self.responses.handle_request(name, message, now),
            None => Effect::None,
        }
    }

    /// The filters to subscribe to on every connection.
    pub(crate) fn filters(&self) -> Vec<String> {
        let mut filters = self.topics.command_filters().to_vec();
        filters.push(self.status_topic.clone());
        filters
    }

    /// The filters that find retained messages of earlier runs, until [`MqttState::end_search`]; none after that.
    pub fn search_filters(&self) -> Vec<String> {
        self.documents.search_filters()
    }

    /// The retained messages of earlier runs have had the time to arrive. Documents are sent from here on.
    pub fn end_search(&mut self) {
        self.documents.end_search(&mut self.retained);
        self.clear_stale();
    }

    /// Whether Home Assistant was told to migrate entities and all new documents are on their way.
    pub fn is_migrating(&self) -> bool {
        self.documents.is_migrating()
    }

    /// Home Assistant has had the time to migrate: the old documents are cleared.
    pub fn end_migration(&mut self) {
        self.documents.end_migration(&mut self.retained);
    }

    /// Publishes `bridge/state` as `online`.
    pub fn show_online(&mut self) {
        self.put_bridge_info();
        self.put_bridge_state(Availability::Online);
    }

    /// A connection stands: everything is published again.
    pub fn connected(&mut self) {
        self.responses.connected();
        self.documents.connected();
        self.retained.send_all();
    }

    /// The connection is gone: messages that are not retained are dropped.
    pub fn disconnected(&mut self) {
        self.responses.disconnected();
    }

    /// The connection was left for another one, which follows at once: results, responses and events wait for that.
    pub(crate) fn left(&mut self, now: Instant) {
        self.responses.left(now);
    }

    /// The broker of the connection, for `bridge/info`.
    pub(crate) fn set_broker(&mut self, broker: &str) {
        if self.broker.as_deref() != Some(broker) {
            self.broker = Some(broker.to_owned());
            if self.retained.holds(&self.topics.bridge_info()) {
                self.put_bridge_info();
            }
        }
    }

    /// The topic at which a last will of ours may arrive late, and our own state comes back.
    pub(crate) fn will_filter(&self) -> String {
        self.topics.bridge_state()
    }

    /// Publishes our own state again, as it is.
    pub(crate) fn show_own_state_again(&mut self) {
        self.retained.send_once_more(&self.topics.bridge_state());
    }

    /// Whether this is the topic of our own state.
    pub(crate) fn is_own_state(&self, topic: &str) -> bool {
        self.topics.is_bridge_state(topic)
    }

    /// Whether a command has no result yet.
    pub(crate) fn has_commands(&self) -> bool {
        self.responses.has_commands()
    }

    /// Whether a command or a request is to be answered, or a message waits that is for the clients of this broker.
    pub(crate) fn has_unanswered(&self) -> bool {
        self.responses.has_unanswered()
    }

    /// What the connection that replaces this one must answer.
    pub(crate) fn take_unanswered(&mut self, now: Instant) -> Unanswered {
        self.responses.take_unanswered(now)
    }

    /// Takes over what another connection left: it is published on the first connection here, if that stands in time.
    pub(crate) fn adopt(&mut self, unanswered: Unanswered, now: Instant) {
        for (update, clock) in self.responses.adopt(unanswered, now) {
            self.handle_update(update, clock);
        }
    }

    /// Drops what another connection left if it has waited too long.
    pub(crate) fn expire_adopted(&mut self, now: Instant) {
        self.responses.expire(now);
    }

    /// Publishes the discovery documents again, for a Home Assistant that has started.
    pub fn announce_again(&mut self) {
        self.retained.send_again(Priority::is_of_document);
    }

    /// Publishes all but the discovery documents again, for the entities that Home Assistant has made from them.
    pub fn show_again(&mut self) {
        self.retained.send_again(|priority| !priority.is_of_document());
    }

    /// The broker refused the message at this topic: it is not sent again until it changes or a new connection stands.
    pub(crate) fn refused(&mut self, topic: &str) {
        self.retained.leave_out(topic, Until::NextConnection);
    }

    /// The message at this topic ended the connection: it is not sent again until it changes, or until
    /// [`MqttState::trust_again`].
    pub(crate) fn blame(&mut self, topic: &str) {
        self.retained.leave_out(topic, Until::TrustedAgain);
    }

    /// A connection was stable: the next one sends everything again.
    pub(crate) fn trust_again(&mut self) {
        self.retained.trust_again();
    }

    /// Publishes plugs and bridge as offline, before the daemon stops.
    pub(crate) fn mark_offline(&mut self) {
        for plug in self.documents.plugs() {
            self.show_availability(&plug, Availability::Offline);
        }
        self.put_bridge_state(Availability::Offline);
    }

    /// The next message to publish: results and events first, since clients wait for them.
    pub fn take(&mut self) -> Option<Outgoing> {
        if let Some(before) = self.responses.next_after()
            && let Some(unsent) = self.retained.take_topic(before)
            && let Some(retained) =
                unsent.rendered(|plug, topic, priority| self.render(plug, topic, priority))
        {
            return Some(Outgoing::Retained(retained));
        }
        if let Some(transient) = self.responses.next().or_else(|| self.documents.next_migration()) {
            return Some(Outgoing::Transient(transient));
        }
        while let Some(unsent) = self.retained.take(self.documents.are_held_back()) {
            let rendered = unsent.rendered(|plug, topic, priority| self.render(plug, topic, priority));
            if let Some(retained) = rendered {
                return Some(Outgoing::Retained(retained));
            }
        }
        None
    }

    /// Puts back what [`MqttState::take`] gave, because the connection had no room for it.
    pub(crate) fn requeue(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Retained(retained) => self.retained.requeue(&retained),
            Outgoing::Transient(transient) => self.responses.requeue(transient),
        }
    }

    fn show_state(&mut self, plug: &PlugName, state: &PlugState, clock: Clock) {
        let topic = self.topics.plug(plug.as_str(), StateTopic::State);
        self.documents.take_state(plug);
        // Published even if it is unchanged: after a failed command this sets a client's switch back.
        self.retained.put_again(&topic, payload::state(state, clock), Priority::State, QoS::AtLeastOnce);
        self.documents.set_has_led(plug, state.led.is_some(), &mut self.retained);
    }

    fn show_info(&mut self, plug: PlugName, info: Arc<PlugInfo>) {
        let topic = self.topics.plug(plug.as_str(), StateTopic::Info);
        self.retained.put_info(&topic, &plug, &payload::info(&info));
        self.documents.set_info(plug, info, &mut self.retained);
    }

    fn show_availability(&mut self, plug: &PlugName, availability: Availability) {
        let topic = self.topics.plug(plug.as_str(), StateTopic::Availability);
        self.retained.put_word(&topic, availability.word(), Priority::Availability);
        self.documents.expect(plug);
        if availability == Availability::Offline {
            self.show_without_route(plug);
        }
    }

    /// Publishes the retained state of a plug that has not answered in this run, with `none` as its route.
    fn show_without_route(&mut self, plug: &PlugName) {
        let Some(retained) = self.documents.take_state(plug) else { return };
        let Ok(mut state) = serde_json::from_slice::<serde_json::Map<_, _>>(&retained) else { return };
        state.insert("route".to_owned(), "none".into());
        let topic = self.topics.plug(plug.as_str(), StateTopic::State);
        self.retained.put(&topic, payload::json(&state), Priority::State, QoS::AtLeastOnce);
    }

    fn show_bridge(&mut self, info: BridgeInfo) {
        self.bridge = info;
        self.put_bridge_info();
    }

    fn put_bridge_info(&mut self) {
        let info = payload::bridge_info(
            &self.bridge,
            &self.instance,
            self.broker.as_deref(),
            self.started,
            self.clock,
        );
        self.retained.put(&self.topics.bridge_info(), info, Priority::Info, QoS::AtLeastOnce);
    }

    /// Another node of a cluster may publish the will of our last connection when it notices that one's end, which may be after
    /// this connection stands. What we published is published again.
    fn handle_bridge_state(&mut self, payload: &[u8]) {
        let topic = self.topics.bridge_state();
        let [online, offline] = [Availability::Online, Availability::Offline].map(Availability::word);
        if payload == offline.as_bytes() && self.retained.is_word(&topic, online) {
            tracing::debug!("the broker published the last will of an earlier connection");
            self.retained.send_once_more(&topic);
        }
    }

    fn put_bridge_state(&mut self, availability: Availability) {
        self.retained.put_word(&self.topics.bridge_state(), availability.word(), Priority::Bridge);
    }

    /// Clears what the broker retains of a plug: the documents first, then its topics.
    fn forget(&mut self, name: &PlugName) {
        self.documents.forget(name, &mut self.retained);
        for topic in StateTopic::RETAINED {
            self.retained.clear(&self.topics.plug(name.as_str(), topic));
        }
    }

    fn clear_stale(&mut self) {
        for plug in self.documents.clear_stale(&mut self.retained) {
            tracing::info!(%plug, "{plug}: clearing what an earlier run left at the broker");
            self.forget(&plug);
        }
    }

    /// Renders the payload of a topic that is not stored as bytes.
    fn render(&self, plug: &PlugName, topic: &str, priority: Priority) -> Option<Bytes> {
        if priority == Priority::Info {
            return Some(payload::info(self.documents.info(plug)?).into());
        }
        self.documents.render(plug, topic).map(Bytes::from)
    }

    fn handle_retained(&mut self, message: Message<'_>) {
        if !self.documents.is_searching() || message.payload.is_empty() {
            if self.topics.parse(message.topic).is_some() {
                tracing::debug!(topic = message.topic, "a retained command is not executed");
            }
        } else if message.topic == self.topics.bridge_info() {
            self.documents.found_bridge_info(message.payload);
        } else if let Some(plug) = self.topics.parse_state(message.topic, StateTopic::Availability) {
            self.documents.found_plug(plug);
        } else if let Some(plug) = self.topics.parse_state(message.topic, StateTopic::State) {
            if !self.retained.holds(message.topic) {
                self.documents.found_state(plug.clone(), message.payload);
            }
            let availability = self.topics.plug(plug.as_str(), StateTopic::Availability);
            if self.retained.is_word(&availability, Availability::Offline.word()) {
                self.show_without_route(&plug);
            }
        } else {
            self.documents.found_document(message.topic, message.payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::event::{BridgeCommand, CommandId, Event, Origin};
    use crate::model::{PlugCommand, RelayState};
    use crate::mqtt::channel::Inbound;
    use crate::mqtt::homeassistant::DocumentForm;
    use crate::mqtt::pending::MAX_PENDING;
    use crate::mqtt::test_support::{
        connected, document, info, message, name, result, sent, shown, state, state_with, topics, update,
    };

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
        // In case it ever has the same number.
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
    fn everything_is_sent_in_the_order_that_home_assistant_needs() {
        let mut mqtt = state_with(DocumentForm::Device);
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
    fn a_state_is_sent_before_the_result_of_its_command() {
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
    fn results_are_dropped_without_a_connection_and_states_are_sent_later() {
        let mut mqtt = state_with(DocumentForm::Device);
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
    fn a_value_without_room_is_sent_later_as_it_is_then() {
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
    fn a_retained_command_is_never_executed() {
        let mut mqtt = state_with(DocumentForm::Device);
        for _ in 0..2 {
            let retained = message("hs100d/kettle/set", "ON", true);
            assert!(matches!(mqtt.handle_message(retained, Instant::now()), Effect::None));
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
    fn a_result_goes_to_its_sender_once() {
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
        // Nor one at which it would be a command, a request or a false state.
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
    fn messages_to_other_topics_have_no_effect() {
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
    fn a_command_names_its_plug() {
        let mut mqtt = connected();
        let effect = mqtt.handle_message(message("hs100d/lamp/set/reboot", "PRESS", false), Instant::now());
        let Effect::Inbound(Inbound::Event(Event::Command { plug, order, .. })) = effect else { panic!() };
        assert_eq!((plug.as_str(), order), ("lamp", PlugCommand::Reboot));
    }

    #[test]
    fn a_plug_that_does_not_answer_after_a_restart_is_published_without_a_route() {
        let retained = r#"{"state":"ON","route":"local","led":"ON","on_since":null}"#;
        for is_offline_first in [false, true] {
            let mut mqtt = state_with(DocumentForm::Device);
            mqtt.connected();
            let offline = || Update::Availability(name("kettle"), Availability::Offline);
            if is_offline_first {
                update(&mut mqtt, offline());
            }
            mqtt.handle_message(message("hs100d/kettle/state", retained, true), Instant::now());
            mqtt.handle_message(message("hs100d/lamp/state", retained, true), Instant::now());
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
    fn a_forgotten_plug_leaves_no_state_to_the_next_one_of_its_name() {
        let mut mqtt = state_with(DocumentForm::Device);
        mqtt.connected();
        let retained = r#"{"state":"ON","route":"local","led":"ON","on_since":null}"#;
        mqtt.handle_message(message("hs100d/kettle/state", retained, true), Instant::now());
        mqtt.end_search();
        update(&mut mqtt, Update::Gone(name("kettle")));
        update(&mut mqtt, Update::Availability(name("kettle"), Availability::Offline));
        let sent = sent(&mut mqtt);
        assert_eq!(shown(&sent, "hs100d/kettle/availability"), "offline");
        assert_eq!(shown(&sent, "hs100d/kettle/state"), "");
    }

    #[test]
    fn at_the_end_every_plug_and_the_bridge_are_published_as_offline() {
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
