//! A model of the broker, with the daemon's real MQTT state as its client: retained messages, publishes, subscriptions.
//! Also the people of the home, who send commands through the broker or press buttons.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hs100d::bridge::event::{Event, IdAllocator, Update};
use hs100d::model::{Availability, LanProtocol, PlugCommand, RelayState, Switch};
use hs100d::mqtt::message::{Effect, Message, Outgoing};
use hs100d::mqtt::state::MqttState;
use hs100d::mqtt::{Inbound, MqttSettings, homeassistant};
use hs100d::payload::Clock;

use super::judge::Promise;
use super::{World, klap, weather};

/// The time-out of the connection task for its subscriptions.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(3);
const ONLINE_AFTER: Duration = Duration::from_secs(3);
const SEARCH: Duration = Duration::from_secs(2);
const MOVE: Duration = Duration::from_secs(3);
const WILL_DELAY: Duration = Duration::from_secs(5);

const BASE: &str = "hs100d";
const STATUS: &str = "homeassistant/status";

/// The broker, and what its clients see of the plugs.
#[derive(Debug)]
pub struct Broker {
    pub is_up: bool,
    retained: BTreeMap<String, Bytes>,
    /// It receives nothing until then.
    pub stalled_until: Duration,
    /// The number of our connections so far.
    connection: u32,
    /// The shown relays by plug, or outlets of a strip, and the strip as a whole.
    shown: BTreeMap<usize, Shown>,
    bridge_is_online: bool,
}

#[derive(Debug, Clone, Default)]
struct Shown {
    whole: Option<RelayState>,
    outlets: BTreeMap<usize, RelayState>,
    availability: Option<Availability>,
    is_home: bool,
    /// The protocol on the LAN, in its info.
    protocol: Option<LanProtocol>,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            is_up: true,
            retained: BTreeMap::new(),
            stalled_until: Duration::ZERO,
            connection: 0,
            shown: BTreeMap::new(),
            bridge_is_online: false,
        }
    }
}

impl Broker {
    /// It restarts without its retained messages.
    pub fn lose_store(&mut self) {
        self.retained.clear();
        self.shown.clear();
        self.bridge_is_online = false;
    }

    fn keep(&mut self, topic: &str, payload: &Bytes) {
        if payload.is_empty() {
            self.retained.remove(topic);
        } else {
            self.retained.insert(topic.to_owned(), payload.clone());
        }
        let mut levels = topic.strip_prefix(BASE).unwrap_or_default().split('/').skip(1);
        let (Some(name), Some(leaf)) = (levels.next(), levels.next()) else { return };
        let text = std::str::from_utf8(payload).unwrap_or_default();
        if (name, leaf) == ("bridge", "state") {
            self.bridge_is_online = text == "online";
        }
        let mut numbers = name.strip_prefix("plug-").unwrap_or_default().split('-').map(str::parse::<usize>);
        let Some(Ok(plug)) = numbers.next() else { return };
        let outlet = numbers.next().and_then(Result::ok).map(|outlet| outlet - 1);
        let shown = self.shown.entry(plug).or_default();
        match (leaf, outlet) {
            ("state", outlet) => {
                let document: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
                let state = RelayState::from_bool(document["state"] == "ON");
                shown.is_home = document["route"] == "local";
                match outlet {
                    Some(outlet) => drop(shown.outlets.insert(outlet, state)),
                    None => shown.whole = Some(state),
                }
            }
            ("info", None) => {
                let document: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
                let is_it = |protocol: &LanProtocol| document["protocol"] == klap::word(*protocol);
                shown.protocol = [LanProtocol::Xor, LanProtocol::Klap].into_iter().find(is_it);
            }
            ("availability", None) => {
                shown.availability = match text {
                    "online" => Some(Availability::Online),
                    "offline" => Some(Availability::Offline),
                    _ => None,
                };
            }
            _ => {}
        }
    }
}

/// The daemon's side of the connection.
pub struct Link {
    mqtt: MqttState,
    is_up: bool,
    hears: bool,
    is_moving: bool,
    announces: bool,
    since: Duration,
}

impl Link {
    pub fn new(clock: Clock) -> Self {
        let options = MqttSettings {
            host: "broker".to_owned(),
            port: 1883,
            others: Vec::new(),
            return_after: MqttSettings::RETURN_AFTER,
            will_delay: MqttSettings::WILL_DELAY,
            tls: None,
            username: None,
            password: None,
            client_id: "hs100d-chaos".to_owned(),
            base_topic: BASE.to_owned(),
            instance: "chaos".to_owned(),
            drawn_instance: "chaos".to_owned(),
            homeassistant: homeassistant::HomeAssistantOptions {
                discovery: homeassistant::DocumentForm::Device,
                discovery_prefix: "homeassistant".to_owned(),
                status_topic: STATUS.to_owned(),
            },
        };
        let mqtt = MqttState::new(&options, IdAllocator::default(), clock);
        Self { mqtt, is_up: false, hears: false, is_moving: false, announces: false, since: Duration::ZERO }
    }

    pub fn weight(&self) -> usize {
        super::weight_of(&self.mqtt)
    }
}

/// The next event between the daemon and the broker.
pub enum Next {
    Connect {
        life: u32,
    },
    Subscribed {
        connection: u32,
    },
    SearchIsOver {
        connection: u32,
    },
    MovesAreOver {
        connection: u32,
    },
    Online {
        life: u32,
    },
    Announce {
        life: u32,
    },
    ShowAgain {
        life: u32,
    },
    Message {
        connection: u32,
        topic: String,
        payload: Vec<u8>,
    },
    Will {
        connection: u32,
    },
    /// It receives messages again.
    Pump,
}

impl Next {
    pub fn is_for_the_daemon(&self) -> bool {
        !matches!(self, Self::Will { .. })
    }
}

impl World {
    pub(super) fn begin_link(&mut self) {
        let life = self.life;
        let soon = self.dice.between(Duration::from_millis(1), Duration::from_millis(100));
        self.link(soon, Next::Connect { life });
        self.link(ONLINE_AFTER, Next::Online { life });
    }

    pub(super) fn broker_step(&mut self, next: Next) {
        let (life, connection) = (self.life, self.broker.connection);
        let is_current = match &next {
            Next::Connect { life: it }
            | Next::Online { life: it }
            | Next::Announce { life: it }
            | Next::ShowAgain { life: it } => *it == life,
            Next::Subscribed { connection: it }
            | Next::SearchIsOver { connection: it }
            | Next::MovesAreOver { connection: it }
            | Next::Message { connection: it, .. } => *it == connection && self.is_linked(),
            Next::Will { connection: it } => *it == connection && !self.is_linked(),
            Next::Pump => true,
        };
        if !is_current {
            return;
        }
        match next {
            Next::Connect { .. } => self.connect(),
            Next::Subscribed { .. } => self.subscribed(),
            Next::SearchIsOver { .. } => self.with_mqtt(MqttState::end_search),
            Next::MovesAreOver { .. } => {
                self.with_mqtt(MqttState::end_migration);
                self.with_link(|link| link.is_moving = false);
            }
            Next::Online { .. } => self.with_mqtt(MqttState::show_online),
            Next::Announce { .. } => {
                self.with_mqtt(MqttState::announce_again);
                self.with_link(|link| link.announces = false);
                self.link(Duration::from_secs(2), Next::ShowAgain { life });
            }
            Next::ShowAgain { .. } => self.with_mqtt(MqttState::show_again),
            Next::Message { topic, payload, .. } => self.receive(&topic, &payload),
            Next::Will { .. } if self.broker.is_up => {
                self.broker.keep("hs100d/bridge/state", &Bytes::from_static(b"offline"));
            }
            Next::Will { .. } | Next::Pump => {}
        }
    }

    fn connect(&mut self) {
        if self.is_linked() {
            return;
        }
        let life = self.life;
        if !self.broker.is_up {
            let wait = self.dice.between(Duration::from_secs(1), Duration::from_secs(5));
            return self.link(wait, Next::Connect { life });
        }
        self.broker.connection += 1;
        let connection = self.broker.connection;
        let at = self.at;
        self.with_link(|link| {
            (link.is_up, link.hears, link.is_moving, link.since) = (true, false, false, at);
            link.mqtt.connected();
        });
        let answers_subscriptions = self.dice.chance(0.97);
        let wait = if answers_subscriptions { Duration::from_millis(5) } else { SUBSCRIBED_WITHIN };
        self.link(wait, Next::Subscribed { connection });
        let is_searching =
            self.daemon.as_ref().is_some_and(|daemon| !daemon.link.mqtt.search_filters().is_empty());
        if is_searching {
            self.link(SEARCH, Next::SearchIsOver { connection });
        }
    }

    /// Commands are received from now on, and retained messages arrive.
    fn subscribed(&mut self) {
        let now = self.now();
        let Some(daemon) = self.daemon.as_mut() else { return };
        daemon.link.hears = true;
        for (topic, payload) in &self.broker.retained {
            let message = Message { topic, payload, retained: true, response_topic: None, correlation: None };
            let _ = daemon.link.mqtt.handle_message(message, now);
        }
    }

    /// The connection breaks: the broker restarts, disconnects us, or one side is gone.
    pub(super) fn broker_loses_us(&mut self) {
        let (life, connection) = (self.life, self.broker.connection);
        self.link(WILL_DELAY, Next::Will { connection });
        self.with_link(|link| {
            link.is_up = false;
            link.mqtt.disconnected();
        });
        self.link(Duration::from_secs(1), Next::Connect { life });
    }

    pub(super) fn show(&mut self, update: Update) {
        let clock = Clock { instant: self.now(), system: self.wall_clock() };
        self.with_mqtt(|mqtt| mqtt.handle_update(update, clock));
    }

    /// Sends what the MQTT state has to send, as far as the broker receives it.
    pub(super) fn pump(&mut self) {
        let (at, connection) = (self.at, self.broker.connection);
        let Some(daemon) = self.daemon.as_mut() else { return };
        let link = &mut daemon.link;
        if !link.is_up || !link.hears || at < self.broker.stalled_until {
            return;
        }
        while let Some(outgoing) = link.mqtt.take() {
            self.tally.messages += 1;
            if self.story.wants_messages() {
                self.story.tell(at, None, format!("to the broker: {outgoing:?}"));
            }
            if let Outgoing::Retained(retained) = outgoing {
                self.broker.keep(&retained.topic, &retained.payload);
            }
        }
        if link.mqtt.is_migrating() && !link.is_moving {
            link.is_moving = true;
            self.link(MOVE, Next::MovesAreOver { connection });
        }
    }

    /// Checks the retained messages of the plugs that this turn concerned.
    pub(super) fn look_at_what_is_shown(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        if self.is_in_touch() {
            for &plug in &touched {
                self.compare_shown(plug);
            }
        }
        for &plug in &touched {
            self.judge.protocol_is_reported(plug);
        }
        self.touched = touched;
        self.touched.clear();
    }

    fn compare_shown(&mut self, plug: usize) {
        let Some(shown) = self.broker.shown.get(&plug) else { return };
        let is_strip = self.plugs[plug].is_strip();
        let whole = if is_strip { None } else { Some(0) };
        let pairs = [(shown.whole, self.judge.last_read(plug, whole))];
        let outlets = shown
            .outlets
            .iter()
            .map(|(&outlet, &state)| (Some(state), self.judge.last_read(plug, Some(outlet))));
        let differs = |pair: &(Option<RelayState>, Option<RelayState>)| matches!(pair, (Some(shown), Some(read)) if shown != read);
        if let Some((shown, read)) = pairs.into_iter().chain(outlets).find(differs) {
            let words = format!("the broker shows {shown:?}, and {read:?} was read last");
            self.judge.complain(Promise::ShowsWhatWasRead, Some(plug), words);
        }
    }

    /// A plug without power for long enough must be offline.
    pub(super) fn must_be_offline(&mut self, plug: usize) {
        let shown = self.broker.shown.get(&plug).and_then(|shown| shown.availability);
        if self.is_in_touch() && shown != Some(Availability::Offline) {
            let words = format!("it has been dark for long, and is shown as {shown:?}");
            self.judge.complain(Promise::SaysOffline, Some(plug), words);
        }
    }

    /// A plug without faults for long enough must be online, on its first route, and shown with the protocol that it
    /// speaks.
    pub(super) fn must_be_home(&mut self, plug: usize, on_lan: bool) {
        let shown = self.broker.shown.get(&plug).cloned().unwrap_or_default();
        let is_right = shown.availability == Some(Availability::Online)
            && (!on_lan || (shown.is_home && shown.protocol == Some(self.plugs[plug].protocol)))
            && self.broker.bridge_is_online;
        let truth = RelayState::from_bool(self.plugs[plug].relays.iter().any(|relay| relay.state.is_on()));
        if !is_right || shown.whole != Some(truth) {
            let protocol = klap::word(self.plugs[plug].protocol);
            let words =
                format!("all is well, it is {truth} and speaks {protocol}, and the broker shows {shown:?}");
            self.judge.complain(Promise::ComesHome, Some(plug), words);
        }
    }

    // --- people ---------------------------------------------------------------------------------------------------

    /// A person sends a command or presses a button.
    pub(super) fn use_hand(&mut self, hand: usize) {
        let pause = self.hand_pause();
        self.later(pause, super::Next::Hand(hand));
        if self.weather.is_resting {
            return;
        }
        let plug = self.dice.below(self.plugs.len());
        let relay = self.dice.below(self.plugs[plug].relays.len());
        if self.dice.chance(0.3) {
            return self.press(plug, relay);
        }
        // A scene switches several plugs at once; an impatient person switches one several times.
        let (count, same) =
            if self.dice.chance(0.2) { (1 + self.dice.below(6), self.dice.chance(0.5)) } else { (1, true) };
        for n in 0..count {
            let plug = if same { plug } else { (plug + n) % self.plugs.len() };
            self.send_command(plug);
        }
    }

    pub(super) fn press(&mut self, plug: usize, relay: usize) {
        if self.plugs[plug].condition == super::plugs::Condition::Dark {
            return;
        }
        let (at, state) = (self.at, !self.plugs[plug].relays[relay].state);
        self.plugs[plug].turn(relay, state, at);
        self.judge.hand(plug, relay, state);
        self.tally.hands += 1;
        self.tell(Some(plug), format!("a person switches relay {relay} {state} by hand"));
    }

    pub(super) fn send_command(&mut self, plug: usize) {
        let it = &self.plugs[plug];
        let outlet =
            it.is_strip().then(|| self.dice.below(it.relays.len() + 1)).filter(|&n| n < it.relays.len());
        let name = outlet.map_or(&it.name, |outlet| &it.outlet_names[outlet]);
        let (leaf, payload) = match self.dice.below(40) {
            0..=13 => ("set", "ON".to_owned()),
            14..=27 => ("set", "off".to_owned()),
            28..=32 => ("set", "TOGGLE".to_owned()),
            33 => ("set", r#"{"state":"ON","transaction":7}"#.to_owned()),
            34 => ("set", r#"{"state":"OFF","led":"ON"}"#.to_owned()),
            35 => ("set/led", "OFF".to_owned()),
            36 => ("get", String::new()),
            37 => ("set", String::new()),
            38 => ("set", "perhaps".to_owned()),
            _ => ("set", "x".repeat(5000)),
        };
        let topic = format!("{BASE}/{name}/{leaf}");
        let connection = self.broker.connection;
        if !self.broker.is_up || !self.is_linked() {
            return;
        }
        let wait = self.dice.between(Duration::from_micros(200), Duration::from_millis(20));
        if self.dice.chance(0.02) {
            let message = Next::Message { connection, topic: topic.clone(), payload: payload.clone().into() };
            self.link(wait, message);
        }
        self.link(wait, Next::Message { connection, topic, payload: payload.into() });
    }

    /// The daemon receives a message.
    fn receive(&mut self, topic: &str, payload: &[u8]) {
        let now = self.now();
        let message = Message { topic, payload, retained: false, response_topic: None, correlation: None };
        let Some(daemon) = self.daemon.as_mut() else { return };
        match daemon.link.mqtt.handle_message(message, now) {
            Effect::Inbound(Inbound::Event(event)) => {
                if let Event::Command { id, plug, order } = &event {
                    let name = plug;
                    let Some((plug, outlet)) = self.whose(name) else { return };
                    let wants = self.wants(plug, outlet, order);
                    let has_led = matches!(order, PlugCommand::Set(set) if set.led.is_some());
                    self.tally.commands += 1;
                    let patience = self.policies[plug].command_ttl;
                    let number = self.judge.command(*id, plug, wants, usize::from(has_led), patience);
                    self.tell(Some(plug), format!("command {number} to {name}: {order:?}"));
                    self.touched.push(plug);
                }
                self.hear(event);
            }
            Effect::Birth => self.plan_announcement(),
            Effect::Inbound(_) | Effect::Echo | Effect::None => {}
        }
    }

    fn wants(&self, plug: usize, outlet: Option<usize>, order: &PlugCommand) -> Vec<(usize, super::Wanted)> {
        let PlugCommand::Set(set) = order else { return vec![] };
        let state = match set.relay {
            None => return vec![],
            Some(Switch::To(state)) => Some(state),
            Some(Switch::Toggle) => None,
        };
        match outlet {
            Some(outlet) => vec![(outlet, state)],
            None => (0..self.plugs[plug].relays.len()).map(|relay| (relay, state)).collect(),
        }
    }

    /// Home Assistant has started.
    pub(super) fn home_assistant_is_born(&mut self) {
        let connection = self.broker.connection;
        let (topic, payload) = (STATUS.to_owned(), b"online".to_vec());
        self.link(Duration::from_millis(5), Next::Message { connection, topic, payload });
    }

    fn plan_announcement(&mut self) {
        let life = self.life;
        let wait = self.dice.between(Duration::from_secs(1), Duration::from_secs(7));
        let is_planned = self.daemon.as_ref().is_some_and(|daemon| daemon.link.announces);
        if !is_planned {
            self.with_link(|link| link.announces = true);
            self.link(wait, Next::Announce { life });
        }
    }

    // --- small parts ----------------------------------------------------------------------------------------------

    pub(super) fn is_linked(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| daemon.link.is_up)
    }

    /// Whether a message of ours reaches the broker at once.
    fn is_in_touch(&self) -> bool {
        let hears = self.daemon.as_ref().is_some_and(|daemon| daemon.link.is_up && daemon.link.hears);
        hears && self.at >= self.broker.stalled_until && self.at >= self.frozen_until
    }

    fn with_link(&mut self, act: impl FnOnce(&mut Link)) {
        if let Some(daemon) = self.daemon.as_mut() {
            act(&mut daemon.link);
        }
    }

    fn with_mqtt(&mut self, act: impl FnOnce(&mut MqttState)) {
        self.with_link(|link| act(&mut link.mqtt));
    }

    pub(super) fn link(&mut self, wait: Duration, next: Next) {
        self.later(wait, super::Next::Broker(next));
    }

    fn hand_pause(&mut self) -> Duration {
        let mean = weather::hand_every(self.plan.season);
        self.dice.wait(mean)
    }
}
