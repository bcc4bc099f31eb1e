//! Examines the account: reads its list with the stored token, or after one login if there is none.

use std::time::Instant;

use super::broker::DaemonState;
use super::diagnosis;
use super::report::{Finding, FindingSubject, Try};
use crate::cause;
use crate::config::Config;
use crate::transport::cloud::Cloud;
use crate::transport::cloud::api::Row;

/// Tries the account, if there is one. Returns the finding and the rows of its list.
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
    // The daemon has already found out, and each wrong login brings the lock nearer.
    if let Some(why) = &daemon.cloud_stopped {
        let tries = vec![Try::new("ask the running daemon", format!("stopped: {why}"))];
        let found = format!("the running daemon has stopped using the account ({why})");
        return Some((
            Finding::bad(FindingSubject::Cloud, found, cause::STOPPED_BY_DAEMON).after(tries),
            None,
        ));
    }
    let what = format!("read the account's list from {}", settings.options.url);
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
            let trouble = cloud.error();
            let cause = diagnosis::of_account(&error, trouble.as_ref());
            // The error's own text ends with a remedy for the daemon; the cause has the doctor's.
            let mut found = trouble.as_ref().map_or_else(|| error.to_string(), ToString::to_string);
            let is_about_the_name = [cause::ACCOUNT_UNKNOWN, cause::LOGIN_MALFORMED].contains(&cause);
            let odd = diagnosis::oddity(&settings.options.username).filter(|_| is_about_the_name);
            if let Some(odd) = odd {
                found = format!("{found}; look at [cloud] username: {odd}");
            }
            let tries = vec![Try::since(begun, what, error.to_string())];
            (Finding::bad(FindingSubject::Cloud, found, cause).after(tries), None)
        }
    })
}
