//! The parts of the program, as the SBOM of contrib/sbom.py lists them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The output of the script; `None` if there is no Python and none is required.
fn sbom(arguments: &[&str]) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/sbom.py");
    let output = Command::new("python3").arg(script).args(arguments).output();
    let output = match output {
        Err(error) if std::env::var_os("HS100D_REQUIRE_PEERS").is_none() => {
            eprintln!("skipped: python3: {error}");
            return None;
        }
        output => output.expect("python3"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The values of this key in each row.
fn all<'a>(rows: &'a Value, key: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().map(|row| row[key].as_str().unwrap()).collect()
}

#[test]
fn the_sbom_names_all_that_is_shipped_with_its_licence_and_its_checksum() {
    let Some(text) = sbom(&[]) else { return };
    assert_eq!(sbom(&[]).unwrap(), text, "the same tree gives the same document");
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&document["bomFormat"], &document["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let serial = document["serialNumber"].as_str().unwrap().strip_prefix("urn:uuid:").unwrap();
    assert!(uuid::Uuid::parse_str(serial).is_ok(), "{serial}");
    assert_eq!(document["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));

    let lock = include_str!("../../Cargo.lock");
    let components = document["components"].as_array().unwrap();
    for component in components {
        let [name, version] = ["name", "version"].map(|key| component[key].as_str().unwrap());
        let checksum = component["hashes"][0]["content"].as_str().unwrap();
        let row = format!("name = \"{name}\"\nversion = \"{version}\"\nsource = ");
        let row = &lock[lock.find(&row).unwrap_or_else(|| panic!("{name} {version} is not locked"))..];
        let row = row.split("\n\n").next().unwrap();
        assert!(row.contains(&format!("checksum = \"{checksum}\"")), "{name}");
        assert!(!component["licenses"][0]["expression"].as_str().unwrap().is_empty(), "{name}");
        assert_eq!(component["purl"], format!("pkg:cargo/{name}@{version}"));
    }
    let shipped = components.iter().filter(|one| one["scope"] == "required");
    let shipped: BTreeSet<&str> = shipped.map(|one| one["name"].as_str().unwrap()).collect();
    for name in ["tokio", "rustls", "ring", "rumqttc-v5-next", "secrecy"] {
        assert!(shipped.contains(name), "{name}");
    }
    for name in ["serde_derive", "tempfile", "proptest", "cc", "openssl"] {
        assert!(!shipped.contains(name), "{name} runs at build time, in tests, or not at all");
    }

    let known: BTreeSet<&str> = all(&document["components"], "bom-ref").into_iter().collect();
    assert_eq!(known.len(), components.len(), "each is named once");
    let root = document["metadata"]["component"]["bom-ref"].as_str().unwrap();
    for row in document["dependencies"].as_array().unwrap() {
        let refs = row["dependsOn"].as_array().unwrap().iter().chain([&row["ref"]]);
        refs.map(|one| one.as_str().unwrap())
            .for_each(|one| assert!(one == root || known.contains(one), "{one}"));
    }
    assert!(!text.contains("pkg:cargo/hs100d-"), "our own crates are parts of the program");
    let of_root = document["dependencies"].as_array().unwrap().iter().find(|row| row["ref"] == root).unwrap();
    let of_root = of_root["dependsOn"].as_array().unwrap();
    for (name, of) in [("axum", "the program"), ("unicode-normalization", "core"), ("reqwest", "transport")] {
        let is_it = |one: &&Value| one.as_str().unwrap().starts_with(&format!("pkg:cargo/{name}@"));
        assert_eq!(of_root.iter().filter(is_it).count(), 1, "{name} of {of}");
    }
    let lean = sbom(&["--no-default-features"]).unwrap();
    assert!(!lean.contains("pkg:cargo/mqtt5@"), "features that are left out are left out");
}
