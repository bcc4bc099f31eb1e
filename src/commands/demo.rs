//! `demo`: the real daemon in a pretend house on loopback.

use super::{Context, Exit, Failed};

/// What `demo` is called with.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End after one round, with success only if every step was seen to work
    #[arg(long)]
    pub once: bool,
}

/// Does it.
///
/// # Errors
/// What went wrong.
pub async fn run(_args: Args, _context: &Context) -> Result<(), Failed> {
    Err(Failed::new(Exit::Bug, "demo: is not built in: use another version"))
}
