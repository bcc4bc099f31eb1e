//! A whole chain of strangers: a plug that others wrote, the broker that others wrote, and their clients at it. Only
//! the daemon in the middle is ours.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod e2e_kit;
mod mqtt_kit;
mod peers_kit;

use std::process::{Command, Stdio};

use e2e_kit::{Config, Daemon, Home, Talker};
use mqtt_kit::{Brand, House as Broker, has_mosquitto, has_mosquitto_clients};
use peers_kit::{TheirPlug, peers};
use serde_json::Value;

/// `mosquitto_pub`.
fn publish(port: u16, topic: &str, payload: &str) {
    let mut command = Command::new("mosquitto_pub");
    command.args([
        "-h",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "-V",
        "5",
        "-q",
        "1",
        "-t",
        topic,
        "-m",
        payload,
    ]);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// `mosquitto_sub`, which says `topic payload` in a line each.
fn subscribe(port: u16, filter: &str) -> Talker {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", "5", "-q", "1", "-v", "-t", filter]);
    Talker::of(command.stdout(Stdio::piped()).spawn().unwrap())
}

fn json_of(line: &str) -> Value {
    serde_json::from_str(line.split_once(' ').unwrap().1).unwrap()
}

#[tokio::test]
async fn a_plug_of_others_is_switched_by_mosquitto_pub_and_read_back_by_mosquitto_sub() {
    let Some(peers) = peers() else { return };
    if !has_mosquitto() || !has_mosquitto_clients() {
        return;
    }
    let mut plug = TheirPlug::start(peers);
    let broker = Broker::start(Brand::Mosquitto).await;
    let config = Config::default()
        .at_broker(broker.port)
        .without_search()
        .set("local", "poll_interval", "1s")
        .entry("lamp", TheirPlug::DEVICE_ID, &plug.address.to_string());
    let home = Home::new(&config);
    let daemon = home.daemon();
    daemon.is_connected().await;
    let (states, results) =
        (subscribe(broker.port, "hs100d/lamp/state"), subscribe(broker.port, "hs100d/lamp/result"));
    states.says("hs100d/lamp/state {\"state\":\"OFF\",\"route\":\"local\"").await;

    for (time, (word, relay)) in
        [("ON", "on"), ("OFF", "off"), ("TOGGLE", "on"), ("toggle", "off")].into_iter().enumerate()
    {
        publish(broker.port, "hs100d/lamp/set", word);
        let result = json_of(&results.says_again("{\"status\":\"", time + 1).await);
        assert_eq!(result["status"], "ok", "{word}: {result}");
        assert_eq!(
            (&result["state"], &result["route"]),
            (&relay.to_uppercase().into(), &"local".into()),
            "{word}"
        );
        assert_eq!(plug.say("state"), relay, "{word}");
    }
    publish(broker.port, "hs100d/lamp/set", r#"{"state": "ON", "led": false, "transaction": "both"}"#);
    let result = json_of(&results.says("\"transaction\":\"both\"").await);
    assert_eq!(result["status"], "ok", "{result}");
    states.says("\"led\":\"OFF\"").await;

    for (relay, state, time) in [("off", "OFF", 1), ("on", "ON", 2)] {
        let polls = count(&daemon);
        assert_eq!(plug.say("press"), relay);
        let pressed = format!("{{\"state\":\"{state}\",\"route\":\"local\",\"led\":\"OFF\"");
        states.says_again(&pressed, time).await;
        let polls = count(&daemon) - polls;
        assert!(polls <= 2, "one read that was under way, and one poll: {polls}");
    }
}

/// How often the plug was read so far.
fn count(daemon: &Daemon) -> usize {
    daemon.lines().iter().filter(|line| line.contains("request=SysInfo")).count()
}
