//! Network namespaces for tests: nothing of the machine's own network is in them, and they end with the test.
//!
//! A test that needs one starts a part of its own file in it, as a process of its own; that part may start more of them.
//! The parts are ignored tests, and do nothing unless they are told which part they play.

#![allow(dead_code, reason = "each file of stories uses its own part of the kit")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::support::mqtt;

/// What tells a process which part it plays.
const ROLE: &str = "HS100D_TEST_NAMESPACE";
/// Comes before what a part says; the test harness says things, too.
const MARK: &str = "@ ";
/// How often a part is looked at while its end is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Lets a part of this file play in a namespace, and waits for its end. Where none may be made that is said, and nothing
/// is tested.
pub(crate) fn play_apart(test: &str, role: &str, bound: Duration) {
    let Some(unshare) = namespaces() else {
        // Past the test harness, which swallows what a passing test prints.
        let _ = writeln!(std::io::stderr(), "skipped: no network namespace may be made here");
        return;
    };
    let mut command = Command::new("unshare");
    command.args(unshare).arg(std::env::current_exe().unwrap());
    command.args(part(test)).env(ROLE, role).stdin(Stdio::null());
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

/// How namespaces are made here, if they may be: as root, or as root of a namespace of users.
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

/// The arguments with which this program runs one of its ignored tests, and nothing else.
pub(crate) fn part(name: &str) -> [&str; 4] {
    // For a name that no test has, the harness runs nothing and reports success.
    let mut list = Command::new(std::env::current_exe().unwrap());
    let list = list.args(["--exact", name, "--ignored", "--list"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&list.stdout).starts_with(&format!("{name}: test")),
        "no test is called {name}"
    );
    ["--exact", name, "--ignored", "--nocapture"]
}

/// The part that this process plays; none where somebody runs ignored tests without being their parent.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Changes something in this process's own namespace.
pub(crate) fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}: {status}");
}

/// A part of this file that plays in a namespace of its own, and is told by lines what to do.
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

    /// By which its namespace goes.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells it a line, and gives its answer.
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

/// What a player is told, line by line, once it has seen that it is in an empty namespace. The end of them is the end of
/// the test.
pub(crate) fn told() -> mpsc::UnboundedReceiver<String> {
    assert_eq!(if_addrs::get_if_addrs().unwrap().len(), 0, "this is not an empty namespace");
    answer("in its namespace");
    let (tell, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
    });
    lines
}

/// What a player answers.
pub(crate) fn answer(words: &str) {
    println!("{MARK}{words}");
}
