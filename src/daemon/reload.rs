//! A reload of the config, in tasks beside the loop, so that the loop waits neither for a file nor for a broker.
//!
//! The first step reads the config and prepares the account, the second moves MQTT and the account: what can fail goes
//! first. Each step posts a [`ReloadStep`] to the loop. Reading has a time limit, because a read may never end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;
use uuid::Uuid;

use super::driver::CloudAccount;
use super::lan_login::LanLogin;
use super::mqtt_frontend::{IfTaken, LinkStarter, MqttSession};
use crate::bridge::event::RequestId;
use crate::config::{Config, CurrentFile, Invalid, MqttChoice};
use crate::duration;
use crate::mqtt::Unanswered;
use crate::store::{HashFile, TokenFile};
use crate::transport::cloud::session::AccountMemory;
use crate::transport::cloud::{Cloud, CloudOptions, Tokens};

/// How long a reload may take to read. A slow network mount takes less; a read from a mount whose server is gone, or
/// from a pipe, may never end. systemd waits 90 s for a reload.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Reads the config again. It records each file before it is read.
pub(crate) type ReadConfig = Box<dyn Fn(&CurrentFile) -> Result<Config, Invalid> + Send + Sync>;

/// The reload under way, if any, and whether another one must follow.
#[derive(Default)]
pub(super) struct Reload {
    /// One task at most.
    task: JoinSet<ReloadStep>,
    /// The last thread that read the config. It exists longer than its reload if the read does not end.
    reader: Option<ConfigReader>,
    /// The requests for the reload under way; `None` without one.
    requested_by: Option<Vec<RequestId>>,
    /// The requests since then. One further reload serves all of them.
    next: Option<Vec<RequestId>>,
    /// The task is changing MQTT and the account.
    is_moving: bool,
    is_stopping: Arc<AtomicBool>,
}

/// The outcome of one step of a reload.
pub(super) enum ReloadStep {
    /// The config was read, or could not be.
    Read(Result<Box<NewConfig>, ReloadError>),
    /// MQTT and the account were changed, or could not be.
    Moved(Box<Moved>),
}

/// Why a config is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// It is invalid, or something in it cannot be started.
    #[error("{0}")]
    Rejected(String),
    /// A file could not be read in time.
    #[error(
        "{} could not be read within {}: check the disk or network mount that it is on, then reload again, or restart \
         hs100d if that is refused as well",
        .0.as_ref().map_or("the config".to_owned(), |file| file.display().to_string()),
        duration::show(READ_WITHIN)
    )]
    Unread(Option<PathBuf>),
}

/// A config that was read and is not used yet.
pub(super) struct NewConfig {
    pub(super) config: Config,
    /// `None`: the account stays.
    pub(super) account: Option<CloudAccount>,
    pub(super) lan_login: LanLogin,
}

/// The outcome of the change.
pub(super) struct Moved {
    pub(super) new: NewConfig,
    /// Replaces the MQTT session that was handed over; the outer `None` means that the session stays.
    pub(super) mqtt: Option<Option<MqttSession>>,
    pub(super) result: Result<(), String>,
}

/// The account in use, to compare the new one with and to start it.
pub(super) struct AccountBefore {
    pub(super) options: Option<CloudOptions>,
    pub(super) tokens: TokenFile,
    pub(super) hashes: HashFile,
    pub(super) terminal: Uuid,
    pub(super) memory: AccountMemory,
}

/// A change of broker: the session to stop, and how to start the new one.
pub(super) struct BrokerMove {
    pub(super) session: Option<MqttSession>,
    pub(super) starter: LinkStarter,
    pub(super) choice: MqttChoice,
    /// The clients of the old broker are clients of the new one.
    pub(super) is_same_broker: bool,
}

/// A thread that reads the config.
struct ConfigReader {
    thread: AbortHandle,
    file: CurrentFile,
}

impl Reload {
    /// Records a request for a reload. Returns true if a reload starts now, false if one is under way and another one
    /// will follow.
    pub(super) fn request(&mut self, requested_by: Option<RequestId>) -> bool {
        let is_idle = self.requested_by.is_none();
        let list = if is_idle { &mut self.requested_by } else { &mut self.next };
        list.get_or_insert_default().extend(requested_by);
        is_idle
    }

    /// The reload has ended. Returns its requests, and whether the next one starts now.
    pub(super) fn end(&mut self) -> (Vec<RequestId>, bool) {
        self.is_moving = false;
        let requested_by = std::mem::replace(&mut self.requested_by, self.next.take());
        (requested_by.unwrap_or_default(), self.requested_by.is_some())
    }

    /// The requests that are answered before the reload ends.
    pub(super) fn take_requests(&mut self) -> Vec<RequestId> {
        self.requested_by.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The next step that ends. Never returns while no reload is under way. Cancel safe.
    pub(super) async fn next(&mut self) -> ReloadStep {
        match self.task.join_next().await {
            Some(Ok(step)) => step,
            Some(Err(lost)) => ReloadStep::Read(Err(ReloadError::bug(&lost))),
            None => std::future::pending().await,
        }
    }

    /// Reads the config, unless an earlier read still hangs: threads must not pile up.
    pub(super) fn read(&mut self, read: Arc<ReadConfig>, account: AccountBefore) {
        if let Some(reader) = self.reader.as_ref().filter(|reader| !reader.thread.is_finished()) {
            let error = ReloadError::Unread(reader.file.path());
            self.task.spawn(async { ReloadStep::Read(Err(error)) });
            return;
        }
        let (file, is_late) = (CurrentFile::default(), Arc::new(AtomicBool::new(false)));
        let reader = {
            let (file, is_late) = (file.clone(), Arc::clone(&is_late));
            spawn_blocking(move || read_config(&read, account, &file, &is_late))
        };
        self.reader = Some(ConfigReader { thread: reader.abort_handle(), file: file.clone() });
        self.task.spawn(async move {
            ReloadStep::Read(match timeout(READ_WITHIN, reader).await {
                Ok(Ok(result)) => result.map(Box::new).map_err(ReloadError::Rejected),
                Ok(Err(lost)) => Err(ReloadError::bug(&lost)),
                Err(_) => {
                    is_late.store(true, Ordering::Relaxed);
                    Err(ReloadError::Unread(file.path()))
                }
            })
        });
    }

    /// Changes MQTT and the account to the new config. `cloud` is the account in use.
    pub(super) fn follow(
        &mut self,
        new: NewConfig,
        broker: Option<BrokerMove>,
        cloud: Option<Cloud>,
        tokens: TokenFile,
    ) {
        self.is_moving = true;
        let is_stopping = Arc::clone(&self.is_stopping);
        self.task.spawn(async move {
            let (mqtt, result) = match broker {
                None => (None, Ok(())),
                Some(broker) => {
                    let (session, result) = move_broker(broker, &is_stopping).await;
                    (Some(session), result)
                }
            };
            if result.is_ok() {
                move_account(cloud, new.account.is_some(), tokens).await;
            }
            ReloadStep::Moved(Box::new(Moved { new, mqtt, result }))
        });
    }

    /// The daemon stops: a read is abandoned, a change ends without starting anything. Returns an MQTT session that was
    /// started nevertheless, and the requests that get no reload.
    pub(super) async fn stop(&mut self) -> (Option<MqttSession>, Vec<RequestId>) {
        self.is_stopping.store(true, Ordering::Relaxed);
        let requested_by = self.requested_by.take().into_iter().chain(self.next.take()).flatten().collect();
        let mut session = None;
        if self.is_moving
            && let ReloadStep::Moved(moved) = self.next().await
        {
            session = moved.mqtt.flatten();
        }
        (session, requested_by)
    }
}

impl ReloadError {
    fn bug(lost: &tokio::task::JoinError) -> Self {
        Self::Rejected(format!("{lost}: this is a bug, please report it"))
    }
}

/// Blocks. If it ends too late, it starts no account: its result is dropped.
fn read_config(
    read: &ReadConfig,
    before: AccountBefore,
    current: &CurrentFile,
    is_late: &AtomicBool,
) -> Result<NewConfig, String> {
    let AccountBefore { options, tokens, hashes, terminal, memory } = before;
    let config = read(current).map_err(|invalid| invalid.lines.join("; "))?;
    if is_late.load(Ordering::Relaxed) {
        return Ok(NewConfig { config, account: None, lan_login: LanLogin::default() });
    }
    current.set(&tokens.path());
    let is_same = config.cloud.as_ref().map(|cloud| &cloud.options) == options.as_ref();
    // A logout has deleted the token file, so the token in memory is discarded too.
    let is_other = !is_same || tokens.was_removed();
    let account = is_other.then(|| CloudAccount::start(&config, tokens, terminal, &memory)).transpose();
    let account = account.map_err(|error| error.to_string())?;
    current.set(&hashes.path());
    let lan_login = LanLogin::load(&config, &hashes);
    Ok(NewConfig { account, lan_login, config })
}

/// Stops the old session, then starts the new one. If that fails, the old session is started again.
async fn move_broker(
    broker: BrokerMove,
    is_stopping: &AtomicBool,
) -> (Option<MqttSession>, Result<(), String>) {
    let BrokerMove { session, starter, choice, is_same_broker } = broker;
    let before = session.as_ref().map(|session| session.choice().clone());
    let unanswered = match session {
        Some(session) if is_same_broker => session.stop().await,
        Some(session) => session.stop_after_results().await,
        None => Unanswered::default(),
    };
    if is_stopping.load(Ordering::Relaxed) {
        return (None, Err("the daemon stops".to_owned()));
    }
    let error = match MqttSession::start(choice, IfTaken::Fail, starter.clone()).await {
        Ok(mut session) => {
            session.adopt(unanswered);
            return (Some(session), Ok(()));
        }
        Err(error) => error,
    };
    let Some(before) = before else { return (None, Err(error.to_string())) };
    match MqttSession::start(before, IfTaken::Wait, starter).await {
        Ok(mut session) => {
            session.adopt(unanswered);
            (Some(session), Err(error.to_string()))
        }
        Err(error) => (None, Err(error.to_string())),
    }
}

/// Retires the account in use if there is another one; otherwise lets it try again after a stop.
async fn move_account(cloud: Option<Cloud>, is_other: bool, tokens: TokenFile) {
    if is_other {
        if let Some(cloud) = cloud {
            cloud.retire().await;
        }
        blocking(move || tokens.begin_anew()).await;
    } else if let Some(cloud) = cloud {
        let tokens: Option<Tokens> = blocking(move || {
            tokens.load().unwrap_or_else(|why| {
                tracing::warn!("{why}");
                None
            })
        })
        .await;
        cloud.rearm(tokens).await;
    }
}

/// Runs blocking work in its own thread.
async fn blocking<T: Default + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // An error is a panic in the thread, and a panic ends the process.
    spawn_blocking(work).await.unwrap_or_default()
}
