//! THE CLOUD: reaches a plug through the account, over TP-Link's API, in its first version or, with the keys of an app, in its
//! second.
//!
//! ```text
//!   Cloud ---- perform ---> client ---> http     one call: one token, one POST
//!     |                      |  ^
//!     |                      v  |
//!     |                   auth_task ---> session     one task: callers that wait, the one login or refresh
//!     +-- find, list ---> device_list            one task: which server each plug is connected to
//! ```
//!
//! `account_host` finds where the account's own calls go. Below them, without I/O: `session` (the token's life, the status),
//! `outage` (one plug fails or all of them), `request` and `api` (the messages), `signature`, `codes` (the table of errors),
//! `host` (the hosts that may get a token), `rate_limit` (how often). Nothing uses the network before the first call, nothing
//! decides about routes, and no secret reaches a log, an error or a `Debug` text.

mod account;
mod account_host;
pub mod api;
pub mod auth_task;
mod client;
pub mod codes;
mod device_list;
pub mod error;
pub mod host;
mod http;
pub(crate) mod outage;
pub mod rate_limit;
pub mod request;
pub mod session;
pub mod signature;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use uuid::Uuid;

pub use self::account::{CloudOptions, TokenStore, Tokens};
pub use self::error::{CloudError, CloudStartError};
use account_host::AccountHost;
use api::{Row, TwoStep};
use auth_task::{AuthTask, StatusWatch};
use client::{AccountCall, CloudClient};
use codes::PlugFault;
use device_list::{DeviceListHandle, DeviceListTask};
use error::ApiError;
use host::{RefusedServer, check_host};
use hs100d_core::backoff;
use hs100d_core::bridge::counters::CloudMethod;
use hs100d_core::bridge::event::{CloudStatus, Event, Exchange, Outcome, Target};
use hs100d_core::model::{DeviceId, Failure};
use hs100d_core::secret::Secret;
use hs100d_core::smarthome::message::{NotAnAnswer, Reply};
use http::{HttpClient, HttpLimits};
use request::{CloudApi, CodeBy, TypedCode};
use session::{AccountMemory, SessionAccount};

/// The largest reply of a plug, in bytes; the same limit as on the LAN.
const PASSTHROUGH_SIZE: usize = 64 * 1024;
/// For the request for a code.
const CODE_TIME: Duration = Duration::from_secs(10);
/// Its response is a few words.
const CODE_SIZE: usize = 64 * 1024;

/// Reaches plugs through the account. Cheap to clone; its two tasks end with the last clone.
#[derive(Clone)]
pub struct Cloud {
    client: CloudClient,
    devices: DeviceListHandle,
    status: StatusWatch,
}

impl Cloud {
    /// Starts the two tasks on the tokio runtime. The first call uses the network, not this.
    ///
    /// `terminal` identifies this installation to the account and must never change. `tokens` come from `store`. The device
    /// list is sent as [`Event::Account`], a new status as [`Event::Cloud`]. `memory` is that of the sessions before a reload.
    ///
    /// # Errors
    /// The URL is not one of the cloud's, or the machine has no certificate authorities.
    pub fn start(
        options: CloudOptions,
        terminal: Uuid,
        tokens: Option<Tokens>,
        store: Arc<dyn TokenStore>,
        events: mpsc::UnboundedSender<Event>,
        memory: AccountMemory,
    ) -> Result<Self, CloudStartError> {
        let host = check_host(&options.url)?;
        let http = HttpClient::new(&host, options.ca_file.as_deref())?;
        let CloudOptions { username, password, app, keys, .. } = options;
        let api = Arc::new(CloudApi::new(app, &terminal.to_string(), keys));
        let requests = memory.requests.clone();
        let account_host = AccountHost::new(host.clone(), &username, Arc::clone(&api));
        let account = SessionAccount { username, password, terminal, host, api: Arc::clone(&api), memory };
        let (auth_task, auth, status) =
            AuthTask::new(account, tokens, http.clone(), account_host.clone(), store, events.clone());
        let client = CloudClient { auth, http, account: account_host, api, requests };
        let (list_task, devices) = DeviceListTask::new(client.clone(), events, backoff::seed(terminal));
        tokio::spawn(auth_task.run());
        tokio::spawn(list_task.run());
        Ok(Self { client, devices, status })
    }

    /// Sends a request to a plug and returns its reply, before the deadline of the exchange. May be dropped at any time.
    pub async fn perform(&self, exchange: &Exchange) -> Outcome {
        Outcome::of(match &exchange.target {
            Target::Cloud { device_id } => self.pass_through(exchange, device_id).await,
            Target::Local { .. } => Err(Failure::Unsupported("an address on the LAN".into())),
        })
    }

    /// The account's devices, at most a minute old. Also sent as [`Event::Account`].
    pub async fn list(&self) -> Result<Vec<Row>, CloudError> {
        self.devices.list().await
    }

    /// Logs in with a password that the user has just typed, past every limit, and saves the token.
    pub async fn login(&self, password: Secret) -> Result<(), CloudError> {
        self.devices.rearm().await;
        self.client.auth.login(password, None).await
    }

    /// What the login needs that was just refused, if that is a code.
    pub fn two_step(&self) -> Option<TwoStep> {
        self.status.two_step.borrow().clone().filter(|_| self.client.api.is_signed())
    }

    /// Has a code sent to the owner of the account.
    ///
    /// # Errors
    /// The cloud sends none.
    pub async fn send_code(&self, by: CodeBy, password: &Secret) -> Result<(), CloudError> {
        let CloudClient { api, account, http, .. } = &self.client;
        let Some(request) = api.code(by, account.username(), password) else { return Ok(()) };
        let limits = HttpLimits { deadline: Instant::now() + CODE_TIME, size: CODE_SIZE, resend: false };
        let response = account.post(http, request, limits).await;
        let sent = response.and_then(|response| api::read_code_sent(&response));
        sent.map_err(|error| CloudError::Down(format!("no code was sent: {error}").into()))
    }

    /// Completes a login with the code that its owner has typed, and saves the token. Later logins need no code.
    pub async fn login_with_code(
        &self,
        password: Secret,
        two_step: &TwoStep,
        by: CodeBy,
        code: Secret,
    ) -> Result<(), CloudError> {
        let typed = TypedCode { process: two_step.process.clone(), by, code };
        self.client.auth.login(password, Some(typed)).await
    }

    /// The user acted: a stopped cloud is used again. `tokens` are the saved ones; they are used unless there is a token in
    /// use.
    pub async fn rearm(&self, tokens: Option<Tokens>) {
        self.client.auth.rearm(tokens).await;
        self.devices.rearm().await;
    }

    /// Another one takes its place: this one requests and saves no token from here on. Calls under way may end.
    pub async fn retire(&self) {
        self.client.auth.retire().await;
    }

    /// The status; `Off` until the first call has ended.
    pub fn status(&self) -> CloudStatus {
        self.status.status.borrow().clone()
    }

    /// The reason for a status that is not `Ok`, if a call failed.
    pub fn error(&self) -> Option<ApiError> {
        self.status.error.borrow().clone()
    }

    /// The account's e-mail address as TP-Link spells it; `None` until a login has told it.
    pub fn registered(&self) -> watch::Receiver<Option<String>> {
        self.status.registered.clone()
    }

    async fn pass_through(&self, exchange: &Exchange, device_id: &DeviceId) -> Result<Reply, Failure> {
        if exchange.deadline <= Instant::now() {
            return Err(Failure::Silent);
        }
        let row = self.devices.find(device_id, exchange.deadline).await?;
        match self.pass_through_at(&row, exchange).await {
            Err(CloudError::Plug(fault)) if seems_misplaced(&row, fault) => {
                match self.devices.find_moved(&row, exchange.deadline).await {
                    Some(moved) => self.pass_through_at(&moved, exchange).await?,
                    None => Err(fault.into()),
                }
            }
            result => result?,
        }
    }

    /// The outer result is the cloud's, the inner one the plug's.
    async fn pass_through_at(
        &self,
        row: &Row,
        exchange: &Exchange,
    ) -> Result<Result<Reply, Failure>, CloudError> {
        if !row.is_supported() {
            return Ok(Err(Failure::Unsupported("a device of the SMART family, such as Tapo".into())));
        }
        let server = match &row.server {
            Ok(server) => server,
            Err(RefusedServer { named, why }) => {
                let why = format!(
                    "the account names the server {named} for it, which is not used because it {why}: please report it"
                );
                return Ok(Err(Failure::CloudRefused(why.into())));
            }
        };
        let call = AccountCall {
            method: CloudMethod::Passthrough,
            host: Some(server),
            urgent: exchange.urgent,
            deadline: exchange.deadline,
            size: PASSTHROUGH_SIZE,
            about: Some(row.device_id.clone()),
            request: |token: &Secret| self.client.api.passthrough(token, &row.device_id, &exchange.request),
            read: |response: &api::HttpResponse| {
                let json = api::read_passthrough(response)?;
                Ok(read_reply(exchange, &row.device_id, &json))
            },
        };
        self.client.call(call).await
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Whether the list may be out of date. A server of the wrong region calls a plug offline that it does not know.
fn seems_misplaced(row: &Row, fault: PlugFault) -> bool {
    match fault {
        PlugFault::Offline => row.connected || !row.same_region,
        PlugFault::NotListed => true,
        PlugFault::Silent | PlugFault::Unknown => false,
    }
}

fn device_id_in(reply: &Reply) -> Option<&DeviceId> {
    match reply {
        Reply::SysInfo(reading) | Reply::Switched(Some(reading)) => reading.device.device_id.as_ref(),
        _ => None,
    }
}

fn read_reply(exchange: &Exchange, device_id: &DeviceId, json: &str) -> Result<Reply, Failure> {
    match exchange.request.read_reply(json.as_bytes(), exchange.known_info.as_ref()) {
        Ok(reply) => match device_id_in(&reply) {
            Some(found) if found != device_id => Err(Failure::WrongPlug { found: found.to_string().into() }),
            _ => Ok(reply),
        },
        Err(NotAnAnswer::Device { code, message }) => Err(Failure::Device { code, message }),
        Err(no_answer) => Err(match api::smart_error(json) {
            Some(code) => {
                Failure::Unsupported(format!("it answers as a Tapo device does, error {code}").into())
            }
            None => Failure::Garbage(no_answer.to_string().into()),
        }),
    }
}
