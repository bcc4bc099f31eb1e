//! `discover`: the plugs on the LAN, as a table or as JSON.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::installation::Installation;
use super::klap::{self, KlapLogin, KlapOwner};
use super::known::{Known, identity_on, shares_id};
use super::progress::Progress;
use super::table::TextTable;
use super::{Context, Failed, say};
use crate::bridge::event::{DiscoveryReply, Identity, PlugKey, Sighting, TdpReply};
use crate::bridge::failures::cause_of;
use crate::model::{Address, DeviceId, Failure, PlugName, RelayState};
use crate::smarthome::message::{OutletState, Reading};
use crate::transport::discovery::{self, BroadcastPath, Discovery};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,

    /// How long to wait for answers
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = crate::duration::parse)]
    pub(super) timeout: Duration,
}

/// How often the progress line is refreshed.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// By then the first round has reached every network.
const ASKED_BY: Duration = Duration::from_millis(100);

/// Searches until the time is over, and lists each plug once.
///
/// # Errors
/// The config is wrong.
pub(super) async fn run(args: Args, context: &Context) -> Result<(), Failed> {
    let installation = Installation::of(context)?;
    let (config, store) = (&installation.config, installation.look());
    let options = config.discovery.clone();
    let mut discovery =
        Discovery::start(options.unwrap_or_else(|| discovery::DiscoveryOptions::usual(config.local.port)));
    let mut progress = Progress::on_stderr(&context.environment);
    if let Some(line) = installation.locked_note() {
        tracing::info!("{line}");
        progress.leave(&format!("Without the topic names that the service gave: {line}"));
    }
    let known = Known::of(config, &store);
    let mut rows = search(&mut discovery, args.timeout, &known, &mut progress).await;
    if config.local.enabled {
        let login = KlapLogin::of(config, &store, None);
        read_klap(&mut rows, &login, config.bridge.policy.local_timeout, &known).await;
    }
    drop(progress);
    let garbage = discovery.tally().garbage;
    if garbage > 0 {
        tracing::info!("{garbage} answers were not from plugs");
    }
    let asked = listed(&discovery.asked());
    tracing::info!("asked by broadcast: {asked}");
    if let Some(obstacle) = discovery.obstacle() {
        tracing::warn!("{obstacle}: {}", obstacle.cause().remedy);
    }
    say(&if args.json { as_json(&rows) } else { as_table(&rows, &asked) })
}

/// The rows of all plugs that answer in this time, in the order of their addresses.
async fn search(
    discovery: &mut Discovery,
    time: Duration,
    known: &Known<'_>,
    progress: &mut Progress,
) -> Vec<DiscoveredPlug> {
    let begun = Instant::now();
    let end = begun + time;
    let mut rows: Vec<DiscoveredPlug> = Vec::new();
    let mut show_at = begun + ASKED_BY;
    let mut is_announced = false;
    loop {
        tokio::select! {
            Sighting { address, reply } = discovery.next() => take_in(&mut rows, DiscoveredPlug::of(&address, &reply, known)),
            () = sleep_until(show_at.min(end)) => {
                let now = Instant::now();
                if now >= end {
                    break;
                }
                if !std::mem::replace(&mut is_announced, true) {
                    progress.leave(&format!("Asked by broadcast: {}", listed(&discovery.asked())));
                }
                progress.show(&format!("{} found, {} s left", rows.len(), (end - now).as_secs() + 1));
                show_at = now + SHOW_EVERY;
            }
        }
    }
    rows.sort_by(|a, b| a.place.cmp(&b.place));
    rows
}

/// Reads the plugs that speak KLAP, all at once: their answers to the search have neither name nor state.
async fn read_klap(rows: &mut [DiscoveredPlug], login: &KlapLogin, limit: Duration, known: &Known<'_>) {
    let lan = Arc::new(login.lan());
    let mut reads = JoinSet::new();
    for (number, row) in (0..).zip(rows.iter()) {
        let (Some(device), Some(ip)) = (&row.klap, row.place.0) else { continue };
        let owner = login.owner(device.owner.as_ref());
        let (lan, who) = (Arc::clone(&lan), row.who.clone());
        let address = Address::from(klap::socket_of(device, ip.into()));
        reads.spawn(
            async move { (number, owner, klap::read(&lan, PlugKey(number), &address, who, limit).await) },
        );
    }
    while let Some(read) = reads.join_next().await {
        let Ok((number, owner, result)) = read else { continue };
        let Some(row) = rows.get_mut(number as usize) else { continue };
        match result {
            Ok(reading) => row.read(&reading, known),
            Err(failure) => row.not_read(&failure, owner),
        }
    }
}

/// The networks that were asked, in words.
fn listed(asked: &[BroadcastPath]) -> String {
    let asked: Vec<_> = asked.iter().map(ToString::to_string).collect();
    if asked.is_empty() { "no network".to_owned() } else { asked.join(", ") }
}

/// Adds a plug once. One that answers both forms of discovery can be reached over TCP 9999.
fn take_in(rows: &mut Vec<DiscoveredPlug>, row: DiscoveredPlug) {
    match rows.iter_mut().find(|known| known.is_same(&row)) {
        Some(known) if row.is_xor && !known.is_xor => *known = row,
        Some(_) => {}
        None => rows.push(row),
    }
}

/// One plug, as it is printed.
struct DiscoveredPlug {
    who: Identity,
    /// The order of the rows.
    place: (Option<Ipv4Addr>, String),
    is_xor: bool,
    cells: [String; COLUMNS],
    /// The rows of its outlets, printed below it.
    outlets: Vec<[String; COLUMNS]>,
    json: Value,
    /// The fields of its answer that could not be read.
    unread: String,
    /// Its answer to the search, if it speaks KLAP.
    klap: Option<TdpReply>,
    /// Why it could not be read, and what to do.
    problem: Option<String>,
}

const COLUMNS: usize = 9;
const HEADINGS: [&str; COLUMNS] =
    ["NAME", "TOPIC NAME", "MODEL", "ADDRESS", "MAC", "DEVICE ID", "STATE", "SIGNAL", "PROTOCOL"];

impl DiscoveredPlug {
    fn of(address: &Address, reply: &DiscoveryReply, known: &Known<'_>) -> Self {
        let host = address.host();
        let place = (host.parse().ok(), host.clone());
        match reply {
            DiscoveryReply::SysInfo(reading) => Self::of_reading(address, "xor", reading, known),
            DiscoveryReply::Tdp(reply) => {
                let who = Identity { device_id: None, mac: reply.mac };
                let topic_name = known.name(&who, Some(address)).map(PlugName::as_str);
                let mac = reply.mac.map(|mac| mac.to_string());
                let encryption = reply.encryption.to_lowercase();
                let protocol = if encryption.is_empty() { "other" } else { &encryption };
                let json = json!({
                    "alias": null, "topic_name": topic_name, "model": &*reply.model, "host": host, "mac": mac,
                    "device_id": null, "state": null, "rssi": null, "protocol": protocol, "type": &*reply.kind,
                });
                let mut cells = [const { String::new() }; COLUMNS];
                cells[1] = topic_name.unwrap_or_default().to_owned();
                cells[2] = reply.model.escape_debug().to_string();
                cells[3] = host;
                cells[4] = mac.unwrap_or_default();
                cells[8] = protocol.escape_debug().to_string();
                Self {
                    who,
                    place,
                    is_xor: false,
                    cells,
                    outlets: Vec::new(),
                    json,
                    unread: String::new(),
                    klap: reply.is_klap_plug().then(|| reply.clone()),
                    problem: None,
                }
            }
        }
    }

    /// From its sysinfo.
    fn of_reading(address: &Address, protocol: &str, reading: &Reading, known: &Known<'_>) -> Self {
        let host = address.host();
        let place = (host.parse().ok(), host.clone());
        let device = &reading.device;
        let who = identity_on(device);
        let topic_name = known.name(&who, Some(address)).map(PlugName::as_str);
        let mac = device.mac.map(|mac| mac.to_string());
        let device_id = device.device_id.as_ref().map(DeviceId::as_str);
        let state = state_of(reading).map(|relay| relay.to_string());
        let mut json = json!({
            "alias": &*device.alias, "topic_name": topic_name, "model": &*device.model, "host": host, "mac": mac,
            "device_id": device_id, "state": state, "rssi": reading.rssi, "protocol": protocol,
        });
        if !reading.unread.is_empty() {
            json["unread"] = json!(reading.unread);
        }
        let is_other = reading.other_kind().is_some();
        if is_other {
            json["type"] = json!(&*device.kind);
        }
        let no_state = || if is_other { "not supported".to_owned() } else { String::new() };
        let cells = [
            device.alias.escape_debug().to_string(),
            topic_name.unwrap_or_default().to_owned(),
            device.model.escape_debug().to_string(),
            host,
            mac.unwrap_or_default(),
            device_id.unwrap_or_default().to_owned(),
            state.unwrap_or_else(no_state),
            reading.rssi.map(|dbm| format!("{dbm} dBm")).unwrap_or_default(),
            protocol.to_owned(),
        ];
        let outlets: Vec<_> = ListedOutlet::all(reading, known.outlets(&who)).collect();
        if !outlets.is_empty() {
            json["outlets"] = outlets.iter().map(ListedOutlet::json).collect();
        }
        let outlets = outlets.iter().map(ListedOutlet::cells).collect();
        let unread = reading.unread.join(", ");
        let is_xor = protocol == "xor";
        Self { who, place, is_xor, cells, outlets, json, unread, klap: None, problem: None }
    }

    /// It was read over KLAP.
    fn read(&mut self, reading: &Reading, known: &Known<'_>) {
        let Some(address) = Address::new(&self.place.1, known.config.local.port) else { return };
        *self = Self::of_reading(&address, "klap", reading, known);
    }

    /// It was not read over KLAP.
    fn not_read(&mut self, failure: &Failure, owner: KlapOwner) {
        let cause = match failure {
            Failure::OtherAccount => Some(owner.cause()),
            failure => cause_of(failure),
        };
        self.json["cause"] = json!(cause.map(|cause| cause.word));
        let remedy = cause.map_or_else(String::new, |cause| format!(": {}", cause.advice()));
        self.problem = Some(match cause {
            Some(cause) if *failure == Failure::OtherAccount => format!("{}{remedy}", cause.meaning),
            _ => format!("{failure}{remedy}"),
        });
    }

    /// By device id, else by MAC, else by the address.
    fn is_same(&self, other: &Self) -> bool {
        match (&self.who, &other.who) {
            (ours, theirs) if ours.contradicts(theirs) || shares_id(ours, theirs) => false,
            (Identity { device_id: Some(_), .. }, Identity { device_id: Some(_), .. }) => true,
            (Identity { mac: Some(_), .. }, Identity { mac: Some(_), .. }) => true,
            _ => self.place == other.place,
        }
    }
}

/// One outlet of a strip, as it is printed.
struct ListedOutlet<'a> {
    /// From 1, as in the outlet's `info`.
    number: usize,
    alias: &'a str,
    topic_name: Option<&'a PlugName>,
    state: Option<RelayState>,
}

impl<'a> ListedOutlet<'a> {
    fn all(reading: &'a Reading, names: &'a [PlugName]) -> impl Iterator<Item = Self> {
        reading.device.outlets.iter().enumerate().map(|(place, device)| Self {
            number: place + 1,
            alias: &device.alias,
            topic_name: names.get(place),
            state: reading.outlets.get(place).and_then(|outlet| outlet.relay),
        })
    }

    fn json(&self) -> Value {
        json!({
            "outlet": self.number,
            "alias": self.alias,
            "topic_name": self.topic_name.map(PlugName::as_str),
            "state": self.state.map(|state| state.to_string()),
        })
    }

    fn cells(&self) -> [String; COLUMNS] {
        let mut cells = [const { String::new() }; COLUMNS];
        cells[0] = format!("  {}", self.alias.escape_debug());
        cells[1] = self.topic_name.map(ToString::to_string).unwrap_or_default();
        cells[2] = format!("outlet {}", self.number);
        cells[6] = self.state.map(|state| state.to_string()).unwrap_or_default();
        cells
    }
}

/// A strip is on while any of its outlets is, and off if all of them are.
fn state_of(reading: &Reading) -> Option<RelayState> {
    let is = |state| move |outlet: &OutletState| outlet.relay == Some(state);
    let any_on = reading.outlets.iter().any(is(RelayState::On));
    let all_off = !reading.outlets.is_empty() && reading.outlets.iter().all(is(RelayState::Off));
    reading.relay.or_else(|| (any_on || all_off).then(|| RelayState::from_bool(any_on)))
}

/// Remarks below the table.
fn remarks(rows: &[DiscoveredPlug]) -> String {
    let mut remarks = String::new();
    for (number, row) in rows.iter().enumerate() {
        let host = &row.place.1;
        if !row.unread.is_empty() {
            _ = writeln!(remarks, "{host}: {} cannot be read and counts as absent", row.unread);
        }
        if let Some(problem) = &row.problem {
            _ = writeln!(remarks, "{host}: {problem}");
        }
        if let Some(other) = rows[..number].iter().find(|other| shares_id(&row.who, &other.who)) {
            _ = writeln!(
                remarks,
                "{host}: it has the same device id as {}, with another MAC: the daemon serves one of them; run a second \
                 hs100d for the other, with its own base_topic and STATE_DIRECTORY",
                other.place.1
            );
        }
    }
    remarks
}

fn as_json(rows: &[DiscoveredPlug]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| &row.json).collect();
    format!("{}\n", json!(rows))
}

fn as_table(rows: &[DiscoveredPlug], asked: &str) -> String {
    if rows.is_empty() {
        return format!(
            "No plug answered. Asked by broadcast: {asked}. Plugs answer only on the same network; AP isolation, \
             another VLAN or a firewall may block the broadcast or the answers: ask other networks with \
             discovery.broadcast, or one plug with `hs100d plug ADDRESS info`.\n"
        );
    }
    let mut table = TextTable::new(HEADINGS);
    for row in rows {
        table.row(row.cells.clone());
        row.outlets.iter().for_each(|cells| table.row(cells.clone()));
    }
    format!("{table}{}", remarks(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::event::TdpReply;
    use crate::config::Config;
    use crate::config::paths::{ConfigPath, Environment};
    use crate::model::Mac;
    use crate::smarthome::message::{Reply, Request};
    use crate::store::Store;
    use std::path::Path;

    fn xor(host: &str, id: &str, mac: &str) -> DiscoveredPlug {
        let json =
            format!(r#"{{"system":{{"get_sysinfo":{{"deviceId":"{id}","mac":"{mac}","relay_state":1}}}}}}"#);
        let Ok(Reply::SysInfo(reading)) = Request::SysInfo.read_reply(json.as_bytes(), None) else {
            panic!()
        };
        row(host, &DiscoveryReply::SysInfo(Box::new(reading)))
    }

    fn other(host: &str, mac: &str) -> DiscoveredPlug {
        let device = TdpReply {
            mac: Mac::new(mac),
            kind: "IOT.SMARTPLUGSWITCH".into(),
            model: "HS100(UK)".into(),
            encryption: "KLAP".into(),
            port: None,
            owner: None,
        };
        row(host, &DiscoveryReply::Tdp(device))
    }

    fn row(host: &str, reply: &DiscoveryReply) -> DiscoveredPlug {
        let config = Config::read("", &ConfigPath::Nowhere, &Environment::default()).unwrap();
        let store = Store::read_only(Path::new("/nonexistent"));
        let known = Known::of(&config, &store);
        DiscoveredPlug::of(&Address::new(host, 9999).unwrap(), reply, &known)
    }

    #[test]
    fn two_devices_with_one_device_id_are_both_listed_and_remarked_on() {
        let mut rows = Vec::new();
        for row in [
            xor("192.0.2.1", "80060001", "50C7BF000001"),
            xor("192.0.2.2", "80060001", "50C7BF000002"),
            xor("192.0.2.2", "80060001", "50C7BF000002"),
        ] {
            take_in(&mut rows, row);
        }
        assert_eq!(rows.len(), 2);
        let table = as_table(&rows, "");
        let reply = "192.0.2.2: it has the same device id as 192.0.2.1, with another MAC";
        assert_eq!(table.matches(reply).count(), 1, "{table}");
    }

    #[test]
    fn what_cannot_be_read_of_a_plug_is_named_below_the_table() {
        let json =
            r#"{"system":{"get_sysinfo":{"deviceId":"80060001","relay_state":1,"alias":null,"rssi":""}}}"#;
        let Ok(Reply::SysInfo(reading)) = Request::SysInfo.read_reply(json.as_bytes(), None) else {
            panic!()
        };
        let row = row("192.0.2.1", &DiscoveryReply::SysInfo(Box::new(reading)));
        assert_eq!(row.json["unread"], json!(["alias", "rssi"]));
        let table = as_table(&[row], "");
        assert!(table.ends_with("\n192.0.2.1: alias, rssi cannot be read and counts as absent\n"), "{table}");
    }

    #[test]
    fn a_bulb_is_listed_as_not_supported() {
        let json = r#"{"system":{"get_sysinfo":{"deviceId":"80060001","mic_type":"IOT.SMARTBULB","light_state":{}}}}"#;
        let Ok(Reply::SysInfo(reading)) = Request::SysInfo.read_reply(json.as_bytes(), None) else {
            panic!()
        };
        let row = row("192.0.2.1", &DiscoveryReply::SysInfo(Box::new(reading)));
        assert_eq!((row.cells[6].as_str(), &row.json["type"]), ("not supported", &json!("IOT.SMARTBULB")));
    }

    #[test]
    fn each_plug_is_listed_once_by_its_device_id_else_its_mac_else_its_address() {
        let mut rows = Vec::new();
        for row in [
            other("192.0.2.1", "50C7BF000001"),
            xor("192.0.2.1", "80060001", "50C7BF000001"),
            other("192.0.2.1", "50C7BF000001"),
            // The same plug in a mirror, and another plug with its MAC.
            xor("192.0.2.254", "80060001", "50C7BF000001"),
            xor("192.0.2.2", "80060002", "50C7BF000001"),
            other("192.0.2.3", "50C7BF000003"),
            other("192.0.2.4", "none"),
            other("192.0.2.4", "none"),
        ] {
            take_in(&mut rows, row);
        }
        let listed: Vec<_> = rows.iter().map(|row| (row.cells[3].as_str(), row.cells[8].as_str())).collect();
        let expected =
            [("192.0.2.1", "xor"), ("192.0.2.2", "xor"), ("192.0.2.3", "klap"), ("192.0.2.4", "klap")];
        assert_eq!(listed, expected);
    }
}
