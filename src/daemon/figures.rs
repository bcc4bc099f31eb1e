//! The lines that SIGUSR1 writes to the log: counts, and the state of each plug.

use std::collections::HashMap;
use std::time::Instant;

use crate::bridge::event::BridgeInfo;
use crate::bridge::snapshot::{PlugSnapshot, Snapshot};
use crate::bridge::waiting::Waiting;
use crate::model::{Availability, LanProtocol, Route};

/// Plugs that get a line; those with a failure come first.
const MAX_LINES: usize = 100;

/// The lines for the log. The counts in the first one stay the same while all is well: a count that grows without more
/// plugs is a leak.
pub(super) fn lines(
    snapshot: &Snapshot,
    waiting: &[Waiting],
    now: Instant,
    exchanges: usize,
    tasks: usize,
    broker: Option<&str>,
) -> Vec<String> {
    let BridgeInfo { plugs, online, .. } = snapshot.info;
    let broker = broker.unwrap_or("none");
    let mut lines = vec![format!(
        "figures plugs={plugs} online={online} broker={broker} exchanges={exchanges} tasks={tasks}"
    )];
    let mut rows: Vec<_> = snapshot.plugs.iter().collect();
    rows.sort_by_key(|plug| is_well(plug));
    let mut by_plug: HashMap<_, Vec<_>> = HashMap::new();
    for timer in waiting {
        by_plug.entry(timer.plug.as_ref()).or_default().push(timer);
    }
    for plug in rows.iter().take(MAX_LINES) {
        let timers = by_plug.remove(&Some(&plug.name)).unwrap_or_default();
        lines.push(line(plug) + &waits_for(timers, now));
    }
    if let Some(more) = rows.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
        lines.push(format!("figures of {more} more plugs are left out"));
    }
    lines
}

fn is_well(plug: &PlugSnapshot) -> bool {
    let has_failed = Route::ALL.into_iter().any(|route| plug.failures.get(route).is_some());
    plug.availability == Some(Availability::Online) && !has_failed
}

fn line(plug: &PlugSnapshot) -> String {
    let PlugSnapshot { name, availability, route, failures, protocol, .. } = plug;
    let availability = availability.map_or("unknown", Availability::word);
    let route = route.map_or_else(|| "none".to_owned(), |route| route.to_string());
    let protocol = protocol.map_or("unknown", LanProtocol::word);
    let mut line =
        format!("figures plug={name} availability={availability} route={route} protocol={protocol}");
    for route in Route::ALL {
        if let Some(failure) = failures.get(route) {
            line.push_str(&format!(" {route}_failure=\"{failure}\""));
        }
    }
    line
}

/// ` waits_for="the next read over the local route in 4s, …"`, the earliest first; nothing if no timer runs.
fn waits_for(mut timers: Vec<&Waiting>, now: Instant) -> String {
    timers.sort_by_key(|timer| timer.until);
    let words: Vec<_> = timers.iter().map(|timer| timer.in_words(now)).collect();
    if words.is_empty() { String::new() } else { format!(" waits_for=\"{}\"", words.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bridge::counters::{CommandCounts, CommandDurations};
    use crate::bridge::failures::Failures;
    use crate::bridge::waiting::WaitingFor;
    use crate::model::{Failure, PlugName};

    fn plug(name: &str, route: Option<Route>) -> PlugSnapshot {
        PlugSnapshot {
            name: PlugName::new(name).unwrap(),
            state: None,
            info: None,
            energy: None,
            availability: route.map(|_| Availability::Online),
            route,
            failures: Failures::default(),
            last_error: None,
            protocol: route.map(|_| LanProtocol::Xor),
            last_answers: [None; 2],
            counters: None,
            commands: CommandCounts::default(),
        }
    }

    #[test]
    fn each_plug_has_a_line_and_those_that_fail_come_first() {
        let mut lamp = plug("lamp", Some(Route::Cloud));
        lamp.failures.note(Route::Local, &Failure::Refused);
        let plugs = vec![plug("fan", Some(Route::Local)), lamp, plug("kettle", None)];
        let snapshot = Snapshot {
            info: BridgeInfo::default(),
            is_ready: true,
            unserved: vec![],
            durations: CommandDurations::default(),
            plugs,
        };
        let now = Instant::now();
        let timer = |what, seconds| {
            let until = now + Duration::from_secs(seconds);
            Waiting { plug: PlugName::new("fan").ok(), what, until }
        };
        let waiting = [timer(WaitingFor::SlowPoll, 9), timer(WaitingFor::Poll(Route::Local), 4)];
        assert_eq!(
            lines(&snapshot, &waiting, now, 2, 7, Some("broker.lan:1883")),
            [
                "figures plugs=0 online=0 broker=broker.lan:1883 exchanges=2 tasks=7",
                "figures plug=lamp availability=online route=cloud protocol=xor local_failure=\"connection refused\"",
                "figures plug=kettle availability=unknown route=none protocol=unknown",
                "figures plug=fan availability=online route=local protocol=xor waits_for=\"the next read over the local route \
                 in 4s, the next read of the meter, the schedule or the like in 9s\"",
            ]
        );
    }

    #[test]
    fn ten_thousand_plugs_do_not_fill_the_log() {
        let plugs = (0..10_000).map(|number| plug(&format!("plug-{number}"), Some(Route::Local))).collect();
        let snapshot = Snapshot {
            info: BridgeInfo::default(),
            is_ready: true,
            unserved: vec![],
            durations: CommandDurations::default(),
            plugs,
        };
        let lines = lines(&snapshot, &[], Instant::now(), 0, 0, None);
        assert_eq!((lines.len(), &*lines[101]), (102, "figures of 9900 more plugs are left out"));
    }
}
