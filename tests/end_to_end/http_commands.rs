//! Commands and requests over HTTP: each has one answer, and is the same command as one over MQTT.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use crate::support::e2e::{Config, Scene, Setup, holds, home_of};
use crate::support::http::{Page, Web};
use crate::support::mqtt::Message;
use hs100d::sim::fault::LanFault;
use hs100d::sim::home::SimHome;
use serde_json::{Value, json};

const PLUG: &str = "/api/v1/plugs/kettle";

/// A kettle, and a daemon that reaches it over the LAN alone.
async fn kettle() -> (SimHome, Scene, Web) {
    kettle_with(|config| config).await
}

async fn kettle_with(change: impl FnOnce(Config) -> Config) -> (SimHome, Scene, Web) {
    let home = home_of(&["Kettle"]).await;
    let config = Config::of(&home).without("cloud").plug("kettle", &home, 0);
    let scene = Scene::start(&change(config)).await;
    let web = Web::of(&scene.daemon).await;
    web.shows(PLUG, json!({"state": {"state": "OFF", "route": "local"}})).await;
    (home, scene, web)
}

fn path(end: &str) -> String {
    format!("{PLUG}/{end}")
}

fn is_on(home: &SimHome) -> bool {
    home.plug(0).is_on()
}

fn done(page: &Page, expected: Value) {
    assert_eq!(page.status, 200, "{page:?}");
    assert!(holds(&page.json(), &expected), "{page:?} is not {expected}");
}

#[tokio::test]
async fn a_command_is_a_word_or_json_or_a_form_and_its_answer_is_the_result() {
    let (home, scene, web) = kettle().await;
    let on = web.post(&path("set"), "on").await;
    done(&on, json!({"status": "ok", "state": "ON", "route": "local"}));
    assert_eq!(on.header("content-type"), Some("application/json"));
    assert!(on.json()["took_ms"].is_u64() && is_on(&home));
    let off = web.post(&path("set"), r#"{"state": false, "transaction": {"my": [7]}}"#).await;
    done(&off, json!({"status": "ok", "state": "OFF", "transaction": {"my": [7]}}));
    let form = web.ask("POST", &path("set")).form("state=toggle&for=30m").send().await;
    done(&form, json!({"status": "ok", "state": "ON"}));
    web.shows(PLUG, json!({"state": {"state": "ON"}})).await["state"]["until"].as_str().unwrap();
    // `curl -d OFF`
    done(&web.ask("POST", &path("set")).form("OFF").send().await, json!({"state": "OFF"}));

    // MQTT sees the same results.
    let is_result = |seen: &&Message| seen.topic == "hs100d/kettle/result";
    let four = |all: &[Message]| (all.iter().filter(is_result).count() == 4).then_some(());
    scene.subscriber.until("four results", four).await;
}

#[tokio::test]
async fn three_paths_switch_without_a_body_and_answer_with_the_state_alone_if_that_is_wanted() {
    let (home, _scene, web) = kettle().await;
    let text = |end: &str| web.ask("POST", &path(end)).header("Accept", "text/plain").send();
    let on = text("on").await;
    assert_eq!((on.status, on.body.as_str()), (200, "ON"));
    assert_eq!(on.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(text("toggle").await.body, "OFF");
    assert_eq!(text("on?for=30m").await.body, "ON");
    web.shows(PLUG, json!({"state": {"state": "ON"}})).await["state"]["until"].as_str().unwrap();
    done(&web.post(&path("off"), "").await, json!({"status": "ok", "state": "OFF"}));
    assert!(!is_on(&home));

    // A form of a page without JavaScript goes back to the page.
    let form =
        web.ask("POST", &path("toggle")).header("Accept", "text/html,*/*;q=0.8").form("for=").send().await;
    assert_eq!((form.status, form.header("location")), (303, Some("../../../../")));
    assert!(is_on(&home));
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_is_accepted_at_once_and_done() {
    let (home, _scene, web) = kettle().await;
    home.lan().set_fault(home.plug(0), LanFault::Silent).await.unwrap();
    let accepted = web.post(&path("set?wait=0"), r#"{"state": "ON", "transaction": "t"}"#).await;
    assert_eq!((accepted.status, accepted.json()), (202, json!({"status": "accepted", "transaction": "t"})));
    home.lan().set_fault(home.plug(0), LanFault::Works).await.unwrap();
    web.shows(PLUG, json!({"state": {"state": "ON"}})).await;
    assert!(is_on(&home));
}

#[tokio::test]
async fn a_wrong_request_is_answered_with_a_status_and_a_sentence_and_reaches_no_plug() {
    let (home, scene, web) = kettle().await;
    let huge = "x".repeat(4097);
    for (end, body, status, words) in [
        ("set", "", 400, "the payload is empty: send a word or JSON"),
        ("set", "maybe", 400, "use ON, OFF or TOGGLE"),
        ("set", &huge, 413, "4096 bytes"),
        ("set", r#"{"state":"ON"}{"state":"ON"}"#, 400, "not a command in JSON"),
        ("set", r#"{"state":"ON","state":"OFF"}"#, 400, "is there twice"),
        ("set", r#"{"state":"ON","colour":"red"}"#, 400, "there are state, led, brightness"),
        ("set", r#"{"brightness":50}"#, 400, "cannot be dimmed: leave brightness out"),
        ("set", "\u{0}\u{1}", 400, "use ON, OFF or TOGGLE"),
        ("set?wait=2", "ON", 400, "use 0 to be answered at once"),
        ("set?wiat=0", "ON", 400, "there are wait"),
        ("on?for=soon", "", 400, "for: "),
        ("on?for=25h", "", 400, "longer than 1d"),
        ("on?for=1m&for=2m", "", 400, "give it once"),
        ("on", "OFF", 400, "send a command to `set`"),
        ("history?hours=25", "", 405, ""),
    ] {
        let page = web.post(&path(end), body).await;
        if status == 405 {
            assert_eq!(page.status, 405, "{end}");
            continue;
        }
        let detail = page.problem(status)["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{end}: {detail}");
    }
    let refused = web.post(&path("set"), r#"{"state": "x", "transaction": 7}"#).await.problem(400);
    assert_eq!(refused["result"]["status"], "error", "{refused}");
    assert_eq!(refused["result"]["transaction"], 7, "{refused}");
    for name in ["nobody", "Kettle", "bridge", "%FF", "..%2Fbridge", &"x".repeat(65)] {
        for end in ["set", "on"] {
            let answer = web.post(&format!("/api/v1/plugs/{name}/{end}"), "").await;
            let expected = if end == "set" && name == "nobody" { 400 } else { 404 };
            answer.problem(expected);
        }
        let detail = web.get(&format!("/api/v1/plugs/{name}")).await.problem(404)["detail"].clone();
        assert!(detail.as_str().unwrap().contains("GET /api/v1/plugs lists the names"), "{detail}");
    }
    assert_eq!(
        web.get(&path("history?hours=0")).await.problem(400)["detail"],
        "hours: use a whole number, 1 to 24"
    );
    assert_eq!(home.plug(0).switchings().len(), 0);
    assert!(!scene.daemon.lines().iter().any(|line| line.contains("ERROR") || line.contains("panic")));
}

#[tokio::test]
async fn a_command_that_no_route_delivers_is_503_with_the_reason_the_remedy_and_the_result() {
    let (home, _scene, web) = kettle_with(|config| config.set("routing", "command_ttl", "1s")).await;
    home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
    let failed = web.post(&path("set"), r#"{"state": "ON", "transaction": 1}"#).await.problem(503);
    let detail = failed["detail"].as_str().unwrap();
    assert!(
        detail.contains("connection refused") && detail.contains("Third-Party Compatibility"),
        "{detail}"
    );
    let expected = json!({"status": "error", "transaction": 1, "state": "OFF"});
    assert!(holds(&failed["result"], &expected), "{failed}");
    let error = web.get(PLUG).await.json()["last_error"].clone();
    assert!(error["remedy"].is_string(), "{error}");
}

#[tokio::test]
async fn the_newest_command_wins_whichever_way_it_came() {
    let (home, scene, web) = kettle().await;
    home.lan().set_fault(home.plug(0), LanFault::Silent).await.unwrap();
    let older = tokio::spawn(async move { web.post(&path("set"), "ON").await });
    scene.daemon.says("kettle: a command over HTTP").await;
    let newer = scene.send("kettle", json!({"state": "OFF"}));
    let superseded = older.await.unwrap().problem(409);
    assert_eq!(superseded["result"]["status"], "superseded", "{superseded}");
    assert!(superseded["detail"].as_str().unwrap().contains("send it again"), "{superseded}");

    // The other way round.
    let newest = tokio::spawn(async move { web.post(&path("on"), "").await });
    assert_eq!(scene.result("kettle", &newer).await["status"], "superseded");
    home.lan().set_fault(home.plug(0), LanFault::Works).await.unwrap();
    done(&newest.await.unwrap(), json!({"status": "ok", "state": "ON"}));
}

#[tokio::test]
async fn a_command_to_a_plug_that_is_removed_meanwhile_is_answered() {
    let (home, scene, web) = kettle_with(|config| config).await;
    home.lan().set_fault(home.plug(0), LanFault::Silent).await.unwrap();
    let waits = tokio::spawn(async move { web.post(&path("on"), "").await });
    scene.daemon.says("kettle: a command over HTTP").await;
    scene.setup.write(&Config::of(&home).without("cloud").without_search().text());
    assert_eq!(scene.request("reload", json!({})).await["status"], "ok");
    let gone = waits.await.unwrap().problem(404);
    assert!(gone["detail"].as_str().unwrap().contains("the plug was removed"), "{gone}");
    web.get(PLUG).await.problem(404);
}

#[tokio::test]
async fn a_request_to_the_daemon_is_done_or_refused_with_the_reason() {
    let (_home, scene, web) = kettle().await;
    let ok = web.post("/api/v1/bridge/refresh", r#"{"plug": "kettle", "transaction": 3}"#).await;
    assert_eq!((ok.status, ok.json()), (200, json!({"status": "ok", "transaction": 3})));
    for request in ["discover", "refresh", "reload"] {
        done(&web.post(&format!("/api/v1/bridge/{request}"), "").await, json!({"status": "ok"}));
    }
    let form = web.ask("POST", "/api/v1/bridge/discover").header("Accept", "text/html").form("").send().await;
    assert_eq!((form.status, form.header("location")), (303, Some("../../../")));
    web.post("/api/v1/bridge/refresh", "nobody").await.problem(404);
    web.post("/api/v1/bridge/discover", "kettle").await.problem(400);
    web.post("/api/v1/bridge/forget", "kettle").await.problem(404);
    scene.setup.write("[http]\nlisten = 1\n");
    let rejected = web.post("/api/v1/bridge/reload", "").await.problem(500);
    assert!(rejected["detail"].as_str().unwrap().contains("http.listen"), "{rejected}");
    assert_eq!(rejected["result"]["status"], "error", "{rejected}");
}

#[tokio::test]
async fn the_history_says_how_a_plug_was_reached_and_in_which_state() {
    let home = home_of(&["Kettle"]).await;
    let config = Config::of(&home).plug("kettle", &home, 0);
    let scene = Scene::start(&config).await;
    let web = Web::of(&scene.daemon).await;
    web.shows(PLUG, json!({"state": {"state": "OFF"}})).await;
    done(&web.post(&path("on"), "").await, json!({"state": "ON"}));
    home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
    web.shows(PLUG, json!({"state": {"route": "cloud"}})).await;
    let history = web.get(&path("history?hours=1")).await.json();
    let intervals = history["intervals"].as_array().unwrap();
    let seen: Vec<_> = intervals.iter().map(|it| (it["route"].as_str(), it["state"].as_str())).collect();
    assert_eq!(
        seen,
        [(Some("local"), Some("OFF")), (Some("local"), Some("ON")), (Some("cloud"), Some("ON"))],
        "{history}"
    );
    assert!(intervals.windows(2).all(|pair| pair[0]["to"] == pair[1]["from"]), "{history}");
    assert_eq!(intervals[2]["to"], history["to"], "{history}");
    let since = web.get(PLUG).await.json()["since"].clone();
    assert_eq!(intervals[2]["from"], since, "{history}");
    let shares = &history["shares"];
    let sum: f64 = ["local", "cloud", "none"].iter().map(|key| shares[key].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 0.001, "{history}");
}

#[tokio::test]
async fn a_get_switches_only_with_simple_get_and_the_token_which_is_in_no_log() {
    const TOKEN: &str = "a+b/0123456789abcdef==";
    let home = home_of(&["Kettle"]).await;
    let config = Config::of(&home).without("cloud").plug("kettle", &home, 0);
    let config = config.set("http", "token", TOKEN).set("http", "simple_get", true);
    let scene = Scene::at(Setup::new(&config)).await;
    let web = Web::of(&scene.daemon).await;
    scene.shows("kettle", json!({"state": "OFF"})).await;
    let encoded = "a%2Bb%2F0123456789abcdef%3D%3D";
    let on = web.get(&path(&format!("on?token={encoded}&for=30m"))).await;
    done(&on, json!({"status": "ok", "state": "ON"}));
    let text = web.ask("GET", &path(&format!("toggle?token={encoded}"))).header("Accept", "text/plain");
    assert_eq!(text.send().await.body, "OFF");
    web.get(&path("on")).await.problem(405);
    web.get(&path("on?token=0123456789abcdef")).await.problem(401);
    web.get(&path(&format!("set?token={encoded}"))).await.problem(405);
    // A query opens nothing else.
    web.get(&format!("{PLUG}?token={encoded}")).await.problem(401);
    assert!(!is_on(&home));
    let lines = scene.daemon.lines();
    assert!(!lines.iter().any(|line| line.contains(TOKEN) || line.contains(encoded)), "{lines:?}");
}
