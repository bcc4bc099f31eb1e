//! `check --online` before brokers that are of no use: mosquitto with users, rights and certificates where it is
//! installed, and small ones that do one thing wrong.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod broker_line;
mod e2e_kit;
mod mqtt_kit;

use std::path::Path;

use broker_line::{BrokerLine, Trouble};
use e2e_kit::{Config, Home};
use mqtt_kit::{Brand, House, free_port, has_mosquitto};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PASSWORD: &str = r#""'\/{}$ü "#;

/// A config with no plugs and no cloud, so that the broker is all that is tried.
fn config() -> Config {
    Config::default().without_search()
}

fn at(port: u16) -> Config {
    config().at_broker(port)
}

/// What is told of the broker, and with which code it ended.
async fn told(config: &Config) -> Value {
    let ended = Home::new(config).run(&["check", "--online", "--json"]).await;
    assert!(!ended.out.contains("s3cret") && !ended.err.contains("s3cret"), "{ended:?}");
    let whole: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let broker = whole["online"]["subjects"][0].clone();
    assert_eq!(broker["subject"], "broker");
    assert_eq!(ended.code, if broker["ok"] == true { 0 } else { 69 }, "{ended:?}");
    let found = broker["found"].as_str().unwrap();
    let remedy = broker["remedy"].as_str().unwrap_or_default();
    assert!(remedy.is_empty() || !found.contains(remedy), "the remedy is told once: {broker}");
    broker
}

/// A listener whose clients are read once and answered with this.
async fn answering(words: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(words).await;
                // Until the client goes.
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
            });
        }
    });
    port
}

#[tokio::test]
async fn each_way_in_which_a_broker_is_of_no_use_has_its_cause() {
    let broker = House::start(Brand::Embedded).await;
    let line = BrokerLine::start(broker.port).await;
    assert_eq!(told(&at(line.port())).await["ok"], true);
    for (trouble, cause) in [
        (Trouble::Denies, "subscription-denied"),
        (Trouble::Refuses(0x84), "no-mqtt-5"),
        (Trouble::Refuses(0x85), "client-id-refused"),
        (Trouble::Refuses(0x86), "login-refused"),
        (Trouble::Refuses(0x87), "login-refused"),
        (Trouble::Refuses(0x89), "broker-busy"),
        (Trouble::Refuses(0x8A), "banned"),
        (Trouble::Refuses(0x9A), "broker-unfit"),
    ] {
        line.set(trouble);
        assert_eq!(told(&at(line.port())).await["cause"], cause, "{trouble:?}");
    }
    assert_eq!(told(&at(free_port())).await["cause"], "broker-refuses");
    let nowhere = config().set("mqtt", "url", "mqtt://no.such.host.invalid");
    assert_eq!(told(&nowhere).await["cause"], "broker-name-unresolved");
    // A CONNACK as brokers of the version before send it, which refuses the protocol.
    assert_eq!(told(&at(answering(b"\x20\x02\x00\x01").await)).await["cause"], "no-mqtt-5");
    assert_eq!(told(&at(answering(b"").await)).await["cause"], "broker-mute");
    let tls = |port: u16| config().set("mqtt", "url", format!("mqtts://localhost:{port}"));
    let plain = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let authority = tempfile::tempdir().unwrap();
    let file = authority.path().join("ca.pem");
    std::fs::write(&file, rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap().cert.pem()).unwrap();
    let plain = tls(plain).set("mqtt", "ca_file", file.display().to_string());
    assert_eq!(told(&plain).await["cause"], "broker-speaks-no-tls");
}

#[tokio::test]
async fn the_embedded_brokers_port_may_be_taken_by_somebody_else() {
    let other = House::start(Brand::Embedded).await;
    let taken = config().set("broker", "listen", format!("127.0.0.1:{}", other.port));
    let broker = told(&taken).await;
    assert_eq!(broker["cause"], "port-taken");
    assert!(broker["remedy"].as_str().unwrap().contains("set mqtt.url"), "{broker}");
    let free = config().set("broker", "listen", format!("127.0.0.1:{}", free_port()));
    assert_eq!(told(&free).await["tries"][0]["came_back"], "possible");
}

#[tokio::test]
async fn a_login_that_mosquitto_refuses_is_told_without_the_password() {
    if !has_mosquitto() {
        return;
    }
    let acl = "user daemon\ntopic readwrite #\n";
    let house = House::with_users(&["daemon"], PASSWORD, acl).await;
    let login =
        |password: &str| at(house.port).set("mqtt", "username", "daemon").set("mqtt", "password", password);
    let right = told(&login(PASSWORD)).await;
    assert_eq!(
        (&right["ok"], &right["tries"][1]["came_back"]),
        (&json!(true), &json!("nothing: no daemon has been at this broker"))
    );
    let wrong = told(&login("s3cret-wrong")).await;
    assert_eq!(
        (wrong["cause"].as_str(), wrong["remedy"].as_str()),
        (Some("login-refused"), Some("check mqtt.username and mqtt.password"))
    );
}

#[tokio::test]
async fn each_way_in_which_mosquittos_tls_fails_has_its_cause() {
    if !has_mosquitto() {
        return;
    }
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let lines = "allow_anonymous true\ncertfile FOLDER/server.pem\nkeyfile FOLDER/server.key\n";
    let house = House::mosquitto(
        lines,
        &[("server.pem", &certificate), ("server.key", &key), ("stranger.pem", &stranger)],
    )
    .await;
    let tls = |host: &str, file: &str| {
        let file = Path::new(house.folder()).join(file).display().to_string();
        config().set("mqtt", "url", format!("mqtts://{host}:{}", house.port)).set("mqtt", "ca_file", file)
    };
    assert_eq!(told(&tls("localhost", "server.pem")).await["ok"], true);
    assert_eq!(told(&tls("localhost", "stranger.pem")).await["cause"], "certificate-untrusted");
    assert_eq!(told(&tls("127.0.0.1", "server.pem")).await["cause"], "certificate-for-another-name");
    let plain = told(&at(house.port)).await["cause"].clone();
    assert!(plain == "broker-mute" || plain == "broker-hung-up", "{plain}");
}
