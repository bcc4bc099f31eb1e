//! The lines of the log about plugs and the cloud: what is worth one, how loud, and how often.
//!
//! A line says all by itself, since `journalctl` shows the message only; the fields beside it are for programs.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::bridge::event::{
    BridgeInfo, CloudStatus, CommandResult, DiscoveryReply, Ended, Event, Notice, NoticeKind, Sighting,
    Update,
};
use crate::logging::Repeated;
use crate::model::{PlugName, Route, shown};

/// So many times in a row a plug may change its route, or come and go, before that is said at growing intervals only.
const CHANGES_SAID: u32 = 6;
/// After so much quiet a plug is steady again.
const STEADY_AFTER: Duration = Duration::from_secs(600);

/// So many unreadable fields are remembered, so that each is named once. A flood of made-up plugs ends here.
const MOST_UNREAD: usize = 1000;
/// The most of a plug's alias that is repeated, in characters; the apps take 31.
const ALIAS_SHOWN: usize = 40;

const CLOUD_REMEDY: &str = "it is tried again by itself; hs100d check --online says more";

/// What has been said, and of what.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    /// Plugs that do not do what they are told, until one does again.
    failing: HashMap<PlugName, Repeated>,
    /// Plugs that have come, gone or changed their route.
    restless: HashMap<PlugName, FlapDamping>,
    cloud: Repeated,
    restless_cloud: FlapDamping,
    /// Fields that could not be read, with the plug that told them.
    unread: HashSet<(String, &'static str)>,
}

impl EventLog {
    /// Says what of this update a person may want to know.
    pub(super) fn tell(&mut self, update: &Update, now: Instant) {
        match update {
            Update::Notice(happening) => self.tell_happening(happening, now),
            Update::Result(result) => self.tell_result(result, now),
            Update::Gone(plug) => {
                self.failing.remove(plug);
                self.restless.remove(plug);
            }
            Update::Dropped(plug, times) => tracing::debug!(
                plug = plug.as_str(),
                "{plug}: the meter told what no plug can carry; dropped, {times} values by now"
            ),
            _ => {}
        }
    }

    /// Names each field that a plug tells in a way that cannot be read, once.
    pub(super) fn look_at(&mut self, event: &Event) {
        let reading = match event {
            Event::Done { outcome, .. } => outcome.reading(),
            Event::Sighted(Sighting { said: DiscoveryReply::SysInfo(reading), .. }) => Some(&**reading),
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
        fields.retain(|field| self.unread.len() < MOST_UNREAD && self.unread.insert((plug.clone(), field)));
        if !fields.is_empty() {
            let alias = shown(&device.alias, ALIAS_SHOWN);
            tracing::debug!(
                "\"{alias}\" ({plug}): get_sysinfo: {} cannot be read and counts as absent",
                fields.join(", ")
            );
        }
    }

    /// To be called at every turn, since a cloud that is down stays so without a word.
    pub(super) fn look_at_cloud(&mut self, info: &BridgeInfo, now: Instant) {
        match &info.cloud {
            CloudStatus::Down(reason) if **reason != *CloudStatus::NOT_ASKED => self.cloud_fails(reason, now),
            CloudStatus::Ok => {
                if let Some(past) = self.cloud.ended(now) {
                    self.cloud_answers(&format!("again after {}", past.lasted()), now);
                }
            }
            CloudStatus::Down(_) | CloudStatus::Off | CloudStatus::Stopped(_) => drop(self.cloud.ended(now)),
        }
    }

    fn cloud_fails(&mut self, reason: &str, now: Instant) {
        let begins = !self.cloud.is_going_on();
        if self.cloud.failed(reason, now).is_none() || (begins && self.restless_cloud.changed(now).is_none())
        {
            return;
        }
        let route = Route::Cloud.to_string();
        tracing::warn!(event = "cloud_down", route, reason, "cloud_down: {reason}: {CLOUD_REMEDY}");
    }

    fn cloud_answers(&mut self, since: &str, now: Instant) {
        if self.restless_cloud.changed(now).is_some() {
            let route = Route::Cloud.to_string();
            tracing::info!(event = "cloud_ok", route, "cloud_ok: it answers {since}");
        }
    }

    fn tell_happening(&mut self, happening: &Notice, now: Instant) {
        let Notice { kind: what, plug, route, detail } = happening;
        let (is_due, times) = match (what, plug) {
            // Where it was in trouble, that is said with the end of it.
            (NoticeKind::CloudOk, _) if self.cloud.is_going_on() => return,
            (NoticeKind::CloudOk, _) => return self.cloud_answers("now", now),
            (NoticeKind::CommandFailed, Some(plug)) => {
                let times = self.failing.entry(plug.clone()).or_default().failed(detail, now);
                (times.is_some(), times.unwrap_or_default())
            }
            // It comes for the first time, or after long: that is no unrest yet.
            (NoticeKind::PlugOnline, Some(plug)) if !self.restless.contains_key(plug) => (true, 0),
            (NoticeKind::PlugOnline | NoticeKind::PlugOffline | NoticeKind::RouteChanged, Some(plug)) => {
                if self.restless.len() == self.restless.capacity() {
                    self.restless.retain(|_, restless| !restless.is_steady(now));
                }
                let times = self.restless.entry(plug.clone()).or_default().changed(now);
                (times.is_some(), times.filter(|&times| times > CHANGES_SAID).unwrap_or_default().into())
            }
            _ => (true, 0),
        };
        let line = line(happening, times);
        let (event, plug) = (what.word(), plug.as_ref().map(PlugName::as_str));
        let (route, reason) =
            (route.map(tracing::field::display), Some(detail.as_str()).filter(|it| !it.is_empty()));
        match (is_due, is_trouble(*what)) {
            (true, true) => tracing::warn!(event, plug, route, reason, "{line}"),
            (true, false) => tracing::info!(event, plug, route, reason, "{line}"),
            (false, _) => tracing::debug!(event, plug, route, reason, "{line}"),
        }
    }

    fn tell_result(&mut self, result: &CommandResult, now: Instant) {
        if result.ended != Ended::Ok {
            return;
        }
        if let Some(past) = self.failing.remove(&result.plug).and_then(|mut failing| failing.ended(now)) {
            let (plug, route) = (result.plug.as_str(), result.route.map(tracing::field::display));
            tracing::info!(
                event = "command_ok",
                plug,
                route,
                "{plug}: command_ok: it does what it is told {past}"
            );
        }
    }
}

/// Whether somebody should do something about it.
fn is_trouble(what: NoticeKind) -> bool {
    match what {
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
fn line(happening: &Notice, times: u64) -> String {
    let Notice { kind: what, plug, detail, .. } = happening;
    let plug = plug.as_ref().map(|plug| plug.as_str().to_owned());
    let detail = Some(detail.clone()).filter(|detail| !detail.is_empty());
    let parts = [plug, Some(what.word().to_owned()), detail, remedy(*what).map(str::to_owned)];
    let line = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
    if times > 1 { format!("{line} ({times} times by now)") } else { line }
}

/// What to do, where the detail does not say it.
fn remedy(what: NoticeKind) -> Option<&'static str> {
    match what {
        NoticeKind::PlugOffline => Some("see that it has power and Wi-Fi; hs100d check --online says more"),
        NoticeKind::CommandFailed => Some("hs100d check --online tries each way to it"),
        _ => None,
    }
}

/// How often a plug has come, gone or changed its route without much quiet between.
#[derive(Debug, Default)]
struct FlapDamping {
    changes: u32,
    last: Option<Instant>,
    beyond: Repeated,
}

impl FlapDamping {
    /// It changed. `Some` means that a line is due, and how often it has by now, this time included.
    fn changed(&mut self, now: Instant) -> Option<u32> {
        if self.is_steady(now) {
            *self = Self::default();
        }
        self.last = Some(now);
        self.changes = self.changes.saturating_add(1);
        let is_due = self.changes <= CHANGES_SAID || self.beyond.failed("", now).is_some();
        is_due.then_some(self.changes)
    }

    fn is_steady(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) >= STEADY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::bridge::event::{CommandId, ExchangeId, Origin, Outcome, PlugKey};
    use crate::smarthome::message::Request;

    #[test]
    fn a_plug_that_comes_and_goes_all_day_fills_no_log_and_a_steady_one_is_heard() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut restless = FlapDamping::default();
        let said: Vec<u64> =
            (0..8640).map(|n| n * 10).filter(|&second| restless.changed(at(second)).is_some()).collect();
        assert_eq!(said[..9], [0, 10, 20, 30, 40, 50, 60, 120, 240]);
        assert!(said.len() < 40, "{said:?}");
        assert_eq!(restless.changed(at(86_400 + 600)), Some(1), "it was quiet for long");
    }

    #[test]
    fn of_plugs_that_have_been_steady_for_long_nothing_is_kept() {
        let (start, mut news) = (Instant::now(), EventLog::default());
        let mut tell = |what, number: u32, at| {
            let plug = PlugName::new(&format!("plug-{number}")).ok();
            news.tell_happening(&Notice { kind: what, plug, route: None, detail: String::new() }, at);
            news.restless.len()
        };
        assert_eq!((0..1000).map(|number| tell(NoticeKind::PlugOnline, number, start)).max(), Some(0));
        assert_eq!((0..1000).map(|number| tell(NoticeKind::PlugOffline, number, start)).max(), Some(1000));
        let later = start + STEADY_AFTER;
        let kept = (1000..3000).map(|number| tell(NoticeKind::PlugOffline, number, later)).last();
        assert_eq!(kept, Some(2000), "the thousand of the morning are forgotten");
    }

    #[test]
    fn a_field_that_cannot_be_read_is_named_once() {
        let mut news = EventLog::default();
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
                    news.look_at(&Event::Done { exchange, outcome });
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
    fn every_trouble_names_what_to_do() {
        let lines = [NoticeKind::PlugOffline, NoticeKind::CommandFailed].map(|what| {
            let plug = PlugName::new("kettle").ok();
            line(&Notice { kind: what, plug, route: None, detail: "no answer".to_owned() }, 1)
        });
        assert!(lines[0].starts_with("kettle: plug_offline: no answer: see that it has power"), "{lines:?}");
        assert!(
            lines[1].starts_with("kettle: command_failed: no answer: hs100d check --online"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_command_that_fails_again_and_again_is_said_seldom_and_its_end_once() {
        let (start, mut news) = (Instant::now(), EventLog::default());
        let plug = PlugName::new("kettle").unwrap();
        let failed = Update::Notice(Notice {
            kind: NoticeKind::CommandFailed,
            plug: Some(plug.clone()),
            route: None,
            detail: "no answer".to_owned(),
        });
        for second in 0..100 {
            news.tell(&failed, start + Duration::from_secs(second));
        }
        assert_eq!(news.failing.len(), 1);
        let result = CommandResult {
            id: CommandId::new(Origin::Mqtt, 1),
            plug,
            ended: Ended::Ok,
            state: None,
            route: None,
            took: Duration::ZERO,
        };
        news.tell(&Update::Result(result), start + Duration::from_secs(100));
        assert!(news.failing.is_empty(), "nothing is kept of what has ended");
    }
}
