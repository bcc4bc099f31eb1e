//! The return of a connection to the installation's own broker: when that is checked, and until when the connection may be
//! left for it. What is said to the brokers is `connection`'s.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connect::CONNECT_TIMEOUT;
use super::dial::DialOrder;
use super::settings::{BrokerAddress, TlsOptions};
use super::socket::{self, ConnectProgress};

/// How long a moment without a command and without an unacknowledged message is waited for.
const LEFT_WITHIN: Duration = Duration::from_secs(30);
/// How long the broker may take to close the connection after our DISCONNECT.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// The return from one connection.
#[derive(Debug, Default)]
pub(super) struct OwnReturn {
    step: ReturnStep,
    /// The task that checks; it ends with the connection.
    check: JoinSet<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ReturnStep {
    /// The connection is to the own broker, or it is being checked.
    #[default]
    None,
    /// The own broker is checked then.
    CheckAt(Instant),
    /// The own broker can be reached; the connection is left at the next quiet moment before then.
    LeaveBy(Instant),
    /// A DISCONNECT was sent; the connection is over then.
    OverAt(Instant),
}

impl OwnReturn {
    /// Checks the own broker at this time.
    pub(super) fn plan(&mut self, check_at: Instant) {
        self.step = ReturnStep::CheckAt(check_at);
    }

    /// The return does not take place: the daemon stops.
    pub(super) fn cancel(&mut self) {
        self.check.abort_all();
        self.step = ReturnStep::None;
    }

    /// The time of the next step.
    pub(super) fn timer(&self) -> Option<Instant> {
        match self.step {
            ReturnStep::None => None,
            ReturnStep::CheckAt(at) | ReturnStep::LeaveBy(at) | ReturnStep::OverAt(at) => Some(at),
        }
    }

    /// Whether the check begins now.
    pub(super) fn takes_check(&mut self, now: Instant) -> bool {
        let is_due = matches!(self.step, ReturnStep::CheckAt(at) if at <= now);
        if is_due {
            self.step = ReturnStep::None;
        }
        is_due
    }

    /// Whether no moment came in which the connection could be left.
    pub(super) fn takes_missed(&mut self, now: Instant) -> bool {
        let is_missed = matches!(self.step, ReturnStep::LeaveBy(by) if by <= now);
        if is_missed {
            self.step = ReturnStep::None;
        }
        is_missed
    }

    /// Whether the connection is to be left at the next quiet moment.
    pub(super) fn wants_to_leave(&self) -> bool {
        matches!(self.step, ReturnStep::LeaveBy(_))
    }

    /// Whether the connection was left.
    pub(super) fn has_left(&self) -> bool {
        matches!(self.step, ReturnStep::OverAt(_))
    }

    /// Whether the broker has had the time to close the connection that was left.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        matches!(self.step, ReturnStep::OverAt(at) if at <= now)
    }

    /// A DISCONNECT was sent.
    pub(super) fn left(&mut self, now: Instant) {
        self.step = ReturnStep::OverAt(now + CLOSED_WITHIN);
    }

    /// Tries whether TCP and TLS reach the own broker. There is no login: with our client id it would end the connection that
    /// stands, and with another one the broker might refuse it.
    pub(super) fn check(&mut self, own: BrokerAddress, tls: Option<TlsOptions>, order: DialOrder) {
        self.check.spawn(async move {
            let BrokerAddress { host, port } = own;
            let progress = ConnectProgress::default();
            let opening = socket::open(&host, port, tls.as_ref(), &order, progress);
            matches!(timeout(CONNECT_TIMEOUT, opening).await, Ok(Ok(_)))
        });
    }

    /// Whether the own broker was reached, once the check has ended. Cancel safe.
    pub(super) async fn checked(&mut self) -> bool {
        match self.check.join_next().await {
            Some(Ok(is_reached)) => is_reached,
            Some(Err(_)) => false,
            None => pending().await,
        }
    }

    /// The own broker was reached.
    pub(super) fn leave_soon(&mut self, now: Instant) {
        self.step = ReturnStep::LeaveBy(now + LEFT_WITHIN);
    }
}
