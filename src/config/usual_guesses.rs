//! What to write instead of the keys that newcomers guess: the right key, with the guessed value in its form.
//!
//! Pure: an unknown key in, a remedy out. Values that may be secret (the e-mail address, anything with an `@`) are replaced
//! by an example.

use std::net::{IpAddr, SocketAddr};

use super::reader::Unknown;
use crate::bridge::slug::slug;
use crate::model::PlugName;

/// Guesses for a broker's host.
const HOSTS: [&str; 10] =
    ["host", "hostname", "server", "broker", "address", "addr", "ip", "ip_address", "uri", "url"];
/// Guesses for TLS.
const TLS: [&str; 4] = ["tls", "ssl", "use_tls", "use_ssl"];
/// Guesses for a user name.
const USERS: [&str; 7] = ["user", "username", "user_name", "login", "account", "email", "mail"];
/// Guesses for a password.
const PASSWORDS: [&str; 5] = ["pass", "passwd", "pwd", "password", "secret"];
/// Guesses for a switch that turns a table on and off.
const FLAGS: [&str; 5] = ["enabled", "enable", "active", "on", "use"];
/// Guesses for the interval between polls.
const INTERVALS: [&str; 6] = ["interval", "poll", "polling", "poll_time", "refresh", "scan_interval"];
/// The longest value that a message repeats, in characters.
const SHOWN: usize = 60;
const MQTT_PORT: u16 = 1883;
const MQTTS_PORT: u16 = 8883;
const HTTP_PORT: u16 = 8100;
const NO_TLS: &str =
    "hs100d has no HTTPS: put a proxy such as Caddy or nginx in front of it; remove this line";

/// The remedy for an unknown key, or for a table that is written as a value; `None` if it is not a usual guess.
pub(super) fn suggest(unknown: &Unknown<'_>) -> Option<String> {
    let key = unknown.key.to_ascii_lowercase().replace('-', "_");
    match unknown.table {
        "" => file(&key, unknown),
        "mqtt" => mqtt(&key, unknown),
        "broker" => broker(&key, unknown),
        "homeassistant" => homeassistant(&key, unknown),
        "discovery" => discovery(&key, unknown),
        "local" => local(&key, unknown),
        "cloud" => cloud(&key, unknown),
        "cloud.v2" => cloud_v2(&key),
        "routing" => routing(&key, unknown),
        "http" => http(&key, unknown),
        "plug" => plug(&key, unknown),
        _ => None,
    }
}

/// A key at the top level, or a table that is written as a value.
fn file(key: &str, unknown: &Unknown<'_>) -> Option<String> {
    let value = shown(unknown);
    let is_off = value.as_deref() == Some("false");
    Some(match key {
        "log" | "logs" | "logging" | "logger" | "log_level" | "loglevel" | "level" | "verbose"
        | "verbosity" | "debug" => {
            "the command line sets how much is logged: remove it, and start hs100d with -v for more lines or -q \
             for fewer"
                .to_owned()
        }
        "home_assistant" | "hass" | "ha" => "write [homeassistant]".to_owned(),
        "kasa" | "tplink" | "tp_link" | "tapo" | "account" | "accounts" => {
            "write [cloud] for the TP-Link account".to_owned()
        }
        "lan" | "network" => "write [local] for how plugs are reached, [discovery] for how they are found".to_owned(),
        "web" | "webserver" | "web_server" | "webui" | "ui" | "gui" | "page" | "status_page" | "frontend" | "dashboard" | "api"
        | "rest" | "server" | "metrics" | "prometheus" => {
            "write [http] for the status page, the API and the metrics".to_owned()
        }
        "plugs" | "device" | "devices" | "switch" | "switches" | "outlet" => {
            "write [[plug]], in double brackets, once for each plug".to_owned()
        }
        // These exist as tables.
        "mqtt" | "broker" => {
            format!("below [mqtt] for a broker of your own {}", line("url", &broker_url(value.as_deref(), unknown)))
        }
        "homeassistant" => format!("below it {}", line("discovery", form_of_documents(is_off))),
        "discovery" => format!("below it lan = {}", !is_off),
        "local" | "http" => format!("below it enabled = {}", !is_off),
        "cloud" if is_off => "its keys below it, or leave it out to go without the cloud".to_owned(),
        "cloud" => format!("below it {}", line("username", "me@example.com")),
        _ => return None,
    })
}

fn mqtt(key: &str, unknown: &Unknown<'_>) -> Option<String> {
    let value = shown(unknown);
    Some(match key {
        // The nearest key, `url`, is the better answer.
        "uri" => return None,
        "port" => broker_of_ones_own(None, unknown),
        _ if HOSTS.contains(&key) || TLS.contains(&key) => broker_of_ones_own(None, unknown),
        _ if USERS.contains(&key) => write("username", value.as_deref(), "hs100d"),
        _ if PASSWORDS.contains(&key) => password_file("/etc/hs100d/mqtt.password"),
        "topic" | "prefix" | "topic_prefix" | "root_topic" | "base" | "mqtt_topic" | "root" => {
            format!(
                "write {}",
                line("base_topic", value.as_deref().map_or("hs100d", |topic| topic.trim_matches('/')))
            )
        }
        "client" | "clientid" | "id" => write("client_id", value.as_deref(), "hs100d-pi"),
        "ca" | "cafile" | "ca_cert" | "cacert" | "ca_path" | "ca_certs" => {
            write("ca_file", value.as_deref(), "/etc/hs100d/ca.pem")
        }
        "cert" | "certfile" | "cert_file" | "client_cert" | "certificate" => {
            write("client_cert_file", value.as_deref(), "/etc/hs100d/client.pem")
        }
        "key" | "keyfile" | "key_file" | "client_key" => {
            write("client_key_file", value.as_deref(), "/etc/hs100d/client.key")
        }
        "qos" | "retain" | "keepalive" | "keep_alive" | "version" | "protocol" | "protocol_version" => {
            "hs100d chooses it by itself; remove this line".to_owned()
        }
        _ if FLAGS.contains(&key) => "MQTT is always on; remove this line".to_owned(),
        _ => return None,
    })
}

fn broker(key: &str, unknown: &Unknown<'_>) -> Option<String> {
    let host = unknown.beside(&HOSTS);
    let host = host.as_deref().filter(|host| !host.contains("://"));
    let own: Option<IpAddr> = match host {
        None | Some("localhost") => Some(IpAddr::from([127, 0, 0, 1])),
        Some(host) => host.parse().ok().filter(|ip: &IpAddr| ip.is_loopback() || ip.is_unspecified()),
    };
    Some(match key {
        "url" | "uri" | "server" => broker_of_ones_own(Some("[broker] is the embedded one"), unknown),
        _ if key == "port" || key == "bind" || HOSTS.contains(&key) => match own {
            Some(ip) => {
                let listen = SocketAddr::new(ip, port(unknown).unwrap_or(MQTT_PORT));
                format!("address and port are one key: write {}", line("listen", &listen.to_string()))
            }
            None => broker_of_ones_own(Some("[broker] is the embedded one"), unknown),
        },
        _ if USERS.contains(&key) || PASSWORDS.contains(&key) || key == "users" => {
            format!(
                "a user of the embedded broker is a table: write [[broker.user]] and below it {} and {}",
                line("name", "homeassistant"),
                line("password_file", "/etc/hs100d/homeassistant.password")
            )
        }
        _ if FLAGS.contains(&key) => {
            "the embedded broker runs unless mqtt.url is set; remove this line".to_owned()
        }
        _ => return None,
    })
}

fn homeassistant(key: &str, unknown: &Unknown<'_>) -> Option<String> {
    let value = shown(unknown);
    Some(match key {
        _ if FLAGS.contains(&key) => {
            format!("write {}", line("discovery", form_of_documents(value.as_deref() == Some("false"))))
        }
        "prefix" | "topic" | "discovery_topic" | "base_topic" => {
            write("discovery_prefix", value.as_deref(), "homeassistant")
        }
        "status" | "birth_topic" | "birth" => write("status_topic", value.as_deref(), "homeassistant/status"),
        _ => return None,
    })
}

fn discovery(key: &str, unknown: &Unknown<'_>) -> Option<String> {
    let value = shown(unknown);
    Some(match key {
        _ if FLAGS.contains(&key) => format!("write lan = {}", value.as_deref() != Some("false")),
        "broadcasts" | "network" | "networks" | "subnet" | "subnets" | "address" | "target" => {
            let value = value.as_deref().unwrap_or("192.168.7.255");
            format!("write the broadcast address of that network: broadcast = [{value:?}]")
        }
        _ => return None,
    })
}

fn local(key: &str, unknown: &Unknown<'_>) -> Option<String> {
    let value = shown(unknown);
    Some(match key {
        _ if FLAGS.contains(&key) || key == "lan" => {
            format!("write enabled = {}", value.as_deref() != Some("false"))
        }
        _ if INTERVALS.contains(&key) => write_duration("poll_interval", value.as_deref(), "5s"),
        // The e-mail address is shown nowhere.
        _ if USERS.contains(&key) => format!("write {}", line("username", "me@example.com")),
        _ if PASSWORDS.contains(&key) => {
            format!(
                "{}, or leave it out and run `hs100d cloud login --lan-only`",
                password_file("/etc/hs100d/local.password")
            )
        }
        _ => return None,
    })
}

fn cloud_v2(key: &str) -> Option<String> {
    Some(match key {
        "access_key" | "app_key" => {
            "write the key into a file of its own, and access_key_file = \"/etc/hs100d/cloud.v2.access-key\""
                .to_owned()
        }
        "secret_key" | "app_secret" => {
            "write the key into a file of its own, and secret_key_file = \"/etc/hs100d/cloud.v2.secret-key\""
                .to_owned()
        }
        "app_type" | "app_version" | "username" | "password" | "password_file" | "poll_interval" => {
            "it is a key of [cloud], for both versions: move it there".to_owned()
        }
        _ => return None,
    })
}

fn cloud(key: &str, unknown: &Unknown<'_>) -> Option<String> {
    let value = shown(unknown);
    Some(match key {
        // The e-mail address is shown nowhere.
        _ if USERS.contains(&key) => format!("write {}", line("username", "me@example.com")),
        _ if PASSWORDS.contains(&key) => {
            format!(
                "{}, or leave it out and run `hs100d cloud login`",
                password_file("/etc/hs100d/cloud.password")
            )
        }
        "app" | "app_name" | "apptype" => format!("write {}", line("app_type", "Kasa_Android")),
        "app_ver" | "appversion" | "appver" | "version" => {
            format!("write {}", line("app_version", "3.4.451"))
        }
        "access_key" | "access_key_file" | "secret_key" | "secret_key_file" | "app_key" | "app_secret" => {
            "the keys are in files, which access_key_file and secret_key_file in [cloud.v2] name".to_owned()
        }
        "token" => "`hs100d cloud login` gets the token; remove this line".to_owned(),
        "host" | "server" | "region" | "endpoint" | "uri" => {
            format!(
                "write {}, or leave it out: TP-Link names the right server itself",
                line("url", "https://wap.tplinkcloud.com")
            )
        }
        _ if FLAGS.contains(&key) && value.as_deref() == Some("false") => {
            "to go without the cloud, remove the whole [cloud] table".to_owned()
        }
        _ if FLAGS.contains(&key) => "[cloud] itself turns it on; remove this line".to_owned(),
        _ if INTERVALS.contains(&key) => write_duration("poll_interval", value.as_deref(), "60s"),
        _ => return None,
    })
}

fn routing(key: &str, unknown: &Unknown<'_>) -> Option<String> {
    let value = shown(unknown);
    Some(match key {
        "route" | "mode" | "order" | "prefer" => write("policy", value.as_deref(), "local-then-cloud"),
        "ttl" | "command_timeout" => write_duration("command_ttl", value.as_deref(), "10s"),
        _ => return None,
    })
}

fn http(key: &str, unknown: &Unknown<'_>) -> Option<String> {
    let value = shown(unknown);
    Some(match key {
        _ if key == "port" || key == "bind" || HOSTS.contains(&key) => {
            let host = unknown.beside(&HOSTS).or(unknown.beside(&["bind"]));
            let ip =
                host.and_then(|host| host.parse::<IpAddr>().ok()).unwrap_or(IpAddr::from([127, 0, 0, 1]));
            let listen = SocketAddr::new(ip, port(unknown).unwrap_or(HTTP_PORT));
            format!("address and port are one key: write {}", line("listen", &listen.to_string()))
        }
        "socket" | "unix" | "unix_socket" | "path" => {
            let path =
                value.as_deref().filter(|path| path.starts_with('/')).unwrap_or("/run/hs100d/http.sock");
            format!("write {}", line("listen", &format!("unix:{path}")))
        }
        "auth" | "auth_token" | "api_key" | "apikey" | "api_token" | "access_token" | "bearer" | "key" => {
            token_file()
        }
        _ if PASSWORDS.contains(&key) => token_file(),
        _ if USERS.contains(&key) => {
            format!(
                "there are no users, only a token, which a browser asks for as the password: {}",
                token_file()
            )
        }
        "allowed_host" | "hosts" | "server_name" | "domain" | "domains" | "origin" | "origins" | "cors" => {
            let name = value.as_deref().unwrap_or("hs100d.lan");
            format!("write the names that a browser may use for this machine: allowed_hosts = [{name:?}]")
        }
        "get" | "allow_get" | "get_allowed" => {
            format!("write simple_get = {}", value.as_deref() != Some("false"))
        }
        "cert" | "cert_file" | "key_file" | "https" => NO_TLS.to_owned(),
        _ if TLS.contains(&key) => NO_TLS.to_owned(),
        _ if FLAGS.contains(&key) => format!("write enabled = {}", value.as_deref() != Some("false")),
        "metrics" | "page" | "api" | "prometheus" => {
            "the page, the API and the metrics are always served together; remove this line".to_owned()
        }
        _ => return None,
    })
}

fn plug(key: &str, unknown: &Unknown<'_>) -> Option<String> {
    let value = shown(unknown);
    Some(match key {
        "ip" | "ip_address" | "address" | "addr" | "hostname" => {
            write("host", value.as_deref(), "192.168.1.20")
        }
        "alias" | "title" | "label" | "friendly_name" | "topic" | "slug" => {
            let is_name = |text: &String| PlugName::new(text).is_ok();
            // An invalid name is an alias; the daemon makes a name of it in the same way.
            let name = value.map(|text| if is_name(&text) { text } else { slug(&text) }).filter(is_name);
            format!(
                "{}, as in its topic; device_id, mac or host says which plug it is",
                write("name", name.as_deref(), "kitchen-kettle")
            )
        }
        "id" | "deviceid" | "device" => {
            let id = value.as_deref().filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()));
            format!("{}, as `hs100d discover` shows it", write("device_id", id, "8006…"))
        }
        "mac_address" | "macaddr" => write("mac", value.as_deref(), "50:C7:BF:01:02:03"),
        "mode" | "prefer" | "via" => write("route", value.as_deref(), "local-then-cloud"),
        "type" | "model" | "protocol" => "the plug reports it; remove this line".to_owned(),
        _ if INTERVALS.contains(&key) => write_duration("poll_interval", value.as_deref(), "5s"),
        _ if USERS.contains(&key) || PASSWORDS.contains(&key) => {
            "the account is in [cloud], once for all plugs".to_owned()
        }
        _ => return None,
    })
}

fn broker_of_ones_own(why: Option<&str>, unknown: &Unknown<'_>) -> String {
    let why = why.unwrap_or("host, port and TLS are one key");
    let table = if unknown.table == "mqtt" { "" } else { "below [mqtt] " };
    format!("{why}: write {table}{}", line("url", &broker_url(None, unknown)))
}

/// The URL of a broker that is written in several keys.
fn broker_url(given: Option<&str>, unknown: &Unknown<'_>) -> String {
    let written = unknown.beside(&HOSTS);
    let written = given.or(written.as_deref()).filter(|host| is_fit_to_show(host)).unwrap_or_default();
    let (scheme, authority) = written.split_once("://").unwrap_or(("", written));
    let authority = authority.split('/').next().unwrap_or_default();
    let (host, own_port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && (!host.contains(':') || host.ends_with(']')) => {
            (host, port.parse().ok())
        }
        _ => (authority, None),
    };
    // A flag in place of a host.
    let host = if host.is_empty() || matches!(host, "true" | "false") { "broker.lan" } else { host };
    let host =
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let port = port(unknown).or(own_port);
    let flag = unknown.beside(&TLS);
    let is_secure = matches!(scheme, "mqtts" | "ssl" | "tls" | "tcps")
        || flag.map_or(port == Some(MQTTS_PORT), |flag| flag != "false");
    let (scheme, usual) = if is_secure { ("mqtts", MQTTS_PORT) } else { ("mqtt", MQTT_PORT) };
    format!("{scheme}://{host}:{}", port.unwrap_or(usual))
}

fn port(unknown: &Unknown<'_>) -> Option<u16> {
    unknown.beside(&["port"])?.parse().ok().filter(|port| *port != 0)
}

fn password_file(example: &str) -> String {
    format!(
        "write {}, a file with nothing but the password in it, or password",
        line("password_file", example)
    )
}

fn token_file() -> String {
    format!(
        "write {}, a file with nothing but the token in it, or token",
        line("token_file", "/etc/hs100d/http.token")
    )
}

fn form_of_documents(is_off: bool) -> &'static str {
    if is_off { "off" } else { "device" }
}

/// What to write, with the user's value or an example.
fn write(key: &str, value: Option<&str>, example: &str) -> String {
    format!("write {}", line(key, value.unwrap_or(example)))
}

/// The same for a duration; a plain number is in seconds.
fn write_duration(key: &str, value: Option<&str>, example: &str) -> String {
    let seconds = value.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    write(key, seconds.map(|text| format!("{text}s")).as_deref().or(value), example)
}

/// A line of the file.
fn line(key: &str, value: &str) -> String {
    format!("{key} = {value:?}")
}

/// The value, if a message may repeat it.
fn shown(unknown: &Unknown<'_>) -> Option<String> {
    unknown.value().filter(|value| is_fit_to_show(value)).map(std::borrow::Cow::into_owned)
}

/// Text with an `@` may be a password before a host, or the e-mail address.
fn is_fit_to_show(value: &str) -> bool {
    !value.is_empty() && value.chars().count() <= SHOWN && !value.chars().any(|c| c.is_control() || c == '@')
}
