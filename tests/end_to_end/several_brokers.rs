//! The real daemon with a list of brokers, and with a broker whose name has several addresses.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;

use crate::support::broker_proxy::BrokerProxy;
use crate::support::e2e::{Config, Setup, home_of, json_of, mounts, sees};
use crate::support::mqtt::{Brand, Subscriber, TestBroker, brands, free_port, until_retained};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Puts a file of its own in place of `/etc/hosts`, then executes the rest.
const WITH_HOSTS: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;

#[tokio::test]
async fn the_daemon_goes_on_at_the_next_broker_and_everybody_can_see_where_it_is() {
    let home = home_of(&["Lamp"]).await;
    let brand = brands().pop().unwrap();
    let mut brokers = [TestBroker::start(brand).await, TestBroker::start(brand).await];
    let mut proxies = [
        BrokerProxy::start_at(free_port(), brokers[0].port).await,
        BrokerProxy::start_at(free_port(), brokers[1].port).await,
    ];
    let url = proxies.each_ref().map(|proxy| format!("mqtt://127.0.0.1:{}", proxy.port()));
    let config = Config::of(&home).without("cloud").without("broker").set("mqtt", "url", json!(url));
    let setup = Setup::new(&config);
    let daemon = setup.daemon();
    if daemon.is_connected().await != proxies[0].port() {
        brokers.reverse();
        proxies.reverse();
    }
    let [own, other] = proxies.each_ref().map(|proxy| format!("127.0.0.1:{}", proxy.port()));
    until_retained(brokers[0].port, "the lamp", |all| {
        all.iter().any(|seen| seen.topic == "hs100d/lamp/state")
    })
    .await;

    let plan: Value = setup.run(&["check", "--json"]).await.json();
    let planned: Vec<_> =
        plan["brokers"].as_array().unwrap().iter().map(|broker| broker["port"].clone()).collect();
    assert_eq!(planned, [proxies[0].port(), proxies[1].port()], "in the order in which they are tried");

    proxies[0].kick(0x8B);
    proxies[0] = BrokerProxy::start(brokers[0].port).await;
    daemon.says(&format!("the broker at {own}: is shutting down")).await;
    daemon.says(&format!("connected to the broker at {other}")).await;
    let subscriber = Subscriber::connect(brokers[1].port).await;
    sees(&subscriber, "hs100d/bridge/info", json!({"broker": {"address": other}})).await;
    sees(&subscriber, "hs100d/lamp/state", json!({"state": "OFF", "route": "local"})).await;
    subscriber.receives("hs100d/bridge/state", "online").await;
    subscriber.publish("hs100d/lamp/set", "ON");
    sees(&subscriber, "hs100d/lamp/result", json!({"status": "ok", "state": "ON"})).await;
    daemon.signal("USR1");
    daemon.says(&format!("figures plugs=1 online=1 broker={other} ")).await;
    // Over the broker at which the daemon is not, and then over the one at which it is.
    let forgotten = setup.run(&["forget", "lamp"]).await;
    assert_eq!(forgotten.code, 0, "{forgotten:?}");
    subscriber
        .until("the answer", |all| {
            all.iter()
                .find(|seen| seen.topic == "hs100d/bridge/response/forget" && json_of(seen)["status"] == "ok")
                .cloned()
        })
        .await;

    let examined = setup.run(&["check", "--online", "--json"]).await;
    assert_eq!(examined.code, 69, "{examined:?}");
    let report: Value = serde_json::from_str(&examined.out).unwrap();
    let subjects = report["online"]["subjects"].as_array().unwrap();
    let told: Vec<_> = subjects.iter().filter(|subject| subject["subject"] == "broker").collect();
    let short: Vec<_> =
        told.iter().map(|broker| (&broker["name"], &broker["ok"], &broker["cause"])).collect();
    assert_eq!(
        short,
        [(&json!(own), &json!(false), &json!("broker-refuses")), (&json!(other), &json!(true), &Value::Null)]
    );
    let examined = setup.run(&["check", "--online"]).await;
    assert!(examined.out.contains(&format!("FAIL  broker {own}: ")), "{examined:?}");
    assert!(examined.out.contains(&format!("ok    broker {other}: connected")), "{examined:?}");

    // A list without the broker that failed.
    setup.write(&config.set("mqtt", "url", json!([format!("mqtt://{other}")])).text());
    daemon.signal("HUP");
    daemon.says_again(&format!("connected to the broker at {other}"), 2).await;
    subscriber.clear();
    subscriber.publish("hs100d/bridge/request/refresh", "");
    sees(&subscriber, "hs100d/bridge/response/refresh", json!({"status": "ok"})).await;
}

#[tokio::test]
async fn an_address_of_a_name_that_accepts_tcp_and_says_nothing_is_not_chosen_twice() {
    let Some(unshare) = mounts() else { return };
    let broker = TestBroker::start(Brand::Embedded).await;
    // A node that hangs: it has the port of the broker at another address, and reads nothing.
    let mute = TcpListener::bind(("127.0.0.2", broker.port)).await.unwrap();
    let hung = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(connection) = mute.accept().await {
            held.push(connection);
        }
    });
    let mut has_met_it = false;
    for instance in 0..16 {
        let config = Config::default()
            .without_search()
            .set("http", "enabled", false)
            .set("mqtt", "url", format!("mqtt://cluster.test:{}", broker.port))
            .set("mqtt", "instance", format!("site-{instance}"));
        let setup = Setup::new(&config);
        let hosts = setup.state_dir().with_file_name("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n127.0.0.2 cluster.test\n127.0.0.1 cluster.test\n").unwrap();
        let words = [unshare.clone(), vec!["sh", "-c", WITH_HOSTS, hosts.to_str().unwrap()]].concat();
        let mut daemon = setup.daemon_by(&words);
        assert_eq!(daemon.is_connected().await, broker.port);
        let complaints: Vec<_> = daemon
            .lines()
            .into_iter()
            .filter(|line| line.contains("accepts the connection and sends nothing"))
            .collect();
        assert!(complaints.len() <= 1, "{complaints:?}");
        has_met_it = !complaints.is_empty();
        if has_met_it {
            // The doctor names it.
            let program = env!("CARGO_BIN_EXE_hs100d");
            let config = setup.config();
            let arguments = [program, "--config", config.to_str().unwrap(), "check", "--online"];
            let mut doctor = std::process::Command::new(words[0]);
            doctor.args(&words[1..]).args(arguments).env("STATE_DIRECTORY", setup.state_dir());
            let output = tokio::task::spawn_blocking(move || doctor.output()).await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("ok    broker: connected"), "{text}");
            assert!(text.contains(&format!("note  broker address 127.0.0.2:{}: ", broker.port)), "{text}");
        }
        daemon.stop().await;
        if has_met_it {
            break;
        }
    }
    assert!(has_met_it, "no installation begins at the node that hangs");
    hung.abort();
}
