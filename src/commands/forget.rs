//! `forget`: removes a plug from the store and from the broker.

use super::{Context, Exit, Failed};

/// What `forget` is called with.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name that it has in its topics
    pub plug: String,
}

/// Does it.
///
/// # Errors
/// What went wrong.
pub async fn run(_args: Args, _context: &Context) -> Result<(), Failed> {
    Err(Failed::new(Exit::Bug, "forget: is not built in: use another version"))
}
