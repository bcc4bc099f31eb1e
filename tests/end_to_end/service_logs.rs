//! The log of the real daemon: to the journal, with fields to filter by, and to a terminal. The journal is a socket of
//! the test, mounted in place of the real one in a mount namespace.

#![cfg(all(feature = "sim", feature = "broker", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use crate::support::e2e::{Config, Daemon, Setup, home_of, mounts};
use crate::support::mqtt::{Subscriber, free_port, within};
use hs100d::sim::fault::LanFault;
use hs100d::sim::home::SimHome;
use tempfile::TempDir;
use tokio::net::UnixDatagram;

/// Mounts the folder `$JOURNAL` where journald listens, and sets `JOURNAL_STREAM` so that the daemon takes its standard
/// error for the journal.
const AS_A_UNIT: &str = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
     mount --bind \"$JOURNAL\" /run/systemd/journal && \
     JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && export JOURNAL_STREAM && exec \"$@\"";
/// How often a file is read while the test waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The first character of a colour sequence.
const ESCAPE: char = '\u{1b}';
/// The syslog priority of a warning, as the journal has it.
const WARNING: &str = "4";
const INFORMATIONAL: &str = "6";
const DEBUG: &str = "7";

/// A socket in place of journald.
struct Journal {
    socket: UnixDatagram,
    folder: TempDir,
}

/// One line, by field.
type Entry = HashMap<String, String>;

impl Journal {
    fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { socket: UnixDatagram::bind(folder.path().join("socket")).unwrap(), folder }
    }

    /// Starts the daemon as systemd does; `None` if mounts are not allowed.
    fn starts(&self, setup: &Setup) -> Option<Daemon> {
        let journal = format!("JOURNAL={}", self.folder.path().display());
        let words = [mounts()?, vec!["env", &journal, "sh", "-c", AS_A_UNIT, "sh"]].concat();
        Some(setup.daemon_by(&words))
    }

    /// Waits for an entry that matches; earlier ones are checked and skipped.
    async fn hears(&self, what: &str, is_it: impl Fn(&Entry) -> bool) -> Entry {
        within(what, async {
            loop {
                let mut room = vec![0; 1 << 16];
                let length = self.socket.recv(&mut room).await.unwrap();
                let entry = parsed(&room[..length]);
                assert!(entry.values().all(|value| !value.contains(ESCAPE)), "{entry:?}");
                if is_it(&entry) {
                    return entry;
                }
            }
        })
        .await
    }

    async fn hears_event(&self, event: &str) -> Entry {
        self.hears(event, |entry| entry.get("HS100D_EVENT").is_some_and(|said| said == event)).await
    }
}

/// Parses the journal's native protocol: `FIELD=value`, or the field, a length of eight bytes and a value of any bytes.
fn parsed(mut datagram: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while let Some(end) = datagram.iter().position(|&byte| byte == b'\n') {
        let line = String::from_utf8(datagram[..end].to_vec()).unwrap();
        datagram = &datagram[end + 1..];
        let (field, value) = match line.split_once('=') {
            Some((field, value)) => (field.to_owned(), value.to_owned()),
            None => {
                let (length, rest) = datagram.split_first_chunk().unwrap();
                let (value, rest) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
                datagram = rest.strip_prefix(b"\n").unwrap();
                (line, String::from_utf8(value.to_vec()).unwrap())
            }
        };
        entry.insert(field, value);
    }
    entry
}

/// Checks that the entry has these fields.
fn holds(entry: &Entry, fields: &[(&str, &str)]) {
    for (field, value) in fields {
        assert_eq!(entry.get(*field).map(String::as_str), Some(*value), "{field} in {entry:?}");
    }
}

fn config(home: &SimHome, port: u16) -> Config {
    Config::of(home).without("cloud").set("broker", "listen", format!("127.0.0.1:{port}")).set(
        "routing",
        "command_ttl",
        "1s",
    )
}

#[tokio::test]
async fn the_journal_gets_fields_to_pick_lines_by_and_a_repeated_failure_once() {
    let (home, port) = (home_of(&["Kettle"]).await, free_port());
    let journal = Journal::listen();
    let setup = Setup::new(&config(&home, port));
    let Some(mut daemon) = journal.starts(&setup) else { return };
    let online = journal.hears_event("plug_online").await;
    holds(&online, &[("PRIORITY", INFORMATIONAL), ("HS100D_PLUG", "kettle"), ("HS100D_ROUTE", "local")]);
    holds(
        &online,
        &[("MESSAGE", "kettle: plug_online: over the local route"), ("SYSLOG_IDENTIFIER", "hs100d")],
    );

    let subscriber = Subscriber::connect(port).await;
    subscriber.receives("hs100d/kettle/availability", "online").await;
    home.lan().set_fault(home.plug(0), LanFault::Silent).await.unwrap();
    for (time, priority) in [("first", WARNING), ("second", DEBUG)] {
        subscriber.publish("hs100d/kettle/set", format!(r#"{{"state":"ON","transaction":"{time}"}}"#));
        let failed = journal.hears_event("command_failed").await;
        holds(&failed, &[("PRIORITY", priority), ("HS100D_PLUG", "kettle")]);
        let (reason, message) = (&failed["HS100D_REASON"], &failed["MESSAGE"]);
        assert!(message.starts_with(&format!("kettle: command_failed: {reason}: ")), "{failed:?}");
        assert!(message.contains("hs100d check --online"), "{failed:?}");
    }

    home.lan().set_fault(home.plug(0), LanFault::Works).await.unwrap();
    subscriber.publish("hs100d/kettle/set", "ON");
    let ok = journal.hears_event("command_ok").await;
    holds(&ok, &[("PRIORITY", INFORMATIONAL), ("HS100D_PLUG", "kettle"), ("HS100D_ROUTE", "local")]);
    assert!(ok["MESSAGE"].contains("after 2 failures in "), "{ok:?}");

    daemon.stop().await;
    assert_eq!(daemon.lines(), [""; 0], "a line is said in one place only");
}

#[tokio::test]
async fn a_stream_that_is_not_the_journal_gets_lines_for_a_person() {
    let home = home_of(&["Kettle"]).await;
    let setup = Setup::new(&config(&home, free_port()));
    let mut daemon = setup.daemon_by(&["env", "JOURNAL_STREAM=1:1"]);
    let line = daemon.says("kettle: plug_online").await;
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
    assert_eq!(rest, " INFO kettle: plug_online: over the local route");
    daemon.stop().await;
    assert!(daemon.lines().iter().all(|line| !line.contains(ESCAPE)), "no colour in a file");
}

/// The log level, set on the command line and in the environment.
#[tokio::test]
async fn q_leaves_warnings_v_adds_what_is_done_and_rust_log_goes_before_both() {
    let home = home_of(&["Kettle"]).await;
    let refused = config(&home, 0).at_broker(free_port());
    for (words, levels) in [
        ("exec \"$@\" -qq", &[][..]),
        ("exec \"$@\" -q", &["WARN"]),
        ("exec \"$@\"", &["INFO", "WARN"]),
        ("exec \"$@\" -v", &["DEBUG", "INFO", "WARN"]),
        ("RUST_LOG=hs100d=debug exec \"$@\" -v", &["DEBUG", "INFO", "WARN"]),
        ("RUST_LOG=hs100d=warn exec \"$@\" -v", &["WARN"]),
    ] {
        let setup = Setup::new(&refused);
        let mut daemon = setup.daemon_by(&["env", "-u", "RUST_LOG", "sh", "-c", words, "sh"]);
        // By now it has found the plug, the broker has refused it, and both are logged.
        within("the plug in the store", async {
            let store = setup.state_dir().join("state.json");
            while !fs::read_to_string(&store).is_ok_and(|text| text.contains("kettle")) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await;
        for level in levels {
            daemon.says(&format!(" {level} ")).await;
        }
        if levels.contains(&"DEBUG") {
            for of_each_crate in [" DEBUG hs100d::", " DEBUG hs100d_transport: answered plug="] {
                daemon.says(of_each_crate).await;
            }
        }
        daemon.stop().await;
        let lines = daemon.lines();
        let others =
            ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].into_iter().filter(|level| !levels.contains(level));
        for level in others {
            assert!(lines.iter().all(|line| !line.contains(&format!(" {level} "))), "{words}: {lines:#?}");
        }
    }
}
