//! The failure table over real sockets: each fault of the LAN with each fault of the cloud during a command. The whole
//! table runs on a simulated clock in `routing.rs`; here each row and each column of it runs with the real daemon, a
//! plug, and a broker, over both protocols of the LAN and both versions of the cloud's interface.
//!
//! ```text
//! HS100D_NUMBERS=1 cargo test --test end_to_end -- --nocapture     row by row: the outcome and the time it took
//! ```

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::e2e::{
    self, Config, Scene, Setup, happens, holds, home_of, home_options_of, json_of, sees,
};
use crate::support::mqtt::BOUND;
use hs100d::model::LanProtocol;
use hs100d::sim::cloud::rule::{CloudFault, Method, Times};
use hs100d::sim::fault::{CloudLink, LanFault};
use hs100d::sim::home::SimHome;
use hs100d::sim::plug::SwitchedBy;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// If set, one home runs at a time, and every bound is checked to the millisecond.
const NUMBERS: &str = "HS100D_NUMBERS";
/// Otherwise this many homes run at once, each with a daemon …
const AT_ONCE: usize = 12;
/// … and slow each other down by at most this.
const SLACK: Duration = Duration::from_secs(2);
/// A command that no route delivers is dropped after this time.
const COMMAND_TTL: Duration = Duration::from_secs(4);
/// The promise for a LAN that refuses, resets or answers nonsense: the cloud is used within this time.
const REFUSED_WITHIN: Duration = Duration::from_millis(500);
/// The promise for a LAN that is silent.
const SILENT_WITHIN: Duration = Duration::from_secs(1);
/// What a slow cloud adds to one call.
const SLOW: Duration = Duration::from_millis(300);
/// An answer this late is too late.
const LATE: Duration = Duration::from_secs(6);
/// The time between two bytes of a slow plug.
const DRIP: Duration = Duration::from_millis(200);
/// The error codes of the cloud that the table needs.
const TOKEN_EXPIRED: i64 = -20651;
const REFRESH_TOKEN_EXPIRED: i64 = -20655;
const RATE_LIMIT: i64 = -20004;

/// What is wrong on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lan {
    Plug(LanFault),
    /// Another plug has the plug's address.
    AnotherPlug,
}

/// What is wrong with the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cloud {
    Works,
    Slow,
    /// It answers after the command has expired.
    Late,
    Silent,
    Down,
    TokenExpired,
    RefreshRefused,
    Throttled,
    PlugOffline,
    WrongPassword,
    Off,
}

/// How a command must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Done, over this route.
    Done(&'static str),
    /// It failed, with these words for each route.
    Failed(&'static [&'static str]),
}

/// One pair of the table: how the command ends, and what has switched the plug by then.
type Row = (Lan, Cloud, End, &'static [SwitchedBy]);

use Cloud as C;
use End::{Done, Failed};
use Lan::{AnotherPlug, Plug};
use LanFault as L;
use SwitchedBy::{Cloud as ByCloud, Lan as ByLan};

const TABLE: &[Row] = &[
    (Plug(L::Works), C::Works, Done("local"), &[ByLan]),
    (Plug(L::Works), C::Silent, Done("local"), &[ByLan]),
    (Plug(L::Works), C::WrongPassword, Done("local"), &[ByLan]),
    (Plug(L::Works), C::Off, Done("local"), &[ByLan]),
    (Plug(L::Refused), C::Works, Done("cloud"), &[ByCloud]),
    (Plug(L::Refused), C::Slow, Done("cloud"), &[ByCloud]),
    (Plug(L::Refused), C::TokenExpired, Done("cloud"), &[ByCloud]),
    (Plug(L::Refused), C::RefreshRefused, Done("cloud"), &[ByCloud]),
    (
        Plug(L::Refused),
        C::Throttled,
        Failed(&["local: connection refused", "cloud: calls to the cloud are being held back"]),
        &[],
    ),
    (
        Plug(L::Refused),
        C::PlugOffline,
        Failed(&["local: connection refused", "cloud: the cloud says that the plug is offline"]),
        &[],
    ),
    (Plug(L::Refused), C::Off, Failed(&["(local: connection refused)"]), &[]),
    (Plug(L::Silent), C::Works, Done("cloud"), &[ByCloud]),
    (Plug(L::Silent), C::TokenExpired, Done("cloud"), &[ByCloud]),
    (Plug(L::Silent), C::Silent, Failed(&["local: no answer in time", "cloud: no answer in time"]), &[]),
    (Plug(L::Silent), C::Off, Failed(&["(local: no answer in time)"]), &[]),
    // The plug accepts connections and reads nothing. The request that waits for it must be taken back before it wakes.
    (Plug(L::Asleep), C::Off, Failed(&["(local: no answer in time)"]), &[]),
    (Plug(L::NotAccepting), C::Works, Done("cloud"), &[ByCloud]),
    (Plug(L::NotAccepting), C::Off, Failed(&["(local: no answer in time)"]), &[]),
    (Plug(L::ResetAfterRequest), C::Works, Done("cloud"), &[ByCloud]),
    (
        Plug(L::ResetAfterRequest),
        C::Down,
        Failed(&["local: connection closed before the answer", "cloud: the cloud is out of reach"]),
        &[],
    ),
    (Plug(L::CloseWithoutReply), C::Works, Done("cloud"), &[ByCloud]),
    (Plug(L::CloseWithoutReply), C::Off, Failed(&["(local: connection closed before the answer)"]), &[]),
    (Plug(L::ResetInAnswer), C::Works, Done("cloud"), &[ByLan, ByCloud]),
    (Plug(L::ResetInAnswer), C::Off, Failed(&["(local: connection closed before the answer)"]), &[ByLan]),
    (Plug(L::SlowBytes(DRIP)), C::Works, Done("cloud"), &[ByLan, ByCloud]),
    (Plug(L::SlowBytes(DRIP)), C::Off, Failed(&["(local: no answer in time)"]), &[ByLan]),
    // The plug carries out the request at once, but its answer comes too late.
    (
        Plug(L::Refused),
        C::Late,
        Failed(&["local: connection refused", "cloud: no answer in time"]),
        &[ByCloud],
    ),
    // A fault of the answer does not stop the plug from switching, but the LAN cannot confirm it.
    (Plug(L::Garbage), C::Works, Done("cloud"), &[ByLan, ByCloud]),
    (Plug(L::CutOffJson), C::Works, Done("cloud"), &[ByLan, ByCloud]),
    (
        Plug(L::CutOffJson),
        C::WrongPassword,
        Failed(&["local: unusable answer", "cloud: the cloud is stopped (wrong e-mail address or password"]),
        &[ByLan],
    ),
    (Plug(L::HugeLength), C::Works, Done("cloud"), &[ByLan, ByCloud]),
    (
        Plug(L::HugeLength),
        C::PlugOffline,
        Failed(&["local: unusable answer (it announces", "cloud: the cloud says that the plug is offline"]),
        &[ByLan],
    ),
    // The plug itself refuses: another route leads to the same plug.
    (Plug(L::DeviceError(-1)), C::Works, Failed(&["local: the plug answered error -1"]), &[]),
    (AnotherPlug, C::Works, Done("cloud"), &[ByCloud]),
    (AnotherPlug, C::Off, Failed(&["(local: another plug answers at the address (\"Other\""]), &[]),
];

#[tokio::test]
async fn each_row_and_column_of_the_failure_table_ends_as_it_should_over_real_sockets() {
    play(LanProtocol::Xor, Interface::First).await;
}

#[tokio::test]
async fn each_row_and_column_of_the_failure_table_ends_in_the_same_way_over_klap() {
    play(LanProtocol::Klap, Interface::First).await;
}

#[tokio::test]
async fn each_row_of_the_failure_table_that_asks_the_cloud_ends_in_the_same_way_with_signed_requests() {
    play(LanProtocol::Xor, Interface::Signed).await;
}

/// The two tables do not run at once: their daemons would slow each other down.
static ONE_TABLE: Mutex<()> = Mutex::const_new(());

/// The version of the cloud's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interface {
    First,
    /// The second one.
    Signed,
}

/// Plays each row with plugs that speak this protocol, and an account at this version of the cloud's interface.
async fn play(protocol: LanProtocol, interface: Interface) {
    let _only = ONE_TABLE.lock().await;
    let numbers = std::env::var_os(NUMBERS).is_some();
    let (at_once, slack) = if numbers { (1, Duration::ZERO) } else { (AT_ONCE, SLACK) };
    let mut stories = JoinSet::new();
    let asks = |row: &&Row| interface == Interface::First || row.1 != Cloud::Off;
    let count = TABLE.iter().filter(asks).count();
    let mut rows = TABLE.iter().filter(asks).enumerate();
    let mut told = BTreeMap::new();
    loop {
        while stories.len() < at_once
            && let Some((number, row)) = rows.next()
        {
            stories.spawn(async move { (number, story(row, protocol, interface, slack).await) });
        }
        match stories.join_next().await {
            Some(Ok((number, line))) => drop(told.insert(number, line)),
            // Checked above.
            Some(Err(_)) => {}
            None => break,
        }
    }
    println!("{:<24}{:<16}{:>8}{:>9}  ended as", "LAN", "cloud", "took", "bound");
    told.values().for_each(|line| println!("{line}"));
    println!("{} of {count} rows ended as they should, each within its bound", told.len());
    assert_eq!(told.len(), count, "rows that ended otherwise, see above");
}

/// Sends one command to a plug with these faults and one to a plug without faults. Then the faults end, and the plug is
/// read. Returns a line about the outcome.
async fn story(row: &Row, protocol: LanProtocol, interface: Interface, slack: Duration) -> String {
    let (lan, cloud, end, switched_by) = *row;
    let what = format!("{lan:?} x {cloud:?}");
    let mut options = home_options_of(&["Lamp", "Other", "Neighbour"]);
    if protocol == LanProtocol::Klap {
        options.klap = vec![0, 1, 2];
    }
    let home = SimHome::start(options).await.unwrap();
    let setup = setup(&home, cloud, interface).await;
    if protocol == LanProtocol::Klap {
        setup.remember_klap(&home, &["lamp", "other", "neighbour"]);
    }
    let scene = Scene::at(setup).await;
    settle(&home, &scene, cloud).await;
    break_lan(&home, lan).await;
    break_cloud(&home, cloud).await;
    let before = calls(&home);

    let transaction = scene.send("lamp", json!({"state": "ON"}));
    let neighbour = scene.command("neighbour", json!({"state": "ON"})).await;
    assert!(holds(&neighbour, &json!({"status": "ok", "route": "local"})), "{what}: {neighbour}");
    assert!(took(&neighbour) <= REFUSED_WITHIN + slack, "{what}: the neighbour waited: {neighbour}");
    let result = scene.result("lamp", &transaction).await;
    let bound = bound(lan, cloud, end);
    assert!(took(&result) <= bound + slack, "{what}: more than {bound:?}: {result}");
    match end {
        Done(route) => {
            let done = json!({"status": "ok", "state": "ON", "route": route});
            assert!(holds(&result, &done), "{what}: {result}");
            scene.shows("lamp", json!({"state": "ON", "route": route})).await;
        }
        Failed(words) => {
            assert_eq!(result["status"], "error", "{what}: {result}");
            let error = result["error"].as_str().unwrap();
            assert!(words.iter().all(|words| error.contains(words)), "{what}: {error}");
            let failed = json!({"event": "command_failed", "plug": "lamp", "detail": error});
            happens(&scene.subscriber, failed).await;
        }
    }
    let switchings = home.plug(0).switchings();
    let mut origins: Vec<_> = switchings.iter().map(|switching| switching.by).collect();
    if protocol == LanProtocol::Klap {
        // A session outlives its connection. So the state that was asked for is set again without a question in between,
        // which over XOR would meet the fault.
        assert!(switchings.iter().all(|switching| switching.on), "{what}: {switchings:?}");
        origins.dedup();
    }
    let in_protocol = |by: &SwitchedBy| match (by, protocol) {
        (ByLan, LanProtocol::Klap) => SwitchedBy::Klap,
        (by, _) => *by,
    };
    assert_eq!(origins, switched_by.iter().map(in_protocol).collect::<Vec<_>>(), "{what}");
    assert!(home.plug(1).switchings().is_empty(), "{what}: another plug was switched");
    let after = calls(&home);
    let requests: Vec<_> = home.cloud().records().into_iter().map(|record| record.body).collect();
    hold_calls_against(lan, cloud, end, &before, &after, &format!("{what}: {requests:?}"));

    let has_signed = home.cloud().records().iter().any(|record| record.uri.starts_with("/api/v2/"));
    assert_eq!(has_signed, interface == Interface::Signed, "{what}: the other version was used");

    mend(&home, lan).await;
    // If the plug carried out a request without confirming it, the daemon shows the true state.
    let truth = if home.plug(0).is_on() { "ON" } else { "OFF" };
    let read = scene.read("lamp").await;
    assert!(holds(&read, &json!({"status": "ok", "state": truth})), "{what}: {read}");
    scene.shows("lamp", json!({ "state": truth })).await;
    assert_eq!(home.plug(0).switchings(), switchings, "{what}: something was done after its time");
    let states = scene.subscriber.messages().into_iter().filter(|seen| seen.topic == "hs100d/lamp/state");
    let claims = states.filter(|seen| json_of(seen)["state"] == "ON").count();
    assert_eq!(claims > 0, !switchings.is_empty(), "{what}: a state was published that never was");
    assert_eq!(scene.results("lamp", &transaction).len(), 1, "{what}: one command, one result");
    let ended = match end {
        Done(route) => format!("ok, {route}"),
        Failed(_) => result["error"].as_str().unwrap().to_owned(),
    };
    let (lan, cloud) = (what.split(" x ").next().unwrap(), format!("{cloud:?}"));
    let ms = |time: Duration| format!("{} ms", time.as_millis());
    format!("{lan:<24}{cloud:<16}{:>8}{:>9}  {ended}", ms(took(&result)), ms(bound))
}

fn took(result: &Value) -> Duration {
    Duration::from_millis(result["took_ms"].as_u64().unwrap())
}

/// The bound for a command, from its arrival to its result.
fn bound(lan: Lan, cloud: Cloud, end: End) -> Duration {
    let over_the_lan = match lan {
        Plug(L::Silent | L::Asleep | L::NotAccepting | L::SlowBytes(_)) => SILENT_WITHIN,
        _ => REFUSED_WITHIN,
    };
    match (end, lan) {
        // The relay command and the read after it.
        (Done(_), _) if cloud == Cloud::Slow => over_the_lan + 2 * SLOW,
        (Done(_), _) | (Failed(_), Plug(L::DeviceError(_))) => over_the_lan,
        (Failed(_), _) => COMMAND_TTL + REFUSED_WITHIN,
    }
}

/// Nothing happens except for the command: no poll falls in between, and no discovery runs.
async fn setup(home: &SimHome, cloud: Cloud, interface: Interface) -> Setup {
    let config = Config::of(home)
        .without_search()
        .plug("lamp", home, 0)
        .plug("neighbour", home, 2)
        .set("local", "poll_interval", "1h")
        .set("routing", "command_ttl", format!("{}s", COMMAND_TTL.as_secs()));
    let config = config.set("local", "username", e2e::ACCOUNT.0).set("local", "password", e2e::ACCOUNT.1);
    let config = match cloud {
        Cloud::Off => config.without("cloud"),
        Cloud::WrongPassword => config.set("cloud", "password", "guessed"),
        _ => config,
    };
    let config = if interface == Interface::Signed { config.signed() } else { config };
    let setup = Setup::new(&config);
    if interface == Interface::Signed {
        setup.give_keys(home);
    }
    if cloud == Cloud::RefreshRefused {
        // Logins are ten minutes apart, so the login of this test must be the daemon's first.
        setup.run_with(&["cloud", "login"], &format!("{}\n", e2e::ACCOUNT.1)).await.ok();
    }
    setup
}

/// Waits until everything of both plugs and the account was read over the LAN and the cloud.
async fn settle(home: &SimHome, scene: &Scene, cloud: Cloud) {
    for plug in ["lamp", "neighbour"] {
        scene.shows(plug, json!({"state": "OFF", "route": "local"})).await;
    }
    // The schedule is read last. A read that is still under way would use up the connection on which the plug has
    // proved its identity, and the command would need a new one.
    let read = json!({"cloud_connection": true, "schedule": []});
    for plug in ["lamp", "neighbour"] {
        sees(&scene.subscriber, &format!("hs100d/{plug}/info"), read.clone()).await;
    }
    let status = match cloud {
        Cloud::Off => "off",
        Cloud::WrongPassword => "stopped",
        _ => "ok",
    };
    sees(&scene.subscriber, "hs100d/bridge/info", json!({"cloud": {"status": status}})).await;
    let idle = || calls(home).device_lists == 1 || matches!(cloud, Cloud::Off | Cloud::WrongPassword);
    home.wait_until(BOUND, idle).await.unwrap();
}

async fn break_lan(home: &SimHome, lan: Lan) {
    match lan {
        Plug(fault) => home.lan().set_fault(home.plug(0), fault).await.unwrap(),
        AnotherPlug => home.lan().swap(home.plug(0), home.plug(1)).await.unwrap(),
    }
}

async fn break_cloud(home: &SimHome, fault: Cloud) {
    let cloud = home.cloud();
    let passthrough = Some(Method::Passthrough);
    match fault {
        Cloud::Works | Cloud::WrongPassword | Cloud::Off => {}
        Cloud::Slow => {
            cloud.fail(passthrough, Times::Always, CloudFault::Latency(SLOW));
        }
        Cloud::Late => cloud.fail(passthrough, Times::Always, CloudFault::Latency(LATE)),
        Cloud::Silent => cloud.fail(None, Times::Always, CloudFault::Silent),
        Cloud::Down => cloud.set_reachable(false).await.unwrap(),
        Cloud::TokenExpired => cloud.void_tokens(TOKEN_EXPIRED),
        Cloud::RefreshRefused => {
            cloud.void_tokens(TOKEN_EXPIRED);
            cloud.void_refresh_tokens(REFRESH_TOKEN_EXPIRED);
        }
        Cloud::Throttled => cloud.fail(None, Times::Always, CloudFault::Code(RATE_LIMIT)),
        Cloud::PlugOffline => home.plug(0).set_cloud(CloudLink::Offline),
    }
}

async fn mend(home: &SimHome, lan: Lan) {
    home.cloud().mend();
    home.cloud().set_reachable(true).await.unwrap();
    home.plug(0).set_cloud(CloudLink::Works);
    match lan {
        Plug(_) => home.lan().set_fault(home.plug(0), LanFault::Works).await.unwrap(),
        AnotherPlug => home.lan().swap(home.plug(0), home.plug(1)).await.unwrap(),
    }
}

/// The number of calls to the cloud, by method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Calls {
    logins: u64,
    refreshes: u64,
    device_lists: u64,
    passthroughs: u64,
}

fn calls(home: &SimHome) -> Calls {
    let calls = |method| home.cloud().calls(method);
    Calls {
        logins: calls(Method::Login),
        refreshes: calls(Method::RefreshToken),
        device_lists: calls(Method::DeviceList),
        passthroughs: calls(Method::Passthrough),
    }
}

/// Checks that there were no more calls than necessary.
fn hold_calls_against(lan: Lan, cloud: Cloud, end: End, before: &Calls, after: &Calls, what: &str) {
    let logins = after.logins - before.logins;
    let refreshes = after.refreshes - before.refreshes;
    let passthroughs = after.passthroughs - before.passthroughs;
    let is_local = !matches!(end, Done("cloud") | Failed([_, _, ..]));
    if is_local {
        assert_eq!(before, after, "{what}: the cloud was none of its business");
        return;
    }
    let expected = match cloud {
        Cloud::TokenExpired => (0, 1),
        Cloud::RefreshRefused => (1, 1),
        _ => (0, 0),
    };
    assert_eq!((logins, refreshes), expected, "{what}: {before:?} {after:?}");
    // Switching and reading back is one call, unless the plug mishandled that request on the LAN a moment before.
    let calls = match lan {
        Plug(L::ResetAfterRequest | L::CloseWithoutReply | L::ResetInAnswer) => 2,
        Plug(L::Garbage | L::CutOffJson | L::HugeLength) => 2,
        _ => 1,
    };
    match cloud {
        // The first of them again, with a new token.
        Cloud::TokenExpired => assert_eq!(passthroughs, calls + 1, "{what}"),
        // After the login, the plug may be read once more over the cloud.
        Cloud::RefreshRefused => assert!((calls + 1..=calls + 2).contains(&passthroughs), "{what}"),
        Cloud::Works | Cloud::Slow => assert_eq!(passthroughs, calls, "{what}"),
        Cloud::Throttled => assert_eq!(passthroughs, 1, "{what}: asked again although it is held back"),
        Cloud::WrongPassword => assert_eq!((passthroughs, after.logins), (0, 1), "{what}"),
        Cloud::Late | Cloud::Silent | Cloud::Down | Cloud::PlugOffline | Cloud::Off => {}
    }
}

#[tokio::test]
async fn what_the_cloud_carries_out_after_the_deadline_is_shown_and_left_as_it_is() {
    let home = home_of(&["Lamp"]).await;
    let config = Config::of(&home)
        .without_search()
        .plug("lamp", &home, 0)
        .set("local", "poll_interval", "1s")
        .set("routing", "command_ttl", "1s");
    let scene = Scene::start(&config).await;
    scene.shows("lamp", json!({"state": "OFF", "route": "local"})).await;
    home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
    scene.shows("lamp", json!({"route": "cloud"})).await;
    home.plug(0).set_cloud(CloudLink::Latency(Duration::from_secs(2)));
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    let error = result["error"].as_str().unwrap_or_default();
    assert!(result["status"] == "error" && error.contains("cloud: no answer in time"), "{result}");
    assert!(home.plug(0).switchings().is_empty(), "it was too late before it was done");

    home.wait_until(BOUND, || home.plug(0).is_on()).await.unwrap();
    home.plug(0).set_cloud(CloudLink::Works);
    home.lan().set_fault(home.plug(0), LanFault::Works).await.unwrap();
    scene.shows("lamp", json!({"state": "ON", "route": "local"})).await;
    scene.read("lamp").await;
    assert_eq!(home.plug(0).switchings().len(), 1, "it stays switched");
}

#[tokio::test]
async fn a_plug_that_swapped_its_address_with_another_is_found_and_switched_by_itself() {
    let home = SimHome::start(home_options_of(&["Lamp", "Other"])).await.unwrap();
    let scene = Scene::start(&Config::of(&home).without("cloud")).await;
    for plug in ["lamp", "other"] {
        scene.shows(plug, json!({"state": "OFF", "route": "local"})).await;
    }
    home.lan().swap(home.plug(0), home.plug(1)).await.unwrap();
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok", "state": "ON", "route": "local"})), "{result}");
    assert!(home.plug(0).is_on() && home.plug(1).switchings().is_empty());
    let host = home.lan().address(home.plug(0)).unwrap().ip().to_string();
    sees(&scene.subscriber, "hs100d/lamp/info", json!({ "host": host })).await;
}

#[tokio::test]
async fn a_plug_comes_home_to_the_lan_by_itself() {
    let home = home_of(&["Lamp"]).await;
    let config =
        Config::of(&home).without_search().plug("lamp", &home, 0).set("local", "poll_interval", "1s");
    let scene = Scene::start(&config).await;
    scene.shows("lamp", json!({"route": "local"})).await;
    home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
    scene.shows("lamp", json!({"route": "cloud"})).await;
    home.lan().set_fault(home.plug(0), LanFault::Works).await.unwrap();
    scene.shows("lamp", json!({"route": "local"})).await;
    let changes =
        scene.subscriber.messages().into_iter().filter(|seen| seen.payload.contains("route_changed")).count();
    assert_eq!(changes, 2, "there and back");
}
