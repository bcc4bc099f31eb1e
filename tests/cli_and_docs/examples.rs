//! The programs under `examples/`, run in the simulated home. Each is included as a module, so the test runs the file
//! itself.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(dead_code, reason = "no test calls main")]

use std::path::Path;
use std::time::Duration;

use hs100d::model::{Address, Failure, RelayState};
use hs100d::sim::fault::LanFault;
use hs100d::sim::home::{HomeOptions, SimHome};
use tokio::sync::mpsc;

#[path = "../../examples/soak/main.rs"]
mod soak;
#[path = "../../examples/story.rs"]
mod story;
#[path = "../../examples/switch.rs"]
mod switch;
#[path = "../../examples/watch.rs"]
mod watch;

/// The longest that anything here may take. It takes milliseconds, more on a busy machine.
const BOUND: Duration = Duration::from_secs(30);

#[tokio::test]
async fn switch_switches_a_plug_by_its_address_and_says_what_became_of_it() {
    let home = SimHome::start(HomeOptions::of(&["Lamp"])).await.unwrap();
    let lamp = home.plug(0);
    let address = Address::from(home.lan().address(lamp).unwrap());
    assert_eq!(switch::switch(address.clone(), RelayState::On).await, Ok("Lamp is ON".to_owned()));
    assert!(lamp.is_on());
    assert_eq!(switch::switch(address.clone(), RelayState::Off).await, Ok("Lamp is OFF".to_owned()));
    assert!(!lamp.is_on());

    home.lan().set_fault(lamp, LanFault::Refused).await.unwrap();
    assert_eq!(switch::switch(address, RelayState::On).await, Err(Failure::Refused));
    assert!(!lamp.is_on());
}

#[tokio::test]
async fn watch_finds_the_plugs_and_sees_a_button_being_pressed() {
    let home = SimHome::start(HomeOptions::of(&["Lamp", "Kettle"])).await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let watching = watch::watch(watch::towards(home.lan().broadcast()), |line| tell.send(line).unwrap());
    let seen = async {
        hear(&mut told, &["lamp is OFF", "kettle is OFF"]).await;
        home.plug(0).press_button();
        hear(&mut told, &["lamp is ON"]).await;
    };
    tokio::select! {
        () = watching => unreachable!("it watches until it is dropped"),
        seen = tokio::time::timeout(BOUND, seen) => seen.unwrap(),
    }
}

/// Waits until all of these lines came, in any order.
async fn hear(told: &mut mpsc::UnboundedReceiver<String>, wanted: &[&str]) {
    let mut missing = wanted.to_vec();
    while !missing.is_empty() {
        let line = told.recv().await.unwrap();
        missing.retain(|wanted| *wanted != line);
    }
}

/// The whole soak in half a minute: the real daemon, a storm of each kind of fault, and a check of every command.
#[tokio::test]
async fn a_short_soak_ends_with_everything_as_it_was_and_every_command_accounted_for() {
    let options = soak::Options { minutes: 0.25, plugs: 20, seed: 1 };
    let daemon = Path::new(env!("CARGO_BIN_EXE_hs100d"));
    let report = soak::soak(&options, daemon, |line| println!("{line}")).await.unwrap();
    println!("{}", report.text);
    assert_eq!(report.faults, [""; 0]);
}

#[test]
fn the_story_goes_from_the_lan_to_the_cloud_and_home_again() {
    let lines = story::tell();
    let ends: Vec<_> =
        lines.iter().filter_map(|line| line.split_once("Ok after ")).map(|(_, end)| end).collect();
    let [first, silent, down, recovered] = ends[..] else { panic!("{lines:#?}") };
    assert_eq!(first, "4ms, over the local route");
    assert_eq!(silent, "850ms, over the cloud route");
    assert_eq!(down, "150ms, over the cloud route");
    assert!(recovered.ends_with("over the local route"), "{recovered}");
    assert_eq!(story::tell(), lines, "the same each time");
}
