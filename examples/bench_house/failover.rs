//! 7. Commands to plugs whose LAN is silent or refuses: the time until the cloud has switched them.

use std::time::{Duration, Instant};

use hs100d::sim::cloud::rule::Method;
use hs100d::sim::fault::LanFault;
use hs100d::sim::home::{HomeOptions, SimHome};
use tokio::sync::mpsc;

use super::broker::{Broker, free_port};
use super::figures::{Row, Samples, short};
use super::line::Line;
use super::process::Fault;
use super::stage::{BOUND, Daemon, pass};
use super::{Say, Size};

/// The daemon's default, in milliseconds.
const CLOUD_AFTER: f64 = 700.0;
/// After a command, so that the next one does not overlap its end.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn failover(size: &Size, say: Say<'_>) -> Result<Vec<Row>, Fault> {
    // Few enough to stay within the cloud's rate limit, which is not what is measured.
    let count = if size.quick { 2 } else { 8 };
    let mut rows = Vec::new();
    for (fault, word, allowed, added) in [
        (LanFault::Silent, "silent", CLOUD_AFTER + 20.0, "cloud_after + 20 ms"),
        (LanFault::Refused, "refused", 5.0, "5 ms"),
    ] {
        let [first, again] = measure(size, count, fault).await?;
        say(&format!(
            "LAN {word}: publish to relay in ms: {}; once the cloud serves: {}",
            first.summary(),
            again.summary()
        ));
        for percent in [50.0, 99.0] {
            let (first, own) = (first.percentile(percent), again.percentile(percent));
            rows.push(Row {
                what: format!("7. LAN {word}: publish to relay over the cloud, p{percent}"),
                measured: format!("{} ms", short(first)),
                yardstick: format!("the cloud by itself: {} ms", short(own)),
                bound: format!("the cloud + {added}"),
                kept: Some(first <= own + allowed),
            });
        }
    }
    Ok(rows)
}

/// The first command to each of many plugs after its LAN fails, and the second, which goes over the cloud at once.
async fn measure(size: &Size, count: usize, fault: LanFault) -> Result<[Samples; 2], Fault> {
    let aliases: Vec<_> = (0..count).map(|plug| format!("Plug {plug}")).collect();
    let aliases: Vec<_> = aliases.iter().map(String::as_str).collect();
    let mut home_options = HomeOptions::of(&aliases);
    home_options.port = free_port()?;
    let home = SimHome::start(home_options).await?;
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(folder.path()).await?;
    let (tell, mut heard) = mpsc::unbounded_channel();
    let mut line = Line::connect(broker.port, &["hs100d/+/state"], tell)?;
    let config = format!(
        "[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n\n[discovery]\nbroadcast = [\"127.255.255.255\"]\n\n\
         [local]\nport = {}\npoll_interval = \"60s\"\n\n[cloud]\nusername = \"{}\"\npassword = \"{}\"\nurl = \"{}\"\n",
        broker.port,
        home.lan().port(),
        HomeOptions::ACCOUNT.0,
        HomeOptions::ACCOUNT.1,
        home.cloud().url(),
    );
    let daemon = Daemon::start(&size.program, folder.path(), &config)?;
    let mut shown = std::collections::HashSet::new();
    while shown.len() < count {
        let next = tokio::time::timeout(BOUND, heard.recv()).await;
        let state = next.map_err(|_| format!("{} plugs are shown\n{}", shown.len(), daemon.log()))?;
        shown.extend(state.map(|state| state.topic).filter(|topic| topic != "hs100d/bridge/state"));
    }
    home.wait_until(BOUND, || home.cloud().calls(Method::DeviceList) > 0).await?;
    let mut samples = [Samples::default(), Samples::default()];
    for number in 0..count {
        let plug = home.plug(number);
        home.lan().set_fault(plug, fault).await?;
        for (samples, on) in samples.iter_mut().zip([true, false]) {
            let word = if on { "ON" } else { "OFF" };
            let sent = line.publish(&format!("hs100d/plug-{number}/set"), word)?;
            home.wait_until(BOUND, || plug.is_on() == on).await?;
            let at = plug.switchings().last().map_or_else(Instant::now, |switching| switching.at);
            samples.add((at - sent).as_secs_f64() * 1000.0);
            pass(PAUSE).await;
        }
    }
    daemon.stop().await?;
    Ok(samples)
}
