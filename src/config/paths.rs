//! Where the config comes from and where the state goes, decided by the command line and the environment.
//!
//! The environment is a value here, so that tests need not change that of the process.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The file that is looked for in each config directory.
pub(super) const FILE_NAME: &str = "hs100d/hs100d.toml";
/// Where a system service has its config, by the file hierarchy standard.
pub(super) const SYSTEM_CONFIG: &str = "/etc";
/// Where a system service has its state; also for processes that have neither `$STATE_DIRECTORY` nor a home.
pub(super) const SYSTEM_STATE: &str = "/var/lib/hs100d";

/// Where config and state are, in words, for the man page.
pub const FILES: &[(&str, &str)] = &[
    ("--config FILE, $HS100D_CONFIG", "The config, where it is named."),
    ("$XDG_CONFIG_HOME/hs100d/hs100d.toml", "Else the user's own; ~/.config where the variable is not set."),
    ("/etc/hs100d/hs100d.toml", "Else the system's; without any of them the built-in defaults hold."),
    (
        "$STATE_DIRECTORY, $XDG_STATE_HOME/hs100d, ~/.local/state/hs100d",
        "Names, last known addresses and the account's tokens. The first that is given is used.",
    ),
    (
        "/var/lib/hs100d, /etc/hs100d/*.password",
        "State and passwords of the system service. A command that is given the system's config, or none, and no \
         $STATE_DIRECTORY uses them where it may, and else names the command to type.",
    ),
];

/// The environment variables, as they stood when this was made, and where the system's own files are.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// What stands in for `/` before the system's own paths.
    root: Option<PathBuf>,
}

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self { variables: std::env::vars_os().collect(), root: None }
    }

    /// These and no others.
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, root: None }
    }

    /// The same on a machine whose files are below this directory, for tests.
    #[must_use]
    pub fn below(self, root: &Path) -> Self {
        Self { root: Some(root.to_owned()), ..self }
    }

    /// The same with systemd's credentials in this directory, unless they are somewhere already.
    #[must_use]
    pub fn with_credentials(mut self, directory: &Path) -> Self {
        if self.get("CREDENTIALS_DIRECTORY").is_none() {
            self.variables.insert("CREDENTIALS_DIRECTORY".into(), directory.into());
        }
        self
    }

    /// Where a path of the system's own is.
    pub(super) fn system(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        }
    }

    /// The value of a variable; one that is set to nothing counts as not set.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// A variable that holds an absolute path. The XDG specification has relative ones ignored.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

/// Where the config is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigPath {
    /// A file that somebody asked for by name: that it is missing is an error.
    Named(PathBuf),
    /// A file that lies where one is looked for.
    Found(PathBuf),
    /// No file: the built-in defaults.
    Nowhere,
}

impl ConfigPath {
    /// `--config`, else `$HS100D_CONFIG`, else the user's own file, else the system's, else none.
    pub fn find(argument: Option<&Path>, environment: &Environment) -> Self {
        let named =
            argument.map(Path::to_owned).or_else(|| environment.get("HS100D_CONFIG").map(PathBuf::from));
        if let Some(path) = named {
            return Self::Named(path);
        }
        let user = xdg(environment, "XDG_CONFIG_HOME", ".config");
        let directories = user.into_iter().chain([environment.system(SYSTEM_CONFIG)]);
        // What exists but may not be looked at is for the reader to complain about.
        let exists = |path: &PathBuf| path.try_exists().unwrap_or(true);
        directories.map(|directory| directory.join(FILE_NAME)).find(exists).map_or(Self::Nowhere, Self::Found)
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Named(path) | Self::Found(path) => Some(path),
            Self::Nowhere => None,
        }
    }
}

/// Where what outlives a restart is kept: `$STATE_DIRECTORY`, else the user's own state directory.
pub fn state_dir(environment: &Environment) -> PathBuf {
    // systemd separates several directories by colons; ours is the first.
    let given = environment.get("STATE_DIRECTORY").and_then(|paths| std::env::split_paths(paths).next());
    given
        .filter(|path| path.is_absolute())
        .or_else(|| xdg(environment, "XDG_STATE_HOME", ".local/state").map(|home| home.join("hs100d")))
        .unwrap_or_else(|| environment.system(SYSTEM_STATE))
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
    fn the_command_line_goes_before_the_environment_and_both_before_what_is_found() {
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
