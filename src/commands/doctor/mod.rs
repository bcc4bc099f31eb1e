//! `check --online`, the doctor: tries the broker, the account and each plug, and reports what came back, the likely
//! cause and what to do.
//!
//! It switches no plug and does not disturb a running daemon. It writes only the store, as each start does, and the token
//! of a login. This file has the order of the examination; `broker`, `account` and `plugs` try, `diagnosis` concludes,
//! `report` prints.

mod account;
mod broker;
pub(super) mod diagnosis;
mod heard;
mod networks;
#[cfg(test)]
mod page;
mod plugs;
pub(super) mod report;
mod targets;

use std::path::Path;

use super::Failed;
use super::klap::KlapLogin;
use super::oneshot;
use crate::config::Config;
use crate::daemon::driver::CloudAccount;
use crate::store::Store;
use report::Report;

/// Examines everything that the config names, the store remembers, or a search finds.
pub(super) async fn examine(config: &Config, state_dir: &Path) -> Result<Report, Failed> {
    let (store, complaints) = Store::open(state_dir);
    for complaint in &complaints {
        tracing::warn!("{complaint}");
    }
    let CloudAccount { cloud, events: _events } = oneshot::account(config, &store)?;
    // A running daemon may have stopped using the account; the broker says so, and is therefore asked first.
    let broker_and_account = async {
        let (brokers, daemon) = broker::examine(config.mqtt(store.instance(), state_dir)).await;
        (brokers, account::examine(config, cloud.as_ref(), &daemon).await)
    };
    let registered = cloud.as_ref().and_then(|cloud| cloud.registered().borrow().clone());
    let klap_login = KlapLogin::of(config, &store, registered.as_deref());
    let on_the_lan = plugs::examine_lan(targets::of(config, &store), config, klap_login);
    let ((brokers, account), (search, on_the_lan)) = tokio::join!(broker_and_account, on_the_lan);
    let (finding, rows) = account.map_or((None, None), |(finding, rows)| (Some(finding), rows));
    let cloud = cloud.filter(|_| rows.is_some());
    let on_the_lan = plugs::with_account(on_the_lan, rows.as_deref(), config);
    let plugs = plugs::examine_cloud(on_the_lan, rows.as_deref(), cloud.as_ref(), config).await;
    Ok(Report::of(brokers.into_iter().chain(finding).chain(search).chain(plugs)))
}
