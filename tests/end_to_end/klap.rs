//! A plug whose firmware has changed from TCP 9999 to KLAP: found, named, served over the cloud, and served over the
//! LAN again as soon as it speaks the XOR protocol. The daemon runs in this process, because simulated plugs listen for
//! the discovery of KLAP at another port than 20002.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::net::{Ipv4Addr, SocketAddr};

use crate::support::e2e::{ACCOUNT, happens, home_options_of, json_of, sees};
use crate::support::mqtt::{Subscriber, within};
use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::config::{self, BrokerConfig, Config};
use hs100d::daemon::Daemon;
use hs100d::daemon::signals::SignalRequest;
use hs100d::secret::Secret;
use hs100d::sim::cloud::rule::Method;
use hs100d::sim::fault::Dialect;
use hs100d::sim::home::SimHome;
use hs100d::sim::lan::BROADCAST;
use hs100d::sim::model::Model;
use hs100d::sim::plug::SwitchedBy;
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
    async fn start(home: &SimHome) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, complaints) = Store::open(folder.path());
        assert_eq!(complaints, [""; 0]);
        let reread = Box::new(|_: &_| Err(config::Invalid { lines: vec![] }));
        let daemon = Daemon::start(config_of(home), store, folder.path().to_owned(), reread).await.unwrap();
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
        },
        poll_interval: std::time::Duration::from_secs(60),
    });
    config.bridge.cloud = true;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_that_speaks_only_klap_is_named_once_served_over_the_cloud_and_taken_back_when_it_may_be() {
    let mut home_options = home_options_of(&[]);
    home_options.plugs = vec![
        (Model::HS100_HW4, "Modern".to_owned()),
        (Model::HS100_HW4, "Both".to_owned()),
        (Model::HS100_HW1, "Old".to_owned()),
    ];
    let home = SimHome::start(home_options).await.unwrap();
    let modern = home.plug(0);
    modern.with(|plug| plug.dialect = Dialect::Klap);
    home.plug(1).with(|plug| plug.dialect = Dialect::Both);
    home.lan().settled(modern).await.unwrap();

    let served = Served::start(&home).await;
    let said = happens(&served.subscriber, json!({ "event": "unsupported" })).await;
    let detail = said["detail"].as_str().unwrap();
    let host = home.lan().address(modern).unwrap().ip();
    assert!(detail.contains(&format!("at {host}: it speaks KLAP, not TCP 9999")), "{said}");
    assert_eq!(said["plug"], "modern", "the account's row and what the LAN says are joined by the MAC");
    sees(&served.subscriber, "hs100d/modern/state", json!({ "route": "cloud" })).await;
    sees(&served.subscriber, "hs100d/modern/info", json!({ "protocol": "klap", "host": host.to_string() }))
        .await;
    for plug in ["both", "old"] {
        sees(&served.subscriber, &format!("hs100d/{plug}/state"), json!({ "route": "local" })).await;
    }
    served.subscriber.publish("hs100d/modern/set", r#"{"state":"ON","transaction":"first"}"#);
    let result = json_of(&served.subscriber.receives("hs100d/modern/result", "first").await);
    assert_eq!((&result["status"], &result["route"]), (&json!("ok"), &json!("cloud")), "{result}");
    assert_eq!(
        modern.switchings().iter().map(|switching| switching.by).collect::<Vec<_>>(),
        [SwitchedBy::Cloud]
    );

    // The user enables "Third-Party Compatibility" in the app.
    modern.with(|plug| plug.dialect = Dialect::Both);
    home.lan().settled(modern).await.unwrap();
    sees(&served.subscriber, "hs100d/modern/state", json!({ "route": "local" })).await;
    sees(&served.subscriber, "hs100d/modern/info", json!({ "protocol": "xor" })).await;
    served.subscriber.publish("hs100d/modern/set", r#"{"state":"OFF","transaction":"second"}"#);
    let result = json_of(&served.subscriber.receives("hs100d/modern/result", "second").await);
    assert_eq!((&result["status"], &result["route"]), (&json!("ok"), &json!("local")), "{result}");

    let named =
        served.subscriber.messages().iter().filter(|seen| seen.payload.contains("\"unsupported\"")).count();
    assert_eq!(named, 1, "however many rounds there were");
    assert_eq!(home.cloud().calls(Method::Login), 1);
    served.stop().await;
}
