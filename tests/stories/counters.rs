//! What is counted while plugs are read, switched, lost and found again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use crate::support::scenario::*;
use hs100d::bridge::counters::PlugCounters;
use hs100d::bridge::snapshot::PlugSnapshot;
use hs100d::model::{Availability, RelayState, Route};

fn plug(home: &Scenario) -> PlugSnapshot {
    home.bridge.snapshot().plugs.remove(0)
}

fn counters(home: &Scenario) -> PlugCounters {
    plug(home).counters.unwrap()
}

/// The changes to the LAN, to the cloud and to none.
fn route_changes(home: &Scenario) -> [u32; 3] {
    [Some(Route::Local), Some(Route::Cloud), None].map(|route| counters(home).route_changes(route))
}

#[test]
fn each_read_is_counted_by_its_route_and_result() {
    let mut home = Scenario::with_plugs(1);
    home.run_for(seconds(60));
    let reads = |home: &Scenario, route: Route| {
        let asked = home.asked.iter().filter(|(_, over, _)| *over == route);
        u32::try_from(asked.count()).unwrap()
    };
    let local = reads(&home, Route::Local);
    assert!(local > 12, "a minute of reads: {local}");
    assert_eq!(
        (counters(&home).polls(Route::Local, true), counters(&home).polls(Route::Local, false)),
        (local, 0)
    );
    assert_eq!(plug(&home).last_answers[Route::Cloud.index()], None);

    home.plug(1).lan = Lan::Refused;
    home.forget_the_past();
    home.run_for(seconds(120));
    let (failed, cloud) =
        (counters(&home).polls(Route::Local, false), counters(&home).polls(Route::Cloud, true));
    assert_eq!((failed, cloud), (reads(&home, Route::Local), reads(&home, Route::Cloud)));
    assert!(failed > 5 && cloud > 1, "{failed} {cloud}");
    let [over_lan, over_cloud] = plug(&home).last_answers;
    assert!(over_cloud > over_lan && over_lan.is_some(), "{over_lan:?} {over_cloud:?}");
}

#[test]
fn each_change_of_the_route_is_counted_once_and_the_first_route_is_no_change() {
    let mut home = Scenario::settled(1);
    home.run_for(seconds(30));
    assert_eq!(route_changes(&home), [0, 0, 0]);
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(60));
    assert_eq!((plug(&home).route, route_changes(&home)), (Some(Route::Cloud), [0, 1, 0]));
    home.plug(1).cloud = Cloud::Down;
    home.run_for(seconds(600));
    assert_eq!(plug(&home).availability, Some(Availability::Offline));
    assert_eq!((plug(&home).route, route_changes(&home)), (None, [0, 1, 1]));
    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(120));
    assert_eq!((plug(&home).route, route_changes(&home)), (Some(Route::Local), [1, 1, 1]));
}

#[test]
fn each_command_is_counted_by_how_it_ended() {
    let mut home = Scenario::settled(1);
    let done = home.switch(1, RelayState::On);
    assert!(is_ok(&home.result(done, seconds(5)).0));
    home.plug(1).lan = Lan::Refused;
    let superseded = home.switch(1, RelayState::Off);
    let over_cloud = home.switch(1, RelayState::On);
    home.result(superseded, seconds(1));
    assert!(is_ok(&home.result(over_cloud, seconds(5)).0));
    home.plug(1).cloud = Cloud::Down;
    let failed = home.switch(1, RelayState::Off);
    assert!(!is_ok(&home.result(failed, seconds(20)).0));

    let counted: Vec<_> = plug(&home).commands.iter().filter(|(_, _, count)| *count > 0).collect();
    let expected = [
        ("ok", Some(Route::Local), 1),
        ("ok", Some(Route::Cloud), 1),
        ("error", None, 1),
        ("superseded", None, 1),
    ];
    assert_eq!(counted, expected);
    let durations = home.bridge.snapshot().durations;
    let counts = [Route::Local, Route::Cloud].map(|route| durations.over(route).count());
    assert_eq!(counts, [1, 1], "a command that was not done took no time that says anything");
}

#[test]
fn the_portions_of_a_snapshot_are_the_whole_snapshot() {
    let home = Scenario::with_plugs(401);
    let (mut names, mut next, mut turns) = (Vec::new(), Some(0), 0);
    while let Some(first) = next {
        let (plugs, rest) = home.bridge.snapshot_portion(first);
        assert!(plugs.len() <= 200, "{}", plugs.len());
        names.extend(plugs.into_iter().map(|plug| plug.name));
        (next, turns) = (rest, turns + 1);
    }
    let whole: Vec<_> = home.bridge.snapshot().plugs.into_iter().map(|plug| plug.name).collect();
    assert_eq!((names.len(), turns), (401, 3));
    assert_eq!(names, whole);
}
