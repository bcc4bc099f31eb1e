//! THE CLOUD WIRE: a plug reached through the account, over the V1 API.
//!
//! ```text
//!   Cloud ---- perform --> line --> http        one call, one token, one POST
//!     |                    |  ^
//!     |                    v  |
//!     |                  keeper --> queue       one task: who waits, the one login
//!     |                             session      the token's life, the pace, the mood
//!     +-- find, list --> directory              one task: which server has which plug
//! ```
//!
//! Below them, pure: `auth_queue` and `session`, `outage` (one plug's trouble or everybody's), `api` (the words), `codes`
//! (the table of errors), `host` (who may be sent a token), `pace` (how often). Nothing here touches the network before
//! the first call, nothing decides about routes, and no secret reaches a log, an error or a `Debug` text.

pub mod api;
pub mod auth_queue;
mod auth_task;
mod client;
pub mod codes;
mod device_list;
pub mod host;
mod http;
pub mod outage;
pub mod rate_limit;
pub mod session;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use uuid::Uuid;

use crate::backoff;
use crate::bridge::event::{CloudStatus, Event, Exchange, Outcome, Target};
use crate::model::{DeviceId, Failure};
use crate::secret::Secret;
use crate::smarthome::message::{NotAnAnswer, Reply};
use api::{ApiError, Row};
use auth_task::{AuthTask, StatusWatch};
use client::{AccountCall, CloudClient};
use codes::PlugFault;
use device_list::{DeviceListHandle, DeviceListTask};
use host::{BadHost, RefusedServer, check_host};
use http::HttpClient;
use session::{AccountMemory, SessionAccount};

/// The largest answer of a plug. The LAN's frames are bounded alike.
const PASSTHROUGH_SIZE: usize = 64 * 1024;

/// The account and where it lives.
#[derive(Clone, PartialEq, Eq)]
pub struct CloudOptions {
    /// The account's e-mail address.
    pub username: String,
    /// Its password; not needed while a token from `hs100d cloud login` is good.
    pub password: Option<Secret>,
    /// `https://wap.tplinkcloud.com`; plain http is accepted for loopback hosts only. Validated by `check_host`.
    pub url: String,
}

impl fmt::Debug for CloudOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What stays on disk of a login. Password equivalents.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The account that they belong to; tokens of another account are not used.
    pub username: String,
    /// Goes with every call.
    pub token: Secret,
    /// Buys a new token without the password.
    pub refresh_token: Option<Secret>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// Where tokens are kept over a restart.
pub trait TokenStore: Send + Sync {
    /// Replaces what was kept, before it returns. Called off the loop, so it may wait for the disk. An error is
    /// said and is not fatal; its text must hold no secret.
    fn save(&self, tokens: &Tokens) -> std::io::Result<()>;
}

/// Why there can be no cloud at all.
#[derive(Debug, thiserror::Error)]
pub enum CloudStartError {
    /// The config names a host that no password may be sent to.
    #[error("[cloud] url {0}")]
    Host(#[from] BadHost),
    /// There is nothing to check the cloud's certificate with.
    #[error("no certificate authorities are installed: install the package ca-certificates")]
    NoAuthorities,
}

/// Why a call to the cloud brought nothing, told apart by what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// Out of reach or out of order; passes by itself.
    #[error("the cloud is out of reach: {0}")]
    Down(Box<str>),
    /// The call was made, and no answer came in time.
    #[error("the cloud did not answer in time")]
    Silent,
    /// Calls are held back, by TP-Link or by our own pacing.
    #[error("calls to the cloud are being held back: wait a few minutes")]
    Throttled,
    /// Not used until the user acts. The text says why and what to do.
    #[error("the cloud is stopped: {0}")]
    Stopped(Box<str>),
    /// About the plug; the account is fine.
    #[error("{0}")]
    Plug(PlugFault),
    /// Calls about this plug, or for the list, fail, while calls about others are answered.
    #[error("these calls fail, while those for other plugs are answered: {0}")]
    OnlyHere(ApiError),
    /// The cloud finds fault with the request, which is ours.
    #[error("the cloud calls the request faulty ({name}, error {0}): please report this", name = codes::name(*.0))]
    Faulty(i64),
    /// Logged in, but only for as long as this process lives.
    #[error("logged in, but the token cannot be saved ({0}): make the state directory writable")]
    NotSaved(Box<str>),
}

/// The way to plugs through the account. Cheap to clone; its two tasks end with the last clone.
#[derive(Clone)]
pub struct Cloud {
    line: CloudClient,
    directory: DeviceListHandle,
    status: StatusWatch,
}

impl Cloud {
    /// Gets ready, inside a tokio runtime, without touching the network: the first call does.
    ///
    /// `terminal` names this installation to the account, for ever. `tokens` are what `vault` kept. What becomes
    /// known on the way goes out as [`Event::Account`] and, when it changes, [`Event::Cloud`]. `memory` is of
    /// the sessions before, if the account is set up anew.
    pub fn start(
        options: CloudOptions,
        terminal: Uuid,
        tokens: Option<Tokens>,
        vault: Arc<dyn TokenStore>,
        events: mpsc::UnboundedSender<Event>,
        memory: AccountMemory,
    ) -> Result<Self, CloudStartError> {
        let host = check_host(&options.url)?;
        let http = HttpClient::new(&host).map_err(|_| CloudStartError::NoAuthorities)?;
        let CloudOptions { username, password, .. } = options;
        let account = SessionAccount { username, password, terminal, host: host.clone(), memory };
        let (keeper, gate, moods) = AuthTask::new(account, tokens, http.clone(), vault, events.clone());
        let line = CloudClient { gate, http, account: host };
        let (reader, directory) = DeviceListTask::new(line.clone(), events, backoff::seed(terminal));
        tokio::spawn(keeper.run());
        tokio::spawn(reader.run());
        Ok(Self { line, directory, status: moods })
    }

    /// Carries an exchange to its plug and back, within its deadline. May be dropped at any time.
    pub async fn perform(&self, exchange: &Exchange) -> Outcome {
        Outcome::of(match &exchange.target {
            Target::Cloud { device_id } => self.pass_through(exchange, device_id).await,
            Target::Local { .. } => Err(Failure::Unsupported("an address on the LAN".into())),
        })
    }

    /// The account's devices. Asked of the account unless it was less than a minute ago; also sent as
    /// [`Event::Account`].
    pub async fn list(&self) -> Result<Vec<Row>, CloudError> {
        self.directory.list().await
    }

    /// Logs in with a password that the user has just given, whatever stood against it, and saves the token.
    pub async fn login(&self, password: Secret) -> Result<(), CloudError> {
        self.directory.rearm().await;
        self.line.gate.login(password).await
    }

    /// The user acted: what stopped the cloud is forgotten. `tokens` are what lies on disk by then; they are used
    /// unless a token in memory serves well.
    pub async fn rearm(&self, tokens: Option<Tokens>) {
        self.line.gate.rearm(tokens).await;
        self.directory.rearm().await;
    }

    /// Another takes its place: it makes no login or refresh any more, and saves nothing. Calls under way may end.
    pub async fn retire(&self) {
        self.line.gate.retire().await;
    }

    /// The mood of the cloud; `Off` until the first call has ended.
    pub fn status(&self) -> CloudStatus {
        self.status.status.borrow().clone()
    }

    /// What came back that stands behind a call that failed, as long as it does. Nothing where no call was made.
    pub fn trouble(&self) -> Option<ApiError> {
        self.status.trouble.borrow().clone()
    }

    async fn pass_through(&self, exchange: &Exchange, device_id: &DeviceId) -> Result<Reply, Failure> {
        if exchange.deadline <= Instant::now() {
            return Err(Failure::Silent);
        }
        let row = self.directory.find(device_id, exchange.deadline).await?;
        let result = self.ask_at(&row, exchange).await;
        match result {
            Err(CloudError::Plug(fault)) if seems_misplaced(&row, fault) => {
                match self.directory.find_moved(&row, exchange.deadline).await {
                    Some(moved) => self.ask_at(&moved, exchange).await?,
                    None => Err(fault.into()),
                }
            }
            result => result?,
        }
    }

    /// The plug's own verdict inside the cloud's.
    async fn ask_at(&self, row: &Row, exchange: &Exchange) -> Result<Result<Reply, Failure>, CloudError> {
        if !row.is_supported() {
            return Ok(Err(Failure::Unsupported("a device of the SMART family, such as Tapo".into())));
        }
        let server = match &row.server {
            Ok(server) => server,
            Err(RefusedServer { named, why }) => {
                let words = format!(
                    "the account names the server {named} for it, which is not used because it {why}: please report it"
                );
                return Ok(Err(Failure::CloudRefused(words.into())));
            }
        };
        let call = AccountCall {
            host: server,
            urgent: exchange.urgent,
            deadline: exchange.deadline,
            size: PASSTHROUGH_SIZE,
            about: Some(row.device_id.clone()),
            words: |token: &Secret| api::passthrough(token, &row.device_id, &exchange.request),
            read: |page: &api::HttpResponse| {
                let words = api::read_passthrough(page)?;
                Ok(read_reply(exchange, &row.device_id, &words))
            },
        };
        self.line.call(call).await
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl From<CloudError> for Failure {
    fn from(error: CloudError) -> Self {
        match error {
            CloudError::Down(why) => Self::CloudDown(why),
            CloudError::Silent => Self::Silent,
            CloudError::Throttled => Self::Throttled,
            CloudError::Stopped(why) => Self::CloudStopped(why),
            CloudError::Plug(fault) => fault.into(),
            CloudError::OnlyHere(trouble) => Self::CloudFailsHere(trouble.to_string().into()),
            CloudError::Faulty(_) => Self::CloudRefused(error.to_string().into()),
            CloudError::NotSaved(why) => Self::CloudDown(why),
        }
    }
}

impl From<PlugFault> for Failure {
    fn from(fault: PlugFault) -> Self {
        match fault {
            PlugFault::Offline => Self::CloudOffline,
            PlugFault::Silent => Self::Silent,
            PlugFault::NotListed => Self::NotInAccount,
            PlugFault::Unknown => Self::CloudRefused(fault.to_string().into()),
        }
    }
}

/// Whether a plug's fault may be the list's: the wrong region's server says "offline" of a plug that it does not
/// have, and a list from before the plug moved says anything.
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

fn read_reply(exchange: &Exchange, device_id: &DeviceId, words: &str) -> Result<Reply, Failure> {
    match exchange.request.read_reply(words.as_bytes(), exchange.known_info.as_ref()) {
        Ok(reply) => match device_id_in(&reply) {
            Some(found) if found != device_id => Err(Failure::WrongPlug { found: found.to_string().into() }),
            _ => Ok(reply),
        },
        Err(NotAnAnswer::Device { code, message }) => Err(Failure::Device { code, message }),
        Err(no_answer) => Err(match api::smart_error(words) {
            Some(code) => {
                Failure::Unsupported(format!("it answers as a Tapo device does, error {code}").into())
            }
            None => Failure::Garbage(no_answer.to_string().into()),
        }),
    }
}
