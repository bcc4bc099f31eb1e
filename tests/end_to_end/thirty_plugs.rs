//! Thirty plugs that are not in the config: found by one broadcast, followed while commands flow, and found again
//! without any broadcast. The real program, real sockets, all on loopback.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::support::discovery::{
    all_are_shown, assert_own_commands_alone, name, so_many_moved, switch_all_through,
};
use crate::support::e2e::{Config, Scene, home_options_of};
use crate::support::mqtt::within;
use hs100d::sim::home::SimHome;
use hs100d::sim::plug::SwitchedBy;
use serde_json::json;

const PLUGS: usize = 30;
/// The number of plugs that get other addresses.
const MOVED: usize = 10;

async fn thirty() -> SimHome {
    let aliases: Vec<String> = (0..PLUGS).map(|number| format!("Plug {}", number + 1)).collect();
    let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
    let mut home_options = home_options_of(&aliases);
    home_options.first_plug = [127, 0, 30, 1].into();
    SimHome::start(home_options).await.unwrap()
}

/// Only the LAN, and one round of discovery in a day: the first round finds what is found at the start.
fn config_of(home: &SimHome) -> Config {
    Config::of(home).without("cloud").set("discovery", "interval", "1d")
}

fn hosts(home: &SimHome) -> BTreeMap<String, String> {
    let host = |plug| home.lan().address(plug).unwrap().ip().to_string();
    home.plugs().iter().enumerate().map(|(number, plug)| (name(number), host(plug))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_plugs_are_found_by_one_broadcast_followed_while_commands_flow_and_found_again_without_any() {
    let home = thirty().await;
    let scene = Arc::new(Scene::start(&config_of(&home)).await);
    all_are_shown(&scene.subscriber, &hosts(&home)).await;

    let moving = async {
        for number in 0..MOVED {
            let place = SocketAddr::from(([127, 0, 31, 100 + number as u8], home.lan().port()));
            home.lan().plug_in(home.plug(number * 3), place).await.unwrap();
        }
    };
    let commands = switch_all_through(&scene, PLUGS, moving).await;
    for (number, count) in commands.into_iter().enumerate() {
        let log = home.plug(number).switchings();
        assert!(log.iter().all(|switching| switching.by == SwitchedBy::Lan));
        assert_own_commands_alone(&name(number), log.iter().map(|switching| switching.on), count);
    }
    so_many_moved(&scene.subscriber, MOVED).await;

    // The plugs lose power. When they return, no broadcast gets through.
    let state = scene.setup.state_dir().join("state.json");
    let is_written = || {
        let text = std::fs::read_to_string(&state).unwrap();
        (0..MOVED).all(|number| text.contains(&format!("127.0.31.{}:", 100 + number)))
    };
    within("the addresses on disk", async {
        while !is_written() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let Some(Scene { setup, mut daemon, .. }) = Arc::into_inner(scene) else { panic!("a command goes on") };
    daemon.kill().await;
    setup.write(&config_of(&home).set("discovery", "broadcast", ["127.255.255.254"]).text());
    let scene = Scene::at(setup).await;
    all_are_shown(&scene.subscriber, &hosts(&home)).await;
    assert!(
        !scene.subscriber.messages().iter().any(|seen| seen.payload.contains("plug_found")),
        "found anew"
    );
    let result = scene.command(&name(0), json!({ "state": "ON" })).await;
    assert_eq!((&result["status"], home.plug(0).is_on()), (&json!("ok"), true), "{result}");
}
