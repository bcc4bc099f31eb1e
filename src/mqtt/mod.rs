//! LEFT WING.
pub mod broker;
pub mod homeassistant;

use std::path::PathBuf;

use crate::bridge::event::{Event, RequestId};
use crate::secret::Secret;

/// How to reach the broker, and what to be called there.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS, if the URL says `mqtts`.
    pub tls: Option<TlsOptions>,
    /// Who we are.
    pub username: Option<String>,
    /// And the proof.
    pub password: Option<Secret>,
    /// The client id.
    pub client_id: String,
    /// The first level of every topic of ours.
    pub base_topic: String,
    /// Stable per installation: names the bridge device in Home Assistant.
    pub instance: String,
    /// What Home Assistant is told.
    pub homeassistant: homeassistant::Options,
}

/// What is trusted and what is shown on a TLS connection. Empty: the system's own roots, no client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// PEM file of the authorities that may have signed the broker's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM files of our own certificate chain and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// What the broker brings in.
#[derive(Debug)]
pub enum Inbound {
    /// Something for the bridge.
    Event(Event),
    /// Someone asked for a reload of the config. Answered through [`crate::bridge::event::Update::Response`].
    Reload(RequestId),
    /// The connection changed. `Err` says why there is none, in one line with the remedy.
    Link(Result<(), String>),
}
