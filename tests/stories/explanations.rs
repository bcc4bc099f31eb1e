//! What the snapshot says to a user who wonders: the last error of each plug, and the devices that are not served.

use crate::support::scenario::*;
use hs100d::bridge::event::{AccountPlug, CloudStatus, DiscoveryReply, Event, Identity, Sighting, TdpReply};
use hs100d::bridge::failures::{LastError, PlugError};
use hs100d::bridge::route::RoutePolicy;
use hs100d::bridge::unserved::UnservedDevice;
use hs100d::bridge::{PlugSettings, Settings};
use hs100d::model::{Failure, RelayState, Route};

fn last_error(home: &Scenario) -> Option<LastError> {
    home.bridge.snapshot().plugs[0].last_error.clone()
}

fn unserved(home: &Scenario) -> Vec<UnservedDevice> {
    home.bridge.snapshot().unserved
}

#[test]
fn the_last_error_of_a_plug_stays_after_it_works_again() {
    let mut home = Scenario::settled(1);
    assert_eq!(last_error(&home), None);
    home.plug(1).lan = Lan::Refused;
    home.run_for(seconds(30));
    let while_it_fails = last_error(&home).unwrap();
    let expected = PlugError::Route(Failure::Refused);
    assert_eq!((while_it_fails.route, &while_it_fails.what), (Some(Route::Local), &expected));
    assert!(while_it_fails.at > home.start() + seconds(20), "it is the newest of several");

    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(600));
    let later = last_error(&home).unwrap();
    assert_eq!((later.route, later.what), (Some(Route::Local), expected));
    assert!(later.at < home.start() + seconds(60));
}

#[test]
fn a_command_that_failed_is_the_last_error_until_something_newer_fails() {
    let mut home = Scenario::settled(1);
    home.plug(1).lan = Lan::DeviceError;
    let command = home.switch(1, RelayState::On);
    home.result(command, seconds(12));
    let error = last_error(&home).unwrap();
    assert_eq!(error.route, Some(Route::Local));
    let PlugError::Command { why, cause } = &error.what else { panic!("{error:?}") };
    assert!(why.contains("the plug answered error"), "{why}");
    assert_eq!(cause.unwrap().word, "plug-refuses");

    home.plug(1).lan = Lan::NoRoute;
    home.run_for(seconds(20));
    assert_eq!(last_error(&home).unwrap().what, PlugError::Route(Failure::NoRoute));
}

#[test]
fn a_plug_without_an_address_says_so() {
    let entry = PlugSettings {
        name: Some(plug_name(1)),
        identity: Identity { device_id: Some(device_id(1)), mac: None },
        address: None,
        policy: RoutePolicy::default(),
    };
    let settings = Settings { plugs: vec![entry], ..Settings::default() };
    let mut home = Scenario::from_settings(settings, vec![]);
    home.run_for(seconds(5));
    assert_eq!(last_error(&home).unwrap().what, PlugError::Route(Failure::NoAddress));
}

/// A home that adopts nothing, with an account.
fn picky() -> Scenario {
    let settings = Settings { cloud: true, ..Settings::default() };
    let mut home =
        Scenario::from_settings(settings, vec![ModelPlug::new(1, false), ModelPlug::klap(2, false)]);
    home.event(Event::Cloud(CloudStatus::Ok));
    home
}

fn bulb(number: usize, kind: &str) -> Event {
    let reply = DiscoveryReply::Tdp(TdpReply {
        mac: Some(mac(number)),
        kind: kind.into(),
        model: "L530".into(),
        encryption: "KLAP".into(),
        port: None,
        owner: None,
    });
    Event::Sighted(Sighting { address: address(number), reply })
}

#[test]
fn what_was_found_and_has_no_entry_is_listed_with_the_reason_until_it_is_served() {
    let mut home = picky();
    home.sight(1);
    home.sight_klap(2);
    home.event(Event::Account(vec![row(3, "Lamp", "IOT.SMARTPLUGSWITCH")]));
    home.event(bulb(4, "SMART.TAPOBULB"));
    home.run_for(seconds(5));
    assert!(home.updates.iter().all(|(_, update)| !format!("{update:?}").contains("Unsupported")));
    let mut listed = unserved(&home);
    listed.sort_by_key(|device| device.identity.mac);
    let macs: Vec<_> = listed.iter().map(|device| device.identity.mac.unwrap()).collect();
    assert_eq!(macs, [mac(1), mac(2), mac(3), mac(4)]);
    for device in &listed[..3] {
        assert!(device.reason.contains("discovery.adopt is false"), "{device:?}");
    }
    assert_eq!((&*listed[2].alias, &listed[2].host), ("Lamp", &None));
    assert!(listed[3].reason.contains("SMART.TAPOBULB"), "{listed:?}");
    assert_eq!(listed[3].host.as_deref(), Some("192.0.2.4"));

    // Found again, none is listed twice.
    home.sight(1);
    home.sight_klap(2);
    home.run_for(seconds(5));
    assert_eq!(unserved(&home).len(), 4);

    let now = home.start() + home.elapsed();
    home.bridge.reload(Settings { adopt: true, cloud: true, ..Settings::default() }, now);
    home.sight(1);
    home.sight_klap(2);
    home.event(Event::Account(vec![
        row(3, "Lamp", "IOT.SMARTPLUGSWITCH"),
        AccountPlug { model: "KL110".into(), ..row(5, "Bulb", "IOT.SMARTBULB") },
    ]));
    home.event(bulb(4, "SMART.TAPOBULB"));
    home.run_for(seconds(5));
    let mut listed = unserved(&home);
    listed.sort_by_key(|device| device.identity.mac);
    let reasons: Vec<_> =
        listed.iter().map(|device| (device.identity.mac.unwrap(), &*device.reason)).collect();
    assert_eq!(
        reasons,
        [
            (mac(4), "it is a SMART.TAPOBULB, which hs100d does not support"),
            (mac(5), "it is a IOT.SMARTBULB, which hs100d does not support")
        ]
    );
}

#[test]
fn a_plug_that_refuses_and_an_entry_that_never_answered_are_listed_because_they_have_no_name() {
    let policy = RoutePolicy::default();
    let entry = PlugSettings { name: None, identity: Identity::default(), address: Some(address(1)), policy };
    let settings = Settings { plugs: vec![entry], adopt: true, ..Settings::default() };
    let other = ModelPlug { refusal: Some(Failure::OtherAccount), ..ModelPlug::klap(2, false) };
    let silent = ModelPlug { lan: Lan::NoRoute, ..ModelPlug::new(1, false) };
    let mut home = Scenario::from_settings(settings, vec![silent, other]);
    home.sight_klap(2);
    home.run_for(seconds(10));
    let mut listed = unserved(&home);
    listed.sort_by_key(|device| device.host.clone());
    let [entry, refusing] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((entry.host.as_deref(), entry.seen), (Some("192.0.2.1"), None));
    assert!(entry.reason.starts_with("it has never answered: no route to the host: "), "{entry:?}");
    assert!(refusing.reason.contains("another account") && refusing.seen.is_some(), "{refusing:?}");

    home.plug(1).lan = Lan::Works;
    home.run_for(seconds(70));
    let listed = unserved(&home);
    assert_eq!(listed.len(), 1, "{listed:?}");
}

#[test]
fn a_flood_of_invented_devices_is_bounded() {
    let mut home = picky();
    for number in 0..2000 {
        home.event(bulb(number, "SMART.TAPOBULB"));
        if number % 500 == 0 {
            home.run_for(seconds(3));
        }
    }
    home.run_for(seconds(10));
    assert_eq!(unserved(&home).len(), 200);
}
