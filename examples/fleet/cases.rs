//! The failures: what is done to the nodes, and what is measured until all is well again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::audit::{self, Found};
use super::client::{Book, Client};
use super::cluster::{ALL, Cluster, NODES};
use super::ledger::{LIFE, Sum, Unanswered};
use super::links::LinkLog;
use super::plugs::Plugs;
use super::process::Fault;
use super::site::Sites;
use super::timeline;
use super::traffic::Traffic;

/// The longest wait for all sites.
const BOUND: Duration = Duration::from_secs(120);
/// A node is away for this long.
const AWAY: Duration = Duration::from_secs(20);
/// Between the starts of two nodes that were down together.
const HEAD_START: Duration = Duration::from_secs(1);
/// A quiet time before each failure, so that each connection counts as stable.
const BEFORE: Duration = Duration::from_secs(10);
/// Home Assistant has everything this long after its birth message.
const BIRTH: Duration = Duration::from_secs(10);
/// The extent of the audit after a birth message: what a loaded machine adds is shown, not hidden.
const AUDIT: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Longer than a command may wait for its result.
const HEALED_FOR: Duration = Duration::from_secs(20);
/// So few sites need not spread their connections.
const FEW: usize = 20;
/// A command is answered within this time, or something happened to it.
const MOMENT: Duration = Duration::from_secs(2);

/// What happens to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// A node is killed, and started again
    Kill,
    /// A node's cable is unplugged, and plugged in again
    Unplug,
    /// A node loses the other two, but not its clients
    Cut,
    /// All three restart, one after the other
    Rolling,
    /// All three stop, and start again
    Outage,
    /// The nodes close all connections of sites
    Close,
}

/// What was measured.
pub(crate) struct Outcome {
    pub(crate) case: Case,
    /// The sites at each node, before and after.
    pub(crate) at_nodes: [[usize; NODES]; 2],
    /// How many sites connected again.
    pub(crate) moved: usize,
    /// From the failure (or, for all nodes, from their return) until the last site answered every command again.
    pub(crate) all_answer: Option<Duration>,
    pub(crate) bound: Duration,
    /// The most connections within a second.
    pub(crate) peak: usize,
    pub(crate) bars: String,
    pub(crate) commands: Sum,
    /// What each node retained right afterwards.
    pub(crate) retained: [Found; NODES],
    /// What was published after a birth message, and how long that took.
    pub(crate) births: (Found, Duration),
    pub(crate) faults: Vec<String>,
}

/// Everything that takes part.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) sites: Sites,
    pub(crate) plugs: Arc<Plugs>,
    pub(crate) book: Book,
    pub(crate) traffic: Traffic,
    pub(crate) recorder: Client,
    /// The connections of the clients that send.
    pub(crate) senders: LinkLog,
}

impl Case {
    /// The time in which every site must answer again.
    fn bound(self) -> Duration {
        Duration::from_secs(match self {
            // A silent node is noticed by the keep-alive: a ping after 15 s, which is waited for as long again, twice. One that is
            // alone among its clients closes their connections in about that time.
            Self::Unplug | Self::Cut => 60,
            Self::Kill | Self::Rolling | Self::Outage | Self::Close => 20,
        })
    }

    /// Whether the failure goes on until it is repaired.
    fn lasts(self) -> bool {
        matches!(self, Self::Kill | Self::Unplug | Self::Cut)
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Kill => "node killed",
            Self::Unplug => "node unplugged",
            Self::Cut => "node cut off from the other two",
            Self::Rolling => "rolling restart of all three",
            Self::Outage => "all three down, then up",
            Self::Close => "all connections closed by the nodes",
        }
    }
}

impl Stage {
    /// Lets it happen, and measures until all is well again.
    pub(crate) async fn play(&mut self, case: Case) -> Result<Outcome, Fault> {
        tokio::time::sleep(BEFORE).await;
        let before = self.sites.links.at_nodes(self.sites.count);
        // Sites do not return to a node that has returned: the busiest node fails.
        let victim = (0..NODES).max_by_key(|node| before[*node]).unwrap_or(0);
        let begin = Instant::now();
        let unasked = self.book.open().ledger.unasked();
        let reference = self.fail(case, victim).await?;
        let all_answer = self.all_answer(reference).await;
        // Long enough for the nodes to notice, and what follows from that belongs to the failure.
        if case.lasts() {
            tokio::time::sleep_until((begin + AWAY).into()).await;
            self.all_answer(Instant::now()).await;
        }
        let all_answer = match all_answer {
            Some(_) => self.all_healed(reference).await,
            None => None,
        };
        self.repair(case, victim).await?;
        // A node that has returned draws nobody away; what it does to connections would be seen here.
        let after = Instant::now();
        let answer_after = self.all_answer(after).await;
        // What was sent before must have its result before the sum is drawn.
        self.traffic.set_going(false);
        let end = Instant::now();
        self.all_closed().await;
        self.recorder_is_up().await;
        let retained = audit::retained(&self.cluster, &self.sites, &self.plugs).await?;
        let birth = Instant::now();
        self.recorder.say("homeassistant/status", "online")?;
        let births = audit::published(&self.sites, &self.plugs, &self.book, birth, AUDIT).await;
        self.traffic.set_going(true);

        let events = self.sites.links.connects(begin, end);
        let connects: Vec<_> = events.iter().map(|event| event.at).collect();
        let moved: std::collections::HashSet<_> = events.iter().map(|event| event.client).collect();
        let commands = self.book.open().ledger.sum(begin, end);
        let mut outcome = Outcome {
            case,
            at_nodes: [before, self.sites.links.at_nodes(self.sites.count)],
            moved: moved.len(),
            all_answer,
            bound: case.bound(),
            peak: timeline::peak(&connects),
            bars: timeline::bars(begin, &connects),
            commands,
            retained,
            births,
            faults: Vec::new(),
        };
        if answer_after.is_none() {
            outcome.faults.push("not all sites answer after the node's return".to_owned());
        }
        let unasked = self.book.open().ledger.unasked() - unasked;
        if unasked > 0 {
            outcome.faults.push(format!("plugs were switched {unasked} times though nobody asked"));
        }
        outcome.judge();
        self.judge_unanswered(&mut outcome, begin);
        Ok(outcome)
    }

    /// Waits until each site has answered a command that was sent since then. Returns how long that took.
    pub(crate) async fn all_answer(&self, since: Instant) -> Option<Duration> {
        let by = Instant::now() + BOUND;
        loop {
            let first = self.book.open().ledger.first_ok(self.sites.count, since);
            if let Some(last) = first.iter().copied().collect::<Option<Vec<_>>>() {
                return last.into_iter().max().map(|last| last - since);
            }
            if Instant::now() > by {
                return None;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until each site has answered every command for a while. Returns when that began.
    async fn all_healed(&self, since: Instant) -> Option<Duration> {
        let by = Instant::now() + BOUND;
        loop {
            let now = Instant::now();
            let healed = self.book.open().ledger.all_healed(self.sites.count, since, now);
            if let Some(healed) = healed.filter(|healed| now > *healed + HEALED_FOR) {
                return Some(healed - since);
            }
            if now > by {
                return None;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Does it. Returns the time from which on all sites should return.
    async fn fail(&mut self, case: Case, victim: usize) -> Result<Instant, Fault> {
        let begin = Instant::now();
        match case {
            Case::Kill => self.cluster.kill(victim).await?,
            Case::Unplug => self.cluster.unplug(victim, true)?,
            Case::Cut => self.cluster.cut_from_peers(victim, true)?,
            Case::Rolling => {
                for node in 0..NODES {
                    self.cluster.stop(node).await?;
                    self.cluster.begin(node)?;
                    self.cluster.are_up(&[node]).await?;
                    tokio::time::sleep(BEFORE).await;
                }
                return Ok(Instant::now());
            }
            Case::Outage => {
                for node in 0..NODES {
                    self.cluster.stop(node).await?;
                }
                tokio::time::sleep(AWAY).await;
                // The last one to stop is the first to know what happened; the others wait for it.
                for node in (0..NODES).rev() {
                    self.cluster.begin(node)?;
                    tokio::time::sleep(HEAD_START).await;
                }
                self.cluster.are_up(&ALL).await?;
                return Ok(Instant::now());
            }
            Case::Close => {
                // On all nodes.
                let words = ["close_all_user_connections", super::cluster::USER, "a test of the fleet"];
                self.cluster.control(0, &words).await?;
            }
        }
        Ok(begin)
    }

    /// Puts the node back that failed.
    async fn repair(&mut self, case: Case, victim: usize) -> Result<(), Fault> {
        match case {
            Case::Kill => self.cluster.begin(victim)?,
            Case::Unplug => self.cluster.unplug(victim, false)?,
            Case::Cut => self.cluster.cut_from_peers(victim, false)?,
            Case::Rolling | Case::Outage | Case::Close => return Ok(()),
        }
        self.cluster.are_up(&[victim]).await
    }

    /// Waits until no command so far may get a result any more.
    async fn all_closed(&self) {
        let now = Instant::now();
        let by = now + LIFE;
        while self.book.open().ledger.open(now, Instant::now()) > 0 && Instant::now() < by {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Each command without a result needs an excuse: its site or its sender had no connection in that moment.
    fn judge_unanswered(&self, outcome: &mut Outcome, begin: Instant) {
        let silent = matches!(outcome.case, Case::Unplug | Case::Cut).then_some(begin);
        for unanswered in &outcome.commands.without_result {
            let Unanswered { transaction, site, sender, sent } = *unanswered;
            let (from, to) = (sent, sent + MOMENT);
            if !self.sites.links.was_moving(site, from, to, silent)
                && !self.senders.was_moving(sender, from, to, silent)
            {
                let after = (sent - begin).as_secs_f64();
                outcome.faults.push(format!(
                    "command {transaction} from sender {sender} to site {site} has no result, sent {after:.1} s after \
                     the failure, though both were connected"
                ));
            }
        }
    }

    async fn recorder_is_up(&self) {
        let by = Instant::now() + BOUND;
        while !self.recorder.is_up() && Instant::now() < by {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Outcome {
    /// Looks for broken promises.
    fn judge(&mut self) {
        let mut faults = std::mem::take(&mut self.commands.faults);
        faults.append(&mut self.faults);
        match self.all_answer {
            None => faults.push(format!("not all sites answer within {BOUND:?}")),
            Some(took) if took > self.bound => {
                faults.push(format!("all sites answer after {took:.1?}, not within {:?}", self.bound));
            }
            Some(_) => {}
        }
        // Sites whose connections end together arrive at another node within two seconds, spread over that time.
        if self.moved >= FEW && self.peak * 4 > self.moved * 3 {
            faults.push(format!("{} of {} sites connect within a second", self.peak, self.moved));
        }
        let (found, took) = self.births;
        if found.right < found.expected {
            faults.push(format!(
                "{} of {} messages are right after a birth message",
                found.right, found.expected
            ));
        } else if took > BIRTH + Duration::from_secs(2) {
            faults.push(format!("everything is published {took:.1?} after a birth message"));
        }
        self.faults = faults;
    }
}
