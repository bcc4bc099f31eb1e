//! The discovery on UDP 20002 (TDP), for plugs that speak KLAP: a header of sixteen bytes with a checksum, then plain
//! JSON. Pure.
//!
//! A simulated plug answers only a correct probe, so that a mistake in the daemon's probe shows.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::model::SimKlapVersion;
use crate::plug::SimPlug;

/// In bytes.
const HEADER_LEN: usize = 16;
/// Takes the place of the checksum while that is computed.
const UNSUMMED: u32 = 0x5A6B_7C8D;
/// The position of the checksum in the header.
const SUM: std::ops::Range<usize> = 12..16;

/// Answers a probe and nothing else. `here` is the address of KLAP, unless the plug has its own port for it.
pub(super) fn answer(probe: &[u8], plug: &SimPlug, here: SocketAddr) -> Option<Vec<u8>> {
    is_probe(probe).then(|| {
        let body = json!({"error_code": 0, "result": {
            "device_id": plug.device_id[plug.device_id.len() - 32..].to_lowercase(),
            "owner": plug.klap.account.owner(),
            "device_type": plug.model.kind,
            "device_model": plug.model.name,
            "hw_ver": plug.model.hw_ver,
            "ip": here.ip().to_string(),
            "mac": plug.mac.replace(':', "-"),
            "factory_default": false,
            "mgt_encrypt_schm": scheme(plug, here.port()),
        }});
        datagram(body.to_string().as_bytes())
    })
}

/// `mgt_encrypt_schm`: the protocol that the plug wants.
fn scheme(plug: &SimPlug, lan_port: u16) -> Value {
    let klap = &plug.klap;
    let mut scheme = json!({
        "is_support_https": false,
        "encrypt_type": klap.encrypt_type,
        "http_port": klap.port.unwrap_or(lan_port),
    });
    if klap.tells_version && klap.version != SimKlapVersion::V1 {
        (scheme["lv"], scheme["new_klap"]) = (2.into(), 1.into());
    }
    if let Some(preferred) = klap.tpap_preferred {
        scheme["tpap_preferred"] = preferred.into();
    }
    scheme
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

/// CRC-32 (IEEE) over the whole datagram, with [`UNSUMMED`] in place of the checksum.
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
    use crate::model::Model;
    use crate::plug::klap::HeldAccount;

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

    fn reported_by(plug: &SimPlug) -> Value {
        let bytes = answer(&SHORT_PROBE, plug, (Ipv4Addr::LOCALHOST, 8021).into()).unwrap();
        assert!(is_probe(&bytes), "it carries its own checksum");
        serde_json::from_slice::<Value>(&bytes[HEADER_LEN..]).unwrap()["result"].take()
    }

    #[test]
    fn the_answer_names_the_plug_and_its_protocol() {
        let mut plug = SimPlug::new(Model::HS100_HW4, 7, "Lamp", Instant::now());
        let reported = reported_by(&plug);
        assert_eq!((&reported["mac"], &reported["ip"]), (&json!("50-C7-BF-00-00-07"), &json!("127.0.0.1")));
        assert_eq!(reported["owner"], "D41D8CD98F00B204E9800998ECF8427E");
        let v1 = json!({"is_support_https": false, "encrypt_type": "KLAP", "http_port": 8021});
        assert_eq!(reported["mgt_encrypt_schm"], v1);

        plug.klap.version = SimKlapVersion::V2;
        plug.klap.account = HeldAccount::new("user@example.com", "pw");
        let reported = reported_by(&plug);
        assert_eq!(reported["owner"], "B58996C504C5638798EB6B511E6F49AF");
        assert_eq!(
            (&reported["mgt_encrypt_schm"]["lv"], &reported["mgt_encrypt_schm"]["new_klap"]),
            (&json!(2), &json!(1))
        );

        (plug.klap.tells_version, plug.klap.encrypt_type) = (false, "TPAP");
        (plug.klap.port, plug.klap.tpap_preferred) = (Some(8080), Some(true));
        let other = json!({
            "is_support_https": false, "encrypt_type": "TPAP", "http_port": 8080, "tpap_preferred": true
        });
        assert_eq!(reported_by(&plug)["mgt_encrypt_schm"], other);
    }
}
