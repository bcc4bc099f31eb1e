//! The one task that owns the queue, and the gate through which everybody speaks to it.
//!
//! It makes the logins and refreshes that the [`AuthQueue`] gives out, one at a time for all plugs, and goes on
//! answering meanwhile. That there is one owner is what makes locks needless.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout_at};
use tracing::{debug, warn};

use crate::bridge::event::{CloudStatus, Event};
use crate::secret::Secret;
use crate::transport::cloud::api::{self, ApiError};
use crate::transport::cloud::auth_queue::{AuthQueue, AuthRequest, TokenRequest};
use crate::transport::cloud::host::TrustedHost;
use crate::transport::cloud::http::{HttpClient, HttpLimits};
use crate::transport::cloud::outage::About;
use crate::transport::cloud::session::{Denied, RefusedToken, SessionAccount, Settled, Token};
use crate::transport::cloud::{CloudError, TokenStore, Tokens};

/// For one login or refresh, connecting included.
const AUTH_TIME: Duration = Duration::from_secs(10);
/// An honest answer to a login has less than a kilobyte.
const AUTH_SIZE: usize = 64 * 1024;
/// Asks that may lie before the task before those that ask must wait.
const QUEUE: usize = 256;

/// Where calls ask to be let in, and say how they went. Cheap to clone; the task ends with the last one.
#[derive(Debug, Clone)]
pub(super) struct AuthHandle {
    asks: mpsc::Sender<AuthRequest>,
}

impl AuthHandle {
    /// Waits for the token to make a call with, and then until it may be made, an urgent one within its deadline.
    pub(super) async fn enter(&self, urgent: bool, deadline: Instant) -> Result<Arc<Token>, CloudError> {
        self.pass(None, urgent, deadline).await
    }

    /// Waits for another token than the one that the cloud refused.
    pub(super) async fn renew(
        &self,
        refused: RefusedToken,
        deadline: Instant,
    ) -> Result<Arc<Token>, CloudError> {
        self.pass(Some(refused), true, deadline).await
    }

    /// Says that a call was answered.
    pub(super) async fn answered(&self, pass: &Token, about: About) {
        // Without the task there is nobody left who would care.
        let _ = self.asks.send(AuthRequest::Answered { pass: pass.number, about }).await;
    }

    /// Says that a call met trouble, and learns what the caller should make of it.
    pub(super) async fn failed(&self, pass: &Token, about: About, trouble: ApiError) -> CloudError {
        let pass = pass.number;
        self.ask(|answer| AuthRequest::Failed { pass, about, trouble, answer })
            .await
            .unwrap_or_else(|gone| gone)
    }

    /// Logs in with the user's own password, whatever happened before.
    pub(super) async fn login(&self, password: Secret) -> Result<(), CloudError> {
        self.ask(|answer| AuthRequest::Login { password, answer }).await?
    }

    /// Forgets why the cloud was left alone.
    pub(super) async fn rearm(&self, tokens: Option<Tokens>) {
        // As above.
        let _ = self.asks.send(AuthRequest::Rearm(tokens)).await;
    }

    /// No token is got or saved from here on.
    pub(super) async fn retire(&self) {
        // As above.
        let _ = self.asks.send(AuthRequest::Retire).await;
    }

    async fn admit(&self, urgent: bool, deadline: Instant) -> Result<(), CloudError> {
        loop {
            match self.ask(|answer| AuthRequest::Admit { urgent, answer }).await? {
                Ok(()) => return Ok(()),
                Err(Denied::NotBefore(at)) if urgent && at < deadline => sleep_until(at.into()).await,
                Err(Denied::NotBefore(_)) => return Err(CloudError::Throttled),
                Err(Denied::Error(error)) => return Err(error),
            }
        }
    }

    async fn pass(
        &self,
        refused: Option<RefusedToken>,
        urgent: bool,
        deadline: Instant,
    ) -> Result<Arc<Token>, CloudError> {
        let answer = self.ask(|answer| AuthRequest::Pass { refused, answer });
        // Nothing was sent for this call yet, so that it cannot be carried out late.
        let pass = timeout_at(deadline.into(), answer)
            .await
            .unwrap_or_else(|_| Err(CloudError::Down("the login was not answered in time".into())))??;
        // Counted only now: calls that waited for one login together are not to go out all at once.
        self.admit(urgent, deadline).await?;
        Ok(pass)
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> AuthRequest) -> Result<T, CloudError> {
        let gone = || CloudError::Down("it was shut down".into());
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

/// How the cloud is, for whoever looks.
#[derive(Debug, Clone)]
pub(super) struct StatusWatch {
    /// As the daemon tells it.
    pub(super) status: watch::Receiver<CloudStatus>,
    /// What stands behind it.
    pub(super) trouble: watch::Receiver<Option<ApiError>>,
}

/// The task that owns the queue: its channel, and what it reaches out to.
pub(super) struct AuthTask {
    queue: AuthQueue,
    asks: mpsc::Receiver<AuthRequest>,
    http: HttpClient,
    host: TrustedHost,
    vault: Arc<dyn TokenStore>,
    status: watch::Sender<CloudStatus>,
    trouble: watch::Sender<Option<ApiError>>,
    events: mpsc::UnboundedSender<Event>,
}

impl AuthTask {
    /// A keeper and the gate that leads to it. Nothing happens until somebody asks.
    pub(super) fn new(
        account: SessionAccount,
        tokens: Option<Tokens>,
        http: HttpClient,
        vault: Arc<dyn TokenStore>,
        events: mpsc::UnboundedSender<Event>,
    ) -> (Self, AuthHandle, StatusWatch) {
        let (sender, asks) = mpsc::channel(QUEUE);
        let (mood, moods) = watch::channel(CloudStatus::Off);
        let (trouble, troubles) = watch::channel(None);
        let host = account.host.clone();
        let queue = AuthQueue::new(account, tokens);
        let keeper = Self { queue, asks, http, host, vault, status: mood, trouble, events };
        (keeper, AuthHandle { asks: sender }, StatusWatch { status: moods, trouble: troubles })
    }

    /// Serves until every gate is gone.
    pub(super) async fn run(mut self) {
        while let Some(ask) = self.asks.recv().await {
            let mut request = self.queue.take(ask, Instant::now());
            self.send_status();
            while let Some(next) = request.take() {
                let Some(done) = self.go(next).await else { return };
                request = done;
            }
        }
    }

    /// Runs one request while asks go on being served; those that need its result wait. Returns the request that
    /// comes next, or nothing at all when the last gate is gone.
    async fn go(&mut self, request: TokenRequest) -> Option<Option<TokenRequest>> {
        let limits = HttpLimits { deadline: Instant::now() + AUTH_TIME, size: AUTH_SIZE, resend: false };
        let (http, host) = (self.http.clone(), self.host.clone());
        let post = http.post(&host, request.json, limits);
        tokio::pin!(post);
        let page = loop {
            tokio::select! {
                page = &mut post => break page,
                // None leads to an request while this one is under way.
                ask = self.asks.recv() => drop(self.queue.take(ask?, Instant::now())),
            }
            self.send_status();
        };
        let granted = page.and_then(|page| api::read_granted(&page));
        match &granted {
            Ok(_) => debug!(kind = ?request.kind, "the account gave a token"),
            Err(trouble) => debug!(kind = ?request.kind, %trouble, "the account gave no token"),
        }
        let (settled, next) = self.queue.settle(granted, Instant::now());
        let result = match settled {
            Settled::Granted(tokens) => self.save(tokens).await,
            Settled::WayClosed(error) | Settled::Failed(error) => Err(error),
        };
        self.send_status();
        if let Some(answer) = request.answer {
            // As above: nobody may be left to hear it.
            let _ = answer.send(result);
        }
        Some(next)
    }

    /// A token that cannot be written down serves until the restart, so this is no reason to stop.
    async fn save(&self, tokens: Tokens) -> Result<(), CloudError> {
        let vault = Arc::clone(&self.vault);
        let saved = tokio::task::spawn_blocking(move || vault.save(&tokens)).await;
        let error = match saved {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the store gave up".to_owned(),
        };
        warn!("the account's token cannot be saved: {error}: until it is, each start logs in anew");
        Err(CloudError::NotSaved(error.into()))
    }

    fn send_status(&self) {
        // Before the answer that it belongs to.
        let trouble = self.queue.trouble();
        self.trouble.send_if_modified(|told| {
            let changed = told.as_ref() != trouble;
            if changed {
                *told = trouble.cloned();
            }
            changed
        });
        let mood = self.queue.status();
        self.status.send_if_modified(|told| {
            let changed = told != mood;
            if changed {
                told.clone_from(mood);
                // Without the loop there is nobody left to tell.
                let _ = self.events.send(Event::Cloud(mood.clone()));
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_counts_from_when_it_has_a_token_so_that_a_slow_login_saves_nothing_up() {
        let (asks, mut asked) = mpsc::channel(QUEUE);
        let gate = AuthHandle { asks };
        let deadline = Instant::now() + Duration::from_secs(60);
        let entering = tokio::spawn(async move { gate.enter(true, deadline).await });
        let pass = Arc::new(Token { number: 1, token: Secret::new("token".to_owned()) });
        match asked.recv().await {
            Some(AuthRequest::Pass { refused: None, answer }) => answer.send(Ok(Arc::clone(&pass))).unwrap(),
            _ => panic!("the token comes first"),
        }
        match asked.recv().await {
            Some(AuthRequest::Admit { urgent: true, answer }) => answer.send(Ok(())).unwrap(),
            _ => panic!("then it is counted"),
        }
        assert_eq!(entering.await.unwrap(), Ok(pass));
    }
}
