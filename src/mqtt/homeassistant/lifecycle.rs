//! The life cycle of discovery documents: when a device's documents are rendered, replaced, migrated and cleared.
//!
//! After the first connect, retained messages of earlier runs are searched. Documents are held back until the search ends,
//! since those of another form must be migrated first. Stale documents are cleared when the search and the first round of
//! reads are both done.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rumqttc::QoS;

use super::entities::Abilities;
use super::migration::{MIGRATE_DISCOVERY, Migration};
use super::renderer::{DiscoveryRenderer, Document};
use super::retained::RetainedDocument;
use super::stale::{StaleTopics, instance_of};
use crate::bridge::event::PlugInfo;
use crate::model::PlugName;
use crate::mqtt::message::Transient;
use crate::mqtt::retained::{Priority, RetainedTable};
use crate::mqtt::settings::MqttSettings;
use crate::mqtt::topics::Topics;

/// The documents of all plugs, and what earlier runs left at the broker.
#[derive(Debug)]
pub(crate) struct DocumentLifecycle {
    renderer: DiscoveryRenderer,
    topics: Topics,
    /// As the config names it, and as it was drawn.
    instances: [String; 2],
    plugs: HashMap<PlugName, PlugDocuments>,
    stale: StaleTopics,
    migration: Migration,
}

#[derive(Debug, Default)]
struct PlugDocuments {
    info: Option<Arc<PlugInfo>>,
    /// An ability that was seen once stays, also when the plug is read over another route.
    has: Abilities,
    /// The topics of the documents that the broker retains.
    topics: Vec<Arc<str>>,
    /// The components of its document in device form before this run, with their platforms.
    components: BTreeMap<String, String>,
}

impl DocumentLifecycle {
    /// Puts the documents of the bridge itself into the table.
    pub(crate) fn new(settings: &MqttSettings, topics: Topics, table: &mut RetainedTable) -> Self {
        let renderer = DiscoveryRenderer::new(settings, topics.clone());
        for Document { topic, payload } in renderer.bridge() {
            table.put(&topic, payload, Priority::Document, QoS::AtLeastOnce);
        }
        Self {
            renderer,
            topics,
            instances: [settings.instance.clone(), settings.drawn_instance.clone()],
            plugs: HashMap::new(),
            stale: StaleTopics::default(),
            migration: Migration::default(),
        }
    }

    /// The plug exists: its stale topics are kept until it has answered.
    pub(crate) fn expect(&mut self, plug: &PlugName) {
        self.known(plug);
    }

    pub(crate) fn set_has_led(&mut self, plug: &PlugName, has_led: bool, table: &mut RetainedTable) {
        let known = self.known(plug);
        let is_new = has_led && !known.has.led;
        known.has.led |= has_led;
        if is_new {
            self.put_documents(plug, table);
        }
    }

    pub(crate) fn set_info(&mut self, plug: PlugName, info: Arc<PlugInfo>, table: &mut RetainedTable) {
        let known = self.known(&plug);
        let is_same = |before: &Arc<PlugInfo>| {
            before.device == info.device && before.outlets == info.outlets && before.outlet == info.outlet
        };
        let is_new =
            !known.info.as_ref().is_some_and(is_same) || (info.cloud_connected.is_some() && !known.has.cloud);
        known.has.cloud |= info.cloud_connected.is_some();
        known.info = Some(info);
        if is_new {
            self.put_documents(&plug, table);
        }
    }

    pub(crate) fn info(&self, plug: &PlugName) -> Option<&PlugInfo> {
        self.plugs.get(plug)?.info.as_deref()
    }

    /// The names of all plugs, sorted.
    pub(crate) fn plugs(&self) -> Vec<PlugName> {
        let mut names: Vec<_> = self.plugs.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Clears the documents of a plug.
    pub(crate) fn forget(&mut self, name: &PlugName, table: &mut RetainedTable) {
        let plug = self.plugs.remove(name).unwrap_or_default();
        self.stale.take_state(name);
        for topic in plug.topics {
            table.clear_document(&topic);
        }
        for topic in self.stale.take_plug(name) {
            table.clear_document(&topic);
        }
    }

    /// Renders the document at this topic as it is now.
    pub(crate) fn render(&self, plug: &PlugName, topic: &str) -> Option<Vec<u8>> {
        let known = self.plugs.get(plug)?;
        let info = known.info.as_ref()?;
        let document = self.renderer.plug_at(topic, plug, info, known.has, &known.components)?;
        Some(document.payload)
    }

    /// Whether documents must not be sent yet.
    pub(crate) fn are_held_back(&self) -> bool {
        self.is_searching()
    }

    pub(crate) fn is_searching(&self) -> bool {
        !self.stale.is_searched
    }

    /// The filters that find retained messages of earlier runs; none after the search.
    pub(crate) fn search_filters(&self) -> Vec<String> {
        if self.stale.is_searched {
            return Vec::new();
        }
        let mut filters = self.renderer.discovery().filters();
        filters.extend(self.topics.search_filters());
        filters
    }

    /// The search found a retained `bridge/info`.
    pub(crate) fn found_bridge_info(&mut self, payload: &[u8]) {
        self.stale.is_base_ours =
            instance_of(payload).is_some_and(|instance| self.instances.contains(&instance));
    }

    /// The search found the availability of a plug.
    pub(crate) fn found_plug(&mut self, plug: PlugName) {
        self.stale.add_plug(plug);
    }

    /// The search found the state of a plug that has not answered in this run.
    pub(crate) fn found_state(&mut self, plug: PlugName, state: &[u8]) {
        self.stale.add_state(plug, state);
    }

    /// The retained state of a plug, once.
    pub(crate) fn take_state(&mut self, plug: &PlugName) -> Option<Vec<u8>> {
        self.stale.take_state(plug)
    }

    /// The search found a retained message that may be a document of ours.
    pub(crate) fn found_document(&mut self, topic: &str, payload: &[u8]) {
        if self.renderer.discovery().is_document(topic)
            && let Some(found) = RetainedDocument::read(
                payload,
                &self.topics,
                self.renderer.bridge_device(),
                self.renderer.drawn_bridge_device(),
            )
        {
            self.stale.add_document(topic, found);
        }
    }

    /// The search is over: plugs take over the documents of earlier runs, and documents may be sent.
    pub(crate) fn end_search(&mut self, table: &mut RetainedTable) {
        self.stale.is_searched = true;
        for (topic, _) in self.stale.take_device(self.renderer.bridge_device()) {
            if !table.holds(&topic) {
                self.retire(&topic, table);
            }
        }
        for name in self.plugs_with_stale_documents() {
            self.put_documents(&name, table);
        }
    }

    /// The first round of reads is done: every plug that exists is known.
    pub(crate) fn end_first_round(&mut self) {
        self.stale.is_round_done = true;
    }

    /// Once the search and the first round of reads are both done: clears the documents that belong to no plug, and returns
    /// the plugs whose topics must be cleared. A plug that has not answered yet keeps what was found under its name.
    pub(crate) fn clear_stale(&mut self, table: &mut RetainedTable) -> Vec<PlugName> {
        if !self.stale.is_settled() {
            return Vec::new();
        }
        self.stale.documents.retain(|topic, found| {
            let plug = found.plug.as_ref().and_then(|plug| self.plugs.get(plug));
            let is_wanted = plug.is_some_and(|plug| plug.is_expected(&self.renderer))
                || table.holds(topic)
                || (found.is_outlet && !self.stale.is_base_ours);
            if !is_wanted {
                tracing::info!("{topic}: clearing a discovery document of an earlier run");
                table.clear_document(topic);
            }
            is_wanted
        });
        let plugs = std::mem::take(&mut self.stale.plugs).into_iter();
        plugs.filter(|plug| self.stale.is_base_ours && !self.plugs.contains_key(plug)).collect()
    }

    /// The next message that tells Home Assistant to release entities; they go before all documents.
    pub(crate) fn next_migration(&mut self) -> Option<Transient> {
        if self.is_searching() {
            return None;
        }
        let topic = self.migration.next()?;
        Some(Transient::new(topic, MIGRATE_DISCOVERY.to_vec()))
    }

    /// Whether Home Assistant was told to release entities and has not had the time for it.
    pub(crate) fn is_migrating(&self) -> bool {
        self.stale.is_searched && self.migration.is_sent()
    }

    /// Home Assistant has released the entities: the old documents are cleared. If another document is at such a topic now, it
    /// is sent again, since Home Assistant may have been releasing entities when it came.
    pub(crate) fn end_migration(&mut self, table: &mut RetainedTable) {
        for topic in self.migration.finish() {
            if table.holds(&topic) {
                table.send_once_more(&topic);
            } else {
                table.clear_document(&topic);
            }
        }
    }

    /// A new connection stands.
    pub(crate) fn connected(&mut self) {
        self.migration.send_again();
    }

    fn known(&mut self, name: &PlugName) -> &mut PlugDocuments {
        self.plugs.entry(name.clone()).or_default()
    }

    /// Puts the plug's documents into the table, and retires those that its device had at other topics.
    fn put_documents(&mut self, name: &PlugName, table: &mut RetainedTable) {
        let Some(info) = self.plugs.get(name).and_then(|plug| plug.info.clone()) else { return };
        // The strip's earlier documents show which of the outlet's entities must be migrated.
        let strip = info.outlet.as_ref().map(|outlet| &outlet.strip).zip(self.renderer.strip(&info));
        if let Some((strip, _)) = strip.filter(|(_, device)| self.stale.has_device(device)) {
            self.put_documents(strip, table);
        }
        let Some(plug) = self.plugs.get_mut(name) else { return };
        let device = self.renderer.device(&info);
        for (topic, found) in device.map(|device| self.stale.take_device(&device)).unwrap_or_default() {
            let is_outgrown = found.is_outgrown(&topic, self.renderer.discovery());
            let is_own = !is_outgrown || self.renderer.discovery().is_device(&topic);
            if is_own {
                plug.take_over(topic.clone(), found, &self.renderer);
            }
            if is_outgrown && self.renderer.is_off() {
                table.clear_document(&topic);
            } else if is_outgrown && !(is_own && self.renderer.is_other_form(&topic)) {
                self.migration.add(topic);
            }
        }
        let Some(info) = plug.info.as_ref().filter(|_| !plug.is_expected(&self.renderer)) else { return };
        let documents = self.renderer.plug(name, info, plug.has, &plug.components);
        let priority = if info.outlet.is_some() { Priority::OutletDocument } else { Priority::Document };
        let mut retired = std::mem::take(&mut plug.topics);
        for Document { topic, payload } in documents {
            retired.retain(|old| **old != *topic);
            plug.topics.push(table.put_document(&topic, name, &payload, priority));
        }
        for topic in retired {
            self.retire(&topic, table);
        }
        if self.stale.is_settled() {
            self.clear_of_other_devices(name, table);
        }
    }

    /// Clears a document; entities that continue in the other form are migrated first.
    fn retire(&mut self, topic: &str, table: &mut RetainedTable) {
        if self.renderer.is_other_form(topic) {
            self.migration.add(topic.to_owned());
        } else {
            table.clear_document(topic);
        }
    }

    /// Sorted, so that each run sends the same.
    fn plugs_with_stale_documents(&self) -> Vec<PlugName> {
        let has_stale = |plug: &PlugDocuments| {
            let device = plug.info.as_ref().and_then(|info| self.renderer.device(info));
            device.is_some_and(|device| self.stale.has_device(&device))
        };
        let plugs = self.plugs.iter().filter(|(_, plug)| has_stale(plug)).map(|(name, _)| name.clone());
        let mut names: Vec<_> = plugs.collect();
        names.sort_unstable();
        names
    }

    /// The plug has answered, and is another device than the one that had its name in an earlier run.
    fn clear_of_other_devices(&mut self, name: &PlugName, table: &mut RetainedTable) {
        for topic in self.stale.take_plug(name) {
            if !table.holds(&topic) {
                table.clear_document(&topic);
            }
        }
    }
}

impl PlugDocuments {
    /// Whether it has not reported yet what its documents need; until then those of an earlier run stay.
    fn is_expected(&self, renderer: &DiscoveryRenderer) -> bool {
        self.info.as_ref().is_none_or(|info| renderer.device(info).is_none())
    }

    /// Takes over a document of an earlier run, which shows the abilities that the plug had then.
    fn take_over(&mut self, topic: String, found: RetainedDocument, renderer: &DiscoveryRenderer) {
        let has = found.abilities(&topic, renderer.discovery());
        self.has.led |= has.led;
        self.has.cloud |= has.cloud;
        if renderer.discovery().is_device(&topic) {
            self.components.extend(found.components);
        }
        if !self.topics.iter().any(|known| **known == *topic) {
            self.topics.push(topic.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::bridge::event::{OutletInfo, Update};
    use crate::model::{Availability, RelayState};
    use crate::mqtt::homeassistant::DocumentForm;
    use crate::mqtt::state::MqttState;
    use crate::mqtt::test_support::{
        connected, document, info, message, name, sent, settings, shown, state, state_of, state_with, topics,
        update,
    };
    use crate::smarthome::message::OutletDescription;

    /// The search finds what an earlier run of this installation left at the broker.
    fn leave_at_the_broker(mqtt: &mut MqttState, form: DocumentForm, plug: &str, digit: char) {
        let mut earlier = state_with(form);
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

    /// The position of each of these messages among those that were sent.
    fn positions<const N: usize>(sent: &[(String, String)], wanted: [(&str, &str); N]) -> [usize; N] {
        wanted.map(|(topic, part)| {
            let is_it = |(t, text): &(String, String)| {
                t == topic && if part.is_empty() { text.is_empty() } else { text.contains(part) }
            };
            sent.iter().position(is_it).unwrap_or_else(|| panic!("no {topic} with {part:?}: {sent:#?}"))
        })
    }

    /// The info of a strip and of its outlets.
    fn strip() -> [(PlugName, PlugInfo); 3] {
        let outlet = |id: &str, alias: &str| OutletDescription { id: id.into(), alias: alias.into() };
        let mut strip = info('D');
        let device_info = Arc::make_mut(&mut strip.device);
        device_info.outlets = [outlet("00", "Lamp"), outlet("01", "Fan")].into();
        device_info.feature = "TIM:ENE".into();
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
    fn an_led_that_was_seen_once_stays_in_the_document() {
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
    fn a_document_is_not_sent_again_if_the_device_info_is_unchanged() {
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
    fn another_device_under_the_same_name_replaces_the_document_of_the_first() {
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
            // The document first: its templates cannot read empty messages.
            assert_eq!(cleared[0], document('A'));
            assert!(cleared.contains(&"hs100d/kettle/info".to_owned()));
            assert_eq!(cleared.len(), 5);
        }
    }

    #[test]
    fn stale_topics_are_cleared_after_the_search_and_the_first_round() {
        let mut mqtt = state_with(DocumentForm::Device);
        mqtt.connected();
        leave_at_the_broker(&mut mqtt, DocumentForm::Device, "heater", 'C');
        update(&mut mqtt, Update::Ready);
        assert_eq!(cleared(&mut mqtt), [""; 0]);
        mqtt.end_search();
        let cleared = cleared(&mut mqtt);
        assert!(cleared.contains(&document('C')) && cleared.contains(&"hs100d/heater/state".to_owned()));
        assert!(mqtt.search_filters().is_empty());

        let mut mqtt = state_with(DocumentForm::Device);
        mqtt.connected();
        leave_at_the_broker(&mut mqtt, DocumentForm::Device, "heater", 'C');
        mqtt.end_search();
        assert_eq!(self::cleared(&mut mqtt), [""; 0]);
        update(&mut mqtt, Update::Ready);
        assert!(self::cleared(&mut mqtt).contains(&document('C')));
    }

    #[test]
    fn a_plug_that_does_not_answer_keeps_its_entities() {
        let mut mqtt = state_with(DocumentForm::Device);
        mqtt.connected();
        leave_at_the_broker(&mut mqtt, DocumentForm::Device, "kettle", 'A');
        update(&mut mqtt, Update::Expected(name("kettle")));
        mqtt.end_search();
        update(&mut mqtt, Update::Ready);
        assert_eq!(cleared(&mut mqtt), [""; 0]);
        // If it is forgotten later, its documents are cleared.
        update(&mut mqtt, Update::Gone(name("kettle")));
        assert!(cleared(&mut mqtt).contains(&document('A')));
    }

    #[test]
    fn a_renamed_plug_keeps_its_entities_and_its_old_topics_are_cleared() {
        let mut mqtt = state_with(DocumentForm::Device);
        mqtt.connected();
        leave_at_the_broker(&mut mqtt, DocumentForm::Device, "kettle", 'A');
        update(&mut mqtt, Update::Info(name("teapot"), info('A').into()));
        mqtt.end_search();
        update(&mut mqtt, Update::Ready);
        let cleared = cleared(&mut mqtt);
        assert!(cleared.contains(&"hs100d/kettle/info".to_owned()), "{cleared:?}");
        assert!(!cleared.contains(&document('A')), "{cleared:?}");
    }

    #[test]
    fn an_entity_of_an_earlier_run_stays_until_its_plug_shows_it_again() {
        for form in [DocumentForm::Device, DocumentForm::Component] {
            let mut mqtt = state_with(form);
            mqtt.connected();
            leave_at_the_broker(&mut mqtt, form, "kettle", 'A');
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
    fn a_component_that_no_longer_exists_is_removed_once() {
        let earlier =
            r#"{"origin":{"name":"hs100d"},"device":{"identifiers":["hs100d_ID"],"via_device":"hs100d_test"},
            "components":{"old":{"platform":"sensor","unique_id":"x"},"older":{"platform":"sensor"}}}"#
                .replace("ID", &"A".repeat(40));
        let mut mqtt = state_with(DocumentForm::Device);
        mqtt.connected();
        mqtt.handle_message(message(&document('A'), &earlier, true), Instant::now());
        update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
        mqtt.end_search();
        let sent = sent(&mut mqtt);
        let shown = shown(&sent, &document('A'));
        assert!(shown.contains(r#""old":{"p":"sensor"}"#), "{shown}");
        assert!(!shown.contains("older"), "{shown}");
    }

    #[test]
    fn entities_migrate_to_the_other_form_before_the_old_documents_are_cleared() {
        let relay = format!("homeassistant/switch/hs100d_{}/hs100d_relay/config", "A".repeat(40));
        let bridge = "homeassistant/device/hs100d_test/config";
        let part = "homeassistant/binary_sensor/hs100d_test/hs100d_connection/config";
        for (before, after, old, new, old_bridge, new_bridge) in [
            (DocumentForm::Component, DocumentForm::Device, &relay, &document('A'), part, bridge),
            (DocumentForm::Device, DocumentForm::Component, &document('A'), &relay, bridge, part),
        ] {
            let mut mqtt = state_with(after);
            mqtt.connected();
            leave_at_the_broker(&mut mqtt, before, "kettle", 'A');
            update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
            mqtt.end_search();
            update(&mut mqtt, Update::Ready);
            let sent = sent(&mut mqtt);
            let steps = [(old.as_str(), "migrate_discovery"), (new.as_str(), "uniq_id")];
            assert!(positions(&sent, steps).is_sorted(), "{sent:#?}");
            let steps = [(old_bridge, "migrate_discovery"), (new_bridge, "uniq_id")];
            assert!(positions(&sent, steps).is_sorted(), "{sent:#?}");
            // Home Assistant has time before the old documents are cleared.
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
    fn a_migration_starts_again_on_a_new_connection() {
        let relay = format!("homeassistant/switch/hs100d_{}/hs100d_relay/config", "A".repeat(40));
        let mut mqtt = state_with(DocumentForm::Device);
        mqtt.connected();
        leave_at_the_broker(&mut mqtt, DocumentForm::Component, "kettle", 'A');
        update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
        // Nothing is cleared while the search holds back its replacement.
        assert_eq!(topics(&sent(&mut mqtt)), ["hs100d/kettle/info"]);
        mqtt.end_search();
        for _ in 0..2 {
            let sent = sent(&mut mqtt);
            let steps = [(relay.as_str(), "migrate_discovery"), (&document('A'), "uniq_id")];
            assert!(positions(&sent, steps).is_sorted(), "{sent:#?}");
            mqtt.disconnected();
            assert!(mqtt.is_migrating());
            mqtt.connected();
            assert!(!mqtt.is_migrating());
        }
    }

    #[test]
    fn documents_are_cleared_without_a_migration_if_discovery_is_off() {
        for before in [DocumentForm::Device, DocumentForm::Component] {
            let mut mqtt = state_with(DocumentForm::Off);
            mqtt.connected();
            leave_at_the_broker(&mut mqtt, before, "kettle", 'A');
            update(&mut mqtt, Update::Info(name("kettle"), info('A').into()));
            mqtt.end_search();
            update(&mut mqtt, Update::Ready);
            let sent = sent(&mut mqtt);
            let documents = || sent.iter().filter(|(topic, _)| topic.starts_with("homeassistant/"));
            assert!(documents().count() >= 2 && documents().all(|(_, text)| text.is_empty()), "{sent:#?}");
        }
    }

    #[test]
    fn two_plugs_that_swapped_their_names_keep_their_entities() {
        for swapped in [["kettle", "lamp"], ["lamp", "kettle"]] {
            let mut mqtt = state_with(DocumentForm::Device);
            mqtt.connected();
            leave_at_the_broker(&mut mqtt, DocumentForm::Device, "lamp", 'A');
            leave_at_the_broker(&mut mqtt, DocumentForm::Device, "kettle", 'B');
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
    fn another_device_that_answers_late_clears_the_documents_under_its_name() {
        let mut mqtt = state_with(DocumentForm::Device);
        mqtt.connected();
        leave_at_the_broker(&mut mqtt, DocumentForm::Device, "kettle", 'A');
        update(&mut mqtt, Update::Availability(name("kettle"), Availability::Offline));
        mqtt.end_search();
        update(&mut mqtt, Update::Ready);
        assert_eq!(cleared(&mut mqtt), [""; 0]);
        update(&mut mqtt, Update::Info(name("kettle"), info('B').into()));
        assert_eq!(cleared(&mut mqtt), [document('A')]);
    }

    #[test]
    fn a_strip_and_each_of_its_outlets_have_a_document_and_the_strip_is_first() {
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

        // One outlet is renamed: only its document is sent again.
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
    fn a_strip_keeps_its_entities_until_its_outlets_have_names() {
        let mut earlier = connected();
        show_strip(&mut earlier);
        update(&mut earlier, Update::Ready);
        let mut mqtt = state_with(DocumentForm::Device);
        mqtt.connected();
        for (topic, payload) in sent(&mut earlier) {
            mqtt.handle_message(message(&topic, &payload, true), Instant::now());
        }
        let [(strip_name, info), ..] = strip();
        let unnamed = PlugInfo { outlets: Arc::default(), ..info };
        update(&mut mqtt, Update::Info(strip_name, unnamed.into()));
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
    fn documents_of_a_strip_that_is_gone_are_cleared_unless_they_are_of_another_instance() {
        for (instance, is_cleared) in [("test", true), ("other", false)] {
            let mut earlier = connected();
            show_strip(&mut earlier);
            let mut mqtt = state_with(DocumentForm::Device);
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
    fn a_name_in_the_config_replaces_the_drawn_one_and_leaves_clones_of_the_disk_alone() {
        let earlier = settings(DocumentForm::Device);
        let named = MqttSettings { instance: "north".to_owned(), ..earlier.clone() };
        let clone = MqttSettings { base_topic: "south".to_owned(), ..earlier.clone() };
        // What was at the broker before, and whether it is cleared.
        for (before, is_cleared) in [(&earlier, true), (&clone, false)] {
            let mut earlier = state_of(before);
            earlier.connected();
            earlier.end_search();
            update(&mut earlier, Update::Info(name("kettle"), info('A').into()));
            update(&mut earlier, Update::Availability(name("kettle"), Availability::Online));
            let mut mqtt = state_of(&named);
            mqtt.connected();
            for (topic, payload) in sent(&mut earlier) {
                mqtt.handle_message(message(&topic, &payload, true), Instant::now());
            }
            let info = format!("{}/bridge/info", before.base_topic);
            mqtt.handle_message(message(&info, r#"{"instance":"test"}"#, true), Instant::now());
            mqtt.end_search();
            update(&mut mqtt, Update::Ready);
            let cleared = cleared(&mut mqtt);
            for topic in ["homeassistant/device/hs100d_test/config", &document('A')] {
                assert_eq!(cleared.iter().any(|it| it == topic), is_cleared, "{topic}: {cleared:#?}");
            }
            assert_eq!(
                cleared.iter().any(|it| it == "hs100d/kettle/availability"),
                is_cleared,
                "{cleared:#?}"
            );
        }
    }

    #[test]
    fn retained_messages_of_others_are_kept() {
        let mut mqtt = state_with(DocumentForm::Device);
        mqtt.connected();
        let foreign =
            r#"{"origin":{"name":"hs100d"},"device":{"identifiers":[],"via_device":"hs100d_other"}}"#;
        mqtt.handle_message(message("homeassistant/device/x/config", foreign, true), Instant::now());
        // Another instance below our base topic, by mistake: its plugs stay.
        mqtt.handle_message(message("hs100d/bridge/info", r#"{"instance":"other"}"#, true), Instant::now());
        mqtt.handle_message(message("hs100d/boiler/availability", "online", true), Instant::now());
        mqtt.end_search();
        update(&mut mqtt, Update::Ready);
        assert_eq!(cleared(&mut mqtt), [""; 0]);
    }
}
