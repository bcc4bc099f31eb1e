//! The module `emeter`. It measures nothing and reports what the test has set.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::model::Generation;
use crate::plug::json::{Answer, MEMBER_NOT_SUPPORT, fields, number};

/// The present values of one meter.
#[derive(Debug, Clone, PartialEq)]
pub struct SimMeter {
    /// W, while the relay is on.
    pub power: f64,
    /// V
    pub voltage: f64,
    /// A, while the relay is on.
    pub current: f64,
    /// kWh since the last loss of power.
    pub total: f64,
    /// kWh by year, month and day. They survive a loss of power.
    pub days: BTreeMap<(u64, u64, u64), f64>,
}

/// Values as of a lamp on a European socket.
impl Default for SimMeter {
    fn default() -> Self {
        Self { power: 57.5, voltage: 230.0, current: 0.25, total: 12.345, days: BTreeMap::new() }
    }
}

impl SimMeter {
    pub(super) fn answer(&self, method: &str, argument: &Value, generation: Generation, on: bool) -> Answer {
        match method {
            "get_realtime" => Ok(self.realtime(generation, on)),
            "get_daystat" => self.days_of(number(argument, "year")?, number(argument, "month")?, generation),
            "get_monthstat" => self.months_of(number(argument, "year")?, generation),
            _ => Err(MEMBER_NOT_SUPPORT),
        }
    }

    /// The total begins at 0 again, as with real meters.
    pub(super) fn lose_power(&mut self) {
        self.total = 0.0;
    }

    fn realtime(&self, generation: Generation, on: bool) -> Map<String, Value> {
        let (power, current) = if on { (self.power, self.current) } else { (0.0, 0.0) };
        fields(match generation {
            Generation::Old => json!({
                "current": current, "voltage": self.voltage, "power": power, "total": self.total,
            }),
            Generation::New => json!({
                "current_ma": thousandths(current), "voltage_mv": thousandths(self.voltage),
                "power_mw": thousandths(power), "total_wh": thousandths(self.total),
            }),
        })
    }

    /// Days without use are left out.
    fn days_of(&self, year: u64, month: u64, generation: Generation) -> Answer {
        let days = self.days.range((year, month, 0)..=(year, month, u64::MAX));
        let entry = |(&(year, month, day), &kwh): (&(u64, u64, u64), &f64)| {
            energy(json!({"year": year, "month": month, "day": day}), kwh, generation)
        };
        Ok(fields(json!({"day_list": days.map(entry).collect::<Vec<_>>()})))
    }

    fn months_of(&self, year: u64, generation: Generation) -> Answer {
        let mut months = BTreeMap::<u64, f64>::new();
        for (&(_, month, _), kwh) in self.days.range((year, 0, 0)..=(year, u64::MAX, u64::MAX)) {
            *months.entry(month).or_default() += kwh;
        }
        let entry = |(month, kwh)| energy(json!({"year": year, "month": month}), kwh, generation);
        Ok(fields(json!({"month_list": months.into_iter().map(entry).collect::<Vec<_>>()})))
    }
}

fn energy(mut entry: Value, kwh: f64, generation: Generation) -> Value {
    match generation {
        Generation::Old => entry["energy"] = kwh.into(),
        Generation::New => entry["energy_wh"] = thousandths(kwh).into(),
    }
    entry
}

fn thousandths(value: f64) -> i64 {
    (value * 1000.0).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> SimMeter {
        let days =
            [((2025, 12, 31), 9.0), ((2026, 1, 1), 0.75), ((2026, 1, 31), 1.5), ((2026, 11, 2), 0.001)];
        SimMeter { power: 61.753, voltage: 230.837, current: 0.451, total: 16.323, days: days.into() }
    }

    fn answer(method: &str, argument: Value, generation: Generation) -> Value {
        meter().answer(method, &argument, generation, true).unwrap().into()
    }

    #[test]
    fn each_generation_has_its_keys_and_units() {
        assert_eq!(
            answer("get_realtime", json!({}), Generation::Old),
            json!({"current": 0.451, "voltage": 230.837, "power": 61.753, "total": 16.323})
        );
        assert_eq!(
            answer("get_realtime", json!({}), Generation::New),
            json!({"current_ma": 451, "voltage_mv": 230837, "power_mw": 61753, "total_wh": 16323})
        );
    }

    #[test]
    fn nothing_flows_while_the_relay_is_off() {
        let off = meter().answer("get_realtime", &json!({}), Generation::New, false).unwrap();
        assert_eq!(
            (&off["power_mw"], &off["current_ma"], &off["voltage_mv"]),
            (&json!(0), &json!(0), &json!(230837))
        );
    }

    #[test]
    fn statistics_hold_the_days_asked_for_and_no_others() {
        assert_eq!(
            answer("get_daystat", json!({"year": 2026, "month": 1}), Generation::New),
            json!({"day_list": [
                {"year": 2026, "month": 1, "day": 1, "energy_wh": 750},
                {"year": 2026, "month": 1, "day": 31, "energy_wh": 1500},
            ]})
        );
        assert_eq!(
            answer("get_daystat", json!({"year": 2026, "month": 2}), Generation::Old),
            json!({"day_list": []})
        );
        assert_eq!(
            answer("get_monthstat", json!({"year": 2026}), Generation::Old),
            json!({"month_list": [
                {"year": 2026, "month": 1, "energy": 2.25},
                {"year": 2026, "month": 11, "energy": 0.001},
            ]})
        );
    }

    #[test]
    fn an_argument_that_is_missing_is_refused() {
        for (method, argument) in [("get_daystat", json!({"year": 2026})), ("get_monthstat", json!({}))] {
            assert_eq!(meter().answer(method, &argument, Generation::New, true), Err(-3), "{method}");
        }
        assert_eq!(meter().answer("start_calibration", &json!({}), Generation::New, true), Err(-2));
    }

    #[test]
    fn a_loss_of_power_takes_the_total_and_leaves_the_days() {
        let mut meter = meter();
        meter.lose_power();
        assert_eq!((meter.total, meter.days.len()), (0.0, 4));
    }
}
