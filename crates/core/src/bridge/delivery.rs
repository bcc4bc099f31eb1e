//! The delivery of one request: when each route may start, and when a failed one may try again.

use std::time::{Duration, Instant};

use super::desired::Property;
use crate::backoff::Backoff;
use crate::model::{Failure, Route};
use crate::smarthome::message::{Outlet, Request};

/// The pauses between attempts over the LAN.
const LAN_RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
/// The pauses between attempts over the cloud, where calls are counted.
const CLOUD_RETRY: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(4));

/// What is delivered. Another job is another delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeliveryJob {
    pub(super) property: Property,
    pub(super) part: Option<Outlet>,
    pub(super) request: Request,
    /// When the desired value arrived, which tells it from an earlier one.
    pub(super) arrived: Instant,
    /// It is not sent earlier than this.
    pub(super) not_before: Instant,
}

/// The delivery of one job, and its attempts so far.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) job: DeliveryJob,
    begun: Instant,
    tries: [Attempts; 2],
}

#[derive(Debug, Clone, Copy, Default)]
struct Attempts {
    failures: u32,
    /// When this route may be tried again; never after a failure that will not pass before the command's deadline.
    again_at: Option<Instant>,
}

impl Delivery {
    pub(super) fn new(job: DeliveryJob, now: Instant) -> Self {
        let begun = now.max(job.not_before);
        Self { job, begun, tries: [Attempts::default(); 2] }
    }

    /// When this route may start. By plan it waits `head_start` for the routes before it.
    pub(super) fn due(&self, route: Route, head_start: Duration, earlier_failed: bool) -> Option<Instant> {
        let tries = self.tries[route.index()];
        if tries.failures > 0 {
            return tries.again_at;
        }
        Some(if earlier_failed { self.begun } else { self.begun + head_start })
    }

    pub(super) fn has_failed(&self, route: Route) -> bool {
        self.tries[route.index()].failures > 0
    }

    /// What failed on this route no longer counts: it is tried at once, in another way.
    pub(super) fn try_anew(&mut self, route: Route) {
        self.tries[route.index()] = Attempts { failures: 0, again_at: None };
    }

    pub(super) fn failed(&mut self, route: Route, failure: &Failure, now: Instant) {
        let tries = &mut self.tries[route.index()];
        tries.failures += 1;
        let retry = match route {
            Route::Local => LAN_RETRY,
            Route::Cloud => CLOUD_RETRY,
        };
        tries.again_at = may_pass_soon(failure).then(|| now + retry.pause(tries.failures));
    }
}

/// Whether another attempt within seconds may succeed.
fn may_pass_soon(failure: &Failure) -> bool {
    match failure {
        Failure::NoAddress | Failure::Refused | Failure::NoRoute | Failure::WrongPlug { .. } => true,
        Failure::Silent | Failure::Closed | Failure::Garbage(_) | Failure::Abandoned => true,
        Failure::CloudDown(_) | Failure::CloudFailsHere(_) | Failure::OutOfFiles => true,
        // The other client may be done in a moment.
        Failure::SessionTaken => true,
        Failure::KlapBlocked | Failure::OtherAccount | Failure::NoLanAccount => false,
        Failure::Device { .. } => false,
        Failure::CloudOffline | Failure::NotInAccount => false,
        Failure::CloudRefused(_) | Failure::Unsupported(_) => false,
        Failure::Throttled | Failure::CloudStopped(_) => false,
    }
}
