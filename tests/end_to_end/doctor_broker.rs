//! `check --online` with brokers that do not work: mosquitto with users, ACLs and certificates where it is installed,
//! and small servers with one fault each.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::path::Path;

use crate::support::broker_proxy::{BrokerProxy, Trouble};
use crate::support::e2e::{Config, Setup};
use crate::support::mqtt::{self, Brand, TestBroker, free_port, has_mosquitto, retained};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData, SigningKey,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PASSWORD: &str = r#""'\/{}$ü "#;

/// A config without plugs and cloud, so that only the broker is checked.
fn config() -> Config {
    Config::default().without_search()
}

fn at(port: u16) -> Config {
    config().at_broker(port)
}

/// The report on the broker, as JSON.
async fn told(config: &Config) -> Value {
    let ended = Setup::new(config).run(&["check", "--online", "--json"]).await;
    assert!(!ended.out.contains("s3cret") && !ended.err.contains("s3cret"), "{ended:?}");
    let whole: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let broker = whole["online"]["subjects"][0].clone();
    assert_eq!(broker["subject"], "broker");
    assert_eq!(ended.code, if broker["ok"] == true { 0 } else { 69 }, "{ended:?}");
    let found = broker["found"].as_str().unwrap();
    let remedy = broker["remedy"].as_str().unwrap_or_default();
    assert!(remedy.is_empty() || !found.contains(remedy), "the remedy is there once: {broker}");
    broker
}

/// A listener that reads once from each client and answers with these bytes.
async fn answering(words: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(words).await;
                // Until the client disconnects.
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
            });
        }
    });
    port
}

#[tokio::test]
async fn each_way_in_which_a_broker_is_of_no_use_has_its_cause() {
    let broker = TestBroker::start(Brand::Embedded).await;
    let line = BrokerProxy::start(broker.port).await;
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
    // A CONNACK of MQTT 3.1.1 that refuses the protocol version.
    assert_eq!(told(&at(answering(b"\x20\x02\x00\x01").await)).await["cause"], "no-mqtt-5");
    assert_eq!(told(&at(answering(b"").await)).await["cause"], "broker-mute");
    assert_eq!(
        told(&at(answering(b"\x15\x03\x03\x00\x02\x02\x46").await)).await["cause"],
        "broker-speaks-tls"
    );
    assert_eq!(
        told(&at(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await)).await["cause"],
        "not-a-broker"
    );
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
    let other = TestBroker::start(Brand::Embedded).await;
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
    let broker = TestBroker::with_users(&["daemon"], PASSWORD, acl).await;
    let login =
        |password: &str| at(broker.port).set("mqtt", "username", "daemon").set("mqtt", "password", password);
    let right = told(&login(PASSWORD)).await;
    assert_eq!(
        (&right["ok"], &right["tries"][1]["came_back"]),
        (&json!(true), &json!("nothing: no daemon has used this broker"))
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
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let lines = "allow_anonymous true\ncertfile FOLDER/server.pem\nkeyfile FOLDER/server.key\n";
    let broker = TestBroker::mosquitto(
        lines,
        &[("server.pem", &certificate), ("server.key", &key), ("other.pem", &other)],
    )
    .await;
    let tls = |host: &str, file: &str| {
        let file = Path::new(broker.folder()).join(file).display().to_string();
        config().set("mqtt", "url", format!("mqtts://{host}:{}", broker.port)).set("mqtt", "ca_file", file)
    };
    assert_eq!(told(&tls("localhost", "server.pem")).await["ok"], true);
    assert_eq!(told(&tls("localhost", "other.pem")).await["cause"], "certificate-untrusted");
    assert_eq!(told(&tls("127.0.0.1", "server.pem")).await["cause"], "certificate-for-another-name");
    let plain = told(&at(broker.port)).await;
    assert!(plain["cause"] == "broker-speaks-tls" || plain["cause"] == "broker-mute", "{plain}");
    assert!(plain["remedy"].as_str().unwrap().contains("mqtts"), "{plain}");
}

#[tokio::test]
async fn a_broker_at_which_the_daemon_could_not_write_is_named_and_nothing_is_left_there() {
    if !has_mosquitto() {
        return;
    }
    let acl = |acl: &'static str| ("allow_anonymous true\nacl_file FOLDER/acl\n", [("acl", acl)]);
    for ((lines, files), cause, found) in [
        (acl("topic read #\n"), "write-denied", "hs100d/bridge/"),
        (acl("topic read #\ntopic write hs100d/#\n"), "write-denied", "homeassistant/device/"),
        (acl("topic readwrite hs100d/#\ntopic read #\n"), "write-denied", "homeassistant/device/"),
        (
            ("allow_anonymous true\nretain_available false\n", [("acl", "")]),
            "broker-unfit",
            "does not support retained messages",
        ),
        (("allow_anonymous true\nmax_qos 0\n", [("acl", "")]), "broker-unfit", "QoS 1"),
    ] {
        let broker = TestBroker::mosquitto(lines, &files).await;
        let broker = told(&at(broker.port)).await;
        assert_eq!(broker["cause"], cause, "{lines}{files:?} {broker}");
        assert!(broker["found"].as_str().unwrap().contains(found), "{lines}{files:?} {broker}");
    }
    let (lines, files) = acl("topic readwrite hs100d/#\ntopic read #\n");
    let broker = TestBroker::mosquitto(lines, &files).await;
    let without = at(broker.port).set("homeassistant", "discovery", "off");
    assert_eq!(told(&without).await["ok"], true, "where nothing is announced, nothing need be written");
    for brand in mqtt::brands() {
        let broker = TestBroker::start(brand).await;
        assert_eq!(told(&at(broker.port)).await["ok"], true);
        assert_eq!(retained(broker.port).await, [], "{brand:?}");
    }
}

/// DER: a type, the length in its shortest form, and the content.
fn der(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let [high, low] = u16::try_from(body.len()).unwrap().to_be_bytes();
    let head = match (high, low) {
        (0, ..0x80) => vec![kind, low],
        (0, _) => vec![kind, 0x81, low],
        _ => vec![kind, 0x82, high, low],
    };
    [head, body].concat()
}

/// A self-signed certificate of X.509 version 1, as `openssl x509 -req` makes it, and its key.
fn version_1() -> (String, String) {
    const SEQUENCE: u8 = 0x30;
    let key = KeyPair::generate().unwrap();
    let ecdsa_with_sha256 = der(SEQUENCE, &[b"\x06\x08\x2A\x86\x48\xCE\x3D\x04\x03\x02"]);
    let common_name = der(SEQUENCE, &[b"\x06\x03\x55\x04\x03", &der(0x0C, &[b"localhost"])]);
    let name = der(SEQUENCE, &[&der(0x31, &[&common_name])]);
    let validity = der(SEQUENCE, &[&der(0x17, &[b"200101000000Z"]), &der(0x17, &[b"490101000000Z"])]);
    let signed = der(
        SEQUENCE,
        &[&[2, 1, 7], &ecdsa_with_sha256, &name, &validity, &name, &key.subject_public_key_info()],
    );
    let signature = [&[0][..], &key.sign(&signed).unwrap()].concat();
    let certificate = der(SEQUENCE, &[&signed, &ecdsa_with_sha256, &der(3, &[&signature])]);
    (pem(&certificate), key.serialize_pem())
}

fn pem(certificate: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut lines = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in certificate.chunks(48) {
        for part in line.chunks(3) {
            let whole =
                part.iter().chain(&[0, 0]).take(3).fold(0, |whole, byte| whole << 8 | usize::from(*byte));
            let digit = |at: usize| if at <= part.len() { DIGITS[whole >> (18 - 6 * at) & 63] } else { b'=' };
            lines.extend((0..4).map(|at| char::from(digit(at))));
        }
        lines.push('\n');
    }
    lines + "-----END CERTIFICATE-----\n"
}

#[tokio::test]
async fn a_certificate_that_only_openssl_takes_is_told_in_plain_words_with_the_option_that_helps() {
    if !has_mosquitto() {
        return;
    }
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let params = |names: &[&str], is_ca: bool, years: [i32; 2]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "localhost");
        params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        [params.not_before, params.not_after] = years.map(|year| rcgen::date_time_ymd(year, 1, 1));
        params
    };
    let signed = |params: CertificateParams| {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &authority).unwrap().pem(), key.serialize_pem())
    };
    let own = |params: CertificateParams| {
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let now = [2020, 2049];
    for ((certificate, key), is_own, cause, helps) in [
        (version_1(), true, Some("certificate-version-1"), "openssl x509 -req"),
        (own(params(&["localhost"], true, now)), true, None, ""),
        (own(params(&["localhost"], false, now)), true, None, ""),
        // Without a CA, the certificate itself is in the list of trusted ones.
        (signed(params(&["localhost"], false, now)), true, None, ""),
        (own(params(&[], true, now)), true, Some("certificate-without-name"), "-addext"),
        (own(params(&["elsewhere"], true, now)), true, Some("certificate-for-another-name"), "mqtt.url"),
        (own(params(&["localhost"], true, [2020, 2021])), true, Some("certificate-expired"), "clock"),
        (signed(params(&["localhost"], true, now)), false, Some("certificate-of-an-authority"), "CA:FALSE"),
        (signed(params(&[], false, now)), false, Some("certificate-without-name"), "subjectAltName=DNS:"),
        (signed(params(&["localhost"], false, [2020, 2021])), false, Some("certificate-expired"), "clock"),
        (
            signed(params(&["localhost"], false, [2048, 2049])),
            false,
            Some("certificate-not-yet-valid"),
            "clock",
        ),
    ] {
        let authority = if is_own { certificate.clone() } else { authority.pem() };
        let broker = TestBroker::mosquitto(
            "allow_anonymous true\ncertfile FOLDER/server.pem\nkeyfile FOLDER/server.key\n",
            &[("server.pem", &certificate), ("server.key", &key), ("ca.pem", &authority)],
        )
        .await;
        let file = Path::new(broker.folder()).join("ca.pem").display().to_string();
        let config = config()
            .set("mqtt", "url", format!("mqtts://localhost:{}", broker.port))
            .set("mqtt", "ca_file", file);
        let broker = told(&config).await;
        assert_eq!(broker["cause"].as_str(), cause, "{broker}");
        let remedy = broker["remedy"].as_str().unwrap_or_default();
        assert!(remedy.contains(helps), "{broker}");
        assert_eq!(remedy.contains("clock"), helps == "clock", "{broker}");
    }
}
