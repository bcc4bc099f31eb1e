//! The stream of events: the state of the daemon first, then what changes.

use bytes::Bytes;

use super::document;
use crate::bridge::event::Update;
use crate::payload::Clock;

/// One event of the stream.
#[derive(Debug, Clone)]
pub(crate) struct StreamEvent {
    /// Its kind, as in `event:`.
    pub(crate) kind: &'static str,
    /// Its JSON, on one line.
    pub(crate) data: Bytes,
}

impl StreamEvent {
    /// The event of an update; `None` if the stream does not have it.
    pub(crate) fn of(update: &Update, clock: Clock) -> Option<Self> {
        let (kind, data) = document::change(update, clock)?;
        Some(Self { kind, data: data.into() })
    }
}
