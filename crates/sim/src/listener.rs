//! A listening socket that refuses connections as soon as it is closed.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::ops::Deref;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};

/// The number of connections that may wait to be accepted.
pub(super) const BACKLOG: u32 = 128;

/// A listener that is shut down when it is dropped.
///
/// Closing alone is not enough: a child process that any thread of this process is starting holds a copy of each socket
/// until its `exec`. That copy would accept connections that are never served.
pub(super) struct Listener(TcpListener);

impl Listener {
    /// Listens at this address.
    ///
    /// # Errors
    /// If the address is taken, or this machine does not have it.
    pub(super) fn bind(address: SocketAddr, backlog: u32) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Without it, connections that ended a moment ago would keep a plug from returning to its address.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(backlog).map(Self)
    }
}

impl Deref for Listener {
    type Target = TcpListener;

    fn deref(&self) -> &TcpListener {
        &self.0
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn once_closed_it_refuses_also_while_a_program_that_is_being_started_holds_a_copy_of_it() {
        let listener = Listener::bind("127.0.0.11:0".parse().unwrap(), BACKLOG).unwrap();
        let address = listener.local_addr().unwrap();
        let copy = listener.as_fd().try_clone_to_owned().unwrap();
        drop(TcpStream::connect(address).await.unwrap());

        drop(listener);
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let again = Listener::bind(address, BACKLOG).unwrap();
        drop(TcpStream::connect(address).await.unwrap());
        drop((again, copy));
    }
}
