//! The vocabulary between the bridge and its two wings: what comes in ([`Event`]) and what goes out ([`Action`]).
//!
//! Values only. The left wing turns topics and payloads into these words and back, the right wing turns
//! [`Exchange`]s into [`Outcome`]s; neither needs to know the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::model::{
    Address, Availability, DeviceId, Failure, LanProtocol, Mac, PlugCommand, PlugName, RelayState, Route,
};
use crate::smarthome::message::{
    DeviceInfo, Meter, Outlet, Reading, Reply, Request, ScheduleRule, is_plug_kind,
};

/// Something that happened outside and that the bridge should know.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Someone wants something of a plug. Answered by exactly one [`Update::Result`].
    Command {
        /// From [`IdAllocator`].
        id: CommandId,
        /// The plug's name in the topic; there may be no such plug.
        plug: PlugName,
        /// What is wanted.
        order: PlugCommand,
    },
    /// Someone wants something of the bridge itself. Answered by exactly one [`Update::Response`].
    Request {
        /// From [`IdAllocator`].
        id: RequestId,
        /// What is wanted.
        ask: BridgeCommand,
    },
    /// An exchange ended. Each [`Action::Perform`] that was not abandoned ends in exactly one of these.
    Done {
        /// Which exchange.
        exchange: ExchangeId,
        /// How it went.
        outcome: Outcome,
    },
    /// A plug made itself heard on the LAN.
    Sighted(Sighting),
    /// The account's device list was read.
    Account(Vec<AccountPlug>),
    /// The status of the cloud as a whole changed.
    Cloud(CloudStatus),
}

/// Something that the bridge wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Speak to a plug; an [`Event::Done`] is expected before [`Exchange::deadline`].
    Perform(Exchange),
    /// Drop this exchange now, resetting its connection. No [`Event::Done`] is expected any more.
    Abandon(ExchangeId),
    /// Tell the broker.
    Publish(Update),
    /// Look around on the LAN now, and ask these addresses directly.
    Discover {
        /// Last known addresses of plugs that are missing, for other subnets.
        probe: Vec<Address>,
    },
    /// Ask the account for its device list.
    ListAccount,
    /// Write down what is known of a plug, so that it outlives a restart.
    Remember(KnownPlug),
    /// Remove a plug from what is written down.
    Forget(DeviceId),
}

/// The kind of frontend that a command or a request came in through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// A message at the broker.
    Mqtt,
    /// A request to the HTTP interface.
    Http,
    /// A command on the command line that is carried out without a daemon.
    CommandLine,
}

/// Names one command while it is under way. Ordered by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId {
    number: u64,
    origin: Origin,
}

/// Names one request to the bridge while it is under way. Ordered by its number.
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

    /// Where it came from.
    pub fn origin(self) -> Origin {
        self.origin
    }
}

impl RequestId {
    /// The request of this number; [`IdAllocator`] gives numbers that no other has.
    pub const fn new(origin: Origin, number: u64) -> Self {
        Self { number, origin }
    }

    /// Where it came from, and where alone its response goes.
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

/// Names one exchange; never used twice while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(u64);

impl ExchangeId {
    /// Names an exchange of this plug. Serial numbers come round after four thousand million exchanges.
    pub fn new(plug: PlugKey, serial: u32) -> Self {
        Self(u64::from(plug.0) << 32 | u64::from(serial))
    }

    /// The plug that it belongs to.
    pub fn plug(self) -> PlugKey {
        PlugKey((self.0 >> 32) as u32)
    }
}

/// Names one plug inside the process, stable while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlugKey(pub u32);

/// What someone may ask of the bridge itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgeCommand {
    /// Look for plugs now.
    Discover,
    /// Read this plug now, or all of them.
    Refresh(Option<PlugName>),
    /// Remove this plug and all that the broker keeps of it.
    Forget(PlugName),
}

/// One request to one plug over one route.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// Its name.
    pub id: ExchangeId,
    /// Which plug; the right wing keeps one connection for each.
    pub plug: PlugKey,
    /// What the plug is called, for the trace line.
    pub label: Arc<str>,
    /// Where to.
    pub target: Target,
    /// What to say.
    pub request: Request,
    /// By when an answer must be there.
    pub deadline: Instant,
    /// A command that someone waits for, rather than a poll: goes first where calls are counted.
    pub urgent: bool,
    /// The plate of the last reading, so that an unchanged one need not be copied again.
    pub known_info: Option<Arc<DeviceInfo>>,
}

impl Exchange {
    /// The route that the target lies on.
    pub fn route(&self) -> Route {
        match self.target {
            Target::Local { .. } => Route::Local,
            Target::Cloud { .. } => Route::Cloud,
        }
    }
}

/// Where an exchange goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To an address on the LAN, where this plug is expected.
    Local {
        /// Where to connect to.
        address: Address,
        /// How to speak to it.
        protocol: LanProtocol,
        /// Who must answer there before anything is changed.
        expect: Identity,
    },
    /// Through the account.
    Cloud {
        /// Its name in the account.
        device_id: DeviceId,
    },
}

/// What is known of who a plug is. An empty one admits anybody, and so learns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Its device id, the stronger proof.
    pub device_id: Option<DeviceId>,
    /// Its MAC address.
    pub mac: Option<Mac>,
}

impl Identity {
    /// Whether a plug with this plate may be the one. A known device id decides alone, unless the plate has none.
    pub fn admits(&self, plate: &DeviceInfo) -> bool {
        match (&self.device_id, &plate.device_id, self.mac) {
            (Some(expected), Some(found), _) => found == expected,
            (_, _, Some(expected)) => plate.mac == Some(expected),
            (Some(_), None, None) => false,
            (None, _, None) => true,
        }
    }

    /// Whether both say who they are, and are not the same.
    pub fn contradicts(&self, other: &Self) -> bool {
        match (&self.device_id, &other.device_id) {
            (Some(ours), Some(theirs)) => ours != theirs,
            _ => matches!((self.mac, other.mac), (Some(ours), Some(theirs)) if ours != theirs),
        }
    }
}

/// How an exchange went.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The answer, or why there is none.
    pub result: Result<Reply, Failure>,
    /// What the plug at the other end said of itself when a new connection asked who answers. After
    /// [`Failure::WrongPlug`] it is the other plug's.
    pub greeting: Option<Reading>,
}

impl Outcome {
    /// An outcome without a greeting.
    pub fn of(result: Result<Reply, Failure>) -> Self {
        Self { result, greeting: None }
    }

    /// What the plug told of itself, be it asked for that or greeted.
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
    /// Where its answer came from, with the port for TCP.
    pub address: Address,
    /// What it said.
    pub said: DiscoveryReply,
}

/// What a sighted plug said of itself.
#[derive(Debug, Clone, PartialEq)]
pub enum DiscoveryReply {
    /// It speaks XOR, and this is its state.
    SysInfo(Box<Reading>),
    /// It answered the newer discovery.
    Other(UnsupportedDevice),
}

/// What a device says of itself in the newer discovery (UDP 20002). Its protocol is not built yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedDevice {
    /// Its MAC address. The device id there is another one than `deviceId`.
    pub mac: Option<Mac>,
    /// `IOT.SMARTPLUGSWITCH` for this family, `SMART.…` for the other command set.
    pub kind: Box<str>,
    /// Model and region.
    pub model: Box<str>,
    /// What it calls its encryption: `KLAP`, `AES`, …
    pub encryption: Box<str>,
}

impl UnsupportedDevice {
    /// Whether it is a plug of this family that says it speaks KLAP.
    pub fn is_klap_plug(&self) -> bool {
        is_plug_kind(&self.kind) && self.encryption.eq_ignore_ascii_case("KLAP")
    }
}

/// A row of the account's device list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountPlug {
    /// Joins the row with what the LAN knows.
    pub device_id: DeviceId,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// Its name in the account.
    pub alias: Box<str>,
    /// Model and region.
    pub model: Box<str>,
    /// `IOT.SMARTPLUGSWITCH` for this family.
    pub kind: Box<str>,
    /// Whether the cloud sees it connected.
    pub connected: bool,
}

/// The status of the cloud as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CloudStatus {
    /// Not configured.
    #[default]
    Off,
    /// The last call was answered.
    Ok,
    /// Calls fail or are held back; they are tried again by themselves.
    Down(Box<str>),
    /// Not used until the user acts. The text says why and what to do.
    Stopped(Box<str>),
}

impl CloudStatus {
    /// Why it is down as long as nobody has tried: no failure.
    pub const NOT_ASKED: &str = "not asked yet";
}

/// What the store keeps of a plug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPlug {
    /// Who it is.
    pub device_id: DeviceId,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// Its name in topics.
    pub name: PlugName,
    /// Where it was last.
    pub address: Option<Address>,
    /// Of a strip: what its outlets were called, in their order.
    pub outlets: Vec<PlugName>,
    /// The address that the user wrote: an entry that says nothing else of its plug is about this one.
    pub home: Option<Address>,
    /// The protocol that it spoke last on the LAN.
    pub protocol: Option<LanProtocol>,
}

/// Something that the broker should show.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// There is a plug of this name, though it may not have been heard yet: what the broker keeps of it stays.
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
        /// Which request this answers.
        id: RequestId,
        /// Why it could not be done.
        result: Result<(), String>,
    },
    /// The first round of reads is done: `bridge/state` may turn `online`.
    Ready,
    /// The plug is gone for good: clear everything retained of it.
    Gone(PlugName),
    /// For the log alone: its meter told what no plug can carry. So many values were dropped by now.
    Dropped(PlugName, u32),
}

/// What `<plug>/state` says: always what was read back, never what is wished.
#[derive(Debug, Clone, PartialEq)]
pub struct PlugState {
    /// The relay as last read.
    pub relay: RelayState,
    /// The route that serves the plug now.
    pub route: Option<Route>,
    /// The little light as last read.
    pub led: Option<RelayState>,
    /// When the relay went on.
    pub on_since: Option<Instant>,
    /// How bright a dimmer is set, 0..=100 %.
    pub brightness: Option<u8>,
    /// When a count-down switches it to the other state.
    pub until: Option<Instant>,
}

/// What `<plug>/info` says.
#[derive(Debug, Clone, PartialEq)]
pub struct PlugInfo {
    /// Alias, model, versions, MAC and device id.
    pub device: Arc<DeviceInfo>,
    /// Where it is on the LAN.
    pub address: Option<Address>,
    /// The protocol that it speaks there.
    pub protocol: Option<LanProtocol>,
    /// Wi-Fi signal, dBm.
    pub rssi: Option<i32>,
    /// Whether the plug says that it is connected to TP-Link's cloud.
    pub cloud_connected: Option<bool>,
    /// Of an outlet: which one it is, and of which strip.
    pub outlet: Option<OutletInfo>,
    /// Of a strip: what its outlets are called, in their order.
    pub outlets: Arc<[PlugName]>,
    /// What stands on its own schedule, once that was read.
    pub schedule: Option<Arc<[ScheduleRule]>>,
}

/// Which outlet a plug is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutletInfo {
    /// Counted from 0, as in [`DeviceInfo::outlets`].
    pub number: Outlet,
    /// What the strip is called.
    pub strip: PlugName,
}

/// What `<plug>/energy` says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Energy {
    /// What the meter shows.
    pub meter: Meter,
    /// kWh since midnight by the plug's own clock.
    pub today: Option<f64>,
    /// kWh since the first of the month by the plug's own clock.
    pub month: Option<f64>,
}

/// What `bridge/info` says beside what the left wing knows itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BridgeInfo {
    /// How many plugs there are.
    pub plugs: usize,
    /// How many of them are online.
    pub online: usize,
    /// How many of those each route serves, by [`Route::index`].
    pub served: [usize; 2],
    /// The status of the cloud.
    pub cloud: CloudStatus,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandResult {
    /// Which command.
    pub id: CommandId,
    /// To which plug.
    pub plug: PlugName,
    /// How.
    pub ended: Ended,
    /// The relay as last read, if it ever was.
    pub state: Option<RelayState>,
    /// The route on which it was read back.
    pub route: Option<Route>,
    /// From the command's arrival to its end.
    pub took: Duration,
}

/// The three ends of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Done and read back.
    Ok,
    /// Not done, for this reason.
    Error(String),
    /// A newer command for the same thing came first.
    Superseded,
}

/// Something worth a line on `bridge/event` and in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What kind of thing.
    pub kind: NoticeKind,
    /// To which plug, if to one.
    pub plug: Option<PlugName>,
    /// Over which route, if over one.
    pub route: Option<Route>,
    /// In words.
    pub detail: String,
}

/// The kinds of [`Notice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// A plug was seen for the first time.
    PlugFound,
    /// A plug was removed.
    PlugGone,
    /// A plug answers again after having been offline, or for the first time.
    PlugOnline,
    /// A plug missed several polls on every route.
    PlugOffline,
    /// Another route serves a plug now.
    RouteChanged,
    /// A plug answers at another address.
    AddressChanged,
    /// A command could not be carried out in its time.
    CommandFailed,
    /// A late execution of an older command was put right.
    DriftCorrected,
    /// The cloud is not used until the user acts.
    CloudStopped,
    /// The cloud answers again.
    CloudOk,
    /// A device was found that cannot be served on the LAN.
    Unsupported,
}

impl NoticeKind {
    /// The word on `bridge/event`.
    pub fn word(self) -> &'static str {
        match self {
            Self::PlugFound => "plug_found",
            Self::PlugGone => "plug_gone",
            Self::PlugOnline => "plug_online",
            Self::PlugOffline => "plug_offline",
            Self::RouteChanged => "route_changed",
            Self::AddressChanged => "address_changed",
            Self::CommandFailed => "command_failed",
            Self::DriftCorrected => "drift_corrected",
            Self::CloudStopped => "cloud_stopped",
            Self::CloudOk => "cloud_ok",
            Self::Unsupported => "unsupported",
        }
    }
}
