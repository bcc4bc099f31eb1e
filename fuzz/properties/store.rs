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
const LONGEST_COMPLAINT: usize = 200;

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
    if fs::exists(aside(directory, STATE)).unwrap() {
        assert!(warnings.iter().any(|warning| warning.contains("set aside")), "{warnings:?}");
        assert_eq!(fs::read(aside(directory, STATE)).unwrap(), bytes, "what was there is kept");
        assert!(store.known_plugs().is_empty());
    }
    assert!(store.instance().len() == 8 && store.instance().bytes().all(|b| b.is_ascii_hexdigit()));
    is_for_our_eyes_only(&directory.join(STATE));

    store.save().expect("what was read can be written");
    let (again, warnings) = Store::open(directory);
    assert!(warnings.is_empty(), "of what we wrote ourselves: {warnings:?}");
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
            assert_eq!(fs::read(aside(directory, TOKENS)).unwrap(), bytes, "what was there is kept");
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
            assert_eq!(fs::read(aside(directory, HASHES)).unwrap(), bytes, "what was there is kept");
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
        damaged(STATE, "it is not in the expected format (line )"),
        damaged(STATE, "its version is , and this hsd knows "),
        damaged(STATE, "its instance is not eight hexadecimal digits"),
        damaged(STATE, "its terminal is not a UUID"),
        damaged(TOKENS, "it is not in the expected format (line )"),
        damaged(TOKENS, "its version is , and this hsd knows "),
        damaged(HASHES, "it is not in the expected format (line )") + AGAIN,
        damaged(HASHES, "its version is , and this hsd knows ") + AGAIN,
        damaged(HASHES, "its hashes cannot be read") + AGAIN,
    ];
    assert!(ours.contains(&complaint.replace("  ", " ")), "{complaint}");
}

/// The remedy for hashes; the digits of the program's name are cut out here.
const AGAIN: &str = ": run `hsd cloud login` again";

fn damaged(file: &str, what: &str) -> String {
    format!("/{file} is damaged: {what}: set aside as /{file}.damaged and begun anew")
}

fn aside(directory: &Path, file: &str) -> std::path::PathBuf {
    directory.join(format!("{file}.damaged"))
}

fn is_for_our_eyes_only(file: &Path) {
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o077, 0);
}
