//! The files of every earlier version are read: nobody loses a name, a login or a config to an upgrade.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hs100d::bridge::event::KnownPlug;
use hs100d::config::place::{Environment, Place};
use hs100d::config::{self, Config};
use hs100d::model::{Address, DeviceId, Mac, PlugName};
use hs100d::secret::Secret;
use hs100d::store::{Store, TokenFile};
use hs100d::transport::cloud::Tokens;
use serde_json::Value;

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples");

/// The samples of a kind with their numbers, oldest first.
fn samples(kind: &str) -> Vec<(u32, PathBuf)> {
    let mut samples: Vec<_> = fs::read_dir(Path::new(SAMPLES).join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.split('-').next().unwrap().parse().expect(name), path)
        })
        .collect();
    samples.sort();
    assert!(!samples.is_empty(), "no samples of the {kind}");
    samples
}

/// A state directory as the version of this sample left it.
fn left_by(sample: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in ["state.json", "cloud.token"] {
        private(&directory.path().join(file), &fs::read_to_string(sample.join(file)).unwrap());
    }
    directory
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn json(directory: &Path, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(directory.join(file)).unwrap()).unwrap()
}

/// The keys of a document, with the way to each; the elements of a list count as one.
fn keys(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, inner)| {
                let below = keys(inner).into_iter().map(move |below| format!("{key}.{below}"));
                [key.clone()].into_iter().chain(below)
            })
            .collect(),
        Value::Array(elements) => elements.iter().flat_map(keys).collect(),
        _ => BTreeSet::new(),
    }
}

/// Whether all that the one document says is said by the other as well, and a list by the list at its place.
fn is_said_by(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            old.iter().all(|(key, value)| new.get(key).is_some_and(|now| is_said_by(value, now)))
        }
        (Value::Array(old), Value::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| is_said_by(old, new))
        }
        _ => old == new,
    }
}

/// A plug of which everything is known that can be.
fn plug() -> KnownPlug {
    let name = |text| PlugName::new(text).unwrap();
    KnownPlug {
        device_id: DeviceId::new("8006000000000000000000000000000000000009").unwrap(),
        mac: Mac::new("50:C7:BF:01:02:09"),
        name: name("newcomer"),
        address: Address::new("192.168.1.29", 9999),
        outlets: vec![name("left"), name("right")],
        home: Address::new("10.8.0.29", 9999),
    }
}

fn tokens() -> Tokens {
    Tokens {
        username: "me@example.com".to_owned(),
        token: Secret::new("made-up-token".to_owned()),
        refresh_token: Some(Secret::new("made-up-refresh-token".to_owned())),
    }
}

#[test]
fn the_state_that_every_earlier_version_left_is_kept() {
    for (_, sample) in samples("state") {
        let directory = left_by(&sample);
        let before = json(directory.path(), "state.json");
        let (mut store, warnings) = Store::open(directory.path());
        assert_eq!(warnings, [""; 0], "{}", sample.display());
        assert_eq!(store.known_plugs().len(), before["plugs"].as_array().unwrap().len());

        // Written as it is written today, it says all that it said, and the newcomer at the end.
        store.remember(plug());
        store.save().unwrap();
        let mut after = json(directory.path(), "state.json");
        after["plugs"].as_array_mut().unwrap().pop();
        assert!(is_said_by(&before, &after), "{}: {before} became {after}", sample.display());
    }
}

#[test]
fn a_login_outlives_every_upgrade() {
    for (_, sample) in samples("state") {
        let directory = left_by(&sample);
        let before = json(directory.path(), "cloud.token");
        let file = TokenFile::of(directory.path());
        let tokens = file.load().unwrap().expect("a login");
        file.save(&tokens).unwrap();
        let after = json(directory.path(), "cloud.token");
        assert!(is_said_by(&before, &after), "{}", sample.display());
    }
}

#[test]
fn what_is_written_today_has_a_sample() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path());
    store.remember(plug());
    store.save().unwrap();
    store.token_file().save(&tokens()).unwrap();
    let (_, newest) = samples("state").pop().unwrap();
    for file in ["state.json", "cloud.token"] {
        let (today, sample) = (json(directory.path(), file), json(&newest, file));
        assert_eq!(
            keys(&today),
            keys(&sample),
            "{file} has another form: add a sample, see tests/samples/README.md"
        );
        assert_eq!(today["version"], sample["version"], "{file}: add a sample, see tests/samples/README.md");
    }
}

#[test]
fn every_config_that_an_earlier_version_took_is_taken() {
    for (_, sample) in samples("config") {
        let directory = tempfile::tempdir().unwrap();
        for file in ["mqtt.password", "cloud.password", "ca.pem", "client.pem", "client.key"] {
            private(&directory.path().join(file), "made up\n");
        }
        let path = directory.path().join("hs100d.toml");
        private(&path, &fs::read_to_string(&sample).unwrap());
        let loaded = Config::load(&Place::Named(path), &Environment::default());
        let config = loaded.unwrap_or_else(|invalid| panic!("{}: {invalid}", sample.display()));
        assert_eq!(config.warnings, [""; 0], "{}", sample.display());
    }
}

#[test]
fn every_key_of_the_config_has_a_sample() {
    let mut written = BTreeSet::new();
    for (_, sample) in samples("config") {
        let mut table = String::new();
        for line in fs::read_to_string(sample).unwrap().lines() {
            if line.starts_with('[') {
                table = line.trim_matches(['[', ']']).to_owned();
            } else if let Some((key, _)) = line.split_once(" = ") {
                written.insert(format!("{table}.{key}"));
            }
        }
    }
    let known: BTreeSet<_> = config::keys().into_iter().collect();
    let missing: Vec<_> = known.difference(&written).collect();
    assert!(missing.is_empty(), "no sample has {missing:?}: add samples, see tests/samples/README.md");
}
