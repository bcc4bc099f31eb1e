//! KLAP, of newer firmwares: a session and a connection for each plug, both kept, one request in flight, each in one write.
//!
//! Owns sessions and connections, and maps their errors to [`Failure`]s. A session outlives its connection: it is resumed on
//! the next one, without another handshake. Knows no routes; retries only where the plug cannot have acted, or was only
//! read: on a connection that was kept and is dead, and once with a new session. `klap_crypto` has the formulas, `klap_http`
//! the bytes around them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::bridge::event::{Exchange, Identity, Outcome, PlugKey};
use crate::klap_hashes::KlapAccounts;
use crate::model::{Address, Failure};
use crate::secret::Secret;
use crate::smarthome::message::{DeviceInfo, NotAnAnswer, OutletIds, Reply, Request};
use crate::transport::lan::connection::{
    ExchangeError, ExchangeParts, IdleConnections, PlugStream, SpareBuffers, USUAL_ANSWER, dead_or_failed,
    sort_error,
};
use crate::transport::lan::fd_budget::FdBudget;
use crate::transport::lan::klap_crypto::{BadHandshake, Handshake, KlapSession};
use crate::transport::lan::klap_http::{self, BadKlapAnswer, KlapAnswer, KlapPath, SessionCookie};

/// No handshake for so long after one that the plug refused: at most two in a minute.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// No request for so long after another client took the session twice; [`jitter`] comes on top.
const TAKEN_PAUSE: Duration = Duration::from_secs(10);
/// A session is renewed so long before its end, for the plug's clock drifts.
const RENEWED_BEFORE: Duration = Duration::from_secs(20 * 60);
/// After so many sessions in a row that were lost at their second request, each session gets one.
const LOST_AT_SECOND: u8 = 2;

/// All plugs' sessions and connections.
#[derive(Debug)]
pub(super) struct KlapClient {
    state: Mutex<KlapState>,
    spare: SpareBuffers,
    budget: Arc<FdBudget>,
}

#[derive(Debug, Default)]
struct KlapState {
    accounts: KlapAccounts,
    /// Counts the changes of the accounts: what an exchange knows of a plug is dropped if one came in between.
    generation: u32,
    plugs: IdleConnections<Box<KlapPlug>>,
}

impl KlapClient {
    pub(super) fn new(budget: Arc<FdBudget>) -> Self {
        Self { state: Mutex::default(), spare: SpareBuffers::default(), budget }
    }

    /// Replaces the accounts that plugs may hold. If they differ, sessions end and refusals are forgotten.
    pub(super) fn set_accounts(&self, accounts: KlapAccounts) {
        let mut state = self.state();
        if state.accounts != accounts {
            state.accounts = accounts;
            state.generation = state.generation.wrapping_add(1);
            state.plugs.clear();
        }
    }

    /// Carries one exchange out, by its deadline. Dropping the future before its end resets the connection, so that the
    /// kernel does not deliver the request later; the session goes on with the next number.
    pub(super) async fn perform(&self, exchange: &Exchange, address: &Address, expect: &Identity) -> Outcome {
        let deadline = Instant::from_std(exchange.deadline);
        let mut lease = self.lease(exchange.plug);
        let plug = lease.plug.get_or_insert_with(|| Box::new(KlapPlug::new(address)));
        plug.prepare(address, expect);
        let mut exchange =
            KlapExchange { client: self, parts: ExchangeParts { exchange, address, expect }, plug };
        timeout_at(deadline, exchange.perform()).await.unwrap_or_else(|_| Outcome::of(Err(Failure::Silent)))
    }

    /// Closes every connection that is not in use, and ends its session.
    pub(super) fn close(&self) {
        self.state().plugs.clear();
    }

    fn lease(&self, key: PlugKey) -> PlugLease<'_> {
        let mut state = self.state();
        PlugLease { client: self, key, generation: state.generation, plug: state.plugs.take(key) }
    }

    fn state(&self) -> MutexGuard<'_, KlapState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a plug while one exchange uses it. Goes back at the end, also if the exchange is dropped.
struct PlugLease<'a> {
    client: &'a KlapClient,
    key: PlugKey,
    generation: u32,
    plug: Option<Box<KlapPlug>>,
}

impl Drop for PlugLease<'_> {
    fn drop(&mut self) {
        let mut state = self.client.state();
        if let Some(plug) = self.plug.take().filter(|plug| plug.is_worth_keeping())
            && state.generation == self.generation
        {
            state.plugs.keep(self.key, plug);
        }
    }
}

/// What is kept of a plug between exchanges.
#[derive(Debug)]
struct KlapPlug {
    address: Address,
    connection: Option<KlapConnection>,
    session: Option<OpenSession>,
    /// Until then each exchange ends with this, and nothing is sent.
    pause: Option<(Instant, Failure)>,
    /// How many sessions in a row were lost at their second request.
    lost_at_second: u8,
}

impl KlapPlug {
    fn new(address: &Address) -> Self {
        Self { address: address.clone(), connection: None, session: None, pause: None, lost_at_second: 0 }
    }

    /// Forgets everything if it is of another address, and the session if it is of another plug.
    fn prepare(&mut self, address: &Address, expect: &Identity) {
        if self.address != *address {
            *self = Self::new(address);
        }
        self.session.take_if(|session| session.proven.as_ref().is_some_and(|device| !expect.admits(device)));
    }

    fn is_worth_keeping(&self) -> bool {
        self.connection.is_some() || self.session.is_some() || self.pause.is_some() || self.lost_at_second > 0
    }

    fn paused(&mut self, now: Instant) -> Option<Failure> {
        self.pause.take_if(|(until, _)| *until <= now);
        self.pause.as_ref().map(|(_, failure)| failure.clone())
    }

    /// Whether a request can go out without another handshake.
    fn has_session(&self, now: Instant) -> bool {
        self.session.as_ref().is_some_and(|session| {
            let is_spent = self.takes_one_request() && session.requests > 0;
            now < session.renew_at && !session.keys.is_used_up() && !is_spent
        })
    }

    /// Whether the session is one of the plug that is expected.
    fn is_proven(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.proven.is_some())
    }

    /// Some firmwares answer nothing but the first request of a session.
    fn takes_one_request(&self) -> bool {
        self.lost_at_second >= LOST_AT_SECOND
    }

    /// The session's last request was answered, or was not. A second one shows whether the firmware takes it.
    fn note_answer(&mut self, is_readable: bool) {
        if self.session.as_ref().is_none_or(|session| session.requests != 2) {
            return;
        }
        self.lost_at_second = if is_readable { 0 } else { self.lost_at_second.saturating_add(1) };
    }

    /// The exchange failed after so many attempts: refuses the next ones for a while if they would fail as well.
    fn back_off(&mut self, failure: &Failure, attempts: u32, now: Instant) {
        let pause = match failure {
            Failure::KlapBlocked | Failure::OtherAccount => REFUSED_PAUSE * attempts,
            Failure::SessionTaken => TAKEN_PAUSE + jitter(),
            _ => return,
        };
        self.pause = Some((now + pause, failure.clone()));
    }
}

/// Up to 2.5 s, so that two clients do not take the session from each other at the same pace.
fn jitter() -> Duration {
    let [random, ..] = Uuid::new_v4().into_bytes();
    Duration::from_millis(u64::from(random) * 10)
}

/// A session that both sides proved.
struct OpenSession {
    keys: KlapSession,
    id: Option<Secret>,
    renew_at: Instant,
    /// How many requests were sent in it.
    requests: u32,
    /// The plug that answered in it.
    proven: Option<Arc<DeviceInfo>>,
}

impl fmt::Debug for OpenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSession").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl OpenSession {
    /// Reads the body of an answer.
    fn read(
        &self,
        status: u16,
        body: &mut [u8],
        request: &Request,
        known: Option<&Arc<DeviceInfo>>,
    ) -> Result<Reply, SessionError> {
        match status {
            200 => {}
            // Another client began a session, or the plug restarted. It did not act.
            403 => return Err(SessionError::Lost(Failure::SessionTaken)),
            status => return Err(SessionError::unreadable(format!("HTTP status {status}"))),
        }
        let message = self.keys.open(body).map_err(SessionError::unreadable)?;
        match request.read_reply(message, known) {
            Ok(reply) => Ok(reply),
            // A wrong key passes once in 256 times, and then does not give JSON.
            Err(NotAnAnswer::Malformed(why)) if message.first() != Some(&b'{') => {
                Err(SessionError::Unreadable(why))
            }
            Err(fault) => Err(Failure::from(fault).into()),
        }
    }
}

/// When a session of this lifetime is renewed.
fn renewal(timeout: Duration) -> Duration {
    timeout.saturating_sub(RENEWED_BEFORE).max(timeout / 2)
}

/// Why an exchange ended early.
enum SessionError {
    /// What came is no answer of this session. The plug may have acted.
    Unreadable(Box<str>),
    /// The plug does not have the session, or did not let it begin. It did not act.
    Lost(Failure),
    Failed(Box<Outcome>),
}

impl SessionError {
    fn unreadable(why: impl fmt::Display) -> Self {
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

impl From<BadKlapAnswer> for SessionError {
    fn from(bad: BadKlapAnswer) -> Self {
        Self::unreadable(bad)
    }
}

/// One exchange with one plug.
struct KlapExchange<'a> {
    client: &'a KlapClient,
    parts: ExchangeParts<'a>,
    plug: &'a mut KlapPlug,
}

impl KlapExchange<'_> {
    async fn perform(&mut self) -> Outcome {
        let now = Instant::now();
        if let Some(failure) = self.plug.paused(now) {
            return Outcome::of(Err(failure));
        }
        let result = if self.plug.has_session(now) && self.plug.is_proven() {
            let request = &self.parts.exchange.request;
            self.ask(request).await.map(|reply| Outcome::of(Ok(reply)))
        } else {
            // Boxed, or the future of each poll within a session would be as large as this one.
            Box::pin(self.attempt()).await
        };
        match result {
            Ok(outcome) => outcome,
            Err(SessionError::Failed(outcome)) => self.failed(*outcome, 1),
            Err(SessionError::Lost(_) | SessionError::Unreadable(_)) => Box::pin(self.attempt_again()).await,
        }
    }

    /// Once more, with a new session.
    async fn attempt_again(&mut self) -> Outcome {
        let outcome = match self.attempt().await {
            Ok(outcome) => return outcome,
            Err(SessionError::Failed(outcome)) => *outcome,
            Err(SessionError::Lost(failure)) => Outcome::of(Err(failure)),
            Err(SessionError::Unreadable(why)) => Outcome::of(Err(Failure::Garbage(why))),
        };
        self.failed(outcome, 2)
    }

    fn failed(&mut self, outcome: Outcome, attempts: u32) -> Outcome {
        if let Err(failure) = &outcome.result {
            self.plug.back_off(failure, attempts, Instant::now());
        }
        outcome
    }

    /// Begins a session if there is none, and asks the plug who it is before any other request.
    async fn attempt(&mut self) -> Result<Outcome, SessionError> {
        if !self.plug.has_session(Instant::now()) {
            self.begin_session(None).await?;
        }
        let request = &self.parts.exchange.request;
        let mut greeting = None;
        if *request != Request::SysInfo && !self.plug.is_proven() {
            let Reply::SysInfo(reading) = self.ask(&Request::SysInfo).await? else {
                return Err(Failure::Garbage("no sysinfo".into()).into());
            };
            if self.plug.takes_one_request() {
                // The plug's identity was checked a moment ago, so the request may go first in one more session.
                self.begin_session(Some(Arc::clone(&reading.device))).await?;
            }
            greeting = Some(reading);
        }
        match self.ask(request).await {
            Ok(reply) => Ok(Outcome { result: Ok(reply), greeting }),
            Err(SessionError::Failed(mut outcome)) => {
                outcome.greeting = outcome.greeting.or(greeting);
                Err(SessionError::Failed(outcome))
            }
            Err(lost) => Err(lost),
        }
    }

    /// Shakes hands. `proven` is the plug that answered a moment ago.
    async fn begin_session(&mut self, proven: Option<Arc<DeviceInfo>>) -> Result<(), SessionError> {
        self.plug.session = None;
        let mut buffer = self.client.spare.take();
        let session = self.shake_hands(&mut buffer).await;
        self.client.spare.give(buffer);
        self.plug.session = Some(OpenSession { proven, ..session? });
        Ok(())
    }

    async fn shake_hands(&mut self, buffer: &mut Vec<u8>) -> Result<OpenSession, SessionError> {
        let ours = Uuid::new_v4().into_bytes();
        let address = self.parts.address;
        let write = |out: &mut Vec<u8>| {
            klap_http::write_request(out, KlapPath::Handshake1, address, None, &ours);
        };
        let answer = self.post(buffer, write).await?;
        match answer.status {
            200 => {}
            401 | 403 => return Err(Failure::KlapBlocked.into()),
            status => return Err(SessionError::unreadable(format!("HTTP status {status}"))),
        }
        let SessionCookie { id, timeout } = SessionCookie::read(&buffer[..answer.body.start])?;
        let accounts = self.client.state().accounts.clone();
        let handshake =
            Handshake::accept(&ours, &buffer[answer.body], &accounts).map_err(|bad| match bad {
                BadHandshake::Length(_) => SessionError::unreadable(bad),
                BadHandshake::NoMatch => Failure::OtherAccount.into(),
            })?;
        let proof = &*handshake.proof;
        let write = |out: &mut Vec<u8>| {
            klap_http::write_request(out, KlapPath::Handshake2, address, id.as_ref(), proof);
        };
        match self.post(buffer, write).await?.status {
            200 => {}
            // Unless another client began a session in between, the plug does not let us in.
            401 | 403 => return Err(SessionError::Lost(Failure::KlapBlocked)),
            status => return Err(SessionError::unreadable(format!("HTTP status {status}"))),
        }
        let (plug, version) = (&*self.parts.exchange.label, handshake.version);
        tracing::debug!(plug, ?version, "began a KLAP session with {}", handshake.spelling.label());
        let renew_at = Instant::now() + renewal(timeout);
        Ok(OpenSession { keys: handshake.session, id, renew_at, requests: 0, proven: None })
    }

    /// Sends a request in the session.
    async fn ask(&mut self, request: &Request) -> Result<Reply, SessionError> {
        let result = self.ask_unproven(request).await;
        match &result {
            Ok(_) | Err(SessionError::Failed(_)) => {}
            Err(SessionError::Lost(_)) => self.plug.session = None,
            Err(SessionError::Unreadable(why)) => {
                self.plug.note_answer(false);
                self.plug.session = None;
                if request.changes_something() {
                    return Err(Failure::Garbage(why.clone()).into());
                }
            }
        }
        let reply = result?;
        self.plug.note_answer(true);
        if let Reply::SysInfo(reading) | Reply::Switched(Some(reading)) = &reply {
            let is_proven = self.parts.prove(reading);
            match &mut self.plug.session {
                Some(session) if is_proven.is_ok() => session.proven = Some(Arc::clone(&reading.device)),
                session => *session = None,
            }
            is_proven?;
        }
        Ok(reply)
    }

    async fn ask_unproven(&mut self, request: &Request) -> Result<Reply, SessionError> {
        let KlapPlug { session: Some(session), connection, .. } = &mut *self.plug else {
            return Err(SessionError::Lost(Failure::SessionTaken));
        };
        let (client, address, known) =
            (self.client, self.parts.address, self.parts.exchange.known_info.as_ref());
        let (mut sealed, mut buffer) = (client.spare.take(), client.spare.take());
        session.requests = session.requests.saturating_add(1);
        let write = |out: &mut Vec<u8>| {
            // The bridge may know the device from the cloud, where the same strip gives its outlets other ids.
            let given = session.proven.as_ref().or(known);
            let ids = given.map_or(OutletIds::None, |device| OutletIds::AsGiven(&device.outlets));
            let number = session.keys.seal(&mut sealed, |message| request.write_json(ids, message));
            let path = KlapPath::Request(number);
            klap_http::write_request(out, path, address, session.id.as_ref(), &sealed);
        };
        let answer = client.post(connection, address, &mut buffer, write).await;
        let reply =
            answer.and_then(|answer| session.read(answer.status, &mut buffer[answer.body], request, known));
        client.spare.give(sealed);
        client.spare.give(buffer);
        reply
    }

    async fn post(
        &mut self,
        buffer: &mut Vec<u8>,
        write: impl FnMut(&mut Vec<u8>),
    ) -> Result<KlapAnswer, SessionError> {
        self.client.post(&mut self.plug.connection, self.parts.address, buffer, write).await
    }
}

impl KlapClient {
    /// Sends the request that `write` puts into `buffer`, and replaces it with the answer. Uses the connection that was
    /// kept; if that is dead before the first byte of an answer, the request is written anew and sent on another one.
    async fn post(
        &self,
        kept: &mut Option<KlapConnection>,
        address: &Address,
        buffer: &mut Vec<u8>,
        mut write: impl FnMut(&mut Vec<u8>),
    ) -> Result<KlapAnswer, SessionError> {
        loop {
            let was_kept = kept.take().filter(KlapConnection::is_quiet);
            let is_new = was_kept.is_none();
            let mut connection = match was_kept {
                Some(connection) => connection,
                None => KlapConnection(Box::pin(PlugStream::connect(address, &self.budget)).await?),
            };
            write(buffer);
            match connection.exchange(buffer).await {
                Ok(answer) => {
                    if answer.keeps_connection && self.budget.keeps(&connection.0.tcp) {
                        *kept = Some(connection);
                    }
                    return Ok(answer);
                }
                Err(ConnectionError::Exchange(ExchangeError::DeadBeforeAnswer)) if !is_new => {}
                Err(ConnectionError::Exchange(error)) => return Err(error.into()),
                Err(ConnectionError::BadAnswer(bad)) => return Err(bad.into()),
            }
        }
    }
}

#[derive(Debug)]
struct KlapConnection(PlugStream);

enum ConnectionError {
    Exchange(ExchangeError),
    BadAnswer(BadKlapAnswer),
}

impl From<ExchangeError> for ConnectionError {
    fn from(error: ExchangeError) -> Self {
        Self::Exchange(error)
    }
}

impl KlapConnection {
    /// Whether it is open, and nothing came that nobody asked for.
    fn is_quiet(&self) -> bool {
        let received = self.0.tcp.try_read(&mut [0]);
        received.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::klap_hashes::KlapHashes;
    use crate::transport::lan::klap_crypto::KlapVersion;

    const MINUTE: Duration = Duration::from_secs(60);

    fn plug() -> KlapPlug {
        KlapPlug::new(&Address::new("192.0.2.1", 80).unwrap())
    }

    /// A session that was asked so many times.
    fn session(requests: u32) -> OpenSession {
        let accounts = KlapAccounts::of("user@example.com", &Secret::new("great_password".to_owned()), None);
        // A recorded handshake of the first version.
        let theirs = "101112131415161718191a1b1c1d1e1f7c10489c80f0713f4bc0275f2612e432b210f2b7c28b3b03bf95f48987ab0ce9";
        let answer: Vec<u8> = (0..theirs.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&theirs[at..at + 2], 16).unwrap())
            .collect();
        let ours = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let handshake = Handshake::accept(&ours, &answer, &accounts).unwrap();
        assert_eq!(handshake.version, KlapVersion::V1);
        let (id, renew_at) = (Some(Secret::new("A1B2".to_owned())), Instant::now() + MINUTE);
        OpenSession { keys: handshake.session, id, renew_at, requests, proven: None }
    }

    #[test]
    fn a_session_is_renewed_in_time() {
        let renewed = |seconds| renewal(Duration::from_secs(seconds)).as_secs();
        assert_eq!(renewed(86_400), 85_200);
        assert_eq!((renewed(2400), renewed(2402)), (1200, 1202));
        assert_eq!((renewed(1200), renewed(60), renewed(1), renewed(0)), (600, 30, 0, 0));
        let mut plug = plug();
        plug.session = Some(session(0));
        let now = Instant::now();
        assert!(plug.has_session(now) && !plug.has_session(now + MINUTE));
    }

    #[test]
    fn a_plug_that_refuses_sees_at_most_two_handshakes_a_minute() {
        let mut plug = plug();
        let now = Instant::now();
        for failure in [Failure::KlapBlocked, Failure::OtherAccount] {
            for handshakes in 1..=2 {
                plug.back_off(&failure, handshakes, now);
                let pause = MINUTE * handshakes / 2;
                assert_eq!(plug.paused(now + pause - Duration::from_millis(1)), Some(failure.clone()));
                assert_eq!(plug.paused(now + pause), None);
                assert_eq!(plug.paused(now), None, "it is over");
            }
        }
    }

    #[test]
    fn a_plug_whose_session_was_taken_is_left_alone_for_some_seconds_and_others_are_not() {
        let mut plug = plug();
        let now = Instant::now();
        plug.back_off(&Failure::SessionTaken, 2, now);
        let soon = now + TAKEN_PAUSE - Duration::from_millis(1);
        assert_eq!(plug.paused(soon), Some(Failure::SessionTaken));
        assert_eq!(plug.paused(now + TAKEN_PAUSE + Duration::from_millis(2551)), None);
        for failure in [Failure::Silent, Failure::Closed, Failure::Refused, Failure::Garbage("".into())] {
            plug.back_off(&failure, 2, now);
            assert_eq!(plug.paused(now), None, "{failure:?}");
        }
    }

    #[test]
    fn a_pause_and_a_session_are_of_one_address() {
        let mut plug = plug();
        let now = Instant::now();
        plug.session = Some(session(1));
        plug.back_off(&Failure::OtherAccount, 1, now);
        plug.prepare(&Address::new("192.0.2.1", 80).unwrap(), &Identity::default());
        assert!(plug.paused(now).is_some() && plug.session.is_some());
        plug.prepare(&Address::new("192.0.2.1", 81).unwrap(), &Identity::default());
        assert!(plug.paused(now).is_none() && plug.session.is_none());
    }

    #[test]
    fn a_firmware_that_takes_one_request_in_a_session_is_known_after_two_of_them() {
        let now = Instant::now();
        let mut plug = plug();
        let lose_second = |plug: &mut KlapPlug, is_readable| {
            plug.session = Some(session(1));
            plug.note_answer(is_readable);
            plug.session = Some(session(2));
            plug.note_answer(is_readable);
        };
        lose_second(&mut plug, false);
        assert!(plug.has_session(now));
        lose_second(&mut plug, true);
        lose_second(&mut plug, false);
        assert!(plug.has_session(now), "one second request was answered in between");
        lose_second(&mut plug, false);
        assert!(!plug.has_session(now));
        plug.session = Some(session(0));
        assert!(plug.has_session(now));
    }

    #[test]
    fn nothing_of_a_session_is_printed() {
        let mut plug = plug();
        plug.session = Some(session(1));
        let printed = format!("{plug:?} {:?}", KlapClient::new(Arc::default()));
        let hashes = KlapHashes::of("user@example.com", &Secret::new("great_password".to_owned()));
        assert!(!printed.contains("A1B2") && !printed.contains(&hashes.to_text()[..8]), "{printed}");
    }
}
