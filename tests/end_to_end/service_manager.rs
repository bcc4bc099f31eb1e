//! What systemd receives from the real daemon, over a socket of the test: ready, watchdog, a status line, reloading,
//! stopping.

#![cfg(all(feature = "sim", feature = "broker", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::Write;
use std::os::unix::net;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::support::e2e::{ACCOUNT, Config, Daemon, Setup, home_of, json_of};
use crate::support::mqtt::{Fault, FaultBroker, Process, Subscriber, free_port, within};
use crate::support::namespace::part;
use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::daemon::Daemon as InProcess;
use hs100d::mqtt::LoginSource;
use hs100d::payload::Clock;
use hs100d::sim::fault::LanFault;
use hs100d::sim::home::SimHome;
use hs100d::store::Store;
use rumqttc::Packet;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio::time::timeout;

/// The watchdog's time-out: a daemon that is silent for longer is taken for hung.
const WATCHDOG: Duration = Duration::from_millis(400);
/// The promise for SIGTERM, whatever hangs. systemd waits for ten seconds.
const ENDS_WITHIN: Duration = Duration::from_secs(6);

/// The resolution of `/proc/uptime` in microseconds.
const TICK: u128 = 10_000;

/// A socket in place of systemd.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { socket: UnixDatagram::bind(folder.path().join("notify")).unwrap(), folder }
    }

    /// Starts the daemon as a unit with `Type=notify` and a watchdog.
    fn starts(&self, setup: &Setup) -> Daemon {
        let [socket, watchdog] = self.variables().map(|(name, value)| format!("{name}={value}"));
        setup.daemon_by(&["env", &socket, &watchdog])
    }

    /// The environment of such a unit.
    fn variables(&self) -> [(&str, String); 2] {
        let socket = self.folder.path().join("notify").display().to_string();
        [("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())]
    }

    async fn hears_next(&self) -> String {
        let mut room = [0; 4096];
        let length = self.socket.recv(&mut room).await.unwrap();
        String::from_utf8(room[..length].to_vec()).unwrap()
    }

    /// Waits for this line and skips earlier ones.
    async fn hears(&self, line: &str) -> String {
        within(line, async {
            loop {
                let told = self.hears_next().await;
                if told.lines().any(|told| told == line) {
                    return told;
                }
            }
        })
        .await
    }
}

/// A server that accepts connections and never sends anything.
struct Silence(TcpListener);

impl Silence {
    async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Waits until a client has connected and sent a request. The caller must keep the connection open.
    async fn holds(&self, what: &str) -> TcpStream {
        within(what, self.0.accept()).await.unwrap().0
    }
}

/// One plug at an address, an account at another, and the broker at a third.
fn config(plug: u16, cloud: u16, broker: u16) -> Config {
    Config::default()
        .without_search()
        .at_broker(broker)
        // An exchange that is not aborted would take longer than the daemon may take to stop.
        .set("local", "timeout", "20s")
        .set("cloud", "username", ACCOUNT.0)
        .set("cloud", "password", ACCOUNT.1)
        .set("cloud", "url", format!("http://127.0.0.1:{cloud}"))
        .entry("kettle", "8006000000000000000000000000000000000001", &format!("127.0.0.1:{plug}"))
}

/// A home that is served over the LAN, with an embedded broker.
async fn served(manager: &Manager) -> (SimHome, Setup, Daemon) {
    let home = home_of(&["Kettle", "Lamp"]).await;
    let setup = Setup::new(&Config::of(&home));
    let daemon = manager.starts(&setup);
    manager.hears("STATUS=2 of 2 plugs online (2 LAN), cloud ok, broker connected").await;
    (home, setup, daemon)
}

#[tokio::test]
async fn it_is_ready_when_its_loop_stands_and_not_when_the_network_does() {
    let manager = Manager::listen();
    let [plug, cloud, broker] = [free_port(), free_port(), free_port()];
    let setup = Setup::new(&config(plug, cloud, broker));
    let mut daemon = manager.starts(&setup);
    assert_eq!(within("the first word", manager.hears_next()).await.trim_end(), "READY=1");
    manager.hears("STATUS=0 of 1 plugs online, cloud down, broker not connected").await;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    let refused =
        daemon.says("connection refused: check that it runs and that mqtt.url has the right port").await;
    assert!(refused.contains(" WARN "), "{refused}");
    daemon.stop().await;
}

#[tokio::test]
async fn the_status_tells_by_which_way_plugs_are_reached() {
    let manager = Manager::listen();
    let (home, _setup, mut daemon) = served(&manager).await;
    home.lan().set_fault(home.plug(1), LanFault::Refused).await.unwrap();
    manager.hears("STATUS=2 of 2 plugs online (1 LAN, 1 cloud), cloud ok, broker connected").await;
    home.lan().set_fault(home.plug(1), LanFault::Works).await.unwrap();
    manager.hears("STATUS=2 of 2 plugs online (2 LAN), cloud ok, broker connected").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_loop_that_hangs_does_not_say_that_it_is_alive() {
    let manager = Manager::listen();
    let setup = Setup::new(&Config::default().without_search().at_broker(free_port()));
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(part("service_manager::a_daemon_whose_loop_hangs")).envs(manager.variables());
    child.env(HANGS, setup.config()).env("STATE_DIRECTORY", setup.state_dir()).stdin(Stdio::piped());
    let mut child = Process(child.spawn().unwrap());
    manager.hears("WATCHDOG=1").await;
    child.0.stdin.take().unwrap().write_all(b"hang\n").unwrap();
    manager.hears(LOOP_HANGS).await;
    let next = within("the end of the hang", manager.hears_next()).await;
    assert_eq!(next, LOOP_GOES_ON, "nothing is said in between");
    manager.hears("WATCHDOG=1").await;
}

/// Set in the environment of a daemon whose loop should hang.
const HANGS: &str = "HS100D_TEST_HANG";
const LOOP_HANGS: &str = "X_TEST=the loop hangs";
const LOOP_GOES_ON: &str = "X_TEST=the loop goes on";

/// The daemon in its own process, with a clock that blocks the loop, which reads it in each turn. The messages to
/// systemd and the two lines of this test arrive in the order in which they were sent.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by a_loop_that_hangs_does_not_say_that_it_is_alive"]
async fn a_daemon_whose_loop_hangs() {
    let Some(path) = std::env::var_os(HANGS) else { return };
    let state_dir = std::path::PathBuf::from(std::env::var_os("STATE_DIRECTORY").unwrap());
    let reread = Box::new(|_: &_| Err(hs100d::config::Invalid::of_lines(vec![])));
    let config =
        hs100d::config::Config::load(&ConfigPath::Named(path.into()), &Environment::default()).unwrap();
    let store = Store::open(&state_dir).0;
    let (hang, hangs) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
    let (stuck, is_stuck) = mpsc::sync_channel(1);
    let clock = {
        let (hang, hangs) = (Arc::clone(&hang), Arc::clone(&hangs));
        move || {
            if hangs.swap(false, Ordering::SeqCst) {
                stuck.send(()).unwrap();
                drop(hang.lock().unwrap());
            }
            Clock::now()
        }
    };
    let daemon = InProcess::start(config, store, state_dir, reread, LoginSource::default()).await.unwrap();
    let daemon = daemon.with_clock(Box::new(clock));
    // In a thread, since the runtime may be blocked by the loop.
    std::thread::spawn(move || {
        std::io::stdin().read_line(&mut String::new()).unwrap();
        let systemd = net::UnixDatagram::unbound().unwrap();
        systemd.connect(Path::new(&std::env::var_os("NOTIFY_SOCKET").unwrap())).unwrap();
        let held = hang.lock().unwrap();
        hangs.store(true, Ordering::SeqCst);
        is_stuck.recv().unwrap();
        systemd.send(LOOP_HANGS.as_bytes()).unwrap();
        // A loop that runs would send four watchdog messages in this time.
        std::thread::sleep(WATCHDOG * 2);
        systemd.send(LOOP_GOES_ON.as_bytes()).unwrap();
        drop(held);
    });
    let (_requests, asked) = tokio::sync::mpsc::channel(1);
    daemon.run(asked).await;
}

#[tokio::test]
async fn while_a_config_is_being_read_the_loop_says_that_it_is_alive() {
    let manager = Manager::listen();
    let (_home, setup, mut daemon) = served(&manager).await;
    let text = fs::read_to_string(setup.config()).unwrap();
    setup.pipe();
    daemon.signal("HUP");
    manager.hears("RELOADING=1").await;
    let mut pipe = setup.reader().await;
    let mut turns = 0;
    while turns < 3 {
        let told = within("the watchdog", manager.hears_next()).await;
        assert!(!told.contains("READY=1"), "the reload has not ended");
        turns += usize::from(told.contains("WATCHDOG=1"));
    }
    pipe.write_all(text.as_bytes()).unwrap();
    drop(pipe);
    manager.hears("READY=1").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_ends_the_reload_and_a_later_reload_reads_it_anew() {
    let manager = Manager::listen();
    let (_home, setup, mut daemon) = served(&manager).await;
    let subscriber = Subscriber::connect(daemon.is_connected().await).await;
    let reload = async |transaction: &str| {
        subscriber.publish("hs100d/bridge/request/reload", json!({ "transaction": transaction }).to_string());
        let response = json_of(&subscriber.receives("hs100d/bridge/response/reload", transaction).await);
        response["error"].as_str().map(str::to_owned)
    };
    let text = fs::read_to_string(setup.config()).unwrap();
    setup.pipe();
    let line =
        format!("the old one stays: {} could not be read within 10s: check ", setup.config().display());
    daemon.signal("HUP");
    manager.hears("RELOADING=1").await;
    let pipe = setup.reader().await;
    manager.hears("READY=1").await;
    let warning = daemon.says(&line).await;
    assert!(warning.contains(" WARN ") && warning.contains("then reload again"), "{warning}");
    // A daemon whose socket is not read could block.
    drop(manager);

    let refused = reload("second").await.unwrap();
    assert!(line.contains(refused.split(" within").next().unwrap()), "{refused}");
    daemon.says_again(&line, 2).await;
    assert_eq!(open_files(&daemon, &setup.config()), 1, "one reader hangs, and no second one");

    drop(pipe);
    fs::remove_file(setup.config()).unwrap();
    setup.write(&text);
    within("a reload that reads the file", async {
        // The thread that was blocked may need a moment to end.
        while reload("third").await.is_some() {
            subscriber.clear();
        }
    })
    .await;
    let lines = daemon.lines();
    assert_eq!(
        lines.iter().filter(|line| line.contains("the config was read again")).count(),
        1,
        "{lines:?}"
    );
    daemon.stop().await;
}

/// How many times the daemon has this file open.
fn open_files(daemon: &Daemon, file: &Path) -> usize {
    let all = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    all.flatten().filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == file)).count()
}

#[tokio::test]
async fn a_reload_is_told_with_its_moment_and_has_an_end_also_when_the_config_is_bad() {
    let manager = Manager::listen();
    let (_home, setup, mut daemon) = served(&manager).await;
    let good = fs::read_to_string(setup.config()).unwrap();
    for (config, line) in [(&*good, "the config was read again"), ("[mqtt\n", "the old one stays: ")] {
        setup.write(config);
        let before = monotonic();
        daemon.signal("HUP");
        let told = manager.hears("RELOADING=1").await;
        let moment = told.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        let moment: u128 = moment.parse().unwrap();
        assert!((before..=monotonic() + TICK).contains(&moment), "{before} {moment}");
        manager.hears("READY=1").await;
        daemon.says(line).await;
    }
    daemon.stop().await;
}

/// systemd's clock, rounded down to a hundredth of a second.
fn monotonic() -> u128 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
    Duration::from_secs_f64(seconds).as_micros()
}

#[tokio::test]
async fn sigterm_ends_it_in_time_also_when_every_wire_hangs() {
    let broker = Silence::new().await;
    let (mut daemon, manager, wires) = hung_up(broker.port()).await;
    let _held = broker.holds("a connection to the broker").await;
    ends_in_time(&mut daemon, &manager).await;
    drop(wires);
}

#[tokio::test]
async fn sigterm_ends_it_in_time_also_when_the_broker_takes_the_last_words_and_confirms_none() {
    let broker = FaultBroker::start(Fault::NoPubAck).await;
    let (mut daemon, manager, wires) = hung_up(broker.port).await;
    gets("a message", &broker, |_| true).await;
    ends_in_time(&mut daemon, &manager).await;
    drop(wires);
}

#[tokio::test]
async fn sigterm_ends_it_in_time_also_while_it_reads_a_config_that_has_no_end() {
    let manager = Manager::listen();
    let (_home, setup, mut daemon) = served(&manager).await;
    setup.pipe();
    daemon.signal("HUP");
    manager.hears("RELOADING=1").await;
    let pipe = setup.reader().await;
    is_stopped_in_time(&mut daemon, &manager).await;
    drop(pipe);
    let lines = daemon.lines();
    assert!(!lines.iter().any(|line| line.contains("the config was ")), "{lines:?}");
}

#[tokio::test]
async fn sigterm_ends_it_in_time_also_while_it_leaves_one_broker_for_another() {
    let (broker, other) = (FaultBroker::start(Fault::NoPubAck).await, Silence::new().await);
    let (mut daemon, manager, wires) = hung_up(broker.port).await;
    // One that is not connected yet has no goodbye to say.
    gets("a message", &broker, |_| true).await;
    let (plug, cloud, _, setup) = &wires;
    setup.write(&config(plug.port(), cloud.port(), other.port()).text());
    daemon.signal("HUP");
    gets("the goodbye", &broker, |payload| payload == b"offline").await;
    is_stopped_in_time(&mut daemon, &manager).await;
    let came = timeout(Duration::ZERO, other.0.accept()).await;
    assert!(came.is_err(), "a daemon that stops connects to no other broker");
}

/// Waits until the broker has a message with such a payload.
async fn gets(what: &str, broker: &FaultBroker, is_it: fn(&[u8]) -> bool) {
    within(what, async {
        let is_it = |packet: &Packet| matches!(packet, Packet::Publish(publish) if is_it(&publish.payload));
        while !broker.log().iter().any(is_it) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A daemon with an exchange that its plug does not answer, and a request that its cloud does not answer.
async fn hung_up(broker: u16) -> (Daemon, Manager, (Silence, Silence, [TcpStream; 2], Setup)) {
    let manager = Manager::listen();
    let (plug, cloud) = (Silence::new().await, Silence::new().await);
    let setup = Setup::new(&config(plug.port(), cloud.port(), broker));
    let daemon = manager.starts(&setup);
    manager.hears("READY=1").await;
    let held = [plug.holds("an exchange with the plug").await, cloud.holds("a call to the cloud").await];
    (daemon, manager, (plug, cloud, held, setup))
}

async fn ends_in_time(daemon: &mut Daemon, manager: &Manager) {
    // A reload concerns all connections, and must not wait for any.
    daemon.signal("HUP");
    manager.hears("RELOADING=1").await;
    is_stopped_in_time(daemon, manager).await;
}

async fn is_stopped_in_time(daemon: &mut Daemon, manager: &Manager) {
    daemon.signal("TERM");
    let end = async {
        manager.hears("STOPPING=1").await;
        daemon.ends().await
    };
    assert_eq!(timeout(ENDS_WITHIN, end).await.expect("it does not end"), 0);
}
