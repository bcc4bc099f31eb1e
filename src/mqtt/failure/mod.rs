//! Why there is no connection, in one line with the remedy, and how long to wait before the next try.
//!
//! Pure but for the log: an error and how far the connection came go in, a `LinkFailure` comes out. Nothing here
//! knows a password, so that no text can hold one.

pub mod reason;

use std::collections::HashMap;
use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use rumqttc::{ConnectReturnCode, ConnectionError, DisconnectReasonCode, Packet, StateError};
use rustls::CertificateError;

use crate::model::shown;
use crate::mqtt::MqttSettings;
use crate::mqtt::certificates::webpki_error;
use crate::mqtt::socket::{ConnectProgress, SocketError, Stage};
use crate::mqtt::topics::Topics;
use crate::secret::{Secret, Source};
use reason::FailureReason;

/// Another client uses our client id: how long we leave the broker to it.
pub(super) const GIVE_WAY: Duration = Duration::from_secs(300);
/// A connection that lived this long was a good one.
pub(super) const STABLE: Duration = Duration::from_secs(30);
/// A broker that says no is asked again after this time at the latest.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A connection that ended within this time was dropped right after connecting.
const RIGHT_AFTER: Duration = Duration::from_secs(5);
/// So many of those in a row are no accident.
const DROPS: u32 = 3;

/// One reason for not being connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkFailure {
    pub(super) kind: FailureKind,
    /// What stands in the way.
    pub(super) reason: FailureReason,
    /// What helps.
    pub(super) remedy: &'static str,
    /// What, where, and what to do.
    pub(super) text: String,
}

/// Reasons, told apart by what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FailureKind {
    /// It may be back any moment.
    Away,
    /// It says no, and will until somebody changes something.
    Refused,
    /// Another client has our client id.
    TakenOver,
    /// It was there and hung up, without a reason.
    Dropped,
    /// The connection ended over a packet that is too large for one side.
    TooLarge,
}

impl LinkFailure {
    /// This, in these words, at this broker.
    pub(super) fn of(reason: FailureReason, why: &str, options: &MqttSettings) -> Self {
        let MqttSettings { host, port, .. } = options;
        let remedy = remedy(reason, options);
        let text = format!("the broker at {host}:{port}: {why}: {remedy}");
        Self { kind: reason.kind(), reason, remedy, text }
    }

    /// What an error of the connection means.
    pub(super) fn explain(
        error: &ConnectionError,
        progress: &ConnectProgress,
        options: &MqttSettings,
    ) -> Self {
        let Explanation { reason, kind, why } = explanation(error, progress, options.tls.is_some());
        Self { kind, ..Self::of(reason, &why, options) }
    }

    /// The same for a connection with the last will. A broker that does not let the user write to the will's topic may
    /// give the reason that others give for a wrong password, so both are named.
    pub(super) fn explain_with_will(
        error: &ConnectionError,
        progress: &ConnectProgress,
        options: &MqttSettings,
    ) -> Self {
        let mut failure = Self::explain(error, progress, options);
        if failure.reason == FailureReason::LoginRefused
            && matches!(error, ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized))
        {
            let topic = Topics::new(&options.base_topic).bridge_state();
            failure.text.push_str("; if they are right, let this user write to the topic of the last will, ");
            failure.text.push_str(&topic);
        }
        failure
    }

    /// A broker that neither answers nor hangs up.
    pub(super) fn silent(options: &MqttSettings) -> Self {
        Self::of(FailureReason::Silent, "does not answer", options)
    }

    /// A broker that has room for no more of our messages, because it says of none that it has it.
    pub(super) fn unacknowledged(options: &MqttSettings) -> Self {
        Self::of(FailureReason::Unacknowledged, "takes our messages and acknowledges none", options)
    }

    /// The connection ended, most likely over this message.
    pub(super) fn over(self, message: &Unacknowledged, options: &MqttSettings) -> Self {
        let MqttSettings { host, port, .. } = options;
        let Unacknowledged { topic, size } = message;
        let remedy = self.remedy;
        let why = self.reason.sign();
        let text = format!(
            "the broker at {host}:{port}: {why}, most likely the one of {size} bytes at {topic}: {remedy}; until it \
             changes the message is left out"
        );
        Self { text, ..self }
    }
}

/// A message that the broker had yet to acknowledge when the connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unacknowledged {
    pub(super) topic: String,
    pub(super) size: usize,
}

/// What helps here. A password that systemd passed is another one only after a restart.
fn remedy(reason: FailureReason, options: &MqttSettings) -> &'static str {
    let source = options.password.as_ref().map(Secret::source);
    if reason == FailureReason::LoginRefused && source == Some(Source::Credential) {
        return "check mqtt.username and the credential mqtt.password; a corrected credential needs \
                `systemctl restart hs100d`, a reload does not read it";
    }
    reason.remedy()
}

/// So many characters of a broker's own words are repeated.
pub(super) const SAID: usize = 200;
const TAKEN_OVER: &str = "another client has connected with our client id";
const DROPPED_AGAIN: &str = "hung up three times right after connecting, most likely because another client \
     uses our client id";

/// An reason in the words of this case.
struct Explanation {
    reason: FailureReason,
    kind: FailureKind,
    why: String,
}

impl Explanation {
    /// It will be another time, whatever the reason usually means.
    fn passing(self) -> Self {
        Self { kind: FailureKind::Away, ..self }
    }
}

impl From<FailureReason> for Explanation {
    fn from(reason: FailureReason) -> Self {
        (reason, reason.sign()).into()
    }
}

impl<T: Into<String>> From<(FailureReason, T)> for Explanation {
    fn from((reason, why): (FailureReason, T)) -> Self {
        Self { reason, kind: reason.kind(), why: why.into() }
    }
}

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
        ConnectionError::MqttState(state) => broken(state, progress, has_tls),
        ConnectionError::Io(error) => io_trouble(error, progress, has_tls),
        ConnectionError::Timeout(_) => timed_out(progress.stage()),
        ConnectionError::NotConnAck(packet) => match &**packet {
            Packet::Disconnect(packet) => disconnected(packet.reason_code, None, progress),
            _ => (FailureReason::Protocol, "its first packet is no CONNACK").into(),
        },
        other => Explanation::from((FailureReason::HungUp, shown(&other.to_string(), SAID))).passing(),
    }
}

fn timed_out(stage: Stage) -> Explanation {
    match stage {
        Stage::Resolving => (FailureReason::NameUnresolved, "no answer to the question for its name").into(),
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
        | Code::ConnectionRateExceeded => (FailureReason::Busy, format!("it is too busy ({code:?})")).into(),
        other => (FailureReason::Denied, format!("it refuses the connection ({other:?})")).into(),
    }
}

fn broken(error: &StateError, progress: &ConnectProgress, has_tls: bool) -> Explanation {
    match error {
        StateError::ServerDisconnect { reason_code, reason_string } => {
            disconnected(*reason_code, reason_string.as_deref(), progress)
        }
        StateError::Io(error) | StateError::Deserialization(rumqttc::Error::Io(error)) => {
            io_trouble(error, progress, has_tls)
        }
        StateError::AwaitPingResp => (FailureReason::Silent, "does not answer").into(),
        StateError::OutgoingPacketTooLarge { pkt_size, max } => {
            (FailureReason::PacketTooLarge, format!("takes no packet of {pkt_size} bytes, {max} at most"))
                .into()
        }
        StateError::Deserialization(rumqttc::Error::PayloadSizeLimitExceeded { pkt_size, .. })
        | StateError::IncomingPacketTooLarge { pkt_size, .. } => {
            let why = format!("sent a packet of {pkt_size} bytes, although it knows our limit");
            (FailureReason::MessageTooLarge, why).into()
        }
        StateError::ConnectionAborted => hung_up(progress, has_tls),
        StateError::Deserialization(_) | StateError::Unsolicited(_) | StateError::ProtocolViolation(_) => {
            let why = format!("{} ({})", FailureReason::Protocol.sign(), shown(&error.to_string(), SAID));
            (FailureReason::Protocol, why).into()
        }
        StateError::RetainNotSupported => FailureReason::Unfit.into(),
        // What is left is our own doing.
        other => {
            Explanation::from((FailureReason::HungUp, format!("the connection ended: {other}"))).passing()
        }
    }
}

fn hung_up(progress: &ConnectProgress, has_tls: bool) -> Explanation {
    let reason: Explanation = if progress.is_silent() && !has_tls {
        // A server that expects TLS takes a CONNECT for noise.
        (FailureReason::Mute, "hung up without a word").into()
    } else {
        (FailureReason::HungUp, "hung up").into()
    };
    if progress.stage() == Stage::Open { reason } else { reason.passing() }
}

fn disconnected(code: DisconnectReasonCode, words: Option<&str>, progress: &ConnectProgress) -> Explanation {
    use DisconnectReasonCode as Code;
    let said = words.map(|words| format!(", saying \"{}\"", shown(words, SAID))).unwrap_or_default();
    if let Some(code) = progress.disconnect_reason() {
        return (FailureReason::Denied, format!("it ended the connection (reason {code:#04X}{said})")).into();
    }
    match code {
        Code::SessionTakenOver => (FailureReason::ClientIdTaken, TAKEN_OVER).into(),
        Code::NotAuthorized => {
            (FailureReason::NotAuthorized, format!("it ended the connection as not authorised{said}")).into()
        }
        Code::ServerShuttingDown => (FailureReason::Busy, "is shutting down").into(),
        Code::ServerBusy | Code::ConnectionRateExceeded => {
            (FailureReason::Busy, format!("it is too busy ({code:?}{said})")).into()
        }
        Code::RetainNotSupported | Code::QoSNotSupported => FailureReason::Unfit.into(),
        Code::PacketTooLarge => {
            let why = format!("ended the connection over a packet that is too large for it{said}");
            (FailureReason::PacketTooLarge, why).into()
        }
        Code::TopicNameInvalid | Code::PayloadFormatInvalid | Code::QuotaExceeded => {
            let why = format!("it ended the connection over a message of ours ({code:?}{said})");
            (FailureReason::MessageRefused, why).into()
        }
        Code::UseAnotherServer | Code::ServerMoved => {
            (FailureReason::Moved, format!("it sends us to another server{said}")).into()
        }
        // Some say no more than this of a client whose id another one came with.
        Code::NormalDisconnection | Code::UnspecifiedError | Code::AdministrativeAction => {
            (FailureReason::HungUp, format!("ended the connection ({code:?}{said})")).into()
        }
        Code::KeepAliveTimeout => {
            Explanation::from((FailureReason::HungUp, format!("heard too little of us ({code:?}{said})")))
                .passing()
        }
        other => (FailureReason::Denied, format!("it ended the connection ({other:?}{said})")).into(),
    }
}

fn io_trouble(error: &std::io::Error, progress: &ConnectProgress, has_tls: bool) -> Explanation {
    if let Some(wire) = error.get_ref().and_then(|inner| inner.downcast_ref::<SocketError>()) {
        let reason = match wire {
            SocketError::Refused => FailureReason::Refused,
            SocketError::Resolve(_) => FailureReason::NameUnresolved,
            SocketError::Connect(_) => FailureReason::Unreachable,
            SocketError::File { .. } => FailureReason::FileUnusable,
            SocketError::NoRoots => FailureReason::NoRoots,
            SocketError::Handshake(error) => return handshake(error),
        };
        return (reason, wire.to_string()).into();
    }
    // With TLS 1.3 the broker looks at our certificate only after we take the handshake for done.
    if tls_error(error).is_some() {
        return handshake(error);
    }
    if progress.stage() == Stage::Open {
        hung_up(progress, has_tls)
    } else {
        (FailureReason::Unreachable, error.to_string()).into()
    }
}

fn handshake(error: &std::io::Error) -> Explanation {
    use rustls::{AlertDescription as Alert, Error as Tls};
    match tls_error(error) {
        Some(Tls::InvalidCertificate(bad)) => bad_certificate(bad),
        Some(Tls::AlertReceived(Alert::CertificateRequired)) => {
            FailureReason::ClientCertificateMissing.into()
        }
        Some(Tls::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError),
        )) => (FailureReason::ClientCertificateRefused, format!("it refuses TLS with us ({alert:?})")).into(),
        // Before TLS 1.3 this is also what is said to who shows no certificate.
        Some(Tls::AlertReceived(Alert::HandshakeFailure)) => {
            let why = "it agrees on no TLS with us (HandshakeFailure): no cipher in common, or it wants a certificate \
                       of ours";
            (FailureReason::Tls, why).into()
        }
        Some(Tls::AlertReceived(alert)) => {
            (FailureReason::Tls, format!("it refuses TLS with us ({alert:?})")).into()
        }
        Some(Tls::InvalidMessage(_)) => (FailureReason::NoTls, "it does not speak TLS on this port").into(),
        Some(other) => (FailureReason::Tls, format!("TLS failed: {other}")).into(),
        None => Explanation::from((FailureReason::NoTls, "hung up during TLS")).passing(),
    }
}

fn bad_certificate(error: &CertificateError) -> Explanation {
    use CertificateError as Bad;
    match error {
        // A bad signature is one by another authority of the same name, as when it was made anew.
        Bad::UnknownIssuer | Bad::BadSignature => FailureReason::CertificateUntrusted.into(),
        Bad::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            FailureReason::CertificateWithoutName.into()
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => FailureReason::CertificateName.into(),
        Bad::Expired | Bad::ExpiredContext { .. } => FailureReason::CertificateExpired.into(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => FailureReason::CertificateNotYet.into(),
        Bad::UnsupportedSignatureAlgorithmContext { .. }
        | Bad::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            FailureReason::CertificateWeak.into()
        }
        bad => match webpki_error(bad) {
            Some(webpki::Error::UnsupportedCertVersion) => FailureReason::CertificateVersion.into(),
            Some(webpki::Error::CaUsedAsEndEntity) => FailureReason::CertificateAuthority.into(),
            _ => (FailureReason::CertificateBad, format!("its certificate is not good: {bad}")).into(),
        },
    }
}

fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(inner) = next {
        if let Some(tls) = inner.downcast_ref() {
            return Some(tls);
        }
        next = inner.source();
    }
    None
}

/// How long to wait before the next try: longer each time, up to a limit, and not quite the same for everybody.
#[derive(Debug)]
pub(super) struct Reconnect {
    /// Sets one installation's waits apart from another's, since after a power cut all of them come at once.
    seed: u64,
    tries: u32,
    drops: u32,
    /// The message that the broker had not acknowledged at each of these drops; none if it was not the same one.
    suspect: Option<Unacknowledged>,
    /// A message was left out already, and the drops did not end.
    has_blamed: bool,
}

/// What follows from the end of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RetryDecision {
    pub(super) failure: LinkFailure,
    /// How long to wait before the next try.
    pub(super) wait: Duration,
    /// The message that must not go out again.
    pub(super) blamed: Option<Unacknowledged>,
}

impl Reconnect {
    pub(super) fn new(instance: &str) -> Self {
        Self { seed: hash(instance), tries: 0, drops: 0, suspect: None, has_blamed: false }
    }

    /// Weighs a connection that ended, or never was (`lasted` is none), while the broker had yet to acknowledge
    /// `suspect`. A connection that is dropped again and again was taken over by another client, unless each time it was
    /// the same message that was not acknowledged.
    pub(super) fn weigh(
        &mut self,
        trouble: LinkFailure,
        lasted: Option<Duration>,
        suspect: Option<Unacknowledged>,
        options: &MqttSettings,
    ) -> RetryDecision {
        if lasted.is_some_and(|lasted| lasted >= STABLE) {
            self.tries = 0;
            self.has_blamed = false;
        }
        if matches!(trouble.reason, FailureReason::PacketTooLarge | FailureReason::MessageRefused)
            && let Some(message) = suspect
        {
            self.drops = 0;
            return self.blame(trouble, message, options);
        }
        self.count_drop(trouble.kind, lasted, suspect);
        if self.drops == DROPS {
            self.drops = 0;
            if let Some(message) = self.suspect.take().filter(|_| !self.has_blamed) {
                self.has_blamed = true;
                return self.blame(
                    LinkFailure::of(FailureReason::MessageRefused, "", options),
                    message,
                    options,
                );
            }
            let trouble = LinkFailure::of(FailureReason::ClientIdTaken, DROPPED_AGAIN, options);
            return RetryDecision { failure: trouble, wait: GIVE_WAY, blamed: None };
        }
        let wait =
            if trouble.kind == FailureKind::TakenOver { GIVE_WAY } else { self.next_wait(trouble.kind) };
        RetryDecision { failure: trouble, wait, blamed: None }
    }

    fn count_drop(&mut self, kind: FailureKind, lasted: Option<Duration>, suspect: Option<Unacknowledged>) {
        if kind != FailureKind::Dropped || lasted.is_none_or(|lasted| lasted >= RIGHT_AFTER) {
            self.drops = 0;
            return;
        }
        let is_first = self.drops == 0;
        self.drops += 1;
        self.suspect = suspect.filter(|message| {
            is_first || self.suspect.as_ref().is_some_and(|before| before.topic == message.topic)
        });
    }

    fn blame(
        &mut self,
        trouble: LinkFailure,
        message: Unacknowledged,
        options: &MqttSettings,
    ) -> RetryDecision {
        let trouble = trouble.over(&message, options);
        RetryDecision { wait: self.next_wait(trouble.kind), failure: trouble, blamed: Some(message) }
    }

    fn next_wait(&mut self, kind: FailureKind) -> Duration {
        // A broker that returns has everything back within ten seconds; one that says no is not pestered.
        let (first, longest) = match kind {
            FailureKind::Refused | FailureKind::TooLarge => (Duration::from_secs(5), LONGEST_WAIT),
            _ => (Duration::from_millis(500), Duration::from_secs(5)),
        };
        let wait = (first * 2_u32.pow(self.tries.min(10))).min(longest);
        self.tries = self.tries.saturating_add(1);
        spread(wait, hash((self.seed, self.tries)))
    }
}

/// A share of `longest` that looks random and is the same for the same text.
pub(super) fn share(longest: Duration, text: &str, count: u64) -> Duration {
    let part = u32::try_from(hash((text, count)) % 1000).unwrap_or_default();
    longest * part / 1000
}

/// Four fifths to six fifths of a wait.
fn spread(wait: Duration, hash: u64) -> Duration {
    let fifths = u32::try_from(hash % 401).unwrap_or_default();
    wait * (800 + fifths) / 1000
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Says a thing in the log when it is new, and after that at growing intervals only.
#[derive(Debug, Default)]
pub(super) struct RepeatedFailure {
    said: HashMap<String, (Instant, Duration)>,
}

impl RepeatedFailure {
    const FIRST_REPEAT: Duration = Duration::from_secs(60);
    const LAST_REPEAT: Duration = Duration::from_secs(3600);
    /// More different complaints than there are; what goes beyond comes from outside and is forgotten.
    const MOST: usize = 64;

    /// A warning.
    pub(super) fn warn(&mut self, text: &str, now: Instant) {
        self.warn_of(text, text, now);
    }

    /// A warning of something whose text changes from time to time, which is not news. Says whether it was due.
    pub(super) fn warn_of(&mut self, what: &str, text: &str, now: Instant) -> bool {
        let is_due = self.is_due(what, now);
        if is_due {
            tracing::warn!("{text}");
        } else {
            tracing::debug!("{text}");
        }
        is_due
    }

    /// Good news, which a connection that comes and goes must not repeat either.
    pub(super) fn inform(&mut self, text: &str, now: Instant) {
        if self.is_due(text, now) {
            tracing::info!("{text}");
        } else {
            tracing::debug!("{text}");
        }
    }

    /// Whether to raise the voice.
    fn is_due(&mut self, text: &str, now: Instant) -> bool {
        if let Some((due, interval)) = self.said.get_mut(text) {
            if now < *due {
                return false;
            }
            *interval = (*interval * 2).min(Self::LAST_REPEAT);
            *due = now + *interval;
            return true;
        }
        if self.said.len() == Self::MOST {
            self.said.clear();
        }
        self.said.insert(text.to_owned(), (now + Self::FIRST_REPEAT, Self::FIRST_REPEAT));
        true
    }

    /// All is well: the next complaint is a new one.
    pub(super) fn rest(&mut self) {
        self.said.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::mqtt::homeassistant::{self, DocumentForm};

    fn options() -> MqttSettings {
        MqttSettings {
            host: "broker.lan".to_owned(),
            port: 8883,
            tls: None,
            username: Some("me".to_owned()),
            password: Some(crate::secret::Secret::new("hunter2".to_owned())),
            client_id: "hs100d-test".to_owned(),
            base_topic: "hs100d".to_owned(),
            instance: "test".to_owned(),
            homeassistant: homeassistant::HomeAssistantOptions {
                discovery: DocumentForm::Off,
                discovery_prefix: "homeassistant".to_owned(),
                status_topic: "homeassistant/status".to_owned(),
            },
        }
    }

    fn explain(error: ConnectionError) -> LinkFailure {
        LinkFailure::explain(&error, &ConnectProgress::default(), &options())
    }

    fn wire(error: SocketError) -> ConnectionError {
        ConnectionError::Io(error.into())
    }

    fn tls(error: rustls::Error) -> ConnectionError {
        wire(SocketError::Handshake(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    fn hung_up(reason_code: DisconnectReasonCode) -> ConnectionError {
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
            (ConnectionError::ConnectionRefused(ConnectReturnCode::ServerBusy), FailureKind::Away, "busy"),
            (wire(SocketError::Refused), FailureKind::Away, "mqtt.url"),
            (wire(SocketError::Resolve(io::Error::other("x"))), FailureKind::Away, "mqtt.url"),
            (wire(SocketError::NoRoots), FailureKind::Refused, "mqtt.ca_file"),
            (
                wire(SocketError::File { file: "/x/ca.pem".into(), why: "cannot be read".to_owned() }),
                FailureKind::Refused,
                "/x/ca.pem",
            ),
            (
                tls(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
                FailureKind::Refused,
                "mqtt.ca_file",
            ),
            (
                tls(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)),
                FailureKind::Refused,
                "another name",
            ),
            (
                tls(rustls::Error::InvalidCertificate(CertificateError::Expired)),
                FailureKind::Refused,
                "expired",
            ),
            (
                tls(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)),
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
            (hung_up(DisconnectReasonCode::ServerBusy), FailureKind::Away, "busy"),
            (hung_up(DisconnectReasonCode::QuotaExceeded), FailureKind::Refused, "QuotaExceeded"),
            (hung_up(DisconnectReasonCode::RetainNotSupported), FailureKind::Refused, "another broker"),
            (hung_up(DisconnectReasonCode::UnspecifiedError), FailureKind::Dropped, "UnspecifiedError"),
            (
                ConnectionError::MqttState(StateError::Unsolicited(7)),
                FailureKind::Away,
                "does not keep to MQTT 5",
            ),
            (ConnectionError::Timeout(elapsed), FailureKind::Away, "mqtt.url"),
            (
                tls(rustls::Error::AlertReceived(AlertDescription::BadCertificate)),
                FailureKind::Refused,
                "mqtt.client_cert_file",
            ),
            (
                tls(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)),
                FailureKind::Refused,
                "TLS",
            ),
        ];
        for (error, kind, hint) in cases {
            let trouble = explain(error);
            assert_eq!(trouble.kind, kind, "{trouble:?}");
            assert!(trouble.text.starts_with("the broker at broker.lan:8883: "), "{trouble:?}");
            assert!(trouble.text.contains(hint), "{trouble:?}");
            assert!(!trouble.text.contains("hunter2") && !trouble.text.contains('\n'), "{trouble:?}");
        }
    }

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew_after_a_stable_connection() {
        let mut patience = Reconnect::new("test");
        let away = || LinkFailure::of(FailureReason::Silent, "away", &options());
        let weigh = |patience: &mut Reconnect, lasted| patience.weigh(away(), lasted, None, &options()).wait;
        let waits: Vec<_> = (0..8).map(|_| weigh(&mut patience, None)).collect();
        assert!(
            waits[0] <= Duration::from_millis(600) && waits[0] >= Duration::from_millis(400),
            "{waits:?}"
        );
        assert!(waits[..4].is_sorted(), "{waits:?}");
        assert!(waits[7] >= Duration::from_secs(4) && waits[7] <= Duration::from_secs(6), "{waits:?}");
        let after = weigh(&mut patience, Some(STABLE));
        assert!(after <= Duration::from_millis(600), "{after:?}");
        let mut same = Reconnect::new("test");
        assert_eq!(weigh(&mut same, None), waits[0]);
    }

    #[test]
    fn a_broker_that_says_no_is_not_pestered() {
        let mut patience = Reconnect::new("test");
        let waits: Vec<_> = (0..8)
            .map(|_| {
                patience
                    .weigh(LinkFailure::of(FailureReason::Denied, "no", &options()), None, None, &options())
                    .wait
            })
            .collect();
        assert!(waits[0] >= Duration::from_secs(4) && waits[7] >= Duration::from_secs(48), "{waits:?}");
        assert!(waits[7] <= Duration::from_secs(72), "{waits:?}");
    }

    const SOON: Option<Duration> = Some(Duration::from_millis(20));

    fn weigh_drop(patience: &mut Reconnect, lasted: Option<Duration>, topic: Option<&str>) -> RetryDecision {
        let suspect = topic.map(|topic| Unacknowledged { topic: topic.to_owned(), size: 2000 });
        patience.weigh(
            LinkFailure::of(FailureReason::HungUp, "hung up", &options()),
            lasted,
            suspect,
            &options(),
        )
    }

    #[test]
    fn three_drops_right_after_connecting_give_way_and_others_do_not() {
        for topics in [[None; 3], [Some("a"), Some("b"), Some("a")], [Some("a"), Some("a"), None]] {
            let mut patience = Reconnect::new("test");
            let verdicts = topics.map(|topic| weigh_drop(&mut patience, SOON, topic));
            assert!(verdicts[..2].iter().all(|verdict| verdict.wait != GIVE_WAY), "{verdicts:?}");
            assert_eq!((verdicts[2].failure.kind, verdicts[2].wait), (FailureKind::TakenOver, GIVE_WAY));
            assert!(verdicts[2].failure.text.contains("mqtt.client_id"), "{verdicts:?}");
        }
        for lasted in [Some(Duration::from_secs(10)), None] {
            let mut patience = Reconnect::new("test");
            for _ in 0..9 {
                assert_ne!(weigh_drop(&mut patience, lasted, None).wait, GIVE_WAY);
            }
        }
    }

    #[test]
    fn drops_over_one_message_are_put_down_to_it_once_and_only_then_to_another_client() {
        let mut patience = Reconnect::new("test");
        let verdicts: Vec<_> = (0..6).map(|_| weigh_drop(&mut patience, SOON, Some("a"))).collect();
        assert!(verdicts[..5].iter().all(|verdict| verdict.wait != GIVE_WAY), "{verdicts:?}");
        let blamed: Vec<_> = verdicts.iter().map(|verdict| verdict.blamed.is_some()).collect();
        assert_eq!(blamed, [false, false, true, false, false, false]);
        assert!(verdicts[2].failure.text.contains("the one of 2000 bytes at a"), "{verdicts:?}");
        assert_eq!(verdicts[5].wait, GIVE_WAY);
    }

    #[test]
    fn what_a_broker_does_wrong_is_never_put_down_to_another_client() {
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
            let trouble = explain(ConnectionError::MqttState(error));
            let mut patience = Reconnect::new("test");
            for _ in 0..9 {
                let verdict = patience.weigh(trouble.clone(), SOON, None, &options());
                assert_ne!(verdict.wait, GIVE_WAY, "{text}");
            }
        }
    }

    #[test]
    fn a_message_over_which_the_broker_disconnects_is_blamed_at_once() {
        let mut patience = Reconnect::new("test");
        for code in [DisconnectReasonCode::PacketTooLarge, DisconnectReasonCode::TopicNameInvalid] {
            let message = Unacknowledged { topic: "a/b".to_owned(), size: 33_000 };
            let verdict = patience.weigh(explain(hung_up(code)), SOON, Some(message.clone()), &options());
            assert_eq!(verdict.blamed, Some(message));
            assert!(verdict.failure.text.contains("33000 bytes at a/b"), "{verdict:?}");
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
            let trouble = LinkFailure::explain(&aborted(), &ConnectProgress::having_read(first), &options());
            assert_eq!(trouble.reason, reason, "{trouble:?}");
        }
        let tls = MqttSettings { tls: Some(Default::default()), ..options() };
        assert_eq!(
            LinkFailure::explain(&aborted(), &ConnectProgress::default(), &tls).reason,
            FailureReason::HungUp
        );
    }

    #[test]
    fn a_complaint_is_repeated_at_growing_intervals_only() {
        let start = Instant::now();
        let mut voice = RepeatedFailure::default();
        let loud: Vec<u64> =
            (0..600).filter(|minute| voice.is_due("x", start + Duration::from_secs(minute * 60))).collect();
        assert_eq!(loud[..6], [0, 1, 3, 7, 15, 31]);
        assert!(loud.windows(2).all(|pair| pair[1] - pair[0] <= 60));
        assert!(voice.is_due("y", start));
        voice.rest();
        assert!(voice.is_due("x", start));
        for n in 0..1000 {
            voice.is_due(&n.to_string(), start);
        }
        assert!(voice.said.len() <= RepeatedFailure::MOST);
    }

    #[test]
    fn shares_stay_within_their_limit_and_differ() {
        let limit = Duration::from_secs(8);
        let shares: Vec<_> = (0..50).map(|n| share(limit, "abc", n)).collect();
        assert!(shares.iter().all(|share| *share < limit));
        assert_ne!(shares[0], shares[1]);
        assert_eq!(shares[0], share(limit, "abc", 0));
    }
}
