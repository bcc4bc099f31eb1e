//! Several brokers in `mqtt.url`: the next one when one fails, the spread, and the return to the installation's own.

#![cfg(feature = "broker")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::broker_proxy::{BrokerProxy, Trouble};
use crate::support::mqtt::*;
use hs100d::bridge::event::Update;
use hs100d::mqtt::{BrokerAddress, Inbound, MqttSettings};
use hs100d::secret::{RefusedLogins, Secret};
use rumqttc::Packet;

const STATE: &str = "home/hs100d/bridge/state";
const RESULT: &str = "home/hs100d/kettle/result";
/// A time that no test reaches.
const NEVER: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(3600));
const SOON: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(200));

/// An installation with brokers at these ports.
fn at_brokers(instance: &str, ports: &[u16]) -> MqttSettings {
    let others = ports[1..].iter().map(|&port| BrokerAddress { host: "127.0.0.1".to_owned(), port });
    MqttSettings {
        others: others.collect(),
        instance: instance.to_owned(),
        return_after: NEVER,
        ..options(ports[0])
    }
}

/// Waits for a connection, and returns the port of its broker and what was complained of before.
async fn connects(daemon: &mut Daemon) -> (u16, Vec<String>) {
    let mut complaints = Vec::new();
    within("a connection", async {
        loop {
            match daemon.inbound.recv().await {
                Some(Inbound::Link(Ok(broker))) => return (broker.port, complaints),
                Some(Inbound::Link(Err(complaint))) => complaints.push(complaint),
                Some(Inbound::Event(_) | Inbound::Reload(_)) => {}
                None => panic!("the link has ended"),
            }
        }
    })
    .await
}

/// Two brokers behind proxies, and a daemon at its own one. Its plug is published.
struct Pair {
    /// The own one first.
    brokers: [TestBroker; 2],
    proxies: [BrokerProxy; 2],
    daemon: Daemon,
}

impl Pair {
    async fn start(brand: Brand, return_after: (Duration, Duration)) -> Self {
        let mut brokers = [TestBroker::start(brand).await, TestBroker::start(brand).await];
        let mut proxies = [
            BrokerProxy::start_at(free_port(), brokers[0].port).await,
            BrokerProxy::start_at(free_port(), brokers[1].port).await,
        ];
        let ports = proxies.each_ref().map(BrokerProxy::port);
        let settings = MqttSettings { return_after, ..at_brokers("test", &ports) };
        let mut daemon = Daemon::start(settings);
        let (own, complaints) = connects(&mut daemon).await;
        assert_eq!(complaints, [""; 0]);
        if own == ports[1] {
            brokers.reverse();
            proxies.reverse();
        }
        daemon.show_plug("kettle");
        daemon.publish(Update::Ready);
        let pair = Self { brokers, proxies, daemon };
        pair.has_everything(0).await;
        pair
    }

    /// Waits until everything is retained at one of the brokers.
    async fn has_everything(&self, at: usize) {
        let info = format!(r#""broker":{{"address":"127.0.0.1:{}"}}"#, self.proxies[at].port());
        let document = document_topic("kettle");
        until_retained(self.brokers[at].port, "everything", |retained| {
            [
                (STATE, "online"),
                ("home/hs100d/kettle/state", r#""state":"ON""#),
                ("home/hs100d/kettle/availability", "online"),
                ("home/hs100d/bridge/info", &info),
                (&document, "hs100d"),
            ]
            .iter()
            .all(|(topic, part)| {
                retained.iter().any(|seen| seen.topic == *topic && seen.payload.contains(part))
            })
        })
        .await;
    }
}

#[tokio::test]
async fn a_broker_that_refuses_is_followed_by_the_next_and_installations_begin_at_different_ones() {
    let broker = TestBroker::start(Brand::Embedded).await;
    let closed = free_port();
    let mut complained = BTreeSet::new();
    for instance in 0..8 {
        let mut daemon = Daemon::start(at_brokers(&instance.to_string(), &[broker.port, closed]));
        let (port, complaints) = connects(&mut daemon).await;
        assert_eq!(port, broker.port);
        let is_refusal = |complaint: &String| {
            complaint.starts_with(&format!("the broker at 127.0.0.1:{closed}: connection refused"))
        };
        assert!(complaints.iter().all(is_refusal) && complaints.len() <= 1, "{complaints:?}");
        complained.insert(complaints.len());
        within("the end", daemon.link.stop(BOUND)).await;
    }
    assert_eq!(complained, BTreeSet::from([0, 1]), "all installations begin at the same broker");
}

#[tokio::test]
async fn a_broker_that_accepts_and_says_nothing_or_refuses_the_login_is_followed_by_the_next() {
    let login = |settings| MqttSettings {
        username: Some("me".to_owned()),
        password: Some(Secret::new("hunter2".to_owned())),
        ..settings
    };
    let broker = TestBroker::start(Brand::Embedded).await;
    for (fault, sign) in [
        (Fault::Silent, "it accepts the connection and sends nothing"),
        (Fault::RefusesLogins, "it refuses the login"),
    ] {
        let bad = FaultBroker::start(fault).await;
        let refused = RefusedLogins::default();
        let mut instances = (0..64).map(|n| n.to_string());
        let instance = loop {
            let instance = instances.next().expect("an installation that begins at the bad one");
            let settings = login(at_brokers(&instance, &[broker.port, bad.port]));
            let mut daemon = Daemon::start_after(refused.clone(), settings);
            let (port, complaints) = connects(&mut daemon).await;
            assert_eq!(port, broker.port);
            within("the end", daemon.link.stop(BOUND)).await;
            if let [complaint] = &complaints[..] {
                assert!(complaint.contains(sign) && !complaint.contains("hunter2"), "{complaint}");
                break instance;
            }
        };
        assert_eq!(bad.connects(), 1);
        // After a reload the one that refused the login is not asked again.
        if fault == Fault::RefusesLogins {
            let settings = login(at_brokers(&instance, &[bad.port, broker.port]));
            let mut daemon = Daemon::start_after(refused, settings);
            assert_eq!(connects(&mut daemon).await, (broker.port, Vec::new()));
            assert_eq!(bad.connects(), 1);
        }
    }
}

#[tokio::test]
async fn while_all_are_away_each_is_tried_again_and_the_first_that_is_back_is_used() {
    let ports = [free_port(), free_port(), free_port()];
    let mut daemon = Daemon::start(at_brokers("test", &ports));
    daemon.show_plug("kettle");
    let mut complained: BTreeSet<u16> = BTreeSet::new();
    while complained.len() < 3 {
        let complaint = daemon.complains().await;
        complained.extend(ports.iter().filter(|port| complaint.contains(&format!(":{port}:"))));
    }
    let broker = TestBroker::embedded_at(ports[1]).await;
    assert_eq!(connects(&mut daemon).await.0, broker.port);
    until_retained(broker.port, "the state", |retained| {
        retained.iter().any(|seen| seen.topic == "home/hs100d/kettle/state")
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_sends_its_clients_away_is_left_for_the_other_with_everything() {
    for (brand, reason) in
        brands().into_iter().zip([0x9C, 0x8B]).chain([(Brand::Embedded, 0x9D), (Brand::Embedded, 0x98)])
    {
        let mut pair = Pair::start(brand, NEVER).await;
        let (own, other) = (&pair.proxies[0], &pair.proxies[1]);
        own.set(Trouble::Refuses(0x9C));
        own.kick(reason);
        let (port, complaints) = connects(&mut pair.daemon).await;
        assert_eq!((port, complaints.len()), (other.port(), 1), "{reason:#04X} {complaints:?}");
        pair.has_everything(1).await;
        let subscriber = Subscriber::connect(pair.brokers[1].port).await;
        subscriber.publish("home/hs100d/kettle/set", "ON");
        let (id, plug, _) = pair.daemon.hears_command().await;
        pair.daemon.answer(id, &plug);
        subscriber.receives(RESULT, r#""status":"ok""#).await;
        // The one that was left publishes the will, which nobody has cancelled there.
        let left = Subscriber::connect(pair.brokers[0].port).await;
        left.receives(STATE, "offline").await;
    }
}

#[tokio::test]
async fn a_broker_cannot_send_us_to_a_server_that_the_config_does_not_name() {
    let elsewhere = FaultBroker::start(Fault::None).await;
    let mut pair = Pair::start(Brand::Embedded, NEVER).await;
    for (from, to) in [(0, 1), (1, 0)] {
        pair.proxies[from].kick_to(0x9D, &format!("127.0.0.1:{}", elsewhere.port));
        let (port, complaints) = connects(&mut pair.daemon).await;
        assert_eq!(port, pair.proxies[to].port());
        assert!(complaints[0].contains("it sends us to another server"), "{complaints:?}");
    }
    assert_eq!(elsewhere.connects(), 0);
}

#[tokio::test]
async fn an_installation_returns_to_its_own_broker_without_a_will_and_after_the_last_result() {
    for brand in brands() {
        let mut pair = Pair::start(brand, SOON).await;
        let own = pair.proxies[0].port();
        pair.proxies[0].kick(0x8B);
        // From here on nothing listens at the port of the own broker.
        pair.proxies[0] = BrokerProxy::start(pair.brokers[0].port).await;
        let (port, _) = connects(&mut pair.daemon).await;
        assert_eq!(port, pair.proxies[1].port());
        pair.has_everything(1).await;
        let other = Subscriber::connect(pair.brokers[1].port).await;
        other.publish("home/hs100d/kettle/set", "ON");
        let (id, plug, _) = pair.daemon.hears_command().await;
        // It can be reached now, and is checked, but the command has no result yet.
        pair.proxies[0] = BrokerProxy::start_at(own, pair.brokers[0].port).await;
        pair.proxies[0].connects(1).await;
        pair.daemon.answer(id, &plug);
        other.receives(RESULT, r#""status":"ok""#).await;

        let (port, complaints) = connects(&mut pair.daemon).await;
        assert_eq!((port, complaints), (pair.proxies[0].port(), Vec::new()), "{brand:?}");
        pair.has_everything(0).await;
        // This will is published later than that of the daemon would be.
        let settings = MqttSettings {
            base_topic: "kit".to_owned(),
            client_id: "kit".to_owned(),
            ..options(pair.brokers[1].port)
        };
        let mut killed = Daemon::start(settings);
        killed.connects().await;
        drop(killed);
        other.receives("kit/bridge/state", "offline").await;
        assert!(
            other.messages().iter().all(|seen| seen.topic != STATE || seen.payload == "online"),
            "{brand:?}"
        );
    }
}

#[tokio::test]
async fn a_return_that_fails_ends_at_the_other_broker_and_loses_no_result() {
    let mut pair = Pair::start(Brand::Embedded, SOON).await;
    pair.proxies[0].set(Trouble::Stalls);
    pair.proxies[0].kick(0x8B);
    // It accepts TCP, so it is found reachable, left for, and silent.
    let mut back_at_other = 0;
    while back_at_other < 2 {
        let (port, complaints) = connects(&mut pair.daemon).await;
        assert_eq!(port, pair.proxies[1].port());
        back_at_other +=
            usize::from(complaints.iter().any(|text| text.contains("accepts the connection and sends")));
    }
    pair.has_everything(1).await;
    let other = Subscriber::connect(pair.brokers[1].port).await;
    other.receives(STATE, "online").await;
    pair.proxies[0].set(Trouble::None);
    assert_eq!(connects(&mut pair.daemon).await, (pair.proxies[0].port(), Vec::new()));
    pair.has_everything(0).await;
}

#[tokio::test]
async fn a_daemon_that_stops_during_a_return_leaves_offline_behind() {
    let mut pair = Pair::start(Brand::Embedded, SOON).await;
    pair.proxies[0].set(Trouble::Stalls);
    pair.proxies[0].kick(0x8B);
    assert_eq!(connects(&mut pair.daemon).await.0, pair.proxies[1].port());
    let tried = pair.proxies[0].connected();
    // The check, and then the connection, which is between the two brokers while it waits for the CONNACK.
    pair.proxies[0].connects(tried + 2).await;
    within("the end", pair.daemon.link.stop(BOUND)).await;
    let retained = retained(pair.brokers[1].port).await;
    assert!(retained.iter().any(|seen| seen.topic == STATE && seen.payload == "offline"), "{retained:?}");
}

#[tokio::test]
async fn a_will_of_an_earlier_connection_that_comes_late_is_corrected() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let daemon = Daemon::connected(broker.port).await;
        daemon.publish(Update::Ready);
        let node = Subscriber::connect(broker.port).await;
        node.receives(STATE, "online").await;
        node.clear();
        node.publish_retained(STATE, "offline");
        let states = node.until("both", |all| {
            let states = all.iter().filter(|seen| seen.topic == STATE);
            let states: Vec<_> = states.map(|seen| seen.payload.clone()).collect();
            (states.len() >= 2).then_some(states)
        });
        let states = states.await;
        assert_eq!((states[0].as_str(), states[1].as_str()), ("offline", "online"), "{brand:?}");
        // What the daemon says itself stands.
        daemon.link.stop(BOUND).await;
        let retained = retained(broker.port).await;
        assert!(retained.iter().any(|seen| seen.topic == STATE && seen.payload == "offline"), "{retained:?}");
    }
}

#[tokio::test]
async fn with_one_broker_the_own_state_is_the_only_new_subscription_and_there_is_no_return() {
    let broker = FaultBroker::start(Fault::None).await;
    let proxy = BrokerProxy::start(broker.port).await;
    let mut daemon = Daemon::start(MqttSettings { return_after: SOON, ..options(proxy.port()) });
    daemon.connects().await;
    daemon.show_plug("kettle");
    // A return would begin with a check, which is a connection, and leave this one at the end of the search.
    broker.hears("the end of the search", |packet| matches!(packet, Packet::Unsubscribe(_))).await;
    daemon.show_plug("fan");
    broker.hears_publish(1, "fan/state").await;
    within("the end", daemon.link.stop(BOUND)).await;
    assert_eq!(proxy.connected(), 1);
    let log = broker.log();
    let paths = |packet: &Packet| match packet {
        Packet::Subscribe(subscribe) => {
            Some(subscribe.filters.iter().map(|filter| filter.path.clone()).collect())
        }
        _ => None,
    };
    let filters: Vec<Vec<_>> = log.iter().filter_map(paths).collect();
    let commands =
        ["+/set", "+/set/+", "+/get", "bridge/request/+"].map(|rest| format!("home/hs100d/{rest}"));
    let [of_commands, of_own_state, _search] = &filters[..] else { panic!("{filters:?}") };
    assert_eq!(of_commands[..4], commands);
    assert_eq!(of_commands[4..], ["homeassistant/status"]);
    assert_eq!(of_own_state[..], [STATE]);
}

#[tokio::test]
async fn installations_that_lose_the_only_broker_together_come_back_in_the_order_of_their_spread() {
    // The names choose the times: `late` waits for 0.6 s and `early` for 1.05 s, as its second failure in a row. To this the
    // spread of two seconds adds nearly all to the one, and nearly nothing to the other.
    let [late, early] = ["40", "224"];
    let broker = TestBroker::start(Brand::Embedded).await;
    let port = free_port();
    let start = |instance: &str| {
        let named = |what: &str| format!("{what}-{instance}");
        let (client_id, base_topic) = (named("client"), named("home"));
        Daemon::start(MqttSettings { client_id, base_topic, ..at_brokers(instance, &[port]) })
    };
    let mut early = start(early);
    assert!(early.complains().await.contains("connection refused"));
    let proxy = BrokerProxy::start_at(port, broker.port).await;
    let mut late = start(late);
    connects(&mut early).await;
    connects(&mut late).await;
    proxy.kick(0x8B);
    tokio::select! {
        biased;
        _ = connects(&mut late) => panic!("the times are not spread"),
        _ = connects(&mut early) => {}
    }
    connects(&mut late).await;
}
