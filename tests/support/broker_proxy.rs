//! A proxy between the daemon and a real broker that can cause faults. What the daemon sends passes unchanged; what the
//! broker sends is checked packet by packet.

#![allow(dead_code, reason = "each file of stories uses its own part of the line")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use crate::support::mqtt::within;

const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const KEPT_PUBLISH: u8 = 0x31;
const PUBACK: u8 = 0x40;
const SUBACK: u8 = 0x90;
const DISCONNECT: u8 = 0xE0;
/// A property.
const SERVER_REFERENCE: u8 = 0x1C;
const NOT_AUTHORIZED: u8 = 0x87;
/// More than the maximum packet size that the daemon announces.
const OVERSIZE: usize = 200_000;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A fault of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// Answers each CONNECT with a CONNACK of this reason code.
    Refuses(u8),
    /// Accepts each CONNECT and never answers it.
    Stalls,
    /// Forwards nothing from the broker, as if that were frozen or its cable out.
    Silent,
    /// Forwards publishes, but not their acknowledgements.
    DropsAcks,
    /// Forwards everything from the broker but messages, as if it had lost the subscriptions.
    DropsMessages,
    /// Forwards publishes, and answers them with PUBACKs of this reason code.
    RefusesMessages(u8),
    /// Refuses each subscription.
    Denies,
    /// Sends a retained message after each subscription that is larger than the daemon accepts.
    Oversize,
}

pub(crate) struct BrokerProxy {
    port: u16,
    trouble: watch::Sender<Trouble>,
    kicks: broadcast::Sender<Vec<u8>>,
    connected: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for BrokerProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BrokerProxy {
    pub(crate) async fn start(broker: u16) -> Self {
        Self::start_at(0, broker).await
    }

    /// At this port; 0 takes a free one.
    pub(crate) async fn start_at(port: u16, broker: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (trouble, _) = watch::channel(Trouble::None);
        let (kicks, _) = broadcast::channel(8);
        let connected = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let (trouble, kicks, connected) = (trouble.clone(), kicks.clone(), Arc::clone(&connected));
            async move {
                while let Ok((near, _)) = listener.accept().await {
                    connected.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(carry(near, broker, trouble.subscribe(), kicks.subscribe()));
                }
            }
        });
        Self { port, trouble, kicks, connected, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Applies from now on, also to open connections.
    pub(crate) fn set(&self, trouble: Trouble) {
        self.trouble.send_replace(trouble);
    }

    /// Ends every connection with a DISCONNECT of this reason code.
    pub(crate) fn kick(&self, reason: u8) {
        self.kicks.send(vec![DISCONNECT, 2, reason, 0]).unwrap();
    }

    /// The same with a server reference.
    pub(crate) fn kick_to(&self, reason: u8, server: &str) {
        let length = u8::try_from(server.len()).unwrap();
        let mut packet = vec![DISCONNECT, 5 + length, reason, 3 + length, SERVER_REFERENCE, 0, length];
        packet.extend(server.as_bytes());
        self.kicks.send(packet).unwrap();
    }

    /// The number of connections so far.
    pub(crate) fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// Waits until there were this many connections.
    pub(crate) async fn connects(&self, times: usize) {
        within(&format!("connection {times}"), async {
            while self.connected() < times {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await;
    }
}

/// One connection. If one side closes it, the other side is closed too.
async fn carry(
    mut near: TcpStream,
    broker: u16,
    trouble: watch::Receiver<Trouble>,
    mut kicks: broadcast::Receiver<Vec<u8>>,
) {
    let at_first = *trouble.borrow();
    match at_first {
        Trouble::Refuses(reason) => {
            if packet(&mut near).await.is_some() {
                let _ = near.write_all(&[CONNACK, 3, 0, reason, 0]).await;
            }
            return;
        }
        Trouble::Stalls => {
            let _ = tokio::io::copy(&mut near, &mut tokio::io::sink()).await;
            return;
        }
        _ => {}
    }
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)).await.unwrap();
    let (mut from_daemon, mut to_daemon) = near.into_split();
    let (mut from_broker, mut to_broker) = far.into_split();
    tokio::select! {
        _ = tokio::io::copy(&mut from_daemon, &mut to_broker) => {}
        () = hand_on(&mut from_broker, &mut to_daemon, &trouble) => {}
        Ok(packet) = kicks.recv() => {
            let _ = to_daemon.write_all(&packet).await;
        }
    }
}

/// Forwards the broker's packets, as far as the fault allows.
async fn hand_on(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, trouble: &watch::Receiver<Trouble>) {
    while let Some(mut packet) = packet(from).await {
        let trouble = *trouble.borrow();
        match (packet[0], trouble) {
            (_, Trouble::Silent) | (PUBACK, Trouble::DropsAcks) => continue,
            (kind, Trouble::DropsMessages) if kind & 0xF0 == PUBLISH => continue,
            (PUBACK, Trouble::RefusesMessages(reason)) => {
                packet = vec![PUBACK, 3, packet[2], packet[3], reason]
            }
            (SUBACK, Trouble::Denies) => deny(&mut packet),
            (SUBACK, Trouble::Oversize) => packet.extend(oversize()),
            _ => {}
        }
        if to.write_all(&packet).await.is_err() {
            return;
        }
    }
}

/// The next packet, unchanged; `None` at the end of the connection.
async fn packet(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut packet = vec![from.read_u8().await.ok()?];
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let digit = from.read_u8().await.ok()?;
        packet.push(digit);
        length |= usize::from(digit & 0x7F) << shift;
        if digit & 0x80 == 0 {
            break;
        }
    }
    let header = packet.len();
    packet.resize(header + length, 0);
    from.read_exact(&mut packet[header..]).await.ok()?;
    Some(packet)
}

/// Turns each reason code of a short SUBACK into a refusal. The codes follow the type, the length, the id, the
/// properties' length, and the properties.
fn deny(packet: &mut [u8]) {
    let codes = 5 + usize::from(packet[4]);
    packet[codes..].fill(NOT_AUTHORIZED);
}

fn oversize() -> Vec<u8> {
    let topic = b"hs100d/lamp/set";
    // The topic's length, the topic, no properties.
    let mut left = 2 + topic.len() + 1 + OVERSIZE;
    let mut packet = vec![KEPT_PUBLISH];
    while left > 0 {
        let more = if left > 0x7F { 0x80 } else { 0 };
        packet.push((left & 0x7F) as u8 | more);
        left >>= 7;
    }
    packet.extend([0, topic.len() as u8]);
    packet.extend(topic);
    packet.push(0);
    packet.extend(std::iter::repeat_n(b'x', OVERSIZE));
    packet
}
