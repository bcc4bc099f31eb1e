//! The task that keeps the connection: it connects, subscribes, publishes what the state has to send, and reconnects.
//!
//! Each connection has an event loop of its own, so no message of one connection can be sent on the next. Requests of the
//! daemon are taken while there is no connection, too: they only change the state.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use rumqttc::{
    AsyncClient, ConnAck, ConnectionError, EventLoop, Incoming, Outgoing as Sent, PubAck, Publish, SubAck,
    SubscribeFilterInput, SubscribeReasonCode,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep_until;

use super::announcement::Announcement;
use super::brokers::Brokers;
use super::channel::Inbound;
use super::connect::{self, BrokerLimits, KEEP_ALIVE};
use super::dial::DialOrder;
use super::echo::Echo;
use super::failure::explain::{LinkFailure, MAX_REASON_STRING};
use super::failure::log::FailureLog;
use super::failure::reason::{FailureKind, FailureReason};
use super::failure::reconnect::{LONGEST_WAIT, Reconnect, STABLE};
use super::in_flight::{PublishInFlight, PublishTopic};
use super::link_request::{LinkRequest, StopRequest};
use super::live_connection::{Connection, ConnectionEnd, Handed, PACKET_OVERHEAD, SUBSCRIBED_WITHIN};
use super::login_inquiry::LoginSource;
use super::message::{Effect, Message, Outgoing};
use super::responses::Unanswered;
use super::settings::{BrokerAddress, MqttSettings};
use super::socket::ConnectProgress;
use super::state::MqttState;
use crate::bridge::event::IdAllocator;
use crate::model::shown;
use crate::payload::Clock;
use crate::secret::RefusedLogins;

/// The pause before a refused subscription is tried again: the right may have been granted.
const RESUBSCRIBE_AFTER: Duration = Duration::from_secs(15);
/// The most messages inside the client library: those that wait there cannot be replaced by a newer value.
const MAX_HANDED_OVER: usize = 64;
/// `bridge/state` turns `online` after this time even if the first round of reads is not done.
const ONLINE_AFTER: Duration = Duration::from_secs(3);
/// How long retained messages of earlier runs may take to arrive after a connect.
const SEARCH: Duration = Duration::from_secs(2);
/// How long Home Assistant may take to move entities from one discovery payload to another.
const MIGRATION: Duration = Duration::from_secs(3);
/// The most requests of the daemon that are taken before the network has its turn.
const REQUESTS_AT_ONCE: usize = 1024;
/// The most refused messages that are logged on one connection: a broker may refuse all of them.
const MAX_LOGGED_REFUSALS: u32 = 10;
/// From the start of a connection to the CONNACK when another broker was left for it.
const RETURNED_WITHIN: Duration = Duration::from_secs(3);
/// The most addresses that are remembered because a connection there has failed.
const MAX_AVOIDED: usize = 32;
const REFUSED_BEFORE: &str =
    "it refused this name and password before the reload, so the next try is in a minute";

/// Owns the state and exchanges messages between it and the broker.
pub(super) struct ConnectionTask {
    /// At the broker that is used now.
    settings: MqttSettings,
    brokers: Brokers,
    /// Where connections have failed since one was stable, the oldest failure first.
    avoided: Vec<SocketAddr>,
    /// The broker and the address of the last connection that stood.
    last_place: Option<(BrokerAddress, Option<SocketAddr>)>,
    /// The only address of the own broker to connect to, during a return.
    only: Option<SocketAddr>,
    state: MqttState,
    requests: mpsc::UnboundedReceiver<LinkRequest>,
    inbound: mpsc::UnboundedSender<Inbound>,
    /// Logins that brokers have refused, of all links of this process.
    refused: RefusedLogins,
    source: LoginSource,
    /// The last connection was refused the login, and another login was said to follow.
    has_another_login: bool,
    reconnect: Reconnect,
    echo: Echo,
    log: FailureLog,
    /// The last [`Inbound::Link`].
    reported: Option<Result<BrokerAddress, String>>,
    /// When `bridge/state` turns `online` at the latest; `None` once it has.
    online_at: Option<Instant>,
    announcement: Announcement,
    shutdown: Option<ShutdownRequest>,
}

/// [`LinkRequest::Stop`].
struct ShutdownRequest {
    by: Instant,
    /// Until then the results of commands are waited for.
    results_by: Option<Instant>,
    done: oneshot::Sender<Unanswered>,
}

impl ConnectionTask {
    pub(super) fn new(
        settings: MqttSettings,
        ids: IdAllocator,
        refused: RefusedLogins,
        source: LoginSource,
        requests: mpsc::UnboundedReceiver<LinkRequest>,
        inbound: mpsc::UnboundedSender<Inbound>,
    ) -> Self {
        let brokers = Brokers::new(&settings);
        let BrokerAddress { host, port } = brokers.current().clone();
        let settings = MqttSettings { host, port, ..settings };
        Self {
            state: MqttState::new(&settings, ids, Clock::now()),
            brokers,
            avoided: Vec::new(),
            last_place: None,
            only: None,
            reconnect: Reconnect::new(&settings.instance),
            echo: Echo::default(),
            settings,
            refused,
            source,
            has_another_login: false,
            requests,
            inbound,
            log: FailureLog::default(),
            reported: None,
            online_at: Some(Instant::now() + ONLINE_AFTER),
            announcement: Announcement::default(),
            shutdown: None,
        }
    }

    /// Connects and reconnects until the link is stopped or dropped.
    pub(super) async fn run(mut self) {
        let mut goes_on = self.wait_after_refusal().await;
        while goes_on {
            let (failure, lasted, suspect, address) = match self.connect().await {
                ConnectionEnd::Stopped => break,
                ConnectionEnd::Left(only) => {
                    self.state.left(Instant::now());
                    self.brokers.start_return();
                    self.only = only;
                    self.use_current();
                    continue;
                }
                ConnectionEnd::Lost { failure, lasted, suspect, address } => {
                    (failure, lasted, suspect, address)
                }
            };
            let was_stable = lasted.is_some_and(|lasted| lasted >= STABLE);
            if was_stable {
                self.state.trust_again();
                self.avoided.clear();
            }
            self.avoid(address);
            if failure.reason == FailureReason::LoginRefused
                && let Some((broker, username, password)) = self.settings.login()
            {
                self.refused.add(&broker, username, password);
            }
            self.has_another_login = failure.is_of_login() && self.ask_for_another_login().await;
            // Those whose broker went away, or sends them away, are many.
            let among_many = lasted.is_some() || failure.is_of_many();
            let tries = self.brokers.failed(was_stable);
            let decision = self.reconnect.decide(failure, tries, lasted, suspect, &self.settings);
            if let Some(message) = decision.blamed {
                self.state.blame(&message.topic);
            }
            if !self.has_another_login {
                self.report_failure(decision.failure.text);
            }
            // After a return no will stands anywhere, so `offline` must be published before the end.
            let was_returning = self.brokers.is_returning();
            let now = Instant::now();
            if self.shutdown.as_ref().is_some_and(|shutdown| !was_returning || shutdown.by <= now) {
                break;
            }
            if !was_returning {
                self.state.disconnected();
            }
            self.state.expire_adopted(now);
            if decision.failure.kind == FailureKind::TakenOver {
                // The nodes of a cluster share their client ids.
                self.brokers.hold_all(now + decision.wait);
            } else {
                self.brokers.hold(now + decision.wait);
            }
            let at = self.brokers.choose(now, among_many);
            self.use_current();
            goes_on = at <= now || self.wait(at - now).await;
        }
        if let Some(shutdown) = self.shutdown.take() {
            let unanswered = self.unanswered().await;
            // The receiver may have given up.
            let _ = shutdown.done.send(unanswered);
        }
    }

    /// Uses the broker that was chosen.
    fn use_current(&mut self) {
        let BrokerAddress { host, port } = self.brokers.current().clone();
        (self.settings.host, self.settings.port) = (host, port);
    }

    /// The next connection begins with another address of the host, if there is one. A node that accepts TCP and then says
    /// nothing would win each time.
    fn avoid(&mut self, address: Option<SocketAddr>) {
        let Some(address) = address else { return };
        self.avoided.retain(|avoided| *avoided != address);
        self.avoided.push(address);
        let surplus = self.avoided.len().saturating_sub(MAX_AVOIDED);
        self.avoided.drain(..surplus);
    }

    /// Asks whether another login follows, which the daemon then starts another link with. If that has not happened until
    /// the next refusal, the answer is no.
    async fn ask_for_another_login(&mut self) -> bool {
        if self.has_another_login {
            return false;
        }
        let (source, settings) = (self.source.clone(), self.settings.clone());
        let mut asking = pin!(async move { source.has_another(&settings).await });
        loop {
            tokio::select! {
                answer = &mut asking => return answer,
                request = self.requests.recv() => {
                    // Without a sender, the wait that follows ends the task.
                    let Some(request) = request else { return false };
                    self.handle_requests(request);
                    if self.shutdown.is_some() {
                        // Another link follows, or none.
                        return true;
                    }
                }
            }
        }
    }

    /// What the next link must answer. What is published from here on fails, so that no result is lost.
    async fn unanswered(&mut self) -> Unanswered {
        self.requests.close();
        let mut unanswered = self.state.take_unanswered(Instant::now());
        while let Some(request) = self.requests.recv().await {
            match request {
                LinkRequest::Publish(update, clock) => unanswered.add(*update, clock),
                LinkRequest::Adopt(earlier) => unanswered.append(*earlier),
                LinkRequest::Stop(_) => {}
            }
        }
        unanswered
    }

    /// Begins with a broker that did not refuse this login before a reload, and waits if all have: repeated reloads could make
    /// them lock us out. False if the link was stopped meanwhile.
    async fn wait_after_refusal(&mut self) -> bool {
        let (now, refused, settings) = (Instant::now(), &self.refused, &self.settings);
        self.brokers.hold_those(now + LONGEST_WAIT, |broker| {
            settings
                .only_at(broker.clone())
                .login()
                .is_some_and(|(broker, username, password)| refused.contains(&broker, username, password))
        });
        let at = self.brokers.choose(now, false);
        self.use_current();
        if at <= now {
            return true;
        }
        let failure = LinkFailure::of(FailureReason::LoginRefused, REFUSED_BEFORE, &self.settings);
        self.report_failure(failure.text);
        self.wait(at - now).await
    }

    /// Waits before the next attempt; false if the link was stopped or dropped.
    async fn wait(&mut self, wait: Duration) -> bool {
        let mut wait = pin!(tokio::time::sleep(wait));
        loop {
            tokio::select! {
                () = &mut wait => return true,
                request = self.requests.recv() => {
                    let Some(request) = request else { return false };
                    self.handle_requests(request);
                    if self.shutdown.is_some() {
                        return false;
                    }
                }
            }
        }
    }

    /// One connection, from its start to its end.
    async fn connect(&mut self) -> ConnectionEnd {
        self.echo.begins();
        let progress = ConnectProgress::default();
        let mut order = DialOrder::of_instance(&self.settings.instance).only(self.only.take());
        order.avoided.clone_from(&self.avoided);
        let mut options = connect::options_with_will(&self.settings, &progress, order, "offline");
        if self.brokers.is_returning() {
            // The broker that was left still works.
            options.set_connect_timeout(RETURNED_WITHIN);
        }
        let (client, mut events) = AsyncClient::builder(options).capacity(MAX_HANDED_OVER).build();
        let mut connection = Connection::new(client, progress);
        loop {
            let event = match self.next_event(&mut events, &mut connection).await {
                Ok(event) => event,
                Err(end) => return end,
            };
            if matches!(event, Ok(rumqttc::Event::Incoming(_))) {
                connection.heard(Instant::now());
            }
            match event {
                Ok(rumqttc::Event::Incoming(Incoming::Publish(message))) => {
                    if self.handle_publish(&message) {
                        // The daemon carries out the command before this task goes on.
                        yield_now().await;
                    }
                }
                Ok(event) => self.handle_event(event, &mut connection),
                Err(_) if connection.is_leaving => return connection.left(),
                Err(ConnectionError::RequestsDone) => return ConnectionEnd::Stopped,
                Err(error) => {
                    let failure =
                        LinkFailure::explain_with_will(&error, &connection.progress, &self.settings);
                    return connection.lost(failure);
                }
            }
            self.handle_timers(&mut connection);
            self.send(&mut connection);
        }
    }

    /// Waits for the connection's next event; meanwhile handles the daemon's requests and the timers. The client library's
    /// future is never cancelled unless the connection ends, since half a packet may have been read or written.
    async fn next_event(
        &mut self,
        events: &mut EventLoop,
        connection: &mut Connection,
    ) -> Result<Result<rumqttc::Event, ConnectionError>, ConnectionEnd> {
        // With a keep-alive there is at least one event per interval, unless the socket accepts no more bytes.
        let keep_alive = events.options.keep_alive();
        let timeout = if keep_alive.is_zero() { Duration::MAX } else { keep_alive.max(KEEP_ALIVE) * 2 };
        let mut timeout = pin!(tokio::time::sleep(timeout));
        let mut poll = pin!(events.poll());
        loop {
            let next_timer = self.next_timer(connection);
            tokio::select! {
                event = &mut poll => return Ok(event),
                request = self.requests.recv() => {
                    let Some(request) = request else { return Err(ConnectionEnd::Stopped) };
                    self.handle_requests(request);
                    if self.shutdown.is_some() && connection.since.is_none() && !self.brokers.is_returning() {
                        return Err(ConnectionEnd::Stopped);
                    }
                }
                is_reached = connection.own_return.checked() => self.handle_own_check(is_reached, connection),
                () = sleep_until(next_timer.into()) => {
                    let now = Instant::now();
                    if self.shutdown.as_ref().is_some_and(|shutdown| shutdown.by <= now) {
                        return Err(ConnectionEnd::Stopped);
                    }
                    if connection.own_return.is_over(now) {
                        return Err(connection.left());
                    }
                    if connection.acknowledged_by().is_some_and(|by| by <= now) {
                        return Err(connection.lost(LinkFailure::unacknowledged(&self.settings)));
                    }
                    if self.echo.is_missing(now) {
                        return Err(connection.lost(LinkFailure::one_way(&self.settings)));
                    }
                }
                () = &mut timeout => return Err(connection.lost(LinkFailure::silent(&self.settings))),
            }
            self.handle_timers(connection);
            self.send(connection);
        }
    }

    fn handle_requests(&mut self, first: LinkRequest) {
        self.handle_request(first);
        for _ in 1..REQUESTS_AT_ONCE {
            let Ok(request) = self.requests.try_recv() else { break };
            self.handle_request(request);
        }
    }

    fn handle_request(&mut self, request: LinkRequest) {
        match request {
            LinkRequest::Publish(update, clock) => self.state.handle_update(*update, clock),
            LinkRequest::Adopt(unanswered) => self.state.adopt(*unanswered, Instant::now()),
            LinkRequest::Stop(StopRequest { results_within, within, done }) => {
                self.online_at = None;
                self.state.mark_offline();
                let now = Instant::now();
                let results_by = Some(now + results_within);
                self.shutdown = Some(ShutdownRequest { by: now + within, results_by, done });
            }
        }
    }

    fn handle_event(&mut self, event: rumqttc::Event, connection: &mut Connection) {
        match event {
            rumqttc::Event::Incoming(Incoming::ConnAck(connack)) => self.handle_connack(&connack, connection),
            rumqttc::Event::Incoming(Incoming::SubAck(suback)) => self.handle_suback(&suback, connection),
            rumqttc::Event::Incoming(Incoming::PubAck(puback)) => self.handle_puback(&puback, connection),
            rumqttc::Event::Outgoing(Sent::Publish(id)) => connection.in_flight.sent(id),
            rumqttc::Event::Outgoing(Sent::Subscribe(id)) => {
                connection.subscription.get_or_insert(id);
            }
            _ => {}
        }
    }

    /// The connection stands: subscribes, searches for stale topics, and publishes everything.
    fn handle_connack(&mut self, connack: &ConnAck, connection: &mut Connection) {
        if let Some((broker, username, password)) = self.settings.login() {
            self.refused.remove(&broker, username, password);
        }
        connection.since = Some(Instant::now());
        connection.limits = BrokerLimits::of(connack);
        self.brokers.connected();
        let place = (self.brokers.current().clone(), connection.progress.address());
        if self.last_place.replace(place.clone()).is_some_and(|last| last != place) {
            self.reconnect.moved();
        }
        if self.brokers.is_own() && connection.progress.better_address().is_none() {
            self.brokers.arrived();
        } else {
            connection.own_return.plan(self.brokers.return_at(Instant::now()));
        }
        self.state.set_broker(&self.brokers.current().to_string());
        if !connection.limits.retains {
            let text = self.at_broker(
                "it retains no messages, so clients that connect later see no plug: allow retained messages there",
            );
            self.log.warn(&text, Instant::now());
        }
        self.subscribe(connection, self.state.filters(), connect::command_filter);
        self.subscribe(connection, vec![self.state.will_filter()], connect::command_filter);
        self.search(connection);
        self.state.expire_adopted(Instant::now());
        self.state.connected();
    }

    /// Subscribes to retained messages of earlier runs, unless the search was done on an earlier connection.
    fn search(&self, connection: &mut Connection) {
        let filters = self.state.search_filters();
        if filters.is_empty() {
            return;
        }
        connection.search_until = Some(Instant::now() + SEARCH);
        // Skipped if the packet is too large for the broker, which would end the connection.
        let size: usize = filters.iter().map(|filter| filter.len() + PACKET_OVERHEAD).sum();
        if size <= connection.limits.packet {
            self.subscribe(connection, filters.clone(), connect::search_filter);
            connection.search_filters = filters;
        }
    }

    fn subscribe(
        &self,
        connection: &Connection,
        filters: Vec<String>,
        filter: fn(String) -> SubscribeFilterInput,
    ) {
        // There is room at the start of a connection, and nearly always later.
        if let Err(error) = connection.client.try_subscribe_many(filters.into_iter().map(filter)) {
            tracing::error!(
                "cannot subscribe at the broker: {error}: no command is received; restart hs100d"
            );
        }
    }

    fn handle_suback(&mut self, suback: &SubAck, connection: &mut Connection) {
        if connection.subscription != Some(suback.pkid) {
            // The search is optional: without it stale topics stay. So is our own state, at which a late will may arrive.
            if let Some(refusal) = connect::refused_filters(suback).next() {
                tracing::debug!("the broker refuses a subscription to topics of our own ({refusal:?})");
            }
            return;
        }
        connection.is_subscribed = true;
        let filters = self.state.filters();
        let codes = suback.return_codes.iter().zip(&filters);
        let refused: Vec<&str> = codes
            .filter(|(code, _)| !matches!(code, SubscribeReasonCode::Success(_)))
            .map(|(_, filter)| filter.as_str())
            .collect();
        if refused.is_empty() {
            self.report(Ok(self.brokers.current().clone()));
            return;
        }
        connection.resubscribe_at = Some(Instant::now() + RESUBSCRIBE_AFTER);
        self.report_failure(self.at_broker(&format!(
            "it refuses our subscription to {}: commands sent there are not received until the user in mqtt.username \
             may read these topics",
            refused.join(", ")
        )));
    }

    fn handle_puback(&mut self, puback: &PubAck, connection: &mut Connection) {
        let message = connection.in_flight.acknowledged(puback.pkid, Instant::now());
        let Some(code) = connect::refused_publish(puback, &connection.progress) else {
            if let Some(PublishInFlight { topic: PublishTopic::Retained(topic), .. }) = message
                && self.state.is_own_state(&topic)
            {
                self.echo.published(Instant::now());
            }
            return;
        };
        let Some(PublishInFlight { topic, size }) = message else { return };
        // Else another reader may be the reason: RabbitMQ says so while a reader's node is down, and the others get the message.
        let is_of_message = connect::is_of_message(code);
        let topic = match topic {
            PublishTopic::Retained(topic) => {
                // A newer value on its way will be acknowledged by itself.
                if is_of_message && !connection.in_flight.has(&topic) {
                    self.state.refused(&topic);
                }
                topic
            }
            PublishTopic::Transient(topic) => topic.into(),
        };
        let reason = puback.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
        self.log_refusal(&topic, size, code, reason, connection);
    }

    /// Logs which message the broker refuses.
    fn log_refusal(
        &mut self,
        topic: &str,
        size: usize,
        code: u8,
        reason_string: Option<&str>,
        connection: &mut Connection,
    ) {
        let remedy = connect::refused_message_remedy(code, &self.settings);
        let until = match connect::is_of_message(code) {
            true => "; until it changes it is not sent on this connection",
            false => "",
        };
        let reason = connect::reason_text(code);
        let quoted = reason_string.map(|text| format!(", saying \"{}\"", shown(text, MAX_REASON_STRING)));
        let text = self.at_broker(&format!(
            "it refuses the message of {size} bytes at {topic} ({reason}{}): {remedy}{until}",
            quoted.unwrap_or_default()
        ));
        if connection.refusals < MAX_LOGGED_REFUSALS {
            let is_logged = self.log.warn_of(&format!("{topic} {code}"), &text, Instant::now());
            connection.refusals += u32::from(is_logged);
            return;
        }
        tracing::debug!("{text}");
        let text = self.at_broker("it refuses more of our messages: hs100d -v logs each of them");
        self.log.warn(&text, Instant::now());
    }

    /// Handles a message; returns whether something was sent to the daemon.
    fn handle_publish(&mut self, message: &Publish) -> bool {
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
            // An error means that the daemon is stopping.
            Effect::Inbound(inbound) => self.inbound.send(inbound).is_ok(),
            Effect::Birth => {
                self.announcement.plan(&self.settings.instance, Instant::now());
                false
            }
            Effect::Echo => {
                self.echo.came(Instant::now());
                false
            }
        }
    }

    fn next_timer(&self, connection: &Connection) -> Instant {
        let now = Instant::now();
        let after = |wait| connection.since.map(|since| since + wait).filter(|at| *at > now);
        [
            self.online_at,
            self.announcement.timer(),
            connection.resubscribe_at,
            connection.search_until,
            connection.migrated_at,
            connection.acknowledged_by(),
            self.echo.due(),
            self.echo.probe_at(),
            connection.own_return.timer(),
            after(STABLE),
            after(SUBSCRIBED_WITHIN),
            self.shutdown.as_ref().map(|shutdown| shutdown.by),
            self.shutdown.as_ref().and_then(|shutdown| shutdown.results_by),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(now + KEEP_ALIVE)
    }

    fn handle_timers(&mut self, connection: &mut Connection) {
        let now = Instant::now();
        if self.online_at.take_if(|at| *at <= now).is_some() {
            self.state.show_online();
        }
        if self.echo.is_probe_due(now) {
            self.state.show_own_state_again();
        }
        if self.announcement.takes_documents(now) {
            tracing::debug!("publishing all documents again for Home Assistant, which has started");
            self.state.announce_again();
        }
        if self.announcement.takes_states(now) {
            self.state.show_again();
        }
        if connection.resubscribe_at.take_if(|at| *at <= now).is_some() {
            connection.subscription = None;
            self.subscribe(connection, self.state.filters(), connect::command_filter);
        }
        if connection.search_until.take_if(|at| *at <= now).is_some() {
            self.end_search(connection);
        }
        if connection.migrated_at.take_if(|at| *at <= now).is_some() {
            self.state.end_migration();
        }
        if connection.own_return.takes_check(now) {
            self.check_own(connection);
        }
        if connection.own_return.takes_missed(now) {
            tracing::debug!("no quiet moment to return to the broker at {}", self.brokers.own());
            self.plan_next_return(connection);
        }
        if self.shutdown.is_some() && !connection.own_return.has_left() {
            connection.own_return.cancel();
        }
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.results_by.take_if(|at| *at <= now || !self.state.has_commands());
        }
        if matches!(self.reported, Some(Ok(_))) && connection.becomes_stable(now) {
            self.log.clear();
            self.avoided.clear();
        }
    }

    /// Checks whether the own broker, or its own address, can be reached.
    fn check_own(&self, connection: &mut Connection) {
        let order = DialOrder::of_instance(&self.settings.instance).only(self.better_address(connection));
        connection.own_return.check(self.brokers.own().clone(), self.settings.tls.clone(), order);
    }

    /// The own address of the own broker, if the connection is to another one of that broker.
    fn better_address(&self, connection: &Connection) -> Option<SocketAddr> {
        connection.progress.better_address().filter(|_| self.brokers.is_own())
    }

    fn handle_own_check(&mut self, is_reached: bool, connection: &mut Connection) {
        if is_reached {
            connection.own_return.leave_soon(Instant::now());
        } else {
            tracing::debug!("the broker at {} cannot be reached: no return to it", self.brokers.own());
            self.plan_next_return(connection);
        }
    }

    fn plan_next_return(&mut self, connection: &mut Connection) {
        self.brokers.return_failed();
        connection.own_return.plan(self.brokers.return_at(Instant::now()));
    }

    /// Leaves the connection for the own broker, if nothing is lost by that: nothing is to be answered, and everything that
    /// was sent is acknowledged. Returns whether no message may be sent meanwhile.
    fn leave_for_own(&mut self, connection: &mut Connection) -> bool {
        let is_busy =
            self.state.has_unanswered() || self.state.is_migrating() || connection.search_until.is_some();
        if !connection.own_return.wants_to_leave() || is_busy || self.shutdown.is_some() {
            return false;
        }
        if connection.in_flight.is_all_acknowledged() {
            connection.return_only = self.better_address(connection);
            connection.leave();
            if connection.is_leaving {
                connection.own_return.left(Instant::now());
                let (own, current) = (self.brokers.own(), self.brokers.current());
                let to = connection.return_only.map(|address| format!(" ({address})")).unwrap_or_default();
                tracing::info!(
                    "the broker at {own}{to} can be reached again: returning to it from the one at {current}"
                );
            }
        }
        true
    }

    fn end_search(&mut self, connection: &mut Connection) {
        self.state.end_search();
        let filters = std::mem::take(&mut connection.search_filters);
        if !filters.is_empty()
            && let Err(error) = connection.client.try_unsubscribe_many(filters)
        {
            tracing::debug!("cannot unsubscribe from stale topics: {error}");
        }
    }

    /// Hands what the state has to send to the client library, as far as there is room.
    fn send(&mut self, connection: &mut Connection) {
        if !connection.may_publish() || self.leave_for_own(connection) {
            return;
        }
        while let Some(outgoing) = self.state.take() {
            match connection.hand_over(&outgoing) {
                Handed::Over(is_acknowledged) => connection.queued(outgoing, is_acknowledged),
                Handed::NoRoom => return self.state.requeue(outgoing),
                Handed::TooLarge(size) => self.log_too_large(&outgoing, size, connection.limits.packet),
                Handed::Impossible => tracing::debug!("cannot be published: {outgoing:?}"),
            }
        }
        if self.state.is_migrating() {
            connection.migrated_at.get_or_insert_with(|| Instant::now() + MIGRATION);
        }
        if self.shutdown.as_ref().is_some_and(|shutdown| shutdown.results_by.is_none())
            && connection.in_flight.is_all_acknowledged()
        {
            connection.leave();
        }
    }

    fn log_too_large(&mut self, outgoing: &Outgoing, size: usize, limit: usize) {
        let topic = match outgoing {
            Outgoing::Retained(retained) => &*retained.topic,
            Outgoing::Transient(transient) => &transient.topic,
        };
        let text = self.at_broker(&format!(
            "it accepts packets of {limit} bytes at most, and the one for {topic} has {size}: raise its limit (in mosquitto \
             max_packet_size)"
        ));
        self.log.warn_of(topic, &text, Instant::now());
    }

    fn report_failure(&mut self, text: String) {
        self.log.warn(&text, Instant::now());
        self.report(Err(text));
    }

    /// Sends the state of the connection to the daemon if it has changed.
    fn report(&mut self, link: Result<BrokerAddress, String>) {
        if self.reported.as_ref() == Some(&link) {
            return;
        }
        if let Ok(broker) = &link {
            self.log.inform(&format!("connected to the broker at {broker}"), Instant::now());
        }
        self.reported = Some(link.clone());
        // An error means that the daemon is stopping.
        let _ = self.inbound.send(Inbound::Link(link));
    }

    fn at_broker(&self, text: &str) -> String {
        format!("the broker at {}: {text}", self.settings.broker())
    }
}
