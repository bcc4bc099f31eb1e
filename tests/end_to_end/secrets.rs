//! Secrets stay secret: passwords, tokens and the account's address are searched for in everything that the program
//! prints at its highest verbosity. And a wrong password is never tried twice.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;

use crate::support::e2e::{ACCOUNT, Config, Daemon, Scene, Setup, hashes_of, holds, home_of, sees};
use crate::support::mqtt::{BOUND, Brand, Subscriber, TestBroker, has_mosquitto};
use hs100d::sim::cloud::rule::{CloudFault, Method, Times};
use hs100d::sim::fault::LanFault;
use hs100d::sim::home::SimHome;
use serde_json::{Value, json};

/// The user of the broker, and a password with characters that need escaping.
const USER: (&str, &str) = ("daemon", "m$'{qtt}\\ \"/ß");
/// Wrong passwords are secrets too: people mistype one character.
const WRONG: &str = "\"'\\/{}$ü?nearly";
const TOKEN_EXPIRED: i64 = -20651;
const REFRESH_TOKEN_EXPIRED: i64 = -20655;

#[tokio::test]
async fn no_secret_is_in_any_log_line_message_error_or_argument_at_trace_level() {
    let home = home_of(&["Lamp"]).await;
    let broker = broker_with_users().await;
    let mut said = Said::default();
    let mut secrets = Secrets::default();

    let setup = Setup::new(&config(&home, broker.port));
    fs::write(setup.config().with_file_name("mqtt.password"), format!("{}\n", USER.1)).unwrap();
    let mut daemon = setup.daemon_that_logs("trace");
    daemon.is_connected().await;
    let subscriber = Subscriber::subscribe_to(broker.port, "#", Some(USER)).await;
    let mut scene = Scene { subscriber, daemon, port: broker.port, setup };
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "ok"}})).await;
    scene.shows("lamp", json!({"route": "local"})).await;
    secrets.learn(&home, &scene.setup);

    home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok", "route": "cloud"})), "{result}");
    home.cloud().void_tokens(TOKEN_EXPIRED);
    let result = scene.command("lamp", json!({"state": "OFF"})).await;
    assert!(holds(&result, &json!({"status": "ok", "route": "cloud"})), "{result}");
    assert_eq!(home.cloud().calls(Method::RefreshToken), 1);
    secrets.learn(&home, &scene.setup);
    for fault in [
        CloudFault::Status(500),
        CloudFault::Html,
        CloudFault::Close,
        CloudFault::CutOff,
        CloudFault::Redirect(format!("{}/elsewhere", home.cloud().url())),
        CloudFault::Code(-10000),
    ] {
        home.cloud().fail(None, Times::Always, fault);
        scene.command("lamp", json!({"state": "ON"})).await;
        home.cloud().mend();
    }

    scene.setup.write(&config(&home, broker.port).set("cloud", "password", WRONG).text());
    scene.daemon.signal("HUP");
    // With the right password it would log in again.
    scene.daemon.says("the config was read again").await;
    home.cloud().void_tokens(TOKEN_EXPIRED);
    home.cloud().void_refresh_tokens(REFRESH_TOKEN_EXPIRED);
    scene.command("lamp", json!({"state": "ON"})).await;
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "stopped"}})).await;
    scene.command("lamp", json!({"state": "ON"})).await;
    secrets.learn(&home, &scene.setup);
    said.add_daemon(&scene.daemon);
    for seen in scene.subscriber.messages() {
        said.add(&format!("{} {} {:?}", seen.topic, seen.payload, seen.correlation));
    }
    scene.daemon.stop().await;

    // The same for the commands, which print errors where the daemon logs them.
    let wrong_broker = config(&home, broker.port).set("mqtt", "password_file", "wrong.password");
    fs::write(scene.setup.config().with_file_name("wrong.password"), format!("wrong{}", USER.1)).unwrap();
    let words: [(&[&str], &str); 7] = [
        (&["-vvv", "check"], ""),
        (&["-vvv", "check", "--json"], ""),
        (&["-vvv", "plug", "lamp", "info", "--via", "cloud"], ""),
        (&["-vvv", "cloud", "login"], WRONG),
        (&["-vvv", "cloud", "login", "--lan-only"], ACCOUNT.1),
        (&["-vvv", "check"], ""),
        (&["-vvv", "cloud", "logout"], ""),
    ];
    for (words, input) in words {
        let ended = scene.setup.run_with(words, input).await;
        said.add(&ended.out);
        said.add(&ended.err);
    }
    scene.setup.write(&wrong_broker.text());
    if has_mosquitto() {
        daemon = scene.setup.daemon_that_logs("trace");
        daemon.says("refuses the login").await;
        said.add_daemon(&daemon);
        daemon.stop().await;
    }

    secrets.add(WRONG);
    for password in [ACCOUNT.1, WRONG] {
        secrets.all.extend(hashes_of(ACCOUNT.0, password));
    }
    secrets.add(&format!("wrong{}", USER.1));
    secrets.prove_that_they_are_found(&scene.setup, &home);
    said.prove_that_all_was_said();
    let id = home.plug(0).device_id();
    for line in &said.lines {
        for secret in &secrets.all {
            assert!(!line.contains(secret), "{secret:?} was said: {line}");
        }
        assert!(!line.contains(ACCOUNT.0), "the account's address was said: {line}");
    }
    let in_full = said.lines.iter().filter(|line| line.contains(&id));
    for line in in_full {
        let for_all = ["hs100d/lamp/info ", "homeassistant/device/", "homeassistant/"];
        assert!(for_all.iter().any(|topic| line.starts_with(topic)), "a whole device id was said: {line}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_until_somebody_has_corrected_it() {
    let home = home_of(&["Lamp"]).await;
    let right = Config::of(&home).set("routing", "command_ttl", "1s");
    let scene = Scene::start(&right.clone().set("cloud", "password", WRONG)).await;
    let info = sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "stopped"}})).await;
    let reason = info["cloud"]["reason"].as_str().unwrap();
    for part in [
        "wrong e-mail address or password",
        "correct [cloud] username and password",
        "then reload or run `hs100d cloud login`",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    let keys: BTreeSet<&str> = info.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        BTreeSet::from(["version", "instance", "broker", "started", "plugs", "online", "cloud"])
    );
    scene.daemon.says(&format!("WARN cloud_stopped: {reason}")).await;

    // Everything that needs the cloud: a plug that only the cloud could reach, commands, discovery.
    scene.shows("lamp", json!({"route": "local"})).await;
    home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
    for _ in 0..3 {
        let result = scene.command("lamp", json!({"state": "ON"})).await;
        assert!(
            result["error"].as_str().unwrap().contains("cloud: the cloud is stopped (wrong e-mail"),
            "{result}"
        );
        for request in ["discover", "refresh"] {
            assert_eq!(scene.request(request, json!({})).await["status"], "ok");
        }
    }
    assert_eq!(home.cloud().calls(Method::Login), 1);
    assert_eq!(home.cloud().records().len(), 1, "and nothing else was asked");

    scene.setup.write(&right.text());
    scene.daemon.signal("HUP");
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "ok", "reason": null}})).await;
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok", "route": "cloud"})), "{result}");
    assert_eq!(home.cloud().calls(Method::Login), 2);

    let Scene { mut daemon, setup, .. } = scene;
    daemon.stop().await;
    let scene = Scene::at(setup).await;
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "ok"}})).await;
    let result = scene.command("lamp", json!({"state": "OFF"})).await;
    assert!(holds(&result, &json!({"status": "ok", "route": "cloud"})), "{result}");
    let calls = [Method::Login, Method::RefreshToken].map(|method| home.cloud().calls(method));
    assert_eq!(calls, [2, 0], "the token was kept");
}

#[tokio::test]
async fn a_reload_sends_no_refused_password_again_and_logs_how_it_ends() {
    let home = home_of(&["Lamp"]).await;
    let right = Config::of(&home);
    let wrong = |password| right.clone().set("cloud", "password", password);
    let scene = Scene::start(&wrong("wrong-1")).await;
    let stopped = "WARN cloud_stopped: wrong e-mail address or password";
    scene.daemon.says_again(stopped, 1).await;
    let refused_before = "WARN cloud_stopped: TP-Link has refused this e-mail address and password";
    for (times, password) in [(1, "wrong-1"), (2, "wrong-1")] {
        scene.setup.write(&wrong(password).text());
        scene.daemon.signal("HUP");
        scene.daemon.says_again(refused_before, times).await;
    }
    assert_eq!(home.cloud().calls(Method::Login), 1);

    scene.setup.write(&wrong("wrong-2").text());
    scene.daemon.signal("HUP");
    scene.daemon.says_again(stopped, 2).await;
    scene.setup.write(&wrong("wrong-1").text());
    scene.daemon.signal("HUP");
    scene.daemon.says_again(refused_before, 3).await;
    assert_eq!(home.cloud().calls(Method::Login), 2, "nor one that was refused before another");

    scene.setup.write(&right.text());
    scene.daemon.signal("HUP");
    scene.daemon.says("INFO cloud_ok").await;
    assert_eq!(home.cloud().calls(Method::Login), 3);
}

#[tokio::test]
async fn what_would_harm_an_account_is_not_tried_again_and_said_with_its_remedy() {
    type Change = fn(&mut hs100d::sim::cloud::account::SimAccount);
    let table: [(Change, &str, &str); 2] = [
        (|account| account.two_step = true, "two-step verification", "turn two-step verification off"),
        (|account| account.locked = true, "the account is locked", "wait an hour"),
    ];
    for (change, name, remedy) in table {
        let home = home_of(&["Lamp"]).await;
        home.cloud().account(change);
        let scene = Scene::start(&Config::of(&home)).await;
        let info =
            sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "stopped"}})).await;
        let reason = info["cloud"]["reason"].as_str().unwrap();
        assert!(reason.contains(name) && reason.contains(remedy), "{reason}");
        scene.request("discover", json!({})).await;
        let result = scene.command("lamp", json!({"state": "ON"})).await;
        assert!(holds(&result, &json!({"status": "ok", "route": "local"})), "{result}");
        assert_eq!(home.cloud().records().len(), 1, "{name}");
    }
}

/// The installation under test: a broker with users, and short time-outs.
fn config(home: &SimHome, port: u16) -> Config {
    Config::of(home)
        .at_broker(port)
        .set("mqtt", "username", USER.0)
        .set("mqtt", "password_file", "mqtt.password")
        .set("routing", "command_ttl", "1s")
}

/// An embedded broker without logins if mosquitto is not installed.
async fn broker_with_users() -> TestBroker {
    if has_mosquitto() {
        TestBroker::with_users(&[USER.0], USER.1, &format!("user {}\ntopic readwrite #\n", USER.0)).await
    } else {
        TestBroker::start(Brand::Embedded).await
    }
}

/// Every line that was printed.
#[derive(Default)]
struct Said {
    lines: Vec<String>,
}

impl Said {
    fn add(&mut self, text: &str) {
        self.lines.extend(text.lines().map(str::to_owned));
    }

    /// Its log, and what any user of the machine can see of the process.
    fn add_daemon(&mut self, daemon: &Daemon) {
        self.lines.extend(daemon.lines());
        let arguments = fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
        self.add(&format!("argv {}", String::from_utf8_lossy(&arguments)));
    }

    /// A search through too little output would find nothing.
    fn prove_that_all_was_said(&self) {
        for part in [
            " TRACE ",
            " DEBUG answered plug=\"lamp\" route=cloud",
            "the account gave a token kind=Login",
            "the account gave a token kind=Refresh",
            "the account gave no token kind=Login",
            "cloud_stopped: wrong e-mail address or password",
            "hs100d/bridge/info {",
            "hs100d/lamp/result {",
            "hs100d: cloud: the cloud is stopped: wrong e-mail address or password",
            "the account for plugs that speak KLAP: with the password in [cloud]",
            "Hashes of the password are stored for plugs that speak KLAP",
            "Logged out: the token and the hashes of the password are deleted here",
            "argv ",
        ] {
            assert!(self.lines.iter().any(|line| line.contains(part)), "{part:?} was never said");
        }
    }
}

/// Every secret, in each escaped form that it could have in a line.
#[derive(Default)]
struct Secrets {
    all: BTreeSet<String>,
}

impl Secrets {
    /// The passwords, and every token that the account or the installation has so far.
    fn learn(&mut self, home: &SimHome, setup: &Setup) {
        self.add(ACCOUNT.1);
        self.add(USER.1);
        // Parts that no escaping changes.
        self.all.extend(["/{}$".to_owned(), "{qtt}".to_owned()]);
        for record in home.cloud().records() {
            if let Some((_, token)) = record.uri.split_once("token=") {
                self.add(token.split('&').next().unwrap());
            }
            let body: Value = serde_json::from_str(&record.body).unwrap_or_default();
            for name in ["token", "refreshToken"] {
                self.all.extend(body["params"][name].as_str().map(str::to_owned));
            }
        }
        let stored: Value = serde_json::from_str(&self.stored(setup)).unwrap();
        for name in ["token", "refresh_token"] {
            self.add(stored[name].as_str().unwrap());
        }
    }

    fn add(&mut self, secret: &str) {
        let in_json = json!(secret).to_string();
        let percent = secret.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        });
        self.all.extend([
            secret.to_owned(),
            in_json.trim_matches('"').to_owned(),
            secret.escape_debug().to_string(),
            secret.escape_default().to_string(),
            percent.collect(),
            format!("{:?}", secret.as_bytes()).trim_matches(['[', ']']).to_owned(),
        ]);
    }

    /// The same search finds the secrets in the files where they belong.
    fn prove_that_they_are_found(&self, setup: &Setup, home: &SimHome) {
        let records: String =
            home.cloud().records().iter().map(|record| record.uri.clone() + &record.body).collect();
        let config = fs::read_to_string(setup.config()).unwrap();
        let found = |text: &str| self.all.iter().filter(|secret| text.contains(*secret)).count();
        assert!(found(&records) >= 5, "passwords, tokens and a refresh token: {}", found(&records));
        assert!(found(&config) >= 1);
    }

    fn stored(&self, setup: &Setup) -> String {
        fs::read_to_string(setup.state_dir().join("cloud.token")).unwrap()
    }
}

#[tokio::test]
async fn what_is_kept_on_disk_is_for_one_user_and_the_password_is_not_kept() {
    use std::os::unix::fs::PermissionsExt;
    let home = home_of(&["Lamp"]).await;
    let scene = Scene::start(&Config::of(&home).without_search().plug("lamp", &home, 0)).await;
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "ok"}})).await;
    let state = scene.setup.state_dir();
    home.wait_until(BOUND, || state.join("cloud.token").exists()).await.unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    let login = scene.setup.run_with(&["cloud", "login", "--lan-only"], ACCOUNT.1).await;
    login.ok();
    for file in ["state.json", "cloud.token", "klap.hashes"] {
        let path = state.join(file);
        assert_eq!(mode(&path), 0o600, "{file}");
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("/{}$"), "{file}: {text}");
    }
}
