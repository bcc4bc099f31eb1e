//! A LAN that is cut silently, in numbers: how long a command takes then, and how long the return to the LAN.
//!
//! The daemon, its broker and a switch are in one network namespace. Two groups of plugs are in their own namespaces,
//! each connected to the switch by a cable. One cable is cut: what is sent into it is lost, nothing refuses, nothing
//! answers, and the daemon's own interface stays up. The cloud is reached over another path, which stays open.
//!
//! ```text
//! cargo test --test lan_cut                                             ten commands after one cut
//! HS100D_LAN_CUTS=10 cargo test --test lan_cut -- --nocapture             a hundred commands after ten cuts
//! ```

#![cfg(all(feature = "sim", feature = "broker", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod support;

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::e2e::{ACCOUNT, Config, Scene};
use crate::support::namespace::{Player, answer, ip, play_apart, role, told};
use hs100d::sim::cloud::SimCloud;
use hs100d::sim::cloud::account::SimAccount;
use hs100d::sim::cloud::rule::Method;
use hs100d::sim::handle::PlugHandle;
use hs100d::sim::lan::{LanPorts, SimLan};
use hs100d::sim::model::Model;
use hs100d::sim::notify::ChangeNotifier;
use hs100d::sim::plug::SimPlug;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

/// The number of cuts. After each, every plug behind the cut gets a command.
const CUTS: &str = "HS100D_LAN_CUTS";
/// A hundred commands take most of this; ten take about twenty seconds.
const BOUND: Duration = Duration::from_secs(900);
/// Plugs behind the cable that is cut.
const PLUGS: usize = 10;
/// A plug behind the other cable.
const NEIGHBOUR: &str = "plug-11";
/// The promise for a command after a cut, from its arrival to its result.
const SWITCHED_WITHIN: Duration = Duration::from_secs(1);
/// The promise for a LAN that is back: one probe interval …
const HOME_WITHIN: Duration = Duration::from_secs(10);
/// … and what a busy machine may add.
const SLACK: Duration = Duration::from_secs(1);
/// A plug behind the other cable is answered as if nothing had happened.
const AT_ONCE: Duration = Duration::from_millis(500);
/// The time from a cut to its commands, cut by cut: before the cut was noticed, while a poll hangs, after a poll has
/// failed, and when the LAN counts as down.
const LATER: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(400), Duration::from_millis(1500), Duration::from_secs(6)];
/// The time that the LAN stays cut after the commands, cut by cut: until nothing is in flight on it, times between two
/// probes, and zero.
const AWAY: [Duration; 4] =
    [Duration::from_secs(4), Duration::from_secs(8), Duration::from_secs(11), Duration::ZERO];
/// The daemon's limit for cloud calls: this burst, and one a second.
const BURST: f64 = 60.0;
/// Cloud calls per round: a relay command and a read for each command, and a poll of each plug that is cut off.
const CALLS_PER_CUT: f64 = 3.0 * PLUGS as f64;
const PORT: u16 = 9999;
const TDP_PORT: u16 = 20002;
/// The addresses of the account's host and of the plugs' host, the same in both namespaces.
const CLOUD: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 18001),
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 18002),
];

#[test]
fn a_silently_cut_lan_delays_a_command_by_less_than_a_second_and_is_used_again_within_one_probe() {
    play_apart("the_daemon_at_its_switch", "daemon", BOUND);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by a_silently_cut_lan_delays_a_command_by_less_than_a_second_and_is_used_again_within_one_probe"]
async fn the_daemon_at_its_switch() {
    if role().as_deref() != Some("daemon") {
        return;
    }
    let cuts = std::env::var(CUTS).map_or(1, |cuts| cuts.parse().expect("a number of cuts"));
    ip("link set lo up");
    ip("link add lan type bridge");
    ip("address add 10.77.0.1/24 brd + dev lan");
    ip("link set lan up");
    let folder = tempfile::tempdir().unwrap();
    let mut room = Room::connect(1, &[11, PLUGS]);
    let _neighbours = Room::connect(2, &[11 + PLUGS, 1]);
    assert_eq!(room.plugs.say(&format!("cloud {}", folder.path().display())), "open");
    lead_to_cloud(folder.path()).await;
    let config = Config::default()
        .set("broker", "listen", "127.0.0.1:0")
        .set("discovery", "broadcast", ["10.77.0.255"])
        .set("cloud", "username", ACCOUNT.0)
        .set("cloud", "password", ACCOUNT.1)
        .set("cloud", "url", format!("http://{}", CLOUD[0]));
    let scene = Arc::new(Scene::start(&config).await);

    let mut measured = Measured::default();
    let mut budget = Budget { left: BURST, at: Instant::now(), calls: 0 };
    for cut in 0..cuts {
        all(&scene, "local").await;
        budget.wait(&mut room).await;
        room.cut();
        tokio::time::sleep(LATER[cut % LATER.len()]).await;
        let state = if cut % 2 == 0 { "ON" } else { "OFF" };
        measured.switch(&scene, state).await;
        all(&scene, "cloud").await;
        tokio::time::sleep(AWAY[cut % AWAY.len()]).await;
        room.mend();
        measured.come_home(&scene).await;
        let commands: Vec<bool> = (0..=cut).map(|cut| cut % 2 == 0).collect();
        for plug in 0..PLUGS {
            assert_eq!(room.states(plug), commands, "each command is carried out, and none after the next");
        }
    }
    measured.tell(cuts);
    measured.hold();
}

/// Plugs in their own namespace, and a cable from them to the switch.
struct Room {
    number: usize,
    plugs: Player,
}

impl Room {
    /// Plugs with consecutive addresses: the last digits of the first one, and their number.
    fn connect(number: usize, [first, count]: &[usize; 2]) -> Self {
        let mut plugs = Player::start("a_room_of_plugs", "room");
        ip(&format!("link add cable{number} type veth peer name eth0 netns {}", plugs.pid()));
        ip(&format!("link set cable{number} master lan"));
        ip(&format!("link set cable{number} up"));
        assert_eq!(plugs.say(&format!("plugs {first} {count}")), "there");
        Self { number, plugs }
    }

    /// The switch no longer uses this cable: frames for its plugs go to the other one, where no plug has their address.
    fn cut(&self) {
        ip(&format!("link set cable{} down", self.number));
    }

    fn mend(&self) {
        ip(&format!("link set cable{} up", self.number));
    }

    fn calls(&mut self) -> u64 {
        self.plugs.say("calls").parse().unwrap()
    }

    /// The states that a plug was switched to, in order; a command that arrived over both routes counts once.
    fn states(&mut self, plug: usize) -> Vec<bool> {
        let mut states: Vec<bool> =
            serde_json::from_str(&self.plugs.say(&format!("switchings {plug}"))).unwrap();
        states.dedup();
        states
    }
}

/// A lower bound of the cloud calls that the daemon may still make.
struct Budget {
    left: f64,
    at: Instant,
    calls: u64,
}

impl Budget {
    /// Waits until the rate limit will not delay a round; that is not what is measured here.
    async fn wait(&mut self, room: &mut Room) {
        let (now, calls) = (Instant::now(), room.calls());
        self.left = (self.left + (now - self.at).as_secs_f64()).min(BURST) - (calls - self.calls) as f64;
        (self.at, self.calls) = (now, calls);
        tokio::time::sleep(Duration::from_secs_f64((CALLS_PER_CUT - self.left).max(0.0))).await;
    }
}

/// The results.
#[derive(Default)]
struct Measured {
    /// Of commands over the cloud.
    took: Vec<Duration>,
    /// Of commands to the plug behind the other cable.
    neighbour: Vec<Duration>,
    home: Vec<Duration>,
    /// All other results.
    wrong: Vec<Value>,
}

impl Measured {
    /// Sends a command to each plug, all at once, and waits for the results.
    async fn switch(&mut self, scene: &Scene, state: &str) {
        let order = |plug: &str| scene.send(plug, json!({ "state": state }));
        let sent: Vec<_> = names().map(|plug| (order(&plug), plug)).collect();
        let neighbour = order(NEIGHBOUR);
        let result = scene.result(NEIGHBOUR, &neighbour).await;
        Self::sort(&result, "local", &mut self.neighbour, &mut self.wrong);
        for (transaction, plug) in sent {
            let result = scene.result(&plug, &transaction).await;
            Self::sort(&result, "cloud", &mut self.took, &mut self.wrong);
        }
    }

    fn sort(result: &Value, route: &str, times: &mut Vec<Duration>, wrong: &mut Vec<Value>) {
        match result["took_ms"].as_u64() {
            Some(took) if result["status"] == "ok" && result["route"] == route => {
                times.push(Duration::from_millis(took));
            }
            _ => wrong.push(result.clone()),
        }
    }

    /// Waits until each plug is served over the LAN again.
    async fn come_home(&mut self, scene: &Arc<Scene>) {
        let mended = Instant::now();
        let mut plugs = JoinSet::new();
        for plug in names() {
            let scene = Arc::clone(scene);
            plugs.spawn(async move {
                scene.shows(&plug, json!({"route": "local"})).await;
                mended.elapsed()
            });
        }
        while let Some(took) = plugs.join_next().await {
            self.home.push(took.unwrap());
        }
    }

    fn tell(&self, cuts: usize) {
        let commands = cuts * PLUGS;
        let within = |times: &[Duration], bound| times.iter().filter(|took| **took < bound).count();
        println!("a LAN that is cut without a word: {cuts} cuts, {PLUGS} plugs behind each");
        println!(
            "  switched over the cloud in less than {SWITCHED_WITHIN:?}: {} of {commands}; {}",
            within(&self.took, SWITCHED_WITHIN),
            Spread(&self.took)
        );
        println!(
            "  a plug behind another cable meanwhile, over the LAN: {} of {cuts}; {}",
            within(&self.neighbour, AT_ONCE),
            Spread(&self.neighbour)
        );
        println!(
            "  home again within one probe interval of {HOME_WITHIN:?}: {} of {commands}; {}",
            within(&self.home, HOME_WITHIN),
            Spread(&self.home)
        );
        println!("  other results: {}; commands carried out after a newer one: 0", self.wrong.len());
    }

    fn hold(&self) {
        let slowest = |times: &[Duration]| times.iter().max().copied().unwrap();
        assert_eq!(self.wrong, [Value::Null; 0]);
        assert!(slowest(&self.took) < SWITCHED_WITHIN, "{:?}", self.took);
        assert!(slowest(&self.neighbour) < AT_ONCE, "{:?}", self.neighbour);
        assert!(slowest(&self.home) < HOME_WITHIN + SLACK, "{:?}", self.home);
    }
}

/// Median, 99th percentile and maximum.
struct Spread<'a>(&'a [Duration]);

impl Display for Spread<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut times = self.0.to_vec();
        times.sort();
        let share = |percent: usize| {
            let place = (times.len() * percent).div_ceil(100).max(1) - 1;
            times.get(place).map_or(0, Duration::as_millis)
        };
        write!(f, "p50 {} ms, p99 {} ms, max {} ms", share(50), share(99), share(100))
    }
}

fn names() -> impl Iterator<Item = String> {
    (1..=PLUGS).map(|number| format!("plug-{number}"))
}

/// Waits until every plug behind the cable is served over this route.
async fn all(scene: &Scene, route: &str) {
    for plug in names() {
        scene.shows(&plug, json!({ "route": route })).await;
    }
}

/// The daemon's end of the path to the cloud, which no cut affects.
async fn lead_to_cloud(folder: &Path) {
    for (number, address) in CLOUD.iter().enumerate() {
        let listener = TcpListener::bind(address).await.unwrap();
        let path = way(folder, number);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let path = path.clone();
                tokio::spawn(async move { join(near, UnixStream::connect(path).await.unwrap()).await });
            }
        });
    }
}

/// The cloud's end of it.
fn lead_from_daemon(folder: &Path) {
    for (number, address) in CLOUD.into_iter().enumerate() {
        let listener = UnixListener::bind(way(folder, number)).unwrap();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(async move { join(near, TcpStream::connect(address).await.unwrap()).await });
            }
        });
    }
}

fn way(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("cloud-{number}"))
}

async fn join(mut near: impl AsyncRead + AsyncWrite + Unpin, mut far: impl AsyncRead + AsyncWrite + Unpin) {
    // Either side may close the connection.
    let _ = copy_bidirectional(&mut near, &mut far).await;
}

/// One group of plugs and, if requested, the cloud that knows them.
#[tokio::test]
#[ignore = "started by the_daemon_at_its_switch"]
async fn a_room_of_plugs() {
    if role().as_deref() != Some("room") {
        return;
    }
    let mut lines = told();
    ip("link set lo up");
    let notifier = ChangeNotifier::new();
    let (mut plugs, mut lan, mut cloud) = (Vec::new(), None, None);
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["plugs", first, count] => {
                let first: usize = first.parse().unwrap();
                let hosts = || (first..).take(count.parse().unwrap());
                for host in hosts() {
                    ip(&format!("address add 10.77.0.{host}/24 brd + dev eth0"));
                }
                ip("link set eth0 up");
                let broadcast = Ipv4Addr::new(10, 77, 0, 255);
                let ports = LanPorts { xor: PORT, tdp: TDP_PORT, klap: 80 };
                let here = SimLan::start_in_namespace(broadcast, ports, notifier.clone()).await.unwrap();
                for host in hosts() {
                    let plug = plug(host - 10, &notifier);
                    here.plug_in(&plug, (Ipv4Addr::new(10, 77, 0, host as u8), PORT).into()).await.unwrap();
                    plugs.push(plug);
                }
                lan = Some(here);
                answer("there");
            }
            ["cloud", folder] => {
                let account = SimAccount::new(ACCOUNT.0, ACCOUNT.1);
                let here = SimCloud::start(account, &CLOUD, notifier.clone()).await.unwrap();
                plugs.iter().for_each(|plug| here.add(plug));
                lead_from_daemon(Path::new(folder));
                cloud = Some(here);
                answer("open");
            }
            ["calls"] => {
                let calls = |method: Method| cloud.as_ref().unwrap().calls(method);
                answer(&Method::ALL.into_iter().map(calls).sum::<u64>().to_string());
            }
            ["switchings", plug] => {
                let log = plugs[plug.parse::<usize>().unwrap()].switchings();
                let states: Vec<bool> = log.iter().map(|switching| switching.on).collect();
                answer(&json!(states).to_string());
            }
            _ => panic!("{line:?}"),
        }
    }
    drop(lan);
}

fn plug(number: usize, notifier: &ChangeNotifier) -> PlugHandle {
    let mut plug = SimPlug::new(Model::HS100_HW1, number as u32, &format!("Plug {number}"), Instant::now());
    plug.region = 1;
    PlugHandle::new(plug, notifier.clone())
}
