//! The life of the token: how the account gets one, shares it, renews it and discards it, and when the cloud is not
//! used.
//!
//! Decisions only: no socket, no channel, no clock. Each call has `now` as an argument; `auth_task` runs the requests.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::cloud::account::Tokens;
use crate::cloud::api::Granted;
use crate::cloud::codes::{self, CodeRow, LoginBy, Reaction};
use crate::cloud::error::{ApiError, CloudError};
use crate::cloud::host::TrustedHost;
use crate::cloud::outage::{About, Outage};
use crate::cloud::rate_limit::{CallBudget, Cooldown, LoginQuota};
use crate::cloud::request::{ApiRequest, CloudApi, TypedCode};
use hs100d_core::backoff;
use hs100d_core::bridge::counters::CloudRequests;
use hs100d_core::bridge::event::CloudStatus;
use hs100d_core::cause::{self, Cause};
use hs100d_core::secret::{RefusedLogins, Secret, Source};

/// While TP-Link throttles us, shortest and longest: it lasts minutes to an hour.
const THROTTLED: (Duration, Duration) = (Duration::from_secs(2 * 60), Duration::from_secs(60 * 60));
/// After a login or refresh that failed and may succeed later.
const AUTH_FAILED: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10 * 60));
/// Why a session that was replaced gets no token.
const RETIRED: &str = "the config was read again";
/// Two clients that share an account can log each other out for ever. We take part once in this time.
const ELSEWHERE_GAP: Duration = Duration::from_secs(10 * 60);

/// One account, its token, and the reasons not to use it.
pub(crate) struct Session {
    account: SessionAccount,
    /// The token in use; `None` if there is none yet or it was refused.
    token: Option<Arc<Token>>,
    /// A call was answered with this token. If a token is refused before that, its age is not the reason, and a new one
    /// would be refused as well.
    has_served: bool,
    refresh_token: Option<Secret>,
    /// The e-mail address as TP-Link spells it, if a login told it.
    registered: Option<String>,
    /// Tokens issued so far.
    issued: u64,
    /// Why nothing is tried until the user acts.
    stopped: Option<Box<str>>,
    /// Between logins and refreshes after one failed.
    auth_cooldown: Cooldown,
    logins: LoginQuota,
    is_retired: bool,
    /// The password of a login by hand, until that is answered.
    manual_password: Option<Secret>,
    /// The code of that login, if it needs one.
    manual_code: Option<TypedCode>,
    outage: Outage,
    /// When another client last logged us out.
    logged_out_at: Option<Instant>,
    status: CloudStatus,
    /// The reason for a status that is not `Ok`.
    error: Option<ApiError>,
}

impl Session {
    /// A session of this account, with its saved tokens.
    pub(crate) fn new(account: SessionAccount, tokens: Option<Tokens>) -> Self {
        let seed = backoff::seed(account.terminal);
        let mut session = Self {
            account,
            token: None,
            has_served: false,
            refresh_token: None,
            registered: None,
            issued: 0,
            stopped: None,
            auth_cooldown: Cooldown::new(AUTH_FAILED.0, AUTH_FAILED.1, seed),
            logins: LoginQuota::default(),
            is_retired: false,
            manual_password: None,
            manual_code: None,
            outage: Outage::default(),
            logged_out_at: None,
            status: CloudStatus::Off,
            error: None,
        };
        session.load(tokens);
        session
    }

    /// Whether a call may be made now.
    pub(crate) fn admit(&mut self, urgent: bool, now: Instant) -> Result<(), Denied> {
        self.check_open(now).map_err(Denied::Error)?;
        self.account.memory.budget.take(urgent, now).map_err(Denied::NotBefore)
    }

    /// The token to use, or how to get one.
    pub(crate) fn token(&mut self, refused: Option<&RefusedToken>, now: Instant) -> SessionStep {
        if let Err(error) = self.check_open(now) {
            // This session has not made a call yet.
            if self.status == CloudStatus::Off {
                self.down("TP-Link holds our calls back, as before the reload; tried again within the hour");
            }
            return SessionStep::Refuse(error);
        }
        if let Some(refused) = refused {
            self.discard(refused.number, &refused.error, now);
        }
        match &self.token {
            Some(token) => SessionStep::Use(Arc::clone(token)),
            None => self.get_token(now),
        }
    }

    /// The request for a token.
    pub(crate) fn request(&self, kind: GrantKind) -> ApiRequest {
        let SessionAccount { api, username, .. } = &self.account;
        let login = |password| api.login(username, password);
        let request = match kind {
            GrantKind::Refresh => self.refresh_token.as_ref().map(|token| api.refresh(token)),
            GrantKind::Login => self.account.password.as_ref().map(login),
            GrantKind::LoginByHand => match &self.manual_code {
                Some(typed) => Some(api.login_with_code(username, typed)),
                None => self.manual_password.as_ref().map(login),
            },
        };
        // `get_token` returns only a kind whose secret exists.
        request.unwrap_or_default()
    }

    /// Takes the result of a login or refresh.
    pub(crate) fn settle(
        &mut self,
        kind: GrantKind,
        granted: Result<Granted, ApiError>,
        now: Instant,
    ) -> Settled {
        self.remember_login(kind, &granted);
        match granted {
            // The user may have logged out, or changed the account: save nothing.
            _ if self.is_retired => Settled::Failed(self.down(RETIRED)),
            Ok(granted) => Settled::Granted(self.accept(granted)),
            Err(error) if kind == GrantKind::Refresh && ends_the_refresh_token(&error) => {
                self.refresh_token = None;
                self.error = Some(error.clone());
                Settled::RefreshRefused(self.down(format!("the login could not be refreshed: {error}")))
            }
            Err(error) => Settled::Failed(self.auth_failed(kind, &error, now)),
        }
    }

    /// A call was answered, even if the answer is a plug's error.
    pub(crate) fn answered(&mut self, number: u64, about: &About, now: Instant) {
        self.outage.answered(about, now);
        if self.token.as_ref().is_some_and(|token| token.number == number) {
            self.has_served = true;
            self.auth_cooldown.succeed();
        }
        // The call may have been made before the cloud began to throttle us.
        if self.check_open(now).is_ok() {
            self.throttled().succeed();
            self.status = CloudStatus::Ok;
            self.error = None;
        }
    }

    /// A call failed, after its one repetition if the token was refused. Returns the error for the caller.
    pub(crate) fn failed(
        &mut self,
        number: u64,
        about: &About,
        error: &ApiError,
        now: Instant,
    ) -> CloudError {
        match (error.reaction(), error) {
            (Reaction::Plug(fault), _) => {
                self.answered(number, about, now);
                CloudError::Plug(fault)
            }
            (Reaction::Faulty, ApiError::Code(code)) => {
                self.answered(number, about, now);
                CloudError::Faulty(*code)
            }
            (Reaction::Retry, _) if self.outage.is_of_one(about, now) => CloudError::OnlyHere(error.clone()),
            (Reaction::Renew | Reaction::Login | Reaction::Elsewhere, _) => {
                self.discard(number, error, now);
                CloudError::Down(format!("the token is refused: {error}").into())
            }
            _ => self.cloud_failed(error, now),
        }
    }

    /// The user logs in by hand, past every limit, perhaps with a code. [`GrantKind::LoginByHand`] must follow.
    pub(crate) fn login_by_hand(&mut self, password: Secret, code: Option<TypedCode>, now: Instant) {
        self.rearm(None);
        self.logins.spend(now);
        self.manual_password = Some(password);
        self.manual_code = code;
    }

    /// The user acted: everything may be tried again, with these tokens if there are any. A token in use is kept: the one
    /// on disk may be older.
    pub(crate) fn rearm(&mut self, tokens: Option<Tokens>) {
        let in_use = self.token.is_some() && self.stopped.is_none();
        if self.stopped.take().is_some() {
            self.status = CloudStatus::Down(CloudStatus::NOT_ASKED.into());
        }
        self.auth_cooldown.succeed();
        self.logins.forgive();
        self.logged_out_at = None;
        if !in_use {
            self.load(tokens);
        }
    }

    /// Another session serves the account from here on, perhaps with another password or after a logout. If a login that
    /// is under way is refused, that is still remembered.
    pub(crate) fn retire(&mut self) {
        self.is_retired = true;
    }

    /// The cloud's status.
    pub(crate) fn status(&self) -> &CloudStatus {
        &self.status
    }

    /// The reason for a status that is not `Ok`, if a call failed.
    pub(crate) fn error(&self) -> Option<&ApiError> {
        self.error.as_ref()
    }

    /// The e-mail address as TP-Link spells it, if a login told it.
    pub(crate) fn registered(&self) -> Option<&str> {
        self.registered.as_deref()
    }

    /// Ignores the tokens of another account.
    fn load(&mut self, tokens: Option<Tokens>) {
        let Some(tokens) = tokens.filter(|tokens| tokens.username == self.account.username) else { return };
        self.refresh_token = tokens.refresh_token;
        self.registered = tokens.registered.or(self.registered.take());
        self.issue(tokens.token);
        // It served before the restart, so if it is refused, it may simply be too old.
        self.has_served = true;
    }

    fn issue(&mut self, token: Secret) {
        self.issued += 1;
        self.has_served = false;
        self.token = Some(Arc::new(Token { number: self.issued, token }));
    }

    /// The cooldown while TP-Link throttles us. No reload ends it.
    fn throttled(&self) -> MutexGuard<'_, Cooldown> {
        let SessionAccount { terminal, memory, .. } = &self.account;
        let cooldown = memory
            .throttled
            .get_or_init(|| Mutex::new(Cooldown::new(THROTTLED.0, THROTTLED.1, backoff::seed(terminal))));
        cooldown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self, now: Instant) -> Result<(), CloudError> {
        match (&self.stopped, self.throttled().until(now)) {
            (Some(why), _) => Err(CloudError::Stopped(why.clone())),
            (None, Some(_)) => Err(CloudError::Throttled),
            (None, None) => Ok(()),
        }
    }

    /// The token of this number was refused. A newer one is kept.
    fn discard(&mut self, number: u64, error: &ApiError, now: Instant) {
        if self.token.as_ref().is_none_or(|token| token.number != number) {
            return;
        }
        self.token = None;
        self.error = Some(error.clone());
        match error.reaction() {
            Reaction::Login => self.refresh_token = None,
            Reaction::Elsewhere => {
                let is_rare = self.logged_out_at.is_none_or(|last| now >= last + ELSEWHERE_GAP);
                if is_rare { self.logged_out_at = Some(now) } else { self.auth_cooldown.fail_long(now) }
            }
            _ => {}
        }
        if !self.has_served {
            self.auth_cooldown.fail(now);
        }
        if self.auth_cooldown.until(now).is_some() {
            self.down(format!("the token is refused: {error}"));
        }
    }

    /// How to get a token: with the refresh token, else with the password.
    fn get_token(&mut self, now: Instant) -> SessionStep {
        if self.auth_cooldown.until(now).is_some() {
            return SessionStep::Refuse(self.current_error());
        }
        if self.is_retired {
            return SessionStep::Refuse(self.down(RETIRED));
        }
        if self.refresh_token.is_some() {
            return SessionStep::Run(GrantKind::Refresh);
        }
        if self.account.password.is_none() {
            let remedy = cause::LOGIN_MISSING.remedy;
            return SessionStep::Refuse(
                self.stop(format!("there is neither a password nor a valid login: {remedy} and reload")),
            );
        }
        if self.was_refused() {
            let remedy = codes::remedy(&cause::PASSWORD_REFUSED, self.login_by(GrantKind::Login));
            return SessionStep::Refuse(self.stop(format!(
                "TP-Link has refused this e-mail address and password; they are not sent again before a restart: {remedy}"
            )));
        }
        if self.logins.not_before(now).is_some() {
            self.down("no login for now: hs100d makes at most two in ten minutes and six a day");
            return SessionStep::Refuse(CloudError::Throttled);
        }
        self.logins.spend(now);
        SessionStep::Run(GrantKind::Login)
    }

    /// Remembers a password that was refused, until it is accepted.
    fn remember_login(&mut self, kind: GrantKind, granted: &Result<Granted, ApiError>) {
        let manual_password = self.manual_password.take();
        self.manual_code = None;
        let password = match kind {
            GrantKind::Refresh => return,
            GrantKind::Login => self.account.password.as_ref(),
            GrantKind::LoginByHand => manual_password.as_ref(),
        };
        let SessionAccount { username, memory: AccountMemory { refused, .. }, .. } = &self.account;
        let server = self.account.server();
        match (password, granted) {
            (Some(password), Ok(_)) => refused.remove(&server, username, password),
            (Some(password), Err(error)) if error.reaction().refuses_login() => {
                refused.add(&server, username, password);
            }
            _ => {}
        }
    }

    /// Whether the password was refused, by this session or by one before a reload.
    fn was_refused(&self) -> bool {
        let SessionAccount { username, memory: AccountMemory { refused, .. }, password, .. } = &self.account;
        let server = self.account.server();
        password.as_ref().is_some_and(|password| refused.contains(&server, username, password))
    }

    fn login_by(&self, kind: GrantKind) -> LoginBy {
        let source = || self.account.password.as_ref().map_or(Source::Config, Secret::source);
        if kind == GrantKind::LoginByHand { LoginBy::Hand } else { LoginBy::Config(source()) }
    }

    fn accept(&mut self, granted: Granted) -> Tokens {
        // Without a new refresh token, the old one stays valid.
        self.refresh_token = granted.refresh_token.or(self.refresh_token.take());
        self.registered = granted.email.or(self.registered.take());
        self.error = None;
        self.issue(granted.token.clone());
        Tokens {
            username: self.account.username.clone(),
            registered: self.registered.clone(),
            token: granted.token,
            refresh_token: self.refresh_token.clone(),
        }
    }

    fn auth_failed(&mut self, kind: GrantKind, error: &ApiError, now: Instant) -> CloudError {
        self.error = Some(error.clone());
        match error.reaction() {
            Reaction::Elsewhere => self.stop_for(error, &cause::LOGGED_IN_ELSEWHERE, kind),
            Reaction::Stop(cause) => self.stop_for(error, cause, kind),
            Reaction::HoldBack | Reaction::HoldBackLong => self.cloud_failed(error, now),
            _ => {
                if kind != GrantKind::Refresh && !reached_the_account(error) {
                    self.logins.give_back();
                }
                // Without a connection the account saw nothing, and the next call may try again at once.
                if !matches!(error, ApiError::Unreachable(_)) {
                    self.auth_cooldown.fail(now);
                }
                self.cloud_failed(error, now)
            }
        }
    }

    /// The error is not about one plug: sets the cloud's status.
    fn cloud_failed(&mut self, error: &ApiError, now: Instant) -> CloudError {
        self.error = Some(error.clone());
        match error.reaction() {
            Reaction::Stop(cause) => self.stop_for(error, cause, GrantKind::Login),
            Reaction::HoldBack => {
                self.throttled().fail(now);
                self.throttle(error, "within the hour")
            }
            Reaction::HoldBackLong => {
                self.throttled().fail_long(now);
                self.throttle(error, "in about an hour")
            }
            Reaction::Retry | Reaction::Faulty | Reaction::Plug(_) => self.down(error.to_string()),
            Reaction::Renew | Reaction::Login | Reaction::Elsewhere => self.down(error.to_string()),
        }
    }

    fn stop_for(&mut self, error: &ApiError, cause: &Cause, kind: GrantKind) -> CloudError {
        let remedy = codes::remedy(cause, self.login_by(kind));
        self.stop(format!("{error}: {remedy}"))
    }

    fn stop(&mut self, why: String) -> CloudError {
        let why: Box<str> = why.into();
        self.stopped = Some(why.clone());
        self.status = CloudStatus::Stopped(why.clone());
        CloudError::Stopped(why)
    }

    fn throttle(&mut self, error: &ApiError, until: &str) -> CloudError {
        self.down(format!("TP-Link holds our calls back: {error}; tried again {until}"));
        CloudError::Throttled
    }

    /// Does not replace `Stopped`: the call may have been made before.
    fn down(&mut self, why: impl Into<Box<str>>) -> CloudError {
        let why = why.into();
        if self.stopped.is_none() {
            self.status = CloudStatus::Down(why.clone());
        }
        CloudError::Down(why)
    }

    fn current_error(&self) -> CloudError {
        match &self.status {
            CloudStatus::Down(why) => CloudError::Down(why.clone()),
            CloudStatus::Stopped(why) => CloudError::Stopped(why.clone()),
            CloudStatus::Ok | CloudStatus::Off => CloudError::Throttled,
        }
    }
}

/// A token in use. Its number identifies it: a new login may return the same text.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    /// Counts up with each token issued.
    pub number: u64,
    /// Part of every call.
    pub token: Secret,
}

/// A token that the cloud refused.
#[derive(Debug, Clone)]
pub struct RefusedToken {
    /// Its [`Token::number`].
    pub number: u64,
    /// How the cloud refused it.
    pub error: ApiError,
}

/// Why a call may not be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// The bucket is empty until this time.
    NotBefore(Instant),
    /// The cloud is not used at the moment.
    Error(CloudError),
}

/// The account of a session.
pub struct SessionAccount {
    /// The e-mail address.
    pub username: String,
    /// The password in the config, if there is one.
    pub password: Option<Secret>,
    /// Identifies this installation to the cloud.
    pub terminal: uuid::Uuid,
    /// Where to log in.
    pub host: TrustedHost,
    /// Makes its requests.
    pub api: Arc<CloudApi>,
    /// What earlier sessions learned.
    pub memory: AccountMemory,
}

impl SessionAccount {
    /// Where [`AccountMemory::refused`] says that a login was refused: with another app it may be accepted there.
    pub fn server(&self) -> String {
        format!("{} for {}", self.host, self.api.app_type())
    }
}

/// What a reload keeps when it starts a new session of the account. Cheap to clone; all clones share it.
#[derive(Debug, Clone, Default)]
pub struct AccountMemory {
    /// Logins that were refused and are not sent again.
    pub refused: RefusedLogins,
    /// Counts the requests.
    pub requests: CloudRequests,
    /// The calls left in the bucket.
    pub(crate) budget: CallBudget,
    /// Runs while TP-Link throttles us; made by the first session.
    throttled: Arc<OnceLock<Mutex<Cooldown>>>,
}

/// How a token is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantKind {
    /// With the password of the config.
    Login,
    /// With a password that the user has just typed.
    LoginByHand,
    /// With the refresh token.
    Refresh,
}

/// What to do for a caller that needs a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SessionStep {
    /// Use this one.
    Use(Arc<Token>),
    /// Request one, then call again.
    Run(GrantKind),
    /// There is none.
    Refuse(CloudError),
}

/// The result of a login or refresh.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled {
    /// A new token, with the tokens to save.
    Granted(Tokens),
    /// The refresh token is no good; a login may be.
    RefreshRefused(CloudError),
    /// No token for any caller that waits.
    Failed(CloudError),
}

/// Whether a refresh that failed so will always fail. A code that is not in the table counts as one, so that it cannot
/// lock us out while there is a password.
fn ends_the_refresh_token(error: &ApiError) -> bool {
    match error.reaction() {
        Reaction::Renew | Reaction::Login | Reaction::Faulty | Reaction::Plug(_) => true,
        Reaction::Retry => matches!(error, ApiError::Code(code) if CodeRow::of(*code).is_none()),
        Reaction::Elsewhere | Reaction::Stop(_) | Reaction::HoldBack | Reaction::HoldBackLong => false,
    }
}

/// Whether the account may have seen the login. An outage or a proxy's page must not use up the day's logins.
fn reached_the_account(error: &ApiError) -> bool {
    !matches!(
        error,
        ApiError::Unreachable(_)
            | ApiError::Http(_)
            | ApiError::NotJson
            | ApiError::NotAnAnswer(_)
            | ApiError::TooLarge
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::codes::{PlugFault, reaction};
    use crate::cloud::host::check_host;
    use crate::cloud::request::AppIdentity;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn session(password: Option<&str>, tokens: Option<Tokens>) -> Session {
        let account = SessionAccount {
            username: "me@example.com".to_owned(),
            password: password.map(secret),
            terminal: uuid::Uuid::from_u128(7),
            host: check_host("https://wap.tplinkcloud.com").unwrap(),
            api: Arc::new(CloudApi::new(AppIdentity::default(), "", None)),
            memory: AccountMemory::default(),
        };
        Session::new(account, tokens)
    }

    fn saved(username: &str, refresh: Option<&str>) -> Option<Tokens> {
        let refresh_token = refresh.map(secret);
        Some(Tokens {
            username: username.to_owned(),
            registered: None,
            token: secret("saved"),
            refresh_token,
        })
    }

    fn granted(token: &str, refresh: Option<&str>) -> Result<Granted, ApiError> {
        Ok(Granted { token: secret(token), refresh_token: refresh.map(secret), email: None })
    }

    fn tokens(settled: Settled) -> Tokens {
        match settled {
            Settled::Granted(tokens) => tokens,
            other => panic!("{other:?}"),
        }
    }

    fn failure(settled: Settled) -> CloudError {
        match settled {
            Settled::Failed(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn used(step: SessionStep) -> (u64, String) {
        match step {
            SessionStep::Use(token) => (token.number, token.token.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    fn refused(number: u64, code: i64) -> RefusedToken {
        RefusedToken { number, error: ApiError::Code(code) }
    }

    /// A session with a token that has served, and what refreshes it.
    fn proven(password: Option<&str>) -> Session {
        session(password, saved("me@example.com", Some("refresh")))
    }

    #[test]
    fn the_first_call_logs_in_once_and_what_comes_of_it_is_saved() {
        let now = Instant::now();
        let mut session = session(Some("pw"), None);
        assert_eq!(session.token(None, now), SessionStep::Run(GrantKind::Login));
        let tokens = tokens(session.settle(GrantKind::Login, granted("t1", Some("r1")), now));
        assert_eq!((tokens.token.expose(), tokens.username.as_str()), ("t1", "me@example.com"));
        assert_eq!(tokens.refresh_token, Some(secret("r1")));
        assert_eq!(used(session.token(None, now)), (1, "t1".to_owned()));
    }

    #[test]
    fn the_registered_address_is_kept_over_refreshes_and_restarts() {
        let now = Instant::now();
        let mut first = session(Some("pw"), None);
        first.token(None, now);
        let login =
            granted("t1", Some("r1")).map(|it| Granted { email: Some("Me@Example.com".to_owned()), ..it });
        let saved = tokens(first.settle(GrantKind::Login, login, now));
        assert_eq!(saved.registered.as_deref(), Some("Me@Example.com"));

        let mut next = session(None, Some(saved));
        assert_eq!(next.registered(), Some("Me@Example.com"));
        next.token(Some(&refused(1, -20651)), now);
        let saved = tokens(next.settle(GrantKind::Refresh, granted("t2", None), now));
        assert_eq!(saved.registered.as_deref(), Some("Me@Example.com"));
        let others = Tokens { username: "you@example.com".to_owned(), ..saved };
        assert_eq!(session(None, Some(others)).registered(), None);
    }

    #[test]
    fn a_saved_token_needs_no_login_and_one_of_another_account_is_none() {
        let now = Instant::now();
        let mut own = session(Some("pw"), saved("me@example.com", None));
        assert_eq!(used(own.token(None, now)), (1, "saved".to_owned()));
        let mut others = session(Some("pw"), saved("you@example.com", Some("r")));
        assert_eq!(others.token(None, now), SessionStep::Run(GrantKind::Login));
    }

    #[test]
    fn a_refused_token_is_refreshed_once_for_all_who_held_it() {
        let now = Instant::now();
        let mut session = proven(Some("pw"));
        assert_eq!(session.token(Some(&refused(1, -20651)), now), SessionStep::Run(GrantKind::Refresh));
        let tokens = tokens(session.settle(GrantKind::Refresh, granted("t2", None), now));
        assert_eq!(tokens.refresh_token, Some(secret("refresh")), "the old one stays in force");
        for _ in 0..3 {
            assert_eq!(used(session.token(Some(&refused(1, -20651)), now)), (2, "t2".to_owned()));
        }
    }

    #[test]
    fn a_refused_refresh_leads_to_one_login() {
        let now = Instant::now();
        for code in [-20655, -20656, -20651, -20104, -20103, -77777] {
            let mut session = proven(Some("pw"));
            assert_eq!(session.token(Some(&refused(1, -20651)), now), SessionStep::Run(GrantKind::Refresh));
            let settled = session.settle(GrantKind::Refresh, Err(ApiError::Code(code)), now);
            assert!(matches!(settled, Settled::RefreshRefused(_)), "{settled:?}");
            assert_eq!(session.token(None, now), SessionStep::Run(GrantKind::Login), "{code}");
            tokens(session.settle(GrantKind::Login, granted("t2", None), now));
            assert_eq!(used(session.token(None, now)).1, "t2");
        }
    }

    #[test]
    fn a_call_that_says_the_refresh_token_is_dead_goes_straight_to_the_login() {
        let mut session = proven(Some("pw"));
        assert_eq!(
            session.token(Some(&refused(1, -20655)), Instant::now()),
            SessionStep::Run(GrantKind::Login)
        );
    }

    #[test]
    fn a_refresh_that_fails_in_passing_keeps_the_refresh_token_and_rests() {
        let now = Instant::now();
        for error in [
            ApiError::TimedOut,
            ApiError::Broken,
            ApiError::Http(502),
            ApiError::Code(-20000),
            ApiError::NotAnAnswer("".into()),
        ] {
            let mut session = proven(Some("pw"));
            session.token(Some(&refused(1, -20651)), now);
            failure(session.settle(GrantKind::Refresh, Err(error.clone()), now));
            assert!(
                matches!(session.token(None, now + SECOND), SessionStep::Refuse(CloudError::Down(_))),
                "{error}"
            );
            assert_eq!(session.token(None, now + MINUTE), SessionStep::Run(GrantKind::Refresh), "{error}");
        }
    }

    #[test]
    fn a_host_that_is_not_there_is_tried_again_at_the_next_call() {
        let now = Instant::now();
        let mut session = session(Some("pw"), None);
        for _ in 0..20 {
            assert_eq!(session.token(None, now), SessionStep::Run(GrantKind::Login));
            let settled = session.settle(GrantKind::Login, Err(ApiError::Unreachable("refused".into())), now);
            assert!(matches!(failure(settled), CloudError::Down(_)));
        }
        assert!(matches!(session.status(), CloudStatus::Down(_)));
    }

    #[test]
    fn nothing_is_tried_twice_after_a_wrong_password_a_lock_or_two_step_verification() {
        for code in [-20661, -20662, -23003, -20677, -20602, -20675, -20001, -23001, -20601, -20600, -20202] {
            let now = Instant::now();
            let mut session = session(Some("pw"), None);
            assert_eq!(session.token(None, now), SessionStep::Run(GrantKind::Login));
            let error = failure(session.settle(GrantKind::Login, Err(ApiError::Code(code)), now));
            let CloudError::Stopped(why) = &error else { panic!("{code}: {error:?}") };
            assert!(why.contains("reload"), "{code}: no remedy in {why:?}");
            assert_eq!(session.status(), &CloudStatus::Stopped(why.clone()));
            for later in [now, now + HOUR, now + 100 * HOUR] {
                assert_eq!(session.admit(true, later), Err(Denied::Error(error.clone())), "{code}");
                assert_eq!(session.token(None, later), SessionStep::Refuse(error.clone()), "{code}");
            }
            session.rearm(None);
            assert!(matches!(session.status(), CloudStatus::Down(_)));
            assert_eq!(session.admit(true, now), Ok(()));
            let is_of_the_password = reaction(code).refuses_login();
            match session.token(None, now) {
                SessionStep::Refuse(CloudError::Stopped(why)) if is_of_the_password => {
                    assert!(why.contains("not sent again") && why.contains("reload"), "{code}: {why}");
                }
                step => assert!(
                    step == SessionStep::Run(GrantKind::Login) && !is_of_the_password,
                    "{code}: {step:?}"
                ),
            }
        }
    }

    #[test]
    fn a_refused_password_goes_out_once_over_all_sessions_of_the_process_until_it_was_accepted() {
        let now = Instant::now();
        let refused = RefusedLogins::default();
        let session = |password: &str| {
            let mut session = session(Some(password), None);
            session.account.memory.refused = refused.clone();
            session
        };
        let mut first = session("wrong");
        assert_eq!(first.token(None, now), SessionStep::Run(GrantKind::Login));
        failure(first.settle(GrantKind::Login, Err(ApiError::Code(-20601)), now));
        let mut corrected = session("right");
        assert_eq!(corrected.token(None, now), SessionStep::Run(GrantKind::Login));
        tokens(corrected.settle(GrantKind::Login, granted("t1", None), now));
        for _ in 0..10 {
            let mut again = session("wrong");
            assert!(matches!(again.token(None, now), SessionStep::Refuse(CloudError::Stopped(_))));
            assert!(matches!(again.status(), CloudStatus::Stopped(_)), "and the status says so");
        }
        let mut by_hand = session("wrong");
        by_hand.login_by_hand(secret("wrong"), None, now);
        tokens(by_hand.settle(GrantKind::LoginByHand, granted("t2", None), now));
        assert_eq!(
            session("wrong").token(None, now),
            SessionStep::Run(GrantKind::Login),
            "it is right by now"
        );
    }

    #[test]
    fn a_session_that_takes_the_place_of_another_goes_on_with_its_budget() {
        let start = Instant::now();
        let mut before = session(Some("hunter2"), None);
        while before.admit(true, start).is_ok() {}
        let mut after = session(Some("hunter3"), None);
        assert!(after.admit(true, start).is_ok(), "another account has a budget of its own");
        after.account.memory = before.account.memory.clone();
        assert!(matches!(after.admit(true, start), Err(Denied::NotBefore(at)) if at > start));
    }

    #[test]
    fn a_hold_of_tp_links_outlasts_a_reload_that_sets_the_account_up_anew() {
        let start = Instant::now();
        let mut before = proven(Some("hunter2"));
        assert_eq!(before.failed(1, &None, &ApiError::Code(-20004), start), CloudError::Throttled);
        let anew = || {
            let mut after = session(Some("hunter3"), None);
            after.account.memory = before.account.memory.clone();
            after
        };
        let mut after = anew();
        let soon = start + MINUTE;
        assert_eq!(after.token(None, soon), SessionStep::Refuse(CloudError::Throttled));
        assert!(matches!(after.admit(true, soon), Err(Denied::Error(CloudError::Throttled))));
        assert!(matches!(after.status(), CloudStatus::Down(why) if why.contains("holds our calls back")));
        assert_eq!(after.token(None, start + HOUR), SessionStep::Run(GrantKind::Login), "it ends by itself");
        failure(after.settle(GrantKind::Login, Err(ApiError::Code(-20004)), start + HOUR));
        assert!(
            anew().token(None, start + HOUR + 3 * MINUTE) == SessionStep::Refuse(CloudError::Throttled),
            "it grows"
        );
    }

    #[test]
    fn a_login_that_is_refused_after_its_sessions_place_was_taken_is_not_sent_again_either() {
        let now = Instant::now();
        let mut before = session(Some("wrong"), None);
        assert_eq!(before.token(None, now), SessionStep::Run(GrantKind::Login));
        before.retire();
        let mut after = session(Some("wrong"), None);
        after.account.memory = before.account.memory.clone();
        failure(before.settle(GrantKind::Login, Err(ApiError::Code(-20601)), now));
        assert!(matches!(after.token(None, now), SessionStep::Refuse(CloudError::Stopped(_))));
    }

    #[test]
    fn a_session_whose_place_was_taken_neither_logs_in_nor_saves_what_was_under_way() {
        let now = Instant::now();
        let mut session = proven(Some("pw"));
        assert_eq!(session.token(Some(&refused(1, -20651)), now), SessionStep::Run(GrantKind::Refresh));
        session.retire();
        failure(session.settle(GrantKind::Refresh, granted("t2", Some("r2")), now));
        assert!(matches!(session.token(None, now), SessionStep::Refuse(CloudError::Down(_))));
    }

    #[test]
    fn a_refused_credential_names_the_restart_that_a_corrected_one_needs() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cloud.password"), "wrong\n").unwrap();
        let now = Instant::now();
        let mut session = session(None, None);
        session.account.password = Secret::from_credential(directory.path(), "cloud.password").unwrap();
        for _ in 0..2 {
            let why = match session.token(None, now) {
                SessionStep::Run(kind) => failure(session.settle(kind, Err(ApiError::Code(-20601)), now)),
                SessionStep::Refuse(error) => error,
                step => panic!("{step:?}"),
            };
            assert!(
                why.to_string().contains("restart hs100d if you changed the credential cloud.password"),
                "{why}"
            );
            session.rearm(None);
        }
    }

    #[test]
    fn a_stop_outlasts_the_answers_to_calls_that_were_made_before_it() {
        let now = Instant::now();
        let mut session = proven(Some("pw"));
        let stopped = session.failed(1, &None, &ApiError::Code(-20661), now);
        assert!(matches!(stopped, CloudError::Stopped(_)));
        session.answered(1, &None, now);
        session.failed(1, &None, &ApiError::Http(502), now);
        assert!(matches!(session.status(), CloudStatus::Stopped(_)));
        assert_eq!(session.admit(true, now), Err(Denied::Error(stopped)));
    }

    #[test]
    fn without_password_and_without_a_good_token_it_stops_and_says_what_to_do() {
        let now = Instant::now();
        let mut session = proven(None);
        assert_eq!(session.token(Some(&refused(1, -20651)), now), SessionStep::Run(GrantKind::Refresh));
        session.settle(GrantKind::Refresh, Err(ApiError::Code(-20655)), now);
        let SessionStep::Refuse(CloudError::Stopped(why)) = session.token(None, now) else { panic!() };
        assert!(why.contains("hs100d cloud login"), "{why}");
        session.rearm(saved("me@example.com", None));
        assert_eq!(used(session.token(None, now)).1, "saved");
    }

    #[test]
    fn a_reload_does_not_put_an_older_token_from_the_disk_in_the_place_of_one_that_serves() {
        let now = Instant::now();
        let mut session = session(Some("pw"), None);
        session.token(None, now);
        tokens(session.settle(GrantKind::Login, granted("fresh", None), now));
        session.rearm(saved("me@example.com", None));
        assert_eq!(used(session.token(None, now)).1, "fresh");
    }

    #[test]
    fn a_throttled_account_is_left_alone_for_long_and_never_logged_in_for_it() {
        for error in
            [ApiError::Code(-20004), ApiError::Code(-10200), ApiError::Code(-20003), ApiError::Http(429)]
        {
            let now = Instant::now();
            let mut session = session(Some("pw"), None);
            session.token(None, now);
            assert_eq!(
                failure(session.settle(GrantKind::Login, Err(error.clone()), now)),
                CloudError::Throttled
            );
            assert!(matches!(session.status(), CloudStatus::Down(_)));
            let held = Err(Denied::Error(CloudError::Throttled));
            assert_eq!(session.admit(true, now + 2 * MINUTE - SECOND), held, "{error}");
            assert_eq!(
                session.token(Some(&refused(0, -20651)), now + MINUTE),
                SessionStep::Refuse(CloudError::Throttled)
            );
            assert_eq!(session.admit(true, now + 3 * MINUTE), Ok(()));
        }
    }

    #[test]
    fn a_black_list_is_waited_out_for_an_hour_at_least() {
        let now = Instant::now();
        let mut session = proven(Some("pw"));
        assert_eq!(session.failed(1, &None, &ApiError::Blacklisted, now), CloudError::Throttled);
        assert!(session.admit(true, now + HOUR - SECOND).is_err());
        assert!(session.admit(true, now + 2 * HOUR).is_ok());
    }

    #[test]
    fn a_late_answer_does_not_end_a_hold() {
        let now = Instant::now();
        let mut session = proven(None);
        session.failed(1, &None, &ApiError::Code(-20004), now);
        session.answered(1, &None, now + SECOND);
        assert!(session.admit(true, now + SECOND).is_err());
        assert!(matches!(session.status(), CloudStatus::Down(_)));
        session.answered(1, &None, now + 3 * MINUTE);
        assert_eq!(session.status(), &CloudStatus::Ok);
    }

    #[test]
    fn a_token_that_dies_soon_after_its_login_is_replaced_by_one_more_and_the_third_login_waits() {
        let now = Instant::now();
        let mut session = session(Some("pw"), None);
        session.token(None, now);
        tokens(session.settle(GrantKind::Login, granted("t1", None), now));
        session.answered(1, &None, now);
        assert_eq!(
            session.token(Some(&refused(1, -20651)), now + MINUTE),
            SessionStep::Run(GrantKind::Login)
        );
        tokens(session.settle(GrantKind::Login, granted("t2", None), now + MINUTE));
        session.answered(2, &None, now + MINUTE);
        let third = session.token(Some(&refused(2, -20651)), now + 2 * MINUTE);
        assert_eq!(third, SessionStep::Refuse(CloudError::Throttled));
        assert!(matches!(session.status(), CloudStatus::Down(_)));
        assert_eq!(session.token(None, now + 10 * MINUTE), SessionStep::Run(GrantKind::Login));
    }

    #[test]
    fn what_fails_for_one_plug_while_others_are_served_is_that_plugs_and_leaves_the_status() {
        let now = Instant::now();
        let plug = |number: u32| hs100d_core::model::DeviceId::new(&format!("8006{number:036}"));
        for error in [
            ApiError::NotAnAnswer("an answer without responseData".into()),
            ApiError::Code(-1),
            ApiError::Code(-99999),
            ApiError::Http(500),
            ApiError::Broken,
            ApiError::Unreachable("refused".into()),
        ] {
            let mut session = proven(None);
            session.answered(1, &plug(1), now);
            for _ in 0..20 {
                assert_eq!(session.failed(1, &plug(2), &error, now), CloudError::OnlyHere(error.clone()));
                assert_eq!(session.status(), &CloudStatus::Ok, "{error}");
                session.answered(1, &plug(1), now);
            }
            session.failed(1, &plug(1), &error, now);
            session.failed(1, &plug(3), &error, now);
            assert!(matches!(session.status(), CloudStatus::Down(_)), "{error}: no plug is served");
        }
    }

    #[test]
    fn an_outage_at_the_login_does_not_use_up_the_days_logins() {
        let mut now = Instant::now();
        let mut session = session(Some("pw"), None);
        for _ in 0..20 {
            assert_eq!(session.token(None, now), SessionStep::Run(GrantKind::Login));
            failure(session.settle(GrantKind::Login, Err(ApiError::Http(503)), now));
            assert!(matches!(session.token(None, now + 10 * SECOND), SessionStep::Refuse(_)), "it rests");
            now += 13 * MINUTE;
        }
    }

    #[test]
    fn a_token_that_is_refused_from_the_first_minute_is_not_replaced_for_ever() {
        let mut now = Instant::now();
        let mut session = proven(None);
        let mut refreshes = 0;
        for _ in 0..600 {
            let mut step = session.token(None, now);
            if let SessionStep::Use(token) = &step {
                step = session.token(Some(&refused(token.number, -20651)), now);
            }
            if step == SessionStep::Run(GrantKind::Refresh) {
                refreshes += 1;
                tokens(session.settle(GrantKind::Refresh, granted("useless", None), now));
                let (number, _) = used(session.token(None, now));
                session.failed(number, &None, &ApiError::Code(-20651), now);
            }
            now += SECOND;
        }
        assert!((3..=7).contains(&refreshes), "{refreshes} refreshes in ten minutes");
    }

    #[test]
    fn being_pushed_out_by_another_login_is_answered_once_in_ten_minutes() {
        let now = Instant::now();
        let mut session = proven(Some("pw"));
        assert_eq!(session.token(Some(&refused(1, -20675)), now), SessionStep::Run(GrantKind::Refresh));
        tokens(session.settle(GrantKind::Refresh, granted("t2", None), now));
        session.answered(2, &None, now);
        let again = session.token(Some(&refused(2, -20675)), now + MINUTE);
        assert!(matches!(again, SessionStep::Refuse(CloudError::Down(_))), "{again:?}");
        assert!(matches!(session.token(None, now + 10 * MINUTE), SessionStep::Refuse(_)));
        assert_eq!(session.token(None, now + 20 * MINUTE), SessionStep::Run(GrantKind::Refresh));
    }

    #[test]
    fn a_plugs_fault_leaves_the_session_healthy() {
        let now = Instant::now();
        let mut session = proven(None);
        assert_eq!(
            session.failed(1, &None, &ApiError::Code(-20571), now),
            CloudError::Plug(PlugFault::Offline)
        );
        assert_eq!(session.status(), &CloudStatus::Ok);
        assert_eq!(session.failed(1, &None, &ApiError::Code(-20573), now), CloudError::Faulty(-20573));
        assert_eq!(session.status(), &CloudStatus::Ok);
        assert_eq!(used(session.token(None, now)).0, 1);
    }

    #[test]
    fn a_login_that_was_refused_for_one_app_is_tried_for_another() {
        let now = Instant::now();
        let refused = RefusedLogins::default();
        let session = |app_type: &str| {
            let mut session = session(Some("right"), None);
            session.account.memory.refused = refused.clone();
            let app = AppIdentity { app_type: app_type.to_owned(), version: None };
            session.account.api = Arc::new(CloudApi::new(app, "", None));
            session
        };
        let mut first = session("Kasa_Android");
        assert_eq!(first.token(None, now), SessionStep::Run(GrantKind::Login));
        failure(first.settle(GrantKind::Login, Err(ApiError::Code(-20600)), now));
        assert!(matches!(session("Kasa_Android").token(None, now), SessionStep::Refuse(_)));
        assert_eq!(session("Kasa_iOS").token(None, now), SessionStep::Run(GrantKind::Login));
    }

    #[test]
    fn a_login_by_hand_goes_past_every_limit() {
        let now = Instant::now();
        let mut session = session(Some("wrong"), None);
        session.token(None, now);
        failure(session.settle(GrantKind::Login, Err(ApiError::Code(-20601)), now));
        session.login_by_hand(secret("right"), None, now);
        let body = String::from_utf8(session.request(GrantKind::LoginByHand).body.to_vec()).unwrap();
        assert!(body.contains("right") && !body.contains("wrong"));
        tokens(session.settle(GrantKind::LoginByHand, granted("t", None), now));
        assert_eq!(used(session.token(None, now)).1, "t");
    }
}
