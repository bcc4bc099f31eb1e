//! Stories of the protocol that a plug speaks on the LAN: how it is learned, how it changes while commands flow, and what
//! is done when the plug refuses both.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

use crate::support::scenario::*;
use hs100d::bridge::Settings;
use hs100d::bridge::event::{Ended, KnownPlug, Notice, NoticeKind, Update};
use hs100d::bridge::route::{RoutePolicy, RoutePreference};
use hs100d::model::LanProtocol::{Klap, Xor};
use hs100d::model::{Address, Failure, LanProtocol, PlugName, RelayState, Route};

/// Plugs without entries, some known from an earlier run, and a bridge that adopts what it finds.
fn adopting(plugs: Vec<ModelPlug>, known: Vec<KnownPlug>, cloud: bool) -> Scenario {
    let settings = Settings { plugs: vec![], known, adopt: true, policy: RoutePolicy::default(), cloud };
    Scenario::from_settings(settings, plugs)
}

/// One plug in the config that only the LAN may reach, read and at rest.
fn lan_only() -> Scenario {
    let mut home = Scenario::with(1, policy(RoutePreference::Local), false);
    home.run_for(seconds(4));
    home.forget_the_past();
    home
}

fn details(home: &Scenario, wanted: NoticeKind) -> Vec<String> {
    let of = home.updates.iter().filter_map(|(_, update)| match update {
        Update::Notice(Notice { kind, detail, .. }) if *kind == wanted => Some(detail.clone()),
        _ => None,
    });
    of.collect()
}

fn remembered(home: &Scenario, number: usize) -> Option<LanProtocol> {
    home.remembered[device_id(number).as_str()].protocol
}

#[test]
fn a_plug_that_moves_to_klap_is_found_by_its_reply_to_the_search_and_carries_the_command_out() {
    let mut home = lan_only();
    home.plug(1).protocol = Klap;
    home.plug(1).klap_port = 8080;
    let command = home.switch(1, RelayState::On);
    let (result, took) = home.result(command, seconds(10));
    assert_eq!((is_ok(&result), result.route), (true, Some(Route::Local)), "{result:?}");
    assert!(took < seconds(1), "{took:?}");
    assert_eq!(home.plug(1).switched.len(), 1);
    assert_eq!(details(&home, NoticeKind::ProtocolChanged), ["xor -> klap"]);
    assert_eq!(home.happened(NoticeKind::AddressChanged), 0);
    let known = home.remembered[device_id(1).as_str()].clone();
    assert_eq!((known.protocol, known.klap_port, known.address), (Some(Klap), Some(8080), Some(address(1))));
}

#[test]
fn a_plug_that_moves_to_klap_and_answers_no_discovery_is_asked_in_klap_after_two_refusals() {
    let mut home = lan_only();
    home.plug(1).protocol = Klap;
    // A slow model plug answers no search.
    home.plug(1).lan = Lan::Slow(LAN_TRIP);
    let command = home.switch(1, RelayState::On);
    let (result, took) = home.result(command, seconds(10));
    assert!(is_ok(&result), "{result:?}");
    assert!(took < seconds(1), "{took:?}");
    assert_eq!(home.spoken[..3], [Xor, Xor, Klap]);
    assert_eq!(details(&home, NoticeKind::ProtocolChanged), ["xor -> klap"]);
}

#[test]
fn the_protocol_and_its_port_outlive_a_restart() {
    let known = KnownPlug { protocol: Some(Klap), klap_port: Some(8080), ..known(1) };
    let plug = ModelPlug { klap_port: 8080, ..ModelPlug::klap(1, false) };
    let mut home = adopting(vec![plug], vec![known], false);
    home.run_until(seconds(2), |home| home.shown(1).is_some());
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
    home.run_for(seconds(60));
    assert!(home.spoken.iter().all(|&spoken| spoken == Klap));
    assert_eq!(home.happened(NoticeKind::ProtocolChanged), 0, "it is the one of the last run");
}

#[test]
fn a_plug_that_left_klap_since_the_last_run_is_asked_in_xor_at_once() {
    let known = KnownPlug { protocol: Some(Klap), ..known(1) };
    let mut home = adopting(vec![ModelPlug::new(1, false)], vec![known], false);
    let took = home.run_until(seconds(2), |home| home.shown(1).is_some());
    assert!(took < millis(10), "{took:?}");
    assert_eq!(details(&home, NoticeKind::ProtocolChanged), ["klap -> xor"]);
    assert_eq!(remembered(&home, 1), Some(Xor));
}

/// A firmware that speaks XOR may answer the discovery of KLAP as well.
#[test]
fn the_store_keeps_the_protocol_of_the_last_answer_and_not_what_discovery_said() {
    let mut home = lan_only();
    home.plug(1).lan = Lan::Silent;
    home.run_for(seconds(30));
    home.sight_klap(1);
    home.run_for(seconds(30));
    assert!(home.spoken.contains(&Klap), "that is tried");
    let known: Vec<_> = home.bridge.known_plugs().collect();
    assert_eq!(known[0].protocol, Some(Xor));
    assert!(home.remembered.values().all(|plug| plug.protocol == Some(Xor)));

    // The daemon is restarted.
    let mut home = adopting(vec![ModelPlug::new(1, false)], known, false);
    home.run_until(seconds(2), |home| home.shown(1).is_some());
    assert_eq!(home.happened(NoticeKind::ProtocolChanged), 0);
}

/// The switch in the Kasa app is moved while commands flow.
#[test]
fn a_plug_that_changes_its_protocol_in_the_middle_of_commands_loses_none_and_doubles_none() {
    for cloud in [false, true] {
        let preference = if cloud { RoutePreference::LocalThenCloud } else { RoutePreference::Local };
        let mut home = Scenario::with(1, policy(preference), cloud);
        home.run_for(seconds(4));
        home.forget_the_past();
        let mut expected = home.plug(1).relay;
        let mut sent = 0;
        for change in 1..=6 {
            for offset in [0, 1, 3, 400] {
                let command = home.toggle(1);
                home.run_for(millis(offset));
                if offset == 1 {
                    home.plug(1).protocol = if change % 2 == 1 { Klap } else { Xor };
                }
                let (result, took) = home.result(command, seconds(10));
                assert!(is_ok(&result), "{cloud} {change}: {result:?}");
                assert!(took < seconds(2), "{cloud} {change}: {took:?}");
                expected = !expected;
                sent += 1;
                assert_eq!(home.plug(1).relay, expected, "{cloud} {change}");
                home.run_for(millis(300));
            }
            home.run_for(seconds(12));
            assert_eq!(home.happened(NoticeKind::ProtocolChanged), change, "{cloud}");
            assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
        }
        let switched: Vec<_> = home.plug(1).switched.iter().map(|(_, state)| *state).collect();
        assert_eq!(switched.len(), sent, "{cloud}: none lost, none doubled");
        assert!(switched.windows(2).all(|pair| pair[0] != pair[1]), "{cloud}: {switched:?}");
        assert_eq!(home.happened(NoticeKind::AddressChanged), 0);
        assert_eq!(home.remembered[device_id(1).as_str()].name, plug_name(1));
        assert_eq!(home.remembered[device_id(1).as_str()].address, Some(address(1)));
    }
}

#[test]
fn a_plug_that_refuses_both_protocols_is_switched_over_the_cloud_at_once() {
    for protocol in [Xor, Klap] {
        let known = KnownPlug { protocol: Some(protocol), ..known(1) };
        let mut home = adopting(vec![ModelPlug { protocol, ..ModelPlug::new(1, true) }], vec![known], true);
        home.run_for(seconds(4));
        home.plug(1).lan = Lan::Refused;
        let command = home.switch(1, RelayState::On);
        let (result, took) = home.result(command, seconds(10));
        assert_eq!((is_ok(&result), result.route), (true, Some(Route::Cloud)));
        assert!(took < CLOUD_TRIP * 3, "{took:?}");
        assert_eq!(home.plug(1).switched.len(), 1);
    }
}

#[test]
fn a_plug_that_blocks_klap_is_asked_in_xor_and_then_over_the_cloud_and_the_events_say_why() {
    let known = KnownPlug { protocol: Some(Klap), ..known(1) };
    let mut home = adopting(vec![ModelPlug::klap(1, true)], vec![known], true);
    home.run_for(seconds(4));
    home.forget_the_past();
    home.plug(1).refusal = Some(Failure::KlapBlocked);
    let command = home.switch(1, RelayState::On);
    let (result, took) = home.result(command, seconds(10));
    assert_eq!((is_ok(&result), result.route), (true, Some(Route::Cloud)));
    assert!(took < CLOUD_TRIP * 3, "{took:?}");
    assert_eq!(home.spoken[..2], [Klap, Xor]);
    home.run_for(seconds(120));
    let [detail] = &details(&home, NoticeKind::Unsupported)[..] else { panic!("{:?}", home.updates) };
    assert!(detail.contains("refuses the KLAP handshake") && detail.contains("Third-Party"), "{detail}");
    let snapshot = home.bridge.snapshot();
    assert_eq!(snapshot.plugs[0].failures.get(Route::Local), Some(&Failure::KlapBlocked));

    // The block ends.
    home.plug(1).refusal = None;
    home.run_until(seconds(11), |home| home.shown(1).unwrap().route == Some(Route::Local));
    assert_eq!(home.happened(NoticeKind::ProtocolChanged), 0);
}

#[test]
fn a_plug_whose_session_is_taken_fails_with_that_reason_and_is_still_asked_in_klap() {
    let mut home = lan_only();
    home.plug(1).protocol = Klap;
    home.plug(1).refusal = Some(Failure::SessionTaken);
    // A slow model plug answers no search: only its refusal shows that it speaks KLAP.
    home.plug(1).lan = Lan::Slow(LAN_TRIP);
    let command = home.switch(1, RelayState::On);
    let (result, _) = home.result(command, seconds(11));
    let Ended::Error(why) = &result.ended else { panic!("{result:?}") };
    assert!(why.contains("another client took"), "{why}");
    home.run_for(seconds(20));
    home.spoken.clear();
    home.run_for(seconds(60));
    assert!(home.spoken.iter().all(|&spoken| spoken == Klap), "{:?}", home.spoken);
}

#[test]
fn newcomers_that_speak_klap_appear_by_their_alias_and_are_served_over_the_lan() {
    let mut plugs: Vec<_> = (1..=3).map(|number| ModelPlug::klap(number, false)).collect();
    plugs[1].klap_port = 8080;
    let mut home = adopting(plugs, vec![], false);
    for round in 0..3 {
        for number in 1..=3 {
            home.sight_klap(number);
        }
        if round == 0 {
            home.run_until(seconds(3), |home| (1..=3).all(|number| home.shown(number).is_some()));
        }
        home.run_for(seconds(60));
    }
    for number in 1..=3 {
        assert_eq!(home.shown(number).unwrap().route, Some(Route::Local));
        assert_eq!(remembered(&home, number), Some(Klap));
        let command = home.switch(number, RelayState::On);
        assert_eq!(home.result(command, LAN_TRIP * 3).0.route, Some(Route::Local));
    }
    assert_eq!((home.happened(NoticeKind::PlugFound), home.happened(NoticeKind::Unsupported)), (3, 0));
    assert_eq!(home.happened(NoticeKind::ProtocolChanged), 0);
    assert!(home.spoken.iter().all(|&spoken| spoken == Klap));
}

/// A newcomer that refuses KLAP answers discovery again and again. What the only notice about it says.
fn reported_once(refusal: Failure) -> (Scenario, String) {
    let plug = ModelPlug { refusal: Some(refusal), ..ModelPlug::klap(1, false) };
    let mut home = adopting(vec![plug], vec![], false);
    for _ in 0..5 {
        home.sight_klap(1);
        home.run_for(seconds(60));
    }
    let [detail] = &details(&home, NoticeKind::Unsupported)[..] else { panic!("{:?}", home.updates) };
    let detail = detail.to_string();
    (home, detail)
}

#[test]
fn a_newcomer_that_holds_another_account_is_reported_once_with_the_remedy() {
    let (mut home, detail) = reported_once(Failure::OtherAccount);
    assert!(detail.contains("192.0.2.1") && detail.contains("check the password"), "{detail}");
    assert_eq!((home.happened(NoticeKind::PlugFound), home.remembered.len()), (0, 0));

    // The user corrects the account.
    home.plug(1).refusal = None;
    home.run_until(seconds(61), |home| home.shown(1).is_some());
    assert_eq!(home.remembered[device_id(1).as_str()].name, PlugName::new("plug-1").unwrap());
}

#[test]
fn a_newcomer_without_an_account_hears_where_to_give_one() {
    let (mut home, said) = reported_once(Failure::NoLanAccount);
    assert!(said.contains("192.0.2.1") && said.contains("asks for its account"), "{said}");
    for remedy in
        ["[cloud] username", "`hs100d cloud login`", "`hs100d cloud login --lan-only`", "[local] username"]
    {
        assert!(said.contains(remedy), "{remedy}: {said}");
    }

    // The user gives one, which is not that of the plug.
    home.plug(1).refusal = Some(Failure::OtherAccount);
    let now = home.now;
    home.bridge.reload(Settings { adopt: true, ..Settings::default() }, now);
    home.run_for(seconds(60));
    let [_, said] = &details(&home, NoticeKind::Unsupported)[..] else { panic!("{:?}", home.updates) };
    assert!(said.contains("the plug holds another account"), "{said}");
}

/// Serves only an entry with the device id of the first plug.
fn device_id_alone() -> Settings {
    let entry = hs100d::bridge::PlugSettings {
        name: Some(plug_name(1)),
        identity: hs100d::bridge::event::Identity { device_id: Some(device_id(1)), mac: None },
        address: None,
        policy: policy(RoutePreference::Local),
    };
    Settings { plugs: vec![entry], adopt: false, ..Settings::default() }
}

/// Three plugs that speak KLAP, for such an entry. They answer discovery only when the test says so.
fn with_a_device_id_alone(refusal: Option<Failure>) -> Scenario {
    let plugs =
        (1..=3).map(|number| ModelPlug { refusal: refusal.clone(), ..ModelPlug::klap(number, false) });
    let mut home = Scenario::from_settings(device_id_alone(), plugs.collect());
    home.broadcasts_work = false;
    home.run_for(seconds(5));
    home
}

/// How often each of them was asked over the LAN.
fn asked(home: &Scenario) -> [usize; 3] {
    [1, 2, 3].map(|number| {
        let ip = |address: &Address| address.socket().unwrap().ip();
        home.connected_to.iter().filter(|to| ip(to) == ip(&address(number))).count()
    })
}

/// Each plug answers the discovery of KLAP, round after round.
fn sight_all(home: &mut Scenario, rounds: usize) {
    for _ in 0..rounds {
        (1..=3).for_each(|number| home.sight_klap(number));
        home.run_for(seconds(60));
    }
}

#[test]
fn an_entry_with_a_device_id_alone_is_found_over_klap_although_no_other_plug_is_served() {
    let mut home = with_a_device_id_alone(None);
    sight_all(&mut home, 1);
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
    let command = home.switch(1, RelayState::On);
    assert_eq!(home.result(command, seconds(1)).0.route, Some(Route::Local));
    assert_eq!(home.bridge.snapshot().info.plugs, 1);
    sight_all(&mut home, 5);
    assert_eq!(asked(&home)[1..], [1, 1]);
    for number in [2, 3] {
        assert!(home.shown(number).is_none() && home.plug(number).switched.is_empty());
    }
    let said = [NoticeKind::PlugFound, NoticeKind::PlugGone, NoticeKind::Unsupported];
    assert_eq!(said.map(|kind| home.happened(kind)), [0; 3]);
    assert_eq!(home.bridge.snapshot().info.plugs, 1);
}

#[test]
fn plugs_that_hold_another_account_are_asked_once_for_an_entry_that_is_missing() {
    let mut home = with_a_device_id_alone(Some(Failure::OtherAccount));
    sight_all(&mut home, 10);
    assert_eq!((asked(&home), home.happened(NoticeKind::Unsupported)), ([1; 3], 3));
    assert!(home.shown(1).is_none());

    // The user corrects the account and reloads.
    (1..=3).for_each(|number| home.plug(number).refusal = None);
    let now = home.now;
    home.bridge.reload(device_id_alone(), now);
    sight_all(&mut home, 1);
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
}

#[test]
fn a_plug_that_is_silent_is_asked_once_for_each_of_its_replies() {
    let mut home = with_a_device_id_alone(Some(Failure::Silent));
    sight_all(&mut home, 10);
    assert_eq!(asked(&home), [10; 3]);
    assert_eq!(home.bridge.snapshot().info.plugs, 1);
    assert!(home.discoveries < 20, "{} searches: only the entry is missing", home.discoveries);
}

#[test]
fn a_klap_plug_without_a_mac_in_its_reply_is_served_by_an_entry_with_its_address_and_else_reported_with_that_remedy()
 {
    for has_entry in [false, true] {
        let entry = hs100d::bridge::PlugSettings {
            name: Some(plug_name(1)),
            identity: hs100d::bridge::event::Identity::default(),
            address: Some(address(1)),
            policy: policy(RoutePreference::Local),
        };
        let plugs = if has_entry { vec![entry] } else { vec![] };
        let settings = Settings { plugs, adopt: true, ..Settings::default() };
        let plug = ModelPlug { klap_port: 8080, ..ModelPlug::klap(1, false) };
        let mut home = Scenario::from_settings(settings, vec![plug]);
        for _ in 0..3 {
            home.sight_klap_without_mac(1);
            home.run_for(seconds(20));
        }
        let said = details(&home, NoticeKind::Unsupported);
        if has_entry {
            assert_eq!((said, home.shown(1).unwrap().route), (vec![], Some(Route::Local)));
        } else {
            let [said] = &said[..] else { panic!("{:?}", home.updates) };
            assert!(said.contains("it speaks KLAP, but its reply to discovery has no MAC"), "{said}");
            assert!(said.contains("at 192.0.2.1: ") && said.contains("`host` in a [[plug]] entry"), "{said}");
        }
    }
}

#[test]
fn a_plug_in_the_config_by_its_address_alone_is_served_over_klap() {
    let entry = hs100d::bridge::PlugSettings {
        name: Some(plug_name(1)),
        identity: hs100d::bridge::event::Identity::default(),
        address: Some(address(1)),
        policy: policy(RoutePreference::Local),
    };
    for klap_port in [80, 8080] {
        let settings = Settings { plugs: vec![entry.clone()], adopt: true, ..Settings::default() };
        let plug = ModelPlug { klap_port, ..ModelPlug::klap(1, false) };
        let mut home = Scenario::from_settings(settings, vec![plug]);
        home.run_until(seconds(15), |home| home.shown(1).is_some());
        home.run_for(seconds(5));
        assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
        assert_eq!(home.happened(NoticeKind::PlugFound), 0, "it is the one of the entry");
    }
}
