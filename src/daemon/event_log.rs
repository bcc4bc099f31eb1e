//! The log lines about plugs and the cloud: which updates are logged, at which level, and how often.
//!
//! The message of a line says everything, since `journalctl` shows nothing else; the fields are for programs.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::bridge::event::{
    BridgeInfo, CloudStatus, CommandResult, DiscoveryReply, Ended, Event, Notice, NoticeKind, Sighting,
    Update,
};
use crate::logging::Repeated;
use crate::model::{PlugName, Route, shown};

/// The number of changes of route or availability in a row that are all logged. Further ones are logged at growing
/// intervals.
const CHANGES_LOGGED: u32 = 6;
/// A plug counts as stable after this time without a change.
const STABLE_AFTER: Duration = Duration::from_secs(600);

/// The most unreadable fields that are remembered, so that each is logged once. Bounds what invented plugs can fill.
const MAX_UNREAD: usize = 1000;
/// The longest part of a plug's alias that is logged, in characters; the apps accept 31.
const ALIAS_SHOWN: usize = 40;

const CLOUD_REMEDY: &str = "it is retried; hs100d check --online shows more";

/// Decides what is logged, by what was logged before.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    /// Plugs whose commands fail, until one succeeds.
    failing: HashMap<PlugName, Repeated>,
    /// Plugs whose route or availability changed lately.
    flapping: HashMap<PlugName, FlapDamping>,
    cloud: Repeated,
    flapping_cloud: FlapDamping,
    /// Fields that could not be read, with the alias of the plug.
    unread: HashSet<(String, &'static str)>,
}

impl EventLog {
    /// Logs an update, if people need to see it.
    pub(super) fn log(&mut self, update: &Update, now: Instant) {
        match update {
            Update::Notice(notice) => self.log_notice(notice, now),
            Update::Result(result) => self.log_result(result, now),
            Update::Gone(plug) => {
                self.failing.remove(plug);
                self.flapping.remove(plug);
            }
            Update::Dropped(plug, times) => tracing::debug!(
                plug = plug.as_str(),
                "{plug}: the meter reported values that no plug can carry; {times} dropped so far"
            ),
            _ => {}
        }
    }

    /// Logs each field of a plug that cannot be read, once.
    pub(super) fn log_unread(&mut self, event: &Event) {
        let reading = match event {
            Event::Done { outcome, .. } => outcome.reading(),
            Event::Sighted(Sighting { reply: DiscoveryReply::SysInfo(reading), .. }) => Some(&**reading),
            _ => None,
        };
        let Some(reading) = reading.filter(|reading| !reading.unread.is_empty()) else { return };
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let device = &reading.device;
        let id = device.device_id.as_ref().map(ToString::to_string);
        let plug = device.mac.map(|mac| mac.to_string()).or(id).unwrap_or_default();
        let mut fields = reading.unread.to_vec();
        fields.retain(|field| self.unread.len() < MAX_UNREAD && self.unread.insert((plug.clone(), field)));
        if !fields.is_empty() {
            let alias = shown(&device.alias, ALIAS_SHOWN);
            tracing::debug!(
                "\"{alias}\" ({plug}): get_sysinfo: {} cannot be read and counts as absent",
                fields.join(", ")
            );
        }
    }

    /// Logs that the cloud is down or up again. Called in each turn of the loop: while the cloud stays down, no event comes.
    pub(super) fn log_cloud(&mut self, info: &BridgeInfo, now: Instant) {
        match &info.cloud {
            CloudStatus::Down(reason) if **reason != *CloudStatus::NOT_ASKED => {
                self.log_cloud_down(reason, now)
            }
            CloudStatus::Ok => {
                if let Some(past) = self.cloud.ended(now) {
                    self.log_cloud_ok(&format!("again after {}", past.lasted()), now);
                }
            }
            CloudStatus::Down(_) | CloudStatus::Off | CloudStatus::Stopped(_) => drop(self.cloud.ended(now)),
        }
    }

    fn log_cloud_down(&mut self, reason: &str, now: Instant) {
        let is_first = !self.cloud.is_going_on();
        if self.cloud.failed(reason, now).is_none()
            || (is_first && self.flapping_cloud.changed(now).is_none())
        {
            return;
        }
        let route = Route::Cloud.to_string();
        tracing::warn!(event = "cloud_down", route, reason, "cloud_down: {reason}: {CLOUD_REMEDY}");
    }

    fn log_cloud_ok(&mut self, when: &str, now: Instant) {
        if self.flapping_cloud.changed(now).is_some() {
            let route = Route::Cloud.to_string();
            tracing::info!(event = "cloud_ok", route, "cloud_ok: it answers {when}");
        }
    }

    fn log_notice(&mut self, notice: &Notice, now: Instant) {
        let Notice { kind, plug, route, detail } = notice;
        let (is_due, times) = match (kind, plug) {
            // If the failure was logged, `log_cloud` logs its end.
            (NoticeKind::CloudOk, _) if self.cloud.is_going_on() => return,
            (NoticeKind::CloudOk, _) => return self.log_cloud_ok("now", now),
            (NoticeKind::CommandFailed, Some(plug)) => {
                let times = self.failing.entry(plug.clone()).or_default().failed(detail, now);
                (times.is_some(), times.unwrap_or_default())
            }
            // The first change of a stable plug.
            (NoticeKind::PlugOnline, Some(plug)) if !self.flapping.contains_key(plug) => (true, 0),
            (NoticeKind::PlugOnline | NoticeKind::PlugOffline | NoticeKind::RouteChanged, Some(plug)) => {
                if self.flapping.len() == self.flapping.capacity() {
                    self.flapping.retain(|_, flapping| !flapping.is_stable(now));
                }
                let times = self.flapping.entry(plug.clone()).or_default().changed(now);
                (times.is_some(), times.filter(|&times| times > CHANGES_LOGGED).unwrap_or_default().into())
            }
            _ => (true, 0),
        };
        let line = line(notice, times);
        let (event, plug) = (kind.word(), plug.as_ref().map(PlugName::as_str));
        let (route, reason) =
            (route.map(tracing::field::display), Some(detail.as_str()).filter(|it| !it.is_empty()));
        match (is_due, is_warning(*kind)) {
            (true, true) => tracing::warn!(event, plug, route, reason, "{line}"),
            (true, false) => tracing::info!(event, plug, route, reason, "{line}"),
            (false, _) => tracing::debug!(event, plug, route, reason, "{line}"),
        }
    }

    fn log_result(&mut self, result: &CommandResult, now: Instant) {
        if result.ended != Ended::Ok {
            return;
        }
        if let Some(past) = self.failing.remove(&result.plug).and_then(|mut failing| failing.ended(now)) {
            let (plug, route) = (result.plug.as_str(), result.route.map(tracing::field::display));
            tracing::info!(
                event = "command_ok",
                plug,
                route,
                "{plug}: command_ok: commands succeed again {past}"
            );
        }
    }
}

fn is_warning(kind: NoticeKind) -> bool {
    match kind {
        NoticeKind::PlugOffline
        | NoticeKind::CommandFailed
        | NoticeKind::CloudStopped
        | NoticeKind::Unsupported => true,
        NoticeKind::PlugFound
        | NoticeKind::PlugGone
        | NoticeKind::PlugOnline
        | NoticeKind::RouteChanged
        | NoticeKind::AddressChanged
        | NoticeKind::ProtocolChanged
        | NoticeKind::DriftCorrected
        | NoticeKind::CloudOk => false,
    }
}

/// `kettle: plug_offline: no answer on any route: what to do`.
fn line(notice: &Notice, times: u64) -> String {
    let Notice { kind, plug, detail, .. } = notice;
    let plug = plug.as_ref().map(|plug| plug.as_str().to_owned());
    let detail = Some(detail.clone()).filter(|detail| !detail.is_empty());
    let parts = [plug, Some(kind.word().to_owned()), detail, remedy(*kind).map(str::to_owned)];
    let line = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
    if times > 1 { format!("{line} ({times} times so far)") } else { line }
}

/// What to do, for kinds whose detail does not say it.
fn remedy(kind: NoticeKind) -> Option<&'static str> {
    match kind {
        NoticeKind::PlugOffline => Some("check its power and Wi-Fi; hs100d check --online shows more"),
        NoticeKind::CommandFailed => Some("hs100d check --online tries each route to it"),
        _ => None,
    }
}

/// Counts the changes of a plug's route or availability, until it is stable.
#[derive(Debug, Default)]
struct FlapDamping {
    changes: u32,
    last: Option<Instant>,
    further: Repeated,
}

impl FlapDamping {
    /// Counts a change. Returns the count if this change is to be logged.
    fn changed(&mut self, now: Instant) -> Option<u32> {
        if self.is_stable(now) {
            *self = Self::default();
        }
        self.last = Some(now);
        self.changes = self.changes.saturating_add(1);
        let is_due = self.changes <= CHANGES_LOGGED || self.further.failed("", now).is_some();
        is_due.then_some(self.changes)
    }

    fn is_stable(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) >= STABLE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::bridge::event::{CommandId, ExchangeId, Origin, Outcome, PlugKey};
    use crate::smarthome::message::Request;

    #[test]
    fn a_plug_that_flaps_all_day_is_logged_seldom_and_a_stable_one_at_once() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut flapping = FlapDamping::default();
        let logged: Vec<u64> =
            (0..8640).map(|n| n * 10).filter(|&second| flapping.changed(at(second)).is_some()).collect();
        assert_eq!(logged[..9], [0, 10, 20, 30, 40, 50, 60, 120, 240]);
        assert!(logged.len() < 40, "{logged:?}");
        assert_eq!(flapping.changed(at(86_400 + 600)), Some(1), "stable before");
    }

    #[test]
    fn plugs_that_became_stable_are_forgotten() {
        let (start, mut log) = (Instant::now(), EventLog::default());
        let mut count = |kind, number: u32, at| {
            let plug = PlugName::new(&format!("plug-{number}")).ok();
            log.log_notice(&Notice { kind, plug, route: None, detail: String::new() }, at);
            log.flapping.len()
        };
        assert_eq!((0..1000).map(|number| count(NoticeKind::PlugOnline, number, start)).max(), Some(0));
        assert_eq!((0..1000).map(|number| count(NoticeKind::PlugOffline, number, start)).max(), Some(1000));
        let later = start + STABLE_AFTER;
        let kept = (1000..3000).map(|number| count(NoticeKind::PlugOffline, number, later)).last();
        assert_eq!(kept, Some(2000), "the first thousand are forgotten");
    }

    #[test]
    fn a_field_that_cannot_be_read_is_logged_once() {
        let mut log = EventLog::default();
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&written);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || Written(Arc::clone(&writer)))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            for (mac, rssi) in [("50C7BF000001", "0"), ("50C7BF000001", "{}"), ("50C7BF000002", "0")] {
                let json = format!(
                    r#"{{"system":{{"get_sysinfo":{{"mac":"{mac}","relay_state":1,"alias":null,"rssi":{rssi}}}}}}}"#
                );
                let reply = Request::SysInfo.read_reply(json.as_bytes(), None).unwrap();
                let exchange = ExchangeId::new(PlugKey(0), 1);
                for _ in 0..3 {
                    let outcome = Outcome::of(Ok(reply.clone()));
                    log.log_unread(&Event::Done { exchange, outcome });
                }
            }
        });
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once("get_sysinfo: ").unwrap().1).collect();
        let alias = "alias cannot be read and counts as absent";
        assert_eq!(lines, [alias, "rssi cannot be read and counts as absent", alias], "{text}");
    }

    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_failure_is_logged_with_its_remedy() {
        let lines = [NoticeKind::PlugOffline, NoticeKind::CommandFailed].map(|kind| {
            let plug = PlugName::new("kettle").ok();
            line(&Notice { kind, plug, route: None, detail: "no answer".to_owned() }, 1)
        });
        assert!(lines[0].starts_with("kettle: plug_offline: no answer: check its power"), "{lines:?}");
        assert!(
            lines[1].starts_with("kettle: command_failed: no answer: hs100d check --online"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_command_that_succeeds_again_is_forgotten() {
        let (start, mut log) = (Instant::now(), EventLog::default());
        let plug = PlugName::new("kettle").unwrap();
        let failed = Update::Notice(Notice {
            kind: NoticeKind::CommandFailed,
            plug: Some(plug.clone()),
            route: None,
            detail: "no answer".to_owned(),
        });
        for second in 0..100 {
            log.log(&failed, start + Duration::from_secs(second));
        }
        assert_eq!(log.failing.len(), 1);
        let result = CommandResult {
            id: CommandId::new(Origin::Mqtt, 1),
            plug,
            ended: Ended::Ok,
            state: None,
            route: None,
            took: Duration::ZERO,
        };
        log.log(&Update::Result(result), start + Duration::from_secs(100));
        assert!(log.failing.is_empty(), "the failure ended");
    }
}
