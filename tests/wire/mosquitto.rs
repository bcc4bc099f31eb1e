//! Tests that need a broker with users, ACLs and certificates: with mosquitto only.

#![cfg(feature = "broker")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

use std::path::PathBuf;

use crate::support::mqtt::*;
use hs100d::bridge::event::{Notice, NoticeKind, Update};
use hs100d::model::PlugCommand;
use hs100d::mqtt::{self, LoginInquiry, LoginSource, MqttSettings, TlsOptions};
use hs100d::secret::{RefusedLogins, Secret};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::sync::mpsc;

const PASSWORD: &str = r#""'\/{}$ü "#;

/// The users `daemon` and `guest` with one password.
async fn broker_with_users(acl: &str) -> TestBroker {
    TestBroker::with_users(&["daemon", "guest"], PASSWORD, acl).await
}

fn with_login(port: u16, user: &str, password: &str) -> MqttSettings {
    MqttSettings {
        username: Some(user.to_owned()),
        password: Some(Secret::new(password.to_owned())),
        ..options(port)
    }
}

const ALL_RIGHTS: &str = "user daemon\ntopic readwrite #\nuser guest\ntopic readwrite #\n";

#[tokio::test]
async fn any_password_logs_in_and_a_wrong_one_is_said_once_with_the_remedy() {
    if !has_mosquitto() {
        return;
    }
    let broker = broker_with_users(ALL_RIGHTS).await;
    Daemon::start(with_login(broker.port, "daemon", PASSWORD)).connects().await;
    mqtt::probe(with_login(broker.port, "daemon", PASSWORD), BOUND).await.unwrap();

    for options in [with_login(broker.port, "daemon", "s3cret-wrong"), options(broker.port)] {
        let complaint = Daemon::start(options.clone()).complains().await;
        assert!(
            complaint.contains("refuses the login: check mqtt.username and mqtt.password"),
            "{complaint}"
        );
        assert!(!complaint.contains("s3cret"), "{complaint}");
        // Without a last will, the login must be the reason.
        let probed = mqtt::probe(options, BOUND).await.unwrap_err().text;
        assert_eq!(complaint.split("; if they are right").next(), Some(probed.as_str()));
    }
}

/// Mosquitto's own plugin for ACLs that can refuse subscriptions; distributions install it in different places.
fn security_plugin() -> Option<PathBuf> {
    let name = "mosquitto_dynamic_security.so";
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let found = folders
        .chain([PathBuf::from("/usr/lib")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        println!("skipped: no {name} below /usr/lib");
    }
    found
}

#[tokio::test]
async fn a_denied_subscription_is_said_and_states_are_shown_all_the_same() {
    if !has_mosquitto() {
        return;
    }
    let Some(plugin) = security_plugin() else { return };
    // Every client may publish, and subscribe to `#` and to requests only.
    let rights = r##"{
        "defaultACLAccess":
            {"publishClientSend": true, "publishClientReceive": true, "subscribe": false, "unsubscribe": true},
        "anonymousGroup": "all",
        "groups": [{"groupname": "all", "roles": [{"rolename": "listener"}]}],
        "roles": [{"rolename": "listener", "acls": [
            {"acltype": "subscribeLiteral", "topic": "#", "allow": true},
            {"acltype": "subscribeLiteral", "topic": "home/hs100d/bridge/request/+", "allow": true}
        ]}],
        "clients": []
    }"##;
    let lines = format!(
        "allow_anonymous true\nplugin {}\nplugin_opt_config_file FOLDER/rights.json\n",
        plugin.display()
    );
    let broker = TestBroker::mosquitto(&lines, &[("rights.json", rights)]).await;
    let subscriber = Subscriber::connect(broker.port).await;
    let mut daemon = Daemon::start(options(broker.port));
    daemon.show_plug("kettle");
    let complaint = daemon.complains().await;
    assert!(complaint.contains("refuses our subscription to home/hs100d/+/set, "), "{complaint}");
    assert!(!complaint.contains("bridge/request"), "{complaint}");
    subscriber.receives("home/hs100d/kettle/state", "ON").await;
    let error = mqtt::probe(options(broker.port), BOUND).await.unwrap_err();
    assert!(error.text.contains("refuses our subscription"), "{error}");
}

#[tokio::test]
async fn a_denied_publish_does_not_cost_the_connection() {
    if !has_mosquitto() {
        return;
    }
    let acl = "user daemon\ntopic read #\ntopic write home/hs100d/#\nuser guest\ntopic readwrite #\n";
    let broker = broker_with_users(acl).await;
    let mut daemon = Daemon::start(with_login(broker.port, "daemon", PASSWORD));
    daemon.connects().await;
    daemon.show_plug("kettle");
    let subscriber = Subscriber::subscribe_to(broker.port, "#", Some(("guest", PASSWORD))).await;
    subscriber.receives("home/hs100d/kettle/info", "HS100").await;
    subscriber.publish("home/hs100d/kettle/get", "");
    assert_eq!(daemon.hears_command().await.2, PlugCommand::Read);
    within("the end", daemon.link.stop(BOUND)).await;
}

#[tokio::test]
async fn a_message_that_is_too_large_for_mosquitto_leaves_the_plug_its_commands() {
    if !has_mosquitto() {
        return;
    }
    // Mosquitto refuses larger messages with a reason code that MQTT 5 does not have for a PUBACK.
    let broker = TestBroker::mosquitto("allow_anonymous true\nmessage_size_limit 300\n", &[]).await;
    let mut daemon = Daemon::connected(broker.port).await;
    daemon.show_plug("kettle");
    daemon.publish(Update::Ready);
    let subscriber = Subscriber::connect(broker.port).await;
    subscriber.receives("home/hs100d/bridge/state", "online").await;
    for _ in 0..5 {
        daemon.publish(Update::Notice(Notice {
            kind: NoticeKind::PlugFound,
            plug: None,
            route: None,
            detail: "x".repeat(400),
        }));
        subscriber.clear();
        subscriber.publish("home/hs100d/kettle/get", "");
        let (id, plug, order) = daemon.hears_command().await;
        assert_eq!(order, PlugCommand::Read);
        daemon.answer(id, &plug);
        subscriber.receives("home/hs100d/kettle/result", "ok").await;
    }
    assert!(daemon.inbound.try_recv().is_err(), "the connection is complained of");
    assert!(!subscriber.messages().iter().any(|seen| seen.topic == "home/hs100d/bridge/event"));
    within("the end", daemon.link.stop(BOUND)).await;
}

/// A broker with TLS that requests a client certificate, and a folder with all files for both sides.
struct Certificates {
    folder: tempfile::TempDir,
    broker: TestBroker,
}

impl Certificates {
    async fn start() -> Self {
        let authority = authority("hs100d test authority");
        let (server, server_key) = certificate(&authority, "localhost", ExtendedKeyUsagePurpose::ServerAuth);
        let (client, client_key) = certificate(&authority, "daemon", ExtendedKeyUsagePurpose::ClientAuth);
        let folder = tempfile::tempdir().unwrap();
        let other = CertifiedIssuer::pem(&self::authority("somebody else"));
        for (name, text) in [
            ("ca.pem", authority.pem()),
            ("client.pem", client),
            ("client.key", client_key),
            ("other.pem", other),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let lines = "allow_anonymous true\ncafile FOLDER/ca.pem\ncertfile FOLDER/server.pem\n\
             keyfile FOLDER/server.key\nrequire_certificate true\n";
        let files = [("ca.pem", authority.pem()), ("server.pem", server), ("server.key", server_key)];
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        Self { folder, broker: TestBroker::mosquitto(lines, &files).await }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self, host: &str, ca: Option<&str>, with_client: bool) -> MqttSettings {
        let client = with_client.then(|| (self.file("client.pem"), self.file("client.key")));
        let tls = TlsOptions { ca_file: ca.map(|name| self.file(name)), client };
        MqttSettings { host: host.to_owned(), tls: Some(tls), ..options(self.broker.port) }
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn certificate(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    usage: ExtendedKeyUsagePurpose,
) -> (String, String) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages.push(usage);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn tls_with_an_own_authority_and_a_client_certificate_connects() {
    if !has_mosquitto() {
        return;
    }
    let certificates = Certificates::start().await;
    Daemon::start(certificates.options("localhost", Some("ca.pem"), true)).connects().await;
}

#[tokio::test]
async fn each_way_in_which_tls_fails_has_its_own_remedy() {
    if !has_mosquitto() {
        return;
    }
    let certificates = Certificates::start().await;
    let missing = certificates.file("missing.pem").display().to_string();
    for (options, hint) in [
        (certificates.options("localhost", Some("other.pem"), true), "set mqtt.ca_file"),
        (certificates.options("127.0.0.1", Some("ca.pem"), true), "certificate is for another name"),
        (certificates.options("localhost", Some("ca.pem"), false), "mqtt.client_cert_file"),
        (certificates.options("localhost", Some("missing.pem"), true), missing.as_str()),
        (certificates.options("localhost", None, true), "mqtt.ca_file"),
    ] {
        let complaint = Daemon::start(options).complains().await;
        assert!(complaint.contains(hint), "{hint}: {complaint}");
    }
    // No TLS at a port with TLS, and TLS at a port without.
    let complaint = Daemon::start(options(certificates.broker.port)).complains().await;
    assert!(complaint.contains("mqtts"), "{complaint}");
    let plain = TestBroker::start(Brand::Mosquitto).await;
    let options =
        MqttSettings { port: plain.port, ..certificates.options("localhost", Some("ca.pem"), true) };
    let complaint = Daemon::start(options).complains().await;
    assert!(complaint.contains("mqtts"), "{complaint}");
}

#[tokio::test]
async fn a_refused_login_is_reported_after_the_question_for_another_one_and_at_once_if_that_does_not_come() {
    if !has_mosquitto() {
        return;
    }
    let broker = broker_with_users(ALL_RIGHTS).await;
    let refused = |source| {
        let options = with_login(broker.port, "daemon", "s3cret-wrong");
        Daemon::start_with(source, RefusedLogins::default(), options)
    };
    let next = async |inquiries: &mut mpsc::Receiver<LoginInquiry>| {
        let inquiry = within("an inquiry", inquiries.recv()).await.unwrap();
        assert_eq!(inquiry.username.as_deref(), Some("daemon"));
        assert_eq!(inquiry.password.as_ref().unwrap().expose(), "s3cret-wrong");
        inquiry
    };

    let (source, mut inquiries) = LoginSource::channel();
    let mut daemon = refused(source);
    let inquiry = next(&mut inquiries).await;
    assert!(daemon.inbound.try_recv().is_err(), "nothing is reported before the answer");
    inquiry.answer(false);
    daemon.complains().await;
    // At the next refusal it is asked again.
    next(&mut inquiries).await.answer(false);

    let (source, mut inquiries) = LoginSource::channel();
    let mut daemon = refused(source);
    next(&mut inquiries).await.answer(true);
    daemon.complains().await;
    assert!(inquiries.try_recv().is_err(), "the one that was promised did not come: no further question");

    let (source, mut inquiries) = LoginSource::channel();
    let daemon = refused(source);
    let inquiry = next(&mut inquiries).await;
    // A link that waits for the answer can be stopped.
    within("the end", daemon.link.stop(BOUND)).await;
    drop(inquiry);
}
