//! Looking for plugs on the LAN: UDP broadcast out, sightings in.
//!
//! Owns when it is asked, and from where to where: each interface has a socket bound to its own address, because a
//! broadcast leaves by one interface only; single plugs are asked from a socket bound to none. Asks for `get_sysinfo`
//! and nothing else: some firmwares crash on more. How one socket hears is `ear`'s, what an answer says `answer`'s.

pub mod answer;
mod interfaces;
mod socket;
mod tdp;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::bridge::event::Sighting;
use crate::logging::Repeated;
use crate::model::Address;
use crate::smarthome::cipher;
use crate::smarthome::message::{OutletIds, Request};
pub use interfaces::BroadcastPath;
use socket::{DiscoverySocket, SocketShared};

/// Between two rounds, where the user says nothing else.
const INTERVAL: Duration = Duration::from_secs(60);
/// Where newer firmwares listen for a discovery of another form, UDP. The two are asked alike.
pub const TDP_PORTS: [u16; 2] = [20002, 20004];
/// One datagram may be lost, so each round sends so many …
const DATAGRAMS: usize = 3;
/// … this far apart.
const APART: Duration = Duration::from_millis(300);
/// An interface that came is asked on within this time, however long the interval is.
const INTERFACES_EVERY: Duration = Duration::from_secs(5);
/// Sightings that wait for the loop; a flood beyond them is dropped, since every plug is heard again next round.
const WAITING: usize = 1024;
/// Requests to look at once; those that come during a round are one round together.
const ASKS: usize = 16;

/// How to look for plugs on the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryOptions {
    /// Between two rounds.
    pub interval: Duration,
    /// Where to; empty: every interface's own broadcast address.
    pub broadcast: Vec<Ipv4Addr>,
    /// The port that plugs listen on, UDP and TCP.
    pub port: u16,
    /// The ports of the newer discovery: [`TDP_PORTS`], but for pretend plugs.
    pub tdp_ports: Vec<u16>,
}

impl DiscoveryOptions {
    /// Every minute, on every interface, for plugs that listen on this port.
    pub fn usual(port: u16) -> Self {
        Self { interval: INTERVAL, broadcast: Vec::new(), port, tdp_ports: TDP_PORTS.to_vec() }
    }
}

/// The running search. Ends when dropped.
#[derive(Debug)]
pub struct Discovery {
    ask: mpsc::Sender<Vec<Address>>,
    sightings: mpsc::Receiver<Sighting>,
    hearing: Arc<SocketShared>,
    _task: JoinSet<()>,
}

/// What has come in so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiscoveryCounts {
    /// Answers of plugs, in either form. A plug answers each datagram, so several times a round.
    pub answers: u64,
    /// What was no plug's answer, and was skipped.
    pub garbage: u64,
    /// Answers for which there was no room because too many came at once.
    pub dropped: u64,
}

impl Discovery {
    /// Starts with a round at once.
    pub fn start(options: DiscoveryOptions) -> Self {
        Self::begin(options, true, Vec::new())
    }

    /// Asks these addresses directly, at once, and broadcasts to nobody.
    pub fn start_without_broadcast(options: DiscoveryOptions, probe: Vec<Address>) -> Self {
        Self::begin(options, false, probe)
    }

    fn begin(options: DiscoveryOptions, broadcasts: bool, probe: Vec<Address>) -> Self {
        let (ask, asked) = mpsc::channel(ASKS);
        let (tell, sightings) = mpsc::channel(WAITING);
        let hearing = Arc::new(SocketShared::new(options.port, tell));
        let mut task = JoinSet::new();
        let search = DiscoveryTask { broadcasts, ..DiscoveryTask::new(options, Arc::clone(&hearing)) };
        task.spawn(search.run(asked, probe));
        Self { ask, sightings, hearing, _task: task }
    }

    /// Looks now, and asks these addresses directly as well.
    pub fn look(&self, probe: Vec<Address>) {
        // With so many rounds asked for already, one more brings nothing.
        let _ = self.ask.try_send(probe);
    }

    /// The next plug that made itself heard. Waits for ever when there is none. Cancel safe.
    pub async fn next(&mut self) -> Sighting {
        match self.sightings.recv().await {
            Some(sighting) => sighting,
            None => std::future::pending().await,
        }
    }

    /// The networks that were asked by broadcast since the start, in the order of their addresses.
    pub fn asked(&self) -> Vec<BroadcastPath> {
        let asked = self.hearing.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().copied().collect()
    }

    /// What has come in since the start.
    pub fn tally(&self) -> DiscoveryCounts {
        self.hearing.tally()
    }
}

/// The search as its task sees it.
struct DiscoveryTask {
    options: DiscoveryOptions,
    /// Whether anybody is asked who is not named.
    broadcasts: bool,
    hearing: Arc<SocketShared>,
    ways: Vec<BroadcastPath>,
    /// By the address that each is bound to.
    ears: HashMap<Ipv4Addr, DiscoverySocket>,
    /// What keeps an address from having a socket.
    closed: HashMap<Ipv4Addr, Repeated>,
    listing: Repeated,
    rounds: u32,
    /// What had come in when the round before began.
    before: DiscoveryCounts,
}

/// One datagram: from which address, where to, and the words.
type Question = (Ipv4Addr, SocketAddr, Arc<[u8]>);

impl DiscoveryTask {
    fn new(options: DiscoveryOptions, hearing: Arc<SocketShared>) -> Self {
        Self {
            options,
            broadcasts: true,
            hearing,
            ways: Vec::new(),
            ears: HashMap::new(),
            closed: HashMap::new(),
            listing: Repeated::default(),
            rounds: 0,
            before: DiscoveryCounts::default(),
        }
    }

    async fn run(mut self, mut asked: mpsc::Receiver<Vec<Address>>, mut probe: Vec<Address>) {
        loop {
            self.round(&probe).await;
            match self.next_round(&mut asked).await {
                Some(more) => probe = more,
                None => return,
            }
        }
    }

    /// Waits until a round is due: by time, because somebody asks, or because an interface came. Whom to ask
    /// directly in it; `None` when nobody wants to know any more.
    async fn next_round(&mut self, asked: &mut mpsc::Receiver<Vec<Address>>) -> Option<Vec<Address>> {
        let due = Instant::now() + self.options.interval;
        loop {
            let look = Instant::now() + INTERFACES_EVERY;
            tokio::select! {
                more = asked.recv() => {
                    let mut probe = more?;
                    while let Ok(more) = asked.try_recv() {
                        probe.extend(more);
                    }
                    return Some(probe);
                }
                () = sleep_until(due.min(look)) => {
                    if self.look_at_interfaces() || due <= Instant::now() {
                        return Some(Vec::new());
                    }
                }
            }
        }
    }

    async fn round(&mut self, probe: &[Address]) {
        self.tell_tally();
        self.rounds = self.rounds.wrapping_add(1);
        self.look_at_interfaces();
        let questions = self.questions(probe);
        for datagram in 0..DATAGRAMS {
            if datagram > 0 {
                sleep(APART).await;
            }
            for (local, target, words) in &questions {
                let Some(ear) = self.ears.get_mut(local) else { continue };
                let is_it = |way: &&BroadcastPath| way.local == *local && way.target == target.ip();
                if ear.ask(*target, words).await
                    && let Some(way) = self.ways.iter().find(is_it)
                {
                    self.hearing.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(*way);
                }
            }
        }
    }

    /// Every datagram of a round, once.
    fn questions(&self, probe: &[Address]) -> Vec<Question> {
        let mut xor = Vec::new();
        Request::SysInfo.write_json(OutletIds::None, &mut xor);
        cipher::encrypt(&mut xor);
        let xor: Arc<[u8]> = xor.into();
        let newer = [Arc::from(tdp::SHORT_PROBE), Arc::from(tdp::key_probe(self.rounds))];

        let broadcasts =
            self.ways.iter().map(|way| (way.local, SocketAddr::from((way.target, self.options.port))));
        let probed: HashSet<SocketAddr> = probe.iter().filter_map(Address::socket).collect();
        let probes = probed.iter().map(|&target| (Ipv4Addr::UNSPECIFIED, target));
        let mut questions = Vec::new();
        for (local, target) in broadcasts.chain(probes) {
            questions.push((local, target, Arc::clone(&xor)));
            for &port in &self.options.tdp_ports {
                let target = SocketAddr::new(target.ip(), port);
                questions.extend(newer.iter().map(|words| (local, target, Arc::clone(words))));
            }
        }
        *self.hearing.probed.lock().unwrap_or_else(PoisonError::into_inner) = probed;
        questions
    }

    /// Opens and closes sockets as interfaces came and went. Whether there is a way that was not there before.
    fn look_at_interfaces(&mut self) -> bool {
        let ways = self.ways_out();
        let is_any_new = ways.iter().any(|way| !self.ways.contains(way));
        self.ways = ways;
        self.open_ears();
        is_any_new
    }

    fn ways_out(&mut self) -> Vec<BroadcastPath> {
        if !self.broadcasts {
            return Vec::new();
        }
        if !self.options.broadcast.is_empty() {
            let to = |&target| BroadcastPath { local: Ipv4Addr::UNSPECIFIED, target };
            return self.options.broadcast.iter().map(to).collect();
        }
        match interfaces::of_interfaces() {
            Ok(ways) => {
                if let Some(past) = self.listing.ended(std::time::Instant::now()) {
                    tracing::info!("the network interfaces can be listed again {past}");
                }
                ways
            }
            Err(error) => {
                if self.listing.failed(&error.to_string(), std::time::Instant::now()).is_some() {
                    tracing::warn!(
                        "the network interfaces cannot be listed: {error}: set discovery.broadcast"
                    );
                }
                Vec::new()
            }
        }
    }

    /// One socket for each way, opened when the interface comes, closed when it goes and replaced when it broke; and
    /// one for single plugs, which the system sends by whichever interface leads to them.
    fn open_ears(&mut self) {
        let mut wanted: HashSet<Ipv4Addr> = self.ways.iter().map(|way| way.local).collect();
        wanted.insert(Ipv4Addr::UNSPECIFIED);
        self.ears.retain(|local, ear| {
            let stays = wanted.contains(local) && ear.is_sound();
            if !stays {
                tracing::debug!(%local, "the address or its socket is gone; nobody is asked from there");
            }
            stays
        });
        self.closed.retain(|local, _| wanted.contains(local));
        for local in wanted {
            if self.ears.contains_key(&local) {
                continue;
            }
            let trouble = self.closed.entry(local).or_default();
            match DiscoverySocket::open(local, Arc::clone(&self.hearing)) {
                Ok(ear) => {
                    tracing::debug!(%local, "plugs are asked from this address");
                    self.ears.insert(local, ear);
                    self.closed.remove(&local);
                }
                Err(error) => {
                    if trouble.failed(&error.to_string(), std::time::Instant::now()).is_some() {
                        tracing::warn!(
                            "no socket to look for plugs from {local}: {error}: plugs there are not found; write \
                             their host in [[plug]]"
                        );
                    }
                }
            }
        }
    }

    /// One line for what came in since the round before began.
    fn tell_tally(&mut self) {
        let tally = self.hearing.tally();
        let before = std::mem::replace(&mut self.before, tally);
        self.hearing.begin_round();
        if tally != before {
            let answers = tally.answers - before.answers;
            let garbage = tally.garbage - before.garbage;
            let dropped = tally.dropped - before.dropped;
            tracing::debug!(answers, garbage, dropped, "heard since the last round of discovery");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search() -> (DiscoveryTask, mpsc::Receiver<Sighting>) {
        let (tell, sightings) = mpsc::channel(WAITING);
        let options = DiscoveryOptions { tdp_ports: vec![9], ..DiscoveryOptions::usual(9) };
        let hearing = Arc::new(SocketShared::new(options.port, tell));
        (DiscoveryTask::new(options, hearing), sightings)
    }

    #[tokio::test]
    async fn a_socket_that_broke_is_replaced_and_one_whose_interface_went_is_closed() {
        let (mut search, _sightings) = search();
        let (here, gone) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 9));
        search.ways = [here, gone].map(|local| BroadcastPath { local, target: local }).to_vec();
        search.open_ears();
        let port = |search: &DiscoveryTask, local| search.ears.get(&local).map(DiscoverySocket::port);
        let [first, any, before] = [here, Ipv4Addr::UNSPECIFIED, gone].map(|local| port(&search, local));
        assert!(first.is_some() && any.is_some() && before.is_some());

        search.ears[&here].give_up().await;
        search.ways.retain(|way| way.local == here);
        search.open_ears();
        assert!(port(&search, here).is_some_and(|port| Some(port) != first), "a broken one is replaced");
        assert_eq!(port(&search, Ipv4Addr::UNSPECIFIED), any, "a sound one stays");
        assert_eq!(port(&search, gone), None);
        search.open_ears();
        assert_eq!(search.ears.len(), 2);
    }

    #[tokio::test]
    async fn an_address_that_is_none_of_ours_is_told_once_and_does_not_keep_the_others_from_being_used() {
        let (mut search, _sightings) = search();
        let foreign = Ipv4Addr::new(192, 0, 2, 1);
        search.ways =
            [foreign, Ipv4Addr::LOCALHOST].map(|local| BroadcastPath { local, target: local }).to_vec();
        search.open_ears();
        search.open_ears();
        assert!(search.ears.contains_key(&Ipv4Addr::LOCALHOST) && !search.ears.contains_key(&foreign));
        assert!(search.closed.contains_key(&foreign));
    }

    #[tokio::test]
    async fn single_plugs_are_asked_also_where_there_is_no_way_out() {
        let (mut search, _sightings) = search();
        let probe = Address::new("127.0.0.7:7", 9);
        let probes: Vec<_> = probe.clone().into_iter().chain(probe).collect();
        search.ways.clear();
        let questions = search.questions(&probes);
        let places: Vec<_> =
            questions.iter().map(|(local, target, _)| (*local, target.to_string())).collect();
        let place = |target: &str| (Ipv4Addr::UNSPECIFIED, target.to_owned());
        assert_eq!(places, [place("127.0.0.7:7"), place("127.0.0.7:9"), place("127.0.0.7:9")], "each once");
        search.open_ears();
        assert!(search.ears.contains_key(&Ipv4Addr::UNSPECIFIED));
    }
}
