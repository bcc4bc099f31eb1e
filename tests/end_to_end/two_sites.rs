//! Two installations at one broker, as sites may share one. Each has its own base topic, client id and plugs, and
//! neither touches what belongs to the other.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::support::e2e::{Config, Daemon, Setup, holds, home_options_of, json_of, sees};
use crate::support::mqtt::{Brand, Message, Subscriber, TestBroker, has_mosquitto, retained, until_retained};
use hs100d::sim::handle::PlugHandle;
use hs100d::sim::home::SimHome;
use serde_json::{Value, json};

/// The aliases of each site's plugs.
const PLUGS: [&str; 2] = ["Lamp", "Kettle"];

/// One home and its daemon.
struct Site {
    base: &'static str,
    home: SimHome,
    /// The number of its plugs before the lamp.
    hidden: usize,
    setup: Setup,
    daemon: Daemon,
}

impl Site {
    /// Plugs with the same names as at the other site, at their own loopback addresses and their own port.
    async fn start(base: &'static str, part: u8, broker: u16) -> Self {
        let mut home_options = home_options_of(&PLUGS);
        home_options.first_plug = Ipv4Addr::new(127, 7, part, 1);
        // Device ids are unique, but each simulated home counts from one. The plugs with ids of the other site are
        // hidden.
        let hidden = PLUGS.len() * (usize::from(part) - 1);
        home_options.plugs = home_options.plugs.iter().cycle().take(hidden + PLUGS.len()).cloned().collect();
        let home = SimHome::start(home_options).await.unwrap();
        home.plugs()[..hidden].iter().for_each(hide);
        let config = Config::of(&home)
            .without("cloud")
            .at_broker(broker)
            .set("mqtt", "base_topic", base)
            .set("mqtt", "client_id", base.replace('/', "-"))
            .set("local", "poll_interval", "1s");
        let setup = Setup::new(&config);
        let daemon = setup.daemon();
        daemon.is_connected().await;
        Self { base, home, setup, daemon, hidden }
    }

    fn is_lit(&self) -> bool {
        self.home.plug(self.hidden).is_on()
    }

    fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.base)
    }

    async fn is_shown(&self, subscriber: &Subscriber) {
        for plug in PLUGS.map(str::to_lowercase) {
            sees(
                subscriber,
                &self.topic(&format!("{plug}/state")),
                json!({"state": "OFF", "route": "local"}),
            )
            .await;
        }
        subscriber.receives(&self.topic("bridge/state"), "online").await;
    }

    async fn answers(&self, subscriber: &Subscriber, request: &str, payload: Value) -> Value {
        subscriber.publish(&self.topic(&format!("bridge/request/{request}")), payload.to_string());
        sees(subscriber, &self.topic(&format!("bridge/response/{request}")), json!({"status": "ok"})).await
    }
}

/// Hides a plug from discovery.
fn hide(plug: &PlugHandle) {
    plug.with(|plug| plug.hears_broadcasts = false);
}

/// The retained messages of one site: its topics, and the discovery payloads that name them.
fn own(all: &[Message], base: &str) -> BTreeMap<String, String> {
    let is_own = |seen: &&Message| {
        seen.topic.starts_with(&format!("{base}/"))
            || (seen.topic.starts_with("homeassistant/") && seen.payload.contains(&format!("\"{base}/")))
    };
    all.iter().filter(is_own).map(|seen| (seen.topic.clone(), seen.payload.clone())).collect()
}

/// Two plugs with state, info, availability and discovery payload; a bridge with state, info and discovery payload.
const KEPT: usize = 2 * 4 + 3;

#[tokio::test]
async fn two_sites_at_one_broker_do_not_touch_each_other() {
    if !has_mosquitto() {
        return;
    }
    let broker = TestBroker::start(Brand::Mosquitto).await;
    let subscriber = Subscriber::connect(broker.port).await;
    let north = Site::start("sites/north", 1, broker.port).await;
    let mut south = Site::start("sites/south", 2, broker.port).await;
    for site in [&north, &south] {
        site.is_shown(&subscriber).await;
    }
    let is_whole = |all: &[Message]| [&north, &south].iter().all(|site| own(all, site.base).len() == KEPT);
    let before = until_retained(broker.port, "both sites", is_whole).await;
    assert_eq!(before.len(), 2 * KEPT, "and nothing else: {before:#?}");
    assert_eq!(entities(&before).len(), 2 * entities(&of(&before, north.base)).len(), "no id is used twice");

    // A command to a plug of one site switches only that plug.
    subscriber.clear();
    subscriber.publish(&north.topic("lamp/set"), "ON");
    let result = sees(&subscriber, &north.topic("lamp/result"), json!({"status": "ok"})).await;
    assert!(holds(&result, &json!({"state": "ON"})), "{result}");
    assert_eq!((north.is_lit(), south.is_lit()), (true, false));

    // A request to one site is answered by that site only, and changes nothing at the other.
    north.answers(&subscriber, "refresh", json!({})).await;
    hide(north.home.plug(1));
    north.answers(&subscriber, "forget", json!({"plug": "kettle"})).await;
    let after = until_retained(broker.port, "the forgotten plug gone", |all| {
        !own(all, north.base).contains_key(&north.topic("kettle/state"))
    })
    .await;
    assert_eq!(own(&after, south.base), own(&before, south.base));
    assert!(
        subscriber.messages().iter().all(|seen| !seen.topic.starts_with(south.base)),
        "{:#?}",
        subscriber.messages()
    );

    // One site stops and returns; the other is not affected.
    south.daemon.stop().await;
    let left = retained(broker.port).await;
    assert_eq!(own(&left, north.base), own(&after, north.base));
    subscriber.clear();
    south.daemon = south.setup.daemon();
    south.daemon.is_connected().await;
    south.is_shown(&subscriber).await;
    let topics = |all: &[Message]| own(all, south.base).into_keys().collect::<Vec<_>>();
    let is_back = |all: &[Message]| topics(all) == topics(&before);
    let back = until_retained(broker.port, "the site that came back", is_back).await;
    assert_eq!(own(&back, north.base), own(&after, north.base));
    subscriber.publish(&south.topic("lamp/set"), "ON");
    sees(&subscriber, &south.topic("lamp/result"), json!({"status": "ok"})).await;
    assert!(south.is_lit() && north.is_lit());
}

fn of(all: &[Message], base: &str) -> Vec<Message> {
    let own = own(all, base);
    all.iter().filter(|seen| own.contains_key(&seen.topic)).cloned().collect()
}

/// The unique ids of the entities in Home Assistant.
fn entities(all: &[Message]) -> std::collections::BTreeSet<String> {
    let documents = all.iter().filter(|seen| seen.topic.starts_with("homeassistant/")).map(json_of);
    let ids = documents.flat_map(|document| {
        let components = document["components"].as_object().or(document["cmps"].as_object()).cloned();
        components.into_iter().flatten().map(|(_, component)| {
            let id = component.get("unique_id").or(component.get("uniq_id"));
            id.and_then(Value::as_str).unwrap_or_default().to_owned()
        })
    });
    ids.collect()
}
