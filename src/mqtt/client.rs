//! Asking things of a broker from outside the daemon: whether it would take us, and a request to a daemon there.
//!
//! Each question is a connection of its own under a client id of its own, so a running daemon is not disturbed.

use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, PublishOptions, SubscribeFilterInput};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::connection::{
    BrokerLimits, NOT_AUTHORIZED, bare_options, command_filter, mqtt_options, reason_text, refusal, refusals,
};
use super::failure::LinkFailure;
use super::failure::reason::FailureReason;
use super::homeassistant::DocumentForm;
use super::socket::ConnectProgress;
use super::topics::Topics;
use super::{BrokerUnusable, MqttSettings, Probed};

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// What a broker keeps comes with its answer, or within this time after it.
const KEPT_WITHIN: Duration = Duration::from_millis(300);

/// See [`super::probe`].
pub(super) async fn probe(options: MqttSettings, within: Duration) -> Result<Probed, BrokerUnusable> {
    let end = Instant::now() + within;
    let probed = read(options.clone(), end).await?;
    write(options, probed.state.as_deref(), end).await?;
    Ok(probed)
}

/// Subscribes to what the daemon subscribes to, and reads what a daemon keeps there.
async fn read(options: MqttSettings, end: Instant) -> Result<Probed, BrokerUnusable> {
    let mut call = Client::start(options, "check");
    let topics = Topics::new(&call.options.base_topic);
    let commands = topics.command_filters();
    let needed = commands.len();
    let kept = [topics.bridge_state(), topics.bridge_info()];
    let filters =
        commands.map(command_filter).into_iter().chain(kept.each_ref().map(|topic| kept_filter(topic)));
    let asked = call.client.try_subscribe_many(filters);
    asked.map_err(|error| LinkFailure::of(FailureReason::HungUp, &error.to_string(), &call.options))?;
    let mut probed = Probed::default();
    let mut answer = None;
    loop {
        // What the broker keeps comes around its answer; that nothing is kept shows only in that nothing comes.
        let wait = if answer.is_some() { Instant::now() + KEPT_WITHIN } else { end };
        match timeout_at(wait.min(end), call.next()).await {
            Ok(Ok(Incoming::SubAck(codes))) => answer = Some(codes),
            Ok(Ok(Incoming::Publish(message))) => probed.take_in(&kept, &message.topic, &message.payload),
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => return Err(failure.into()),
            Err(_) => break,
        }
        if answer.is_some() && probed.is_whole() {
            break;
        }
    }
    let Some(mut answer) = answer else { return Err(LinkFailure::silent(&call.options).into()) };
    call.end().await;
    // The daemon need not be allowed to read what it says itself.
    answer.return_codes.truncate(needed);
    match refusals(&answer).next() {
        None => Ok(probed),
        Some(why) => Err(call.denied(&format!("{why:?}")).into()),
    }
}

/// Connects with the daemon's last will and writes where the daemon writes, so that nothing is left there. The will
/// repeats the state that is retained at its topic: it changes nothing if this process is killed.
async fn write(options: MqttSettings, state: Option<&str>, end: Instant) -> Result<(), LinkFailure> {
    let mut call = Client::with_will(options, state.unwrap_or("offline"));
    let refused = match timeout_at(end, call.write()).await {
        Ok(written) => written?,
        Err(_) => Some(LinkFailure::silent(&call.options)),
    };
    call.end().await;
    refused.map_or(Ok(()), Err)
}

/// An empty retained message to each of these leaves nothing behind, and means nothing to anybody.
fn topics_to_try(options: &MqttSettings) -> impl Iterator<Item = String> + use<> {
    let homeassistant = &options.homeassistant;
    let document = match homeassistant.discovery {
        DocumentForm::Device => Some("device"),
        DocumentForm::Component => Some("switch"),
        DocumentForm::Off => None,
    };
    let document =
        document.map(|kind| format!("{}/{kind}/hs100d_check/config", homeassistant.discovery_prefix));
    std::iter::once(format!("{}/bridge/check", options.base_topic)).chain(document)
}

/// See [`super::request`].
pub(super) async fn request(
    options: MqttSettings,
    name: &str,
    payload: &Value,
    within: Duration,
) -> Result<Option<Value>, String> {
    let mut call = Client::start(options, "request");
    let transaction = Uuid::new_v4().to_string();
    let topics = Topics::new(&call.options.base_topic);
    let (asks, answers) = (topics.request(name), topics.response(name));
    let mut payload = payload.clone();
    payload["transaction"] = json!(transaction);
    let asked = call.client.try_subscribe(answers, QoS::AtLeastOnce);
    let answer = tokio::time::timeout(within, async {
        asked.map_err(|error| error.to_string())?;
        loop {
            match call.next().await.map_err(|failure| failure.text)? {
                Incoming::SubAck(answer) => {
                    if let Some(why) = refusals(&answer).next() {
                        return Err(call.denied(&format!("{why:?}")).text);
                    }
                    let sent =
                        call.client.try_publish(&*asks, payload.to_string(), PublishOptions::at_least_once());
                    sent.map_err(|error| error.to_string())?;
                }
                Incoming::Publish(message) => {
                    let answer: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
                    if answer["transaction"] == transaction.as_str() {
                        return Ok(Some(answer));
                    }
                }
                _ => {}
            }
        }
    });
    // Silence means that no daemon listens there.
    let answer = answer.await.unwrap_or(Ok(None))?;
    call.end().await;
    Ok(answer)
}

/// One connection for one question.
struct Client {
    options: MqttSettings,
    progress: ConnectProgress,
    client: AsyncClient,
    events: EventLoop,
}

impl Client {
    fn start(options: MqttSettings, purpose: &str) -> Self {
        Self::with(options, purpose, bare_options)
    }

    /// With the daemon's last will, which says this.
    fn with_will(options: MqttSettings, state: &str) -> Self {
        Self::with(options, "check", |options, progress| mqtt_options(options, progress, state))
    }

    fn with(
        mut options: MqttSettings,
        purpose: &str,
        settings: impl FnOnce(&MqttSettings, &ConnectProgress) -> MqttOptions,
    ) -> Self {
        options.client_id = format!("{}-{purpose}-{}", options.client_id, std::process::id());
        let progress = ConnectProgress::default();
        let (client, events) = AsyncClient::builder(settings(&options, &progress)).build();
        Self { options, progress, client, events }
    }

    /// Writes to each of [`topics_to_try`]. Gives what the broker refuses; an error has ended the connection.
    async fn write(&mut self) -> Result<Option<LinkFailure>, LinkFailure> {
        loop {
            match self.next().await {
                Ok(Incoming::ConnAck(welcome)) => {
                    let BrokerLimits { qos, keeps, .. } = BrokerLimits::of(&welcome);
                    if qos == QoS::AtMostOnce || !keeps {
                        let why = FailureReason::Unfit.sign();
                        return Ok(Some(LinkFailure::of(FailureReason::Unfit, why, &self.options)));
                    }
                    break;
                }
                Ok(_) => {}
                // The same login was taken without a last will.
                Err(failure) if failure.reason == FailureReason::LoginRefused => {
                    let topic = Topics::new(&self.options.base_topic).bridge_state();
                    let why = format!("it refuses a last will at {topic}");
                    return Err(LinkFailure::of(FailureReason::WriteDenied, &why, &self.options));
                }
                Err(failure) => return Err(failure),
            }
        }
        for topic in topics_to_try(&self.options) {
            let options = PublishOptions::at_least_once().retained();
            let sent = self.client.try_publish(&*topic, Vec::new(), options);
            sent.map_err(|error| LinkFailure::of(FailureReason::HungUp, &error.to_string(), &self.options))?;
            if let Some(code) = self.acknowledged(&topic).await? {
                let reason = if code == NOT_AUTHORIZED {
                    FailureReason::WriteDenied
                } else {
                    FailureReason::MessageRefused
                };
                let why = format!("it does not take a message at {topic} ({})", reason_text(code));
                return Ok(Some(LinkFailure::of(reason, &why, &self.options)));
            }
        }
        Ok(None)
    }

    /// Waits for the acknowledgement of a message; the reason if the broker refuses it.
    async fn acknowledged(&mut self, topic: &str) -> Result<Option<u8>, LinkFailure> {
        loop {
            match self.next().await {
                Ok(Incoming::PubAck(answer)) => return Ok(refusal(&answer, &self.progress)),
                Ok(_) => {}
                Err(failure)
                    if matches!(failure.reason, FailureReason::HungUp | FailureReason::NotAuthorized) =>
                {
                    let why = format!("it ended the connection over a message at {topic}");
                    return Err(LinkFailure::of(FailureReason::WriteDenied, &why, &self.options));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn next(&mut self) -> Result<Incoming, LinkFailure> {
        loop {
            match self.events.poll().await {
                Ok(Event::Incoming(incoming)) => return Ok(incoming),
                Ok(_) => {}
                Err(error) => return Err(LinkFailure::explain(&error, &self.progress, &self.options)),
            }
        }
    }

    /// The answer is there; whether the goodbye arrives makes no difference to it.
    async fn end(&mut self) {
        let _ = self.client.try_disconnect();
        let _ = tokio::time::timeout(GOODBYE, async { while self.events.poll().await.is_ok() {} }).await;
    }

    fn denied(&self, why: &str) -> LinkFailure {
        let why = format!("it does not let us subscribe below {}/ ({why})", self.options.base_topic);
        LinkFailure::of(FailureReason::SubscriptionDenied, &why, &self.options)
    }
}

impl Probed {
    /// Takes in what the broker keeps on one of these topics, the state and the info.
    fn take_in(&mut self, [state, info]: &[String; 2], topic: &[u8], payload: &[u8]) {
        if topic == state.as_bytes() {
            self.state = Some(String::from_utf8_lossy(payload).into_owned());
        } else if topic == info.as_bytes() {
            self.info = serde_json::from_slice(payload).ok();
        }
    }

    fn is_whole(&self) -> bool {
        self.state.is_some() && self.info.is_some()
    }
}

impl From<LinkFailure> for BrokerUnusable {
    fn from(LinkFailure { reason, remedy, text, .. }: LinkFailure) -> Self {
        Self { reason, remedy, text }
    }
}

fn kept_filter(topic: &str) -> SubscribeFilterInput {
    SubscribeFilterInput::new(topic.to_owned(), QoS::AtMostOnce).preserve_retain(true)
}
