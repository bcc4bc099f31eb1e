//! The tables of `docs/TROUBLESHOOTING.md`, printed from the causes and compared with the page. Tests only.
//!
//! `HS100D_WRITE_DOCS=1 cargo test --lib doctor::page` prints them into the page.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::diagnosis::of_broker;
use crate::bridge::failures::cause_of;
use crate::cause::{self, Cause};
use crate::model::Failure;
use crate::mqtt::failure::reason::FailureReason;
use crate::transport::cloud::codes::{CODES, Reaction};

/// The tables by their names in the page.
fn tables() -> [(&'static str, String); 7] {
    let account: Vec<_> = cause::ACCOUNT_STOPPED.iter().chain(cause::ACCOUNT).copied().collect();
    [
        ("failures", failures()),
        ("stopped", stopped()),
        ("search", causes(cause::SEARCH)),
        ("plug", causes(cause::PLUG)),
        ("account", causes(&account)),
        ("broker", causes(&FailureReason::ALL.map(of_broker))),
        ("embedded broker", causes(cause::EMBEDDED_BROKER)),
    ]
}

fn causes(causes: &[Cause]) -> String {
    let mut table = "| cause | what it means | what to do |\n| --- | --- | --- |\n".to_owned();
    for cause in causes {
        _ = writeln!(table, "| `{}` | {} | {} |", cause.word, cause.meaning, cause.advice());
    }
    table
}

/// What a route reports of a plug, with the cause if nothing else is known.
fn failures() -> String {
    let mut table = "| message | likely cause | what to do |\n| --- | --- | --- |\n".to_owned();
    for failure in every_failure() {
        if let Some(cause) = cause_of(&failure) {
            let message = failure.to_string().replace("-1", "…");
            _ = writeln!(table, "| {message} | `{}` | {} |", cause.word, cause.advice());
        }
    }
    table
}

/// One of each kind, with … for what differs.
fn every_failure() -> Vec<Failure> {
    let some = || "…".into();
    let mut all = vec![
        Failure::Refused,
        Failure::Silent,
        Failure::NoRoute,
        Failure::NoAddress,
        Failure::Closed,
        Failure::Garbage(some()),
        Failure::WrongPlug { found: some() },
        Failure::KlapBlocked,
        Failure::OtherAccount,
        Failure::NoLanAccount,
        Failure::SessionTaken,
        Failure::Device { code: -1, message: some() },
        Failure::Unsupported(some()),
        Failure::OutOfFiles,
        Failure::CloudOffline,
        Failure::NotInAccount,
        Failure::CloudDown(some()),
        Failure::CloudFailsHere(some()),
        Failure::Throttled,
        Failure::CloudRefused(some()),
        Failure::CloudStopped(some()),
        Failure::Abandoned,
    ];
    // A new kind does not compile until it is in the list above.
    all.retain(|failure| match failure {
        Failure::Refused | Failure::Silent | Failure::NoRoute | Failure::NoAddress | Failure::Closed => true,
        Failure::Garbage(_) | Failure::WrongPlug { .. } | Failure::Device { .. } => true,
        Failure::KlapBlocked | Failure::OtherAccount | Failure::NoLanAccount => true,
        Failure::SessionTaken => true,
        Failure::Unsupported(_) | Failure::OutOfFiles | Failure::CloudOffline | Failure::NotInAccount => true,
        Failure::CloudDown(_) | Failure::CloudFailsHere(_) | Failure::Throttled => true,
        Failure::CloudRefused(_) | Failure::CloudStopped(_) | Failure::Abandoned => true,
    });
    all
}

/// Why the account is not used until the user acts.
fn stopped() -> String {
    let mut table = "| reason | likely cause | what to do |\n| --- | --- | --- |\n".to_owned();
    let missing = ("there is neither a password nor a valid login", cause::LOGIN_MISSING);
    let of_codes = CODES.iter().filter_map(|row| match row.reaction {
        Reaction::Stop(cause) => Some((row.name, *cause)),
        Reaction::Elsewhere => Some((row.name, cause::LOGGED_IN_ELSEWHERE)),
        _ => None,
    });
    let mut reasons: Vec<(Vec<&str>, Cause)> = Vec::new();
    for (name, cause) in std::iter::once(missing).chain(of_codes) {
        match reasons.iter_mut().find(|(_, known)| *known == cause) {
            Some((names, _)) if !names.contains(&name) => names.push(name),
            Some(_) => {}
            None => reasons.push((vec![name], cause)),
        }
    }
    for (names, cause) in reasons {
        _ = writeln!(table, "| {} | `{}` | {} |", names.join("; "), cause.word, cause.advice());
    }
    table
}

/// The page with each table between its marks replaced by the printed one.
fn with_tables(page: &str) -> String {
    let mut page = page.to_owned();
    for (name, table) in tables() {
        let (begin, end) = (format!("<!-- table: {name} -->\n"), "<!-- end of table -->");
        let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("there is no {begin}"));
        let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("{name} has no end"));
        page = format!("{before}{begin}{table}{end}{after}");
    }
    page
}

#[test]
fn the_tables_of_the_page_are_those_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/TROUBLESHOOTING.md");
    let page = fs::read_to_string(&path).unwrap();
    let printed = with_tables(&page);
    if std::env::var_os("HS100D_WRITE_DOCS").is_some() {
        fs::write(&path, printed).unwrap();
        return;
    }
    let differs = page.lines().zip(printed.lines()).find(|(written, printed)| written != printed);
    assert!(
        page == printed,
        "{differs:#?}\nThe page differs from the program: HS100D_WRITE_DOCS=1 cargo test --lib doctor::page"
    );
}

#[test]
fn every_word_stands_for_one_cause() {
    let brokers = FailureReason::ALL.map(of_broker);
    let tables = [
        cause::SEARCH,
        cause::PLUG,
        cause::ACCOUNT_STOPPED,
        cause::ACCOUNT,
        cause::EMBEDDED_BROKER,
        &brokers,
    ];
    let mut words: Vec<_> = tables.into_iter().flatten().map(|cause| cause.word).collect();
    let is_plain =
        |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    assert!(words.iter().all(is_plain), "{words:?}");
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), count);
}
