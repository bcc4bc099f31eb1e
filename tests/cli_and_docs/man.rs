//! The man pages are complete: they have every option of the program and every key of the config.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::process::Command;

use clap::CommandFactory;
use hs100d::commands::{Cli, Exit};
use hs100d::config;

/// A page as text, without the escapes of roff.
fn page(name: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hs100d")).args(["man", name]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    [
        ("\\-", "-"),
        ("\\fB", ""),
        ("\\fI", ""),
        ("\\fR", ""),
        ("\\&", ""),
        ("\\(aq", "'"),
        ("\\*(Aq", "'"),
        ("\\\\", "\\"),
    ]
    .iter()
    .fold(text, |text, (escape, plain)| text.replace(escape, plain))
}

/// Every name and every help text of a command and its subcommands.
fn texts_of(command: &clap::Command, texts: &mut Vec<String>) {
    let arguments = command.get_arguments().filter(|argument| argument.get_id() != "help");
    for argument in arguments {
        texts.extend(argument.get_long().map(|long| format!("--{long}")));
        texts.extend(argument.get_short().map(|short| format!("-{short}")));
        texts.extend(argument.get_help().map(ToString::to_string));
        if argument.get_action().takes_values() {
            texts.extend(argument.get_possible_values().iter().map(|value| value.get_name().to_owned()));
        }
    }
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        texts.push(command.get_name().to_owned());
        // Only commands without subcommands are described.
        if command.get_subcommands().next().is_none() {
            texts.extend(command.get_about().map(ToString::to_string));
        }
        texts_of(command, texts);
    }
}

#[test]
fn the_page_of_the_program_says_what_its_help_says() {
    let page = page("hs100d");
    assert!(page.contains(".TH hs100d 1 "), "{page}");
    let mut texts = Vec::new();
    texts_of(&Cli::command(), &mut texts);
    texts.extend(Exit::ALL.map(|exit| format!("{}.", exit.meaning())));
    assert!(texts.len() > 40, "{texts:?}");
    let missing: Vec<_> = texts.iter().filter(|texts| !page.contains(texts.as_str())).collect();
    assert!(missing.is_empty(), "{missing:#?} in\n{page}");
}

#[test]
fn the_page_of_the_config_has_every_key_in_its_table() {
    let page = page("hs100d.toml");
    assert!(page.contains(".TH hs100d.toml 5 "), "{page}");
    let mut table = "";
    let mut told = Vec::new();
    for line in page.lines() {
        if let Some(name) = line.strip_prefix(".SS ") {
            table = name.trim_matches(['[', ']', '"']);
        } else if let Some((key, _)) = line.split_once(" = ") {
            told.push(format!("{table}.{key}"));
        }
    }
    // The second name of plug.route is in the text.
    let missing: Vec<_> =
        config::keys().into_iter().filter(|key| !told.contains(key) && key != "plug.policy").collect();
    assert!(missing.is_empty(), "{missing:?} in\n{page}");
}

#[test]
fn the_page_of_the_config_says_every_word_of_the_example() {
    let page = page("hs100d.toml");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    let page = words(&page.replace('`', ""));
    let example = include_str!("../../examples/hs100d.toml");
    let lines = example.lines().filter(|line| !line.starts_with("# Lines with a # before a key "));
    for line in lines.map(|line| words(&line.trim_start_matches('#').replace('`', ""))) {
        assert!(page.contains(&line), "{line:?} is not in\n{page}");
    }
}
