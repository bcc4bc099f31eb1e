//! What a datagram says that came back, in either of the two forms. Pure.

use super::tdp;
use crate::bridge::event::DiscoveryReply;
use crate::smarthome::cipher;
use crate::smarthome::message::{Reply, Request};

/// Reads a datagram, which is overwritten on the way; `None` for what is no plug's answer.
pub fn understand(datagram: &mut [u8]) -> Option<DiscoveryReply> {
    if let Some(device) = tdp::read(datagram) {
        return Some(DiscoveryReply::Other(device));
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
    fn an_xor_answer_is_understood() {
        let mut datagram =
            br#"{"system":{"get_sysinfo":{"deviceId":"8006000000000000000000000000000000000001",
            "relay_state":1,"alias":"Lamp","mac":"50:C7:BF:00:00:01"}}}"#
                .to_vec();
        cipher::encrypt(&mut datagram);
        let Some(DiscoveryReply::SysInfo(reading)) = understand(&mut datagram) else {
            panic!("not understood")
        };
        assert_eq!(&*reading.device.alias, "Lamp");
    }

    #[test]
    fn what_is_no_plugs_answer_is_nothing() {
        let mut error =
            br#"{"system":{"get_sysinfo":{"err_code":-1,"err_msg":"module not support"}}}"#.to_vec();
        cipher::encrypt(&mut error);
        for datagram in [&b""[..], b"{}", b"M-SEARCH * HTTP/1.1", &[0; 20], &[0xff; 2000], &error] {
            assert_eq!(understand(&mut datagram.to_vec()), None, "{datagram:?}");
        }
    }
}
