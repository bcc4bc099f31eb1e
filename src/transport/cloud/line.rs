//! One call on the account's behalf: let in, sent with a token, repeated once with another if the token was at
//! fault, and told to the session.

use std::time::Instant;

use crate::secret::{Draft, Secret};
use crate::transport::cloud::CloudError;
use crate::transport::cloud::api::{Page, Trouble};
use crate::transport::cloud::codes::Reaction;
use crate::transport::cloud::host::Host;
use crate::transport::cloud::http::{Http, Limits};
use crate::transport::cloud::keeper::Gate;
use crate::transport::cloud::outage::About;
use crate::transport::cloud::session::{Pass, Refused};

/// The way to the cloud. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Where calls are let in.
    pub gate: Gate,
    /// What carries them.
    pub http: Http,
    /// Where the account lives.
    pub account: Host,
}

/// One call.
pub(super) struct Call<'a, W, R> {
    /// Where to.
    pub host: &'a Host,
    /// Goes before polls, and waits for its turn.
    pub urgent: bool,
    /// By when it must be over.
    pub deadline: Instant,
    /// The largest answer, in bytes.
    pub size: usize,
    /// The plug that the cloud passes it on to and waits for; silence then says nothing about the cloud.
    pub about: About,
    /// What to say, given the token.
    pub words: W,
    /// What the answer means.
    pub read: R,
}

impl Line {
    /// Makes a call, at most twice.
    pub(super) async fn call<T, W, R>(&self, call: Call<'_, W, R>) -> Result<T, CloudError>
    where
        W: Fn(&Secret) -> Draft,
        R: Fn(&Page) -> Result<T, Trouble>,
    {
        let pass = self.gate.enter(call.urgent, call.deadline).await?;
        match self.send(&call, &pass).await {
            Err(trouble) if is_the_tokens_fault(&trouble) => {
                let refused = Refused { pass: pass.number, trouble };
                let pass = self.gate.renew(refused, call.deadline).await?;
                let result = self.send(&call, &pass).await;
                self.conclude(&call, &pass, result).await
            }
            result => self.conclude(&call, &pass, result).await,
        }
    }

    async fn send<T, W, R>(&self, call: &Call<'_, W, R>, pass: &Pass) -> Result<T, Trouble>
    where
        W: Fn(&Secret) -> Draft,
        R: Fn(&Page) -> Result<T, Trouble>,
    {
        // All that is asked of plugs may be said twice: states are absolute, and a reboot is under way by then.
        let limits = Limits { deadline: call.deadline, size: call.size, resend: true };
        let page = self.http.post(call.host, (call.words)(&pass.token), limits).await?;
        (call.read)(&page)
    }

    async fn conclude<T, W, R>(
        &self,
        call: &Call<'_, W, R>,
        pass: &Pass,
        result: Result<T, Trouble>,
    ) -> Result<T, CloudError> {
        match result {
            Ok(value) => {
                self.gate.answered(pass, call.about.clone()).await;
                Ok(value)
            }
            Err(Trouble::TimedOut) if call.about.is_some() => Err(CloudError::Silent),
            Err(trouble) => Err(self.gate.failed(pass, call.about.clone(), trouble).await),
        }
    }
}

fn is_the_tokens_fault(trouble: &Trouble) -> bool {
    matches!(trouble.reaction(), Reaction::Renew | Reaction::Login | Reaction::Elsewhere)
}
