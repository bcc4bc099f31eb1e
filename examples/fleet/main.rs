//! Many sites at a broker cluster: real daemons with simulated plugs, three RabbitMQ nodes, and their failures.
//!
//! ```text
//! tests/cluster/run.sh                               60 sites of 50 plugs, all failures
//! tests/cluster/run.sh --sites 6 --plugs 5           small
//! tests/cluster/run.sh --only kill                   one failure; --help names them
//! ```
//!
//! The script makes the namespaces in which this runs; nothing leaves them. At the end it prints the table of
//! docs/FLEET.md. Exit code 1 if a promise is broken.

mod audit;
mod cases;
mod client;
mod cluster;
mod facts;
#[path = "../bench_house/klap_plug.rs"]
#[allow(dead_code, reason = "the benches do more with it")]
mod klap_plug;
mod ledger;
mod links;
#[path = "../bench_house/plugs.rs"]
#[allow(dead_code, reason = "the benches do more with it")]
mod plugs;
#[path = "../soak/process.rs"]
#[allow(dead_code, reason = "the soak does more with it")]
mod process;
mod raw;
mod report;
mod site;
mod timeline;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use tokio::sync::mpsc;

use self::cases::{Case, Outcome, Stage};
use self::client::{Book, Client};
use self::cluster::Cluster;
use self::links::LinkLog;
use self::plugs::Plugs;
use self::process::Fault;
use self::site::Sites;
use self::traffic::Traffic;

/// The longest that all sites may take to start.
const START_WITHIN: Duration = Duration::from_secs(180);

/// Many sites at a broker cluster, and its failures.
#[derive(Parser)]
struct Options {
    /// The number of sites, each a daemon
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=999))]
    sites: u16,
    /// The number of plugs of each site
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    plugs: u16,
    /// Commands a second, over all sites: 30, or as many as the plugs can take
    #[arg(long)]
    rate: Option<f64>,
    /// Only this failure; may be given several times
    #[arg(long)]
    only: Vec<Case>,
    /// Give each site one node instead of all three
    #[arg(long)]
    one_address: bool,
    /// The delay of the sites' last wills in seconds; 0 is what docs/FLEET.md advises for RabbitMQ
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=10))]
    will_delay: u8,
    /// Leave the nodes' metadata in Mnesia, RabbitMQ's older store, instead of the feature flag khepri_db
    #[arg(long)]
    mnesia: bool,
    /// Also with --only: ask the nodes what they do differently
    #[arg(long)]
    facts: bool,
    /// The tree with RabbitMQ
    #[arg(long, default_value = "target/cluster/tree")]
    tree: PathBuf,
    /// A new folder for data and logs
    #[arg(long, default_value = "target/cluster/run")]
    folder: PathBuf,
    /// This program instead of the one beside this
    #[arg(long)]
    program: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("the fleet could not go on: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Plays all failures; false if a promise is broken.
async fn run(options: &Options) -> Result<bool, Fault> {
    let begun = Instant::now();
    let say = |line: &str| {
        let passed = begun.elapsed().as_secs();
        println!("{:>3}:{:02}  {line}", passed / 60, passed % 60);
    };
    let mut stage = set(options, &say).await?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for case in Case::value_variants() {
        if !options.only.is_empty() && !options.only.contains(case) {
            continue;
        }
        say(&format!("{}: begins", case.title()));
        let outcome = stage.play(*case).await?;
        say(&report::line(&outcome));
        outcomes.push(outcome);
    }
    println!("\n{}", report::table(&outcomes, &stage.sites));
    let faults: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.faults).collect();
    faults.iter().for_each(|fault| eprintln!("BROKEN: {fault}"));
    Ok(faults.is_empty())
}

/// Starts everything, and waits until all sites are there.
async fn set(options: &Options, say: &dyn Fn(&str)) -> Result<Stage, Fault> {
    let begun = Instant::now();
    let program = options.program.clone().map_or_else(process::program, Ok)?;
    if options.folder.exists() {
        std::fs::remove_dir_all(&options.folder)?;
    }
    std::fs::create_dir_all(&options.folder)?;
    let folder = std::fs::canonicalize(&options.folder)?;
    let (sites, each) = (usize::from(options.sites), usize::from(options.plugs));
    let (tell, switched) = mpsc::unbounded_channel();
    let plugs = Arc::new(Plugs::start(sites * each, &(0..0), tell)?);
    let mut cluster = Cluster::start(&options.tree, &folder).await?;
    if !options.mnesia {
        cluster.control(0, &["enable_feature_flag", "--opt-in", "khepri_db"]).await?;
    }
    say("the cluster stands");
    if options.only.is_empty() || options.facts {
        println!("\n{}", facts::table(&facts::ask(&mut cluster).await?));
    }
    let book = Book::default();
    let links = LinkLog::default();
    let (senders, recorder) = client::crew(&cluster, &book, &links);
    // The nodes send what they retain to nobody who asks by wildcard: who hears everything comes first.
    while !(recorder.is_up() && senders.iter().all(Client::is_up)) {
        if begun.elapsed() > START_WITHIN {
            return Err("our own clients do not connect".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let begun = Instant::now();
    let mut sites = Sites::new(&program, &folder, sites, each, options.one_address);
    sites.will_delay = options.will_delay;
    sites.start(&cluster, &plugs)?;
    let (found, took) = audit::published(&sites, &plugs, &book, begun, START_WITHIN).await;
    if found.right < found.expected {
        let at_nodes = sites.links.at_nodes(sites.count);
        return Err(format!("{found:?} after the start, sites at the nodes: {at_nodes:?}").into());
    }
    say(&format!("{} sites are there after {took:.1?}, {} messages", sites.count, found.right));
    // A plug that owes a result gets no other command.
    let most = plugs.count() as f64 / (ledger::LIFE.as_secs_f64() + 1.0);
    let rate = options.rate.unwrap_or(30.0).min(most);
    let traffic = Traffic::start(senders, &sites, &plugs, switched, &book, rate);
    Ok(Stage { cluster, sites, plugs, book, traffic, recorder, senders: links })
}
