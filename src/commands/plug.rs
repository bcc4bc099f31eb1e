//! `plug`: one order to one plug, without MQTT and without a daemon.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum;
use serde_json::json;

use super::errand::{self, Account, Done};
use super::{Context, Exit, Failed, say};
use crate::bridge::PlugSettings;
use crate::bridge::event::{Ended, Identity, KnownPlug, PlugInfo, Said, Sighting};
use crate::bridge::route::Policy;
use crate::config::Config;
use crate::model::{Address, DeviceId, Mac, Order, RelayState, Switch, Wishes, shown};
use crate::smarthome::message::{Nameplate, Outlet, OutletPlate};
use crate::store::Store;
use crate::transport::discovery::Discovery;

/// How long a name is looked for on the LAN that nobody knows yet.
const SEARCH: Duration = Duration::from_secs(3);
/// The most of a device's own words that is printed on a line, in characters.
const WORDS_SHOWN: usize = 80;

/// What `plug` is called with.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its configured name, alias, address, MAC or device id; an outlet of a strip by its name or alias
    pub target: String,

    /// What to do
    pub verb: Verb,

    /// By this way only
    #[arg(long)]
    pub via: Option<Via>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What can be done with a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verb {
    /// Read it
    Info,
    /// Switch it on
    On,
    /// Switch it off
    Off,
    /// Switch it to the other state
    Toggle,
    /// Switch its little light on
    LedOn,
    /// Switch its little light off
    LedOff,
    /// Restart its firmware; the relay keeps its state
    Reboot,
}

/// The two ways to a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// The LAN
    Local,
    /// The cloud
    Cloud,
}

/// Finds the plug, carries the order out and prints how it ended.
///
/// # Errors
/// The config is wrong, nobody knows the plug, or it could not be done.
pub async fn run(args: Args, context: &Context) -> Result<(), Failed> {
    let config = context.config()?;
    let store = Store::open(&context.state_dir()).0;
    let account = Account::of(&config, &store)?;
    if args.via == Some(Via::Cloud) && account.cloud.is_none() {
        let line = "--via cloud: there is no account: add a [cloud] table to the config";
        return Err(Failed::new(Exit::Config, line));
    }
    let (mut entry, outlet) = find(&args.target, &config, &store, &account).await?;
    if args.via == Some(Via::Cloud) && entry.identity == Identity::default() {
        let line = format!(
            "{}: is an address, which tells the cloud nothing: use its name, MAC or device id",
            args.target
        );
        return Err(Failed::new(Exit::Usage, line));
    }
    match args.via {
        Some(Via::Local) => entry.policy.policy = Policy::Local,
        Some(Via::Cloud) => entry.policy.policy = Policy::Cloud,
        None => {}
    }
    let done = errand::run(entry, outlet, account, args.verb.order()).await;
    if let Ended::Error(why) = &done.result.ended {
        return Err(Failed::new(Exit::CommandFailed, format!("{}: {why}", args.target)));
    }
    say(&if args.json { as_json(&done) } else { in_words(&done, args.verb) })
}

impl Verb {
    fn order(self) -> Order {
        let relay = |switch| Order::Set(Wishes { relay: Some(switch), ..Wishes::default() });
        let led = |state| Order::Set(Wishes { led: Some(state), ..Wishes::default() });
        match self {
            Self::Info => Order::Read,
            Self::On => relay(Switch::To(RelayState::On)),
            Self::Off => relay(Switch::To(RelayState::Off)),
            Self::Toggle => relay(Switch::Toggle),
            Self::LedOn => led(RelayState::On),
            Self::LedOff => led(RelayState::Off),
            Self::Reboot => Order::Reboot,
        }
    }
}

/// The plug that the user means, and which outlet of it if it is a strip: by what the config says, then the store, then the plug itself or the account.
async fn find(
    target: &str,
    config: &Config,
    store: &Store,
    account: &Account,
) -> Result<(PlugSettings, Option<Outlet>), Failed> {
    let wanted = Wanted::new(target, config.local.port);
    let known = store.known_plugs();
    let remembered = |identity: &Identity| {
        let is_it = |plug: &&KnownPlug| {
            identity.device_id.as_ref() == Some(&plug.device_id)
                || (identity.mac.is_some() && identity.mac == plug.mac)
        };
        known.iter().find(is_it).and_then(|plug| plug.address.clone())
    };
    if let Some(entry) = config.bridge.plugs.iter().find(|entry| wanted.is_entry(entry)) {
        let address = entry.address.clone().or_else(|| remembered(&entry.identity));
        return Ok((PlugSettings { address, ..entry.clone() }, None));
    }
    if let Some(plug) = known.iter().find(|plug| wanted.is_known(plug) || wanted.outlet_of(plug).is_some()) {
        let outlet = wanted.outlet_of(plug);
        return Ok((entry(plug.device_id.clone(), plug.mac, plug.address.clone(), config), outlet));
    }
    // An address that nobody has seen may still be a plug's; in the account nobody goes by one.
    if let (true, Some(address)) = (wanted.is_numeric, &wanted.address) {
        let (identity, policy) = (Identity::default(), config.bridge.policy);
        return Ok((PlugSettings { name: None, identity, address: Some(address.clone()), policy }, None));
    }
    if let Some(sighting) = look(&wanted, config).await {
        let Said::SysInfo(reading) = sighting.said else { return Err(nobody(target)) };
        let identity = Identity { device_id: reading.plate.device_id.clone(), mac: reading.plate.mac };
        let policy = config.bridge.policy;
        let outlet = wanted.outlet_on(&reading.plate);
        return Ok((PlugSettings { name: None, identity, address: Some(sighting.address), policy }, outlet));
    }
    if let Some(cloud) = &account.cloud {
        let rows =
            cloud.list().await.map_err(|error| Failed::new(Exit::Unavailable, format!("cloud: {error}")))?;
        let row = rows.iter().map(crate::transport::cloud::api::Row::to_account_plug);
        let is_it =
            |row: &crate::bridge::event::AccountPlug| wanted.is(Some(&row.device_id), row.mac, &row.alias);
        if let Some(row) = { row }.find(is_it) {
            return Ok((entry(row.device_id, row.mac, None, config), None));
        }
    }
    Err(nobody(target))
}

fn entry(device_id: DeviceId, mac: Option<Mac>, address: Option<Address>, config: &Config) -> PlugSettings {
    let identity = Identity { device_id: Some(device_id), mac };
    PlugSettings { name: None, identity, address, policy: config.bridge.policy }
}

fn nobody(target: &str) -> Failed {
    let line =
        format!("{target}: no plug of that name, address, MAC or device id is known: try `hs100d discover`");
    Failed::new(Exit::CommandFailed, line)
}

/// Asks the LAN who is called so.
async fn look(wanted: &Wanted<'_>, config: &Config) -> Option<Sighting> {
    let mut discovery = Discovery::start(config.discovery.clone()?);
    let search = async {
        loop {
            let sighting = discovery.next().await;
            if let Said::SysInfo(reading) = &sighting.said {
                let plate = &reading.plate;
                let is_it = wanted.is(plate.device_id.as_ref(), plate.mac, &plate.alias);
                if is_it || wanted.outlet_on(plate).is_some() {
                    return sighting;
                }
            }
        }
    };
    tokio::time::timeout(SEARCH, search).await.ok()
}

/// What the user's word may stand for.
struct Wanted<'a> {
    text: &'a str,
    address: Option<Address>,
    /// It is an IP address, which cannot be a name.
    is_numeric: bool,
    mac: Option<Mac>,
    device_id: Option<DeviceId>,
}

impl<'a> Wanted<'a> {
    fn new(text: &'a str, port: u16) -> Self {
        let address = Address::new(text, port);
        let is_numeric = address.as_ref().and_then(Address::socket).is_some();
        let mac = Mac::new(text);
        let device_id = DeviceId::new(text).filter(|_| mac.is_none());
        Self { text, address, is_numeric, mac, device_id }
    }

    fn is(&self, device_id: Option<&DeviceId>, mac: Option<Mac>, alias: &str) -> bool {
        (self.device_id.is_some() && self.device_id.as_ref() == device_id)
            || (self.mac.is_some() && self.mac == mac)
            || alias.to_lowercase() == self.text.to_lowercase()
    }

    fn is_entry(&self, entry: &PlugSettings) -> bool {
        let name = entry.name.as_ref().map_or("", |name| name.as_str());
        self.is(entry.identity.device_id.as_ref(), entry.identity.mac, name)
            || (self.address.is_some() && self.address == entry.address)
    }

    /// The outlet that had this name in an earlier run.
    fn outlet_of(&self, plug: &KnownPlug) -> Option<Outlet> {
        let place = plug.outlets.iter().position(|name| name.as_str() == self.text)?;
        Outlet::try_from(place).ok()
    }

    /// The outlet that its owner calls so.
    fn outlet_on(&self, plate: &Nameplate) -> Option<Outlet> {
        let is_it = |outlet: &OutletPlate| outlet.alias.to_lowercase() == self.text.to_lowercase();
        Outlet::try_from(plate.outlets.iter().position(is_it)?).ok()
    }

    fn is_known(&self, plug: &KnownPlug) -> bool {
        self.is(Some(&plug.device_id), plug.mac, plug.name.as_str())
            || (self.is_numeric && self.address == plug.address)
    }
}

fn in_words(done: &Done, verb: Verb) -> String {
    let route = done.result.route.map_or("no route".to_owned(), |route| route.to_string());
    let took = done.result.took.as_millis();
    let state = done.result.state.map_or("unknown".to_owned(), |state| state.to_string());
    if verb == Verb::Reboot {
        return format!("restarting ({route}, {took} ms)\n");
    }
    let mut text = format!("{state} ({route}, {took} ms)\n");
    let (Some(info), Verb::Info) = (&done.info, verb) else { return text };
    let plate = &info.plate;
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            _ = writeln!(text, "{key:<10}{value}");
        }
    };
    let theirs = |words: &str| Some(shown(words, WORDS_SHOWN));
    line("alias", theirs(alias(info)));
    line("model", theirs(&plate.model));
    line("hardware", theirs(&plate.hw_version));
    line("firmware", theirs(&plate.sw_version));
    line("mac", plate.mac.map(|mac| mac.to_string()));
    line("device id", plate.device_id.as_ref().map(|id| id.as_str().to_owned()));
    line("address", info.address.as_ref().map(ToString::to_string));
    line("signal", info.rssi.map(|dbm| format!("{dbm} dBm")));
    line(
        "level",
        done.state.as_ref().and_then(|state| state.brightness).map(|percent| format!("{percent} %")),
    );
    line("led", done.state.as_ref().and_then(|state| state.led).map(|led| led.to_string()));
    line("on since", done.state.as_ref().and_then(|state| state.on_since).map(date));
    text
}

/// What its owner calls the plug, or the outlet.
fn alias(info: &PlugInfo) -> &str {
    let outlet = info.outlet.as_ref().and_then(|outlet| info.plate.outlets.get(usize::from(outlet.number)));
    outlet.map_or(&info.plate.alias, |outlet| &outlet.alias)
}

fn as_json(done: &Done) -> String {
    let plate = done.info.as_ref().map(|info| &info.plate);
    let state = done.state.as_ref();
    let text = json!({
        "state": done.result.state.map(|state| state.to_string()),
        "route": done.result.route.map(|route| route.to_string()),
        "took_ms": u64::try_from(done.result.took.as_millis()).unwrap_or(u64::MAX),
        "led": state.and_then(|state| state.led).map(|led| led.to_string()),
        "on_since": state.and_then(|state| state.on_since).map(date),
        "alias": done.info.as_ref().map(|info| alias(info)),
        "brightness": state.and_then(|state| state.brightness),
        "model": plate.map(|plate| &*plate.model),
        "hw_version": plate.map(|plate| &*plate.hw_version),
        "sw_version": plate.map(|plate| &*plate.sw_version),
        "mac": plate.and_then(|plate| plate.mac).map(|mac| mac.to_string()),
        "device_id": plate.and_then(|plate| plate.device_id.as_ref()).map(DeviceId::as_str),
        "host": done.info.as_ref().and_then(|info| info.address.as_ref()).map(Address::host),
        "rssi": done.info.as_ref().and_then(|info| info.rssi),
    });
    format!("{text}\n")
}

fn date(instant: Instant) -> String {
    let ago = instant.elapsed();
    let at = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}
