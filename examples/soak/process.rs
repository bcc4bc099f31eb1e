//! Child processes: how they are ended, signalled and measured.

use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub(crate) type Fault = Box<dyn Error + Send + Sync>;

/// How often it is checked whether a process has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The last lines of the daemon that are kept for an error message.
const LINES_KEPT: usize = 20;

/// Part of the log line with the daemon's own figures.
const FIGURES: &str = "figures plugs=";
/// At debug each connection to the broker has a line; at info, repeated lines are dropped.
const LEVELS: &str = "hs100d=info,hs100d::mqtt=debug,warn";

/// The daemon's program, in the folder above that of the examples; built first if cargo runs us.
pub(crate) fn program() -> Result<PathBuf, Fault> {
    let examples = env::current_exe()?;
    let folder = examples.ancestors().nth(2).ok_or("not run from a folder of cargo's")?.to_owned();
    if let (Some(cargo), Some(manifest)) = (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) {
        // A profile's folder has its name, except for `dev`.
        let profile = folder.file_name().filter(|name| *name != "debug").unwrap_or("dev".as_ref());
        let manifest = Path::new(&manifest).join("Cargo.toml");
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--bin", "hs100d", "--manifest-path"])
            .arg(manifest)
            .arg("--profile")
            .arg(profile)
            .status()?;
        if !built.success() {
            return Err("the daemon could not be built".into());
        }
    }
    let program = folder.join("hs100d");
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("{} is not there: build it with cargo build --release", program.display()).into())
}

/// A child process that ends with this one.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts the daemon with this config and these log levels; its state directory is beside the config. Also returns its log.
    pub(crate) fn daemon(
        program: &Path,
        config: &Path,
        levels: &str,
    ) -> Result<(Self, BufReader<ChildStderr>), Fault> {
        let home = config.parent().ok_or("a config lies in a folder")?;
        let mut child = Command::new(program)
            .env_clear()
            .env("HOME", home)
            .env("STATE_DIRECTORY", home.join("state"))
            .env("RUST_LOG", levels)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let log = child.stderr.take().ok_or("the daemon's log is piped")?;
        Ok((Self(child), BufReader::new(log)))
    }

    /// Sends a signal by its short name. Every shell has `kill` built in.
    pub(crate) fn signal(&self, name: &str) -> Result<(), Fault> {
        let words = format!("kill -{name} {}", self.0.id());
        let sent = Command::new("sh").arg("-c").arg(words).stderr(Stdio::null()).status()?;
        if sent.success() { Ok(()) } else { Err(format!("process {} is gone", self.0.id()).into()) }
    }

    pub(crate) async fn ends(&mut self) -> Result<ExitStatus, Fault> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The daemon as a process, with its parsed log.
pub(crate) struct Daemon {
    process: Process,
    said: watch::Receiver<Said>,
    last_lines: Arc<Mutex<Vec<String>>>,
}

/// What the daemon has logged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// The number of connections to the broker.
    pub(crate) connected: u64,
    /// The number of figures in the log, and the last ones.
    pub(crate) told: u64,
    pub(crate) figures: Figures,
    /// The number of reloads, refused ones included.
    pub(crate) reloads: u64,
    /// The errors in the log, except refused configs.
    pub(crate) errors: Vec<String>,
}

/// The daemon's own counts, which it logs on SIGUSR1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) plugs: u64,
    pub(crate) online: u64,
    pub(crate) exchanges: u64,
    pub(crate) tasks: u64,
}

/// The kernel's counts of the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Resident memory, kB.
    pub(crate) memory: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

impl Daemon {
    /// Starts this program with this config; its state directory is beside it.
    pub(crate) fn start(program: &Path, config: &Path) -> Result<Self, Fault> {
        let (process, log) = Process::daemon(program, config, LEVELS)?;
        let (tell, said) = watch::channel(Said::default());
        let last_lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&last_lines);
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                tell.send_if_modified(|said| said.take(&line));
                if line.contains(FIGURES) {
                    continue;
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == LINES_KEPT {
                    kept.remove(0);
                }
                kept.push(line);
            }
        });
        Ok(Self { process, said, last_lines })
    }

    pub(crate) fn said(&self) -> Said {
        self.said.borrow().clone()
    }

    /// Waits until its log satisfies a condition.
    pub(crate) async fn says(
        &self,
        what: &str,
        within: Duration,
        is_so: impl FnMut(&Said) -> bool,
    ) -> Result<Said, Fault> {
        let mut said = self.said.clone();
        match tokio::time::timeout(within, said.wait_for(is_so)).await {
            Ok(Ok(said)) => Ok(said.clone()),
            Ok(Err(_)) => Err(format!("the daemon ended before {what}; {}", self.last_lines()).into()),
            Err(_) => Err(format!("no sign of {what} within {within:?}; {}", self.last_lines()).into()),
        }
    }

    pub(crate) fn last_lines(&self) -> String {
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        format!("the daemon's last lines:\n{}", lines.join("\n"))
    }

    /// Requests its figures.
    pub(crate) async fn figures(&self) -> Result<Figures, Fault> {
        let told = self.said().told;
        self.signal("USR1")?;
        let said = self.says("figures", Duration::from_secs(20), |said| said.told > told).await?;
        Ok(said.figures)
    }

    pub(crate) fn signal(&self, name: &str) -> Result<(), Fault> {
        self.process.signal(name)
    }

    pub(crate) fn size(&self) -> Result<Size, Fault> {
        let process = PathBuf::from(format!("/proc/{}", self.process.0.id()));
        let status = std::fs::read_to_string(process.join("status"))?;
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        // Only root may list the files of the daemon; since Linux 6.2 the size of the folder is their number.
        let files = process.join("fd");
        let descriptors = match std::fs::read_dir(&files) {
            Ok(listed) => listed.count() as u64,
            Err(_) => std::fs::metadata(files)?.len(),
        };
        Ok(Size { memory: number("VmRSS:"), descriptors, threads: number("Threads:") })
    }

    /// Sends SIGTERM, and waits for the end.
    pub(crate) async fn stop(&mut self, within: Duration) -> Result<(), Fault> {
        self.signal("TERM")?;
        let ended = tokio::time::timeout(within, self.process.ends()).await;
        match ended.map_err(|_| format!("the daemon does not stop; {}", self.last_lines()))?? {
            status if status.success() => Ok(()),
            status => Err(format!("the daemon ended with {status}; {}", self.last_lines()).into()),
        }
    }
}

impl Said {
    /// Parses a line of the log. Returns whether it changed anything.
    fn take(&mut self, line: &str) -> bool {
        if line.contains("connected to the broker at ") {
            self.connected += 1;
        } else if line.contains(FIGURES) {
            self.told += 1;
            self.figures = Figures::read(line);
        } else if line.contains("the config was read again") || line.contains("the config was not taken over")
        {
            self.reloads += 1;
        } else if line.contains("ERROR") || line.contains("panicked") {
            self.errors.push(line.to_owned());
        } else {
            return false;
        }
        true
    }
}

impl Figures {
    fn read(line: &str) -> Self {
        let number = |key: &str| {
            let field = line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            field.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        Self {
            plugs: number("plugs"),
            online: number("online"),
            exchanges: number("exchanges"),
            tasks: number("tasks"),
        }
    }
}
