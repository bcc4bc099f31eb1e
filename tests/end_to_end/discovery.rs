//! Plugs are found, named and forgotten: what the commands and the requests over MQTT do about it, and what stays at
//! the broker. The real program, a simulated home, real brokers.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::net::SocketAddr;
use std::process::Stdio;

use crate::support::e2e::{Config, Scene, Setup, happens, home_of, home_options_of, json_of, sees};
use crate::support::mqtt::{self, Brand, Message, Subscriber, until_retained};
use hs100d::sim::fault::{CloudLink, LanFault};
use hs100d::sim::home::SimHome;
use hs100d::sim::model::Model;
use serde_json::{Value, json};

/// Only the LAN, and one round of discovery in a day.
fn lan_alone(home: &SimHome) -> Config {
    Config::of(home).without("cloud").set("discovery", "interval", "1d")
}

/// The retained messages below a plug's topics, and the discovery payloads that name it.
fn of_plug<'a>(all: &'a [Message], plug: &str) -> Vec<&'a str> {
    let own = format!("/{plug}/");
    let is_about = |seen: &&Message| seen.topic.contains(&own) || seen.payload.contains(&own);
    all.iter().filter(is_about).map(|seen| seen.topic.as_str()).collect()
}

async fn is_online(subscriber: &Subscriber, plug: &str) {
    subscriber.receives(&format!("hs100d/{plug}/availability"), "online").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_lists_the_plugs_as_a_table_and_as_json() {
    let mut home_options = home_options_of(&[]);
    home_options.plugs = vec![
        (Model::HS100_HW1, "Küche ☕".to_owned()),
        (Model::HS100_HW2, String::new()),
        (Model::HS100_HW4, "a\n\u{1b}[31m/b".to_owned()),
        (Model::HS100_HW1, "Hidden".to_owned()),
    ];
    let home = SimHome::start(home_options).await.unwrap();
    home.plug(0).press_button();
    home.plug(3).with(|plug| plug.lan = LanFault::Silent);
    let setup = Setup::new(&lan_alone(&home));

    let found = setup.run(&["discover", "--json", "--timeout", "2s"]).await.json();
    let expected = |number: usize| {
        let plug = home.plug(number);
        json!({
            "alias": plug.alias(), "topic_name": null, "mac": plug.mac(), "device_id": plug.device_id(), "protocol": "xor",
            "host": home.lan().address(plug).unwrap().ip().to_string(),
            "state": if plug.is_on() { "ON" } else { "OFF" },
            "model": plug.read(|plug| plug.model.name), "rssi": plug.read(|plug| plug.rssi),
        })
    };
    assert_eq!(found, json!([expected(0), expected(1), expected(2)]));

    let table = setup.run(&["discover", "--timeout", "2s"]).await;
    let lines: Vec<&str> = table.ok().lines().collect();
    assert_eq!(lines.len(), 4, "{table:?}");
    let start = lines[0].find("ADDRESS").unwrap();
    for (number, line) in lines[1..].iter().enumerate() {
        let host = expected(number)["host"].as_str().unwrap().to_owned();
        let at = line
            .char_indices()
            .filter_map(|(at, _)| line[at..].starts_with(&host).then_some(at))
            .next()
            .unwrap();
        assert_eq!(line[..at].chars().count(), start, "columns are aligned: {table:?}");
        assert!(line.contains(&home.plug(number).device_id()) && line.ends_with("xor"), "{line}");
    }
    assert!(lines[1].starts_with("Küche ☕ ") && lines[3].starts_with(r"a\n\u{1b}[31m/b "), "{table:?}");

    home.plugs().iter().for_each(|plug| plug.with(|plug| plug.lan = LanFault::Silent));
    let nobody = setup.run(&["discover", "--timeout", "500ms"]).await;
    let start = "No plug answered. Asked by broadcast: 127.255.255.255. ";
    assert!(nobody.ok().starts_with(start), "{nobody:?}");
    assert_eq!(setup.run(&["discover", "--json", "--timeout", "500ms"]).await.json(), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_tells_topic_names_and_the_outlets_of_strips_and_writes_nothing() {
    let mut home_options = home_options_of(&[]);
    home_options.plugs = vec![(Model::KP303, "Lab Strip".to_owned()), (Model::HS100_HW1, "Küche".to_owned())];
    let home = SimHome::start(home_options).await.unwrap();
    home.plug(0).with(|strip| strip.press_button_of(1, std::time::Instant::now()));
    let config = lan_alone(&home);
    let setup = Setup::new(&config);
    let nameless = setup.run(&["discover", "--json", "--timeout", "1s"]).await.json();
    assert_eq!((&nameless[0]["topic_name"], &nameless[0]["state"]), (&Value::Null, &json!("ON")));
    assert_eq!(nameless[0]["outlets"][1]["topic_name"], Value::Null);
    assert!(!setup.state_dir().exists(), "a look makes no state directory");

    let Scene { setup, mut daemon, subscriber, .. } = Scene::at(setup).await;
    for plug in ["lab-strip", "kuche"] {
        is_online(&subscriber, plug).await;
    }
    daemon.stop().await;
    let before = std::fs::read_to_string(setup.state_dir().join("state.json")).unwrap();
    let named = setup.run(&["discover", "--json", "--timeout", "1s"]).await.json();
    assert_eq!((&named[0]["topic_name"], &named[1]["topic_name"]), (&json!("lab-strip"), &json!("kuche")));
    let alias = |number: usize| home.plug(0).read(|strip| strip.outlets[number].alias.clone());
    let topic_name = |number: usize| named[0]["outlets"][number]["topic_name"].as_str().unwrap();
    let outlet = |number: usize, state: &str| json!({"outlet": number + 1, "alias": alias(number), "topic_name": topic_name(number), "state": state});
    assert_eq!(named[0]["outlets"], json!([outlet(0, "OFF"), outlet(1, "ON"), outlet(2, "OFF")]));
    assert!(before.contains(&format!("\"{}\"", topic_name(2))), "{before}");

    let table = setup.run(&["discover", "--timeout", "1s"]).await;
    let lines: Vec<&str> = table.ok().lines().collect();
    assert_eq!(lines.len(), 6, "a line for each plug and each outlet: {table:?}");
    let start = lines[0].find("TOPIC NAME").unwrap();
    assert!(lines[1][start..].starts_with("lab-strip "), "{table:?}");
    assert!(lines[3].starts_with(&format!("  {} ", alias(1))), "{table:?}");
    assert!(lines[3][start..].starts_with(topic_name(1)) && lines[3].contains("  outlet 2 "), "{table:?}");
    assert!(lines[3].ends_with("  ON") && lines[4].ends_with("  OFF"), "{table:?}");

    // A name in the config takes precedence over one in the store.
    setup.write(&config.plug("kettle", &home, 1).text());
    let named = setup.run(&["discover", "--json", "--timeout", "1s"]).await.json();
    assert_eq!(named[1]["topic_name"], "kettle");
    assert_eq!(std::fs::read_to_string(setup.state_dir().join("state.json")).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_shows_on_a_terminal_whom_it_asked_and_how_long_it_goes_on() {
    let home = home_of(&["Lamp"]).await;
    let setup = Setup::new(&lan_alone(&home));
    // Every machine with a package for Debian has it, in bsdutils.
    if std::process::Command::new("script").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "there is no `script`: apt-get install bsdutils");
        return;
    }
    let program = env!("CARGO_BIN_EXE_hs100d");
    let words = format!("'{program}' --config '{}' discover --timeout 1200ms", setup.config().display());
    let mut terminal = std::process::Command::new("script");
    terminal
        .args(["-qefc", &words, "/dev/null"])
        .env("TERM", "xterm")
        .env("STATE_DIRECTORY", setup.state_dir());
    let shown =
        tokio::task::spawn_blocking(move || terminal.stdin(Stdio::null()).output().unwrap()).await.unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let (before, table) = shown.split_once("NAME ").unwrap();
    assert!(before.starts_with("Asked by broadcast: 127.255.255.255\r\n"), "{shown:?}");
    assert!(before.contains("1 found, ") && before.contains(" s left"), "{shown:?}");
    assert!(before.ends_with("\r\u{1b}[K"), "what was shown meanwhile is gone: {shown:?}");
    assert!(table.contains("Lamp ") && !table.contains('\u{1b}'), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_devices_are_listed_by_alias_with_where_the_lan_knows_them() {
    let home = home_of(&["Zebra", "Küche", "Away"]).await;
    home.lan().unplug(home.plug(2)).await;
    home.plug(2).set_cloud(CloudLink::Offline);
    let mut scene = Scene::start(&Config::of(&home)).await;
    for plug in ["zebra", "kuche"] {
        scene.shows(plug, json!({ "route": "local" })).await;
    }
    sees(&scene.subscriber, "hs100d/bridge/info", json!({ "plugs": 3 })).await;
    scene.daemon.stop().await;

    let listed = scene.setup.run(&["cloud", "devices", "--json"]).await.json();
    let place = |number: usize| home.lan().address(home.plug(number)).map(|at| at.ip().to_string());
    let seen: Vec<_> =
        listed.as_array().unwrap().iter().map(|row| (&row["alias"], &row["host"], &row["online"])).collect();
    assert_eq!(
        json!(seen),
        json!([["Away", null, false], ["Küche", place(1), true], ["Zebra", place(0), true]])
    );
    let table = scene.setup.run(&["cloud", "devices"]).await;
    let lines: Vec<&str> = table.ok().lines().collect();
    assert!(lines[0].starts_with("ALIAS  MODEL") && lines[0].ends_with("ADDRESS"), "{table:?}");
    let firsts: Vec<_> = lines[1..].iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(firsts, ["Away", "Küche", "Zebra"]);
    assert!(lines[3].ends_with(&place(0).unwrap()) && lines[1].contains("offline"), "{table:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_finds_plugs_that_came_and_another_reads_those_that_are_there() {
    let home = home_of(&["Lamp", "Kettle"]).await;
    let place = home.lan().address(home.plug(1)).unwrap();
    home.lan().unplug(home.plug(1)).await;
    let config = lan_alone(&home).set("local", "poll_interval", "1h");
    let scene = Scene::start(&config).await;
    is_online(&scene.subscriber, "lamp").await;
    home.lan().plug_in(home.plug(1), place).await.unwrap();
    assert_eq!(scene.request("discover", json!({})).await["status"], "ok");
    is_online(&scene.subscriber, "kettle").await;
    happens(&scene.subscriber, json!({ "event": "plug_found", "plug": "kettle" })).await;

    // These plugs are polled once an hour; only a request reads them earlier.
    scene.shows("lamp", json!({ "state": "OFF" })).await;
    scene.shows("kettle", json!({ "state": "OFF" })).await;
    home.plug(0).press_button();
    home.plug(1).press_button();
    assert_eq!(scene.request("refresh", json!({ "plug": "lamp" })).await["status"], "ok");
    scene.shows("lamp", json!({ "state": "ON" })).await;
    assert_eq!(scene.request("refresh", json!({})).await["status"], "ok");
    scene.shows("kettle", json!({ "state": "ON" })).await;
    let answer = scene.request("refresh", json!({ "plug": "nobody" })).await;
    assert_eq!(
        (&answer["status"], &answer["error"]),
        (&json!("error"), &json!("there is no plug called nobody"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_is_forgotten_by_command_and_by_request_with_all_that_the_broker_keeps_of_it() {
    let home = home_of(&["Lamp", "Kettle", "Fan"]).await;
    let broker = mqtt::TestBroker::start(Brand::Embedded).await;
    let config = lan_alone(&home).at_broker(broker.port).plug("fan", &home, 2);
    let scene = Scene::start(&config).await;
    for plug in ["lamp", "kettle", "fan"] {
        is_online(&scene.subscriber, plug).await;
    }
    until_retained(scene.port, "all documents", |all| of_plug(all, "lamp").len() >= 4).await;
    // A plug that is still there would be found again.
    home.lan().unplug(home.plug(0)).await;
    home.lan().unplug(home.plug(1)).await;

    assert_eq!(scene.setup.run(&["forget", "lamp"]).await.ok(), "lamp is forgotten.\n");
    until_retained(scene.port, "nothing of the lamp", |all| of_plug(all, "lamp").is_empty()).await;
    assert_eq!(scene.request("forget", json!({ "plug": "kettle" })).await["status"], "ok");
    let all =
        until_retained(scene.port, "nothing of the kettle", |all| of_plug(all, "kettle").is_empty()).await;
    assert!(!of_plug(&all, "fan").is_empty(), "the others stay");
    happens(&scene.subscriber, json!({ "event": "plug_gone", "plug": "kettle" })).await;

    let refused = scene.request("forget", json!({ "plug": "fan" })).await;
    assert!(refused["error"].as_str().unwrap().contains("remove its [[plug]] entry"), "{refused}");
    let told = scene.setup.run(&["forget", "fan"]).await;
    assert!(told.failed(1).contains("remove its [[plug]] entry"), "{told:?}");
    let told = scene.setup.run(&["forget", "lamp"]).await;
    assert!(told.failed(1).contains("there is no plug called lamp"), "{told:?}");
    let Scene { setup, mut daemon, .. } = scene;
    daemon.stop().await;
    let store = std::fs::read_to_string(setup.state_dir().join("state.json")).unwrap();
    assert!(
        store.contains("\"fan\"") && !store.contains("\"lamp\"") && !store.contains("\"kettle\""),
        "{store}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_run_left_behind_is_cleared_and_what_others_left_is_never_touched() {
    for brand in mqtt::brands() {
        leftovers_at(brand).await;
    }
}

async fn leftovers_at(brand: Brand) {
    let broker = mqtt::TestBroker::start(brand).await;
    let (ours, theirs) = (home_of(&["Lamp", "Kettle"]).await, home_of(&["", "", "Lamp"]).await);
    // The first two plugs of each home have the same device ids, and one discovery payload cannot be about both.
    theirs.lan().unplug(theirs.plug(0)).await;
    theirs.lan().unplug(theirs.plug(1)).await;
    let of =
        |home: &SimHome, base: &str| lan_alone(home).at_broker(broker.port).set("mqtt", "base_topic", base);
    let subscriber = Subscriber::connect(broker.port).await;
    let foreign = [
        ("homeassistant/device/somebody/config", r#"{"o":{"name":"somebody"},"cmps":{}}"#),
        (
            "homeassistant/switch/0x01/switch/config",
            r#"{"state_topic":"zigbee2mqtt/x","origin":{"name":"zigbee2mqtt"}}"#,
        ),
        ("homeassistant/switch/broken/config", "{"),
        ("ours/other/said", "something that is no plug's"),
    ];
    for (topic, payload) in foreign {
        subscriber.publish_retained(topic, payload);
    }
    let neighbour = Setup::new(&of(&theirs, "theirs"));
    let _neighbour = neighbour.daemon();
    subscriber.receives("theirs/lamp/availability", "online").await;
    let setup = Setup::new(&of(&ours, "ours"));
    let mut daemon = setup.daemon();
    for plug in ["lamp", "kettle"] {
        subscriber.receives(&format!("ours/{plug}/availability"), "online").await;
    }
    let documents = |all: &[Message]| {
        all.iter().filter(|seen| seen.topic.starts_with("homeassistant/device/hs100d")).count()
    };
    // Five discovery payloads: two plugs and a bridge here, a plug and a bridge there.
    let before = until_retained(broker.port, "all documents", |all| documents(all) == 5).await;
    let names = setup.state_dir().join("state.json");
    mqtt::within("the names on disk", async {
        while !std::fs::read_to_string(&names).unwrap().contains("\"kettle\"") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;

    // The daemon is killed. Then the kettle is removed and forgotten while no daemon runs.
    daemon.kill().await;
    ours.lan().unplug(ours.plug(1)).await;
    let told = setup.run(&["forget", "kettle"]).await;
    assert_eq!(told.ok(), "kettle is forgotten; the next start of the daemon clears it at the broker.\n");
    let mut daemon = setup.daemon();
    let after =
        until_retained(broker.port, "nothing of the kettle", |all| of_plug(all, "kettle").is_empty()).await;
    assert_eq!(documents(&after), 4, "{brand:?}");
    assert!(!of_plug(&after, "lamp").is_empty());
    let others = |all: &[Message]| {
        let is_theirs = |seen: &&Message| {
            let is_state = seen.topic.starts_with("theirs/") && !seen.topic.contains("/info");
            is_state
                || seen.payload.contains("theirs/")
                || foreign.iter().any(|(topic, _)| seen.topic == *topic)
        };
        let mut theirs: Vec<_> =
            all.iter().filter(is_theirs).map(|seen| (seen.topic.clone(), seen.payload.clone())).collect();
        theirs.sort();
        theirs
    };
    assert_eq!(others(&before), others(&after), "{brand:?}");
    assert!(others(&after).len() > foreign.len() + 2, "{:?}", others(&after));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_given_once_and_one_from_the_config_wins_and_leaves_nothing_under_the_old_one() {
    let home = home_of(&["Lamp"]).await;
    let broker = mqtt::TestBroker::start(Brand::Embedded).await;
    let config = lan_alone(&home).at_broker(broker.port);
    let subscriber = Subscriber::connect(broker.port).await;
    let setup = Setup::new(&config);
    let mut daemon = setup.daemon();
    is_online(&subscriber, "lamp").await;
    daemon.stop().await;

    // Another alias in the Kasa app: its topics stay.
    home.plug(0).with(|plug| plug.alias = "Something else".to_owned());
    let daemon = setup.daemon();
    sees(&subscriber, "hs100d/lamp/info", json!({ "alias": "Something else" })).await;
    sees(&subscriber, "hs100d/bridge/info", json!({ "plugs": 1, "online": 1 })).await;

    // Another name in the config.
    setup.write(&config.plug("kettle", &home, 0).text());
    daemon.signal("HUP");
    is_online(&subscriber, "kettle").await;
    let all = until_retained(broker.port, "nothing of the lamp", |all| {
        of_plug(all, "lamp").is_empty() && of_plug(all, "kettle").len() >= 4
    })
    .await;
    let documents: Vec<Value> =
        all.iter().filter(|seen| seen.topic.contains(&home.plug(0).device_id())).map(json_of).collect();
    assert_eq!(documents.len(), 1, "{all:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_of_the_config_that_has_an_address_needs_no_broadcast() {
    let home = home_of(&["Lamp", "Intruder"]).await;
    let place: SocketAddr = home.lan().address(home.plug(0)).unwrap();
    let config = Config::of(&home).without("cloud").without_search().set("routing", "command_ttl", "2s");
    let text = format!("{}\n[[plug]]\nname = \"kettle\"\nhost = \"{place}\"\n", config.text());
    let setup = Setup::new(&config);
    setup.write(&text);
    let scene = Scene::at(setup).await;
    is_online(&scene.subscriber, "kettle").await;
    assert_eq!(scene.command("kettle", json!({ "state": "ON" })).await["status"], "ok");

    // Another plug at the address is not mistaken for it, neither now nor after a restart.
    let Scene { setup, mut daemon, .. } = scene;
    daemon.stop().await;
    home.lan().unplug(home.plug(0)).await;
    home.lan().plug_in(home.plug(1), place).await.unwrap();
    let mut scene = Scene::at(setup).await;
    let refused = scene.command("kettle", json!({ "state": "ON" })).await;
    assert_eq!(refused["status"], "error", "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("Intruder"), "says who is there: {refused}");
    assert_eq!(home.plug(1).switchings().len(), 0);

    home.lan().unplug(home.plug(1)).await;
    home.lan().plug_in(home.plug(0), place).await.unwrap();
    assert_eq!(scene.command("kettle", json!({ "state": "OFF" })).await["status"], "ok");
    scene.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_a_moment_before_the_end_is_written_down() {
    let home = home_of(&["Lamp"]).await;
    let Scene { setup, mut daemon, subscriber, .. } = Scene::start(&lan_alone(&home)).await;
    is_online(&subscriber, "lamp").await;
    daemon.stop().await;
    let text = std::fs::read_to_string(setup.state_dir().join("state.json")).unwrap();
    let place = home.lan().address(home.plug(0)).unwrap().to_string();
    assert!(text.contains("\"lamp\"") && text.contains(&place), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_cannot_be_written_to_is_said_and_stops_nothing() {
    let home = home_of(&["Lamp"]).await;
    let setup = Setup::new(&lan_alone(&home));
    // A file in place of the directory stops even root.
    std::fs::write(setup.state_dir(), "in the way").unwrap();
    let scene = Scene::at(setup).await;
    scene.daemon.says("cannot be used").await;
    is_online(&scene.subscriber, "lamp").await;
    assert_eq!(scene.command("lamp", json!({ "state": "ON" })).await["status"], "ok");
}
