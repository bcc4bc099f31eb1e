//! One client's session: what waits for it, what it has not acknowledged, and how long it outlives its connection.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{DisconnectReasonCode, Packet, PubRel, Publish};
use tokio::sync::Notify;

use super::filters::Terms;
use super::message::BrokerMessage;

/// The most messages that wait for a client that is connected, so that all retained ones fit.
const MAX_WAITING: usize = 120_000;
/// The most that wait for one that is not; mosquitto keeps as many.
const MAX_STORED: usize = 1000;
/// What the messages that wait for one client may take in memory, in bytes.
const MAX_WAITING_SIZE: usize = 128 * 1024 * 1024;
/// The most messages that are sent and not acknowledged, whatever the client allows.
const MAX_IN_FLIGHT: usize = 1000;

/// A message on its way to one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WaitingMessage {
    pub(super) message: Arc<BrokerMessage>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) identifiers: Vec<usize>,
}

/// A message that was sent and is not acknowledged.
#[derive(Debug)]
struct SentMessage {
    pkid: u16,
    waiting: WaitingMessage,
    /// The client has it and asks for its release, the third of the four packets of QoS 2.
    is_received: bool,
}

/// A last will.
#[derive(Debug, Clone)]
pub(super) struct Testament {
    pub(super) message: BrokerMessage,
    /// How long after the end of the connection it is published.
    pub(super) delay: Duration,
    /// How long it is worth delivering from then on.
    pub(super) expiry: Option<Duration>,
}

/// A connection as the session knows it.
#[derive(Debug)]
pub(super) struct Attached {
    /// Tells a connection from the next one of the same client.
    pub(super) number: u64,
    /// Wakes the connection's task.
    pub(super) wake: Arc<Notify>,
    /// Why the connection has to end, once it has to.
    pub(super) ends: Option<DisconnectReasonCode>,
    /// The largest packet that the client takes.
    pub(super) max_packet_size: usize,
    /// The most messages that it takes without an acknowledgement.
    pub(super) receive_max: usize,
}

/// What the broker remembers of a client.
#[derive(Debug)]
pub(super) struct ClientSession {
    pub(super) client: Arc<str>,
    pub(super) attached: Option<Attached>,
    /// How long it outlives the connection.
    pub(super) expiry: Duration,
    /// When it ends, while there is no connection.
    pub(super) ends_at: Option<Instant>,
    pub(super) will: Option<Testament>,
    /// When the last will is published, while it waits.
    pub(super) will_at: Option<Instant>,
    /// By the filter as the client wrote it.
    pub(super) subscriptions: BTreeMap<Box<str>, Terms>,
    /// The filters' lengths together.
    pub(super) subscriptions_size: usize,
    waiting: VecDeque<WaitingMessage>,
    waiting_size: usize,
    in_flight: VecDeque<SentMessage>,
    /// How many of those in flight were sent on this connection.
    sent: usize,
    last_pkid: u16,
    /// Ids of messages of QoS 2 that came from the client and are not released.
    received: HashSet<u16>,
    /// Messages that were dropped since the last word of it.
    dropped: u64,
}

impl ClientSession {
    pub(super) fn new(client: Arc<str>, expiry: Duration) -> Self {
        Self {
            client,
            attached: None,
            expiry,
            ends_at: None,
            will: None,
            will_at: None,
            subscriptions: BTreeMap::new(),
            subscriptions_size: 0,
            waiting: VecDeque::new(),
            waiting_size: 0,
            in_flight: VecDeque::new(),
            sent: 0,
            last_pkid: 0,
            received: HashSet::new(),
            dropped: 0,
        }
    }

    /// A connection begins. What was sent on the one before and not acknowledged is sent again.
    pub(super) fn attach(&mut self, attached: Attached) {
        self.attached = Some(attached);
        self.ends_at = None;
        self.will_at = None;
        self.sent = 0;
    }

    /// The connection has ended. Messages of QoS 0 are not for later.
    pub(super) fn detach(&mut self, now: Instant) {
        self.attached = None;
        self.ends_at = Some(now + self.expiry);
        self.waiting.retain(|it| it.qos != QoS::AtMostOnce);
        self.waiting.truncate(MAX_STORED);
        self.waiting_size = self.waiting.iter().map(|it| it.message.size()).sum();
    }

    /// Asks the connection to end.
    pub(super) fn close(&mut self, reason: DisconnectReasonCode) {
        if let Some(attached) = &mut self.attached {
            attached.ends.get_or_insert(reason);
            attached.wake.notify_one();
        }
    }

    /// Queues a message, or drops it if too many wait. Returns how many were dropped so far if a word is due: at the first
    /// one, until the client has taken some.
    pub(super) fn enqueue(&mut self, waiting: WaitingMessage) -> Option<u64> {
        if self.attached.is_none() && waiting.qos == QoS::AtMostOnce {
            return None;
        }
        let most = if self.attached.is_some() { MAX_WAITING } else { MAX_STORED };
        let size = waiting.message.size();
        if self.waiting.len() >= most || self.waiting_size + size > MAX_WAITING_SIZE {
            self.dropped += 1;
            return (self.dropped == 1).then_some(self.dropped);
        }
        self.waiting_size += size;
        self.waiting.push_back(waiting);
        if let Some(attached) = &self.attached {
            attached.wake.notify_one();
        }
        None
    }

    /// The next packets for the client, at most `most` of them.
    pub(super) fn take(&mut self, most: usize, now: Instant) -> Vec<Packet> {
        let mut packets = Vec::new();
        let Some(attached) = &self.attached else { return packets };
        let (receive_max, max_size) = (attached.receive_max.min(MAX_IN_FLIGHT), attached.max_packet_size);
        while packets.len() < most {
            if let Some(again) = self.in_flight.get(self.sent) {
                self.sent += 1;
                packets.push(again.packet(now));
                continue;
            }
            let Some(next) = self.waiting.front() else { break };
            let needs_ack = next.qos != QoS::AtMostOnce;
            if needs_ack && self.in_flight.len() >= receive_max {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            self.waiting_size -= next.message.size();
            self.dropped = 0;
            let mut publish = next.publish(now);
            // A message that the client cannot take counts as delivered (MQTT 5.0, section 3.1.2.11.4).
            if next.message.is_expired(now) || publish.size() > max_size {
                continue;
            }
            if needs_ack {
                publish.pkid = self.free_pkid();
                self.in_flight.push_back(SentMessage {
                    pkid: publish.pkid,
                    waiting: next,
                    is_received: false,
                });
                self.sent += 1;
            }
            packets.push(Packet::Publish(publish));
        }
        packets
    }

    /// The client has a message of QoS 1, or has finished with one of QoS 2. False if it is not known.
    pub(super) fn acknowledged(&mut self, pkid: u16) -> bool {
        let Some(at) = self.in_flight.iter().position(|it| it.pkid == pkid) else { return false };
        self.in_flight.remove(at);
        if at < self.sent {
            self.sent -= 1;
        }
        true
    }

    /// The client has a message of QoS 2. False if it is not known.
    pub(super) fn received_by_client(&mut self, pkid: u16) -> bool {
        let Some(sent) = self.in_flight.iter_mut().find(|it| it.pkid == pkid) else { return false };
        sent.is_received = true;
        true
    }

    /// A message of QoS 2 came from the client. False if it had come before.
    pub(super) fn received_from_client(&mut self, pkid: u16) -> bool {
        self.received.insert(pkid)
    }

    /// The client has released a message of QoS 2. False if it is not known.
    pub(super) fn released_by_client(&mut self, pkid: u16) -> bool {
        self.received.remove(&pkid)
    }

    /// Everything that it has not acknowledged, oldest first: for the store.
    pub(super) fn undelivered(&self) -> impl Iterator<Item = &WaitingMessage> {
        let unreceived = self.in_flight.iter().filter(|it| !it.is_received).map(|it| &it.waiting);
        unreceived.chain(&self.waiting).filter(|it| it.qos != QoS::AtMostOnce)
    }

    /// Fewer than 65,535 are in flight, so one is free.
    fn free_pkid(&mut self) -> u16 {
        loop {
            self.last_pkid = self.last_pkid.checked_add(1).unwrap_or(1);
            if !self.in_flight.iter().any(|it| it.pkid == self.last_pkid) {
                return self.last_pkid;
            }
        }
    }
}

impl WaitingMessage {
    fn publish(&self, now: Instant) -> Publish {
        self.message.packet(self.qos, self.retain, &self.identifiers, now)
    }
}

impl SentMessage {
    fn packet(&self, now: Instant) -> Packet {
        if self.is_received {
            return Packet::PubRel(PubRel::new(self.pkid, None));
        }
        Packet::Publish(Publish { dup: true, pkid: self.pkid, ..self.waiting.publish(now) })
    }
}
