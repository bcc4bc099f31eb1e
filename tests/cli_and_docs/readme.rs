//! The README and the pages in `docs/`: every config in them is valid, every link and anchor exists, and the table of
//! exit codes matches the program.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use hs100d::commands::Exit;

const README: &str = "README.md";

/// The text of each page, by its path in the repository.
fn pages() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let others = [README, "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name));
    let pages: BTreeMap<_, _> = docs
        .chain(others)
        .map(|path| (path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    assert!(pages.len() > 10, "{:?}", pages.keys());
    pages
}

/// The code blocks of a page in this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// The page without its code blocks.
fn prose(page: &str) -> String {
    page.split("\n```").step_by(2).collect()
}

#[test]
fn every_config_in_the_pages_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let etc = format!("{}/", folder.path().display());
    for password in
        ["mqtt.password", "local.password", "http.token", "cloud.v2.access-key", "cloud.v2.secret-key"]
    {
        fs::write(folder.path().join(password), "pretend-password").unwrap();
    }
    let authority = rcgen::generate_simple_self_signed(["broker.example.com".to_owned()]).unwrap();
    fs::write(folder.path().join("ca.pem"), authority.cert.pem()).unwrap();
    let pages = pages();
    assert_eq!(blocks(&pages[Path::new(README)], "toml")[0].lines().count(), 6, "the README says six lines");
    for (path, page) in &pages {
        for config in blocks(page, "toml") {
            let file = folder.path().join("hs100d.toml");
            fs::write(&file, config.replace("/etc/hs100d/", &etc)).unwrap();
            let mut check = Command::new(env!("CARGO_BIN_EXE_hs100d"));
            check.arg("--config").arg(&file).arg("check");
            // As systemd passes the files in /etc/hs100d to the service.
            check.env("CREDENTIALS_DIRECTORY", folder.path());
            let done = check.env("STATE_DIRECTORY", folder.path().join("state")).output().unwrap();
            let complaint = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{}: {config}{complaint}", path.display());
        }
    }
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages();
    let anchors: BTreeMap<_, _> = pages.iter().map(|(path, page)| (path.clone(), anchors(page))).collect();
    let mut count = 0;
    for (path, page) in &pages {
        let prose = prose(page);
        let links = prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.starts_with("https://")) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, name)| (file, Some(name)));
            let target = if file.is_empty() { path.clone() } else { beside(path, file) };
            assert!(root.join(&target).exists(), "{}: there is no {link}", path.display());
            if let Some(anchor) = anchor {
                let is_there = anchors.get(&target).is_some_and(|names| names.contains(anchor));
                assert!(is_there, "{}: there is no heading for {link}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 100, "only {count} links were found");
}

#[test]
fn every_path_in_the_pages_exists() {
    const FOLDERS: [&str; 9] =
        ["src", "crates", "tests", "docs", "examples", "fuzz", "benches", "contrib", ".ci"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for (page, text) in pages().iter().filter(|(page, _)| *page != Path::new("CHANGELOG.md")) {
        let prose = prose(text);
        // `tests/file.rs: name_of_a_test` is a path as well; `tests/service_*.rs` is several.
        let paths = prose.split('`').skip(1).step_by(2).filter_map(|code| code.split([':', ' ']).next());
        let is_path = |path: &&str| {
            let folder = path.split_once('/').map(|(folder, _)| folder);
            folder.is_some_and(|folder| FOLDERS.contains(&folder)) && !path.contains(['*', '<'])
        };
        // Only a run of the fuzzer makes this folder.
        for path in paths.filter(is_path).filter(|path| *path != "fuzz/artifacts") {
            assert!(root.join(path).exists(), "{}: there is no {path}", page.display());
            count += 1;
        }
    }
    assert!(count > 100, "only {count} paths were found");
}

/// The anchors of a page's headings.
fn anchors(page: &str) -> HashSet<String> {
    let headings = prose(page);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_matches(['#', ' ']))).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The target of a link on a page, as a path from the root of the repository.
fn beside(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().unwrap().to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{}: {link} leaves the repository", page.display()),
            part => path.push(part),
        }
    }
    path
}

#[test]
fn the_readme_has_the_exit_codes_of_the_program() {
    let pages = pages();
    for exit in Exit::ALL {
        let row = format!("| {} | {} |", exit.code(), exit.meaning());
        assert!(pages[Path::new(README)].contains(&row), "there is no row {row}");
    }
}
