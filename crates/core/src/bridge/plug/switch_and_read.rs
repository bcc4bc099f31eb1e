//! Whether a firmware is switched and read in one request, which saves a round trip and a call to the cloud.
//!
//! Firmwares that drop, refuse or garble the second half are switched alone, and read afterwards.

use std::sync::Arc;

use crate::model::{Failure, Route};

/// What was seen of one plug's firmware.
#[derive(Debug, Default)]
pub(super) struct SwitchAndRead {
    /// A firmware version, and whether it takes both in one request.
    known: Option<(Arc<str>, bool)>,
    /// A combined request failed. The plug is switched alone over the same route, which shows whether the combination was
    /// the reason.
    doubt: Option<Doubt>,
    /// The weight of confirmed doubts.
    against: u8,
}

#[derive(Debug, Clone, Copy)]
struct Doubt {
    route: Route,
    weight: u8,
}

/// One refusal or one garbled reply is enough …
const ENOUGH: u8 = 2;
/// … and so are two missing replies: the network may have lost one of them.
const HALF: u8 = 1;

impl SwitchAndRead {
    /// Whether a combined request may be sent. `hangs`: one is in flight on the same route, and would be given up.
    pub(super) fn may_be_sent(&self, firmware: Option<&Arc<str>>, hangs: bool) -> bool {
        let takes_both = self.takes_both(firmware);
        let is_in_doubt = self.doubt.is_some() || (hangs && takes_both.is_none());
        !is_in_doubt && takes_both != Some(false)
    }

    /// A combined request was answered, with a reading or without.
    pub(super) fn answered(&mut self, firmware: Option<&Arc<str>>, was_read: bool) {
        if self.takes_both(firmware) != Some(was_read) {
            self.learn(firmware, was_read);
        }
    }

    /// A combined request failed. True if the combination may be the reason.
    pub(super) fn failed(&mut self, firmware: Option<&Arc<str>>, route: Route, failure: &Failure) -> bool {
        let is_known_to_work = self.takes_both(firmware) == Some(true);
        let weight = match failure {
            Failure::Device { .. } => ENOUGH,
            Failure::Garbage(_) if is_known_to_work => 0,
            Failure::Garbage(_) => ENOUGH,
            Failure::Closed if !is_known_to_work => HALF,
            Failure::Silent if !is_known_to_work => HALF,
            _ => return false,
        };
        self.doubt = Some(Doubt { route, weight });
        true
    }

    /// A combined request was given up without an answer.
    pub(super) fn given_up(&mut self, firmware: Option<&Arc<str>>, route: Route) {
        if self.takes_both(firmware).is_none() {
            self.doubt = Some(Doubt { route, weight: HALF });
        }
    }

    /// The plug was switched alone, or refused that. Over the route in doubt this settles the doubt.
    pub(super) fn switched_alone(&mut self, firmware: Option<&Arc<str>>, route: Route, was_done: bool) {
        let Some(doubt) = self.doubt.take_if(|doubt| doubt.route == route) else { return };
        if was_done {
            self.against += doubt.weight;
        }
        if self.against >= ENOUGH {
            self.learn(firmware, false);
        }
    }

    fn takes_both(&self, firmware: Option<&Arc<str>>) -> Option<bool> {
        self.known.as_ref().filter(|(known, _)| Some(known) == firmware).map(|&(_, takes)| takes)
    }

    fn learn(&mut self, firmware: Option<&Arc<str>>, takes_both: bool) {
        let Some(firmware) = firmware else { return };
        *self = Self { known: Some((Arc::clone(firmware), takes_both)), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_missing_replies_or_one_refusal_show_that_a_firmware_is_switched_alone() {
        let version: Arc<str> = "1.2.6".into();
        let firmware = Some(&version);
        let refusal = Failure::Device { code: -1, message: "module not support".into() };
        for (failure, times) in [(Failure::Silent, 2), (refusal, 1)] {
            let mut firmwares = SwitchAndRead::default();
            for _ in 0..times {
                assert!(firmwares.may_be_sent(firmware, false), "{failure:?}");
                assert!(firmwares.failed(firmware, Route::Local, &failure));
                assert!(!firmwares.may_be_sent(firmware, false), "in doubt after {failure:?}");
                firmwares.switched_alone(firmware, Route::Cloud, true);
                assert!(!firmwares.may_be_sent(firmware, false), "another route proves nothing");
                firmwares.switched_alone(firmware, Route::Local, true);
            }
            assert!(!firmwares.may_be_sent(firmware, false), "{failure:?}");
            assert!(firmwares.may_be_sent(Some(&"1.2.7".into()), false), "an update may have repaired it");
        }
    }

    #[test]
    fn a_plug_that_cannot_be_switched_alone_either_proves_nothing() {
        let version: Arc<str> = "1.2.6".into();
        let firmware = Some(&version);
        let mut firmwares = SwitchAndRead::default();
        firmwares.failed(firmware, Route::Local, &Failure::Garbage("no JSON".into()));
        firmwares.switched_alone(firmware, Route::Local, false);
        assert!(firmwares.may_be_sent(firmware, false));
    }

    #[test]
    fn a_silence_is_no_doubt_about_a_firmware_that_took_both_before() {
        let version: Arc<str> = "1.2.6".into();
        let firmware = Some(&version);
        let mut firmwares = SwitchAndRead::default();
        assert!(!firmwares.may_be_sent(firmware, true), "not known, and one of them hangs");
        firmwares.answered(firmware, true);
        assert!(firmwares.may_be_sent(firmware, true));
        assert!(!firmwares.failed(firmware, Route::Local, &Failure::Silent));
        firmwares.given_up(firmware, Route::Local);
        assert!(firmwares.may_be_sent(firmware, true));
    }
}
