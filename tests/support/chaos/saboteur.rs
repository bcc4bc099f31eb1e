//! Deliberate faults of the daemon. Each breaks one promise, which shows that the judge notices it.

use std::time::Duration;

use hs100d::bridge::event::{Exchange, Identity, Outcome, Target, Update};
use hs100d::model::{Availability, Failure};

use super::World;
use super::judge::{Cause, Promise};
use super::lan::Flight;

/// One fault of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Closes connections instead of resetting them, so that the kernel delivers a request after its deadline.
    ClosesInsteadOfResetting,
    /// Notices the late effect of an older command but does not correct it.
    GivesUpCorrections,
    NeverComesHome,
    /// Keeps a desired state after its deadline.
    KeepsExpiredRequests,
    /// Mistakes a button press for an older command.
    CorrectsButtons,
    AsksTwice,
    /// Repeats a request at once after its reply.
    Hammers,
    LogsInTwice,
    LogsInAfterRefusal,
    /// A reload forgets which password was refused.
    RepeatsRefusedLogins,
    /// Forgets the limits for logins again and again.
    ForgivesItself,
    Overspends,
    /// Shows the desired state instead of the read one.
    ShowsDesired,
    HidesTheDead,
    HidesProtocolChanges,
    InventsProtocolChanges,
    /// Takes any plug that answers at an address for the one that was there before.
    TrustsAddresses,
    ForgetsResults,
    AnswersTwice,
    /// One plug that does not answer delays all others.
    WaitsForTheDead,
    AdoptsEverybody,
    /// An expired timer stays in the list.
    Spins,
}

impl Sabotage {
    /// Every sabotage, and the promise that it breaks.
    pub const ALL: [(Self, Promise); 22] = [
        (Self::ClosesInsteadOfResetting, Promise::NothingUnasked),
        (Self::GivesUpCorrections, Promise::Settles),
        (Self::NeverComesHome, Promise::ComesHome),
        (Self::KeepsExpiredRequests, Promise::NothingUnasked),
        (Self::CorrectsButtons, Promise::CorrectsWithCause),
        (Self::AsksTwice, Promise::OneOnAWire),
        (Self::Hammers, Promise::RepeatsSlowly),
        (Self::LogsInTwice, Promise::OneLogin),
        (Self::LogsInAfterRefusal, Promise::NoLoginAfterRefusal),
        (Self::RepeatsRefusedLogins, Promise::NoLoginAfterRefusal),
        (Self::ForgivesItself, Promise::FewLogins),
        (Self::Overspends, Promise::Budget),
        (Self::ShowsDesired, Promise::ShowsWhatWasRead),
        (Self::HidesTheDead, Promise::SaysOffline),
        (Self::HidesProtocolChanges, Promise::ReportsProtocol),
        (Self::InventsProtocolChanges, Promise::ReportsProtocol),
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
            Some(Sabotage::KeepsExpiredRequests) if exchange.request.changes_something() => {
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
                self.judge.repeats(plug, exchange);
            }
            _ => {}
        }
    }

    /// An update of the daemon after the sabotage.
    pub(super) fn sabotaged_update(&mut self, update: Update) -> Option<Update> {
        match update {
            Update::State(name, mut state) if self.sabotages(Sabotage::ShowsDesired) => {
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
            Update::State(name, state) if self.sabotages(Sabotage::InventsProtocolChanges) => {
                if let Some((plug, _)) = self.whose(&name).filter(|_| self.dice.chance(0.01)) {
                    self.judge.reports_protocol(plug, "xor -> klap");
                }
                Some(Update::State(name, state))
            }
            Update::Availability(_, Availability::Offline) if self.sabotages(Sabotage::HidesTheDead) => None,
            update => Some(update),
        }
    }

    /// Whether this request, a correction, is dropped.
    pub(super) fn gives_up_corrections(&self, flight: &Flight) -> bool {
        let corrects = |&(_, cause): &(usize, Option<Cause>)| matches!(cause, Some(Cause::Correction(_)));
        self.sabotages(Sabotage::GivesUpCorrections) && flight.causes.iter().any(corrects)
    }

    /// All plugs wait for the one that does not answer.
    pub(super) fn sabotage_silence(&mut self, outcome: &Outcome) {
        if self.sabotages(Sabotage::WaitsForTheDead) && outcome.result == Err(Failure::Silent) {
            let from = self.at.max(self.frozen_until);
            self.frozen_until = self.at + Duration::from_secs(3);
            self.hold_ups.push((from, self.frozen_until));
        }
    }

    /// How many times this result leaves the daemon.
    pub(super) fn sabotage_result(&mut self) -> usize {
        match self.plan.sabotage {
            Some(Sabotage::ForgetsResults) if self.dice.chance(0.05) => 0,
            Some(Sabotage::AnswersTwice) if self.dice.chance(0.05) => 2,
            _ => 1,
        }
    }
}
