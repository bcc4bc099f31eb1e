//! The options of the app, which the Supervisor writes to a file before each start, as values that are laid over the config.
//!
//! An option that is empty or null counts as not set: the form in the browser leaves such ones behind. The values themselves are
//! checked with the config. No message quotes a value that may be secret.

use std::fs::File;
use std::net::Ipv6Addr;
use std::path::Path;

use serde_json::{Map, Value};

use crate::config::{Invalid, OptionName, Overlay};
use crate::model::shown;
use crate::secret::{Secret, SecretBuf};

/// The largest file that is read, in bytes: a thousand plugs need a quarter of it.
const LARGEST: u64 = 1 << 20;
/// The most characters of a name or a word that are repeated.
const SHOWN: usize = 60;
/// The levels of the log, and how often `-v` would be given for each; `-q` counts as less than none.
const LEVELS: [(&str, i8); 5] = [("error", -2), ("warn", -1), ("info", 0), ("debug", 1), ("trace", 2)];
/// The routes of a plug, as in the config.
const ROUTES: [(&str, Option<&str>); 3] =
    [("auto", None), ("local", Some("local")), ("cloud", Some("cloud"))];
const PASSWORD: [&str; 2] = ["password", "password_file"];
/// Where the broker is, and the login there.
const BROKER: [&str; 4] = ["url", "username", "password", "password_file"];
const TLS_FILES: [&str; 3] = ["ca_file", "client_cert_file", "client_key_file"];

/// The options, read.
#[derive(Debug, Default)]
pub(crate) struct AppOptions {
    /// For the config.
    pub(crate) overlay: Overlay,
    /// How much is logged, as a number of `-v`.
    pub(crate) verbosity: i8,
    /// One line for each option that has no effect.
    pub(crate) warnings: Vec<String>,
}

impl AppOptions {
    /// Reads the file.
    ///
    /// # Errors
    /// One line for each fault.
    pub(crate) fn load(path: &Path) -> Result<Self, Invalid> {
        let fault = |what: &str| Invalid::of_lines(vec![format!("{}: {what}", path.display())]);
        let bytes =
            File::open(path).and_then(|file| SecretBuf::read(file, LARGEST + 1)).map_err(|error| {
                fault(&format!(
                    "cannot be read: {error}: the Supervisor writes it before each start; restart the app"
                ))
            })?;
        if bytes.len() as u64 > LARGEST {
            return Err(fault("is larger than 1 MiB: remove options"));
        }
        let root: Value = serde_json::from_slice(&bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            fault(&format!(
                "is not JSON from line {line}, column {column} on: save the options again, and restart the app"
            ))
        })?;
        let Value::Object(root) = root else {
            return Err(fault("is not a JSON object: save the options again, and restart the app"));
        };
        Self::read(root)
    }

    /// Reads the options themselves.
    ///
    /// # Errors
    /// One line for each fault.
    fn read(root: Map<String, Value>) -> Result<Self, Invalid> {
        let mut found = Findings::default();
        let mut root = OptionGroup { name: "", index: None, entries: root, found: &mut found };
        let verbosity = root.word("log", &LEVELS).unwrap_or_default();
        let mut overlay = Overlay::awaiting_broker();
        if let Some(form) = root.text("discovery") {
            overlay.set("homeassistant", "discovery", form, root.option("discovery"));
        }
        root.group("cloud", |cloud| account(cloud, &mut overlay));
        root.group("mqtt", |mqtt| broker(mqtt, &mut overlay));
        root.list("plugs", |entry| plug(entry, &mut overlay));
        root.end();
        let Findings { faults, warnings } = found;
        if faults.is_empty() {
            Ok(Self { overlay, verbosity, warnings })
        } else {
            Err(Invalid::of_lines(faults))
        }
    }
}

/// An account is an address and its password: neither is mixed with the other account of the file.
fn account(cloud: &mut OptionGroup<'_>, overlay: &mut Overlay) {
    let (email, password) = (cloud.text("email"), cloud.text("password"));
    match (&email, &password) {
        (None, Some(_)) => cloud.fault("email", "is missing: fill it in, or remove the password"),
        (None, None) => return,
        (Some(_), _) => {}
    }
    overlay.remove("cloud", &PASSWORD);
    for (key, name, value) in [("username", "email", email), ("password", "password", password)] {
        if let Some(value) = value {
            overlay.set("cloud", key, value, cloud.option(name));
        }
    }
}

fn broker(mqtt: &mut OptionGroup<'_>, overlay: &mut Overlay) {
    let (host, port) = (mqtt.text("host"), mqtt.port("port"));
    let (username, password) = (mqtt.text("username"), mqtt.text("password"));
    if let Some(host) = host {
        let url = url(host.expose(), port);
        // The login and the certificates of the file are for its broker.
        overlay.remove("mqtt", &BROKER);
        if !url.starts_with("mqtts:") {
            overlay.remove("mqtt", &TLS_FILES);
        }
        overlay.set("mqtt", "url", Secret::new(url), mqtt.option("host"));
    } else if port.is_some() {
        mqtt.warn("port", "has no effect without mqtt.host: fill that in, or remove it");
    }
    if username.is_some() || password.is_some() {
        overlay.remove("mqtt", &PASSWORD);
    }
    for (key, value) in [("username", username), ("password", password)] {
        if let Some(value) = value {
            overlay.set("mqtt", key, value, mqtt.option(key));
        }
    }
}

/// As in the config. A host with a scheme is one already.
fn url(host: &str, port: Option<u16>) -> String {
    let scheme = if host.contains("://") { "" } else { "mqtt://" };
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("{scheme}[{address}]{port}"),
        Err(_) => format!("{scheme}{host}{port}"),
    }
}

fn plug(entry: &mut OptionGroup<'_>, overlay: &mut Overlay) {
    let mut keys = Vec::new();
    for key in ["name", "host", "device_id", "mac"] {
        if let Some(value) = entry.text(key) {
            keys.push((key, Some(value), entry.option(key)));
        }
    }
    if let Some(route) = entry.word("route", &ROUTES) {
        let route = route.map(|route| Secret::new(route.to_owned()));
        keys.extend([("policy", None, entry.option("route")), ("route", route, entry.option("route"))]);
    }
    if keys.is_empty() {
        entry.warn("", "is empty and has no effect: fill it in, or remove it");
    } else {
        overlay.plug(keys);
    }
}

/// What reading has found.
#[derive(Debug, Default)]
struct Findings {
    faults: Vec<String>,
    warnings: Vec<String>,
}

/// One group of options. They are taken out by their keys.
struct OptionGroup<'a> {
    name: &'static str,
    /// Its place in a list.
    index: Option<usize>,
    entries: Map<String, Value>,
    found: &'a mut Findings,
}

impl OptionGroup<'_> {
    fn option(&self, key: &'static str) -> OptionName {
        OptionName { group: self.name, index: self.index, key }
    }

    fn fault(&mut self, key: &'static str, what: &str) {
        let line = format!("options: {}: {what}", self.option(key));
        self.found.faults.push(line);
    }

    fn warn(&mut self, key: &'static str, what: &str) {
        let line = format!("options: {}: {what}", self.option(key));
        self.found.warnings.push(line);
    }

    /// The value of an option that is set.
    fn take(&mut self, key: &str) -> Option<Value> {
        let is_empty = |value: &Value| value.is_null() || value.as_str().is_some_and(str::is_empty);
        self.entries.remove(key).filter(|value| !is_empty(value))
    }

    fn text(&mut self, key: &'static str) -> Option<Secret> {
        match self.take(key)? {
            Value::String(text) => Some(Secret::new(text)),
            other => {
                self.fault(key, &format!("must be text (is {})", kind(&other)));
                None
            }
        }
    }

    fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let all = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let what = match self.take(key)? {
            Value::String(text) => match words.iter().find(|(word, _)| *word == text) {
                Some((_, meaning)) => return Some(*meaning),
                None => format!("must be one of {all} (is {:?})", shown(&text, SHOWN)),
            },
            other => format!("must be one of {all} (is {})", kind(&other)),
        };
        self.fault(key, &what);
        None
    }

    fn port(&mut self, key: &'static str) -> Option<u16> {
        let value = self.take(key)?;
        let port = value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        if port.is_none() {
            let is = value
                .as_number()
                .map_or_else(|| kind(&value).to_owned(), |number| shown(&number.to_string(), SHOWN));
            self.fault(key, &format!("must be a number between 1 and 65535 (is {is})"));
        }
        port
    }

    fn group(&mut self, key: &'static str, read: impl FnOnce(&mut OptionGroup<'_>)) {
        match self.take(key) {
            Some(Value::Object(entries)) => {
                let mut group = OptionGroup { name: key, index: None, entries, found: &mut *self.found };
                read(&mut group);
                group.end();
            }
            Some(other) => self.fault(key, &format!("must be a group of options (is {})", kind(&other))),
            None => {}
        }
    }

    fn list(&mut self, key: &'static str, mut read: impl FnMut(&mut OptionGroup<'_>)) {
        let items = match self.take(key) {
            Some(Value::Array(items)) => items,
            Some(other) => return self.fault(key, &format!("must be a list (is {})", kind(&other))),
            None => return,
        };
        for (index, item) in items.into_iter().enumerate() {
            let (entries, other) = match item {
                Value::Object(entries) => (entries, None),
                other => (Map::new(), Some(kind(&other))),
            };
            let mut group = OptionGroup { name: key, index: Some(index), entries, found: &mut *self.found };
            match other {
                Some(kind) => group.fault("", &format!("must be a group of options (is {kind})")),
                None => {
                    read(&mut group);
                    group.end();
                }
            }
        }
    }

    /// Warns of every option that is left, as the Supervisor does.
    fn end(&mut self) {
        let (name, gap) = (self.option("").to_string(), if self.name.is_empty() { "" } else { "." });
        for key in self.entries.keys() {
            let key = shown(key, SHOWN);
            self.found
                .warnings
                .push(format!("options: {name}{gap}{key}: is not known and has no effect: remove it"));
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a group of options",
    }
}
