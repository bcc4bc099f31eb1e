//! The embedded broker while it runs: its start, the clients that come, and its end.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::auth::Authenticator;
use super::client::{SharedBroker, serve, until};
use super::options::{BrokerError, BrokerOptions};
use super::state::{BrokerState, lock};
use super::store::{BrokerStore, InUse, StoreWriter, is_in_use};
use crate::logging::Repeated;

/// The broker's own folder in the state directory.
const FOLDER: &str = "broker";
/// A folder that cannot be read is moved here, so that the user can look into it.
const DAMAGED: &str = "broker.damaged";
/// The most connections that have not logged in. With the clients they fit into the 1024 files that a process may usually
/// open.
const MAX_UNKNOWN: usize = 256;
/// How long a DISCONNECT that was sent may take to be read.
const DISCONNECT_WITHIN: Duration = Duration::from_millis(500);
/// How long connections may take to end when the broker stops. A will with a longer delay is lost.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1500);
/// The pause between two looks at a condition that nothing announces.
const RECHECK: Duration = Duration::from_millis(20);
/// After so long without a packet the system asks whether a client is there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// The pause before a client is accepted again after that failed.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long to wait for a broker that was stopped in this process to finish writing.
const STORE_FREE_WITHIN: Duration = Duration::from_secs(6);

/// A broker that runs until this value is dropped.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    state: Arc<Mutex<BrokerState>>,
    store_writer: StoreWriter,
    /// Dropping it stops everything.
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl EmbeddedBroker {
    /// Starts it, and returns when clients can connect. A store that cannot be read is moved aside; while a store cannot be
    /// written, the broker works in memory. Both are logged as a warning.
    ///
    /// # Errors
    ///
    /// See [`BrokerError`].
    pub async fn start(options: BrokerOptions) -> Result<Self, BrokerError> {
        let BrokerOptions { listen, .. } = options;
        let listener = bind(&options)?;
        let address =
            listener.local_addr().map_err(|source| BrokerError::Listen { address: listen, source })?;
        let folder = options.state_dir.join(FOLDER);
        wait_for_store(&folder).await?;
        let state = Arc::new(Mutex::new(BrokerState::default()));
        let aside = options.state_dir.join(DAMAGED);
        let store = BrokerStore::open(&folder, &aside, Arc::clone(&state))
            .await
            .map_err(|InUse| BrokerError::StoreInUse(folder))?;
        let users = options.users;
        let shared = Arc::new(SharedBroker {
            state: Arc::clone(&state),
            authenticator: (!users.is_empty()).then(|| Authenticator::new(users)),
            refused: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(());
        tokio::spawn(expire_when_due(Arc::clone(&shared), stopped.clone()));
        let task = tokio::spawn(accept(listener, shared, stopped));
        Ok(Self { address, state, store_writer: store.spawn_writer(), stop, task })
    }

    /// Checks whether it may and can listen there now.
    pub(crate) fn check(options: &BrokerOptions) -> Result<(), BrokerError> {
        bind_std(options).map(|_| ())
    }

    /// The address and port that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// How many clients are connected.
    pub(crate) fn clients(&self) -> usize {
        lock(&self.state).connected()
    }

    /// Waits, for half a second at most, until fewer than `clients` are connected. A DISCONNECT that was sent must be read
    /// before [`EmbeddedBroker::stop`] ends the connection, or its last will would be published.
    pub(crate) async fn wait_for_fewer_clients(&self, clients: usize) {
        let left = async {
            while self.clients() >= clients.max(1) {
                tokio::time::sleep(RECHECK).await;
            }
        };
        // `stop` ends those that are left.
        let _ = tokio::time::timeout(DISCONNECT_WITHIN, left).await;
    }

    /// Ends all connections, and waits until everything is written and another broker may open the store.
    pub async fn stop(self) {
        let Self { store_writer, stop, mut task, .. } = self;
        drop(stop);
        // An error means that the task panicked, so it has ended too.
        if tokio::time::timeout(DRAIN_TIMEOUT, &mut task).await.is_err() {
            task.abort();
        }
        store_writer.stop().await;
    }
}

/// Accepts clients until the sender of `stop` is dropped, then waits for the connections to end.
async fn accept(listener: TcpListener, shared: Arc<SharedBroker>, mut stop: watch::Receiver<()>) {
    let permits = Arc::new(Semaphore::new(MAX_UNKNOWN));
    let mut clients = JoinSet::new();
    let mut failures = Repeated::default();
    let mut again_at = None;
    loop {
        tokio::select! {
            accepted = listener.accept(), if again_at.is_none() => match accepted {
                Ok((stream, address)) => {
                    failures = Repeated::default();
                    let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                        shared.log_refusal(&format!("{MAX_UNKNOWN} connections have not logged in"));
                        continue;
                    };
                    // Only latency is at stake, and how long a client counts that asked for no keep-alive and is gone.
                    let _ = stream.set_nodelay(true);
                    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE);
                    let _ = SockRef::from(&stream).set_tcp_keepalive(&keep_alive);
                    clients.spawn(serve(stream, address, Arc::clone(&shared), stop.clone(), permit));
                }
                Err(error) => {
                    if failures.failed(&error.to_string(), Instant::now()).is_some() {
                        tracing::warn!(
                            "the embedded broker cannot accept a client: {error}: it is tried again; allow this service \
                             more open files (LimitNOFILE) if it lasts"
                        );
                    }
                    again_at = Some(Instant::now() + ACCEPT_AGAIN_AFTER);
                }
            },
            () = until(again_at), if again_at.is_some() => again_at = None,
            Some(_) = clients.join_next(), if !clients.is_empty() => {}
            // It says nothing else than its end.
            _ = stop.changed() => break,
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

/// Ends sessions and publishes last wills when they are due.
async fn expire_when_due(shared: Arc<SharedBroker>, mut stop: watch::Receiver<()>) {
    let changed = Arc::clone(&shared.lock().due);
    loop {
        let due = shared.lock().next_due();
        tokio::select! {
            () = until(due) => shared.lock().expire(Instant::now()),
            () = changed.notified() => {}
            _ = stop.changed() => return,
        }
    }
}

/// Waits until no other broker uses the store.
async fn wait_for_store(folder: &Path) -> Result<(), BrokerError> {
    let give_up = Instant::now() + STORE_FREE_WITHIN;
    while is_in_use(folder) {
        if Instant::now() >= give_up {
            return Err(BrokerError::StoreInUse(folder.to_owned()));
        }
        tokio::time::sleep(RECHECK).await;
    }
    Ok(())
}

fn bind(options: &BrokerOptions) -> Result<TcpListener, BrokerError> {
    let listener = bind_std(options)?;
    let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    listener.map_err(|source| listen_error(options.listen, source))
}

fn bind_std(options: &BrokerOptions) -> Result<std::net::TcpListener, BrokerError> {
    let listen = options.listen;
    if !listen.ip().is_loopback() && options.users.is_empty() {
        return Err(BrokerError::NotLoopback(listen));
    }
    // The library lets a port be used again right after its last user.
    std::net::TcpListener::bind(listen).map_err(|source| listen_error(listen, source))
}

fn listen_error(address: SocketAddr, source: io::Error) -> BrokerError {
    match source.kind() {
        ErrorKind::AddrInUse => BrokerError::PortTaken(address),
        _ => BrokerError::Listen { address, source },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn options(state_dir: &Path) -> BrokerOptions {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        BrokerOptions { listen, users: Vec::new(), state_dir: state_dir.to_owned() }
    }

    #[tokio::test]
    async fn an_address_that_others_can_reach_is_refused_without_users() {
        let folder = tempfile::tempdir().unwrap();
        for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:1883"] {
            let options = BrokerOptions { listen: listen.parse().unwrap(), ..options(folder.path()) };
            let error = EmbeddedBroker::start(options).await.unwrap_err();
            assert!(matches!(error, BrokerError::NotLoopback(_)), "{error}");
            assert!(!error.to_string().contains('\n') && error.to_string().contains("broker.listen"));
        }
    }

    #[tokio::test]
    async fn a_taken_port_has_an_error_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let options = BrokerOptions { listen: other.local_addr().unwrap(), ..options(folder.path()) };
        let error = EmbeddedBroker::start(options).await.unwrap_err();
        assert!(matches!(error, BrokerError::PortTaken(_)), "{error}");
    }

    #[tokio::test]
    async fn a_damaged_store_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("broker");
        std::fs::write(&store, "not a folder").unwrap();
        let broker = EmbeddedBroker::start(options(folder.path())).await.unwrap();
        assert!(tokio::net::TcpStream::connect(broker.addr()).await.is_ok());
        broker.stop().await;
        assert_eq!(std::fs::read(folder.path().join("broker.damaged")).unwrap(), b"not a folder");
        assert!(store.is_dir());
    }

    #[tokio::test]
    async fn the_store_is_readable_for_its_owner_only_and_used_by_one_broker() {
        let folder = tempfile::tempdir().unwrap();
        let broker = EmbeddedBroker::start(options(folder.path())).await.unwrap();
        let mode = std::fs::metadata(folder.path().join("broker")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let error = EmbeddedBroker::start(options(folder.path())).await.unwrap_err();
        assert!(matches!(error, BrokerError::StoreInUse(_)), "{error}");
        broker.stop().await;
        EmbeddedBroker::start(options(folder.path())).await.unwrap().stop().await;
    }

    #[tokio::test]
    async fn clients_can_connect_while_the_store_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        // A state directory that is a file can neither hold a folder nor be moved aside.
        let state_dir = folder.path().join("state");
        std::fs::write(&state_dir, "").unwrap();
        let broker = EmbeddedBroker::start(options(&state_dir)).await.unwrap();
        assert!(tokio::net::TcpStream::connect(broker.addr()).await.is_ok());
        broker.stop().await;
    }
}
