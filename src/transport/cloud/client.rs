//! One call on the account's behalf: let in, sent with a token, repeated once with another if the token was at
//! fault, and told to the session.

use std::time::Instant;

use crate::secret::{Secret, SecretBuf};
use crate::transport::cloud::CloudError;
use crate::transport::cloud::api::{ApiError, HttpResponse};
use crate::transport::cloud::auth_task::AuthHandle;
use crate::transport::cloud::codes::Reaction;
use crate::transport::cloud::host::TrustedHost;
use crate::transport::cloud::http::{HttpClient, HttpLimits};
use crate::transport::cloud::outage::About;
use crate::transport::cloud::session::{RefusedToken, Token};

/// The way to the cloud. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct CloudClient {
    /// Where calls are let in.
    pub gate: AuthHandle,
    /// What carries them.
    pub http: HttpClient,
    /// Where the account lives.
    pub account: TrustedHost,
}

/// One call.
pub(super) struct AccountCall<'a, W, R> {
    /// Where to.
    pub host: &'a TrustedHost,
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

impl CloudClient {
    /// Makes a call, at most twice.
    pub(super) async fn call<T, W, R>(&self, call: AccountCall<'_, W, R>) -> Result<T, CloudError>
    where
        W: Fn(&Secret) -> SecretBuf,
        R: Fn(&HttpResponse) -> Result<T, ApiError>,
    {
        let pass = self.gate.enter(call.urgent, call.deadline).await?;
        match self.send(&call, &pass).await {
            Err(error) if is_the_tokens_fault(&error) => {
                let refused = RefusedToken { pass: pass.number, trouble: error };
                let pass = self.gate.renew(refused, call.deadline).await?;
                let result = self.send(&call, &pass).await;
                self.conclude(&call, &pass, result).await
            }
            result => self.conclude(&call, &pass, result).await,
        }
    }

    async fn send<T, W, R>(&self, call: &AccountCall<'_, W, R>, pass: &Token) -> Result<T, ApiError>
    where
        W: Fn(&Secret) -> SecretBuf,
        R: Fn(&HttpResponse) -> Result<T, ApiError>,
    {
        // All that is asked of plugs may be said twice: states are absolute, and a reboot is under way by then.
        let limits = HttpLimits { deadline: call.deadline, size: call.size, resend: true };
        let page = self.http.post(call.host, (call.words)(&pass.token), limits).await?;
        (call.read)(&page)
    }

    async fn conclude<T, W, R>(
        &self,
        call: &AccountCall<'_, W, R>,
        pass: &Token,
        result: Result<T, ApiError>,
    ) -> Result<T, CloudError> {
        match result {
            Ok(value) => {
                self.gate.answered(pass, call.about.clone()).await;
                Ok(value)
            }
            Err(ApiError::TimedOut) if call.about.is_some() => Err(CloudError::Silent),
            Err(error) => Err(self.gate.failed(pass, call.about.clone(), error).await),
        }
    }
}

fn is_the_tokens_fault(error: &ApiError) -> bool {
    matches!(error.reaction(), Reaction::Renew | Reaction::Login | Reaction::Elsewhere)
}
