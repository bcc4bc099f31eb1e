//! A soak: the real daemon with many simulated plugs, under faults, for as long as you like.
//!
//! ```text
//! cargo run --release --example soak                          200 plugs, 20 minutes
//! cargo run --release --example soak -- --minutes 600         over night
//! cargo run --release --example soak -- --plugs 1000 --seed 7
//! ```
//!
//! It ends with exit code 0 only if, after all faults, the daemon's memory, descriptors, threads and tasks are as after
//! the first faults, each plug is shown as its relay is, and every command has a valid outcome. SIGUSR1 makes the
//! daemon write its figures to its log.

mod broker;
mod crowd;
#[path = "../../tests/support/chaos/dice.rs"]
#[allow(dead_code, unreachable_pub, reason = "the chaos throws them in other ways")]
mod dice;
mod ledger;
mod process;
mod stage;
mod weather;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use hs100d::sim::cloud::rule::Method;
use tokio::sync::watch;

use self::crowd::Sender;
use self::dice::Dice;
use self::process::{Fault, Figures, Size};
use self::stage::Stage;
use self::weather::Weather;

/// The number of clients that send commands.
const SENDERS: usize = 4;
/// The longest wait for the last results.
const RESULTS_WITHIN: Duration = Duration::from_secs(30);
/// The longest that the daemon may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// The real daemon with many simulated plugs, under faults.
#[derive(Parser)]
pub(crate) struct Options {
    /// How many minutes
    #[arg(long, default_value_t = 20.0)]
    pub(crate) minutes: f64,
    /// The number of devices; every twentieth is a strip of three outlets
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=2000))]
    pub(crate) plugs: u16,
    /// The same seed gives the same faults
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(report) if report.faults.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("the soak could not go on: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<Report, Fault> {
    let report = soak(options, &process::program()?, |line| println!("{line}")).await?;
    println!("\n{}", report.text);
    Ok(report)
}

/// The outcome of a soak.
pub(crate) struct Report {
    pub(crate) text: String,
    /// Everything that was wrong.
    pub(crate) faults: Vec<String>,
}

/// The schedule of a soak of this length.
struct Times {
    warm_up: Duration,
    quiet: Duration,
    storm: Duration,
    /// Between two lines of progress.
    line: Duration,
    /// The longest duration of a fault, and the mean time between two.
    longest: Duration,
    pace: Duration,
    /// The longest pause of a client.
    pause: Duration,
}

impl Times {
    fn of(minutes: f64) -> Self {
        let all = Duration::from_secs_f64(minutes.max(0.1) * 60.0);
        let warm_up = (all * 15 / 100).min(Duration::from_secs(120));
        let quiet = (all * 15 / 100).min(Duration::from_secs(60));
        Self {
            warm_up,
            quiet,
            storm: all - warm_up - 2 * quiet,
            line: (all / 40).clamp(Duration::from_secs(1), Duration::from_secs(60)),
            longest: (all / 20).clamp(Duration::from_secs(1), Duration::from_secs(25)),
            pace: (all / 40).clamp(Duration::from_millis(100), Duration::from_millis(400)),
            pause: (all / 40).clamp(Duration::from_millis(100), Duration::from_millis(500)),
        }
    }
}

/// The allowed difference between the first quiet time and the last.
struct Margin {
    /// kB of resident memory.
    memory: u64,
    descriptors: u64,
    threads: u64,
    tasks: u64,
}

/// Open connections to the cloud end by themselves after a while; each is a descriptor and a task. Threads that write
/// files or resolve names come and go. The allocator does not return all memory.
const MARGIN: Margin = Margin { memory: 4096, descriptors: 8, threads: 4, tasks: 8 };

/// Runs one soak, and passes its progress on line by line.
pub(crate) async fn soak(
    options: &Options,
    program: &Path,
    mut say: impl FnMut(String),
) -> Result<Report, Fault> {
    let times = Times::of(options.minutes);
    let mut dice = Dice::new(options.seed);
    let stage = Arc::new(Stage::set(program, options.plugs.into()).await?);
    let brand = stage.broker.lock().await.brand();
    say(format!(
        "{} devices, {} plugs in topics, {brand}, seed {}, {} minutes",
        options.plugs,
        stage.targets.len(),
        options.seed,
        options.minutes
    ));
    let (allow, may_send) = watch::channel(false);
    for number in 0..SENDERS {
        let (targets, book) = (Arc::clone(&stage.targets), stage.book.clone());
        let port = stage.broker.lock().await.port;
        let sender = Sender {
            number,
            port,
            targets,
            book,
            dice: dice.lend(),
            pause: times.pause,
            may_send: may_send.clone(),
        };
        tokio::spawn(sender.run());
    }
    let mut weather = Weather::new(Arc::clone(&stage), dice.lend(), times.longest, times.pace);
    let mut watcher = Watcher { stage: &stage, begun: Instant::now(), every: times.line, say: &mut say };

    stage.is_right().await?;
    allow.send_replace(true);
    watcher.during("warm-up", weather.storm(times.warm_up, false)).await?;
    allow.send_replace(false);
    let first = watcher.quiet(times.quiet).await?;
    allow.send_replace(true);
    watcher.during("storm", weather.storm(times.storm, true)).await?;
    allow.send_replace(false);
    let last = watcher.quiet(times.quiet).await?;

    let report = add_up(&stage, &weather, &first, &last);
    drop(weather);
    let mut stage = Arc::into_inner(stage).ok_or("a task still uses the stage")?;
    stage.daemon.stop(STOP_WITHIN).await?;
    Ok(report)
}

fn add_up(stage: &Stage, weather: &Weather, first: &Quiet, last: &Quiet) -> Report {
    let sum = stage.book.open().close();
    let mut faults = sum.faults.clone();
    if sum.unknown > 0 {
        faults.push(format!("{} results belong to no command", sum.unknown));
    }
    let growth = rows(first, last).into_iter().filter(|(_, first, last, margin)| *last > first + margin);
    faults.extend(growth.map(|(what, first, last, _)| format!("{what}: grew from {first} to {last}")));
    let said = stage.daemon.said();
    faults.extend(said.errors.iter().map(|line| format!("the daemon said: {line}")));
    let mut text = format!("what went wrong\n{}\n{sum}\n", weather.told());
    let cloud = stage.home.cloud();
    let outages = stage.book.open().outages();
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        text,
        "slowest return to the broker                  {:>8.1}s   ({outages} outages)\n\
         from the end of the storm until all was right {:>8.1}s\n\
         logins / refreshes / passthroughs at the cloud {} / {} / {}\n\n\
         {:<16}{:>14}{:>14}{:>10}",
        weather.slowest_return.as_secs_f64(),
        last.healed.as_secs_f64(),
        cloud.calls(Method::Login),
        cloud.calls(Method::RefreshToken),
        cloud.calls(Method::Passthrough),
        "",
        "first quiet",
        "last quiet",
        "margin",
    );
    for (what, first, last, margin) in rows(first, last) {
        let _ = writeln!(text, "{what:<16}{first:>14}{last:>14}{margin:>10}");
    }
    let verdict = if faults.is_empty() { "all of it held".to_owned() } else { faults.join("\n") };
    text.push_str(&verdict);
    Report { text, faults }
}

/// The lowest figures of a quiet time.
struct Quiet {
    size: Size,
    figures: Figures,
    /// The time until everything was shown correctly.
    healed: Duration,
}

type Row = (&'static str, u64, u64, u64);

fn rows(first: &Quiet, last: &Quiet) -> [Row; 4] {
    let Margin { memory, descriptors, threads, tasks } = MARGIN;
    [
        ("memory, kB", first.size.memory, last.size.memory, memory),
        ("descriptors", first.size.descriptors, last.size.descriptors, descriptors),
        ("threads", first.size.threads, last.size.threads, threads),
        ("tasks", first.figures.tasks, last.figures.tasks, tasks),
    ]
}

fn lowest_of(one: (Size, Figures), other: (Size, Figures)) -> (Size, Figures) {
    let size = Size {
        memory: one.0.memory.min(other.0.memory),
        descriptors: one.0.descriptors.min(other.0.descriptors),
        threads: one.0.threads.min(other.0.threads),
    };
    (size, Figures { tasks: one.1.tasks.min(other.1.tasks), ..other.1 })
}

/// Measures the daemon, and prints the progress.
struct Watcher<'a> {
    stage: &'a Stage,
    begun: Instant,
    every: Duration,
    say: &'a mut dyn FnMut(String),
}

impl Watcher<'_> {
    /// Prints the progress while a future runs.
    async fn during<T>(
        &mut self,
        what: &str,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(self.every);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => drop(self.measure(what).await?),
            }
        }
    }

    /// Waits until no command is open and everything is right, then for this long, and measures.
    async fn quiet(&mut self, lasts: Duration) -> Result<Quiet, Fault> {
        let (stage, begun) = (self.stage, Instant::now());
        while stage.book.open().open(Instant::now()) > 0 && begun.elapsed() < RESULTS_WITHIN {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stage.is_right().await?;
        let healed = begun.elapsed();
        let end = Instant::now() + lasts;
        let mut lowest = None;
        while lowest.is_none() || Instant::now() < end {
            tokio::time::sleep(self.every.min(lasts / 4)).await;
            let measured = self.measure("quiet").await?;
            // By the second half, effects of earlier faults are gone.
            if Instant::now() >= end - lasts / 2 {
                lowest = Some(lowest.map_or(measured, |lowest| lowest_of(lowest, measured)));
            }
        }
        stage.is_right().await?;
        let (size, figures) = lowest.unwrap_or_default();
        Ok(Quiet { size, figures, healed })
    }

    async fn measure(&mut self, what: &str) -> Result<(Size, Figures), Fault> {
        let (size, figures) = (self.stage.daemon.size()?, self.stage.daemon.figures().await?);
        let passed = self.begun.elapsed().as_secs();
        let commands = self.stage.book.open().sent();
        (self.say)(format!(
            "{:>4}:{:02}  {what:<8} {:>7} kB {:>5} descriptors {:>3} threads {:>5} tasks {:>4} exchanges \
             {:>5}/{} online {:>7} commands",
            passed / 60,
            passed % 60,
            size.memory,
            size.descriptors,
            size.threads,
            figures.tasks,
            figures.exchanges,
            figures.online,
            figures.plugs,
            commands,
        ));
        Ok((size, figures))
    }
}
