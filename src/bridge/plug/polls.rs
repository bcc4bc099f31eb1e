//! When a plug is read without anybody asking: its state again and again, and a few slower questions besides.

use std::time::{Duration, Instant};

use super::{Ctx, Plug, Wake};
use crate::bridge::backoff::spread;
use crate::bridge::event::CloudStatus;
use crate::bridge::poll_limiter;
use crate::model::{Route, Verdict};
use crate::smarthome::message::{Date, DeviceInfo, Outlet, Reading, Request};

/// After a look that failed for what an older command may have done late.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often the slow questions are put.
const SELDOM: Duration = Duration::from_secs(300);
/// Strips take a reading of each outlet badly when it comes more often than this.
const STRIP_METER: Duration = Duration::from_secs(60);
/// After a switching the meter is read once, when what it shows has settled.
const METER_AFTER_SWITCHING: Duration = Duration::from_secs(1);
/// How often what was used today is asked for, at the most.
const TODAY: Duration = Duration::from_secs(60);
/// How often the plug's own date is asked for, which tells what `today` is.
const DATE: Duration = Duration::from_secs(600);
/// A question that failed so often in a row …
const TRIES: u32 = 2;
/// … is put this seldom: some firmwares take what they do not know badly.
const RELUCTANTLY: Duration = Duration::from_secs(1800);

/// A question besides the state of the relay.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlowPoll {
    what: SlowQuestion,
    part: Option<Outlet>,
    due: Instant,
    /// The place in a turn that was given out when much was asked; it counts while `due` is it.
    place: Option<Instant>,
    misses: u32,
    /// It was answered, or has failed.
    tried: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlowQuestion {
    CloudInfo,
    CountDown,
    Schedule,
    Date,
    Meter,
    Today,
    Month,
}

impl SlowQuestion {
    /// Whether it is asked over the cloud as well, where calls are counted.
    fn is_worth_a_call(self) -> bool {
        matches!(self, Self::Date | Self::Meter | Self::Today | Self::Month)
    }
}

impl SlowPoll {
    /// The questions that suit a device with this device.
    pub(super) fn all_for(device: &DeviceInfo, now: Instant) -> Vec<Self> {
        let ask = |what, part| Self { what, part, due: now, place: None, misses: 0, tried: false };
        let outlets = u8::try_from(device.outlets.len()).unwrap_or(u8::MAX);
        let parts: Vec<_> = if outlets == 0 { vec![None] } else { (0..outlets).map(Some).collect() };
        let mut all = vec![ask(SlowQuestion::CloudInfo, None)];
        if device.has_meter() {
            all.push(ask(SlowQuestion::Date, None));
            for topic in [SlowQuestion::Meter, SlowQuestion::Today, SlowQuestion::Month] {
                all.extend(parts.iter().map(|&part| ask(topic, part)));
            }
        }
        for topic in [SlowQuestion::CountDown, SlowQuestion::Schedule] {
            all.extend(parts.iter().map(|&part| ask(topic, part)));
        }
        all
    }

    /// What to say; nothing while the date that it needs is not known.
    fn request(&self, date: Option<Date>) -> Option<Request> {
        Some(match self.what {
            SlowQuestion::CloudInfo => Request::CloudInfo,
            SlowQuestion::CountDown => Request::CountDown(self.part),
            SlowQuestion::Schedule => Request::Schedule(self.part),
            SlowQuestion::Date => Request::Clock,
            SlowQuestion::Meter => Request::Meter(self.part),
            SlowQuestion::Today => Request::MeterDays(self.part, date?.year, date?.month),
            SlowQuestion::Month => Request::MeterMonths(self.part, date?.year),
        })
    }
}

impl Plug {
    pub(super) fn poll(&mut self, wake: &mut Wake, ctx: &mut Ctx<'_>) {
        let [local, cloud] = self.usable(ctx);
        if self.may_use(Route::Local) {
            self.poll_route(Route::Local, local, wake, ctx);
        }
        let cloud_needed = !local || self.routes.is_resting(Route::Local);
        if self.may_use(Route::Cloud) && cloud_needed && *ctx.cloud != CloudStatus::Off {
            self.poll_route(Route::Cloud, cloud, wake, ctx);
        }
        self.ask_slow_poll(wake, ctx);
    }

    fn poll_route(&mut self, route: Route, usable: bool, wake: &mut Wake, ctx: &mut Ctx<'_>) {
        if self.in_flight[route.index()].is_some() {
            return;
        }
        if self.poll_at[route.index()] > ctx.now {
            return wake.by(self.poll_at[route.index()]);
        }
        if usable {
            // A look for what an older command may have done late belongs to the newer one.
            let urgent = self.strays_are_dead(ctx.now).is_none() && self.is_watched(ctx.now);
            if route == Route::Local && !urgent {
                let due = &mut self.poll_at[route.index()];
                if ctx.poll_limiter.defers(due, &mut self.poll_slot, ctx.now) {
                    return wake.by(*due);
                }
            }
            self.start(route, Request::SysInfo, urgent, wake, ctx);
            return;
        }
        self.route_failed(route, Verdict::RouteDown, ctx);
        self.poll_at[route.index()] = self.next_poll(route, ctx.now, ctx.now);
        wake.by(self.poll_at[route.index()]);
    }

    /// Whether it would wake up at this moment only to be read over the LAN as usual, and soon.
    pub(in crate::bridge) fn may_be_read_ahead(&self, wakes: Instant, now: Instant) -> bool {
        self.poll_at[Route::Local.index()] == wakes
            && self.poll_slot != Some(wakes)
            && self.routes.is_up(Route::Local)
            && self.desired.is_empty()
            && wakes <= now + poll_limiter::ahead(self.policy.poll_interval)
    }

    /// It is read now.
    pub(in crate::bridge) fn read_ahead(&mut self, now: Instant) {
        self.poll_at[Route::Local.index()] = now;
    }

    pub(super) fn next_poll(&self, route: Route, started: Instant, now: Instant) -> Instant {
        let pause = self.routes.poll_pause(route, &self.policy, now);
        // After the first round each plug finds its own place in the interval.
        let pause = if self.reported.is_none() && self.routes.is_up(route) {
            pause.mul_f64(0.2 + 0.8 * spread(self.key.0))
        } else {
            pause
        };
        (started + pause).max(now)
    }

    /// The same, unless it has to be looked sooner for what an older command may have done late.
    pub(super) fn sooner_if_watched(&self, next: Instant, now: Instant) -> Instant {
        let look = self.strays_are_dead(now).or_else(|| self.is_watched(now).then(|| now + LOOK_AGAIN));
        look.map_or(next, |look| look.min(next))
    }

    /// Whether an older command may have done something that nobody has seen.
    fn is_watched(&self, now: Instant) -> bool {
        let asked = self.reported.as_ref().map(|reported| reported.asked);
        self.parts().any(|part| self.relay(part).is_some_and(|relay| relay.is_watched(asked, now)))
    }

    /// How long a poll that was kept back waits for the next try: less than one that was answered, and not all at once.
    pub(super) fn kept_back_pause(&self) -> Duration {
        self.policy.cloud_poll_interval.mul_f64(0.25 + 0.25 * spread(self.key.0))
    }

    /// When what older commands may still do can be seen, if it cannot yet.
    fn strays_are_dead(&self, now: Instant) -> Option<Instant> {
        let until = |part| self.relay(part)?.defended_until.filter(|&until| until > now);
        self.parts().filter_map(until).min()
    }

    /// Puts the slow question that has waited longest, one at a time, over the route that serves the plug.
    fn ask_slow_poll(&mut self, wake: &mut Wake, ctx: &mut Ctx<'_>) {
        let Some(route) = self.serving.filter(|&route| self.routes.is_up(route)) else { return };
        if self.in_flight[route.index()].is_some() {
            return;
        }
        let date = self.date;
        let open = |aside: &SlowPoll| route == Route::Local || aside.what.is_worth_a_call();
        let can_be_asked = |(_, aside): &(usize, &SlowPoll)| open(aside) && aside.request(date).is_some();
        let next = self.slow_polls.iter().enumerate().filter(can_be_asked).min_by_key(|(_, aside)| aside.due);
        let Some((place, _)) = next else { return };
        let aside = &mut self.slow_polls[place];
        if aside.due > ctx.now {
            return wake.by(aside.due);
        }
        if route == Route::Local && ctx.poll_limiter.defers(&mut aside.due, &mut aside.place, ctx.now) {
            return wake.by(aside.due);
        }
        let Some(request) = aside.request(date) else { return };
        let pause = pause(aside.what, aside.part, route, &self.policy);
        if self.start(route, request, false, wake, ctx) {
            self.slow_polls[place].due = ctx.now + pause;
        }
    }

    /// Has the meters read soon whose relays this reading shows in another state than the one before. Over the LAN
    /// only: calls over the cloud are counted.
    pub(super) fn read_meter_after_switching(&mut self, reading: &Reading, now: Instant) {
        let Some(before) = self.reported.as_ref().filter(|_| self.serving == Some(Route::Local)) else {
            return;
        };
        let is_meter = |aside: &&mut SlowPoll| aside.what == SlowQuestion::Meter && aside.misses < TRIES;
        for aside in self.slow_polls.iter_mut().filter(is_meter) {
            let relay = |reading: &Reading| match aside.part {
                None => reading.relay,
                Some(outlet) => reading.outlets.get(usize::from(outlet))?.relay,
            };
            if relay(&before.reading).zip(relay(reading)).is_some_and(|(was, is)| was != is) {
                aside.due = now + METER_AFTER_SWITCHING;
            }
        }
    }

    /// Whether every question about the meter of this part that can be put has been answered or has failed by now.
    pub(super) fn meter_was_asked(&self, part: Option<Outlet>) -> bool {
        // A strip's own figures are the sums of its outlets'.
        let is_meant = |aside: &SlowPoll| part.is_none() || aside.part == part;
        let is_open = |aside: &SlowPoll| match aside.what {
            // What was used is asked for by date.
            SlowQuestion::Date => !aside.tried,
            SlowQuestion::Meter | SlowQuestion::Today | SlowQuestion::Month => {
                !aside.tried && is_meant(aside) && aside.request(self.date).is_some()
            }
            SlowQuestion::CloudInfo | SlowQuestion::CountDown | SlowQuestion::Schedule => false,
        };
        !self.slow_polls.iter().any(is_open)
    }

    /// Takes note of how a slow question went, if this is one. One that the plug cannot answer spoils nothing else.
    pub(super) fn slow_poll_ended(&mut self, request: &Request, answered: bool, now: Instant) -> bool {
        let date = self.date;
        let is_it = |aside: &&mut SlowPoll| aside.request(date).as_ref() == Some(request);
        let Some(aside) = self.slow_polls.iter_mut().find(is_it) else { return false };
        aside.misses = if answered { 0 } else { aside.misses + 1 };
        aside.tried = true;
        if aside.misses >= TRIES {
            aside.due = now + RELUCTANTLY;
        }
        true
    }
}

fn pause(
    what: SlowQuestion,
    part: Option<Outlet>,
    route: Route,
    policy: &crate::bridge::route::RoutePolicy,
) -> Duration {
    let pause = match what {
        SlowQuestion::CloudInfo | SlowQuestion::CountDown | SlowQuestion::Schedule | SlowQuestion::Month => {
            SELDOM
        }
        SlowQuestion::Date => DATE,
        SlowQuestion::Meter if part.is_some() => policy.energy_interval.max(STRIP_METER),
        SlowQuestion::Meter => policy.energy_interval,
        SlowQuestion::Today => policy.energy_interval.max(TODAY),
    };
    match route {
        Route::Local => pause,
        Route::Cloud if what == SlowQuestion::Meter => pause.max(policy.cloud_poll_interval),
        Route::Cloud => pause.max(SELDOM),
    }
}
