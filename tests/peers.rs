//! Programs written by others, with our simulated home. Where they understand each other, the simulated home is right;
//! the daemon is then tested against the simulated home, and in `tests/end_to_end/peers.rs` against a plug that others
//! wrote.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::cloud::{MemoryTokenStore, TERMINAL};
use crate::support::peers::{Ended, PATIENCE, TheirPlug, node, peers, script, skip};
use hs100d::secret::Secret;
use hs100d::sim::cloud::account::SimAccount;
use hs100d::sim::cloud::rule::Method;
use hs100d::sim::cloud::signed::SimKeys;
use hs100d::sim::fault::{Dialect, KlapFault, LanFault};
use hs100d::sim::home::{HomeOptions, SimHome};
use hs100d::sim::model::{Model, SimKlapVersion};
use hs100d::sim::plug::SwitchedBy;
use hs100d::sim::plug::klap::{Framing, HeldAccount, SeqSign};
use hs100d::sim::plug::meter::SimMeter;
use hs100d::transport::cloud::request::AppIdentity;
use hs100d::transport::cloud::session::AccountMemory;
use hs100d::transport::cloud::signature::AppKeys;
use hs100d::transport::cloud::{Cloud, CloudOptions};
use serde_json::{Value, json};

/// Characters that a password may have and that break hand-made JSON.
const PASSWORD: &str = "\"'\\/{}$ü ";

/// Held while a plug of the discovery on UDP 20002 runs, as that port is fixed, and while a peer is confused by such a
/// plug.
static NEWER_DISCOVERY: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The first addresses of loopback; the ports and the home belong to one test.
fn home_of(plugs: &[(Model, &str)]) -> HomeOptions {
    let mut home_options = HomeOptions::of_models(plugs);
    home_options.account = SimAccount::new("user@example.com", PASSWORD);
    home_options
}

/// Runs a peer to its end and returns its output.
async fn run(command: Command, input: String) -> String {
    let (succeeded, printed) = run_to_end(command, input).await;
    assert!(succeeded, "{printed}");
    printed
}

/// Runs a peer to its end on its own thread. Returns whether it succeeded, and its output.
async fn run_to_end(mut command: Command, input: String) -> (bool, String) {
    tokio::task::spawn_blocking(move || {
        let mut output = tempfile::tempfile().unwrap();
        let both = [output.try_clone().unwrap(), output.try_clone().unwrap()];
        let [out, err] = both.map(Stdio::from);
        let mut child = command.stdin(Stdio::piped()).stdout(out).stderr(err).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let mut child = Ended(child);
        let end = Instant::now() + PATIENCE;
        let status = loop {
            match child.0.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() > end => break None,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut printed = String::new();
        output.seek(SeekFrom::Start(0)).unwrap();
        output.read_to_string(&mut printed).unwrap();
        assert!(status.is_some(), "{command:?} does not end\n{printed}");
        (status.is_some_and(|status| status.success()), printed)
    })
    .await
    .unwrap()
}

/// python-kasa's command line, with these arguments.
async fn kasa(peers: &Path, home: &SimHome, arguments: &[&str]) -> String {
    let mut command = Command::new(peers.join("python/bin/kasa"));
    command.args(["--port", &home.lan().port().to_string()]).args(arguments);
    run(command, String::new()).await
}

/// python-kasa's command line for the first plug of a home.
async fn kasa_plug(peers: &Path, home: &SimHome, arguments: &[&str]) -> String {
    kasa_device(peers, home, "plug", arguments).await
}

/// python-kasa's command line for the first device of a home, which it takes for a device of this type.
async fn kasa_device(peers: &Path, home: &SimHome, kind: &str, arguments: &[&str]) -> String {
    let host = home.lan().address(home.plug(0)).unwrap().ip().to_string();
    let about = ["--host", &host, "--type", kind];
    kasa(peers, home, &[&about, arguments].concat()).await
}

#[tokio::test]
async fn python_kasa_reads_and_works_each_of_our_plugs() {
    let Some(peers) = peers() else { return };
    for model in [Model::HS100_HW1, Model::HS100_HW2, Model::HS100_HW4] {
        let home = SimHome::start(home_of(&[(model, "Küche ☕")])).await.unwrap();
        let plug = home.plug(0);

        let printed = kasa_plug(peers, &home, &["--json", "sysinfo"]).await;
        let sysinfo: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(sysinfo["deviceId"], plug.device_id().as_str());
        assert_eq!((&sysinfo["alias"], &sysinfo["model"]), (&json!("Küche ☕"), &json!(model.name)));
        assert_eq!((&sysinfo["relay_state"], &sysinfo["led_off"]), (&json!(0), &json!(0)));

        kasa_plug(peers, &home, &["on"]).await;
        assert!(plug.is_on());
        kasa_plug(peers, &home, &["off"]).await;
        assert!(!plug.is_on());
        let log: Vec<_> = plug.switchings().iter().map(|switching| (switching.on, switching.by)).collect();
        assert_eq!(log, [(true, SwitchedBy::Lan), (false, SwitchedBy::Lan)]);

        kasa_plug(peers, &home, &["led", "off"]).await;
        assert!(!plug.is_led_on());
        kasa_plug(peers, &home, &["alias", "Büro"]).await;
        assert_eq!(plug.alias(), "Büro");

        let printed = kasa_plug(peers, &home, &["state"]).await;
        assert!(printed.contains("Büro - HS100") && printed.contains("Device state: False"), "{printed}");
    }
}

/// The values of a meter in these tests, in W, V, A and kWh.
fn metered() -> SimMeter {
    let days = [((2026, 1, 2), 0.75), ((2026, 1, 31), 1.5), ((2026, 11, 2), 4.0)];
    SimMeter { power: 61.753, voltage: 230.837, current: 0.451, total: 16.323, days: days.into() }
}

/// The peer prints the same values from a meter in either units.
fn expect_energy(printed: &str) {
    for line in ["Current: 0.451 A", "Voltage: 230.837 V", "Power: 61.753 W", "Total consumption: 16.323 kWh"]
    {
        assert!(printed.contains(line), "no {line} in {printed}");
    }
}

#[tokio::test]
async fn python_kasa_reads_both_generations_of_our_meters() {
    let Some(peers) = peers() else { return };
    for model in [Model::HS110_HW1, Model::HS110_HW4, Model::KP115] {
        let home = SimHome::start(home_of(&[(model, "Lamp")])).await.unwrap();
        home.plug(0).press_button();
        home.plug(0).with(|plug| plug.outlets[0].meter = metered());
        expect_energy(&kasa_plug(peers, &home, &["energy"]).await);
        let days = kasa_plug(peers, &home, &["energy", "--month", "2026-01"]).await;
        assert!(days.contains("\n2, 0.75\n31, 1.5\n"), "{days}");
        let months = kasa_plug(peers, &home, &["energy", "--year", "2026"]).await;
        assert!(months.contains("\n1, 2.25\n11, 4.0\n"), "{months}");
    }
}

#[tokio::test]
async fn python_kasa_works_each_outlet_of_our_strips() {
    let Some(peers) = peers() else { return };
    for model in [Model::KP303, Model::HS300, Model::HS107] {
        let home = SimHome::start(home_of(&[(model, "Desk")])).await.unwrap();
        let strip = home.plug(0);
        let count = strip.outlets_on().len();
        let only = |outlet| (0..count).map(|other| other == outlet).collect::<Vec<_>>();

        kasa_device(peers, &home, "strip", &["on", "--child-index", "1"]).await;
        assert_eq!(strip.outlets_on(), only(1), "{}", model.name);
        let child = ["alias", "--child-index", "1", "Büro ☕"];
        kasa_device(peers, &home, "strip", &child).await;
        assert_eq!(strip.read(|plug| plug.outlets[1].alias.clone()), "Büro ☕");
        kasa_device(peers, &home, "strip", &["off", "--child", "Büro ☕"]).await;
        assert_eq!(strip.outlets_on(), vec![false; count]);
        kasa_device(peers, &home, "strip", &["on"]).await;
        assert_eq!(strip.outlets_on(), vec![true; count]);
        kasa_device(peers, &home, "strip", &["led", "off"]).await;
        assert!(!strip.is_led_on());
        kasa_device(peers, &home, "strip", &["alias", "Leiste"]).await;
        assert_eq!(strip.alias(), "Leiste");
    }
}

#[tokio::test]
async fn python_kasa_reads_the_meter_of_one_outlet_of_our_strip() {
    let Some(peers) = peers() else { return };
    let home = SimHome::start(home_of(&[(Model::HS300, "Desk")])).await.unwrap();
    home.plug(0).press_button_of(4);
    home.plug(0).with(|plug| plug.outlets[4].meter = metered());
    expect_energy(&kasa_device(peers, &home, "strip", &["energy", "--child-index", "4"]).await);
    let other = kasa_device(peers, &home, "strip", &["energy", "--child-index", "3"]).await;
    assert!(other.contains("Power: 0.0 W") && !other.contains("16.323"), "{other}");
}

#[tokio::test]
async fn python_kasa_dims_our_dimmers() {
    let Some(peers) = peers() else { return };
    for model in [Model::HS220, Model::KP405] {
        let home = SimHome::start(home_of(&[(model, "Hall")])).await.unwrap();
        let dimmer = home.plug(0);
        let light = || (dimmer.read(|plug| plug.dimmer.brightness), dimmer.is_on());
        kasa_device(peers, &home, "dimmer", &["brightness", "33"]).await;
        assert_eq!(light(), (33, true), "the peer switches on as well");
        let printed = kasa_device(peers, &home, "dimmer", &["brightness"]).await;
        assert!(printed.contains("Brightness: 33"), "{printed}");
        kasa_device(peers, &home, "dimmer", &["off", "--transition", "100"]).await;
        assert_eq!(light(), (33, false));
        kasa_device(peers, &home, "dimmer", &["brightness", "80", "--transition", "100"]).await;
        assert_eq!(light(), (80, true));
        kasa_device(peers, &home, "dimmer", &["off"]).await;
        assert_eq!(light(), (80, false));
        kasa_device(peers, &home, "dimmer", &["on", "--transition", "100"]).await;
        assert_eq!(light(), (80, true));
        kasa_device(peers, &home, "dimmer", &["led", "off"]).await;
        assert!(!dimmer.is_led_on());
        kasa_device(peers, &home, "dimmer", &["alias", "Flur ☕"]).await;
        assert_eq!(dimmer.alias(), "Flur ☕");
    }
}

#[tokio::test]
async fn python_kasa_knows_what_our_devices_are() {
    let Some(peers) = peers() else { return };
    let _nobody_else = NEWER_DISCOVERY.lock().await;
    let plugs: Vec<_> = Model::ALL.iter().map(|&(word, model)| (model, word)).collect();
    let home = SimHome::start(home_of(&plugs)).await.unwrap();
    let arguments = ["--target", "127.255.255.255", "--discovery-timeout", "3", "discover"];
    let printed = kasa(peers, &home, &arguments).await;
    let headings: Vec<_> = home.plugs().iter().map(|plug| format!("\n== {} - ", plug.alias())).collect();
    let found: Vec<_> = headings.iter().map(|heading| printed.find(heading)).collect();
    for (plug, start) in home.plugs().iter().zip(&found) {
        let model = plug.read(|plug| plug.model);
        let start = start.unwrap_or_else(|| panic!("no {} in {printed}", plug.alias()));
        let end = found.iter().flatten().copied().filter(|&other| other > start).min();
        let told = &printed[start..end.unwrap_or(printed.len())];
        assert_eq!(told.matches("(Socket for ").count(), usize::from(model.outlets), "{told}");
        assert_eq!(told.contains("(current_consumption)"), model.meter.is_some(), "{told}");
        assert_eq!(told.contains("(brightness)"), model.dims, "{told}");
    }
}

#[tokio::test]
async fn python_kasa_gets_on_with_the_oddities_of_our_plugs() {
    let Some(peers) = peers() else { return };
    let home = SimHome::start(home_of(&[(Model::HS100_HW1, "Lamp")])).await.unwrap();
    let mild = [
        LanFault::CloseAfterEachReply,
        LanFault::Latency(Duration::from_millis(50)),
        LanFault::SlowBytes(Duration::from_millis(1)),
    ];
    for fault in mild {
        home.lan().set_fault(home.plug(0), fault).await.unwrap();
        for (word, on) in [("on", true), ("off", false)] {
            kasa_plug(peers, &home, &[word]).await;
            assert_eq!(home.plug(0).is_on(), on, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn python_kasa_finds_our_plugs_by_broadcast() {
    let Some(peers) = peers() else { return };
    let plugs = [(Model::HS100_HW1, "Lamp"), (Model::HS100_HW2, "Kettle"), (Model::HS100_HW4, "Hidden")];
    let home = SimHome::start(home_of(&plugs)).await.unwrap();
    home.plug(2).with(|plug| plug.hears_broadcasts = false);
    let arguments = ["--target", "127.255.255.255", "--discovery-timeout", "2", "discover", "list"];
    let printed = kasa(peers, &home, &arguments).await;
    for plug in &home.plugs()[..2] {
        let address = home.lan().address(plug).unwrap().ip().to_string();
        let line = printed.lines().find(|line| line.contains(&address));
        let line = line.unwrap_or_else(|| panic!("no {address} in {printed}"));
        assert!(line.contains(&plug.alias()), "{line}");
    }
    assert!(!printed.contains("Hidden"), "{printed}");
}

#[tokio::test]
async fn discover_lists_the_plugs_that_python_kasa_finds_and_says_the_same_of_them() {
    let Some(peers) = peers() else { return };
    let plugs = [
        (Model::HS100_HW1, "Lamp"),
        (Model::HS100_HW2, "Küche ☕"),
        (Model::HS100_HW4, ""),
        (Model::HS100_HW1, "Hidden"),
    ];
    let home = SimHome::start(home_of(&plugs)).await.unwrap();
    home.plug(1).press_button();
    home.plug(3).with(|plug| plug.hears_broadcasts = false);

    let arguments = ["--json", "--target", "127.255.255.255", "--discovery-timeout", "2", "discover"];
    let printed: Value = serde_json::from_str(&kasa(peers, &home, &arguments).await).unwrap();
    let theirs = printed.as_object().unwrap().iter().map(|(host, reply)| {
        let sysinfo = &reply["system"]["get_sysinfo"];
        let state = if sysinfo["relay_state"] == 1 { "ON" } else { "OFF" };
        json!({
            "alias": sysinfo["alias"], "model": sysinfo["model"], "host": host, "mac": sysinfo["mac"],
            "device_id": sysinfo["deviceId"], "state": state, "rssi": sysinfo["rssi"], "protocol": "xor",
        })
    });
    let mut theirs: Vec<Value> = theirs.collect();
    theirs.sort_by_key(|row| row["host"].to_string());

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("hs100d.toml");
    let port = home.lan().port();
    let text = format!("[local]\nport = {port}\n[discovery]\nbroadcast = [\"127.255.255.255\"]\n");
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hs100d"));
    command.env_clear().env("HOME", folder.path()).arg("--config").arg(&config);
    command.args(["discover", "--json", "--timeout", "2s"]);
    let mut ours: Vec<Value> = serde_json::from_str(&run(command, String::new()).await).unwrap();
    for row in ours.iter_mut().filter_map(Value::as_object_mut) {
        // Fields that only the daemon has.
        row.retain(|key, _| !["topic_name", "outlets", "unread"].contains(&key.as_str()));
    }
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), 3);
}

#[tokio::test]
async fn python_kasa_hears_that_one_of_our_plugs_speaks_klap() {
    let Some(peers) = peers() else { return };
    let _nobody_else = NEWER_DISCOVERY.lock().await;
    let mut home_options = home_of(&[(Model::HS100_HW4, "Lamp")]);
    home_options.first_plug = [127, 0, 3, 1].into();
    home_options.tdp_port = 20002; // The peer uses no other port.
    let home = match SimHome::start(home_options).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            return skip("127.255.255.255:20002 is taken");
        }
        started => started.unwrap(),
    };
    home.plug(0).with(|plug| plug.dialect = Dialect::Klap);
    home.lan().settled(home.plug(0)).await.unwrap();
    let arguments = ["--target", "127.255.255.255", "--discovery-timeout", "2", "discover", "list"];
    let printed = kasa(peers, &home, &arguments).await;
    let line = printed.lines().find(|line| line.contains("127.0.3.1"));
    assert!(line.is_some_and(|line| line.contains("KLAP")), "{printed}");
}

/// A home whose first device speaks KLAP in this version.
async fn klap_home(model: Model, version: SimKlapVersion) -> SimHome {
    let mut home_options = home_of(&[(model, "Küche ☕")]);
    home_options.klap = vec![0];
    let home = SimHome::start(home_options).await.unwrap();
    home.plug(0).with(|plug| plug.klap.version = version);
    home
}

/// python-kasa's command line for the device of [`klap_home`], with this account. Returns whether it succeeded, and its
/// output.
async fn try_kasa_klap(
    peers: &Path,
    home: &SimHome,
    (username, password): (&str, &str),
    arguments: &[&str],
) -> (bool, String) {
    let address = home.lan().klap_address(home.plug(0)).unwrap();
    let level = match home.plug(0).read(|plug| plug.klap.version) {
        SimKlapVersion::V1 => "1",
        SimKlapVersion::V2 | SimKlapVersion::Unknown => "2",
    };
    let mut command = Command::new(peers.join("python/bin/kasa"));
    command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.args(["--device-family", "IOT.SMARTPLUGSWITCH", "--encrypt-type", "klap", "-lv", level]);
    command.args(["--username", username, "--password", password]).args(arguments);
    run_to_end(command, String::new()).await
}

/// The same, with the account of the home.
async fn kasa_klap(peers: &Path, home: &SimHome, arguments: &[&str]) -> String {
    let (succeeded, printed) = try_kasa_klap(peers, home, ("user@example.com", PASSWORD), arguments).await;
    assert!(succeeded, "{arguments:?}: {printed}");
    printed
}

const KLAP_VERSIONS: [SimKlapVersion; 2] = [SimKlapVersion::V1, SimKlapVersion::V2];

#[tokio::test]
async fn python_kasa_reads_and_works_our_plug_over_both_versions_of_klap() {
    let Some(peers) = peers() else { return };
    for (version, sign) in KLAP_VERSIONS.into_iter().zip([SeqSign::Negative, SeqSign::Positive]) {
        let home = klap_home(Model::HS100_HW4, version).await;
        let plug = home.plug(0);
        plug.with(|plug| plug.klap.first_seq = sign);

        let sysinfo: Value =
            serde_json::from_str(&kasa_klap(peers, &home, &["--json", "sysinfo"]).await).unwrap();
        assert_eq!(sysinfo["deviceId"], plug.device_id().as_str());
        assert_eq!(sysinfo["alias"], "Küche ☕");
        kasa_klap(peers, &home, &["on"]).await;
        assert!(plug.is_on());
        kasa_klap(peers, &home, &["off"]).await;
        let log: Vec<_> = plug.switchings().iter().map(|switching| (switching.on, switching.by)).collect();
        assert_eq!(log, [(true, SwitchedBy::Klap), (false, SwitchedBy::Klap)]);
        kasa_klap(peers, &home, &["led", "off"]).await;
        assert!(!plug.is_led_on());
        let traffic = plug.traffic();
        assert_eq!((traffic.klap_handshakes, traffic.klap_sessions, traffic.klap_refusals), (4, 4, 0));
        assert_eq!(plug.read(|plug| plug.klap.last_refusal), None, "{version:?}");
    }
}

#[tokio::test]
async fn python_kasa_works_the_outlets_and_reads_the_meters_of_our_strip_over_klap() {
    let Some(peers) = peers() else { return };
    let home = klap_home(Model::HS300, SimKlapVersion::V2).await;
    let strip = home.plug(0);
    let only = |on| (0..6).map(|outlet| outlet == on).collect::<Vec<_>>();
    kasa_klap(peers, &home, &["on", "--child-index", "1"]).await;
    assert_eq!(strip.outlets_on(), only(1));
    kasa_klap(peers, &home, &["off", "--child-index", "1"]).await;
    assert_eq!(strip.outlets_on(), vec![false; 6]);
    strip.press_button_of(4);
    strip.with(|plug| plug.outlets[4].meter = metered());
    expect_energy(&kasa_klap(peers, &home, &["energy", "--child-index", "4"]).await);
}

#[tokio::test]
async fn python_kasa_reads_our_meter_over_klap() {
    let Some(peers) = peers() else { return };
    for (model, version) in [(Model::HS110_HW4, SimKlapVersion::V1), (Model::KP115, SimKlapVersion::V2)] {
        let home = klap_home(model, version).await;
        home.plug(0).press_button();
        home.plug(0).with(|plug| plug.outlets[0].meter = metered());
        expect_energy(&kasa_klap(peers, &home, &["energy"]).await);
    }
}

#[tokio::test]
async fn python_kasa_gets_into_our_plug_with_each_account_that_it_knows_and_with_no_other() {
    let Some(peers) = peers() else { return };
    for version in KLAP_VERSIONS {
        let home = klap_home(Model::HS100_HW4, version).await;
        for built_in in [HeldAccount::kasa_setup(), HeldAccount::tapo_setup(), HeldAccount::blank()] {
            home.plug(0).with(|plug| plug.klap.account = built_in);
            kasa_klap(peers, &home, &["--json", "sysinfo"]).await;
        }
        let sessions = home.plug(0).traffic().klap_sessions;
        home.plug(0).with(|plug| plug.klap.account = HeldAccount::new("user@example.com", PASSWORD));
        for other in [("User@example.com", PASSWORD), ("user@example.com", "wrong")] {
            let (succeeded, printed) = try_kasa_klap(peers, &home, other, &["sysinfo"]).await;
            assert!(!succeeded && printed.contains("did not match our challenge"), "{version:?}: {printed}");
        }
        assert_eq!(home.plug(0).traffic().klap_sessions, sessions, "it stops after handshake1");
    }
    let home = klap_home(Model::HS100_HW4, SimKlapVersion::Unknown).await;
    let (succeeded, printed) =
        try_kasa_klap(peers, &home, ("user@example.com", PASSWORD), &["sysinfo"]).await;
    assert!(!succeeded && printed.contains("did not match our challenge"), "{printed}");
}

#[tokio::test]
async fn python_kasa_takes_its_session_back_and_meets_the_oddities_of_our_klap() {
    let Some(peers) = peers() else { return };
    let home = klap_home(Model::HS100_HW4, SimKlapVersion::V2).await;
    let plug = home.plug(0);
    // Its first session is taken: it ends right after its start.
    let watched = plug.clone();
    let thief = async {
        home.wait_until(PATIENCE, || watched.traffic().klap_requests > 0).await.unwrap();
        watched.with(|plug| plug.klap.fault = KlapFault::Works);
    };
    plug.with(|plug| plug.klap.fault = KlapFault::SessionTaken);
    let (printed, ()) = tokio::join!(kasa_klap(peers, &home, &["on"]), thief);
    assert!(plug.is_on(), "{printed}");
    let traffic = plug.traffic();
    assert!(traffic.klap_refusals >= 1 && traffic.klap_sessions >= 2, "{traffic:?}");
    assert_eq!(traffic.relay_orders, 1);

    plug.with(|plug| plug.klap.framing = Framing::Close);
    kasa_klap(peers, &home, &["off"]).await;
    assert!(!plug.is_on());
}

/// A client of the cloud logs in, lists the devices, switches on and off. Its output must match what happened.
async fn use_the_cloud(command: Command, keys: Option<SimKeys>) {
    let plugs = [(Model::HS100_HW1, "Lamp"), (Model::HS100_HW4, "Küche ☕")];
    let mut home_options = home_of(&plugs);
    home_options.cloud.push(home_options.cloud[0]);
    let home = SimHome::start(home_options).await.unwrap();
    let mut task = json!({
        "url": home.cloud().url(),
        "username": "user@example.com",
        "password": PASSWORD,
        "terminal": "b6085622-86e0-4940-8fd3-4b60862de994",
        "alias": "Küche ☕",
    });
    let is_signed = keys.is_some();
    if let Some(keys) = &keys {
        task["access_key"] = keys.access_key.clone().into();
        task["secret_key"] = keys.secret_key.clone().into();
    }
    home.cloud().account(|account| (account.keys, account.home) = (keys, usize::from(is_signed)));
    let printed = run(command, task.to_string()).await;
    let seen: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(seen, json!({"devices": ["Lamp", "Küche ☕"], "states": [false, true, false]}));

    let log: Vec<_> =
        home.plug(1).switchings().iter().map(|switching| (switching.on, switching.by)).collect();
    assert_eq!(log, [(true, SwitchedBy::Cloud), (false, SwitchedBy::Cloud)]);
    assert!(home.plug(0).switchings().is_empty(), "the other plug was left alone");
    assert_eq!(home.cloud().calls(Method::Login), 1);
    assert_eq!(home.cloud().calls(Method::Passthrough), 5);
    let records = home.cloud().records();
    let login = records.iter().find(|record| record.method == Method::Login).unwrap();
    let params: Value = serde_json::from_str(&login.body).unwrap();
    let params = if is_signed { &params } else { &params["params"] };
    assert_eq!((&params["cloudPassword"], login.host), (&json!(PASSWORD), usize::from(is_signed)));
    let hosts =
        records.iter().filter(|record| record.method == Method::Passthrough).map(|record| record.host);
    assert!(hosts.eq([2; 5]), "each passthrough went to the plug's own host");
}

#[tokio::test]
async fn tplink_cloud_api_of_npm_works_our_cloud() {
    let Some(peers) = peers() else { return };
    use_the_cloud(node(peers, "cloud.js"), None).await;
}

#[tokio::test]
async fn tplink_cloud_api_of_pypi_works_our_cloud() {
    let Some(peers) = peers() else { return };
    let mut command = Command::new(peers.join("python/bin/python"));
    command.arg(script("cloud.py"));
    use_the_cloud(command, None).await;
}

#[tokio::test]
async fn the_newer_tplink_cloud_api_of_pypi_works_our_second_interface() {
    let Some(peers) = peers() else { return };
    let mut command = Command::new(peers.join("python/bin/python"));
    command.arg(script("cloud_signed.py")).arg(peers.join("signing"));
    let keys =
        SimKeys { access_key: "made-up-access-key".to_owned(), secret_key: "made-up-secret-key".to_owned() };
    use_the_cloud(command, Some(keys)).await;
}

/// The head and the body of the first request that a client sends.
async fn first_request(listener: &tokio::net::TcpListener) -> (String, String) {
    use tokio::io::AsyncReadExt as _;
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    loop {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the client hung up");
        let text = String::from_utf8(bytes.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if body.len() == header(head, "content-length").parse::<usize>().unwrap() {
            return (head.to_owned(), body.to_owned());
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap()
}

#[tokio::test]
async fn our_requests_have_the_signature_that_a_client_of_others_computes_for_them() {
    let Some(peers) = peers() else { return };
    let (access_key, secret_key) = ("made-up-access-key", "made-up-secret-key");
    let secret = |text: &str| Secret::new(text.to_owned());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = CloudOptions {
        username: "me@example.com".to_owned(),
        password: Some(secret("pretend")),
        url: format!("http://{}", listener.local_addr().unwrap()),
        app: AppIdentity::default(),
        keys: Some(AppKeys { access_key: secret(access_key), secret_key: secret(secret_key) }),
        ca_file: None,
    };
    let (store, memory) = (Arc::new(MemoryTokenStore::default()), AccountMemory::default());
    let (events, _) = tokio::sync::mpsc::unbounded_channel();
    let cloud = Cloud::start(options, TERMINAL, None, store, events, memory).unwrap();
    let (head, body) = tokio::select! {
        request = first_request(&listener) => request,
        answer = cloud.list() => panic!("nothing was sent: {answer:?}"),
    };
    let uri = head.split(' ').nth(1).unwrap();
    let (path, query) = uri.split_once('?').unwrap();
    assert!(path.starts_with("/api/v2/") && query.starts_with("appName="), "{uri}");
    let ours = (header(&head, "content-md5"), header(&head, "x-authorization"));
    let mut command = Command::new(peers.join("python/bin/python"));
    command.arg(script("signature.py")).arg(peers.join("signing/tplinkcloud/signing.py"));
    let request = json!({"path": path, "body": body, "authorization": ours.1, "access_key": access_key,
        "secret_key": secret_key});
    let theirs: Value = serde_json::from_str(&run(command, request.to_string()).await).unwrap();
    assert_eq!((&theirs["md5"], &theirs["authorization"]), (&json!(ours.0), &json!(ours.1)));
}

#[test]
fn a_plug_that_someone_else_wrote_understands_our_frames_and_has_a_button() {
    let Some(peers) = peers() else { return };
    let mut plug = TheirPlug::start(peers);
    assert_eq!(plug.say("state"), "off");
    let sysinfo = plug.ask(r#"{"system":{"get_sysinfo":{}}}"#);
    assert_eq!(sysinfo["system"]["get_sysinfo"]["alias"], "Their lamp");
    assert_eq!(sysinfo["system"]["get_sysinfo"]["deviceId"], TheirPlug::DEVICE_ID);
    let done = plug.ask(r#"{"system":{"set_relay_state":{"state":1}}}"#);
    assert_eq!(done, json!({"system": {"set_relay_state": {"err_code": 0}}}));
    assert_eq!(plug.say("state"), "on");
    assert_eq!(plug.say("press"), "off");
    let sysinfo = plug.ask(r#"{"system":{"get_sysinfo":{}}}"#);
    assert_eq!(sysinfo["system"]["get_sysinfo"]["relay_state"], 0);
}

/// What Home Assistant's own code reads from the discovery payloads in a golden file, by unique id.
async fn read_by_home_assistant(peers: &Path, golden: &str) -> serde_json::Map<String, Value> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(golden);
    let mut command = Command::new(peers.join("python/bin/python"));
    command.arg(script("homeassistant.py")).arg(peers.join("homeassistant"));
    let read = run(command, std::fs::read_to_string(golden).unwrap()).await;
    serde_json::from_str(&read).unwrap()
}

#[tokio::test]
async fn home_assistant_reads_the_same_in_our_documents_of_both_forms_and_every_topic_in_full() {
    let Some(peers) = peers() else { return };
    for kind in ["plug", "meter", "switch", "dimmer", "strip", "outlet", "bridge"] {
        let mut device = read_by_home_assistant(peers, &format!("device-{kind}.json")).await;
        let component = read_by_home_assistant(peers, &format!("component-{kind}.json")).await;
        for entity in device.values_mut().filter(|entity| entity["platform"] == "button") {
            // Shared by all components; a button has none, and its schema drops it.
            entity.as_object_mut().unwrap().remove("state_topic");
        }
        assert_eq!(device, component, "{kind}");
        assert!(device.len() > 1, "{kind}: {device:?}");
        for entity in device.values() {
            let listed = entity["availability"].as_array().into_iter().flatten();
            let listed = listed.map(|one| &one["topic"]);
            let own = entity.as_object().unwrap().iter();
            let own = own.filter(|(key, _)| key.ends_with("_topic")).map(|(_, topic)| topic);
            let topics: Vec<&str> = listed.chain(own).map(|topic| topic.as_str().unwrap()).collect();
            assert!(topics.len() > 1 || kind == "bridge", "{kind}: {entity}");
            assert!(topics.iter().all(|topic| topic.starts_with("hs100d/")), "{kind}: {topics:?}");
        }
    }
}
