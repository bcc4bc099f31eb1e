//! Parses a reply to discovery, in either of its two forms: XOR from UDP 9999, or TDP from UDP 20002. Pure.

use super::tdp;
use hs100d_core::bridge::event::DiscoveryReply;
use hs100d_core::smarthome::cipher;
use hs100d_core::smarthome::message::{Reply, Request};

/// Parses a datagram, which is decrypted in place; `None` if no plug wrote it.
pub fn parse(datagram: &mut [u8]) -> Option<DiscoveryReply> {
    if let Some(device) = tdp::parse(datagram) {
        return Some(DiscoveryReply::Tdp(device));
    }
    cipher::decrypt(datagram);
    match Request::SysInfo.read_reply(datagram, None) {
        Ok(Reply::SysInfo(reading)) => Some(DiscoveryReply::SysInfo(Box::new(reading))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xor_reply_is_parsed() {
        let mut datagram =
            br#"{"system":{"get_sysinfo":{"deviceId":"8006000000000000000000000000000000000001",
            "relay_state":1,"alias":"Lamp","mac":"50:C7:BF:00:00:01"}}}"#
                .to_vec();
        cipher::encrypt(&mut datagram);
        let Some(DiscoveryReply::SysInfo(reading)) = parse(&mut datagram) else { panic!("not parsed") };
        assert_eq!(&*reading.device.alias, "Lamp");
    }

    #[test]
    fn a_datagram_that_no_plug_wrote_is_nothing() {
        let mut error =
            br#"{"system":{"get_sysinfo":{"err_code":-1,"err_msg":"module not support"}}}"#.to_vec();
        cipher::encrypt(&mut error);
        for datagram in [&b""[..], b"{}", b"M-SEARCH * HTTP/1.1", &[0; 20], &[0xff; 2000], &error] {
            assert_eq!(parse(&mut datagram.to_vec()), None, "{datagram:?}");
        }
    }
}
