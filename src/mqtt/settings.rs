//! The settings of a connection: the broker, our names there, and the discovery for Home Assistant.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::homeassistant::options::HomeAssistantOptions;
use crate::backoff;
use crate::secret::Secret;

/// The settings of one link to a broker.
#[derive(Debug, Clone, PartialEq)]
pub struct MqttSettings {
    /// Host name or address of the broker.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// The other brokers of `mqtt.url`, in its order. The login and TLS are the same for all.
    pub others: Vec<BrokerAddress>,
    /// A connection that is not to the installation's own broker returns to that one after a time between these two.
    pub return_after: (Duration, Duration),
    /// How long the broker holds back the last will after a connection broke, in whole seconds, rounded up.
    pub will_delay: Duration,
    /// `None`: without TLS, for `mqtt://`.
    pub tls: Option<TlsOptions>,
    /// User name at the broker.
    pub username: Option<String>,
    /// Password at the broker.
    pub password: Option<Secret>,
    /// MQTT client id.
    pub client_id: String,
    /// The first level, or levels, of all our topics; [`super::topics::check_base`] says whether a text can be one.
    pub base_topic: String,
    /// Stable per installation: the id of the bridge device in Home Assistant.
    pub instance: String,
    /// The one that was drawn for it, which it had before the config named one. Clones of a disk share it.
    pub drawn_instance: String,
    /// Discovery payloads.
    pub homeassistant: HomeAssistantOptions,
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BrokerAddress {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl MqttSettings {
    /// Long enough that a broker which starts is not filled at once, and that one which fails again and again has few
    /// clients.
    pub const RETURN_AFTER: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(2400));

    /// Long enough that a broker can be started anew without an `offline`.
    pub const WILL_DELAY: Duration = Duration::from_secs(5);

    /// The broker at `host` and `port`.
    pub(crate) fn broker(&self) -> BrokerAddress {
        BrokerAddress { host: self.host.clone(), port: self.port }
    }

    /// All brokers in the order of this installation, its own first.
    pub(crate) fn brokers(&self) -> Vec<BrokerAddress> {
        let mut brokers: Vec<_> = std::iter::once(self.broker()).chain(self.others.iter().cloned()).collect();
        BrokerAddress::sort(&mut brokers, &self.instance);
        brokers
    }

    /// The broker, the user name and the password; `None` if no password is sent.
    pub(super) fn login(&self) -> Option<(String, &str, &Secret)> {
        let password = self.password.as_ref()?;
        Some((format!("mqtt://{}", self.broker()), self.username.as_deref().unwrap_or_default(), password))
    }

    /// The same for one of the brokers, without another one.
    pub(crate) fn only_at(&self, BrokerAddress { host, port }: BrokerAddress) -> Self {
        Self { host, port, others: Vec::new(), ..self.clone() }
    }
}

impl BrokerAddress {
    /// Puts brokers into the order of an installation. It is drawn from the id of the installation and the addresses: many
    /// installations are spread over all brokers, and those of a broker that fails over all others. A broker that is added or
    /// removed changes the own broker of as few installations as possible.
    pub(crate) fn sort(brokers: &mut [Self], instance: &str) {
        brokers.sort_by_cached_key(|broker| backoff::seed((instance, broker)));
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Certificates for a TLS connection. Empty: the system's root certificates and no client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// PEM file with the authorities, or the certificate itself, that the broker's certificate must match.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client certificate chain and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}
