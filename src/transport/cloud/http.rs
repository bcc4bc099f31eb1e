//! HTTP for the cloud: one POST, one bounded response. Knows hosts and bytes, not what they mean.
//!
//! Follows no redirect: it would send a password or a token to an unchecked host. No error text holds a URL or a body.

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
use crate::transport::cloud::api::HttpResponse;
use crate::transport::cloud::error::{ApiError, ConnectError};
use crate::transport::cloud::host::TrustedHost;
use crate::transport::cloud::request::ApiRequest;
use crate::transport::lan::fd_budget::is_out_of_files;

/// To connect, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// An idle connection is closed after this time, before the server closes it during a request.
const IDLE: Duration = Duration::from_secs(50);
/// Idle connections to one host. Calls are a second apart on average, so few run at once.
const IDLE_CONNECTIONS: usize = 4;

/// A client with its connection pool. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct HttpClient {
    client: Client,
}

/// The limits of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct HttpLimits {
    /// When the whole response must be there.
    pub(crate) deadline: Instant,
    /// The largest response, in bytes.
    pub(crate) size: usize,
    /// Whether to send the request again if the connection breaks before a response. For idempotent requests only, so never
    /// for a password.
    pub(crate) resend: bool,
}

impl HttpClient {
    /// A client for an account on this host. Loads the system's certificate authorities, except for a loopback host.
    ///
    /// # Errors
    /// There are no certificate authorities.
    pub(super) fn new(account: &TrustedHost) -> Result<Self, reqwest::Error> {
        Ok(Self { client: prepare(account).build()? })
    }

    /// Posts JSON and reads the response, whatever its status.
    pub(super) async fn post(
        &self,
        host: &TrustedHost,
        request: ApiRequest,
        limits: HttpLimits,
    ) -> Result<HttpResponse, ApiError> {
        let url = match request.query.as_str() {
            "" => host.url().to_owned(),
            query => format!("{}?{query}", host.url()),
        };
        let json = request.body.into_bytes();
        let exchange = async {
            let response = match self.send(&url, json.clone()).await {
                Err(ApiError::Broken) if limits.resend => self.send(&url, json).await?,
                sent => sent?,
            };
            read(response, limits.size).await
        };
        timeout_at(limits.deadline.into(), exchange).await.unwrap_or(Err(ApiError::TimedOut))
    }

    async fn send(&self, url: &str, json: Bytes) -> Result<Response, ApiError> {
        let json_type = HeaderValue::from_static("application/json");
        let request = self.client.post(url).header(CONTENT_TYPE, json_type).body(json);
        request.send().await.map_err(|error| sort(&error))
    }
}

fn prepare(account: &TrustedHost) -> ClientBuilder {
    // The one TLS provider of the process. Fails if it is installed already.
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
        // Cannot fail: the buffer is in memory.
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

/// Why there is no connection, as far as the reason decides what to do.
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
            // `source` of an io::Error skips the error that it wraps.
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

/// A certificate is often refused because the clock is not set yet; `ApiError` therefore says to retry.
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

    /// The error of a call over https to a server that handles its first connection so.
    async fn call(serve: impl FnOnce(std::net::TcpStream) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host =
            TrustedHost::unchecked(&format!("https://localhost:{}/", listener.local_addr().unwrap().port()));
        let client = prepare(&host).no_proxy().build();
        let http = HttpClient { client: client.expect("certificate authorities on the machine that tests") };
        let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
        let limits = HttpLimits { deadline: Instant::now() + CONNECT, size: 1, resend: false };
        let error = http.post(&host, ApiRequest::default(), limits).await.unwrap_err();
        server.join().unwrap();
        assert!(matches!(error, ApiError::Unreachable(_)), "{error:?}");
        error.to_string()
    }

    #[tokio::test]
    async fn a_self_signed_certificate_is_not_accepted() {
        let error = call(|mut stream| {
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
        assert!(error.contains("certificate") && error.contains("clock"), "{error}");
    }

    #[tokio::test]
    async fn a_host_without_tls_has_an_error_of_its_own() {
        let error = call(|mut stream| {
            let _ = stream.read(&mut [0; 16]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        })
        .await;
        assert!(error.contains("TLS failed"), "{error}");
    }
}
