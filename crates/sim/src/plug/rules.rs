//! The modules `count_down`, `schedule` and `anti_theft` of an outlet.
//!
//! Only the count-down acts here. Its one rule stays after its end, disabled, and no second rule is accepted until it
//! is deleted.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::plug::json::{
    Answer, ENTRY_NOT_EXIST, INVALID_ARGUMENT, MEMBER_NOT_SUPPORT, MISSING_ARGUMENT, TABLE_IS_FULL, done,
    fields, flag, number, text,
};

/// The id of the one rule of a count-down.
const COUNT_DOWN_ID: &str = "0000000000000000000000000000CD01";

/// Seconds: the longest delay that is accepted, a day, as in the apps.
const LONGEST_DELAY: u64 = 24 * 60 * 60;

/// The rules of one outlet.
#[derive(Debug, Clone, Default)]
pub struct OutletRules {
    /// The entries of the schedule, as JSON objects. They are reported but never run.
    pub schedule: Vec<Value>,
    count_down: Option<CountDown>,
}

#[derive(Debug, Clone)]
struct CountDown {
    name: String,
    delay: Duration,
    /// The state that it switches to.
    on: bool,
    /// When it ends; `None` while it is disabled.
    due: Option<Instant>,
}

impl OutletRules {
    /// Runs one method of one of the modules.
    pub(super) fn answer(&mut self, module: &str, method: &str, argument: &Value, now: Instant) -> Answer {
        match (module, method) {
            ("count_down", _) => self.answer_count_down(method, argument, now),
            ("schedule", "get_rules") => {
                Ok(fields(json!({"rule_list": self.schedule, "version": 2, "enable": 1})))
            }
            ("schedule", "get_next_action") => Ok(fields(json!({"type": -1}))),
            ("schedule", "get_daystat") => Ok(fields(json!({"day_list": []}))),
            ("schedule", "get_monthstat") => Ok(fields(json!({"month_list": []}))),
            ("anti_theft", "get_rules") => Ok(fields(json!({"rule_list": []}))),
            _ => Err(MEMBER_NOT_SUPPORT),
        }
    }

    /// The end of the count-down and the state that it switches to, if one is running.
    pub(super) fn due(&self) -> Option<(Instant, bool)> {
        let count_down = self.count_down.as_ref()?;
        Some((count_down.due?, count_down.on))
    }

    /// Ends the count-down; its rule stays, disabled.
    pub(super) fn expire(&mut self) {
        if let Some(count_down) = &mut self.count_down {
            count_down.due = None;
        }
    }

    /// A count-down does not survive a loss of power, as far as known; a schedule does.
    pub(super) fn lose_power(&mut self) {
        self.count_down = None;
    }

    fn answer_count_down(&mut self, method: &str, argument: &Value, now: Instant) -> Answer {
        match method {
            "get_rules" => {
                let rules = self.count_down.iter().map(|rule| rule.shown(now));
                Ok(fields(json!({"rule_list": rules.collect::<Vec<_>>()})))
            }
            "add_rule" if self.count_down.is_some() => Err(TABLE_IS_FULL),
            "add_rule" => {
                self.count_down = Some(CountDown::new(argument, now)?);
                Ok(fields(json!({"id": COUNT_DOWN_ID})))
            }
            "edit_rule" => {
                self.find(argument)?;
                self.count_down = Some(CountDown::new(argument, now)?);
                done()
            }
            "delete_rule" => {
                self.find(argument)?;
                self.count_down = None;
                done()
            }
            "delete_all_rules" => {
                self.count_down = None;
                done()
            }
            _ => Err(MEMBER_NOT_SUPPORT),
        }
    }

    fn find(&self, argument: &Value) -> Result<(), i64> {
        let id = text(argument, "id").map_err(|_| MISSING_ARGUMENT)?;
        let is_there = self.count_down.is_some() && id == COUNT_DOWN_ID;
        if is_there { Ok(()) } else { Err(ENTRY_NOT_EXIST) }
    }
}

impl CountDown {
    fn new(argument: &Value, now: Instant) -> Result<Self, i64> {
        let enabled = flag(argument, "enable")?;
        let on = flag(argument, "act")?;
        let seconds = number(argument, "delay")?;
        if !(1..=LONGEST_DELAY).contains(&seconds) {
            return Err(INVALID_ARGUMENT);
        }
        let name = argument["name"].as_str().unwrap_or_default().to_owned();
        let delay = Duration::from_secs(seconds);
        Ok(Self { name, delay, on, due: enabled.then(|| now + delay) })
    }

    fn shown(&self, now: Instant) -> Map<String, Value> {
        let left = self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
        fields(json!({
            "id": COUNT_DOWN_ID,
            "name": self.name,
            "enable": u8::from(self.due.is_some()),
            "delay": self.delay.as_secs(),
            "act": u8::from(self.on),
            // A second that has begun counts: 0 means that the time is over.
            "remain": left.as_millis().div_ceil(1000) as u64,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(rules: &mut OutletRules, method: &str, argument: Value, now: Instant) -> Result<Value, i64> {
        rules.answer("count_down", method, &argument, now).map(Value::from)
    }

    fn minute() -> Value {
        json!({"enable": 1, "delay": 60, "act": 0, "name": "nap"})
    }

    #[test]
    fn a_count_down_counts_on_the_clock_that_it_is_given() {
        let (mut rules, now) = (OutletRules::default(), Instant::now());
        assert_eq!(ask(&mut rules, "get_rules", json!({}), now), Ok(json!({"rule_list": []})));
        ask(&mut rules, "add_rule", minute(), now).unwrap();
        assert_eq!(rules.due(), Some((now + Duration::from_secs(60), false)));
        let shown = |rules: &mut OutletRules, after| {
            let at = now + Duration::from_millis(after);
            let rules = ask(rules, "get_rules", json!({}), at).unwrap();
            (rules["rule_list"][0]["enable"].clone(), rules["rule_list"][0]["remain"].clone())
        };
        assert_eq!(shown(&mut rules, 0), (json!(1), json!(60)));
        assert_eq!(shown(&mut rules, 1_500), (json!(1), json!(59)));
        assert_eq!(shown(&mut rules, 59_999), (json!(1), json!(1)));
        rules.expire();
        assert_eq!(shown(&mut rules, 60_000), (json!(0), json!(0)));
        assert_eq!(rules.due(), None);
    }

    #[test]
    fn there_is_room_for_one_count_down_even_when_it_is_over() {
        let (mut rules, now) = (OutletRules::default(), Instant::now());
        ask(&mut rules, "add_rule", minute(), now).unwrap();
        assert_eq!(ask(&mut rules, "add_rule", minute(), now), Err(-10));
        rules.expire();
        assert_eq!(ask(&mut rules, "add_rule", minute(), now), Err(-10));
        ask(&mut rules, "delete_all_rules", json!({}), now).unwrap();
        assert!(ask(&mut rules, "add_rule", minute(), now).is_ok());
    }

    #[test]
    fn a_rule_is_edited_and_deleted_by_its_id() {
        let (mut rules, now) = (OutletRules::default(), Instant::now());
        let id = ask(&mut rules, "add_rule", minute(), now).unwrap()["id"].clone();
        assert_eq!(ask(&mut rules, "delete_rule", json!({}), now), Err(-10002));
        assert_eq!(ask(&mut rules, "delete_rule", json!({"id": "FF"}), now), Err(-14));
        let off = json!({"id": id, "enable": 0, "delay": 60, "act": 1});
        ask(&mut rules, "edit_rule", off, now).unwrap();
        assert_eq!(rules.due(), None);
        ask(&mut rules, "delete_rule", json!({"id": id}), now).unwrap();
        assert_eq!(ask(&mut rules, "edit_rule", json!({"id": id}), now), Err(-14));
    }

    #[test]
    fn a_count_down_that_makes_no_sense_is_refused() {
        let (mut rules, now) = (OutletRules::default(), Instant::now());
        for wrong in [
            json!({}),
            json!({"enable": 1, "delay": 0, "act": 0}),
            json!({"enable": 1, "delay": 86_401, "act": 0}),
            json!({"enable": 1, "delay": "60", "act": 0}),
            json!({"enable": true, "delay": 60, "act": 0}),
            json!({"enable": 1, "delay": 60, "act": -1}),
        ] {
            assert_eq!(ask(&mut rules, "add_rule", wrong.clone(), now), Err(-3), "{wrong}");
        }
        assert_eq!(rules.due(), None);
    }

    #[test]
    fn a_schedule_is_shown_and_outlives_a_loss_of_power() {
        let (mut rules, now) = (OutletRules::default(), Instant::now());
        rules.schedule.push(json!({"id": "0A", "name": "early", "smin": 450}));
        ask(&mut rules, "add_rule", minute(), now).unwrap();
        rules.lose_power();
        assert_eq!(rules.due(), None);
        let shown = rules.answer("schedule", "get_rules", &json!({}), now).unwrap();
        assert_eq!(shown["rule_list"][0]["name"], "early");
    }
}
