//! `/metrics` of the real program, as Prometheus' own tools read it, and what docs/METRICS.md and the dashboard say of it.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hs100d::sim::fault::LanFault;
use hs100d::sim::home::SimHome;
use hs100d::sim::model::Model;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::e2e::{Config, Scene, home_options_of};
use crate::support::mqtt::{has_promtool, within};
use crate::support::peers::peers;

/// Quotes, a backslash, a new line, and more bytes than letters.
const ALIAS: &str = "\"Tea\\pot\"\n💡 } 1";
/// How often the metrics are read while a test waits for a value.
const SCRAPE_AGAIN: Duration = Duration::from_millis(20);
const READ_TOKEN: &str = "a token that may only look";

/// A daemon that serves a plug of each kind, and the address of its HTTP interface.
struct Scraped {
    home: SimHome,
    scene: Scene,
    address: String,
}

impl Scraped {
    /// Waits until the last meter was read.
    async fn start() -> Self {
        let mut options = home_options_of(&[]);
        options.plugs = vec![
            (Model::HS100_HW1, ALIAS.to_owned()),
            (Model::HS110_HW1, "Kettle".to_owned()),
            (Model::HS300, "Strip".to_owned()),
        ];
        let home = SimHome::start(options).await.unwrap();
        let config = Config::of(&home)
            .set("http", "token", "a token that may do everything")
            .set("http", "read_token", READ_TOKEN)
            .set("local", "poll_interval", "1s")
            .set("local", "energy_interval", "5s");
        let scene = Scene::start(&config).await;
        let line = scene.daemon.says("http://127.0.0.1:").await;
        let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        let scraped = Self { home, scene, address };
        scraped
            .until("a power of the strip", |text| {
                text.contains("hs100d_plug_power_watts{plug=\"strip\"}")
                    && text.contains("hs100d_plug_energy_joules_total{plug=\"kettle\"}")
            })
            .await;
        scraped
    }

    /// The status line and the headers, and the body.
    async fn get(&self, accept: &str, authorization: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        // In HTTP 1.0 the body ends with the connection.
        let request = format!(
            "GET /metrics HTTP/1.0\r\nHost: {}\r\nAccept: {accept}\r\nAuthorization: {authorization}\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        within("a response", stream.read_to_string(&mut response)).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    async fn scrape(&self, accept: &str) -> String {
        let (head, body) = self.get(accept, &format!("Bearer {READ_TOKEN}")).await;
        assert!(head.starts_with("http/1.0 200"), "{head}");
        body
    }

    async fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        within(what, async {
            loop {
                let text = self.scrape("text/plain").await;
                if is_so(&text) {
                    return text;
                }
                tokio::time::sleep(SCRAPE_AGAIN).await;
            }
        })
        .await
    }
}

/// Runs a program with this input. Returns what it printed, if it succeeded.
fn run(mut command: Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let text = input.to_owned();
    let writer = std::thread::spawn(move || pipe.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {printed}");
    printed
}

/// What Prometheus' Python client reads: the kind of each metric, and the samples by name and labels.
fn parsed(peers: &Path, form: &str, text: &str) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
    let mut command = Command::new(peers.join("python/bin/python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/metrics.py")).arg(form);
    let read: Value = serde_json::from_str(&run(command, text)).unwrap();
    let kinds = read["kinds"].as_object().unwrap().iter();
    let kinds = kinds.map(|(name, kind)| (name.clone(), kind.as_str().unwrap().to_owned())).collect();
    let samples = read["samples"].as_array().unwrap().iter().map(|sample| {
        let key = format!("{}{}", sample[0].as_str().unwrap(), sample[1]);
        (key, sample[2].as_f64().unwrap_or(f64::NAN))
    });
    (kinds, samples.collect())
}

/// The kind of each metric, by its name in the form of Prometheus.
fn kinds(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

/// The names of the labels of each series, by the name of the series.
fn labels(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut labels: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for row in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = row.split_at(row.find(['{', ' ']).unwrap());
        // No value of a label here contains `="`.
        let names = rest.match_indices("=\"").map(|(end, _)| {
            let begin = rest[..end].rfind(['{', ',']).unwrap() + 1;
            &rest[begin..end]
        });
        labels.entry(name).or_default().extend(names);
    }
    labels
}

fn page(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[tokio::test]
async fn prometheus_reads_both_forms_and_finds_the_same_in_them() {
    // This may install them, meanwhile no simulated plug would answer.
    let peers = peers();
    let scraped = Scraped::start().await;
    let text = scraped.scrape("text/plain").await;
    let open_metrics = scraped.scrape("application/openmetrics-text; version=1.0.0").await;
    if has_promtool() {
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]);
        assert_eq!(run(promtool, &text), "", "promtool has something to say of\n{text}");
    }
    let Some(peers) = peers else { return };
    let (kinds, samples) = parsed(peers, "prometheus", &text);
    let (open_kinds, open_samples) = parsed(peers, "openmetrics", &open_metrics);
    let names = |samples: &BTreeMap<String, f64>| samples.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&samples), names(&open_samples));
    assert_eq!(open_kinds["hs100d_plug"], "info");
    for (name, kind) in kinds.iter().filter(|(_, kind)| *kind != "gauge") {
        assert_eq!(open_kinds[name], *kind, "{name}");
    }
    let info = samples.keys().find(|key| key.starts_with("hs100d_plug_info") && key.contains("HS100(EU)"));
    let labels: Value = serde_json::from_str(info.unwrap().trim_start_matches("hs100d_plug_info")).unwrap();
    assert_eq!(labels["alias"], ALIAS, "the alias comes through as it is");
}

#[tokio::test]
async fn a_scrape_needs_the_read_token_and_says_its_form() {
    let scraped = Scraped::start().await;
    let bearer = format!("Bearer {READ_TOKEN}");
    let (head, _) = scraped.get("*/*", &bearer).await;
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let (head, body) = scraped.get("application/openmetrics-text", &bearer).await;
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(body.ends_with("\n# EOF\n"), "{body}");
    for wrong in ["", "Bearer ", "Bearer a token that is not the one"] {
        let (head, body) = scraped.get("*/*", wrong).await;
        assert!(head.starts_with("http/1.0 401") && !body.contains("hs100d_"), "{wrong}: {head}\n{body}");
    }
}

#[tokio::test]
async fn the_rows_follow_the_plugs() {
    let scraped = Scraped::start().await;
    let Scraped { home, scene, .. } = &scraped;
    let row = |text: &str, begin: &str| text.lines().find(|line| line.starts_with(begin)).map(str::to_owned);
    let is_one = |text: &str, begin: &str| row(text, begin).is_some_and(|row| row.ends_with(" 1"));
    assert_eq!(scene.command("kettle", json!({"state": "ON"})).await["status"], "ok");
    let text = scraped.scrape("text/plain").await;
    assert!(is_one(&text, "hs100d_commands_total{plug=\"kettle\",route=\"local\",status=\"ok\"}"), "{text}");
    assert!(is_one(&text, "hs100d_command_duration_seconds_count{route=\"local\"}"), "{text}");
    assert!(is_one(&text, "hs100d_plug_on{plug=\"kettle\"}"), "{text}");
    assert!(is_one(&text, "hs100d_mqtt_connected{broker=\"embedded\"}"), "{text}");
    assert!(is_one(&text, "hs100d_cloud_state{state=\"ok\"}"), "{text}");
    assert!(is_one(&text, "hs100d_cloud_requests_total{method=\"login\",code_class=\"ok\"}"), "{text}");
    for outlet in ["strip-1", "strip-6"] {
        assert!(text.contains(&format!("hs100d_plug_power_watts{{plug=\"{outlet}\"}}")), "{text}");
    }
    // An unknown plug is a name that anybody can choose, so it is no label.
    scene.subscriber.publish("hs100d/nobody/set", "ON".to_owned());
    scene.subscriber.receives("hs100d/nobody/result", "error").await;

    home.lan().set_fault(home.plug(1), LanFault::Refused).await.unwrap();
    let text = scraped
        .until("the cloud", |text| is_one(text, "hs100d_plug_route{plug=\"kettle\",route=\"cloud\"}"))
        .await;
    assert!(is_one(&text, "hs100d_route_changes_total{plug=\"kettle\",to=\"cloud\"}"), "{text}");
    assert!(!text.contains("nobody"), "{text}");

    let forgotten = scene.request("forget", json!({"plug": "kettle"})).await;
    assert_eq!(forgotten["status"], "ok");
    let text = scraped.scrape("text/plain").await;
    assert!(!text.contains("plug=\"kettle\""), "{text}");
}

#[tokio::test]
async fn the_page_about_metrics_has_each_with_its_kind_and_labels() {
    let text = Scraped::start().await.scrape("text/plain").await;
    let (kinds, labels) = (kinds(&text), labels(&text));
    let page = page("docs/METRICS.md");
    let mut in_page = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| `hs100d_")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (name, kind) = (cells[1].trim_matches('`'), cells[2]);
        assert_eq!(kinds.get(name), Some(&kind), "{line}");
        let in_cell: BTreeSet<_> = cells[3].split('`').skip(1).step_by(2).collect();
        let series = if kind == "histogram" { format!("{name}_sum") } else { name.to_owned() };
        assert_eq!(labels.get(&*series), Some(&in_cell), "{line}");
        in_page.insert(name);
    }
    assert_eq!(in_page, kinds.keys().copied().collect(), "the page has every metric");
}

/// The expressions of a dashboard, those of its variables included.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(text) if key == "expr" || (key == "query" && text.contains("hs100d_")) => {
                        found.push(text.to_owned());
                    }
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The metrics of an expression, each with the labels of its selector.
fn selectors(expression: &str) -> Vec<(&str, Vec<&str>)> {
    let starts = expression.match_indices("hs100d_").map(|(at, _)| at);
    starts
        .map(|start| {
            let rest = &expression[start..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let selector = rest[end..].strip_prefix('{').and_then(|rest| Some(rest.split_once('}')?.0));
            let matchers = selector.into_iter().flat_map(|inner| inner.split(','));
            let names = matchers.map(|matcher| matcher.split(['=', '!']).next().unwrap_or_default().trim());
            (&rest[..end], names.collect())
        })
        .collect()
}

/// The labels that an expression groups or joins by.
fn groups(expression: &str) -> Vec<&str> {
    ["by (", "on (", "group_left (", "without ("]
        .into_iter()
        .flat_map(|word| expression.split(word).skip(1))
        .flat_map(|rest| rest.split(')').next().unwrap_or_default().split(','))
        .map(str::trim)
        .collect()
}

#[tokio::test]
async fn the_dashboard_uses_only_metrics_and_labels_that_exist() {
    let text = Scraped::start().await.scrape("text/plain").await;
    let existing = labels(&text);
    let dashboard: Value = serde_json::from_str(&page("contrib/grafana/hs100d.json")).unwrap();
    let mut all = Vec::new();
    expressions(&dashboard, &mut all);
    assert!(all.len() > 8, "{all:?}");
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (number, expression) in all.iter().enumerate() {
        let selectors = selectors(expression);
        assert!(!selectors.is_empty(), "{expression}");
        // The scrape configuration of a fleet gives this one.
        let mut known = BTreeSet::from(["site"]);
        for (name, labels) in selectors {
            let exist = existing.get(name).unwrap_or_else(|| panic!("{name} does not exist: {expression}"));
            known.extend(exist);
            // The list of the sites is that of all.
            let is_of_chosen = labels.contains(&"site") || expression.ends_with(", site)");
            assert!(is_of_chosen, "{name} is not of the chosen sites: {expression}");
            for label in labels.into_iter().filter(|label| *label != "site") {
                assert!(exist.contains(label), "{name} has no label {label}: {expression}");
            }
        }
        let groups = groups(expression);
        assert!(
            !groups.contains(&"plug") || groups.contains(&"site"),
            "plugs of two sites may have the same name: {expression}"
        );
        for label in groups {
            assert!(known.contains(label), "there is no label {label}: {expression}");
        }
        if !expression.starts_with("label_values(") {
            // A dashboard's own variables are no part of the language.
            let expression = with_all(expression);
            rules += &format!("  - record: dashboard:{number}\n    expr: {}\n", json!(expression));
        }
    }
    if has_promtool() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.yml");
        fs::write(&file, rules).unwrap();
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "rules"]).arg(&file);
        run(promtool, "");
    }
}

/// An expression of the dashboard while all sites and plugs are chosen.
fn with_all(expression: &str) -> String {
    expression.replace("$__rate_interval", "5m").replace("$plug", ".*").replace("$site", ".*")
}

/// The expression of a panel of the dashboard.
fn of_panel(dashboard: &Value, title: &str) -> String {
    let panels = dashboard["panels"].as_array().unwrap();
    let panel = panels.iter().find(|panel| panel["title"] == title && panel["type"] != "row").unwrap();
    with_all(panel["targets"][0]["expr"].as_str().unwrap())
}

/// Prometheus itself computes: two sites have a plug of the same name, and one more has no label, as a single daemon.
#[test]
fn the_dashboard_keeps_apart_what_two_sites_call_the_same() {
    if !has_promtool() {
        return;
    }
    let dashboard: Value = serde_json::from_str(&page("contrib/grafana/hs100d.json")).unwrap();
    let mut series = Vec::new();
    for (number, site) in [r#"site="north","#, r#"site="south","#, ""].into_iter().enumerate() {
        let lamp = format!(r#"{{{site}plug="lamp"}}"#);
        let info = format!(r#"hs100d_plug_info{{{site}plug="lamp",device_id="{number}"}}"#);
        series.push(json!({"series": info, "values": "1"}));
        series.push(
            json!({"series": format!("hs100d_plug_power_watts{lamp}"), "values": format!("{}", number + 10)}),
        );
        series.push(
            json!({"series": format!("hs100d_plug_online{lamp}"), "values": format!("{}", number % 2)}),
        );
        for route in ["local", "cloud"] {
            let series_of_route = format!(r#"hs100d_plug_route{{{site}plug="lamp",route="{route}"}}"#);
            let is_used = u8::from((route == "cloud") == (number == 1));
            series.push(json!({"series": series_of_route, "values": is_used.to_string()}));
        }
    }
    let sample = |labels: &str, value: usize| json!({"labels": labels, "value": value});
    let of_sites = |values: [usize; 3]| {
        let labels = [r#"{site="north",plug="lamp"}"#, r#"{site="south",plug="lamp"}"#, r#"{plug="lamp"}"#];
        labels.iter().zip(values).map(|(labels, value)| sample(labels, value)).collect::<Vec<_>>()
    };
    let tests = [
        ("Power now", vec![sample("{}", 10 + 11 + 12)]),
        ("Route of each plug", of_sites([1, 2, 1])),
        ("Plugs offline by site", vec![sample(r#"{site="north"}"#, 1), sample("{}", 1)]),
        (
            "Plugs over the cloud by site",
            vec![sample(r#"{site="north"}"#, 0), sample(r#"{site="south"}"#, 1), sample("{}", 0)],
        ),
    ];
    let tests = tests.map(|(title, expected)| {
        json!({"expr": of_panel(&dashboard, title), "eval_time": "0m", "exp_samples": expected})
    });
    // JSON is YAML as well.
    let text = json!({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]});
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dashboard.test.yml");
    fs::write(&file, text.to_string()).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["test", "rules"]).arg(&file);
    run(promtool, "");
}

#[tokio::test]
async fn prometheus_accepts_the_configs_in_the_page() {
    if !has_promtool() {
        return;
    }
    let page = page("docs/METRICS.md");
    let configs: Vec<_> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(configs.len(), 2);
    configs.into_iter().for_each(is_accepted);
}

fn is_accepted(config: &str) {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, READ_TOKEN).unwrap();
    let file = folder.path().join("prometheus.yml");
    let config = config.replace("/etc/prometheus/hs100d.token", token.to_str().unwrap());
    assert!(config.contains(token.to_str().unwrap()), "{config}");
    fs::write(&file, config).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "config"]).arg(&file);
    run(promtool, "");
}
