//! KLAP, of newer firmwares: a session and a connection for each plug, both kept, one request in flight, each in one write.
//!
//! Owns sessions and connections, and maps their errors to [`Failure`]s. A session outlives its connection: it is resumed on
//! the next one, without another handshake. Knows no routes; retries only where the plug cannot have acted, or was only
//! read: on a connection that was kept and is dead, and once with a new session. `klap_crypto` has the formulas, `klap_http`
//! the bytes around them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::lan::connection::{ExchangeParts, IdleConnections, SpareBuffers};
use crate::lan::fd_budget::FdBudget;
use crate::lan::klap_connection::{SessionError, post};
use crate::lan::klap_crypto::{BadHandshake, Handshake};
use crate::lan::klap_http::{self, KlapAnswer, KlapPath, SessionCookie};
use crate::lan::klap_plug::{KlapPlug, OpenSession, renewal};
use hs100d_core::bridge::event::{Exchange, Identity, Outcome, PlugKey};
use hs100d_core::klap_hashes::KlapAccounts;
use hs100d_core::model::{Address, Failure};
use hs100d_core::smarthome::message::{DeviceInfo, OutletIds, Reply, Request};

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

    /// Replaces the accounts that plugs may hold. If they differ, refusals are forgotten; sessions end if one is gone. A
    /// login adds the spelling that TP-Link has: plugs that let us in with another one go on.
    pub(super) fn set_accounts(&self, accounts: KlapAccounts) {
        let mut state = self.state();
        if state.accounts == accounts {
            return;
        }
        let keeps_sessions = accounts.include(&state.accounts);
        state.accounts = accounts;
        state.generation = state.generation.wrapping_add(1);
        state.plugs.retain(|plug| keeps_sessions && plug.session.is_some());
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
            let reading = self.ask(&Request::SysInfo).await?.into_sysinfo()?;
            if self.plug.takes_one_request(Instant::now()) {
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
        let SessionCookie { id, timeout } =
            SessionCookie::read(&buffer[..answer.body.start]).map_err(SessionError::unreadable)?;
        let accounts = self.client.state().accounts.clone();
        let handshake =
            Handshake::accept(&ours, &buffer[answer.body], &accounts).map_err(|bad| match bad {
                BadHandshake::Length(_) => SessionError::unreadable(bad),
                BadHandshake::NoMatch if accounts.own().next().is_none() => Failure::NoLanAccount.into(),
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
                self.plug.note_answer(false, Instant::now());
                self.plug.session = None;
                if request.changes_something() {
                    return Err(Failure::Garbage(why.clone()).into());
                }
            }
        }
        let reply = result?;
        self.plug.note_answer(true, Instant::now());
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
        let answer = post(connection, address, &client.budget, &mut buffer, write).await;
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
        post(&mut self.plug.connection, self.parts.address, &self.client.budget, buffer, write).await
    }
}
