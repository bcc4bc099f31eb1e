//! Untrusted input on the stable toolchain: every file of the fuzzers' corpus, and generated and mutated input, with
//! the same properties that the fuzzers test (`fuzz/properties`).

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../fuzz/properties/mod.rs"]
mod properties;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// The corpus of one property, sorted by name.
fn files(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_file_of_the_corpus_keeps_every_property() {
    let mut broken = Vec::new();
    for (name, hold) in properties::ALL {
        let files = files(name);
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let input = fs::read(&file).unwrap();
            if catch_unwind(|| hold(&input)).is_err() {
                broken.push(file);
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_way_in_has_a_target_and_a_corpus_and_no_corpus_is_left_over() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names_in = |folder: &str| {
        let entries = fs::read_dir(fuzz.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = entries.map(|path| path.file_stem().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let mut expected = properties::ALL.map(|(name, _)| name);
    expected.sort_unstable();
    assert_eq!(names_in("corpus"), expected);
    assert_eq!(names_in("fuzz_targets"), expected);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, _) in properties::ALL {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not built");
        let target = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("properties::{name}::hold(input)")), "{name} tries something else");
    }
}

/// The content of the corpus of one property.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    files(name).iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    Put(Index, Vec<u8>),
    Overwrite(Index, u8),
    Cut(Index, Index),
    Double(Index, Index),
    /// Replaces a value in the JSON at the end of the input.
    Replace(Index, Value),
    /// Adds an entry to one of its objects or lists.
    Add(Index, String, Value),
    Remove(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let word =
        prop_oneof![Just("\""), Just("\\"), Just("{"), Just("]"), Just("null"), Just("\n"), Just("\u{fffd}")];
    prop_oneof![
        (any::<Index>(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Change::Put(at, bytes)),
        (any::<Index>(), word).prop_map(|(at, word)| Change::Put(at, word.into())),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Overwrite(at, byte)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Cut(from, to)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Double(from, to)),
        (any::<Index>(), value()).prop_map(|(at, value)| Change::Replace(at, value)),
        (any::<Index>(), key(), value()).prop_map(|(at, key, value)| Change::Add(at, key, value)),
        any::<Index>().prop_map(Change::Remove),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("err_code".to_owned()),
        Just("error_code".to_owned()),
        Just("alias".to_owned()),
        ".{0,6}"
    ]
}

/// Boundary values.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![Just(0), Just(1), Just(-1), Just(256), Just(i64::MAX), Just(i64::MIN)]
            .prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        "[0-9A-Fa-f:.-]{0,40}".prop_map(Value::from),
        prop_oneof![Just(60_usize), Just(5000)].prop_map(|length| Value::from("x\n".repeat(length))),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{}, null, [1]])),
    ]
}

fn changed(mut input: Vec<u8>, change: Change) -> Vec<u8> {
    let place = |at: Index, input: &[u8]| at.index(input.len() + 1);
    let span = |from: Index, to: Index, input: &[u8]| {
        let (from, to) = (place(from, input), place(to, input));
        from.min(to)..from.max(to)
    };
    match change {
        Change::Put(at, bytes) => {
            let at = place(at, &input);
            input.splice(at..at, bytes);
        }
        Change::Overwrite(at, byte) if !input.is_empty() => {
            let at = at.index(input.len());
            input[at] = byte;
        }
        Change::Overwrite(..) => {}
        Change::Cut(from, to) => drop(input.drain(span(from, to, &input))),
        Change::Double(from, to) => input.extend_from_within(span(from, to, &input)),
        Change::Replace(at, value) => return in_json(input, |json| *nth(json, at) = value),
        Change::Add(at, key, value) => {
            return in_json(input, |json| match nth(json, at) {
                Value::Object(entries) => _ = entries.insert(key, value),
                Value::Array(items) => items.push(value),
                other => *other = value,
            });
        }
        Change::Remove(at) => {
            return in_json(input, |json| match nth(json, at) {
                Value::Object(entries) => _ = entries.keys().next().cloned().map(|key| entries.remove(&key)),
                Value::Array(items) => _ = items.pop(),
                other => *other = Value::Null,
            });
        }
    }
    input
}

/// Changes the JSON at the end of an input, if there is any.
fn in_json(input: Vec<u8>, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let start = input.iter().position(|&byte| byte == b'{').unwrap_or(input.len());
    let Ok(mut json) = serde_json::from_slice(&input[start..]) else { return input };
    change(&mut json);
    [&input[..start], json.to_string().as_bytes()].concat()
}

/// One of all its values, itself included.
fn nth(json: &mut Value, at: Index) -> &mut Value {
    fn count(json: &Value) -> usize {
        1 + match json {
            Value::Array(items) => items.iter().map(count).sum(),
            Value::Object(entries) => entries.values().map(count).sum(),
            _ => 0,
        }
    }
    fn find(json: &mut Value, mut place: usize) -> &mut Value {
        if place == 0 {
            return json;
        }
        place -= 1;
        let inner: Vec<&mut Value> = match json {
            Value::Array(items) => items.iter_mut().collect(),
            Value::Object(entries) => entries.values_mut().collect(),
            _ => vec![],
        };
        for value in inner {
            let size = count(value);
            if place < size {
                return find(value, place);
            }
            place -= size;
        }
        unreachable!("counted before")
    }
    let place = at.index(count(json));
    find(json, place)
}

/// Enough to find each of the bugs that were made on purpose to see these tests fail.
const CASES: u32 = 1500;
/// Each of these writes files.
const CASES_ON_DISK: u32 = 200;

/// This many cases. A failure is printed; it belongs in the corpus and not in a file of proptest's.
fn tried(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(tried(CASES))]

    #[test]
    fn no_frame_breaks_a_property(input in input("frames")) { properties::frames::hold(&input) }
    #[test]
    fn no_reply_breaks_a_property(input in input("replies")) { properties::replies::hold(&input) }
    #[test]
    fn no_odd_field_of_a_sysinfo_breaks_a_property(input in input("sysinfo")) {
        properties::sysinfo::hold(&input);
    }
    #[test]
    fn no_answer_to_a_klap_handshake_breaks_a_property(input in input("klap_handshake")) {
        properties::klap_handshake::hold(&input);
    }
    #[test]
    fn no_answer_in_a_klap_session_breaks_a_property(input in input("klap_reply")) {
        properties::klap_reply::hold(&input);
    }
    #[test]
    fn no_datagram_breaks_a_property(input in input("datagrams")) { properties::datagrams::hold(&input) }
    #[test]
    fn no_page_of_the_cloud_breaks_a_property(input in input("cloud")) { properties::cloud::hold(&input) }
    #[test]
    fn no_command_breaks_a_property(input in input("commands")) { properties::commands::hold(&input) }
    #[test]
    fn no_topic_breaks_a_property(input in input("topics")) { properties::topics::hold(&input) }
    #[test]
    fn no_config_breaks_a_property(input in input("config")) { properties::config::hold(&input) }
    #[test]
    fn no_order_of_events_breaks_a_property(input in input("bridge")) { properties::bridge::hold(&input) }
}

proptest! {
    #![proptest_config(tried(CASES_ON_DISK))]

    #[test]
    fn no_file_of_the_store_breaks_a_property(input in input("store")) { properties::store::hold(&input) }
}

/// Random bytes, or a file of the corpus after a few changes.
fn input(name: &str) -> impl Strategy<Value = Vec<u8>> {
    let seed = select(seeds(name));
    let bred =
        (seed, vec(change(), 1..6)).prop_map(|(seed, changes)| changes.into_iter().fold(seed, changed));
    prop_oneof![1 => vec(any::<u8>(), 0..200), 7 => bred]
}
