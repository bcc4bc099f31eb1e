//! The simulated home: plugs, the LAN and the cloud that reach them, one notifier for all.
//!
//! Many homes can run in one process: each has its own ports, and its cloud an address of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::cloud::SimCloud;
use crate::cloud::account::SimAccount;
use crate::fault::Dialect;
use crate::handle::PlugHandle;
use crate::lan::{LanPorts, SimLan};
use crate::model::Model;
use crate::notify::{ChangeNotifier, NotInTime};
use crate::plug::SimPlug;
use crate::plug::klap::HeldAccount;

/// The default address of the first plug. Not 127.0.0.1: programs connect from there, and a connection to a plug that
/// refuses could connect to itself.
const FIRST_PLUG: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The address of the cloud's hosts of the first home of this process, not 127.0.0.1 for the same reason. Later homes take
/// those after it: a daemon whose cloud is closed must not meet that of another home, which the kernel may have given the
/// same port.
const FIRST_CLOUD: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
/// How many homes this process has made.
static HOMES: AtomicU16 = AtomicU16::new(0);

/// Attempts to find a port that is free at every plug's address.
const PORT_TRIES: usize = 16;

/// The options of a home. The defaults suit a test.
pub struct HomeOptions {
    /// The models and aliases of the plugs.
    pub plugs: Vec<(Model, String)>,
    /// The address of the first plug; the others follow.
    pub first_plug: Ipv4Addr,
    /// The port of all plugs, TCP and UDP; 0 takes a free one.
    pub port: u16,
    /// The port of the discovery for KLAP, UDP 20002 at real plugs; 0 takes a free one.
    pub tdp_port: u16,
    /// The port of KLAP; 0 takes a free one.
    pub klap_port: u16,
    /// The plugs that speak KLAP instead of the XOR protocol, counted from 0. [`SimLan::set_dialect`] changes that
    /// later.
    pub klap: Vec<usize>,
    /// The account that may log in at the cloud, and whose hash the plugs hold for KLAP.
    pub account: SimAccount,
    /// The addresses of the cloud's hosts: the global entry, then the regions, over which the plugs are spread.
    pub cloud: Vec<SocketAddr>,
}

impl HomeOptions {
    /// The default account: user name and password.
    pub const ACCOUNT: (&str, &str) = ("user@example.com", "pretend-password");

    /// A home with these plugs, each an HS100 with hardware 1.0, and a cloud with one region.
    pub fn of(aliases: &[&str]) -> Self {
        let plugs: Vec<_> = aliases.iter().map(|alias| (Model::HS100_HW1, *alias)).collect();
        Self::of_models(&plugs)
    }

    /// A home with these devices and a cloud with one region.
    pub fn of_models(plugs: &[(Model, &str)]) -> Self {
        let (username, password) = Self::ACCOUNT;
        Self {
            plugs: plugs.iter().map(|&(model, alias)| (model, alias.to_owned())).collect(),
            first_plug: FIRST_PLUG,
            port: 0,
            tdp_port: 0,
            klap_port: 0,
            klap: Vec::new(),
            account: SimAccount::new(username, password),
            cloud: vec![(next_cloud(), 0).into(); 2],
        }
    }
}

fn next_cloud() -> Ipv4Addr {
    let home = HOMES.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::from_bits(FIRST_CLOUD.to_bits() + u32::from(home))
}

/// A simulated home. It ends when it is dropped.
pub struct SimHome {
    plugs: Vec<PlugHandle>,
    lan: SimLan,
    cloud: SimCloud,
    notifier: ChangeNotifier,
}

impl SimHome {
    /// Starts the home and returns once all of it can be reached.
    ///
    /// # Errors
    /// If an address or a port is taken, or is not on loopback.
    pub async fn start(options: HomeOptions) -> io::Result<Self> {
        let notifier = ChangeNotifier::new();
        let HomeOptions { plugs, first_plug, port, tdp_port, klap_port, klap, account, cloud } = options;
        let ports = LanPorts { xor: port, tdp: tdp_port, klap: klap_port };
        let held = HeldAccount::new(&account.username, &account.password);
        let cloud = SimCloud::start(account, &cloud, notifier.clone()).await?;
        let plugs = make_plugs(plugs, cloud.regions(), &notifier);
        for (number, plug) in plugs.iter().enumerate() {
            plug.with(|plug| {
                plug.klap.account = held.clone();
                if klap.contains(&number) {
                    plug.dialect = Dialect::Klap;
                }
            });
            cloud.add(plug);
        }
        let lan = plug_in_all(&plugs, first_plug, ports, &notifier).await?;
        Ok(Self { plugs, lan, cloud, notifier })
    }

    /// All plugs, in the order of the options.
    pub fn plugs(&self) -> &[PlugHandle] {
        &self.plugs
    }

    /// One plug, counted from 0.
    ///
    /// # Panics
    /// If the options had fewer.
    pub fn plug(&self, number: usize) -> &PlugHandle {
        &self.plugs[number]
    }

    /// The LAN, to move plugs and to set their faults.
    pub fn lan(&self) -> &SimLan {
        &self.lan
    }

    /// The cloud, to change its account and to set its faults.
    pub fn cloud(&self) -> &SimCloud {
        &self.cloud
    }

    /// Notified at each change in the home.
    pub fn notifier(&self) -> &ChangeNotifier {
        &self.notifier
    }

    /// Waits until `condition` holds, for at most `bound`.
    ///
    /// # Errors
    /// If it does not hold in time.
    pub async fn wait_until(
        &self,
        bound: Duration,
        condition: impl FnMut() -> bool,
    ) -> Result<(), NotInTime> {
        self.notifier.wait_until(bound, condition).await
    }
}

fn make_plugs(plugs: Vec<(Model, String)>, regions: usize, notifier: &ChangeNotifier) -> Vec<PlugHandle> {
    let now = Instant::now();
    let make = |(number, (model, alias)): (u32, (Model, String))| {
        let mut plug = SimPlug::new(model, number, &alias, now);
        plug.region = 1 + (number as usize - 1) % regions.max(1);
        PlugHandle::new(plug, notifier.clone())
    };
    (1..).zip(plugs).map(make).collect()
}

/// Plugs all of them in at one port. If the port is 0, it finds one that is free at every address.
async fn plug_in_all(
    plugs: &[PlugHandle],
    first: Ipv4Addr,
    ports: LanPorts,
    notifier: &ChangeNotifier,
) -> io::Result<SimLan> {
    let tries = if ports.xor == 0 { PORT_TRIES } else { 1 };
    let mut outcome = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..tries {
        outcome = try_plug_in_all(plugs, first, ports, notifier).await;
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    outcome
}

async fn try_plug_in_all(
    plugs: &[PlugHandle],
    first: Ipv4Addr,
    ports: LanPorts,
    notifier: &ChangeNotifier,
) -> io::Result<SimLan> {
    let lan = SimLan::start(ports, notifier.clone()).await?;
    for (address, plug) in (first.to_bits()..).map(Ipv4Addr::from_bits).zip(plugs) {
        lan.plug_in(plug, (address, lan.port()).into()).await?;
    }
    Ok(lan)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::plug::SwitchedBy;

    #[tokio::test]
    async fn homes_stand_side_by_side() {
        let mut options = HomeOptions::of(&["Lamp", "Kettle", "Fan"]);
        options.cloud.push((FIRST_CLOUD, 0).into());
        let one = SimHome::start(options).await.unwrap();
        let other = SimHome::start(HomeOptions::of(&["Lamp"])).await.unwrap();
        assert_ne!(one.lan().port(), other.lan().port());
        let cloud_of = |home: &SimHome| home.cloud().url().rsplit_once(':').unwrap().0.to_owned();
        assert_ne!(
            cloud_of(&one),
            cloud_of(&other),
            "a port that one gives back may be the next of the other"
        );
        for home in [&one, &other] {
            for plug in home.plugs() {
                TcpStream::connect(home.lan().address(plug).unwrap()).await.unwrap();
            }
        }
        assert_eq!(one.plugs().iter().map(|plug| plug.read(|p| p.region)).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(one.plug(2).alias(), "Fan");
        let address = other.lan().address(other.plug(0)).unwrap();
        drop(other);
        let gone = || std::net::TcpStream::connect(address).is_err();
        one.wait_until(Duration::from_secs(5), gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_home_of_a_hundred_plugs_stands_within_one_thread() {
        let aliases = vec!["Lamp"; 100];
        let home = SimHome::start(HomeOptions::of(&aliases)).await.unwrap();
        let last = &home.plugs()[99];
        assert_eq!(home.lan().address(last).unwrap().ip(), Ipv4Addr::new(127, 0, 0, 110));
        assert_eq!(last.device_id(), format!("8006{:036X}", 100));
    }

    #[tokio::test]
    async fn a_plug_may_speak_klap_from_the_start_with_the_account_of_the_home() {
        let mut home_options = HomeOptions::of(&["Lamp", "Modern"]);
        home_options.klap = vec![1];
        let home = SimHome::start(home_options).await.unwrap();
        let modern = home.plug(1);
        TcpStream::connect(home.lan().address(home.plug(0)).unwrap()).await.unwrap();
        TcpStream::connect(home.lan().klap_address(modern).unwrap()).await.unwrap();
        let refused = TcpStream::connect(home.lan().address(modern).unwrap()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let (username, password) = HomeOptions::ACCOUNT;
        assert!(modern.read(|plug| plug.klap.account == HeldAccount::new(username, password)));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_not_a_search() {
        let one = SimHome::start(HomeOptions::of(&["Lamp"])).await.unwrap();
        let mut options = HomeOptions::of(&["Lamp"]);
        options.port = one.lan().port();
        let error = SimHome::start(options).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_count_down_ends_by_itself_and_the_home_hears_it() {
        let home = SimHome::start(HomeOptions::of_models(&[(Model::KP303, "Desk")])).await.unwrap();
        let strip = home.plug(0);
        strip.press_button_of(2);
        let id = strip.read(|plug| plug.outlet_id(2, SwitchedBy::Lan));
        let request = format!(
            r#"{{"context":{{"child_ids":["{id}"]}},"count_down":{{"add_rule":{{"enable":1,"delay":1,"act":0}}}}}}"#
        );
        strip.with(|plug| plug.handle(request.as_bytes(), SwitchedBy::Lan, Instant::now())).unwrap();
        assert_eq!(strip.outlets_on(), [false, false, true]);
        let is_switched = || strip.switchings().last().is_some_and(|last| last.by == SwitchedBy::CountDown);
        home.wait_until(Duration::from_secs(10), is_switched).await.unwrap();
        assert_eq!(strip.outlets_on(), [false; 3]);
    }
}
