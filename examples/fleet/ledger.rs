//! The ledger of all commands: what the broker acknowledged, what the site answered, and what the plug did. No socket.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// After this time no result comes: a site drops a command after ten seconds, with a result.
pub(crate) const LIFE: Duration = Duration::from_secs(15);

/// The acknowledgement of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Not received yet.
    Awaited,
    /// It has a subscriber.
    Taken,
    /// It has no subscriber (reason code 0x10).
    Nobody,
    /// The sender's connection ended before.
    CutOff,
}

/// What is sent to whom by whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) site: usize,
    pub(crate) plug: usize,
    /// The client that sends it.
    pub(crate) sender: usize,
    pub(crate) on: bool,
}

/// One command. Its transaction is its index in the ledger.
#[derive(Debug)]
struct Entry {
    site: usize,
    plug: usize,
    /// The client that sent it.
    sender: usize,
    on: bool,
    sent: Instant,
    ack: Ack,
    /// The time and the status of its first result.
    ended: Option<(Instant, String)>,
    /// When the plug was switched to `on` while this was its last command.
    executed: Vec<Instant>,
}

/// All commands.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    /// The last command to each plug.
    last: HashMap<usize, usize>,
    /// How often plugs were switched without a command.
    unasked: u64,
}

impl Ledger {
    /// Adds a command that is about to be sent, and returns its transaction; `None` while the plug's last command may still
    /// have a result.
    pub(crate) fn send(&mut self, order: Order, now: Instant) -> Option<usize> {
        let Order { site, plug, sender, on } = order;
        let is_open = |entry: &Entry| entry.ended.is_none() && now < entry.sent + LIFE;
        if self.last.get(&plug).is_some_and(|last| is_open(&self.entries[*last])) {
            return None;
        }
        let entry =
            Entry { site, plug, sender, on, sent: now, ack: Ack::Awaited, ended: None, executed: Vec::new() };
        self.entries.push(entry);
        let transaction = self.entries.len() - 1;
        self.last.insert(plug, transaction);
        Some(transaction)
    }

    pub(crate) fn acknowledge(&mut self, transaction: usize, ack: Ack) {
        self.entries[transaction].ack = ack;
    }

    /// A result was heard; each listener hears it.
    pub(crate) fn result(&mut self, transaction: u64, status: &str, now: Instant) {
        let entry = usize::try_from(transaction).ok().and_then(|place| self.entries.get_mut(place));
        if let Some(entry) = entry {
            entry.ended.get_or_insert_with(|| (now, status.to_owned()));
        }
    }

    /// A plug was switched.
    pub(crate) fn switched(&mut self, plug: usize, on: bool, at: Instant) {
        let entry = self.last.get(&plug).map(|last| &mut self.entries[*last]);
        match entry.filter(|entry| entry.on == on) {
            Some(entry) => entry.executed.push(at),
            None => self.unasked += 1,
        }
    }

    /// How often plugs were switched though the last command to them did not ask for it.
    pub(crate) fn unasked(&self) -> u64 {
        self.unasked
    }

    /// The number of commands sent up to then that may still get a result.
    pub(crate) fn open(&self, until: Instant, now: Instant) -> usize {
        let is_open =
            |entry: &&Entry| entry.sent <= until && entry.ended.is_none() && entry.ack != Ack::Nobody;
        self.entries.iter().rev().take_while(|entry| now < entry.sent + LIFE).filter(is_open).count()
    }

    /// When the last of this many sites began to answer every command again: for each, the first `ok` after the last command
    /// since then that it did not answer, if its sender had a connection. `None` if a site has not.
    pub(crate) fn all_healed(&self, sites: usize, since: Instant, now: Instant) -> Option<Instant> {
        let mut healed = vec![None; sites];
        for entry in self.entries.iter().filter(|entry| entry.sent >= since) {
            match &entry.ended {
                Some((at, status)) if status == "ok" => {
                    healed[entry.site].get_or_insert(*at);
                }
                None if entry.ack != Ack::CutOff
                    && (entry.ack == Ack::Nobody || now >= entry.sent + LIFE) =>
                {
                    healed[entry.site] = None;
                }
                _ => {}
            }
        }
        healed.into_iter().collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// For each of this many sites, when a command that was sent since then was first answered with `ok`.
    pub(crate) fn first_ok(&self, sites: usize, since: Instant) -> Vec<Option<Instant>> {
        let mut first = vec![None; sites];
        for entry in self.entries.iter().filter(|entry| entry.sent >= since) {
            if let Some((at, status)) = &entry.ended
                && status == "ok"
            {
                let known = first[entry.site].get_or_insert(*at);
                *known = (*known).min(*at);
            }
        }
        first
    }

    /// Adds up the commands sent between these two times.
    pub(crate) fn sum(&self, from: Instant, to: Instant) -> Sum {
        let mut sum = Sum::default();
        for (transaction, entry) in self.entries.iter().enumerate() {
            if (from..to).contains(&entry.sent) {
                sum.count(transaction, entry);
            }
        }
        sum
    }
}

/// A command without a result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unanswered {
    pub(crate) transaction: usize,
    pub(crate) site: usize,
    pub(crate) sender: usize,
    pub(crate) sent: Instant,
}

/// The outcome of commands.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) sent: u64,
    pub(crate) ok: u64,
    pub(crate) error: u64,
    /// The broker said at once that nobody is subscribed.
    pub(crate) nobody: u64,
    /// No result, and the sender's connection ended before the acknowledgement.
    pub(crate) cut_off: u64,
    /// No result, though the broker acknowledged it.
    pub(crate) silent: u64,
    /// Of those without a result, how many the plug executed.
    pub(crate) executed_silently: u64,
    pub(crate) slowest: Duration,
    /// The commands without a result, though the broker did not say that nobody is subscribed.
    pub(crate) without_result: Vec<Unanswered>,
    /// Broken promises.
    pub(crate) faults: Vec<String>,
}

impl Sum {
    fn count(&mut self, transaction: usize, entry: &Entry) {
        self.sent += 1;
        let executed = entry.executed.len();
        let which = || format!("command {transaction} to plug {} of site {}", entry.plug, entry.site);
        let Some((at, status)) = &entry.ended else {
            match entry.ack {
                Ack::Nobody => self.nobody += 1,
                Ack::CutOff => self.cut_off += 1,
                Ack::Awaited | Ack::Taken => self.silent += 1,
            }
            self.executed_silently += u64::from(executed > 0);
            if entry.ack != Ack::Nobody {
                let Entry { site, sender, sent, .. } = *entry;
                self.without_result.push(Unanswered { transaction, site, sender, sent });
            }
            if executed > 1 {
                self.faults.push(format!("{} was executed {executed} times", which()));
            }
            return;
        };
        self.slowest = self.slowest.max(*at - entry.sent);
        match status.as_str() {
            "ok" => self.ok += 1,
            _ => self.error += 1,
        }
        let in_time = entry.executed.iter().filter(|when| (entry.sent..=*at).contains(when)).count();
        if status == "ok" && in_time != 1 {
            self.faults.push(format!("{} got ok, and was executed {in_time} times before", which()));
        }
        if executed > 1 {
            self.faults.push(format!("{} was executed {executed} times", which()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn order(on: bool) -> Order {
        Order { site: 0, plug: 7, sender: 0, on }
    }

    #[test]
    fn an_ok_needs_exactly_one_execution_before_it() {
        let begun = Instant::now();
        for (executed, faults) in [(&[1][..], 0), (&[], 1), (&[3], 1), (&[1, 1], 2)] {
            let mut ledger = Ledger::default();
            let transaction = ledger.send(order(true), begun).unwrap();
            for second in executed {
                ledger.switched(7, true, begun + *second * SECOND);
            }
            ledger.result(transaction as u64, "ok", begun + 2 * SECOND);
            let sum = ledger.sum(begun, begun + SECOND);
            assert_eq!((sum.ok, sum.faults.len()), (1, faults), "{executed:?}: {:?}", sum.faults);
        }
    }

    #[test]
    fn a_site_is_healed_by_the_first_ok_after_its_last_unanswered_command() {
        let begun = Instant::now();
        let mut ledger = Ledger::default();
        // An early ok, then silence, then two that are answered.
        for (second, is_answered) in [(0, true), (1, false), (20, true), (40, true)] {
            let sent = begun + second * SECOND;
            let transaction = ledger.send(order(true), sent).unwrap();
            if is_answered {
                ledger.result(transaction as u64, "ok", sent);
            }
        }
        let now = begun + 41 * SECOND;
        assert_eq!(ledger.all_healed(1, begun, now), Some(begun + 20 * SECOND));
        assert_eq!(ledger.all_healed(2, begun, now), None, "the other site never answered");
        assert_eq!(ledger.all_healed(1, begun, begun + 15 * SECOND), Some(begun), "it may still come");
    }

    #[test]
    fn a_plug_has_one_command_at_a_time() {
        let begun = Instant::now();
        let mut ledger = Ledger::default();
        assert_eq!(ledger.send(order(true), begun), Some(0));
        assert_eq!(ledger.send(order(false), begun + SECOND), None);
        assert_eq!(ledger.send(order(false), begun + LIFE), Some(1));
        ledger.result(1, "error", begun + LIFE);
        assert_eq!(ledger.send(order(false), begun + LIFE + SECOND), Some(2));
    }
}
