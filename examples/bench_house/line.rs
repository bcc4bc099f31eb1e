//! An MQTT client directly on its socket, so that its own cost is not measured.
//!
//! MQTT v5, QoS 0 only. A thread reads and records the time of each message.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;

/// The number of connections so far: two with one client id would end each other.
static CLIENTS: AtomicU32 = AtomicU32::new(0);

/// A received message.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// It was retained before we subscribed.
    pub(crate) kept: bool,
    pub(crate) at: Instant,
}

/// The connection to the broker. It ends when it is dropped.
pub(crate) struct Line {
    stream: TcpStream,
}

impl Line {
    /// Connects and subscribes to these filters. Messages are passed on from its own thread.
    pub(crate) fn connect(
        port: u16,
        filters: &[&str],
        tell: mpsc::UnboundedSender<Heard>,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        // Version 5, a clean start, no keep-alive, no properties.
        let mut connect = text("MQTT");
        connect.extend([5, 2, 0, 0, 0]);
        connect.extend(text(&format!("bench-{}", CLIENTS.fetch_add(1, Ordering::Relaxed))));
        stream.write_all(&packet(0x10, &connect))?;
        let mut subscribe = vec![0, 1, 0];
        for filter in filters {
            subscribe.extend(text(filter));
            subscribe.push(0);
        }
        stream.write_all(&packet(0x82, &subscribe))?;
        let mut reader = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
        for expected in [0x20, 0x90] {
            let (kind, _) = read_packet(&mut reader)?;
            if kind & 0xf0 != expected {
                return Err(io::Error::other("the broker refuses the connection or the subscription"));
            }
        }
        std::thread::spawn(move || {
            while let Ok((kind, body)) = read_packet(&mut reader) {
                let at = Instant::now();
                if kind & 0xf0 == 0x30
                    && let Some((topic, payload)) = published(&body)
                    && tell.send(Heard { topic, payload, kept: kind & 1 == 1, at }).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { stream })
    }

    /// Publishes in one write. Returns the time before it.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str) -> io::Result<Instant> {
        let bytes = publishing(topic, payload);
        let at = Instant::now();
        self.stream.write_all(&bytes)?;
        Ok(at)
    }

    /// Publishes all of it in one write.
    pub(crate) fn publish_all(&mut self, messages: &[(String, &str)]) -> io::Result<Instant> {
        let bytes: Vec<u8> =
            messages.iter().flat_map(|(topic, payload)| publishing(topic, payload)).collect();
        let at = Instant::now();
        self.stream.write_all(&bytes)?;
        Ok(at)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn publishing(topic: &str, payload: &str) -> Vec<u8> {
    let mut body = text(topic);
    body.push(0);
    body.extend_from_slice(payload.as_bytes());
    packet(0x30, &body)
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    length.to_be_bytes().into_iter().chain(text.bytes()).collect()
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut length = body.len();
    loop {
        let more = if length > 127 { 128 } else { 0 };
        bytes.push((length % 128) as u8 | more);
        length /= 128;
        if more == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn read_packet(reader: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    reader.read_exact(&mut byte)?;
    let kind = byte[0];
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        reader.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 127) << shift;
        if byte[0] < 128 {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((kind, body))
}

/// Topic and payload of a message with QoS 0. The properties that brokers add are shorter than 128 bytes.
fn published(body: &[u8]) -> Option<(String, Vec<u8>)> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let (properties, rest) = rest.split_first()?;
    let payload = rest.get(usize::from(*properties)..)?;
    Some((String::from_utf8(topic.to_vec()).ok()?, payload.to_vec()))
}
