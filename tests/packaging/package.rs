//! The Debian package, installed by apt in a clean Debian, upgraded, removed and purged, as users do.
//!
//! `tests/package/prepare.sh` makes the package and the tree. Without it, or without root, the tests say so and pass,
//! unless `HS100D_REQUIRE_PEERS` is 1, as in CI. The packages for other processors do the same in qemu, once
//! `tests/package/prepare.sh --arch` has made them; `HS100D_REQUIRE_ARCH` names the one that must be there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The longest that one step may take, in seconds. Each takes a few.
const PATIENCE: &str = "300";

/// Stands in for a running systemd and records the calls of the real deb-systemd-helper and deb-systemd-invoke. Calls
/// that need no running systemd go to the real systemctl.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >>/asked
case " $* " in
*" --root=/ "*) exec /usr/bin/real-systemctl "$@" ;;
*" is-enabled "*)
    if [ -e /etc/systemd/system/multi-user.target.wants/hs100d.service ]; then echo enabled; else echo disabled; fi ;;
*" is-active "*) [ -e /running ] ;;
*" start "* | *" restart "*) touch /running ;;
*" stop "*) rm -f /running ;;
esac
"#;

/// A Debian in a folder, with a stub for systemd.
struct Tree {
    directory: tempfile::TempDir,
}

impl Tree {
    fn unpack(archive: &Path) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut tar = Command::new("tar");
        let done = tar.arg("-xf").arg(archive).arg("-C").arg(directory.path()).output().unwrap();
        assert!(done.status.success(), "{}", all_output(&done));
        let tree = Self { directory };
        // The maintainer scripts recognise a running systemd by this folder.
        fs::create_dir_all(tree.path("run/systemd/system")).unwrap();
        fs::rename(tree.path("usr/bin/systemctl"), tree.path("usr/bin/real-systemctl")).unwrap();
        fs::write(tree.path("usr/bin/systemctl"), SYSTEMCTL).unwrap();
        fs::set_permissions(tree.path("usr/bin/systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        tree
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.directory.path().join(inside)
    }

    /// Runs a script in the tree, in its own namespaces for processes and network, so that nothing remains and nothing
    /// is sent.
    fn run(&self, script: &str) -> Output {
        let enter = "mount -t proc proc \"$1/proc\" && exec chroot \"$1\" env -i HOME=/root LC_ALL=C.UTF-8 \
                     PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive sh -euc \"$2\"";
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", PATIENCE]);
        command.args(["unshare", "--mount", "--pid", "--fork", "--net", "sh", "-c", enter, "sh"]);
        command.arg(self.directory.path()).arg(script).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Runs a script that must succeed. Returns its output.
    fn must(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{script}: {}", all_output(&output));
        all_output(&output)
    }

    /// The calls to systemd about the service since the last check.
    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.path("asked")).unwrap_or_default();
        fs::remove_file(self.path("asked")).ok();
        let verbs = ["start", "stop", "restart", "reload"];
        let is_order = |line: &&str| line.split(' ').any(|word| verbs.contains(&word));
        let orders = asked.lines().filter(is_order);
        orders.map(|line| line.replace("--quiet ", "").replace("--system ", "")).collect()
    }

    /// Every file except the records of dpkg and apt.
    fn files(&self) -> BTreeSet<String> {
        let find = "find /etc /usr /var /opt /root ! -type d ! -path '/var/lib/dpkg/*' ! -path '/var/lib/apt/*' \
                    ! -path '/var/cache/*' ! -path '/var/log/*'";
        self.must(find).lines().map(str::to_owned).collect()
    }

    fn is_there(&self, inside: &str) -> bool {
        self.path(inside).symlink_metadata().is_ok()
    }

    fn append(&self, inside: &str, text: &str) {
        let mut file = fs::File::options().append(true).open(self.path(inside)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

fn all_output(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// A file that `prepare.sh` made, or `None` if it is missing and not required.
fn prepared(file: &str) -> Option<PathBuf> {
    prepared_by("tests/package/prepare.sh", file).map_err(|why| skip(&why)).ok()
}

/// The tree and the package for another processor, or `None` if they are missing and not required.
fn prepared_for(arch: &str) -> Option<(PathBuf, PathBuf)> {
    let by = format!("tests/package/prepare.sh --arch {arch}");
    let file = |name: String| prepared_by(&by, &name);
    match file(format!("tree-{arch}.tar")).and_then(|tree| Ok((tree, file(format!("hs100d-{arch}.deb"))?))) {
        Ok(prepared) => Some(prepared),
        Err(why) => {
            let required = std::env::var_os("HS100D_REQUIRE_ARCH").is_some_and(|value| value == arch);
            assert!(!required, "HS100D_REQUIRE_ARCH={arch}, and {why}");
            say_skipped(&why);
            None
        }
    }
}

fn prepared_by(script: &str, file: &str) -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/package").join(file);
    let is_root = fs::metadata("/proc/self").is_ok_and(|myself| myself.uid() == 0);
    if !path.exists() {
        Err(format!("there is no {file}: {script} makes it"))
    } else if !is_root {
        Err("only root can enter another Debian".to_owned())
    } else {
        Ok(path)
    }
}

fn skip(why: &str) {
    let required = std::env::var_os("HS100D_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "HS100D_REQUIRE_PEERS=1, and {why}");
    say_skipped(why);
}

/// Prints past the test harness, which hides the output of a passing test.
fn say_skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// The same package as an earlier version with another default config.
fn earlier(package: &Path, place: &Path) {
    let unpacked = place.join("earlier");
    let dpkg_deb = |arguments: &[&Path]| {
        let done = Command::new("dpkg-deb").arg("--root-owner-group").args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", all_output(&done));
    };
    dpkg_deb(&[Path::new("--raw-extract"), package, &unpacked]);
    let change = |file: &str, change: &dyn Fn(&str) -> String| {
        let path = unpacked.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert_ne!(change(&text), text, "{file}");
        fs::write(&path, change(&text)).unwrap();
    };
    change("DEBIAN/control", &|text| text.replace("\nVersion: ", "\nVersion: 0.0.0~"));
    change("etc/hs100d/hs100d.toml", &|text| format!("# As it was once.\n{text}"));
    dpkg_deb(&[Path::new("--build"), &unpacked, &place.join("earlier.deb")]);
    fs::remove_dir_all(unpacked).unwrap();
}

#[test]
fn a_package_is_installed_upgraded_removed_and_forgotten() {
    let (Some(archive), Some(package)) = (prepared("tree.tar"), prepared("hs100d.deb")) else { return };
    whole_life(&archive, &package);
}

#[test]
fn a_package_for_arm64_is_installed_upgraded_removed_and_forgotten() {
    let Some((archive, package)) = prepared_for("arm64") else { return };
    whole_life(&archive, &package);
}

#[test]
fn a_package_for_armhf_is_installed_upgraded_removed_and_forgotten() {
    let Some((archive, package)) = prepared_for("armhf") else { return };
    whole_life(&archive, &package);
}

fn whole_life(archive: &Path, package: &Path) {
    let tree = Tree::unpack(archive);
    fs::copy(package, tree.path("hs100d.deb")).unwrap();
    earlier(package, tree.directory.path());
    let before = tree.files();

    installed_beside_a_broker(&tree);
    installed(&tree);
    upgraded_as_edited(&tree);
    upgraded_as_switched_off(&tree);
    upgraded_with_its_state_and_back(&tree);
    removed_and_purged(&tree);

    let left: Vec<_> = tree.files().difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(!tree.is_there("etc/hs100d") && !tree.is_there("usr/share/doc/hs100d"));
}

/// The port of the embedded broker is taken; the installation says what to write where.
fn installed_beside_a_broker(tree: &Tree) {
    let listen = "perl -MSocket -e 'socket(BROKER, PF_INET, SOCK_STREAM, 0) or die $!;
                  bind(BROKER, sockaddr_in(1883, INADDR_ANY)) or die $!; listen(BROKER, 1) or die $!;
                  open(LISTENS, q(>), q(/listens)) or die $!; close LISTENS; sleep 300' &
                  for i in $(seq 100); do [ ! -e /listens ] || break; sleep 0.1; done; [ -e /listens ]
                  apt-get install -y --no-install-recommends /hs100d.deb";
    let output = tree.must(listen);
    fs::remove_file(tree.path("listens")).unwrap();
    for remedy in ["url = \"mqtt://127.0.0.1\"", "systemctl restart hs100d"] {
        assert!(output.contains(remedy), "{output}");
    }
    tree.must("apt-get purge -y hs100d");
    tree.asked();
}

fn installed(tree: &Tree) {
    let output = tree.must("apt-get install -y --no-install-recommends /earlier.deb");
    assert!(!output.contains("mqtt://"), "there is no broker: {output}");
    assert_eq!(tree.asked(), ["start hs100d.service"]);
    assert!(tree.is_there("etc/systemd/system/multi-user.target.wants/hs100d.service"), "it is enabled");
    assert_eq!(tree.must("systemd-analyze verify /usr/lib/systemd/system/hs100d.service"), "");
    let conffiles = tree.must("dpkg-query --show --showformat '${Conffiles}' hs100d");
    let conffiles: Vec<_> = conffiles.split_whitespace().filter(|word| word.starts_with('/')).collect();
    assert_eq!(conffiles, ["/etc/hs100d/hs100d.toml"]);

    // The shipped config sets nothing: a default that it sets would stay with the next versions.
    let config = fs::read_to_string(tree.path("etc/hs100d/hs100d.toml")).unwrap();
    let in_force = config.lines().find(|line| !line.is_empty() && !line.starts_with(['#', '[']));
    assert_eq!(in_force, None);
    // The first lines are the paths of config and state.
    let meaning = |output: String| output.lines().skip(2).map(str::to_owned).collect::<Vec<_>>();
    let shipped = tree.must("hs100d check");
    assert!(shipped.contains("/etc/hs100d/hs100d.toml"), "{shipped}");
    assert!(shipped.contains("\nstate      /var/lib/hs100d\n"), "it is the service's: {shipped}");
    assert_eq!(meaning(shipped), meaning(tree.must(": >/empty; hs100d --config /empty check")));

    for file in [
        "usr/share/man/man1/hs100d.1.gz",
        "usr/share/man/man5/hs100d.toml.5.gz",
        "usr/share/bash-completion/completions/hs100d",
        "usr/share/zsh/vendor-completions/_hs100d",
        "usr/share/fish/vendor_completions.d/hs100d.fish",
        "usr/share/doc/hs100d/copyright",
        "usr/share/doc/hs100d/changelog.Debian.gz",
    ] {
        assert!(fs::metadata(tree.path(file)).is_ok_and(|file| file.len() > 100), "{file}");
    }
}

fn upgraded_as_edited(tree: &Tree) {
    tree.append("etc/hs100d/hs100d.toml", "\n[[plug]]\nname = \"mine\"\nhost = \"127.0.0.1\"\n");
    tree.must("apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold /hs100d.deb");
    assert_eq!(tree.asked(), ["restart hs100d.service"], "it runs on until it is restarted");
    let config = fs::read_to_string(tree.path("etc/hs100d/hs100d.toml")).unwrap();
    assert!(config.contains("\nname = \"mine\"\n") && config.contains("# As it was once."), "{config}");
    assert!(tree.is_there("etc/hs100d/hs100d.toml.dpkg-dist"), "the new text is offered beside it");
    assert!(tree.must("hs100d check").contains("mine"));
}

/// A service that was disabled and stopped stays so in the next version.
fn upgraded_as_switched_off(tree: &Tree) {
    fs::remove_file(tree.path("etc/systemd/system/multi-user.target.wants/hs100d.service")).unwrap();
    fs::remove_file(tree.path("running")).unwrap();
    tree.must("apt-get install -y --reinstall --no-install-recommends /hs100d.deb");
    assert_eq!(tree.asked(), [""; 0]);
    assert!(!tree.is_there("etc/systemd/system/multi-user.target.wants/hs100d.service"));
}

/// The state and the config of the first version, in this one; then a state that this version is too old for, in the package
/// that somebody went back to.
fn upgraded_with_its_state_and_back(tree: &Tree) {
    let sample = |file: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(file);
    let put = |inside: &str, text: &str| {
        fs::write(tree.path(inside), text).unwrap();
        fs::set_permissions(tree.path(inside), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let state = || fs::read_to_string(tree.path("var/lib/hs100d/state.json")).unwrap();
    let old = fs::read_to_string(sample("state/1-names/state.json")).unwrap();
    tree.must("mkdir -p -m 700 /var/lib/hs100d");
    put("var/lib/hs100d/state.json", &old);
    put("etc/hs100d/hs100d.toml", &fs::read_to_string(sample("config/1-in-one-file.toml")).unwrap());

    let said = tree.must(RUN);
    assert!(!said.contains("state.json"), "nothing to complain about: {said}");
    for kept in ["0123abcd", "kitchen-kettle", "hut", "6e3b1ad0-52a3-4b56-9d0f-0c1e5a7c7a11"] {
        assert!(old.contains(kept) && state().contains(kept), "{kept}: {}", state());
    }

    let newer = old.replacen("\"version\":1", "\"version\":2,\"ornament\":\"of tomorrow\"", 1);
    put("var/lib/hs100d/state.json", &newer);
    tree.must(
        "apt-get install -y --no-install-recommends --allow-downgrades -o Dpkg::Options::=--force-confold /earlier.deb",
    );
    let said = tree.must(RUN);
    let complaints: Vec<_> = said.lines().filter(|line| line.contains("state.json")).collect();
    assert!(complaints.len() == 1 && complaints[0].contains("is of a newer hs100d"), "{said}");
    assert_eq!(state(), newer, "nothing is lost");
    let config = fs::read_to_string(tree.path("etc/hs100d/hs100d.toml")).unwrap();
    assert!(config.contains("correct horse battery staple"), "{config}");
    tree.must("apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold /hs100d.deb");
    assert_eq!(state(), newer);
    tree.asked();
}

/// Runs the daemon until it has started, and prints its log.
const RUN: &str = "STATE_DIRECTORY=/var/lib/hs100d hs100d run >/log 2>&1 & daemon=$!
    for i in $(seq 200); do if grep -q ' started$' /log; then break; fi; sleep 0.1; done
    kill $daemon; wait $daemon; cat /log; grep -q ' started$' /log; rm /log";

fn removed_and_purged(tree: &Tree) {
    // The folders that systemd makes for a service with DynamicUser.
    tree.must(
        "mkdir -p /var/lib/private/hs100d; ln -s private/hs100d /var/lib/hs100d
         echo '{}' >/var/lib/hs100d/state.json; echo secret >/etc/hs100d/mqtt.password
         touch /running",
    );
    tree.must("apt-get remove -y hs100d");
    assert_eq!(tree.asked(), ["stop hs100d.service"]);
    for kept in ["etc/hs100d/hs100d.toml", "etc/hs100d/mqtt.password", "var/lib/hs100d/state.json"] {
        assert!(tree.is_there(kept), "{kept} outlives a removal");
    }
    let of_ours = tree.must("find /usr -name '*hs100d*'");
    assert_eq!(of_ours, "");

    tree.must("apt-get purge -y hs100d");
    for gone in ["etc/hs100d", "var/lib/hs100d", "var/lib/private/hs100d"] {
        assert!(!tree.is_there(gone), "{gone} is forgotten with a purge");
    }
}

#[test]
fn lintian_finds_no_error() {
    let foreign = ["arm64", "armhf"].into_iter().filter_map(prepared_for).map(|(_, package)| package);
    let packages: Vec<_> = foreign.chain(prepared("hs100d.deb")).collect();
    if packages.is_empty() {
        return;
    }
    let done = Command::new("lintian").args(["--fail-on", "error", "--allow-root"]).args(packages).output();
    match done {
        Ok(done) => assert!(done.status.success(), "{}", all_output(&done)),
        Err(error) => skip(&format!("lintian cannot be run: {error}")),
    }
}

#[test]
fn a_package_that_is_made_again_has_the_same_bytes() {
    let (Some(first), Some(again)) = (prepared("hs100d.deb"), prepared("hs100d-again.deb")) else { return };
    let same = fs::read(&first).unwrap() == fs::read(&again).unwrap();
    assert!(same, "diffoscope {} {} shows the difference", first.display(), again.display());
}

#[test]
fn the_changelog_of_the_package_begins_with_this_version() {
    let changelog = include_str!("../../contrib/debian/changelog");
    let first = concat!("hs100d (", env!("CARGO_PKG_VERSION"), "-");
    assert!(changelog.starts_with(first), "contrib/debian/changelog has no entry {first}…)");
}
