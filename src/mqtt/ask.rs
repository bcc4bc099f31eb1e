//! Asking things of a broker from outside the daemon: whether it would take us, and a request to a daemon there.
//!
//! Each question is a connection of its own under a name of its own, so a running daemon is not disturbed.

use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, PublishOptions};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Options;
use super::link::{bare_options, command_filter, refusals};
use super::topics::Topics;
use super::trouble::{Kind, Trouble};
use super::wire::Progress;

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// See [`super::probe`].
pub(super) async fn probe(options: Options, within: Duration) -> Result<(), String> {
    let mut call = Call::start(options, "check");
    let filters = Topics::new(&call.options.base_topic).command_filters();
    let asked = call.client.try_subscribe_many(filters.map(command_filter));
    let answer = tokio::time::timeout(within, async {
        asked.map_err(|error| error.to_string())?;
        loop {
            if let Incoming::SubAck(answer) = call.next().await? {
                return Ok(answer);
            }
        }
    });
    let answer = answer.await.unwrap_or_else(|_| Err(Trouble::silent(&call.options).text))?;
    call.end().await;
    match refusals(&answer).next() {
        None => Ok(()),
        Some(why) => Err(call.denied(&format!("{why:?}"))),
    }
}

/// See [`super::request`].
pub(super) async fn request(
    options: Options,
    name: &str,
    payload: &Value,
    within: Duration,
) -> Result<Option<Value>, String> {
    let mut call = Call::start(options, "request");
    let transaction = Uuid::new_v4().to_string();
    let topics = Topics::new(&call.options.base_topic);
    let (asks, answers) = (topics.request(name), topics.response(name));
    let mut payload = payload.clone();
    payload["transaction"] = json!(transaction);
    let asked = call.client.try_subscribe(answers, QoS::AtLeastOnce);
    let answer = tokio::time::timeout(within, async {
        asked.map_err(|error| error.to_string())?;
        loop {
            match call.next().await? {
                Incoming::SubAck(answer) => {
                    if let Some(why) = refusals(&answer).next() {
                        return Err(call.denied(&format!("{why:?}")));
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
struct Call {
    options: Options,
    progress: Progress,
    client: AsyncClient,
    events: EventLoop,
}

impl Call {
    fn start(mut options: Options, purpose: &str) -> Self {
        options.client_id = format!("{}-{purpose}-{}", options.client_id, std::process::id());
        let progress = Progress::default();
        let (client, events) = AsyncClient::builder(bare_options(&options, &progress)).build();
        Self { options, progress, client, events }
    }

    async fn next(&mut self) -> Result<Incoming, String> {
        loop {
            match self.events.poll().await {
                Ok(Event::Incoming(incoming)) => return Ok(incoming),
                Ok(_) => {}
                Err(error) => return Err(Trouble::explain(&error, &self.progress, &self.options).text),
            }
        }
    }

    /// The answer is there; whether the goodbye arrives makes no difference to it.
    async fn end(&mut self) {
        let _ = self.client.try_disconnect();
        let _ = tokio::time::timeout(GOODBYE, async { while self.events.poll().await.is_ok() {} }).await;
    }

    fn denied(&self, why: &str) -> String {
        let Options { host, port, base_topic, .. } = &self.options;
        let text = format!(
            "the broker at {host}:{port}: it does not let us subscribe below {base_topic}/ ({why}): allow the user \
             in mqtt.username to read there"
        );
        Trouble::new(Kind::Refused, text).text
    }
}
