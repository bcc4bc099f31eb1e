//! HTTP in the daemon: the server, and the part of HTTP that lives in the loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::bridge::event::{IdAllocator, Update};
use crate::bridge::snapshot::Snapshot;
use crate::http::HttpOptions;
use crate::http::calls::{Call, Caller, ShowRequest};
use crate::http::frontend::{Demand, Frontend};
use crate::http::guard::Guard;
use crate::http::overview::{BrokerStatus, DaemonInfo};
use crate::http::routes::{App, router};
use crate::http::server::Server;
use crate::payload::Clock;

/// The HTTP frontend. It exists longer than its server.
pub(super) struct HttpFrontend {
    ids: IdAllocator,
    daemon_info: DaemonInfo,
    /// `None` while HTTP is off, or its address cannot be used.
    running: Option<Running>,
}

/// HTTP while it is served.
struct Running {
    options: HttpOptions,
    server: Server,
    calls: mpsc::Receiver<Call>,
    frontend: Frontend,
}

impl HttpFrontend {
    /// Serves as the options say; not at all if there are none, or if the address cannot be used. That is logged, because the
    /// daemon serves the plugs without HTTP as well.
    pub(super) fn start(options: Option<HttpOptions>, ids: IdAllocator, daemon_info: DaemonInfo) -> Self {
        let mut http = Self { ids, daemon_info, running: None };
        http.serve(options);
        http
    }

    /// Serves as these options say from now on.
    pub(super) fn serve(&mut self, options: Option<HttpOptions>) {
        if self.running.as_ref().map(|running| &running.options) == options.as_ref() {
            return;
        }
        self.running = None;
        let Some(options) = options else { return };
        match self.start_server(&options) {
            Ok((server, calls)) => {
                tracing::info!("the status page is at http://{}/", server.address());
                self.running = Some(Running { options, server, calls, frontend: Frontend::default() });
            }
            Err(error) => tracing::warn!(
                "http.listen {}: {error}: there is no status page and no API until the next start or reload; the \
                 plugs are served all the same",
                options.listen
            ),
        }
    }

    fn start_server(&self, options: &HttpOptions) -> std::io::Result<(Server, mpsc::Receiver<Call>)> {
        let HttpOptions { listen, token, read_token, allowed_hosts, simple_get } = options.clone();
        let (caller, calls) = Caller::new(self.ids.clone());
        let guard = Arc::new(Guard { allowed_hosts, token, read_token, simple_get });
        let server =
            Server::start(&listen, router(App { caller, daemon_info: self.daemon_info.clone(), guard }))?;
        Ok((server, calls))
    }

    /// Where it is served, if it is.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        Some(self.running.as_ref()?.server.address())
    }

    /// The next demand of a client. Cancel safe.
    pub(super) async fn next(&mut self) -> Demand {
        let call = match &mut self.running {
            Some(running) => running.calls.recv().await,
            None => None,
        };
        match (call, &mut self.running) {
            (Some(call), Some(running)) => running.frontend.accept(call),
            _ => std::future::pending().await,
        }
    }

    /// Answers a demand to see the state of the daemon.
    pub(super) fn show(&self, request: ShowRequest, snapshot: Snapshot, broker: BrokerStatus, clock: Clock) {
        if let Some(running) = &self.running {
            running.frontend.show(request, snapshot, broker, clock);
        }
    }

    pub(super) fn publish(&mut self, update: &Update, clock: Clock) {
        if let Some(running) = &mut self.running {
            running.frontend.publish(update, clock);
        }
    }

    /// Begins the histories of a server that was started just now with what is known.
    pub(super) fn begin(&mut self, snapshot: impl FnOnce() -> Snapshot, now: Instant) {
        if let Some(running) = self.running.as_mut().filter(|running| running.frontend.is_empty()) {
            running.frontend.begin(&snapshot(), now);
        }
    }

    /// Ends all connections.
    pub(super) fn stop(&mut self) {
        self.running = None;
    }
}
