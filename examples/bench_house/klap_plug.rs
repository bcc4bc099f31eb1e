//! What a plug needs to speak KLAP, as cheap as possible: it accepts every client and every number, and does not sign its
//! answers, because the daemon does not check signatures.
//!
//! Sessions are those of the second version of the protocol, of firmwares since 2025.

use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aes::Aes128;
use cbc::cipher::array::Array;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use cbc::{Decryptor, Encryptor};
use hs100d::klap_hashes::{KlapAccounts, KlapHashes};
use hs100d::secret::Secret;
use hs100d::store::{HashFile, StoredHashes};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::plugs::{self, Answer, Plugs, Shared};
use super::process::Fault;

/// The account that all plugs hold.
const ACCOUNT: (&str, &str) = ("bench@example.com", "great_password");
const BLOCK_LEN: usize = 16;
const SEED_LEN: usize = 16;
/// Bytes of the signature in front of a cipher text.
const SIGNATURE_LEN: usize = 32;
/// More headers than the daemon sends.
const MAX_HEADERS: usize = 16;
const PATHS: (&str, &str, &str) = ("/app/handshake1", "/app/handshake2", "/app/request?seq=");

/// The part of a plug that knows KLAP.
pub(super) struct KlapPlug {
    seed: [u8; SEED_LEN],
    /// The last one; its keys outlive connections.
    session: Mutex<Option<Session>>,
}

#[derive(Clone, Copy)]
struct Session {
    key: [u8; BLOCK_LEN],
    /// Without the sequence number, which is its end.
    iv: [u8; BLOCK_LEN],
}

impl KlapPlug {
    pub(super) fn new(number: usize) -> Self {
        Self { seed: (number as u128).to_be_bytes(), session: Mutex::new(None) }
    }

    /// The body of the answer to the first handshake. Begins a session.
    fn begin_session(&self, client: &[u8]) -> Vec<u8> {
        let hashes = KlapHashes::of(ACCOUNT.0, &password());
        let derived = |label: &[u8]| sha256(&[label, client, &self.seed, hashes.v2()]);
        let session = Session { key: first(&derived(b"lsk")), iv: first(&derived(b"iv")) };
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        [&self.seed[..], &sha256(&[client, &self.seed, hashes.v2()])].concat()
    }

    fn session(&self) -> io::Result<Session> {
        let session = *self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.ok_or_else(|| invalid("a request without a session"))
    }
}

impl Session {
    /// The message in the body of a request, and its padding.
    fn open(&self, sequence: i32, body: &[u8]) -> Vec<u8> {
        let mut text = body.get(SIGNATURE_LEN..).unwrap_or_default().to_vec();
        let (blocks, _) = Array::slice_as_chunks_mut(&mut text);
        Decryptor::<Aes128>::new(&self.key.into(), &self.full_iv(sequence).into()).decrypt_blocks(blocks);
        let padding = text.last().copied().unwrap_or_default();
        text.truncate(text.len().saturating_sub(padding.into()));
        text
    }

    /// Appends the body of an answer.
    fn seal(&self, sequence: i32, message: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; SIGNATURE_LEN]);
        let start = out.len();
        out.extend_from_slice(message);
        let padding = BLOCK_LEN - message.len() % BLOCK_LEN;
        out.resize(out.len() + padding, padding as u8);
        let (blocks, _) = Array::slice_as_chunks_mut(&mut out[start..]);
        Encryptor::<Aes128>::new(&self.key.into(), &self.full_iv(sequence).into()).encrypt_blocks(blocks);
    }

    fn full_iv(&self, sequence: i32) -> [u8; BLOCK_LEN] {
        let mut iv = self.iv;
        iv[12..].copy_from_slice(&sequence.to_be_bytes());
        iv
    }
}

/// Serves a connection until the client ends it. Each answer goes out in one write.
pub(super) async fn answer_all(
    stream: &mut TcpStream,
    number: usize,
    plug: &KlapPlug,
    shared: &Shared,
) -> io::Result<()> {
    let (mut received, mut out) = (Vec::with_capacity(512), Vec::new());
    while stream.read_buf(&mut received).await? > 0 {
        while let Some(request) = KlapRequest::parse(&received)? {
            let body = &received[request.body.clone()];
            out.clear();
            match request.path {
                KlapPath::Handshake1 => {
                    let cookie =
                        "Set-Cookie: TP_SESSIONID=00112233445566778899AABBCCDDEEFF;TIMEOUT=86400\r\n";
                    let answer = plug.begin_session(body);
                    write_head(&mut out, cookie, answer.len());
                    out.extend(answer);
                    stream.write_all(&out).await?;
                }
                KlapPath::Handshake2 => {
                    write_head(&mut out, "", 0);
                    stream.write_all(&out).await?;
                }
                KlapPath::Request(sequence) => {
                    let session = plug.session()?;
                    let message = session.open(sequence, body);
                    if let Some(answer) = plugs::answer(number, shared, &message).await {
                        let reply = match &answer {
                            Answer::Prepared(json) => json,
                            Answer::Other(json) => json.as_bytes(),
                        };
                        let padded = reply.len() / BLOCK_LEN * BLOCK_LEN + BLOCK_LEN;
                        write_head(&mut out, "", SIGNATURE_LEN + padded);
                        session.seal(sequence, reply, &mut out);
                        let written = stream.write_all(&out).await;
                        shared.note_answered();
                        written?;
                    }
                }
            }
            received.drain(..request.body.end);
        }
    }
    Ok(())
}

/// A request that was received whole.
struct KlapRequest {
    path: KlapPath,
    body: Range<usize>,
}

enum KlapPath {
    Handshake1,
    Handshake2,
    /// With this sequence number.
    Request(i32),
}

impl KlapRequest {
    fn parse(received: &[u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Request::new(&mut headers);
        let parsed = head.parse(received).map_err(|error| invalid(&error.to_string()))?;
        let httparse::Status::Complete(start) = parsed else { return Ok(None) };
        let path = head.path.unwrap_or_default();
        let path = match path.strip_prefix(PATHS.2).map(str::parse) {
            Some(Ok(sequence)) => KlapPath::Request(sequence),
            None if path == PATHS.0 => KlapPath::Handshake1,
            None if path == PATHS.1 => KlapPath::Handshake2,
            _ => return Err(invalid(path)),
        };
        let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("Content-Length"));
        let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
        let end = start + length.ok_or_else(|| invalid("no Content-Length"))?;
        Ok((received.len() >= end).then_some(Self { path, body: start..end }))
    }
}

fn write_head(out: &mut Vec<u8>, header: &str, length: usize) {
    // Writing to memory cannot fail.
    let _ = write!(
        out,
        "HTTP/1.1 200 OK\r\nServer: SHIP 2.0\r\nContent-Type: application/octet-stream\r\n{header}Content-Length: {length}\r\n\r\n"
    );
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

/// The first bytes of a hash.
fn first(hash: &[u8; 32]) -> [u8; BLOCK_LEN] {
    std::array::from_fn(|at| hash[at])
}

fn password() -> Secret {
    Secret::new(ACCOUNT.1.to_owned())
}

/// Writes the state directory of a daemon that has read these plugs over KLAP, after `hs100d cloud login --lan-only`.
pub(super) fn write_store(directory: &Path, klap: Range<usize>, plugs: &Plugs) -> Result<(), Fault> {
    std::fs::DirBuilder::new().mode(0o700).create(directory)?;
    let accounts = KlapAccounts::of(ACCOUNT.0, &password(), None);
    HashFile::of(directory).save(&StoredHashes::of(ACCOUNT.0, &accounts))?;
    let known = klap.map(|plug| {
        let address = format!("{}:{}", plugs::address(plug), plugs.port);
        json!({
            "device_id": plugs::device_id(plug), "name": plugs::name(plug), "mac": null, "address": address,
            "home": address, "protocol": "klap", "klap_port": plugs.klap_port,
        })
    });
    let known: Vec<_> = known.collect();
    let state = json!({
        "version": 1, "terminal": "6e3b1ad0-52a3-4b56-9d0f-0c1e5a7c7a11", "instance": "0123abcd", "plugs": known,
    });
    Ok(std::fs::write(directory.join("state.json"), state.to_string())?)
}
