//! The stream of events: the state of the daemon first, then what changes, as server-sent events.
//!
//! Each reader has a task, which hands it one event after the other. A reader that is too far behind is cut off instead of
//! buffered without bound: it connects again, and begins with the state by then.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::body::Frame;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, interval_at};

use super::calls::{Caller, EventStream, TooManyStreams};
use super::document::SnapshotDocument;
use super::events::StreamEvent;
use super::overview::DaemonInfo;
use super::problem::Problem;
use hs100d_core::payload;

/// A browser connects again after this time.
const RETRY: Duration = Duration::from_secs(3);
/// A comment is sent this often, so that readers and proxies see that the stream stands.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// `GET /api/v1/events`
pub(super) async fn events(
    State(caller): State<Caller>,
    State(daemon_info): State<DaemonInfo>,
) -> Result<Response, Problem> {
    let EventStream { overview, number, changes } = caller.stream().await??;
    let snapshot = payload::json(&SnapshotDocument::of(&overview, &daemon_info));
    let StreamEvent(snapshot) = StreamEvent::new("snapshot", number, &snapshot);
    let retry = format!("retry: {}\n", RETRY.as_millis());
    let first = [retry.as_bytes(), &snapshot].concat().into();
    // One waits here while the one before is written.
    let (sender, frames) = mpsc::channel(1);
    tokio::spawn(forward(first, changes, sender, COMMENT_INTERVAL));
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(Frames(frames))).into_response())
}

impl From<TooManyStreams> for Problem {
    fn from(error: TooManyStreams) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

/// Hands the events to the connection until the reader is gone or too far behind, or the daemon stops.
async fn forward(
    first: Bytes,
    mut changes: broadcast::Receiver<StreamEvent>,
    sender: mpsc::Sender<Bytes>,
    comment_interval: Duration,
) {
    let mut next = first;
    let mut comments = interval_at(Instant::now() + comment_interval, comment_interval);
    while sender.send(next).await.is_ok() {
        next = tokio::select! {
            change = changes.recv() => match change {
                Ok(StreamEvent(frame)) => frame,
                Err(_) => return,
            },
            _ = comments.tick() => COMMENT,
            () = sender.closed() => return,
        };
    }
}

/// The body of the response.
struct Frames(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(|frame| Ok(Frame::data(frame))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_quiet_stream_has_comments_and_ends_with_its_reader() {
        let (changes, receiver) = broadcast::channel(4);
        let (sender, mut frames) = mpsc::channel(1);
        let short = Duration::from_millis(1);
        let task = tokio::spawn(forward(Bytes::from_static(b"first"), receiver, sender, short));
        assert_eq!(frames.recv().await.unwrap(), "first");
        for _ in 0..3 {
            assert_eq!(frames.recv().await.unwrap(), COMMENT);
        }
        changes.send(StreamEvent::new("gone", 7, b"{}")).unwrap();
        let mut next = frames.recv().await.unwrap();
        while next == COMMENT {
            next = frames.recv().await.unwrap();
        }
        assert_eq!(next, "event: gone\nid: 7\ndata: {}\n\n");
        drop(frames);
        task.await.unwrap();
        assert!(changes.send(StreamEvent::new("gone", 8, b"{}")).is_err());
    }

    #[tokio::test]
    async fn a_reader_that_is_too_far_behind_is_cut_off() {
        let (changes, receiver) = broadcast::channel(4);
        let (sender, mut frames) = mpsc::channel(1);
        let task = tokio::spawn(forward(Bytes::from_static(b"first"), receiver, sender, COMMENT_INTERVAL));
        for number in 0..1000 {
            changes.send(StreamEvent::new("state", number, b"{}")).unwrap();
        }
        assert_eq!(frames.recv().await.unwrap(), "first");
        assert_eq!(frames.recv().await, None);
        task.await.unwrap();
    }
}
