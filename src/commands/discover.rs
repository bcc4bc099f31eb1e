//! `discover`: the plugs on the LAN, as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Context, Failed, say};
use crate::bridge::event::{Said, Sighting};
use crate::model::{Address, DeviceId};
use crate::transport::discovery::{self, Discovery};

/// What `discover` is called with.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// How long to wait for answers
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = crate::duration::parse)]
    pub timeout: Duration,
}

/// Looks for plugs until the time is over, and lists each once.
///
/// # Errors
/// The config is wrong.
pub async fn run(args: Args, context: &Context) -> Result<(), Failed> {
    let config = context.config()?;
    let mut discovery =
        Discovery::start(config.discovery.unwrap_or_else(|| discovery::Options::usual(config.local.port)));
    let mut found = BTreeMap::new();
    let search = async {
        loop {
            let Sighting { address, said } = discovery.next().await;
            let row = Row::of(&address, &said);
            // A plug that answers in both forms is the one that TCP 9999 serves.
            match found.get(&row.place) {
                Some(Row { is_xor: true, .. }) => {}
                _ => drop(found.insert(row.place.clone(), row)),
            }
        }
    };
    // The search ends with its time; that is how it is meant to end.
    let _ = tokio::time::timeout(args.timeout, search).await;
    let rows: Vec<_> = found.into_values().collect();
    say(&if args.json { as_json(&rows) } else { as_table(&rows) })
}

/// One plug, as it is printed.
struct Row {
    /// What the rows are ordered by, and what makes two answers one plug's.
    place: (Option<Ipv4Addr>, String),
    is_xor: bool,
    cells: [String; 8],
    json: Value,
}

const HEADINGS: [&str; 8] = ["NAME", "MODEL", "ADDRESS", "MAC", "DEVICE ID", "STATE", "SIGNAL", "PROTOCOL"];

impl Row {
    fn of(address: &Address, said: &Said) -> Self {
        let host = address.host();
        let place = (host.parse().ok(), host.clone());
        match said {
            Said::SysInfo(reading) => {
                let plate = &reading.plate;
                let mac = plate.mac.map(|mac| mac.to_string());
                let device_id = plate.device_id.as_ref().map(DeviceId::as_str);
                let state = reading.relay.map(|relay| relay.to_string());
                let json = json!({
                    "alias": &*plate.alias, "model": &*plate.model, "host": host, "mac": mac, "device_id": device_id,
                    "state": state, "rssi": reading.rssi, "protocol": "xor",
                });
                let cells = [
                    plate.alias.escape_debug().to_string(),
                    plate.model.to_string(),
                    host,
                    mac.unwrap_or_default(),
                    device_id.unwrap_or_default().to_owned(),
                    state.unwrap_or_default(),
                    reading.rssi.map(|dbm| format!("{dbm} dBm")).unwrap_or_default(),
                    "xor".to_owned(),
                ];
                Self { place, is_xor: true, cells, json }
            }
            Said::Other(device) => {
                let mac = device.mac.map(|mac| mac.to_string());
                let protocol = device.encryption.to_lowercase();
                let json = json!({
                    "alias": null, "model": &*device.model, "host": host, "mac": mac, "device_id": null,
                    "state": null, "rssi": null, "protocol": protocol, "type": &*device.kind,
                });
                let model = device.model.to_string();
                let cells = [
                    String::new(),
                    model,
                    host,
                    mac.unwrap_or_default(),
                    String::new(),
                    String::new(),
                    String::new(),
                    protocol,
                ];
                Self { place, is_xor: false, cells, json }
            }
        }
    }
}

fn as_json(rows: &[Row]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| &row.json).collect();
    format!("{}\n", json!(rows))
}

fn as_table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "No plug answered. They answer on the same network only; AP isolation, another VLAN or a firewall \
                may keep the question or the answer away.\n"
            .to_owned();
    }
    let mut widths = HEADINGS.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; 8]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(HEADINGS);
    for row in rows {
        line(row.cells.each_ref().map(String::as_str));
    }
    text
}
