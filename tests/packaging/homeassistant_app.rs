//! The files of the Home Assistant app: what the Supervisor and the linter of the community's apps ask for, and that the files
//! agree with each other and with the program.
//!
//! Python reads the YAML, with the library that the Supervisor uses. Without it, or without apparmor_parser, those tests say
//! so and pass, unless `HS100D_REQUIRE_PEERS` is 1, as in CI.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::peers::{peers, script, skip};

/// The processors that the Supervisor runs on.
const ARCHITECTURES: [&str; 2] = ["aarch64", "amd64"];

/// The keys of `config.yaml` that an app of this kind may have, with the default that must not be spelled out. The Supervisor
/// drops other keys without a word. Not among them: what it no longer reads (`advanced`, `codenotary`, `legacy`), what a
/// HEALTHCHECK replaces (`watchdog`), and rights that hs100d does not need.
fn keys() -> Vec<(&'static str, Option<Value>)> {
    vec![
        ("arch", None),
        ("boot", Some(json!("auto"))),
        ("description", None),
        ("homeassistant", None),
        ("host_network", Some(json!(false))),
        ("image", None),
        ("ingress", Some(json!(false))),
        ("ingress_entry", Some(json!("/"))),
        ("ingress_port", Some(json!(8099))),
        ("ingress_stream", Some(json!(false))),
        ("init", Some(json!(true))),
        ("map", Some(json!([]))),
        ("name", None),
        ("options", Some(json!({}))),
        ("panel_admin", Some(json!(true))),
        ("panel_icon", Some(json!("mdi:puzzle"))),
        ("panel_title", None),
        ("schema", Some(json!({}))),
        ("services", Some(json!([]))),
        ("slug", None),
        ("stage", Some(json!("stable"))),
        ("startup", Some(json!("application"))),
        ("timeout", Some(json!(10))),
        ("url", None),
        ("version", None),
    ]
}

#[test]
fn the_config_has_what_the_supervisor_needs_and_spells_out_no_default() {
    let Some(config) = yaml("hs100d/config.yaml") else { return };
    let known = keys();
    for (key, value) in config.as_object().unwrap() {
        let (_, default) =
            known.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("{key} is not known"));
        assert_ne!(Some(value), default.as_ref(), "{key} is the default: leave it out");
    }
    for key in ["name", "version", "slug", "description", "url", "image", "homeassistant"] {
        assert!(config[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {}", config[key]);
    }
    let slug = config["slug"].as_str().unwrap();
    assert!(slug.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{slug}");
    assert_eq!(slug, "hs100d", "the slug is the folder's name, and part of every user's paths");
    assert_eq!(config["arch"], json!(ARCHITECTURES));
    let image = config["image"].as_str().unwrap();
    assert!(
        !image.contains("{arch}") && !image.rsplit('/').next().unwrap().contains(':'),
        "{image}: one name, no tag"
    );
    assert!(matches!(config["stage"].as_str(), Some("experimental" | "deprecated")), "{}", config["stage"]);
    assert_eq!(config["startup"], "services");
    assert!((10..=300).contains(&config["timeout"].as_i64().unwrap()), "{}", config["timeout"]);
    assert_eq!(config["services"], json!(["mqtt:need"]));
    // The linter takes a drawn port only on the host's network, where others may have taken a fixed one.
    assert_eq!([&config["ingress"], &config["host_network"], &config["ingress_stream"]], [true; 3]);
    assert_eq!(config["ingress_port"], 0);
    // Under its newer name, app_config, older Supervisors do not know it.
    assert_eq!(config["map"], json!(["addon_config:ro"]), "only to read");
    assert!(!app("build.yaml").exists(), "the Supervisor does not read it any more");
}

#[test]
fn the_repository_names_the_maintainer_of_the_package_and_the_same_place_everywhere() {
    let (Some(repository), Some(config)) = (yaml("repository.yaml"), yaml("hs100d/config.yaml")) else {
        return;
    };
    assert_eq!(repository["name"], config["name"]);
    assert_eq!(repository["url"], config["url"]);
    let cargo = read("Cargo.toml");
    let maintainer = cargo.lines().find_map(|line| line.strip_prefix("maintainer = \"")).unwrap();
    assert_eq!(repository["maintainer"].as_str(), maintainer.split('"').next());
    let place = config["url"].as_str().unwrap();
    for page in ["DOCS.md", "README.md", "CHANGELOG.md", "../README.md"] {
        for address in fs::read_to_string(app(page)).unwrap().split("https://").skip(1) {
            let address = format!("https://{address}");
            assert!(address.starts_with(place), "{page}: {}", address.lines().next().unwrap());
        }
    }
    for page in [
        "README.md",
        "docs/HOME-ASSISTANT.md",
        "contrib/homeassistant/README.md",
        "contrib/homeassistant/hs100d/DOCS.md",
    ] {
        assert!(
            read(page).contains(&format!("`{place}#homeassistant`")),
            "{page} does not name the address to add"
        );
    }
    // Whoever publishes sets all of them, or none: an address of nobody must not be left over.
    let is_placeholder = |value: &Value| value.as_str().unwrap().contains("example.org");
    assert_eq!(is_placeholder(&config["image"]), is_placeholder(&config["url"]), "{config}");
}

#[test]
fn every_version_is_that_of_the_program() {
    let version = env!("CARGO_PKG_VERSION");
    let files = [
        ("config.yaml", format!("\nversion: {version}\n")),
        ("Dockerfile", format!("\nARG BUILD_VERSION={version}\n")),
        ("CHANGELOG.md", format!("\n## {version}\n")),
    ];
    for (file, line) in files {
        let text = fs::read_to_string(app(file)).unwrap();
        assert!(text.contains(&line), "{file} has no line {}", line.trim());
    }
}

#[test]
fn every_type_of_an_option_is_one_that_the_supervisor_knows() {
    let Some(config) = yaml("hs100d/config.yaml") else { return };
    let mut count = 0;
    each_type(&config["schema"], &mut |path, kind| {
        assert!(is_type(kind), "{path}: {kind}");
        count += 1;
    });
    assert!(count > 10, "only {count} types were found");
    for bad in ["text", "str(1,64)", "list()", "match(", "int(a,b)", "bool??", "device"] {
        assert!(!is_type(bad), "{bad}");
    }
}

/// The Supervisor refuses to start an app with options that lack one. It takes a question mark only at the type of a single
/// value: a group or a list is always asked for.
#[test]
fn the_app_starts_with_the_options_as_they_are_after_the_installation() {
    let Some(config) = yaml("hs100d/config.yaml") else { return };
    let (options, schema) = (config["options"].as_object().unwrap(), config["schema"].as_object().unwrap());
    for (name, kind) in schema {
        let is_optional = kind.as_str().is_some_and(|kind| kind.ends_with('?'));
        assert_eq!(options.contains_key(name), !is_optional, "{name}");
    }
    for (name, value) in options {
        match &schema[name] {
            Value::String(kind) => {
                assert!(takes(kind, value.as_str().unwrap()), "{name}: {value} is not {kind}")
            }
            Value::Array(_) => assert_eq!(value, &json!([]), "{name}"),
            Value::Object(group) => {
                assert_eq!(value, &json!({}), "{name}");
                for (field, kind) in group {
                    assert!(kind.as_str().unwrap().ends_with('?'), "{name}.{field} would be missing");
                }
            }
            other => panic!("{name}: {other}"),
        }
    }
    assert_eq!(options["log"], "info");
}

#[test]
fn both_languages_name_and_explain_every_option_and_no_other() {
    let Some(config) = yaml("hs100d/config.yaml") else { return };
    let schema = config["schema"].as_object().unwrap();
    let mut texts = Vec::new();
    for language in ["en", "de"] {
        let translation = yaml(&format!("hs100d/translations/{language}.yaml")).unwrap();
        assert_eq!(
            translation.as_object().unwrap().keys().collect::<Vec<_>>(),
            ["configuration"],
            "{language}"
        );
        let mut found = Vec::new();
        compare(language, schema, &translation["configuration"], &mut found);
        assert!(found.len() > 12, "{language}: {found:?}");
        texts.push(found);
    }
    let [english, german] = [&texts[0], &texts[1]];
    for (english, german) in english.iter().zip(german) {
        assert_ne!(english, german, "not translated");
    }
}

#[test]
fn the_documentation_has_a_section_for_each_option_and_names_each_of_its_fields() {
    let Some(translation) = yaml("hs100d/translations/en.yaml") else { return };
    let docs = fs::read_to_string(app("DOCS.md")).unwrap();
    for option in translation["configuration"].as_object().unwrap().values() {
        let heading = format!("\n### {}\n", option["name"].as_str().unwrap());
        let (_, section) =
            docs.split_once(&heading).unwrap_or_else(|| panic!("there is no heading{heading}"));
        let section = section.split("\n#").next().unwrap();
        for field in option["fields"].as_object().into_iter().flat_map(Map::values) {
            let name = field["name"].as_str().unwrap();
            assert!(section.contains(&format!("*{name}*")), "{heading}{name} is not explained");
        }
    }
    let anchors: BTreeSet<String> =
        docs.lines().filter_map(|line| Some(anchor(line.strip_prefix('#')?))).collect();
    for link in docs.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(anchors.contains(link), "there is no heading for #{link}: {anchors:?}");
    }
}

#[test]
fn the_image_starts_the_app_says_whether_it_is_well_and_has_the_labels_of_the_config() {
    let text = fs::read_to_string(app("Dockerfile")).unwrap();
    let instructions = instructions(&text);
    let all = |name: &str| -> Vec<&str> {
        instructions.iter().filter_map(|line| line.strip_prefix(&format!("{name} "))).collect()
    };
    let one = |name: &str| {
        let found = all(name);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0].to_owned()
    };
    assert_eq!(one("ENTRYPOINT"), r#"["/usr/bin/hs100d", "app"]"#);
    assert!(one("HEALTHCHECK").ends_with(r#"CMD ["/usr/bin/hs100d", "health"]"#));
    assert_eq!(one("FROM"), "${BUILD_FROM}", "the base can be replaced");
    let base = instructions.iter().find_map(|line| line.strip_prefix("ARG BUILD_FROM=")).unwrap();
    let tag = base.rsplit('/').next().unwrap().split_once(':').expect("the base has a tag").1;
    assert_ne!(tag, "latest", "the base is a release");
    assert!(
        !instructions.iter().any(|line| line.starts_with("RUN ") || line.starts_with("ADD ")),
        "nothing runs in here"
    );
    for arch in ARCHITECTURES {
        assert!(text.contains(&format!("hs100d-{arch}")), "how to build for {arch} is not said");
    }
    let copies = all("COPY");
    let [program, licences] = copies[..] else { panic!("{copies:?}") };
    assert!(
        program.ends_with("hs100d-${BUILD_ARCH} /usr/bin/hs100d"),
        "each processor has a program of its own"
    );
    for file in ["LICENSE-APACHE", "LICENSE-MIT", "third-party.txt"] {
        assert!(licences.contains(file), "{file}: {licences}");
    }

    let Some(config) = yaml("hs100d/config.yaml") else { return };
    let labels = one("LABEL");
    let description = config["description"].as_str().unwrap();
    for (label, value) in [
        ("io.hass.type", "app"),
        ("io.hass.name", config["name"].as_str().unwrap()),
        ("io.hass.description", description),
        ("io.hass.arch", "${BUILD_ARCH}"),
        ("io.hass.version", "${BUILD_VERSION}"),
        ("org.opencontainers.image.description", description),
        ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE")),
    ] {
        assert!(labels.contains(&format!("{label}=\"{value}\"")), "{label}: {labels}");
    }
}

#[test]
fn the_pictures_have_the_sizes_that_the_store_shows() {
    for (file, size) in [("icon.png", (128, 128)), ("logo.png", (250, 100))] {
        let bytes = fs::read(app(file)).unwrap();
        assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n", "{file}");
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((number(16), number(20)), size, "{file}");
        // Colour type 6 has transparency, for light and dark themes.
        assert_eq!(bytes[25], 6, "{file}");
    }
}

/// The Supervisor replaces the name of the one profile by that of the installed app.
#[test]
fn the_apparmor_profile_is_taken_by_the_parser_and_gives_nothing_away() {
    let file = app("apparmor.txt");
    let text = fs::read_to_string(&file).unwrap();
    let profiles: Vec<_> = text.lines().filter(|line| line.starts_with("profile ")).collect();
    assert_eq!(profiles, ["profile hs100d flags=(attach_disconnected,mediate_deleted) {"]);
    let rules: BTreeSet<_> = text.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
    for all in ["file,", "network,", "capability,", "mount,", "ptrace,", "/** rw,", "/** r,"] {
        assert!(!rules.contains(all), "{all}");
    }
    for needed in ["/usr/bin/hs100d rix,", "/data/** rw,", "/config/** r,", "network netlink raw,"] {
        assert!(rules.contains(needed), "{needed}");
    }
    let Some(complaint) = apparmor_parser(&file) else { return };
    assert_eq!(complaint, "", "apparmor_parser refuses the profile");
    let broken = tempfile::NamedTempFile::new().unwrap();
    fs::write(broken.path(), text.replace("network netlink raw,", "network netlink raw")).unwrap();
    assert!(apparmor_parser(broken.path()).unwrap().contains("syntax error"), "the parser would notice");
}

/// The parser's complaint, empty if it has none; `None` if it is not there and not required.
fn apparmor_parser(profile: &Path) -> Option<String> {
    // Debian installs it where only root looks.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut parser = Command::new("apparmor_parser");
    // Read and compile; load nothing into the kernel, and keep no cache.
    let output = parser.args(["-Q", "-K"]).arg(profile).env("PATH", path).output();
    let output = match output {
        Err(error) if std::env::var_os("HS100D_REQUIRE_PEERS").is_none() => {
            skip(&format!("apparmor_parser: {error}"));
            return None;
        }
        output => output.expect("apparmor_parser"),
    };
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(if output.status.success() { String::new() } else { format!("refused: {complaint}") })
}

/// One instruction of a Dockerfile a line, without comments.
fn instructions(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .join("\n")
        .replace("\\\n", "")
        .lines()
        .map(str::to_owned)
        .filter(|line| !line.trim().is_empty())
        .collect()
}

/// Calls back with the path and the type of each value in a schema.
pub(crate) fn each_type(schema: &Value, found: &mut impl FnMut(&str, &str)) {
    fn visit(path: &str, schema: &Value, found: &mut impl FnMut(&str, &str)) {
        match schema {
            Value::String(kind) => found(path, kind),
            Value::Array(of) => {
                assert_eq!(of.len(), 1, "{path}: a list has one type");
                visit(&format!("{path}[]"), &of[0], found);
            }
            Value::Object(group) => {
                group.iter().for_each(|(name, kind)| visit(&format!("{path}.{name}"), kind, found))
            }
            other => panic!("{path}: {other} is not a type"),
        }
    }
    visit("schema", schema, found);
}

/// The types of the Supervisor that hs100d has a use for. Not `str(min,max)`: it compares the text with the numbers, and
/// refuses every text.
fn is_type(kind: &str) -> bool {
    let kind = kind.strip_suffix('?').unwrap_or(kind);
    let Some((name, arguments)) = kind.split_once('(') else {
        return matches!(kind, "str" | "bool" | "int" | "float" | "email" | "url" | "password" | "port");
    };
    let Some(arguments) = arguments.strip_suffix(')') else { return false };
    match name {
        "list" => arguments.split('|').all(|word| !word.is_empty()),
        "match" => arguments.starts_with('^') && arguments.ends_with('$'),
        "int" => {
            let limits = arguments.split_once(',');
            limits.is_some_and(|(low, high)| [low, high].iter().all(|limit| limit.parse::<i64>().is_ok()))
        }
        _ => false,
    }
}

/// Whether a value, as the options have it, is of this type.
fn takes(kind: &str, value: &str) -> bool {
    let words = kind.strip_prefix("list(").and_then(|rest| rest.strip_suffix(')'));
    words.is_none_or(|words| words.split('|').any(|word| word == value))
}

/// Compares a group of the schema with its translations, and collects all texts in the order of the names.
fn compare(path: &str, schema: &Map<String, Value>, translations: &Value, texts: &mut Vec<String>) {
    let translations = translations.as_object().unwrap_or_else(|| panic!("{path} has no translations"));
    assert_eq!(schema.keys().collect::<Vec<_>>(), translations.keys().collect::<Vec<_>>(), "{path}");
    for (name, kind) in schema {
        let (path, translation) = (format!("{path}: {name}"), &translations[name]);
        let text =
            |key: &str| translation[key].as_str().unwrap_or_else(|| panic!("{path} has no {key}")).to_owned();
        let [name, description] = [text("name"), text("description")];
        assert!(!name.ends_with('.') && description.ends_with('.'), "{path}: {name}: {description}");
        texts.push(format!("{name}: {description}"));
        let group = kind.as_array().map_or(kind, |of| &of[0]).as_object();
        match group {
            Some(group) => compare(&path, group, &translation["fields"], texts),
            None => assert!(translation.get("fields").is_none(), "{path} has no fields"),
        }
    }
}

/// As GitHub and Home Assistant make it from a heading.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_matches(['#', ' ']).to_lowercase();
    heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .collect::<String>()
        .replace(' ', "-")
}

/// The content of a YAML file in contrib/homeassistant; `None` if nothing can read it and nothing has to.
pub(crate) fn yaml(file: &str) -> Option<Value> {
    let peers = peers()?;
    let mut python = Command::new(peers.join("python/bin/python"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/homeassistant").join(file);
    let output = python.arg(script("read_yaml.py")).arg(path).output().unwrap();
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// The path of a file of the app.
fn app(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/homeassistant/hs100d").join(file)
}

pub(crate) fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}
