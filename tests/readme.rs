//! The README at its word: its configs are taken, its links lead somewhere, its table of exit codes is the program's.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use hs100d::commands::Exit;

const README: &str = include_str!("../README.md");

/// The blocks of code in this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    README.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_config_in_it_is_taken() {
    let place = tempfile::tempdir().unwrap();
    let etc = format!("{}/", place.path().display());
    fs::write(place.path().join("mqtt.password"), "pretend-password").unwrap();
    let authority = rcgen::generate_simple_self_signed(["broker.example.com".to_owned()]).unwrap();
    fs::write(place.path().join("ca.pem"), authority.cert.pem()).unwrap();
    let configs = blocks("toml");
    assert_eq!(configs[0].lines().count(), 6, "what is called six lines has as many");
    for config in configs {
        let file = place.path().join("hs100d.toml");
        fs::write(&file, config.replace("/etc/hs100d/", &etc)).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_hs100d"));
        check.arg("--config").arg(&file).arg("check").env("STATE_DIRECTORY", place.path().join("state"));
        let done = check.output().unwrap();
        assert!(done.status.success(), "{config}{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn every_link_in_it_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let anchors: HashSet<_> = README
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_matches(['#', ' '])))
        .collect();
    let links: Vec<_> = README.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert!(links.len() > 20, "they are found: {links:?}");
    for link in links {
        match link.strip_prefix('#') {
            Some(name) => assert!(anchors.contains(name), "there is no heading for #{name}"),
            None => assert!(root.join(link).exists(), "there is no {link}"),
        }
    }
}

/// What a heading is called in links.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn its_exit_codes_are_those_of_the_program() {
    for exit in Exit::ALL {
        let row = format!("| {} | {} |", exit.code(), exit.meaning());
        assert!(README.contains(&row), "there is no row {row}");
    }
}
