//! What a plug says of itself: whether that fulfils a wish, is a button pressed, or an older command carried out late.

use std::time::{Duration, Instant};

use super::{Desk, Plug, Reported};
use crate::bridge::event::{Ended, What};
use crate::bridge::wish::{Slot, Step, Want, Wish};
use crate::model::{RelayState, Route};
use crate::smarthome::message::Reading;

/// The relay shown by a reading may lag behind the command by about a third of a second.
const SECOND_READING: Duration = Duration::from_millis(350);
/// So many readings that do not show the wished state, and it is said again.
const MISMATCHES_UNTIL_AGAIN: u32 = 3;
/// Two moments of switching on that are computed from whole seconds are the same within this.
const SAME_MOMENT: Duration = Duration::from_millis(2500);

impl Plug {
    /// Takes a reading. `asked` is when the question was put: what was asked before the last known change is old.
    pub(super) fn read(&mut self, reading: Reading, asked: Instant, route: Route, desk: &mut Desk<'_>) {
        let previous = self.reported.as_ref().map(|reported| reported.asked);
        if previous.is_some_and(|previous| asked < previous) || self.acted.is_some_and(|acted| asked < acted)
        {
            return;
        }
        let on_since = self.on_since(&reading, desk.now);
        let (relay, led) = (reading.relay, reading.led);
        self.reported = Some(Reported { reading, asked, on_since });
        self.come_online(desk);
        if let Some(relay) = relay {
            self.compare_relay(relay, previous, route, desk);
        }
        if let Some(led) = led {
            self.compare(Slot::Led, Want::Led(led), route, desk);
        }
        if self.wishes[Slot::Read.index()].as_ref().is_some_and(|wish| asked >= wish.arrived) {
            self.show(desk);
            self.end(Slot::Read, Ended::Ok, Some(route), desk);
        }
        self.show(desk);
    }

    pub(super) fn on_since(&self, reading: &Reading, now: Instant) -> Option<Instant> {
        let computed = now.checked_sub(Duration::from_secs(reading.on_time?))?;
        let same = |known: &Instant| {
            known.saturating_duration_since(computed).max(computed.saturating_duration_since(*known))
                <= SAME_MOMENT
        };
        let known = self.reported.as_ref().and_then(|reported| reported.on_since);
        Some(known.filter(same).unwrap_or(computed))
    }

    pub(super) fn compare_relay(
        &mut self,
        relay: RelayState,
        previous: Option<Instant>,
        route: Route,
        desk: &mut Desk<'_>,
    ) {
        let Some(wish) = &mut self.wishes[Slot::Relay.index()] else {
            if self.is_late_execution(relay, previous) {
                return self.put_right(relay, desk);
            }
            self.settled = Some(relay);
            return;
        };
        if let Want::FlipRelay(flip) = wish.want {
            wish.want = Want::Relay(if flip { !relay } else { relay });
            return;
        }
        if self.compare(Slot::Relay, Want::Relay(relay), route, desk) {
            self.settled = Some(relay);
            self.watch_for_strays(relay, route);
        }
    }

    /// Whether the wish in this slot is at its read-back and `read` is it.
    pub(super) fn compare(&mut self, slot: Slot, read: Want, route: Route, desk: &mut Desk<'_>) -> bool {
        let Some(wish) = &mut self.wishes[slot.index()] else { return false };
        let Step::ReadBack { mismatches, not_before, .. } = &mut wish.step else { return false };
        if wish.want == read {
            self.show(desk);
            self.end(slot, Ended::Ok, Some(route), desk);
            return true;
        }
        *mismatches += 1;
        *not_before = desk.now + SECOND_READING;
        if *mismatches >= MISMATCHES_UNTIL_AGAIN {
            wish.step = Step::Act;
        }
        false
    }

    /// Requests of older commands may still be carried out: look again when the last of them is dead.
    pub(super) fn watch_for_strays(&mut self, settled: RelayState, route: Route) {
        self.defended_until = self.stray_until(!settled);
        if let Some(until) = self.defended_until {
            let poll_at = &mut self.poll_at[route.index()];
            *poll_at = (*poll_at).min(until);
        }
    }

    /// A state that differs from the settled one, while a request of an older command may have been carried out
    /// since the reading before.
    pub(super) fn is_late_execution(&self, relay: RelayState, previous: Option<Instant>) -> bool {
        let drifted = self.settled.is_some_and(|settled| settled != relay);
        drifted && self.defended_until.is_some_and(|until| previous.is_some_and(|previous| previous <= until))
    }

    pub(super) fn put_right(&mut self, relay: RelayState, desk: &mut Desk<'_>) {
        self.defended_until = None;
        let detail = format!("an older command switched it {relay} late; switching it {} again", !relay);
        desk.happened(What::DriftCorrected, self.name.as_ref(), detail);
        let deadline = desk.now + self.policy.command_ttl;
        self.wish(Wish::new(Want::Relay(!relay), None, desk.now, deadline), desk);
    }
}
