//! A simulated home for trials: plugs, strips and dimmers on loopback, and a TP-Link cloud that knows them.
//!
//! ```text
//! cargo run --example sim_house                     two plugs at 127.0.0.11:9999 and 127.0.0.12:9999, and a cloud
//! cargo run --example sim_house -- --plugs 10
//! cargo run --example sim_house -- --models hs110,hs300,hs220     a plug with a meter, a strip, a dimmer
//! cargo run --example sim_house -- --port 0         where 9999 is taken: any free port
//! cargo run --example sim_house -- --klap 2 --klap-port 8021      the second plug speaks KLAP
//! ```
//!
//! Any program for these plugs can use them: `kasa --host 127.0.0.11 --type plug on`. Each switching is printed. Type
//! `help` for the commands that press a button, take a plug off the LAN or out of the cloud.

use std::error::Error;
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;

use clap::Parser;
use hs100d::model::RelayState;
use hs100d::sim::cloud::account::SimAccount;
use hs100d::sim::fault::{CloudLink, Dialect, LanFault};
use hs100d::sim::home::{HomeOptions, SimHome};
use hs100d::sim::model::Model;
use hs100d::sim::plug::SimPlug;
use tokio::sync::mpsc;

const HELP: &str =
    "press N [OUTLET]                     press the button of plug N, or of an outlet of strip N
lan N works|refused|silent|garbage   how plug N behaves on the LAN
protocol N xor|klap|both             what plug N speaks on the LAN
cloud N works|offline                how the cloud reaches plug N
show                                 list the plugs
Ctrl-C                               end";

/// A simulated home for trials: plugs on loopback, and a cloud that knows them.
#[derive(Parser)]
struct Options {
    /// The number of plugs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=5000))]
    plugs: u16,
    /// One device of each of these models, instead of plain HS100 plugs
    #[arg(long, value_name = "MODEL,…", value_delimiter = ',', value_parser = model, conflicts_with = "plugs")]
    models: Vec<Model>,
    /// The address of the first plug; the others have the next addresses
    #[arg(long, default_value_t = Ipv4Addr::new(127, 0, 0, 11))]
    first: Ipv4Addr,
    /// The plugs' port, TCP and UDP; 0 takes a free one
    #[arg(long, default_value_t = 9999)]
    port: u16,
    /// The plugs that speak KLAP, counted from 1
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    klap: Vec<NonZeroUsize>,
    /// The port of KLAP; 0 takes a free one
    #[arg(long, default_value_t = 80)]
    klap_port: u16,
    /// The port of the discovery of plugs that speak KLAP; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    tdp_port: u16,
    /// The address of the cloud; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.2:0")]
    cloud: SocketAddr,
    /// The e-mail address of the account
    #[arg(long, default_value = HomeOptions::ACCOUNT.0)]
    username: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let home = build(&options).await?;
    show(&home);
    let (url, password) = (home.cloud().url(), HomeOptions::ACCOUNT.1);
    println!("The cloud is {url}, the account {}, its password {password}", options.username);
    println!("Type `help` for what you can do to them");
    let mut lines = standard_input();
    let mut heard = home.notifier().listen();
    let mut seen: Vec<u64> = vec![0; home.plugs().len()];
    loop {
        tokio::select! {
            Some(line) = lines.recv() => {
                if obey(&home, &line).await.is_none() {
                    println!("{HELP}");
                }
            }
            _ = heard.changed() => tell_switchings(&home, &mut seen),
        }
    }
}

async fn build(options: &Options) -> Result<SimHome, String> {
    let mut home_options = HomeOptions::of(&[]);
    let plain = || vec![Model::HS100_HW1; options.plugs.into()];
    let models = if options.models.is_empty() { plain() } else { options.models.clone() };
    home_options.plugs =
        (1..).zip(models).map(|(number, model)| (model, format!("Simulated plug {number}"))).collect();
    home_options.first_plug = options.first;
    home_options.port = options.port;
    home_options.tdp_port = options.tdp_port;
    home_options.klap_port = options.klap_port;
    home_options.klap = options.klap.iter().map(|number| number.get() - 1).collect();
    home_options.account = SimAccount::new(&options.username, HomeOptions::ACCOUNT.1);
    home_options.cloud = vec![options.cloud, SocketAddr::new(options.cloud.ip(), 0)];
    SimHome::start(home_options).await.map_err(|error| {
        let (port, klap_port) = (options.port, options.klap_port);
        format!(
            "cannot start the home on port {port}, KLAP on port {klap_port}: {error}: try --port 0, --klap-port 0, or \
             another --first"
        )
    })
}

/// The model with this name, or an error with all names.
fn model(word: &str) -> Result<Model, String> {
    let words = || Model::ALL.map(|(word, _)| word).join(", ");
    Model::named(word).ok_or_else(|| format!("the models are {}", words()))
}

fn show(home: &SimHome) {
    for (number, plug) in (1..).zip(home.plugs()) {
        let address = home.lan().address(plug).map_or("nowhere".to_owned(), |address| address.to_string());
        let (alias, mac, id) = (plug.alias(), plug.mac(), plug.device_id());
        let model = plug.read(|plug| plug.model.name);
        let relays: Vec<_> =
            plug.outlets_on().into_iter().map(|on| RelayState::from_bool(on).to_string()).collect();
        let relays = relays.join(" ");
        let protocol = match plug.read(|plug| plug.dialect) {
            Dialect::Xor => "XOR",
            Dialect::Klap => "KLAP",
            Dialect::Both => "XOR and KLAP",
        };
        println!("{number}: {alias}, {model}, {relays}, at {address}, {protocol}, MAC {mac}, device id {id}");
    }
    let (broadcast, tdp_port, klap_port) =
        (home.lan().broadcast(), home.lan().tdp_port(), home.lan().klap_port());
    println!(
        "Broadcasts are heard at {broadcast}; KLAP is at port {klap_port}, its discovery at port {tdp_port}"
    );
}

/// Lines from standard input, read on a thread because that read blocks.
fn standard_input() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Runs one line; `None` if it is not a command.
async fn obey(home: &SimHome, line: &str) -> Option<()> {
    let mut words = line.split_whitespace();
    let command = words.next()?;
    if command == "show" {
        show(home);
        return Some(());
    }
    let number: usize = words.next()?.parse().ok()?;
    let plug = home.plugs().get(number.checked_sub(1)?)?;
    match (command, words.next()) {
        ("press", None) => plug.press_button(),
        ("press", Some(outlet)) => {
            let outlet = outlet.parse::<usize>().ok()?.checked_sub(1)?;
            plug.outlets_on().get(outlet)?;
            plug.press_button_of(outlet);
        }
        ("lan", Some(fault)) => home.lan().set_fault(plug, lan_fault(fault)?).await.ok()?,
        ("protocol", Some(word)) => home.lan().set_dialect(plug, dialect(word)?).await.ok()?,
        ("cloud", Some("works")) => plug.set_cloud(CloudLink::Works),
        ("cloud", Some("offline")) => plug.set_cloud(CloudLink::Offline),
        _ => return None,
    }
    Some(())
}

fn lan_fault(word: &str) -> Option<LanFault> {
    match word {
        "works" => Some(LanFault::Works),
        "refused" => Some(LanFault::Refused),
        "silent" => Some(LanFault::Silent),
        "garbage" => Some(LanFault::Garbage),
        _ => None,
    }
}

fn dialect(word: &str) -> Option<Dialect> {
    match word {
        "xor" => Some(Dialect::Xor),
        "klap" => Some(Dialect::Klap),
        "both" => Some(Dialect::Both),
        _ => None,
    }
}

/// Prints each switching of a relay since the last call.
fn tell_switchings(home: &SimHome, seen: &mut [u64]) {
    for (plug, seen) in home.plugs().iter().zip(seen) {
        let orders = plug.traffic().relay_orders;
        let fresh = usize::try_from(orders - *seen).unwrap_or(usize::MAX);
        let log = plug.switchings();
        for switching in log.iter().skip(log.len().saturating_sub(fresh)) {
            let relay = RelayState::from_bool(switching.on);
            let outlet = if plug.read(SimPlug::is_strip) {
                format!(", outlet {}", switching.outlet + 1)
            } else {
                String::new()
            };
            println!("{}{outlet}: {relay}, by {:?}", plug.alias(), switching.by);
        }
        *seen = orders;
    }
}
