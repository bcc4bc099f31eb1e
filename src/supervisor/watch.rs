//! Asks the Supervisor until everything is known, from time to time after that, and whenever the broker refuses the login.
//!
//! It waits for ever. A failure is logged when it differs from the last one.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::answers::{Answers, WantedAnswers};
use super::client::{BrokerService, Supervisor, SupervisorFailure};
use crate::backoff::Backoff;
use crate::mqtt::LoginInquiry;

/// The pauses while something is not known. A broker that is installed in the meantime is used within half a minute.
const WHILE_UNKNOWN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// The pause once everything is known: the broker may be replaced by another one.
const WHILE_KNOWN: Duration = Duration::from_secs(300);
/// The shortest time between two rounds, whatever the Supervisor says.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// The task's state.
#[derive(Debug)]
pub(crate) struct Watch {
    supervisor: Supervisor,
    answers: Answers,
    inquiries: mpsc::Receiver<LoginInquiry>,
    broker: Question,
    ingress: Question,
    /// Failed rounds in a row.
    failures: u32,
    asked_at: Option<Instant>,
    ask_at: Instant,
}

/// One of the two questions.
#[derive(Debug)]
struct Question {
    /// What it is about, for the log.
    about: &'static str,
    /// The failure that was logged last.
    failure: Option<SupervisorFailure>,
    is_answered: bool,
}

impl Watch {
    pub(crate) fn new(
        supervisor: Supervisor,
        answers: Answers,
        inquiries: mpsc::Receiver<LoginInquiry>,
    ) -> Self {
        let question = |about| Question { about, failure: None, is_answered: false };
        Self {
            supervisor,
            answers,
            inquiries,
            broker: question("the broker"),
            ingress: question("the status page in Home Assistant"),
            failures: 0,
            asked_at: None,
            ask_at: Instant::now(),
        }
    }

    /// Returns when an answer has changed. The config has to be read again then.
    pub(crate) async fn changed(&mut self) {
        loop {
            let inquiry = tokio::select! {
                Some(inquiry) = self.inquiries.recv() => Some(inquiry),
                () = self.answers.read() => None,
                () = sleep_until(self.ask_at) => None,
            };
            let has_changed = self.ask().await;
            if let Some(inquiry) = inquiry {
                let known = self.answers.known();
                let other = known.broker.filter(|_| known.wanted == WantedAnswers::BrokerAndLogin);
                let has_another = other.is_some_and(|broker| !is_of(&inquiry, &broker));
                inquiry.answer(has_another);
            }
            if has_changed {
                return;
            }
        }
    }

    /// Asks what is wanted. Returns whether an answer has changed.
    async fn ask(&mut self) -> bool {
        if let Some(asked_at) = self.asked_at {
            sleep_until(asked_at + LEAST_PAUSE).await;
        }
        self.asked_at = Some(Instant::now());
        let before = self.answers.known();
        let supervisor = &self.supervisor;
        let wants_broker = before.wanted != WantedAnswers::Nothing;
        let wants_ingress = !self.ingress.is_answered;
        let (broker, ingress) = tokio::join!(
            async { if wants_broker { Some(supervisor.broker().await) } else { None } },
            async { if wants_ingress { Some(supervisor.ingress().await) } else { None } },
        );
        let is_failed = matches!(broker, Some(Err(_))) || matches!(ingress, Some(Err(_)));
        self.failures = if is_failed { self.failures.saturating_add(1) } else { 0 };
        let pause = if is_failed { WHILE_UNKNOWN.pause(self.failures) } else { WHILE_KNOWN };
        self.ask_at = Instant::now() + pause;
        let new_broker = broker.and_then(|answer| self.broker.take(answer));
        let new_broker = new_broker.filter(|broker| before.broker.as_ref() != Some(broker));
        let new_ingress = ingress.and_then(|answer| self.ingress.take(answer)).flatten();
        if let Some(broker) = &new_broker {
            tracing::info!("{}", told(broker, before.broker.as_ref()));
        }
        let has_changed = new_broker.is_some() || new_ingress.is_some();
        self.answers.with(|known| {
            known.broker = new_broker.or(known.broker.take());
            known.ingress = new_ingress.or(known.ingress);
        });
        has_changed
    }
}

impl Question {
    /// The answer, if there is one. A failure is logged if it is news.
    fn take<T>(&mut self, answer: Result<T, SupervisorFailure>) -> Option<T> {
        match answer {
            Ok(answer) => {
                if self.failure.take().is_some() && self.is_answered {
                    tracing::info!("the Supervisor was asked for {}: it answers again", self.about);
                }
                self.is_answered = true;
                Some(answer)
            }
            Err(failure) => {
                if self.failure.as_ref() == Some(&failure) {
                    tracing::debug!("the Supervisor was asked for {}: {failure}", self.about);
                } else {
                    tracing::warn!(
                        "the Supervisor was asked for {}: {failure}; it is asked again",
                        self.about
                    );
                }
                self.failure = Some(failure);
                None
            }
        }
    }
}

/// The line about a broker that differs from the one before.
fn told(broker: &BrokerService, before: Option<&BrokerService>) -> String {
    match before {
        Some(before) if (&before.host, before.port) == (&broker.host, broker.port) => {
            format!("the Supervisor has another login for the broker: {broker}")
        }
        _ => format!("the Supervisor names the broker: {broker}"),
    }
}

/// Whether the login that was refused is that of this broker.
fn is_of(inquiry: &LoginInquiry, broker: &BrokerService) -> bool {
    (&inquiry.username, &inquiry.password) == (&broker.username, &broker.password)
}
