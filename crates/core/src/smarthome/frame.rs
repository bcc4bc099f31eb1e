//! The TCP frame: four bytes of big-endian length, then that many encrypted bytes. Pure: bytes in, bytes out.

use super::cipher;

/// Bytes of the length word.
pub const HEADER_LEN: usize = 4;

/// The longest payload that is accepted, in bytes. The longest known replies have about 16 kB (a strip with its
/// statistics).
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// What the bytes received so far begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// The frame is incomplete: it needs at least this many more bytes.
    Incomplete(usize),
    /// The length word announces more than [`MAX_PAYLOAD`].
    TooLarge(u32),
    /// The frame is complete; its payload, still encrypted, is `bytes[HEADER_LEN..end]`.
    Whole {
        /// The end of the frame.
        end: usize,
    },
}

/// Parses the start of `bytes`. Allocates nothing, whatever the length word says.
pub fn parse(bytes: &[u8]) -> Frame {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Frame::Incomplete(HEADER_LEN - bytes.len());
    };
    let announced = u32::from_be_bytes(*header);
    let payload_len = announced as usize;
    if payload_len > MAX_PAYLOAD {
        return Frame::TooLarge(announced);
    }
    match (HEADER_LEN + payload_len).checked_sub(bytes.len()) {
        None | Some(0) => Frame::Whole { end: HEADER_LEN + payload_len },
        Some(missing) => Frame::Incomplete(missing),
    }
}

/// Replaces the contents of `buffer` by one frame with the payload that `write_payload` appends.
///
/// Requests have a few hundred bytes, so the length always fits into a `u32`.
pub fn build(buffer: &mut Vec<u8>, write_payload: impl FnOnce(&mut Vec<u8>)) {
    buffer.clear();
    buffer.extend_from_slice(&[0; HEADER_LEN]);
    write_payload(buffer);
    let payload_len = u32::try_from(buffer.len() - HEADER_LEN).unwrap_or(u32::MAX);
    buffer[..HEADER_LEN].copy_from_slice(&payload_len.to_be_bytes());
    cipher::encrypt(&mut buffer[HEADER_LEN..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain text and TCP frame, computed independently of this code.
    const VECTORS: [(&str, &str); 10] = [
        ("", "00000000"),
        ("{}", "00000002d0ad"),
        (
            r#"{"system":{"get_sysinfo":{}}}"#,
            "0000001dd0f281f88bff9af7d5ef94b6d1b4c09fec95e68fe187e8caf08bf68bf6",
        ),
        (
            r#"{"system":{"get_sysinfo":null}}"#,
            "0000001fd0f281f88bff9af7d5ef94b6d1b4c09fec95e68fe187e8caf09eeb87eb96eb",
        ),
        (
            r#"{"system":{"set_relay_state":{"state":1}}}"#,
            "0000002ad0f281f88bff9af7d5ef94b6c5a0d48bf99cf091e8b7c4b0d1a5c0e2d8a381f286e793f6d4eedfa2dfa2",
        ),
        (
            r#"{"system":{"set_relay_state":{"state":0}}}"#,
            "0000002ad0f281f88bff9af7d5ef94b6c5a0d48bf99cf091e8b7c4b0d1a5c0e2d8a381f286e793f6d4eedea3dea3",
        ),
        (
            r#"{"emeter":{"get_realtime":{}}}"#,
            "0000001ed0f297fa9feb8efcdee49fbddabfcb94e683e28efa93fe9bb983f885f885",
        ),
        (
            r#"{"system":{"set_dev_alias":{"alias":"Küche ☕"}}}"#,
            "00000033d0f281f88bff9af7d5ef94b6c5a0d48bef8afca3c2aec7a6d5f7cdb694f599f091e2c0fad89350ec8fe782a240d84d6f126f12",
        ),
        (
            r#"{"context":{"child_ids":["00"]},"system":{"set_relay_state":{"state":1}}}"#,
            "00000049d0f291fe90e481f98daf95eeccafc7aec2a6f990f487a59fc4e6d6e6c499e4c8ea99e093e782efcdf78caeddb8cc93e184e889f0afdca8c9bdd8fac0bb99ea9eff8beeccf6c7bac7ba",
        ),
        (
            r#"{"system":{"set_relay_state":{"err_code":0}}}"#,
            "0000002dd0f281f88bff9af7d5ef94b6c5a0d48bf99cf091e8b7c4b0d1a5c0e2d8a381e496e4bbd8b7d3b694ae9ee39ee3",
        ),
    ];

    fn bytes_of(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_vectors_are_built_to_the_byte() {
        for (plain, hex) in VECTORS {
            let mut buffer = b"left over".to_vec();
            build(&mut buffer, |out| out.extend_from_slice(plain.as_bytes()));
            assert_eq!(buffer, bytes_of(hex), "{plain}");
        }
    }

    #[test]
    fn the_vectors_are_read_back_however_they_are_cut() {
        for (plain, hex) in VECTORS {
            let whole = bytes_of(hex);
            for cut in 0..whole.len() {
                let Frame::Incomplete(missing) = parse(&whole[..cut]) else { panic!("{plain} cut at {cut}") };
                assert!(missing >= 1 && cut + missing <= whole.len(), "{plain} cut at {cut}: {missing}");
            }
            let mut received = whole.clone();
            received.extend_from_slice(b"the next frame");
            let Frame::Whole { end } = parse(&received) else { panic!("{plain}") };
            assert_eq!(end, whole.len());
            cipher::decrypt(&mut received[HEADER_LEN..end]);
            assert_eq!(&received[HEADER_LEN..end], plain.as_bytes());
        }
    }

    #[test]
    fn a_length_word_beyond_the_limit_is_refused_from_its_four_bytes() {
        assert_eq!(parse(&[0, 1, 0, 1]), Frame::TooLarge(65537));
        assert_eq!(parse(&[0xff; 4]), Frame::TooLarge(u32::MAX));
        assert_eq!(parse(&[0, 1, 0, 0]), Frame::Incomplete(MAX_PAYLOAD));
    }
}
