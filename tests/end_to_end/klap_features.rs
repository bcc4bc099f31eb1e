//! Meters, LEDs, strips, dimmers and count-downs over KLAP: the real daemon without a cloud, and plugs that refuse XOR.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use crate::support::e2e::{ACCOUNT, Config, Scene, Setup, holds, home_options_of, sees};
use crate::support::mqtt::BOUND;
use hs100d::sim::fault::LanFault;
use hs100d::sim::handle::PlugHandle;
use hs100d::sim::home::{HomeOptions, SimHome};
use hs100d::sim::model::{Model, SimKlapVersion};
use hs100d::sim::plug::SwitchedBy;
use hs100d::sim::plug::meter::SimMeter;
use serde_json::{Value, json};

/// The topic of each plug, and the slug of its alias.
const NAME: &str = "desk";

/// A daemon that serves one plug, which speaks this version of KLAP.
struct KlapScene {
    home: SimHome,
    scene: Scene,
}

impl KlapScene {
    /// `prepare` changes the plug before it is read for the first time.
    async fn start(model: Model, version: SimKlapVersion, prepare: impl FnOnce(&PlugHandle)) -> Self {
        let home_options =
            HomeOptions { plugs: vec![(model, "Desk".to_owned())], klap: vec![0], ..home_options_of(&[]) };
        let home = SimHome::start(home_options).await.unwrap();
        home.plug(0).with(|plug| plug.klap.version = version);
        prepare(home.plug(0));
        let config = Config::of(&home).without("cloud").without_search().plug(NAME, &home, 0);
        // The pipe of a plug that is silent stays open for longer than this test needs.
        let config = config.set("local", "timeout", "10s").set("local", "username", ACCOUNT.0);
        let setup = Setup::new(&config.set("local", "password", ACCOUNT.1));
        setup.remember_klap(&home, &[NAME]);
        let scene = Scene::at(setup).await;
        scene.shows(NAME, json!({ "route": "local" })).await;
        sees(&scene.subscriber, &topic(NAME, "info"), json!({ "protocol": "klap" })).await;
        Self { home, scene }
    }

    fn plug(&self) -> &PlugHandle {
        self.home.plug(0)
    }

    /// Sends a command that is carried out over the LAN.
    async fn command(&self, name: &str, command: Value) {
        let result = self.scene.command(name, command).await;
        assert!(holds(&result, &json!({ "status": "ok", "route": "local" })), "{name}: {result}");
    }

    async fn sees(&self, name: &str, leaf: &str, expected: Value) -> Value {
        sees(&self.scene.subscriber, &topic(name, leaf), expected).await
    }

    /// What has switched the relay so far.
    fn switched_by(&self) -> Vec<SwitchedBy> {
        self.plug().switchings().iter().map(|switching| switching.by).collect()
    }
}

fn topic(name: &str, leaf: &str) -> String {
    format!("hs100d/{name}/{leaf}")
}

fn meter() -> SimMeter {
    SimMeter { power: 61.753, voltage: 230.84, current: 0.451, total: 16.323, days: [].into() }
}

#[tokio::test]
async fn a_meter_an_led_and_a_count_down_work_over_both_versions_of_klap() {
    for (model, version) in [(Model::HS110_HW4, SimKlapVersion::V1), (Model::KP115, SimKlapVersion::V2)] {
        let klap = KlapScene::start(model, version, |plug| {
            plug.with(|plug| plug.outlets[0].meter = meter());
            plug.press_button();
        })
        .await;
        let values = json!({ "power": 61.75, "voltage": 230.8, "current": 0.451, "energy_total": 16.323 });
        let energy = klap.sees(NAME, "energy", values).await;
        assert_eq!((&energy["energy_today"], &energy["energy_month"]), (&json!(0.0), &json!(0.0)));
        klap.command(NAME, json!({ "state": "OFF" })).await;
        klap.sees(NAME, "energy", json!({ "power": 0.0 })).await;

        klap.command(NAME, json!({ "led": "OFF" })).await;
        assert!(!klap.plug().is_led_on());
        klap.sees(NAME, "state", json!({ "state": "OFF", "led": "OFF" })).await;

        klap.command(NAME, json!({ "state": "ON", "for": "2s" })).await;
        let published = klap.scene.subscriber.messages();
        assert!(published.iter().any(|seen| seen.payload.contains("\"until\":\"")), "{version:?}");
        klap.sees(NAME, "state", json!({ "state": "OFF" })).await;
        let by = [SwitchedBy::Button, SwitchedBy::Klap, SwitchedBy::Klap, SwitchedBy::CountDown];
        assert_eq!(klap.switched_by(), by, "{version:?}");
        assert_eq!(klap.plug().read(|plug| plug.klap.last_refusal), None);
    }
}

#[tokio::test]
async fn the_outlets_of_a_strip_are_switched_and_measured_one_by_one_over_klap() {
    for (model, version) in [
        (Model::HS300, SimKlapVersion::V2),
        (Model::KP303, SimKlapVersion::V2),
        (Model::KP303, SimKlapVersion::V1),
    ] {
        let klap = KlapScene::start(model, version, |strip| {
            strip.with(|strip| strip.outlets[1].meter = meter());
            strip.press_button_of(1);
        })
        .await;
        let place = json!({ "outlet": 2, "strip": NAME, "protocol": "klap" });
        klap.sees("desk-2", "info", place).await;
        klap.sees("desk-2", "state", json!({ "state": "ON", "route": "local" })).await;
        if model.meter.is_some() {
            klap.sees("desk-2", "energy", json!({ "power": 61.75, "energy_total": 16.323 })).await;
            klap.sees("desk-1", "energy", json!({ "power": 0.0 })).await;
            klap.sees(NAME, "energy", json!({ "power": 61.75 })).await;
        }
        let all = |on: bool| vec![on; model.outlets.into()];
        let only = |outlet: usize| (0..model.outlets.into()).map(|each| each == outlet).collect::<Vec<_>>();

        klap.command("desk-2", json!({ "state": "TOGGLE" })).await;
        assert_eq!(klap.plug().outlets_on(), all(false));
        klap.command("desk-3", json!({ "state": "TOGGLE" })).await;
        assert_eq!(klap.plug().outlets_on(), only(2));
        klap.sees(NAME, "state", json!({ "state": "ON" })).await;
        for on in [false, true] {
            klap.command(NAME, json!({ "state": "TOGGLE" })).await;
            assert_eq!(klap.plug().outlets_on(), all(on));
        }
        let outlets = usize::from(model.outlets);
        let by = klap.switched_by();
        assert_eq!((by.len(), by[0]), (1 + 2 + 2 * outlets, SwitchedBy::Button), "{model:?}: {by:?}");
        assert!(by[1..].iter().all(|by| *by == SwitchedBy::Klap), "{by:?}");
    }
}

#[tokio::test]
async fn a_dimmer_is_dimmed_over_klap() {
    let klap = KlapScene::start(Model::HS220, SimKlapVersion::V2, |_| {}).await;
    klap.sees(NAME, "state", json!({ "state": "OFF", "brightness": 50 })).await;
    klap.command(NAME, json!({ "brightness": 33 })).await;
    assert_eq!((klap.plug().is_on(), klap.plug().read(|plug| plug.dimmer.brightness)), (true, 33));
    klap.sees(NAME, "state", json!({ "state": "ON", "brightness": 33 })).await;
    klap.command(NAME, json!({ "brightness": 0 })).await;
    assert!(!klap.plug().is_on());
    klap.sees(NAME, "state", json!({ "state": "OFF" })).await;
}

#[tokio::test]
async fn the_figures_count_exchanges_over_klap_and_name_the_protocol() {
    let klap = KlapScene::start(Model::HS100_HW4, SimKlapVersion::V1, |_| {}).await;
    klap.home.lan().set_fault(klap.plug(), LanFault::Silent).await.unwrap();
    let before = klap.plug().traffic().klap_handshakes + klap.plug().traffic().lan_requests;
    klap.scene.send(NAME, json!({ "state": "ON" }));
    let is_asked = || klap.plug().traffic().klap_handshakes + klap.plug().traffic().lan_requests > before;
    klap.home.wait_until(BOUND, is_asked).await.unwrap();
    klap.scene.daemon.signal("USR1");
    klap.scene.daemon.says("exchanges=1 ").await;
    klap.scene.daemon.says("figures plug=desk availability=online route=local protocol=klap").await;
}
