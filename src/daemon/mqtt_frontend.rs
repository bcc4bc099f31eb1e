//! MQTT in the daemon: the connection to the broker, the embedded broker, and the change to another broker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::bridge::event::{IdAllocator, Update};
use crate::config::MqttChoice;
use crate::logging::Repeated;
use crate::mqtt::broker::{BrokerError, BrokerOptions, EmbeddedBroker};
use crate::mqtt::{Inbound, Link, LoginSource, MqttSettings, Unanswered};
use crate::payload::Clock;
use crate::secret::RefusedLogins;

/// How long the broker may take to acknowledge the last messages.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);
/// How long results of commands are waited for before another broker is used: their senders are clients of the old one.
const RESULTS_WITHIN: Duration = Duration::from_millis(1500);
/// How often the embedded broker's port is tried. Everything is published within 10 s after the port is free.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);

/// The MQTT frontend. It exists longer than its sessions.
pub(super) struct MqttFrontend {
    /// `None` during a change of broker, or if neither the new nor the old session could be started.
    session: Option<MqttSession>,
    /// The connection that is stopping; it still publishes results.
    leaving: Option<Arc<Link>>,
    /// Results and responses after the end of one connection and before the next one.
    late: Unanswered,
    starter: LinkStarter,
    inbound: mpsc::UnboundedReceiver<Inbound>,
}

/// An event of MQTT.
#[derive(Debug)]
pub(super) enum FromMqtt {
    Inbound(Inbound),
    /// A new connection was started, which has nothing to publish yet.
    Empty,
}

/// One configured broker: the connection to it, and the embedded broker if it is that.
pub(super) struct MqttSession {
    choice: MqttChoice,
    /// `None` while the port of the embedded broker is taken, or while no broker is named.
    link: Option<Arc<Link>>,
    broker: Option<EmbeddedBroker>,
    /// For the connection, while there is none.
    unanswered: Unanswered,
    /// The task that tries to start the embedded broker.
    awaited: JoinSet<EmbeddedBroker>,
    starter: LinkStarter,
}

/// Shared by all connections.
#[derive(Clone)]
pub(super) struct LinkStarter {
    ids: IdAllocator,
    /// Where connections send received messages.
    inbound_sender: mpsc::UnboundedSender<Inbound>,
    /// Logins that brokers have refused, on all connections.
    refused: RefusedLogins,
    /// Where a connection asks for another login.
    source: LoginSource,
}

/// What to do if the port of the embedded broker is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfTaken {
    /// Wait until it is free; the plugs are served meanwhile.
    Wait,
    /// Return an error.
    Fail,
}

impl MqttFrontend {
    pub(super) async fn start(
        choice: MqttChoice,
        ids: IdAllocator,
        refused: RefusedLogins,
        source: LoginSource,
    ) -> Result<Self, BrokerError> {
        let (inbound_sender, inbound) = mpsc::unbounded_channel();
        let starter = LinkStarter { ids, inbound_sender, refused, source };
        let session = Some(MqttSession::start(choice, IfTaken::Wait, starter.clone()).await?);
        Ok(Self { session, leaving: None, late: Unanswered::default(), starter, inbound })
    }

    /// The address of the embedded broker, if it runs.
    pub(super) fn broker_address(&self) -> Option<SocketAddr> {
        Some(self.session.as_ref()?.broker.as_ref()?.addr())
    }

    /// Whether the session is of this broker choice.
    pub(super) fn runs_with(&self, choice: &MqttChoice) -> bool {
        self.session.as_ref().is_some_and(|session| session.choice == *choice)
    }

    /// Whether this choice is a broker with the address of the present one. Then clients stay connected during the change;
    /// those of an embedded broker do not, because it is restarted.
    pub(super) fn is_same_broker(&self, choice: &MqttChoice) -> bool {
        match (self.session.as_ref().map(MqttSession::choice), choice) {
            (Some(MqttChoice::Outside(old)), MqttChoice::Outside(new)) => {
                (&old.host, old.port, &old.others) == (&new.host, new.port, &new.others)
            }
            _ => false,
        }
    }

    /// Checks, without a change, whether the broker of this choice can be started.
    pub(super) fn check(&self, choice: &MqttChoice) -> Result<(), BrokerError> {
        let MqttChoice::Embedded { broker, .. } = choice else { return Ok(()) };
        let mut options = broker.clone();
        // The port is free once the present broker has stopped.
        if self.broker_address().is_some_and(|address| address.port() == options.listen.port()) {
            options.listen.set_port(0);
        }
        EmbeddedBroker::check(&options)
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> FromMqtt {
        let broker = async {
            match &mut self.session {
                Some(session) => session.awaited.join_next().await,
                None => None,
            }
        };
        let broker = tokio::select! {
            biased;
            Some(inbound) = self.inbound.recv() => return FromMqtt::Inbound(inbound),
            Some(Ok(broker)) = broker => broker,
        };
        if let Some(session) = &mut self.session {
            session.connect(broker);
        }
        FromMqtt::Empty
    }

    /// While a connection is stopping, it publishes only results and the states before them; the next connection
    /// publishes everything. Results after the end of the old connection wait for the next one.
    pub(super) fn publish(&mut self, update: Update, clock: Clock) {
        if let Some(link) = self.session.as_ref().and_then(|session| session.link.as_ref()) {
            link.publish(update, clock);
        } else if let Some(leaving) = &self.leaving
            && matches!(update, Update::State(..) | Update::Result(_) | Update::Response { .. })
            && !leaving.publish(update.clone(), clock)
        {
            self.late.add(update, clock);
        }
    }

    /// Hands over the running session, so that another one can take its place.
    pub(super) fn leave(&mut self) -> (Option<MqttSession>, LinkStarter) {
        let session = self.session.take();
        self.leaving = session.as_ref().and_then(|session| session.link.clone());
        (session, self.starter.clone())
    }

    /// Takes the new session.
    pub(super) fn install(&mut self, session: Option<MqttSession>) {
        self.session = session;
        self.leaving = None;
        let late = std::mem::take(&mut self.late);
        if let Some(session) = &mut self.session {
            session.adopt(late);
        }
    }

    pub(super) async fn stop(&mut self) {
        if let Some(session) = self.session.take() {
            session.stop().await;
        }
    }
}

impl MqttSession {
    pub(super) async fn start(
        choice: MqttChoice,
        if_taken: IfTaken,
        starter: LinkStarter,
    ) -> Result<Self, BrokerError> {
        let mut session = Self::without_link(choice.clone(), starter);
        match choice {
            MqttChoice::Outside(options) => session.start_link(options),
            MqttChoice::Awaited => {}
            MqttChoice::Embedded { broker: options, .. } => {
                match EmbeddedBroker::start(options.clone()).await {
                    Ok(broker) => session.connect(broker),
                    Err(error) if if_taken == IfTaken::Wait && error.may_pass() => {
                        session.awaited.spawn(wait_for_broker(options, error));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(session)
    }

    pub(super) fn choice(&self) -> &MqttChoice {
        &self.choice
    }

    /// Answers what another session left unanswered.
    pub(super) fn adopt(&mut self, unanswered: Unanswered) {
        match &self.link {
            Some(link) => link.adopt(unanswered),
            None => self.unanswered.append(unanswered),
        }
    }

    /// Disconnects, and stops the embedded broker. Returns what is left unanswered.
    pub(super) async fn stop(self) -> Unanswered {
        self.leave(Duration::ZERO).await
    }

    /// Like [`MqttSession::stop`], but waits for the results of commands first.
    pub(super) async fn stop_after_results(self) -> Unanswered {
        self.leave(RESULTS_WITHIN).await
    }

    async fn leave(mut self, results_within: Duration) -> Unanswered {
        self.awaited.shutdown().await;
        let clients = self.broker.as_ref().map_or(0, EmbeddedBroker::clients);
        if let Some(link) = self.link.take() {
            self.unanswered.append(link.leave(results_within, FAREWELL_WITHIN).await);
        }
        if let Some(broker) = self.broker.take() {
            broker.wait_for_fewer_clients(clients).await;
            broker.stop().await;
        }
        self.unanswered
    }

    fn without_link(choice: MqttChoice, starter: LinkStarter) -> Self {
        let (unanswered, awaited) = (Unanswered::default(), JoinSet::new());
        Self { choice, link: None, broker: None, unanswered, awaited, starter }
    }

    /// Starts the connection to the embedded broker.
    fn connect(&mut self, broker: EmbeddedBroker) {
        let MqttChoice::Embedded { link, .. } = &self.choice else { return };
        let options = MqttSettings { port: broker.addr().port(), ..link.clone() };
        self.start_link(options);
        self.broker = Some(broker);
    }

    fn start_link(&mut self, options: MqttSettings) {
        let LinkStarter { ids, inbound_sender, refused, source } = self.starter.clone();
        let link = Link::start(options, ids, refused, source, inbound_sender);
        link.adopt(std::mem::take(&mut self.unanswered));
        self.link = Some(Arc::new(link));
    }
}

/// Tries until the embedded broker listens. Failures are logged at growing intervals, and the success once.
async fn wait_for_broker(options: BrokerOptions, mut error: BrokerError) -> EmbeddedBroker {
    let mut failing = Repeated::default();
    loop {
        if failing.failed(&error.to_string(), Instant::now()).is_some() {
            tracing::warn!("{error}; it is waited for, and the plugs are served without MQTT until then");
        }
        sleep(LISTEN_AGAIN).await;
        match EmbeddedBroker::start(options.clone()).await {
            Ok(broker) => {
                let past = failing.ended(Instant::now()).map(|past| format!(" {past}")).unwrap_or_default();
                tracing::info!("the embedded broker listens on {}{past}", broker.addr());
                return broker;
            }
            Err(again) => error = again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::event::{CommandResult, Ended, Origin};
    use crate::model::PlugName;
    use crate::mqtt::homeassistant::{DocumentForm, HomeAssistantOptions};

    /// A broker that cannot be reached: nothing listens on port 1.
    fn choice(client_id: &str) -> MqttChoice {
        MqttChoice::Outside(MqttSettings {
            host: "127.0.0.1".to_owned(),
            port: 1,
            others: Vec::new(),
            return_after: MqttSettings::RETURN_AFTER,
            will_delay: MqttSettings::WILL_DELAY,
            tls: None,
            username: None,
            password: None,
            client_id: client_id.to_owned(),
            base_topic: "hs100d".to_owned(),
            instance: "test".to_owned(),
            drawn_instance: "test".to_owned(),
            homeassistant: HomeAssistantOptions {
                discovery: DocumentForm::Off,
                discovery_prefix: "homeassistant".to_owned(),
                status_topic: "homeassistant/status".to_owned(),
            },
        })
    }

    #[tokio::test]
    async fn a_result_between_two_connections_waits_for_the_next_one() {
        let ids = IdAllocator::default();
        let result = Update::Result(CommandResult {
            id: ids.command(Origin::Mqtt),
            plug: PlugName::placeholder(),
            ended: Ended::Ok,
            state: None,
            route: None,
            took: Duration::ZERO,
        });
        let mqtt = MqttFrontend::start(choice("one"), ids, RefusedLogins::default(), LoginSource::default());
        let mut mqtt = mqtt.await.unwrap();
        assert!(mqtt.is_same_broker(&choice("two")));
        let (session, starter) = mqtt.leave();
        assert!(session.unwrap().stop().await.is_empty());
        mqtt.publish(Update::Ready, Clock::now());
        assert!(mqtt.late.is_empty());
        mqtt.publish(result, Clock::now());
        assert!(!mqtt.late.is_empty());

        let session = MqttSession::start(choice("two"), IfTaken::Fail, starter).await.unwrap();
        mqtt.install(Some(session));
        assert!(mqtt.late.is_empty());
        let (session, _) = mqtt.leave();
        assert!(!session.unwrap().stop().await.is_empty(), "the new connection has it");
    }
}
