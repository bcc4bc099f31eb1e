//! What is read of a plug besides its state, less often: its meter, count-downs, schedule, clock and cloud connection.

use std::time::{Duration, Instant};

use crate::bridge::poll_limiter::PollLimiter;
use crate::bridge::route::RoutePolicy;
use crate::model::Route;
use crate::smarthome::message::{Date, DeviceInfo, Outlet, Reading, Request};

/// Between two readings of what hardly changes.
const SLOW_INTERVAL: Duration = Duration::from_secs(300);
/// Strips fail if each outlet's meter is read more often than this.
const STRIP_METER_INTERVAL: Duration = Duration::from_secs(60);
/// After a switch the meter is read once its value has settled.
const METER_AFTER_SWITCH: Duration = Duration::from_secs(1);
/// Today's consumption is read no more often than this.
const TODAY_INTERVAL: Duration = Duration::from_secs(60);
/// The plug's own date tells which day is today.
const DATE_INTERVAL: Duration = Duration::from_secs(600);
/// A request that failed this often in a row …
const MAX_MISSES: u32 = 2;
/// … is sent this seldom: some firmwares take unknown requests badly.
const UNKNOWN_REQUEST_INTERVAL: Duration = Duration::from_secs(1800);

/// The slow polls that suit one device. At most one is under way.
#[derive(Debug, Default)]
pub(super) struct SlowPolls {
    polls: Vec<SlowPoll>,
    /// The plug's own date.
    date: Option<Date>,
}

/// The next slow poll.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextSlowPoll {
    /// Not before this moment.
    At(Instant),
    /// It is due.
    Now(Request),
}

#[derive(Debug, Clone, Copy)]
struct SlowPoll {
    kind: SlowPollKind,
    part: Option<Outlet>,
    due: Instant,
    /// The slot that the limiter gave; valid while `due` is the same.
    slot: Option<Instant>,
    misses: u32,
    /// It was answered or failed at least once.
    was_tried: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlowPollKind {
    CloudInfo,
    CountDown,
    Schedule,
    Date,
    Meter,
    Today,
    Month,
}

impl SlowPolls {
    /// Replaces the polls by those that suit this device.
    pub(super) fn suit(&mut self, device: &DeviceInfo, now: Instant) {
        let poll = |kind, part| SlowPoll { kind, part, due: now, slot: None, misses: 0, was_tried: false };
        let outlets = u8::try_from(device.outlets.len()).unwrap_or(u8::MAX);
        let parts: Vec<_> = if outlets == 0 { vec![None] } else { (0..outlets).map(Some).collect() };
        let mut polls = vec![poll(SlowPollKind::CloudInfo, None)];
        if device.has_meter() {
            polls.push(poll(SlowPollKind::Date, None));
            for kind in [SlowPollKind::Meter, SlowPollKind::Today, SlowPollKind::Month] {
                polls.extend(parts.iter().map(|&part| poll(kind, part)));
            }
        }
        for kind in [SlowPollKind::CountDown, SlowPollKind::Schedule] {
            polls.extend(parts.iter().map(|&part| poll(kind, part)));
        }
        self.polls = polls;
    }

    pub(super) fn date(&self) -> Option<Date> {
        self.date
    }

    pub(super) fn set_date(&mut self, date: Date) {
        self.date = Some(date);
    }

    /// When the poll that has waited longest is due over this route.
    pub(super) fn due(&self, route: Route) -> Option<Instant> {
        self.polls.iter().filter(|poll| poll.can_be_sent(route, self.date)).map(|poll| poll.due).min()
    }

    /// The poll that has waited longest, as soon as it is due and the limiter has a slot.
    pub(super) fn next(
        &mut self,
        route: Route,
        limiter: &mut PollLimiter,
        now: Instant,
    ) -> Option<NextSlowPoll> {
        let date = self.date;
        let can_be_sent = |poll: &&mut SlowPoll| poll.can_be_sent(route, date);
        let poll = self.polls.iter_mut().filter(can_be_sent).min_by_key(|poll| poll.due)?;
        if poll.due > now || (route == Route::Local && limiter.defers(&mut poll.due, &mut poll.slot, now)) {
            return Some(NextSlowPoll::At(poll.due));
        }
        poll.request(date).map(NextSlowPoll::Now)
    }

    /// This poll was sent.
    pub(super) fn sent(&mut self, request: &Request, route: Route, policy: &RoutePolicy, now: Instant) {
        if let Some(poll) = self.find(request) {
            poll.due = now + poll.pause(route, policy);
        }
    }

    /// This request was answered or failed. False if it is no slow poll.
    pub(super) fn ended(&mut self, request: &Request, was_answered: bool, now: Instant) -> bool {
        let Some(poll) = self.find(request) else { return false };
        poll.misses = if was_answered { 0 } else { poll.misses + 1 };
        poll.was_tried = true;
        if poll.misses >= MAX_MISSES {
            poll.due = now + UNKNOWN_REQUEST_INTERVAL;
        }
        true
    }

    /// The meters of the relays that differ between these two readings are read soon.
    pub(super) fn read_switched_meters(&mut self, before: &Reading, after: &Reading, now: Instant) {
        let is_meter = |poll: &&mut SlowPoll| poll.kind == SlowPollKind::Meter && poll.misses < MAX_MISSES;
        for poll in self.polls.iter_mut().filter(is_meter) {
            let relay = |reading: &Reading| match poll.part {
                None => reading.relay,
                Some(outlet) => reading.outlets.get(usize::from(outlet))?.relay,
            };
            if relay(before).zip(relay(after)).is_some_and(|(was, is)| was != is) {
                poll.due = now + METER_AFTER_SWITCH;
            }
        }
    }

    /// Whether each request about the meter of this part that can be sent was answered or failed.
    pub(super) fn meter_was_read(&self, part: Option<Outlet>) -> bool {
        // A strip's own values are the sums of its outlets'.
        let is_of_part = |poll: &SlowPoll| part.is_none() || poll.part == part;
        let is_open = |poll: &SlowPoll| match poll.kind {
            // Consumption is requested by date.
            SlowPollKind::Date => !poll.was_tried,
            SlowPollKind::Meter | SlowPollKind::Today | SlowPollKind::Month => {
                !poll.was_tried && is_of_part(poll) && poll.request(self.date).is_some()
            }
            SlowPollKind::CloudInfo | SlowPollKind::CountDown | SlowPollKind::Schedule => false,
        };
        !self.polls.iter().any(is_open)
    }

    fn find(&mut self, request: &Request) -> Option<&mut SlowPoll> {
        let date = self.date;
        self.polls.iter_mut().find(|poll| poll.request(date).as_ref() == Some(request))
    }
}

impl SlowPoll {
    fn can_be_sent(&self, route: Route, date: Option<Date>) -> bool {
        (route == Route::Local || self.kind.is_worth_a_call()) && self.request(date).is_some()
    }

    /// `None` while the date that it needs is not known.
    fn request(&self, date: Option<Date>) -> Option<Request> {
        Some(match self.kind {
            SlowPollKind::CloudInfo => Request::CloudInfo,
            SlowPollKind::CountDown => Request::CountDown(self.part),
            SlowPollKind::Schedule => Request::Schedule(self.part),
            SlowPollKind::Date => Request::Clock,
            SlowPollKind::Meter => Request::Meter(self.part),
            SlowPollKind::Today => Request::MeterDays(self.part, date?.year, date?.month),
            SlowPollKind::Month => Request::MeterMonths(self.part, date?.year),
        })
    }

    fn pause(&self, route: Route, policy: &RoutePolicy) -> Duration {
        let pause = match self.kind {
            SlowPollKind::CloudInfo | SlowPollKind::CountDown => SLOW_INTERVAL,
            SlowPollKind::Schedule | SlowPollKind::Month => SLOW_INTERVAL,
            SlowPollKind::Date => DATE_INTERVAL,
            SlowPollKind::Meter if self.part.is_some() => policy.energy_interval.max(STRIP_METER_INTERVAL),
            SlowPollKind::Meter => policy.energy_interval,
            SlowPollKind::Today => policy.energy_interval.max(TODAY_INTERVAL),
        };
        match route {
            Route::Local => pause,
            Route::Cloud if self.kind == SlowPollKind::Meter => pause.max(policy.cloud_poll_interval),
            Route::Cloud => pause.max(SLOW_INTERVAL),
        }
    }
}

impl SlowPollKind {
    /// Whether it is sent over the cloud as well, where calls are counted.
    fn is_worth_a_call(self) -> bool {
        matches!(self, Self::Date | Self::Meter | Self::Today | Self::Month)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::plug::test_support;

    fn reading(more: &str) -> Reading {
        test_support::reading("HS110(EU)", more)
    }

    fn metered() -> (SlowPolls, Instant) {
        let (mut polls, now) = (SlowPolls::default(), Instant::now());
        polls.suit(&reading(r#""feature":"TIM:ENE","relay_state":1"#).device, now);
        (polls, now)
    }

    /// Sends what is due over this route until nothing is.
    fn send_all(polls: &mut SlowPolls, route: Route, now: Instant) -> Vec<Request> {
        let (mut limiter, policy) = (PollLimiter::default(), RoutePolicy::default());
        let mut sent = Vec::new();
        while let Some(NextSlowPoll::Now(request)) = polls.next(route, &mut limiter, now) {
            polls.sent(&request, route, &policy, now);
            sent.push(request);
        }
        sent
    }

    #[test]
    fn consumption_waits_for_the_plugs_own_date() {
        let (mut polls, now) = metered();
        let first = send_all(&mut polls, Route::Local, now);
        assert!(first.contains(&Request::Clock) && first.contains(&Request::Meter(None)), "{first:?}");
        polls.set_date(Date { year: 2026, month: 11, day: 27 });
        let then = send_all(&mut polls, Route::Local, now);
        assert_eq!(then, [Request::MeterDays(None, 2026, 11), Request::MeterMonths(None, 2026)]);
    }

    #[test]
    fn only_the_meter_is_worth_calls_to_the_cloud() {
        let (mut polls, now) = metered();
        assert_eq!(send_all(&mut polls, Route::Cloud, now), [Request::Clock, Request::Meter(None)]);
        assert_eq!(polls.due(Route::Cloud), Some(now + RoutePolicy::default().cloud_poll_interval));
    }

    #[test]
    fn an_unknown_request_is_sent_seldom_and_after_one_answer_as_usual() {
        let (mut polls, now) = metered();
        send_all(&mut polls, Route::Local, now);
        assert!(!polls.ended(&Request::SysInfo, false, now), "no slow poll");
        for _ in 0..MAX_MISSES {
            assert!(polls.ended(&Request::Meter(None), false, now));
        }
        let later = now + SLOW_INTERVAL;
        assert!(!send_all(&mut polls, Route::Local, later).contains(&Request::Meter(None)));
        let later = now + UNKNOWN_REQUEST_INTERVAL;
        assert!(send_all(&mut polls, Route::Local, later).contains(&Request::Meter(None)));
        assert!(polls.ended(&Request::Meter(None), true, later));
        let soon = later + RoutePolicy::default().energy_interval;
        assert!(send_all(&mut polls, Route::Local, soon).contains(&Request::Meter(None)));
    }

    #[test]
    fn a_switch_has_the_meter_read_soon() {
        let (mut polls, now) = metered();
        send_all(&mut polls, Route::Local, now);
        let [on, off] = [1, 0].map(|state| reading(&format!(r#""feature":"TIM:ENE","relay_state":{state}"#)));
        polls.read_switched_meters(&on, &on, now);
        assert!(polls.due(Route::Local).unwrap() > now + METER_AFTER_SWITCH);
        polls.read_switched_meters(&on, &off, now);
        assert_eq!(polls.due(Route::Local), Some(now + METER_AFTER_SWITCH));
    }

    #[test]
    fn the_meter_was_read_once_nothing_about_it_is_open() {
        let (mut polls, now) = metered();
        for request in [Request::Clock, Request::Meter(None)] {
            assert!(!polls.meter_was_read(None));
            polls.ended(&request, true, now);
        }
        assert!(polls.meter_was_read(None), "the plug reported no date, so consumption cannot be requested");
        polls.set_date(Date { year: 2026, month: 11, day: 27 });
        assert!(!polls.meter_was_read(None));
    }
}
