//! The options that `config.yaml` of the Home Assistant app offers, and what the program makes of them: `hs100d check`, as it
//! runs in the container of the app.
//!
//! Python reads the schema. Without it the tests say so and pass, unless `HS100D_REQUIRE_PEERS` is 1, as in CI.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::homeassistant_app::{each_type, read, yaml};

/// All options, each with a value that is not the default.
fn all() -> Value {
    json!({
        "log": "debug",
        "discovery": "component",
        "cloud": {"email": "Me@example.com", "password": "s3cret"},
        "plugs": [{
            "name": "kitchen-kettle",
            "host": "192.168.7.20",
            "mac": "50:C7:BF:01:02:03",
            "device_id": "8006000000000000000000000000000000000001",
            "route": "local",
        }],
        "mqtt": {"host": "broker.example.com", "port": 8884, "username": "hs100d", "password": "s3cret"},
    })
}

/// The paths of the schema's types, such as `plugs[].name`, with their words if there is a list.
fn schema() -> Option<Vec<(String, Vec<String>)>> {
    let mut types = Vec::new();
    each_type(&yaml("hs100d/config.yaml")?["schema"], &mut |path, kind| {
        let list = kind.trim_end_matches('?').strip_prefix("list(").and_then(|rest| rest.strip_suffix(')'));
        let words = list.map(|words| words.split('|').map(str::to_owned).collect()).unwrap_or_default();
        types.push((path.trim_start_matches("schema.").to_owned(), words));
    });
    Some(types)
}

#[test]
fn the_program_knows_every_option_of_the_schema_and_each_has_an_effect() {
    let Some(schema) = schema() else { return };
    let options = all();
    let paths: BTreeSet<&str> = schema.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        leaves(&options).iter().map(String::as_str).collect(),
        "this test has a value for each option"
    );

    let whole = check(&options);
    assert!(whole.status.success(), "{}", stderr(&whole));
    let warnings = serde_json::from_slice::<Value>(&whole.stdout).unwrap()["warnings"].clone();
    assert_eq!(warnings, json!([]));
    // How much is logged is no part of the config. The other test sees that the program reads it.
    for path in paths.into_iter().filter(|path| *path != "log") {
        let mut rest = options.clone();
        *at(&mut rest, path) = Value::Null;
        assert_ne!(check(&rest).stdout, whole.stdout, "{path} has no effect");
    }
    let mut unknown = options;
    unknown["cloud"]["region"] = json!("eu");
    let said = String::from_utf8(check(&unknown).stdout).unwrap();
    assert!(
        said.contains("cloud.region: is not known"),
        "an option that the program does not know would be seen: {said}"
    );
}

#[test]
fn the_program_takes_each_word_that_the_form_offers() {
    let Some(schema) = schema() else { return };
    let mut count = 0;
    for (path, words) in schema {
        for word in &words {
            let mut options = all();
            *at(&mut options, &path) = json!(word);
            let taken = check(&options);
            assert!(taken.status.success(), "{path}: {word}: {}", stderr(&taken));
            count += 1;
        }
        if !words.is_empty() {
            let mut options = all();
            *at(&mut options, &path) = json!("nonsense");
            let refused = check(&options);
            let name = path.replace("[]", "[0]");
            assert_eq!(refused.status.code(), Some(78), "{path}");
            assert!(stderr(&refused).contains(&format!("options: {name}: ")), "{}", stderr(&refused));
        }
    }
    assert!(count >= 10, "only {count} words were tried");
}

#[test]
fn the_options_as_they_are_after_the_installation_are_a_valid_config() {
    let Some(config) = yaml("hs100d/config.yaml") else { return };
    let done = check(&config["options"]);
    assert!(done.status.success(), "{}", stderr(&done));
    let shown: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (&shown["warnings"], &shown["cloud"]),
        (&json!([]), &Value::Null),
        "nothing leaves the network"
    );
}

#[test]
fn the_file_in_the_documentation_is_a_valid_one() {
    let docs = read("contrib/homeassistant/hs100d/DOCS.md");
    let (_, rest) = docs.split_once("```toml\n").unwrap();
    let file = rest.split("```").next().unwrap();
    assert_eq!(docs.matches("```toml").count(), 1);
    let done = check_with(&json!({"log": "info", "discovery": "device"}), Some(file));
    assert!(done.status.success(), "{}", stderr(&done));
    let shown: Value = serde_json::from_slice(&done.stdout).unwrap();
    let broadcast = json!(["192.168.1.255", "192.168.7.255"]);
    assert_eq!(
        (&shown["routing"]["poll_interval"], &shown["discovery"]["broadcast"]),
        (&json!("10s"), &broadcast)
    );
}

/// Files that other apps write to the app's folder can be read by every user of the container.
#[test]
fn a_file_of_ones_own_is_not_blamed_for_the_passwords_among_the_options() {
    const ACCOUNT: &str = "[cloud]\nusername = \"me@example.com\"\n";
    let mut options = all();
    let warnings = |options: &Value, file: &str| {
        let done = check_with(options, Some(file));
        assert!(done.status.success(), "{}", stderr(&done));
        serde_json::from_slice::<Value>(&done.stdout).unwrap()["warnings"].clone()
    };
    assert_eq!(warnings(&options, ACCOUNT), json!([]));
    options["cloud"] = json!({});
    let said = warnings(&options, &format!("{ACCOUNT}password = \"s3cret\"\n")).to_string();
    assert!(said.contains("hs100d.toml: holds a password and every user may read it"), "{said}");
}

/// `hs100d check` in the place of the app's container, with these options.
fn check(options: &Value) -> Output {
    check_with(options, None)
}

/// The same, with a file of one's own.
fn check_with(options: &Value, file: Option<&str>) -> Output {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("options.json"), options.to_string()).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_hs100d"));
    check.args(["check", "--json"]).env_clear().env("SUPERVISOR_TOKEN", "of-a-test");
    if let Some(text) = file {
        let path = data.path().join("hs100d.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        check.env("HS100D_CONFIG", path);
    }
    let mut done = check.env("STATE_DIRECTORY", data.path()).output().unwrap();
    // The folder is another one each time.
    for stream in [&mut done.stdout, &mut done.stderr] {
        *stream =
            String::from_utf8_lossy(stream).replace(data.path().to_str().unwrap(), "/data").into_bytes();
    }
    done
}

fn stderr(of: &Output) -> String {
    String::from_utf8_lossy(&of.stderr).into_owned()
}

/// The paths of the values, a list standing for its first entry.
fn leaves(options: &Value) -> BTreeSet<String> {
    fn visit(path: &str, value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(group) => {
                let dot = if path.is_empty() { "" } else { "." };
                group.iter().for_each(|(name, value)| visit(&format!("{path}{dot}{name}"), value, found));
            }
            Value::Array(list) => visit(&format!("{path}[]"), &list[0], found),
            _ => {
                found.insert(path.to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    visit("", options, &mut found);
    found
}

/// The value at a path.
fn at<'a>(options: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').fold(options, |value, step| match step.strip_suffix("[]") {
        Some(list) => &mut value[list][0],
        None => &mut value[step],
    })
}
