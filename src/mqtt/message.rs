//! Messages: what was received, what follows from it, and what is to be published.

use bytes::Bytes;

use super::channel::Inbound;
use super::retained::Retained;

/// A message that was received.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// As received, unchecked.
    pub topic: &'a str,
    /// As received, unchecked.
    pub payload: &'a [u8],
    /// It was retained. With retain-as-published off, a live message never has this flag.
    pub retained: bool,
    /// The sender's response topic.
    pub response_topic: Option<&'a str>,
    /// The sender's correlation data.
    pub correlation: Option<&'a Bytes>,
}

/// What follows from a received message.
#[derive(Debug)]
pub enum Effect {
    /// Nothing to do for the caller.
    None,
    /// To be sent to the daemon.
    Inbound(Inbound),
    /// Home Assistant has started: everything must be published again.
    Birth,
    /// A message at the topic of our own state has come back.
    Echo,
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// The broker retains it.
    Retained(Retained),
    /// For the clients that are connected now.
    Transient(Transient),
}

/// A message that is not retained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transient {
    /// Without wildcards.
    pub topic: String,
    /// JSON.
    pub payload: Vec<u8>,
    /// The correlation data of the message that it answers.
    pub(crate) correlation: Option<Bytes>,
    /// The topic whose retained value is published first: a client that reads a command's result finds the new state.
    pub(super) after: Option<String>,
}

impl Transient {
    pub(super) fn new(topic: String, payload: Vec<u8>) -> Self {
        Self { topic, payload, correlation: None, after: None }
    }
}
