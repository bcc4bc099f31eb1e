//! Where the config and the state are, by the command line and the environment.
//!
//! The environment is a value, so that tests do not change that of the process.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The config in each config directory.
pub(super) const FILE_NAME: &str = "hs100d/hs100d.toml";
/// The config directory of system services, by the file hierarchy standard.
pub(super) const SYSTEM_CONFIG: &str = "/etc";
/// The state directory of the system service; also without `$STATE_DIRECTORY` and a home.
pub(super) const SYSTEM_STATE: &str = "/var/lib/hs100d";

/// The variable with the name of this machine. No shell exports it; it is always the kernel's.
pub(super) const HOST_NAME: &str = "HOSTNAME";
/// Names that many machines have.
const NO_HOST_NAMES: [&str; 3] = ["", "(none)", "localhost"];

/// The config and the state in the container of the Home Assistant app.
const APP_CONFIG: &str = "/config/hs100d.toml";
const APP_STATE: &str = "/data";

/// Where config and state are, for the man page.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("--config FILE, $HS100D_CONFIG", "The config file that the command line or the environment names."),
    ("$XDG_CONFIG_HOME/hs100d/hs100d.toml", "Else the user's config; without the variable in ~/.config."),
    ("/etc/hs100d/hs100d.toml", "Else the system's config. Without any of them the built-in defaults apply."),
    (
        "hs100d.env",
        "Beside the config: values for ${NAME} in it that the environment does not have, a line NAME=VALUE each.",
    ),
    (
        "$STATE_DIRECTORY, $XDG_STATE_HOME/hs100d, ~/.local/state/hs100d",
        "Names, last known addresses and the account's tokens, in the first of these that is set.",
    ),
    (
        "/var/lib/hs100d, /etc/hs100d/*.password",
        "State and passwords of the system service. A command with the system's config or without one, and without \
         $STATE_DIRECTORY, uses them if it may read them, else it prints the command to type.",
    ),
];

/// The environment variables, and the root of the system's files.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// Instead of `/` before the system's paths.
    root: Option<PathBuf>,
}

impl Environment {
    /// Those of this process, with the name of this machine.
    pub(crate) fn of_process() -> Self {
        let mut variables: BTreeMap<_, _> = std::env::vars_os().collect();
        variables.remove(OsStr::new(HOST_NAME));
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        variables.extend(short_host_name(&name).map(|name| (HOST_NAME.into(), name.into())));
        Self { variables, root: None }
    }

    /// Only these.
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, root: None }
    }

    /// The same with the system's files below this directory, for tests.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn below(self, root: &Path) -> Self {
        Self { root: Some(root.to_owned()), ..self }
    }

    /// The same with systemd's credentials in this directory, unless `$CREDENTIALS_DIRECTORY` is set.
    #[must_use]
    pub(crate) fn with_credentials(mut self, directory: &Path) -> Self {
        if self.get("CREDENTIALS_DIRECTORY").is_none() {
            self.variables.insert("CREDENTIALS_DIRECTORY".into(), directory.into());
        }
        self
    }

    /// A path of the system's, below the root that tests give.
    pub(super) fn system(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        }
    }

    /// The value of a variable; an empty one counts as not set.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// A variable with an absolute path; the XDG specification says to ignore relative ones.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

/// Where the config is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigPath {
    /// Named by the user: it must exist.
    Named(PathBuf),
    /// Found in a config directory.
    Found(PathBuf),
    /// No file: the built-in defaults.
    Nowhere,
}

impl ConfigPath {
    /// `--config`, else `$HS100D_CONFIG`, else the user's file, else the system's, else none.
    pub(crate) fn find(argument: Option<&Path>, environment: &Environment) -> Self {
        let named =
            argument.map(Path::to_owned).or_else(|| environment.get("HS100D_CONFIG").map(PathBuf::from));
        if let Some(path) = named {
            return Self::Named(path);
        }
        let user = xdg(environment, "XDG_CONFIG_HOME", ".config");
        let directories = user.into_iter().chain([environment.system(SYSTEM_CONFIG)]);
        // If we may not see it, reading it reports the error.
        let exists = |path: &PathBuf| path.try_exists().unwrap_or(true);
        directories.map(|directory| directory.join(FILE_NAME)).find(exists).map_or(Self::Nowhere, Self::Found)
    }

    /// In the container of the Home Assistant app: `--config`, else `$HS100D_CONFIG`, else the file in the app's own folder if it
    /// is there.
    pub(crate) fn find_of_app(argument: Option<&Path>, environment: &Environment) -> Self {
        let named =
            argument.map(Path::to_owned).or_else(|| environment.get("HS100D_CONFIG").map(PathBuf::from));
        let own = environment.system(APP_CONFIG);
        match named {
            Some(path) => Self::Named(path),
            None if own.try_exists().unwrap_or(true) => Self::Found(own),
            None => Self::Nowhere,
        }
    }

    /// The file, if there is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Named(path) | Self::Found(path) => Some(path),
            Self::Nowhere => None,
        }
    }
}

/// The state directory: `$STATE_DIRECTORY`, else the user's, else the system's.
pub(crate) fn state_dir(environment: &Environment) -> PathBuf {
    // systemd may set several, separated by colons; ours is the first.
    let given = environment.get("STATE_DIRECTORY").and_then(|paths| std::env::split_paths(paths).next());
    given
        .filter(|path| path.is_absolute())
        .or_else(|| xdg(environment, "XDG_STATE_HOME", ".local/state").map(|home| home.join("hs100d")))
        .unwrap_or_else(|| environment.system(SYSTEM_STATE))
}

/// The state directory in the container of the Home Assistant app: `$STATE_DIRECTORY`, else the app's folder that is in backups.
pub(crate) fn app_state_dir(environment: &Environment) -> PathBuf {
    environment.directory("STATE_DIRECTORY").unwrap_or_else(|| environment.system(APP_STATE))
}

/// The host name without its domain, if no other machine is called the same by default.
fn short_host_name(name: &str) -> Option<&str> {
    name.split('.').next().filter(|short| !NO_HOST_NAMES.contains(short))
}

fn xdg(environment: &Environment, variable: &str, below_home: &str) -> Option<PathBuf> {
    environment
        .directory(variable)
        .or_else(|| environment.directory("HOME").map(|home| home.join(below_home)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_systemds_then_the_users_then_the_systems() {
        for (environment, expected) in [
            (Environment::of([("STATE_DIRECTORY", "/a:/b"), ("HOME", "/h")]), "/a"),
            (Environment::of([("XDG_STATE_HOME", "/x"), ("HOME", "/h")]), "/x/hs100d"),
            (Environment::of([("XDG_STATE_HOME", "not/absolute"), ("HOME", "/h")]), "/h/.local/state/hs100d"),
            (Environment::of([("STATE_DIRECTORY", ""), ("HOME", "/h")]), "/h/.local/state/hs100d"),
            (Environment::of([]), "/var/lib/hs100d"),
        ] {
            assert_eq!(state_dir(&environment), Path::new(expected), "{environment:?}");
        }
    }

    #[test]
    fn a_host_name_is_short_and_the_machines_own() {
        for (name, expected) in [
            ("north", Some("north")),
            ("north.example.com", Some("north")),
            ("localhost", None),
            ("localhost.localdomain", None),
            ("(none)", None),
            ("", None),
        ] {
            assert_eq!(short_host_name(name), expected, "{name}");
        }
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let known = Environment::of_process();
        assert_eq!(known.get(HOST_NAME).and_then(OsStr::to_str), short_host_name(&name));
    }

    #[test]
    fn the_command_line_goes_before_the_environment_and_both_before_the_config_directories() {
        let home = tempfile::tempdir().unwrap();
        let home_text = home.path().to_str().unwrap();
        let users = home.path().join(".config/hs100d/hs100d.toml");
        std::fs::create_dir_all(users.parent().unwrap()).unwrap();
        std::fs::write(&users, "").unwrap();

        let both = Environment::of([("HS100D_CONFIG", "/env.toml"), ("HOME", home_text)]);
        assert_eq!(
            ConfigPath::find(Some(Path::new("arg.toml")), &both),
            ConfigPath::Named("arg.toml".into())
        );
        assert_eq!(ConfigPath::find(None, &both), ConfigPath::Named("/env.toml".into()));
        assert_eq!(
            ConfigPath::find(None, &Environment::of([("HOME", home_text)])),
            ConfigPath::Found(users.clone())
        );

        let xdg = Environment::of([("XDG_CONFIG_HOME", "/nowhere"), ("HOME", home_text)]);
        assert_ne!(
            ConfigPath::find(None, &xdg),
            ConfigPath::Found(users),
            "$XDG_CONFIG_HOME replaces ~/.config"
        );
    }
}
