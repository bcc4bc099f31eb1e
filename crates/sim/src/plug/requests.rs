//! A request to a simulated device: parsed, run method by method, replied to. Also the faults of firmwares that
//! mishandle two methods in one request.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::fault::SwitchAndReadFault;
use crate::plug::context::RequestContext;
use crate::plug::device::SimPlug;
use crate::plug::json::{INVALID_ARGUMENT, MEMBER_NOT_SUPPORT, MODULE_NOT_SUPPORT, Written, error, reply};
use crate::plug::methods::RequestInfo;
use crate::plug::record::SwitchedBy;

impl SimPlug {
    /// Replies to one request. No reply to a request that is not a JSON object, and none without power or during a
    /// restart.
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
            if is_switch_and_read(&modules) { self.note_switch_and_read() } else { SwitchAndReadFault::Both };
        if let SwitchAndReadFault::Refused(code) = habit {
            return refusal(request, code);
        }
        let before = (habit == SwitchAndReadFault::OldState).then(|| self.is_on());
        let context = self.context_of(&modules, by);
        let mut reply = Map::new();
        for (module, methods) in modules.0 {
            if module != CONTEXT {
                let answer =
                    self.answer_module(&module, methods.get(), &RequestInfo { context: &context, by, now });
                reply.insert(module, answer);
            }
        }
        let system = reply.get_mut("system").and_then(Value::as_object_mut);
        match (habit, system) {
            (SwitchAndReadFault::NoAnswer, _) => return None,
            (SwitchAndReadFault::SwitchOnly, Some(system)) => drop(system.remove("get_sysinfo")),
            (SwitchAndReadFault::OldState, Some(system)) => {
                system["get_sysinfo"]["relay_state"] = before.map(u8::from).into();
            }
            _ => {}
        }
        let mut json = serde_json::to_vec(&reply).ok()?;
        if habit == SwitchAndReadFault::Garbled {
            json.truncate(json.len() / 2);
        }
        Some(json)
    }

    fn note_switch_and_read(&mut self) -> SwitchAndReadFault {
        self.traffic.switch_and_reads += 1;
        self.switch_and_read
    }

    /// Replies to each method of the request with this error and carries nothing out.
    pub(crate) fn refuse(&mut self, request: &[u8], code: i64, by: SwitchedBy) -> Option<Vec<u8>> {
        self.traffic.count_request(by);
        refusal(request, code)
    }

    /// The outlets that a request names. A device that is not a strip ignores a context.
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

    fn answer_module(&mut self, module: &str, methods: &str, info: &RequestInfo<'_>) -> Value {
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
            let answer = self.run((module, &method), &argument, info);
            self.traffic.not_supported += u64::from(answer == Err(MEMBER_NOT_SUPPORT));
            answers.insert(method, reply(answer));
        }
        answers.into()
    }
}

/// The key beside the modules of a request that is not a module.
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

/// Whether a request both switches the relay and reads its state.
fn is_switch_and_read(modules: &Written<Box<RawValue>>) -> bool {
    let system = modules.0.iter().find(|(module, _)| module == "system");
    let methods = system.and_then(|(_, methods)| serde_json::from_str::<Map<_, _>>(methods.get()).ok());
    methods
        .is_some_and(|methods| ["set_relay_state", "get_sysinfo"].iter().all(|it| methods.contains_key(*it)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::fault::CloudLink;
    use crate::model::Model;
    use crate::plug::device::PortBehaviour;
    use crate::plug::record::Switching;

    pub(in crate::plug) fn plug(model: Model) -> (SimPlug, Instant) {
        let now = Instant::now();
        (SimPlug::new(model, 7, "Küche ☕", now), now)
    }

    pub(in crate::plug) fn ask(plug: &mut SimPlug, request: &str, now: Instant) -> Value {
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
        assert_eq!(plug.tcp_ports(down).xor, PortBehaviour::Shut);
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
