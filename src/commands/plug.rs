//! `plug`: executes one command at one plug, without MQTT and without a daemon. `target` finds the plug.

use std::fmt::Write as _;
use std::time::{Instant, SystemTime};

use clap::{ValueEnum, value_parser};
use serde_json::json;

use super::installation::Installation;
use super::known::Known;
use super::oneshot::{self, Done};
use super::progress::Progress;
use super::target::{self, PlugTarget};
use super::{Context, Exit, Failed, say};
use crate::bridge::event::{Identity, PlugInfo};
use crate::bridge::failures::cause_of;
use crate::bridge::route::RoutePreference;
use crate::daemon::driver::CloudAccount;
use crate::daemon::lan_login::LanLogin;
use crate::model::{Address, DeviceId, Failure, PlugCommand, RelayState, Route, SetCommand, Switch, shown};

/// The longest part of a device's text that is printed on a line, in characters.
const TEXT_SHOWN: usize = 80;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its configured name, topic name, alias, address, MAC or device id; an outlet of a strip by its topic name or alias
    pub(super) target: String,

    /// What to do
    pub(super) verb: Verb,

    /// With `brightness`: percent, 0 to 100
    #[arg(value_name = "N", required_if_eq("verb", "brightness"), value_parser = value_parser!(u8).range(0..=100))]
    pub(super) percent: Option<u8>,

    /// Use only this route
    #[arg(long)]
    pub(super) via: Option<Via>,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The commands to a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Verb {
    /// Read it; -v adds what it waits for next, and until when
    Info,
    /// Switch it on
    On,
    /// Switch it off
    Off,
    /// Switch it to the other state
    Toggle,
    /// Set a dimmer to N percent: above 0 switches it on, 0 switches it off
    Brightness,
    /// Switch its LED on
    LedOn,
    /// Switch its LED off
    LedOff,
    /// Restart its firmware; the relay keeps its state
    Reboot,
}

/// The routes to a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Via {
    /// The LAN
    Local,
    /// The cloud
    Cloud,
}

/// Finds the plug, executes the command and prints the result.
///
/// # Errors
/// The config is wrong, the plug was not found, or the command failed.
pub(super) async fn run(args: Args, context: &Context) -> Result<(), Failed> {
    if let Some(percent) = args.percent.filter(|_| args.verb != Verb::Brightness) {
        let line = format!("{percent}: only `brightness` takes a number");
        return Err(Failed::new(Exit::Usage, line));
    }
    let installation = Installation::of(context)?;
    // The account may be the one of the service, which this user may not read.
    if let Some(failed) = installation.out_of_reach().filter(|_| args.via == Some(Via::Cloud)) {
        return Err(failed);
    }
    let done = execute(&args, &installation, context).await.map_err(|mut failed| {
        if let (Some(line), Some(locked_note)) = (failed.lines.last_mut(), installation.locked_note()) {
            *line = format!("{line}; {locked_note}");
        }
        failed
    })?;
    say(&if args.json { as_json(&done) } else { in_words(&done, args.verb, context.is_verbose) })
}

async fn execute(args: &Args, installation: &Installation, context: &Context) -> Result<Done, Failed> {
    let config = &installation.config;
    let has_account = config.cloud.is_some() && installation.out_of_reach().is_none();
    let store = if has_account { installation.store()? } else { installation.look() };
    let account = if has_account { oneshot::account(config, &store)? } else { CloudAccount::none() };
    if args.via == Some(Via::Cloud) && account.cloud.is_none() {
        let line = "--via cloud: there is no account: add a [cloud] table to the config";
        return Err(Failed::new(Exit::Config, line));
    }
    let known = Known::of(config, &store);
    let mut progress = Progress::on_stderr(&context.environment);
    progress.show(&format!("Looking for {} …", shown(&args.target, TEXT_SHOWN)));
    // With `--via local` the account is not searched for the plug either.
    let cloud = account.cloud.as_ref().filter(|_| args.via != Some(Via::Local));
    let PlugTarget { mut entry, outlet } = target::find(&args.target, &known, cloud).await?;
    match args.via {
        Some(Via::Local) => entry.policy.preference = RoutePreference::Local,
        Some(Via::Cloud) => entry.policy.preference = RoutePreference::Cloud,
        None => {}
    }
    if entry.policy.preference == RoutePreference::Cloud && entry.identity == Identity::default() {
        let line = format!(
            "{}: only its address is known, and the cloud does not know addresses: use its alias, MAC or device id",
            args.target
        );
        return Err(Failed::new(Exit::Usage, line));
    }
    let lan_login = LanLogin::look(config, &store.hash_file());
    let done = oneshot::run(entry, outlet, account, lan_login, args.command()).await;
    match done.result.ended.error() {
        Some(why) => {
            let line = format!("{}: {}", args.target, explained(why, &done));
            Err(Failed::new(Exit::CommandFailed, line))
        }
        None => Ok(done),
    }
}

/// Why it failed, and what to do. The failures of the routes say more than that the time is over.
fn explained(why: &str, done: &Done) -> String {
    let reasons = why.strip_prefix("not done in time (").and_then(|rest| rest.strip_suffix(')'));
    let reasons = reasons.unwrap_or(why);
    // Without an address only the cloud could be tried.
    let has_address = |failure: &&Failure| **failure != Failure::NoAddress;
    let failures = || Route::ALL.into_iter().filter_map(|route| done.failures.get(route));
    let cause = failures().find(has_address).or_else(|| failures().next()).and_then(cause_of);
    cause.map_or_else(|| reasons.to_owned(), |cause| format!("{reasons}: {}", cause.advice()))
}

impl Args {
    fn command(&self) -> PlugCommand {
        let set = match self.verb {
            Verb::Info => return PlugCommand::Read,
            Verb::Reboot => return PlugCommand::Reboot,
            Verb::On => SetCommand { relay: Some(Switch::To(RelayState::On)), ..SetCommand::default() },
            Verb::Off => SetCommand { relay: Some(Switch::To(RelayState::Off)), ..SetCommand::default() },
            Verb::Toggle => SetCommand { relay: Some(Switch::Toggle), ..SetCommand::default() },
            Verb::Brightness => SetCommand { brightness: self.percent, ..SetCommand::default() },
            Verb::LedOn => SetCommand { led: Some(RelayState::On), ..SetCommand::default() },
            Verb::LedOff => SetCommand { led: Some(RelayState::Off), ..SetCommand::default() },
        };
        PlugCommand::Set(set)
    }
}

fn in_words(done: &Done, verb: Verb, is_verbose: bool) -> String {
    let route = done.result.route.map_or("no route".to_owned(), |route| route.to_string());
    let took = done.result.took.as_millis();
    let state = done.result.state.map_or("unknown".to_owned(), |state| state.to_string());
    if verb == Verb::Reboot {
        return format!("restarting ({route}, {took} ms)\n");
    }
    let level = done.state.as_ref().and_then(|state| state.brightness).map(|percent| format!("{percent} %"));
    let is_on = done.result.state == Some(RelayState::On);
    let mut text = match &level {
        // A dimmer that is off remembers its level.
        Some(level) if verb == Verb::Brightness && is_on => {
            format!("{state} at {level} ({route}, {took} ms)\n")
        }
        _ => format!("{state} ({route}, {took} ms)\n"),
    };
    let (Some(info), Verb::Info) = (&done.info, verb) else { return text };
    let device = &info.device;
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            _ = writeln!(text, "{key:<10}{value}");
        }
    };
    let device_text = |text: &str| Some(shown(text, TEXT_SHOWN));
    line("alias", device_text(alias(info)));
    line("model", device_text(&device.model));
    line("hardware", device_text(&device.hw_version));
    line("firmware", device_text(&device.sw_version));
    line("mac", device.mac.map(|mac| mac.to_string()));
    line("device id", device.device_id.as_ref().map(|id| id.as_str().to_owned()));
    line("address", info.address.as_ref().map(ToString::to_string));
    line("signal", info.rssi.map(|dbm| format!("{dbm} dBm")));
    line("level", level);
    line("led", done.state.as_ref().and_then(|state| state.led).map(|led| led.to_string()));
    line("on since", done.state.as_ref().and_then(|state| state.on_since).map(date));
    for timer in done.waits_for.iter().filter(|_| is_verbose) {
        line("waits for", Some(timer.clone()));
    }
    text
}

/// The alias of the plug, or of the outlet.
fn alias(info: &PlugInfo) -> &str {
    let outlet = info.outlet.as_ref().and_then(|outlet| info.device.outlets.get(usize::from(outlet.number)));
    outlet.map_or(&info.device.alias, |outlet| &outlet.alias)
}

fn as_json(done: &Done) -> String {
    let device = done.info.as_ref().map(|info| &info.device);
    let state = done.state.as_ref();
    let text = json!({
        "state": done.result.state.map(|state| state.to_string()),
        "route": done.result.route.map(|route| route.to_string()),
        "took_ms": u64::try_from(done.result.took.as_millis()).unwrap_or(u64::MAX),
        "led": state.and_then(|state| state.led).map(|led| led.to_string()),
        "on_since": state.and_then(|state| state.on_since).map(date),
        "alias": done.info.as_ref().map(|info| alias(info)),
        "brightness": state.and_then(|state| state.brightness),
        "model": device.map(|device| &*device.model),
        "hw_version": device.map(|device| &*device.hw_version),
        "sw_version": device.map(|device| &*device.sw_version),
        "mac": device.and_then(|device| device.mac).map(|mac| mac.to_string()),
        "device_id": device.and_then(|device| device.device_id.as_ref()).map(DeviceId::as_str),
        "host": done.info.as_ref().and_then(|info| info.address.as_ref()).map(Address::host),
        "rssi": done.info.as_ref().and_then(|info| info.rssi),
    });
    format!("{text}\n")
}

fn date(instant: Instant) -> String {
    let ago = instant.elapsed();
    let at = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}
