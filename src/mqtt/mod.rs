//! The left wing: updates of the bridge out to the broker, commands in.
//!
//! [`Link`] is all that the daemon sees. Behind it, `desk` decides what is to be sent and what a message means,
//! `link` keeps one connection, `wire` opens its socket, and `trouble` says why there is none.
//!
//! The broker is a view of a table. Nothing queues on the way to it, so that nothing is stale when it arrives.

pub mod broker;
mod certificates;
mod client;
pub mod command;
mod connection;
pub mod failure;
pub mod homeassistant;
mod packets;
pub mod payload;
mod pending;
mod retained;
mod socket;
pub mod state;
pub mod topics;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::bridge::event::{Event, IdAllocator, RequestId, Update};
use crate::secret::{RefusedLogins, Secret};
use failure::reason::FailureReason;
use payload::Clock;

/// How to reach the broker, and what to be called there.
#[derive(Debug, Clone, PartialEq)]
pub struct MqttSettings {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS, if the URL says `mqtts`.
    pub tls: Option<TlsOptions>,
    /// Who we are.
    pub username: Option<String>,
    /// And the proof.
    pub password: Option<Secret>,
    /// The client id.
    pub client_id: String,
    /// The first level of every topic of ours; [`topics::check_base`] says whether it can be one.
    pub base_topic: String,
    /// Stable per installation: names the bridge device in Home Assistant.
    pub instance: String,
    /// What Home Assistant is told.
    pub homeassistant: homeassistant::HomeAssistantOptions,
}

/// What is trusted and what is shown on a TLS connection. Empty: the system's own roots, no client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// PEM file of the authorities that may have signed the broker's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM files of our own certificate chain and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// What the broker brings in.
#[derive(Debug)]
pub enum Inbound {
    /// Something for the bridge.
    Event(Event),
    /// Someone asked for a reload of the config. Answered through [`crate::bridge::event::Update::Response`].
    Reload(RequestId),
    /// The connection changed. `Err` says why there is none, or what does not work on it, in one line with the
    /// remedy; said once, and again only after it has changed.
    Link(Result<(), String>),
}

/// The way to the broker. It connects by itself, again and again, for as long as it lives.
///
/// Dropped without [`Link::stop`], it falls silent like a process that was killed, and the broker publishes the
/// last will.
#[derive(Debug)]
pub struct Link {
    requests: mpsc::UnboundedSender<LinkRequest>,
}

/// What the daemon says to the task that keeps the connection.
#[derive(Debug)]
enum LinkRequest {
    /// Show or say this, with the dates of these clocks.
    Publish(Box<Update>, Clock),
    /// Say goodbye within this time, then answer.
    Stop(Duration, oneshot::Sender<()>),
}

impl Link {
    /// Starts connecting, on the runtime that this is called on. What comes in goes to `inbound`. A login that is among
    /// the `refused` ones is not tried at once. Commands and requests get their ids from `ids`.
    pub fn start(
        options: MqttSettings,
        ids: IdAllocator,
        refused: RefusedLogins,
        inbound: mpsc::UnboundedSender<Inbound>,
    ) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        tokio::spawn(connection::ConnectionTask::new(options, ids, refused, receiver, inbound).run());
        Self { requests }
    }

    /// Shows or says something. Never waits and never fails: what the broker should keep is kept here until it
    /// has it, what is for the moment is dropped while there is no connection. Dates are taken from `clock`.
    pub fn publish(&self, update: Update, clock: Clock) {
        // The other end goes only with the link itself.
        let _ = self.requests.send(LinkRequest::Publish(Box::new(update), clock));
    }

    /// Shows plugs and bridge as away, waits for the broker to have taken that, and disconnects; all of it within
    /// the given time, after which the last will has to say it.
    pub async fn stop(&self, within: Duration) {
        let (done, stopped) = oneshot::channel();
        let _ = self.requests.send(LinkRequest::Stop(within, done));
        // An error means that the task has ended already.
        let _ = stopped.await;
    }
}

/// What a broker that takes us keeps of a daemon there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probed {
    /// `bridge/state`.
    pub state: Option<String>,
    /// `bridge/info`.
    pub info: Option<serde_json::Value>,
}

/// Why a broker is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct BrokerUnusable {
    /// What stands in the way.
    pub reason: FailureReason,
    /// What helps.
    pub remedy: &'static str,
    /// What does not work, where, and what to do, in one line.
    pub text: String,
}

/// Tries the broker once, under client ids of its own: asks for the subscriptions that the daemon needs, reads what a
/// daemon has left there of itself, and writes with the daemon's last will and settings below the base topic and below
/// the discovery prefix. Nothing stays there, and a running daemon is not disturbed.
///
/// # Errors
///
/// What does not work.
pub async fn probe(options: MqttSettings, within: Duration) -> Result<Probed, BrokerUnusable> {
    client::probe(options, within).await
}

/// Asks something of a daemon at this broker, by `bridge/request/<name>`, and gives its answer; `None` when nobody
/// answers in time.
///
/// # Errors
///
/// Why the broker cannot be asked at, in one line with the remedy.
pub async fn request(
    options: MqttSettings,
    name: &str,
    payload: &serde_json::Value,
    within: Duration,
) -> Result<Option<serde_json::Value>, String> {
    client::request(options, name, payload, within).await
}
