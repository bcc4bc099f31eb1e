//! What the config means. A [`Config`] cannot be invalid: whoever holds one need not check it again.
//!
//! `file` has the TOML as written and judges each value by itself, `meaning` and `plugs` judge them together
//! and fills in what was not written, [`paths`] knows where to look, [`service`] whether the system service is there.
//! Nobody below this room knows that there is a file; every room is told its options in its own words.

mod file;
pub mod paths;
mod plugs;
mod reader;
pub mod service;
mod suggest;
mod url;
mod validate;

use std::fmt;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use self::paths::{ConfigPath, Environment};
use self::reader::Diagnostic;
use crate::bridge;
use crate::mqtt::{self, broker, homeassistant};
use crate::secret::{Secret, SecretBuf};
use crate::transport::{cloud, discovery};

/// The largest config that is read: ten thousand plugs with every key set need a quarter of it.
const LARGEST: u64 = 16 << 20;
/// As many faults as fit on a screen; whoever has more mends these first.
const FAULTS_SHOWN: usize = 10;

/// Everything that the user decided, with the defaults where nothing was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which broker, and how to log in there.
    pub broker: BrokerConfig,
    /// What to be called at the broker; `None` lets the installation name itself.
    pub client_id: Option<String>,
    /// The first level of every topic of ours.
    pub base_topic: String,
    /// What Home Assistant is told.
    pub homeassistant: homeassistant::HomeAssistantOptions,
    /// How to look for plugs on the LAN, if that is wanted at all.
    pub discovery: Option<discovery::DiscoveryOptions>,
    /// The LAN wire.
    pub local: LocalConfig,
    /// The account, if there is one.
    pub cloud: Option<CloudConfig>,
    /// What the bridge is told, but for what the store remembers: [`bridge::Settings::known`] is empty.
    pub bridge: bridge::Settings,
    /// What is legal but unwise, a line each, to be logged once logging stands.
    pub warnings: Vec<String>,
}

/// Which broker the plugs are shown at.
#[derive(Debug, Clone, PartialEq)]
pub enum BrokerConfig {
    /// Our own.
    Embedded {
        /// Where it listens: on loopback, unless there are users. Port 0 takes any that is free.
        listen: SocketAddr,
        /// Who may log in there; nobody: everybody who reaches it.
        users: Vec<broker::User>,
    },
    /// One that is there already.
    Outside {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
        /// TLS, if it is wanted.
        tls: Option<mqtt::TlsOptions>,
        /// Who we are there.
        username: Option<String>,
        /// And the proof.
        password: Option<Secret>,
    },
}

/// The LAN wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalConfig {
    /// Whether plugs are spoken to over the LAN at all.
    pub enabled: bool,
    /// The port that plugs listen on.
    pub port: u16,
}

/// The cloud wire.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudConfig {
    /// The account and where it lives.
    pub options: cloud::CloudOptions,
    /// Between two reads of a plug that the LAN does not reach.
    pub poll_interval: Duration,
}

/// What the left wing is started with.
#[derive(Debug, Clone, PartialEq)]
pub enum MqttChoice {
    /// The embedded broker, and the link to it.
    Embedded {
        /// What the broker is told.
        broker: broker::BrokerOptions,
        /// What the link is told. Its port is the one asked for: 0 where the broker takes any.
        link: mqtt::MqttSettings,
    },
    /// The link to a broker that is there already.
    Outside(mqtt::MqttSettings),
}

/// Why a config cannot be used: a line for each fault, with file, line, key and remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// At least one, without an end of line, in the order of the file.
    pub lines: Vec<String>,
}

impl Config {
    /// Reads the config from where it is. Files that it names (passwords, certificates) are looked at as
    /// well.
    ///
    /// # Errors
    /// All that is wrong, a line each; nothing of it holds a secret.
    pub fn load(place: &ConfigPath, environment: &Environment) -> Result<Self, Invalid> {
        let invalid = |faults: Vec<Diagnostic>| Invalid::of(place, &faults);
        let text = match place.path() {
            Some(path) => read(path).map_err(|fault| invalid(vec![fault]))?,
            None => Zeroizing::default(),
        };
        Self::read(&text, place, environment)
    }

    /// Reads the config from the text of the file at this place, which is not opened for it.
    ///
    /// # Errors
    /// As those of [`Config::load`].
    pub fn read(text: &str, place: &ConfigPath, environment: &Environment) -> Result<Self, Invalid> {
        let invalid = |faults: Vec<Diagnostic>| Invalid::of(place, &faults);
        let file = file::File::read(text).map_err(invalid)?;
        validate::validate(file, place, environment).map_err(invalid)
    }

    /// What the left wing is started with on this machine.
    pub fn mqtt(&self, instance: &str, state_dir: &Path) -> MqttChoice {
        match &self.broker {
            BrokerConfig::Embedded { listen, users } => MqttChoice::Embedded {
                broker: broker::BrokerOptions {
                    listen: *listen,
                    users: users.clone(),
                    state_dir: state_dir.to_owned(),
                },
                link: mqtt::MqttSettings {
                    // Whoever reads this config knows each of them; commands beside the daemon do so as well.
                    username: users.first().map(|user| user.name.clone()),
                    password: users.first().map(|user| user.password.clone()),
                    ..self.link(instance, near(listen.ip()).to_string(), listen.port())
                },
            },
            BrokerConfig::Outside { host, port, tls, username, password } => {
                MqttChoice::Outside(mqtt::MqttSettings {
                    tls: tls.clone(),
                    username: username.clone(),
                    password: password.clone(),
                    ..self.link(instance, host.clone(), *port)
                })
            }
        }
    }

    fn link(&self, instance: &str, host: String, port: u16) -> mqtt::MqttSettings {
        mqtt::MqttSettings {
            host,
            port,
            tls: None,
            username: None,
            password: None,
            client_id: self.client_id.clone().unwrap_or_else(|| format!("hs100d-{instance}")),
            base_topic: self.base_topic.clone(),
            instance: instance.to_owned(),
            homeassistant: self.homeassistant.clone(),
        }
    }
}

impl Invalid {
    fn of(place: &ConfigPath, faults: &[Diagnostic]) -> Self {
        let mut lines: Vec<String> =
            faults.iter().take(FAULTS_SHOWN).map(|fault| placed(place, fault)).collect();
        if let Some(more) = faults.len().checked_sub(FAULTS_SHOWN + 1) {
            lines.push(format!("{}: and {} more: correct these first", name(place), more + 1));
        }
        Self { lines }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// Every key that a config may hold, as `table.key`; those of `[[plug]]` as `plug.key`.
pub fn keys() -> Vec<String> {
    file::known().keys().collect()
}

/// Where to reach, from here, what listens on this address.
fn near(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    }
}

/// `FILE:LINE: key: what`, or `FILE: key: what` for what has no line.
fn placed(place: &ConfigPath, fault: &Diagnostic) -> String {
    let gap = if fault.line.is_some() { "" } else { " " };
    format!("{}:{gap}{fault}", name(place))
}

fn name(place: &ConfigPath) -> String {
    place.path().map_or_else(|| "built-in config".to_owned(), |path| path.display().to_string())
}

/// The text may hold passwords, so it is wiped when it has been read.
fn read(path: &Path) -> Result<Zeroizing<String>, Diagnostic> {
    let bytes = File::open(path).and_then(|file| SecretBuf::read(file, LARGEST + 1)).map_err(|error| {
        Diagnostic::of("", format!("cannot be read: {error}: check the path and its permissions"))
    })?;
    if bytes.len() as u64 > LARGEST {
        return Err(Diagnostic::of(
            "",
            format!("is larger than {} MiB: is it a config file?", LARGEST >> 20),
        ));
    }
    bytes.into_text().map_err(|(bytes, error)| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Diagnostic { line: Some(line), ..Diagnostic::of("", "is not UTF-8 text: save the file as UTF-8") }
    })
}
