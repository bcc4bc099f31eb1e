//! What the clients of both LAN protocols share: connections, buffers, the proof of who answered, and the errors.

use std::io::{self, ErrorKind};
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::lan::fd_budget::{FdBudget, is_out_of_files};
use hs100d_core::bridge::event::{Exchange, Identity, Outcome, PlugKey};
use hs100d_core::model::{Address, Destination, Failure, shown};
use hs100d_core::smarthome::message::Reading;

/// Most answers fit. For a longer one the buffer grows as bytes arrive, never by the announced length.
pub(super) const USUAL_ANSWER: usize = 2048;
/// The most characters of another device's alias in a message; the apps allow 31.
const ALIAS_SHOWN: usize = 40;
/// The most buffers that are kept for the next exchanges.
const SPARE_BUFFERS: usize = 64;

/// An exchange with its target taken apart.
pub(super) struct ExchangeParts<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) address: &'a Address,
    pub(super) expect: &'a Identity,
}

impl ExchangeParts<'_> {
    pub(super) fn prove(&self, reading: &Reading) -> Result<(), ExchangeError> {
        if self.expect.admits(&reading.device) {
            let Some(kind) = reading.other_kind() else { return Ok(()) };
            let result = Err(Failure::Unsupported(kind.into()));
            return Err(ExchangeError::Failed(Box::new(Outcome { result, greeting: Some(reading.clone()) })));
        }
        let id =
            reading.device.device_id.as_ref().map_or_else(|| "without an id".to_owned(), ToString::to_string);
        let found = format!("\"{}\" {id}", shown(&reading.device.alias, ALIAS_SHOWN)).into();
        let outcome = Outcome { result: Err(Failure::WrongPlug { found }), greeting: Some(reading.clone()) };
        Err(ExchangeError::Failed(Box::new(outcome)))
    }
}

/// A connection to a plug. If it is dropped in the middle of an exchange, it is reset, so that the kernel does not
/// deliver the request later.
#[derive(Debug)]
pub(super) struct PlugStream {
    pub(super) tcp: TcpStream,
    pub(super) in_flight: bool,
}

impl PlugStream {
    /// Connects, unless too few file descriptors are left for the rest of the daemon.
    pub(super) async fn connect(address: &Address, budget: &FdBudget) -> Result<Self, ExchangeError> {
        let connected = match address.destination() {
            Destination::Socket(socket) => TcpStream::connect(socket).await,
            Destination::Name(name, port) => TcpStream::connect((name, port)).await,
        };
        let now = Instant::now().into_std();
        let tcp = match connected {
            Ok(tcp) if budget.admits(&tcp) => tcp,
            Err(error) if !is_out_of_files(&error) => return Err(sort_connect_error(&error).into()),
            _ => {
                budget.missed_one(now);
                return Err(Failure::OutOfFiles.into());
            }
        };
        budget.found_one(now);
        // The devices' buffers are easily overrun: each request is one segment, sent at once.
        tcp.set_nodelay(true).map_err(|error| sort_error(&error))?;
        Ok(Self { tcp, in_flight: false })
    }
}

impl Drop for PlugStream {
    fn drop(&mut self) {
        if self.in_flight {
            // The connection is dropped whether this works or not.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

/// Idle connections. Plug keys are consecutive, so they index a list.
#[derive(Debug)]
pub(super) struct IdleConnections<T>(Vec<Option<T>>);

impl<T> Default for IdleConnections<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> IdleConnections<T> {
    pub(super) fn keep(&mut self, plug: PlugKey, wire: T) {
        let place = plug.0 as usize;
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(wire);
    }

    pub(super) fn take(&mut self, plug: PlugKey) -> Option<T> {
        self.0.get_mut(plug.0 as usize)?.take()
    }

    /// Closes those that are not worth keeping.
    pub(super) fn retain(&mut self, is_worth_keeping: impl Fn(&T) -> bool) {
        for place in &mut self.0 {
            place.take_if(|wire| !is_worth_keeping(wire));
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Buffers for the next exchanges, so that none allocates its own.
#[derive(Debug, Default)]
pub(super) struct SpareBuffers(Mutex<Vec<Vec<u8>>>);

impl SpareBuffers {
    pub(super) fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(USUAL_ANSWER))
    }

    pub(super) fn give(&self, buffer: Vec<u8>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BUFFERS && buffer.capacity() <= 4 * USUAL_ANSWER {
            spare.push(buffer);
        }
    }
}

/// Why an exchange ended early.
pub(super) enum ExchangeError {
    /// The connection was dead before the first byte of an answer.
    DeadBeforeAnswer,
    Failed(Box<Outcome>),
}

impl From<Failure> for ExchangeError {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(Outcome::of(Err(failure))))
    }
}

pub(super) fn dead_or_failed(error: &io::Error) -> ExchangeError {
    match sort_error(error) {
        Failure::Closed => ExchangeError::DeadBeforeAnswer,
        failure => failure.into(),
    }
}

pub(super) fn sort_connect_error(error: &io::Error) -> Failure {
    match sort_error(error) {
        // A connection that closes while it opens was refused on the way.
        Failure::Closed => Failure::Refused,
        failure => failure,
    }
}

pub(super) fn sort_error(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Failure::Closed,
        ErrorKind::BrokenPipe | ErrorKind::NotConnected | ErrorKind::UnexpectedEof => Failure::Closed,
        ErrorKind::TimedOut => Failure::Silent,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            Failure::NoRoute
        }
        _ => {
            tracing::debug!(%error, "a connection to a plug failed in an unusual way");
            Failure::NoRoute
        }
    }
}
