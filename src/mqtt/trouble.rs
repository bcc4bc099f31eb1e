//! Why there is no connection, in one line with the remedy, and how long to wait before the next try.
//!
//! Pure but for the log: an error and how far the connection came go in, a [`Trouble`] comes out. Nothing here
//! knows a password, so that no text can hold one.

use std::collections::HashMap;
use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use rumqttc::{ConnectReturnCode, ConnectionError, DisconnectReasonCode, Packet, StateError};
use rustls::CertificateError;

use super::Options;
use super::certificates::webpki_error;
use super::obstacle::Obstacle;
use super::topics::Topics;
use super::wire::{Progress, Stage, WireError};
use crate::model::shown;
use crate::secret::{Secret, Source};

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
pub(super) struct Trouble {
    pub(super) kind: Kind,
    /// What stands in the way.
    pub(super) obstacle: Obstacle,
    /// What helps.
    pub(super) remedy: &'static str,
    /// What, where, and what to do.
    pub(super) text: String,
}

/// Reasons, told apart by what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
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

impl Trouble {
    /// This, in these words, at this broker.
    pub(super) fn of(obstacle: Obstacle, why: &str, options: &Options) -> Self {
        let Options { host, port, .. } = options;
        let remedy = remedy(obstacle, options);
        let text = format!("the broker at {host}:{port}: {why}: {remedy}");
        Self { kind: obstacle.kind(), obstacle, remedy, text }
    }

    /// What an error of the connection means.
    pub(super) fn explain(error: &ConnectionError, progress: &Progress, options: &Options) -> Self {
        let Reason { obstacle, kind, why } = reason(error, progress, options.tls.is_some());
        Self { kind, ..Self::of(obstacle, &why, options) }
    }

    /// The same for a connection with the last will. A broker that does not let the user write to the will's topic may
    /// give the reason that others give for a wrong password, so both are named.
    pub(super) fn explain_with_will(error: &ConnectionError, progress: &Progress, options: &Options) -> Self {
        let mut trouble = Self::explain(error, progress, options);
        if trouble.obstacle == Obstacle::LoginRefused
            && matches!(error, ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized))
        {
            let topic = Topics::new(&options.base_topic).bridge_state();
            trouble.text.push_str("; if they are right, let this user write to the topic of the last will, ");
            trouble.text.push_str(&topic);
        }
        trouble
    }

    /// A broker that neither answers nor hangs up.
    pub(super) fn silent(options: &Options) -> Self {
        Self::of(Obstacle::Silent, "does not answer", options)
    }

    /// A broker that has room for no more of our messages, because it says of none that it has it.
    pub(super) fn unacknowledged(options: &Options) -> Self {
        Self::of(Obstacle::Unacknowledged, "takes our messages and acknowledges none", options)
    }

    /// The connection ended, most likely over this message.
    pub(super) fn over(self, message: &Unacknowledged, options: &Options) -> Self {
        let Options { host, port, .. } = options;
        let Unacknowledged { topic, size } = message;
        let remedy = self.remedy;
        let why = self.obstacle.sign();
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
fn remedy(obstacle: Obstacle, options: &Options) -> &'static str {
    let source = options.password.as_ref().map(Secret::source);
    if obstacle == Obstacle::LoginRefused && source == Some(Source::Credential) {
        return "check mqtt.username and the credential mqtt.password; a corrected credential needs \
                `systemctl restart hs100d`, a reload does not read it";
    }
    obstacle.remedy()
}

/// So many characters of a broker's own words are repeated.
pub(super) const SAID: usize = 200;
const TAKEN_OVER: &str = "another client has connected with our client id";
const DROPPED_AGAIN: &str = "hung up three times right after connecting, most likely because another client \
     uses our client id";

/// An obstacle in the words of this case.
struct Reason {
    obstacle: Obstacle,
    kind: Kind,
    why: String,
}

impl Reason {
    /// It will be another time, whatever the obstacle usually means.
    fn passing(self) -> Self {
        Self { kind: Kind::Away, ..self }
    }
}

impl From<Obstacle> for Reason {
    fn from(obstacle: Obstacle) -> Self {
        (obstacle, obstacle.sign()).into()
    }
}

impl<T: Into<String>> From<(Obstacle, T)> for Reason {
    fn from((obstacle, why): (Obstacle, T)) -> Self {
        Self { obstacle, kind: obstacle.kind(), why: why.into() }
    }
}

fn reason(error: &ConnectionError, progress: &Progress, has_tls: bool) -> Reason {
    if progress.is_refusal_in_mqtt_3() {
        return Obstacle::NoMqtt5.into();
    }
    if progress.is_tls() {
        return Obstacle::SpeaksTls.into();
    }
    if progress.is_no_mqtt() {
        return Obstacle::NotMqtt.into();
    }
    match error {
        ConnectionError::ConnectionRefused(code) => refused(*code),
        ConnectionError::MqttState(state) => broken(state, progress, has_tls),
        ConnectionError::Io(error) => io_trouble(error, progress, has_tls),
        ConnectionError::Timeout(_) => timed_out(progress.stage()),
        ConnectionError::NotConnAck(packet) => match &**packet {
            Packet::Disconnect(packet) => disconnected(packet.reason_code, None, progress),
            _ => (Obstacle::Protocol, "its first packet is no CONNACK").into(),
        },
        other => Reason::from((Obstacle::HungUp, shown(&other.to_string(), SAID))).passing(),
    }
}

fn timed_out(stage: Stage) -> Reason {
    match stage {
        Stage::Resolving => (Obstacle::NameUnresolved, "no answer to the question for its name").into(),
        Stage::Dialling => (Obstacle::Silent, "no answer").into(),
        Stage::Handshake => Reason::from((Obstacle::NoTls, "no answer to TLS")).passing(),
        Stage::Open => Obstacle::Mute.into(),
    }
}

fn refused(code: ConnectReturnCode) -> Reason {
    use ConnectReturnCode as Code;
    match code {
        Code::BadUserNamePassword | Code::NotAuthorized => Obstacle::LoginRefused.into(),
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => Obstacle::NoMqtt5.into(),
        Code::ClientIdentifierNotValid | Code::BadClientId => Obstacle::ClientIdRefused.into(),
        Code::Banned => Obstacle::Banned.into(),
        Code::RetainNotSupported | Code::QoSNotSupported => Obstacle::Unfit.into(),
        Code::ServerUnavailable
        | Code::ServerBusy
        | Code::ServiceUnavailable
        | Code::ConnectionRateExceeded => (Obstacle::Busy, format!("it is too busy ({code:?})")).into(),
        other => (Obstacle::Denied, format!("it refuses the connection ({other:?})")).into(),
    }
}

fn broken(error: &StateError, progress: &Progress, has_tls: bool) -> Reason {
    match error {
        StateError::ServerDisconnect { reason_code, reason_string } => {
            disconnected(*reason_code, reason_string.as_deref(), progress)
        }
        StateError::Io(error) | StateError::Deserialization(rumqttc::Error::Io(error)) => {
            io_trouble(error, progress, has_tls)
        }
        StateError::AwaitPingResp => (Obstacle::Silent, "does not answer").into(),
        StateError::OutgoingPacketTooLarge { pkt_size, max } => {
            (Obstacle::PacketTooLarge, format!("takes no packet of {pkt_size} bytes, {max} at most")).into()
        }
        StateError::Deserialization(rumqttc::Error::PayloadSizeLimitExceeded { pkt_size, .. })
        | StateError::IncomingPacketTooLarge { pkt_size, .. } => {
            let why = format!("sent a packet of {pkt_size} bytes, although it knows our limit");
            (Obstacle::MessageTooLarge, why).into()
        }
        StateError::ConnectionAborted => hung_up(progress, has_tls),
        StateError::Deserialization(_) | StateError::Unsolicited(_) | StateError::ProtocolViolation(_) => {
            let why = format!("{} ({})", Obstacle::Protocol.sign(), shown(&error.to_string(), SAID));
            (Obstacle::Protocol, why).into()
        }
        StateError::RetainNotSupported => Obstacle::Unfit.into(),
        // What is left is our own doing.
        other => Reason::from((Obstacle::HungUp, format!("the connection ended: {other}"))).passing(),
    }
}

fn hung_up(progress: &Progress, has_tls: bool) -> Reason {
    let reason: Reason = if progress.is_silent() && !has_tls {
        // A server that expects TLS takes a CONNECT for noise.
        (Obstacle::Mute, "hung up without a word").into()
    } else {
        (Obstacle::HungUp, "hung up").into()
    };
    if progress.stage() == Stage::Open { reason } else { reason.passing() }
}

fn disconnected(code: DisconnectReasonCode, words: Option<&str>, progress: &Progress) -> Reason {
    use DisconnectReasonCode as Code;
    let said = words.map(|words| format!(", saying \"{}\"", shown(words, SAID))).unwrap_or_default();
    if let Some(code) = progress.disconnect_reason() {
        return (Obstacle::Denied, format!("it ended the connection (reason {code:#04X}{said})")).into();
    }
    match code {
        Code::SessionTakenOver => (Obstacle::ClientIdTaken, TAKEN_OVER).into(),
        Code::NotAuthorized => {
            (Obstacle::NotAuthorized, format!("it ended the connection as not authorised{said}")).into()
        }
        Code::ServerShuttingDown => (Obstacle::Busy, "is shutting down").into(),
        Code::ServerBusy | Code::ConnectionRateExceeded => {
            (Obstacle::Busy, format!("it is too busy ({code:?}{said})")).into()
        }
        Code::RetainNotSupported | Code::QoSNotSupported => Obstacle::Unfit.into(),
        Code::PacketTooLarge => {
            let why = format!("ended the connection over a packet that is too large for it{said}");
            (Obstacle::PacketTooLarge, why).into()
        }
        Code::TopicNameInvalid | Code::PayloadFormatInvalid | Code::QuotaExceeded => {
            let why = format!("it ended the connection over a message of ours ({code:?}{said})");
            (Obstacle::MessageRefused, why).into()
        }
        Code::UseAnotherServer | Code::ServerMoved => {
            (Obstacle::Moved, format!("it sends us to another server{said}")).into()
        }
        // Some say no more than this of a client whose id another one came with.
        Code::NormalDisconnection | Code::UnspecifiedError | Code::AdministrativeAction => {
            (Obstacle::HungUp, format!("ended the connection ({code:?}{said})")).into()
        }
        Code::KeepAliveTimeout => {
            Reason::from((Obstacle::HungUp, format!("heard too little of us ({code:?}{said})"))).passing()
        }
        other => (Obstacle::Denied, format!("it ended the connection ({other:?}{said})")).into(),
    }
}

fn io_trouble(error: &std::io::Error, progress: &Progress, has_tls: bool) -> Reason {
    if let Some(wire) = error.get_ref().and_then(|inner| inner.downcast_ref::<WireError>()) {
        let obstacle = match wire {
            WireError::Refused => Obstacle::Refused,
            WireError::Resolve(_) => Obstacle::NameUnresolved,
            WireError::Connect(_) => Obstacle::Unreachable,
            WireError::File { .. } => Obstacle::FileUnusable,
            WireError::NoRoots => Obstacle::NoRoots,
            WireError::Handshake(error) => return handshake(error),
        };
        return (obstacle, wire.to_string()).into();
    }
    // With TLS 1.3 the broker looks at our certificate only after we take the handshake for done.
    if tls_error(error).is_some() {
        return handshake(error);
    }
    if progress.stage() == Stage::Open {
        hung_up(progress, has_tls)
    } else {
        (Obstacle::Unreachable, error.to_string()).into()
    }
}

fn handshake(error: &std::io::Error) -> Reason {
    use rustls::{AlertDescription as Alert, Error as Tls};
    match tls_error(error) {
        Some(Tls::InvalidCertificate(bad)) => bad_certificate(bad),
        Some(Tls::AlertReceived(Alert::CertificateRequired)) => Obstacle::ClientCertificateMissing.into(),
        Some(Tls::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError),
        )) => (Obstacle::ClientCertificateRefused, format!("it refuses TLS with us ({alert:?})")).into(),
        // Before TLS 1.3 this is also what is said to who shows no certificate.
        Some(Tls::AlertReceived(Alert::HandshakeFailure)) => {
            let why = "it agrees on no TLS with us (HandshakeFailure): no cipher in common, or it wants a certificate \
                       of ours";
            (Obstacle::Tls, why).into()
        }
        Some(Tls::AlertReceived(alert)) => {
            (Obstacle::Tls, format!("it refuses TLS with us ({alert:?})")).into()
        }
        Some(Tls::InvalidMessage(_)) => (Obstacle::NoTls, "it does not speak TLS on this port").into(),
        Some(other) => (Obstacle::Tls, format!("TLS failed: {other}")).into(),
        None => Reason::from((Obstacle::NoTls, "hung up during TLS")).passing(),
    }
}

fn bad_certificate(error: &CertificateError) -> Reason {
    use CertificateError as Bad;
    match error {
        // A bad signature is one by another authority of the same name, as when it was made anew.
        Bad::UnknownIssuer | Bad::BadSignature => Obstacle::CertificateUntrusted.into(),
        Bad::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            Obstacle::CertificateWithoutName.into()
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Obstacle::CertificateName.into(),
        Bad::Expired | Bad::ExpiredContext { .. } => Obstacle::CertificateExpired.into(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => Obstacle::CertificateNotYet.into(),
        Bad::UnsupportedSignatureAlgorithmContext { .. }
        | Bad::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Obstacle::CertificateWeak.into(),
        bad => match webpki_error(bad) {
            Some(webpki::Error::UnsupportedCertVersion) => Obstacle::CertificateVersion.into(),
            Some(webpki::Error::CaUsedAsEndEntity) => Obstacle::CertificateAuthority.into(),
            _ => (Obstacle::CertificateBad, format!("its certificate is not good: {bad}")).into(),
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
pub(super) struct Patience {
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
pub(super) struct Verdict {
    pub(super) trouble: Trouble,
    /// How long to wait before the next try.
    pub(super) wait: Duration,
    /// The message that must not go out again.
    pub(super) blamed: Option<Unacknowledged>,
}

impl Patience {
    pub(super) fn new(instance: &str) -> Self {
        Self { seed: hash(instance), tries: 0, drops: 0, suspect: None, has_blamed: false }
    }

    /// Weighs a connection that ended, or never was (`lasted` is none), while the broker had yet to acknowledge
    /// `suspect`. A connection that is dropped again and again was taken over by another client, unless each time it was
    /// the same message that was not acknowledged.
    pub(super) fn weigh(
        &mut self,
        trouble: Trouble,
        lasted: Option<Duration>,
        suspect: Option<Unacknowledged>,
        options: &Options,
    ) -> Verdict {
        if lasted.is_some_and(|lasted| lasted >= STABLE) {
            self.tries = 0;
            self.has_blamed = false;
        }
        if matches!(trouble.obstacle, Obstacle::PacketTooLarge | Obstacle::MessageRefused)
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
                return self.blame(Trouble::of(Obstacle::MessageRefused, "", options), message, options);
            }
            let trouble = Trouble::of(Obstacle::ClientIdTaken, DROPPED_AGAIN, options);
            return Verdict { trouble, wait: GIVE_WAY, blamed: None };
        }
        let wait = if trouble.kind == Kind::TakenOver { GIVE_WAY } else { self.next_wait(trouble.kind) };
        Verdict { trouble, wait, blamed: None }
    }

    fn count_drop(&mut self, kind: Kind, lasted: Option<Duration>, suspect: Option<Unacknowledged>) {
        if kind != Kind::Dropped || lasted.is_none_or(|lasted| lasted >= RIGHT_AFTER) {
            self.drops = 0;
            return;
        }
        let is_first = self.drops == 0;
        self.drops += 1;
        self.suspect = suspect.filter(|message| {
            is_first || self.suspect.as_ref().is_some_and(|before| before.topic == message.topic)
        });
    }

    fn blame(&mut self, trouble: Trouble, message: Unacknowledged, options: &Options) -> Verdict {
        let trouble = trouble.over(&message, options);
        Verdict { wait: self.next_wait(trouble.kind), trouble, blamed: Some(message) }
    }

    fn next_wait(&mut self, kind: Kind) -> Duration {
        // A broker that returns has everything back within ten seconds; one that says no is not pestered.
        let (first, longest) = match kind {
            Kind::Refused | Kind::TooLarge => (Duration::from_secs(5), LONGEST_WAIT),
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
pub(super) struct Voice {
    said: HashMap<String, (Instant, Duration)>,
}

impl Voice {
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

    use super::super::homeassistant::{self, Discovery};
    use super::*;

    fn options() -> Options {
        Options {
            host: "broker.lan".to_owned(),
            port: 8883,
            tls: None,
            username: Some("me".to_owned()),
            password: Some(crate::secret::Secret::new("hunter2".to_owned())),
            client_id: "hs100d-test".to_owned(),
            base_topic: "hs100d".to_owned(),
            instance: "test".to_owned(),
            homeassistant: homeassistant::Options {
                discovery: Discovery::Off,
                discovery_prefix: "homeassistant".to_owned(),
                status_topic: "homeassistant/status".to_owned(),
            },
        }
    }

    fn explain(error: ConnectionError) -> Trouble {
        Trouble::explain(&error, &Progress::default(), &options())
    }

    fn wire(error: WireError) -> ConnectionError {
        ConnectionError::Io(error.into())
    }

    fn tls(error: rustls::Error) -> ConnectionError {
        wire(WireError::Handshake(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    fn hung_up(reason_code: DisconnectReasonCode) -> ConnectionError {
        let reason_string = Some("because\nI say so".to_owned());
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string })
    }

    #[tokio::test]
    async fn every_refusal_names_the_broker_and_the_remedy() {
        use rustls::AlertDescription;
        let elapsed = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>()).await.unwrap_err();
        let cases: Vec<(ConnectionError, Kind, &str)> = vec![
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword),
                Kind::Refused,
                "mqtt.password",
            ),
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized),
                Kind::Refused,
                "mqtt.username",
            ),
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::UnsupportedProtocolVersion),
                Kind::Refused,
                "MQTT 5",
            ),
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::ClientIdentifierNotValid),
                Kind::Refused,
                "mqtt.client_id",
            ),
            (ConnectionError::ConnectionRefused(ConnectReturnCode::ServerBusy), Kind::Away, "busy"),
            (wire(WireError::Refused), Kind::Away, "mqtt.url"),
            (wire(WireError::Resolve(io::Error::other("x"))), Kind::Away, "mqtt.url"),
            (wire(WireError::NoRoots), Kind::Refused, "mqtt.ca_file"),
            (
                wire(WireError::File { file: "/x/ca.pem".into(), why: "cannot be read".to_owned() }),
                Kind::Refused,
                "/x/ca.pem",
            ),
            (
                tls(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
                Kind::Refused,
                "mqtt.ca_file",
            ),
            (
                tls(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)),
                Kind::Refused,
                "another name",
            ),
            (tls(rustls::Error::InvalidCertificate(CertificateError::Expired)), Kind::Refused, "expired"),
            (
                tls(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)),
                Kind::Refused,
                "mqtt.client_cert_file",
            ),
            (
                ConnectionError::MqttState(StateError::ServerDisconnect {
                    reason_code: DisconnectReasonCode::SessionTakenOver,
                    reason_string: None,
                }),
                Kind::TakenOver,
                "mqtt.client_id",
            ),
            (hung_up(DisconnectReasonCode::ServerBusy), Kind::Away, "busy"),
            (hung_up(DisconnectReasonCode::QuotaExceeded), Kind::Refused, "QuotaExceeded"),
            (hung_up(DisconnectReasonCode::RetainNotSupported), Kind::Refused, "another broker"),
            (hung_up(DisconnectReasonCode::UnspecifiedError), Kind::Dropped, "UnspecifiedError"),
            (ConnectionError::MqttState(StateError::Unsolicited(7)), Kind::Away, "does not keep to MQTT 5"),
            (ConnectionError::Timeout(elapsed), Kind::Away, "mqtt.url"),
            (
                tls(rustls::Error::AlertReceived(AlertDescription::BadCertificate)),
                Kind::Refused,
                "mqtt.client_cert_file",
            ),
            (tls(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)), Kind::Refused, "TLS"),
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
        let mut patience = Patience::new("test");
        let away = || Trouble::of(Obstacle::Silent, "away", &options());
        let weigh = |patience: &mut Patience, lasted| patience.weigh(away(), lasted, None, &options()).wait;
        let waits: Vec<_> = (0..8).map(|_| weigh(&mut patience, None)).collect();
        assert!(
            waits[0] <= Duration::from_millis(600) && waits[0] >= Duration::from_millis(400),
            "{waits:?}"
        );
        assert!(waits[..4].is_sorted(), "{waits:?}");
        assert!(waits[7] >= Duration::from_secs(4) && waits[7] <= Duration::from_secs(6), "{waits:?}");
        let after = weigh(&mut patience, Some(STABLE));
        assert!(after <= Duration::from_millis(600), "{after:?}");
        let mut same = Patience::new("test");
        assert_eq!(weigh(&mut same, None), waits[0]);
    }

    #[test]
    fn a_broker_that_says_no_is_not_pestered() {
        let mut patience = Patience::new("test");
        let waits: Vec<_> = (0..8)
            .map(|_| {
                patience.weigh(Trouble::of(Obstacle::Denied, "no", &options()), None, None, &options()).wait
            })
            .collect();
        assert!(waits[0] >= Duration::from_secs(4) && waits[7] >= Duration::from_secs(48), "{waits:?}");
        assert!(waits[7] <= Duration::from_secs(72), "{waits:?}");
    }

    const SOON: Option<Duration> = Some(Duration::from_millis(20));

    fn weigh_drop(patience: &mut Patience, lasted: Option<Duration>, topic: Option<&str>) -> Verdict {
        let suspect = topic.map(|topic| Unacknowledged { topic: topic.to_owned(), size: 2000 });
        patience.weigh(Trouble::of(Obstacle::HungUp, "hung up", &options()), lasted, suspect, &options())
    }

    #[test]
    fn three_drops_right_after_connecting_give_way_and_others_do_not() {
        for topics in [[None; 3], [Some("a"), Some("b"), Some("a")], [Some("a"), Some("a"), None]] {
            let mut patience = Patience::new("test");
            let verdicts = topics.map(|topic| weigh_drop(&mut patience, SOON, topic));
            assert!(verdicts[..2].iter().all(|verdict| verdict.wait != GIVE_WAY), "{verdicts:?}");
            assert_eq!((verdicts[2].trouble.kind, verdicts[2].wait), (Kind::TakenOver, GIVE_WAY));
            assert!(verdicts[2].trouble.text.contains("mqtt.client_id"), "{verdicts:?}");
        }
        for lasted in [Some(Duration::from_secs(10)), None] {
            let mut patience = Patience::new("test");
            for _ in 0..9 {
                assert_ne!(weigh_drop(&mut patience, lasted, None).wait, GIVE_WAY);
            }
        }
    }

    #[test]
    fn drops_over_one_message_are_put_down_to_it_once_and_only_then_to_another_client() {
        let mut patience = Patience::new("test");
        let verdicts: Vec<_> = (0..6).map(|_| weigh_drop(&mut patience, SOON, Some("a"))).collect();
        assert!(verdicts[..5].iter().all(|verdict| verdict.wait != GIVE_WAY), "{verdicts:?}");
        let blamed: Vec<_> = verdicts.iter().map(|verdict| verdict.blamed.is_some()).collect();
        assert_eq!(blamed, [false, false, true, false, false, false]);
        assert!(verdicts[2].trouble.text.contains("the one of 2000 bytes at a"), "{verdicts:?}");
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
            let mut patience = Patience::new("test");
            for _ in 0..9 {
                let verdict = patience.weigh(trouble.clone(), SOON, None, &options());
                assert_ne!(verdict.wait, GIVE_WAY, "{text}");
            }
        }
    }

    #[test]
    fn a_message_over_which_the_broker_disconnects_is_blamed_at_once() {
        let mut patience = Patience::new("test");
        for code in [DisconnectReasonCode::PacketTooLarge, DisconnectReasonCode::TopicNameInvalid] {
            let message = Unacknowledged { topic: "a/b".to_owned(), size: 33_000 };
            let verdict = patience.weigh(explain(hung_up(code)), SOON, Some(message.clone()), &options());
            assert_eq!(verdict.blamed, Some(message));
            assert!(verdict.trouble.text.contains("33000 bytes at a/b"), "{verdict:?}");
        }
    }

    #[test]
    fn a_port_for_something_else_is_told_from_the_first_bytes() {
        let aborted = || ConnectionError::MqttState(StateError::ConnectionAborted);
        for (first, obstacle) in [
            (&[0x15, 3, 3, 0, 2, 2, 70][..], Obstacle::SpeaksTls),
            (b"HTTP/1.1 400 Bad Request", Obstacle::NotMqtt),
            (b"SSH-2.0-OpenSSH_9.2", Obstacle::NotMqtt),
            (&[0x20, 2, 0, 1], Obstacle::NoMqtt5),
            (&[0x20, 3, 0, 0, 0], Obstacle::HungUp),
            (&[], Obstacle::Mute),
        ] {
            let trouble = Trouble::explain(&aborted(), &Progress::having_read(first), &options());
            assert_eq!(trouble.obstacle, obstacle, "{trouble:?}");
        }
        let tls = Options { tls: Some(Default::default()), ..options() };
        assert_eq!(Trouble::explain(&aborted(), &Progress::default(), &tls).obstacle, Obstacle::HungUp);
    }

    #[test]
    fn a_complaint_is_repeated_at_growing_intervals_only() {
        let start = Instant::now();
        let mut voice = Voice::default();
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
        assert!(voice.said.len() <= Voice::MOST);
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
