//! Switches one plug on the LAN by its address, with the LAN transport alone: no daemon, no broker, no cloud.
//!
//! ```text
//! cargo run --example switch -- 192.168.1.20 on
//! ```
//!
//! A new connection first reads the identity of the plug at the address; an empty [`Identity`] accepts any plug. `cargo
//! run --example sim_house` has plugs to try it on.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hs100d::bridge::event::{Exchange, ExchangeId, Identity, PlugKey, Target};
use hs100d::model::{Address, Failure, LanProtocol, RelayState};
use hs100d::smarthome::message::{Reply, Request};
use hs100d::transport::lan::Lan;

const USAGE: &str = "switch ADDRESS[:PORT] on|off";
/// The port of the XOR protocol.
const PORT: u16 = 9999;
/// On a LAN a plug replies within milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let Some((address, wanted)) = understand(&words) else {
        eprintln!("usage: {USAGE}");
        return ExitCode::from(64);
    };
    match switch(address, wanted).await {
        Ok(told) => println!("{told}"),
        Err(failure) => {
            eprintln!("switch: {failure}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn understand(words: &[String]) -> Option<(Address, RelayState)> {
    let [address, state] = words else { return None };
    let wanted = match state.as_str() {
        "on" => RelayState::On,
        "off" => RelayState::Off,
        _ => return None,
    };
    Some((Address::new(address, PORT)?, wanted))
}

/// Switches the plug and reads its state back.
pub(crate) async fn switch(address: Address, wanted: RelayState) -> Result<String, Failure> {
    let lan = Lan::default();
    say(&lan, &address, Request::SetRelay(wanted)).await?;
    let Reply::SysInfo(reading) = say(&lan, &address, Request::SysInfo).await? else { unreachable!() };
    let relay = reading.relay.map_or("without a relay".to_owned(), |relay| relay.to_string());
    Ok(format!("{} is {relay}", reading.device.alias))
}

async fn say(lan: &Lan, address: &Address, request: Request) -> Result<Reply, Failure> {
    let (plug, anybody) = (PlugKey(0), Identity::default());
    let exchange = Exchange {
        id: ExchangeId::new(plug, 0),
        plug,
        label: "plug".into(),
        target: Target::Local {
            address: address.clone(),
            protocol: LanProtocol::Xor,
            expect: anybody.clone(),
        },
        request,
        deadline: Instant::now() + PATIENCE,
        urgent: true,
        known_info: None,
    };
    lan.perform(&exchange, address, LanProtocol::Xor, &anybody).await.result
}
