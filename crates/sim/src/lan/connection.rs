//! One TCP connection to a simulated plug that speaks the XOR protocol: frames in, frames out, and its faults.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::fault::LanFault;
use crate::handle::PlugHandle;
use crate::plug::SwitchedBy;
use hs100d_core::smarthome::cipher;
use hs100d_core::smarthome::frame::{self, Frame, HEADER_LEN};

/// Neither JSON nor UTF-8.
const GARBAGE: &[u8] = b"\xff\xfe<html>not a plug</html>";

/// The length that [`LanFault::HugeLength`] announces.
const HUGE: u32 = 0x7fff_ffff;

/// Serves one connection until one side ends it.
pub(super) async fn serve(mut stream: TcpStream, plug: PlugHandle) {
    let _open = Open::count(plug.clone());
    let _ = stream.set_nodelay(true);
    // How a connection ends matters only to the client.
    let _ = exchange_frames(&mut stream, &plug).await;
}

async fn exchange_frames(stream: &mut TcpStream, plug: &PlugHandle) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        match frame::parse(&received) {
            Frame::Whole { end } => {
                let mut request: Vec<u8> = received.drain(..end).skip(HEADER_LEN).collect();
                cipher::decrypt(&mut request);
                if answer(stream, plug, request).await? == Then::HangUp {
                    return Ok(());
                }
            }
            Frame::TooLarge(_) => return Ok(()),
            Frame::Incomplete(_) => {
                if read_some(stream, plug, &mut received).await? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

/// Reads what has arrived, once the plug is awake. Until then it reads nothing, so that a reset by the client discards
/// the request: Linux would return data from before the reset, the small network stack of a plug does not.
pub(super) async fn read_some(
    stream: &TcpStream,
    plug: &PlugHandle,
    received: &mut Vec<u8>,
) -> io::Result<usize> {
    let mut changes = plug.changes();
    loop {
        stream.readable().await?;
        while plug.read(|plug| plug.lan == LanFault::Asleep) {
            if changes.changed().await.is_err() {
                return Ok(0);
            }
        }
        if let Some(reset) = stream.take_error()? {
            return Err(reset);
        }
        let mut buffer = [0; 2048];
        match stream.try_read(&mut buffer) {
            Ok(length) => {
                received.extend_from_slice(&buffer[..length]);
                return Ok(length);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// What happens after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The connection stays open for the next one.
    GoOn,
    /// The connection is closed.
    HangUp,
}

async fn answer(stream: &mut TcpStream, plug: &PlugHandle, request: Vec<u8>) -> io::Result<Then> {
    let (fault, serves) = plug.read(|plug| (plug.lan, plug.dialect.speaks_xor()));
    match fault {
        _ if !serves => return Ok(Then::HangUp),
        // The fault was set after the connection was accepted; this task will be ended.
        LanFault::Refused | LanFault::NotAccepting | LanFault::PortDead | LanFault::PortFiltered => {
            return Ok(Then::HangUp);
        }
        LanFault::Silent => return lose_request(plug),
        LanFault::SilentButActs(after) => {
            tokio::spawn(act_late(plug.clone(), request, after));
            return Ok(Then::GoOn);
        }
        LanFault::ResetAfterRequest => {
            lose_request(plug)?;
            stream.set_zero_linger()?;
            return Ok(Then::HangUp);
        }
        LanFault::CloseWithoutReply => {
            lose_request(plug)?;
            return Ok(Then::HangUp);
        }
        LanFault::Latency(time) => sleep(time).await,
        _ => {}
    }
    let reply = plug.with(|plug| match fault {
        LanFault::DeviceError(code) => plug.refuse(&request, code, SwitchedBy::Lan),
        _ => plug.handle(&request, SwitchedBy::Lan, Instant::now()),
    });
    match reply.and_then(|reply| spoil(fault, reply)) {
        Some(reply) => send(stream, fault, &reply).await,
        None => Ok(Then::HangUp),
    }
}

/// The reply as this fault leaves it.
pub(super) fn spoil(fault: LanFault, mut reply: Vec<u8>) -> Option<Vec<u8>> {
    match fault {
        LanFault::Garbage => Some(GARBAGE.to_vec()),
        LanFault::CutOffJson => {
            reply.truncate(reply.len() / 2);
            Some(reply)
        }
        _ => Some(reply),
    }
}

async fn send(stream: &mut TcpStream, fault: LanFault, reply: &[u8]) -> io::Result<Then> {
    let mut bytes = Vec::new();
    frame::build(&mut bytes, |payload| payload.extend_from_slice(reply));
    match fault {
        LanFault::SlowBytes(interval) => drip(stream, &bytes, interval).await?,
        LanFault::HugeLength => {
            bytes[..HEADER_LEN].copy_from_slice(&HUGE.to_be_bytes());
            stream.write_all(&bytes).await?;
        }
        LanFault::ResetInAnswer => {
            stream.write_all(&bytes[..bytes.len() / 2]).await?;
            stream.set_zero_linger()?;
            return Ok(Then::HangUp);
        }
        LanFault::CloseAfterEachReply => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
            return Ok(Then::HangUp);
        }
        _ => stream.write_all(&bytes).await?,
    }
    Ok(Then::GoOn)
}

pub(super) async fn drip(stream: &mut TcpStream, bytes: &[u8], interval: Duration) -> io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        sleep(interval).await;
    }
    Ok(())
}

/// Counts a request that is read and then lost.
pub(super) fn lose_request(plug: &PlugHandle) -> io::Result<Then> {
    plug.with(|plug| plug.traffic.lan_requests += 1);
    Ok(Then::GoOn)
}

/// Runs in its own task: the client may have disconnected before the relay switches.
async fn act_late(plug: PlugHandle, request: Vec<u8>, after: Duration) {
    sleep(after).await;
    plug.with(|plug| plug.handle(&request, SwitchedBy::Lan, Instant::now()));
}

/// Counts a connection as open until it is dropped.
pub(super) struct Open(PlugHandle);

impl Open {
    pub(super) fn count(plug: PlugHandle) -> Self {
        plug.with(|plug| {
            plug.traffic.connections += 1;
            plug.traffic.open += 1;
            plug.traffic.most_open = plug.traffic.most_open.max(plug.traffic.open);
        });
        Self(plug)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.with(|plug| plug.traffic.open -= 1);
    }
}
