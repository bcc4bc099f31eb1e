//! Every request to a device of this family, sent to simulated ones over the LAN and through the cloud.
//!
//! The messages of `smarthome` and the simulated home were written separately, from what is known of real devices. Here
//! they meet.

#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hs100d::model::{DeviceId, RelayState};
use hs100d::sim::model::{Ids, Model};
use hs100d::sim::plug::meter::SimMeter;
use hs100d::sim::plug::{SimPlug, SwitchedBy};
use hs100d::smarthome::message::{
    Date, DeviceKind, Meter, NotAnAnswer, OutletIds, Outlets, Reading, Reply, Request, ScheduleRule,
};
use serde_json::json;

const ON: RelayState = RelayState::On;
const OFF: RelayState = RelayState::Off;

/// A device and the route to it: the messages of the daemon on one side, the simulated device on the other.
struct Wire {
    plug: SimPlug,
    by: SwitchedBy,
    now: Instant,
}

impl Wire {
    fn to(model: Model, by: SwitchedBy) -> Self {
        let now = Instant::now();
        Self { plug: SimPlug::new(model, 7, "Küche ☕", now), by, now }
    }

    /// Sends a request as the daemon does: with the ids that the device reported over this route, or with long ones
    /// through the cloud.
    fn ask(&mut self, request: &Request) -> Result<Reply, NotAnAnswer> {
        let device = self.read().device;
        let device_id = DeviceId::new(&self.plug.device_id).unwrap();
        let ids = match self.by {
            SwitchedBy::Cloud => OutletIds::Long(&device_id),
            _ => OutletIds::AsGiven(&device.outlets),
        };
        let mut words = Vec::new();
        request.write_json(ids, &mut words);
        let reply = self.plug.handle(&words, self.by, self.now).expect("an answer");
        request.read_reply(&reply, Some(&device))
    }

    fn do_it(&mut self, request: Request) {
        assert_eq!(self.ask(&request), Ok(Reply::Done), "{request:?}");
    }

    fn read(&mut self) -> Reading {
        let mut words = Vec::new();
        Request::SysInfo.write_json(OutletIds::None, &mut words);
        let reply = self.plug.handle(&words, self.by, self.now).expect("an answer");
        match Request::SysInfo.read_reply(&reply, None) {
            Ok(Reply::SysInfo(reading)) => reading,
            other => panic!("{other:?}"),
        }
    }

    fn outlets_on(&mut self) -> Vec<bool> {
        self.read().outlets.iter().map(|outlet| outlet.relay.unwrap().is_on()).collect()
    }
}

/// Both routes, and each form of outlet ids.
fn strips() -> impl Iterator<Item = Wire> {
    let forms = [Ids::Short, Ids::Long, Ids::LongOverTcp];
    let wires = [SwitchedBy::Lan, SwitchedBy::Datagram, SwitchedBy::Cloud];
    forms.into_iter().flat_map(move |ids| {
        wires.into_iter().map(move |by| {
            let mut wire = Wire::to(Model::HS300, by);
            wire.plug.ids = ids;
            wire
        })
    })
}

#[test]
fn each_model_is_read_as_what_it_is() {
    for (word, model) in Model::ALL {
        let reading = Wire::to(model, SwitchedBy::Lan).read();
        let expected = match (model.outlets, model.dims) {
            (1.., _) => DeviceKind::Strip,
            (_, true) => DeviceKind::Dimmer,
            _ if word.starts_with("hs2") => DeviceKind::Switch,
            _ => DeviceKind::Plug,
        };
        assert_eq!(reading.device.what(), expected, "{word}");
        assert_eq!(reading.device.has_meter(), model.meter.is_some(), "{word}");
        assert_eq!(reading.device.outlets.len(), usize::from(model.outlets), "{word}");
        assert_eq!(reading.relay.is_none(), model.outlets > 0, "{word}");
        assert_eq!(reading.brightness.is_some(), model.dims, "{word}");
        assert_eq!(&*reading.device.model, model.name, "{word}");
    }
}

#[test]
fn outlets_of_a_strip_are_switched_and_named_whatever_their_ids_look_like() {
    for mut wire in strips() {
        let which = format!("{:?} {:?}", wire.plug.ids, wire.by);
        wire.do_it(Request::SetOutlets(Outlets::one(5).and(Outlets::one(1)), ON));
        assert_eq!(wire.outlets_on(), [false, true, false, false, false, true], "{which}");
        wire.do_it(Request::SetOutlets(Outlets::one(5), OFF));
        assert_eq!(wire.outlets_on(), [false, true, false, false, false, false], "{which}");
        wire.do_it(Request::SetAlias(Some(4), "Lampe ☕".into()));
        wire.do_it(Request::SetAlias(None, "Leiste".into()));
        let device = wire.read().device;
        assert_eq!((&*device.alias, &*device.outlets[4].alias), ("Leiste", "Lampe ☕"), "{which}");
        wire.do_it(Request::SetLed(OFF));
        assert_eq!(wire.read().led, Some(OFF), "{which}");
        wire.do_it(Request::SetRelay(OFF));
        assert_eq!(wire.outlets_on(), [false; 6], "a strip as a whole, {which}");
    }
}

#[test]
fn an_outlet_that_the_strip_does_not_have_is_refused() {
    for mut wire in strips() {
        let refused = wire.ask(&Request::SetOutlets(Outlets::one(1).and(Outlets::one(6)), ON));
        assert!(matches!(refused, Err(NotAnAnswer::Device { code: -14, .. })), "{refused:?}");
        assert_eq!(wire.outlets_on(), [false; 6]);
    }
}

/// The values of a meter, and what must be read from them in either units.
fn metered() -> (SimMeter, Meter) {
    let days = [((2025, 1, 1), 9.0), ((2026, 1, 1), 0.75), ((2026, 1, 31), 1.5), ((2026, 2, 3), 4.0)];
    let shown =
        SimMeter { power: 61.753, voltage: 230.837, current: 0.451, total: 16.323, days: days.into() };
    let read =
        Meter { power: Some(61.753), voltage: Some(230.837), current: Some(0.451), total: Some(16.323) };
    (shown, read)
}

#[test]
fn both_generations_of_meters_are_read_alike() {
    for model in [Model::HS110_HW1, Model::HS110_HW4, Model::KP115] {
        for by in [SwitchedBy::Lan, SwitchedBy::Cloud] {
            let mut wire = Wire::to(model, by);
            let (shown, read) = metered();
            wire.plug.outlets[0].meter = shown;
            wire.do_it(Request::SetRelay(ON));
            assert_eq!(wire.ask(&Request::Meter(None)), Ok(Reply::Meter(read)), "{}", model.name);
            let days = Reply::Used(vec![(1, 0.75), (31, 1.5)]);
            assert_eq!(wire.ask(&Request::MeterDays(None, 2026, 1)), Ok(days), "{}", model.name);
            let months = Reply::Used(vec![(1, 2.25), (2, 4.0)]);
            assert_eq!(wire.ask(&Request::MeterMonths(None, 2026)), Ok(months), "{}", model.name);
            assert_eq!(wire.ask(&Request::MeterDays(None, 2026, 12)), Ok(Reply::Used(vec![])));
        }
    }
}

#[test]
fn each_outlet_of_a_strip_has_its_own_meter() {
    for mut wire in strips() {
        let (shown, read) = metered();
        wire.plug.outlets[3].meter = shown;
        wire.do_it(Request::SetOutlets(Outlets::one(3), ON));
        assert_eq!(wire.ask(&Request::Meter(Some(3))), Ok(Reply::Meter(read)));
        let Ok(Reply::Meter(other)) = wire.ask(&Request::Meter(Some(2))) else { panic!() };
        assert_eq!(other.power, Some(0.0));
        assert_eq!(wire.ask(&Request::MeterMonths(Some(3), 2025)), Ok(Reply::Used(vec![(1, 9.0)])));
        assert_eq!(wire.ask(&Request::MeterMonths(Some(2), 2025)), Ok(Reply::Used(vec![])));
    }
}

#[test]
fn a_module_that_a_device_lacks_is_an_error_and_nothing_worse() {
    let mut wire = Wire::to(Model::HS100_HW1, SwitchedBy::Lan);
    for request in [Request::Meter(None), Request::SetBrightness(50), Request::Fade(50, 1000)] {
        let refused = wire.ask(&request);
        assert!(matches!(refused, Err(NotAnAnswer::Device { code: -1, .. })), "{request:?}: {refused:?}");
    }
}

#[test]
fn a_dimmer_dims_and_fades() {
    for model in [Model::HS220, Model::KP405] {
        let mut wire = Wire::to(model, SwitchedBy::Lan);
        wire.do_it(Request::SetBrightness(33));
        assert_eq!((wire.read().brightness, wire.read().relay), (Some(33), Some(OFF)));
        wire.do_it(Request::SetRelay(ON));
        wire.do_it(Request::Fade(80, 500));
        assert_eq!((wire.read().brightness, wire.read().relay), (Some(80), Some(ON)));
        wire.do_it(Request::Fade(0, 0));
        assert_eq!((wire.read().brightness, wire.read().relay), (Some(80), Some(OFF)));
        wire.do_it(Request::Fade(1, 0));
        assert_eq!((wire.read().brightness, wire.read().relay), (Some(1), Some(ON)));
        assert!(matches!(wire.ask(&Request::SetBrightness(0)), Err(NotAnAnswer::Device { code: -3, .. })));
    }
}

#[test]
fn a_count_down_is_started_shown_replaced_and_stopped() {
    for (model, outlet) in [(Model::HS100_HW1, None), (Model::KP303, Some(2)), (Model::HS220, None)] {
        for by in [SwitchedBy::Lan, SwitchedBy::Cloud] {
            let mut wire = Wire::to(model, by);
            assert_eq!(wire.ask(&Request::CountDown(outlet)), Ok(Reply::CountDown(None)));
            wire.do_it(Request::StartCountDown(outlet, 1800, OFF));
            wire.now += Duration::from_secs(60);
            assert_eq!(wire.ask(&Request::CountDown(outlet)), Ok(Reply::CountDown(Some((1740, OFF)))));
            let full = wire.ask(&Request::StartCountDown(outlet, 60, ON));
            assert!(matches!(full, Err(NotAnAnswer::Device { code: -10, .. })), "{full:?}");
            wire.do_it(Request::StopCountDown(outlet));
            wire.do_it(Request::StartCountDown(outlet, 60, ON));
            assert_eq!(wire.ask(&Request::CountDown(outlet)), Ok(Reply::CountDown(Some((60, ON)))));
            wire.now += Duration::from_secs(61);
            assert_eq!(wire.ask(&Request::CountDown(outlet)), Ok(Reply::CountDown(None)));
            let last = *wire.plug.switchings().last().unwrap();
            assert_eq!(
                (last.on, last.by, last.outlet),
                (true, SwitchedBy::CountDown, outlet.unwrap_or(0).into())
            );
            let full = wire.ask(&Request::StartCountDown(outlet, 60, ON));
            assert!(
                matches!(full, Err(NotAnAnswer::Device { code: -10, .. })),
                "the old rule stays: {full:?}"
            );
        }
    }
}

#[test]
fn a_schedule_is_read() {
    let mut wire = Wire::to(Model::KP303, SwitchedBy::Lan);
    wire.plug.outlets[1].rules.schedule = vec![
        json!({"id": "0A", "name": "early", "enable": 1, "wday": [0, 1, 1, 1, 1, 1, 0], "stime_opt": 0,
            "smin": 450, "sact": 1, "etime_opt": -1, "eact": -1, "repeat": 1}),
        json!({"id": "0B", "name": "late", "enable": 0, "wday": [1, 1, 1, 1, 1, 1, 1], "stime_opt": 2,
            "soffset": 30, "smin": 0, "sact": 0, "etime_opt": -1, "eact": -1, "repeat": 1}),
    ];
    let early = ScheduleRule {
        name: "early".into(),
        enabled: true,
        then: Some(ON),
        at: "07:30".into(),
        days: [false, true, true, true, true, true, false],
    };
    let late = ScheduleRule {
        name: "late".into(),
        enabled: false,
        then: Some(OFF),
        at: "sunset+30m".into(),
        days: [true; 7],
    };
    let rules: Arc<[ScheduleRule]> = [early, late].into();
    assert_eq!(wire.ask(&Request::Schedule(Some(1))), Ok(Reply::Schedule(rules)));
    assert_eq!(wire.ask(&Request::Schedule(Some(0))), Ok(Reply::Schedule([].into())));
}

#[test]
fn the_date_is_the_devices_own() {
    let mut wire = Wire::to(Model::HS110_HW4, SwitchedBy::Lan);
    let date = |day| Ok(Reply::Clock(Date { year: 2026, month: 1, day }));
    assert_eq!(wire.ask(&Request::Clock), date(1));
    wire.now += Duration::from_secs(86_400);
    assert_eq!(wire.ask(&Request::Clock), date(2));
}

#[test]
fn a_device_that_does_not_know_the_time_refuses_rules_and_nothing_else() {
    let mut wire = Wire::to(Model::HS110_HW4, SwitchedBy::Lan);
    wire.plug.clock.is_set = false;
    for request in [Request::CountDown(None), Request::StartCountDown(None, 60, OFF), Request::Schedule(None)]
    {
        let refused = wire.ask(&request);
        assert!(matches!(refused, Err(NotAnAnswer::Device { code: -11, .. })), "{request:?}: {refused:?}");
    }
    wire.do_it(Request::SetRelay(ON));
    assert!(matches!(wire.ask(&Request::Meter(None)), Ok(Reply::Meter(_))));
}
