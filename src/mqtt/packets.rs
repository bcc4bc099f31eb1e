//! The MQTT packets on the socket: acknowledgements that the client library cannot handle are corrected or removed.
//!
//! The library ends the connection when it receives a reason code that MQTT 5 does not list for a packet, an acknowledgement
//! of a packet that it did not send, or a second acknowledgement. None of these makes the connection unusable. Pure.

use std::collections::{HashMap, HashSet};

use bytes::BytesMut;
use rumqttc::{DisconnectReasonCode, PubAckReason, SubscribeReasonCode, UnsubAckReason};

const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const UNSUBSCRIBE: u8 = 0xA2;
const UNSUBACK: u8 = 0xB0;
const DISCONNECT: u8 = 0xE0;
/// The bits of a PUBLISH's first byte that hold the type.
const TYPE: u8 = 0xF0;
/// The bits of a PUBLISH's first byte that hold its QoS.
const QOS: u8 = 0x06;
/// A reason code that the library accepts in every acknowledgement.
const UNSPECIFIED: u8 = 0x80;
/// The longest acknowledgement that is corrected, in bytes; the library refuses longer ones for their size.
const MAX_HELD: usize = 128 * 1024;

/// The packets of one connection.
#[derive(Debug, Default)]
pub(super) struct Packets {
    sent: PacketStream,
    received: PacketStream,
    /// A CONNACK has come. Before it nothing is corrected: the server may be no broker.
    is_connected: bool,
    /// The ids of packets that the broker must acknowledge.
    unacknowledged: HashSet<u16>,
    /// The reason codes of acknowledgements that the library does not know, by packet id.
    reasons: HashMap<u16, u8>,
    /// The reason code of a DISCONNECT, if the library does not know it.
    disconnect_reason: Option<u8>,
}

/// One direction of the connection, split into packets.
#[derive(Debug, Default)]
struct PacketStream {
    /// The beginning of a packet.
    held: Vec<u8>,
    /// The number of bytes that follow and are passed on unread.
    passing: usize,
}

/// The fixed header of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    Incomplete,
    /// Its length has more bytes than MQTT allows.
    Malformed,
    /// The length of the header, and of the body that follows.
    Complete(usize, usize),
}

impl Packets {
    /// Reads the packet ids in what was written to the broker.
    pub(super) fn written(&mut self, mut bytes: &[u8]) {
        while let Some(&byte) = bytes.first() {
            let PacketStream { held, passing } = &mut self.sent;
            if *passing > 0 {
                let part = bytes.len().min(*passing);
                *passing -= part;
                bytes = &bytes[part..];
                continue;
            }
            held.push(byte);
            bytes = &bytes[1..];
            let (start, length) = match header(held) {
                Header::Incomplete => continue,
                Header::Malformed => (held.len(), usize::MAX),
                Header::Complete(start, length) => (start, length),
            };
            let body = &held[start..];
            let until_id = until_id(held[0], body).min(length);
            if body.len() < until_id {
                continue;
            }
            if let Some(id) = body[..until_id].last_chunk().copied().map(u16::from_be_bytes) {
                self.unacknowledged.insert(id);
            }
            *passing = length - body.len();
            held.clear();
        }
    }

    /// Reads what the broker sent, and adds it to `out` as the library may read it.
    pub(super) fn read(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while let Some(&byte) = bytes.first() {
            if self.received.passing > 0 {
                let part = bytes.len().min(self.received.passing);
                out.extend_from_slice(&bytes[..part]);
                self.received.passing -= part;
                bytes = &bytes[part..];
                continue;
            }
            self.received.held.push(byte);
            bytes = &bytes[1..];
            let held = &self.received.held;
            let (start, length) = match header(held) {
                Header::Incomplete => continue,
                Header::Malformed => (held.len(), usize::MAX),
                Header::Complete(start, length) => (start, length),
            };
            let is_corrected = length <= MAX_HELD
                && match held[0] {
                    DISCONNECT => true,
                    PUBACK | PUBREC | PUBREL | PUBCOMP | SUBACK | UNSUBACK => self.is_connected,
                    _ => false,
                };
            self.is_connected |= held[0] == CONNACK;
            if is_corrected && held.len() < start + length {
                continue;
            }
            let mut packet = std::mem::take(&mut self.received.held);
            if is_corrected {
                if self.correct(&mut packet, start) {
                    out.extend_from_slice(&packet);
                }
            } else {
                out.extend_from_slice(&packet);
                self.received.passing = length;
            }
            packet.clear();
            self.received.held = packet;
        }
    }

    /// The reason code of a packet's acknowledgement, if the library does not know it.
    pub(super) fn take_reason(&mut self, id: u16) -> Option<u8> {
        self.reasons.remove(&id)
    }

    /// The reason code of the broker's DISCONNECT, if the library does not know it.
    pub(super) fn disconnect_reason(&self) -> Option<u8> {
        self.disconnect_reason
    }

    /// Makes one packet readable for the library; returns false if it must be removed.
    fn correct(&mut self, packet: &mut Vec<u8>, start: usize) -> bool {
        let kind = packet[0];
        if kind == DISCONNECT {
            self.correct_disconnect(packet, start);
            return true;
        }
        // Without an id it is malformed; the library reports that.
        let Some(id) = packet[start..].first_chunk().copied().map(u16::from_be_bytes) else { return true };
        // The other kinds belong to QoS 2, which we do not use.
        if !matches!(kind, PUBACK | SUBACK | UNSUBACK) || !self.unacknowledged.remove(&id) {
            tracing::debug!(
                "the broker acknowledges packet {id} (type {kind:#04X}), which was not sent or was acknowledged \
                 before: ignored"
            );
            return false;
        }
        match kind {
            PUBACK => {
                if let Some(reason) = packet.get_mut(start + 2)
                    && PubAckReason::try_from(*reason).is_err()
                {
                    self.reasons.insert(id, *reason);
                    *reason = UNSPECIFIED;
                }
            }
            SUBACK => correct_codes(packet, start, |code| SubscribeReasonCode::try_from(code).is_ok()),
            _ => correct_codes(packet, start, |code| UnsubAckReason::try_from(code).is_ok()),
        }
        true
    }

    fn correct_disconnect(&mut self, packet: &mut Vec<u8>, start: usize) {
        let Some(&reason) = packet.get(start) else { return };
        let is_known = DisconnectReasonCode::try_from(reason).is_ok();
        let readable = if is_known { reason } else { UNSPECIFIED };
        self.disconnect_reason = (!is_known).then_some(reason);
        if packet.len() == start + 1 {
            // In MQTT 5 a packet may end before the length of the properties; the library requires it.
            *packet = vec![DISCONNECT, 2, readable, 0];
        } else {
            packet[start] = readable;
        }
    }
}

/// How many bytes at the start of a sent body end with its packet id; 0 if it has none.
fn until_id(first: u8, body: &[u8]) -> usize {
    if matches!(first, SUBSCRIBE | UNSUBSCRIBE) {
        return 2;
    }
    if first & TYPE != PUBLISH || first & QOS == 0 {
        return 0;
    }
    let topic = body.first_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
    2 + topic + 2
}

/// Replaces the reason codes of a SUBACK or UNSUBACK that the library does not know. They follow the packet id and the
/// properties.
fn correct_codes(packet: &mut [u8], start: usize, is_known: impl Fn(u8) -> bool) {
    let Some((digits, properties)) = packet.get(start + 2..).and_then(length) else { return };
    for code in packet.iter_mut().skip(start + 2 + digits + properties).filter(|code| !is_known(**code)) {
        *code = UNSPECIFIED;
    }
}

fn header(packet: &[u8]) -> Header {
    match packet.get(1..).and_then(length) {
        Some((digits, length)) => Header::Complete(1 + digits, length),
        None if packet.len() > 4 => Header::Malformed,
        None => Header::Incomplete,
    }
}

/// A variable byte integer: the number of its bytes, and its value; `None` if it does not end here.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((at + 1, value));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PUBLISH of this QoS to the topic "ab", with four bytes of payload.
    fn publish(qos: u8, id: u16) -> Vec<u8> {
        let mut body = vec![0, 2, b'a', b'b'];
        if qos > 0 {
            body.extend(id.to_be_bytes());
        }
        body.extend([0, 1, 2, 3, 4]);
        let mut packet = vec![PUBLISH | qos << 1 | 1, u8::try_from(body.len()).unwrap()];
        packet.extend(body);
        packet
    }

    fn read(packets: &mut Packets, bytes: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        packets.read(bytes, &mut out);
        out.to_vec()
    }

    /// What is passed on after a CONNACK. It does not depend on how the bytes are split.
    fn corrected(sent: &[u8], received: &[u8]) -> (Vec<u8>, Packets) {
        let connack = [CONNACK, 3, 0, 0, 0];
        let (out, packets) = passed_on(sent, &[&connack, received].concat());
        assert_eq!(out[..5], connack);
        (out[5..].to_vec(), packets)
    }

    fn passed_on(sent: &[u8], received: &[u8]) -> (Vec<u8>, Packets) {
        let mut results = (1..=received.len().max(sent.len())).map(|size| {
            let mut packets = Packets::default();
            sent.chunks(size).for_each(|part| packets.written(part));
            let out: Vec<u8> = received.chunks(size).flat_map(|part| read(&mut packets, part)).collect();
            (out, packets)
        });
        let first = results.next().unwrap();
        assert!(results.all(|(out, packets)| out == first.0 && packets.reasons == first.1.reasons));
        first
    }

    #[test]
    fn a_reason_that_the_library_does_not_know_is_replaced_and_remembered() {
        let (out, mut packets) = corrected(&publish(1, 7), &[PUBACK, 3, 0, 7, 0x95]);
        assert_eq!(out, [PUBACK, 3, 0, 7, UNSPECIFIED]);
        assert_eq!((packets.take_reason(7), packets.take_reason(7)), (Some(0x95), None));
        for known in [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] {
            let acknowledgement = [PUBACK, 4, 0, 7, known, 0];
            let (out, packets) = corrected(&publish(1, 7), &acknowledgement);
            assert_eq!((out, packets.reasons.len()), (acknowledgement.to_vec(), 0));
        }
        let subscribe = [SUBSCRIBE, 5, 0, 9, 0, 0, 0];
        let (out, _) = corrected(&subscribe, &[SUBACK, 8, 0, 9, 2, 0x1F, 0xEE, 0x01, 0x95, 0x87]);
        assert_eq!(out, [SUBACK, 8, 0, 9, 2, 0x1F, 0xEE, 0x01, UNSPECIFIED, 0x87]);
        let unsubscribe = [UNSUBSCRIBE, 5, 0, 9, 0, 0, 0];
        let (out, _) = corrected(&unsubscribe, &[UNSUBACK, 5, 0, 9, 0, 0x11, 0x01]);
        assert_eq!(out, [UNSUBACK, 5, 0, 9, 0, 0x11, UNSPECIFIED]);
    }

    #[test]
    fn an_acknowledgement_that_is_not_expected_is_removed() {
        let once = [PUBACK, 2, 0, 7];
        let twice = [once, once].concat();
        assert_eq!(corrected(&publish(1, 7), &twice).0, once);
        assert_eq!(corrected(&publish(1, 8), &once).0, [0; 0]);
        assert_eq!(corrected(&publish(0, 0), &once).0, [0; 0]);
        for kind in [PUBREC, PUBREL, PUBCOMP] {
            assert_eq!(corrected(&publish(1, 7), &[kind, 2, 0, 7]).0, [0; 0]);
        }
        for kind in [SUBACK, UNSUBACK] {
            assert_eq!(corrected(&[SUBSCRIBE, 5, 0, 9, 0, 0, 0], &[kind, 4, 0, 8, 0, 0]).0, [0; 0]);
        }
    }

    #[test]
    fn the_packet_ids_of_sent_packets_are_read() {
        let sent = [publish(1, 1), publish(0, 0), publish(1, 0x0102), vec![0xC0, 0], publish(1, 3)].concat();
        let (_, packets) = corrected(&sent, &[]);
        assert_eq!(packets.unacknowledged, HashSet::from([1, 0x0102, 3]));
    }

    #[test]
    fn all_other_packets_are_passed_on_unchanged() {
        let long = [vec![PUBLISH, 0x80, 0x02], vec![PUBACK; 256]].concat();
        let received = [long, vec![0xD0, 0], publish(1, 7)].concat();
        assert_eq!(corrected(&publish(1, 7), &received).0, received);
        // Not MQTT: the library must see it, to report it.
        for noise in [b"HTTP/1.1 400 Bad Request".as_slice(), &[0x15, 3, 1, 0, 2, 2, 70], &[PUBACK, 2, 0, 1]]
        {
            assert_eq!(passed_on(&[], noise).0, noise);
        }
        let endless = [PUBACK, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2];
        assert_eq!(corrected(&[], &endless).0, endless);
    }

    #[test]
    fn an_acknowledgement_that_never_ends_is_not_held() {
        let (_, mut packets) = corrected(&publish(1, 7), &[]);
        let start = [SUBACK, 0xFF, 0xFF, 0xFF, 0x7F];
        assert_eq!(read(&mut packets, &start), start);
        for _ in 0..100 {
            assert_eq!(read(&mut packets, &[7; 8192]).len(), 8192);
        }
        assert_eq!(packets.received.held.len(), 0);
        // The longest one that is corrected is buffered, and nothing longer.
        let (_, mut packets) = corrected(&publish(1, 7), &[]);
        let start = [SUBACK, 0x80, 0x80, 0x08];
        assert_eq!(read(&mut packets, &[&start[..], &vec![0; MAX_HELD - 1]].concat()), [0; 0]);
        assert_eq!(packets.received.held.len(), start.len() + MAX_HELD - 1);
    }

    #[test]
    fn a_disconnect_in_its_shortest_form_or_with_an_odd_reason_can_be_read() {
        assert_eq!(corrected(&[], &[DISCONNECT, 1, 0x8E]).0, [DISCONNECT, 2, 0x8E, 0]);
        assert_eq!(corrected(&[], &[DISCONNECT, 0]).0, [DISCONNECT, 0]);
        for odd in [&[DISCONNECT, 1, 0xB3][..], &[DISCONNECT, 2, 0xB3, 0]] {
            let (out, packets) = corrected(&[], odd);
            assert_eq!(out, [DISCONNECT, 2, UNSPECIFIED, 0]);
            assert_eq!(packets.disconnect_reason(), Some(0xB3));
        }
    }
}
