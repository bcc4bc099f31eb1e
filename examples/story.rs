//! The bridge alone on a simulated clock: an hour in the life of a plug, in a millisecond and the same each time. No
//! socket is opened and nothing waits, because the decisions need neither.
//!
//! ```text
//! cargo run --example story
//! ```
//!
//! `tests/stories/routing.rs` tests the routing in this way, with every kind of failure.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hs100d::bridge::event::{
    Action, CloudStatus, CommandId, Event, Exchange, ExchangeId, Identity, Origin, Outcome, Update,
};
use hs100d::bridge::{Bridge, PlugSettings, Settings};
use hs100d::model::{
    Address, DeviceId, Failure, PlugCommand, PlugName, RelayState, Route, SetCommand, Switch,
};
use hs100d::smarthome::message::{DeviceInfo, Reading, Reply, Request};

/// The time of a request and its reply on the simulated LAN and over the simulated cloud.
const LAN_TRIP: Duration = Duration::from_millis(4);
const CLOUD_TRIP: Duration = Duration::from_millis(150);

fn main() {
    for line in tell() {
        println!("{line}");
    }
}

/// The story, line by line.
pub(crate) fn tell() -> Vec<String> {
    let mut story = Story::begin();
    story.scene("a command over the LAN");
    story.command(RelayState::On);
    story.pass(Duration::from_secs(60));

    story.scene("the LAN falls silent in the moment of a command: the cloud is asked as well");
    story.lan_works = false;
    story.command(RelayState::Off);
    story.pass(Duration::from_secs(60));

    story.scene("the LAN is known to be down: the cloud first");
    story.command(RelayState::On);
    story.pass(Duration::from_secs(3480));

    story.scene("the LAN is back: a probe finds out, and it is used again");
    story.lan_works = true;
    story.pass(Duration::from_secs(90));
    story.command(RelayState::Off);
    story.pass(Duration::from_secs(5));
    story.lines
}

/// The bridge, one simulated plug, and the time.
struct Story {
    bridge: Bridge,
    name: PlugName,
    device_id: Option<DeviceId>,
    relay: RelayState,
    lan_works: bool,
    begun: Instant,
    now: Instant,
    /// Outcomes in flight, with the time of their arrival.
    on_the_way: Vec<(Instant, ExchangeId, Outcome)>,
    commands: u64,
    lines: Vec<String>,
}

impl Story {
    fn begin() -> Self {
        let begun = Instant::now();
        let (name, device_id) = (PlugName::placeholder(), DeviceId::new("80060001"));
        let plug = PlugSettings {
            name: Some(name.clone()),
            identity: Identity { device_id: device_id.clone(), mac: None },
            address: Address::new("192.0.2.1", 9999),
            policy: hs100d::bridge::route::RoutePolicy::default(),
        };
        let bridge = Bridge::new(Settings { plugs: vec![plug], cloud: true, ..Settings::default() }, begun);
        let (now, on_the_way, lines) = (begun, Vec::new(), Vec::new());
        let (relay, lan_works, commands) = (RelayState::Off, true, 0);
        let mut story =
            Self { bridge, name, device_id, relay, lan_works, begun, now, on_the_way, commands, lines };
        story.take_in(Event::Cloud(CloudStatus::Ok));
        story.pass(Duration::from_secs(5));
        story
    }

    fn scene(&mut self, words: &str) {
        self.lines.push(format!("* {words}"));
    }

    fn line(&mut self, words: impl Display) {
        let at = (self.now - self.begun).as_secs_f64();
        self.lines.push(format!("{at:>9.3} s  {words}"));
    }

    fn command(&mut self, wanted: RelayState) {
        self.line(format_args!("someone wants {wanted}"));
        self.commands += 1;
        let order = PlugCommand::Set(SetCommand { relay: Some(Switch::To(wanted)), ..SetCommand::default() });
        self.take_in(Event::Command {
            id: CommandId::new(Origin::CommandLine, self.commands),
            plug: self.name.clone(),
            order,
        });
    }

    /// Advances from event to event until the time has passed.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let answer = self.on_the_way.iter().map(|&(at, ..)| at).min();
            let next = answer.into_iter().chain(self.bridge.poll_timeout()).min();
            let Some(next) = next.filter(|&next| next <= end) else { break };
            self.now = self.now.max(next);
            match self.on_the_way.iter().position(|&(at, ..)| at <= self.now) {
                Some(place) => {
                    let (_, exchange, outcome) = self.on_the_way.remove(place);
                    self.take_in(Event::Done { exchange, outcome });
                }
                None => {
                    self.bridge.handle_timeout(self.now);
                    self.carry_out();
                }
            }
        }
        self.now = end;
    }

    fn take_in(&mut self, event: Event) {
        self.bridge.handle(event, self.now);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.bridge.poll_action() {
            match action {
                Action::Perform(exchange) => self.perform(&exchange),
                Action::Abandon(id) => self.on_the_way.retain(|&(_, exchange, _)| exchange != id),
                Action::Publish(update) => self.publish(update),
                _ => {}
            }
        }
    }

    /// The outcome of a request, by the LAN, the cloud and the plug. A silent LAN never replies.
    fn perform(&mut self, exchange: &Exchange) {
        let route = exchange.route();
        if exchange.urgent {
            self.line(format_args!("  {:?} over the {route} route", exchange.request));
        }
        let (at, outcome) = match route {
            Route::Local if !self.lan_works => (exchange.deadline, Outcome::of(Err(Failure::Silent))),
            Route::Local => (self.now + LAN_TRIP, Outcome::of(Ok(self.plug_answers(&exchange.request)))),
            Route::Cloud => (self.now + CLOUD_TRIP, Outcome::of(Ok(self.plug_answers(&exchange.request)))),
        };
        self.on_the_way.push((at, exchange.id, outcome));
    }

    fn plug_answers(&mut self, request: &Request) -> Reply {
        match request {
            Request::SetRelay(state) => self.relay = *state,
            Request::SetRelayAndRead(state) => {
                self.relay = *state;
                return Reply::Switched(Some(self.reading()));
            }
            Request::SysInfo => return Reply::SysInfo(self.reading()),
            _ => {}
        }
        Reply::Done
    }

    fn reading(&self) -> Reading {
        let device = DeviceInfo {
            device_id: self.device_id.clone(),
            mac: None,
            alias: "Kettle".into(),
            model: "HS100(EU)".into(),
            hw_version: "".into(),
            sw_version: "".into(),
            kind: "IOT.SMARTPLUGSWITCH".into(),
            feature: "TIM".into(),
            dev_name: "".into(),
            dims: false,
            outlets: Box::default(),
        };
        Reading {
            device: Arc::new(device),
            relay: Some(self.relay),
            led: None,
            on_time: None,
            rssi: None,
            brightness: None,
            outlets: Box::default(),
            unread: Box::default(),
        }
    }

    fn publish(&mut self, update: Update) {
        match update {
            Update::Result(result) => {
                let route = result.route.map_or("no".to_owned(), |route| route.to_string());
                self.line(format_args!("{:?} after {:?}, over the {route} route", result.ended, result.took));
            }
            Update::Notice(happening) => {
                self.line(format_args!("{}: {}", happening.kind.word(), happening.detail));
            }
            _ => {}
        }
    }
}
