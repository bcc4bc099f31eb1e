//! `man`: the one man page, with all commands on it.

use std::io;

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, Exit, Failed, say};
use crate::config::place;

/// Prints the man page, in roff.
///
/// # Errors
/// Standard output cannot be written to.
pub fn run() -> Result<(), Failed> {
    let mut page = Vec::new();
    render(&mut page).map_err(|error| Failed::new(Exit::Bug, format!("man: {error}: please report it")))?;
    say(&String::from_utf8_lossy(&page))
}

fn render(page: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let man = Man::new(command.clone()).section("8").manual("System Manager's Manual");
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    commands(&command).to_writer(page)?;
    files().to_writer(page)?;
    exit_status().to_writer(page)
}

fn commands(command: &clap::Command) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["COMMANDS"]);
    for command in leaves(command) {
        let usage = command.clone().render_usage().to_string();
        let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).trim();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        roff.control("TP", []).text([bold(usage)]).text([roman(format!("{about}."))]);
        for argument in command
            .get_arguments()
            .filter(|argument| !argument.is_global_set() && argument.get_id() != "help")
        {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            roff.control("br", []).text([bold(argument.to_string()), roman(format!(": {help}."))]);
        }
    }
    roff
}

/// The commands that do something, those under `cloud` included.
fn leaves(command: &clap::Command) -> Vec<&clap::Command> {
    let inner = |command: &clap::Command| command.get_subcommands().next().is_some();
    command.get_subcommands().flat_map(|sub| if inner(sub) { leaves(sub) } else { vec![sub] }).collect()
}

fn files() -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["FILES"]);
    for (file, meaning) in place::FILES {
        roff.control("TP", []).text([bold(*file)]).text([roman(*meaning)]);
    }
    roff
}

fn exit_status() -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        roff.control("TP", [])
            .text([bold(exit.code().to_string())])
            .text([roman(format!("{}.", exit.meaning()))]);
    }
    roff
}
