//! `run`: runs the daemon until a signal ends it.

use std::path::PathBuf;

use tokio::sync::mpsc;

use super::{Context, Exit, Failed};
use crate::config::service::Service;
use crate::config::{Config, CurrentFile};
use crate::daemon::signals::{SignalRequest, Signals};
use crate::daemon::{Daemon, ReadConfig, StartError};
use crate::mqtt::LoginSource;
use crate::mqtt::broker::BrokerError;
use crate::store::Store;

/// How many signals can wait for the loop; more add no information.
const WAITING: usize = 4;

/// What a daemon is started with.
pub(super) struct Start {
    pub(super) config: Config,
    pub(super) state_dir: PathBuf,
    /// Reads the config again.
    pub(super) read: ReadConfig,
    /// Where another login comes from when the broker refuses the one in the config.
    pub(super) source: LoginSource,
}

/// Runs until SIGTERM or SIGINT; SIGHUP reads the config again.
///
/// # Errors
/// The config is wrong, the system service already runs with it, or the embedded broker may not listen there. The daemon
/// waits for what is unreachable or taken.
pub(super) async fn run(context: &Context) -> Result<(), Failed> {
    if Service::beside(&context.config_path(), &context.environment)
        .is_some_and(|service| service.is_running())
    {
        let line = "the service hs100d runs on this machine with the same config, and two daemons would disturb each other: \
                    stop it with `systemctl stop hs100d`, or give this one a config of its own with --config";
        return Err(Failed::new(Exit::Unavailable, line));
    }
    let config = context.config()?;
    let read = {
        let context = context.clone();
        Box::new(move |current: &CurrentFile| context.config_noting(current))
    };
    let start = Start { config, state_dir: context.state_dir(), read, source: LoginSource::default() };
    serve(start, drop).await
}

/// Runs the daemon until SIGTERM or SIGINT. `begin` gets where requests to it are sent, once it is started.
///
/// # Errors
/// The embedded broker may not listen there. The daemon waits for what is unreachable or taken.
pub(super) async fn serve(
    start: Start,
    begin: impl FnOnce(mpsc::Sender<SignalRequest>),
) -> Result<(), Failed> {
    let Start { config, state_dir, read, source } = start;
    let (store, complaints) = Store::open(&state_dir);
    for warning in config.warnings.iter().chain(&complaints) {
        tracing::warn!("{warning}");
    }
    let mut signals = Signals::listen()
        .map_err(|error| Failed::new(Exit::Unavailable, format!("signals: {error}: please report this")))?;
    let daemon = Daemon::start(config, store, state_dir, read, source).await?;
    tracing::info!("hs100d {} started", env!("CARGO_PKG_VERSION"));
    let (sender, requests) = mpsc::channel(WAITING);
    begin(sender.clone());
    tokio::spawn(async move { while sender.send(signals.next().await).await.is_ok() {} });
    // As a task: the runtime polls its main future only after a call to the kernel.
    if let Err(lost) = tokio::spawn(daemon.run(requests)).await {
        return Err(Failed::new(Exit::Bug, format!("the loop ended: {lost}: please report this")));
    }
    tracing::info!("stopped");
    Ok(())
}

impl From<StartError> for Failed {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::Broker(BrokerError::NotLoopback(_)) => Exit::Config,
            StartError::Broker(_) | StartError::Cloud(_) => Exit::Unavailable,
        };
        Self::new(exit, error.to_string())
    }
}
