//! The host of the account's own calls (login, refresh, list), which the second version of the API names by the account.
//!
//! With the first version it is the host of the config. With the second, the cloud is asked once; the answer holds until
//! the config is read again. No password is sent before.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cloud::api::{self, HttpResponse};
use crate::cloud::error::ApiError;
use crate::cloud::host::TrustedHost;
use crate::cloud::http::{HttpClient, HttpLimits};
use crate::cloud::request::{ApiRequest, CloudApi};

/// Finds the host. Cheap to clone; the clones share what was found.
#[derive(Debug, Clone)]
pub(super) struct AccountHost {
    /// The host of the config.
    entry: TrustedHost,
    /// The e-mail address that the cloud is asked about.
    username: Arc<str>,
    api: Arc<CloudApi>,
    found: Arc<Mutex<Option<TrustedHost>>>,
}

impl AccountHost {
    pub(super) fn new(entry: TrustedHost, username: &str, api: Arc<CloudApi>) -> Self {
        Self { entry, username: username.into(), api, found: Arc::default() }
    }

    /// The host of the config. It decides which servers may be trusted.
    pub(super) fn entry(&self) -> &TrustedHost {
        &self.entry
    }

    /// The account's e-mail address.
    pub(super) fn username(&self) -> &str {
        &self.username
    }

    /// The host of the account; asks the cloud if it is not known yet.
    pub(super) async fn find(&self, http: &HttpClient, limits: HttpLimits) -> Result<TrustedHost, ApiError> {
        if let Some(found) = self.known() {
            return Ok(found);
        }
        let Some(request) = self.api.account_host(&self.username) else { return Ok(self.entry.clone()) };
        let response = http.post(&self.entry, request, limits).await?;
        let named = match self.named_instead(&response)? {
            Some(named) => named,
            None => self.check(api::read_account_host(&response)?.as_deref())?,
        };
        self.set(&named);
        Ok(named)
    }

    /// Posts a request to the host of the account. If that names another one in its place, asks there, once.
    pub(super) async fn post(
        &self,
        http: &HttpClient,
        request: ApiRequest,
        limits: HttpLimits,
    ) -> Result<HttpResponse, ApiError> {
        let host = self.find(http, limits).await?;
        let response = http.post(&host, request.clone(), limits).await?;
        match self.named_instead(&response)? {
            Some(named) if named != host => {
                self.set(&named);
                http.post(&named, request, limits).await
            }
            _ => Ok(response),
        }
    }

    /// The host in an answer that this is the wrong one.
    fn named_instead(&self, response: &HttpResponse) -> Result<Option<TrustedHost>, ApiError> {
        if !self.api.is_signed() {
            return Ok(None);
        }
        api::read_right_host(response).map(|named| self.check(Some(&named))).transpose()
    }

    /// A host that the cloud names, if it may get a password. Without a name: that of the config.
    fn check(&self, named: Option<&str>) -> Result<TrustedHost, ApiError> {
        let Some(named) = named else { return Ok(self.entry.clone()) };
        self.entry.check_server(named).map_err(|refused| {
            ApiError::NotAnAnswer(format!("the account names a server that is not used: {refused}").into())
        })
    }

    fn known(&self) -> Option<TrustedHost> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, host: &TrustedHost) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(host.clone());
    }
}
