//! `completions`: prints shell completions for the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failed, say};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the completions.
///
/// # Errors
/// Standard output cannot be written to.
pub(super) fn run(args: Args) -> Result<(), Failed> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hs100d", &mut script);
    say(&String::from_utf8_lossy(&script))
}
