//! The messages on their way to the broker: queued in the client library, then sent, until they are acknowledged. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::failure::explain::Unacknowledged;
use super::failure::reason::FailureReason;
use super::message::Outgoing;

/// The messages of one connection that the broker has yet to acknowledge.
#[derive(Debug, Default)]
pub(super) struct InFlightMessages {
    /// Not sent by the client library yet, in its order.
    queued: VecDeque<PublishInFlight>,
    /// Sent, with their packet ids, the oldest first.
    sent: VecDeque<(u16, PublishInFlight)>,
    /// How many acknowledgements are to come.
    unacknowledged: usize,
    /// Since when no acknowledgement came; `None` while none is to come.
    waiting_since: Option<Instant>,
}

/// A message on its way to the broker.
#[derive(Debug)]
pub(super) struct PublishInFlight {
    pub(super) topic: PublishTopic,
    /// The length of its payload.
    pub(super) size: usize,
}

/// A topic of the table of retained values, or of one transient message.
#[derive(Debug)]
pub(super) enum PublishTopic {
    Retained(Arc<str>),
    Transient(String),
}

impl InFlightMessages {
    /// The client library has accepted this message.
    pub(super) fn queue(&mut self, message: Outgoing, is_acknowledged: bool, now: Instant) {
        if is_acknowledged {
            self.unacknowledged += 1;
            self.waiting_since.get_or_insert(now);
        }
        self.queued.push_back(message.into());
    }

    /// The client library has sent its next message, with this packet id; 0 if it will not be acknowledged.
    pub(super) fn sent(&mut self, id: u16) {
        if let Some(message) = self.queued.pop_front()
            && id != 0
        {
            self.sent.push_back((id, message));
        }
    }

    /// The broker has acknowledged this packet id.
    pub(super) fn acknowledged(&mut self, id: u16, now: Instant) -> Option<PublishInFlight> {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
        self.waiting_since = (self.unacknowledged > 0).then_some(now);
        let at = self.sent.iter().position(|(sent, _)| *sent == id)?;
        self.sent.remove(at).map(|(_, message)| message)
    }

    pub(super) fn is_all_acknowledged(&self) -> bool {
        self.unacknowledged == 0
    }

    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// Whether a message to this topic is on its way.
    pub(super) fn has(&self, topic: &str) -> bool {
        let mut all = self.sent.iter().map(|(_, message)| message).chain(&self.queued);
        all.any(|message| message.topic() == topic)
    }

    /// The message that most likely ended the connection: the largest if a packet was too large, else the oldest that was
    /// sent.
    pub(super) fn suspect(&self, reason: FailureReason) -> Option<Unacknowledged> {
        let sent = || self.sent.iter().map(|(_, message)| message);
        let suspect = if reason == FailureReason::PacketTooLarge {
            sent().chain(&self.queued).max_by_key(|message| message.size)
        } else {
            sent().next()
        };
        suspect.map(|message| Unacknowledged { topic: message.topic().to_owned(), size: message.size })
    }
}

impl PublishInFlight {
    fn topic(&self) -> &str {
        match &self.topic {
            PublishTopic::Retained(topic) => topic,
            PublishTopic::Transient(topic) => topic,
        }
    }
}

impl From<Outgoing> for PublishInFlight {
    fn from(outgoing: Outgoing) -> Self {
        match outgoing {
            Outgoing::Retained(retained) => {
                Self { topic: PublishTopic::Retained(retained.topic), size: retained.payload.len() }
            }
            Outgoing::Transient(transient) => {
                Self { topic: PublishTopic::Transient(transient.topic), size: transient.payload.len() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use rumqttc::QoS;

    use super::*;
    use crate::mqtt::retained::Retained;

    fn retained(topic: &str, size: usize) -> Outgoing {
        let payload = Bytes::from(vec![0; size]);
        Outgoing::Retained(Retained { topic: topic.into(), payload, qos: QoS::AtLeastOnce })
    }

    #[test]
    fn the_wait_for_an_acknowledgement_starts_anew_with_each_one_and_ends_with_the_last() {
        let (mut in_flight, start) = (InFlightMessages::default(), Instant::now());
        let later = start + Duration::from_secs(1);
        for topic in ["a", "b"] {
            in_flight.queue(retained(topic, 1), true, start);
        }
        in_flight.queue(retained("c", 1), false, start);
        for id in [1, 2, 0] {
            in_flight.sent(id);
        }
        assert_eq!(in_flight.waiting_since(), Some(start));
        assert!(in_flight.has("a") && in_flight.has("b") && !in_flight.has("c"));
        assert_eq!(in_flight.acknowledged(1, later).unwrap().topic(), "a");
        assert_eq!((in_flight.waiting_since(), in_flight.has("a")), (Some(later), false));
        in_flight.acknowledged(2, later);
        assert!(in_flight.is_all_acknowledged() && in_flight.waiting_since().is_none());
    }

    #[test]
    fn the_oldest_message_is_suspected_and_the_largest_if_a_packet_was_too_large() {
        let (mut in_flight, now) = (InFlightMessages::default(), Instant::now());
        assert_eq!(in_flight.suspect(FailureReason::HungUp), None);
        for (topic, size) in [("a", 1), ("b", 9), ("c", 5)] {
            in_flight.queue(retained(topic, size), true, now);
        }
        assert_eq!(in_flight.suspect(FailureReason::HungUp), None, "none was sent");
        in_flight.sent(1);
        let suspect = |reason| in_flight.suspect(reason).unwrap().topic;
        assert_eq!(suspect(FailureReason::HungUp), "a");
        assert_eq!(suspect(FailureReason::PacketTooLarge), "b");
    }
}
