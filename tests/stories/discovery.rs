//! Discovery on a simulated clock: when the bridge searches the LAN and lists the account, and what it reports about
//! devices that it cannot serve.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use crate::support::scenario::*;
use hs100d::bridge::event::{
    BridgeCommand, DiscoveryReply, Ended, Event, Identity, Notice, NoticeKind, Origin, RequestId, Sighting,
    TdpReply, Update,
};
use hs100d::bridge::route::RoutePolicy;
use hs100d::bridge::{PlugSettings, Settings};
use hs100d::model::{Address, Availability, Failure, LanProtocol, PlugName, RelayState, Route};

/// A home whose plugs are not in the config; the first `remembered` of them are known from an earlier run.
fn adopting(count: usize, remembered: usize, cloud: bool) -> Scenario {
    let plugs = (1..=count).map(|number| ModelPlug::new(number, cloud)).collect();
    let known = (1..=remembered).map(known).collect();
    let settings = Settings { plugs: vec![], known, adopt: true, policy: RoutePolicy::default(), cloud };
    Scenario::from_settings(settings, plugs)
}

/// A device answers the discovery on UDP 20002.
fn sight_other(home: &mut Scenario, number: usize, kind: &str, encryption: &str) {
    let reply = DiscoveryReply::Tdp(TdpReply {
        mac: Some(mac(number)),
        kind: kind.into(),
        model: "HS100(UK)".into(),
        encryption: encryption.into(),
        port: None,
        owner: None,
    });
    home.event(Event::Sighted(Sighting { address: address(number), reply }));
}

/// The notices about devices that cannot be served: the plug, and the text.
fn unsupported(home: &Scenario) -> Vec<(Option<String>, String)> {
    let details = home.updates.iter().filter_map(|(_, update)| match update {
        Update::Notice(Notice { kind: NoticeKind::Unsupported, plug, detail, .. }) => {
            Some((plug.as_ref().map(ToString::to_string), detail.clone()))
        }
        _ => None,
    });
    details.collect()
}

fn pauses(times: impl IntoIterator<Item = Duration>) -> Vec<u64> {
    let times: Vec<_> = times.into_iter().collect();
    times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis().div_ceil(1000) as u64).collect()
}

#[test]
fn a_missing_plug_is_looked_for_at_once_then_in_growing_pauses_and_no_more_once_it_is_back() {
    let mut home = adopting(1, 1, false);
    home.run_for(seconds(4));
    assert_eq!(home.searches, [], "no plug is missing");
    home.plug(1).lan = Lan::Refused;
    let gone = home.elapsed();
    home.run_for(seconds(300));
    let first = home.searches[0].0;
    assert!(first - gone < seconds(6), "within a poll: {first:?}");
    let times: Vec<_> = home.searches.iter().map(|(at, _)| *at).collect();
    assert_eq!(pauses(times), [2, 4, 8, 16, 32, 60, 60, 60]);
    assert!(
        home.searches.iter().all(|(_, probe)| *probe == [address(1)]),
        "its last address is asked directly"
    );

    home.plug(1).lan = Lan::Works;
    home.sight(1);
    home.run_for(seconds(1));
    home.searches.clear();
    home.run_for(seconds(300));
    let found_again = home.searches.len();
    assert!(found_again <= 1, "{found_again} searches without a missing plug");
}

#[test]
fn a_plug_that_moved_is_found_by_the_search_and_followed_within_ten_seconds() {
    for lan in [Lan::Works, Lan::Silent] {
        let mut home = adopting(2, 1, false);
        home.broadcasts_work = true;
        home.run_for(seconds(4));
        // At its old address there is no answer, or a device without one.
        home.plug(1).address = Address::new("192.0.2.99", 9999);
        home.plug(2).address = (lan == Lan::Silent).then(|| address(1));
        home.plug(2).lan = lan;
        let took = home.run_until(seconds(10), |home| home.happened(NoticeKind::AddressChanged) == 1);
        assert!(took <= seconds(10), "{took:?}");
    }
}

#[test]
fn plugs_that_go_missing_together_are_looked_for_together_and_each_is_asked_in_its_turn() {
    let count = 1000;
    let mut home = adopting(count, count, false);
    home.run_for(seconds(12));
    home.searches.clear();
    for number in 1..=count {
        home.plug(number).lan = Lan::Refused;
    }
    home.run_for(seconds(30));
    assert!(home.searches.len() <= 12, "{} searches in half a minute", home.searches.len());
    let most = home.searches.iter().map(|(_, probe)| probe.len()).max().unwrap();
    assert!(most <= 256, "{most} asked at once");
    let asked: std::collections::HashSet<_> = home.searches.iter().flat_map(|(_, probe)| probe).collect();
    assert_eq!(asked.len(), count, "each was asked");
}

#[test]
fn where_the_user_wrote_that_a_plug_lives_it_is_looked_for_as_well() {
    let entry = PlugSettings {
        name: Some(plug_name(1)),
        identity: Identity { device_id: Some(device_id(1)), mac: None },
        address: Some(address(1)),
        policy: RoutePolicy::default(),
    };
    let settings = Settings { plugs: vec![entry], ..Settings::default() };
    let mut home = Scenario::from_settings(settings, vec![ModelPlug::new(1, false)]);
    home.run_for(seconds(4));
    let elsewhere = Address::new("192.0.2.99", 9999);
    home.plug(1).address.clone_from(&elsewhere);
    home.run_for(seconds(6));
    home.sight(1);
    home.run_for(seconds(6));
    home.searches.clear();
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(20));
    assert_eq!(home.searches[0].1, [elsewhere.unwrap(), address(1)]);
}

#[test]
fn a_request_to_discover_searches_the_lan_and_lists_the_account() {
    let mut home = adopting(1, 1, true);
    home.run_for(seconds(4));
    home.event(Event::Account(vec![]));
    (home.searches, home.listings) = (vec![], vec![]);
    home.event(Event::Request { id: RequestId::new(Origin::Mqtt, 1), ask: BridgeCommand::Discover });
    assert_eq!((home.searches.len(), home.listings.len()), (1, 1));
    let answered = Update::Response { id: RequestId::new(Origin::Mqtt, 1), result: Ok(()) };
    assert!(home.updates.iter().any(|(_, update)| *update == answered));
    home.run_for(seconds(30));
    assert_eq!(home.searches.len(), 1, "no plug is missing, so once is enough");
}

#[test]
fn a_plug_that_holds_another_account_is_named_once_and_served_over_the_cloud_where_the_account_lists_it() {
    let mut home = adopting(1, 0, true);
    home.plug(1).protocol = LanProtocol::Klap;
    home.plug(1).refusal = Some(Failure::OtherAccount);
    for _ in 0..3 {
        sight_other(&mut home, 1, PLUG, "KLAP");
    }
    home.event(Event::Account(vec![row(1, "Plug 1", PLUG)]));
    home.run_until(seconds(2), |home| home.shown(1).is_some());
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Cloud));
    home.run_for(seconds(3));
    for _ in 0..3 {
        sight_other(&mut home, 1, PLUG, "KLAP");
        home.run_for(seconds(60));
    }
    let [(plug, detail)] = &unsupported(&home)[..] else { panic!("{:?}", unsupported(&home)) };
    assert_eq!(plug.as_deref(), Some("plug-1"), "joined by its MAC");
    assert!(
        detail.contains("192.0.2.1") && detail.contains("another account") && detail.contains("Me > Account"),
        "{detail}"
    );
}

/// 27 bulbs once filled a log with 648 lines in 42 seconds.
#[test]
fn a_bulb_that_answers_every_datagram_is_named_once() {
    let mut home = adopting(2, 0, true);
    home.plug(1).kind = BULB;
    for _ in 0..20 {
        home.sight(1);
        home.sight(1);
        home.sight(2);
        home.event(Event::Account(vec![row(1, "Plug 1", BULB)]));
        home.run_for(seconds(60));
    }
    let [(None, detail)] = &unsupported(&home)[..] else { panic!("{:?}", unsupported(&home)) };
    assert!(detail.contains("it is a IOT.SMARTBULB (HS100(EU)), which hs100d does not support"), "{detail}");
    assert_eq!(home.happened(NoticeKind::PlugFound), 1, "the plug beside it");
}

#[test]
fn a_bulb_where_the_user_wrote_a_plug_is_not_supported_and_nothing_of_it_is_announced() {
    for cloud in [false, true] {
        let mut bulb = ModelPlug::new(1, cloud);
        bulb.kind = BULB;
        let entry = PlugSettings {
            name: Some(plug_name(1)),
            identity: Identity::default(),
            address: Some(address(1)),
            policy: RoutePolicy::default(),
        };
        let settings = Settings { plugs: vec![entry], cloud, ..Settings::default() };
        let mut home = Scenario::from_settings(settings, vec![bulb]);
        let command = home.switch(1, RelayState::On);
        let result = home.result(command, seconds(11)).0;
        let Ended::Error(why) = &result.ended else { panic!("{result:?}") };
        assert!(why.contains("not supported") && why.contains("IOT.SMARTBULB"), "{why}");
        home.run_for(seconds(120));
        let is_shown = |update: &Update| {
            matches!(
                update,
                Update::State(..) | Update::Info(..) | Update::Availability(_, Availability::Online)
            )
        };
        assert!(!home.updates.iter().any(|(_, update)| is_shown(update)), "{:#?}", home.updates);
        let [(Some(plug), detail)] = &unsupported(&home)[..] else { panic!("{:?}", unsupported(&home)) };
        assert_eq!(plug, "plug-1");
        assert!(detail.contains("at 192.0.2.1: it is a IOT.SMARTBULB"), "{detail}");
    }
}

#[test]
fn two_devices_with_one_device_id_are_said_once_with_both_macs_and_addresses() {
    let mut home = adopting(2, 0, false);
    home.plug(2).device_id = device_id(1);
    for _ in 0..5 {
        home.sight(1);
        home.sight(2);
        home.run_for(seconds(60));
    }
    let [(plug, detail)] = &unsupported(&home)[..] else { panic!("{:?}", unsupported(&home)) };
    assert_eq!(plug.as_deref(), Some("plug-1"));
    for part in [
        "\"Plug 2\" (192.0.2.2, MAC 50:C7:BF:00:00:02)",
        "plug-1 (192.0.2.1, MAC 50:C7:BF:00:00:01)",
        "run a second hs100d",
    ] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
    // Once the first is gone, the second gets its name.
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(20));
    home.sight(2);
    home.run_for(seconds(5));
    assert_eq!(unsupported(&home).len(), 1);
}

#[test]
fn two_entries_whose_plugs_have_one_device_id_are_not_taken_for_one_plug() {
    let entry = |number| PlugSettings {
        name: Some(plug_name(number)),
        identity: Identity::default(),
        address: Some(address(number)),
        policy: RoutePolicy::default(),
    };
    let mut plugs = vec![ModelPlug::new(1, false), ModelPlug::new(2, false)];
    plugs[1].device_id = device_id(1);
    let settings = Settings { plugs: vec![entry(1), entry(2)], ..Settings::default() };
    let mut home = Scenario::from_settings(settings, plugs);
    home.run_for(seconds(60));
    let details: Vec<_> = home
        .updates
        .iter()
        .filter_map(|(_, update)| match update {
            Update::Notice(Notice { kind: NoticeKind::PlugGone, plug: None, detail, .. }) => Some(detail),
            _ => None,
        })
        .collect();
    assert_eq!(details.len(), 1, "{details:?}");
    for part in ["192.0.2.1, MAC 50:C7:BF:00:00:01", "192.0.2.2, MAC 50:C7:BF:00:00:02", "second hs100d"] {
        assert!(details[0].contains(part), "{part}: {details:?}");
    }
}

#[test]
fn a_plug_that_speaks_only_klap_and_is_in_no_account_is_named_too() {
    let mut home = adopting(1, 0, false);
    sight_other(&mut home, 1, PLUG, "");
    home.run_for(seconds(3));
    let [(None, detail)] = &unsupported(&home)[..] else { panic!("{:?}", unsupported(&home)) };
    assert!(detail.contains("it speaks another protocol"), "{detail}");
    assert_eq!(home.happened(NoticeKind::PlugFound), 0);
}

#[test]
fn a_plug_that_answers_both_discoveries_is_a_plug_like_any_other_whichever_comes_first() {
    for other_first in [true, false] {
        let mut home = adopting(1, 0, true);
        for _ in 0..5 {
            if other_first {
                sight_other(&mut home, 1, PLUG, "KLAP");
            }
            home.run_for(millis(300));
            home.sight(1);
            if !other_first {
                sight_other(&mut home, 1, PLUG, "KLAP");
            }
            home.run_for(seconds(60));
        }
        assert_eq!(unsupported(&home), []);
        assert_eq!(home.shown(1).unwrap().route, Some(Route::Local));
    }
}

#[test]
fn a_plug_that_a_firmware_update_moves_to_klap_and_blocks_is_named_and_again_after_it_had_come_back() {
    let mut home = adopting(1, 1, true);
    home.run_for(seconds(4));
    for count in 1..=2 {
        home.plug(1).protocol = LanProtocol::Klap;
        home.plug(1).refusal = Some(Failure::KlapBlocked);
        home.run_for(seconds(10));
        sight_other(&mut home, 1, PLUG, "KLAP");
        home.run_for(seconds(10));
        let details = unsupported(&home);
        assert_eq!((details.len(), details[count - 1].0.as_deref()), (count, Some("plug-1")));

        home.plug(1).protocol = LanProtocol::Xor;
        home.sight(1);
        home.run_until(seconds(2), |home| home.shown(1).unwrap().route == Some(Route::Local));
    }
}

#[test]
fn devices_of_other_kinds_are_named_once_each_wherever_they_are_seen() {
    let mut home = adopting(0, 0, true);
    for _ in 0..2 {
        sight_other(&mut home, 7, "SMART.TAPOPLUG", "KLAP");
        home.event(Event::Account(vec![
            row(7, "Tapo", "SMART.TAPOPLUG"),
            row(8, "Bulb one", "IOT.SMARTBULB"),
            row(9, "Bulb \"two\"", "IOT.SMARTBULB"),
        ]));
        home.run_for(seconds(60));
    }
    let details: Vec<_> = unsupported(&home).into_iter().map(|(_, detail)| detail).collect();
    assert_eq!(details.len(), 3, "{details:#?}");
    assert!(details[0].contains("\"Tapo\" in the account: it is a SMART.TAPOPLUG"), "{details:#?}");
    assert!(
        details[1].contains("\"Bulb one\"") && details[2].contains("\"Bulb \\\"two\\\"\""),
        "{details:#?}"
    );
}

#[test]
fn without_adoption_nobody_but_the_listed_plugs_is_spoken_of() {
    let entry = PlugSettings {
        name: Some(plug_name(1)),
        identity: Identity { device_id: None, mac: Some(mac(1)) },
        address: None,
        policy: RoutePolicy::default(),
    };
    let settings = Settings { plugs: vec![entry], adopt: false, ..Settings::default() };
    let refuses =
        |number| ModelPlug { refusal: Some(Failure::OtherAccount), ..ModelPlug::klap(number, false) };
    let mut home = Scenario::from_settings(settings, vec![refuses(1), refuses(2)]);
    sight_other(&mut home, 1, PLUG, "KLAP");
    sight_other(&mut home, 2, PLUG, "KLAP");
    home.event(Event::Account(vec![row(8, "Bulb", "IOT.SMARTBULB")]));
    home.run_for(seconds(5));
    let details = unsupported(&home);
    assert_eq!((details.len(), details[0].0.as_deref()), (1, Some("plug-1")));
}

#[test]
fn the_account_is_listed_at_the_start_soon_again_while_it_does_not_come_and_then_every_half_hour() {
    let mut home = adopting(0, 0, true);
    home.run_for(seconds(120));
    assert_eq!(home.listings[0], Duration::ZERO);
    assert_eq!(pauses(home.listings.clone()), [15, 30, 60]);
    home.event(Event::Account(vec![row(1, "Plug 1", PLUG)]));
    home.listings = vec![home.elapsed()];
    for _ in 0..3 {
        home.run_for(seconds(1800));
        home.event(Event::Account(vec![]));
    }
    assert_eq!(pauses(home.listings.clone()), [1800, 1800, 1800]);
    assert!(home.remembered.contains_key(device_id(1).as_str()), "an empty list forgets nothing");
}

#[test]
fn without_an_account_no_list_is_asked_for() {
    let mut home = adopting(0, 0, false);
    home.run_for(seconds(4000));
    assert!(home.listings.is_empty(), "{:?}", home.listings);
}

#[test]
fn plugs_that_are_made_up_in_a_flood_end_somewhere() {
    let mut home = adopting(1, 1, false);
    home.run_for(seconds(4));
    let mut reading = home.plug(1).reading();
    for number in 0..25_000 {
        let device = std::sync::Arc::make_mut(&mut reading.device);
        (device.device_id, device.mac) = (Some(device_id(1000 + number)), None);
        let reply = DiscoveryReply::SysInfo(Box::new(reading.clone()));
        let address = Address::new("192.0.2.66", 9999).unwrap();
        home.bridge.handle(Event::Sighted(Sighting { address, reply }), home.now);
        while home.bridge.poll_action().is_some() {}
    }
    let found = home.bridge.known_plugs().count();
    assert_eq!(found, 20_000);
    assert!(home.bridge.known_plugs().any(|known| known.name == PlugName::new("plug-1").unwrap()));
}
