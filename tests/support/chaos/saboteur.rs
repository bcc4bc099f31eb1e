//! Faults in the daemon itself, made on purpose: each breaks one promise, so that we know that the judge can see it.

use std::time::Duration;

use hs100d::bridge::event::{Exchange, Identity, Outcome, Target, Update};
use hs100d::model::{Availability, Failure};

use super::World;
use super::judge::{Cause, Promise};
use super::lan::Flight;

/// One fault of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Connections are closed and not reset, so that the kernel delivers a request whose time is over.
    ClosesInsteadOfResetting,
    /// What an older command did late is seen, and nothing comes of that.
    GivesUpCorrections,
    NeverComesHome,
    /// A wish outlives its time.
    KeepsDeadWishes,
    /// A button is taken for an older command.
    CorrectsButtons,
    AsksTwice,
    /// What was answered is asked again at once.
    Hammers,
    LogsInTwice,
    LogsInAfterRefusal,
    /// A reload forgets which password was refused.
    RepeatsRefusedLogins,
    /// Limits on logins are forgotten again and again.
    ForgivesItself,
    Overspends,
    /// What is wished is shown, and not what was read.
    ShowsTheWish,
    HidesTheDead,
    /// Whoever answers at an address is taken for the plug that was there before.
    TrustsAddresses,
    ForgetsResults,
    AnswersTwice,
    /// One plug that does not answer holds up all the others.
    WaitsForTheDead,
    AdoptsEverybody,
    /// A timer that has expired is not taken off the list.
    Spins,
}

impl Sabotage {
    /// Every fault, and the promise that it breaks.
    pub const ALL: [(Self, Promise); 20] = [
        (Self::ClosesInsteadOfResetting, Promise::NothingUnasked),
        (Self::GivesUpCorrections, Promise::Settles),
        (Self::NeverComesHome, Promise::ComesHome),
        (Self::KeepsDeadWishes, Promise::NothingUnasked),
        (Self::CorrectsButtons, Promise::CorrectsWithCause),
        (Self::AsksTwice, Promise::OneOnAWire),
        (Self::Hammers, Promise::RepeatsSlowly),
        (Self::LogsInTwice, Promise::OneLogin),
        (Self::LogsInAfterRefusal, Promise::NoLoginAfterRefusal),
        (Self::RepeatsRefusedLogins, Promise::NoLoginAfterRefusal),
        (Self::ForgivesItself, Promise::FewLogins),
        (Self::Overspends, Promise::Budget),
        (Self::ShowsTheWish, Promise::ShowsWhatWasRead),
        (Self::HidesTheDead, Promise::SaysOffline),
        (Self::TrustsAddresses, Promise::RightPlug),
        (Self::ForgetsResults, Promise::OneResult),
        (Self::AnswersTwice, Promise::OneResult),
        (Self::WaitsForTheDead, Promise::ServesTheHealthy),
        (Self::AdoptsEverybody, Promise::Bounded),
        (Self::Spins, Promise::GoesOn),
    ];
}

impl World {
    fn sabotages(&self, sabotage: Sabotage) -> bool {
        self.plan.sabotage == Some(sabotage)
    }

    pub(super) fn sabotage_exchange(&mut self, exchange: &mut Exchange, plug: usize) {
        match self.plan.sabotage {
            Some(Sabotage::KeepsDeadWishes) if exchange.request.changes_something() => {
                exchange.deadline += Duration::from_secs(40);
            }
            Some(Sabotage::TrustsAddresses) if exchange.request.changes_something() => {
                if let Target::Local { expect, .. } = &mut exchange.target {
                    *expect = Identity::default();
                }
            }
            Some(Sabotage::AsksTwice) if self.dice.chance(0.001) => {
                let (route, id) = (exchange.route(), exchange.id);
                self.judge.asks(plug, route, id);
            }
            Some(Sabotage::Hammers) if self.dice.chance(0.001) => {
                self.judge.repeats(plug, exchange.route(), &exchange.request);
            }
            _ => {}
        }
    }

    /// What the daemon says, after somebody has had his hands on it.
    pub(super) fn sabotaged_update(&mut self, update: Update) -> Option<Update> {
        match update {
            Update::State(name, mut state) if self.sabotages(Sabotage::ShowsTheWish) => {
                if self.dice.chance(0.05) {
                    state.relay = !state.relay;
                }
                Some(Update::State(name, state))
            }
            Update::State(name, state) if self.sabotages(Sabotage::CorrectsButtons) => {
                if let Some((plug, relay)) = self.whose(&name).filter(|_| self.dice.chance(0.01)) {
                    self.judge.corrects(plug, relay.unwrap_or(0), Duration::ZERO);
                }
                Some(Update::State(name, state))
            }
            Update::Availability(_, Availability::Offline) if self.sabotages(Sabotage::HidesTheDead) => None,
            update => Some(update),
        }
    }

    /// Whether this request, which puts something right, goes nowhere.
    pub(super) fn gives_up_corrections(&self, flight: &Flight) -> bool {
        let corrects = |&(_, cause): &(usize, Option<Cause>)| matches!(cause, Some(Cause::Correction(_)));
        self.sabotages(Sabotage::GivesUpCorrections) && flight.causes.iter().any(corrects)
    }

    /// Somebody waits for an answer, and everybody waits with him.
    pub(super) fn sabotage_silence(&mut self, outcome: &Outcome) {
        if self.sabotages(Sabotage::WaitsForTheDead) && outcome.result == Err(Failure::Silent) {
            let from = self.at.max(self.frozen_until);
            self.frozen_until = self.at + Duration::from_secs(3);
            self.hold_ups.push((from, self.frozen_until));
        }
    }

    /// Whether this result never leaves the daemon, and whether it leaves it twice.
    pub(super) fn sabotage_result(&mut self) -> usize {
        match self.plan.sabotage {
            Some(Sabotage::ForgetsResults) if self.dice.chance(0.05) => 0,
            Some(Sabotage::AnswersTwice) if self.dice.chance(0.05) => 2,
            _ => 1,
        }
    }
}
