//! `man`: the man pages. hs100d(1) is made from the help of the command line, hs100d.toml(5) from the annotated example.

mod config;
mod program;

use std::io::{self, Write as _};

use clap::ValueEnum;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Exit, Failed, say};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which page
    #[arg(value_enum, default_value_t = ManPage::Program)]
    page: ManPage,
}

/// The man pages.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ManPage {
    /// hs100d(1), the program
    #[value(name = "hs100d")]
    Program,
    /// hs100d.toml(5), the config
    #[value(name = "hs100d.toml")]
    Config,
}

/// Prints a man page, in roff.
///
/// # Errors
/// Standard output cannot be written to.
pub(super) fn run(args: Args) -> Result<(), Failed> {
    let mut page = Vec::new();
    match args.page {
        ManPage::Program => program::render(&mut page),
        ManPage::Config => config::render(&mut page),
    }
    .map_err(|error: io::Error| Failed::new(Exit::Bug, format!("man: {error}: please report it")))?;
    say(&String::from_utf8_lossy(&page))
}

/// The first line of a page. The empty date is necessary: without it the next field would take its place.
fn title(page: &mut Vec<u8>, name: &str, section: &str, manual: &str) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    writeln!(page, ".TH {name} {section} \"\" \"hs100d {version}\" \"{manual}\"")
}

/// The last section of a page: other pages, as name and section.
fn see_also(pages: &[(&str, &str)]) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["SEE ALSO"]);
    let mut text = Vec::new();
    for (name, section) in pages {
        let comma = if text.is_empty() { "" } else { ", " };
        text.extend([roman(comma), bold(*name), roman(format!("({section})"))]);
    }
    roff.text(text);
    roff
}
