//! The daemon in its steady state, without sockets and without waiting: bridge, codec and MQTT state on a simulated
//! clock, and plugs that reply at once. For measuring the cost of a poll or a command.

#![allow(dead_code, unreachable_pub, reason = "each program uses its own part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot go on says so by a panic")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use hs100d::bridge::event::{Action, Event, Exchange, IdAllocator, Identity, Outcome};
use hs100d::bridge::route::{RoutePolicy, RoutePreference};
use hs100d::bridge::{Bridge, PlugSettings, Settings};
use hs100d::model::{Address, DeviceId, PlugName};
use hs100d::mqtt::homeassistant::{self, DocumentForm};
use hs100d::mqtt::message::{Effect, Message, Outgoing};
use hs100d::mqtt::state::MqttState;
use hs100d::mqtt::{Inbound, MqttSettings};
use hs100d::payload::Clock;
use hs100d::smarthome::cipher;
use hs100d::smarthome::frame::{self, Frame, HEADER_LEN};
use hs100d::smarthome::message::{OutletIds, Reply, Request};

/// By then the first round and the slow polls after it are over.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
const MOST_STEPS: usize = 1_000_000;

/// Bridge, MQTT state and plugs.
pub struct Steady {
    pub bridge: Bridge,
    pub mqtt: MqttState,
    now: Instant,
    clock: Clock,
    plugs: Vec<Plug>,
    wire: Vec<u8>,
    next: usize,
    pub polls: u64,
    /// The number of messages that the MQTT state had to send.
    pub sent: u64,
}

struct Plug {
    topic: String,
    on: bool,
    /// The reply to `get_sysinfo`, off and on.
    frames: [Vec<u8>; 2],
    /// The reply to a request that switches and reads, off and on.
    both: [Vec<u8>; 2],
}

/// An HS100 with hardware 1.0, written by hand.
pub fn sysinfo(number: usize, relay: u8) -> String {
    format!(
        r#"{{"system":{{"get_sysinfo":{{"err_code":0,"sw_ver":"1.2.5 Build 171129 Rel.174814","hw_ver":"1.0","type":"IOT.SMARTPLUGSWITCH","model":"HS100(EU)","mac":"50:C7:BF:00:{:02X}:{:02X}","deviceId":"8006{number:036X}","hwId":"22603EA5E716DEAEA6642A30BE87AFCB","fwId":"00000000000000000000000000000000","oemId":"812A90EB2FCF306A993FAD8748024B07","alias":"Plug {number}","dev_name":"Wi-Fi Smart Plug","icon_hash":"","relay_state":{relay},"on_time":0,"active_mode":"schedule","feature":"TIM","updating":0,"rssi":-52,"led_off":0,"latitude":0.5,"longitude":0.5}}}}}}"#,
        number >> 8 & 255,
        number & 255,
    )
}

pub fn framed(json: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::build(&mut bytes, |payload| payload.extend_from_slice(json.as_bytes()));
    bytes
}

impl Steady {
    /// This many plugs, all read and published.
    pub fn of(count: usize) -> Self {
        let begun = Instant::now();
        let clock = Clock { instant: begun, system: SystemTime::UNIX_EPOCH };
        let policy = RoutePolicy { preference: RoutePreference::Local, ..RoutePolicy::default() };
        let plugs = (0..count).map(|number| PlugSettings {
            name: Some(PlugName::new(&format!("plug-{number}")).unwrap()),
            identity: Identity { device_id: DeviceId::new(&format!("8006{number:036X}")), mac: None },
            address: Some(Address::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 9999)))),
            policy,
        });
        let settings = Settings { plugs: plugs.collect(), policy, ..Settings::default() };
        let mut mqtt = MqttState::new(&options(), IdAllocator::default(), clock);
        mqtt.connected();
        mqtt.end_search();
        let plug = |number| Plug {
            topic: format!("hs100d/plug-{number}/set"),
            on: false,
            frames: [0, 1].map(|relay| framed(&sysinfo(number, relay))),
            both: [0, 1].map(|relay| {
                let done = r#"{"system":{"set_relay_state":{"err_code":0},"#;
                framed(&sysinfo(number, relay).replacen(r#"{"system":{"#, done, 1))
            }),
        };
        let mut steady = Self {
            bridge: Bridge::new(settings, begun),
            mqtt,
            now: begun,
            clock,
            plugs: (0..count).map(plug).collect(),
            wire: Vec::with_capacity(2048),
            next: 0,
            polls: 0,
            sent: 0,
        };
        steady.until(|steady| steady.now >= begun + SETTLED_AFTER);
        steady
    }

    /// Runs until one more plug has been read, together with those that share its wake-up.
    pub fn poll(&mut self) {
        let wanted = self.polls + 1;
        self.until(|steady| steady.polls >= wanted);
    }

    /// Sends a command to the next plug and runs until its result is handed over.
    pub fn command(&mut self) {
        let number = self.next % self.plugs.len();
        self.next += 1;
        let payload: &[u8] = if self.plugs[number].on { b"OFF" } else { b"ON" };
        let message = Message {
            topic: &self.plugs[number].topic,
            payload,
            retained: false,
            response_topic: None,
            correlation: None,
        };
        let Effect::Inbound(Inbound::Event(event)) = self.mqtt.handle_message(message, self.now) else {
            panic!("no command");
        };
        self.bridge.handle(event, self.now);
        let result = self.carry_out();
        assert!(result, "the command was not done");
    }

    fn until(&mut self, is_over: impl Fn(&Self) -> bool) {
        for _ in 0..MOST_STEPS {
            if is_over(self) {
                return;
            }
            self.now = self.bridge.poll_timeout().unwrap().max(self.now);
            self.bridge.handle_timeout(self.now);
            self.carry_out();
        }
        panic!("it does not come about");
    }

    /// Carries out the bridge's actions. Returns whether a transient message was sent.
    fn carry_out(&mut self) -> bool {
        let mut has_written = false;
        loop {
            while let Some(action) = self.bridge.poll_action() {
                match action {
                    Action::Perform(exchange) => {
                        let result = Ok(self.answer(&exchange));
                        let done = Event::Done { exchange: exchange.id, outcome: Outcome::of(result) };
                        self.bridge.handle(done, self.now);
                    }
                    Action::Publish(update) => self.mqtt.handle_update(update, self.clock),
                    _ => {}
                }
            }
            let Some(outgoing) = self.mqtt.take() else { return has_written };
            self.sent += 1;
            has_written |= matches!(outgoing, Outgoing::Transient(_));
        }
    }

    /// As the LAN transport does: the request becomes a frame, the frame of the reply becomes a reply.
    fn answer(&mut self, exchange: &Exchange) -> Reply {
        let request = &exchange.request;
        frame::build(&mut self.wire, |out| request.write_json(OutletIds::None, out));
        self.wire.clear();
        let plug = &mut self.plugs[exchange.plug.0 as usize];
        match request {
            Request::SysInfo => {
                self.polls += 1;
                self.wire.extend_from_slice(&plug.frames[usize::from(plug.on)]);
            }
            Request::SetRelayAndRead(state) => {
                plug.on = state.is_on();
                self.wire.extend_from_slice(&plug.both[usize::from(plug.on)]);
            }
            Request::SetRelay(state) => {
                plug.on = state.is_on();
                frame::build(&mut self.wire, |out| {
                    out.extend_from_slice(br#"{"system":{"set_relay_state":{"err_code":0}}}"#);
                });
            }
            other => {
                let (module, method) = other.method();
                let json = format!(r#"{{"{module}":{{"{method}":{{"rule_list":[],"err_code":0}}}}}}"#);
                frame::build(&mut self.wire, |out| out.extend_from_slice(json.as_bytes()));
            }
        }
        let Frame::Whole { end } = frame::parse(&self.wire) else { panic!("half a frame") };
        cipher::decrypt(&mut self.wire[HEADER_LEN..end]);
        request.read_reply(&self.wire[HEADER_LEN..end], exchange.known_info.as_ref()).unwrap()
    }
}

fn options() -> MqttSettings {
    MqttSettings {
        host: "127.0.0.1".to_owned(),
        port: 1883,
        others: Vec::new(),
        return_after: MqttSettings::RETURN_AFTER,
        will_delay: MqttSettings::WILL_DELAY,
        tls: None,
        username: None,
        password: None,
        client_id: "hs100d-steady".to_owned(),
        base_topic: "hs100d".to_owned(),
        instance: "steady".to_owned(),
        drawn_instance: "steady".to_owned(),
        homeassistant: homeassistant::HomeAssistantOptions {
            discovery: DocumentForm::Device,
            discovery_prefix: "homeassistant".to_owned(),
            status_topic: "homeassistant/status".to_owned(),
        },
    }
}

/// The entries of so many plugs in a config.
pub fn plug_entries(plugs: u32) -> String {
    let entry = |n: u32| {
        format!(
            "[[plug]]\nname = \"plug-{n}\"\nmac = \"50C7BF{n:06X}\"\nhost = \"10.0.{}.{}\"\n",
            n / 250,
            n % 250
        )
    };
    (0..plugs).map(entry).collect()
}
