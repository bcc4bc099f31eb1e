//! `check --online` in a simulated home: which cause it names for each fault of a plug and of the account, as text and
//! as JSON, and that it neither switches anything nor uses up logins.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use crate::support::e2e::{ACCOUNT, Config, Ended, Scene, Setup, home_of, home_options_of, sees};
use crate::support::mqtt::free_port;
use hs100d::sim::cloud::rule::{CloudFault, Method, Times};
use hs100d::sim::fault::{CloudLink, Dialect, LanFault};
use hs100d::sim::home::SimHome;
use hs100d::sim::model::Model;
use serde_json::{Value, json};

/// The report on one subject, with its line.
#[derive(Debug)]
struct Diagnosed {
    line: String,
    object: Value,
}

impl Diagnosed {
    fn cause(&self) -> &str {
        self.object["cause"].as_str().unwrap_or("none")
    }

    /// The result of the first try whose description contains this.
    fn came_back(&self, what: &str) -> &str {
        let tries = self.object["tries"].as_array().unwrap();
        let of_it = tries.iter().find(|one| one["what"].as_str().unwrap().contains(what));
        of_it.unwrap_or_else(|| panic!("no try of {what}: {self:?}"))["came_back"].as_str().unwrap()
    }
}

/// Runs the check in both forms, which must agree on the subject.
async fn examined(setup: &Setup, subject: &str) -> Diagnosed {
    let (report, text) =
        tokio::join!(setup.run(&["check", "--online", "--json"]), setup.run(&["check", "--online"]));
    compared(&report, &text, subject)
}

/// The same, one after the other: a plug that speaks KLAP has one session.
async fn examined_in_turn(setup: &Setup, subject: &str) -> Diagnosed {
    let report = setup.run(&["check", "--online", "--json"]).await;
    compared(&report, &setup.run(&["check", "--online"]).await, subject)
}

fn compared(report: &Ended, text: &Ended, subject: &str) -> Diagnosed {
    let object = subject_of(report, subject);
    let (verdict, code) = match (object["ok"] == true, object["cause"].is_null()) {
        (true, true) => ("ok  ", 0),
        (true, false) => ("note", 0),
        (false, _) => ("FAIL", 69),
    };
    let start = format!("{verdict}  {subject}: ");
    let lines: Vec<_> = text.out.lines().filter(|line| line.starts_with(&start)).collect();
    assert_eq!(lines.len(), 1, "one line of {subject}: {text:?}\n{report:?}");
    if code == 69 {
        assert_eq!((text.code, report.code), (69, 69), "{text:?}");
    }
    if object["cause"].is_string() {
        let end = format!(": {} [{}]", object["remedy"].as_str().unwrap(), object["cause"].as_str().unwrap());
        assert!(lines[0].ends_with(&end), "{end}\n{text:?}");
    }
    Diagnosed { line: lines[0].to_owned(), object }
}

/// The part of the printed object about this subject.
fn subject_of(report: &Ended, subject: &str) -> Value {
    let whole: Value =
        serde_json::from_str(&report.out).unwrap_or_else(|error| panic!("{error}: {report:?}"));
    let subjects = whole["online"]["subjects"].as_array().unwrap();
    let is_it = |one: &&Value| match subject.strip_prefix("plug ") {
        Some(name) => one["subject"] == "plug" && one["name"] == name,
        None => one["subject"] == subject,
    };
    let found: Vec<_> = subjects.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{subject} once in {whole}");
    found[0].clone()
}

/// A home with the plugs `lamp` and `fan`, and a config with their names and addresses.
async fn scene() -> (SimHome, Setup) {
    let home = home_of(&["Lamp", "Fan"]).await;
    let config = Config::of(&home).set("local", "timeout", "500ms").set("discovery", "adopt", false);
    let setup = Setup::new(&config.plug("lamp", &home, 0).plug("fan", &home, 1));
    (home, setup)
}

#[tokio::test]
async fn all_is_well_in_one_line_each_with_the_tries_on_demand_and_nothing_is_switched() {
    let (home, setup) = scene().await;
    let well = setup.run(&["check", "--online"]).await;
    let lines: Vec<_> =
        well.ok().lines().skip_while(|line| !line.contains("The config is valid")).skip(1).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[0].starts_with("ok    broker: the embedded broker can listen on "), "{lines:#?}");
    assert_eq!(lines[1], "ok    cloud: the account lists 2 devices, 2 of them connected");
    let lamp = "HS100(EU) answers: OFF, signal -47 dBm";
    assert_eq!(lines[2], format!("ok    plug lamp: LAN: {lamp}; cloud: {lamp}"));
    let verbose = setup.run(&["-v", "check", "--online"]).await;
    let tried =
        format!("        get_sysinfo by TCP at {}: {lamp} (", home.lan().address(home.plug(0)).unwrap());
    assert_eq!(verbose.out.matches(&tried).count(), 1, "{verbose:?}");
    let object = setup.run(&["check", "--online", "--json"]).await.json();
    assert_eq!((&object["online"]["ok"], &object["valid"]), (&json!(true), &json!(true)));
    assert_eq!(home.cloud().calls(Method::Login), 1, "the token of the first run serves the others");
    for plug in home.plugs() {
        assert_eq!((plug.switchings().len(), plug.traffic().relay_orders), (0, 0));
    }
}

#[tokio::test]
async fn a_bulb_that_makes_itself_heard_is_no_plug_to_be_examined() {
    let bulb = Model { kind: "IOT.SMARTBULB", ..Model::HS100_HW1 };
    let mut home_options = home_options_of(&[]);
    home_options.plugs = vec![(Model::HS100_HW1, "Lamp".to_owned()), (bulb, "Bulb".to_owned())];
    let home = SimHome::start(home_options).await.unwrap();
    let report = Setup::new(&Config::of(&home)).run(&["check", "--online", "--json"]).await.json();
    let subjects = report["online"]["subjects"].as_array().unwrap();
    let plugs: Vec<_> = subjects.iter().filter(|it| it["subject"] == "plug").map(|it| &it["name"]).collect();
    assert_eq!(plugs, ["Lamp"], "{report}");
}

#[tokio::test]
async fn a_second_device_with_a_device_id_is_found() {
    let home = home_of(&["Lamp", "Fan"]).await;
    let id = home.plug(0).device_id();
    home.plug(1).with(|plug| plug.device_id = id);
    let report = Setup::new(&Config::of(&home).without("cloud")).run(&["check", "--online", "--json"]).await;
    let whole: Value = serde_json::from_str(&report.out).unwrap();
    let subjects = whole["online"]["subjects"].as_array().unwrap();
    let causes: Vec<_> =
        subjects.iter().filter(|it| it["subject"] == "plug").map(|it| &it["cause"]).collect();
    assert_eq!(json!(causes), json!([null, "same-device-id"]), "{whole}");
}

#[tokio::test]
async fn each_fault_of_a_plug_has_its_cause() {
    let (home, setup) = scene().await;
    let lamp = home.plug(0);
    for (fault, link, cause) in [
        (LanFault::Works, CloudLink::Offline, "cloud-offline"),
        (LanFault::Works, CloudLink::DeviceError(-1), "plug-refuses"),
        (LanFault::Works, CloudLink::Garbage, "cloud-silent"),
        (LanFault::Refused, CloudLink::Works, "port-closed-by-firmware"),
        (LanFault::Refused, CloudLink::Offline, "another-device"),
        (LanFault::PortDead, CloudLink::Works, "port-dead"),
        (LanFault::PortFiltered, CloudLink::Works, "filtered"),
        (LanFault::NotAccepting, CloudLink::Works, "isolated"),
        (LanFault::NotAccepting, CloudLink::Offline, "unplugged"),
        (LanFault::Silent, CloudLink::Works, "hangs"),
        (LanFault::CloseWithoutReply, CloudLink::Works, "closes-connection"),
        (LanFault::ResetAfterRequest, CloudLink::Works, "closes-connection"),
        (LanFault::Garbage, CloudLink::Works, "not-a-plug"),
        (LanFault::DeviceError(-1), CloudLink::Works, "plug-refuses"),
    ] {
        home.lan().set_fault(lamp, fault).await.unwrap();
        lamp.set_cloud(link);
        let report = subject_of(&setup.run(&["check", "--online", "--json"]).await, "plug lamp");
        assert_eq!(report["cause"], cause, "{fault:?} {link:?}: {report}");
    }
    assert_eq!(home.cloud().calls(Method::Login), 1);
    assert_eq!(lamp.traffic().relay_orders, 0);
}

#[tokio::test]
async fn without_an_account_the_neighbours_tell_whether_it_is_the_plug_or_the_network() {
    let home = home_of(&["Lamp", "Fan"]).await;
    let config =
        Config::of(&home).without("cloud").set("local", "timeout", "500ms").set("discovery", "adopt", false);
    let setup = Setup::new(&config.plug("lamp", &home, 0).plug("fan", &home, 1));
    let lamp = home.plug(0);
    home.lan().set_fault(lamp, LanFault::Refused).await.unwrap();
    assert_eq!(examined(&setup, "plug lamp").await.cause(), "port-closed");
    home.lan().set_fault(lamp, LanFault::NotAccepting).await.unwrap();
    let report = examined(&setup, "plug lamp").await;
    assert_eq!(
        (report.cause(), report.came_back("broadcast")),
        ("not-found", "no answer from it, 1 from others")
    );
    home.plug(1).with(|plug| plug.hears_broadcasts = false);
    let report = examined(&setup, "plug lamp").await;
    assert_eq!((report.cause(), report.came_back("broadcast")), ("nobody-heard", "no answer from any plug"));
    assert_eq!(report.came_back("connect to"), "not accepted");
    assert_eq!(examined(&setup, "plug fan").await.cause(), "none", "it is reached at its written address");
}

#[tokio::test]
async fn an_address_that_is_another_plugs_or_was_left_is_told_with_the_new_one() {
    let (home, setup) = scene().await;
    let [lamp, fan] = [0, 1].map(|number| home.lan().address(home.plug(number)).unwrap());
    home.lan().swap(home.plug(0), home.plug(1)).await.unwrap();
    let report = examined(&setup, "plug lamp").await;
    assert_eq!(report.cause(), "address-changed");
    assert!(
        report.line.contains(&format!(
            "another plug answers at the address (\"Fan\" 8006…0002), but it answered a broadcast from {fan}"
        )),
        "{report:?}"
    );
    for number in 0..2 {
        home.plug(number).with(|plug| plug.hears_broadcasts = false);
    }
    assert_eq!(examined(&setup, "plug lamp").await.cause(), "another-plug");
    home.plug(0).with(|plug| plug.hears_broadcasts = true);
    home.lan().unplug(home.plug(1)).await;
    let report = examined(&setup, "plug lamp").await;
    assert_eq!(report.cause(), "address-changed");
    assert!(
        report.line.contains(&format!("{lamp}: connection refused, but it answered a broadcast from {fan}")),
        "{report:?}"
    );
}

#[tokio::test]
async fn what_the_account_says_of_a_plug_is_weighed() {
    let (home, setup) = scene().await;
    let lamp = home.plug(0);
    lamp.with(|plug| plug.bound = false);
    assert_eq!(examined(&setup, "plug lamp").await.cause(), "not-in-account");
    let elsewhere = home.cloud().host_url(0);
    lamp.with(|plug| (plug.bound, plug.app_server_url) = (true, Some(elsewhere)));
    assert_eq!(examined(&setup, "plug lamp").await.cause(), "wrong-server");
    lamp.with(|plug| plug.app_server_url = Some("https://evil.example".to_owned()));
    assert_eq!(examined(&setup, "plug lamp").await.cause(), "server-refused");
    lamp.with(|plug| (plug.app_server_url, plug.model.kind) = (None, "SMART.TAPOPLUG"));
    assert_eq!(examined(&setup, "plug lamp").await.cause(), "other-family");
    home.plug(0).with(|plug| plug.bound = false);
    home.plug(1).with(|plug| plug.bound = false);
    assert_eq!(examined(&setup, "cloud").await.cause(), "account-empty");
    assert_eq!(examined(&setup, "plug lamp").await.cause(), "none", "an empty list says nothing of a plug");
}

#[tokio::test]
async fn a_plug_that_the_account_does_not_list_is_a_note_while_the_lan_reaches_it_and_no_route_needs_the_cloud()
 {
    let (home, setup) = scene().await;
    home.plug(0).with(|plug| plug.bound = false);
    let report = setup.run(&["check", "--online"]).await;
    let notes: Vec<_> = report.ok().lines().filter(|line| line.starts_with("note  ")).collect();
    assert_eq!(notes.len(), 1, "{report:?}");
    assert!(notes[0].starts_with("note  plug lamp: LAN: HS100(EU) answers"), "{report:?}");
    assert!(notes[0].ends_with("or set route = \"local\" [not-in-account]"), "{report:?}");

    home.lan().set_fault(home.plug(0), LanFault::NotAccepting).await.unwrap();
    assert_eq!(examined(&setup, "plug lamp").await.object["ok"], false, "nothing serves it");
    home.lan().set_fault(home.plug(0), LanFault::Works).await.unwrap();
    let config = Config::of(&home).set("local", "timeout", "500ms").set("discovery", "adopt", false);
    let setup = Setup::new(&config.set("routing", "policy", "cloud").plug("lamp", &home, 0));
    let report = examined(&setup, "plug lamp").await;
    assert_eq!((report.cause(), &report.object["ok"]), ("not-in-account", &json!(false)));
}

#[tokio::test]
async fn each_way_in_which_the_account_fails_has_its_cause() {
    let home = home_of(&["Lamp"]).await;
    let config = Config::of(&home).set("local", "timeout", "500ms");
    let always = |fault| home.cloud().fail(None, Times::Always, fault);
    for (fault, cause) in [
        (CloudFault::Html, "captive-portal"),
        (CloudFault::Redirect("http://127.0.0.1:9/portal".to_owned()), "captive-portal"),
        (CloudFault::Status(502), "cloud-out-of-order"),
        (CloudFault::Status(429), "throttled"),
        (CloudFault::Close, "cloud-out-of-order"),
        (CloudFault::Code(-20004), "throttled"),
        (CloudFault::Code(-20212), "wrong-region"),
        (CloudFault::Code(-20600), "account-unknown"),
        (CloudFault::Code(-20615), "username-malformed"),
        (CloudFault::Code(-20661), "account-locked"),
        (CloudFault::Code(-20675), "logged-in-elsewhere"),
        (CloudFault::NestedCode(-20677), "code-needed"),
        (CloudFault::Code(-20602), "account-needs-care"),
        (CloudFault::Code(-20104), "unexpected"),
    ] {
        always(fault.clone());
        let report = Setup::new(&config).run(&["check", "--online", "--json"]).await;
        assert_eq!(subject_of(&report, "cloud")["cause"], cause, "{fault:?}: {report:?}");
        assert_eq!(subject_of(&report, "plug Lamp")["ok"], true, "the LAN works without it: {report:?}");
        home.cloud().mend();
    }
    home.cloud().set_reachable(false).await.unwrap();
    assert_eq!(examined(&Setup::new(&config), "cloud").await.cause(), "cloud-unreachable");
    let setup = Setup::new(
        &config.set("routing", "policy", "cloud").set("discovery", "adopt", false).plug("lamp", &home, 0),
    );
    assert_eq!(examined(&setup, "plug lamp").await.cause(), "account-first");
}

#[tokio::test]
async fn a_login_that_is_refused_is_made_once_a_run_and_the_spelling_is_looked_at() {
    let home = home_of(&["Lamp"]).await;
    let config = Config::of(&home).set("local", "timeout", "500ms");
    let once = async |config: &Config| {
        let before = home.cloud().calls(Method::Login);
        let report = Setup::new(config).run(&["check", "--online", "--json"]).await;
        assert_eq!(home.cloud().calls(Method::Login), before + 1, "one try and no more");
        subject_of(&report, "cloud")
    };
    let wrong = once(&config.clone().set("cloud", "password", "guessed")).await;
    assert_eq!(wrong["cause"], "password-refused");
    let odd = once(&config.clone().set("cloud", "username", "some body@example.com")).await;
    assert_eq!(odd["cause"], "account-unknown");
    assert!(odd["found"].as_str().unwrap().ends_with("there is a space in it"), "{odd}");
    home.cloud().account(|account| account.two_step = true);
    assert_eq!(once(&config).await["cause"], "two-step-verification");

    let without = Config::of(&home).without("cloud").set("cloud", "username", ACCOUNT.0).set(
        "cloud",
        "url",
        home.cloud().url(),
    );
    let setup = Setup::new(&without);
    let before = home.cloud().records().len();
    assert_eq!(examined(&setup, "cloud").await.cause(), "login-missing");
    assert_eq!(home.cloud().records().len(), before, "there is nothing to ask with");
    home.cloud().account(|account| account.two_step = false);
    setup.run_with(&["cloud", "login"], ACCOUNT.1).await.ok();
    assert_eq!(examined(&setup, "cloud").await.cause(), "none");
    home.cloud().void_tokens(-20651);
    home.cloud().void_refresh_tokens(-20655);
    assert_eq!(examined(&setup, "cloud").await.cause(), "login-expired");
}

#[tokio::test]
async fn what_the_running_daemon_has_given_up_is_not_tried_and_its_broker_and_plugs_are_left_alone() {
    let home = home_of(&["Lamp"]).await;
    let config = Config::of(&home)
        .set("broker", "listen", format!("127.0.0.1:{}", free_port()))
        .set("cloud", "password", "guessed");
    let mut scene = Scene::start(&config).await;
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "stopped"}})).await;
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"online": 1})).await;
    assert_eq!(home.cloud().calls(Method::Login), 1);
    let report = examined(&scene.setup, "cloud").await;
    assert_eq!((report.cause(), home.cloud().calls(Method::Login)), ("stopped-by-daemon", 1));
    assert!(report.line.contains("wrong e-mail address or password"), "{report:?}");
    let broker = examined(&scene.setup, "broker").await;
    assert!(
        broker.came_back("a daemon retains there").ends_with("is online, 1 of 1 plugs online, cloud stopped"),
        "{broker:?}"
    );
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert_eq!(result["status"], "ok", "{result}");
    assert!(
        !scene.daemon.lines().iter().any(|line| line.contains("client id")),
        "no client was disconnected"
    );
    scene.daemon.stop().await;
    // Without the daemon nothing reports the cloud as stopped, so the check logs in.
    examined(&scene.setup, "cloud").await;
    assert_eq!(home.cloud().calls(Method::Login), 3);
}

#[tokio::test]
async fn a_plugs_own_words_forge_no_line() {
    let home = home_of(&["Lamp\nFAIL  cloud: forged\u{1b}[2J"]).await;
    home.plug(0).with(|plug| plug.model.name = "HS100\nok    broker: forged\u{1b}[2J");
    let setup = Setup::new(&Config::of(&home));
    let report = setup.run(&["-v", "check", "--online"]).await;
    let info = setup.run(&["plug", "127.0.0.11", "info"]).await;
    for text in [&report.out, &info.out] {
        assert!(text.contains("forged") && !text.contains('\u{1b}'), "{text}");
        assert!(
            !text
                .lines()
                .any(|line| line.starts_with("FAIL  cloud") || line.starts_with("ok    broker: forged"))
        );
    }
    assert!(info.out.contains("\nmodel     HS100\\nok    broker: forged\\u{1b}[2J\n"), "{info:?}");
}

#[tokio::test]
async fn a_hundred_dead_plugs_are_examined_side_by_side() {
    let aliases: Vec<_> = (1..=100).map(|number| format!("Plug {number}")).collect();
    let home = home_of(&aliases.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut config = Config::of(&home).set("local", "timeout", "500ms").set("discovery", "adopt", false);
    for number in 0..100 {
        home.lan().set_fault(home.plug(number), LanFault::Silent).await.unwrap();
        config = config.plug(&format!("plug-{number}"), &home, number);
    }
    let report = Setup::new(&config).run(&["check", "--online", "--json"]).await;
    let mut over_the_cloud = 0;
    for number in 0..100 {
        let plug = subject_of(&report, &format!("plug plug-{number}"));
        assert_eq!(plug["cause"], "hangs", "{plug}");
        let asked = plug["tries"].as_array().unwrap().iter().filter(|one| one["took_ms"].is_u64());
        over_the_cloud +=
            asked.filter(|one| one["what"].as_str().unwrap().contains("over the cloud, server")).count();
    }
    assert_eq!((over_the_cloud, home.cloud().calls(Method::Passthrough)), (20, 20), "the account is spared");
}

#[cfg(target_os = "linux")]
mod apart {
    use hs100d::sim::fault::KlapFault;
    use hs100d::sim::home::HomeOptions;
    use hs100d::sim::plug::klap::HeldAccount;

    use super::*;
    use crate::support::e2e::{hashes_of, home_options_of};
    use crate::support::namespace::{ip, play_apart, role};

    #[test]
    fn other_languages_and_other_networks_are_told_apart() {
        play_apart("doctor::apart::in_its_namespace", "doctor", Duration::from_secs(360));
    }

    /// In its own namespace the discovery has its real ports to itself, and no datagram reaches another network.
    #[tokio::test]
    #[ignore = "started by other_languages_and_other_networks_are_told_apart"]
    async fn in_its_namespace() {
        if role().as_deref() != Some("doctor") {
            return;
        }
        let foreign =
            if_addrs::get_if_addrs().unwrap().into_iter().filter(|interface| !interface.is_loopback());
        assert_eq!(foreign.count(), 0, "this is not an empty namespace");
        ip("link set lo up");
        // A cable with nothing at its other end.
        ip("link add cable type veth peer name end");
        ip("addr add 10.77.0.2/24 dev cable");
        ip("link set cable up");
        ip("link set end up");
        ip("route add default via 10.77.0.1 dev cable onlink");
        let home_options =
            HomeOptions { tdp_port: 20002, ..home_options_of(&["Klap", "Tapo", "Far", "Near", "Fan"]) };
        let home = SimHome::start(home_options).await.unwrap();
        let port = home.lan().port();
        let id = |number: usize| home.plug(number).device_id();
        let config =
            Config::of(&home).set("local", "timeout", "500ms").plug("klap", &home, 0).plug("tapo", &home, 1);
        let config = config.entry("far", &id(2), &format!("198.51.100.7:{port}"));
        let config = config.entry("near", &id(3), &format!("10.77.0.9:{port}"));
        let config = config.entry("nameless", &id(4), "no.such.host.invalid");
        for number in 0..4 {
            home.plug(number).with(|plug| match number {
                0 => plug.dialect = Dialect::Klap,
                1 => (plug.dialect, plug.model.kind, plug.bound) = (Dialect::Klap, "SMART.TAPOPLUG", false),
                _ => plug.hears_broadcasts = false,
            });
            home.lan().settled(home.plug(number)).await.unwrap();
        }
        let setup = Setup::new(&config.clone().set("discovery", "adopt", false));
        let report = examined_in_turn(&setup, "plug klap").await;
        assert_eq!(report.cause(), "none");
        assert!(report.line.contains("LAN: HS100(EU) answers: OFF, signal "), "{report:?}");
        assert_eq!(report.came_back("discovery on UDP port 20002"), "IOT.SMARTPLUGSWITCH, which speaks KLAP");
        let what = "get_sysinfo over KLAP at 127.0.0.11:";
        assert!(report.came_back(what).starts_with("HS100(EU) answers: OFF"), "{report:?}");
        report.came_back(", as s…@example.com, with the password in [cloud]");
        let found = setup.run(&["discover", "--timeout", "1s", "--json"]).await.json();
        let klap = |found: &Value| {
            let rows = found.as_array().unwrap();
            rows.iter().find(|row| row["protocol"] == "klap" && row["host"] == "127.0.0.11").unwrap().clone()
        };
        let row = klap(&found);
        assert_eq!(
            (&row["alias"], &row["state"], &row["device_id"]),
            (&json!("Klap"), &json!("OFF"), &json!(id(0)))
        );
        assert!(row["rssi"].is_i64(), "{row}");

        for (account, cause) in [
            (HeldAccount::new("other@example.com", ACCOUNT.1), "other-owner"),
            (HeldAccount::new(ACCOUNT.0, "old"), "old-password"),
        ] {
            home.plug(0).with(|plug| {
                plug.klap.account = account;
                plug.klap.end_session();
            });
            let report = examined_in_turn(&setup, "plug klap").await;
            assert_eq!(report.cause(), cause);
            assert!(
                report.line.contains("the plug holds another account or another spelling of it; cloud: "),
                "{report:?}"
            );
            let found = setup.run(&["discover", "--timeout", "1s", "--json"]).await.json();
            assert_eq!((&klap(&found)["cause"], &klap(&found)["state"]), (&json!(cause), &json!(null)));
        }
        let table = setup.run(&["discover", "--timeout", "1s"]).await;
        let remark =
            "\n127.0.0.11: it speaks KLAP and says that it belongs to the account that hs100d has, but";
        assert!(table.ok().contains(remark), "{table:?}");
        // Now the plug was asked with the account, successfully and not; nothing of it is said.
        let mut output = String::new();
        for words in [&["-vvv", "discover", "--timeout", "1s"][..], &["-vvv", "check", "--online"]] {
            let ended = setup.run(words).await;
            output += &format!("{}{}", ended.out, ended.err);
        }
        assert!(output.contains("get_sysinfo over KLAP at ") && output.contains(" DEBUG "), "{output}");
        let secrets = [hashes_of(ACCOUNT.0, ACCOUNT.1), hashes_of(ACCOUNT.0, "old")].concat();
        for secret in secrets.iter().map(String::as_str).chain([ACCOUNT.0, "/{}$"]) {
            assert!(!output.contains(secret), "{secret:?} was output: {output}");
        }
        home.plug(0).with(|plug| plug.klap.fault = KlapFault::Handshake1Status(403));
        assert_eq!(examined_in_turn(&setup, "plug klap").await.cause(), "klap-blocked");
        home.plug(0).with(|plug| plug.klap.fault = KlapFault::Works);
        assert_eq!(examined(&setup, "plug tapo").await.cause(), "other-family");
        let far = examined(&setup, "plug far").await;
        assert_eq!((far.cause(), far.came_back("networks")), ("behind-router", "on none of them"));
        assert_eq!(examined(&setup, "plug near").await.cause(), "isolated");
        assert_eq!(examined(&setup, "plug nameless").await.cause(), "name-unresolved");
        home.plug(2).set_cloud(CloudLink::Offline);
        assert_eq!(examined(&setup, "plug far").await.cause(), "unplugged");

        // The plug that speaks KLAP is not in the config, and is reported nevertheless.
        let setup = Setup::new(&Config::of(&home).without("cloud").set("local", "timeout", "500ms"));
        let report = examined_in_turn(&setup, "plug HS100(EU) at 127.0.0.11").await;
        assert_eq!(report.cause(), "no-lan-account");
        home.plug(0).with(|plug| plug.klap.fault = KlapFault::Refused);
        home.lan().settled(home.plug(0)).await.unwrap();
        let report = examined_in_turn(&setup, "plug HS100(EU) at 127.0.0.11").await;
        assert_eq!(report.cause(), "port-closed-by-firmware");
    }
}
