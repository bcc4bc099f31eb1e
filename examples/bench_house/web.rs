//! 10. HTTP: commands beside those over MQTT, scrapes of the metrics, and what it costs while nobody uses it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::commands::{self, LOST_AFTER, Latency, PAUSES, ROUNDS, millis, settling};
use super::costs::{self, USUAL_POLL};
use super::figures::{Row, Samples, short};
use super::plugs::{self, Switched};
use super::process::Fault;
use super::stage::{Daemon, Stage, cpu, loop_clock, memory, pass, time_on_cpu};
use super::{Say, Size};

/// Plugs, where not their number is measured.
const PLUGS: usize = 100;
/// Daemons with HTTP and without it take turns so often.
const DAEMONS: usize = 3;
/// Between two looks at the daemon's loop during scrapes.
const LOOK: Duration = Duration::from_millis(1);

/// A connection to the daemon that stays open.
struct Web {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Web {
    async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request in one write. Returns the time before it.
    async fn send(&mut self, method: &str, path: &str, body: &str) -> io::Result<Instant> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let at = Instant::now();
        self.stream.write_all(request.as_bytes()).await?;
        Ok(at)
    }

    /// Reads a response that says its length. Returns its status.
    async fn receive(&mut self) -> Result<u16, Fault> {
        self.buffer.clear();
        let (status, length) = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the daemon closes the connection".into());
            }
            let text = String::from_utf8_lossy(&self.buffer);
            if let Some((head, _)) = text.split_once("\r\n\r\n") {
                let header = |line: &str| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
                };
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                let body = head.lines().find_map(header).unwrap_or(0);
                break (status.ok_or("no status")?, head.len() + 4 + body);
            }
        };
        while self.buffer.len() < length {
            self.stream.read_buf(&mut self.buffer).await?;
        }
        Ok(status)
    }
}

/// The whole response to a `GET`, read until the daemon closes the connection.
async fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>, Fault> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    if response.get(9..12) != Some(b"200") {
        return Err(format!("{path}: {}", String::from_utf8_lossy(&response)).into());
    }
    Ok(response)
}

/// Sends commands over HTTP one by one; the time to the relay, and to the response in place of the state.
async fn measure(
    stage: &mut Stage,
    web: &mut Web,
    count: usize,
    plug_of: impl Fn(usize) -> usize,
) -> Result<Latency, Fault> {
    let mut latency = Latency::default();
    for number in 0..count {
        let plug = plug_of(number);
        let on = !stage.plugs.is_on(plug);
        stage.clear();
        let path = format!("/api/v1/plugs/{}/set", plugs::name(plug));
        let sent = web.send("POST", &path, if on { "ON" } else { "OFF" }).await?;
        let status = web.receive().await?;
        let answered = Instant::now();
        let by = (sent + LOST_AFTER).into();
        let relay = loop {
            match timeout_at(by, stage.switched.recv()).await {
                Ok(Some(Switched { plug: switched, on: to, at })) if (switched, to) == (plug, on) => {
                    break Some(at);
                }
                Ok(Some(_)) => {}
                _ => break None,
            }
        };
        match relay {
            Some(at) if status == 200 => {
                latency.relay.add(millis(at - sent));
                latency.state.add(millis(answered - sent));
            }
            _ => latency.lost += 1,
        }
        pass(Duration::from_millis(PAUSES[number % PAUSES.len()])).await;
    }
    Ok(latency)
}

/// Commands over HTTP and over MQTT alternate at one daemon.
pub(crate) async fn latency(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let mut stage = Stage::set(&size.program, PLUGS).await?;
    let daemon = stage.daemon_with_all(USUAL_POLL).await?;
    let mut web = Web::connect(daemon.http_address()?).await?;
    pass(settling(size, PLUGS)).await;
    let count = if size.quick { 5 } else { 100 };
    let (mut over_http, mut over_mqtt) = (Latency::default(), Latency::default());
    for round in 0..=ROUNDS {
        // Not in the order of the polls.
        let any = |number: usize| ((round * count + number) * 7919 + 13) % PLUGS;
        let http = measure(&mut stage, &mut web, count, any).await?;
        let mqtt = commands::measure(&mut stage, "hs100d", count, any).await?;
        // The first round is the warm-up.
        if round > 0 {
            over_http.add(&http);
            over_mqtt.add(&mqtt);
        }
    }
    daemon.stop().await?;
    say(&format!("HTTP: {}", over_http.summary()));
    say(&format!("MQTT: {}", over_mqtt.summary()));
    let relay = |percent| [&over_http, &over_mqtt].map(|latency| latency.relay.percentile(percent));
    let answer = |percent| [&over_http, &over_mqtt].map(|latency| latency.state.percentile(percent));
    let ([http, mqtt], [http_99, mqtt_99]) = (relay(50.0), relay(99.0));
    let [response, state] = answer(50.0);
    Ok(vec![
        Row::against("10. HTTP request to relay p50, beside MQTT", http, mqtt, 1.3, "ms"),
        Row::beside("10. HTTP request to relay p99, beside MQTT", http_99, mqtt_99, "ms"),
        Row::beside("10. HTTP request to response p50, beside publish to state", response, state, "ms"),
        Row::at_most("10. commands lost over HTTP", over_http.lost as f64, 0.0, ""),
    ])
}

/// Requests that need nothing but a turn of the daemon's loop.
#[derive(Debug, Default)]
struct Looks {
    /// The time from the request to its answer. The machine's other work is part of it.
    took: Samples,
    /// The processor time of the loop's thread from the request to its answer: no turn in between was longer.
    worked: Samples,
}

/// Looks at the daemon's loop until `stop`.
async fn look(
    address: SocketAddr,
    loop_clock: PathBuf,
    mut stop: watch::Receiver<bool>,
) -> Result<Looks, Fault> {
    let mut web = Web::connect(address).await?;
    let mut looks = Looks::default();
    let read = || time_on_cpu(&loop_clock).ok_or("the kernel does not tell the loop's processor time");
    while !*stop.borrow_and_update() {
        let before = read()?;
        let sent = web.send("GET", "/healthz", "").await?;
        web.receive().await?;
        looks.took.add(millis(sent.elapsed()));
        looks.worked.add(millis(Duration::from_nanos(read()? - before)));
        pass(LOOK).await;
    }
    Ok(looks)
}

/// Scrapes of the metrics of many plugs, and how long the loop is busy with them.
pub(crate) async fn scrape(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let plugs = size.crowd;
    let mut stage = Stage::set(&size.program, plugs).await?;
    let daemon = stage.daemon_with_all(USUAL_POLL).await?;
    let address = daemon.http_address()?;
    pass(settling(size, plugs)).await;
    let scrapes = if size.quick { 3 } else { 20 };
    let mut pauses = Vec::new();
    let (mut times, mut bytes) = (Samples::default(), 0);
    for is_scraped in [false, true] {
        let (stop, stopped) = watch::channel(false);
        // On a thread of its own: this one reads the metrics.
        let clock = loop_clock(&daemon.process);
        let looking = std::thread::spawn(move || -> Result<Looks, String> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            runtime.block_on(look(address, clock, stopped)).map_err(|fault| fault.to_string())
        });
        for _ in 0..scrapes {
            if is_scraped {
                let begun = Instant::now();
                bytes = get(address, "/metrics").await?.len();
                times.add(begun.elapsed().as_secs_f64());
            }
            pass(Duration::from_millis(200)).await;
        }
        stop.send_replace(true);
        let looks = tokio::task::spawn_blocking(move || looking.join()).await?;
        pauses.push(looks.map_err(|_| "the looks ended early")??);
    }
    let resident = memory(&daemon.process)?;
    daemon.stop().await?;
    let (calm, busy) = (&pauses[0], &pauses[1]);
    say(&format!("{} MB a scrape, in s {}", short(bytes as f64 / 1e6), times.summary()));
    say(&format!(
        "a look at the loop in ms: {}; during scrapes: {}",
        calm.took.summary(),
        busy.took.summary()
    ));
    let most = |samples: &Samples| samples.percentile(100.0);
    Ok(vec![
        Row::at_most(format!("10. scrape of {plugs} plugs"), times.percentile(50.0), 0.5, "s"),
        Row {
            yardstick: format!("without scrapes: {} ms", short(most(&calm.worked))),
            ..Row::at_most(
                format!("10. longest the loop worked while a look waited, scrapes of {plugs} plugs"),
                most(&busy.worked),
                5.0,
                "ms",
            )
        },
        Row::beside("10. longest look, beside without scrapes", most(&busy.took), most(&calm.took), "ms"),
        Row::beside("10. the same, p99", busy.took.percentile(99.0), calm.took.percentile(99.0), "ms"),
        Row::unbounded(
            format!("10. memory with {plugs} plugs after scrapes"),
            format!("{} MB", short(resident / 1000.0)),
        ),
    ])
}

/// How HTTP is used while the daemon is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Off,
    Idle,
    /// A browser shows the page.
    PageOpen,
}

/// A daemon with this many plugs, and the connection on which the page hears of changes.
async fn daemon_with(
    stage: &mut Stage,
    plugs: usize,
    every: Duration,
    used: Use,
) -> Result<(Daemon, Option<TcpStream>), Fault> {
    let config = stage.config(plugs, every);
    let config =
        if used == Use::Off { config.replace(super::stage::HTTP, "enabled = false") } else { config };
    stage.clear();
    let daemon = stage.daemon(&config)?;
    stage.all_shown(plugs, &daemon).await?;
    if used != Use::PageOpen {
        return Ok((daemon, None));
    }
    let address = daemon.http_address()?;
    for path in ["/", "/page.css", "/page.js"] {
        get(address, path).await?;
    }
    let mut events = TcpStream::connect(address).await?;
    events.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let mut begin = [0; 12];
    events.read_exact(&mut begin).await?;
    if !begin.ends_with(b" 200") {
        return Err(format!("the stream of events: {}", String::from_utf8_lossy(&begin)).into());
    }
    Ok((daemon, Some(events)))
}

/// Memory and processor time while HTTP is off, is on, and while a page is open.
pub(crate) async fn idle(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    const FEW: usize = 10;
    let (rounds, lasts) = if size.quick { (1, 2) } else { (DAEMONS, 10) };
    let (every, lasts) = (Duration::from_secs(2), Duration::from_secs(lasts));
    let (mut off, mut on) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        for (used, samples) in [(Use::Off, &mut off), (Use::Idle, &mut on)] {
            let mut stage = Stage::set(&size.program, PLUGS).await?;
            let (daemon, _) = daemon_with(&mut stage, PLUGS, every, used).await?;
            // The slow polls after the start.
            pass((every * 4).min(lasts)).await;
            let cost = costs::cost(&stage, &daemon.process, lasts).await?;
            samples.add(cost.cpu);
            say(&format!("{used:?}: {} us a poll", short(cost.cpu)));
            daemon.stop().await?;
        }
    }
    let (off, on) = (off.percentile(50.0), on.percentile(50.0));
    let mut rows = vec![Row::against("10. CPU per poll while HTTP is on, beside off", on, off, 1.1, "us")];
    for (used, bound) in [(Use::Off, None), (Use::Idle, None), (Use::PageOpen, Some(14.0))] {
        let mut stage = Stage::set(&size.program, FEW).await?;
        let (daemon, events) = daemon_with(&mut stage, FEW, USUAL_POLL, used).await?;
        pass(USUAL_POLL).await;
        let before = cpu(&daemon.process)?;
        pass(lasts).await;
        let busy = (cpu(&daemon.process)? - before).as_secs_f64() / lasts.as_secs_f64() * 100.0;
        let resident = memory(&daemon.process)? / 1000.0;
        drop(events);
        daemon.stop().await?;
        say(&format!("{used:?}: {} MB with {FEW} plugs, {} % of a core", short(resident), short(busy)));
        let what = match used {
            Use::Off => "HTTP off",
            Use::Idle => "HTTP on",
            Use::PageOpen => "a page open",
        };
        let memory = format!("10. memory with {FEW} plugs, {what}");
        rows.push(match bound {
            Some(bound) => Row::at_most(memory, resident, bound, "MB"),
            None => Row::unbounded(memory, format!("{} MB", short(resident))),
        });
        rows.push(Row::unbounded(
            format!("10. idle with {FEW} plugs at 5 s, {what}"),
            format!("{} % of a core", short(busy)),
        ));
    }
    Ok(rows)
}
