//! The one task that owns the session, and the gate through which everybody speaks to it.
//!
//! It makes the logins and refreshes that the [`Session`] asks for, one at a time for all plugs, and goes on
//! answering meanwhile. That there is one owner is what makes locks needless.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout_at};
use tracing::{debug, warn};

use crate::bridge::event::{CloudStatus, Event};
use crate::secret::Secret;
use crate::transport::cloud::api::{self, Page, Trouble};
use crate::transport::cloud::host::Host;
use crate::transport::cloud::http::{Http, Limits};
use crate::transport::cloud::session::{Account, Denied, Kind, Pass, Refused, Session, Settled, Step};
use crate::transport::cloud::{CloudError, Tokens, Vault};

/// For one login or refresh, connecting included.
const AUTH_TIME: Duration = Duration::from_secs(10);
/// An honest answer to a login has less than a kilobyte.
const AUTH_SIZE: usize = 64 * 1024;
/// Asks that may lie before the task before those that ask must wait.
const QUEUE: usize = 256;

/// Where calls ask to be let in, and say how they went. Cheap to clone; the task ends with the last one.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    asks: mpsc::Sender<Ask>,
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
        let settled = self.settle(errand.kind, page);
        let next = self.serve_waiting(&settled);
        let result = match settled {
            Settled::Granted(tokens) => self.save(tokens).await,
            Settled::WayClosed(error) | Settled::Failed(error) => Err(error),
        };
        self.tell_mood();
        if let Some(answer) = errand.answer {
            // As above: nobody may be left to hear it.
            let _ = answer.send(result);
        }
        Some(next)
    }

    fn settle(&mut self, kind: Kind, page: Result<Page, Trouble>) -> Settled {
        let granted = page.and_then(|page| api::read_granted(&page));
        match &granted {
            Ok(_) => debug!(?kind, "the account gave a token"),
            Err(trouble) => debug!(?kind, %trouble, "the account gave no token"),
        }
        self.session.settle(kind, granted, Instant::now())
    }

    /// Serves everybody who waited, until one of them needs another errand.
    fn serve_waiting(&mut self, settled: &Settled) -> Option<Errand> {
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Some(ask) = waiting.pop_front() {
            let errand = match (ask, settled) {
                // Asking again would only run the same errand again, and so on while anybody waits.
                (Ask::Pass { answer, .. }, Settled::Failed(error)) => {
                    let _ = answer.send(Err(error.clone()));
                    None
                }
                (ask, _) => self.handle(ask),
            };
            if errand.is_some() {
                self.waiting.extend(waiting);
                return errand;
            }
        }
        None
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

/// A login or refresh that is to be made.
struct Errand {
    kind: Kind,
    json: Vec<u8>,
    /// Who asked for it by hand.
    answer: Option<oneshot::Sender<Result<(), CloudError>>>,
}
