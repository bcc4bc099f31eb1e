//! The one task that owns the office, and the gate through which everybody speaks to it.
//!
//! It makes the logins and refreshes that the [`Office`] gives out, one at a time for all plugs, and goes on
//! answering meanwhile. That there is one owner is what makes locks needless.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout_at};
use tracing::{debug, warn};

use crate::bridge::event::{CloudStatus, Event};
use crate::secret::Secret;
use crate::transport::cloud::api::{self, Trouble};
use crate::transport::cloud::host::Host;
use crate::transport::cloud::http::{Http, Limits};
use crate::transport::cloud::office::{Ask, Errand, Office};
use crate::transport::cloud::outage::About;
use crate::transport::cloud::session::{Account, Denied, Pass, Refused, Settled};
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
    /// Waits for the token to make a call with, and then until it may be made, an urgent one within its deadline.
    pub(super) async fn enter(&self, urgent: bool, deadline: Instant) -> Result<Arc<Pass>, CloudError> {
        self.pass(None, urgent, deadline).await
    }

    /// Waits for another token than the one that the cloud refused.
    pub(super) async fn renew(&self, refused: Refused, deadline: Instant) -> Result<Arc<Pass>, CloudError> {
        self.pass(Some(refused), true, deadline).await
    }

    /// Says that a call was answered.
    pub(super) async fn answered(&self, pass: &Pass, about: About) {
        // Without the task there is nobody left who would care.
        let _ = self.asks.send(Ask::Answered { pass: pass.number, about }).await;
    }

    /// Says that a call met trouble, and learns what the caller should make of it.
    pub(super) async fn failed(&self, pass: &Pass, about: About, trouble: Trouble) -> CloudError {
        let pass = pass.number;
        self.ask(|answer| Ask::Failed { pass, about, trouble, answer }).await.unwrap_or_else(|gone| gone)
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

    /// No token is got or saved from here on.
    pub(super) async fn retire(&self) {
        // As above.
        let _ = self.asks.send(Ask::Retire).await;
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

    async fn pass(
        &self,
        refused: Option<Refused>,
        urgent: bool,
        deadline: Instant,
    ) -> Result<Arc<Pass>, CloudError> {
        let answer = self.ask(|answer| Ask::Pass { refused, answer });
        // Nothing was sent for this call yet, so that it cannot be carried out late.
        let pass = timeout_at(deadline.into(), answer)
            .await
            .unwrap_or_else(|_| Err(CloudError::Down("the login was not answered in time".into())))??;
        // Counted only now: calls that waited for one login together are not to go out all at once.
        self.admit(urgent, deadline).await?;
        Ok(pass)
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, CloudError> {
        let gone = || CloudError::Down("it was shut down".into());
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

/// How the cloud is, for whoever looks.
#[derive(Debug, Clone)]
pub(super) struct Moods {
    /// As the daemon tells it.
    pub(super) mood: watch::Receiver<CloudStatus>,
    /// What stands behind it.
    pub(super) trouble: watch::Receiver<Option<Trouble>>,
}

/// The task that owns the office: its channel, and what it reaches out to.
pub(super) struct Keeper {
    office: Office,
    asks: mpsc::Receiver<Ask>,
    http: Http,
    host: Host,
    vault: Arc<dyn Vault>,
    mood: watch::Sender<CloudStatus>,
    trouble: watch::Sender<Option<Trouble>>,
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
    ) -> (Self, Gate, Moods) {
        let (sender, asks) = mpsc::channel(QUEUE);
        let (mood, moods) = watch::channel(CloudStatus::Off);
        let (trouble, troubles) = watch::channel(None);
        let host = account.host.clone();
        let office = Office::new(account, tokens);
        let keeper = Self { office, asks, http, host, vault, mood, trouble, events };
        (keeper, Gate { asks: sender }, Moods { mood: moods, trouble: troubles })
    }

    /// Serves until every gate is gone.
    pub(super) async fn run(mut self) {
        while let Some(ask) = self.asks.recv().await {
            let mut errand = self.office.take(ask, Instant::now());
            self.tell_mood();
            while let Some(next) = errand.take() {
                let Some(done) = self.go(next).await else { return };
                errand = done;
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
                // None leads to an errand while this one is under way.
                ask = self.asks.recv() => drop(self.office.take(ask?, Instant::now())),
            }
            self.tell_mood();
        };
        let granted = page.and_then(|page| api::read_granted(&page));
        match &granted {
            Ok(_) => debug!(kind = ?errand.kind, "the account gave a token"),
            Err(trouble) => debug!(kind = ?errand.kind, %trouble, "the account gave no token"),
        }
        let (settled, next) = self.office.settle(granted, Instant::now());
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

    fn tell_mood(&self) {
        // Before the answer that it belongs to.
        let trouble = self.office.trouble();
        self.trouble.send_if_modified(|told| {
            let changed = told.as_ref() != trouble;
            if changed {
                *told = trouble.cloned();
            }
            changed
        });
        let mood = self.office.mood();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_counts_from_when_it_has_a_token_so_that_a_slow_login_saves_nothing_up() {
        let (asks, mut asked) = mpsc::channel(QUEUE);
        let gate = Gate { asks };
        let deadline = Instant::now() + Duration::from_secs(60);
        let entering = tokio::spawn(async move { gate.enter(true, deadline).await });
        let pass = Arc::new(Pass { number: 1, token: Secret::new("token".to_owned()) });
        match asked.recv().await {
            Some(Ask::Pass { refused: None, answer }) => answer.send(Ok(Arc::clone(&pass))).unwrap(),
            _ => panic!("the token comes first"),
        }
        match asked.recv().await {
            Some(Ask::Admit { urgent: true, answer }) => answer.send(Ok(())).unwrap(),
            _ => panic!("then it is counted"),
        }
        assert_eq!(entering.await.unwrap(), Ok(pass));
    }
}
