//! The answer of a plug to a request in a KLAP session: HTTP, and a body that may be encrypted with the session's key.

use std::sync::LazyLock;

use hs100d::klap_hashes::KlapAccounts;
use hs100d::secret::Secret;
use hs100d::smarthome::message::Request;
use hs100d::transport::lan::klap_crypto::{BadBody, Handshake, KlapSession, SIGNATURE_LEN};
use hs100d::transport::lan::klap_http::{self, BadKlapAnswer, KlapAnswer, MAX_BODY, MAX_HEAD};

use super::texts::fits_a_line;

/// Bytes of a block of the cipher.
const BLOCK_LEN: usize = 16;
/// So many bytes are cut at each byte; a longer input only here and there, or it would take too long.
const EVERY_CUT: usize = 300;
const SOME_CUTS: usize = 61;

/// Hashed once.
static ACCOUNTS: LazyLock<KlapAccounts> =
    LazyLock::new(|| KlapAccounts::of("user@example.com", &Secret::new("great_password".to_owned()), None));

/// The input is what came over a connection until it was closed.
pub fn hold(received: &[u8]) {
    http_holds(received);
    a_body_is_opened_or_refused(received);
    let (parsed, bytes) = parse(received, true);
    if let Ok(Some(answer)) = parsed {
        a_body_is_opened_or_refused(&bytes[answer.body]);
    }
    what_was_sealed_is_opened(received);
}

/// What is read from a part of the bytes agrees with what is read from all of them, and nothing too long is accepted.
pub fn http_holds(received: &[u8]) {
    let (whole, _) = parse(received, false);
    let cuts = (0..received.len()).filter(|cut| *cut < EVERY_CUT || cut % SOME_CUTS == 0);
    for cut in cuts {
        let (early, bytes) = parse(&received[..cut], false);
        assert!(matches!(early, Ok(Some(_))) || bytes == received[..cut], "changed too early");
        match (early, &whole) {
            (Ok(None), _) => {}
            (Ok(Some(early)), Ok(Some(whole))) => assert!(is_same(&early, whole), "after {cut}"),
            (early, whole) => assert_eq!(early, *whole, "after {cut}"),
        }
    }
    let (ended, _) = parse(received, true);
    for answer in [&whole, &ended].into_iter().flatten().flatten() {
        let body = &answer.body;
        assert!(body.start <= MAX_HEAD && body.len() <= MAX_BODY && body.end <= received.len());
    }
    match (&whole, &ended) {
        (Ok(Some(whole)), Ok(Some(ended))) => assert!(is_same(whole, ended) && !ended.keeps_connection),
        (Ok(None), Ok(Some(ended))) => {
            assert_eq!(ended.body.end, received.len(), "it ends with the connection")
        }
        (whole, ended) => assert_eq!(whole, ended),
    }
    if let Err(bad) = whole {
        fits_a_line(&bad.to_string(), 80);
    }
}

/// What is parsed, and the bytes as they are then.
pub fn parse(received: &[u8], is_ended: bool) -> (Result<Option<KlapAnswer>, BadKlapAnswer>, Vec<u8>) {
    let mut bytes = received.to_vec();
    (klap_http::parse(&mut bytes, is_ended), bytes)
}

fn is_same(one: &KlapAnswer, other: &KlapAnswer) -> bool {
    one.status == other.status && one.body == other.body
}

/// A session whose first request was sent.
fn session() -> KlapSession {
    let ours = std::array::from_fn(|place| place as u8);
    // Of a recorded handshake of the first version.
    let theirs = 0x1011_1213_1415_1617_1819_1a1b_1c1d_1e1f_u128;
    let proof =
        [0x7c10_489c_80f0_713f_4bc0_275f_2612_e432_u128, 0xb210_f2b7_c28b_3b03_bf95_f489_87ab_0ce9_u128];
    let answer = [theirs, proof[0], proof[1]].map(u128::to_be_bytes).concat();
    let mut session = Handshake::accept(&ours, &answer, &ACCOUNTS).unwrap().session;
    session.seal(&mut Vec::new(), |_| {});
    session
}

fn a_body_is_opened_or_refused(body: &[u8]) {
    let is_whole = body.len() > SIGNATURE_LEN && (body.len() - SIGNATURE_LEN).is_multiple_of(BLOCK_LEN);
    match session().open(&mut body.to_vec()) {
        Ok(message) => {
            let padding = body.len() - SIGNATURE_LEN - message.len();
            assert!(is_whole && (1..=BLOCK_LEN).contains(&padding));
            // Whatever it says, it is a reply or it is none.
            let _ = Request::SysInfo.read_reply(message, None);
        }
        Err(BadBody::Padding) => assert!(is_whole),
        Err(BadBody::Length(length)) => assert!(!is_whole && length == body.len()),
    }
}

fn what_was_sealed_is_opened(message: &[u8]) {
    let mut session = session();
    let mut body = b"left over".to_vec();
    session.seal(&mut body, |out| out.extend_from_slice(message));
    assert_eq!(session.open(&mut body), Ok(message));
}
