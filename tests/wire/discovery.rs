//! Discovery over real sockets, on loopback: what is sent, which plugs are found, and what must be ignored.

#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hs100d::bridge::event::{DiscoveryReply, Sighting};
use hs100d::model::Address;
use hs100d::sim::fault::{Dialect, LanFault};
use hs100d::sim::home::{HomeOptions, SimHome};
use hs100d::sim::model::Model;
use hs100d::smarthome::cipher;
use hs100d::transport::discovery::{BroadcastPath, Discovery, DiscoveryOptions};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// The longest wait for a datagram that must come.
const BOUND: Duration = Duration::from_secs(20);
/// The number of datagrams to each address in one round.
const DATAGRAMS: usize = 3;
/// A day: only the round at the start comes without a request.
const NEVER: Duration = Duration::from_secs(86_400);
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);
/// No plug receives a broadcast to this address.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);

async fn home_of(aliases: &[&str]) -> SimHome {
    SimHome::start(HomeOptions::of(aliases)).await.unwrap()
}

fn options(home: &SimHome, broadcast: Ipv4Addr) -> DiscoveryOptions {
    DiscoveryOptions {
        interval: NEVER,
        broadcast: vec![broadcast],
        port: home.lan().port(),
        tdp_ports: vec![home.lan().tdp_port()],
    }
}

fn address(home: &SimHome, number: usize) -> Address {
    Address::from(home.lan().address(home.plug(number)).unwrap())
}

async fn next(discovery: &mut Discovery) -> Sighting {
    timeout(BOUND, discovery.next()).await.expect("nothing was heard")
}

/// Waits until this many plugs have answered. Returns the last answer of each, by address.
async fn hears(discovery: &mut Discovery, count: usize) -> BTreeMap<String, DiscoveryReply> {
    let mut heard = BTreeMap::new();
    while heard.len() < count {
        let Sighting { address, reply } = next(discovery).await;
        heard.insert(address.to_string(), reply);
    }
    heard
}

/// Waits until a plug has answered this often, and counts the answers of the others so far. Simulated plugs answer a
/// broadcast in the order of their addresses, and loopback keeps that order: a count shows what came before.
async fn answers_before(discovery: &mut Discovery, of: &Address, times: usize) -> BTreeMap<String, usize> {
    let (mut seen, mut others) = (0, BTreeMap::new());
    while seen < times {
        let Sighting { address, .. } = next(discovery).await;
        if address == *of {
            seen += 1;
        } else {
            *others.entry(address.to_string()).or_default() += 1;
        }
    }
    others
}

#[tokio::test]
async fn a_broadcast_finds_every_plug_and_each_round_asks_several_times() {
    let home = home_of(&["Lamp", "Küche ☕", ""]).await;
    let mut discovery = Discovery::start(options(&home, LOOPBACK));
    let mut answers = Vec::new();
    for _ in 0..DATAGRAMS * home.plugs().len() {
        answers.push(next(&mut discovery).await);
    }
    let heard: BTreeMap<_, _> = answers.into_iter().map(|it| (it.address.to_string(), it.reply)).collect();
    for (number, plug) in home.plugs().iter().enumerate() {
        let DiscoveryReply::SysInfo(reading) = &heard[&address(&home, number).to_string()] else {
            panic!("{heard:?}")
        };
        assert_eq!(reading.device.device_id.as_ref().unwrap().as_str(), plug.device_id());
        assert_eq!(&*reading.device.alias, plug.alias());
    }
    assert_eq!(discovery.asked(), [BroadcastPath { local: Ipv4Addr::UNSPECIFIED, target: LOOPBACK }]);
    // All answers to the first round are in. One datagram may be lost: a plug that misses the first of a round gets the
    // second or the third.
    home.plug(0).with(|plug| plug.lan = LanFault::Silent);
    discovery.look(vec![]);
    let heard = hears(&mut discovery, 2).await;
    assert!(!heard.contains_key(&address(&home, 0).to_string()));
    home.plug(0).with(|plug| plug.lan = LanFault::Works);
    while next(&mut discovery).await.address != address(&home, 0) {}
}

#[tokio::test]
async fn after_each_interval_every_plug_is_asked_again() {
    let home = home_of(&["Lamp", "Kettle"]).await;
    let (lamp, kettle) = (address(&home, 0), address(&home, 1));
    home.plug(0).with(|plug| plug.hears_broadcasts = false);
    let interval = Duration::from_millis(50);
    let mut discovery = Discovery::start(DiscoveryOptions { interval, ..options(&home, LOOPBACK) });
    // More than two rounds, none of which reaches the lamp.
    let others = answers_before(&mut discovery, &kettle, 2 * DATAGRAMS + 1).await;
    assert_eq!(others, BTreeMap::new());
    home.plug(0).with(|plug| plug.hears_broadcasts = true);
    answers_before(&mut discovery, &lamp, 2 * DATAGRAMS + 1).await;
}

#[tokio::test]
async fn a_plug_that_hears_no_broadcast_is_found_when_it_is_asked_itself() {
    let home = home_of(&["Lamp", "Kettle"]).await;
    let (lamp, kettle) = (address(&home, 0), address(&home, 1));
    home.plug(0).with(|plug| plug.hears_broadcasts = false);
    let mut discovery = Discovery::start(options(&home, LOOPBACK));
    assert_eq!(answers_before(&mut discovery, &kettle, DATAGRAMS).await, BTreeMap::new(), "a whole round");
    discovery.look(vec![lamp.clone()]);
    answers_before(&mut discovery, &lamp, 1).await;
}

#[tokio::test]
async fn requests_that_come_during_a_round_are_one_round_together() {
    let home = home_of(&["Lamp", "Kettle", "Fan", "Radio", "Clock", "Heater", "Pump", "Iron"]).await;
    let mut discovery = Discovery::start(options(&home, NOWHERE));
    for number in 0..home.plugs().len() {
        discovery.look(vec![address(&home, number)]);
    }
    let mut first = BTreeSet::new();
    for _ in home.plugs() {
        first.insert(next(&mut discovery).await.address.to_string());
    }
    assert_eq!(first.len(), home.plugs().len(), "each is asked once before any is asked again: {first:?}");
}

#[tokio::test]
async fn a_plug_that_answers_from_another_port_is_spoken_to_at_its_own() {
    let home = home_of(&[]).await;
    let (ask, mut discovery) = one_asked(&home).await;
    let odd = UdpSocket::bind("127.0.0.77:0").await.unwrap();
    odd.send_to(&sysinfo(1, 0), ask).await.unwrap();
    let sighted = next(&mut discovery).await.address;
    assert_eq!(sighted, Address::from(SocketAddr::from(([127, 0, 0, 77], home.lan().port()))));
}

#[tokio::test]
async fn an_answer_as_large_as_a_datagram_can_be_is_understood() {
    let home = home_of(&[]).await;
    let (ask, mut discovery) = one_asked(&home).await;
    let strip = UdpSocket::bind("127.0.0.78:0").await.unwrap();
    for size in [1_400, 4_096, 60_000] {
        strip.send_to(&sysinfo(size, size), ask).await.unwrap();
        let DiscoveryReply::SysInfo(reading) = next(&mut discovery).await.reply else { panic!("{size}") };
        assert_eq!(reading.device.device_id.as_ref().unwrap().as_str(), format!("8006{size:036X}"));
    }
}

#[tokio::test]
async fn garbage_is_counted_and_skipped_and_a_flood_of_it_keeps_no_plug_from_being_heard() {
    let home = home_of(&["Lamp", "Kettle"]).await;
    let (ask, mut discovery) = one_asked(&home).await;
    let flood = tokio::spawn(async move {
        let rude = UdpSocket::bind("127.0.0.79:0").await.unwrap();
        let garbage = [&b"M-SEARCH * HTTP/1.1"[..], &[0; 1400], b"", &[0xff; 9000], b"{}"];
        for datagram in garbage.iter().cycle() {
            let _ = rude.send_to(datagram, ask).await;
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..5 {
        discovery.look(vec![address(&home, 0), address(&home, 1)]);
        let heard: BTreeSet<_> = hears(&mut discovery, 2).await.into_keys().collect();
        let expected: BTreeSet<_> = (0..2).map(|number| address(&home, number).to_string()).collect();
        assert_eq!(heard, expected, "no other plug");
    }
    flood.abort();
    let tally = discovery.tally();
    assert!(tally.garbage > 5 && tally.answers >= 10, "{tally:?}");
}

#[tokio::test]
async fn a_plug_that_speaks_only_klap_answers_the_newer_discovery_by_broadcast_and_when_it_is_asked_itself() {
    let mut home_options = HomeOptions::of(&[]);
    home_options.plugs = vec![(Model::HS100_HW4, "Lamp".to_owned())];
    let home = SimHome::start(home_options).await.unwrap();
    home.plug(0).with(|plug| plug.dialect = Dialect::Klap);
    home.lan().settled(home.plug(0)).await.unwrap();
    for (broadcast, probe) in [(LOOPBACK, vec![]), (NOWHERE, vec![address(&home, 0)])] {
        let mut discovery = Discovery::start(options(&home, broadcast));
        discovery.look(probe);
        let Sighting { address: at, reply } = next(&mut discovery).await;
        let DiscoveryReply::Tdp(device) = reply else { panic!("{reply:?}") };
        assert_eq!(
            (at, &*device.encryption, &*device.kind),
            (address(&home, 0), "KLAP", "IOT.SMARTPLUGSWITCH")
        );
        assert_eq!(device.mac.unwrap().to_string(), home.plug(0).mac());
        assert_eq!(discovery.tally().garbage, 0);
    }
}

#[tokio::test]
async fn only_sysinfo_is_asked_and_the_newer_question_in_both_its_forms() {
    let home = home_of(&[]).await;
    let (port, tdp_port) = (home.lan().port(), home.lan().tdp_port());
    let at = |port| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 80), port));
    let (xor, tdp) = (at(port).await.unwrap(), at(tdp_port).await.unwrap());
    let discovery = Discovery::start(options(&home, NOWHERE));
    discovery.look(vec![Address::from(xor.local_addr().unwrap())]);
    let (mut old, mut new) = (Vec::new(), BTreeSet::new());
    let mut buffer = vec![0; 2048];
    for _ in 0..3 {
        let length = timeout(BOUND, xor.recv(&mut buffer)).await.unwrap().unwrap();
        cipher::decrypt(&mut buffer[..length]);
        old.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        for _ in 0..2 {
            let length = timeout(BOUND, tdp.recv(&mut buffer)).await.unwrap().unwrap();
            new.insert(buffer[..length].to_vec());
        }
    }
    assert_eq!(old, [r#"{"system":{"get_sysinfo":{}}}"#; 3]);
    let new: Vec<_> = new.into_iter().collect();
    assert_eq!(new.len(), 2, "the same two each time");
    assert!(new[0].len() == 16 && new[1].ends_with(br#"\n"}}"#));
}

/// A discovery that has probed only one address, and the address for an answer to it.
async fn one_asked(home: &SimHome) -> (SocketAddr, Discovery) {
    let device = UdpSocket::bind(("127.0.0.76", home.lan().port())).await.unwrap();
    let discovery = Discovery::start(options(home, NOWHERE));
    discovery.look(vec![Address::from(device.local_addr().unwrap())]);
    let (_, from) = timeout(BOUND, device.recv_from(&mut [0; 2048])).await.unwrap().unwrap();
    (from, discovery)
}

/// The reply of a plug to `get_sysinfo`, with this many bytes of padding.
fn sysinfo(number: usize, padding: usize) -> Vec<u8> {
    let padding = "x".repeat(padding);
    let json = format!(
        r#"{{"system":{{"get_sysinfo":{{"deviceId":"8006{number:036X}","relay_state":1,"oemId":"{padding}"}}}}}}"#
    );
    let mut datagram = json.into_bytes();
    cipher::encrypt(&mut datagram);
    datagram
}
