//! A site at a mosquitto of its own, which a bridge joins to a mosquitto at the centre. Commands come from the centre. The
//! bridge's config is the one in `docs/FLEET.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::time::Duration;

use hs100d::sim::home::SimHome;
use hs100d::sim::plug::SwitchedBy;
use serde_json::{Value, json};

use crate::support::broker_proxy::{BrokerProxy, Trouble};
use crate::support::e2e::{Config, Daemon, Setup, holds, home_of, sees};
use crate::support::mqtt::{
    Message, Subscriber, TestBroker, has_mosquitto, retained, until_retained, within,
};

const PASSWORD: &str = "s3cret";
const BASE: &str = "plugs/north";
const STATUS: &str = "ha/north/status";
/// At the centre `1` while the bridge stands and `0` while it does not.
const UPLINK: &str = "plugs/north/uplink";
/// What a broker answers while the line is cut.
const SERVER_UNAVAILABLE: u8 = 0x88;
const SERVER_SHUTTING_DOWN: u8 = 0x8B;

/// The transaction of the reads after a cut.
const HEALED: &str = "healed";
const ASK_AGAIN: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The block of the page in this language.
fn block(language: &str) -> &'static str {
    let page = include_str!("../../docs/FLEET.md");
    page.split(&format!("```{language}\n")).nth(1).unwrap().split("```").next().unwrap()
}

/// The lines of the site's broker in the page, with a bridge to this port of loopback without TLS.
fn bridge_lines(port: u16) -> String {
    let lines = block("conf").lines().filter(|line| !line.starts_with("bridge_cafile"));
    let lines = lines.map(|line| match line.split_once(' ').unwrap() {
        ("address", _) => format!("address 127.0.0.1:{port}\n"),
        ("remote_username", _) => format!("{line}\nremote_password {PASSWORD}\n"),
        _ => format!("{line}\n"),
    });
    format!("allow_anonymous true\n{}", lines.collect::<String>())
}

/// A broker at which the site has the rights in the page, and clients without a name have all.
async fn centre() -> TestBroker {
    let rights = format!("topic readwrite #\n{}", block("acl"));
    let lines = "allow_anonymous true\nmax_queued_messages 0\n";
    TestBroker::with_users_and(&["north"], PASSWORD, &rights, lines).await
}

/// A site with three plugs, its broker, and the broker at the centre.
struct Site {
    home: SimHome,
    centre: TestBroker,
    line: BrokerProxy,
    near: TestBroker,
    setup: Setup,
    daemon: Daemon,
    /// A client at the centre.
    subscriber: Subscriber,
}

impl Site {
    async fn start() -> Self {
        Self::with(|lines| lines).await
    }

    /// The lines of the bridge's config as this changes them.
    async fn with(change: impl FnOnce(String) -> String) -> Self {
        let home = home_of(&["Lamp", "Kettle", "Fan"]).await;
        let centre = centre().await;
        let line = BrokerProxy::start(centre.port).await;
        let near = TestBroker::mosquitto(&change(bridge_lines(line.port())), &[]).await;
        let subscriber = Subscriber::connect(centre.port).await;
        subscriber.receives(UPLINK, "1").await;
        let config = Config::of(&home)
            .without("cloud")
            .at_broker(near.port)
            .set("mqtt", "base_topic", BASE)
            .set("homeassistant", "discovery_prefix", "ha/north")
            .set("homeassistant", "status_topic", STATUS)
            .set("local", "poll_interval", "1s");
        let setup = Setup::new(&config);
        let daemon = setup.daemon();
        daemon.is_connected().await;
        Self { home, centre, line, near, setup, daemon, subscriber }
    }

    /// The line breaks, and the broker at the centre notices.
    async fn cut(&self) {
        self.line.set(Trouble::Refuses(SERVER_UNAVAILABLE));
        self.line.kick(SERVER_SHUTTING_DOWN);
        self.subscriber.receives(UPLINK, "0").await;
    }

    /// The line is back, and a command from the centre is answered. The bridge says that it stands before it has
    /// subscribed to commands, so that the first ones may be lost.
    async fn heal(&self) {
        self.subscriber.clear();
        self.line.set(Trouble::None);
        self.subscriber.receives(UPLINK, "1").await;
        let is_answer = |seen: &Message| seen.topic.ends_with("/result") && seen.payload.contains(HEALED);
        let is_answered = || self.subscriber.messages().iter().any(is_answer);
        within("an answer after the cut", async {
            while !is_answered() {
                let read = json!({ "transaction": HEALED });
                self.subscriber.publish(&topic_of("kettle/get"), read.to_string());
                let result = topic_of("kettle/result");
                let _ = tokio::time::timeout(ASK_AGAIN, self.subscriber.receives(&result, HEALED)).await;
            }
        })
        .await;
    }

    /// One of the clients at the centre that share the results among them.
    async fn reader(&self) -> Subscriber {
        Subscriber::subscribe_to(self.centre.port, "$share/readers/plugs/+/+/result", None).await
    }

    /// Sends a command from the centre and returns its result there.
    async fn command(&self, topic: &str, transaction: u32, mut command: Value) -> Value {
        command["transaction"] = json!(transaction);
        self.subscriber.publish(&topic_of(topic), command.to_string());
        let (plug, _) = topic.split_once('/').unwrap();
        self.result(plug, transaction).await
    }

    async fn result(&self, plug: &str, transaction: u32) -> Value {
        let expected = json!({"transaction": transaction, "status": "ok"});
        sees(&self.subscriber, &topic_of(&format!("{plug}/result")), expected).await
    }

    /// Who switched the lamp so far.
    fn switched(&self) -> Vec<SwitchedBy> {
        self.home.plug(0).switchings().iter().map(|switching| switching.by).collect()
    }

    /// Waits until the site's broker retains this many messages and the centre exactly the same.
    async fn is_the_same_at_both(&self, count: usize) {
        within("the same at both brokers", async {
            loop {
                let (near, centre) = (retained(self.near.port).await, retained(self.centre.port).await);
                if own(&near).len() == count && own(&near) == own(&centre) {
                    return;
                }
            }
        })
        .await;
    }
}

/// A plug's state, info, availability and discovery document.
const OF_A_PLUG: usize = 4;
/// Three plugs, and a bridge with state, info and document.
const RETAINED: usize = 3 * OF_A_PLUG + 3;

fn topic_of(rest: &str) -> String {
    format!("{BASE}/{rest}")
}

/// The retained messages of the site, without what the bridge says of itself.
fn own(all: &[Message]) -> BTreeMap<String, String> {
    let is_own = |seen: &&Message| {
        seen.topic != UPLINK && (seen.topic.starts_with(BASE) || seen.topic.starts_with("ha/north/device/"))
    };
    all.iter().filter(is_own).map(|seen| (seen.topic.clone(), seen.payload.clone())).collect()
}

/// The number of messages that came as they were published.
fn count(subscriber: &Subscriber, topic: &str) -> usize {
    subscriber.messages().iter().filter(|seen| seen.topic == topic && !seen.retained).count()
}

#[tokio::test]
async fn a_site_is_shown_and_served_across_a_bridge() {
    if !has_mosquitto() {
        return;
    }
    let mut site = Site::start().await;
    site.is_the_same_at_both(RETAINED).await;
    let near = Subscriber::connect(site.near.port).await;
    let readers = [site.reader().await, site.reader().await];
    site.subscriber.clear();

    // The response topic and the correlation data of MQTT 5 pass the bridge in both directions.
    let command = r#"{"state":"ON","transaction":1}"#;
    site.subscriber.request(&topic_of("lamp/set"), command, "answers/north/me", b"mine");
    let answer = site.subscriber.receives("answers/north/me", "ok").await;
    assert_eq!(answer.correlation.as_deref(), Some(&b"mine"[..]));
    site.result("lamp", 1).await;
    sees(&site.subscriber, &topic_of("lamp/state"), json!({"state": "ON"})).await;
    assert!(site.home.plug(0).is_on());
    site.command("lamp/set", 2, json!({"led": "OFF"})).await;
    site.subscriber.publish(&topic_of("lamp/set/led"), "ON");
    sees(&site.subscriber, &topic_of("lamp/state"), json!({"led": "ON"})).await;
    site.command("kettle/get", 3, json!({})).await;
    site.subscriber.publish(&topic_of("bridge/request/refresh"), r#"{"transaction":4}"#);
    sees(&site.subscriber, &topic_of("bridge/response/refresh"), json!({"transaction": 4, "status": "ok"}))
        .await;

    // Nothing went round in circles, and nothing was done twice.
    site.command("kettle/get", 5, json!({})).await;
    assert_eq!(site.switched(), [SwitchedBy::Lan]);
    for (subscriber, side) in [(&site.subscriber, "the centre"), (&near, "the site")] {
        for (topic, expected) in
            [("lamp/set", 2), ("lamp/set/led", 1), ("lamp/result", 3), ("lamp/state", 3), ("kettle/get", 2)]
        {
            assert_eq!(count(subscriber, &topic_of(topic)), expected, "{topic} at {side}");
        }
    }

    // Readers that share a subscription receive each message once.
    let results = [6, 7, 8].map(|transaction| format!(r#""transaction":{transaction},"#));
    let read = |result: &String| {
        readers.iter().flat_map(Subscriber::messages).filter(|seen| seen.payload.contains(result)).count()
    };
    for (number, result) in results.iter().enumerate() {
        site.command("fan/get", 6 + number as u32, json!({})).await;
        within("a reader", async {
            while read(result) == 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await;
    }
    assert_eq!(results.each_ref().map(read), [1, 1, 1]);

    // Who cannot see what is retained lets everything be published again.
    site.subscriber.clear();
    site.subscriber.publish(STATUS, "online");
    for topic in ["lamp/state", "kettle/info", "fan/availability", "bridge/state"] {
        site.subscriber.receives(&topic_of(topic), "").await;
    }

    // The daemon dies: its will passes the bridge.
    site.daemon.kill().await;
    site.subscriber.receives(&topic_of("bridge/state"), "offline").await;
    site.subscriber.clear();
    site.daemon = site.setup.daemon();
    site.subscriber.receives(&topic_of("bridge/state"), "online").await;
    site.is_the_same_at_both(RETAINED).await;
}

#[tokio::test]
async fn after_a_cut_the_centre_shows_what_the_site_shows_and_no_command_is_late() {
    /// More than mosquitto's queue holds by default.
    const TOPICS: usize = 3000;
    if !has_mosquitto() {
        return;
    }
    let site = Site::start().await;
    site.is_the_same_at_both(RETAINED).await;
    let near = Subscriber::connect(site.near.port).await;

    site.cut().await;
    // What the centre retains says nothing of the cut; only the topic of the bridge does.
    let meanwhile = retained(site.centre.port).await;
    assert_eq!(own(&meanwhile)[&topic_of("bridge/state")], "online");
    site.subscriber.publish(&topic_of("kettle/set"), r#"{"state":"ON","transaction":6}"#);
    site.home.plug(0).press_button();
    sees(&near, &topic_of("lamp/state"), json!({"state": "ON"})).await;
    near.publish(&topic_of("lamp/set"), r#"{"led":"OFF","transaction":7}"#);
    near.receives(&topic_of("lamp/result"), r#""transaction":7"#).await;
    site.home.plug(2).with(|plug| plug.hears_broadcasts = false);
    near.publish(&topic_of("bridge/request/forget"), r#"{"plug":"fan"}"#);
    sees(&near, &topic_of("bridge/response/forget"), json!({"status": "ok"})).await;
    for number in 0..TOPICS {
        near.publish_retained_when_possible(&format!("{BASE}/more-{number}/state"), "new").await;
    }

    site.heal().await;
    site.result("lamp", 7).await;
    // Nothing that the site retains was overwritten, and the forgotten plug is gone at the centre too.
    site.is_the_same_at_both(RETAINED + TOPICS - OF_A_PLUG).await;
    let here = own(&retained(site.near.port).await);
    let lamp = serde_json::from_str(&here[&topic_of("lamp/state")]).unwrap();
    assert!(holds(&lamp, &json!({"state": "ON", "led": "OFF"})), "{lamp}");
    assert_eq!(site.home.plug(1).switchings(), [], "the command came while the line was cut");
    assert_eq!(site.switched(), [SwitchedBy::Button]);
    site.command("kettle/set", 9, json!({"state": "ON"})).await;
    assert!(site.home.plug(1).is_on());
}

#[tokio::test]
async fn a_bridge_repeats_a_retained_command_at_each_of_its_connections() {
    if !has_mosquitto() {
        return;
    }
    let site = Site::start().await;
    site.is_the_same_at_both(RETAINED).await;
    site.subscriber.publish_retained(&topic_of("lamp/set"), r#"{"state":"ON","transaction":1}"#);
    site.result("lamp", 1).await;
    site.home.plug(0).press_button();
    sees(&site.subscriber, &topic_of("lamp/state"), json!({"state": "OFF"})).await;
    site.cut().await;
    site.heal().await;
    // To the daemon the repetition is a new command, since the site's broker passes it on as one.
    site.result("lamp", 1).await;
    assert_eq!(site.switched(), [SwitchedBy::Lan, SwitchedBy::Button, SwitchedBy::Lan]);

    // The remedy: clear it at the centre. An empty command is none.
    site.subscriber.publish_retained(&topic_of("lamp/set"), "");
    until_retained(site.centre.port, "no command", |all| {
        all.iter().all(|seen| !seen.topic.ends_with("/set"))
    })
    .await;
    site.home.plug(0).press_button();
    sees(&site.subscriber, &topic_of("lamp/state"), json!({"state": "OFF"})).await;
    site.cut().await;
    site.heal().await;
    assert_eq!(site.switched().len(), 4, "nothing after the button: {:?}", site.switched());
}
