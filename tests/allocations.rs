//! Counts the memory allocations of the steady state, so that they do not grow unnoticed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

#[path = "support/steady.rs"]
mod steady_kit;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hs100d::bridge::event::{Exchange, ExchangeId, Identity, PlugKey, Target};
use hs100d::config::Config;
use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::model::{Address, LanProtocol};
use hs100d::smarthome::frame::{self, Frame, HEADER_LEN};
use hs100d::smarthome::message::{DeviceInfo, Reply, Request};
use hs100d::transport::Transport;
use steady_kit::{Steady, framed, plug_entries, sysinfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The count is the mean over this many rounds, so that a table that doubles once in a while does not matter.
const ROUNDS: u64 = 500;

/// The mean number of allocations on this thread per round.
fn taken(mut act: impl FnMut()) -> f64 {
    allocation_counter::measure(|| (0..ROUNDS).for_each(|_| act())).count_total as f64
}

/// Prints the figure for docs/PERFORMANCE.md and checks its bound.
fn at_most(bound: f64, what: &str, taken: f64) {
    println!("allocations a {what}: {taken:.2}");
    assert!(taken <= bound, "a {what} takes memory {taken:.2} times, and {bound} were enough once");
}

#[test]
fn a_poll_that_shows_nothing_new_takes_hardly_any_memory() {
    let mut steady = Steady::of(50);
    let before = (steady.sent, steady.polls);
    let taken = taken(|| steady.poll());
    let polls = steady.polls - before.1;
    assert!(polls >= ROUNDS, "{polls}");
    at_most(0.5, "poll, decisions and codec", taken / polls as f64);
    assert!(steady.sent <= before.0 + polls / 50, "and hardly anything is said to the broker");
}

/// A list of plugs takes the same work per entry however long it is: nothing searches the entries before it.
#[test]
fn a_config_of_many_plugs_takes_little_memory_for_each() {
    let per_plug = |plugs: u32| {
        let text = format!("[discovery]\nadopt = false\n{}", plug_entries(plugs));
        let mut read = None;
        let counted = allocation_counter::measure(|| {
            read = Some(Config::read(&text, &ConfigPath::Nowhere, &Environment::default()));
        });
        assert_eq!(read.unwrap().unwrap().bridge.plugs.len() as u32, plugs);
        (counted.count_total as f64 / f64::from(plugs), counted.bytes_max as f64 / f64::from(plugs))
    };
    let (few, many) = (per_plug(1_000), per_plug(10_000));
    at_most(20.0, "plug of a config", many.0);
    assert!(many.0 < few.0 * 1.1, "{many:?} for each of 10,000, {few:?} for each of 1,000");
    assert!(
        many.1 < 4096.0 && many.1 < few.1 * 2.0,
        "{many:?} bytes for each of 10,000, {few:?} for each of 1,000"
    );
    println!("bytes a plug of a config, at most at once: {:.0}", many.1);
}

#[test]
fn a_command_takes_little_memory() {
    let mut steady = Steady::of(50);
    at_most(30.0, "command, mqtt, decisions and codec", taken(|| steady.command()) / ROUNDS as f64);
}

#[test]
fn a_poll_over_the_wire_takes_hardly_any_memory() {
    at_most(2.5, "poll, wire", taken_by_polls(plug(), LanProtocol::Xor));
}

#[cfg(feature = "sim")]
#[test]
fn a_poll_in_a_klap_session_takes_hardly_any_memory() {
    at_most(2.5, "poll, wire, KLAP", taken_by_polls(klap_plug(), LanProtocol::Klap));
}

/// How often a poll takes memory once its connection is open.
fn taken_by_polls(address: SocketAddr, protocol: LanProtocol) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut transport = Transport::new(None);
    let mut device = None;
    let mut serial = 0;
    let label = Arc::from("lamp");
    let mut poll = |transport: &mut Transport| {
        serial += 1;
        let exchange = exchange(serial, &label, address, protocol, device.clone());
        let outcome = runtime.block_on(async {
            transport.perform(exchange);
            transport.next().await.1
        });
        let Ok(Reply::SysInfo(reading)) = outcome.result else { panic!("{outcome:?}") };
        device = Some(reading.device);
    };
    (0..10).for_each(|_| poll(&mut transport));
    taken(|| poll(&mut transport)) / ROUNDS as f64
}

fn exchange(
    serial: u32,
    label: &Arc<str>,
    address: SocketAddr,
    protocol: LanProtocol,
    device: Option<Arc<DeviceInfo>>,
) -> Exchange {
    Exchange {
        id: ExchangeId::new(PlugKey(0), serial),
        plug: PlugKey(0),
        label: Arc::clone(label),
        target: Target::Local { address: Address::from(address), protocol, expect: Identity::default() },
        request: Request::SysInfo,
        deadline: Instant::now() + Duration::from_secs(30),
        urgent: false,
        known_info: device,
    }
}

/// A plug in its own thread, whose allocations are not counted.
fn plug() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = framed(&sysinfo(1, 0));
            let mut heard = Vec::new();
            while stream.read_buf(&mut heard).await.is_ok_and(|length| length > 0) {
                while let Frame::Whole { end } = frame::parse(&heard) {
                    assert!(end > HEADER_LEN);
                    heard.drain(..end);
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
    });
    address
}

/// A simulated plug that holds the blank account, in a thread of its own as well.
#[cfg(feature = "sim")]
fn klap_plug() -> SocketAddr {
    use hs100d::sim::home::{HomeOptions, SimHome};
    use hs100d::sim::plug::klap::HeldAccount;

    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut options = HomeOptions::of(&["Lamp"]);
            options.klap = vec![0];
            let home = SimHome::start(options).await.unwrap();
            home.plug(0).with(|plug| plug.klap.account = HeldAccount::blank());
            send.send(home.lan().klap_address(home.plug(0)).unwrap()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receive.recv().unwrap()
}
