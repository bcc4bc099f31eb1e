//! KLAP over real sockets, against simulated plugs with every fault they have.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]
#![cfg(feature = "sim")]

use std::mem::discriminant;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hs100d::bridge::event::{Exchange, Outcome, Target};
use hs100d::klap_hashes::KlapAccounts;
use hs100d::model::{DeviceId, Failure, LanProtocol, RelayState};
use hs100d::secret::Secret;
use hs100d::sim::fault::{Dialect, KlapFault, LanFault};
use hs100d::sim::handle::PlugHandle;
use hs100d::sim::home::{HomeOptions, SimHome};
use hs100d::sim::lan::SimLan;
use hs100d::sim::model::{Model, SimKlapVersion};
use hs100d::sim::plug::SimPlug;
use hs100d::sim::plug::klap::{Framing, HeldAccount, SeqSign, SessionTimeout};
use hs100d::smarthome::message::{Outlets, Reply, Request};
use hs100d::transport::Transport;
use hs100d::transport::lan::Lan;

/// Long enough for whatever is going to be answered at all.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what is known not to be answered.
const IMPATIENCE: Duration = Duration::from_millis(300);
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

    async fn set_fault(&self, fault: KlapFault) {
        self.set(|plug| plug.klap.fault = fault).await;
    }

    fn exchange(&self, number: usize, request: Request, patience: Duration) -> Exchange {
        let device_id = self.home.plug(number).device_id();
        let at = (self.addresses[number], LanProtocol::Klap);
        crate::exchange(number, &device_id, at, request, patience)
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

    /// What was done since.
    fn since(&self, before: Counts) -> Counts {
        let now = self.counts();
        Counts {
            handshakes: now.handshakes - before.handshakes,
            sessions: now.sessions - before.sessions,
            requests: now.requests - before.requests,
            orders: now.orders - before.orders,
            connections: now.connections - before.connections,
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

/// Whether the outcome is this failure, whatever its text, or a success if there is none.
#[track_caller]
fn assert_ended(outcome: &Outcome, expected: Option<Failure>, context: impl std::fmt::Debug) {
    let is_expected = match (&outcome.result, &expected) {
        (Ok(_), None) => true,
        (Err(failure), Some(expected)) => discriminant(failure) == discriminant(expected),
        _ => false,
    };
    assert!(is_expected, "{context:?}: {outcome:?} instead of {expected:?}");
}

fn garbage() -> Option<Failure> {
    Some(Failure::Garbage("".into()))
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
    assert_eq!(transport.next().await.1.result, Err(Failure::NoLanAccount));
    transport.set_klap_accounts(own_accounts());
    transport.perform(home.exchange(0, ON, PATIENCE));
    assert_eq!(transport.next().await.1.result, Ok(Reply::Done));
}

#[tokio::test]
async fn each_fault_of_klap_is_its_own_failure_for_a_client_without_a_session() {
    let home = KlapHome::new().await;
    for fault in KlapFault::ALL {
        home.set_fault(fault).await;
        home.client.close();
        let before = home.counts();
        let (expected, handshakes, orders) = match fault {
            KlapFault::Works | KlapFault::SlowHandshake(_) | KlapFault::WrongSignature => (None, 1, 1),
            KlapFault::Chunked => (None, 1, 1),
            KlapFault::Refused => (Some(Failure::Refused), 0, 0),
            KlapFault::Handshake1Status(_) => (Some(Failure::KlapBlocked), 1, 0),
            // Another client may have begun a session in between, so it is tried again.
            KlapFault::Handshake2Status(_) => (Some(Failure::KlapBlocked), 2, 0),
            KlapFault::SessionTaken => (Some(Failure::SessionTaken), 2, 0),
            // The plug was asked who it is; the second request changes something, and is not sent again.
            KlapFault::OneRequestThenNoHttp | KlapFault::OneRequestThenUnreadable => (garbage(), 1, 0),
            KlapFault::CutOff => (Some(Failure::Closed), 1, 0),
            KlapFault::Handshake1Html
            | KlapFault::Handshake1Length(_)
            | KlapFault::RequestStatus(_)
            | KlapFault::Html
            | KlapFault::HtmlAbove(_)
            | KlapFault::HtmlInstead
            | KlapFault::NoHttp
            | KlapFault::Unreadable
            | KlapFault::Length(_)
            | KlapFault::EndlessHead
            | KlapFault::EndlessBody => (garbage(), 2, 0),
        };
        assert_ended(&home.ask(ON).await, expected, fault);
        let done = home.since(before);
        assert_eq!((done.handshakes, done.orders), (handshakes, orders), "{fault:?}");
    }
}

#[tokio::test]
async fn no_fault_of_klap_makes_a_plug_switch_twice() {
    let home = KlapHome::new().await;
    for fault in KlapFault::ALL {
        home.client.close();
        home.set_fault(KlapFault::Works).await;
        home.read().await;
        home.set_fault(fault).await;
        let before = home.counts();
        // Requests of this exchange, and orders to the relay.
        let (expected, requests, orders) = match fault {
            KlapFault::Works | KlapFault::WrongSignature | KlapFault::HtmlAbove(_) => (None, 1, 1),
            KlapFault::Chunked => (None, 1, 1),
            KlapFault::SlowHandshake(_)
            | KlapFault::Handshake1Status(_)
            | KlapFault::Handshake1Html
            | KlapFault::Handshake1Length(_)
            | KlapFault::Handshake2Status(_) => (None, 1, 1),
            KlapFault::Refused => (Some(Failure::Refused), 0, 0),
            // The command, and the question who it is in a new session.
            KlapFault::SessionTaken => (Some(Failure::SessionTaken), 2, 0),
            KlapFault::RequestStatus(_)
            | KlapFault::OneRequestThenNoHttp
            | KlapFault::OneRequestThenUnreadable
            | KlapFault::HtmlInstead => (garbage(), 1, 0),
            KlapFault::Html
            | KlapFault::NoHttp
            | KlapFault::Unreadable
            | KlapFault::Length(_)
            | KlapFault::EndlessHead
            | KlapFault::EndlessBody => (garbage(), 1, 1),
            KlapFault::CutOff => (Some(Failure::Closed), 1, 1),
        };
        assert_ended(&home.ask(ON).await, expected, fault);
        let done = home.since(before);
        assert_eq!((done.requests, done.orders), (requests, orders), "{fault:?}");
    }
}

#[tokio::test]
async fn each_fault_of_the_lan_is_its_own_failure_over_klap_and_never_makes_a_plug_switch_twice() {
    let home = KlapHome::new().await;
    for has_session in [false, true] {
        for fault in LanFault::ALL {
            home.lan().set_fault(home.plug(), LanFault::Works).await.unwrap();
            home.client.close();
            if has_session {
                home.read().await;
            }
            home.lan().set_fault(home.plug(), fault).await.unwrap();
            let before = home.counts().orders;
            // Without a session, what goes wrong is the question who it is.
            let in_session = u64::from(has_session);
            let (expected, orders) = match fault {
                LanFault::Works | LanFault::Latency(_) | LanFault::SlowBytes(_) => (None, 1),
                LanFault::CloseAfterEachReply => (None, 1),
                LanFault::Refused | LanFault::PortDead => (Some(Failure::Refused), 0),
                LanFault::NotAccepting | LanFault::PortFiltered => (Some(Failure::Silent), 0),
                LanFault::Silent | LanFault::Asleep => (Some(Failure::Silent), 0),
                LanFault::SilentButActs(_) => (Some(Failure::Silent), in_session),
                LanFault::ResetAfterRequest | LanFault::CloseWithoutReply => (Some(Failure::Closed), 0),
                LanFault::ResetInAnswer => (Some(Failure::Closed), in_session),
                LanFault::Garbage | LanFault::CutOffJson | LanFault::HugeLength => (garbage(), in_session),
                LanFault::DeviceError(code) => (Some(Failure::Device { code, message: "".into() }), 0),
            };
            let patience = if expected == Some(Failure::Silent) { IMPATIENCE } else { PATIENCE };
            let outcome = home.perform(&home.exchange(0, ON, patience)).await;
            assert_ended(&outcome, expected, (fault, has_session));
            let done = || home.counts().orders - before;
            home.home.wait_until(PATIENCE, || done() >= orders).await.unwrap();
            assert_eq!(done(), orders, "{fault:?} {has_session}");
        }
    }
}

#[tokio::test]
async fn a_reading_that_is_no_json_is_asked_for_again_in_a_new_session_and_one_that_is_cut_off_is_not() {
    let home = KlapHome::new().await;
    for (fault, handshakes) in [(LanFault::Garbage, 2), (LanFault::CutOffJson, 1)] {
        home.client.close();
        home.lan().set_fault(home.plug(), fault).await.unwrap();
        let before = home.counts();
        assert_ended(&home.ask(Request::SysInfo).await, garbage(), fault);
        assert_eq!(home.since(before).handshakes, handshakes, "{fault:?}");
    }
}

#[tokio::test]
async fn a_session_that_another_client_took_is_begun_again_and_the_command_sent_once_more() {
    let home = KlapHome::new().await;
    let thief = Lan::default();
    thief.set_klap_accounts(own_accounts());
    home.read().await;
    for (request, orders) in [(Request::SysInfo, 0), (ON, 1)] {
        let exchange = home.exchange(0, Request::SysInfo, PATIENCE);
        let Target::Local { address, protocol, expect } = &exchange.target else { unreachable!() };
        assert!(thief.perform(&exchange, address, *protocol, expect).await.result.is_ok());
        let before = home.counts();
        assert!(home.ask(request.clone()).await.result.is_ok());
        let done = home.since(before);
        assert_eq!((done.handshakes, done.orders), (1, orders), "{request:?}");
    }
}

#[tokio::test]
async fn a_session_that_is_taken_twice_is_left_to_the_other_client_for_a_while() {
    let home = KlapHome::new().await;
    home.read().await;
    home.set_fault(KlapFault::SessionTaken).await;
    let before = home.counts();
    assert_eq!(home.ask(ON).await.result, Err(Failure::SessionTaken));
    assert_eq!(home.since(before).handshakes, 1);
    let before = home.counts();
    for request in [ON, Request::SysInfo] {
        assert_eq!(home.ask(request).await, Outcome::of(Err(Failure::SessionTaken)));
    }
    assert_eq!(home.since(before), Counts::default(), "nothing was sent");
}

#[tokio::test]
async fn a_plug_that_refuses_is_not_asked_again_at_once() {
    for (fault, failure) in [
        (KlapFault::Handshake1Status(403), Failure::KlapBlocked),
        (KlapFault::Handshake2Status(403), Failure::KlapBlocked),
        (KlapFault::Works, Failure::OtherAccount),
    ] {
        let home = KlapHome::new().await;
        home.set_fault(fault).await;
        if fault == KlapFault::Works {
            home.set(|plug| plug.klap.account = HeldAccount::new("other@example.com", "secret")).await;
        }
        assert_eq!(home.ask(ON).await.result, Err(failure.clone()), "{fault:?}");
        let before = home.counts();
        assert_eq!(home.ask(Request::SysInfo).await.result, Err(failure), "{fault:?}");
        assert_eq!(home.since(before), Counts::default(), "{fault:?}: nothing was sent");
    }
}

#[tokio::test]
async fn only_a_handshake_that_is_forbidden_is_a_refusal() {
    let home = KlapHome::new().await;
    for (status, expected) in
        [(401, Some(Failure::KlapBlocked)), (400, garbage()), (404, garbage()), (503, garbage())]
    {
        for fault in [KlapFault::Handshake1Status(status), KlapFault::Handshake2Status(status)] {
            home.client.close();
            home.set_fault(fault).await;
            assert_ended(&home.ask(ON).await, expected.clone(), fault);
        }
    }
}

#[tokio::test]
async fn an_account_that_no_formula_fits_is_another_account() {
    let home = KlapHome::new().await;
    home.set(|plug| plug.klap.version = SimKlapVersion::Unknown).await;
    assert_eq!(home.ask(ON).await.result, Err(Failure::OtherAccount));
}

#[tokio::test]
async fn other_accounts_are_tried_at_once_and_the_same_ones_end_no_session() {
    let home = KlapHome::new().await;
    let (username, _) = HomeOptions::ACCOUNT;
    home.client.set_klap_accounts(KlapAccounts::of(username, &Secret::new("wrong".to_owned()), None));
    assert_eq!(home.ask(ON).await.result, Err(Failure::OtherAccount));
    home.client.set_klap_accounts(own_accounts());
    home.switch(ON).await;
    home.client.set_klap_accounts(own_accounts());
    home.switch(OFF).await;
    assert_eq!(home.counts().sessions, 1);
}

#[tokio::test]
async fn a_spelling_that_a_login_adds_opens_other_plugs_and_ends_no_session() {
    let home = KlapHome::of(Model::HS100_HW1, 2).await;
    let (username, password) = HomeOptions::ACCOUNT;
    let registered = "Registered@example.com";
    home.home.plug(1).with(|plug| plug.klap.account = HeldAccount::new(registered, password));
    let read = async |number| home.perform(&home.exchange(number, Request::SysInfo, PATIENCE)).await.result;
    home.read().await;
    assert_eq!(read(1).await, Err(Failure::OtherAccount));

    let secret = Secret::new(password.to_owned());
    home.client.set_klap_accounts(KlapAccounts::of(username, &secret, Some(registered)));
    home.read().await;
    assert!(read(1).await.is_ok());
    let sessions = || [0, 1].map(|number| home.home.plug(number).traffic().klap_sessions);
    assert_eq!(sessions(), [1, 1]);

    home.client.set_klap_accounts(own_accounts());
    home.read().await;
    assert_eq!(read(1).await, Err(Failure::OtherAccount), "the spelling is gone");
    assert_eq!(sessions(), [2, 1]);
}

#[tokio::test]
async fn a_refusal_of_the_accounts_before_does_not_count_for_the_next_ones() {
    let home = KlapHome::new().await;
    home.set_fault(KlapFault::Handshake1Status(403)).await;
    home.lan().set_fault(home.plug(), LanFault::Latency(Duration::from_millis(100))).await.unwrap();
    let change_accounts = async {
        home.home.wait_until(PATIENCE, || home.counts().connections == 1).await.unwrap();
        home.client.set_klap_accounts(own_accounts());
    };
    home.client.set_klap_accounts(KlapAccounts::default());
    let (outcome, ()) = tokio::join!(home.ask(ON), change_accounts);
    assert_eq!(outcome.result, Err(Failure::KlapBlocked));
    home.set_fault(KlapFault::Works).await;
    home.switch(ON).await;
}

#[tokio::test]
async fn a_plug_that_goes_over_to_a_setup_account_and_back_is_followed() {
    let home = KlapHome::new().await;
    let own = home.plug().read(|plug| plug.klap.account.clone());
    let held = [HeldAccount::kasa_setup(), HeldAccount::tapo_setup(), HeldAccount::blank(), own];
    for account in held {
        home.set(|plug| {
            plug.klap.account = account;
            plug.klap.end_session();
        })
        .await;
        home.switch(ON).await;
    }
    assert_eq!((home.counts().sessions, home.counts().orders), (4, 4));
}

#[tokio::test]
async fn a_firmware_with_one_request_in_a_session_gets_a_handshake_before_each() {
    for fault in [KlapFault::OneRequestThenNoHttp, KlapFault::OneRequestThenUnreadable] {
        let home = KlapHome::new().await;
        home.set_fault(fault).await;
        // The second and the third find out: their first try is lost.
        for (read, handshakes, requests) in [(1, 1, 1), (2, 2, 3), (3, 3, 5), (4, 4, 6), (5, 5, 7)] {
            home.read().await;
            assert_eq!((home.counts().handshakes, home.counts().requests), (handshakes, requests), "{read}");
        }
        // One session to ask who it is, one for the command.
        home.switch(ON).await;
        assert_eq!((home.counts().handshakes, home.counts().orders), (7, 1));
    }
}

#[tokio::test]
async fn commands_alone_find_a_firmware_with_one_request_in_a_session() {
    let home = KlapHome::new().await;
    home.set_fault(KlapFault::OneRequestThenUnreadable).await;
    for _ in 0..2 {
        assert_ended(&home.ask(ON).await, garbage(), "not known yet");
    }
    home.switch(ON).await;
    assert_eq!(home.counts().orders, 1);
}

#[tokio::test]
async fn a_session_that_a_restart_ended_is_begun_again() {
    let home = KlapHome::new().await;
    home.read().await;
    for request in [Request::SysInfo, ON] {
        home.set(|plug| plug.powered = false).await;
        assert_eq!(home.ask(request.clone()).await.result, Err(Failure::Refused));
        home.set(|plug| plug.powered = true).await;
        assert!(home.ask(request).await.result.is_ok());
    }
    assert_eq!((home.counts().sessions, home.counts().orders), (3, 1));
}

#[tokio::test]
async fn a_session_is_renewed_before_the_plug_ends_it() {
    let home = KlapHome::new().await;
    // Renewed after two seconds.
    home.set(|plug| plug.klap.timeout = SessionTimeout::After(Duration::from_secs(4))).await;
    let begun = Instant::now();
    while home.counts().sessions < 2 {
        assert!(begun.elapsed() < PATIENCE, "it was not renewed");
        home.read().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(home.plug().read(|plug| plug.klap.last_refusal), None, "it was renewed too late");
}

#[tokio::test]
async fn a_plug_that_says_no_lifetime_or_gives_no_cookie_keeps_its_session() {
    let habits: [fn(&mut SimPlug); 3] = [
        |plug| plug.klap.timeout = SessionTimeout::NotSaid,
        |plug| plug.klap.timeout = SessionTimeout::NoNumber,
        |plug| plug.klap.gives_cookie = false,
    ];
    for habit in habits {
        let home = KlapHome::new().await;
        home.set(habit).await;
        home.read().await;
        home.switch(ON).await;
        assert_eq!((home.counts().handshakes, home.counts().orders), (1, 1));
    }
}

#[tokio::test]
async fn an_exchange_that_is_dropped_resets_its_connection_and_the_session_goes_on() {
    let home = KlapHome::new().await;
    home.read().await;
    home.lan().set_fault(home.plug(), LanFault::SilentButActs(Duration::ZERO)).await.unwrap();
    let before = home.counts().requests;
    let exchange = home.exchange(0, ON, PATIENCE);
    tokio::select! {
        outcome = home.perform(&exchange) => panic!("{outcome:?}"),
        heard = home.home.wait_until(PATIENCE, || home.counts().requests > before) => heard.unwrap(),
    }
    home.home.wait_until(PATIENCE, || home.plug().traffic().open == 0).await.unwrap();
    home.lan().set_fault(home.plug(), LanFault::Works).await.unwrap();
    home.switch(OFF).await;
    // The plug would have refused a number that it had seen.
    assert_eq!((home.counts().handshakes, home.plug().read(|plug| plug.klap.last_refusal)), (1, None));
}

#[tokio::test]
async fn a_request_that_timed_out_over_klap_is_taken_back_before_the_plug_wakes() {
    let home = KlapHome::new().await;
    home.read().await;
    home.lan().set_fault(home.plug(), LanFault::Asleep).await.unwrap();
    let outcome = home.perform(&home.exchange(0, ON, IMPATIENCE)).await;
    assert_eq!(outcome.result, Err(Failure::Silent));
    home.lan().set_fault(home.plug(), LanFault::Works).await.unwrap();
    home.read().await;
    home.home.wait_until(PATIENCE, || home.plug().traffic().open <= 1).await.unwrap();
    assert!(home.plug().switchings().is_empty(), "the kernel delivered a request whose time was over");
}

#[tokio::test]
async fn a_plug_that_leaves_klap_refuses_and_is_served_again_when_it_is_back() {
    let home = KlapHome::new().await;
    home.switch(ON).await;
    home.lan().set_dialect(home.plug(), Dialect::Xor).await.unwrap();
    assert_eq!(home.ask(OFF).await.result, Err(Failure::Refused));
    home.lan().set_dialect(home.plug(), Dialect::Klap).await.unwrap();
    home.switch(OFF).await;
    assert_eq!(home.counts().orders, 2);
}

#[tokio::test]
async fn a_port_that_waits_for_a_probe_is_refused() {
    let home = KlapHome::new().await;
    home.set(|plug| plug.klap.waits_for_probe = true).await;
    assert_eq!(home.ask(ON).await.result, Err(Failure::Refused));
}
