//! What a plug waits for, and until when. Nothing is stored for it: it is derived from the parts.

use std::time::Instant;

use super::Plug;
use crate::bridge::event::CloudStatus;
use crate::bridge::waiting::WaitingFor;
use crate::model::Route;

impl Plug {
    /// The timers that run, the next first.
    pub(in crate::bridge) fn waiting(&self, cloud: &CloudStatus, now: Instant) -> Vec<(WaitingFor, Instant)> {
        let answers =
            self.exchanges.iter().map(|(route, flight)| (WaitingFor::Answer(route), flight.deadline));
        let deadlines = self.desired.iter().map(|desired| (WaitingFor::CommandDeadline, desired.deadline));
        let mut waiting: Vec<_> = answers.chain(deadlines).collect();
        waiting.extend(self.attempts(cloud));
        if !self.is_delivering(now) {
            waiting.extend(self.next_polls(cloud));
        }
        waiting.extend(self.relays.check_at(now).map(|at| (WaitingFor::LateExecution, at)));
        let offline_at = self.reachability.offline_at(&self.policy, now);
        waiting.extend(offline_at.map(|at| (WaitingFor::Offline, at)));
        waiting.sort_by_key(|&(_, until)| until);
        waiting
    }

    /// Whether polls wait for the delivery of a desired value.
    fn is_delivering(&self, now: Instant) -> bool {
        self.desired.next_job(now).is_some_and(|job| job.not_before <= now)
    }

    /// The next attempts to deliver the value that comes first.
    fn attempts(&self, cloud: &CloudStatus) -> Vec<(WaitingFor, Instant)> {
        let Some(delivery) = &self.desired.delivery else { return Vec::new() };
        let mut attempts = Vec::new();
        let mut earlier_failed = true;
        for (route, head_start) in self.plan(&delivery.job, cloud).iter() {
            let is_carried = self.exchanges.carries(route, &delivery.job);
            let due = delivery.due(route, head_start, earlier_failed).filter(|_| !is_carried);
            attempts.extend(due.map(|due| (WaitingFor::Attempt(route), due)));
            earlier_failed &= delivery.has_failed(route) && !is_carried;
        }
        attempts
    }

    fn next_polls(&self, cloud: &CloudStatus) -> impl Iterator<Item = (WaitingFor, Instant)> {
        let is_polled = |route: &Route| self.is_polled(*route, cloud) && self.exchanges.get(*route).is_none();
        let polls = Route::ALL.into_iter().filter(is_polled);
        let slow_poll = self.slow_poll_route().and_then(|route| self.slow_polls.due(route));
        polls
            .map(|route| (WaitingFor::Poll(route), self.polls.due(route)))
            .chain(slow_poll.map(|due| (WaitingFor::SlowPoll, due)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::Ctx;
    use super::*;
    use crate::bridge::counters::CommandDurations;
    use crate::bridge::event::{Action, CommandId, ExchangeId, Identity, Origin, Outcome, PlugKey};
    use crate::bridge::interner::Interner;
    use crate::bridge::poll_limiter::PollLimiter;
    use crate::bridge::route::RoutePolicy;
    use crate::model::{Address, Failure, PlugCommand, PlugName};
    use crate::smarthome::message::{Reply, Request};

    /// A plug with an address, and what the bridge lends it.
    struct Bench {
        plug: Plug,
        now: Instant,
        actions: VecDeque<Action>,
        serial: u32,
        poll_limiter: PollLimiter,
        interner: Interner,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            let plug = Plug::new(PlugKey(0), Identity::default(), Arc::new(RoutePolicy::default()), now);
            let (poll_limiter, interner) = (PollLimiter::default(), Interner::default());
            let mut bench = Self { plug, now, actions: VecDeque::new(), serial: 0, poll_limiter, interner };
            bench.plug.set_name(PlugName::new("lamp").unwrap());
            bench.turn(|plug, ctx| plug.set_configured_address(Address::new("192.0.2.1", 9999), ctx));
            bench
        }

        /// One turn. Returns when the next step is due.
        fn turn(&mut self, event: impl FnOnce(&mut Plug, &mut Ctx<'_>)) -> Instant {
            let mut ctx = Ctx {
                now: self.now,
                cloud: &CloudStatus::Off,
                actions: &mut self.actions,
                serial: &mut self.serial,
                poll_limiter: &mut self.poll_limiter,
                interner: &mut self.interner,
                durations: &mut CommandDurations::default(),
            };
            event(&mut self.plug, &mut ctx);
            self.plug.advance(&mut ctx)
        }

        fn waiting(&self) -> Vec<(WaitingFor, Instant)> {
            self.plug.waiting(&CloudStatus::Off, self.now)
        }

        fn is_waiting_for(&self, what: WaitingFor) -> bool {
            self.waiting().iter().any(|(timer, _)| *timer == what)
        }

        /// Answers the exchange that began last.
        fn end(&mut self, result: Result<Reply, Failure>) -> Instant {
            let id = ExchangeId::new(PlugKey(0), self.serial);
            self.turn(|plug, ctx| plug.done(id, Outcome::of(result), ctx))
        }
    }

    fn reading() -> Reply {
        let text = format!(
            r#"{{"system":{{"get_sysinfo":{{"deviceId":"{:040}","model":"HS100(EU)","relay_state":0}}}}}}"#,
            1
        );
        Request::SysInfo.read_reply(text.as_bytes(), None).unwrap()
    }

    #[test]
    fn a_plug_waits_for_the_answer_then_for_its_slow_polls_then_for_the_next_poll() {
        let mut bench = Bench::new();
        assert_eq!(
            bench.waiting(),
            [(WaitingFor::Answer(Route::Local), bench.now + RoutePolicy::default().local_timeout)]
        );
        let mut next = bench.end(Ok(reading()));
        for _ in 0..3 {
            assert!(bench.is_waiting_for(WaitingFor::Answer(Route::Local)), "a slow poll");
            next = bench.end(Ok(Reply::NotTold));
        }
        assert_eq!(bench.waiting()[0], (WaitingFor::Poll(Route::Local), next));
        assert!(bench.is_waiting_for(WaitingFor::SlowPoll));
    }

    #[test]
    fn a_command_that_failed_waits_for_its_next_attempt_and_not_for_polls() {
        let mut bench = Bench::new();
        bench.turn(|plug, ctx| plug.command(CommandId::new(Origin::Mqtt, 1), None, PlugCommand::Reboot, ctx));
        bench.now += RoutePolicy::default().cloud_after;
        bench.turn(|_, _| {});
        let next = bench.end(Err(Failure::Refused));
        assert_eq!(bench.waiting()[0], (WaitingFor::Attempt(Route::Local), next));
        assert!(bench.is_waiting_for(WaitingFor::CommandDeadline));
        assert!(!bench.is_waiting_for(WaitingFor::Poll(Route::Local)));
    }

    #[test]
    fn a_silent_plug_waits_to_be_offline() {
        let mut bench = Bench::new();
        let start = bench.now;
        bench.end(Err(Failure::NoRoute));
        for _ in 1..3 {
            bench.now = bench.waiting()[0].1;
            bench.turn(|_, _| {});
            bench.end(Err(Failure::NoRoute));
        }
        let offline = bench.waiting().into_iter().find(|(what, _)| *what == WaitingFor::Offline);
        assert_eq!(offline, Some((WaitingFor::Offline, start + Duration::from_secs(30))));
    }
}
