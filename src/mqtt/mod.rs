//! The left wing for brokers: the bridge's updates are published, MQTT commands become the bridge's events.
//!
//! The daemon holds a [`Link`]. Behind it, `connection` keeps one connection, `socket` opens its TCP or TLS stream, `state`
//! decides what is published and what a message means, and `failure` explains why there is no connection.
//!
//! What is published comes from a table of the last values. Nothing queues on the way to the broker, so nothing is out of date
//! when it arrives.

pub mod broker;
mod certificates;
mod channel;
mod client;
mod connect;
mod connection;
pub mod failure;
pub mod homeassistant;
mod in_flight;
mod link;
mod link_request;
mod login_inquiry;
pub mod message;
mod packets;
mod pending;
mod reader;
mod responses;
mod retained;
mod settings;
mod socket;
pub mod state;
#[cfg(test)]
mod test_support;
pub mod topics;

pub use channel::Inbound;
pub(crate) use client::{BrokerUnusable, Probed};
pub use client::{probe, request};
pub use link::Link;
pub use login_inquiry::{LoginInquiry, LoginSource};
pub(crate) use reader::{DaemonTopics, PublishedEvent, ReadScope, Reader};
pub use responses::Unanswered;
pub use settings::{MqttSettings, TlsOptions};
