//! Packets on the wire, for the server's side of MQTT 5 and 3.1.1.
//!
//! The client's library reads and writes MQTT 5. A packet of 3.1.1 is one of MQTT 5 without properties and without most
//! reason codes, so it is read by adding the empty properties, and written without them. Sections are those of OASIS' MQTT
//! 3.1.1 and MQTT 5.0.

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Packet, Publish, RetainForwardRule, SubAck, SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error, QoS, check};

/// The largest packet that is accepted, in bytes; plugs need far less.
pub(super) const MAX_PACKET_SIZE: u32 = 1024 * 1024;

/// The largest CONNECT, in bytes: anybody can send one. A last will has up to 64 kB.
const MAX_CONNECT_SIZE: u32 = 128 * 1024;

/// The level byte of CONNECT, after the protocol's name (section 3.1.2.2).
const LEVEL_AT: usize = 6;
/// The byte of CONNECT's flags.
const FLAGS_AT: usize = 7;
/// Where MQTT 5 has CONNECT's properties: after name, level, flags and keep-alive.
const CONNECT_PROPERTIES_AT: usize = 10;
/// In CONNECT's flags: there is a last will.
const HAS_WILL: u8 = 0b100;
/// In a SUBACK of 3.1.1: the subscription was refused (section 3.9.3).
const SUBACK_FAILED: u8 = 0x80;

/// Which MQTT a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MqttVersion {
    V3,
    V5,
}

/// Why a first packet cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadConnect {
    /// CONNECT of a version that we do not speak; the level that it names.
    Level(u8),
    /// Something else.
    Malformed,
}

/// Takes CONNECT, the first packet, out of what was read; `None` while it is not there in full.
pub(super) fn take_connect(read: &mut BytesMut) -> Result<Option<(MqttVersion, Packet)>, BadConnect> {
    if read.first().is_some_and(|first| first >> 4 != 1) {
        return Err(BadConnect::Malformed);
    }
    let Some(frame) = take_frame(read, MAX_CONNECT_SIZE).map_err(|_| BadConnect::Malformed)? else {
        return Ok(None);
    };
    let level = *frame.body().get(LEVEL_AT).ok_or(BadConnect::Malformed)?;
    // MQTT 3.1 had another name, and with it another length of the name.
    let version = match (&frame.body()[..LEVEL_AT], level) {
        (b"\x00\x04MQTT", 5) => MqttVersion::V5,
        (b"\x00\x04MQTT", 4) => MqttVersion::V3,
        (b"\x00\x04MQTT", level) => return Err(BadConnect::Level(level)),
        (b"\x00\x06MQIs", _) => return Err(BadConnect::Level(3)),
        _ => return Err(BadConnect::Malformed),
    };
    read_frame(frame, version).map(|packet| Some((version, packet))).map_err(|_| BadConnect::Malformed)
}

/// Takes the next packet out of what was read; `None` while it is not there in full.
pub(super) fn take_packet(read: &mut BytesMut, version: MqttVersion) -> Result<Option<Packet>, Error> {
    let Some(frame) = take_frame(read, MAX_PACKET_SIZE)? else { return Ok(None) };
    let packet = read_frame(frame, version)?;
    // Bits that 3.1.1 reserves (section 3.8.3.1), and a packet that it does not have.
    let is_foreign = version == MqttVersion::V3
        && match &packet {
            Packet::Subscribe(subscribe) => subscribe.filters.iter().any(|filter| {
                filter.nolocal
                    || filter.preserve_retain
                    || filter.retain_forward_rule != RetainForwardRule::OnEverySubscribe
            }),
            Packet::Auth(_) => true,
            _ => false,
        };
    if is_foreign { Err(Error::MalformedPacket) } else { Ok(Some(packet)) }
}

/// Appends a packet. One that the client's version does not have is left out.
pub(super) fn put_packet(out: &mut BytesMut, packet: &Packet, version: MqttVersion) -> Result<(), Error> {
    if version == MqttVersion::V5 {
        return packet.write(out, None).map(|_| ());
    }
    match packet {
        Packet::ConnAck(ConnAck { session_present, code, .. }) => {
            out.put_slice(&[0x20, 2, u8::from(*session_present), old_connect_code(*code)]);
        }
        Packet::Publish(publish) => put_old_publish(out, publish),
        Packet::PubAck(ack) => put_old_ack(out, 0x40, ack.pkid),
        Packet::PubRec(ack) => put_old_ack(out, 0x50, ack.pkid),
        Packet::PubRel(ack) => put_old_ack(out, 0x62, ack.pkid),
        Packet::PubComp(ack) => put_old_ack(out, 0x70, ack.pkid),
        Packet::UnsubAck(ack) => put_old_ack(out, 0xb0, ack.pkid),
        Packet::SubAck(SubAck { pkid, return_codes, .. }) => {
            out.put_u8(0x90);
            put_length(out, 2 + return_codes.len());
            out.put_u16(*pkid);
            out.extend(return_codes.iter().map(|code| match code {
                SubscribeReasonCode::Success(qos) => *qos as u8,
                _ => SUBACK_FAILED,
            }));
        }
        Packet::PingResp => out.put_slice(&[0xd0, 0]),
        // A server of 3.1.1 closes the connection and says nothing.
        _ => {}
    }
    Ok(())
}

/// One packet's bytes.
struct WireFrame {
    bytes: BytesMut,
    header_len: usize,
}

impl WireFrame {
    fn body(&self) -> &[u8] {
        &self.bytes[self.header_len..]
    }
}

fn take_frame(read: &mut BytesMut, max_size: u32) -> Result<Option<WireFrame>, Error> {
    let length = match check(read.iter(), Some(max_size)) {
        Ok(header) => header.frame_length(),
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = read.split_to(length);
    // The packet's type, then up to four bytes of its length; the last has no continuation bit (section 2.1.4).
    let header_len = 2 + bytes[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
    Ok(Some(WireFrame { bytes, header_len }))
}

/// The bytes are there in full, so a library that misses some means a malformed packet.
fn read_frame(frame: WireFrame, version: MqttVersion) -> Result<Packet, Error> {
    let mut bytes = match version {
        MqttVersion::V5 => frame.bytes,
        MqttVersion::V3 => as_version_5(&frame).ok_or(Error::MalformedPacket)?,
    };
    Packet::read(&mut bytes, None)
}

/// The same packet with the properties, all empty, that MQTT 5 has there.
fn as_version_5(frame: &WireFrame) -> Option<BytesMut> {
    let first = frame.bytes[0];
    let mut body = frame.body().to_vec();
    match first >> 4 {
        // CONNECT
        1 => {
            *body.get_mut(LEVEL_AT)? = 5;
            let has_will = body.get(FLAGS_AT)? & HAS_WILL != 0;
            let will_at = after_text(&body, CONNECT_PROPERTIES_AT)?;
            if has_will {
                body.insert(will_at, 0);
            }
            body.insert(CONNECT_PROPERTIES_AT, 0);
        }
        // PUBLISH
        3 => {
            let id_len = if first & 0b110 == 0 { 0 } else { 2 };
            let at = after_text(&body, 0)? + id_len;
            if at > body.len() {
                return None;
            }
            body.insert(at, 0);
        }
        // SUBSCRIBE and UNSUBSCRIBE
        8 | 10 if body.len() >= 2 => body.insert(2, 0),
        _ => {}
    }
    let mut bytes = BytesMut::with_capacity(body.len() + 5);
    bytes.put_u8(first);
    put_length(&mut bytes, body.len());
    bytes.extend_from_slice(&body);
    Some(bytes)
}

/// Where the text that begins at `at` ends.
fn after_text(body: &[u8], at: usize) -> Option<usize> {
    let length = body.get(at..at + 2)?;
    let end = at + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    (end <= body.len()).then_some(end)
}

fn put_old_publish(out: &mut BytesMut, publish: &Publish) {
    let Publish { dup, qos, retain, topic, pkid, payload, .. } = publish;
    let id_len = if *qos == QoS::AtMostOnce { 0 } else { 2 };
    out.put_u8(0x30 | u8::from(*dup) << 3 | (*qos as u8) << 1 | u8::from(*retain));
    put_length(out, 2 + topic.len() + id_len + payload.len());
    // A topic came over the wire with a length of two bytes.
    out.put_u16(u16::try_from(topic.len()).unwrap_or(u16::MAX));
    out.put_slice(topic);
    if id_len > 0 {
        out.put_u16(*pkid);
    }
    out.put_slice(payload);
}

fn put_old_ack(out: &mut BytesMut, first: u8, pkid: u16) {
    out.put_slice(&[first, 2]);
    out.put_u16(pkid);
}

/// A length of one to four bytes, seven bits in each (section 2.2.3 of 3.1.1).
fn put_length(out: &mut BytesMut, mut length: usize) {
    loop {
        let low = (length % 128) as u8;
        length /= 128;
        out.put_u8(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
}

/// The return code of 3.1.1 (section 3.2.2.3).
fn old_connect_code(code: ConnectReturnCode) -> u8 {
    match code {
        ConnectReturnCode::Success => 0,
        ConnectReturnCode::UnsupportedProtocolVersion => 1,
        ConnectReturnCode::ClientIdentifierNotValid => 2,
        ConnectReturnCode::BadUserNamePassword => 4,
        ConnectReturnCode::NotAuthorized => 5,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use rumqttc::mqttbytes::v5::{
        Connect, ConnectAuth, Disconnect, DisconnectReasonCode, LastWill, PubAck, PubComp, PubRec, PubRel,
        UnsubAck, UnsubAckReason,
    };

    use super::*;

    fn connect_of(bytes: &[u8]) -> Result<Option<(MqttVersion, Packet)>, BadConnect> {
        take_connect(&mut BytesMut::from(bytes))
    }

    fn packet_of(bytes: &[u8], version: MqttVersion) -> Packet {
        let mut read = BytesMut::from(bytes);
        let packet = take_packet(&mut read, version).unwrap().unwrap();
        assert!(read.is_empty());
        packet
    }

    fn written(packet: &Packet, version: MqttVersion) -> BytesMut {
        let mut out = BytesMut::new();
        put_packet(&mut out, packet, version).unwrap();
        out
    }

    #[test]
    fn a_connect_of_3_1_1_is_read_with_its_will_and_login() {
        let bytes = b"\x10\x1b\x00\x04MQTT\x04\xee\x00\x3c\x00\x01c\x00\x01t\x00\x02ok\x00\x02me\x00\x01p";
        let (version, packet) = connect_of(bytes).unwrap().unwrap();
        let Packet::Connect(Connect { keep_alive, client_id, clean_start, properties }, will, auth) = packet
        else {
            panic!("{packet:?}");
        };
        assert_eq!(version, MqttVersion::V3);
        assert_eq!((keep_alive, &*client_id, clean_start, properties), (60, "c", true, None));
        assert_eq!(will, Some(LastWill::new("t", "ok", QoS::AtLeastOnce, true, None)));
        let password = Bytes::from_static(b"p");
        assert_eq!(auth, ConnectAuth::UsernamePassword { username: "me".to_owned(), password });
    }

    #[test]
    fn what_is_no_connect_of_ours_is_told_apart() {
        assert_eq!(connect_of(b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00"), Err(BadConnect::Level(3)));
        assert_eq!(connect_of(b"\x10\x0c\x00\x04MQTT\x06\x02\x00\x3c\x00\x00"), Err(BadConnect::Level(6)));
        assert_eq!(connect_of(b"GET / HTTP/1.1\r\n\r\n"), Err(BadConnect::Malformed));
        assert_eq!(connect_of(b"\x16\x03\x01\x02\x00"), Err(BadConnect::Malformed), "TLS");
        assert_eq!(connect_of(b"\x10\x00"), Err(BadConnect::Malformed));
        assert_eq!(connect_of(b"\x10\xff\xff\xff\x7f"), Err(BadConnect::Malformed), "too large");
        assert_eq!(connect_of(b""), Ok(None));
        let whole = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00";
        for length in 0..whole.len() {
            assert_eq!(connect_of(&whole[..length]), Ok(None), "{length}");
        }
        assert!(connect_of(whole).unwrap().is_some());
    }

    #[test]
    fn packets_of_3_1_1_are_read() {
        let publish = packet_of(b"\x3b\x07\x00\x01t\x00\x09ok", MqttVersion::V3);
        let expected =
            Publish { dup: true, retain: true, pkid: 9, ..Publish::new("t", QoS::AtLeastOnce, "ok", None) };
        assert_eq!(publish, Packet::Publish(expected));
        let Packet::Subscribe(subscribe) = packet_of(b"\x82\x06\x00\x09\x00\x01t\x02", MqttVersion::V3)
        else {
            panic!();
        };
        assert_eq!((subscribe.pkid, &*subscribe.filters[0].path), (9, "t"));
        assert_eq!(subscribe.filters[0].qos, QoS::ExactlyOnce);
        let Packet::Unsubscribe(unsubscribe) = packet_of(b"\xa2\x05\x00\x09\x00\x01t", MqttVersion::V3)
        else {
            panic!();
        };
        assert_eq!((unsubscribe.pkid, unsubscribe.filters), (9, vec!["t".to_owned()]));
        assert_eq!(packet_of(b"\x62\x02\x00\x09", MqttVersion::V3), Packet::PubRel(PubRel::new(9, None)));
        assert_eq!(packet_of(b"\xc0\x00", MqttVersion::V3), Packet::PingReq);
        assert!(matches!(packet_of(b"\xe0\x00", MqttVersion::V3), Packet::Disconnect(_)));
        for wrong in [
            &b"\x82\x06\x00\x09\x00\x01t\x04"[..],
            b"\xf0\x02\x00\x00",
            b"\x32\x03\x00\x01t",
            b"\x30\x01\x00",
            b"\x10\x03abc",
        ] {
            assert!(take_packet(&mut BytesMut::from(wrong), MqttVersion::V3).is_err(), "{wrong:x?}");
        }
    }

    #[test]
    fn packets_of_3_1_1_are_written() {
        let old = |packet| written(&packet, MqttVersion::V3).to_vec();
        let ack =
            |session_present, code| Packet::ConnAck(ConnAck { session_present, code, properties: None });
        assert_eq!(old(ack(true, ConnectReturnCode::Success)), [0x20, 2, 1, 0]);
        assert_eq!(old(ack(false, ConnectReturnCode::BadUserNamePassword)), [0x20, 2, 0, 4]);
        assert_eq!(old(ack(false, ConnectReturnCode::QuotaExceeded)), [0x20, 2, 0, 3]);
        let publish = Publish { pkid: 9, retain: true, ..Publish::new("t", QoS::ExactlyOnce, "ok", None) };
        assert_eq!(old(Packet::Publish(publish)), b"\x35\x07\x00\x01t\x00\x09ok");
        let publish = Publish::new("t", QoS::AtMostOnce, vec![0; 200], None);
        assert_eq!(old(Packet::Publish(publish))[..6], *b"\x30\xcb\x01\x00\x01t");
        assert_eq!(old(Packet::PubAck(PubAck::new(9, None))), [0x40, 2, 0, 9]);
        assert_eq!(old(Packet::PubRec(PubRec::new(9, None))), [0x50, 2, 0, 9]);
        assert_eq!(old(Packet::PubRel(PubRel::new(9, None))), [0x62, 2, 0, 9]);
        assert_eq!(old(Packet::PubComp(PubComp::new(9, None))), [0x70, 2, 0, 9]);
        let codes = vec![SubscribeReasonCode::Success(QoS::ExactlyOnce), SubscribeReasonCode::QuotaExceeded];
        let suback = SubAck { pkid: 9, return_codes: codes, properties: None };
        assert_eq!(old(Packet::SubAck(suback)), [0x90, 4, 0, 9, 2, 0x80]);
        let reasons = vec![UnsubAckReason::Success];
        assert_eq!(old(Packet::UnsubAck(UnsubAck { pkid: 9, reasons, properties: None })), [0xb0, 2, 0, 9]);
        assert_eq!(old(Packet::PingResp), [0xd0, 0]);
        let disconnect = Disconnect::new(DisconnectReasonCode::ServerShuttingDown);
        assert_eq!(old(Packet::Disconnect(disconnect)), b"", "3.1.1 has none from a server");
    }

    #[test]
    fn a_packet_that_lies_about_its_content_is_an_error_and_not_waited_for() {
        // Its length is 3, and the topic in it has 9 bytes.
        let lie = b"\x30\x03\x00\x09t\x30\x00";
        for version in [MqttVersion::V3, MqttVersion::V5] {
            assert!(take_packet(&mut BytesMut::from(&lie[..]), version).is_err());
        }
    }

    proptest! {
        /// Whatever comes: no panic. Small numbers, and a length that is right, get deepest into a packet.
        #[test]
        fn garbage_is_an_error(
            first in any::<u8>(),
            body in prop::collection::vec(prop_oneof![3 => 0u8..12, 1 => any::<u8>()], 0..100),
            tail in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let length = u8::try_from(body.len()).unwrap();
            for version in [MqttVersion::V3, MqttVersion::V5] {
                let mut read = BytesMut::from(&[&[first, length], &*body, &*tail].concat()[..]);
                while let Ok(Some(_)) = take_packet(&mut read, version) {}
                let level = if version == MqttVersion::V3 { 4 } else { 5 };
                let head = [&[0x10, length + 7][..], b"\x00\x04MQTT", &[level]].concat();
                let _ = take_connect(&mut BytesMut::from(&[head, body.clone()].concat()[..]));
            }
        }
    }
}
