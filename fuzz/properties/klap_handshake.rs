//! The answer of a plug to the first step of a KLAP handshake: HTTP, a cookie, a seed and a proof.

use std::sync::LazyLock;
use std::time::Duration;

use hs100d::klap_hashes::KlapAccounts;
use hs100d::secret::Secret;
use hs100d::transport::lan::klap_crypto::{BadHandshake, HANDSHAKE1_LEN, Handshake, SEED_LEN};
use hs100d::transport::lan::klap_http::SessionCookie;

use super::klap_reply::{http_holds, parse};
use super::texts::fits_a_line;

/// The longest session id that is sent back.
const LONGEST_SESSION_ID: usize = 256;

/// Hashed once.
static ACCOUNTS: LazyLock<KlapAccounts> = LazyLock::new(KlapAccounts::default);

/// The input is what came over a connection until it was closed.
pub fn hold(received: &[u8]) {
    http_holds(received);
    let (Ok(Some(answer)), bytes) = parse(received, true) else { return };
    match SessionCookie::read(&bytes[..answer.body.start]) {
        Ok(cookie) => cookie_holds(&cookie),
        Err(bad) => fits_a_line(&bad.to_string(), 80),
    }
    let ours = [7; SEED_LEN];
    let body = &bytes[answer.body];
    match Handshake::accept(&ours, body, &ACCOUNTS) {
        Ok(_) => assert_eq!(body.len(), HANDSHAKE1_LEN),
        Err(BadHandshake::Length(length)) => assert!(length == body.len() && length != HANDSHAKE1_LEN),
        Err(BadHandshake::NoMatch) => assert_eq!(body.len(), HANDSHAKE1_LEN),
    }
}

/// The session id goes out again in a header.
fn cookie_holds(cookie: &SessionCookie) {
    assert!(cookie.timeout <= Duration::from_secs(u32::MAX.into()));
    let Some(id) = cookie.id.as_ref().map(Secret::expose) else { return };
    assert!((1..=LONGEST_SESSION_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(!id.contains(';'), "{id}");
}
