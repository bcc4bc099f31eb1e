//! The rules for the source of all our crates: imports go down only and never in a circle, the modules that decide use no
//! clock, a type name stands for one thing, and every file says what it owns.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The top modules by level, ground first. A module may import only from lower levels, never from its own. Those of one
/// crate see each other, so the compiler holds only a part of this.
const FLOORS: [&[&str]; 9] = [
    &["model", "cause", "secret", "permissions", "duration", "backoff", "logging"],
    &["smarthome", "klap_hashes"],
    &["bridge"],
    &["payload"],
    &["mqtt", "http", "transport"],
    &["config", "store"],
    &["daemon", "sim", "supervisor"],
    &["commands"],
    &["main"],
];

/// The simulated home shares only the codec with the code under test. Otherwise the tests would not see a mistake in
/// shared code.
const SIM_MAY_IMPORT: [&str; 4] = ["model", "secret", "logging", "smarthome"];

/// Modules that decide: no clock, no random source, no waiting.
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

/// The crates whose root is a top module itself, by their names in the source.
const ROOMS_OF_THEIR_OWN: [(&str, &str); 3] =
    [("hs100d_http", "http"), ("hs100d_transport", "transport"), ("hs100d_sim", "sim")];

/// The crates whose modules are top modules.
const OF_SEVERAL_ROOMS: [&str; 2] = ["hs100d", "hs100d_core"];

/// What the crate of the decisions may not be linked with, directly or by what it depends on: tasks, and connections.
const WITH_SOCKETS_OR_TASKS: [&str; 5] = ["tokio", "mio", "socket2", "hyper", "rustls"];

/// A source file: its path in the repository, the path of its module, its top module, and its text.
struct Source {
    path: PathBuf,
    module: Vec<String>,
    room: String,
    text: String,
}

impl Source {
    /// The code without comments and without the unit tests at its end, with line numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_tests = |rest: &str| rest.lines().nth(2).is_some_and(|line| line.ends_with("mod tests {"));
        let mut marks = self.text.match_indices("\n#[cfg(test)]\n");
        let end = marks.find(|&(at, _)| is_tests(&self.text[at..])).map_or(self.text.len(), |(at, _)| at);
        self.text[..end]
            .lines()
            .enumerate()
            .map(|(n, line)| (n + 1, line.split("//").next().unwrap_or_default()))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folders of our crates: that of the program, then those in `crates`.
fn crates() -> Vec<PathBuf> {
    let inner = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    std::iter::once(root().to_owned()).chain(inner).collect()
}

/// The name of a crate in the source.
fn name_of(folder: &Path) -> String {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let name = manifest.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    name.unwrap().replace('-', "_")
}

/// The path of a file's module, with one root for all crates: `src/lan/xor.rs` of `hs100d_transport` is
/// `transport::lan::xor`, and the root of that crate is `transport`.
fn module_of(name: &str, inside: &Path) -> Vec<String> {
    let names = inside.with_extension("");
    let names = names.iter().map(|name| name.to_str().unwrap().to_owned()).filter(|it| it != "mod");
    match ROOMS_OF_THEIR_OWN.iter().find(|(known, _)| *known == name) {
        Some((_, room)) => {
            std::iter::once((*room).to_owned()).chain(names.filter(|it| it != "lib")).collect()
        }
        None => names.collect(),
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in crates() {
        let (name, src) = (name_of(&folder), folder.join("src"));
        let is_known = OF_SEVERAL_ROOMS.contains(&&*name) || ROOMS_OF_THEIR_OWN.iter().any(|it| it.0 == name);
        assert!(is_known, "{name} is a crate without a level");
        let mut paths = vec![src.clone()];
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = module_of(&name, path.strip_prefix(&src).unwrap());
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().to_owned();
                sources.push(Source { path, room: module[0].clone(), module, text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The top modules that a line of code in `room` imports from.
fn imports(room: &str, line: &str) -> Vec<String> {
    let own = ROOMS_OF_THEIR_OWN.iter().find(|(_, own)| *own == room);
    let mut found = Vec::new();
    for prefix in ["crate::", "hs100d::", "hs100d_core::"] {
        for (at, _) in line.match_indices(prefix) {
            let rest = &line[at + prefix.len()..];
            match own.filter(|_| prefix == "crate::") {
                Some(_) => found.push(room.to_owned()),
                None => {
                    found.push(rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
                }
            }
        }
    }
    let named = ROOMS_OF_THEIR_OWN.iter().filter(|(name, _)| line.contains(name));
    found.extend(named.map(|(_, room)| (*room).to_owned()));
    found
}

/// What is wrong with an import of `imported` in `room`, if anything.
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
        return Some(format!("the simulated home may share only the plug's language, not `{imported}`"));
    }
    None
}

#[test]
fn imports_go_down_only() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.room != "lib") {
        assert!(floor(&source.room).is_some(), "{} is a room without a floor", source.room);
        for (n, line) in source.code() {
            let imports = imports(&source.room, line).into_iter();
            let wrongs = imports.filter_map(|imported| wrong(&source.room, &imported));
            faults.extend(wrongs.map(|what| format!("{}:{n}: {what}", source.path.display())));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_import_that_runs_up_would_be_seen() {
    assert_eq!(imports("daemon", "use crate::bridge::event::{Event, RequestId};"), ["bridge"]);
    assert_eq!(imports("bridge", "fn f(x: crate::mqtt::Options) -> crate::model::Mac {"), ["mqtt", "model"]);
    assert_eq!(imports("transport", "use crate::lan::xor::Xor;"), ["transport"], "its own crate");
    assert_eq!(imports("transport", "use hs100d_core::bridge::event::Outcome;"), ["bridge"]);
    assert_eq!(imports("sim", "use hs100d_transport::lan::Lan;"), ["transport"]);
    assert_eq!(imports("bridge", "use hs100d_sim as home;"), ["sim"]);
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
    assert_eq!(imports("commands", "use crate::{bridge, mqtt};"), [""]);
    assert_eq!(imports("sim", "use hs100d_core::{bridge, smarthome};"), [""]);
    assert!(wrong("commands", "").is_some(), "a group of rooms hides what is imported");
}

/// The names that the crates of `lock` are reached by from this one, itself included.
fn reached<'a>(lock: &'a str, from: &'a str) -> BTreeSet<&'a str> {
    let needs = |name: &str| -> Vec<&'a str> {
        let rows = lock.split("\n\n").filter(|row| row.contains(&format!("name = \"{name}\"\n")));
        rows.flat_map(|row| row.lines().filter_map(|line| line.strip_prefix(" \"")))
            .map(|dependency| dependency.split([' ', '"']).next().unwrap())
            .collect()
    };
    let (mut found, mut ahead) = (BTreeSet::new(), vec![from]);
    while let Some(name) = ahead.pop() {
        if found.insert(name) {
            ahead.extend(needs(name));
        }
    }
    found
}

#[test]
fn the_crate_that_decides_has_neither_sockets_nor_tasks() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let core = reached(&lock, "hs100d-core");
    assert!(core.contains("serde_json") && core.contains("hs100d-core"), "{core:?}");
    let found: Vec<_> = WITH_SOCKETS_OR_TASKS.iter().filter(|name| core.contains(**name)).collect();
    assert!(found.is_empty(), "hs100d-core is linked with {found:?}");
    let transport = reached(&lock, "hs100d-transport");
    let missed: Vec<_> = WITH_SOCKETS_OR_TASKS.iter().filter(|name| !transport.contains(**name)).collect();
    assert!(missed.is_empty(), "{missed:?} would not be seen");
}

#[test]
fn the_deciding_rooms_know_no_clock_no_dice_and_no_socket() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.room.as_str())) {
        for (n, line) in source.code() {
            let impure = IMPURE.iter().filter(|word| line.contains(**word));
            faults.extend(impure.map(|word| format!("{}:{n}: {word}", source.path.display())));
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

/// The fields that a log line for people may have beside its message.
const FIELDS: [&str; 4] = ["event", "plug", "route", "reason"];

/// The fields of the first log call in `text`.
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

/// `journalctl` shows only the message, so the message has everything that a person needs. Fields are for programs, and
/// only these exist.
#[test]
fn lines_for_people_say_all_in_their_message() {
    let mut faults = Vec::new();
    for source in sources() {
        let code: String = source.code().map(|(_, line)| format!("{line}\n")).collect();
        for level in ["info!(", "warn!(", "error!("] {
            for (at, _) in code.match_indices(level) {
                let unknown = fields(&code[at + level.len()..]).into_iter().filter(|it| !FIELDS.contains(it));
                let n = code[..at].lines().count();
                faults.extend(unknown.map(|it| format!("{}:{n}: {it}", source.path.display())));
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

/// The code of each file by the path of its module, such as `bridge::plug`.
type Modules = BTreeMap<String, String>;

/// A path that a file names, and whether the file re-exports it.
type NamedPath = (Vec<String>, bool);

/// Type names for two things that have to go. The list may only get shorter.
const KNOWN_TWICE: [&str; 0] = [];

/// Types that are always written with their module, as `check::Args`, or of which a build has only one. Those of
/// `config::file` are always written with their module as well.
const NAMED_WITH_MODULE: [&str; 2] = ["Args", "EmbeddedBroker"];

/// Lines of code of one file, without blank lines, comments and unit tests.
const LONGEST_FILE: usize = 700;

/// Longer files that have to be split. The list may only get shorter.
const KNOWN_LONG: [&str; 0] = [];

fn modules() -> Modules {
    let of = |source: &Source| {
        (source.module.join("::"), source.code().map(|(_, line)| format!("{line}\n")).collect())
    };
    sources().iter().filter(|source| !["lib", "main"].contains(&source.room.as_str())).map(of).collect()
}

/// What a path begins with that leads into our crates.
fn is_rooted(path: &str) -> bool {
    ["crate::", "self::", "super::", "hs100d_"].iter().any(|it| path.starts_with(it))
}

/// The paths in `code`: its imports, and the paths in expressions that begin with `crate`, `self`, `super` or the name of one
/// of our crates.
fn named_paths(code: &str) -> Vec<NamedPath> {
    let mut paths = Vec::new();
    let mut rest = String::new();
    let mut import: Option<(String, bool)> = None;
    for line in code.lines() {
        let line = without_visibility(line.trim());
        if import.is_none() {
            let tree = line.strip_prefix("use ").or_else(|| line.split_once(" use ").map(|(_, tree)| tree));
            match tree.filter(|_| line.starts_with("use ") || line.starts_with("pub")) {
                Some(tree) => import = Some((tree.to_owned(), line.starts_with("pub"))),
                None => rest.extend([&line, "\n"]),
            }
        } else if let Some((tree, _)) = &mut import {
            tree.push_str(&line);
        }
        if let Some((tree, is_public)) = import.take_if(|(tree, _)| tree.ends_with(';')) {
            let mut found = Vec::new();
            expand(&[], tree.trim_end_matches(';'), &mut found);
            paths.extend(found.into_iter().map(|path| (path, is_public)));
        }
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = rest.split(|c| !is_part(c)).filter(|word| word.contains("::"));
    paths.extend(words.filter(|word| is_rooted(word)).map(|word| (split(word), false)));
    paths
}

/// `pub(in crate::bridge) fn` names a module but does not import from it.
fn without_visibility(line: &str) -> String {
    match line.split_once("pub(in ").and_then(|(before, rest)| Some((before, rest.split_once(')')?.1))) {
        Some((before, after)) => format!("{before}pub{after}"),
        None => line.to_owned(),
    }
}

fn split(path: &str) -> Vec<String> {
    path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Every path of a tree such as `a::{b, c::{d, e}}`.
fn expand(prefix: &[String], tree: &str, found: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some((head, items)) = tree.strip_suffix('}').and_then(|tree| tree.split_once('{')) else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return found.push([prefix, &split(path.trim())].concat());
    };
    let prefix = [prefix, &split(head)].concat();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in items.char_indices().chain([(items.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !items[start..at].trim().is_empty() {
                    expand(&prefix, &items[start..at], found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The path from the one root of our crates, if it is a path into one of them.
fn from_root(modules: &Modules, module: &str, path: &[String]) -> Option<Vec<String>> {
    let mut names = split(module);
    let ups = path.iter().take_while(|name| *name == "super").count();
    let behind = |room: Option<&(&str, &str)>| {
        let room = room.map(|(_, room)| (*room).to_owned());
        Some(room.into_iter().chain(path[1..].iter().cloned()).collect())
    };
    match path.first()?.as_str() {
        "crate" => behind(ROOMS_OF_THEIR_OWN.iter().find(|it| it.1 == names[0])),
        name if name.starts_with("hs100d_") => behind(ROOMS_OF_THEIR_OWN.iter().find(|it| it.0 == name)),
        "self" => Some([&names[..], &path[1..]].concat()),
        "super" => {
            names.truncate(names.len().checked_sub(ups)?);
            Some([&names[..], &path[ups..]].concat())
        }
        child if modules.contains_key(&format!("{module}::{child}")) => Some([&names[..], path].concat()),
        _ => None,
    }
}

/// The file that defines what this path names; re-exports are followed.
fn file_of(modules: &Modules, path: &[String]) -> Option<String> {
    let length = (1..=path.len()).rev().find(|&length| modules.contains_key(&path[..length].join("::")))?;
    let module = path[..length].join("::");
    let behind = path.get(length).and_then(|item| {
        let named = named_paths(&modules[&module]);
        let (public, _) = named.iter().find(|(path, is_public)| *is_public && path.last() == Some(item))?;
        let target = from_root(modules, &module, public)?;
        (target != path[..=length]).then(|| file_of(modules, &target)).flatten()
    });
    Some(behind.unwrap_or(module))
}

/// The files that each file imports from.
fn import_graph(modules: &Modules) -> BTreeMap<String, BTreeSet<String>> {
    let of = |(module, code): (&String, &String)| {
        let paths = named_paths(code).into_iter();
        let files = paths.filter_map(|(path, _)| file_of(modules, &from_root(modules, module, &path)?));
        (module.clone(), files.filter(|file| file != module).collect())
    };
    modules.iter().map(of).collect()
}

/// The imports that are part of a circle.
fn circles(graph: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<(String, String)> {
    let reaches = |from: &String, to: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(file) = next.pop() {
            if file == to {
                return true;
            }
            if seen.insert(file) {
                next.extend(&graph[file]);
            }
        }
        false
    };
    let imports = graph.iter().flat_map(|(from, files)| files.iter().map(move |to| (from, to)));
    imports.filter(|(from, to)| reaches(to, from)).map(|(from, to)| (from.clone(), to.clone())).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let found: Vec<_> =
        circles(&import_graph(&modules())).into_iter().map(|(from, to)| format!("{from} -> {to}")).collect();
    assert!(found.is_empty(), "part of a circle:\n{}", found.join("\n"));
}

fn made_up(files: &[(&str, &str)]) -> Modules {
    files.iter().map(|(module, code)| ((*module).to_owned(), (*code).to_owned())).collect()
}

#[test]
fn a_circle_among_files_would_be_seen() {
    let found = |files: &[(&str, &str)]| {
        let of = circles(&import_graph(&made_up(files)));
        of.into_iter().map(|(from, to)| format!("{from} -> {to}")).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(
        found(&[("a", "use crate::b::{C, d::E};"), ("b", "fn f(a: crate::a::A) {}")]),
        "a -> b, b -> a"
    );
    assert_eq!(found(&[("a", "mod b;\nuse self::b::B;"), ("a::b", "use super::A;")]), "a -> a::b, a::b -> a");
    assert_eq!(
        found(&[("a", "use crate::b::B;"), ("b", "use crate::c::C;"), ("c", "use crate::{\n    a::A,\n};")])
            .len(),
        22
    );
    // A re-export in the parent leads to the child that defines the item, and is not a circle.
    let parent = ("a", "mod b;\nmod c;\npub use self::b::B;\npub(crate) use c::C;");
    assert_eq!(found(&[parent, ("a::b", "struct B;"), ("a::c", "use crate::a::B;")]), "");
    assert_eq!(found(&[("a", "use crate::b::B;"), ("b", "use std::a::A;")]), "");
    // In the crates whose root is a top module, and from one crate into another.
    let (lan, cloud) = ("transport::lan", "transport::cloud");
    assert_eq!(
        found(&[(lan, "use crate::cloud::C;"), (cloud, "use crate::lan::L;")]),
        "transport::cloud -> transport::lan, transport::lan -> transport::cloud"
    );
    assert_eq!(
        found(&[("a", "fn f(lan: hs100d_transport::lan::L) {}"), (lan, "use hs100d_core::a::A;")]),
        "a -> transport::lan, transport::lan -> a"
    );
    assert_eq!(found(&[("lan", "use crate::a::A;"), ("a", "use hs100d_transport::lan::L;")]), "");
}

/// Without its row a crate of ours would be optimised for size, as other people's are. A row undoes `strip`, which the program
/// needs.
#[test]
fn each_of_our_crates_has_its_level_in_both_profiles() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for (profile, level) in [("release", 1), ("dist", 2)] {
        let rows = manifest.split(&format!("[profile.{profile}.package]\n")).nth(1).unwrap();
        let rows: BTreeSet<_> = rows.lines().take_while(|line| !line.is_empty()).collect();
        let ours = crates().iter().map(|it| name_of(it).replace('_', "-")).collect::<Vec<_>>();
        let level_of = |name: &String| format!("{name}.opt-level = {level}");
        let expected: Vec<_> = ours.iter().map(level_of).chain(["hs100d.strip = true".to_owned()]).collect();
        assert_eq!(rows, expected.iter().map(String::as_str).collect(), "{profile}");
    }
}

#[test]
fn the_crates_have_one_root() {
    let module = |name, inside| module_of(name, Path::new(inside)).join("::");
    assert_eq!(module("hs100d", "mqtt/mod.rs"), "mqtt");
    assert_eq!(module("hs100d_core", "bridge/plug/polls.rs"), "bridge::plug::polls");
    assert_eq!(module("hs100d_transport", "lan/xor.rs"), "transport::lan::xor");
    assert_eq!(module("hs100d_sim", "lib.rs"), "sim");
    assert_eq!(name_of(&root().join("crates/sim")), "hs100d_sim");
    let found = sources();
    for path in
        ["src/main.rs", "crates/core/src/model.rs", "crates/transport/src/lib.rs", "crates/sim/src/home.rs"]
    {
        assert!(found.iter().any(|source| source.path == Path::new(path)), "{path} is not looked at");
    }
}

/// The types that `code` defines outside of functions.
fn types(code: &str) -> Vec<&str> {
    let name = |line: &'_ str| -> Option<(usize, usize)> {
        let words = ["struct ", "enum ", "trait ", "type ", "union "];
        let public = match line.strip_prefix("pub(") {
            Some(rest) => line.len() - rest.len() + rest.find(") ")? + 2,
            None => line.strip_prefix("pub ").map_or(0, |rest| line.len() - rest.len()),
        };
        let word = words.iter().find(|word| line[public..].starts_with(**word))?;
        let start = public + word.len();
        let length = line[start..].find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(line.len() - start);
        Some((start, start + length))
    };
    code.lines().filter_map(|line| name(line).map(|(start, end)| &line[start..end])).collect()
}

/// The type names that more than one file defines, with these files.
fn defined_twice(modules: &Modules) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, code) in modules.iter().filter(|(module, _)| *module != "config::file") {
        for name in types(code).into_iter().filter(|name| !NAMED_WITH_MODULE.contains(name)) {
            found.entry(name).or_default().insert(module);
        }
    }
    found.retain(|_, files| files.len() > 1);
    found
}

#[test]
fn no_type_name_stands_for_two_things() {
    let modules = modules();
    let mut found = defined_twice(&modules);
    for name in KNOWN_TWICE {
        assert!(found.remove(name).is_some(), "no longer defined twice: take {name} off the list");
    }
    assert!(found.is_empty(), "defined twice: {found:?}");
}

#[test]
fn a_type_name_for_two_things_would_be_seen() {
    assert_eq!(
        types("pub struct Plug {\n    x: u8,\n}\npub(in crate::a) enum Route {}\ntype Tokens<T> = T;"),
        ["Plug", "Route", "Tokens"]
    );
    assert_eq!(types("impl X {\n    type Target = Y;\n}\nfn structs() {}"), [""; 0]);
    let modules = made_up(&[
        ("a", "struct Plug;\nstruct Args;"),
        ("b", "enum Plug {}\nstruct Args;"),
        ("config::file", "struct Plug;"),
    ]);
    assert_eq!(defined_twice(&modules), BTreeMap::from([("Plug", BTreeSet::from(["a", "b"]))]));
}

/// Lines with code.
fn length(source: &Source) -> usize {
    source.code().filter(|(_, line)| !line.trim().is_empty()).count()
}

#[test]
fn no_file_is_too_long() {
    let long: BTreeMap<_, _> = sources()
        .iter()
        .map(|it| (it.path.display().to_string(), length(it)))
        .filter(|it| it.1 > LONGEST_FILE)
        .collect();
    let known: BTreeSet<_> = KNOWN_LONG.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(
        long.keys().cloned().collect::<BTreeSet<_>>(),
        known,
        "part it, or take it off the list: {long:?}"
    );
}

#[test]
fn a_file_that_is_too_long_would_be_seen() {
    let code = "//! Owns it.\n\nfn f() {}\n".to_owned() + &"    g(); // why\n".repeat(LONGEST_FILE);
    let text = code + "\n#[cfg(test)]\npub(super) mod tests {\n" + &"    t();\n".repeat(9) + "}\n";
    let source = Source { path: PathBuf::new(), module: Vec::new(), room: String::new(), text };
    assert_eq!(length(&source), LONGEST_FILE + 1);
}
