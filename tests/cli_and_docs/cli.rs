//! The program as a shell sees it: what it prints, on which stream, and its exit code. No daemon runs here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program with `HOME` and nothing else in its environment.
fn hs100d(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hs100d"));
    command.env_clear().env("HOME", home).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    hs100d(home.path()).args(words).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

#[test]
fn help_and_version_are_answers_and_go_to_standard_output() {
    for (words, expected) in [
        (&["--version"][..], concat!("hs100d ", env!("CARGO_PKG_VERSION"), "\n")),
        (&["--help"], "\n  70  a bug in hs100d\n"),
        (&["plug", "--help"], "led-on"),
    ] {
        let output = run(words);
        assert_eq!((code(&output), err(&output).as_str()), (0, ""), "{words:?}");
        assert!(out(&output).contains(expected) && !out(&output).contains('\x1b'), "{}", out(&output));
    }
}

#[test]
fn a_mistake_on_the_command_line_is_one_line_and_64() {
    for words in [
        &["chek"][..],
        &["--loud"],
        &["plug"],
        &["plug", "lamp", "brightness"],
        &["plug", "lamp", "brightness", "101"],
        &["plug", "lamp", "on", "40"],
        &["cloud"],
        &["-v", "-q"],
        &["discover", "--timeout", "5"],
    ] {
        let output = run(words);
        assert_eq!((code(&output), out(&output).as_str()), (64, ""), "{words:?}");
        let told = err(&output);
        assert!(told.starts_with("hs100d: ") && told.lines().count() == 1, "{told}");
    }
}

#[test]
fn check_says_what_would_be_done_and_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let output = hs100d(home.path()).arg("check").output().unwrap();
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
    let told = out(&output);
    assert!(told.starts_with("config     none: built-in defaults\n"), "{told}");
    assert!(told.contains("broker     embedded, on 127.0.0.1:1883\n"), "{told}");
    assert!(told.ends_with("The config is valid.\n"), "{told}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "no state directory was made");
}

#[test]
fn check_accepts_every_example_that_is_shipped() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let is_toml = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    let paths = fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path()).filter(is_toml);
    let checked = paths.map(|path| {
        let output = run(&["check", "--config", path.to_str().unwrap()]);
        assert_eq!((code(&output), err(&output).as_str()), (0, ""), "{}", path.display());
        assert!(!out(&output).contains("warning"), "{}", out(&output));
    });
    assert!(checked.count() > 0);
}

#[test]
fn check_prints_neither_passwords_nor_the_whole_account_nor_a_whole_device_id() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("c.toml");
    let id = "8006ABCDEF0123456789ABCDEF0123456789ABCD";
    let text = format!(
        "[mqtt]\nurl = \"mqtts://broker.lan\"\nusername = \"me\"\npassword = \"hunter2\"\n\
         [cloud]\nusername = \"somebody@example.com\"\npassword = \"hunter3\"\n\
         [[plug]]\nname = \"kettle\"\ndevice_id = \"{id}\"\nroute = \"cloud\"\n"
    );
    fs::write(&config, text).unwrap();
    for words in [&["check"][..], &["check", "--json"], &["-vv", "check"]] {
        let output =
            hs100d(home.path()).args(words).args(["--config", config.to_str().unwrap()]).output().unwrap();
        assert_eq!(code(&output), 0, "{}", err(&output));
        let told = out(&output) + &err(&output);
        for secret in ["hunter2", "hunter3", "somebody", id] {
            assert!(!told.contains(secret), "{secret} in {told}");
        }
        assert!(
            told.contains("s…@example.com") && told.contains("8006…ABCD") && told.contains("kettle"),
            "{told}"
        );
        assert!(told.contains("every user may read it"), "{told}");
    }
}

#[test]
fn a_bad_config_is_78_with_a_line_for_each_mistake_and_as_json_too() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("c.toml");
    fs::write(&config, "[mqtt]\nuri = \"x\"\n[local]\npoll_interval = 5\n").unwrap();
    let path = config.to_str().unwrap();
    let output = hs100d(home.path()).args(["check", "--config", path]).output().unwrap();
    assert_eq!((code(&output), out(&output).as_str()), (78, ""));
    let expected = format!(
        "hs100d: {path}:2: mqtt.uri: is not known: did you mean `url`?\n\
         hs100d: {path}:4: local.poll_interval: has no unit: write \"5s\" for seconds, in quotes\n"
    );
    assert_eq!(err(&output), expected);

    let output = hs100d(home.path()).args(["check", "--json"]).env("HS100D_CONFIG", path).output().unwrap();
    let json: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(code(&output), 78);
    let expected_json = serde_json::json!({
        "valid": false,
        "version": env!("CARGO_PKG_VERSION"),
        "config": path,
        "errors": [
            {"key": "mqtt.uri", "line": 2, "text": "is not known: did you mean `url`?"},
            {"key": "local.poll_interval", "line": 4, "text": "has no unit: write \"5s\" for seconds, in quotes"},
        ],
    });
    assert_eq!(json, expected_json);
    assert_eq!(err(&output), expected);
}

/// What the inventory of a fleet reads: the names of the site, its brokers, and no secret.
#[test]
fn the_plan_of_a_site_is_one_document() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("c.toml");
    let text = "[mqtt]\nurl = [\"mqtts://broker.lan\", \"mqtts://[::1]:8884\"]\nusername = \"${SITE}\"\npassword_file = \"mqtt.password\"\n\
                instance = \"${SITE}\"\nbase_topic = \"plugs/${SITE}\"\n[discovery]\nadopt = false\nlan = false\n";
    fs::write(&config, text).unwrap();
    fs::write(home.path().join("mqtt.password"), "hunter2").unwrap();
    let check = || {
        let path = config.to_str().unwrap();
        let output = hs100d(home.path()).args(["check", "--json", "--config", path]).output().unwrap();
        assert!(!(err(&output) + &out(&output)).contains("hunter2"));
        (code(&output), serde_json::from_str::<serde_json::Value>(&out(&output)).unwrap())
    };
    let (code, plan) = check();
    assert_eq!((code, &plan["errors"][0]["key"]), (78, &"mqtt.username".into()));
    fs::write(home.path().join("hs100d.env"), "SITE=north\n").unwrap();
    let (code, plan) = check();
    assert_eq!(code, 0);
    let broker = |host: &str, port: u16| {
        serde_json::json!({
            "embedded": false, "host": host, "port": port, "tls": true, "username": "north", "password": true,
        })
    };
    let output = hs100d(home.path()).args(["check", "--config", config.to_str().unwrap()]).output().unwrap();
    let line = "broker     mqtts://broker.lan:8883 or mqtts://[::1]:8884 as north, with a password\n";
    assert!(out(&output).contains(line), "{}", out(&output));
    for (key, expected) in [
        ("valid", true.into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("instance", "north".into()),
        ("client_id", "hs100d-north".into()),
        ("base_topic", "plugs/north".into()),
        ("adopt", false.into()),
        ("plugs", serde_json::json!([])),
        ("cloud", serde_json::Value::Null),
        ("brokers", serde_json::json!([broker("broker.lan", 8883), broker("::1", 8884)])),
        (
            "homeassistant",
            serde_json::json!({
                "discovery": "device", "discovery_prefix": "homeassistant", "status_topic": "homeassistant/status",
            }),
        ),
    ] {
        assert_eq!(plan[key], expected, "{key} of {plan:#}");
    }
    let warnings = plan["warnings"].as_array().unwrap();
    let served = warnings.iter().find(|warning| warning["key"] == "discovery.adopt").unwrap();
    assert_eq!(
        (&served["line"], served["text"].as_str().unwrap().starts_with("is false and")),
        (&8.into(), true)
    );

    // The drawn instance is known after the first start only.
    fs::write(&config, "[discovery]\nlan = false\n").unwrap();
    let (_, plan) = check();
    assert_eq!(
        (&plan["instance"], &plan["client_id"]),
        (&serde_json::Value::Null, &"hs100d-<instance>".into())
    );
    let state = home.path().join(".local/state/hs100d");
    fs::create_dir_all(&state).unwrap();
    let drawn =
        r#"{"version":1,"terminal":"6fb1ab35-7b0b-4a0e-8a0e-0d1f6a3c2b11","instance":"0123abcd","plugs":[]}"#;
    fs::write(state.join("state.json"), drawn).unwrap();
    let (_, plan) = check();
    assert_eq!((&plan["instance"], &plan["client_id"]), (&"0123abcd".into(), &"hs100d-0123abcd".into()));
}

#[test]
fn a_config_that_was_named_must_be_there() {
    let output = run(&["--config", "/nonexistent/c.toml", "check"]);
    assert_eq!(code(&output), 78);
    assert!(
        err(&output).starts_with("hs100d: /nonexistent/c.toml: cannot be read: No such file"),
        "{}",
        err(&output)
    );
}

#[test]
fn the_users_own_config_is_found() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(".config/hs100d/hs100d.toml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "[broker]\nlisten = \"127.0.0.1:1999\"\n").unwrap();
    let told = out(&hs100d(home.path()).arg("check").output().unwrap());
    assert!(told.contains(path.to_str().unwrap()) && told.contains("127.0.0.1:1999"), "{told}");
}

#[test]
fn completions_and_the_man_page_know_every_command() {
    let commands = [
        "run",
        "check",
        "discover",
        "plug",
        "list",
        "watch",
        "cloud",
        "health",
        "forget",
        "completions",
        "man",
    ];
    for words in [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"]] {
        let output = run(words);
        assert_eq!((code(&output), err(&output).as_str()), (0, ""), "{words:?}");
        let told = out(&output);
        assert!(commands.iter().all(|command| told.contains(command)), "{words:?}: {told}");
    }
}

#[test]
fn nobody_reading_on_is_no_failure_and_a_full_disk_is_one() {
    let home = tempfile::tempdir().unwrap();
    let mut command = hs100d(home.path());
    let mut child =
        command.args(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!((child.wait().unwrap().code(), told.as_str()), (Some(0), ""));

    if let Ok(full) = File::options().write(true).open("/dev/full") {
        let output = hs100d(home.path()).arg("man").stdout(full).output().unwrap();
        assert_eq!(code(&output), 1);
        assert!(err(&output).starts_with("hs100d: standard output: No space left"), "{}", err(&output));
    }
}

#[test]
fn a_journal_that_cannot_be_reached_is_warned_of_in_plain_lines() {
    if Path::new("/run/systemd/journal/socket").exists() {
        return; // This machine has a journal, and a test must not write to it.
    }
    let home = tempfile::tempdir().unwrap();
    let mut stderr = tempfile::tempfile().unwrap();
    let meta = stderr.metadata().unwrap();
    let mut command = hs100d(home.path());
    command.arg("check").env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
    assert!(command.stdout(Stdio::null()).stderr(stderr.try_clone().unwrap()).status().unwrap().success());
    let mut told = String::new();
    stderr.rewind().unwrap();
    stderr.read_to_string(&mut told).unwrap();
    assert!(told.trim_start().starts_with("WARN the journal cannot be reached: "), "{told}");

    let elsewhere = hs100d(home.path()).arg("check").env("JOURNAL_STREAM", "1:1").output().unwrap();
    assert_eq!(err(&elsewhere), "", "JOURNAL_STREAM of another stream is ignored");
}

#[test]
#[ignore = "started by a_panic_is_one_line_on_stderr_and_exit_code_70"]
fn child_that_panics() {
    if std::env::var_os("HS100D_TEST_PANIC").is_some() {
        hs100d::commands::on_panic();
        panic!("oh\nno");
    }
}

#[test]
fn a_panic_is_one_line_on_stderr_and_exit_code_70() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let mut stderr = tempfile::tempfile().unwrap();
    let status = child
        .args(["cli::child_that_panics", "--exact", "--ignored"])
        .env("HS100D_TEST_PANIC", "1")
        .stdout(Stdio::null())
        .stderr(stderr.try_clone().unwrap())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(70));
    let mut told = String::new();
    stderr.rewind().unwrap();
    stderr.read_to_string(&mut told).unwrap();
    assert!(
        told.starts_with("hs100d: this is a bug, at tests/cli_and_docs/cli.rs:")
            && told.contains(": oh no: please report")
    );
    assert_eq!(told.lines().count(), 1, "{told}");
}
