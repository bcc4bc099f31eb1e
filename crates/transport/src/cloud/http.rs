//! HTTP for the cloud: one POST, one bounded response. Knows hosts and bytes, not what they mean.
//!
//! Follows no redirect: it would send a password or a token to an unchecked host. No error text holds a URL or a body.

use std::error::Error;
use std::io::Write;
use std::mem;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Response};
use tokio::time::timeout_at;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::cloud::api::HttpResponse;
use crate::cloud::error::{ApiError, CloudStartError, ConnectError};
use crate::cloud::host::TrustedHost;
use crate::cloud::request::ApiRequest;
use crate::lan::fd_budget::is_out_of_files;
use hs100d_core::secret::SecretBuf;

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
    /// A client for an account on this host. Loads the system's certificate authorities, except for a loopback host, and
    /// those of `ca_file`.
    ///
    /// # Errors
    /// There are no certificate authorities.
    pub(super) fn new(account: &TrustedHost, ca_file: Option<&Path>) -> Result<Self, CloudStartError> {
        Self::build(prepare(account), ca_file)
    }

    fn build(client: ClientBuilder, ca_file: Option<&Path>) -> Result<Self, CloudStartError> {
        let extra = ca_file.map(read_authorities).transpose()?.unwrap_or_default();
        let client = client.tls_certs_merge(extra).build();
        Ok(Self { client: client.map_err(|_| CloudStartError::NoAuthorities)? })
    }

    /// Posts JSON and reads the response, whatever its status.
    pub(super) async fn post(
        &self,
        host: &TrustedHost,
        request: ApiRequest,
        limits: HttpLimits,
    ) -> Result<HttpResponse, ApiError> {
        let exchange = async {
            let response = match self.send(host, &request).await {
                Err(ApiError::Broken) if limits.resend => self.send(host, &request).await?,
                sent => sent?,
            };
            read(response, limits.size).await
        };
        timeout_at(limits.deadline.into(), exchange).await.unwrap_or(Err(ApiError::TimedOut))
    }

    async fn send(&self, host: &TrustedHost, request: &ApiRequest) -> Result<Response, ApiError> {
        // The URL of a host ends with a slash, and a path begins with one.
        let base = host.url().trim_end_matches('/');
        let url = match request.query.as_str() {
            "" => Zeroizing::new(format!("{base}{}", request.path)),
            query => Zeroizing::new(format!("{base}{}?{query}", request.path)),
        };
        let post = self.client.post(url.as_str()).body(request.body.clone());
        let post = match &request.keys {
            None => post.header(CONTENT_TYPE, HeaderValue::from_static("application/json")),
            Some(keys) => {
                let signed = keys.sign(request.path, &request.body, Uuid::new_v4());
                post.header(CONTENT_TYPE, HeaderValue::from_static("application/json;charset=UTF-8"))
                    .header("Content-MD5", &signed.content_md5)
                    .header("X-Authorization", sensitive(&signed.authorization))
            }
        };
        post.send().await.map_err(|error| match sort(&error) {
            ApiError::Unreachable(ConnectError::Certificate) if host.has_private_authority() => {
                ApiError::Unreachable(ConnectError::PrivateAuthority)
            }
            error => error,
        })
    }
}

/// A header that no debug text shows.
fn sensitive(text: &str) -> HeaderValue {
    // The config accepts only keys that fit into a header.
    let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// The certificates of a file; at least one.
fn read_authorities(path: &Path) -> Result<Vec<Certificate>, CloudStartError> {
    let bad = |why: String| CloudStartError::Authorities(format!("{} {why}", path.display()).into());
    let pem = std::fs::read(path).map_err(|error| bad(format!("cannot be read: {error}")))?;
    let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    match certificates.is_empty() {
        true => Err(bad("holds no certificate in PEM form: correct the file, or remove the line".to_owned())),
        false => Ok(certificates),
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

    /// An authority, and a server with a certificate of it that answers one request.
    fn authority() -> (String, impl FnOnce(std::net::TcpStream) + Send + 'static) {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap().der().clone();
        let serve = move |mut stream: std::net::TcpStream| {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let config = rustls::ServerConfig::builder()
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
                .unwrap();
            let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let mut tls = rustls::Stream::new(&mut tls, &mut stream);
            // Fails if the client does not trust the authority.
            if tls.read(&mut [0; 4096]).is_ok() {
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            }
        };
        (authority.pem(), serve)
    }

    #[tokio::test]
    async fn an_authority_of_the_users_own_is_trusted_if_the_config_names_its_file_and_only_then() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for is_named in [true, false] {
            let (pem, serve) = authority();
            std::fs::write(file.path(), pem).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let host = TrustedHost::unchecked(&format!("https://localhost:{port}/"));
            let http = HttpClient::build(prepare(&host).no_proxy(), is_named.then_some(file.path())).unwrap();
            let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
            let limits = HttpLimits { deadline: Instant::now() + CONNECT, size: 100, resend: false };
            let request = ApiRequest { path: "/", ..ApiRequest::default() };
            let response = http.post(&host, request, limits).await;
            server.join().unwrap();
            match is_named {
                true => assert_eq!(response.unwrap().body, "{}"),
                false => assert_eq!(response, Err(ApiError::Unreachable(ConnectError::Certificate))),
            }
        }
    }

    #[test]
    fn a_file_without_authorities_is_refused_by_its_name() {
        let host = TrustedHost::unchecked("https://localhost/");
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = |path: &Path| HttpClient::new(&host, Some(path)).unwrap_err().to_string();
        for text in ["", "not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
            std::fs::write(file.path(), text).unwrap();
            let error = error(file.path());
            assert!(
                error.starts_with("cloud.v2.ca_file: /") && error.contains("holds no certificate"),
                "{error}"
            );
        }
        assert!(error(Path::new("/nonexistent/ca.pem")).contains("/nonexistent/ca.pem cannot be read"));
    }

    #[test]
    fn hosts_with_a_certificate_of_tp_links_own_authority_are_known_by_their_names() {
        for (url, is_private) in [
            ("https://n-wap.tplinkcloud.com/", true),
            ("https://n-use1-wap-gw.i.tplinkcloud.com/", true),
            ("https://use1-wap.i.tplinkcloud.com/", true),
            ("https://wap.tplinkcloud.com/", false),
            ("https://eu-wap.tplinkcloud.com/", false),
            ("http://127.0.0.1:1/", false),
        ] {
            assert_eq!(TrustedHost::unchecked(url).has_private_authority(), is_private, "{url}");
        }
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
