//! Stories of `TOGGLE` to a strip as a whole: all outlets off while any is on, else all on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

use crate::support::scenario::*;
use hs100d::bridge::Settings;
use hs100d::bridge::event::{CommandId, Ended, Event, Origin};
use hs100d::model::{PlugCommand, PlugName, RelayState, SetCommand, Switch};
use hs100d::smarthome::message::Request;

const ON: RelayState = RelayState::On;
const OFF: RelayState = RelayState::Off;
const TOGGLE: Switch = Switch::Toggle;
const STRIP: &str = "plug-1";

fn strip(outlets: &[RelayState]) -> ModelPlug {
    let mut strip = ModelPlug::strip(1, outlets.len());
    for (outlet, state) in strip.outlets.iter_mut().zip(outlets) {
        outlet.1 = *state;
    }
    strip
}

/// A home whose strip was read.
fn home_of(strip: ModelPlug) -> Scenario {
    let settings = Settings { known: vec![known(1)], adopt: true, cloud: true, ..Settings::default() };
    let mut home = Scenario::from_settings(settings, vec![strip]);
    home.run_for(seconds(4));
    home.forget_the_past();
    home
}

/// A home whose strip and its outlets are known from an earlier run, and cannot be reached yet.
fn home_of_unreached(outlets: &[RelayState]) -> Scenario {
    let known = home_of(strip(outlets)).bridge.known_plugs().collect();
    let settings = Settings { known, adopt: true, cloud: true, ..Settings::default() };
    let mut home = Scenario::from_settings(
        settings,
        vec![ModelPlug { lan: Lan::Refused, cloud: Cloud::Down, ..strip(outlets) }],
    );
    home.run_for(seconds(1));
    home.forget_the_past();
    home
}

fn set(home: &mut Scenario, plug: &str, id: u64, set: SetCommand) -> CommandId {
    let id = CommandId::new(Origin::Mqtt, id);
    let plug = PlugName::new(plug).unwrap();
    home.event(Event::Command { id, plug, order: PlugCommand::Set(set) });
    id
}

fn switch(home: &mut Scenario, plug: &str, id: u64, switch: Switch) -> CommandId {
    set(home, plug, id, SetCommand { relay: Some(switch), ..SetCommand::default() })
}

fn states(home: &mut Scenario) -> Vec<RelayState> {
    home.plug(1).outlets.iter().map(|(_, state)| *state).collect()
}

/// The states into which outlets were switched, in order and each once in a row.
fn sent(home: &Scenario) -> Vec<RelayState> {
    let mut sent: Vec<_> = home
        .asked
        .iter()
        .filter_map(|(_, _, request)| match request {
            Request::SetOutlets(_, state) => Some(*state),
            request => {
                assert!(!request.changes_something(), "{request:?}");
                None
            }
        })
        .collect();
    sent.dedup();
    sent
}

#[test]
fn a_toggle_switches_all_off_while_any_outlet_is_on_and_else_all_on() {
    for kind in ["read", "unread", "unreached"] {
        let mixed = [OFF, ON, OFF];
        let mut home = match kind {
            "read" => home_of(strip(&mixed)),
            "unread" => Scenario::of_unread(strip(&mixed)),
            _ => home_of_unreached(&mixed),
        };
        home.plug(1).lan = Lan::Works;
        for (id, state) in [(1, OFF), (2, ON), (3, OFF)] {
            home.forget_the_past();
            let command = switch(&mut home, STRIP, id, TOGGLE);
            let (result, _) = home.result(command, seconds(5));
            assert_eq!((is_ok(&result), result.state), (true, Some(state)), "{kind}");
            assert_eq!(states(&mut home), [state; 3], "{kind}");
            home.run_for(seconds(20));
            assert_eq!(home.results(command).count(), 1, "{kind}");
            assert_eq!(sent(&home), [state], "{kind}");
        }
    }
}

#[test]
fn a_toggle_is_resolved_against_what_is_read_and_not_against_what_was_believed() {
    let mut home = home_of(strip(&[OFF, OFF]));
    home.plug(1).outlets[1].1 = ON;
    let command = switch(&mut home, STRIP, 1, TOGGLE);
    assert!(is_ok(&home.result(command, seconds(2)).0));
    assert_eq!(states(&mut home), [OFF, OFF], "somebody had pressed the button");
}

#[test]
fn a_second_toggle_inverts_what_the_first_desires() {
    for (outlets, state) in [([OFF, ON], ON), ([OFF, OFF], OFF)] {
        for unread in [false, true] {
            let mut home =
                if unread { Scenario::of_unread(strip(&outlets)) } else { home_of(strip(&outlets)) };
            let first = switch(&mut home, STRIP, 1, TOGGLE);
            let second = switch(&mut home, STRIP, 2, TOGGLE);
            assert_eq!(home.results(first).next().map(|result| &result.ended), Some(&Ended::Superseded));
            assert!(is_ok(&home.result(second, seconds(5)).0));
            assert_eq!(states(&mut home), [state; 2], "{outlets:?}, unread: {unread}");
        }
    }
}

/// What is sent to a strip that cannot be reached: older commands, a toggle of the whole, newer commands.
type Story<'a> = (&'a [RelayState], &'a [(&'a str, Switch)], &'a [(&'a str, Switch)], &'a [RelayState]);

#[test]
fn a_toggle_that_waits_is_relative_to_older_commands_and_newer_ones_are_relative_to_it() {
    let (on, off) = (Switch::To(ON), Switch::To(OFF));
    let (first, second) = ("outlet-1", "outlet-2");
    let stories: [Story<'_>; 16] = [
        (&[OFF, OFF], &[], &[], &[ON, ON]),
        // An older command to an outlet counts as done.
        (&[OFF, OFF], &[(first, on)], &[], &[OFF, OFF]),
        (&[ON, OFF], &[(first, off)], &[], &[ON, ON]),
        (&[ON, ON], &[(first, off)], &[], &[OFF, OFF]),
        (&[OFF, OFF], &[(first, TOGGLE)], &[], &[OFF, OFF]),
        (&[ON, OFF], &[(first, TOGGLE)], &[], &[ON, ON]),
        (&[ON, OFF], &[(STRIP, off)], &[], &[ON, ON]),
        (&[ON, OFF], &[(STRIP, TOGGLE)], &[], &[ON, ON]),
        // A newer command to an outlet is left alone; its toggle inverts what the strip's desires.
        (&[ON, OFF], &[], &[(first, on)], &[ON, OFF]),
        (&[OFF, OFF], &[], &[(first, off)], &[OFF, ON]),
        (&[OFF, OFF], &[], &[(first, TOGGLE)], &[OFF, ON]),
        (&[ON, OFF], &[], &[(second, TOGGLE)], &[OFF, ON]),
        // A newer command to the strip replaces it, and what came for an outlet in between.
        (&[ON, OFF], &[], &[(STRIP, on)], &[ON, ON]),
        (&[ON, OFF], &[], &[(first, on), (STRIP, TOGGLE)], &[OFF, OFF]),
        (&[OFF, OFF], &[], &[(first, off), (STRIP, TOGGLE)], &[OFF, OFF]),
        (&[ON, OFF], &[], &[(first, TOGGLE), (second, off), (STRIP, TOGGLE)], &[OFF, OFF]),
    ];
    for (outlets, older, newer, expected) in stories {
        let mut home = home_of_unreached(outlets);
        let mut commands = vec![];
        for &(plug, order) in older.iter().chain(&[(STRIP, TOGGLE)]).chain(newer) {
            commands.push(switch(&mut home, plug, commands.len() as u64 + 1, order));
            home.run_for(millis(300));
        }
        home.plug(1).lan = Lan::Works;
        home.plug(1).switched.clear();
        home.run_for(seconds(9));
        let story = format!("{outlets:?}: {older:?}, {newer:?}: {:?}", home.asked);
        assert_eq!(states(&mut home), expected, "{story}");
        for command in commands {
            let results: Vec<_> = home.results(command).collect();
            assert_eq!(results.len(), 1, "{story}");
            assert!(matches!(results[0].ended, Ended::Ok | Ended::Superseded), "{story}: {results:?}");
        }
        // Each outlet is switched at most once, whatever was desired on the way.
        assert!(home.plug(1).switched.len() <= outlets.len(), "{story}");
    }
}

#[test]
fn a_toggle_that_waits_too_long_switches_nothing() {
    let mut home = home_of_unreached(&[ON, OFF]);
    let older = switch(&mut home, "outlet-1", 1, Switch::To(OFF));
    let toggle = switch(&mut home, STRIP, 2, TOGGLE);
    assert_eq!(home.results(older).next().map(|result| &result.ended), Some(&Ended::Superseded));
    home.forget_the_past();
    home.run_for(seconds(11));
    assert!(matches!(home.results(toggle).next().map(|result| &result.ended), Some(Ended::Error(_))));
    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(60));
    assert_eq!(states(&mut home), [ON, OFF]);
    assert_eq!((sent(&home), home.results(toggle).count()), (vec![], 1));
}

#[test]
fn a_toggle_is_repeated_as_the_state_that_it_was_resolved_to() {
    // The strip acts, and the answer is lost: a relative request would toggle it back.
    let mut home = home_of(ModelPlug { cloud: Cloud::Down, ..strip(&[ON, OFF, OFF]) });
    let command = switch(&mut home, STRIP, 1, TOGGLE);
    home.run_until(seconds(1), |home| home.asked.iter().any(|(_, _, request)| *request == Request::SysInfo));
    home.plug(1).lan = Lan::SilentButActs(millis(20));
    home.run_for(seconds(6));
    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(6));
    assert_eq!(home.results(command).count(), 1);
    assert_eq!((sent(&home), states(&mut home)), (vec![OFF], vec![OFF; 3]), "{:?}", home.asked);
}

#[test]
fn a_toggle_for_a_while_counts_down_to_the_other_state() {
    for (outlets, state) in [([OFF, ON], OFF), ([OFF, OFF], ON)] {
        for unread in [false, true] {
            let mut home =
                if unread { Scenario::of_unread(strip(&outlets)) } else { home_of(strip(&outlets)) };
            let for_a_while =
                SetCommand { relay: Some(TOGGLE), lasting: Some(seconds(1800)), ..SetCommand::default() };
            let command = set(&mut home, STRIP, 1, for_a_while);
            assert!(is_ok(&home.result(command, seconds(8)).0));
            let then: Vec<_> = home.plug(1).count_down.iter().map(|running| running.map(|it| it.1)).collect();
            assert_eq!(states(&mut home), [state; 2]);
            assert_eq!(then, [Some(!state); 2], "{outlets:?}, unread: {unread}");
        }
    }
}

#[test]
fn a_toggle_of_a_strip_that_tells_of_no_outlet_fails_at_once() {
    let mut home = home_of(strip(&[ON, OFF]));
    home.plug(1).hides = 2;
    home.plug(1).has_relay = false;
    home.run_for(seconds(6));
    home.forget_the_past();
    let for_a_while =
        SetCommand { relay: Some(TOGGLE), lasting: Some(seconds(1800)), ..SetCommand::default() };
    let command = set(&mut home, STRIP, 1, for_a_while);
    let (result, _) = home.result(command, seconds(1));
    let Ended::Unfit(why) = result.ended else { panic!("{result:?}") };
    assert!(why.contains("switch it on or off instead"), "{why}");
    home.run_for(seconds(20));
    assert_eq!((sent(&home), home.results(command).count()), (vec![], 1));
}
