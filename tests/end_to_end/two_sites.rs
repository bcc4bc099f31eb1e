//! Two installations at one broker, as many sites would share one: each has a base topic, a client id and plugs of its own,
//! and neither touches what is the other's.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::support::e2e::{Config, Daemon, Home, blueprint_of, holds, json_of, sees};
use crate::support::mqtt::{Brand, Ear, House as Broker, Seen, has_mosquitto, kept, until_kept};
use hs100d::sim::handle::PlugHandle;
use hs100d::sim::home::SimHome;
use serde_json::{Value, json};

/// What the plugs of each site are called.
const PLUGS: [&str; 2] = ["Lamp", "Kettle"];

/// One house and the daemon that serves it.
struct Site {
    base: &'static str,
    house: SimHome,
    /// So many of its plugs come before the lamp.
    hidden: usize,
    home: Home,
    daemon: Daemon,
}

impl Site {
    /// Plugs of the same names as at the other site. They live in a part of loopback of their own, at a port of their own.
    async fn start(base: &'static str, part: u8, broker: u16) -> Self {
        let mut blueprint = blueprint_of(&PLUGS);
        blueprint.first_plug = Ipv4Addr::new(127, 7, part, 1);
        // No two plugs of this world have one device id, and each simulated home counts from one: those that would be the
        // other site's are hidden.
        let hidden = PLUGS.len() * (usize::from(part) - 1);
        blueprint.plugs = blueprint.plugs.iter().cycle().take(hidden + PLUGS.len()).cloned().collect();
        let house = SimHome::start(blueprint).await.unwrap();
        house.plugs()[..hidden].iter().for_each(hide);
        let config = Config::of(&house)
            .without("cloud")
            .at_broker(broker)
            .set("mqtt", "base_topic", base)
            .set("mqtt", "client_id", base.replace('/', "-"))
            .set("local", "poll_interval", "1s");
        let home = Home::new(&config);
        let daemon = home.daemon();
        daemon.is_connected().await;
        Self { base, house, home, daemon, hidden }
    }

    fn is_lit(&self) -> bool {
        self.house.plug(self.hidden).is_on()
    }

    fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.base)
    }

    async fn is_shown(&self, ear: &Ear) {
        for plug in PLUGS.map(str::to_lowercase) {
            sees(ear, &self.topic(&format!("{plug}/state")), json!({"state": "OFF", "route": "local"})).await;
        }
        ear.hears(&self.topic("bridge/state"), "online").await;
    }

    async fn answers(&self, ear: &Ear, request: &str, payload: Value) -> Value {
        ear.say(&self.topic(&format!("bridge/request/{request}")), payload.to_string());
        sees(ear, &self.topic(&format!("bridge/response/{request}")), json!({"status": "ok"})).await
    }
}

/// It is not found any more.
fn hide(plug: &PlugHandle) {
    plug.with(|plug| plug.hears_broadcasts = false);
}

/// What the broker keeps of one site: its topics, and the documents that name them.
fn own(all: &[Seen], base: &str) -> BTreeMap<String, String> {
    let is_own = |seen: &&Seen| {
        seen.topic.starts_with(&format!("{base}/"))
            || (seen.topic.starts_with("homeassistant/") && seen.payload.contains(&format!("\"{base}/")))
    };
    all.iter().filter(is_own).map(|seen| (seen.topic.clone(), seen.payload.clone())).collect()
}

/// Two plugs with state, info, availability and document; a bridge with state, info and document.
const KEPT: usize = 2 * 4 + 3;

#[tokio::test]
async fn two_sites_at_one_broker_do_not_touch_each_other() {
    if !has_mosquitto() {
        return;
    }
    let broker = Broker::start(Brand::Mosquitto).await;
    let ear = Ear::listen(broker.port).await;
    let north = Site::start("sites/north", 1, broker.port).await;
    let mut south = Site::start("sites/south", 2, broker.port).await;
    for site in [&north, &south] {
        site.is_shown(&ear).await;
    }
    let is_whole = |all: &[Seen]| [&north, &south].iter().all(|site| own(all, site.base).len() == KEPT);
    let before = until_kept(broker.port, "both sites", is_whole).await;
    assert_eq!(before.len(), 2 * KEPT, "and nothing else: {before:#?}");
    assert_eq!(entities(&before).len(), 2 * entities(&of(&before, north.base)).len(), "no id is used twice");

    // A command to a plug of one site switches the one of that site.
    ear.forget_everything();
    ear.say(&north.topic("lamp/set"), "ON");
    let result = sees(&ear, &north.topic("lamp/result"), json!({"status": "ok"})).await;
    assert!(holds(&result, &json!({"state": "ON"})), "{result}");
    assert_eq!((north.is_lit(), south.is_lit()), (true, false));

    // A request to one site is answered by that site alone, and changes nothing of the other.
    north.answers(&ear, "refresh", json!({})).await;
    hide(north.house.plug(1));
    north.answers(&ear, "forget", json!({"plug": "kettle"})).await;
    let after = until_kept(broker.port, "the forgotten plug gone", |all| {
        !own(all, north.base).contains_key(&north.topic("kettle/state"))
    })
    .await;
    assert_eq!(own(&after, south.base), own(&before, south.base));
    assert!(ear.seen().iter().all(|seen| !seen.topic.starts_with(south.base)), "{:#?}", ear.seen());

    // One site goes, and comes back to what is its own; the other stays where it is.
    south.daemon.stop().await;
    let left = kept(broker.port).await;
    assert_eq!(own(&left, north.base), own(&after, north.base));
    ear.forget_everything();
    south.daemon = south.home.daemon();
    south.daemon.is_connected().await;
    south.is_shown(&ear).await;
    let topics = |all: &[Seen]| own(all, south.base).into_keys().collect::<Vec<_>>();
    let is_back = |all: &[Seen]| topics(all) == topics(&before);
    let back = until_kept(broker.port, "the site that came back", is_back).await;
    assert_eq!(own(&back, north.base), own(&after, north.base));
    ear.say(&south.topic("lamp/set"), "ON");
    sees(&ear, &south.topic("lamp/result"), json!({"status": "ok"})).await;
    assert!(south.is_lit() && north.is_lit());
}

fn of(all: &[Seen], base: &str) -> Vec<Seen> {
    let own = own(all, base);
    all.iter().filter(|seen| own.contains_key(&seen.topic)).cloned().collect()
}

/// The ids under which Home Assistant would keep entities.
fn entities(all: &[Seen]) -> std::collections::BTreeSet<String> {
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
