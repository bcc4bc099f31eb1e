//! The settings of a connection: the broker, our names there, and the discovery for Home Assistant.

use std::path::PathBuf;

use super::homeassistant::options::HomeAssistantOptions;
use crate::secret::Secret;

/// The settings of one link to a broker.
#[derive(Debug, Clone, PartialEq)]
pub struct MqttSettings {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
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

/// Certificates for a TLS connection. Empty: the system's root certificates and no client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// PEM file with the authorities, or the certificate itself, that the broker's certificate must match.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client certificate chain and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}
