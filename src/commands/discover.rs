//! `discover`: the plugs on the LAN, as a table or as JSON.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use super::table::Table;
use super::{Context, Failed, say};
use crate::bridge::event::{Identity, Said, Sighting};
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
    let mut rows: Vec<Row> = Vec::new();
    let search = async {
        loop {
            let Sighting { address, said } = discovery.next().await;
            take_in(&mut rows, Row::of(&address, &said));
        }
    };
    // The search ends with its time; that is how it is meant to end.
    let _ = tokio::time::timeout(args.timeout, search).await;
    let garbage = discovery.tally().garbage;
    if garbage > 0 {
        tracing::info!("{garbage} answers that came were no plug's");
    }
    rows.sort_by(|a, b| a.place.cmp(&b.place));
    say(&if args.json { as_json(&rows) } else { as_table(&rows) })
}

/// Lists each plug once, whatever it is seen through. One that answers in both forms is one that TCP 9999 serves.
fn take_in(rows: &mut Vec<Row>, row: Row) {
    match rows.iter_mut().find(|known| known.is_same(&row)) {
        Some(known) if row.is_xor && !known.is_xor => *known = row,
        Some(_) => {}
        None => rows.push(row),
    }
}

/// One plug, as it is printed.
struct Row {
    who: Identity,
    /// What the rows are ordered by.
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
                    plate.model.escape_debug().to_string(),
                    host,
                    mac.unwrap_or_default(),
                    device_id.unwrap_or_default().to_owned(),
                    state.unwrap_or_default(),
                    reading.rssi.map(|dbm| format!("{dbm} dBm")).unwrap_or_default(),
                    "xor".to_owned(),
                ];
                let who = Identity { device_id: plate.device_id.clone(), mac: plate.mac };
                Self { who, place, is_xor: true, cells, json }
            }
            Said::Other(device) => {
                let mac = device.mac.map(|mac| mac.to_string());
                let encryption = device.encryption.to_lowercase();
                let protocol = if encryption.is_empty() { "other" } else { &encryption };
                let json = json!({
                    "alias": null, "model": &*device.model, "host": host, "mac": mac, "device_id": null,
                    "state": null, "rssi": null, "protocol": protocol, "type": &*device.kind,
                });
                let mut cells = [const { String::new() }; 8];
                cells[1] = device.model.escape_debug().to_string();
                cells[2] = host;
                cells[3] = mac.unwrap_or_default();
                cells[7] = protocol.escape_debug().to_string();
                Self { who: Identity { device_id: None, mac: device.mac }, place, is_xor: false, cells, json }
            }
        }
    }

    /// By device id, else by MAC, else by the place.
    fn is_same(&self, other: &Self) -> bool {
        match (&self.who, &other.who) {
            (ours, theirs) if ours.contradicts(theirs) => false,
            (Identity { device_id: Some(_), .. }, Identity { device_id: Some(_), .. }) => true,
            (Identity { mac: Some(_), .. }, Identity { mac: Some(_), .. }) => true,
            _ => self.place == other.place,
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
    let mut table = Table::new(HEADINGS);
    for row in rows {
        table.row(row.cells.clone());
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::event::OtherDialect;
    use crate::model::Mac;
    use crate::smarthome::message::{Reply, Request};

    fn xor(host: &str, id: &str, mac: &str) -> Row {
        let json =
            format!(r#"{{"system":{{"get_sysinfo":{{"deviceId":"{id}","mac":"{mac}","relay_state":1}}}}}}"#);
        let Ok(Reply::SysInfo(reading)) = Request::SysInfo.read_reply(json.as_bytes(), None) else {
            panic!()
        };
        Row::of(&Address::new(host, 9999).unwrap(), &Said::SysInfo(Box::new(reading)))
    }

    fn other(host: &str, mac: &str) -> Row {
        let device = OtherDialect {
            mac: Mac::new(mac),
            kind: "IOT.SMARTPLUGSWITCH".into(),
            model: "HS100(UK)".into(),
            encryption: "KLAP".into(),
        };
        Row::of(&Address::new(host, 9999).unwrap(), &Said::Other(device))
    }

    #[test]
    fn each_plug_is_listed_once_by_its_device_id_else_its_mac_else_its_address() {
        let mut rows = Vec::new();
        for row in [
            other("192.0.2.1", "50C7BF000001"),
            xor("192.0.2.1", "80060001", "50C7BF000001"),
            other("192.0.2.1", "50C7BF000001"),
            // The same plug in a mirror, and another plug with its MAC.
            xor("192.0.2.254", "80060001", "50C7BF000001"),
            xor("192.0.2.2", "80060002", "50C7BF000001"),
            other("192.0.2.3", "50C7BF000003"),
            other("192.0.2.4", "none"),
            other("192.0.2.4", "none"),
        ] {
            take_in(&mut rows, row);
        }
        let listed: Vec<_> = rows.iter().map(|row| (row.cells[2].as_str(), row.cells[7].as_str())).collect();
        let expected =
            [("192.0.2.1", "xor"), ("192.0.2.2", "xor"), ("192.0.2.3", "klap"), ("192.0.2.4", "klap")];
        assert_eq!(listed, expected);
    }
}
