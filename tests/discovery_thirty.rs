//! Thirty plugs that nobody wrote down: found by one broadcast, followed while commands flow, and found again without
//! any broadcast. The real program, real sockets, all on loopback.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod e2e_kit;
mod mqtt_kit;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use e2e_kit::{Config, Scene, blueprint_of, json_of};
use hs100d::sim::house::House;
use hs100d::sim::plug::Origin;
use mqtt_kit::{Ear, Seen, within};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

const PLUGS: usize = 30;
/// Of them so many are given other addresses.
const MOVED: usize = 10;
/// The plugs move when they have been switched so many times, and are switched so many times more.
const COMMANDS: usize = 4;

fn name(number: usize) -> String {
    format!("plug-{}", number + 1)
}

async fn thirty() -> House {
    let aliases: Vec<String> = (0..PLUGS).map(|number| format!("Plug {}", number + 1)).collect();
    let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
    let mut blueprint = blueprint_of(&aliases);
    blueprint.first_plug = [127, 0, 30, 1].into();
    House::start(blueprint).await.unwrap()
}

/// The LAN alone, and one round of discovery in a day: what is found at the start is found by the first.
fn config_of(house: &House) -> Config {
    Config::of(house).without("cloud").set("discovery", "interval", "1d")
}

/// Waits until every plug is there, on, off or whatever, at the address at which it is.
async fn all_are_shown(ear: &Ear, house: &House) {
    let places = house
        .plugs()
        .iter()
        .enumerate()
        .map(|(number, plug)| (name(number), house.lan().address(plug).unwrap().ip().to_string()));
    let places: BTreeSet<_> = places.collect();
    ear.until("all thirty plugs", |all| {
        let newest = |topic: &str| all.iter().rfind(|seen| seen.topic == topic);
        let is_shown = |(plug, host): &(String, String)| {
            let info = newest(&format!("hs100d/{plug}/info")).map(json_of);
            newest(&format!("hs100d/{plug}/availability")).is_some_and(|seen| seen.payload == "online")
                && newest(&format!("hs100d/{plug}/state"))
                    .is_some_and(|seen| json_of(seen)["route"] == "local")
                && info.is_some_and(|info| info["host"] == **host)
        };
        places.iter().all(is_shown).then_some(())
    })
    .await;
}

/// Switches a plug on and off and so on, each time when the time before was answered, until all have moved and a while
/// longer. How often.
async fn keep_switching(
    scene: Arc<Scene>,
    number: usize,
    done: watch::Sender<usize>,
    moved: watch::Receiver<bool>,
) -> usize {
    let (mut commands, mut left) = (0, COMMANDS);
    while left > 0 {
        let state = if commands % 2 == 0 { "ON" } else { "OFF" };
        left -= usize::from(*moved.borrow());
        let result = scene.command(&name(number), json!({ "state": state })).await;
        assert_eq!((&result["status"], &result["state"]), (&json!("ok"), &json!(state)), "{result}");
        commands += 1;
        done.send_modify(|done| *done += 1);
    }
    commands
}

/// Each switching of a plug by its LAN, those that were said twice once.
fn switchings(house: &House, number: usize) -> Vec<bool> {
    let log = house.plug(number).switchings();
    assert!(log.iter().all(|switching| switching.by == Origin::Lan));
    let mut states: Vec<bool> = log.iter().map(|switching| switching.on).collect();
    states.dedup();
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_plugs_are_found_by_one_broadcast_followed_while_commands_flow_and_found_again_without_any() {
    let house = Arc::new(thirty().await);
    let scene = Arc::new(Scene::start(&config_of(&house)).await);
    all_are_shown(&scene.ear, &house).await;

    let (done, mut progress) = watch::channel(0);
    let (tell_moved, moved) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for number in 0..PLUGS {
        let switching = keep_switching(Arc::clone(&scene), number, done.clone(), moved.clone());
        tasks.spawn(async move { (number, switching.await) });
    }
    within("the first commands", progress.wait_for(|&done| done >= PLUGS * COMMANDS)).await.unwrap();
    for number in 0..MOVED {
        let plug = house.plug(number * 3);
        let place = SocketAddr::from(([127, 0, 31, 100 + number as u8], house.lan().port()));
        house.lan().plug_in(plug, place).await.unwrap();
    }
    tell_moved.send(true).unwrap();
    let mut commands = 0;
    while let Some(ended) = tasks.join_next().await {
        let (number, count) = ended.unwrap();
        let expected: Vec<bool> = (0..count).map(|command| command % 2 == 0).collect();
        assert_eq!(
            switchings(&house, number),
            expected,
            "{} is switched by its own commands alone",
            name(number)
        );
        commands += count;
    }
    let count = |part: &str| scene.ear.seen().iter().filter(|seen| seen.topic.ends_with(part)).count();
    assert_eq!(count("/result"), commands, "each command has one result");
    let changes =
        |all: &[Seen]| all.iter().filter(|seen| seen.payload.contains("\"address_changed\"")).count();
    scene.ear.until("ten moves", |all| (changes(all) >= MOVED).then_some(())).await;
    assert_eq!(changes(&scene.ear.seen()), MOVED);

    // The lights go out, and when they are on again no broadcast gets through.
    let state = scene.home.state_dir().join("state.json");
    within("the addresses on disk", async {
        while !(0..MOVED)
            .all(|n| std::fs::read_to_string(&state).unwrap().contains(&format!("127.0.31.{}:", 100 + n)))
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let Some(Scene { home, mut daemon, .. }) = Arc::into_inner(scene) else { panic!("a command goes on") };
    daemon.kill().await;
    home.write(&config_of(&house).set("discovery", "broadcast", ["127.255.255.254"]).text());
    let scene = Scene::at(home).await;
    all_are_shown(&scene.ear, &house).await;
    let events: Vec<_> =
        scene.ear.seen().into_iter().filter(|seen| seen.topic == "hs100d/bridge/event").collect();
    assert!(!events.iter().any(|seen| seen.payload.contains("plug_found")), "found anew: {events:?}");
    let result = scene.command(&name(0), json!({ "state": "ON" })).await;
    assert_eq!((&result["status"], house.plug(0).is_on()), (&json!("ok"), true), "{result}");
}
