//! The newer discovery on UDP 20002: sixteen bytes of header with a checksum, then plain JSON. Pure.
//!
//! A simulated plug answers only a correct probe, so that a wrong one of ours shows.

use std::net::IpAddr;

use serde_json::json;

use crate::sim::plug::SimPlug;

/// Bytes of the header.
const HEADER_LEN: usize = 16;
/// Stands in the checksum's host while the checksum is computed.
const UNSUMMED: u32 = 0x5A6B_7C8D;
/// Where the checksum stands.
const SUM: std::ops::Range<usize> = 12..16;
/// MD5 of no text: the owner of a plug without an account.
const NO_OWNER: &str = "D41D8CD98F00B204E9800998ECF8427E";

/// Answers a probe; nothing else.
pub(super) fn answer(probe: &[u8], plug: &SimPlug, here: IpAddr) -> Option<Vec<u8>> {
    is_probe(probe).then(|| {
        let body = json!({"error_code": 0, "result": {
            "device_id": plug.device_id[plug.device_id.len() - 32..].to_lowercase(),
            "owner": NO_OWNER,
            "device_type": plug.model.kind,
            "device_model": plug.model.name,
            "hw_ver": plug.model.hw_ver,
            "ip": here.to_string(),
            "mac": plug.mac.replace(':', "-"),
            "factory_default": false,
            "mgt_encrypt_schm": {
                "is_support_https": false, "encrypt_type": "KLAP", "http_port": 80, "lv": 2, "new_klap": 1
            },
        }});
        datagram(body.to_string().as_bytes())
    })
}

fn is_probe(probe: &[u8]) -> bool {
    let Some((header, payload)) = probe.split_at_checked(HEADER_LEN) else { return false };
    let announced = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // Version 2, message type 0, op code 1.
    header[..4] == [2, 0, 0, 1] && announced == payload.len() && header[SUM] == checksum(probe).to_be_bytes()
}

fn datagram(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = vec![2, 0, 0, 1, length[0], length[1], 17, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(payload);
    let sum = checksum(&bytes).to_be_bytes();
    bytes[SUM].copy_from_slice(&sum);
    bytes
}

/// CRC-32 (IEEE) over the whole datagram, with [`UNSUMMED`] in its own host.
fn checksum(datagram: &[u8]) -> u32 {
    let [a, b, c, d] = UNSUMMED.to_be_bytes();
    let stand_in = [a, b, c, d];
    let bytes = datagram[..SUM.start].iter().chain(&stand_in).chain(&datagram[SUM.end..]);
    !bytes.fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use super::*;
    use crate::sim::model::Model;

    const SHORT_PROBE: [u8; 16] = [2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x46, 0x3c, 0xb5, 0xd3];

    /// Serial 0x01020304 and `{"params":{"rsa_key":"X"}}`, computed independently of this code.
    fn key_probe() -> Vec<u8> {
        let mut probe = vec![2, 0, 0, 1, 0, 0x1a, 0x11, 0, 1, 2, 3, 4, 0xcc, 0xe1, 0xd1, 0xf9];
        probe.extend_from_slice(br#"{"params":{"rsa_key":"X"}}"#);
        probe
    }

    #[test]
    fn right_probes_are_told_from_wrong_ones() {
        assert!(is_probe(&SHORT_PROBE));
        assert!(is_probe(&key_probe()));
        for host in 0..SHORT_PROBE.len() {
            let mut wrong = SHORT_PROBE;
            wrong[host] ^= 1;
            assert!(!is_probe(&wrong), "byte {host}");
        }
        assert!(!is_probe(&SHORT_PROBE[..15]));
        assert!(!is_probe(&key_probe()[..20]));
        assert!(!is_probe(b""));
    }

    #[test]
    fn the_answer_names_the_plug() {
        let plug = SimPlug::new(Model::HS100_HW4, 7, "Lamp", Instant::now());
        let bytes = answer(&SHORT_PROBE, &plug, Ipv4Addr::LOCALHOST.into()).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&bytes[HEADER_LEN..]).unwrap();
        assert_eq!(body["result"]["mac"], "50-C7-BF-00-00-07");
        assert_eq!(body["result"]["mgt_encrypt_schm"]["encrypt_type"], "KLAP");
        assert!(is_probe(&bytes), "it carries its own checksum");
    }
}
