//! The methods of each module: what each does to the device, and its reply.

use std::time::Instant;

use serde_json::Value;

use crate::plug::context::RequestContext;
use crate::plug::device::SimPlug;
use crate::plug::dimmer::RelayEffect;
use crate::plug::json::{
    Answer, MEMBER_NOT_SUPPORT, MODULE_NOT_SUPPORT, TIME_NOT_SYNC, done, flag, number, text,
};
use crate::plug::record::SwitchedBy;

impl SimPlug {
    pub(super) fn has_module(&self, module: &str) -> bool {
        match module {
            "system" | "time" | "cnCloud" => true,
            "schedule" | "anti_theft" | "count_down" => true,
            "emeter" => self.model.meter.is_some(),
            "smartlife.iot.dimmer" => self.model.dims,
            _ => false,
        }
    }

    /// Runs one method.
    pub(super) fn run(
        &mut self,
        (module, method): (&str, &str),
        argument: &Value,
        info: &RequestInfo<'_>,
    ) -> Answer {
        match (module, method) {
            ("system", "get_sysinfo") => Ok(self.sysinfo(info.by, info.now)),
            ("system", "set_relay_state") => self.set_relay_state(argument, info),
            ("system", "set_led_off") => {
                self.led_on = !flag(argument, "off")?;
                done()
            }
            ("system", "set_dev_alias") => self.set_dev_alias(argument, info),
            ("system", "reboot") => {
                self.restart_after(number(argument, "delay")?, info.now);
                done()
            }
            ("cnCloud", "get_info") => Ok(self.cloud_info(info.now)),
            ("time", _) => self.clock.answer(method, info.now),
            ("smartlife.iot.dimmer", _) => self.dim(method, argument, info),
            ("emeter", _) => self.read_meter(method, argument, info),
            ("schedule" | "anti_theft" | "count_down", _) => {
                self.follow_rules(module, method, argument, info)
            }
            _ => Err(MEMBER_NOT_SUPPORT),
        }
    }

    fn set_relay_state(&mut self, argument: &Value, info: &RequestInfo<'_>) -> Answer {
        let on = flag(argument, "state")?;
        let outlets = info.context.each(self.outlets.len())?;
        self.refuses_to_switch.map_or(Ok(()), Err)?;
        for outlet in outlets {
            self.switch(outlet, on, info.by, info.now);
        }
        done()
    }

    /// Without a named outlet, it sets the alias of the strip.
    fn set_dev_alias(&mut self, argument: &Value, info: &RequestInfo<'_>) -> Answer {
        let alias = text(argument, "alias")?.to_owned();
        match (info.context, info.context.first()?) {
            (RequestContext::Whole, _) => self.alias = alias,
            (_, Some(outlet)) => self.outlets[outlet].alias = alias,
            (_, None) => {}
        }
        done()
    }

    fn dim(&mut self, method: &str, argument: &Value, info: &RequestInfo<'_>) -> Answer {
        let before = self.dimmer;
        let (answer, relay) = self.dimmer.answer(method, argument);
        if let (RelayEffect::Goes(_), Some(code)) = (relay, self.refuses_to_switch) {
            self.dimmer = before;
            return Err(code);
        }
        if let RelayEffect::Goes(on) = relay {
            self.switch(0, on, info.by, info.now);
        }
        answer
    }

    fn read_meter(&self, method: &str, argument: &Value, info: &RequestInfo<'_>) -> Answer {
        let generation = self.model.meter.ok_or(MODULE_NOT_SUPPORT)?;
        let Some(number) = info.context.first()? else { return done() };
        let outlet = &self.outlets[number];
        let mut answer = outlet.meter.answer(method, argument, generation, outlet.is_on())?;
        if self.is_strip() && method == "get_realtime" {
            answer.insert("slot_id".into(), number.into());
        }
        Ok(answer)
    }

    /// A device that does not know the time refuses all methods about rules.
    fn follow_rules(
        &mut self,
        module: &str,
        method: &str,
        argument: &Value,
        info: &RequestInfo<'_>,
    ) -> Answer {
        if !self.clock.is_set {
            return Err(TIME_NOT_SYNC);
        }
        match info.context.first()? {
            Some(outlet) => self.outlets[outlet].rules.answer(module, method, argument, info.now),
            None => done(),
        }
    }
}

/// The route, the outlets and the time of a request.
pub(super) struct RequestInfo<'a> {
    pub(super) context: &'a RequestContext,
    pub(super) by: SwitchedBy,
    pub(super) now: Instant,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::requests::tests::{ask, plug};
    use super::*;
    use crate::model::{Ids, Model};

    #[test]
    fn each_request_gets_the_answer_of_a_real_plug() {
        let not_supported = json!({"err_code": -1, "err_msg": "module not support"});
        let no_member = json!({"err_code": -2, "err_msg": "member not support"});
        let invalid = json!({"err_code": -3, "err_msg": "invalid argument"});
        let done = json!({"err_code": 0});
        let table = [
            (r#"{"emeter":{"get_realtime":{}}}"#, json!({"emeter": not_supported})),
            (r#"{"system":{"get_weather":{}}}"#, json!({"system": {"get_weather": no_member}})),
            (
                r#"{"system":{"set_relay_state":{"state":2}}}"#,
                json!({"system": {"set_relay_state": invalid}}),
            ),
            (
                r#"{"system":{"set_relay_state":{"state":true}}}"#,
                json!({"system": {"set_relay_state": invalid}}),
            ),
            (r#"{"system":{"set_relay_state":{}}}"#, json!({"system": {"set_relay_state": invalid}})),
            (r#"{"system":{"set_relay_state":null}}"#, json!({"system": {"set_relay_state": invalid}})),
            (r#"{"system":{"set_relay_state":{"state":1}}}"#, json!({"system": {"set_relay_state": done}})),
            (r#"{"system":{"set_led_off":{"off":1}}}"#, json!({"system": {"set_led_off": done}})),
            (r#"{"system":{"set_dev_alias":{"alias":7}}}"#, json!({"system": {"set_dev_alias": invalid}})),
            (r#"{"system":{"reboot":{"delay":"1"}}}"#, json!({"system": {"reboot": invalid}})),
            (r#"{"system":7}"#, json!({"system": invalid})),
            (
                r#"{"time":{"get_timezone":{}}}"#,
                json!({"time": {"get_timezone": {"index": 39, "err_code": 0}}}),
            ),
            (r#"{"context":{"child_ids":[]},"system":{}}"#, json!({"system": {}})),
            ("{}", json!({})),
        ];
        let (mut plug, now) = plug(Model::HS100_HW1);
        for (request, reply) in table {
            assert_eq!(ask(&mut plug, request, now), reply, "{request}");
        }
        assert!(plug.is_on() && !plug.is_led_on());
    }

    const ON: &str = r#""system":{"set_relay_state":{"state":1}}"#;

    /// A request with this context before its modules.
    fn about(ids: &str, modules: &str) -> String {
        format!(r#"{{"context":{{"child_ids":[{ids}]}},{modules}}}"#)
    }

    fn relays(plug: &SimPlug) -> Vec<bool> {
        plug.outlets.iter().map(|outlet| outlet.is_on()).collect()
    }

    #[test]
    fn outlets_are_switched_together_and_a_strip_as_a_whole() {
        let (mut plug, now) = plug(Model::KP303);
        let done = json!({"system": {"set_relay_state": {"err_code": 0}}});
        assert_eq!(ask(&mut plug, &about(r#""02","00""#, ON), now), done, "the context is not echoed");
        assert_eq!(relays(&plug), [true, false, true]);
        let log: Vec<_> = plug.switchings().map(|switching| (switching.outlet, switching.on)).collect();
        assert_eq!(log, [(2, true), (0, true)]);
        assert_eq!(ask(&mut plug, &format!("{{{ON}}}"), now), done);
        assert_eq!(relays(&plug), [true, true, true]);
        plug.press_button_of(1, now);
        assert!(plug.is_on());
        assert_eq!(relays(&plug), [true, false, true]);
    }

    #[test]
    fn one_unknown_outlet_spoils_the_list_and_an_empty_list_is_nobody() {
        let (mut plug, now) = plug(Model::KP303);
        let modules = format!(r#"{ON},"cnCloud":{{"get_info":{{}}}}"#);
        let reply = ask(&mut plug, &about(r#""00","03""#, &modules), now);
        assert_eq!(
            reply["system"]["set_relay_state"],
            json!({"err_code": -14, "err_msg": "entry not exist"})
        );
        assert_eq!(reply["cnCloud"]["get_info"]["err_code"], 0, "what is not about outlets is done");
        assert_eq!(ask(&mut plug, &about("7", ON), now)["system"]["set_relay_state"]["err_code"], -3);
        assert_eq!(ask(&mut plug, &about("", ON), now)["system"]["set_relay_state"], json!({"err_code": 0}));
        assert_eq!(relays(&plug), [false; 3]);
        assert_eq!(plug.switchings().count(), 0);
    }

    #[test]
    fn a_device_with_one_relay_passes_a_context_over() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        ask(&mut plug, &about(r#""77""#, ON), now);
        assert!(plug.is_on());
    }

    #[test]
    fn an_outlet_is_known_on_each_wire_by_the_form_that_the_wire_gives() {
        for (ids, by, long) in [
            (Ids::Short, SwitchedBy::Lan, false),
            (Ids::Short, SwitchedBy::Datagram, false),
            (Ids::Short, SwitchedBy::Cloud, true),
            (Ids::Long, SwitchedBy::Lan, true),
            (Ids::Long, SwitchedBy::Datagram, true),
            (Ids::LongOverTcp, SwitchedBy::Lan, true),
            (Ids::LongOverTcp, SwitchedBy::Datagram, false),
            (Ids::LongOverTcp, SwitchedBy::Cloud, true),
        ] {
            let (mut plug, now) = plug(Model::HS300);
            plug.ids = ids;
            let say = |plug: &mut SimPlug, request: &str| -> Value {
                serde_json::from_slice(&plug.handle(request.as_bytes(), by, now).unwrap()).unwrap()
            };
            let sysinfo = say(&mut plug, r#"{"system":{"get_sysinfo":{}}}"#);
            let given = sysinfo["system"]["get_sysinfo"]["children"][5]["id"].as_str().unwrap().to_owned();
            let other = format!("{}05", plug.device_id);
            let (right, wrong) = if long { (other.as_str(), "05") } else { ("05", other.as_str()) };
            assert_eq!(given, right, "{ids:?} {by:?}");
            let answer = say(&mut plug, &about(&format!("{wrong:?}"), ON));
            assert_eq!(answer["system"]["set_relay_state"]["err_code"], -14, "{ids:?} {by:?}");
            say(&mut plug, &about(&format!("{right:?}"), ON));
            assert_eq!(relays(&plug), [false, false, false, false, false, true], "{ids:?} {by:?}");
        }
    }

    #[test]
    fn a_strip_and_its_outlets_have_names_of_their_own() {
        let (mut plug, now) = plug(Model::KP303);
        assert_eq!(plug.outlets[2].alias, "Küche ☕ 3");
        let rename = r#""system":{"set_dev_alias":{"alias":"Lampe ☕"}}"#;
        ask(&mut plug, &about(r#""01","02""#, rename), now);
        let names =
            |plug: &SimPlug| plug.outlets.iter().map(|outlet| outlet.alias.clone()).collect::<Vec<_>>();
        assert_eq!(names(&plug), ["Küche ☕ 1", "Lampe ☕", "Küche ☕ 3"]);
        assert_eq!(plug.alias, "Küche ☕");
        ask(&mut plug, &format!("{{{}}}", rename.replace("Lampe", "Leiste")), now);
        assert_eq!((plug.alias.as_str(), names(&plug)[0].as_str()), ("Leiste ☕", "Küche ☕ 1"));
        ask(&mut plug, &about("", &rename.replace("Lampe", "Nobody")), now);
        assert!(plug.alias == "Leiste ☕" && !names(&plug).contains(&"Nobody ☕".to_owned()));
    }

    #[test]
    fn each_outlet_has_a_meter_and_the_first_one_asked_for_answers() {
        let (mut plug, now) = plug(Model::HS300);
        plug.outlets[3].meter.total = 7.5;
        plug.outlets[0].meter.total = 0.5;
        let id = plug.outlet_id(3, SwitchedBy::Lan);
        let realtime = r#""emeter":{"get_realtime":{}}"#;
        let reply = ask(&mut plug, &about(&format!("{id:?}"), realtime), now);
        assert_eq!(reply["emeter"]["get_realtime"]["total_wh"], 7500);
        assert_eq!(reply["emeter"]["get_realtime"]["slot_id"], 3);
        let reply = ask(&mut plug, &format!("{{{realtime}}}"), now);
        assert_eq!(reply["emeter"]["get_realtime"]["total_wh"], 500);
    }

    #[test]
    fn a_meter_is_there_only_where_the_model_has_one() {
        let request = r#"{"emeter":{"get_realtime":{}}}"#;
        for (word, model) in Model::ALL {
            let (mut plug, now) = plug(model);
            let answered = ask(&mut plug, request, now)["emeter"]["get_realtime"]["err_code"] == 0;
            assert_eq!(answered, model.feature == "TIM:ENE", "{word}");
            assert_eq!(plug.traffic.not_supported, u64::from(!answered), "{word}");
        }
    }

    #[test]
    fn a_dimmer_dims_while_off_and_fades_on_and_off() {
        let (mut plug, now) = plug(Model::HS220);
        let mut say = |method: &str, argument: Value| {
            let request = json!({"smartlife.iot.dimmer": {method: argument}}).to_string();
            let code = ask(&mut plug, &request, now)["smartlife.iot.dimmer"][method]["err_code"].clone();
            let sysinfo = plug.sysinfo(SwitchedBy::Lan, now);
            (code, sysinfo["brightness"].clone(), sysinfo["relay_state"].clone())
        };
        assert_eq!(say("set_brightness", json!({"brightness": 33})), (json!(0), json!(33), json!(0)));
        assert_eq!(say("set_brightness", json!({"brightness": 0})), (json!(-3), json!(33), json!(0)));
        let fade = |brightness| json!({"brightness": brightness, "duration": 500});
        assert_eq!(say("set_dimmer_transition", fade(80)), (json!(0), json!(80), json!(1)));
        assert_eq!(say("set_dimmer_transition", fade(0)), (json!(0), json!(80), json!(0)));
    }

    #[test]
    fn one_that_refuses_to_switch_refuses_to_fade_as_well() {
        let (mut plug, now) = plug(Model::HS220);
        plug.refuses_to_switch = Some(-7);
        let request = r#"{"smartlife.iot.dimmer":{"set_dimmer_transition":{"brightness":80,"duration":1}}}"#;
        let reply = ask(&mut plug, request, now);
        assert_eq!(reply["smartlife.iot.dimmer"]["set_dimmer_transition"]["err_code"], -7);
        assert_eq!((plug.is_on(), plug.dimmer.brightness), (false, 50));
    }

    #[test]
    fn each_outlet_has_a_count_down() {
        let (mut plug, now) = plug(Model::KP303);
        let add = r#""count_down":{"add_rule":{"enable":1,"delay":60,"act":1,"name":"x"}}"#;
        let added = ask(&mut plug, &about(r#""01""#, add), now);
        assert_eq!(added["count_down"]["add_rule"]["err_code"], 0);
        let shown = |plug: &mut SimPlug, ids: &str| {
            ask(plug, &about(ids, r#""count_down":{"get_rules":{}}"#), now)["count_down"]["get_rules"]["rule_list"]
                .clone()
        };
        assert_eq!(shown(&mut plug, r#""00""#), json!([]));
        assert_eq!(shown(&mut plug, r#""01""#)[0]["remain"], 60);
        assert_eq!(ask(&mut plug, &about(r#""01""#, add), now)["count_down"]["add_rule"]["err_code"], -10);
        assert_eq!(ask(&mut plug, &about(r#""02""#, add), now)["count_down"]["add_rule"]["err_code"], 0);
    }

    #[test]
    fn rules_are_refused_while_the_clock_is_not_set() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        plug.clock.is_set = false;
        let request =
            r#"{"schedule":{"get_rules":{}},"count_down":{"get_rules":{}},"system":{"get_sysinfo":{}}}"#;
        let reply = ask(&mut plug, request, now);
        let refused = json!({"err_code": -11, "err_msg": "time not sync"});
        assert_eq!(
            (&reply["schedule"]["get_rules"], &reply["count_down"]["get_rules"]),
            (&refused, &refused)
        );
        assert_eq!(reply["system"]["get_sysinfo"]["err_code"], 0);
    }
}
