//! The types between the bridge and its two wings: what comes in ([`Event`]) and what goes out ([`Action`]).
//!
//! Values only. The frontends convert topics, paths and payloads to these types and back; the transport turns
//! [`Exchange`]s into [`Outcome`]s. Neither knows the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::klap_hashes::OwnerHash;
use crate::model::{
    Address, Availability, DeviceId, Failure, LanProtocol, Mac, PlugCommand, PlugName, RelayState, Route,
};
use crate::smarthome::message::{
    DeviceInfo, Meter, Outlet, Reading, Reply, Request, ScheduleRule, is_plug_kind,
};

/// Something that happened outside the bridge.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A command to a plug. Answered by exactly one [`Update::Result`].
    Command {
        /// From [`IdAllocator`].
        id: CommandId,
        /// The plug's name in topics; there may be no such plug.
        plug: PlugName,
        /// What is wanted.
        order: PlugCommand,
    },
    /// A request to the bridge itself. Answered by exactly one [`Update::Response`].
    Request {
        /// From [`IdAllocator`].
        id: RequestId,
        /// What is wanted.
        ask: BridgeCommand,
    },
    /// An exchange ended. Each [`Action::Perform`] that was not abandoned leads to exactly one of these.
    Done {
        /// Which exchange.
        exchange: ExchangeId,
        /// How it went.
        outcome: Outcome,
    },
    /// A plug answered a broadcast or a probe on the LAN.
    Sighted(Sighting),
    /// The account's device list was read.
    Account(Vec<AccountPlug>),
    /// The status of the cloud changed.
    Cloud(CloudStatus),
}

/// Something that the bridge's driver must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send a request to a plug; an [`Event::Done`] is expected before [`Exchange::deadline`].
    Perform(Exchange),
    /// Drop this exchange now and reset its connection. No [`Event::Done`] is expected any more.
    Abandon(ExchangeId),
    /// Show this update to all frontends.
    Publish(Update),
    /// Search the LAN now, and ask these addresses directly.
    Discover {
        /// Last known addresses of missing plugs, which may be on other subnets.
        probe: Vec<Address>,
    },
    /// Read the account's device list.
    ListAccount,
    /// Store what is known about a plug, so that it outlives a restart.
    Remember(KnownPlug),
    /// Remove a plug from the store.
    Forget(DeviceId),
}

/// The kind of frontend that a command or a request came in through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// An MQTT message.
    Mqtt,
    /// A request to the HTTP interface.
    Http,
    /// A one-shot command on the command line, without a daemon.
    CommandLine,
}

/// Identifies one command while it is under way. Ordered by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId {
    number: u64,
    origin: Origin,
}

/// Identifies one request to the bridge while it is under way. Ordered by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    number: u64,
    origin: Origin,
}

impl CommandId {
    /// The command of this number; [`IdAllocator`] gives numbers that no other has.
    pub const fn new(origin: Origin, number: u64) -> Self {
        Self { number, origin }
    }
}

impl RequestId {
    /// The request of this number; [`IdAllocator`] gives numbers that no other has.
    pub const fn new(origin: Origin, number: u64) -> Self {
        Self { number, origin }
    }

    /// Where it came from. Its response goes only there.
    pub fn origin(self) -> Origin {
        self.origin
    }
}

/// Gives out the ids of commands and requests. Clones share the numbers, so that each frontend takes ids without waiting
/// and no number is given twice while the daemon runs.
#[derive(Debug, Clone, Default)]
pub struct IdAllocator {
    given: Arc<AtomicU64>,
}

impl IdAllocator {
    /// The id of a command that came from there.
    pub fn command(&self, origin: Origin) -> CommandId {
        CommandId::new(origin, self.next())
    }

    /// The id of a request that came from there.
    pub fn request(&self, origin: Origin) -> RequestId {
        RequestId::new(origin, self.next())
    }

    fn next(&self) -> u64 {
        self.given.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Identifies one exchange; never used twice while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(u64);

impl ExchangeId {
    /// The id of an exchange of this plug. Serial numbers repeat after 2³² exchanges.
    pub fn new(plug: PlugKey, serial: u32) -> Self {
        Self(u64::from(plug.0) << 32 | u64::from(serial))
    }

    /// The plug that it belongs to.
    pub fn plug(self) -> PlugKey {
        PlugKey((self.0 >> 32) as u32)
    }
}

/// Identifies one plug inside the process; stable while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlugKey(pub u32);

/// The requests to the bridge itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgeCommand {
    /// Look for plugs now.
    Discover,
    /// Read this plug now, or all of them.
    Refresh(Option<PlugName>),
    /// Remove this plug and everything about it that the broker retains.
    Forget(PlugName),
}

/// One request to one plug over one route.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// Its name.
    pub id: ExchangeId,
    /// Which plug; the transport keeps one connection for each.
    pub plug: PlugKey,
    /// The plug's name, for the log.
    pub label: Arc<str>,
    /// Where to send it.
    pub target: Target,
    /// What to send.
    pub request: Request,
    /// When the answer must have arrived.
    pub deadline: Instant,
    /// A command, for which a client waits, and not a poll: it goes first where calls are limited.
    pub urgent: bool,
    /// The device info of the last reading, so that an unchanged one is not copied again.
    pub known_info: Option<Arc<DeviceInfo>>,
}

impl Exchange {
    /// Asks a device for its sysinfo, for a command that looks: there is no bridge, and nothing is known of the device.
    pub fn look(plug: PlugKey, label: Arc<str>, target: Target, deadline: Instant) -> Self {
        let (id, request) = (ExchangeId::new(plug, 0), Request::SysInfo);
        Self { id, plug, label, target, request, deadline, urgent: true, known_info: None }
    }

    /// The route to the target.
    pub fn route(&self) -> Route {
        match self.target {
            Target::Local { .. } => Route::Local,
            Target::Cloud { .. } => Route::Cloud,
        }
    }
}

/// Where an exchange is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To an address on the LAN.
    Local {
        /// Where to connect to.
        address: Address,
        /// Its protocol.
        protocol: LanProtocol,
        /// The plug that must answer there before anything is changed.
        expect: Identity,
    },
    /// Through the account.
    Cloud {
        /// Its device id.
        device_id: DeviceId,
    },
}

/// What identifies a plug, as far as it is known. An empty one admits any plug.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Its device id, which decides if it is known.
    pub device_id: Option<DeviceId>,
    /// Its MAC address.
    pub mac: Option<Mac>,
}

impl Identity {
    /// Whether the device with this info may be the plug. A known device id decides alone, unless the info has none.
    pub fn admits(&self, device: &DeviceInfo) -> bool {
        match (&self.device_id, &device.device_id, self.mac) {
            (Some(expected), Some(found), _) => found == expected,
            (_, _, Some(expected)) => device.mac == Some(expected),
            (Some(_), None, None) => false,
            (None, _, None) => true,
        }
    }

    /// Whether both are known and differ.
    pub fn contradicts(&self, other: &Self) -> bool {
        match (&self.device_id, &other.device_id) {
            (Some(ours), Some(theirs)) => ours != theirs,
            _ => matches!((self.mac, other.mac), (Some(ours), Some(theirs)) if ours != theirs),
        }
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The reply, or why there is none.
    pub result: Result<Reply, Failure>,
    /// What the device reported when a new connection was checked. After
    /// [`Failure::WrongPlug`] it is the other device's.
    pub greeting: Option<Reading>,
}

impl Outcome {
    /// An outcome of an exchange on a connection that was not new.
    pub fn of(result: Result<Reply, Failure>) -> Self {
        Self { result, greeting: None }
    }

    /// The reading of the plug, from the reply or from the check of a new connection.
    pub fn reading(&self) -> Option<&Reading> {
        match &self.result {
            Ok(Reply::SysInfo(reading)) => Some(reading),
            _ => self.greeting.as_ref(),
        }
    }
}

/// A plug that answered a broadcast or a probe on the LAN.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// Where its reply came from, with the port for TCP.
    pub address: Address,
    /// Its reply.
    pub reply: DiscoveryReply,
}

/// The reply of a device to discovery.
#[derive(Debug, Clone, PartialEq)]
pub enum DiscoveryReply {
    /// To the discovery on UDP 9999: the device speaks XOR.
    SysInfo(Box<Reading>),
    /// To TDP, the discovery on UDP 20002.
    Tdp(TdpReply),
}

/// A device's reply to TDP. Its protocol is not supported yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdpReply {
    /// Its MAC address. The device id in this reply is not the `deviceId` of its sysinfo.
    pub mac: Option<Mac>,
    /// `IOT.SMARTPLUGSWITCH` for this family, `SMART.…` for another one, such as Tapo.
    pub kind: Box<str>,
    /// Model and region.
    pub model: Box<str>,
    /// What it calls its encryption: `KLAP`, `AES`, …
    pub encryption: Box<str>,
    /// The TCP port for it, if it says one.
    pub port: Option<u16>,
    /// The account that it holds, if it says one.
    pub owner: Option<OwnerHash>,
}

impl TdpReply {
    /// Whether it is a plug of this family that says it speaks KLAP.
    pub fn is_klap_plug(&self) -> bool {
        is_plug_kind(&self.kind) && self.encryption.eq_ignore_ascii_case("KLAP")
    }
}

/// A row of the account's device list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountPlug {
    /// The same as on the LAN.
    pub device_id: DeviceId,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// Its device id.
    pub alias: Box<str>,
    /// Model and region.
    pub model: Box<str>,
    /// `IOT.SMARTPLUGSWITCH` for this family.
    pub kind: Box<str>,
    /// Whether it is connected to the cloud.
    pub connected: bool,
}

/// The cloud's status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CloudStatus {
    /// Not configured.
    #[default]
    Off,
    /// The last call was answered.
    Ok,
    /// Calls fail or are held back. The daemon tries again by itself.
    Down(Box<str>),
    /// Not used until the user acts. The text says why and what to do.
    Stopped(Box<str>),
}

impl CloudStatus {
    /// Why it is down before the first call: not a failure.
    pub const NOT_ASKED: &str = "not asked yet";
    /// The word of each status.
    pub const WORDS: [&str; 4] = ["off", "ok", "down", "stopped"];

    /// Its word in payloads.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Ok => "ok",
            Self::Down(_) => "down",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// What the store knows about a plug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPlug {
    /// Its device id.
    pub device_id: DeviceId,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// Its name in topics.
    pub name: PlugName,
    /// Its last known address.
    pub address: Option<Address>,
    /// The names of a strip's outlets, in their order.
    pub outlets: Vec<PlugName>,
    /// The address in its config entry: it identifies the plug of an entry that has neither a device id nor a MAC.
    pub home: Option<Address>,
    /// The protocol that it last spoke on the LAN.
    pub protocol: Option<LanProtocol>,
    /// Its port for KLAP, if that is not the usual one.
    pub klap_port: Option<u16>,
}

/// Something that frontends show.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A plug of this name exists, though it may not have answered yet: what the broker retains of it stays.
    Expected(PlugName),
    /// `<plug>/state`, retained.
    State(PlugName, PlugState),
    /// `<plug>/info`, retained, and the plug's discovery document.
    Info(PlugName, Arc<PlugInfo>),
    /// `<plug>/energy`, retained.
    Energy(PlugName, Energy),
    /// `<plug>/availability`, retained.
    Availability(PlugName, Availability),
    /// `<plug>/result`.
    Result(CommandResult),
    /// `bridge/event`.
    Notice(Notice),
    /// `bridge/info`, retained.
    Bridge(BridgeInfo),
    /// `bridge/response/<x>`.
    Response {
        /// The request that it answers.
        id: RequestId,
        /// Why it could not be done.
        result: Result<(), String>,
    },
    /// The first round of reads is done: `bridge/state` may turn `online`.
    Ready,
    /// The plug was removed: clear everything that is retained of it.
    Gone(PlugName),
    /// For the log only: its meter reported a value that no plug can have. With the number of values dropped so far.
    Dropped(PlugName, u32),
}

/// What `<plug>/state` says: always what was read back, never what is desired.
#[derive(Debug, Clone, PartialEq)]
pub struct PlugState {
    /// The relay as last read.
    pub relay: RelayState,
    /// The route that serves the plug now.
    pub route: Option<Route>,
    /// The LED as last read.
    pub led: Option<RelayState>,
    /// When the relay was switched on.
    pub on_since: Option<Instant>,
    /// The brightness of a dimmer, 0..=100 %.
    pub brightness: Option<u8>,
    /// When a count-down switches it to the other state.
    pub until: Option<Instant>,
}

/// What `<plug>/info` says.
#[derive(Debug, Clone, PartialEq)]
pub struct PlugInfo {
    /// Alias, model, versions, MAC and device id.
    pub device: Arc<DeviceInfo>,
    /// Its address on the LAN.
    pub address: Option<Address>,
    /// Its protocol there.
    pub protocol: Option<LanProtocol>,
    /// Wi-Fi signal, dBm.
    pub rssi: Option<i32>,
    /// Whether the plug says that it is connected to TP-Link's cloud.
    pub cloud_connected: Option<bool>,
    /// The place of an outlet in its strip; `None` for other plugs.
    pub outlet: Option<OutletInfo>,
    /// The names of a strip's outlets, in their order.
    pub outlets: Arc<[PlugName]>,
    /// The rules of its own schedule; `None` until they were read.
    pub schedule: Option<Arc<[ScheduleRule]>>,
}

impl PlugInfo {
    /// The name that its owner gave it in the app; that of the outlet, if it is one.
    pub fn alias(&self) -> &str {
        let outlet =
            self.outlet.as_ref().and_then(|outlet| self.device.outlets.get(usize::from(outlet.number)));
        outlet.map_or(&self.device.alias, |outlet| &outlet.alias)
    }
}

/// The place of an outlet in its strip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutletInfo {
    /// Counted from 0, as in [`DeviceInfo::outlets`].
    pub number: Outlet,
    /// The name of the strip.
    pub strip: PlugName,
}

/// What `<plug>/energy` says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Energy {
    /// The values of the meter.
    pub meter: Meter,
    /// kWh since midnight by the plug's own clock.
    pub today: Option<f64>,
    /// kWh since the first of the month by the plug's own clock.
    pub month: Option<f64>,
}

/// What `bridge/info` says, except what a frontend knows itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BridgeInfo {
    /// How many plugs there are.
    pub plugs: usize,
    /// How many of them are online.
    pub online: usize,
    /// How many of those each route serves, by [`Route::index`].
    pub served: [usize; 2],
    /// The cloud's status.
    pub cloud: CloudStatus,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandResult {
    /// The command.
    pub id: CommandId,
    /// The plug.
    pub plug: PlugName,
    /// How it ended.
    pub ended: Ended,
    /// The relay as last read; `None` if it never was.
    pub state: Option<RelayState>,
    /// The route on which it was read back.
    pub route: Option<Route>,
    /// From the command's arrival to its end.
    pub took: Duration,
}

/// How a command can end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was done and read back.
    Ok,
    /// It was not done, for this reason.
    Error(String),
    /// The device cannot do it, for this reason. Nothing was sent.
    Unfit(&'static str),
    /// There is no such plug, or it was removed.
    NoPlug(String),
    /// A newer command for the same thing came first.
    Superseded,
}

impl Ended {
    /// Why it was not done; `None` if it was, or if a newer command came first.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Ok | Self::Superseded => None,
            Self::Error(why) | Self::NoPlug(why) => Some(why),
            Self::Unfit(why) => Some(why),
        }
    }
}

/// Something that is reported on `bridge/event` and in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its kind.
    pub kind: NoticeKind,
    /// The plug, if it is about one.
    pub plug: Option<PlugName>,
    /// The route, if it is about one.
    pub route: Option<Route>,
    /// The text.
    pub detail: String,
}

/// The kinds of [`Notice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// A plug was seen for the first time.
    PlugFound,
    /// A plug was removed.
    PlugGone,
    /// A plug answers for the first time, or again after it was offline.
    PlugOnline,
    /// A plug missed several polls on every route.
    PlugOffline,
    /// Another route serves a plug now.
    RouteChanged,
    /// A plug answers at another address.
    AddressChanged,
    /// A plug answers in another protocol on the LAN.
    ProtocolChanged,
    /// A command was not done in time.
    CommandFailed,
    /// A late execution of an older command was corrected.
    DriftCorrected,
    /// The cloud is not used any more until the user acts.
    CloudStopped,
    /// The cloud answers again.
    CloudOk,
    /// A device was found that hs100d does not support on the LAN.
    Unsupported,
}

impl NoticeKind {
    /// Its word on `bridge/event`.
    pub fn word(self) -> &'static str {
        match self {
            Self::PlugFound => "plug_found",
            Self::PlugGone => "plug_gone",
            Self::PlugOnline => "plug_online",
            Self::PlugOffline => "plug_offline",
            Self::RouteChanged => "route_changed",
            Self::AddressChanged => "address_changed",
            Self::ProtocolChanged => "protocol_changed",
            Self::CommandFailed => "command_failed",
            Self::DriftCorrected => "drift_corrected",
            Self::CloudStopped => "cloud_stopped",
            Self::CloudOk => "cloud_ok",
            Self::Unsupported => "unsupported",
        }
    }
}
