//! The other clients of the broker: some send commands, one receives everything.
//!
//! Each connection has its own event loop, so that messages of one connection are not sent by the next: what a client
//! could not send is not sent later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Packet, PubAckReason, PublishNotice, PublishOptions,
    PublishProperties, PublishResult, QoS,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::dice::Dice;
use super::ledger::{Ack, Ledger};

/// The pause before the next try to connect.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// A connection attempt that takes longer is aborted.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The number of plugs that one scene switches at once.
const SCENE: usize = 20;

/// The ledger, shared by all clients.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Ledger>>);

impl Book {
    pub(crate) fn open(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A target of commands, with its topic.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// The index of the plug.
    pub(crate) plug: usize,
    /// The index of the outlet; `None` for the whole plug.
    pub(crate) outlet: Option<usize>,
    pub(crate) dims: bool,
}

/// A client that receives everything that the daemon publishes.
#[derive(Clone)]
pub(crate) struct Listener {
    kept: Arc<Mutex<HashMap<String, String>>>,
    subscribed: watch::Receiver<u64>,
}

impl Listener {
    pub(crate) fn start(port: u16, book: Book) -> Self {
        let kept = Arc::default();
        let (tell, subscribed) = watch::channel(0);
        tokio::spawn(listen(port, Arc::clone(&kept), book, tell));
        Self { kept, subscribed }
    }

    /// The number of subscriptions so far.
    pub(crate) fn subscribed(&self) -> u64 {
        *self.subscribed.borrow()
    }

    /// The last message on a topic.
    pub(crate) fn last(&self, topic: &str) -> Option<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(topic).cloned()
    }

    pub(crate) fn last_json(&self, topic: &str) -> Value {
        self.last(topic).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// The plugs that have an availability.
    pub(crate) fn plugs(&self) -> Vec<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let name =
            |topic: &String| Some(topic.strip_prefix("hs100d/")?.strip_suffix("/availability")?.to_owned());
        kept.keys().filter_map(name).collect()
    }
}

async fn listen(
    port: u16,
    kept: Arc<Mutex<HashMap<String, String>>>,
    book: Book,
    subscribed: watch::Sender<u64>,
) {
    loop {
        let (client, mut events) = connection("soak-listener", port);
        // Not `#`: commands would then have a second subscriber.
        for filter in [
            "hs100d/+/result",
            "hs100d/+/state",
            "hs100d/+/availability",
            "hs100d/bridge/+",
            "soak/answers/+",
        ] {
            // These few fit in the client's queue.
            let _ = client.try_subscribe(filter, QoS::AtLeastOnce);
        }
        let mut unanswered = 5;
        while let Ok(event) = events.poll().await {
            match event {
                Event::Incoming(Packet::SubAck(_)) => {
                    unanswered -= 1;
                    if unanswered == 0 {
                        subscribed.send_modify(|times| *times += 1);
                    }
                }
                Event::Incoming(Packet::Publish(message)) => {
                    hear(&message.topic, &message.payload, &kept, &book);
                }
                _ => {}
            }
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

fn hear(topic: &Bytes, payload: &Bytes, kept: &Mutex<HashMap<String, String>>, book: &Book) {
    let topic = String::from_utf8_lossy(topic);
    if topic.ends_with("/result") {
        let result: Value = serde_json::from_slice(payload).unwrap_or_default();
        let status = result["status"].as_str().unwrap_or_default();
        book.open().result(result["transaction"].as_u64(), status, Instant::now());
    } else if topic.starts_with("soak/answers/") {
        let answer: Value = serde_json::from_slice(payload).unwrap_or_default();
        book.open().answer(answer["transaction"].as_u64());
    } else {
        let payload = String::from_utf8_lossy(payload).into_owned();
        kept.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.into_owned(), payload);
    }
}

/// A client that sends commands while it is allowed to.
pub(crate) struct Sender {
    pub(crate) number: usize,
    pub(crate) port: u16,
    pub(crate) targets: Arc<[Target]>,
    pub(crate) book: Book,
    pub(crate) dice: Dice,
    /// The longest pause between two commands.
    pub(crate) pause: Duration,
    pub(crate) may_send: watch::Receiver<bool>,
}

impl Sender {
    /// Sends until the soak ends.
    pub(crate) async fn run(mut self) {
        loop {
            let (client, mut events) = connection(&format!("soak-sender-{}", self.number), self.port);
            if connects(&mut events).await {
                // The event loop runs in its own task, so that acknowledgements arrive during a pause.
                let mut life = tokio::spawn(async move { while events.poll().await.is_ok() {} });
                tokio::select! {
                    () = self.send(&client) => life.abort(),
                    _ = &mut life => {}
                }
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// Sends until the connection accepts no more, or the listener is disconnected.
    async fn send(&mut self, client: &AsyncClient) {
        loop {
            let longest = (self.pause.as_millis() as usize).max(2);
            tokio::time::sleep(self.dice.millis(1..longest)).await;
            if self.may_send.wait_for(|may| *may).await.is_err() {
                return std::future::pending().await;
            }
            let targets = Arc::clone(&self.targets);
            // Mostly one command; sometimes several to one plug at once, or one to many, as scenes do.
            let (plugs, times) = match self.dice.number(0..40) {
                0 => (SCENE, 1),
                1..=3 => (1, self.dice.number(2..5)),
                _ => (1, 1),
            };
            for _ in 0..plugs {
                let target = self.dice.pick(&targets).clone();
                for _ in 0..times {
                    if !self.command(client, &target) {
                        return;
                    }
                }
            }
        }
    }

    /// Sends one command; false if the connection is gone.
    fn command(&mut self, client: &AsyncClient, target: &Target) -> bool {
        let wants_answer = self.dice.one_in(4);
        let transaction = self.book.open().send(wants_answer, Instant::now());
        let (topic, mut payload) = self.words(target);
        payload["transaction"] = json!(transaction);
        let mut options = PublishOptions::at_least_once();
        if wants_answer {
            let properties = PublishProperties {
                response_topic: Some(format!("soak/answers/{}", self.number)),
                ..PublishProperties::default()
            };
            options = options.properties(properties);
        }
        let sent = client.try_publish_tracked(topic, payload.to_string(), options);
        let Ok(notice) = sent else {
            self.book.open().acknowledge(transaction, Ack::CutOff);
            return false;
        };
        tokio::spawn(await_ack(notice, transaction, self.book.clone()));
        true
    }

    /// A random command: its topic and its payload.
    fn words(&mut self, target: &Target) -> (String, Value) {
        let set = format!("hs100d/{}/set", target.name);
        let state = *self.dice.pick(&["ON", "OFF", "TOGGLE"]);
        match self.dice.number(0..20) {
            0 => (format!("hs100d/{}/get", target.name), json!({})),
            1 if target.outlet.is_none() => (set, json!({"led": self.dice.pick(&["ON", "OFF"])})),
            2 => (set, json!({"state": "ON", "for": "3s"})),
            3..=12 if target.dims => (set, json!({"brightness": self.dice.number(1..100)})),
            // An invalid command has a result as well.
            4 => (set, json!({"state": "SIDEWAYS"})),
            _ => (set, json!({"state": state})),
        }
    }
}

async fn await_ack(notice: PublishNotice, transaction: usize, book: Book) {
    let ack = match notice.wait_async().await {
        Ok(PublishResult::Qos1(ack)) if ack.reason == PubAckReason::NoMatchingSubscribers => Ack::Nobody,
        Ok(_) => Ack::Taken,
        Err(_) => Ack::CutOff,
    };
    book.open().acknowledge(transaction, ack);
}

async fn connects(events: &mut EventLoop) -> bool {
    let greeted = async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(CONNECT_WITHIN, greeted).await.unwrap_or(false)
}

fn connection(id: &str, port: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(id.to_owned(), ("127.0.0.1", port));
    options.set_max_packet_size(Some(1 << 20));
    AsyncClient::builder(options).capacity(1000).build()
}
