//! What can be wrong between us and the broker: the reason with its remedy, the wait before the next attempt, the log.

pub(super) mod explain;
pub(super) mod log;
pub mod reason;
pub(super) mod reconnect;
pub(super) mod tls;
