//! One question to the Supervisor over HTTP, bounded in time and size. No error text holds the token, a password or a body.

use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::uri::Uri;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::paths::Environment;
use crate::model::{Address, shown};
use crate::secret::{Secret, SecretBuf};

/// Where the Supervisor is in an app's container.
const ADDRESS: &str = "http://supervisor";
/// How long a question may take: the Supervisor answers from its memory.
const WITHIN: Duration = Duration::from_secs(5);
/// The largest answer, in bytes. That about the app holds its whole documentation.
const LARGEST: usize = 1 << 20;
/// The most characters of the Supervisor's own words that are repeated.
const MAX_MESSAGE: usize = 200;
/// The Supervisor's words while no app offers a broker.
const NOT_ENABLED: &str = "not enabled";

/// The Supervisor, and the token with which it is asked.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    host: String,
    port: u16,
    token: Option<Secret>,
}

/// The broker that another app offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BrokerService {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) has_tls: bool,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
}

/// Why the Supervisor gave no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SupervisorFailure {
    /// The environment has no token.
    #[error("it gave no token: `hs100d app` runs only in the container of the Home Assistant app")]
    NoToken,
    /// The token is not the one of this start.
    #[error("it refuses the token: restart the app")]
    BadToken,
    /// No app offers a broker.
    #[error("it knows no broker: install and start the Mosquitto app, or fill in the options below mqtt")]
    NoBroker,
    /// The app may not ask this.
    #[error("it does not allow the app to ask ({0}): rebuild or update the app")]
    Forbidden(String),
    /// Another refusal.
    #[error("it answers with the status {0} ({1}): see the Supervisor's log")]
    Refused(u16, String),
    /// No connection.
    #[error("it cannot be reached ({0}): see whether the Supervisor runs")]
    Unreachable(String),
    /// No answer in time.
    #[error("it does not answer within {} s: see the Supervisor's log", WITHIN.as_secs())]
    Silent,
    /// The connection ended too early.
    #[error("it ends the connection before its answer is complete: see the Supervisor's log")]
    CutOff,
    /// Not what the Supervisor says.
    #[error("its answer cannot be used ({0}): see the Supervisor's log, or update the app")]
    Nonsense(&'static str),
}

/// What every answer is wrapped in.
#[derive(Deserialize)]
struct SuccessBody<T> {
    data: Option<T>,
}

#[derive(Deserialize)]
struct ErrorBody {
    message: Option<String>,
}

#[derive(Deserialize)]
struct MqttData {
    host: String,
    port: u16,
    #[serde(default)]
    ssl: bool,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
struct AppData {
    ip_address: Option<IpAddr>,
    ingress_port: Option<u16>,
}

impl Supervisor {
    /// As `$SUPERVISOR_API` and `$SUPERVISOR_TOKEN` say, which the Supervisor sets.
    ///
    /// # Errors
    /// The address is no URL with http and a host.
    pub(crate) fn of(environment: &Environment) -> Result<Self, String> {
        let text = environment.get("SUPERVISOR_API").map_or(ADDRESS.into(), |text| text.to_string_lossy());
        let uri: Option<Uri> = text.parse().ok();
        let uri = uri.filter(|uri| uri.scheme_str() == Some("http"));
        let Some((host, port)) = uri.and_then(|uri| {
            Some((uri.host()?.trim_matches(['[', ']']).to_owned(), uri.port_u16().unwrap_or(80)))
        }) else {
            return Err("SUPERVISOR_API: must be a URL like \"http://supervisor\": correct it, or unset it"
                .to_owned());
        };
        Ok(Self { host, port, token: token(environment) })
    }

    /// The broker that another app offers.
    ///
    /// # Errors
    /// There is none, or it cannot be known now.
    pub(crate) async fn broker(&self) -> Result<BrokerService, SupervisorFailure> {
        let MqttData { host, port, ssl, username, password } = self.ask("/services/mqtt").await?;
        let password = password.filter(|text| !text.is_empty()).map(Secret::new);
        if port == 0 || Address::new(&host, port).is_none() {
            return Err(SupervisorFailure::Nonsense("its broker has no usable host and port"));
        }
        Ok(BrokerService {
            host,
            port,
            has_tls: ssl,
            username: username.filter(|text| !text.is_empty()),
            password,
        })
    }

    /// Where the Supervisor expects the status page; `None` if the app has none.
    ///
    /// # Errors
    /// It cannot be known now.
    pub(crate) async fn ingress(&self) -> Result<Option<SocketAddr>, SupervisorFailure> {
        let AppData { ip_address, ingress_port } = self.ask("/addons/self/info").await?;
        let Some(port) = ingress_port.filter(|port| *port != 0) else { return Ok(None) };
        // To listen on every interface would show the page to the whole network.
        let address = ip_address.filter(|address| !address.is_unspecified() && !address.is_multicast());
        let address = address.ok_or(SupervisorFailure::Nonsense("the app has no usable address"))?;
        Ok(Some(SocketAddr::new(address, port)))
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, SupervisorFailure> {
        let token = self.token.as_ref().ok_or(SupervisorFailure::NoToken)?;
        let answer = timeout(WITHIN, self.get(path, token)).await;
        let (status, body) = answer.unwrap_or(Err(SupervisorFailure::Silent))?;
        if status != StatusCode::OK {
            return Err(refusal(status, &body));
        }
        let envelope: SuccessBody<T> = serde_json::from_slice(&body)
            .map_err(|_| SupervisorFailure::Nonsense("it is not the expected JSON"))?;
        envelope.data.ok_or(SupervisorFailure::Nonsense("it has no data"))
    }

    async fn get(&self, path: &str, token: &Secret) -> Result<(StatusCode, SecretBuf), SupervisorFailure> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .map_err(|_| SupervisorFailure::BadToken)?;
        bearer.set_sensitive(true);
        let request = Request::get(path).header(HOST, self.host.as_str()).header(AUTHORIZATION, bearer);
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|_| SupervisorFailure::Unreachable("SUPERVISOR_API has no usable host".to_owned()))?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|error| SupervisorFailure::Unreachable(reason(&error)))?;
        let (mut requests, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // Ends when this is dropped. An error is reported to the request that it ends.
        let mut task = JoinSet::new();
        task.spawn(async { drop(connection.await) });
        let response = requests.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let (mut incoming, mut body) = (response.into_body(), SecretBuf::default());
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
            if body.len() + data.len() > LARGEST {
                return Err(SupervisorFailure::Nonsense("it is too large"));
            }
            // Cannot fail: the buffer is in memory.
            body.write_all(&data).map_err(|_| SupervisorFailure::CutOff)?;
        }
        Ok((status, body))
    }
}

/// Whether this process was started by a Supervisor.
pub(crate) fn is_in_app(environment: &Environment) -> bool {
    token(environment).is_some()
}

/// Without the password.
impl fmt::Display for BrokerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, has_tls, username, .. } = self;
        write!(f, "{host}:{port}{}", if *has_tls { " with TLS" } else { "" })?;
        match username {
            Some(user) => write!(f, ", user {}", shown(user, MAX_MESSAGE)),
            None => f.write_str(", without a login"),
        }
    }
}

fn token(environment: &Environment) -> Option<Secret> {
    let token = ["SUPERVISOR_TOKEN", "HASSIO_TOKEN"].into_iter().find_map(|name| environment.get(name))?;
    Some(Secret::new(token.to_str()?.to_owned()))
}

fn refusal(status: StatusCode, body: &[u8]) -> SupervisorFailure {
    let message = serde_json::from_slice::<ErrorBody>(body).ok().and_then(|refusal| refusal.message);
    let message = message.map(|message| shown(&message, MAX_MESSAGE));
    let words = message.unwrap_or_else(|| "without a reason".to_owned());
    match status {
        StatusCode::BAD_REQUEST if words.contains(NOT_ENABLED) => SupervisorFailure::NoBroker,
        StatusCode::UNAUTHORIZED => SupervisorFailure::BadToken,
        StatusCode::FORBIDDEN => SupervisorFailure::Forbidden(words),
        status => SupervisorFailure::Refused(status.as_u16(), words),
    }
}

/// The reason in words that do not differ from attempt to attempt.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "its host refuses the connection".to_owned(),
        _ => shown(&error.to_string(), MAX_MESSAGE),
    }
}

fn broken(error: &hyper::Error) -> SupervisorFailure {
    if error.is_parse() { SupervisorFailure::Nonsense("it is not HTTP") } else { SupervisorFailure::CutOff }
}
