//! The socket to the broker: name resolution, TCP by `dial`, TLS. It does not know MQTT.
//!
//! Each step that can fail has an error of its own, because the remedy differs. Certificate and key files are read for each
//! connection, so that a renewed certificate is used without a restart.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rumqttc::tokio_rustls::TlsConnector;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::certificates::Verifier;
use super::dial::{DialOrder, Dialled, dial};
use super::packets::Packets;
use super::settings::TlsOptions;
use crate::secret::SecretBuf;

/// The largest PEM file that is read, in bytes: the root certificates of a system have some 250 kB.
const MAX_PEM_SIZE: u64 = 16 << 20;

/// A stream to a broker, with or without TLS.
pub(super) trait BrokerStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> BrokerStream for T {}

/// Why there is no stream, sorted by the remedy.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// The host's name cannot be resolved.
    #[error("its name cannot be resolved ({0})")]
    Resolve(io::Error),
    /// The host answers, but no program listens on the port.
    #[error("connection refused")]
    Refused,
    /// Any other reason of the operating system.
    #[error("{0}")]
    Connect(io::Error),
    /// A file that the config names cannot be used.
    #[error("{file}: {why}", file = .file.display())]
    File { file: PathBuf, why: String },
    /// The system has no root certificates, and the config names none.
    #[error("the system has no root certificates")]
    NoRoots,
    /// The TLS handshake failed.
    #[error("{0}")]
    Handshake(io::Error),
}

impl From<SocketError> for io::Error {
    fn from(error: SocketError) -> Self {
        Self::other(error)
    }
}

/// How far a connection came, as seen from the socket. Shared by the stream and the code that explains its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectProgress(Arc<Mutex<Reached>>);

#[derive(Debug, Default)]
struct Reached {
    stage: Stage,
    /// The address that has accepted TCP.
    address: Option<SocketAddr>,
    /// [`Dialled::better`].
    better: Option<SocketAddr>,
    /// The first bytes that the broker sent.
    first: Vec<u8>,
    packets: Packets,
}

impl Reached {
    fn read(&mut self, bytes: &[u8], out: &mut BytesMut) {
        let room = FIRST_BYTES - self.first.len();
        self.first.extend(bytes.iter().take(room));
        self.packets.read(bytes, out);
    }
}

/// The length of a CONNACK in MQTT 3, in bytes.
const FIRST_BYTES: usize = 4;
/// The most bytes that are read at once.
const CHUNK: usize = 8 * 1024;
/// The first byte of a CONNACK, a DISCONNECT and an AUTH: the packets with which a broker may begin.
const FIRST_PACKETS: [u8; 3] = [0x20, 0xE0, 0xF0];

/// The stages of a connection, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stage {
    /// The host's name is being resolved.
    #[default]
    Resolving,
    /// TCP is connecting.
    Dialling,
    /// TCP is connected; the TLS handshake is running.
    Handshake,
    /// MQTT packets can be exchanged.
    Open,
}

impl ConnectProgress {
    pub(super) fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// The address that has accepted TCP.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.lock().address
    }

    /// The address of the host that is this installation's own, if another one has accepted TCP.
    pub(super) fn better_address(&self) -> Option<SocketAddr> {
        self.lock().better
    }

    /// Whether the broker began with a refusal in MQTT 3: a CONNACK of two bytes with a return code.
    pub(super) fn is_refusal_in_mqtt_3(&self) -> bool {
        matches!(self.lock().first[..], [0x20, 0x02, 0x00, 1..=5])
    }

    /// Whether the broker sent nothing at all.
    pub(super) fn is_silent(&self) -> bool {
        self.lock().first.is_empty()
    }

    /// Whether the broker began with a TLS record, an alert or a handshake message.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.lock().first[..], [0x15 | 0x16, 0x03, ..])
    }

    /// Whether the broker began with something else than one of [`FIRST_PACKETS`].
    pub(super) fn is_no_mqtt(&self) -> bool {
        self.lock().first.first().is_some_and(|first| !FIRST_PACKETS.contains(first))
    }

    /// The reason code of a packet's acknowledgement, if MQTT 5 has no reason of this number.
    pub(super) fn take_reason(&self, id: u16) -> Option<u8> {
        self.lock().packets.take_reason(id)
    }

    /// The reason code of the broker's DISCONNECT, if MQTT 5 has no reason of this number.
    pub(super) fn disconnect_reason(&self) -> Option<u8> {
        self.lock().packets.disconnect_reason()
    }

    /// The progress after these bytes from the broker.
    #[cfg(test)]
    pub(super) fn having_read(bytes: &[u8]) -> Self {
        let progress = Self::default();
        progress.lock().read(bytes, &mut BytesMut::new());
        progress
    }

    fn accepted(&self, address: SocketAddr, better: Option<SocketAddr>) {
        let mut reached = self.lock();
        (reached.address, reached.better) = (Some(address), better);
    }

    fn reach(&self, stage: Stage) {
        self.lock().stage = stage;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Reached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a stream to the broker.
pub(super) async fn open(
    host: &str,
    port: u16,
    tls: Option<&TlsOptions>,
    order: &DialOrder,
    progress: ConnectProgress,
) -> Result<Socket, SocketError> {
    let addresses = resolve(host, port).await?;
    let host = without_brackets(host);
    progress.reach(Stage::Dialling);
    let Dialled { stream: tcp, address, better } =
        dial(order, &addresses).await.map_err(|error| match error {
            Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => SocketError::Refused,
            Some(error) => SocketError::Connect(error),
            None => SocketError::Resolve(io::Error::other("no address")),
        })?;
    progress.accepted(address, better);
    // Without this a command's result would wait for the next packet.
    tcp.set_nodelay(true).map_err(SocketError::Connect)?;
    let stream: Box<dyn BrokerStream> = match tls {
        None => Box::new(tcp),
        Some(options) => {
            progress.reach(Stage::Handshake);
            let name = ServerName::try_from(host.to_owned())
                .map_err(|why| SocketError::Handshake(io::Error::other(why)))?;
            let options = options.clone();
            // Reading files may block.
            let config = tokio::task::spawn_blocking(move || tls_config(&options))
                .await
                .map_err(|error| SocketError::Handshake(io::Error::other(error)))??;
            let handshake = TlsConnector::from(Arc::new(config)).connect(name, tcp);
            Box::new(handshake.await.map_err(SocketError::Handshake)?)
        }
    };
    progress.reach(Stage::Open);
    Ok(Socket { stream, progress, chunk: vec![0; CHUNK].into(), readable: BytesMut::new() })
}

/// The addresses of a host.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, SocketError> {
    let resolved = tokio::net::lookup_host((without_brackets(host), port)).await;
    resolved.map(Iterator::collect).map_err(SocketError::Resolve)
}

fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Reads the certificate and key files.
pub(super) fn tls_config(options: &TlsOptions) -> Result<ClientConfig, SocketError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| SocketError::Handshake(io::Error::other(error)))?;
    let config = match &options.ca_file {
        None => config.with_root_certificates(system_roots()?),
        Some(file) => {
            let certificates = certificates(file)?;
            let verifier = Verifier::new(roots(file, &certificates)?, certificates, provider)
                .map_err(|error| SocketError::File { file: file.clone(), why: error.to_string() })?;
            config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let Some((certificate_file, key_file)) = &options.client else {
        return Ok(config.with_no_client_auth());
    };
    let chain = certificates(certificate_file)?;
    let key = PrivateKeyDer::from_pem_slice(without_bom(&pem(key_file)?)).map_err(|error| {
        SocketError::File { file: key_file.clone(), why: pem_error(&error, "private key") }
    })?;
    config.with_client_auth_cert(chain, key).map_err(|error| SocketError::File {
        file: certificate_file.clone(),
        why: format!("does not go with the key in {}: {error}", key_file.display()),
    })
}

fn system_roots() -> Result<RootCertStore, SocketError> {
    let mut roots = RootCertStore::empty();
    // An invalid certificate among the system's does not make the others unusable.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(SocketError::NoRoots) } else { Ok(roots) }
}

fn roots(file: &Path, certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, SocketError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| {
            let why = format!("holds a certificate that cannot be used: {error}");
            SocketError::File { file: file.to_owned(), why }
        })?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, SocketError> {
    let fault = |error: &rustls::pki_types::pem::Error| SocketError::File {
        file: file.to_owned(),
        why: pem_error(error, "certificate"),
    };
    let pem = pem(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(without_bom(&pem)).collect();
    match found {
        Ok(found) if found.is_empty() => Err(fault(&rustls::pki_types::pem::Error::NoItemsFound)),
        Ok(found) => Ok(found),
        Err(error) => Err(fault(&error)),
    }
}

/// The content of a PEM file. It may be a private key, so it is wiped after use.
fn pem(file: &Path) -> Result<SecretBuf, SocketError> {
    let read = File::open(file).and_then(|opened| SecretBuf::read(opened, MAX_PEM_SIZE));
    read.map_err(|error| SocketError::File { file: file.to_owned(), why: format!("cannot be read: {error}") })
}

/// Without the byte order mark that some editors put at the beginning.
fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

/// What is wrong with a PEM file; never quotes its content.
fn pem_error(error: &rustls::pki_types::pem::Error, wanted: &str) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => format!("cannot be read: {error}"),
        rustls::pki_types::pem::Error::NoItemsFound => format!("holds no {wanted} in PEM form"),
        _ => format!("is not a PEM file with a {wanted}"),
    }
}

/// The stream to the broker as the client library sees it.
///
/// It remembers the first bytes for the explanation of a failure, and passes the packets on as [`Packets`] corrects them. A
/// write that fails because the broker closed the connection succeeds: the broker's last packet, which has the reason, must
/// be read first.
pub(super) struct Socket {
    stream: Box<dyn BrokerStream>,
    progress: ConnectProgress,
    chunk: Box<[u8]>,
    /// Read from the stream and not passed on yet.
    readable: BytesMut,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.readable.is_empty() {
            let mut chunk = ReadBuf::new(&mut this.chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.progress.lock().read(chunk.filled(), &mut this.readable);
        }
        let part = this.readable.len().min(buf.remaining());
        buf.put_slice(&this.readable[..part]);
        this.readable.advance(part);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = ignore_closed(Pin::new(&mut self.stream).poll_write(cx, buf), buf.len());
        if let Poll::Ready(Ok(written)) = polled {
            self.progress.lock().packets.written(&buf[..written]);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ignore_closed(Pin::new(&mut self.stream).poll_flush(cx), ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Lets a write to a closed connection succeed; the next read returns the last packet and then the end.
fn ignore_closed<T>(polled: Poll<io::Result<T>>, done: T) -> Poll<io::Result<T>> {
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
            (&nonsense, "holds a certificate that cannot be used"),
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

    fn having_read(bytes: &[u8], size: usize) -> ConnectProgress {
        let progress = ConnectProgress::default();
        bytes.chunks(size).for_each(|part| progress.lock().read(part, &mut BytesMut::new()));
        progress
    }

    #[test]
    fn the_first_bytes_tell_which_protocol_the_server_speaks() {
        for size in 1..=7 {
            let refusal = having_read(&[0x20, 2, 0, 5, 9, 9, 9, 9], size);
            assert!(refusal.is_refusal_in_mqtt_3() && !refusal.is_no_mqtt());
            let accepted = having_read(&[0x20, 3, 0, 0, 0], size);
            assert!(!accepted.is_refusal_in_mqtt_3() && !accepted.is_no_mqtt() && !accepted.is_tls());
            let tls = having_read(&[0x15, 3, 3, 0, 2, 2, 70], size);
            assert!(tls.is_tls() && tls.is_no_mqtt());
            let web = having_read(b"HTTP/1.1 400", size);
            assert!(!web.is_tls() && web.is_no_mqtt() && !web.is_silent());
        }
        assert!(ConnectProgress::default().is_silent());
    }

    #[tokio::test]
    async fn a_port_without_a_listener_is_refused_and_a_name_without_an_address_is_not_resolved() {
        // Bound, so that no other program listens there.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = held.local_addr().unwrap().port();
        let (order, progress) = (DialOrder::default(), ConnectProgress::default());
        assert!(matches!(
            open("127.0.0.1", port, None, &order, progress.clone()).await,
            Err(SocketError::Refused)
        ));
        assert_eq!(progress.stage(), Stage::Dialling);
        let error = open("no such host", port, None, &order, progress).await.err();
        assert!(matches!(error, Some(SocketError::Resolve(_))), "{error:?}");
    }
}
