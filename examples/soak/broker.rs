//! A broker that can be restarted, and a proxy between it and the daemon that can be cut.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as Probe, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hs100d::mqtt::broker::{BrokerOptions, EmbeddedBroker};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::process::{Fault, Process};

/// The longest that a broker may take to start or to end.
const BOUND: Duration = Duration::from_secs(20);

/// Mosquitto if it is installed, else the embedded broker, always at the same port.
pub(crate) struct Broker {
    pub(crate) port: u16,
    folder: PathBuf,
    running: Running,
}

enum Running {
    Mosquitto(Process),
    Embedded(EmbeddedBroker),
    Nothing,
}

impl Broker {
    pub(crate) async fn start(folder: &Path) -> Result<Self, Fault> {
        let mut broker =
            Self { port: free_port()?, folder: folder.join("broker"), running: Running::Nothing };
        broker.begin().await?;
        Ok(broker)
    }

    pub(crate) fn brand(&self) -> &'static str {
        match self.running {
            Running::Mosquitto(_) => "mosquitto",
            Running::Embedded(_) => "the embedded broker",
            Running::Nothing => "no broker",
        }
    }

    /// Restarts the broker after a while, with or without its retained messages.
    pub(crate) async fn restart(&mut self, away: Duration, keeps_store: bool) -> Result<(), Fault> {
        match std::mem::replace(&mut self.running, Running::Nothing) {
            Running::Mosquitto(mut process) => {
                process.signal(if keeps_store { "TERM" } else { "KILL" })?;
                tokio::time::timeout(BOUND, process.ends()).await.map_err(|_| "mosquitto does not end")??;
            }
            Running::Embedded(broker) => broker.stop().await,
            Running::Nothing => {}
        }
        if !keeps_store {
            std::fs::remove_dir_all(&self.folder)?;
        }
        tokio::time::sleep(away).await;
        self.begin().await
    }

    async fn begin(&mut self) -> Result<(), Fault> {
        std::fs::create_dir_all(&self.folder)?;
        self.running = match mosquitto() {
            Some(program) => Running::Mosquitto(self.start_mosquitto(&program).await?),
            None => {
                let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
                let options = BrokerOptions { listen, users: Vec::new(), state_dir: self.folder.clone() };
                Running::Embedded(EmbeddedBroker::start(options).await?)
            }
        };
        Ok(())
    }

    async fn start_mosquitto(&self, program: &Path) -> Result<Process, Fault> {
        let config = self.folder.join("mosquitto.conf");
        // Without `user` a mosquitto that root starts could not read the folder. The limits are so high that the broker
        // drops and delays nothing: the daemon is under test, not the broker.
        let text = format!(
            "listener {} 127.0.0.1\nuser root\nallow_anonymous true\npersistence true\npersistence_location {}/\n\
             max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n",
            self.port,
            self.folder.display()
        );
        std::fs::write(&config, text)?;
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let process = Process(child);
        let is_up = async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(BOUND, is_up).await.map_err(|_| "mosquitto does not start")?;
        Ok(process)
    }
}

fn mosquitto() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("mosquitto"))
        .find(|program| program.is_file())
}

/// A free port below the range of outgoing connections, so that it stays free while nothing listens there.
pub(crate) fn free_port() -> Result<u16, Fault> {
    /// The distance between the first ports of runs at the same time.
    const APART: u32 = 97;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..500 {
        let number =
            std::process::id().wrapping_mul(APART).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + u16::try_from(number % 20_000)?;
        let everywhere = (Ipv4Addr::UNSPECIFIED, port);
        if Probe::bind(everywhere).is_ok() && UdpSocket::bind(everywhere).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port".into())
}

/// The proxy between the daemon and the broker. It passes the broker's restarts on.
pub(crate) struct Cable {
    pub(crate) port: u16,
    pulled: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Cable {
    pub(crate) async fn lay(to: u16) -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let pulled = Arc::new(Notify::new());
        let task = tokio::spawn(carry(listener, to, Arc::clone(&pulled)));
        Ok(Self { port, pulled, task })
    }

    /// Resets every connection through it, on both sides.
    pub(crate) fn pull(&self) {
        self.pulled.notify_waiters();
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(listener: TcpListener, to: u16, pulled: Arc<Notify>) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            call = listener.accept() => {
                let Ok((call, _)) = call else { continue };
                calls.spawn(connect(call, to, Arc::clone(&pulled)));
            }
            Some(_) = calls.join_next() => {}
        }
    }
}

async fn connect(mut call: TcpStream, to: u16, pulled: Arc<Notify>) {
    let Ok(mut line) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else { return };
    let _ = call.set_nodelay(true).and(line.set_nodelay(true));
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut call, &mut line) => {}
        () = pulled.notified() => {
            let _ = call.set_zero_linger().and(line.set_zero_linger());
        }
    }
}
