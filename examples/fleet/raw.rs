//! A connection that resumes a session, directly on its socket: the client library refuses a session that it does not know.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::cluster::{self, PORT, USER};
use super::process::Fault;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
/// User name and password, and no clean start.
const FLAGS: u8 = 0xC0;
/// The id of the session expiry interval.
const SESSION_EXPIRY: u8 = 0x11;
/// The longest wait for each answer.
const WITHIN: Duration = Duration::from_secs(20);

/// Resumes a session at a node, and says in words what came of it.
pub(crate) async fn resume(id: &str, node: usize, password: &str, expiry: u32) -> Result<String, Fault> {
    let mut stream = TcpStream::connect((cluster::address(node), PORT)).await?;
    let mut body = text("MQTT");
    body.extend([5, FLAGS, 0, 0, 5, SESSION_EXPIRY]);
    body.extend(expiry.to_be_bytes());
    for part in [id, USER, password] {
        body.extend(text(part));
    }
    let length =
        u8::try_from(body.len()).ok().filter(|length| *length < 128).ok_or("the names are too long")?;
    stream.write_all(&[&[CONNECT, length], body.as_slice()].concat()).await?;
    let Some((CONNACK, greeting)) = read_packet(&mut stream).await else {
        return Ok("the connection is closed without an answer".to_owned());
    };
    let session = match greeting.as_slice() {
        [_, code, ..] if *code != 0 => return Ok(format!("refused with {code:#04X}")),
        [flags, ..] if *flags & 1 == 1 => "session present",
        _ => "session not present",
    };
    let message = match read_packet(&mut stream).await {
        Some((PUBLISH, _)) => "what was published meanwhile comes",
        _ => "what was published meanwhile does not come",
    };
    Ok(format!("{session}, {message}"))
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    length.to_be_bytes().into_iter().chain(text.bytes()).collect()
}

/// The kind and the body of the next packet; `None` if none comes.
async fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let read = async {
        let kind = stream.read_u8().await.ok()? & 0xF0;
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = stream.read_u8().await.ok()?;
            length |= usize::from(byte & 127) << shift;
            if byte < 128 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        Some((kind, body))
    };
    tokio::time::timeout(WITHIN, read).await.ok().flatten()
}
