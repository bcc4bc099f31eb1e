//! The meaning of a valid config: the defaults, what is inherited, where passwords come from.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hs100d::bridge::route::{RoutePolicy, RoutePreference};
use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::config::{self, BrokerConfig, Config, LanAccount, MqttChoice};
use hs100d::model::{Address, PlugName};
use hs100d::mqtt::homeassistant::DocumentForm;
use hs100d::secret::Secret;

/// A directory with a config that only its owner may read.
struct Written {
    directory: tempfile::TempDir,
}

impl Written {
    fn new(text: &str) -> Self {
        let written = Self { directory: tempfile::tempdir().unwrap() };
        written.file("hs100d.toml", text, 0o600);
        written
    }

    fn file(&self, name: &str, text: &str, mode: u32) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn place(&self) -> ConfigPath {
        ConfigPath::Named(self.directory.path().join("hs100d.toml"))
    }

    fn load(&self, environment: &Environment) -> Config {
        Config::load(&self.place(), environment).unwrap_or_else(|invalid| panic!("{invalid}"))
    }
}

fn load(text: &str) -> Config {
    Written::new(text).load(&Environment::default())
}

fn mqtt_password(config: &Config) -> Option<&str> {
    match &config.broker {
        BrokerConfig::Outside { password, .. } => password.as_ref().map(|secret| secret.expose()),
        BrokerConfig::Embedded { .. } | BrokerConfig::Awaited { .. } => None,
    }
}

/// The head of a config with an external broker; lines about its password go below it.
const BROKER: &str = "[mqtt]\nurl = \"mqtt://broker.lan\"\nusername = \"me\"\n";

#[test]
fn without_a_file_the_defaults_of_the_interface_hold() {
    let config = Config::load(&ConfigPath::Nowhere, &Environment::default()).unwrap();
    assert_eq!(config, load(""), "an empty file says nothing either");
    assert_eq!(
        config.broker,
        BrokerConfig::Embedded { listen: "127.0.0.1:1883".parse().unwrap(), users: Vec::new() }
    );
    assert_eq!((config.base_topic.as_str(), &config.client_id), ("hs100d", &None));
    assert_eq!(config.homeassistant.discovery, DocumentForm::Device);
    assert_eq!(config.homeassistant.discovery_prefix, "homeassistant");
    assert_eq!(config.homeassistant.status_topic, "homeassistant/status");
    let discovery = config.discovery.unwrap();
    assert_eq!((discovery.interval, discovery.port), (Duration::from_secs(60), 9999));
    assert!(discovery.broadcast.is_empty());
    assert!(config.local.enabled && config.local.port == 9999);
    assert_eq!(config.cloud, None);
    assert_eq!(config.bridge.policy, RoutePolicy::default());
    assert!(config.bridge.adopt && !config.bridge.cloud && config.bridge.plugs.is_empty());
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn the_example_is_a_good_config_of_nothing_but_defaults() {
    let config = load(include_str!("../../examples/hs100d.toml"));
    assert_eq!(config, load(""));
}

#[test]
fn the_example_is_still_good_with_every_key_that_it_shows_switched_on() {
    let example = include_str!("../../examples/hs100d.toml");
    let is_key = |rest: &str| {
        rest.starts_with('[') || rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let all_on: Vec<&str> = example
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line))
        // Only one of the two keys for a password, and only files that exist.
        .filter(|line| !["password =", "token =", "read_token ="].iter().any(|key| line.starts_with(key)))
        .collect();
    let text = all_on.join("\n").replace("/etc/hs100d/", "");
    let written = Written::new(&text);
    for name in ["mqtt.password", "cloud.password", "local.password", "ca.pem", "client.pem", "client.key"] {
        written.file(name, "hunter2\n", 0o600);
    }
    for name in ["cloud.v2.access-key", "cloud.v2.secret-key", "tplink-ca.pem"] {
        written.file(name, "made-up\n", 0o600);
    }
    for name in ["http.token", "http.read_token"] {
        written.file(name, "hunter2-hunter2-hunter2\n", 0o600);
    }
    let config = written.load(&Environment::default());
    assert_eq!(config.bridge.plugs.len(), 1);
    assert!(config.cloud.is_some() && mqtt_password(&config) == Some("hunter2"));
    assert_eq!(config.bridge.plugs[0].policy, RoutePolicy::default(), "the plug's examples are the defaults");
}

#[test]
fn the_example_mentions_every_key_in_its_table() {
    let mut table = "";
    let mut mentioned = HashSet::new();
    for line in include_str!("../../examples/hs100d.toml").lines() {
        let line = line.trim_start_matches("# ");
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_matches(['[', ']']);
        } else if let Some((key, _)) = line.split_once(" = ") {
            mentioned.insert(format!("{table}.{key}"));
        }
    }
    let keys = config::keys();
    assert!(keys.len() > 30, "{keys:?}");
    // The second name of plug.route, which the example mentions in a comment.
    let missing: Vec<_> =
        keys.iter().filter(|key| !mentioned.contains(*key) && *key != "plug.policy").collect();
    assert!(missing.is_empty(), "the example does not mention {missing:?}");
}

#[test]
fn every_room_is_told_what_was_written_for_it() {
    let written = Written::new(
        r#"
        [mqtt]
        url = "mqtts://broker.lan"
        username = "me"
        password = "pw"
        client_id = "pi"
        base_topic = "home/plugs"
        will_delay = "2s"
        ca_file = "ca.pem"
        client_cert_file = "c.pem"
        client_key_file = "k.pem"
        [homeassistant]
        discovery = "component"
        [discovery]
        adopt = false
        interval = "30s"
        broadcast = ["192.168.7.255"]
        [local]
        port = 9998
        timeout = "2s"
        poll_interval = "7s"
        energy_interval = "1m"
        [cloud]
        username = "me@example.com"
        password = "cloudy"
        url = "https://eu-wap.tplinkcloud.com/"
        app_type = "Kasa_iOS"
        app_version = "3.4.451"
        poll_interval = "2m"
        [routing]
        cloud_after = "1s"
        command_ttl = "20s"
        [[plug]]
        name = "kettle"
        host = "192.168.1.20"
        device_id = "8006aa"
        [[plug]]
        mac = "50:c7:bf:00:00:01"
        host = "plug.lan:9997"
        route = "local"
        command_ttl = "3s"
        poll_interval = "1s"
        "#
        .replace("8006aa", &"8006aa".repeat(7)[..40])
        .as_str(),
    );
    for name in ["ca.pem", "c.pem", "k.pem"] {
        written.file(name, "x", 0o600);
    }
    let config = written.load(&Environment::default());
    assert_eq!(config.warnings, [""; 0]);

    let MqttChoice::Outside(link) = config.mqtt("0badcafe", Path::new("/state")) else { panic!("outside") };
    assert_eq!((link.host.as_str(), link.port), ("broker.lan", 8883));
    let tls = link.tls.unwrap();
    assert_eq!(
        tls.ca_file.unwrap(),
        written.directory.path().join("ca.pem"),
        "paths begin at the config file"
    );
    assert!(tls.client.unwrap().1.ends_with("k.pem"));
    assert_eq!((link.username.as_deref(), link.password.unwrap().expose()), (Some("me"), "pw"));
    assert_eq!((link.client_id.as_str(), link.base_topic.as_str()), ("pi", "home/plugs"));
    assert_eq!(link.will_delay, Duration::from_secs(2));
    assert_eq!(link.homeassistant.discovery, DocumentForm::Component);

    let discovery = config.discovery.unwrap();
    assert_eq!((discovery.interval, discovery.port), (Duration::from_secs(30), 9998));
    assert_eq!(discovery.broadcast, [Ipv4Addr::new(192, 168, 7, 255)]);
    let cloud = config.cloud.unwrap();
    assert_eq!(cloud.options.url, "https://eu-wap.tplinkcloud.com");
    assert_eq!(cloud.options.password.unwrap().expose(), "cloudy");
    let app = cloud.options.app;
    assert_eq!((app.app_type.as_str(), app.version.as_deref()), ("Kasa_iOS", Some("3.4.451")));

    let all = RoutePolicy {
        preference: RoutePreference::LocalThenCloud,
        cloud_after: Duration::from_secs(1),
        command_ttl: Duration::from_secs(20),
        poll_interval: Duration::from_secs(7),
        cloud_poll_interval: Duration::from_secs(120),
        energy_interval: Duration::from_secs(60),
        local_timeout: Duration::from_secs(2),
        ..RoutePolicy::default()
    };
    assert_eq!(config.bridge.policy, all);
    let [kettle, other] = &config.bridge.plugs[..] else { panic!("two plugs") };
    assert_eq!(kettle.name, Some(PlugName::new("kettle").unwrap()));
    assert_eq!(kettle.address, Address::new("192.168.1.20", 9998), "local.port is the default port");
    assert_eq!(kettle.policy, all);
    assert_eq!(other.address, Address::new("plug.lan:9997", 1));
    let own = RoutePolicy {
        preference: RoutePreference::Local,
        command_ttl: Duration::from_secs(3),
        poll_interval: Duration::from_secs(1),
        ..all
    };
    assert_eq!(other.policy, own);
}

#[test]
fn without_a_url_the_link_leads_to_the_embedded_broker() {
    let config = load("[broker]\nlisten = \"[::1]:1999\"");
    let MqttChoice::Embedded { broker, link } = config.mqtt("0badcafe", Path::new("/state")) else {
        panic!("own")
    };
    assert_eq!(
        (broker.listen.to_string().as_str(), broker.state_dir.as_path()),
        ("[::1]:1999", Path::new("/state"))
    );
    assert_eq!((link.host.as_str(), link.port, link.tls), ("::1", 1999, None));
    assert_eq!((link.client_id.as_str(), link.instance.as_str()), ("hs100d-0badcafe", "0badcafe"));
}

#[test]
fn a_plug_says_its_policy_as_route_or_as_in_routing() {
    for key in ["route", "policy"] {
        let config = load(&format!("[[plug]]\nhost = \"h\"\n{key} = \"local\""));
        assert_eq!(config.bridge.plugs[0].policy.preference, RoutePreference::Local);
    }
}

#[test]
fn without_the_lan_the_default_policy_is_the_cloud_and_nobody_looks_on_the_lan() {
    let config =
        load("[local]\nenabled = false\n[cloud]\nusername = \"a\"\n[[plug]]\nmac = \"50C7BF000001\"");
    assert_eq!((config.bridge.policy.preference, config.discovery), (RoutePreference::Cloud, None));
    assert_eq!(config.bridge.plugs[0].policy.preference, RoutePreference::Cloud);
}

#[test]
fn a_password_survives_whatever_stands_in_it() {
    let hard = "\"'\\/{}$ü #=\t";
    let quoted = format!("{:?}", hard).replace("\\'", "'");
    assert_eq!(mqtt_password(&load(&format!("{BROKER}password = {quoted}"))), Some(hard));

    let written = Written::new(&format!("{BROKER}password_file = \"mqtt.password\""));
    written.file("mqtt.password", &format!("{hard}\n"), 0o600);
    assert_eq!(mqtt_password(&written.load(&Environment::default())), Some(hard));
}

const SIGNED: &str =
    "[cloud]\nusername = \"a\"\n[cloud.v2]\naccess_key_file = \"a.key\"\nsecret_key_file = \"s.key\"\n";

#[test]
fn with_both_keys_the_second_interface_is_used_and_without_them_the_first() {
    let written =
        Written::new(&format!("{SIGNED}ca_file = \"ca.pem\"\nurl = \"https://n-wap.tplinkcloud.com\"\n"));
    for name in ["a.key", "s.key", "ca.pem"] {
        written.file(name, &format!("made-up-{name}\n"), 0o600);
    }
    let config = written.load(&Environment::default());
    assert_eq!(config.warnings, [""; 0]);
    let options = config.cloud.unwrap().options;
    let keys = options.keys.as_ref().unwrap();
    let pair = (keys.access_key.expose(), keys.secret_key.expose());
    assert_eq!(pair, ("made-up-a.key", "made-up-s.key"));
    assert_eq!(
        (options.url.as_str(), options.app.app_type.as_str()),
        ("https://n-wap.tplinkcloud.com", "Kasa_Android_Mix")
    );
    assert!(options.ca_file.as_ref().unwrap().ends_with("ca.pem"));
    assert!(!format!("{options:?}").contains("made-up"));

    let config = load("[cloud]\nusername = \"a\"\n[cloud.v2]\nurl = \"https://n-wap.tplinkcloud.com\"\n");
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(
        warning.contains("cloud.v2.url: has no effect without access_key_file and secret_key_file"),
        "{warning}"
    );
    let options = config.cloud.unwrap().options;
    assert_eq!((options.keys, options.url.as_str()), (None, "https://wap.tplinkcloud.com"));
    assert_eq!(options.app.app_type, "Kasa_Android");
}

#[test]
fn each_fault_of_a_key_is_one_line_that_quotes_no_key() {
    let open = "may read it: chmod o-r";
    let (access, secret) = ("cloud.v2.access_key_file: ", "cloud.v2.secret_key_file: ");
    for (a_key, s_key, mode, key, fault) in [
        (Some("made-up"), None, 0o600, secret, "s.key"),
        (Some("made-up"), Some(""), 0o600, secret, "is empty"),
        (Some("made-up"), Some("two\nlines"), 0o600, secret, "in more than one line"),
        (Some("made up"), Some("made-up"), 0o600, access, "is not a key"),
        (Some("made-up"), Some("made-up"), 0o644, access, open),
    ] {
        let written = Written::new(SIGNED);
        for (name, text) in [("a.key", a_key), ("s.key", s_key)] {
            if let Some(text) = text {
                written.file(name, text, mode);
            }
        }
        let lines = match Config::load(&written.place(), &Environment::default()) {
            Ok(config) => config.warnings[..1].to_vec(),
            Err(invalid) => invalid.lines,
        };
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.contains(key) && line.contains(fault), "{line}");
        assert!(!line.contains("made-up") && !line.contains("made up"), "{line}");
    }
}

#[test]
fn a_key_without_the_other_is_a_fault_wherever_it_comes_from() {
    let written = Written::new("[cloud]\nusername = \"a\"\n[cloud.v2]\naccess_key_file = \"a.key\"\n");
    written.file("a.key", "made-up", 0o600);
    let invalid = Config::load(&written.place(), &Environment::default()).unwrap_err();
    assert_eq!(invalid.lines.len(), 1, "{invalid}");
    assert!(
        invalid.lines[0].contains(":4: cloud.v2.secret_key_file: is missing: the two keys go together"),
        "{invalid}"
    );

    let credentials = tempfile::tempdir().unwrap();
    let environment = Environment::of([("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())]);
    let plain = Written::new("[cloud]\nusername = \"a\"\n");
    fs::write(credentials.path().join("cloud.v2.access-key"), "\n").unwrap();
    fs::write(credentials.path().join("cloud.v2.secret-key"), "made-up-s\n").unwrap();
    let invalid = Config::load(&plain.place(), &environment).unwrap_err();
    assert!(invalid.lines[0].contains("cloud.v2.access_key_file: is missing"), "{invalid}");
    assert!(invalid.lines[0].contains("the credential cloud.v2.access-key"), "{invalid}");
    assert!(written.load(&environment).cloud.unwrap().options.keys.is_some(), "one of each");
    fs::write(credentials.path().join("cloud.v2.access-key"), "made-up-a\n").unwrap();
    assert!(plain.load(&environment).cloud.unwrap().options.keys.is_some());
    assert_eq!(load("").cloud, None);
}

#[test]
fn a_credential_serves_where_nothing_was_written_and_only_there() {
    let credentials = tempfile::tempdir().unwrap();
    let environment = Environment::of([("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())]);
    let with_cloud = format!("{BROKER}[cloud]\nusername = \"a\"\n");
    let passwords = |text: &str| {
        let config = Written::new(text).load(&environment);
        let cloud = config.cloud.as_ref().and_then(|cloud| cloud.options.password.clone());
        (mqtt_password(&config).map(str::to_owned), cloud.map(|secret| secret.expose().to_owned()))
    };
    assert_eq!(passwords(&with_cloud), (None, None), "the directory is empty");

    fs::write(credentials.path().join("mqtt.password"), "for mqtt\n").unwrap();
    fs::write(credentials.path().join("cloud.password"), "for the cloud").unwrap();
    let both = (Some("for mqtt".to_owned()), Some("for the cloud".to_owned()));
    assert_eq!(passwords(&with_cloud), both);
    assert_eq!(passwords(&format!("{BROKER}password = \"written\"")).0.as_deref(), Some("written"));
    assert_eq!(passwords(""), (None, None), "neither is needed");

    fs::write(credentials.path().join("mqtt.password"), b"\xff").unwrap();
    let invalid = Config::load(&Written::new(BROKER).place(), &environment).unwrap_err();
    assert!(invalid.lines[0].contains(": credential mqtt.password: is not UTF-8 text"), "{invalid}");
}

#[test]
fn the_account_for_klap_is_that_of_local_else_that_of_cloud() {
    let credentials = tempfile::tempdir().unwrap();
    let environment = Environment::of([("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())]);
    let account = |text: &str| Written::new(text).load(&environment).lan_account;
    let of = |username: &str, password: Option<&str>, table: &'static str, is_of_cloud: bool| {
        let password = password.map(|text| Secret::new(text.to_owned()));
        Some(LanAccount { username: username.to_owned(), password, table, is_of_cloud })
    };
    let cloud = "[cloud]\nusername = \"a@b.c\"\npassword = \"c\"\n";
    assert_eq!(account(""), None);
    assert_eq!(account(cloud), of("a@b.c", Some("c"), "[cloud]", true));
    assert_eq!(account("[cloud]\nusername = \"a@b.c\""), of("a@b.c", None, "[cloud]", true));
    let other = "[local]\nusername = \"x@b.c\"\n";
    assert_eq!(account(other), of("x@b.c", None, "[local]", false));
    assert_eq!(account(&format!("{other}{cloud}")), of("x@b.c", None, "[local]", false));
    assert_eq!(
        account(&format!("{other}password = \"l\"\n{cloud}")),
        of("x@b.c", Some("l"), "[local]", false)
    );
    let spelled = "[local]\nusername = \"A@b.c\"\n";
    assert_eq!(account(&format!("{spelled}{cloud}")), of("A@b.c", Some("c"), "[cloud]", true));
    let with_password = format!("{spelled}password = \"l\"\n{cloud}");
    assert_eq!(account(&with_password), of("A@b.c", Some("l"), "[local]", true));

    fs::write(credentials.path().join("local.password"), "credential\n").unwrap();
    assert_eq!(account(other), of("x@b.c", Some("credential"), "[local]", false));
    assert_eq!(account(&with_password), of("A@b.c", Some("l"), "[local]", true), "what is written counts");
    let config = Written::new(cloud).load(&environment);
    assert_eq!(config.lan_account, of("a@b.c", Some("c"), "[cloud]", true));
    let warning = "local.username: is missing: the credential local.password is not used without it";
    assert!(config.warnings.len() == 1 && config.warnings[0].ends_with(warning), "{:?}", config.warnings);
    assert!(!format!("{config:?}").contains("a@b.c"), "{config:?}");
}

#[test]
fn what_is_legal_but_unwise_is_warned_of() {
    let cloud = "[cloud]\nusername = \"a\"\n";
    for (text, expected) in [
        (
            "[routing]\npolicy = \"local-then-cloud\"".to_owned(),
            "routing.policy: has no cloud to fall back to",
        ),
        (
            "[[plug]]\nhost = \"h\"\nroute = \"local-then-cloud\"".to_owned(),
            "plug.route: has no cloud to fall back",
        ),
        (format!("{cloud}[[plug]]\nhost = \"h\""), "plug.host: is the only identification of the plug"),
        (
            format!("{cloud}[routing]\ncloud_after = \"10s\""),
            "routing.cloud_after: makes cloud_after no shorter than",
        ),
        (
            format!("{cloud}[[plug]]\nmac = \"50C7BF000001\"\nroute = \"cloud\"\npoll_interval = \"5s\""),
            "plug.poll_interval: has no effect on a plug that is reached over the cloud only",
        ),
        ("[discovery]\nadopt = false".to_owned(), "discovery.adopt: is false and there is no [[plug]]"),
        (
            "[discovery]\nlan = false".to_owned(),
            "discovery.lan: is false and there is neither [cloud] nor [[plug]]",
        ),
        (
            "[discovery]\nlan = false\n[[plug]]\nmac = \"50C7BF000001\"".to_owned(),
            "plug: cannot be found: it has no address",
        ),
        (
            format!("{cloud}[discovery]\nlan = false\n[[plug]]\nmac = \"50C7BF000001\"\nroute = \"local\""),
            "plug: cannot be found: it has no address",
        ),
        ("[broker]\nlisten = \"127.0.0.1:0\"".to_owned(), "broker.listen: has port 0"),
        (
            "[broker]\nlisten = \"127.0.0.1:1\"\n[mqtt]\nurl = \"mqtt://b\"".to_owned(),
            "broker.listen: has no effect",
        ),
    ] {
        let warnings = load(&text).warnings;
        let [warning] = &warnings[..] else { panic!("{text:?} should get one warning: {warnings:#?}") };
        assert!(warning.contains(expected), "{text:?}\n{warning}");
    }
}

#[test]
fn a_file_with_a_password_that_everybody_may_read_is_warned_of() {
    let written = Written::new(&format!("{BROKER}password = \"hunter2\""));
    assert_eq!(written.load(&Environment::default()).warnings, [""; 0]);
    written.file("hs100d.toml", &format!("{BROKER}password = \"hunter2\""), 0o644);
    let warnings = written.load(&Environment::default()).warnings;
    assert!(
        warnings[0].contains("hs100d.toml: holds a password and every user may read it: chmod o-r"),
        "{warnings:?}"
    );

    written.file("hs100d.toml", &format!("{BROKER}password_file = \"p\""), 0o644);
    written.file("p", "hunter2", 0o644);
    let warnings = written.load(&Environment::default()).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("mqtt.password_file: "), "{warnings:?}");
    written.file("p", "hunter2", 0o640);
    assert_eq!(written.load(&Environment::default()).warnings, [""; 0]);
}

#[test]
fn a_config_prints_without_its_secrets() {
    let config =
        load(&format!("{BROKER}password = \"hunter2\"\n[cloud]\nusername = \"a\"\npassword = \"hunter3\""));
    assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
}

#[test]
fn ten_thousand_plugs_are_read_in_one_go() {
    use std::fmt::Write as _;
    let mut text = String::new();
    for n in 0..10_000 {
        writeln!(
            text,
            "[[plug]]\nname = \"plug-{n}\"\nmac = \"50C7BF{n:06X}\"\nhost = \"10.0.{}.{}\"",
            n / 256,
            n % 256
        )
        .unwrap();
    }
    assert_eq!(load(&text).bridge.plugs.len(), 10_000);
}

#[test]
fn users_of_the_embedded_broker_are_read_and_let_it_listen_anywhere() {
    let written = Written::new(
        "[broker]\nlisten = \"0.0.0.0:1883\"\n\
         [[broker.user]]\nname = \"ha\"\npassword_file = \"ha.password\"\n\
         [[broker.user]]\nname = \"me\"\npassword = \"pw\"\n",
    );
    written.file("ha.password", "hunter2\n", 0o600);
    let config = written.load(&Environment::default());
    let MqttChoice::Embedded { broker, link } = config.mqtt("12345678", Path::new("/s")) else { panic!() };
    let users: Vec<_> = broker.users.iter().map(|user| (&*user.name, user.password.expose())).collect();
    assert_eq!(users, [("ha", "hunter2"), ("me", "pw")]);
    assert_eq!((link.host.as_str(), link.port), ("127.0.0.1", 1883), "what listens everywhere is near");
    assert_eq!(
        (link.username.as_deref(), link.password.as_ref().map(Secret::expose)),
        (Some("ha"), Some("hunter2"))
    );

    let any = load("broker = { listen = \"[::]:1\", user = [{ name = \"a\", password = \"b\" }] }");
    let MqttChoice::Embedded { link, .. } = any.mqtt("12345678", Path::new("/s")) else { panic!() };
    assert_eq!(link.host, "::1");
}

#[test]
fn what_others_on_the_machine_may_do_to_the_config_and_its_passwords_is_warned_of() {
    let text = "[cloud]\nusername = \"me\"\npassword_file = \"pw\"\n";
    let warned = |name: &str, mode: u32| {
        let written = Written::new(text);
        written.file("pw", "secret", 0o600);
        let path = written.directory.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        written.load(&Environment::default()).warnings
    };
    for (file, mode, expected) in [
        ("pw", 0o640, None),
        ("pw", 0o604, Some("pw holds a password and every user may read it: chmod o-r ")),
        ("pw", 0o602, Some("pw holds a password and every user may change it: chmod o-w ")),
        ("hs100d.toml", 0o644, None),
        ("hs100d.toml", 0o646, Some("every user may change it: chmod o-w ")),
        (".", 0o755, None),
        (".", 0o777, Some("where every user may replace it: chmod o-w ")),
        (".", 0o1777, None),
    ] {
        let warnings = warned(file, mode);
        match expected {
            None => assert!(warnings.is_empty(), "{file} {mode:o}: {warnings:?}"),
            Some(expected) => {
                assert!(
                    warnings.len() == 1 && warnings[0].contains(expected),
                    "{file} {mode:o}: {warnings:?}"
                );
            }
        }
    }
}

#[test]
fn http_is_on_for_this_machine_and_with_a_token_for_others() {
    let http = load("").http.unwrap();
    assert_eq!(
        (http.listen.to_string().as_str(), http.token, http.simple_get),
        ("127.0.0.1:8100", None, false)
    );
    assert!(load("[http]\nenabled = false\nlisten = \"0.0.0.0:8100\"").http.is_none());
    for this_machine in ["127.0.0.2:80", "[::1]:8100", "unix:/run/hs100d/http.sock"] {
        let config = load(&format!("[http]\nlisten = \"{this_machine}\""));
        assert_eq!(config.http.unwrap().listen.to_string(), this_machine);
    }

    let written = Written::new(
        "[http]\nlisten = \"0.0.0.0:8100\"\ntoken_file = \"t\"\nread_token = \"fedcba9876543210\"\nsimple_get = true\n\
         allowed_hosts = [\"HS100d.lan.\", \"pi\"]",
    );
    written.file("t", "0123456789abcdef\n", 0o600);
    let config = written.load(&Environment::default());
    assert_eq!(config.warnings, [""; 0]);
    let http = config.http.unwrap();
    let tokens = [http.token, http.read_token].map(|token| token.unwrap().expose().to_owned());
    assert_eq!(tokens, ["0123456789abcdef", "fedcba9876543210"]);
    assert_eq!((http.allowed_hosts, http.simple_get), (vec!["hs100d.lan".into(), "pi".into()], true));

    written.file("t", "0123456789abcdef\n", 0o644);
    let warnings = written.load(&Environment::default()).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("http.token_file: "), "{warnings:?}");
    assert!(warnings[0].contains("every user may read it: chmod o-r "), "{warnings:?}");
    written.file("hs100d.toml", "[http]\ntoken = \"0123456789abcdef\"", 0o644);
    let warnings = written.load(&Environment::default()).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("every user may read it"), "{warnings:?}");
}

#[test]
fn the_tokens_of_http_may_be_credentials() {
    let credentials = tempfile::tempdir().unwrap();
    let environment = Environment::of([("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())]);
    let written = Written::new("[http]\nlisten = \"0.0.0.0:8100\"");
    let load = || Config::load(&written.place(), &environment);
    let save = |name: &str, text: &str| fs::write(credentials.path().join(name), text).unwrap();
    // As the unit makes them where the files are missing.
    save("http.token", "\n");
    save("http.read_token", "\n");
    assert!(load().unwrap_err().lines[0].contains("while there is no token"));
    save("http.token", "0123456789abcdef\n");
    save("http.read_token", "fedcba9876543210\n");
    let http = load().unwrap().http.unwrap();
    assert!(http.token.unwrap().expose() == "0123456789abcdef" && http.read_token.is_some());
    save("http.token", "short");
    let lines = load().unwrap_err().lines;
    assert!(lines.len() == 1 && lines[0].contains("http.token: is shorter than 16 characters"), "{lines:?}");
}

#[test]
fn several_brokers_share_the_login_and_tls_and_keep_their_order() {
    let list = load(
        "[mqtt]\nurl = [\"mqtts://a.example.com\", \"mqtts://b.example.com:8884\", \"mqtts://[::1]\"]\nusername = \"me\"\n\
         password = \"pw\"\n",
    );
    let MqttChoice::Outside(link) = list.mqtt("0badcafe", Path::new("/state")) else { panic!("outside") };
    let others: Vec<_> = link.others.iter().map(ToString::to_string).collect();
    assert_eq!((link.host.as_str(), link.port), ("a.example.com", 8883));
    assert_eq!(others, ["b.example.com:8884", "[::1]:8883"]);
    assert_eq!((link.username.as_deref(), link.tls.is_some()), (Some("me"), true));
    let MqttChoice::Outside(one) = load("[mqtt]\nurl = [\"mqtt://a\"]").mqtt("0badcafe", Path::new("/state"))
    else {
        panic!("outside")
    };
    let MqttChoice::Outside(text) = load("[mqtt]\nurl = \"mqtt://a\"").mqtt("0badcafe", Path::new("/state"))
    else {
        panic!("outside")
    };
    assert_eq!(one, text, "a list of one is the same as the text");
}
