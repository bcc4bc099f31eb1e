//! One outlet: a relay with its meter and rules. A plug, a switch and a dimmer have one, a strip several.

use std::time::Instant;

use serde_json::{Value, json};

use crate::plug::meter::SimMeter;
use crate::plug::rules::OutletRules;

/// An outlet. Tests change it through its public fields.
#[derive(Debug, Clone)]
pub struct SimOutlet {
    /// The name that the user gave an outlet of a strip. On other devices only the device has one.
    pub alias: String,
    /// Its meter; used only if the model has one.
    pub meter: SimMeter,
    /// Its schedule and its count-down.
    pub rules: OutletRules,
    on_since: Option<Instant>,
}

impl SimOutlet {
    pub(super) fn new(alias: String) -> Self {
        Self { alias, meter: SimMeter::default(), rules: OutletRules::default(), on_since: None }
    }

    /// Whether its relay is on.
    pub(crate) fn is_on(&self) -> bool {
        self.on_since.is_some()
    }

    /// Switches the relay to this state. Returns whether that changed it.
    pub(super) fn switch(&mut self, on: bool, now: Instant) -> bool {
        let changes = on != self.is_on();
        if changes {
            self.on_since = on.then_some(now);
        }
        changes
    }

    /// Seconds since the relay was switched on; 0 while it is off.
    pub(super) fn on_time(&self, now: Instant) -> u64 {
        self.on_since.map_or(0, |since| now.saturating_duration_since(since).as_secs())
    }

    /// Its entry in the `children` of a strip.
    pub(super) fn as_child(&self, id: &str, now: Instant) -> Value {
        json!({
            "id": id,
            "state": u8::from(self.is_on()),
            "alias": self.alias,
            "on_time": self.on_time(now),
            "next_action": {"type": -1},
        })
    }

    /// Resets what a loss of power resets.
    pub(super) fn lose_power(&mut self) {
        self.meter.lose_power();
        self.rules.lose_power();
    }
}
