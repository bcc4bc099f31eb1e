//! `list`: the plugs of the running daemon, as a table or as JSON.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::installation::Installation;
use super::running::RunningDaemon;
use super::table::TextTable;
use super::{Context, Failed, on_one_line, say};
use crate::model::shown;
use crate::mqtt::ReadScope;

/// A daemon with ten thousand plugs answers within a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const HEADINGS: [&str; 6] = ["NAME", "STATE", "ROUTE", "SIGNAL", "POWER", "SINCE"];
/// The most characters of a cell.
const CELL: usize = 64;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Asks the running daemon, and prints its plugs in the order of their names.
///
/// # Errors
/// No daemon answers, or the config is wrong.
pub(super) async fn run(args: Args, context: &Context) -> Result<(), Failed> {
    let installation = Installation::of_daemon(context)?;
    let daemon = RunningDaemon::find(&installation, ReadScope::Plugs, ANSWER_WITHIN).await?;
    let mut plugs = daemon.plugs(&installation, ANSWER_WITHIN).await?;
    plugs.sort_by(|one, other| one["name"].as_str().cmp(&other["name"].as_str()));
    say(&if args.json { format!("{}\n", json!(plugs)) } else { as_table(&plugs, SystemTime::now()) })
}

fn as_table(plugs: &[Value], now: SystemTime) -> String {
    if plugs.is_empty() {
        return "The daemon has no plugs yet. `hs100d discover` shows the plugs on the LAN.\n".to_owned();
    }
    let mut table = TextTable::new(HEADINGS);
    for plug in plugs {
        table.row(cells(plug, now));
    }
    format!("{table}{}", remarks(plugs))
}

/// Below the table: why a plug is not on the route that failed last.
fn remarks(plugs: &[Value]) -> String {
    let mut remarks = String::new();
    for plug in plugs {
        let (error, route) = (&plug["last_error"], &plug["state"]["route"]);
        let Some(what) = error["error"].as_str().filter(|_| error["route"] != *route) else { continue };
        let failed = error["route"].as_str().map(|route| format!("{}: ", shown(route, CELL)));
        let age = error["age_s"].as_u64().map(|seconds| format!(" ({})", in_words(seconds)));
        let remedy = error["remedy"].as_str().map(|remedy| format!(": {}", on_one_line(remedy)));
        _ = writeln!(
            remarks,
            "{}: {}{}{}{}",
            text(&plug["name"]),
            failed.unwrap_or_default(),
            on_one_line(what),
            age.unwrap_or_default(),
            remedy.unwrap_or_default()
        );
    }
    remarks
}

fn cells(plug: &Value, now: SystemTime) -> [String; HEADINGS.len()] {
    let state = &plug["state"];
    let signal = plug["info"]["rssi"].as_i64().map(|dbm| format!("{dbm} dBm"));
    // Over MQTT only what is on has a date.
    let since =
        [&plug["since"], &state["on_since"]].into_iter().find(|date| !date.is_null()).unwrap_or(&Value::Null);
    let power = plug["energy"]["power"].as_f64().map(|watts| format!("{watts:.1} W"));
    [
        text(&plug["name"]),
        state_of(plug),
        text(&state["route"]),
        signal.unwrap_or_default(),
        power.unwrap_or_default(),
        since.as_str().and_then(|date| ago(date, now)).unwrap_or_default(),
    ]
}

/// In words: `ON`, `ON at 40 %`, `OFF`, `offline`, or `unknown` before the first reading.
fn state_of(plug: &Value) -> String {
    if plug["availability"] == "offline" { "offline".to_owned() } else { relay_of(&plug["state"]) }
}

/// The state of the relay, and the level of a dimmer.
pub(super) fn relay_of(state: &Value) -> String {
    match (state["state"].as_str(), state["brightness"].as_u64()) {
        (Some("ON"), Some(percent)) => format!("ON at {percent} %"),
        (Some(word), _) => shown(word, CELL),
        (None, _) => "unknown".to_owned(),
    }
}

/// A text on one line and of bounded length, from whatever answers.
pub(super) fn text(value: &Value) -> String {
    shown(value.as_str().unwrap_or_default(), CELL)
}

/// How long ago a date was; `None` for what is no date.
fn ago(date: &str, now: SystemTime) -> Option<String> {
    let date = humantime::parse_rfc3339(date).ok()?;
    Some(in_words(now.duration_since(date).unwrap_or_default().as_secs()))
}

/// So many seconds ago, in the largest unit that fits.
fn in_words(seconds: u64) -> String {
    const LARGEST_FIRST: [(u64, &str); 3] = [(24 * 60 * 60, "d"), (60 * 60, "h"), (60, "min")];
    let unit = LARGEST_FIRST.iter().find(|(unit, _)| seconds >= *unit);
    unit.map_or_else(|| format!("{seconds} s ago"), |(unit, name)| format!("{} {name} ago", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_is_known_and_nothing_else() {
        let now = humantime::parse_rfc3339("2026-11-27T12:00:00Z").unwrap();
        let plugs = [
            json!({"name": "desk", "availability": "online", "energy": {"power": 41.96}, "info": {"rssi": -47},
                   "last_error": {"route": "local", "error": "it works again", "age_s": 9, "remedy": null},
                   "state": {"state": "ON", "route": "local", "on_since": "2026-11-27T09:30:00Z", "brightness": 40}}),
            json!({"name": "fan", "availability": "offline", "energy": null, "info": {"rssi": null},
                   "state": {"state": "ON", "route": "none", "on_since": null}, "since": "2026-11-27T11:59:00Z",
                   "last_error": {"route": "local", "error": "no answer\n", "age_s": 70, "remedy": "say \"hello\""}}),
            json!({"name": "kettle", "availability": null, "state": null, "energy": null, "info": null}),
            json!({"name": "lie\u{1b}[2J", "state": {"state": 7, "on_since": "yesterday"}}),
        ];
        let expected = "NAME          STATE       ROUTE  SIGNAL   POWER   SINCE\n\
                        desk          ON at 40 %  local  -47 dBm  42.0 W  2 h ago\n\
                        fan           offline     none                    1 min ago\n\
                        kettle        unknown\n\
                        lie\\u{1b}[2J  unknown\n\
                        fan: local: no answer  (1 min ago): say \"hello\"\n";
        assert_eq!(as_table(&plugs, now), expected);
        assert!(as_table(&[], now).contains("hs100d discover"));
    }

    #[test]
    fn a_date_is_told_in_the_largest_unit_that_fits() {
        let now = humantime::parse_rfc3339("2026-11-27T12:00:00Z").unwrap();
        for (date, words) in [
            ("2026-11-27T12:00:00Z", "0 s ago"),
            ("2026-11-27T11:59:01Z", "59 s ago"),
            ("2026-11-27T11:59:00Z", "1 min ago"),
            ("2026-11-27T10:00:01Z", "1 h ago"),
            ("2026-11-25T12:00:00Z", "2 d ago"),
            ("2026-11-27T12:00:09Z", "0 s ago"),
        ] {
            assert_eq!(ago(date, now).as_deref(), Some(words), "{date}");
        }
        assert_eq!(ago("9999999999", now), None);
    }
}
