//! The promises of docs/SECURITY.md about the real program: what other users of the machine can see of it, who can log
//! in to the embedded broker, and what a client there cannot reach. Every test that the page names exists.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::e2e::{self, Config, Scene, Setup, Talker, holds, home_of, sees};
use crate::support::mqtt::{self, BOUND, Process, Subscriber};
use serde_json::json;

/// `nobody`: a user without root's rights that every machine has.
const NOBODY: u32 = 65534;
const USER: (&str, &str) = ("homeassistant", "m$'{qtt}\\ \"/ß");

/// The user ids of a process, and the owner of its memory and environment.
fn owners(pid: u32) -> (u32, u32) {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(process.join("status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    let uid = uid.split_whitespace().next().unwrap().parse().unwrap();
    (uid, fs::metadata(process.join("environ")).unwrap().uid())
}

/// A command prefix that runs the program as this user, if root runs the test.
fn as_nobody(program: &Path) -> Vec<String> {
    let nobody = NOBODY.to_string();
    let words = ["setpriv", "--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"];
    let words: &[&str] = if fs::metadata("/proc/self").unwrap().uid() == 0 { &words } else { &["env"] };
    words.iter().map(ToString::to_string).chain([program.to_str().unwrap().to_owned()]).collect()
}

#[tokio::test]
async fn a_crash_leaves_no_core_and_no_process_of_the_same_user_looks_into_ours() {
    let folder = tempfile::tempdir().unwrap();
    // A user other than root may have no access to the folder where the program was built.
    let program = folder.path().join("hs100d");
    fs::copy(env!("CARGO_BIN_EXE_hs100d"), &program).unwrap();
    let config = folder.path().join("hs100d.toml");
    fs::write(&config, "[broker]\nlisten = \"127.0.0.1:0\"\n[discovery]\nlan = false\nadopt = true\n")
        .unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    // Only root can do this, and only root needs it.
    let _ = chown(&state, Some(NOBODY), Some(NOBODY));
    let words = as_nobody(&program);
    let command = |words: &[String]| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let mut daemon = command(&words);
    daemon.arg("--config").arg(&config).env("STATE_DIRECTORY", &state).env_remove("RUST_LOG");
    let daemon = Talker::of(daemon.spawn().unwrap());
    daemon.says("connected to the broker at ").await;

    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.id())).unwrap();
    let core: Vec<_> =
        limits.lines().find(|line| line.starts_with("Max core")).unwrap().split_whitespace().collect();
    assert_eq!(core, ["Max", "core", "file", "size", "0", "0", "bytes"]);
    let (uid, of_memory) = owners(daemon.id());
    assert!(uid != 0 && of_memory == 0, "{uid} {of_memory}");

    let sleep = Process(command(&as_nobody(Path::new("sleep"))).arg("60").spawn().unwrap());
    let opened = || owners(sleep.0.id()) == (uid, uid);
    let deadline = Instant::now() + BOUND;
    while !opened() {
        assert!(Instant::now() < deadline, "what is not closed looks otherwise");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn neither_arguments_nor_environment_of_the_daemon_hold_a_secret() {
    let home = home_of(&["Lamp"]).await;
    let scene = Scene::start(&Config::of(&home)).await;
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "ok"}})).await;
    let token = fs::read_to_string(scene.setup.state_dir().join("cloud.token")).unwrap();
    let token: serde_json::Value = serde_json::from_str(&token).unwrap();
    for file in ["cmdline", "environ"] {
        let shown = fs::read(format!("/proc/{}/{file}", scene.daemon.pid()));
        // A user other than root may not read it at all.
        let Ok(shown) = shown else { continue };
        let shown = String::from_utf8_lossy(&shown);
        assert!(shown.contains("hs100d"), "{shown}");
        for secret in [e2e::ACCOUNT.0, e2e::ACCOUNT.1, token["token"].as_str().unwrap()] {
            assert!(!shown.contains(secret), "{file}: {shown}");
        }
    }
}

/// The return code of a CONNACK to a CONNECT in MQTT 3.1.1, which is its last byte.
fn connect(port: u16, login: Option<(&str, &str)>) -> u8 {
    let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let flags = if login.is_some() { 0b1100_0010 } else { 0b10 };
    let mut body = [&text("MQTT")[..], &[4, flags, 0, 60], &text("client")].concat();
    if let Some((name, password)) = login {
        body.extend([text(name), text(password)].concat());
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.write_all(&[&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat()).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..3], [0x20, 2, 0], "a CONNACK");
    answer[3]
}

#[tokio::test]
async fn an_embedded_broker_with_users_lets_nobody_else_in_and_the_daemon_goes_on_there() {
    let home = home_of(&["Lamp"]).await;
    let mut config = Config::of(&home).set("broker", "listen", "127.0.0.1:0").text();
    config += "[[broker.user]]\nname = \"homeassistant\"\npassword_file = \"ha.password\"\n";
    let setup = Setup::new(&Config::default());
    setup.write(&config);
    let file = setup.config().with_file_name("ha.password");
    fs::write(&file, format!("{}\n", USER.1)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = setup.daemon();
    let port = daemon.is_connected().await;

    let refused: Vec<_> = [None, Some(("", "")), Some((USER.0, "wrong")), Some(("other", USER.1))]
        .map(|login| tokio::task::spawn_blocking(move || connect(port, login)))
        .into();
    for code in refused {
        assert!(matches!(code.await.unwrap(), 4 | 5), "bad user name or password, or not authorized");
    }
    let line = daemon.says("refused the login of a client at 127.0.0.1").await;
    assert!(!line.contains("wrong") && !line.contains(USER.1), "{line}");
    assert_eq!(
        daemon.lines().iter().filter(|line| line.contains("refused the login of a client")).count(),
        1,
        "not once for each"
    );

    let subscriber = Subscriber::subscribe_to(port, "#", Some(USER)).await;
    let scene = Scene { setup, daemon, subscriber, port };
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok"})), "{result}");
}

#[tokio::test]
async fn an_embedded_broker_for_the_network_without_users_is_exit_78_and_one_line() {
    let setup = Setup::new(&Config::default().set("broker", "listen", "0.0.0.0:1883"));
    for words in [&["check"][..], &["run"]] {
        let ended = setup.run(words).await;
        let line = ended.failed(78);
        assert!(
            line.contains(
                "hs100d.toml:2: broker.listen: must be a loopback address while there is no [[broker.user]]"
            ),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_client_of_the_broker_has_no_other_plug_switched_by_the_answer_to_his_command() {
    let home = home_of(&["Lamp", "Heater"]).await;
    let scene = Scene::start(&Config::of(&home)).await;
    scene.shows("heater", json!({"state": "OFF"})).await;
    scene.subscriber.request(
        "hs100d/lamp/set",
        r#"{"state":"ON","transaction":"first"}"#,
        "hs100d/heater/set",
        b"c",
    );
    scene.result("lamp", "first").await;
    // Everything that was sent to the heater before arrives before this.
    scene.read("heater").await;
    assert!(home.plug(0).is_on() && !home.plug(1).is_on());
    assert!(
        scene.subscriber.messages().iter().all(|seen| seen.topic != "hs100d/heater/set"),
        "nothing was said there"
    );
}

#[tokio::test]
async fn whatever_a_plug_calls_itself_it_makes_no_topic_no_line_and_no_template_of_its_own() {
    let name = "+/#/../set\n2026-01-01 ERROR forged\u{1b}[2J\", \"x\": \"{{ 7 * 7 }}\u{202e}";
    let home = home_of(&[name]).await;
    let scene = Scene::start(&Config::of(&home)).await;
    let is_info =
        |topic: &str| topic.starts_with("hs100d/") && topic.ends_with("/info") && !topic.contains("/bridge/");
    let info = scene
        .subscriber
        .until("what the plug says of itself", |all| all.iter().rfind(|seen| is_info(&seen.topic)).cloned())
        .await;
    let told: serde_json::Value = serde_json::from_str(&info.payload).unwrap();
    assert_eq!(told["alias"], name, "as it is, within quotes");
    let document = |all: &[mqtt::Message]| {
        let of_plug = |topic: &str| topic.starts_with("homeassistant/device/") && topic.contains("8006");
        all.iter().rfind(|seen| seen.topic.ends_with("/config") && of_plug(&seen.topic)).cloned()
    };
    let document = scene.subscriber.until("its document", document).await;
    let document: serde_json::Value = serde_json::from_str(&document.payload).unwrap();
    assert_eq!(document["dev"]["name"], name);
    let rest = json!({"cmps": document["cmps"], "avty": document["avty"]});
    assert!(rest.to_string().contains("val_tpl") && !rest.to_string().contains("7 * 7"), "{rest}");

    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-".contains(c);
    for seen in scene.subscriber.messages() {
        assert!(seen.topic.chars().all(plain), "{}", seen.topic);
    }
    scene.daemon.says("plug_found").await;
    for line in scene.daemon.lines() {
        assert!(!line.chars().any(char::is_control) && !line.starts_with("2026-01-01"), "{line}");
    }
}

/// All tests, by file and by name.
fn tests(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            tests(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let file = entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&entry).unwrap();
            let (mut is_test, mut is_list) = (false, false);
            for line in text.lines().map(str::trim) {
                // The list of a macro that makes a test of each name.
                is_list = line == "tests! {" || is_list && line != "}";
                if is_list {
                    found.insert(format!("{file}: {line}"));
                }
                let name = line
                    .trim_start_matches("async ")
                    .strip_prefix("fn ")
                    .and_then(|rest| rest.split_once('('));
                if let (true, Some((name, _))) = (is_test, name) {
                    found.insert(format!("{file}: {name}"));
                }
                is_test = line.ends_with("test]")
                    || line.starts_with("#[tokio::test")
                    || is_test && line.starts_with("#[");
            }
        }
    }
}

#[test]
fn every_test_that_the_security_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut there = BTreeSet::new();
    ["src", "crates", "tests"].iter().for_each(|folder| tests(&root.join(folder), &mut there));
    let page = fs::read_to_string(root.join("docs/SECURITY.md")).unwrap();
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).filter(|code| code.contains(".rs: ")).collect();
    assert!(named.len() > 30, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !there.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
