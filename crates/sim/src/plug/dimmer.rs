//! The methods of `smartlife.iot.dimmer` that the daemon uses. A fade takes no time here.

use serde_json::{Value, json};

use crate::plug::json::{Answer, INVALID_ARGUMENT, MEMBER_NOT_SUPPORT, done, fields, number};

/// What a dimmer has beyond its relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimmer {
    /// 1..=100 %, kept while the light is off.
    pub brightness: u8,
}

/// What a method does to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelayEffect {
    Stays,
    Goes(bool),
}

impl Dimmer {
    /// Runs one method, and returns what it does to the relay.
    pub(super) fn answer(&mut self, method: &str, argument: &Value) -> (Answer, RelayEffect) {
        match method {
            "set_brightness" => (self.set_brightness(argument), RelayEffect::Stays),
            "set_dimmer_transition" => match self.fade(argument) {
                Ok(on) => (done(), RelayEffect::Goes(on)),
                Err(code) => (Err(code), RelayEffect::Stays),
            },
            "get_dimmer_parameters" => (Ok(fields(parameters())), RelayEffect::Stays),
            "get_default_behavior" => (Ok(fields(behavior())), RelayEffect::Stays),
            _ => (Err(MEMBER_NOT_SUPPORT), RelayEffect::Stays),
        }
    }

    /// The four presets of the button, brightest first.
    pub(super) fn preferred_state() -> Value {
        let preset = |(index, brightness): (usize, u8)| json!({"index": index, "brightness": brightness});
        [100, 75, 50, 25].into_iter().enumerate().map(preset).collect()
    }

    /// Does not touch the relay; 0 is refused.
    fn set_brightness(&mut self, argument: &Value) -> Answer {
        match percent(argument)? {
            0 => Err(INVALID_ARGUMENT),
            brightness => {
                self.brightness = brightness;
                done()
            }
        }
    }

    /// To 0 it ends with the relay off and keeps the brightness. To anything else it ends with the relay on.
    fn fade(&mut self, argument: &Value) -> Result<bool, i64> {
        let brightness = percent(argument)?;
        if number(argument, "duration")? == 0 {
            return Err(INVALID_ARGUMENT);
        }
        if brightness > 0 {
            self.brightness = brightness;
        }
        Ok(brightness > 0)
    }
}

fn percent(argument: &Value) -> Result<u8, i64> {
    let percent = number(argument, "brightness")?;
    u8::try_from(percent).ok().filter(|&percent| percent <= 100).ok_or(INVALID_ARGUMENT)
}

fn parameters() -> Value {
    json!({
        "minThreshold": 0, "fadeOnTime": 1000, "fadeOffTime": 1000, "gentleOnTime": 3000,
        "gentleOffTime": 10000, "rampRate": 30, "bulb_type": 1,
    })
}

fn behavior() -> Value {
    json!({
        "soft_on": {"mode": "last_status"}, "hard_on": {"mode": "last_status"},
        "long_press": {"mode": "instant_on_off"}, "double_click": {"mode": "gentle_on_off"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(dimmer: &mut Dimmer, method: &str, argument: Value) -> (Result<(), i64>, RelayEffect) {
        let (answer, relay) = dimmer.answer(method, &argument);
        (answer.map(drop), relay)
    }

    #[test]
    fn brightness_is_1_to_100_and_leaves_the_relay_alone() {
        let mut dimmer = Dimmer { brightness: 50 };
        for brightness in [1, 33, 100] {
            let answer = ask(&mut dimmer, "set_brightness", json!({"brightness": brightness}));
            assert_eq!((answer, dimmer.brightness), ((Ok(()), RelayEffect::Stays), brightness));
        }
        for wrong in [json!(0), json!(101), json!(-1), json!("33"), json!(33.5), Value::Null] {
            let answer = ask(&mut dimmer, "set_brightness", json!({"brightness": wrong}));
            assert_eq!((answer, dimmer.brightness), ((Err(-3), RelayEffect::Stays), 100), "{wrong}");
        }
    }

    #[test]
    fn a_fade_takes_the_relay_along() {
        let mut dimmer = Dimmer { brightness: 50 };
        let up = ask(&mut dimmer, "set_dimmer_transition", json!({"brightness": 80, "duration": 1000}));
        assert_eq!((up, dimmer.brightness), ((Ok(()), RelayEffect::Goes(true)), 80));
        let down = ask(&mut dimmer, "set_dimmer_transition", json!({"brightness": 0, "duration": 1}));
        assert_eq!((down, dimmer.brightness), ((Ok(()), RelayEffect::Goes(false)), 80));
        for wrong in
            [json!({"brightness": 10, "duration": 0}), json!({"brightness": 10}), json!({"duration": 9})]
        {
            assert_eq!(ask(&mut dimmer, "set_dimmer_transition", wrong), (Err(-3), RelayEffect::Stays));
        }
        assert_eq!(dimmer.brightness, 80);
    }

    #[test]
    fn its_settings_can_be_read() {
        let mut dimmer = Dimmer { brightness: 50 };
        for method in ["get_dimmer_parameters", "get_default_behavior"] {
            assert_eq!(ask(&mut dimmer, method, json!({})), (Ok(()), RelayEffect::Stays));
        }
        assert_eq!(ask(&mut dimmer, "set_gentle_on_time", json!({})), (Err(-2), RelayEffect::Stays));
        assert_eq!(Dimmer::preferred_state()[3], json!({"index": 3, "brightness": 25}));
    }
}
