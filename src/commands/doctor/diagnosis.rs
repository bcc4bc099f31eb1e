//! From what came back to the likely cause, as an expert would conclude it. Pure.

use crate::bridge::failures::cause_of;
use crate::cause::{self, Cause};
use crate::commands::klap::KlapOwner;
use crate::model::Failure;
use crate::mqtt::failure::reason::FailureReason;
use crate::transport::cloud::CloudError;
use crate::transport::cloud::codes::Reaction;
use crate::transport::cloud::error::{ApiError, ConnectError};

/// All that was seen of one plug.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Evidence {
    /// The result over TCP.
    pub(super) lan: LanView,
    /// Where its address is, seen from this machine.
    pub(super) place: AddressNetwork,
    /// The answer to datagrams, from its address or with its MAC.
    pub(super) datagrams: Datagrams,
    /// The answers to the broadcast.
    pub(super) broadcast: Broadcast,
    /// How the cloud sees it.
    pub(super) cloud: CloudView,
    /// Whose account it holds.
    pub(super) owner: KlapOwner,
}

/// The result over TCP.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LanView {
    /// The LAN is not used for the plug.
    NotUsed,
    /// It answered.
    Answers,
    /// Another device has its device id, with another MAC.
    SecondOfItsId,
    /// Its name does not resolve.
    NameUnresolved,
    /// It accepts connections, and no answer comes.
    Mute,
    /// It failed, also on the second try if one makes sense.
    Failed(Failure),
}

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressNetwork {
    /// On one of this machine's networks.
    Here,
    /// On none of them.
    Elsewhere,
    /// There is no address, or this machine's networks are not known.
    Unknown,
}

/// The answer over UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Datagrams {
    /// Nothing.
    Nothing,
    /// An answer by the older protocol (XOR).
    Xor,
    /// A reply to TDP (discovery on UDP port 20002) from a plug of this family.
    Tdp,
    /// A reply to TDP (discovery on UDP port 20002) from a device of another family.
    OtherFamily,
}

/// The answers to the broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broadcast {
    /// None was sent: the LAN is not searched.
    NotSent,
    /// No plug at all answered.
    NoAnswer,
    /// Others answered, or this one from its known address.
    Answered,
    /// This one answered from another address.
    AnsweredElsewhere,
}

/// How the cloud sees a plug.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum CloudView {
    /// The cloud is not used for the plug.
    NotUsed,
    /// The account does not answer, or too little is known about the plug to find it there.
    Unknown,
    /// The account does not list it.
    NotListed,
    /// It is listed as a device of another family.
    OtherFamily,
    /// It is a bulb, a camera or the like.
    OtherKind,
    /// The account names a server that may not get a token.
    ServerRefused,
    /// Listed as not connected.
    Offline,
    /// Listed as connected; it was not asked.
    Connected,
    /// It answered.
    Answers,
    /// Listed as connected, yet its server says that it is not.
    Misplaced,
    /// The request failed.
    Failed(Failure),
}

impl CloudView {
    /// Whether the plug is alive, if the cloud knows.
    fn is_alive(&self) -> Option<bool> {
        match self {
            Self::Connected | Self::Answers => Some(true),
            Self::Failed(Failure::Silent | Failure::Device { .. }) => Some(true),
            Self::Offline => Some(false),
            // The list or the server is out of date, or the server does not serve this plug.
            Self::Misplaced => None,
            Self::NotUsed | Self::Unknown | Self::NotListed => None,
            Self::OtherFamily | Self::OtherKind | Self::ServerRefused | Self::Failed(_) => None,
        }
    }
}

/// What is wrong with a plug, if anything is.
pub(super) fn of_plug(evidence: &Evidence) -> Option<Cause> {
    match &evidence.lan {
        LanView::NotUsed => match &evidence.cloud {
            CloudView::NotUsed => Some(cause::NO_WAY),
            CloudView::Unknown => Some(cause::ACCOUNT_FIRST),
            cloud => of_cloud_view(cloud),
        },
        LanView::Answers => of_cloud_view(&evidence.cloud),
        LanView::SecondOfItsId => Some(cause::SAME_DEVICE_ID),
        LanView::NameUnresolved => Some(cause::NAME_UNRESOLVED),
        LanView::Mute => Some(match evidence.datagrams {
            Datagrams::OtherFamily => cause::OTHER_FAMILY,
            _ => cause::HANGS,
        }),
        LanView::Failed(failure) => Some(of_lan_failure(failure, evidence)),
    }
}

/// Whether the cause from [`of_plug`] is only a note: the LAN reaches the plug, and it belongs to no account or another.
pub(super) fn is_a_note(evidence: &Evidence) -> bool {
    evidence.lan == LanView::Answers && evidence.cloud == CloudView::NotListed
}

fn of_lan_failure(failure: &Failure, evidence: &Evidence) -> Cause {
    let by_itself = cause_of(failure).unwrap_or(cause::NOT_A_PLUG);
    let names_the_plug = matches!(failure, Failure::Device { .. } | Failure::Unsupported(_));
    if *failure == Failure::OtherAccount {
        return evidence.owner.cause();
    }
    let is_of_klap = matches!(failure, Failure::KlapBlocked | Failure::NoLanAccount | Failure::SessionTaken);
    if names_the_plug || is_of_klap || *failure == Failure::OutOfFiles {
        return by_itself;
    }
    if evidence.broadcast == Broadcast::AnsweredElsewhere {
        return cause::ADDRESS_CHANGED;
    }
    if evidence.datagrams == Datagrams::OtherFamily || evidence.cloud == CloudView::OtherFamily {
        return cause::OTHER_FAMILY;
    }
    match failure {
        Failure::Refused => of_refusal(evidence),
        Failure::NoAddress | Failure::NoRoute | Failure::Silent => of_silence(failure, evidence),
        _ => by_itself,
    }
}

/// A device is at the address, and its port is closed.
fn of_refusal(evidence: &Evidence) -> Cause {
    match (evidence.datagrams, evidence.cloud.is_alive()) {
        (Datagrams::Tdp, _) => cause::PORT_CLOSED_BY_FIRMWARE,
        (Datagrams::Xor, _) => cause::PORT_DEAD,
        (_, Some(true)) => cause::PORT_CLOSED_BY_FIRMWARE,
        (_, Some(false)) => cause::ANOTHER_DEVICE,
        (_, None) => cause::PORT_CLOSED,
    }
}

/// No answer comes from the address, or there is no address.
fn of_silence(failure: &Failure, evidence: &Evidence) -> Cause {
    let is_alive = evidence.cloud.is_alive();
    match (evidence.datagrams, evidence.place) {
        (Datagrams::Tdp, _) => return cause::PORT_CLOSED_BY_FIRMWARE,
        (Datagrams::Xor, _) => return cause::FILTERED,
        (_, AddressNetwork::Elsewhere) if is_alive != Some(false) => return cause::BEHIND_ROUTER,
        _ => {}
    }
    let is_unsearched = evidence.broadcast == Broadcast::NotSent && *failure == Failure::NoAddress;
    match is_alive {
        Some(false) => cause::UNPLUGGED,
        _ if is_unsearched => cause::NO_ADDRESS,
        // If no plug answers at all, nothing shows that this one is isolated.
        _ if evidence.broadcast == Broadcast::NoAnswer && *failure == Failure::NoAddress => {
            cause::NO_PLUG_FOUND
        }
        Some(true) => cause::ISOLATED,
        None if evidence.broadcast == Broadcast::NoAnswer => cause::NO_PLUG_FOUND,
        None => cause::NOT_FOUND,
    }
}

fn of_cloud_view(view: &CloudView) -> Option<Cause> {
    match view {
        CloudView::NotUsed | CloudView::Connected | CloudView::Answers => None,
        // The account has a line of its own.
        CloudView::Unknown => None,
        CloudView::NotListed => Some(cause::NOT_IN_ACCOUNT),
        CloudView::OtherFamily => Some(cause::OTHER_FAMILY),
        CloudView::OtherKind => Some(cause::OTHER_KIND),
        CloudView::ServerRefused => Some(cause::SERVER_REFUSED),
        CloudView::Offline => Some(cause::CLOUD_OFFLINE),
        CloudView::Misplaced => Some(cause::WRONG_SERVER),
        CloudView::Failed(failure) => Some(match failure {
            Failure::Silent | Failure::Garbage(_) | Failure::Closed => cause::CLOUD_SILENT,
            Failure::CloudOffline => cause::CLOUD_OFFLINE,
            Failure::NotInAccount => cause::NOT_IN_ACCOUNT,
            Failure::Unsupported(_) => cause::OTHER_FAMILY,
            Failure::Device { .. } => cause::PLUG_REFUSES,
            Failure::WrongPlug { .. } => cause::ANOTHER_PLUG,
            _ => cause::CLOUD_REFUSED,
        }),
    }
}

/// What is wrong with the account, from the error of its list and the answer behind it.
pub(super) fn of_account(error: &CloudError, trouble: Option<&ApiError>) -> Cause {
    match (error, trouble) {
        (CloudError::NotSaved(_), _) => cause::TOKEN_NOT_SAVED,
        (CloudError::Faulty(_), _) => cause::UNEXPECTED,
        (CloudError::Stopped(_), None) => cause::LOGIN_MISSING,
        (CloudError::Throttled, None) => cause::THROTTLED,
        (_, None) => cause::CLOUD_OUT_OF_ORDER,
        (stopped, Some(trouble)) => of_trouble(trouble, matches!(stopped, CloudError::Stopped(_))),
    }
}

fn of_trouble(trouble: &ApiError, is_stopped: bool) -> Cause {
    match trouble {
        ApiError::Unreachable(way) => match way {
            ConnectError::NameUnresolved => cause::NO_INTERNET,
            ConnectError::Silent | ConnectError::Other(_) => cause::CLOUD_UNREACHABLE,
            ConnectError::Clock => cause::CLOCK_WRONG,
            ConnectError::PrivateAuthority => cause::AUTHORITY_MISSING,
            ConnectError::Certificate | ConnectError::Tls => cause::TLS_INTERCEPTED,
            ConnectError::OutOfFiles => cause::TOO_MANY_FILES,
        },
        ApiError::NotJson | ApiError::Http(300..400 | 511) => cause::CAPTIVE_PORTAL,
        ApiError::Blacklisted => cause::BLACKLISTED,
        ApiError::Code(code) => of_code(*code, is_stopped),
        _ => match trouble.reaction() {
            Reaction::HoldBack | Reaction::HoldBackLong => cause::THROTTLED,
            _ => cause::CLOUD_OUT_OF_ORDER,
        },
    }
}

fn of_code(code: i64, is_stopped: bool) -> Cause {
    match ApiError::Code(code).reaction() {
        Reaction::Renew | Reaction::Login if is_stopped => cause::LOGIN_EXPIRED,
        Reaction::Renew | Reaction::Login => cause::TOKEN_REFUSED,
        Reaction::Elsewhere => cause::LOGGED_IN_ELSEWHERE,
        Reaction::Stop(cause) => *cause,
        Reaction::HoldBack | Reaction::HoldBackLong => cause::THROTTLED,
        Reaction::Retry | Reaction::Plug(_) => cause::CLOUD_OUT_OF_ORDER,
        Reaction::Faulty => cause::UNEXPECTED,
    }
}

/// What is wrong with the broker.
pub(super) fn of_broker(reason: FailureReason) -> Cause {
    let (word, meaning, remedy) = (reason.word(), reason.sign(), reason.remedy());
    Cause { word, meaning, remedy, needs_login: false }
}

/// What looks odd about an e-mail address that the cloud does not know. It ignores case, but nothing else.
pub(super) fn oddity(username: &str) -> Option<&'static str> {
    if username.contains(char::is_whitespace) {
        Some("there is a space in it")
    } else if !username.contains('@') {
        Some("there is no @ in it")
    } else if !username.is_ascii() {
        Some("there is a character in it that is not ASCII")
    } else if username.contains('+') {
        Some("it has a part after +, which must be the one that the account was registered with")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::cloud::codes::CODES;

    fn refused() -> LanView {
        LanView::Failed(Failure::Refused)
    }

    fn silent() -> LanView {
        LanView::Failed(Failure::Silent)
    }

    fn no_address() -> LanView {
        LanView::Failed(Failure::NoAddress)
    }

    fn bulb() -> LanView {
        LanView::Failed(Failure::Unsupported("it is a IOT.SMARTBULB (LB130(EU))".into()))
    }

    fn wrong() -> LanView {
        LanView::Failed(Failure::WrongPlug { found: "\"Fan\" 8006…0002".into() })
    }

    #[test]
    fn each_pattern_of_what_came_back_has_its_cause() {
        use AddressNetwork::{Elsewhere, Here, Unknown};
        use Broadcast::{Answered, AnsweredElsewhere as Moved, NoAnswer, NotSent};
        use CloudView as C;
        use Datagrams::{Nothing, OtherFamily, Tdp, Xor};
        let table: Vec<(LanView, AddressNetwork, Datagrams, Broadcast, CloudView, Option<Cause>)> = vec![
            // All is well.
            (LanView::Answers, Here, Xor, Answered, C::NotUsed, None),
            (LanView::Answers, Here, Nothing, NoAnswer, C::Answers, None),
            (LanView::Answers, Here, Xor, Answered, C::Connected, None),
            (LanView::Answers, Elsewhere, Nothing, NotSent, C::Unknown, None),
            (LanView::NotUsed, Unknown, Nothing, NotSent, C::Answers, None),
            (LanView::NotUsed, Unknown, Nothing, NotSent, C::Unknown, Some(cause::ACCOUNT_FIRST)),
            (LanView::NotUsed, Unknown, Nothing, NotSent, C::NotUsed, Some(cause::NO_WAY)),
            // The LAN works, the cloud does not.
            (LanView::Answers, Here, Xor, Answered, C::NotListed, Some(cause::NOT_IN_ACCOUNT)),
            (LanView::Answers, Here, Xor, Answered, C::Offline, Some(cause::CLOUD_OFFLINE)),
            (LanView::Answers, Here, Xor, Answered, C::Misplaced, Some(cause::WRONG_SERVER)),
            (LanView::Answers, Here, Xor, Answered, C::ServerRefused, Some(cause::SERVER_REFUSED)),
            (LanView::Answers, Here, Xor, Answered, C::Failed(Failure::Silent), Some(cause::CLOUD_SILENT)),
            (
                LanView::NotUsed,
                Unknown,
                Nothing,
                NotSent,
                C::Failed(Failure::Throttled),
                Some(cause::CLOUD_REFUSED),
            ),
            (LanView::NotUsed, Unknown, Nothing, NotSent, C::OtherFamily, Some(cause::OTHER_FAMILY)),
            (
                LanView::NotUsed,
                Unknown,
                Nothing,
                NotSent,
                C::Failed(Failure::Unsupported("it answers as a Tapo device does".into())),
                Some(cause::OTHER_FAMILY),
            ),
            (
                LanView::Answers,
                Here,
                Xor,
                Answered,
                C::Failed(Failure::CloudRefused("-10000".into())),
                Some(cause::CLOUD_REFUSED),
            ),
            // Refused: who is it that refuses?
            (refused(), Here, Tdp, Answered, C::NotUsed, Some(cause::PORT_CLOSED_BY_FIRMWARE)),
            (refused(), Here, Tdp, Answered, C::Offline, Some(cause::PORT_CLOSED_BY_FIRMWARE)),
            (refused(), Here, Nothing, NoAnswer, C::Answers, Some(cause::PORT_CLOSED_BY_FIRMWARE)),
            (refused(), Here, Xor, Answered, C::Answers, Some(cause::PORT_DEAD)),
            (refused(), Here, Nothing, Answered, C::Offline, Some(cause::ANOTHER_DEVICE)),
            (refused(), Here, Nothing, Answered, C::Unknown, Some(cause::PORT_CLOSED)),
            (refused(), Here, OtherFamily, Answered, C::Unknown, Some(cause::OTHER_FAMILY)),
            (refused(), Here, Nothing, Answered, C::OtherFamily, Some(cause::OTHER_FAMILY)),
            (refused(), Here, Nothing, Moved, C::Offline, Some(cause::ADDRESS_CHANGED)),
            // Silent: is it there at all?
            (silent(), Here, Nothing, NoAnswer, C::Answers, Some(cause::ISOLATED)),
            (silent(), Here, Nothing, Answered, C::Connected, Some(cause::ISOLATED)),
            (silent(), Here, Nothing, Answered, C::Misplaced, Some(cause::NOT_FOUND)),
            (refused(), Here, Nothing, Answered, C::Misplaced, Some(cause::PORT_CLOSED)),
            (silent(), Elsewhere, Nothing, NoAnswer, C::Answers, Some(cause::BEHIND_ROUTER)),
            (silent(), Elsewhere, Nothing, NoAnswer, C::NotUsed, Some(cause::BEHIND_ROUTER)),
            (silent(), Elsewhere, Nothing, NoAnswer, C::Offline, Some(cause::UNPLUGGED)),
            (silent(), Here, Nothing, Answered, C::Offline, Some(cause::UNPLUGGED)),
            (silent(), Here, Nothing, Answered, C::NotUsed, Some(cause::NOT_FOUND)),
            (silent(), Here, Nothing, NoAnswer, C::NotListed, Some(cause::NO_PLUG_FOUND)),
            (silent(), Here, Xor, Answered, C::NotUsed, Some(cause::FILTERED)),
            (silent(), Here, Tdp, Answered, C::NotUsed, Some(cause::PORT_CLOSED_BY_FIRMWARE)),
            (silent(), Elsewhere, Nothing, Moved, C::Answers, Some(cause::ADDRESS_CHANGED)),
            (LanView::Failed(Failure::NoRoute), Here, Nothing, Answered, C::Offline, Some(cause::UNPLUGGED)),
            (
                LanView::Failed(Failure::NoRoute),
                Elsewhere,
                Nothing,
                NoAnswer,
                C::Unknown,
                Some(cause::BEHIND_ROUTER),
            ),
            (LanView::Mute, Here, Nothing, Answered, C::Answers, Some(cause::HANGS)),
            (LanView::Mute, Here, OtherFamily, Answered, C::Unknown, Some(cause::OTHER_FAMILY)),
            // No address.
            (no_address(), Unknown, Nothing, Answered, C::Answers, Some(cause::ISOLATED)),
            (no_address(), Unknown, Nothing, NoAnswer, C::Offline, Some(cause::UNPLUGGED)),
            (no_address(), Unknown, Nothing, NoAnswer, C::Answers, Some(cause::NO_PLUG_FOUND)),
            (no_address(), Unknown, Nothing, NoAnswer, C::NotUsed, Some(cause::NO_PLUG_FOUND)),
            (no_address(), Unknown, Nothing, Answered, C::NotUsed, Some(cause::NOT_FOUND)),
            (no_address(), Unknown, Nothing, NotSent, C::Answers, Some(cause::NO_ADDRESS)),
            (no_address(), Unknown, Nothing, NotSent, C::Offline, Some(cause::UNPLUGGED)),
            (LanView::NameUnresolved, Unknown, Nothing, NoAnswer, C::Answers, Some(cause::NAME_UNRESOLVED)),
            // A wrong answer.
            (LanView::SecondOfItsId, Here, Xor, Answered, C::Answers, Some(cause::SAME_DEVICE_ID)),
            (bulb(), Here, Xor, Answered, C::NotUsed, Some(cause::OTHER_KIND)),
            (bulb(), Here, Xor, Moved, C::Answers, Some(cause::OTHER_KIND)),
            (LanView::NotUsed, Unknown, Nothing, NotSent, C::OtherKind, Some(cause::OTHER_KIND)),
            (wrong(), Here, Xor, Answered, C::Answers, Some(cause::ANOTHER_PLUG)),
            (wrong(), Here, Xor, Moved, C::Answers, Some(cause::ADDRESS_CHANGED)),
            (
                LanView::Failed(Failure::Garbage("no JSON".into())),
                Here,
                Nothing,
                NoAnswer,
                C::NotUsed,
                Some(cause::NOT_A_PLUG),
            ),
            (
                LanView::Failed(Failure::Closed),
                Here,
                Nothing,
                NoAnswer,
                C::NotUsed,
                Some(cause::CLOSES_CONNECTION),
            ),
            (
                LanView::Failed(Failure::Device { code: -1, message: "no".into() }),
                Here,
                Xor,
                Moved,
                C::Answers,
                Some(cause::PLUG_REFUSES),
            ),
            (
                LanView::Failed(Failure::OutOfFiles),
                Here,
                Nothing,
                NoAnswer,
                C::Answers,
                Some(cause::TOO_MANY_FILES),
            ),
        ];
        for (lan, place, datagrams, broadcast, cloud, expected) in table {
            let owner = KlapOwner::Unknown;
            let evidence = Evidence { lan, place, datagrams, broadcast, cloud, owner };
            let found = of_plug(&evidence);
            assert_eq!(found.map(|cause| cause.word), expected.map(|cause| cause.word), "{evidence:?}");
        }
    }

    #[test]
    fn an_account_that_a_plug_refuses_is_told_from_what_the_plug_says_of_its_owner() {
        for (owner, expected) in [
            (KlapOwner::Unknown, cause::OTHER_ACCOUNT),
            (KlapOwner::Ours, cause::OLD_PASSWORD),
            (KlapOwner::Another, cause::OTHER_OWNER),
        ] {
            let evidence = Evidence {
                lan: LanView::Failed(Failure::OtherAccount),
                place: AddressNetwork::Here,
                datagrams: Datagrams::Tdp,
                broadcast: Broadcast::Answered,
                cloud: CloudView::Answers,
                owner,
            };
            assert_eq!(of_plug(&evidence), Some(expected), "{owner:?}");
            let blocked = Evidence { lan: LanView::Failed(Failure::KlapBlocked), ..evidence };
            assert_eq!(of_plug(&blocked), Some(cause::KLAP_BLOCKED), "{owner:?}");
            let none = Evidence { lan: LanView::Failed(Failure::NoLanAccount), ..blocked };
            assert_eq!(of_plug(&none), Some(cause::NO_LAN_ACCOUNT), "{owner:?}");
        }
    }

    #[test]
    fn a_plug_that_the_account_does_not_list_is_a_note_unless_it_needs_the_cloud() {
        let is_a_note = |lan, cloud| {
            let (place, datagrams, broadcast) =
                (AddressNetwork::Here, Datagrams::Nothing, Broadcast::Answered);
            let owner = KlapOwner::Unknown;
            is_a_note(&Evidence { lan, place, datagrams, broadcast, cloud, owner })
        };
        assert!(is_a_note(LanView::Answers, CloudView::NotListed));
        for lan in [LanView::NotUsed, LanView::Mute, refused(), silent(), no_address()] {
            assert!(!is_a_note(lan.clone(), CloudView::NotListed), "{lan:?}");
        }
        for cloud in [CloudView::Offline, CloudView::Misplaced, CloudView::Failed(Failure::Silent)] {
            assert!(!is_a_note(LanView::Answers, cloud.clone()), "{cloud:?}");
        }
    }

    #[test]
    fn each_error_of_the_account_has_its_cause() {
        let stopped = || CloudError::Stopped("why".into());
        let down = || CloudError::Down("why".into());
        let code = |code| Some(ApiError::Code(code));
        let no_way = |way| Some(ApiError::Unreachable(way));
        for (error, trouble, expected) in [
            (stopped(), None, cause::LOGIN_MISSING),
            (stopped(), code(-20651), cause::LOGIN_EXPIRED),
            (stopped(), code(-20655), cause::LOGIN_EXPIRED),
            (down(), code(-20651), cause::TOKEN_REFUSED),
            (stopped(), code(-20601), cause::PASSWORD_REFUSED),
            (stopped(), code(-20600), cause::ACCOUNT_UNKNOWN),
            (stopped(), code(-20200), cause::LOGIN_MALFORMED),
            (stopped(), code(-20202), cause::LOGIN_MALFORMED),
            (stopped(), code(-20615), cause::LOGIN_MALFORMED),
            (stopped(), code(-20677), cause::CODE_NEEDED),
            (stopped(), code(-20676), cause::CODE_REFUSED),
            (stopped(), code(-23003), cause::TWO_STEP),
            (stopped(), code(-23001), cause::APP_UNKNOWN),
            (stopped(), code(-10301), cause::KEYS_REFUSED),
            (stopped(), code(-20661), cause::ACCOUNT_LOCKED),
            (stopped(), code(-20662), cause::ACCOUNT_LOCKED),
            (stopped(), code(-20602), cause::ACCOUNT_NEEDS_CARE),
            (stopped(), code(-20675), cause::LOGGED_IN_ELSEWHERE),
            (stopped(), code(-20212), cause::WRONG_REGION),
            (CloudError::Throttled, code(-20004), cause::THROTTLED),
            (CloudError::Throttled, Some(ApiError::Http(429)), cause::THROTTLED),
            (CloudError::Throttled, None, cause::THROTTLED),
            (CloudError::Throttled, Some(ApiError::Blacklisted), cause::BLACKLISTED),
            (down(), no_way(ConnectError::NameUnresolved), cause::NO_INTERNET),
            (down(), no_way(ConnectError::Silent), cause::CLOUD_UNREACHABLE),
            (down(), no_way("connection refused".into()), cause::CLOUD_UNREACHABLE),
            (down(), no_way(ConnectError::Clock), cause::CLOCK_WRONG),
            (down(), no_way(ConnectError::Certificate), cause::TLS_INTERCEPTED),
            (down(), no_way(ConnectError::PrivateAuthority), cause::AUTHORITY_MISSING),
            (down(), no_way(ConnectError::Tls), cause::TLS_INTERCEPTED),
            (down(), no_way(ConnectError::OutOfFiles), cause::TOO_MANY_FILES),
            (down(), Some(ApiError::NotJson), cause::CAPTIVE_PORTAL),
            (down(), Some(ApiError::Http(302)), cause::CAPTIVE_PORTAL),
            (down(), Some(ApiError::Http(502)), cause::CLOUD_OUT_OF_ORDER),
            (down(), Some(ApiError::TimedOut), cause::CLOUD_OUT_OF_ORDER),
            (down(), code(-20000), cause::CLOUD_OUT_OF_ORDER),
            (down(), None, cause::CLOUD_OUT_OF_ORDER),
            (CloudError::Faulty(-20104), None, cause::UNEXPECTED),
            (CloudError::NotSaved("disk full".into()), None, cause::TOKEN_NOT_SAVED),
        ] {
            assert_eq!(of_account(&error, trouble.as_ref()).word, expected.word, "{error:?} {trouble:?}");
        }
    }

    #[test]
    fn no_code_that_stops_the_account_is_called_an_outage() {
        for row in CODES.iter().filter(|row| matches!(row.reaction, Reaction::Stop(_))) {
            let cause = of_account(&CloudError::Stopped("why".into()), Some(&ApiError::Code(row.first)));
            assert_ne!(cause, cause::CLOUD_OUT_OF_ORDER, "{row:?}");
        }
    }

    #[test]
    fn what_is_odd_about_an_address_is_named() {
        assert_eq!(oddity("me@example.com"), None);
        assert_eq!(oddity("Me@Example.com"), None, "the cloud ignores case");
        for (odd, hint) in
            [("me @example.com", "space"), ("me.example.com", "no @"), ("me+h@example.com", "after +")]
        {
            assert!(oddity(odd).is_some_and(|hints| hints.contains(hint)), "{odd}");
        }
    }
}
