//! The XOR protocol on TCP 9999: one connection for each plug, kept open, one request in flight, each in one write.
//!
//! Owns the connections, and maps their errors to [`Failure`]s. Knows no routes and no retries, with one exception: many
//! plugs close an idle connection, so one that proves dead before the first byte of the answer is replaced, and the
//! request is sent again.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::bridge::event::{Exchange, Identity, Outcome, PlugKey};
use crate::model::{Address, Destination, Failure, shown};
use crate::smarthome::cipher;
use crate::smarthome::frame::{self, Frame, HEADER_LEN};
use crate::smarthome::message::{DeviceInfo, NotAnAnswer, OutletIds, Reading, Reply, Request};
use crate::transport::lan::fd_budget::{FdBudget, is_out_of_files};

/// Most answers fit. For a longer one the buffer grows as bytes arrive, never by the announced length.
const USUAL_ANSWER: usize = 2048;
/// The most characters of another device's alias in a message; the apps allow 31.
const ALIAS_SHOWN: usize = 40;
/// The most buffers that are kept for the next exchanges.
const SPARE_BUFFERS: usize = 64;

/// All plugs' connections.
#[derive(Debug, Default)]
pub(super) struct XorClient {
    kept: Mutex<IdleConnections>,
    spare: Mutex<Vec<Vec<u8>>>,
    share: FdBudget,
}

impl XorClient {
    /// Carries one exchange out, by its deadline. Dropping the future before its end resets the connection, so that
    /// the kernel does not deliver the request later.
    pub(super) async fn perform(&self, exchange: &Exchange, address: &Address, expect: &Identity) -> Outcome {
        let deadline = Instant::from_std(exchange.deadline);
        let ask = ExchangeParts { exchange, address, expect };
        timeout_at(deadline, self.ask(&ask)).await.unwrap_or_else(|_| Outcome::of(Err(Failure::Silent)))
    }

    /// Closes every connection that is not in use.
    pub(super) fn close(&self) {
        self.kept().0.clear();
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
        let mut wire = self.connect(ask.address).await?;
        if ask.exchange.request == Request::SysInfo {
            return self.ask_on(wire, ask).await.map(|reply| Outcome::of(Ok(reply)));
        }
        let hello = match self.say(&mut wire, &Request::SysInfo, ask.exchange.known_info.as_ref()).await? {
            Reply::SysInfo(reading) => reading,
            _ => return Err(Failure::Garbage("no sysinfo".into()).into()),
        };
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
        let mut wire = self.connect(ask.address).await?;
        wire.proven = Some(Arc::clone(&hello.device));
        self.ask_on(wire, ask).await
    }

    /// Connects, unless too few file descriptors are left for the rest of the daemon.
    async fn connect(&self, address: &Address) -> Result<XorConnection, ExchangeError> {
        let wire = XorConnection::connect(address).await?;
        let now = Instant::now().into_std();
        match wire {
            Some(wire) if self.share.admits(&wire.stream) => {
                self.share.found_one(now);
                Ok(wire)
            }
            _ => {
                self.share.missed_one(now);
                Err(Failure::OutOfFiles.into())
            }
        }
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
        if sound && !wire.spent && self.share.keeps(&wire.stream) {
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
        let mut buffer = self.take_buffer();
        // The bridge may know the device from the cloud, where the same strip gives its outlets other ids.
        let given = wire.proven.as_ref().or(device);
        let ids = given.map_or(OutletIds::None, |device| OutletIds::AsGiven(&device.outlets));
        frame::build(&mut buffer, |out| request.write_json(ids, out));
        wire.exchange(&mut buffer).await?;
        let reply =
            request.read_reply(&buffer, device).map_err(|fault| ExchangeError::from(Failure::from(fault)));
        self.give_buffer(buffer);
        reply
    }

    /// The idle connection, if it leads to the right address and the right plug.
    fn take_kept(&self, ask: &ExchangeParts<'_>) -> Option<XorConnection> {
        let wire = self.kept().take(ask.exchange.plug)?;
        let fits = wire.address == *ask.address
            && wire.proven.as_ref().is_some_and(|device| ask.expect.admits(device));
        fits.then_some(wire)
    }

    fn kept(&self) -> MutexGuard<'_, IdleConnections> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_buffer(&self) -> Vec<u8> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(USUAL_ANSWER))
    }

    fn give_buffer(&self, buffer: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BUFFERS && buffer.capacity() <= 4 * USUAL_ANSWER {
            spare.push(buffer);
        }
    }
}

/// Idle connections. Plug keys are consecutive, so they index a list.
#[derive(Debug, Default)]
struct IdleConnections(Vec<Option<XorConnection>>);

impl IdleConnections {
    fn keep(&mut self, plug: PlugKey, wire: XorConnection) {
        let place = plug.0 as usize;
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(wire);
    }

    fn take(&mut self, plug: PlugKey) -> Option<XorConnection> {
        self.0.get_mut(plug.0 as usize)?.take()
    }
}

/// An exchange with its target taken apart.
struct ExchangeParts<'a> {
    exchange: &'a Exchange,
    address: &'a Address,
    expect: &'a Identity,
}

impl ExchangeParts<'_> {
    fn prove(&self, reading: &Reading) -> Result<(), ExchangeError> {
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

/// One connection. If it is dropped in the middle of an exchange, it is reset.
#[derive(Debug)]
struct XorConnection {
    stream: TcpStream,
    address: Address,
    /// The plug that answered on it.
    proven: Option<Arc<DeviceInfo>>,
    in_flight: bool,
    /// More bytes came than the answer has: they could be taken for the next answer.
    spent: bool,
}

impl XorConnection {
    /// `None` if no more files may be opened.
    async fn connect(address: &Address) -> Result<Option<Self>, ExchangeError> {
        let connected = match address.destination() {
            Destination::Socket(socket) => TcpStream::connect(socket).await,
            Destination::Name(name, port) => TcpStream::connect((name, port)).await,
        };
        let stream = match connected {
            Err(error) if is_out_of_files(&error) => return Ok(None),
            connected => connected.map_err(|error| sort_connect_error(&error))?,
        };
        // The devices' buffers are easily overrun: each request is one segment, sent at once.
        stream.set_nodelay(true).map_err(|error| sort_error(&error))?;
        Ok(Some(Self { stream, address: address.clone(), proven: None, in_flight: false, spent: false }))
    }

    /// Writes the frame in `buffer` and replaces it with the payload of the answer, decrypted.
    async fn exchange(&mut self, buffer: &mut Vec<u8>) -> Result<(), ExchangeError> {
        self.in_flight = true;
        self.stream.write_all(buffer).await.map_err(|error| dead_or_failed(&error))?;
        buffer.clear();
        let end = loop {
            match frame::parse(buffer) {
                Frame::Whole { end } => break end,
                Frame::TooLarge(length) => {
                    return Err(Failure::Garbage(format!("it announces {length} bytes").into()).into());
                }
                Frame::Incomplete(missing) => buffer.reserve(missing.min(USUAL_ANSWER)),
            }
            match self.stream.read_buf(buffer).await {
                Ok(0) if buffer.is_empty() => return Err(ExchangeError::DeadBeforeAnswer),
                Ok(0) => return Err(Failure::Closed.into()),
                Ok(_) => {}
                Err(error) if buffer.is_empty() => return Err(dead_or_failed(&error)),
                Err(error) => return Err(sort_error(&error).into()),
            }
        };
        self.in_flight = false;
        self.spent = buffer.len() > end;
        buffer.truncate(end);
        buffer.drain(..HEADER_LEN);
        cipher::decrypt(buffer);
        Ok(())
    }
}

impl Drop for XorConnection {
    fn drop(&mut self) {
        if self.in_flight {
            // The connection is dropped whether this works or not.
            let _ = self.stream.set_zero_linger();
        }
    }
}

/// Why an exchange ended early.
enum ExchangeError {
    /// The connection was dead before the first byte of an answer.
    DeadBeforeAnswer,
    Failed(Box<Outcome>),
}

impl From<Failure> for ExchangeError {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(Outcome::of(Err(failure))))
    }
}

impl From<NotAnAnswer> for Failure {
    fn from(fault: NotAnAnswer) -> Self {
        match fault {
            NotAnAnswer::Device { code, message } => Self::Device { code, message },
            NotAnAnswer::Malformed(why) => Self::Garbage(why),
            NotAnAnswer::Missing { .. } => Self::Garbage(fault.to_string().into()),
        }
    }
}

fn dead_or_failed(error: &io::Error) -> ExchangeError {
    match sort_error(error) {
        Failure::Closed => ExchangeError::DeadBeforeAnswer,
        failure => failure.into(),
    }
}

fn sort_connect_error(error: &io::Error) -> Failure {
    match sort_error(error) {
        // A connection that closes while it opens was refused on the way.
        Failure::Closed => Failure::Refused,
        failure => failure,
    }
}

fn sort_error(error: &io::Error) -> Failure {
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
