//! Replies over UDP, in both forms, and their effect on the bridge.

use std::time::{Duration, Instant};

use hs100d::bridge::event::{Action, DiscoveryReply, Event, Sighting, Update};
use hs100d::bridge::{Bridge, Settings};
use hs100d::model::Address;
use hs100d::smarthome::cipher;
use hs100d::smarthome::message::{Reply, Request};
use hs100d::transport::discovery::reply::parse;

use super::texts::fits_a_line;

/// Bytes before the JSON of TDP.
const HEADER: usize = 16;
/// The longest detail of a notice, in bytes.
const LONGEST_DETAIL: usize = 1024;

/// The first byte selects what the rest is: a datagram, JSON in the form of UDP 9999, or JSON in the form of TDP.
pub fn hold(input: &[u8]) {
    let Some((&form, rest)) = input.split_first() else { return };
    match form % 3 {
        0 => notice_fits_a_line(understood(rest)),
        1 => an_older_answer_is_read_as_over_tcp(rest),
        _ => a_newer_answer_is_read_whatever_its_header(rest),
    }
}

fn understood(datagram: &[u8]) -> Option<DiscoveryReply> {
    let reply = parse(&mut datagram.to_vec());
    assert_eq!(reply, parse(&mut datagram.to_vec()), "read twice");
    reply
}

fn an_older_answer_is_read_as_over_tcp(json: &[u8]) {
    let mut datagram = json.to_vec();
    cipher::encrypt(&mut datagram);
    let reply = understood(&datagram);
    if matches!(reply, Some(DiscoveryReply::Tdp(_))) {
        assert_eq!(datagram.get(HEADER), Some(&b'{'), "taken for the newer form");
        return;
    }
    let over_tcp = match Request::SysInfo.read_reply(json, None) {
        Ok(Reply::SysInfo(reading)) => Some(DiscoveryReply::SysInfo(Box::new(reading))),
        _ => None,
    };
    assert_eq!(reply, over_tcp);
    notice_fits_a_line(reply);
}

fn a_newer_answer_is_read_whatever_its_header(json: &[u8]) {
    let with = |byte: u8| understood(&[&[byte; HEADER], json].concat());
    let reply = with(0);
    if matches!(reply, Some(DiscoveryReply::Tdp(_))) {
        assert_eq!(reply, with(0xff));
    }
    notice_fits_a_line(reply);
}

/// A bridge that adopts the plug reports it on one line.
fn notice_fits_a_line(reply: Option<DiscoveryReply>) {
    let Some(reply) = reply else { return };
    let begun = Instant::now();
    let mut bridge = Bridge::new(Settings { adopt: true, ..Settings::default() }, begun);
    let address = Address::new("192.0.2.7", 9999).unwrap();
    bridge.handle(Event::Sighted(Sighting { address, reply }), begun);
    bridge.handle_timeout(begun + Duration::from_secs(5));
    while let Some(action) = bridge.poll_action() {
        if let Action::Publish(Update::Notice(notice)) = action {
            fits_a_line(&notice.detail, LONGEST_DETAIL);
        }
    }
}
