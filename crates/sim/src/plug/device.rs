//! The state of a simulated device, and what changes it without a request: buttons, restarts, count-downs, loss of
//! power.

use std::fmt;
use std::time::{Duration, Instant};

use crate::fault::{CloudLink, Dialect, LanFault, SwitchAndReadFault};
use crate::model::{Ids, Model};
use crate::plug::clock::PlugClock;
use crate::plug::dimmer::Dimmer;
use crate::plug::klap::SimKlap;
use crate::plug::outlet::SimOutlet;
use crate::plug::record::{SwitchedBy, Switching, Switchings, Traffic};

/// How long a restart of the firmware takes by default. Real plugs need a few seconds.
const BOOT_TIME: Duration = Duration::from_millis(300);

/// A device of any model. Tests change it through its public fields.
#[derive(Clone)]
pub struct SimPlug {
    /// Its model.
    pub model: Model,
    /// 40 hexadecimal digits.
    pub device_id: String,
    /// With colons.
    pub(crate) mac: String,
    /// The name that the user gave it.
    pub alias: String,
    /// Wi-Fi signal in dBm.
    pub rssi: i32,
    /// One outlet, or those of a strip.
    pub outlets: Vec<SimOutlet>,
    /// The form of a strip's outlet ids on the LAN.
    pub ids: Ids,
    /// Used only if the model dims.
    pub dimmer: Dimmer,
    /// Its own clock.
    pub clock: PlugClock,
    /// Replies `{"system":{}}` to `"get_sysinfo": null`, as a KP303 with firmware 1.0.6 does.
    pub(crate) ignores_null: bool,
    /// Refuses to switch its relay with this `err_code`, over each route. Reads still work.
    pub(crate) refuses_to_switch: Option<i64>,
    /// How it handles a request that switches and reads.
    pub switch_and_read: SwitchAndReadFault,
    /// Whether it has power. Without power the LAN refuses and the cloud reports it as offline; meters and count-downs
    /// are lost.
    pub powered: bool,
    /// How long a restart takes.
    pub boot_time: Duration,
    /// Its fault on the LAN.
    pub lan: LanFault,
    /// Which protocols it speaks on the LAN.
    pub dialect: Dialect,
    /// Its KLAP, if it speaks it.
    pub klap: SimKlap,
    /// Whether it receives broadcasts. Some networks drop them.
    pub hears_broadcasts: bool,
    /// How the cloud reaches it.
    pub cloud: CloudLink,
    /// Whether the account owns it. If not, the account does not list it and the cloud returns -20580.
    pub bound: bool,
    /// The index of the cloud host that serves it; 0 is the global entry.
    pub region: usize,
    /// A wrong `appServerUrl` for the device list.
    pub app_server_url: Option<String>,
    /// Counters of requests and connections.
    pub(crate) traffic: Traffic,
    pub(super) led_on: bool,
    restart: Option<Restart>,
    switchings: Switchings,
}

impl SimPlug {
    /// A device as it is sold, off and with its LED on, but in an account.
    ///
    /// The device id and the MAC address are made from `number`.
    pub fn new(model: Model, number: u32, alias: &str, now: Instant) -> Self {
        let [_, a, b, c] = number.to_be_bytes();
        Self {
            model,
            device_id: format!("8006{number:036X}"),
            mac: format!("50:C7:BF:{a:02X}:{b:02X}:{c:02X}"),
            alias: alias.to_owned(),
            rssi: -47,
            outlets: outlets_of(model, alias),
            ids: model.ids,
            dimmer: Dimmer { brightness: 50 },
            clock: PlugClock::new(now),
            ignores_null: false,
            refuses_to_switch: None,
            switch_and_read: SwitchAndReadFault::Both,
            powered: true,
            boot_time: BOOT_TIME,
            lan: LanFault::Works,
            dialect: Dialect::Xor,
            klap: SimKlap::new(model.klap),
            hears_broadcasts: true,
            cloud: CloudLink::Works,
            bound: true,
            region: 1,
            app_server_url: None,
            traffic: Traffic::default(),
            led_on: true,
            restart: None,
            switchings: Switchings::default(),
        }
    }

    /// Applies what is due at `now`: count-downs end, a KLAP session ends with a restart or with the protocol, and a
    /// device without power loses its state.
    pub(crate) fn pass_time(&mut self, now: Instant) {
        if !self.powered {
            self.klap.forget_before(now);
            return self.outlets.iter_mut().for_each(SimOutlet::lose_power);
        }
        if let Some(restart) = self.restart.filter(|restart| restart.from <= now) {
            self.klap.forget_before(restart.from);
        }
        if !self.dialect.speaks_klap() {
            self.klap.end_session();
        }
        while let Some((at, outlet, on)) = self.next_expiry().filter(|&(at, ..)| at <= now) {
            self.outlets[outlet].rules.expire();
            self.switch(outlet, on, SwitchedBy::CountDown, at);
        }
    }

    /// Presses the button, which toggles the relay. Nothing happens without power. On a strip this is the button of the
    /// first outlet; see [`SimPlug::press_button_of`].
    pub(crate) fn press_button(&mut self, now: Instant) {
        self.press_button_of(0, now);
    }

    /// Presses the button of one outlet, counted from 0.
    ///
    /// # Panics
    /// If there is no such outlet.
    pub fn press_button_of(&mut self, outlet: usize, now: Instant) {
        if self.powered {
            self.switch(outlet, !self.outlets[outlet].is_on(), SwitchedBy::Button, now);
        }
    }

    /// Whether the relay is on; of a strip, whether any relay is.
    pub(crate) fn is_on(&self) -> bool {
        self.outlets.iter().any(SimOutlet::is_on)
    }

    pub(crate) fn is_led_on(&self) -> bool {
        self.led_on
    }

    /// Whether its outlets have ids.
    pub fn is_strip(&self) -> bool {
        self.model.outlets > 0
    }

    /// The id of an outlet on this route.
    pub(crate) fn outlet_id(&self, outlet: usize, by: SwitchedBy) -> String {
        let long = match self.ids {
            _ if by == SwitchedBy::Cloud => true,
            Ids::Short => false,
            Ids::Long => true,
            Ids::LongOverTcp => matches!(by, SwitchedBy::Lan | SwitchedBy::Klap),
        };
        if long { format!("{}{outlet:02}", self.device_id) } else { format!("{outlet:02}") }
    }

    /// The last switchings, oldest first; [`Traffic::relay_orders`] counts all.
    pub fn switchings(&self) -> impl Iterator<Item = &Switching> {
        self.switchings.iter()
    }

    /// Whether it has power and is not restarting.
    pub(crate) fn is_up(&self, now: Instant) -> bool {
        self.powered && !self.restart.is_some_and(|restart| restart.from <= now && now < restart.until)
    }

    /// Whether the cloud sees it as connected.
    pub(crate) fn is_cloud_connected(&self, now: Instant) -> bool {
        self.is_up(now) && self.bound && self.cloud != CloudLink::Offline
    }

    /// The next change without a request: [`SimPlug::is_up`] changes, or a count-down ends.
    pub(crate) fn next_change(&self, now: Instant) -> Option<Instant> {
        let restart = self.restart.into_iter().flat_map(|restart| [restart.from, restart.until]);
        let expiry = self.next_expiry().filter(|_| self.powered).map(|(at, ..)| at);
        restart.filter(|&at| at > now).chain(expiry).min()
    }

    /// The state that its listening sockets should have.
    pub(crate) fn tcp_ports(&self, now: Instant) -> TcpPorts {
        let of = |is_open: bool| match self.lan {
            _ if !is_open || !self.is_up(now) => PortBehaviour::Shut,
            LanFault::Refused | LanFault::PortDead => PortBehaviour::Shut,
            LanFault::NotAccepting | LanFault::PortFiltered => PortBehaviour::Jammed,
            _ => PortBehaviour::Open,
        };
        TcpPorts {
            xor: of(self.dialect.speaks_xor()),
            klap: of(self.dialect.speaks_klap() && self.klap.is_open()),
            klap_port: self.klap.port,
        }
    }

    pub(super) fn switch(&mut self, outlet: usize, on: bool, by: SwitchedBy, at: Instant) {
        let changed = self.outlets[outlet].switch(on, at);
        self.switchings.push(Switching { at, outlet, on, by, changed });
        self.traffic.relay_orders += 1;
    }

    pub(super) fn restart_after(&mut self, delay_seconds: u64, now: Instant) {
        // A delay that an `Instant` cannot hold never ends.
        let from = now.checked_add(Duration::from_secs(delay_seconds));
        self.restart = from.map(|from| Restart { from, until: from + self.boot_time });
        self.traffic.restarts += 1;
    }

    /// The count-down that ends first: its end, the outlet, and the state that it switches to.
    fn next_expiry(&self) -> Option<(Instant, usize, bool)> {
        let outlets = self.outlets.iter().enumerate();
        outlets.filter_map(|(number, outlet)| outlet.rules.due().map(|(at, on)| (at, number, on))).min()
    }
}

fn outlets_of(model: Model, alias: &str) -> Vec<SimOutlet> {
    match model.outlets {
        0 => vec![SimOutlet::new(String::new())],
        count => (1..=count).map(|number| SimOutlet::new(format!("{alias} {number}"))).collect(),
    }
}

/// Leaves out the device id, which belongs in no log, not even a simulated one.
impl fmt::Debug for SimPlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPlug")
            .field("alias", &self.alias)
            .field("on", &self.is_on())
            .field("lan", &self.lan)
            .field("cloud", &self.cloud)
            .finish_non_exhaustive()
    }
}

/// The state of a plug's listening sockets, by protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpPorts {
    /// The socket of the XOR protocol.
    pub(crate) xor: PortBehaviour,
    /// The socket of KLAP.
    pub(crate) klap: PortBehaviour,
    /// The port of KLAP, if the plug has its own.
    pub(crate) klap_port: Option<u16>,
}

/// The state of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortBehaviour {
    /// It accepts connections.
    Open,
    /// It is closed: connections are refused.
    Shut,
    /// Its backlog is full: connections hang.
    Jammed,
}

/// A restart of the firmware, during which the plug answers nothing.
#[derive(Debug, Clone, Copy)]
struct Restart {
    from: Instant,
    until: Instant,
}
