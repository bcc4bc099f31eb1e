//! A steady stream of commands to the plugs of all sites.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::client::{Book, Client};
use super::ledger::{Ack, Order};
use super::plugs::{self, Plugs, Switched};
use super::site::{self, Sites};

/// What the stream needs to know about the sites.
#[derive(Clone, Copy)]
struct Extent {
    sites: usize,
    each: usize,
}

/// The stream. It ends when this is dropped.
pub(crate) struct Traffic {
    tasks: [JoinHandle<()>; 2],
    goes_on: Arc<AtomicBool>,
}

impl Traffic {
    pub(crate) fn start(
        senders: Vec<Client>,
        sites: &Sites,
        plugs: &Arc<Plugs>,
        switched: mpsc::UnboundedReceiver<Switched>,
        book: &Book,
        a_second: f64,
    ) -> Self {
        let extent = Extent { sites: sites.count, each: sites.each };
        let goes_on = Arc::new(AtomicBool::new(true));
        let every = Duration::from_secs_f64(1.0 / a_second);
        let send = send(senders, extent, Arc::clone(plugs), book.clone(), every, Arc::clone(&goes_on));
        Self { tasks: [tokio::spawn(send), tokio::spawn(note(switched, book.clone()))], goes_on }
    }

    /// Pauses, or goes on.
    pub(crate) fn set_going(&self, goes_on: bool) {
        self.goes_on.store(goes_on, Ordering::Relaxed);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One command after the other, to the sites in turn, each from the next sender that is connected.
async fn send(
    senders: Vec<Client>,
    extent: Extent,
    plugs: Arc<Plugs>,
    book: Book,
    every: Duration,
    goes_on: Arc<AtomicBool>,
) {
    let mut clock = tokio::time::interval(every);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0_usize.. {
        clock.tick().await;
        let Some(sender) = (0..senders.len())
            .map(|step| (number + number / extent.sites + step) % senders.len())
            .find(|sender| senders[*sender].is_up())
            .filter(|_| goes_on.load(Ordering::Relaxed))
        else {
            continue;
        };
        let site = number % extent.sites;
        let first = number / extent.sites;
        let next = (0..extent.each).find_map(|step| {
            let plug = site * extent.each + (first + step) % extent.each;
            let order = Order { site, plug, sender, on: !plugs.is_on(plug) };
            let transaction = book.open().ledger.send(order, Instant::now())?;
            Some((order, transaction))
        });
        let Some((Order { plug, on, .. }, transaction)) = next else { continue };
        let topic = format!("{}/{}/set", site::base(site), plugs::name(plug));
        let payload = json!({ "state": if on { "ON" } else { "OFF" }, "transaction": transaction });
        if !senders[sender].command(topic, payload.to_string(), transaction) {
            book.open().ledger.acknowledge(transaction, Ack::CutOff);
        }
    }
}

/// Writes what the plugs do into the ledger.
async fn note(mut switched: mpsc::UnboundedReceiver<Switched>, book: Book) {
    while let Some(Switched { plug, on, at }) = switched.recv().await {
        book.open().ledger.switched(plug, on, at);
    }
}
