//! `run`: runs the daemon until a signal ends it.

use tokio::sync::mpsc;

use super::{Context, Exit, Failed};
use crate::config::CurrentFile;
use crate::config::service::Service;
use crate::daemon::signals::Signals;
use crate::daemon::{Daemon, StartError};
use crate::mqtt::broker::BrokerError;
use crate::store::Store;

/// How many signals can wait for the loop; more add no information.
const WAITING: usize = 4;

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
    let state_dir = context.state_dir();
    let (store, complaints) = Store::open(&state_dir);
    for warning in config.warnings.iter().chain(&complaints) {
        tracing::warn!("{warning}");
    }
    let mut signals = Signals::listen()
        .map_err(|error| Failed::new(Exit::Unavailable, format!("signals: {error}: please report this")))?;
    let reread = {
        let context = context.clone();
        Box::new(move |current: &CurrentFile| context.config_noting(current))
    };
    let daemon = Daemon::start(config, store, state_dir, reread).await?;
    tracing::info!("hs100d {} started", env!("CARGO_PKG_VERSION"));
    let (sender, requests) = mpsc::channel(WAITING);
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
