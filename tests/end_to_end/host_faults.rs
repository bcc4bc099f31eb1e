//! Faults of the machine, seen by the real daemon: no free file descriptors, a full disk, a read-only state directory.
//! The plugs are served, one line says what a person has to do, and once the fault is gone everything works as before
//! without help.

#![cfg(all(feature = "sim", feature = "broker", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::support::e2e::{Config, Scene, Setup, holds, home_of, json_of, mounts, sees};
use crate::support::mqtt::{Subscriber, free_port, within};
use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::daemon::Daemon;
use hs100d::daemon::signals::SignalRequest;
use hs100d::mqtt::LoginSource;
use hs100d::payload::Clock;
use hs100d::sim::cloud::rule::Method;
use hs100d::sim::fault::LanFault;
use hs100d::sim::home::SimHome;
use hs100d::store::Store;
use serde_json::json;

/// Too few for a connection to each plug in addition to the other files of the daemon.
const FEW_FILES: &str = "ulimit -n 64; exec \"$@\"";
const CROWD: usize = 42;
/// The number of plugs that become silent: each read of them holds a connection that waits for an answer.
const SILENT: usize = 36;
/// The share of one core that the daemon may use meanwhile, in an unoptimised build on a busy machine. A daemon that
/// retries without a pause uses all of it.
const BUSY: f64 = 0.5;
/// The length of the time at the start of a line.
const TIME: usize = "2026-01-01T00:00:00Z".len();
/// Processor time is counted in hundredths of a second.
const TICK: f64 = 0.01;
/// Large enough at the start, and soon full.
const SMALL_DISK: &str = "mount -t tmpfs -o size=256k none \"$STATE_DIRECTORY\" && exec \"$@\"";
/// Full before the daemon starts.
const FULL_DISK: &str = "mount -t tmpfs -o size=256k none \"$STATE_DIRECTORY\" && \
    { head -c 1M /dev/zero >\"$STATE_DIRECTORY/filler\" 2>/dev/null; exec \"$@\"; }";
const READ_ONLY: &str = "mount -t tmpfs -o size=256k,ro none \"$STATE_DIRECTORY\" && exec \"$@\"";

async fn scene_by(setup: Setup, words: &[&str]) -> Scene {
    let daemon = setup.daemon_by(words);
    let port = daemon.is_connected().await;
    Scene { subscriber: Subscriber::connect(port).await, setup, daemon, port }
}

/// Waits until these plugs are served over the LAN.
async fn served(scene: &Scene, names: impl IntoIterator<Item = String>) {
    for name in names {
        scene.shows(&name, json!({"route": "local"})).await;
    }
}

async fn switches(scene: &Scene, plug: &str, state: &str) {
    let result = scene.command(plug, json!({ "state": state })).await;
    assert!(holds(&result, &json!({"status": "ok", "state": state, "route": "local"})), "{plug}: {result}");
}

/// Lines that a person should act on.
fn warnings(scene: &Scene) -> Vec<String> {
    let lines = scene.daemon.lines();
    lines.into_iter().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect()
}

/// The processor time that the daemon has used so far, in seconds.
fn used(scene: &Scene) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", scene.daemon.pid())).unwrap();
    // The name may contain anything, so parsing starts behind it. User and system time are the fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() * TICK).sum()
}

#[tokio::test]
async fn files_that_run_out_delay_some_plugs_and_cost_neither_the_daemon_nor_the_broker_anything() {
    let aliases: Vec<String> = (0..CROWD).map(|number| format!("Plug {number}")).collect();
    let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
    let home = home_of(&aliases).await;
    let config = Config::of(&home)
        .without("cloud")
        .set("broker", "listen", format!("127.0.0.1:{}", free_port()))
        .set("local", "timeout", "5s");
    let scene = scene_by(Setup::new(&config), &["sh", "-c", FEW_FILES, "sh"]).await;
    let names = || (0..CROWD).map(|number| format!("plug-{number}"));
    served(&scene, names()).await;

    let (began, used_before) = (Instant::now(), used(&scene));
    for number in 0..SILENT {
        home.lan().set_fault(home.plug(number), LanFault::Silent).await.unwrap();
    }
    let line = scene.daemon.says("no more files may be opened (64 at most)").await;
    assert!(line.contains(" WARN ") && line.contains("LimitNOFILE="), "{line}");
    // Clients of the broker can connect all the time, and the plugs that answer are switched in time.
    let another = Subscriber::connect(scene.port).await;
    another.receives("hs100d/bridge/state", "online").await;
    for name in names().skip(SILENT) {
        switches(&scene, &name, "ON").await;
    }
    let share = (used(&scene) - used_before) / began.elapsed().as_secs_f64();
    assert!(share < BUSY, "it uses {share:.2} of a core");

    for number in 0..SILENT {
        home.lan().set_fault(home.plug(number), LanFault::Works).await.unwrap();
    }
    for name in names() {
        switches(&scene, &name, "OFF").await;
    }
    let warned = warnings(&scene);
    let about_files = warned.iter().filter(|line| line.contains("files")).count();
    assert_eq!(about_files, 1, "{warned:#?}");
}

/// A daemon whose state directory is its own disk, and the path to that from outside.
async fn scene_on_disk(config: Config, unshare: &[&str], mount: &str) -> (Scene, PathBuf) {
    let setup = Setup::new(&config.set("broker", "listen", format!("127.0.0.1:{}", free_port())));
    let state_dir = setup.state_dir();
    fs::create_dir(&state_dir).unwrap();
    let words = [unshare, &["sh", "-c", mount, "sh"]].concat();
    let scene = scene_by(setup, &words).await;
    let root = PathBuf::from(format!("/proc/{}/root", scene.daemon.pid()));
    let inside = root.join(state_dir.strip_prefix("/").unwrap());
    (scene, inside)
}

/// A disk without free space: space that is freed is taken at once. Dropping it frees the space.
struct Full {
    file: PathBuf,
    /// Runs as long as the sender exists.
    filler: Option<(JoinHandle<()>, mpsc::Sender<()>)>,
}

impl Full {
    fn fill(disk: &Path) -> Self {
        let file = disk.join("filler");
        let mut writer = File::create(&file).unwrap();
        let mut fill = move || while writer.write_all(&[0; 512]).is_ok() {};
        fill();
        let (give_up, given_up) = mpsc::channel();
        let filler = std::thread::spawn(move || {
            while given_up.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
                fill();
            }
        });
        Self { file, filler: Some((filler, give_up)) }
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        if let Some((filler, goes_on)) = self.filler.take() {
            drop(goes_on);
            let _ = filler.join();
        }
        let _ = fs::remove_file(&self.file);
    }
}

/// Waits until the file on the disk contains this.
async fn is_written(file: &PathBuf, part: &str) {
    within(&format!("{part} in {}", file.display()), async {
        while !fs::read_to_string(file).is_ok_and(|text| text.contains(part)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Swaps the addresses of both plugs, so that the daemon has something new to write. Returns once it has followed them.
async fn moves(scene: &Scene, home: &SimHome) {
    home.lan().swap(home.plug(0), home.plug(1)).await.unwrap();
    scene.request("discover", json!({})).await;
    for (number, plug) in ["lamp", "fan"].into_iter().enumerate() {
        let host = home.lan().address(home.plug(number)).unwrap().ip().to_string();
        scene
            .subscriber
            .until(&format!("{plug} at {host}"), |all| {
                let newest = all.iter().rfind(|seen| seen.topic == format!("hs100d/{plug}/info"))?;
                (json_of(newest)["host"] == *host).then_some(())
            })
            .await;
    }
}

#[tokio::test]
async fn a_full_disk_is_told_once_and_written_to_again_when_there_is_room() {
    let Some(unshare) = mounts() else { return };
    let home = home_of(&["Lamp", "Fan"]).await;
    let (scene, disk) = scene_on_disk(Config::of(&home).without("cloud"), &unshare, SMALL_DISK).await;
    served(&scene, ["lamp", "fan"].map(str::to_owned)).await;
    let state = disk.join("state.json");
    is_written(&state, "\"fan\"").await;
    let before = fs::read_to_string(&state).unwrap();

    let full = Full::fill(&disk);
    moves(&scene, &home).await;
    let line = scene.daemon.says("state.json cannot be written: No space left on device").await;
    assert!(line.contains(" WARN ") && line.contains("make room"), "{line}");
    for plug in ["lamp", "fan"] {
        switches(&scene, plug, "ON").await;
        switches(&scene, plug, "OFF").await;
    }
    // The embedded broker accepts new clients and retained messages from them.
    let line = scene.daemon.says("/broker: cannot be written: No space left on device").await;
    assert!(line.contains(" WARN ") && line.contains("goes on in memory"), "{line}");
    let another = Subscriber::connect(scene.port).await;
    another.publish_retained("another/client", "is here");
    Subscriber::connect(scene.port).await.receives("another/client", "is here").await;
    assert_eq!(fs::read_to_string(&state).unwrap(), before, "what was there is whole");
    let warned = warnings(&scene);

    drop(full);
    scene.daemon.says("names and addresses are saved again").await;
    scene.daemon.says("the embedded broker's store is written again after ").await;
    is_written(&disk.join("broker/messages.jsonl"), "another/client").await;
    let address = home.lan().address(home.plug(0)).unwrap().to_string();
    is_written(&state, &address).await;
    assert_ne!(fs::read_to_string(&state).unwrap(), before);
    switches(&scene, "lamp", "ON").await;
    assert_eq!(warned.iter().filter(|line| line.contains("state.json")).count(), 1, "{warned:#?}");
    let kinds: HashSet<_> =
        warned.iter().map(|line| line.split(": ").next().unwrap().split_at(TIME).1).collect();
    assert_eq!(kinds.len(), warned.len(), "each warning comes once: {warned:#?}");
    assert_eq!(warnings(&scene).len(), warned.len(), "no warning about what works again");
}

#[tokio::test]
async fn a_home_without_plugs_keeps_its_instance_once_a_full_disk_has_room() {
    let Some(unshare) = mounts() else { return };
    let home = home_of(&[]).await;
    let (scene, disk) = scene_on_disk(Config::of(&home).without("cloud"), &unshare, FULL_DISK).await;
    scene.daemon.says("state.json cannot be written: No space left on device").await;
    fs::remove_file(disk.join("filler")).unwrap();
    is_written(&disk.join("state.json"), "instance").await;
}

#[tokio::test]
async fn a_daemon_that_starts_on_a_full_disk_serves_everybody_and_writes_all_once_there_is_room() {
    let Some(unshare) = mounts() else { return };
    let home = home_of(&["Lamp", "Fan"]).await;
    let (scene, disk) = scene_on_disk(Config::of(&home), &unshare, FULL_DISK).await;
    served(&scene, ["lamp", "fan"].map(str::to_owned)).await;
    switches(&scene, "lamp", "ON").await;
    Subscriber::connect(scene.port).await.receives("hs100d/bridge/state", "online").await;
    let line = scene.daemon.says("/broker: cannot be written: No space left on device").await;
    assert!(line.contains(" WARN ") && line.contains("make room"), "{line}");
    let line = scene.daemon.says("the account's token cannot be saved: ").await;
    assert!(line.contains("No space left on device"), "{line}");
    // A token file that cannot be written does not count as a logout.
    scene.daemon.signal("HUP");
    scene.daemon.says("the config was read again").await;

    fs::remove_file(disk.join("filler")).unwrap();
    scene.daemon.says("the embedded broker's store is written again after ").await;
    scene.daemon.says("the account's token is saved").await;
    is_written(&disk.join("cloud.token"), "token").await;
    assert_eq!(home.cloud().calls(Method::Login), 1, "the token of the first login is kept and saved");
    is_written(&disk.join("state.json"), "\"fan\"").await;
    is_written(&disk.join("broker/messages.jsonl"), "hs100d/lamp/state").await;
    let warned = warnings(&scene);
    let about_broker = warned.iter().filter(|line| line.contains("/broker: ")).count();
    assert_eq!(about_broker, 1, "{warned:#?}");
}

#[tokio::test]
async fn a_read_only_state_directory_is_told_once_and_written_to_when_it_may_be() {
    let Some(unshare) = mounts() else { return };
    let home = home_of(&["Lamp", "Fan"]).await;
    let (scene, disk) = scene_on_disk(Config::of(&home).without("cloud"), &unshare, READ_ONLY).await;
    served(&scene, ["lamp", "fan"].map(str::to_owned)).await;
    for plug in ["lamp", "fan"] {
        switches(&scene, plug, "ON").await;
    }
    let line = scene.daemon.says("cannot be used: Read-only file system").await;
    assert!(line.contains(" WARN ") && line.contains("make it writable for this user"), "{line}");
    scene.daemon.says("state.json cannot be written: Read-only file system").await;

    let pid = scene.daemon.pid().to_string();
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid, "--mount"]);
    if unshare.contains(&"--map-root-user") {
        command.args(["--user", "--preserve-credentials"]);
    }
    command.args(["mount", "-o", "remount,rw"]).arg(scene.setup.state_dir());
    assert!(command.status().unwrap().success());
    scene.daemon.says("names and addresses are saved again").await;
    is_written(&disk.join("state.json"), "\"fan\"").await;
    let warned = warnings(&scene);
    assert!(warned.len() <= 3, "the directory, the broker's store and the file: {warned:#?}");
}

/// The daemon runs in this process, since a test may not set the clock of the machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_has_all_times_told_again_whichever_way_it_went() {
    let home = home_of(&["Lamp", "Fan"]).await;
    let setup = Setup::new(&Config::of(&home).without("cloud").set("local", "poll_interval", "1s"));
    let place = ConfigPath::Named(setup.config());
    let config = hs100d::config::Config::load(&place, &Environment::default()).unwrap();
    let (begun, date) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let shown = Arc::clone(&date);
    let clock = move || {
        let instant = Instant::now();
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(shown.load(Ordering::Relaxed));
        Clock { instant, system: begin + (instant - begun) }
    };
    let reread = Box::new(|_: &_| Err(hs100d::config::Invalid::of_lines(vec![])));
    let store = Store::open(&setup.state_dir()).0;
    let daemon =
        Daemon::start(config, store, setup.state_dir(), reread, LoginSource::default()).await.unwrap();
    let daemon = daemon.with_clock(Box::new(clock));
    let subscriber = Subscriber::connect(daemon.broker_address().unwrap().port()).await;
    let (requests, asked) = tokio::sync::mpsc::channel(1);
    let task = tokio::spawn(daemon.run(asked));

    sees(&subscriber, "hs100d/lamp/state", json!({"route": "local"})).await;
    subscriber.publish("hs100d/lamp/set", r#"{"state":"ON","for":"30m"}"#);
    let told = async |year: &str| {
        for (topic, key) in [
            ("hs100d/lamp/state", "on_since"),
            ("hs100d/lamp/state", "until"),
            ("hs100d/bridge/info", "started"),
        ] {
            subscriber
                .until(&format!("{key} of {year}"), |all| {
                    let newest = all.iter().rfind(|seen| seen.topic == topic)?;
                    json_of(newest)[key].as_str()?.starts_with(year).then_some(())
                })
                .await;
        }
        home.lan().swap(home.plug(0), home.plug(1)).await.unwrap();
        subscriber.clear();
        subscriber.publish("hs100d/bridge/request/discover", "");
        let happened = subscriber.receives("hs100d/bridge/event", "address_changed").await;
        assert!(json_of(&happened)["at"].as_str().unwrap().starts_with(year), "{happened:?}");
    };
    told("1970").await;
    // The clock is set to 15 January 2027, then back to 2026.
    date.store(1_800_000_000, Ordering::Relaxed);
    told("2027").await;
    date.store(1_790_000_000, Ordering::Relaxed);
    told("2026").await;
    requests.send(SignalRequest::Stop).await.unwrap();
    within("the daemon's end", task).await.unwrap();
}
