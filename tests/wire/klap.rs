//! KLAP over real sockets, against simulated plugs with every fault they have.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]
#![cfg(feature = "sim")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hs100d::bridge::event::{Exchange, ExchangeId, Identity, Outcome, PlugKey, Target};
use hs100d::klap_hashes::KlapAccounts;
use hs100d::model::{Address, DeviceId, Failure, LanProtocol, RelayState};
use hs100d::secret::Secret;
use hs100d::sim::fault::LanFault;
use hs100d::sim::handle::PlugHandle;
use hs100d::sim::home::{HomeOptions, SimHome};
use hs100d::sim::lan::SimLan;
use hs100d::sim::model::{Model, SimKlapVersion};
use hs100d::sim::plug::SimPlug;
use hs100d::sim::plug::klap::{Framing, SeqSign};
use hs100d::smarthome::message::{Outlets, Reply, Request};
use hs100d::transport::Transport;
use hs100d::transport::lan::Lan;

/// Long enough for whatever is going to be answered at all.
const PATIENCE: Duration = Duration::from_secs(20);
const ON: Request = Request::SetRelay(RelayState::On);
const OFF: Request = Request::SetRelay(RelayState::Off);

/// The account that the plugs of a home hold.
fn own_accounts() -> KlapAccounts {
    let (username, password) = HomeOptions::ACCOUNT;
    KlapAccounts::of(username, &Secret::new(password.to_owned()), None)
}

/// Plugs that speak KLAP, and a client that knows their account.
struct KlapHome {
    home: SimHome,
    client: Lan,
    /// Where each plug is believed to be.
    addresses: Vec<SocketAddr>,
}

impl KlapHome {
    async fn of(model: Model, count: usize) -> Self {
        let plugs = vec![(model, "Plug"); count];
        let mut options = HomeOptions::of_models(&plugs);
        options.klap = (0..count).collect();
        let home = SimHome::start(options).await.unwrap();
        let addresses = home.plugs().iter().map(|plug| home.lan().klap_address(plug).unwrap()).collect();
        let client = Lan::default();
        client.set_klap_accounts(own_accounts());
        Self { home, client, addresses }
    }

    async fn new() -> Self {
        Self::of(Model::HS100_HW1, 1).await
    }

    fn plug(&self) -> &PlugHandle {
        self.home.plug(0)
    }

    fn lan(&self) -> &SimLan {
        self.home.lan()
    }

    /// Changes the first plug, its listening sockets included.
    async fn set(&self, change: impl FnOnce(&mut SimPlug)) {
        self.plug().with(change);
        self.lan().settled(self.plug()).await.unwrap();
    }

    fn exchange(&self, number: usize, request: Request, patience: Duration) -> Exchange {
        let device_id = DeviceId::new(&self.home.plug(number).device_id());
        Exchange {
            id: ExchangeId::new(PlugKey(number as u32), 1),
            plug: PlugKey(number as u32),
            label: "a plug".into(),
            target: Target::Local {
                address: Address::from(self.addresses[number]),
                protocol: LanProtocol::Klap,
                expect: Identity { device_id, mac: None },
            },
            request,
            deadline: Instant::now() + patience,
            urgent: true,
            known_info: None,
        }
    }

    async fn perform(&self, exchange: &Exchange) -> Outcome {
        let Target::Local { address, protocol, expect } = &exchange.target else { unreachable!() };
        self.client.perform(exchange, address, *protocol, expect).await
    }

    /// Asks the first plug.
    async fn ask(&self, request: Request) -> Outcome {
        self.perform(&self.exchange(0, request, PATIENCE)).await
    }

    /// The same, of what must succeed.
    async fn read(&self) {
        let outcome = self.ask(Request::SysInfo).await;
        assert!(matches!(outcome.result, Ok(Reply::SysInfo(_))), "{outcome:?}");
    }

    async fn switch(&self, request: Request) {
        assert_eq!(self.ask(request).await.result, Ok(Reply::Done));
    }

    /// Handshakes, sessions, requests, orders to the relay and connections so far.
    fn counts(&self) -> Counts {
        let traffic = self.plug().traffic();
        Counts {
            handshakes: traffic.klap_handshakes,
            sessions: traffic.klap_sessions,
            requests: traffic.klap_requests,
            orders: traffic.relay_orders,
            connections: traffic.connections,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    handshakes: u64,
    sessions: u64,
    requests: u64,
    orders: u64,
    connections: u64,
}

#[tokio::test]
async fn a_plug_is_read_and_switched_in_one_session_on_one_connection() {
    for version in [SimKlapVersion::V1, SimKlapVersion::V2] {
        for sign in [SeqSign::Negative, SeqSign::Positive] {
            let home = KlapHome::new().await;
            home.set(|plug| (plug.klap.version, plug.klap.first_seq) = (version, sign)).await;
            for _ in 0..20 {
                home.read().await;
            }
            home.switch(ON).await;
            assert!(home.plug().is_on());
            home.switch(Request::SetLed(RelayState::Off)).await;
            assert!(!home.plug().is_led_on());
            let expected = Counts { handshakes: 1, sessions: 1, requests: 22, orders: 1, connections: 1 };
            assert_eq!(home.counts(), expected);
            assert_eq!(home.plug().read(|plug| plug.klap.last_refusal), None);
        }
    }
}

#[tokio::test]
async fn a_new_session_asks_who_it_is_before_it_switches() {
    let home = KlapHome::new().await;
    let outcome = home.ask(ON).await;
    assert_eq!(outcome.result, Ok(Reply::Done));
    let greeting = outcome.greeting.expect("the plug's own words");
    assert_eq!(greeting.device.device_id, DeviceId::new(&home.plug().device_id()));
    assert_eq!((home.counts().requests, home.counts().orders), (2, 1));
    assert_eq!(home.ask(OFF).await, Outcome::of(Ok(Reply::Done)));
    assert_eq!((home.counts().requests, home.counts().orders), (3, 2));
}

#[tokio::test]
async fn the_wrong_plug_at_an_address_is_asked_who_it_is_and_nothing_else() {
    let mut home = KlapHome::of(Model::HS100_HW1, 2).await;
    home.addresses.swap(0, 1);
    for request in [ON, Request::SetLed(RelayState::Off), Request::SysInfo] {
        let outcome = home.ask(request).await;
        assert!(matches!(outcome.result, Err(Failure::WrongPlug { .. })), "{outcome:?}");
        let found = outcome.greeting.expect("the other plug's own words");
        assert_eq!(found.device.device_id, DeviceId::new(&home.home.plug(1).device_id()));
    }
    for plug in home.home.plugs() {
        assert!(!plug.is_on() && plug.is_led_on() && plug.switchings().is_empty());
    }
}

#[tokio::test]
async fn plugs_that_swap_their_addresses_under_open_sessions_are_never_mixed_up() {
    let home = KlapHome::of(Model::HS100_HW1, 2).await;
    for number in 0..2 {
        let outcome = home.perform(&home.exchange(number, Request::SysInfo, PATIENCE)).await;
        assert!(outcome.result.is_ok(), "{outcome:?}");
    }
    home.lan().swap(home.plug(), home.home.plug(1)).await.unwrap();
    let outcome = home.ask(ON).await;
    assert!(matches!(outcome.result, Err(Failure::WrongPlug { .. })), "{outcome:?}");
    assert!(home.home.plugs().iter().all(|plug| plug.switchings().is_empty()));
}

#[tokio::test]
async fn a_session_outlives_its_connections() {
    let close_after_each: [fn(&mut SimPlug); 2] =
        [|plug| plug.klap.framing = Framing::Close, |plug| plug.lan = LanFault::CloseAfterEachReply];
    for make_closing in close_after_each {
        let home = KlapHome::new().await;
        home.set(make_closing).await;
        for request in [ON, OFF, ON] {
            home.switch(request).await;
            home.read().await;
        }
        assert_eq!(home.plug().switchings().len(), 3);
        // Both steps of the handshake, the first check, and each request.
        assert_eq!(
            home.counts(),
            Counts { handshakes: 1, sessions: 1, requests: 7, orders: 3, connections: 9 }
        );
    }
}

#[tokio::test]
async fn a_plug_may_serve_klap_at_a_port_of_its_own() {
    let mut home = KlapHome::new().await;
    let usual = home.addresses[0];
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind((usual.ip(), 0)).unwrap().local_addr().unwrap().port();
    home.set(|plug| plug.klap.port = Some(free)).await;
    assert_eq!(home.ask(ON).await.result, Err(Failure::Refused));
    home.addresses[0].set_port(free);
    home.switch(ON).await;
}

#[tokio::test]
async fn a_strip_is_asked_by_the_ids_that_it_gives_its_outlets_over_klap() {
    let home = KlapHome::of(Model::HS300, 1).await;
    home.switch(Request::SetOutlets(Outlets::one(2), RelayState::On)).await;
    assert!(home.plug().outlets_on()[2]);
    assert_eq!(home.plug().outlets_on().iter().filter(|is_on| **is_on).count(), 1);
}

#[tokio::test]
async fn a_transport_hands_the_accounts_on() {
    let home = KlapHome::new().await;
    let mut transport = Transport::new(None);
    transport.perform(home.exchange(0, ON, PATIENCE));
    assert_eq!(transport.next().await.1.result, Err(Failure::OtherAccount));
    transport.set_klap_accounts(own_accounts());
    transport.perform(home.exchange(0, ON, PATIENCE));
    assert_eq!(transport.next().await.1.result, Ok(Reply::Done));
}
