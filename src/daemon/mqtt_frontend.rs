//! MQTT as the daemon runs it: the link to the broker, the broker where it is our own, and the change to another one.

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

/// The broker gets this long to acknowledge the last messages.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);
/// The embedded broker's port is tried again after this time, so that all is published within 10 s of its being free.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);

/// The MQTT frontend. It outlives its sessions.
pub(super) struct MqttFrontend {
    /// None while another takes its place, or if neither the new nor the old one could be started.
    session: Option<MqttSession>,
    /// The link that says goodbye; it still carries answers.
    leaving: Option<Arc<Link>>,
    starter: LinkStarter,
    inbound: mpsc::UnboundedReceiver<Inbound>,
}

/// What MQTT brings in.
#[derive(Debug)]
pub(super) enum FromMqtt {
    Inbound(Inbound),
    /// A link was started that knows nothing yet.
    Empty,
}

/// One choice of broker: the link to it, and the broker itself where it is our own.
pub(super) struct MqttSession {
    choice: MqttChoice,
    /// None while the embedded broker is waited for: another program listens at its port.
    link: Option<Arc<Link>>,
    broker: Option<EmbeddedBroker>,
    /// The embedded broker that cannot listen yet, in the task that tries it.
    awaited: JoinSet<EmbeddedBroker>,
    starter: LinkStarter,
}

/// What every link is started with.
#[derive(Clone)]
pub(super) struct LinkStarter {
    ids: IdAllocator,
    /// Where links send what comes in.
    tell: mpsc::UnboundedSender<Inbound>,
    /// Logins that brokers have refused, over all links.
    refused: RefusedLogins,
}

/// What to do if the embedded broker cannot have its port now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfTaken {
    /// Wait for it; the plugs are served meanwhile.
    Wait,
    /// Give up.
    Fail,
}

impl MqttFrontend {
    pub(super) async fn start(
        choice: MqttChoice,
        ids: IdAllocator,
        refused: RefusedLogins,
    ) -> Result<Self, BrokerError> {
        let (tell, inbound) = mpsc::unbounded_channel();
        let starter = LinkStarter { ids, tell, refused };
        let session = Some(MqttSession::start(choice, IfTaken::Wait, starter.clone()).await?);
        Ok(Self { session, leaving: None, starter, inbound })
    }

    /// Where the embedded broker listens, if there is one.
    pub(super) fn broker_address(&self) -> Option<SocketAddr> {
        Some(self.session.as_ref()?.broker.as_ref()?.addr())
    }

    /// Whether it runs with this choice.
    pub(super) fn runs_with(&self, choice: &MqttChoice) -> bool {
        self.session.as_ref().is_some_and(|session| session.choice == *choice)
    }

    /// The next thing that comes in. Cancel safe.
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

    /// While one link says goodbye it carries only answers and the states before them; all is published again to the next.
    pub(super) fn publish(&self, update: Update, clock: Clock) {
        let link = self.session.as_ref().and_then(|session| session.link.as_ref());
        let is_answer = matches!(update, Update::State(..) | Update::Result(_) | Update::Response { .. });
        if let Some(link) = link.or(self.leaving.as_ref().filter(|_| is_answer)) {
            link.publish(update, clock);
        }
    }

    /// Hands over what runs, so that another can be started in its place.
    pub(super) fn leave(&mut self) -> (Option<MqttSession>, LinkStarter) {
        let session = self.session.take();
        self.leaving = session.as_ref().and_then(|session| session.link.clone());
        (session, self.starter.clone())
    }

    /// Takes over what was started.
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

    /// Says goodbye to the broker, and stops it where it is our own.
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

    /// Starts the link to our own broker.
    fn connect(&mut self, broker: EmbeddedBroker) {
        let MqttChoice::Embedded { link, .. } = &self.choice else { return };
        let options = MqttSettings { port: broker.addr().port(), ..link.clone() };
        self.start_link(options);
        self.broker = Some(broker);
    }

    fn start_link(&mut self, options: MqttSettings) {
        let LinkStarter { ids, tell, refused } = self.starter.clone();
        self.link = Some(Arc::new(Link::start(options, ids, refused, tell)));
    }
}

/// Tries until the embedded broker listens. Logged at growing intervals, and once when it listens.
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
