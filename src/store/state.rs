//! `state.json`: its fields, and the row of a plug.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bridge::event::KnownPlug;
use crate::model::{Address, DeviceId, LanProtocol, Mac, PlugName};

/// The file: the plugs are [`RowsToWrite`] or [`RowsRead`].
#[derive(Serialize, Deserialize)]
pub(super) struct StateFile<Plugs> {
    pub(super) version: u32,
    pub(super) terminal: String,
    pub(super) instance: String,
    pub(super) plugs: Plugs,
}

/// Makes rows one by one while they are written: there may be ten thousand.
pub(super) struct RowsToWrite<'a>(pub(super) &'a BTreeMap<DeviceId, KnownPlug>);

impl Serialize for RowsToWrite<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values().map(PlugRow::of))
    }
}

/// Takes rows one by one while they are read.
#[derive(Default)]
pub(super) struct RowsRead {
    pub(super) valid: BTreeMap<DeviceId, KnownPlug>,
    pub(super) rows: usize,
}

impl<'de> Deserialize<'de> for RowsRead {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = RowsRead;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of plugs")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RowsRead, A::Error> {
                let mut read = RowsRead::default();
                while let Some(row) = list.next_element::<PlugRow>()? {
                    read.rows += 1;
                    read.valid.extend(row.plug());
                }
                Ok(read)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// One plug in `state.json`.
#[derive(Serialize, Deserialize)]
struct PlugRow {
    device_id: String,
    name: String,
    mac: Option<String>,
    address: Option<String>,
    /// Of a strip; files of earlier versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outlets: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    home: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    klap_port: Option<u64>,
}

impl PlugRow {
    fn of(plug: &KnownPlug) -> Self {
        Self {
            device_id: plug.device_id.as_str().to_owned(),
            name: plug.name.to_string(),
            mac: plug.mac.map(|mac| mac.to_string()),
            address: plug.address.as_ref().map(ToString::to_string),
            outlets: plug.outlets.iter().map(ToString::to_string).collect(),
            home: plug.home.as_ref().map(ToString::to_string),
            protocol: plug.protocol.map(|protocol| protocol.word().to_owned()),
            klap_port: plug.klap_port.map(u64::from),
        }
    }

    /// A row without device id or name is no plug. The rest is learned again if it is invalid.
    fn plug(self) -> Option<(DeviceId, KnownPlug)> {
        /// For addresses without a port, in files that somebody edited.
        const PORT: u16 = 9999;
        let device_id = DeviceId::new(&self.device_id)?;
        let plug = KnownPlug {
            device_id: device_id.clone(),
            name: PlugName::new(&self.name).ok()?,
            mac: self.mac.as_deref().and_then(Mac::new),
            address: self.address.as_deref().and_then(|text| Address::new(text, PORT)),
            // All or none: an outlet's index is its number.
            outlets: self
                .outlets
                .iter()
                .map(|name| PlugName::new(name).ok())
                .collect::<Option<_>>()
                .unwrap_or_default(),
            home: self.home.as_deref().and_then(|text| Address::new(text, PORT)),
            protocol: self.protocol.as_deref().and_then(LanProtocol::new),
            klap_port: self.klap_port.and_then(|port| port.try_into().ok()).filter(|&port| port != 0),
        };
        Some((device_id, plug))
    }
}
