//! Shared by all benches: the plugs, a broker, a client at it, and programs that are measured from outside.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use super::broker::Broker;
use super::klap_plug;
use super::line::{Heard, Line};
use super::plugs::{self, Plugs, Switched};
use super::process::{Fault, Process};

/// The longest wait; after it the bench ends with an error.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
/// The daemon's state directory.
const STATE: &str = "state";
/// What the config says of HTTP.
pub(crate) const HTTP: &str = "listen = \"127.0.0.1:0\"";
/// The longest that the daemon may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Plugs, a broker, and a client that receives everything.
pub(crate) struct Stage {
    pub(crate) plugs: Plugs,
    pub(crate) broker: Broker,
    pub(crate) line: Line,
    pub(crate) heard: mpsc::UnboundedReceiver<Heard>,
    pub(crate) switched: mpsc::UnboundedReceiver<Switched>,
    pub(crate) program: PathBuf,
    folder: TempDir,
}

impl Stage {
    /// Plugs that speak XOR.
    pub(crate) async fn set(program: &Path, count: usize) -> Result<Self, Fault> {
        Self::set_with_klap(program, count, 0..0).await
    }

    /// Plugs of which these speak KLAP. The daemon's store has these, and the hashes of the account that they hold.
    pub(crate) async fn set_with_klap(
        program: &Path,
        count: usize,
        klap: Range<usize>,
    ) -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        let (tell, switched) = mpsc::unbounded_channel();
        let plugs = Plugs::start(count, &klap, tell)?;
        if !klap.is_empty() {
            klap_plug::write_store(&folder.path().join(STATE), klap, &plugs)?;
        }
        let broker = Broker::start(folder.path()).await?;
        let (tell, heard) = mpsc::unbounded_channel();
        let filters = ["hs100d/+/state", "hs100d/+/result", "hs100d/bridge/state", "bare/+/state"];
        let line = Line::connect(broker.port, &filters, tell)?;
        Ok(Self { plugs, broker, line, heard, switched, program: program.to_owned(), folder })
    }

    /// A config with each of the first `count` plugs.
    pub(crate) fn config(&self, count: usize, poll_interval: Duration) -> String {
        let mut text = format!(
            "[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n\n[http]\n{HTTP}\n\n\
             [discovery]\nbroadcast = [\"127.255.255.255\"]\n\n[local]\nport = {}\npoll_interval = \"{}ms\"\n",
            self.broker.port,
            self.plugs.port,
            poll_interval.as_millis()
        );
        for plug in 0..count {
            text.push_str(&plugs::entry(plug));
        }
        text
    }

    /// Starts the daemon with the state directory of the earlier ones.
    pub(crate) fn daemon(&self, config: &str) -> Result<Daemon, Fault> {
        Daemon::start(&self.program, self.folder.path(), config)
    }

    /// Starts the daemon and waits until all plugs are published.
    pub(crate) async fn daemon_with_all(&mut self, poll_interval: Duration) -> Result<Daemon, Fault> {
        let count = self.plugs.count();
        let daemon = self.daemon(&self.config(count, poll_interval))?;
        self.all_shown(count, &daemon).await?;
        Ok(daemon)
    }

    /// Waits until the states of this many plugs were published. Returns the time of the last.
    pub(crate) async fn all_shown(&mut self, count: usize, daemon: &Daemon) -> Result<Instant, Fault> {
        let by = Instant::now() + BOUND;
        let mut shown = HashSet::new();
        loop {
            let heard = timeout_at(by.into(), self.heard.recv()).await;
            let Ok(Some(heard)) = heard else {
                let log = daemon.log();
                return Err(format!("{} of {count} plugs are shown\n{log}", shown.len()).into());
            };
            if !heard.kept && heard.topic.starts_with("hs100d/") && heard.topic.ends_with("/state") {
                shown.insert(heard.topic);
                // `bridge/state` does not belong to a plug.
                shown.remove("hs100d/bridge/state");
                if shown.len() == count {
                    return Ok(heard.at);
                }
            }
        }
    }

    /// Discards the messages so far.
    pub(crate) fn clear(&mut self) {
        while self.heard.try_recv().is_ok() {}
        while self.switched.try_recv().is_ok() {}
    }

    /// Starts one of the yardsticks as a process, and returns once it is ready.
    pub(crate) async fn yardstick(&self, words: &[String]) -> Result<Process, Fault> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("its output is piped")?;
        let process = Process(child);
        let first = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).map(|_| line)
        });
        match tokio::time::timeout(BOUND, first).await {
            Ok(Ok(Ok(line))) if line == "ready\n" => Ok(process),
            _ => Err(format!("the yardstick {words:?} does not stand").into()),
        }
    }

    pub(crate) async fn bare_chain(&self, plugs: usize) -> Result<Process, Fault> {
        let (broker, port) = (self.broker.port.to_string(), self.plugs.port.to_string());
        self.yardstick(&["bare-chain".into(), broker, port, plugs.to_string()]).await
    }

    pub(crate) async fn bare_poll(&self, every: Duration) -> Result<Process, Fault> {
        let (port, count) = (self.plugs.port.to_string(), self.plugs.count().to_string());
        self.yardstick(&["bare-poll".into(), port, count, every.as_millis().to_string()]).await
    }
}

/// The daemon as a process.
pub(crate) struct Daemon {
    pub(crate) process: Process,
    pub(crate) started: Instant,
    ready: oneshot::Receiver<Instant>,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(program: &Path, folder: &Path, config: &str) -> Result<Self, Fault> {
        let (file, log, socket) = (folder.join("hs100d.toml"), folder.join("log"), folder.join("notify"));
        fs::write(&file, config)?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        let ready = read_notices(UnixDatagram::bind(&socket)?);
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", folder)
            .env("STATE_DIRECTORY", folder.join(STATE))
            .env("NOTIFY_SOCKET", &socket)
            .envs(of_the_unit())
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let started = Instant::now();
        let child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Self { process: Process(child), started, ready, log })
    }

    /// Waits until it has sent `READY=1`. Returns how long that took from its start.
    pub(crate) async fn ready(&mut self) -> Result<Duration, Fault> {
        match tokio::time::timeout(BOUND, &mut self.ready).await {
            Ok(Ok(at)) => Ok(at - self.started),
            _ => Err(format!("it does not become ready\n{}", self.log()).into()),
        }
    }

    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Where HTTP is served.
    pub(crate) fn http_address(&self) -> Result<SocketAddr, Fault> {
        let log = fs::read_to_string(&self.log)?;
        let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
        Ok(address.ok_or_else(|| format!("HTTP is not served\n{}", self.log()))?)
    }

    pub(crate) async fn stop(mut self) -> Result<(), Fault> {
        self.process.signal("TERM")?;
        let ended = tokio::time::timeout(STOP_WITHIN, self.process.ends()).await;
        let status = ended.map_err(|_| format!("the daemon does not stop\n{}", self.log()))??;
        if status.success() { Ok(()) } else { Err(format!("it ended with {status}\n{}", self.log()).into()) }
    }
}

/// The environment of the service.
fn of_the_unit() -> impl Iterator<Item = (&'static str, &'static str)> {
    let unit = include_str!("../../contrib/systemd/hs100d.service");
    let lines = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    lines.flat_map(|line| line.split(' ')).filter_map(|variable| variable.split_once('='))
}

/// Reads what is sent to systemd, all the time: a full socket would block the daemon.
fn read_notices(socket: UnixDatagram) -> oneshot::Receiver<Instant> {
    let (tell, ready) = oneshot::channel();
    let mut tell = Some(tell);
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        // `STOPPING=1` is the last message. A killed daemon sends none, and the thread ends with this process.
        while let Ok(length) = socket.recv(&mut buffer) {
            let said = |word: &[u8]| buffer[..length].split(|byte| *byte == b'\n').any(|line| line == word);
            if said(b"STOPPING=1") {
                return;
            }
            if said(b"READY=1")
                && let Some(tell) = tell.take()
            {
                // The receiver may be gone.
                let _ = tell.send(Instant::now());
            }
        }
    });
    ready
}

/// The processor time of all threads of a process.
pub(crate) fn cpu(Process(child): &Process) -> Result<Duration, Fault> {
    let mut total = 0_u64;
    for task in fs::read_dir(proc(child).join("task"))? {
        // A thread that has ended meanwhile no longer counts.
        total += time_on_cpu(&task?.path().join("schedstat")).unwrap_or_default();
    }
    Ok(Duration::from_nanos(total))
}

/// The file with the processor time of the thread that runs the daemon's loop: its first one.
pub(crate) fn loop_clock(Process(child): &Process) -> PathBuf {
    proc(child).join("task").join(child.id().to_string()).join("schedstat")
}

/// The processor time of a thread, in nanoseconds.
pub(crate) fn time_on_cpu(schedstat: &Path) -> Option<u64> {
    fs::read_to_string(schedstat).ok()?.split_whitespace().next()?.parse().ok()
}

/// Resident memory, in kB.
pub(crate) fn memory(Process(child): &Process) -> Result<f64, Fault> {
    let status = fs::read_to_string(proc(child).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    Ok(number.ok_or("the kernel tells no VmRSS")?)
}

/// The number of voluntary context switches: each is a wake-up.
pub(crate) fn waits(Process(child): &Process) -> Result<u64, Fault> {
    let status = fs::read_to_string(proc(child).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0))
}

fn proc(child: &Child) -> PathBuf {
    PathBuf::from(format!("/proc/{}", child.id()))
}

/// Lets time pass.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
