//! The large benchmarks: the real daemon, as a process, compared with programs that do only what is measured.
//!
//! ```text
//! cargo run --profile dist --example bench_house                       all of it, half an hour
//! cargo run --profile dist --example bench_house -- --quick            small and short: only shows that it works
//! cargo run --profile dist --example bench_house -- --only polls       one bench; --help names them
//! cargo run --profile dist --example bench_house -- --plugs 2000       fewer plugs than ten thousand
//! cargo run --profile dist --example bench_house -- --sizes            also builds the program without features
//! ```
//!
//! Prints its progress, and at the end the table of docs/PERFORMANCE.md. Absolute times depend on the machine and on
//! its load; what counts is the ratio to the yardstick, which is measured in the same run. A missed bound is not an
//! error of this program: it fails only if it could not measure something.

#[path = "../soak/broker.rs"]
#[allow(dead_code, reason = "the soak does more with it")]
mod broker;
mod commands;
mod costs;
mod failover;
mod figures;
mod klap;
mod klap_plug;
mod line;
mod plugs;
#[path = "../soak/process.rs"]
#[allow(dead_code, reason = "the soak does more with it")]
mod process;
mod stage;
mod traffic;
mod web;
mod yardsticks;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};

use self::figures::{Row, Table};
use self::process::Fault;

/// A line of progress.
pub(crate) type Say<'a> = &'a dyn Fn(&str);

/// The real daemon, measured from outside.
#[derive(Parser)]
struct Options {
    /// Small and short: shows that the benches work, not how fast the daemon is
    #[arg(long)]
    quick: bool,
    /// Only this one; may be given several times
    #[arg(long)]
    only: Vec<Bench>,
    /// The number of plugs of the large benches
    #[arg(long)]
    plugs: Option<usize>,
    /// Also build the daemon without broker and simulated home, and print its size
    #[arg(long)]
    sizes: bool,
    /// Measure this program instead of building one
    #[arg(long)]
    program: Option<PathBuf>,
    #[command(subcommand)]
    yardstick: Option<Yardstick>,
}

/// The parts that this program plays as a process of its own.
#[derive(Subcommand)]
enum Yardstick {
    #[command(hide = true)]
    BareChain { broker: u16, port: u16, plugs: usize },
    #[command(hide = true)]
    BarePoll { port: u16, plugs: usize, every_ms: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Publish to relay and to state, 100 plugs
    Command,
    /// The same while all plugs are polled
    CommandCrowd,
    /// One and half of 200 plugs silent
    Silent,
    /// Processor time per poll, 50/s over 100 plugs
    Polls,
    /// Processor time per poll over all plugs, each every 5 s
    PollsCrowd,
    /// Memory, and an idle daemon
    Memory,
    /// From exec until everything is published
    Start,
    /// 1,000 plugs at once
    Mass,
    /// LAN silent and refused
    Failover,
    /// The program's size
    Binary,
    /// Processor time per poll over KLAP, 50/s over 100 plugs, and over XOR
    KlapPolls,
    /// Publish to relay and to state over KLAP, and over XOR, 100 plugs of each
    KlapCommand,
    /// Memory of a plug that speaks KLAP, and of one that speaks XOR
    KlapMemory,
    /// From exec until 1,000 plugs that speak KLAP are published, and as many that speak XOR
    KlapStart,
    /// HTTP request to relay and to response, and publish to relay and to state, 100 plugs
    HttpCommand,
    /// Scrapes of the metrics, and how long the loop is busy with them
    HttpScrape,
    /// Memory and processor time with HTTP and without
    HttpIdle,
    /// Messages and bytes of 1,000 plugs at the broker, for docs/FLEET.md; takes eleven minutes
    Traffic,
}

/// The extent of the measurements.
pub(crate) struct Size {
    pub(crate) program: PathBuf,
    pub(crate) quick: bool,
    pub(crate) crowd: usize,
    pub(crate) build_small: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let ended = match options.yardstick {
        Some(Yardstick::BareChain { broker, port, plugs }) => yardsticks::chain(broker, port, plugs).await,
        Some(Yardstick::BarePoll { port, plugs, every_ms }) => {
            yardsticks::poll(port, plugs, Duration::from_millis(every_ms)).await
        }
        None => run(&options).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("the benches could not go on: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Fault> {
    let program = options.program.clone().map_or_else(process::program, Ok)?;
    let crowd = options.plugs.unwrap_or(if options.quick { 200 } else { 10_000 });
    let size = Size { program, quick: options.quick, crowd, build_small: options.sizes };
    let begun = Instant::now();
    let mut rows = Vec::new();
    for bench in Bench::value_variants() {
        if !options.only.is_empty() && !options.only.contains(bench) {
            continue;
        }
        let say = |line: &str| {
            let passed = begun.elapsed().as_secs();
            println!("{:>4}:{:02}  {bench:?}: {line}", passed / 60, passed % 60);
        };
        say("begins");
        let measured = measure(*bench, &size, &say).await.map_err(|fault| format!("{bench:?}: {fault}"))?;
        if measured.is_empty() {
            return Err(format!("{bench:?}: nothing was measured").into());
        }
        rows.extend(measured);
    }
    println!("\n{}", Table(&rows));
    let missed = rows.iter().filter(|row| row.kept == Some(false)).count();
    println!("{} figures, {missed} beyond their bound; {}", rows.len(), machine());
    Ok(())
}

async fn measure(bench: Bench, size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    match bench {
        Bench::Command => commands::latency(size, 100, say).await,
        Bench::CommandCrowd => commands::latency(size, size.crowd, say).await,
        Bench::Silent => commands::silent(size, say).await,
        Bench::Polls => costs::polls(size, 100, Duration::from_secs(2), say).await,
        Bench::PollsCrowd => costs::polls(size, size.crowd, Duration::from_secs(5), say).await,
        Bench::Memory => costs::memory_and_idle(size, say).await,
        Bench::Start => costs::start(size, say).await,
        Bench::Mass => commands::mass(size, say).await,
        Bench::Failover => failover::failover(size, say).await,
        Bench::Binary => costs::binary(size, say),
        Bench::KlapPolls => klap::polls(size, say).await,
        Bench::KlapCommand => klap::latency(size, say).await,
        Bench::KlapMemory => klap::memory(size, say).await,
        Bench::KlapStart => klap::start(size, say).await,
        Bench::HttpCommand => web::latency(size, say).await,
        Bench::HttpScrape => web::scrape(size, say).await,
        Bench::HttpIdle => web::idle(size, say).await,
        Bench::Traffic => traffic::traffic(size, say).await,
    }
}

/// The load of the machine, printed beside the table.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
    format!("{cores} cores, load {load}")
}
