//! The restart matrix: Home Assistant, the broker (with its store, without it, and with a size limit below one
//! message), the daemon, a plug and the cloud. Every two of them restart in either order, as real processes. Without
//! any help, everything is as before in the end.
//!
//! `cargo test --test restart_matrix -- --nocapture` prints the time of each pair.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::e2e::{self, Config, Daemon, Setup, home_of};
use crate::support::mqtt::{Process, free_port, has_mosquitto, mosquitto, retained, within};
use hs100d::sim::cloud::rule::Method;
use hs100d::sim::home::SimHome;
use hs100d::sim::plug::SwitchedBy;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, PublishOptions, QoS};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// The number of homes that run at once, each with a broker and a daemon.
const AT_ONCE: usize = 16;
/// How long a restart takes.
const AWAY: Duration = Duration::from_secs(1);
/// From the moment when both are back until everything is right.
const RIGHT_WITHIN: Duration = Duration::from_secs(20);
/// The longest that Home Assistant may see a plug as unavailable.
const UNAVAILABLE_FOR: Duration = Duration::from_secs(15);
/// How often the retained messages are read, and how often a broker that is down is tried.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The cloud's error code for a token from before its restart.
const TOKEN_EXPIRED: i64 = -20651;

/// The programs that restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    HomeAssistant,
    BrokerWithStore,
    BrokerWithoutStore,
    /// Returns without its store, and refuses the longest message from then on.
    BrokerWithLimit,
    Daemon,
    Plug,
    Cloud,
}

impl Member {
    fn is_broker(self) -> bool {
        matches!(self, Self::BrokerWithStore | Self::BrokerWithoutStore | Self::BrokerWithLimit)
    }
}

const MEMBERS: [(Member, &str); 7] = [
    (Member::HomeAssistant, "HA"),
    (Member::BrokerWithStore, "broker, store"),
    (Member::BrokerWithoutStore, "broker, none"),
    (Member::BrokerWithLimit, "broker, limit"),
    (Member::Daemon, "daemon"),
    (Member::Plug, "plug"),
    (Member::Cloud, "cloud"),
];

/// The order of the second restart after the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// The second goes down while the first is down. They return in the same order.
    Meanwhile,
    /// The second goes down as soon as the first is back.
    RightAfter,
}

const MANNERS: [(Manner, &str); 2] = [
    (Manner::Meanwhile, "the second while the first is away"),
    (Manner::RightAfter, "the second right after the first"),
];

/// One cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    manner: Manner,
    first: Member,
    second: Member,
}

impl Pair {
    /// Every pair that is possible: what is down cannot go down.
    fn all() -> Vec<Self> {
        let cells = MANNERS.iter().flat_map(|(manner, _)| {
            MEMBERS.iter().flat_map(|(first, _)| {
                MEMBERS.iter().map(|(second, _)| Self { manner: *manner, first: *first, second: *second })
            })
        });
        cells.filter(|pair| pair.manner == Manner::RightAfter || !pair.is_one_thing()).collect()
    }

    /// A birth message makes the daemon publish everything, which could hide a missing message.
    fn has_birth(&self) -> bool {
        [self.first, self.second].contains(&Member::HomeAssistant)
    }

    fn is_one_thing(&self) -> bool {
        self.first == self.second || (self.first.is_broker() && self.second.is_broker())
    }

    fn has_limit(&self) -> bool {
        [self.first, self.second].contains(&Member::BrokerWithLimit)
    }
}

/// The plugs by number: their topic names, and their relays at the start. The last one is out of reach of the LAN, so
/// that the restart of the cloud matters.
const PLUGS: [(&str, bool); 3] = [("lamp", true), ("kettle", false), ("attic", true)];
const LAMP: usize = 0;
const ATTIC: usize = 2;

#[tokio::test]
async fn whichever_two_are_restarted_everything_is_right_again_without_help() {
    if !has_mosquitto() {
        return;
    }
    let mut pairs = Pair::all().into_iter();
    let (mut stories, mut repairs, mut broken) = (JoinSet::new(), Vec::new(), 0);
    loop {
        while stories.len() < AT_ONCE
            && let Some(pair) = pairs.next()
        {
            stories.spawn(story(pair));
        }
        match stories.join_next().await {
            Some(Ok(row)) => repairs.push(row),
            Some(Err(_)) => broken += 1,
            None => break,
        }
    }
    for (manner, how) in MANNERS {
        println!(
            "{}",
            table(&format!("{how}: seconds until all was right"), manner, &repairs, |repair| repair.took)
        );
        println!(
            "{}",
            table(&format!("{how}: seconds that a plug was unavailable"), manner, &repairs, |repair| repair
                .away)
        );
    }
    assert_eq!(broken, 0, "pairs that ended otherwise, see above");
}

/// The outcome of one pair.
struct Repair {
    pair: Pair,
    took: Duration,
    away: Duration,
}

/// Runs two restarts and checks the result.
async fn story(pair: Pair) -> Repair {
    let what = format!("{pair:?}");
    let mut scene = Scene::start(pair.has_birth()).await;
    let mut expected = scene.settle().await;
    if pair.has_limit() {
        scene.broker.refuse_longest(&mut expected);
    }

    scene.restart(pair).await;
    let took = scene.is_as(&expected, &what).await;
    scene.nothing_was_touched(&what);

    scene.commands_work(&what).await;
    for plug in [LAMP, ATTIC] {
        let state = expected.get_mut(&format!("hs100d/{}/state", PLUGS[plug].0)).unwrap();
        *state = state.replace(r#""on""#, "null").replace(r#""state":"ON""#, r#""state":"OFF""#);
    }
    scene.is_as(&expected, &what).await;
    let calls = |method| scene.home.cloud().calls(method);
    let refreshes = u64::from(pair.second == Member::Cloud);
    assert_eq!((calls(Method::Login), calls(Method::RefreshToken)), (1, refreshes), "{what}: {LOGINS}");
    let away = scene.witness.longest_unavailable();
    assert!(away < UNAVAILABLE_FOR, "{what}: a plug was shown as unavailable for {away:?}");
    Repair { pair, took, away }
}

const LOGINS: &str = "one login, and a token that is kept and renewed only when it is dead";

/// Everything that runs.
struct Scene {
    home: SimHome,
    broker: Broker,
    setup: Setup,
    daemon: Option<Daemon>,
    home_assistant: Option<Client>,
    /// Whether Home Assistant sends a birth message at each of its connects.
    has_birth: bool,
    /// Stays connected, and receives everything that Home Assistant would.
    witness: Client,
}

impl Scene {
    async fn start(has_birth: bool) -> Self {
        let home = home_of(&["Lamp", "Kettle", "Attic"]).await;
        for (number, _) in PLUGS.iter().enumerate().filter(|(_, (_, is_on))| *is_on) {
            home.plug(number).press_button();
        }
        home.lan().unplug(home.plug(ATTIC)).await;
        let broker = Broker::start().await;
        let config = Config::of(&home).at_broker(broker.port).set("cloud", "poll_interval", "5s");
        let setup = Setup::new(&config);
        let daemon = setup.daemon();
        let witness = Client::start("witness", broker.port, false);
        let home_assistant = Client::start("home-assistant", broker.port, has_birth);
        let home_assistant = Some(home_assistant);
        Self { home, broker, setup, daemon: Some(daemon), home_assistant, has_birth, witness }
    }

    /// Waits until everything is published, and returns it.
    async fn settle(&self) -> Picture {
        let shown = |name: &str, leaf: &str| self.witness.last_json(&format!("hs100d/{name}/{leaf}"));
        self.witness
            .until("everything", || {
                let routes = ["local", "local", "cloud"];
                let is_whole = PLUGS.iter().zip(routes).all(|((name, is_on), route)| {
                    let state = shown(name, "state");
                    let is_read = shown(name, "info")["cloud_connection"] == true || route == "cloud";
                    state["state"] == word(*is_on) && state["route"] == route && is_read
                });
                let bridge = shown("bridge", "info");
                is_whole && bridge["online"] == 3 && bridge["cloud"]["status"] == "ok"
            })
            .await;
        within("everything kept", async {
            loop {
                let picture = self.picture().await;
                // Each plug has state, info, availability and a discovery payload; the bridge has state, info and a
                // discovery payload.
                if picture.len() == 4 * PLUGS.len() + 3 && picture["hs100d/bridge/state"] == "online" {
                    return picture;
                }
                sleep(LOOK_AGAIN).await;
            }
        })
        .await
    }

    async fn restart(&mut self, Pair { manner, first, second }: Pair) {
        self.goes(first, false).await;
        if manner == Manner::RightAfter {
            sleep(AWAY).await;
            self.comes_back(first).await;
        }
        self.goes(second, true).await;
        sleep(AWAY).await;
        if manner == Manner::Meanwhile {
            self.comes_back(first).await;
        }
        self.comes_back(second).await;
    }

    /// Takes a member down. The second one goes in the harder way: the daemon is killed, and the cloud forgets its
    /// tokens.
    async fn goes(&mut self, member: Member, harder: bool) {
        match member {
            Member::HomeAssistant => drop(self.home_assistant.take()),
            Member::BrokerWithStore => self.broker.goes(true).await,
            Member::BrokerWithoutStore | Member::BrokerWithLimit => self.broker.goes(false).await,
            Member::Daemon if harder => self.daemon.take().unwrap().kill().await,
            Member::Daemon => self.daemon.take().unwrap().stop().await,
            Member::Plug => self.power_lamp(false).await,
            Member::Cloud => {
                self.home.cloud().set_reachable(false).await.unwrap();
                if harder {
                    self.home.cloud().void_tokens(TOKEN_EXPIRED);
                }
            }
        }
    }

    async fn comes_back(&mut self, member: Member) {
        match member {
            Member::HomeAssistant => {
                self.home_assistant = Some(Client::start("home-assistant", self.broker.port, self.has_birth));
            }
            Member::BrokerWithStore | Member::BrokerWithoutStore | Member::BrokerWithLimit => {
                self.broker.comes_back().await;
            }
            Member::Daemon => self.daemon = Some(self.setup.daemon()),
            Member::Plug => self.power_lamp(true).await,
            Member::Cloud => self.home.cloud().set_reachable(true).await.unwrap(),
        }
    }

    async fn power_lamp(&self, powered: bool) {
        let lamp = self.home.plug(LAMP);
        lamp.with(|plug| plug.powered = powered);
        self.home.lan().settled(lamp).await.unwrap();
    }

    /// Waits until the broker has exactly these retained messages, a Home Assistant with a birth message has received
    /// every entity since, and each plug was read anew. Returns the time after which it stayed right.
    async fn is_as(&self, expected: &Picture, what: &str) -> Duration {
        let documents: Vec<_> = expected.keys().filter(|topic| topic.ends_with("/config")).collect();
        let (begun, readings) = (Instant::now(), self.readings());
        let mut right_since = None;
        loop {
            let picture = self.picture().await;
            let untold = self.home_assistant.as_ref().unwrap().untold(&documents);
            let is_told = untold.is_empty() || !self.has_birth;
            let is_right = picture == *expected && is_told && self.witness.is_there();
            right_since = if is_right { right_since.or_else(|| Some(Instant::now())) } else { None };
            let are_read = self.readings().iter().zip(&readings).all(|(after, before)| after > before);
            if let Some(since) = right_since.filter(|_| are_read) {
                return since.duration_since(begun);
            }
            if begun.elapsed() > RIGHT_WITHIN {
                let only = |one: &Picture, other: &Picture| -> Vec<_> {
                    let differs = |(topic, payload): &(&String, &String)| other.get(*topic) != Some(*payload);
                    one.iter().filter(differs).map(|(topic, payload)| format!("{topic} {payload}")).collect()
                };
                panic!(
                    "{what}: not right within {RIGHT_WITHIN:?}: expected {:#?}; found {:#?}; not sent again \
                     {untold:?}; each plug was read: {are_read}",
                    only(expected, &picture),
                    only(&picture, expected)
                );
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The number of requests to each plug.
    fn readings(&self) -> Vec<u64> {
        let traffic = self.home.plugs().iter().map(|plug| plug.traffic());
        traffic.map(|traffic| traffic.lan_requests + traffic.cloud_requests).collect()
    }

    async fn picture(&self) -> Picture {
        let all = retained(self.broker.port).await.into_iter();
        all.map(|seen| (seen.topic, without_times(&seen.payload))).collect()
    }

    /// No relay was switched, no entity was removed, and no wrong state was published.
    fn nothing_was_touched(&self, what: &str) {
        for ((name, is_on), plug) in PLUGS.iter().zip(self.home.plugs()) {
            let by: Vec<_> = plug.switchings().iter().map(|switching| switching.by).collect();
            assert_eq!(by, vec![SwitchedBy::Button; usize::from(*is_on)], "{what}: {name} was switched");
        }
        for heard in self.witness.log.lock().unwrap().heard.iter() {
            let Heard { topic, payload, .. } = heard;
            assert!(!payload.is_empty(), "{what}: {topic} was taken away");
            let plug = PLUGS.iter().find(|(name, _)| *topic == format!("hs100d/{name}/state"));
            if let Some((_, is_on)) = plug {
                assert_eq!(json_of(payload)["state"], word(*is_on), "{what}: {topic} {payload}");
            }
        }
    }

    /// Both routes carry a command, and each command has one result.
    async fn commands_work(&self, what: &str) {
        for (plug, route, origin) in [(LAMP, "local", SwitchedBy::Lan), (ATTIC, "cloud", SwitchedBy::Cloud)] {
            let name = PLUGS[plug].0;
            let result = self.command(name, "set", json!({"state": "OFF", "transaction": "off"})).await;
            let expected = json!({"status": "ok", "state": "OFF", "route": route});
            assert!(e2e::holds(&result, &expected), "{what}: {name}: {result}");
            // This read comes after any second result.
            self.command(name, "get", json!({"transaction": "read"})).await;
            assert_eq!(self.witness.results(name, "off").len(), 1, "{what}: {name}");
            let by: Vec<_> = self.home.plug(plug).switchings().iter().map(|switching| switching.by).collect();
            assert_eq!(by, [SwitchedBy::Button, origin], "{what}: {name}");
        }
    }

    async fn command(&self, name: &str, leaf: &str, payload: Value) -> Value {
        let transaction = payload["transaction"].as_str().unwrap().to_owned();
        self.witness.say(&format!("hs100d/{name}/{leaf}"), &payload.to_string());
        let result = || self.witness.results(name, &transaction).first().cloned();
        self.witness.until(&format!("the result of {name} {payload}"), || result().is_some()).await;
        result().unwrap()
    }
}

/// The retained messages by topic, without times.
type Picture = BTreeMap<String, String>;

fn without_times(payload: &str) -> String {
    let mut json = json_of(payload);
    let Some(fields) = json.as_object_mut() else { return payload.to_owned() };
    fields.remove("started");
    if let Some(since) = fields.get_mut("on_since").filter(|since| !since.is_null()) {
        *since = json!("on");
    }
    json.to_string()
}

fn json_of(payload: &str) -> Value {
    serde_json::from_str(payload).unwrap_or_default()
}

fn word(is_on: bool) -> &'static str {
    if is_on { "ON" } else { "OFF" }
}

/// Mosquitto at a fixed port.
struct Broker {
    port: u16,
    folder: TempDir,
    process: Option<Process>,
    /// The size limit for payloads from its next start on.
    limit: Option<usize>,
}

impl Broker {
    async fn start() -> Self {
        let mut broker =
            Self { port: free_port(), folder: tempfile::tempdir().unwrap(), process: None, limit: None };
        broker.comes_back().await;
        broker
    }

    /// Stops it, and keeps or removes its store.
    async fn goes(&mut self, keeps_store: bool) {
        let mut process = self.process.take().unwrap();
        if keeps_store {
            let words = format!("kill -TERM {}", process.0.id());
            assert!(Command::new("sh").arg("-c").arg(words).status().unwrap().success());
            within("mosquitto's end", async {
                while process.0.try_wait().unwrap().is_none() {
                    sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
            assert!(self.store().is_file(), "mosquitto has written its store");
        } else {
            drop(process);
            let _ = std::fs::remove_file(self.store());
        }
    }

    /// Makes it refuse the longest of these messages from its next start on, and removes that one from `retained`.
    fn refuse_longest(&mut self, retained: &mut Picture) {
        let longest =
            retained.iter().max_by_key(|(_, payload)| payload.len()).map(|(topic, _)| topic.clone());
        let longest = retained.remove(&longest.unwrap()).unwrap().len();
        let next = retained.values().map(String::len).max().unwrap();
        assert!(next + 1 < longest, "no other message may be as long: {next} and {longest} bytes");
        self.limit = Some(longest - 1);
    }

    async fn comes_back(&mut self) {
        let folder = self.folder.path();
        let mut lines =
            format!("allow_anonymous true\npersistence true\npersistence_location {}/\n", folder.display());
        if let Some(limit) = self.limit {
            writeln!(lines, "message_size_limit {limit}").unwrap();
        }
        self.process = Some(mosquitto(self.port, &lines, folder).await);
    }

    fn store(&self) -> std::path::PathBuf {
        Path::new(self.folder.path()).join("mosquitto.db")
    }
}

/// An MQTT client that reconnects whenever the connection breaks.
struct Client {
    log: Arc<Mutex<Log>>,
    news: Arc<Notify>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Log {
    heard: Vec<Heard>,
    /// The number of messages received when the last connection began or ended.
    before: usize,
    /// `Some` while connected and subscribed.
    client: Option<AsyncClient>,
}

struct Heard {
    at: Instant,
    topic: String,
    payload: String,
    retained: bool,
}

impl Log {
    fn ends(&mut self) {
        self.before = self.heard.len();
        self.client = None;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Connects and subscribes. A client with a birth message sends it then, each time, as Home Assistant does.
    fn start(id: &'static str, port: u16, has_birth: bool) -> Self {
        let (log, news) = (Arc::<Mutex<Log>>::default(), Arc::new(Notify::new()));
        let task = tokio::spawn({
            let (log, news) = (Arc::clone(&log), Arc::clone(&news));
            async move {
                loop {
                    connection(id, port, has_birth, &log, &news).await;
                    log.lock().unwrap().ends();
                    sleep(LOOK_AGAIN).await;
                }
            }
        });
        Self { log, news, task }
    }

    fn is_there(&self) -> bool {
        self.log.lock().unwrap().client.is_some()
    }

    fn say(&self, topic: &str, payload: &str) {
        let client = self.log.lock().unwrap().client.clone().unwrap();
        client.try_publish(topic, payload.to_owned(), PublishOptions::at_least_once()).unwrap();
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        within(what, async {
            loop {
                let news = self.news.notified();
                if condition() {
                    return;
                }
                let _ = timeout(LOOK_AGAIN, news).await;
            }
        })
        .await;
    }

    fn last_json(&self, topic: &str) -> Value {
        let log = self.log.lock().unwrap();
        log.heard
            .iter()
            .rfind(|heard| heard.topic == topic)
            .map_or(Value::Null, |heard| json_of(&heard.payload))
    }

    fn results(&self, name: &str, transaction: &str) -> Vec<Value> {
        let topic = format!("hs100d/{name}/result");
        let log = self.log.lock().unwrap();
        let results =
            log.heard.iter().filter(|heard| heard.topic == topic).map(|heard| json_of(&heard.payload));
        results.filter(|result| result["transaction"] == transaction).collect()
    }

    /// Those of these topics that had no live message since the last connect.
    fn untold<'a>(&self, topics: &[&'a String]) -> Vec<&'a String> {
        let log = self.log.lock().unwrap();
        let fresh = &log.heard[log.before..];
        let is_told = |topic: &&&String| fresh.iter().any(|heard| heard.topic == ***topic && !heard.retained);
        topics.iter().filter(|topic| !is_told(topic)).copied().collect()
    }

    /// The longest time for which a plug was unavailable, after all had been available.
    fn longest_unavailable(&self) -> Duration {
        let log = self.log.lock().unwrap();
        let mut shown: BTreeMap<&str, bool> = BTreeMap::new();
        let (mut since, mut longest, mut begun) = (None, Duration::ZERO, false);
        for Heard { at, topic, payload, .. } in &log.heard {
            if topic != "hs100d/bridge/state" && !topic.ends_with("/availability") {
                continue;
            }
            shown.insert(topic, payload == "online");
            let is_available = shown.len() == PLUGS.len() + 1 && shown.values().all(|online| *online);
            begun |= is_available;
            match (is_available, since) {
                (false, None) if begun => since = Some(*at),
                (true, Some(from)) => {
                    longest = longest.max(at.duration_since(from));
                    since = None;
                }
                _ => {}
            }
        }
        since.map_or(longest, |from| longest.max(from.elapsed()))
    }
}

/// The filters of every client here.
const FILTERS: [&str; 2] = ["homeassistant/#", "hs100d/#"];

/// Runs one connection to its end.
async fn connection(id: &str, port: u16, has_birth: bool, log: &Mutex<Log>, news: &Notify) {
    let options = MqttOptions::new(id.to_owned(), ("127.0.0.1", port));
    let (client, mut events) = AsyncClient::builder(options).capacity(100).build();
    let mut unanswered = FILTERS.len();
    while let Ok(event) = events.poll().await {
        let mut log = log.lock().unwrap();
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                log.before = log.heard.len();
                for filter in FILTERS {
                    client.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
                }
            }
            Event::Incoming(Packet::SubAck(_)) => {
                unanswered -= 1;
                if unanswered > 0 {
                    continue;
                }
                log.client = Some(client.clone());
                // After the subscriptions: the response to an earlier birth message would be missed.
                if has_birth {
                    let birth = PublishOptions::at_most_once();
                    client.try_publish("homeassistant/status", "online", birth).unwrap();
                }
            }
            Event::Incoming(Packet::Publish(message)) => log.heard.push(Heard {
                at: Instant::now(),
                topic: String::from_utf8(message.topic.to_vec()).unwrap(),
                payload: String::from_utf8_lossy(&message.payload).into_owned(),
                retained: message.retain,
            }),
            _ => continue,
        }
        news.notify_waiters();
    }
}

fn table(title: &str, manner: Manner, repairs: &[Repair], figure: impl Fn(&Repair) -> Duration) -> String {
    let mut text = format!("{title}\n{:<18}", "first \\ second");
    for (_, name) in MEMBERS {
        write!(text, "{name:>15}").unwrap();
    }
    for (first, name) in MEMBERS {
        write!(text, "\n{name:<18}").unwrap();
        for (second, _) in MEMBERS {
            let pair = Pair { manner, first, second };
            match repairs.iter().find(|repair| repair.pair == pair) {
                Some(repair) => write!(text, "{:>15.1}", figure(repair).as_secs_f64()).unwrap(),
                None => write!(text, "{:>15}", "-").unwrap(),
            }
        }
    }
    text + "\n"
}
