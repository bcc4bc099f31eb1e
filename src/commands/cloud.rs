//! `cloud`: the TP-Link account.

use clap::Subcommand;

use super::{Context, Exit, Failed};

/// What can be done with the account.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log in: asks for the password, or reads it from standard input, and keeps a token, never the password
    Login,
    /// Forget the token
    Logout,
    /// List the account's devices
    Devices {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Does it.
///
/// # Errors
/// What went wrong.
pub async fn run(_command: Command, _context: &Context) -> Result<(), Failed> {
    Err(Failed::new(Exit::Bug, "cloud: is not built in: use another version"))
}
