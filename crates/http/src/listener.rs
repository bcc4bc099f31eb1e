//! The listening socket: a TCP port, or a Unix socket with its file.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::listen::Listen;

/// The owner and the group may connect to a Unix socket.
const SOCKET_MODE: u32 = 0o660;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 128;
/// A client that is silent for this long is asked whether it is still there: a phone that left the Wi-Fi says no goodbye.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// One that does not acknowledge what was sent to it is cut off after this time, in milliseconds. The kernel alone would wait
/// for a quarter of an hour, and the place of a stream of events would be taken for so long.
const UNACKNOWLEDGED_MS: u32 = 60_000;

/// The connection of a client.
pub(super) trait ClientStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ClientStream for T {}

/// Who connected.
pub(super) enum NewConnection {
    Client(Box<dyn ClientStream>),
    /// Somebody who may not connect. The connection is closed.
    Stranger(IpAddr),
}

/// Listens until it is dropped.
#[derive(Debug)]
pub(super) enum HttpListener {
    /// With the one address that may connect, if not all may.
    Tcp(TcpListener, Option<IpAddr>),
    Unix(UnixListener, #[expect(dead_code, reason = "removes the file on drop")] SocketFile),
}

impl HttpListener {
    /// # Errors
    /// The address is taken, or may not be used.
    pub(super) fn bind(listen: &Listen, only_from: Option<IpAddr>) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?, only_from))
            }
            Listen::Unix(path) => {
                let (listener, file) = bind_unix(path)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?, file))
            }
        }
    }

    /// The address with its port; `None` for a Unix socket.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener, _) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// It cannot be accepted.
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<NewConnection>> {
        Poll::Ready(match self {
            Self::Tcp(listener, only_from) => {
                let (stream, peer) = ready!(listener.poll_accept(cx))?;
                if only_from.is_some_and(|only| peer.ip().to_canonical() != only) {
                    return Poll::Ready(Ok(NewConnection::Stranger(peer.ip())));
                }
                prepare(&stream);
                Ok(NewConnection::Client(Box::new(stream)))
            }
            Self::Unix(listener, _) => {
                Ok(NewConnection::Client(Box::new(ready!(listener.poll_accept(cx))?.0)))
            }
        })
    }
}

/// Without these options a connection is slower, or is kept for longer, and works all the same.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS);
}

fn bind_unix(path: &Path) -> io::Result<(std::os::unix::net::UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = unix_socket()?;
    socket.bind(&SockAddr::unix(path)?).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            io::Error::new(error.kind(), "the folder of the socket does not exist: make it")
        }
        _ => error,
    })?;
    let file = SocketFile::of(path)?;
    // Nobody can connect before `listen`.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    Ok((socket.into(), file))
}

fn unix_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Removes the socket of a process that was killed. One on which a process listens is kept, and so is every other file.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type().is_socket(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !is_socket {
        let what = "there is a file that is no socket: remove it, or choose another path";
        return Err(io::Error::new(ErrorKind::AlreadyExists, what));
    }
    match unix_socket()?.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        // It also is in use while its queue is full (`WouldBlock`).
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens on this socket")),
    }
}

/// The file of a Unix socket. Removed on drop, unless another process has made a new one there.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: id_of(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id_of(&self.path).is_ok_and(|id| id == self.id) {
            // The next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn id_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;

    use super::*;

    fn bind(path: &Path) -> io::Result<HttpListener> {
        HttpListener::bind(&Listen::Unix(path.to_owned()), None)
    }

    #[tokio::test]
    async fn a_client_that_acknowledges_nothing_is_not_kept_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream);
        let timeout = rustix::net::sockopt::tcp_user_timeout(&stream).unwrap();
        assert_eq!(timeout, UNACKNOWLEDGED_MS);
        assert!(SockRef::from(&stream).keepalive().unwrap() && stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_unix_socket_is_for_owner_and_group_and_is_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_the_socket_of_a_dead_process_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let stale = folder.path().join("stale.sock");
        drop(StdListener::bind(&stale).unwrap());
        assert!(bind(&stale).is_ok());

        let live = folder.path().join("live.sock");
        let other = StdListener::bind(&live).unwrap();
        assert_eq!(bind(&live).unwrap_err().kind(), ErrorKind::AddrInUse);
        other.set_nonblocking(true).unwrap();
        assert!(other.accept().is_ok(), "it is still there");

        let file = folder.path().join("notes.txt");
        fs::write(&file, "text").unwrap();
        let link = folder.path().join("link.sock");
        std::os::unix::fs::symlink(&stale, &link).unwrap();
        for kept in [&file, &link, &folder.path().to_owned()] {
            assert_eq!(bind(kept).unwrap_err().kind(), ErrorKind::AlreadyExists, "{kept:?}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");

        let nowhere = bind(&folder.path().join("run/http.sock")).unwrap_err();
        assert!(nowhere.to_string().contains("does not exist: make it"), "{nowhere}");
    }

    #[tokio::test]
    async fn the_new_socket_of_another_process_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let listener = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = StdListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }
}
