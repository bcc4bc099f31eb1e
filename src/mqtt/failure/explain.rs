//! Why there is no connection, in one line with the remedy.
//!
//! Pure: the client library's error and the connection's progress go in, a [`LinkFailure`] comes out. This file has no access
//! to the password, so no text can contain it.

use rumqttc::{ConnectReturnCode, ConnectionError, DisconnectReasonCode, Packet, StateError};

use super::reason::{Explanation, FailureKind, FailureReason};
use super::tls;
use crate::model::shown;
use crate::mqtt::settings::MqttSettings;
use crate::mqtt::socket::{ConnectProgress, SocketError, Stage};
use crate::mqtt::topics::Topics;
use crate::secret::{Secret, Source};

/// The most characters of a broker's own words that are repeated.
pub(in crate::mqtt) const MAX_REASON_STRING: usize = 200;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkFailure {
    pub(crate) kind: FailureKind,
    pub(crate) reason: FailureReason,
    pub(crate) remedy: &'static str,
    /// What, where, and what to do, on one line.
    pub(crate) text: String,
}

impl LinkFailure {
    /// This reason, in these words, at this broker.
    pub(crate) fn of(reason: FailureReason, why: &str, settings: &MqttSettings) -> Self {
        let remedy = remedy(reason, settings);
        let text = format!("the broker at {}: {why}: {remedy}", settings.broker());
        Self { kind: reason.kind(), reason, remedy, text }
    }

    /// What an error of the connection means.
    pub(crate) fn explain(
        error: &ConnectionError,
        progress: &ConnectProgress,
        settings: &MqttSettings,
    ) -> Self {
        let Explanation { reason, kind, why } = explanation(error, progress, settings.tls.is_some());
        Self { kind, ..Self::of(reason, &why, settings) }
    }

    /// The same for a connection with a last will. Some brokers refuse a will whose topic the user may not write to with the
    /// reason code that others use for a wrong password, so the text names both.
    pub(crate) fn explain_with_will(
        error: &ConnectionError,
        progress: &ConnectProgress,
        settings: &MqttSettings,
    ) -> Self {
        let mut failure = Self::explain(error, progress, settings);
        if failure.reason == FailureReason::LoginRefused
            && matches!(error, ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized))
        {
            let topic = Topics::new(&settings.base_topic).bridge_state();
            failure.text.push_str("; if they are right, let this user write to the topic of the last will, ");
            failure.text.push_str(&topic);
        }
        failure
    }

    /// Whether another user name or password may help.
    pub(crate) fn is_of_login(&self) -> bool {
        matches!(self.reason, FailureReason::LoginRefused | FailureReason::NotAuthorized)
    }

    /// Whether the broker sends away all its clients, or accepts none.
    pub(crate) fn is_of_many(&self) -> bool {
        matches!(self.reason, FailureReason::Busy | FailureReason::Moved)
    }

    /// The broker neither answers nor closes the connection.
    pub(crate) fn silent(settings: &MqttSettings) -> Self {
        Self::of(FailureReason::Silent, "does not answer", settings)
    }

    /// The broker acknowledges no message, so that no further one can be sent.
    pub(crate) fn unacknowledged(settings: &MqttSettings) -> Self {
        Self::of(FailureReason::Unacknowledged, "acknowledges none of our messages", settings)
    }

    /// The broker sends us no message, not even our own.
    pub(crate) fn one_way(settings: &MqttSettings) -> Self {
        Self::of(FailureReason::OneWay, "sends us no messages", settings)
    }

    /// The connection ended, most likely because of this message.
    pub(crate) fn because_of(self, message: &Unacknowledged, settings: &MqttSettings) -> Self {
        let broker = settings.broker();
        let Unacknowledged { topic, size } = message;
        let remedy = self.remedy;
        let why = self.reason.sign();
        let text = format!(
            "the broker at {broker}: {why}, most likely the one of {size} bytes at {topic}: {remedy}; until it \
             changes the message is not sent"
        );
        Self { text, ..self }
    }
}

/// A message that was not acknowledged when the connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unacknowledged {
    pub(crate) topic: String,
    pub(crate) size: usize,
}

/// The remedy under this config. A password from a systemd credential changes only with a restart.
fn remedy(reason: FailureReason, settings: &MqttSettings) -> &'static str {
    let source = settings.password.as_ref().map(Secret::source);
    if reason == FailureReason::LoginRefused && source == Some(Source::Credential) {
        return "check mqtt.username and the credential mqtt.password; a corrected credential needs \
                `systemctl restart hs100d`, a reload does not read it";
    }
    reason.remedy()
}

const TAKEN_OVER: &str = "another client has connected with our client id";

fn explanation(error: &ConnectionError, progress: &ConnectProgress, has_tls: bool) -> Explanation {
    if progress.is_refusal_in_mqtt_3() {
        return FailureReason::NoMqtt5.into();
    }
    if progress.is_tls() {
        return FailureReason::SpeaksTls.into();
    }
    if progress.is_no_mqtt() {
        return FailureReason::NotMqtt.into();
    }
    match error {
        ConnectionError::ConnectionRefused(code) => refused(*code),
        ConnectionError::MqttState(state) => ended(state, progress, has_tls),
        ConnectionError::Io(error) => io_failure(error, progress, has_tls),
        ConnectionError::Timeout(_) => timed_out(progress.stage()),
        ConnectionError::NotConnAck(packet) => match &**packet {
            Packet::Disconnect(packet) => disconnected(packet.reason_code, None, progress),
            _ => (FailureReason::Protocol, "its first packet is not a CONNACK").into(),
        },
        other => {
            Explanation::from((FailureReason::HungUp, shown(&other.to_string(), MAX_REASON_STRING))).passing()
        }
    }
}

fn timed_out(stage: Stage) -> Explanation {
    match stage {
        Stage::Resolving => (FailureReason::NameUnresolved, "no answer from the name server").into(),
        Stage::Dialling => (FailureReason::Silent, "no answer").into(),
        Stage::Handshake => Explanation::from((FailureReason::NoTls, "no answer to TLS")).passing(),
        Stage::Open => FailureReason::Mute.into(),
    }
}

fn refused(code: ConnectReturnCode) -> Explanation {
    use ConnectReturnCode as Code;
    match code {
        Code::BadUserNamePassword | Code::NotAuthorized => FailureReason::LoginRefused.into(),
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => FailureReason::NoMqtt5.into(),
        Code::ClientIdentifierNotValid | Code::BadClientId => FailureReason::ClientIdRefused.into(),
        Code::Banned => FailureReason::Banned.into(),
        Code::RetainNotSupported | Code::QoSNotSupported => FailureReason::Unfit.into(),
        Code::ServerUnavailable
        | Code::ServerBusy
        | Code::ServiceUnavailable
        | Code::ConnectionRateExceeded => {
            (FailureReason::Busy, format!("it is overloaded ({code:?})")).into()
        }
        Code::UseAnotherServer | Code::ServerMoved => FailureReason::Moved.into(),
        other => (FailureReason::Denied, format!("it refuses the connection ({other:?})")).into(),
    }
}

fn ended(error: &StateError, progress: &ConnectProgress, has_tls: bool) -> Explanation {
    match error {
        StateError::ServerDisconnect { reason_code, reason_string } => {
            disconnected(*reason_code, reason_string.as_deref(), progress)
        }
        StateError::Io(error) | StateError::Deserialization(rumqttc::Error::Io(error)) => {
            io_failure(error, progress, has_tls)
        }
        StateError::AwaitPingResp => (FailureReason::Silent, "does not answer").into(),
        StateError::OutgoingPacketTooLarge { pkt_size, max } => (
            FailureReason::PacketTooLarge,
            format!("accepts packets of {max} bytes at most, not of {pkt_size}"),
        )
            .into(),
        StateError::Deserialization(rumqttc::Error::PayloadSizeLimitExceeded { pkt_size, .. })
        | StateError::IncomingPacketTooLarge { pkt_size, .. } => {
            let why = format!("sent a packet of {pkt_size} bytes, which is over our limit");
            (FailureReason::MessageTooLarge, why).into()
        }
        StateError::ConnectionAborted => hung_up(progress, has_tls),
        StateError::Deserialization(_) | StateError::Unsolicited(_) | StateError::ProtocolViolation(_) => {
            let why = format!(
                "{} ({})",
                FailureReason::Protocol.sign(),
                shown(&error.to_string(), MAX_REASON_STRING)
            );
            (FailureReason::Protocol, why).into()
        }
        StateError::RetainNotSupported => FailureReason::Unfit.into(),
        // The others are our own doing.
        other => {
            Explanation::from((FailureReason::HungUp, format!("the connection ended: {other}"))).passing()
        }
    }
}

fn hung_up(progress: &ConnectProgress, has_tls: bool) -> Explanation {
    let reason: Explanation = if progress.is_silent() && !has_tls {
        // A server that expects TLS does not answer a CONNECT.
        (FailureReason::Mute, "closed the connection without an answer").into()
    } else {
        (FailureReason::HungUp, "closed the connection").into()
    };
    if progress.stage() == Stage::Open { reason } else { reason.passing() }
}

fn disconnected(code: DisconnectReasonCode, words: Option<&str>, progress: &ConnectProgress) -> Explanation {
    use DisconnectReasonCode as Code;
    let quoted =
        words.map(|words| format!(", saying \"{}\"", shown(words, MAX_REASON_STRING))).unwrap_or_default();
    if let Some(code) = progress.disconnect_reason() {
        return (FailureReason::Denied, format!("it ended the connection (reason {code:#04X}{quoted})"))
            .into();
    }
    match code {
        Code::SessionTakenOver => (FailureReason::ClientIdTaken, TAKEN_OVER).into(),
        Code::NotAuthorized => {
            (FailureReason::NotAuthorized, format!("it ended the connection as not authorised{quoted}"))
                .into()
        }
        Code::ServerShuttingDown => (FailureReason::Busy, "is shutting down").into(),
        Code::ServerBusy | Code::ConnectionRateExceeded => {
            (FailureReason::Busy, format!("it is overloaded ({code:?}{quoted})")).into()
        }
        Code::RetainNotSupported | Code::QoSNotSupported => FailureReason::Unfit.into(),
        Code::PacketTooLarge => {
            let why = format!("ended the connection because of a packet that is too large for it{quoted}");
            (FailureReason::PacketTooLarge, why).into()
        }
        Code::TopicNameInvalid | Code::PayloadFormatInvalid | Code::QuotaExceeded => {
            let why = format!("it ended the connection because of a message of ours ({code:?}{quoted})");
            (FailureReason::MessageRefused, why).into()
        }
        // A server reference is not followed: a broker, or who took its place, must not send us elsewhere with our password.
        Code::UseAnotherServer | Code::ServerMoved => {
            (FailureReason::Moved, format!("it sends us to another server{quoted}")).into()
        }
        // Some brokers give only this reason to a client whose id another client uses.
        Code::NormalDisconnection | Code::UnspecifiedError | Code::AdministrativeAction => {
            (FailureReason::HungUp, format!("ended the connection ({code:?}{quoted})")).into()
        }
        Code::KeepAliveTimeout => Explanation::from((
            FailureReason::HungUp,
            format!("received nothing from us in time ({code:?}{quoted})"),
        ))
        .passing(),
        other => (FailureReason::Denied, format!("it ended the connection ({other:?}{quoted})")).into(),
    }
}

fn io_failure(error: &std::io::Error, progress: &ConnectProgress, has_tls: bool) -> Explanation {
    if let Some(socket) = error.get_ref().and_then(|inner| inner.downcast_ref::<SocketError>()) {
        let reason = match socket {
            SocketError::Refused => FailureReason::Refused,
            SocketError::Resolve(_) => FailureReason::NameUnresolved,
            SocketError::Connect(_) => FailureReason::Unreachable,
            SocketError::File { .. } => FailureReason::FileUnusable,
            SocketError::NoRoots => FailureReason::NoRoots,
            SocketError::Handshake(error) => return tls::explain(error),
        };
        return (reason, socket.to_string()).into();
    }
    // With TLS 1.3 the broker checks our certificate only after the handshake is complete on our side.
    if tls::error_in(error).is_some() {
        return tls::explain(error);
    }
    if progress.stage() == Stage::Open {
        hung_up(progress, has_tls)
    } else {
        (FailureReason::Unreachable, error.to_string()).into()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use rustls::CertificateError;

    use super::*;
    use crate::mqtt::failure::reconnect::{GIVE_WAY, Reconnect};
    use crate::mqtt::homeassistant::DocumentForm;
    use crate::mqtt::test_support;

    fn settings() -> MqttSettings {
        MqttSettings {
            host: "broker.lan".to_owned(),
            port: 8883,
            username: Some("me".to_owned()),
            password: Some(Secret::new("hunter2".to_owned())),
            ..test_support::settings(DocumentForm::Off)
        }
    }

    fn explain(error: ConnectionError) -> LinkFailure {
        LinkFailure::explain(&error, &ConnectProgress::default(), &settings())
    }

    fn socket(error: SocketError) -> ConnectionError {
        ConnectionError::Io(error.into())
    }

    fn tls_error(error: rustls::Error) -> ConnectionError {
        socket(SocketError::Handshake(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    fn disconnect(reason_code: DisconnectReasonCode) -> ConnectionError {
        let reason_string = Some("because\nI say so".to_owned());
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string })
    }

    #[tokio::test]
    async fn every_refusal_names_the_broker_and_the_remedy() {
        use rustls::AlertDescription;
        let elapsed = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>()).await.unwrap_err();
        let cases: Vec<(ConnectionError, FailureKind, &str)> = vec![
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword),
                FailureKind::Refused,
                "mqtt.password",
            ),
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized),
                FailureKind::Refused,
                "mqtt.username",
            ),
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::UnsupportedProtocolVersion),
                FailureKind::Refused,
                "MQTT 5",
            ),
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::ClientIdentifierNotValid),
                FailureKind::Refused,
                "mqtt.client_id",
            ),
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::ServerBusy),
                FailureKind::Away,
                "overloaded",
            ),
            (socket(SocketError::Refused), FailureKind::Away, "mqtt.url"),
            (socket(SocketError::Resolve(io::Error::other("x"))), FailureKind::Away, "mqtt.url"),
            (socket(SocketError::NoRoots), FailureKind::Refused, "mqtt.ca_file"),
            (
                socket(SocketError::File { file: "/x/ca.pem".into(), why: "cannot be read".to_owned() }),
                FailureKind::Refused,
                "/x/ca.pem",
            ),
            (
                tls_error(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
                FailureKind::Refused,
                "mqtt.ca_file",
            ),
            (
                tls_error(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)),
                FailureKind::Refused,
                "another name",
            ),
            (
                tls_error(rustls::Error::InvalidCertificate(CertificateError::Expired)),
                FailureKind::Refused,
                "expired",
            ),
            (
                tls_error(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)),
                FailureKind::Refused,
                "mqtt.client_cert_file",
            ),
            (
                ConnectionError::MqttState(StateError::ServerDisconnect {
                    reason_code: DisconnectReasonCode::SessionTakenOver,
                    reason_string: None,
                }),
                FailureKind::TakenOver,
                "mqtt.client_id",
            ),
            (disconnect(DisconnectReasonCode::ServerBusy), FailureKind::Away, "overloaded"),
            (disconnect(DisconnectReasonCode::QuotaExceeded), FailureKind::Refused, "QuotaExceeded"),
            (disconnect(DisconnectReasonCode::RetainNotSupported), FailureKind::Refused, "another broker"),
            (disconnect(DisconnectReasonCode::UnspecifiedError), FailureKind::Dropped, "UnspecifiedError"),
            (ConnectionError::MqttState(StateError::Unsolicited(7)), FailureKind::Away, "violates MQTT 5"),
            (ConnectionError::Timeout(elapsed), FailureKind::Away, "mqtt.url"),
            (
                tls_error(rustls::Error::AlertReceived(AlertDescription::BadCertificate)),
                FailureKind::Refused,
                "mqtt.client_cert_file",
            ),
            (
                tls_error(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)),
                FailureKind::Refused,
                "TLS",
            ),
        ];
        for (error, kind, hint) in cases {
            let failure = explain(error);
            assert_eq!(failure.kind, kind, "{failure:?}");
            assert!(failure.text.starts_with("the broker at broker.lan:8883: "), "{failure:?}");
            assert!(failure.text.contains(hint), "{failure:?}");
            assert!(!failure.text.contains("hunter2") && !failure.text.contains('\n'), "{failure:?}");
        }
    }

    #[test]
    fn a_protocol_violation_of_the_broker_is_never_blamed_on_another_client() {
        use rumqttc::{Error, ProtocolViolation as Violation};
        let seen = [
            StateError::Unsolicited(7),
            StateError::Deserialization(Error::InvalidConnectReturnCode(0x95)),
            StateError::Deserialization(Error::MalformedPacket),
            StateError::ProtocolViolation(Violation::DuplicateConnAck),
            StateError::ServerDisconnect {
                reason_code: DisconnectReasonCode::PacketTooLarge,
                reason_string: None,
            },
            StateError::ServerDisconnect {
                reason_code: DisconnectReasonCode::MalformedPacket,
                reason_string: None,
            },
            StateError::OutgoingPacketTooLarge { pkt_size: 9, max: 8 },
            StateError::InvalidState,
            StateError::RetainNotSupported,
        ];
        for error in seen {
            let text = error.to_string();
            let failure = explain(ConnectionError::MqttState(error));
            let lasted = Some(Duration::from_millis(20));
            let mut reconnect = Reconnect::new("test");
            for _ in 0..9 {
                let decision = reconnect.decide(failure.clone(), 1, lasted, None, &settings());
                assert_ne!(decision.wait, GIVE_WAY, "{text}");
            }
        }
    }

    #[test]
    fn a_port_for_something_else_is_told_from_the_first_bytes() {
        let aborted = || ConnectionError::MqttState(StateError::ConnectionAborted);
        for (first, reason) in [
            (&[0x15, 3, 3, 0, 2, 2, 70][..], FailureReason::SpeaksTls),
            (b"HTTP/1.1 400 Bad Request", FailureReason::NotMqtt),
            (b"SSH-2.0-OpenSSH_9.2", FailureReason::NotMqtt),
            (&[0x20, 2, 0, 1], FailureReason::NoMqtt5),
            (&[0x20, 3, 0, 0, 0], FailureReason::HungUp),
            (&[], FailureReason::Mute),
        ] {
            let failure = LinkFailure::explain(&aborted(), &ConnectProgress::having_read(first), &settings());
            assert_eq!(failure.reason, reason, "{failure:?}");
        }
        let tls = MqttSettings { tls: Some(Default::default()), ..settings() };
        assert_eq!(
            LinkFailure::explain(&aborted(), &ConnectProgress::default(), &tls).reason,
            FailureReason::HungUp
        );
    }
}
