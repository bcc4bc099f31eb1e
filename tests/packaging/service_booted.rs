//! The shipped unit under a real systemd, which boots as the first process in its own namespaces: with a dynamic user,
//! with the passwords that exist, reloaded, hung, restarted and stopped.
//!
//! The tree that boots is that of this machine, mounted read-only. `HS100D_SYSTEMD_TREE` names another one, as
//! debootstrap makes it, to test with an older or a newer systemd.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The longest that a wait may take; far longer than it does.
const BOUND: Duration = Duration::from_secs(60);
/// How often a condition is checked while the test waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const APART: [&str; 8] =
    ["--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--net", "--ipc", "--uts"];
/// Everything in the boot that a machine may forbid.
const TRIAL: &str = "mount -t tmpfs tmpfs \"$1\" && cd \"$1\" && mkdir upper work root && \
     mount -t overlay -o \"lowerdir=$0,upperdir=upper,workdir=work\" overlay root && \
     mkdir cgroup && mount -t cgroup2 cgroup2 cgroup";
/// No discovery, and no server at the account's address.
const CONFIG: &str = "[discovery]\nlan = false\nadopt = false\n\
     [cloud]\nusername = \"somebody@example.com\"\nurl = \"http://127.0.0.1:9\"\n\
     [[plug]]\nname = \"kettle\"\nhost = \"127.0.0.1:9\"\n\
     device_id = \"8006000000000000000000000000000000000001\"\n";
const HUNG_SOON: &str = "[Service]\nWatchdogSec=500ms\nTimeoutAbortSec=1s\nRestartSec=100ms\n";

/// A machine of processes only, with the unit installed and not started.
struct Machine {
    init: Child,
    /// The prefix that runs a command inside.
    enter: Vec<String>,
    _scratch: TempDir,
}

impl Machine {
    /// Boots a machine, if that is allowed.
    fn boot() -> Option<Self> {
        let tree = std::env::var("HS100D_SYSTEMD_TREE").unwrap_or_else(|_| "/".to_owned());
        let scratch = tempfile::tempdir().unwrap();
        if let Err(why) = may_boot(&tree, scratch.path()) {
            // Prints past the test harness, which hides the output of a passing test.
            let _ = writeln!(std::io::stderr(), "skipped: {why}");
            return None;
        }
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("unshare");
        command.args(APART).arg(here.join("tests/packaging/boot.sh")).arg(tree).arg(scratch.path());
        command.arg(env!("CARGO_BIN_EXE_hs100d")).arg(here.join("contrib/systemd/hs100d.service"));
        let init = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut machine = Self { init, enter: Vec::new(), _scratch: scratch };
        let pid = machine.init.id();
        until("the first process", || {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            let first = children.trim().to_owned();
            let spaces = ["-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w"];
            machine.enter = [&["-t", &first][..], &spaces].concat().into_iter().map(str::to_owned).collect();
            !first.is_empty()
        });
        until("systemd", || {
            assert!(machine.init.try_wait().unwrap().is_none(), "it does not boot: its words are above");
            machine.run("systemctl is-active --quiet sysinit.target").status.success()
        });
        machine.run("mkdir -p /etc/hs100d && chmod 755 /etc/hs100d");
        machine.write("/etc/hs100d/hs100d.toml", CONFIG);
        Some(machine)
    }

    fn run(&self, script: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(&self.enter).args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "sh",
            "-c",
            script,
        ]);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Standard output, if the script succeeds.
    fn ok(&self, script: &str) -> String {
        let output = self.run(script);
        if !output.status.success() {
            let journal = self.run("journalctl --no-pager -n 40");
            panic!("{script}: {output:?}\n{}", String::from_utf8_lossy(&journal.stdout));
        }
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn write(&self, path: &str, text: &str) {
        self.ok(&format!("umask 077; cat > {path} <<'EOF'\n{text}EOF\nchmod go+r {path}"));
    }

    /// A property of the unit.
    fn shows(&self, property: &str) -> String {
        self.ok(&format!("systemctl show --property {property} --value hs100d"))
    }

    fn says(&self, line: &str) {
        until(line, || self.ok("journalctl -u hs100d -o cat --no-pager").contains(line));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The kernel ends all other processes of the namespace with the first one.
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

/// Whether systemd is installed and the kernel allows all of it.
fn may_boot(tree: &str, scratch: &Path) -> Result<(), String> {
    if !["usr/lib", "lib"].iter().any(|it| Path::new(tree).join(it).join("systemd/systemd").exists()) {
        assert!(std::env::var_os("CI").is_none(), "systemd is not installed: apt-get install systemd");
        return Err("systemd is not installed".to_owned());
    }
    let trial = Command::new("unshare").args(APART).args(["sh", "-c", TRIAL, tree]).arg(scratch).output();
    if trial.is_ok_and(|trial| trial.status.success()) {
        return Ok(());
    }
    Err("systemd may not be booted here".to_owned())
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !is_so() {
        assert!(Instant::now() < end, "never came: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[test]
fn it_starts_with_neither_password_with_either_and_with_both() {
    let Some(machine) = Machine::boot() else { return };
    for files in [&[][..], &["mqtt"], &["cloud"], &["mqtt", "cloud"]] {
        machine.ok("rm -f /etc/hs100d/*.password");
        for file in files {
            machine.ok(&format!("umask 077; echo secret-of-{file} > /etc/hs100d/{file}.password"));
        }
        machine.ok("systemctl start hs100d");
        for file in ["mqtt", "cloud"] {
            // Only the service sees it, so it is read from the mount namespace of the service.
            let place = format!("/run/credentials/hs100d.service/{file}.password");
            let seen = machine.ok(&format!("cat /proc/{}/root{place}", machine.shows("MainPID")));
            assert_eq!(seen, if files.contains(&file) { format!("secret-of-{file}") } else { String::new() });
        }
        // Without a password the cloud is not used; with one, no server answers.
        let cloud = if files.contains(&"cloud") { "cloud down" } else { "cloud stopped" };
        let status = format!("0 of 1 plugs online, {cloud}, broker connected");
        until(&status, || machine.shows("StatusText") == status);
        machine.ok("systemctl stop hs100d");
        assert_eq!(machine.shows("Result"), "success");
    }
}

#[test]
fn it_runs_as_nobody_else_and_logs_to_the_journal_with_its_name() {
    let Some(machine) = Machine::boot() else { return };
    machine.ok("systemctl start hs100d");
    let user = machine.ok("ps -o uid= -p $(systemctl show --property MainPID --value hs100d)");
    let user: u32 = user.trim().parse().unwrap();
    assert!((61184..=65519).contains(&user), "{user} is not a user that exists only while the service runs");
    assert_eq!(machine.ok("stat -c %u:%a /var/lib/private/hs100d"), format!("{user}:700"));
    machine.says("hs100d 0");
    // A command beside the service reads its state, does not change it, and starts no second daemon.
    assert!(machine.ok("hs100d check").contains("\nstate      /var/lib/hs100d\n"));
    let second = machine.run("timeout 20 hs100d run");
    assert_eq!(second.status.code(), Some(69), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("`systemctl stop hs100d`"), "{second:?}");
    let output = machine.run("hs100d plug kettle info --via local");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let owners = machine.ok("find /var/lib/private/hs100d ! -uid $(stat -c %u /var/lib/private/hs100d)");
    assert_eq!(owners, "", "all of it is the service's");
    let lines = machine.ok("journalctl -u hs100d -o json --no-pager");
    let ours = lines.lines().find(|line| line.contains(" started\"")).unwrap();
    for field in [r#""_TRANSPORT":"journal""#, r#""SYSLOG_IDENTIFIER":"hs100d""#, r#""PRIORITY":"6""#] {
        assert!(ours.replace("\" : \"", "\":\"").contains(field), "{field} in {ours}");
    }
}

#[test]
fn a_config_that_is_wrong_ends_it_with_an_error_and_is_not_tried_again() {
    let Some(machine) = Machine::boot() else { return };
    machine.write("/etc/hs100d/hs100d.toml", "[mqtt]\nport = 1883\n");
    assert!(!machine.run("systemctl start hs100d").status.success());
    assert_eq!([machine.shows("ExecMainStatus"), machine.shows("ActiveState")], ["78", "failed"]);
    let errors = || machine.ok("journalctl -u hs100d -p err -o cat --no-pager");
    until("the error", || errors().contains("mqtt.port: is not known"));
}

#[test]
fn it_is_reloaded_and_restarted_when_it_hangs() {
    let Some(machine) = Machine::boot() else { return };
    machine.ok("mkdir -p /etc/systemd/system/hs100d.service.d");
    machine.write("/etc/systemd/system/hs100d.service.d/soon.conf", HUNG_SOON);
    machine.ok("systemctl daemon-reload && systemctl start hs100d");

    machine.ok("systemctl reload hs100d");
    machine.says("the config was read again");
    machine.write("/etc/hs100d/hs100d.toml", "[mqtt\n");
    machine.ok("systemctl reload hs100d");
    machine.says("the config was not taken over, the old one stays: ");
    until("ready again", || machine.shows("ActiveState") == "active");
    assert_eq!(machine.shows("NRestarts"), "0");

    machine.write("/etc/hs100d/hs100d.toml", CONFIG);
    machine.ok("kill -STOP $(systemctl show --property MainPID --value hs100d)");
    until("a restart", || machine.shows("NRestarts") == "1" && machine.shows("ActiveState") == "active");
    machine.says("Watchdog timeout");
    machine.ok("systemctl stop hs100d");
    assert_eq!(machine.shows("Result"), "success");
}
