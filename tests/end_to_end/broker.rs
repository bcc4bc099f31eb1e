//! The daemon and its broker, each in its own process: either leaves and returns, and the broker's retained messages
//! are checked.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use crate::support::e2e::{Config, Scene, Setup, happens, holds, home_of, json_of, sees};
use crate::support::mqtt::{
    BOUND, Brand, Message, Subscriber, TestBroker, free_port, has_mosquitto, retained, until_retained, within,
};
use hs100d::sim::fault::LanFault;
use hs100d::sim::home::SimHome;
use hs100d::sim::plug::SwitchedBy;
use rumqttc::{
    AsyncClient, ConnectProperties, Event, LastWill, LastWillProperties, MqttOptions, Packet, QoS,
};
use serde_json::{Value, json};

/// An external broker: mosquitto, or the embedded broker on its own if mosquitto is not installed.
async fn broker() -> TestBroker {
    TestBroker::start(if has_mosquitto() { Brand::Mosquitto } else { Brand::Embedded }).await
}

/// The topic names of three plugs.
const NAMES: [&str; 3] = ["lamp", "kuche", "christmas-tree"];

async fn home() -> SimHome {
    home_of(&["Lamp", "Küche ☕", "Christmas Tree"]).await
}

/// Waits until every plug was read completely.
async fn settle(subscriber: &Subscriber) {
    for plug in NAMES {
        sees(subscriber, &format!("hs100d/{plug}/state"), json!({"route": "local"})).await;
        sees(subscriber, &format!("hs100d/{plug}/info"), json!({"cloud_connection": true})).await;
        subscriber.receives(&format!("hs100d/{plug}/availability"), "online").await;
    }
    sees(subscriber, "hs100d/bridge/info", json!({"plugs": 3, "online": 3, "cloud": {"status": "ok"}})).await;
    subscriber.receives("hs100d/bridge/state", "online").await;
}

fn by_topic(seen: &[Message]) -> BTreeMap<&str, &str> {
    seen.iter().map(|seen| (seen.topic.as_str(), seen.payload.as_str())).collect()
}

fn shows(seen: &[Message], topic: &str, payload: &str) -> bool {
    seen.iter().any(|seen| seen.topic == topic && seen.payload == payload)
}

fn all_are(seen: &[Message], availability: &str) -> bool {
    let topics = NAMES.iter().map(|plug| format!("hs100d/{plug}/availability"));
    topics.chain(["hs100d/bridge/state".to_owned()]).all(|topic| shows(seen, &topic, availability))
}

/// Each plug has state, info, availability and a discovery payload; the bridge has state, info and a discovery payload.
fn is_whole(all: &[Message]) -> bool {
    all.len() == 4 * NAMES.len() + 3
}

#[tokio::test]
async fn everything_retained_is_back_after_the_broker_came_back_without_its_store() {
    let home = home().await;
    let mut broker = broker().await;
    let scene = Scene::start(&Config::of(&home).at_broker(broker.port)).await;
    settle(&scene.subscriber).await;
    let before = until_retained(broker.port, "everything", is_whole).await;

    broker.restart_without_store().await;
    let after = until_retained(broker.port, "everything again", is_whole).await;
    assert_eq!(by_topic(&after), by_topic(&before));

    let subscriber = Subscriber::connect(broker.port).await;
    scene.daemon.says_again("connected to the broker", 2).await;
    subscriber.publish("hs100d/lamp/set", "ON");
    sees(&subscriber, "hs100d/lamp/result", json!({"status": "ok", "state": "ON"})).await;
}

#[tokio::test]
async fn a_daemon_that_was_killed_is_seen_to_be_gone_and_a_restart_takes_over() {
    let home = home().await;
    let broker = broker().await;
    let mut scene = Scene::start(&Config::of(&home).at_broker(broker.port)).await;
    settle(&scene.subscriber).await;
    scene.command("lamp", json!({"state": "ON"})).await;
    let before = until_retained(broker.port, "everything", is_whole).await;

    scene.daemon.kill().await;
    scene.subscriber.receives("hs100d/bridge/state", "offline").await;
    let left = retained(broker.port).await;
    assert!(shows(&left, "hs100d/bridge/state", "offline"), "the will is retained");

    let scene = Scene::at(scene.setup).await;
    settle(&scene.subscriber).await;
    until_retained(broker.port, "all online", |all| all_are(all, "online")).await;
    let result = scene.command("lamp", json!({"state": "TOGGLE"})).await;
    assert!(holds(&result, &json!({"status": "ok", "state": "OFF"})), "{result}");
    let after = retained(broker.port).await;
    assert!(by_topic(&after).keys().eq(by_topic(&before).keys()), "the same topics: {after:#?}");
}

#[tokio::test]
async fn sigterm_leaves_everybody_offline_and_is_no_failure() {
    let home = home().await;
    let broker = broker().await;
    let mut scene = Scene::start(&Config::of(&home).at_broker(broker.port)).await;
    settle(&scene.subscriber).await;
    // The start does not wait for a plug that does not answer.
    home.lan().set_fault(home.plug(0), LanFault::Silent).await.unwrap();
    home.cloud().set_reachable(false).await.unwrap();
    scene.send("lamp", json!({"state": "ON"}));
    home.wait_until(BOUND, || home.plug(0).traffic().open > 0).await.unwrap();

    scene.daemon.stop().await;
    let left = retained(broker.port).await;
    assert!(all_are(&left, "offline"), "{left:#?}");
    scene.subscriber.receives("hs100d/bridge/state", "offline").await;
    assert!(scene.daemon.lines().iter().all(|line| !line.contains("ERROR")), "{:#?}", scene.daemon.lines());
    // The daemon sent a DISCONNECT; otherwise the will would come five seconds later.
    let offline = scene.subscriber.messages().into_iter().filter(|seen| seen.topic == "hs100d/bridge/state");
    assert_eq!(offline.map(|seen| seen.payload).collect::<Vec<_>>(), ["online", "offline"]);
    let state = left.iter().find(|seen| seen.topic == "hs100d/lamp/state").map(json_of).unwrap();
    assert_eq!(state["state"], "OFF", "what was last read stays");
}

#[tokio::test]
async fn sighup_takes_a_good_config_over_and_keeps_the_old_one_against_a_bad_one() {
    let home = home().await;
    let scene = Scene::start(&Config::of(&home)).await;
    settle(&scene.subscriber).await;

    let bad = Config::of(&home).set("local", "poll_intervall", "1s").set("local", "port", "many");
    scene.setup.write(&bad.text());
    scene.daemon.signal("HUP");
    let line = scene.daemon.says("the config was not taken over, the old one stays: ").await;
    let path = scene.setup.config().display().to_string();
    for part in [&path, "local.poll_intervall: ", "`poll_interval`", "local.port: "] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let answer = scene.request("reload", json!({})).await;
    assert_eq!(answer["status"], "error");
    assert!(answer["error"].as_str().unwrap().contains("local.port: "), "{answer}");
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert_eq!(result["status"], "ok", "{result}");

    scene.setup.write(&Config::of(&home).plug("tree", &home, 2).text());
    scene.daemon.signal("HUP");
    scene.daemon.says("the config was read again").await;
    let result = scene.command("tree", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok", "route": "local"})), "{result}");
    let old = "hs100d/christmas-tree/";
    until_retained(scene.port, "no old name", |all| !all.iter().any(|seen| seen.topic.starts_with(old)))
        .await;
    let lamp = home.plug(0).traffic();
    assert_eq!(lamp.most_open, 1, "a plug that stays keeps its one connection");
}

#[tokio::test]
async fn sigusr1_has_the_daemon_write_its_figures_and_go_on() {
    let home = home().await;
    let scene = Scene::start(&Config::of(&home)).await;
    settle(&scene.subscriber).await;
    scene.daemon.signal("USR1");
    let line = scene.daemon.says("figures plugs=3 online=3 broker=127.0.0.1:").await;
    let tasks: u32 = line.rsplit("tasks=").next().unwrap().parse().unwrap();
    assert!(tasks > 0, "{line}");
    for plug in NAMES {
        let line = format!("figures plug={plug} availability=online route=local protocol=xor");
        assert!(scene.daemon.says(&line).await.contains(" waits_for=\""));
    }
    assert_eq!(scene.command("lamp", json!({"state": "ON"})).await["status"], "ok");
}

#[tokio::test]
async fn a_config_with_another_broker_is_followed_there() {
    let home = home().await;
    let [one, other] = [broker().await, broker().await];
    let scene = Scene::start(&Config::of(&home).at_broker(one.port)).await;
    settle(&scene.subscriber).await;
    scene.setup.write(&Config::of(&home).at_broker(other.port).text());
    scene.daemon.signal("HUP");
    until_retained(one.port, "all offline", |all| all_are(all, "offline")).await;
    until_retained(other.port, "all online", |all| all_are(all, "online")).await;
    let subscriber = Subscriber::connect(other.port).await;
    settle(&subscriber).await;
    scene.daemon.says_again("connected to the broker", 2).await;
    subscriber.publish("hs100d/lamp/set", "ON");
    sees(&subscriber, "hs100d/lamp/result", json!({"status": "ok", "state": "ON"})).await;
}

#[tokio::test]
async fn while_the_config_cannot_be_read_plugs_are_served_and_further_reloads_become_one() {
    let home = home().await;
    let scene = Scene::start(&Config::of(&home)).await;
    settle(&scene.subscriber).await;
    scene.setup.pipe();
    scene.daemon.signal("HUP");
    let mut first = scene.setup.reader().await;
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok", "state": "ON"})), "{result}");
    assert!(home.plug(0).is_on());
    home.plug(1).press_button();
    scene.shows("kuche", json!({"state": "ON"})).await;

    for transaction in ["second", "third"] {
        let payload = json!({ "transaction": transaction }).to_string();
        scene.subscriber.publish("hs100d/bridge/request/reload", payload);
    }
    // They are received before this command.
    scene.command("lamp", json!({"state": "OFF"})).await;
    assert!(!scene.subscriber.messages().iter().any(|seen| seen.topic == "hs100d/bridge/response/reload"));
    let renamed = Config::of(&home).plug("tree", &home, 2).text();
    first.write_all(renamed.as_bytes()).unwrap();
    drop(first);
    scene.daemon.says("the config was read again").await;
    let result = scene.command("tree", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok", "route": "local"})), "{result}");

    let mut second = scene.setup.reader().await;
    second.write_all(b"[mqtt\n").unwrap();
    drop(second);
    for transaction in ["second", "third"] {
        let answer = json_of(&scene.subscriber.receives("hs100d/bridge/response/reload", transaction).await);
        assert_eq!(answer["status"], "error", "{answer}");
    }
    scene.command("tree", json!({"state": "OFF"})).await;
    let ended = scene.daemon.lines().iter().filter(|line| line.contains("the config was ")).count();
    assert_eq!(ended, 2, "two were asked for during the first, and one follows");
}

#[tokio::test]
async fn the_embedded_broker_moves_to_another_port_with_all_that_it_keeps() {
    let home = home().await;
    let [one, other] = [free_port(), free_port()];
    let config = |port| Config::of(&home).set("broker", "listen", format!("127.0.0.1:{port}"));
    let scene = Scene::start(&config(one)).await;
    settle(&scene.subscriber).await;
    scene.subscriber.publish_retained("another/client", "was here");
    until_retained(one, "the other's", |all| shows(all, "another/client", "was here")).await;
    // A will that is delayed keeps the broker's store in use.
    die_with_a_will(one, Duration::from_secs(4)).await;

    scene.setup.write(&config(other).text());
    scene.daemon.signal("HUP");
    scene.daemon.says(&format!("connected to the broker at 127.0.0.1:{other}")).await;
    until_retained(other, "all online", |all| all_are(all, "online")).await;
    assert!(shows(&retained(other).await, "another/client", "was here"));
    let subscriber = Subscriber::connect(other).await;
    subscriber.publish("hs100d/lamp/set", "ON");
    sees(&subscriber, "hs100d/lamp/result", json!({"status": "ok", "state": "ON"})).await;
}

/// A client that dies with a will that the broker delays by this time.
async fn die_with_a_will(port: u16, delay: Duration) {
    let delay = u32::try_from(delay.as_secs()).unwrap();
    let mut options = MqttOptions::new("mortal", ("127.0.0.1", port));
    let properties = LastWillProperties {
        delay_interval: Some(delay),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    options.set_last_will(LastWill::new("mortal/will", "gone", QoS::AtMostOnce, false, Some(properties)));
    options.set_connect_properties(ConnectProperties {
        session_expiry_interval: Some(delay),
        ..Default::default()
    });
    let (_client, mut events) = AsyncClient::builder(options).capacity(1).build();
    let connected =
        async { while !matches!(events.poll().await, Ok(Event::Incoming(Packet::ConnAck(_)))) {} };
    within("the mortal client", connected).await;
}

#[tokio::test]
async fn a_broker_that_cannot_be_had_leaves_all_as_it_was() {
    let home = home().await;
    let scene = Scene::start(&Config::of(&home)).await;
    settle(&scene.subscriber).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // The plug's name changes too: a reload uses the whole new config or nothing of it.
    let config = Config::of(&home).set("broker", "listen", address.clone()).plug("tree", &home, 2);
    scene.setup.write(&config.text());
    let response = scene.request("reload", json!({})).await;
    assert_eq!(response["status"], "error");
    let taken = format!("broker.listen: {address} is taken");
    assert!(response["error"].as_str().unwrap().contains(&taken), "{response}");
    let line = scene.daemon.says("the config was not taken over, the old one stays: ").await;
    assert!(line.contains(&taken), "{line}");

    until_retained(scene.port, "all online", |all| all_are(all, "online")).await;
    let result = scene.command("christmas-tree", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok", "state": "ON"})), "{result}");
    let lines = scene.daemon.lines();
    assert_eq!(
        lines.iter().filter(|line| line.contains("connected to the broker at ")).count(),
        1,
        "{lines:?}"
    );
}

/// Sends a request to reload with a response topic. Returns the response there; the usual topic gets it as well.
async fn reload_over(subscriber: &Subscriber, base: &str) -> Value {
    let (request, response) =
        (format!("{base}/bridge/request/reload"), format!("{base}/bridge/response/reload"));
    subscriber.request(&request, r#"{"transaction":"r"}"#, "me/reload", b"mine");
    subscriber.receives(&response, r#""transaction":"r""#).await;
    let response = subscriber.receives("me/reload", r#""transaction":"r""#).await;
    assert_eq!(response.correlation.as_deref(), Some(&b"mine"[..]));
    json_of(&response)
}

#[tokio::test]
async fn a_reload_with_other_settings_of_the_same_broker_is_answered_once_the_new_connection_takes_commands()
{
    let home = home().await;
    let broker = broker().await;
    let config = Config::of(&home).at_broker(broker.port);
    let scene = Scene::start(&config).await;
    settle(&scene.subscriber).await;
    scene.setup.write(&config.clone().set("mqtt", "client_id", "another").text());
    assert_eq!(reload_over(&scene.subscriber, "hs100d").await["status"], "ok");
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok", "state": "ON"})), "{result}");

    // The client listens below the base topic that it sent the request to.
    scene.subscriber.clear();
    scene.setup.write(&config.set("mqtt", "base_topic", "home").text());
    assert_eq!(reload_over(&scene.subscriber, "hs100d").await["status"], "ok");
    scene.subscriber.publish("home/lamp/set", "OFF");
    sees(&scene.subscriber, "home/lamp/result", json!({"status": "ok", "state": "OFF"})).await;
}

#[tokio::test]
async fn a_reload_to_another_broker_is_answered_where_it_was_requested() {
    let home = home().await;
    let [one, other] = [broker().await, broker().await];
    let config = |port| Config::of(&home).at_broker(port).text();
    let scene = Scene::start(&Config::of(&home).at_broker(one.port)).await;
    settle(&scene.subscriber).await;
    let elsewhere = Subscriber::connect(other.port).await;
    scene.setup.write(&config(other.port));
    assert_eq!(reload_over(&scene.subscriber, "hs100d").await["status"], "ok");
    scene.daemon.says(&format!("connected to the broker at 127.0.0.1:{}", other.port)).await;
    settle(&elsewhere).await;
    assert!(!elsewhere.messages().iter().any(|seen| seen.topic.ends_with("reload")));

    let subscriber = Subscriber::connect(other.port).await;
    let embedded = Config::of(&home).set("broker", "listen", format!("127.0.0.1:{}", free_port()));
    scene.setup.write(&embedded.text());
    assert_eq!(reload_over(&subscriber, "hs100d").await["status"], "ok", "to the embedded broker");
    let port = within("the embedded broker", async {
        let line = scene.daemon.says_again("connected to the broker at ", 3).await;
        line.rsplit(':').next().unwrap().parse().unwrap()
    })
    .await;
    let subscriber = Subscriber::connect(port).await;
    settle(&subscriber).await;
    scene.setup.write(&config(one.port));
    assert_eq!(reload_over(&subscriber, "hs100d").await["status"], "ok", "from the embedded broker");
}

#[tokio::test]
async fn a_command_gets_its_result_although_the_connection_is_replaced_meanwhile() {
    let home = home().await;
    let [one, other] = [broker().await, broker().await];
    let config = Config::of(&home).at_broker(one.port);
    let scene = Scene::start(&config).await;
    settle(&scene.subscriber).await;
    home.cloud().set_reachable(false).await.unwrap();
    let same = config.clone().set("mqtt", "client_id", "another");
    for (config, topic) in [(same, "me/same"), (Config::of(&home).at_broker(other.port), "me/other")] {
        home.lan().set_fault(home.plug(0), LanFault::Latency(Duration::from_millis(250))).await.unwrap();
        let requests = home.plug(0).traffic().lan_requests;
        scene.subscriber.request("hs100d/lamp/set", r#"{"state":"TOGGLE","transaction":7}"#, topic, b"mine");
        home.wait_until(BOUND, || home.plug(0).traffic().lan_requests > requests).await.unwrap();
        scene.setup.write(&config.text());
        scene.daemon.signal("HUP");
        let result = scene.subscriber.receives(topic, r#""transaction":7"#).await;
        assert_eq!(result.correlation.as_deref(), Some(&b"mine"[..]));
        assert_eq!(json_of(&result)["status"], "ok", "{result:?}");
        home.lan().set_fault(home.plug(0), LanFault::Works).await.unwrap();
    }
}

#[tokio::test]
async fn of_two_commands_within_a_millisecond_the_second_holds() {
    let home = home().await;
    let scene = Scene::start(&Config::of(&home)).await;
    settle(&scene.subscriber).await;
    for round in 0..20 {
        let (first, second) = if round % 2 == 0 { ("ON", "OFF") } else { ("OFF", "ON") };
        // Every second pair of rounds the plug is slow, so that the second command overtakes the first.
        let fault =
            if round % 4 < 2 { LanFault::Works } else { LanFault::Latency(Duration::from_millis(50)) };
        home.lan().set_fault(home.plug(0), fault).await.unwrap();
        let older = scene.send("lamp", json!({ "state": first }));
        let newer = scene.send("lamp", json!({ "state": second }));
        let result = scene.result("lamp", &newer).await;
        assert!(holds(&result, &json!({"status": "ok", "state": second})), "round {round}: {result}");
        let before = scene.result("lamp", &older).await;
        let overtaken = before["status"] == "superseded";
        assert!(
            overtaken || (fault == LanFault::Works && before["status"] == "ok"),
            "round {round}: {before}"
        );
        assert_eq!(home.plug(0).is_on(), second == "ON", "round {round}");
        scene.shows("lamp", json!({ "state": second })).await;
    }
    let last = home.plug(0).switchings().len();
    scene.read("lamp").await;
    assert_eq!(home.plug(0).switchings().len(), last, "nothing comes after the last");
}

#[tokio::test]
async fn a_command_that_the_broker_kept_is_not_executed_at_any_connect() {
    let home = home().await;
    // The embedded broker stands for any broker that keeps retained messages over a restart.
    let mut broker = TestBroker::start(Brand::Embedded).await;
    let somebody = Subscriber::connect(broker.port).await;
    somebody.publish_retained("hs100d/lamp/set", "ON");
    until_retained(broker.port, "the command", |all| shows(all, "hs100d/lamp/set", "ON")).await;
    let mut scene = Scene::start(&Config::of(&home).at_broker(broker.port)).await;
    settle(&scene.subscriber).await;
    scene.read("lamp").await;
    assert_eq!(home.plug(0).switchings(), [], "at the start");

    scene.subscriber.publish_retained("hs100d/lamp/set", "ON");
    sees(&scene.subscriber, "hs100d/lamp/result", json!({"status": "ok", "state": "ON"})).await;
    home.plug(0).press_button();

    broker.restart_with_store().await;
    scene.daemon.says_again("connected to the broker", 2).await;
    scene.subscriber = Subscriber::connect(broker.port).await;
    assert!(shows(&retained(broker.port).await, "hs100d/lamp/set", "ON"), "it is there all the time");
    scene.read("lamp").await;
    scene.daemon.stop().await;
    let scene = Scene::at(scene.setup).await;
    scene.shows("lamp", json!({"state": "OFF", "route": "local"})).await;
    scene.read("lamp").await;
    let by: Vec<_> = home.plug(0).switchings().iter().map(|switching| switching.by).collect();
    assert_eq!(by, [SwitchedBy::Lan, SwitchedBy::Button], "only the live one was executed");
}

#[tokio::test]
async fn a_command_to_a_dead_plug_has_exactly_one_result() {
    let home = home().await;
    let scene = Scene::start(&Config::of(&home).set("routing", "command_ttl", "2s")).await;
    settle(&scene.subscriber).await;
    home.plug(0).with(|plug| plug.powered = false);
    home.lan().settled(home.plug(0)).await.unwrap();

    scene.subscriber.request(
        "hs100d/lamp/set",
        "{\"state\":\"ON\",\"transaction\":7}",
        "my/answers",
        b"mine",
    );
    let answer = scene.subscriber.receives("my/answers", "error").await;
    assert_eq!(answer.correlation.as_deref(), Some(&b"mine"[..]));
    let answer = json_of(&answer);
    assert!(holds(&answer, &json!({"status": "error", "transaction": 7, "state": "OFF"})), "{answer}");
    let error = answer["error"].as_str().unwrap();
    for part in ["local: connection refused", "cloud: the cloud says that the plug is offline"] {
        assert!(error.contains(part), "{error}");
    }
    happens(&scene.subscriber, json!({"event": "command_failed", "plug": "lamp", "detail": error})).await;

    home.plug(0).with(|plug| plug.powered = true);
    home.lan().settled(home.plug(0)).await.unwrap();
    let read = scene.read("lamp").await;
    assert!(holds(&read, &json!({"status": "ok", "state": "OFF"})), "{read}");
    let count = |topic| {
        let seen = scene.subscriber.messages();
        seen.iter()
            .map(json_of)
            .zip(&seen)
            .filter(|(json, seen)| seen.topic == topic && json["transaction"] == 7)
            .count()
    };
    assert_eq!((count("hs100d/lamp/result"), count("my/answers")), (1, 1));
    assert_eq!(home.plug(0).switchings(), [], "nothing is done after its time");

    let unknown = scene.command("nobody", json!({"state": "ON"})).await;
    assert!(
        holds(&unknown, &json!({"status": "error", "error": "there is no plug called nobody"})),
        "{unknown}"
    );
}

#[tokio::test]
async fn what_the_embedded_broker_kept_is_there_after_a_restart_of_the_daemon_and_after_a_kill() {
    let home = home().await;
    let config = Config::of(&home).set("broker", "listen", format!("127.0.0.1:{}", free_port()));
    let mut scene = Scene::start(&config).await;
    settle(&scene.subscriber).await;
    scene.command("lamp", json!({"state": "ON"})).await;
    scene.subscriber.publish_retained("another/client", "was here");
    until_retained(scene.port, "the other's", |all| shows(all, "another/client", "was here")).await;

    scene.daemon.stop().await;
    let mut scene = Scene::at(scene.setup).await;
    until_retained(scene.port, "all online", |all| all_are(all, "online")).await;
    let is_there = |all: &[Message]| {
        let state = all.iter().find(|seen| seen.topic == "hs100d/lamp/state").map(json_of);
        shows(all, "another/client", "was here") && state.is_some_and(|state| state["state"] == "ON")
    };
    assert!(is_there(&retained(scene.port).await));

    scene.daemon.kill().await;
    let scene = Scene::at(scene.setup).await;
    until_retained(scene.port, "all online", |all| all_are(all, "online")).await;
    assert!(is_there(&retained(scene.port).await));
    assert_eq!(scene.command("lamp", json!({"state": "OFF"})).await["status"], "ok");
}

#[tokio::test]
async fn a_plug_that_is_dead_at_a_restart_keeps_what_the_broker_knew_of_it() {
    let home = home().await;
    let broker = broker().await;
    let mut scene = Scene::start(&Config::of(&home).at_broker(broker.port)).await;
    settle(&scene.subscriber).await;
    let before = until_retained(broker.port, "everything", is_whole).await;
    home.plug(0).with(|plug| plug.powered = false);
    home.lan().settled(home.plug(0)).await.unwrap();
    scene.daemon.stop().await;

    let scene = Scene::at(scene.setup).await;
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"plugs": 3, "online": 2})).await;
    scene.subscriber.receives("hs100d/bridge/state", "online").await;
    // Discovery payloads are published after the daemon has read the retained ones of an earlier run; stale ones are
    // then cleared.
    scene.subscriber.clear();
    let document = "homeassistant/device/hs100d_8006000000000000000000000000000000000002/config";
    scene.subscriber.receives(document, "Küche").await;
    let after = retained(broker.port).await;
    assert!(by_topic(&after).keys().eq(by_topic(&before).keys()), "{after:#?}");
    assert!(shows(&after, "hs100d/lamp/availability", "offline"));
}

#[tokio::test]
async fn a_port_that_is_taken_is_waited_for_and_said_once_and_check_says_69() {
    let home = home().await;
    let other = TestBroker::start(Brand::Embedded).await;
    let port = other.port;
    let setup = Setup::new(&Config::of(&home).set("broker", "listen", format!("127.0.0.1:{port}")));
    let daemon = setup.daemon();
    let line = daemon.says(&format!("broker.listen: 127.0.0.1:{port} is taken: set mqtt.url")).await;
    assert!(line.contains(" WARN ") && line.contains("it is waited for"), "{line}");
    let checked = setup.run_to_its_end(&["check", "--online"], "").await;
    assert!(checked.code == 69 && checked.out.contains(&format!("127.0.0.1:{port} is taken")), "{checked:?}");
    // The plugs are served, and the other program that listens on that port receives nothing.
    home.wait_until(BOUND, || home.plugs().iter().all(|plug| plug.traffic().lan_requests > 1)).await.unwrap();
    assert!(retained(port).await.is_empty());

    drop(other);
    daemon.says(&format!("the embedded broker listens on 127.0.0.1:{port} after ")).await;
    assert_eq!(daemon.is_connected().await, port);
    let subscriber = Subscriber::connect(port).await;
    settle(&subscriber).await;
    subscriber.publish("hs100d/lamp/set", "ON");
    sees(&subscriber, "hs100d/lamp/result", json!({"status": "ok", "state": "ON"})).await;
    let about = daemon.lines().into_iter().filter(|line| line.contains("is taken")).count();
    assert_eq!(about, 1, "{:#?}", daemon.lines());
}

#[tokio::test]
async fn while_a_port_is_waited_for_another_broker_may_be_chosen_and_the_daemon_may_be_stopped() {
    let home = home().await;
    let [holder, other] =
        [TestBroker::start(Brand::Embedded).await, TestBroker::start(Brand::Embedded).await];
    let taken = format!("127.0.0.1:{}", holder.port);
    let setup = Setup::new(&Config::of(&home).set("broker", "listen", taken));
    let mut daemon = setup.daemon();
    daemon.says("it is waited for").await;
    setup.write(&Config::of(&home).at_broker(other.port).text());
    daemon.signal("HUP");
    assert_eq!(daemon.is_connected().await, other.port);
    until_retained(other.port, "all online", |all| all_are(all, "online")).await;
    daemon.stop().await;

    let setup = Setup::new(&Config::of(&home).set("broker", "listen", format!("127.0.0.1:{}", holder.port)));
    let mut daemon = setup.daemon();
    daemon.says("it is waited for").await;
    daemon.stop().await;
}

#[tokio::test]
async fn two_daemons_of_one_installation_do_not_share_a_store() {
    let home = home().await;
    let scene = Scene::start(&Config::of(&home)).await;
    settle(&scene.subscriber).await;
    let ended = scene.setup.run(&["run"]).await;
    let line = ended.last_line(69);
    assert!(line.contains("another embedded broker stores its messages there"), "{line}");
    assert_eq!(scene.command("lamp", json!({"state": "ON"})).await["status"], "ok");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_waited_for_and_the_plugs_are_served_meanwhile() {
    let home = home().await;
    let port = free_port();
    let setup = Setup::new(&Config::of(&home).at_broker(port));
    let daemon = setup.daemon();
    let line = daemon.says(&format!("the broker at 127.0.0.1:{port}")).await;
    assert!(line.contains("WARN"), "{line}");
    home.wait_until(BOUND, || home.plugs().iter().all(|plug| plug.traffic().lan_requests > 0)).await.unwrap();
    let _broker = TestBroker::embedded_at(port).await;
    assert_eq!(daemon.is_connected().await, port);
    until_retained(port, "all online", |all| all_are(all, "online")).await;
}
