//! 11. What one site sends to its broker, and what the broker retains of it: the figures of docs/FLEET.md.
//!
//! The daemon connects through a [`Meter`], which counts the bytes and publishes of MQTT in both directions. Headers of TCP, IP
//! and TLS are not among them.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use super::costs::USUAL_POLL;
use super::figures::{Row, short};
use super::line::{Heard, Line};
use super::plugs;
use super::process::Fault;
use super::stage::{BOUND, Stage, pass};
use super::{Say, Size};

/// After this time without a message everything is published.
const QUIET: Duration = Duration::from_secs(4);
const PUBLISH: u8 = 3;
const A_DAY: f64 = 86_400.0;

/// What passed in one direction.
#[derive(Default)]
struct Direction {
    bytes: AtomicU64,
    publishes: AtomicU64,
}

#[derive(Default)]
struct Counts {
    up: Direction,
    down: Direction,
    cut: Notify,
}

/// A proxy before the broker that counts.
struct Meter {
    port: u16,
    counts: Arc<Counts>,
}

/// The counts at one moment, or between two: bytes and publishes.
#[derive(Clone, Copy)]
struct Seen {
    up: [f64; 2],
    down: [f64; 2],
}

impl Meter {
    async fn start(broker: u16) -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let meter = Self { port: listener.local_addr()?.port(), counts: Arc::default() };
        let counts = Arc::clone(&meter.counts);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, broker, Arc::clone(&counts)));
            }
        });
        Ok(meter)
    }

    fn seen(&self) -> Seen {
        let of = |direction: &Direction| {
            [&direction.bytes, &direction.publishes].map(|count| count.load(Ordering::Relaxed) as f64)
        };
        Seen { up: of(&self.counts.up), down: of(&self.counts.down) }
    }

    /// Waits until nothing was published for a while. Returns when the last message passed.
    async fn is_quiet(&self) -> Result<Instant, Fault> {
        let by = Instant::now() + 3 * BOUND;
        let mut last = (self.seen().up[1], Instant::now());
        while last.1.elapsed() < QUIET {
            if Instant::now() > by {
                return Err("the daemon does not stop publishing".into());
            }
            pass(Duration::from_millis(20)).await;
            let published = self.seen().up[1];
            if published > last.0 {
                last = (published, Instant::now());
            }
        }
        Ok(last.1)
    }
}

impl Seen {
    fn since(&self, before: &Self) -> Self {
        let less = |now: [f64; 2], before: [f64; 2]| std::array::from_fn(|n| now[n] - before[n]);
        Self { up: less(self.up, before.up), down: less(self.down, before.down) }
    }

    /// Bytes in both directions.
    fn bytes(&self) -> f64 {
        self.up[0] + self.down[0]
    }

    fn text(&self, by: f64) -> String {
        let [up, down] = [self.up, self.down].map(|counts| counts.map(|count| short(count / by)));
        format!("up {} messages in {} B, down {} in {} B", up[1], up[0], down[1], down[0])
    }
}

/// Carries one connection until one side closes it or it is cut.
async fn carry(near: TcpStream, broker: u16, counts: Arc<Counts>) -> io::Result<()> {
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((from_daemon, to_daemon), (from_broker, to_broker)) = (near.into_split(), far.into_split());
    tokio::select! {
        done = pass_on(from_daemon, to_broker, &counts.up) => done,
        done = pass_on(from_broker, to_daemon, &counts.down) => done,
        () = counts.cut.notified() => Ok(()),
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, counts: &Direction) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(64 * 1024);
    // Bytes of a packet that is still on its way.
    let mut missing = 0;
    loop {
        let known = buffer.len();
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        to.write_all(&buffer[known..]).await?;
        counts.bytes.fetch_add((buffer.len() - known) as u64, Ordering::Relaxed);
        loop {
            let skipped = missing.min(buffer.len());
            buffer.drain(..skipped);
            missing -= skipped;
            let Some(length) = packet_length(&buffer) else { break };
            counts.publishes.fetch_add(u64::from(buffer[0] >> 4 == PUBLISH), Ordering::Relaxed);
            missing = length;
        }
    }
}

/// The length of the packet that begins here, with its header; `None` until that is known.
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (place, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 127) << (7 * place);
        if *byte < 128 {
            return Some(2 + place + length);
        }
    }
    None
}

/// Number and bytes (topic and payload) of what the broker retains, by the last part of the topic.
async fn retained(broker: u16) -> Result<HashMap<String, (f64, f64)>, Fault> {
    let (tell, mut heard) = mpsc::unbounded_channel();
    let _line = Line::connect(broker, &["hs100d/#", "homeassistant/#"], tell)?;
    let mut found = HashMap::new();
    while let Ok(Some(Heard { topic, payload, kept, .. })) =
        tokio::time::timeout(Duration::from_secs(1), heard.recv()).await
    {
        if kept {
            let kind = topic.rsplit('/').next().unwrap_or_default().to_owned();
            let (count, bytes) = found.entry(kind).or_insert((0.0, 0.0));
            *count += 1.0;
            *bytes += (topic.len() + payload.len()) as f64;
        }
    }
    Ok(found)
}

pub(crate) async fn traffic(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let count = if size.quick { 50 } else { 1000 };
    let lasts = Duration::from_secs(if size.quick { 3 } else { 300 });
    let by_plug = count as f64;
    let mut stage = Stage::set(&size.program, count).await?;
    let meter = Meter::start(stage.broker.port).await?;
    let url = |port| format!("mqtt://127.0.0.1:{port}\"");
    let config = stage.config(count, USUAL_POLL).replace(&url(stage.broker.port), &url(meter.port));
    let mut rows = Vec::new();
    let mut add = |what: &str, text: String| {
        say(&format!("{what}: {text}"));
        rows.push(Row::unbounded(format!("11. {what}"), text));
    };

    let daemon = stage.daemon(&config)?;
    stage.all_shown(count, &daemon).await?;
    meter.is_quiet().await?;
    add(&format!("the first start, {count} plugs, a plug"), meter.seen().text(by_plug));

    let before = meter.seen();
    let cut_at = Instant::now();
    meter.counts.cut.notify_waiters();
    let took = meter.is_quiet().await? - cut_at;
    let again = meter.seen().since(&before);
    add(
        "a new connection, a plug",
        format!("{} within {} s", again.text(by_plug), short(took.as_secs_f64())),
    );

    let found = retained(stage.broker.port).await?;
    let mut kinds: Vec<_> = found.iter().collect();
    kinds.sort_by_key(|(kind, _)| kind.as_str());
    for (kind, (number, bytes)) in &kinds {
        add(
            &format!("retained: {kind}"),
            format!("{} a plug, {} B each", short(number / by_plug), short(bytes / number)),
        );
    }

    let before = meter.seen();
    pass(lasts).await;
    let rest = meter.seen().since(&before);
    let days = lasts.as_secs_f64() / A_DAY;
    add("a day of a site in which nothing changes", format!("{} B", short(rest.bytes() / days)));

    stage.plugs.set_restless(true);
    let before = meter.seen();
    pass(lasts).await;
    let restless = meter.seen().since(&before);
    stage.plugs.set_restless(false);
    add("a day of a plug whose signal always changes", restless.text(by_plug * days));
    meter.is_quiet().await?;

    // Each plug is switched on and off again.
    let switched = count.min(200);
    let before = meter.seen();
    for plug in 0..switched {
        for payload in ["ON", "OFF"] {
            stage.clear();
            stage.line.publish(&format!("hs100d/{}/set", plugs::name(plug)), payload)?;
            let result = format!("hs100d/{}/result", plugs::name(plug));
            let answered = async {
                while let Some(heard) = stage.heard.recv().await {
                    if heard.topic == result {
                        return Ok(());
                    }
                }
                Err("the broker is gone")
            };
            tokio::time::timeout(BOUND, answered).await.map_err(|_| "a command has no result")??;
        }
    }
    meter.is_quiet().await?;
    add("a command", meter.seen().since(&before).text(2.0 * switched as f64));
    daemon.stop().await?;
    Ok(rows)
}
