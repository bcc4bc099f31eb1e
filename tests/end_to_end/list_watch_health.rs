//! `list`, `watch` and `health`: what they show of the running daemon, and what they say if none answers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use crate::cli::{Machine, SOMEBODY};
use crate::support::e2e::{ACCOUNT, Config, Scene, Setup, Talker, holds, home_of, home_options_of, sees};
use crate::support::mqtt::{Brand, Subscriber, TestBroker, free_port, until_retained, within};
use hs100d::sim::fault::LanFault;
use hs100d::sim::home::SimHome;
use hs100d::sim::model::Model;
use serde_json::{Value, json};

/// The commands that ask the running daemon once.
const ONCE: [&[&str]; 2] = [&["list"], &["health"]];

/// A lamp with a meter, and a tree.
async fn home() -> SimHome {
    let mut options = home_options_of(&["Lamp", "Tree"]);
    options.plugs[0].0 = Model::HS110_HW1;
    SimHome::start(options).await.unwrap()
}

/// The config of a daemon whose ports a command finds.
fn config(home: &SimHome) -> Config {
    Config::of(home).set("broker", "listen", format!("127.0.0.1:{}", free_port())).set(
        "http",
        "listen",
        format!("127.0.0.1:{}", free_port()),
    )
}

/// A config of no daemon, with HTTP there.
fn config_of_nobody(listen: &str) -> Config {
    Config::default()
        .set("broker", "listen", format!("127.0.0.1:{}", free_port()))
        .set("http", "listen", listen)
        .set("discovery", "lan", false)
        .set("discovery", "adopt", false)
}

/// The documents of the plugs, once the daemon has read all of it.
async fn listed(setup: &Setup, is_complete: impl Fn(&Value) -> bool) -> Value {
    within("a complete list", async {
        loop {
            let listed = setup.run(&["list", "--json"]).await.json();
            if is_complete(&listed) {
                return listed;
            }
        }
    })
    .await
}

#[tokio::test]
async fn list_shows_the_plugs_of_the_daemon_and_the_route_while_the_lan_is_cut() {
    let home = home().await;
    let scene = Scene::start(&config(&home)).await;
    scene.shows("lamp", json!({"state": "OFF"})).await;
    scene.shows("tree", json!({"state": "OFF"})).await;
    let is_read = |listed: &Value| listed[0]["energy"]["power"].is_number();
    let plugs = listed(&scene.setup, is_read).await;
    let expected =
        json!({"name": "lamp", "availability": "online", "state": {"state": "OFF", "route": "local"}});
    assert!(holds(&plugs[0], &expected) && plugs[1]["name"] == "tree", "{plugs}");

    home.lan().set_fault(home.plug(1), LanFault::Silent).await.unwrap();
    assert!(holds(&scene.command("tree", json!({"state": "ON"})).await, &json!({"route": "cloud"})));
    scene.shows("tree", json!({"state": "ON", "route": "cloud"})).await;
    let table = scene.setup.run(&["list"]).await;
    let lines: Vec<Vec<_>> = table.ok().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "STATE", "ROUTE", "SIGNAL", "POWER", "SINCE"], "{table:?}");
    assert_eq!(lines[1][..3], ["lamp", "OFF", "local"], "{table:?}");
    assert!(table.ok().contains(" dBm") && table.ok().contains(" W"), "{table:?}");
    assert_eq!(lines[2][..3], ["tree", "ON", "cloud"], "{table:?}");
    assert!(table.ok().trim_end().ends_with(" s ago"), "{table:?}");
}

#[tokio::test]
async fn without_http_the_broker_is_asked_and_says_the_same() {
    let home = home().await;
    let config = config(&home);
    let mut scene = Scene::start(&config).await;
    scene.shows("lamp", json!({"state": "OFF"})).await;
    scene.shows("tree", json!({"state": "OFF"})).await;
    let is_read = |plug: &Value| plug["info"]["schedule"].is_array();
    let over_http = listed(&scene.setup, |listed| is_read(&listed[0]) && is_read(&listed[1])).await;
    let healthy = scene.setup.run(&["health"]).await;
    let start = "2 of 2 plugs online, cloud ok, broker connected (asked at 127.0.0.1:";
    assert!(healthy.ok().starts_with(start), "{healthy:?}");
    let info = json!({"online": 2, "cloud": {"status": "ok"}});
    sees(&scene.subscriber, "hs100d/bridge/info", info).await;
    // The daemon does not read it again.
    scene.setup.write(&config.set("http", "enabled", false).text());
    let over_mqtt = scene.setup.run(&["list", "--json"]).await.json();
    for (http, mqtt) in over_http.as_array().unwrap().iter().zip(over_mqtt.as_array().unwrap()) {
        let keys = ["name", "availability", "state", "info"];
        assert!(keys.iter().all(|key| http[key] == mqtt[key]), "{http} is not {mqtt}");
    }
    assert!(over_mqtt[0]["energy"]["power"].is_number(), "{over_mqtt}");
    let start = "2 of 2 plugs online, cloud ok (asked at the broker at 127.0.0.1:";
    let healthy = scene.setup.run(&["health"]).await;
    assert!(healthy.ok().starts_with(start), "{healthy:?}");

    scene.daemon.stop().await;
    for words in ONCE {
        let failed = scene.setup.run(words).await;
        let line = failed.failed(69);
        assert!(line.starts_with("hs100d: no running daemon was found: the broker at 127.0.0.1:"), "{line}");
        assert!(line.ends_with("start it with `hs100d run`, or name its config with --config"), "{line}");
    }
}

#[tokio::test]
async fn a_daemon_that_has_ended_is_not_healthy_although_its_broker_answers() {
    let broker = TestBroker::start(Brand::Embedded).await;
    let setup = Setup::new(&config_of_nobody("127.0.0.1:0").at_broker(broker.port));
    let failed = setup.run(&["health"]).await;
    assert!(failed.failed(69).contains("no daemon publishes below hs100d/ at the broker at 127.0.0.1:"));
    let client = Subscriber::connect(broker.port).await;
    client.publish_retained("hs100d/bridge/state", "offline");
    until_retained(broker.port, "the will", |all| all.iter().any(|seen| seen.payload == "offline")).await;
    for words in ONCE {
        let failed = setup.run(words).await;
        assert!(failed.failed(69).contains("says that the daemon is offline"), "{failed:?}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_refused_in_one_line_and_the_right_one_is_not_shown() {
    let home = home_of(&["Lamp"]).await;
    let config = config(&home).set("http", "token", "0123456789abcdef");
    let scene = Scene::start(&config).await;
    scene.shows("lamp", json!({"state": "OFF"})).await;
    assert!(scene.setup.run(&["list"]).await.ok().contains("lamp"));
    let wrong = config.clone().set("http", "token", "fedcba9876543210").text();
    let none = config.without("http").text();
    let address = scene
        .setup
        .run(&["health"])
        .await
        .ok()
        .rsplit(' ')
        .next()
        .unwrap()
        .trim_end_matches(")\n")
        .to_owned();
    let none = none + &format!("[http]\nlisten = \"{address}\"\n");
    for (text, why) in
        [(wrong, "refuses the token of this config"), (none, "wants a token, and this config has none")]
    {
        scene.setup.write(&text);
        for words in ONCE {
            let failed = scene.setup.run(words).await;
            let line = failed.failed(77);
            let start = format!("hs100d: the daemon at {address} {why}: ");
            assert!(line.starts_with(&start) && line.contains("--config"), "{line}");
            assert!(!line.contains("0123456789") && !line.contains("fedcba"), "{line}");
        }
    }
}

/// What another program does at the port of HTTP after a request.
#[derive(Debug, Clone, Copy)]
enum Behaviour {
    /// Sends this and closes the connection.
    Answers(&'static str),
    /// Sends this, and then nothing for as long as the test runs.
    Stalls(&'static str),
    /// Sends this again and again.
    Drips(&'static str),
    /// Closes the connection before a request.
    HangsUp,
}

impl Behaviour {
    /// Behaves so at every connection, in a thread that ends with the test program.
    fn serve<S: Read + Write + Send + 'static>(self, mut accept: impl FnMut() -> S + Send + 'static) {
        std::thread::spawn(move || {
            loop {
                let mut stream = accept();
                std::thread::spawn(move || self.once(&mut stream));
            }
        });
    }

    fn once(self, stream: &mut (impl Read + Write)) {
        if matches!(self, Self::HangsUp) {
            return;
        }
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        // The command may have gone.
        match self {
            Self::HangsUp => {}
            Self::Answers(text) => drop(stream.write_all(text.as_bytes())),
            Self::Stalls(text) => {
                let _ = stream.write_all(text.as_bytes());
                let _ = stream.read_to_end(&mut Vec::new());
            }
            Self::Drips(text) => {
                while stream.write_all(text.as_bytes()).is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }
}

#[tokio::test]
async fn another_program_at_the_port_is_not_taken_for_the_daemon() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let lies = [
        (Behaviour::HangsUp, "it ends the connection before its answer is complete"),
        (Behaviour::Answers(""), "it ends the connection before its answer is complete"),
        (Behaviour::Answers("220 smtp.example.com ESMTP\r\n"), "it does not speak HTTP"),
        (Behaviour::Answers("\u{0}\u{1}\u{2}ÿ\r\n\r\n"), "it does not speak HTTP"),
        (Behaviour::Answers("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n<!DO"), "its answer is not JSON"),
        (
            Behaviour::Answers("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"),
            "its answer is not that of hs100d",
        ),
        (
            Behaviour::Answers("HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"version\":\"1\"}"),
            "its answer is not that of hs100d",
        ),
        (
            Behaviour::Answers("HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{\"version\":"),
            "it ends the connection before its answer is complete",
        ),
        (
            Behaviour::Answers(
                "HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n",
            ),
            "it answers with the status 302",
        ),
        (
            Behaviour::Answers("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
            "it answers with the status 404",
        ),
        (Behaviour::Stalls(""), "it does not answer in time"),
        (Behaviour::Stalls(HEAD), "it does not answer in time"),
        (Behaviour::Drips("HTTP/1.1 200 OK\r\nx: "), "it does not answer in time"),
    ];
    for (behaviour, why) in lies {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        behaviour.serve(move || listener.accept().unwrap().0);
        let setup = Setup::new(&config_of_nobody(&address.to_string()));
        for words in ONCE {
            let failed = setup.run(words).await;
            let line = failed.failed(69);
            let start = format!(
                "hs100d: no running daemon was found: what listens at {address} is not hs100d: {why}; "
            );
            assert!(line.starts_with(&start), "{behaviour:?}: {line}");
        }
    }
}

#[tokio::test]
async fn a_daemon_whose_port_another_program_has_is_found_over_mqtt() {
    let home = home().await;
    let config = config(&home);
    let scene = Scene::start(&config.clone().set("http", "enabled", false)).await;
    scene.shows("lamp", json!({"state": "OFF"})).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    Behaviour::Answers("220 smtp.example.com ESMTP\r\n").serve(move || listener.accept().unwrap().0);
    scene.setup.write(&config.set("http", "listen", address).text());
    assert!(scene.setup.run(&["list"]).await.ok().contains("\nlamp "));
    scene.setup.run(&["health"]).await.ok();
}

/// The answers of a daemon without plugs, on one connection.
fn answer_as_a_daemon(stream: &mut (impl Read + Write)) {
    let mut request = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|read| read == 1) {
        request.push(byte[0]);
        if request.ends_with(b"\r\n\r\n") {
            let bridge = r#"{"version":"0","instance":"a","plugs":0,"online":0,"cloud":{"status":"off"}}"#;
            let body = if request.starts_with(b"GET /api/v1/bridge ") { bridge } else { "[]" };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).unwrap();
            request.clear();
        }
    }
}

#[tokio::test]
async fn a_unix_socket_is_asked_and_without_one_there_is_no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let setup = Setup::new(&config_of_nobody(&format!("unix:{}", path.display())));
    let failed = setup.run(&["health"]).await;
    let line = failed.failed(69);
    assert!(line.contains(&format!("nothing listens at unix:{}; the broker at ", path.display())), "{line}");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        listener.incoming().for_each(|stream| answer_as_a_daemon(&mut stream.unwrap()))
    });
    let expected = format!("0 of 0 plugs online (asked at unix:{})\n", path.display());
    assert_eq!(setup.run(&["health"]).await.ok(), expected);
    assert!(setup.run(&["list"]).await.ok().starts_with("The daemon has no plugs yet."));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_ask_the_service_is_told_what_to_type() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("state.json"), "{}").unwrap();
    let Some(machine) = Machine::of(&state, "", ACCOUNT.1) else { return };
    let write = |text: &str| fs::write(machine.path("etc/hs100d/hs100d.toml"), text).unwrap();

    let path = machine.path("http.sock");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    write(&config_of_nobody(&format!("unix:{}", path.display())).text());
    for words in ONCE {
        let line = machine.fails(SOMEBODY, words, 77).await;
        let expected = format!(
            "hs100d: this user may not open unix:{}: type `sudo hs100d {}`\n",
            path.display(),
            words.join(" ")
        );
        assert_eq!(line, expected);
    }
    drop(listener);

    let refusal =
        "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/problem+json\r\ncontent-length: 2\r\n\r\n{}";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    write(&config_of_nobody(&listener.local_addr().unwrap().to_string()).text());
    Behaviour::Answers(refusal).serve(move || listener.accept().unwrap().0);
    let token = machine.path("etc/hs100d/http.token");
    fs::write(&token, "0123456789abcdef\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    for words in ONCE {
        let line = machine.fails(SOMEBODY, words, 77).await;
        assert!(line.ends_with(&format!(": type `sudo hs100d {}`\n", words.join(" "))), "{line}");
    }
    // The config needs the token, which this user may not read.
    write(&config_of_nobody("0.0.0.0:8100").text());
    let line = machine.fails(SOMEBODY, &["list", "--json"], 77).await;
    assert!(line.ends_with(": type `sudo hs100d list --json`\n"), "{line}");
    // Nor the config itself.
    let config = machine.path("etc/hs100d/hs100d.toml");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let line = machine.fails(SOMEBODY, &["health"], 77).await;
    assert!(line.ends_with(": type `sudo hs100d health`\n"), "{line}");
}

/// The watching command after its first line, over HTTP and over MQTT.
async fn watchers(scene: &Scene, config: &Config) -> [Talker; 2] {
    let over_http = scene.setup.talker(&["watch"]);
    over_http.says("watching 2 plugs; Ctrl-C ends").await;
    scene.setup.write(&config.clone().set("http", "enabled", false).text());
    let over_mqtt = scene.setup.talker(&["watch"]);
    over_mqtt.says("watching 2 plugs; Ctrl-C ends").await;
    scene.setup.write(&config.text());
    [over_http, over_mqtt]
}

#[tokio::test]
async fn watch_shows_each_change_over_http_and_over_mqtt_and_ends_at_ctrl_c() {
    let home = home().await;
    let config = config(&home);
    let scene = Scene::start(&config).await;
    scene.shows("lamp", json!({"state": "OFF"})).await;
    scene.shows("tree", json!({"state": "OFF"})).await;
    for mut watcher in watchers(&scene, &config).await {
        scene.command("tree", json!({"state": "ON"})).await;
        let line = watcher.says("  tree: ON (local)").await;
        assert!(line.starts_with("20") && line.contains("Z  tree: "), "{line}");
        scene.command("tree", json!({"state": "OFF"})).await;
        watcher.says("  tree: OFF (local)").await;
        home.plug(0).press_button();
        watcher.says("  lamp: ON (local)").await;
        home.plug(0).press_button();
        watcher.says("  lamp: OFF (local)").await;
        watcher.signal("INT");
        assert_eq!(watcher.exit_code().await, 0);
    }
    let mut json = scene.setup.talker(&["watch", "--json"]);
    let snapshot: Value = serde_json::from_str(&json.says("\"event\":\"snapshot\"").await).unwrap();
    assert_eq!(snapshot["data"]["plugs"].as_array().unwrap().len(), 2, "{snapshot}");
    scene.command("tree", json!({"state": "ON"})).await;
    let state: Value = serde_json::from_str(&json.says("\"state\":\"ON\"").await).unwrap();
    assert!(holds(&state, &json!({"event": "state", "data": {"plug": "tree", "route": "local"}})), "{state}");
    json.signal("INT");
    assert_eq!(json.exit_code().await, 0);
}

#[tokio::test]
async fn watch_says_once_that_the_daemon_has_ended_and_goes_on_with_the_next_one() {
    let home = home().await;
    let config = config(&home);
    let mut scene = Scene::start(&config).await;
    scene.shows("lamp", json!({"state": "OFF"})).await;
    scene.shows("tree", json!({"state": "OFF"})).await;
    let watchers = watchers(&scene, &config).await;
    scene.daemon.stop().await;
    for watcher in &watchers {
        watcher.says(": trying again").await;
    }
    home.plug(1).press_button();
    let daemon = scene.setup.daemon();
    daemon.is_connected().await;
    for watcher in &watchers {
        watcher.says("the daemon answers again").await;
        watcher.says("  tree: ON (local)").await;
        let again = watcher.lines().into_iter().filter(|line| line.contains("again")).count();
        assert_eq!(again, 2, "{:?}", watcher.lines());
    }
}

#[tokio::test]
async fn watch_ends_when_nobody_reads_it_and_says_at_once_if_there_is_no_daemon() {
    let failed = Setup::new(&config_of_nobody(&format!("127.0.0.1:{}", free_port()))).run(&["watch"]).await;
    assert!(
        failed.failed(69).starts_with("hs100d: no running daemon was found: nothing listens at "),
        "{failed:?}"
    );
    let home = home().await;
    let scene = Scene::start(&config(&home)).await;
    scene.shows("tree", json!({"state": "OFF"})).await;
    let mut watcher = scene.setup.talker_until(&["watch"], 1);
    watcher.says("watching ").await;
    within("the end of watch", async {
        while watcher.try_exit_code().is_none() {
            scene.command("tree", json!({"state": "TOGGLE"})).await;
        }
    })
    .await;
    assert_eq!(watcher.exit_code().await, 0);
}
