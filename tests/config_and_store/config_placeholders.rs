//! One config for many sites: `${NAME}` stands for a variable of the environment or of the site file beside the config.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::config::{BrokerConfig, Config, CurrentFile, MqttChoice, OptionName, Overlay};
use hs100d::secret::Secret;

/// A directory with a config, and perhaps the site file beside it.
struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new(config: &str) -> Self {
        let site = Self { directory: tempfile::tempdir().unwrap() };
        site.write("hs100d.toml", config);
        site
    }

    fn with_file(config: &str, variables: &str) -> Self {
        let site = Self::new(config);
        site.write("hs100d.env", variables);
        site
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn place(&self) -> ConfigPath {
        ConfigPath::Named(self.directory.path().join("hs100d.toml"))
    }

    fn load(&self, environment: &Environment) -> Config {
        Config::load(&self.place(), environment).unwrap_or_else(|invalid| panic!("{invalid}"))
    }

    /// The faults, without the directory.
    fn faults(&self, environment: &Environment) -> Vec<String> {
        let lines = Config::load(&self.place(), environment).unwrap_err().lines;
        let directory = format!("{}/", self.directory.path().display());
        lines.iter().map(|line| line.replace(&directory, "")).collect()
    }
}

const FLEET: &str = r#"
[mqtt]
url = "mqtts://${SITE}.example.com:8884"
username = "site-${SITE}"
password_file = "${SITE}.password"
instance = "${HOSTNAME}"
base_topic = "plugs/${SITE}"

[homeassistant]
discovery_prefix = "ha/${SITE}"
status_topic = "ha/${SITE}/status"

[cloud]
username = "${SITE}@example.com"

[http]
allowed_hosts = ["${HOSTNAME}.lan", "literal.lan"]

[[plug]]
name = "${SITE}-boiler"
host = "boiler.${SITE}.lan"
"#;

#[test]
fn one_config_serves_each_site_by_its_variables_and_its_host_name() {
    let fleet = Site::new(FLEET);
    for (site, host) in [("north", "pi-1"), ("south", "pi-2")] {
        fleet.write(&format!("{site}.password"), &format!("secret of {site}\n"));
        let config = fleet.load(&Environment::of([("SITE", site), ("HOSTNAME", host)]));
        let BrokerConfig::Outside { host: broker, username, password, .. } = &config.broker else { panic!() };
        assert_eq!((broker, username), (&format!("{site}.example.com"), &Some(format!("site-{site}"))));
        assert_eq!(password.as_ref().unwrap().expose(), format!("secret of {site}"));
        assert_eq!(config.base_topic, format!("plugs/{site}"));
        assert_eq!(config.homeassistant.discovery_prefix, format!("ha/{site}"));
        assert_eq!(config.homeassistant.status_topic, format!("ha/{site}/status"));
        assert_eq!(config.cloud.as_ref().unwrap().options.username, format!("{site}@example.com"));
        let hosts = &config.http.as_ref().unwrap().allowed_hosts;
        assert_eq!(hosts[..], [format!("{host}.lan").into(), "literal.lan".into()]);
        let plug = &config.bridge.plugs[0];
        assert_eq!(plug.name.as_ref().unwrap().to_string(), format!("{site}-boiler"));
        assert_eq!(plug.address.as_ref().unwrap().to_string(), format!("boiler.{site}.lan:9999"));
        // The state is that of the image which both were made of.
        let MqttChoice::Outside(settings) = config.mqtt("0f3a0f3a", Path::new("")) else { panic!() };
        assert_eq!((settings.instance, settings.client_id), (host.to_owned(), format!("hs100d-{host}")));
        assert_eq!(settings.drawn_instance, "0f3a0f3a");
    }
}

#[test]
fn without_an_instance_the_drawn_one_is_used_and_a_client_id_of_its_own_stays() {
    let url = "[mqtt]\nurl = \"mqtt://broker.lan\"\n";
    for (more, instance, client_id) in [
        ("", "0f3a0f3a", "hs100d-0f3a0f3a"),
        ("client_id = \"mine\"\n", "0f3a0f3a", "mine"),
        ("instance = \"north\"\n", "north", "hs100d-north"),
        ("instance = \"north\"\nclient_id = \"mine\"\n", "north", "mine"),
    ] {
        let config = Site::new(&format!("{url}{more}")).load(&Environment::default());
        let MqttChoice::Outside(settings) = config.mqtt("0f3a0f3a", Path::new("")) else { panic!() };
        assert_eq!((settings.instance.as_str(), settings.client_id.as_str()), (instance, client_id));
    }
}

#[test]
fn the_site_file_gives_what_the_environment_does_not() {
    let site =
        Site::with_file("[mqtt]\nbase_topic = \"${TOWN}/${SITE}\"\n", "SITE=north\nTOWN=\"old town\"\n");
    assert_eq!(site.load(&Environment::default()).base_topic, "old town/north");
    assert_eq!(site.load(&Environment::of([("SITE", "south")])).base_topic, "old town/south");
    assert_eq!(site.load(&Environment::of([("SITE", "")])).base_topic, "old town/north", "empty is not set");
    assert_eq!(site.load(&Environment::default()).warnings, [""; 0]);
    // A reload sees the new value.
    site.write("hs100d.env", "SITE=west\nTOWN=t\n");
    assert_eq!(site.load(&Environment::default()).base_topic, "t/west");
}

#[test]
fn a_site_file_that_is_not_needed_is_not_read() {
    let site = Site::with_file(
        "[mqtt]\nbase_topic = \"${SITE}\"\nusername = \"$${x}\"\nurl = \"mqtt://b\"",
        "no variable",
    );
    let config = site.load(&Environment::of([("SITE", "north")]));
    assert_eq!(config.base_topic, "north");
    let BrokerConfig::Outside { username, .. } = config.broker else { panic!() };
    assert_eq!(username.as_deref(), Some("${x}"), "a literal one");
}

#[test]
fn a_placeholder_that_cannot_be_replaced_is_one_line_with_key_variable_and_remedy() {
    let unset = "which is not set or empty: set SITE in the environment, or write SITE=… into hs100d.env";
    let topic = "[mqtt]\nbase_topic = \"plugs/${SITE}\"\n";
    for (config, variables, expected) in [
        (topic, None, format!("hs100d.toml:2: mqtt.base_topic: has ${{SITE}}, {unset}")),
        (topic, Some("SITE=\n"), format!("hs100d.toml:2: mqtt.base_topic: has ${{SITE}}, {unset}")),
        (
            topic,
            Some("SITE=a+b\n"),
            "hs100d.toml:2: mqtt.base_topic: may not hold + or #, nor begin with $: write it like \"hs100d\" or \
             \"home/plugs\" (is \"plugs/a+b\"); see the value of ${SITE}"
                .to_owned(),
        ),
        (
            topic,
            Some("# the site\nSITE north\n"),
            "hs100d.toml:2: mqtt.base_topic: has ${SITE}, which is not set in the environment, and the site file \
             hs100d.env:2: is not NAME=VALUE: correct the line"
                .to_owned(),
        ),
        (
            "[mqtt]\nbase_topic = \"plugs/${SITE\"\n",
            None,
            "hs100d.toml:2: mqtt.base_topic: has ${ without a closing brace: write ${NAME}, or $${ for ${ itself"
                .to_owned(),
        ),
        (
            "[mqtt]\ninstance = \"${SITE}\"\n",
            Some("SITE=pi.lan\n"),
            "hs100d.toml:2: mqtt.instance: may hold letters, digits, - and _, at most 64: write it like \"north\" \
             (is \"pi.lan\"); see the value of ${SITE}"
                .to_owned(),
        ),
        (
            "[mqtt]\ninstance = \"${HOSTNAME}\"\n",
            None,
            "hs100d.toml:2: mqtt.instance: has ${HOSTNAME}, but this machine has no host name of its own: give it \
             one (hostnamectl set-hostname NAME), or write HOSTNAME=… into hs100d.env"
                .to_owned(),
        ),
        (
            "[http]\nallowed_hosts = [\"a\", \"${SITE}\"]\n",
            Some("SITE=a b\n"),
            "hs100d.toml:2: http.allowed_hosts: must hold names without a port, like \"hs100d.lan\" (holds \"a b\"); \
             see the value of ${SITE}"
                .to_owned(),
        ),
    ] {
        let site = variables.map_or_else(|| Site::new(config), |variables| Site::with_file(config, variables));
        assert_eq!(site.faults(&Environment::default()), [expected]);
    }
    let site = Site::new(topic);
    fs::create_dir(site.directory.path().join("hs100d.env")).unwrap();
    let faults = site.faults(&Environment::default());
    assert!(faults[0].contains("the site file hs100d.env cannot be read: "), "{faults:?}");
}

#[test]
fn a_secret_has_no_placeholder_and_no_message_quotes_a_variable_that_may_hold_one() {
    let environment = Environment::of([("SECRET", "hunter2"), ("URL", "mqtt://me:hunter2@broker.lan")]);
    let expected = |key: &str, file: &str| {
        format!(
            "hs100d.toml:2: {key}: has ${{…}}, which is not replaced in a secret: put the secret into a file of its \
             own and name that with {file}, or give it as a credential"
        )
    };
    for (config, key, file) in [
        ("[mqtt]\npassword = \"${SECRET}\"\n", "mqtt.password", "password_file"),
        ("[local]\npassword = \"${SECRET}\"\n", "local.password", "password_file"),
        ("[http]\ntoken = \"x${SECRET}\"\n", "http.token", "token_file"),
        ("[http]\nread_token = \"${SECRET}\"\n", "http.read_token", "read_token_file"),
    ] {
        assert_eq!(Site::new(config).faults(&environment)[0], expected(key, file));
    }
    let faults = Site::new("[mqtt]\nurl = \"${URL}\"\n").faults(&environment);
    assert_eq!(
        faults,
        [
            "hs100d.toml:2: mqtt.url: holds a user name or password: move them to mqtt.username and mqtt.password; see \
          the value of ${URL}"
        ]
    );
    // What only looks a little like a placeholder is a password as any other.
    let odd = Site::new("[mqtt]\nurl = \"mqtt://b\"\nusername = \"me\"\npassword = \"a${b\"\n");
    let BrokerConfig::Outside { password, .. } = odd.load(&environment).broker else { panic!() };
    assert_eq!(password.unwrap().expose(), "a${b");
}

#[test]
fn an_option_that_is_laid_over_the_config_is_taken_as_it_is() {
    let mut overlay = Overlay::default();
    let name = OptionName { group: "mqtt", index: None, key: "password" };
    overlay.set("mqtt", "url", Secret::new("mqtt://b".to_owned()), name);
    overlay.set("mqtt", "username", Secret::new("${ME}".to_owned()), name);
    overlay.set("mqtt", "password", Secret::new("${SECRET}".to_owned()), name);
    let place = ConfigPath::Nowhere;
    let config =
        Config::load_below(&overlay, &place, &Environment::default(), &CurrentFile::default()).unwrap();
    let BrokerConfig::Outside { username, password, .. } = config.broker else { panic!() };
    assert_eq!(username.as_deref(), Some("${ME}"));
    assert_eq!(password.unwrap().expose(), "${SECRET}");
}

#[test]
fn a_site_file_that_others_may_change_is_warned_of() {
    let site = Site::with_file("[mqtt]\nbase_topic = \"${SITE}\"\n", "SITE=north\n");
    let path = site.directory.path().join("hs100d.env");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    let warnings = site.load(&Environment::default()).warnings;
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let path = path.display();
    assert!(warning.ends_with(&format!("{path}: every user may change it: chmod o-w {path}")), "{warning}");
}
