//! Our own MQTT clients at the nodes: they send commands, and hear what the sites publish.
//!
//! Each connection has its own event loop, so that what one connection could not send is not sent by the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rumqttc::{
    AsyncClient, Broker, ConnectProperties, Event, EventLoop, MqttOptions, Packet, PubAckReason,
    PublishNotice, PublishOptions, PublishResult, QoS,
};
use tokio::task::JoinHandle;

use super::cluster::{self, Cluster, NODES, PORT, USER};
use super::ledger::{Ack, Ledger};
use super::links::LinkLog;
use super::process::Fault;

/// The pause before the next try to connect.
const TRY_AGAIN: Duration = Duration::from_millis(300);
/// A connection attempt that takes longer is aborted.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// The node gives a silent client up after this time and a half.
const KEEP_ALIVE: u16 = 5;
/// A node from which nothing came for so long is given up: it answers a ping each five seconds.
const SILENT: Duration = Duration::from_secs(10);
/// More than the longest document.
const MAX_PACKET: u32 = 1 << 20;

/// What all clients have heard.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Heard>>);

/// What was heard so far.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) ledger: Ledger,
    /// The last message at each topic, and when it came.
    pub(crate) last: HashMap<String, (Vec<u8>, Instant)>,
}

impl Book {
    pub(crate) fn open(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that stays at one node, or goes to the next one when its node fails.
pub(crate) struct Client {
    live: Arc<Mutex<Option<AsyncClient>>>,
    task: JoinHandle<()>,
    book: Book,
}

/// What a client does.
#[derive(Clone)]
pub(crate) struct Role {
    pub(crate) id: String,
    pub(crate) filters: Vec<&'static str>,
    pub(crate) first: usize,
    /// It goes to another node if its node fails.
    pub(crate) moves: bool,
    /// Where its connections are noted, and under which number.
    pub(crate) links: (LinkLog, usize),
}

impl Client {
    pub(crate) fn start(role: Role, password: &str, book: &Book) -> Self {
        let live = Arc::default();
        let task = tokio::spawn(stay_connected(role, password.to_owned(), Arc::clone(&live), book.clone()));
        Self { live, task, book: book.clone() }
    }

    /// Whether it is connected and subscribed.
    pub(crate) fn is_up(&self) -> bool {
        self.client().is_some()
    }

    /// Sends a command of the ledger; false if it has no connection.
    pub(crate) fn command(&self, topic: String, payload: String, transaction: usize) -> bool {
        let Some(client) = self.client() else { return false };
        match client.try_publish_tracked(topic, payload, PublishOptions::at_least_once()) {
            Ok(notice) => drop(tokio::spawn(await_ack(notice, transaction, self.book.clone()))),
            Err(_) => self.book.open().ledger.acknowledge(transaction, Ack::CutOff),
        }
        true
    }

    /// Sends another message.
    pub(crate) fn say(&self, topic: &str, payload: &str) -> Result<(), Fault> {
        let client = self.client().ok_or("no connection")?;
        Ok(client.try_publish(topic, payload, PublishOptions::at_least_once())?)
    }

    fn client(&self) -> Option<AsyncClient> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn stay_connected(role: Role, password: String, live: Arc<Mutex<Option<AsyncClient>>>, book: Book) {
    let set = |client| *live.lock().unwrap_or_else(PoisonError::into_inner) = client;
    let mut node = role.first;
    loop {
        let (client, mut events) = open(&role.id, node, &password, |_| {});
        if connects(&client, &mut events, &role.filters).await {
            set(Some(client));
            role.links.0.note(role.links.1, node, true);
            hear_all(&mut events, &book).await;
            set(None);
        }
        role.links.0.note(role.links.1, node, false);
        if role.moves {
            node = (node + 1) % NODES;
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// Hears what comes until the connection ends, or nothing has come for too long: the client library alone may go on for minutes
/// with a node whose cable is out.
async fn hear_all(events: &mut EventLoop, book: &Book) {
    let mut heard_at = tokio::time::Instant::now();
    while let Ok(Ok(event)) = tokio::time::timeout_at(heard_at + SILENT, events.poll()).await {
        let Event::Incoming(packet) = event else { continue };
        heard_at = tokio::time::Instant::now();
        if let Packet::Publish(message) = packet {
            hear(&message.topic, &message.payload, book);
        }
    }
}

fn hear(topic: &[u8], payload: &[u8], book: &Book) {
    let (topic, now) = (String::from_utf8_lossy(topic), Instant::now());
    let mut heard = book.open();
    if topic.ends_with("/result") {
        let result: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
        if let Some(transaction) = result["transaction"].as_u64() {
            heard.ledger.result(transaction, result["status"].as_str().unwrap_or_default(), now);
        }
        return;
    }
    heard.last.insert(topic.into_owned(), (payload.to_vec(), now));
}

async fn await_ack(notice: PublishNotice, transaction: usize, book: Book) {
    let ack = match notice.wait_async().await {
        Ok(PublishResult::Qos1(ack)) if ack.reason == PubAckReason::NoMatchingSubscribers => Ack::Nobody,
        Ok(_) => Ack::Taken,
        Err(_) => Ack::CutOff,
    };
    book.open().ledger.acknowledge(transaction, ack);
}

/// Prepares a connection to a node.
pub(crate) fn open(
    id: &str,
    node: usize,
    password: &str,
    change: impl FnOnce(&mut MqttOptions),
) -> (AsyncClient, EventLoop) {
    let broker = Broker::tcp(cluster::address(node).to_string(), PORT);
    let mut options = MqttOptions::new(id.to_owned(), broker);
    let mut properties = ConnectProperties::new();
    properties.max_packet_size = Some(MAX_PACKET);
    options
        .set_connect_properties(properties)
        .set_clean_start(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_credentials(USER.to_owned(), password.to_owned());
    change(&mut options);
    AsyncClient::builder(options).capacity(1000).build()
}

/// Connects and subscribes; false if one of the two fails.
pub(crate) async fn connects(client: &AsyncClient, events: &mut EventLoop, filters: &[&str]) -> bool {
    let ready = async {
        let mut awaited = 1 + filters.len();
        while awaited > 0 {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    awaited -= 1;
                    for filter in filters {
                        // These few fit in the client's queue.
                        let _ = client.try_subscribe(*filter, QoS::AtLeastOnce);
                    }
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => awaited -= 1,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        true
    };
    tokio::time::timeout(CONNECT_WITHIN, ready).await.unwrap_or(false)
}

/// One client at each node, which hears the results, and one that hears everything and moves.
pub(crate) fn crew(cluster: &Cluster, book: &Book, links: &LinkLog) -> (Vec<Client>, Client) {
    let start = |id: String, filters, first, moves| {
        let links = (links.clone(), if moves { NODES } else { first });
        Client::start(Role { id, filters, first, moves, links }, &cluster.password, book)
    };
    let senders =
        (0..NODES).map(|node| start(format!("sender-{}", node + 1), vec!["fleet/+/+/result"], node, false));
    let everything =
        vec!["fleet/+/+/state", "fleet/+/+/availability", "fleet/+/+/info", "homeassistant/device/+/config"];
    (senders.collect(), start("recorder".to_owned(), everything, NODES - 1, true))
}
