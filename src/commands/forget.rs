//! `forget`: removes a plug from the store, and everything about it that the broker retains.

use serde_json::json;

use super::daemon_client::{self, DaemonReply};
use super::installation::Installation;
use super::known::{Known, identity_of};
use super::{Context, Exit, Failed, say};
use crate::bridge::PlugSettings;
use crate::bridge::event::KnownPlug;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its name in the topics
    pub(super) plug: String,
}

/// Asks the running daemon to do it. Without a daemon, removes the plug from the store; the next daemon then clears its
/// topics.
///
/// # Errors
/// There is no such plug, or it has an entry in the config.
pub(super) async fn run(args: Args, context: &Context) -> Result<(), Failed> {
    let installation = Installation::of(context)?;
    let config = &installation.config;
    let refused = |why: String| Err(Failed::new(Exit::CommandFailed, format!("{}: {why}", args.plug)));
    match daemon_client::daemon(config, &installation.look(), "forget", &json!({ "plug": args.plug })).await {
        DaemonReply::Done => return say(&format!("{} is forgotten.\n", args.plug)),
        DaemonReply::Refused(why) => return refused(why),
        // The service would overwrite our changes with its own store.
        DaemonReply::NoAnswer(why) if installation.is_service_running() => {
            let line = format!(
                "{}: the running service was not reached over the broker ({why}): type `sudo systemctl stop hs100d`, \
                 then this command again",
                args.plug
            );
            return Err(Failed::new(Exit::Unavailable, line));
        }
        DaemonReply::NoAnswer(why) => tracing::info!("{why}; forgetting the plug without a daemon"),
    }
    let mut store = installation.store()?;
    let known = Known::of(config, &store);
    let plug = known.plugs.iter().find(|plug| plug.name.as_str() == args.plug);
    let is_named = |entry: &PlugSettings| entry.name.as_ref().is_some_and(|name| name.as_str() == args.plug);
    let is_about = |plug: &KnownPlug| known.entry(&identity_of(plug), plug.home.as_ref()).is_some();
    if plug.is_some_and(is_about) || config.bridge.plugs.iter().any(is_named) {
        return refused("it has an entry in the config: remove its [[plug]] entry there".to_owned());
    }
    let Some(plug) = plug else {
        return refused("no plug has that name: see the names below the base topic".to_owned());
    };
    store.forget(&plug.device_id);
    store.save()?;
    say(&format!("{} is forgotten; the next start of the daemon clears it at the broker.\n", args.plug))
}
