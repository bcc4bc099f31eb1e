//! Runs the daemon's decisions through days or a year of faults on a simulated clock, and prints the first broken
//! promise with the events that led to it.
//!
//! cargo run --release --example chaos -- --seed 7 --days 365
//! cargo run --release --example chaos -- --storm --seeds 1-200 --days 0.25
//! cargo run --release --example chaos -- --storm --seeds 1-20000 --days 0.25 --keep-going
//! cargo run --release --example chaos -- --storm --seed 7 --days 1 --story plug-3 --sabotage AsksTwice
//! cargo run --release --example chaos -- --dead-lan --days 1
//!
//! The same seed gives the same run, so a broken promise can be repeated.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a run that cannot go on says so by a panic")]

#[path = "../tests/support/chaos/mod.rs"]
mod chaos_kit;

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chaos_kit::{Listener, Plan, Sabotage, Season, Tally, World};
use clap::Parser;

/// Runs the daemon's decisions through faults on a simulated clock.
#[derive(Parser)]
struct Args {
    /// Run this seed and print its story
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run all of these seeds, one per core at a time
    #[arg(long, value_name = "FIRST-LAST", value_parser = seeds)]
    seeds: Option<RangeInclusive<u64>>,
    /// Run all of the seeds even if one breaks a promise, and list each that does
    #[arg(long, requires = "seeds")]
    keep_going: bool,
    /// Days of simulated time
    #[arg(long, default_value_t = 1.0)]
    days: f64,
    /// The number of plugs
    #[arg(long, default_value_t = 100)]
    plugs: usize,
    /// A fault every few seconds instead of every hour, and default poll intervals
    #[arg(long)]
    storm: bool,
    /// No fault except that the LAN is down throughout
    #[arg(long, conflicts_with = "storm")]
    dead_lan: bool,
    /// What to print meanwhile: `house` (as for a single seed: the home as a whole), the name of a plug, `all` or
    /// `none`
    #[arg(long, value_parser = listener)]
    story: Option<Listener>,
    /// Break the daemon in this way, to check that the judge notices
    #[arg(long, value_parser = sabotage)]
    sabotage: Option<Sabotage>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let begun = Instant::now();
    let played = match &args.seeds {
        Some(seeds) => play_all(&args, seeds.clone()),
        None => play_one(&args),
    };
    let took = begun.elapsed();
    match played {
        Ok((runs, tally)) => {
            let years = args.days * runs as f64 / 365.0;
            println!(
                "{runs} run(s) of {} days, {years:.2} years in all, in {took:.1?}: no promise broken",
                args.days
            );
            print_tally(&tally);
            ExitCode::SUCCESS
        }
        Err(()) => ExitCode::FAILURE,
    }
}

fn play_one(args: &Args) -> Result<(u64, Tally), ()> {
    let mut world = World::new(plan(args, args.seed));
    let tally = world.play().map_err(|broken| complain(args, args.seed, &broken))?;
    Ok((1, tally))
}

fn play_all(args: &Args, seeds: RangeInclusive<u64>) -> Result<(u64, Tally), ()> {
    let next = AtomicU64::new(*seeds.start());
    let broke = AtomicBool::new(false);
    let sum = Mutex::new((0, Tally::default()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = broke.load(Ordering::Relaxed) && !args.keep_going;
                    if seed > *seeds.end() || is_over {
                        return;
                    }
                    match World::new(plan(args, seed)).play() {
                        Ok(tally) => {
                            let mut sum = sum.lock().expect("no thread panics with it");
                            sum.0 += 1;
                            sum.1 += tally;
                        }
                        Err(broken) => {
                            broke.store(true, Ordering::Relaxed);
                            complain(args, seed, &broken);
                        }
                    }
                }
            });
        }
    });
    if broke.into_inner() { Err(()) } else { Ok(sum.into_inner().expect("no thread panics with it")) }
}

fn plan(args: &Args, seed: u64) -> Plan {
    Plan {
        seed,
        lasts: Duration::from_secs_f64(args.days * 86_400.0),
        plugs: args.plugs,
        season: match (args.storm, args.dead_lan) {
            (true, _) => Season::Storm,
            (_, true) => Season::DeadLan,
            (false, false) => Season::Year,
        },
        sabotage: args.sabotage,
        listener: args.story.unwrap_or(if args.seeds.is_some() { Listener::Nobody } else { Listener::Home }),
    }
}

fn complain(args: &Args, seed: u64, broken: &chaos_kit::Broken) {
    let season = match (args.storm, args.dead_lan) {
        (true, _) => "--storm ",
        (_, true) => "--dead-lan ",
        (false, false) => "",
    };
    println!("seed {seed}: {broken}");
    let sabotage = args.sabotage.map(|sabotage| format!(" --sabotage {sabotage:?}")).unwrap_or_default();
    println!(
        "Again: cargo run --release --example chaos -- {season}--seed {seed} --days {} --plugs {}{sabotage}",
        args.days, args.plugs
    );
}

fn print_tally(tally: &Tally) {
    let Tally { turns, exchanges, commands, done, failed, superseded, .. } = tally;
    println!("  {turns} turns of the loop, {exchanges} exchanges with plugs");
    println!("  {commands} commands: {done} done, {failed} failed in their time, {superseded} superseded");
    println!(
        "  {} switchings, {} by hand, {} late ones put right",
        tally.switchings, tally.hands, tally.corrections
    );
    println!(
        "  {} faults, {} kills of the daemon, {} rests in which all was right",
        tally.faults, tally.restarts, tally.rests
    );
    println!(
        "  {} changes of protocol, {} of owner, {} KLAP sessions taken",
        tally.flips, tally.owner_changes, tally.sessions_taken
    );
    println!(
        "  {} cloud calls, {} logins, {} messages to the broker",
        tally.cloud_calls, tally.logins, tally.messages
    );
}

fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
    Ok(number(first)?..=number(last)?)
}

fn sabotage(text: &str) -> Result<Sabotage, String> {
    let names: Vec<_> = Sabotage::ALL.iter().map(|(sabotage, _)| format!("{sabotage:?}")).collect();
    let place = names.iter().position(|name| name == text);
    place.map(|place| Sabotage::ALL[place].0).ok_or_else(|| format!("it is one of {}", names.join(", ")))
}

fn listener(text: &str) -> Result<Listener, String> {
    match text {
        "none" => Ok(Listener::Nobody),
        "house" => Ok(Listener::Home),
        "all" => Ok(Listener::All),
        plug => plug
            .strip_prefix("plug-")
            .and_then(|number| number.parse().ok())
            .map(Listener::Plug)
            .ok_or_else(|| format!("{plug} is none of house, all, none, plug-0 and so on")),
    }
}
