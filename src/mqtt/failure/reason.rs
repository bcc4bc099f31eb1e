//! The reasons for which a broker cannot be used: a word for programs that never changes, what is seen, and the remedy. Pure.

/// A reason for which a broker cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FailureReason {
    /// Its host refuses connections.
    Refused,
    /// Its host does not answer, or no longer.
    Silent,
    /// The host's name cannot be resolved.
    NameUnresolved,
    /// The operating system names another reason.
    Unreachable,
    /// It accepts the connection and sends nothing.
    Mute,
    /// It speaks TLS on this port, and we do not.
    SpeaksTls,
    /// Another kind of server answers on this port.
    NotMqtt,
    /// It speaks no TLS on this port.
    NoTls,
    /// A file that the config names cannot be used.
    FileUnusable,
    /// The system has no root certificates.
    NoRoots,
    /// No authority that we trust has signed its certificate.
    CertificateUntrusted,
    /// Its certificate is for another name.
    CertificateName,
    /// Its certificate has no subjectAltName, the only field that is compared with the host.
    CertificateWithoutName,
    /// Its certificate is of X.509 version 1, which has no extensions.
    CertificateVersion,
    /// Its certificate is an authority's own.
    CertificateAuthority,
    /// Its certificate is signed with an algorithm that is no longer accepted.
    CertificateWeak,
    /// Its certificate has expired, or our clock is wrong.
    CertificateExpired,
    /// Its certificate is not valid yet, or our clock is wrong.
    CertificateNotYet,
    /// Its certificate is invalid for another reason.
    CertificateBad,
    /// It requires a client certificate.
    ClientCertificateMissing,
    /// It refuses the client certificate.
    ClientCertificateRefused,
    /// TLS failed for another reason.
    Tls,
    /// It does not speak MQTT 5.
    NoMqtt5,
    /// User name or password is wrong.
    LoginRefused,
    /// It refuses our client id.
    ClientIdRefused,
    /// Another client has connected with our client id.
    ClientIdTaken,
    /// It has banned us.
    Banned,
    /// It has no retained messages or no QoS 1.
    Unfit,
    /// It is overloaded or shutting down.
    Busy,
    /// It refuses the connection for another reason.
    Denied,
    /// The user lacks a right that we need.
    NotAuthorized,
    /// It refuses the subscriptions for commands.
    SubscriptionDenied,
    /// It refuses our publishes or the last will.
    WriteDenied,
    /// It sends us to another broker.
    Moved,
    /// One of our packets is too large for it.
    PacketTooLarge,
    /// It refuses one of our messages.
    MessageRefused,
    /// It violates MQTT 5.
    Protocol,
    /// It sent a message that is larger than our limit.
    MessageTooLarge,
    /// It closed the connection.
    HungUp,
    /// It acknowledges none of our messages.
    Unacknowledged,
    /// It sends us no message.
    OneWay,
}

impl FailureReason {
    /// All, in the order in which a connection can meet them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 41] = [
        Self::NameUnresolved,
        Self::Refused,
        Self::Silent,
        Self::Unreachable,
        Self::SpeaksTls,
        Self::NotMqtt,
        Self::NoTls,
        Self::FileUnusable,
        Self::NoRoots,
        Self::CertificateUntrusted,
        Self::CertificateName,
        Self::CertificateWithoutName,
        Self::CertificateVersion,
        Self::CertificateAuthority,
        Self::CertificateWeak,
        Self::CertificateExpired,
        Self::CertificateNotYet,
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
        Self::WriteDenied,
        Self::Moved,
        Self::PacketTooLarge,
        Self::MessageRefused,
        Self::MessageTooLarge,
        Self::Protocol,
        Self::HungUp,
        Self::Unacknowledged,
        Self::OneWay,
    ];

    /// The word for programs; it never changes.
    pub(crate) fn word(self) -> &'static str {
        self.row().0
    }

    /// The observation.
    pub(crate) fn sign(self) -> &'static str {
        self.row().1
    }

    /// What to do.
    pub(crate) fn remedy(self) -> &'static str {
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
            Self::NameUnresolved => (
                "broker-name-unresolved",
                "the name of its host does not resolve",
                "check the host in mqtt.url",
            ),
            Self::Unreachable => (
                "broker-unreachable",
                "there is no route to its host in the network",
                "check the network of this machine and the host in mqtt.url",
            ),
            Self::Mute => (
                "broker-mute",
                "it accepts the connection and sends nothing",
                "check that mqtt.url has an MQTT port; for a port with TLS write mqtts://",
            ),
            Self::SpeaksTls => {
                ("broker-speaks-tls", "it speaks TLS on this port", "write mqtts:// in mqtt.url")
            }
            Self::NotMqtt => (
                "not-a-broker",
                "another kind of server answers on this port",
                "check the host and the port in mqtt.url",
            ),
            Self::NoTls => (
                "broker-speaks-no-tls",
                "it does not speak TLS on this port",
                "write its port for mqtts in mqtt.url, usually 8883",
            ),
            Self::FileUnusable => (
                "file-unusable",
                "a file that the config names cannot be used",
                "correct the file, or set another one in [mqtt]",
            ),
            Self::NoRoots => (
                "no-authorities",
                "there are no certificate authorities to check its certificate with",
                "install the package ca-certificates, or set mqtt.ca_file",
            ),
            Self::CertificateUntrusted => (
                "certificate-untrusted",
                "its certificate is not signed by a trusted authority",
                "set mqtt.ca_file to the authority's certificate",
            ),
            Self::CertificateName => (
                "certificate-for-another-name",
                "its certificate is for another name",
                "write the name from the certificate in mqtt.url",
            ),
            Self::CertificateExpired => (
                "certificate-expired",
                "its certificate has expired",
                "renew it, or set this machine's clock",
            ),
            Self::CertificateWithoutName => (
                "certificate-without-name",
                "its certificate has the host's name in CN only; only subjectAltName counts",
                "create it again with openssl's -addext \"subjectAltName=DNS:NAME\", with the host in mqtt.url as NAME \
                 (IP:ADDRESS for an address)",
            ),
            Self::CertificateVersion => (
                "certificate-version-1",
                "its certificate is of X.509 version 1, which has no subjectAltName",
                "sign it again with `openssl x509 -req … -extfile FILE`, where FILE has the line subjectAltName=DNS:NAME, \
                 with the host in mqtt.url as NAME",
            ),
            Self::CertificateAuthority => (
                "certificate-of-an-authority",
                "its certificate is an authority's own (CA:TRUE)",
                "set mqtt.ca_file to this certificate itself, or create it again with openssl's -addext \
                 basicConstraints=CA:FALSE",
            ),
            Self::CertificateWeak => (
                "certificate-weak",
                "its certificate is signed with an algorithm that is no longer accepted, such as SHA-1",
                "sign it again with openssl's -sha256",
            ),
            Self::CertificateNotYet => (
                "certificate-not-yet-valid",
                "its certificate is not valid yet",
                "set this machine's clock, or wait until it is valid",
            ),
            Self::CertificateBad => {
                ("certificate-bad", "its certificate is invalid", "install another certificate on the broker")
            }
            Self::ClientCertificateMissing => (
                "client-certificate-missing",
                "it requires a client certificate",
                "set mqtt.client_cert_file and mqtt.client_key_file",
            ),
            Self::ClientCertificateRefused => (
                "client-certificate-refused",
                "it refuses our TLS handshake",
                "check mqtt.client_cert_file and mqtt.client_key_file",
            ),
            Self::Tls => ("tls-failed", "TLS failed", "see the broker's log"),
            Self::NoMqtt5 => (
                "no-mqtt-5",
                "it does not speak MQTT 5",
                "update it (mosquitto to 1.6 or later, RabbitMQ to 3.13 or later), or leave mqtt.url out to use the \
                 embedded broker",
            ),
            Self::LoginRefused => {
                ("login-refused", "it refuses the login", "check mqtt.username and mqtt.password")
            }
            Self::ClientIdRefused => {
                ("client-id-refused", "it refuses our client id", "set another mqtt.client_id")
            }
            Self::ClientIdTaken => (
                "client-id-taken",
                "another client uses our client id",
                "give each client an id of its own with mqtt.client_id; this one gives way for five minutes",
            ),
            Self::Banned => ("banned", "it has banned this client", "see the broker's log"),
            Self::Unfit => (
                "broker-unfit",
                "it does not support retained messages or QoS 1, and the last will needs both",
                "turn both on in the broker (in mosquitto retain_available and max_qos), or use another broker",
            ),
            Self::Busy => ("broker-busy", "it is overloaded or shutting down", "try again later"),
            Self::Denied => ("connection-denied", "it refuses the connection", "see the broker's log"),
            Self::NotAuthorized => (
                "not-authorized",
                "it ended the connection as not authorised",
                "check what the broker allows the user in mqtt.username to do",
            ),
            Self::SubscriptionDenied => (
                "subscription-denied",
                "it refuses our subscriptions",
                "allow the user in mqtt.username to subscribe below mqtt.base_topic",
            ),
            Self::WriteDenied => (
                "write-denied",
                "it refuses our messages or our last will",
                "allow the user in mqtt.username to write below mqtt.base_topic and homeassistant.discovery_prefix",
            ),
            Self::Moved => ("broker-moved", "it sends us to another server", "set mqtt.url to that server"),
            Self::PacketTooLarge => (
                "packet-too-large",
                "one of our packets is too large for it",
                "raise its limit on the size of packets",
            ),
            Self::MessageRefused => {
                ("message-refused", "it refuses one of our messages", "see the broker's log")
            }
            Self::Protocol => (
                "broker-breaks-mqtt",
                "it violates MQTT 5",
                "update it, or report this with its name and version",
            ),
            Self::MessageTooLarge => (
                "message-too-large",
                "it sent a message that is larger than our limit",
                "remove the large retained message below mqtt.base_topic or homeassistant.discovery_prefix",
            ),
            Self::HungUp => {
                ("broker-hung-up", "it closes the connection without a reason", "see the broker's log")
            }
            Self::Unacknowledged => (
                "broker-acknowledges-nothing",
                "it acknowledges none of our messages",
                "see the broker's log",
            ),
            Self::OneWay => (
                "broker-sends-nothing",
                "it has lost our subscriptions: no command arrives, and not even our own messages come back",
                "wait, hs100d connects again; if that goes on, see the broker's log",
            ),
        }
    }

    /// What it means for the next attempt.
    pub(super) fn kind(self) -> FailureKind {
        match self {
            Self::Refused | Self::Silent | Self::NameUnresolved | Self::Unreachable => FailureKind::Away,
            Self::Mute | Self::Busy | Self::Unacknowledged | Self::OneWay | Self::Protocol => {
                FailureKind::Away
            }
            Self::FileUnusable | Self::NoRoots => FailureKind::Refused,
            Self::SpeaksTls | Self::NotMqtt | Self::NoTls | Self::Tls => FailureKind::Refused,
            Self::CertificateUntrusted | Self::CertificateName => FailureKind::Refused,
            Self::CertificateWithoutName | Self::CertificateVersion => FailureKind::Refused,
            Self::CertificateAuthority | Self::CertificateWeak => FailureKind::Refused,
            Self::CertificateExpired | Self::CertificateNotYet | Self::CertificateBad => FailureKind::Refused,
            Self::ClientCertificateMissing | Self::ClientCertificateRefused => FailureKind::Refused,
            Self::NoMqtt5 | Self::LoginRefused | Self::ClientIdRefused => FailureKind::Refused,
            Self::Banned | Self::Unfit | Self::Denied => FailureKind::Refused,
            Self::NotAuthorized | Self::SubscriptionDenied | Self::Moved => FailureKind::Refused,
            Self::MessageRefused | Self::WriteDenied => FailureKind::Refused,
            Self::ClientIdTaken => FailureKind::TakenOver,
            Self::PacketTooLarge | Self::MessageTooLarge => FailureKind::TooLarge,
            Self::HungUp => FailureKind::Dropped,
        }
    }
}

/// Reasons sorted by what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FailureKind {
    /// It may be back at any moment.
    Away,
    /// It refuses us until the user changes something.
    Refused,
    /// Another client uses our client id.
    TakenOver,
    /// It closed the connection without a reason.
    Dropped,
    /// A packet was too large for one side.
    TooLarge,
}

/// A reason, with details of this case.
pub(super) struct Explanation {
    pub(super) reason: FailureReason,
    pub(super) kind: FailureKind,
    pub(super) why: String,
}

impl Explanation {
    /// This case may be over at the next attempt, whatever the reason usually means.
    pub(super) fn passing(self) -> Self {
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
