//! The lines of docs/INTEGRATIONS.md that people paste into other programs: they are well formed, and every topic, field, port
//! and path in them is one of the running daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::e2e::{Config, Scene, holds, home_options_of};
use crate::support::http::{Page, Web};
use crate::support::mqtt::{free_port, retained, until_retained, within};
use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::config::{self, MqttChoice};
use hs100d::mqtt::topics::{ParsedTopic, Topics};
use hs100d::payload::command::CommandPart;
use hs100d::sim::home::SimHome;
use hs100d::sim::model::Model;
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/INTEGRATIONS.md");
/// The plug of the page.
const PLUG: &str = "kitchen-kettle";
/// The daemon of the page, on this machine and seen from others.
const HERE: &str = "http://127.0.0.1:8100";
const ELSEWHERE: [&str; 2] = ["http://192.168.1.20:8100", "https://hs100d.example.com"];
/// In the place of `TOKEN`.
const TOKEN: &str = "0123456789abcdef";

/// A block that can be pasted.
#[derive(Debug)]
struct Block {
    section: &'static str,
    language: &'static str,
    text: &'static str,
}

fn blocks() -> Vec<Block> {
    let sections = PAGE.split("\n## ").skip(1);
    let blocks = sections.flat_map(|section| {
        let title = section.lines().next().unwrap();
        let fenced = section.split("\n```").skip(1).step_by(2);
        fenced.map(move |block| {
            let (language, text) = block.split_once('\n').unwrap();
            Block { section: title, language, text }
        })
    });
    blocks.collect()
}

/// The blocks of a section in this language.
fn of(section: &str, language: &str) -> Vec<&'static str> {
    let found = blocks().into_iter().filter(|block| block.section == section && block.language == language);
    let texts: Vec<_> = found.map(|block| block.text).collect();
    assert!(!texts.is_empty(), "there is no {language} in {section}");
    texts
}

#[test]
fn every_program_has_its_lines_and_every_block_is_well_formed() {
    for block in blocks() {
        let Block { section, language, text } = block;
        let is_well_formed = match language {
            "json" => serde_json::from_str::<Value>(text).is_ok(),
            "yaml" => is_yaml(text),
            // `readme::every_config_in_the_pages_is_valid` reads them.
            "toml" => true,
            "console" => text.lines().all(|line| line.starts_with("$ curl ")),
            "php" => text.starts_with("<?php\n") && is_balanced(text) && text.trim_end().ends_with(';'),
            "javascript" | "text" => is_balanced(text),
            _ => false,
        };
        assert!(is_well_formed, "{section}: {language}: {text}");
    }
    let programs = [
        ("Home Assistant", "yaml"),
        ("openHAB", "text"),
        ("Domoticz", "toml"),
        ("ioBroker", "javascript"),
        ("Homebridge", "json"),
        ("Node-RED", "json"),
        ("Prometheus and Grafana", "yaml"),
        ("curl", "console"),
        ("PHP", "php"),
        ("Node.js", "javascript"),
        ("Tasker, Shortcuts and IFTTT", "text"),
    ];
    programs.iter().for_each(|(section, language)| drop(of(section, language)));
    assert!(!is_yaml("a:\n  - b: 1\n   c: 2\n") && !is_yaml("a: 1\n\tb: 2\n") && !is_yaml("a b\n"));
    assert!(!is_balanced("f(x[1)]") && !is_balanced("'a") && is_balanced("f('(') [ { } ]"));
}

/// Whether brackets and quotes are closed, in their order.
fn is_balanced(text: &str) -> bool {
    let mut open = Vec::new();
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(begin), c) if c == begin => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(c),
            (None, '(' | '[' | '{') => open.push(c),
            (None, ')' | ']' | '}') => {
                let Some(begin) = open.pop() else { return false };
                if !["()", "[]", "{}"].contains(&&*format!("{begin}{c}")) {
                    return false;
                }
            }
            _ => {}
        }
    }
    open.is_empty() && quote.is_none()
}

/// Whether the text is YAML of the kind on the page: block maps and lists with scalars on one line, indented by two.
fn is_yaml(text: &str) -> bool {
    // The indentations at which an entry may begin.
    let mut levels = vec![0];
    let mut opens = false;
    for line in text.lines() {
        let content = line.trim_start_matches(' ');
        let mut indent = line.len() - content.len();
        if opens && indent > *levels.last().unwrap() {
            levels.push(indent);
        }
        while levels.last().is_some_and(|level| *level > indent) {
            levels.pop();
        }
        let mut entry = content;
        if levels.last() != Some(&indent) || content.starts_with('\t') {
            return false;
        }
        while let Some(item) = entry.strip_prefix("- ") {
            indent += 2;
            levels.push(indent);
            entry = item;
        }
        let Some((key, value)) = entry.split_once(':') else { return false };
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_key || !(value.is_empty() || value.starts_with(' ')) || !is_balanced(value) {
            return false;
        }
        opens = value.is_empty();
    }
    true
}

/// The value of a key of such YAML, wherever it is.
fn yaml_value<'a>(text: &'a str, key: &str) -> &'a str {
    let lines = text.lines().map(|line| line.trim_start().trim_start_matches("- "));
    let value = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).next();
    value.unwrap_or_else(|| panic!("there is no {key} in {text}")).trim_matches(['\'', '"'])
}

#[test]
fn the_ports_of_the_page_are_the_defaults() {
    let config = config::Config::read("", &ConfigPath::Nowhere, &Environment::of([])).unwrap();
    let MqttChoice::Embedded { link, .. } = config.mqtt("test", std::path::Path::new("")) else { panic!() };
    let (mqtt, http) = (link.port.to_string(), config.http.unwrap().listen.to_string());
    assert_eq!(format!("http://{http}"), HERE);
    let http = http.rsplit(':').next().unwrap();
    let mut seen = BTreeMap::new();
    for marker in ["127.0.0.1:", "0.0.0.0:", "192.168.1.20:", "port=", "\"port\": \""] {
        for rest in PAGE.split(marker).skip(1) {
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            assert!([&*mqtt, http].contains(&&*port), "{marker}{port}");
            *seen.entry(port).or_insert(0) += 1;
        }
    }
    assert!(seen.len() == 2 && seen.values().all(|count| *count > 2), "{seen:?}");
}

/// A home with the plug of the page, which has a meter.
async fn home() -> SimHome {
    let mut options = home_options_of(&["Kitchen Kettle"]);
    options.plugs[0].0 = Model::HS110_HW1;
    SimHome::start(options).await.unwrap()
}

fn config_of(home: &SimHome) -> Config {
    let listen = format!("127.0.0.1:{}", free_port());
    Config::of(home).plug(PLUG, home, 0).set("http", "listen", listen)
}

/// The topics in a text, also in the form of ioBroker's ids.
fn topics_in(text: &str) -> Vec<String> {
    let text = text.replace("mqtt.0.hs100d.kitchen-kettle.", "hs100d/kitchen-kettle/");
    let is_topic = |c: &char| c.is_ascii_alphanumeric() || "-_/#+".contains(*c);
    let topics = text.match_indices("hs100d/").filter(|(at, _)| !text[..*at].ends_with(['/', '.', '-']));
    topics.map(|(at, _)| text[at..].chars().take_while(is_topic).collect()).collect()
}

#[tokio::test]
async fn every_topic_and_field_of_the_page_is_one_of_the_daemon() {
    let home = home().await;
    let scene = Scene::start(&config_of(&home)).await;
    let energy = |topic: &str| topic == "hs100d/kitchen-kettle/energy";
    until_retained(scene.port, "energy", |all| all.iter().any(|seen| energy(&seen.topic))).await;
    let published: BTreeMap<String, Value> = retained(scene.port)
        .await
        .into_iter()
        .map(|seen| (seen.topic, serde_json::from_str(&seen.payload).unwrap_or_default()))
        .collect();
    let field = |topic: &str, field: &str| {
        let document = published.get(topic).unwrap_or_else(|| panic!("{topic} is not published"));
        assert!(document.get(field).is_some(), "{topic} has no {field}: {document}");
    };

    let topics = Topics::new("hs100d");
    let mut count = 0;
    for topic in blocks().iter().flat_map(|block| topics_in(block.text)) {
        match topics.parse(&topic) {
            Some(ParsedTopic::Command { plug, part }) => {
                assert!(plug == PLUG && !matches!(part, CommandPart::Unknown(_)), "{topic}");
            }
            Some(ParsedTopic::Request(_)) => {}
            None => assert!(published.contains_key(&topic), "{topic} is not published"),
        }
        count += 1;
    }
    assert!(count >= 12, "only {count} topics were found");

    for line in of("openHAB", "text")[0].lines() {
        let Some((_, path)) = line.split_once("JSONPATH:$.") else { continue };
        field(&topics_in(line)[0], path.split('"').next().unwrap());
    }
    let homebridge: Value = serde_json::from_str(of("Homebridge", "json")[0]).unwrap();
    let get_on = &homebridge["topics"]["getOn"];
    let apply = get_on["apply"].as_str().unwrap();
    let read = apply.strip_prefix("return JSON.parse(message).").unwrap().trim_end_matches(';');
    field(get_on["topic"].as_str().unwrap(), read);
    let words = ["onValue", "offValue"].map(|key| homebridge[key].as_str().unwrap());
    assert_eq!((words, homebridge["onlineValue"].as_str()), (["ON", "OFF"], Some("online")));
    let nodes: Value = serde_json::from_str(of("Node-RED", "json")[0]).unwrap();
    let node = |kind: &str| nodes.as_array().unwrap().iter().find(|node| node["type"] == kind).unwrap();
    let moved = node("change")["rules"][0]["p"].as_str().unwrap().strip_prefix("payload.").unwrap();
    field(node("mqtt in")["topic"].as_str().unwrap(), moved);
    let ids: Vec<_> = nodes.as_array().unwrap().iter().map(|node| &node["id"]).collect();
    let wires = nodes.as_array().unwrap().iter().flat_map(|node| node["wires"][0].as_array()).flatten();
    assert!(wires.into_iter().all(|to| ids.contains(&to)) && ids.contains(&&node("mqtt out")["broker"]));
    let iobroker = of("ioBroker", "javascript")[0];
    assert!(iobroker.contains("JSON.parse(event.state.val).state === 'ON'"), "{iobroker}");
    field("hs100d/kitchen-kettle/state", "state");

    // The words that they send are commands.
    let script = of("Home Assistant", "yaml")[0];
    let mut sent: Value = serde_json::from_str(yaml_value(script, "payload")).unwrap();
    assert_eq!(yaml_value(script, "topic"), "hs100d/kitchen-kettle/set");
    let result = scene.command(PLUG, sent.take()).await;
    assert!(holds(&result, &json!({"status": "ok", "state": "ON"})), "{result}");
    let toggle = node("inject")["payload"].as_str().unwrap();
    for (word, state) in [(toggle, "OFF"), (words[0], "ON"), (words[1], "OFF")] {
        scene.subscriber.clear();
        scene.subscriber.publish("hs100d/kitchen-kettle/set", word);
        scene.subscriber.receives("hs100d/kitchen-kettle/result", &format!("\"state\":\"{state}\"")).await;
    }
}

/// A request of the page.
#[derive(Debug, Default)]
struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    /// From a line of curl, as a shell splits it.
    fn of_curl(line: &str) -> Self {
        let mut request = Self { method: "GET".to_owned(), ..Self::default() };
        let mut words = shell_words(line.strip_prefix("$ curl ").unwrap()).into_iter();
        while let Some(word) = words.next() {
            match &*word {
                "-X" => request.method = words.next().unwrap(),
                "-H" => {
                    let header = words.next().unwrap();
                    let (name, value) = header.split_once(": ").unwrap();
                    request.headers.push((name.to_owned(), value.to_owned()));
                }
                "-d" => (request.method, request.body) = ("POST".to_owned(), words.next().unwrap()),
                url => request.path = url.strip_prefix(HERE).unwrap().to_owned(),
            }
        }
        request
    }

    /// From the table of an app, or from a bare URL, which is a GET.
    fn of_table(text: &str) -> Self {
        let mut request = Self { method: "GET".to_owned(), ..Self::default() };
        for line in text.lines().map(|line| line.replace("TOKEN", TOKEN)) {
            match line.split_once(':').map(|(key, value)| (key, value.trim())) {
                Some(("Method", method)) => request.method = method.to_owned(),
                Some(("URL", url)) => request.path = path_of(url),
                Some(("Header", header)) => {
                    let (name, value) = header.split_once(": ").unwrap();
                    request.headers.push((name.to_owned(), value.to_owned()));
                }
                _ => request.path = path_of(&line),
            }
        }
        request
    }

    async fn send(&self, web: Web) -> Page {
        let ask = web.ask(&self.method, &self.path).body(self.body.clone());
        let headers = self.headers.iter();
        headers.fold(ask, |ask, (name, value)| ask.header(name, value)).send().await
    }
}

fn path_of(url: &str) -> String {
    let path = ELSEWHERE.iter().find_map(|host| url.strip_prefix(host));
    path.unwrap_or_else(|| panic!("{url} is not at a host of the page")).to_owned()
}

/// The words of a command line with quotes.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in line.chars() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') => words.push(String::new()),
            (_, c) => words.last_mut().unwrap().push(c),
        }
    }
    words
}

#[tokio::test]
async fn every_request_of_the_page_is_answered_and_switches_the_plug() {
    let home = home().await;
    let scene = Scene::start(&config_of(&home)).await;
    scene.shows(PLUG, json!({"state": "OFF"})).await;
    let web = Web::of(&scene.daemon).await;
    let at = format!("http://{}", web.address);
    for line in of("curl", "console").iter().flat_map(|text| text.lines()) {
        let request = Request::of_curl(line);
        let page = request.send(web).await;
        assert_eq!(page.status, 200, "{line}: {page:?}");
        if request.headers.iter().any(|(name, value)| name == "Accept" && value == "text/plain") {
            assert!(["ON", "OFF"].contains(&page.body.trim_end()), "{line}: {page:?}");
        } else {
            assert!(page.json().is_object(), "{line}: {page:?}");
        }
    }
    assert!(PAGE.contains("`curl -N http://127.0.0.1:8100/api/v1/events`"));
    let metrics = of("Prometheus and Grafana", "yaml");
    assert!(
        metrics.iter().all(|text| text.contains("  - job_name: hs100d\n") && text.contains("- targets: [\""))
    );
    assert_eq!(web.get("/metrics").await.status, 200);

    let node = of("Node.js", "javascript")[0];
    let sent = node.split("JSON.stringify(").nth(1).unwrap().split(')').next().unwrap();
    assert_eq!(sent, "{ state: 'ON', for: '30m' }");
    let set = web.post("/api/v1/plugs/kitchen-kettle/set", r#"{"state":"ON","for":"30m"}"#).await.json();
    assert!(["state", "route", "took_ms"].iter().all(|key| set.get(key).is_some()), "{set}");
    assert!(node.contains("'http://127.0.0.1:8100/api/v1/plugs/kitchen-kettle/set'"));
    let problem = web.post("/api/v1/plugs/kitchen-kettle/set", "DIM").await;
    assert!(problem.problem(400)["detail"].is_string(), "{problem:?}");
    run("node", &["--input-type=module"], node.replace(HERE, &at), "ON over the local route after ").await;
    let php = of("PHP", "php")[0];
    assert!(php.contains("'http://127.0.0.1:8100/api/v1/plugs/kitchen-kettle/toggle'"));
    assert_eq!(web.post("/api/v1/plugs/kitchen-kettle/toggle", "").await.status, 200);
    run("php", &[], php.replace(HERE, &at), "O").await;
}

/// Runs a program of the page, if this machine has the interpreter.
async fn run(interpreter: &str, words: &[&str], program: String, expected: &str) {
    let child = Command::new(interpreter).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        // Prints past the test harness, which hides the output of a passing test.
        let _ = writeln!(std::io::stderr(), "skipped: there is no {interpreter}");
        return;
    };
    child.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    // The home runs on this thread.
    let ending = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let output = within(&format!("the end of {interpreter}"), ending).await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && printed.starts_with(expected), "{interpreter}: {printed}");
}

#[tokio::test]
async fn every_request_from_another_machine_needs_the_token_and_switches_the_plug_with_it() {
    let home = home().await;
    let config = config_of(&home).set("http", "token", TOKEN).set("http", "simple_get", true);
    let config = config.set("http", "allowed_hosts", ["hs100d.example.com"]);
    let scene = Scene::start(&config).await;
    scene.shows(PLUG, json!({"state": "OFF"})).await;
    let web = Web::of(&scene.daemon).await;
    let tables = of("Tasker, Shortcuts and IFTTT", "text");
    assert_eq!(tables.len(), 3);
    for table in tables {
        let request = Request::of_table(table);
        let page = request.send(web).await;
        assert_eq!(page.status, 200, "{table}: {page:?}");
        let without = Request { headers: Vec::new(), path: request.path.replace(TOKEN, "x"), ..request };
        assert_eq!(without.send(web).await.status, 401, "{table}");
    }
}
