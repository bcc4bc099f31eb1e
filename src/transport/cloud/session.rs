//! The token's life: how it is got, shared, renewed and given up, and when the cloud is left alone.
//!
//! [`Session`] decides, as a value with `now` as an argument. One task owns it and makes its logins and refreshes,
//! so that at most one is in flight for all plugs and no lock is needed. Everybody else holds a [`Gate`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout_at};
use tracing::{debug, warn};

use crate::bridge::event::{CloudStatus, Event};
use crate::secret::Secret;
use crate::transport::cloud::api::{self, Granted, Page, Trouble};
use crate::transport::cloud::codes::{Reaction, Row};
use crate::transport::cloud::host::Host;
use crate::transport::cloud::http::{Http, Limits};
use crate::transport::cloud::pace::{Allowance, BackOff, Bucket};
use crate::transport::cloud::{CloudError, Tokens, Vault};

/// For one login or refresh, connecting included.
const AUTH_TIME: Duration = Duration::from_secs(10);
/// An honest answer to a login has less than a kilobyte.
const AUTH_SIZE: usize = 64 * 1024;
/// Asks that may lie before the task before those that ask must wait.
const QUEUE: usize = 256;

/// Held back by TP-Link: minutes to an hour.
const HOLD: (Duration, Duration) = (Duration::from_secs(2 * 60), Duration::from_secs(60 * 60));
/// Logins and refreshes that fail in passing.
const REST: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10 * 60));
/// Two that use one account and push each other out would do so for ever; this is how often we take part.
const ELSEWHERE_GAP: Duration = Duration::from_secs(10 * 60);

/// A token as it is handed out. Tokens are told apart by number: a login may bring the very same text again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// Counts up.
    pub number: u64,
    /// Goes with the call.
    pub token: Secret,
}

/// Where calls ask to be let in, and say how they went. Cheap to clone; the task ends with the last one.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    asks: mpsc::Sender<Ask>,
}

/// What the task is asked.
enum Ask {
    /// May a call be made now?
    Admit { urgent: bool, answer: oneshot::Sender<Result<(), Denied>> },
    /// A token, and not this one.
    Pass { refused: Option<Refused>, answer: oneshot::Sender<Result<Arc<Pass>, CloudError>> },
    /// A call with this token was answered.
    Answered { pass: u64 },
    /// A call with this token met trouble. What should be made of it?
    Failed { pass: u64, trouble: Trouble, answer: oneshot::Sender<CloudError> },
    /// The user brings a password.
    Login { password: Secret, answer: oneshot::Sender<Result<(), CloudError>> },
    /// The user acted; perhaps there are other tokens.
    Rearm(Option<Tokens>),
}

/// A token that the cloud did not take.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    /// Which.
    pub pass: u64,
    /// How the cloud put it.
    pub trouble: Trouble,
}

/// Why a call may not be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Denied {
    /// The bucket is empty; from then on there is something in it.
    NotBefore(Instant),
    /// Not at all for now.
    Error(CloudError),
}

impl Gate {
    /// Waits until a call may be made, an urgent one within its deadline, and for the token to make it with.
    pub(super) async fn enter(&self, urgent: bool, deadline: Instant) -> Result<Arc<Pass>, CloudError> {
        self.admit(urgent, deadline).await?;
        self.pass(None, deadline).await
    }

    /// Waits for another token than the one that the cloud refused.
    pub(super) async fn renew(&self, refused: Refused, deadline: Instant) -> Result<Arc<Pass>, CloudError> {
        let pass = self.pass(Some(refused), deadline).await?;
        self.admit(true, deadline).await?;
        Ok(pass)
    }

    /// Says that a call was answered.
    pub(super) async fn answered(&self, pass: &Pass) {
        // Without the task there is nobody left who would care.
        let _ = self.asks.send(Ask::Answered { pass: pass.number }).await;
    }

    /// Says that a call met trouble, and learns what the caller should make of it.
    pub(super) async fn failed(&self, pass: &Pass, trouble: Trouble) -> CloudError {
        let pass = pass.number;
        self.ask(|answer| Ask::Failed { pass, trouble, answer }).await.unwrap_or_else(|gone| gone)
    }

    /// Logs in with the user's own password, whatever happened before.
    pub(super) async fn login(&self, password: Secret) -> Result<(), CloudError> {
        self.ask(|answer| Ask::Login { password, answer }).await?
    }

    /// Forgets why the cloud was left alone.
    pub(super) async fn rearm(&self, tokens: Option<Tokens>) {
        // As above.
        let _ = self.asks.send(Ask::Rearm(tokens)).await;
    }

    async fn admit(&self, urgent: bool, deadline: Instant) -> Result<(), CloudError> {
        loop {
            match self.ask(|answer| Ask::Admit { urgent, answer }).await? {
                Ok(()) => return Ok(()),
                Err(Denied::NotBefore(at)) if urgent && at < deadline => sleep_until(at.into()).await,
                Err(Denied::NotBefore(_)) => return Err(CloudError::Throttled),
                Err(Denied::Error(error)) => return Err(error),
            }
        }
    }

    async fn pass(&self, refused: Option<Refused>, deadline: Instant) -> Result<Arc<Pass>, CloudError> {
        let answer = self.ask(|answer| Ask::Pass { refused, answer });
        // Nothing was sent for this call yet, so that it cannot be carried out late.
        timeout_at(deadline.into(), answer)
            .await
            .unwrap_or_else(|_| Err(CloudError::Down("the login was not answered in time".into())))?
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, CloudError> {
        let gone = || CloudError::Down("it was shut down".into());
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

/// What the session is about.
pub(super) struct Account {
    /// The e-mail address.
    pub username: String,
    /// Its password, if there is one to log in with.
    pub password: Option<Secret>,
    /// Names this installation to the cloud.
    pub terminal: uuid::Uuid,
    /// Where to log in.
    pub host: Host,
}

/// The task that owns the session: its channel, and what it reaches out to.
pub(super) struct Keeper {
    session: Session,
    asks: mpsc::Receiver<Ask>,
    /// Asks that wait for the login or refresh under way.
    waiting: VecDeque<Ask>,
    http: Http,
    host: Host,
    vault: Arc<dyn Vault>,
    mood: watch::Sender<CloudStatus>,
    events: mpsc::UnboundedSender<Event>,
}

/// A login or refresh that is to be made.
struct Errand {
    kind: Kind,
    json: Vec<u8>,
    /// Who asked for it by hand.
    answer: Option<oneshot::Sender<Result<(), CloudError>>>,
}

impl Keeper {
    /// A keeper and the gate that leads to it. Nothing happens until somebody asks.
    pub(super) fn new(
        account: Account,
        tokens: Option<Tokens>,
        http: Http,
        vault: Arc<dyn Vault>,
        events: mpsc::UnboundedSender<Event>,
    ) -> (Self, Gate, watch::Receiver<CloudStatus>) {
        let (sender, asks) = mpsc::channel(QUEUE);
        let (mood, moods) = watch::channel(CloudStatus::Off);
        let host = account.host.clone();
        let session = Session::new(account, tokens);
        let keeper = Self { session, asks, waiting: VecDeque::new(), http, host, vault, mood, events };
        (keeper, Gate { asks: sender }, moods)
    }

    /// Serves until every gate is gone.
    pub(super) async fn run(mut self) {
        while let Some(ask) = self.asks.recv().await {
            let mut errand = self.handle(ask);
            self.tell_mood();
            while let Some(next) = errand.take() {
                let Some(done) = self.go(next).await else { return };
                errand = done;
            }
        }
    }

    /// Answers an ask, or says which errand must be run first; the ask then waits for it.
    fn handle(&mut self, ask: Ask) -> Option<Errand> {
        let now = Instant::now();
        match ask {
            Ask::Admit { urgent, answer } => {
                // A caller that went away meanwhile needs no answer; so with all answers here.
                let _ = answer.send(self.session.admit(urgent, now));
                None
            }
            Ask::Pass { answer, .. } if answer.is_closed() => None,
            Ask::Pass { refused, answer } => match self.session.pass(refused.as_ref(), now) {
                Step::Use(pass) => {
                    let _ = answer.send(Ok(pass));
                    None
                }
                Step::Refuse(error) => {
                    let _ = answer.send(Err(error));
                    None
                }
                Step::Run(kind) => {
                    self.waiting.push_back(Ask::Pass { refused, answer });
                    Some(Errand { json: self.session.words(kind), kind, answer: None })
                }
            },
            Ask::Answered { pass } => {
                self.session.answered(pass, now);
                None
            }
            Ask::Failed { pass, trouble, answer } => {
                let _ = answer.send(self.session.failed(pass, &trouble, now));
                None
            }
            Ask::Login { password, answer } => {
                let json = self.session.login_by_hand(&password, now);
                Some(Errand { kind: Kind::Login, json, answer: Some(answer) })
            }
            Ask::Rearm(tokens) => {
                self.session.rearm(tokens);
                None
            }
        }
    }

    /// Runs one errand while asks go on being served; those that need its result wait. Returns the errand that
    /// comes next, or nothing at all when the last gate is gone.
    async fn go(&mut self, errand: Errand) -> Option<Option<Errand>> {
        let limits = Limits { deadline: Instant::now() + AUTH_TIME, size: AUTH_SIZE, resend: false };
        let (http, host) = (self.http.clone(), self.host.clone());
        let post = http.post(&host, errand.json, limits);
        tokio::pin!(post);
        let page = loop {
            tokio::select! {
                page = &mut post => break page,
                ask = self.asks.recv() => match ask? {
                    waits @ (Ask::Pass { .. } | Ask::Login { .. }) => self.waiting.push_back(waits),
                    // None of the others leads to an errand.
                    ask => { self.handle(ask); }
                },
            }
            self.tell_mood();
        };
        let outcome = self.settle(errand.kind, page);
        let next = self.serve_waiting();
        let saved = self.save(outcome.as_ref().ok()).await;
        self.tell_mood();
        if let Some(answer) = errand.answer {
            // As above: nobody may be left to hear it.
            let _ = answer.send(outcome.and(saved));
        }
        Some(next)
    }

    fn settle(&mut self, kind: Kind, page: Result<Page, Trouble>) -> Result<Tokens, CloudError> {
        let granted = page.and_then(|page| api::read_granted(&page));
        let settled = self.session.settle(kind, granted, Instant::now());
        match &settled {
            Ok(_) => debug!(?kind, "the account gave a token"),
            Err(error) => debug!(?kind, %error, "the account gave no token"),
        }
        settled
    }

    /// Asks everybody again who waited, until one of them needs another errand.
    fn serve_waiting(&mut self) -> Option<Errand> {
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Some(ask) = waiting.pop_front() {
            if let Some(errand) = self.handle(ask) {
                self.waiting.extend(waiting);
                return Some(errand);
            }
        }
        None
    }

    /// A token that cannot be written down serves until the restart, so this is no reason to stop.
    async fn save(&self, tokens: Option<&Tokens>) -> Result<(), CloudError> {
        let Some(tokens) = tokens.cloned() else { return Ok(()) };
        let vault = Arc::clone(&self.vault);
        let saved = tokio::task::spawn_blocking(move || vault.save(&tokens)).await;
        let error = match saved {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the store gave up".to_owned(),
        };
        warn!(%error, "the account's token cannot be saved; the next start will have to log in again");
        Err(CloudError::NotSaved(error.into()))
    }

    fn tell_mood(&self) {
        let mood = self.session.mood();
        self.mood.send_if_modified(|told| {
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

/// The two ways to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Login,
    Refresh,
}

/// What comes of asking for a token.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// This one is good, as far as is known.
    Use(Arc<Pass>),
    /// There will be one after this.
    Run(Kind),
    /// There is none.
    Refuse(CloudError),
}

/// The decisions. No socket, no clock, no channel.
struct Session {
    account: Account,
    /// The account's terminal as text, made once.
    terminal: String,
    /// The token in use. Absent: none yet, or refused.
    pass: Option<Arc<Pass>>,
    /// Whether a call was ever answered with it. A token that is refused from its first minute on is no matter of
    /// age, and another one would fare no better.
    proven: bool,
    refresh_token: Option<Secret>,
    /// Passes given so far.
    given: u64,
    /// Why nothing is tried until the user acts.
    stopped: Option<Box<str>>,
    /// Calls that are held back by TP-Link.
    hold: BackOff,
    /// Logins and refreshes that wait after one failed.
    rest: BackOff,
    logins: Allowance,
    /// When another login last pushed ours out.
    pushed_out: Option<Instant>,
    bucket: Bucket,
    mood: CloudStatus,
}

impl Session {
    fn new(account: Account, tokens: Option<Tokens>) -> Self {
        let seed = account.terminal.as_u64_pair().1;
        let mut session = Self {
            terminal: account.terminal.to_string(),
            account,
            pass: None,
            proven: false,
            refresh_token: None,
            given: 0,
            stopped: None,
            hold: BackOff::new(HOLD.0, HOLD.1, seed),
            rest: BackOff::new(REST.0, REST.1, seed),
            logins: Allowance::default(),
            pushed_out: None,
            bucket: Bucket::default(),
            mood: CloudStatus::Off,
        };
        session.load(tokens);
        session
    }

    /// Whether a call may be made now.
    fn admit(&mut self, urgent: bool, now: Instant) -> Result<(), Denied> {
        self.check_open(now).map_err(Denied::Error)?;
        self.bucket.take(urgent, now).map_err(Denied::NotBefore)
    }

    /// The token to use, or the way to one.
    fn pass(&mut self, refused: Option<&Refused>, now: Instant) -> Step {
        if let Err(error) = self.check_open(now) {
            return Step::Refuse(error);
        }
        if let Some(refused) = refused {
            self.give_up(refused.pass, &refused.trouble, now);
        }
        match &self.pass {
            Some(pass) => Step::Use(Arc::clone(pass)),
            None => self.plan(now),
        }
    }

    /// What goes over the wire for it.
    fn words(&self, kind: Kind) -> Vec<u8> {
        match (kind, &self.refresh_token, &self.account.password) {
            (Kind::Refresh, Some(token), _) => api::refresh(token, &self.terminal),
            (Kind::Login, _, Some(password)) => api::login(&self.account.username, password, &self.terminal),
            // `plan` names no way for which the means are missing.
            (Kind::Refresh, None, _) | (Kind::Login, _, None) => Vec::new(),
        }
    }

    /// Takes in how a login or refresh went. What is to be saved, or why there is nothing.
    fn settle(
        &mut self,
        kind: Kind,
        granted: Result<Granted, Trouble>,
        now: Instant,
    ) -> Result<Tokens, CloudError> {
        match granted {
            Ok(granted) => Ok(self.accept(granted)),
            Err(trouble) => Err(self.reject(kind, &trouble, now)),
        }
    }

    /// A call was answered, with whatever it said of the plug.
    fn answered(&mut self, number: u64, now: Instant) {
        if self.pass.as_ref().is_some_and(|pass| pass.number == number) {
            self.proven = true;
            self.rest.succeed();
        }
        // An answer to a call that was made before the cloud turned us away changes nothing.
        if self.check_open(now).is_ok() {
            self.hold.succeed();
            self.mood = CloudStatus::Ok;
        }
    }

    /// A call met trouble, after the one repetition that a token's fault allows.
    fn failed(&mut self, number: u64, trouble: &Trouble, now: Instant) -> CloudError {
        match (trouble.reaction(), trouble) {
            (Reaction::Plug(fault), _) => {
                self.answered(number, now);
                CloudError::Plug(fault)
            }
            (Reaction::Faulty, Trouble::Code(code)) => {
                self.answered(number, now);
                CloudError::Faulty(*code)
            }
            (Reaction::Renew | Reaction::Login | Reaction::Elsewhere, _) => {
                self.give_up(number, trouble, now);
                CloudError::Down(format!("the token is refused: {trouble}").into())
            }
            _ => self.suffer(trouble, now),
        }
    }

    /// The user logs in by hand, which no limit stands against.
    fn login_by_hand(&mut self, password: &Secret, now: Instant) -> Vec<u8> {
        self.rearm(None);
        self.logins.spend(now);
        api::login(&self.account.username, password, &self.terminal)
    }

    /// The user acted: everything may be tried again, with these tokens if there are any.
    fn rearm(&mut self, tokens: Option<Tokens>) {
        if self.stopped.take().is_some() {
            self.mood = CloudStatus::Down("armed again and not tried yet".into());
        }
        self.rest.succeed();
        self.logins.forgive();
        self.pushed_out = None;
        self.load(tokens);
    }

    /// The mood of the cloud as a whole.
    fn mood(&self) -> &CloudStatus {
        &self.mood
    }

    /// Tokens of another account are none.
    fn load(&mut self, tokens: Option<Tokens>) {
        let Some(tokens) = tokens.filter(|tokens| tokens.username == self.account.username) else { return };
        self.refresh_token = tokens.refresh_token;
        self.hand_out(tokens.token);
        // It served before the restart, so that its age may be what is wrong with it.
        self.proven = true;
    }

    fn hand_out(&mut self, token: Secret) {
        self.given += 1;
        self.proven = false;
        self.pass = Some(Arc::new(Pass { number: self.given, token }));
    }

    fn check_open(&self, now: Instant) -> Result<(), CloudError> {
        match (&self.stopped, self.hold.holds(now)) {
            (Some(why), _) => Err(CloudError::Stopped(why.clone())),
            (None, Some(_)) => Err(CloudError::Throttled),
            (None, None) => Ok(()),
        }
    }

    /// The token of this number is no good. One that was given since may be.
    fn give_up(&mut self, number: u64, trouble: &Trouble, now: Instant) {
        if self.pass.as_ref().is_none_or(|pass| pass.number != number) {
            return;
        }
        self.pass = None;
        match trouble.reaction() {
            Reaction::Login => self.refresh_token = None,
            Reaction::Elsewhere => {
                let seldom = self.pushed_out.is_none_or(|last| now >= last + ELSEWHERE_GAP);
                if seldom { self.pushed_out = Some(now) } else { self.rest.fail_long(now) }
            }
            _ => {}
        }
        if !self.proven {
            self.rest.fail(now);
        }
        if self.rest.holds(now).is_some() {
            self.down(format!("the token is refused: {trouble}"));
        }
    }

    /// The way to a token: the refresh token before the password.
    fn plan(&mut self, now: Instant) -> Step {
        if self.rest.holds(now).is_some() {
            return Step::Refuse(self.current_error());
        }
        if self.refresh_token.is_some() {
            return Step::Run(Kind::Refresh);
        }
        if self.account.password.is_none() {
            return Step::Refuse(self.stop(
                "there is no password and no login that is still good: run `hs100d cloud login`, or set [cloud] \
                 password_file and reload"
                    .into(),
            ));
        }
        if self.logins.not_before(now).is_some() {
            self.down("the next login waits: they are made ten minutes apart, and six a day at most");
            return Step::Refuse(CloudError::Throttled);
        }
        self.logins.spend(now);
        Step::Run(Kind::Login)
    }

    fn accept(&mut self, granted: Granted) -> Tokens {
        // An answer that names no refresh token leaves the old one in force.
        self.refresh_token = granted.refresh_token.or(self.refresh_token.take());
        self.hand_out(granted.token.clone());
        Tokens {
            username: self.account.username.clone(),
            token: granted.token,
            refresh_token: self.refresh_token.clone(),
        }
    }

    fn reject(&mut self, kind: Kind, trouble: &Trouble, now: Instant) -> CloudError {
        match (kind, trouble.reaction()) {
            (_, Reaction::Elsewhere) => self.stop(format!(
                "{trouble}: log in with the Kasa app, then reload or run `hs100d cloud login`"
            )),
            (Kind::Refresh, Reaction::Renew | Reaction::Login | Reaction::Faulty | Reaction::Plug(_)) => {
                self.drop_refresh_token(trouble)
            }
            // A refusal that nobody has written about must not lock us out while the password is at hand.
            (Kind::Refresh, Reaction::Retry) if is_unwritten(trouble) => self.drop_refresh_token(trouble),
            (Kind::Login, Reaction::Renew | Reaction::Login | Reaction::Faulty | Reaction::Plug(_)) => {
                self.rest.fail(now);
                self.down(format!("the login failed: {trouble}"))
            }
            (_, Reaction::Retry) => {
                if kind == Kind::Login && !reached_the_account(trouble) {
                    self.logins.give_back();
                }
                // Connecting in vain costs the account nothing, and is limited by the calls that want it.
                if !matches!(trouble, Trouble::Unreachable(_)) {
                    self.rest.fail(now);
                }
                self.suffer(trouble, now)
            }
            (_, Reaction::Stop(_) | Reaction::HoldBack | Reaction::HoldBackLong) => self.suffer(trouble, now),
        }
    }

    fn drop_refresh_token(&mut self, trouble: &Trouble) -> CloudError {
        self.refresh_token = None;
        self.down(format!("the login could not be refreshed: {trouble}"))
    }

    /// What a trouble means for the cloud as a whole.
    fn suffer(&mut self, trouble: &Trouble, now: Instant) -> CloudError {
        match trouble.reaction() {
            Reaction::Stop(remedy) => self.stop(format!("{trouble}: {remedy}")),
            Reaction::HoldBack => {
                self.hold.fail(now);
                self.held_back(trouble, "within the hour")
            }
            Reaction::HoldBackLong => {
                self.hold.fail_long(now);
                self.held_back(trouble, "in about an hour")
            }
            Reaction::Retry | Reaction::Faulty | Reaction::Plug(_) => self.down(trouble.to_string()),
            Reaction::Renew | Reaction::Login | Reaction::Elsewhere => self.down(trouble.to_string()),
        }
    }

    fn stop(&mut self, why: String) -> CloudError {
        let why: Box<str> = why.into();
        self.stopped = Some(why.clone());
        self.mood = CloudStatus::Stopped(why.clone());
        CloudError::Stopped(why)
    }

    fn held_back(&mut self, trouble: &Trouble, until: &str) -> CloudError {
        self.down(format!("TP-Link holds our calls back: {trouble}; tried again {until}"));
        CloudError::Throttled
    }

    /// A stop outlasts whatever is heard after it of calls that were made before.
    fn down(&mut self, why: impl Into<Box<str>>) -> CloudError {
        let why = why.into();
        if self.stopped.is_none() {
            self.mood = CloudStatus::Down(why.clone());
        }
        CloudError::Down(why)
    }

    fn current_error(&self) -> CloudError {
        match &self.mood {
            CloudStatus::Down(why) => CloudError::Down(why.clone()),
            CloudStatus::Stopped(why) => CloudError::Stopped(why.clone()),
            CloudStatus::Ok | CloudStatus::Off => CloudError::Throttled,
        }
    }
}

/// A code that stands in no table.
fn is_unwritten(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Code(code) if Row::of(*code).is_none())
}

/// Whether the account may have seen the login. A proxy's page or an outage must not use up the day's logins.
fn reached_the_account(trouble: &Trouble) -> bool {
    !matches!(
        trouble,
        Trouble::Unreachable(_) | Trouble::Http(_) | Trouble::NotAnAnswer(_) | Trouble::TooLarge
    )
}
