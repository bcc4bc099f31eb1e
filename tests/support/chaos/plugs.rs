//! The plugs themselves: relays that hold a state whoever asks, an address that may move, and the ways in which a
//! plug, or the air around it, misbehaves.

use std::sync::Arc;
use std::time::Duration;

use hs100d::model::{Address, DeviceId, Failure, Mac, PlugName, RelayState};
use hs100d::smarthome::message::{
    CloudInfo, Date, DeviceInfo, Outlet, OutletDescription, OutletState, Reading, Reply, Request,
};

use super::dice::Dice;

/// A relay as it shows itself lags behind what it does by so much, with some firmwares.
const LAG: Duration = Duration::from_millis(330);

/// One plug, in the world and not in anybody's mind.
#[derive(Debug)]
pub struct Plug {
    pub number: usize,
    pub name: PlugName,
    /// What its outlets are called; empty for a plug of one relay.
    pub outlet_names: Vec<PlugName>,
    pub device_id: DeviceId,
    pub mac: Mac,
    pub relays: Vec<Relay>,
    led: RelayState,
    /// Where it is on the LAN.
    pub place: u16,
    pub air: Air,
    pub far: Far,
    pub temper: Temper,
    pub switch_and_read: SwitchAndRead,
    /// Its readings lag behind.
    lags: bool,
    /// Modules beside the relay that its firmware does not know.
    knows_little: bool,
    pub device: Arc<DeviceInfo>,
}

/// How a firmware takes a request that switches the relay and asks how it is.
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
    /// Most do as they should.
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

/// One relay.
#[derive(Debug, Clone, Copy)]
pub struct Relay {
    pub state: RelayState,
    /// When it changed last, since the start.
    changed: Duration,
}

/// How a request fares on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Air {
    #[default]
    Clear,
    /// Of what is sent either way, so much in a hundred is lost.
    Lossy(u8),
    /// Everything takes this long, give or take.
    Slow(Duration),
    /// Nothing comes through, and nothing says so.
    Dead,
    /// The firmware has closed the port.
    Refused,
    /// Connections are reset in the middle, some of them after the plug has done what it was told.
    Resets,
    /// The plug does what it is told and answers with rubbish.
    Garbage,
    /// The plug does what it is told at some moment before its time is up, and does not answer.
    Late,
    /// Each request is carried out twice.
    Twice,
}

impl Air {
    /// What is late is the hardest to bear, and so comes most often.
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

/// How a request fares between the cloud and the plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Far {
    #[default]
    Connected,
    /// The cloud says that the plug is offline.
    Offline,
    /// The cloud asks the plug and hears nothing in time.
    Silent,
    /// The plug does what it is told, and the answer comes when nobody waits for it any more.
    Late,
}

impl Far {
    pub const FAULTS: [Self; 3] = [Self::Offline, Self::Silent, Self::Late];
}

/// What is wrong with the plug itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Temper {
    #[default]
    Sound,
    /// Without power, or starting up: nothing answers.
    Dark,
    /// Says that it did what it was told, and did not.
    Lies,
    /// Refuses to be told anything.
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
            place: u16::try_from(number).expect("a small house"),
            air: Air::Clear,
            far: Far::Connected,
            temper: Temper::Sound,
            switch_and_read: SwitchAndRead::OF[number % SwitchAndRead::OF.len()],
            lags: dice.chance(0.2),
            knows_little: dice.chance(0.7),
        }
    }

    pub fn is_strip(&self) -> bool {
        !self.outlet_names.is_empty()
    }

    /// Every tenth plug stands behind a router that lets no broadcast through.
    pub fn hears_broadcasts(&self) -> bool {
        self.number % 10 != 4
    }

    /// Whether nothing at all is wrong with it or with the ways to it.
    pub fn is_well(&self) -> bool {
        (self.air, self.far, self.temper) == (Air::Clear, Far::Connected, Temper::Sound)
    }

    /// The part of the device that a relay is.
    pub fn part(&self, relay: usize) -> Option<Outlet> {
        self.is_strip().then(|| u8::try_from(relay).expect("a small strip"))
    }

    /// The relays that this request switches, and to which state.
    pub fn switched_by(&self, request: &Request) -> Option<(Vec<usize>, RelayState)> {
        match request {
            Request::SetRelayAndRead(_) if self.switch_and_read == SwitchAndRead::Refused => None,
            _ => self.told_to_switch_by(request),
        }
    }

    /// Which relays a request names, and the state that it wants. Nobody but the plug knows whether its firmware
    /// refuses it.
    pub fn told_to_switch_by(&self, request: &Request) -> Option<(Vec<usize>, RelayState)> {
        match request {
            Request::SetRelay(state) | Request::SetRelayAndRead(state) if !self.is_strip() => {
                Some((vec![0], *state))
            }
            Request::SetOutlets(outlets, state) => Some((outlets.iter().map(usize::from).collect(), *state)),
            _ => None,
        }
    }

    /// A hand, or a current that went away, at one of its relays.
    pub fn turn(&mut self, relay: usize, state: RelayState, at: Duration) {
        if self.relays[relay].state != state {
            self.relays[relay] = Relay { state, changed: at };
        }
    }

    /// What it answers to a request; whoever asks has switched the relays already, if it does as it is told.
    pub fn answer(&mut self, request: &Request, at: Duration) -> Result<Reply, Failure> {
        let unknown = || Failure::Device { code: -1, message: "module not support".into() };
        match request {
            Request::SysInfo => Ok(Reply::SysInfo(self.reading(at))),
            Request::SetRelay(_) | Request::SetRelayAndRead(_) if self.is_strip() => Err(unknown()),
            _ if self.temper == Temper::Stubborn => {
                Err(Failure::Device { code: -3, message: "invalid argument".into() })
            }
            Request::CloudInfo | Request::CountDown(_) | Request::Schedule(_) if self.knows_little => {
                Err(unknown())
            }
            Request::SetRelayAndRead(state) => self.answer_both(*state, at),
            Request::CloudInfo => {
                Ok(Reply::CloudInfo(CloudInfo { bound: true, connected: self.far != Far::Offline }))
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

    /// What its firmware makes of a request that switched it just now and asks how it is.
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

    /// What it says of itself.
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

/// What the LAN calls a place on it.
pub fn address(place: u16) -> Address {
    let [high, low] = place.to_be_bytes();
    Address::new(&format!("192.0.{}.{low}", 2 + high), 9999).expect("an address")
}

/// The place that is called so.
pub fn place(address: &Address) -> Option<u16> {
    let std::net::IpAddr::V4(ip) = address.socket()?.ip() else { return None };
    let [192, 0, high, low] = ip.octets() else { return None };
    Some(u16::from_be_bytes([high.checked_sub(2)?, low]))
}
