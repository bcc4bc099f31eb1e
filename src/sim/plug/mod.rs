//! One device as a value: requests in, replies out, and a memory of who switched it when.
//!
//! No socket, no task, no clock: `now` is an argument. What travels over TCP, UDP and through the cloud is the
//! same JSON, so one [`SimPlug::handle`] serves all three. Faults are fields; the LAN and the cloud obey them.
//!
//! Here stand the device as a whole and the way of a request to it; what each method does is in `methods`. An
//! [`outlet`] has a relay, a [`meter`] and [`rules`]; the device has a [`clock`] and may have a [`dimmer`]. How
//! requests and answers are worded is in `words`, whom of a strip they are about in `context`, what the device tells
//! of itself in `sysinfo`.

pub mod clock;
mod context;
pub mod dimmer;
pub mod meter;
mod methods;
pub mod outlet;
mod record;
pub mod rules;
mod sysinfo;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use self::clock::PlugClock;
use self::context::RequestContext;
use self::dimmer::Dimmer;
use self::methods::Asker;
use self::outlet::SimOutlet;
use self::record::Switchings;
use self::words::{INVALID_ARGUMENT, MEMBER_NOT_SUPPORT, MODULE_NOT_SUPPORT, Written, error, reply};
use crate::sim::fault::{CloudLink, Dialect, LanFault, SwitchAndRead};
use crate::sim::model::{Ids, Model};

pub use self::record::{SwitchedBy, Switching, Traffic};

/// How long a restart of the firmware takes unless the plug says otherwise. Real plugs need a few seconds.
const BOOT_TIME: Duration = Duration::from_millis(300);

/// A device of any model. Everything that a test may want to change is a public field.
#[derive(Clone)]
pub struct SimPlug {
    /// What it is.
    pub model: Model,
    /// 40 hexadecimal digits.
    pub device_id: String,
    /// With colons.
    pub mac: String,
    /// The user's name for it.
    pub alias: String,
    /// Wi-Fi signal, dBm.
    pub rssi: i32,
    /// Its outlets: one, or those of a strip.
    pub outlets: Vec<SimOutlet>,
    /// How a strip calls its outlets on the LAN.
    pub ids: Ids,
    /// Used where the model dims.
    pub dimmer: Dimmer,
    /// Its own clock.
    pub clock: PlugClock,
    /// Answers `{"system":{}}` to `"get_sysinfo": null`, as a KP303 with firmware 1.0.6 does.
    pub ignores_null: bool,
    /// Refuses to switch its relay with this `err_code`, over each route; reads still work.
    pub refuses_to_switch: Option<i64>,
    /// How it takes being switched and read in one request.
    pub switch_and_read: SwitchAndRead,
    /// Whether it has power. Without, the LAN refuses and the cloud says that it is offline; meters and count-downs
    /// forget.
    pub powered: bool,
    /// How long a restart keeps it away.
    pub boot_time: Duration,
    /// What is wrong with it on the LAN.
    pub lan: LanFault,
    /// Which languages it speaks on the LAN.
    pub dialect: Dialect,
    /// Whether it hears broadcasts. Some networks swallow them.
    pub hears_broadcasts: bool,
    /// How the cloud reaches it.
    pub cloud: CloudLink,
    /// Whether the account owns it. If not, it is not listed and the cloud answers -20580.
    pub bound: bool,
    /// Which of the cloud's hosts serves it; 0 is the global entry.
    pub region: usize,
    /// What the device list gives as its `appServerUrl` instead of the right one.
    pub app_server_url: Option<String>,
    /// How much was asked of it.
    pub traffic: Traffic,
    led_on: bool,
    restart: Option<Restart>,
    switchings: Switchings,
}

impl SimPlug {
    /// A device that is off, with its light on, as it comes out of the box and into an account.
    ///
    /// `number` tells it from the others of a house: it makes the device id and the MAC address.
    pub fn new(model: Model, number: u32, alias: &str, now: Instant) -> Self {
        let [_, a, b, c] = number.to_be_bytes();
        Self {
            model,
            device_id: format!("8006{number:036X}"),
            mac: format!("50:C7:BF:{a:02X}:{b:02X}:{c:02X}"),
            alias: alias.to_owned(),
            rssi: -47,
            outlets: outlets_of(model, alias),
            ids: model.ids,
            dimmer: Dimmer { brightness: 50 },
            clock: PlugClock::new(now),
            ignores_null: false,
            refuses_to_switch: None,
            switch_and_read: SwitchAndRead::Both,
            powered: true,
            boot_time: BOOT_TIME,
            lan: LanFault::Works,
            dialect: Dialect::Xor,
            hears_broadcasts: true,
            cloud: CloudLink::Works,
            bound: true,
            region: 1,
            app_server_url: None,
            traffic: Traffic::default(),
            led_on: true,
            restart: None,
            switchings: Switchings::default(),
        }
    }

    /// Answers one request, or not at all: to what is no JSON object, and while it has no power or restarts.
    ///
    /// Methods run in the order in which they are written.
    pub fn handle(&mut self, request: &[u8], by: SwitchedBy, now: Instant) -> Option<Vec<u8>> {
        self.pass_time(now);
        self.traffic.count_request(by);
        if !self.is_up(now) {
            return None;
        }
        let modules: Written<Box<RawValue>> = serde_json::from_slice(request).ok()?;
        let habit =
            if is_switch_and_read(&modules) { self.note_switch_and_read() } else { SwitchAndRead::Both };
        if let SwitchAndRead::Refused(code) = habit {
            return refusal(request, code);
        }
        let before = (habit == SwitchAndRead::OldState).then(|| self.is_on());
        let context = self.context_of(&modules, by);
        let mut reply = Map::new();
        for (module, methods) in modules.0 {
            if module != CONTEXT {
                let answer =
                    self.answer_module(&module, methods.get(), &Asker { context: &context, by, now });
                reply.insert(module, answer);
            }
        }
        let system = reply.get_mut("system").and_then(Value::as_object_mut);
        match (habit, system) {
            (SwitchAndRead::NoAnswer, _) => return None,
            (SwitchAndRead::SwitchOnly, Some(system)) => drop(system.remove("get_sysinfo")),
            (SwitchAndRead::OldState, Some(system)) => {
                system["get_sysinfo"]["relay_state"] = before.map(u8::from).into();
            }
            _ => {}
        }
        let mut json = serde_json::to_vec(&reply).ok()?;
        if habit == SwitchAndRead::Garbled {
            json.truncate(json.len() / 2);
        }
        Some(json)
    }

    fn note_switch_and_read(&mut self) -> SwitchAndRead {
        self.traffic.switch_and_reads += 1;
        self.switch_and_read
    }

    /// Answers each method of the request with this error and carries nothing out.
    pub fn refuse(&mut self, request: &[u8], code: i64, by: SwitchedBy) -> Option<Vec<u8>> {
        self.traffic.count_request(by);
        refusal(request, code)
    }

    /// Lets happen by itself what is due by now: count-downs end, and what has no power forgets.
    pub fn pass_time(&mut self, now: Instant) {
        if !self.powered {
            return self.outlets.iter_mut().for_each(SimOutlet::lose_power);
        }
        while let Some((at, outlet, on)) = self.next_ring().filter(|&(at, ..)| at <= now) {
            self.outlets[outlet].rules.ring();
            self.switch(outlet, on, SwitchedBy::CountDown, at);
        }
    }

    /// Presses the button, which toggles the relay. Without power nothing happens. A strip has one at each outlet,
    /// see [`SimPlug::press_button_of`]; this is the first.
    pub fn press_button(&mut self, now: Instant) {
        self.press_button_of(0, now);
    }

    /// Presses the button of one outlet, counted from 0.
    ///
    /// # Panics
    /// When there is no such outlet.
    pub fn press_button_of(&mut self, outlet: usize, now: Instant) {
        if self.powered {
            self.switch(outlet, !self.outlets[outlet].is_on(), SwitchedBy::Button, now);
        }
    }

    /// Whether the relay is on; of a strip, any of them.
    pub fn is_on(&self) -> bool {
        self.outlets.iter().any(SimOutlet::is_on)
    }

    /// Whether the little light is on.
    pub fn is_led_on(&self) -> bool {
        self.led_on
    }

    /// Whether it has outlets that can be named.
    pub fn is_strip(&self) -> bool {
        self.model.outlets > 0
    }

    /// What an outlet is called towards this asker.
    pub fn outlet_id(&self, outlet: usize, by: SwitchedBy) -> String {
        let long = match self.ids {
            _ if by == SwitchedBy::Cloud => true,
            Ids::Short => false,
            Ids::Long => true,
            Ids::LongOverTcp => by == SwitchedBy::Lan,
        };
        if long { format!("{}{outlet:02}", self.device_id) } else { format!("{outlet:02}") }
    }

    /// The last orders to relays that were carried out, oldest first; [`Traffic::relay_orders`] counts them all.
    pub fn switchings(&self) -> impl Iterator<Item = &Switching> {
        self.switchings.iter()
    }

    /// Whether it has power and is not restarting.
    pub fn is_up(&self, now: Instant) -> bool {
        self.powered && !self.restart.is_some_and(|restart| restart.from <= now && now < restart.until)
    }

    /// Whether the cloud sees it connected.
    pub fn is_cloud_connected(&self, now: Instant) -> bool {
        self.is_up(now) && self.bound && self.cloud != CloudLink::Offline
    }

    /// When something will happen by itself: [`SimPlug::is_up`] changes, or a count-down ends.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let restart = self.restart.into_iter().flat_map(|restart| [restart.from, restart.until]);
        let ring = self.next_ring().filter(|_| self.powered).map(|(at, ..)| at);
        restart.filter(|&at| at > now).chain(ring).min()
    }

    /// What its listening socket should be.
    pub fn door(&self, now: Instant) -> PortBehaviour {
        match self.lan {
            _ if !self.is_up(now) || !self.dialect.speaks_xor() => PortBehaviour::Shut,
            LanFault::Refused | LanFault::PortDead => PortBehaviour::Shut,
            LanFault::NotAccepting | LanFault::PortFiltered => PortBehaviour::Jammed,
            _ => PortBehaviour::Open,
        }
    }

    /// Whom a request is about. Devices without outlets to be named pass a context over.
    fn context_of(&self, modules: &Written<Box<RawValue>>, by: SwitchedBy) -> RequestContext {
        let written = modules.0.iter().find(|(module, _)| module == CONTEXT);
        match written.and_then(|(_, context)| serde_json::from_str(context.get()).ok()) {
            Some(context) if self.is_strip() => {
                let ids: BTreeMap<_, _> =
                    (0..self.outlets.len()).map(|outlet| (self.outlet_id(outlet, by), outlet)).collect();
                RequestContext::read(&context, &ids)
            }
            _ => RequestContext::Whole,
        }
    }

    fn answer_module(&mut self, module: &str, methods: &str, asker: &Asker<'_>) -> Value {
        if !self.has_module(module) {
            self.traffic.not_supported += 1;
            return error(MODULE_NOT_SUPPORT);
        }
        let Ok(methods) = serde_json::from_str::<Written<Value>>(methods) else {
            return error(INVALID_ARGUMENT);
        };
        let mut answers = Map::new();
        for (method, argument) in methods.0 {
            if method == "get_sysinfo" && argument.is_null() && self.ignores_null {
                continue;
            }
            let answer = self.run((module, &method), &argument, asker);
            self.traffic.not_supported += u64::from(answer == Err(MEMBER_NOT_SUPPORT));
            answers.insert(method, reply(answer));
        }
        answers.into()
    }

    fn switch(&mut self, outlet: usize, on: bool, by: SwitchedBy, at: Instant) {
        let changed = self.outlets[outlet].switch(on, at);
        self.switchings.push(Switching { at, outlet, on, by, changed });
        self.traffic.relay_orders += 1;
    }

    fn restart_after(&mut self, delay_seconds: u64, now: Instant) {
        // A delay beyond what an `Instant` can say never comes.
        let from = now.checked_add(Duration::from_secs(delay_seconds));
        self.restart = from.map(|from| Restart { from, until: from + self.boot_time });
        self.traffic.restarts += 1;
    }

    /// The count-down that ends first: when, of which outlet, in which state.
    fn next_ring(&self) -> Option<(Instant, usize, bool)> {
        let outlets = self.outlets.iter().enumerate();
        outlets.filter_map(|(number, outlet)| outlet.rules.due().map(|(at, on)| (at, number, on))).min()
    }
}

/// What stands beside the modules of a request and is none.
const CONTEXT: &str = "context";

fn refusal(request: &[u8], code: i64) -> Option<Vec<u8>> {
    let modules: Written<Written<Value>> = serde_json::from_slice(request).ok()?;
    let mut reply = Map::new();
    for (module, methods) in modules.0.into_iter().filter(|(module, _)| module != CONTEXT) {
        let errors: Map<_, _> = methods.0.into_iter().map(|(name, _)| (name, error(code))).collect();
        reply.insert(module, errors.into());
    }
    serde_json::to_vec(&reply).ok()
}

/// Whether a request is to switch the relay and to tell how it is.
fn is_switch_and_read(modules: &Written<Box<RawValue>>) -> bool {
    let system = modules.0.iter().find(|(module, _)| module == "system");
    let methods = system.and_then(|(_, methods)| serde_json::from_str::<Map<_, _>>(methods.get()).ok());
    methods
        .is_some_and(|methods| ["set_relay_state", "get_sysinfo"].iter().all(|it| methods.contains_key(*it)))
}

fn outlets_of(model: Model, alias: &str) -> Vec<SimOutlet> {
    match model.outlets {
        0 => vec![SimOutlet::new(String::new())],
        count => (1..=count).map(|number| SimOutlet::new(format!("{alias} {number}"))).collect(),
    }
}

/// Shortened: a device id belongs in no log, not even a pretend one.
impl fmt::Debug for SimPlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPlug")
            .field("alias", &self.alias)
            .field("on", &self.is_on())
            .field("lan", &self.lan)
            .field("cloud", &self.cloud)
            .finish_non_exhaustive()
    }
}

/// What a plug's listening socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortBehaviour {
    /// It takes connections.
    Open,
    /// It is closed: connections are refused.
    Shut,
    /// Its backlog is full: connections hang.
    Jammed,
}

/// A restart of the firmware, during which nothing is heard of the plug.
#[derive(Debug, Clone, Copy)]
struct Restart {
    from: Instant,
    until: Instant,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn plug(model: Model) -> (SimPlug, Instant) {
        let now = Instant::now();
        (SimPlug::new(model, 7, "Küche ☕", now), now)
    }

    pub(super) fn ask(plug: &mut SimPlug, request: &str, now: Instant) -> Value {
        serde_json::from_slice(&plug.handle(request.as_bytes(), SwitchedBy::Lan, now).unwrap()).unwrap()
    }

    #[test]
    fn what_is_no_json_object_is_not_answered() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        for request in ["", "null", "[]", "{", r#"{"system":{"get_sysinfo":{}}"#, "\u{fffd}"] {
            assert_eq!(plug.handle(request.as_bytes(), SwitchedBy::Lan, now), None, "{request}");
        }
    }

    #[test]
    fn sysinfo_has_the_fields_of_its_hardware_and_only_those() {
        let table = [
            (
                Model::HS100_HW1,
                vec!["type", "fwId", "latitude"],
                vec!["mic_type", "next_action", "latitude_i"],
            ),
            (
                Model::HS100_HW2,
                vec!["type", "fwId", "latitude_i", "next_action"],
                vec!["mic_type", "latitude"],
            ),
            (Model::HS100_HW4, vec!["mic_type", "status", "ntc_state"], vec!["type", "fwId", "latitude"]),
        ];
        for (model, present, absent) in table {
            let (mut plug, now) = plug(model);
            let reply = ask(&mut plug, r#"{"system":{"get_sysinfo":{}}}"#, now);
            let sysinfo = &reply["system"]["get_sysinfo"];
            assert_eq!(sysinfo["alias"], "Küche ☕");
            assert_eq!(sysinfo["deviceId"], "8006000000000000000000000000000000000007");
            assert_eq!(sysinfo["mac"], "50:C7:BF:00:00:07");
            assert_eq!((&sysinfo["relay_state"], &sysinfo["led_off"]), (&json!(0), &json!(0)));
            for field in present {
                assert!(!sysinfo[field].is_null(), "{} has {field}", model.name);
            }
            for field in absent {
                assert!(sysinfo[field].is_null(), "{} has no {field}", model.name);
            }
        }
    }

    #[test]
    fn methods_run_in_the_order_in_which_they_are_written() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        let request = r#"{"system":{"set_relay_state":{"state":1},"get_sysinfo":{}}}"#;
        assert_eq!(ask(&mut plug, request, now)["system"]["get_sysinfo"]["relay_state"], 1);
        let request = r#"{"system":{"get_sysinfo":{},"set_relay_state":{"state":0}}}"#;
        assert_eq!(ask(&mut plug, request, now)["system"]["get_sysinfo"]["relay_state"], 1);
        assert!(!plug.is_on());
    }

    #[test]
    fn of_two_equal_keys_the_last_one_holds() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        ask(&mut plug, r#"{"system":{"set_relay_state":{"state":0},"set_relay_state":{"state":1}}}"#, now);
        assert_eq!(plug.switchings().map(|switching| switching.on).collect::<Vec<_>>(), [true]);
    }

    #[test]
    fn null_as_argument_is_answered_by_old_firmwares_and_ignored_by_some() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        let request = r#"{"system":{"get_sysinfo":null}}"#;
        assert_eq!(ask(&mut plug, request, now)["system"]["get_sysinfo"]["err_code"], 0);
        plug.ignores_null = true;
        assert_eq!(ask(&mut plug, request, now), json!({"system": {}}));
        assert_eq!(
            ask(&mut plug, &request.replace("null", "{}"), now)["system"]["get_sysinfo"]["err_code"],
            0
        );
    }

    #[test]
    fn it_remembers_who_switched_it_when() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        let later = now + Duration::from_secs(61);
        let on = br#"{"system":{"set_relay_state":{"state":1}}}"#;
        plug.handle(on, SwitchedBy::Lan, now);
        plug.handle(on, SwitchedBy::Cloud, later);
        let sysinfo = ask(&mut plug, r#"{"system":{"get_sysinfo":{}}}"#, later);
        assert_eq!(sysinfo["system"]["get_sysinfo"]["on_time"], 61);
        plug.press_button(later);
        let log: Vec<_> = plug.switchings().copied().collect();
        assert_eq!(
            log,
            [
                Switching { at: now, outlet: 0, on: true, by: SwitchedBy::Lan, changed: true },
                Switching { at: later, outlet: 0, on: true, by: SwitchedBy::Cloud, changed: false },
                Switching { at: later, outlet: 0, on: false, by: SwitchedBy::Button, changed: true },
            ]
        );
        assert_eq!(plug.traffic.relay_orders, 3);
    }

    #[test]
    fn it_is_away_while_it_restarts_and_keeps_its_relay() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        plug.press_button(now);
        ask(&mut plug, r#"{"system":{"reboot":{"delay":1}}}"#, now);
        let (down, up) = (now + Duration::from_secs(1), now + Duration::from_secs(1) + plug.boot_time);
        assert!(plug.is_up(now));
        assert_eq!(plug.next_change(now), Some(down));
        assert!(!plug.is_up(down));
        assert_eq!(plug.door(down), PortBehaviour::Shut);
        assert_eq!(plug.handle(b"{}", SwitchedBy::Lan, down), None);
        assert_eq!(plug.next_change(down), Some(up));
        assert!(plug.is_up(up) && plug.is_on());
        assert_eq!(plug.next_change(up), None);
    }

    #[test]
    fn one_that_refuses_to_switch_can_still_be_read() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        plug.refuses_to_switch = Some(-7);
        let reply = ask(&mut plug, r#"{"system":{"set_relay_state":{"state":1}}}"#, now);
        assert_eq!(reply["system"]["set_relay_state"]["err_code"], -7);
        assert!(!plug.is_on() && plug.switchings().count() == 0);
        assert_eq!(
            ask(&mut plug, r#"{"system":{"get_sysinfo":{}}}"#, now)["system"]["get_sysinfo"]["err_code"],
            0
        );
    }

    #[test]
    fn a_refusal_names_each_method_and_changes_nothing() {
        let (mut plug, _) = plug(Model::HS100_HW1);
        let reply =
            plug.refuse(br#"{"system":{"set_relay_state":{"state":1}}}"#, -3, SwitchedBy::Lan).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&reply).unwrap(),
            json!({"system": {"set_relay_state": {"err_code": -3, "err_msg": "invalid argument"}}})
        );
        assert!(!plug.is_on());
    }

    #[test]
    fn its_cloud_connection_is_told_as_it_is() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        let connected = |plug: &mut SimPlug| {
            let info = ask(plug, r#"{"cnCloud":{"get_info":{}}}"#, now);
            (
                info["cnCloud"]["get_info"]["binded"].clone(),
                info["cnCloud"]["get_info"]["cld_connection"].clone(),
            )
        };
        assert_eq!(connected(&mut plug), (json!(1), json!(1)));
        plug.cloud = CloudLink::Offline;
        assert_eq!(connected(&mut plug), (json!(1), json!(0)));
        plug.bound = false;
        assert_eq!(connected(&mut plug), (json!(0), json!(0)));
    }

    fn nap(plug: &mut SimPlug, seconds: u64, now: Instant) {
        let rule = json!({"enable": 1, "delay": seconds, "act": 0, "name": "nap"});
        ask(plug, &json!({"count_down": {"add_rule": rule}}).to_string(), now);
    }

    #[test]
    fn a_count_down_switches_the_relay_at_its_time_and_by_itself() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        plug.press_button(now);
        nap(&mut plug, 60, now);
        let due = now + Duration::from_secs(60);
        assert_eq!(plug.next_change(now), Some(due));
        plug.pass_time(due - Duration::from_millis(1));
        assert!(plug.is_on());
        assert_eq!(plug.sysinfo(SwitchedBy::Lan, now)["active_mode"], "count_down");
        plug.pass_time(due + Duration::from_secs(9));
        assert!(!plug.is_on());
        let last = plug.switchings().last().copied();
        assert_eq!(
            last,
            Some(Switching { at: due, outlet: 0, on: false, by: SwitchedBy::CountDown, changed: true }),
            "at its time, however late one looks"
        );
        assert_eq!(
            (plug.next_change(due), &plug.sysinfo(SwitchedBy::Lan, due)["active_mode"]),
            (None, &json!("none"))
        );
    }

    #[test]
    fn a_request_finds_what_happened_before_it_came() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        plug.press_button(now);
        nap(&mut plug, 60, now);
        let later = now + Duration::from_secs(61);
        let reply = ask(&mut plug, r#"{"system":{"get_sysinfo":{}}}"#, later);
        assert_eq!(reply["system"]["get_sysinfo"]["relay_state"], 0);
    }

    #[test]
    fn a_loss_of_power_takes_the_total_of_each_meter_and_each_count_down() {
        let (mut plug, now) = plug(Model::HS300);
        plug.outlets[5].meter.days.insert((2026, 1, 1), 0.75);
        nap(&mut plug, 60, now);
        plug.powered = false;
        plug.pass_time(now);
        assert_eq!(plug.next_change(now), None);
        plug.powered = true;
        plug.pass_time(now + Duration::from_secs(61));
        assert!(plug.outlets.iter().all(|outlet| outlet.meter.total == 0.0));
        assert_eq!(plug.outlets[5].meter.days.len(), 1);
        assert_eq!(plug.switchings().count(), 0);
    }
}
