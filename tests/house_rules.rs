//! The rules of the house, read from the source: imports go down only, the deciding rooms know no clock, and
//! every file says what it owns.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms by floor, ground first. A room may import from lower floors only, never from a neighbour.
const FLOORS: [&[&str]; 8] = [
    &["model", "cause", "secret", "permissions", "duration", "backoff", "logging"],
    &["smarthome"],
    &["bridge"],
    &["mqtt", "transport"],
    &["config", "store"],
    &["daemon", "sim"],
    &["commands"],
    &["main"],
];

/// The pretend house shares the plug's language with the code under test and nothing else, or a mistake in
/// both would never be seen.
const SIM_MAY_IMPORT: [&str; 4] = ["model", "secret", "logging", "smarthome"];

/// Rooms that decide and may not know what time it is, roll dice or wait.
const PURE: [&str; 2] = ["bridge", "smarthome"];
const IMPURE: [&str; 8] = [
    "Instant::now",
    "SystemTime",
    "rand::",
    "RandomState",
    "new_v4",
    "tokio",
    "std::net::Tcp",
    "std::net::Udp",
];

/// A source file: where it is, which room it belongs to, and what is in it.
struct Source {
    path: PathBuf,
    room: String,
    text: String,
}

impl Source {
    /// The code without comments and without the unit tests at its end, with the number of each line.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.text.find("\n#[cfg(test)]\nmod tests").unwrap_or(self.text.len());
        self.text[..end]
            .lines()
            .enumerate()
            .map(|(n, line)| (n + 1, line.split("//").next().unwrap_or_default()))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let inside = path.strip_prefix(&root).unwrap().to_owned();
            let room = inside.components().next().unwrap().as_os_str().to_str().unwrap().replace(".rs", "");
            sources.push(Source { text: fs::read_to_string(&path).unwrap(), path: inside, room });
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms that a line of code of `room` names.
fn imports(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for prefix in ["crate::", "hs100d::"] {
        for (at, _) in line.match_indices(prefix) {
            let rest = &line[at + prefix.len()..];
            found.push(rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
        }
    }
    found
}

/// What is wrong with an import of `imported` in `room`, if something is.
fn wrong(room: &str, imported: &str) -> Option<String> {
    if room == imported {
        return None;
    }
    let (Some(here), Some(there)) = (floor(room), floor(imported)) else {
        return Some(format!("`{imported}` is no room: import by its true path, one room at a time"));
    };
    if there >= here {
        return Some(format!("`{room}` may not import from `{imported}`, which is not below it"));
    }
    if room == "sim" && !SIM_MAY_IMPORT.contains(&imported) {
        return Some(format!("the pretend house may share only the plug's language, not `{imported}`"));
    }
    None
}

#[test]
fn imports_go_down_only() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.room != "lib") {
        assert!(floor(&source.room).is_some(), "{} is a room without a floor", source.room);
        for (n, line) in source.code() {
            let wrongs = imports(line).into_iter().filter_map(|imported| wrong(&source.room, &imported));
            faults.extend(wrongs.map(|what| format!("src/{}:{n}: {what}", source.path.display())));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_import_that_runs_up_would_be_seen() {
    assert_eq!(imports("use crate::bridge::event::{Event, RequestId};"), ["bridge"]);
    assert_eq!(imports("fn f(x: crate::mqtt::Options) -> crate::model::Mac {"), ["mqtt", "model"]);
    assert_eq!(wrong("bridge", "model"), None);
    assert_eq!(wrong("bridge", "bridge"), None);
    for (room, imported) in [
        ("bridge", "mqtt"),
        ("mqtt", "transport"),
        ("config", "store"),
        ("model", "commands"),
        ("sim", "transport"),
    ] {
        assert!(wrong(room, imported).is_some(), "{room} from {imported}");
    }
    assert_eq!(imports("use crate::{bridge, mqtt};"), [""]);
    assert!(wrong("commands", "").is_some(), "a group of rooms hides what is imported");
}

#[test]
fn the_deciding_rooms_know_no_clock_no_dice_and_no_socket() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.room.as_str())) {
        for (n, line) in source.code() {
            let impure = IMPURE.iter().filter(|word| line.contains(**word));
            faults.extend(impure.map(|word| format!("src/{}:{n}: {word}", source.path.display())));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_file_says_first_what_it_owns() {
    let silent = |source: &&Source| !source.text.starts_with("//! ");
    let faults: Vec<_> =
        sources().iter().filter(silent).map(|source| source.path.display().to_string()).collect();
    assert!(faults.is_empty(), "without `//!`: {}", faults.join(", "));
}

/// What a line that a person reads may carry beside its message.
const FIELDS: [&str; 4] = ["event", "plug", "route", "reason"];

/// The fields that the first argument list in `text` gives to a line of the log.
fn fields(text: &str) -> Vec<&str> {
    let mut fields = Vec::new();
    let mut rest = text.trim_start();
    while !rest.starts_with('"') {
        let name = rest.trim_start_matches(['%', '?']);
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        fields.push(&name[..end]);
        let Some((_, behind)) = rest.split_once(',') else { break };
        rest = behind.trim_start();
    }
    fields
}

/// `journalctl` shows the message and nothing else, so what a person needs stands in it; fields are for programs, and
/// they are always the same ones.
#[test]
fn lines_for_people_say_all_in_their_message() {
    let mut faults = Vec::new();
    for source in sources() {
        let code: String = source.code().map(|(_, line)| format!("{line}\n")).collect();
        for level in ["info!(", "warn!(", "error!("] {
            for (at, _) in code.match_indices(level) {
                let unknown = fields(&code[at + level.len()..]).into_iter().filter(|it| !FIELDS.contains(it));
                let n = code[..at].lines().count();
                faults.extend(unknown.map(|it| format!("src/{}:{n}: {it}", source.path.display())));
            }
        }
    }
    assert!(faults.is_empty(), "say it in the message:\n{}", faults.join("\n"));
}

#[test]
fn a_field_that_only_the_journal_would_show_would_be_seen() {
    assert_eq!(fields("\"all is well\")"), [""; 0]);
    assert_eq!(fields("event = \"x\", %plug, \"{plug}: {error}\")"), ["event", "plug"]);
    assert_eq!(fields("\n    %local,\n    ?error,\n    \"no socket\"\n)"), ["local", "error"]);
}
