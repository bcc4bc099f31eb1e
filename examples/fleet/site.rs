//! The sites: processes of the real daemon, and when each was connected.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::cluster::{self, Cluster, NODES};
use super::links::LinkLog;
use super::plugs::{self, Plugs};
use super::process::{Fault, Process};

/// At debug each attempt to connect has a line.
const LEVELS: &str = "hs100d=info,hs100d::mqtt=debug,warn";

/// All sites, and what happened to their connections.
pub(crate) struct Sites {
    pub(crate) count: usize,
    /// The plugs of each.
    pub(crate) each: usize,
    /// Each knows one node instead of all.
    one_address: bool,
    /// In seconds.
    pub(crate) will_delay: u8,
    pub(crate) links: LinkLog,
    /// They end when this is dropped.
    processes: Vec<Process>,
    program: PathBuf,
    folder: PathBuf,
}

impl Sites {
    pub(crate) fn new(program: &Path, folder: &Path, count: usize, each: usize, one_address: bool) -> Self {
        Self {
            count,
            each,
            one_address,
            will_delay: 0,
            links: LinkLog::default(),
            processes: Vec::new(),
            program: program.to_owned(),
            folder: folder.to_owned(),
        }
    }

    /// Starts all of them.
    pub(crate) fn start(&mut self, cluster: &Cluster, plugs: &Plugs) -> Result<(), Fault> {
        for site in 0..self.count {
            let folder = self.folder.join(name(site));
            fs::create_dir_all(&folder)?;
            let config = folder.join("hs100d.toml");
            fs::write(&config, self.config(site, cluster, plugs))?;
            fs::set_permissions(&config, Permissions::from_mode(0o600))?;
            let process = self.spawn(site, &folder, &config)?;
            self.processes.push(process);
        }
        Ok(())
    }

    /// The plugs of a site.
    pub(crate) fn plugs(&self, site: usize) -> std::ops::Range<usize> {
        site * self.each..(site + 1) * self.each
    }

    fn config(&self, site: usize, cluster: &Cluster, plugs: &Plugs) -> String {
        let urls = match self.one_address {
            true => format!("\"{}\"", url(site % NODES)),
            false => format!("{:?}", (0..NODES).map(url).collect::<Vec<_>>()),
        };
        let mut text = format!(
            "[mqtt]\nurl = {urls}\nusername = \"{}\"\npassword_file = \"{}\"\nbase_topic = \"{}\"\nwill_delay = \"{}s\"\n\n\
             [http]\nenabled = false\n\n[discovery]\nlan = false\nadopt = false\n\n[local]\nport = {}\n",
            cluster::USER,
            cluster.password_file.display(),
            base(site),
            self.will_delay,
            plugs.port,
        );
        for plug in self.plugs(site) {
            text.push_str(&plugs::entry(plug));
        }
        text
    }

    fn spawn(&self, site: usize, folder: &Path, config: &Path) -> Result<Process, Fault> {
        let (process, log) = Process::daemon(&self.program, config, LEVELS)?;
        let (links, mut copy) = (self.links.clone(), File::create(folder.join("log"))?);
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((node, is_up)) = parse(&line) {
                    links.note(site, node, is_up);
                }
                // The copy is for whoever looks for a cause.
                let _ = writeln!(copy, "{line}");
            }
        });
        Ok(process)
    }
}

fn url(node: usize) -> String {
    format!("mqtt://{}", cluster::address(node))
}

/// The name of a site.
pub(crate) fn name(site: usize) -> String {
    format!("site-{site:03}")
}

/// The base topic of a site.
pub(crate) fn base(site: usize) -> String {
    format!("fleet/{}", name(site))
}

/// The node that a line of the log is about, and whether the site is connected to it; `None` for another line.
fn parse(line: &str) -> Option<(usize, bool)> {
    let (before, after) = line.split_once("the broker at ")?;
    let node = (0..NODES).find(|node| after.starts_with(&format!("{}:", cluster::address(*node))))?;
    // A refused message does not end the connection.
    let ends = !["it refuses the message", "it refuses more of our messages"]
        .iter()
        .any(|words| after.contains(words));
    ends.then(|| (node, before.ends_with("connected to ")))
}
