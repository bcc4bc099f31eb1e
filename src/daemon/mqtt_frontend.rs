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
use crate::mqtt::payload::Clock;
use crate::mqtt::{Inbound, Link, MqttSettings};
use crate::secret::RefusedLogins;

/// How long the broker may take to acknowledge the last messages.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);
/// How often the embedded broker's port is tried. Everything is published within 10 s after the port is free.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);

/// The MQTT frontend. It exists longer than its sessions.
pub(super) struct MqttFrontend {
    /// `None` during a change of broker, or if neither the new nor the old session could be started.
    session: Option<MqttSession>,
    /// The connection that is stopping; it still publishes results.
    leaving: Option<Arc<Link>>,
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
    /// `None` while the port of the embedded broker is taken.
    link: Option<Arc<Link>>,
    broker: Option<EmbeddedBroker>,
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
    ) -> Result<Self, BrokerError> {
        let (inbound_sender, inbound) = mpsc::unbounded_channel();
        let starter = LinkStarter { ids, inbound_sender, refused };
        let session = Some(MqttSession::start(choice, IfTaken::Wait, starter.clone()).await?);
        Ok(Self { session, leaving: None, starter, inbound })
    }

    /// The address of the embedded broker, if it runs.
    pub(super) fn broker_address(&self) -> Option<SocketAddr> {
        Some(self.session.as_ref()?.broker.as_ref()?.addr())
    }

    /// Whether the session is of this broker choice.
    pub(super) fn runs_with(&self, choice: &MqttChoice) -> bool {
        self.session.as_ref().is_some_and(|session| session.choice == *choice)
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
    /// publishes everything.
    pub(super) fn publish(&self, update: Update, clock: Clock) {
        let link = self.session.as_ref().and_then(|session| session.link.as_ref());
        let is_answer = matches!(update, Update::State(..) | Update::Result(_) | Update::Response { .. });
        if let Some(link) = link.or(self.leaving.as_ref().filter(|_| is_answer)) {
            link.publish(update, clock);
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
        let mut session =
            Self { choice: choice.clone(), link: None, broker: None, awaited: JoinSet::new(), starter };
        match choice {
            MqttChoice::Outside(options) => session.start_link(options),
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

    /// Disconnects, and stops the embedded broker.
    pub(super) async fn stop(mut self) {
        self.awaited.shutdown().await;
        let clients = self.broker.as_ref().map_or(0, EmbeddedBroker::clients);
        if let Some(link) = self.link.take() {
            link.stop(FAREWELL_WITHIN).await;
        }
        if let Some(broker) = self.broker.take() {
            broker.wait_for_fewer_clients(clients).await;
            broker.stop().await;
        }
    }

    /// Starts the connection to the embedded broker.
    fn connect(&mut self, broker: EmbeddedBroker) {
        let MqttChoice::Embedded { link, .. } = &self.choice else { return };
        let options = MqttSettings { port: broker.addr().port(), ..link.clone() };
        self.start_link(options);
        self.broker = Some(broker);
    }

    fn start_link(&mut self, options: MqttSettings) {
        let LinkStarter { ids, inbound_sender, refused } = self.starter.clone();
        self.link = Some(Arc::new(Link::start(options, ids, refused, inbound_sender)));
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
