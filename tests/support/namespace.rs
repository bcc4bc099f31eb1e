//! Network namespaces for tests: they have nothing of the machine's own network, and they end with the test.
//!
//! A test runs a part of its own file in a namespace, as a separate process; that part may start further ones. The
//! parts are ignored tests, and do nothing without the variable that selects them.

#![allow(dead_code, reason = "each file of stories uses its own part of the kit")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::support::mqtt;

/// The variable that selects the part of a process.
const ROLE: &str = "HS100D_TEST_NAMESPACE";
/// Marks the lines of a part among those of the test harness.
const MARK: &str = "@ ";
/// How often the test checks whether a part has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Runs a part of this file in a namespace, and waits for its end. If namespaces are not allowed, it says so and tests
/// nothing.
pub(crate) fn play_apart(test: &str, role: &str, bound: Duration) {
    let Some(unshare) = namespaces() else {
        // Prints past the test harness, which hides the output of a passing test.
        let _ = writeln!(std::io::stderr(), "skipped: no network namespace may be made here");
        return;
    };
    let mut command = Command::new("unshare");
    command.args(unshare).arg(std::env::current_exe().unwrap());
    command.args(part(test)).env(ROLE, role).stdin(Stdio::null());
    wait_for(command, bound);
}

/// Waits until a process ends well.
fn wait_for(mut command: Command, bound: Duration) {
    let mut child = mqtt::Process(command.spawn().unwrap());
    let end = Instant::now() + bound;
    let status = loop {
        match child.0.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(Instant::now() < end, "no end after {bound:?}"),
        }
        std::thread::sleep(LOOK_AGAIN);
    };
    assert!(status.success(), "{status}: its words are above");
}

/// The command prefix for a namespace, if it is allowed: as root, or as root of a user namespace.
fn namespaces() -> Option<&'static [&'static str]> {
    let works = |words: &&&[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(**words)
            .args(["unshare", "--net", "ip", "link"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    [&["--net"][..], &["--map-root-user", "--net"]].iter().find(works).copied()
}

/// Runs a test of this file again, in a process of its own in a namespace that has loopback only. True in that process,
/// or where namespaces are not allowed: then it is to do its work itself.
pub(crate) fn is_apart(test: &str, bound: Duration) -> bool {
    let Some(unshare) = namespaces() else { return true };
    if role().is_some() {
        ip("link set lo up");
        return true;
    }
    let mut command = Command::new("unshare");
    command.args(unshare).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, test).stdin(Stdio::null());
    wait_for(command, bound);
    false
}

/// The arguments that make this program run one of its ignored tests, and nothing else.
pub(crate) fn part(name: &str) -> [&str; 4] {
    // The harness runs nothing and reports success for a name that no test has.
    let mut list = Command::new(std::env::current_exe().unwrap());
    let list = list.args(["--exact", name, "--ignored", "--list"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&list.stdout).starts_with(&format!("{name}: test")),
        "no test is called {name}"
    );
    ["--exact", name, "--ignored", "--nocapture"]
}

/// The part of this process; `None` if the ignored tests were started without a parent.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs `ip` in this process's own namespace.
pub(crate) fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}: {status}");
}

/// A part of this file in its own namespace. It receives its instructions as lines.
pub(crate) struct Player {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    role: String,
}

impl Player {
    pub(crate) fn start(test: &str, role: &str) -> Self {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(std::env::current_exe().unwrap()).args(part(test));
        command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let ask = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut player = Self { process, ask, answers, role: role.to_owned() };
        assert_eq!(player.hear(), "in its namespace");
        player
    }

    /// The process whose namespace it is.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a line, and returns its answer.
    pub(crate) fn say(&mut self, line: &str) -> String {
        writeln!(self.ask, "{line}").unwrap();
        self.hear()
    }

    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "{} has ended", self.role);
            if let Some((_, words)) = line.split_once(MARK) {
                return words.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The lines for a part, after a check that its namespace is empty. The end of the lines is the end of the test.
pub(crate) fn told() -> mpsc::UnboundedReceiver<String> {
    assert_eq!(if_addrs::get_if_addrs().unwrap().len(), 0, "this is not an empty namespace");
    answer("in its namespace");
    let (tell, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
    });
    lines
}

/// Answers a line.
pub(crate) fn answer(words: &str) {
    println!("{MARK}{words}");
}
