//! Plugs that speak KLAP at their real ports, and the real daemon with the few lines of a newcomer: it finds the plugs by its
//! own broadcasts and serves them over the LAN, with an account at the cloud and without one.
//!
//! Each test runs in a network namespace, where the ports are free and nothing of the machine's own network is. Where
//! namespaces are not allowed, the tests say so and pass.

#![cfg(all(feature = "sim", feature = "broker", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod support;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::e2e::{ACCOUNT, Config, Scene, Setup, holds, sees};
use crate::support::namespace::{ip, play_apart, role};
use hs100d::sim::cloud::SimCloud;
use hs100d::sim::cloud::account::SimAccount;
use hs100d::sim::fault::Dialect;
use hs100d::sim::handle::PlugHandle;
use hs100d::sim::lan::{LanPorts, SimLan};
use hs100d::sim::model::{Model, SimKlapVersion};
use hs100d::sim::notify::ChangeNotifier;
use hs100d::sim::plug::klap::HeldAccount;
use hs100d::sim::plug::{SimPlug, SwitchedBy};
use serde_json::json;

/// Each test takes some seconds.
const BOUND: Duration = Duration::from_secs(120);
/// The real ports of plugs.
const PORTS: LanPorts = LanPorts { xor: 9999, tdp: 20002, klap: 80 };
const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 255);
/// The topic of each plug, its model, and its version of KLAP.
const PLUGS: [(&str, Model, SimKlapVersion); 3] = [
    ("kettle", Model::HS100_HW4, SimKlapVersion::V1),
    ("lamp", Model::KP115, SimKlapVersion::V2),
    ("desk", Model::KP303, SimKlapVersion::V2),
];

/// A network with three plugs of the account that speak only KLAP.
struct Network {
    notifier: ChangeNotifier,
    plugs: Vec<PlugHandle>,
    _lan: SimLan,
}

impl Network {
    async fn make() -> Self {
        let foreign =
            if_addrs::get_if_addrs().unwrap().into_iter().filter(|interface| !interface.is_loopback());
        assert_eq!(foreign.count(), 0, "this is not an empty namespace");
        ip("link set lo up");
        // A cable with nothing at its other end. The plugs receive what is sent into it, for they are on this machine.
        ip("link add lan type veth peer name end");
        ip("address add 10.77.3.1/24 brd + dev lan");
        ip("link set lan up");
        ip("link set end up");
        let notifier = ChangeNotifier::new();
        let lan = SimLan::start_in_namespace(BROADCAST, PORTS, notifier.clone()).await.unwrap();
        let mut plugs = Vec::new();
        for (number, (name, model, version)) in (1..).zip(PLUGS) {
            let mut plug = SimPlug::new(model, number, name, Instant::now());
            plug.dialect = Dialect::Klap;
            plug.klap.version = version;
            plug.klap.account = HeldAccount::new(ACCOUNT.0, ACCOUNT.1);
            let plug = PlugHandle::new(plug, notifier.clone());
            ip(&format!("address add {}/32 dev lo", host(number)));
            lan.plug_in(&plug, (host(number), PORTS.xor).into()).await.unwrap();
            plugs.push(plug);
        }
        Self { notifier, plugs, _lan: lan }
    }
}

fn host(number: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 3, 10 + number as u8)
}

/// Waits until all plugs are served over KLAP, and switches each on and off.
async fn all_are_served(scene: &Scene, network: &Network) {
    for (number, (name, _, _)) in (1..).zip(PLUGS) {
        let info = json!({ "protocol": "klap", "host": host(number).to_string() });
        sees(&scene.subscriber, &format!("hs100d/{name}/info"), info).await;
        scene.shows(name, json!({ "route": "local" })).await;
        for state in ["ON", "OFF"] {
            let result = scene.command(name, json!({ "state": state })).await;
            assert!(holds(&result, &json!({ "status": "ok", "state": state, "route": "local" })), "{result}");
        }
    }
    for plug in &network.plugs {
        let switchings = plug.switchings();
        assert!(!switchings.is_empty() && switchings.iter().all(|it| it.by == SwitchedBy::Klap));
    }
    scene.daemon.signal("USR1");
    for (name, _, _) in PLUGS {
        let line = format!("figures plug={name} availability=online route=local protocol=klap");
        scene.daemon.says(&line).await;
    }
}

#[test]
fn a_newcomer_with_an_account_sees_his_klap_plugs_served_over_the_lan() {
    play_apart("with_an_account", "account", BOUND);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by a_newcomer_with_an_account_sees_his_klap_plugs_served_over_the_lan"]
async fn with_an_account() {
    if role().as_deref() != Some("account") {
        return;
    }
    let network = Network::make().await;
    let at = (Ipv4Addr::new(127, 0, 0, 2), 0).into();
    let account = SimAccount::new(ACCOUNT.0, ACCOUNT.1);
    let cloud = SimCloud::start(account, &[at, at], network.notifier.clone()).await.unwrap();
    network.plugs.iter().for_each(|plug| cloud.add(plug));

    // Everything else is a default: the broker is the embedded one.
    let config = Config::default().set("cloud", "username", ACCOUNT.0).set("cloud", "password", ACCOUNT.1);
    let scene = Scene::start(&config.set("cloud", "url", cloud.url())).await;
    all_are_served(&scene, &network).await;
    let online = json!({ "plugs": 3, "online": 3, "cloud": { "status": "ok" } });
    sees(&scene.subscriber, "hs100d/bridge/info", online).await;
    for ((name, _, _), plug) in PLUGS.iter().zip(&network.plugs) {
        let topic = format!("homeassistant/device/hs100d_{}/config", plug.device_id());
        scene.subscriber.receives(&topic, &format!("hs100d/{name}/state")).await;
    }
    let events = scene.subscriber.messages();
    let problem = events.iter().find(|seen| seen.payload.contains("\"unsupported\""));
    assert!(problem.is_none(), "{problem:?}");
}

#[test]
fn without_a_cloud_klap_plugs_are_served_with_an_account_for_the_lan_alone() {
    play_apart("without_a_cloud", "no cloud", BOUND);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by without_a_cloud_klap_plugs_are_served_with_an_account_for_the_lan_alone"]
async fn without_a_cloud() {
    if role().as_deref() != Some("no cloud") {
        return;
    }
    let network = Network::make().await;
    let named = Config::default().set("local", "username", ACCOUNT.0);
    let setup = Setup::new(&named.clone().set("local", "password", ACCOUNT.1));
    let scene = Scene::at(setup).await;
    all_are_served(&scene, &network).await;
    sees(&scene.subscriber, "hs100d/bridge/info", json!({ "cloud": { "status": "off" } })).await;

    // The password leaves the config: the hashes of a login are enough, and stay enough over restarts.
    let Scene { setup, mut daemon, .. } = scene;
    daemon.stop().await;
    setup.write(&named.text());
    setup.run_with(&["cloud", "login", "--lan-only"], ACCOUNT.1).await.ok();
    let mut scene = Scene::at(setup).await;
    for config in [Config::default(), named] {
        all_are_served(&scene, &network).await;
        let Scene { setup, mut daemon, .. } = scene;
        daemon.stop().await;
        setup.write(&config.text());
        assert!(!holds_password(&setup), "the password is in a file");
        scene = Scene::at(setup).await;
    }
    all_are_served(&scene, &network).await;
    let account = "the account for plugs that speak KLAP: with the hashes of an earlier login";
    scene.daemon.says(account).await;
}

/// Whether a file of the installation holds the password, as written or in JSON.
fn holds_password(setup: &Setup) -> bool {
    let files = std::fs::read_dir(setup.state_dir()).unwrap().map(|entry| entry.unwrap().path());
    let in_json = json!(ACCOUNT.1).to_string();
    files.chain([setup.config()]).filter(|path| path.is_file()).any(|path| {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        [ACCOUNT.1, &in_json].iter().any(|password| text.contains(password))
    })
}
