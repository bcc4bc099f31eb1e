//! Why there is no connection, in one line with the remedy, and how long to wait before the next try.
//!
//! Pure but for the log: an error and how far the connection came go in, a [`Trouble`] comes out. Nothing here
//! knows a password, so that no text can hold one.

use std::collections::HashMap;
use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use rumqttc::{ConnectReturnCode, ConnectionError, DisconnectReasonCode, StateError};

use super::Options;
use super::wire::{Progress, Stage, WireError};

/// Another client uses our client id: how long we leave the broker to it.
pub(super) const GIVE_WAY: Duration = Duration::from_secs(300);
/// A connection that lived this long was a good one.
pub(super) const STABLE: Duration = Duration::from_secs(30);
/// A connection that ended within this time was dropped right after connecting.
const RIGHT_AFTER: Duration = Duration::from_secs(5);
/// So many of those in a row are no accident.
const DROPS: u32 = 3;

/// One reason for not being connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
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
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// What an error of the connection means.
    pub(super) fn explain(error: &ConnectionError, progress: &Progress, options: &Options) -> Self {
        let (kind, why) = reason(error, progress);
        let Options { host, port, .. } = options;
        Self::new(kind, format!("the broker at {host}:{port}: {why}"))
    }

    /// A broker that neither answers nor hangs up.
    pub(super) fn silent(options: &Options) -> Self {
        let Options { host, port, .. } = options;
        Self::new(Kind::Away, format!("the broker at {host}:{port}: {SILENT}"))
    }

    /// A broker that has room for no more of our messages, because it says of none that it has it.
    pub(super) fn unacknowledged(options: &Options) -> Self {
        let Options { host, port, .. } = options;
        let text =
            format!("the broker at {host}:{port}: takes our messages and acknowledges none: see its own log");
        Self::new(Kind::Away, text)
    }
}

const SILENT: &str = "does not answer: see that it runs and is not overloaded";
const HUNG_UP: &str = "hung up: see its own log";
const TAKEN_OVER: &str = "another client has connected with our client id: give each its own mqtt.client_id; \
     this one gives way for five minutes";
const DROPPED_AGAIN: &str = "hung up three times right after connecting, most likely because another client \
     uses our client id: give each its own mqtt.client_id; this one gives way for five minutes";
const NO_V5: &str = "it does not speak MQTT 5: update it (mosquitto 1.6, RabbitMQ 3.13 and later do), or leave \
     mqtt.url out to use the embedded broker";
const LOGIN: &str = "it refuses the login: check mqtt.username and mqtt.password";

fn reason(error: &ConnectionError, progress: &Progress) -> (Kind, String) {
    if progress.is_refusal_in_mqtt_3() {
        return (Kind::Refused, NO_V5.to_owned());
    }
    if let (ConnectionError::MqttState(StateError::ConnectionAborted), Some(code)) =
        (error, progress.last_words())
    {
        return disconnected(code, None);
    }
    match error {
        ConnectionError::ConnectionRefused(code) => refused(*code),
        ConnectionError::MqttState(state) => broken(state, progress),
        ConnectionError::Io(error) => io_trouble(error, progress),
        ConnectionError::Timeout(_) => (Kind::Away, timed_out(progress.stage()).to_owned()),
        other => (Kind::Dropped, format!("{other}: see its own log")),
    }
}

fn timed_out(stage: Stage) -> &'static str {
    match stage {
        Stage::Dialling => "no answer: check that it runs and that mqtt.url is right",
        Stage::Handshake => "no answer to TLS: is this its port for mqtts?",
        Stage::Open => {
            "it takes the connection and says nothing: is this an MQTT port, and not one for mqtts?"
        }
    }
}

fn refused(code: ConnectReturnCode) -> (Kind, String) {
    use ConnectReturnCode as Code;
    let why = match code {
        Code::BadUserNamePassword | Code::NotAuthorized => LOGIN.to_owned(),
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => NO_V5.to_owned(),
        Code::ClientIdentifierNotValid | Code::BadClientId => {
            "it does not take our client id: set another mqtt.client_id".to_owned()
        }
        Code::Banned => "it has banned this client: see its own log".to_owned(),
        Code::RetainNotSupported | Code::QoSNotSupported => {
            "it keeps no messages or knows no QoS 1, and the last will needs both: use another broker"
                .to_owned()
        }
        Code::ServerUnavailable
        | Code::ServerBusy
        | Code::ServiceUnavailable
        | Code::ConnectionRateExceeded => {
            return (Kind::Away, format!("it is too busy ({code:?}): see its own log"));
        }
        other => format!("it refuses the connection ({other:?}): see its own log"),
    };
    (Kind::Refused, why)
}

fn broken(error: &StateError, progress: &Progress) -> (Kind, String) {
    match error {
        StateError::ServerDisconnect { reason_code, reason_string } => {
            disconnected(*reason_code, reason_string.as_deref())
        }
        StateError::Io(error) | StateError::Deserialization(rumqttc::Error::Io(error)) => {
            io_trouble(error, progress)
        }
        StateError::AwaitPingResp => (Kind::Away, SILENT.to_owned()),
        StateError::OutgoingPacketTooLarge { pkt_size, max } => {
            (Kind::TooLarge, format!("takes no packet of {pkt_size} bytes, {max} at most: raise its limit"))
        }
        StateError::Deserialization(rumqttc::Error::PayloadSizeLimitExceeded { pkt_size, .. }) => {
            let why = format!(
                "sent a packet of {pkt_size} bytes, although it knows our limit: remove the large message that it \
                 keeps under our topics"
            );
            (Kind::TooLarge, why)
        }
        StateError::ConnectionAborted if progress.stage() != Stage::Open => (Kind::Away, HUNG_UP.to_owned()),
        StateError::ConnectionAborted => (Kind::Dropped, HUNG_UP.to_owned()),
        other => (Kind::Dropped, format!("the connection ended: {other}: see its own log")),
    }
}

fn disconnected(code: DisconnectReasonCode, words: Option<&str>) -> (Kind, String) {
    use DisconnectReasonCode as Code;
    let said = words.map(|words| format!(", saying {words:?}")).unwrap_or_default();
    match code {
        Code::SessionTakenOver => (Kind::TakenOver, TAKEN_OVER.to_owned()),
        Code::NotAuthorized => (
            Kind::Refused,
            format!(
                "it ended the connection as not authorised{said}: check the rights of mqtt.username there"
            ),
        ),
        Code::ServerShuttingDown => (Kind::Away, "is shutting down: start it again".to_owned()),
        Code::PacketTooLarge => (
            Kind::TooLarge,
            format!("ended the connection over a packet that is too large for it{said}: raise its limit"),
        ),
        Code::UseAnotherServer | Code::ServerMoved => {
            (Kind::Refused, format!("it sends us to another server{said}: set mqtt.url to that one"))
        }
        other => (Kind::Dropped, format!("ended the connection ({other:?}{said}): see its own log")),
    }
}

fn io_trouble(error: &std::io::Error, progress: &Progress) -> (Kind, String) {
    if let Some(wire) = error.get_ref().and_then(|inner| inner.downcast_ref::<WireError>()) {
        return match wire {
            WireError::Refused => (
                Kind::Away,
                "connection refused: check that it runs and that mqtt.url has the right port".to_owned(),
            ),
            WireError::Resolve(_) => (Kind::Away, format!("{wire}: check the host in mqtt.url")),
            WireError::Connect(_) => {
                (Kind::Away, format!("{wire}: check the network between here and there"))
            }
            WireError::File { .. } => (Kind::Refused, wire.to_string()),
            WireError::NoRoots => {
                (Kind::Refused, format!("{wire}: install ca-certificates or set mqtt.ca_file"))
            }
            WireError::Handshake(error) => handshake(error),
        };
    }
    // With TLS 1.3 the broker looks at our certificate only after we take the handshake for done.
    if tls_error(error).is_some() {
        return handshake(error);
    }
    if progress.stage() == Stage::Open {
        (Kind::Dropped, HUNG_UP.to_owned())
    } else {
        (Kind::Away, format!("{error}: see its own log"))
    }
}

fn handshake(error: &std::io::Error) -> (Kind, String) {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};
    let why = match tls_error(error) {
        Some(Tls::InvalidCertificate(Bad::UnknownIssuer)) => {
            "nobody whom we trust has signed its certificate: set mqtt.ca_file to the authority's certificate"
                .to_owned()
        }
        Some(Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
            "its certificate is for another name: use the name in the certificate in mqtt.url".to_owned()
        }
        Some(Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
            "its certificate has expired: renew it, or set this machine's clock".to_owned()
        }
        Some(Tls::InvalidCertificate(bad)) => format!("its certificate is not good: {bad}: give it another"),
        Some(Tls::AlertReceived(Alert::CertificateRequired)) => {
            "it wants a client certificate: set mqtt.client_cert_file and mqtt.client_key_file".to_owned()
        }
        Some(Tls::AlertReceived(alert)) => {
            format!(
                "it refuses TLS with us ({alert:?}): check mqtt.client_cert_file and mqtt.client_key_file"
            )
        }
        Some(Tls::InvalidMessage(_)) => {
            "it does not speak TLS on this port: is it the one for mqtts?".to_owned()
        }
        Some(other) => format!("TLS failed: {other}: see its own log"),
        None => return (Kind::Away, "hung up during TLS: is this its port for mqtts?".to_owned()),
    };
    (Kind::Refused, why)
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
}

impl Patience {
    pub(super) fn new(instance: &str) -> Self {
        Self { seed: hash(instance), tries: 0, drops: 0 }
    }

    /// Weighs a connection that ended, or never was (`lasted` is none), and says how long to wait. A connection
    /// that is dropped again and again turns into one that was taken over.
    pub(super) fn weigh(
        &mut self,
        trouble: Trouble,
        lasted: Option<Duration>,
        options: &Options,
    ) -> (Trouble, Duration) {
        if lasted.is_some_and(|lasted| lasted >= STABLE) {
            self.tries = 0;
        }
        let right_after = lasted.is_some_and(|lasted| lasted < RIGHT_AFTER);
        self.drops = if trouble.kind == Kind::Dropped && right_after { self.drops + 1 } else { 0 };
        if self.drops == DROPS {
            let Options { host, port, .. } = options;
            let text = format!("the broker at {host}:{port}: {DROPPED_AGAIN}");
            self.drops = 0;
            return (Trouble::new(Kind::TakenOver, text), GIVE_WAY);
        }
        let wait = if trouble.kind == Kind::TakenOver { GIVE_WAY } else { self.next_wait(trouble.kind) };
        (trouble, wait)
    }

    fn next_wait(&mut self, kind: Kind) -> Duration {
        // A broker that returns has everything back within ten seconds; one that says no is not pestered.
        let (first, longest) = match kind {
            Kind::Refused | Kind::TooLarge => (Duration::from_secs(5), Duration::from_secs(60)),
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
        if self.is_due(text, now) {
            tracing::warn!("{text}");
        } else {
            tracing::debug!("{text}");
        }
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

    #[test]
    fn every_refusal_names_the_broker_and_the_remedy() {
        use rustls::{AlertDescription, CertificateError};
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
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::ServerBusy),
                Kind::Away,
                ": see its own log",
            ),
            (wire(WireError::Refused), Kind::Away, "mqtt.url"),
            (wire(WireError::Connect(io::Error::other("x"))), Kind::Away, ": check the network"),
            (ConnectionError::Io(io::Error::other("x")), Kind::Away, ": see its own log"),
            (ConnectionError::MqttState(StateError::AwaitPingResp), Kind::Away, ": see that it runs"),
            (ConnectionError::MqttState(StateError::ConnectionAborted), Kind::Dropped, ": see its own log"),
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
        let away = || Trouble::new(Kind::Away, "away");
        let waits: Vec<_> = (0..8).map(|_| patience.weigh(away(), None, &options()).1).collect();
        assert!(
            waits[0] <= Duration::from_millis(600) && waits[0] >= Duration::from_millis(400),
            "{waits:?}"
        );
        assert!(waits[..4].is_sorted(), "{waits:?}");
        assert!(waits[7] >= Duration::from_secs(4) && waits[7] <= Duration::from_secs(6), "{waits:?}");
        let after = patience.weigh(away(), Some(STABLE), &options()).1;
        assert!(after <= Duration::from_millis(600), "{after:?}");
        let mut same = Patience::new("test");
        assert_eq!(same.weigh(away(), None, &options()).1, waits[0]);
    }

    #[test]
    fn a_broker_that_says_no_is_not_pestered() {
        let mut patience = Patience::new("test");
        let waits: Vec<_> =
            (0..8).map(|_| patience.weigh(Trouble::new(Kind::Refused, "no"), None, &options()).1).collect();
        assert!(waits[0] >= Duration::from_secs(4) && waits[7] >= Duration::from_secs(48), "{waits:?}");
        assert!(waits[7] <= Duration::from_secs(72), "{waits:?}");
    }

    #[test]
    fn three_drops_right_after_connecting_give_way_and_others_do_not() {
        let dropped = || Trouble::new(Kind::Dropped, "hung up");
        let soon = Some(Duration::from_millis(20));
        let mut patience = Patience::new("test");
        assert_ne!(patience.weigh(dropped(), soon, &options()).1, GIVE_WAY);
        assert_ne!(patience.weigh(dropped(), soon, &options()).1, GIVE_WAY);
        let (trouble, wait) = patience.weigh(dropped(), soon, &options());
        assert_eq!((trouble.kind, wait), (Kind::TakenOver, GIVE_WAY));
        assert!(trouble.text.contains("mqtt.client_id"), "{trouble:?}");
        for lasted in [Some(Duration::from_secs(10)), None] {
            let mut patience = Patience::new("test");
            for _ in 0..9 {
                assert_ne!(patience.weigh(dropped(), lasted, &options()).1, GIVE_WAY);
            }
        }
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
