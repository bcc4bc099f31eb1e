//! The API over HTTP: what it shows of the bridge and of each plug.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::process::Command;

use crate::support::e2e::{Config, Scene, home_of};
use crate::support::http::Web;
use crate::support::mqtt::within;
use crate::support::peers::peers;
use hs100d::sim::fault::LanFault;
use serde_json::json;

#[tokio::test]
async fn a_plug_shows_its_last_error_with_the_remedy_also_after_it_works_again() {
    let home = home_of(&["Kettle"]).await;
    let scene = Scene::start(&Config::of(&home).plug("kettle", &home, 0)).await;
    let web = Web::of(&scene.daemon).await;
    let well = json!({"name": "kettle", "state": {"state": "OFF", "route": "local"}, "last_error": null});
    let before = web.shows("/api/v1/plugs/kettle", well).await;
    assert!(before["since"].is_string(), "{before}");

    home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
    let on_cloud = json!({"state": {"route": "cloud"}, "last_error": {"route": "local"}});
    let failing = web.shows("/api/v1/plugs/kettle", on_cloud).await;
    let error = &failing["last_error"];
    assert_eq!(error["error"], "connection refused", "{failing}");
    assert!(error["remedy"].as_str().unwrap().contains("Third-Party Compatibility"), "{failing}");
    assert!(error["age_s"].is_u64() && error["at"].as_str().unwrap().ends_with('Z'), "{failing}");
    assert_ne!(before["since"], failing["since"], "{failing}");

    home.lan().set_fault(home.plug(0), LanFault::Works).await.unwrap();
    let again = json!({"state": {"route": "local"}, "last_error": {"error": "connection refused"}});
    web.shows("/api/v1/plugs/kettle", again).await;
}

#[tokio::test]
async fn the_bridge_lists_what_was_found_and_is_not_served_and_why() {
    let home = home_of(&["Kettle", "Lamp"]).await;
    let config = Config::of(&home).set("discovery", "adopt", false).plug("kettle", &home, 0);
    let scene = Scene::start(&config).await;
    let web = Web::of(&scene.daemon).await;
    let listed = web.shows("/api/v1/bridge", json!({"plugs": 1, "online": 1})).await;
    assert!(listed["broker"]["connected"].is_boolean(), "{listed}");
    let lamp = within("an unserved lamp", async {
        loop {
            let bridge = web.get("/api/v1/bridge").await.json();
            let unserved = bridge["unserved"].as_array().unwrap().clone();
            if let [lamp] = &unserved[..] {
                return lamp.clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let reason = lamp["reason"].as_str().unwrap();
    assert!(reason.contains("add a [[plug]] with its mac"), "{lamp}");
    assert_eq!(
        (&lamp["name"], lamp["mac"].is_string(), lamp["seen"].is_string()),
        (&json!("Lamp"), true, true)
    );
}

#[tokio::test]
async fn the_description_of_the_api_is_valid_openapi() {
    // This may install them, meanwhile no simulated plug would answer.
    let Some(peers) = peers() else { return };
    let home = home_of(&[]).await;
    let scene = Scene::start(&Config::of(&home)).await;
    let described = Web::of(&scene.daemon).await.get("/openapi.json").await;
    assert_eq!((described.status, described.json()["openapi"].as_str()), (200, Some("3.1.0")));
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(file.path(), &described.body).unwrap();
    let mut validator = Command::new(peers.join("python/bin/python"));
    let output = validator.args(["-m", "openapi_spec_validator"]).arg(file.path()).output().unwrap();
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && printed.trim_end().ends_with(": OK"), "{printed}");
}
