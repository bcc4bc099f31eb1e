//! The table of the cloud's known error codes, and what to do about each.
//!
//! Only the numbers count. The server's texts are partly localised, so they are neither parsed nor shown; the names here are
//! our own.

use hs100d_core::cause::{self, Cause};
use hs100d_core::secret::Source;

/// The answer to a call that the interface does not have.
pub(crate) const NO_SUCH_METHOD: i64 = -20103;
/// The answer to a login that needs a code.
pub(crate) const CODE_NEEDED: i64 = -20677;
/// The answer of a host that does not serve the account.
pub(crate) const WRONG_SERVER: i64 = -20212;

/// What to do about an error of the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Try again later.
    Retry,
    /// The token is refused: refresh it, or log in once, then repeat the call once.
    Renew,
    /// The refresh token is refused as well: log in once, then repeat the call once.
    Login,
    /// Another client has logged in, or the account is locked: sources disagree. After a call, the token is renewed, but
    /// rarely; after a login, the cloud is stopped.
    Elsewhere,
    /// A retry would do harm (a lock, a mail to the owner): stop until the user has acted.
    Stop(&'static Cause),
    /// Too many calls: make none for minutes, then for longer, and do not log in for it.
    HoldBack,
    /// We are blocked: make no call for an hour.
    HoldBackLong,
    /// About one plug; the session is fine.
    Plug(PlugFault),
    /// Our request is invalid.
    Faulty,
}

impl Reaction {
    /// Whether the cloud refused the e-mail address or the password, so that it would refuse them again.
    pub(crate) fn refuses_login(self) -> bool {
        matches!(self, Self::Stop(cause) if is_of_login(cause))
    }
}

/// What the cloud says about one plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlugFault {
    /// It is not connected to the cloud, or another region serves it.
    #[error("the cloud says that the plug is offline")]
    Offline,
    /// The cloud sent it the request and got no reply in time; the plug may still act.
    #[error("the plug did not answer the cloud in time")]
    Silent,
    /// The account does not own it.
    #[error("the account does not list the plug")]
    NotListed,
    /// The cloud does not know its hardware or firmware.
    #[error("the cloud does not know this kind of plug")]
    Unknown,
}

/// One code, or a range with the same meaning.
#[derive(Debug)]
pub struct CodeRow {
    /// The code nearest to zero.
    pub first: i64,
    /// The code farthest from zero.
    pub(crate) last: i64,
    /// Its name in messages.
    pub name: &'static str,
    /// What to do about it.
    pub reaction: Reaction,
}

impl CodeRow {
    /// The row of a code; `None` for success and for undocumented codes.
    pub(crate) fn of(code: i64) -> Option<&'static Self> {
        CODES.iter().find(|row| (row.last..=row.first).contains(&code))
    }
}

/// What to do about a code. An undocumented one is retried; it never means that the token is refused.
pub(crate) fn reaction(code: i64) -> Reaction {
    CodeRow::of(code).map_or(Reaction::Retry, |row| row.reaction)
}

/// The name of a code in messages.
pub fn name(code: i64) -> &'static str {
    CodeRow::of(code).map_or("an error that is not known here", |row| row.name)
}

/// Who logged in, which decides how to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginBy {
    /// The daemon, with the password of the config.
    Config(Source),
    /// The user, who waits for the result.
    Hand,
}

/// What the user has to do before the account is used again, and how to make hs100d try.
pub(crate) fn remedy(cause: &Cause, by: LoginBy) -> String {
    let is_of_login = is_of_login(cause);
    let next = match by {
        LoginBy::Config(_) if *cause == cause::CODE_NEEDED => {
            "; then run `hs100d cloud login`, which asks for the code (a reload alone gets the same refusal)"
        }
        LoginBy::Hand if cause.needs_login => "; then try again",
        LoginBy::Hand => "",
        LoginBy::Config(_) if !cause.needs_login => "; a reload tries again",
        LoginBy::Config(Source::Credential) if is_of_login => {
            "; then reload, or restart hs100d if you changed the credential cloud.password (systemd reads credentials at \
             the start only), or run `hs100d cloud login`"
        }
        LoginBy::Config(_) => "; then reload or run `hs100d cloud login`",
    };
    let until_then = match by {
        LoginBy::Config(_) if is_of_login => "; hs100d does not try before",
        LoginBy::Config(_) | LoginBy::Hand => "",
    };
    format!("{}{next}{until_then}", cause.remedy)
}

/// Whether the cloud refused the e-mail address or the password itself.
fn is_of_login(cause: &Cause) -> bool {
    [cause::PASSWORD_REFUSED, cause::ACCOUNT_UNKNOWN, cause::LOGIN_MALFORMED].contains(cause)
}

/// The table, ordered by number.
pub static CODES: &[CodeRow] = &[
    one(-1, "unknown error", Reaction::Retry),
    one(-10000, "generic error", Reaction::Faulty),
    one(-10100, "JSON format error", Reaction::Faulty),
    one(-10101, "no JSON in the body", Reaction::Faulty),
    one(-10200, "too many requests from this address", Reaction::HoldBack),
    one(-10201, "too many requests for this account", Reaction::HoldBack),
    one(-10301, "signature does not match", Reaction::Stop(&cause::KEYS_REFUSED)),
    one(-20000, "internal error of the server", Reaction::Retry),
    one(-20001, "permission denied", Reaction::Stop(&cause::ACCOUNT_NEEDS_CARE)),
    one(-20002, "the plug did not answer the cloud in time", Reaction::Plug(PlugFault::Silent)),
    one(-20003, "server busy", Reaction::HoldBack),
    one(-20004, "rate limit exceeded", Reaction::HoldBack),
    one(-20100, "JSON without id", Reaction::Faulty),
    one(NO_SUCH_METHOD, "no such method", Reaction::Faulty),
    one(-20104, "a parameter is missing", Reaction::Faulty),
    one(-20105, "a parameter has the wrong type", Reaction::Faulty),
    one(-20106, "a parameter is out of range", Reaction::Faulty),
    one(-20107, "a parameter is invalid", Reaction::Faulty),
    one(-20200, "not an e-mail address", Reaction::Stop(&cause::LOGIN_MALFORMED)),
    one(-20201, "not a phone number", Reaction::Stop(&cause::LOGIN_MALFORMED)),
    one(-20202, "not a user name", Reaction::Stop(&cause::LOGIN_MALFORMED)),
    one(WRONG_SERVER, "wrong server for this account", Reaction::Stop(&cause::WRONG_REGION)),
    one(-20500, "malformed device id", Reaction::Plug(PlugFault::NotListed)),
    one(-20501, "device id not found", Reaction::Plug(PlugFault::NotListed)),
    one(-20504, "hardware id not found", Reaction::Plug(PlugFault::Unknown)),
    one(-20505, "firmware id not found", Reaction::Plug(PlugFault::Unknown)),
    one(-20506, "the plug belongs to another account", Reaction::Plug(PlugFault::NotListed)),
    one(-20507, "the plug was removed from the account", Reaction::Plug(PlugFault::NotListed)),
    one(-20520, "invalid hardware id", Reaction::Plug(PlugFault::Unknown)),
    one(-20521, "invalid firmware id", Reaction::Plug(PlugFault::Unknown)),
    one(-20522, "invalid device id", Reaction::Plug(PlugFault::NotListed)),
    one(-20530, "device not found", Reaction::Plug(PlugFault::NotListed)),
    one(-20571, "the plug is offline", Reaction::Plug(PlugFault::Offline)),
    one(-20573, "no request for the plug", Reaction::Faulty),
    one(-20580, "the plug is not bound to this account", Reaction::Plug(PlugFault::NotListed)),
    one(-20600, "no such account", Reaction::Stop(&cause::ACCOUNT_UNKNOWN)),
    one(-20601, "wrong e-mail address or password", Reaction::Stop(&cause::PASSWORD_REFUSED)),
    one(-20602, "the account is not active", Reaction::Stop(&cause::ACCOUNT_NEEDS_CARE)),
    one(-20604, "malformed user name", Reaction::Stop(&cause::LOGIN_MALFORMED)),
    one(-20608, "account out of range", Reaction::Stop(&cause::LOGIN_MALFORMED)),
    one(-20610, "wrong type of account", Reaction::Stop(&cause::LOGIN_MALFORMED)),
    one(-20615, "malformed password", Reaction::Stop(&cause::LOGIN_MALFORMED)),
    one(-20651, "token expired", Reaction::Renew),
    one(-20652, "token incorrect", Reaction::Renew),
    one(-20655, "refresh token expired", Reaction::Login),
    one(-20656, "refresh token incorrect", Reaction::Login),
    one(-20661, "the account is locked", Reaction::Stop(&cause::ACCOUNT_LOCKED)),
    one(-20662, "locked for too many verification codes", Reaction::Stop(&cause::ACCOUNT_LOCKED)),
    run(-20671, -20674, "an activation or reset mail is pending", Reaction::Stop(&cause::ACCOUNT_NEEDS_CARE)),
    one(-20675, "logged in elsewhere, or locked", Reaction::Elsewhere),
    one(-20676, "verification code not accepted", Reaction::Stop(&cause::CODE_REFUSED)),
    one(CODE_NEEDED, "the account uses two-step verification", Reaction::Stop(&cause::CODE_NEEDED)),
    run(-20801, -20803, "logged in with another app", Reaction::Renew),
    one(-21001, "too many verification codes from this address", Reaction::HoldBackLong),
    one(-23001, "app not known", Reaction::Stop(&cause::APP_UNKNOWN)),
    // The server's text is "App version is too old"; it refuses two-step accounts at this API with it.
    one(-23003, "the account uses two-step verification", Reaction::Stop(&cause::TWO_STEP)),
    one(-25001, "the plug's own token expired", Reaction::Plug(PlugFault::Offline)),
    one(-25002, "the plug's own token is incorrect", Reaction::Plug(PlugFault::Offline)),
    one(-30000, "internal error of a module", Reaction::Retry),
    run(-30500, -30599, "internal error of a module", Reaction::Retry),
];

const fn one(code: i64, name: &'static str, reaction: Reaction) -> CodeRow {
    run(code, code, name, reaction)
}

const fn run(first: i64, last: i64, name: &'static str, reaction: Reaction) -> CodeRow {
    CodeRow { first, last, name, reaction }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each code that has been written about, by the kind of reaction that is right for it.
    const KNOWN: &[(&str, &[i64])] = &[
        ("retry", &[-1, -20000, -30000, -30500, -30512, -30599]),
        ("renew", &[-20651, -20652, -20801, -20802, -20803]),
        ("login", &[-20655, -20656]),
        ("elsewhere", &[-20675]),
        ("stop", &[-10301, -20001, -20200, -20201, -20202, -20212, -20600, -20601, -20602, -20604, -20608]),
        ("stop", &[-20610, -20615, -20661, -20662, -20671, -20672, -20673, -20674, -20676, -20677]),
        ("stop", &[-23001, -23003]),
        ("hold back", &[-10200, -10201, -20003, -20004]),
        ("hold back long", &[-21001]),
        ("plug", &[-20002, -20500, -20501, -20504, -20505, -20506, -20507, -20520, -20521, -20522, -20530]),
        ("plug", &[-20571, -20580, -25001, -25002]),
        ("faulty", &[-10000, -10100, -10101, -20100, -20103, -20104, -20105, -20106, -20107, -20573]),
    ];

    fn kind(reaction: Reaction) -> &'static str {
        match reaction {
            Reaction::Retry => "retry",
            Reaction::Renew => "renew",
            Reaction::Login => "login",
            Reaction::Elsewhere => "elsewhere",
            Reaction::Stop(_) => "stop",
            Reaction::HoldBack => "hold back",
            Reaction::HoldBackLong => "hold back long",
            Reaction::Plug(_) => "plug",
            Reaction::Faulty => "faulty",
        }
    }

    #[test]
    fn every_code_that_is_known_has_a_row_with_the_right_reaction() {
        for (expected, codes) in KNOWN {
            for &code in *codes {
                let row = CodeRow::of(code).unwrap_or_else(|| panic!("{code} has no row"));
                assert_eq!(kind(row.reaction), *expected, "{code}");
            }
        }
    }

    #[test]
    fn every_row_is_named_in_the_list_above() {
        for row in CODES {
            let named =
                KNOWN.iter().any(|(_, codes)| codes.contains(&row.first) && codes.contains(&row.last));
            assert!(named, "{row:?}");
        }
    }

    #[test]
    fn the_table_is_ordered_and_no_code_stands_twice() {
        for row in CODES {
            assert!(row.last <= row.first, "{row:?}");
        }
        for pair in CODES.windows(2) {
            assert!(pair[1].first < pair[0].last, "{pair:?}");
        }
    }

    #[test]
    fn an_undocumented_code_is_retried_and_never_refuses_the_token() {
        for code in [1, -2, -20650, -20653, -20657, -99999, i64::MIN, i64::MAX] {
            assert_eq!(reaction(code), Reaction::Retry, "{code}");
        }
    }

    #[test]
    fn what_helps_after_a_login_by_hand_is_never_the_command_that_has_just_failed() {
        for row in CODES {
            let Reaction::Stop(cause) = row.reaction else { continue };
            let words = remedy(cause, LoginBy::Hand);
            assert!(!words.contains("hs100d cloud login") && !words.contains("reload"), "{row:?}: {words}");
            for source in [Source::Config, Source::Credential] {
                let words = remedy(cause, LoginBy::Config(source));
                assert!(words.contains("reload"), "{row:?}: {words}");
            }
        }
        let credential = remedy(&cause::PASSWORD_REFUSED, LoginBy::Config(Source::Credential));
        assert!(
            credential.contains("restart hs100d if you changed the credential cloud.password"),
            "{credential}"
        );
    }

    #[test]
    fn offline_and_silent_plugs_are_told_apart() {
        assert_eq!(reaction(-20571), Reaction::Plug(PlugFault::Offline));
        assert_eq!(reaction(-20002), Reaction::Plug(PlugFault::Silent));
        assert_eq!(reaction(-20580), Reaction::Plug(PlugFault::NotListed));
    }
}
