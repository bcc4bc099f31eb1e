//! `run`: the daemon.

use super::{Context, Exit, Failed};

/// Does it.
///
/// # Errors
/// What went wrong.
pub async fn run(_context: &Context) -> Result<(), Failed> {
    Err(Failed::new(Exit::Bug, "run: is not built in: use another version"))
}
