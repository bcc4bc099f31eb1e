//! Detects the system service by its files, so that a command uses its state and not another one. Does not run `systemctl`:
//! it may be missing, and it may hang.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::paths::{ConfigPath, Environment, FILE_NAME, SYSTEM_CONFIG, SYSTEM_STATE};
use crate::permissions;

/// The directories of units, in the order of systemd.
const UNIT_DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const UNIT: &str = "hs100d.service";
/// The unit loads the files in this directory as credentials.
const CREDENTIALS: &str = "/etc/hs100d";
/// The extensions of credentials.
const CREDENTIAL_ENDINGS: [&str; 5] = ["password", "token", "read_token", "access-key", "secret-key"];
/// Where the unit's control group is, with version 2 and version 1. It exists while the service runs.
const CONTROL_GROUPS: [&str; 2] = ["/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/systemd/system.slice"];
/// The control groups of this process.
const OUR_CONTROL_GROUPS: &str = "/proc/self/cgroup";

/// The system service, as a command sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its state directory.
    pub(crate) state_dir: PathBuf,
    /// Whether this user may use its state.
    pub reach: Reach,
    /// The directory of its credentials.
    pub(crate) credentials: PathBuf,
    /// Whether this user may read all of them.
    pub(crate) has_credentials: bool,
    is_running: bool,
}

/// What this user may do with the service's state and credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// May read all of it, and write files that belong to the service.
    Usable,
    /// Some of it is for root or the service's user only.
    Locked,
    /// The unit is installed, and there is no state yet: it has never run.
    Missing,
}

impl Service {
    /// The service that uses this config. `None` if `$STATE_DIRECTORY` is set, as in the service itself, and for a config
    /// other than the system's: that is for a daemon of the user's own.
    pub(crate) fn beside(config_path: &ConfigPath, environment: &Environment) -> Option<Self> {
        let system_config = environment.system(SYSTEM_CONFIG).join(FILE_NAME);
        let is_shared = config_path.path().is_none_or(|path| is_same_file(path, &system_config));
        if !is_shared || environment.get("STATE_DIRECTORY").is_some() {
            return None;
        }
        let state_dir = environment.system(SYSTEM_STATE);
        let has_unit = || UNIT_DIRECTORIES.iter().any(|it| environment.system(it).join(UNIT).exists());
        // Not `exists`: a link counts if this user may not see its target.
        if fs::symlink_metadata(&state_dir).is_err() && !has_unit() {
            return None;
        }
        let credentials = environment.system(CREDENTIALS);
        let has_credentials = may_read_credentials(&credentials);
        let reach = match reach_of(&state_dir) {
            Reach::Usable if !has_credentials => Reach::Locked,
            reach => reach,
        };
        let groups = CONTROL_GROUPS.map(|it| environment.system(it).join(UNIT));
        let is_running = groups.iter().any(|group| group.exists()) && !is_the_service(environment);
        Some(Self { state_dir, reach, credentials, has_credentials, is_running })
    }

    /// Whether it runs now, and is not this process.
    pub(crate) fn is_running(&self) -> bool {
        self.is_running
    }
}

/// Whether both paths lead to the same file. Compares the paths if one does not exist.
fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

fn reach_of(state_dir: &Path) -> Reach {
    match fs::metadata(state_dir) {
        Ok(_) if permissions::may_keep_files(state_dir) => Reach::Usable,
        // With DynamicUser, the link leads into a directory of root's: then the error is another one.
        Err(error) if error.kind() == ErrorKind::NotFound => Reach::Missing,
        Ok(_) | Err(_) => Reach::Locked,
    }
}

/// Whether this user may read every credential.
fn may_read_credentials(directory: &Path) -> bool {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return error.kind() == ErrorKind::NotFound,
    };
    let is_credential = |path: &PathBuf| {
        path.extension().is_some_and(|ending| CREDENTIAL_ENDINGS.iter().any(|it| ending == *it))
    };
    entries.flatten().map(|entry| entry.path()).filter(is_credential).all(|path| fs::File::open(path).is_ok())
}

/// Whether this process was started by the unit.
fn is_the_service(environment: &Environment) -> bool {
    let groups = fs::read_to_string(environment.system(OUR_CONTROL_GROUPS)).unwrap_or_default();
    groups.lines().any(|line| line.split('/').any(|part| part == UNIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A directory with the system's files.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path.trim_start_matches('/'))
        }

        fn write(&self, path: &str, text: &str) {
            fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
            fs::write(self.path(path), text).unwrap();
        }

        fn environment(&self) -> Environment {
            Environment::of([("HOME", "/nonexistent")]).below(self.0.path())
        }

        /// The service as it is seen with the config that is found.
        fn service(&self) -> Option<Service> {
            let environment = self.environment();
            Service::beside(&ConfigPath::find(None, &environment), &environment)
        }

        /// The state directory as systemd makes it for a user that exists only while the service runs.
        fn runs_once(&self) {
            fs::create_dir_all(self.path("/var/lib/private/hs100d")).unwrap();
            symlink("private/hs100d", self.path("/var/lib/hs100d")).unwrap();
        }
    }

    #[test]
    fn the_service_is_detected_by_its_state_or_its_unit_and_only_with_the_systems_config() {
        let machine = Machine::new();
        assert_eq!(machine.service(), None, "there is none");
        machine.write("/lib/systemd/system/hs100d.service", "[Service]\n");
        assert_eq!(machine.service().unwrap().reach, Reach::Missing, "it has never run");
        machine.runs_once();
        let found = machine.service().unwrap();
        assert_eq!((found.reach, &found.state_dir), (Reach::Usable, &machine.path("/var/lib/hs100d")));
        assert_eq!(found.credentials, machine.path("/etc/hs100d"));
        fs::remove_file(machine.path("/lib/systemd/system/hs100d.service")).unwrap();
        assert!(machine.service().is_some(), "its state alone is enough");
        machine.write("/etc/hs100d/hs100d.toml", "");
        assert!(machine.service().is_some(), "its config as well");

        let environment = machine.environment();
        let named = |path: PathBuf| Service::beside(&ConfigPath::Named(path), &environment);
        assert!(named(machine.path("/etc/hs100d/../hs100d/hs100d.toml")).is_some());
        assert_eq!(named(machine.path("/srv/me/hs100d.toml")), None, "a daemon of the user's own");
        let given = Environment::of([("STATE_DIRECTORY", "/elsewhere")]).below(machine.0.path());
        assert_eq!(
            Service::beside(&ConfigPath::Nowhere, &given),
            None,
            "the service itself, or one who says where"
        );
    }

    #[test]
    fn a_link_that_leads_nowhere_is_a_service_that_has_to_be_started() {
        let machine = Machine::new();
        machine.runs_once();
        fs::remove_dir(machine.path("/var/lib/private/hs100d")).unwrap();
        assert_eq!(machine.service().unwrap().reach, Reach::Missing);
    }

    #[test]
    fn a_user_who_may_not_read_all_of_it_may_not_use_it() {
        if rustix::process::geteuid().is_root() {
            return; // Root may read everything; tests/end_to_end/cli.rs has other users try.
        }
        let machine = Machine::new();
        machine.runs_once();
        machine.write("/etc/hs100d/cloud.password", "secret");
        assert_eq!(machine.service().unwrap().reach, Reach::Usable);
        let close = |path: &str| {
            fs::set_permissions(machine.path(path), fs::Permissions::from_mode(0o000)).unwrap();
        };
        close("/etc/hs100d/cloud.password");
        assert_eq!(machine.service().unwrap().reach, Reach::Locked);
        close("/var/lib/private");
        assert_eq!(machine.service().unwrap().reach, Reach::Locked);
        fs::set_permissions(machine.path("/var/lib/private"), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn it_runs_while_its_control_group_is_there_unless_that_is_ours() {
        let machine = Machine::new();
        machine.runs_once();
        machine.write("/proc/self/cgroup", "0::/user.slice/user-0.slice/session-1.scope\n");
        assert!(!machine.service().unwrap().is_running());
        machine.write("/sys/fs/cgroup/system.slice/hs100d.service/cgroup.procs", "1\n");
        assert!(machine.service().unwrap().is_running());
        machine.write("/proc/self/cgroup", "0::/system.slice/hs100d.service\n");
        assert!(!machine.service().unwrap().is_running());
    }
}
