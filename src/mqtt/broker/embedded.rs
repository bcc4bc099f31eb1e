//! The embedded broker while it runs: its start, its limits, and its end.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mqtt5::broker::config::{StorageBackend, StorageConfig};
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::{BrokerConfig, BrokerEventHandler, BrokerShutdownHandle, MqttBroker};
use tokio::task::JoinHandle;

use super::auth::Authenticator;
use super::options::{BrokerError, BrokerOptions};
use super::store::{BrokerStore, InUse, MAX_RETAINED, StoreWriter, first_line, is_in_use};

/// The broker's own folder in the state directory.
const FOLDER: &str = "broker";
/// A folder that cannot be read is moved here, so that the user can look into it.
const DAMAGED: &str = "broker.damaged";
/// The largest packet that is accepted, in bytes; plugs need far less.
const MAX_PACKET_SIZE: usize = 1024 * 1024;
/// The largest retained message, in bytes; discovery payloads have a few thousand.
const MAX_RETAINED_SIZE: usize = 256 * 1024;
/// Enough for a home. Together with the connections to plugs they fit into the 1024 files that a process may usually open;
/// without a free file descriptor the broker retries to accept a client without a pause.
const MAX_CLIENTS: usize = 128;
/// The longest session expiry that a client gets.
const MAX_SESSION_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// How long the broker may take to read a DISCONNECT that was sent to it.
const DISCONNECT_WITHIN: Duration = Duration::from_millis(500);
/// How long connections may take to end when the broker stops. A will with a longer delay is lost.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1500);
/// The pause between two looks at a condition that nothing announces.
const RECHECK: Duration = Duration::from_millis(20);
/// How long to wait for a broker that was stopped in this process to finish writing.
const STORE_FREE_WITHIN: Duration = Duration::from_secs(6);

/// A broker that runs until this value is dropped.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    store_writer: StoreWriter,
    shutdown: ShutdownOnDrop,
    stats: Arc<BrokerStats>,
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
        // Checked first: the broker would log the same in a line of its own.
        Self::check(&options)?;
        let BrokerOptions { listen, users, state_dir } = options;
        let folder = state_dir.join(FOLDER);
        Self::wait_for_store(listen, &folder).await?;
        let mut store = BrokerStore::open(&folder, &state_dir.join(DAMAGED))
            .await
            .map_err(|InUse| BrokerError::StoreInUse(folder))?;
        let mut broker = match MqttBroker::with_config(config(listen, store.changes())).await {
            Ok(broker) => broker,
            Err(error) => {
                return Err(port_error(listen).unwrap_or_else(|| BrokerError::Failed(first_line(&error))));
            }
        };
        if let Some(memory) = broker.storage() {
            store.restore(&memory).await;
        }
        if !users.is_empty() {
            broker = broker.with_auth_provider(Arc::new(Authenticator::new(users)));
        }
        let address = broker.local_addr().unwrap_or(listen);
        let shutdown = ShutdownOnDrop(broker.shutdown_handle());
        let stats = broker.stats();
        let mut ready = broker.ready_receiver();
        let mut run = tokio::spawn(async move { broker.run().await });
        tokio::select! {
            // If the sender is dropped, the broker has ended, and `run` says why.
            Ok(_) = ready.wait_for(|ready| *ready) => {}
            ended = &mut run => {
                return Err(match ended {
                    Ok(Err(error)) => BrokerError::Failed(first_line(&error)),
                    _ => BrokerError::Failed("it ended by itself".to_owned()),
                });
            }
        }
        let task = tokio::spawn(async move {
            if let Ok(Err(error)) = run.await {
                tracing::error!("the embedded broker has ended: {error}: restart hs100d");
            }
        });
        Ok(Self { address, store_writer: store.spawn_writer(), shutdown, stats, task })
    }

    /// Checks whether it may and can listen there now.
    pub(crate) fn check(options: &BrokerOptions) -> Result<(), BrokerError> {
        let listen = options.listen;
        if !listen.ip().is_loopback() && options.users.is_empty() {
            return Err(BrokerError::NotLoopback(listen));
        }
        port_error(listen).map_or(Ok(()), Err)
    }

    /// The address and port that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// How many clients are connected.
    pub(crate) fn clients(&self) -> usize {
        self.stats.clients_connected.load(Ordering::Relaxed)
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
        let Self { store_writer, shutdown, mut task, .. } = self;
        shutdown.signal();
        let ended = async {
            // An error means that the task panicked, so it has ended too.
            let _ = (&mut task).await;
            store_writer.stop().await;
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, ended).await.is_err() {
            task.abort();
        }
    }

    /// Waits until no other broker uses the store. Gives up at once if the port is taken: that broker stays.
    async fn wait_for_store(listen: SocketAddr, folder: &Path) -> Result<(), BrokerError> {
        let give_up = Instant::now() + STORE_FREE_WITHIN;
        while is_in_use(folder) {
            if let Some(failure) = port_error(listen) {
                return Err(failure);
            }
            if Instant::now() >= give_up {
                return Err(BrokerError::StoreInUse(folder.to_owned()));
            }
            tokio::time::sleep(RECHECK).await;
        }
        Ok(())
    }
}

/// Stops the broker when it is dropped.
struct ShutdownOnDrop(BrokerShutdownHandle);

impl ShutdownOnDrop {
    fn signal(&self) {
        self.0.shutdown();
    }
}

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        self.signal();
    }
}

impl std::fmt::Debug for ShutdownOnDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShutdownOnDrop")
    }
}

fn config(listen: SocketAddr, changes: Arc<dyn BrokerEventHandler>) -> BrokerConfig {
    let mut config = BrokerConfig::new()
        .with_bind_address(listen)
        .with_max_clients(MAX_CLIENTS)
        .with_session_expiry(MAX_SESSION_EXPIRY)
        .with_max_packet_size(MAX_PACKET_SIZE)
        .with_max_retained_messages(MAX_RETAINED)
        .with_max_retained_message_size(MAX_RETAINED_SIZE)
        .with_event_handler(changes);
    config.storage_config = StorageConfig::new().with_backend(StorageBackend::Memory);
    // These retained figures would be written to disk every few seconds.
    config.sys_topics_enabled = false;
    config
}

/// Why the port cannot be used, if so; the broker has no error of its own for it.
fn port_error(listen: SocketAddr) -> Option<BrokerError> {
    let source = TcpListener::bind(listen).err()?;
    Some(match source.kind() {
        ErrorKind::AddrInUse => BrokerError::PortTaken(listen),
        _ => BrokerError::Listen { address: listen, source },
    })
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
        for damage in ["version", "file"] {
            std::fs::remove_dir_all(&store).or_else(|_| std::fs::remove_file(&store)).ok();
            match damage {
                "version" => {
                    std::fs::create_dir_all(&store).unwrap();
                    std::fs::write(store.join(".storage_version"), [0xff, 0xfe, 0]).unwrap();
                }
                _ => std::fs::write(&store, "not a folder").unwrap(),
            }
            let broker = EmbeddedBroker::start(options(folder.path())).await.unwrap();
            assert!(tokio::net::TcpStream::connect(broker.addr()).await.is_ok(), "{damage}");
            broker.stop().await;
            assert!(folder.path().join("broker.damaged").exists(), "{damage}");
            assert!(store.join("retained").is_dir(), "{damage}");
        }
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
