//! How programs written by others are fetched and started.
//!
//! `tests/peers/install.sh` puts them into `target/peers`. If they are missing, the tests that need them say so and
//! pass, unless `HS100D_REQUIRE_PEERS` is 1, as in CI.

#![allow(dead_code, reason = "each file of stories uses its own part of the kit")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use hs100d::smarthome::{cipher, frame};
use serde_json::Value;

/// The longest that one run of a peer may take. It takes a second or two, more on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The folder of the peers, or `None` if they are missing and not required.
pub(crate) fn peers() -> Option<&'static Path> {
    static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match INSTALLED.get_or_init(install) {
        Ok(folder) => Some(folder),
        Err(why) if std::env::var_os("HS100D_REQUIRE_PEERS").is_some_and(|value| value == "1") => {
            panic!("HS100D_REQUIRE_PEERS=1, and the peers cannot be installed: {why}")
        }
        Err(why) => {
            skip(&format!("the peers cannot be installed: {why}"));
            None
        }
    }
}

/// Prints past the test harness, which hides the output of a passing test.
pub(crate) fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn install() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("target/peers");
    let mut script = Command::new("sh");
    script.arg(root.join("tests/peers/install.sh")).arg(&folder);
    let done = script.output().map_err(|error| format!("sh: {error}"))?;
    if done.status.success() {
        Ok(folder)
    } else {
        Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
    }
}

/// A child process that ends with its test.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A plug of tplink-smarthome-simulator, in its own process.
pub(crate) struct TheirPlug {
    pub(crate) address: SocketAddr,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _child: Ended,
}

impl TheirPlug {
    pub(crate) const DEVICE_ID: &str = "80060000000000000000000000000000000000AA";

    pub(crate) fn start(peers: &Path) -> Self {
        Self::of_model(peers, "hs100")
    }

    /// One of the models of that package.
    pub(crate) fn of_model(peers: &Path, model: &str) -> Self {
        let mut command = node(peers, "plug.js");
        command.args(["127.0.0.31", "0", "Their lamp", "50:C7:BF:00:00:AA", Self::DEVICE_ID, model]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        output.read_line(&mut ready).unwrap();
        let mut words = ready.split_whitespace().skip(1);
        let (ip, port) = (words.next().unwrap(), words.next().unwrap());
        Self { address: format!("{ip}:{port}").parse().unwrap(), input, output, _child: Ended(child) }
    }

    /// One line to its standard input, one line back.
    pub(crate) fn say(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// One request over TCP.
    pub(crate) fn ask(&self, json: &str) -> Value {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        frame::build(&mut bytes, |payload| payload.extend_from_slice(json.as_bytes()));
        stream.write_all(&bytes).unwrap();
        let mut header = [0; frame::HEADER_LEN];
        stream.read_exact(&mut header).unwrap();
        let mut reply = vec![0; u32::from_be_bytes(header) as usize];
        stream.read_exact(&mut reply).unwrap();
        cipher::decrypt(&mut reply);
        serde_json::from_slice(&reply).unwrap()
    }
}

pub(crate) fn node(peers: &Path, name: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(script(name)).env("NODE_PATH", peers.join("node/node_modules"));
    command
}

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)
}
