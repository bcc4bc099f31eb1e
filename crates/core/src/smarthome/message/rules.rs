//! The count-down of a plug, which can have one, and its schedule.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;

use crate::model::RelayState;
use crate::smarthome::lenient::IfReadable;
use crate::smarthome::message::number::Num;

/// One entry of a plug's own schedule, with the fields that are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRule {
    /// The name that the user gave it.
    pub name: Box<str>,
    /// Whether it is enabled.
    pub enabled: bool,
    /// The state that it switches to; `None` if the firmware does not report it.
    pub then: Option<RelayState>,
    /// The time as text: `07:30`, `sunrise`, `sunset-30m`; empty if the firmware reports none.
    pub at: Box<str>,
    /// The days of the week, Sunday first.
    pub days: [bool; 7],
}

/// `count_down.get_rules`.
#[derive(Deserialize)]
pub(super) struct RawCountDowns {
    #[serde(default)]
    rule_list: Vec<RawCountDown>,
}

/// `enable` becomes 0 at the end. `remain` counts down; `delay` keeps the original value.
#[derive(Deserialize)]
struct RawCountDown {
    #[serde(default)]
    enable: Num,
    #[serde(default)]
    delay: Num,
    remain: Option<Num>,
    #[serde(default)]
    act: Num,
}

impl RawCountDowns {
    /// Seconds left and the state that it switches to, if one is running.
    pub(super) fn running(&self) -> Option<(u32, RelayState)> {
        let running = self.rule_list.iter().filter(|rule| rule.enable.0 != 0).find(|rule| rule.left() > 0)?;
        let seconds = u32::try_from(running.left()).unwrap_or(u32::MAX);
        Some((seconds, RelayState::from_bool(running.act.0 != 0)))
    }
}

impl RawCountDown {
    fn left(&self) -> i64 {
        self.remain.unwrap_or(self.delay).0
    }
}

/// `schedule.get_rules`.
#[derive(Deserialize)]
pub(super) struct RawRules<'a> {
    #[serde(borrow, default)]
    rule_list: Vec<IfReadable<RawRule<'a>>>,
}

/// The apps set the start (`s…`). A rule may have an end (`e…`) instead or as well, which is shown only without a
/// start.
#[derive(Deserialize)]
struct RawRule<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(default)]
    enable: Num,
    sact: Option<Num>,
    stime_opt: Option<Num>,
    #[serde(default)]
    smin: Num,
    #[serde(default)]
    soffset: Num,
    eact: Option<Num>,
    etime_opt: Option<Num>,
    #[serde(default)]
    emin: Num,
    #[serde(default)]
    eoffset: Num,
    #[serde(default)]
    wday: Vec<Num>,
}

impl RawRules<'_> {
    pub(super) fn rules(&self) -> Arc<[ScheduleRule]> {
        self.rule_list.iter().filter_map(|rule| rule.0.as_ref()).map(RawRule::rule).collect()
    }
}

impl RawRule<'_> {
    fn rule(&self) -> ScheduleRule {
        let start = moment(self.stime_opt, self.smin, self.soffset);
        let (at, act) = match start {
            Some(at) => (at, self.sact),
            None => (moment(self.etime_opt, self.emin, self.eoffset).unwrap_or_default(), self.eact),
        };
        ScheduleRule {
            name: (*self.name).into(),
            enabled: self.enable.0 != 0,
            then: act.and_then(action),
            at: at.into(),
            days: std::array::from_fn(|day| self.wday.get(day).is_some_and(|on| on.0 != 0)),
        }
    }
}

/// The time of a rule: `option` -1 is never, 0 this many minutes after midnight, 1 sunrise, 2 sunset, the latter two
/// with an offset in minutes.
fn moment(option: Option<Num>, minutes: Num, offset: Num) -> Option<String> {
    match option?.0 {
        0 if (0..MINUTES_OF_A_DAY).contains(&minutes.0) => {
            Some(format!("{:02}:{:02}", minutes.0 / 60, minutes.0 % 60))
        }
        1 => Some(sun("sunrise", offset)),
        2 => Some(sun("sunset", offset)),
        _ => None,
    }
}

const MINUTES_OF_A_DAY: i64 = 24 * 60;

fn sun(event: &str, offset: Num) -> String {
    match offset.0 {
        0 => event.to_owned(),
        minutes => format!("{event}{minutes:+}m"),
    }
}

fn action(act: Num) -> Option<RelayState> {
    match act.0 {
        0 => Some(RelayState::Off),
        1 => Some(RelayState::On),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(json: &str) -> Option<(u32, RelayState)> {
        serde_json::from_str::<RawCountDowns>(json).unwrap().running()
    }

    fn rule(json: &str) -> ScheduleRule {
        let json = format!(r#"{{"rule_list":[{json}],"enable":1,"version":2,"err_code":0}}"#);
        serde_json::from_str::<RawRules<'_>>(&json).unwrap().rules()[0].clone()
    }

    #[test]
    fn a_count_down_runs_while_it_is_enabled_and_has_time_left() {
        let rule = |enable, remain| {
            running(&format!(
                r#"{{"rule_list":[{{"id":"0","name":"x","enable":{enable},"delay":1800,"act":0,"remain":{remain}}}]}}"#
            ))
        };
        assert_eq!(rule(1, 1799), Some((1799, RelayState::Off)));
        assert_eq!(rule(0, 1799), None);
        assert_eq!(rule(1, 0), None);
        assert_eq!(rule(1, -5), None);
        assert_eq!(running(r#"{"rule_list":[],"err_code":0}"#), None);
        assert_eq!(running(r#"{"err_code":0}"#), None);
    }

    #[test]
    fn a_count_down_that_does_not_count_is_taken_at_its_whole_length() {
        let json = r#"{"rule_list":[{"enable":1,"delay":60,"act":1}]}"#;
        assert_eq!(running(json), Some((60, RelayState::On)));
    }

    #[test]
    fn a_finished_count_down_does_not_hide_one_that_runs() {
        let json = r#"{"rule_list":[{"enable":0,"delay":9,"act":0,"remain":0},{"enable":1,"delay":60,"act":1,"remain":7}]}"#;
        assert_eq!(running(json), Some((7, RelayState::On)));
    }

    #[test]
    fn a_rule_by_the_clock_is_read() {
        let rule = rule(
            r#"{"id":"0A","name":"Früh","enable":1,"wday":[0,1,1,1,1,1,0],"stime_opt":0,"smin":450,"sact":1,
                "etime_opt":-1,"emin":0,"eact":-1,"repeat":1,"year":0,"month":0,"day":0}"#,
        );
        assert_eq!((&*rule.name, &*rule.at, rule.enabled), ("Früh", "07:30", true));
        assert_eq!(rule.then, Some(RelayState::On));
        assert_eq!(rule.days, [false, true, true, true, true, true, false]);
    }

    #[test]
    fn a_rule_by_the_sun_says_so_with_its_offset() {
        let at = |option, offset: &str| {
            rule(&format!(r#"{{"stime_opt":{option},"smin":0,"sact":0{offset}}}"#)).at.to_string()
        };
        assert_eq!((at(1, ""), at(2, r#","soffset":0"#)), ("sunrise".into(), "sunset".into()));
        assert_eq!(at(2, r#","soffset":-30"#), "sunset-30m");
        assert_eq!(at(1, r#","soffset":15"#), "sunrise+15m");
    }

    #[test]
    fn a_rule_without_a_start_is_shown_by_its_end() {
        let rule = rule(r#"{"stime_opt":-1,"smin":0,"sact":-1,"etime_opt":0,"emin":1439,"eact":0}"#);
        assert_eq!((&*rule.at, rule.then), ("23:59", Some(RelayState::Off)));
    }

    #[test]
    fn a_rule_that_cannot_be_read_does_not_hide_the_others() {
        let json = r#"{"rule_list":[{"name":null},7,{"name":"late","stime_opt":0,"smin":60}]}"#;
        let rules = serde_json::from_str::<RawRules<'_>>(json).unwrap().rules();
        assert_eq!(rules.iter().map(|rule| &*rule.name).collect::<Vec<_>>(), ["late"]);
    }

    #[test]
    fn a_rule_that_says_nothing_useful_is_shown_empty() {
        let nothing =
            ScheduleRule { name: "".into(), enabled: false, then: None, at: "".into(), days: [false; 7] };
        assert_eq!(rule("{}"), nothing);
        assert_eq!(rule(r#"{"stime_opt":0,"smin":9223372036854775807,"sact":7,"wday":[]}"#).at, nothing.at);
    }

    #[test]
    fn days_may_be_booleans_and_fewer_or_more_than_seven() {
        let days = |wday: &str| rule(&format!(r#"{{"wday":{wday}}}"#)).days;
        assert_eq!(days("[true,false,true]"), [true, false, true, false, false, false, false]);
        assert_eq!(days("[1,1,1,1,1,1,1,1,1]"), [true; 7]);
    }
}
