//! How a plug is reached: what the user wrote ([`RoutePolicy`]), what we saw, and the plan for one command.

use std::time::Duration;

/// Which routes may be used, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The LAN first, the cloud when the LAN does not answer.
    #[default]
    LocalThenCloud,
    /// The LAN only.
    Local,
    /// The cloud only.
    Cloud,
}

/// What the user wrote about reaching one plug; each part may be set for all plugs or for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutePolicy {
    /// Which routes may be used.
    pub policy: Policy,
    /// A LAN silent for this long: ask the cloud as well.
    pub cloud_after: Duration,
    /// A command that no route could deliver by then is dropped.
    pub command_ttl: Duration,
    /// Between two reads over the LAN.
    pub poll_interval: Duration,
    /// Between two reads over the cloud, for plugs that the LAN does not reach.
    pub cloud_poll_interval: Duration,
    /// Between two readings of the meter.
    pub energy_interval: Duration,
    /// The longest that one exchange on the LAN may take.
    pub local_timeout: Duration,
    /// The longest that one exchange over the cloud may take; the cloud holds a request while it wakes the plug.
    pub cloud_timeout: Duration,
}

impl Default for RoutePolicy {
    fn default() -> Self {
        Self {
            policy: Policy::LocalThenCloud,
            cloud_after: Duration::from_millis(700),
            command_ttl: Duration::from_secs(10),
            poll_interval: Duration::from_secs(5),
            cloud_poll_interval: Duration::from_secs(60),
            energy_interval: Duration::from_secs(15),
            local_timeout: Duration::from_secs(3),
            cloud_timeout: Duration::from_secs(15),
        }
    }
}
