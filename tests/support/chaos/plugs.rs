//! The simulated plugs: relays that keep their state, an address that may change, and the faults of a plug or of its
//! network.

use std::sync::Arc;
use std::time::Duration;

use hs100d::bridge::event::{DiscoveryReply, TdpReply};
use hs100d::klap_hashes::OwnerHash;
use hs100d::model::{Address, DeviceId, Failure, KLAP_PORT, LanProtocol, Mac, PlugName, RelayState};
use hs100d::smarthome::message::{
    CloudInfo, Date, DeviceInfo, Outlet, OutletDescription, OutletState, Reading, Reply, Request,
};

use super::dice::Dice;
use super::klap::KlapFault;

/// The reported relay state lags behind the real one by this much, with some firmwares.
const LAG: Duration = Duration::from_millis(330);
const XOR_PORT: u16 = 9999;
/// What discovery shows of the account in the config, and of another one: the hash of its e-mail address.
const OUR_OWNER_HASH: &str = "BA95799CEEDD18316033196CB243CFC0";
const OTHER_OWNER_HASH: &str = "98C583FC8470872D65F9A5240DD652A0";

/// One plug of the simulated world.
#[derive(Debug)]
pub struct Plug {
    pub number: usize,
    pub name: PlugName,
    /// The names of its outlets; empty for a plug with one relay.
    pub outlet_names: Vec<PlugName>,
    pub device_id: DeviceId,
    pub mac: Mac,
    pub relays: Vec<Relay>,
    led: RelayState,
    /// Its place on the LAN.
    pub place: u16,
    /// The protocol that it speaks on the LAN. The port of the other one is closed.
    pub protocol: LanProtocol,
    klap_port: u16,
    /// While it speaks XOR, it answers the discovery of KLAP as well, as some firmwares do.
    answers_both: bool,
    pub lan: PlugLan,
    pub klap: KlapFault,
    pub cloud: PlugCloud,
    pub condition: Condition,
    pub switch_and_read: SwitchAndRead,
    /// Its reported relay state lags.
    lags: bool,
    /// Modules other than the relay that its firmware does not have.
    knows_little: bool,
    pub device: Arc<DeviceInfo>,
}

/// How a firmware handles a request that switches the relay and reads its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchAndRead {
    Both,
    SwitchOnly,
    Refused,
    Garbled,
    NoAnswer,
    OldState,
}

impl SwitchAndRead {
    /// Most handle it correctly.
    const OF: [Self; 10] = [
        Self::Both,
        Self::Both,
        Self::Both,
        Self::SwitchOnly,
        Self::Both,
        Self::Refused,
        Self::Both,
        Self::Garbled,
        Self::NoAnswer,
        Self::OldState,
    ];
}

#[derive(Debug, Clone, Copy)]
pub struct Relay {
    pub state: RelayState,
    /// When it last changed, since the start of the run.
    changed: Duration,
}

/// The fault of the LAN between the daemon and a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlugLan {
    #[default]
    Clear,
    /// This percentage of packets is lost, in each direction.
    Lossy(u8),
    /// Everything takes about this long.
    Slow(Duration),
    /// Packets are lost silently.
    Dead,
    /// The firmware has closed the port.
    Refused,
    /// Connections are reset during an exchange, some after the plug has acted.
    Resets,
    /// The plug acts and replies with garbage.
    Garbage,
    /// The plug acts at some moment before the deadline and does not reply.
    Late,
    /// Each request is carried out twice.
    Twice,
}

impl PlugLan {
    /// Late execution is the hardest fault, so it is the most frequent one.
    pub const FAULTS: [Self; 12] = [
        Self::Lossy(30),
        Self::Lossy(80),
        Self::Slow(Duration::from_millis(900)),
        Self::Slow(Duration::from_millis(2800)),
        Self::Dead,
        Self::Refused,
        Self::Resets,
        Self::Garbage,
        Self::Late,
        Self::Late,
        Self::Late,
        Self::Twice,
    ];
}

/// The fault between the cloud and a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlugCloud {
    #[default]
    Connected,
    /// The cloud reports the plug as offline.
    Offline,
    /// The cloud gets no reply from the plug in time.
    Silent,
    /// The plug acts, and its reply comes too late.
    Late,
}

impl PlugCloud {
    pub const FAULTS: [Self; 3] = [Self::Offline, Self::Silent, Self::Late];
}

/// The fault of the plug itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    #[default]
    Sound,
    /// Without power, or booting: no reply.
    Dark,
    /// Confirms a request without acting.
    Lies,
    /// Refuses every request.
    Stubborn,
}

impl Plug {
    pub fn new(number: usize, outlets: usize, dice: &mut Dice) -> Self {
        let device_id = DeviceId::new(&format!("8006{number:036X}")).expect("a device id");
        let mac = Mac::new(&format!("50C7BF{number:06X}")).expect("a MAC");
        let name = |text: String| PlugName::new(&text).expect("a name");
        let outlet = |n: usize| OutletDescription {
            id: format!("{n:02}").into(),
            alias: format!("plug-{number}-{}", n + 1).into(),
        };
        let relay = Relay { state: RelayState::from_bool(dice.chance(0.5)), changed: Duration::ZERO };
        Self {
            number,
            name: name(format!("plug-{number}")),
            outlet_names: (1..=outlets).map(|n| name(format!("plug-{number}-{n}"))).collect(),
            device: Arc::new(DeviceInfo {
                device_id: Some(device_id.clone()),
                mac: Some(mac),
                alias: format!("plug-{number}").into(),
                model: "HS100(EU)".into(),
                hw_version: "1.0".into(),
                sw_version: "1.2.5".into(),
                kind: "IOT.SMARTPLUGSWITCH".into(),
                feature: "TIM".into(),
                dev_name: "Wi-Fi Smart Plug".into(),
                dims: false,
                outlets: (0..outlets).map(outlet).collect(),
            }),
            device_id,
            mac,
            relays: vec![relay; outlets.max(1)],
            led: RelayState::On,
            place: u16::try_from(number).expect("few plugs"),
            protocol: if number % 5 == 2 { LanProtocol::Klap } else { LanProtocol::Xor },
            klap_port: if number % 15 == 2 { 8080 } else { KLAP_PORT },
            answers_both: number % 7 == 3,
            lan: PlugLan::Clear,
            klap: KlapFault::None,
            cloud: PlugCloud::Connected,
            condition: Condition::Sound,
            switch_and_read: SwitchAndRead::OF[number % SwitchAndRead::OF.len()],
            lags: dice.chance(0.2),
            knows_little: dice.chance(0.7),
        }
    }

    pub fn is_strip(&self) -> bool {
        !self.outlet_names.is_empty()
    }

    /// Every tenth plug is behind a router that drops broadcasts.
    pub fn hears_broadcasts(&self) -> bool {
        self.number % 10 != 4
    }

    /// Whether it takes connections for this protocol at the port of this address.
    pub fn listens(&self, protocol: LanProtocol, address: &Address) -> bool {
        let port = match self.protocol {
            LanProtocol::Xor => XOR_PORT,
            LanProtocol::Klap => self.klap_port,
        };
        protocol == self.protocol && address.socket().is_some_and(|socket| socket.port() == port)
    }

    /// Its replies to the datagrams of a discovery round.
    pub fn discovery_replies(&self, at: Duration) -> Vec<DiscoveryReply> {
        match self.protocol {
            LanProtocol::Klap => vec![self.tdp_reply()],
            LanProtocol::Xor if self.answers_both => vec![self.tdp_reply(), self.xor_reply(at)],
            LanProtocol::Xor => vec![self.xor_reply(at)],
        }
    }

    fn xor_reply(&self, at: Duration) -> DiscoveryReply {
        DiscoveryReply::SysInfo(Box::new(self.reading(at)))
    }

    fn tdp_reply(&self) -> DiscoveryReply {
        let owner = match self.klap {
            KlapFault::OtherAccount => OTHER_OWNER_HASH,
            KlapFault::None | KlapFault::SessionThief => OUR_OWNER_HASH,
        };
        DiscoveryReply::Tdp(TdpReply {
            mac: Some(self.mac),
            kind: (*self.device.kind).into(),
            model: (*self.device.model).into(),
            encryption: "KLAP".into(),
            port: Some(self.klap_port),
            owner: OwnerHash::new(owner),
        })
    }

    /// The outlet that a relay belongs to.
    pub fn part(&self, relay: usize) -> Option<Outlet> {
        self.is_strip().then(|| u8::try_from(relay).expect("a small strip"))
    }

    /// The relays that this request switches, and their new state.
    pub fn switched_by(&self, request: &Request) -> Option<(Vec<usize>, RelayState)> {
        match request {
            Request::SetRelayAndRead(_) if self.switch_and_read == SwitchAndRead::Refused => None,
            _ => self.told_to_switch_by(request),
        }
    }

    /// The relays that a request names, and the requested state, whether or not the firmware will refuse it.
    pub fn told_to_switch_by(&self, request: &Request) -> Option<(Vec<usize>, RelayState)> {
        match request {
            Request::SetRelay(state) | Request::SetRelayAndRead(state) if !self.is_strip() => {
                Some((vec![0], *state))
            }
            Request::SetOutlets(outlets, state) => Some((outlets.iter().map(usize::from).collect(), *state)),
            _ => None,
        }
    }

    /// A button press, or a loss of power, at one of its relays.
    pub fn turn(&mut self, relay: usize, state: RelayState, at: Duration) {
        if self.relays[relay].state != state {
            self.relays[relay] = Relay { state, changed: at };
        }
    }

    /// The reply to a request. The caller has switched the relays already, if the plug acts.
    pub fn answer(&mut self, request: &Request, at: Duration) -> Result<Reply, Failure> {
        let unknown = || Failure::Device { code: -1, message: "module not support".into() };
        match request {
            Request::SysInfo => Ok(Reply::SysInfo(self.reading(at))),
            Request::SetRelay(_) | Request::SetRelayAndRead(_) if self.is_strip() => Err(unknown()),
            _ if self.condition == Condition::Stubborn => {
                Err(Failure::Device { code: -3, message: "invalid argument".into() })
            }
            Request::CloudInfo | Request::CountDown(_) | Request::Schedule(_) if self.knows_little => {
                Err(unknown())
            }
            Request::SetRelayAndRead(state) => self.answer_both(*state, at),
            Request::CloudInfo => {
                Ok(Reply::CloudInfo(CloudInfo { bound: true, connected: self.cloud != PlugCloud::Offline }))
            }
            Request::CountDown(_) => Ok(Reply::CountDown(None)),
            Request::Schedule(_) => Ok(Reply::Schedule(Arc::default())),
            Request::Clock => Ok(Reply::Clock(Date { year: 2026, month: 11, day: 22 })),
            Request::SetLed(state) => {
                self.led = *state;
                Ok(Reply::Done)
            }
            _ => Ok(Reply::Done),
        }
    }

    /// The firmware's reply to a request that switched it just now and reads its state.
    fn answer_both(&self, wanted: RelayState, at: Duration) -> Result<Reply, Failure> {
        match self.switch_and_read {
            SwitchAndRead::Both => Ok(Reply::Switched(Some(self.reading(at)))),
            SwitchAndRead::SwitchOnly => Ok(Reply::Switched(None)),
            SwitchAndRead::Refused => Err(Failure::Device { code: -3, message: "invalid argument".into() }),
            SwitchAndRead::Garbled => Err(Failure::Garbage("JSON cut off".into())),
            SwitchAndRead::NoAnswer => Err(Failure::Closed),
            SwitchAndRead::OldState => {
                Ok(Reply::Switched(Some(Reading { relay: Some(!wanted), ..self.reading(at) })))
            }
        }
    }

    /// The state that it reports.
    pub fn reading(&self, at: Duration) -> Reading {
        let seen = |relay: &Relay| {
            let lags = self.lags && at < relay.changed + LAG && relay.changed > Duration::ZERO;
            if lags { !relay.state } else { relay.state }
        };
        let on_time = |relay: &Relay| seen(relay).is_on().then(|| at.saturating_sub(relay.changed).as_secs());
        let outlet = |relay: &Relay| OutletState { relay: Some(seen(relay)), on_time: on_time(relay) };
        let single = self.relays.first().filter(|_| !self.is_strip());
        Reading {
            device: Arc::clone(&self.device),
            relay: single.map(seen),
            led: Some(self.led),
            on_time: single.and_then(on_time),
            rssi: Some(-50),
            brightness: None,
            outlets: if self.is_strip() { self.relays.iter().map(outlet).collect() } else { Box::default() },
            unread: Box::default(),
        }
    }
}

/// The address of a place on the LAN.
pub fn address(place: u16) -> Address {
    let [high, low] = place.to_be_bytes();
    Address::new(&format!("192.0.{}.{low}", 2 + high), XOR_PORT).expect("an address")
}

pub fn place(address: &Address) -> Option<u16> {
    let std::net::IpAddr::V4(ip) = address.socket()?.ip() else { return None };
    let [192, 0, high, low] = ip.octets() else { return None };
    Some(u16::from_be_bytes([high.checked_sub(2)?, low]))
}
