//! A plug, a broker and MQTT clients that others wrote. Only the daemon in the middle is ours.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::process::{Command, Stdio};

use crate::support::e2e::{Config, Daemon, Setup, Talker};
use crate::support::mqtt::{Brand, TestBroker, has_mosquitto, has_mosquitto_clients};
use crate::support::peers::{TheirPlug, peers};
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

/// `mosquitto_sub`, which prints `topic payload` lines.
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
    let broker = TestBroker::start(Brand::Mosquitto).await;
    let config = Config::default()
        .at_broker(broker.port)
        .without_search()
        .set("local", "poll_interval", "1s")
        .entry("lamp", TheirPlug::DEVICE_ID, &plug.address.to_string());
    let setup = Setup::new(&config);
    let daemon = setup.daemon();
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

/// The number of reads of the plug so far.
fn count(daemon: &Daemon) -> usize {
    daemon.lines().iter().filter(|line| line.contains("request=SysInfo")).count()
}

/// A daemon between a plug and a broker that others wrote.
struct Chain {
    plug: TheirPlug,
    port: u16,
    daemon: Daemon,
    _broker: TestBroker,
    _setup: Setup,
}

impl Chain {
    async fn of(model: &str) -> Option<Self> {
        let peers = peers()?;
        if !has_mosquitto() || !has_mosquitto_clients() {
            return None;
        }
        let plug = TheirPlug::of_model(peers, model);
        let broker = TestBroker::start(Brand::Mosquitto).await;
        let config = Config::default()
            .at_broker(broker.port)
            .without_search()
            .set("local", "poll_interval", "1s")
            .set("local", "energy_interval", "5s")
            .entry("lamp", TheirPlug::DEVICE_ID, &plug.address.to_string());
        let setup = Setup::new(&config);
        let daemon = setup.daemon();
        daemon.is_connected().await;
        Some(Self { plug, port: broker.port, daemon, _broker: broker, _setup: setup })
    }

    /// Sends a command and waits for its result.
    async fn command(&self, plug: &str, payload: &str) {
        let results = subscribe(self.port, &format!("hs100d/{plug}/result"));
        let ready = subscribe(self.port, "hs100d/bridge/state");
        ready.says("online").await;
        publish(self.port, &format!("hs100d/{plug}/set"), payload);
        let result = json_of(&results.says("{\"").await);
        assert_eq!(result["status"], "ok", "{plug} {payload}: {result}\n{:#?}", self.daemon.lines());
    }
}

#[tokio::test]
async fn meters_of_both_generations_are_read_in_one_set_of_units() {
    for model in ["hs110", "hs110v2"] {
        let Some(chain) = Chain::of(model).await else { return };
        let energies = subscribe(chain.port, "hs100d/lamp/energy");
        let energy = json_of(&energies.says("\"energy_month\"").await);
        for (key, least, most) in
            [("voltage", 50.0, 300.0), ("current", 0.0, 100.0), ("power", 0.0, 30_000.0)]
        {
            let value = energy[key].as_f64().unwrap_or_else(|| panic!("{model} {key}: {energy}"));
            assert!((least..=most).contains(&value), "{model} {key}: {energy}");
        }
        assert!(
            energy["energy_total"].is_number() && energy["energy_today"].is_number(),
            "{model}: {energy}"
        );
        chain.command("lamp", "ON").await;
    }
}

#[tokio::test]
async fn an_outlet_of_a_strip_of_others_is_switched_alone() {
    let Some(chain) = Chain::of("hs300").await else { return };
    let infos = subscribe(chain.port, "hs100d/+/info");
    let outlet = infos.says("\"outlet\":2").await;
    let name = outlet.split('/').nth(1).unwrap().to_owned();
    let before: Value = chain.plug.ask(r#"{"system":{"get_sysinfo":{}}}"#);
    let relays = |reply: &Value| -> Vec<bool> {
        let children = reply["system"]["get_sysinfo"]["children"].as_array().unwrap();
        children.iter().map(|child| child["state"] == 1).collect()
    };
    let mut expected = relays(&before);
    expected[1] = !expected[1];
    chain.command(&name, "TOGGLE").await;
    assert_eq!(relays(&chain.plug.ask(r#"{"system":{"get_sysinfo":{}}}"#)), expected);
    let energies = subscribe(chain.port, &format!("hs100d/{name}/energy"));
    energies.says("\"power\"").await;
    chain.command("lamp", "OFF").await;
    assert_eq!(relays(&chain.plug.ask(r#"{"system":{"get_sysinfo":{}}}"#)), vec![false; expected.len()]);
}

#[tokio::test]
async fn a_dimmer_of_others_comes_on_at_the_level_that_was_asked_for() {
    let Some(chain) = Chain::of("hs220").await else { return };
    let states = subscribe(chain.port, "hs100d/lamp/state");
    states.says("\"brightness\"").await;
    chain.command("lamp", r#"{"brightness": 33}"#).await;
    let reply = chain.plug.ask(r#"{"system":{"get_sysinfo":{}}}"#);
    let sysinfo = &reply["system"]["get_sysinfo"];
    assert_eq!((&sysinfo["brightness"], &sysinfo["relay_state"]), (&33.into(), &1.into()), "{sysinfo}");
    states.says("\"brightness\":33").await;
    chain.command("lamp", r#"{"brightness": 0}"#).await;
    let reply = chain.plug.ask(r#"{"system":{"get_sysinfo":{}}}"#);
    assert_eq!(reply["system"]["get_sysinfo"]["relay_state"], 0);
}
