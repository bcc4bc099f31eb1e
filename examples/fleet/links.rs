//! When connections stood and when they did not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cluster::NODES;

/// A message on its way when a connection ends was sent this long before, at most. After a connection stands, the
/// subscriptions need as long.
const MARGIN: Duration = Duration::from_secs(1);

/// What happened to the connections of some clients.
#[derive(Clone, Default)]
pub(crate) struct LinkLog(Arc<Mutex<Vec<LinkEvent>>>);

/// A connection stands, or has ended, or could not be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkEvent {
    pub(crate) client: usize,
    pub(crate) at: Instant,
    pub(crate) is_up: bool,
    /// At which node.
    pub(crate) node: usize,
}

impl LinkLog {
    pub(crate) fn note(&self, client: usize, node: usize, is_up: bool) {
        self.open().push(LinkEvent { client, at: Instant::now(), is_up, node });
    }

    /// When these clients connected, in this time.
    pub(crate) fn connects(&self, from: Instant, to: Instant) -> Vec<LinkEvent> {
        self.open().iter().filter(|event| event.is_up && (from..to).contains(&event.at)).copied().collect()
    }

    /// How many are connected to each node.
    pub(crate) fn at_nodes(&self, clients: usize) -> [usize; NODES] {
        let mut at_nodes = [0; NODES];
        let log = self.open();
        for client in 0..clients {
            let last = log.iter().rfind(|event| event.client == client);
            if let Some(event) = last.filter(|event| event.is_up) {
                at_nodes[event.node] += 1;
            }
        }
        at_nodes
    }

    /// Whether a client was without a connection in this time, for any part of it. A silent failure begins before the client
    /// notices it.
    pub(crate) fn was_moving(
        &self,
        client: usize,
        from: Instant,
        to: Instant,
        silent: Option<Instant>,
    ) -> bool {
        let log = self.open();
        let mut down_since = None;
        for event in log.iter().filter(|event| event.client == client) {
            if !event.is_up {
                let noticed = event.at - MARGIN;
                let began = silent.filter(|began| *began < noticed).unwrap_or(noticed);
                down_since.get_or_insert(began);
            } else if let Some(began) = down_since.take()
                && began <= to
                && from <= event.at + MARGIN
            {
                return true;
            }
        }
        down_since.is_some_and(|began| began <= to)
    }

    fn open(&self) -> MutexGuard<'_, Vec<LinkEvent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_client_moves_from_the_end_of_a_connection_until_the_next_is_subscribed() {
        let begun = Instant::now();
        let log = LinkLog::default();
        for (second, is_up) in [(0, true), (20, false), (22, false), (25, true)] {
            log.open().push(LinkEvent { client: 3, at: begun + second * SECOND, is_up, node: 0 });
        }
        let moving = |second: u32, silent| {
            log.was_moving(3, begun + second * SECOND, begun + (second + 1) * SECOND, silent)
        };
        let at: Vec<_> = (0..40).filter(|second| moving(*second, None)).collect();
        assert_eq!(at, (18..=26).collect::<Vec<_>>());
        assert!(moving(10, Some(begun + 9 * SECOND)), "it was cut off silently before");
        assert!(!log.was_moving(4, begun, begun + 40 * SECOND, None), "another client");
    }
}
