//! One client's connection: its login, and what it sends and is sent until it ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use rumqttc::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectAuth, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    LastWill, Packet, PubAck, PubAckReason, PubComp, PubCompReason, PubRec, PubRecReason, PubRel,
    PubRelReason, Publish, SubAck, Subscribe, SubscribeReasonCode, UnsubAck, UnsubAckReason, Unsubscribe,
};
use rumqttc::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout};

use super::auth::Authenticator;
use super::message::BrokerMessage;
use super::session::{ClientSession, PendingWill};
use super::state::{AcceptedConnection, BrokerState, ConnectRequest, MAX_CLIENTS, MAX_SHOWN, Routed, lock};
use super::wire::{BadConnect, MAX_PACKET_SIZE, MqttVersion, put_packet, take_connect, take_packet};
use crate::logging::Repeated;
use crate::model::shown;

/// How long a new connection may take to send CONNECT.
const LOGIN_WITHIN: Duration = Duration::from_secs(10);
/// How long the last bytes may take to leave.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);
/// The most packets that are taken from the session at once.
const BATCH: usize = 64;
/// With this many bytes to send, no more are taken from the session.
const OUT_ENOUGH: usize = 64 * 1024;
/// With this many bytes to send, nothing is read from a client that does not read its answers.
const OUT_TOO_MANY: usize = 4 * 1024 * 1024;
/// Room for each read, in bytes.
const READ_SIZE: usize = 4096;
/// A session of MQTT 3.1.1 that is not clean lasts until the client ends it; the broker cuts that.
const UNLIMITED: Duration = Duration::from_secs(u32::MAX as u64);

/// What all connections use.
pub(super) struct SharedBroker {
    pub(super) state: Arc<Mutex<BrokerState>>,
    /// `None`: clients need no login.
    pub(super) authenticator: Option<Authenticator>,
    /// Clients for whom there was no room.
    pub(super) refused: Mutex<Repeated>,
}

impl SharedBroker {
    pub(super) fn lock(&self) -> MutexGuard<'_, BrokerState> {
        lock(&self.state)
    }

    /// Logs that there was no room, at growing intervals.
    pub(super) fn log_refusal(&self, why: &str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = refused.failed(why, Instant::now()) {
            tracing::warn!(
                "the embedded broker refuses connections, {times} so far: {why}: it is made for a home; for more \
                 clients set mqtt.url to another broker"
            );
        }
    }
}

/// How a connection ends.
#[derive(Debug)]
enum ConnectionOver {
    /// The socket is closed, or reading or writing failed.
    Lost,
    /// The client has said DISCONNECT.
    Left { keeps_will: bool, expiry: Option<Duration> },
    /// We end it, and say why where MQTT has a word for it.
    Ended(DisconnectReasonCode),
}

/// Serves one connection until it ends or `stop` says so. `permit` is given back once the client is known.
pub(super) async fn serve(
    mut stream: TcpStream,
    address: SocketAddr,
    shared: Arc<SharedBroker>,
    mut stop: watch::Receiver<()>,
    permit: OwnedSemaphorePermit,
) {
    let mut read = BytesMut::new();
    let hello = tokio::select! {
        hello = timeout(LOGIN_WITHIN, read_connect(&mut stream, &mut read)) => hello,
        // The sender was dropped: the broker stops.
        _ = stop.changed() => return,
    };
    let (version, (connect, will, auth)) = match hello {
        Ok(Some(Ok(hello))) => hello,
        Ok(Some(Err(refusal))) => {
            tracing::debug!(%address, "the first packet is not a CONNECT of MQTT 5 or 3.1.1: {refusal:?}");
            if let BadConnect::Level(level) = refusal {
                let version = if level > 5 { MqttVersion::V5 } else { MqttVersion::V3 };
                refuse(&mut stream, version, ConnectReturnCode::UnsupportedProtocolVersion).await;
            }
            return;
        }
        Ok(None) | Err(_) => return,
    };
    let request = match read_request(version, &connect, will, &auth, address, &shared).await {
        Ok(request) => request,
        Err(code) => return refuse(&mut stream, version, code).await,
    };
    let client = Arc::clone(&request.client);
    let wanted = request.expiry;
    let accepted = shared.lock().connect(request, Instant::now());
    let Some(accepted) = accepted else {
        shared.log_refusal(&format!("{MAX_CLIENTS} clients are connected"));
        return refuse(&mut stream, version, ConnectReturnCode::QuotaExceeded).await;
    };
    drop(permit);
    let shown = shown(&client, MAX_SHOWN);
    tracing::debug!(client = shown, %address, ?version, "a client has connected");
    let id = accepted.id;
    let mut out = BytesMut::new();
    let welcome = welcome(&connect, &client, &accepted, wanted);
    // Writing to memory fails only for a packet that MQTT does not have.
    let _ = put_packet(&mut out, &welcome, version);
    let connection =
        ClientConnection { version, keep_alive: keep_alive(&connect), read, out, shared: &shared, accepted };
    let over = connection.run(stream, stop).await;
    tracing::debug!(client = shown, ?over, "the client's connection has ended");
    let (keeps_will, expiry) = match over {
        ConnectionOver::Left { keeps_will, expiry } => (keeps_will, expiry),
        ConnectionOver::Lost | ConnectionOver::Ended(_) => (true, None),
    };
    shared.lock().disconnect(id, keeps_will, expiry, Instant::now());
}

type Hello = (MqttVersion, (Connect, Option<LastWill>, ConnectAuth));

/// `None` if the connection ends before.
async fn read_connect(stream: &mut TcpStream, read: &mut BytesMut) -> Option<Result<Hello, BadConnect>> {
    loop {
        match take_connect(read) {
            Ok(Some((version, Packet::Connect(connect, will, auth)))) => {
                return Some(Ok((version, (connect, will, auth))));
            }
            Ok(Some(_)) => return Some(Err(BadConnect::Malformed)),
            Ok(None) => {}
            Err(refusal) => return Some(Err(refusal)),
        }
        read.reserve(READ_SIZE);
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}

/// Checks the login, and reads from CONNECT what the broker has to know.
async fn read_request(
    version: MqttVersion,
    connect: &Connect,
    will: Option<LastWill>,
    auth: &ConnectAuth,
    address: SocketAddr,
    shared: &SharedBroker,
) -> Result<ConnectRequest, ConnectReturnCode> {
    let properties = connect.properties.clone().unwrap_or_default();
    if properties.authentication_method.is_some() {
        return Err(ConnectReturnCode::BadAuthenticationMethod);
    }
    if properties.max_packet_size == Some(0) {
        return Err(ConnectReturnCode::ProtocolError);
    }
    if let Some(authenticator) = &shared.authenticator {
        let (name, password) = match auth {
            ConnectAuth::UsernamePassword { username, password } => (Some(&**username), Some(&**password)),
            ConnectAuth::Username { username } => (Some(&**username), None),
            ConnectAuth::Password { password } => (None, Some(&**password)),
            ConnectAuth::None => (None, None),
        };
        if !authenticator.admits(name, password) {
            authenticator.refused(address).await;
            return Err(ConnectReturnCode::BadUserNamePassword);
        }
    }
    if version == MqttVersion::V3 && connect.client_id.is_empty() && !connect.clean_start {
        return Err(ConnectReturnCode::ClientIdentifierNotValid);
    }
    let client = match &*connect.client_id {
        "" => Arc::from(format!("hs100d-{}", uuid::Uuid::new_v4().simple())),
        given => Arc::from(given),
    };
    let will = match will {
        None => None,
        Some(will) => {
            let seconds = |seconds: Option<u32>| seconds.map(|it| Duration::from_secs(it.into()));
            let properties = will.properties.as_ref();
            Some(PendingWill {
                message: BrokerMessage::of_will(&will).ok_or(ConnectReturnCode::TopicNameInvalid)?,
                delay: seconds(properties.and_then(|it| it.delay_interval)).unwrap_or_default(),
                expiry: seconds(properties.and_then(|it| it.message_expiry_interval)),
            })
        }
    };
    let expiry = match version {
        MqttVersion::V5 => Duration::from_secs(properties.session_expiry_interval.unwrap_or(0).into()),
        MqttVersion::V3 if connect.clean_start => Duration::ZERO,
        MqttVersion::V3 => UNLIMITED,
    };
    let size = |size: u32| usize::try_from(size).unwrap_or(usize::MAX);
    Ok(ConnectRequest {
        client,
        starts_clean: connect.clean_start,
        expiry,
        will,
        max_packet_size: properties.max_packet_size.map_or(usize::MAX, size),
        receive_max: properties.receive_maximum.unwrap_or(u16::MAX).into(),
    })
}

/// The answer to CONNECT. It says what differs from what the client asked for.
fn welcome(connect: &Connect, client: &str, accepted: &AcceptedConnection, wanted: Duration) -> Packet {
    let given =
        (accepted.expiry != wanted).then(|| u32::try_from(accepted.expiry.as_secs()).unwrap_or(u32::MAX));
    Packet::ConnAck(ConnAck {
        session_present: accepted.is_resumed,
        code: ConnectReturnCode::Success,
        properties: Some(ConnAckProperties {
            session_expiry_interval: given,
            max_packet_size: Some(MAX_PACKET_SIZE),
            assigned_client_identifier: connect.client_id.is_empty().then(|| client.to_owned()),
            ..no_properties()
        }),
    })
}

/// Says why a client cannot connect.
async fn refuse(stream: &mut TcpStream, version: MqttVersion, code: ConnectReturnCode) {
    let mut out = BytesMut::new();
    let answer = Packet::ConnAck(ConnAck { session_present: false, code, properties: None });
    let _ = put_packet(&mut out, &answer, version);
    flush(stream, &out).await;
}

/// Sends the last bytes of a connection. It ends anyway, so nothing is said of a failure.
async fn flush(stream: &mut TcpStream, out: &[u8]) {
    let flushed = async {
        stream.write_all(out).await?;
        stream.shutdown().await
    };
    let _ = timeout(FLUSH_WITHIN, flushed).await;
}

/// Without a packet for this long, the client is gone (MQTT 5.0, section 3.1.2.10). `None`: it may be silent for ever.
fn keep_alive(connect: &Connect) -> Option<Duration> {
    (connect.keep_alive > 0).then(|| Duration::from_secs(connect.keep_alive.into()) * 3 / 2)
}

fn no_properties() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

/// A client that is connected.
struct ClientConnection<'a> {
    version: MqttVersion,
    keep_alive: Option<Duration>,
    read: BytesMut,
    out: BytesMut,
    shared: &'a SharedBroker,
    accepted: AcceptedConnection,
}

impl ClientConnection<'_> {
    async fn run(mut self, mut stream: TcpStream, mut stop: watch::Receiver<()>) -> ConnectionOver {
        let over = self.until_over(&mut stream, &mut stop).await;
        match over {
            ConnectionOver::Lost => {}
            ConnectionOver::Left { .. } => flush(&mut stream, &[]).await,
            ConnectionOver::Ended(reason) => {
                let _ = put_packet(&mut self.out, &Packet::Disconnect(Disconnect::new(reason)), self.version);
                flush(&mut stream, &self.out).await;
            }
        }
        over
    }

    async fn until_over(&mut self, stream: &mut TcpStream, stop: &mut watch::Receiver<()>) -> ConnectionOver {
        let (mut reader, mut writer) = stream.split();
        let wake = Arc::clone(&self.accepted.wake);
        let mut heard = Instant::now();
        // Packets that came together with CONNECT.
        if let Err(over) = self.handle_all(&mut heard).await {
            return over;
        }
        loop {
            if let Err(over) = self.fill() {
                return over;
            }
            self.read.reserve(READ_SIZE);
            tokio::select! {
                read = reader.read_buf(&mut self.read), if self.out.len() < OUT_TOO_MANY => {
                    if !matches!(read, Ok(1..)) {
                        return ConnectionOver::Lost;
                    }
                    if let Err(over) = self.handle_all(&mut heard).await {
                        return over;
                    }
                }
                written = writer.write(&self.out), if !self.out.is_empty() => match written {
                    Ok(number @ 1..) => self.out.advance(number),
                    _ => return ConnectionOver::Lost,
                },
                () = wake.notified() => {}
                () = until(self.keep_alive.map(|pause| heard + pause)) => {
                    return ConnectionOver::Ended(DisconnectReasonCode::KeepAliveTimeout);
                }
                // The sender was dropped: both mean stop.
                _ = stop.changed() => {
                    return ConnectionOver::Ended(DisconnectReasonCode::ServerShuttingDown);
                }
            }
        }
    }

    /// Takes the next packets from the session.
    fn fill(&mut self) -> Result<(), ConnectionOver> {
        if self.out.len() >= OUT_ENOUGH {
            return Ok(());
        }
        let taken = self.shared.lock().take(self.accepted.id, BATCH, OUT_ENOUGH, Instant::now());
        for packet in taken.map_err(ConnectionOver::Ended)? {
            self.put(&packet);
        }
        Ok(())
    }

    /// One that cannot be written is left out: what MQTT does not have was not let in.
    fn put(&mut self, packet: &Packet) {
        let before = self.out.len();
        if let Err(error) = put_packet(&mut self.out, packet, self.version) {
            self.out.truncate(before);
            tracing::debug!("a packet for a client of the embedded broker cannot be written: {error}");
        }
    }

    /// Handles all packets that have been read in full.
    async fn handle_all(&mut self, heard: &mut Instant) -> Result<(), ConnectionOver> {
        loop {
            match take_packet(&mut self.read, self.version) {
                Ok(Some(packet)) => {
                    *heard = Instant::now();
                    self.handle(packet, *heard).await?;
                    // Many packets may have come at once, and others wait.
                    consume_budget().await;
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::debug!("a client of the embedded broker sent a packet that is wrong: {error}");
                    return Err(ConnectionOver::Ended(match error {
                        Error::PayloadSizeLimitExceeded { .. } => DisconnectReasonCode::PacketTooLarge,
                        Error::ProtocolViolation(reason) => reason,
                        Error::ProtocolError => DisconnectReasonCode::ProtocolError,
                        _ => DisconnectReasonCode::MalformedPacket,
                    }));
                }
            }
        }
    }

    async fn handle(&mut self, packet: Packet, now: Instant) -> Result<(), ConnectionOver> {
        let answer = match packet {
            Packet::Publish(publish) => self.published(&publish, now)?,
            Packet::PubAck(PubAck { pkid, .. }) | Packet::PubComp(PubComp { pkid, .. }) => {
                self.with_session(|session| session.acknowledged(pkid))?;
                None
            }
            Packet::PubRec(PubRec { pkid, reason, .. }) => {
                // A code for an error ends the exchange (MQTT 5.0, section 4.3.3).
                if reason as u8 >= 0x80 {
                    self.with_session(|session| session.acknowledged(pkid))?;
                    return Ok(());
                }
                let is_known = self.with_session(|session| session.received_by_client(pkid))?;
                let reason =
                    if is_known { PubRelReason::Success } else { PubRelReason::PacketIdentifierNotFound };
                Some(Packet::PubRel(PubRel { pkid, reason, properties: None }))
            }
            Packet::PubRel(PubRel { pkid, .. }) => {
                let is_known = self.with_session(|session| session.released_by_client(pkid))?;
                let reason =
                    if is_known { PubCompReason::Success } else { PubCompReason::PacketIdentifierNotFound };
                Some(Packet::PubComp(PubComp { pkid, reason, properties: None }))
            }
            Packet::Subscribe(subscribe) => Some(self.subscribed(&subscribe, now).await),
            Packet::Unsubscribe(unsubscribe) if unsubscribe.filters.is_empty() => {
                return Err(ConnectionOver::Ended(DisconnectReasonCode::ProtocolError));
            }
            Packet::Unsubscribe(unsubscribe) => Some(self.unsubscribed(&unsubscribe)),
            Packet::PingReq => Some(Packet::PingResp),
            Packet::Disconnect(disconnect) => return Err(self.left(&disconnect)),
            _ => return Err(ConnectionOver::Ended(DisconnectReasonCode::ProtocolError)),
        };
        if let Some(answer) = answer {
            self.put(&answer);
        }
        Ok(())
    }

    fn published(&mut self, publish: &Publish, now: Instant) -> Result<Option<Packet>, ConnectionOver> {
        if let Some(properties) = &publish.properties {
            // We allow none in CONNACK.
            if properties.topic_alias.is_some() {
                return Err(ConnectionOver::Ended(DisconnectReasonCode::TopicAliasInvalid));
            }
            // Only a server sends one (MQTT 5.0, section 3.3.4).
            if !properties.subscription_identifiers.is_empty() {
                return Err(ConnectionOver::Ended(DisconnectReasonCode::ProtocolError));
            }
        }
        let message = BrokerMessage::published(publish, now)
            .ok_or(ConnectionOver::Ended(DisconnectReasonCode::TopicNameInvalid))?;
        let id = self.accepted.id;
        let mut state = self.shared.lock();
        let pkid = publish.pkid;
        match publish.qos {
            QoS::AtMostOnce => {
                state.publish(Some(id), message);
                Ok(None)
            }
            QoS::AtLeastOnce => {
                let reason = match state.publish(Some(id), message) {
                    Routed::Delivered => PubAckReason::Success,
                    Routed::NoSubscriber => PubAckReason::NoMatchingSubscribers,
                    Routed::NotRetained => PubAckReason::QuotaExceeded,
                };
                Ok(Some(Packet::PubAck(PubAck { pkid, reason, properties: None })))
            }
            QoS::ExactlyOnce => {
                let session = state.attached(id);
                let is_new = session.is_some_and(|session| session.received_from_client(pkid));
                let routed = if is_new { state.publish(Some(id), message) } else { Routed::Delivered };
                let reason = match routed {
                    Routed::Delivered => PubRecReason::Success,
                    Routed::NoSubscriber => PubRecReason::NoMatchingSubscribers,
                    Routed::NotRetained => {
                        // An error ends the exchange, so the id is free again.
                        state.attached(id).map(|session| session.released_by_client(pkid));
                        PubRecReason::QuotaExceeded
                    }
                };
                Ok(Some(Packet::PubRec(PubRec { pkid, reason, properties: None })))
            }
        }
    }

    async fn subscribed(&self, subscribe: &Subscribe, now: Instant) -> Packet {
        let identifier = subscribe.properties.as_ref().and_then(|properties| properties.id);
        let mut return_codes = Vec::with_capacity(subscribe.filters.len());
        for filter in &subscribe.filters {
            let added = self.shared.lock().subscribe(self.accepted.id, filter, identifier, now);
            return_codes.push(match added {
                Some(true) => SubscribeReasonCode::Success(filter.qos),
                Some(false) => SubscribeReasonCode::QuotaExceeded,
                None => SubscribeReasonCode::TopicFilterInvalid,
            });
            // Each filter may be compared with all retained messages, and others wait.
            yield_now().await;
        }
        Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes, properties: None })
    }

    fn unsubscribed(&self, unsubscribe: &Unsubscribe) -> Packet {
        let mut state = self.shared.lock();
        let mut reason = |filter: &String| match state.unsubscribe(self.accepted.id, filter) {
            Some(true) => UnsubAckReason::Success,
            Some(false) => UnsubAckReason::NoSubscriptionExisted,
            None => UnsubAckReason::TopicFilterInvalid,
        };
        let reasons = unsubscribe.filters.iter().map(&mut reason).collect();
        Packet::UnsubAck(UnsubAck { pkid: unsubscribe.pkid, reasons, properties: None })
    }

    fn left(&self, disconnect: &Disconnect) -> ConnectionOver {
        let expiry = disconnect.properties.as_ref().and_then(|properties| properties.session_expiry_interval);
        let expiry = expiry.map(|seconds| Duration::from_secs(seconds.into()));
        // A session that ends with the connection cannot get longer (MQTT 5.0, section 3.14.2.2.2).
        if self.accepted.expiry.is_zero() && expiry.is_some_and(|expiry| !expiry.is_zero()) {
            return ConnectionOver::Ended(DisconnectReasonCode::ProtocolError);
        }
        let keeps_will = disconnect.reason_code != DisconnectReasonCode::NormalDisconnection;
        ConnectionOver::Left { keeps_will, expiry }
    }

    /// Asks the session, which may have been taken over by another connection.
    fn with_session(&self, ask: impl FnOnce(&mut ClientSession) -> bool) -> Result<bool, ConnectionOver> {
        let mut state = self.shared.lock();
        let session = state.attached(self.accepted.id);
        session.map(ask).ok_or(ConnectionOver::Ended(DisconnectReasonCode::SessionTakenOver))
    }
}

/// Waits until then, or for ever.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
