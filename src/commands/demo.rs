//! `demo`: the real daemon in a simulated home on loopback, and a story that shows what it is for.
//!
//! Each step is checked, at the broker, over HTTP and at the simulated plug. If one fails, the story ends with an error.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, NetworkOptions, PublishOptions};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::daemon_http::DaemonHttp;
use super::{Context, Exit, Failed, say};
use crate::config::paths::{ConfigPath, Environment};
use crate::config::{Config, CurrentFile};
use crate::daemon::Daemon;
use crate::daemon::signals::{SignalRequest, Signals};
use crate::mqtt::LoginSource;
use crate::sim::fault::{Dialect, LanFault};
use crate::sim::handle::PlugHandle;
use crate::sim::home::{HomeOptions, SimHome};
use crate::store::Store;

/// The time limit of a step; after a failure the LAN is probed every ten seconds.
const STEP: Duration = Duration::from_secs(20);
/// The port that MQTT clients try first.
const MQTT_PORT: u16 = 1883;
/// The port of the status page in a config that names none.
const HTTP_PORT: u16 = 8100;
/// The plugs of the home, the one that the story is about, and the one that speaks KLAP from the start.
const PLUGS: [&str; 3] = ["Kitchen Kettle", "Küche ☕", "Christmas Tree"];
const HERO: &str = "kitchen-kettle";
const SPEAKS_KLAP: usize = 2;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// End after one round; exit code 0 only if every step worked
    #[arg(long)]
    pub(super) once: bool,
}

/// Runs the story, then keeps the home running until Ctrl-C.
///
/// # Errors
/// A step did not work, or the home could not be started.
pub(super) async fn run(args: Args, _context: &Context) -> Result<(), Failed> {
    let scratch = Scratch::new()?;
    let options = HomeOptions { klap: vec![SPEAKS_KLAP], ..HomeOptions::of(&PLUGS) };
    let home = SimHome::start(options).await.map_err(|error| cannot("start the simulated home", &error))?;
    let addresses = Addresses { broker: free_address(MQTT_PORT)?, http: free_address(HTTP_PORT)? };
    let file = scratch.0.join("hs100d.toml");
    let text = config_text(&home, addresses);
    std::fs::write(&file, &text).map_err(|error| cannot("write the config", &error))?;
    let reread = {
        let place = ConfigPath::Named(file.clone());
        let tdp_port = home.lan().tdp_port();
        Box::new(move |current: &CurrentFile| {
            let mut config = Config::load_noting(&place, &Environment::of([]), current)?;
            // Port 20002 of loopback may be in use, by another demo for example.
            config.discovery.iter_mut().for_each(|discovery| discovery.tdp_ports = vec![tdp_port]);
            Ok(config)
        })
    };
    let (config, store) = (reread(&CurrentFile::default())?, Store::open(&scratch.0).0);
    let daemon = Daemon::start(config, store, scratch.0.clone(), reread, LoginSource::default()).await?;
    let (tell, requests) = mpsc::channel(1);
    let mut signals = Signals::listen().map_err(|error| cannot("listen to signals", &error))?;
    let daemon = tokio::spawn(daemon.run(requests));

    let mut story = Story::begin(&home, addresses, &text)?;
    let running = async {
        story.tell().await?;
        if args.once { Ok(()) } else { story.go_on().await }
    };
    let ended = tokio::select! {
        ended = running => ended,
        _ = signals.next() => say("\nStopping.\n"),
    };
    // The daemon may already have ended.
    let _ = tell.send(SignalRequest::Stop).await;
    daemon.await.map_err(|error| cannot("stop the daemon", &error))?;
    ended
}

/// The running story: the simulated home, and an MQTT client that watches it.
struct Story<'a> {
    home: &'a SimHome,
    hero: &'a PlugHandle,
    client: AsyncClient,
    messages: mpsc::UnboundedReceiver<(String, String)>,
    /// The last message that was seen on each topic.
    latest: HashMap<String, String>,
    addresses: Addresses,
    begun: Instant,
}

/// Where the daemon listens.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    broker: SocketAddr,
    http: SocketAddr,
}

impl<'a> Story<'a> {
    fn begin(home: &'a SimHome, addresses: Addresses, config: &str) -> Result<Self, Failed> {
        let Addresses { broker, http } = addresses;
        say(&format!(
            "A simulated home on loopback: {} plugs, a cloud at {}, and the real daemon with this config:\n\n{}\n\
             Watch it in a browser:\n\n    http://{http}/\n\n\
             or from another terminal:\n\n    mosquitto_sub -h {} -p {} -v -t 'hs100d/#'\n\n",
            PLUGS.len(),
            home.cloud().url(),
            config.lines().map(indented).collect::<String>(),
            broker.ip(),
            broker.port(),
        ))?;
        let (client, messages) = watch(broker);
        let (hero, latest) = (home.plug(0), HashMap::new());
        Ok(Self { home, hero, client, messages, latest, addresses, begun: Instant::now() })
    }

    async fn tell(&mut self) -> Result<(), Failed> {
        self.scene("The daemon searches the LAN and finds the plugs. The Christmas tree's speaks KLAP.")?;
        self.see_online(&[HERO, "kuche", "christmas-tree"]).await?;

        self.scene("A command over the LAN.")?;
        self.command("ON", true, "local").await?;

        self.scene("Somebody presses the button on the plug. The next poll sees it.")?;
        self.hero.press_button();
        self.see_state(|state| state["state"] == "OFF").await?;

        self.scene(
            "The LAN is cut: the plug accepts connections and does not answer. The same command again.",
        )?;
        self.set_lan(LanFault::Silent).await?;
        self.command("ON", true, "cloud").await?;

        self.scene("After this failure the cloud is asked at once.")?;
        self.command("OFF", false, "cloud").await?;

        self.scene("The API and the status page show the route.")?;
        self.see_latest("state", |state| state["route"] == "cloud").await?;
        self.see_over_http("cloud").await?;

        self.scene("The LAN is back. It is probed every ten seconds, and used again from its first answer.")?;
        self.set_lan(LanFault::Works).await?;
        self.see_state(|state| state["route"] == "local").await?;
        self.command("ON", true, "local").await?;

        self.scene(
            "New firmware closes TCP port 9999: the plug speaks KLAP from now on. A command at this moment.",
        )?;
        self.set_dialect(Dialect::Klap).await?;
        self.command("OFF", false, None).await?;
        self.see_latest("info", |info| info["protocol"] == "klap").await?;
        self.see_latest("state", |state| state["route"] == "local").await?;
        self.command("ON", true, "local").await?;

        let (logins, lists) = (
            self.home.cloud().calls(crate::sim::cloud::rule::Method::Login),
            self.home.cloud().calls(crate::sim::cloud::rule::Method::DeviceList),
        );
        say(&format!(
            "\nEvery step worked. The cloud saw {logins} login and {lists} request for the device list.\n"
        ))
    }

    /// Keeps the home running, and prints what is published.
    async fn go_on(&mut self) -> Result<(), Failed> {
        say("\nThe home runs until Ctrl-C. Try, for example:\n\n")?;
        let Addresses { broker, http } = self.addresses;
        say(&format!(
            "    curl -X POST http://{http}/api/v1/plugs/kuche/toggle\n    mosquitto_pub -h {} -p {} -t hs100d/kuche/set -m TOGGLE\n\n",
            broker.ip(),
            broker.port(),
        ))?;
        while let Some((topic, payload)) = self.messages.recv().await {
            if topic.ends_with("/state") || topic.ends_with("/event") || topic.ends_with("/result") {
                self.line(&topic, &payload)?;
            }
        }
        Ok(())
    }

    // --- steps ------------------------------------------------------------------------------------------------

    /// Waits until each of these plugs is online. They come in any order.
    async fn see_online(&mut self, plugs: &[&str]) -> Result<(), Failed> {
        let mut missing: Vec<_> = plugs.iter().map(|name| format!("hs100d/{name}/availability")).collect();
        while !missing.is_empty() {
            let is_missing = |topic: &str, payload: &str| {
                payload == "online" && missing.iter().any(|missing| missing == topic)
            };
            let (seen, _) = self.see_one(&missing.join(", "), is_missing).await?;
            missing.retain(|topic| *topic != seen);
        }
        Ok(())
    }

    /// Sends a command, and checks its result at the broker and at the plug. Without a route, each will do.
    async fn command(&mut self, word: &str, on: bool, route: impl Into<Option<&str>>) -> Result<(), Failed> {
        let topic = format!("hs100d/{HERO}/set");
        say(&format!("{:>9}  -> {topic} {word}\n", self.clock()))?;
        self.client
            .publish(topic, word, PublishOptions::at_least_once())
            .await
            .map_err(|error| cannot("publish", &error))?;
        let result = self.see(&format!("hs100d/{HERO}/result"), |_| true).await?;
        let result: Value = serde_json::from_str(&result).unwrap_or_default();
        if result["status"] != "ok" {
            return Err(not_seen(&format!("the command {word} done")));
        }
        if let Some(route) = route.into()
            && result["route"] != route
        {
            return Err(not_seen(&format!("the command {word} done over the {route} route")));
        }
        if self.hero.is_on() != on {
            return Err(not_seen(&format!("the plug switched {word}")));
        }
        Ok(())
    }

    /// Asks the API for the plug, and checks its route.
    async fn see_over_http(&self, route: &str) -> Result<(), Failed> {
        let (http, path) = (self.addresses.http, DaemonHttp::plug_path(HERO));
        let end = tokio::time::Instant::now() + STEP;
        let asking = async { DaemonHttp::at(http).connect(end).await?.get(&path, end).await };
        let plug = asking.await.map_err(|failure| cannot("ask the API", &failure))?;
        let state = &plug["state"];
        self.line(&format!("GET http://{http}{path}"), &state.to_string())?;
        if state["route"] == route { Ok(()) } else { Err(not_seen(&format!("the {route} route in the API"))) }
    }

    async fn set_lan(&self, fault: LanFault) -> Result<(), Failed> {
        self.home.lan().set_fault(self.hero, fault).await.map_err(|error| cannot("change the LAN", &error))
    }

    async fn set_dialect(&self, dialect: Dialect) -> Result<(), Failed> {
        let changed = self.home.lan().set_dialect(self.hero, dialect).await;
        changed.map_err(|error| cannot("change the plug's protocol", &error))
    }

    async fn see_state(&mut self, fits: impl Fn(&Value) -> bool) -> Result<(), Failed> {
        let fits = |payload: &str| serde_json::from_str(payload).is_ok_and(|state: Value| fits(&state));
        self.see(&format!("hs100d/{HERO}/state"), fits).await.map(drop)
    }

    /// Waits until the last message on a topic of the plug fits, and prints it if it has not come yet.
    async fn see_latest(&mut self, topic: &str, fits: impl Fn(&Value) -> bool) -> Result<(), Failed> {
        let topic = format!("hs100d/{HERO}/{topic}");
        let fits = |payload: &str| serde_json::from_str(payload).is_ok_and(|document: Value| fits(&document));
        if self.latest.get(&topic).is_some_and(|payload| fits(payload)) {
            return Ok(());
        }
        self.see(&topic, fits).await.map(drop)
    }

    /// Waits for a message on a topic, and prints it.
    async fn see(&mut self, topic: &str, fits: impl Fn(&str) -> bool) -> Result<String, Failed> {
        let (_, payload) = self.see_one(topic, |at, payload| at == topic && fits(payload)).await?;
        Ok(payload)
    }

    /// Waits for a message that fits, and prints it.
    async fn see_one(
        &mut self,
        what: &str,
        fits: impl Fn(&str, &str) -> bool,
    ) -> Result<(String, String), Failed> {
        let (messages, latest) = (&mut self.messages, &mut self.latest);
        let waiting = async {
            while let Some((topic, payload)) = messages.recv().await {
                latest.insert(topic.clone(), payload.clone());
                if fits(&topic, &payload) {
                    return Some((topic, payload));
                }
            }
            None
        };
        match timeout(STEP, waiting).await {
            Ok(Some((topic, payload))) => {
                self.line(&topic, &payload)?;
                Ok((topic, payload))
            }
            _ => Err(not_seen(&format!("{what} as it should be"))),
        }
    }

    // --- words ------------------------------------------------------------------------------------------------

    fn scene(&self, words: &str) -> Result<(), Failed> {
        say(&format!("\n* {words}\n"))
    }

    fn line(&self, topic: &str, payload: &str) -> Result<(), Failed> {
        say(&format!("{:>9}  {topic} {payload}\n", self.clock()))
    }

    fn clock(&self) -> String {
        format!("{:.3} s", self.begun.elapsed().as_secs_f64())
    }
}

/// An MQTT client that subscribes to everything below `hs100d/`.
fn watch(broker: SocketAddr) -> (AsyncClient, mpsc::UnboundedReceiver<(String, String)>) {
    let mut options = MqttOptions::new("hs100d-demo-watcher", (broker.ip().to_string(), broker.port()));
    options.set_keep_alive(30);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
    let (tell, messages) = mpsc::unbounded_channel();
    let subscriber = client.clone();
    tokio::spawn(async move {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                    if subscriber.try_subscribe("hs100d/#", QoS::AtLeastOnce).is_err() {
                        return;
                    }
                }
                Ok(Event::Incoming(Incoming::Publish(message))) => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    if tell.send((text(&message.topic), text(&message.payload))).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    (client, messages)
}

/// This port of loopback, or any free one.
fn free_address(port: u16) -> Result<SocketAddr, Failed> {
    let usual = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = usual.or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map_err(|error| cannot("find a free port", &error))
}

fn config_text(home: &SimHome, Addresses { broker, http }: Addresses) -> String {
    let (username, password) = HomeOptions::ACCOUNT;
    format!(
        "[broker]\nlisten = \"{broker}\"\n\n[http]\nlisten = \"{http}\"\n\n[discovery]\nbroadcast = [\"127.255.255.255\"]\n\n[local]\nport = {}\n\n\
         [cloud]\nusername = \"{username}\"\npassword = \"{password}\"\nurl = \"{}\"\n",
        home.lan().port(),
        home.cloud().url(),
    )
}

fn indented(line: &str) -> String {
    if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") }
}

fn cannot(what: &str, error: &dyn std::fmt::Display) -> Failed {
    Failed::new(Exit::Unavailable, format!("demo: cannot {what}: {error}"))
}

fn not_seen(what: &str) -> Failed {
    Failed::new(Exit::CommandFailed, format!("demo: not seen within {STEP:?}: {what}: run it again with -v"))
}

/// A temporary folder, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failed> {
        let path = std::env::temp_dir().join(format!("hs100d-demo-{}", uuid::Uuid::new_v4().simple()));
        make_private(&path).map_err(|error| cannot("make a temporary folder", &error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that is left behind does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plugs_may_come_online_in_any_order() {
        let home = SimHome::start(HomeOptions::of(&PLUGS)).await.unwrap();
        let (client, _events) =
            AsyncClient::builder(MqttOptions::new("test", "localhost")).capacity(1).build();
        for order in [["lamp", "kettle", "fan"], ["fan", "lamp", "kettle"], ["kettle", "fan", "lamp"]] {
            let (tell, messages) = mpsc::unbounded_channel();
            for name in order {
                tell.send((format!("hs100d/{name}/availability"), "online".to_owned())).unwrap();
            }
            drop(tell);
            let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let addresses = Addresses { broker: nowhere, http: nowhere };
            let (client, begun) = (client.clone(), Instant::now());
            let (hero, latest) = (home.plug(0), HashMap::new());
            let mut story = Story { home: &home, hero, client, messages, latest, addresses, begun };
            assert!(story.see_online(&["lamp", "kettle", "fan"]).await.is_ok(), "{order:?}");
        }
    }
}
