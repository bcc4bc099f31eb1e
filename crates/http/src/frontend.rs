//! The part of HTTP that lives in the daemon's loop: calls that wait for an answer, the histories, and the stream of events.
//!
//! A value: it neither waits nor reads a clock.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{broadcast, oneshot};

use super::calls::{Call, EventStream, MAX_STREAMS, PortionRequest, Response, ShowRequest, TooManyStreams};
use super::document::{self, BridgeWithBroker};
use super::events::StreamEvent;
use super::history::History;
use super::overview::{BrokerStatus, DaemonInfo, Overview, Selection};
use hs100d_core::bridge::event::{CommandId, CommandResult, Event, RequestId, Update};
use hs100d_core::bridge::snapshot::Snapshot;
use hs100d_core::model::{Availability, PlugName};
use hs100d_core::payload::{self, Clock};

/// A reader of the stream may be behind by two events for each plug, within these bounds. One that is further behind is cut
/// off, and connects again.
const MAX_BEHIND: RangeInclusive<usize> = 1024..=16_384;

/// What the loop keeps for HTTP.
#[derive(Debug, Default)]
pub struct Frontend {
    commands: HashMap<CommandId, oneshot::Sender<CommandResult>>,
    requests: HashMap<RequestId, oneshot::Sender<Response>>,
    histories: HashMap<PlugName, Arc<History>>,
    /// The last event's number.
    number: u64,
    /// `None` before the first reader. Without readers it may be too small for the next ones.
    changes: Option<broadcast::Sender<StreamEvent>>,
}

/// What the loop does for a call.
#[derive(Debug)]
pub enum Demand {
    /// Hand this to the bridge.
    Bridge(Event),
    /// Read the config again.
    Reload(RequestId),
    /// Show the state of the daemon: [`Frontend::show`].
    Show(ShowRequest),
    /// Show some of the plugs.
    Portion(PortionRequest),
}

impl Frontend {
    /// Takes a call of a handler.
    pub fn accept(&mut self, call: Call) -> Demand {
        match call {
            Call::Command { id, plug, command, result } => {
                tracing::debug!(plug = plug.as_str(), "{plug}: a command over HTTP");
                self.commands.insert(id, result);
                Demand::Bridge(Event::Command { id, plug, order: command })
            }
            Call::Request { id, request, response } => {
                self.requests.insert(id, response);
                Demand::Bridge(Event::Request { id, ask: request })
            }
            Call::Reload { id, response } => {
                self.requests.insert(id, response);
                Demand::Reload(id)
            }
            Call::Show(request) => Demand::Show(request),
            Call::Portion(request) => Demand::Portion(request),
        }
    }

    /// Shows the state of the daemon to the handler that asked for it.
    pub fn show(&mut self, request: ShowRequest, snapshot: Snapshot, broker: BrokerStatus, clock: Clock) {
        let histories = snapshot.plugs.iter().map(|plug| self.history(&plug.name)).collect();
        let overview = Overview { snapshot, histories, broker, clock };
        // An error means that the client has gone.
        match request {
            ShowRequest::Once(_, sender) => drop(sender.send(overview)),
            ShowRequest::Stream(sender) => drop(sender.send(self.stream(overview))),
        }
    }

    fn stream(&mut self, overview: Overview) -> Result<EventStream, TooManyStreams> {
        let readers = self.readers().map_or(0, broadcast::Sender::receiver_count);
        if readers >= MAX_STREAMS {
            return Err(TooManyStreams);
        }
        if readers == 0 {
            let plugs = overview.snapshot.plugs.len();
            self.changes =
                Some(broadcast::Sender::new((2 * plugs).clamp(*MAX_BEHIND.start(), *MAX_BEHIND.end())));
        }
        let changes = self.changes.get_or_insert_with(|| broadcast::Sender::new(*MAX_BEHIND.start()));
        Ok(EventStream { overview, number: self.number, changes: changes.subscribe() })
    }

    /// Whether somebody reads the stream.
    pub fn has_readers(&self) -> bool {
        self.readers().is_some()
    }

    fn readers(&self) -> Option<&broadcast::Sender<StreamEvent>> {
        self.changes.as_ref().filter(|changes| changes.receiver_count() > 0)
    }

    /// Shows the bridge to the readers of the stream.
    pub fn show_bridge(&mut self, overview: &Overview, daemon_info: &DaemonInfo) {
        self.send("bridge", &payload::json(&BridgeWithBroker::of(overview, daemon_info)));
    }

    fn send(&mut self, kind: &str, json: &[u8]) {
        self.number += 1;
        if let Some(changes) = &self.changes {
            // An error means that the last reader has gone.
            drop(changes.send(StreamEvent::new(kind, self.number, json)));
        }
    }

    /// Notes an update, hands results and responses to the handlers that wait for them, and the rest to the streams.
    pub fn publish(&mut self, update: &Update, clock: Clock) {
        self.note(update, clock.instant);
        match update {
            // An error means that the client has gone.
            Update::Result(result) => {
                if let Some(handler) = self.commands.remove(&result.id) {
                    drop(handler.send(result.clone()));
                }
            }
            Update::Response { id, result } => {
                if let Some(handler) = self.requests.remove(id) {
                    drop(handler.send(result.clone()));
                }
            }
            _ => {}
        }
        if self.has_readers()
            && let Some((kind, json)) = document::change(update, |plug| self.since(plug), clock)
        {
            self.send(kind, &json);
        }
    }

    fn since(&self, plug: &PlugName) -> Option<Instant> {
        self.histories.get(plug)?.since()
    }

    /// Whether no history has begun.
    pub fn is_empty(&self) -> bool {
        self.histories.is_empty()
    }

    /// Begins the histories with what is known now: updates from before are not repeated.
    pub fn begin(&mut self, snapshot: &Snapshot, now: Instant) {
        for plug in &snapshot.plugs {
            let state = plug.state.as_ref().map(|state| state.relay);
            if state.is_some() || plug.availability == Some(Availability::Offline) {
                self.history_of(&plug.name).note(plug.route, state, now);
            }
        }
    }

    fn note(&mut self, update: &Update, now: Instant) {
        match update {
            Update::State(plug, state) => {
                self.history_of(plug).note(state.route, Some(state.relay), now);
            }
            Update::Energy(plug, energy) => {
                if let Some(watts) = energy.meter.power {
                    self.history_of(plug).note_power(watts as f32, now);
                }
            }
            // A plug that never answered has no state.
            Update::Availability(plug, Availability::Offline) => {
                let history = self.history_of(plug);
                if history.is_empty() {
                    history.note(None, None, now);
                }
            }
            Update::Gone(plug) => drop(self.histories.remove(plug)),
            _ => {}
        }
    }

    /// Changes the history of a plug. It is copied only while a handler holds it.
    fn history_of(&mut self, plug: &PlugName) -> &mut History {
        Arc::make_mut(self.histories.entry(plug.clone()).or_default())
    }

    fn history(&self, plug: &PlugName) -> Arc<History> {
        self.histories.get(plug).cloned().unwrap_or_default()
    }
}

impl ShowRequest {
    /// What it wants to see.
    pub fn selection(&self) -> &Selection {
        match self {
            Self::Once(selection, _) => selection,
            Self::Stream(_) => &Selection::Plugs,
        }
    }
}
