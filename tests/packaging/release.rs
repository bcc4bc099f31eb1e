//! The scripts that make the packages and a release: what they refuse, and the list of the files of a release.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a script of the checkout, with a compiler that has no standard library except that of this folder, if any.
fn run(script: &str, arguments: &[&str], compiler: &Compiler) -> Output {
    let mut command = Command::new(root().join(script));
    command.args(arguments).env("RUSTC", &compiler.rustc).env("PATH", &compiler.path);
    command.env_remove("HS100D_PROFILE").output().unwrap()
}

/// A stand-in for a compiler on an arm64 machine without any cross compiler.
struct Compiler {
    _directory: tempfile::TempDir,
    rustc: PathBuf,
    path: PathBuf,
    library: PathBuf,
}

impl Compiler {
    fn new() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let at = |name: &str| directory.path().join(name);
        let (rustc, path, library) = (at("rustc"), at("bin"), at("lib"));
        fs::create_dir(&path).unwrap();
        fs::create_dir(&library).unwrap();
        for tool in ["bash", "cat", "dirname", "env", "head", "ls", "realpath", "sed"] {
            let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
            let found = found.into_iter().find(|file| file.exists()).unwrap_or_else(|| panic!("{tool}"));
            std::os::unix::fs::symlink(found, path.join(tool)).unwrap();
        }
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n-vV) echo 'host: aarch64-unknown-linux-gnu' ;;\n\
             *target-libdir*) echo '{}' ;;\n*) echo 'rustc 1.89.0' ;;\nesac\n",
            library.display()
        );
        fs::write(&rustc, script).unwrap();
        fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
        Self { _directory: directory, rustc, path, library }
    }
}

/// That a run failed with one line that holds all of these.
fn refused(output: &Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    parts.iter().for_each(|part| assert!(said.contains(part), "{part}: {said}"));
}

#[test]
fn arguments_that_make_no_sense_are_refused_with_one_line() {
    let compiler = Compiler::new();
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let cases: [(&str, &[&str], &[&str]); 10] = [
        ("contrib/build.sh", &["--arch"], &["needs a value", "amd64, arm64 or armhf"]),
        ("contrib/build.sh", &["--arch", "armel"], &["armel", "amd64, arm64 or armhf"]),
        ("contrib/build.sh", &["--target=wasm32-wasip1"], &["--target=wasm32-wasip1", "--arch"]),
        ("contrib/build.sh", &["--release"], &["--release", "HS100D_PROFILE"]),
        ("contrib/package.sh", &["--arch"], &["needs a value", "amd64, arm64 or armhf"]),
        ("contrib/package.sh", &["--arch=mips"], &["mips", "amd64, arm64 or armhf"]),
        ("contrib/package.sh", &["--target", "wasm32-wasip1"], &["--target", "--arch"]),
        ("contrib/release.sh", &["--tag", "v99.0.0"], &["v99.0.0", "Cargo.toml", version]),
        ("contrib/release.sh", &["--sign"], &["--sign", "--arch, --tag and --list"]),
        ("contrib/release.sh", &["src"], &["src", "an empty folder"]),
    ];
    for (script, arguments, parts) in cases {
        refused(&run(script, arguments, &compiler), &[&[script, ": "].concat()]);
        refused(&run(script, arguments, &compiler), parts);
    }
    assert!(root().join("src/main.rs").exists());
}

#[test]
fn what_a_build_for_another_processor_needs_is_named_with_the_command_that_installs_it() {
    let compiler = Compiler::new();
    let build = || run("contrib/build.sh", &["--arch", "armhf"], &compiler);
    refused(
        &build(),
        &["rustup target add armv7-unknown-linux-gnueabihf", "apt install libstd-rust-web-dev:armhf"],
    );
    fs::write(compiler.library.join("libstd-1234.rlib"), "").unwrap();
    refused(&build(), &["apt install gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"]);
    let build = run("contrib/build.sh", &["--arch", "amd64"], &compiler);
    refused(&build, &["apt install gcc-x86-64-linux-gnu libc6-dev-amd64-cross"]);
    fs::remove_file(&compiler.rustc).unwrap();
    refused(
        &run("contrib/build.sh", &["--arch", "arm64"], &compiler),
        &["rustc is not installed", "README.md"],
    );
}

#[test]
fn the_files_of_a_release_are_those_that_the_document_lists() {
    let output = Command::new(root().join("contrib/release.sh")).arg("--list").output().unwrap();
    let mut made: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let document = fs::read_to_string(root().join("docs/RELEASING.md")).unwrap();
    let section = document.split("\n## ").find(|section| section.starts_with("The artefacts")).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut listed: Vec<_> = rows
        .map(|name| name.replace("1.2.3", env!("CARGO_PKG_VERSION")))
        .flat_map(|name| match name.contains("amd64") {
            true => ["amd64", "arm64", "armhf"].map(|arch| name.replace("amd64", arch)).to_vec(),
            false => vec![name],
        })
        .collect();
    made.sort();
    listed.sort();
    assert_eq!(made, listed);
}

#[test]
fn a_tag_makes_a_release_with_the_same_script() {
    let workflow = fs::read_to_string(root().join(".github/workflows/release.yml")).unwrap();
    for part in [
        "contrib/release.sh --tag \"$GITHUB_REF_NAME\"",
        "uses: ./.github/workflows/gate.yml",
        "target/release-files/*",
    ] {
        assert!(workflow.contains(part), "{part}");
    }
}
