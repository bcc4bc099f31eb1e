//! `watch`: what changes at the plugs of the running daemon, a line each, until Ctrl-C.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::event_stream::ReportedEvent;
use super::installation::Installation;
use super::list::{relay_of, text};
use super::running::{Reports, RunningDaemon};
use super::{Context, Exit, Failed, on_one_line, say_to_reader};
use crate::mqtt::ReadScope;

/// A daemon answers in milliseconds; with ten thousand plugs within a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Between two attempts to find a daemon that has ended.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON, an object a line: the events of the API's stream, the snapshot first
    #[arg(long)]
    pub(super) json: bool,
}

/// Prints what changes, until Ctrl-C or until nobody reads the output.
///
/// # Errors
/// No daemon answers at the beginning, this user may not ask it, or the config is wrong.
pub(super) async fn run(args: Args, context: &Context) -> Result<(), Failed> {
    let installation = Installation::of_daemon(context)?;
    tokio::select! {
        ended = watch(&args, &installation) => ended,
        // An error means that Ctrl-C ends the process anyway.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn watch(args: &Args, installation: &Installation) -> Result<(), Failed> {
    let mut shown = ShownPlugs::default();
    let mut reports = Some(find(installation).await?);
    loop {
        let Some(source) = &mut reports else {
            sleep(AGAIN_AFTER).await;
            match find(installation).await {
                Ok(found) => reports = Some(found),
                Err(failed) if failed.exit == Exit::Unavailable => {}
                Err(failed) => return Err(failed),
            }
            continue;
        };
        let printed = match source.next().await {
            Ok(event) => {
                let lines = shown.take(&event);
                if args.json { json_line(&event) } else { dated(&lines) }
            }
            Err(why) => {
                reports = None;
                shown.is_lost = true;
                if args.json {
                    tracing::warn!("{why}: trying again");
                    continue;
                }
                dated(&[format!("{why}: trying again")])
            }
        };
        if !say_to_reader(&printed)? {
            return Ok(());
        }
    }
}

async fn find(installation: &Installation) -> Result<Reports, Failed> {
    let daemon = RunningDaemon::find(installation, ReadScope::Changes, ANSWER_WITHIN).await?;
    daemon.reports(installation, ANSWER_WITHIN).await
}

fn json_line(ReportedEvent { kind, data }: &ReportedEvent) -> String {
    format!("{}\n", json!({ "event": kind, "data": data }))
}

/// With the time in UTC, as in the daemon's log.
fn dated(lines: &[String]) -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    lines.iter().map(|line| format!("{now}  {}\n", on_one_line(line))).collect()
}

/// The plugs as they were shown last.
#[derive(Debug, Default)]
struct ShownPlugs {
    plugs: BTreeMap<String, Value>,
    /// There was a snapshot.
    has_begun: bool,
    /// There is no connection.
    is_lost: bool,
}

impl ShownPlugs {
    /// The lines for an event: what is other than before.
    fn take(&mut self, ReportedEvent { kind, data }: &ReportedEvent) -> Vec<String> {
        if kind == "snapshot" {
            return self.take_snapshot(data["plugs"].as_array().map_or(&[], Vec::as_slice));
        }
        let name = data["plug"].as_str().unwrap_or("bridge");
        match &**kind {
            "event" => vec![format!("{name}: {}: {}", text(&data["event"]), plain(&data["detail"]))],
            "gone" if self.plugs.remove(name).is_some() => vec![format!("{name}: gone")],
            "state" | "energy" | "info" | "availability" if data["plug"].is_string() => {
                let mut now = self.plugs.get(name).cloned().unwrap_or_else(|| json!({ "name": name }));
                now[kind] = if kind == "availability" { data["availability"].clone() } else { data.clone() };
                self.replace(name, now)
            }
            _ => Vec::new(),
        }
    }

    fn take_snapshot(&mut self, plugs: &[Value]) -> Vec<String> {
        let mut lines = Vec::new();
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first {
            lines.push(format!("watching {} plugs; Ctrl-C ends", plugs.len()));
        } else if self.is_lost {
            lines.push("the daemon answers again".to_owned());
        }
        self.is_lost = false;
        let named = |plug: &&Value| plug["name"].is_string();
        for plug in plugs.iter().filter(named) {
            let changes = self.replace(plain(&plug["name"]), plug.clone());
            lines.extend(changes.into_iter().filter(|_| !is_first));
        }
        let names: HashSet<_> = plugs.iter().filter_map(|plug| plug["name"].as_str()).collect();
        self.plugs.retain(|name, _| {
            let is_there = names.contains(name.as_str());
            if !is_there {
                lines.push(format!("{name}: gone"));
            }
            is_there
        });
        lines
    }

    /// Shows a plug as it is now.
    fn replace(&mut self, name: &str, now: Value) -> Vec<String> {
        let before = self.plugs.insert(name.to_owned(), now.clone()).unwrap_or_default();
        changes(&before, &now).into_iter().map(|change| format!("{name}: {change}")).collect()
    }
}

/// What is other than before, in words.
fn changes(before: &Value, now: &Value) -> Vec<String> {
    let mut changes = Vec::new();
    if before["availability"] != now["availability"] && now["availability"].is_string() {
        changes.push(text(&now["availability"]));
    }
    let [was, is] = [before, now].map(|plug| {
        let state = &plug["state"];
        state["state"].is_string().then(|| format!("{} ({})", relay_of(state), text(&state["route"])))
    });
    if was != is {
        changes.extend(is);
    }
    let [was, is] = [before, now].map(|plug| plug["state"]["led"].as_str());
    if was.is_some() && was != is {
        changes.extend(is.map(|led| format!("LED {led}")));
    }
    let [was, is] = [before, now].map(|plug| plug["state"]["until"].as_str());
    if was != is {
        changes.extend(is.map(|until| format!("counts down until {until}")));
    }
    let [was, is] =
        [before, now].map(|plug| plug["energy"]["power"].as_f64().map(|watts| format!("{watts:.1} W")));
    if was != is {
        changes.extend(is);
    }
    changes
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, data: Value) -> ReportedEvent {
        ReportedEvent { kind: kind.to_owned(), data }
    }

    fn lamp(state: &str, route: &str) -> Value {
        json!({"name": "lamp", "availability": "online", "state": {"state": state, "route": route, "led": "ON"},
               "energy": {"power": 1.0}, "info": null})
    }

    #[test]
    fn each_change_is_a_line_and_what_stayed_the_same_is_none() {
        let mut shown = ShownPlugs::default();
        let mut lines = |kind: &str, data: Value| shown.take(&event(kind, data));
        let plugs = json!({"plugs": [lamp("OFF", "local"), {"name": "fan"}]});
        assert_eq!(lines("snapshot", plugs), ["watching 2 plugs; Ctrl-C ends"]);
        let state =
            |state: &str, route: &str| json!({"plug": "lamp", "state": state, "route": route, "led": "ON"});
        assert_eq!(lines("state", state("OFF", "local")), [""; 0]);
        assert_eq!(lines("state", state("ON", "local")), ["lamp: ON (local)"]);
        assert_eq!(lines("state", state("ON", "cloud")), ["lamp: ON (cloud)"]);
        let dimmed = json!({"plug": "lamp", "state": "ON", "route": "cloud", "led": "OFF", "brightness": 40, "until": "x"});
        assert_eq!(
            lines("state", dimmed),
            ["lamp: ON at 40 % (cloud)", "lamp: LED OFF", "lamp: counts down until x"]
        );
        assert_eq!(lines("energy", json!({"plug": "lamp", "power": 1.04})), [""; 0]);
        assert_eq!(lines("energy", json!({"plug": "lamp", "power": 1.06})), ["lamp: 1.1 W"]);
        assert_eq!(
            lines("availability", json!({"plug": "lamp", "availability": "offline"})),
            ["lamp: offline"]
        );
        assert_eq!(
            lines("state", json!({"plug": "new", "state": "ON", "route": "local"})),
            ["new: ON (local)"]
        );
        let notice = json!({"event": "plug_found", "plug": "new", "detail": "HS100 at 127.0.0.1", "at": "x"});
        assert_eq!(lines("event", notice), ["new: plug_found: HS100 at 127.0.0.1"]);
        assert_eq!(lines("gone", json!({"plug": "fan"})), ["fan: gone"]);
        for (kind, data) in
            [("bridge", json!({"plugs": 1})), ("result", json!({"plug": "lamp"})), ("x", json!(7))]
        {
            assert_eq!(lines(kind, data), [""; 0], "{kind}");
        }
    }

    #[test]
    fn after_a_restart_only_what_is_other_than_before_is_shown() {
        let mut shown = ShownPlugs::default();
        let before = json!({"plugs": [lamp("OFF", "local"), {"name": "fan"}]});
        shown.take(&event("snapshot", before));
        shown.is_lost = true;
        let lines = shown.take(&event("snapshot", json!({"plugs": [lamp("ON", "local")]})));
        assert_eq!(lines, ["the daemon answers again", "lamp: ON (local)", "fan: gone"]);
        assert!(!shown.is_lost);
    }
}
