//! The newer discovery, which plugs of newer firmware answer on UDP 20002: sixteen bytes of header with a checksum,
//! then plain JSON. Pure.
//!
//! Only so much of it as tells who is there and that another language is spoken; the language itself is not here.

use crate::bridge::event::UnsupportedDevice;
use crate::model::Mac;
use crate::smarthome::lenient::{Fields, repaired};

/// The bytes before the JSON.
const HEADER: usize = 16;
/// Where the checksum stands.
const SUM: std::ops::Range<usize> = 12..16;
/// Stands in the checksum's place while the checksum is computed.
const UNSUMMED: u32 = 0x5A6B_7C8D;

/// The shortest probe: version 2, operation 1, no payload, and the checksum of just that. Older firmwares answer it.
pub(super) const SHORT_PROBE: [u8; HEADER] = [2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x46, 0x3c, 0xb5, 0xd3];

/// What newer firmwares want to be asked with: a public key, with which some encrypt a part of their answer that is
/// not read here. Its private half was thrown away.
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

/// The longer probe. Numbered, so that no two rounds look the same.
pub(super) fn key_probe(number: u32) -> Vec<u8> {
    probe(number, KEY_PAYLOAD)
}

/// Reads an answer; `None` for what is none. Nobody checks the sixteen bytes before the JSON, and firmwares differ.
pub(super) fn read(datagram: &[u8]) -> Option<UnsupportedDevice> {
    let json = datagram.get(HEADER..).filter(|json| json.first() == Some(&b'{'))?;
    let text = String::from_utf8_lossy(json);
    read_json(&text).or_else(|| read_json(&repaired(&text)?))
}

/// Each field by itself; a device that says neither what it is nor its MAC says nothing.
fn read_json(text: &str) -> Option<UnsupportedDevice> {
    let mut result = serde_json::from_str::<Fields<'_>>(text).ok()?.object("result")?;
    let encryption = result.object("mgt_encrypt_schm");
    let device = UnsupportedDevice {
        mac: Mac::new(&result.text("mac")),
        kind: result.text("device_type").into(),
        model: result.text("device_model").into(),
        encryption: encryption.map_or_else(Box::default, |mut it| it.text("encrypt_type").into()),
    };
    (device.mac.is_some() || !device.kind.is_empty()).then_some(device)
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

/// CRC-32 (IEEE), bit by bit: it is computed once a round.
fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &str) -> Option<UnsupportedDevice> {
        read(&[&[2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], json.as_bytes()].concat())
    }

    #[test]
    fn an_answer_tells_who_is_there_and_what_it_speaks() {
        let device = answer(
            r#"{"error_code":0,"result":{"device_id":"00","device_type":"IOT.SMARTPLUGSWITCH",
            "device_model":"HS100(UK)","mac":"CC-32-E5-00-00-01","mgt_encrypt_schm":{"encrypt_type":"KLAP"}}}"#,
        )
        .unwrap();
        assert_eq!((device.mac, &*device.encryption), (Mac::new("CC32E5000001"), "KLAP"));
        assert_eq!((&*device.kind, &*device.model), ("IOT.SMARTPLUGSWITCH", "HS100(UK)"));
    }

    #[test]
    fn what_some_families_leave_out_or_write_otherwise_does_no_harm() {
        let device =
            answer(r#"{"result":{"device_type":"SMART.\u0054APOPLUG","mac":"CC32E5000001"}}"#).unwrap();
        assert_eq!((&*device.kind, &*device.model, &*device.encryption), ("SMART.TAPOPLUG", "", ""));
        for json in ["", "{}", "{", r#"{"result":{}}"#, r#"{"error_code":-1}"#, r#"{"result":{"mac":1}}"#] {
            assert_eq!(answer(json), None, "{json}");
        }
        assert_eq!(read(&SHORT_PROBE), None, "our own question is no answer");
    }

    #[test]
    fn one_odd_field_does_not_hide_the_device() {
        let whole = r#"{"result":{"device_type":"SMART.TAPOPLUG","device_model":"P100","mac":"CC32E5000001",
            "mgt_encrypt_schm":{"encrypt_type":"AES"}}}"#;
        let sound = answer(whole).unwrap();
        for (one, other) in [
            (r#""P100""#, "null"),
            (r#""P100""#, "\"a\nb\""),
            (r#"{"encrypt_type":"AES"}"#, "null"),
            (r#""CC32E5000001""#, "[]"),
            (r#""SMART.TAPOPLUG""#, "null"),
            (r#""P100""#, r#""P100","mac":"CC32E5000001""#),
            (r#""P100""#, r#""\ud83d""#),
        ] {
            let odd = answer(&whole.replace(one, other)).unwrap();
            let is_named = odd.mac == sound.mac || odd.kind == sound.kind;
            assert!(
                is_named && (odd.encryption == sound.encryption || one.starts_with('{')),
                "{other}: {odd:?}"
            );
        }
    }

    /// Both computed by a program that somebody else wrote.
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
    fn the_longer_probe_is_json_with_a_key_in_it() {
        let probe = key_probe(7);
        let announced = usize::from(u16::from_be_bytes([probe[4], probe[5]]));
        assert_eq!(announced, probe.len() - HEADER);
        let json: serde_json::Value = serde_json::from_slice(&probe[HEADER..]).unwrap();
        let key = json["params"]["rsa_key"].as_str().unwrap();
        assert!(
            key.starts_with("-----BEGIN PUBLIC KEY-----\n") && key.ends_with("-----END PUBLIC KEY-----\n")
        );
    }
}
