//! Which config and state a command uses: the user's own, or those of the system service. If this user may not read those of
//! the service, the command says what to type instead.

use std::ffi::OsString;
use std::path::PathBuf;

use super::app::AppFiles;
use super::{Context, Exit, Failed};
use crate::config::paths::ConfigPath;
use crate::config::service::{Reach, Service};
use crate::config::{Config, Invalid};
use crate::store::Store;

/// A config, and the state that belongs to it.
pub(super) struct Installation {
    pub(super) config: Config,
    pub(super) state_dir: PathBuf,
    pub(super) config_path: ConfigPath,
    service: Option<Service>,
    /// The options of the Home Assistant app, if it is that one.
    pub(super) options: Option<PathBuf>,
    /// What the user typed.
    typed: String,
}

impl Installation {
    /// That of the Home Assistant app in its container; that of the service, if the command is beside it; else the user's own.
    ///
    /// # Errors
    /// Every mistake in the config.
    pub(super) fn of(context: &Context) -> Result<Self, Invalid> {
        if let Some(app) = AppFiles::around(context) {
            return Ok(Self {
                config: app.config_of_files()?,
                options: Some(app.options()),
                config_path: app.config_path,
                state_dir: app.state_dir,
                service: None,
                typed: context.typed.clone(),
            });
        }
        let config_path = context.config_path();
        let service = Service::beside(&config_path, &context.environment);
        let environment = context.environment.clone();
        let environment = match service.as_ref().filter(|service| service.has_credentials) {
            Some(service) => environment.with_credentials(&service.credentials),
            None => environment,
        };
        let config = Config::load(&config_path, &environment)?;
        let state_dir = service.as_ref().map(|service| service.state_dir.clone());
        let state_dir = state_dir.unwrap_or_else(|| context.state_dir());
        Ok(Self { config, state_dir, config_path, service, options: None, typed: context.typed.clone() })
    }

    /// The same for a command to the running daemon, which cannot be asked without what the config names.
    ///
    /// # Errors
    /// A mistake in the config, or a file of the service that this user may not read.
    pub(super) fn of_daemon(context: &Context) -> Result<Self, Failed> {
        Self::of(context).map_err(|invalid| {
            let service = Service::beside(&context.config_path(), &context.environment);
            let locked = service.filter(|service| service.reach == Reach::Locked);
            locked
                .and_then(|service| out_of_reach(&service, &context.typed))
                .unwrap_or_else(|| invalid.into())
        })
    }

    /// The store, for reading and writing.
    ///
    /// # Errors
    /// It belongs to the service, and this user may not use it, or it does not exist yet.
    pub(super) fn store(&self) -> Result<Store, Failed> {
        self.out_of_reach().map_or_else(|| Ok(Store::open(&self.state_dir).0), Err)
    }

    /// The store, for reading only; empty if this user may not read it.
    pub(super) fn look(&self) -> Store {
        Store::read_only(&self.state_dir)
    }

    /// Whether the service uses this state now.
    pub(super) fn is_service_running(&self) -> bool {
        self.service.as_ref().is_some_and(Service::is_running)
    }

    /// What to type instead, if this user may not read the service's state or credentials.
    pub(super) fn out_of_reach(&self) -> Option<Failed> {
        out_of_reach(self.service.as_ref()?, &self.typed)
    }

    /// What the user typed.
    pub(super) fn typed(&self) -> &str {
        &self.typed
    }

    /// What to do if no daemon answers.
    pub(super) fn how_to_start(&self) -> &'static str {
        match &self.service {
            Some(service) if service.is_running() => "the service runs: see `journalctl -u hs100d`",
            Some(_) => "type `sudo systemctl start hs100d`",
            None if self.options.is_some() => "see the log of the app, and restart it",
            None => "start it with `hs100d run`, or name its config with --config",
        }
    }

    /// For commands that also work without the service's state: what they leave out, if this user may not read it.
    pub(super) fn locked_note(&self) -> Option<String> {
        let service = self.service.as_ref().filter(|service| service.reach == Reach::Locked)?;
        let (state_dir, typed) = (service.state_dir.display(), &self.typed);
        Some(format!("this user may not read the service's state ({state_dir}); `sudo {typed}` may"))
    }
}

/// What to type instead, if this user may not read the service's state or credentials.
fn out_of_reach(service: &Service, typed: &str) -> Option<Failed> {
    let state_dir = service.state_dir.display();
    match service.reach {
        Reach::Usable => None,
        Reach::Locked => {
            let line = format!(
                "this user may not read the service's state in {state_dir} and its passwords in {}: type `sudo {typed}`",
                service.credentials.display()
            );
            Some(Failed::new(Exit::Permission, line))
        }
        Reach::Missing => {
            let line = format!(
                "the service has not run yet, so there is no {state_dir}: type `sudo systemctl start hs100d`, then \
                 `sudo {typed}`"
            );
            Some(Failed::new(Exit::Unavailable, line))
        }
    }
}

/// What the user typed, to be typed again.
pub(super) fn as_typed(words: impl Iterator<Item = OsString>) -> String {
    let words = words.map(|word| quoted(&word.to_string_lossy()));
    std::iter::once("hs100d".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Quoted, so that a shell reads it as one word.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| {
        c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@' | '=' | ',' | '+' | '%')
    };
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::cloud::CloudCommand;
    use crate::commands::{cloud, forget, run};
    use crate::config::paths::Environment;
    use std::fs;
    use std::path::Path;

    /// As a command is called by this user on a machine whose files are below `root`.
    fn context(root: &Path, words: &[&str]) -> Context {
        let home = root.join("home/me");
        let environment = Environment::of([("HOME", home.to_str().unwrap())]).below(root);
        let typed = as_typed(words.iter().map(OsString::from));
        Context { config: None, environment, is_verbose: false, typed }
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn beside_the_service_its_state_and_credentials_are_used_and_else_the_users_own() {
        let machine = tempfile::tempdir().unwrap();
        let root = machine.path();
        let alone = Installation::of(&context(root, &["check"])).unwrap();
        assert_eq!(alone.state_dir, root.join("home/me/.local/state/hs100d"));
        write(root, "etc/hs100d/hs100d.toml", "[mqtt]\nurl = \"mqtt://broker.lan\"\nusername = \"hs100d\"\n");
        write(root, "etc/hs100d/mqtt.password", "hunter2\n");
        fs::create_dir_all(root.join("var/lib/hs100d")).unwrap();
        let beside = Installation::of(&context(root, &["check"])).unwrap();
        assert_eq!(beside.state_dir, root.join("var/lib/hs100d"));
        let crate::config::BrokerConfig::Outside { password, .. } = &beside.config.broker else { panic!() };
        assert_eq!(password.as_ref().unwrap().expose(), "hunter2");
        assert!(beside.out_of_reach().is_none() && beside.locked_note().is_none());
        beside.store().unwrap();
        assert!(root.join("var/lib/hs100d/state.json").exists() && !root.join("home").exists());
    }

    #[tokio::test]
    async fn before_the_service_has_run_nothing_is_written_and_the_command_to_start_it_is_named() {
        let machine = tempfile::tempdir().unwrap();
        let root = machine.path();
        write(root, "lib/systemd/system/hs100d.service", "");
        write(
            root,
            "etc/hs100d/hs100d.toml",
            "[cloud]\nusername = \"me@example.com\"\nurl = \"http://127.0.0.1:9\"\n[broker]\nlisten = \"127.0.0.1:9\"\n",
        );
        let failed = {
            let login = CloudCommand::Login { lan_only: false };
            cloud::run(login, &context(root, &["cloud", "login"])).await.unwrap_err()
        };
        assert_eq!(failed.exit, Exit::Unavailable);
        let end = "type `sudo systemctl start hs100d`, then `sudo hs100d cloud login`";
        assert!(failed.lines[0].ends_with(end), "{failed:?}");
        let args = forget::Args { plug: "lamp".to_owned() };
        forget::run(args, &context(root, &["forget", "lamp"])).await.unwrap_err();
        assert!(!root.join("var").exists() && !root.join("home").exists(), "nothing is written anywhere");
    }

    /// No search, and nothing listens at the broker's port.
    const ALONE: &str = "[discovery]\nlan = false\nadopt = false\n[broker]\nlisten = \"127.0.0.1:9\"\n";

    #[tokio::test]
    async fn beside_the_running_service_no_second_daemon_starts_and_its_store_is_not_written() {
        let machine = tempfile::tempdir().unwrap();
        let root = machine.path();
        write(root, "etc/hs100d/hs100d.toml", ALONE);
        write(root, "sys/fs/cgroup/system.slice/hs100d.service/cgroup.procs", "1\n");
        fs::create_dir_all(root.join("var/lib/hs100d")).unwrap();
        let bound = std::time::Duration::from_secs(20);
        let context = |words: &[&str]| context(root, words);
        let run = tokio::time::timeout(bound, run::run(&context(&["run"]))).await;
        let failed = run.expect("a second daemon runs").unwrap_err();
        assert!(failed.lines[0].contains("stop it with `systemctl stop hs100d`"), "{failed:?}");
        let args = forget::Args { plug: "lamp".to_owned() };
        let failed = forget::run(args, &context(&["forget", "lamp"])).await.unwrap_err();
        assert_eq!(failed.exit, Exit::Unavailable);
        assert!(
            failed.lines[0].starts_with("lamp: the running service was not reached over the broker ("),
            "{failed:?}"
        );
        assert_eq!(fs::read_dir(root.join("var/lib/hs100d")).unwrap().count(), 0);
        assert!(!root.join("home").exists());
    }

    #[test]
    fn what_was_typed_can_be_typed_again() {
        let typed = |words: &[&str]| as_typed(words.iter().map(OsString::from));
        assert_eq!(typed(&["plug", "Lamp", "on", "--via=cloud"]), "hs100d plug Lamp on --via=cloud");
        assert_eq!(typed(&["plug", "Tim's $HOME `x`", ""]), r"hs100d plug 'Tim'\''s $HOME `x`' ''");
        assert_eq!(typed(&["plug", "Küche", "192.0.2.1:9999"]), "hs100d plug Küche 192.0.2.1:9999");
    }
}
