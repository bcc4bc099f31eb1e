//! The energy meter: its present values, the energy of each day or month, and the plug's own date, which decides what
//! "today" is.

use serde::Deserialize;

use crate::smarthome::lenient::{IfReadable, if_readable};
use crate::smarthome::message::answer::NotAnAnswer;
use crate::smarthome::message::number::{Amount, Num};

/// The values of a meter, in the units of the MQTT payload. A value is absent if the firmware does not report it.
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

/// V: 240 V and the 10 % above it that the mains may have (IEC 60038), rounded up. The meters of the family end there.
const MOST_VOLTAGE: f64 = 300.0;
/// W: no plug of the family, and no outlet of a strip, is made for more than 16 A, at 230 V and the 10 % above it that
/// the mains may have (IEC 60038).
pub(crate) const MOST_POWER: f64 = 16.0 * 253.0;
/// A: [`MOST_POWER`] at 230 V, so that a short overload is reported as long as its power is.
const MOST_CURRENT: f64 = MOST_POWER / 230.0;

impl Meter {
    /// Removes the values that no plug can have measured, and returns how many those were.
    pub(crate) fn drop_impossible(&mut self) -> u32 {
        let most = [
            (&mut self.power, MOST_POWER),
            (&mut self.voltage, MOST_VOLTAGE),
            (&mut self.current, MOST_CURRENT),
            (&mut self.total, f64::MAX),
        ];
        let dropped = most.into_iter().filter_map(|(value, most)| value.take_if(|value| value.abs() > most));
        u32::try_from(dropped.count()).unwrap_or(u32::MAX)
    }
}

/// The date on the plug's own wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// With the century, such as 2026.
    pub year: u16,
    /// Month, 1..=12.
    pub month: u8,
    /// Day of the month, 1..=31.
    pub day: u8,
}

/// `emeter.get_realtime`. Old firmwares report A, V, W and kWh, newer ones mA, mV, mW and Wh; the keys of each reply
/// show which. A strip may add `slot_id`, which repeats the request.
#[derive(Deserialize)]
pub(super) struct RawMeter {
    #[serde(default, deserialize_with = "if_readable")]
    current: Option<Amount>,
    #[serde(default, deserialize_with = "if_readable")]
    voltage: Option<Amount>,
    #[serde(default, deserialize_with = "if_readable")]
    power: Option<Amount>,
    #[serde(default, deserialize_with = "if_readable")]
    total: Option<Amount>,
    #[serde(default, deserialize_with = "if_readable")]
    current_ma: Option<Amount>,
    #[serde(default, deserialize_with = "if_readable")]
    voltage_mv: Option<Amount>,
    #[serde(default, deserialize_with = "if_readable")]
    power_mw: Option<Amount>,
    #[serde(default, deserialize_with = "if_readable")]
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

/// One value, from the key of either generation of firmwares.
fn in_units(whole: Option<Amount>, thousandths: Option<Amount>) -> Option<f64> {
    whole.map(|whole| whole.0).or(thousandths.map(|thousandths| thousandths.0 / 1000.0))
}

/// `emeter.get_daystat`. Days without use are left out.
#[derive(Deserialize)]
pub(super) struct RawDays {
    #[serde(default, deserialize_with = "if_readable")]
    day_list: Option<Vec<IfReadable<RawUse>>>,
}

/// `emeter.get_monthstat`.
#[derive(Deserialize)]
pub(super) struct RawMonths {
    #[serde(default, deserialize_with = "if_readable")]
    month_list: Option<Vec<IfReadable<RawUse>>>,
}

#[derive(Deserialize)]
struct RawUse {
    #[serde(default, deserialize_with = "if_readable")]
    year: Option<Num>,
    #[serde(default, deserialize_with = "if_readable")]
    month: Option<Num>,
    #[serde(default, deserialize_with = "if_readable")]
    day: Option<Num>,
    #[serde(default, deserialize_with = "if_readable")]
    energy: Option<Amount>,
    #[serde(default, deserialize_with = "if_readable")]
    energy_wh: Option<Amount>,
}

impl RawDays {
    /// The days of this month with their kWh; `None` if no entry can be read.
    pub(super) fn used(&self, year: u16, month: u8) -> Option<Vec<(u8, f64)>> {
        let is_of = |raw: &RawUse| is_as_asked(raw.year, year.into()) && is_as_asked(raw.month, month.into());
        used(self.day_list.as_deref()?, is_of, |raw| raw.day)
    }
}

impl RawMonths {
    /// The months of this year with their kWh; `None` if no entry can be read.
    pub(super) fn used(&self, year: u16) -> Option<Vec<(u8, f64)>> {
        used(self.month_list.as_deref()?, |raw| is_as_asked(raw.year, year.into()), |raw| raw.month)
    }
}

/// The entries of a list. Firmwares also list entries that were not requested: `is_of` selects those that count. If no
/// entry of a list can be read, the energy is unknown, not 0.
fn used(
    list: &[IfReadable<RawUse>],
    is_of: impl Fn(&RawUse) -> bool,
    number: impl Fn(&RawUse) -> Option<Num>,
) -> Option<Vec<(u8, f64)>> {
    let readable: Vec<_> = list
        .iter()
        .filter_map(|entry| entry.0.as_ref())
        .filter_map(|raw| Some((raw, raw.at(number(raw)?)?)))
        .collect();
    let is_unreadable = readable.is_empty() && !list.is_empty();
    let counts = readable.into_iter().filter(|(raw, _)| is_of(raw)).map(|(_, used)| used);
    (!is_unreadable).then(|| counts.collect())
}

/// A value that is missing in an entry counts as the requested one.
fn is_as_asked(value: Option<Num>, asked: i64) -> bool {
    value.is_none_or(|value| value.0 == asked)
}

impl RawUse {
    fn at(&self, number: Num) -> Option<(u8, f64)> {
        let number = u8::try_from(number.0).ok().filter(|&number| number > 0)?;
        Some((number, in_units(self.energy, self.energy_wh)?))
    }
}

/// The date in `time.get_time`.
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
        let days = |json| serde_json::from_str::<RawDays>(json).unwrap().used(2026, 11).unwrap();
        let old = r#"{"day_list":[{"year":2026,"month":11,"day":2,"energy":0.75},{"year":2026,"month":11,"day":22,"energy":1}]}"#;
        let new = r#"{"day_list":[{"year":2026,"month":11,"day":2,"energy_wh":750},{"year":2026,"month":11,"day":22,"energy_wh":1000}]}"#;
        assert_eq!(days(old), [(2, 0.75), (22, 1.0)]);
        assert_eq!(days(new), days(old));
        assert_eq!(days(r#"{"day_list":[],"err_code":0}"#), []);
    }

    #[test]
    fn an_answer_without_a_list_or_with_nothing_readable_in_it_tells_nothing() {
        for json in
            ["{}", r#"{"err_code":0}"#, r#"{"day_list":null}"#, r#"{"day_list":[{}]}"#, r#"{"day_list":{}}"#]
        {
            assert_eq!(serde_json::from_str::<RawDays>(json).unwrap().used(2026, 11), None, "{json}");
        }
        assert_eq!(serde_json::from_str::<RawMonths>("{}").unwrap().used(2026), None);
    }

    #[test]
    fn days_of_another_month_and_months_of_another_year_do_not_count() {
        let json = r#"{"day_list":[{"year":2026,"month":10,"day":22,"energy":9},{"year":2025,"month":11,"day":22,"energy":8},
            {"year":2026,"month":11,"day":22,"energy":1},null,{"day":23,"energy":2},{"day":[],"energy":3}]}"#;
        let days: RawDays = serde_json::from_str(json).unwrap();
        assert_eq!(days.used(2026, 11), Some(vec![(22, 1.0), (23, 2.0)]));
        assert_eq!(days.used(2024, 11), Some(vec![(23, 2.0)]));
        let json =
            r#"{"month_list":[{"year":2025,"month":11,"energy":9},{"year":2026,"month":11,"energy":1}]}"#;
        assert_eq!(serde_json::from_str::<RawMonths>(json).unwrap().used(2026), Some(vec![(11, 1.0)]));
    }

    #[test]
    fn an_odd_value_of_a_meter_costs_itself_alone() {
        let odd = meter(r#"{"power":"57.6 W","voltage":null,"current":{},"current_ma":250,"total":"12.5"}"#);
        assert_eq!(odd, Meter { current: Some(0.25), total: Some(12.5), ..Meter::default() });
    }

    #[test]
    fn what_no_plug_can_have_measured_is_dropped_and_counted() {
        let most =
            Meter { power: Some(MOST_POWER), voltage: Some(264.0), current: Some(16.0), total: Some(1e6) };
        let mut meter = most;
        assert_eq!((meter.drop_impossible(), meter), (0, most));
        let mut meter = Meter { power: Some(5000.0), voltage: Some(-2300.0), current: Some(65.5), ..most };
        assert_eq!((meter.drop_impossible(), meter), (3, Meter { total: Some(1e6), ..Meter::default() }));
    }

    #[test]
    fn an_entry_without_its_number_or_its_energy_is_left_out() {
        let json = r#"{"month_list":[{"month":300,"energy":1},{"month":-1,"energy":1},{"energy":1},{"month":4},{"month":5,"time":9},{"month":"6","energy_wh":1.5}]}"#;
        assert_eq!(serde_json::from_str::<RawMonths>(json).unwrap().used(2026), Some(vec![(6, 0.0015)]));
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
