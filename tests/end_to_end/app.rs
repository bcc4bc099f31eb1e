//! `hs100d app` in a container's place: options, a file of one's own, a simulated Supervisor, a broker with passwords.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::e2e::{ACCOUNT, Config, Daemon, Ended, Setup, Talker, home_of, sees};
use crate::support::mqtt::{BOUND, Subscriber, TestBroker, free_port, has_mosquitto, within};
use crate::support::supervisor::{INFO, Reply, SERVICE, SimSupervisor, TOKEN, service};
use hs100d::sim::home::SimHome;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const USER: &str = "addons";
/// It breaks hand-made JSON, URLs and log lines.
const PASSWORD: &str = "s3cret \"'\\/{}$ü ";
const ALL_RIGHTS: &str = "user addons\ntopic readwrite #\n";

/// The container of the app: `/data`, and the file of one's own.
struct Container {
    folder: TempDir,
    supervisor: Option<String>,
}

impl Container {
    fn new(supervisor: &SimSupervisor, options: &Value) -> Self {
        let container = Self { folder: tempfile::tempdir().unwrap(), supervisor: Some(supervisor.url()) };
        fs::create_dir(container.data()).unwrap();
        container.write_options(&options.to_string());
        container
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("hs100d.toml")
    }

    fn write_options(&self, text: &str) {
        fs::write(self.data().join("options.json"), text).unwrap();
    }

    fn write_file(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
        fs::set_permissions(self.file(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The file of one's own that keeps the daemon on loopback.
    fn with_home(self, home: &SimHome) -> Self {
        self.write_file(&Config::of(home).without("cloud").without("broker").without("http").text());
        self
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hs100d"));
        command.env_clear().env("STATE_DIRECTORY", self.data()).env("SUPERVISOR_TOKEN", TOKEN);
        command.envs(self.supervisor.as_ref().map(|url| ("SUPERVISOR_API", url)));
        if self.file().exists() {
            command.env("HS100D_CONFIG", self.file());
        }
        command.args(words).stdin(Stdio::null());
        command
    }

    fn daemon(&self) -> Daemon {
        self.daemon_with(&[])
    }

    fn daemon_with(&self, words: &[&str]) -> Daemon {
        Setup::spawned(self.command(&[&["app"], words].concat()), "trace")
    }

    /// Runs one command to its end. One that goes on is ended, with the exit code 124.
    async fn run(&self, words: &[&str]) -> Ended {
        let command = self.command(words);
        let mut bounded = Command::new("/usr/bin/timeout");
        bounded.arg("20").arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        bounded.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ended = tokio::task::spawn_blocking(move || bounded.output().unwrap());
        let ended = within(&format!("the end of {words:?}"), ended).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: ended.status.code().unwrap_or(-1), out: text(ended.stdout), err: text(ended.stderr) }
    }
}

async fn broker() -> TestBroker {
    TestBroker::with_users(&[USER], PASSWORD, ALL_RIGHTS).await
}

async fn subscriber(broker: &TestBroker) -> Subscriber {
    Subscriber::subscribe_to(broker.port, "#", Some((USER, PASSWORD))).await
}

/// The lines at level WARN or ERROR that contain this.
fn complaints(daemon: &Daemon, part: &str) -> Vec<String> {
    let is_complaint =
        |line: &String| (line.contains("WARN") || line.contains("ERROR")) && line.contains(part);
    daemon.lines().into_iter().filter(is_complaint).collect()
}

fn shows_no_secret(daemon: &Daemon) {
    for line in daemon.lines() {
        assert!(!line.contains("s3cret"), "{line}");
    }
}

#[tokio::test]
async fn the_daemon_serves_without_a_broker_and_uses_the_one_that_the_supervisor_names_later() {
    if !has_mosquitto() {
        return;
    }
    let (home, broker, supervisor) = (home_of(&["Lamp"]).await, broker().await, SimSupervisor::start().await);
    let container = Container::new(&supervisor, &json!({"log": "info"})).with_home(&home);
    let mut daemon = container.daemon();
    daemon.says("it knows no broker: install and start the Mosquitto app").await;
    home.wait_until(BOUND, || home.plug(0).traffic().lan_requests > 1).await.unwrap();
    let health = container.run(&["health"]).await;
    assert!(health.ok().contains("broker not connected (no broker is named yet"), "{health:?}");
    supervisor.name_broker(broker.port, USER, PASSWORD);
    assert_eq!(daemon.is_connected().await, broker.port);
    let subscriber = subscriber(&broker).await;
    sees(&subscriber, "hs100d/lamp/state", json!({"route": "local"})).await;
    let info = sees(&subscriber, "hs100d/bridge/info", json!({"plugs": 1})).await;
    let client_id = format!("hs100d-{}", info["instance"].as_str().unwrap());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    assert!(
        client_id.len() <= 23 && client_id.chars().all(is_plain),
        "the Mosquitto app takes it: {client_id}"
    );
    assert_eq!(complaints(&daemon, "the Supervisor").len(), 1, "one line a change");
    let health = container.run(&["health"]).await;
    assert!(health.ok().contains("broker connected"), "{health:?}");
    assert!(health.ok().contains("http.sock"), "not on a port that another program may have: {health:?}");
    daemon.stop().await;
    shows_no_secret(&daemon);
}

#[tokio::test]
async fn after_a_refused_login_the_supervisor_is_asked_before_it_is_reported() {
    if !has_mosquitto() {
        return;
    }
    let (home, broker, supervisor) = (home_of(&["Lamp"]).await, broker().await, SimSupervisor::start().await);
    let logins = ["s3cret-of-before", PASSWORD].map(|login| Reply::Data(service(broker.port, USER, login)));
    // The second time, because the config is read again after the first answer.
    supervisor.answer_in_turn([logins[0].clone(), logins[0].clone(), logins[1].clone()]);
    let container = Container::new(&supervisor, &json!({})).with_home(&home);
    let daemon = container.daemon();
    daemon.is_connected().await;
    daemon.says("the Supervisor has another login for the broker").await;
    assert_eq!(complaints(&daemon, "refuses the login"), Vec::<String>::new());
    shows_no_secret(&daemon);
}

#[tokio::test]
async fn a_login_that_stays_wrong_is_reported_and_the_next_one_is_used() {
    if !has_mosquitto() {
        return;
    }
    let (home, broker, supervisor) = (home_of(&["Lamp"]).await, broker().await, SimSupervisor::start().await);
    supervisor.name_broker(broker.port, USER, "s3cret-of-before");
    let container = Container::new(&supervisor, &json!({})).with_home(&home);
    let daemon = container.daemon();
    daemon.says("refuses the login: check mqtt.username and mqtt.password").await;
    let asked = supervisor.asked(SERVICE);
    assert!(asked > 1, "asked {asked} times");
    supervisor.name_broker(broker.port, USER, PASSWORD);
    daemon.is_connected().await;
    assert_eq!(complaints(&daemon, "refuses the login").len(), 1);
    shows_no_secret(&daemon);
}

#[tokio::test]
async fn whatever_the_supervisor_answers_it_is_said_once_and_asked_again() {
    if !has_mosquitto() {
        return;
    }
    let broker = broker().await;
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n{}", "x".repeat(2 << 20));
    let bytes = |text: &str| Reply::Bytes(text.as_bytes().to_vec());
    let cases = [
        (Reply::Error(400, "Service not enabled"), "it knows no broker: install"),
        (Reply::Error(401, "s3cret\r\n"), "it refuses the token: restart the app"),
        (Reply::Error(403, "No access to mqtt service!"), "does not allow the app to ask (No access to mqtt"),
        (Reply::Error(400, "starting"), "it answers with the status 400 (starting)"),
        (Reply::Error(502, "a\nb"), "it answers with the status 502 (a\\nb)"),
        (Reply::Nothing, "it does not answer within 5 s"),
        (bytes(""), "it ends the connection before its answer is complete"),
        (bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"result\""), "before its answer is complete"),
        (bytes("s3cret garbage\r\n\r\n"), "its answer cannot be used (it is not HTTP)"),
        (bytes("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ns3cret"), "it is not the expected JSON"),
        (Reply::Bytes(large.into_bytes()), "it is too large"),
        (Reply::Data(Value::Null), "it has no data"),
        (Reply::Data(json!({"host": "core-mosquitto"})), "it is not the expected JSON"),
        (Reply::Data(service(0, USER, PASSWORD)), "its broker has no usable host and port"),
        (Reply::Data(json!({"host": "a b", "port": 1883})), "its broker has no usable host and port"),
    ];
    let mut running = JoinSet::new();
    for (reply, line) in cases {
        let port = broker.port;
        running.spawn(async move {
            let (home, supervisor) = (home_of(&["Lamp"]).await, SimSupervisor::start().await);
            // Twice, so that a second line would be seen.
            supervisor.answer_in_turn([reply.clone(), reply, Reply::Data(service(port, USER, PASSWORD))]);
            let container = Container::new(&supervisor, &json!({})).with_home(&home);
            let daemon = container.daemon();
            daemon.says(line).await;
            daemon.is_connected().await;
            assert_eq!(complaints(&daemon, "the Supervisor was asked").len(), 1);
            shows_no_secret(&daemon);
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn without_a_supervisor_it_is_waited_for() {
    let (home, supervisor) = (home_of(&["Lamp"]).await, SimSupervisor::start().await);
    let mut container = Container::new(&supervisor, &json!({})).with_home(&home);
    container.supervisor = Some(format!("http://127.0.0.1:{}", free_port()));
    let mut daemon = container.daemon();
    daemon.says("it cannot be reached (its host refuses the connection)").await;
    daemon.stop().await;
    container.supervisor = Some("core-mosquitto".to_owned());
    let ended = container.run(&["app"]).await;
    assert!(
        ended.last_line(78).contains("SUPERVISOR_API: must be a URL like \"http://supervisor\""),
        "{ended:?}"
    );
}

#[tokio::test]
async fn the_page_comes_where_the_supervisor_expects_it_and_only_for_the_supervisor() {
    let (home, supervisor) = (home_of(&["Lamp"]).await, SimSupervisor::start().await);
    for (only_from, is_open) in [("127.0.0.1", true), ("127.0.0.2", false)] {
        supervisor.answer_info(Reply::Error(500, "starting"));
        let container = Container::new(&supervisor, &json!({})).with_home(&home);
        let mut daemon = container.daemon_with(&["--ingress-from", only_from]);
        daemon.says("asked for the status page in Home Assistant: it answers with the status 500").await;
        let port = free_port();
        supervisor.answer_info(Reply::Data(json!({"ip_address": "127.0.0.1", "ingress_port": port})));
        daemon.says("the status page is in Home Assistant").await;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = "GET / HTTP/1.1\r\nHost: homeassistant.local:8123\r\nConnection: close\r\n\r\n";
        // A connection that is closed at once may be reset.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = within("the end of the answer", stream.read_to_end(&mut answer)).await;
        assert_eq!(answer.starts_with(b"HTTP/1.1 200 "), is_open, "{}", String::from_utf8_lossy(&answer));
        daemon.stop().await;
    }
    for address in ["0.0.0.0", "::"] {
        supervisor.answer_info(Reply::Data(json!({"ip_address": address, "ingress_port": free_port()})));
        let container = Container::new(&supervisor, &json!({})).with_home(&home);
        let daemon = container.daemon();
        daemon.says("its answer cannot be used (the app has no usable address)").await;
    }
}

#[tokio::test]
async fn changed_options_are_used_after_a_reload_and_broken_ones_are_not() {
    if !has_mosquitto() {
        return;
    }
    let (home, broker, supervisor) = (home_of(&["Lamp"]).await, broker().await, SimSupervisor::start().await);
    supervisor.name_broker(broker.port, USER, PASSWORD);
    let container = Container::new(&supervisor, &json!({})).with_home(&home);
    let daemon = container.daemon();
    daemon.is_connected().await;
    let subscriber = subscriber(&broker).await;
    sees(&subscriber, "hs100d/lamp/state", json!({"route": "local"})).await;

    let asked = supervisor.asked(SERVICE);
    let options = container.data().join("options.json");
    let broken = [
        (Some("{\"plugs\": [{\"name\": \"kett"), "options.json: is not JSON from line 1, column 25 on"),
        (Some(""), "options.json: is not JSON from line 1, column 0 on"),
        (Some("[]"), "options.json: is not a JSON object"),
        (None, "options.json: cannot be read: No such file"),
    ];
    for (time, (text, line)) in (1..).zip(broken) {
        match text {
            Some(text) => container.write_options(text),
            None => fs::remove_file(&options).unwrap(),
        }
        daemon.signal("HUP");
        daemon.says_again("the config was not taken over, the old one stays", time).await;
        assert_eq!(complaints(&daemon, line).len(), 1, "{line}");
    }
    home.plug(0).press_button();
    sees(&subscriber, "hs100d/lamp/state", json!({"state": "ON"})).await;

    let plug = json!({"name": "kettle", "device_id": home.plug(0).device_id(), "route": "auto"});
    container.write_options(&json!({"plugs": [plug]}).to_string());
    daemon.signal("HUP");
    sees(&subscriber, "hs100d/kettle/state", json!({"route": "local"})).await;
    within("another question to the Supervisor", async {
        while supervisor.asked(SERVICE) == asked {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    shows_no_secret(&daemon);
}

#[tokio::test]
async fn a_broker_in_the_options_is_used_and_the_supervisor_is_not_asked_for_one() {
    if !has_mosquitto() {
        return;
    }
    let (home, broker, supervisor) = (home_of(&["Lamp"]).await, broker().await, SimSupervisor::start().await);
    let mqtt = json!({"host": "127.0.0.1", "port": broker.port, "username": USER, "password": PASSWORD});
    let container = Container::new(&supervisor, &json!({"mqtt": mqtt})).with_home(&home);
    let daemon = container.daemon();
    assert_eq!(daemon.is_connected().await, broker.port);
    within("the question about the page", async {
        while supervisor.asked(INFO) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(supervisor.asked(SERVICE), 0);

    // A login alone is used at the Supervisor's broker.
    supervisor.name_broker(broker.port, "homeassistant", "s3cret-of-another");
    container.write_options(&json!({"mqtt": {"username": USER, "password": PASSWORD}}).to_string());
    daemon.signal("HUP");
    daemon.says("the Supervisor names the broker").await;
    daemon.says_again("connected to the broker at ", 2).await;
    shows_no_secret(&daemon);
}

#[tokio::test]
async fn account_and_log_level_are_those_of_the_options() {
    let (home, supervisor) = (home_of(&["Lamp"]).await, SimSupervisor::start().await);
    let account = json!({"email": ACCOUNT.0, "password": ACCOUNT.1});
    let container = Container::new(&supervisor, &json!({"log": "debug", "cloud": account}));
    // The password is of the other account, so it is not used for this one.
    let file =
        Config::of(&home).set("cloud", "username", "other@example.com").set("cloud", "password", "s3cret");
    container.write_file(&file.without("broker").without("http").text());
    let started = |container: &Container| {
        Talker::of(container.command(&["app"]).stderr(Stdio::piped()).spawn().unwrap())
    };
    let daemon = started(&container);
    daemon.says(" DEBUG hs100d_transport: answered ").await;
    within("the cloud", async {
        while !container.run(&["health"]).await.out.contains("cloud ok") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(daemon);
    container.write_options(&json!({"log": "warn", "cloud": account}).to_string());
    let mut daemon = started(&container);
    daemon.says("it knows no broker").await;
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, 0);
    let quiet = daemon.lines().iter().all(|line| line.contains(" WARN "));
    assert!(quiet, "{:#?}", daemon.lines());
}

#[tokio::test]
async fn options_that_cannot_be_used_end_the_app_with_one_line_each() {
    let supervisor = SimSupervisor::start().await;
    let container = Container::new(&supervisor, &json!({}));
    for (options, lines) in [
        ("", &["options.json: is not JSON from line 1, column 0 on: save the options again"][..]),
        ("{\"log\": \"in", &["options.json: is not JSON from line 1, column 11 on"]),
        ("[]", &["options.json: is not a JSON object"]),
        (
            r#"{"log": "loud"}"#,
            &["options: log: must be one of error, warn, info, debug, trace (is \"loud\")"],
        ),
        (
            r#"{"discovery": "of"}"#,
            &["options: discovery: must be `device`, `component` or `off` (is \"of\")"],
        ),
        (r#"{"discovery": 1}"#, &["options: discovery: must be text (is a number)"]),
        (r#"{"cloud": "me"}"#, &["options: cloud: must be a group of options (is text)"]),
        (
            r#"{"cloud": {"password": "s3cret"}}"#,
            &["options: cloud.email: is missing: fill it in, or remove the password"],
        ),
        (
            r#"{"cloud": {"email": "me@example.com", "password": ["s3cret"]}}"#,
            &["options: cloud.password: must be text (is a list)"],
        ),
        (r#"{"plugs": {}}"#, &["options: plugs: must be a list (is a group of options)"]),
        (r#"{"plugs": ["lamp"]}"#, &["options: plugs[0]: must be a group of options (is text)"]),
        (
            r#"{"plugs": [{"name": "lamp", "host": "10.0.0.1"}, {"name": "lamp", "host": "10.0.0.2"}]}"#,
            &["options: plugs[1].name: \"lamp\" is in plugs[0].name already: each entry is one plug"],
        ),
        (
            r#"{"plugs": [{"name": "Lamp 1"}, {"name": "tv", "device_id": "80 06"}]}"#,
            &[
                "options: plugs[0].name: \"Lamp 1\" may hold a-z, 0-9, - and _ only",
                "options: plugs[1].device_id: must be hexadecimal digits",
            ],
        ),
        (
            r#"{"plugs": [{"name": "lamp", "host": "10.0.0.300"}, {"name": "fan"}]}"#,
            &[
                "options: plugs[0].host: must be an address or a host name",
                "options: plugs[1].name: does not say which plug it is: add device_id, mac or host",
            ],
        ),
        (
            r#"{"plugs": [{"name": "lamp", "device_id": "8006E9D1B8E1B8C7C0E1D2C3B4A5968778695A4B", "route": "cloud"}]}"#,
            &["options: plugs[0].route: needs an account"],
        ),
        (
            r#"{"plugs": [{"route": "lan"}]}"#,
            &["options: plugs[0].route: must be one of auto, local, cloud (is \"lan\")"],
        ),
        (
            r#"{"mqtt": {"host": "broker", "port": 70000}}"#,
            &["options: mqtt.port: must be a number between 1 and 65535 (is 70000)"],
        ),
        (r#"{"mqtt": {"host": "me:s3cret@broker"}}"#, &["options: mqtt.host: "]),
        (r#"{"mqtt": {"password": "s3cret"}}"#, &["options: mqtt.password: goes with a user name"]),
    ] {
        container.write_options(options);
        let ended = container.run(&["app"]).await;
        assert_eq!(ended.code, 78, "{options}: {ended:?}");
        let said: Vec<_> = ended.err.lines().collect();
        assert_eq!(said.len(), lines.len(), "{options}: {said:#?}");
        for (said, line) in said.iter().zip(lines) {
            assert!(said.starts_with("hs100d: ") && said.contains(line), "{options}: {said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
    fs::remove_file(container.data().join("options.json")).unwrap();
    let ended = container.run(&["app"]).await;
    assert!(ended.failed(78).contains("options.json: cannot be read: No such file"), "{ended:?}");
    fs::create_dir(container.data().join("options.json")).unwrap();
    let ended = container.run(&["app"]).await;
    assert!(ended.failed(78).contains("options.json: cannot be read: "), "{ended:?}");
}

/// `tests/golden/app` holds options, a file of one's own if there is one, and what `check --json` then says. `HS100D_BLESS=1
/// cargo test` writes the latter anew, to be read in the diff.
#[tokio::test]
async fn the_options_and_the_file_make_one_config() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/app");
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| {
            Some(entry.unwrap().file_name().to_str()?.strip_suffix(".options.json")?.to_owned())
        })
        .collect();
    names.sort();
    assert!(names.len() >= 8, "{names:?}");
    let supervisor = SimSupervisor::start().await;
    for name in names {
        let container = Container::new(&supervisor, &json!({}));
        container.write_options(&fs::read_to_string(folder.join(format!("{name}.options.json"))).unwrap());
        if let Ok(file) = fs::read_to_string(folder.join(format!("{name}.toml"))) {
            container.write_file(&file);
        }
        let ended = container.run(&["check", "--json"]).await;
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{name}: {ended:?}");
        assert!(!ended.out.contains("s3cret"), "{name}: {ended:?}");
        let plan: Value = serde_json::from_str(&ended.out).unwrap();
        let data = container.data().display().to_string();
        let folder_text = container.folder.path().display().to_string();
        let shown = serde_json::to_string_pretty(&plan).unwrap();
        let shown = shown.replace(&data, "/data").replace(&folder_text, "/config");
        let shown = shown.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        let path = folder.join(format!("{name}.check.json"));
        if std::env::var_os("HS100D_BLESS").is_some() {
            fs::write(&path, shown + "\n").unwrap();
            continue;
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(shown.trim(), expected.trim(), "{}", path.display());
    }
}

#[tokio::test]
async fn health_finds_the_daemon_wherever_its_own_file_lets_it_listen() {
    let (home, supervisor) = (home_of(&["Lamp"]).await, SimSupervisor::start().await);
    let port = free_port();
    let token = "s3cret-token-of-the-page";
    for (http, place) in [
        (format!("listen = \"127.0.0.1:{port}\"\ntoken = \"{token}\"\n"), format!("127.0.0.1:{port}")),
        ("enabled = false\n".to_owned(), "http.sock".to_owned()),
    ] {
        let container = Container::new(&supervisor, &json!({}));
        let file = Config::of(&home).without("cloud").without("broker").without("http").text();
        container.write_file(&format!("{file}\n[http]\n{http}"));
        let mut daemon = container.daemon();
        daemon.says("the status page is at").await;
        let health = container.run(&["health"]).await;
        assert!(health.ok().contains(&place), "{health:?}");
        daemon.stop().await;
        let health = container.run(&["health"]).await;
        assert!(health.failed(69).contains("see the log of the app"), "{health:?}");
    }
}
