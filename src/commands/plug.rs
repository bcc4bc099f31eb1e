//! `plug`: one exchange with one plug, without MQTT.

use clap::ValueEnum;

use super::{Context, Exit, Failed};

/// What `plug` is called with.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its configured name, alias, address, MAC or device id
    pub target: String,

    /// What to do
    pub verb: Verb,

    /// By this way only
    #[arg(long)]
    pub via: Option<Via>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What can be done with a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verb {
    /// Read it
    Info,
    /// Switch it on
    On,
    /// Switch it off
    Off,
    /// Switch it to the other state
    Toggle,
    /// Switch its little light on
    LedOn,
    /// Switch its little light off
    LedOff,
    /// Restart its firmware; the relay keeps its state
    Reboot,
}

/// The two ways to a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// The LAN
    Local,
    /// The cloud
    Cloud,
}

/// Does it.
///
/// # Errors
/// What went wrong.
pub async fn run(_args: Args, _context: &Context) -> Result<(), Failed> {
    Err(Failed::new(Exit::Bug, "plug: is not built in: use another version"))
}
