//! What clients of HTTP cannot do to the real daemon, however many, slow or hostile they are; where it listens, and what a reload
//! changes.

#![cfg(all(feature = "sim", feature = "broker", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::e2e::{Config, Daemon, Scene, Setup, holds, home_of};
use crate::support::mqtt::{Subscriber, within};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;

const TOKEN: &str = "end-to-end-full-token-0123456789";
const READ_TOKEN: &str = "end-to-end-read-token-0123456789";
const WRONG: &str = "end-to-end-wrong-token-0123456789";
const NEW_TOKEN: &str = "end-to-end-new-token-0123456789";
/// Too few for all the connections that HTTP would accept.
const FEW_FILES: &str = "ulimit -n 64; exec \"$@\"";
const CROWD: usize = 500;
const COMMANDS: usize = 40;

/// Where the status page is, once it is there.
async fn address(daemon: &Daemon) -> SocketAddr {
    let line = daemon.says("the status page is at http://").await;
    line.rsplit("http://").next().unwrap().trim_end_matches('/').parse().unwrap()
}

/// The whole response to one request, after which the connection ends.
async fn answer_on(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    let _ = stream.write_all(request.as_bytes()).await;
    let mut bytes = Vec::new();
    // A reset ends it as well.
    let _ = within("the end of a response", stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn answer(address: SocketAddr, request: &str) -> String {
    answer_on(TcpStream::connect(address).await.unwrap(), request).await
}

fn get(path: &str, headers: &str) -> String {
    request("GET", path, headers, "")
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

#[track_caller]
fn has_status(response: &str, status: u16) {
    assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
}

/// Two connections for each client of the crowd, in one process.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Sends one byte a second, and connects again when it is closed.
async fn sends_slowly(address: SocketAddr) {
    loop {
        let mut connected = TcpStream::connect(address).await;
        for byte in b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Ok(stream) = &mut connected else { break };
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    }
}

/// How long commands take over MQTT, in the middle and at most.
async fn times(scene: &Scene) -> (Duration, Duration) {
    let mut times = Vec::new();
    for number in 0..COMMANDS {
        let begin = Instant::now();
        let state = if number % 2 == 0 { "ON" } else { "OFF" };
        let result = scene.command("lamp", json!({ "state": state })).await;
        times.push(begin.elapsed());
        assert!(holds(&result, &json!({"status": "ok", "state": state, "route": "local"})), "{result}");
    }
    times.sort();
    (times[COMMANDS / 2], times[COMMANDS - 1])
}

#[tokio::test]
async fn five_hundred_silent_and_five_hundred_slow_clients_harm_no_plug_and_no_command() {
    allow_many_files();
    let home = home_of(&["Lamp"]).await;
    let scene = Scene::start(&Config::of(&home).without("cloud")).await;
    scene.shows("lamp", json!({"route": "local"})).await;
    let address = address(&scene.daemon).await;
    let alone = times(&scene).await;

    let mut silent = Vec::new();
    let mut slow = JoinSet::new();
    for _ in 0..CROWD {
        silent.push(TcpStream::connect(address).await.unwrap());
        slow.spawn(sends_slowly(address));
    }
    let crowded = times(&scene).await;
    let open_files = fs::read_dir(format!("/proc/{}/fd", scene.daemon.pid())).unwrap().count();
    assert!(open_files < 200, "{open_files}");
    within("an answer among the crowd", async {
        while !answer(address, &get("/healthz", "")).await.starts_with("HTTP/1.1 200 ") {}
    })
    .await;
    let seen = scene.subscriber.messages();
    let offline =
        seen.iter().filter(|seen| seen.topic == "hs100d/lamp/availability" && seen.payload == "offline");
    assert_eq!(offline.count(), 0);
    println!("{COMMANDS} commands over MQTT, p50 and longest: alone {alone:?}, in the crowd {crowded:?}");
}

#[tokio::test]
async fn the_token_is_in_no_log_and_no_answer_whatever_way_it_is_sent() {
    let home = home_of(&["Lamp"]).await;
    let config = Config::of(&home).without("cloud").set("http", "read_token", READ_TOKEN).set(
        "http",
        "simple_get",
        true,
    );
    let setup = Setup::new(&config.clone().set("http", "token", TOKEN));
    let mut daemon = setup.daemon_that_logs("trace");
    let port = daemon.is_connected().await;
    let address = address(&daemon).await;
    let subscriber = Subscriber::subscribe_to(port, "#", None).await;

    let mut answers = Vec::new();
    for token in [TOKEN, READ_TOKEN, WRONG] {
        let long = format!("x: {}\r\n", token.repeat(500));
        for request in [
            get("/api/v1/plugs", &bearer(token)),
            get("/nothing", &bearer(token)),
            get(&format!("/api/v1/plugs/lamp/on?token={token}"), ""),
            get(&format!("/api/v1/plugs?token={token}"), &bearer(token)),
            get(&format!("/{token}?{token}"), &bearer(token)),
            get("/", &(long + &bearer(token))),
            request("POST", "/api/v1/plugs/lamp/set", &bearer(token), token),
            request("DELETE", "/api/v1/plugs", &bearer(token), ""),
            request("POST", "/", &bearer(token), &format!("plug=lamp&token={token}")),
            format!("{token}\r\n\r\n"),
        ] {
            answers.push(answer(address, &request).await);
        }
    }
    has_status(&answers[0], 200);
    has_status(&answers[10], 200);
    has_status(&answers[20], 401);
    for answer in &answers {
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    }

    // A connection that the old token let in, and a new token at the same socket.
    let mut open = TcpStream::connect(address).await.unwrap();
    let keep = format!("GET /api/v1/bridge HTTP/1.1\r\nhost: localhost\r\n{}\r\n", bearer(TOKEN));
    open.write_all(keep.as_bytes()).await.unwrap();
    assert_eq!(within("a response", open.read_u8()).await.unwrap(), b'H');
    setup.write(&config.set("http", "token", NEW_TOKEN).text());
    daemon.signal("HUP");
    daemon.says("the config was read again").await;
    assert!(answer_on(open, &keep).await.matches("HTTP/1.1 ").count() == 0, "the old connection has ended");
    for (token, status) in [(TOKEN, 401), (NEW_TOKEN, 200)] {
        let response = answer(address, &get("/api/v1/plugs", &bearer(token))).await;
        has_status(&response, status);
        answers.push(response);
    }

    let lines = daemon.lines();
    assert!(
        lines.iter().any(|line| line.contains(" DEBUG answered plug=\"lamp\"")),
        "too little was logged to find anything"
    );
    let published =
        subscriber.messages().iter().map(|seen| format!("{} {}", seen.topic, seen.payload)).collect();
    for text in [lines, answers, published].concat() {
        for token in [TOKEN, READ_TOKEN, NEW_TOKEN, WRONG] {
            assert!(!text.contains(token), "{token} was said: {text}");
        }
    }
    daemon.stop().await;
}

#[tokio::test]
async fn without_free_files_http_waits_and_the_plugs_are_served() {
    allow_many_files();
    let home = home_of(&["Lamp"]).await;
    let setup = Setup::new(&Config::of(&home).without("cloud"));
    let daemon = setup.daemon_by(&["sh", "-c", FEW_FILES, "sh"]);
    let port = daemon.is_connected().await;
    let scene = Scene { subscriber: Subscriber::connect(port).await, setup, daemon, port };
    scene.shows("lamp", json!({"route": "local"})).await;
    let address = address(&scene.daemon).await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    scene.daemon.says("http: no connection can be accepted: ").await;
    for state in ["ON", "OFF"] {
        let result = scene.command("lamp", json!({ "state": state })).await;
        assert!(holds(&result, &json!({"status": "ok", "route": "local"})), "{result}");
    }
    drop(crowd);
    has_status(&answer(address, &get("/healthz", "")).await, 200);
    let said =
        scene.daemon.lines().iter().filter(|line| line.contains("no connection can be accepted")).count();
    assert_eq!(said, 1, "once");
}

#[tokio::test]
async fn a_taken_port_is_said_once_and_a_reload_takes_it_when_it_is_free() {
    let home = home_of(&["Lamp"]).await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = other.local_addr().unwrap();
    let config = Config::of(&home).without("cloud").set("http", "listen", taken.to_string());
    let scene = Scene::start(&config).await;
    scene.daemon.says(&format!("http.listen {taken}: Address already in use")).await;
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok"})), "{result}");
    drop(other);
    scene.daemon.signal("HUP");
    assert_eq!(address(&scene.daemon).await, taken);
    has_status(&answer(taken, &get("/healthz", "")).await, 200);
    let said = scene.daemon.lines().iter().filter(|line| line.contains("Address already in use")).count();
    assert_eq!(said, 1, "once");
}

#[tokio::test]
async fn a_unix_socket_is_for_the_group_and_one_that_a_killed_daemon_left_is_replaced() {
    let home = home_of(&["Lamp"]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let config = Config::of(&home).without("cloud").set("http", "listen", format!("unix:{}", path.display()));
    let setup = Setup::new(&config);
    let is_served = async |path: &Path| {
        let response = answer_on(UnixStream::connect(path).await.unwrap(), &get("/api/v1/plugs", "")).await;
        has_status(&response, 200);
    };
    let mut daemon = setup.daemon();
    daemon.says(&format!("the status page is at unix:{}", path.display())).await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    is_served(&path).await;
    daemon.kill().await;
    assert!(path.exists(), "a killed process removes nothing");

    let mut daemon = setup.daemon();
    daemon.says("the status page is at unix:").await;
    is_served(&path).await;
    daemon.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn an_address_that_others_reach_without_a_token_is_exit_78_and_check_says_how_http_is_served() {
    let home = home_of(&["Lamp"]).await;
    let config = Config::of(&home).without("cloud").set("http", "listen", "0.0.0.0:8100");
    let setup = Setup::new(&config);
    for words in [["run"], ["check"]] {
        let ended = setup.run(&words).await;
        assert!(ended.failed(78).contains("add token_file = \"/etc/hs100d/http.token\""), "{ended:?}");
    }
    setup.write(&config.set("http", "token", TOKEN).set("http", "read_token", READ_TOKEN).text());
    let ended = setup.run(&["check"]).await;
    let line =
        "HTTP       status page, API and metrics at 0.0.0.0:8100, with a token, and one that may only look\n";
    assert!(ended.ok().contains(line) && !ended.out.contains(TOKEN), "{ended:?}");
    let plan = setup.run(&["check", "--json"]).await.json();
    let expected = json!({"listen": "0.0.0.0:8100", "token": true, "read_token": true, "allowed_hosts": [], "simple_get": false});
    assert_eq!(plan["http"], expected);
}
