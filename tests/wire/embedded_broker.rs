//! Tests of the embedded broker over real sockets, packet by packet; whole clients use it in `mqtt` and `end_to_end`.

#![cfg(feature = "broker")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use hs100d::mqtt::broker::{BrokerOptions, EmbeddedBroker};
use rumqttc::mqttbytes::v5::{
    Connect, ConnectAuth, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, LastWill,
    Packet, PubAck, PubAckReason, PubComp, PubRec, PubRel, Publish, Subscribe, SubscribeFilter, Unsubscribe,
};
use rumqttc::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::mqtt::within;

async fn broker_in(folder: &Path) -> EmbeddedBroker {
    let listen = ([127, 0, 0, 1], 0).into();
    let options = BrokerOptions { listen, users: Vec::new(), state_dir: folder.to_owned() };
    EmbeddedBroker::start(options).await.unwrap()
}

/// A broker with its folder.
struct House {
    broker: EmbeddedBroker,
    _folder: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { broker: broker_in(folder.path()).await, _folder: folder }
    }

    async fn socket(&self) -> Socket {
        Socket::to(&self.broker).await
    }

    /// A client of MQTT 5 without a session of its own.
    async fn client(&self, id: &str) -> Socket {
        let mut socket = self.socket().await;
        assert!(!socket.connect(hello(id)).await);
        socket
    }

    async fn subscriber(&self, id: &str, filter: &str, qos: QoS) -> Socket {
        let mut client = self.client(id).await;
        client.subscribe(filter, qos).await;
        client
    }
}

fn hello(id: &str) -> Connect {
    Connect { keep_alive: 60, client_id: id.to_owned(), clean_start: false, properties: None }
}

fn lasting(id: &str) -> Connect {
    let properties = ConnectProperties { session_expiry_interval: Some(600), ..ConnectProperties::new() };
    Connect { properties: Some(properties), ..hello(id) }
}

fn message(topic: &str, qos: QoS, payload: impl Into<Bytes>) -> Publish {
    let pkid = if qos == QoS::AtMostOnce { 0 } else { 7 };
    Publish { pkid, ..Publish::new(topic, qos, payload, None) }
}

/// A client that sends and receives one packet at a time.
struct Socket {
    stream: TcpStream,
    read: BytesMut,
}

impl Socket {
    async fn to(broker: &EmbeddedBroker) -> Self {
        Self { stream: TcpStream::connect(broker.addr()).await.unwrap(), read: BytesMut::new() }
    }

    async fn send(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        packet.write(&mut out, None).unwrap();
        self.stream.write_all(&out).await.unwrap();
    }

    /// The next packet; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Packet> {
        within("a packet", async {
            loop {
                match Packet::read(&mut self.read, None) {
                    Ok(packet) => return Some(packet),
                    Err(Error::InsufficientBytes(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                // A reset is an end as well.
                if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                    assert!(self.read.is_empty(), "cut off in a packet");
                    return None;
                }
            }
        })
        .await
    }

    /// Connects, and returns whether the session was there.
    async fn connect(&mut self, connect: Connect) -> bool {
        self.connect_with(connect, None).await
    }

    async fn connect_with(&mut self, connect: Connect, will: Option<LastWill>) -> bool {
        self.send(Packet::Connect(connect, will, ConnectAuth::None)).await;
        match self.next().await {
            Some(Packet::ConnAck(ack)) if ack.code == ConnectReturnCode::Success => ack.session_present,
            other => panic!("{other:?}"),
        }
    }

    async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let subscribe = Subscribe::new(SubscribeFilter::new(filter, qos), None);
        self.send(Packet::Subscribe(Subscribe { pkid: 1, ..subscribe })).await;
        let Some(Packet::SubAck(ack)) = self.next().await else { panic!("no SUBACK") };
        assert_eq!(ack.pkid, 1);
    }

    async fn receives(&mut self) -> Publish {
        match self.next().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("{other:?}"),
        }
    }

    /// Publishes at QoS 1, and returns the answer.
    async fn publishes(&mut self, publish: Publish) -> PubAckReason {
        self.send(Packet::Publish(publish)).await;
        match self.next().await {
            Some(Packet::PubAck(ack)) if ack.pkid == 7 => ack.reason,
            other => panic!("{other:?}"),
        }
    }

    /// Reads until the connection ends, and returns the reason that the broker gave last.
    async fn ends(&mut self) -> Option<DisconnectReasonCode> {
        let mut reason = None;
        while let Some(packet) = self.next().await {
            reason = match packet {
                Packet::Disconnect(disconnect) => Some(disconnect.reason_code),
                _ => None,
            };
        }
        reason
    }
}

#[tokio::test]
async fn a_message_of_qos_2_goes_once_from_client_to_client() {
    let house = House::new().await;
    let mut reader = house.subscriber("reader", "a", QoS::ExactlyOnce).await;
    let mut writer = house.client("writer").await;
    let publish = message("a", QoS::ExactlyOnce, "1");
    // The first of the four packets comes twice, as after a lost connection.
    for dup in [false, true] {
        writer.send(Packet::Publish(Publish { dup, ..publish.clone() })).await;
        let Some(Packet::PubRec(PubRec { pkid: 7, .. })) = writer.next().await else { panic!("no PUBREC") };
    }
    writer.send(Packet::PubRel(PubRel::new(7, None))).await;
    assert_eq!(writer.next().await, Some(Packet::PubComp(PubComp::new(7, None))));

    let received = reader.receives().await;
    assert_eq!((&received.payload[..], received.qos), (&b"1"[..], QoS::ExactlyOnce));
    reader.send(Packet::PubRec(PubRec::new(received.pkid, None))).await;
    assert_eq!(reader.next().await, Some(Packet::PubRel(PubRel::new(received.pkid, None))));
    reader.send(Packet::PubComp(PubComp::new(received.pkid, None))).await;
    // Nothing more came before the answer to this.
    reader.send(Packet::PingReq).await;
    assert_eq!(reader.next().await, Some(Packet::PingResp));
}

#[tokio::test]
async fn a_session_gets_what_it_missed_over_a_restart_of_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker_in(folder.path()).await;
    let mut reader = Socket::to(&broker).await;
    assert!(!reader.connect(lasting("reader")).await);
    reader.subscribe("a/+", QoS::AtLeastOnce).await;
    drop(reader);
    let mut writer = Socket::to(&broker).await;
    writer.connect(hello("writer")).await;
    assert_eq!(writer.publishes(message("a/b", QoS::AtLeastOnce, "1")).await, PubAckReason::Success);
    broker.stop().await;
    assert_eq!(writer.ends().await, Some(DisconnectReasonCode::ServerShuttingDown));

    let broker = broker_in(folder.path()).await;
    let mut reader = Socket::to(&broker).await;
    assert!(reader.connect(lasting("reader")).await, "the session is there");
    let missed = reader.receives().await;
    assert_eq!((&missed.topic[..], &missed.payload[..]), (&b"a/b"[..], &b"1"[..]));
    reader.send(Packet::PubAck(PubAck::new(missed.pkid, None))).await;
    // A clean start ends it.
    let mut clean = Socket::to(&broker).await;
    assert!(!clean.connect(Connect { clean_start: true, ..hello("reader") }).await);
    assert_eq!(reader.ends().await, Some(DisconnectReasonCode::SessionTakenOver));
    broker.stop().await;
}

#[tokio::test]
async fn a_last_will_comes_when_the_connection_breaks_and_not_when_the_client_leaves() {
    let house = House::new().await;
    let mut reader = house.subscriber("reader", "gone/#", QoS::AtMostOnce).await;
    let with_will = async |id: &str| {
        let mut client = house.socket().await;
        let will = LastWill::new(format!("gone/{id}"), "yes", QoS::AtLeastOnce, false, None);
        client.connect_with(hello(id), Some(will)).await;
        client
    };
    let (left, broken, asked) =
        (with_will("left").await, with_will("broken").await, with_will("asked").await);
    for (mut client, reason) in [
        (left, Some(DisconnectReasonCode::NormalDisconnection)),
        (broken, None),
        (asked, Some(DisconnectReasonCode::DisconnectWithWillMessage)),
    ] {
        if let Some(reason) = reason {
            client.send(Packet::Disconnect(Disconnect::new(reason))).await;
            assert_eq!(client.ends().await, None);
        }
    }
    let gone = BTreeSet::from([reader.receives().await.topic, reader.receives().await.topic]);
    assert_eq!(gone, BTreeSet::from([Bytes::from_static(b"gone/asked"), Bytes::from_static(b"gone/broken")]));
}

#[tokio::test]
async fn a_client_that_is_silent_beyond_its_keep_alive_is_given_up() {
    let house = House::new().await;
    let mut client = house.socket().await;
    client.connect(Connect { keep_alive: 1, ..hello("client") }).await;
    assert_eq!(client.ends().await, Some(DisconnectReasonCode::KeepAliveTimeout));
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_nobody_else() {
    const MESSAGES: usize = 2000;
    let house = House::new().await;
    let mut reader = house.subscriber("reader", "a", QoS::AtMostOnce).await;
    let _stuck = house.subscriber("stuck", "a", QoS::AtMostOnce).await;
    let mut writer = house.client("writer").await;
    let payload = Bytes::from(vec![b'x'; 20_000]);
    for _ in 0..MESSAGES {
        writer.send(Packet::Publish(message("a", QoS::AtMostOnce, payload.clone()))).await;
        assert_eq!(reader.receives().await.payload.len(), payload.len());
    }
}

#[tokio::test]
async fn what_is_no_mqtt_is_answered_with_the_reason_and_harms_nobody() {
    let house = House::new().await;
    let mut reader = house.subscriber("reader", "a", QoS::AtMostOnce).await;
    for (bytes, reason) in [
        // A topic with a wildcard, an alias that was not allowed, an empty topic.
        (&b"\x30\x04\x00\x01#\x00"[..], DisconnectReasonCode::MalformedPacket),
        (b"\x30\x07\x00\x01a\x03\x23\x00\x01", DisconnectReasonCode::TopicAliasInvalid),
        (b"\x30\x03\x00\x00\x00", DisconnectReasonCode::TopicNameInvalid),
        // 3 GB of it, a length without an end, a packet that does not exist, a packet that only a server sends.
        (b"\x30\xff\xff\xff\x7f", DisconnectReasonCode::PacketTooLarge),
        (b"\x30\xff\xff\xff\xff\x7f", DisconnectReasonCode::MalformedPacket),
        (b"\x00\x00", DisconnectReasonCode::MalformedPacket),
        (b"\xd0\x00", DisconnectReasonCode::ProtocolError),
        // A subscription identifier, which only a server sends, and an UNSUBSCRIBE from nothing.
        (b"\x30\x06\x00\x01a\x02\x0b\x01", DisconnectReasonCode::ProtocolError),
        (b"\xa2\x03\x00\x01\x00", DisconnectReasonCode::ProtocolError),
        // CONNECT a second time, an id of 0, a filter without an end of its text.
        (b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00", DisconnectReasonCode::ProtocolError),
        (b"\x32\x06\x00\x01a\x00\x00\x00", DisconnectReasonCode::MalformedPacket),
        (b"\x82\x06\x00\x01\x00\x00\x09a", DisconnectReasonCode::MalformedPacket),
    ] {
        let mut client = house.client("client").await;
        client.stream.write_all(bytes).await.unwrap();
        assert_eq!(client.ends().await, Some(reason), "{bytes:x?}");
    }
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x00\x05hello", b"\x30\x04\x00\x01a\x00"] {
        let mut client = house.socket().await;
        client.stream.write_all(bytes).await.unwrap();
        assert_eq!(client.ends().await, None, "{bytes:x?}");
    }
    let mut old = house.socket().await;
    old.stream.write_all(b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c").await.unwrap();
    let mut answer = Vec::new();
    within("the answer", old.stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 1], "the version is not spoken");

    let mut writer = house.client("writer").await;
    writer.publishes(message("a", QoS::AtLeastOnce, "1")).await;
    assert_eq!(&reader.receives().await.payload[..], b"1");
}

#[tokio::test]
async fn a_client_without_room_is_refused_and_gets_in_when_there_is_some() {
    let house = House::new().await;
    let mut clients = Vec::new();
    for number in 0..128 {
        clients.push(house.client(&number.to_string()).await);
    }
    let mut refused = house.socket().await;
    refused.send(Packet::Connect(hello("one more"), None, ConnectAuth::None)).await;
    let Some(Packet::ConnAck(ack)) = refused.next().await else { panic!("no CONNACK") };
    assert_eq!((ack.code, refused.ends().await), (ConnectReturnCode::QuotaExceeded, None));
    let mut leaver = clients.pop().unwrap();
    leaver.send(Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection))).await;
    assert_eq!(leaver.ends().await, None);
    within("room", async {
        loop {
            let mut next = house.socket().await;
            next.send(Packet::Connect(hello("one more"), None, ConnectAuth::None)).await;
            if matches!(next.next().await, Some(Packet::ConnAck(ack)) if ack.code == ConnectReturnCode::Success) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn answers_say_what_became_of_a_request() {
    let house = House::new().await;
    let mut client = house.socket().await;
    client.send(Packet::Connect(Connect { clean_start: true, ..lasting("") }, None, ConnectAuth::None)).await;
    let Some(Packet::ConnAck(ack)) = client.next().await else { panic!("no CONNACK") };
    let given = ack.properties.unwrap();
    assert!(given.assigned_client_identifier.is_some_and(|id| !id.is_empty()), "an id is given");
    assert_eq!(given.session_expiry_interval, None, "as the client wanted it");

    let nobody = client.publishes(message("a", QoS::AtLeastOnce, "1")).await;
    assert_eq!(nobody, PubAckReason::NoMatchingSubscribers);
    let large = Publish { retain: true, ..message("a", QoS::AtLeastOnce, vec![b'x'; 300_000]) };
    assert_eq!(client.publishes(large).await, PubAckReason::QuotaExceeded);
    let filters = ["a/b", "a#", "$share/us/a"].map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce));
    client.send(Packet::Subscribe(Subscribe { pkid: 3, filters: filters.into(), properties: None })).await;
    let Some(Packet::SubAck(ack)) = client.next().await else { panic!("no SUBACK") };
    let codes: Vec<_> = ack.return_codes.iter().map(|code| format!("{code:?}")).collect();
    assert_eq!(codes, ["Success(AtLeastOnce)", "TopicFilterInvalid", "Success(AtLeastOnce)"]);
    let filters = ["a/b", "a/b", "#a"].map(str::to_owned).into();
    client.send(Packet::Unsubscribe(Unsubscribe { pkid: 4, filters, properties: None })).await;
    let Some(Packet::UnsubAck(ack)) = client.next().await else { panic!("no UNSUBACK") };
    let reasons: Vec<_> = ack.reasons.iter().map(|reason| format!("{reason:?}")).collect();
    assert_eq!(reasons, ["Success", "NoSubscriptionExisted", "TopicFilterInvalid"]);
}
