//! hs100d(1): the page of the program, with all commands.

use std::io;

use clap::builder::PossibleValue;
use clap::{Arg, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::super::{Cli, Exit};
use super::{see_also, title};
use crate::config::paths;

pub(super) fn render(page: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let man = Man::new(command.clone());
    title(page, "hs100d", "1", "User Commands")?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    commands(&command).to_writer(page)?;
    files().to_writer(page)?;
    exit_status().to_writer(page)?;
    see_also(&[("hs100d.toml", "5"), ("mosquitto_sub", "1"), ("systemctl", "1")]).to_writer(page)
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
            let choice = choice(argument);
            roff.control("br", []).text([bold(argument.to_string()), roman(format!(": {help}{choice}."))]);
        }
    }
    roff
}

/// The possible values of an argument, if it has a fixed list.
fn choice(argument: &Arg) -> String {
    let values = if argument.get_action().takes_values() { argument.get_possible_values() } else { vec![] };
    let words: Vec<_> = values.iter().map(PossibleValue::get_name).collect();
    if words.is_empty() { String::new() } else { format!(", one of {}", words.join(", ")) }
}

/// The commands without subcommands, including those under `cloud`.
fn leaves(command: &clap::Command) -> Vec<&clap::Command> {
    let inner = |command: &clap::Command| command.get_subcommands().next().is_some();
    command.get_subcommands().flat_map(|sub| if inner(sub) { leaves(sub) } else { vec![sub] }).collect()
}

fn files() -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["FILES"]);
    for (file, meaning) in paths::FILES {
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
