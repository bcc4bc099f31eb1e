//! Who is let in, who waits, and the one login or refresh that is under way: the order in which the session is asked.
//!
//! A value without a task: whatever wants something of the account comes as an [`AuthRequest`], which is answered at once or
//! waits for an [`TokenRequest`]. There is never more than one request, whoever asks; `auth_task` runs it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::bridge::event::CloudStatus;
use crate::secret::{Secret, SecretBuf};
use crate::transport::cloud::api::{ApiError, Granted};
use crate::transport::cloud::outage::About;
use crate::transport::cloud::session::{
    Denied, GrantKind, RefusedToken, Session, SessionAccount, SessionStep, Settled, Token,
};
use crate::transport::cloud::{CloudError, Tokens};

/// The session, and those who wait for it.
pub struct AuthQueue {
    session: Session,
    /// The login or refresh that was given out and has not been settled.
    under_way: Option<GrantKind>,
    /// Asks that wait for it.
    waiting: VecDeque<AuthRequest>,
}

/// What is asked.
pub enum AuthRequest {
    /// May a call be made now?
    Admit {
        /// Someone waits for it, so that it may use the bucket to the last.
        urgent: bool,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<(), Denied>>,
    },
    /// A token, and not this one.
    Pass {
        /// The token that the cloud did not take, if there was one.
        refused: Option<RefusedToken>,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Arc<Token>, CloudError>>,
    },
    /// A call with this token was answered.
    Answered {
        /// Which token.
        pass: u64,
        /// Which plug it was about, or the list.
        about: About,
    },
    /// A call with this token met trouble. What should be made of it?
    Failed {
        /// Which token.
        pass: u64,
        /// Which plug it was about, or the list.
        about: About,
        /// What happened.
        trouble: ApiError,
        /// Where the answer goes.
        answer: oneshot::Sender<CloudError>,
    },
    /// The user brings a password.
    Login {
        /// The password.
        password: Secret,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<(), CloudError>>,
    },
    /// The user acted; perhaps there are other tokens.
    Rearm(Option<Tokens>),
    /// Another queue serves the account from here on.
    Retire,
}

/// A login or refresh that is to be made. Nothing else is given out before [`AuthQueue::settle`].
pub struct TokenRequest {
    /// Which of the two.
    pub kind: GrantKind,
    /// What goes over the wire. Holds secrets.
    pub json: SecretBuf,
    /// Who asked for it by hand.
    pub answer: Option<oneshot::Sender<Result<(), CloudError>>>,
}

impl AuthQueue {
    /// An queue for this account, with the tokens that were kept of it. Nothing happens until somebody asks.
    pub fn new(account: SessionAccount, tokens: Option<Tokens>) -> Self {
        Self { session: Session::new(account, tokens), under_way: None, waiting: VecDeque::new() }
    }

    /// Answers an ask, or says which request must be run first; the ask then waits for it, as do those that come
    /// after it and need its result.
    pub fn take(&mut self, ask: AuthRequest, now: Instant) -> Option<TokenRequest> {
        match ask {
            ask @ (AuthRequest::Pass { .. } | AuthRequest::Login { .. }) if self.under_way.is_some() => {
                self.waiting.push_back(ask);
                None
            }
            ask => self.handle(ask, now),
        }
    }

    /// Takes in how the request went, and serves everybody who waited, until one of them needs another request.
    pub fn settle(
        &mut self,
        granted: Result<Granted, ApiError>,
        now: Instant,
    ) -> (Settled, Option<TokenRequest>) {
        // Without an request there is nothing to settle; a login then changes the least.
        let kind = self.under_way.take().unwrap_or(GrantKind::Login);
        let settled = self.session.settle(kind, granted, now);
        let next = self.serve_waiting(&settled, now);
        (settled, next)
    }

    /// The mood of the cloud as a whole.
    pub fn status(&self) -> &CloudStatus {
        self.session.status()
    }

    /// What stands behind a mood that is not good.
    pub fn trouble(&self) -> Option<&ApiError> {
        self.session.trouble()
    }

    /// How many wait for the request that is under way.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn handle(&mut self, ask: AuthRequest, now: Instant) -> Option<TokenRequest> {
        match ask {
            AuthRequest::Admit { urgent, answer } => {
                // A caller that went away meanwhile needs no answer; so with all answers here.
                let _ = answer.send(self.session.admit(urgent, now));
                None
            }
            AuthRequest::Pass { answer, .. } if answer.is_closed() => None,
            AuthRequest::Pass { refused, answer } => match self.session.pass(refused.as_ref(), now) {
                SessionStep::Use(pass) => {
                    let _ = answer.send(Ok(pass));
                    None
                }
                SessionStep::Refuse(error) => {
                    let _ = answer.send(Err(error));
                    None
                }
                SessionStep::Run(kind) => {
                    self.waiting.push_back(AuthRequest::Pass { refused, answer });
                    let json = self.session.words(kind);
                    Some(self.give_out(TokenRequest { kind, json, answer: None }))
                }
            },
            AuthRequest::Answered { pass, about } => {
                self.session.answered(pass, &about, now);
                None
            }
            AuthRequest::Failed { pass, about, trouble, answer } => {
                let _ = answer.send(self.session.failed(pass, &about, &trouble, now));
                None
            }
            AuthRequest::Login { password, answer } => {
                self.session.login_by_hand(password, now);
                let kind = GrantKind::LoginByHand;
                let json = self.session.words(kind);
                Some(self.give_out(TokenRequest { kind, json, answer: Some(answer) }))
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

    fn give_out(&mut self, request: TokenRequest) -> TokenRequest {
        self.under_way = Some(request.kind);
        request
    }

    fn serve_waiting(&mut self, settled: &Settled, now: Instant) -> Option<TokenRequest> {
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Some(ask) = waiting.pop_front() {
            let request = match (ask, settled) {
                // Asking again would only run the same request again, and so on while anybody waits.
                (AuthRequest::Pass { answer, .. }, Settled::Failed(error)) => {
                    let _ = answer.send(Err(error.clone()));
                    None
                }
                (ask, _) => self.handle(ask, now),
            };
            if request.is_some() {
                self.waiting.extend(waiting);
                return request;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::cloud::host::check_host;

    fn queue() -> AuthQueue {
        let account = SessionAccount {
            username: "me@example.com".to_owned(),
            password: Some(Secret::new("pretend".to_owned())),
            terminal: uuid::Uuid::nil(),
            host: check_host("https://wap.tplinkcloud.com").unwrap(),
            memory: crate::transport::cloud::session::AccountMemory::default(),
        };
        AuthQueue::new(account, None)
    }

    fn pass() -> (AuthRequest, oneshot::Receiver<Result<Arc<Token>, CloudError>>) {
        let (answer, answered) = oneshot::channel();
        (AuthRequest::Pass { refused: None, answer }, answered)
    }

    fn token() -> Granted {
        Granted { token: Secret::new("token".to_owned()), refresh_token: None }
    }

    #[test]
    fn a_hundred_who_want_a_token_at_once_make_one_login() {
        let (mut queue, now) = (queue(), Instant::now());
        let mut waiting = Vec::new();
        let mut errands = 0;
        for _ in 0..100 {
            let (ask, answered) = pass();
            errands += usize::from(queue.take(ask, now).is_some());
            waiting.push(answered);
        }
        assert_eq!((errands, queue.waiting()), (1, 100));
        let (settled, next) = queue.settle(Ok(token()), now);
        assert!(matches!(settled, Settled::Granted(_)) && next.is_none());
        assert!(waiting.iter_mut().all(|answered| matches!(answered.try_recv(), Ok(Ok(_)))));
    }

    #[test]
    fn a_login_by_hand_waits_for_the_one_under_way_and_is_made_after_it() {
        let (mut queue, now) = (queue(), Instant::now());
        let (ask, gone) = pass();
        drop(gone);
        assert!(queue.take(ask, now).is_none(), "nobody waits for it any more");
        let (ask, mut answered) = pass();
        assert!(queue.take(ask, now).is_some());
        let (answer, _logged_in) = oneshot::channel();
        assert!(
            queue.take(AuthRequest::Login { password: Secret::new("new".to_owned()), answer }, now).is_none()
        );
        let (_, next) = queue.settle(Err(ApiError::Code(-20601)), now);
        assert!(matches!(answered.try_recv(), Ok(Err(CloudError::Stopped(_)))));
        assert!(next.is_some_and(|request| request.answer.is_some()), "the user's own comes all the same");
        let (later, _kept) = pass();
        assert!(queue.take(later, now + Duration::from_secs(1)).is_none(), "it waits again");
    }
}
