//! The one task that owns the session: it serves the callers that need a token, and makes the logins and refreshes.
//!
//! [`AuthHandle`] is what callers hold, [`AuthQueue`] decides without I/O, [`AuthTask`] runs its requests. One request runs
//! at a time for all plugs, and the task goes on serving meanwhile. There is one owner, so there are no locks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout_at};
use tracing::{debug, warn};

use crate::cloud::account::{TokenStore, Tokens};
use crate::cloud::account_host::AccountHost;
use crate::cloud::api::{self, Granted, TwoStep};
use crate::cloud::error::{ApiError, CloudError};
use crate::cloud::http::{HttpClient, HttpLimits};
use crate::cloud::outage::About;
use crate::cloud::request::{ApiRequest, TypedCode};
use crate::cloud::session::{
    Denied, GrantKind, RefusedToken, Session, SessionAccount, SessionStep, Settled, Token,
};
use hs100d_core::bridge::counters::{CloudMethod, CloudRequests, CodeClass};
use hs100d_core::bridge::event::{CloudStatus, Event};
use hs100d_core::secret::Secret;

/// For one login or refresh, with its connection.
const AUTH_TIME: Duration = Duration::from_secs(10);
/// The response to a login is smaller than a kilobyte.
const AUTH_SIZE: usize = 64 * 1024;
/// Requests to the task that may wait in its channel.
const QUEUE: usize = 256;

/// What calls use to be admitted and to report their results. Cheap to clone; the task ends with the last one.
#[derive(Debug, Clone)]
pub(super) struct AuthHandle {
    requests: mpsc::Sender<AuthRequest>,
}

impl AuthHandle {
    /// Waits for a token, then until the rate limit allows the call; an urgent call waits until its deadline.
    pub(super) async fn acquire(&self, urgent: bool, deadline: Instant) -> Result<Arc<Token>, CloudError> {
        self.token(None, urgent, deadline).await
    }

    /// The same after the cloud refused a token.
    pub(super) async fn renew(
        &self,
        refused: RefusedToken,
        deadline: Instant,
    ) -> Result<Arc<Token>, CloudError> {
        self.token(Some(refused), true, deadline).await
    }

    /// A call was answered.
    pub(super) async fn answered(&self, token: &Token, about: About) {
        // Fails only at the shutdown; so with the other two below.
        let _ = self.requests.send(AuthRequest::Answered { token: token.number, about }).await;
    }

    /// A call failed. Returns the error for the caller.
    pub(super) async fn failed(&self, token: &Token, about: About, error: ApiError) -> CloudError {
        let token = token.number;
        self.ask(|reply| AuthRequest::Failed { token, about, error, reply }).await.unwrap_or_else(|gone| gone)
    }

    /// Logs in with a password that the user has just typed.
    pub(super) async fn login(&self, password: Secret, code: Option<TypedCode>) -> Result<(), CloudError> {
        self.ask(|reply| AuthRequest::Login { password, code, reply }).await?
    }

    /// The user acted: a stopped cloud is used again.
    pub(super) async fn rearm(&self, tokens: Option<Tokens>) {
        let _ = self.requests.send(AuthRequest::Rearm(tokens)).await;
    }

    /// Requests and saves no token from here on.
    pub(super) async fn retire(&self) {
        let _ = self.requests.send(AuthRequest::Retire).await;
    }

    async fn token(
        &self,
        refused: Option<RefusedToken>,
        urgent: bool,
        deadline: Instant,
    ) -> Result<Arc<Token>, CloudError> {
        let token = self.ask(|reply| AuthRequest::Token { refused, reply });
        // `Down` and not `Silent`: nothing was sent, so the plug cannot act late.
        let token = timeout_at(deadline.into(), token)
            .await
            .unwrap_or_else(|_| Err(CloudError::Down("the login was not answered in time".into())))??;
        // Counted only now, so that calls that waited for the same login are not sent all at once.
        self.admit(urgent, deadline).await?;
        Ok(token)
    }

    async fn admit(&self, urgent: bool, deadline: Instant) -> Result<(), CloudError> {
        loop {
            match self.ask(|reply| AuthRequest::Admit { urgent, reply }).await? {
                Ok(()) => return Ok(()),
                Err(Denied::NotBefore(at)) if urgent && at < deadline => sleep_until(at.into()).await,
                Err(Denied::NotBefore(_)) => return Err(CloudError::Throttled),
                Err(Denied::Error(error)) => return Err(error),
            }
        }
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> AuthRequest) -> Result<T, CloudError> {
        let gone = || CloudError::Down("it was shut down".into());
        let (reply, replied) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        replied.await.map_err(|_| gone())
    }
}

/// A request to the task.
pub enum AuthRequest {
    /// May a call be made now?
    Admit {
        /// A command: may use the calls that polls leave.
        urgent: bool,
        /// Receives the answer.
        reply: oneshot::Sender<Result<(), Denied>>,
    },
    /// A token, other than the one that was refused.
    Token {
        /// The token that the cloud refused, if there was one.
        refused: Option<RefusedToken>,
        /// Receives the token.
        reply: oneshot::Sender<Result<Arc<Token>, CloudError>>,
    },
    /// A call was answered.
    Answered {
        /// [`Token::number`] of the call.
        token: u64,
        /// The plug of the call, or the list.
        about: About,
    },
    /// A call failed.
    Failed {
        /// [`Token::number`] of the call.
        token: u64,
        /// The plug of the call, or the list.
        about: About,
        /// What happened.
        error: ApiError,
        /// Receives the error for the caller.
        reply: oneshot::Sender<CloudError>,
    },
    /// The user logs in by hand.
    Login {
        /// What the user typed.
        password: Secret,
        /// The code that the first try asked for.
        code: Option<TypedCode>,
        /// Receives the result.
        reply: oneshot::Sender<Result<(), CloudError>>,
    },
    /// The user acted; these tokens are on disk.
    Rearm(Option<Tokens>),
    /// Another task serves the account from here on.
    Retire,
}

/// A login or refresh to run. There is no other one until [`AuthQueue::settle`].
pub struct TokenRequest {
    /// Which of the two.
    pub kind: GrantKind,
    /// What to send; holds secrets.
    pub request: ApiRequest,
    /// Receives the result of a login by hand.
    pub(crate) reply: Option<oneshot::Sender<Result<(), CloudError>>>,
}

/// The session, and the requests that wait for it. Decides only: no I/O, no clock.
pub struct AuthQueue {
    session: Session,
    /// The login or refresh that runs.
    running: Option<GrantKind>,
    /// Requests that need its result.
    waiting: VecDeque<AuthRequest>,
}

impl AuthQueue {
    /// A queue for this account, with its saved tokens.
    pub fn new(account: SessionAccount, tokens: Option<Tokens>) -> Self {
        Self { session: Session::new(account, tokens), running: None, waiting: VecDeque::new() }
    }

    /// Replies to a request, or returns the login or refresh that must run first. The request then waits for it, as do
    /// later ones that need its result.
    pub fn take(&mut self, request: AuthRequest, now: Instant) -> Option<TokenRequest> {
        match request {
            request @ (AuthRequest::Token { .. } | AuthRequest::Login { .. }) if self.running.is_some() => {
                self.waiting.push_back(request);
                None
            }
            request => self.handle(request, now),
        }
    }

    /// Takes the result of the login or refresh, and serves the requests that wait until one needs another.
    pub fn settle(
        &mut self,
        granted: Result<Granted, ApiError>,
        now: Instant,
    ) -> (Settled, Option<TokenRequest>) {
        // If none runs, which cannot be, a login changes the least.
        let kind = self.running.take().unwrap_or(GrantKind::Login);
        let settled = self.session.settle(kind, granted, now);
        let next = self.serve_waiting(&settled, now);
        (settled, next)
    }

    /// The cloud's status.
    pub fn status(&self) -> &CloudStatus {
        self.session.status()
    }

    /// The reason for a status that is not `Ok`, if a call failed.
    pub(crate) fn error(&self) -> Option<&ApiError> {
        self.session.error()
    }

    /// The e-mail address as TP-Link spells it, if a login told it.
    pub(crate) fn registered(&self) -> Option<&str> {
        self.session.registered()
    }

    /// How many requests wait for the login or refresh.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn handle(&mut self, request: AuthRequest, now: Instant) -> Option<TokenRequest> {
        match request {
            AuthRequest::Admit { urgent, reply } => {
                // Fails if the caller has gone; so with all replies here.
                let _ = reply.send(self.session.admit(urgent, now));
                None
            }
            AuthRequest::Token { reply, .. } if reply.is_closed() => None,
            AuthRequest::Token { refused, reply } => match self.session.token(refused.as_ref(), now) {
                SessionStep::Use(token) => {
                    let _ = reply.send(Ok(token));
                    None
                }
                SessionStep::Refuse(error) => {
                    let _ = reply.send(Err(error));
                    None
                }
                SessionStep::Run(kind) => {
                    self.waiting.push_back(AuthRequest::Token { refused, reply });
                    Some(self.run(kind, None))
                }
            },
            AuthRequest::Answered { token, about } => {
                self.session.answered(token, &about, now);
                None
            }
            AuthRequest::Failed { token, about, error, reply } => {
                let _ = reply.send(self.session.failed(token, &about, &error, now));
                None
            }
            AuthRequest::Login { password, code, reply } => {
                self.session.login_by_hand(password, code, now);
                Some(self.run(GrantKind::LoginByHand, Some(reply)))
            }
            AuthRequest::Rearm(tokens) => {
                self.session.rearm(tokens);
                None
            }
            AuthRequest::Retire => {
                self.session.retire();
                None
            }
        }
    }

    fn run(
        &mut self,
        kind: GrantKind,
        reply: Option<oneshot::Sender<Result<(), CloudError>>>,
    ) -> TokenRequest {
        self.running = Some(kind);
        TokenRequest { kind, request: self.session.request(kind), reply }
    }

    fn serve_waiting(&mut self, settled: &Settled, now: Instant) -> Option<TokenRequest> {
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Some(request) = waiting.pop_front() {
            let next = match (request, settled) {
                // Handled again, it would only run the same login again.
                (AuthRequest::Token { reply, .. }, Settled::Failed(error)) => {
                    let _ = reply.send(Err(error.clone()));
                    None
                }
                (request, _) => self.handle(request, now),
            };
            if next.is_some() {
                self.waiting.extend(waiting);
                return next;
            }
        }
        None
    }
}

/// The present status and its reason, and how TP-Link spells the account's e-mail address.
#[derive(Debug, Clone)]
pub(super) struct StatusWatch {
    pub(super) status: watch::Receiver<CloudStatus>,
    pub(super) error: watch::Receiver<Option<ApiError>>,
    pub(super) registered: watch::Receiver<Option<String>>,
    /// What the last login waits for, if it needs a code.
    pub(super) two_step: watch::Receiver<Option<TwoStep>>,
}

/// Runs the queue: receives requests, and posts logins and refreshes.
pub(super) struct AuthTask {
    queue: AuthQueue,
    requests: mpsc::Receiver<AuthRequest>,
    http: HttpClient,
    account: AccountHost,
    store: Arc<dyn TokenStore>,
    status: watch::Sender<CloudStatus>,
    error: watch::Sender<Option<ApiError>>,
    registered: watch::Sender<Option<String>>,
    two_step: watch::Sender<Option<TwoStep>>,
    events: mpsc::UnboundedSender<Event>,
    counts: CloudRequests,
}

impl AuthTask {
    /// The task and its handle. The network is not used before the first request.
    pub(super) fn new(
        account: SessionAccount,
        tokens: Option<Tokens>,
        http: HttpClient,
        account_host: AccountHost,
        store: Arc<dyn TokenStore>,
        events: mpsc::UnboundedSender<Event>,
    ) -> (Self, AuthHandle, StatusWatch) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let (status, watched_status) = watch::channel(CloudStatus::Off);
        let (error, watched_error) = watch::channel(None);
        let counts = account.memory.requests.clone();
        let queue = AuthQueue::new(account, tokens);
        let (registered, watched_registered) = watch::channel(queue.registered().map(str::to_owned));
        let (two_step, watched_two_step) = watch::channel(None);
        let task = Self {
            queue,
            requests,
            http,
            account: account_host,
            store,
            status,
            error,
            registered,
            two_step,
            events,
            counts,
        };
        let watched = StatusWatch {
            status: watched_status,
            error: watched_error,
            registered: watched_registered,
            two_step: watched_two_step,
        };
        (task, AuthHandle { requests: sender }, watched)
    }

    /// Serves until every handle is dropped.
    pub(super) async fn run(mut self) {
        while let Some(request) = self.requests.recv().await {
            let mut next = self.queue.take(request, Instant::now());
            self.send_status();
            while let Some(token_request) = next.take() {
                let Some(after) = self.run_request(token_request).await else { return };
                next = after;
            }
        }
    }

    /// Runs one login or refresh and serves requests meanwhile; those that need its result wait. Returns the next one to
    /// run; the outer `None` says that every handle is dropped.
    async fn run_request(&mut self, request: TokenRequest) -> Option<Option<TokenRequest>> {
        let limits = HttpLimits { deadline: Instant::now() + AUTH_TIME, size: AUTH_SIZE, resend: false };
        let (http, account) = (self.http.clone(), self.account.clone());
        let post = account.post(&http, request.request, limits);
        tokio::pin!(post);
        let response = loop {
            tokio::select! {
                response = &mut post => break response,
                // Returns `None` while one runs.
                other = self.requests.recv() => drop(self.queue.take(other?, Instant::now())),
            }
            self.send_status();
        };
        self.two_step.send_replace(response.as_ref().ok().and_then(api::read_two_step));
        let granted = response.and_then(|response| api::read_granted(&response));
        let method = match request.kind {
            GrantKind::Login | GrantKind::LoginByHand => CloudMethod::Login,
            GrantKind::Refresh => CloudMethod::RefreshToken,
        };
        self.counts.count(method, granted.as_ref().err().map_or(CodeClass::Ok, ApiError::class));
        match &granted {
            Ok(_) => debug!(kind = ?request.kind, "the account gave a token"),
            Err(error) => debug!(kind = ?request.kind, %error, "the account gave no token"),
        }
        let (settled, next) = self.queue.settle(granted, Instant::now());
        let result = match settled {
            Settled::Granted(tokens) => self.save(tokens).await,
            Settled::RefreshRefused(error) | Settled::Failed(error) => Err(error),
        };
        self.send_status();
        if let Some(reply) = request.reply {
            let _ = reply.send(result);
        }
        Some(next)
    }

    /// A token that cannot be saved still serves until the restart.
    async fn save(&self, tokens: Tokens) -> Result<(), CloudError> {
        let store = Arc::clone(&self.store);
        let saved = tokio::task::spawn_blocking(move || store.save(&tokens)).await;
        let error = match saved {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the store failed".to_owned(),
        };
        warn!("the account's token cannot be saved: {error}: until then, each start logs in again");
        Err(CloudError::NotSaved(error.into()))
    }

    fn send_status(&self) {
        // The reason first: who sees the status finds its reason.
        let error = self.queue.error();
        self.error.send_if_modified(|sent| {
            let changed = sent.as_ref() != error;
            if changed {
                *sent = error.cloned();
            }
            changed
        });
        let registered = self.queue.registered();
        self.registered.send_if_modified(|sent| {
            let changed = sent.as_deref() != registered;
            if changed {
                *sent = registered.map(str::to_owned);
            }
            changed
        });
        let status = self.queue.status();
        self.status.send_if_modified(|sent| {
            let changed = sent != status;
            if changed {
                sent.clone_from(status);
                // Fails only at the shutdown.
                let _ = self.events.send(Event::Cloud(status.clone()));
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::host::check_host;
    use crate::cloud::request::{AppIdentity, CloudApi};
    use crate::cloud::session::AccountMemory;

    fn queue() -> AuthQueue {
        let account = SessionAccount {
            username: "me@example.com".to_owned(),
            password: Some(Secret::new("pretend".to_owned())),
            terminal: uuid::Uuid::nil(),
            host: check_host("https://wap.tplinkcloud.com").unwrap(),
            api: Arc::new(CloudApi::new(AppIdentity::default(), "", None)),
            memory: AccountMemory::default(),
        };
        AuthQueue::new(account, None)
    }

    fn token_request() -> (AuthRequest, oneshot::Receiver<Result<Arc<Token>, CloudError>>) {
        let (reply, replied) = oneshot::channel();
        (AuthRequest::Token { refused: None, reply }, replied)
    }

    fn granted() -> Granted {
        Granted { token: Secret::new("token".to_owned()), refresh_token: None, email: None }
    }

    #[test]
    fn a_hundred_who_want_a_token_at_once_make_one_login() {
        let (mut queue, now) = (queue(), Instant::now());
        let mut waiting = Vec::new();
        let mut logins = 0;
        for _ in 0..100 {
            let (request, replied) = token_request();
            logins += usize::from(queue.take(request, now).is_some());
            waiting.push(replied);
        }
        assert_eq!((logins, queue.waiting()), (1, 100));
        let (settled, next) = queue.settle(Ok(granted()), now);
        assert!(matches!(settled, Settled::Granted(_)) && next.is_none());
        assert!(waiting.iter_mut().all(|replied| matches!(replied.try_recv(), Ok(Ok(_)))));
    }

    #[test]
    fn a_login_by_hand_waits_for_the_one_under_way_and_is_made_after_it() {
        let (mut queue, now) = (queue(), Instant::now());
        let (request, gone) = token_request();
        drop(gone);
        assert!(queue.take(request, now).is_none(), "no caller waits for it any more");
        let (request, mut replied) = token_request();
        assert!(queue.take(request, now).is_some());
        let (reply, _logged_in) = oneshot::channel();
        assert!(
            queue
                .take(AuthRequest::Login { password: Secret::new("new".to_owned()), code: None, reply }, now)
                .is_none()
        );
        let (_, next) = queue.settle(Err(ApiError::Code(-20601)), now);
        assert!(matches!(replied.try_recv(), Ok(Err(CloudError::Stopped(_)))));
        assert!(next.is_some_and(|request| request.reply.is_some()), "the user's own comes all the same");
        let (later, _kept) = token_request();
        assert!(queue.take(later, now + Duration::from_secs(1)).is_none(), "it waits again");
    }

    #[tokio::test]
    async fn a_call_counts_from_when_it_has_a_token_so_that_a_slow_login_saves_nothing_up() {
        let (requests, mut received) = mpsc::channel(QUEUE);
        let handle = AuthHandle { requests };
        let deadline = Instant::now() + Duration::from_secs(60);
        let acquiring = tokio::spawn(async move { handle.acquire(true, deadline).await });
        let token = Arc::new(Token { number: 1, token: Secret::new("token".to_owned()) });
        match received.recv().await {
            Some(AuthRequest::Token { refused: None, reply }) => reply.send(Ok(Arc::clone(&token))).unwrap(),
            _ => panic!("the token comes first"),
        }
        match received.recv().await {
            Some(AuthRequest::Admit { urgent: true, reply }) => reply.send(Ok(())).unwrap(),
            _ => panic!("then it is counted"),
        }
        assert_eq!(acquiring.await.unwrap(), Ok(token));
    }
}
