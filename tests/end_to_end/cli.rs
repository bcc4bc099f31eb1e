//! The commands beside the daemon, in a simulated home: what they do to plugs, account, store and broker, what they
//! print, and their exit codes.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use crate::support::e2e::{ACCOUNT, Config, Scene, Setup, holds, home_of, home_options_of, sees};
use crate::support::mqtt::{Message, free_port, until_retained, within};
use hs100d::klap_hashes::KlapAccounts;
use hs100d::secret::Secret;
use hs100d::sim::cloud::rule::Method;
use hs100d::sim::fault::{CloudLink, Dialect, LanFault};
use hs100d::sim::home::SimHome;
use hs100d::sim::model::Model;
use hs100d::sim::plug::SwitchedBy;
use hs100d::store::HashFile;
use serde_json::{Value, json};

/// The demo takes half a minute, more on a busy machine.
const A_STORY: Duration = Duration::from_secs(120);

async fn home() -> SimHome {
    home_of(&["Lamp", "Küche ☕"]).await
}

fn last_origin(home: &SimHome, number: usize) -> Option<SwitchedBy> {
    home.plug(number).switchings().last().map(|switching| switching.by)
}

#[tokio::test]
async fn a_plug_is_meant_by_its_name_alias_address_mac_or_device_id() {
    let home = home().await;
    let setup = Setup::new(&Config::of(&home).plug("tree", &home, 0));
    let plug = home.plug(1);
    let address = home.lan().address(plug).unwrap();
    let bare_mac = plug.mac().replace(':', "").to_lowercase();
    let targets = [
        "küche ☕".to_owned(),
        address.ip().to_string(),
        address.to_string(),
        plug.mac(),
        bare_mac,
        plug.device_id(),
    ];
    for (time, target) in targets.iter().enumerate() {
        let (word, state) = if time % 2 == 0 { ("on", "ON") } else { ("off", "OFF") };
        let done = setup.run(&["plug", target, word, "--json"]).await.json();
        assert!(holds(&done, &json!({"state": state, "route": "local"})), "{target}: {done}");
        assert_eq!((plug.is_on(), last_origin(&home, 1)), (word == "on", Some(SwitchedBy::Lan)), "{target}");
    }
    assert_eq!(plug.switchings().len(), targets.len());
    assert_eq!(home.plug(0).switchings(), [], "no other plug was meant");
    let done = setup.run(&["plug", "tree", "toggle"]).await;
    assert!(done.ok().starts_with("ON (local, "), "{done:?}");
    assert!(home.plug(0).is_on());
    let asked: Vec<_> = home.cloud().records().into_iter().map(|record| record.body).collect();
    assert_eq!(asked, [""; 0], "what the LAN knows costs no login");
}

#[tokio::test]
async fn each_verb_does_what_it_says_over_the_lan_and_over_the_cloud() {
    let home = home().await;
    let setup = Setup::new(&Config::of(&home).plug("lamp", &home, 0));
    let plug = home.plug(0);
    // On a busy machine the restart, a second after the first reboot, could meet one of the next commands.
    plug.with(|plug| plug.boot_time = Duration::ZERO);
    for (via, origin) in [("local", SwitchedBy::Lan), ("cloud", SwitchedBy::Cloud)] {
        let run = async |verb| setup.run(&["plug", "lamp", verb, "--via", via]).await;
        assert!(run("on").await.ok().starts_with(&format!("ON ({via}, ")));
        assert!(plug.is_on() && last_origin(&home, 0) == Some(origin));
        assert!(run("toggle").await.ok().starts_with(&format!("OFF ({via}, ")));
        assert!(!plug.is_on());
        assert!(run("off").await.ok().starts_with(&format!("OFF ({via}, ")));
        run("led-off").await.ok();
        assert!(!plug.is_led_on());
        let info = run("info").await;
        for line in [
            "OFF (",
            "alias     Lamp\n",
            "model     HS100(EU)\n",
            "mac       50:C7:BF:00:00:01\n",
            "led       OFF\n",
        ] {
            assert!(info.ok().contains(line), "{line:?} in {info:?}");
        }
        assert!(!info.ok().contains("waits for"), "{info:?}");
        let verbose = setup.run(&["plug", "lamp", "info", "-v", "--via", via]).await;
        let waits_for: Vec<_> = verbose.ok().lines().filter_map(|it| it.strip_prefix("waits for ")).collect();
        let over_the_route = format!("over the {via} route in ");
        assert!(waits_for.iter().any(|it| it.contains(&over_the_route) && it.ends_with('s')), "{verbose:?}");
        run("led-on").await.ok();
        assert!(plug.is_led_on());
        let restarts = plug.traffic().restarts;
        assert!(run("reboot").await.ok().starts_with(&format!("restarting ({via}, ")));
        assert_eq!(plug.traffic().restarts, restarts + 1);
    }
    assert_eq!(home.cloud().calls(Method::Login), 1, "the token of the first call serves the others");
    let info = setup.run(&["plug", "lamp", "info", "--json"]).await.json();
    let expected = json!({"state": "OFF", "led": "ON", "alias": "Lamp", "mac": plug.mac(), "device_id": plug.device_id(), "host": "127.0.0.11"});
    assert!(holds(&info, &expected), "{info}");
}

#[tokio::test]
async fn a_dimmer_is_set_to_a_brightness_and_a_plug_without_one_says_so() {
    let mut options = home_options_of(&["Lamp", "Tree"]);
    options.plugs[0].0 = Model::HS220;
    let home = SimHome::start(options).await.unwrap();
    let setup = Setup::new(&Config::of(&home).plug("lamp", &home, 0).plug("tree", &home, 1));
    let level = async || setup.run(&["plug", "lamp", "info", "--json"]).await.json()["brightness"].clone();
    let done = setup.run(&["plug", "lamp", "brightness", "40"]).await;
    assert!(done.ok().starts_with("ON at 40 % (local, "), "{done:?}");
    assert!(home.plug(0).is_on());
    assert_eq!(level().await, 40);
    assert!(setup.run(&["plug", "lamp", "brightness", "0"]).await.ok().starts_with("OFF (local, "));
    assert!(!home.plug(0).is_on());
    let refused = setup.run(&["plug", "tree", "brightness", "40"]).await;
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{refused:?}");
    assert!(refused.err.contains("tree: ") && refused.err.contains("dim"), "{refused:?}");
}

#[tokio::test]
async fn without_the_lan_a_plug_is_found_in_the_account_and_without_both_it_is_said_why() {
    let home = home().await;
    let setup = Setup::new(&Config::of(&home).set("routing", "command_ttl", "1s"));
    home.lan().unplug(home.plug(0)).await;
    let done = setup.run(&["plug", "lamp", "on", "--json"]).await.json();
    assert!(holds(&done, &json!({"state": "ON", "route": "cloud"})), "{done}");

    home.plug(0).set_cloud(CloudLink::Offline);
    let failed = setup.run(&["plug", &home.plug(0).mac(), "off"]).await;
    let line = failed.failed(1);
    assert!(line.contains("cloud: the cloud says that the plug is offline"), "{line}");
    assert!(home.plug(0).is_on());

    let nobody = setup.run(&["plug", "Fridge", "on"]).await;
    let line = nobody.failed(1);
    assert!(
        line.starts_with("hs100d: Fridge: no plug of that name") && line.contains("hs100d discover"),
        "{line}"
    );
    home.lan().set_fault(home.plug(1), LanFault::Refused).await.unwrap();
    let address = home.lan().address(home.plug(1)).unwrap().to_string();
    let failed = setup.run(&["plug", &address, "on"]).await;
    let line = failed.failed(1);
    assert!(line.contains("local: connection refused"), "{line}");

    setup.write(&Config::of(&home).without("cloud").text());
    let failed = setup.run(&["plug", "lamp", "on", "--via", "cloud"]).await;
    assert!(failed.failed(78).contains("add a [cloud] table"), "{failed:?}");
}

/// A time that no test reaches: a test that waits for it fails.
const NEVER: &str = "10m";

#[tokio::test]
async fn a_name_that_fits_two_plugs_is_an_error_that_lists_both_and_a_topic_name_fits_one() {
    let mut home_options = home_options_of(&["Lamp", "lamp", "Strip 2"]);
    home_options.plugs.push((Model::KP303, "Strip".to_owned()));
    let home = SimHome::start(home_options).await.unwrap();
    let config = Config::of(&home).without("cloud");
    let setup = Setup::new(&config);
    let both = setup.run(&["plug", "Lamp", "on"]).await;
    let line = "hs100d: Lamp: 2 plugs have this name: at 127.0.0.11 (50:C7:BF:00:00:01); at 127.0.0.12 (50:C7:BF:00:00:02): \
                use a topic name, an address or a MAC";
    assert_eq!(both.failed(1), line);
    let both = setup.run(&["plug", "strip 2", "on"]).await;
    let line = both.failed(1);
    assert!(line.contains("at 127.0.0.13 (") && line.contains("outlet 2 at 127.0.0.14 ("), "{line}");

    let mut scene = Scene::at(setup).await;
    let is_lamp = |seen: &&Message| seen.topic.starts_with("hs100d/lamp") && seen.topic.ends_with("/info");
    let count = |all: &[Message]| {
        all.iter().filter(is_lamp).map(|seen| seen.topic.clone()).collect::<BTreeSet<_>>().len()
    };
    scene.subscriber.until("both lamps", |all| (count(all) == 2).then_some(())).await;
    scene.daemon.stop().await;
    let setup = scene.setup;
    let names = known(&setup);
    let named = |part: &str| names.iter().filter(|name| name.starts_with(part)).cloned().collect::<Vec<_>>();
    let lamps = named("lamp");
    assert_eq!(lamps.len(), 2, "{names:?}");
    let both = setup.run(&["plug", "LAMP", "off"]).await;
    assert!(lamps.iter().all(|name| both.failed(1).contains(&format!("{name} at 127.0.0.1"))), "{both:?}");
    assert!(home.plugs().iter().all(|plug| plug.switchings().is_empty()), "no plug was switched");

    // Topic names stay, whatever the plugs' aliases are now, and no search is needed.
    for number in 0..2 {
        home.plug(number).with(|plug| (plug.alias, plug.hears_broadcasts) = ("Another".to_owned(), false));
    }
    for name in &lamps {
        setup.run(&["plug", name, "on"]).await.ok();
    }
    assert_eq!([0, 1].map(|number| home.plug(number).switchings().len()), [1, 1]);
}

#[tokio::test]
async fn two_devices_of_the_account_with_one_alias_are_an_error_too() {
    let home = home_of(&["Lamp", "Lamp"]).await;
    let setup = Setup::new(&Config::of(&home).without_search());
    let both = setup.run(&["plug", "lamp", "on"]).await;
    let line = both.failed(1);
    assert!(line.contains("50:C7:BF:00:00:01") && line.contains("50:C7:BF:00:00:02"), "{line}");
    assert!(home.plugs().iter().all(|plug| plug.switchings().is_empty()));
}

#[tokio::test]
async fn two_devices_with_one_alias_and_one_device_id_are_an_error_too() {
    let home = home_of(&["Lamp", "Lamp"]).await;
    let id = home.plug(0).device_id();
    home.plug(1).with(|plug| plug.device_id = id);
    let setup = Setup::new(&Config::of(&home).without("cloud"));
    let both = setup.run(&["plug", "lamp", "on"]).await;
    let line = both.failed(1);
    assert!(line.contains("50:C7:BF:00:00:01") && line.contains("50:C7:BF:00:00:02"), "{line}");
    assert!(home.plugs().iter().all(|plug| plug.switchings().is_empty()));
}

#[tokio::test]
async fn what_can_not_succeed_is_told_at_once_with_the_cause_and_what_helps() {
    let home = home().await;
    let config = Config::of(&home).set("routing", "command_ttl", NEVER);
    let setup = Setup::new(&config.clone().plug("lamp", &home, 0));
    let says = async |setup: &Setup, words: &[&str], parts: &[&str]| {
        let ended = setup.run(words).await;
        let line = ended.failed(1);
        assert!(parts.iter().all(|part| line.contains(part)) && !line.contains("not done in time"), "{line}");
    };
    home.plug(0).with(|plug| plug.bound = false);
    let unlisted = "cloud: the account does not list the plug: add it to this account in the Kasa app";
    says(&setup, &["plug", "lamp", "on", "--via", "cloud"], &["hs100d: lamp: cloud: ", unlisted]).await;
    home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
    let refused = "lamp: local: connection refused; cloud: the account does not list the plug: check that the address is";
    says(&setup, &["plug", "lamp", "on"], &[refused]).await;
    let address = home.lan().address(home.plug(0)).unwrap().to_string();
    let nowhere = Setup::new(&config);
    let refused = "local: connection refused: check that the address is the plug's";
    says(&nowhere, &["plug", &address, "on"], &[refused]).await;
    says(&setup, &["plug", "lamp", "on", "--via", "local"], &["lamp: local: connection refused: "]).await;
    let nobody = "on the LAN, and the account does not list it: see `hs100d discover`";
    says(&nowhere, &["plug", "Fridge", "on"], &["Fridge: no plug of that name", nobody]).await;
    // Without an address, a MAC is looked up in the account's device list.
    let by_mac = config.clone().without_search().text()
        + "[[plug]]\nname = \"kitchen\"\nmac = \"50:C7:BF:00:00:01\"\n";
    nowhere.write(&by_mac);
    says(&nowhere, &["plug", "kitchen", "on"], &["kitchen: ", "cloud: the account does not list the plug"])
        .await;
    home.cloud().set_reachable(false).await.unwrap();
    says(&nowhere, &["plug", "kitchen", "on"], &["kitchen: ", "cloud: the cloud is out of reach ("]).await;
    home.cloud().set_reachable(true).await.unwrap();
    let wrong = config.set("cloud", "password", "guessed").plug("lamp", &home, 0);
    let stopped =
        ["local: connection refused; cloud: the cloud is stopped (", "wrong e-mail address or password"];
    says(&Setup::new(&wrong), &["plug", "lamp", "on"], &stopped).await;
}

#[tokio::test]
async fn the_entry_of_a_plug_holds_whatever_it_is_called_on_the_command_line() {
    let home = home().await;
    let config = Config::of(&home).set("routing", "command_ttl", NEVER);
    let id = home.plug(0).device_id();
    let entry = format!("[[plug]]\nname = \"kettle\"\ndevice_id = \"{id}\"\nroute = \"local\"\n");
    let setup = Setup::new(&config);
    setup.write(&(config.text() + &entry));
    home.lan().set_fault(home.plug(0), LanFault::PortDead).await.unwrap();
    let told = setup.run(&["plug", "Lamp", "on"]).await;
    assert!(told.failed(1).starts_with("hs100d: Lamp: local: connection refused: "), "{told:?}");
    assert!(home.plug(0).switchings().is_empty() && home.cloud().records().is_empty(), "the LAN alone");
}

#[tokio::test]
async fn an_entry_that_says_only_where_its_plug_is_means_the_plug_that_the_daemon_served_there() {
    let home = home().await;
    let config = Config::of(&home).without_search();
    let host = home.lan().address(home.plug(0)).unwrap();
    let entry = |more: &str| format!("{}[[plug]]\nhost = \"{host}\"\n{more}", config.text());
    let setup = Setup::new(&config);
    setup.write(&entry(""));
    let mut scene = Scene::at(setup).await;
    scene.shows("lamp", json!({"state": "OFF"})).await;
    scene.daemon.stop().await;
    home.lan().set_fault(home.plug(0), LanFault::PortDead).await.unwrap();
    let setup = scene.setup;
    setup.write(&entry("name = \"kettle\"\n"));
    for words in
        [&["plug", "kettle", "on", "--json"][..], &["plug", "kettle", "off", "--via", "cloud", "--json"]]
    {
        let done = setup.run(words).await.json();
        assert_eq!(done["route"], "cloud", "{done}");
    }
    setup.write(&entry("route = \"local\"\n"));
    let told = setup.run(&["plug", "lamp", "on"]).await;
    assert!(told.failed(1).starts_with("hs100d: lamp: local: connection refused: "), "{told:?}");
}

#[tokio::test]
async fn an_address_needs_no_account_and_a_mac_is_looked_up_there() {
    let home = home().await;
    let config = Config::of(&home).without_search().set("routing", "command_ttl", "5s");
    let setup = Setup::new(&config);
    let address = home.lan().address(home.plug(0)).unwrap().to_string();
    let meant = setup.run(&["plug", &address, "on", "--via", "cloud"]).await;
    assert!(meant.failed(64).contains("the cloud does not know addresses"), "{meant:?}");
    home.cloud().set_reachable(false).await.unwrap();
    let done = setup.run(&["plug", &address, "on", "--json"]).await.json();
    assert!(holds(&done, &json!({"state": "ON", "route": "local"})), "{done}");

    home.cloud().set_reachable(true).await.unwrap();
    setup.write(&(config.text() + "[[plug]]\nname = \"kitchen\"\nmac = \"50:C7:BF:00:00:02\"\n"));
    let done = setup.run(&["plug", "kitchen", "on", "--json"]).await.json();
    assert!(holds(&done, &json!({"state": "ON", "route": "cloud"})), "{done}");
    assert_eq!(last_origin(&home, 1), Some(SwitchedBy::Cloud));
}

#[tokio::test]
async fn discover_lists_each_plug_once_as_a_table_and_as_json() {
    let home = home_of(&["Lamp", "Küche ☕", "Old\u{1b}[31m"]).await;
    home.plug(1).press_button();
    let setup = Setup::new(&Config::of(&home));
    let table = setup.run(&["discover", "--timeout", "1s"]).await;
    let lines: Vec<_> = table.ok().lines().collect();
    assert_eq!(lines.len(), 4, "{table:?}");
    let headings: Vec<_> = lines[0].split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    let columns = "NAME, TOPIC NAME, MODEL, ADDRESS, MAC, DEVICE ID, STATE, SIGNAL, PROTOCOL";
    assert_eq!(headings.join(", "), columns);
    for part in [
        "Küche ☕",
        "HS100(EU)",
        "127.0.0.12",
        "50:C7:BF:00:00:02",
        &home.plug(1).device_id(),
        "  ON  ",
        "-47 dBm",
        "xor",
    ] {
        assert!(lines[2].contains(part), "{part:?} in {}", lines[2]);
    }
    assert!(!table.out.contains('\u{1b}'), "an alias paints no terminal");

    let rows = setup.run(&["discover", "--timeout", "1s", "--json"]).await.json();
    let expected = json!({"alias": "Küche ☕", "topic_name": null, "model": "HS100(EU)", "host": "127.0.0.12", "mac": "50:C7:BF:00:00:02",
        "device_id": home.plug(1).device_id(), "state": "ON", "rssi": -47, "protocol": "xor"});
    assert_eq!((rows.as_array().unwrap().len(), &rows[1]), (3, &expected));

    for plug in home.plugs() {
        plug.with(|plug| plug.dialect = Dialect::Klap);
        home.lan().settled(plug).await.unwrap();
    }
    let none = setup.run(&["discover", "--timeout", "300ms"]).await;
    assert!(none.ok().starts_with("No plug answered. "), "{none:?}");
    assert_eq!(setup.run(&["discover", "--timeout", "300ms", "--json"]).await.json(), json!([]));
}

/// An installation with keys at an account with two-step verification, without the password in its config.
fn signed_setup(home: &SimHome) -> Setup {
    let setup = Setup::new(
        &Config::of(home)
            .without("cloud")
            .set("cloud", "username", ACCOUNT.0)
            .set("cloud", "url", home.cloud().url())
            .signed(),
    );
    setup.give_keys(home);
    home.cloud().account(|account| account.two_step = true);
    setup
}

#[tokio::test]
async fn a_login_with_two_step_verification_asks_for_the_code_at_a_terminal_and_once() {
    let home = home().await;
    let setup = signed_setup(&home);
    let piped = setup.run_with(&["cloud", "login"], &format!("{}\n", ACCOUNT.1)).await;
    assert!(piped.failed(1).contains("only a terminal can be asked for the code"), "{piped:?}");
    assert_eq!(home.cloud().calls(Method::SendCode), 0);
    let plan = setup.run(&["check"]).await;
    assert!(plan.ok().contains(", by the second interface, not yet: run `hs100d cloud login`"), "{plan:?}");

    let password = ("Password of the TP-Link account: ", ACCOUNT.1);
    let (way, code) = ("by e-mail (e)? ", "Code from TP-Link's e-mail: ");
    let (exit, shown) = setup.at_a_terminal(&["cloud", "login"], &[password, (way, "x")]).await;
    assert!(exit == 64 && shown.contains("hs100d: code: there is none"), "{exit}: {shown}");
    let dialogue = [password, (way, "e"), (code, "654321")];
    let (exit, shown) = setup.at_a_terminal(&["cloud", "login"], &dialogue).await;
    assert!(exit == 1 && shown.contains("verification code not accepted (error -20676)"), "{exit}: {shown}");
    assert_eq!(home.cloud().calls(Method::CheckCode), 1, "there is no second try");
    assert!(
        setup.run(&["cloud", "devices"]).await.failed(1).contains("neither a password nor a valid login")
    );

    let (exit, shown) =
        setup.at_a_terminal(&["cloud", "login"], &[password, (way, "e"), (code, "123456")]).await;
    assert!(exit == 0 && shown.contains("Logged in. A token is stored"), "{exit}: {shown}");
    assert!(!shown.contains(ACCOUNT.1), "{shown}");
    assert_eq!(setup.run(&["cloud", "devices"]).await.ok().lines().count(), 3);
    home.cloud().void_tokens(-20651);
    assert_eq!(setup.run(&["cloud", "devices"]).await.ok().lines().count(), 3, "the refresh token is kept");
    let again = setup.run_with(&["cloud", "login"], &format!("{}\n", ACCOUNT.1)).await;
    assert!(again.ok().starts_with("Logged in."), "the installation is known: {again:?}");
    assert_eq!(home.cloud().calls(Method::CheckCode), 2);
}

#[tokio::test]
async fn a_daemon_asks_for_no_code_and_names_the_command_that_does() {
    let home = home().await;
    let setup = signed_setup(&home);
    let text = fs::read_to_string(setup.config()).unwrap();
    let with_password = format!("[cloud]\npassword = {}\n", json!(ACCOUNT.1));
    setup.write(&text.replace("[cloud]\n", &with_password));
    let failed = setup.run(&["cloud", "devices"]).await;
    let line = failed.failed(1);
    assert!(line.contains("two-step verification (error -20677)"), "{line}");
    assert!(line.contains("run `hs100d cloud login`, which asks for the code"), "{line}");
    assert_eq!(home.cloud().calls(Method::Login), 1);
    assert_eq!(home.cloud().calls(Method::SendCode), 0);
}

#[tokio::test]
async fn the_account_is_logged_in_to_by_hand_listed_and_left() {
    let home = home().await;
    home.plug(1).set_cloud(CloudLink::Offline);
    let without_password = Config::of(&home).without("cloud").set("cloud", "username", ACCOUNT.0).set(
        "cloud",
        "url",
        home.cloud().url(),
    );
    let setup = Setup::new(&without_password);
    let needed = setup.run(&["cloud", "devices"]).await;
    let line = needed.failed(1);
    assert!(
        line.starts_with("hs100d: cloud: the cloud is stopped: ") && line.contains("hs100d cloud login"),
        "{line}"
    );
    assert_eq!(home.cloud().records().len(), 0);

    let wrong = setup.run_with(&["cloud", "login"], "guessed\n").await;
    assert!(wrong.failed(1).contains("wrong e-mail address or password"), "{wrong:?}");
    assert_eq!(
        setup.run_with(&["cloud", "login"], "\n").await.failed(64),
        "hs100d: password: it is empty: type it, or pipe it in"
    );
    let two = setup.run_with(&["cloud", "login"], &format!("{}\nguessed\n", ACCOUNT.1)).await;
    assert!(two.failed(64).starts_with("hs100d: password: standard input has text in more than one line"));
    let from_windows = format!("\u{feff}{}\r\n\r\n", ACCOUNT.1);
    let right = setup.run_with(&["cloud", "login"], &from_windows).await;
    let stored = "Logged in. A token is stored, and hashes of the password for plugs that speak KLAP; the password is not.\n";
    assert!(right.ok().starts_with(stored), "{right:?}");
    assert_eq!(home.cloud().calls(Method::Login), 2);

    let devices = setup.run(&["cloud", "devices"]).await;
    let lines: Vec<_> = devices.ok().lines().skip(1).collect();
    assert_eq!(lines.len(), 2, "{devices:?}");
    let server = home.cloud().host_url(1);
    for (line, parts) in lines.iter().zip([["Küche ☕", "  offline"], ["Lamp", "  online "]]) {
        assert!(parts.iter().chain(&["HS100(EU)", &server[..]]).all(|part| line.contains(part)), "{line}");
    }
    let rows = setup.run(&["cloud", "devices", "--json"]).await.json();
    let expected =
        json!({"device_id": home.plug(0).device_id(), "alias": "Lamp", "model": "HS100(EU)", "online": true});
    assert!(holds(&rows[1], &expected) && rows[0]["online"] == false, "{rows}");

    let [token, hashes] = ["cloud.token", "klap.hashes"].map(|file| setup.state_dir().join(file));
    assert!(token.exists() && hashes.exists());
    assert!(setup.run(&["cloud", "logout"]).await.ok().starts_with("Logged out: "));
    assert!(!token.exists() && !hashes.exists());
    setup.run(&["cloud", "devices"]).await.failed(1);
    assert_eq!(home.cloud().calls(Method::Login), 2);

    home.cloud().set_reachable(false).await.unwrap();
    let down = setup.run_with(&["cloud", "login"], ACCOUNT.1).await;
    assert!(down.failed(69).contains("the cloud is out of reach"), "{down:?}");
    setup.write(&Config::of(&home).without("cloud").text());
    assert!(setup.run(&["cloud", "devices"]).await.failed(78).contains("add a [cloud] table"));
}

#[tokio::test]
async fn a_login_stores_the_hashes_of_every_spelling_and_no_password_is_needed_after_it() {
    let home = home().await;
    let written = ACCOUNT.0.to_uppercase();
    let config = Config::of(&home).without("cloud").set("cloud", "url", home.cloud().url());
    let setup = Setup::new(&config.clone().set("cloud", "username", written.clone()));
    let plan = setup.run(&["check", "--json"]).await.json();
    assert_eq!(plan["local"]["klap"]["login"], "not yet: run `hs100d cloud login`");
    setup.run_with(&["cloud", "login"], ACCOUNT.1).await.ok();
    let password = Secret::new(ACCOUNT.1.to_owned());
    let stored = HashFile::of(&setup.state_dir()).load().unwrap().unwrap();
    let accounts = KlapAccounts::of(&written, &password, Some(ACCOUNT.0));
    assert_eq!((&stored.username, stored.accounts()), (&written, accounts));
    let mode = fs::metadata(setup.state_dir().join("klap.hashes")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let plan = setup.run(&["check"]).await;
    let line = "\nKLAP       S…@EXAMPLE.COM, with the hashes of an earlier login\n";
    assert!(plan.ok().contains(line), "{plan:?}");

    // The config has another password for the LAN.
    setup.write(
        &config
            .clone()
            .set("cloud", "username", written)
            .set("local", "username", ACCOUNT.0)
            .set("local", "password", "old")
            .text(),
    );
    let login = setup.run_with(&["cloud", "login"], ACCOUNT.1).await;
    let line = "The config has another password in [local], which plugs that speak KLAP get instead: correct or remove it.\n";
    assert!(login.ok().contains(line), "{login:?}");

    // The LAN's account is another one.
    let other = config.set("cloud", "username", ACCOUNT.0).set("local", "username", "other@example.com");
    setup.write(&other.text());
    setup.run(&["cloud", "logout"]).await.ok();
    let login = setup.run_with(&["cloud", "login"], ACCOUNT.1).await;
    assert!(login.ok().contains("`hs100d cloud login --lan-only` is for that one.\n"), "{login:?}");
    assert!(!setup.state_dir().join("klap.hashes").exists());
}

#[tokio::test]
async fn a_login_for_the_lan_only_stores_hashes_and_speaks_to_nobody() {
    let home = home().await;
    let stored = |setup: &Setup| HashFile::of(&setup.state_dir()).load().unwrap().unwrap();
    let password = Secret::new(ACCOUNT.1.to_owned());
    let words = ["cloud", "login", "--lan-only"];
    let nothing_was_sent =
        "Hashes of the password are stored for plugs that speak KLAP; the password is not. Nothing was sent";

    // The config names nobody: both are read.
    let setup = Setup::new(&Config::of(&home).without("cloud"));
    for (input, code) in
        [("", 64), ("\n", 64), ("me@example.com", 64), ("me@example.com\n\n", 64), ("\npw\n", 64)]
    {
        let failed = setup.run_with(&words, input).await;
        assert!(
            failed.failed(code).starts_with("hs100d: user name or password: it is empty: "),
            "{failed:?}"
        );
    }
    assert!(!setup.state_dir().join("klap.hashes").exists());
    let login = setup.run_with(&words, &format!("Other@example.com\r\n{}\r\n", ACCOUNT.1)).await;
    assert!(login.ok().starts_with(nothing_was_sent), "{login:?}");
    assert!(login.ok().ends_with("No running daemon was found; the change applies from its next start.\n"));
    let accounts = KlapAccounts::of("Other@example.com", &password, None);
    assert_eq!((&*stored(&setup).username, stored(&setup).accounts()), ("Other@example.com", accounts));
    assert!(setup.run(&["check"]).await.ok().contains("\nKLAP       O…@example.com, with the hashes of an"));

    // It names the account; its broker is not spoken to either.
    let config = Config::of(&home).at_broker(1).set("mqtt", "url", "mqtt://192.0.2.1");
    setup.write(&config.set("local", "username", "me@example.com").text());
    let login = setup.run_with(&words, ACCOUNT.1).await;
    assert!(
        login.ok().contains("The broker is on another machine, so no running daemon was informed"),
        "{login:?}"
    );
    assert_eq!(stored(&setup).accounts(), KlapAccounts::of("me@example.com", &password, None));
    assert!(!setup.state_dir().join("cloud.token").exists());
    assert_eq!(home.cloud().records().len(), 0);

    setup.run(&["cloud", "logout"]).await;
    assert!(!setup.state_dir().join("klap.hashes").exists());
}

#[tokio::test]
async fn a_running_daemon_takes_the_hashes_of_a_login_and_drops_them_at_the_logout() {
    let home = home().await;
    let config =
        Config::of(&home).without("cloud").set("broker", "listen", format!("127.0.0.1:{}", free_port()));
    let scene = Scene::start(&config.set("local", "username", ACCOUNT.0)).await;
    let not_yet = "the account for plugs that speak KLAP: not yet: run `hs100d cloud login --lan-only`";
    scene.daemon.says_again(not_yet, 1).await;
    let login = scene.setup.run_with(&["cloud", "login", "--lan-only"], ACCOUNT.1).await;
    assert!(login.ok().ends_with("The running daemon was informed.\n"), "{login:?}");
    scene.daemon.says("the account for plugs that speak KLAP: with the hashes of an earlier login").await;
    scene.setup.run(&["cloud", "logout"]).await.ok();
    scene.daemon.says_again(not_yet, 2).await;
}

#[tokio::test]
async fn a_login_by_hand_arms_the_running_daemon_and_a_logout_disarms_it() {
    let home = home().await;
    let config = Config::of(&home)
        .without("cloud")
        .set("cloud", "username", ACCOUNT.0)
        .set("cloud", "url", home.cloud().url())
        .set("broker", "listen", format!("127.0.0.1:{}", free_port()))
        .set("routing", "command_ttl", "2s");
    let scene = Scene::start(&config).await;
    let info = sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "stopped"}})).await;
    assert!(info["cloud"]["reason"].as_str().unwrap().contains("run `hs100d cloud login`"), "{info}");
    let login = scene.setup.run_with(&["cloud", "login"], ACCOUNT.1).await;
    assert!(login.ok().ends_with("The running daemon was informed.\n"), "{login:?}");
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "ok"}})).await;
    assert_eq!(home.cloud().calls(Method::Login), 1);
    home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok", "route": "cloud"})), "{result}");

    assert!(scene.setup.run(&["cloud", "logout"]).await.ok().ends_with("The running daemon was informed.\n"));
    let info = sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": "stopped"}})).await;
    assert!(info["cloud"]["reason"].as_str().unwrap().contains("run `hs100d cloud login`"), "{info}");
    let calls = home.cloud().records().len();
    let result = scene.command("lamp", json!({"state": "OFF"})).await;
    assert!(result["error"].as_str().unwrap().contains("cloud: the cloud is stopped"), "{result}");
    assert_eq!(home.cloud().records().len(), calls, "the token in memory is forgotten as well");
}

/// The names in the store.
fn known(setup: &Setup) -> Vec<String> {
    let text = fs::read_to_string(setup.state_dir().join("state.json")).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    let plugs = state["plugs"].as_array().unwrap();
    plugs.iter().map(|plug| plug["name"].as_str().unwrap().to_owned()).collect()
}

fn of_plug(all: &[Message], name: &str, number: usize) -> usize {
    let topics = format!("hs100d/{name}/");
    let document = format!("{number:036X}/config");
    all.iter().filter(|seen| seen.topic.starts_with(&topics) || seen.topic.ends_with(&document)).count()
}

#[tokio::test]
async fn a_plug_is_forgotten_with_all_that_the_broker_keeps_of_it_with_and_without_a_daemon() {
    let home = home().await;
    let config =
        Config::of(&home).without("cloud").set("broker", "listen", format!("127.0.0.1:{}", free_port()));
    let mut scene = Scene::start(&config).await;
    // State, info, availability and the discovery payload of each.
    until_retained(scene.port, "both plugs", |all| {
        of_plug(all, "lamp", 1) == 4 && of_plug(all, "kuche", 2) == 4
    })
    .await;

    assert_eq!(
        scene.setup.run(&["forget", "fridge"]).await.failed(1),
        "hs100d: fridge: there is no plug called fridge"
    );
    home.lan().unplug(home.plug(0)).await;
    assert_eq!(scene.setup.run(&["forget", "lamp"]).await.ok(), "lamp is forgotten.\n");
    until_retained(scene.port, "the other plug only", |all| {
        of_plug(all, "lamp", 1) == 0 && of_plug(all, "kuche", 2) == 4
    })
    .await;
    scene.daemon.stop().await;
    assert_eq!(known(&scene.setup), ["kuche"]);

    home.lan().unplug(home.plug(1)).await;
    let forgotten = scene.setup.run(&["forget", "kuche"]).await;
    assert_eq!(forgotten.ok(), "kuche is forgotten; the next start of the daemon clears it at the broker.\n");
    assert!(known(&scene.setup).is_empty());
    let again = scene.setup.run(&["forget", "kuche"]).await;
    assert!(again.failed(1).starts_with("hs100d: kuche: no plug has that name"), "{again:?}");
    let scene = Scene::at(scene.setup).await;
    until_retained(scene.port, "no plug", |all| of_plug(all, "kuche", 2) == 0).await;

    scene.setup.write(&config.clone().plug("tree", &home_of(&["Tree"]).await, 0).text());
    scene.request("reload", json!({})).await;
    let listed = scene.setup.run(&["forget", "tree"]).await;
    assert!(listed.failed(1).contains("remove its [[plug]] entry"), "{listed:?}");
    let Scene { mut daemon, setup, .. } = scene;
    daemon.stop().await;
    let listed = setup.run(&["forget", "tree"]).await;
    assert!(listed.failed(1).contains("remove its [[plug]] entry"), "{listed:?}");
}

#[tokio::test]
async fn a_plug_whose_entry_has_no_name_is_not_forgotten_without_a_daemon_either() {
    let home = home().await;
    let config =
        Config::of(&home).without("cloud").set("broker", "listen", format!("127.0.0.1:{}", free_port()));
    let mut scene = Scene::start(&config).await;
    scene.shows("lamp", json!({"state": "OFF"})).await;
    scene.daemon.stop().await;
    let setup = scene.setup;
    setup.write(&format!("{}[[plug]]\nmac = \"50:C7:BF:00:00:01\"\n", config.text()));
    let listed = setup.run(&["forget", "lamp"]).await;
    assert!(listed.failed(1).contains("remove its [[plug]] entry"), "{listed:?}");
    assert!(known(&setup).iter().any(|name| name == "lamp"));
}

/// Stands in for `/etc` and `/var/lib` of a machine with the service. Commands run in a mount namespace.
pub(crate) struct Machine {
    folder: tempfile::TempDir,
}

/// The user id of the service, and that of a user who has no rights to it.
const SERVICE: u32 = 61_500;
pub(crate) const SOMEBODY: u32 = 12_345;
/// The program is mounted where every user may run it.
const BESIDE_SERVICE: &str = "mount --bind \"$1/lib\" /var/lib && mount --bind \"$2\" \"$1/hs100d\" && \
     { [ ! -d /etc/ssl ] || mount --bind /etc/ssl \"$1/etc/ssl\"; } && mount --rbind \"$1/etc\" /etc && user=$3 && cd / && program=\"$1/hs100d\" && shift 3 && \
     exec setpriv --reuid \"$user\" --regid \"$user\" --clear-groups \"$program\" \"$@\"";

impl Machine {
    /// Gives the state directory to the service, as systemd does for a dynamic user.
    pub(crate) fn of(state: &std::path::Path, config: &str, password: &str) -> Option<Self> {
        use std::os::unix::fs::{PermissionsExt, chown, symlink};
        let trial = std::process::Command::new("unshare")
            .args(["--mount", "setpriv", "--reuid", "1", "true"])
            .output();
        if !trial.is_ok_and(|trial| trial.status.success()) {
            let _ = writeln!(std::io::stderr(), "skipped: no mount namespace may be made here");
            return None;
        }
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        let mode = |path: &std::path::Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap()
        };
        mode(machine.folder.path(), 0o755);
        for folder in ["lib/private", "etc/hs100d", "etc/ssl", "home"] {
            fs::create_dir_all(machine.path(folder)).unwrap();
        }
        mode(&machine.path("lib/private"), 0o700);
        mode(&machine.path("home"), 0o777);
        fs::write(machine.path("hs100d"), "").unwrap();
        fs::rename(state, machine.path("lib/private/hs100d")).unwrap();
        symlink("private/hs100d", machine.path("lib/hs100d")).unwrap();
        for path in ["", "state.json"] {
            chown(machine.path("lib/private/hs100d").join(path), Some(SERVICE), Some(SERVICE)).unwrap();
        }
        fs::write(machine.path("etc/hs100d/hs100d.toml"), config).unwrap();
        fs::write(machine.path("etc/hs100d/cloud.password"), format!("{password}\n")).unwrap();
        mode(&machine.path("etc/hs100d/cloud.password"), 0o600);
        Some(machine)
    }

    pub(crate) fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    async fn run(&self, user: u32, words: &[&str], input: &str) -> std::process::Output {
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", BESIDE_SERVICE, "sh"]).arg(self.folder.path());
        command.arg(env!("CARGO_BIN_EXE_hs100d")).arg(user.to_string()).args(words);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.path("home"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        let run = move || {
            let mut child = command.spawn().unwrap();
            // A command that needs no input may end before it is written.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        };
        within(&format!("the end of {words:?}"), tokio::task::spawn_blocking(run)).await.unwrap()
    }

    /// Standard output, if the command succeeds.
    async fn ok(&self, user: u32, words: &[&str]) -> String {
        let output = self.run(user, words, ACCOUNT.1).await;
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The last line on standard error, if the command ends with this code.
    pub(crate) async fn fails(&self, user: u32, words: &[&str], code: i32) -> String {
        let output = self.run(user, words, ACCOUNT.1).await;
        let line = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(code), 1), "{words:?}: {output:?}");
        line
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_the_service_root_uses_its_state_and_anybody_else_is_told_what_to_type() {
    let home = home().await;
    let config = Config::of(&home).set("broker", "listen", format!("127.0.0.1:{}", free_port()));
    let mut scene = Scene::start(&config.clone().without("cloud")).await;
    for plug in ["lamp", "kuche"] {
        scene.shows(plug, json!({"state": "OFF"})).await;
    }
    scene.daemon.stop().await;
    let config = config.without("cloud").set("cloud", "username", ACCOUNT.0);
    let config = config.set("cloud", "url", home.cloud().url());
    let Some(machine) = Machine::of(&scene.setup.state_dir(), &config.text(), ACCOUNT.1) else { return };

    // A user who may not read the files of the service.
    let told = machine.ok(SOMEBODY, &["check"]).await;
    assert!(told.contains("\nstate      /var/lib/hs100d\n"), "{told}");
    assert!(told.contains("\nwarning: this user may not read the service's state"), "{told}");
    assert!(told.contains(", as the service does; ") && !told.contains("cloud login"), "{told}");
    for words in
        [&["cloud", "login"][..], &["cloud", "logout"], &["cloud", "devices"], &["check", "--online"]]
    {
        let line = machine.fails(SOMEBODY, words, 77).await;
        assert!(line.ends_with(&format!(": type `sudo hs100d {}`\n", words.join(" "))), "{line}");
    }
    machine.ok(SOMEBODY, &["plug", "Lamp", "on"]).await;
    assert!(home.plug(0).is_on(), "the LAN needs nothing of the service's");
    home.plug(1).with(|plug| plug.hears_broadcasts = false);
    let line = machine.fails(SOMEBODY, &["plug", "kuche", "on", "--via", "local"], 1).await;
    assert!(line.contains("`sudo hs100d plug kuche on --via local` may"), "{line}");
    machine.fails(SOMEBODY, &["plug", "kuche", "on", "--via", "cloud"], 77).await;
    let line = machine.fails(SOMEBODY, &["forget", "kuche"], 77).await;
    assert!(line.ends_with("type `sudo hs100d forget kuche`\n"), "{line}");
    assert_eq!(home.cloud().records().len(), 0, "there was no login");

    // Root uses its names, its password and its token, and leaves them with the service.
    machine.ok(0, &["plug", "kuche", "on"]).await;
    assert!(home.plug(1).is_on(), "the topic name is known");
    let told = machine.ok(0, &["check", "--online"]).await;
    assert!(told.contains("\nok    cloud: the account lists 2 devices"), "{told}");
    let token = machine.path("lib/private/hs100d/cloud.token");
    assert_eq!(owner_and_mode(&token), (SERVICE, 0o600));
    machine.ok(0, &["cloud", "logout"]).await;
    assert!(!token.exists());
    machine.ok(0, &["cloud", "login"]).await;
    assert_eq!(owner_and_mode(&token), (SERVICE, 0o600));
    machine.ok(0, &["forget", "kuche"]).await;
    assert_eq!(owner_and_mode(&machine.path("lib/private/hs100d/state.json")), (SERVICE, 0o600));
    let names = machine.ok(0, &["discover", "--json", "--timeout", "1s"]).await;
    assert!(names.contains("\"topic_name\":\"lamp\""), "{names}");
    assert_eq!(fs::read_dir(machine.path("home")).unwrap().count(), 0, "nothing is written elsewhere");
}

fn owner_and_mode(path: &std::path::Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).unwrap();
    (meta.uid(), meta.mode() & 0o777)
}

#[tokio::test]
async fn a_bad_config_is_78_with_the_same_lines_for_every_command_and_a_good_one_is_0() {
    let home = home().await;
    let config = Config::of(&home);
    let setup = Setup::new(&config);
    let good = setup.run(&["check"]).await;
    assert!(good.ok().ends_with("The config is valid.\n"), "{good:?}");
    let file = setup.config().display().to_string();

    setup.write(&config.clone().set("routing", "policy", "cloudy").set("local", "timeout", "3").text());
    let bad = setup.run(&["check"]).await;
    let lines: Vec<_> = bad.err.lines().collect();
    assert_eq!((bad.code, lines.len(), bad.out.as_str()), (78, 2, ""), "{bad:?}");
    assert!(
        lines[0].starts_with(&format!("hs100d: {file}:")) && lines[0].contains("local.timeout"),
        "{lines:?}"
    );
    assert!(lines[1].contains("routing.policy") && lines[1].contains("local-then-cloud"), "{lines:?}");
    let each: [&[&str]; 6] = [
        &["run"],
        &["plug", "lamp", "on"],
        &["discover"],
        &["cloud", "devices"],
        &["forget", "lamp"],
        &["check", "--online"],
    ];
    for words in each {
        let same = setup.run(words).await;
        assert_eq!((same.code, &same.err, same.out.as_str()), (78, &bad.err, ""), "{words:?}");
    }
    assert!(!setup.state_dir().exists(), "nothing was begun");
    assert_eq!(home.plug(0).traffic().lan_requests, 0);
}

#[tokio::test]
async fn the_demo_shows_the_whole_story_and_ends_with_success() {
    let setup = Setup::new(&Config::default());
    let demo = tokio::time::timeout(A_STORY, setup.run_to_its_end(&["demo", "--once"], "")).await.unwrap();
    assert_eq!(demo.code, 0, "{demo:?}");
    for part in [
        "mosquitto_sub -h 127.0.0.1 -p ",
        "\n    http://127.0.0.1:",
        "hs100d/kitchen-kettle/availability online",
        "\"route\":\"local\"",
        "The LAN is cut",
        "\"route\":\"cloud\"",
        "/api/v1/plugs/kitchen-kettle {\"",
        "The LAN is back",
        "Every step worked. The cloud saw 1 login and 1 request for the device list.",
    ] {
        assert!(demo.out.contains(part), "{part:?} in {}", demo.out);
    }
    let routes = ["\"route\":\"local\"", "\"route\":\"cloud\""].map(|route| demo.out.matches(route).count());
    assert!(routes.iter().all(|count| *count >= 2), "{routes:?}");
    assert!(!setup.state_dir().exists(), "it leaves nothing behind");
}
