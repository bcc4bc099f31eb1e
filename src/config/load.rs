//! Reads the config file and reports what is wrong with it.

use std::fs::File;
use std::path::Path;
use std::rc::Rc;

use zeroize::Zeroizing;

use super::current_file::CurrentFile;
use super::diagnostic::{Diagnostic, Place};
use super::named_files::NamedFiles;
use super::overlay::Overlay;
use super::paths::{ConfigPath, Environment};
use super::placeholders::Placeholders;
use super::{Config, Invalid, file, validate};
use crate::secret::SecretBuf;

/// The largest file that is read, in bytes: ten thousand plugs with every key set need a quarter of it.
const LARGEST: u64 = 16 << 20;
/// The most faults that are shown: they fit on a screen.
const FAULTS_SHOWN: usize = 10;

impl Config {
    /// Reads the config file, and checks the files that it names (passwords, certificates).
    ///
    /// # Errors
    /// One line for each fault; none holds a secret.
    pub fn load(path: &ConfigPath, environment: &Environment) -> Result<Self, Invalid> {
        Self::load_noting(path, environment, &CurrentFile::default())
    }

    /// The same; `current` says at any time which file is being read.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn load_noting(
        path: &ConfigPath,
        environment: &Environment,
        current: &CurrentFile,
    ) -> Result<Self, Invalid> {
        Self::load_below(&Overlay::default(), path, environment, current)
    }

    /// The same with values laid over the file.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn load_below(
        overlay: &Overlay,
        path: &ConfigPath,
        environment: &Environment,
        current: &CurrentFile,
    ) -> Result<Self, Invalid> {
        let text = match path.path() {
            Some(file) => {
                current.set(file);
                read(file).map_err(|fault| invalid(path, vec![fault]))?
            }
            None => Zeroizing::default(),
        };
        parse(&text, path, environment, overlay, current)
    }

    /// The same with the text of the file, which is not opened.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn read(text: &str, path: &ConfigPath, environment: &Environment) -> Result<Self, Invalid> {
        parse(text, path, environment, &Overlay::default(), &CurrentFile::default())
    }
}

fn parse(
    text: &str,
    path: &ConfigPath,
    environment: &Environment,
    overlay: &Overlay,
    current: &CurrentFile,
) -> Result<Config, Invalid> {
    let invalid = |faults: Vec<Diagnostic>| invalid(path, faults);
    let placeholders = Rc::new(Placeholders::new(path, environment, current));
    let file = file::File::read(text, overlay, &placeholders).map_err(invalid)?;
    let files = NamedFiles { path, site_file: placeholders.site_file(), environment, current };
    let (config, warnings) = validate::validate(file, overlay.is_broker_awaited, files).map_err(invalid)?;
    let lines = warnings.iter().map(|warning| line(path, warning)).collect();
    Ok(Config { warnings: lines, diagnostics: warnings, ..config })
}

fn invalid(path: &ConfigPath, faults: Vec<Diagnostic>) -> Invalid {
    let mut lines: Vec<String> = faults.iter().take(FAULTS_SHOWN).map(|fault| line(path, fault)).collect();
    if let Some(more) = faults.len().checked_sub(FAULTS_SHOWN + 1) {
        lines.push(format!("{}: and {} more: correct these first", name(path), more + 1));
    }
    Invalid { lines, diagnostics: faults }
}

/// `FILE:LINE: key: what`, or `FILE: key: what` without a line; what is wrong with an option has no file.
fn line(path: &ConfigPath, diagnostic: &Diagnostic) -> String {
    let gap = match diagnostic.place {
        Some(Place::Line(_)) => "",
        Some(Place::Option(_)) => return diagnostic.to_string(),
        None => " ",
    };
    format!("{}:{gap}{diagnostic}", name(path))
}

fn name(path: &ConfigPath) -> String {
    path.path().map_or_else(|| "built-in config".to_owned(), |file| file.display().to_string())
}

/// The text may hold passwords, so it is zeroized.
fn read(path: &Path) -> Result<Zeroizing<String>, Diagnostic> {
    let bytes = File::open(path).and_then(|file| SecretBuf::read(file, LARGEST + 1)).map_err(|error| {
        Diagnostic::of("", format!("cannot be read: {error}: check the path and its permissions"))
    })?;
    if bytes.len() as u64 > LARGEST {
        return Err(Diagnostic::of(
            "",
            format!("is larger than {} MiB: is it a config file?", LARGEST >> 20),
        ));
    }
    bytes.into_text().map_err(|(bytes, error)| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Diagnostic {
            place: Some(Place::Line(line)),
            ..Diagnostic::of("", "is not UTF-8 text: save the file as UTF-8")
        }
    })
}
