//! 7. Commands to plugs whose LAN keeps silent or refuses: how long until the cloud has switched them.

use std::time::{Duration, Instant};

use hs100d::sim::cloud::rule::{CloudFault, Method, Times};
use hs100d::sim::fault::LanFault;
use hs100d::sim::house::{Blueprint, House};
use tokio::sync::mpsc;

use super::broker::{Broker, free_port};
use super::figures::{Row, Samples, short};
use super::line::Line;
use super::process::Fault;
use super::stage::{BOUND, Daemon};
use super::{Say, Size};

/// The daemon's own default.
const CLOUD_AFTER: f64 = 700.0;
/// What the pretend cloud takes, so that it is more than nothing.
const CLOUD_LATENCY: Duration = Duration::from_millis(40);

pub(crate) async fn failover(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    let count = if size.quick { 2 } else { 20 };
    let mut rows = Vec::new();
    for (fault, word, allowed, added) in [
        (LanFault::Silent, "silent", CLOUD_AFTER + 20.0, "cloud_after + 20 ms"),
        (LanFault::Refused, "refused", 5.0, "5 ms"),
    ] {
        let samples = measure(size, count, fault).await?;
        say(&format!("LAN {word}: publish to relay over the cloud in ms: {}", samples.summary()));
        let own = CLOUD_LATENCY.as_secs_f64() * 1000.0;
        let beyond = samples.percentile(99.0) - own;
        rows.push(Row {
            what: format!("7. LAN {word}: publish to relay over the cloud, p99"),
            measured: format!("{} ms", short(beyond + own)),
            yardstick: format!("the cloud's own {} ms", short(own)),
            bound: format!("the cloud + {added}"),
            kept: Some(beyond <= allowed),
        });
    }
    Ok(rows)
}

/// The first command to each of many plugs after the fall of its LAN.
async fn measure(size: &Size, count: usize, fault: LanFault) -> Result<Samples, Fault> {
    let aliases: Vec<_> = (0..count).map(|plug| format!("Plug {plug}")).collect();
    let aliases: Vec<_> = aliases.iter().map(String::as_str).collect();
    let mut blueprint = Blueprint::of(&aliases);
    blueprint.port = free_port()?;
    let house = House::start(blueprint).await?;
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(folder.path()).await?;
    let (tell, mut heard) = mpsc::unbounded_channel();
    let mut line = Line::connect(broker.port, &["hs100d/+/state"], tell)?;
    let config = format!(
        "[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n\n[discovery]\nbroadcast = [\"127.255.255.255\"]\n\n\
         [local]\nport = {}\npoll_interval = \"60s\"\n\n[cloud]\nusername = \"{}\"\npassword = \"{}\"\nurl = \"{}\"\n",
        broker.port,
        house.lan().port(),
        Blueprint::ACCOUNT.0,
        Blueprint::ACCOUNT.1,
        house.cloud().url(),
    );
    let daemon = Daemon::start(&size.program, folder.path(), &config)?;
    let mut shown = std::collections::HashSet::new();
    while shown.len() < count {
        let next = tokio::time::timeout(BOUND, heard.recv()).await;
        let state = next.map_err(|_| format!("{} plugs are shown\n{}", shown.len(), daemon.log()))?;
        shown.extend(state.map(|state| state.topic).filter(|topic| topic != "hs100d/bridge/state"));
    }
    house.wait_until(BOUND, || house.cloud().calls(Method::DeviceList) > 0).await?;
    house.cloud().fail(Some(Method::Passthrough), Times::Always, CloudFault::Latency(CLOUD_LATENCY));
    let mut samples = Samples::default();
    for number in 0..count {
        let plug = house.plug(number);
        house.lan().set_fault(plug, fault).await?;
        let sent = line.publish(&format!("hs100d/plug-{number}/set"), "ON")?;
        house.wait_until(BOUND, || plug.is_on()).await?;
        let at = plug.switchings().last().map_or_else(Instant::now, |switching| switching.at);
        samples.add((at - sent).as_secs_f64() * 1000.0);
    }
    daemon.stop().await?;
    Ok(samples)
}
