//! The frontend for brokers: the bridge's updates are published, MQTT commands become the bridge's events.
//!
//! The daemon holds a [`Link`]. Behind it, `connection` keeps one connection, `brokers` says to which of several brokers,
//! `dial` and `socket` open its TCP or TLS stream, `state` decides what is published and what a message means, and `failure`
//! explains why there is no connection.
//!
//! What is published comes from a table of the last values. Nothing queues on the way to the broker, so nothing is out of date
//! when it arrives.

mod announcement;
pub mod broker;
mod brokers;
mod certificates;
mod channel;
mod client;
mod connect;
mod connection;
mod dial;
mod echo;
pub mod failure;
pub mod homeassistant;
mod in_flight;
mod link;
mod link_request;
mod live_connection;
mod login_inquiry;
pub mod message;
mod own_return;
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
pub(crate) use client::{BrokerUnusable, Probed, addresses, log_in_at, probe_at};
pub use client::{probe, request};
pub use link::Link;
pub use login_inquiry::{LoginInquiry, LoginSource};
pub(crate) use reader::{DaemonTopics, PublishedEvent, ReadScope, Reader};
pub use responses::Unanswered;
pub use settings::{BrokerAddress, MqttSettings, TlsOptions};
