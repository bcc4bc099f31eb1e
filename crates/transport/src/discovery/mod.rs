//! Finds plugs on the LAN: UDP probes out, sightings in.
//!
//! Owns the rounds: when probes are sent, and on which paths. Each interface has a socket bound to its own address,
//! because a broadcast leaves by one interface only; single plugs are probed from a socket that is bound to no address.
//! A probe requests only `get_sysinfo`: some firmwares crash on more. `socket` owns a socket, `reply` parses, `tdp` is
//! the form of UDP 20002, `obstacle` says why no plug can be found.

mod container;
mod interfaces;
mod obstacle;
pub mod reply;
mod socket;
mod tdp;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use container::Surroundings;
use hs100d_core::bridge::event::Sighting;
use hs100d_core::logging::Repeated;
use hs100d_core::model::Address;
use hs100d_core::smarthome::cipher;
use hs100d_core::smarthome::message::{OutletIds, Request};
pub use interfaces::BroadcastPath;
use obstacle::ObstacleLog;
pub use obstacle::SearchObstacle;
pub(crate) use socket::DiscoveryCounts;
use socket::{DiscoverySocket, SocketShared};

/// Between two rounds, unless the config says otherwise.
const INTERVAL: Duration = Duration::from_secs(60);
/// The UDP ports on which newer firmwares answer TDP.
pub(crate) const TDP_PORTS: [u16; 2] = [20002, 20004];
/// Each round sends every datagram this often, since one may be lost …
const DATAGRAMS: usize = 3;
/// … with this pause between.
const PAUSE: Duration = Duration::from_millis(300);
/// How often the interfaces are listed. A new one gets a round at once.
const INTERFACES_EVERY: Duration = Duration::from_secs(5);
/// Sightings that may wait for the loop. More are dropped: every plug replies again next round.
const SIGHTINGS: usize = 1024;
/// Requests for a round that may wait. All that come during a round become one round.
const REQUESTS: usize = 16;

/// How to look for plugs on the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryOptions {
    /// Between two rounds.
    pub interval: Duration,
    /// The broadcast addresses; empty: those of the interfaces.
    pub broadcast: Vec<Ipv4Addr>,
    /// The port that plugs listen on, UDP and TCP.
    pub port: u16,
    /// The ports of TDP: [`TDP_PORTS`], except for simulated plugs.
    pub tdp_ports: Vec<u16>,
}

impl DiscoveryOptions {
    /// The defaults, for plugs that listen on this port.
    pub fn usual(port: u16) -> Self {
        Self { interval: INTERVAL, broadcast: Vec::new(), port, tdp_ports: TDP_PORTS.to_vec() }
    }
}

/// The running discovery. Dropping it ends it.
#[derive(Debug)]
pub struct Discovery {
    requests: mpsc::Sender<Vec<Address>>,
    sightings: mpsc::Receiver<Sighting>,
    shared: Arc<SocketShared>,
    _task: JoinSet<()>,
}

impl Discovery {
    /// Starts with a round at once.
    pub fn start(options: DiscoveryOptions) -> Self {
        Self::begin(options, true, Vec::new())
    }

    /// Starts with a round that probes only these addresses. Never broadcasts.
    pub fn start_without_broadcast(options: DiscoveryOptions, probe: Vec<Address>) -> Self {
        Self::begin(options, false, probe)
    }

    fn begin(options: DiscoveryOptions, broadcasts: bool, probe: Vec<Address>) -> Self {
        let (requests, requested) = mpsc::channel(REQUESTS);
        let (sender, sightings) = mpsc::channel(SIGHTINGS);
        let shared = Arc::new(SocketShared::new(options.port, sender));
        let mut task = JoinSet::new();
        let rounds = DiscoveryTask { broadcasts, ..DiscoveryTask::new(options, Arc::clone(&shared)) };
        task.spawn(rounds.run(requested, probe));
        Self { requests, sightings, shared, _task: task }
    }

    /// Requests a round now that also probes these addresses directly.
    pub fn look(&self, probe: Vec<Address>) {
        // A full channel means that rounds are due anyway.
        let _ = self.requests.try_send(probe);
    }

    /// The next sighting. Waits until there is one. Cancel safe.
    pub async fn next(&mut self) -> Sighting {
        match self.sightings.recv().await {
            Some(sighting) => sighting,
            None => std::future::pending().await,
        }
    }

    /// The networks to which a broadcast was sent since the start, in the order of their addresses.
    pub fn asked(&self) -> Vec<BroadcastPath> {
        let asked = self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().copied().collect()
    }

    /// Why broadcasts reach no plug; `None` once any plug has answered, and if nothing is known to be in the way.
    pub fn obstacle(&self) -> Option<SearchObstacle> {
        self.shared.obstacle(&Surroundings::of_this_process())
    }

    /// Datagrams received since the start.
    pub fn tally(&self) -> DiscoveryCounts {
        self.shared.tally()
    }
}

/// The task that sends the rounds.
struct DiscoveryTask {
    options: DiscoveryOptions,
    /// Whether it broadcasts, and does not only probe single addresses.
    broadcasts: bool,
    shared: Arc<SocketShared>,
    paths: Vec<BroadcastPath>,
    /// By the address that each is bound to.
    sockets: HashMap<Ipv4Addr, DiscoverySocket>,
    /// Addresses for which no socket could be opened.
    open_failures: HashMap<Ipv4Addr, Repeated>,
    list_failures: Repeated,
    surroundings: Surroundings,
    obstacle_log: ObstacleLog,
    rounds: u32,
    /// The counts when the last round began.
    counts_before: DiscoveryCounts,
}

/// A datagram with its source and target.
type Probe = (Ipv4Addr, SocketAddr, Arc<[u8]>);

impl DiscoveryTask {
    fn new(options: DiscoveryOptions, shared: Arc<SocketShared>) -> Self {
        Self {
            options,
            broadcasts: true,
            shared,
            paths: Vec::new(),
            sockets: HashMap::new(),
            open_failures: HashMap::new(),
            list_failures: Repeated::default(),
            surroundings: Surroundings::of_this_process(),
            obstacle_log: ObstacleLog::default(),
            rounds: 0,
            counts_before: DiscoveryCounts::default(),
        }
    }

    async fn run(mut self, mut requested: mpsc::Receiver<Vec<Address>>, mut probe: Vec<Address>) {
        loop {
            self.round(&probe).await;
            match self.next_round(&mut requested).await {
                Some(more) => probe = more,
                None => return,
            }
        }
    }

    /// Waits until a round is due: by time, by request, or for a new interface. Returns the addresses to probe
    /// directly, or `None` once the [`Discovery`] is dropped.
    async fn next_round(&mut self, requested: &mut mpsc::Receiver<Vec<Address>>) -> Option<Vec<Address>> {
        let due = Instant::now() + self.options.interval;
        loop {
            let look = Instant::now() + INTERFACES_EVERY;
            tokio::select! {
                more = requested.recv() => {
                    let mut probe = more?;
                    while let Ok(more) = requested.try_recv() {
                        probe.extend(more);
                    }
                    return Some(probe);
                }
                () = sleep_until(due.min(look)) => {
                    self.log_obstacle();
                    if self.update_paths() || due <= Instant::now() {
                        return Some(Vec::new());
                    }
                }
            }
        }
    }

    async fn round(&mut self, probe: &[Address]) {
        self.log_counts();
        self.rounds = self.rounds.wrapping_add(1);
        self.update_paths();
        let probes = self.probes(probe);
        for datagram in 0..DATAGRAMS {
            if datagram > 0 {
                sleep(PAUSE).await;
            }
            for (local, target, datagram) in &probes {
                let Some(socket) = self.sockets.get_mut(local) else { continue };
                let is_it = |path: &&BroadcastPath| path.local == *local && path.target == target.ip();
                let sent = socket.send(*target, datagram).await;
                if let Some(path) = self.paths.iter().find(is_it) {
                    self.shared.broadcast(*path, sent);
                }
            }
        }
        self.log_obstacle();
    }

    /// Says once what keeps broadcasts from reaching any plug.
    fn log_obstacle(&mut self) {
        if self.broadcasts && !self.obstacle_log.is_done() {
            let obstacle = self.shared.obstacle(&self.surroundings);
            if let Some(line) = self.obstacle_log.observe(obstacle, std::time::Instant::now()) {
                line.log();
            }
        }
    }

    /// Every datagram of a round, once.
    fn probes(&self, probe: &[Address]) -> Vec<Probe> {
        let mut xor = Vec::new();
        Request::SysInfo.write_json(OutletIds::None, &mut xor);
        cipher::encrypt(&mut xor);
        let xor: Arc<[u8]> = xor.into();
        let tdp = [Arc::from(tdp::SHORT_PROBE), Arc::from(tdp::key_probe(self.rounds))];

        let broadcasts =
            self.paths.iter().map(|path| (path.local, SocketAddr::from((path.target, self.options.port))));
        let probed: HashSet<SocketAddr> = probe.iter().filter_map(Address::socket).collect();
        let single = probed.iter().map(|&target| (Ipv4Addr::UNSPECIFIED, target));
        let mut probes = Vec::new();
        for (local, target) in broadcasts.chain(single) {
            probes.push((local, target, Arc::clone(&xor)));
            for &port in &self.options.tdp_ports {
                let target = SocketAddr::new(target.ip(), port);
                probes.extend(tdp.iter().map(|datagram| (local, target, Arc::clone(datagram))));
            }
        }
        *self.shared.probed.lock().unwrap_or_else(PoisonError::into_inner) = probed;
        probes
    }

    /// Opens and closes sockets for interfaces that came and went. Whether there is a new path.
    fn update_paths(&mut self) -> bool {
        let paths = self.list_paths();
        let is_any_new = paths.iter().any(|path| !self.paths.contains(path));
        self.paths = paths;
        self.update_sockets();
        is_any_new
    }

    fn list_paths(&mut self) -> Vec<BroadcastPath> {
        if !self.broadcasts {
            return Vec::new();
        }
        if !self.options.broadcast.is_empty() {
            let to = |&target| BroadcastPath { local: Ipv4Addr::UNSPECIFIED, target };
            return self.options.broadcast.iter().map(to).collect();
        }
        match interfaces::of_interfaces() {
            Ok(paths) => {
                if let Some(past) = self.list_failures.ended(std::time::Instant::now()) {
                    tracing::info!("the network interfaces can be listed again {past}");
                }
                paths
            }
            Err(error) => {
                if self.list_failures.failed(&error.to_string(), std::time::Instant::now()).is_some() {
                    tracing::warn!(
                        "the network interfaces cannot be listed: {error}: set discovery.broadcast"
                    );
                }
                Vec::new()
            }
        }
    }

    /// One socket for each path, opened when the interface comes, closed when it goes and replaced when it broke; and one
    /// for single plugs, for which the system chooses the interface.
    fn update_sockets(&mut self) {
        let mut wanted: HashSet<Ipv4Addr> = self.paths.iter().map(|path| path.local).collect();
        wanted.insert(Ipv4Addr::UNSPECIFIED);
        self.sockets.retain(|local, socket| {
            let stays = wanted.contains(local) && socket.is_open();
            if !stays {
                tracing::debug!(%local, "the address or its socket is gone; no probes from there");
            }
            stays
        });
        self.open_failures.retain(|local, _| wanted.contains(local));
        for local in wanted {
            if self.sockets.contains_key(&local) {
                continue;
            }
            let failures = self.open_failures.entry(local).or_default();
            match DiscoverySocket::open(local, Arc::clone(&self.shared)) {
                Ok(socket) => {
                    tracing::debug!(%local, "probes are sent from this address");
                    self.sockets.insert(local, socket);
                    self.open_failures.remove(&local);
                }
                Err(error) => {
                    if failures.failed(&error.to_string(), std::time::Instant::now()).is_some() {
                        tracing::warn!(
                            "no discovery socket on {local}: {error}: plugs there are not found; set their host in \
                             [[plug]]"
                        );
                    }
                }
            }
        }
    }

    /// One line for the datagrams received since the last round began.
    fn log_counts(&mut self) {
        let counts = self.shared.tally();
        let before = std::mem::replace(&mut self.counts_before, counts);
        self.shared.begin_round();
        if counts != before {
            let answers = counts.answers - before.answers;
            let garbage = counts.garbage - before.garbage;
            let dropped = counts.dropped - before.dropped;
            tracing::debug!(answers, garbage, dropped, "received since the last round of discovery");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> (DiscoveryTask, mpsc::Receiver<Sighting>) {
        let (sender, sightings) = mpsc::channel(SIGHTINGS);
        let options = DiscoveryOptions { tdp_ports: vec![9], ..DiscoveryOptions::usual(9) };
        let shared = Arc::new(SocketShared::new(options.port, sender));
        (DiscoveryTask::new(options, shared), sightings)
    }

    #[tokio::test]
    async fn a_socket_that_broke_is_replaced_and_one_whose_interface_went_is_closed() {
        let (mut task, _sightings) = task();
        let (here, gone) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 9));
        task.paths = [here, gone].map(|local| BroadcastPath { local, target: local }).to_vec();
        task.update_sockets();
        let port = |task: &DiscoveryTask, local| task.sockets.get(&local).map(DiscoverySocket::port);
        let [first, any, before] = [here, Ipv4Addr::UNSPECIFIED, gone].map(|local| port(&task, local));
        assert!(first.is_some() && any.is_some() && before.is_some());

        task.sockets[&here].break_off().await;
        task.paths.retain(|path| path.local == here);
        task.update_sockets();
        assert!(port(&task, here).is_some_and(|port| Some(port) != first), "a broken one is replaced");
        assert_eq!(port(&task, Ipv4Addr::UNSPECIFIED), any, "an open one stays");
        assert_eq!(port(&task, gone), None);
        task.update_sockets();
        assert_eq!(task.sockets.len(), 2);
    }

    #[tokio::test]
    async fn an_address_without_a_socket_does_not_keep_the_others_from_being_used() {
        let (mut task, _sightings) = task();
        let foreign = Ipv4Addr::new(192, 0, 2, 1);
        task.paths =
            [foreign, Ipv4Addr::LOCALHOST].map(|local| BroadcastPath { local, target: local }).to_vec();
        task.update_sockets();
        task.update_sockets();
        assert!(task.sockets.contains_key(&Ipv4Addr::LOCALHOST) && !task.sockets.contains_key(&foreign));
        assert!(task.open_failures.contains_key(&foreign));
    }

    #[tokio::test]
    async fn single_plugs_are_asked_also_without_a_broadcast_path() {
        let (mut task, _sightings) = task();
        let probe = Address::new("127.0.0.7:7", 9);
        let probe: Vec<_> = probe.clone().into_iter().chain(probe).collect();
        task.paths.clear();
        let probes = task.probes(&probe);
        let places: Vec<_> = probes.iter().map(|(local, target, _)| (*local, target.to_string())).collect();
        let place = |target: &str| (Ipv4Addr::UNSPECIFIED, target.to_owned());
        assert_eq!(places, [place("127.0.0.7:7"), place("127.0.0.7:9"), place("127.0.0.7:9")], "each once");
        task.update_sockets();
        assert!(task.sockets.contains_key(&Ipv4Addr::UNSPECIFIED));
    }
}
