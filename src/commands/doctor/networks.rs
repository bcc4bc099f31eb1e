//! The networks of this machine: whether a plug's address is on one of them.

use std::net::IpAddr;

use if_addrs::IfAddr;

use super::diagnosis::AddressNetwork;

/// Each as an address in it and a prefix length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Networks(Vec<(IpAddr, u8)>);

impl Networks {
    /// The networks of the interfaces now; none if the system does not list them.
    pub(super) fn of_this_machine() -> Self {
        let network = |interface: if_addrs::Interface| match interface.addr {
            IfAddr::V4(address) => (address.ip.into(), address.prefixlen),
            IfAddr::V6(address) => (address.ip.into(), address.prefixlen),
        };
        Self(if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(network).collect())
    }

    /// Where an address is; unknown without a network to compare with.
    pub(super) fn place_of(&self, address: IpAddr) -> AddressNetwork {
        if address.is_loopback() {
            return AddressNetwork::Here;
        }
        let mut outside = self.0.iter().filter(|(ip, _)| !ip.is_loopback()).peekable();
        if outside.peek().is_none() {
            return AddressNetwork::Unknown;
        }
        let is_in = |&&(ip, prefix): &&(IpAddr, u8)| shares_network(ip, address, prefix);
        if outside.any(|network| is_in(&network)) { AddressNetwork::Here } else { AddressNetwork::Elsewhere }
    }
}

fn shares_network(ours: IpAddr, theirs: IpAddr, prefix: u8) -> bool {
    let differs = match (ours, theirs) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    differs >= u32::from(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_here_if_one_network_has_it() {
        let network = |ip: &str, prefix| (ip.parse().unwrap(), prefix);
        let networks = Networks(vec![
            network("127.0.0.1", 8),
            network("192.168.7.20", 24),
            network("10.1.2.3", 20),
            network("fd00::5", 64),
        ]);
        for (address, place) in [
            ("192.168.7.99", AddressNetwork::Here),
            ("192.168.8.99", AddressNetwork::Elsewhere),
            ("10.1.15.255", AddressNetwork::Here),
            ("10.1.16.0", AddressNetwork::Elsewhere),
            ("127.0.0.11", AddressNetwork::Here),
            ("fd00::99", AddressNetwork::Here),
            ("fd00:0:0:1::99", AddressNetwork::Elsewhere),
        ] {
            assert_eq!(networks.place_of(address.parse().unwrap()), place, "{address}");
        }
        let alone = Networks(vec![network("127.0.0.1", 8)]);
        assert_eq!(alone.place_of("192.168.7.99".parse().unwrap()), AddressNetwork::Unknown);
    }
}
