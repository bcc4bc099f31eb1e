//! One connection to the broker: what is known of it, what is on its way on it, and how it ended.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::{AsyncClient, ClientError, PublishOptions, PublishProperties, QoS};

use super::connect::{BrokerLimits, KEEP_ALIVE};
use super::failure::explain::{LinkFailure, Unacknowledged};
use super::failure::reconnect::STABLE;
use super::in_flight::InFlightMessages;
use super::message::Outgoing;
use super::own_return::OwnReturn;
use super::socket::ConnectProgress;

/// If the broker has not answered the subscription by then, publishing starts without its answer.
pub(super) const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(3);
/// A broker that acknowledges nothing for this long will not do so on this connection.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(15);
/// An upper bound for the parts of a packet other than topic, payload and correlation data, in bytes.
pub(super) const PACKET_OVERHEAD: usize = 32;

/// How a connection ended.
pub(super) enum ConnectionEnd {
    /// On request, or because the link was dropped.
    Stopped,
    /// It was left for the own broker, or for this address of it.
    Left(Option<SocketAddr>),
    Lost {
        failure: LinkFailure,
        /// How long it was connected; `None` if it never was.
        lasted: Option<Duration>,
        /// The unacknowledged message that may have ended it.
        suspect: Option<Unacknowledged>,
        /// Where TCP was accepted.
        address: Option<SocketAddr>,
    },
}

pub(super) struct Connection {
    pub(super) client: AsyncClient,
    pub(super) progress: ConnectProgress,
    pub(super) limits: BrokerLimits,
    /// When the CONNACK came.
    pub(super) since: Option<Instant>,
    /// When the broker's last packet came.
    heard: Instant,
    /// The packet id of the subscription to commands.
    pub(super) subscription: Option<u16>,
    /// The subscription was answered. No plug is published as online before its commands are received.
    pub(super) is_subscribed: bool,
    /// When a refused subscription is tried again.
    pub(super) resubscribe_at: Option<Instant>,
    pub(super) search_until: Option<Instant>,
    /// The filters of the search, while they are subscribed to.
    pub(super) search_filters: Vec<String>,
    /// When entities have had the time to migrate; `None` while none do.
    pub(super) migrated_at: Option<Instant>,
    pub(super) in_flight: InFlightMessages,
    /// It has stood for long enough that its next failure is news.
    is_stable: bool,
    /// How many refused messages were logged.
    pub(super) refusals: u32,
    pub(super) is_leaving: bool,
    pub(super) own_return: OwnReturn,
    /// The address to return to, if it is another one of the same broker.
    pub(super) return_only: Option<SocketAddr>,
}

/// The outcome of handing a message to the client library.
pub(super) enum Handed {
    /// Whether it will be acknowledged.
    Over(bool),
    NoRoom,
    TooLarge(usize),
    Impossible,
}

impl Connection {
    pub(super) fn new(client: AsyncClient, progress: ConnectProgress) -> Self {
        Self {
            client,
            progress,
            limits: BrokerLimits::NONE,
            since: None,
            heard: Instant::now(),
            subscription: None,
            is_subscribed: false,
            resubscribe_at: None,
            search_until: None,
            search_filters: Vec::new(),
            migrated_at: None,
            in_flight: InFlightMessages::default(),
            is_stable: false,
            refusals: 0,
            is_leaving: false,
            own_return: OwnReturn::default(),
            return_only: None,
        }
    }

    /// Whether messages may be published: the subscription is answered, or its answer is late.
    pub(super) fn may_publish(&self) -> bool {
        let answer_by = self.since.map(|since| since + SUBSCRIBED_WITHIN);
        !self.is_leaving && answer_by.is_some_and(|by| self.is_subscribed || by <= Instant::now())
    }

    /// Whether it has now stood for long enough, and had not before. What the broker refuses on it is logged as before.
    pub(super) fn becomes_stable(&mut self, now: Instant) -> bool {
        let is_stable = self.since.is_some_and(|since| now >= since + STABLE);
        is_stable && !std::mem::replace(&mut self.is_stable, is_stable)
    }

    /// Gives a message to the client library.
    pub(super) fn hand_over(&self, outgoing: &Outgoing) -> Handed {
        let (topic, payload, correlation) = match outgoing {
            Outgoing::Retained(retained) => (&*retained.topic, retained.payload.clone(), None),
            Outgoing::Transient(transient) => {
                let payload = Bytes::copy_from_slice(&transient.payload);
                (transient.topic.as_str(), payload, transient.correlation.clone())
            }
        };
        let size = topic.len() + payload.len() + correlation.as_ref().map_or(0, Bytes::len) + PACKET_OVERHEAD;
        if size > self.limits.packet {
            return Handed::TooLarge(size);
        }
        let retain = matches!(outgoing, Outgoing::Retained(_)) && self.limits.retains;
        let qos = self.qos(outgoing, Instant::now());
        let mut options = PublishOptions::new(qos).retain(retain);
        if let Some(correlation) = correlation {
            let properties =
                PublishProperties { correlation_data: Some(correlation), ..PublishProperties::default() };
            options = options.properties(properties);
        }
        match self.client.try_publish(topic, payload, options) {
            Ok(()) => Handed::Over(qos != QoS::AtMostOnce),
            Err(ClientError::RequestChannelFull(_)) => Handed::NoRoom,
            Err(_) => Handed::Impossible,
        }
    }

    /// The client library has accepted this message.
    pub(super) fn queued(&mut self, outgoing: Outgoing, is_acknowledged: bool) {
        self.in_flight.queue(outgoing, is_acknowledged, Instant::now());
    }

    /// A packet has come.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    fn qos(&self, outgoing: &Outgoing, now: Instant) -> QoS {
        match outgoing {
            _ if self.limits.qos == QoS::AtMostOnce => QoS::AtMostOnce,
            Outgoing::Retained(retained) if !self.needs_answer(now) => retained.qos,
            Outgoing::Retained(_) | Outgoing::Transient(_) => QoS::AtLeastOnce,
        }
    }

    /// Whether the next message must be acknowledged to show that the broker is still there. The client library sends a ping
    /// only if it has sent nothing for the keep-alive, so where meters and signals change often it never does.
    fn needs_answer(&self, now: Instant) -> bool {
        now >= self.heard + KEEP_ALIVE && self.in_flight.is_all_acknowledged()
    }

    /// When the next acknowledgement must have come; `None` while none is expected.
    pub(super) fn acknowledged_by(&self) -> Option<Instant> {
        self.in_flight.waiting_since().map(|since| since + ACKNOWLEDGED_WITHIN)
    }

    pub(super) fn lost(&self, failure: LinkFailure) -> ConnectionEnd {
        let suspect = self.in_flight.suspect(failure.reason);
        let (lasted, address) = (self.since.map(|since| since.elapsed()), self.progress.address());
        ConnectionEnd::Lost { failure, lasted, suspect, address }
    }

    /// After our DISCONNECT.
    pub(super) fn left(&self) -> ConnectionEnd {
        if self.own_return.has_left() {
            ConnectionEnd::Left(self.return_only)
        } else {
            ConnectionEnd::Stopped
        }
    }

    /// Everything is acknowledged: sends a DISCONNECT, so that the broker discards the last will.
    pub(super) fn leave(&mut self) {
        self.is_leaving = self.client.try_disconnect().is_ok();
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::MqttOptions;

    use super::*;

    #[test]
    fn a_connection_becomes_stable_once() {
        let (client, _events) = AsyncClient::builder(MqttOptions::new("test", ("127.0.0.1", 1))).build();
        let mut connection = Connection::new(client, ConnectProgress::default());
        let now = Instant::now();
        assert!(!connection.becomes_stable(now + STABLE), "it does not stand");
        connection.since = Some(now);
        let times = [STABLE / 2, STABLE, STABLE * 2].map(|wait| connection.becomes_stable(now + wait));
        assert_eq!(times, [false, true, false]);
    }
}
