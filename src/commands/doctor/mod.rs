//! `check --online`: tries the broker, the account and each plug, and says for each what came back, the likely cause
//! and what helps.
//!
//! No plug is switched, and a running daemon is not disturbed; what is written is the store, as at each start, and the
//! token of a login. Here stands the order of the examination; what each part is asked is in `broker`, `account` and
//! `plugs`, what is concluded in `diagnosis`, how it is told in `report`.

mod account;
mod broker;
mod cause;
mod diagnosis;
mod networks;
mod plugs;
pub(super) mod report;
mod targets;

use std::path::Path;

use super::Failed;
use super::oneshot;
use crate::config::Config;
use crate::daemon::driver::CloudAccount;
use crate::store::Store;
use report::Report;

/// Tries everything that the config names, the store remembers, or that makes itself heard.
pub(super) async fn examine(config: &Config, state_dir: &Path) -> Result<Report, Failed> {
    let (store, complaints) = Store::open(state_dir);
    for complaint in &complaints {
        tracing::warn!("{complaint}");
    }
    let CloudAccount { cloud, events: _events } = oneshot::account(config, &store)?;
    // Whether the daemon has given the account up is told by the broker, and comes before the account is tried.
    let broker_and_account = async {
        let (broker, daemon) = broker::examine(config.mqtt(store.instance(), state_dir)).await;
        (broker, account::examine(config, cloud.as_ref(), &daemon).await)
    };
    let on_the_lan = plugs::examine_lan(targets::of(config, &store), config);
    let ((broker, account), on_the_lan) = tokio::join!(broker_and_account, on_the_lan);
    let (finding, rows) = account.map_or((None, None), |(finding, rows)| (Some(finding), rows));
    let cloud = cloud.filter(|_| rows.is_some());
    let on_the_lan = targets::with_account(on_the_lan, rows.as_deref(), config);
    let plugs = plugs::examine_cloud(on_the_lan, rows.as_deref(), cloud.as_ref(), config).await;
    Ok(Report::of([broker].into_iter().chain(finding).chain(plugs)))
}
