//! The XOR autokey cipher of TCP and UDP 9999, in place.
//!
//! Each byte is combined with the *encrypted* byte before it. The first one is combined with [`KEY`]; every message, in
//! each direction, starts anew. It neither hides nor authenticates: everyone on the LAN can use it.
//!
//! A byte of plain text depends on only two bytes of cipher text. A byte of cipher text is the XOR of all plain text up
//! to it, which is computed a word at a time.

/// The key for the first byte of each message.
pub const KEY: u8 = 171;

/// Bytes of a word. The first byte of a word is its lowest.
const WORD: usize = size_of::<u64>();
/// Multiplied by a byte, it has that byte in each place of a word.
const IN_EACH_BYTE: u64 = u64::from_le_bytes([1; WORD]);

/// Turns plain text into cipher text.
pub fn encrypt(bytes: &mut [u8]) {
    let mut key = KEY;
    let (words, rest) = bytes.as_chunks_mut::<WORD>();
    for word in words {
        // Each byte becomes the XOR of those before it in the word: first of two, then of four, then of eight.
        let mut sums = u64::from_le_bytes(*word);
        sums ^= sums << 8;
        sums ^= sums << 16;
        sums ^= sums << 32;
        *word = (sums ^ (u64::from(key) * IN_EACH_BYTE)).to_le_bytes();
        key ^= (sums >> 56) as u8;
    }
    for byte in rest {
        *byte ^= key;
        key = *byte;
    }
}

/// Turns cipher text into plain text. No byte depends on the decryption of another one, so the compiler vectorises the
/// loop.
pub fn decrypt(bytes: &mut [u8]) {
    let mut key = KEY;
    for byte in bytes {
        let encrypted = *byte;
        *byte ^= key;
        key = encrypted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The simplest form of the cipher.
    fn encrypted_byte_by_byte(plain: &[u8]) -> Vec<u8> {
        let mut key = KEY;
        let mut next = |byte: &u8| {
            key ^= byte;
            key
        };
        plain.iter().map(&mut next).collect()
    }

    proptest! {
        #[test]
        fn what_was_encrypted_is_decrypted(plain in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let mut bytes = plain.clone();
            encrypt(&mut bytes);
            prop_assert_eq!(&bytes, &encrypted_byte_by_byte(&plain));
            decrypt(&mut bytes);
            prop_assert_eq!(bytes, plain);
        }
    }

    #[test]
    fn every_length_around_a_word_is_encrypted_like_any_other() {
        for length in 0..=3 * WORD {
            let plain: Vec<u8> = (0..length).map(|n| (n * 37) as u8).collect();
            let mut bytes = plain.clone();
            encrypt(&mut bytes);
            assert_eq!(bytes, encrypted_byte_by_byte(&plain), "{length}");
            decrypt(&mut bytes);
            assert_eq!(bytes, plain, "{length}");
        }
    }

    #[test]
    fn the_first_byte_is_combined_with_the_key() {
        let mut bytes = *b"{}";
        encrypt(&mut bytes);
        assert_eq!(bytes, [0xd0, 0xad]);
    }
}
