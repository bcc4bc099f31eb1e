//! The real program in its own process, a simulated home for it to serve, a broker, and a client at that broker. Every
//! wait has a bound; every child process ends with its test, also if the test fails.

#![allow(dead_code, reason = "each file of stories uses its own part of the kit")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hs100d::klap_hashes::KlapAccounts;
use hs100d::secret::Secret;
use hs100d::sim::cloud::account::SimAccount;
use hs100d::sim::cloud::signed::SimKeys;
use hs100d::sim::home::{HomeOptions, SimHome};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::support::mqtt::{Message, Process, Subscriber, within};

/// The account of every home here, with a password that breaks hand-made JSON, URLs and log lines.
pub(crate) const ACCOUNT: (&str, &str) = ("somebody@example.com", "\"'\\/{}$ü ");
/// Made-up keys for signed requests, each with its file.
const ACCESS_KEY: (&str, &str) = ("access.key", "made-up-access");
const SECRET_KEY: (&str, &str) = ("secret.key", "made-up-sign");

/// How often something outside of this process is checked while a test waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The number of last lines of the daemon that a failed test prints.
const LINES_SHOWN: usize = 80;

/// A home with these plugs, with the account that [`Config::of`] logs in to.
pub(crate) async fn home_of(aliases: &[&str]) -> SimHome {
    SimHome::start(home_options_of(aliases)).await.unwrap()
}

/// The options of such a home.
pub(crate) fn home_options_of(aliases: &[&str]) -> HomeOptions {
    let mut home_options = HomeOptions::of(aliases);
    home_options.account = SimAccount::new(ACCOUNT.0, ACCOUNT.1);
    home_options
}

/// What KLAP makes of an account, in each form that it may take on its way into a line. Plugs take it in place of the
/// password.
pub(crate) fn hashes_of(username: &str, password: &str) -> Vec<String> {
    let accounts = KlapAccounts::of(username, &Secret::new(password.to_owned()), None);
    let mut forms = Vec::new();
    for account in accounts.own() {
        let (v1, v2) = (account.hashes.v1(), account.hashes.v2());
        let text = account.hashes.to_text();
        let (in_hex, owner) = text.split_at(2 * (v1.len() + v2.len()));
        let (v1_in_hex, v2_in_hex) = in_hex.split_at(2 * v1.len());
        for text in [v1_in_hex, v2_in_hex, owner] {
            forms.extend([text.to_owned(), text.to_uppercase()]);
        }
        for bytes in [&v1[..], v2] {
            for list in [format!("{bytes:?}"), format!("{bytes:02x?}")] {
                forms.push(list.trim_matches(['[', ']']).to_owned());
            }
        }
    }
    forms
}

/// A config, table by table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    tables: Vec<(&'static str, Vec<String>)>,
    plugs: Vec<String>,
}

impl Config {
    /// The config for this home: broadcast on loopback finds its plugs, the account is known, and the embedded broker
    /// and HTTP have any free port.
    pub(crate) fn of(home: &SimHome) -> Self {
        Self::default()
            .set("broker", "listen", "127.0.0.1:0")
            .set("http", "listen", "127.0.0.1:0")
            .set("discovery", "broadcast", ["127.255.255.255"])
            .set("local", "port", home.lan().port())
            .set("cloud", "username", ACCOUNT.0)
            .set("cloud", "password", ACCOUNT.1)
            .set("cloud", "url", home.cloud().url())
    }

    /// Sets one key. TOML writes the value as JSON does, for the types that occur here.
    pub(crate) fn set(mut self, table: &'static str, key: &str, value: impl Into<Value>) -> Self {
        let line = format!("{key} = {}", value.into());
        match self.tables.iter_mut().find(|(name, _)| *name == table) {
            Some((_, lines)) => {
                lines.retain(|line| !line.starts_with(&format!("{key} = ")));
                lines.push(line);
            }
            None => self.tables.push((table, vec![line])),
        }
        self
    }

    pub(crate) fn without(mut self, table: &str) -> Self {
        self.tables.retain(|(name, _)| *name != table);
        self
    }

    /// Uses the second version of the cloud's interface: see [`Setup::give_keys`].
    pub(crate) fn signed(self) -> Self {
        self.set("cloud.v2", "access_key_file", ACCESS_KEY.0).set("cloud.v2", "secret_key_file", SECRET_KEY.0)
    }

    /// Uses an existing broker.
    pub(crate) fn at_broker(self, port: u16) -> Self {
        self.without("broker").set("mqtt", "url", format!("mqtt://127.0.0.1:{port}"))
    }

    /// Without discovery: only the plugs in the config are served.
    pub(crate) fn without_search(self) -> Self {
        self.without("discovery").set("discovery", "lan", false).set("discovery", "adopt", false)
    }

    /// A plug of the home, with all keys that identify it.
    pub(crate) fn plug(self, name: &str, home: &SimHome, number: usize) -> Self {
        let plug = home.plug(number);
        self.entry(name, &plug.device_id(), &home.lan().address(plug).unwrap().to_string())
    }

    pub(crate) fn entry(mut self, name: &str, device_id: &str, host: &str) -> Self {
        let [name, device_id, host] = [name, device_id, host].map(|text| json!(text));
        self.plugs.push(format!("name = {name}\ndevice_id = {device_id}\nhost = {host}\n"));
        self
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, lines) in &self.tables {
            write!(text, "[{name}]\n{}\n\n", lines.join("\n")).unwrap();
        }
        for plug in &self.plugs {
            write!(text, "[[plug]]\n{plug}\n").unwrap();
        }
        text
    }
}

/// One installation: a config, a state directory, and no other environment.
pub(crate) struct Setup {
    folder: TempDir,
}

impl Setup {
    pub(crate) fn new(config: &Config) -> Self {
        let setup = Self { folder: tempfile::tempdir().unwrap() };
        setup.write(&config.text());
        setup
    }

    pub(crate) fn write(&self, config: &str) {
        fs::write(self.config(), config).unwrap();
        fs::set_permissions(self.config(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Replaces the config by a pipe: reading it blocks until a test has written it and closed it.
    pub(crate) fn pipe(&self) {
        fs::remove_file(self.config()).unwrap();
        assert!(Command::new("mkfifo").arg(self.config()).status().unwrap().success());
    }

    /// The writing end of the pipe, once the daemon reads from it.
    pub(crate) async fn reader(&self) -> File {
        let path = self.config();
        let opened = tokio::task::spawn_blocking(move || File::options().write(true).open(path).unwrap());
        within("a daemon that reads its config", opened).await.unwrap()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("hs100d.toml")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Leaves what a daemon knows that has spoken KLAP with these plugs before. Their port is not the usual one.
    pub(crate) fn remember_klap(&self, home: &SimHome, names: &[&str]) {
        let known = names.iter().zip(home.plugs()).map(|(name, plug)| {
            let address = home.lan().address(plug).unwrap().to_string();
            json!({
                "device_id": plug.device_id(), "name": name, "mac": null, "address": address, "home": address,
                "protocol": "klap", "klap_port": home.lan().klap_address(plug).unwrap().port(),
            })
        });
        let known: Vec<_> = known.collect();
        let terminal = uuid::Uuid::new_v4().to_string();
        let state = json!({"version": 1, "terminal": terminal, "instance": "0123abcd", "plugs": known});
        fs::create_dir_all(self.state_dir()).unwrap();
        fs::write(self.state_dir().join("state.json"), state.to_string()).unwrap();
    }

    /// Starts the daemon.
    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_that_logs("hs100d=debug,warn")
    }

    pub(crate) fn daemon_that_logs(&self, levels: &str) -> Daemon {
        Self::spawned(self.program(), levels)
    }

    /// Starts the daemon through another program with these arguments, which executes it in the end.
    pub(crate) fn daemon_by(&self, words: &[&str]) -> Daemon {
        let program = self.program();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(program.get_program()).args(program.get_args());
        command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        Self::spawned(command, "hs100d=debug,warn")
    }

    /// Starts this command, which is a daemon.
    pub(crate) fn spawned(mut command: Command, levels: &str) -> Daemon {
        let child = command.env("RUST_LOG", levels).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        Daemon { talker: Talker::of(child.unwrap()) }
    }

    /// Starts a command that goes on, such as `watch`; its lines are its standard output.
    pub(crate) fn talker(&self, words: &[&str]) -> Talker {
        Talker::of(self.piped(words))
    }

    /// The same for a reader who closes the pipe after so many lines.
    pub(crate) fn talker_until(&self, words: &[&str], lines: usize) -> Talker {
        Talker::until(self.piped(words), lines)
    }

    fn piped(&self, words: &[&str]) -> Child {
        self.program().args(words).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Runs one command to its end.
    pub(crate) async fn run(&self, words: &[&str]) -> Ended {
        self.run_with(words, "").await
    }

    /// Runs one command that reads from standard input.
    pub(crate) async fn run_with(&self, words: &[&str], input: &str) -> Ended {
        within(&format!("the end of {words:?}"), self.run_to_its_end(words, input)).await
    }

    /// The same without a bound.
    pub(crate) async fn run_to_its_end(&self, words: &[&str], input: &str) -> Ended {
        let mut files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let [out, err] = files.each_ref().map(|file| Stdio::from(file.try_clone().unwrap()));
        let mut command = self.program();
        let child = command.args(words).stdin(Stdio::piped()).stdout(out).stderr(err).spawn();
        let mut process = Process(child.unwrap());
        // A command that needs no input may end before it is written.
        let _ = process.0.stdin.take().unwrap().write_all(input.as_bytes());
        let code = exit_code(&mut process).await;
        let [out, err] = files.each_mut().map(whole);
        Ended { code, out, err }
    }

    /// Runs one command at a terminal, which `script` makes, and answers its prompts in turn. Returns the exit code and what
    /// the terminal showed.
    pub(crate) async fn at_a_terminal(&self, words: &[&str], answers: &[(&str, &str)]) -> (i32, String) {
        let program = self.program();
        let command: Vec<_> = [program.get_program()].into_iter().chain(program.get_args()).collect();
        let command: Vec<_> =
            command.iter().map(|word| word.to_str().unwrap()).chain(words.iter().copied()).collect();
        let mut script = Command::new("script");
        script.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/sh");
        script.args(["-qec", &command.join(" "), "/dev/null"]);
        let child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut process = Process(child.unwrap());
        let (mut input, mut output) = (process.0.stdin.take().unwrap(), process.0.stdout.take().unwrap());
        let answers: Vec<_> =
            answers.iter().map(|(prompt, answer)| ((*prompt).to_owned(), format!("{answer}\n"))).collect();
        let (done, shown) = tokio::sync::oneshot::channel();
        // Not a task: it would outlive a test that fails, and block its end.
        std::thread::spawn(move || {
            let (mut text, mut answers, mut byte) = (Vec::new(), answers.into_iter().peekable(), [0]);
            while output.read(&mut byte).is_ok_and(|read| read == 1) {
                text.push(byte[0]);
                if let Some((_, answer)) = answers.next_if(|(prompt, _)| text.ends_with(prompt.as_bytes())) {
                    input.write_all(answer.as_bytes()).unwrap();
                }
            }
            let _ = done.send(String::from_utf8_lossy(&text).into_owned());
        });
        let shown = within(&format!("the end of {words:?} at a terminal"), shown).await.unwrap();
        (exit_code(&mut process).await, shown)
    }

    /// Writes a file beside the config.
    pub(crate) fn secret_file(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Keys that sign requests, for the config and for the account of this home.
    pub(crate) fn give_keys(&self, home: &SimHome) {
        for (file, key) in [ACCESS_KEY, SECRET_KEY] {
            self.secret_file(file, key);
        }
        let keys = SimKeys { access_key: ACCESS_KEY.1.to_owned(), secret_key: SECRET_KEY.1.to_owned() };
        home.cloud().account(|account| account.keys = Some(keys));
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hs100d"));
        command.env_clear().env("HOME", self.folder.path()).env("STATE_DIRECTORY", self.state_dir());
        command.arg("--config").arg(self.config()).stdin(Stdio::null());
        command
    }
}

/// The exit code of a command, and its output.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Standard output, if the command succeeded.
    pub(crate) fn ok(&self) -> &str {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        &self.out
    }

    /// The only line on standard error, if the command ended with this code.
    pub(crate) fn failed(&self, code: i32) -> &str {
        assert_eq!((self.code, self.err.lines().count()), (code, 1), "{self:?}");
        self.err.trim_end()
    }

    /// The last line on standard error, after any log lines, if the command ended with this code.
    pub(crate) fn last_line(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self:?}");
        let ours = self.err.lines().filter(|line| line.starts_with("hs100d: "));
        assert_eq!(ours.count(), 1, "{self:?}");
        self.err.trim_end().lines().last().unwrap()
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.ok()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A child process with its output, line by line. It ends with its test.
pub(crate) struct Talker {
    process: Process,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    news: Notify,
}

impl Talker {
    /// Reads the pipe of this child; standard error if both are piped.
    pub(crate) fn of(child: Child) -> Self {
        Self::until(child, usize::MAX)
    }

    fn until(mut child: Child, most: usize) -> Self {
        let log = Arc::new(Log::default());
        let pipe: Box<dyn Read + Send> = match (child.stderr.take(), child.stdout.take()) {
            (Some(stderr), _) => Box::new(stderr),
            (None, stdout) => Box::new(stdout.unwrap()),
        };
        let (written, lines) = (Arc::clone(&log), BufReader::new(pipe).lines());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok).take(most) {
                written.lines.lock().unwrap().push(line);
                written.news.notify_waiters();
            }
        });
        Self { process: Process(child), log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// Sends a signal by its short name.
    pub(crate) fn signal(&self, name: &str) {
        // Every shell has `kill` built in.
        let words = format!("kill -{name} {}", self.id());
        assert!(Command::new("sh").arg("-c").arg(words).status().unwrap().success());
    }

    /// Waits for its end; the exit code, or -1 after a signal.
    pub(crate) async fn exit_code(&mut self) -> i32 {
        within("the end of a process", exit_code(&mut self.process)).await
    }

    /// The exit code, if it has ended.
    pub(crate) fn try_exit_code(&mut self) -> Option<i32> {
        self.process.0.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// All lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().clone()
    }

    /// Waits for a line that contains this.
    pub(crate) async fn says(&self, part: &str) -> String {
        self.says_again(part, 1).await
    }

    /// Waits for the `time`-th line that contains this.
    pub(crate) async fn says_again(&self, part: &str, time: usize) -> String {
        within(&format!("line {time} with {part:?}"), async {
            loop {
                let news = self.log.news.notified();
                let found = self.lines().into_iter().filter(|line| line.contains(part)).nth(time - 1);
                if let Some(line) = found {
                    return line;
                }
                news.await;
            }
        })
        .await
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.lines();
            let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
            eprintln!("--- the last lines of process {}:\n{}\n---", self.process.0.id(), last.join("\n"));
        }
    }
}

/// The running daemon; its lines are its log.
pub(crate) struct Daemon {
    talker: Talker,
}

impl Deref for Daemon {
    type Target = Talker;

    fn deref(&self) -> &Talker {
        &self.talker
    }
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Waits until the daemon is connected and subscribed. Returns the port of its broker.
    pub(crate) async fn is_connected(&self) -> u16 {
        let line = self.says("connected to the broker at ").await;
        line.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Waits for its end; the exit code, or -1 after a signal.
    pub(crate) async fn ends(&mut self) -> i32 {
        self.talker.exit_code().await
    }

    /// Sends SIGTERM and waits for its end.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM");
        assert_eq!(self.ends().await, 0, "after SIGTERM");
    }

    /// Sends SIGKILL, as the kernel does when memory runs out.
    pub(crate) async fn kill(&mut self) {
        self.talker.process.0.kill().unwrap();
        assert_eq!(self.ends().await, -1, "after SIGKILL");
    }
}

/// A home, a daemon that serves it, and a client at its broker.
pub(crate) struct Scene {
    pub(crate) setup: Setup,
    pub(crate) daemon: Daemon,
    pub(crate) subscriber: Subscriber,
    pub(crate) port: u16,
}

impl Scene {
    /// Starts the daemon and waits until it is subscribed to commands.
    pub(crate) async fn start(config: &Config) -> Self {
        Self::at(Setup::new(config)).await
    }

    pub(crate) async fn at(setup: Setup) -> Self {
        let daemon = setup.daemon();
        let port = daemon.is_connected().await;
        Self { subscriber: Subscriber::connect(port).await, setup, daemon, port }
    }

    /// Sends a command and returns its result.
    pub(crate) async fn command(&self, plug: &str, command: Value) -> Value {
        let transaction = self.send(plug, command);
        self.result(plug, &transaction).await
    }

    /// Sends a command. Returns its transaction, which identifies the result.
    pub(crate) fn send(&self, plug: &str, mut command: Value) -> String {
        let transaction = new_transaction();
        command["transaction"] = json!(transaction);
        self.subscriber.publish(&format!("hs100d/{plug}/set"), command.to_string());
        transaction
    }

    /// Reads a plug by a command. The result comes after everything that was published before.
    pub(crate) async fn read(&self, plug: &str) -> Value {
        let transaction = new_transaction();
        self.subscriber
            .publish(&format!("hs100d/{plug}/get"), json!({ "transaction": transaction }).to_string());
        self.result(plug, &transaction).await
    }

    pub(crate) async fn result(&self, plug: &str, transaction: &str) -> Value {
        let topic = format!("hs100d/{plug}/result");
        json_of(&self.subscriber.receives(&topic, transaction).await)
    }

    /// All results of one command so far.
    pub(crate) fn results(&self, plug: &str, transaction: &str) -> Vec<Value> {
        let topic = format!("hs100d/{plug}/result");
        let seen = self.subscriber.messages();
        let of_it = seen.iter().filter(|seen| seen.topic == topic && seen.payload.contains(transaction));
        of_it.map(json_of).collect()
    }

    /// Waits until the state of the plug contains this.
    pub(crate) async fn shows(&self, plug: &str, expected: Value) -> Value {
        sees(&self.subscriber, &format!("hs100d/{plug}/state"), expected).await
    }

    /// Sends a request to `bridge/request` and returns the response.
    pub(crate) async fn request(&self, name: &str, mut payload: Value) -> Value {
        let transaction = new_transaction();
        payload["transaction"] = json!(transaction);
        self.subscriber.publish(&format!("hs100d/bridge/request/{name}"), payload.to_string());
        json_of(&self.subscriber.receives(&format!("hs100d/bridge/response/{name}"), &transaction).await)
    }
}

/// Waits until the newest message on a topic is JSON that contains all of this.
pub(crate) async fn sees(subscriber: &Subscriber, topic: &str, expected: Value) -> Value {
    subscriber
        .until(&format!("{topic} with {expected}"), |all| {
            let newest = json_of(all.iter().rfind(|seen| seen.topic == topic)?);
            holds(&newest, &expected).then_some(newest)
        })
        .await
}

/// Waits for an event like this on `bridge/event`.
pub(crate) async fn happens(subscriber: &Subscriber, expected: Value) -> Value {
    subscriber
        .until(&format!("an event with {expected}"), |all| {
            let events = all.iter().filter(|seen| seen.topic == "hs100d/bridge/event").map(json_of);
            events.into_iter().find(|event| holds(event, &expected))
        })
        .await
}

/// Whether every key of `expected` is in `found` with the same value, also in nested objects.
pub(crate) fn holds(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(key, value)| found.get(key).is_some_and(|found| holds(found, value)))
        }
        _ => found == expected,
    }
}

pub(crate) fn json_of(seen: &Message) -> Value {
    serde_json::from_str(&seen.payload).unwrap_or_default()
}

/// The command prefix for private mounts, if they are allowed: as root, or as root of a user namespace.
pub(crate) fn mounts() -> Option<Vec<&'static str>> {
    let works = |words: &&[&str]| {
        let mut command = Command::new("unshare");
        command.args(*words).args(["mount", "-t", "tmpfs", "none", "/mnt"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let ways: [&[&str]; 2] = [&["--mount"], &["--map-root-user", "--mount"]];
    let Some(way) = ways.into_iter().find(works) else {
        // Prints past the test harness, which hides the output of a passing test.
        let _ = writeln!(std::io::stderr(), "skipped: nothing may be mounted here");
        return None;
    };
    Some([&["unshare"], way].concat())
}

/// Unique in this run, and never the start of another one.
fn new_transaction() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("t{}.", NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn exit_code(process: &mut Process) -> i32 {
    loop {
        if let Some(status) = process.0.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn whole(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}
