//! The embedded broker: for houses that have none, for `demo`, and for tests.
//!
//! It speaks MQTT 5 and 3.1.1 on one port, works in memory, and has `broker_store` write what outlives a restart. Unless
//! it was told of users, it refuses to listen anywhere but on this machine. Built without the feature `broker`, starting
//! it is an error that says so.

#[cfg(feature = "broker")]
mod auth;
#[cfg(feature = "broker")]
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::secret::Secret;

/// Where the embedded broker listens and keeps what is retained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerOptions {
    /// On loopback only, unless there are users. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may log in; nobody: whoever reaches it need not.
    pub users: Vec<User>,
    /// The folder that outlives a restart; the broker has one of its own in it.
    pub state_dir: PathBuf,
}

/// Somebody who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user name.
    pub name: String,
    /// And the proof.
    pub password: Secret,
}

/// Why the embedded broker does not run.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Anybody on the network could switch the plugs.
    #[error(
        "broker.listen: {0} is reachable from other machines, and there is no [[broker.user]]: add one, or use \
         127.0.0.1"
    )]
    NotLoopback(SocketAddr),
    /// Somebody else listens there.
    #[error(
        "broker.listen: {0} is taken: set mqtt.url to use the broker that listens there, or another port in \
         broker.listen"
    )]
    PortTaken(SocketAddr),
    /// The system does not let us listen there.
    #[error(
        "broker.listen: cannot listen on {address}: {source}: set another address or port in broker.listen"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process keeps its messages in our folder.
    #[error(
        "{0}: another embedded broker keeps its messages there: stop it first, or use another state directory"
    )]
    StoreInUse(PathBuf),
    /// It started, and ended by itself.
    #[error("the embedded broker failed to start: {0}: set mqtt.url to use another broker")]
    Failed(String),
    /// The program was built without it.
    #[error(
        "this hs100d was built without the embedded broker: set mqtt.url, or build it with the feature \"broker\""
    )]
    NotBuilt,
}

impl BrokerError {
    /// Whether it may pass by itself: a port that is taken now may be free in an hour, and an address that this machine
    /// does not have yet comes with its network.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::PortTaken(_) => true,
            Self::Listen { source, .. } => source.kind() == std::io::ErrorKind::AddrNotAvailable,
            Self::NotLoopback(_) | Self::StoreInUse(_) | Self::Failed(_) | Self::NotBuilt => false,
        }
    }
}

#[cfg(not(feature = "broker"))]
mod absent {
    use super::{BrokerError, BrokerOptions, SocketAddr};

    /// A broker that is not there; it cannot be made.
    #[derive(Debug)]
    pub struct EmbeddedBroker(std::convert::Infallible);

    impl EmbeddedBroker {
        /// Always fails.
        ///
        /// # Errors
        ///
        /// [`BrokerError::NotBuilt`].
        pub async fn start(_: BrokerOptions) -> Result<Self, BrokerError> {
            Err(BrokerError::NotBuilt)
        }

        /// Where it listens.
        pub fn addr(&self) -> SocketAddr {
            match self.0 {}
        }

        /// How many clients are connected.
        pub fn clients(&self) -> usize {
            match self.0 {}
        }

        /// Waits for a goodbye.
        pub async fn see_off(&self, _guests: usize) {
            match self.0 {}
        }

        /// Stops it.
        pub async fn stop(self) {
            match self.0 {}
        }
    }
}

#[cfg(not(feature = "broker"))]
pub use absent::EmbeddedBroker;
#[cfg(feature = "broker")]
pub use present::EmbeddedBroker;

#[cfg(feature = "broker")]
mod present {
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

    use super::{BrokerError, BrokerOptions};
    use crate::mqtt::broker::auth::Authenticator;
    use crate::mqtt::broker::store::{BrokerStore, InUse, Keeping, MOST_KEPT, first_line, is_in_use};

    /// The broker's own folder in the state directory.
    const FOLDER: &str = "broker";
    /// Where a folder goes that cannot be read, for whoever wants to know why.
    const DAMAGED: &str = "broker.damaged";
    /// The largest packet that is taken, in bytes. Nothing in a house of plugs comes near it.
    const LARGEST_PACKET: usize = 1024 * 1024;
    /// The largest message that is kept, in bytes: the documents of Home Assistant have a few thousand.
    const LARGEST_KEPT: usize = 256 * 1024;
    /// Clients of one house. With the connections to plugs they fit into the 1024 files that a process may usually
    /// open: when those have run out, the broker asks the system for the next client again and again without a pause.
    const MOST_CLIENTS: usize = 128;
    /// How long a client that went away may find its session again.
    const LONGEST_SESSION: Duration = Duration::from_secs(24 * 3600);
    /// How long a goodbye that was sent may take to be read.
    const LAST_WORD: Duration = Duration::from_millis(500);
    /// What clients get to end their connections when the broker stops. A will that is held back for longer is lost.
    const DRAIN: Duration = Duration::from_millis(1500);
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    /// How long a broker that was stopped in this process may still write to the store.
    const STORE_FREE_WITHIN: Duration = Duration::from_secs(6);

    /// A broker that runs for as long as this value lives.
    #[derive(Debug)]
    pub struct EmbeddedBroker {
        address: SocketAddr,
        keeping: Keeping,
        shutdown: Shutdown,
        stats: Arc<BrokerStats>,
        task: JoinHandle<()>,
    }

    impl EmbeddedBroker {
        /// Starts it, and returns once clients can connect. A store that cannot be read is put aside, and while one
        /// cannot be written the broker goes on in memory; both with a warning.
        ///
        /// # Errors
        ///
        /// See [`BrokerError`].
        pub async fn start(options: BrokerOptions) -> Result<Self, BrokerError> {
            let BrokerOptions { listen, users, state_dir } = options;
            if !listen.ip().is_loopback() && users.is_empty() {
                return Err(BrokerError::NotLoopback(listen));
            }
            // The broker would say so too, in a line of its own.
            if let Some(failure) = port_trouble(listen) {
                return Err(failure);
            }
            let folder = state_dir.join(FOLDER);
            Self::wait_for_store(listen, &folder).await?;
            let mut store = BrokerStore::open(&folder, &state_dir.join(DAMAGED))
                .await
                .map_err(|InUse| BrokerError::StoreInUse(folder))?;
            let mut broker = match MqttBroker::with_config(config(listen, store.changes())).await {
                Ok(broker) => broker,
                Err(error) => {
                    return Err(
                        port_trouble(listen).unwrap_or_else(|| BrokerError::Failed(first_line(&error)))
                    );
                }
            };
            if let Some(memory) = broker.storage() {
                store.restore(&memory).await;
            }
            if !users.is_empty() {
                broker = broker.with_auth_provider(Arc::new(Authenticator::new(users)));
            }
            let address = broker.local_addr().unwrap_or(listen);
            let shutdown = Shutdown(broker.shutdown_handle());
            let stats = broker.stats();
            let mut ready = broker.ready_receiver();
            let mut run = tokio::spawn(async move { broker.run().await });
            tokio::select! {
                // The sender goes with the broker, in which case `run` tells why.
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
            Ok(Self { address, keeping: store.keep(), shutdown, stats, task })
        }

        /// Where it listens.
        pub fn addr(&self) -> SocketAddr {
            self.address
        }

        /// How many clients are connected.
        pub fn clients(&self) -> usize {
            self.stats.clients_connected.load(Ordering::Relaxed)
        }

        /// Waits, though not for long, until there are fewer clients than `guests`: for a goodbye that was sent and
        /// must be read before [`EmbeddedBroker::stop`] cuts it off, or its will would be published.
        pub async fn see_off(&self, guests: usize) {
            let left = async {
                while self.clients() >= guests.max(1) {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            };
            // Whoever has not left by then is shown out.
            let _ = tokio::time::timeout(LAST_WORD, left).await;
        }

        /// Ends all connections, and waits until everything is on disk and the store is free for a successor.
        pub async fn stop(self) {
            let Self { keeping, shutdown, mut task, .. } = self;
            shutdown.signal();
            let ended = async {
                // An error would be a panic in there, which is an end as well.
                let _ = (&mut task).await;
                keeping.stop().await;
            };
            if tokio::time::timeout(DRAIN, ended).await.is_err() {
                task.abort();
            }
        }

        /// Waits until nobody else holds the store, unless the port says already that somebody is there to stay.
        async fn wait_for_store(listen: SocketAddr, folder: &Path) -> Result<(), BrokerError> {
            let give_up = Instant::now() + STORE_FREE_WITHIN;
            while is_in_use(folder) {
                if let Some(failure) = port_trouble(listen) {
                    return Err(failure);
                }
                if Instant::now() >= give_up {
                    return Err(BrokerError::StoreInUse(folder.to_owned()));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(())
        }
    }

    /// Ends the broker at the latest when it is dropped.
    struct Shutdown(BrokerShutdownHandle);

    impl Shutdown {
        fn signal(&self) {
            self.0.shutdown();
        }
    }

    impl Drop for Shutdown {
        fn drop(&mut self) {
            self.signal();
        }
    }

    impl std::fmt::Debug for Shutdown {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Shutdown")
        }
    }

    fn config(listen: SocketAddr, changes: Arc<dyn BrokerEventHandler>) -> BrokerConfig {
        let mut config = BrokerConfig::new()
            .with_bind_address(listen)
            .with_max_clients(MOST_CLIENTS)
            .with_session_expiry(LONGEST_SESSION)
            .with_max_packet_size(LARGEST_PACKET)
            .with_max_retained_messages(MOST_KEPT)
            .with_max_retained_message_size(LARGEST_KEPT)
            .with_event_handler(changes);
        config.storage_config = StorageConfig::new().with_backend(StorageBackend::Memory);
        // Figures about the broker, kept every few seconds, would only wear the disk.
        config.sys_topics_enabled = false;
        config
    }

    /// Whether it is the port that stands in the way; the broker itself says so in words only.
    fn port_trouble(listen: SocketAddr) -> Option<BrokerError> {
        let source = TcpListener::bind(listen).err()?;
        Some(match source.kind() {
            ErrorKind::AddrInUse => BrokerError::PortTaken(listen),
            _ => BrokerError::Listen { address: listen, source },
        })
    }
}

#[cfg(all(test, feature = "broker"))]
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
    async fn a_taken_port_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let options = BrokerOptions { listen: other.local_addr().unwrap(), ..options(folder.path()) };
        let error = EmbeddedBroker::start(options).await.unwrap_err();
        assert!(matches!(error, BrokerError::PortTaken(_)), "{error}");
    }

    #[tokio::test]
    async fn a_damaged_store_is_put_aside() {
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
    async fn the_store_is_for_one_user_and_one_broker() {
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
    async fn a_store_that_cannot_be_written_keeps_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        // A state directory that is a file can neither hold a folder nor be put aside.
        let state_dir = folder.path().join("state");
        std::fs::write(&state_dir, "").unwrap();
        let broker = EmbeddedBroker::start(options(&state_dir)).await.unwrap();
        assert!(tokio::net::TcpStream::connect(broker.addr()).await.is_ok());
        broker.stop().await;
    }
}
