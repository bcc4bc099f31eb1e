//! The brokers of `mqtt.url`: which of them is used next, when each is tried again, and when the installation returns to its
//! own. Pure.

use std::time::{Duration, Instant};

use super::settings::{BrokerAddress, MqttSettings};
use crate::backoff;

/// The installations of a broker that ends their connections connect again within this time, not all at once.
const ARRIVALS: Duration = Duration::from_secs(2);
/// A return that failed is tried again after the double time, but the time is doubled so often at most.
const DOUBLINGS: u32 = 2;

/// The brokers, and which of them is used.
#[derive(Debug)]
pub(super) struct Brokers {
    /// In the order of this installation; the first is its own.
    entries: Vec<ListedBroker>,
    current: usize,
    /// The broker that was left for the own one, until that is connected.
    left: Option<usize>,
    /// How many returns to the own broker have failed since it last was used.
    failed_returns: u32,
    return_after: (Duration, Duration),
    seed: u64,
    /// How often a time was drawn: each draw is another one.
    draws: u64,
}

#[derive(Debug)]
struct ListedBroker {
    address: BrokerAddress,
    /// Failures since the last stable connection.
    failures: u32,
    /// Not to be tried before.
    due: Option<Instant>,
}

impl Brokers {
    pub(super) fn new(settings: &MqttSettings) -> Self {
        let entry = |address| ListedBroker { address, failures: 0, due: None };
        Self {
            entries: settings.brokers().into_iter().map(entry).collect(),
            current: 0,
            left: None,
            failed_returns: 0,
            return_after: settings.return_after,
            seed: backoff::seed(&settings.instance),
            draws: 0,
        }
    }

    /// All, in the order of this installation.
    #[cfg(test)]
    pub(super) fn in_order(&self) -> impl Iterator<Item = &BrokerAddress> {
        self.entries.iter().map(|entry| &entry.address)
    }

    /// The broker to use.
    pub(super) fn current(&self) -> &BrokerAddress {
        &self.entries[self.current].address
    }

    /// The broker that is this installation's own.
    pub(super) fn own(&self) -> &BrokerAddress {
        &self.entries[0].address
    }

    /// Whether it is the own one.
    pub(super) fn is_own(&self) -> bool {
        self.current == 0
    }

    /// The broker has accepted the connection.
    pub(super) fn connected(&mut self) {
        self.left = None;
    }

    /// The broker failed, after a connection that was stable or not. Returns how often in a row it has.
    pub(super) fn failed(&mut self, was_stable: bool) -> u32 {
        let entry = &mut self.entries[self.current];
        if was_stable {
            entry.failures = 0;
        }
        entry.failures = entry.failures.saturating_add(1);
        entry.failures
    }

    /// The broker is not tried again before `due`.
    pub(super) fn hold(&mut self, due: Instant) {
        self.entries[self.current].due = Some(due);
    }

    /// No broker is tried before `due`.
    pub(super) fn hold_all(&mut self, due: Instant) {
        self.entries.iter_mut().for_each(|entry| entry.due = Some(due));
    }

    /// Holds the brokers for which `is_held` is true.
    pub(super) fn hold_those(&mut self, due: Instant, is_held: impl Fn(&BrokerAddress) -> bool) {
        let held = self.entries.iter_mut().filter(|entry| is_held(&entry.address));
        held.for_each(|entry| entry.due = Some(due));
    }

    /// Chooses the next broker, and returns when it may be tried: one that may be tried now, if there is one; of those the one
    /// that failed least often, and of these the first in the order. With `among_many`, it is tried only after a moment that
    /// differs from installation to installation: behind one address, too, there may be a cluster.
    pub(super) fn choose(&mut self, now: Instant, among_many: bool) -> Instant {
        // A return that fails ends where it began.
        if let Some(left) = self.left.take() {
            self.failed_returns = self.failed_returns.saturating_add(1);
            self.current = left;
            return now;
        }
        let due = |entry: &ListedBroker| entry.due.map_or(now, |due| due.max(now));
        let best = self.entries.iter().enumerate().min_by_key(|(n, entry)| (due(entry), entry.failures, *n));
        let Some((best, at)) = best.map(|(n, entry)| (n, due(entry))) else { return now };
        self.current = best;
        if among_many { at + ARRIVALS.mul_f64(self.draw()) } else { at }
    }

    /// When the next return to the own broker begins. The connection that stands is not of the own broker, or not of its best
    /// address.
    pub(super) fn return_at(&mut self, now: Instant) -> Instant {
        let (first, last) = self.return_after;
        let wait = first + last.saturating_sub(first).mul_f64(self.draw());
        now + wait * (1 << self.failed_returns.min(DOUBLINGS))
    }

    /// The own broker cannot be reached, or it was not the moment to leave the other one.
    pub(super) fn return_failed(&mut self) {
        self.failed_returns = self.failed_returns.saturating_add(1);
    }

    /// The current broker was left for the own one, which is the current one now.
    pub(super) fn start_return(&mut self) {
        self.left = Some(self.current);
        self.current = 0;
    }

    /// Whether another broker was left, and the own one is not connected yet.
    pub(super) fn is_returning(&self) -> bool {
        self.left.is_some()
    }

    /// The installation is where it belongs.
    pub(super) fn arrived(&mut self) {
        self.failed_returns = 0;
    }

    fn draw(&mut self) -> f64 {
        self.draws += 1;
        backoff::spread(self.seed.wrapping_add(self.draws))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::mqtt::homeassistant::DocumentForm;
    use crate::mqtt::test_support::settings;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn brokers(instance: &str, hosts: &[&str]) -> Brokers {
        let address = |host: &&str| BrokerAddress { host: (*host).to_owned(), port: 1883 };
        let mut list: Vec<_> = hosts.iter().map(address).collect();
        let BrokerAddress { host, port } = list.remove(0);
        let base = settings(DocumentForm::Off);
        Brokers::new(&MqttSettings { host, port, others: list, instance: instance.to_owned(), ..base })
    }

    fn own(instance: &str, hosts: &[&str]) -> String {
        brokers(instance, hosts).own().host.clone()
    }

    fn counts(hosts: impl Iterator<Item = String>) -> Vec<usize> {
        let mut counts: HashMap<String, usize> = HashMap::new();
        hosts.for_each(|host| *counts.entry(host).or_default() += 1);
        let mut counts: Vec<_> = counts.into_values().collect();
        counts.sort_unstable();
        counts
    }

    #[test]
    fn a_thousand_installations_are_spread_evenly_and_so_are_those_of_a_broker_that_fails() {
        let instances: Vec<_> = (0..1000).map(|n| format!("{n:08x}")).collect();
        let at_own = counts(instances.iter().map(|instance| own(instance, &["a", "b", "c"])));
        assert!(at_own.len() == 3 && at_own[0] >= 300 && at_own[2] <= 367, "{at_own:?}");
        let now = Instant::now();
        let moved = instances.iter().filter_map(|instance| {
            let mut brokers = brokers(instance, &["a", "b", "c"]);
            if brokers.own().host != "a" {
                return None;
            }
            brokers.failed(true);
            brokers.hold(now + SECOND);
            brokers.choose(now, true);
            Some(brokers.current().host.clone())
        });
        let moved = counts(moved);
        let total: usize = moved.iter().sum();
        assert!(moved.len() == 2 && moved[0] * 10 >= total * 4, "{moved:?}");
    }

    #[test]
    fn the_order_in_the_list_does_not_count_and_a_new_broker_takes_only_its_share() {
        let instances = || (0..1000).map(|n| format!("{n:08x}"));
        let is_same = |instance: String| own(&instance, &["a", "b", "c"]) == own(&instance, &["c", "a", "b"]);
        assert!(instances().all(is_same));
        let moved: Vec<_> = instances()
            .filter(|instance| own(instance, &["a", "b", "c"]) != own(instance, &["a", "b", "c", "d"]))
            .collect();
        assert!((200..300).contains(&moved.len()), "{}", moved.len());
        assert!(moved.iter().all(|instance| own(instance, &["a", "b", "c", "d"]) == "d"));
    }

    #[test]
    fn each_broker_is_tried_once_without_a_wait_and_then_waits_for_its_own_time() {
        let mut brokers = brokers("test", &["a", "b", "c"]);
        let mut now = Instant::now();
        let mut tried = Vec::new();
        for n in 0..3 {
            tried.push(brokers.current().clone());
            assert_eq!(brokers.failed(false), 1);
            brokers.hold(now + (n + 1) * SECOND);
            let at = brokers.choose(now, false);
            assert_eq!(at > now, n == 2, "{n}");
            now = at;
        }
        let order: Vec<_> = brokers.in_order().cloned().collect();
        assert_eq!(tried, order);
        // The first is due first.
        assert!(brokers.is_own());
        assert_eq!(brokers.failed(false), 2);
        brokers.hold(now + 60 * SECOND);
        brokers.choose(now, false);
        assert_eq!(brokers.current(), &order[1]);
        assert_eq!(brokers.failed(true), 1, "a stable connection ends the row");
    }

    #[test]
    fn of_those_that_may_be_tried_the_one_that_failed_least_is_next() {
        let mut brokers = brokers("test", &["a", "b", "c"]);
        let now = Instant::now();
        brokers.failed(false);
        brokers.hold(now);
        brokers.choose(now, false);
        let second = brokers.current().clone();
        assert_ne!(&second, brokers.own());
        brokers.failed(true);
        brokers.hold(now + SECOND);
        brokers.choose(now, false);
        assert_eq!(
            brokers.current(),
            brokers.in_order().nth(2).unwrap(),
            "the own one has failed, this one not"
        );
    }

    #[test]
    fn installations_that_lose_the_same_broker_connect_again_one_after_the_other() {
        let now = Instant::now();
        // At another broker, which may be tried at once, and at the same one after its wait.
        for (hosts, first) in [(&["a", "b"][..], Duration::ZERO), (&["a"], SECOND / 2)] {
            let mut arrivals: Vec<_> = (0..1000)
                .map(|n| {
                    let mut brokers = brokers(&format!("{n:08x}"), hosts);
                    brokers.failed(true);
                    brokers.hold(now + SECOND / 2);
                    brokers.choose(now, true) - now
                })
                .collect();
            arrivals.sort_unstable();
            assert!(arrivals[0] >= first && arrivals[999] <= first + ARRIVALS, "{hosts:?}");
            let tenth = |n: u32| {
                let span = first + ARRIVALS / 10 * n..first + ARRIVALS / 10 * (n + 1);
                arrivals.iter().filter(|arrival| span.contains(*arrival)).count()
            };
            assert!((0..10).all(|n| (60..=140).contains(&tenth(n))), "{arrivals:?}");
        }
        let mut one = brokers("test", &["a"]);
        one.hold(now + SECOND / 2);
        assert_eq!(one.choose(now, false), now + SECOND / 2, "after a failure that is its own");
    }

    #[test]
    fn the_returns_of_many_installations_fill_the_whole_time_and_fail_at_growing_distances() {
        let now = Instant::now();
        let returns: Vec<_> =
            (0..1000).map(|n| brokers(&format!("{n:08x}"), &["a", "b"]).return_at(now) - now).collect();
        assert!(returns.iter().all(|wait| (10 * MINUTE..=40 * MINUTE).contains(wait)));
        let in_minute =
            |n: u32| returns.iter().filter(|wait| (n * MINUTE..(n + 1) * MINUTE).contains(*wait)).count();
        assert!(
            (10..40).all(|n| (12..=60).contains(&in_minute(n))),
            "{:?}",
            (10..40).map(in_minute).collect::<Vec<_>>()
        );

        let mut brokers = brokers("test", &["a", "b"]);
        let waits: Vec<_> = (0..5)
            .map(|_| {
                let wait = brokers.return_at(now) - now;
                brokers.return_failed();
                wait
            })
            .collect();
        for (wait, factor) in waits.iter().zip([1, 2, 4, 4, 4]) {
            assert!((factor * 10 * MINUTE..=factor * 40 * MINUTE).contains(wait), "{waits:?}");
        }
        brokers.arrived();
        assert!(brokers.return_at(now) - now <= 40 * MINUTE);
    }

    #[test]
    fn a_return_that_fails_ends_at_the_broker_where_it_began() {
        let mut brokers = brokers("test", &["a", "b", "c"]);
        let now = Instant::now();
        for _ in 0..2 {
            brokers.failed(false);
            brokers.hold(now + SECOND);
            brokers.choose(now, false);
        }
        let third = brokers.current().clone();
        brokers.connected();
        brokers.start_return();
        assert!(brokers.is_own() && brokers.is_returning());
        brokers.failed(false);
        brokers.hold(now + SECOND);
        assert_eq!((brokers.choose(now, true), brokers.current()), (now, &third));
        assert!(!brokers.is_returning());
        assert!(brokers.return_at(now) - now >= 20 * MINUTE);
    }
}
