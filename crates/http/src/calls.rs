//! The calls of handlers to the daemon's loop. Each is answered exactly once, or never if the daemon stops.

use tokio::sync::{broadcast, mpsc, oneshot};

use super::events::StreamEvent;
use super::overview::{Overview, Selection};
use hs100d_core::bridge::event::{BridgeCommand, CommandId, CommandResult, IdAllocator, Origin, RequestId};
use hs100d_core::bridge::snapshot::PlugSnapshot;
use hs100d_core::model::{PlugCommand, PlugName};

/// The calls that wait for the loop. A handler waits while there are so many.
const MAX_WAITING: usize = 64;
/// The streams of events at a time.
pub(super) const MAX_STREAMS: usize = 16;

/// A call to the loop, with the way back.
#[derive(Debug)]
pub enum Call {
    /// Switch a plug.
    Command {
        /// The loop's answer names it.
        id: CommandId,
        /// As in topics; there may be no such plug.
        plug: PlugName,
        /// What the plug is to do.
        command: PlugCommand,
        /// Gets the one result, after a delivery of up to its deadline.
        result: oneshot::Sender<CommandResult>,
    },
    /// Do something that is not about one relay.
    Request {
        /// The loop's answer names it.
        id: RequestId,
        /// What the bridge is to do.
        request: BridgeCommand,
        /// Gets the answer once that is done or refused.
        response: oneshot::Sender<Response>,
    },
    /// Read the config again.
    Reload {
        /// The loop's answer names it.
        id: RequestId,
        /// Gets the answer once the config is in force, or the mistake in it.
        response: oneshot::Sender<Response>,
    },
    /// Show the state of the daemon.
    Show(ShowRequest),
    /// Show some of the plugs.
    Portion(PortionRequest),
}

/// A request to see the state of the daemon.
#[derive(Debug)]
pub enum ShowRequest {
    /// Once.
    Once(Selection, oneshot::Sender<Overview>),
    /// Now, and everything that changes from then on.
    Stream(oneshot::Sender<Result<EventStream, TooManyStreams>>),
}

/// A request to see the plugs from this one on, as many as the loop shows in one turn: ten thousand at once would hold it up.
#[derive(Debug)]
pub struct PortionRequest {
    /// 0, then [`Portion::next`] of the last portion.
    pub first: usize,
    /// Gets the portion in the same turn.
    pub portion: oneshot::Sender<Portion>,
}

/// Some of the plugs.
#[derive(Debug)]
pub struct Portion {
    /// In the order in which the bridge came to know them.
    pub plugs: Vec<PlugSnapshot>,
    /// Where the next portion begins; `None` if this is the last.
    pub next: Option<usize>,
}

/// The state of the daemon, and everything that changes after it. Both are taken in one turn of the loop, so that nothing is
/// missing between them and nothing comes twice.
#[derive(Debug)]
pub struct EventStream {
    pub(crate) overview: Overview,
    /// The number of the last event before.
    pub(crate) number: u64,
    pub(crate) changes: broadcast::Receiver<StreamEvent>,
}

/// Why a request could not be done.
pub(crate) type Response = Result<(), String>;

/// Each stream costs memory while its reader is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_STREAMS} clients read the events already: end one of them, or use MQTT")]
pub struct TooManyStreams;

/// The loop does not answer any more: the daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon stops")]
pub(crate) struct Stopping;

/// Sends calls to the loop.
#[derive(Debug, Clone)]
pub struct Caller {
    ids: IdAllocator,
    calls: mpsc::Sender<Call>,
}

impl Caller {
    /// A caller, and the loop's end of it.
    pub fn new(ids: IdAllocator) -> (Self, mpsc::Receiver<Call>) {
        let (calls, receiver) = mpsc::channel(MAX_WAITING);
        (Self { ids, calls }, receiver)
    }

    /// Sends a command. The result comes later; without a receiver the command is done all the same.
    pub(crate) async fn command(
        &self,
        plug: PlugName,
        command: PlugCommand,
    ) -> Result<oneshot::Receiver<CommandResult>, Stopping> {
        let id = self.ids.command(Origin::Http);
        self.send(|result| Call::Command { id, plug, command, result }).await
    }

    /// Sends a request, and waits until it is done.
    pub(crate) async fn request(&self, request: BridgeCommand) -> Result<Response, Stopping> {
        let id = self.ids.request(Origin::Http);
        self.answer(|response| Call::Request { id, request, response }).await
    }

    /// Reads the config again, and waits until that is done.
    pub(crate) async fn reload(&self) -> Result<Response, Stopping> {
        let id = self.ids.request(Origin::Http);
        self.answer(|response| Call::Reload { id, response }).await
    }

    /// The state of the daemon now.
    pub(crate) async fn overview(&self, selection: Selection) -> Result<Overview, Stopping> {
        self.answer(|overview| Call::Show(ShowRequest::Once(selection, overview))).await
    }

    /// The state of the daemon with all plugs, but without their histories. Each portion of the plugs is of another moment.
    pub(crate) async fn overview_in_portions(&self) -> Result<Overview, Stopping> {
        let mut overview = self.overview(Selection::Bridge).await?;
        let mut next = Some(0);
        while let Some(first) = next {
            let portion = self.answer(|portion| Call::Portion(PortionRequest { first, portion })).await?;
            overview.snapshot.plugs.extend(portion.plugs);
            next = portion.next;
        }
        Ok(overview)
    }

    /// The state of the daemon now, and what changes from then on.
    pub(crate) async fn stream(&self) -> Result<Result<EventStream, TooManyStreams>, Stopping> {
        self.answer(|stream| Call::Show(ShowRequest::Stream(stream))).await
    }

    async fn answer<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, Stopping> {
        self.send(call).await?.await.map_err(|_| Stopping)
    }

    async fn send<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<T>) -> Call,
    ) -> Result<oneshot::Receiver<T>, Stopping> {
        let (sender, receiver) = oneshot::channel();
        self.calls.send(call(sender)).await.map_err(|_| Stopping)?;
        Ok(receiver)
    }
}
