//! HTTP for the cloud: one POST, one bounded answer. Knows hosts and bytes, not what they mean.
//!
//! Redirects are never followed, because a redirect would replay a password or a token to a host that nobody
//! checked. No error text holds a URL or a body.

use std::error::Error;
use std::io::Write;
use std::mem;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response};
use tokio::time::timeout_at;

use crate::secret::SecretBuf;
use crate::transport::cloud::api::{ApiError, ConnectError, HttpResponse};
use crate::transport::cloud::host::TrustedHost;
use crate::transport::lan::fd_budget::is_out_of_files;

/// For one connection to come about, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// A kept connection that rests for longer is closed, before the other end does it under a request.
const IDLE: Duration = Duration::from_secs(50);
/// Kept connections to one host. Calls are a second apart on average, so that few run side by side.
const IDLE_CONNECTIONS: usize = 4;

/// A client with its pool of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct HttpClient {
    client: Client,
}

/// How far one call may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct HttpLimits {
    /// By when the whole answer must be there.
    pub deadline: Instant,
    /// The largest answer, in bytes.
    pub size: usize,
    /// Whether the request is sent again when a connection breaks before anything came back. Right for what can
    /// be said twice without harm, and so never for a password.
    pub resend: bool,
}

impl HttpClient {
    /// A client for an account on this host. Reads the system's certificate authorities unless the account lives
    /// on loopback; fails when there are none.
    pub(super) fn new(account: &TrustedHost) -> Result<Self, reqwest::Error> {
        Ok(Self { client: prepare(account).build()? })
    }

    /// Posts JSON and reads the answer, whatever its status.
    pub(super) async fn post(
        &self,
        host: &TrustedHost,
        json: SecretBuf,
        limits: HttpLimits,
    ) -> Result<HttpResponse, ApiError> {
        let json = json.into_bytes();
        let exchange = async {
            let response = match self.send(host, json.clone()).await {
                Err(ApiError::Broken) if limits.resend => self.send(host, json).await?,
                sent => sent?,
            };
            read(response, limits.size).await
        };
        timeout_at(limits.deadline.into(), exchange).await.unwrap_or(Err(ApiError::TimedOut))
    }

    async fn send(&self, host: &TrustedHost, json: Bytes) -> Result<Response, ApiError> {
        let json_type = HeaderValue::from_static("application/json");
        let request = self.client.post(host.url()).header(CONTENT_TYPE, json_type).body(json);
        request.send().await.map_err(|error| sort(&error))
    }
}

fn prepare(account: &TrustedHost) -> ClientBuilder {
    // The one TLS provider of the process; an error says that it has been chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .tcp_nodelay(true)
        .user_agent(concat!("hs100d/", env!("CARGO_PKG_VERSION")));
    match account.is_loopback() {
        true => builder.no_proxy().tls_certs_only([]),
        false => builder.https_only(true),
    }
}

async fn read(mut response: Response, limit: usize) -> Result<HttpResponse, ApiError> {
    let status = response.status().as_u16();
    let mut body = SecretBuf::default();
    while let Some(chunk) = response.chunk().await.map_err(|error| sort(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(ApiError::TooLarge);
        }
        // Memory takes all that fits into the limit.
        body.write_all(&chunk).map_err(|_| ApiError::TooLarge)?;
    }
    let body = match body.into_text() {
        Ok(mut text) => mem::take(&mut *text),
        Err((bytes, _)) => String::from_utf8_lossy(&bytes).into_owned(),
    };
    Ok(HttpResponse { status, body })
}

fn sort(error: &reqwest::Error) -> ApiError {
    if error.is_connect() {
        ApiError::Unreachable(why_unreachable(error))
    } else if error.is_timeout() {
        ApiError::TimedOut
    } else {
        ApiError::Broken
    }
}

/// What stands between us and the host, told apart wherever something can be done about it.
fn why_unreachable(error: &reqwest::Error) -> ConnectError {
    if error.is_timeout() {
        return ConnectError::Silent;
    }
    if error.is_dns() {
        return ConnectError::NameUnresolved;
    }
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return sort_tls(tls);
        }
        let io = error.downcast_ref::<std::io::Error>();
        if let Some(inner) = io.and_then(std::io::Error::get_ref) {
            // The wrapped error is not among an io::Error's sources; its own sources are.
            cause = Some(inner);
            continue;
        }
        if io.is_some_and(is_out_of_files) {
            return ConnectError::OutOfFiles;
        }
        if let Some(io) = io {
            return ConnectError::Other(io.kind().to_string().into());
        }
        cause = error.source();
    }
    "the connection failed".into()
}

/// A certificate that does not fit is often a clock that was not set yet, so this passes by itself.
fn sort_tls(error: &rustls::Error) -> ConnectError {
    use rustls::{CertificateError as Bad, Error as Tls};
    match error {
        Tls::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        ) => ConnectError::Clock,
        Tls::InvalidCertificate(_) => ConnectError::Certificate,
        _ => ConnectError::Tls,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;

    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    /// What becomes of a call over https to a server that treats its first connection so.
    async fn call(serve: impl FnOnce(std::net::TcpStream) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host =
            TrustedHost::unchecked(&format!("https://localhost:{}/", listener.local_addr().unwrap().port()));
        let client = prepare(&host).no_proxy().build();
        let http = HttpClient { client: client.expect("certificate authorities on the machine that tests") };
        let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
        let limits = HttpLimits { deadline: Instant::now() + CONNECT, size: 1, resend: false };
        let trouble = http.post(&host, SecretBuf::default(), limits).await.unwrap_err();
        server.join().unwrap();
        assert!(matches!(trouble, ApiError::Unreachable(_)), "{trouble:?}");
        trouble.to_string()
    }

    #[tokio::test]
    async fn a_certificate_that_nobody_vouches_for_is_not_accepted() {
        let said = call(|mut stream| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
            let config = rustls::ServerConfig::builder()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
            let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let mut read = Vec::new();
            // Ends in the client's refusal, before it has sent anything.
            let _ = rustls::Stream::new(&mut tls, &mut stream).read_to_end(&mut read);
            assert_eq!(read, b"");
        })
        .await;
        assert!(said.contains("certificate") && said.contains("clock"), "{said}");
    }

    #[tokio::test]
    async fn a_host_that_speaks_no_tls_is_told_apart() {
        let said = call(|mut stream| {
            let _ = stream.read(&mut [0; 16]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        })
        .await;
        assert!(said.contains("TLS failed"), "{said}");
    }
}
