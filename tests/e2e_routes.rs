//! The failure table over real sockets: what the LAN does to a command, crossed with what the cloud does to it. The
//! whole table runs on a hand-moved clock in `routing.rs`; here each row and each column of it meets the real daemon,
//! a plug, and a broker.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod e2e_kit;
mod mqtt_kit;

use std::time::Duration;

use e2e_kit::{Config, Home, Scene, blueprint_of, happens, holds, house_of, json_of, sees};
use hs100d::sim::cloud::rule::{CloudFault, Method, Times};
use hs100d::sim::fault::{CloudLink, LanFault};
use hs100d::sim::house::House;
use hs100d::sim::plug::Origin;
use mqtt_kit::BOUND;
use serde_json::json;
use tokio::task::JoinSet;

/// So many houses stand at once, each with a daemon.
const AT_ONCE: usize = 12;
/// The error codes of the cloud that the table needs.
const TOKEN_EXPIRED: i64 = -20651;
const REFRESH_TOKEN_EXPIRED: i64 = -20655;
const RATE_LIMIT: i64 = -20004;

/// What is wrong on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lan {
    Plug(LanFault),
    /// Another plug is at the plug's address.
    AnotherPlug,
}

/// What is wrong with the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cloud {
    Works,
    Slow,
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
    /// Not done, with these words for each route.
    Failed(&'static [&'static str]),
}

/// One pair of the table: how it ends, and who has switched the plug by then.
type Row = (Lan, Cloud, End, &'static [Origin]);

use Cloud as C;
use End::{Done, Failed};
use Lan::{AnotherPlug, Plug};
use LanFault as L;
use Origin::{Cloud as ByCloud, Lan as ByLan};

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
    (Plug(L::NotAccepting), C::Works, Done("cloud"), &[ByCloud]),
    (Plug(L::ResetAfterRequest), C::Works, Done("cloud"), &[ByCloud]),
    (
        Plug(L::ResetAfterRequest),
        C::Down,
        Failed(&["local: connection closed before the answer", "cloud: the cloud is out of reach"]),
        &[],
    ),
    (Plug(L::CloseWithoutReply), C::Works, Done("cloud"), &[ByCloud]),
    (Plug(L::CloseWithoutReply), C::Off, Failed(&["(local: connection closed before the answer)"]), &[]),
    // A fault that spoils the answer spoils only the answer: the plug switches, and the LAN cannot prove it.
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
    // The plug itself says no: another route leads to the same plug.
    (Plug(L::DeviceError(-1)), C::Works, Failed(&["local: the plug answered error -1"]), &[]),
    (AnotherPlug, C::Works, Done("cloud"), &[ByCloud]),
    (AnotherPlug, C::Off, Failed(&["(local: another plug answers at the address (\"Other\""]), &[]),
];

#[tokio::test]
async fn each_row_and_column_of_the_failure_table_ends_as_it_should_over_real_sockets() {
    let mut stories = JoinSet::new();
    let mut rows = TABLE.iter();
    let mut broken = 0;
    loop {
        while stories.len() < AT_ONCE
            && let Some(row) = rows.next()
        {
            stories.spawn(story(row));
        }
        match stories.join_next().await {
            Some(told) => broken += usize::from(told.is_err()),
            None => break,
        }
    }
    assert_eq!(broken, 0, "rows that ended otherwise, see above");
}

/// One command to one plug while this is wrong; then all is mended, and the plug is read.
async fn story(row: &Row) {
    let (lan, cloud, end, switched_by) = *row;
    let what = format!("{lan:?} x {cloud:?}");
    let house = house_of(&["Lamp", "Other"]).await;
    let scene = Scene::at(home(&house, cloud).await).await;
    settle(&house, &scene, cloud).await;
    break_lan(&house, lan).await;
    break_cloud(&house, cloud).await;
    let before = calls(&house);

    let transaction = scene.send("lamp", json!({"state": "ON"}));
    let result = scene.result("lamp", &transaction).await;
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
            happens(&scene.ear, failed).await;
        }
    }
    let switchings = house.plug(0).switchings();
    let origins: Vec<_> = switchings.iter().map(|switching| switching.by).collect();
    assert_eq!(origins, switched_by, "{what}");
    assert!(house.plug(1).switchings().is_empty(), "{what}: another plug was switched");
    hold_calls_against(cloud, end, &before, &calls(&house), &what);

    mend(&house, lan).await;
    // What was carried out although nobody could know it stands: the truth is shown.
    let truth = if house.plug(0).is_on() { "ON" } else { "OFF" };
    let read = scene.read("lamp").await;
    assert!(holds(&read, &json!({"status": "ok", "state": truth})), "{what}: {read}");
    scene.shows("lamp", json!({ "state": truth })).await;
    assert_eq!(house.plug(0).switchings(), switchings, "{what}: something was done after its time");
    let states = scene.ear.seen().into_iter().filter(|seen| seen.topic == "hs100d/lamp/state");
    let claims = states.filter(|seen| json_of(seen)["state"] == "ON").count();
    assert_eq!(claims > 0, !switchings.is_empty(), "{what}: a state was published that never was");
    assert_eq!(scene.results("lamp", &transaction).len(), 1, "{what}: one command, one result");
}

/// Everything stands still but for the command: no poll falls in between, and nobody is looked for.
async fn home(house: &House, cloud: Cloud) -> Home {
    let config = Config::of(house)
        .without_search()
        .plug("lamp", house, 0)
        .set("local", "poll_interval", "1h")
        .set("routing", "command_ttl", "4s");
    let config = match cloud {
        Cloud::Off => config.without("cloud"),
        Cloud::WrongPassword => config.set("cloud", "password", "guessed"),
        _ => config,
    };
    let home = Home::new(&config);
    if cloud == Cloud::RefreshRefused {
        // Logins are made ten minutes apart: the one of this story must be the daemon's first.
        home.run_with(&["cloud", "login"], &format!("{}\n", e2e_kit::ACCOUNT.1)).await.ok();
    }
    home
}

/// Waits until the plug was read, by LAN, and the account as well.
async fn settle(house: &House, scene: &Scene, cloud: Cloud) {
    scene.shows("lamp", json!({"state": "OFF", "route": "local"})).await;
    sees(&scene.ear, "hs100d/lamp/info", json!({"cloud_connection": true})).await;
    let status = match cloud {
        Cloud::Off => "off",
        Cloud::WrongPassword => "stopped",
        _ => "ok",
    };
    sees(&scene.ear, "hs100d/bridge/info", json!({"cloud": {"status": status}})).await;
    let idle = || calls(house).device_lists == 1 || matches!(cloud, Cloud::Off | Cloud::WrongPassword);
    house.wait_until(BOUND, idle).await.unwrap();
}

async fn break_lan(house: &House, lan: Lan) {
    match lan {
        Plug(fault) => house.lan().set_fault(house.plug(0), fault).await.unwrap(),
        AnotherPlug => house.lan().swap(house.plug(0), house.plug(1)).await.unwrap(),
    }
}

async fn break_cloud(house: &House, fault: Cloud) {
    let cloud = house.cloud();
    let passthrough = Some(Method::Passthrough);
    match fault {
        Cloud::Works | Cloud::WrongPassword | Cloud::Off => {}
        Cloud::Slow => {
            cloud.fail(passthrough, Times::Always, CloudFault::Latency(Duration::from_millis(300)));
        }
        Cloud::Silent => cloud.fail(None, Times::Always, CloudFault::Silent),
        Cloud::Down => cloud.set_reachable(false).await.unwrap(),
        Cloud::TokenExpired => cloud.void_tokens(TOKEN_EXPIRED),
        Cloud::RefreshRefused => {
            cloud.void_tokens(TOKEN_EXPIRED);
            cloud.void_refresh_tokens(REFRESH_TOKEN_EXPIRED);
        }
        Cloud::Throttled => cloud.fail(None, Times::Always, CloudFault::Code(RATE_LIMIT)),
        Cloud::PlugOffline => house.plug(0).set_cloud(CloudLink::Offline),
    }
}

async fn mend(house: &House, lan: Lan) {
    house.cloud().mend();
    house.cloud().set_reachable(true).await.unwrap();
    house.plug(0).set_cloud(CloudLink::Works);
    match lan {
        Plug(_) => house.lan().set_fault(house.plug(0), LanFault::Works).await.unwrap(),
        AnotherPlug => house.lan().swap(house.plug(0), house.plug(1)).await.unwrap(),
    }
}

/// What was asked of the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Calls {
    logins: u64,
    refreshes: u64,
    device_lists: u64,
    passthroughs: u64,
}

fn calls(house: &House) -> Calls {
    let calls = |method| house.cloud().calls(method);
    Calls {
        logins: calls(Method::Login),
        refreshes: calls(Method::RefreshToken),
        device_lists: calls(Method::DeviceList),
        passthroughs: calls(Method::Passthrough),
    }
}

/// The account is asked for no more than the story needs.
fn hold_calls_against(cloud: Cloud, end: End, before: &Calls, after: &Calls, what: &str) {
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
    match cloud {
        // The order and its read-back, the first of them again with another token.
        Cloud::TokenExpired | Cloud::RefreshRefused => assert_eq!(passthroughs, 3, "{what}"),
        Cloud::Works | Cloud::Slow => assert_eq!(passthroughs, 2, "{what}"),
        Cloud::Throttled => assert_eq!(passthroughs, 1, "{what}: asked again although it is held back"),
        Cloud::WrongPassword => assert_eq!((passthroughs, after.logins), (0, 1), "{what}"),
        Cloud::Silent | Cloud::Down | Cloud::PlugOffline | Cloud::Off => {}
    }
}

#[tokio::test]
async fn a_plug_that_swapped_its_address_with_another_is_found_and_switched_by_itself() {
    let house = House::start(blueprint_of(&["Lamp", "Other"])).await.unwrap();
    let scene = Scene::start(&Config::of(&house).without("cloud")).await;
    for plug in ["lamp", "other"] {
        scene.shows(plug, json!({"state": "OFF", "route": "local"})).await;
    }
    house.lan().swap(house.plug(0), house.plug(1)).await.unwrap();
    let result = scene.command("lamp", json!({"state": "ON"})).await;
    assert!(holds(&result, &json!({"status": "ok", "state": "ON", "route": "local"})), "{result}");
    assert!(house.plug(0).is_on() && house.plug(1).switchings().is_empty());
    let host = house.lan().address(house.plug(0)).unwrap().ip().to_string();
    sees(&scene.ear, "hs100d/lamp/info", json!({ "host": host })).await;
}

#[tokio::test]
async fn a_plug_comes_home_to_the_lan_by_itself() {
    let house = house_of(&["Lamp"]).await;
    let config =
        Config::of(&house).without_search().plug("lamp", &house, 0).set("local", "poll_interval", "1s");
    let scene = Scene::start(&config).await;
    scene.shows("lamp", json!({"route": "local"})).await;
    house.lan().set_fault(house.plug(0), LanFault::Refused).await.unwrap();
    scene.shows("lamp", json!({"route": "cloud"})).await;
    house.lan().set_fault(house.plug(0), LanFault::Works).await.unwrap();
    scene.shows("lamp", json!({"route": "local"})).await;
    let changes = scene.ear.seen().into_iter().filter(|seen| seen.payload.contains("route_changed")).count();
    assert_eq!(changes, 2, "there and back");
}
