//! From what was written to what it means: the values judged together, and the defaults where nothing was
//! written.

use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{self, File, Password};
use super::paths::{ConfigPath, Environment};
use super::reader::{Diagnostic, Spanned, quoted};
use super::url::MqttUrl;
use super::{BrokerConfig, CloudConfig, Config, LocalConfig, placed, plugs};
use crate::bridge::Settings;
use crate::bridge::route::{RoutePolicy, RoutePreference};
use crate::mqtt::topics::is_below;
use crate::mqtt::{TlsOptions, broker, homeassistant};
use crate::permissions::FilePermissions;
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
pub(super) fn validate(
    file: File,
    place: &ConfigPath,
    environment: &Environment,
) -> Result<Config, Vec<Diagnostic>> {
    let mut judge = Validator { place, environment, faults: Vec::new(), warnings: Vec::new() };
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
pub(super) struct Validator<'a> {
    place: &'a ConfigPath,
    environment: &'a Environment,
    faults: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

/// By which ways plugs may be reached at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct EnabledRoutes {
    pub(super) local: bool,
    pub(super) cloud: bool,
    /// Whether the LAN is searched for plugs whose address is not written.
    pub(super) search: bool,
}

impl Validator<'_> {
    pub(super) fn fault(&mut self, fault: Diagnostic) {
        self.faults.push(fault);
    }

    pub(super) fn warn(&mut self, warning: Diagnostic) {
        self.warnings.push(warning);
    }

    fn config(&mut self, file: File) -> Config {
        let local = LocalConfig {
            enabled: or(file.local.enabled.as_ref(), true),
            port: or(file.local.port.as_ref(), PLUG_PORT),
        };
        let ways = EnabledRoutes { local: local.enabled, cloud: file.cloud.is_some(), search: true };
        if let (false, false, Some(enabled)) = (ways.local, ways.cloud, &file.local.enabled) {
            self.fault(enabled.fault("leaves no way to reach a plug: add [cloud], or set it to true"));
        }
        let cloud = file.cloud.map(|written| self.cloud(written));
        let policy = self.policy(&file.routing, &file.local, cloud.as_ref(), ways);
        let discovery = self.discovery(&file.discovery, local);
        let adopt = or(file.discovery.adopt.as_ref(), true);
        let ways = EnabledRoutes { search: discovery.is_some(), ..ways };
        let plugs = plugs::validate(self, file.plugs, policy, local.port, ways);
        if plugs.is_empty() {
            self.look_for_plugs(&file.discovery, ways);
        }
        let base_topic = file.mqtt.base_topic.clone().map_or_else(|| "hs100d".to_owned(), |at| at.value);
        Config {
            client_id: file.mqtt.client_id.clone().map(|at| at.value),
            broker: self.broker(file.mqtt, file.broker),
            homeassistant: self.homeassistant(file.homeassistant, &base_topic),
            base_topic,
            discovery,
            local,
            bridge: Settings { plugs, known: Vec::new(), adopt, policy, cloud: ways.cloud },
            cloud,
            warnings: Vec::new(),
        }
    }

    fn broker(&mut self, mqtt: file::Mqtt, broker: file::Broker) -> BrokerConfig {
        let Some(url) = &mqtt.url else {
            self.refuse(&mqtt, true, "is for a broker of your own: add mqtt.url, or remove this line");
            return self.embedded(broker);
        };
        let unused = "has no effect: mqtt.url names another broker than the embedded one; remove one of them";
        if let Some(listen) = &broker.listen {
            self.warn(listen.fault(unused));
        }
        if let Some(user) = broker.users.first() {
            self.warn(Diagnostic { line: Some(user.line), ..Diagnostic::of("broker.user", unused) });
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
            self.warn(Diagnostic::of(
                "mqtt.username",
                "is missing: the credential mqtt.password is not used without it",
            ));
        }
        let password = password.filter(|_| !nobody);
        BrokerConfig::Outside { host, port, tls, username: mqtt.username.map(|at| at.value), password }
    }

    fn embedded(&mut self, broker: file::Broker) -> BrokerConfig {
        let listen = or(broker.listen.as_ref(), LISTEN);
        if let (0, Some(at)) = (listen.port(), &broker.listen) {
            self.warn(
                at.fault("has port 0, so the broker is at another port after each start: write the port"),
            );
        }
        if let (false, true, Some(at)) = (listen.ip().is_loopback(), broker.users.is_empty(), &broker.listen)
        {
            self.fault(at.fault(format!(
                "must be a loopback address while there is no [[broker.user]], or everybody on the network could \
                 switch the plugs: add a user with a password, or write \"127.0.0.1:1883\" (is \"{listen}\")"
            )));
        }
        let mut names = HashSet::new();
        let users = broker.users.into_iter().filter_map(|user| self.user(user, &mut names)).collect();
        BrokerConfig::Embedded { listen, users }
    }

    fn user(&mut self, written: file::BrokerUser, names: &mut HashSet<String>) -> Option<broker::User> {
        let file::BrokerUser { line, name, password } = written;
        let missing = |key, what: &str| Diagnostic { line: Some(line), ..Diagnostic::of(key, what) };
        if name.is_none() {
            self.fault(missing("broker.user.name", "is missing: say who may log in"));
        }
        if let Some(again) = name.as_ref().filter(|name| !names.insert(name.value.clone())) {
            self.fault(again.fault(format!(
                "{} is there already: give each user a name of its own",
                quoted(&again.value)
            )));
        }
        if password.text.is_none() && password.file.is_none() {
            self.fault(missing("broker.user.password_file", "is missing: add it, or password"));
            return None;
        }
        let password = self.written_password(password)?;
        Some(broker::User { name: name?.value, password })
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

    fn cloud(&mut self, written: file::Cloud) -> CloudConfig {
        if written.username.is_none() {
            let missing =
                Diagnostic::of("cloud.username", "is missing: add the e-mail address of the account");
            self.fault(Diagnostic { line: Some(written.line), ..missing });
        }
        CloudConfig {
            poll_interval: or(written.poll_interval.as_ref(), RoutePolicy::default().cloud_poll_interval),
            options: cloud::CloudOptions {
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
        cloud: Option<&CloudConfig>,
        ways: EnabledRoutes,
    ) -> RoutePolicy {
        let default = RoutePolicy::default();
        let policy = RoutePolicy {
            preference: self.way(routing.policy.as_ref(), default.preference, ways),
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
    pub(super) fn way(
        &mut self,
        written: Option<&Spanned<RoutePreference>>,
        inherited: RoutePreference,
        ways: EnabledRoutes,
    ) -> RoutePreference {
        let Some(at) = written else {
            // Nothing was asked for, so the default bends to what there is.
            return if ways.local { inherited } else { RoutePreference::Cloud };
        };
        match at.value {
            RoutePreference::Cloud if !ways.cloud => {
                self.fault(at.fault("needs an account: add [cloud], or write \"local\""));
            }
            RoutePreference::Local if !ways.local => {
                self.fault(at.fault("needs the LAN: set local.enabled to true, or write \"cloud\""));
            }
            RoutePreference::LocalThenCloud if !ways.cloud => {
                self.warn(at.fault("has no cloud to fall back to: add [cloud], or write \"local\""));
            }
            RoutePreference::LocalThenCloud if !ways.local => return RoutePreference::Cloud,
            RoutePreference::LocalThenCloud | RoutePreference::Local | RoutePreference::Cloud => {}
        }
        at.value
    }

    /// Warns of a fallback that comes after the command's own end.
    pub(super) fn look_at_times(
        &mut self,
        written: &file::Routing,
        policy: RoutePolicy,
        ways: EnabledRoutes,
    ) {
        let both = ways.cloud && policy.preference == RoutePreference::LocalThenCloud;
        let at = written.cloud_after.as_ref().or(written.command_ttl.as_ref());
        if let (true, Some(at)) = (both && policy.cloud_after >= policy.command_ttl, at) {
            self.warn(at.fault(
                "makes cloud_after no shorter than command_ttl: a silent LAN leaves no time for the cloud; shorten it",
            ));
        }
    }

    fn discovery(
        &self,
        written: &file::Discovery,
        local: LocalConfig,
    ) -> Option<discovery::DiscoveryOptions> {
        let wanted = or(written.lan.as_ref(), true) && local.enabled;
        wanted.then(|| discovery::DiscoveryOptions {
            interval: or(written.interval.as_ref(), DISCOVERY_INTERVAL),
            broadcast: written.broadcast.clone().map(|at| at.value).unwrap_or_default(),
            ..discovery::DiscoveryOptions::usual(local.port)
        })
    }

    fn homeassistant(
        &mut self,
        written: file::HomeAssistant,
        base_topic: &str,
    ) -> homeassistant::HomeAssistantOptions {
        if let Some(topic) = written.status_topic.as_ref().filter(|at| is_below(base_topic, &at.value)) {
            self.fault(topic.fault(
                "lies below mqtt.base_topic, where only plugs and the bridge speak: name the topic on which Home \
                 Assistant says that it has started",
            ));
        }
        homeassistant::HomeAssistantOptions {
            discovery: or(written.discovery.as_ref(), homeassistant::DocumentForm::Device),
            discovery_prefix: written
                .discovery_prefix
                .map_or_else(|| "homeassistant".to_owned(), |at| at.value),
            status_topic: written
                .status_topic
                .map_or_else(|| "homeassistant/status".to_owned(), |at| at.value),
        }
    }

    /// Warns of a config without a `[[plug]]` by which no plug can be found either.
    fn look_for_plugs(&mut self, written: &file::Discovery, ways: EnabledRoutes) {
        let unwanted = |at: &&Spanned<bool>| !at.value;
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
        if written.text.is_none() && written.file.is_none() {
            return self.credential(credential);
        }
        self.written_password(written)
    }

    fn written_password(&mut self, written: Password) -> Option<Secret> {
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
            (None, None) => None,
        }
    }

    fn password_file(&mut self, at: &Spanned<PathBuf>) -> Option<Secret> {
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
            self.fault(Diagnostic::of(format!("credential {name}"), bad.to_string()));
            None
        })
    }

    /// The whole path of a file that must be there.
    fn readable(&mut self, at: &Spanned<PathBuf>) -> PathBuf {
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

    /// Warns of a file with a secret that others on the machine may read or change.
    fn guard(&mut self, at: &Spanned<PathBuf>, path: &Path, what: &str) {
        let Some(access) = FilePermissions::of(path) else { return };
        let path = path.display();
        if access.everybody_reads() {
            self.warn(at.fault(format!("{path} {what} and every user may read it: chmod o-r {path}")));
        }
        for trouble in meddling(access, &path) {
            self.warn(at.fault(format!("{path} {what} and {trouble}")));
        }
    }

    /// The same of the config itself, which says where passwords are sent, and of the directory that it can be
    /// replaced in.
    fn look_at_the_file(&mut self, file: &File) {
        let Some(path) = self.place.path() else { return };
        let written = [Some(&file.mqtt.password), file.cloud.as_ref().map(|cloud| &cloud.password)];
        let users = file.broker.users.iter().map(|user| &user.password);
        let holds_password =
            written.into_iter().flatten().chain(users).any(|password| password.text.is_some());
        if let Some(access) = FilePermissions::of(path) {
            if holds_password && access.everybody_reads() {
                let remedy =
                    format!("holds a password and every user may read it: chmod o-r {}", path.display());
                self.warn(Diagnostic::of("", remedy));
            }
            let troubles: Vec<_> = meddling(access, &path.display()).collect();
            troubles.into_iter().for_each(|trouble| self.warn(Diagnostic::of("", trouble)));
        }
        // The parent of a bare name is written as nothing.
        let parent =
            path.parent().map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
        if let Some(parent) =
            parent.filter(|parent| FilePermissions::of(parent).is_some_and(FilePermissions::everybody_writes))
        {
            let parent = parent.display();
            self.warn(Diagnostic::of(
                "",
                format!("lies in {parent}, where every user may replace it: chmod o-w {parent}"),
            ));
        }
    }
}

impl Password {
    /// A complaint about whichever was written.
    fn fault(&self, what: &str) -> Option<Diagnostic> {
        let text = self.text.as_ref().map(|at| at.fault(what));
        text.or_else(|| self.file.as_ref().map(|at| at.fault(what)))
    }
}

/// What was written, else the default.
pub(super) fn or<T: Copy>(written: Option<&Spanned<T>>, default: T) -> T {
    written.map_or(default, |at| at.value)
}

/// Who else may change a file, with the remedy.
fn meddling(access: FilePermissions, path: &impl fmt::Display) -> impl Iterator<Item = String> {
    let everybody = access.everybody_writes().then(|| format!("every user may change it: chmod o-w {path}"));
    let stranger = access
        .stranger()
        .map(|owner| format!("belongs to user {owner}, who may change it: chown root {path}"));
    everybody.into_iter().chain(stranger)
}
