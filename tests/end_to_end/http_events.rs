//! The stream of events over HTTP: the state first, then each change once and in order.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use crate::support::e2e::{Config, Scene, home_of};
use crate::support::http::{Events, Web};
use crate::support::mqtt::within;
use hs100d::sim::fault::LanFault;
use hs100d::sim::home::SimHome;
use serde_json::{Value, json};

const PLUG: &str = "/api/v1/plugs/kettle";
const MAX_STREAMS: usize = 16;

async fn kettle() -> (SimHome, Scene, Web) {
    let home = home_of(&["Kettle"]).await;
    let scene = Scene::start(&Config::of(&home).plug("kettle", &home, 0)).await;
    let web = Web::of(&scene.daemon).await;
    web.shows(PLUG, json!({"state": {"state": "OFF", "route": "local"}})).await;
    (home, scene, web)
}

#[tokio::test]
async fn the_stream_begins_with_what_the_api_shows_and_goes_on_with_what_changes() {
    let (home, scene, web) = kettle().await;
    web.shows("/api/v1/bridge", json!({"online": 1, "broker": {"connected": true}})).await;
    let mut events = web.events().await;
    let first = events.next().await.unwrap();
    assert_eq!(first.kind, "snapshot");
    assert_eq!(first.data["bridge"], web.get("/api/v1/bridge").await.json());
    assert_eq!(first.data["plugs"], web.get("/api/v1/plugs").await.json());

    home.plug(0).press_button();
    let pressed = events.sees("state", json!({"plug": "kettle", "state": "ON", "route": "local"})).await;
    assert!(pressed["since"].is_string(), "{pressed}");
    assert_eq!(web.post(&format!("{PLUG}/off"), "").await.status, 200);
    events.sees("state", json!({"plug": "kettle", "state": "OFF"})).await;
    events.sees("result", json!({"plug": "kettle", "status": "ok", "state": "OFF"})).await;

    home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
    events.sees("event", json!({"event": "route_changed", "plug": "kettle"})).await;
    events.sees("state", json!({"plug": "kettle", "route": "cloud"})).await;
    let mut again = web.events().await;
    let snapshot = again.next_of("snapshot").await;
    assert_eq!(snapshot["plugs"][0]["last_error"]["error"], "connection refused", "{snapshot}");

    scene.setup.write(&Config::of(&home).without_search().text());
    assert_eq!(web.post("/api/v1/bridge/reload", "").await.status, 200);
    events.sees("gone", json!({"plug": "kettle"})).await;
    events.sees("bridge", json!({"plugs": 0, "broker": {"connected": true}})).await;
}

/// Reads twenty states. Each event must be the next one, and each state another one than before.
async fn nothing_is_missing(mut events: Events) -> Value {
    let first = events.next().await.unwrap();
    let mut number: u64 = first.id.parse().unwrap();
    let mut state = first.data["plugs"][0]["state"].clone();
    let mut states = 0;
    loop {
        let mut event = events.next().await.unwrap();
        number += 1;
        assert_eq!(event.id, number.to_string(), "{event:?}");
        if event.kind == "state" {
            let changed = event.data.as_object_mut().unwrap();
            changed.remove("plug");
            changed.remove("since");
            assert_ne!(event.data, state, "the same state twice");
            state = event.data;
            states += 1;
        }
        if states > 20 {
            return state;
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_comes_twice_between_the_snapshot_and_the_changes() {
    let (_home, _scene, web) = kettle().await;
    let toggling = tokio::spawn(async move {
        loop {
            assert_eq!(web.post(&format!("{PLUG}/toggle"), "").await.status, 200);
        }
    });
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(tokio::spawn(nothing_is_missing(web.events().await)));
    }
    for reader in readers {
        within("a reader with all changes", reader).await.unwrap();
    }
    toggling.abort();
}

#[tokio::test]
async fn a_seventeenth_stream_is_refused_until_one_of_the_others_ends() {
    let (_home, _scene, web) = kettle().await;
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut events = web.events().await;
        assert_eq!(events.next().await.unwrap().kind, "snapshot");
        streams.push(events);
    }
    let refused = web.get("/api/v1/events").await.problem(503);
    assert!(refused["detail"].as_str().unwrap().contains("16 clients read the events already"), "{refused}");
    streams.pop();
    within("a free stream", async {
        while web.ask("GET", "/api/v1/events").status().await != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Commands go on meanwhile.
    assert_eq!(web.post(&format!("{PLUG}/on"), "").await.status, 200);
}

#[tokio::test]
async fn a_daemon_that_stops_answers_who_waits_and_ends_the_streams() {
    let (home, mut scene, web) = kettle().await;
    let mut events = web.events().await;
    assert_eq!(events.next().await.unwrap().kind, "snapshot");
    home.lan().set_fault(home.plug(0), LanFault::Silent).await.unwrap();
    home.cloud().set_reachable(false).await.unwrap();
    let waits = tokio::spawn(async move { web.post(&format!("{PLUG}/on"), "").await });
    scene.daemon.says("kettle: a command over HTTP").await;
    scene.daemon.stop().await;
    let stopped = waits.await.unwrap().problem(503);
    assert!(stopped["detail"].as_str().unwrap().contains("the daemon stops"), "{stopped}");
    while events.next().await.is_some() {}
}
