//! Where a plug is on the LAN: the address in use, the one that the user wrote, and those that were seen.

use crate::model::Address;

/// The addresses of one plug. A sighting is believed at once only if the address in use does not answer.
#[derive(Debug, Default)]
pub(super) struct Location {
    /// The user wrote it.
    configured: Option<Address>,
    /// Requests go there.
    current: Option<Address>,
    /// The last answer came from there.
    answered: Option<Address>,
    /// The plug was sighted there as well; tried when `current` fails.
    candidate: Option<Address>,
    /// `current` comes from a sighting and has neither answered nor failed since.
    is_untested: bool,
}

/// Where a plug was sighted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sighted {
    /// At the address in use.
    Current,
    /// Elsewhere, while the address in use works or is being tested.
    Candidate,
    /// Elsewhere; the address in use does not answer.
    MoveTo(Address),
}

impl Location {
    pub(super) fn current(&self) -> Option<&Address> {
        self.current.as_ref()
    }

    pub(super) fn configured(&self) -> Option<&Address> {
        self.configured.as_ref()
    }

    /// Takes the address that the user wrote, and returns it if the plug has to move there.
    pub(super) fn configure(&mut self, address: Option<Address>) -> Option<Address> {
        if self.configured == address {
            return None;
        }
        self.configured.clone_from(&address);
        address.filter(|address| self.current.as_ref() != Some(address))
    }

    /// The plug was sighted. Another sighting may just be under test: one of the two may be a reflection.
    pub(super) fn sight(&mut self, address: Address, is_up: bool) -> Sighted {
        if self.current.as_ref() == Some(&address) {
            self.candidate = None;
            Sighted::Current
        } else if self.current.is_some() && (is_up || self.is_untested) {
            self.candidate = Some(address);
            Sighted::Candidate
        } else {
            Sighted::MoveTo(address)
        }
    }

    /// Takes the address of an earlier run. What was in use before becomes the candidate.
    pub(super) fn restore(&mut self, address: Option<Address>, was_tried: bool) {
        self.answered = self.answered.take().or_else(|| address.clone());
        let is_settled = self.current.is_some() && was_tried;
        if let Some(address) = address.filter(|address| !is_settled && self.current.as_ref() != Some(address))
        {
            self.candidate = self.current.replace(address);
        }
    }

    /// Another plug answered at the address in use.
    pub(super) fn lose(&mut self) {
        self.current.clone_from(&self.configured);
    }

    /// Requests go there from now on; `is_untested` until it answers or fails.
    pub(super) fn move_to(&mut self, address: Address, is_untested: bool) {
        self.current = Some(address);
        self.candidate = None;
        self.is_untested = is_untested;
    }

    /// The address in use answered or failed, or the user wrote it.
    pub(super) fn set_tested(&mut self) {
        self.is_untested = false;
    }

    pub(super) fn take_candidate(&mut self) -> Option<Address> {
        self.candidate.take()
    }

    /// The address in use answered. True if the last answer came from another one, which is returned too.
    pub(super) fn confirm(&mut self) -> (bool, Option<Address>) {
        self.candidate = None;
        self.is_untested = false;
        match &self.current {
            Some(current) if self.answered.as_ref() != Some(current) => {
                (true, self.answered.replace(current.clone()))
            }
            _ => (false, None),
        }
    }

    /// Each address where the plug may be, once: the one in use, that of the last answer, the user's.
    pub(super) fn all(&self) -> impl Iterator<Item = &Address> {
        let (current, answered, configured) = (&self.current, &self.answered, &self.configured);
        let answered = answered.iter().filter(move |&address| current.as_ref() != Some(address));
        let configured = configured.iter().filter(move |&address| {
            current.as_ref() != Some(address) && self.answered.as_ref() != Some(address)
        });
        current.iter().chain(answered).chain(configured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Address {
        Address::new(&format!("192.0.2.{last}"), 9999).unwrap()
    }

    #[test]
    fn a_sighting_elsewhere_waits_while_the_address_in_use_answers() {
        let mut location = Location::default();
        assert_eq!(location.sight(address(1), false), Sighted::MoveTo(address(1)));
        location.move_to(address(1), true);
        assert_eq!(location.sight(address(2), false), Sighted::Candidate, "the first one is under test");
        assert_eq!(location.confirm(), (true, None));
        assert_eq!(location.take_candidate(), None, "it answered where it is");
        assert_eq!(location.sight(address(2), true), Sighted::Candidate);
        assert_eq!(location.sight(address(1), true), Sighted::Current);
        assert_eq!(location.take_candidate(), None, "it was sighted where it is");
        assert_eq!(location.sight(address(2), false), Sighted::MoveTo(address(2)));
    }

    #[test]
    fn an_answer_from_a_new_address_names_the_one_before() {
        let mut location = Location::default();
        location.move_to(address(1), true);
        assert_eq!(location.confirm(), (true, None));
        assert_eq!(location.confirm(), (false, None));
        location.move_to(address(2), true);
        assert_eq!(location.confirm(), (true, Some(address(1))));
    }

    #[test]
    fn a_remembered_address_is_tried_before_the_configured_one_unless_that_was_tried() {
        let mut location = Location::default();
        let moves_to = location.configure(Some(address(1))).unwrap();
        location.move_to(moves_to, false);
        location.restore(Some(address(2)), true);
        assert_eq!(location.current(), Some(&address(1)));
        assert_eq!(location.all().cloned().collect::<Vec<_>>(), [address(1), address(2)]);
        location.restore(Some(address(2)), false);
        assert_eq!(location.current(), Some(&address(2)));
        assert_eq!(location.take_candidate(), Some(address(1)));
        location.lose();
        assert_eq!(location.current(), Some(&address(1)), "back to what the user wrote");
    }

    #[test]
    fn each_address_is_named_once() {
        let mut location = Location::default();
        location.configure(Some(address(1)));
        location.move_to(address(1), false);
        location.confirm();
        assert_eq!(location.all().count(), 1);
        location.move_to(address(2), true);
        assert_eq!(location.all().cloned().collect::<Vec<_>>(), [address(2), address(1)]);
    }
}
