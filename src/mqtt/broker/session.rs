//! One client's session: what waits for it, what it has not acknowledged, and how long it outlives its connection.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
/// What the messages for one client may take in memory, in bytes, and what those for one that is not connected.
const MAX_SIZE: usize = 64 * 1024 * 1024;
const MAX_STORED_SIZE: usize = 4 * 1024 * 1024;
/// The same for all clients together. A message for several counts for each.
const MAX_SIZE_OF_ALL: usize = 256 * 1024 * 1024;
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

impl WaitingMessage {
    /// Roughly what it takes in memory, in bytes.
    fn size(&self) -> usize {
        self.message.size() + self.identifiers.len() * size_of::<usize>()
    }

    fn publish(&self, now: Instant) -> Publish {
        self.message.packet(self.qos, self.retain, &self.identifiers, now)
    }
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
pub(super) struct PendingWill {
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
    pub(super) will: Option<PendingWill>,
    /// When the last will is published, while it waits.
    pub(super) will_at: Option<Instant>,
    /// By the filter as the client wrote it.
    pub(super) subscriptions: BTreeMap<Box<str>, Terms>,
    /// The filters' lengths together.
    pub(super) subscriptions_size: usize,
    waiting: VecDeque<WaitingMessage>,
    in_flight: VecDeque<SentMessage>,
    /// How many of those in flight were sent on this connection.
    sent: usize,
    last_pkid: u16,
    /// Ids of messages of QoS 2 that came from the client and are not released.
    received: HashSet<u16>,
    /// What those that wait and those in flight take in memory, in bytes, and the sum of that of all sessions.
    size: usize,
    size_of_all: Arc<AtomicUsize>,
}

impl ClientSession {
    /// `size_of_all` is the same for all sessions of a broker.
    pub(super) fn new(client: Arc<str>, size_of_all: Arc<AtomicUsize>) -> Self {
        Self {
            client,
            attached: None,
            expiry: Duration::ZERO,
            ends_at: None,
            will: None,
            will_at: None,
            subscriptions: BTreeMap::new(),
            subscriptions_size: 0,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            sent: 0,
            last_pkid: 0,
            received: HashSet::new(),
            size: 0,
            size_of_all,
        }
    }

    /// A connection begins. What was sent on the one before and not acknowledged is sent again.
    pub(super) fn attach(&mut self, attached: Attached) {
        self.attached = Some(attached);
        self.ends_at = None;
        self.will_at = None;
        self.sent = 0;
    }

    /// The connection has ended. Messages of QoS 0 are not for later, and no more than a session may keep.
    pub(super) fn detach(&mut self, now: Instant) {
        self.attached = None;
        self.ends_at = Some(now + self.expiry);
        let mut room =
            MAX_STORED_SIZE.saturating_sub(self.in_flight.iter().map(|it| it.waiting.size()).sum());
        let mut number = 0;
        let mut freed = 0;
        self.waiting.retain(|it| {
            let size = it.size();
            let is_kept = it.qos != QoS::AtMostOnce && number < MAX_STORED && size <= room;
            if is_kept {
                number += 1;
                room -= size;
            } else {
                freed += size;
            }
            is_kept
        });
        self.free(freed);
    }

    /// Asks the connection to end.
    pub(super) fn close(&mut self, reason: DisconnectReasonCode) {
        if let Some(attached) = &mut self.attached {
            attached.ends.get_or_insert(reason);
            attached.wake.notify_one();
        }
    }

    /// Queues a message. False if it is dropped, because too many wait.
    pub(super) fn enqueue(&mut self, waiting: WaitingMessage) -> bool {
        if self.attached.is_none() && waiting.qos == QoS::AtMostOnce {
            return true;
        }
        let (most, most_size) = match self.attached {
            Some(_) => (MAX_WAITING, MAX_SIZE),
            None => (MAX_STORED, MAX_STORED_SIZE),
        };
        let size = waiting.size();
        let of_all = self.size_of_all.load(Ordering::Relaxed);
        if self.waiting.len() >= most || self.size + size > most_size || of_all + size > MAX_SIZE_OF_ALL {
            return false;
        }
        self.size += size;
        self.size_of_all.fetch_add(size, Ordering::Relaxed);
        self.waiting.push_back(waiting);
        if let Some(attached) = &self.attached {
            attached.wake.notify_one();
        }
        true
    }

    /// The next packets for the client: at most `most` of them, and no more once they take `most_size` bytes.
    pub(super) fn take(&mut self, most: usize, most_size: usize, now: Instant) -> Vec<Packet> {
        let mut packets = Vec::new();
        let Some(attached) = &self.attached else { return packets };
        let (receive_max, max_size) = (attached.receive_max.min(MAX_IN_FLIGHT), attached.max_packet_size);
        let mut taken = 0;
        while packets.len() < most && taken < most_size {
            if let Some(again) = self.in_flight.get(self.sent) {
                if self.sent >= receive_max {
                    break;
                }
                self.sent += 1;
                taken += again.waiting.size();
                packets.push(again.packet(now));
                continue;
            }
            let Some(next) = self.waiting.front() else { break };
            let needs_ack = next.qos != QoS::AtMostOnce;
            if needs_ack && self.in_flight.len() >= receive_max {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            let size = next.size();
            let mut publish = next.publish(now);
            // A message that the client cannot take counts as delivered (MQTT 5.0, section 3.1.2.11.4).
            if next.message.is_expired(now) || publish.size() > max_size {
                self.free(size);
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
            } else {
                self.free(size);
            }
            taken += size;
            packets.push(Packet::Publish(publish));
        }
        packets
    }

    /// The client has a message of QoS 1, or has finished with one of QoS 2. False if it is not known.
    pub(super) fn acknowledged(&mut self, pkid: u16) -> bool {
        let Some(at) = self.in_flight.iter().position(|it| it.pkid == pkid) else { return false };
        if let Some(sent) = self.in_flight.remove(at) {
            self.free(sent.waiting.size());
        }
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

    fn free(&mut self, size: usize) {
        self.size -= size;
        self.size_of_all.fetch_sub(size, Ordering::Relaxed);
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

impl Drop for ClientSession {
    fn drop(&mut self) {
        self.free(self.size);
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
