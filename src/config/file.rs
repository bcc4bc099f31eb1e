//! The TOML as written: every key that exists, each value checked by itself (type, unit, range, form). Its types are always
//! named with their module: `file::Broker`.
//!
//! [`super::validate`] checks the values together and sets the defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Place, Spanned, quoted};
use super::overlay::Overlay;
use super::placeholders::Placeholders;
use super::reader::{self, TableReader};
use super::unknown_keys::KnownKeys;
use super::url::MqttUrl;
use super::usual_guesses::suggest;
use crate::bridge::route::RoutePreference;
use crate::http::Listen;
use crate::model::{DeviceId, Mac, PlugName};
use crate::mqtt::homeassistant::DocumentForm;
use crate::mqtt::topics;
use crate::secret::Secret;
use crate::transport::cloud::host::{BadHost, check_host};

/// A range of durations.
type Span = RangeInclusive<Duration>;

/// More often would load the network; less often would find nothing in a day.
const DISCOVERY_INTERVAL: Span = seconds(5, 86_400);
/// A plug answers in 20 ms to 500 ms; one that needs 30 s is gone.
const LOCAL_TIMEOUT: Span = milliseconds(100, 30_000);
/// Plugs stall if they are polled more often than once a second.
const POLL_INTERVAL: Span = seconds(1, 3_600);
/// As for polls, but reading a meter once a day still makes sense.
const ENERGY_INTERVAL: Span = seconds(1, 86_400);
/// The cloud limits all plugs of an account together, so these polls are rare.
const CLOUD_POLL_INTERVAL: Span = seconds(5, 86_400);
/// Below 50 ms each command would use both routes; above 30 s the LAN has timed out long before.
const CLOUD_AFTER: Span = milliseconds(50, 30_000);
/// A heater that switches more than ten minutes after the command is a danger.
const COMMAND_TTL: Span = seconds(1, 600);
/// The session, which holds the will back, ends after ten seconds.
const WILL_DELAY: Span = seconds(0, 10);
/// The longest client id, in characters. Brokers differ in what they accept beyond.
const NAME_LEN: usize = 128;
/// The longest instance; a host name has at most 63 characters.
const INSTANCE_LEN: usize = 64;
/// The longest name or version of an app; those of TP-Link's apps have 20 characters.
const APP_LEN: usize = 64;
/// The most broadcast addresses; more than a home has networks.
const BROADCASTS: usize = 64;
/// The most brokers; more than a cluster has nodes.
const MOST_BROKERS: usize = 16;
/// The most names that a browser may use for this machine.
const ALLOWED_HOSTS: usize = 64;

/// The values of `policy` and `route`.
const POLICIES: [(&str, RoutePreference); 3] = [
    ("local-then-cloud", RoutePreference::LocalThenCloud),
    ("local", RoutePreference::Local),
    ("cloud", RoutePreference::Cloud),
];
/// The values of `homeassistant.discovery`.
const DOCUMENTS: [(&str, DocumentForm); 3] =
    [("device", DocumentForm::Device), ("component", DocumentForm::Component), ("off", DocumentForm::Off)];

/// The whole file. A key that is not in the file is `None`.
#[derive(Debug)]
pub(super) struct File {
    pub(super) mqtt: Mqtt,
    pub(super) broker: Broker,
    pub(super) homeassistant: HomeAssistant,
    pub(super) discovery: Discovery,
    pub(super) local: Local,
    pub(super) cloud: Option<Cloud>,
    pub(super) routing: Routing,
    pub(super) http: Http,
    pub(super) plugs: Vec<Plug>,
}

impl File {
    /// Parses the text of a config file, with these values laid over it.
    ///
    /// # Errors
    /// All faults, in the order of the file.
    pub(super) fn read(
        text: &str,
        overlay: &Overlay,
        placeholders: &Rc<Placeholders>,
    ) -> Result<Self, Vec<Diagnostic>> {
        reader::document(text, overlay, placeholders, suggest, Self::take).map(|(file, _)| file)
    }

    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self {
            mqtt: t.table("mqtt", Mqtt::take).unwrap_or_default(),
            broker: t.table("broker", Broker::take).unwrap_or_default(),
            homeassistant: t.table("homeassistant", HomeAssistant::take).unwrap_or_default(),
            discovery: t.table("discovery", Discovery::take).unwrap_or_default(),
            local: t.table("local", Local::take).unwrap_or_default(),
            cloud: t.table("cloud", Cloud::take),
            routing: t.table("routing", Routing::take).unwrap_or_default(),
            http: t.table("http", Http::take).unwrap_or_default(),
            plugs: t.tables("plug", "plug", Plug::take),
        }
    }
}

/// Every key that exists.
pub(super) fn known() -> KnownKeys {
    let placeholders = Rc::default();
    reader::document("", &Overlay::default(), &placeholders, suggest, File::take)
        .map(|(_, known)| known)
        .unwrap_or_default()
}

/// `[mqtt]`
#[derive(Debug, Default)]
pub(super) struct Mqtt {
    /// At least one.
    pub(super) url: Option<Spanned<Vec<Spanned<MqttUrl>>>>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) password: Password,
    pub(super) instance: Option<Spanned<String>>,
    pub(super) client_id: Option<Spanned<String>>,
    pub(super) base_topic: Option<Spanned<String>>,
    pub(super) will_delay: Option<Spanned<Duration>>,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
    pub(super) client_cert_file: Option<Spanned<PathBuf>>,
    pub(super) client_key_file: Option<Spanned<PathBuf>>,
}

impl Mqtt {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self {
            url: t.one_or_more("url", MOST_BROKERS, MqttUrl::read),
            username: t.text("username"),
            password: Password::take(t),
            instance: t.parsed("instance", instance),
            client_id: t.parsed("client_id", client_id),
            base_topic: t.parsed("base_topic", topic),
            will_delay: t.duration("will_delay", WILL_DELAY),
            ca_file: t.parsed("ca_file", path),
            client_cert_file: t.parsed("client_cert_file", path),
            client_key_file: t.parsed("client_key_file", path),
        }
    }
}

/// A password or a token, in the file or in one of its own.
#[derive(Debug, Default)]
pub(super) struct Password {
    pub(super) text: Option<Spanned<Secret>>,
    pub(super) file: Option<Spanned<PathBuf>>,
}

impl Password {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self::take_named(t, "password", "password_file")
    }

    fn take_named(t: &mut TableReader<'_, '_>, text: &'static str, file: &'static str) -> Self {
        Self { text: t.secret(text), file: t.parsed(file, path) }
    }

    /// Its place, if it is in the file.
    pub(super) fn place(&self) -> Option<Place> {
        self.text.as_ref().map(|at| at.place).or(self.file.as_ref().map(|at| at.place))
    }

    /// A fault of the one that is in the file.
    pub(super) fn fault(&self, what: &str) -> Option<Diagnostic> {
        let text = self.text.as_ref().map(|at| at.fault(what));
        text.or_else(|| self.file.as_ref().map(|at| at.fault(what)))
    }
}

/// `[broker]`
#[derive(Debug, Default)]
pub(super) struct Broker {
    pub(super) listen: Option<Spanned<SocketAddr>>,
    pub(super) users: Vec<BrokerUser>,
}

impl Broker {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self { listen: t.parsed("listen", listen), users: t.tables("user", "broker.user", BrokerUser::take) }
    }
}

/// `[[broker.user]]`
#[derive(Debug)]
pub(super) struct BrokerUser {
    pub(super) place: Place,
    pub(super) name: Option<Spanned<String>>,
    pub(super) password: Password,
}

impl BrokerUser {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self { place: t.place(), name: t.text("name"), password: Password::take(t) }
    }
}

/// `[homeassistant]`
#[derive(Debug, Default)]
pub(super) struct HomeAssistant {
    pub(super) discovery: Option<Spanned<DocumentForm>>,
    pub(super) discovery_prefix: Option<Spanned<String>>,
    pub(super) status_topic: Option<Spanned<String>>,
}

impl HomeAssistant {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self {
            discovery: t.word("discovery", &DOCUMENTS),
            discovery_prefix: t.parsed("discovery_prefix", topic),
            status_topic: t.parsed("status_topic", topic),
        }
    }
}

/// `[discovery]`
#[derive(Debug, Default)]
pub(super) struct Discovery {
    pub(super) lan: Option<Spanned<bool>>,
    pub(super) adopt: Option<Spanned<bool>>,
    pub(super) interval: Option<Spanned<Duration>>,
    pub(super) broadcast: Option<Spanned<Vec<Ipv4Addr>>>,
}

impl Discovery {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self {
            lan: t.flag("lan"),
            adopt: t.flag("adopt"),
            interval: t.duration("interval", DISCOVERY_INTERVAL),
            broadcast: t.list("broadcast", BROADCASTS, broadcast),
        }
    }
}

/// `[local]`
#[derive(Debug, Default)]
pub(super) struct Local {
    pub(super) enabled: Option<Spanned<bool>>,
    pub(super) port: Option<Spanned<u16>>,
    pub(super) timeout: Option<Spanned<Duration>>,
    pub(super) poll_interval: Option<Spanned<Duration>>,
    pub(super) energy_interval: Option<Spanned<Duration>>,
    pub(super) username: Option<Spanned<Secret>>,
    pub(super) password: Password,
}

impl Local {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self {
            enabled: t.flag("enabled"),
            port: t.port("port"),
            timeout: t.duration("timeout", LOCAL_TIMEOUT),
            poll_interval: t.duration("poll_interval", POLL_INTERVAL),
            energy_interval: t.duration("energy_interval", ENERGY_INTERVAL),
            username: t.unquoted("username"),
            password: Password::take(t),
        }
    }
}

/// `[cloud]`
#[derive(Debug)]
pub(super) struct Cloud {
    pub(super) place: Place,
    pub(super) username: Option<Spanned<Secret>>,
    pub(super) password: Password,
    pub(super) url: Option<Spanned<String>>,
    pub(super) app_type: Option<Spanned<String>>,
    pub(super) app_version: Option<Spanned<String>>,
    pub(super) v2: CloudV2,
    pub(super) poll_interval: Option<Spanned<Duration>>,
}

impl Cloud {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self {
            place: t.place(),
            username: t.unquoted("username"),
            password: Password::take(t),
            url: t.parsed("url", cloud_url),
            app_type: t.parsed("app_type", app_word),
            app_version: t.parsed("app_version", app_word),
            v2: t.table_within("v2", "cloud.v2", CloudV2::take).unwrap_or_default(),
            poll_interval: t.duration("poll_interval", CLOUD_POLL_INTERVAL),
        }
    }
}

/// `[cloud.v2]`
#[derive(Debug, Default)]
pub(super) struct CloudV2 {
    pub(super) access_key_file: Option<Spanned<PathBuf>>,
    pub(super) secret_key_file: Option<Spanned<PathBuf>>,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
    pub(super) url: Option<Spanned<String>>,
}

impl CloudV2 {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self {
            access_key_file: t.parsed("access_key_file", path),
            secret_key_file: t.parsed("secret_key_file", path),
            ca_file: t.parsed("ca_file", path),
            url: t.parsed("url", cloud_url),
        }
    }
}

/// `[routing]`, and the same keys in a `[[plug]]`.
#[derive(Debug, Default)]
pub(super) struct Routing {
    pub(super) policy: Option<Spanned<RoutePreference>>,
    pub(super) cloud_after: Option<Spanned<Duration>>,
    pub(super) command_ttl: Option<Spanned<Duration>>,
}

impl Routing {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self {
            policy: t.word("policy", &POLICIES),
            cloud_after: t.duration("cloud_after", CLOUD_AFTER),
            command_ttl: t.duration("command_ttl", COMMAND_TTL),
        }
    }
}

/// `[http]`
#[derive(Debug, Default)]
pub(super) struct Http {
    pub(super) enabled: Option<Spanned<bool>>,
    pub(super) listen: Option<Spanned<Listen>>,
    pub(super) token: Password,
    pub(super) read_token: Password,
    pub(super) allowed_hosts: Option<Spanned<Vec<Box<str>>>>,
    pub(super) simple_get: Option<Spanned<bool>>,
}

impl Http {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self {
            enabled: t.flag("enabled"),
            listen: t.parsed("listen", http_listen),
            token: Password::take_named(t, "token", "token_file"),
            read_token: Password::take_named(t, "read_token", "read_token_file"),
            allowed_hosts: t.list("allowed_hosts", ALLOWED_HOSTS, host_name),
            simple_get: t.flag("simple_get"),
        }
    }
}

/// `[[plug]]`
#[derive(Debug)]
pub(super) struct Plug {
    pub(super) place: Place,
    pub(super) name: Option<Spanned<PlugName>>,
    pub(super) device_id: Option<Spanned<DeviceId>>,
    pub(super) mac: Option<Spanned<Mac>>,
    pub(super) host: Option<Spanned<String>>,
    /// The policy of this plug; `policy` is accepted as well.
    pub(super) route: Option<Spanned<RoutePreference>>,
    pub(super) routing: Routing,
    pub(super) poll_interval: Option<Spanned<Duration>>,
    pub(super) energy_interval: Option<Spanned<Duration>>,
}

impl Plug {
    fn take(t: &mut TableReader<'_, '_>) -> Self {
        Self {
            place: t.place(),
            name: t
                .parsed("name", |text| PlugName::new(text).map_err(|bad| format!("{} {bad}", quoted(text)))),
            device_id: t.parsed("device_id", device_id),
            mac: t.parsed("mac", mac),
            host: t.text("host"),
            route: t.word("route", &POLICIES),
            routing: Routing::take(t),
            poll_interval: t.duration("poll_interval", POLL_INTERVAL),
            energy_interval: t.duration("energy_interval", ENERGY_INTERVAL),
        }
    }
}

fn cloud_url(text: &str) -> Result<String, String> {
    check_host(text).map(|host| host.to_string()).map_err(|bad| match bad {
        BadHost::UserInfo => format!("{bad}: move them to cloud.username and cloud.password"),
        _ => bad.to_string(),
    })
}

/// The name or the version of an app, as the cloud's own apps have them.
fn app_word(text: &str) -> Result<String, String> {
    let is_app_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if text.len() > APP_LEN || !text.bytes().all(is_app_byte) {
        return Err(format!(
            "may hold letters, digits, \".\", \"-\" and \"_\", at most {APP_LEN} (is {})",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

/// A part of the client id and of Home Assistant's ids, in which these characters are distinct.
fn instance(text: &str) -> Result<String, String> {
    let is_id_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if text.len() > INSTANCE_LEN || !text.bytes().all(is_id_byte) {
        return Err(format!(
            "may hold letters, digits, - and _, at most {INSTANCE_LEN}: write it like \"north\" (is {})",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

fn client_id(text: &str) -> Result<String, String> {
    if text.chars().count() > NAME_LEN || text.chars().any(char::is_control) {
        return Err(format!("must be 1 to {NAME_LEN} characters, none of them a control character"));
    }
    Ok(text.to_owned())
}

/// A topic or its first levels.
fn topic(text: &str) -> Result<String, String> {
    match topics::check_base(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(why) => Err(format!("{why}: write it like \"hs100d\" or \"home/plugs\" (is {})", quoted(text))),
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') {
        return Err("holds a NUL character: write a path".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("must be an address and a port, like \"127.0.0.1:1883\" (is {})", quoted(text)))
}

fn http_listen(text: &str) -> Result<Listen, String> {
    let fault = |what: &str| {
        // Before an @ there may be a password.
        let shown = if text.contains('@') { "has an @".to_owned() } else { format!("is {}", quoted(text)) };
        Err(format!("must {what} ({shown})"))
    };
    match text.strip_prefix(Listen::UNIX).map(PathBuf::from) {
        Some(path) if path.is_absolute() => Ok(Listen::Unix(path)),
        Some(_) => fault("have the whole path of the socket, like \"unix:/run/hs100d/http.sock\""),
        None => text.parse().map(Listen::Tcp).or_else(|_| {
            fault("be an address and a port, like \"127.0.0.1:8100\", or a socket, like \"unix:/run/hs100d/http.sock\"")
        }),
    }
}

/// A name as a browser sends it in `Host`, without the port.
fn host_name(text: &str) -> Result<Box<str>, String> {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if text.is_empty() || !text.bytes().all(is_name_byte) {
        return Err(format!("must hold names without a port, like \"hs100d.lan\" (holds {})", quoted(text)));
    }
    Ok(text.trim_end_matches('.').to_ascii_lowercase().into())
}

fn broadcast(text: &str) -> Result<Ipv4Addr, String> {
    let address = text.parse::<Ipv4Addr>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
    address.ok_or_else(|| format!("must hold IPv4 addresses like \"192.168.7.255\" (holds {})", quoted(text)))
}

fn device_id(text: &str) -> Result<DeviceId, String> {
    DeviceId::new(text)
        .ok_or_else(|| "must be hexadecimal digits, as `hs100d discover` shows them, 40 as a rule".to_owned())
}

fn mac(text: &str) -> Result<Mac, String> {
    Mac::new(text).ok_or_else(|| format!("must be written like \"50:C7:BF:01:02:03\" (is {})", quoted(text)))
}

const fn seconds(least: u64, most: u64) -> Span {
    RangeInclusive::new(Duration::from_secs(least), Duration::from_secs(most))
}

const fn milliseconds(least: u64, most: u64) -> Span {
    RangeInclusive::new(Duration::from_millis(least), Duration::from_millis(most))
}
