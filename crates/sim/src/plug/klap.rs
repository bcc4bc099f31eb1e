//! KLAP on the side of the plug: the account whose hash it holds, its one session, and the differences between
//! firmwares. Pure: bytes in, bytes out. HTTP and sockets are in `lan::klap`.
//!
//! Stricter than a real plug where only an incorrect client would notice: number, signature and cookie of each request
//! are checked, and [`SimKlap::last_refusal`] says what was wrong.

use std::time::{Duration, Instant};

use super::klap_crypto::{self, SessionKeys, SimSeed, Unreadable};
use crate::fault::KlapFault;
use crate::model::SimKlapVersion;

/// How long a session lasts by default.
const SESSION: Duration = Duration::from_secs(24 * 60 * 60);

/// KLAP of one plug. Tests change it through its public fields. A change takes effect on the next handshake or request;
/// for [`SimKlap::port`] and [`SimKlap::waits_for_probe`], when the listening socket changes.
#[derive(Clone)]
pub struct SimKlap {
    /// The version of the formulas.
    pub version: SimKlapVersion,
    /// Whether the discovery reports the version. Some firmwares speak version 2 without reporting it.
    pub tells_version: bool,
    /// The account whose hash it holds.
    pub account: HeldAccount,
    /// The `encrypt_type` in the discovery: `KLAP`, or `AES` or `TPAP` as from plugs that want another protocol.
    pub encrypt_type: &'static str,
    /// The `tpap_preferred` in the discovery.
    pub tpap_preferred: Option<bool>,
    /// Its own port, instead of the port of the LAN.
    pub port: Option<u16>,
    /// The `TIMEOUT` in the cookie.
    pub timeout: SessionTimeout,
    /// How the end of a response is marked.
    pub framing: Framing,
    /// Whether it gives a session id in a cookie. Without, there is none in requests either.
    pub gives_cookie: bool,
    /// The sign of the first `seq` of a session, for tests that depend on it.
    pub first_seq: SeqSign,
    /// After each start it refuses connections until it receives a probe of the discovery.
    pub waits_for_probe: bool,
    /// Its fault.
    pub fault: KlapFault,
    /// Why it last returned 403 without a fault.
    pub last_refusal: Option<KlapRefusal>,
    probed: Option<Instant>,
    session: Option<SimKlapSession>,
}

impl SimKlap {
    /// KLAP without an account and without faults.
    pub fn new(version: SimKlapVersion) -> Self {
        Self {
            version,
            tells_version: true,
            account: HeldAccount::blank(),
            encrypt_type: "KLAP",
            tpap_preferred: None,
            port: None,
            timeout: SessionTimeout::After(SESSION),
            framing: Framing::Length,
            gives_cookie: true,
            first_seq: SeqSign::Any,
            waits_for_probe: false,
            fault: KlapFault::Works,
            last_refusal: None,
            probed: None,
            session: None,
        }
    }

    /// Whether a client has a session now.
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// Ends the session, as if another client had taken it: the next request gets 403.
    pub fn end_session(&mut self) {
        self.session = None;
    }

    /// Whether its port is closed until it receives a probe of the discovery.
    pub(crate) fn wants_probe(&self) -> bool {
        self.waits_for_probe && self.probed.is_none()
    }

    /// Records a probe of the discovery.
    pub(crate) fn hear_probe(&mut self, now: Instant) {
        self.probed = Some(now);
    }

    /// Whether it takes connections, as far as that depends on KLAP.
    pub(super) fn is_open(&self) -> bool {
        self.fault != KlapFault::Refused && !self.wants_probe()
    }

    /// Forgets a session and a probe from before this start of the plug.
    pub(super) fn forget_before(&mut self, start: Instant) {
        self.probed.take_if(|probed| *probed <= start);
        self.session.take_if(|session| session.since <= start);
    }

    /// handshake1: the client sent its seed; the plug returns its own seed and a proof. An earlier session is void.
    /// `fresh` makes seeds until one suits [`SimKlap::first_seq`]. `None` for a body that is not a seed.
    pub(crate) fn handshake1(
        &mut self,
        body: &[u8],
        mut fresh: impl FnMut() -> SimSeed,
        now: Instant,
    ) -> Option<Greeting> {
        let client: SimSeed = body.try_into().ok()?;
        let auth = self.account.auth_hash(self.version);
        let (plug, keys) = loop {
            let plug = fresh();
            let keys = SessionKeys::derive(&client, &plug, &auth);
            if self.first_seq.suits(keys.first_seq) {
                break (plug, keys);
            }
        };
        let id: String = fresh().iter().map(|byte| format!("{byte:02X}")).collect();
        let cookie = self.timeout.cookie(&id);
        self.session = Some(SimKlapSession {
            id,
            client_proof: klap_crypto::proof(self.version, &plug, &client, &auth),
            is_proved: false,
            last_seq: keys.first_seq,
            keys,
            requests: 0,
            since: now,
            until: now + self.timeout.duration(),
        });
        let proof = klap_crypto::proof(self.version, &client, &plug, &auth);
        Some(Greeting { body: [&plug[..], &proof].concat(), cookie })
    }

    /// handshake2: the client proves that it knows the account. Returns whether the proof is right.
    pub(crate) fn handshake2(&mut self, cookie: Option<&str>, body: &[u8], now: Instant) -> bool {
        // A plug of an unknown version accepts no proof, not even one made by our own formula for it.
        let is_known = self.version != SimKlapVersion::Unknown;
        let proved = self.session_of(cookie, now).and_then(|session| {
            session.is_proved = is_known && session.client_proof == body;
            if session.is_proved { Ok(()) } else { Err(KlapRefusal::WrongProof) }
        });
        self.note(proved).is_ok()
    }

    /// Decrypts the message of a request; the seal encrypts its reply.
    pub(crate) fn open(
        &mut self,
        cookie: Option<&str>,
        seq: Option<&str>,
        body: &[u8],
        now: Instant,
    ) -> Result<OpenedMessage, KlapRefusal> {
        let opened = self.session_of(cookie, now).and_then(|session| session.open(seq, body));
        self.note(opened)
    }

    /// The number of the last request in its session, counted from 1.
    pub(crate) fn requests_in_session(&self) -> u32 {
        self.session.as_ref().map_or(0, |session| session.requests)
    }

    fn session_of(&mut self, cookie: Option<&str>, now: Instant) -> Result<&mut SimKlapSession, KlapRefusal> {
        if self.session.as_ref().is_some_and(|session| session.until <= now) {
            self.session = None;
            return Err(KlapRefusal::Expired);
        }
        let session = self.session.as_mut().ok_or(KlapRefusal::NoSession)?;
        if !self.gives_cookie {
            return if cookie.is_none() { Ok(session) } else { Err(KlapRefusal::OtherCookie) };
        }
        let cookie = cookie.ok_or(KlapRefusal::NoCookie)?;
        match cookie.strip_prefix("TP_SESSIONID=") {
            Some(id) if id == session.id => Ok(session),
            _ => Err(KlapRefusal::OtherCookie),
        }
    }

    /// Records why a client was refused. A wrong request of the session's client ends the session.
    fn note<T>(&mut self, result: Result<T, KlapRefusal>) -> Result<T, KlapRefusal> {
        if let Err(refusal) = &result {
            self.last_refusal = Some(*refusal);
            if refusal.ends_session() {
                self.session = None;
            }
        }
        result
    }
}

#[derive(Clone)]
struct SimKlapSession {
    id: String,
    client_proof: [u8; klap_crypto::HASH],
    is_proved: bool,
    keys: SessionKeys,
    last_seq: i32,
    requests: u32,
    since: Instant,
    until: Instant,
}

impl SimKlapSession {
    fn open(&mut self, seq: Option<&str>, body: &[u8]) -> Result<OpenedMessage, KlapRefusal> {
        if !self.is_proved {
            return Err(KlapRefusal::NotProved);
        }
        let seq: i32 = seq.and_then(|seq| seq.parse().ok()).ok_or(KlapRefusal::WrongSeq)?;
        // Numbers wrap. A used number is not accepted again.
        if seq.wrapping_sub(self.last_seq) <= 0 {
            return Err(KlapRefusal::WrongSeq);
        }
        let json = self.keys.open(seq, body).map_err(KlapRefusal::Unreadable)?;
        self.last_seq = seq;
        self.requests += 1;
        Ok(OpenedMessage { json, seal: ReplySeal { keys: self.keys.clone(), seq } })
    }
}

/// The response to handshake1.
pub(crate) struct Greeting {
    /// The seed of the plug and its proof.
    pub(crate) body: Vec<u8>,
    /// The value of `Set-Cookie`.
    pub(crate) cookie: String,
}

/// A decrypted message, and the seal for its reply.
pub(crate) struct OpenedMessage {
    pub(crate) json: Vec<u8>,
    pub(crate) seal: ReplySeal,
}

/// Encrypts the reply to one request, even after the session has ended.
#[derive(Clone)]
pub(crate) struct ReplySeal {
    keys: SessionKeys,
    seq: i32,
}

impl ReplySeal {
    /// Signature and ciphertext.
    pub(crate) fn seal(&self, reply: &[u8]) -> Vec<u8> {
        self.keys.seal(self.seq, reply)
    }
}

/// The account whose hash a plug holds. User name and password are compared byte by byte, including the case of the
/// e-mail address.
#[derive(Clone, PartialEq, Eq)]
pub struct HeldAccount {
    username: String,
    password: String,
}

impl HeldAccount {
    /// The account with which the plug was set up.
    pub fn new(username: &str, password: &str) -> Self {
        Self { username: username.to_owned(), password: password.to_owned() }
    }

    /// The account of a plug without an owner.
    pub fn blank() -> Self {
        Self::new("", "")
    }

    /// The built-in account of Kasa, which plugs use for some time.
    pub fn kasa_setup() -> Self {
        Self::new("kasa@tp-link.net", "kasaSetup")
    }

    /// The built-in account of Tapo.
    pub fn tapo_setup() -> Self {
        Self::new("test@tp-link.net", "test")
    }

    /// The `owner` in the discovery.
    pub(crate) fn owner(&self) -> String {
        klap_crypto::owner_hash(&self.username)
    }

    fn auth_hash(&self, version: SimKlapVersion) -> Vec<u8> {
        klap_crypto::auth_hash(version, &self.username, &self.password)
    }
}

/// The `TIMEOUT` in the cookie of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionTimeout {
    /// The session ends after this time, and `TIMEOUT` agrees.
    After(Duration),
    /// There is no `TIMEOUT`; the session lasts a day.
    NotSaid,
    /// `TIMEOUT` is not a number; the session lasts a day.
    NoNumber,
}

impl SessionTimeout {
    fn duration(self) -> Duration {
        match self {
            Self::After(time) => time,
            Self::NotSaid | Self::NoNumber => SESSION,
        }
    }

    fn cookie(self, id: &str) -> String {
        match self {
            Self::After(time) => format!("TP_SESSIONID={id};TIMEOUT={}", time.as_secs()),
            Self::NotSaid => format!("TP_SESSIONID={id}"),
            Self::NoNumber => format!("TP_SESSIONID={id};TIMEOUT=soon"),
        }
    }
}

/// How the end of a response is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By `Content-Length`; the connection stays open.
    Length,
    /// By the end of the connection.
    Close,
}

/// The sign of the first `seq` of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeqSign {
    /// Either.
    Any,
    /// Below 0.
    Negative,
    /// 0 or above.
    Positive,
}

impl SeqSign {
    fn suits(self, seq: i32) -> bool {
        match self {
            Self::Any => true,
            Self::Negative => seq < 0,
            Self::Positive => seq >= 0,
        }
    }
}

/// Why a plug without a fault returns 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KlapRefusal {
    /// There is no session.
    NoSession,
    /// The session has expired.
    Expired,
    /// The request has no cookie.
    NoCookie,
    /// The cookie is not just the `TP_SESSIONID` of the session.
    OtherCookie,
    /// The client skipped handshake2.
    NotProved,
    /// The client used another account.
    WrongProof,
    /// `seq` is not a number, or not above the last one.
    WrongSeq,
    /// The body cannot be decrypted.
    Unreadable(Unreadable),
}

impl KlapRefusal {
    /// A wrong cookie comes from another client, so the session stays.
    fn ends_session(self) -> bool {
        match self {
            Self::NoSession | Self::Expired | Self::NoCookie | Self::OtherCookie => false,
            Self::NotProved | Self::WrongProof | Self::WrongSeq | Self::Unreadable(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::klap_crypto::SEED;
    use super::*;

    const VERSIONS: [SimKlapVersion; 2] = [SimKlapVersion::V1, SimKlapVersion::V2];

    /// Seeds that differ from call to call.
    fn seeds() -> impl FnMut() -> SimSeed {
        let mut next = 0_u128;
        move || {
            next += 1;
            next.to_be_bytes()
        }
    }

    /// The client's side, computed with the plug's own formulas.
    struct Client {
        cookie: String,
        keys: SessionKeys,
        proof: [u8; 32],
    }

    fn greeted(klap: &mut SimKlap, now: Instant) -> Client {
        let seed = [7; SEED];
        let greeting = klap.handshake1(&seed, seeds(), now).unwrap();
        let plug: SimSeed = greeting.body[..SEED].try_into().unwrap();
        let auth = klap.account.auth_hash(klap.version);
        assert_eq!(greeting.body[SEED..], klap_crypto::proof(klap.version, &seed, &plug, &auth));
        let (cookie, _) = greeting.cookie.split_once(';').unwrap();
        Client {
            cookie: cookie.to_owned(),
            keys: SessionKeys::derive(&seed, &plug, &auth),
            proof: klap_crypto::proof(klap.version, &plug, &seed, &auth),
        }
    }

    fn admitted(klap: &mut SimKlap, now: Instant) -> Client {
        let client = greeted(klap, now);
        assert!(klap.handshake2(Some(&client.cookie), &client.proof, now));
        client
    }

    fn ask(
        klap: &mut SimKlap,
        client: &Client,
        ahead: i32,
        now: Instant,
    ) -> Result<OpenedMessage, KlapRefusal> {
        let seq = client.keys.first_seq.wrapping_add(ahead);
        let body = client.keys.seal(seq, b"{}");
        klap.open(Some(&client.cookie), Some(&seq.to_string()), &body, now)
    }

    #[test]
    fn a_client_that_knows_the_account_is_heard_and_answered_in_the_session() {
        for version in VERSIONS {
            for sign in [SeqSign::Negative, SeqSign::Positive] {
                let (mut klap, now) = (SimKlap::new(version), Instant::now());
                (klap.account, klap.first_seq) = (HeldAccount::new("user@example.com", "ü%\" "), sign);
                let client = admitted(&mut klap, now);
                assert!(sign.suits(client.keys.first_seq));
                for ahead in [1, 2, 5] {
                    let opened = ask(&mut klap, &client, ahead, now).unwrap();
                    assert_eq!(opened.json, b"{}");
                    let seq = client.keys.first_seq.wrapping_add(ahead);
                    assert_eq!(client.keys.open(seq, &opened.seal.seal(b"[]")).unwrap(), b"[]");
                }
                assert_eq!((klap.requests_in_session(), klap.last_refusal), (3, None));
            }
        }
    }

    #[test]
    fn a_client_of_another_account_or_spelling_is_refused_and_the_session_ends() {
        for version in VERSIONS {
            let (mut klap, now) = (SimKlap::new(version), Instant::now());
            klap.account = HeldAccount::new("User@example.com", "pw");
            let mut other = klap.clone();
            other.account = HeldAccount::new("user@example.com", "pw");
            let client = greeted(&mut klap, now);
            let theirs = greeted(&mut other, now);
            assert!(!klap.handshake2(Some(&client.cookie), &theirs.proof, now));
            assert_eq!((klap.last_refusal, klap.has_session()), (Some(KlapRefusal::WrongProof), false));
        }
    }

    #[test]
    fn a_plug_of_an_unknown_scheme_takes_no_proof() {
        let (mut klap, now) = (SimKlap::new(SimKlapVersion::Unknown), Instant::now());
        let client = greeted(&mut klap, now);
        assert!(!klap.handshake2(Some(&client.cookie), &client.proof, now));
        let mut greetings = VERSIONS.map(|version| {
            klap.version = version;
            klap.handshake1(&[7; SEED], seeds(), now).unwrap().body
        });
        klap.version = SimKlapVersion::Unknown;
        let unknown = klap.handshake1(&[7; SEED], seeds(), now).unwrap().body;
        greetings.iter_mut().for_each(|known| assert_ne!(*known, unknown));
    }

    #[test]
    fn each_mistake_of_a_client_is_refused_by_its_name() {
        let now = Instant::now();
        let refused = |mistake: &dyn Fn(&mut SimKlap, &Client) -> Option<KlapRefusal>| {
            let mut klap = SimKlap::new(SimKlapVersion::V2);
            let client = admitted(&mut klap, now);
            mistake(&mut klap, &client)
        };
        let open = |klap: &mut SimKlap, cookie: Option<&str>, seq: Option<&str>, body: &[u8]| {
            klap.open(cookie, seq, body, now).err()
        };
        assert_eq!(refused(&|klap, client| ask(klap, client, 0, now).err()), Some(KlapRefusal::WrongSeq));
        assert_eq!(
            refused(&|klap, client| {
                ask(klap, client, 1, now).unwrap();
                ask(klap, client, 1, now).err()
            }),
            Some(KlapRefusal::WrongSeq),
            "a request that is sent twice"
        );
        for seq in [None, Some(""), Some("x"), Some("2147483648")] {
            let seen = refused(&|klap, client| open(klap, Some(&client.cookie), seq, b""));
            assert_eq!(seen, Some(KlapRefusal::WrongSeq), "{seq:?}");
        }
        assert_eq!(refused(&|klap, _| open(klap, None, Some("1"), b"")), Some(KlapRefusal::NoCookie));
        for added in [";TIMEOUT=86400", "0", "; a=b"] {
            let seen = refused(&|klap, client| {
                open(klap, Some(&format!("{}{added}", client.cookie)), Some("1"), b"")
            });
            assert_eq!(seen, Some(KlapRefusal::OtherCookie), "{added}");
        }
        let seen = refused(&|klap, client| {
            let seq = client.keys.first_seq.wrapping_add(1).to_string();
            open(klap, Some(&client.cookie), Some(&seq), b"{}")
        });
        assert_eq!(seen, Some(KlapRefusal::Unreadable(Unreadable::Length)));
        let seen = refused(&|klap, _| {
            let client = greeted(klap, now);
            ask(klap, &client, 1, now).err()
        });
        assert_eq!(seen, Some(KlapRefusal::NotProved));
        let seen = refused(&|klap, client| {
            klap.end_session();
            ask(klap, client, 1, now).err()
        });
        assert_eq!(seen, Some(KlapRefusal::NoSession));
        assert!(SimKlap::new(SimKlapVersion::V2).handshake1(&[0; SEED + 1], seeds(), now).is_none());
    }

    #[test]
    fn there_is_one_session_and_the_next_client_takes_it() {
        let (mut klap, now) = (SimKlap::new(SimKlapVersion::V1), Instant::now());
        let mut seeds = seeds();
        let first = admitted(&mut klap, now);
        let second = klap.handshake1(&[8; SEED], || [seeds()[15] + 100; SEED], now).unwrap();
        assert_ne!(second.cookie.split_once(';').unwrap().0, first.cookie);
        assert_eq!(ask(&mut klap, &first, 1, now).err(), Some(KlapRefusal::OtherCookie));
        assert!(klap.has_session(), "the mistake of another client does not end it");
    }

    #[test]
    fn a_session_ends_at_its_time_and_the_cookie_says_when_unless_the_plug_does_not() {
        let now = Instant::now();
        let table = [
            (SessionTimeout::After(Duration::from_secs(90)), ";TIMEOUT=90", 90),
            (SessionTimeout::NotSaid, "", 86_400),
            (SessionTimeout::NoNumber, ";TIMEOUT=soon", 86_400),
        ];
        for (timeout, parameter, seconds) in table {
            let mut klap = SimKlap::new(SimKlapVersion::V2);
            let client = admitted(&mut klap, now);
            klap.timeout = timeout;
            let greeting = klap.handshake1(&[7; SEED], seeds(), now).unwrap();
            assert_eq!(greeting.cookie, format!("{}{parameter}", client.cookie));
            assert!(klap.handshake2(Some(&client.cookie), &client.proof, now));
            let end = now + Duration::from_secs(seconds);
            assert!(ask(&mut klap, &client, 1, end - Duration::from_millis(1)).is_ok());
            assert_eq!(ask(&mut klap, &client, 2, end).err(), Some(KlapRefusal::Expired));
        }
    }
}
