//! The running daemon as commands see it: over HTTP, else over MQTT.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::daemon_client::NO_BROKER;
use super::daemon_http::{DaemonConnection, DaemonEvents, DaemonHttp, HttpFailure};
use super::event_stream::ReportedEvent;
use super::installation::Installation;
use super::{Exit, Failed};
use crate::config::MqttChoice;
use crate::mqtt::failure::reason::FailureReason;
use crate::mqtt::{BrokerUnusable, DaemonTopics, MqttSettings, PublishedEvent, ReadScope, Reader};

/// `bridge/state` of a daemon that runs.
const ONLINE: &str = "online";

/// The running daemon, by the way on which it was found.
pub(super) enum RunningDaemon {
    Http(DaemonConnection),
    Mqtt {
        /// In words.
        broker: String,
        published: DaemonTopics,
        /// Reads on.
        reader: Box<Reader>,
    },
}

/// What the daemon reports from now on.
pub(super) enum Reports {
    Http(Box<DaemonEvents>),
    Mqtt {
        /// In words.
        broker: String,
        /// `None` after it was reported.
        snapshot: Option<ReportedEvent>,
        reader: Box<Reader>,
    },
}

/// Why the daemon was not found over MQTT.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NotPublishing {
    /// In words, without a remedy.
    why: String,
    login_refused: bool,
}

impl RunningDaemon {
    /// Asks over HTTP, and if hs100d does not listen there over MQTT. Each may take this long.
    ///
    /// # Errors
    /// No daemon answers, or this user may not ask it.
    pub(super) async fn find(
        installation: &Installation,
        scope: ReadScope,
        within: Duration,
    ) -> Result<Self, Failed> {
        let mut why_not = Vec::new();
        if let Some(http) = DaemonHttp::of(&installation.config) {
            match http.connect(Instant::now() + within).await {
                Ok(connection) => return Ok(Self::Http(connection)),
                Err(failure) if is_final(&failure) => return Err(refused(&failure, installation)),
                Err(failure) => why_not.push(failure.to_string()),
            }
        }
        match over_mqtt(installation, scope, Instant::now() + within).await {
            Ok(daemon) => Ok(daemon),
            Err(failure) => {
                why_not.push(failure.why);
                let locked = installation.out_of_reach().filter(|_| failure.login_refused);
                Err(locked.unwrap_or_else(|| not_found(&why_not, installation)))
            }
        }
    }

    /// The plugs, as the API shows them.
    ///
    /// # Errors
    /// The daemon does not answer within this time.
    pub(super) async fn plugs(
        self,
        installation: &Installation,
        within: Duration,
    ) -> Result<Vec<Value>, Failed> {
        match self {
            Self::Http(mut connection) => {
                let plugs = connection.plugs(Instant::now() + within).await;
                plugs.map_err(|failure| refused(&failure, installation))
            }
            Self::Mqtt { published, reader, .. } => {
                reader.end().await;
                Ok(published.plugs.into_values().collect())
            }
        }
    }

    /// A snapshot, and then what changes. The scope of [`RunningDaemon::find`] was [`ReadScope::Changes`].
    ///
    /// # Errors
    /// The daemon does not answer within this time.
    pub(super) async fn reports(
        self,
        installation: &Installation,
        within: Duration,
    ) -> Result<Reports, Failed> {
        match self {
            Self::Http(connection) => match connection.events(Instant::now() + within).await {
                Ok(events) => Ok(Reports::Http(Box::new(events))),
                Err(failure) => Err(refused(&failure, installation)),
            },
            Self::Mqtt { broker, published, reader } => {
                let plugs: Vec<_> = published.plugs.into_values().collect();
                let data = json!({ "bridge": published.info, "plugs": plugs });
                let snapshot = Some(ReportedEvent { kind: "snapshot".to_owned(), data });
                Ok(Reports::Mqtt { broker, snapshot, reader })
            }
        }
    }

    /// Disconnects.
    pub(super) async fn end(self) {
        if let Self::Mqtt { reader, .. } = self {
            reader.end().await;
        }
    }
}

impl Reports {
    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// The daemon has ended or is silent; why, in words.
    pub(super) async fn next(&mut self) -> Result<ReportedEvent, String> {
        let (broker, snapshot, reader) = match self {
            Self::Http(events) => return events.next().await,
            Self::Mqtt { broker, snapshot, reader } => (broker, snapshot, reader),
        };
        if let Some(snapshot) = snapshot.take() {
            return Ok(snapshot);
        }
        loop {
            match reader.next().await {
                Ok(PublishedEvent::Change(kind, data)) => {
                    return Ok(ReportedEvent { kind: kind.to_owned(), data });
                }
                Ok(PublishedEvent::BridgeState(state)) if state == ONLINE => {}
                Ok(PublishedEvent::BridgeState(_)) => return Err(offline_at(broker)),
                Err(unusable) => return Err(NotPublishing::from(unusable).why),
            }
        }
    }
}

/// Whether hs100d itself has answered, or is there and may not be asked.
fn is_final(failure: &HttpFailure) -> bool {
    match failure {
        HttpFailure::Denied(_)
        | HttpFailure::WrongToken(_)
        | HttpFailure::NoToken(_)
        | HttpFailure::Refused(..) => true,
        HttpFailure::Absent(_) | HttpFailure::Other(..) | HttpFailure::Unreachable(..) => false,
    }
}

fn refused(failure: &HttpFailure, installation: &Installation) -> Failed {
    match failure {
        HttpFailure::WrongToken(_) | HttpFailure::NoToken(_) => {
            installation.out_of_reach().unwrap_or_else(|| {
                let remedy =
                    "name the config of the daemon with --config, or reload the daemon if it has changed";
                Failed::new(Exit::Permission, format!("{failure}: {remedy}"))
            })
        }
        HttpFailure::Denied(_) => {
            Failed::new(Exit::Permission, format!("{failure}: type `sudo {}`", installation.typed()))
        }
        _ => Failed::new(Exit::Unavailable, format!("{failure}: see the log of the daemon")),
    }
}

async fn over_mqtt(
    installation: &Installation,
    scope: ReadScope,
    end: Instant,
) -> Result<RunningDaemon, NotPublishing> {
    let instance = installation.look().instance().to_owned();
    let settings = match installation.config.mqtt(&instance, Path::new("")) {
        MqttChoice::Embedded { link, .. } => link,
        MqttChoice::Outside(settings) => settings,
        MqttChoice::Awaited => {
            return Err(NotPublishing { why: NO_BROKER.to_owned(), login_refused: false });
        }
    };
    // In a cluster any node will do, and the daemon's own is the first.
    let brokers = settings.brokers();
    let mut why_not = NotPublishing { why: NO_BROKER.to_owned(), login_refused: false };
    for (left, broker) in (1..=brokers.len()).rev().zip(brokers) {
        // A silent one leaves time for the others.
        let share = end.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        match over_mqtt_at(settings.only_at(broker), scope, Instant::now() + share).await {
            Ok(running) => return Ok(running),
            Err(why) => why_not = why,
        }
    }
    Err(why_not)
}

async fn over_mqtt_at(
    settings: MqttSettings,
    scope: ReadScope,
    end: Instant,
) -> Result<RunningDaemon, NotPublishing> {
    let broker = format!("the broker at {}", settings.broker());
    let base_topic = settings.base_topic.clone();
    let mut reader = Reader::start(settings, scope);
    let published = reader.retained(end).await?;
    let why = match published.state.as_deref() {
        Some(ONLINE) => return Ok(RunningDaemon::Mqtt { broker, published, reader: Box::new(reader) }),
        Some(_) => offline_at(&broker),
        None => format!("no daemon publishes below {base_topic}/ at {broker}"),
    };
    reader.end().await;
    Err(NotPublishing { why, login_refused: false })
}

fn offline_at(broker: &str) -> String {
    format!("{broker} says that the daemon is offline")
}

fn not_found(why_not: &[String], installation: &Installation) -> Failed {
    let line =
        format!("no running daemon was found: {}: {}", why_not.join("; "), installation.how_to_start());
    Failed::new(Exit::Unavailable, line)
}

impl From<BrokerUnusable> for NotPublishing {
    fn from(BrokerUnusable { reason, remedy, text }: BrokerUnusable) -> Self {
        let why = text.strip_suffix(remedy).map_or(&*text, |why| why.trim_end_matches([':', ' ']));
        Self { why: why.to_owned(), login_refused: reason == FailureReason::LoginRefused }
    }
}
