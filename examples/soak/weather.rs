//! The faults of a soak: a seeded series, in which each fault ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hs100d::sim::cloud::rule::{CloudFault, Method, Times};
use hs100d::sim::fault::{CloudLink, LanFault};
use hs100d::sim::handle::PlugHandle;
use hs100d::sim::plug::SwitchedBy;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::dice::Dice;
use super::process::Fault;
use super::stage::{Outage, Stage, Text};

/// After three connections that each broke within half a minute of their start, the daemon pauses for five minutes, as
/// with two daemons of one client id.
const BETWEEN_OUTAGES: Duration = Duration::from_secs(45);
/// The cloud's error codes for an expired token, and for too many calls.
const TOKEN_EXPIRED: i64 = -20651;
const RATE_LIMIT: i64 = -20004;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Card {
    Lan,
    CloudLink,
    PowerCut,
    Restart,
    Swap,
    Button,
    CloudFault,
    CloudDown,
    TokenExpired,
    Throttle,
    Reload,
    BadConfig,
    CablePulled,
    BrokerWithStore,
    BrokerWithoutStore,
}

/// The weight of each; the sum is about two thousand. After the rarest, the daemon avoids the cloud for minutes.
const DECK: [(Card, usize, &str); 15] = [
    (Card::Lan, 1200, "plugs silent, refusing, resetting, slow, talking garbage, …"),
    (Card::CloudLink, 160, "plugs that the cloud does not reach, or late"),
    (Card::PowerCut, 100, "power cuts"),
    (Card::Restart, 100, "restarts of plugs"),
    (Card::Swap, 100, "swaps of addresses"),
    (Card::Button, 300, "presses of buttons"),
    (Card::CloudFault, 80, "cloud slow, silent, cut off, answering nonsense"),
    (Card::CloudDown, 40, "cloud down"),
    (Card::TokenExpired, 40, "tokens expired"),
    (Card::Throttle, 1, "cloud throttled"),
    (Card::Reload, 60, "reloads"),
    (Card::BadConfig, 20, "reloads of a wrong config"),
    (Card::CablePulled, 80, "connections to the broker reset"),
    (Card::BrokerWithStore, 40, "restarts of the broker with its store"),
    (Card::BrokerWithoutStore, 40, "kills of the broker, its store lost"),
];

/// What ends a fault.
enum Heal {
    Lan(usize),
    CloudLink(usize),
    Power(usize),
    CloudFaults,
    CloudReachable,
}

/// The faults in progress, and their counts.
pub(crate) struct Weather {
    stage: Arc<Stage>,
    dice: Dice,
    /// The longest duration of a fault.
    longest: Duration,
    /// The mean time from one fault to the next.
    pace: Duration,
    heals: Vec<(Instant, Heal)>,
    outages: JoinSet<Result<Duration, Fault>>,
    last_outage: Vec<Instant>,
    counts: BTreeMap<Card, u64>,
    /// The longest time that the daemon took to reconnect to a broker that was back.
    pub(crate) slowest_return: Duration,
}

impl Weather {
    pub(crate) fn new(stage: Arc<Stage>, dice: Dice, longest: Duration, pace: Duration) -> Self {
        Self {
            stage,
            dice,
            longest,
            pace,
            heals: Vec::new(),
            outages: JoinSet::new(),
            last_outage: Vec::new(),
            counts: BTreeMap::new(),
            slowest_return: Duration::ZERO,
        }
    }

    /// Starts faults for this long: first one of each kind, then at random. Then it ends all of them. Only a rough
    /// storm cuts connections to the broker and makes the cloud throttle.
    pub(crate) async fn storm(&mut self, lasts: Duration, is_rough: bool) -> Result<(), Fault> {
        let end = Instant::now() + lasts;
        let mut deck: Vec<Card> = DECK.iter().map(|(card, ..)| *card).collect();
        self.dice.shuffle(&mut deck);
        let pace = (self.pace.as_millis() as usize).max(1);
        let mut next = Instant::now();
        while Instant::now() < end {
            let heal_at = self.heals.iter().map(|(at, _)| *at).min().unwrap_or(end);
            tokio::select! {
                () = sleep_until(next.min(heal_at).min(end).into()) => {}
                Some(over) = self.outages.join_next() => self.note(over)?,
            }
            self.heal(Instant::now()).await;
            if next <= Instant::now() {
                let card = deck.pop().unwrap_or_else(|| self.draw());
                self.play(card, is_rough).await?;
                next = Instant::now() + self.dice.millis(1..2 * pace);
            }
        }
        self.clear_up().await
    }

    fn draw(&mut self) -> Card {
        let all: usize = DECK.iter().map(|(_, weight, _)| weight).sum();
        let mut left = self.dice.number(0..all);
        for (card, weight, _) in DECK {
            if left < weight {
                return card;
            }
            left -= weight;
        }
        Card::Button
    }

    async fn play(&mut self, card: Card, is_rough: bool) -> Result<(), Fault> {
        let stage = Arc::clone(&self.stage);
        let number = self.dice.number(0..stage.home.plugs().len());
        let plug = stage.home.plug(number);
        match card {
            Card::Lan => {
                let fault = self.lan_fault();
                // Its sockets follow as soon as they can.
                let _ = stage.home.lan().set_fault(plug, fault).await;
                self.heals_later(Heal::Lan(number));
            }
            Card::CloudLink => {
                plug.set_cloud(self.cloud_link());
                self.heals_later(Heal::CloudLink(number));
            }
            Card::PowerCut => {
                plug.with(|plug| plug.powered = false);
                self.heals_later(Heal::Power(number));
            }
            Card::Restart => restart(plug),
            Card::Swap => {
                let other = stage.home.plug(self.dice.number(0..stage.home.plugs().len()));
                if plug.device_id() != other.device_id() {
                    let swapped = stage.home.lan().swap(plug, other).await;
                    swapped.map_err(|error| format!("two plugs could not swap addresses: {error}"))?;
                }
            }
            Card::Button => {
                let outlets = plug.outlets_on().len();
                plug.press_button_of(self.dice.number(0..outlets));
            }
            Card::CloudFault => {
                let fault = self.cloud_fault();
                stage.home.cloud().fail(None, Times::Always, fault);
                self.heals_later(Heal::CloudFaults);
            }
            Card::CloudDown => {
                let _ = stage.home.cloud().set_reachable(false).await;
                self.heals_later(Heal::CloudReachable);
            }
            Card::TokenExpired => stage.home.cloud().void_tokens(TOKEN_EXPIRED),
            Card::Throttle if !is_rough => return Ok(()),
            Card::Throttle => {
                let fault = CloudFault::Code(RATE_LIMIT);
                stage.home.cloud().fail(Some(Method::Passthrough), Times::Next(1), fault);
            }
            Card::Reload => {
                let text = *self.dice.pick(&[Text::Usual, Text::Other]);
                stage.reload(text).await?;
            }
            Card::BadConfig => {
                stage.reload(Text::Wrong).await?;
                stage.reload(Text::Usual).await?;
            }
            Card::CablePulled | Card::BrokerWithStore | Card::BrokerWithoutStore => {
                if !(is_rough && self.may_break_off()) {
                    return Ok(());
                }
                self.break_off(card);
            }
        }
        *self.counts.entry(card).or_default() += 1;
        Ok(())
    }

    /// One outage at a time, and never three in a row that the daemon would take for another client with its id.
    fn may_break_off(&self) -> bool {
        let long_ago = |at: &Instant| at.elapsed() >= BETWEEN_OUTAGES;
        self.outages.is_empty() && (self.last_outage.len() < 2 || self.last_outage.iter().all(long_ago))
    }

    fn break_off(&mut self, card: Card) {
        let away = self.dice.millis(0..4000.min(1 + self.longest.as_millis() as usize));
        let outage = match card {
            Card::BrokerWithStore => Outage::BrokerRestarts { away, keeps_store: true },
            Card::BrokerWithoutStore => Outage::BrokerRestarts { away, keeps_store: false },
            _ => Outage::CablePulled,
        };
        let stage = Arc::clone(&self.stage);
        self.outages.spawn(async move { stage.outage(outage).await });
        if self.last_outage.len() == 2 {
            self.last_outage.remove(0);
        }
        self.last_outage.push(Instant::now());
    }

    fn note(&mut self, over: Result<Result<Duration, Fault>, tokio::task::JoinError>) -> Result<(), Fault> {
        self.slowest_return = self.slowest_return.max(over??);
        Ok(())
    }

    fn lan_fault(&mut self) -> LanFault {
        match *self.dice.pick(&LanFault::ALL[1..]) {
            LanFault::Latency(_) => LanFault::Latency(self.dice.millis(20..2500)),
            LanFault::SilentButActs(_) => LanFault::SilentButActs(self.dice.millis(20..4000)),
            LanFault::SlowBytes(_) => LanFault::SlowBytes(self.dice.millis(1..10)),
            fault => fault,
        }
    }

    fn cloud_link(&mut self) -> CloudLink {
        let wait = self.dice.millis(100..4000);
        let links = [
            CloudLink::Offline,
            CloudLink::TimesOut(wait),
            CloudLink::TimesOutButActs(wait),
            CloudLink::Latency(wait),
            CloudLink::ObjectReply,
            CloudLink::NoReply,
            CloudLink::Garbage,
            CloudLink::DeviceError(-1),
        ];
        *self.dice.pick(&links)
    }

    fn cloud_fault(&mut self) -> CloudFault {
        let wait = self.dice.millis(50..3000);
        let faults = [
            CloudFault::Status(503),
            CloudFault::Html,
            CloudFault::Silent,
            CloudFault::Close,
            CloudFault::Latency(wait),
            CloudFault::CutOff,
            CloudFault::SlowBytes(Duration::from_millis(3)),
            CloudFault::EmptyList,
        ];
        self.dice.pick(&faults).clone()
    }

    fn heals_later(&mut self, heal: Heal) {
        let longest = self.longest.as_millis() as usize;
        let at = Instant::now() + self.dice.millis(longest / 20..longest);
        self.heals.push((at, heal));
    }

    async fn heal(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.heals).into_iter().partition(|(at, _)| *at <= now);
        self.heals = later;
        for (_, heal) in due {
            self.end(heal).await;
        }
    }

    async fn end(&self, heal: Heal) {
        let home = &self.stage.home;
        match heal {
            Heal::Lan(number) => drop(home.lan().set_fault(home.plug(number), LanFault::Works).await),
            Heal::CloudLink(number) => home.plug(number).set_cloud(CloudLink::Works),
            Heal::Power(number) => home.plug(number).with(|plug| plug.powered = true),
            Heal::CloudFaults => home.cloud().mend(),
            Heal::CloudReachable => drop(home.cloud().set_reachable(true).await),
        }
    }

    /// Ends every fault in progress.
    async fn clear_up(&mut self) -> Result<(), Fault> {
        for (_, heal) in std::mem::take(&mut self.heals) {
            self.end(heal).await;
        }
        while let Some(over) = self.outages.join_next().await {
            self.note(over)?;
        }
        self.stage.home.cloud().mend();
        self.stage.reload(Text::Usual).await
    }

    /// The number of faults of each kind, a line for each.
    pub(crate) fn told(&self) -> String {
        let lines = DECK.iter().map(|(card, _, what)| {
            let count = self.counts.get(card).copied().unwrap_or_default();
            format!("  {what:<62} {count:>6}\n")
        });
        lines.collect()
    }
}

fn restart(plug: &PlugHandle) {
    let reboot = br#"{"system":{"reboot":{"delay":1}}}"#;
    plug.with(|plug| plug.handle(reboot, SwitchedBy::Lan, Instant::now()));
}
