//! A request to the running daemon, over the broker that both find in the same config.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Exit, Failed, say};
use crate::config::{Config, MqttChoice};
use crate::mqtt;
use crate::store::Store;

/// A daemon answers in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Only the running daemon knows the broker.
pub(super) const NO_BROKER: &str = "the config names no broker";

/// How a request to the running daemon ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DaemonReply {
    /// The daemon did it.
    Done,
    /// The daemon refused, for this reason.
    Refused(String),
    /// No daemon answered, or the broker cannot be reached.
    NoAnswer(String),
}

/// Asks the daemon, if one is running.
pub(super) async fn daemon(config: &Config, store: &Store, request: &str, payload: &Value) -> DaemonReply {
    let options = match config.mqtt(store.instance(), std::path::Path::new("")) {
        MqttChoice::Embedded { link, .. } => link,
        MqttChoice::Outside(options) => options,
        MqttChoice::Awaited => return DaemonReply::NoAnswer(NO_BROKER.to_owned()),
    };
    // In a cluster any node will do, and the daemon's own is the first.
    let mut reply = DaemonReply::NoAnswer(NO_BROKER.to_owned());
    for broker in options.brokers() {
        reply = match mqtt::request(options.only_at(broker), request, payload, ANSWER_WITHIN).await {
            Ok(Some(answer)) if answer["status"] == "ok" => return DaemonReply::Done,
            Ok(Some(answer)) => {
                let why = answer["error"].as_str().unwrap_or("it gave no reason");
                return DaemonReply::Refused(why.to_owned());
            }
            Ok(None) => DaemonReply::NoAnswer("no daemon answered".to_owned()),
            Err(why) => DaemonReply::NoAnswer(why),
        };
    }
    reply
}

/// Asks the daemon to read its config again, and prints the result.
pub(super) async fn reload(config: &Config, store: &Store, is_service_running: bool) -> Result<(), Failed> {
    match daemon(config, store, "reload", &json!({})).await {
        DaemonReply::Done => say("The running daemon was informed.\n"),
        DaemonReply::NoAnswer(why) => say(&without_answer(&why, is_service_running)),
        DaemonReply::Refused(why) => {
            Err(Failed::new(Exit::CommandFailed, format!("the running daemon: {why}")))
        }
    }
}

/// What to do if no daemon answered.
fn without_answer(why: &str, is_service_running: bool) -> String {
    if is_service_running {
        format!("The running service was not reached ({why}): type `sudo systemctl reload hs100d`.\n")
    } else {
        "No running daemon was found; the change applies from its next start.\n".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_service_that_was_not_reached_has_to_be_reloaded() {
        let line = "The running service was not reached (no daemon answered): type `sudo systemctl reload hs100d`.\n";
        assert_eq!(without_answer("no daemon answered", true), line);
        assert!(without_answer("no daemon answered", false).starts_with("No running daemon was found"));
    }
}
