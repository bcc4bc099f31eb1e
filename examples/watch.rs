//! Finds the plugs of the LAN and prints what they do: the smallest possible daemon, and so the whole pattern on one
//! page. The bridge decides, this loop acts, and only the loop reads the clock.
//!
//! ```text
//! cargo run --example watch                                  every interface's broadcast address
//! cargo run --example watch -- 127.255.255.255               the plugs of `cargo run --example sim_house`
//! cargo run --example watch -- 192.168.7.255:9999            another subnet, another port
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hs100d::bridge::event::{Action, Event, Update};
use hs100d::bridge::route::{RoutePolicy, RoutePreference};
use hs100d::bridge::{Bridge, Settings};
use hs100d::model::Address;
use hs100d::transport::Transport;
use hs100d::transport::discovery::{Discovery, DiscoveryOptions};
use tokio::time::sleep_until;

/// The port of the XOR protocol.
const PORT: u16 = 9999;
/// A loop without events turns once in this time.
const IDLE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let word = std::env::args().nth(1);
    let target = word.as_deref().map(|word| Address::new(word, PORT).and_then(|address| address.socket()));
    let options = match target {
        None => DiscoveryOptions::usual(PORT),
        Some(Some(target @ SocketAddr::V4(_))) => towards(target),
        Some(_) => {
            eprintln!("usage: watch [BROADCAST_ADDRESS[:PORT]]");
            return ExitCode::from(64);
        }
    };
    watch(options, |told| println!("{told}")).await;
    ExitCode::SUCCESS
}

/// Discovery with one broadcast address only.
pub(crate) fn towards(target: SocketAddr) -> DiscoveryOptions {
    let broadcast = match target {
        SocketAddr::V4(target) => vec![*target.ip()],
        SocketAddr::V6(_) => Vec::new(),
    };
    DiscoveryOptions { broadcast, ..DiscoveryOptions::usual(target.port()) }
}

/// Runs until the future is dropped.
pub(crate) async fn watch(options: DiscoveryOptions, mut tell: impl FnMut(String)) {
    let policy = RoutePolicy { preference: RoutePreference::Local, ..RoutePolicy::default() };
    let settings = Settings { adopt: true, policy, ..Settings::default() };
    let mut bridge = Bridge::new(settings, Instant::now());
    let mut transport = Transport::new(None);
    let mut discovery = Discovery::start(options);
    loop {
        while let Some(action) = bridge.poll_action() {
            match action {
                Action::Perform(exchange) => transport.perform(exchange),
                Action::Abandon(exchange) => transport.abandon(exchange),
                Action::Discover { probe } => discovery.look(probe),
                Action::Publish(update) => drop(in_words(update).map(&mut tell)),
                Action::Remember(_) | Action::Forget(_) | Action::ListAccount => {}
            }
        }
        let wake = bridge.poll_timeout().unwrap_or_else(|| Instant::now() + IDLE);
        let event = tokio::select! {
            (exchange, outcome) = transport.next() => Some(Event::Done { exchange, outcome }),
            sighting = discovery.next() => Some(Event::Sighted(sighting)),
            () = sleep_until(wake.into()) => None,
        };
        match event {
            Some(event) => bridge.handle(event, Instant::now()),
            None => bridge.handle_timeout(Instant::now()),
        }
    }
}

fn in_words(update: Update) -> Option<String> {
    match update {
        Update::State(plug, state) => Some(format!("{plug} is {}", state.relay)),
        Update::Availability(plug, availability) => Some(format!("{plug} is {availability}")),
        Update::Notice(happening) => Some(format!("{}: {}", happening.kind.word(), happening.detail)),
        _ => None,
    }
}
