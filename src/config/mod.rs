//! What the config means. A [`Config`] is always valid.
//!
//! ```text
//!   load ---> file ---> reader        the TOML as written, each value checked by itself
//!     |                    |
//!     |                 overlay       values that are laid over it
//!     |
//!     +-----> validate ---> plugs     the values checked together, the defaults
//! ```
//!
//! `load` reads the file and calls both, `placeholders` replaces `${NAME}` in its values, `named_files` reads the files that it
//! names, `current_file` says which is being read, `url` knows brokers' URLs, `unknown_keys` and `usual_guesses` what to write
//! instead of a key that does not exist, [`paths`] where the file is, [`service`] whether the system service is installed. No module below knows that there is a file: each has options of its own.

mod current_file;
mod diagnostic;
mod file;
mod load;
mod named_files;
mod overlay;
pub mod paths;
mod placeholders;
mod plugs;
mod reader;
mod routing;
pub(crate) mod service;
mod syntax;
mod unknown_keys;
mod url;
mod usual_guesses;
mod validate;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::bridge;
use crate::http;
use crate::mqtt::{self, broker, homeassistant};
use crate::secret::Secret;
use crate::transport::{cloud, discovery};
pub use current_file::CurrentFile;
pub use diagnostic::Diagnostic;
pub use overlay::{OptionName, Overlay};

/// All settings, defaults included. [`Config::load`] makes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The broker, and the login there.
    pub broker: BrokerConfig,
    /// Names this installation; `None`: the id that was drawn for it, which clones of its disk share.
    pub instance: Option<String>,
    /// `None`: one is made from the instance.
    pub client_id: Option<String>,
    /// How long the broker holds back the last will.
    pub will_delay: Duration,
    /// The first levels of every topic.
    pub base_topic: String,
    /// Discovery for Home Assistant.
    pub homeassistant: homeassistant::HomeAssistantOptions,
    /// Discovery on the LAN; `None` if it is turned off.
    pub discovery: Option<discovery::DiscoveryOptions>,
    /// The LAN.
    pub local: LocalConfig,
    /// The account for plugs that speak KLAP; `None` if the config names none.
    pub lan_account: Option<LanAccount>,
    /// `None` without an account.
    pub cloud: Option<CloudConfig>,
    /// The status page, the API and the metrics; `None` if they are turned off.
    pub http: Option<http::HttpOptions>,
    /// The status page in Home Assistant. No file has it: the Supervisor tells the app.
    pub ingress: Option<http::IngressOptions>,
    /// For the bridge. [`bridge::Settings::known`] is empty: it comes from the store.
    pub bridge: bridge::Settings,
    /// One line for each probable mistake, to be logged.
    pub warnings: Vec<String>,
    /// The last of them, which are about the config and not about what was laid over it, in their parts.
    pub diagnostics: Vec<Diagnostic>,
}

/// The broker that the daemon uses.
#[derive(Debug, Clone, PartialEq)]
pub enum BrokerConfig {
    /// The one in this process.
    Embedded {
        /// On loopback unless there are users. Port 0: any free one.
        listen: SocketAddr,
        /// Who may log in. Empty: no login is needed.
        users: Vec<broker::User>,
    },
    /// Another program, or one of several.
    Outside {
        /// Host name or address of the first one.
        host: String,
        /// Its TCP port.
        port: u16,
        /// The others of `mqtt.url`, in its order.
        others: Vec<mqtt::BrokerAddress>,
        /// `None`: without TLS.
        tls: Option<mqtt::TlsOptions>,
        /// `None`: no login.
        username: Option<String>,
        /// `None` also without a user name.
        password: Option<Secret>,
    },
    /// Another program, which is not named yet.
    Awaited {
        /// For a connection with TLS.
        tls: mqtt::TlsOptions,
        /// `None`: the login is named with the broker.
        username: Option<String>,
        /// `None` also without a user name.
        password: Option<Secret>,
    },
}

impl BrokerConfig {
    /// Whether it can be reached without a network.
    pub(crate) fn is_on_this_machine(&self) -> bool {
        match self {
            Self::Embedded { .. } => true,
            Self::Awaited { .. } => false,
            Self::Outside { host, others, .. } => {
                let is_loopback =
                    |host: &str| host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
                is_loopback(host) && others.iter().all(|other| is_loopback(&other.host))
            }
        }
    }
}

/// How plugs are reached over the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalConfig {
    /// False: plugs are reached over the cloud only.
    pub enabled: bool,
    /// The plugs' port, TCP and UDP.
    pub port: u16,
}

/// The account that plugs which speak KLAP were set up with.
#[derive(Clone, PartialEq, Eq)]
pub struct LanAccount {
    /// The e-mail address. Plugs compare its spelling.
    pub username: String,
    /// `None`: the store may have its hashes.
    pub password: Option<Secret>,
    /// The table of the password, or where the password would be.
    pub table: &'static str,
    /// Whether it is the account of `[cloud]`, perhaps in another spelling.
    pub is_of_cloud: bool,
}

impl LanAccount {
    /// The password is in `[local]`.
    pub const LOCAL: &'static str = "[local]";
    /// The password is in `[cloud]`.
    pub const CLOUD: &'static str = "[cloud]";
}

impl fmt::Debug for LanAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LanAccount").field("table", &self.table).finish_non_exhaustive()
    }
}

/// How plugs are reached over the cloud.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudConfig {
    /// The account and its host.
    pub options: cloud::CloudOptions,
    /// Between two polls of a plug that the LAN does not reach.
    pub poll_interval: Duration,
}

/// What the MQTT frontend is started with.
#[derive(Debug, Clone, PartialEq)]
pub enum MqttChoice {
    /// With the embedded broker.
    Embedded {
        /// For the broker.
        broker: broker::BrokerOptions,
        /// For the connection to it. Its port is 0 if the broker takes any free one.
        link: mqtt::MqttSettings,
    },
    /// With a broker that is another program.
    Outside(mqtt::MqttSettings),
    /// Without a broker until one is named.
    Awaited,
}

/// Why a config cannot be used: one line for each fault, with file, line, key and remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// At least one, without an end of line, in the order of the file; of many the first, and a line that counts the others.
    pub lines: Vec<String>,
    /// All of them in their parts; empty if they are about something else than the config.
    pub diagnostics: Vec<Diagnostic>,
}

impl Invalid {
    /// Faults outside the config.
    pub fn of_lines(lines: Vec<String>) -> Self {
        Self { lines, diagnostics: Vec::new() }
    }
}

impl Config {
    /// The name of this installation; `drawn` is the one in its state.
    pub fn instance<'a>(&'a self, drawn: &'a str) -> &'a str {
        self.instance.as_deref().unwrap_or(drawn)
    }

    /// What the MQTT frontend is started with on this machine. `drawn` is the installation's id in its state.
    pub fn mqtt(&self, drawn: &str, state_dir: &Path) -> MqttChoice {
        match &self.broker {
            BrokerConfig::Embedded { listen, users } => MqttChoice::Embedded {
                broker: broker::BrokerOptions {
                    listen: *listen,
                    users: users.clone(),
                    state_dir: state_dir.to_owned(),
                },
                link: mqtt::MqttSettings {
                    // Any of them will do; the other commands use the same one.
                    username: users.first().map(|user| user.name.clone()),
                    password: users.first().map(|user| user.password.clone()),
                    ..self.link(drawn, connectable(listen.ip()).to_string(), listen.port())
                },
            },
            BrokerConfig::Awaited { .. } => MqttChoice::Awaited,
            BrokerConfig::Outside { host, port, others, tls, username, password } => {
                MqttChoice::Outside(mqtt::MqttSettings {
                    others: others.clone(),
                    tls: tls.clone(),
                    username: username.clone(),
                    password: password.clone(),
                    ..self.link(drawn, host.clone(), *port)
                })
            }
        }
    }

    /// Where a program on this machine finds HTTP; `None` if it is off, or if the daemon chooses the port.
    pub(crate) fn http_address(&self) -> Option<http::Listen> {
        match &self.http.as_ref()?.listen {
            http::Listen::Tcp(address) if address.port() == 0 => None,
            http::Listen::Tcp(address) => {
                Some(http::Listen::Tcp(SocketAddr::new(connectable(address.ip()), address.port())))
            }
            http::Listen::Unix(path) => Some(http::Listen::Unix(path.clone())),
        }
    }

    fn link(&self, drawn: &str, host: String, port: u16) -> mqtt::MqttSettings {
        let instance = self.instance(drawn);
        mqtt::MqttSettings {
            host,
            port,
            others: Vec::new(),
            return_after: mqtt::MqttSettings::RETURN_AFTER,
            will_delay: self.will_delay,
            tls: None,
            username: None,
            password: None,
            client_id: self.client_id.clone().unwrap_or_else(|| format!("hs100d-{instance}")),
            base_topic: self.base_topic.clone(),
            instance: instance.to_owned(),
            drawn_instance: drawn.to_owned(),
            homeassistant: self.homeassistant.clone(),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// Every key of a config, as `table.key`; those of `[[plug]]` as `plug.key`.
pub fn keys() -> Vec<String> {
    file::known().keys().collect()
}

/// The address to connect to, on this machine, for one that is listened on.
fn connectable(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    }
}
