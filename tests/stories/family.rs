//! Meters, strips, dimmers, names and count-downs, on a simulated clock.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

use std::sync::Arc;

use crate::support::scenario::*;
use hs100d::bridge::Settings;
use hs100d::bridge::event::{
    CommandId, Ended, Energy, Event, KnownPlug, Origin, PlugInfo, PlugState, Update,
};
use hs100d::model::{Availability, PlugCommand, PlugName, RelayState, Route, SetCommand, Switch};
use hs100d::smarthome::message::{Meter, Outlets, Request};

fn name(text: &str) -> PlugName {
    PlugName::new(text).unwrap()
}

fn home_of(plug: ModelPlug) -> Scenario {
    let known = KnownPlug {
        device_id: device_id(1),
        mac: Some(mac(1)),
        name: plug_name(1),
        address: Some(address(1)),
        home: None,
        protocol: None,
        klap_port: None,
        outlets: vec![],
    };
    let settings = Settings { known: vec![known], adopt: true, cloud: true, ..Settings::default() };
    let mut home = Scenario::from_settings(settings, vec![plug]);
    home.run_for(seconds(4));
    home
}

fn metered(number: usize) -> ModelPlug {
    let meter = Meter { power: Some(61.7), voltage: Some(230.8), current: Some(0.451), total: Some(16.3) };
    ModelPlug { meters: vec![meter], used: vec![[0.5, 7.25]], ..ModelPlug::new(number, true) }
}

fn send(home: &mut Scenario, plug: &str, id: u64, set: SetCommand) -> CommandId {
    let id = CommandId::new(Origin::Mqtt, 1000 + id);
    home.event(Event::Command { id, plug: name(plug), order: PlugCommand::Set(set) });
    id
}

fn relay(state: RelayState) -> SetCommand {
    SetCommand { relay: Some(Switch::To(state)), ..SetCommand::default() }
}

fn state<'a>(home: &'a Scenario, plug: &str) -> Option<&'a PlugState> {
    home.updates.iter().rev().find_map(|(_, update)| match update {
        Update::State(found, state) if found.as_str() == plug => Some(state),
        _ => None,
    })
}

fn info<'a>(home: &'a Scenario, plug: &str) -> &'a PlugInfo {
    let infos = home.updates.iter().rev().find_map(|(_, update)| match update {
        Update::Info(found, info) if found.as_str() == plug => Some(info),
        _ => None,
    });
    infos.unwrap_or_else(|| panic!("no info of {plug}: {:#?}", home.updates))
}

fn energies(home: &Scenario, plug: &str) -> Vec<Energy> {
    let energies = home.updates.iter().filter_map(|(_, update)| match update {
        Update::Energy(found, energy) if found.as_str() == plug => Some(*energy),
        _ => None,
    });
    energies.collect()
}

fn asked(home: &Scenario, wanted: impl Fn(&Request) -> bool) -> usize {
    home.asked.iter().filter(|(_, _, request)| wanted(request)).count()
}

#[test]
fn a_meter_is_read_at_its_own_interval_and_told_when_it_changes() {
    let mut home = home_of(metered(1));
    let energy = energies(&home, "plug-1").pop().expect("an energy");
    assert_eq!(energy.meter, home.plug(1).meters[0]);
    assert_eq!((energy.today, energy.month), (Some(0.5), Some(7.25)));

    home.forget_the_past();
    home.run_for(seconds(60));
    assert_eq!(asked(&home, |request| matches!(request, Request::Meter(None))), 4);
    assert_eq!(energies(&home, "plug-1"), [], "nothing changed");
    home.plug(1).meters[0].power = Some(5.0);
    home.run_for(seconds(16));
    assert_eq!(energies(&home, "plug-1").pop().unwrap().meter.power, Some(5.0));
}

#[test]
fn a_total_that_falls_for_one_reading_is_not_told_and_one_that_stays_low_is() {
    let mut home = home_of(metered(1));
    let total = |home: &Scenario| energies(home, "plug-1").pop().and_then(|energy| energy.meter.total);
    let mut read = |shown: f64| {
        home.plug(1).meters[0].total = Some(shown);
        home.run_for(seconds(15));
        total(&home)
    };
    assert_eq!([read(16.3), read(0.0), read(16.31)], [Some(16.3), Some(16.3), Some(16.31)]);
    assert_eq!([read(0.0), read(0.01), read(0.02)], [Some(16.31), Some(0.01), Some(0.02)], "confirmed");
    assert_eq!([read(65_535.0), read(0.03)], [Some(0.02), Some(0.03)], "nor what no plug can have used");
    assert_eq!(
        [read(0.0), read(65_535.0), read(0.04)],
        [Some(0.03), Some(0.03), Some(0.04)],
        "two that disagree"
    );
}

#[test]
fn a_power_that_no_plug_can_carry_is_dropped_and_what_was_known_stays() {
    let mut home = home_of(metered(1));
    home.plug(1).meters[0] = Meter { power: Some(65_535.0), current: Some(0.6), ..home.plug(1).meters[0] };
    home.run_for(seconds(15));
    let meter = energies(&home, "plug-1").pop().unwrap().meter;
    assert_eq!((meter.power, meter.current), (Some(61.7), Some(0.6)));
    assert!(energies(&home, "plug-1").iter().all(|energy| energy.meter.power < Some(4049.0)));
    home.run_for(seconds(15));
    let dropped: Vec<_> = home
        .updates
        .iter()
        .filter_map(|(_, update)| match update {
            Update::Dropped(plug, times) => Some((plug.as_str(), *times)),
            _ => None,
        })
        .collect();
    assert_eq!(dropped, [("plug-1", 1), ("plug-1", 2)], "counted");
}

#[test]
fn what_was_used_is_absent_where_the_answer_does_not_tell_it() {
    let mut home = home_of(ModelPlug { tells_use: false, ..metered(1) });
    let energy = energies(&home, "plug-1").pop().unwrap();
    assert_eq!((energy.today, energy.month, energy.meter.total), (None, None, Some(16.3)));
    home.plug(1).tells_use = true;
    home.run_for(seconds(300));
    assert_eq!(energies(&home, "plug-1").pop().unwrap().today, Some(0.5));
}

#[test]
fn a_meter_is_read_once_about_a_second_after_each_switching() {
    let mut strip = ModelPlug::strip(1, 2);
    strip.meters = vec![Meter { power: Some(0.0), ..Meter::default() }; 2];
    strip.used = vec![[0.0, 0.0]; 2];
    for (mut home, plug, part) in
        [(home_of(metered(1)), "plug-1", None), (home_of(strip), "outlet-2", Some(1))]
    {
        home.run_for(seconds(20));
        for (id, state) in [(1, RelayState::On), (2, RelayState::Off)] {
            home.forget_the_past();
            let begun = home.elapsed();
            let command = send(&mut home, plug, id, relay(state));
            assert!(is_ok(&home.result(command, seconds(1)).0));
            home.run_for(seconds(4));
            let read: Vec<_> = home
                .asked
                .iter()
                .filter(|(at, _, request)| *request == Request::Meter(part) && *at >= begun + millis(500))
                .map(|(at, ..)| *at - begun)
                .collect();
            assert!(read.iter().any(|at| (millis(900)..millis(1500)).contains(at)), "{plug}: {read:?}");
            assert!(read.len() <= 2, "once, and perhaps by its own interval: {read:?}");
        }
        let others = asked(&home, |request| matches!(request, Request::Meter(other) if *other != part));
        assert!(others <= 1, "the other outlet's is not");
    }
}

#[test]
fn the_first_energy_is_told_once_and_whole() {
    let mut home = home_of(metered(1));
    let whole = Energy { meter: home.plug(1).meters[0], today: Some(0.5), month: Some(7.25) };
    assert_eq!(energies(&home, "plug-1"), [whole]);
    home.run_for(seconds(3600));
    assert_eq!(energies(&home, "plug-1"), [whole], "nothing has changed");

    let mut home = home_of(metered(1));
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(120));
    assert_eq!(energies(&home, "plug-1"), [whole], "nor does another route tell it anew");
}

#[test]
fn the_energy_of_a_meter_without_statistics_is_told_once_they_have_failed() {
    for (lacks, today, month) in [
        (vec!["get_daystat"], None, Some(7.25)),
        (vec!["get_monthstat"], Some(0.5), None),
        (vec!["get_daystat", "get_monthstat"], None, None),
        (vec!["time"], None, None),
    ] {
        let mut home = home_of(ModelPlug { lacks: lacks.clone(), ..metered(1) });
        let published = Energy { meter: home.plug(1).meters[0], today, month };
        assert_eq!(energies(&home, "plug-1"), [published], "{lacks:?}");
    }
    let mut strip = ModelPlug::strip(1, 2);
    strip.meters = vec![metered(1).meters[0]; strip.outlets.len()];
    strip.used = vec![[0.5, 7.25]; strip.outlets.len()];
    let home = home_of(strip);
    for outlet in ["outlet-1", "outlet-2", "plug-1"] {
        let published = energies(&home, outlet);
        assert!(
            matches!(*published, [Energy { today: Some(_), month: Some(_), .. }]),
            "{outlet}: {published:?}"
        );
    }
}

#[test]
fn since_when_a_plug_is_on_is_the_same_while_its_count_stands_still() {
    let mut plug = ModelPlug::new(1, true);
    (plug.relay, plug.on_time) = (RelayState::On, Some(3600));
    let mut home = home_of(plug);
    let first = state(&home, "plug-1").unwrap().on_since;
    home.forget_the_past();
    home.run_for(seconds(600));
    let states = |home: &Scenario| {
        home.updates.iter().filter(|(_, update)| matches!(update, Update::State(..))).count()
    };
    assert_eq!(states(&home), 0, "{:#?}", home.updates);
    // It is switched off and on between two polls.
    home.plug(1).on_time = Some(1);
    home.run_for(seconds(6));
    assert!(states(&home) == 1 && state(&home, "plug-1").unwrap().on_since > first);
}

#[test]
fn since_when_a_plug_is_on_is_the_same_within_five_seconds() {
    let mut plug = ModelPlug::new(1, true);
    (plug.relay, plug.on_time) = (RelayState::On, Some(3600));
    let mut home = home_of(plug);
    home.forget_the_past();
    for second in 0..600 {
        let counted = 3600 + second + [0, 4, 1, 5, 2, 3, 0][second as usize % 7];
        home.plug(1).on_time = Some(counted);
        home.run_for(seconds(1));
    }
    let states = |home: &Scenario| {
        home.updates.iter().filter(|(_, update)| matches!(update, Update::State(..))).count()
    };
    assert_eq!(states(&home), 0, "{:#?}", home.updates);
}

#[test]
fn another_broker_is_told_what_the_meter_showed_last() {
    let mut home = home_of(metered(1));
    home.forget_the_past();
    let now = home.now;
    home.bridge.republish(now);
    home.run_for(millis(1));
    assert_eq!(energies(&home, "plug-1").len(), 1, "{:#?}", home.updates);
}

#[test]
fn a_plug_without_a_meter_is_never_asked_for_one() {
    let mut home = home_of(ModelPlug::new(1, true));
    home.run_for(seconds(3600));
    assert_eq!(asked(&home, |request| request.method().0 == "emeter" || request.method().0 == "time"), 0);
}

#[test]
fn a_meter_that_fails_spoils_nothing_else_and_is_asked_less_often() {
    let mut plug = metered(1);
    plug.lacks = vec!["emeter", "schedule", "count_down", "cnCloud"];
    let mut home = home_of(plug);
    home.run_for(seconds(600));
    assert_eq!(home.availability(1).len(), 1, "online once and for all");
    assert!(asked(&home, |request| matches!(request, Request::Meter(None))) <= 3);
    let command = home.switch(1, RelayState::On);
    assert!(is_ok(&home.result(command, seconds(1)).0));
}

#[test]
fn a_strip_is_shown_outlet_by_outlet_and_as_a_whole() {
    let mut home = home_of(ModelPlug::strip(1, 3));
    for plug in ["plug-1", "outlet-1", "outlet-2", "outlet-3"] {
        assert_eq!(state(&home, plug).unwrap().relay, RelayState::Off, "{plug}");
        let online = Update::Availability(name(plug), Availability::Online);
        assert!(home.updates.iter().any(|(_, update)| *update == online), "{plug}");
    }
    let outlet = info(&home, "outlet-2").outlet.clone().unwrap();
    assert_eq!((outlet.number, outlet.strip.as_str()), (1, "plug-1"));
    let names: Vec<_> = info(&home, "plug-1").outlets.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["outlet-1", "outlet-2", "outlet-3"]);
    assert_eq!(state(&home, "plug-1").unwrap().led, Some(RelayState::On));
    assert_eq!(state(&home, "outlet-1").unwrap().led, None, "the LED is the strip's");

    let command = send(&mut home, "outlet-2", 1, relay(RelayState::On));
    let (result, _) = home.result(command, seconds(1));
    assert_eq!(
        (result.plug.as_str(), result.state, result.route),
        ("outlet-2", Some(RelayState::On), Some(Route::Local))
    );
    assert_eq!(
        home.plug(1).outlets.iter().map(|(_, relay)| relay.is_on()).collect::<Vec<_>>(),
        [false, true, false]
    );
    assert_eq!(state(&home, "plug-1").unwrap().relay, RelayState::On, "on while any outlet is");
    assert_eq!(state(&home, "outlet-1").unwrap().relay, RelayState::Off);
}

#[test]
fn the_names_of_outlets_are_kept_over_a_restart() {
    let home = home_of(ModelPlug::strip(1, 2));
    let known = home.remembered[device_id(1).as_str()].clone();
    assert_eq!(known.outlets, [name("outlet-1"), name("outlet-2")]);
    let mut plug = ModelPlug::strip(1, 2);
    plug.outlets[0].0 = "Renamed".into();
    let settings = Settings { known: vec![known], adopt: true, cloud: true, ..Settings::default() };
    let mut home = Scenario::from_settings(settings, vec![plug]);
    home.run_for(seconds(4));
    assert!(state(&home, "outlet-1").is_some() && state(&home, "renamed").is_none());
}

#[test]
fn an_answer_that_leaves_outlets_out_costs_nobody_their_topics() {
    let mut home = home_of(ModelPlug::strip(1, 3));
    let outlets = std::mem::take(&mut home.plug(1).outlets);
    home.run_for(seconds(20));
    home.plug(1).outlets = outlets;
    home.run_for(seconds(20));
    assert!(!home.updates.iter().any(|(_, update)| matches!(update, Update::Gone(_))), "{:#?}", home.updates);
    let command = send(&mut home, "outlet-3", 1, relay(RelayState::On));
    assert!(is_ok(&home.result(command, seconds(1)).0));
}

#[test]
fn outlets_that_are_told_of_late_are_shown_like_the_others() {
    let strip = ModelPlug::strip(1, 3);
    let mut home = home_of(ModelPlug { outlets: strip.outlets[..1].to_vec(), ..strip.clone() });
    home.plug(1).outlets = strip.outlets;
    home.run_for(seconds(6));
    for outlet in ["outlet-1", "outlet-2", "outlet-3"] {
        let online = Update::Availability(name(outlet), Availability::Online);
        assert!(home.updates.iter().any(|(_, update)| *update == online), "{outlet}: {:#?}", home.updates);
    }
}

#[test]
fn several_outlets_at_once_go_as_one_request() {
    let mut home = home_of(ModelPlug::strip(1, 3));
    home.plug(1).lan = Lan::Slow(millis(300));
    home.run_for(seconds(6));
    home.forget_the_past();
    let first = send(&mut home, "outlet-1", 1, relay(RelayState::On));
    let second = send(&mut home, "outlet-2", 2, relay(RelayState::On));
    let third = send(&mut home, "outlet-3", 3, relay(RelayState::On));
    for command in [first, second, third] {
        assert!(is_ok(&home.result(command, seconds(3)).0));
    }
    let last = Request::SetOutlets(Outlets::one(1).and(Outlets::one(2)), RelayState::On);
    assert!(asked(&home, |request| request.changes_something()) <= 2, "{:?}", home.asked);
    assert_eq!(asked(&home, |request| *request == last), 1, "{:?}", home.asked);
}

#[test]
fn a_command_to_the_strip_switches_all_its_outlets_in_one_request_and_is_answered_once() {
    let mut home = home_of(ModelPlug::strip(1, 3));
    home.forget_the_past();
    let command = send(&mut home, "plug-1", 1, relay(RelayState::On));
    let (result, _) = home.result(command, seconds(1));
    assert!(is_ok(&result) && result.plug.as_str() == "plug-1");
    assert!(home.plug(1).outlets.iter().all(|(_, relay)| relay.is_on()));
    assert_eq!(asked(&home, |request| request.changes_something()), 1);
    home.run_for(seconds(20));
    assert_eq!(home.results(command).count(), 1);
}

#[test]
fn a_strip_whose_lan_is_silent_is_switched_over_the_cloud() {
    let mut home = home_of(ModelPlug::strip(1, 2));
    home.plug(1).lan = Lan::Silent;
    let command = send(&mut home, "outlet-2", 1, relay(RelayState::On));
    let (result, took) = home.result(command, seconds(2));
    assert_eq!((is_ok(&result), result.route), (true, Some(Route::Cloud)));
    assert!(took <= millis(700) + CLOUD_TRIP * 2);
}

#[test]
fn what_is_said_for_several_outlets_at_once_is_over_when_the_first_of_their_commands_is() {
    let mut home = home_of(ModelPlug::strip(1, 3));
    home.forget_the_past();
    home.plug(1).lan = Lan::Silent;
    home.plug(1).cloud = Cloud::Down;
    send(&mut home, "outlet-1", 1, relay(RelayState::On));
    send(&mut home, "outlet-2", 2, relay(RelayState::On));
    let first_ends = home.elapsed() + seconds(10);
    home.run_for(seconds(5));
    send(&mut home, "outlet-3", 3, relay(RelayState::On));
    send(&mut home, "outlet-1", 4, relay(RelayState::Off));
    home.run_for(seconds(20));

    let says_second =
        |request: &Request| matches!(request, Request::SetOutlets(outlets, RelayState::On) if outlets.has(1));
    let asked = home.asked.iter().zip(&home.deadlines).filter(|((_, _, request), _)| says_second(request));
    let deadlines: Vec<_> = asked.map(|(_, deadline)| *deadline).collect();
    assert!(deadlines.len() > 3 && deadlines.iter().all(|&deadline| deadline <= first_ends), "{deadlines:?}");
    assert!(deadlines.contains(&first_ends), "{deadlines:?}");
}

#[test]
fn a_command_to_a_strip_that_was_not_read_yet_takes_the_place_of_an_older_one_to_its_outlet() {
    let remembered = home_of(ModelPlug::strip(1, 2)).remembered.into_values().collect();
    let settings = Settings { known: remembered, adopt: true, cloud: true, ..Settings::default() };
    let mut strip = ModelPlug::strip(1, 2);
    strip.lan = Lan::Silent;
    strip.cloud = Cloud::Down;
    let mut home = Scenario::from_settings(settings, vec![strip]);
    let older = send(&mut home, "outlet-1", 1, relay(RelayState::On));
    let newer = send(&mut home, "plug-1", 2, relay(RelayState::Off));
    assert_eq!(home.results(older).next().unwrap().ended, Ended::Superseded);
    home.plug(1).lan = Lan::Works;
    assert!(is_ok(&home.result(newer, seconds(10)).0));
    home.run_for(seconds(10));
    assert!(home.plug(1).switched.iter().all(|(_, state)| *state == RelayState::Off), "{:?}", home.asked);
}

#[test]
fn a_late_execution_for_one_outlet_is_put_right_there_alone() {
    let mut home = home_of(ModelPlug::strip(1, 2));
    home.plug(1).lan = Lan::SilentButActs(millis(2500));
    send(&mut home, "outlet-1", 1, relay(RelayState::On));
    home.run_for(seconds(1));
    let newer = send(&mut home, "outlet-1", 2, relay(RelayState::Off));
    assert!(is_ok(&home.result(newer, seconds(2)).0));
    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(30));
    assert!(home.plug(1).outlets.iter().all(|(_, relay)| !relay.is_on()));
}

#[test]
fn a_strip_shows_the_sum_of_its_outlets_and_never_a_part_of_it() {
    let mut plug = ModelPlug::strip(1, 2);
    let meter = |power, current, total| Meter {
        power: Some(power),
        voltage: Some(230.0),
        current: Some(current),
        total: Some(total),
    };
    plug.meters = vec![meter(1.5, 0.25, 10.0), meter(2.0, 0.5, 20.0)];
    plug.used = vec![[0.5, 1.0], [0.25, 2.0]];
    let mut home = home_of(plug);
    home.run_for(seconds(120));
    let sum = Meter { power: Some(3.5), voltage: None, current: Some(0.75), total: Some(30.0) };
    let sum = Energy { meter: sum, today: Some(0.75), month: Some(3.0) };
    let published = energies(&home, "plug-1");
    assert_eq!((published.first(), published.last()), (Some(&sum), Some(&sum)), "whole from the first on");
    for energy in &published {
        let figures = |energy: &Energy| {
            let Meter { power, voltage, current, total } = energy.meter;
            [power, voltage, current, total, energy.today, energy.month]
        };
        for (figure, sum) in figures(energy).into_iter().zip(figures(&sum)) {
            assert!(figure.is_none() || figure == sum, "{published:#?}");
        }
    }
}

#[test]
fn a_sum_that_falls_outlet_by_outlet_at_midnight_is_told_in_one_step() {
    let mut plug = ModelPlug::strip(1, 2);
    plug.meters = vec![Meter::default(); 2];
    plug.used = vec![[3.0, 30.0], [3.0, 30.0]];
    let mut home = home_of(plug);
    home.run_for(seconds(120));
    assert_eq!(energies(&home, "plug-1").last().unwrap().today, Some(6.0));
    home.forget_the_past();
    // One of the two was read before midnight, the other after it.
    home.plug(1).used[0][0] = 0.0;
    let days =
        |outlet| move |request: &Request| matches!(request, Request::MeterDays(o, ..) if *o == Some(outlet));
    home.run_until(seconds(130), |home| asked(home, days(0)) > 0 && asked(home, days(1)) > 0);
    home.run_for(seconds(1));
    home.plug(1).used[1][0] = 0.25;
    home.run_for(seconds(600));
    let published: Vec<_> = energies(&home, "plug-1").iter().filter_map(|energy| energy.today).collect();
    assert!(published.iter().all(|today| [6.0, 0.25].contains(today)), "{published:?}");
    assert_eq!(published.last(), Some(&0.25));
}

#[test]
fn each_outlet_has_its_own_meter_which_is_asked_once_a_minute() {
    let mut plug = ModelPlug::strip(1, 2);
    plug.meters =
        vec![Meter { power: Some(1.0), ..Meter::default() }, Meter { power: Some(2.0), ..Meter::default() }];
    plug.used = vec![[0.1, 1.0], [0.2, 2.0]];
    let mut home = home_of(plug);
    assert_eq!(energies(&home, "outlet-2").pop().unwrap().meter.power, Some(2.0));
    assert_eq!(energies(&home, "outlet-1").pop().unwrap().today, Some(0.1));
    home.forget_the_past();
    home.run_for(seconds(600));
    let readings = asked(&home, |request| matches!(request, Request::Meter(Some(0))));
    assert!((9..=10).contains(&readings), "{readings}");
    assert_eq!(asked(&home, |request| matches!(request, Request::Meter(None))), 0);
}

#[test]
fn on_at_a_level_sets_the_level_first_and_zero_is_off() {
    let mut home = home_of(ModelPlug { brightness: Some(100), ..ModelPlug::new(1, true) });
    home.forget_the_past();
    let command = send(&mut home, "plug-1", 1, SetCommand { brightness: Some(33), ..SetCommand::default() });
    assert!(is_ok(&home.result(command, seconds(1)).0));
    let acts: Vec<_> = home.asked.iter().map(|(_, _, request)| request.clone()).collect();
    let acts: Vec<_> = acts.into_iter().filter(Request::changes_something).collect();
    assert_eq!(acts, [Request::SetBrightness(33), Request::SetRelayAndRead(RelayState::On)]);
    let shown = state(&home, "plug-1").unwrap();
    assert_eq!((shown.relay, shown.brightness), (RelayState::On, Some(33)));

    let command = send(&mut home, "plug-1", 2, SetCommand { brightness: Some(0), ..SetCommand::default() });
    assert!(is_ok(&home.result(command, seconds(1)).0));
    assert_eq!((home.plug(1).relay, home.plug(1).brightness), (RelayState::Off, Some(33)));
}

#[test]
fn what_cannot_be_dimmed_says_so() {
    let mut home = home_of(ModelPlug::new(1, true));
    let command = send(&mut home, "plug-1", 1, SetCommand { brightness: Some(33), ..SetCommand::default() });
    let Ended::Unfit(why) = home.result(command, seconds(1)).0.ended else { panic!() };
    assert!(why.contains("cannot be dimmed"), "{why}");
}

#[test]
fn a_fade_may_take_longer_than_commands_live() {
    let mut home = home_of(ModelPlug { brightness: Some(100), ..ModelPlug::new(1, true) });
    let set = SetCommand { brightness: Some(20), transition: Some(seconds(30)), ..SetCommand::default() };
    let command = send(&mut home, "plug-1", 1, set);
    let (result, took) = home.result(command, seconds(31));
    assert!(is_ok(&result) && took >= seconds(30), "{took:?}");
}

#[test]
fn while_a_lamp_fades_it_hears_other_commands() {
    let mut home = home_of(ModelPlug { brightness: Some(100), ..ModelPlug::new(1, true) });
    let set = SetCommand { brightness: Some(20), transition: Some(seconds(60)), ..SetCommand::default() };
    let fade = send(&mut home, "plug-1", 1, set);
    home.run_for(seconds(5));
    let led = SetCommand { led: Some(RelayState::Off), ..SetCommand::default() };
    let command = send(&mut home, "plug-1", 2, led);
    assert!(is_ok(&home.result(command, seconds(1)).0));
    // A press of the button is noticed, as always.
    home.plug(1).relay = RelayState::Off;
    home.run_until(seconds(6), |home| state(home, "plug-1").unwrap().relay == RelayState::Off);
    home.plug(1).relay = RelayState::On;
    home.run_for(seconds(40));
    assert_eq!(asked(&home, |request| matches!(request, Request::Fade(..))), 1, "polls show no mistake");
    assert!(home.results(fade).next().is_none());
}

#[test]
fn a_fade_is_broken_off_by_a_newer_command_to_the_relay() {
    let mut home = home_of(ModelPlug { brightness: Some(100), ..ModelPlug::new(1, true) });
    let set = SetCommand { brightness: Some(20), transition: Some(seconds(60)), ..SetCommand::default() };
    let fade = send(&mut home, "plug-1", 1, set);
    home.run_for(seconds(5));
    let off = send(&mut home, "plug-1", 2, relay(RelayState::Off));
    assert!(is_ok(&home.result(off, seconds(1)).0));
    assert_eq!(home.result(fade, seconds(0)).0.ended, Ended::Superseded);
    home.run_for(seconds(90));
    assert_eq!(home.plug(1).relay, RelayState::Off, "the fade does not light it again");
    assert_eq!(asked(&home, |request| matches!(request, Request::Fade(..))), 1);
}

#[test]
fn a_fade_ends_at_its_level_and_in_its_time() {
    let mut home = home_of(ModelPlug { brightness: Some(100), ..ModelPlug::new(1, true) });
    let set = SetCommand { brightness: Some(20), transition: Some(seconds(2)), ..SetCommand::default() };
    let command = send(&mut home, "plug-1", 1, set);
    let (result, took) = home.result(command, seconds(3));
    assert!(is_ok(&result) && took >= seconds(2), "{took:?}");
    assert_eq!(asked(&home, |request| *request == Request::Fade(20, 2000)), 1);
}

#[test]
fn a_command_for_a_while_makes_the_plug_itself_switch_back() {
    let mut home = home_of(ModelPlug::new(1, true));
    let set = SetCommand { lasting: Some(seconds(1800)), ..relay(RelayState::On) };
    let command = send(&mut home, "plug-1", 1, set);
    assert!(is_ok(&home.result(command, seconds(1)).0));
    let (at, then) = home.plug(1).count_down[0].expect("a count-down");
    assert_eq!(then, RelayState::Off);
    assert!(at.as_secs() >= 1800);
    let until = state(&home, "plug-1").unwrap().until.expect("until");
    assert!(until > home.now + seconds(1790) && until < home.now + seconds(1801));

    let stop = SetCommand { lasting: Some(seconds(0)), ..SetCommand::default() };
    let command = send(&mut home, "plug-1", 2, stop);
    assert!(is_ok(&home.result(command, seconds(1)).0));
    assert_eq!(home.plug(1).count_down[0], None);
    assert_eq!(state(&home, "plug-1").unwrap().until, None);
}

#[test]
fn for_a_while_needs_a_state() {
    let mut home = home_of(ModelPlug::new(1, true));
    let command =
        send(&mut home, "plug-1", 1, SetCommand { lasting: Some(seconds(9)), ..SetCommand::default() });
    let Ended::Unfit(why) = home.result(command, seconds(1)).0.ended else { panic!() };
    assert!(why.contains("`for` needs a `state`"), "{why}");
}

#[test]
fn a_plug_and_an_outlet_can_be_called_otherwise() {
    let mut home = home_of(ModelPlug::strip(1, 2));
    let alias = |text: &str| SetCommand { alias: Some(Arc::from(text)), ..SetCommand::default() };
    let strip = send(&mut home, "plug-1", 1, alias("Küche ☕"));
    assert!(is_ok(&home.result(strip, seconds(1)).0));
    let outlet = send(&mut home, "outlet-2", 2, alias("Toaster"));
    assert!(is_ok(&home.result(outlet, seconds(1)).0));
    assert_eq!(home.plug(1).alias, "Küche ☕");
    assert_eq!(home.plug(1).outlets[1].0, "Toaster");
    assert!(state(&home, "toaster").is_none(), "topics do not move");
}

#[test]
fn a_command_to_a_strip_that_was_never_read_is_split_over_its_outlets_once_they_are_known() {
    let toggle = SetCommand { relay: Some(Switch::Toggle), ..SetCommand::default() };
    let for_a_while = SetCommand { lasting: Some(seconds(1800)), ..relay(RelayState::On) };
    for set in [relay(RelayState::On), toggle, for_a_while.clone()] {
        let mut strip = ModelPlug::strip(1, 3);
        strip.lan = Lan::Slow(millis(50));
        let mut home = Scenario::of_unread(strip);
        let command = send(&mut home, "plug-1", 1, set.clone());
        let (result, _) = home.result(command, seconds(10));
        assert!(is_ok(&result), "{set:?}: {result:?}\n{:?}", home.asked);
        assert!(home.plug(1).outlets.iter().all(|(_, relay)| relay.is_on()), "{set:?}");
        if set == for_a_while {
            assert!(home.plug(1).count_down.iter().all(Option::is_some), "{:?}", home.plug(1).count_down);
        }
        let is_for_all = |request: &Request| matches!(request, Request::SetRelay(_));
        assert_eq!(asked(&home, is_for_all), 0, "{set:?}: {:?}", home.asked);
        assert!(asked(&home, |request| *request == Request::SysInfo) <= 6, "{:?}", home.asked);
        home.run_for(seconds(20));
        assert_eq!(home.results(command).count(), 1, "{set:?}");
    }
}

#[test]
fn a_device_that_turns_out_to_have_no_relay_says_so_at_once() {
    let mut plug = ModelPlug::new(1, true);
    plug.has_relay = false;
    let mut home = Scenario::of_unread(plug);
    let command = send(&mut home, "plug-1", 1, relay(RelayState::On));
    let (result, _) = home.result(command, seconds(1));
    assert_eq!(result.ended, Ended::Unfit("this device has no relay of its own"));
    assert_eq!(asked(&home, Request::changes_something), 0, "{:?}", home.asked);
}

#[test]
fn an_outlet_that_the_strip_no_longer_tells_of_is_not_asked_for_without_a_pause() {
    let mut home = home_of(ModelPlug::strip(1, 3));
    home.plug(1).hides = 1;
    home.run_for(seconds(20));
    let toggle = SetCommand { relay: Some(Switch::Toggle), ..SetCommand::default() };
    for (id, set) in [toggle, relay(RelayState::On)].into_iter().enumerate() {
        home.forget_the_past();
        let command = send(&mut home, "outlet-3", id as u64, set);
        let (result, _) = home.result(command, seconds(10));
        assert!(result.ended.error().is_some(), "{result:?}");
        assert!(home.asked.len() <= 60, "{} requests in ten seconds", home.asked.len());
    }
}
