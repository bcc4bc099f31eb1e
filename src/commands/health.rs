//! `health`: whether the running daemon answers, for a container's HEALTHCHECK and for scripts.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::installation::Installation;
use super::running::RunningDaemon;
use super::{Context, Failed, say};
use crate::model::shown;
use crate::mqtt::ReadScope;

/// A daemon answers in milliseconds. HTTP and MQTT may each take this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The most characters of a reason that are repeated.
const REASON: usize = 200;

/// Asks the running daemon, and prints one line.
///
/// # Errors
/// No daemon answers, or the config is wrong.
pub(super) async fn run(context: &Context) -> Result<(), Failed> {
    let installation = Installation::of_daemon(context)?;
    let daemon = RunningDaemon::find(&installation, ReadScope::Bridge, ANSWER_WITHIN).await?;
    let (place, bridge) = match &daemon {
        RunningDaemon::Http(connection) => (connection.place(), &connection.bridge),
        RunningDaemon::Mqtt { broker, published, .. } => (broker.clone(), &published.info),
    };
    let line = format!("{} (asked at {place})\n", status(bridge));
    daemon.end().await;
    say(&line)
}

/// As `systemctl status` says it: what is served, and what is missing.
fn status(bridge: &Value) -> String {
    let [plugs, online] = ["plugs", "online"].map(|key| bridge[key].as_u64().unwrap_or_default());
    let mut text = format!("{online} of {plugs} plugs online");
    let cloud = &bridge["cloud"];
    if let Some(status) = cloud["status"].as_str().filter(|status| *status != "off") {
        _ = write!(text, ", cloud {}{}", shown(status, REASON), reason(cloud));
    }
    match bridge["broker"]["connected"].as_bool() {
        Some(true) => text.push_str(", broker connected"),
        Some(false) => _ = write!(text, ", broker not connected{}", reason(&bridge["broker"])),
        // Over MQTT it is.
        None => {}
    }
    text
}

fn reason(of: &Value) -> String {
    of["reason"].as_str().map(|reason| format!(" ({})", shown(reason, REASON))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_line_says_what_is_served_and_what_is_missing() {
        let mut bridge = json!({"plugs": 13, "online": 12, "cloud": {"status": "off", "reason": null}});
        assert_eq!(status(&bridge), "12 of 13 plugs online");
        bridge["broker"] = json!({"embedded": true, "connected": true});
        bridge["cloud"] = json!({"status": "ok", "reason": null});
        assert_eq!(status(&bridge), "12 of 13 plugs online, cloud ok, broker connected");
        bridge["broker"] = json!({"embedded": false, "connected": false, "reason": "refused\n"});
        bridge["cloud"] = json!({"status": "stopped", "reason": "wrong password"});
        let line = "12 of 13 plugs online, cloud stopped (wrong password), broker not connected (refused\\n)";
        assert_eq!(status(&bridge), line);
    }
}
