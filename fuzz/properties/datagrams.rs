//! What comes back over UDP, in either of the two forms, and what the bridge makes of it.

use std::time::{Duration, Instant};

use hs100d::bridge::event::{Action, DiscoveryReply, Event, Sighting, Update};
use hs100d::bridge::{Bridge, Settings};
use hs100d::model::Address;
use hs100d::smarthome::cipher;
use hs100d::smarthome::message::{Reply, Request};
use hs100d::transport::discovery::reply::parse;

use super::said::fits_a_line;

/// Bytes before the JSON of the newer discovery.
const HEADER: usize = 16;
/// The longest that is told of what was found.
const LONGEST_DETAIL: usize = 1024;

/// The first byte says what the rest is: a datagram as it comes, JSON in the older form, or JSON in the newer one.
pub fn hold(input: &[u8]) {
    let Some((&form, rest)) = input.split_first() else { return };
    match form % 3 {
        0 => is_told_fit_for_a_line(understood(rest)),
        1 => an_older_answer_is_read_as_over_tcp(rest),
        _ => a_newer_answer_is_read_whatever_its_header(rest),
    }
}

fn understood(datagram: &[u8]) -> Option<DiscoveryReply> {
    let said = parse(&mut datagram.to_vec());
    assert_eq!(said, parse(&mut datagram.to_vec()), "read twice");
    said
}

fn an_older_answer_is_read_as_over_tcp(json: &[u8]) {
    let mut datagram = json.to_vec();
    cipher::encrypt(&mut datagram);
    let said = understood(&datagram);
    if matches!(said, Some(DiscoveryReply::Other(_))) {
        assert_eq!(datagram.get(HEADER), Some(&b'{'), "taken for the newer form");
        return;
    }
    let over_tcp = match Request::SysInfo.read_reply(json, None) {
        Ok(Reply::SysInfo(reading)) => Some(DiscoveryReply::SysInfo(Box::new(reading))),
        _ => None,
    };
    assert_eq!(said, over_tcp);
    is_told_fit_for_a_line(said);
}

fn a_newer_answer_is_read_whatever_its_header(json: &[u8]) {
    let with = |byte: u8| understood(&[&[byte; HEADER], json].concat());
    let said = with(0);
    if matches!(said, Some(DiscoveryReply::Other(_))) {
        assert_eq!(said, with(0xff));
    }
    is_told_fit_for_a_line(said);
}

/// Whoever is heard, a bridge that adopts it says so on one line.
fn is_told_fit_for_a_line(said: Option<DiscoveryReply>) {
    let Some(said) = said else { return };
    let begun = Instant::now();
    let mut bridge = Bridge::new(Settings { adopt: true, ..Settings::default() }, begun);
    let address = Address::new("192.0.2.7", 9999).unwrap();
    bridge.handle(Event::Sighted(Sighting { address, said }), begun);
    bridge.handle_timeout(begun + Duration::from_secs(5));
    while let Some(action) = bridge.poll_action() {
        if let Action::Publish(Update::Notice(happening)) = action {
            fits_a_line(&happening.detail, LONGEST_DETAIL);
        }
    }
}
