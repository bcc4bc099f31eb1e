//! The files of every earlier version are read: no upgrade loses a name, a login or a config.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use hs100d::bridge::event::{IdAllocator, KnownPlug, OutletInfo, PlugInfo, PlugState, Update};
use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::config::{self, Config};
use hs100d::klap_hashes::KlapAccounts;
use hs100d::model::{Address, Availability, DeviceId, LanProtocol, Mac, PlugName, RelayState};
use hs100d::mqtt::MqttSettings;
use hs100d::mqtt::homeassistant::{self, DocumentForm};
use hs100d::mqtt::message::{Message, Outgoing};
use hs100d::mqtt::state::MqttState;
use hs100d::payload::Clock;
use hs100d::secret::Secret;
use hs100d::smarthome::message::{DeviceInfo, OutletDescription};
use hs100d::store::{HashFile, Store, StoredHashes, TokenFile};
use hs100d::transport::cloud::Tokens;
use serde_json::Value;

/// The files of a state directory. Earlier versions wrote the first two.
const FILES: [&str; 3] = ["state.json", "cloud.token", "klap.hashes"];

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples");

/// The samples of one kind with their numbers, oldest first.
fn samples(kind: &str) -> Vec<(u32, PathBuf)> {
    let mut samples: Vec<_> = fs::read_dir(Path::new(SAMPLES).join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.split('-').next().unwrap().parse().expect(name), path)
        })
        .collect();
    samples.sort();
    assert!(!samples.is_empty(), "no samples of the {kind}");
    samples
}

/// A state directory as the version of this sample wrote it.
fn left_by(sample: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in FILES.iter().filter(|file| sample.join(file).exists()) {
        private(&directory.path().join(file), &fs::read_to_string(sample.join(file)).unwrap());
    }
    directory
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn json(directory: &Path, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(directory.join(file)).unwrap()).unwrap()
}

/// The paths of all keys of a document; the elements of a list count as one.
fn keys(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, inner)| {
                let below = keys(inner).into_iter().map(move |below| format!("{key}.{below}"));
                [key.clone()].into_iter().chain(below)
            })
            .collect(),
        Value::Array(elements) => elements.iter().flat_map(keys).collect(),
        _ => BTreeSet::new(),
    }
}

/// Whether `new` has everything that `old` has; lists are compared element by element.
fn is_said_by(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            old.iter().all(|(key, value)| new.get(key).is_some_and(|now| is_said_by(value, now)))
        }
        (Value::Array(old), Value::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| is_said_by(old, new))
        }
        _ => old == new,
    }
}

/// A plug with every field set.
fn plug() -> KnownPlug {
    let name = |text| PlugName::new(text).unwrap();
    KnownPlug {
        device_id: DeviceId::new("8006000000000000000000000000000000000009").unwrap(),
        mac: Mac::new("50:C7:BF:01:02:09"),
        name: name("newcomer"),
        address: Address::new("192.168.1.29", 9999),
        outlets: vec![name("left"), name("right")],
        home: Address::new("10.8.0.29", 9999),
        protocol: Some(LanProtocol::Klap),
        klap_port: Some(8080),
    }
}

fn tokens() -> Tokens {
    Tokens {
        username: "me@example.com".to_owned(),
        registered: Some("Me@Example.com".to_owned()),
        token: Secret::new("made-up-token".to_owned()),
        refresh_token: Some(Secret::new("made-up-refresh-token".to_owned())),
    }
}

#[test]
fn the_state_that_every_earlier_version_left_is_kept() {
    for (_, sample) in samples("state") {
        let directory = left_by(&sample);
        let before = json(directory.path(), "state.json");
        let (mut store, warnings) = Store::open(directory.path());
        assert_eq!(warnings, [""; 0], "{}", sample.display());
        assert_eq!(store.known_plugs().len(), before["plugs"].as_array().unwrap().len());

        // In today's form it has everything that it had, and the new plug at its end.
        store.remember(plug());
        store.save().unwrap();
        let mut after = json(directory.path(), "state.json");
        after["plugs"].as_array_mut().unwrap().pop();
        assert!(is_said_by(&before, &after), "{}: {before} became {after}", sample.display());
    }
}

#[test]
fn a_login_outlives_every_upgrade() {
    for (_, sample) in samples("state") {
        let directory = left_by(&sample);
        let before = json(directory.path(), "cloud.token");
        let file = TokenFile::of(directory.path());
        let tokens = file.load().unwrap().expect("a login");
        file.save(&tokens).unwrap();
        let after = json(directory.path(), "cloud.token");
        assert!(is_said_by(&before, &after), "{}", sample.display());
    }
}

#[test]
fn hashes_for_klap_outlive_every_upgrade() {
    let samples = samples("state").into_iter().filter(|(_, sample)| sample.join("klap.hashes").exists());
    let mut read = 0;
    for (_, sample) in samples {
        let directory = left_by(&sample);
        let before = json(directory.path(), "klap.hashes");
        let file = HashFile::of(directory.path());
        file.save(&file.load().unwrap().expect("a login")).unwrap();
        assert_eq!(before, json(directory.path(), "klap.hashes"), "{}", sample.display());
        read += 1;
    }
    assert!(read > 0, "no sample has hashes");
}

#[test]
fn what_is_written_today_has_a_sample() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path());
    store.remember(plug());
    store.save().unwrap();
    store.token_file().save(&tokens()).unwrap();
    let accounts = KlapAccounts::of("me@example.com", &Secret::new("made up".to_owned()), None);
    store.hash_file().save(&StoredHashes::of("me@example.com", &accounts)).unwrap();
    let (_, newest) = samples("state").pop().unwrap();
    for file in FILES {
        let (today, sample) = (json(directory.path(), file), json(&newest, file));
        assert_eq!(
            keys(&today),
            keys(&sample),
            "{file} has another form: add a sample, see tests/samples/README.md"
        );
        assert_eq!(today["version"], sample["version"], "{file}: add a sample, see tests/samples/README.md");
    }
}

#[test]
fn every_config_that_an_earlier_version_took_is_taken() {
    for (_, sample) in samples("config") {
        let directory = tempfile::tempdir().unwrap();
        for file in [
            "mqtt.password",
            "cloud.password",
            "local.password",
            "access.key",
            "secret.key",
            "http.token",
            "http.read_token",
            "ca.pem",
            "client.pem",
            "client.key",
        ] {
            let text = if ["access.key", "secret.key"].contains(&file) {
                "made-up\n"
            } else {
                "made up, and long enough\n"
            };
            private(&directory.path().join(file), text);
        }
        private(&directory.path().join("hs100d.env"), "SITE=north\n");
        let path = directory.path().join("hs100d.toml");
        private(&path, &fs::read_to_string(&sample).unwrap());
        let loaded = Config::load(&ConfigPath::Named(path), &Environment::default());
        let config = loaded.unwrap_or_else(|invalid| panic!("{}: {invalid}", sample.display()));
        assert_eq!(config.warnings, [""; 0], "{}", sample.display());
    }
}

#[test]
fn every_key_of_the_config_has_a_sample() {
    let mut written = BTreeSet::new();
    for (_, sample) in samples("config") {
        let mut table = String::new();
        for line in fs::read_to_string(sample).unwrap().lines() {
            if line.starts_with('[') {
                table = line.trim_matches(['[', ']']).to_owned();
            } else if let Some((key, _)) = line.split_once(" = ") {
                written.insert(format!("{table}.{key}"));
            }
        }
    }
    let known: BTreeSet<_> = config::keys().into_iter().collect();
    let missing: Vec<_> = known.difference(&written).collect();
    assert!(missing.is_empty(), "no sample has {missing:?}: add samples, see tests/samples/README.md");
}

/// Home Assistant as far as MQTT discovery goes: the entities that it has loaded, and those that it has deleted
/// together with what the user configured for them.
#[derive(Debug, Default, Clone)]
struct HomeAssistant {
    /// By platform and discovery id: the discovery topic, the unique id, and the device.
    loaded: BTreeMap<(String, String), (String, String, String)>,
    devices: BTreeSet<String>,
    lost: Vec<String>,
}

impl HomeAssistant {
    fn hear(&mut self, topic: &str, payload: &str) {
        let Some(place) = topic.strip_prefix("homeassistant/").and_then(|rest| rest.strip_suffix("/config"))
        else {
            return;
        };
        let lets_go = payload == r#"{"migrate_discovery": true}"#;
        if payload.is_empty() || lets_go {
            self.unload(|_, at| at == topic, !lets_go);
            return;
        }
        let document: Value = serde_json::from_str(payload).unwrap();
        let either = |one: &Value, short: &str, long: &str| one.get(short).or(one.get(long)).cloned();
        let device = either(&document, "dev", "device").unwrap();
        let id = either(&device, "ids", "identifiers").unwrap()[0].as_str().unwrap().to_owned();
        if let Some(via) = device["via_device"].as_str().filter(|via| via.contains("8006")) {
            assert!(self.devices.contains(via), "{id} comes before {via}, by way of which it is reached");
        }
        self.devices.insert(id.clone());
        let levels: Vec<&str> = place.split('/').collect();
        let components: Vec<(String, String, Value)> = match levels[..] {
            ["device", object] => {
                let components = either(&document, "cmps", "components").unwrap();
                let of = |(key, one): (&String, &Value)| {
                    let platform = either(one, "p", "platform").unwrap().as_str().unwrap().to_owned();
                    (platform, format!("{object} {key}"), one.clone())
                };
                components.as_object().unwrap().iter().map(of).collect()
            }
            [platform, node, object] => {
                vec![(platform.to_owned(), format!("{node} {object}"), document.clone())]
            }
            _ => panic!("Home Assistant looks nowhere else: {topic}"),
        };
        for (platform, discovery, component) in components {
            let hash = (platform, discovery);
            let Some(unique) = either(&component, "uniq_id", "unique_id") else {
                self.unload(|known, at| *known == hash && at == topic, true);
                continue;
            };
            let unique = unique.as_str().unwrap().to_owned();
            if let Some((at, ..)) = self.loaded.get(&hash) {
                assert_eq!(at, topic, "a conflicting discovery message for {hash:?}");
            } else {
                let twice = self.loaded.iter().find(|(_, (_, other, _))| *other == unique);
                assert!(twice.is_none(), "{hash:?} does not have an id of its own: {twice:?}");
            }
            self.loaded.insert(hash, (topic.to_owned(), unique, id.clone()));
        }
    }

    fn unload(&mut self, which: impl Fn(&(String, String), &str) -> bool, for_good: bool) {
        let gone: Vec<_> = self.loaded.iter().filter(|(hash, (at, ..))| which(hash, at)).collect();
        let gone: Vec<_> =
            gone.into_iter().map(|(hash, (_, unique, _))| (hash.clone(), unique.clone())).collect();
        for (hash, unique) in gone {
            self.loaded.remove(&hash);
            if for_good {
                self.lost.push(unique);
            }
        }
    }

    /// Every entity with its device.
    fn entities(&self) -> BTreeMap<&str, &str> {
        self.loaded.values().map(|(_, unique, device)| (unique.as_str(), device.as_str())).collect()
    }
}

/// A broker with a Home Assistant, and a daemon that publishes to it.
#[derive(Debug, Default, Clone)]
struct Broker {
    retained: BTreeMap<String, String>,
    home_assistant: HomeAssistant,
}

impl Broker {
    /// The broker as a daemon of an earlier version left it.
    fn left_by(sample: &Path) -> Self {
        let documents: BTreeMap<String, Value> =
            serde_json::from_str(&fs::read_to_string(sample).unwrap()).unwrap();
        let mut broker = Self::default();
        for (topic, document) in documents {
            broker.keep(&topic, &document.to_string());
        }
        broker.keep("hs100d/bridge/info", r#"{"instance":"0f3a"}"#);
        broker
    }

    fn keep(&mut self, topic: &str, payload: &str) {
        self.home_assistant.hear(topic, payload);
        if payload.is_empty() {
            self.retained.remove(topic);
        } else {
            self.retained.insert(topic.to_owned(), payload.to_owned());
        }
    }

    /// Publishes what the daemon has to send, at most this much. Returns whether that was all.
    fn take(&mut self, mqtt: &mut MqttState, most: usize) -> bool {
        for _ in 0..most {
            match mqtt.take() {
                Some(Outgoing::Retained(retained)) => {
                    self.keep(&retained.topic, std::str::from_utf8(&retained.payload).unwrap())
                }
                Some(Outgoing::Transient(transient)) => self
                    .home_assistant
                    .hear(&transient.topic, std::str::from_utf8(&transient.payload).unwrap()),
                None => return true,
            }
        }
        false
    }

    /// A daemon that has connected and finished its first discovery. Its strip answers before that or after.
    fn daemon(&self, form: DocumentForm, answers_first: bool) -> MqttState {
        let mut mqtt = mqtt(form);
        mqtt.connected();
        for (topic, payload) in &self.retained {
            let payload = payload.as_bytes();
            let message = Message { topic, payload, retained: true, response_topic: None, correlation: None };
            mqtt.handle_message(message, Instant::now());
        }
        if answers_first {
            answer(&mut mqtt);
        }
        mqtt.end_search();
        if !answers_first {
            let names = strip().map(|(name, _)| name);
            for name in names {
                update(&mut mqtt, Update::Expected(name));
            }
            update(&mut mqtt, Update::Ready);
            answer(&mut mqtt);
        }
        update(&mut mqtt, Update::Ready);
        mqtt
    }

    /// Runs a daemon until it has nothing left to send.
    fn run(&mut self, form: DocumentForm, answers_first: bool) {
        let mut mqtt = self.daemon(form, answers_first);
        assert!(self.take(&mut mqtt, usize::MAX));
        mqtt.end_migration();
        assert!(self.take(&mut mqtt, usize::MAX));
    }

    /// The broker after a first start.
    fn fresh(form: DocumentForm) -> Self {
        let mut fresh = Self::default();
        fresh.run(form, true);
        fresh
    }

    fn is_upgraded_to(&self, fresh: &Self, case: &str) {
        assert_eq!(self.home_assistant.lost, [""; 0], "{case}: lost");
        assert_eq!(self.home_assistant.entities(), fresh.home_assistant.entities(), "{case}");
        assert_eq!(
            self.retained.keys().collect::<Vec<_>>(),
            fresh.retained.keys().collect::<Vec<_>>(),
            "{case}"
        );
    }
}

fn mqtt(form: DocumentForm) -> MqttState {
    let options = MqttSettings {
        host: "127.0.0.1".to_owned(),
        port: 1883,
        others: Vec::new(),
        return_after: MqttSettings::RETURN_AFTER,
        will_delay: MqttSettings::WILL_DELAY,
        tls: None,
        username: None,
        password: None,
        client_id: "hs100d-test".to_owned(),
        base_topic: "hs100d".to_owned(),
        instance: "0f3a".to_owned(),
        drawn_instance: "0f3a".to_owned(),
        homeassistant: homeassistant::HomeAssistantOptions {
            discovery: form,
            discovery_prefix: "homeassistant".to_owned(),
            status_topic: "homeassistant/status".to_owned(),
        },
    };
    MqttState::new(&options, IdAllocator::default(), clock())
}

fn clock() -> Clock {
    Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH }
}

fn update(mqtt: &mut MqttState, update: Update) {
    mqtt.handle_update(update, clock());
}

/// The strip of the samples, and its outlets.
fn strip() -> [(PlugName, PlugInfo); 3] {
    let id = "8006AABBCCDDEEFF00112233445566778899AABB";
    let outlet = |digits: &str, alias: &str| OutletDescription {
        id: format!("{id}{digits}").into(),
        alias: alias.into(),
    };
    let device = DeviceInfo {
        device_id: DeviceId::new(id),
        mac: None,
        alias: "Desk".into(),
        model: "HS300(US)".into(),
        hw_version: "1.0".into(),
        sw_version: "1.0.6".into(),
        kind: "IOT.SMARTPLUGSWITCH".into(),
        feature: "TIM:ENE".into(),
        dev_name: "Wi-Fi Smart Power Strip".into(),
        dims: false,
        outlets: [outlet("00", "Lamp"), outlet("01", " ")].into(),
    };
    let name = |text: &str| PlugName::new(text).unwrap();
    let whole = PlugInfo {
        device: device.into(),
        address: None,
        protocol: None,
        rssi: None,
        cloud_connected: Some(true),
        outlet: None,
        outlets: [name("lamp"), name("desk-2")].into(),
        schedule: None,
    };
    let part = |number| PlugInfo {
        outlet: Some(OutletInfo { number, strip: name("kitchen-kettle") }),
        outlets: [].into(),
        ..whole.clone()
    };
    [(name("kitchen-kettle"), whole.clone()), (name("lamp"), part(0)), (name("desk-2"), part(1))]
}

/// The strip and its outlets answer.
fn answer(mqtt: &mut MqttState) {
    for (name, info) in strip() {
        let led = info.outlet.is_none().then_some(RelayState::On);
        let state = PlugState {
            relay: RelayState::On,
            route: None,
            led,
            on_since: None,
            brightness: None,
            until: None,
        };
        update(mqtt, Update::Info(name.clone(), info.into()));
        update(mqtt, Update::State(name.clone(), state));
        update(mqtt, Update::Availability(name, Availability::Online));
    }
}

/// Every layout of discovery payloads of earlier versions, and of this one.
fn layouts() -> Vec<(String, Broker)> {
    let mut layouts: Vec<_> = samples("discovery")
        .into_iter()
        .map(|(_, sample)| (sample.display().to_string(), Broker::left_by(&sample)))
        .collect();
    for form in [DocumentForm::Device, DocumentForm::Component] {
        layouts.push((format!("{form:?}"), Broker::fresh(form)));
    }
    layouts
}

#[test]
fn no_entity_of_a_strip_is_lost_or_there_twice_when_its_outlets_get_documents_of_their_own() {
    for (before, broker) in layouts() {
        for form in [DocumentForm::Device, DocumentForm::Component] {
            let fresh = Broker::fresh(form);
            for answers_first in [true, false] {
                let case = format!("{before} -> {form:?}, answers first: {answers_first}");
                let mut broker = broker.clone();
                broker.run(form, answers_first);
                broker.is_upgraded_to(&fresh, &case);
                broker.run(form, answers_first);
                broker.is_upgraded_to(&fresh, &format!("{case}, and once more"));
            }
        }
    }
}

#[test]
fn an_upgrade_that_is_cut_short_at_any_message_is_gone_on_with() {
    for (before, broker) in layouts() {
        for form in [DocumentForm::Device, DocumentForm::Component] {
            let fresh = Broker::fresh(form);
            for cut in 0..200 {
                let mut broker = broker.clone();
                let was_all = broker.take(&mut broker.daemon(form, true), cut);
                let case = format!("{before} -> {form:?}, cut after {cut} messages");
                broker.run(form, true);
                broker.is_upgraded_to(&fresh, &case);
                if was_all {
                    break;
                }
            }
        }
    }
}

#[test]
fn with_discovery_switched_off_nothing_of_the_documents_is_left() {
    for (before, broker) in layouts() {
        let mut broker = broker.clone();
        broker.run(DocumentForm::Off, true);
        let left: Vec<_> =
            broker.retained.keys().filter(|topic| topic.starts_with("homeassistant/")).collect();
        assert_eq!(left, [""; 0], "{before}");
    }
}
