//! Everything in a soak: the simulated home, the broker with its proxy, the daemon, and the listener.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hs100d::sim::home::{HomeOptions, SimHome};
use hs100d::sim::model::Model;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::broker::{Broker, Cable, free_port};
use super::crowd::{Book, Listener, Target};
use super::process::{Daemon, Fault};

/// From the return of the broker or the proxy until the daemon is connected again.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// A reload takes milliseconds.
const RELOAD_WITHIN: Duration = Duration::from_secs(20);
/// Until everything is shown correctly: a LAN that rests is probed every ten seconds.
const RIGHT_WITHIN: Duration = Duration::from_secs(120);
/// How often that is checked.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Everything together. It ends when it is dropped.
pub(crate) struct Stage {
    pub(crate) home: SimHome,
    pub(crate) targets: Arc<[Target]>,
    pub(crate) broker: Mutex<Broker>,
    pub(crate) cable: Cable,
    pub(crate) daemon: Daemon,
    pub(crate) listener: Listener,
    pub(crate) book: Book,
    config: PathBuf,
    _folder: TempDir,
}

/// An outage of the connection to the broker.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outage {
    CablePulled,
    BrokerRestarts { away: Duration, keeps_store: bool },
}

/// Which config is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    Usual,
    /// Other poll intervals, so that a reload changes something.
    Other,
    Wrong,
}

impl Stage {
    /// Starts everything, and waits until the daemon is connected to the broker.
    pub(crate) async fn set(program: &Path, plugs: usize) -> Result<Self, Fault> {
        let mut home_options = HomeOptions::of(&[]);
        home_options.plugs = (1..=plugs).map(|number| (model(number), format!("Plug {number}"))).collect();
        home_options.first_plug = Ipv4Addr::new(127, 0, 1, 1);
        // During a swap an address is free for a moment, in which no outgoing connection may take it.
        home_options.port = free_port()?;
        let home = SimHome::start(home_options).await?;
        let targets = targets(&home);
        let folder = tempfile::tempdir()?;
        let broker = Broker::start(folder.path()).await?;
        let cable = Cable::lay(broker.port).await?;
        let book = Book::default();
        let listener = Listener::start(broker.port, book.clone());
        let config = folder.path().join("hs100d.toml");
        write(&config, &text(&home, cable.port, Text::Usual))?;
        let daemon = Daemon::start(program, &config)?;
        daemon.says("its connection to the broker", BACK_WITHIN, |said| said.connected > 0).await?;
        let broker = Mutex::new(broker);
        Ok(Self { home, targets, broker, cable, daemon, listener, book, config, _folder: folder })
    }

    /// Causes an outage. Returns the time from its end until all are connected again.
    pub(crate) async fn outage(&self, outage: Outage) -> Result<Duration, Fault> {
        let (connected, subscribed) = (self.daemon.said().connected, self.listener.subscribed());
        self.book.open().break_off(Instant::now());
        let restarts = match outage {
            Outage::CablePulled => {
                self.cable.pull();
                false
            }
            Outage::BrokerRestarts { away, keeps_store } => {
                self.broker.lock().await.restart(away, keeps_store).await?;
                true
            }
        };
        let back = Instant::now();
        self.daemon.says("its return to the broker", BACK_WITHIN, |said| said.connected > connected).await?;
        while restarts && self.listener.subscribed() == subscribed {
            if back.elapsed() > BACK_WITHIN {
                return Err("the listener does not come back to the broker".into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.book.open().resume(Instant::now());
        Ok(back.elapsed())
    }

    /// Writes another config and reloads it.
    pub(crate) async fn reload(&self, which: Text) -> Result<(), Fault> {
        write(&self.config, &text(&self.home, self.cable.port, which))?;
        let reloads = self.daemon.said().reloads;
        self.daemon.signal("HUP")?;
        self.daemon.says("a reload", RELOAD_WITHIN, |said| said.reloads > reloads).await?;
        Ok(())
    }

    /// Waits until each plug is shown as its relay is, over the LAN, and no other plug is shown.
    pub(crate) async fn is_right(&self) -> Result<Duration, Fault> {
        let begun = Instant::now();
        loop {
            let wrong = self.wrong();
            if wrong.is_empty() {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > RIGHT_WITHIN {
                let first: Vec<_> = wrong.iter().take(10).map(String::as_str).collect();
                return Err(format!(
                    "{} things are not as they should be: {}; {}",
                    wrong.len(),
                    first.join("; "),
                    self.daemon.last_lines()
                )
                .into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn wrong(&self) -> Vec<String> {
        let mut wrong: Vec<_> = self.targets.iter().filter_map(|target| self.wrong_of(target)).collect();
        let mut plugs = self.listener.plugs();
        plugs.retain(|name| !self.targets.iter().any(|target| target.name == *name));
        wrong.extend(plugs.iter().map(|name| format!("{name} is no plug")));
        let bridge = self.listener.last_json("hs100d/bridge/info");
        let count = self.home.plugs().len();
        if (&bridge["plugs"], &bridge["online"]) != (&json!(count), &json!(count)) {
            wrong.push(format!("bridge/info is {bridge}"));
        }
        if self.listener.last("hs100d/bridge/state").as_deref() != Some("online") {
            wrong.push("bridge/state is not online".to_owned());
        }
        wrong
    }

    fn wrong_of(&self, target: &Target) -> Option<String> {
        let Target { name, plug, outlet, .. } = target;
        let plug = self.home.plug(*plug);
        let is_on = match outlet {
            Some(outlet) => plug.outlets_on()[*outlet],
            None => plug.is_on(),
        };
        let word = |on| if on { "ON" } else { "OFF" };
        let state = self.listener.last_json(&format!("hs100d/{name}/state"));
        let availability = self.listener.last(&format!("hs100d/{name}/availability"));
        let is_right = state["state"] == word(is_on)
            && (outlet.is_some() || state["led"] == word(plug.is_led_on()))
            && state["route"] == "local"
            && availability.as_deref() == Some("online");
        (!is_right).then(|| format!("{name}, which is {}, is {availability:?} {state}", word(is_on)))
    }
}

/// Each model occurs; most are plain plugs.
fn model(number: usize) -> Model {
    match number % 20 {
        3 => Model::KP303,
        5 | 6 => Model::HS110_HW1,
        7 | 8 => Model::HS110_HW4,
        9 => Model::HS220,
        11..=15 => Model::HS100_HW2,
        _ => Model::HS100_HW1,
    }
}

/// The daemon's topic names: slugs of the aliases.
fn targets(home: &SimHome) -> Arc<[Target]> {
    let slug = |alias: &str| alias.to_lowercase().replace(' ', "-");
    let mut targets = Vec::new();
    for (plug, handle) in home.plugs().iter().enumerate() {
        let (name, dims) = (slug(&handle.alias()), handle.read(|plug| plug.model.dims));
        let outlets = usize::from(handle.read(|plug| plug.model.outlets));
        for outlet in 0..outlets {
            targets.push(Target {
                name: format!("{name}-{}", outlet + 1),
                plug,
                outlet: Some(outlet),
                dims: false,
            });
        }
        targets.push(Target { name, plug, outlet: None, dims });
    }
    targets.into()
}

fn text(home: &SimHome, port: u16, which: Text) -> String {
    let mut text = format!(
        "[mqtt]\nurl = \"mqtt://127.0.0.1:{port}\"\n\n[discovery]\nbroadcast = [\"127.255.255.255\"]\n\n\
         [cloud]\nusername = \"{}\"\npassword = \"{}\"\nurl = \"{}\"\n\n[local]\nport = {}\n",
        HomeOptions::ACCOUNT.0,
        HomeOptions::ACCOUNT.1,
        home.cloud().url(),
        home.lan().port(),
    );
    let line = match which {
        Text::Usual => "",
        Text::Other => "poll_interval = \"6s\"\n",
        Text::Wrong => "poll_intervall = \"6s\"\n",
    };
    // Writing to a `String` cannot fail.
    let _ = text.write_str(line);
    text
}

fn write(config: &Path, text: &str) -> Result<(), Fault> {
    std::fs::write(config, text)?;
    std::fs::set_permissions(config, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}
