//! The three files of the store, as another program may have written them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use hs100d::bridge::{Bridge, Settings};
use hs100d::store::{HashFile, Store, TokenFile};

use super::texts::fits_a_line;

const STATE: &str = "state.json";
const TOKENS: &str = "cloud.token";
const HASHES: &str = "klap.hashes";
/// The first byte of input for the file of the hashes.
const HASHES_CHOICE: u8 = b'h';
/// The longest warning about a file, in bytes, without its path, which it has twice.
const LONGEST_COMPLAINT: usize = 280;

/// The first byte selects the file; the rest is its content.
pub fn hold(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let directory = tempfile::tempdir().expect("a directory for a while");
    match choice {
        HASHES_CHOICE => hashes_are_read_or_set_aside(directory.path(), bytes),
        _ if choice % 2 == 0 => a_state_is_read_or_set_aside(directory.path(), bytes),
        _ => tokens_are_read_or_set_aside(directory.path(), bytes),
    }
}

fn a_state_is_read_or_set_aside(directory: &Path, bytes: &[u8]) {
    fs::write(directory.join(STATE), bytes).unwrap();
    let (mut store, warnings) = Store::open(directory);
    assert!(warnings.len() <= 1, "{warnings:?}");
    warnings.iter().for_each(|warning| warning_holds(warning, directory));
    if let Some(kept) = set_aside(directory, STATE) {
        assert!(warnings.iter().any(|warning| warning.contains("set aside")), "{warnings:?}");
        assert_eq!(kept, bytes, "what was there is kept");
        assert!(store.known_plugs().is_empty());
    }
    assert!(store.instance().len() == 8 && store.instance().bytes().all(|b| b.is_ascii_hexdigit()));
    is_for_our_eyes_only(&directory.join(STATE));

    store.save().expect("what was read can be written");
    let (again, warnings_again) = Store::open(directory);
    if warnings.iter().any(|warning| warning.contains("left as it is")) {
        assert_eq!(fs::read(directory.join(STATE)).unwrap(), bytes, "it is of a newer version");
        assert_eq!(warnings_again, warnings);
    } else {
        assert!(warnings_again.is_empty(), "of what we wrote ourselves: {warnings_again:?}");
    }
    assert_eq!(again.known_plugs(), store.known_plugs());
    assert_eq!((again.terminal(), again.instance()), (store.terminal(), store.instance()));
    every_plug_has_a_name_of_its_own(&store);
}

/// Plugs get the names in the file again; no two may share their topics.
fn every_plug_has_a_name_of_its_own(store: &Store) {
    let known = store.known_plugs();
    let settings = Settings { known: known.clone(), adopt: true, ..Settings::default() };
    let bridge = Bridge::new(settings, Instant::now());
    let mut names = HashSet::new();
    let mut ids = HashSet::new();
    for plug in bridge.known_plugs() {
        for name in plug.outlets.iter().chain([&plug.name]) {
            assert!(names.insert(name.clone()), "{name} is the name of two");
        }
        ids.insert(plug.device_id);
    }
    assert!(known.iter().all(|plug| ids.contains(&plug.device_id)), "a plug is lost");
}

fn tokens_are_read_or_set_aside(directory: &Path, bytes: &[u8]) {
    fs::write(directory.join(TOKENS), bytes).unwrap();
    let file = TokenFile::of(directory);
    match file.load() {
        Ok(Some(tokens)) => {
            is_for_our_eyes_only(&directory.join(TOKENS));
            assert_eq!(format!("{tokens:?}"), "Tokens { .. }");
            file.save(&tokens).expect("what was read can be written");
            assert_eq!(file.load(), Ok(Some(tokens)));
        }
        Ok(None) => panic!("the file is there"),
        Err(warning) => {
            warning_holds(&warning, directory);
            assert_eq!(set_aside(directory, TOKENS).as_deref(), Some(bytes), "what was there is kept");
            assert_eq!(file.load(), Ok(None));
        }
    }
}

fn hashes_are_read_or_set_aside(directory: &Path, bytes: &[u8]) {
    fs::write(directory.join(HASHES), bytes).unwrap();
    let file = HashFile::of(directory);
    match file.load() {
        Ok(Some(hashes)) => {
            is_for_our_eyes_only(&directory.join(HASHES));
            assert_eq!(format!("{hashes:?}"), "StoredHashes { .. }");
            file.save(&hashes).expect("what was read can be written");
            assert_eq!(file.load(), Ok(Some(hashes)));
        }
        Ok(None) => panic!("the file is there"),
        Err(warning) => {
            warning_holds(&warning, directory);
            assert_eq!(set_aside(directory, HASHES).as_deref(), Some(bytes), "what was there is kept");
            assert_eq!(file.load(), Ok(None));
        }
    }
}

/// A warning names the file and the line and quotes nothing.
fn warning_holds(warning: &str, directory: &Path) {
    let complaint = warning.replace(directory.to_str().unwrap(), "");
    fits_a_line(&complaint, LONGEST_COMPLAINT);
    let complaint: String = complaint.chars().filter(|c| !c.is_ascii_digit()).collect();
    let ours = [
        "/state.json: plugs in it are invalid: they are dropped, and named anew when they are found"
            .to_owned(),
        damaged(STATE, UNEXPECTED),
        damaged(STATE, NO_VERSION),
        damaged(STATE, "its instance is not eight hexadecimal digits"),
        damaged(STATE, "its terminal is not a UUID"),
        newer(STATE),
        format!("/{STATE}{NEWER}: names and addresses are taken from it{LEFT}"),
        format!("/{STATE}{NEWER}: names and addresses are taken from it as far as they are understood{LEFT}"),
        damaged(TOKENS, UNEXPECTED),
        damaged(TOKENS, NO_VERSION),
        newer(TOKENS),
        damaged(HASHES, UNEXPECTED) + AGAIN,
        damaged(HASHES, NO_VERSION) + AGAIN,
        damaged(HASHES, "its hashes cannot be read") + AGAIN,
        newer(HASHES) + AGAIN,
    ];
    assert!(ours.contains(&complaint.replace("  ", " ")), "{complaint}");
}

const UNEXPECTED: &str = "it is not in the expected format (line )";
const NO_VERSION: &str = "it has no version";
/// The digits of the program's name and of versions are cut out here.
const NEWER: &str = " is of a newer hsd (its version is , this hsd knows )";
const LEFT: &str =
    ", and it is left as it is: nothing is saved until you install that hsd again, or remove the file";
/// The remedy for hashes.
const AGAIN: &str = ": run `hsd cloud login` again";

fn damaged(file: &str, what: &str) -> String {
    format!("/{file} is damaged: {what}: set aside as /{file}.damaged and begun anew")
}

fn newer(file: &str) -> String {
    let remedy = "give it its name back when you install that hsd again";
    format!("/{file}{NEWER}: set aside as /{file}.newer and begun anew; {remedy}")
}

/// The content of a file that was renamed.
fn set_aside(directory: &Path, file: &str) -> Option<Vec<u8>> {
    ["damaged", "newer"].iter().find_map(|end| fs::read(directory.join(format!("{file}.{end}"))).ok())
}

fn is_for_our_eyes_only(file: &Path) {
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o077, 0);
}
