//! The ledger of every command: whether the broker accepted it, and how many results it had. No socket.
//!
//! A publisher knows little: the acknowledgement of the broker tells whether there was a subscriber, and the result
//! tells the rest. While the connection of the daemon or of the listener is down, MQTT may lose messages; a command
//! that overlaps such a time may have no result. No command may have two.

use std::fmt;
use std::time::{Duration, Instant};

/// The longest time from a command to its result: the daemon drops a command after ten seconds, with a result.
const LIFE: Duration = Duration::from_secs(15);

/// The acknowledgement of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Not received yet.
    Awaited,
    /// It has a subscriber.
    Taken,
    /// It has no subscriber (reason code 0x10).
    Nobody,
    /// The connection ended before.
    CutOff,
}

/// The status in a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    Error,
    Superseded,
}

impl Status {
    pub(crate) fn named(word: &str) -> Option<Self> {
        match word {
            "ok" => Some(Self::Ok),
            "error" => Some(Self::Error),
            "superseded" => Some(Self::Superseded),
            _ => None,
        }
    }
}

/// One command. Its transaction is its index in the ledger.
#[derive(Debug)]
struct Entry {
    sent: Instant,
    ack: Ack,
    /// The time and the status of its first result.
    ended: Option<(Instant, Status)>,
    results: u32,
    /// The number of responses at its response topic, if it has one.
    answers: Option<u32>,
}

/// All commands, and the outages in which messages may be lost.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    outages: Vec<(Instant, Option<Instant>)>,
    /// Results without a command.
    unknown: u64,
}

impl Ledger {
    /// Adds a command that is about to be sent. Returns its transaction.
    pub(crate) fn send(&mut self, wants_answer: bool, now: Instant) -> usize {
        let answers = wants_answer.then_some(0);
        self.entries.push(Entry { sent: now, ack: Ack::Awaited, ended: None, results: 0, answers });
        self.entries.len() - 1
    }

    pub(crate) fn acknowledge(&mut self, transaction: usize, ack: Ack) {
        if let Some(entry) = self.entries.get_mut(transaction) {
            entry.ack = ack;
        }
    }

    /// A result arrived on the plug's topic.
    pub(crate) fn result(&mut self, transaction: Option<u64>, status: &str, now: Instant) {
        let entry = transaction.and_then(|place| self.entries.get_mut(usize::try_from(place).ok()?));
        match (entry, Status::named(status)) {
            (Some(entry), Some(status)) => {
                entry.results += 1;
                entry.ended.get_or_insert((now, status));
            }
            _ => self.unknown += 1,
        }
    }

    /// A result arrived on a response topic.
    pub(crate) fn answer(&mut self, transaction: Option<u64>) {
        let entry = transaction.and_then(|place| self.entries.get_mut(usize::try_from(place).ok()?));
        match entry.and_then(|entry| entry.answers.as_mut()) {
            Some(answers) => *answers += 1,
            None => self.unknown += 1,
        }
    }

    /// An outage starts: messages may be lost.
    pub(crate) fn break_off(&mut self, now: Instant) {
        self.outages.push((now, None));
    }

    /// The outage is over: the listener and the daemon are subscribed again.
    pub(crate) fn resume(&mut self, now: Instant) {
        if let Some((_, end)) = self.outages.last_mut() {
            *end = Some(now);
        }
    }

    /// The number of commands without a result that may still get one.
    pub(crate) fn open(&self, now: Instant) -> usize {
        let waits = |entry: &&Entry| {
            entry.results == 0 && entry.ack != Ack::Nobody && now.duration_since(entry.sent) < LIFE
        };
        self.entries
            .iter()
            .rev()
            .take_while(|entry| now.duration_since(entry.sent) < LIFE)
            .filter(waits)
            .count()
    }

    /// Adds everything up.
    pub(crate) fn close(&self) -> Sum {
        let mut sum = Sum { commands: self.entries.len() as u64, unknown: self.unknown, ..Sum::default() };
        for (place, entry) in self.entries.iter().enumerate() {
            self.count(place, entry, &mut sum);
        }
        sum
    }

    fn count(&self, place: usize, entry: &Entry, sum: &mut Sum) {
        let excused = self.may_be_lost(entry);
        let answers = entry.answers.unwrap_or(0);
        match (entry.results, &entry.ack, &entry.ended) {
            (2.., ..) => sum.fault(place, "has more than one result"),
            (_, Ack::Awaited, _) => sum.fault(place, "was never acknowledged, though its connection stood"),
            (1.., Ack::Nobody, _) => sum.fault(place, "was answered without a subscriber"),
            (0, Ack::Nobody, _) => sum.nobody += 1,
            (0, Ack::CutOff, _) => sum.cut_off += 1,
            (0, Ack::Taken, _) if excused => sum.lost += 1,
            (0, Ack::Taken, _) => sum.fault(place, "has no result"),
            (1, Ack::Taken | Ack::CutOff, Some((at, status))) => {
                match status {
                    Status::Ok => sum.ok += 1,
                    Status::Error => sum.error += 1,
                    Status::Superseded => sum.superseded += 1,
                }
                let took = at.duration_since(entry.sent);
                sum.slowest = sum.slowest.max(took);
                if took > LIFE {
                    sum.fault(place, "was answered after its time");
                }
            }
            (1, _, None) => sum.fault(place, "has a result that never came"),
        }
        if answers > 1 {
            sum.fault(place, "has more than one answer at its response topic");
        }
        if entry.answers.is_some() && answers != entry.results && !excused && entry.results < 2 {
            sum.fault(place, "was not answered at its response topic as at the topic for all");
        }
    }

    /// Whether its lifetime overlaps an outage.
    fn may_be_lost(&self, entry: &Entry) -> bool {
        let dead = entry.sent + LIFE;
        self.outages.iter().any(|(from, to)| *from <= dead && to.is_none_or(|to| entry.sent <= to))
    }

    pub(crate) fn sent(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn outages(&self) -> usize {
        self.outages.len()
    }
}

/// The outcome of all commands.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) commands: u64,
    pub(crate) ok: u64,
    pub(crate) error: u64,
    pub(crate) superseded: u64,
    pub(crate) nobody: u64,
    pub(crate) cut_off: u64,
    pub(crate) lost: u64,
    pub(crate) unknown: u64,
    pub(crate) slowest: Duration,
    /// Commands without a valid explanation.
    pub(crate) faults: Vec<String>,
}

impl Sum {
    fn fault(&mut self, transaction: usize, what: &str) {
        self.faults.push(format!("command {transaction} {what}"));
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commands, ok, error, superseded, nobody, cut_off, lost, .. } = self;
        writeln!(f, "commands sent                                 {commands:>9}")?;
        writeln!(f, "  with exactly one result: ok                 {ok:>9}")?;
        writeln!(f, "                           error              {error:>9}")?;
        writeln!(f, "                           superseded         {superseded:>9}")?;
        writeln!(f, "  acknowledged without a subscriber (0x10)    {nobody:>9}")?;
        writeln!(f, "  the sender's connection broke at once       {cut_off:>9}")?;
        writeln!(f, "  lost with the daemon's or listener's link   {lost:>9}")?;
        writeln!(f, "  not accounted for                           {:>9}", self.faults.len())?;
        write!(f, "slowest result                                {:>8.1}s", self.slowest.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// One command with this acknowledgement and this number of results, a second after it was sent.
    fn account(ack: Ack, results: u32, outage: Option<(u32, u32)>) -> Sum {
        let (mut ledger, begun) = (Ledger::default(), Instant::now());
        let sent = begun + 60 * SECOND;
        if let Some((from, to)) = outage {
            ledger.break_off(begun + from * SECOND);
            ledger.resume(begun + to * SECOND);
        }
        let transaction = ledger.send(false, sent);
        ledger.acknowledge(transaction, ack);
        for _ in 0..results {
            ledger.result(Some(transaction as u64), "ok", sent + SECOND);
        }
        ledger.close()
    }

    #[test]
    fn a_command_without_a_result_is_excused_by_an_outage_in_its_life_and_by_nothing_else() {
        assert_eq!(account(Ack::Taken, 1, None).ok, 1);
        assert_eq!(account(Ack::Taken, 0, None).faults, ["command 0 has no result"]);
        assert_eq!(account(Ack::Taken, 0, Some((50, 59))).faults.len(), 1, "over before it was sent");
        assert_eq!(account(Ack::Taken, 0, Some((76, 80))).faults.len(), 1, "when it was long due");
        assert_eq!(account(Ack::Taken, 0, Some((50, 61))).lost, 1);
        assert_eq!(account(Ack::Taken, 0, Some((74, 80))).lost, 1);
    }

    #[test]
    fn nothing_excuses_a_second_result_or_one_where_nobody_listens() {
        let outage = Some((50, 70));
        assert_eq!(account(Ack::Taken, 2, outage).faults, ["command 0 has more than one result"]);
        assert_eq!(account(Ack::CutOff, 2, outage).faults.len(), 1);
        assert_eq!(account(Ack::Nobody, 1, outage).faults.len(), 1);
        assert_eq!(account(Ack::Nobody, 0, None).nobody, 1);
        assert_eq!(account(Ack::Awaited, 0, None).faults.len(), 1);
    }

    #[test]
    fn a_result_that_belongs_to_no_command_is_counted() {
        let mut ledger = Ledger::default();
        ledger.result(Some(3), "ok", Instant::now());
        ledger.result(None, "ok", Instant::now());
        ledger.answer(Some(3));
        assert_eq!(ledger.close().unknown, 3);
    }
}
