//! What a plug reported last, and which answers are older than that.

use std::sync::Arc;
use std::time::Instant;

use crate::model::RelayState;
use crate::smarthome::message::{DeviceInfo, DeviceKind, Outlet, OutletState, Reading};

/// The last reading.
#[derive(Debug, Default)]
pub(super) struct Reported {
    reading: Option<Reading>,
    /// When it was requested.
    requested_at: Option<Instant>,
    /// When the plug last confirmed a change. Readings that were requested earlier are old.
    changed_at: Option<Instant>,
    /// Whether the plug says that it is connected to TP-Link's cloud.
    pub(super) cloud_connected: Option<bool>,
}

impl Reported {
    pub(super) fn reading(&self) -> Option<&Reading> {
        self.reading.as_ref()
    }

    pub(super) fn device(&self) -> Option<&Arc<DeviceInfo>> {
        self.reading().map(|reading| &reading.device)
    }

    pub(super) fn requested_at(&self) -> Option<Instant> {
        self.requested_at
    }

    pub(super) fn firmware(&self) -> Option<&Arc<str>> {
        self.device().map(|device| &device.sw_version)
    }

    pub(super) fn kind(&self) -> Option<DeviceKind> {
        self.device().map(|device| device.what())
    }

    pub(super) fn is_strip(&self) -> bool {
        self.reading().is_some_and(|reading| !reading.outlets.is_empty())
    }

    /// Whether the same requests suit this device and the last one.
    pub(super) fn is_like(&self, device: &DeviceInfo) -> bool {
        self.device().is_some_and(|known| {
            known.feature == device.feature && known.outlets.len() == device.outlets.len()
        })
    }

    /// The state of a relay; a strip is on while any outlet is.
    pub(super) fn relay(&self, part: Option<Outlet>) -> Option<RelayState> {
        let reading = self.reading()?;
        match part {
            Some(outlet) => reading.outlets.get(usize::from(outlet)).and_then(|outlet| outlet.relay),
            None if reading.outlets.is_empty() => reading.relay,
            None => {
                let is = |outlet: &OutletState, state| outlet.relay == Some(state);
                let all_off = reading.outlets.iter().all(|outlet| is(outlet, RelayState::Off));
                let any_on = reading.outlets.iter().any(|outlet| is(outlet, RelayState::On));
                (any_on || all_off).then_some(RelayState::from_bool(any_on))
            }
        }
    }

    /// The plug confirmed a change.
    pub(super) fn note_change(&mut self, now: Instant) {
        self.changed_at = Some(now);
    }

    /// Whether an answer to a request of this moment may be older than what is known.
    pub(super) fn is_old(&self, requested_at: Instant) -> bool {
        self.requested_at.max(self.changed_at).is_some_and(|known| requested_at < known)
    }

    /// Takes a reading that is not old, and returns the one before.
    pub(super) fn replace(&mut self, reading: Reading, requested_at: Instant) -> Option<Reading> {
        self.requested_at = Some(requested_at);
        self.reading.replace(reading)
    }
}

/// Seconds since the relay of this part went on.
pub(super) fn on_time(reading: &Reading, part: Option<Outlet>) -> Option<u64> {
    match part {
        None => reading.on_time,
        Some(outlet) => reading.outlets.get(usize::from(outlet))?.on_time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::plug::test_support;
    use std::time::Duration;

    fn reading(more: &str) -> Reading {
        test_support::reading("HS300(US)", more)
    }

    fn strip(states: [u8; 2]) -> Reading {
        let [one, other] = states;
        reading(&format!(
            r#""child_num":2,"children":[{{"id":"00","state":{one},"alias":"a"}},{{"id":"01","state":{other},"alias":"b"}}]"#
        ))
    }

    #[test]
    fn an_answer_is_old_if_a_newer_one_or_a_change_came_after_its_request() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut reported = Reported::default();
        assert!(!reported.is_old(at(0)), "nothing is known");
        reported.replace(reading(r#""relay_state":1"#), at(2));
        assert!(reported.is_old(at(1)) && !reported.is_old(at(2)));
        reported.note_change(at(4));
        assert!(reported.is_old(at(3)) && !reported.is_old(at(4)));
    }

    #[test]
    fn a_strip_is_on_while_any_outlet_is() {
        let mut reported = Reported::default();
        for (states, expected) in [([0, 0], RelayState::Off), ([0, 1], RelayState::On)] {
            reported.replace(strip(states), Instant::now());
            assert!(reported.is_strip());
            assert_eq!(reported.relay(None), Some(expected), "{states:?}");
            assert_eq!(reported.relay(Some(1)), Some(expected));
            assert_eq!(reported.relay(Some(2)), None);
        }
    }

    #[test]
    fn other_requests_suit_a_device_with_other_features_or_outlets() {
        let mut reported = Reported::default();
        let plain = reading(r#""feature":"TIM","relay_state":1"#);
        assert!(!reported.is_like(&plain.device));
        reported.replace(plain.clone(), Instant::now());
        assert!(reported.is_like(&plain.device));
        assert!(!reported.is_like(&reading(r#""feature":"TIM:ENE","relay_state":1"#).device));
        assert!(!reported.is_like(&strip([0, 0]).device));
    }
}
