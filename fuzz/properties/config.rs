//! Config files, from their text to their meaning.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use hs100d::bridge::PlugSettings;
use hs100d::bridge::route::{RoutePolicy, RoutePreference};
use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::config::{BrokerConfig, Config, Invalid, LanAccount};
use hs100d::duration;
use hs100d::mqtt::BrokerAddress;
use hs100d::mqtt::homeassistant::DocumentForm;
use hs100d::mqtt::topics;
use hs100d::transport::cloud::host::check_host;
use toml::{Table, Value};

use super::texts::fits_a_line;

/// Stands for a password in the corpus.
const CANARY: &str = "hunter2";
/// The longest line about one fault, in bytes.
const LONGEST_COMPLAINT: usize = 1024;
/// Ten faults, and a line with the number of the others.
const MOST_COMPLAINTS: usize = 11;

/// The input is the text of a file.
pub fn hold(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let read = read(&text);
    match &read {
        Ok(config) => {
            config_holds(config);
            is_read_back(config);
            is_read_back(&with_other_times(config));
            for warning in &config.warnings {
                fits_a_line(warning, LONGEST_COMPLAINT);
            }
        }
        Err(Invalid { lines, .. }) => {
            assert!((1..=MOST_COMPLAINTS).contains(&lines.len()), "{lines:?}");
            lines.iter().for_each(|line| fits_a_line(line, LONGEST_COMPLAINT));
        }
    }
    no_secret_is_quoted(&text, &read);
}

fn read(text: &str) -> Result<Config, Invalid> {
    let place = ConfigPath::Named(PathBuf::from("/nonexistent/hs100d.toml"));
    Config::read(text, &place, &Environment::of([("SITE", "north"), ("ODD", "a+b/c")]))
}

fn config_holds(config: &Config) {
    assert!(topics::check_base(&config.base_topic).is_ok(), "{:?}", config.base_topic);
    assert!(topics::check_base(&config.homeassistant.discovery_prefix).is_ok());
    assert!(topics::check_topic(&config.homeassistant.status_topic).is_ok());
    assert!(config.local.port != 0);
    match &config.broker {
        BrokerConfig::Embedded { listen, users } => {
            assert!(listen.ip().is_loopback() || !users.is_empty(), "{listen}");
            assert!(users.iter().all(|user| !user.name.is_empty() && !user.password.expose().is_empty()));
        }
        BrokerConfig::Outside { host, port, others, .. } => {
            let other = others.iter().map(|other| (&other.host, &other.port));
            let brokers: Vec<_> = std::iter::once((host, port)).chain(other).collect();
            assert!(
                brokers.iter().all(|(host, port)| !host.is_empty() && **port != 0) && brokers.len() <= 16
            );
            assert!(
                brokers.iter().enumerate().all(|(n, broker)| !brokers[..n].contains(broker)),
                "{brokers:?}"
            );
        }
        BrokerConfig::Awaited { .. } => panic!("a file alone is read to the end"),
    }
    if let Some(cloud) = &config.cloud {
        check_host(&cloud.options.url).expect("a host that may have the password");
        lies_within(cloud.poll_interval, 5_000, 86_400_000);
    }
    if let Some(discovery) = &config.discovery {
        lies_within(discovery.interval, 5_000, 86_400_000);
        assert!(discovery.broadcast.iter().all(|ip| !ip.is_unspecified() && !ip.is_multicast()));
    }
    policy_holds(&config.bridge.policy, config);
    config.bridge.plugs.iter().for_each(|plug| plug_holds(plug, config));
    no_two_are_the_same(&config.bridge.plugs);
    assert!(config.bridge.known.is_empty() && config.bridge.cloud == config.cloud.is_some());
}

fn policy_holds(policy: &RoutePolicy, config: &Config) {
    lies_within(policy.cloud_after, 50, 30_000);
    lies_within(policy.command_ttl, 1_000, 600_000);
    lies_within(policy.poll_interval, 1_000, 3_600_000);
    lies_within(policy.energy_interval, 1_000, 86_400_000);
    lies_within(policy.local_timeout, 100, 30_000);
    match policy.preference {
        RoutePreference::Cloud => assert!(config.cloud.is_some()),
        RoutePreference::Local | RoutePreference::LocalThenCloud => assert!(config.local.enabled),
    }
}

fn plug_holds(plug: &PlugSettings, config: &Config) {
    policy_holds(&plug.policy, config);
    let says_who = plug.identity.device_id.is_some() || plug.identity.mac.is_some();
    assert!(
        says_who || plug.address.is_some() && plug.policy.preference != RoutePreference::Cloud,
        "{plug:?}"
    );
}

fn no_two_are_the_same(plugs: &[PlugSettings]) {
    let mut seen = HashSet::new();
    for plug in plugs {
        let names = plug.name.as_ref().map(|name| format!("name {name}"));
        let ids = plug.identity.device_id.as_ref().map(|id| format!("id {}", id.as_str()));
        let macs = plug.identity.mac.map(|mac| format!("mac {mac}"));
        let places = plug.address.as_ref().map(|place| format!("at {place}"));
        for value in [names, ids, macs, places].into_iter().flatten() {
            assert!(seen.insert(value.clone()), "{value} twice");
        }
    }
}

fn lies_within(duration: Duration, least: u128, most: u128) {
    assert!((least..=most).contains(&duration.as_millis()), "{duration:?}");
}

/// A config that is written with every key is read as the same config. The warnings may differ.
fn is_read_back(config: &Config) {
    let text = written(config);
    let again = read(&text).unwrap_or_else(|invalid| panic!("{invalid}\nin\n{text}"));
    let (warnings, diagnostics) = (config.warnings.clone(), config.diagnostics.clone());
    let without_warnings = Config { warnings, diagnostics, ..again };
    assert!(without_warnings == *config, "{without_warnings:#?}\nis not\n{config:#?}\nof\n{text}");
}

/// A key that the reader ignores would pass the test at its default, so no key has its default here.
fn with_other_times(config: &Config) -> Config {
    let times = |policy: RoutePolicy, step: u64| RoutePolicy {
        cloud_after: Duration::from_millis(800 + step),
        command_ttl: Duration::from_millis(11_000 + step),
        poll_interval: Duration::from_millis(6_000 + step),
        energy_interval: Duration::from_millis(16_000 + step),
        local_timeout: Duration::from_millis(4_000),
        ..policy
    };
    let mut other = config.clone();
    other.bridge.policy = times(config.bridge.policy, 0);
    for (step, plug) in (1..).zip(&mut other.bridge.plugs) {
        plug.policy = times(plug.policy, step);
    }
    other
}

fn written(config: &Config) -> String {
    let mut out = String::new();
    mqtt(config, &mut out);
    let documents = match config.homeassistant.discovery {
        DocumentForm::Device => "device",
        DocumentForm::Component => "component",
        DocumentForm::Off => "off",
    };
    put(&mut out, "homeassistant.discovery", text(documents));
    put(&mut out, "homeassistant.discovery_prefix", text(&config.homeassistant.discovery_prefix));
    put(&mut out, "homeassistant.status_topic", text(&config.homeassistant.status_topic));
    put(&mut out, "discovery.lan", config.discovery.is_some());
    put(&mut out, "discovery.adopt", config.bridge.adopt);
    if let Some(discovery) = &config.discovery {
        put(&mut out, "discovery.interval", time(discovery.interval));
        let broadcast = discovery.broadcast.iter().map(|ip| Value::from(ip.to_string()));
        put(&mut out, "discovery.broadcast", Value::Array(broadcast.collect()));
    }
    let policy = config.bridge.policy;
    put(&mut out, "local.enabled", config.local.enabled);
    put(&mut out, "local.port", i64::from(config.local.port));
    put(&mut out, "local.timeout", time(policy.local_timeout));
    put(&mut out, "local.poll_interval", time(policy.poll_interval));
    put(&mut out, "local.energy_interval", time(policy.energy_interval));
    let is_clouds = |account: &&LanAccount| {
        let cloud = config.cloud.as_ref().map(|cloud| &cloud.options.username);
        account.table == LanAccount::CLOUD && cloud == Some(&account.username)
    };
    if let Some(account) = config.lan_account.as_ref().filter(|account| !is_clouds(account)) {
        put(&mut out, "local.username", text(&account.username));
        let password = account.password.as_ref().filter(|_| account.table == LanAccount::LOCAL);
        put_some(&mut out, "local.password", password.map(|password| secret(password.expose())));
    }
    if let Some(cloud) = &config.cloud {
        put(&mut out, "cloud.username", text(&cloud.options.username));
        let password = cloud.options.password.as_ref();
        put_some(&mut out, "cloud.password", password.map(|password| secret(password.expose())));
        put(&mut out, "cloud.url", text(&cloud.options.url));
        put(&mut out, "cloud.poll_interval", time(cloud.poll_interval));
    }
    put(&mut out, "routing.policy", text(word(policy.preference)));
    put(&mut out, "routing.cloud_after", time(policy.cloud_after));
    put(&mut out, "routing.command_ttl", time(policy.command_ttl));
    config.bridge.plugs.iter().for_each(|settings| plug(settings, &mut out));
    out
}

fn mqtt(config: &Config, out: &mut String) {
    put_some(out, "mqtt.instance", config.instance.as_deref().map(text));
    put_some(out, "mqtt.client_id", config.client_id.as_deref().map(text));
    put(out, "mqtt.base_topic", text(&config.base_topic));
    match &config.broker {
        BrokerConfig::Embedded { listen, users } => {
            put(out, "broker.listen", text(&listen.to_string()));
            let pair = |(key, value): (&str, Value)| (key.to_owned(), value);
            let users = users.iter().map(|user| {
                let pairs = [("name", text(&user.name)), ("password", secret(user.password.expose()))];
                Value::Table(pairs.map(pair).into_iter().collect())
            });
            put(out, "broker.user", Value::Array(users.collect()));
        }
        BrokerConfig::Awaited { .. } => panic!("a file alone is read to the end"),
        BrokerConfig::Outside { host, port, others, tls, username, password } => {
            let scheme = if tls.is_some() { "mqtts" } else { "mqtt" };
            let first = BrokerAddress { host: host.clone(), port: *port };
            let urls: Vec<_> =
                std::iter::once(&first).chain(others).map(|at| text(&format!("{scheme}://{at}"))).collect();
            let url =
                if others.is_empty() { text(&format!("{scheme}://{first}")) } else { Value::Array(urls) };
            put(out, "mqtt.url", url);
            put_some(out, "mqtt.username", username.as_deref().map(text));
            put_some(out, "mqtt.password", password.as_ref().map(|password| secret(password.expose())));
            let tls = tls.clone().unwrap_or_default();
            let (cert, key) = tls.client.unzip();
            let files = [("ca_file", tls.ca_file), ("client_cert_file", cert), ("client_key_file", key)];
            for (key, file) in files {
                let file = file.map(|file| text(file.to_str().expect("it came out of a text")));
                put_some(out, &format!("mqtt.{key}"), file);
            }
        }
    }
}

fn plug(settings: &PlugSettings, out: &mut String) {
    out.push_str("[[plug]]\n");
    put_some(out, "name", settings.name.as_ref().map(|name| text(name.as_str())));
    put_some(out, "device_id", settings.identity.device_id.as_ref().map(|id| text(id.as_str())));
    put_some(out, "mac", settings.identity.mac.map(|mac| text(&mac.to_string())));
    put_some(out, "host", settings.address.as_ref().map(|address| text(&address.to_string())));
    put(out, "route", text(word(settings.policy.preference)));
    put(out, "cloud_after", time(settings.policy.cloud_after));
    put(out, "command_ttl", time(settings.policy.command_ttl));
    put(out, "poll_interval", time(settings.policy.poll_interval));
    put(out, "energy_interval", time(settings.policy.energy_interval));
}

fn put(out: &mut String, key: &str, value: impl Into<Value>) {
    writeln!(out, "{key} = {}", value.into()).expect("memory takes it");
}

fn put_some(out: &mut String, key: &str, value: Option<Value>) {
    value.into_iter().for_each(|value| put(out, key, value));
}

/// Whatever looks like a placeholder is none.
fn text(text: &str) -> Value {
    text.replace("${", "$${").into()
}

/// Secrets have no placeholders.
fn secret(text: &str) -> Value {
    text.into()
}

fn time(duration: Duration) -> Value {
    duration::show(duration).into()
}

fn word(policy: RoutePreference) -> &'static str {
    match policy {
        RoutePreference::LocalThenCloud => "local-then-cloud",
        RoutePreference::Local => "local",
        RoutePreference::Cloud => "cloud",
    }
}

/// No password is quoted, whether it is under its own key or under an unknown one; and nothing is quoted of a text that
/// is not TOML.
fn no_secret_is_quoted(text: &str, read: &Result<Config, Invalid>) {
    let message = match read {
        Ok(config) => config.warnings.join("\n") + &format!("{config:?}"),
        Err(invalid) => invalid.to_string(),
    };
    match text.parse::<Table>() {
        Err(_) => assert!(!message.contains(CANARY), "{message}"),
        Ok(table) => {
            for secret in secrets(&table) {
                // A word that also occurs elsewhere in the file may be quoted for that.
                if text.matches(secret).count() == 1 {
                    assert!(!message.contains(secret), "{message}");
                }
            }
        }
    }
}

/// Passwords that are too long to be part of our own texts.
fn secrets(table: &Table) -> Vec<&str> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => found.extend(secrets(inner)),
            Value::String(text) if key.contains("passw") && !key.contains("file") => {
                found.push(text.as_str())
            }
            Value::Array(items) if matches!(key.as_str(), "plug" | "user") => {
                found.extend(items.iter().filter_map(Value::as_table).flat_map(secrets));
            }
            _ => {}
        }
    }
    found.retain(|secret| secret.contains(CANARY));
    found
}
