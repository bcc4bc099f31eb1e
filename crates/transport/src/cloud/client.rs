//! A call with the account's token: admitted, sent, repeated once with another token if that was refused, and reported to
//! the session.

use std::sync::Arc;
use std::time::Instant;

use crate::cloud::account_host::AccountHost;
use crate::cloud::api::HttpResponse;
use crate::cloud::auth_task::AuthHandle;
use crate::cloud::error::{ApiError, CloudError};
use crate::cloud::host::TrustedHost;
use crate::cloud::http::{HttpClient, HttpLimits};
use crate::cloud::outage::About;
use crate::cloud::request::{ApiRequest, CloudApi};
use crate::cloud::session::{RefusedToken, Token};
use hs100d_core::bridge::counters::{CloudMethod, CloudRequests, CodeClass};
use hs100d_core::secret::Secret;

/// Makes calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct CloudClient {
    pub auth: AuthHandle,
    pub(crate) http: HttpClient,
    /// Where the account's own calls go.
    pub(crate) account: AccountHost,
    pub(crate) api: Arc<CloudApi>,
    pub(crate) requests: CloudRequests,
}

pub(super) struct AccountCall<'a, W, R> {
    pub(crate) method: CloudMethod,
    /// `None`: that of the account.
    pub(crate) host: Option<&'a TrustedHost>,
    /// A command: waits for the rate limit, and may use the calls that polls leave.
    pub(crate) urgent: bool,
    pub(crate) deadline: Instant,
    /// The largest response, in bytes.
    pub(crate) size: usize,
    /// The plug that the cloud forwards it to and waits for. A time-out is then not the cloud's.
    pub(crate) about: About,
    /// Makes the request with a token.
    pub(crate) request: W,
    /// Parses the response.
    pub(crate) read: R,
}

impl CloudClient {
    /// Makes the call, at most twice.
    pub(super) async fn call<T, W, R>(&self, call: AccountCall<'_, W, R>) -> Result<T, CloudError>
    where
        W: Fn(&Secret) -> ApiRequest,
        R: Fn(&HttpResponse) -> Result<T, ApiError>,
    {
        let token = self.auth.acquire(call.urgent, call.deadline).await?;
        match self.send(&call, &token).await {
            Err(error) if error.refuses_the_token() => {
                let refused = RefusedToken { number: token.number, error };
                let token = self.auth.renew(refused, call.deadline).await?;
                let result = self.send(&call, &token).await;
                self.report(&call, &token, result).await
            }
            result => self.report(&call, &token, result).await,
        }
    }

    async fn send<T, W, R>(&self, call: &AccountCall<'_, W, R>, token: &Token) -> Result<T, ApiError>
    where
        W: Fn(&Secret) -> ApiRequest,
        R: Fn(&HttpResponse) -> Result<T, ApiError>,
    {
        // Each request to a plug may be sent twice: it sets an absolute state, or the plug is already rebooting.
        let limits = HttpLimits { deadline: call.deadline, size: call.size, resend: true };
        let request = (call.request)(&token.token);
        let response = match call.host {
            Some(host) => self.http.post(host, request, limits).await,
            None => self.account.post(&self.http, request, limits).await,
        };
        let result = response.and_then(|response| (call.read)(&response));
        self.requests.count(call.method, result.as_ref().err().map_or(CodeClass::Ok, ApiError::class));
        result
    }

    async fn report<T, W, R>(
        &self,
        call: &AccountCall<'_, W, R>,
        token: &Token,
        result: Result<T, ApiError>,
    ) -> Result<T, CloudError> {
        match result {
            Ok(value) => {
                self.auth.answered(token, call.about.clone()).await;
                Ok(value)
            }
            Err(ApiError::TimedOut) if call.about.is_some() => Err(CloudError::Silent),
            Err(error) => Err(self.auth.failed(token, call.about.clone(), error).await),
        }
    }
}
