//! Shows how the sites of a fleet are, a line each, from what every hs100d keeps at the broker. To copy from: it uses nothing of
//! the library.
//!
//! ```text
//! cargo run --example fleet_health -- mqtt://127.0.0.1 --sites plugs/+           once, from what the broker retains
//! cargo run --example fleet_health -- mqtts://broker.example.com --sites plugs/+ --watch
//! ```
//!
//! FLEET_USER and FLEET_PASSWORD in the environment are the login. It may read `plugs/+/bridge/state`, `plugs/+/bridge/info` and
//! `plugs/+/+/state`, and needs to write nothing. The exit code is 1 if a site needs somebody.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use humantime::format_rfc3339_seconds;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, Transport};
use serde::Deserialize;

/// What the broker retains has come when it has been silent for this long.
const SETTLED: Duration = Duration::from_secs(1);
/// How long one table may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Before the next attempt to reach the broker.
const AGAIN: Duration = Duration::from_secs(5);
/// The largest message of a site.
const LARGEST: u32 = 128 * 1024;

/// Shows how the sites of a fleet are.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Options {
    /// The broker: mqtt://HOST[:PORT] or mqtts://HOST[:PORT]
    pub(crate) broker: String,
    /// The base topics of the sites, with + for what differs
    #[arg(long, default_value = "+")]
    pub(crate) sites: String,
    /// Go on, and print the table whenever it changes
    #[arg(long)]
    pub(crate) watch: bool,
    /// A site that is online and has said nothing for so long is quiet; with --watch only
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) quiet: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Options::parse(), |table| println!("{table}")).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            eprintln!("fleet_health: {why}");
            ExitCode::from(69)
        }
    }
}

/// Prints the table once, or until the future is dropped. Whether every site is well.
pub(crate) async fn run(options: &Options, mut print: impl FnMut(String)) -> Result<bool, String> {
    let mut fleet =
        Fleet { quiet: options.quiet, levels: options.sites.split('/').count(), ..Fleet::default() };
    let (client, mut events) = AsyncClient::builder(connection(options)?).capacity(100).build();
    let begun = Instant::now();
    let mut last_message = None;
    let mut tick = tokio::time::interval(SETTLED);
    let mut shown = None;
    loop {
        let event = tokio::select! {
            event = events.poll() => event,
            _ = tick.tick() => {
                let is_late = begun.elapsed() >= PATIENCE;
                let is_settled = last_message.is_some_and(|at: Instant| is_late || at.elapsed() >= SETTLED);
                let now = SystemTime::now();
                let remarks = fleet.remarks(now);
                if is_settled && (fleet.is_changed || shown.as_ref() != Some(&remarks)) {
                    print(fleet.table(now));
                    fleet.is_changed = false;
                    shown = Some(remarks.clone());
                }
                if options.watch {
                    continue;
                }
                if is_settled {
                    return Ok(!remarks.is_empty() && remarks.values().all(Vec::is_empty));
                }
                if is_late {
                    return Err(format!("no site below {}: check --sites, and what the login may read", options.sites));
                }
                continue;
            }
        };
        match event {
            // Each connect is a clean start: the broker sends again what it retains.
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                for topic in ["bridge/state", "bridge/info", "+/state"] {
                    let filter = format!("{}/{topic}", options.sites);
                    client.try_subscribe(filter, QoS::AtLeastOnce).map_err(|error| error.to_string())?;
                }
            }
            Ok(Event::Incoming(Packet::Publish(message))) => {
                let topic = String::from_utf8_lossy(&message.topic).into_owned();
                fleet.hear(&topic, &message.payload, message.retain, SystemTime::now());
                last_message = Some(Instant::now());
            }
            Ok(_) => {}
            Err(why) if options.watch => {
                eprintln!("fleet_health: {why}: trying again in {} s", AGAIN.as_secs());
                tokio::time::sleep(AGAIN).await;
            }
            Err(why) => return Err(why.to_string()),
        }
    }
}

fn connection(options: &Options) -> Result<MqttOptions, String> {
    let usage = || "name the broker as mqtt://HOST[:PORT] or mqtts://HOST[:PORT]".to_owned();
    let (scheme, rest) = options.broker.split_once("://").ok_or_else(usage)?;
    let is_tls = match scheme {
        "mqtt" => false,
        "mqtts" => true,
        _ => return Err(usage()),
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| usage())?),
        _ => (rest, if is_tls { 8883 } else { 1883 }),
    };
    if host.is_empty() || options.sites.contains('#') {
        return Err(usage() + ", and the sites without #");
    }
    let id = format!("fleet-health-{}", std::process::id());
    let mut connection = MqttOptions::new(id, (host.trim_matches(['[', ']']), port));
    connection.set_clean_start(true).set_max_packet_size(Some(LARGEST));
    if is_tls {
        connection.set_transport(Transport::try_tls_with_default_config().map_err(|why| why.to_string())?);
    }
    if let (Ok(user), Ok(password)) = (std::env::var("FLEET_USER"), std::env::var("FLEET_PASSWORD")) {
        connection.set_credentials(user, password);
    }
    Ok(connection)
}

/// All sites, by base topic.
#[derive(Debug, Default)]
struct Fleet {
    sites: BTreeMap<String, Site>,
    quiet: Duration,
    /// Of a base topic.
    levels: usize,
    /// Since the table was printed.
    is_changed: bool,
}

/// One site, as far as it has said something.
#[derive(Debug, Default)]
struct Site {
    state: Option<String>,
    /// When it became what it is; unknown if the broker has retained that.
    since: Option<SystemTime>,
    info: Option<Info>,
    /// The route of each plug.
    routes: BTreeMap<String, String>,
    /// The last message that was not retained.
    heard: Option<SystemTime>,
}

/// `bridge/info`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Info {
    version: String,
    started: String,
    plugs: usize,
    online: usize,
    cloud: Cloud,
    /// Not in every version, and not while there is none.
    broker: Option<Broker>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Cloud {
    status: String,
}

/// The broker that the site is connected to, one of several perhaps.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Broker {
    address: String,
}

/// `PLUG/state`
#[derive(Debug, Deserialize)]
struct PlugState {
    route: String,
}

impl Fleet {
    fn hear(&mut self, topic: &str, payload: &[u8], is_retained: bool, now: SystemTime) {
        self.is_changed |= self.take(topic, payload, is_retained, now);
    }

    /// Takes a message. Whether it says something new.
    fn take(&mut self, topic: &str, payload: &[u8], is_retained: bool, now: SystemTime) -> bool {
        let Some((at, _)) = topic.match_indices('/').nth(self.levels - 1) else { return false };
        let (base, rest) = (&topic[..at], &topic[at + 1..]);
        // Only the topics that we asked for make a site.
        let Some(plug) = rest.strip_suffix("/state").or((rest == "bridge/info").then_some("")) else {
            return false;
        };
        if payload.is_empty() && rest == "bridge/state" {
            return self.sites.remove(base).is_some();
        }
        let site = self.sites.entry(base.to_owned()).or_default();
        if !is_retained {
            site.heard = Some(now);
        }
        match plug {
            "" => {
                let info = serde_json::from_slice(payload).ok();
                std::mem::replace(&mut site.info, info) != site.info
            }
            "bridge" => {
                let state = String::from_utf8_lossy(payload).into_owned();
                let is_new = site.state.as_ref() != Some(&state);
                if is_new {
                    (site.state, site.since) = (Some(state), (!is_retained).then_some(now));
                }
                is_new
            }
            _ => {
                let route = serde_json::from_slice::<PlugState>(payload).ok().map(|state| state.route);
                let before = match route.clone() {
                    Some(route) => site.routes.insert(plug.to_owned(), route),
                    None => site.routes.remove(plug),
                };
                before != route
            }
        }
    }

    /// Why somebody should look at a site, by base topic.
    fn remarks(&self, now: SystemTime) -> BTreeMap<String, Vec<&'static str>> {
        let newest = self.newest();
        let of = |(base, site): (&String, &Site)| (base.clone(), site.remarks(newest, self.quiet, now));
        self.sites.iter().map(of).collect()
    }

    /// The newest version of any site.
    fn newest(&self) -> &str {
        let versions = self.sites.values().filter_map(|site| Some(site.info.as_ref()?.version.as_str()));
        versions.max_by_key(|version| number(version)).unwrap_or_default()
    }

    fn table(&self, now: SystemTime) -> String {
        let widest = self.sites.keys().map(String::len).max().unwrap_or_default().max("SITE".len());
        let mut table = format!(
            "{:widest$}  {:<7}  {:<20}  {:<8}  {:>5}  {:>7}  {:>5}  {:>5}  {:<20}  {:<20}  REMARKS\n",
            "SITE", "STATE", "SINCE", "VERSION", "PLUGS", "OFFLINE", "LOCAL", "CLOUD", "HEARD", "BROKER"
        );
        let remarks = self.remarks(now);
        for (base, site) in &self.sites {
            let info = site.info.as_ref();
            let count = |route: &str| site.routes.values().filter(|it| *it == route).count();
            let at = |time: Option<SystemTime>| {
                time.map_or_else(|| "-".to_owned(), |time| format_rfc3339_seconds(time).to_string())
            };
            let started = info.filter(|_| site.is_online()).map(|info| info.started.clone());
            let since = site.since.map(|since| at(Some(since))).or(started).unwrap_or_else(|| "-".to_owned());
            let _ = writeln!(
                table,
                "{base:widest$}  {:<7}  {since:<20}  {:<8}  {:>5}  {:>7}  {:>5}  {:>5}  {:<20}  {:<20}  {}",
                site.state.as_deref().unwrap_or("-"),
                info.map_or("-", |info| &info.version),
                info.map_or(0, |info| info.plugs),
                info.map_or(0, |info| info.plugs.saturating_sub(info.online)),
                count("local"),
                count("cloud"),
                at(site.heard),
                info.and_then(|info| info.broker.as_ref()).map_or("-", |broker| &broker.address),
                remarks[base].join(", ")
            );
        }
        table
    }
}

impl Site {
    fn is_online(&self) -> bool {
        self.state.as_deref() == Some("online")
    }

    fn remarks(&self, newest: &str, quiet: Duration, now: SystemTime) -> Vec<&'static str> {
        let mut remarks = Vec::new();
        if !self.is_online() {
            remarks.push("SILENT");
        }
        match &self.info {
            None => remarks.push("no info"),
            Some(info) => {
                if number(&info.version) < number(newest) {
                    remarks.push("old version");
                }
                if self.is_online() && info.online < info.plugs {
                    remarks.push("plugs offline");
                }
                match info.cloud.status.as_str() {
                    "down" => remarks.push("cloud down"),
                    "stopped" => remarks.push("cloud stopped"),
                    _ => {}
                }
            }
        }
        let age = self.heard.and_then(|heard| now.duration_since(heard).ok());
        if self.is_online() && age.is_some_and(|age| age > quiet) {
            remarks.push("quiet");
        }
        remarks
    }
}

/// A version as numbers, to be compared.
fn number(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or_default()).collect()
}
