//! The XOR protocol on TCP 9999: one connection for each plug, kept open, one request in flight, each in one write.
//!
//! Owns the connections, and maps their errors to [`Failure`]s. Knows no routes and no retries, with one exception: many
//! plugs close an idle connection, so one that proves dead before the first byte of the answer is replaced, and the
//! request is sent again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::lan::connection::{
    ExchangeError, ExchangeParts, IdleConnections, PlugStream, SpareBuffers, USUAL_ANSWER, dead_or_failed,
    sort_error,
};
use crate::lan::fd_budget::FdBudget;
use hs100d_core::bridge::event::{Exchange, Identity, Outcome};
use hs100d_core::model::{Address, Failure};
use hs100d_core::smarthome::cipher;
use hs100d_core::smarthome::frame::{self, Frame, HEADER_LEN};
use hs100d_core::smarthome::message::{DeviceInfo, OutletIds, Reading, Reply, Request};

/// All plugs' connections.
#[derive(Debug)]
pub(super) struct XorClient {
    kept: Mutex<IdleConnections<XorConnection>>,
    spare: SpareBuffers,
    budget: Arc<FdBudget>,
}

impl XorClient {
    pub(super) fn new(budget: Arc<FdBudget>) -> Self {
        Self { kept: Mutex::default(), spare: SpareBuffers::default(), budget }
    }

    /// Carries one exchange out, by its deadline. Dropping the future before its end resets the connection, so that
    /// the kernel does not deliver the request later.
    pub(super) async fn perform(&self, exchange: &Exchange, address: &Address, expect: &Identity) -> Outcome {
        let deadline = Instant::from_std(exchange.deadline);
        let ask = ExchangeParts { exchange, address, expect };
        timeout_at(deadline, self.ask(&ask)).await.unwrap_or_else(|_| Outcome::of(Err(Failure::Silent)))
    }

    /// Closes every connection that is not in use.
    pub(super) fn close(&self) {
        self.kept().clear();
    }

    async fn ask(&self, ask: &ExchangeParts<'_>) -> Outcome {
        if let Some(wire) = self.take_kept(ask) {
            match self.ask_on(wire, ask).await {
                Err(ExchangeError::DeadBeforeAnswer) => {}
                Ok(reply) => return Outcome::of(Ok(reply)),
                Err(ExchangeError::Failed(outcome)) => return *outcome,
            }
        }
        // Boxed, or the future of each poll over an idle connection would be as large as this one.
        match Box::pin(self.ask_anew(ask)).await {
            Ok(outcome) => outcome,
            Err(ExchangeError::DeadBeforeAnswer) => Outcome::of(Err(Failure::Closed)),
            Err(ExchangeError::Failed(outcome)) => *outcome,
        }
    }

    /// Connects, and asks the plug who it is before it sends a request that changes something.
    async fn ask_anew(&self, ask: &ExchangeParts<'_>) -> Result<Outcome, ExchangeError> {
        let mut wire = XorConnection::connect(ask.address, &self.budget).await?;
        if ask.exchange.request == Request::SysInfo {
            return self.ask_on(wire, ask).await.map(|reply| Outcome::of(Ok(reply)));
        }
        let hello = self.say(&mut wire, &Request::SysInfo, ask.exchange.known_info.as_ref()).await?;
        let hello = hello.into_sysinfo()?;
        ask.prove(&hello)?;
        wire.proven = Some(Arc::clone(&hello.device));
        let result = match self.ask_on(wire, ask).await {
            Err(ExchangeError::DeadBeforeAnswer) => self.ask_after_hello(ask, &hello).await,
            answer => answer,
        };
        let result = match result {
            Ok(reply) => Ok(reply),
            Err(ExchangeError::DeadBeforeAnswer) => Err(Failure::Closed),
            Err(ExchangeError::Failed(outcome)) => outcome.result,
        };
        Ok(Outcome { result, greeting: Some(hello) })
    }

    /// Some firmwares close the connection after each answer. The plug's identity was checked a moment ago, so the request
    /// may go first on one more connection.
    async fn ask_after_hello(
        &self,
        ask: &ExchangeParts<'_>,
        hello: &Reading,
    ) -> Result<Reply, ExchangeError> {
        let mut wire = XorConnection::connect(ask.address, &self.budget).await?;
        wire.proven = Some(Arc::clone(&hello.device));
        self.ask_on(wire, ask).await
    }

    /// Sends the exchange's request on a connection, and keeps the connection if all went well.
    async fn ask_on(&self, mut wire: XorConnection, ask: &ExchangeParts<'_>) -> Result<Reply, ExchangeError> {
        let answer = self.say(&mut wire, &ask.exchange.request, ask.exchange.known_info.as_ref()).await;
        if let Ok(Reply::SysInfo(reading) | Reply::Switched(Some(reading))) = &answer {
            ask.prove(reading)?;
            wire.proven = Some(Arc::clone(&reading.device));
        }
        // A plug that refuses has answered: its connection is sound.
        let says_no = |trouble: &ExchangeError| matches!(trouble, ExchangeError::Failed(outcome) if matches!(outcome.result, Err(Failure::Device { .. })));
        let sound = answer.as_ref().err().is_none_or(says_no);
        if sound && !wire.spent && self.budget.keeps(&wire.stream.tcp) {
            self.kept().keep(ask.exchange.plug, wire);
        }
        answer
    }

    async fn say(
        &self,
        wire: &mut XorConnection,
        request: &Request,
        device: Option<&Arc<DeviceInfo>>,
    ) -> Result<Reply, ExchangeError> {
        let mut buffer = self.spare.take();
        // The bridge may know the device from the cloud, where the same strip gives its outlets other ids.
        let given = wire.proven.as_ref().or(device);
        let ids = given.map_or(OutletIds::None, |device| OutletIds::AsGiven(&device.outlets));
        frame::build(&mut buffer, |out| request.write_json(ids, out));
        wire.exchange(&mut buffer).await?;
        let reply =
            request.read_reply(&buffer, device).map_err(|fault| ExchangeError::from(Failure::from(fault)));
        self.spare.give(buffer);
        reply
    }

    /// The idle connection, if it leads to the right address and the right plug.
    fn take_kept(&self, ask: &ExchangeParts<'_>) -> Option<XorConnection> {
        let wire = self.kept().take(ask.exchange.plug)?;
        let fits = wire.address == *ask.address
            && wire.proven.as_ref().is_some_and(|device| ask.expect.admits(device));
        fits.then_some(wire)
    }

    fn kept(&self) -> MutexGuard<'_, IdleConnections<XorConnection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection.
#[derive(Debug)]
struct XorConnection {
    stream: PlugStream,
    address: Address,
    /// The plug that answered on it.
    proven: Option<Arc<DeviceInfo>>,
    /// More bytes came than the answer has: they could be taken for the next answer.
    spent: bool,
}

impl XorConnection {
    async fn connect(address: &Address, budget: &FdBudget) -> Result<Self, ExchangeError> {
        let stream = PlugStream::connect(address, budget).await?;
        Ok(Self { stream, address: address.clone(), proven: None, spent: false })
    }

    /// Writes the frame in `buffer` and replaces it with the payload of the answer, decrypted.
    async fn exchange(&mut self, buffer: &mut Vec<u8>) -> Result<(), ExchangeError> {
        self.stream.in_flight = true;
        self.stream.tcp.write_all(buffer).await.map_err(|error| dead_or_failed(&error))?;
        buffer.clear();
        let end = loop {
            match frame::parse(buffer) {
                Frame::Whole { end } => break end,
                Frame::TooLarge(length) => {
                    return Err(Failure::Garbage(format!("it announces {length} bytes").into()).into());
                }
                Frame::Incomplete(missing) => buffer.reserve(missing.min(USUAL_ANSWER)),
            }
            match self.stream.tcp.read_buf(buffer).await {
                Ok(0) if buffer.is_empty() => return Err(ExchangeError::DeadBeforeAnswer),
                Ok(0) => return Err(Failure::Closed.into()),
                Ok(_) => {}
                Err(error) if buffer.is_empty() => return Err(dead_or_failed(&error)),
                Err(error) => return Err(sort_error(&error).into()),
            }
        };
        self.stream.in_flight = false;
        self.spent = buffer.len() > end;
        buffer.truncate(end);
        buffer.drain(..HEADER_LEN);
        cipher::decrypt(buffer);
        Ok(())
    }
}
