//! One event of the stream, as it is sent to every reader.

use bytes::Bytes;

/// A server-sent event. Written once, for all readers.
#[derive(Debug, Clone)]
pub(crate) struct StreamEvent(pub(super) Bytes);

impl StreamEvent {
    /// The event of this kind. `number` counts the events since the daemon started; `json` has one line.
    pub(super) fn new(kind: &str, number: u64, json: &[u8]) -> Self {
        let head = format!("event: {kind}\nid: {number}\ndata: ");
        Self([head.as_bytes(), json, b"\n\n"].concat().into())
    }
}
