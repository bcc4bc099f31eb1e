//! Replaces `${NAME}` in the values of the config, so that one file serves many sites.
//!
//! A value comes from the environment, else from the site file `hs100d.env` in the config's directory. Only a
//! placeholder makes it read. Unlike an environment it is the same for the service and for the commands beside it, and a
//! reload reads it again. There is no other shell syntax, and secrets have no placeholders.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::current_file::CurrentFile;
use super::diagnostic::one_of;
use super::paths::{ConfigPath, Environment, HOST_NAME};
use crate::secret::SecretBuf;

/// Beside the config, whatever that is called: a new one is checked under another name before it replaces the old one.
const SITE_FILE: &str = "hs100d.env";
/// Where a placeholder begins, and how that is written if it is none.
const BEGIN: &str = "${";
const LITERAL: &str = "$${";
/// The longest name of a variable, in bytes.
const NAME_LEN: usize = 64;
/// The most placeholders that a message names.
const NAMED: usize = 3;
/// The largest site file, in bytes: a few lines are usual.
const LARGEST: u64 = 64 << 10;

/// What the placeholders of one config stand for.
#[derive(Debug, Default)]
pub(super) struct Placeholders {
    environment: Environment,
    /// The site file; `None` without a config file.
    site_file: Option<PathBuf>,
    current: CurrentFile,
    /// Read with the first variable that is not in the environment. `None`: there is no such file.
    of_site: OnceCell<Result<Option<Variables>, String>>,
}

/// The names and values of a site file.
type Variables = BTreeMap<String, String>;

/// A text with its placeholders replaced.
#[derive(Debug)]
pub(super) struct Replaced<'t> {
    pub(super) text: Cow<'t, str>,
    /// The placeholders that were in it.
    names: Vec<String>,
}

impl Placeholders {
    pub(super) fn new(path: &ConfigPath, environment: &Environment, current: &CurrentFile) -> Self {
        Self {
            environment: environment.clone(),
            site_file: path.path().map(|file| file.with_file_name(SITE_FILE)),
            current: current.clone(),
            of_site: OnceCell::new(),
        }
    }

    /// The site file, if it was read.
    pub(super) fn site_file(&self) -> Option<&Path> {
        let is_read = matches!(self.of_site.get(), Some(Ok(Some(_))));
        self.site_file.as_deref().filter(|_| is_read)
    }

    /// Replaces every placeholder.
    ///
    /// # Errors
    /// Which one has no value, and what to do; holds no value.
    pub(super) fn replace<'t>(&self, text: Cow<'t, str>) -> Result<Replaced<'t>, String> {
        if !text.contains(BEGIN) {
            return Ok(Replaced { text, names: Vec::new() });
        }
        let (mut replaced, mut names) = (String::new(), Vec::new());
        let mut rest = &*text;
        while let Some(at) = rest.find('$') {
            replaced.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix(LITERAL) {
                replaced.push_str(BEGIN);
                rest = after;
            } else if let Some(after) = rest.strip_prefix(BEGIN) {
                let (name, after) = name(after)?;
                replaced.push_str(&self.value(name)?);
                let name = format!("${{{name}}}");
                if !names.contains(&name) {
                    names.push(name);
                }
                rest = after;
            } else {
                replaced.push('$');
                rest = &rest[1..];
            }
        }
        replaced.push_str(rest);
        Ok(Replaced { text: replaced.into(), names })
    }

    fn value(&self, name: &str) -> Result<Cow<'_, str>, String> {
        let value = match self.environment.get(name) {
            Some(value) => value.to_str().map(Cow::Borrowed),
            None => Some(Cow::Borrowed(self.value_of_site(name)?)),
        };
        let is_text = |value: &Cow<'_, str>| !value.chars().any(char::is_control);
        value.filter(is_text).ok_or_else(|| {
            format!("has ${{{name}}}, whose value is not UTF-8 text without control characters: correct it")
        })
    }

    fn value_of_site(&self, name: &str) -> Result<&str, String> {
        let of_site = self.of_site.get_or_init(|| self.read()).as_ref().map_err(|bad| {
            format!("has ${{{name}}}, which is not set in the environment, and the site file {bad}")
        })?;
        let value =
            of_site.as_ref().and_then(|variables| variables.get(name)).filter(|value| !value.is_empty());
        value.map(String::as_str).ok_or_else(|| self.unset(name))
    }

    fn unset(&self, name: &str) -> String {
        let why = if name == HOST_NAME {
            "but this machine has no host name of its own: give it one (hostnamectl set-hostname NAME)"
                .to_owned()
        } else {
            format!("which is not set or empty: set {name} in the environment")
        };
        let site_file = self.site_file.as_ref();
        let or =
            site_file.map_or_else(String::new, |path| format!(", or write {name}=… into {}", path.display()));
        format!("has ${{{name}}}, {why}{or}")
    }

    fn read(&self) -> Result<Option<Variables>, String> {
        let Some(path) = &self.site_file else { return Ok(None) };
        self.current.set(path);
        let bytes = match File::open(path).and_then(|file| SecretBuf::read(file, LARGEST + 1)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(format!(
                    "{} cannot be read: {error}: check the path and its permissions",
                    path.display()
                ));
            }
        };
        if bytes.len() as u64 > LARGEST {
            return Err(format!(
                "{} is larger than {} KiB: keep only NAME=VALUE",
                path.display(),
                LARGEST >> 10
            ));
        }
        let not_text = |_| format!("{} is not UTF-8 text: save it as UTF-8", path.display());
        let text: Zeroizing<String> = bytes.into_text().map_err(not_text)?;
        let bad = |line| format!("{}:{line}: is not NAME=VALUE: correct the line", path.display());
        variables(&text).map(Some).map_err(bad)
    }
}

impl Replaced<'_> {
    /// What is wrong with the text, with the placeholders in it.
    pub(super) fn fault(&self, what: String) -> String {
        match &self.names[..] {
            [] => what,
            names if names.len() > NAMED => format!("{what}; see the values of its placeholders"),
            names => format!("{what}; see the value of {}", one_of(names.iter().cloned())),
        }
    }
}

/// Whether a secret has a placeholder, where none is replaced.
pub(super) fn is_in(secret: &str) -> bool {
    secret.split(BEGIN).skip(1).any(|after| name(after).is_ok())
}

/// The name after the beginning of a placeholder, and what follows its end.
fn name(text: &str) -> Result<(&str, &str), String> {
    let (name, after) = text.split_once('}').ok_or_else(|| {
        format!("has {BEGIN} without a closing brace: write ${{NAME}}, or {LITERAL} for {BEGIN} itself")
    })?;
    if !is_name(name) {
        return Err(format!(
            "has {BEGIN} without a name of letters, digits and _ in the braces: write ${{NAME}}, or {LITERAL} for \
             {BEGIN} itself"
        ));
    }
    Ok((name, after))
}

fn is_name(text: &str) -> bool {
    text.len() <= NAME_LEN
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Lines of `NAME=VALUE`, the value in quotes or not, as systemd's `EnvironmentFile=` has them. The number of the first line
/// that is something else is the error.
fn variables(text: &str) -> Result<Variables, usize> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim).zip(1..);
    let is_said = |(line, _): &(&str, usize)| !line.is_empty() && !line.starts_with(['#', ';']);
    let variable = |(line, number): (&str, usize)| {
        let (name, value) = line.split_once('=').filter(|(name, _)| is_name(name)).ok_or(number)?;
        Ok((name.to_owned(), unquoted(value.trim()).to_owned()))
    };
    lines.filter(is_said).map(variable).collect()
}

fn unquoted(value: &str) -> &str {
    let within = |quote| value.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> Result<String, String> {
        let environment =
            Environment::of([("SITE", "north"), ("EMPTY", ""), ("TWO", "a\nb"), ("A_1", "${SITE}")]);
        let placeholders = Placeholders::new(&ConfigPath::Nowhere, &environment, &CurrentFile::default());
        placeholders.replace(text.into()).map(|replaced| replaced.text.into_owned())
    }

    #[test]
    fn a_placeholder_stands_for_a_variable_and_everything_else_for_itself() {
        for (text, expected) in [
            ("plugs", "plugs"),
            ("plugs/${SITE}", "plugs/north"),
            ("${SITE}-${SITE}", "north-north"),
            ("${A_1}", "${SITE}"),
            ("a$b$", "a$b$"),
            ("$SITE", "$SITE"),
            ("$${SITE}", "${SITE}"),
            ("$$${SITE}", "$${SITE}"),
            ("$${", "${"),
        ] {
            assert_eq!(replaced(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_placeholder_without_a_value_is_said_with_the_remedy() {
        for (text, expected) in [
            ("${EAST}", "has ${EAST}, which is not set or empty: set EAST in the environment"),
            ("${EMPTY}", "has ${EMPTY}, which is not set or empty: set EMPTY in the environment"),
            ("${SITE", "has ${ without a closing brace: write ${NAME}, or $${ for ${ itself"),
            ("${TWO}", "has ${TWO}, whose value is not UTF-8 text without control characters: correct it"),
            (
                "${HOSTNAME}",
                "has ${HOSTNAME}, but this machine has no host name of its own: give it one (hostnamectl \
                 set-hostname NAME)",
            ),
        ] {
            assert_eq!(replaced(text).as_ref().err().map(String::as_str), Some(expected), "{text}");
        }
        for odd in ["${}", "${SITE:-x}", "${ SITE}", "${1}", "${é}", &format!("${{{}}}", "N".repeat(65))] {
            assert!(replaced(odd).unwrap_err().starts_with("has ${ without a name of letters"), "{odd}");
        }
    }

    #[test]
    fn the_site_file_is_read_as_systemd_reads_an_environment_file() {
        let text = "\u{feff}# the site\n\n; so\nSITE=north\n ROOM = not a name\n";
        assert_eq!(variables(text), Err(5));
        let text = "SITE=north\r\nROOM=\"the hall\"\nOWNER='me'\nEMPTY=\nSITE=south\nODD=\"\n";
        let found = variables(text).unwrap();
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            found,
            [("EMPTY", ""), ("ODD", "\""), ("OWNER", "me"), ("ROOM", "the hall"), ("SITE", "south")]
        );
        for bad in ["export A=b", "SITE", "=x", "A-B=c"] {
            assert_eq!(variables(bad), Err(1), "{bad}");
        }
    }
}
