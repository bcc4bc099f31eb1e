//! Connects to one of the addresses of a host by TCP, without waiting for one that is silent. It does not know TLS or MQTT.
//!
//! The addresses of a name are often the nodes of a cluster. Each installation has an order of its own for them, drawn from
//! its id and the addresses; the order in which the name server lists them does not count.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::backoff;

/// The most addresses that are tried: an answer with more is a mistake, and each takes a socket.
const MOST_ADDRESSES: usize = 32;
/// The next address is tried beside one that has not answered for this long.
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// If there are many addresses, the last one is tried after this time.
const LAST_AFTER: Duration = Duration::from_secs(2);
/// An address at which a connection has failed is not tried before, as long as another one may answer.
const AVOIDED_AFTER: Duration = Duration::from_secs(2);

/// In which order the addresses of a host are tried.
#[derive(Debug, Clone, Default)]
pub(super) struct DialOrder {
    /// The id of the installation.
    pub(super) instance: Arc<str>,
    /// Addresses at which connections have failed lately, the oldest failure first: they accepted TCP, so TCP alone would
    /// choose them again.
    pub(super) avoided: Vec<SocketAddr>,
    /// The only address to try.
    pub(super) only: Option<SocketAddr>,
}

/// A TCP connection.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// The address of the same family that is this installation's own, if it is another one.
    pub(super) better: Option<SocketAddr>,
}

impl DialOrder {
    /// Of an installation that has had no failure.
    pub(super) fn of_instance(instance: &str) -> Self {
        Self { instance: instance.into(), ..Self::default() }
    }

    /// Only this address, if there is one.
    pub(super) fn only(self, only: Option<SocketAddr>) -> Self {
        Self { only, ..self }
    }

    /// The addresses in the order of this installation. The families alternate, since one of them may lead nowhere; the first
    /// is that of the resolver's first address.
    fn own(&self, resolved: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut seen = HashSet::new();
        let mut addresses: Vec<_> =
            resolved.iter().copied().filter(|address| seen.insert(*address)).collect();
        let is_first_family =
            |address: &SocketAddr| Some(address.is_ipv6()) == resolved.first().map(SocketAddr::is_ipv6);
        addresses.sort_by_key(|address| backoff::seed((&*self.instance, address)));
        let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_first_family);
        let longer = first.len().max(second.len());
        (0..longer).flat_map(|n| [first.get(n), second.get(n)]).flatten().copied().collect()
    }

    /// The addresses in the order in which they are tried.
    fn of(&self, resolved: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut addresses = self.own(resolved);
        addresses.retain(|address| self.only.is_none_or(|only| only == *address));
        addresses.sort_by_key(|address| self.failure_at(address));
        addresses.truncate(MOST_ADDRESSES);
        addresses
    }

    fn is_avoided(&self, address: &SocketAddr) -> bool {
        self.failure_at(address).is_some()
    }

    fn failure_at(&self, address: &SocketAddr) -> Option<usize> {
        self.avoided.iter().rposition(|avoided| avoided == address)
    }

    fn better_than(&self, address: SocketAddr, resolved: &[SocketAddr]) -> Option<SocketAddr> {
        let own = self.own(resolved).into_iter().find(|own| own.is_ipv6() == address.is_ipv6());
        own.filter(|own| *own != address)
    }
}

/// Connects to the first of the addresses that accepts. One that refuses is followed by the next at once, a silent one after a
/// moment, while it is waited for.
///
/// # Errors
/// The most useful of the failures; `None` if there is no address.
pub(super) async fn dial(order: &DialOrder, resolved: &[SocketAddr]) -> Result<Dialled, Option<io::Error>> {
    let addresses = order.of(resolved);
    let step =
        u32::try_from(addresses.len()).map_or(NEXT_AFTER, |count| NEXT_AFTER.min(LAST_AFTER / count.max(1)));
    let begun = Instant::now();
    // Dropped with this future, and the attempts with it.
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.into_iter().peekable();
    let mut next_at = begun;
    let mut failure = None;
    loop {
        let at = match waiting.peek() {
            Some(_) if attempts.is_empty() => Some(begun),
            Some(next) if order.is_avoided(next) => Some(next_at.max(begun + AVOIDED_AFTER)),
            Some(_) => Some(next_at),
            None if attempts.is_empty() => return Err(failure),
            None => None,
        };
        tokio::select! {
            biased;
            Some(attempt) = attempts.join_next(), if !attempts.is_empty() => match attempt {
                Ok((address, Ok(stream))) => {
                    return Ok(Dialled { stream, address, better: order.better_than(address, resolved) });
                }
                Ok((_, Err(error))) => {
                    failure = more_useful(failure, error);
                    next_at = Instant::now();
                }
                Err(error) => failure = more_useful(failure, io::Error::other(error)),
            },
            () = sleep_until(at.unwrap_or(begun)), if at.is_some() => {
                if let Some(address) = waiting.next() {
                    attempts.spawn(async move { (address, TcpStream::connect(address).await) });
                    next_at = Instant::now() + step;
                }
            }
        }
    }
}

/// A host that refuses is there, and only the port may be wrong; a family without a route tells least.
fn more_useful(before: Option<io::Error>, error: io::Error) -> Option<io::Error> {
    let rank = |error: &io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => 2,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => 0,
        _ => 1,
    };
    match before {
        Some(before) if rank(&before) >= rank(&error) => Some(before),
        _ => Some(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener as StdListener;

    use super::*;

    fn order(instance: &str) -> DialOrder {
        DialOrder::of_instance(instance)
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_alternate_and_the_order_of_the_name_server_does_not_count() {
        let one = addresses(&[
            "[fd00::1]:1",
            "[fd00::2]:1",
            "10.0.0.1:1",
            "10.0.0.2:1",
            "10.0.0.3:1",
            "10.0.0.1:1",
        ]);
        let mut other = one.clone();
        other[..2].reverse();
        other[2..].reverse();
        let families = |order: &[SocketAddr]| order.iter().map(SocketAddr::is_ipv6).collect::<Vec<_>>();
        for instance in ["a", "b", "c"] {
            let tried = order(instance).of(&one);
            assert_eq!(tried, order(instance).of(&other));
            assert_eq!(families(&tried), [true, false, true, false, false]);
        }
        let mut firsts = HashSet::new();
        let three = &one[2..];
        (0..100).for_each(|n| _ = firsts.insert(order(&n.to_string()).of(three)[0]));
        assert_eq!(firsts.len(), 3, "each address is the first of some installation");
        let many: Vec<_> = (0..2000).map(|n| SocketAddr::from(([10, 0, 0, 1], 1 + n))).collect();
        assert_eq!(order("a").of(&many).len(), MOST_ADDRESSES);
    }

    #[test]
    fn an_address_that_has_failed_comes_last_and_the_one_that_failed_first_before_it() {
        let all = addresses(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        let own = order("a").of(&all);
        let after = DialOrder { avoided: vec![own[0], own[1]], ..order("a") };
        assert_eq!(after.of(&all), [own[2], own[0], own[1]]);
        let again = DialOrder { avoided: vec![own[0], own[1], own[2], own[0]], ..order("a") };
        assert_eq!(again.of(&all), [own[1], own[2], own[0]]);
        assert_eq!(order("a").better_than(own[2], &all), Some(own[0]));
        assert_eq!(order("a").better_than(own[0], &all), None);
        let only = order("a").only(Some(own[1]));
        assert_eq!(only.of(&all), [own[1]]);
    }

    /// An address of loopback that drops each SYN: the queue of its listener is full.
    fn silent(ip: &str) -> (SocketAddr, Vec<std::net::TcpStream>, socket2::Socket) {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::new(ip.parse().unwrap(), 0).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let queue = (0..8)
            .map_while(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok())
            .collect();
        (address, queue, listener)
    }

    /// The installation whose order begins with this address.
    fn beginning_with(first: SocketAddr, all: &[SocketAddr]) -> DialOrder {
        (0..1000).map(|n| order(&n.to_string())).find(|order| order.of(all)[0] == first).unwrap()
    }

    #[tokio::test]
    async fn a_silent_address_does_not_keep_the_next_one_from_being_tried() {
        let (dead, _queue, _listener) = silent("127.0.0.1");
        let live = StdListener::bind("127.0.0.2:0").unwrap();
        let all = [dead, live.local_addr().unwrap()];
        let order = beginning_with(dead, &all);
        let dialled = tokio::time::timeout(Duration::from_secs(4), dial(&order, &all)).await;
        let dialled = dialled.expect("before the whole connect time is over").unwrap();
        assert_eq!((dialled.address, dialled.better), (all[1], Some(dead)));
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next() {
        let closed = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let live = StdListener::bind("127.0.0.2:0").unwrap();
        let all = [closed, live.local_addr().unwrap()];
        let order = beginning_with(closed, &all);
        assert_eq!(dial(&order, &all).await.unwrap().address, all[1]);
        let error = dial(&order, &all[..1]).await.unwrap_err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(dial(&order, &[]).await.unwrap_err().is_none());
    }

    #[test]
    fn the_most_useful_failure_is_reported() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        for (kinds, reported) in [
            ([NetworkUnreachable, ConnectionRefused, HostUnreachable], ConnectionRefused),
            ([ConnectionRefused, HostUnreachable, NetworkUnreachable], ConnectionRefused),
            ([NetworkUnreachable, NetworkUnreachable, HostUnreachable], HostUnreachable),
        ] {
            let failure = kinds.into_iter().fold(None, |before, kind| more_useful(before, kind.into()));
            assert_eq!(failure.unwrap().kind(), reported);
        }
    }
}
