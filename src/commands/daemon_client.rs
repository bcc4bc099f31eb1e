//! A request to the running daemon, over the broker that both are told of by the same config.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Exit, Failed, say};
use crate::config::{Config, MqttChoice};
use crate::mqtt;
use crate::store::Store;

/// A daemon answers in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How a request to the running daemon ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DaemonReply {
    /// It was done.
    Done,
    /// The daemon said no, for this reason.
    Refused(String),
    /// Nobody answered, or there is no broker to ask at.
    Nobody(String),
}

/// Asks the daemon, if one is running.
pub(super) async fn daemon(config: &Config, store: &Store, request: &str, payload: &Value) -> DaemonReply {
    let options = match config.mqtt(store.instance(), std::path::Path::new("")) {
        MqttChoice::Embedded { link, .. } => link,
        MqttChoice::Outside(options) => options,
    };
    match mqtt::request(options, request, payload, ANSWER_WITHIN).await {
        Ok(Some(answer)) if answer["status"] == "ok" => DaemonReply::Done,
        Ok(Some(answer)) => {
            DaemonReply::Refused(answer["error"].as_str().unwrap_or("it gave no reason").to_owned())
        }
        Ok(None) => DaemonReply::Nobody("no daemon answered".to_owned()),
        Err(why) => DaemonReply::Nobody(why),
    }
}

/// Asks the daemon to read its config again, and says how that went.
pub(super) async fn reload(config: &Config, store: &Store, is_service_running: bool) -> Result<(), Failed> {
    match daemon(config, store, "reload", &json!({})).await {
        DaemonReply::Done => say("The running daemon was told.\n"),
        DaemonReply::Nobody(why) => say(&untold(&why, is_service_running)),
        DaemonReply::Refused(why) => {
            Err(Failed::new(Exit::CommandFailed, format!("the running daemon: {why}")))
        }
    }
}

/// What to do where no daemon answered.
fn untold(why: &str, is_service_running: bool) -> String {
    if is_service_running {
        format!("The running service was not told ({why}): type `sudo systemctl reload hs100d`.\n")
    } else {
        "No running daemon was found; the next start will know.\n".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_runs_is_not_taken_for_one_that_will_know_at_its_next_start() {
        let line =
            "The running service was not told (no daemon answered): type `sudo systemctl reload hs100d`.\n";
        assert_eq!(untold("no daemon answered", true), line);
        assert!(untold("no daemon answered", false).starts_with("No running daemon was found"));
    }
}
