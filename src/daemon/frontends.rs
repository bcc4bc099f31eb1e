//! The frontends of the daemon: updates go out to all of them, commands and requests come in.
//!
//! An update goes to every frontend, and so does the result of a command, because MQTT promises `<plug>/result` for
//! every one. The response to a request goes only to the frontend that it came from.

use super::http_frontend::HttpFrontend;
use super::mqtt_frontend::{FromMqtt, MqttFrontend};
use crate::bridge::event::{Event, IdAllocator, Origin, RequestId, Update};
use crate::config::MqttChoice;
use crate::http::HttpOptions;
use crate::http::calls::{PortionRequest, ShowRequest};
use crate::http::frontend::Demand;
use crate::http::overview::DaemonInfo;
use crate::mqtt::broker::BrokerError;
use crate::mqtt::{Inbound, LoginSource};
use crate::payload::Clock;
use crate::secret::RefusedLogins;

/// All frontends. They take their ids from one [`IdAllocator`].
pub(super) struct Frontends {
    pub(super) mqtt: MqttFrontend,
    pub(super) http: HttpFrontend,
}

#[derive(Debug)]
pub(super) enum FrontendEvent {
    /// A command or a request to the bridge.
    Bridge(Event),
    /// A request to reload the config. It is answered with [`Update::Response`].
    Reload(RequestId),
    /// The state of the connection to the broker: where that is, or the reason why there is none.
    Broker(Result<String, String>),
    /// A request over HTTP to see the state of the daemon.
    Show(ShowRequest),
    /// A request over HTTP to see some of the plugs.
    Portion(PortionRequest),
    /// A new frontend has nothing yet: everything must be published again.
    Empty,
}

impl Frontends {
    pub(super) async fn start(
        mqtt: MqttChoice,
        http: [Option<HttpOptions>; 2],
        daemon_info: DaemonInfo,
        refused: RefusedLogins,
        source: LoginSource,
    ) -> Result<Self, BrokerError> {
        let ids = IdAllocator::default();
        let mqtt = MqttFrontend::start(mqtt, ids.clone(), refused, source).await?;
        Ok(Self { mqtt, http: HttpFrontend::start(http, ids, daemon_info) })
    }

    /// Hands an update to every frontend that should get it. Never waits.
    pub(super) fn publish(&mut self, update: Update, clock: Clock) {
        if is_for(&update, Origin::Http) {
            self.http.publish(&update, clock);
        }
        if is_for(&update, Origin::Mqtt) {
            self.mqtt.publish(update, clock);
        }
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> FrontendEvent {
        tokio::select! {
            from_mqtt = self.mqtt.next() => match from_mqtt {
                FromMqtt::Inbound(Inbound::Event(event)) => FrontendEvent::Bridge(event),
                FromMqtt::Inbound(Inbound::Reload(id)) => FrontendEvent::Reload(id),
                FromMqtt::Inbound(Inbound::Link(state)) => {
                    FrontendEvent::Broker(state.map(|broker| broker.to_string()))
                }
                FromMqtt::Empty => FrontendEvent::Empty,
            },
            demand = self.http.next() => match demand {
                Demand::Bridge(event) => FrontendEvent::Bridge(event),
                Demand::Reload(id) => FrontendEvent::Reload(id),
                Demand::Show(request) => FrontendEvent::Show(request),
                Demand::Portion(request) => FrontendEvent::Portion(request),
            },
        }
    }

    /// Stops every frontend, which publishes `offline` first.
    pub(super) async fn stop(&mut self) {
        self.http.stop().await;
        self.mqtt.stop().await;
    }
}

/// Whether the frontend of this origin gets the update.
fn is_for(update: &Update, frontend: Origin) -> bool {
    match update {
        Update::Response { id, .. } => id.origin() == frontend,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bridge::event::{CommandResult, Ended};
    use crate::model::PlugName;

    #[test]
    fn results_go_to_every_frontend_and_responses_to_their_origin_alone() {
        const ALL: [Origin; 3] = [Origin::Mqtt, Origin::Http, Origin::CommandLine];
        let ids = IdAllocator::default();
        for origin in ALL {
            let result = Update::Result(CommandResult {
                id: ids.command(origin),
                plug: PlugName::placeholder(),
                ended: Ended::Ok,
                state: None,
                route: None,
                took: Duration::ZERO,
            });
            let response = Update::Response { id: ids.request(origin), result: Ok(()) };
            for frontend in ALL {
                assert!(is_for(&result, frontend) && is_for(&Update::Ready, frontend));
                assert_eq!(is_for(&response, frontend), frontend == origin, "{response:?}");
            }
        }
    }
}
