//! The answers to datagrams, by the plug that sent them: with ten thousand plugs none may search ten thousand answers.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use crate::bridge::event::{DiscoveryReply, Identity, Sighting};
use crate::commands::known::identity_on;
use crate::model::{DeviceId, Mac};

/// The answers to datagrams.
pub(super) struct DatagramReplies {
    /// Those to broadcasts first, then those to datagrams which were sent to one plug each.
    all: Vec<Sighting>,
    /// How many answered broadcasts; `None` if none were sent.
    broadcast: Option<usize>,
    by_device_id: HashMap<DeviceId, Vec<usize>>,
    by_mac: HashMap<Mac, Vec<usize>>,
    by_ip: HashMap<IpAddr, Vec<usize>>,
}

impl DatagramReplies {
    pub(super) fn new(broadcast: Option<Vec<Sighting>>, directly: Vec<Sighting>) -> Self {
        let count = broadcast.as_ref().map(Vec::len);
        let all: Vec<_> = broadcast.into_iter().flatten().chain(directly).collect();
        let of_all = || all.iter().enumerate().map(|(number, one)| (number, identity_of(&one.reply), one));
        let by_device_id = index(of_all().map(|(number, who, _)| (number, who.device_id)));
        let by_mac = index(of_all().map(|(number, who, _)| (number, who.mac)));
        let by_ip = index(of_all().map(|(number, _, one)| (number, ip_of(one))));
        Self { all, broadcast: count, by_device_id, by_mac, by_ip }
    }

    /// How many plugs answered broadcasts; `None` if none were sent.
    pub(super) fn answers_to_broadcasts(&self) -> Option<usize> {
        self.broadcast
    }

    /// Those that can be of this plug or come from this address, in their order, and whether each answers a broadcast.
    pub(super) fn candidates(&self, who: &Identity, ip: Option<IpAddr>) -> Vec<(&Sighting, bool)> {
        let of_id = who.device_id.as_ref().and_then(|id| self.by_device_id.get(id));
        let of_mac = who.mac.and_then(|mac| self.by_mac.get(&mac));
        let of_ip = ip.and_then(|ip| self.by_ip.get(&ip));
        let numbers: BTreeSet<_> = [of_id, of_mac, of_ip].into_iter().flatten().flatten().copied().collect();
        let broadcast = self.broadcast.unwrap_or_default();
        numbers.into_iter().map(|number| (&self.all[number], number < broadcast)).collect()
    }
}

/// The numbers of those that have each key.
fn index<K: Eq + Hash>(all: impl Iterator<Item = (usize, Option<K>)>) -> HashMap<K, Vec<usize>> {
    let mut index: HashMap<K, Vec<usize>> = HashMap::new();
    for (number, key) in all {
        if let Some(key) = key {
            index.entry(key).or_default().push(number);
        }
    }
    index
}

/// The plug that sent this.
pub(super) fn identity_of(reply: &DiscoveryReply) -> Identity {
    match reply {
        DiscoveryReply::SysInfo(reading) => identity_on(&reading.device),
        DiscoveryReply::Tdp(reply) => Identity { device_id: None, mac: reply.mac },
    }
}

/// Where it came from.
pub(super) fn ip_of(sighting: &Sighting) -> Option<IpAddr> {
    sighting.address.socket().map(|socket| socket.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Address;
    use crate::smarthome::message::{Reply, Request};

    fn id(number: u32) -> Identity {
        let mac = format!("50:C7:BF:00:{:02X}:{:02X}", number / 256, number % 256);
        Identity { device_id: DeviceId::new(&format!("{number:040X}")), mac: Mac::new(&mac) }
    }

    fn ip(number: u32) -> IpAddr {
        format!("10.0.{}.{}", number / 250, 1 + number % 250).parse().unwrap()
    }

    fn sighting(number: u32) -> Sighting {
        let Identity { device_id, mac } = id(number);
        let text = format!(
            r#"{{"system":{{"get_sysinfo":{{"deviceId":"{}","mac":"{}","type":"IOT.SMARTPLUGSWITCH","relay_state":0}}}}}}"#,
            device_id.unwrap().as_str(),
            mac.unwrap()
        );
        let Ok(Reply::SysInfo(reading)) = Request::SysInfo.read_reply(text.as_bytes(), None) else {
            panic!("not parsed: {text}")
        };
        let address = Address::new(&ip(number).to_string(), 9999).unwrap();
        Sighting { address, reply: DiscoveryReply::SysInfo(Box::new(reading)) }
    }

    /// With a search through all of them the doctor needed a minute for five thousand plugs.
    #[test]
    fn a_plug_is_compared_with_its_own_answers_only() {
        let all = || (0..10_000).map(sighting).collect::<Vec<_>>();
        let heard = DatagramReplies::new(Some(all()), all());
        assert_eq!(heard.answers_to_broadcasts(), Some(10_000));
        for number in [0, 7_777, 9_999] {
            let found = heard.candidates(&id(number), Some(ip(number)));
            assert_eq!(
                found.iter().map(|(_, to_broadcast)| *to_broadcast).collect::<Vec<_>>(),
                [true, false]
            );
            assert!(
                found
                    .iter()
                    .all(|(one, _)| identity_of(&one.reply) == id(number) && ip_of(one) == Some(ip(number)))
            );
        }
        // By its MAC alone, and one at whose address another plug answers.
        let only_mac = Identity { device_id: None, ..id(5) };
        assert_eq!(heard.candidates(&only_mac, None).len(), 2);
        assert_eq!(heard.candidates(&id(5), Some(ip(6))).len(), 4);
        assert_eq!(heard.candidates(&Identity::default(), None).len(), 0);
        assert_eq!(DatagramReplies::new(None, all()).answers_to_broadcasts(), None);
    }
}
