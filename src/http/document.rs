//! The JSON of the API: the documents of the topics, put together by plug.

use serde::Serialize;

use super::overview::{BrokerStatus, DaemonInfo, Overview};
use crate::bridge::event::Update;
use crate::bridge::snapshot::PlugSnapshot;
use crate::model::Availability;
use crate::payload::document::{
    BridgeDocument, EnergyDocument, EventDocument, InfoDocument, ResultDocument, StateDocument,
};
use crate::payload::{self, Clock};

/// A plug: what its topics say, in one object.
#[derive(Serialize)]
pub(crate) struct PlugDocument<'a> {
    name: &'a str,
    availability: Option<&'static str>,
    state: Option<StateDocument>,
    energy: Option<EnergyDocument>,
    info: Option<InfoDocument<'a>>,
}

impl<'a> PlugDocument<'a> {
    pub(crate) fn of(plug: &'a PlugSnapshot, clock: Clock) -> Self {
        Self {
            name: plug.name.as_str(),
            availability: plug.availability.map(Availability::word),
            state: plug.state.as_ref().map(|state| StateDocument::of(state, clock)),
            energy: plug.energy.as_ref().map(EnergyDocument::of),
            info: plug.info.as_deref().map(InfoDocument::of),
        }
    }
}

/// The bridge: what `bridge/info` says, and the connection to the broker.
#[derive(Serialize)]
pub(crate) struct BridgeWithBroker<'a> {
    #[serde(flatten)]
    bridge: BridgeDocument<'a>,
    broker: BrokerDocument<'a>,
}

#[derive(Serialize)]
struct BrokerDocument<'a> {
    embedded: bool,
    connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> BridgeWithBroker<'a> {
    pub(crate) fn of(overview: &'a Overview, daemon_info: &'a DaemonInfo) -> Self {
        let Overview { snapshot, broker, clock, .. } = overview;
        let BrokerStatus { is_embedded, link } = broker;
        Self {
            bridge: BridgeDocument::of(&snapshot.info, &daemon_info.instance, daemon_info.started, *clock),
            broker: BrokerDocument {
                embedded: *is_embedded,
                connected: link.is_ok(),
                reason: link.as_ref().err().map(String::as_str),
            },
        }
    }
}

/// The kind and the JSON of an event of the stream; `None` for an update that it does not have.
pub(crate) fn change(update: &Update, clock: Clock) -> Option<(&'static str, Vec<u8>)> {
    #[derive(Serialize)]
    struct Change<'a, T> {
        plug: &'a str,
        #[serde(flatten)]
        of: T,
    }
    Some(match update {
        Update::State(plug, state) => {
            ("state", payload::json(&Change { plug: plug.as_str(), of: StateDocument::of(state, clock) }))
        }
        Update::Energy(plug, energy) => {
            ("energy", payload::json(&Change { plug: plug.as_str(), of: EnergyDocument::of(energy) }))
        }
        Update::Info(plug, info) => {
            ("info", payload::json(&Change { plug: plug.as_str(), of: InfoDocument::of(info) }))
        }
        Update::Result(result) => (
            "result",
            payload::json(&Change { plug: result.plug.as_str(), of: ResultDocument::of(result, None) }),
        ),
        Update::Notice(notice) => ("event", payload::json(&EventDocument::of(notice, clock))),
        _ => return None,
    })
}
