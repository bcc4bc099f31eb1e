//! From what was written to what it means: the values judged together, and the defaults where nothing was
//! written.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{self, File, Password};
use super::place::{Environment, Place};
use super::reader::{At, Fault};
use super::url::MqttUrl;
use super::{Broker, Cloud, Config, Local, placed, plugs};
use crate::bridge::Settings;
use crate::bridge::route::{Policy, RoutePolicy};
use crate::mqtt::{TlsOptions, homeassistant};
use crate::secret::Secret;
use crate::transport::{cloud, discovery};

/// The port of the plugs' own protocol, TCP and UDP.
const PLUG_PORT: u16 = 9999;
/// Where the embedded broker listens: the port that IANA gave to MQTT.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1883);
/// The entrance to TP-Link's cloud, which names the right host of each plug.
const CLOUD_URL: &str = "https://wap.tplinkcloud.com";
/// Between two rounds of discovery.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(60);

/// Makes a config of a file, or says all that contradicts itself in it.
pub(super) fn judge(file: File, place: &Place, environment: &Environment) -> Result<Config, Vec<Fault>> {
    let mut judge = Judge { place, environment, faults: Vec::new(), warnings: Vec::new() };
    judge.look_at_the_file(&file);
    let config = judge.config(file);
    judge.faults.sort();
    judge.warnings.sort();
    if !judge.faults.is_empty() {
        return Err(judge.faults);
    }
    Ok(Config { warnings: judge.warnings.iter().map(|fault| placed(place, fault)).collect(), ..config })
}

/// Collects what is wrong and what is unwise while the config takes shape.
pub(super) struct Judge<'a> {
    place: &'a Place,
    environment: &'a Environment,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

/// By which ways plugs may be reached at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ways {
    pub(super) local: bool,
    pub(super) cloud: bool,
}

impl Judge<'_> {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn warn(&mut self, warning: Fault) {
        self.warnings.push(warning);
    }

    fn config(&mut self, file: File) -> Config {
        let local = Local {
            enabled: or(file.local.enabled.as_ref(), true),
            port: or(file.local.port.as_ref(), PLUG_PORT),
        };
        let ways = Ways { local: local.enabled, cloud: file.cloud.is_some() };
        if let (false, false, Some(enabled)) = (ways.local, ways.cloud, &file.local.enabled) {
            self.fault(enabled.fault("leaves no way to reach a plug: add [cloud], or set it to true"));
        }
        let cloud = file.cloud.map(|written| self.cloud(written));
        let policy = self.policy(&file.routing, &file.local, cloud.as_ref(), ways);
        let discovery = self.discovery(&file.discovery, local);
        let adopt = or(file.discovery.adopt.as_ref(), true);
        let plugs = plugs::judge(self, file.plugs, policy, local.port, ways);
        if plugs.is_empty() {
            self.look_for_plugs(&file.discovery, ways);
        }
        Config {
            client_id: file.mqtt.client_id.clone().map(|at| at.value),
            base_topic: file.mqtt.base_topic.clone().map_or_else(|| "hs100d".to_owned(), |at| at.value),
            broker: self.broker(file.mqtt, file.broker),
            homeassistant: homeassistant(file.homeassistant),
            discovery,
            local,
            bridge: Settings { plugs, known: Vec::new(), adopt, policy, cloud: ways.cloud },
            cloud,
            warnings: Vec::new(),
        }
    }

    fn broker(&mut self, mqtt: file::Mqtt, broker: file::Broker) -> Broker {
        let Some(url) = &mqtt.url else {
            self.refuse(&mqtt, true, "is for a broker of your own: add mqtt.url, or remove this line");
            return self.embedded(&broker);
        };
        if let Some(listen) = &broker.listen {
            self.warn(listen.fault(
                "has no effect: mqtt.url names another broker than the embedded one; remove one of them",
            ));
        }
        let MqttUrl { host, port, tls } = url.value.clone();
        let tls = if tls {
            Some(self.tls(&mqtt))
        } else {
            self.refuse(&mqtt, false, "needs TLS: write mqtts:// in mqtt.url, or remove this line");
            None
        };
        let nobody = mqtt.username.is_none();
        if let (true, Some(fault)) = (nobody, mqtt.password.fault("goes with a user name: add mqtt.username"))
        {
            self.fault(fault);
        }
        let password = self.password(mqtt.password, "mqtt.password");
        if nobody && password.is_some() {
            self.warn(Fault::of(
                "mqtt.username",
                "is missing: the credential mqtt.password is not used without it",
            ));
        }
        let password = password.filter(|_| !nobody);
        Broker::Outside { host, port, tls, username: mqtt.username.map(|at| at.value), password }
    }

    fn embedded(&mut self, broker: &file::Broker) -> Broker {
        let listen = or(broker.listen.as_ref(), LISTEN);
        if let (0, Some(at)) = (listen.port(), &broker.listen) {
            self.warn(
                at.fault("has port 0, so the broker is at another port after each start: write the port"),
            );
        }
        Broker::Embedded { listen }
    }

    /// Complains of all keys that make no sense without TLS or, with `login`, without a broker of one's own.
    fn refuse(&mut self, mqtt: &file::Mqtt, login: bool, why: &str) {
        let files = [&mqtt.ca_file, &mqtt.client_cert_file, &mqtt.client_key_file];
        self.faults.extend(files.into_iter().flatten().map(|at| at.fault(why)));
        if login {
            self.faults.extend(mqtt.username.as_ref().map(|at| at.fault(why)));
            self.faults.extend(mqtt.password.fault(why));
        }
    }

    fn tls(&mut self, mqtt: &file::Mqtt) -> TlsOptions {
        let ca_file = mqtt.ca_file.as_ref().map(|at| self.readable(at));
        let client = match (&mqtt.client_cert_file, &mqtt.client_key_file) {
            (Some(cert), Some(key)) => {
                let files = (self.readable(cert), self.readable(key));
                self.guard(key, &files.1, "holds a private key");
                Some(files)
            }
            (Some(cert), None) => {
                self.fault(cert.fault("goes with a key: add mqtt.client_key_file"));
                None
            }
            (None, Some(key)) => {
                self.fault(key.fault("goes with a certificate: add mqtt.client_cert_file"));
                None
            }
            (None, None) => None,
        };
        TlsOptions { ca_file, client }
    }

    fn cloud(&mut self, written: file::Cloud) -> Cloud {
        if written.username.is_none() {
            let missing = Fault::of("cloud.username", "is missing: add the e-mail address of the account");
            self.fault(Fault { line: Some(written.line), ..missing });
        }
        Cloud {
            poll_interval: or(written.poll_interval.as_ref(), RoutePolicy::default().cloud_poll_interval),
            options: cloud::Options {
                username: written.username.map(|at| at.value.expose().to_owned()).unwrap_or_default(),
                password: self.password(written.password, "cloud.password"),
                url: written.url.map_or_else(|| CLOUD_URL.to_owned(), |at| at.value),
            },
        }
    }

    fn policy(
        &mut self,
        routing: &file::Routing,
        local: &file::Local,
        cloud: Option<&Cloud>,
        ways: Ways,
    ) -> RoutePolicy {
        let default = RoutePolicy::default();
        let policy = RoutePolicy {
            policy: self.way(routing.policy.as_ref(), default.policy, ways),
            cloud_after: or(routing.cloud_after.as_ref(), default.cloud_after),
            command_ttl: or(routing.command_ttl.as_ref(), default.command_ttl),
            poll_interval: or(local.poll_interval.as_ref(), default.poll_interval),
            cloud_poll_interval: cloud.map_or(default.cloud_poll_interval, |cloud| cloud.poll_interval),
            energy_interval: or(local.energy_interval.as_ref(), default.energy_interval),
            local_timeout: or(local.timeout.as_ref(), default.local_timeout),
            cloud_timeout: default.cloud_timeout,
        };
        self.look_at_times(routing, policy, ways);
        policy
    }

    /// The policy that was written, where it can be followed.
    pub(super) fn way(&mut self, written: Option<&At<Policy>>, inherited: Policy, ways: Ways) -> Policy {
        let Some(at) = written else {
            // Nothing was asked for, so the default bends to what there is.
            return if ways.local { inherited } else { Policy::Cloud };
        };
        match at.value {
            Policy::Cloud if !ways.cloud => {
                self.fault(at.fault("needs an account: add [cloud], or write \"local\""));
            }
            Policy::Local if !ways.local => {
                self.fault(at.fault("needs the LAN: set local.enabled to true, or write \"cloud\""));
            }
            Policy::LocalThenCloud if !ways.cloud => {
                self.warn(at.fault("has no cloud to fall back to: add [cloud], or write \"local\""));
            }
            Policy::LocalThenCloud if !ways.local => return Policy::Cloud,
            Policy::LocalThenCloud | Policy::Local | Policy::Cloud => {}
        }
        at.value
    }

    /// Warns of a fallback that comes after the command's own end.
    pub(super) fn look_at_times(&mut self, written: &file::Routing, policy: RoutePolicy, ways: Ways) {
        let both = ways.cloud && policy.policy == Policy::LocalThenCloud;
        let at = written.cloud_after.as_ref().or(written.command_ttl.as_ref());
        if let (true, Some(at)) = (both && policy.cloud_after >= policy.command_ttl, at) {
            self.warn(at.fault(
                "makes cloud_after no shorter than command_ttl: a silent LAN leaves no time for the cloud; shorten it",
            ));
        }
    }

    fn discovery(&self, written: &file::Discovery, local: Local) -> Option<discovery::Options> {
        let wanted = or(written.lan.as_ref(), true) && local.enabled;
        wanted.then(|| discovery::Options {
            interval: or(written.interval.as_ref(), DISCOVERY_INTERVAL),
            broadcast: written.broadcast.clone().map(|at| at.value).unwrap_or_default(),
            ..discovery::Options::usual(local.port)
        })
    }

    /// Warns of a config without a `[[plug]]` by which no plug can be found either.
    fn look_for_plugs(&mut self, written: &file::Discovery, ways: Ways) {
        let unwanted = |at: &&At<bool>| !at.value;
        if let Some(adopt) = written.adopt.as_ref().filter(unwanted) {
            self.warn(adopt.fault("is false and there is no [[plug]]: no plug will be served; add one"));
        } else if let (false, Some(lan)) = (ways.cloud, written.lan.as_ref().filter(unwanted)) {
            self.warn(lan.fault(
                "is false and there is neither [cloud] nor [[plug]]: no plug will be served; add one of them",
            ));
        }
    }

    /// What was written goes before the credential that systemd passed.
    fn password(&mut self, written: Password, credential: &str) -> Option<Secret> {
        match (written.text, written.file) {
            (Some(text), Some(file)) => {
                self.fault(
                    file.fault(format!(
                        "contradicts the password in line {}: keep one of the two",
                        text.line
                    )),
                );
                None
            }
            (Some(text), None) => Some(text.value),
            (None, Some(file)) => self.password_file(&file),
            (None, None) => self.credential(credential),
        }
    }

    fn password_file(&mut self, at: &At<PathBuf>) -> Option<Secret> {
        let path = self.resolve(&at.value);
        match Secret::from_file(&path) {
            Ok(secret) => {
                self.guard(at, &path, "holds a password");
                Some(secret)
            }
            Err(bad) => {
                self.fault(at.fault(format!("{} {bad}", path.display())));
                None
            }
        }
    }

    fn credential(&mut self, name: &str) -> Option<Secret> {
        let directory = self.environment.get("CREDENTIALS_DIRECTORY")?;
        Secret::from_credential(Path::new(directory), name).unwrap_or_else(|bad| {
            self.fault(Fault::of(format!("credential {name}"), bad.to_string()));
            None
        })
    }

    /// The whole path of a file that must be there.
    fn readable(&mut self, at: &At<PathBuf>) -> PathBuf {
        let path = self.resolve(&at.value);
        if let Err(error) = std::fs::File::open(&path) {
            self.fault(at.fault(format!("{} cannot be read: {error}: check the path", path.display())));
        }
        path
    }

    /// Relative paths begin at the config file, for a daemon's working directory is nobody's choice.
    fn resolve(&self, path: &Path) -> PathBuf {
        self.place.path().and_then(Path::parent).map_or_else(|| path.to_owned(), |parent| parent.join(path))
    }

    /// Warns of a file with a secret that every user of the machine may read.
    fn guard(&mut self, at: &At<PathBuf>, path: &Path, what: &str) {
        if others_may_read(path) {
            let path = path.display();
            self.warn(at.fault(format!("{path} {what} and every user may read it: chmod o-r {path}")));
        }
    }

    fn look_at_the_file(&mut self, file: &File) {
        let cloud = file.cloud.as_ref().and_then(|cloud| cloud.password.text.as_ref());
        let holds_password = file.mqtt.password.text.is_some() || cloud.is_some();
        if let (true, Some(path)) = (holds_password, self.place.path().filter(|path| others_may_read(path))) {
            let remedy = format!("holds a password and every user may read it: chmod o-r {}", path.display());
            self.warn(Fault::of("", remedy));
        }
    }
}

impl Password {
    /// A complaint about whichever was written.
    fn fault(&self, what: &str) -> Option<Fault> {
        let text = self.text.as_ref().map(|at| at.fault(what));
        text.or_else(|| self.file.as_ref().map(|at| at.fault(what)))
    }
}

fn homeassistant(written: file::HomeAssistant) -> homeassistant::Options {
    homeassistant::Options {
        discovery: or(written.discovery.as_ref(), homeassistant::Discovery::Device),
        discovery_prefix: written.discovery_prefix.map_or_else(|| "homeassistant".to_owned(), |at| at.value),
        status_topic: written.status_topic.map_or_else(|| "homeassistant/status".to_owned(), |at| at.value),
    }
}

/// What was written, else the default.
pub(super) fn or<T: Copy>(written: Option<&At<T>>, default: T) -> T {
    written.map_or(default, |at| at.value)
}

fn others_may_read(path: &Path) -> bool {
    /// The permission bit that lets everybody read.
    const OTHERS_READ: u32 = 0o004;
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & OTHERS_READ != 0)
}
