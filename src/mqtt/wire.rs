//! The socket to the broker: resolving, connecting, TLS. MQTT itself is spoken one room further up.
//!
//! It refuses to guess: each step that can fail has an error of its own, because the remedy differs. The files of
//! certificates and keys are read anew for each connection, so that a renewed certificate is used without a restart.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use rumqttc::DisconnectReasonCode;
use rumqttc::tokio_rustls::TlsConnector;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::TlsOptions;
use crate::secret::Draft;

/// The largest PEM file that is read: the authorities of a whole system have some 250 kB.
const LARGEST_PEM: u64 = 16 << 20;

/// A stream to a broker, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Why there is no stream, told apart by the remedy.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The host's name leads nowhere.
    #[error("its name cannot be resolved ({0})")]
    Resolve(io::Error),
    /// The host is there, the port is not.
    #[error("connection refused")]
    Refused,
    /// Any other reason that the system gives.
    #[error("{0}")]
    Connect(io::Error),
    /// A file that the config names cannot be used.
    #[error("{file}: {why}", file = .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system has no root certificates, and the config names none.
    #[error("the system has no root certificates")]
    NoRoots,
    /// The two sides do not come to terms.
    #[error("{0}")]
    Handshake(io::Error),
}

impl From<WireError> for io::Error {
    fn from(error: WireError) -> Self {
        Self::other(error)
    }
}

/// How far a connection came, as seen from the socket. Shared between the stream and those who explain its end.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    stage: Stage,
    /// The first bytes that the broker sent.
    first: Vec<u8>,
    /// The last bytes that it sent.
    last: Vec<u8>,
}

impl Seen {
    fn read(&mut self, bytes: &[u8]) {
        let room = FIRST - self.first.len();
        self.first.extend(bytes.iter().take(room));
        self.last.extend(&bytes[bytes.len().saturating_sub(LAST)..]);
        self.last.drain(..self.last.len().saturating_sub(LAST));
    }
}

/// As many bytes as a CONNACK of MQTT 3 has.
const FIRST: usize = 4;
/// As many bytes as the shortest DISCONNECT with a reason has.
const LAST: usize = 3;

/// The stages of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stage {
    /// Asking for the host's addresses.
    #[default]
    Resolving,
    /// Looking for the host.
    Dialling,
    /// The host answered; TLS has yet to be agreed upon.
    Handshake,
    /// MQTT may be spoken.
    Open,
}

impl Progress {
    pub(super) fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// Whether the broker's first words were a refusal in MQTT 3: a CONNACK of two bytes with a reason.
    pub(super) fn is_refusal_in_mqtt_3(&self) -> bool {
        matches!(self.lock().first[..], [0x20, 0x02, 0x00, 1..=5])
    }

    /// The reason in a DISCONNECT of the shortest form, which the specification allows and the client that we use
    /// does not read.
    pub(super) fn last_words(&self) -> Option<DisconnectReasonCode> {
        match self.lock().last[..] {
            [0xE0, 0x01, code] => DisconnectReasonCode::try_from(code).ok(),
            _ => None,
        }
    }

    fn reach(&self, stage: Stage) {
        self.lock().stage = stage;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a stream to the broker.
pub(super) async fn open(
    host: &str,
    port: u16,
    tls: Option<&TlsOptions>,
    progress: Progress,
) -> Result<Tap, WireError> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(WireError::Resolve)?;
    progress.reach(Stage::Dialling);
    let tcp = dial(addresses).await?;
    // A command's result must not wait for the next one.
    tcp.set_nodelay(true).map_err(WireError::Connect)?;
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(tcp),
        Some(options) => {
            progress.reach(Stage::Handshake);
            let name = ServerName::try_from(host.to_owned())
                .map_err(|why| WireError::Handshake(io::Error::other(why)))?;
            let options = options.clone();
            // Files may lie on a disk that takes its time.
            let config = tokio::task::spawn_blocking(move || tls_config(&options))
                .await
                .map_err(|error| WireError::Handshake(io::Error::other(error)))??;
            let handshake = TlsConnector::from(Arc::new(config)).connect(name, tcp);
            Box::new(handshake.await.map_err(WireError::Handshake)?)
        }
    };
    progress.reach(Stage::Open);
    Ok(Tap { stream, progress })
}

/// Tries the addresses of a name one after the other.
async fn dial(addresses: impl Iterator<Item = std::net::SocketAddr>) -> Result<TcpStream, WireError> {
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => WireError::Refused,
        Some(error) => WireError::Connect(error),
        None => WireError::Resolve(io::Error::other("no address")),
    })
}

/// What is trusted and what is shown, read from the files of this moment.
pub(super) fn tls_config(options: &TlsOptions) -> Result<ClientConfig, WireError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| WireError::Handshake(io::Error::other(error)))?
        .with_root_certificates(roots(options.ca_file.as_deref())?);
    let Some((certificate_file, key_file)) = &options.client else {
        return Ok(config.with_no_client_auth());
    };
    let chain = certificates(certificate_file)?;
    let key = PrivateKeyDer::from_pem_slice(behind_mark(&pem(key_file)?))
        .map_err(|error| WireError::File { file: key_file.clone(), why: pem_fault(&error, "private key") })?;
    config.with_client_auth_cert(chain, key).map_err(|error| WireError::File {
        file: certificate_file.clone(),
        why: format!("does not go with the key in {}: {error}", key_file.display()),
    })
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, WireError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca_file else {
        // A broken certificate among the system's is no reason to trust none of them.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(WireError::NoRoots) } else { Ok(roots) };
    };
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| WireError::File { file: file.to_owned(), why: error.to_string() })?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let fault = |error: &rustls::pki_types::pem::Error| WireError::File {
        file: file.to_owned(),
        why: pem_fault(error, "certificate"),
    };
    let pem = pem(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(behind_mark(&pem)).collect();
    match found {
        Ok(found) if found.is_empty() => Err(fault(&rustls::pki_types::pem::Error::NoItemsFound)),
        Ok(found) => Ok(found),
        Err(error) => Err(fault(&error)),
    }
}

/// What stands in a PEM file. It may be a private key, so it is wiped when it has been read.
fn pem(file: &Path) -> Result<Draft, WireError> {
    let read = File::open(file).and_then(|opened| Draft::read(opened, LARGEST_PEM));
    read.map_err(|error| WireError::File { file: file.to_owned(), why: format!("cannot be read: {error}") })
}

/// The byte order mark that some editors put before a text is no part of its first line.
fn behind_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

/// What is wrong with a PEM file, without a word of what it holds.
fn pem_fault(error: &rustls::pki_types::pem::Error, wanted: &str) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => format!("cannot be read: {error}"),
        rustls::pki_types::pem::Error::NoItemsFound => format!("holds no {wanted} in PEM form"),
        _ => format!("is not a PEM file with a {wanted}"),
    }
}

/// A stream that hears a broker out.
///
/// It remembers the first and the last bytes that came in, for those who explain the end. And it lets a write pass
/// that fails because the broker has hung up: its last words, which say why, are still to be read.
pub(super) struct Tap {
    stream: Box<dyn Stream>,
    progress: Progress,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() {
            self.progress.lock().read(&buf.filled()[before..]);
        }
        polled
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        hear_out(Pin::new(&mut self.stream).poll_write(cx, buf), buf.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        hear_out(Pin::new(&mut self.stream).poll_flush(cx), ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Takes a broken pipe for done; the reader finds the end behind the last words.
fn hear_out<T>(polled: Poll<io::Result<T>>, done: T) -> Poll<io::Result<T>> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match polled {
        Poll::Ready(Err(error))
            if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) =>
        {
            Poll::Ready(Ok(done))
        }
        polled => polled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(ca: Option<PathBuf>, client: Option<(PathBuf, PathBuf)>) -> TlsOptions {
        TlsOptions { ca_file: ca, client }
    }

    #[test]
    fn a_certificate_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.pem");
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let broken = folder.path().join("broken.pem");
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
        let nonsense = folder.path().join("nonsense.pem");
        std::fs::write(&nonsense, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        for (file, hint) in [
            (&missing, "cannot be read"),
            (&empty, "holds no certificate"),
            (&broken, "is not a PEM file"),
            (&nonsense, ""),
        ] {
            let error = tls_config(&options(Some(file.clone()), None)).unwrap_err().to_string();
            assert!(error.starts_with(&file.display().to_string()), "{error}");
            assert!(error.contains(hint), "{error}");
            assert!(!error.contains("AAAA"), "{error}");
        }
    }

    #[test]
    fn a_byte_order_mark_before_a_certificate_does_not_hide_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let pem = "-----BEGIN CERTIFICATE-----\r\nAAAA\r\n-----END CERTIFICATE-----\r\n";
        std::fs::write(&file, format!("\u{feff}{pem}")).unwrap();
        assert_eq!(certificates(&file).unwrap().len(), 1);
    }

    #[test]
    fn the_first_and_the_last_words_are_remembered_however_they_are_cut() {
        for size in 1..=7 {
            let progress = Progress::default();
            for part in [0x20, 2, 0, 5, 9, 9, 9, 9, 0xE0, 0x01, 0x8E].chunks(size) {
                progress.lock().read(part);
            }
            assert!(progress.is_refusal_in_mqtt_3());
            assert_eq!(progress.last_words(), Some(DisconnectReasonCode::SessionTakenOver));
        }
        let progress = Progress::default();
        progress.lock().read(&[0x20, 3, 0, 0, 0]);
        assert!(!progress.is_refusal_in_mqtt_3());
        assert_eq!(progress.last_words(), None);
    }

    #[tokio::test]
    async fn a_port_without_a_listener_is_refused_and_a_name_without_an_address_is_not_resolved() {
        // Held, so that nobody else comes to listen there.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = held.local_addr().unwrap().port();
        let progress = Progress::default();
        assert!(matches!(open("127.0.0.1", port, None, progress.clone()).await, Err(WireError::Refused)));
        assert_eq!(progress.stage(), Stage::Dialling);
        let error = open("no such host", port, None, progress).await.err();
        assert!(matches!(error, Some(WireError::Resolve(_))), "{error:?}");
    }
}
