//! 9. KLAP, compared with XOR in the same run: processor time, commands, memory, start.

use std::time::Duration;

use hs100d::model::LanProtocol;

use super::commands::{self, Latency, ROUNDS, settling};
use super::costs::{self, USUAL_POLL, start_once};
use super::figures::{Row, Samples, short};
use super::process::Fault;
use super::stage::{self, Stage, pass};
use super::{Say, Size};

/// Plugs of each protocol, where not their number is measured.
const PLUGS: usize = 100;
/// The two protocols alternate this often where each needs a daemon of its own.
const DAEMONS: usize = 3;
/// Of a further plug, in kB, more than one that speaks XOR.
const MORE_MEMORY: f64 = 3.0;

/// What was measured of plugs of each protocol.
struct Pair<T> {
    xor: T,
    klap: T,
}

impl<T> Pair<T> {
    fn by_protocol(&mut self) -> [(LanProtocol, &mut T); 2] {
        [(LanProtocol::Xor, &mut self.xor), (LanProtocol::Klap, &mut self.klap)]
    }
}

/// Plugs that all speak this protocol.
async fn stage_of(size: &Size, plugs: usize, protocol: LanProtocol) -> Result<Stage, Fault> {
    match protocol {
        LanProtocol::Xor => Stage::set(&size.program, plugs).await,
        LanProtocol::Klap => Stage::set_with_klap(&size.program, plugs, 0..plugs).await,
    }
}

/// Processor time per poll.
pub(crate) async fn polls(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let every = Duration::from_secs(2);
    let (rounds, lasts) = if size.quick { (1, 2) } else { (DAEMONS, 10) };
    let lasts = Duration::from_secs(lasts);
    let mut pair = Pair { xor: Samples::default(), klap: Samples::default() };
    let mut rate = 0.0;
    for _ in 0..rounds {
        for (protocol, samples) in pair.by_protocol() {
            let mut stage = stage_of(size, PLUGS, protocol).await?;
            let daemon = stage.daemon_with_all(every).await?;
            // The slow polls after the start.
            pass((every * 4).min(lasts)).await;
            let cost = costs::cost(&stage, &daemon.process, lasts).await?;
            samples.add(cost.cpu);
            rate = cost.rate;
            say(&format!(
                "{protocol:?}: {} us a poll, {} polls/s, {} polls a wake-up",
                short(cost.cpu),
                short(cost.rate),
                short(cost.per_wake_up)
            ));
            daemon.stop().await?;
        }
    }
    let what = format!("9. CPU per poll over KLAP, {PLUGS} plugs, {} polls/s", short(rate));
    Ok(vec![Row::against(what, pair.klap.percentile(50.0), pair.xor.percentile(50.0), 2.0, "us")])
}

/// Publish to relay and to state. One daemon serves both kinds of plugs, and commands to them alternate.
pub(crate) async fn latency(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let mut stage = Stage::set_with_klap(&size.program, 2 * PLUGS, PLUGS..2 * PLUGS).await?;
    let daemon = stage.daemon_with_all(USUAL_POLL).await?;
    pass(settling(size, 2 * PLUGS)).await;
    let count = if size.quick { 5 } else { 100 };
    let mut pair = Pair { xor: Latency::default(), klap: Latency::default() };
    for round in 0..=ROUNDS {
        // Not in the order of the polls.
        let any = |number: usize| ((round * count + number) * 7919 + 13) % PLUGS;
        for (protocol, latency) in pair.by_protocol() {
            let first = if protocol == LanProtocol::Klap { PLUGS } else { 0 };
            let measured =
                commands::measure(&mut stage, "hs100d", count, |number| first + any(number)).await?;
            // The first round is the warm-up.
            if round > 0 {
                latency.add(&measured);
            }
        }
    }
    daemon.stop().await?;
    let Pair { xor, klap } = pair;
    say(&format!("XOR: {}", xor.summary()));
    say(&format!("KLAP: {}", klap.summary()));
    let row = |name, percent, klap: &Samples, xor: &Samples, times: Option<f64>| {
        let what = format!("9. {name} p{percent} over KLAP, {PLUGS} plugs of each polled");
        let (klap, xor) = (klap.percentile(percent), xor.percentile(percent));
        match times {
            Some(times) => Row::against(what, klap, xor, times, "ms"),
            None => Row::beside(what, klap, xor, "ms"),
        }
    };
    Ok(vec![
        row("publish to relay", 50.0, &klap.relay, &xor.relay, Some(2.0)),
        row("publish to relay", 99.0, &klap.relay, &xor.relay, None),
        row("publish to state", 50.0, &klap.state, &xor.state, None),
        row("publish to state", 99.0, &klap.state, &xor.state, None),
        Row::at_most("9. commands lost over KLAP", klap.lost as f64, 0.0, ""),
    ])
}

/// Resident memory of a further plug.
pub(crate) async fn memory(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let many = size.crowd;
    let mut pair = Pair { xor: f64::NAN, klap: f64::NAN };
    for (protocol, further) in pair.by_protocol() {
        let mut resident = [f64::NAN; 2];
        for (plugs, resident) in [10, many].into_iter().zip(&mut resident) {
            let mut stage = stage_of(size, plugs, protocol).await?;
            let daemon = stage.daemon_with_all(USUAL_POLL).await?;
            pass(settling(size, plugs)).await;
            *resident = stage::memory(&daemon.process)?;
            daemon.stop().await?;
        }
        let [few, lots] = resident;
        *further = (lots - few) / (many - 10) as f64;
        say(&format!(
            "{protocol:?}: {few} kB with 10 plugs, {lots} kB with {many}, {} kB a further plug",
            short(*further)
        ));
    }
    let more = pair.klap - pair.xor;
    Ok(vec![Row {
        what: format!("9. each further plug over KLAP, of {many}"),
        measured: format!("{} kB", short(pair.klap)),
        yardstick: format!("{} kB", short(pair.xor)),
        bound: format!("{MORE_MEMORY} kB more, is {} kB", short(more)),
        kept: Some(more <= MORE_MEMORY),
    }])
}

/// From exec until every plug that the store knows was read and published.
pub(crate) async fn start(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let plugs = 1000.min(size.crowd);
    let mut stages =
        [stage_of(size, plugs, LanProtocol::Xor).await?, stage_of(size, plugs, LanProtocol::Klap).await?];
    for stage in &mut stages {
        // The first run completes the store.
        stage.daemon_with_all(USUAL_POLL).await?.stop().await?;
    }
    let (mut xor, mut klap) = (Samples::default(), Samples::default());
    for _ in 0..if size.quick { 1 } else { 5 } {
        for (stage, shown) in stages.iter_mut().zip([&mut xor, &mut klap]) {
            shown.add(start_once(stage).await?.shown.as_secs_f64());
        }
    }
    say(&format!("{plugs} plugs: all shown in s: XOR {}, KLAP {}", xor.summary(), klap.summary()));
    Ok(vec![Row {
        yardstick: format!("{} s", short(xor.percentile(50.0))),
        ..Row::at_most(
            format!("9. {plugs} known plugs read over KLAP and published"),
            klap.percentile(50.0),
            10.0,
            "s",
        )
    }])
}
