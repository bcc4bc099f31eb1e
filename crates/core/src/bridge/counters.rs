//! What is counted for the metrics: the reads and the route changes of each plug, its commands by how they ended, the time
//! that commands took, and the requests to the cloud.
//!
//! Bare numbers: counting allocates nothing and reads no clock. The counters of a plug are in its record, and begin at 0 when
//! it is added.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::event::Ended;
use crate::model::Route;

/// Each route, then none: the order of what is counted by route.
pub const ROUTES: [Option<Route>; 3] = [Some(Route::Local), Some(Route::Cloud), None];

/// The upper bounds of the buckets of [`CommandDurations`], in milliseconds. Longer commands are in a bucket of their own.
const BUCKETS: [u64; 9] = [50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000];

/// What is counted of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlugCounters {
    /// By route; those that failed, then those that were answered.
    polls: [[u32; 2]; 2],
    route_changes: [u32; 3],
}

impl PlugCounters {
    /// A read over this route ended.
    pub(super) fn count_poll(&mut self, route: Route, was_answered: bool) {
        count(&mut self.polls[route.index()][usize::from(was_answered)]);
    }

    /// This route serves the plug now, or none does.
    pub(super) fn count_route_change(&mut self, to: Option<Route>) {
        count(&mut self.route_changes[index(to)]);
    }

    /// The reads over this route that were answered, or those that failed.
    pub fn polls(&self, route: Route, was_answered: bool) -> u32 {
        self.polls[route.index()][usize::from(was_answered)]
    }

    /// The changes to this route, or to none.
    pub fn route_changes(&self, to: Option<Route>) -> u32 {
        self.route_changes[index(to)]
    }
}

/// The commands to one plug or outlet, by how they ended and over which route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommandCounts([[u32; 3]; 3]);

impl CommandCounts {
    /// As in the result of a command.
    const STATUSES: [&str; 3] = ["ok", "error", "superseded"];

    pub(super) fn count(&mut self, ended: &Ended, route: Option<Route>) {
        let status = match ended {
            Ended::Ok => 0,
            Ended::Error(_) | Ended::Unfit(_) | Ended::NoPlug(_) => 1,
            Ended::Superseded => 2,
        };
        count(&mut self.0[status][index(route)]);
    }

    /// Each status and route that a command may end with, and how often one did: a command that was done was read back over
    /// a route, and one that a newer command replaced was not.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Option<Route>, u32)> + use<> {
        let rows = Self::STATUSES.into_iter().zip(self.0);
        let all = rows.flat_map(|(status, counts)| {
            ROUTES.into_iter().zip(counts).map(move |(route, count)| (status, route, count))
        });
        all.filter(|(status, route, count)| {
            let may_happen = match *status {
                "ok" => route.is_some(),
                "superseded" => route.is_none(),
                _ => true,
            };
            may_happen || *count > 0
        })
    }
}

/// How long commands took that were done, by route.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CommandDurations([DurationHistogram; 2]);

impl CommandDurations {
    pub(super) fn note(&mut self, route: Route, took: Duration) {
        self.0[route.index()].note(took);
    }

    /// The durations of the commands that were read back over this route.
    pub fn over(&self, route: Route) -> &DurationHistogram {
        &self.0[route.index()]
    }
}

/// How many durations are in each bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DurationHistogram {
    counts: [u64; BUCKETS.len() + 1],
    sum: Duration,
}

impl DurationHistogram {
    fn note(&mut self, took: Duration) {
        let is_within = |bound: &u64| took <= Duration::from_millis(*bound);
        let bucket = BUCKETS.iter().position(is_within).unwrap_or(BUCKETS.len());
        self.counts[bucket] += 1;
        self.sum += took;
    }

    /// The upper bound of each bucket in seconds, and how many durations are in it and in no smaller one.
    pub fn buckets(&self) -> [(f64, u64); BUCKETS.len() + 1] {
        std::array::from_fn(|bucket| {
            let bound = BUCKETS.get(bucket).map_or(f64::INFINITY, |millis| *millis as f64 / 1000.0);
            (bound, self.counts[bucket])
        })
    }

    /// The sum of all durations.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The number of all durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The requests to the cloud, by method and by what came back. The account's client counts them. Cheap to clone; all clones
/// share the counts.
#[derive(Debug, Clone, Default)]
pub struct CloudRequests(Arc<[[AtomicU64; CodeClass::ALL.len()]; CloudMethod::ALL.len()]>);

impl CloudRequests {
    /// Counts a request by its method and by what came back.
    pub fn count(&self, method: CloudMethod, class: CodeClass) {
        self.0[method as usize][class as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The number of each kind, also where it is 0.
    pub fn iter(&self) -> impl Iterator<Item = (CloudMethod, CodeClass, u64)> + '_ {
        CloudMethod::ALL.into_iter().flat_map(move |method| {
            let of_class = move |class| self.0[method as usize][class as usize].load(Ordering::Relaxed);
            CodeClass::ALL.into_iter().map(move |class| (method, class, of_class(class)))
        })
    }
}

/// The methods of the cloud's API that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudMethod {
    /// With the password.
    Login,
    /// With the refresh token.
    RefreshToken,
    /// The account's plugs.
    GetDeviceList,
    /// A request to a plug.
    Passthrough,
}

impl CloudMethod {
    const ALL: [Self; 4] = [Self::Login, Self::RefreshToken, Self::GetDeviceList, Self::Passthrough];

    /// Its name in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::RefreshToken => "refreshToken",
            Self::GetDeviceList => "getDeviceList",
            Self::Passthrough => "passthrough",
        }
    }
}

/// What came back from the cloud: its error codes by what they are about, and what is no answer of the cloud at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeClass {
    /// It was done.
    Ok,
    /// There was no connection, or it broke.
    Unreachable,
    /// There was no answer in time.
    Timeout,
    /// Too many requests.
    Throttled,
    /// The token is refused, so that another one is needed.
    Token,
    /// The account is refused.
    Account,
    /// The plug does not answer the cloud, or the account does not have it.
    Plug,
    /// The cloud calls our request invalid.
    Request,
    /// Another error of the cloud.
    Server,
    /// Something else than an answer of the cloud.
    Garbage,
}

impl CodeClass {
    const ALL: [Self; 10] = [
        Self::Ok,
        Self::Unreachable,
        Self::Timeout,
        Self::Throttled,
        Self::Token,
        Self::Account,
        Self::Plug,
        Self::Request,
        Self::Server,
        Self::Garbage,
    ];

    /// The label of the metric.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::Token => "token",
            Self::Account => "account",
            Self::Plug => "plug",
            Self::Request => "request",
            Self::Server => "server",
            Self::Garbage => "garbage",
        }
    }
}

const fn index(route: Option<Route>) -> usize {
    match route {
        Some(route) => route.index(),
        None => Route::ALL.len(),
    }
}

/// A counter that overflows begins again at 0, as after a restart.
fn count(counter: &mut u32) {
    *counter = counter.wrapping_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_counted_by_status_and_route() {
        let mut counts = CommandCounts::default();
        for _ in 0..2 {
            counts.count(&Ended::Ok, Some(Route::Cloud));
        }
        counts.count(&Ended::Error("no".into()), None);
        counts.count(&Ended::Superseded, None);
        assert_eq!(
            counts.iter().collect::<Vec<_>>(),
            [
                ("ok", Some(Route::Local), 0),
                ("ok", Some(Route::Cloud), 2),
                ("error", Some(Route::Local), 0),
                ("error", Some(Route::Cloud), 0),
                ("error", None, 1),
                ("superseded", None, 1),
            ]
        );
    }

    #[test]
    fn a_duration_is_in_the_first_bucket_that_is_wide_enough() {
        let mut durations = CommandDurations::default();
        for millis in [50, 51, 30_000, 30_001] {
            durations.note(Route::Local, Duration::from_millis(millis));
        }
        let histogram = durations.over(Route::Local);
        let filled: Vec<_> = histogram.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.05, 1), (0.1, 1), (30.0, 1), (f64::INFINITY, 1)]);
        assert_eq!((histogram.count(), histogram.sum()), (4, Duration::from_millis(60_102)));
        assert_eq!(durations.over(Route::Cloud).count(), 0);
    }
}
