//! Identity of plugs: they are found, move, swap, look alike, are renamed and forgotten.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

use crate::support::scenario::*;
use std::sync::Arc;

use hs100d::bridge::event::{
    AccountPlug, BridgeCommand, CommandId, DiscoveryReply, Ended, Event, Identity, KnownPlug, Notice,
    NoticeKind, Origin, RequestId, Sighting, TdpReply, Update,
};
use hs100d::bridge::route::RoutePolicy;
use hs100d::bridge::{PlugSettings, Settings};
use hs100d::model::{
    Address, Availability, LanProtocol, PlugCommand, PlugName, RelayState, Route, SetCommand, Switch,
};

fn name(text: &str) -> PlugName {
    PlugName::new(text).unwrap()
}

/// A home whose plugs are not in the config, and a bridge that adopts what it finds.
fn adopting(count: usize, known: Vec<KnownPlug>) -> Scenario {
    let plugs = (1..=count).map(|number| ModelPlug::new(number, true)).collect();
    let settings =
        Settings { plugs: vec![], known, adopt: true, policy: RoutePolicy::default(), cloud: true };
    Scenario::from_settings(settings, plugs)
}

fn by_host(number: usize, called: Option<&str>) -> PlugSettings {
    PlugSettings {
        name: called.map(name),
        identity: Identity::default(),
        address: Some(address(number)),
        policy: RoutePolicy::default(),
    }
}

fn gone(home: &Scenario) -> Vec<String> {
    let gone = home.updates.iter().filter_map(|(_, update)| match update {
        Update::Gone(plug) => Some(plug.to_string()),
        _ => None,
    });
    gone.collect()
}

#[test]
fn a_plug_that_is_sighted_is_adopted_named_by_its_alias_and_read() {
    let mut home = adopting(1, vec![]);
    home.plug(1).alias = "Kitchen Kettle".into();
    home.sight(1);
    home.run_for(seconds(1));
    let availability = Update::Availability(name("kitchen-kettle"), Availability::Online);
    assert!(home.updates.iter().any(|(_, update)| *update == availability), "{:?}", home.updates);
    assert_eq!(home.happened(NoticeKind::PlugFound), 1);
    assert_eq!(home.remembered.values().next().unwrap().name, name("kitchen-kettle"));

    home.plug(1).alias = "Something Else".into();
    home.sight(1);
    home.run_for(seconds(20));
    assert_eq!(home.remembered.values().next().unwrap().name, name("kitchen-kettle"), "topics do not move");
    assert_eq!(home.happened(NoticeKind::PlugFound), 1);
}

/// Its device id cannot be read: its MAC alone identifies it.
#[test]
fn a_plug_without_a_readable_device_id_is_served_by_its_mac() {
    // In the config by its address alone, found by discovery, and known from an earlier run.
    for (plugs, known) in [(vec![by_host(1, None)], vec![]), (vec![], vec![]), (vec![], vec![known(1)])] {
        let settings = Settings { plugs, known, adopt: true, ..Settings::default() };
        let mut home = Scenario::from_settings(
            settings,
            vec![ModelPlug { tells_id: false, ..ModelPlug::new(1, false) }],
        );
        for _ in 0..3 {
            home.sight(1);
            home.run_for(seconds(20));
        }
        let is_shown = |(_, update): &&(_, Update)| matches!(update, Update::State(..));
        assert_eq!(home.updates.iter().filter(is_shown).count(), 1, "{:#?}", home.updates);
        assert!(home.happened(NoticeKind::PlugFound) <= 1 && home.happened(NoticeKind::PlugOffline) == 0);
        let command = home.switch(1, RelayState::On);
        assert!(is_ok(&home.result(command, seconds(1)).0));
        // Once its device id can be read, it is still the same plug.
        home.plug(1).tells_id = true;
        home.sight(1);
        home.run_for(seconds(20));
        assert_eq!(
            (home.happened(NoticeKind::PlugGone), home.remembered.len()),
            (0, 1),
            "{:#?}",
            home.updates
        );
    }
}

#[test]
fn a_plug_of_another_mac_without_a_device_id_is_not_taken_for_a_known_one() {
    let known = Identity { device_id: Some(device_id(1)), mac: Some(mac(1)) };
    let device = |number, tells_id| ModelPlug { tells_id, ..ModelPlug::new(number, false) }.reading().device;
    assert!(known.admits(&device(1, true)) && known.admits(&device(1, false)));
    assert!(!known.admits(&device(2, true)) && !known.admits(&device(2, false)));
    let by_id = Identity { mac: None, ..known };
    assert!(by_id.admits(&device(1, true)) && !by_id.admits(&device(1, false)));
}

#[test]
fn what_is_not_a_plug_is_named_once_and_left_alone() {
    let mut home = adopting(0, vec![]);
    for _ in 0..3 {
        home.event(Event::Account(vec![row(9, "Bulb", "IOT.SMARTBULB"), row(8, "Tapo", "SMART.TAPOPLUG")]));
    }
    home.run_for(seconds(5));
    assert_eq!(home.happened(NoticeKind::Unsupported), 2);
    assert_eq!(home.happened(NoticeKind::PlugFound), 0);
}

#[test]
fn a_plug_that_only_the_account_knows_is_adopted_and_served_over_the_cloud() {
    let mut home = adopting(1, vec![]);
    home.plug(1).address = None;
    home.event(Event::Account(vec![row(1, "Plug 1", "IOT.SMARTPLUGSWITCH")]));
    home.run_until(seconds(2), |home| home.shown(1).is_some());
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Cloud));
    home.event(Event::Account(vec![]));
    home.run_for(seconds(60));
    assert_eq!(gone(&home), Vec::<String>::new(), "an empty list forgets nothing");

    home.plug(1).address = Some(address(1));
    home.sight(1);
    home.run_until(seconds(1), |home| home.shown(1).unwrap().route == Some(Route::Local));
}

#[test]
fn two_plugs_of_one_alias_have_two_names_whichever_comes_first_later() {
    let mut home = adopting(2, vec![]);
    home.plug(1).alias = "Lamp".into();
    home.plug(2).alias = "Lamp".into();
    home.sight(2);
    home.sight(1);
    home.run_for(seconds(1));
    let names: Vec<_> = home.remembered.values().map(|known| known.name.to_string()).collect();
    assert_eq!(names, ["lamp-0001", "lamp"]);
}

#[test]
fn plugs_of_an_earlier_run_are_read_at_their_last_addresses_without_any_search() {
    let mut home = adopting(30, (1..=30).map(known).collect());
    home.run_until(seconds(1), |home| (1..=30).all(|number| home.shown(number).is_some()));
    home.run_for(millis(1));
    assert!(
        home.updates.iter().any(|(_, update)| *update == Update::Ready),
        "the first round of reads is done"
    );
}

#[test]
fn a_plug_that_moved_is_followed_within_ten_seconds_and_no_command_is_lost() {
    let mut home = adopting(1, vec![known(1)]);
    home.plug(1).cloud = Cloud::PlugOffline;
    home.run_for(seconds(4));
    let moved = Address::new("192.0.2.99", 9999).unwrap();
    home.plug(1).address = Some(moved.clone());
    let command = home.switch(1, RelayState::On);
    home.run_for(millis(500));
    assert!(home.discoveries > 0, "a missing plug is looked for");
    home.sight(1);
    let (result, _) = home.result(command, seconds(9));
    assert_eq!((is_ok(&result), result.route), (true, Some(Route::Local)));
    assert_eq!(home.happened(NoticeKind::AddressChanged), 1);
    assert_eq!(home.remembered[device_id(1).as_str()].address, Some(moved));
}

/// The plug answers the discovery on UDP 20002 and reports that it speaks KLAP.
fn sight_klap(home: &mut Scenario, number: usize, address: Address) {
    let reply = DiscoveryReply::Tdp(TdpReply {
        mac: Some(mac(number)),
        kind: PLUG.into(),
        model: "HS100(UK)".into(),
        encryption: "KLAP".into(),
        port: None,
        owner: None,
    });
    home.event(Event::Sighted(Sighting { address, reply }));
}

/// The address and the protocol in `<plug>/info`.
fn place_shown(home: &Scenario, plug: &str) -> Option<(Option<Address>, Option<LanProtocol>)> {
    home.updates.iter().rev().find_map(|(_, update)| match update {
        Update::Info(name, info) if name.as_str() == plug => Some((info.address.clone(), info.protocol)),
        _ => None,
    })
}

fn protocol_remembered(home: &Scenario, number: usize) -> Option<LanProtocol> {
    home.remembered[device_id(number).as_str()].protocol
}

#[test]
fn a_known_plug_that_moves_to_klap_keeps_its_place_in_the_registry_until_it_speaks_xor_again() {
    let mut home = adopting(1, vec![known(1)]);
    home.run_for(seconds(4));
    assert_eq!(place_shown(&home, "plug-1"), Some((Some(address(1)), Some(LanProtocol::Xor))));
    assert_eq!(protocol_remembered(&home, 1), Some(LanProtocol::Xor));

    // A firmware update closes TCP 9999, and the router gives it another address.
    home.plug(1).protocol = LanProtocol::Klap;
    home.plug(1).address = Some(address(2));
    home.run_for(seconds(10));
    sight_klap(&mut home, 1, address(2));
    home.run_for(seconds(20));
    assert_eq!(place_shown(&home, "plug-1"), Some((Some(address(2)), Some(LanProtocol::Klap))));
    assert_eq!(protocol_remembered(&home, 1), Some(LanProtocol::Klap));
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
    assert_eq!(home.happened(NoticeKind::Unsupported), 0);

    // "Third-Party Compatibility" opens TCP 9999 again; which the next poll finds out.
    home.plug(1).protocol = LanProtocol::Xor;
    home.run_for(seconds(15));
    assert_eq!(place_shown(&home, "plug-1"), Some((Some(address(2)), Some(LanProtocol::Xor))));
    assert_eq!(protocol_remembered(&home, 1), Some(LanProtocol::Xor));
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
    assert_eq!(home.happened(NoticeKind::ProtocolChanged), 2);
    assert_eq!(home.happened(NoticeKind::PlugFound), 0, "it is the plug that was known");
}

#[test]
fn a_klap_sighting_of_a_plug_that_answers_xor_changes_nothing() {
    let mut home = adopting(1, vec![known(1)]);
    home.run_for(seconds(4));
    for _ in 0..3 {
        sight_klap(&mut home, 1, address(2));
        home.run_for(seconds(30));
    }
    assert_eq!(place_shown(&home, "plug-1"), Some((Some(address(1)), Some(LanProtocol::Xor))));
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
    assert_eq!(home.happened(NoticeKind::Unsupported), 0);
}

#[test]
fn a_plug_that_only_the_account_knows_gets_its_address_from_a_klap_sighting() {
    let mut home = adopting(1, vec![]);
    home.plug(1).lan = Lan::Refused;
    home.event(Event::Account(vec![row(1, "Plug 1", PLUG)]));
    home.run_for(seconds(5));
    assert_eq!(place_shown(&home, "plug-1"), Some((None, None)));
    sight_klap(&mut home, 1, address(1));
    home.run_for(seconds(5));
    assert_eq!(place_shown(&home, "plug-1"), Some((Some(address(1)), Some(LanProtocol::Klap))));
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Cloud));
}

#[test]
fn what_the_last_run_believed_of_the_protocol_gives_way_to_the_first_answer() {
    let mut home = adopting(1, vec![KnownPlug { protocol: Some(LanProtocol::Klap), ..known(1) }]);
    home.run_for(seconds(4));
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
    assert_eq!(protocol_remembered(&home, 1), Some(LanProtocol::Xor));
}

#[test]
fn two_plugs_that_swap_addresses_are_told_apart_and_the_wrong_one_never_switches() {
    let mut home = adopting(2, vec![known(1), known(2)]);
    home.plug(1).cloud = Cloud::Down;
    home.plug(2).cloud = Cloud::Down;
    home.run_for(seconds(4));
    home.plug(1).address = Some(address(2));
    home.plug(2).address = Some(address(1));
    let command = home.switch(1, RelayState::On);
    assert!(is_ok(&home.result(command, seconds(10)).0));
    home.run_for(seconds(30));
    assert_eq!(home.plug(1).relay, RelayState::On);
    assert_eq!(home.plug(2).switched, []);
    assert_eq!(home.remembered[device_id(1).as_str()].address, Some(address(2)));
    assert_eq!(home.remembered[device_id(2).as_str()].address, Some(address(1)));
}

#[test]
fn a_plug_replaced_by_another_at_its_address_is_offline_and_the_other_is_its_own_plug() {
    let mut home = adopting(2, vec![known(1)]);
    home.plug(2).address = None;
    home.run_for(seconds(4));
    home.plug(1).address = None;
    home.plug(1).cloud = Cloud::PlugOffline;
    home.plug(2).address = Some(address(1));
    home.run_for(seconds(60));
    assert_eq!(home.availability(1).last().unwrap().1, Availability::Offline);
    assert_eq!(home.availability(2).last().unwrap().1, Availability::Online);
}

#[test]
fn a_plug_is_looked_for_again_where_the_user_placed_it_after_another_lived_there() {
    let mut home = Scenario::with(2, RoutePolicy::default(), false);
    home.run_for(seconds(4));
    home.plug(1).address = None;
    home.plug(2).address = Some(address(1));
    let command = home.switch(1, RelayState::On);
    let (result, _) = home.result(command, seconds(10));
    let Ended::Error(why) = &result.ended else { panic!("{result:?}") };
    assert!(why.contains("local: another plug answers at the address"), "{why}");
    home.plug(1).address = Some(address(1));
    home.plug(2).address = Some(address(2));
    home.run_for(seconds(11));
    for number in [1, 2] {
        let command = home.switch(number, RelayState::On);
        assert_eq!(home.result(command, LAN_TRIP * 2).0.route, Some(Route::Local), "{number}");
    }
}

#[test]
fn a_plug_seen_through_a_reflector_stays_where_it_answers() {
    let mut home = adopting(1, vec![known(1)]);
    home.run_for(seconds(4));
    let here = home.plug(1).address.clone();
    home.plug(1).address = Some(Address::new("192.0.2.254", 9999).unwrap());
    home.sight(1);
    home.plug(1).address = here;
    home.run_for(seconds(60));
    assert_eq!(home.happened(NoticeKind::AddressChanged), 0);
}

#[test]
fn an_entry_by_host_learns_who_lives_there_and_is_named_by_the_user() {
    let plugs = vec![ModelPlug::new(1, true)];
    let settings = Settings { plugs: vec![by_host(1, Some("kettle"))], cloud: true, ..Settings::default() };
    let mut home = Scenario::from_settings(settings, plugs);
    home.run_for(seconds(4));
    let known = &home.remembered[device_id(1).as_str()];
    assert_eq!((known.name.as_str(), known.mac), ("kettle", Some(mac(1))));

    // Another plug at the address is not mistaken for it.
    home.plugs[0].device_id = device_id(2);
    home.plugs[0].mac = mac(2);
    home.run_for(seconds(60));
    let offline = Update::Availability(name("kettle"), Availability::Offline);
    assert!(home.updates.iter().any(|(_, update)| *update == offline));
}

#[test]
fn an_entry_by_host_without_a_name_is_named_by_its_alias() {
    let plugs = vec![ModelPlug::new(1, true)];
    let settings = Settings { plugs: vec![by_host(1, None)], ..Settings::default() };
    let mut home = Scenario::from_settings(settings, plugs);
    home.run_until(seconds(2), |home| home.shown(1).is_some());
}

#[test]
fn one_plug_listed_twice_is_served_once() {
    let mut plug = ModelPlug::new(1, false);
    plug.cloud = Cloud::Off;
    let mut by_id = by_host(2, Some("second"));
    by_id.identity.device_id = Some(device_id(1));
    by_id.address = None;
    let settings = Settings { plugs: vec![by_host(1, Some("first")), by_id], ..Settings::default() };
    let mut home = Scenario::from_settings(settings, vec![plug]);
    home.run_for(seconds(60));
    let online = |plug: &str| {
        home.updates
            .iter()
            .any(|(_, update)| *update == Update::Availability(name(plug), Availability::Online))
    };
    assert_eq!(u8::from(online("first")) + u8::from(online("second")), 1);
    assert_eq!(gone(&home).len(), 1);
}

#[test]
fn an_account_row_gives_an_entry_by_mac_its_device_id() {
    let mut entry = by_host(1, Some("kettle"));
    entry.address = None;
    entry.identity.mac = Some(mac(1));
    let settings = Settings { plugs: vec![entry], cloud: true, ..Settings::default() };
    let mut home = Scenario::from_settings(settings, vec![ModelPlug::new(1, true)]);
    home.run_for(seconds(2));
    home.event(Event::Account(vec![row(1, "x", "IOT.SMARTPLUGSWITCH")]));
    let online = Update::Availability(name("kettle"), Availability::Online);
    home.run_until(seconds(2), |home| home.updates.iter().any(|(_, update)| *update == online));
}

#[test]
fn a_plug_that_is_given_another_name_by_the_user_leaves_nothing_under_the_old_one() {
    let mut home = adopting(1, vec![known(1)]);
    home.run_for(seconds(4));
    let mut entry = by_host(1, Some("kettle"));
    entry.identity.device_id = Some(device_id(1));
    let settings = Settings { plugs: vec![entry], adopt: true, cloud: true, ..Settings::default() };
    let now = home.now;
    home.bridge.reload(settings, now);
    home.run_for(seconds(1));
    assert_eq!(gone(&home), ["plug-1"]);
    let online = Update::Availability(name("kettle"), Availability::Online);
    assert!(home.updates.iter().any(|(_, update)| *update == online));
    let state = |update: &Update| matches!(update, Update::State(plug, _) if *plug == name("kettle"));
    assert!(home.updates.iter().any(|(_, update)| state(update)));
}

#[test]
fn a_forgotten_plug_is_removed_with_all_that_the_broker_shows_and_a_listed_one_is_not() {
    let mut home = adopting(2, vec![known(1)]);
    home.run_for(seconds(4));
    let ask = |home: &mut Scenario, number| {
        let ask = BridgeCommand::Forget(plug_name(number));
        home.event(Event::Request { id: RequestId::new(Origin::Mqtt, number as u64), ask });
        home.run_for(seconds(1));
        let answers = home.updates.iter().rev().find_map(|(_, update)| match update {
            Update::Response { id, result } if *id == RequestId::new(Origin::Mqtt, number as u64) => {
                Some(result.clone())
            }
            _ => None,
        });
        answers.unwrap()
    };
    assert!(ask(&mut home, 2).unwrap_err().contains("no plug called plug-2"));
    assert_eq!(ask(&mut home, 1), Ok(()));
    assert_eq!(gone(&home), ["plug-1"]);
    assert!(home.remembered.is_empty());

    let mut home = Scenario::settled(1);
    assert!(ask(&mut home, 1).unwrap_err().contains("remove its [[plug]] entry"));
    assert_eq!(gone(&home), Vec::<String>::new());
}

#[test]
fn a_command_to_a_plug_that_is_removed_still_has_its_result() {
    let mut home = adopting(1, vec![known(1)]);
    home.run_for(seconds(4));
    home.plug(1).lan = Lan::Silent;
    let command = home.switch(1, RelayState::On);
    home.event(Event::Request {
        id: RequestId::new(Origin::Mqtt, 1),
        ask: BridgeCommand::Forget(plug_name(1)),
    });
    assert!(matches!(home.results(command).next().unwrap().ended, Ended::NoPlug(_)));
}

#[test]
fn a_command_to_a_plug_that_does_not_exist_is_answered() {
    let mut home = Scenario::settled(1);
    let command = home.switch(7, RelayState::On);
    let Ended::NoPlug(why) = &home.results(command).next().unwrap().ended else { panic!() };
    assert!(why.contains("no plug called plug-7"), "{why}");
}

#[test]
fn without_adoption_only_listed_plugs_are_served() {
    let settings = Settings { plugs: vec![], known: vec![known(1)], adopt: false, ..Settings::default() };
    let mut home = Scenario::from_settings(settings, vec![ModelPlug::new(1, false)]);
    home.sight(1);
    home.event(Event::Account(vec![row(1, "x", "IOT.SMARTPLUGSWITCH")]));
    home.run_for(seconds(60));
    assert_eq!(home.asked, []);
}

#[test]
fn every_plug_of_an_earlier_run_is_expected_before_the_first_round_is_said_to_be_done() {
    let mut home = adopting(2, vec![known(1), known(2)]);
    home.plug(2).lan = Lan::Silent;
    home.plug(2).cloud = Cloud::Silent;
    home.run_for(seconds(4));
    let place = |wanted: &Update| home.updates.iter().position(|(_, update)| update == wanted);
    let ready = place(&Update::Ready).expect("ready");
    for number in [1, 2] {
        assert!(place(&Update::Expected(plug_name(number))).is_some_and(|at| at < ready), "plug {number}");
    }
}

#[test]
fn an_empty_home_is_ready_after_three_seconds() {
    let mut home = adopting(0, vec![]);
    let took =
        home.run_until(seconds(4), |home| home.updates.iter().any(|(_, update)| *update == Update::Ready));
    assert_eq!(took, seconds(3));
}

#[test]
fn whatever_an_alias_holds_the_plug_is_adopted_under_a_name_of_its_own() {
    let aliases = [
        "",
        "☕🔌",
        "a/b/c",
        "+",
        "#",
        &"ä".repeat(150),
        &"ä".repeat(150),
        "K\u{fffd}\0\n\"'",
        "bridge",
        "日本",
    ];
    let mut home = adopting(aliases.len(), vec![]);
    for (number, alias) in (1..).zip(aliases) {
        home.plug(number).alias = alias.into();
        home.sight(number);
    }
    home.run_for(seconds(2));
    let names: Vec<_> = home.remembered.values().map(|known| known.name.to_string()).collect();
    let long = "a".repeat(64);
    let cut = format!("{}-0007", &long[..59]);
    let expected = [
        "hs100-eu",
        "hs100-eu-0002",
        "a-b-c",
        "hs100-eu-0004",
        "hs100-eu-0005",
        &long,
        &cut,
        "k",
        "plug",
        "hs100-eu-000a",
    ];
    assert_eq!(names, expected);
    for name in &names {
        let online = Update::Availability(PlugName::new(name).unwrap(), Availability::Online);
        assert!(home.updates.iter().any(|(_, update)| *update == online), "{name}");
    }
}

/// Found by the fuzzer: a model name with a line break made two lines of the log.
#[test]
fn what_plugs_call_themselves_stays_on_one_short_line() {
    let forged = || -> Box<str> { format!("P100\r\nforged\u{1b}[2J{}", "x".repeat(60_000)).into() };
    let other = TdpReply {
        mac: None,
        kind: forged(),
        model: forged(),
        encryption: forged(),
        port: None,
        owner: None,
    };
    let klap = TdpReply { kind: "IOT.SMARTPLUGSWITCH".into(), mac: Some(mac(7)), ..other.clone() };
    let mut home = adopting(1, vec![]);
    for (number, device) in (8..).zip([other, klap]) {
        home.event(Event::Sighted(Sighting { address: address(number), reply: DiscoveryReply::Tdp(device) }));
    }
    let bulb = AccountPlug { alias: forged(), model: forged(), ..row(9, "", "IOT.\nBULB") };
    home.event(Event::Account(vec![
        bulb,
        AccountPlug { model: forged(), ..row(3, "Lamp", "IOT.SMARTPLUGSWITCH") },
    ]));
    let mut reading = home.plug(1).reading();
    Arc::make_mut(&mut reading.device).model = forged().into();
    let reply = DiscoveryReply::SysInfo(Box::new(reading));
    home.event(Event::Sighted(Sighting { address: address(1), reply }));
    home.run_for(seconds(5));
    assert_eq!((home.happened(NoticeKind::Unsupported), home.happened(NoticeKind::PlugFound)), (3, 2));
    for (_, update) in &home.updates {
        if let Update::Notice(Notice { detail, .. }) = update {
            assert!(detail.len() < 512 && !detail.chars().any(char::is_control), "{detail:?}");
        }
    }
}

/// Found by the fuzzer: two plugs had the same topic, and commands went to the last of them.
#[test]
fn outlets_that_come_back_under_a_name_that_is_taken_have_one_of_their_own() {
    let outlets = ["plug-1", "lamp", "lamp", "plug-2"].map(name).to_vec();
    let strip = KnownPlug { outlets, ..known(2) };
    for listed in [false, true] {
        let mut home = adopting(2, vec![]);
        let entry = PlugSettings {
            identity: Identity { device_id: Some(device_id(2)), mac: None },
            ..by_host(2, None)
        };
        let plugs = if listed { vec![entry] } else { vec![] };
        let known = vec![known(1), strip.clone()];
        home.bridge.reload(Settings { plugs, known, adopt: true, ..Settings::default() }, home.now);
        let plugs: Vec<_> = home.bridge.known_plugs().collect();
        let mut names: Vec<_> =
            plugs.iter().flat_map(|plug| plug.outlets.iter().chain([&plug.name])).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 6, "{plugs:?}");
        assert!(names.contains(&&name("plug-1")) && names.contains(&&name("plug-2")), "{names:?}");
    }
}

#[test]
fn a_plug_that_does_not_say_who_it_is_is_not_adopted_again_and_again() {
    let mut home = adopting(1, vec![]);
    for _ in 0..3 {
        let mut reading = home.plug(1).reading();
        let device = std::sync::Arc::make_mut(&mut reading.device);
        (device.device_id, device.mac) = (None, None);
        let reply = hs100d::bridge::event::DiscoveryReply::SysInfo(Box::new(reading));
        home.event(Event::Sighted(hs100d::bridge::event::Sighting { address: address(1), reply }));
    }
    home.run_for(seconds(5));
    assert_eq!((home.happened(NoticeKind::PlugFound), home.asked.len()), (0, 0));
}

#[test]
fn one_mac_with_two_device_ids_is_two_plugs_and_no_endless_chase() {
    let mut home = adopting(2, vec![known(1)]);
    home.plug(2).mac = mac(1);
    home.run_for(seconds(4));
    home.plug(1).address = None;
    home.plug(1).cloud = Cloud::PlugOffline;
    home.sight(2);
    home.run_for(seconds(60));
    assert_eq!(home.happened(NoticeKind::AddressChanged), 0);
    assert_eq!(home.availability(1).last().unwrap().1, Availability::Offline);
    assert_eq!(home.remembered.len(), 2);
    assert!(home.asked.len() < 100, "{} requests in a minute", home.asked.len());
}

#[test]
fn a_plug_that_comes_back_elsewhere_is_found_though_a_reflector_speaks_last() {
    let mut home = adopting(1, vec![known(1)]);
    home.plug(1).cloud = Cloud::PlugOffline;
    home.run_for(seconds(4));
    home.plug(1).address = None;
    home.run_for(seconds(20));
    let (there, mirror) = (Address::new("192.0.2.99", 9999), Address::new("192.0.2.254", 9999));
    for _ in 0..3 {
        for place in [&there, &mirror] {
            home.plug(1).address.clone_from(place);
            home.sight(1);
        }
    }
    home.plug(1).address.clone_from(&there);
    let back = home.elapsed();
    home.run_until(seconds(5), |home| {
        home.asked.iter().any(|&(at, ..)| at > back)
            && home.remembered[device_id(1).as_str()].address == there
    });
    home.run_for(seconds(10));
    assert_eq!(home.remembered[device_id(1).as_str()].address, there);
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
}

/// Sends commands to both plugs all the time while `change` happens. Returns the last state requested of each.
fn command_both_through(home: &mut Scenario, change: impl FnOnce(&mut Scenario)) -> [RelayState; 2] {
    let mut change = Some(change);
    let mut commands = vec![];
    for step in 0..60 {
        if step == 20 {
            change.take().unwrap()(home);
        }
        // The first plug is switched on and off, the second only off, so that a command to the wrong one shows.
        let state = RelayState::from_bool(step % 2 == 1);
        commands.push(home.switch(1, state));
        commands.push(home.switch(2, RelayState::Off));
        home.run_for(millis(250));
    }
    home.run_for(seconds(20));
    for command in commands {
        let ends: Vec<_> = home.results(command).map(|result| &result.ended).collect();
        assert!(matches!(ends[..], [Ended::Ok | Ended::Superseded]), "{command:?} ended as {ends:?}");
    }
    [RelayState::On, RelayState::Off]
}

#[test]
fn commands_that_flow_while_two_plugs_swap_addresses_are_neither_lost_nor_misdirected() {
    for broadcasts_work in [true, false] {
        let mut home = adopting(2, vec![known(1), known(2)]);
        home.broadcasts_work = broadcasts_work;
        home.plug(1).cloud = Cloud::PlugOffline;
        home.plug(2).cloud = Cloud::PlugOffline;
        home.run_for(seconds(4));
        let expected = command_both_through(&mut home, |home| {
            home.plug(1).address = Some(address(2));
            home.plug(2).address = Some(address(1));
        });
        assert_eq!([home.plug(1).relay, home.plug(2).relay], expected);
        assert!(home.plug(2).switched.iter().all(|(_, state)| *state == RelayState::Off), "misdirected");
        assert_eq!(home.happened(NoticeKind::AddressChanged), 2);
    }
}

#[test]
fn commands_that_flow_while_a_plug_moves_into_the_place_of_another_are_neither_lost_nor_misdirected() {
    let mut home = adopting(2, vec![known(1), known(2)]);
    home.broadcasts_work = true;
    home.plug(1).cloud = Cloud::PlugOffline;
    home.plug(2).cloud = Cloud::PlugOffline;
    home.run_for(seconds(4));
    let expected = command_both_through(&mut home, |home| {
        // A command to the second is in flight and never arrives.
        home.plug(2).lan = Lan::Silent;
        home.switch(2, RelayState::Off);
        home.plug(2).lan = Lan::Works;
        home.plug(2).address = Address::new("192.0.2.77", 9999);
        home.plug(1).address = Some(address(2));
    });
    assert_eq!([home.plug(1).relay, home.plug(2).relay], expected);
    assert!(home.plug(2).switched.iter().all(|(_, state)| *state == RelayState::Off), "misdirected");
}

#[test]
fn a_sighting_is_followed_at_once_when_the_old_address_fails() {
    let mut home = adopting(1, vec![known(1)]);
    home.run_for(seconds(4));
    // The plug is sighted at its new address while the old one, as far as known, still works.
    home.plug(1).address = Address::new("192.0.2.99", 9999);
    home.sight(1);
    assert_eq!(home.happened(NoticeKind::AddressChanged), 0);
    // Before the failure of a second poll.
    home.run_until(seconds(6), |home| home.happened(NoticeKind::AddressChanged) == 1);
}

#[test]
fn a_false_sighting_does_not_replace_the_address_where_the_plug_answered_last() {
    let mut home = adopting(1, vec![known(1)]);
    home.run_for(seconds(4));
    home.plug(1).lan = Lan::Silent;
    home.run_for(seconds(30));
    let elsewhere = Address::new("192.0.2.99", 9999).unwrap();
    let reply = DiscoveryReply::SysInfo(Box::new(home.plug(1).reading()));
    home.event(Event::Sighted(Sighting { address: elsewhere.clone(), reply }));
    home.run_for(seconds(70));
    let (_, last) = home.searches.last().unwrap();
    assert_eq!(*last, [elsewhere, address(1)]);
}

#[test]
fn a_name_in_the_config_wins_over_a_plug_that_was_called_so_before() {
    // At a reload: the adopted plug is still served, under another name.
    let mut home = adopting(2, vec![known(1)]);
    home.run_for(seconds(4));
    let mut entry = by_host(2, Some("plug-1"));
    entry.identity.device_id = Some(device_id(2));
    let settings = Settings { plugs: vec![entry], adopt: true, cloud: true, ..Settings::default() };
    let now = home.now;
    home.bridge.reload(settings.clone(), now);
    home.run_for(seconds(4));
    let names = |home: &Scenario| {
        let names = home.remembered.values().map(|known| known.name.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&home), ["plug-1-0001", "plug-1"]);
    assert_eq!(gone(&home), ["plug-1"]);
    let online = Update::Availability(name("plug-1-0001"), Availability::Online);
    assert!(home.updates.iter().any(|(_, update)| *update == online));

    // At a start, from what the store remembers.
    let settings = Settings { known: vec![known(1)], ..settings };
    let plugs = vec![ModelPlug::new(1, true), ModelPlug::new(2, true)];
    let mut home = Scenario::from_settings(settings, plugs);
    home.run_for(seconds(4));
    assert_eq!(names(&home), ["plug-1-0001", "plug-1"]);
    let command = home.switch(1, RelayState::On);
    assert!(is_ok(&home.result(command, seconds(5)).0));
    assert_eq!((home.plug(1).relay, home.plug(2).relay), (RelayState::Off, RelayState::On));
}

#[test]
fn an_entry_by_host_whose_plug_was_followed_elsewhere_knows_it_after_a_restart() {
    let settings = Settings { plugs: vec![by_host(1, Some("kettle"))], cloud: true, ..Settings::default() };
    let mut home = Scenario::from_settings(settings.clone(), vec![ModelPlug::new(1, true)]);
    home.run_for(seconds(4));
    let there = Address::new("192.0.2.99", 9999);
    home.plug(1).address.clone_from(&there);
    home.run_for(seconds(6));
    home.sight(1);
    home.run_for(seconds(6));
    let kept: Vec<_> = home.remembered.values().cloned().collect();
    assert_eq!((&kept[0].address, &kept[0].home), (&there, &Some(address(1))));

    // Meanwhile another plug has the address of the first.
    let mut plugs = vec![ModelPlug::new(1, true), ModelPlug::new(2, true)];
    plugs[0].address.clone_from(&there);
    plugs[1].address = Some(address(1));
    let settings = Settings { known: kept, adopt: true, ..settings };
    let mut home = Scenario::from_settings(settings, plugs);
    let kettle =
        PlugCommand::Set(SetCommand { relay: Some(Switch::To(RelayState::On)), ..SetCommand::default() });
    home.event(Event::Command { id: CommandId::new(Origin::Mqtt, 7), plug: name("kettle"), order: kettle });
    assert!(is_ok(&home.result(CommandId::new(Origin::Mqtt, 7), seconds(1)).0));
    assert_eq!((home.plug(1).relay, home.plug(2).relay), (RelayState::On, RelayState::Off));

    // The other one is a plug of its own. The config entry that does not match it does not keep it out.
    home.sight(2);
    home.run_for(seconds(1));
    assert_eq!(home.availability(2).last().unwrap().1, Availability::Online);

    // If the last known address is silent, the one in the config is tried.
    let known = KnownPlug { name: name("kettle"), address: there, home: Some(address(1)), ..known(1) };
    let settings = Settings {
        plugs: vec![by_host(1, Some("kettle"))],
        known: vec![known],
        cloud: false,
        ..Settings::default()
    };
    let mut home = Scenario::from_settings(settings, vec![ModelPlug::new(1, false)]);
    let online = Update::Availability(name("kettle"), Availability::Online);
    home.run_until(seconds(4), |home| home.updates.iter().any(|(_, update)| *update == online));
}

#[test]
fn a_reload_unlearns_nothing() {
    let settings = Settings { plugs: vec![by_host(1, Some("kettle"))], ..Settings::default() };
    let mut home = Scenario::from_settings(settings.clone(), vec![ModelPlug::new(1, false)]);
    home.run_for(seconds(4));
    let now = home.now;
    home.bridge.reload(settings, now);
    home.plugs[0].device_id = device_id(2);
    home.plugs[0].mac = mac(2);
    home.run_for(seconds(60));
    let offline = Update::Availability(name("kettle"), Availability::Offline);
    assert!(home.updates.iter().any(|(_, update)| *update == offline), "another plug was taken for it");
}

#[test]
fn a_corrected_address_is_tried_at_once() {
    let wrong = PlugSettings { address: Some(address(9)), ..by_host(1, Some("kettle")) };
    let settings = Settings { plugs: vec![wrong], ..Settings::default() };
    let mut home = Scenario::from_settings(settings.clone(), vec![ModelPlug::new(1, false)]);
    // By now the wrong address is tried only once a minute.
    home.run_for(seconds(1000));
    let tries = home.asked.len();
    home.run_until(seconds(70), |home| home.asked.len() > tries);
    home.run_for(seconds(5));
    let now = home.now;
    home.bridge.reload(Settings { plugs: vec![by_host(1, Some("kettle"))], ..settings }, now);
    let online = Update::Availability(name("kettle"), Availability::Online);
    home.run_until(seconds(2), |home| home.updates.iter().any(|(_, update)| *update == online));
}

/// The answer used to count for the new address.
#[test]
fn what_answers_at_the_old_address_after_a_reload_says_nothing_of_the_new_one() {
    let settings = Settings { plugs: vec![by_host(1, Some("kettle"))], ..Settings::default() };
    let mut home = Scenario::from_settings(settings.clone(), vec![ModelPlug::new(1, false)]);
    home.run_for(seconds(4));
    let asked = home.asked.len();
    home.run_until(seconds(6), |home| home.asked.len() > asked);
    let nowhere = PlugSettings { address: Some(address(9)), ..by_host(1, Some("kettle")) };
    let now = home.now;
    home.bridge.reload(Settings { plugs: vec![nowhere], ..settings }, now);
    home.run_for(seconds(4));
    let moved =
        |update: &Update| matches!(update, Update::Notice(it) if it.kind == NoticeKind::AddressChanged);
    assert!(!home.updates.iter().any(|(_, update)| moved(update)), "{:#?}", home.updates);
}

#[test]
fn a_plug_that_was_adopted_and_then_listed_by_its_address_keeps_its_name() {
    let mut home = adopting(1, vec![KnownPlug { name: name("given-once"), ..known(1) }]);
    home.run_for(seconds(4));
    let settings =
        Settings { plugs: vec![by_host(1, None)], adopt: true, cloud: true, ..Settings::default() };
    let now = home.now;
    home.bridge.reload(settings.clone(), now);
    home.run_for(seconds(4));
    assert_eq!(gone(&home), Vec::<String>::new());

    // The same at a start, when the entry does not know yet which plug has that address.
    let settings = Settings { known: vec![KnownPlug { name: name("given-once"), ..known(1) }], ..settings };
    let mut home = Scenario::from_settings(settings, vec![ModelPlug::new(1, true)]);
    home.run_for(seconds(4));
    assert_eq!(home.remembered[device_id(1).as_str()].name, name("given-once"));
    assert_eq!(home.remembered[device_id(1).as_str()].home, Some(address(1)));
    let last = home.updates.iter().rev().find_map(|(_, update)| match update {
        Update::State(plug, _) => Some(plug.clone()),
        Update::Gone(plug) => Some(name(&format!("{plug}-is-gone"))),
        _ => None,
    });
    assert_eq!(last, Some(name("given-once")));
}

#[test]
fn names_that_were_given_once_are_kept_while_adoption_is_switched_off() {
    let mut home = adopting(1, vec![KnownPlug { name: name("given-once"), ..known(1) }]);
    home.run_for(seconds(4));
    let now = home.now;
    home.bridge.reload(Settings { adopt: false, cloud: true, ..Settings::default() }, now);
    home.run_for(seconds(1));
    assert_eq!(gone(&home), ["given-once"]);
    assert_eq!(home.remembered[device_id(1).as_str()].name, name("given-once"));
}
