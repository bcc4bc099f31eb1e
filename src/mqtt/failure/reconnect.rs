//! How long to wait before the next connection attempt, and whether a message or another client ended the last connection.

use std::time::Duration;

use super::explain::{LinkFailure, Unacknowledged};
use super::reason::{FailureKind, FailureReason};
use crate::backoff::{self, Backoff};
use crate::mqtt::settings::MqttSettings;

/// How long the broker is left to another client that uses our client id.
pub(crate) const GIVE_WAY: Duration = Duration::from_secs(300);
/// A connection that lasted this long was stable.
pub(crate) const STABLE: Duration = Duration::from_secs(30);
/// The longest wait, before its spread, while a broker refuses us.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A broker that may return has everything back within ten seconds.
const WHILE_AWAY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// A broker that refuses us is tried less often.
const WHILE_REFUSED: Backoff = Backoff::new(Duration::from_secs(5), LONGEST_WAIT);
/// A connection that ended within this time was dropped right after connecting.
const RIGHT_AFTER: Duration = Duration::from_secs(5);
/// This many such drops in a row are no coincidence.
const DROPS: u32 = 3;

const DROPPED_AGAIN: &str = "closed the connection three times right after connecting, most likely because another client \
     uses our client id";

/// When the nodes of a cluster find each other again, one of them may still have our connection from before.
const PERHAPS_OURSELVES: &str = "ended the connection because our client id was used twice, perhaps by our own connection to \
     another node before";

/// Counts drops, and decides when to connect to the same broker again.
#[derive(Debug)]
pub(crate) struct Reconnect {
    /// Spreads the attempts of different installations, which all start at once after a power cut.
    seed: u64,
    drops: u32,
    /// The message that was unacknowledged at each of these drops; `None` if it was not the same one.
    suspect: Option<Unacknowledged>,
    /// A message is not sent any more, and the drops went on.
    has_blamed: bool,
    /// The connection is at another place than the one before, whose end the cluster may not know yet.
    has_moved: bool,
}

/// What follows from the end of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RetryDecision {
    pub(crate) failure: LinkFailure,
    /// How long to wait before the next attempt at this broker.
    pub wait: Duration,
    /// The message that must not be sent again.
    pub(crate) blamed: Option<Unacknowledged>,
}

impl Reconnect {
    pub(crate) fn new(instance: &str) -> Self {
        Self { seed: backoff::seed(instance), drops: 0, suspect: None, has_blamed: false, has_moved: false }
    }

    /// A connection stands at another place than the one before.
    pub(crate) fn moved(&mut self) {
        self.has_moved = true;
    }

    /// Decides after a connection that lasted this long (`None`: it never stood), while `suspect` was not acknowledged. It was
    /// the broker's failure number `tries` in a row. Repeated drops right after connecting mean that another client uses our
    /// id, unless the same message was unacknowledged each time.
    pub(crate) fn decide(
        &mut self,
        failure: LinkFailure,
        tries: u32,
        lasted: Option<Duration>,
        suspect: Option<Unacknowledged>,
        settings: &MqttSettings,
    ) -> RetryDecision {
        if lasted.is_some_and(|lasted| lasted >= STABLE) {
            self.has_blamed = false;
        }
        if failure.kind == FailureKind::TakenOver && std::mem::take(&mut self.has_moved) {
            let failure = LinkFailure::of(FailureReason::HungUp, PERHAPS_OURSELVES, settings);
            return RetryDecision { wait: self.wait(failure.kind, tries), failure, blamed: None };
        }
        if matches!(failure.reason, FailureReason::PacketTooLarge | FailureReason::MessageRefused)
            && let Some(message) = suspect
        {
            self.drops = 0;
            return self.blame(failure, tries, message, settings);
        }
        self.count_drop(failure.kind, lasted, suspect);
        // Several brokers of a cluster that restarts may each drop us once or twice.
        if self.drops == DROPS * u32::try_from(1 + settings.others.len()).unwrap_or(1) {
            self.drops = 0;
            if let Some(message) = self.suspect.take().filter(|_| !self.has_blamed) {
                self.has_blamed = true;
                let failure = LinkFailure::of(FailureReason::MessageRefused, "", settings);
                return self.blame(failure, tries, message, settings);
            }
            let failure = LinkFailure::of(FailureReason::ClientIdTaken, DROPPED_AGAIN, settings);
            return RetryDecision { failure, wait: GIVE_WAY, blamed: None };
        }
        let wait = match failure.kind {
            FailureKind::TakenOver => GIVE_WAY,
            kind => self.wait(kind, tries),
        };
        RetryDecision { failure, wait, blamed: None }
    }

    fn count_drop(&mut self, kind: FailureKind, lasted: Option<Duration>, suspect: Option<Unacknowledged>) {
        if kind != FailureKind::Dropped || lasted.is_none_or(|lasted| lasted >= RIGHT_AFTER) {
            self.drops = 0;
            return;
        }
        let is_first = self.drops == 0;
        self.drops += 1;
        self.suspect = suspect.filter(|message| {
            is_first || self.suspect.as_ref().is_some_and(|before| before.topic == message.topic)
        });
    }

    fn blame(
        &self,
        failure: LinkFailure,
        tries: u32,
        message: Unacknowledged,
        settings: &MqttSettings,
    ) -> RetryDecision {
        let failure = failure.because_of(&message, settings);
        RetryDecision { wait: self.wait(failure.kind, tries), failure, blamed: Some(message) }
    }

    fn wait(&self, kind: FailureKind, tries: u32) -> Duration {
        let backoff = match kind {
            FailureKind::Refused | FailureKind::TooLarge => WHILE_REFUSED,
            FailureKind::Away | FailureKind::TakenOver | FailureKind::Dropped => WHILE_AWAY,
        };
        backoff.spread(0.8, 1.2, self.seed).pause(tries)
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::{ConnectionError, DisconnectReasonCode, StateError};

    use super::*;
    use crate::mqtt::homeassistant::DocumentForm;
    use crate::mqtt::socket::ConnectProgress;
    use crate::mqtt::test_support;

    #[test]
    fn waits_grow_to_a_limit_and_are_the_same_in_a_repeated_run() {
        let mut reconnect = Reconnect::new("test");
        let away = || LinkFailure::of(FailureReason::Silent, "away", &settings());
        let decide =
            |reconnect: &mut Reconnect, tries| reconnect.decide(away(), tries, None, None, &settings()).wait;
        let waits: Vec<_> = (1..=8).map(|tries| decide(&mut reconnect, tries)).collect();
        assert!(
            waits[0] <= Duration::from_millis(600) && waits[0] >= Duration::from_millis(400),
            "{waits:?}"
        );
        assert!(waits[..4].is_sorted(), "{waits:?}");
        assert!(waits[7] >= Duration::from_secs(4) && waits[7] <= Duration::from_secs(6), "{waits:?}");
        let mut same = Reconnect::new("test");
        assert_eq!(decide(&mut same, 1), waits[0]);
    }

    #[test]
    fn a_broker_that_refuses_us_is_tried_less_often() {
        let mut reconnect = Reconnect::new("test");
        let waits: Vec<_> = (1..=8)
            .map(|tries| {
                reconnect
                    .decide(
                        LinkFailure::of(FailureReason::Denied, "no", &settings()),
                        tries,
                        None,
                        None,
                        &settings(),
                    )
                    .wait
            })
            .collect();
        assert!(waits[0] >= Duration::from_secs(4) && waits[7] >= Duration::from_secs(48), "{waits:?}");
        assert!(waits[7] <= Duration::from_secs(72), "{waits:?}");
    }

    fn settings() -> MqttSettings {
        test_support::settings(DocumentForm::Off)
    }

    /// The failure that a DISCONNECT with this reason code means.
    fn explain(reason_code: DisconnectReasonCode) -> LinkFailure {
        let error =
            ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string: None });
        LinkFailure::explain(&error, &ConnectProgress::default(), &settings())
    }

    const SOON: Option<Duration> = Some(Duration::from_millis(20));

    fn decide_after_drop(
        reconnect: &mut Reconnect,
        lasted: Option<Duration>,
        topic: Option<&str>,
    ) -> RetryDecision {
        let suspect = topic.map(|topic| Unacknowledged { topic: topic.to_owned(), size: 2000 });
        reconnect.decide(
            LinkFailure::of(FailureReason::HungUp, "hung up", &settings()),
            1,
            lasted,
            suspect,
            &settings(),
        )
    }

    #[test]
    fn after_three_drops_right_after_connecting_we_give_way() {
        for topics in [[None; 3], [Some("a"), Some("b"), Some("a")], [Some("a"), Some("a"), None]] {
            let mut reconnect = Reconnect::new("test");
            let decisions = topics.map(|topic| decide_after_drop(&mut reconnect, SOON, topic));
            assert!(decisions[..2].iter().all(|decision| decision.wait != GIVE_WAY), "{decisions:?}");
            assert_eq!((decisions[2].failure.kind, decisions[2].wait), (FailureKind::TakenOver, GIVE_WAY));
            assert!(decisions[2].failure.text.contains("mqtt.client_id"), "{decisions:?}");
        }
        for lasted in [Some(Duration::from_secs(10)), None] {
            let mut reconnect = Reconnect::new("test");
            for _ in 0..9 {
                assert_ne!(decide_after_drop(&mut reconnect, lasted, None).wait, GIVE_WAY);
            }
        }
    }

    #[test]
    fn a_takeover_after_a_move_may_be_our_own_and_the_next_one_is_not() {
        let mut reconnect = Reconnect::new("test");
        reconnect.moved();
        let mut taken_over = || {
            let failure = explain(DisconnectReasonCode::SessionTakenOver);
            reconnect.decide(failure, 1, Some(STABLE), None, &settings())
        };
        let (first, second) = (taken_over(), taken_over());
        assert!(
            first.wait < Duration::from_secs(1) && first.failure.kind == FailureKind::Dropped,
            "{first:?}"
        );
        assert!(!first.failure.text.contains("gives way"), "{first:?}");
        assert_eq!((second.failure.kind, second.wait), (FailureKind::TakenOver, GIVE_WAY));
    }

    #[test]
    fn drops_after_the_same_message_are_blamed_on_it_once_and_then_on_another_client() {
        let mut reconnect = Reconnect::new("test");
        let decisions: Vec<_> = (0..6).map(|_| decide_after_drop(&mut reconnect, SOON, Some("a"))).collect();
        assert!(decisions[..5].iter().all(|decision| decision.wait != GIVE_WAY), "{decisions:?}");
        let blamed: Vec<_> = decisions.iter().map(|decision| decision.blamed.is_some()).collect();
        assert_eq!(blamed, [false, false, true, false, false, false]);
        assert!(decisions[2].failure.text.contains("the one of 2000 bytes at a"), "{decisions:?}");
        assert_eq!(decisions[5].wait, GIVE_WAY);
    }

    #[test]
    fn a_message_that_the_broker_names_in_its_disconnect_is_blamed_at_once() {
        let mut reconnect = Reconnect::new("test");
        for code in [DisconnectReasonCode::PacketTooLarge, DisconnectReasonCode::TopicNameInvalid] {
            let message = Unacknowledged { topic: "a/b".to_owned(), size: 33_000 };
            let decision = reconnect.decide(explain(code), 1, SOON, Some(message.clone()), &settings());
            assert_eq!(decision.blamed, Some(message));
            assert!(decision.failure.text.contains("33000 bytes at a/b"), "{decision:?}");
        }
    }
}
