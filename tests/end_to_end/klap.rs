//! Plugs that speak KLAP, with the daemon: they appear by themselves, are served over the LAN, and may change their protocol
//! while commands flow. The daemon runs in this process, because simulated plugs answer the discovery of KLAP at a port of
//! their own.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::net::{Ipv4Addr, SocketAddr};

use crate::support::e2e::{ACCOUNT, happens, home_options_of, json_of, sees};
use crate::support::mqtt::{Subscriber, within};
use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::config::{self, BrokerConfig, Config};
use hs100d::daemon::Daemon;
use hs100d::daemon::signals::SignalRequest;
use hs100d::mqtt::LoginSource;
use hs100d::secret::Secret;
use hs100d::sim::fault::Dialect;
use hs100d::sim::home::SimHome;
use hs100d::sim::lan::BROADCAST;
use hs100d::sim::model::Model;
use hs100d::sim::plug::SwitchedBy;
use hs100d::sim::plug::klap::HeldAccount;
use hs100d::store::Store;
use hs100d::transport::cloud;
use hs100d::transport::discovery;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A daemon in this process, and a client at its broker.
struct Served {
    subscriber: Subscriber,
    requests: mpsc::Sender<SignalRequest>,
    task: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Served {
    async fn start(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, complaints) = Store::open(folder.path());
        assert_eq!(complaints, [""; 0]);
        let reread = Box::new(|_: &_| Err(config::Invalid::of_lines(vec![])));
        let daemon = Daemon::start(config, store, folder.path().to_owned(), reread, LoginSource::default())
            .await
            .unwrap();
        let port = daemon.broker_address().unwrap().port();
        let subscriber = Subscriber::connect(port).await;
        let (requests, asked) = mpsc::channel(1);
        Self { subscriber, requests, task: tokio::spawn(daemon.run(asked)), _folder: folder }
    }

    async fn stop(self) {
        self.requests.send(SignalRequest::Stop).await.unwrap();
        within("the daemon's end", self.task).await.unwrap();
    }
}

fn config_of(home: &SimHome) -> Config {
    let mut config = Config::load(&ConfigPath::Nowhere, &Environment::default()).unwrap();
    config.broker =
        BrokerConfig::Embedded { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), users: Vec::new() };
    config.discovery = Some(discovery::DiscoveryOptions {
        broadcast: vec![BROADCAST],
        tdp_ports: vec![home.lan().tdp_port()],
        interval: std::time::Duration::from_secs(1),
        port: home.lan().port(),
    });
    config.cloud = Some(config::CloudConfig {
        options: cloud::CloudOptions {
            username: ACCOUNT.0.to_owned(),
            password: Some(Secret::new(ACCOUNT.1.to_owned())),
            url: home.cloud().url(),
            app: cloud::request::AppIdentity::default(),
            keys: None,
            ca_file: None,
        },
        poll_interval: std::time::Duration::from_secs(60),
    });
    config.lan_account = Some(config::LanAccount {
        username: ACCOUNT.0.to_owned(),
        password: Some(Secret::new(ACCOUNT.1.to_owned())),
        table: config::LanAccount::CLOUD,
        is_of_cloud: true,
    });
    config.bridge.cloud = true;
    config
}

/// Sends a command that is carried out over the LAN.
async fn switch(served: &Served, state: &str, transaction: &str) {
    let payload = json!({ "state": state, "transaction": transaction }).to_string();
    served.subscriber.publish("hs100d/modern/set", payload);
    let result = json_of(&served.subscriber.receives("hs100d/modern/result", transaction).await);
    assert_eq!((&result["status"], &result["route"]), (&json!("ok"), &json!("local")), "{result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugs_that_speak_klap_appear_and_change_their_protocol_while_commands_flow() {
    let mut home_options = home_options_of(&[]);
    home_options.plugs = vec![
        (Model::HS100_HW4, "Modern".to_owned()),
        (Model::HS100_HW4, "Both".to_owned()),
        (Model::HS100_HW1, "Old".to_owned()),
    ];
    let home = SimHome::start(home_options).await.unwrap();
    let modern = home.plug(0);
    home.lan().set_dialect(modern, Dialect::Klap).await.unwrap();
    home.lan().set_dialect(home.plug(1), Dialect::Both).await.unwrap();

    let mut config = config_of(&home);
    (config.cloud, config.bridge.cloud) = (None, false);
    let served = Served::start(config).await;
    for plug in ["modern", "both", "old"] {
        sees(&served.subscriber, &format!("hs100d/{plug}/state"), json!({ "route": "local" })).await;
    }
    let host = home.lan().address(modern).unwrap().ip().to_string();
    sees(&served.subscriber, "hs100d/modern/info", json!({ "protocol": "klap", "host": host })).await;
    switch(&served, "ON", "first").await;

    // The switch in the Kasa app is moved.
    home.lan().set_dialect(modern, Dialect::Xor).await.unwrap();
    switch(&served, "TOGGLE", "second").await;
    happens(&served.subscriber, json!({ "event": "protocol_changed", "detail": "klap -> xor" })).await;
    sees(&served.subscriber, "hs100d/modern/info", json!({ "protocol": "xor", "host": host })).await;
    home.lan().set_dialect(modern, Dialect::Klap).await.unwrap();
    switch(&served, "TOGGLE", "third").await;
    happens(&served.subscriber, json!({ "event": "protocol_changed", "detail": "xor -> klap" })).await;
    sees(&served.subscriber, "hs100d/modern/info", json!({ "protocol": "klap", "host": host })).await;

    let by: Vec<_> = modern.switchings().iter().map(|switching| switching.by).collect();
    assert_eq!(by, [SwitchedBy::Klap, SwitchedBy::Lan, SwitchedBy::Klap], "none is lost and none is doubled");
    let events = served.subscriber.messages();
    let count = |word: &str| events.iter().filter(|seen| seen.payload.contains(word)).count();
    assert_eq!((count("\"unsupported\""), count("\"address_changed\""), count("\"plug_gone\"")), (0, 0, 0));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_that_holds_another_account_is_reported_once_and_served_over_the_cloud() {
    let mut home_options = home_options_of(&[]);
    home_options.plugs = vec![(Model::HS100_HW4, "Modern".to_owned())];
    let home = SimHome::start(home_options).await.unwrap();
    let modern = home.plug(0);
    modern.with(|plug| plug.klap.account = HeldAccount::new("someone@example.com", "else"));
    home.lan().set_dialect(modern, Dialect::Klap).await.unwrap();

    let served = Served::start(config_of(&home)).await;
    let said = happens(&served.subscriber, json!({ "event": "unsupported" })).await;
    let detail = said["detail"].as_str().unwrap();
    assert!(detail.contains("the plug holds another account") && detail.contains("Me > Account"), "{said}");
    sees(&served.subscriber, "hs100d/modern/state", json!({ "route": "cloud" })).await;
    served.subscriber.publish("hs100d/modern/set", r#"{"state":"ON","transaction":"first"}"#);
    let result = json_of(&served.subscriber.receives("hs100d/modern/result", "first").await);
    assert_eq!((&result["status"], &result["route"]), (&json!("ok"), &json!("cloud")), "{result}");
    assert_eq!(
        modern.switchings().iter().map(|switching| switching.by).collect::<Vec<_>>(),
        [SwitchedBy::Cloud]
    );
    let named =
        served.subscriber.messages().iter().filter(|seen| seen.payload.contains("\"unsupported\"")).count();
    assert_eq!(named, 1);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_that_asks_for_an_account_where_none_is_known_is_reported_with_each_way_to_give_one() {
    let mut home_options = home_options_of(&[]);
    home_options.plugs = vec![(Model::HS100_HW4, "Modern".to_owned())];
    home_options.klap = vec![0];
    let home = SimHome::start(home_options).await.unwrap();
    let mut config = config_of(&home);
    (config.cloud, config.bridge.cloud, config.lan_account) = (None, false, None);
    let served = Served::start(config).await;
    let said = happens(&served.subscriber, json!({ "event": "unsupported" })).await;
    let detail = said["detail"].as_str().unwrap();
    for words in
        ["asks for its account", "[cloud] username", "`hs100d cloud login --lan-only`", "[local] username"]
    {
        assert!(detail.contains(words), "{words}: {said}");
    }
    served.stop().await;
}
