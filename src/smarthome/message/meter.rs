//! The energy meter: what it shows, what was used on which day or in which month, and the plug's own date, which
//! alone tells what it means by today.

use serde::Deserialize;

use crate::smarthome::message::answer::NotAnAnswer;
use crate::smarthome::message::number::{Amount, Num};

/// What a meter shows, in the units that MQTT tells. Absent what the firmware does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Meter {
    /// W, as the plug measures it: real power, not voltage times current.
    pub power: Option<f64>,
    /// V
    pub voltage: Option<f64>,
    /// A
    pub current: Option<f64>,
    /// kWh since the meter was new or lost its power.
    pub total: Option<f64>,
}

/// The date on the plug's own wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Year.
    pub year: u16,
    /// Month, 1..=12.
    pub month: u8,
    /// Day of the month, 1..=31.
    pub day: u8,
}

/// `emeter.get_realtime`. Old firmwares tell A, V, W and kWh, newer ones mA, mV, mW and Wh; the keys of each reply
/// tell which. A strip may add `slot_id`, which says nothing that was not asked.
#[derive(Deserialize)]
pub(super) struct RawMeter {
    current: Option<Amount>,
    voltage: Option<Amount>,
    power: Option<Amount>,
    total: Option<Amount>,
    current_ma: Option<Amount>,
    voltage_mv: Option<Amount>,
    power_mw: Option<Amount>,
    total_wh: Option<Amount>,
}

impl From<RawMeter> for Meter {
    fn from(raw: RawMeter) -> Self {
        Self {
            power: in_units(raw.power, raw.power_mw),
            voltage: in_units(raw.voltage, raw.voltage_mv),
            current: in_units(raw.current, raw.current_ma),
            total: in_units(raw.total, raw.total_wh),
        }
    }
}

/// One value from whichever of the two generations told it.
fn in_units(whole: Option<Amount>, thousandths: Option<Amount>) -> Option<f64> {
    whole.map(|whole| whole.0).or(thousandths.map(|thousandths| thousandths.0 / 1000.0))
}

/// `emeter.get_daystat`. Days on which nothing was used are left out.
#[derive(Deserialize)]
pub(super) struct RawDays {
    #[serde(default)]
    day_list: Vec<RawUse>,
}

/// `emeter.get_monthstat`.
#[derive(Deserialize)]
pub(super) struct RawMonths {
    #[serde(default)]
    month_list: Vec<RawUse>,
}

#[derive(Deserialize)]
struct RawUse {
    #[serde(default)]
    day: Num,
    #[serde(default)]
    month: Num,
    energy: Option<Amount>,
    energy_wh: Option<Amount>,
}

impl RawDays {
    /// Number of the day, and kWh.
    pub(super) fn used(&self) -> Vec<(u8, f64)> {
        self.day_list.iter().filter_map(|raw| raw.at(raw.day)).collect()
    }
}

impl RawMonths {
    /// Number of the month, and kWh.
    pub(super) fn used(&self) -> Vec<(u8, f64)> {
        self.month_list.iter().filter_map(|raw| raw.at(raw.month)).collect()
    }
}

impl RawUse {
    fn at(&self, number: Num) -> Option<(u8, f64)> {
        let number = u8::try_from(number.0).ok().filter(|&number| number > 0)?;
        Some((number, in_units(self.energy, self.energy_wh)?))
    }
}

/// `time.get_time`, as far as a date goes.
#[derive(Deserialize)]
pub(super) struct RawDate {
    #[serde(default)]
    year: Num,
    #[serde(default)]
    month: Num,
    #[serde(default)]
    mday: Num,
}

impl RawDate {
    pub(super) fn date(&self) -> Result<Date, NotAnAnswer> {
        let (year, month, day) =
            (u16::try_from(self.year.0), u8::try_from(self.month.0), u8::try_from(self.mday.0));
        match (year, month, day) {
            (Ok(year @ 1..), Ok(month @ 1..=12), Ok(day @ 1..=31)) => Ok(Date { year, month, day }),
            _ => Err(NotAnAnswer::Malformed("a date that does not exist".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(json: &str) -> Meter {
        serde_json::from_str::<RawMeter>(json).unwrap().into()
    }

    #[test]
    fn the_keys_of_a_reply_tell_its_units() {
        let old = meter(r#"{"current":0.25,"voltage":230.5,"power":57.625,"total":12.5,"err_code":0}"#);
        let new =
            meter(r#"{"current_ma":250,"voltage_mv":230500,"power_mw":57625,"total_wh":12500,"err_code":0}"#);
        let expected =
            Meter { power: Some(57.625), voltage: Some(230.5), current: Some(0.25), total: Some(12.5) };
        assert_eq!((old, new), (expected, expected));
    }

    #[test]
    fn numbers_may_be_integers_floats_or_texts_and_a_slot_is_no_matter() {
        let meter =
            meter(r#"{"slot_id":3,"power_mw":"1500","voltage_mv":121302.0,"total":7,"current_ma":0}"#);
        let expected =
            Meter { power: Some(1.5), voltage: Some(121.302), current: Some(0.0), total: Some(7.0) };
        assert_eq!(meter, expected);
    }

    #[test]
    fn what_is_not_told_is_absent_not_zero() {
        assert_eq!(meter(r#"{"power_mw":10800}"#), Meter { power: Some(10.8), ..Meter::default() });
        assert_eq!(meter(r#"{"power":null}"#), Meter::default());
    }

    #[test]
    fn use_is_read_in_kwh_from_both_generations_and_missing_days_stay_missing() {
        let days = |json| serde_json::from_str::<RawDays>(json).unwrap().used();
        let old = r#"{"day_list":[{"year":2026,"month":11,"day":2,"energy":0.75},{"year":2026,"month":11,"day":22,"energy":1}]}"#;
        let new = r#"{"day_list":[{"year":2026,"month":11,"day":2,"energy_wh":750},{"year":2026,"month":11,"day":22,"energy_wh":1000}]}"#;
        assert_eq!(days(old), [(2, 0.75), (22, 1.0)]);
        assert_eq!(days(new), days(old));
        assert_eq!(days(r#"{"day_list":[],"err_code":0}"#), []);
        assert_eq!(days(r#"{"err_code":0}"#), []);
    }

    #[test]
    fn an_entry_without_its_number_or_its_energy_is_left_out() {
        let json = r#"{"month_list":[{"month":300,"energy":1},{"month":-1,"energy":1},{"energy":1},{"month":4},{"month":5,"time":9},{"month":"6","energy_wh":1.5}]}"#;
        assert_eq!(serde_json::from_str::<RawMonths>(json).unwrap().used(), [(6, 0.0015)]);
    }

    #[test]
    fn a_date_that_does_not_exist_is_not_one() {
        let date = |json| serde_json::from_str::<RawDate>(json).unwrap().date().ok();
        assert_eq!(
            date(r#"{"year":2026,"month":2,"mday":28,"hour":23,"min":59,"sec":59}"#),
            Some(Date { year: 2026, month: 2, day: 28 })
        );
        for json in [r#"{"year":2026,"month":13,"mday":1}"#, r#"{"year":2026,"month":1,"mday":0}"#, "{}"] {
            assert_eq!(date(json), None, "{json}");
        }
    }
}
