//! Whether this process is in a container with a network of its own, which broadcasts do not leave.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The files that container engines create in each container.
const MARKERS: [&str; 2] = [".dockerenv", "run/.containerenv"];
/// Where the kernel lists the interfaces of the namespace in which it was mounted.
const INTERFACES: &str = "sys/class/net";
/// What systemd-detect-virt reads too: podman sets it, and any engine's user may.
const ENGINE: &str = "container";
const ENGINES: [&str; 3] = ["docker", "oci", "podman"];
/// Set in each container of Kubernetes, whose engines leave no marker.
const KUBERNETES: &str = "KUBERNETES_SERVICE_HOST";

/// What tells a container from a machine, and its network from the host's.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    root: PathBuf,
    is_container: bool,
}

impl Surroundings {
    pub(super) fn of_this_process() -> Self {
        Self::new(PathBuf::from("/"), |name| std::env::var_os(name))
    }

    fn new(root: PathBuf, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let is_named = variable(ENGINE).is_some_and(|engine| ENGINES.iter().any(|it| engine == *it));
        let is_marked = || MARKERS.iter().any(|marker| root.join(marker).exists());
        let is_container = is_named || variable(KUBERNETES).is_some() || is_marked();
        Self { root, is_container }
    }

    /// The interfaces of a container's own network. `None` outside of a container, with the host's network, and
    /// wherever that cannot be told: LXC and systemd-nspawn are usually bridged to the LAN, and so is macvlan.
    ///
    /// `addressed` are the interfaces with an address now.
    pub(super) fn own_network(&self, addressed: &[String]) -> Option<Vec<String>> {
        if !self.is_container {
            return None;
        }
        let folder = self.root.join(INTERFACES);
        let entries = fs::read_dir(&folder).ok()?;
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        // A list that was mounted in another namespace says nothing about ours.
        if !addressed.iter().all(|name| names.contains(name)) {
            return None;
        }
        names.retain(|name| name != "lo");
        names.iter().all(|name| is_of_a_container(&folder.join(name))).then_some(names)
    }
}

/// Whether an engine makes such an interface for a container: one end of a virtual cable, or a tap device. Hardware, a
/// bridge and the like show that the network is the host's; macvlan and ipvlan reach the LAN.
fn is_of_a_container(interface: &Path) -> bool {
    // What may not be looked at may be hardware.
    let is_absent = |entry: &str| {
        let found = interface.join(entry).symlink_metadata();
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let Ok(about) = fs::read_to_string(interface.join("uevent")) else { return false };
    let kind = about.lines().find_map(|line| line.strip_prefix("DEVTYPE="));
    is_absent("device") && is_absent("bridge") && matches!(kind, None | Some("wireguard"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's files.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(files: &[(&str, &str)]) -> Self {
            let empty = Self(tempfile::tempdir().unwrap());
            files.iter().fold(empty, |machine, (path, text)| machine.with(path, text))
        }

        fn with(self, path: &str, text: &str) -> Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn own_network(&self, addressed: &[&str]) -> Option<String> {
            self.own_network_with(("", ""), addressed)
        }

        /// The same with this variable in the environment.
        fn own_network_with(&self, variable: (&str, &str), addressed: &[&str]) -> Option<String> {
            let value = |name: &str| (name == variable.0).then(|| variable.1.into());
            let addressed: Vec<_> = addressed.iter().map(ToString::to_string).collect();
            let names = Surroundings::new(self.0.path().to_owned(), value).own_network(&addressed);
            names.map(|names| names.join(" "))
        }
    }

    const LOOPBACK: (&str, &str) = ("sys/class/net/lo/uevent", "INTERFACE=lo\nIFINDEX=1\n");
    const CABLE: (&str, &str) = ("sys/class/net/eth0/uevent", "INTERFACE=eth0\nIFINDEX=2\n");

    #[test]
    fn a_virtual_cable_is_a_containers_own_network_only_where_an_engine_left_its_mark() {
        let bridged = || Machine::new(&[LOOPBACK, CABLE]);
        assert_eq!(bridged().own_network(&["lo", "eth0"]), None, "no container");
        for marker in MARKERS {
            assert_eq!(bridged().with(marker, "").own_network(&["lo", "eth0"]).as_deref(), Some("eth0"));
        }
        for (engine, expected) in [
            ("podman", Some("eth0")),
            ("oci", Some("eth0")),
            ("docker", Some("eth0")),
            // Bridged to the LAN as a rule.
            ("lxc", None),
            ("systemd-nspawn", None),
            ("", None),
        ] {
            let found = bridged().own_network_with((ENGINE, engine), &["lo", "eth0"]);
            assert_eq!(found.as_deref(), expected, "{engine}");
        }
        let found = bridged().own_network_with((KUBERNETES, "10.96.0.1"), &["lo", "eth0"]);
        assert_eq!(found.as_deref(), Some("eth0"));
    }

    #[test]
    fn a_container_with_loopback_only_or_a_tunnel_has_a_network_of_its_own_too() {
        let container = || Machine::new(&[(MARKERS[0], ""), LOOPBACK]);
        assert_eq!(container().own_network(&["lo"]).as_deref(), Some(""));
        let tunnel = ("sys/class/net/wg0/uevent", "DEVTYPE=wireguard\nINTERFACE=wg0\n");
        let machine = container().with(CABLE.0, CABLE.1).with(tunnel.0, tunnel.1);
        assert_eq!(machine.own_network(&["lo", "eth0", "wg0"]).as_deref(), Some("eth0 wg0"));
    }

    #[test]
    fn hardware_a_bridge_or_macvlan_show_that_the_lan_may_be_reached() {
        let container = || Machine::new(&[(MARKERS[0], ""), LOOPBACK, CABLE]);
        for (path, text) in [
            ("sys/class/net/enp1s0/device/vendor", "0x8086\n"),
            ("sys/class/net/docker0/bridge/bridge_id", "8000.024200000000\n"),
            ("sys/class/net/eth1/uevent", "DEVTYPE=macvlan\nINTERFACE=eth1\n"),
            ("sys/class/net/eth1/uevent", "DEVTYPE=ipvlan\nINTERFACE=eth1\n"),
            ("sys/class/net/bond0/uevent", "DEVTYPE=bond\nINTERFACE=bond0\n"),
            // What says nothing of itself.
            ("sys/class/net/eth1/address", "02:42:ac:11:00:02\n"),
        ] {
            let mut machine = container().with(path, text);
            if path.contains("/device/") || path.contains("/bridge/") {
                let interface = path.rsplitn(3, '/').last().unwrap();
                machine = machine.with(&format!("{interface}/uevent"), "IFINDEX=3\n");
            }
            assert_eq!(machine.own_network(&["lo", "eth0"]), None, "{path}");
        }
    }

    #[test]
    fn a_list_of_interfaces_that_is_missing_or_of_another_namespace_says_nothing() {
        let without = Machine::new(&[(MARKERS[0], "")]);
        assert_eq!(without.own_network(&["lo", "eth0"]), None);
        let others = Machine::new(&[(MARKERS[0], ""), LOOPBACK, CABLE]);
        assert_eq!(others.own_network(&["lo", "tap0"]), None);
    }
}
