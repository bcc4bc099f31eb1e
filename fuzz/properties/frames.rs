//! The TCP frame and the cipher: any input is parsed in the same way, however it is split.

use hs100d::smarthome::cipher::{self, KEY};
use hs100d::smarthome::frame::{self, Frame, HEADER_LEN, MAX_PAYLOAD};

/// The input is the bytes of a connection.
pub fn hold(stream: &[u8]) {
    every_cut_is_judged_alike(stream);
    frames_come_out_the_same_however_they_came_in(stream);
    what_is_built_is_read_back(stream);
    the_cipher_is_its_own_definition(stream);
}

/// The result for a part of the stream agrees with the result for all of it.
fn every_cut_is_judged_alike(stream: &[u8]) {
    let whole = frame::parse(stream);
    for cut in 0..stream.len() {
        match frame::parse(&stream[..cut]) {
            Frame::Incomplete(missing) => {
                assert!(missing >= 1 && cut + missing <= HEADER_LEN + MAX_PAYLOAD, "{missing} after {cut}");
                if let Frame::Whole { end } = whole {
                    assert!(cut < end && cut + missing <= end, "{missing} after {cut} of {end}");
                }
            }
            judged => assert_eq!(judged, whole, "the first {cut} bytes"),
        }
    }
    match whole {
        Frame::Whole { end } => {
            assert!(end >= HEADER_LEN && end <= stream.len() && end <= HEADER_LEN + MAX_PAYLOAD);
            assert_eq!(&stream[..HEADER_LEN], u32::try_from(end - HEADER_LEN).unwrap().to_be_bytes());
        }
        Frame::TooLarge(announced) => {
            assert!(announced as usize > MAX_PAYLOAD);
            assert_eq!(&stream[..HEADER_LEN], announced.to_be_bytes());
        }
        Frame::Incomplete(missing) => {
            let mut more = stream.to_vec();
            more.resize(stream.len() + missing, 0);
            assert!(!matches!(frame::parse(&more), Frame::Incomplete(_)) || stream.len() < HEADER_LEN);
        }
    }
}

/// All payloads of a stream that arrives in pieces of this many bytes, read as the LAN transport does.
fn payloads(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, Frame) {
    let (mut buffer, mut found) = (Vec::new(), Vec::new());
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        while let Frame::Whole { end } = frame::parse(&buffer) {
            let rest = buffer.split_off(end);
            found.push(std::mem::replace(&mut buffer, rest).split_off(HEADER_LEN));
        }
    }
    let left = frame::parse(&buffer);
    (found, left)
}

fn frames_come_out_the_same_however_they_came_in(stream: &[u8]) {
    let at_once = payloads(stream, stream.len().max(1));
    for piece in [1, 2, 3, 5, 7] {
        assert_eq!(payloads(stream, piece), at_once, "in pieces of {piece}");
    }
}

fn what_is_built_is_read_back(payload: &[u8]) {
    let mut buffer = b"left over".to_vec();
    frame::build(&mut buffer, |out| out.extend_from_slice(payload));
    if payload.len() > MAX_PAYLOAD {
        return;
    }
    assert_eq!(frame::parse(&buffer), Frame::Whole { end: buffer.len() });
    let mut read = buffer.split_off(HEADER_LEN);
    cipher::decrypt(&mut read);
    assert_eq!(read, payload);
}

/// Each byte of cipher text is the XOR of the plain byte and the cipher byte before it.
fn the_cipher_is_its_own_definition(plain: &[u8]) {
    let mut veiled = plain.to_vec();
    cipher::encrypt(&mut veiled);
    let keys = std::iter::once(&KEY).chain(&veiled);
    for ((&plain, &key), &veiled) in plain.iter().zip(keys).zip(&veiled) {
        assert_eq!(veiled, plain ^ key);
    }
    let mut read = plain.to_vec();
    cipher::decrypt(&mut read);
    cipher::encrypt(&mut read);
    assert_eq!(read, plain, "encrypting undoes decrypting");
}
