//! What this broker does differently, asked directly: small clients without any site.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rumqttc::{
    ConnAck, ConnectionError, Event, LastWill, LastWillProperties, MqttOptions, Packet, PublishOptions, QoS,
    StateError, SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::audit;
use super::client;
use super::cluster::{self, Cluster};
use super::process::Fault;
use super::raw;

/// The longest wait for what should come at once.
const SOON: Duration = Duration::from_secs(5);
/// The delay of a delayed will, in seconds.
const WILL_DELAY: u32 = 2;
/// Nothing comes any more after this time.
const NEVER: Duration = Duration::from_secs(15);
/// The session of a client that wants to be remembered, in seconds.
const SESSION: u32 = 60;

/// A question, and what was found.
pub(crate) struct Fact {
    question: &'static str,
    found: String,
}

/// Asks all questions. The first node is killed and started again.
pub(crate) async fn ask(cluster: &mut Cluster) -> Result<Vec<Fact>, Fault> {
    let mut facts = vec![
        Fact { question: "limits in the CONNACK", found: limits(cluster).await? },
        Fact { question: "a retained message, published at n1", found: retained(cluster).await? },
        Fact {
            question: "a retained will of a client at n1 that is cut off",
            found: will(cluster, None).await?,
        },
        Fact { question: "the same with a delay of 2 s", found: will(cluster, Some(WILL_DELAY)).await? },
        Fact { question: "a client id at n1 connects at n2", found: takeover(cluster).await? },
        Fact { question: "a shared subscription", found: shared(cluster).await? },
        Fact {
            question: "a session of 60 s that began at n1, resumed at n3",
            found: session(cluster, false).await?,
        },
    ];
    facts.push(Fact { question: "the same after n1 was killed", found: session(cluster, true).await? });
    facts.push(Fact {
        question: "wills of clients at n1 when n1 is killed",
        found: wills_of_the_dead(cluster).await?,
    });
    Ok(facts)
}

/// All facts as Markdown.
pub(crate) fn table(facts: &[Fact]) -> String {
    let mut text = String::from("| asked | found |\n| --- | --- |\n");
    for Fact { question, found } in facts {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "| {question} | {found} |");
    }
    text
}

async fn limits(cluster: &Cluster) -> Result<String, Fault> {
    let probe = Probe::connect(cluster, "limits", 0, |_| {}).await?;
    let Some(properties) = &probe.greeting.properties else { return Ok("none".to_owned()) };
    let number = |value: Option<u64>| value.map_or_else(|| "not said".to_owned(), |value| value.to_string());
    let may = |value: Option<u8>| match value {
        Some(0) => "no",
        _ => "yes",
    };
    Ok(format!(
        "receive maximum {}, largest packet {}, topic aliases {}, largest QoS {}, retained {}, wildcards {}, shared \
         subscriptions {}",
        number(properties.receive_max.map(u64::from)),
        number(properties.max_packet_size.map(u64::from)),
        number(properties.topic_alias_max.map(u64::from)),
        number(properties.max_qos.map(u64::from)),
        may(properties.retain_available),
        may(properties.wildcard_subscription_available),
        may(properties.shared_subscription_available),
    ))
}

async fn retained(cluster: &Cluster) -> Result<String, Fault> {
    let publisher = Probe::connect(cluster, "publisher", 0, |_| {}).await?;
    publisher.publish("facts/retained", "kept").await?;
    let mut found = Vec::new();
    for (node, filter) in [(0, "facts/retained"), (0, "facts/+"), (1, "facts/retained")] {
        let messages = audit::read(node, &cluster.password, &[filter.to_owned()]).await?;
        let word = if messages.is_empty() { "nothing" } else { "the message" };
        found.push(format!("`{filter}` at {}: {word}", cluster::name(node)));
    }
    Ok(found.join("; "))
}

async fn will(cluster: &Cluster, delay: Option<u32>) -> Result<String, Fault> {
    let topic = if delay.is_some() { "facts/delayed" } else { "facts/will" };
    let mut listener = Probe::listen(cluster, "listener", 1, topic).await?;
    let dying = Probe::connect(cluster, "dying", 0, |options| with_will(options, topic, delay)).await?;
    dying.publish(topic, "online").await?;
    listener.hears(topic, "online", SOON).await.ok_or("what was published is not heard")?;
    drop(dying);
    let cut = Instant::now();
    let heard = match listener.hears(topic, "offline", NEVER).await {
        Some(at) => format!("heard at n2 after {:.1} s", (at - cut).as_secs_f64()),
        None => format!("not heard at n2 within {NEVER:?}"),
    };
    let messages = audit::read(0, &cluster.password, &[topic.to_owned()]).await?;
    let kept = messages.get(topic).map_or("nothing".into(), |payload| String::from_utf8_lossy(payload));
    Ok(format!("{heard}; n1 then retains `{kept}`"))
}

async fn takeover(cluster: &Cluster) -> Result<String, Fault> {
    let mut first = Probe::connect(cluster, "twin", 0, |_| {}).await?;
    let begun = Instant::now();
    let _second = Probe::connect(cluster, "twin", 1, |_| {}).await?;
    Ok(match first.ends(SOON).await {
        Some((reason, at)) => {
            format!(
                "the connection at n1 ends after {} ms: {reason}",
                (at.saturating_duration_since(begun)).as_millis()
            )
        }
        None => format!("both stay connected for {SOON:?}"),
    })
}

async fn shared(cluster: &Cluster) -> Result<String, Fault> {
    match Probe::listen(cluster, "member", 0, "$share/group/facts/shared").await {
        Ok(mut member) => {
            let publisher = Probe::connect(cluster, "publisher", 0, |_| {}).await?;
            publisher.publish("facts/shared", "one").await?;
            let heard = member.hears("facts/shared", "one", SOON).await;
            Ok(format!("accepted, and messages {}", if heard.is_some() { "come" } else { "do not come" }))
        }
        Err(fault) => Ok(format!("refused: {fault}")),
    }
}

async fn session(cluster: &mut Cluster, node_dies: bool) -> Result<String, Fault> {
    let topic = if node_dies { "facts/session/2" } else { "facts/session/1" };
    let id = if node_dies { "rememberer-2" } else { "rememberer-1" };
    let client = Probe::connect(cluster, id, 0, with_session).await?;
    client.subscribe(topic).await?;
    drop(client);
    let publisher = Probe::connect(cluster, "publisher", 1, |_| {}).await?;
    publisher.publish(topic, "meanwhile").await?;
    if node_dies {
        cluster.kill(0).await?;
    }
    let found = raw::resume(id, 2, &cluster.password, SESSION).await?;
    if node_dies {
        cluster.begin(0)?;
        cluster.are_up(&[0]).await?;
    }
    Ok(found)
}

async fn wills_of_the_dead(cluster: &mut Cluster) -> Result<String, Fault> {
    let mut found = Vec::new();
    let mut listener = Probe::listen(cluster, "listener", 1, "facts/dead/+").await?;
    let at_once =
        Probe::connect(cluster, "dying-1", 0, |options| with_will(options, "facts/dead/1", None)).await?;
    let delayed =
        Probe::connect(cluster, "dying-2", 0, |options| with_will(options, "facts/dead/2", Some(WILL_DELAY)))
            .await?;
    cluster.kill(0).await?;
    for (topic, word) in [("facts/dead/1", "at once"), ("facts/dead/2", "delayed")] {
        let heard = listener.hears(topic, "offline", NEVER / 2).await;
        found.push(format!("{word}: {}", if heard.is_some() { "heard" } else { "never heard" }));
    }
    drop((at_once, delayed));
    cluster.begin(0)?;
    cluster.are_up(&[0]).await?;
    let mut late = 0;
    for topic in ["facts/dead/1", "facts/dead/2"] {
        late += usize::from(listener.hears(topic, "offline", SOON / 2).await.is_some());
    }
    found.push(format!("{late} of them after its return"));
    Ok(found.join("; "))
}

/// The session outlives the connection.
fn with_session(options: &mut MqttOptions) {
    let mut properties = options.connect_properties().unwrap_or_default();
    properties.session_expiry_interval = Some(SESSION);
    options.set_connect_properties(properties);
}

fn with_will(options: &mut MqttOptions, topic: &str, delay: Option<u32>) {
    with_session(options);
    let properties = LastWillProperties {
        delay_interval: delay,
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    options.set_last_will(LastWill::new(topic, "offline", QoS::AtLeastOnce, true, Some(properties)));
}

/// A client that does one thing. It is cut off when it is dropped.
struct Probe {
    client: rumqttc::AsyncClient,
    greeting: ConnAck,
    events: mpsc::UnboundedReceiver<Result<Packet, String>>,
    task: JoinHandle<()>,
}

impl Probe {
    async fn connect(
        cluster: &Cluster,
        id: &str,
        node: usize,
        change: impl FnOnce(&mut MqttOptions),
    ) -> Result<Self, Fault> {
        let (client, mut events) = client::open(id, node, &cluster.password, change);
        let (tell, mut heard) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let said = match events.poll().await {
                    Ok(Event::Incoming(packet)) => Ok(packet),
                    Ok(_) => continue,
                    Err(error) => Err(words(&error)),
                };
                let is_over = said.is_err();
                if tell.send(said).is_err() || is_over {
                    return;
                }
            }
        });
        match tokio::time::timeout(SOON, heard.recv()).await {
            Ok(Some(Ok(Packet::ConnAck(greeting)))) => Ok(Self { client, greeting, events: heard, task }),
            Ok(Some(Err(error))) => Err(error.into()),
            _ => Err(format!("no connection to {}", cluster::name(node)).into()),
        }
    }

    async fn listen(cluster: &Cluster, id: &str, node: usize, filter: &str) -> Result<Self, Fault> {
        let mut probe = Self::connect(cluster, id, node, |_| {}).await?;
        probe.client.try_subscribe(filter, QoS::AtLeastOnce)?;
        match tokio::time::timeout(SOON, probe.events.recv()).await {
            Ok(Some(Ok(Packet::SubAck(answer)))) => match answer.return_codes.first() {
                Some(SubscribeReasonCode::Success(_)) => Ok(probe),
                code => Err(format!("{code:?}").into()),
            },
            Ok(Some(Err(error))) => Err(error.into()),
            other => Err(format!("no answer to a subscription: {other:?}").into()),
        }
    }

    /// Subscribes, and waits for a moment in which the broker has taken it.
    async fn subscribe(&self, filter: &str) -> Result<(), Fault> {
        let notice = self.client.try_subscribe_tracked(filter, QoS::AtLeastOnce)?;
        tokio::time::timeout(SOON, notice.wait_async())
            .await
            .map_err(|_| "a subscription is not answered")??;
        Ok(())
    }

    /// Publishes a retained message, and waits until it is acknowledged.
    async fn publish(&self, topic: &str, payload: &str) -> Result<(), Fault> {
        let options = PublishOptions::at_least_once().retain(true);
        let notice = self.client.try_publish_tracked(topic, payload.to_owned(), options)?;
        tokio::time::timeout(SOON, notice.wait_async())
            .await
            .map_err(|_| "a message is not acknowledged")??;
        Ok(())
    }

    /// Waits for a message. Returns when it came.
    async fn hears(&mut self, topic: &str, payload: &str, within: Duration) -> Option<Instant> {
        let wait = async {
            while let Some(Ok(packet)) = self.events.recv().await {
                if let Packet::Publish(message) = packet
                    && message.topic == topic.as_bytes()
                    && message.payload == payload.as_bytes()
                {
                    return Some(Instant::now());
                }
            }
            None
        };
        tokio::time::timeout(within, wait).await.ok().flatten()
    }

    /// Waits for the end of the connection. Returns what the broker said.
    async fn ends(&mut self, within: Duration) -> Option<(String, Instant)> {
        let wait = async {
            while let Some(said) = self.events.recv().await {
                if let Err(error) = said {
                    return Some((error, Instant::now()));
                }
            }
            None
        };
        tokio::time::timeout(within, wait).await.ok().flatten()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What ended a connection, or refused it.
fn words(error: &ConnectionError) -> String {
    match error {
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            format!("{reason_code:?} ({:#04X})", *reason_code as u8)
        }
        error => error.to_string(),
    }
}
