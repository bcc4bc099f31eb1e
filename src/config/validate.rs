//! Makes a [`Config`] of the file: checks the values together, and sets the defaults.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Diagnostics, Place, Spanned, or, quoted};
use super::named_files::NamedFiles;
use super::routing::{self, EnabledRoutes};
use super::url::MqttUrl;
use super::{BrokerConfig, CloudConfig, Config, LanAccount, LocalConfig, file, plugs};
use crate::bridge::Settings;
use crate::bridge::route::RoutePolicy;
use crate::http::{HttpOptions, Listen};
use crate::mqtt::topics::is_below;
use crate::mqtt::{BrokerAddress, MqttSettings, TlsOptions, broker, homeassistant};
use crate::secret::Secret;
use crate::transport::cloud::request::AppIdentity;
use crate::transport::cloud::signature::AppKeys;
use crate::transport::{cloud, discovery};

/// The plugs' port, TCP and UDP.
const PLUG_PORT: u16 = 9999;
/// Where the embedded broker listens: IANA's port for MQTT.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1883);
/// Where the status page is.
const HTTP_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8100);
/// The shortest token, in characters.
const LEAST_TOKEN: usize = 16;
/// TP-Link's host for all regions; its device list names the host of each plug.
const CLOUD_URL: &str = "https://wap.tplinkcloud.com";
/// The credentials of the app's keys.
const ACCESS_KEY: &str = "cloud.v2.access-key";
const SECRET_KEY: &str = "cloud.v2.secret-key";
/// Between two rounds of discovery.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(60);

/// Makes a config of a file; with `is_broker_awaited` one without `mqtt.url` has no broker yet. Returns the warnings beside it,
/// in the order of the file; [`Config::warnings`] is empty.
///
/// # Errors
/// All faults, in the order of the file.
pub(super) fn validate(
    file: file::File,
    is_broker_awaited: bool,
    files: NamedFiles<'_>,
) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut validator = Validator { is_broker_awaited, files, diagnostics: Diagnostics::default() };
    validator.files.check_config_file(&mut validator.diagnostics, &file);
    let config = validator.config(file);
    let Diagnostics { mut faults, mut warnings } = validator.diagnostics;
    faults.sort();
    warnings.sort();
    if faults.is_empty() { Ok((config, warnings)) } else { Err(faults) }
}

/// Builds the config and collects faults and warnings.
struct Validator<'a> {
    /// The broker is named later, if it is not in the file.
    is_broker_awaited: bool,
    files: NamedFiles<'a>,
    diagnostics: Diagnostics,
}

impl Validator<'_> {
    fn fault(&mut self, fault: Diagnostic) {
        self.diagnostics.fault(fault);
    }

    fn warn(&mut self, warning: Diagnostic) {
        self.diagnostics.warn(warning);
    }

    fn config(&mut self, file: file::File) -> Config {
        let local = LocalConfig {
            enabled: or(file.local.enabled.as_ref(), true),
            port: or(file.local.port.as_ref(), PLUG_PORT),
        };
        let enabled = EnabledRoutes { local: local.enabled, cloud: file.cloud.is_some(), search: true };
        if let (false, false, Some(enabled)) = (enabled.local, enabled.cloud, &file.local.enabled) {
            self.fault(enabled.fault("leaves no way to reach a plug: add [cloud], or set it to true"));
        }
        let cloud = file.cloud.map(|written| self.cloud(written));
        let policy = self.policy(&file.routing, &file.local, cloud.as_ref(), enabled);
        let lan_account = self.lan_account(file.local, cloud.as_ref());
        let discovery = self.discovery(&file.discovery, local);
        let adopt = or(file.discovery.adopt.as_ref(), true);
        let enabled = EnabledRoutes { search: discovery.is_some(), ..enabled };
        let plugs = plugs::validate(&mut self.diagnostics, file.plugs, policy, local.port, enabled);
        if plugs.is_empty() {
            self.warn_of_no_plugs(&file.discovery, enabled);
        }
        let base_topic = file.mqtt.base_topic.clone().map_or_else(|| "hs100d".to_owned(), |at| at.value);
        Config {
            instance: file.mqtt.instance.clone().map(|at| at.value),
            client_id: file.mqtt.client_id.clone().map(|at| at.value),
            will_delay: or(file.mqtt.will_delay.as_ref(), MqttSettings::WILL_DELAY),
            broker: self.broker(file.mqtt, file.broker),
            homeassistant: self.homeassistant(file.homeassistant, &base_topic),
            base_topic,
            discovery,
            local,
            lan_account,
            bridge: Settings { plugs, known: Vec::new(), adopt, policy, cloud: enabled.cloud },
            http: self.http(file.http),
            ingress: None,
            cloud,
            warnings: Vec::new(),
            diagnostics: Vec::new(),
        }
    }

    fn broker(&mut self, mqtt: file::Mqtt, broker: file::Broker) -> BrokerConfig {
        let Some(url) = &mqtt.url else {
            if self.is_broker_awaited {
                self.warn_of_unused(
                    &broker,
                    "has no effect: the embedded broker is not used here; remove it",
                );
                return self.awaited(mqtt);
            }
            self.refuse(&mqtt, true, "is for a broker of your own: add mqtt.url, or remove this line");
            return self.embedded(broker);
        };
        let unused = "has no effect: mqtt.url names another broker than the embedded one; remove one of them";
        self.warn_of_unused(&broker, unused);
        let Some((brokers, has_tls)) = self.brokers(&url.value) else { return self.embedded(broker) };
        let tls = if has_tls {
            Some(self.tls(&mqtt))
        } else {
            self.refuse(&mqtt, false, "needs TLS: write mqtts:// in mqtt.url, or remove this line");
            None
        };
        let is_anonymous = mqtt.username.is_none();
        let password =
            self.files.password_of_user(&mut self.diagnostics, mqtt.password, "mqtt", is_anonymous);
        let (BrokerAddress { host, port }, others) = brokers;
        let username = mqtt.username.map(|at| at.value);
        BrokerConfig::Outside { host, port, others, tls, username, password }
    }

    /// The first broker and the others, and whether they are used with TLS. `None` without a URL, which the reader refuses.
    fn brokers(&mut self, urls: &[Spanned<MqttUrl>]) -> Option<((BrokerAddress, Vec<BrokerAddress>), bool)> {
        let (first, others) = urls.split_first()?;
        for (n, url) in others.iter().enumerate() {
            if url.value.tls != first.value.tls {
                // A second broker without TLS would receive the password in the clear when the first one fails.
                self.fault(url.fault(format!(
                    "is {}, and {} is {}: use the same scheme for all",
                    url.value, first.key, first.value
                )));
            }
            if let Some(same) = urls[..=n].iter().find(|earlier| earlier.value.is_same_broker(&url.value)) {
                self.fault(
                    url.fault(format!("is {}, which {} is already: remove one of them", url.value, same.key)),
                );
            }
        }
        let address =
            |at: &Spanned<MqttUrl>| BrokerAddress { host: at.value.host.clone(), port: at.value.port };
        Some(((address(first), others.iter().map(address).collect()), first.value.tls))
    }

    fn awaited(&mut self, mqtt: file::Mqtt) -> BrokerConfig {
        let tls = self.tls(&mqtt);
        let is_anonymous = mqtt.username.is_none();
        let password =
            self.files.password_of_user(&mut self.diagnostics, mqtt.password, "mqtt", is_anonymous);
        BrokerConfig::Awaited { tls, username: mqtt.username.map(|at| at.value), password }
    }

    /// Warns of `[broker]`, which is not used.
    fn warn_of_unused(&mut self, broker: &file::Broker, why: &str) {
        if let Some(listen) = &broker.listen {
            self.warn(listen.fault(why));
        }
        if let Some(user) = broker.users.first() {
            self.warn(Diagnostic { place: Some(user.place), ..Diagnostic::of("broker.user", why) });
        }
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
        let file::BrokerUser { place, name, password } = written;
        let missing = |key, what: &str| Diagnostic { place: Some(place), ..Diagnostic::of(key, what) };
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
        let password = self.files.written_password(&mut self.diagnostics, password)?;
        Some(broker::User { name: name?.value, password })
    }

    /// Reports the keys that need TLS or, with `login`, an external broker.
    fn refuse(&mut self, mqtt: &file::Mqtt, login: bool, why: &str) {
        let files = [&mqtt.ca_file, &mqtt.client_cert_file, &mqtt.client_key_file];
        self.diagnostics.faults.extend(files.into_iter().flatten().map(|at| at.fault(why)));
        if login {
            self.diagnostics.faults.extend(mqtt.username.as_ref().map(|at| at.fault(why)));
            self.diagnostics.faults.extend(mqtt.password.fault(why));
        }
    }

    fn tls(&mut self, mqtt: &file::Mqtt) -> TlsOptions {
        let ca_file = mqtt.ca_file.as_ref().map(|at| self.files.readable(&mut self.diagnostics, at));
        let client = match (&mqtt.client_cert_file, &mqtt.client_key_file) {
            (Some(cert), Some(key)) => {
                let files = (
                    self.files.readable(&mut self.diagnostics, cert),
                    self.files.readable(&mut self.diagnostics, key),
                );
                self.files.guard(&mut self.diagnostics, key, &files.1, "holds a private key");
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
            self.fault(Diagnostic { place: Some(written.place), ..missing });
        }
        let keys = self.app_keys(&written.v2);
        let is_signed = keys.is_some();
        let app_type = if is_signed { AppIdentity::SIGNED_APP_TYPE } else { AppIdentity::APP_TYPE };
        let ca_file = written.v2.ca_file.as_ref().map(|at| self.files.readable(&mut self.diagnostics, at));
        let url = written.v2.url.filter(|_| is_signed).or(written.url);
        CloudConfig {
            poll_interval: or(written.poll_interval.as_ref(), RoutePolicy::default().cloud_poll_interval),
            options: cloud::CloudOptions {
                username: written.username.map(|at| at.value.expose().to_owned()).unwrap_or_default(),
                password: self.files.password(&mut self.diagnostics, written.password, "cloud.password"),
                url: url.map_or_else(|| CLOUD_URL.to_owned(), |at| at.value),
                app: AppIdentity {
                    app_type: written.app_type.map_or_else(|| app_type.to_owned(), |at| at.value),
                    version: written.app_version.map(|at| at.value),
                },
                keys,
                ca_file: ca_file.filter(|_| is_signed),
            },
        }
    }

    /// The keys of an app; both or none.
    fn app_keys(&mut self, written: &file::CloudV2) -> Option<AppKeys> {
        let access = self.app_key(written.access_key_file.as_ref(), "access_key_file", ACCESS_KEY);
        let secret = self.app_key(written.secret_key_file.as_ref(), "secret_key_file", SECRET_KEY);
        // A key that is there and cannot be read is reported already.
        let missing = |file: Option<&Spanned<PathBuf>>, key: &Option<Secret>| file.is_none() && key.is_none();
        let lacks_access = missing(written.access_key_file.as_ref(), &access);
        let lacks_secret = missing(written.secret_key_file.as_ref(), &secret);
        if lacks_access != lacks_secret {
            let (key, credential) =
                if lacks_access { ("access_key_file", ACCESS_KEY) } else { ("secret_key_file", SECRET_KEY) };
            let place =
                written.access_key_file.as_ref().or(written.secret_key_file.as_ref()).map(|at| at.place);
            let what = format!(
                "is missing: the two keys go together; add it or the credential {credential}, or remove the other key"
            );
            self.fault(Diagnostic { place, ..Diagnostic::of(format!("cloud.v2.{key}"), what) });
        }
        if lacks_access && lacks_secret {
            let unused =
                "has no effect without access_key_file and secret_key_file: add them, or remove this line";
            let lines = [
                written.ca_file.as_ref().map(|at| at.fault(unused)),
                written.url.as_ref().map(|at| at.fault(unused)),
            ];
            lines.into_iter().flatten().for_each(|line| self.warn(line));
        }
        Some(AppKeys { access_key: access?, secret_key: secret? })
    }

    /// A key in its file, else the credential.
    fn app_key(&mut self, file: Option<&Spanned<PathBuf>>, name: &str, credential: &str) -> Option<Secret> {
        let (key, named) = match file {
            Some(file) => (
                self.files.secret_file(&mut self.diagnostics, file, "holds a key"),
                format!("cloud.v2.{name}"),
            ),
            None => {
                (self.files.credential(&mut self.diagnostics, credential), format!("credential {credential}"))
            }
        };
        if key.as_ref().is_some_and(|key| !AppKeys::is_key(key)) {
            let what = "is not a key: it should hold one word of ASCII characters, without spaces and commas";
            self.fault(Diagnostic { place: file.map(|at| at.place), ..Diagnostic::of(named, what) });
        }
        key
    }

    /// The account of `[local]`, else that of `[cloud]`.
    fn lan_account(&mut self, local: file::Local, cloud: Option<&CloudConfig>) -> Option<LanAccount> {
        let is_nobody = local.username.is_none();
        let password = self.files.password_of_user(&mut self.diagnostics, local.password, "local", is_nobody);
        let cloud = cloud.map(|cloud| &cloud.options);
        let of_cloud = |username: String| LanAccount {
            username,
            password: cloud.and_then(|cloud| cloud.password.clone()),
            table: LanAccount::CLOUD,
            is_of_cloud: true,
        };
        let Some(username) = local.username.map(|at| at.value.expose().to_owned()) else {
            return cloud.map(|cloud| of_cloud(cloud.username.clone()));
        };
        let is_of_cloud = cloud.is_some_and(|cloud| is_same_account(&cloud.username, &username));
        Some(match password {
            None if is_of_cloud => of_cloud(username),
            password => LanAccount { username, password, table: LanAccount::LOCAL, is_of_cloud },
        })
    }

    fn policy(
        &mut self,
        routing: &file::Routing,
        local: &file::Local,
        cloud: Option<&CloudConfig>,
        enabled: EnabledRoutes,
    ) -> RoutePolicy {
        let default = RoutePolicy::default();
        let policy = RoutePolicy {
            preference: routing::preference(
                &mut self.diagnostics,
                routing.policy.as_ref(),
                default.preference,
                enabled,
            ),
            cloud_after: or(routing.cloud_after.as_ref(), default.cloud_after),
            command_ttl: or(routing.command_ttl.as_ref(), default.command_ttl),
            poll_interval: or(local.poll_interval.as_ref(), default.poll_interval),
            cloud_poll_interval: cloud.map_or(default.cloud_poll_interval, |cloud| cloud.poll_interval),
            energy_interval: or(local.energy_interval.as_ref(), default.energy_interval),
            local_timeout: or(local.timeout.as_ref(), default.local_timeout),
            cloud_timeout: default.cloud_timeout,
        };
        routing::check_times(&mut self.diagnostics, routing, policy, enabled);
        policy
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

    fn http(&mut self, written: file::Http) -> Option<HttpOptions> {
        let places = [written.token.place(), written.read_token.place()];
        let token = self.files.password(&mut self.diagnostics, written.token, "http.token");
        let read_token = self.files.password(&mut self.diagnostics, written.read_token, "http.read_token");
        if !or(written.enabled.as_ref(), true) {
            return None;
        }
        self.check_token("http.token", places[0], token.as_ref());
        self.check_token("http.read_token", places[1], read_token.as_ref());
        // One that cannot be read is a fault of its own.
        let has_token = token.is_some() || places[0].is_some();
        let listen = written.listen.as_ref().map_or(Listen::Tcp(HTTP_LISTEN), |at| at.value.clone());
        if let (false, false, Some(at)) = (listen.is_on_this_machine(), has_token, &written.listen) {
            self.fault(at.fault(format!(
                "must be a loopback address or a Unix socket while there is no token, or everybody on the network could \
                 switch the plugs: add token_file = \"/etc/hs100d/http.token\" (make the file with `openssl rand -hex 16`), \
                 or write \"127.0.0.1:8100\" (is \"{listen}\")"
            )));
        }
        let simple_get = or(written.simple_get.as_ref(), false);
        if let (true, false, Some(at)) = (simple_get, has_token, &written.simple_get) {
            self.fault(
                at.fault("needs a token, which is in the URL: add http.token_file, or set it to false"),
            );
        }
        if read_token.is_some() && !has_token {
            let what = "has no effect without http.token: add that one as well";
            self.fault(Diagnostic { place: places[1], ..Diagnostic::of("http.read_token", what) });
        }
        let allowed_hosts = written.allowed_hosts.map(|at| at.value).unwrap_or_default();
        Some(HttpOptions { listen, only_from: None, token, read_token, allowed_hosts, simple_get })
    }

    fn check_token(&mut self, key: &str, place: Option<Place>, token: Option<&Secret>) {
        if token.is_some_and(|token| token.expose().chars().count() < LEAST_TOKEN) {
            let what = format!(
                "is shorter than {LEAST_TOKEN} characters and can be guessed: make one with `openssl rand -hex 16`"
            );
            self.fault(Diagnostic { place, ..Diagnostic::of(key, what) });
        }
    }

    /// Warns if there is no `[[plug]]` and no other way to find one.
    fn warn_of_no_plugs(&mut self, written: &file::Discovery, enabled: EnabledRoutes) {
        let unwanted = |at: &&Spanned<bool>| !at.value;
        if let Some(adopt) = written.adopt.as_ref().filter(unwanted) {
            self.warn(adopt.fault("is false and there is no [[plug]]: no plug will be served; add one"));
        } else if let (false, Some(lan)) = (enabled.cloud, written.lan.as_ref().filter(unwanted)) {
            self.warn(lan.fault(
                "is false and there is neither [cloud] nor [[plug]]: no plug will be served; add one of them",
            ));
        }
    }
}

/// Whether two spellings are of one account: the cloud ignores the case of an e-mail address.
fn is_same_account(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}
