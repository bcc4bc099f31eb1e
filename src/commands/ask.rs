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
pub(super) enum Answer {
    /// It was done.
    Done,
    /// The daemon said no, for this reason.
    Refused(String),
    /// Nobody answered, or there is no broker to ask at.
    Nobody(String),
}

/// Asks the daemon, if one is running.
pub(super) async fn daemon(config: &Config, store: &Store, request: &str, payload: &Value) -> Answer {
    let options = match config.mqtt(store.instance(), std::path::Path::new("")) {
        MqttChoice::Embedded { link, .. } => link,
        MqttChoice::Outside(options) => options,
    };
    match mqtt::request(options, request, payload, ANSWER_WITHIN).await {
        Ok(Some(answer)) if answer["status"] == "ok" => Answer::Done,
        Ok(Some(answer)) => {
            Answer::Refused(answer["error"].as_str().unwrap_or("it gave no reason").to_owned())
        }
        Ok(None) => Answer::Nobody("no daemon answered".to_owned()),
        Err(why) => Answer::Nobody(why),
    }
}

/// Asks the daemon to read its config again, and says how that went.
pub(super) async fn reload(config: &Config, store: &Store) -> Result<(), Failed> {
    match daemon(config, store, "reload", &json!({})).await {
        Answer::Done => say("The running daemon was told.\n"),
        Answer::Nobody(_) => say("No running daemon was found; the next start will know.\n"),
        Answer::Refused(why) => Err(Failed::new(Exit::CommandFailed, format!("the running daemon: {why}"))),
    }
}
