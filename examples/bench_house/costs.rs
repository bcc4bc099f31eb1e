//! The cost of the daemon without commands: processor time, memory, start time, size of the program.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::figures::{Row, Samples, short};
use super::process::{Fault, Process};
use super::stage::{Stage, cpu, memory, pass, waits};
use super::{Say, Size};

/// The daemon's default.
pub(super) const USUAL_POLL: Duration = Duration::from_secs(5);

/// The cost of polls.
pub(super) struct Cost {
    /// Microseconds of processor time per poll.
    pub(super) cpu: f64,
    /// Polls per wake-up.
    pub(super) per_wake_up: f64,
    pub(super) rate: f64,
}

pub(super) async fn cost(stage: &Stage, process: &Process, lasts: Duration) -> Result<Cost, Fault> {
    let before = (cpu(process)?, waits(process)?, stage.plugs.answered());
    pass(lasts).await;
    let polls = (stage.plugs.answered() - before.2) as f64;
    let woken = (waits(process)? - before.1) as f64;
    Ok(Cost {
        cpu: (cpu(process)? - before.0).as_secs_f64() * 1e6 / polls,
        per_wake_up: polls / woken.max(1.0),
        rate: polls / lasts.as_secs_f64(),
    })
}

/// 3. Processor time per poll, compared with the bare poll at the same rate, and polls in flight at once.
pub(crate) async fn polls(
    size: &Size,
    plugs: usize,
    every: Duration,
    say: Say<'_>,
) -> Result<Vec<Row>, Fault> {
    let mut stage = Stage::set(&size.program, plugs).await?;
    let lasts = Duration::from_secs(if size.quick { 2 } else { 20 });
    let tell = |who: &str, cost: &Cost| {
        say(&format!(
            "{who}: {} us a poll, {} polls/s, {} polls a wake-up",
            short(cost.cpu),
            short(cost.rate),
            short(cost.per_wake_up)
        ));
    };
    let bare = stage.bare_poll(every).await?;
    pass(every.min(lasts)).await;
    let bare_cost = cost(&stage, &bare, lasts).await?;
    tell("bare poll", &bare_cost);
    drop(bare);
    let daemon = stage.daemon_with_all(every).await?;
    // The slow polls of ten thousand plugs take several rounds.
    pass((every * 4).min(lasts)).await;
    let own_cost = cost(&stage, &daemon.process, lasts).await?;
    tell("hs100d", &own_cost);
    // The round-trip time of plugs on a Wi-Fi.
    stage.plugs.set_delay(Duration::from_millis(20));
    pass(lasts).await;
    let most = stage.plugs.most_in_flight();
    let mean = own_cost.rate * 0.02;
    say(&format!("with answers after 20 ms at most {most} polls are in flight, {} on average", short(mean)));
    let resident = memory(&daemon.process)?;
    daemon.stop().await?;
    let what = format!("{plugs} plugs, {} polls/s", short(bare_cost.rate));
    Ok(vec![
        Row::against(format!("3. CPU per poll, {what}"), own_cost.cpu, bare_cost.cpu, 1.0, "us"),
        Row::unbounded(format!("3. polls a wake-up, {what}"), short(own_cost.per_wake_up)),
        Row::unbounded(
            format!("3. most polls in flight with answers after 20 ms, {what}"),
            format!("{most} ({} on average)", short(mean)),
        ),
        Row::unbounded(format!("4. memory while {what}"), format!("{} MB", short(resident / 1000.0))),
    ])
}

/// 4. Resident memory with few and with many plugs, and processor time of an idle daemon.
pub(crate) async fn memory_and_idle(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let many = size.crowd;
    let lasts = Duration::from_secs(if size.quick { 3 } else { 30 });
    let (few_kb, idle) = {
        let mut stage = Stage::set(&size.program, 10).await?;
        let daemon = stage.daemon_with_all(USUAL_POLL).await?;
        pass(USUAL_POLL).await;
        let before = cpu(&daemon.process)?;
        pass(lasts).await;
        let idle = (cpu(&daemon.process)? - before).as_secs_f64() / lasts.as_secs_f64();
        let resident = memory(&daemon.process)?;
        daemon.stop().await?;
        (resident, idle * 100.0)
    };
    say(&format!("10 plugs: {few_kb} kB, {} % of a core", short(idle)));
    let many_kb = {
        let mut stage = Stage::set(&size.program, many).await?;
        let daemon = stage.daemon_with_all(USUAL_POLL).await?;
        pass(lasts / 2).await;
        let resident = memory(&daemon.process)?;
        daemon.stop().await?;
        resident
    };
    say(&format!("{many} plugs: {many_kb} kB"));
    let further = (many_kb - few_kb) / (many - 10) as f64;
    let mut rows = vec![
        Row::at_most("4. memory with 10 plugs", few_kb / 1000.0, 12.0, "MB"),
        Row::at_most(format!("4. each further plug, of {many}"), further, 4.0, "kB"),
        Row::at_most("4. idle with 10 plugs at 5 s", idle, 0.2, "% of a core"),
    ];
    if many == 10_000 {
        rows.push(Row::at_most("4. memory with 10,000 plugs", many_kb / 1000.0, 60.0, "MB"));
    }
    Ok(rows)
}

/// The times from exec of one daemon.
pub(super) struct Start {
    ready: Duration,
    pub(super) shown: Duration,
}

/// Starts the daemon, and stops it when it has published all plugs.
pub(super) async fn start_once(stage: &mut Stage) -> Result<Start, Fault> {
    let plugs = stage.plugs.count();
    stage.clear();
    let mut daemon = stage.daemon(&stage.config(plugs, USUAL_POLL))?;
    let ready = daemon.ready().await?;
    let shown = stage.all_shown(plugs, &daemon).await? - daemon.started;
    daemon.stop().await?;
    Ok(Start { ready, shown })
}

/// 5. From exec to `READY=1`, and until every known plug was read and published.
pub(crate) async fn start(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    let crowds = [(100, f64::NAN), (1000.min(size.crowd), 2.0), (size.crowd, 10.0)];
    for (plugs, bound) in crowds {
        let mut stage = Stage::set(&size.program, plugs).await?;
        // The first run writes the store.
        stage.daemon_with_all(USUAL_POLL).await?.stop().await?;
        let mut ready = Samples::default();
        let mut shown = Samples::default();
        for _ in 0..if size.quick || plugs > 1000 { 1 } else { 5 } {
            let started = start_once(&mut stage).await?;
            ready.add(started.ready.as_secs_f64() * 1000.0);
            shown.add(started.shown.as_secs_f64());
        }
        say(&format!("{plugs} plugs: ready in ms {}, all shown in s {}", ready.summary(), shown.summary()));
        let (ready, shown) = (ready.percentile(50.0), shown.percentile(50.0));
        let what = format!("5. exec to READY=1, {plugs} plugs and a store");
        rows.push(match plugs {
            100 => Row::at_most(what, ready, 50.0, "ms"),
            _ => Row::unbounded(what, format!("{} ms", short(ready))),
        });
        let what = format!("5. {plugs} known plugs read and published");
        rows.push(if bound.is_nan() {
            Row::unbounded(what, format!("{} s", short(shown)))
        } else {
            Row::at_most(what, shown, bound, "s")
        });
    }
    Ok(rows)
}

/// 8. The size of the program and, if requested, without broker and simulated home.
pub(crate) fn binary(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let megabytes = |path: &std::path::Path| fs::metadata(path).map(|file| file.len() as f64 / 1e6);
    let full = megabytes(&size.program)?;
    let mut rows = vec![Row::at_most("8. the program, all features", full, 13.0, "MB")];
    if size.build_small {
        say("building it without features");
        let folder = size.program.parent().and_then(|folder| folder.parent()).ok_or("no target folder")?;
        let small = folder.join("small");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // The profile of the package: the bound is about the installed program.
        let words =
            ["build", "--quiet", "--locked", "--profile", "dist", "--bin", "hs100d", "--no-default-features"];
        let built = Command::new(cargo).args(words).arg("--target-dir").arg(&small).status()?;
        if !built.success() {
            return Err("the daemon without features could not be built".into());
        }
        let bare = megabytes(&small.join("dist/hs100d"))?;
        rows.push(Row::at_most("8. without broker and simulated home", bare, 7.5, "MB"));
    }
    say(&format!("{} MB", short(full)));
    Ok(rows)
}
