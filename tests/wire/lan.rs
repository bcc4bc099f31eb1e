//! The LAN transport over real sockets, with simulated plugs and every fault that they have.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]
#![cfg(feature = "sim")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hs100d::bridge::event::{Exchange, ExchangeId, Identity, Outcome, PlugKey, Target};
use hs100d::model::{Address, DeviceId, Failure, LanProtocol, RelayState};
use hs100d::sim::fault::{LanFault, SwitchAndReadFault};
use hs100d::sim::handle::PlugHandle;
use hs100d::sim::lan::{LanPorts, SimLan};
use hs100d::sim::model::Model;
use hs100d::sim::notify::ChangeNotifier;
use hs100d::sim::plug::{SimPlug, SwitchedBy};
use hs100d::smarthome::frame;
use hs100d::smarthome::message::{Outlets, Reply, Request};
use hs100d::transport::lan::Lan;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than any reply takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// For requests that get no reply.
const IMPATIENCE: Duration = Duration::from_millis(300);
const ON: Request = Request::SetRelay(RelayState::On);

struct Home {
    lan: SimLan,
    notifier: ChangeNotifier,
    plugs: Vec<PlugHandle>,
    addresses: Vec<SocketAddr>,
    wire: Lan,
}

impl Home {
    async fn with_plugs(count: u32) -> Self {
        let notifier = ChangeNotifier::new();
        let lan = SimLan::start(LanPorts::default(), notifier.clone()).await.unwrap();
        let mut home = Self { lan, notifier, plugs: vec![], addresses: vec![], wire: Lan::default() };
        for number in 1..=count {
            let plug = SimPlug::new(Model::HS100_HW1, number, &format!("Plug {number}"), Instant::now());
            let plug = PlugHandle::new(plug, home.notifier.clone());
            home.addresses.push(home.lan.plug_in(&plug, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap());
            home.plugs.push(plug);
        }
        home
    }

    fn exchange(&self, number: usize, request: Request, patience: Duration) -> Exchange {
        let device_id = self.plugs[number].device_id();
        let at = (self.addresses[number], LanProtocol::Xor);
        crate::exchange(number, &device_id, at, request, patience)
    }

    async fn ask(&self, number: usize, request: Request, patience: Duration) -> Outcome {
        let exchange = self.exchange(number, request, patience);
        let Target::Local { address, protocol, expect } = &exchange.target else { unreachable!() };
        self.wire.perform(&exchange, address, *protocol, expect).await
    }
}

#[tokio::test]
async fn a_bulb_is_asked_what_it_is_and_nothing_else() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let json = br#"{"system":{"get_sysinfo":{"deviceId":"80120001","mic_type":"IOT.SMARTBULB","model":"LB130(EU)",
            "mic_mac":"50C7BF000001","light_state":{"on_off":1},"err_code":0}}}"#;
        let mut answer = Vec::new();
        frame::build(&mut answer, |out| out.extend_from_slice(json));
        let mut request = vec![0; 4 + 29];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        let mut more = Vec::new();
        drop(stream.read_to_end(&mut more).await);
        more.len()
    });
    let expect = Identity::default();
    let exchange = Exchange {
        id: ExchangeId::new(PlugKey(0), 1),
        plug: PlugKey(0),
        label: "a plug".into(),
        target: Target::Local {
            address: address.clone(),
            protocol: LanProtocol::Xor,
            expect: expect.clone(),
        },
        request: ON,
        deadline: Instant::now() + PATIENCE,
        urgent: true,
        known_info: None,
    };
    let outcome = Lan::default().perform(&exchange, &address, LanProtocol::Xor, &expect).await;
    let Err(Failure::Unsupported(kind)) = &outcome.result else { panic!("{outcome:?}") };
    assert_eq!(&**kind, "it is a IOT.SMARTBULB (LB130(EU))");
    assert!(outcome.greeting.is_some());
    assert_eq!(heard.await.unwrap(), 0, "nothing else was asked");
}

#[tokio::test]
async fn a_plug_is_asked_on_one_kept_connection() {
    let home = Home::with_plugs(1).await;
    for _ in 0..20 {
        let outcome = home.ask(0, Request::SysInfo, PATIENCE).await;
        assert!(matches!(outcome.result, Ok(Reply::SysInfo(_))), "{outcome:?}");
    }
    assert_eq!(home.ask(0, ON, PATIENCE).await.result, Ok(Reply::Done));
    assert!(home.plugs[0].is_on());
    assert_eq!(home.ask(0, Request::SetLed(RelayState::Off), PATIENCE).await.result, Ok(Reply::Done));
    assert!(!home.plugs[0].is_led_on());
    let traffic = home.plugs[0].traffic();
    assert_eq!((traffic.connections, traffic.lan_requests), (1, 22));
}

#[tokio::test]
async fn each_fault_of_the_lan_is_its_own_failure() {
    let expected = |fault| match fault {
        LanFault::Refused | LanFault::PortDead => Some(Failure::Refused),
        LanFault::NotAccepting
        | LanFault::PortFiltered
        | LanFault::Silent
        | LanFault::SilentButActs(_)
        | LanFault::Asleep => Some(Failure::Silent),
        LanFault::ResetAfterRequest | LanFault::ResetInAnswer | LanFault::CloseWithoutReply => {
            Some(Failure::Closed)
        }
        LanFault::Garbage => Some(Failure::Garbage("not JSON at byte 1".into())),
        LanFault::CutOffJson | LanFault::HugeLength => Some(Failure::Garbage("".into())),
        LanFault::DeviceError(code) => Some(Failure::Device { code, message: "".into() }),
        LanFault::Works | LanFault::Latency(_) | LanFault::SlowBytes(_) | LanFault::CloseAfterEachReply => {
            None
        }
    };
    let home = Home::with_plugs(1).await;
    for fault in LanFault::ALL {
        home.lan.set_fault(&home.plugs[0], fault).await.unwrap();
        home.wire.close();
        let expected = expected(fault);
        let patience = if expected == Some(Failure::Silent) { IMPATIENCE } else { PATIENCE };
        let outcome = home.ask(0, Request::SysInfo, patience).await;
        match (&outcome.result, &expected) {
            (Ok(Reply::SysInfo(_)), None) => {}
            (Err(failure), Some(expected)) => {
                assert_eq!(
                    std::mem::discriminant(failure),
                    std::mem::discriminant(expected),
                    "{fault:?}: {failure}"
                );
            }
            _ => panic!("{fault:?}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_connection_that_the_plug_closed_meanwhile_is_replaced_and_the_request_said_once_more() {
    let home = Home::with_plugs(1).await;
    home.lan.set_fault(&home.plugs[0], LanFault::CloseAfterEachReply).await.unwrap();
    for state in [RelayState::On, RelayState::Off, RelayState::On] {
        for request in [Request::SetRelay(state), Request::SysInfo, Request::SysInfo] {
            let outcome = home.ask(0, request, PATIENCE).await;
            assert!(outcome.result.is_ok(), "a dead connection is no failure: {outcome:?}");
        }
        assert_eq!(home.plugs[0].is_on(), state.is_on());
    }
    assert_eq!(home.plugs[0].switchings().len(), 3);
}

#[tokio::test]
async fn the_wrong_plug_at_an_address_is_asked_who_it_is_and_nothing_else() {
    let mut home = Home::with_plugs(2).await;
    home.addresses.swap(0, 1);
    for (request, number) in [(ON, 0), (ON, 1), (Request::SetLed(RelayState::Off), 0), (Request::SysInfo, 1)]
    {
        let outcome = home.ask(number, request, PATIENCE).await;
        assert!(matches!(outcome.result, Err(Failure::WrongPlug { .. })), "{outcome:?}");
        let found = outcome.greeting.expect("the other plug's own words");
        let other = DeviceId::new(&home.plugs[1 - number].device_id());
        assert_eq!(found.device.device_id, other);
    }
    for plug in &home.plugs {
        assert!(!plug.is_on() && plug.is_led_on() && plug.switchings().is_empty());
    }
}

#[tokio::test]
async fn plugs_that_swap_their_addresses_under_kept_connections_are_never_mixed_up() {
    let home = Home::with_plugs(2).await;
    for number in 0..2 {
        assert!(home.ask(number, Request::SysInfo, PATIENCE).await.result.is_ok());
    }
    home.lan.swap(&home.plugs[0], &home.plugs[1]).await.unwrap();
    let outcome = home.ask(0, ON, PATIENCE).await;
    assert!(matches!(outcome.result, Err(Failure::WrongPlug { .. })), "{outcome:?}");
    assert!(home.plugs.iter().all(|plug| plug.switchings().is_empty()));
}

#[tokio::test]
async fn a_request_that_timed_out_is_taken_back_before_the_plug_wakes() {
    let home = Home::with_plugs(1).await;
    assert!(home.ask(0, Request::SysInfo, PATIENCE).await.result.is_ok());
    home.lan.set_fault(&home.plugs[0], LanFault::Asleep).await.unwrap();
    assert_eq!(home.ask(0, ON, IMPATIENCE).await.result, Err(Failure::Silent));
    home.lan.set_fault(&home.plugs[0], LanFault::Works).await.unwrap();
    let outcome = home.ask(0, Request::SysInfo, PATIENCE).await;
    assert!(outcome.result.is_ok(), "{outcome:?}");
    home.notifier.wait_until(PATIENCE, || home.plugs[0].traffic().open <= 1).await.unwrap();
    assert!(home.plugs[0].switchings().is_empty(), "the kernel delivered a request whose time was over");
}

#[tokio::test]
async fn an_exchange_that_is_dropped_resets_its_connection() {
    let home = Home::with_plugs(1).await;
    home.lan.set_fault(&home.plugs[0], LanFault::Silent).await.unwrap();
    let exchange = home.exchange(0, Request::SysInfo, PATIENCE);
    let Target::Local { address, protocol, expect } = &exchange.target else { unreachable!() };
    tokio::select! {
        outcome = home.wire.perform(&exchange, address, *protocol, expect) => panic!("{outcome:?}"),
        heard = home.notifier.wait_until(PATIENCE, || home.plugs[0].traffic().lan_requests == 1) => heard.unwrap(),
    }
    home.notifier.wait_until(PATIENCE, || home.plugs[0].traffic().open == 0).await.unwrap();
}

#[tokio::test]
async fn a_host_name_is_resolved_and_one_that_does_not_resolve_is_no_route() {
    let mut home = Home::with_plugs(1).await;
    let port = home.addresses[0].port();
    let mut exchange = home.exchange(0, Request::SysInfo, PATIENCE);
    let Target::Local { expect, .. } = exchange.target.clone() else { unreachable!() };
    let localhost = Address::new("localhost", port).unwrap();
    let outcome = home.wire.perform(&exchange, &localhost, LanProtocol::Xor, &expect).await;
    assert!(matches!(outcome.result, Ok(_) | Err(Failure::Refused)), "{outcome:?}");
    home.addresses[0] = (Ipv4Addr::LOCALHOST, 1).into();
    exchange.deadline = Instant::now() + PATIENCE;
    assert_eq!(home.ask(0, Request::SysInfo, PATIENCE).await.result, Err(Failure::Refused));
}

#[tokio::test]
async fn a_strip_is_spoken_to_by_the_names_that_it_gives_its_outlets_on_this_wire() {
    let notifier = ChangeNotifier::new();
    let lan = SimLan::start(LanPorts::default(), notifier.clone()).await.unwrap();
    let strip = PlugHandle::new(SimPlug::new(Model::HS300, 1, "Strip", Instant::now()), notifier);
    let address = lan.plug_in(&strip, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let asked_by_datagram = br#"{"system":{"get_sysinfo":{}}}"#;
    let answer =
        strip.with(|strip| strip.handle(asked_by_datagram, SwitchedBy::Datagram, Instant::now())).unwrap();
    let Ok(Reply::SysInfo(elsewhere)) = Request::SysInfo.read_reply(&answer, None) else { unreachable!() };
    for (fault, outlet) in [(LanFault::Works, 2), (LanFault::CloseAfterEachReply, 4)] {
        lan.set_fault(&strip, fault).await.unwrap();
        let wire = Lan::default();
        let device_id = DeviceId::new(&strip.device_id());
        let (address, expect) = (Address::from(address), Identity { device_id, mac: None });
        let exchange = Exchange {
            id: ExchangeId::new(PlugKey(0), 1),
            plug: PlugKey(0),
            label: "a strip".into(),
            target: Target::Local {
                address: address.clone(),
                protocol: LanProtocol::Xor,
                expect: expect.clone(),
            },
            request: Request::SetOutlets(Outlets::one(outlet), RelayState::On),
            deadline: Instant::now() + PATIENCE,
            urgent: true,
            known_info: Some(Arc::clone(&elsewhere.device)),
        };
        for _ in 0..2 {
            let outcome = wire.perform(&exchange, &address, LanProtocol::Xor, &expect).await;
            assert_eq!(outcome.result, Ok(Reply::Done), "{fault:?}");
        }
        assert!(strip.outlets_on()[usize::from(outlet)], "{fault:?}");
    }
}

#[tokio::test]
async fn a_plug_is_switched_and_read_in_one_request_and_what_firmwares_make_of_that_is_told_apart() {
    for habit in SwitchAndReadFault::ALL {
        let home = Home::with_plugs(1).await;
        assert!(home.ask(0, Request::SysInfo, PATIENCE).await.result.is_ok());
        home.plugs[0].with(|plug| plug.switch_and_read = habit);
        let outcome = home.ask(0, Request::SetRelayAndRead(RelayState::On), PATIENCE).await;
        let told = match &outcome.result {
            Ok(Reply::Switched(reading)) => Ok(reading.as_ref().and_then(|reading| reading.relay)),
            Ok(reply) => panic!("{habit:?}: {reply:?}"),
            Err(failure) => Err(failure),
        };
        match habit {
            SwitchAndReadFault::Both => assert_eq!(told, Ok(Some(RelayState::On))),
            SwitchAndReadFault::SwitchOnly => assert_eq!(told, Ok(None)),
            SwitchAndReadFault::OldState => assert_eq!(told, Ok(Some(RelayState::Off))),
            SwitchAndReadFault::Refused(_) => assert!(matches!(told, Err(Failure::Device { code: -3, .. }))),
            SwitchAndReadFault::Garbled => assert!(matches!(told, Err(Failure::Garbage(_)))),
            SwitchAndReadFault::NoAnswer => assert!(matches!(told, Err(Failure::Closed))),
        }
        assert_eq!(home.plugs[0].is_on(), !matches!(habit, SwitchAndReadFault::Refused(_)), "{habit:?}");
        let asked = if habit == SwitchAndReadFault::NoAnswer { 2.. } else { 1.. };
        assert!(asked.contains(&home.plugs[0].traffic().switch_and_reads), "{habit:?}");
    }
}
