//! The JSON of the API: the documents of the topics, put together by plug.

use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::Value;

use super::history::{History, MINUTE, Shares, minutes_of};
use super::overview::{BrokerStatus, DaemonInfo, Overview};
use hs100d_core::bridge::event::Update;
use hs100d_core::bridge::failures::LastError;
use hs100d_core::bridge::snapshot::PlugSnapshot;
use hs100d_core::bridge::unserved::UnservedDevice;
use hs100d_core::model::{Availability, PlugName};
use hs100d_core::payload::document::{
    BridgeDocument, EnergyDocument, EventDocument, InfoDocument, ResultDocument, StateDocument,
};
use hs100d_core::payload::{self, Clock};

/// A plug: what its topics say, in one object.
#[derive(Serialize)]
pub(crate) struct PlugDocument<'a> {
    name: &'a str,
    availability: Option<&'static str>,
    state: Option<StateDocument>,
    energy: Option<EnergyDocument>,
    info: Option<InfoDocument<'a>>,
    since: Option<String>,
    last_error: Option<ErrorDocument>,
}

impl<'a> PlugDocument<'a> {
    pub(crate) fn of(plug: &'a PlugSnapshot, history: &History, clock: Clock) -> Self {
        Self {
            name: plug.name.as_str(),
            availability: plug.availability.map(Availability::word),
            state: plug.state.as_ref().map(|state| StateDocument::of(state, clock)),
            energy: plug.energy.as_ref().map(EnergyDocument::of),
            info: plug.info.as_deref().map(InfoDocument::of),
            since: history.since().map(|since| clock.date(since)),
            last_error: plug.last_error.as_ref().map(|error| ErrorDocument::of(error, clock)),
        }
    }

    /// The selected plugs.
    pub(crate) fn all(overview: &'a Overview) -> impl Iterator<Item = Self> {
        let Overview { snapshot, histories, clock, .. } = overview;
        let plugs = snapshot.plugs.iter().zip(histories);
        plugs.map(|(plug, history)| Self::of(plug, history, *clock))
    }
}

/// The last error of a plug.
#[derive(Serialize)]
struct ErrorDocument {
    route: Option<String>,
    error: String,
    at: String,
    age_s: u64,
    remedy: Option<String>,
}

impl ErrorDocument {
    fn of(error: &LastError, clock: Clock) -> Self {
        Self {
            route: error.route.map(|route| route.to_string()),
            error: error.what.to_string(),
            at: clock.date(error.at),
            age_s: clock.instant.saturating_duration_since(error.at).as_secs(),
            remedy: error.remedy(),
        }
    }
}

/// The bridge: what `bridge/info` says, and the connection to the broker.
#[derive(Serialize)]
pub(crate) struct BridgeWithBroker<'a> {
    #[serde(flatten)]
    bridge: BridgeDocument<'a>,
    broker: BrokerDocument<'a>,
    unserved: Vec<UnservedDocument<'a>>,
}

/// A device that was found and is not served.
#[derive(Serialize)]
struct UnservedDocument<'a> {
    name: Option<&'a str>,
    model: Option<&'a str>,
    address: Option<&'a str>,
    mac: Option<String>,
    reason: &'a str,
    seen: Option<String>,
}

#[derive(Serialize)]
struct BrokerDocument<'a> {
    embedded: bool,
    connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
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
                address: link.as_deref().ok(),
                reason: link.as_ref().err().map(String::as_str),
            },
            unserved: UnservedDocument::list(&snapshot.unserved, *clock),
        }
    }
}

impl<'a> UnservedDocument<'a> {
    /// By name, then by address, so that a reader finds them at the same place each time.
    fn list(devices: &'a [UnservedDevice], clock: Clock) -> Vec<Self> {
        let mut list: Vec<_> = devices.iter().map(|device| Self::of(device, clock)).collect();
        list.sort_by(|one, other| {
            let key = |it: &Self| (it.name.is_none(), it.name, it.address);
            key(one).cmp(&key(other)).then_with(|| one.mac.cmp(&other.mac))
        });
        list
    }

    fn of(device: &'a UnservedDevice, clock: Clock) -> Self {
        let text = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        Self {
            name: text(&device.alias),
            model: text(&device.model),
            address: device.host.as_deref(),
            mac: device.identity.mac.map(|mac| mac.to_string()),
            reason: &device.reason,
            seen: device.seen.map(|seen| clock.date(seen)),
        }
    }
}

/// A command that is on its way, and whose result is not awaited.
#[derive(Serialize)]
pub(crate) struct AcceptedDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<&'a Value>,
    status: &'static str,
}

impl<'a> AcceptedDocument<'a> {
    pub(crate) fn new(transaction: Option<&'a Value>) -> Self {
        Self { transaction, status: "accepted" }
    }
}

/// The last hours of a plug.
#[derive(Serialize)]
pub(crate) struct HistoryDocument<'a> {
    plug: &'a str,
    from: String,
    to: String,
    shares: Option<SharesDocument>,
    intervals: Vec<IntervalDocument>,
    power: Option<PowerDocument>,
}

/// The shares of the time, 0 to 1.
#[derive(Serialize)]
struct SharesDocument {
    local: f64,
    cloud: f64,
    none: f64,
}

#[derive(Serialize)]
struct IntervalDocument {
    from: String,
    to: String,
    route: String,
    state: Option<String>,
}

/// The mean power of each minute, in W; `null` for a minute without a value.
#[derive(Serialize)]
struct PowerDocument {
    from: String,
    minutes: Vec<Option<f64>>,
}

impl<'a> HistoryDocument<'a> {
    pub(crate) fn of(plug: &'a PlugSnapshot, history: &History, span: Duration, clock: Clock) -> Self {
        let now = clock.instant;
        let begin = now.checked_sub(span).unwrap_or(now);
        let mut intervals = history.intervals(span, now).peekable();
        let mut list = Vec::new();
        while let Some(interval) = intervals.next() {
            list.push(IntervalDocument {
                from: clock.date(interval.since.max(begin)),
                to: clock.date(intervals.peek().map_or(now, |next| next.since)),
                route: interval.route.map_or_else(|| "none".to_owned(), |route| route.to_string()),
                state: interval.state.map(|state| state.to_string()),
            });
        }
        let shares = history.shares(span, now).map(|Shares { local, cloud, none }| {
            let rounded = |share: f64| (share * 10_000.0).round() / 10_000.0;
            SharesDocument { local: rounded(local), cloud: rounded(cloud), none: rounded(none) }
        });
        let power = history.power().map(|(since, minutes)| {
            let skipped = minutes_of(begin.saturating_duration_since(since));
            let rounded = |watts: f32| (f64::from(watts) * 100.0).round() / 100.0;
            PowerDocument {
                from: clock.date(since + MINUTE * u32::try_from(skipped).unwrap_or(u32::MAX)),
                minutes: minutes.skip(skipped).map(|watts| watts.map(rounded)).collect(),
            }
        });
        let (from, to) = (clock.date(begin), clock.date(now));
        Self { plug: plug.name.as_str(), from, to, shares, intervals: list, power }
    }
}

/// A response with this document.
pub(crate) fn response(document: &impl Serialize) -> Response {
    ([(CONTENT_TYPE, "application/json")], payload::json(document)).into_response()
}

/// The first event of the stream: the bridge and all plugs.
#[derive(Serialize)]
pub(crate) struct SnapshotDocument<'a> {
    bridge: BridgeWithBroker<'a>,
    plugs: Vec<PlugDocument<'a>>,
}

impl<'a> SnapshotDocument<'a> {
    pub(crate) fn of(overview: &'a Overview, daemon_info: &'a DaemonInfo) -> Self {
        let bridge = BridgeWithBroker::of(overview, daemon_info);
        Self { bridge, plugs: PlugDocument::all(overview).collect() }
    }
}

/// A change of a plug: what its topic says, with its name.
#[derive(Serialize)]
struct ChangeDocument<'a, T> {
    plug: &'a str,
    #[serde(flatten)]
    of: T,
}

/// `state` in the stream.
#[derive(Serialize)]
struct StateChange {
    #[serde(flatten)]
    state: StateDocument,
    since: Option<String>,
}

#[derive(Serialize)]
struct AvailabilityChange {
    availability: &'static str,
}

#[derive(Serialize)]
struct NoChange {}

/// The kind and the JSON of an event of the stream; `None` for an update that it does not have. `since` says since when a
/// plug has its state.
pub(crate) fn change(
    update: &Update,
    since: impl FnOnce(&PlugName) -> Option<Instant>,
    clock: Clock,
) -> Option<(&'static str, Vec<u8>)> {
    fn of_plug(plug: &PlugName, of: impl Serialize) -> Vec<u8> {
        payload::json(&ChangeDocument { plug: plug.as_str(), of })
    }
    Some(match update {
        Update::State(plug, state) => {
            let since = since(plug).map(|since| clock.date(since));
            ("state", of_plug(plug, StateChange { state: StateDocument::of(state, clock), since }))
        }
        Update::Energy(plug, energy) => ("energy", of_plug(plug, EnergyDocument::of(energy))),
        Update::Info(plug, info) => ("info", of_plug(plug, InfoDocument::of(info))),
        Update::Availability(plug, availability) => {
            ("availability", of_plug(plug, AvailabilityChange { availability: availability.word() }))
        }
        Update::Result(result) => ("result", of_plug(&result.plug, ResultDocument::of(result, None))),
        Update::Gone(plug) => ("gone", of_plug(plug, NoChange {})),
        Update::Notice(notice) => ("event", payload::json(&EventDocument::of(notice, clock))),
        // The bridge comes with the connection to the broker, of which the loop knows.
        Update::Bridge(_) => return None,
        Update::Expected(_) | Update::Ready | Update::Response { .. } | Update::Dropped(..) => return None,
    })
}
