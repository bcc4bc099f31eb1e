//! The account: its list, by the token that is kept, or by one login where there is none.

use std::time::Instant;

use super::broker::DaemonState;
use super::cause;
use super::diagnosis;
use super::report::{Finding, FindingSubject, Try};
use crate::config::Config;
use crate::transport::cloud::Cloud;
use crate::transport::cloud::api::Row;

/// Tries the account, if there is one: what was found, and the rows of its list.
pub(super) async fn examine(
    config: &Config,
    cloud: Option<&Cloud>,
    daemon: &DaemonState,
) -> Option<(Finding, Option<Vec<Row>>)> {
    let settings = config.cloud.as_ref()?;
    let Some(cloud) = cloud else {
        let found = "there are no certificate authorities on this machine";
        return Some((Finding::bad(FindingSubject::Cloud, found, cause::NO_CLOUD_AUTHORITIES), None));
    };
    // Each wrong login brings the lock nearer, and the daemon has found out already.
    if let Some(why) = &daemon.cloud_stopped {
        let tries = vec![Try::new("ask the running daemon", format!("stopped: {why}"))];
        let found = format!("the running daemon has stopped using the account ({why})");
        return Some((
            Finding::bad(FindingSubject::Cloud, found, cause::STOPPED_BY_DAEMON).after(tries),
            None,
        ));
    }
    let what = format!("read the account's list at {}", settings.options.url);
    let begun = Instant::now();
    Some(match cloud.list().await {
        Ok(rows) => {
            let connected = rows.iter().filter(|row| row.connected).count();
            let found = format!("the account lists {} devices, {connected} of them connected", rows.len());
            let tries = vec![Try::since(begun, what, found.clone())];
            let cause = rows.is_empty().then_some(cause::ACCOUNT_EMPTY);
            (Finding::of(FindingSubject::Cloud, found, cause).after(tries), Some(rows))
        }
        Err(error) => {
            let trouble = cloud.trouble();
            let cause = diagnosis::of_account(&error, trouble.as_ref());
            // The table of codes names remedies of its own; here the cause has the one.
            let mut found = trouble.as_ref().map_or_else(|| error.to_string(), ToString::to_string);
            let is_about_the_name = [cause::ACCOUNT_UNKNOWN, cause::USERNAME_MALFORMED].contains(&cause);
            let odd = diagnosis::oddity(&settings.options.username).filter(|_| is_about_the_name);
            if let Some(odd) = odd {
                found = format!("{found}; look at [cloud] username: {odd}");
            }
            let tries = vec![Try::since(begun, what, error.to_string())];
            (Finding::bad(FindingSubject::Cloud, found, cause).after(tries), None)
        }
    })
}
