//! One plug, with a LAN and a cloud that fail in turn, on a simulated clock.

use crate::support::scenario::*;
use hs100d::bridge::event::{
    BridgeCommand, CloudStatus, Ended, Event, Identity, Notice, NoticeKind, Origin, RequestId, Update,
};
use hs100d::bridge::route::{RoutePolicy, RoutePreference};
use hs100d::bridge::snapshot::Snapshot;
use hs100d::bridge::{PlugSettings, Settings};
use hs100d::model::{Availability, Failure, LanProtocol, PlugCommand, RelayState, Route, SetCommand, Switch};
use hs100d::smarthome::message::Request;
use hs100d::transport::cloud::rate_limit::Bucket;
use std::collections::BTreeMap;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(10);

/// The expected outcome of one row of the failure table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    done: bool,
    /// The route in the result.
    route: Option<Route>,
    /// The routes that got a relay command, each once, in the order of the first request.
    tried: Vec<Route>,
    /// The bound for the result.
    within: Duration,
}

fn expected(lan: Lan, cloud: Cloud) -> Row {
    use Route::{Cloud as C, Local as L};
    let row = |done, route, tried: &[Route], within| Row { done, route, tried: tried.to_vec(), within };
    let cloud_call = match cloud {
        Cloud::TokenExpired => CLOUD_TRIP * 3,
        Cloud::RefreshRefused => CLOUD_TRIP * 4,
        _ => CLOUD_TRIP,
    };
    // A request that the plug may not have understood is sent again with one method, and read back.
    let (lan_trips, cloud_calls) = match lan {
        Lan::Garbage | Lan::CutOffJson | Lan::HugeLength => (LAN_TRIP * 2, cloud_call * 2),
        Lan::ResetAfterRequest | Lan::ClosedWithoutReply => (LAN_TRIP * 2, cloud_call * 2),
        _ => (LAN_TRIP, cloud_call),
    };
    let cloud_works = matches!(cloud, Cloud::Works | Cloud::TokenExpired | Cloud::RefreshRefused);
    let cloud_exists = cloud != Cloud::Off;
    match lan {
        Lan::Works => row(true, Some(L), &[L], LAN_TRIP),
        Lan::DeviceError => row(false, Some(L), &[L], LAN_TRIP * 2),
        Lan::Silent if cloud_works => row(true, Some(C), &[L, C], millis(700) + cloud_calls),
        _ if cloud_works => row(true, Some(C), &[L, C], lan_trips + cloud_calls),
        _ if cloud_exists => row(false, None, &[L, C], TTL),
        _ => row(false, None, &[L], TTL),
    }
}

#[test]
fn every_row_of_the_failure_table_takes_its_route_within_its_bound() {
    let lans = [
        Lan::Works,
        Lan::Refused,
        Lan::NoRoute,
        Lan::Silent,
        Lan::ResetAfterRequest,
        Lan::ClosedWithoutReply,
        Lan::Garbage,
        Lan::CutOffJson,
        Lan::HugeLength,
        Lan::DeviceError,
        Lan::AnotherPlug,
    ];
    let clouds = [
        Cloud::Works,
        Cloud::Off,
        Cloud::Down,
        Cloud::Silent,
        Cloud::TokenExpired,
        Cloud::RefreshRefused,
        Cloud::Throttled,
        Cloud::PlugOffline,
        Cloud::WrongPassword,
    ];
    for (lan, cloud) in lans.into_iter().flat_map(|lan| clouds.map(|cloud| (lan, cloud))) {
        let expected = expected(lan, cloud);
        let mut home = Scenario::with(1, RoutePolicy::default(), cloud != Cloud::Off);
        home.run_for(seconds(4));
        home.forget_the_past();
        home.plug(1).lan = lan;
        home.plug(1).cloud = cloud;

        let command = home.switch(1, RelayState::On);
        let (result, took) = home.result(command, TTL);

        let mut tried = home.switching_routes();
        tried.dedup();
        tried.truncate(2);
        let row = Row { done: is_ok(&result), route: result.route, tried, within: expected.within };
        assert_eq!(row, expected, "{lan:?} x {cloud:?}: {result:?}");
        assert!(took <= expected.within, "{lan:?} x {cloud:?} took {took:?}");
        let relay = home.plug(1).relay;
        assert_eq!(relay.is_on(), expected.done, "{lan:?} x {cloud:?}");
        home.run_for(millis(1));
        if expected.done || lan == Lan::DeviceError {
            assert_eq!(home.shown(1).expect("a state").relay, relay, "{lan:?} x {cloud:?}");
        }
        home.run_for(seconds(60));
        assert_eq!(home.results(command).count(), 1, "{lan:?} x {cloud:?}: exactly one result");
        assert_eq!(
            home.plug(1).relay.is_on(),
            expected.done,
            "{lan:?} x {cloud:?}: nothing is done after its time"
        );
    }
}

#[test]
fn the_event_of_another_route_says_how_the_one_before_failed() {
    for (lan, why) in [
        (Lan::Refused, "connection refused"),
        (Lan::Silent, "no answer in time"),
        (Lan::ResetAfterRequest, "connection closed before the answer"),
    ] {
        let mut home = Scenario::settled(1);
        home.plug(1).lan = lan;
        home.switch(1, RelayState::On);
        home.run_until(seconds(6), |home| home.happened(NoticeKind::RouteChanged) == 1);
        home.plug(1).lan = Lan::Works;
        home.run_until(seconds(20), |home| home.happened(NoticeKind::RouteChanged) == 2);
        let details = home.updates.iter().filter_map(|(_, update)| match update {
            Update::Notice(Notice { kind: NoticeKind::RouteChanged, detail, .. }) => Some(detail.clone()),
            _ => None,
        });
        assert_eq!(
            details.collect::<Vec<_>>(),
            [format!("local -> cloud (local: {why})"), "cloud -> local".into()]
        );
    }
}

#[test]
fn a_refused_lan_is_probed_and_used_again_from_its_first_answer() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Refused;
    home.run_until(seconds(6), |home| home.happened(NoticeKind::RouteChanged) == 1);
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Cloud));
    home.run_for(seconds(120));
    assert_eq!(home.availability(1), [], "the cloud keeps it online");

    home.plug(1).lan = Lan::Works;
    home.run_until(seconds(11), |home| home.shown(1).is_some_and(|state| state.route == Some(Route::Local)));
    home.forget_the_past();
    let command = home.switch(1, RelayState::On);
    let (result, _) = home.result(command, LAN_TRIP * 2);
    assert_eq!((result.route, home.switching_routes()), (Some(Route::Local), vec![Route::Local]));
}

#[test]
fn a_resting_lan_comes_after_the_cloud_and_is_not_dropped() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(20));
    home.forget_the_past();
    let command = home.switch(1, RelayState::On);
    let (result, took) = home.result(command, seconds(1));
    assert!(is_ok(&result) && took <= CLOUD_TRIP * 2, "{result:?} {took:?}");
    assert_eq!(home.switching_routes(), [Route::Cloud]);

    home.plug(1).cloud = Cloud::Silent;
    home.plug(1).lan = Lan::Works;
    home.forget_the_past();
    let command = home.switch(1, RelayState::Off);
    let (result, took) = home.result(command, seconds(1));
    assert_eq!(result.route, Some(Route::Local), "{result:?}");
    assert!(took <= millis(700) + LAN_TRIP * 2, "{took:?}");
}

#[test]
fn a_silent_lan_is_rested_once_the_cloud_had_to_answer() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Silent;
    let first = home.switch(1, RelayState::On);
    assert!(home.result(first, seconds(2)).1 >= millis(700));
    let second = home.switch(1, RelayState::Off);
    let (result, took) = home.result(second, seconds(2));
    assert!(
        is_ok(&result) && took <= CLOUD_TRIP * 2,
        "the second command does not wait for the LAN: {took:?}"
    );
}

#[test]
fn at_whatever_moment_of_a_poll_a_silent_lan_meets_a_command_it_is_rested_by_it() {
    for tenths in 0..60 {
        let mut home = Scenario::settled(1);
        home.plug(1).lan = Lan::Silent;
        home.run_for(millis(tenths * 100));
        let first = home.switch(1, RelayState::On);
        let (_, took) = home.result(first, seconds(2));
        assert!(took <= millis(700) + CLOUD_TRIP * 2, "after {tenths} tenths of a second: {took:?}");
        assert_eq!(home.shown(1).unwrap().route, Some(Route::Cloud), "after {tenths} tenths of a second");
        let second = home.switch(1, RelayState::Off);
        let (_, took) = home.result(second, seconds(2));
        assert!(took <= CLOUD_TRIP * 2, "the second waits for the LAN after {tenths} tenths: {took:?}");
    }
}

#[test]
fn the_cloud_serves_from_the_moment_at_which_the_lan_rests_if_it_has_just_answered() {
    for lan in
        [Lan::ResetAfterRequest, Lan::ClosedWithoutReply, Lan::Garbage, Lan::CutOffJson, Lan::HugeLength]
    {
        let mut home = Scenario::settled(1);
        home.plug(1).lan = lan;
        let command = home.switch(1, RelayState::On);
        assert_eq!(home.result(command, seconds(1)).0.route, Some(Route::Cloud), "{lan:?}");
        assert_eq!(home.shown(1).unwrap().route, Some(Route::Local), "{lan:?}: it may have been a hiccup");
        home.run_for(seconds(2));
        assert_eq!(
            home.shown(1).unwrap().route,
            Some(Route::Cloud),
            "{lan:?}: the second look failed as well"
        );
        assert_eq!(home.happened(NoticeKind::RouteChanged), 1, "{lan:?}");
    }
}

#[test]
fn an_answer_of_the_cloud_from_long_ago_does_not_make_it_serve() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(20));
    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(300));
    home.forget_the_past();
    home.plug(1).lan = Lan::Refused;
    home.plug(1).cloud = Cloud::PlugOffline;
    home.run_for(seconds(20));
    assert_eq!(home.happened(NoticeKind::RouteChanged), 0, "{:?}", home.updates);
}

#[test]
fn without_a_cloud_a_command_is_tried_on_the_lan_until_its_time_is_over() {
    let mut home = Scenario::with(1, policy(RoutePreference::Local), false);
    home.run_for(seconds(4));
    home.plug(1).lan = Lan::Refused;
    let command = home.switch(1, RelayState::On);
    home.run_for(seconds(5));
    home.plug(1).lan = Lan::Works;
    let (result, _) = home.result(command, seconds(5));
    assert!(is_ok(&result), "{result:?}");
}

#[test]
fn a_command_that_no_route_delivers_is_dropped_in_its_time_and_the_truth_is_shown_again() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Silent;
    home.plug(1).cloud = Cloud::PlugOffline;
    let command = home.switch(1, RelayState::On);
    let (result, took) = home.result(command, TTL);
    assert_eq!(took, TTL);
    let Ended::Error(why) = &result.ended else { panic!("{result:?}") };
    assert!(why.contains("local: no answer in time") && why.contains("cloud: the cloud says"), "{why}");
    assert_eq!(home.shown(1).unwrap().relay, RelayState::Off, "published again although it did not change");
    assert_eq!(home.happened(NoticeKind::CommandFailed), 1);
}

#[test]
fn a_plug_that_goes_offline_says_what_each_route_answered_last() {
    let table = [
        (
            Lan::Refused,
            Cloud::PlugOffline,
            "local: connection refused; cloud: the cloud says that the plug is offline",
        ),
        (
            Lan::Silent,
            Cloud::Down,
            "local: no answer in time; cloud: the cloud is out of reach (connection refused)",
        ),
        (Lan::NoRoute, Cloud::WrongPassword, "local: no route to the host; cloud: the cloud is stopped"),
        (Lan::Refused, Cloud::Off, "local: connection refused"),
    ];
    for (lan, cloud, detail_part) in table {
        let has_cloud = cloud != Cloud::Off;
        let mut home = Scenario::with(1, RoutePolicy::default(), has_cloud);
        home.run_for(seconds(4));
        (home.plug(1).lan, home.plug(1).cloud) = (lan, cloud);
        home.run_until(seconds(1200), |home| home.happened(NoticeKind::PlugOffline) > 0);
        let detail = home.updates.iter().find_map(|(_, update)| match update {
            Update::Notice(it) if it.kind == NoticeKind::PlugOffline => Some(it.detail.clone()),
            _ => None,
        });
        let detail = detail.unwrap();
        assert!(
            detail.starts_with(&format!("no answer on any route ({detail_part}")),
            "{lan:?} {cloud:?}: {detail}"
        );
    }
    let mut home = Scenario::with(1, policy(RoutePreference::Local), true);
    home.run_for(seconds(4));
    home.plug(1).lan = Lan::Refused;
    home.run_until(seconds(1200), |home| home.happened(NoticeKind::PlugOffline) > 0);
    let says = |(_, update): &(_, Update)| matches!(update, Update::Notice(it) if it.detail.ends_with("(local: connection refused)"));
    assert!(home.updates.iter().any(says), "a route that is not used says nothing: {:?}", home.updates);
}

#[test]
fn two_commands_at_once_leave_the_second_one_standing() {
    for second in [RelayState::Off, RelayState::On] {
        let mut home = Scenario::settled(1);
        let older = home.switch(1, !second);
        let newer = home.switch(1, second);
        assert_eq!(home.result(older, seconds(1)).0.ended, Ended::Superseded);
        assert!(is_ok(&home.result(newer, seconds(1)).0));
        home.run_for(seconds(30));
        assert_eq!(home.plug(1).relay, second);
    }
}

#[test]
fn many_commands_while_one_is_under_way_fold_into_one() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Slow(millis(300));
    let commands: Vec<_> = (0..100).map(|n| home.switch(1, RelayState::from_bool(n % 2 == 1))).collect();
    home.run_for(seconds(10));
    assert!(home.switching_routes().len() <= 3, "{:?}", home.asked);
    assert_eq!(home.plug(1).relay, RelayState::On);
    for command in commands {
        assert_eq!(home.results(command).count(), 1);
    }
}

#[test]
fn a_newer_command_does_not_wait_behind_a_hung_older_one() {
    let mut home = Scenario::with(1, policy(RoutePreference::Local), false);
    home.run_for(seconds(4));
    home.plug(1).lan = Lan::Silent;
    home.switch(1, RelayState::On);
    home.run_for(seconds(1));
    home.plug(1).lan = Lan::Works;
    let newer = home.switch(1, RelayState::Off);
    let (result, took) = home.result(newer, seconds(1));
    assert!(is_ok(&result) && took <= LAN_TRIP * 2, "{took:?}");
}

#[test]
fn a_late_execution_of_an_older_command_is_put_right_once() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::SilentButActs(millis(2500));
    home.switch(1, RelayState::On);
    home.run_for(seconds(1));
    let newer = home.switch(1, RelayState::Off);
    assert!(is_ok(&home.result(newer, seconds(2)).0));
    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(30));
    let plug = home.plug(1);
    assert_eq!(plug.relay, RelayState::Off, "{:?}", plug.switched);
    assert_eq!(home.happened(NoticeKind::DriftCorrected), 1);

    home.press(1);
    home.run_for(seconds(30));
    assert_eq!(home.plug(1).relay, RelayState::On, "the button stands");
    assert_eq!(home.happened(NoticeKind::DriftCorrected), 1);
}

#[test]
fn a_press_after_the_look_for_a_late_execution_stands() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Silent;
    let asked = home.elapsed();
    home.switch(1, RelayState::On);
    home.run_for(seconds(1));
    let newer = home.switch(1, RelayState::Off);
    assert!(is_ok(&home.result(newer, seconds(2)).0));
    home.plug(1).lan = Lan::Works;
    // The older request is over after `local_timeout`; the state that a plug reports lags by less than this.
    let is_over = asked + seconds(3) + millis(350);
    let looked = |home: &Scenario| {
        home.asked.iter().any(|(at, _, request)| *request == Request::SysInfo && *at >= is_over)
    };
    home.run_until(seconds(10), looked);
    home.run_for(CLOUD_TRIP * 2);
    assert_eq!(home.shown(1).unwrap().relay, RelayState::Off);

    home.press(1);
    home.run_for(seconds(30));
    assert_eq!(home.plug(1).relay, RelayState::On, "the look has shown that the older one had not come");
    assert_eq!(home.happened(NoticeKind::DriftCorrected), 0);
}

#[test]
fn a_late_execution_is_looked_for_over_the_route_that_serves_by_then() {
    let poll_interval = seconds(300);
    let mut home = Scenario::with(1, RoutePolicy { poll_interval, ..RoutePolicy::default() }, true);
    home.run_for(seconds(400));
    home.plug(1).lan = Lan::SilentButActs(millis(2800));
    home.switch(1, RelayState::On);
    home.run_for(millis(100));
    // The cloud confirms it, and then the LAN answers.
    home.plug(1).lan = Lan::Slow(millis(1200));
    let newer = home.switch(1, RelayState::Off);
    let (result, _) = home.result(newer, seconds(3));
    assert_eq!((is_ok(&result), result.route), (true, Some(Route::Cloud)));
    home.run_for(seconds(20));
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
    assert_eq!(home.plug(1).relay, RelayState::Off, "the older one came last");
}

#[test]
fn a_look_for_a_late_execution_is_repeated_and_what_it_finds_is_put_right_however_short_commands_live() {
    let command_ttl = seconds(2);
    let mut home = Scenario::with(1, RoutePolicy { command_ttl, ..RoutePolicy::default() }, true);
    home.run_for(seconds(4));
    home.plug(1).lan = Lan::SilentButActs(millis(1500));
    home.switch(1, RelayState::On);
    home.run_for(millis(100));
    home.plug(1).lan = Lan::Silent;
    let newer = home.switch(1, RelayState::Off);
    assert!(is_ok(&home.result(newer, command_ttl).0));
    // Over the cloud no read is possible when the older request arrives.
    home.plug(1).cloud = Cloud::Throttled;
    home.run_for(seconds(6));
    home.plug(1).cloud = Cloud::Works;
    home.run_for(seconds(6));
    assert_eq!(home.plug(1).relay, RelayState::Off, "the older one came last");
    assert_eq!(home.happened(NoticeKind::DriftCorrected), 1);
}

#[test]
fn what_is_seen_long_after_an_older_command_can_have_come_is_let_be() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::SilentButActs(millis(2500));
    home.switch(1, RelayState::On);
    home.run_for(seconds(1));
    let newer = home.switch(1, RelayState::Off);
    assert!(is_ok(&home.result(newer, seconds(2)).0));
    home.plug(1).lan = Lan::Silent;
    home.plug(1).cloud = Cloud::Down;
    home.run_for(seconds(1800));
    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(120));
    assert_eq!(home.plug(1).relay, RelayState::On, "half an hour later nothing is switched any more");
    assert_eq!(home.happened(NoticeKind::DriftCorrected), 0);
    assert_eq!(home.shown(1).unwrap().relay, RelayState::On);
}

#[test]
fn a_command_that_was_carried_out_unseen_is_not_undone_when_its_time_is_over() {
    let mut home = Scenario::settled(1);
    let settled = home.switch(1, RelayState::Off);
    home.result(settled, seconds(1));
    home.plug(1).lan = Lan::SilentButActs(millis(100));
    home.plug(1).cloud = Cloud::Silent;
    let command = home.switch(1, RelayState::On);
    assert!(matches!(home.result(command, TTL).0.ended, Ended::Error(_)));
    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(60));
    assert_eq!(home.plug(1).relay, RelayState::On, "it was done within its time");
    assert_eq!(home.happened(NoticeKind::DriftCorrected), 0);
    assert_eq!(home.shown(1).unwrap().relay, RelayState::On);
}

#[test]
fn a_command_whose_time_is_over_is_never_revived() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Silent;
    home.plug(1).cloud = Cloud::Down;
    let command = home.switch(1, RelayState::On);
    home.result(command, TTL);
    home.plug(1).lan = Lan::Works;
    home.plug(1).cloud = Cloud::Works;
    home.run_for(seconds(120));
    assert_eq!(home.plug(1).switched, []);
}

#[test]
fn the_button_pressed_elsewhere_is_seen_within_one_poll_and_stands() {
    let mut home = Scenario::settled(1);
    let command = home.switch(1, RelayState::On);
    home.result(command, seconds(1));
    home.press(1);
    home.run_until(seconds(5) + LAN_TRIP, |home| home.shown(1).is_some_and(|state| !state.relay.is_on()));
    home.run_for(seconds(60));
    assert_eq!(home.plug(1).relay, RelayState::Off);
}

#[test]
fn a_toggle_is_resolved_against_what_is_read_and_not_against_what_was_believed() {
    let mut home = Scenario::settled(1);
    home.press(1);
    let command = home.toggle(1);
    assert!(is_ok(&home.result(command, seconds(1)).0));
    assert_eq!(home.plug(1).relay, RelayState::Off, "the button had switched it on unseen");
    let command = home.toggle(1);
    assert!(is_ok(&home.result(command, seconds(1)).0));
    assert_eq!(home.plug(1).relay, RelayState::On);
}

#[test]
fn two_toggles_at_once_leave_the_plug_as_it_was() {
    let mut home = Scenario::settled(1);
    home.toggle(1);
    let second = home.toggle(1);
    assert!(is_ok(&home.result(second, seconds(1)).0));
    assert_eq!(home.plug(1).relay, RelayState::Off);
}

#[test]
fn a_plug_is_offline_after_three_missed_polls_and_thirty_seconds_and_online_at_its_first_answer() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Silent;
    home.plug(1).cloud = Cloud::PlugOffline;
    let gone = home.elapsed();
    home.run_for(seconds(26));
    assert_eq!(home.availability(1), []);
    home.run_until(seconds(30), |home| !home.availability(1).is_empty());
    let (at, availability) = home.availability(1)[0];
    assert_eq!(availability, Availability::Offline);
    assert!(at - gone >= seconds(25) && at - gone <= seconds(45), "{:?}", at - gone);
    assert_eq!(home.shown(1).unwrap().route, None);

    home.plug(1).lan = Lan::Works;
    home.run_until(seconds(11), |home| home.availability(1).len() == 2);
    assert_eq!(home.availability(1)[1].1, Availability::Online);
}

#[test]
fn the_route_is_none_as_soon_as_no_route_answers_and_told_again_with_the_first_answer() {
    // (the LAN, the cloud, from the failure to `none`): a poll, and the second read after a hiccup.
    let rows = [
        (Lan::Refused, Cloud::Off, seconds(6)),
        (Lan::NoRoute, Cloud::Off, seconds(6)),
        (Lan::ClosedWithoutReply, Cloud::Off, seconds(7)),
        (Lan::Silent, Cloud::Off, seconds(13)),
        (Lan::Refused, Cloud::PlugOffline, seconds(7)),
        (Lan::Refused, Cloud::Down, seconds(7)),
        (Lan::Refused, Cloud::WrongPassword, seconds(7)),
    ];
    for (lan, cloud, bound) in rows {
        let mut home = Scenario::with(1, RoutePolicy::default(), cloud != Cloud::Off);
        home.run_for(seconds(4));
        assert_eq!(home.shown(1).unwrap().route, Some(Route::Local), "{lan:?} x {cloud:?}");
        home.plug(1).lan = lan;
        home.plug(1).cloud = cloud;
        let is_none = |home: &Scenario| home.shown(1).unwrap().route.is_none();
        home.run_until(bound, is_none);
        assert_eq!(home.availability(1).len(), 1, "{lan:?} x {cloud:?}: long before it counts as offline");
        home.run_for(seconds(90));
        assert!(is_none(&home), "{lan:?} x {cloud:?}: and it stays so");
        home.plug(1).lan = Lan::Works;
        home.run_until(seconds(11), |home| home.shown(1).unwrap().route == Some(Route::Local));
    }
}

#[test]
fn the_route_is_none_once_the_cloud_that_served_is_stopped_or_fails_as_well() {
    for cloud in [Cloud::PlugOffline, Cloud::WrongPassword, Cloud::Down] {
        let mut home = Scenario::settled(1);
        home.plug(1).lan = Lan::Refused;
        home.run_until(seconds(7), |home| home.shown(1).is_some_and(|s| s.route == Some(Route::Cloud)));
        home.plug(1).cloud = cloud;
        home.run_until(seconds(75), |home| home.shown(1).unwrap().route.is_none());
    }
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Refused;
    home.run_until(seconds(7), |home| home.shown(1).is_some_and(|s| s.route == Some(Route::Cloud)));
    home.event(Event::Cloud(CloudStatus::Stopped("wrong password".into())));
    home.run_until(seconds(1), |home| home.shown(1).unwrap().route.is_none());
}

#[test]
fn one_missed_poll_changes_nothing() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::ClosedWithoutReply;
    home.run_until(seconds(6), |home| !home.asked.is_empty());
    home.run_for(LAN_TRIP);
    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(60));
    assert_eq!(home.happened(NoticeKind::RouteChanged), 0);
    assert_eq!(home.availability(1), []);
}

#[test]
fn a_plug_that_the_lan_reaches_costs_no_cloud_call() {
    let mut home = Scenario::settled(3);
    home.run_for(seconds(3600));
    assert!(home.asked.iter().all(|&(_, route, _)| route == Route::Local));
}

#[test]
fn polls_that_are_due_in_a_moment_share_a_wake_up_and_are_hardly_more_for_it() {
    let mut home = Scenario::settled(100);
    home.run_for(seconds(60));
    home.forget_the_past();
    home.run_for(seconds(300));
    let mut polls_at = BTreeMap::new();
    for (at, ..) in home.asked.iter().filter(|(_, _, request)| *request == Request::SysInfo) {
        *polls_at.entry(*at).or_insert(0) += 1;
    }
    let polls: usize = polls_at.values().sum();
    // One every five seconds; at most a twentieth may be saved.
    assert!((6000..=6320).contains(&polls), "{polls}");
    assert!(polls_at.len() * 2 < polls, "{} wake-ups for {polls} polls", polls_at.len());
    assert!(polls_at.values().all(|together| *together <= 16), "never more than so many at once");
}

#[test]
fn a_plug_that_only_the_cloud_reaches_is_polled_at_the_clouds_own_interval() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(60));
    home.forget_the_past();
    home.run_for(seconds(600));
    let cloud = home.asked.iter().filter(|&&(_, route, _)| route == Route::Cloud).count();
    assert!((9..=11).contains(&cloud), "{cloud}");
    for protocol in [LanProtocol::Xor, LanProtocol::Klap] {
        let probes = home.spoken.iter().filter(|&&spoken| spoken == protocol).count();
        assert!((50..=61).contains(&probes), "{probes} in {protocol:?}");
    }
}

#[test]
fn a_poll_that_was_kept_back_says_nothing_until_the_last_answer_is_old() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Silent;
    home.run_until(seconds(60), |home| home.happened(NoticeKind::RouteChanged) == 1);
    home.plug(1).cloud = Cloud::Throttled;
    home.run_for(seconds(230));
    assert_eq!(home.availability(1), [], "the cloud reached it a few minutes ago");
    home.run_until(seconds(300), |home| home.availability(1).len() == 1);
    home.plug(1).cloud = Cloud::Works;
    home.run_until(seconds(40), |home| home.availability(1).len() == 2);
}

#[test]
fn a_plug_that_never_answered_is_offline_also_while_polls_are_kept_back() {
    let mut plug = ModelPlug::new(1, true);
    plug.cloud = Cloud::Throttled;
    let entry = PlugSettings {
        name: Some(plug_name(1)),
        identity: Identity { device_id: Some(device_id(1)), mac: None },
        address: None,
        policy: policy(RoutePreference::Cloud),
    };
    let settings = Settings { plugs: vec![entry], cloud: true, ..Settings::default() };
    let mut home = Scenario::from_settings(settings, vec![plug]);
    home.run_until(seconds(300), |home| home.availability(1).len() == 1);
    assert_eq!(home.availability(1)[0].1, Availability::Offline);
}

#[test]
fn a_stopped_cloud_is_left_alone_and_named_in_the_result() {
    let mut home = Scenario::settled(1);
    home.event(Event::Cloud(CloudStatus::Stopped("wrong password".into())));
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(300));
    let command = home.switch(1, RelayState::On);
    let (result, _) = home.result(command, TTL);
    let Ended::Error(why) = &result.ended else { panic!("{result:?}") };
    assert!(why.contains("cloud: the cloud is stopped (wrong password)"), "{why}");
    assert!(home.asked.iter().all(|&(_, route, _)| route == Route::Local));

    home.event(Event::Cloud(CloudStatus::Ok));
    home.forget_the_past();
    home.run_until(seconds(2), |home| home.shown(1).is_some_and(|state| state.route == Some(Route::Cloud)));
}

#[test]
fn one_dead_plug_delays_no_other() {
    let mut home = Scenario::settled(100);
    home.plug(1).lan = Lan::Silent;
    home.plug(1).cloud = Cloud::Silent;
    home.switch(1, RelayState::On);
    for number in 2..=100 {
        let command = home.switch(number, RelayState::On);
        let (_, took) = home.result(command, seconds(1));
        assert!(took <= LAN_TRIP * 3, "{number}: {took:?}");
    }
}

#[test]
fn a_command_of_two_parts_is_answered_once_when_both_are_done() {
    let mut home = Scenario::settled(1);
    let both = SetCommand {
        relay: Some(Switch::To(RelayState::On)),
        led: Some(RelayState::Off),
        ..SetCommand::default()
    };
    let command = home.send(1, PlugCommand::Set(both));
    assert!(is_ok(&home.result(command, seconds(1)).0));
    assert_eq!((home.plug(1).relay, home.plug(1).led), (RelayState::On, RelayState::Off));
    let shown = home.shown(1).unwrap();
    assert_eq!((shown.relay, shown.led), (RelayState::On, Some(RelayState::Off)));
    home.run_for(seconds(20));
    assert_eq!(home.results(command).count(), 1);
}

#[test]
fn a_plug_asked_to_be_read_is_read_at_once() {
    let mut home = Scenario::settled(1);
    home.press(1);
    let command = home.send(1, PlugCommand::Read);
    let (result, took) = home.result(command, seconds(1));
    assert_eq!((result.state, took), (Some(RelayState::On), LAN_TRIP));
    assert_eq!(home.shown(1).unwrap().relay, RelayState::On);
}

#[test]
fn a_plug_that_restarts_without_an_answer_has_done_what_it_was_told() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::ClosedWithoutReply;
    let command = home.send(1, PlugCommand::Reboot);
    assert!(is_ok(&home.result(command, seconds(1)).0));
    assert_eq!(home.asked.iter().filter(|(_, _, request)| *request == Request::Reboot).count(), 1);
}

#[test]
fn a_reading_that_was_asked_for_before_a_command_does_not_undo_what_is_shown() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(20));
    // A slow read over the cloud is in flight when the LAN is back and is used.
    home.plug(1).cloud = Cloud::Slow(seconds(8));
    home.run_until(seconds(70), |home| home.asked.last().is_some_and(|&(_, route, _)| route == Route::Cloud));
    home.plug(1).lan = Lan::Works;
    home.forget_the_past();
    let command = home.switch(1, RelayState::On);
    assert_eq!(home.result(command, seconds(9)).0.route, Some(Route::Local));
    home.run_for(seconds(30));
    let flickered = home.updates.iter().any(|(_, update)| {
        matches!(update, hs100d::bridge::event::Update::State(_, state) if state.relay == RelayState::Off)
    });
    assert!(!flickered, "{:?}", home.updates);
}

#[test]
fn nobody_can_make_a_plug_be_asked_without_a_pause() {
    let refresh = |number: u64| Event::Request {
        id: RequestId::new(Origin::Mqtt, number),
        ask: BridgeCommand::Refresh(None),
    };
    let mut home = Scenario::settled(1);
    for number in 0..400 {
        home.event(refresh(number));
        home.run_for(millis(5));
    }
    assert!(home.asked.len() <= 10, "{} requests in two seconds of refreshes", home.asked.len());

    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Refused;
    home.plug(1).cloud = Cloud::Down;
    home.run_for(seconds(20));
    home.forget_the_past();
    for _ in 0..400 {
        home.sight(1);
        home.run_for(millis(5));
    }
    for protocol in [LanProtocol::Xor, LanProtocol::Klap] {
        let asked = home.spoken.iter().filter(|&&spoken| spoken == protocol).count();
        assert!(asked <= 10, "{asked} requests in {protocol:?} in two seconds of sightings");
    }
}

#[test]
fn the_first_look_after_a_command_is_not_put_off() {
    let mut home = Scenario::settled(1);
    for number in 0..20 {
        let command = if number % 2 == 0 { home.toggle(1) } else { home.switch(1, RelayState::Off) };
        let (result, took) = home.result(command, LAN_TRIP * 3);
        assert!(is_ok(&result), "{result:?} after {took:?}");
    }
}

/// How often the relay was switched and read in one request, and how often only switched.
fn switching_requests(home: &Scenario) -> (usize, usize) {
    let count = |is_it: fn(&Request) -> bool| home.asked.iter().filter(|(_, _, it)| is_it(it)).count();
    (
        count(|request| matches!(request, Request::SetRelayAndRead(_))),
        count(|request| matches!(request, Request::SetRelay(_))),
    )
}

#[test]
fn a_plug_with_one_relay_is_switched_and_read_in_one_exchange() {
    for (kind, trip) in [(RoutePreference::Local, LAN_TRIP), (RoutePreference::Cloud, CLOUD_TRIP)] {
        let mut home = Scenario::with(1, policy(kind), true);
        home.run_for(seconds(4));
        for state in [RelayState::On, RelayState::Off] {
            home.forget_the_past();
            let command = home.switch(1, state);
            let (result, took) = home.result(command, trip);
            assert_eq!((is_ok(&result), result.state, took), (true, Some(state), trip), "{kind:?}");
            assert_eq!(home.asked.len(), 1, "{:?}", home.asked);
            assert_eq!(home.shown(1).unwrap().relay, state);
        }
    }
}

#[test]
fn a_firmware_that_takes_switching_and_reading_at_once_badly_is_asked_so_no_more() {
    let table = [
        (SwitchAndRead::Both, 8),
        (SwitchAndRead::OldState, 8),
        (SwitchAndRead::SwitchOnly, 1),
        (SwitchAndRead::Refused, 1),
        (SwitchAndRead::Garbled, 1),
        (SwitchAndRead::NoAnswer, 2),
    ];
    for (habit, both) in table {
        for kind in [RoutePreference::Local, RoutePreference::Cloud, RoutePreference::LocalThenCloud] {
            let mut home = Scenario::with(1, policy(kind), true);
            home.run_for(seconds(4));
            home.plug(1).switch_and_read = habit;
            home.forget_the_past();
            let mut relay = home.plug(1).relay;
            for number in 0..8 {
                let command = if number % 3 == 0 { home.toggle(1) } else { home.switch(1, !relay) };
                let (result, _) = home.result(command, seconds(5));
                relay = !relay;
                assert!(is_ok(&result), "{habit:?} {kind:?}: {result:?}");
                assert_eq!(home.plug(1).relay, relay, "{habit:?} {kind:?}: switched once, not twice");
                assert_eq!(home.shown(1).unwrap().relay, relay, "{habit:?} {kind:?}");
                home.run_for(seconds(2));
            }
            assert_eq!(switching_requests(&home).0, both, "{habit:?} {kind:?}: {:?}", home.asked);
            if kind != RoutePreference::LocalThenCloud {
                assert_eq!(home.happened(NoticeKind::RouteChanged), 0, "{habit:?} {kind:?}");
            }
            // Another firmware version may handle it.
            home.plug(1).firmware = "1.2.6";
            home.plug(1).switch_and_read = SwitchAndRead::Both;
            home.run_for(seconds(120));
            home.forget_the_past();
            let command = home.switch(1, !relay);
            assert!(is_ok(&home.result(command, seconds(5)).0));
            assert_eq!(switching_requests(&home), (1, 0), "{habit:?} {kind:?}: {:?}", home.asked);
        }
    }
}

#[test]
fn a_firmware_that_hangs_when_switched_and_read_at_once_is_found_out() {
    for kind in [RoutePreference::Local, RoutePreference::LocalThenCloud] {
        let mut home = Scenario::with(1, policy(kind), true);
        home.run_for(seconds(4));
        home.plug(1).switch_and_read = SwitchAndRead::Hangs;
        for _ in 0..4 {
            let wanted = !home.plug(1).relay;
            let command = home.toggle(1);
            let (result, _) = home.result(command, seconds(5));
            assert!(is_ok(&result), "{kind:?}: {result:?}");
            assert_eq!(home.plug(1).relay, wanted, "{kind:?}");
            home.run_for(seconds(60));
        }
        home.forget_the_past();
        let wanted = !home.plug(1).relay;
        let command = home.switch(1, wanted);
        assert!(is_ok(&home.result(command, LAN_TRIP * 2).0), "{kind:?}");
        assert_eq!(switching_requests(&home), (0, 1), "{kind:?}");
    }
}

#[test]
fn a_bad_network_is_not_taken_for_a_firmware_that_cannot_be_switched_and_read_at_once() {
    for lan in [Lan::Garbage, Lan::ClosedWithoutReply, Lan::Silent, Lan::ResetAfterRequest, Lan::DeviceError]
    {
        let mut home = Scenario::with(1, policy(RoutePreference::Local), false);
        home.run_for(seconds(4));
        let command = home.switch(1, RelayState::On);
        assert!(is_ok(&home.result(command, seconds(1)).0));
        for _ in 0..4 {
            let wanted = !home.plug(1).relay;
            home.plug(1).lan = lan;
            home.switch(1, wanted);
            home.run_for(seconds(1));
            home.plug(1).lan = Lan::Works;
            home.run_for(seconds(20));
        }
        home.forget_the_past();
        let relay = home.plug(1).relay;
        let command = home.switch(1, !relay);
        assert!(is_ok(&home.result(command, seconds(1)).0));
        assert_eq!(switching_requests(&home), (1, 0), "{lan:?}: {:?}", home.asked);
    }
}

#[test]
fn sixty_plugs_are_switched_in_one_burst_of_the_clouds_budget() {
    let mut home = Scenario::settled(60);
    (1..=60).for_each(|number| home.plug(number).lan = Lan::Refused);
    home.run_for(seconds(30));
    home.forget_the_past();
    let began = home.elapsed();
    let commands: Vec<_> = (1..=60).map(|number| home.switch(number, RelayState::On)).collect();
    for command in commands {
        let (result, _) = home.result(command, CLOUD_TRIP);
        assert_eq!((is_ok(&result), result.route), (true, Some(Route::Cloud)), "{result:?}");
    }
    let mut bucket = Bucket::default();
    let calls = home.asked.iter().filter(|(_, route, _)| *route == Route::Cloud);
    let is_let_in: Vec<_> = calls.map(|(at, ..)| bucket.take(true, home.start() + *at).is_ok()).collect();
    assert!(is_let_in.iter().all(|is_let_in| *is_let_in), "{}", is_let_in.len());
    assert!(home.elapsed() - began <= CLOUD_TRIP);
}

#[test]
fn a_read_with_the_switching_is_no_newer_than_its_question() {
    // The cloud is slow. Meanwhile the LAN is back, and then the button is pressed.
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(20));
    home.plug(1).cloud = Cloud::Slow(seconds(8));
    let command = home.switch(1, RelayState::On);
    home.run_for(millis(100));
    home.plug(1).lan = Lan::Works;
    let (result, _) = home.result(command, seconds(2));
    assert_eq!((is_ok(&result), result.route), (true, Some(Route::Local)));
    home.press(1);
    home.run_until(seconds(6), |home| home.shown(1).is_some_and(|state| !state.relay.is_on()));
    home.forget_the_past();
    home.run_for(seconds(10));
    let is_on = |update: &Update| matches!(update, Update::State(_, state) if state.relay.is_on());
    assert!(!home.updates.iter().any(|(_, update)| is_on(update)), "the answer over the cloud is older");
}

#[test]
fn a_snapshot_is_the_present_state_with_what_failed() {
    let mut home = Scenario::with_plugs(2);
    let at_first = home.bridge.snapshot();
    assert!(!at_first.is_ready && at_first.plugs.iter().all(|plug| plug.state.is_none()));
    home.run_for(seconds(4));
    home.plug(2).lan = Lan::Refused;
    let id = home.switch(2, RelayState::On);
    assert_eq!(home.result(id, seconds(5)).0.ended, Ended::Ok);

    let Snapshot { info, is_ready, plugs, unserved, .. } = home.bridge.snapshot();
    assert!(is_ready && unserved.is_empty());
    assert_eq!((info.plugs, info.online, info.served), (2, 2, [1, 1]));
    let names: Vec<_> = plugs.iter().map(|plug| plug.name.as_str()).collect();
    assert_eq!(names, [plug_name(1).as_str(), plug_name(2).as_str()]);
    for (number, plug) in plugs.iter().enumerate() {
        assert_eq!(plug.state.as_ref(), home.shown(number + 1));
        assert_eq!((plug.availability, plug.protocol), (Some(Availability::Online), Some(LanProtocol::Xor)));
        assert!(plug.info.is_some());
    }
    assert_eq!([plugs[0].route, plugs[1].route], [Some(Route::Local), Some(Route::Cloud)]);
    assert_eq!(plugs[0].failures.get(Route::Local), None);
    assert_eq!(plugs[1].failures.get(Route::Local), Some(&Failure::Refused));
    assert_eq!(plugs[1].failures.get(Route::Cloud), None);
}
