//! What is kept of a plug that speaks KLAP between exchanges: its connection, its session, and what it refused. Knows no
//! sockets; `now` is an argument.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::lan::klap_connection::{KlapConnection, SessionError};
use crate::lan::klap_crypto::KlapSession;
use hs100d_core::bridge::event::Identity;
use hs100d_core::model::{Address, Failure};
use hs100d_core::secret::Secret;
use hs100d_core::smarthome::message::{DeviceInfo, NotAnAnswer, Reply, Request};

/// No handshake for so long after one that the plug refused: at most two in a minute.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// No request for so long after another client took the session twice; [`jitter`] comes on top.
const TAKEN_PAUSE: Duration = Duration::from_secs(10);
/// A session is renewed so long before its end, for the plug's clock drifts.
const RENEWED_BEFORE: Duration = Duration::from_secs(20 * 60);
/// After so many sessions in a row that were lost at their second request, each session gets one.
const LOST_AT_SECOND: u8 = 2;
/// Then a second request is tried again, for the firmware may be a newer one.
const ONE_REQUEST_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// What is kept of a plug between exchanges.
#[derive(Debug)]
pub(super) struct KlapPlug {
    address: Address,
    pub(super) connection: Option<KlapConnection>,
    pub(super) session: Option<OpenSession>,
    /// Until then each exchange ends with this, and nothing is sent.
    pause: Option<(Instant, Failure)>,
    /// How many sessions in a row were lost at their second request.
    lost_at_second: u8,
    /// Until then each session gets one request.
    one_request_until: Option<Instant>,
}

impl KlapPlug {
    pub(super) fn new(address: &Address) -> Self {
        Self {
            address: address.clone(),
            connection: None,
            session: None,
            pause: None,
            lost_at_second: 0,
            one_request_until: None,
        }
    }

    /// Forgets everything if it is of another address, and the session if it is of another plug.
    pub(super) fn prepare(&mut self, address: &Address, expect: &Identity) {
        if self.address != *address {
            *self = Self::new(address);
        }
        self.session.take_if(|session| session.proven.as_ref().is_some_and(|device| !expect.admits(device)));
    }

    pub(super) fn is_worth_keeping(&self) -> bool {
        self.connection.is_some() || self.session.is_some() || self.pause.is_some() || self.lost_at_second > 0
    }

    pub(super) fn paused(&mut self, now: Instant) -> Option<Failure> {
        self.pause.take_if(|(until, _)| *until <= now);
        self.pause.as_ref().map(|(_, failure)| failure.clone())
    }

    /// Whether a request can go out without another handshake.
    pub(super) fn has_session(&self, now: Instant) -> bool {
        self.session.as_ref().is_some_and(|session| {
            let is_spent = self.takes_one_request(now) && session.requests > 0;
            now < session.renew_at && !session.keys.is_used_up() && !is_spent
        })
    }

    /// Whether the session is one of the plug that is expected.
    pub(super) fn is_proven(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.proven.is_some())
    }

    /// Some firmwares answer nothing but the first request of a session.
    pub(super) fn takes_one_request(&self, now: Instant) -> bool {
        self.one_request_until.is_some_and(|until| now < until)
    }

    /// The session's last request was answered, or was not. A second one shows whether the firmware takes it.
    pub(super) fn note_answer(&mut self, is_readable: bool, now: Instant) {
        if self.session.as_ref().is_none_or(|session| session.requests != 2) {
            return;
        }
        self.lost_at_second = if is_readable { 0 } else { self.lost_at_second.saturating_add(1) };
        self.one_request_until = (self.lost_at_second >= LOST_AT_SECOND).then(|| now + ONE_REQUEST_FOR);
    }

    /// The exchange failed after so many attempts: refuses the next ones for a while if they would fail as well.
    pub(super) fn back_off(&mut self, failure: &Failure, attempts: u32, now: Instant) {
        let pause = match failure {
            failure if failure.is_klap_refusal() => REFUSED_PAUSE * attempts,
            Failure::SessionTaken => TAKEN_PAUSE + jitter(),
            _ => return,
        };
        self.pause = Some((now + pause, failure.clone()));
    }
}

/// Up to 2.5 s, so that two clients do not take the session from each other at the same pace.
fn jitter() -> Duration {
    let [random, ..] = Uuid::new_v4().into_bytes();
    Duration::from_millis(u64::from(random) * 10)
}

/// A session that both sides proved.
pub(super) struct OpenSession {
    pub(super) keys: KlapSession,
    pub(super) id: Option<Secret>,
    pub(super) renew_at: Instant,
    /// How many requests were sent in it.
    pub(super) requests: u32,
    /// The plug that answered in it.
    pub(super) proven: Option<Arc<DeviceInfo>>,
}

impl fmt::Debug for OpenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSession").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl OpenSession {
    /// Reads the body of an answer.
    pub(super) fn read(
        &self,
        status: u16,
        body: &mut [u8],
        request: &Request,
        known: Option<&Arc<DeviceInfo>>,
    ) -> Result<Reply, SessionError> {
        match status {
            200 => {}
            // Another client began a session, or the plug restarted. It did not act.
            403 => return Err(SessionError::Lost(Failure::SessionTaken)),
            status => return Err(SessionError::unreadable(format!("HTTP status {status}"))),
        }
        let message = self.keys.open(body).map_err(SessionError::unreadable)?;
        match request.read_reply(message, known) {
            Ok(reply) => Ok(reply),
            // A wrong key passes once in 256 times, and then does not give JSON.
            Err(NotAnAnswer::Malformed(why)) if message.first() != Some(&b'{') => {
                Err(SessionError::Unreadable(why))
            }
            Err(fault) => Err(Failure::from(fault).into()),
        }
    }
}

/// When a session of this lifetime is renewed.
pub(super) fn renewal(timeout: Duration) -> Duration {
    timeout.saturating_sub(RENEWED_BEFORE).max(timeout / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lan::klap_crypto::{Handshake, KlapVersion};
    use hs100d_core::klap_hashes::{KlapAccounts, KlapHashes};

    const MINUTE: Duration = Duration::from_secs(60);

    fn plug() -> KlapPlug {
        KlapPlug::new(&Address::new("192.0.2.1", 80).unwrap())
    }

    /// A session that was asked so many times.
    fn session(requests: u32) -> OpenSession {
        let accounts = KlapAccounts::of("user@example.com", &Secret::new("great_password".to_owned()), None);
        // A recorded handshake of the first version.
        let theirs = "101112131415161718191a1b1c1d1e1f7c10489c80f0713f4bc0275f2612e432b210f2b7c28b3b03bf95f48987ab0ce9";
        let answer: Vec<u8> = (0..theirs.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&theirs[at..at + 2], 16).unwrap())
            .collect();
        let ours = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let handshake = Handshake::accept(&ours, &answer, &accounts).unwrap();
        assert_eq!(handshake.version, KlapVersion::V1);
        let (id, renew_at) = (Some(Secret::new("A1B2".to_owned())), Instant::now() + MINUTE);
        OpenSession { keys: handshake.session, id, renew_at, requests, proven: None }
    }

    #[test]
    fn a_session_is_renewed_in_time() {
        let renewed = |seconds| renewal(Duration::from_secs(seconds)).as_secs();
        assert_eq!(renewed(86_400), 85_200);
        assert_eq!((renewed(2400), renewed(2402)), (1200, 1202));
        assert_eq!((renewed(1200), renewed(60), renewed(1), renewed(0)), (600, 30, 0, 0));
        let mut plug = plug();
        plug.session = Some(session(0));
        let now = Instant::now();
        assert!(plug.has_session(now) && !plug.has_session(now + MINUTE));
    }

    #[test]
    fn a_plug_that_refuses_sees_at_most_two_handshakes_a_minute() {
        let mut plug = plug();
        let now = Instant::now();
        for failure in [Failure::KlapBlocked, Failure::OtherAccount, Failure::NoLanAccount] {
            for handshakes in 1..=2 {
                plug.back_off(&failure, handshakes, now);
                let pause = MINUTE * handshakes / 2;
                assert_eq!(plug.paused(now + pause - Duration::from_millis(1)), Some(failure.clone()));
                assert_eq!(plug.paused(now + pause), None);
                assert_eq!(plug.paused(now), None, "it is over");
            }
        }
    }

    #[test]
    fn a_plug_whose_session_was_taken_is_left_alone_for_some_seconds_and_others_are_not() {
        let mut plug = plug();
        let now = Instant::now();
        plug.back_off(&Failure::SessionTaken, 2, now);
        let soon = now + TAKEN_PAUSE - Duration::from_millis(1);
        assert_eq!(plug.paused(soon), Some(Failure::SessionTaken));
        assert_eq!(plug.paused(now + TAKEN_PAUSE + Duration::from_millis(2551)), None);
        for failure in [Failure::Silent, Failure::Closed, Failure::Refused, Failure::Garbage("".into())] {
            plug.back_off(&failure, 2, now);
            assert_eq!(plug.paused(now), None, "{failure:?}");
        }
    }

    #[test]
    fn a_pause_and_a_session_are_of_one_address() {
        let mut plug = plug();
        let now = Instant::now();
        plug.session = Some(session(1));
        plug.back_off(&Failure::OtherAccount, 1, now);
        plug.prepare(&Address::new("192.0.2.1", 80).unwrap(), &Identity::default());
        assert!(plug.paused(now).is_some() && plug.session.is_some());
        plug.prepare(&Address::new("192.0.2.1", 81).unwrap(), &Identity::default());
        assert!(plug.paused(now).is_none() && plug.session.is_none());
    }

    #[test]
    fn a_firmware_that_takes_one_request_in_a_session_is_known_after_two_of_them() {
        let now = Instant::now();
        let mut plug = plug();
        let lose_second = |plug: &mut KlapPlug, is_readable, now| {
            for requests in 1..=2 {
                plug.session = Some(session(requests));
                plug.note_answer(is_readable, now);
            }
        };
        let takes_second = |plug: &mut KlapPlug, now| {
            plug.session = Some(OpenSession { renew_at: now + MINUTE, ..session(1) });
            plug.has_session(now)
        };
        lose_second(&mut plug, false, now);
        assert!(takes_second(&mut plug, now));
        lose_second(&mut plug, true, now);
        lose_second(&mut plug, false, now);
        assert!(takes_second(&mut plug, now), "one second request was answered in between");
        lose_second(&mut plug, false, now);
        assert!(!takes_second(&mut plug, now));
        plug.session = Some(session(0));
        assert!(plug.has_session(now));
        let next_day = now + ONE_REQUEST_FOR;
        assert!(takes_second(&mut plug, next_day), "it may have a newer firmware");
        lose_second(&mut plug, false, next_day);
        assert!(!takes_second(&mut plug, next_day), "it has not");
    }

    /// The kernel's and tokio's part of the connection come on top: 3 kB for all of it.
    #[test]
    fn what_is_kept_of_a_plug_is_small() {
        assert!(size_of::<KlapPlug>() <= 256, "{} bytes", size_of::<KlapPlug>());
    }

    #[test]
    fn nothing_of_a_session_is_printed() {
        let mut plug = plug();
        plug.session = Some(session(1));
        let printed = format!("{plug:?}");
        let hashes = KlapHashes::of("user@example.com", &Secret::new("great_password".to_owned()));
        assert!(!printed.contains("A1B2") && !printed.contains(&hashes.to_text()[..8]), "{printed}");
    }
}
