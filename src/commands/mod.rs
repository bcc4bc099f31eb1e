//! The command line: the subcommands, their arguments, and the exit codes.
//!
//! Each subcommand is a file with `Args` and `run`. A failure comes back as a [`Failed`] and is printed in one place, on
//! standard error, one line each: `hs100d: what: why: what to do`.

mod app;
mod check;
mod cloud;
mod completions;
mod daemon_client;
mod daemon_http;
#[cfg(feature = "sim")]
mod demo;
mod discover;
mod doctor;
mod event_stream;
mod forget;
mod hardening;
mod health;
mod installation;
mod klap;
mod known;
mod list;
mod man;
mod oneshot;
mod plug;
mod progress;
mod run;
mod running;
mod table;
mod target;
mod watch;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};

use crate::config::paths::{self, ConfigPath, Environment};
use crate::config::{Config, CurrentFile, Invalid};
use crate::logging;
use crate::store::Unwritable;

/// A daemon for TP-Link HS100 smart plugs: the LAN first, the cloud while the LAN does not answer, MQTT for Home
/// Assistant.
#[derive(Debug, Parser)]
#[command(name = "hs100d", version, after_long_help = exit_codes())]
pub struct Cli {
    /// The config file, instead of $HS100D_CONFIG, ~/.config/hs100d/hs100d.toml or /etc/hs100d/hs100d.toml
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,

    /// Log more; twice: everything
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "quiet")]
    verbose: u8,

    /// Log less: only warnings and errors; twice: only errors
    #[arg(short, long, action = ArgAction::Count, global = true)]
    quiet: u8,

    #[command(subcommand)]
    command: Option<Command>,
}

/// The subcommands. Without one the daemon runs.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (the default). It waits for a network, a broker or a port that is not available yet
    Run,
    /// Run the daemon in a simulated home on loopback, with simulated plugs and a simulated cloud
    #[cfg(feature = "sim")]
    Demo(demo::Args),
    /// Check the config, and print what the daemon would do with it
    Check(check::Args),
    /// List the plugs on the LAN
    Discover(discover::Args),
    /// Read or switch one plug, without MQTT
    Plug(plug::Args),
    /// List the plugs of the running daemon
    List(list::Args),
    /// Show what changes at the plugs of the running daemon, until Ctrl-C
    Watch(watch::Args),
    /// Log in to the TP-Link account, log out, or list its devices
    #[command(subcommand, arg_required_else_help = false)]
    Cloud(cloud::CloudCommand),
    /// Check that the running daemon answers: exit code 0, or 69
    Health,
    /// Remove a plug from the store, and everything about it that the broker retains
    Forget(forget::Args),
    #[command(hide = true)]
    App(app::Args),
    /// Print the completions for a shell
    Completions(completions::Args),
    /// Print a man page
    Man(man::Args),
}

/// How a command ended, with the codes of `sysexits.h` where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or stopped on request.
    Done = 0,
    /// A command failed: the plug did not answer, for one.
    CommandFailed = 1,
    /// The command line makes no sense.
    Usage = 64,
    /// A needed service is not there: the broker, the cloud, a port.
    Unavailable = 69,
    /// A bug in hs100d.
    Bug = 70,
    /// A permission is missing.
    Permission = 77,
    /// The config is wrong.
    Config = 78,
}

/// What every command gets besides its own arguments.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The config file that the command line names.
    pub(crate) config: Option<PathBuf>,
    /// The environment variables.
    pub(crate) environment: Environment,
    /// `-v` was given.
    pub(crate) is_verbose: bool,
    /// The command as it was typed.
    pub(crate) typed: String,
}

/// Why a command failed: the exit code, and the lines to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The code.
    pub(crate) exit: Exit,
    /// `what: why: what to do`, without the name of the program.
    pub(crate) lines: Vec<String>,
}

/// Reads the command line and runs the command.
pub fn main() -> ExitCode {
    on_panic();
    let ended = match Cli::try_parse() {
        Ok(cli) => start(cli, Environment::of_process()),
        Err(error) if error.use_stderr() => Err(Failed::new(Exit::Usage, usage(&error))),
        // Help or version.
        Err(asked) => printed(asked.print()).map(drop),
    };
    match ended {
        Ok(()) => Exit::Done.into(),
        Err(failed) => {
            failed.print();
            failed.exit.into()
        }
    }
}

fn start(cli: Cli, environment: Environment) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failed::new(Exit::Unavailable, format!("cannot start: {error}: raise the limit on open files"))
    })?;
    let ended = runtime.block_on(dispatch(cli, environment));
    // A thread that still waits for a password must not keep the process alive.
    runtime.shutdown_background();
    ended
}

async fn dispatch(cli: Cli, environment: Environment) -> Result<(), Failed> {
    let command = cli.command.unwrap_or(Command::Run);
    let typed = installation::as_typed(std::env::args_os().skip(1));
    let context = Context { config: cli.config, environment, is_verbose: cli.verbose > 0, typed };
    // A daemon logs what happens; a command that prints its answer logs only what goes wrong.
    let floor = match &command {
        Command::App(_) => app::AppFiles::verbosity(&context),
        command if command.is_daemon() => 0,
        _ => -1,
    };
    context.start_logging(floor + clamped(cli.verbose) - clamped(cli.quiet));
    if let Err(line) = hardening::close() {
        tracing::warn!("{line}");
    }
    match command {
        Command::Run => run::run(&context).await,
        Command::App(args) => app::run(args, &context).await,
        #[cfg(feature = "sim")]
        Command::Demo(args) => demo::run(args, &context).await,
        Command::Check(args) => check::run(args, &context).await,
        Command::Discover(args) => discover::run(args, &context).await,
        Command::Plug(args) => plug::run(args, &context).await,
        Command::List(args) => list::run(args, &context).await,
        Command::Watch(args) => watch::run(args, &context).await,
        Command::Cloud(command) => cloud::run(command, &context).await,
        Command::Health => health::run(&context).await,
        Command::Forget(args) => forget::run(args, &context).await,
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

/// Prints on standard output. A closed pipe, as with `| head`, is no failure.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn say(text: &str) -> Result<(), Failed> {
    say_to_reader(text).map(drop)
}

/// The same. `false`: nobody reads the output any more.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn say_to_reader(text: &str) -> Result<bool, Failed> {
    let mut out = io::stdout().lock();
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn printed(result: io::Result<()>) -> Result<bool, Failed> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            let line = format!("standard output: {error}: the rest is not printed; free some space there");
            Err(Failed::new(Exit::CommandFailed, line))
        }
    }
}

impl Command {
    fn is_daemon(&self) -> bool {
        match self {
            Self::Run | Self::App(_) => true,
            #[cfg(feature = "sim")]
            Self::Demo(_) => true,
            Self::Check(_)
            | Self::Discover(_)
            | Self::Plug(_)
            | Self::List(_)
            | Self::Watch(_)
            | Self::Cloud(_)
            | Self::Health
            | Self::Forget(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
        }
    }
}

impl Context {
    pub(crate) fn config_path(&self) -> ConfigPath {
        ConfigPath::find(self.config.as_deref(), &self.environment)
    }

    /// Reads the config.
    ///
    /// # Errors
    /// Every mistake in it.
    pub(crate) fn config(&self) -> Result<Config, Invalid> {
        self.config_noting(&CurrentFile::default())
    }

    /// The same; `current` says at any time which file is being read.
    ///
    /// # Errors
    /// Every mistake in it.
    pub(crate) fn config_noting(&self, current: &CurrentFile) -> Result<Config, Invalid> {
        Config::load_noting(&self.config_path(), &self.environment, current)
    }

    /// Where state is stored that outlives a restart.
    pub(crate) fn state_dir(&self) -> PathBuf {
        paths::state_dir(&self.environment)
    }

    fn start_logging(&self, verbosity: i8) {
        let text = |name| self.environment.get(name).and_then(|value| value.to_str());
        let warning = logging::start(logging::LogOptions {
            verbosity,
            rust_log: text("RUST_LOG"),
            journal_stream: text("JOURNAL_STREAM"),
            no_color: text("NO_COLOR").is_some(),
        });
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
    }
}

impl Failed {
    /// A failure of one line.
    pub(crate) fn new(exit: Exit, line: impl Into<String>) -> Self {
        Self { exit, lines: vec![line.into()] }
    }

    fn print(&self) {
        let mark = logging::mark_of_error();
        let mut err = io::stderr().lock();
        for line in &self.lines {
            // If standard error is closed, nothing can be reported.
            writeln!(err, "{mark}hs100d: {}", on_one_line(line)).ok();
        }
    }
}

/// The text without control characters, so that no part of it can end the line or move the cursor.
fn on_one_line(line: &str) -> String {
    let calm = |c: char| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { '\u{fffd}' };
    line.chars().map(|c| if c.is_control() { calm(c) } else { c }).collect()
}

impl From<Invalid> for Failed {
    fn from(invalid: Invalid) -> Self {
        Self { exit: Exit::Config, lines: invalid.lines }
    }
}

impl From<Unwritable> for Failed {
    fn from(unwritable: Unwritable) -> Self {
        let permission = unwritable.error.kind() == io::ErrorKind::PermissionDenied;
        let exit = if permission { Exit::Permission } else { Exit::CommandFailed };
        Self::new(exit, unwritable.to_string())
    }
}

impl Exit {
    /// Every code, in order.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::CommandFailed,
        Self::Usage,
        Self::Unavailable,
        Self::Bug,
        Self::Permission,
        Self::Config,
    ];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What it means, for the help.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, or stopped on request",
            Self::CommandFailed => "a command failed (the plug did not answer, …)",
            Self::Usage => "the command line makes no sense",
            Self::Unavailable => "a needed service is not there (the broker, the cloud, a port)",
            Self::Bug => "a bug in hs100d",
            Self::Permission => "a permission is missing",
            Self::Config => "the config is wrong",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

fn exit_codes() -> String {
    let mut text = "Exit codes:".to_owned();
    for exit in Exit::ALL {
        _ = write!(text, "\n  {:>2}  {}", exit.code(), exit.meaning());
    }
    text
}

fn clamped(times: u8) -> i8 {
    i8::try_from(times).unwrap_or(i8::MAX).min(3)
}

/// What clap says over several lines, on one: what is wrong, its tip, and where the help is.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut paragraphs =
        text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let first = paragraphs.next().unwrap_or_default();
    let what = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    let tip = paragraphs.find_map(|paragraph| paragraph.strip_prefix("tip: ").map(str::to_owned));
    let remedy =
        tip.map_or_else(|| "see `hs100d --help`".to_owned(), |tip| format!("{tip}, or see `hs100d --help`"));
    format!("{what}: {remedy}")
}

/// A panic is a bug: it is reported in one line, and the process ends.
pub fn on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let what = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let line = format!("this is a bug, at {place}: {what}: please report it with this line");
        Failed::new(Exit::Bug, line).print();
        std::process::exit(Exit::Bug.code().into());
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn mistake(words: &[&str]) -> String {
        usage(&Cli::try_parse_from([&["hs100d"], words].concat()).expect_err("a mistake"))
    }

    #[test]
    fn the_command_line_fits_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_mistake_on_the_command_line_is_told_on_one_line() {
        for (words, expected) in [
            (
                &["chek"][..],
                "unrecognized subcommand 'chek': a similar subcommand exists: 'check', or see `hs100d --help`",
            ),
            (&["--loud"], "unexpected argument '--loud' found: see `hs100d --help`"),
            (
                &["plug"],
                "the following required arguments were not provided: <TARGET> <VERB>: see `hs100d --help`",
            ),
            (
                &["-v", "-q"],
                "the argument '--verbose...' cannot be used with '--quiet...': see `hs100d --help`",
            ),
        ] {
            assert_eq!(mistake(words), expected);
        }
        let verb = mistake(&["plug", "lamp", "of"]);
        assert!(
            verb.starts_with("invalid value 'of' for '<VERB>' [possible values: info, on, off, "),
            "{verb}"
        );
        let timeout = mistake(&["discover", "--timeout", "5"]);
        assert!(timeout.contains("has no unit: write \"5s\""), "{timeout}");
    }

    #[test]
    fn global_options_may_stand_before_or_after_the_command() {
        for words in [["hs100d", "-v", "--config", "f", "check"], ["hs100d", "check", "-v", "--config", "f"]]
        {
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!((cli.verbose, cli.config.unwrap().to_str()), (1, Some("f")));
        }
    }

    #[test]
    fn a_failure_prints_on_its_line_whatever_is_in_it() {
        let failed = Failed::from(Invalid::of_lines(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((failed.exit, failed.lines.len()), (Exit::Config, 2));
        assert_eq!(
            on_one_line("a\u{1b}[2J\u{9b}2J\u{7}\r\nhs100d: b"),
            "a\u{fffd}[2J\u{fffd}2J\u{fffd}  hs100d: b"
        );
        assert_eq!(Exit::ALL.map(Exit::code), [0, 1, 64, 69, 70, 77, 78]);
    }
}
