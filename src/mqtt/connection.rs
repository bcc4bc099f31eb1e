//! The task that keeps the connection: connects, subscribes, carries what the desk has to send, and starts over.
//!
//! Each connection has an event loop of its own, so that nothing which was handed to one can come out of the next.
//! While a connection is being waited for, the daemon's words are taken all the same: they only change the table.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::{
    AsyncClient, Broker, ClientError, ConnAck, ConnectProperties, ConnectionError, DisconnectReasonCode,
    EventLoop, Incoming, LastWill, LastWillProperties, MqttOptions, Outgoing as Sent, PubAck, PubAckReason,
    Publish, PublishOptions, PublishProperties, QoS, RetainForwardRule, SubAck, SubscribeFilterInput,
    SubscribeReasonCode,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep_until;

use super::failure::reason::FailureReason;
use super::failure::{
    LONGEST_WAIT, LinkFailure, Reconnect, RepeatedFailure, SAID, STABLE, Unacknowledged, share,
};
use super::payload::Clock;
use super::socket::{self, ConnectProgress};
use super::state::{Effect, Message, MqttState, Outgoing};
use super::topics::Topics;
use super::{Inbound, LinkRequest, MqttSettings};
use crate::bridge::event::IdAllocator;
use crate::model::shown;
use crate::secret::{RefusedLogins, Secret};

/// A broker that has not answered a subscription by then is told the states all the same.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(3);
/// Rights that were denied may have been granted in the meantime: so often that is tried.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// A broker that acknowledges nothing for this long, although something waits for it, never will on this connection.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(15);
/// Half of what it takes to notice a broker that went away without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// From dialling to the broker's first word.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the broker keeps the last will back after a connection broke.
const WILL_DELAY: u32 = 5;
/// How long the broker remembers us; only so that the will's delay counts.
const SESSION_EXPIRY: u32 = 10;
/// The largest packet that we take, in bytes: a message of 64 kB is refused with an answer rather than unseen.
const LARGEST_PACKET: u32 = 128 * 1024;
/// Acknowledgements that may be outstanding; the broker's own limit goes first.
const IN_FLIGHT: u16 = 100;
/// Values that may wait inside the event loop. Few, since they are no longer the latest when they wait.
const MAX_HANDED_OVER: usize = 64;
/// `bridge/state` turns `online` after this time even if the first round of reads is not done.
const ONLINE_AFTER: Duration = Duration::from_secs(3);
/// How long what is kept may take to come by after a connect.
const SEARCH: Duration = Duration::from_secs(2);
/// What Home Assistant is given to take over entities from one document into another.
const MOVE: Duration = Duration::from_secs(3);
/// Home Assistant has everything again within ten seconds of its birth message: the longest wait, and the shortest.
const BIRTH_SPREAD: Duration = Duration::from_secs(7);
const BIRTH_FIRST: Duration = Duration::from_secs(1);
/// Words of the daemon that are taken in one go before the network has its turn.
const REQUESTS_AT_ONCE: usize = 1024;
/// What a packet has beside topic, payload and correlation data, generously.
const PACKET_OVERHEAD: usize = 32;
/// Reasons for which a broker does not take a message, as MQTT 5 numbers them.
pub(super) const NOT_AUTHORIZED: u8 = 0x87;
const TOPIC_NAME_INVALID: u8 = 0x90;
const PACKET_TOO_LARGE: u8 = 0x95;
const QUOTA_EXCEEDED: u8 = 0x97;
const REFUSED_BEFORE: &str =
    "it refused this name and password before the reload, so the next try is in a minute";
/// So many messages that the broker refuses are named on one connection, so that a broker that refuses all of them does
/// not fill the log.
const NAMED_REFUSALS: u32 = 10;

/// Owns the desk and carries between it and the broker.
pub(super) struct ConnectionTask {
    options: MqttSettings,
    state: MqttState,
    requests: mpsc::UnboundedReceiver<LinkRequest>,
    inbound: mpsc::UnboundedSender<Inbound>,
    /// Logins that brokers have refused, over all links of this process.
    refused: RefusedLogins,
    reconnect: Reconnect,
    repeated: RepeatedFailure,
    /// What was last said to the daemon of the connection.
    told: Option<Result<(), String>>,
    /// When `bridge/state` turns `online` at the latest; none once it has.
    online_at: Option<Instant>,
    /// When everything is said again for a Home Assistant that has started.
    announce_at: Option<Instant>,
    births: u64,
    shutdown: Option<ShutdownRequest>,
}

/// The daemon wants to go.
struct ShutdownRequest {
    by: Instant,
    done: oneshot::Sender<()>,
}

/// How a connection ended.
enum Disconnect {
    /// On request, or because nobody is left to serve.
    Stopped,
    /// For this reason, after it had stood for so long, none if it never did; and the message that the broker had yet to
    /// acknowledge, which may be the reason.
    Lost(LinkFailure, Option<Duration>, Option<Unacknowledged>),
}

/// What is known of one connection.
struct Connection {
    client: AsyncClient,
    since: Option<Instant>,
    /// The first subscription, whose answer tells whether commands can be heard.
    commands: Option<u16>,
    /// Whether that answer is there. A plug is not shown as there before commands to it are heard.
    hears: bool,
    /// When a subscription that was denied is asked for again.
    ask_again_at: Option<Instant>,
    search_until: Option<Instant>,
    /// The filters of the search, for as long as they are subscribed to.
    searched: Vec<String>,
    /// When entities have had the time to move; none while none do.
    moved_at: Option<Instant>,
    progress: ConnectProgress,
    limits: BrokerLimits,
    /// Messages that the client library has yet to send, in their order.
    handed_over: VecDeque<PublishInFlight>,
    /// Messages that were sent and that the broker has yet to acknowledge, with their packet ids, the oldest first.
    in_flight: VecDeque<(u16, PublishInFlight)>,
    /// Publishes that the broker has yet to acknowledge, sent or not.
    unacknowledged: usize,
    /// How many messages that the broker refuses were named in the log.
    refusals: u32,
    /// Since when nothing was acknowledged; none while nothing waits for it.
    unheard_since: Option<Instant>,
    is_leaving: bool,
}

/// A message on its way to the broker.
#[derive(Debug)]
struct PublishInFlight {
    topic: PublishTopic,
    /// The length of its payload.
    size: usize,
}

/// Where a message goes: to a topic of the table, or to one of its own.
#[derive(Debug)]
enum PublishTopic {
    Retained(Arc<str>),
    Own(String),
}

impl PublishInFlight {
    fn topic(&self) -> &str {
        match &self.topic {
            PublishTopic::Retained(topic) => topic,
            PublishTopic::Own(topic) => topic,
        }
    }
}

/// What the broker said that it takes.
pub(super) struct BrokerLimits {
    pub(super) packet: usize,
    pub(super) qos: QoS,
    pub(super) keeps: bool,
}

impl ConnectionTask {
    pub(super) fn new(
        options: MqttSettings,
        ids: IdAllocator,
        refused: RefusedLogins,
        words: mpsc::UnboundedReceiver<LinkRequest>,
        inbound: mpsc::UnboundedSender<Inbound>,
    ) -> Self {
        Self {
            state: MqttState::new(&options, ids, Clock::now()),
            reconnect: Reconnect::new(&options.instance),
            options,
            refused,
            requests: words,
            inbound,
            repeated: RepeatedFailure::default(),
            told: None,
            online_at: Some(Instant::now() + ONLINE_AFTER),
            announce_at: None,
            births: 0,
            shutdown: None,
        }
    }

    /// Connects for as long as somebody wants it.
    pub(super) async fn run(mut self) {
        let mut goes_on = self.rest_after_refusal().await;
        while goes_on {
            let end = self.connection().await;
            self.state.disconnected();
            let Disconnect::Lost(failure, lasted, suspect) = end else { break };
            if lasted.is_some_and(|lasted| lasted >= STABLE) {
                self.state.trust_again();
            }
            if failure.reason == FailureReason::LoginRefused
                && let Some((broker, username, password)) = login(&self.options)
            {
                self.refused.add(&broker, username, password);
            }
            let verdict = self.reconnect.weigh(failure, lasted, suspect, &self.options);
            if let Some(message) = verdict.blamed {
                self.state.blame(&message.topic);
            }
            self.complain(verdict.failure.text);
            goes_on = self.shutdown.is_none() && self.rest(verdict.wait).await;
        }
        if let Some(goodbye) = self.shutdown {
            // Nobody need wait for it.
            let _ = goodbye.done.send(());
        }
    }

    /// A login that the broker refused before a reload does not go out again for the reload's sake, or reloads would
    /// have the broker lock us out. False if there is nothing to connect for any more.
    async fn rest_after_refusal(&mut self) -> bool {
        let is_refused = |(broker, username, password): (String, &str, &Secret)| {
            self.refused.contains(&broker, username, password)
        };
        if !login(&self.options).is_some_and(is_refused) {
            return true;
        }
        self.complain(LinkFailure::of(FailureReason::LoginRefused, REFUSED_BEFORE, &self.options).text);
        self.rest(LONGEST_WAIT).await
    }

    /// One connection, from dialling to its end.
    async fn connection(&mut self) -> Disconnect {
        let progress = ConnectProgress::default();
        let (client, mut events) = AsyncClient::builder(mqtt_options(&self.options, &progress, "offline"))
            .capacity(MAX_HANDED_OVER)
            .build();
        let mut line = Connection::new(client, progress);
        loop {
            let event = match self.next_event(&mut events, &mut line).await {
                Ok(event) => event,
                Err(end) => return end,
            };
            match event {
                Ok(rumqttc::Event::Incoming(Incoming::Publish(message))) => {
                    if self.hear(&message) {
                        // A command is carried out before its line is looked after.
                        yield_now().await;
                    }
                }
                Ok(event) => self.handle_event(event, &mut line),
                Err(ConnectionError::RequestsDone) => return Disconnect::Stopped,
                Err(_) if line.is_leaving => return Disconnect::Stopped,
                Err(error) => {
                    return line.lost(LinkFailure::explain_with_will(&error, &line.progress, &self.options));
                }
            }
            self.handle_time(&mut line);
            self.send(&mut line);
        }
    }

    /// Waits for the connection's next event, and meanwhile takes the daemon's words and watches the clock. The
    /// wait itself is never broken off but for good: half a packet may be on its way.
    async fn next_event(
        &mut self,
        events: &mut EventLoop,
        line: &mut Connection,
    ) -> Result<Result<rumqttc::Event, ConnectionError>, Disconnect> {
        // With a keep-alive there is an event at least once in its interval, unless the network takes no more.
        let keep_alive = events.options.keep_alive();
        let patience = if keep_alive.is_zero() { Duration::MAX } else { keep_alive.max(KEEP_ALIVE) * 2 };
        let mut silence = pin!(tokio::time::sleep(patience));
        let mut poll = pin!(events.poll());
        loop {
            let next_time = self.next_time(line);
            tokio::select! {
                event = &mut poll => return Ok(event),
                word = self.requests.recv() => {
                    let Some(word) = word else { return Err(Disconnect::Stopped) };
                    self.take_words(word);
                    if self.shutdown.is_some() && line.since.is_none() {
                        return Err(Disconnect::Stopped);
                    }
                }
                () = sleep_until(next_time.into()) => {
                    let now = Instant::now();
                    if self.shutdown.as_ref().is_some_and(|goodbye| goodbye.by <= now) {
                        return Err(Disconnect::Stopped);
                    }
                    if line.unheard_since.is_some_and(|since| since + ACKNOWLEDGED_WITHIN <= now) {
                        return Err(line.lost(LinkFailure::unacknowledged(&self.options)));
                    }
                }
                () = &mut silence => {
                    return Err(line.lost(LinkFailure::silent(&self.options)));
                }
            }
            self.handle_time(line);
            self.send(line);
        }
    }

    /// Waits before the next try; false if there is to be none.
    async fn rest(&mut self, wait: Duration) -> bool {
        let mut wait = pin!(tokio::time::sleep(wait));
        loop {
            tokio::select! {
                () = &mut wait => return true,
                word = self.requests.recv() => {
                    let Some(word) = word else { return false };
                    self.take_words(word);
                    if self.shutdown.is_some() {
                        return false;
                    }
                }
            }
        }
    }

    fn take_words(&mut self, first: LinkRequest) {
        self.take_word(first);
        for _ in 1..REQUESTS_AT_ONCE {
            let Ok(word) = self.requests.try_recv() else { break };
            self.take_word(word);
        }
    }

    fn take_word(&mut self, word: LinkRequest) {
        match word {
            LinkRequest::Publish(update, clock) => self.state.handle_update(*update, clock),
            LinkRequest::Stop(within, done) => {
                self.online_at = None;
                self.state.mark_offline();
                self.shutdown = Some(ShutdownRequest { by: Instant::now() + within, done });
            }
        }
    }

    fn handle_event(&mut self, event: rumqttc::Event, line: &mut Connection) {
        match event {
            rumqttc::Event::Incoming(Incoming::ConnAck(welcome)) => self.greet(&welcome, line),
            rumqttc::Event::Incoming(Incoming::SubAck(answer)) => self.check_subscriptions(&answer, line),
            rumqttc::Event::Incoming(Incoming::PubAck(answer)) => self.check_publish(&answer, line),
            rumqttc::Event::Outgoing(Sent::Publish(id)) => line.sent(id),
            rumqttc::Event::Outgoing(Sent::Subscribe(id)) => {
                line.commands.get_or_insert(id);
            }
            _ => {}
        }
    }

    /// The connection stands: listen, look for leftovers, say everything.
    fn greet(&mut self, welcome: &ConnAck, line: &mut Connection) {
        if let Some((broker, username, password)) = login(&self.options) {
            self.refused.remove(&broker, username, password);
        }
        line.since = Some(Instant::now());
        line.limits = BrokerLimits::of(welcome);
        if !line.limits.keeps {
            let text = format!(
                "the broker at {}:{}: it keeps no messages, so that whoever connects later sees no plug: \
                 allow retained messages there",
                self.options.host, self.options.port
            );
            self.repeated.warn(&text, Instant::now());
        }
        self.subscribe(line, self.state.filters(), command_filter);
        self.search(line);
        self.state.connected();
    }

    /// Looks for what earlier runs left behind, unless that was done already.
    fn search(&self, line: &mut Connection) {
        let filters = self.state.search_filters();
        if filters.is_empty() {
            return;
        }
        line.search_until = Some(Instant::now() + SEARCH);
        // A courtesy must not cost the connection at a broker that takes small packets only.
        let size: usize = filters.iter().map(|filter| filter.len() + PACKET_OVERHEAD).sum();
        if size <= line.limits.packet {
            self.subscribe(line, filters.clone(), search_filter);
            line.searched = filters;
        }
    }

    fn subscribe(&self, line: &Connection, filters: Vec<String>, how: fn(String) -> SubscribeFilterInput) {
        // There is room at a connection's start, when nothing else has been handed over on it, and nearly always later.
        if let Err(error) = line.client.try_subscribe_many(filters.into_iter().map(how)) {
            tracing::error!("cannot subscribe at the broker: {error}: no command is heard; restart hs100d");
        }
    }

    fn check_subscriptions(&mut self, answer: &SubAck, line: &mut Connection) {
        if line.commands != Some(answer.pkid) {
            // The search is a courtesy; a broker that does not allow it keeps what is left behind.
            if let Some(refusal) = refusals(answer).next() {
                tracing::debug!("the broker does not let us look for leftovers ({refusal:?})");
            }
            return;
        }
        line.hears = true;
        let filters = self.state.filters();
        let denied: Vec<&str> = answer
            .return_codes
            .iter()
            .zip(&filters)
            .filter(|(code, _)| !matches!(code, SubscribeReasonCode::Success(_)))
            .map(|(_, filter)| filter.as_str())
            .collect();
        if denied.is_empty() {
            self.tell(Ok(()));
            return;
        }
        line.ask_again_at = Some(Instant::now() + ASK_AGAIN);
        let MqttSettings { host, port, .. } = &self.options;
        self.complain(format!(
            "the broker at {host}:{port}: it does not let us subscribe to {}: what is sent there is not heard until \
             the user in mqtt.username may read these topics",
            denied.join(", ")
        ));
    }

    fn check_publish(&mut self, answer: &PubAck, line: &mut Connection) {
        line.unacknowledged = line.unacknowledged.saturating_sub(1);
        line.unheard_since = (line.unacknowledged > 0).then(Instant::now);
        let message = line.acknowledged(answer.pkid);
        let Some(code) = refusal(answer, &line.progress) else { return };
        let Some(PublishInFlight { topic, size }) = message else { return };
        let topic = match topic {
            PublishTopic::Retained(topic) => {
                // A value that was sent since has an answer of its own to come.
                if !line.carries(&topic) {
                    self.state.refused(&topic);
                }
                topic
            }
            PublishTopic::Own(topic) => topic.into(),
        };
        let said = answer.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
        self.name_refusal(&topic, size, code, said, line);
    }

    /// Says which message the broker does not take.
    fn name_refusal(
        &mut self,
        topic: &str,
        size: usize,
        code: u8,
        said: Option<&str>,
        line: &mut Connection,
    ) {
        let MqttSettings { host, port, base_topic, homeassistant, .. } = &self.options;
        let remedy = match code {
            NOT_AUTHORIZED => format!(
                "allow the user in mqtt.username to write to {base_topic}/# and {}/#",
                homeassistant.discovery_prefix
            ),
            TOPIC_NAME_INVALID => "allow the topic there, or set another mqtt.base_topic".to_owned(),
            PACKET_TOO_LARGE => {
                "raise its limit on the size of messages (in mosquitto message_size_limit)".to_owned()
            }
            QUOTA_EXCEEDED => "raise its limit on (retained) messages".to_owned(),
            _ => "see its own log".to_owned(),
        };
        let reason = reason_text(code);
        let said = said.map(|words| format!(", saying \"{}\"", shown(words, SAID))).unwrap_or_default();
        let text = format!(
            "the broker at {host}:{port}: it does not take the message of {size} bytes at {topic} ({reason}{said}): \
             {remedy}; until it changes it is left out on this connection"
        );
        if line.refusals < NAMED_REFUSALS {
            line.refusals +=
                u32::from(self.repeated.warn_of(&format!("{topic} {code}"), &text, Instant::now()));
            return;
        }
        tracing::debug!("{text}");
        let text = format!(
            "the broker at {host}:{port}: it does not take more messages of ours: hs100d -v names each in the log"
        );
        self.repeated.warn(&text, Instant::now());
    }

    /// Takes a message; says whether something was handed on to the daemon.
    fn hear(&mut self, message: &Publish) -> bool {
        let Ok(topic) = std::str::from_utf8(&message.topic) else { return false };
        let properties = message.properties.as_ref();
        let effect = self.state.handle_message(
            Message {
                topic,
                payload: &message.payload,
                retained: message.retain,
                response_topic: properties.and_then(|p| p.response_topic.as_deref()),
                correlation: properties.and_then(|p| p.correlation_data.as_ref()),
            },
            Instant::now(),
        );
        match effect {
            Effect::None => false,
            // Otherwise nobody receives any more: the daemon is going.
            Effect::Inbound(inbound) => self.inbound.send(inbound).is_ok(),
            Effect::Birth => {
                self.plan_announcement();
                false
            }
        }
    }

    /// Not at once, since every bridge in the house hears the same birth message.
    fn plan_announcement(&mut self) {
        self.births += 1;
        let wait = BIRTH_FIRST + share(BIRTH_SPREAD, &self.options.instance, self.births);
        self.announce_at.get_or_insert(Instant::now() + wait);
    }

    /// The next moment at which something is due on this side.
    fn next_time(&self, line: &Connection) -> Instant {
        let now = Instant::now();
        let after = |wait| line.since.map(|since| since + wait).filter(|at| *at > now);
        [
            self.online_at,
            self.announce_at,
            line.ask_again_at,
            line.search_until,
            line.moved_at,
            line.unheard_since.map(|since| since + ACKNOWLEDGED_WITHIN),
            after(STABLE),
            after(SUBSCRIBED_WITHIN),
            self.shutdown.as_ref().map(|g| g.by),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(now + KEEP_ALIVE)
    }

    fn handle_time(&mut self, line: &mut Connection) {
        let now = Instant::now();
        if self.online_at.take_if(|at| *at <= now).is_some() {
            self.state.show_online();
        }
        if self.announce_at.take_if(|at| *at <= now).is_some() {
            tracing::debug!("saying everything again for Home Assistant, which has started");
            self.state.announce_again();
        }
        if line.ask_again_at.take_if(|at| *at <= now).is_some() {
            line.commands = None;
            self.subscribe(line, self.state.filters(), command_filter);
        }
        if line.search_until.take_if(|at| *at <= now).is_some() {
            self.end_search(line);
        }
        if line.moved_at.take_if(|at| *at <= now).is_some() {
            self.state.end_migration();
        }
        if line.since.is_some_and(|since| now >= since + STABLE) && self.told == Some(Ok(())) {
            self.repeated.rest();
        }
    }

    fn end_search(&mut self, line: &mut Connection) {
        self.state.end_search();
        let filters = std::mem::take(&mut line.searched);
        if !filters.is_empty()
            && let Err(error) = line.client.try_unsubscribe_many(filters)
        {
            tracing::debug!("cannot end the search for leftovers: {error}");
        }
    }

    /// Hands over what the desk has, as far as there is room.
    fn send(&mut self, line: &mut Connection) {
        let answer_by = line.since.map(|since| since + SUBSCRIBED_WITHIN);
        let may_speak = answer_by.is_some_and(|by| line.hears || by <= Instant::now());
        if !may_speak || line.is_leaving {
            return;
        }
        while let Some(outgoing) = self.state.take() {
            match line.hand_over(&outgoing) {
                Handed::Over => line.handed_over.push_back(outgoing.into()),
                Handed::NoRoom => return self.state.requeue(outgoing),
                Handed::TooLarge(size) => self.refuse_size(&outgoing, size, line.limits.packet),
                Handed::Impossible => tracing::debug!("cannot be published: {outgoing:?}"),
            }
        }
        if self.state.is_migrating() {
            line.moved_at.get_or_insert_with(|| Instant::now() + MOVE);
        }
        if self.shutdown.is_some() && line.unacknowledged == 0 {
            line.leave();
        }
    }

    fn refuse_size(&mut self, outgoing: &Outgoing, size: usize, limit: usize) {
        let topic = match outgoing {
            Outgoing::Retained(kept) => &*kept.topic,
            Outgoing::Transient(transient) => &transient.topic,
        };
        let MqttSettings { host, port, .. } = &self.options;
        let text = format!(
            "the broker at {host}:{port}: it takes packets of {limit} bytes at most, and the one for {topic} has \
             {size}: raise its limit (in mosquitto max_packet_size)"
        );
        self.repeated.warn_of(topic, &text, Instant::now());
    }

    fn complain(&mut self, text: String) {
        self.repeated.warn(&text, Instant::now());
        self.tell(Err(text));
    }

    /// Says to the daemon how the connection is, if that is news.
    fn tell(&mut self, now: Result<(), String>) {
        if self.told.as_ref() == Some(&now) {
            return;
        }
        if now.is_ok() {
            self.repeated.inform(
                &format!(
                    "connected to the broker at {host}:{port}",
                    host = self.options.host,
                    port = self.options.port
                ),
                Instant::now(),
            );
        }
        self.told = Some(now.clone());
        // Nobody receives any more: the daemon is going.
        let _ = self.inbound.send(Inbound::Link(now));
    }
}

/// The broker, and the name and password that it is sent; none if it is sent no password.
fn login(options: &MqttSettings) -> Option<(String, &str, &Secret)> {
    let MqttSettings { host, port, username, password, .. } = options;
    let password = password.as_ref()?;
    Some((format!("mqtt://{host}:{port}"), username.as_deref().unwrap_or_default(), password))
}

impl From<Outgoing> for PublishInFlight {
    fn from(outgoing: Outgoing) -> Self {
        match outgoing {
            Outgoing::Retained(kept) => {
                Self { topic: PublishTopic::Retained(kept.topic), size: kept.payload.len() }
            }
            Outgoing::Transient(transient) => {
                Self { topic: PublishTopic::Own(transient.topic), size: transient.payload.len() }
            }
        }
    }
}

/// The reason with which the broker refuses a message; none if it takes it.
pub(super) fn refusal(answer: &PubAck, progress: &ConnectProgress) -> Option<u8> {
    let is_taken = matches!(answer.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
    progress.take_reason(answer.pkid).or((!is_taken).then_some(answer.reason as u8))
}

/// The name of a reason as MQTT 5 has it, and its number.
pub(super) fn reason_text(code: u8) -> String {
    match DisconnectReasonCode::try_from(code) {
        Ok(reason) => format!("{reason:?}, {code:#04X}"),
        Err(_) => format!("reason {code:#04X}"),
    }
}

/// What became of something that was to be sent.
enum Handed {
    Over,
    NoRoom,
    TooLarge(usize),
    Impossible,
}

impl Connection {
    fn new(client: AsyncClient, progress: ConnectProgress) -> Self {
        Self {
            client,
            progress,
            since: None,
            commands: None,
            hears: false,
            ask_again_at: None,
            search_until: None,
            searched: Vec::new(),
            moved_at: None,
            limits: BrokerLimits { packet: usize::MAX, qos: QoS::AtLeastOnce, keeps: true },
            handed_over: VecDeque::new(),
            in_flight: VecDeque::new(),
            unacknowledged: 0,
            refusals: 0,
            unheard_since: None,
            is_leaving: false,
        }
    }

    fn hand_over(&mut self, outgoing: &Outgoing) -> Handed {
        let (topic, payload, correlation, qos, keep) = match outgoing {
            Outgoing::Retained(kept) => {
                (&*kept.topic, kept.payload.clone(), None, kept.qos, self.limits.keeps)
            }
            Outgoing::Transient(transient) => {
                let payload = Bytes::copy_from_slice(&transient.payload);
                (transient.topic.as_str(), payload, transient.correlation.clone(), QoS::AtLeastOnce, false)
            }
        };
        let size = topic.len() + payload.len() + correlation.as_ref().map_or(0, Bytes::len) + PACKET_OVERHEAD;
        if size > self.limits.packet {
            return Handed::TooLarge(size);
        }
        let qos = if self.limits.qos == QoS::AtMostOnce { QoS::AtMostOnce } else { qos };
        let mut options = PublishOptions::new(qos).retain(keep);
        if let Some(correlation) = correlation {
            let properties =
                PublishProperties { correlation_data: Some(correlation), ..PublishProperties::default() };
            options = options.properties(properties);
        }
        match self.client.try_publish(topic, payload, options) {
            Ok(()) => {
                if qos != QoS::AtMostOnce {
                    self.unacknowledged += 1;
                    self.unheard_since.get_or_insert_with(Instant::now);
                }
                Handed::Over
            }
            Err(ClientError::RequestChannelFull(_)) => Handed::NoRoom,
            Err(_) => Handed::Impossible,
        }
    }

    /// The library has sent the next message, with this packet id; 0 if it will not be acknowledged.
    fn sent(&mut self, id: u16) {
        if let Some(message) = self.handed_over.pop_front()
            && id != 0
        {
            self.in_flight.push_back((id, message));
        }
    }

    /// The message with this packet id, which the broker has acknowledged.
    fn acknowledged(&mut self, id: u16) -> Option<PublishInFlight> {
        let at = self.in_flight.iter().position(|(known, _)| *known == id)?;
        self.in_flight.remove(at).map(|(_, message)| message)
    }

    /// Whether a message to this topic is on its way.
    fn carries(&self, topic: &str) -> bool {
        let mut all = self.in_flight.iter().map(|(_, message)| message).chain(&self.handed_over);
        all.any(|message| message.topic() == topic)
    }

    fn lost(&self, failure: LinkFailure) -> Disconnect {
        let in_flight = || self.in_flight.iter().map(|(_, message)| message);
        let suspect = if failure.reason == FailureReason::PacketTooLarge {
            in_flight().chain(&self.handed_over).max_by_key(|message| message.size)
        } else {
            in_flight().next()
        };
        let suspect =
            suspect.map(|message| Unacknowledged { topic: message.topic().to_owned(), size: message.size });
        Disconnect::Lost(failure, self.since.map(|since| since.elapsed()), suspect)
    }

    /// Everything is with the broker: a DISCONNECT, so that it drops the will.
    fn leave(&mut self) {
        self.is_leaving = self.client.try_disconnect().is_ok();
    }
}

impl BrokerLimits {
    pub(super) fn of(welcome: &ConnAck) -> Self {
        let said = welcome.properties.as_ref();
        let packet = said.and_then(|said| said.max_packet_size).and_then(|size| usize::try_from(size).ok());
        Self {
            packet: packet.unwrap_or(usize::MAX),
            qos: if said.and_then(|said| said.max_qos) == Some(0) {
                QoS::AtMostOnce
            } else {
                QoS::AtLeastOnce
            },
            keeps: said.and_then(|said| said.retain_available) != Some(0),
        }
    }
}

/// Never what the broker kept, and live messages without a mark that they will be kept.
pub(super) fn command_filter(filter: String) -> SubscribeFilterInput {
    SubscribeFilterInput::new(filter, QoS::AtLeastOnce)
        .preserve_retain(false)
        .retain_forward_rule(RetainForwardRule::Never)
}

fn search_filter(filter: String) -> SubscribeFilterInput {
    SubscribeFilterInput::new(filter, QoS::AtMostOnce).no_local(true).preserve_retain(false)
}

pub(super) fn refusals(answer: &SubAck) -> impl Iterator<Item = &SubscribeReasonCode> {
    answer.return_codes.iter().filter(|code| !matches!(code, SubscribeReasonCode::Success(_)))
}

/// A connection with this as its last will.
pub(super) fn mqtt_options(options: &MqttSettings, progress: &ConnectProgress, will: &str) -> MqttOptions {
    let mut mqtt = bare_options(options, progress);
    let will = LastWill::new(
        Topics::new(&options.base_topic).bridge_state(),
        will.to_owned(),
        QoS::AtLeastOnce,
        true,
        Some(LastWillProperties {
            delay_interval: Some(WILL_DELAY),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        }),
    );
    mqtt.set_last_will(will);
    mqtt
}

/// A connection without a will.
pub(super) fn bare_options(options: &MqttSettings, progress: &ConnectProgress) -> MqttOptions {
    let mut mqtt =
        MqttOptions::new(options.client_id.clone(), Broker::tcp(options.host.clone(), options.port));
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(SESSION_EXPIRY);
    properties.max_packet_size = Some(LARGEST_PACKET);
    mqtt.set_connect_properties(properties)
        .set_clean_start(true)
        .set_keep_alive(u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX))
        .set_connect_timeout(CONNECT_TIMEOUT)
        .set_outgoing_inflight_upper_limit(IN_FLIGHT);
    match (&options.username, &options.password) {
        (Some(name), Some(password)) => {
            mqtt.set_credentials(name.clone(), password.expose().to_owned());
        }
        (Some(name), None) => {
            mqtt.set_username(name.clone());
        }
        (None, Some(password)) => {
            mqtt.set_password(password.expose().to_owned());
        }
        (None, None) => {}
    }
    let (host, port, tls) = (options.host.clone(), options.port, options.tls.clone());
    let progress = progress.clone();
    mqtt.set_socket_connector(move |_, _| {
        let (host, tls, progress) = (host.clone(), tls.clone(), progress.clone());
        async move { Ok(socket::open(&host, port, tls.as_ref(), progress).await?) }
    });
    mqtt
}
