//! One plug, shared by the LAN, the cloud and the test. The lock is held for one call, never over an await.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use crate::fault::CloudLink;
use crate::notify::ChangeNotifier;
use crate::plug::outlet::SimOutlet;
use crate::plug::{SimPlug, Switching, Traffic};

/// Shares one [`SimPlug`]. Cheap to clone; all clones are the same plug.
#[derive(Clone)]
pub struct PlugHandle(Arc<Shared>);

struct Shared {
    plug: Mutex<SimPlug>,
    /// Watched by the plug's task on the LAN.
    changed: watch::Sender<()>,
    /// Watched by tests that wait for a condition.
    notifier: ChangeNotifier,
}

impl PlugHandle {
    /// Shares `plug`; each change of it notifies `notifier`.
    pub fn new(plug: SimPlug, notifier: ChangeNotifier) -> Self {
        Self(Arc::new(Shared { plug: Mutex::new(plug), changed: watch::Sender::new(()), notifier }))
    }

    /// Reads the state of the plug.
    pub fn read<R>(&self, look: impl FnOnce(&SimPlug) -> R) -> R {
        let mut plug = self.lock();
        plug.pass_time(Instant::now());
        look(&plug)
    }

    /// Changes any of the plug's fields and faults. The next request sees the change. If a listening socket has to
    /// close or open for it, wait with [`SimLan::settled`](super::lan::SimLan::settled).
    pub fn with<R>(&self, change: impl FnOnce(&mut SimPlug) -> R) -> R {
        let result = {
            let mut plug = self.lock();
            plug.pass_time(Instant::now());
            let result = change(&mut plug);
            plug.pass_time(Instant::now());
            result
        };
        self.0.changed.send_replace(());
        self.0.notifier.notify();
        result
    }

    /// Presses the button on the plug, which toggles the relay.
    pub fn press_button(&self) {
        self.with(|plug| plug.press_button(Instant::now()));
    }

    /// Presses the button of one outlet of a strip, counted from 0.
    ///
    /// # Panics
    /// If there is no such outlet.
    pub fn press_button_of(&self, outlet: usize) {
        self.with(|plug| plug.press_button_of(outlet, Instant::now()));
    }

    /// Whether the relay is on; of a strip, whether any relay is.
    pub fn is_on(&self) -> bool {
        self.read(SimPlug::is_on)
    }

    /// Whether the relay of each outlet is on; a device that is not a strip has one.
    pub fn outlets_on(&self) -> Vec<bool> {
        self.read(|plug| plug.outlets.iter().map(SimOutlet::is_on).collect())
    }

    /// Whether the LED is on; `led_off` in `get_sysinfo` is the inverse.
    pub fn is_led_on(&self) -> bool {
        self.read(SimPlug::is_led_on)
    }

    /// The device id, 40 hexadecimal digits.
    pub fn device_id(&self) -> String {
        self.read(|plug| plug.device_id.clone())
    }

    /// The MAC address, with colons.
    pub fn mac(&self) -> String {
        self.read(|plug| plug.mac.clone())
    }

    /// The name that the user gave it.
    pub fn alias(&self) -> String {
        self.read(|plug| plug.alias.clone())
    }

    /// The last switchings of the relay, oldest first.
    pub fn switchings(&self) -> Vec<Switching> {
        self.read(|plug| plug.switchings().copied().collect())
    }

    /// The counters of requests and connections.
    pub fn traffic(&self) -> Traffic {
        self.read(|plug| plug.traffic)
    }

    /// Changes how the cloud reaches it.
    pub fn set_cloud(&self, link: CloudLink) {
        self.with(|plug| plug.cloud = link);
    }

    /// Receives each change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, SimPlug> {
        self.0.plug.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PlugHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.lock(), f)
    }
}
