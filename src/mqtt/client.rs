//! One-shot clients for the command line: test a broker, or send a request to the daemon that is connected to it.
//!
//! Each uses a connection and a client id of its own, so a running daemon is not disturbed.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, PublishOptions, SubscribeFilterInput};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::connect::{
    self, BrokerLimits, NOT_AUTHORIZED, command_filter, reason_text, refused_filters, refused_publish,
};
use super::dial::DialOrder;
use super::failure::explain::LinkFailure;
use super::failure::reason::FailureReason;
use super::homeassistant::options::DocumentForm;
use super::settings::MqttSettings;
use super::socket::{self, ConnectProgress};
use super::topics::Topics;

/// How long the DISCONNECT may take.
const DISCONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long retained messages may take to arrive after the SUBACK.
const RETAINED_WITHIN: Duration = Duration::from_millis(300);

/// What the broker retains of a daemon.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probed {
    /// `bridge/state`.
    pub(crate) state: Option<String>,
    /// `bridge/info`.
    pub(crate) info: Option<Value>,
}

/// Why a broker cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct BrokerUnusable {
    /// The reason, for programs.
    pub(crate) reason: FailureReason,
    /// What to do.
    pub(crate) remedy: &'static str,
    /// What does not work, where, and what to do, on one line.
    pub text: String,
}

/// Tests a broker: requests the subscriptions that the daemon needs, reads what is retained of a daemon, and writes with the
/// daemon's last will below the base topic and the discovery prefix. Leaves nothing there, and does not disturb a running
/// daemon.
///
/// # Errors
///
/// The first thing that does not work.
pub async fn probe(settings: MqttSettings, within: Duration) -> Result<Probed, BrokerUnusable> {
    probe_at(settings, None, within).await
}

/// The same at this address of the broker's host only.
pub(crate) async fn probe_at(
    settings: MqttSettings,
    only: Option<SocketAddr>,
    within: Duration,
) -> Result<Probed, BrokerUnusable> {
    let end = Instant::now() + within;
    let probed = read(settings.clone(), only, end).await?;
    write(settings, only, probed.state.as_deref(), end).await?;
    Ok(probed)
}

/// The addresses of the broker's host; none if its name cannot be resolved.
pub(crate) async fn addresses(settings: &MqttSettings, within: Duration) -> Vec<SocketAddr> {
    let resolved = tokio::time::timeout(within, socket::resolve(&settings.host, settings.port)).await;
    resolved.map(Result::unwrap_or_default).unwrap_or_default()
}

/// Logs in at one address of the broker's host, and disconnects.
pub(crate) async fn log_in_at(
    settings: MqttSettings,
    address: SocketAddr,
    within: Duration,
) -> Result<(), BrokerUnusable> {
    let mut client = Client::start_at(settings, "check", Some(address));
    let first = tokio::time::timeout(within, client.next()).await;
    first.unwrap_or_else(|_| Err(LinkFailure::silent(&client.settings)))?;
    client.end().await;
    Ok(())
}

/// Subscribes to the daemon's topics, and reads what is retained of a daemon.
async fn read(
    settings: MqttSettings,
    only: Option<SocketAddr>,
    end: Instant,
) -> Result<Probed, BrokerUnusable> {
    let mut client = Client::start_at(settings, "check", only);
    let topics = Topics::new(&client.settings.base_topic);
    let commands = topics.command_filters();
    let needed = commands.len();
    let retained = [topics.bridge_state(), topics.bridge_info()];
    let filters = retained.each_ref().map(|topic| retained_filter(topic));
    let filters = commands.map(command_filter).into_iter().chain(filters);
    let subscribed = client.client.try_subscribe_many(filters);
    subscribed
        .map_err(|error| LinkFailure::of(FailureReason::HungUp, &error.to_string(), &client.settings))?;
    let mut probed = Probed::default();
    let mut suback = None;
    loop {
        // Retained messages come before or after the SUBACK. If nothing is retained, nothing comes.
        let wait = if suback.is_some() { Instant::now() + RETAINED_WITHIN } else { end };
        match timeout_at(wait.min(end), client.next()).await {
            Ok(Ok(Incoming::SubAck(packet))) => suback = Some(packet),
            Ok(Ok(Incoming::Publish(message))) => probed.add(&retained, &message.topic, &message.payload),
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => return Err(failure.into()),
            Err(_) => break,
        }
        if suback.is_some() && probed.is_complete() {
            break;
        }
    }
    let Some(mut suback) = suback else { return Err(LinkFailure::silent(&client.settings).into()) };
    client.end().await;
    // The daemon does not need the right to read its own topics.
    suback.return_codes.truncate(needed);
    match refused_filters(&suback).next() {
        None => Ok(probed),
        Some(why) => Err(client.denied(&format!("{why:?}")).into()),
    }
}

/// Connects with the daemon's last will and writes where the daemon writes; nothing stays there. The will repeats the state
/// that is retained at its topic: it changes nothing if this process is killed.
async fn write(
    settings: MqttSettings,
    only: Option<SocketAddr>,
    state: Option<&str>,
    end: Instant,
) -> Result<(), LinkFailure> {
    let mut client = Client::with_will(settings, only, state.unwrap_or("offline"));
    let refused = match timeout_at(end, client.write()).await {
        Ok(written) => written?,
        Err(_) => Some(LinkFailure::silent(&client.settings)),
    };
    client.end().await;
    refused.map_or(Ok(()), Err)
}

/// Topics for a test: no client reads them, and an empty retained message leaves nothing there.
fn test_topics(settings: &MqttSettings) -> impl Iterator<Item = String> + use<> {
    let homeassistant = &settings.homeassistant;
    let document = match homeassistant.discovery {
        DocumentForm::Device => Some("device"),
        DocumentForm::Component => Some("switch"),
        DocumentForm::Off => None,
    };
    let document =
        document.map(|kind| format!("{}/{kind}/hs100d_check/config", homeassistant.discovery_prefix));
    std::iter::once(format!("{}/bridge/check", settings.base_topic)).chain(document)
}

/// Sends a request to the daemon at this broker, by `bridge/request/<name>`, and returns its response; `None` if no daemon
/// answers in time.
///
/// # Errors
///
/// Why the broker cannot be used, on one line with the remedy.
pub async fn request(
    settings: MqttSettings,
    name: &str,
    payload: &Value,
    within: Duration,
) -> Result<Option<Value>, String> {
    let mut client = Client::start(settings, "request");
    let transaction = Uuid::new_v4().to_string();
    let topics = Topics::new(&client.settings.base_topic);
    let (request_topic, response_topic) = (topics.request(name), topics.response(name));
    let mut payload = payload.clone();
    payload["transaction"] = json!(transaction);
    let subscribed = client.client.try_subscribe(response_topic, QoS::AtLeastOnce);
    let response = tokio::time::timeout(within, async {
        subscribed.map_err(|error| error.to_string())?;
        loop {
            match client.next().await.map_err(|failure| failure.text)? {
                Incoming::SubAck(suback) => {
                    if let Some(why) = refused_filters(&suback).next() {
                        return Err(client.denied(&format!("{why:?}")).text);
                    }
                    let options = PublishOptions::at_least_once();
                    let sent = client.client.try_publish(&*request_topic, payload.to_string(), options);
                    sent.map_err(|error| error.to_string())?;
                }
                Incoming::Publish(message) => {
                    let response: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
                    if response["transaction"] == transaction.as_str() {
                        return Ok(Some(response));
                    }
                }
                _ => {}
            }
        }
    });
    // Without a response in time no daemon is there.
    let response = response.await.unwrap_or(Ok(None))?;
    client.end().await;
    Ok(response)
}

/// One connection.
pub(super) struct Client {
    pub(super) settings: MqttSettings,
    progress: ConnectProgress,
    pub(super) client: AsyncClient,
    events: EventLoop,
}

impl Client {
    pub(super) fn start(settings: MqttSettings, purpose: &str) -> Self {
        Self::start_at(settings, purpose, None)
    }

    fn start_at(settings: MqttSettings, purpose: &str, only: Option<SocketAddr>) -> Self {
        let order = DialOrder::of_instance(&settings.instance).only(only);
        Self::with(settings, purpose, |settings, progress| connect::options(settings, progress, order))
    }

    /// With the daemon's last will, with this payload.
    fn with_will(settings: MqttSettings, only: Option<SocketAddr>, state: &str) -> Self {
        let order = DialOrder::of_instance(&settings.instance).only(only);
        Self::with(settings, "check", |settings, progress| {
            connect::options_with_will(settings, progress, order, state)
        })
    }

    fn with(
        mut settings: MqttSettings,
        purpose: &str,
        options: impl FnOnce(&MqttSettings, &ConnectProgress) -> MqttOptions,
    ) -> Self {
        settings.client_id = format!("{}-{purpose}-{}", settings.client_id, std::process::id());
        let progress = ConnectProgress::default();
        let (client, events) = AsyncClient::builder(options(&settings, &progress)).build();
        Self { settings, progress, client, events }
    }

    /// Writes to each of [`test_topics`], and returns what the broker refuses. After an error the connection has ended.
    async fn write(&mut self) -> Result<Option<LinkFailure>, LinkFailure> {
        loop {
            match self.next().await {
                Ok(Incoming::ConnAck(connack)) => {
                    let BrokerLimits { qos, retains, .. } = BrokerLimits::of(&connack);
                    if qos == QoS::AtMostOnce || !retains {
                        let why = FailureReason::Unfit.sign();
                        return Ok(Some(LinkFailure::of(FailureReason::Unfit, why, &self.settings)));
                    }
                    break;
                }
                Ok(_) => {}
                // The same login was accepted without a last will.
                Err(failure) if failure.reason == FailureReason::LoginRefused => {
                    let topic = Topics::new(&self.settings.base_topic).bridge_state();
                    let why = format!("it refuses a last will at {topic}");
                    return Err(LinkFailure::of(FailureReason::WriteDenied, &why, &self.settings));
                }
                Err(failure) => return Err(failure),
            }
        }
        for topic in test_topics(&self.settings) {
            let options = PublishOptions::at_least_once().retained();
            let sent = self.client.try_publish(&*topic, Vec::new(), options);
            sent.map_err(|error| LinkFailure::of(FailureReason::HungUp, &error.to_string(), &self.settings))?;
            if let Some(code) = self.acknowledged(&topic).await? {
                let reason = if code == NOT_AUTHORIZED {
                    FailureReason::WriteDenied
                } else {
                    FailureReason::MessageRefused
                };
                let why = format!("it refuses a message at {topic} ({})", reason_text(code));
                return Ok(Some(LinkFailure::of(reason, &why, &self.settings)));
            }
        }
        Ok(None)
    }

    /// Waits for the acknowledgement of a message; returns the reason code if the broker refuses it.
    async fn acknowledged(&mut self, topic: &str) -> Result<Option<u8>, LinkFailure> {
        loop {
            match self.next().await {
                Ok(Incoming::PubAck(puback)) => return Ok(refused_publish(&puback, &self.progress)),
                Ok(_) => {}
                Err(failure)
                    if matches!(failure.reason, FailureReason::HungUp | FailureReason::NotAuthorized) =>
                {
                    let why = format!("it ended the connection because of a message at {topic}");
                    return Err(LinkFailure::of(FailureReason::WriteDenied, &why, &self.settings));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The next packet. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Incoming, LinkFailure> {
        loop {
            match self.events.poll().await {
                Ok(Event::Incoming(incoming)) => return Ok(incoming),
                Ok(_) => {}
                Err(error) => return Err(LinkFailure::explain(&error, &self.progress, &self.settings)),
            }
        }
    }

    /// Disconnects. Whether the DISCONNECT arrives does not matter for the result.
    pub(super) async fn end(&mut self) {
        let _ = self.client.try_disconnect();
        let _ = tokio::time::timeout(DISCONNECT_WITHIN, async { while self.events.poll().await.is_ok() {} })
            .await;
    }

    pub(super) fn denied(&self, why: &str) -> LinkFailure {
        let why = format!("it refuses our subscription below {}/ ({why})", self.settings.base_topic);
        LinkFailure::of(FailureReason::SubscriptionDenied, &why, &self.settings)
    }
}

impl Probed {
    /// Adds a retained message of one of these two topics.
    fn add(&mut self, [state, info]: &[String; 2], topic: &[u8], payload: &[u8]) {
        if topic == state.as_bytes() {
            self.state = Some(String::from_utf8_lossy(payload).into_owned());
        } else if topic == info.as_bytes() {
            self.info = serde_json::from_slice(payload).ok();
        }
    }

    fn is_complete(&self) -> bool {
        self.state.is_some() && self.info.is_some()
    }
}

impl From<LinkFailure> for BrokerUnusable {
    fn from(LinkFailure { reason, remedy, text, .. }: LinkFailure) -> Self {
        Self { reason, remedy, text }
    }
}

fn retained_filter(topic: &str) -> SubscribeFilterInput {
    SubscribeFilterInput::new(topic.to_owned(), QoS::AtMostOnce).preserve_retain(true)
}
