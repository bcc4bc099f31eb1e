//! The connection to a plug that speaks KLAP: a request goes out in one write, an answer comes back whole or not at all.

use std::fmt;
use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lan::connection::{ExchangeError, PlugStream, USUAL_ANSWER, dead_or_failed, sort_error};
use crate::lan::fd_budget::FdBudget;
use crate::lan::klap_http::{self, BadKlapAnswer, KlapAnswer};
use hs100d_core::bridge::event::Outcome;
use hs100d_core::model::{Address, Failure};

/// A connection that was answered on, or is new.
#[derive(Debug)]
pub(super) struct KlapConnection(PlugStream);

/// Sends the request that `write` puts into `buffer`, and replaces it with the answer. Uses the connection in `kept`; if
/// that is dead before the first byte of an answer, the request is written anew and sent on another one.
pub(super) async fn post(
    kept: &mut Option<KlapConnection>,
    address: &Address,
    budget: &FdBudget,
    buffer: &mut Vec<u8>,
    mut write: impl FnMut(&mut Vec<u8>),
) -> Result<KlapAnswer, SessionError> {
    loop {
        let quiet = kept.take().filter(KlapConnection::is_quiet);
        let is_new = quiet.is_none();
        let mut connection = match quiet {
            Some(connection) => connection,
            // Boxed, for this is rare and its future large.
            None => KlapConnection(Box::pin(PlugStream::connect(address, budget)).await?),
        };
        write(buffer);
        match connection.exchange(buffer).await {
            Ok(answer) => {
                if answer.keeps_connection && budget.keeps(&connection.0.tcp) {
                    *kept = Some(connection);
                }
                return Ok(answer);
            }
            Err(ConnectionError::Exchange(ExchangeError::DeadBeforeAnswer)) if !is_new => {}
            Err(ConnectionError::Exchange(error)) => return Err(error.into()),
            Err(ConnectionError::BadAnswer(bad)) => return Err(SessionError::unreadable(bad)),
        }
    }
}

impl KlapConnection {
    /// Whether it is open, and nothing came that nobody asked for.
    fn is_quiet(&self) -> bool {
        let received = self.0.tcp.try_read(&mut [0]);
        received.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Writes the request in `buffer` and replaces it with the bytes of the answer.
    async fn exchange(&mut self, buffer: &mut Vec<u8>) -> Result<KlapAnswer, ConnectionError> {
        self.0.in_flight = true;
        self.0.tcp.write_all(buffer).await.map_err(|error| dead_or_failed(&error))?;
        buffer.clear();
        let answer = loop {
            if buffer.len() == buffer.capacity() {
                buffer.reserve(USUAL_ANSWER);
            }
            let is_ended = match self.0.tcp.read_buf(buffer).await {
                Ok(0) if buffer.is_empty() => return Err(ExchangeError::DeadBeforeAnswer.into()),
                Ok(length) => length == 0,
                Err(error) if buffer.is_empty() => return Err(dead_or_failed(&error).into()),
                Err(error) => return Err(ExchangeError::from(sort_error(&error)).into()),
            };
            match klap_http::parse(buffer, is_ended).map_err(ConnectionError::BadAnswer)? {
                Some(answer) => break answer,
                None if is_ended => return Err(ExchangeError::from(Failure::Closed).into()),
                None => {}
            }
        };
        self.0.in_flight = false;
        Ok(answer)
    }
}

enum ConnectionError {
    Exchange(ExchangeError),
    BadAnswer(BadKlapAnswer),
}

impl From<ExchangeError> for ConnectionError {
    fn from(error: ExchangeError) -> Self {
        Self::Exchange(error)
    }
}

/// Why an exchange ended early.
pub(super) enum SessionError {
    /// What came is no answer of this session. The plug may have acted.
    Unreadable(Box<str>),
    /// The plug does not have the session, or did not let it begin. It did not act.
    Lost(Failure),
    Failed(Box<Outcome>),
}

impl SessionError {
    pub(super) fn unreadable(why: impl fmt::Display) -> Self {
        Self::Unreadable(why.to_string().into())
    }
}

impl From<Failure> for SessionError {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(Outcome::of(Err(failure))))
    }
}

impl From<ExchangeError> for SessionError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::DeadBeforeAnswer => Failure::Closed.into(),
            ExchangeError::Failed(outcome) => Self::Failed(outcome),
        }
    }
}
