//! `examples/fleet_health.rs` at a broker with real daemons: what an operator sees of a fleet.

#![cfg(all(feature = "sim", feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::support::e2e::{Config, Daemon, Setup, home_options_of};
use crate::support::mqtt::{Brand, Subscriber, TestBroker, has_mosquitto, until_retained};
use example::{Options, run};
use hs100d::sim::home::SimHome;

#[path = "../../examples/fleet_health.rs"]
#[allow(dead_code, reason = "no test calls main")]
mod example;

/// One run of the program: the table, and whether all is well.
async fn table(options: &Options) -> (Vec<String>, bool) {
    let mut tables = Vec::new();
    let is_well = run(options, |table| tables.push(table)).await.unwrap();
    assert_eq!(tables.len(), 1, "{tables:?}");
    (tables[0].lines().map(str::to_owned).collect(), is_well)
}

fn at(port: u16) -> Options {
    let broker = format!("mqtt://127.0.0.1:{port}");
    Options { broker, sites: "plugs/+".to_owned(), watch: false, quiet: Duration::from_secs(3600) }
}

/// The words of the line of a site, without the times, known or not.
fn words(lines: &[String], site: &str) -> Vec<String> {
    let line = lines.iter().find(|line| line.starts_with(&format!("{site} "))).expect(site);
    let is_time = |word: &&str| word.len() == "1970-01-01T00:00:00Z".len() && word.ends_with('Z');
    line.split_whitespace().filter(|word| *word != "-" && !is_time(word)).map(str::to_owned).collect()
}

struct Site {
    home: SimHome,
    setup: Setup,
    daemon: Daemon,
}

async fn site(name: &str, part: u8, broker: u16) -> Site {
    let mut options = home_options_of(&["Lamp", "Kettle"]);
    options.first_plug = Ipv4Addr::new(127, 8, part, 1);
    let home = SimHome::start(options).await.unwrap();
    let config = Config::of(&home).without("cloud").at_broker(broker).set(
        "mqtt",
        "base_topic",
        format!("plugs/{name}"),
    );
    let setup = Setup::new(&config.set("mqtt", "instance", name).set("homeassistant", "discovery", "off"));
    let daemon = setup.daemon();
    daemon.is_connected().await;
    Site { home, setup, daemon }
}

#[tokio::test]
async fn the_table_of_a_fleet_shows_each_site_and_marks_those_that_need_somebody() {
    if !has_mosquitto() {
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    let broker = TestBroker::start(Brand::Mosquitto).await;
    let mut north = site("north", 1, broker.port).await;
    let south = site("south", 2, broker.port).await;
    until_retained(broker.port, "all plugs of both sites", |all| {
        let is_whole = |base: &str| {
            let value = |rest: &str| all.iter().find(|seen| seen.topic == format!("plugs/{base}/{rest}"));
            value("bridge/info").is_some_and(|seen| seen.payload.contains(r#""plugs":2,"online":2"#))
                && value("bridge/state").is_some_and(|seen| seen.payload == "online")
                && ["lamp/state", "kettle/state"].iter().all(|rest| value(rest).is_some())
        };
        is_whole("north") && is_whole("south")
    })
    .await;
    let (lines, is_well) = table(&at(broker.port)).await;
    assert!(is_well, "{lines:#?}");
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let at_broker = format!("127.0.0.1:{}", broker.port);
    let at_broker = at_broker.as_str();
    for site in ["plugs/north", "plugs/south"] {
        assert_eq!(words(&lines, site), [site, "online", version, "2", "0", "2", "0", at_broker]);
    }

    // One that was killed, and one of an earlier version whose account is given up and whose document is half there.
    north.daemon.kill().await;
    let subscriber = Subscriber::connect(broker.port).await;
    subscriber.receives("plugs/north/bridge/state", "offline").await;
    let west = r#"{"version":"0.0.9","instance":"w","started":"2026-01-01T00:00:00Z","plugs":9,"online":7,"cloud":{"status":"stopped","reason":"x"}}"#;
    subscriber.publish_retained("plugs/west/bridge/info", west);
    subscriber.publish_retained("plugs/west/bridge/state", "online");
    subscriber.publish_retained("plugs/west/odd/state", r#"{"state":"ON","route":"cloud"}"#);
    subscriber.publish_retained("plugs/east/bridge/state", "online");
    subscriber.publish_retained("plugs/east/bridge/info", "{");
    // Not a site.
    subscriber.publish_retained("plugs/lost", "online");
    subscriber.publish_retained("other/north/bridge/state", "online");
    subscriber.receives("other/north/bridge/state", "online").await;
    let (lines, is_well) = table(&at(broker.port)).await;
    assert!(!is_well && lines.len() == 5, "{lines:#?}");
    assert_eq!(
        words(&lines, "plugs/north"),
        ["plugs/north", "offline", version, "2", "0", "2", "0", at_broker, "SILENT"]
    );
    assert_eq!(
        words(&lines, "plugs/south"),
        ["plugs/south", "online", version, "2", "0", "2", "0", at_broker]
    );
    let west = words(&lines, "plugs/west").join(" ");
    assert_eq!(west, "plugs/west online 0.0.9 9 2 0 1 old version, plugs offline, cloud stopped");
    assert_eq!(words(&lines, "plugs/east").join(" "), "plugs/east online 0 0 0 0 no info");

    // With --watch a change is shown as it comes: the site returns.
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let watching = Options { watch: true, ..at(broker.port) };
    let returns = async {
        let shows = async |told: &mut tokio::sync::mpsc::UnboundedReceiver<String>, state: &str| loop {
            let table: String = told.recv().await.unwrap();
            let lines: Vec<_> = table.lines().map(str::to_owned).collect();
            if lines.iter().any(|line| line.starts_with("plugs/north"))
                && words(&lines, "plugs/north")[1] == state
            {
                return;
            }
        };
        shows(&mut told, "offline").await;
        north.daemon = north.setup.daemon();
        shows(&mut told, "online").await;
    };
    tokio::select! {
        ended = run(&watching, |table| tell.send(table).unwrap()) => panic!("it watches until it is dropped: {ended:?}"),
        done = tokio::time::timeout(Duration::from_secs(60), returns) => done.unwrap(),
    }
    drop((north.home, south.home, south.daemon));
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_is_an_error() {
    let refused = run(&at(9), |_| panic!("there is no table")).await.unwrap_err();
    assert!(refused.to_lowercase().contains("refused"), "{refused}");
    for broker in ["127.0.0.1", "http://127.0.0.1", "mqtt://", "mqtt://127.0.0.1:x"] {
        let options = Options { broker: broker.to_owned(), ..at(9) };
        assert!(run(&options, |_| ()).await.unwrap_err().starts_with("name the broker as "), "{broker}");
    }
}

#[tokio::test]
async fn a_fleet_that_is_not_there_is_an_error() {
    let broker = TestBroker::start(Brand::Embedded).await;
    let subscriber = Subscriber::connect(broker.port).await;
    // Elsewhere there is one.
    subscriber.publish_retained("other/north/bridge/state", "online");
    subscriber.receives("other/north/bridge/state", "online").await;
    let none = run(&at(broker.port), |_| panic!("there is no table")).await.unwrap_err();
    assert_eq!(none, "no site below plugs/+: check --sites, and what the login may read");
}
