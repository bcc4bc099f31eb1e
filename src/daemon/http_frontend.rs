//! HTTP in the daemon: the server, and the part of HTTP that lives in the loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
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

/// The HTTP frontend. It exists longer than its servers.
pub(super) struct HttpFrontend {
    ids: IdAllocator,
    daemon_info: DaemonInfo,
    /// `None` while HTTP is off.
    running: Option<Running>,
}

/// How each listener is served: that of `[http]`, and the one behind Home Assistant's proxy. `None`: not at all.
type Listeners<T> = [Option<T>; 2];

/// HTTP while it is on.
struct Running {
    caller: Caller,
    calls: mpsc::Receiver<Call>,
    frontend: Frontend,
    bindings: Listeners<Binding>,
}

/// A listener, or the attempts to have it.
struct Binding {
    options: HttpOptions,
    /// `None` while the address cannot be used.
    server: Option<Server>,
    next_attempt: Instant,
}

impl HttpFrontend {
    /// Serves as the options say; not at all if there are none.
    pub(super) fn start(options: Listeners<HttpOptions>, ids: IdAllocator, daemon_info: DaemonInfo) -> Self {
        let mut http = Self { ids, daemon_info, running: None };
        http.serve(options);
        http
    }

    /// Serves as these options say from now on. The histories are kept; each socket as well, if it is the same.
    pub(super) fn serve(&mut self, options: Listeners<HttpOptions>) {
        if options.iter().all(Option::is_none) {
            self.running = None;
            return;
        }
        let running = self.running.get_or_insert_with(|| Running::new(self.ids.clone()));
        running.serve(options, &self.daemon_info);
    }

    /// Where `[http]` is served, if it is on a port.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.running.as_ref()?.bindings[0].as_ref()?.server.as_ref()?.address()
    }

    /// The next demand of a client. Cancel safe.
    pub(super) async fn next(&mut self) -> Demand {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        loop {
            let next_attempt = running.next_attempt();
            tokio::select! {
                Some(call) = running.calls.recv() => return running.frontend.accept(call),
                () = sleep_until(next_attempt.unwrap_or_else(Instant::now).into()), if next_attempt.is_some() => {
                    running.listen(&self.daemon_info);
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
        let Some(Running { bindings, .. }) = self.running.take() else { return };
        for server in bindings.into_iter().flatten().filter_map(|binding| binding.server) {
            server.stop().await;
        }
    }
}

impl Running {
    fn new(ids: IdAllocator) -> Self {
        let (caller, calls) = Caller::new(ids);
        Self { caller, calls, frontend: Frontend::default(), bindings: [None, None] }
    }

    fn serve(&mut self, options: Listeners<HttpOptions>, daemon_info: &DaemonInfo) {
        // New addresses may overlap old ones.
        for (binding, options) in self.bindings.iter_mut().zip(&options) {
            let keeps = |old: &mut Binding| {
                options.as_ref().is_some_and(|new| {
                    (&new.listen, new.only_from) == (&old.options.listen, old.options.only_from)
                })
            };
            binding.take_if(|old| !keeps(old));
        }
        for (binding, options) in self.bindings.iter_mut().zip(options) {
            let Some(options) = options else { continue };
            let is_served = |old: &Binding| old.server.is_some() && old.options == options;
            if binding.as_ref().is_some_and(is_served) {
                continue;
            }
            let router = router_of(&options, &self.caller, daemon_info);
            match binding {
                Some(binding) => binding.change(options, router),
                None => *binding = Some(Binding::new(options, router)),
            }
        }
    }

    /// When a listener is to be tried again; `None` if there is nothing to try.
    fn next_attempt(&self) -> Option<Instant> {
        let missing = self.bindings.iter().flatten().filter(|binding| binding.server.is_none());
        missing.map(|binding| binding.next_attempt).min()
    }

    /// Tries again what is due.
    fn listen(&mut self, daemon_info: &DaemonInfo) {
        let now = Instant::now();
        for binding in self.bindings.iter_mut().flatten() {
            if binding.server.is_none() && binding.next_attempt <= now {
                binding.listen(router_of(&binding.options, &self.caller, daemon_info), false);
            }
        }
    }
}

impl Binding {
    fn new(options: HttpOptions, router: Router) -> Self {
        let mut binding = Self { options, server: None, next_attempt: Instant::now() };
        binding.listen(router, true);
        binding
    }

    fn change(&mut self, options: HttpOptions, router: Router) {
        self.options = options;
        match &self.server {
            Some(server) => server.serve(router),
            None => self.listen(router, true),
        }
    }

    /// An address that cannot be used is logged at the first attempt, because the daemon serves the plugs without HTTP as well.
    fn listen(&mut self, router: Router, is_first: bool) {
        let HttpOptions { listen, only_from, .. } = &self.options;
        match Server::start(listen, *only_from, router) {
            Ok(server) => {
                match server.address() {
                    Some(_) if only_from.is_some() => tracing::info!("the status page is in Home Assistant"),
                    Some(address) => tracing::info!("the status page is at http://{address}/"),
                    None => tracing::info!("the status page is at {listen}"),
                }
                self.server = Some(server);
            }
            Err(error) => {
                if is_first {
                    let key = if only_from.is_some() { "ingress" } else { "http.listen" };
                    tracing::warn!(
                        "{key} {listen}: {error}: there is no status page and no API until this address can be used; the \
                         plugs are served all the same"
                    );
                }
                self.next_attempt = Instant::now() + RETRY_PAUSE;
            }
        }
    }
}

fn router_of(options: &HttpOptions, caller: &Caller, daemon_info: &DaemonInfo) -> Router {
    let HttpOptions { only_from, token, read_token, allowed_hosts, simple_get, .. } = options.clone();
    let is_ingress = only_from.is_some();
    let guard = Arc::new(Guard { allowed_hosts, token, read_token, simple_get, is_ingress });
    router(App { caller: caller.clone(), daemon_info: daemon_info.clone(), guard })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::time::timeout;

    use super::*;
    use crate::bridge::counters::CloudRequests;
    use crate::http::{IngressOptions, Listen};

    fn started(options: Listeners<HttpOptions>) -> HttpFrontend {
        let daemon_info = DaemonInfo {
            instance: "abc".into(),
            started: Instant::now(),
            cloud_requests: CloudRequests::default(),
        };
        HttpFrontend::start(options, IdAllocator::default(), daemon_info)
    }

    fn address(http: &HttpFrontend, which: usize) -> Option<SocketAddr> {
        http.running.as_ref()?.bindings[which].as_ref()?.server.as_ref()?.address()
    }

    #[tokio::test]
    async fn each_of_the_two_listeners_comes_and_goes_without_the_other() {
        let free = "127.0.0.1:0".parse().unwrap();
        let own = Some(HttpOptions::at(Listen::Tcp(free)));
        let only_from = "127.0.0.2".parse().unwrap();
        let ingress = Some(HttpOptions::from(IngressOptions { listen: free, only_from }));
        let mut http = started([None, ingress.clone()]);
        let of_ingress = address(&http, 1).unwrap();
        assert_eq!(http.address(), None, "that of the config is off");

        http.serve([own.clone(), ingress]);
        let of_config = http.address().unwrap();
        assert_eq!(address(&http, 1), Some(of_ingress), "the socket is kept");
        http.serve([own, None]);
        assert_eq!(http.address(), Some(of_config), "the socket is kept");
        drop(TcpListener::bind(of_ingress).unwrap());
        http.serve([None, None]);
        assert!(http.running.is_none() && TcpListener::bind(of_config).is_ok());
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_tried_again() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap();
        let mut http = started([Some(HttpOptions::at(Listen::Tcp(taken))), None]);
        assert_eq!(http.address(), None);
        drop(other);
        http.running.as_mut().unwrap().bindings[0].as_mut().unwrap().next_attempt = Instant::now();
        for _ in 0..500 {
            // Nothing is demanded; the attempt is made while that is waited for.
            let waited = timeout(Duration::from_millis(10), http.next()).await;
            assert!(waited.is_err(), "nobody asks for anything");
            if http.address().is_some() {
                break;
            }
        }
        assert_eq!(http.address(), Some(taken));
    }
}
