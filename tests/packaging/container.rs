//! The files of the container image, held together. tests/container/run.sh runs the image.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::process::Command;

use serde_json::json;

use crate::homeassistant_app::{read, yaml};

#[test]
fn the_compose_file_starts_the_image_with_the_documented_options() {
    let Some(compose) = yaml("../container/compose.yaml") else { return };
    let service = &compose["services"]["hs100d"];
    let documented = read("docs/PACKAGING.md");
    let documented = documented.split("## Containers").nth(1).unwrap();
    let command = documented.split("$ sudo podman run ").nth(1).unwrap().split('$').next().unwrap();
    let words: Vec<_> = command.split_whitespace().filter(|word| *word != "\\").collect();
    let after = |option: &str| {
        let places = words.windows(2).filter(|pair| pair[0] == option);
        places.map(|pair| pair[1].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(json!([service["network_mode"]]), json!(after("--network")));
    assert!(service["read_only"] == true && words.contains(&"--read-only"));
    assert_eq!((&service["cap_drop"], after("--cap-drop")), (&json!(["ALL"]), vec!["all".to_owned()]));
    assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]));
    assert_eq!(after("--security-opt"), ["no-new-privileges"]);
    // Compose puts the name of the project before that of a volume.
    let volumes: Vec<_> =
        after("-v").iter().map(|volume| volume.replace("hs100d:/var", "state:/var")).collect();
    assert_eq!(service["volumes"], json!(volumes));
    assert_eq!(compose["volumes"].as_object().unwrap().keys().collect::<Vec<_>>(), ["state"]);
    let keys: Vec<_> = service.as_object().unwrap().keys().map(String::as_str).collect();
    let known =
        ["cap_drop", "image", "network_mode", "read_only", "restart", "security_opt", "stop_grace_period"];
    assert!(keys.iter().all(|key| known.contains(key) || *key == "volumes"), "{keys:?}");
}

#[test]
fn the_image_is_built_with_the_oldest_compiler_and_its_sbom_for_what_is_in_it() {
    let [container, script, cargo] =
        ["contrib/container/Containerfile", "contrib/container/build.sh", "Cargo.toml"].map(read);
    let oldest = cargo.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(container.contains(&format!("rust:{oldest}-slim-bookworm")), "rust-version is {oldest}");
    let features = "--no-default-features --features broker";
    assert!(container.contains(features) && script.contains(features));
    for (line, why) in [
        ("USER 9999:9999", "not root"),
        ("ENTRYPOINT [\"/usr/bin/hs100d\"]", "signals reach the daemon"),
        ("FROM scratch", "no shell"),
        ("CMD [\"/usr/bin/hs100d\", \"health\"]", "the engine sees whether it is well"),
    ] {
        assert!(container.contains(line), "{line}: {why}");
    }
}

#[test]
fn the_sbom_of_an_image_names_the_debian_packages_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        (
            "libc6",
            "Package: libc6\nArchitecture: amd64\nVersion: 2.36-9+deb12u14\nDescription: GNU C Library\n more: no\n",
        ),
        ("base", "Package: base\nVersion: 1:2\nArchitecture: all\n"),
        ("odd", "Package: odd\n"),
    ];
    let paths = files.map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let sbom = |paths: &[std::path::PathBuf]| {
        let mut python = Command::new("python3");
        python
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/sbom.py"))
            .arg("--debian")
            .args(paths)
            .output()
    };
    let output = match sbom(&paths[..2]) {
        Err(error) if std::env::var_os("HS100D_REQUIRE_PEERS").is_none() => {
            eprintln!("skipped: python3: {error}");
            return;
        }
        output => output.expect("python3"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages =
        ["pkg:deb/debian/base@1%3A2?arch=all", "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64"];
    let components = document["components"].as_array().unwrap();
    let listed: Vec<_> =
        components.iter().rev().take(2).rev().map(|one| one["purl"].as_str().unwrap()).collect();
    assert_eq!(listed, packages);
    let root = &document["metadata"]["component"]["bom-ref"];
    let mut dependencies = document["dependencies"].as_array().unwrap().iter();
    let needs = &dependencies.find(|one| &one["ref"] == root).unwrap()["dependsOn"];
    assert!(packages.iter().all(|package| needs.as_array().unwrap().contains(&json!(package))), "{needs}");

    let output = sbom(&paths[2..]).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("odd: not a paragraph of dpkg's status"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}
