//! Faults of a broker, seen by the real daemon. With each fault the plugs are served, one line says what a person has
//! to do, and once the fault is gone everything works as before without help.
//!
//! The broker is a real one. A proxy between it and the daemon causes the faults. The test's own client connects to the
//! broker directly.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use crate::support::broker_proxy::{BrokerProxy, Trouble};
use crate::support::e2e::{Config, Daemon, Scene, Setup, holds, home_of, json_of};
use crate::support::mqtt::{self, BOUND, Brand, Subscriber, TestBroker, within};
use hs100d::sim::home::SimHome;
use serde_json::json;

const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;
const SESSION_TAKEN_OVER: u8 = 0x8E;
const ADMINISTRATIVE_ACTION: u8 = 0x98;
const PACKET_TOO_LARGE: u8 = 0x95;
/// More than may be in flight at once and than the client buffers.
const MORE_THAN_FIT: usize = 120;

/// Two plugs, a broker, a proxy in front of it that can cause faults, and a daemon.
struct Stage {
    home: SimHome,
    broker: TestBroker,
    line: BrokerProxy,
    setup: Setup,
    daemon: Daemon,
}

impl Stage {
    async fn set(trouble: Trouble) -> Self {
        let home = home_of(&["Lamp", "Fan"]).await;
        let broker = TestBroker::start(Brand::Embedded).await;
        let line = BrokerProxy::start(broker.port).await;
        line.set(trouble);
        let setup = Setup::new(&Self::config(&home, &line));
        let daemon = setup.daemon();
        Self { home, broker, line, setup, daemon }
    }

    fn config(home: &SimHome, line: &BrokerProxy) -> Config {
        Config::of(home).without("cloud").at_broker(line.port()).set("local", "poll_interval", "1s")
    }

    /// A subscriber whose command the daemon has executed: before that command its own state came back.
    async fn subscriber_that_it_heard(&self) -> Subscriber {
        self.daemon.is_connected().await;
        let subscriber = Subscriber::connect(self.broker.port).await;
        subscriber.receives("hs100d/bridge/state", "online").await;
        let orders = self.home.plug(0).traffic().relay_orders;
        subscriber.publish("hs100d/lamp/set", "ON");
        let heard = || self.home.plug(0).traffic().relay_orders > orders;
        self.home.wait_until(BOUND, heard).await.unwrap();
        subscriber
    }

    /// Waits until each plug was read twice from now on.
    async fn plugs_are_served(&self) {
        let reads = |plug: usize| self.home.plug(plug).traffic().lan_requests;
        let before = [reads(0), reads(1)];
        let served = || (0..2).all(|plug| reads(plug) >= before[plug] + 2);
        self.home.wait_until(BOUND, served).await.unwrap();
    }

    /// Ends the fault and waits until everything is as before: states are at the broker, commands are received and
    /// answered.
    async fn heals(self) {
        self.line.set(Trouble::None);
        self.works().await;
    }

    async fn works(self) {
        let Self { home, broker, setup, daemon, .. } = self;
        let scene =
            Scene { subscriber: Subscriber::connect(broker.port).await, setup, daemon, port: broker.port };
        let is_up = |all: &[mqtt::Message]| {
            let newest = all.iter().rfind(|seen| seen.topic == "hs100d/bridge/state")?;
            (newest.payload == "online").then_some(())
        };
        scene.subscriber.until("the bridge to be online", is_up).await;
        for (number, plug) in ["lamp", "fan"].into_iter().enumerate() {
            scene.shows(plug, json!({"route": "local"})).await;
            let state = if home.plug(number).is_on() { "OFF" } else { "ON" };
            // A command that is published while the daemon is not subscribed is lost, so the test repeats it.
            let result = within("a result", async {
                loop {
                    let transaction = scene.send(plug, json!({ "state": state }));
                    let heard = tokio::time::timeout(BOUND / 20, scene.result(plug, &transaction)).await;
                    if let Ok(result) = heard {
                        return result;
                    }
                }
            })
            .await;
            assert!(holds(&result, &json!({"status": "ok", "state": state})), "{result}");
            scene.shows(plug, json!({ "state": state })).await;
        }
    }

    /// The only line at level WARN that contains this text.
    async fn says_once(&self, part: &str) -> String {
        let line = self.daemon.says(part).await;
        assert!(line.contains(" WARN "), "{line}");
        line
    }

    fn was_said_once(&self, part: &str) {
        let warnings =
            self.daemon.lines().iter().filter(|l| l.contains(" WARN ") && l.contains(part)).count();
        assert_eq!(warnings, 1, "{part:?}");
    }
}

#[tokio::test]
async fn a_broker_that_refuses_the_login_is_asked_again_until_it_lets_us_in() {
    let stage = Stage::set(Trouble::Refuses(BAD_USER_NAME_OR_PASSWORD)).await;
    let remedy = "it refuses the login: check mqtt.username and mqtt.password";
    stage.says_once(remedy).await;
    stage.plugs_are_served().await;
    stage.line.connects(2).await;
    stage.was_said_once(remedy);
    stage.heals().await;
}

#[tokio::test]
async fn a_reload_sends_a_refused_password_not_again_and_a_corrected_one_at_once() {
    let stage = Stage::set(Trouble::Refuses(BAD_USER_NAME_OR_PASSWORD)).await;
    let config = |password: &str, name: &str| {
        let config = Stage::config(&stage.home, &stage.line).set("mqtt", "username", "me");
        stage.setup.write(&config.set("mqtt", "password", password).set("mqtt", "client_id", name).text());
        stage.daemon.signal("HUP");
    };
    stage.says_once("it refuses the login").await;
    config("wrong", "a");
    stage.daemon.says_again("it refuses the login", 2).await;
    // The refused password is not tried again soon, whatever else the config changes.
    config("wrong", "b");
    stage.says_once("it refused this name and password before the reload").await;
    stage.line.set(Trouble::None);
    config("right", "b");
    stage.heals().await;
}

#[tokio::test]
async fn a_broker_that_stalls_after_the_connect_is_left_and_tried_again() {
    let stage = Stage::set(Trouble::Stalls).await;
    let remedy = "it accepts the connection and sends nothing: check that mqtt.url has an MQTT port";
    stage.says_once(remedy).await;
    stage.plugs_are_served().await;
    stage.line.connects(2).await;
    stage.was_said_once(remedy);
    stage.heals().await;
}

#[tokio::test]
async fn a_broker_that_drops_acknowledgements_does_not_make_us_mute_for_ever() {
    let stage = Stage::set(Trouble::None).await;
    stage.daemon.is_connected().await;
    let subscriber = Subscriber::connect(stage.broker.port).await;
    subscriber.receives("hs100d/bridge/state", "online").await;
    stage.line.set(Trouble::DropsAcks);
    // Commands are carried out even if their results cannot be published.
    for number in 0..MORE_THAN_FIT {
        let state = if number % 2 == 0 { "ON" } else { "OFF" };
        let orders = stage.home.plug(0).traffic().relay_orders;
        subscriber.publish("hs100d/lamp/set", state);
        let heard = || stage.home.plug(0).traffic().relay_orders > orders;
        stage.home.wait_until(BOUND, heard).await.unwrap();
    }
    stage.plugs_are_served().await;
    // Results that were dropped are not sent later.
    stage.line.set(Trouble::None);
    stage.says_once("acknowledges none of our messages: see the broker's log").await;
    stage.works().await;
}

#[tokio::test]
async fn a_broker_that_lost_our_subscriptions_does_not_leave_us_deaf_for_ever() {
    tokio::join!(loses_subscriptions(false), loses_subscriptions(true));
}

/// At the beginning of a connection, or while it stands.
async fn loses_subscriptions(while_connected: bool) {
    const BUSY: u8 = 0x89;
    let stage = Stage::set(Trouble::None).await;
    let subscriber = stage.subscriber_that_it_heard().await;
    subscriber.clear();
    stage.line.set(Trouble::DropsMessages);
    if !while_connected {
        stage.line.kick(BUSY);
        stage.line.connects(2).await;
    }
    let before = stage.line.connected();
    // What it publishes arrives, and it reads the plugs; but no command reaches it.
    stage.plugs_are_served().await;
    let orders = stage.home.plug(0).traffic().relay_orders;
    subscriber.publish("hs100d/lamp/set", "OFF");
    // Each of these takes up to 15 s.
    subscriber.receives("hs100d/bridge/state", "online").await;
    stage.says_once("sends us no messages").await;
    stage.line.connects(before + 1).await;
    assert_eq!(stage.home.plug(0).traffic().relay_orders, orders, "the command is lost");
    stage.heals().await;
}

#[tokio::test]
async fn messages_that_did_not_come_back_are_forgotten_with_their_connection() {
    let stage = Stage::set(Trouble::None).await;
    let subscriber = stage.subscriber_that_it_heard().await;
    // On the second connection its state is acknowledged and does not come back; then the broker hangs, for longer than that
    // is waited for.
    stage.line.set(Trouble::DropsMessages);
    subscriber.clear();
    stage.line.kick(0x89);
    stage.line.connects(2).await;
    subscriber.receives("hs100d/bridge/state", "online").await;
    stage.plugs_are_served().await;
    stage.line.set(Trouble::Stalls);
    stage.line.kick(0x89);
    stage.line.connects(6).await;
    let lines = stage.daemon.lines();
    assert!(!lines.iter().any(|line| line.contains("sends us no messages")), "{lines:#?}");
}

#[tokio::test]
async fn a_broker_that_refuses_each_message_is_told_in_a_few_lines_and_commands_go_on() {
    let stage = Stage::set(Trouble::RefusesMessages(PACKET_TOO_LARGE)).await;
    let line = stage.says_once("it refuses the message of ").await;
    assert!(line.contains(" bytes at ") && line.contains("PacketTooLarge, 0x95"), "{line}");
    assert!(line.contains("(in mosquitto message_size_limit)"), "{line}");
    let subscriber = Subscriber::connect(stage.broker.port).await;
    for state in ["ON", "OFF", "ON", "OFF"] {
        let orders = stage.home.plug(0).traffic().relay_orders;
        subscriber.publish("hs100d/lamp/set", state);
        let heard = || stage.home.plug(0).traffic().relay_orders > orders;
        stage.home.wait_until(BOUND, heard).await.unwrap();
    }
    stage.plugs_are_served().await;
    assert_eq!(stage.line.connected(), 1, "the connection is not given up for it");
    let lines = stage.daemon.lines();
    let warnings =
        lines.iter().filter(|line| line.contains(" WARN ") && line.contains("it does not take")).count();
    assert!(warnings <= 11, "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("client id")), "{lines:#?}");
    stage.heals().await;
}

#[tokio::test]
async fn a_state_that_was_refused_for_another_readers_sake_is_published_again_for_home_assistant() {
    // RabbitMQ says so while the node of any reader is down. The other readers get the message.
    const IMPLEMENTATION_SPECIFIC: u8 = 0x83;
    let stage = Stage::set(Trouble::None).await;
    stage.daemon.is_connected().await;
    let subscriber = Subscriber::connect(stage.broker.port).await;
    subscriber.receives("hs100d/bridge/state", "online").await;
    stage.line.set(Trouble::RefusesMessages(IMPLEMENTATION_SPECIFIC));
    subscriber.publish("hs100d/lamp/set", "ON");
    let line = stage.says_once("it refuses the message of ").await;
    assert!(!line.contains("until it changes"), "{line}");
    let states = |all: &[mqtt::Message]| all.iter().filter(|seen| seen.topic == "hs100d/lamp/state").count();
    let answered = |all: &[mqtt::Message]| {
        all.iter().any(|seen| seen.topic == "hs100d/lamp/result").then(|| states(all))
    };
    let before = subscriber.until("the result", answered).await;
    stage.line.set(Trouble::None);
    subscriber.publish("homeassistant/status", "online");
    subscriber.until("the state again", |all| (states(all) > before).then_some(())).await;
    assert_eq!(stage.line.connected(), 1);
    stage.heals().await;
}

#[tokio::test]
async fn an_oversize_retained_message_is_told_with_the_remedy_and_costs_no_plug_anything() {
    let stage = Stage::set(Trouble::Oversize).await;
    let line = stage.says_once("which is over our limit").await;
    assert!(line.contains("remove the large retained message below mqtt.base_topic"), "{line}");
    stage.plugs_are_served().await;
    stage.line.connects(2).await;
    stage.was_said_once("which is over our limit");
    stage.heals().await;
}

#[tokio::test]
async fn a_broker_that_kicks_us_is_connected_to_again() {
    let stage = Stage::set(Trouble::None).await;
    stage.daemon.is_connected().await;
    stage.line.kick(ADMINISTRATIVE_ACTION);
    stage.says_once("ended the connection (AdministrativeAction)").await;
    stage.plugs_are_served().await;
    stage.line.connects(2).await;
    stage.heals().await;
}

#[tokio::test]
async fn a_broker_that_gave_our_place_to_another_is_left_to_it_until_somebody_gives_us_a_name_of_our_own() {
    let stage = Stage::set(Trouble::None).await;
    stage.daemon.is_connected().await;
    stage.line.kick(SESSION_TAKEN_OVER);
    let line = stage.says_once("gives way for five minutes").await;
    assert!(line.contains("mqtt.client_id"), "{line}");
    stage.plugs_are_served().await;
    assert_eq!(stage.line.connected(), 1, "it gives way");
    stage.setup.write(&Stage::config(&stage.home, &stage.line).set("mqtt", "client_id", "another").text());
    stage.daemon.signal("HUP");
    stage.line.connects(2).await;
    stage.heals().await;
}

#[tokio::test]
async fn a_broker_that_denies_the_subscription_is_shown_the_states_and_asked_again_until_it_allows_it() {
    let stage = Stage::set(Trouble::Denies).await;
    let line = stage.says_once("it refuses our subscription to hs100d/+/set, ").await;
    assert!(line.contains("until the user in mqtt.username may read these topics"), "{line}");
    stage.plugs_are_served().await;
    let subscriber = Subscriber::connect(stage.broker.port).await;
    stage.home.plug(0).press_button();
    subscriber
        .until("the button", |all| {
            let newest = all.iter().rfind(|seen| seen.topic == "hs100d/lamp/state")?;
            (json_of(newest)["state"] == "ON").then_some(())
        })
        .await;
    stage.line.set(Trouble::None);
    stage.daemon.says("connected to the broker at ").await;
    assert_eq!(stage.line.connected(), 1, "the connection is not given up for it");
    stage.was_said_once("it refuses our subscription");
    stage.works().await;
}

#[tokio::test]
async fn a_command_is_carried_out_and_answered_while_a_broker_that_confirms_nothing_is_left() {
    let stage = Stage::set(Trouble::None).await;
    stage.daemon.is_connected().await;
    stage.plugs_are_served().await;
    let subscriber = Subscriber::connect(stage.broker.port).await;
    subscriber.receives("hs100d/lamp/availability", "online").await;
    stage.line.set(Trouble::DropsAcks);
    let other = TestBroker::start(Brand::Embedded).await;
    let config = Stage::config(&stage.home, &stage.line).at_broker(other.port);
    stage.setup.write(&config.text());
    stage.daemon.signal("HUP");
    subscriber.receives("hs100d/bridge/state", "offline").await;
    subscriber.publish("hs100d/lamp/set", r#"{"state": "ON", "transaction": "between"}"#);
    let result = json_of(&subscriber.receives("hs100d/lamp/result", "between").await);
    assert!(holds(&result, &json!({"status": "ok", "state": "ON"})), "{result}");
    assert!(stage.home.plug(0).is_on());
    let is_at = |port: u16| format!("connected to the broker at 127.0.0.1:{port}");
    assert!(!stage.daemon.lines().iter().any(|line| line.contains(&is_at(other.port))), "still leaving");

    stage.daemon.says(&is_at(other.port)).await;
    let Stage { home, line, setup, daemon, .. } = stage;
    Stage { home, line, setup, daemon, broker: other }.works().await;
}
