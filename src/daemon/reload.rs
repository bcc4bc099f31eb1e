//! A reload of the config, in tasks beside the loop: files are read and brokers are left without the loop waiting.
//!
//! First the config is read and the account prepared, then MQTT and the account move; what can fail goes first. Each
//! task posts a [`ReloadStep`], and the loop does in between what needs no waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{JoinSet, spawn_blocking};
use uuid::Uuid;

use super::driver::CloudAccount;
use super::mqtt_frontend::{IfTaken, LinkStarter, MqttSession};
use crate::bridge::event::RequestId;
use crate::config::{Config, Invalid, MqttChoice};
use crate::store::TokenFile;
use crate::transport::cloud::session::AccountMemory;
use crate::transport::cloud::{Cloud, CloudOptions, Tokens};

/// Reads the config again.
pub(crate) type ReadConfig = Box<dyn Fn() -> Result<Config, Invalid> + Send + Sync>;

/// The reload under way, if there is one, and whether another is to follow.
#[derive(Default)]
pub(super) struct Reload {
    /// One task at most.
    task: JoinSet<ReloadStep>,
    /// Those who asked for the one under way; none while none is.
    asked_by: Option<Vec<RequestId>>,
    /// Those who asked since: one more reload serves them all.
    next: Option<Vec<RequestId>>,
    /// The task moves MQTT and the account.
    is_moving: bool,
    is_stopping: Arc<AtomicBool>,
}

/// What a task of a reload has come to.
pub(super) enum ReloadStep {
    /// The config was read, or this is wrong with it.
    Read(Result<Box<NewConfig>, String>),
    /// MQTT and the account have moved, or could not.
    Moved(Box<Moved>),
}

/// A config that was read and is not in use yet.
pub(super) struct NewConfig {
    pub(super) config: Config,
    /// None: the account stays.
    pub(super) account: Option<CloudAccount>,
}

/// How the move ended.
pub(super) struct Moved {
    pub(super) new: NewConfig,
    /// What runs in the place of the MQTT session that was handed over; none: that was not asked for.
    pub(super) mqtt: Option<Option<MqttSession>>,
    pub(super) result: Result<(), String>,
}

/// What is needed to tell whether the account is another one, and to start that.
pub(super) struct AccountBefore {
    pub(super) options: Option<CloudOptions>,
    pub(super) tokens: TokenFile,
    pub(super) terminal: Uuid,
    pub(super) memory: AccountMemory,
}

/// Another broker is to be used: what runs now, and what is to run.
pub(super) struct BrokerMove {
    pub(super) session: Option<MqttSession>,
    pub(super) starter: LinkStarter,
    pub(super) choice: MqttChoice,
}

impl Reload {
    /// Whether a reload begins now. During another one it is put off until that has ended.
    pub(super) fn request(&mut self, asked_by: Option<RequestId>) -> bool {
        let is_idle = self.asked_by.is_none();
        let list = if is_idle { &mut self.asked_by } else { &mut self.next };
        list.get_or_insert_default().extend(asked_by);
        is_idle
    }

    /// The reload has ended: those who asked for it, and whether the next one begins now.
    pub(super) fn end(&mut self) -> (Vec<RequestId>, bool) {
        self.is_moving = false;
        let asked_by = std::mem::replace(&mut self.asked_by, self.next.take());
        (asked_by.unwrap_or_default(), self.asked_by.is_some())
    }

    /// What the task under way comes to. Waits for ever while there is none. Cancel safe.
    pub(super) async fn next(&mut self) -> ReloadStep {
        match self.task.join_next().await {
            Some(Ok(step)) => step,
            Some(Err(lost)) => ReloadStep::Read(Err(format!("{lost}: this is a bug, please report it"))),
            None => std::future::pending().await,
        }
    }

    /// Reads the config.
    pub(super) fn read(&mut self, read: Arc<ReadConfig>, account: AccountBefore) {
        self.task.spawn_blocking(move || ReloadStep::Read(read_config(&read, account).map(Box::new)));
    }

    /// Moves MQTT and the account to what was read. `cloud` is the account in use.
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

    /// The daemon stops: reading is given up, a move ends without starting anything. Returns the MQTT session that runs
    /// all the same, and those who asked and get no reload.
    pub(super) async fn stop(&mut self) -> (Option<MqttSession>, Vec<RequestId>) {
        self.is_stopping.store(true, Ordering::Relaxed);
        let asked_by = self.asked_by.take().into_iter().chain(self.next.take()).flatten().collect();
        let mut session = None;
        if self.is_moving
            && let ReloadStep::Moved(moved) = self.next().await
        {
            session = moved.mqtt.flatten();
        }
        (session, asked_by)
    }
}

fn read_config(read: &ReadConfig, before: AccountBefore) -> Result<NewConfig, String> {
    let AccountBefore { options, tokens, terminal, memory } = before;
    let config = read().map_err(|invalid| invalid.lines.join("; "))?;
    let is_same = config.cloud.as_ref().map(|cloud| &cloud.options) == options.as_ref();
    // A logout took the token away; the one in memory goes with it.
    let is_other = !is_same || tokens.was_removed();
    let account = is_other.then(|| CloudAccount::start(&config, tokens, terminal, &memory)).transpose();
    Ok(NewConfig { account: account.map_err(|error| error.to_string())?, config })
}

/// Says goodbye and starts anew. If the new broker cannot be started, the old one is started again.
async fn move_broker(
    broker: BrokerMove,
    is_stopping: &AtomicBool,
) -> (Option<MqttSession>, Result<(), String>) {
    let BrokerMove { session, starter, choice } = broker;
    let before = session.as_ref().map(|session| session.choice().clone());
    if let Some(session) = session {
        session.stop().await;
    }
    if is_stopping.load(Ordering::Relaxed) {
        return (None, Err("the daemon stops".to_owned()));
    }
    let error = match MqttSession::start(choice, IfTaken::Fail, starter.clone()).await {
        Ok(session) => return (Some(session), Ok(())),
        Err(error) => error,
    };
    let Some(before) = before else { return (None, Err(error.to_string())) };
    match MqttSession::start(before, IfTaken::Wait, starter).await {
        Ok(session) => (Some(session), Err(error.to_string())),
        Err(error) => (None, Err(error.to_string())),
    }
}

/// The account in use gives way to another one, or forgets what stopped it.
async fn move_account(cloud: Option<Cloud>, is_other: bool, tokens: TokenFile) {
    if is_other {
        if let Some(cloud) = cloud {
            cloud.retire().await;
        }
        off_the_loop(move || tokens.begin_anew()).await;
    } else if let Some(cloud) = cloud {
        let tokens: Option<Tokens> = off_the_loop(move || {
            tokens.load().unwrap_or_else(|why| {
                tracing::warn!("{why}");
                None
            })
        })
        .await;
        cloud.rearm(tokens).await;
    }
}

/// Waits for the disk in a thread that may wait.
async fn off_the_loop<T: Default + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // An error is a panic in there, which ends the process.
    spawn_blocking(work).await.unwrap_or_default()
}
