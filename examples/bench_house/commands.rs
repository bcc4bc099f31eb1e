//! Commands: the time from publish to relay and to the state that was read back, alone, among silent plugs, and many at
//! once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::figures::{Row, Samples, short};
use super::plugs::{self, Switched};
use super::process::Fault;
use super::stage::{BOUND, Stage, pass};
use super::{Say, Size};

/// A command whose state has not come by then is lost.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(5);
/// The yardstick and the daemon alternate this often.
pub(super) const ROUNDS: usize = 10;
/// The yardstick has connections to this many plugs, since more might exceed the limit for files. The daemon gets
/// commands to the same number of other plugs: plugs that rest longer are colder, in the kernel too.
const CHAINED: usize = 100;
/// Each plug has at least three slow polls; those of this many plugs are done in a second.
const SETTLED_A_SECOND: usize = 500;
/// In milliseconds, between two commands, so that each falls at another moment of the polls.
pub(super) const PAUSES: [u64; 5] = [3, 11, 5, 17, 8];

/// The outcomes of many commands; times in milliseconds.
#[derive(Default)]
pub(super) struct Latency {
    pub(super) relay: Samples,
    pub(super) state: Samples,
    pub(super) lost: usize,
}

impl Latency {
    pub(super) fn summary(&self) -> String {
        format!("relay {}, state {}, {} lost", self.relay.summary(), self.state.summary(), self.lost)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.relay.add_all(&other.relay);
        self.state.add_all(&other.state);
        self.lost += other.lost;
    }
}

/// Sends commands one by one; `plug_of` chooses the plug of each.
pub(super) async fn measure(
    stage: &mut Stage,
    base: &str,
    count: usize,
    plug_of: impl Fn(usize) -> usize,
) -> Result<Latency, Fault> {
    let mut latency = Latency::default();
    for number in 0..count {
        let plug = plug_of(number);
        let on = !stage.plugs.is_on(plug);
        stage.clear();
        let topic = format!("{base}/{}/set", plugs::name(plug));
        let sent = stage.line.publish(&topic, if on { "ON" } else { "OFF" })?;
        let state = format!("{base}/{}/state", plugs::name(plug));
        match outcome(stage, sent, (plug, on), &state).await {
            Some((relay, state)) => {
                latency.relay.add(millis(relay));
                latency.state.add(millis(state));
            }
            None => latency.lost += 1,
        }
        pass(Duration::from_millis(PAUSES[number % PAUSES.len()])).await;
    }
    Ok(latency)
}

async fn outcome(
    stage: &mut Stage,
    sent: Instant,
    wanted: (usize, bool),
    topic: &str,
) -> Option<(Duration, Duration)> {
    let by = (sent + LOST_AFTER).into();
    let word = format!(r#""state":"{}""#, if wanted.1 { "ON" } else { "OFF" });
    let relay = loop {
        let Switched { plug, on, at } = timeout_at(by, stage.switched.recv()).await.ok()??;
        if (plug, on) == wanted {
            break at;
        }
    };
    loop {
        let heard = timeout_at(by, stage.heard.recv()).await.ok()??;
        if heard.topic == topic && String::from_utf8_lossy(&heard.payload).contains(&word) {
            return Some((relay - sent, heard.at - sent));
        }
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// 1. Publish to relay and publish to state, compared with the bare chain, while this many plugs are polled.
///
/// Both alternate within the same minute, so that the machine is equally awake and busy for both.
pub(crate) async fn latency(size: &Size, plugs: usize, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let mut stage = Stage::set(&size.program, plugs).await?;
    // Each has its own plugs; otherwise one would change the state that the other expects.
    let chained = (plugs / 2).min(CHAINED);
    let chain = stage.bare_chain(chained).await?;
    let daemon = stage.daemon_with_all(Duration::from_secs(5)).await?;
    pass(settling(size, plugs)).await;
    let count = if size.quick { 5 } else { 100 };
    let (mut ours, mut bare) = (Latency::default(), Latency::default());
    for round in 0..=ROUNDS {
        // Not in the order of the polls.
        let any = |number: usize| (round * count + number) * 7919 + 13;
        let own_plug = |number| chained + any(number) % chained * (plugs / chained - 1);
        let own = measure(&mut stage, "hs100d", count, own_plug).await?;
        let other = measure(&mut stage, "bare", count, |number| any(number) % chained).await?;
        // The first round is the warm-up.
        if round > 0 {
            ours.add(&own);
            bare.add(&other);
        }
    }
    say(&format!("bare chain: {}", bare.summary()));
    say(&format!("hs100d, {plugs} plugs polled: {}", ours.summary()));
    drop(chain);
    daemon.stop().await?;
    // A state takes three hops to the relay and three back, so it cannot come in less than about twice the relay's
    // time. The yardstick is the bare chain's own state; with a second round trip to the plug it would take 1.34 times
    // that.
    let row = |what: &str, ours: &Samples, bare: &Samples, percent, times| {
        let what = format!("1. {what} p{percent}, {plugs} plugs polled");
        Row::against(what, ours.percentile(percent), bare.percentile(percent), times, "ms")
    };
    Ok(vec![
        row("publish to relay", &ours.relay, &bare.relay, 50.0, 1.2),
        row("publish to relay", &ours.relay, &bare.relay, 99.0, 1.5),
        row("publish to state", &ours.state, &bare.state, 50.0, 1.25),
        row("publish to state", &ours.state, &bare.state, 99.0, 2.0),
        Row::at_most(format!("1. commands lost, {plugs} plugs polled"), ours.lost as f64, 0.0, ""),
    ])
}

/// The time of the slow polls of the first round.
pub(super) fn settling(size: &Size, plugs: usize) -> Duration {
    Duration::from_secs(if size.quick { 1 } else { 6 + plugs / SETTLED_A_SECOND } as u64)
}

/// 2. Commands to the others, and the age of their states, while none, one, or half of 200 plugs are silent.
pub(crate) async fn silent(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    const PLUGS: usize = 200;
    let mut stage = Stage::set(&size.program, PLUGS).await?;
    let daemon = stage.daemon_with_all(Duration::from_secs(5)).await?;
    let count = if size.quick { 20 } else { 400 };
    let settle = Duration::from_secs(if size.quick { 2 } else { 12 });
    let mut rows = Vec::new();
    let mut calm = None;
    for silent in [0, 1, PLUGS / 2] {
        (0..silent).for_each(|plug| stage.plugs.set_silent(plug, true));
        // The polls right after the change still wait for the plug.
        let noted = Instant::now();
        stage.plugs.note_gaps();
        let others = |number: usize| silent + (number * 7919 + 13) % (PLUGS - silent);
        let mut latency = Latency::default();
        if silent == 0 {
            latency.add(&measure(&mut stage, "hs100d", count, others).await?);
        } else {
            for number in 0..count {
                let to_silent = format!("hs100d/{}/set", plugs::name(number % silent));
                stage.line.publish(&to_silent, "ON")?;
                latency.add(&measure(&mut stage, "hs100d", 1, |_| others(number)).await?);
            }
        }
        pass(settle.saturating_sub(noted.elapsed())).await;
        let age = Samples::from(stage.plugs.gaps());
        say(&format!("{silent} of {PLUGS} silent: {}; age {}", latency.summary(), age.summary()));
        let (relay, oldest) = (latency.relay.percentile(99.0), age.percentile(99.0));
        let Some((calm_relay, calm_oldest)) = calm else {
            calm = Some((relay, oldest));
            continue;
        };
        let what = format!("2. publish to relay p99 of the others, {silent} of {PLUGS} silent");
        rows.push(Row::against(what, relay, calm_relay, 1.5, "ms"));
        let what = format!("2. age of the others' states p99, {silent} of {PLUGS} silent");
        rows.push(Row::against(what, oldest, calm_oldest, 1.1, "ms"));
    }
    daemon.stop().await?;
    Ok(rows)
}

/// 6. Each of 1,000 plugs is switched, by commands within 10 ms.
pub(crate) async fn mass(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let plugs = if size.quick { 100 } else { 1000 };
    let mut stage = Stage::set(&size.program, plugs).await?;
    let daemon = stage.daemon_with_all(Duration::from_secs(5)).await?;
    pass(settling(size, plugs)).await;
    let mut rows = Vec::new();
    for (round, word) in ["ON", "OFF", "ON"].into_iter().enumerate() {
        stage.clear();
        let messages: Vec<_> =
            (0..plugs).map(|plug| (format!("hs100d/{}/set", plugs::name(plug)), word)).collect();
        let sent = stage.line.publish_all(&messages)?;
        let handed = sent.elapsed();
        let mut switched = HashMap::new();
        let by = (sent + LOST_AFTER).into();
        while switched.len() < plugs {
            match timeout_at(by, stage.switched.recv()).await {
                Ok(Some(seen)) => drop(switched.insert(seen.plug, seen.at)),
                _ => break,
            }
        }
        let last = switched.values().max().map_or(f64::NAN, |last| millis(*last - sent));
        let results = results(&mut stage, plugs, sent).await;
        say(&format!(
            "round {}: {} of {plugs} switched, the last after {} ms, {results} results; sent within {} ms",
            round + 1,
            switched.len(),
            short(last),
            short(millis(handed))
        ));
        let what = format!("6. the last of {plugs} switched at once, round {}", round + 1);
        rows.push(Row::at_most(what, last, 1000.0, "ms"));
        let lost = plugs - switched.len().min(results);
        rows.push(Row::at_most(format!("6. lost, round {}", round + 1), lost as f64, 0.0, ""));
    }
    daemon.stop().await?;
    Ok(rows)
}

/// Counts the commands that succeeded.
async fn results(stage: &mut Stage, wanted: usize, sent: Instant) -> usize {
    let by = (sent + BOUND.min(LOST_AFTER * 2)).into();
    let mut good = 0;
    while good < wanted {
        match timeout_at(by, stage.heard.recv()).await {
            Ok(Some(heard)) if heard.topic.ends_with("/result") => {
                good += usize::from(String::from_utf8_lossy(&heard.payload).contains(r#""ok""#));
            }
            Ok(Some(_)) => {}
            _ => break,
        }
    }
    good
}
