//! Three RabbitMQ nodes: each in namespaces of its own (`tests/cluster/node.sh`), all at one bridge in ours.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::process::{Fault, Process};

/// The number of nodes.
pub(crate) const NODES: usize = 3;
/// All nodes.
pub(crate) const ALL: [usize; NODES] = [0, 1, 2];
/// The port of MQTT on each node.
pub(crate) const PORT: u16 = 1883;
/// The user of all clients.
pub(crate) const USER: &str = "fleet";
/// The longest that a node may take to start or to stop.
const BOUND: Duration = Duration::from_secs(120);
/// The longest that one attempt to connect may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The pause before a node that has ended by itself is started again.
const START_AGAIN: Duration = Duration::from_secs(2);
/// The most failed starts of a node in a run.
const FAILED_STARTS: u32 = 10;
/// Our end of the bridge.
const OURS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The first node; the others follow.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 11);
/// Erlang's own parts of a node. One thread, since three nodes and all sites share this machine. Nodes notice within
/// about ten seconds instead of a minute that another one is silent.
const ERLANG: &str = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel net_ticktime 10";

/// The nodes, and the bridge between them and us.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    tree: PathBuf,
    /// The file with the password of [`USER`].
    pub(crate) password_file: PathBuf,
    pub(crate) password: String,
}

struct Node {
    name: String,
    /// Holds the namespaces.
    home: Process,
    /// `None` while the node is down.
    server: Option<Process>,
    log: PathBuf,
    /// How often it ended by itself instead of accepting clients.
    failed_starts: u32,
}

impl Cluster {
    /// Starts all nodes, with new data in this folder, and waits until each accepts clients.
    pub(crate) async fn start(tree: &Path, folder: &Path) -> Result<Self, Fault> {
        // For chroot, which is called from other places.
        let tree = fs::canonicalize(tree).map_err(|error| format!("{}: {error}", tree.display()))?;
        let password = uuid::Uuid::new_v4().simple().to_string();
        let password_file = folder.join("mqtt.password");
        fs::write(&password_file, &password)?;
        fs::set_permissions(&password_file, Permissions::from_mode(0o600))?;
        ip("link add fleet type bridge")?;
        ip(&format!("address add {OURS}/24 dev fleet"))?;
        ip("link set fleet up")?;
        let mut cluster = Self { nodes: Vec::new(), tree, password_file, password };
        for number in 0..NODES {
            let node = cluster.make_home(number, folder)?;
            cluster.nodes.push(node);
        }
        for number in 0..NODES {
            cluster.begin(number)?;
        }
        cluster.are_up(&ALL).await?;
        Ok(cluster)
    }

    /// Kills a node: no farewell to clients or to other nodes.
    pub(crate) async fn kill(&mut self, node: usize) -> Result<(), Fault> {
        self.end(node, "KILL").await
    }

    /// Stops a node as its service would.
    pub(crate) async fn stop(&mut self, node: usize) -> Result<(), Fault> {
        self.end(node, "TERM").await
    }

    /// Starts a node that is down, without waiting.
    pub(crate) fn begin(&mut self, node: usize) -> Result<(), Fault> {
        let log = File::options().create(true).append(true).open(&self.nodes[node].log)?;
        let mut command = self.inside(node);
        command
            .env("RUNNING_UNDER_SYSTEMD", "1")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG)
            .arg("/usr/lib/rabbitmq/bin/rabbitmq-server")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.nodes[node].server = Some(Process(command.spawn()?));
        Ok(())
    }

    /// Waits until all these nodes accept clients. One that has ended by itself is started again.
    pub(crate) async fn are_up(&mut self, nodes: &[usize]) -> Result<(), Fault> {
        let by = Instant::now() + BOUND;
        loop {
            let mut are_up = true;
            for node in nodes {
                are_up &= self.tend(*node).await?;
            }
            if are_up {
                return Ok(());
            }
            if Instant::now() > by {
                return Err(
                    format!("not all nodes accept clients; see {}", self.nodes[0].log.display()).into()
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether a node accepts clients. A node that finds the others in the middle of their start may give up; its service
    /// would start it again.
    async fn tend(&mut self, node: usize) -> Result<bool, Fault> {
        let attempt = TcpStream::connect((address(node), PORT));
        if matches!(tokio::time::timeout(CONNECT_WITHIN, attempt).await, Ok(Ok(_))) {
            return Ok(true);
        }
        let Node { name, server, log, failed_starts, .. } = &mut self.nodes[node];
        let has_ended = match server {
            Some(Process(child)) => child.try_wait()?.is_some(),
            None => true,
        };
        if has_ended {
            *failed_starts += 1;
            if *failed_starts > FAILED_STARTS {
                let log = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{name} ends by itself again and again:\n{log}").into());
            }
            tokio::time::sleep(START_AGAIN).await;
            self.begin(node)?;
        }
        Ok(false)
    }

    /// Unplugs a node's cable, or plugs it in again. Nobody is told.
    pub(crate) fn unplug(&self, node: usize, is_unplugged: bool) -> Result<(), Fault> {
        ip(&format!("link set {} {}", cable(node), if is_unplugged { "down" } else { "up" }))
    }

    /// Cuts a node off from the other nodes, or ends that. Clients still reach it.
    pub(crate) fn cut_from_peers(&self, node: usize, is_cut: bool) -> Result<(), Fault> {
        let home = self.nodes[node].home.0.id();
        let verb = if is_cut { "add" } else { "delete" };
        for peer in (0..NODES).filter(|peer| *peer != node) {
            let words = format!("-t {home} -n ip route {verb} blackhole {}/32", address(peer));
            run(Command::new("nsenter").args(words.split(' ')))?;
        }
        Ok(())
    }

    /// Runs `rabbitmqctl` at a node, and returns what it prints.
    pub(crate) async fn control(&self, node: usize, words: &[&str]) -> Result<String, Fault> {
        let mut command = self.inside(node);
        command.arg("/usr/lib/rabbitmq/bin/rabbitmqctl").args(words).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("rabbitmqctl {}: {}: {said}", words.join(" "), output.status).into())
    }

    async fn end(&mut self, node: usize, signal: &str) -> Result<(), Fault> {
        let Some(mut server) = self.nodes[node].server.take() else { return Ok(()) };
        server.signal(signal)?;
        let ended = tokio::time::timeout(BOUND, server.ends()).await;
        ended.map_err(|_| format!("{} does not end", self.nodes[node].name))??;
        Ok(())
    }

    fn make_home(&self, number: usize, folder: &Path) -> Result<Node, Fault> {
        let name = name(number);
        let folder = folder.join(&name);
        for part in ["data", "log", "etc"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let cookie = folder.join("data/.erlang.cookie");
        fs::write(&cookie, &self.password)?;
        fs::set_permissions(&cookie, Permissions::from_mode(0o400))?;
        let hosts: String =
            (0..NODES).map(|node| format!("{} {}\n", address(node), self::name(node))).collect();
        fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{hosts}"))?;
        fs::write(folder.join("etc/enabled_plugins"), "[rabbitmq_mqtt].\n")?;
        let config = folder.join("etc/rabbitmq.conf");
        fs::write(&config, self.config())?;
        fs::set_permissions(&config, Permissions::from_mode(0o600))?;
        let mut home = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "tests/cluster/node.sh"])
            .args([&self.tree, &folder])
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        is_ready(&mut home).map_err(|fault| format!("{name}: {fault}"))?;
        let (pid, cable) = (home.id(), cable(number));
        let home = Process(home);
        ip(&format!("link add {cable} type veth peer name eth0 netns {pid}"))?;
        ip(&format!("link set {cable} master fleet up"))?;
        for words in [format!("address add {}/24 dev eth0", address(number)), "link set eth0 up".to_owned()] {
            let words = format!("-t {pid} -n ip {words}");
            run(Command::new("nsenter").args(words.split(' ')))?;
        }
        Ok(Node { name, home, server: None, log: folder.join("out"), failed_starts: 0 })
    }

    fn config(&self) -> String {
        let mut config: String = (0..NODES)
            .map(|node| {
                format!("cluster_formation.classic_config.nodes.{} = rabbit@{}\n", node + 1, name(node))
            })
            .collect();
        config.push_str(&format!(
            "cluster_formation.peer_discovery_backend = classic_config\n\
             cluster_partition_handling = pause_minority\n\
             default_user = {USER}\n\
             default_pass = {}\n\
             default_permissions.configure = .*\n\
             default_permissions.read = .*\n\
             default_permissions.write = .*\n\
             listeners.tcp = none\n\
             mqtt.listeners.tcp.default = {PORT}\n\
             mqtt.allow_anonymous = false\n\
             anonymous_login_user = none\n\
             vm_memory_high_watermark.absolute = 1GB\n\
             disk_free_limit.absolute = 50MB\n\
             log.file.level = info\n",
            self.password
        ));
        config
    }

    /// A command that runs in a node's namespaces, in its tree, as its user.
    fn inside(&self, node: usize) -> Command {
        let Node { name, home, .. } = &self.nodes[node];
        let mut command = Command::new("nsenter");
        command
            .env_clear()
            .env("HOME", "/var/lib/rabbitmq")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("RABBITMQ_NODENAME", format!("rabbit@{name}"))
            .args(["-t", &home.0.id().to_string(), "-n", "-m", "-u", "chroot"])
            .arg(&self.tree)
            .args(["setpriv", "--reuid=rabbitmq", "--regid=rabbitmq", "--clear-groups"]);
        command
    }
}

/// The address of a node.
pub(crate) fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + node as u32)
}

/// The name of a node.
pub(crate) fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

/// Our end of a node's cable.
fn cable(node: usize) -> String {
    format!("to-{}", name(node))
}

fn is_ready(home: &mut Child) -> Result<(), Fault> {
    let out = home.stdout.take().ok_or("its output is piped")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    if line == "ready\n" { Ok(()) } else { Err("its namespaces cannot be made".into()) }
}

fn ip(words: &str) -> Result<(), Fault> {
    run(Command::new("ip").args(words.split(' ')))
}

fn run(command: &mut Command) -> Result<(), Fault> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
