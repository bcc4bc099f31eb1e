//! The broadcast address of each network interface, as the interfaces are now.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;

use if_addrs::{IfAddr, Ifv4Addr};

/// Networks with a longer prefix have no broadcast address.
const LONGEST_PREFIX: u8 = 30;

/// A way for a broadcast out of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BroadcastPath {
    /// The interface's own address; unspecified if the system chooses it.
    pub local: Ipv4Addr,
    /// The broadcast address of its network.
    pub target: Ipv4Addr,
}

impl fmt::Display for BroadcastPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { local, target } = self;
        if local.is_unspecified() { write!(f, "{target}") } else { write!(f, "{target} from {local}") }
    }
}

/// One path for each address of each interface that can broadcast now, without loopback.
///
/// # Errors
/// The system cannot list its interfaces.
pub(super) fn of_interfaces() -> io::Result<Vec<BroadcastPath>> {
    let usable = |interface: &if_addrs::Interface| interface.is_oper_up() && !interface.is_p2p();
    let path = |interface: if_addrs::Interface| match interface.addr {
        IfAddr::V4(address) => of_address(&address),
        IfAddr::V6(_) => None,
    };
    Ok(if_addrs::get_if_addrs()?.into_iter().filter(usable).filter_map(path).collect())
}

/// The names of the interfaces with an address; none if the system does not list them.
pub(super) fn names() -> Vec<String> {
    if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|interface| interface.name).collect()
}

fn of_address(address: &Ifv4Addr) -> Option<BroadcastPath> {
    if address.is_loopback() || address.prefixlen > LONGEST_PREFIX {
        return None;
    }
    // An address that was set without a broadcast address has none here, 0.0.0.0, or the interface's own address.
    let all_ones = Ipv4Addr::from_bits(address.ip.to_bits() | !address.netmask.to_bits());
    let broadcast =
        address.broadcast.filter(|&broadcast| !broadcast.is_unspecified() && broadcast != address.ip);
    Some(BroadcastPath { local: address.ip, target: broadcast.unwrap_or(all_ones) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_networks_broadcast_address_or_none() {
        let address = |ip: &str, prefixlen: u8, broadcast: Option<&str>| Ifv4Addr {
            ip: ip.parse().unwrap(),
            netmask: Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefixlen)).unwrap_or(0)),
            prefixlen,
            broadcast: broadcast.map(|text| text.parse().unwrap()),
        };
        for (ip, prefixlen, broadcast, expected) in [
            ("192.168.7.20", 24, Some("192.168.7.255"), Some("192.168.7.255")),
            ("10.1.2.3", 20, Some("10.1.15.255"), Some("10.1.15.255")),
            // `ip addr add` without `brd +`, and what some containers have.
            ("192.168.7.20", 24, None, Some("192.168.7.255")),
            ("192.168.7.20", 24, Some("192.168.7.20"), Some("192.168.7.255")),
            ("172.17.0.2", 16, Some("0.0.0.0"), Some("172.17.255.255")),
            // A point-to-point link, and a single host.
            ("10.0.0.1", 31, None, None),
            ("10.0.0.1", 32, Some("10.0.0.1"), None),
            ("127.0.0.1", 8, Some("127.255.255.255"), None),
        ] {
            let path = of_address(&address(ip, prefixlen, broadcast));
            let target = path.map(|path| path.target.to_string());
            assert_eq!(target.as_deref(), expected, "{ip}/{prefixlen}");
            assert!(path.is_none_or(|path| path.local.to_string() == ip));
            let text = path.map(|path| path.to_string());
            assert_eq!(text, expected.map(|target| format!("{target} from {ip}")));
        }
    }
}
