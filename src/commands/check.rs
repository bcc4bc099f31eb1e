//! `check`: checks the config and prints what the daemon would do, in words or as JSON. Switches nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::app::AppFiles;
use super::doctor;
use super::doctor::report::Report;
use super::installation::Installation;
use super::progress::Progress;
use super::{Context, Exit, Failed, say};
use crate::bridge::PlugSettings;
use crate::bridge::route::{RoutePolicy, RoutePreference};
use crate::config::{BrokerConfig, CloudConfig, Config, Diagnostic, Invalid};
use crate::daemon::lan_login::LanLogin;
use crate::duration::show;
use crate::http::HttpOptions;
use crate::mqtt::BrokerAddress;
use crate::mqtt::homeassistant::{DocumentForm, HomeAssistantOptions};
use crate::secret::shortened;
use crate::store::{self, HashFile, Store, TokenFile};

/// Ours.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// For a user who may not see how the service logs in.
const AS_THE_SERVICE: &str = "as the service does";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also try the broker, the cloud account and each plug, and print the likely cause of each failure; with -v each try
    #[arg(long)]
    pub(super) online: bool,

    /// Print one JSON document: for the inventory of a fleet
    #[arg(long)]
    pub(super) json: bool,
}

/// Checks the config.
///
/// # Errors
/// Every mistake in the config; with `--online`, that something does not work.
pub(super) async fn run(args: Args, context: &Context) -> Result<(), Failed> {
    let installation = match Installation::of(context) {
        Ok(installation) => installation,
        Err(invalid) if args.json => {
            say(&json(&Mistakes::of(&invalid, context))?)?;
            return Err(invalid.into());
        }
        Err(invalid) => return Err(invalid.into()),
    };
    if let Some(failed) = installation.out_of_reach().filter(|_| args.online) {
        return Err(failed);
    }
    let Installation { config, state_dir, config_path, options, .. } = &installation;
    let mut plan = CheckPlan::of(config, config_path.path(), state_dir);
    plan.options = options.as_deref();
    if let Some(locked_note) = installation.locked_note() {
        plan.warn(locked_note);
        if let Some(cloud) = &mut plan.cloud {
            cloud.login = AS_THE_SERVICE;
        }
        if let Some(local) = &mut plan.local {
            local.klap.login = AS_THE_SERVICE.to_owned();
        }
    }
    if !args.json {
        say(&plan.to_string())?;
    }
    if args.online {
        let mut progress = Progress::on_stderr(&context.environment);
        progress.show("Trying the broker, the account and each plug …");
        plan.online = Some(doctor::examine(config, state_dir).await?);
    }
    if args.json {
        say(&json(&plan)?)?;
    } else if let Some(report) = &plan.online {
        say(&report.in_words(context.is_verbose))?;
    }
    plan.online.as_ref().map_or(Ok(()), Report::verdict)
}

/// What the daemon would do, as it is printed.
#[derive(Debug, Serialize)]
struct CheckPlan<'a> {
    valid: bool,
    version: &'static str,
    config: Option<&'a Path>,
    /// Those of the Home Assistant app, which are laid over the config.
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<&'a Path>,
    state_dir: &'a Path,
    /// `None` before the first start, if the config has none.
    instance: Option<String>,
    client_id: String,
    base_topic: &'a str,
    /// In the order in which they are tried.
    brokers: Vec<BrokerPlan>,
    homeassistant: HomeAssistantPlan<'a>,
    local: Option<LocalPlan>,
    discovery: Option<DiscoveryPlan>,
    cloud: Option<CloudPlan>,
    routing: RoutingPlan,
    adopt: bool,
    http: Option<HttpPlan>,
    plugs: Vec<PlugPlan>,
    warnings: Vec<Remark>,
    /// The same in words.
    #[serde(skip)]
    warning_lines: Vec<String>,
    /// The result of `--online`.
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<Report>,
}

/// What is printed instead of a plan.
#[derive(Debug, Serialize)]
struct Mistakes {
    valid: bool,
    version: &'static str,
    config: Option<PathBuf>,
    errors: Vec<Remark>,
}

/// A mistake or a warning.
#[derive(Debug, Serialize)]
struct Remark {
    key: Option<String>,
    line: Option<usize>,
    text: String,
}

#[derive(Debug, Clone, Serialize)]
struct BrokerPlan {
    embedded: bool,
    /// `None`: the Supervisor will name it.
    host: Option<String>,
    port: Option<u16>,
    tls: bool,
    username: Option<String>,
    password: bool,
}

#[derive(Debug, Serialize)]
struct HomeAssistantPlan<'a> {
    discovery: &'static str,
    discovery_prefix: &'a str,
    status_topic: &'a str,
}

#[derive(Debug, Serialize)]
struct LocalPlan {
    port: u16,
    timeout: String,
    klap: KlapPlan,
}

/// The account for plugs that speak KLAP.
#[derive(Debug, Serialize)]
struct KlapPlan {
    account: Option<String>,
    login: String,
}

#[derive(Debug, Serialize)]
struct DiscoveryPlan {
    interval: String,
    broadcast: Vec<String>,
}

#[derive(Debug, Serialize)]
struct CloudPlan {
    account: String,
    url: String,
    /// Only if it is not the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'static str>,
    login: &'static str,
    poll_interval: String,
}

#[derive(Debug, Serialize)]
struct RoutingPlan {
    policy: &'static str,
    cloud_after: String,
    command_ttl: String,
    poll_interval: String,
    energy_interval: String,
}

/// The status page, the API and the metrics.
#[derive(Debug, Serialize)]
struct HttpPlan {
    listen: String,
    token: bool,
    read_token: bool,
    allowed_hosts: Vec<Box<str>>,
    simple_get: bool,
}

#[derive(Debug, Serialize)]
struct PlugPlan {
    name: Option<String>,
    device_id: Option<String>,
    mac: Option<String>,
    host: Option<String>,
    routing: RoutingPlan,
}

impl<'a> CheckPlan<'a> {
    fn of(config: &'a Config, path: Option<&'a Path>, state_dir: &'a Path) -> Self {
        let instance = config.instance.clone().or_else(|| Store::instance_in(state_dir));
        let known = instance.as_deref().unwrap_or("<instance>");
        let mut plan = Self {
            valid: true,
            version: VERSION,
            config: path,
            options: None,
            state_dir,
            client_id: config.client_id.clone().unwrap_or_else(|| format!("hs100d-{known}")),
            instance: instance.clone(),
            base_topic: &config.base_topic,
            brokers: BrokerPlan::all(config, instance.as_deref()),
            homeassistant: HomeAssistantPlan::of(&config.homeassistant),
            local: config.local.enabled.then(|| LocalPlan {
                port: config.local.port,
                timeout: show(config.bridge.policy.local_timeout),
                klap: KlapPlan::of(&LanLogin::look(config, &HashFile::of(state_dir))),
            }),
            discovery: config.discovery.as_ref().map(|discovery| DiscoveryPlan {
                interval: show(discovery.interval),
                broadcast: discovery.broadcast.iter().map(ToString::to_string).collect(),
            }),
            cloud: config.cloud.as_ref().map(|cloud| CloudPlan::of(cloud, &TokenFile::of(state_dir))),
            routing: RoutingPlan::of(config.bridge.policy),
            adopt: config.bridge.adopt,
            http: config.http.as_ref().map(HttpPlan::of),
            plugs: config.bridge.plugs.iter().map(PlugPlan::of).collect(),
            warnings: Remark::all(config, path),
            warning_lines: config.warnings.clone(),
            online: None,
        };
        store::exposure(state_dir).into_iter().for_each(|line| plan.warn(line));
        plan
    }

    /// Warns of something else than the config.
    fn warn(&mut self, line: String) {
        self.warnings.push(Remark::of_line(&line));
        self.warning_lines.push(line);
    }
}

impl fmt::Display for CheckPlan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.config {
            Some(path) => writeln!(f, "config     {}", path.display())?,
            None => writeln!(f, "config     none: built-in defaults")?,
        }
        if let Some(options) = self.options {
            writeln!(f, "options    {}", options.display())?;
        }
        writeln!(f, "state      {}", self.state_dir.display())?;
        writeln!(f, "broker     {}", BrokerPlan::in_words(&self.brokers))?;
        writeln!(f, "topics     {}/<plug>/…, as client {}", self.base_topic, self.client_id)?;
        match self.homeassistant.discovery {
            "off" => writeln!(f, "documents  none for Home Assistant")?,
            form => writeln!(f, "documents  {form} by {form}, for Home Assistant")?,
        }
        match &self.local {
            Some(local) => {
                writeln!(f, "LAN        port {}, at most {} per exchange", local.port, local.timeout)?;
                writeln!(f, "KLAP       {}", local.klap)?;
            }
            None => writeln!(f, "LAN        not used")?,
        }
        match &self.discovery {
            Some(discovery) => writeln!(f, "search     {discovery}")?,
            None => writeln!(f, "search     none")?,
        }
        match &self.cloud {
            Some(cloud) => writeln!(f, "cloud      {cloud}")?,
            None => writeln!(f, "cloud      not used")?,
        }
        writeln!(f, "routing    {}", self.routing)?;
        match &self.http {
            Some(http) => writeln!(f, "HTTP       {http}")?,
            None => writeln!(f, "HTTP       not used")?,
        }
        writeln!(f, "plugs      {}", if self.adopt { "all that are found" } else { "only those below" })?;
        self.plugs.iter().try_for_each(|plug| writeln!(f, "  {plug}"))?;
        self.warning_lines.iter().try_for_each(|line| writeln!(f, "warning: {line}"))?;
        writeln!(f, "The config is valid.")
    }
}

impl Mistakes {
    fn of(invalid: &Invalid, context: &Context) -> Self {
        let path = AppFiles::around(context).map_or_else(|| context.config_path(), |app| app.config_path);
        let path = path.path();
        let of_config = invalid.diagnostics.iter().map(|part| Remark::of(part, path));
        let of_options = invalid.lines.iter().filter(|_| invalid.diagnostics.is_empty());
        Self {
            valid: false,
            version: VERSION,
            config: path.map(Path::to_owned),
            errors: of_config.chain(of_options.map(|line| Remark::of_line(line))).collect(),
        }
    }
}

impl Remark {
    fn all(config: &Config, path: Option<&Path>) -> Vec<Self> {
        let of_others = config.warnings.len().saturating_sub(config.diagnostics.len());
        let of_others = config.warnings[..of_others].iter().map(|line| Self::of_line(line));
        of_others.chain(config.diagnostics.iter().map(|part| Self::of(part, path))).collect()
    }

    /// One about the file itself names it.
    fn of(part: &Diagnostic, path: Option<&Path>) -> Self {
        let key = part.key();
        let text = match path.filter(|_| key.is_none()) {
            Some(path) => format!("{}: {}", path.display(), part.text()),
            None => part.text().to_owned(),
        };
        Self { key, line: part.line(), text }
    }

    /// Of something else than the config.
    fn of_line(line: &str) -> Self {
        Self { key: None, line: None, text: line.to_owned() }
    }
}

impl<'a> HomeAssistantPlan<'a> {
    fn of(options: &'a HomeAssistantOptions) -> Self {
        Self {
            discovery: match options.discovery {
                DocumentForm::Device => "device",
                DocumentForm::Component => "component",
                DocumentForm::Off => "off",
            },
            discovery_prefix: &options.discovery_prefix,
            status_topic: &options.status_topic,
        }
    }
}

impl BrokerPlan {
    /// In the order in which they are tried, which depends on the instance; before there is one, in that of the config.
    fn all(config: &Config, instance: Option<&str>) -> Vec<Self> {
        match &config.broker {
            BrokerConfig::Embedded { listen, users } => vec![Self {
                embedded: true,
                host: Some(listen.ip().to_string()),
                port: Some(listen.port()),
                tls: false,
                username: users.first().map(|user| user.name.clone()),
                password: !users.is_empty(),
            }],
            BrokerConfig::Awaited { username, password, .. } => vec![Self {
                embedded: false,
                host: None,
                port: None,
                tls: false,
                username: username.clone(),
                password: password.is_some(),
            }],
            BrokerConfig::Outside { host, port, others, tls, username, password } => {
                let mut brokers = vec![BrokerAddress { host: host.clone(), port: *port }];
                brokers.extend_from_slice(others);
                if let Some(instance) = instance {
                    BrokerAddress::sort(&mut brokers, instance);
                }
                let plan = |BrokerAddress { host, port }| Self {
                    embedded: false,
                    host: Some(host),
                    port: Some(port),
                    tls: tls.is_some(),
                    username: username.clone(),
                    password: password.is_some(),
                };
                brokers.into_iter().map(plan).collect()
            }
        }
    }

    /// The login is the same for all of them.
    fn in_words(all: &[Self]) -> String {
        let addresses: Option<Vec<_>> = all.iter().map(Self::address).collect();
        let (Some(addresses), Some(first)) = (addresses, all.first()) else {
            return "as the Supervisor names it".to_owned();
        };
        let addresses = addresses.join(" or ");
        match (&first.username, first.password) {
            (Some(user), _) if first.embedded => format!("{addresses}, for its users only, as {user}"),
            (None, _) if first.embedded => addresses,
            (Some(user), true) => format!("{addresses} as {user}, with a password"),
            (Some(user), false) => format!("{addresses} as {user}, without a password"),
            (None, _) => format!("{addresses} without a login"),
        }
    }

    fn address(&self) -> Option<String> {
        let address = BrokerAddress { host: self.host.clone()?, port: self.port? };
        Some(match (self.embedded, self.tls) {
            (true, _) => format!("embedded, on {address}"),
            (false, true) => format!("mqtts://{address}"),
            (false, false) => format!("mqtt://{address}"),
        })
    }
}

impl fmt::Display for DiscoveryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to =
            if self.broadcast.is_empty() { "every network".to_owned() } else { self.broadcast.join(", ") };
        write!(f, "a broadcast to {to} every {}", self.interval)
    }
}

impl KlapPlan {
    fn of(login: &LanLogin) -> Self {
        Self { account: login.username().map(shortened), login: login.in_words() }
    }
}

impl fmt::Display for KlapPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.account {
            Some(account) => write!(f, "{account}, {}", self.login),
            None => f.write_str(&self.login),
        }
    }
}

impl CloudPlan {
    fn of(cloud: &CloudConfig, tokens: &TokenFile) -> Self {
        Self {
            account: shortened(&cloud.options.username),
            url: cloud.options.url.clone(),
            interface: cloud.options.keys.is_some().then_some("second"),
            login: match (cloud.options.password.is_some(), tokens.is_there()) {
                (true, _) => "with a password",
                (false, true) => "with the token of an earlier login",
                (false, false) => "not yet: run `hs100d cloud login`",
            },
            poll_interval: show(cloud.poll_interval),
        }
    }
}

impl fmt::Display for CloudPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, url, interface, login, poll_interval } = self;
        let interface = if interface.is_some() { ", by the second interface" } else { "" };
        write!(
            f,
            "{account} at {url}{interface}, {login}; plugs that the LAN does not reach are read every {poll_interval}"
        )
    }
}

impl RoutingPlan {
    fn of(policy: RoutePolicy) -> Self {
        Self {
            policy: match policy.preference {
                RoutePreference::LocalThenCloud => "local-then-cloud",
                RoutePreference::Local => "local",
                RoutePreference::Cloud => "cloud",
            },
            cloud_after: show(policy.cloud_after),
            command_ttl: show(policy.command_ttl),
            poll_interval: show(policy.poll_interval),
            energy_interval: show(policy.energy_interval),
        }
    }
}

impl fmt::Display for RoutingPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, cloud_after, command_ttl, poll_interval, energy_interval } = self;
        write!(f, "{policy}, cloud after {cloud_after}, commands valid for {command_ttl}, ")?;
        write!(f, "read every {poll_interval}, meters every {energy_interval}")
    }
}

impl HttpPlan {
    fn of(http: &HttpOptions) -> Self {
        Self {
            listen: http.listen.to_string(),
            token: http.token.is_some(),
            read_token: http.read_token.is_some(),
            allowed_hosts: http.allowed_hosts.clone(),
            simple_get: http.simple_get,
        }
    }
}

impl fmt::Display for HttpPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, token, read_token, allowed_hosts, simple_get } = self;
        write!(
            f,
            "status page, API and metrics at {listen}, with{} a token",
            if *token { "" } else { "out" }
        )?;
        if *read_token {
            f.write_str(", and one that may only look")?;
        }
        if !allowed_hosts.is_empty() {
            write!(f, ", as {}", allowed_hosts.join(", "))?;
        }
        if *simple_get { f.write_str(", GET may switch") } else { Ok(()) }
    }
}

impl PlugPlan {
    fn of(plug: &PlugSettings) -> Self {
        Self {
            name: plug.name.as_ref().map(ToString::to_string),
            // Shortened, because people copy this into bug reports.
            device_id: plug.identity.device_id.as_ref().map(ToString::to_string),
            mac: plug.identity.mac.map(|mac| mac.to_string()),
            host: plug.address.as_ref().map(ToString::to_string),
            routing: RoutingPlan::of(plug.policy),
        }
    }
}

impl fmt::Display for PlugPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_deref().unwrap_or("(named by its alias)"))?;
        let parts = [("id", &self.device_id), ("mac", &self.mac), ("at", &self.host)];
        for (what, value) in parts.into_iter().filter_map(|(what, value)| Some((what, value.as_ref()?))) {
            write!(f, "  {what} {value}")?;
        }
        write!(f, "  {}", self.routing)
    }
}

fn json(value: &impl Serialize) -> Result<String, Failed> {
    let bug = |error| Failed::new(Exit::Bug, format!("check: {error}: please report it"));
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(bug)
}
