//! Tests of the MQTT connection, with the embedded broker and with mosquitto, and some with a broker that has a fault.

#![cfg(feature = "broker")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

use std::time::Duration;

use crate::support::broker_proxy::{BrokerProxy, Trouble};
use crate::support::mqtt::*;
use hs100d::bridge::event::{BridgeCommand, Energy, Event, Notice, NoticeKind, Origin, RequestId, Update};
use hs100d::model::{Availability, PlugCommand, RelayState, SetCommand, Switch};
use hs100d::mqtt::homeassistant::DocumentForm;
use hs100d::mqtt::{self, Inbound, MqttSettings};
use hs100d::payload::Clock;
use hs100d::secret::{RefusedLogins, Secret};
use hs100d::smarthome::message::Meter;
use rumqttc::Packet;

const BASE: &str = "home/hs100d";

fn topic(rest: &str) -> String {
    format!("{BASE}/{rest}")
}

fn has(retained: &[Message], topic: &str, part: &str) -> bool {
    retained.iter().any(|seen| seen.topic == topic && seen.payload.contains(part))
}

fn on() -> PlugCommand {
    PlugCommand::Set(SetCommand {
        relay: Some(Switch::To(RelayState::On)),
        led: None,
        ..SetCommand::default()
    })
}

#[tokio::test]
async fn everything_is_kept_at_the_broker_and_is_back_after_it_lost_its_store() {
    for brand in brands() {
        let mut broker = TestBroker::start(brand).await;
        let daemon = Daemon::connected(broker.port).await;
        daemon.show_plug("kettle");
        daemon.publish(Update::Ready);
        let everything = |retained: &[Message]| {
            has(retained, &topic("kettle/state"), r#""state":"ON""#)
                && has(retained, &topic("kettle/info"), "HS100(EU)")
                && has(retained, &topic("kettle/availability"), "online")
                && has(retained, &topic("bridge/state"), "online")
                && has(retained, &topic("bridge/info"), r#""instance":"test""#)
                && has(retained, &document_topic("kettle"), r#""avty_mode":"all""#)
                && has(retained, "homeassistant/device/hs100d_test/config", "connectivity")
        };
        until_retained(broker.port, "everything", everything).await;

        broker.restart_without_store().await;
        // The last known state counts, not the last one that was sent.
        daemon.publish(Update::State(name("kettle"), state(RelayState::Off)));
        let back = until_retained(broker.port, "everything again, with the new state", |retained| {
            has(retained, &topic("kettle/state"), r#""state":"OFF""#)
                && has(retained, &topic("kettle/availability"), "online")
                && has(retained, &topic("bridge/state"), "online")
                && has(retained, &document_topic("kettle"), "hs100d")
        })
        .await;
        assert!(has(&back, &topic("kettle/info"), "HS100(EU)"), "{brand:?}");
    }
}

#[tokio::test]
async fn the_embedded_broker_keeps_what_it_was_given_over_a_restart() {
    let mut broker = TestBroker::start(Brand::Embedded).await;
    let daemon = Daemon::connected(broker.port).await;
    daemon.show_plug("kettle");
    until_retained(broker.port, "the state", |retained| has(retained, &topic("kettle/state"), "ON")).await;
    drop(daemon);
    broker.restart_with_store().await;
    assert!(has(&retained(broker.port).await, &topic("kettle/state"), "ON"));
}

#[tokio::test]
async fn a_client_of_the_embedded_broker_may_speak_mqtt_3_1_1() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let broker = TestBroker::start(Brand::Embedded).await;
    let mut daemon = Daemon::connected(broker.port).await;
    let mut old = tokio::net::TcpStream::connect(("127.0.0.1", broker.port)).await.unwrap();
    old.write_all(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03old").await.unwrap();
    let mut welcome = [0; 4];
    within("the old client's CONNACK", old.read_exact(&mut welcome)).await.unwrap();
    assert_eq!(welcome, [0x20, 2, 0, 0]);
    let target = topic("kettle/set");
    let mut publish =
        vec![0x30, u8::try_from(target.len() + 4).unwrap(), 0, u8::try_from(target.len()).unwrap()];
    publish.extend(target.as_bytes());
    publish.extend(b"ON");
    old.write_all(&publish).await.unwrap();
    assert_eq!(daemon.hears_command().await.2, on());
}

#[tokio::test]
async fn a_kept_command_is_never_executed_and_a_live_one_is_whatever_its_flag() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let subscriber = Subscriber::connect(broker.port).await;
        subscriber.publish_retained(&topic("kettle/set"), "TOGGLE");
        subscriber.publish_retained(&topic("kettle/set/led"), "ON");
        subscriber.publish_retained(&topic("bridge/request/forget"), "kettle");
        subscriber.receives(&topic("bridge/request/forget"), "kettle").await;

        let mut daemon = Daemon::connected(broker.port).await;
        subscriber.publish_retained(&topic("kettle/set"), "ON");
        assert_eq!(daemon.hears_command().await.2, on(), "{brand:?}");
        drop(daemon);

        // That message is retained now, and a daemon that connects later must not execute it.
        let mut daemon = Daemon::connected(broker.port).await;
        subscriber.publish(&topic("kettle/get"), "");
        assert_eq!(daemon.hears_command().await.2, PlugCommand::Read, "{brand:?}");
    }
}

#[tokio::test]
async fn every_command_is_answered_exactly_once_and_to_its_own_topic_as_well() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let mut daemon = Daemon::connected(broker.port).await;
        let subscriber = Subscriber::connect(broker.port).await;

        subscriber.request(&topic("kettle/set"), r#"{"state":"ON","transaction":"t1"}"#, "me/answers", b"c1");
        let (id, plug, order) = daemon.hears_command().await;
        assert_eq!((plug.as_str(), order), ("kettle", on()));
        daemon.answer(id, &plug);
        let public = subscriber.receives(&topic("kettle/result"), "t1").await;
        assert!(public.payload.contains(r#""status":"ok""#) && !public.retained, "{public:?}");
        let own = subscriber.receives("me/answers", "t1").await;
        assert_eq!(own.correlation.as_deref(), Some(&b"c1"[..]));
        assert_eq!(own.payload, public.payload);

        // The MQTT side itself answers commands that do not reach the bridge.
        subscriber.request(&topic("kettle/set"), r#"{"transaction":"t2","state":"up"}"#, "me/answers", b"c2");
        subscriber.publish(&topic("kettle/set"), r#"{"transaction":"t3","state":"#);
        subscriber.publish(&topic("kettle/set"), vec![0xff, 0xfe]);
        subscriber.publish(&topic("kettle/set"), "");
        subscriber.publish(&topic("kettle/set/colour"), "red");
        subscriber.publish(&topic("kettle/set"), vec![b'x'; 5000]);
        subscriber.publish(&topic("Kettle/set"), "ON");
        assert_eq!(subscriber.receives("me/answers", "t2").await.correlation.as_deref(), Some(&b"c2"[..]));
        subscriber.receives(&topic("kettle/result"), "t3").await;
        subscriber.receives(&topic("Kettle/result"), "no such plug").await;
        // A valid one after all the others: once it is answered, no earlier answer can be in flight.
        subscriber.publish(&topic("kettle/get"), "");
        let (id, plug, _) = daemon.hears_command().await;
        daemon.answer(id, &plug);
        let results = subscriber
            .until("all results", |all| {
                let results: Vec<_> =
                    all.iter().filter(|seen| seen.topic == topic("kettle/result")).collect();
                let last = results.last()?.payload.contains(r#""status":"ok""#) && results.len() > 1;
                last.then_some(results.len())
            })
            .await;
        assert_eq!(results, 8, "{brand:?}");
    }
}

#[tokio::test]
async fn requests_to_the_bridge_are_answered() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let mut daemon = Daemon::connected(broker.port).await;
        let subscriber = Subscriber::connect(broker.port).await;
        subscriber.request(&topic("bridge/request/refresh"), "kettle", "me/answers", b"c");
        let Inbound::Event(Event::Request { id, ask }) = daemon.hears().await else { panic!("no request") };
        assert_eq!(ask, BridgeCommand::Refresh(Some(name("kettle"))));
        daemon.publish(Update::Response { id, result: Err("no such plug".to_owned()) });
        subscriber
            .receives(&topic("bridge/response/refresh"), r#"{"status":"error","error":"no such plug"}"#)
            .await;
        assert_eq!(
            subscriber.receives("me/answers", "no such plug").await.correlation.as_deref(),
            Some(&b"c"[..])
        );

        subscriber.publish(&topic("bridge/request/reload"), r#"{"transaction":5}"#);
        let Inbound::Reload(id) = daemon.hears().await else { panic!("no reload") };
        daemon.publish(Update::Response { id, result: Ok(()) });
        subscriber.receives(&topic("bridge/response/reload"), r#"{"transaction":5,"status":"ok"}"#).await;

        subscriber.publish(&topic("bridge/request/explode"), "");
        subscriber.receives(&topic("bridge/response/explode"), "no such request").await;
        // A response without a request is not published.
        daemon.publish(Update::Response { id: RequestId::new(Origin::Mqtt, u64::MAX), result: Ok(()) });
        daemon.publish(Update::Notice(Notice {
            kind: NoticeKind::PlugFound,
            plug: Some(name("kettle")),
            route: None,
            detail: "at 127.0.0.1".to_owned(),
        }));
        subscriber.receives(&topic("bridge/event"), r#""event":"plug_found","plug":"kettle""#).await;
    }
}

#[tokio::test]
async fn a_large_message_under_our_topics_does_not_loop_the_connection() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let subscriber = Subscriber::connect(broker.port).await;
        let large = vec![b'x'; 200_000];
        subscriber.publish_retained(&topic("kettle/set"), large.clone());
        subscriber.publish_retained("homeassistant/device/other/config", large.clone());
        subscriber.publish_retained(&topic("kettle/availability"), large.clone());
        subscriber.receives(&topic("kettle/availability"), "x").await;
        let mut daemon = Daemon::connected(broker.port).await;
        subscriber.publish(&topic("kettle/set"), large);
        subscriber.publish(&topic("kettle/set"), vec![b'x'; 60_000]);
        subscriber.receives(&topic("kettle/result"), "60000 bytes").await;
        subscriber.publish(&topic("kettle/set"), "ON");
        // Neither a failure nor a second connection came in between.
        assert_eq!(daemon.hears_command().await.2, on(), "{brand:?}");
    }
}

#[tokio::test]
async fn when_another_client_takes_our_id_we_say_so_and_give_way() {
    // The embedded broker gives the reason at once, as the specification requires.
    let broker = TestBroker::start(Brand::Embedded).await;
    let mut first = Daemon::connected(broker.port).await;
    let mut second = Daemon::connected(broker.port).await;
    let complaint = first.complains().await;
    assert!(complaint.contains("another client has connected with our client id"), "{complaint}");
    assert!(complaint.contains("mqtt.client_id") && complaint.contains("gives way"), "{complaint}");
    // The second one stays connected: it receives a command, and no failure comes before it.
    let subscriber = Subscriber::connect(broker.port).await;
    subscriber.publish(&topic("kettle/set"), "ON");
    assert_eq!(second.hears_command().await.2, on());
    assert!(first.inbound.try_recv().is_err(), "the first came back");
}

#[tokio::test]
async fn two_with_one_client_id_do_not_fight_even_where_the_broker_gives_no_reason() {
    // Mosquitto 2.0 closes the connection without a reason.
    if !has_mosquitto() {
        return;
    }
    let broker = TestBroker::start(Brand::Mosquitto).await;
    let (mut one, mut other) = (Daemon::start(options(broker.port)), Daemon::start(options(broker.port)));
    let one_gave_way = within("one to give way", async {
        loop {
            let (is_one, heard) = tokio::select! {
                heard = one.inbound.recv() => (true, heard),
                heard = other.inbound.recv() => (false, heard),
            };
            if matches!(heard, Some(Inbound::Link(Err(text))) if text.contains("gives way")) {
                return is_one;
            }
        }
    })
    .await;
    let (mut stays, mut gone) = if one_gave_way { (other, one) } else { (one, other) };
    let subscriber = Subscriber::connect(broker.port).await;
    within("a command to be heard by the one that stays", async {
        loop {
            subscriber.publish(&topic("kettle/set"), "ON");
            let heard = tokio::time::timeout(Duration::from_millis(200), stays.hears_event()).await;
            if heard.is_ok() {
                return;
            }
        }
    })
    .await;
    assert!(gone.inbound.try_recv().is_err(), "the other came back");
}

#[tokio::test]
async fn the_will_appears_when_the_daemon_is_killed_and_not_when_it_leaves() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let daemon = Daemon::connected(broker.port).await;
        daemon.publish(Update::Ready);
        let subscriber = Subscriber::connect(broker.port).await;
        subscriber.receives(&topic("bridge/state"), "online").await;
        drop(daemon);
        subscriber.receives(&topic("bridge/state"), "offline").await;

        let daemon = Daemon::connected(broker.port).await;
        daemon.show_plug("kettle");
        daemon.publish(Update::Ready);
        until_retained(broker.port, "online again", |retained| {
            has(retained, &topic("bridge/state"), "online") && has(retained, &document_topic("kettle"), "")
        })
        .await;
        daemon.link.stop(BOUND).await;
        let left = retained(broker.port).await;
        assert!(has(&left, &topic("bridge/state"), "offline"), "{brand:?} {left:?}");
        assert!(has(&left, &topic("kettle/availability"), "offline"), "{brand:?} {left:?}");
        assert!(has(&left, &document_topic("kettle"), "hs100d"), "{brand:?}: entities stay");
    }
}

#[tokio::test]
async fn stopping_waits_for_the_broker_before_it_disconnects() {
    let broker = FaultBroker::start(Fault::None).await;
    let daemon = Daemon::connected(broker.port).await;
    daemon.show_plug("kettle");
    daemon.publish(Update::Ready);
    daemon.link.stop(BOUND).await;
    let log = broker.hears_goodbye().await;
    let sent_to = |wanted: &str, payload: &str| {
        log.iter().rposition(
            |packet| matches!(packet, Packet::Publish(p) if p.topic == wanted.as_bytes() && p.payload == payload.as_bytes()),
        )
    };
    let plug = sent_to(&topic("kettle/availability"), "offline").expect("the plug is shown as away");
    let bridge = sent_to(&topic("bridge/state"), "offline").expect("the bridge is shown as away");
    let bye = log.iter().position(|packet| matches!(packet, Packet::Disconnect(_))).expect("a DISCONNECT");
    assert!(plug < bye && bridge < bye, "{log:?}");
    assert!(matches!(log.last(), Some(Packet::Disconnect(_))), "{log:?}");
}

#[tokio::test]
async fn stopping_ends_in_its_time_when_the_broker_acknowledges_nothing() {
    let broker = FaultBroker::start(Fault::NoPubAck).await;
    let daemon = Daemon::connected(broker.port).await;
    daemon.show_plug("kettle");
    within("the end", daemon.link.stop(Duration::from_millis(300))).await;
    // Without a DISCONNECT, so that the last will publishes `offline`, which could not be sent.
    assert!(!broker.log().iter().any(|packet| matches!(packet, Packet::Disconnect(_))));
}

#[tokio::test]
async fn stopping_without_a_connection_ends_at_once() {
    let daemon = Daemon::start(options(free_port()));
    within("the end", daemon.link.stop(BOUND * 2)).await;
    let broker = FaultBroker::start(Fault::Silent).await;
    let daemon = Daemon::start(options(broker.port));
    within("the end", daemon.link.stop(BOUND * 2)).await;
}

#[tokio::test]
async fn a_broker_that_is_away_is_named_once_and_found_when_it_comes() {
    let port = free_port();
    let mut daemon = Daemon::start(options(port));
    daemon.show_plug("kettle");
    let complaint = daemon.complains().await;
    assert!(
        complaint.starts_with(&format!("the broker at 127.0.0.1:{port}: connection refused")),
        "{complaint}"
    );
    let folder = tempfile::tempdir().unwrap();
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let options =
        mqtt::broker::BrokerOptions { listen, users: Vec::new(), state_dir: folder.path().to_owned() };
    let broker = mqtt::broker::EmbeddedBroker::start(options).await.unwrap();
    match daemon.hears().await {
        Inbound::Link(Ok(_)) => {}
        other => panic!("the same complaint again: {other:?}"),
    }
    until_retained(port, "the state", |retained| has(retained, &topic("kettle/state"), "ON")).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_last_will_that_the_broker_refuses_is_not_put_down_to_the_password_alone() {
    let broker = FaultBroker::start(Fault::RefusesWills).await;
    let options = options(broker.port);
    let will = format!("{}/bridge/state", options.base_topic);
    let complaint = Daemon::start(options.clone()).complains().await;
    let (login, way_out) = complaint.split_once("; if they are right, ").unwrap_or((&complaint, ""));
    assert!(login.ends_with("check mqtt.username and mqtt.password"), "{complaint}");
    assert_eq!(way_out, format!("let this user write to the topic of the last will, {will}"), "{complaint}");
    // The doctor first connects without a last will.
    let probed = mqtt::probe(options, BOUND).await.unwrap_err().text;
    assert!(probed.contains(&format!("it refuses a last will at {will}")), "{probed}");
}

#[tokio::test]
async fn a_password_that_the_broker_refused_does_not_go_out_again_for_a_reload() {
    let broker = FaultBroker::start(Fault::RefusesLogins).await;
    let refused = RefusedLogins::default();
    let login = |port: u16, password: Secret| MqttSettings {
        username: Some("me".to_owned()),
        password: Some(password),
        ..options(port)
    };
    let secret = |text: &str| Secret::new(text.to_owned());
    let complains = async |options: MqttSettings| {
        let mut daemon = Daemon::start_after(refused.clone(), options);
        let complaint = daemon.complains().await;
        within("the end", daemon.link.stop(BOUND)).await;
        complaint
    };
    let first = complains(login(broker.port, secret("wrong"))).await;
    assert!(first.ends_with("it refuses the login: check mqtt.username and mqtt.password"), "{first}");
    for _ in 0..3 {
        let again = complains(login(broker.port, secret("wrong"))).await;
        assert!(again.contains("it refused this name and password before the reload"), "{again}");
        assert!(again.ends_with("check mqtt.username and mqtt.password"), "{again}");
    }
    assert_eq!(broker.connects(), 1);
    // From systemd it is the same one, and another only after a restart.
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("mqtt.password"), "wrong").unwrap();
    let credential = Secret::from_credential(credentials.path(), "mqtt.password").unwrap().unwrap();
    let again = complains(login(broker.port, credential)).await;
    assert!(again.contains("before the reload") && again.contains("systemctl restart hs100d"), "{again}");
    assert_eq!(broker.connects(), 1);
    // Another password, and another broker, are tried at once.
    complains(login(broker.port, secret("wrong as well"))).await;
    assert_eq!(broker.connects(), 2);
    let broker = TestBroker::start(Brand::Embedded).await;
    Daemon::start_after(refused, login(broker.port, secret("wrong"))).connects().await;
}

#[tokio::test]
async fn a_broker_that_knows_mqtt_3_only_is_told_apart() {
    let broker = FaultBroker::start(Fault::OnlyMqtt3).await;
    let complaint = Daemon::start(options(broker.port)).complains().await;
    assert!(complaint.contains("does not speak MQTT 5"), "{complaint}");
}

#[tokio::test]
async fn a_port_where_nobody_speaks_is_told_apart() {
    let broker = FaultBroker::start(Fault::Silent).await;
    let complaint = Daemon::start(options(broker.port)).complains().await;
    assert!(complaint.contains("accepts the connection and sends nothing"), "{complaint}");
}

#[tokio::test]
async fn a_broker_that_allows_no_subscription_is_shown_the_states_and_complained_of() {
    let broker = FaultBroker::start(Fault::Deaf).await;
    let mut daemon = Daemon::start(options(broker.port));
    let complaint = daemon.complains().await;
    assert!(complaint.contains("refuses our subscription to home/hs100d/+/set, "), "{complaint}");
    assert!(complaint.contains("mqtt.username"), "{complaint}");
    daemon.show_plug("kettle");
    daemon.link.stop(BOUND).await;
    let log = broker.hears_goodbye().await;
    let sent_to = |rest: &str| {
        let wanted = topic(rest);
        log.iter().any(|packet| matches!(packet, Packet::Publish(p) if p.topic == wanted.as_bytes()))
    };
    assert!(sent_to("kettle/state") && sent_to("bridge/state"), "{log:?}");
    assert_eq!(broker.connects(), 1);
}

#[tokio::test]
async fn a_broker_that_answers_no_subscription_is_told_the_states_all_the_same() {
    let broker = FaultBroker::start(Fault::NoSubAck).await;
    let daemon = Daemon::start(options(broker.port));
    daemon.show_plug("kettle");
    let wanted = topic("kettle/state");
    let sent_to = |packet: &Packet| matches!(packet, Packet::Publish(p) if p.topic == wanted.as_bytes());
    within("the state", async {
        while !broker.log().iter().any(sent_to) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(broker.connects(), 1);
}

#[tokio::test]
async fn being_dropped_three_times_right_after_connecting_gives_way() {
    let broker = FaultBroker::start(Fault::HangsUp).await;
    let mut daemon = Daemon::start(options(broker.port));
    within("giving way", async { while !daemon.complains().await.contains("gives way") {} }).await;
    assert_eq!(broker.connects(), 3);
    let broker = FaultBroker::start(Fault::TakesOver).await;
    let complaint = Daemon::start(options(broker.port)).complains().await;
    assert!(complaint.contains("gives way") && complaint.contains("mqtt.client_id"), "{complaint}");
    assert_eq!(broker.connects(), 1);
}

#[tokio::test]
async fn a_packet_that_is_too_large_for_the_broker_is_not_sent_and_harms_nothing() {
    let broker = FaultBroker::start(Fault::Small(400)).await;
    let daemon = Daemon::connected(broker.port).await;
    let happens = |detail: String| {
        daemon.publish(Update::Notice(Notice {
            kind: NoticeKind::PlugFound,
            plug: None,
            route: None,
            detail,
        }));
    };
    happens("x".repeat(400));
    happens("small enough".to_owned());
    daemon.link.stop(BOUND).await;
    let log = broker.hears_goodbye().await;
    let events: Vec<_> = log
        .iter()
        .filter_map(|packet| match packet {
            Packet::Publish(message) if message.topic == topic("bridge/event").as_bytes() => {
                Some(&message.payload)
            }
            _ => None,
        })
        .collect();
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(String::from_utf8_lossy(events[0]).contains("small enough"));
    assert_eq!(broker.connects(), 1);
}

#[tokio::test]
async fn a_message_that_the_broker_refuses_costs_neither_the_connection_nor_the_other_messages() {
    // Reasons that MQTT 5 lists for a PUBACK, some that it has for other packets (mosquitto uses 0x95), and one that it
    // does not know.
    for reason in [0x80, 0x83, 0x87, 0x90, 0x91, 0x95, 0x97, 0x99, 0x9A, 0x81, 0xEE] {
        let broker = FaultBroker::start(Fault::Refuses(reason, "homeassistant/device/")).await;
        let mut daemon = Daemon::connected(broker.port).await;
        daemon.show_plug("kettle");
        broker.hears_publish(1, &document_topic("kettle")).await;
        daemon.publish(Update::State(name("kettle"), state(RelayState::Off)));
        daemon.publish(Update::Ready);
        daemon.link.stop(BOUND).await;
        // What was refused counts as answered, or there would be no DISCONNECT.
        broker.hears_goodbye().await;
        assert_eq!(broker.connects(), 1, "{reason:#04X}");
        assert!(broker.has_heard(1, "kettle/state") && broker.has_heard(1, "bridge/state"), "{reason:#04X}");
        assert!(daemon.inbound.try_recv().is_err(), "{reason:#04X}: the connection is complained of");
    }
}

#[tokio::test]
async fn a_broker_that_acknowledges_too_much_keeps_its_connection() {
    let broker = FaultBroker::start(Fault::AcknowledgesTooMuch).await;
    let mut daemon = Daemon::connected(broker.port).await;
    daemon.show_plug("kettle");
    broker.hears_publish(1, &document_topic("kettle")).await;
    daemon.link.stop(BOUND).await;
    broker.hears_goodbye().await;
    assert_eq!(broker.connects(), 1);
    assert!(daemon.inbound.try_recv().is_err(), "the connection is complained of");
}

#[tokio::test]
async fn a_broker_that_hangs_up_over_one_message_gets_the_others_and_is_not_left_to_another_client() {
    let broker = FaultBroker::start(Fault::HangsUpOver("kettle/availability")).await;
    let mut daemon = Daemon::start(options(broker.port));
    daemon.show_plug("kettle");
    let complaint = within("the message to be named", async {
        loop {
            let complaint = daemon.complains().await;
            assert!(!complaint.contains("gives way"), "{complaint}");
            if complaint.contains("home/hs100d/kettle/availability") {
                return complaint;
            }
        }
    })
    .await;
    assert!(
        complaint.contains("it refuses one of our messages, most likely the one of 6 bytes"),
        "{complaint}"
    );
    broker.hears_publish(4, "kettle/state").await;
    assert!(!broker.has_heard(4, "kettle/availability"));
    // Changed, it is tried again.
    daemon.publish(Update::Availability(name("kettle"), Availability::Offline));
    broker.hears_publish(4, "kettle/availability").await;
}

#[tokio::test]
async fn a_message_over_which_the_broker_disconnects_is_named_and_left_out_at_once() {
    for reason in [0x95, 0x90, 0x99] {
        let broker = FaultBroker::start(Fault::DisconnectsOver(reason, "kettle/availability")).await;
        let mut daemon = Daemon::start(options(broker.port));
        daemon.show_plug("kettle");
        let complaint = daemon.complains().await;
        assert!(complaint.contains("most likely the one of"), "{reason:#04X} {complaint}");
        assert!(!complaint.contains("client_id"), "{reason:#04X} {complaint}");
    }
    // The oldest message that is not acknowledged is that one; a packet that is too large is the largest.
    let broker = FaultBroker::start(Fault::DisconnectsOver(0x90, "kettle/availability")).await;
    let daemon = Daemon::start(options(broker.port));
    daemon.show_plug("kettle");
    broker.hears_publish(2, "kettle/state").await;
    assert!(!broker.has_heard(2, "kettle/availability"));
}

#[tokio::test]
async fn home_assistant_hears_everything_again_after_its_birth() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let daemon = Daemon::connected(broker.port).await;
        daemon.show_plug("kettle");
        daemon.publish(Update::Ready);
        let subscriber = Subscriber::connect(broker.port).await;
        subscriber.receives(&document_topic("kettle"), "hs100d").await;
        subscriber.receives(&topic("bridge/state"), "online").await;
        subscriber.clear();
        subscriber.publish("homeassistant/status", "online");
        subscriber.receives(&document_topic("kettle"), "hs100d").await;
        // Home Assistant subscribes to the states now. Some brokers send it nothing retained then.
        let late = Subscriber::subscribe_to(broker.port, &topic("#"), None).await;
        let order = subscriber
            .until("availability and states", |all| {
                let at = |topic: &str| all.iter().position(|seen| seen.topic == topic);
                let document = at(&document_topic("kettle"))?;
                let state = at(&topic("kettle/state"))?;
                let availability = at(&topic("kettle/availability"))?;
                at(&topic("bridge/state"))?;
                Some((document, availability, state))
            })
            .await;
        assert!(order.0 < order.1 && order.1 < order.2, "{brand:?} {order:?}");
        for name in ["kettle/availability", "kettle/state", "bridge/state"] {
            let is_live = |all: &[Message]| {
                all.iter().any(|seen| seen.topic == topic(name) && !seen.retained).then_some(())
            };
            late.until(name, is_live).await;
        }
    }
}

#[tokio::test]
async fn a_plug_that_is_gone_leaves_nothing_behind() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let daemon = Daemon::connected(broker.port).await;
        daemon.show_plug("kettle");
        daemon.show_plug("lamp");
        until_retained(broker.port, "both", |retained| {
            has(retained, &document_topic("kettle"), "") && has(retained, &topic("lamp/state"), "")
        })
        .await;
        daemon.publish(Update::Gone(name("kettle")));
        let left = until_retained(broker.port, "only the lamp", |retained| {
            !has(retained, &document_topic("kettle"), "")
                && !retained.iter().any(|seen| seen.topic.contains("/kettle/"))
        })
        .await;
        assert!(has(&left, &document_topic("lamp"), "") && has(&left, &topic("lamp/info"), ""), "{brand:?}");
    }
}

#[tokio::test]
async fn what_an_earlier_run_left_behind_is_cleared_and_what_others_keep_is_not() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let daemon = Daemon::connected(broker.port).await;
        for plug in ["kettle", "lamp", "heater"] {
            daemon.show_plug(plug);
        }
        daemon.publish(Update::Ready);
        until_retained(broker.port, "all three", |retained| {
            has(retained, &document_topic("heater"), "") && has(retained, &topic("bridge/info"), "test")
        })
        .await;
        daemon.link.stop(BOUND).await;
        let subscriber = Subscriber::connect(broker.port).await;
        let foreign =
            r#"{"origin":{"name":"hs100d"},"device":{"identifiers":["x"],"via_device":"hs100d_other"}}"#;
        subscriber.publish_retained("homeassistant/device/foreign/config", foreign);

        // The kettle is back, the lamp is known but has not answered yet, the heater was taken out of the config.
        let daemon = Daemon::connected(broker.port).await;
        daemon.publish(Update::Availability(name("lamp"), Availability::Offline));
        daemon.show_plug("kettle");
        daemon.publish(Update::Ready);
        let left = until_retained(broker.port, "the heater to be gone", |retained| {
            !has(retained, &document_topic("heater"), "")
                && !retained.iter().any(|seen| seen.topic.contains("/heater/"))
        })
        .await;
        for plug in ["kettle", "lamp"] {
            assert!(has(&left, &document_topic(plug), ""), "{brand:?} {plug}");
            assert!(has(&left, &topic(&format!("{plug}/info")), ""), "{brand:?} {plug}");
        }
        assert!(has(&left, "homeassistant/device/foreign/config", "hs100d_other"), "{brand:?}");
    }
}

#[tokio::test]
async fn another_form_of_documents_takes_the_place_of_the_first() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let daemon = Daemon::connected(broker.port).await;
        daemon.show_plug("kettle");
        until_retained(broker.port, "the device form", |retained| {
            has(retained, &document_topic("kettle"), "cmps")
        })
        .await;
        daemon.link.stop(BOUND).await;

        let subscriber = Subscriber::connect(broker.port).await;
        let mut component = options(broker.port);
        component.homeassistant.discovery = DocumentForm::Component;
        let mut daemon = Daemon::start(component);
        daemon.connects().await;
        daemon.show_plug("kettle");
        let relay = format!("homeassistant/switch/hs100d_{}/hs100d_relay/config", device_id("kettle"));
        subscriber.clear();
        subscriber.receives(&relay, "uniq_id").await;
        let order = subscriber
            .until("the old document to be cleared", |all| {
                let asked = all.iter().position(|seen| seen.payload.contains("migrate_discovery"))?;
                let shown = all.iter().position(|seen| seen.topic == relay)?;
                let cleared = all
                    .iter()
                    .position(|seen| seen.topic == document_topic("kettle") && seen.payload.is_empty())?;
                Some([asked, shown, cleared])
            })
            .await;
        assert!(order.is_sorted(), "{brand:?} {order:?}");
        daemon.publish(Update::Ready);
        until_retained(broker.port, "one form only", |retained| {
            has(retained, &relay, "") && !retained.iter().any(|seen| seen.topic.contains("/device/"))
        })
        .await;
    }
}

#[tokio::test]
async fn a_probe_disturbs_nobody() {
    for brand in brands() {
        let broker = TestBroker::start(brand).await;
        let mut daemon = Daemon::connected(broker.port).await;
        let before = retained(broker.port).await.len();
        mqtt::probe(options(broker.port), BOUND).await.unwrap();
        let subscriber = Subscriber::connect(broker.port).await;
        subscriber.publish(&topic("kettle/set"), "ON");
        assert_eq!(daemon.hears_command().await.2, on(), "{brand:?}");
        assert!(retained(broker.port).await.len() >= before);
    }
    let port = free_port();
    let error = mqtt::probe(options(port), BOUND).await.unwrap_err();
    assert!(error.text.contains("connection refused"), "{error}");
}

#[tokio::test]
async fn a_broker_that_is_gone_is_noticed_although_there_is_always_something_to_send_it() {
    let broker = TestBroker::start(Brand::Embedded).await;
    let proxy = BrokerProxy::start(broker.port).await;
    // Our own state does not come back, so we do not publish it again.
    proxy.set(Trouble::DropsMessages);
    let mut daemon = Daemon::connected(proxy.port()).await;
    daemon.show_plug("kettle");
    daemon.publish(Update::Ready);
    until_retained(broker.port, "everything", |retained| {
        has(retained, &document_topic("kettle"), "hs100d")
            && has(retained, "homeassistant/device/hs100d_test/config", "connectivity")
            && has(retained, &topic("kettle/state"), "ON")
            && has(retained, &topic("bridge/state"), "online")
    })
    .await;
    proxy.set(Trouble::Silent);
    let Daemon { link, inbound } = &mut daemon;
    let mut meter = Meter { power: Some(0.0), ..Meter::default() };
    // It takes twice the keep-alive.
    let complaint = tokio::time::timeout(2 * BOUND, async {
        loop {
            tokio::select! {
                heard = inbound.recv() => {
                    if let Inbound::Link(Err(complaint)) = heard.expect("the link has ended") {
                        return complaint;
                    }
                }
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    meter.power = meter.power.map(|power| power + 1.0);
                    let energy = Energy { meter, ..Energy::default() };
                    link.publish(Update::Energy(name("kettle"), energy), Clock::now());
                }
            }
        }
    })
    .await
    .expect("a complaint");
    assert!(complaint.contains("acknowledges none of our messages"), "{complaint}");
}
