//! An invalid config gets one line for each fault, with file, line, key and remedy, and without any secret.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hs100d::config::Config;
use hs100d::config::paths::{ConfigPath, Environment};

/// The lines about a config, without the directory.
fn lines(text: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hs100d.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let prefix = format!("{}/", directory.path().display());
    let lines = match Config::load(&ConfigPath::Named(path), &Environment::default()) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid.lines,
    };
    assert!(lines.iter().all(|line| !line.contains('\n')), "one line each: {lines:?}");
    lines.iter().map(|line| line.replace(&prefix, "")).collect()
}

#[test]
fn each_mistake_gets_one_line_with_file_line_key_and_remedy() {
    let table: &[(&str, &str)] = &[
        // Keys and tables.
        ("[mqtt]\nuri = \"x\"", "hs100d.toml:2: mqtt.uri: is not known: did you mean `url`?"),
        ("[locale]", "hs100d.toml:1: locale: is not known: did you mean [local]?"),
        (
            "[mqtt]\npoll_intervall = \"5s\"",
            "hs100d.toml:2: mqtt.poll_intervall: is not known: remove it, or write ",
        ),
        (
            "[mqtt]\nlisten = \"x\"",
            "hs100d.toml:2: mqtt.listen: is not known here, only in [broker] or [http]: move it there",
        ),
        (
            "password = \"a\"",
            "password: is not known here, only in [[broker.user]], [cloud], [local] or [mqtt]: move it there",
        ),
        ("mqtt = true", "hs100d.toml:1: mqtt: must be a table: write [mqtt]"),
        ("[plug]\nname = \"a\"", "hs100d.toml:1: plug: must be written [[plug]], in double brackets"),
        ("plug = [1]", "hs100d.toml:1: plug: must hold tables only (holds a number)"),
        // Types.
        ("[local]\nenabled = \"yes\"", "hs100d.toml:2: local.enabled: must be true or false, without quotes"),
        ("[local]\nport = \"9999\"", "hs100d.toml:2: local.port: must be a number without quotes"),
        ("[discovery]\nbroadcast = \"1.2.3.4\"", "hs100d.toml:2: discovery.broadcast: must be a list"),
        ("[discovery]\nbroadcast = [1]", "hs100d.toml:2: discovery.broadcast: must hold texts in quotes"),
        (
            "[mqtt]\nclient_id = 1979-05-27",
            "hs100d.toml:2: mqtt.client_id: must be text in quotes (is a date)",
        ),
        (
            "[mqtt]\nbase_topic = \"\"",
            "hs100d.toml:2: mqtt.base_topic: is empty: fill it in, or remove the line",
        ),
        // Durations and numbers.
        ("[local]\npoll_interval = 5", "hs100d.toml:2: local.poll_interval: has no unit: write \"5s\""),
        ("[local]\npoll_interval = \"5\"", "hs100d.toml:2: local.poll_interval: has no unit: write \"5s\""),
        (
            "[local]\npoll_interval = \"5 weeks\"",
            "local.poll_interval: has the unit \"weeks\": use ms, s, m, h or d",
        ),
        ("[local]\npoll_interval = \"0s\"", "local.poll_interval: must be between 1s and 1h (is 0s)"),
        ("[local]\ntimeout = \"31s\"", "local.timeout: must be between 100ms and 30s (is 31s)"),
        ("[local]\nenergy_interval = \"2d\"", "local.energy_interval: must be between 1s and 1d (is 2d)"),
        ("[local]\nport = 0", "local.port: must be between 1 and 65535 (is 0)"),
        ("[discovery]\ninterval = \"1s\"", "discovery.interval: must be between 5s and 1d (is 1s)"),
        (
            "[cloud]\nusername = \"a\"\npoll_interval = \"1s\"",
            "cloud.poll_interval: must be between 5s and 1d",
        ),
        ("[routing]\ncloud_after = \"1ms\"", "routing.cloud_after: must be between 50ms and 30s (is 1ms)"),
        ("[routing]\ncommand_ttl = \"1h\"", "routing.command_ttl: must be between 1s and 10m (is 1h)"),
        // Words, topics, addresses.
        (
            "[routing]\npolicy = \"lan\"",
            "routing.policy: must be `local-then-cloud`, `local` or `cloud` (is \"lan\")",
        ),
        (
            "[homeassistant]\ndiscovery = true",
            "homeassistant.discovery: must be `device`, `component` or `off`, in quotes (is true or false)",
        ),
        (
            "[homeassistant]\ndiscovery = \"on\"",
            "homeassistant.discovery: must be `device`, `component` or `off`",
        ),
        ("[homeassistant]\nstatus_topic = \"ha/#\"", "homeassistant.status_topic: may not hold + or #"),
        (
            "[homeassistant]\nstatus_topic = \"hs100d/bridge/state\"",
            "homeassistant.status_topic: lies below mqtt.base_topic",
        ),
        (
            "[mqtt]\nbase_topic = \"a/b\"\n[homeassistant]\nstatus_topic = \"a/b/kettle/set\"",
            "homeassistant.status_topic: lies below mqtt.base_topic",
        ),
        // Found by the fuzzer: characters of several bytes made a topic that brokers refuse.
        (
            "[mqtt]\nbase_topic = \"日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日\"",
            "mqtt.base_topic: is longer than 128 bytes",
        ),
        ("[mqtt]\nbase_topic = \"/hs\"", "mqtt.base_topic: has an empty level"),
        ("[mqtt]\nbase_topic = \"$SYS\"", "mqtt.base_topic: may not hold + or #, nor begin with $"),
        ("[broker]\nlisten = \"1883\"", "broker.listen: must be an address and a port"),
        (
            "[broker]\nlisten = \"0.0.0.0:1883\"",
            "broker.listen: must be a loopback address while there is no [[broker.user]]",
        ),
        (
            "[broker]\nuser = { name = \"a\" }",
            "broker.user: must be written [[broker.user]], in double brackets",
        ),
        (
            "[[broker.user]]\npassword = \"a\"",
            "hs100d.toml:1: broker.user.name: is missing: say who may log in",
        ),
        (
            "[[broker.user]]\nname = \"a\"",
            "hs100d.toml:1: broker.user.password_file: is missing: add it, or password",
        ),
        ("[[broker.user]]\nname = \"a\"\npassword = \"\"", "hs100d.toml:3: broker.user.password: is empty"),
        (
            "[[broker.user]]\nname = \"a\"\npasword = \"a\"",
            "broker.user.pasword: is not known: did you mean `password`?",
        ),
        (
            "[[broker.user]]\nname = \"a\"\npassword = \"a\"\n[[broker.user]]\nname = \"a\"\npassword = \"b\"",
            "hs100d.toml:5: broker.user.name: \"a\" is there already: give each user a name of its own",
        ),
        ("[discovery]\nbroadcast = [\"::1\"]", "discovery.broadcast: must hold IPv4 addresses"),
        // The broker.
        ("[mqtt]\nurl = \"broker\"", "mqtt.url: must begin with mqtt:// or, for TLS, with mqtts://"),
        ("[mqtt]\nurl = \"mqtt://b/x\"", "mqtt.url: must end after host and port"),
        (
            "[mqtt]\nurl = []",
            "hs100d.toml:2: mqtt.url: is an empty list: write at least one, or remove the line",
        ),
        (
            "[mqtt]\nurl = 5",
            "hs100d.toml:2: mqtt.url: must be text in quotes, or a list of such texts (is a number)",
        ),
        (
            "[mqtt]\nurl = [\n\"mqtt://a\",\n\"b\"]",
            "hs100d.toml:4: mqtt.url[1]: must begin with mqtt:// or, for TLS, with mqtts://",
        ),
        ("[mqtt]\nurl = [\"mqtt://a\", 5]", "mqtt.url[1]: must be text in quotes (is a number)"),
        ("[mqtt]\nurl = [\"mqtt://a\", \"\"]", "mqtt.url[1]: is empty: fill it in, or remove it"),
        (
            "[mqtt]\nurl = [\"mqtt://a\", \"mqtts://me:hunter2@b\"]",
            "mqtt.url[1]: holds a user name or password: move them to mqtt.username and mqtt.password",
        ),
        (
            "[mqtt]\nurl = [\"mqtts://a\",\n\"mqtt://b\"]",
            "hs100d.toml:3: mqtt.url[1]: is mqtt://b:1883, and mqtt.url[0] is mqtts://a:8883: use the same scheme for all",
        ),
        (
            "[mqtt]\nurl = [\"mqtt://a\", \"mqtt://b\", \"mqtt://A:1883\"]",
            "mqtt.url[2]: is mqtt://A:1883, which mqtt.url[0] is already: remove one of them",
        ),
        (
            "[mqtt]\nurl = [\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\"]",
            "mqtt.url: must hold at most 16 values (holds 17)",
        ),
        (
            "[mqtt]\nusername = \"a\"",
            "hs100d.toml:2: mqtt.username: is for a broker of your own: add mqtt.url",
        ),
        (
            "[mqtt]\npassword = \"a\"",
            "hs100d.toml:2: mqtt.password: is for a broker of your own: add mqtt.url",
        ),
        (
            "[mqtt]\nurl = \"mqtt://b\"\npassword = \"a\"",
            "hs100d.toml:3: mqtt.password: goes with a user name",
        ),
        (
            "[mqtt]\nurl = \"mqtt://b\"\nca_file = \"a\"",
            "hs100d.toml:3: mqtt.ca_file: needs TLS: write mqtts://",
        ),
        (
            "[mqtt]\nurl = \"mqtts://b\"\nca_file = \"a\"",
            "hs100d.toml:3: mqtt.ca_file: a cannot be read: No such file",
        ),
        (
            "[mqtt]\nurl = \"mqtts://b\"\nclient_cert_file = \"a\"",
            "goes with a key: add mqtt.client_key_file",
        ),
        (
            "[mqtt]\nurl = \"mqtts://b\"\nclient_key_file = \"a\"",
            "goes with a certificate: add mqtt.client_cert_file",
        ),
        (
            "[mqtt]\nurl = \"mqtt://b\"\nusername = \"u\"\npassword = \"a\"\npassword_file = \"b\"",
            "hs100d.toml:5: mqtt.password_file: contradicts the one in line 4: keep one of the two",
        ),
        (
            "[mqtt]\nurl = \"mqtt://b\"\nusername = \"u\"\npassword_file = \"missing\"",
            "hs100d.toml:4: mqtt.password_file: missing cannot be read: No such file",
        ),
        // The account for plugs that speak KLAP.
        (
            "[local]\npassword = \"a\"",
            "hs100d.toml:2: local.password: goes with a user name: add local.username",
        ),
        (
            "[local]\npassword = \"b\"\n[cloud]\nusername = \"a\"",
            "hs100d.toml:2: local.password: goes with a user name: add local.username",
        ),
        (
            "[local]\nusername = \"u\"\npassword = \"a\"\npassword_file = \"b\"",
            "hs100d.toml:4: local.password_file: contradicts the one in line 3: keep one of the two",
        ),
        (
            "[local]\nusername = \"u\"\npassword_file = \"missing\"",
            "hs100d.toml:3: local.password_file: missing cannot be read: No such file",
        ),
        ("[local]\nusername = \"\"", "hs100d.toml:2: local.username: is empty"),
        // The cloud.
        ("\n[cloud]", "hs100d.toml:2: cloud.username: is missing: add the e-mail address of the account"),
        (
            "[cloud]\nusername = \"a\"\nurl = \"http://wap.tplinkcloud.com\"",
            "cloud.url: must begin with https://",
        ),
        (
            "[cloud]\nusername = \"a\"\nurl = \"https://example.com\"",
            "cloud.url: must name a host under tplinkcloud.com",
        ),
        (
            "[cloud]\nusername = \"a\"\napp_type = \"Kasa Android\"",
            "hs100d.toml:3: cloud.app_type: may hold letters, digits,",
        ),
        ("[cloud]\nusername = \"a\"\napp_version = \"\"", "cloud.app_version: is empty: fill it in"),
        ("[cloud]\nusername = \"a\"\napp_version = 3", "cloud.app_version: must be text in quotes"),
        (
            "[cloud]\nusername = \"a\"\n[cloud.v2]\nurl = \"https://example.com\"",
            "cloud.v2.url: must name a host under tplinkcloud.com",
        ),
        (
            "[cloud]\nusername = \"a\"\n[cloud.v2]\nsecret_key = \"x\"",
            "cloud.v2.secret_key: is not known: write the key into a file of its own",
        ),
        ("[cloud]\nusername = \"a\"\nv2 = true", "must be a table: write [cloud.v2]"),
        (
            "[cloud]\nusername = \"a\"\nsecret_key = \"x\"",
            "which access_key_file and secret_key_file in [cloud.v2] name",
        ),
        ("[cloud]\nusername = \"a\"\napp_name = \"x\"", "write app_type = \"Kasa_Android\""),
        // Routes that are not configured.
        (
            "[local]\nenabled = false",
            "hs100d.toml:2: local.enabled: leaves no way to reach a plug: add [cloud]",
        ),
        ("[routing]\npolicy = \"cloud\"", "hs100d.toml:2: routing.policy: needs an account: add [cloud]"),
        (
            "[local]\nenabled = false\n[cloud]\nusername = \"a\"\n[routing]\npolicy = \"local\"",
            "hs100d.toml:6: routing.policy: needs the LAN: set local.enabled to true",
        ),
        (
            "[[plug]]\nmac = \"50:C7:BF:00:00:01\"\nroute = \"cloud\"",
            "hs100d.toml:3: plug.route: needs an account",
        ),
        // Plugs.
        (
            "[[plug]]\nname = \"a\"",
            "hs100d.toml:1: plug: does not say which plug it is: add device_id, mac or host",
        ),
        ("[[plug]]\nname = \"bridge\"", "hs100d.toml:2: plug.name: \"bridge\" is taken by the daemon itself"),
        ("[[plug]]\nname = \"Lamp\"", "hs100d.toml:2: plug.name: \"Lamp\" may hold a-z, 0-9, - and _ only"),
        ("[[plug]]\nmac = \"50:C7\"", "hs100d.toml:2: plug.mac: must be written like \"50:C7:BF:01:02:03\""),
        ("[[plug]]\ndevice_id = \"lamp\"", "hs100d.toml:2: plug.device_id: must be hexadecimal digits"),
        ("[[plug]]\nhost = \"192.168.1.300\"", "hs100d.toml:2: plug.host: must be an address or a host name"),
        (
            "[[plug]]\nname = \"a\"\nhost = \"h1\"\n[[plug]]\nname = \"a\"\nhost = \"h2\"",
            "hs100d.toml:5: plug.name: \"a\" is in line 2 already: each entry is one plug; remove one of the two",
        ),
        (
            "[[plug]]\nmac = \"50:C7:BF:00:00:01\"\n[[plug]]\nmac = \"50c7bf000001\"",
            "hs100d.toml:4: plug.mac: \"50:C7:BF:00:00:01\" is in line 2 already",
        ),
        (
            "[[plug]]\ndevice_id = \"8006ABCDEF\"\n[[plug]]\ndevice_id = \"8006abcdef\"",
            "hs100d.toml:4: plug.device_id: \"8006…CDEF\" is in line 2 already",
        ),
        (
            "[[plug]]\nhost = \"10.0.0.1\"\n[[plug]]\nhost = \"10.0.0.1:9999\"",
            "hs100d.toml:4: plug.host: \"10.0.0.1:9999\" is in line 2 already",
        ),
        (
            "[[plug]]\nhost = \"h\"\nroute = \"local\"\npolicy = \"local\"",
            "hs100d.toml:4: plug.policy: says the same as the route in line 3",
        ),
        // The status page and the API.
        (
            "[http]\nlisten = \"0.0.0.0:8100\"",
            "hs100d.toml:2: http.listen: must be a loopback address or a Unix socket while there is no token, or everybody on \
             the network could switch the plugs: add token_file = \"/etc/hs100d/http.token\" (make the file with \
             `openssl rand -hex 16`), or write \"127.0.0.1:8100\" (is \"0.0.0.0:8100\")",
        ),
        ("[http]\nlisten = \"[fd00::2]:8100\"", "http.listen: must be a loopback address"),
        (
            "[http]\nlisten = \"8100\"",
            "2: http.listen: must be an address and a port, like \"127.0.0.1:8100\", or a socket, like \
             \"unix:/run/hs100d/http.sock\" (is \"8100\")",
        ),
        (
            "[http]\nlisten = \"unix:http.sock\"",
            "2: http.listen: must have the whole path of the socket, like \"unix:/run/hs100d/http.sock\" (is \"unix:http.sock\")",
        ),
        (
            "[http]\ntoken = \"fifteen-letters\"",
            "2: http.token: is shorter than 16 characters and can be guessed: make one with `openssl rand -hex 16`",
        ),
        (
            "[http]\ntoken = \"0123456789abcdef\"\nread_token = \"short\"",
            "3: http.read_token: is shorter than 16 characters",
        ),
        (
            "[http]\nread_token = \"0123456789abcdef\"",
            "2: http.read_token: has no effect without http.token: add that one as well",
        ),
        (
            "[http]\nsimple_get = true",
            "2: http.simple_get: needs a token, which is in the URL: add http.token_file, or set it to false",
        ),
        (
            "[http]\ntoken = \"0123456789abcdef\"\ntoken_file = \"b\"",
            "3: http.token_file: contradicts the one in line 2: keep one of the two",
        ),
        // Not also that there is no token.
        (
            "[http]\nlisten = \"0.0.0.0:8100\"\nsimple_get = true\ntoken_file = \"missing\"",
            "4: http.token_file: missing cannot be read: No such file",
        ),
        (
            "[http]\nallowed_hosts = [\"hs100d.lan:8100\"]",
            "2: http.allowed_hosts: must hold names without a port, like \"hs100d.lan\" (holds \"hs100d.lan:8100\")",
        ),
        ("[http]\nallowed_hosts = [\"*\"]", "2: http.allowed_hosts: must hold names without a port"),
        (
            "[cloud]\nusername = \"a\"\n[[plug]]\nhost = \"h\"\nroute = \"cloud\"",
            "hs100d.toml:4: plug.host: does not tell the cloud which plug it is: add device_id or mac",
        ),
    ];
    for (text, expected) in table {
        let lines = lines(text);
        let [line] = &lines[..] else { panic!("{text:?} should get one line: {lines:#?}") };
        assert!(line.starts_with("hs100d.toml:") && line.contains(expected), "{text:?}\n{line}\n{expected}");
    }
}

/// Keys that newcomers guess, and the line to copy that they get.
#[test]
fn a_key_that_a_newcomer_guesses_is_told_with_the_right_key_and_the_value_in_its_form() {
    let table: &[(&str, &str)] = &[
        (
            "[mqtt]\nhost = \"10.0.0.2\"",
            "2: mqtt.host: is not known: host, port and TLS are one key: write url = \"mqtt://10.0.0.2:1883\"",
        ),
        ("[mqtt]\nport = 1884", "write url = \"mqtt://broker.lan:1884\""),
        ("[mqtt]\nserver = \"tcp://pi.lan:1884\"", "write url = \"mqtt://pi.lan:1884\""),
        ("[mqtt]\nbroker = \"fd00::2\"", "write url = \"mqtt://[fd00::2]:1883\""),
        ("[mqtt]\nserver = \"me:hunter2@pi.lan\"", "write url = \"mqtt://broker.lan:1883\""),
        ("[mqtt]\ntls = true", "write url = \"mqtts://broker.lan:8883\""),
        ("[mqtt]\nuser = \"ha\"", "2: mqtt.user: is not known: write username = \"ha\""),
        ("[local]\nemail = \"me@x.com\"", "write username = \"me@example.com\""),
        ("[local]\npass = \"hunter2\"", "write password_file = \"/etc/hs100d/local.password\""),
        ("[mqtt]\npass = \"hunter2\"", "write password_file = \"/etc/hs100d/mqtt.password\""),
        ("[mqtt]\ntopic = \"plugs/\"", "2: mqtt.topic: is not known: write base_topic = \"plugs\""),
        ("[mqtt]\nclientid = \"pi\"", "write client_id = \"pi\""),
        ("[mqtt]\nqos = 1", "hs100d chooses it by itself; remove this line"),
        (
            "[broker]\nport = 1884",
            "2: broker.port: is not known: address and port are one key: write listen = \"127.0.0.1:1884\"",
        ),
        ("[broker]\nhost = \"0.0.0.0\"", "write listen = \"0.0.0.0:1883\""),
        (
            "[broker]\nhost = \"10.0.0.2\"",
            "[broker] is the embedded one: write below [mqtt] url = \"mqtt://10.0.0.2:1883\"",
        ),
        ("[broker]\nurl = \"mqtt://10.0.0.2\"", "write below [mqtt] url = \"mqtt://10.0.0.2:1883\""),
        ("[broker]\nusername = \"ha\"", "write [[broker.user]] and below it name = \"homeassistant\""),
        (
            "broker = \"10.0.0.2:1884\"",
            "1: broker: must be a table: write [broker] and below [mqtt] for a broker of your own url = \"mqtt://10.0.0.2:1884\"",
        ),
        (
            "[cloud]\nusername = \"a\"\nemail = \"hunter2@example.com\"",
            "3: cloud.email: is not known: write username = \"me@example.com\"",
        ),
        (
            "[cloud]\nusername = \"a\"\nuser = \"hunter2\"",
            "3: cloud.user: is not known: write username = \"me@example.com\"",
        ),
        ("[cloud]\nusername = \"a\"\nenabled = false", "remove the whole [cloud] table"),
        ("[cloud]\nusername = \"a\"\ninterval = 30", "write poll_interval = \"30s\""),
        (
            "[[plug]]\nmac = \"50:C7:BF:00:00:01\"\nip = \"10.0.0.3\"",
            "3: plug.ip: is not known: write host = \"10.0.0.3\"",
        ),
        (
            "[[plug]]\nhost = \"10.0.0.3\"\nalias = \"Kitchen Lamp!\"",
            "3: plug.alias: is not known: write name = \"kitchen-lamp\", as in its topic; device_id, mac or host says which plug it is",
        ),
        ("[[plug]]\nhost = \"10.0.0.3\"\nalias = \"Küche\"", "write name = \"kuche\""),
        ("[[plug]]\nhost = \"10.0.0.3\"\ntopic = \"my_lamp\"", "write name = \"my_lamp\""),
        ("[[plug]]\nhost = \"10.0.0.3\"\nalias = \"灯\"", "write name = \"kitchen-kettle\""),
        ("[[plug]]\nhost = \"10.0.0.3\"\nid = \"8006AB\"", "write device_id = \"8006AB\""),
        ("[[plug]]\nhost = \"10.0.0.3\"\ntype = \"HS100\"", "the plug reports it; remove this line"),
        ("[[plugs]]\nhost = \"10.0.0.3\"", "1: plugs: is not known: write [[plug]], in double brackets"),
        (
            "[log]\nlevel = \"debug\"",
            "1: log: is not known: the command line sets how much is logged: remove it, and start hs100d with -v",
        ),
        ("log_level = \"debug\"", "start hs100d with -v"),
        ("[hass]", "write [homeassistant]"),
        ("discovery = true", "1: discovery: must be a table: write [discovery] and below it lan = true"),
        ("discovery = false", "write [discovery] and below it lan = false"),
        ("cloud = true", "write [cloud] and below it username = \"me@example.com\""),
        ("[discovery]\nenabled = false", "2: discovery.enabled: is not known: write lan = false"),
        ("[homeassistant]\nenabled = false", "write discovery = \"off\""),
        ("[homeassistant]\nprefix = \"ha\"", "write discovery_prefix = \"ha\""),
        ("[local]\ninterval = 10", "write poll_interval = \"10s\""),
        ("[routing]\nmode = \"cloud\"", "write policy = \"cloud\""),
        (
            "[web]\nport = 80",
            "1: web: is not known: write [http] for the status page, the API and the metrics",
        ),
        ("[api]", "write [http]"),
        ("[frontend]", "write [http]"),
        ("http = false", "1: http: must be a table: write [http] and below it enabled = false"),
        (
            "[http]\nport = 8080",
            "2: http.port: is not known: address and port are one key: write listen = \"127.0.0.1:8080\"",
        ),
        ("[http]\nhost = \"0.0.0.0\"", "write listen = \"0.0.0.0:8100\""),
        ("[http]\nbind = \"::1\"", "write listen = \"[::1]:8100\""),
        ("[http]\nsocket = \"/run/h.sock\"", "write listen = \"unix:/run/h.sock\""),
        (
            "[http]\npassword = \"hunter2\"",
            "write token_file = \"/etc/hs100d/http.token\", a file with nothing but the token in it",
        ),
        ("[http]\napi_key = \"hunter2\"", "write token_file = \"/etc/hs100d/http.token\""),
        ("[http]\nuser = \"hunter2\"", "there are no users, only a token"),
        ("[http]\ndomain = \"pi.lan\"", "allowed_hosts = [\"pi.lan\"]"),
        ("[http]\nssl = true", "hs100d has no HTTPS: put a proxy such as Caddy or nginx in front of it"),
        ("[http]\nenable = false", "write enabled = false"),
        ("[http]\nmetrics = true", "are always served together; remove this line"),
    ];
    for (text, expected) in table {
        let lines = lines(text);
        let [line] = &lines[..] else { panic!("{text:?} should get one line: {lines:#?}") };
        assert!(line.starts_with("hs100d.toml:") && line.contains(expected), "{text:?}\n{line}\n{expected}");
        assert!(!line.contains("hunter2"), "{line}");
    }
    let messages = lines("[mqtt]\nhost = \"pi.lan\"\nport = 8883\n");
    let whole = "write url = \"mqtts://pi.lan:8883\"";
    assert!(messages.len() == 2 && messages.iter().all(|line| line.ends_with(whole)), "{messages:#?}");
}

#[test]
fn what_is_given_twice_is_named_with_both_lines() {
    for (text, expected) in [
        (
            "[mqtt]\nurl = \"mqtt://a\"\n\nurl = \"mqtt://b\"",
            "hs100d.toml:4: mqtt.url: is there already, in line 2: keep one of the two",
        ),
        (
            "[mqtt]\n[local]\n[mqtt]\nurl = \"mqtt://b\"",
            "hs100d.toml:3: mqtt: is there already, in line 1: put all its keys below one of the two",
        ),
        (
            "[plug]\nhost = \"a\"\n[plug]\nhost = \"b\"",
            "hs100d.toml:3: plug: is there already, in line 1: write each as [[plug]], in double brackets",
        ),
        (
            "[[plug]]\nhost = \"a\"\n[[plug]]\nname = \"a\"\nname = \"b\"",
            "hs100d.toml:5: plug.name: is there already, in line 4: keep one of the two",
        ),
    ] {
        assert_eq!(lines(text), [expected], "{text:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let messages = lines("[local]\nport = 0\ntimeout = 3\n[mqtt]\nuri = \"x\"\n[[plug]]\nmac = \"x\"\n");
    let places: Vec<&str> = messages.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["hs100d.toml:2", "hs100d.toml:3", "hs100d.toml:5", "hs100d.toml:7"], "{messages:#?}");
}

#[test]
fn more_mistakes_than_fit_on_a_screen_are_counted() {
    let messages = lines(&"[[plug]]\nhost = 5\n".repeat(25));
    assert_eq!(messages.len(), 11);
    assert_eq!(messages[10], "hs100d.toml: and 15 more: correct these first");
    assert_eq!(lines(&"[[plug]]\nhost = 5\n".repeat(10)).len(), 10);
}

#[test]
fn a_file_that_is_no_config_is_told_so() {
    let messages = lines("[mqtt]\nbase_topic = \"a\nb\"\n");
    assert!(messages[0].starts_with("hs100d.toml:2:16: is not TOML: "), "{messages:?}");
    let directory = tempfile::tempdir().unwrap();
    let load = |path| Config::load(&ConfigPath::Named(path), &Environment::default()).unwrap_err().lines;

    let missing = load(directory.path().join("none.toml"));
    assert!(missing[0].contains("none.toml: cannot be read: No such file"), "{missing:?}");
    let folder = load(directory.path().to_owned());
    assert!(folder[0].contains(": cannot be read: Is a directory"), "{folder:?}");

    let latin1 = directory.path().join("latin1.toml");
    fs::write(&latin1, b"# fine\n# gr\xfcn\n").unwrap();
    let messages = load(latin1);
    assert!(
        messages[0].ends_with("latin1.toml:2: is not UTF-8 text: save the file as UTF-8"),
        "{messages:?}"
    );
    let huge = directory.path().join("huge.toml");
    fs::File::create(&huge).unwrap().set_len(17 << 20).unwrap();
    let messages = load(huge);
    assert!(messages[0].contains("is larger than 16 MiB"), "{messages:?}");
}

#[test]
fn no_fault_quotes_a_secret_whatever_is_wrong_beside_it() {
    for text in [
        "[mqtt]\npassword = hunter2",
        "[mqtt]\npassword = \"hunter2",
        "[mqtt]\npassword = \"hunter2\\q\"",
        "[mqtt]\npassword = [\"hunter2\"]",
        "[mqtt]\npassword = { hunter2 = \"hunter2\" }",
        "[mqtt]\npassword = \"hunter2\"\npassword = \"hunter2\"",
        "[mqtt]\npassword = \"hunter2\"",
        "[mqtt]\nurl = \"mqtt://me:hunter2@broker\"",
        "[mqtt]\nurl = \"mqtt://me:hunter2/x@broker\"",
        "[http]\ntoken = \"hunter2\"",
        "[http]\ntoken = hunter2",
        "[http]\nread_token = \"hunter2\"",
        "[http]\nlisten = \"http://me:hunter2@0.0.0.0:8100\"",
        "[cloud]\nurl = \"https://me:hunter2@wap.tplinkcloud.com\"",
        "[cloud]\nusername = \"hunter2@example.com\"\nurl = \"http://x\"",
        "[cloud]\nusername = [\"hunter2@example.com\"]",
    ] {
        let messages = lines(text);
        assert!(!messages.is_empty(), "{text:?} is wrong");
        assert!(messages.iter().all(|line| !line.contains("hunter2")), "{messages:?}");
    }
}

#[test]
fn a_password_file_that_holds_no_password_is_told_by_its_name_only() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("hs100d.toml");
    fs::write(&config, "[mqtt]\nurl = \"mqtt://b\"\nusername = \"u\"\npassword_file = \"p\"").unwrap();
    for (bytes, expected) in [
        (&b"\n"[..], "/p is empty: write the password into it"),
        (b"hunter2\xff", "/p is not UTF-8 text"),
        (
            b"hunter2\nhunter2\n",
            "/p has text in more than one line: it should hold the password in its first line",
        ),
        (&[b'x'; 9000], "/p is longer than 4096 bytes"),
    ] {
        fs::write(directory.path().join("p"), bytes).unwrap();
        let messages =
            Config::load(&ConfigPath::Named(config.clone()), &Environment::default()).unwrap_err().lines;
        assert!(messages.len() == 1 && messages[0].contains(expected), "{messages:?}");
        assert!(!messages[0].contains("hunter2") && !messages[0].contains("xxx"), "{messages:?}");
    }
}

/// Parts of config files, valid and invalid.
const PIECES: [&str; 24] = [
    "[mqtt]",
    "[[plug]]",
    "[cloud]",
    "[local",
    "\n",
    "\r\n",
    "\u{feff}",
    " = ",
    "url",
    "password",
    "host",
    "port",
    "\"mqtt://b\"",
    "\"",
    "\"\"\"",
    "'",
    "\\",
    "5",
    "true",
    "[1, \"x\"]",
    "{ a = 1 }",
    "# grün",
    "é",
    "\0",
];

proptest::proptest! {
    #[test]
    fn whatever_a_file_holds_it_is_a_config_or_gets_lines(
        text in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..40)
    ) {
        // `lines` checks that each is one line.
        let messages = lines(&text.concat());
        proptest::prop_assert!(messages.len() <= 11 && messages.iter().all(|line| line.starts_with("hs100d.toml:")));
    }
}
