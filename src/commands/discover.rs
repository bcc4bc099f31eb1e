//! `discover`: the plugs on the LAN, as a table.

use super::{Context, Exit, Failed};

/// What `discover` is called with.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// How long to wait for answers
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = crate::config::duration::parse)]
    pub timeout: std::time::Duration,
}

/// Does it.
///
/// # Errors
/// What went wrong.
pub async fn run(_args: Args, _context: &Context) -> Result<(), Failed> {
    Err(Failed::new(Exit::Bug, "discover: is not built in: use another version"))
}
