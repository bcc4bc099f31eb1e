//! TDP, the discovery of newer firmwares on UDP 20002: a header of sixteen bytes with a checksum, then plain JSON. Pure.
//!
//! Parses who replied and which protocol the device speaks; the protocol itself is `transport/lan`'s.

use hs100d_core::bridge::event::TdpReply;
use hs100d_core::klap_hashes::OwnerHash;
use hs100d_core::model::Mac;
use hs100d_core::smarthome::lenient::{Fields, repaired};

/// The bytes before the JSON.
const HEADER: usize = 16;
/// The bytes of the checksum.
const SUM: std::ops::Range<usize> = 12..16;
/// What these bytes hold while the checksum is computed.
const UNSUMMED: u32 = 0x5A6B_7C8D;

/// The short probe: version 2, operation 1, no payload, and the checksum. Older KLAP firmwares reply to it.
pub(super) const SHORT_PROBE: [u8; HEADER] = [2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x46, 0x3c, 0xb5, 0xd3];

/// The payload that newer firmwares require: a public key, with which some encrypt a part of their reply that we do not
/// need. Nobody has the private key.
const KEY_PAYLOAD: &[u8] = concat!(
    r#"{"params":{"rsa_key":"-----BEGIN PUBLIC KEY-----\n"#,
    r#"MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAsZjvoeQxkSqwytdirIDM\n"#,
    r#"h+u+lnFhTbdgBLm6XUIZvq1/H/QeMUuDLPSlm5pmxmC8TjYFRHNA5CPnhtneoIfX\n"#,
    r#"KBQJ4TMn5T2BfRgLRTM6uk0hFlDXDijQfD1Mm+/STCe3QVKMNXtRK67RbNAXod3Z\n"#,
    r#"kjg6e5ZRAjhQ4e0IXrdBNgINgp6FpCvYTjSQv7N3RzBoXHdLP7dtyQ3GfyQC+krD\n"#,
    r#"snPHwmKImmJi/M2QTHV0xssSoDY6C5AfOsFOuFD5ep42cYGH6S5GoiuiPZhVEDlj\n"#,
    r#"n0aeETXz0IkvwpYKX903gwJpXE8AgbVID+ZR/La7aRxqseSs3UxMXw0/1PZIRUqy\n"#,
    r#"lQIDAQAB\n"#,
    r#"-----END PUBLIC KEY-----\n"}}"#,
)
.as_bytes();

/// The probe with the key. The number is its serial.
pub(super) fn key_probe(number: u32) -> Vec<u8> {
    probe(number, KEY_PAYLOAD)
}

/// Parses a reply. Its header is not checked: firmwares differ in it, and no client checks it.
pub(super) fn parse(datagram: &[u8]) -> Option<TdpReply> {
    let json = datagram.get(HEADER..).filter(|json| json.first() == Some(&b'{'))?;
    let text = String::from_utf8_lossy(json);
    parse_json(&text).or_else(|| parse_json(&repaired(&text)?))
}

/// Each field by itself, so that one odd field does not spoil the others. A reply with neither kind nor MAC is no reply.
fn parse_json(text: &str) -> Option<TdpReply> {
    let mut result = serde_json::from_str::<Fields<'_>>(text).ok()?.object("result")?;
    let mut scheme = result.object("mgt_encrypt_schm").unwrap_or_default();
    let reply = TdpReply {
        mac: Mac::new(&result.text("mac")),
        kind: result.text("device_type").into(),
        model: result.text("device_model").into(),
        encryption: scheme.text("encrypt_type").into(),
        port: scheme.value("http_port").filter(|port| *port != 0),
        owner: OwnerHash::new(&result.text("owner")),
    };
    (reply.mac.is_some() || !reply.kind.is_empty()).then_some(reply)
}

fn probe(number: u32, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    // Version 2, message type 0, operation 1 (two bytes), length (two bytes), flags 17, nothing.
    let mut bytes = vec![2, 0, 0, 1, high, low, 17, 0];
    bytes.extend(number.to_be_bytes());
    bytes.extend(UNSUMMED.to_be_bytes());
    bytes.extend_from_slice(payload);
    let sum = crc32(&bytes).to_be_bytes();
    bytes[SUM].copy_from_slice(&sum);
    bytes
}

/// CRC-32 (IEEE), bit by bit, since it is computed only once a round.
fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(json: &str) -> Option<TdpReply> {
        parse(&[&[2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], json.as_bytes()].concat())
    }

    #[test]
    fn a_reply_says_which_device_and_which_protocol_it_is() {
        let device = reply(
            r#"{"error_code":0,"result":{"device_id":"00","device_type":"IOT.SMARTPLUGSWITCH",
            "device_model":"HS100(UK)","mac":"CC-32-E5-00-00-01","owner":"B58996C504C5638798EB6B511E6F49AF",
            "mgt_encrypt_schm":{"encrypt_type":"KLAP","http_port":8080}}}"#,
        )
        .unwrap();
        assert_eq!((device.mac, &*device.encryption), (Mac::new("CC32E5000001"), "KLAP"));
        assert_eq!(
            (device.port, device.owner),
            (Some(8080), OwnerHash::new("B58996C504C5638798EB6B511E6F49AF"))
        );
        assert_eq!((&*device.kind, &*device.model), ("IOT.SMARTPLUGSWITCH", "HS100(UK)"));
    }

    #[test]
    fn missing_and_escaped_fields_are_accepted() {
        let device =
            reply(r#"{"result":{"device_type":"SMART.\u0054APOPLUG","mac":"CC32E5000001"}}"#).unwrap();
        assert_eq!((&*device.kind, &*device.model, &*device.encryption), ("SMART.TAPOPLUG", "", ""));
        assert_eq!((device.port, device.owner), (None, None));
        for json in ["", "{}", "{", r#"{"result":{}}"#, r#"{"error_code":-1}"#, r#"{"result":{"mac":1}}"#] {
            assert_eq!(reply(json), None, "{json}");
        }
        assert_eq!(parse(&SHORT_PROBE), None, "our own probe is no reply");
    }

    #[test]
    fn one_odd_field_does_not_hide_the_device() {
        let whole = r#"{"result":{"device_type":"SMART.TAPOPLUG","device_model":"P100","mac":"CC32E5000001",
            "mgt_encrypt_schm":{"encrypt_type":"AES"}}}"#;
        let sound = reply(whole).unwrap();
        for (one, other) in [
            (r#""P100""#, "null"),
            (r#""P100""#, "\"a\nb\""),
            (r#"{"encrypt_type":"AES"}"#, "null"),
            (r#""CC32E5000001""#, "[]"),
            (r#""SMART.TAPOPLUG""#, "null"),
            (r#""P100""#, r#""P100","mac":"CC32E5000001""#),
            (r#""P100""#, r#""\ud83d""#),
        ] {
            let odd = reply(&whole.replace(one, other)).unwrap();
            let is_named = odd.mac == sound.mac || odd.kind == sound.kind;
            assert!(
                is_named && (odd.encryption == sound.encryption || one.starts_with('{')),
                "{other}: {odd:?}"
            );
        }
    }

    /// Both computed by another program.
    #[test]
    fn probes_carry_the_checksum_that_plugs_check() {
        let payload = br#"{"params":{"rsa_key":"X"}}"#;
        let expected =
            [&[2, 0, 0, 1, 0, 0x1a, 0x11, 0, 1, 2, 3, 4, 0xcc, 0xe1, 0xd1, 0xf9][..], payload].concat();
        assert_eq!(probe(0x0102_0304, payload), expected);
        let mut short = SHORT_PROBE;
        short[SUM].copy_from_slice(&UNSUMMED.to_be_bytes());
        assert_eq!(crc32(&short).to_be_bytes(), SHORT_PROBE[SUM]);
    }

    #[test]
    fn the_key_probe_is_json_with_a_key_in_it() {
        let probe = key_probe(7);
        let length = usize::from(u16::from_be_bytes([probe[4], probe[5]]));
        assert_eq!(length, probe.len() - HEADER);
        let json: serde_json::Value = serde_json::from_slice(&probe[HEADER..]).unwrap();
        let key = json["params"]["rsa_key"].as_str().unwrap();
        assert!(
            key.starts_with("-----BEGIN PUBLIC KEY-----\n") && key.ends_with("-----END PUBLIC KEY-----\n")
        );
    }
}
