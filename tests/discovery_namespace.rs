//! Real broadcasts: plugs in two subnets, each behind its own Ethernet cable, and a daemon that knows none of them and
//! broadcasts on every interface.
//!
//! The test makes network namespaces for this: one for the daemon, one for the plugs of each subnet. They have nothing
//! of the machine's own network. Where namespaces are not allowed, the test says so and passes. Its three parts are
//! three processes of this file. A second test shows what is said where broadcasts reach no plug.

#![cfg(all(feature = "sim", feature = "broker", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::discovery::{
    all_are_shown, assert_own_commands_alone, name, so_many_moved, switch_all_through,
};
use crate::support::e2e::{Config, Scene, Setup, mounts};
use crate::support::namespace::{Player, answer, ip, play_apart, role, told};
use hs100d::sim::handle::PlugHandle;
use hs100d::sim::lan::{LanPorts, SimLan};
use hs100d::sim::model::Model;
use hs100d::sim::notify::ChangeNotifier;
use hs100d::sim::plug::SimPlug;
use serde_json::json;

/// The whole test takes about ten seconds.
const BOUND: Duration = Duration::from_secs(180);
/// In each subnet.
const PLUGS: usize = 15;
/// The number of plugs in each subnet that get other addresses.
const MOVED: usize = 5;
const PORT: u16 = 9999;
const TDP_PORT: u16 = 20002;

/// Makes of a process one in a container: the mark of an engine, and its own list of interfaces.
const AS_IN_A_CONTAINER: [&str; 5] = [
    "unshare",
    "--mount",
    "sh",
    "-ec",
    "mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run; touch /run/.containerenv; exec \"$0\" \"$@\"",
];

#[test]
fn plugs_in_two_subnets_are_found_and_followed_by_real_broadcasts_on_interfaces_that_come_and_go() {
    play_apart("the_daemon_in_its_namespace", "daemon", BOUND);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by plugs_in_two_subnets_are_found_and_followed_by_real_broadcasts_on_interfaces_that_come_and_go"]
async fn the_daemon_in_its_namespace() {
    if role().as_deref() != Some("daemon") {
        return;
    }
    let foreign = if_addrs::get_if_addrs().unwrap().into_iter().filter(|interface| !interface.is_loopback());
    assert_eq!(foreign.count(), 0, "this is not an empty namespace");
    ip("link set lo up");
    let mut one = Network::make(1);
    one.connect("10.77.1.1/24 brd +");
    // Default settings except the interval: a second round would start only after a day.
    let config = Config::default().set("broker", "listen", "127.0.0.1:0").set("discovery", "interval", "1d");
    let scene = Arc::new(Scene::start(&config).await);
    all_are_shown(&scene.subscriber, &one.hosts()).await;

    // An interface appears while the daemon runs. It has no configured broadcast address.
    let mut two = Network::make(2);
    two.connect("10.77.2.1/24");
    all_are_shown(&scene.subscriber, &two.hosts()).await;

    // Plugs move in both subnets while commands flow to all.
    let moving = async {
        for number in 0..MOVED {
            one.move_to(number * 3, 100 + number);
            two.move_to(number * 3, 100 + number);
        }
    };
    let commands = switch_all_through(&scene, 2 * PLUGS, moving).await;
    for (number, count) in commands.into_iter().enumerate() {
        let network = if number < PLUGS { &mut one } else { &mut two };
        assert_own_commands_alone(&name(number), network.switchings(number % PLUGS), count);
    }
    so_many_moved(&scene.subscriber, 2 * MOVED).await;
    let hosts = one.hosts().into_iter().chain(two.hosts()).collect();
    all_are_shown(&scene.subscriber, &hosts).await;

    // The second interface disappears and returns with another address. A plug has moved meanwhile.
    two.cut();
    scene.daemon.says("no probes from there local=10.77.2.1").await;
    two.connect("10.77.2.2/24 brd +");
    two.move_to(1, 200);
    all_are_shown(&scene.subscriber, &two.hosts()).await;

    // A restart without any broadcast: every plug is at its last address.
    let hosts = one.hosts().into_iter().chain(two.hosts()).collect();
    let Some(Scene { setup, mut daemon, .. }) = Arc::into_inner(scene) else { panic!("a command goes on") };
    daemon.stop().await;
    setup.write(&config.set("discovery", "broadcast", ["127.255.255.254"]).text());
    let scene = Scene::at(setup).await;
    all_are_shown(&scene.subscriber, &hosts).await;
    let result = scene.command(&name(2 * PLUGS - 1), json!({ "state": "ON" })).await;
    assert_eq!(result["status"], "ok", "{result}");
}

#[test]
fn where_broadcasts_reach_no_plug_every_command_says_what_is_needed() {
    if mounts().is_none() {
        return;
    }
    play_apart("a_container_in_its_namespace", "container", BOUND);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by where_broadcasts_reach_no_plug_every_command_says_what_is_needed"]
async fn a_container_in_its_namespace() {
    if role().as_deref() != Some("container") {
        return;
    }
    ip("link set lo up");
    let config = Config::default().set("broker", "listen", "127.0.0.1:0").set("http", "enabled", false);
    let setup = Setup::new(&config);

    // Loopback only: a machine without a network, and a container with `--network none`.
    assert_eq!(lan_line(&setup, &[]), ["no-interface", "no network interface can broadcast"]);
    let none = "this container has no network";
    assert_eq!(lan_line(&setup, &AS_IN_A_CONTAINER), ["container-network", none]);

    // A network that is not there.
    setup.write(&config.clone().set("discovery", "broadcast", ["192.0.2.255"]).text());
    let [cause, found] = lan_line(&setup, &[]);
    assert_eq!(cause, "not-sent");
    assert!(found.starts_with("no broadcast can be sent: Network is unreachable"), "{found}");
    setup.write(&config.text());

    // What engines make for a container: one end of a virtual cable in a private network.
    ip("link add eth0 type veth peer name engine");
    ip("address add 172.17.0.2/16 dev eth0");
    ip("link set eth0 up");
    ip("link set engine up");
    assert_eq!(lan_line(&setup, &[]), ["", ""], "on a machine that is a home without plugs");
    let own = "no plug answers, and this container seems to have a network of its own (engine, eth0), which broadcasts \
               do not leave";
    assert_eq!(lan_line(&setup, &AS_IN_A_CONTAINER), ["container-network", own]);
    let needed = format!("{own}: start the container with the host's network (`--network host`)");
    let mut daemon = setup.daemon_by(&AS_IN_A_CONTAINER);
    daemon.says(&format!("plugs cannot be searched for: {needed}")).await;
    daemon.stop().await;
    let search = run(&setup, &AS_IN_A_CONTAINER, &["discover", "--timeout", "1s"]);
    assert!(search.1.contains(&needed), "{search:?}");
    let search = run(&setup, &[], &["discover", "--timeout", "1s"]);
    assert!(
        search.0.contains("172.17.255.255 from 172.17.0.2") && !search.1.contains("container"),
        "{search:?}"
    );

    // Some engines' networks reach the LAN: the answer of one plug shows it.
    let mut lan = Network::make(1);
    lan.connect("10.77.1.1/24 brd +");
    assert_eq!(lan_line(&setup, &AS_IN_A_CONTAINER), ["", ""]);
}

/// The cause and the finding of the line about the LAN that `check --online` prints, if it prints one.
fn lan_line(setup: &Setup, by: &[&str]) -> [String; 2] {
    let report = run(setup, by, &["check", "--online", "--json"]);
    let json: serde_json::Value =
        serde_json::from_str(&report.0).unwrap_or_else(|error| panic!("{error}: {report:?}"));
    let subjects = json["online"]["subjects"].as_array().unwrap();
    let line = subjects.iter().find(|subject| subject["subject"] == "lan");
    ["cause", "found"].map(|key| line.map_or("", |line| line[key].as_str().unwrap()).to_owned())
}

/// The standard output and the standard error of a command that is executed by these words.
fn run(setup: &Setup, by: &[&str], words: &[&str]) -> (String, String) {
    let program = env!("CARGO_BIN_EXE_hs100d");
    let mut all = by.iter().copied().chain([program]);
    let mut command = Command::new(all.next().unwrap());
    command.args(all).arg("--config").arg(setup.config()).args(words);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("STATE_DIRECTORY", setup.state_dir());
    let output = command.output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (out, err)
}

/// One subnet: its plugs, in their own process and namespace, and a cable to them.
struct Network {
    number: usize,
    plugs: Player,
    /// The address of each of its plugs.
    hosts: Vec<String>,
}

impl Network {
    fn make(number: usize) -> Self {
        Self {
            number,
            plugs: Player::start("a_network_of_plugs", &number.to_string()),
            hosts: (11..).take(PLUGS).map(|last| format!("10.77.{number}.{last}")).collect(),
        }
    }

    /// Connects the cable at both ends. All its plugs keep their addresses.
    fn connect(&mut self, address: &str) {
        let (number, pid) = (self.number, self.plugs.pid());
        ip(&format!("link add lan{number} type veth peer name eth0 netns {pid}"));
        ip(&format!("address add {address} dev lan{number}"));
        ip(&format!("link set lan{number} up"));
        assert_eq!(self.plugs.say(&format!("connect {}", self.hosts.join(" "))), "connected");
    }

    fn cut(&self) {
        ip(&format!("link delete lan{}", self.number));
    }

    fn move_to(&mut self, plug: usize, last: usize) {
        let host = format!("10.77.{}.{last}", self.number);
        assert_eq!(self.plugs.say(&format!("move {plug} {host}")), "moved");
        self.hosts[plug] = host;
    }

    /// The address of each of its plugs, by topic name.
    fn hosts(&self) -> BTreeMap<String, String> {
        (0..).map(|plug| name((self.number - 1) * PLUGS + plug)).zip(self.hosts.iter().cloned()).collect()
    }

    fn switchings(&mut self, plug: usize) -> Vec<bool> {
        serde_json::from_str(&self.plugs.say(&format!("switchings {plug}"))).unwrap()
    }
}

/// The plugs of one subnet. Lines on standard input move them.
#[tokio::test]
#[ignore = "started by the_daemon_in_its_namespace"]
async fn a_network_of_plugs() {
    let Some(number) = role().and_then(|role| role.parse::<usize>().ok()) else { return };
    let mut lines = told();
    let notifier = ChangeNotifier::new();
    let plug = |plug: usize| {
        let serial = (number - 1) * PLUGS + plug + 1;
        let plug = SimPlug::new(Model::HS100_HW1, serial as u32, &format!("Plug {serial}"), Instant::now());
        PlugHandle::new(plug, notifier.clone())
    };
    let plugs: Vec<_> = (0..PLUGS).map(plug).collect();
    let mut lan = None;
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["connect", ref hosts @ ..] => {
                // Removing the first address of a subnet would remove all others, so no plug has the first one.
                ip(&format!("address add 10.77.{number}.9/24 brd + dev eth0"));
                for host in hosts {
                    ip(&format!("address add {host}/24 brd + dev eth0"));
                }
                ip("link set eth0 up");
                if lan.is_none() {
                    lan = Some(open(number, &notifier, &plugs, hosts).await);
                }
                answer("connected");
            }
            ["move", plug, host] => {
                let (lan, plug) = (lan.as_ref().unwrap(), &plugs[plug.parse::<usize>().unwrap()]);
                let before = lan.address(plug).unwrap().ip();
                ip(&format!("address add {host}/24 brd + dev eth0"));
                lan.plug_in(plug, at(host)).await.unwrap();
                ip(&format!("address del {before}/24 dev eth0"));
                answer("moved");
            }
            ["switchings", plug] => {
                let log = plugs[plug.parse::<usize>().unwrap()].switchings();
                let states: Vec<bool> = log.iter().map(|switching| switching.on).collect();
                answer(&json!(states).to_string());
            }
            _ => panic!("{line:?}"),
        }
    }
}

async fn open(number: usize, notifier: &ChangeNotifier, plugs: &[PlugHandle], hosts: &[&str]) -> SimLan {
    let broadcast = Ipv4Addr::new(10, 77, number as u8, 255);
    let ports = LanPorts { xor: PORT, tdp: TDP_PORT, klap: 80 };
    let lan = SimLan::start_in_namespace(broadcast, ports, notifier.clone()).await.unwrap();
    for (plug, host) in plugs.iter().zip(hosts) {
        lan.plug_in(plug, at(host)).await.unwrap();
    }
    lan
}

fn at(host: &str) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), PORT)
}
