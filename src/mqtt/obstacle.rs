//! What can stand between us and the broker: a word that stays, what it looks like, and what helps. Pure.

use super::trouble::Kind;

/// One reason for which a broker is of no use to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// Its host refuses connections.
    Refused,
    /// Its host does not answer, or it does not any more.
    Silent,
    /// The host's name leads nowhere.
    NameUnresolved,
    /// The system names another reason.
    Unreachable,
    /// It takes connections, and does not speak.
    Mute,
    /// It speaks no TLS on this port.
    NoTls,
    /// A file that the config names cannot be used.
    FileUnusable,
    /// There is nothing to check its certificate with.
    NoRoots,
    /// Nobody whom we trust has signed its certificate.
    CertificateUntrusted,
    /// Its certificate is for another name.
    CertificateName,
    /// Its certificate has expired, or our clock is wrong.
    CertificateExpired,
    /// Its certificate is not good for another reason.
    CertificateBad,
    /// It wants a certificate of ours.
    ClientCertificateMissing,
    /// It does not take ours.
    ClientCertificateRefused,
    /// TLS failed otherwise.
    Tls,
    /// It does not speak MQTT 5.
    NoMqtt5,
    /// User name or password are wrong.
    LoginRefused,
    /// It does not take our client id.
    ClientIdRefused,
    /// Another client has connected with our client id.
    ClientIdTaken,
    /// It has banned us.
    Banned,
    /// It lacks what we need.
    Unfit,
    /// It has too much to do, or is going down.
    Busy,
    /// It says no for another reason.
    Denied,
    /// The user may not do what we need.
    NotAuthorized,
    /// We may not hear commands.
    SubscriptionDenied,
    /// It sends us to another broker.
    Moved,
    /// A packet of ours is too large for it.
    PacketTooLarge,
    /// A message that it keeps is too large for us.
    MessageTooLarge,
    /// It hung up.
    HungUp,
    /// It takes our messages and acknowledges none.
    Unacknowledged,
}

impl Obstacle {
    /// Every one, in the order in which a connection meets them.
    pub const ALL: [Self; 30] = [
        Self::NameUnresolved,
        Self::Refused,
        Self::Silent,
        Self::Unreachable,
        Self::NoTls,
        Self::FileUnusable,
        Self::NoRoots,
        Self::CertificateUntrusted,
        Self::CertificateName,
        Self::CertificateExpired,
        Self::CertificateBad,
        Self::ClientCertificateMissing,
        Self::ClientCertificateRefused,
        Self::Tls,
        Self::Mute,
        Self::NoMqtt5,
        Self::LoginRefused,
        Self::NotAuthorized,
        Self::ClientIdRefused,
        Self::ClientIdTaken,
        Self::Banned,
        Self::Unfit,
        Self::Busy,
        Self::Denied,
        Self::SubscriptionDenied,
        Self::Moved,
        Self::PacketTooLarge,
        Self::MessageTooLarge,
        Self::HungUp,
        Self::Unacknowledged,
    ];

    /// The word for programs; it stays the same.
    pub fn word(self) -> &'static str {
        self.row().0
    }

    /// What it looks like from here.
    pub fn sign(self) -> &'static str {
        self.row().1
    }

    /// What helps.
    pub fn remedy(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Refused => (
                "broker-refuses",
                "its host refuses the connection",
                "check that it runs and that mqtt.url has the right port",
            ),
            Self::Silent => {
                ("broker-silent", "nothing answers", "check that it runs and that mqtt.url is right")
            }
            Self::NameUnresolved => {
                ("broker-name-unresolved", "its host's name leads nowhere", "check the host in mqtt.url")
            }
            Self::Unreachable => (
                "broker-unreachable",
                "the network does not lead there",
                "check the network of this machine and the host in mqtt.url",
            ),
            Self::Mute => (
                "broker-mute",
                "it takes the connection and says nothing",
                "is this an MQTT port, and not one for mqtts?",
            ),
            Self::NoTls => {
                ("broker-speaks-no-tls", "no TLS comes about on the port", "is this its port for mqtts?")
            }
            Self::FileUnusable => (
                "file-unusable",
                "a file of the config cannot be used",
                "put it right, or name another in [mqtt]",
            ),
            Self::NoRoots => (
                "no-authorities",
                "there is nothing to check its certificate with",
                "install ca-certificates or set mqtt.ca_file",
            ),
            Self::CertificateUntrusted => (
                "certificate-untrusted",
                "nobody whom we trust has signed its certificate",
                "set mqtt.ca_file to the authority's certificate",
            ),
            Self::CertificateName => (
                "certificate-for-another-name",
                "its certificate is for another name",
                "use the name in the certificate in mqtt.url",
            ),
            Self::CertificateExpired => (
                "certificate-expired",
                "its certificate has expired",
                "renew it, or set this machine's clock",
            ),
            Self::CertificateBad => (
                "certificate-bad",
                "its certificate is not good",
                "give it a certificate that is, or set this machine's clock",
            ),
            Self::ClientCertificateMissing => (
                "client-certificate-missing",
                "it wants a client certificate",
                "set mqtt.client_cert_file and mqtt.client_key_file",
            ),
            Self::ClientCertificateRefused => (
                "client-certificate-refused",
                "it refuses TLS with us",
                "check mqtt.client_cert_file and mqtt.client_key_file",
            ),
            Self::Tls => ("tls-failed", "TLS failed", "see its own log"),
            Self::NoMqtt5 => (
                "no-mqtt-5",
                "it does not speak MQTT 5",
                "update it (mosquitto 1.6, RabbitMQ 3.13 and later do), or leave mqtt.url out to use the embedded \
                 broker",
            ),
            Self::LoginRefused => {
                ("login-refused", "it refuses the login", "check mqtt.username and mqtt.password")
            }
            Self::ClientIdRefused => {
                ("client-id-refused", "it does not take our client id", "set another mqtt.client_id")
            }
            Self::ClientIdTaken => (
                "client-id-taken",
                "another client uses our client id",
                "give each its own mqtt.client_id; this one gives way for five minutes",
            ),
            Self::Banned => ("banned", "it has banned this client", "see its own log"),
            Self::Unfit => (
                "broker-unfit",
                "it keeps no messages or knows no QoS 1, and the last will needs both",
                "use another broker",
            ),
            Self::Busy => ("broker-busy", "it is too busy, or going down", "try again in a while"),
            Self::Denied => ("connection-denied", "it refuses the connection", "see its own log"),
            Self::NotAuthorized => (
                "not-authorized",
                "it ended the connection as not authorised",
                "check the rights of mqtt.username there",
            ),
            Self::SubscriptionDenied => (
                "subscription-denied",
                "it does not let us subscribe",
                "allow the user in mqtt.username to read there",
            ),
            Self::Moved => ("broker-moved", "it sends us to another server", "set mqtt.url to that one"),
            Self::PacketTooLarge => {
                ("packet-too-large", "a packet of ours is too large for it", "raise its limit")
            }
            Self::MessageTooLarge => (
                "message-too-large",
                "a message under our topics is too large for us",
                "remove the large message that it keeps under our topics",
            ),
            Self::HungUp => ("broker-hung-up", "it ends the connection without a reason", "see its own log"),
            Self::Unacknowledged => {
                ("broker-acknowledges-nothing", "it acknowledges no message", "see its own log")
            }
        }
    }

    /// What it means for the next try.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Refused | Self::Silent | Self::NameUnresolved | Self::Unreachable => Kind::Away,
            Self::Mute | Self::Busy | Self::Unacknowledged => Kind::Away,
            Self::FileUnusable | Self::NoRoots => Kind::Refused,
            Self::NoTls | Self::Tls => Kind::Refused,
            Self::CertificateUntrusted | Self::CertificateName => Kind::Refused,
            Self::CertificateExpired | Self::CertificateBad => Kind::Refused,
            Self::ClientCertificateMissing | Self::ClientCertificateRefused => Kind::Refused,
            Self::NoMqtt5 | Self::LoginRefused | Self::ClientIdRefused => Kind::Refused,
            Self::Banned | Self::Unfit | Self::Denied => Kind::Refused,
            Self::NotAuthorized | Self::SubscriptionDenied | Self::Moved => Kind::Refused,
            Self::ClientIdTaken => Kind::TakenOver,
            Self::PacketTooLarge | Self::MessageTooLarge => Kind::TooLarge,
            Self::HungUp => Kind::Dropped,
        }
    }
}
