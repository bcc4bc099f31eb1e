//! HTTP in the daemon: the server, and the part of HTTP that lives in the loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::bridge::event::{IdAllocator, Update};
use crate::bridge::snapshot::Snapshot;
use crate::http::HttpOptions;
use crate::http::calls::{Call, Caller, ShowRequest};
use crate::http::frontend::{Demand, Frontend};
use crate::http::guard::Guard;
use crate::http::overview::{BrokerStatus, DaemonInfo, Overview};
use crate::http::routes::{App, router};
use crate::http::server::Server;
use crate::payload::Clock;

/// Between two attempts to listen at an address that is taken, or that the machine does not have yet.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The HTTP frontend. It exists longer than its server.
pub(super) struct HttpFrontend {
    ids: IdAllocator,
    daemon_info: DaemonInfo,
    /// `None` while HTTP is off.
    running: Option<Running>,
}

/// HTTP while it is on.
struct Running {
    options: HttpOptions,
    /// `None` while the address cannot be used.
    server: Option<Server>,
    next_attempt: Instant,
    caller: Caller,
    calls: mpsc::Receiver<Call>,
    frontend: Frontend,
}

impl HttpFrontend {
    /// Serves as the options say; not at all if there are none.
    pub(super) fn start(options: Option<HttpOptions>, ids: IdAllocator, daemon_info: DaemonInfo) -> Self {
        let mut http = Self { ids, daemon_info, running: None };
        http.serve(options);
        http
    }

    /// Serves as these options say from now on. The histories are kept; the socket as well, if it is the same.
    pub(super) fn serve(&mut self, options: Option<HttpOptions>) {
        let Some(options) = options else {
            self.running = None;
            return;
        };
        match &mut self.running {
            Some(running) => running.change(options, &self.daemon_info),
            None => {
                let (caller, calls) = Caller::new(self.ids.clone());
                let frontend = Frontend::default();
                let next_attempt = Instant::now();
                let mut running = Running { options, server: None, next_attempt, caller, calls, frontend };
                running.listen(&self.daemon_info, true);
                self.running = Some(running);
            }
        }
    }

    /// Where it is served, if it is on a port.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.running.as_ref()?.server.as_ref()?.address()
    }

    /// The next demand of a client. Cancel safe.
    pub(super) async fn next(&mut self) -> Demand {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        loop {
            tokio::select! {
                Some(call) = running.calls.recv() => return running.frontend.accept(call),
                () = sleep_until(running.next_attempt.into()), if running.server.is_none() => {
                    running.listen(&self.daemon_info, false);
                }
            }
        }
    }

    /// Answers a demand to see the state of the daemon.
    pub(super) fn show(
        &mut self,
        request: ShowRequest,
        snapshot: Snapshot,
        broker: BrokerStatus,
        clock: Clock,
    ) {
        if let Some(running) = &mut self.running {
            running.frontend.show(request, snapshot, broker, clock);
        }
    }

    /// Shows the bridge, without its plugs, to those who read the events.
    pub(super) fn show_bridge(
        &mut self,
        snapshot: impl FnOnce() -> Snapshot,
        broker: BrokerStatus,
        clock: Clock,
    ) {
        if let Some(running) = self.running.as_mut().filter(|running| running.frontend.has_readers()) {
            let overview = Overview { snapshot: snapshot(), histories: Vec::new(), broker, clock };
            running.frontend.show_bridge(&overview, &self.daemon_info);
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

    /// Answers the handlers that wait, and ends all connections.
    pub(super) async fn stop(&mut self) {
        let Some(Running { server, .. }) = self.running.take() else { return };
        if let Some(server) = server {
            server.stop().await;
        }
    }
}

impl Running {
    fn change(&mut self, options: HttpOptions, daemon_info: &DaemonInfo) {
        if self.options == options && self.server.is_some() {
            return;
        }
        let is_same_address = self.options.listen == options.listen;
        self.options = options;
        match &self.server {
            Some(server) if is_same_address => server.serve(self.router(daemon_info)),
            _ => {
                // The new address may overlap the old one.
                self.server = None;
                self.listen(daemon_info, true);
            }
        }
    }

    /// An address that cannot be used is logged at the first attempt, because the daemon serves the plugs without HTTP as well.
    fn listen(&mut self, daemon_info: &DaemonInfo, is_first: bool) {
        let listen = &self.options.listen;
        match Server::start(listen, self.router(daemon_info)) {
            Ok(server) => {
                match server.address() {
                    Some(address) => tracing::info!("the status page is at http://{address}/"),
                    None => tracing::info!("the status page is at {listen}"),
                }
                self.server = Some(server);
            }
            Err(error) => {
                if is_first {
                    tracing::warn!(
                        "http.listen {listen}: {error}: there is no status page and no API until this address can be \
                         used; the plugs are served all the same"
                    );
                }
                self.next_attempt = Instant::now() + RETRY_PAUSE;
            }
        }
    }

    fn router(&self, daemon_info: &DaemonInfo) -> axum::Router {
        let HttpOptions { token, read_token, allowed_hosts, simple_get, .. } = self.options.clone();
        let guard = Arc::new(Guard { allowed_hosts, token, read_token, simple_get });
        router(App { caller: self.caller.clone(), daemon_info: daemon_info.clone(), guard })
    }
}
